"""Files that only we may read, and the table of API keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from p2pnode.state import keys
from p2pnode.state.keys import (
    ApiKey,
    KeyPolicy,
    KeyProblem,
    Keyring,
    fingerprint,
    load_api_key,
    load_node_key,
    lock_home,
    narrower,
    parse_policy,
    prepare_home,
    read_secret,
    write_secret,
)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_first_start_makes_everything_for_us_alone(tmp_path: Path) -> None:
    home = tmp_path / "a" / "home"
    old = os.umask(0)
    try:
        prepare_home(home)
        seed, text = load_node_key(home / "node.key"), load_api_key(home / "api-key")
    finally:
        os.umask(old)
    assert (mode(home), mode(home / "node.key"), mode(home / "api-key")) == (0o700, 0o600, 0o600)
    assert len(seed) == 32
    assert text.startswith("sk-p2pnode-")
    assert (home / "api-key").read_text() == text + "\n"
    prepare_home(home)
    assert (load_node_key(home / "node.key"), load_api_key(home / "api-key")) == (seed, text)
    assert sorted(path.name for path in home.iterdir()) == ["api-key", "node.key"]


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o644, 0o660, 0o601, 0o777])
def test_a_key_that_others_can_reach_is_refused_with_the_cure(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    load_node_key(path)
    path.chmod(bits)
    with pytest.raises(KeyProblem, match=f"run chmod 600 {path}"):
        load_node_key(path)
    path.chmod(0o600)
    load_node_key(path)


@pytest.mark.parametrize("bits", [0o750, 0o705, 0o755, 0o777])
def test_a_home_that_others_can_reach_is_refused_with_the_cure(bits: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare_home(home)
    home.chmod(bits)
    with pytest.raises(KeyProblem, match=f"run chmod 700 {home}"):
        prepare_home(home)


def test_links_and_other_things_are_not_followed(tmp_path: Path) -> None:
    real = tmp_path / "real"
    load_node_key(real)
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(KeyProblem, match="symbolic link"):
        load_node_key(link)
    (tmp_path / "dir").mkdir()
    with pytest.raises(KeyProblem, match="not a regular file"):
        read_secret(tmp_path / "dir")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(KeyProblem, match="not a regular file"):
        read_secret(tmp_path / "pipe")
    directory = tmp_path / "home"
    directory.symlink_to(tmp_path / "dir")
    with pytest.raises(KeyProblem, match=f"symbolic link.*--home {tmp_path / 'dir'}"):
        prepare_home(directory)
    for wrong in (link, real):
        with pytest.raises(KeyProblem, match="not a directory"):
            prepare_home(wrong)
    with pytest.raises(KeyProblem, match="cannot make"):
        prepare_home(real / "below")


def test_what_belongs_to_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_home(tmp_path / "home")
    load_node_key(tmp_path / "node.key")
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(KeyProblem, match="belongs to another user: run sudo chown"):
        load_node_key(tmp_path / "node.key")
    with pytest.raises(KeyProblem, match="belongs to another user"):
        prepare_home(tmp_path / "home")


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 5000])
def test_a_damaged_node_key_is_not_replaced(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    write_secret(path, content)
    with pytest.raises(KeyProblem, match=r"damaged.*restore a copy"):
        load_node_key(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"", b"short\n", "größer-als-sechzehn".encode(), b"two words\nand more lines"])
def test_a_damaged_api_key_is_named(content: bytes, tmp_path: Path) -> None:
    write_secret(tmp_path / "api-key", content)
    with pytest.raises(KeyProblem, match="no usable key"):
        load_api_key(tmp_path / "api-key")


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"old")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = {"write": (os, "fdopen"), "fsync": (os, "fsync"), "replace": (Path, "replace")}[step]
    monkeypatch.setattr(*target, fail)
    with pytest.raises(OSError, match="No space"):
        write_secret(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_is_full_is_a_clear_line(tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match="cannot write"):
        load_node_key(tmp_path / "no" / "node.key")


def test_a_home_has_one_daemon(tmp_path: Path) -> None:
    handle = lock_home(tmp_path / "lock")
    with pytest.raises(KeyProblem, match="another p2pnode runs with"):
        lock_home(tmp_path / "lock")
    os.close(handle)
    os.close(lock_home(tmp_path / "lock"))


def test_the_ring_finds_whose_key_it_is() -> None:
    ring = Keyring([ApiKey("a", fingerprint("secret-a"))])
    ring.admit_first("first")
    assert [ring.find(b"first"), ring.find(b"nobody"), ring.find(b"")][1:] == [None, None]
    assert ring.find(b"first").name == "default"  # type: ignore[union-attr]
    assert ring.find(b"secret-a").name == "a"  # type: ignore[union-attr]
    assert [key.name for key in ring] == ["default", "a"]
    ring.replace([])
    assert ring.find(b"secret-a") is None
    assert len(ring) == 1


def test_every_key_is_compared_whatever_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ring = Keyring([ApiKey(str(number), fingerprint(str(number))) for number in range(10)])
    compared = []
    real = keys.hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))
    for text in (b"0", b"9", b"nobody"):
        ring.find(text)
    assert len(compared) == 30


def test_policies_are_text() -> None:
    assert parse_policy("") == KeyPolicy()
    assert parse_policy("trusted") == KeyPolicy("trusted")
    assert parse_policy("zone=mine, rpm=60") == KeyPolicy("mine", 60)
    for wrong in ("moon", "rpm=fast", "rpm=-1", "colour=red"):
        with pytest.raises(ValueError, match="rpm"):
            parse_policy(wrong)


def test_a_zone_only_gets_narrower() -> None:
    assert narrower(None, "trusted") == "trusted"
    assert narrower("anyone", "trusted") == "trusted"
    assert narrower("local", "trusted") == "local"
    assert narrower("elsewhere", "mine") == "mine"


def test_a_directory_that_everybody_shares_is_no_home_and_nobody_is_told_to_close_it(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    with pytest.raises(KeyProblem, match="choose a directory of its own") as refused:
        prepare_home(shared)
    assert "chmod" not in str(refused.value)
