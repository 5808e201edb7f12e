"""Secrets: the node's identity, the first API key, and the table of API keys.

Secret files have mode 0600, in a directory with mode 0700, belong to this user, and are no symbolic links.  A file
with other properties is refused, and the error names the command that fixes it.  API keys are stored as SHA-256: they
are random, so a fast hash is safe.  Not here: the storage of the table (``ledger``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal, get_args

import msgspec

SEED_BYTES: Final = 32
#: Bytes of randomness in an API key.
KEY_BYTES: Final = 32
KEY_PREFIX: Final = "sk-p2pnode-"
#: The name of the key in ``<home>/api-key``.
FIRST_KEY: Final = "default"

Zone = Literal["local", "mine", "trusted", "anyone"]
#: From the narrowest to the widest.
ZONES: Final[tuple[Zone, ...]] = get_args(Zone)


class KeyProblem(Exception):
    """A secret or its directory has wrong properties; the message names the command to run."""


# --- files ---------------------------------------------------------------------------------------------------------


def prepare_home(home: Path) -> None:
    """Make the home (0700) or check an existing one; raises ``KeyProblem``."""
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = home.lstat()
    except FileExistsError:
        raise KeyProblem(f"{home} is not a directory; choose another with --home") from None
    except OSError as error:
        raise KeyProblem(f"cannot make {home}: {error.strerror}; choose another with --home") from None
    if stat.S_ISLNK(about.st_mode):
        raise KeyProblem(f"{home} is a symbolic link: name the directory itself, --home {home.resolve()}")
    if not stat.S_ISDIR(about.st_mode):
        raise KeyProblem(f"{home} is not a directory; choose another with --home")
    if about.st_mode & stat.S_ISVTX:  # such as /tmp, whose mode must not be changed
        raise KeyProblem(f"{home} is shared by all users: choose a directory of its own with --home")
    _check_owner(home, about)
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise KeyProblem(f"{home} is open to other users: run chmod 700 {home}")


def lock_home(path: Path) -> int:
    """Lock a home until the process ends; raises ``KeyProblem`` if another daemon holds the lock."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise KeyProblem(f"another p2pnode runs with {path.parent}: stop it, or use another --home") from None
    return handle


def read_secret(path: Path) -> bytes:
    """The content of a secret file; raises ``KeyProblem`` for a wrong mode, owner or kind, ``FileNotFoundError``."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise KeyProblem(f"{path} is a symbolic link: put the file itself there") from None
        raise KeyProblem(f"cannot read {path}: {error.strerror}; run as the user who owns it") from None
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise KeyProblem(f"{path} is not a regular file: move it away")
        _check_owner(path, about)
        if stat.S_IMODE(about.st_mode) & 0o077:
            raise KeyProblem(f"{path} can be read by other users: run chmod 600 {path}")
        return os.read(handle, 4096)
    finally:
        os.close(handle)


def write_secret(path: Path, content: bytes) -> None:
    """Replace a secret file in one step: after a crash it is the old or the complete new one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _check_owner(path: Path, about: os.stat_result) -> None:
    if about.st_uid != os.geteuid():
        raise KeyProblem(f"{path} belongs to another user: run sudo chown -R $(id -un) {path}")


def _written(path: Path, content: bytes) -> None:
    try:
        write_secret(path, content)
    except OSError as error:
        raise KeyProblem(f"cannot write {path}: {error.strerror}") from None


def load_node_key(path: Path) -> bytes:
    """The Ed25519 seed of this node; the first start makes it."""
    try:
        seed = read_secret(path)
    except FileNotFoundError:
        seed = secrets.token_bytes(SEED_BYTES)
        _written(path, seed)
    if len(seed) != SEED_BYTES:
        raise KeyProblem(
            f"{path} is damaged ({len(seed)} bytes instead of {SEED_BYTES}): restore a copy, "
            "or move it away and this node starts with a new identity"
        )
    return seed


def load_api_key(path: Path) -> str:
    """The first API key; the first start makes it."""
    try:
        text = read_secret(path).decode("ascii", "replace").strip()
    except FileNotFoundError:
        text = new_secret()
        _written(path, text.encode() + b"\n")
    if len(text) < 16 or not text.isascii() or not text.isprintable():
        raise KeyProblem(f"{path} has no usable key: move it away, and the next start makes a new one")
    return text


# --- the table -----------------------------------------------------------------------------------------------------


class KeyPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The rights of a key: the widest zone of its requests, and requests per minute (0: no limit)."""

    zone: Zone = "anyone"
    rpm: int = 0


class ApiKey(msgspec.Struct, frozen=True):
    """One stored key.  ``created`` is in Unix seconds."""

    name: str
    sha256: bytes
    policy: KeyPolicy = KeyPolicy()
    created: float = 0.0


def new_secret() -> str:
    """A new API key, which is shown once."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def fingerprint(secret: str | bytes) -> bytes:
    """The hash of a key that is stored."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def parse_policy(text: str) -> KeyPolicy:
    """Parse ``zone=trusted,rpm=60`` or a zone alone; raises ``ValueError``, which names the allowed values."""
    pairs = [part.strip() for part in text.split(",") if part.strip()]
    fields: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        fields[name if equals else "zone"] = value if equals else pair
    try:
        policy = msgspec.convert(fields, KeyPolicy, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"a policy is zone={'|'.join(ZONES)} and rpm=NUMBER, joined by commas: {error}") from None
    if policy.rpm < 0:
        raise ValueError("rpm is requests per minute, 0 for no limit")
    return policy


def narrower(wanted: str | None, ceiling: str) -> str:
    """The zone a request gets: what it asked for, but never wider than the key's."""
    return wanted if wanted in ZONES and ZONES.index(wanted) < ZONES.index(ceiling) else ceiling


class Keyring:
    """The keys that open the API.  ``required`` is False under ``--no-auth``."""

    def __init__(self, keys: Iterable[ApiKey] = (), *, required: bool = True) -> None:
        self.required = required
        self._first: tuple[ApiKey, ...] = ()
        self._stored: tuple[ApiKey, ...] = tuple(keys)

    def admit_first(self, secret: str) -> None:
        """Accept the key in ``<home>/api-key``, independently of the table."""
        self._first = (ApiKey(FIRST_KEY, fingerprint(secret)),)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Replace the table."""
        self._stored = tuple(keys)

    def find(self, secret: bytes) -> ApiKey | None:
        """The key with this secret.  It compares every stored hash completely, so timing reveals nothing."""
        digest = fingerprint(secret)
        found = None
        for key in (*self._first, *self._stored):
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def __iter__(self) -> Iterator[ApiKey]:
        return iter((*self._first, *self._stored))

    def __len__(self) -> int:
        return len(self._first) + len(self._stored)
