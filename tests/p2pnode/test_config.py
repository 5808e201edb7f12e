"""File under environment under flags, and one clear line for what is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from p2pnode.config import (
    FLAGS,
    KEYS,
    Config,
    ConfigError,
    ModelConfig,
    is_loopback,
    load_config,
    reached_here,
    split_host_port,
)
from protocol.settings import PROFILES


def load(text: str | None, tmp_path: Path, environ: dict[str, str] | None = None, **flags: Any) -> Config:
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_text(text)
    return load_config(path, flags, environ or {})


def test_the_defaults_are_those_of_the_interface(tmp_path: Path) -> None:
    config = load(None, tmp_path)
    assert config.network.listen == ("/ip4/0.0.0.0/tcp/4411",)
    assert (config.http.api, config.engine.kind, config.engine.mock_gpu) == ("127.0.0.1:8411", "auto", "RTX 4090")
    assert (config.node.profile, config.node.policy, config.http.no_auth) == ("wan", "expected-seconds", False)
    assert config.settings is PROFILES["wan"]
    assert config.api_address == ("127.0.0.1", 8411)
    assert config.origin("http.api") == "default"


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    text = 'version = 1\n[node]\nname = "file"\nregion = "file"\nowner = "file"\n'
    environ = {"P2PNODE_NODE__REGION": "env", "P2PNODE_NODE__OWNER": "env"}
    config = load(text, tmp_path, environ, owner="flag", name=None, bootstrap=())
    assert (config.node.name, config.node.region, config.node.owner) == ("file", "env", "flag")
    assert config.origin("node.name") == str(tmp_path / "config.toml")
    assert config.origin("node.region") == "environment P2PNODE_NODE__REGION"
    assert config.origin("node.owner") == "flag --owner"
    assert config.origin("network.bootstrap") == "default"


def test_every_flag_of_run_sets_its_key(tmp_path: Path) -> None:
    given = {
        "bootstrap": ("/ip4/1.2.3.4/tcp/1/p2p/x", "/ip4/1.2.3.5/tcp/1/p2p/y"),
        "listen": ("/ip4/127.0.0.1/tcp/0",),
        "network": "ours",
        "api": "127.0.0.1:0",
        "no_auth": True,
        "ready_file": "/tmp/ready",
        "engine": "openai",
        "engine_url": "http://127.0.0.1:1/v1",
        "model": ("a", "b=/models/b", "c=org/c@abc123"),
        "mock_gpu": "H100",
        "price_in": 0.5,
        "price_out": 1,
        "name": "ada",
        "region": "eu",
        "owner": "me",
        "policy": "random",
        "profile": "lan",
        "log_format": "json",
        "log_level": "debug",
    }
    assert set(given) == set(FLAGS)
    config = load(None, tmp_path, None, **given)
    assert config.network.bootstrap == given["bootstrap"]
    assert config.engine.models == (
        ModelConfig("a"),
        ModelConfig("b", "/models/b"),
        ModelConfig("c", "org/c", "abc123"),
    )
    assert (config.engine.price_in, config.engine.price_out) == (0.5, 1.0)
    assert config.settings is PROFILES["lan"]
    assert set(config.origins) == set(FLAGS.values())


def test_the_environment_is_text_and_becomes_what_is_needed(tmp_path: Path) -> None:
    environ = {
        "P2PNODE_HTTP__NO_AUTH": "true",
        "P2PNODE_HTTP__CONNECTIONS": "64",
        "P2PNODE_ENGINE__PRICE_IN": "0.25",
        "P2PNODE_ENGINE__MODELS": "a, b=org/b@r1",
        "P2PNODE_NETWORK__LISTEN": "/ip4/127.0.0.1/tcp/0,/ip6/::1/tcp/0",
        "P2PNODE_HOME": "/somewhere",
        "P2PNODE_API_KEY": "secret",
        "OTHER__THING": "x",
    }
    config = load(None, tmp_path, environ)
    assert config.http.no_auth
    assert config.http.connections == 64
    assert config.engine.price_in == 0.25
    assert [model.name for model in config.engine.models] == ["a", "b"]
    assert len(config.network.listen) == 2


def test_models_may_be_tables(tmp_path: Path) -> None:
    text = 'version = 1\n[[engine.models]]\nname = "a"\ncontext = 4096\nprice_out = 2\n'
    (model,) = load(text, tmp_path).engine.models
    assert (model.context, model.price_in, model.price_out) == (4096, None, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[node]\n", "has no version: its first line must be version = 1"),
        ("version = 2\n", "has version 2"),
        ("version = \n", "is not TOML"),
        ("version = 1\n[nod]\n", r"there is no setting \[nod\]; did you mean \[node\]"),
        ("version = 1\nname = 3\n", r"there is no setting \[name\]"),
        ("version = 1\n[origins]\nx = 1\n", r"there is no setting \[origins\]"),
        ("version = 1\n[http]\nap = 1\n", "there is no setting http.ap; did you mean http.api"),
        ("version = 1\n[http]\napi = 8411\n", "http.api = 8411 is wrong: expected `str`, got `int`"),
        ('version = 1\n[http]\napi = "8411"\n', "http.api = '8411' is wrong: write HOST:PORT"),
        ('version = 1\n[http]\nno_auth = "yes"\n', "http.no_auth = 'yes' is wrong"),
        ('version = 1\n[engine]\nkind = "llama"\n', "must be one of auto, vllm, openai, mock, none"),
        ('version = 1\n[engine]\nkind = "openai"\n', "needs the URL of a server"),
        ("version = 1\n[engine]\nprice_in = -1\n", "engine.price_in = -1 is wrong"),
        ('version = 1\n[engine]\nmodels = ["=x"]\n', "has no name"),
        ("version = 1\n[[engine.models]]\nnam = 1\n", "unknown field `nam`"),
        ('version = 1\n[node]\nprofile = "fast"\n', "must be one of lan, wan, local, test"),
        ('version = 1\n[node]\npolicy = "best"\n', "must be one of expected-seconds"),
        ('version = 1\n[http]\nno_auth = true\napi = "0.0.0.0:1"\n', "only loopback may be served"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load(text, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_wrong_flag_or_variable_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"flag --profile: node.profile = 'x' is wrong"):
        load(None, tmp_path, profile="x")
    with pytest.raises(ConfigError, match=r"environment P2PNODE_HTTP__PORT: there is no setting http.port"):
        load(None, tmp_path, {"P2PNODE_HTTP__PORT": "1"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(None, tmp_path)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("localhost:80", ("localhost", 80)),
    ],
)
def test_addresses(text: str, parts: tuple[str, int]) -> None:
    assert split_host_port(text) == parts


@pytest.mark.parametrize("text", [":80", "host", "host:", "host:-1", "host:65536", "::1:80", "[::1:80", "a:1²"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        split_host_port(text)


def test_loopback_is_what_others_cannot_reach() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "localhost", "LocalHost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


def test_every_key_has_a_section() -> None:
    assert all(name.count(".") == 1 for name in KEYS)


@pytest.mark.parametrize(
    ("host", "here"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("192.0.2.7", "192.0.2.7"), ("gpu", "gpu")],
)
def test_what_listens_everywhere_is_reached_on_loopback(host: str, here: str) -> None:
    assert reached_here(host) == here


def test_whom_requests_may_go_to(tmp_path: Path) -> None:
    peer = "12D3KooWSuTq6MG9gPt7qZqLFKkYrfxMewTZhj9nmRHJkPwzWDG2"
    config = load(f'version = 1\n[routing]\nzone = "trusted"\ntrusted = ["{peer}"]\n', tmp_path)
    assert (config.routing.zone, config.routing.trusted) == ("trusted", (peer,))
    assert load(None, tmp_path / "none").routing.zone == "anyone"
    for text, named in (
        ('zone = "mars"', "local, mine, trusted, anyone"),
        ('trusted = ["bob"]', "'bob' is no peer id"),
    ):
        with pytest.raises(ConfigError, match=named):
            load(f"version = 1\n[routing]\n{text}\n", tmp_path)
