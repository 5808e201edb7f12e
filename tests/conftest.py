"""Fixtures that the whole suite shares."""

from tests.vllm_fixture import vllm_host

__all__ = ["vllm_host"]
