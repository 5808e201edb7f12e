"""The operator's configuration, from file, environment and flags; each value remembers its origin.

``config.toml`` (``version = 1``) has the sections of :class:`Config`; ``P2PNODE_SECTION__KEY`` overrides a key of it,
and a flag overrides both.  Not here: intervals and bounds of the machines.  The operator only chooses one of their
named profiles (``protocol.settings.PROFILES``).
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from p2pnode.json_types import JsonObject
from protocol.settings import PROFILES, NodeSettings

VERSION: Final = 1
_PREFIX: Final = "P2PNODE_"

Label = Annotated[str, Meta(max_length=64)]
Usd = Annotated[float, Meta(ge=0, le=1e6)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=3600)]


class ConfigError(ValueError):
    """A setting is wrong; the message names it, its origin and the allowed values."""


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model to offer.  ``source`` is a local folder or a hub id, whose ``revision`` is then pinned.

    Prices are USD per million tokens (None: those of the section), ``context`` is tokens, 0 for "ask the engine".
    """

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    source: str = ""
    revision: str = ""
    quantization: Label = ""
    context: Annotated[int, Meta(ge=0)] = 0
    price_in: Usd | None = None
    price_out: Usd | None = None
    params_b: Annotated[float, Meta(ge=0)] = 0.0
    vram_mib: Annotated[int, Meta(ge=0)] = 0
    capabilities: tuple[str, ...] = ()
    options: dict[str, str] = {}


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[node]``: labels, which peers show but never trust, and how this node decides."""

    name: Label = ""
    region: Label = ""
    owner: Label = ""
    #: How candidates are ranked; the names of ``protocol/routing/policies.py``.
    policy: str = "expected-seconds"
    #: Intervals and deadlines; ``test`` is fast, for tests and demos.
    profile: Literal["lan", "wan", "local", "test"] = "wan"


class NetworkConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[network]``: listening addresses and bootstrap peers."""

    #: ``/ip4/…/tcp/…/p2p/<peer id>``; empty for the list in ``bootstrap/seeds.toml``.
    bootstrap: tuple[str, ...] = ()
    #: Port 0 picks one.
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4411",)
    #: Nodes of different networks do not talk to each other.
    name: Annotated[str, Meta(min_length=1, max_length=64)] = "p2pnode"


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[http]``: the API and the dashboard."""

    #: HOST:PORT; port 0 picks one.
    api: str = "127.0.0.1:8411"
    #: The API needs no key; loopback only.
    no_auth: bool = False
    #: The JSON of the ``ready`` line is written here when the API answers.
    ready_file: str = ""
    #: Names other than this machine's own under which clients may address the API (header ``Host``, without port).
    hosts: tuple[str, ...] = ()
    #: Web pages that may call the API (header ``Origin``), e.g. ``https://chat.example.org``.
    origins: tuple[str, ...] = ()
    #: Open connections in all, and per remote address (DESIGN 2.7); for loopback only the first applies.
    connections: Count = 256
    connections_per_address: Count = 32
    #: Seconds a running answer may take after the request to stop.
    drain_s: Seconds = 30.0


class EngineConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[engine]``: the engine and its models."""

    kind: Literal["auto", "vllm", "openai", "mock", "none"] = "auto"
    #: For ``openai``: any OpenAI-compatible server.
    url: str = ""
    #: ``NAME`` or ``NAME=SOURCE`` or, in the file, a table of :class:`ModelConfig`.
    models: tuple[ModelConfig, ...] = ()
    #: For ``mock``: the GPU of the table to simulate.
    mock_gpu: str = "RTX 4090"
    #: USD per million tokens.
    price_in: Usd = 0.0
    price_out: Usd = 0.0


class RoutingConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[routing]``: the peers that may serve this node's own users."""

    #: The zone of a request that names none.  Under ``anyone`` strangers may serve it, and read it.
    zone: Literal["local", "mine", "trusted", "anyone"] = "anyone"
    #: Ids of the peers that the zones ``mine`` and ``trusted`` allow besides this node itself.
    trusted: tuple[str, ...] = ()


class LogConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[log]``: form and level of the log on stderr."""

    format: Literal["auto", "pretty", "json"] = "auto"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(msgspec.Struct, frozen=True):
    """All sections; ``origins`` maps the dotted name of each value that is not a default to its origin."""

    node: NodeConfig = NodeConfig()
    network: NetworkConfig = NetworkConfig()
    http: HttpConfig = HttpConfig()
    engine: EngineConfig = EngineConfig()
    routing: RoutingConfig = RoutingConfig()
    log: LogConfig = LogConfig()
    origins: dict[str, str] = {}

    @property
    def settings(self) -> NodeSettings:
        """The intervals and bounds of the chosen profile."""
        return PROFILES[self.node.profile]

    def origin(self, name: str) -> str:
        """The origin of a value, by its dotted name."""
        return self.origins.get(name, "default")

    @property
    def api_address(self) -> tuple[str, int]:
        """Host and port of ``http.api``."""
        host, port = split_host_port(self.http.api)
        return host, port


_SECTIONS: Final = {
    "node": NodeConfig,
    "network": NetworkConfig,
    "http": HttpConfig,
    "engine": EngineConfig,
    "routing": RoutingConfig,
    "log": LogConfig,
}
#: Every key by its dotted name.
KEYS: Final[dict[str, Any]] = {  # msgspec gives types as Any
    f"{section}.{field.name}": field.type
    for section, struct in _SECTIONS.items()
    for field in msgspec.structs.fields(struct)  # type: ignore[arg-type]  # a list of classes loses their common base
}
#: Flags of ``p2pnode run`` (without leading dashes, ``_`` for ``-``) and their keys.
FLAGS: Final = {
    "bootstrap": "network.bootstrap",
    "listen": "network.listen",
    "network": "network.name",
    "api": "http.api",
    "no_auth": "http.no_auth",
    "ready_file": "http.ready_file",
    "engine": "engine.kind",
    "engine_url": "engine.url",
    "model": "engine.models",
    "mock_gpu": "engine.mock_gpu",
    "price_in": "engine.price_in",
    "price_out": "engine.price_out",
    "name": "node.name",
    "region": "node.region",
    "owner": "node.owner",
    "policy": "node.policy",
    "profile": "node.profile",
    "log_format": "log.format",
    "log_level": "log.level",
}

#: One given value: dotted name, value, origin, and whether it is text.
_Given = tuple[str, object, str, bool]


def load_config(
    path: Path | None, flags: Mapping[str, object] | None = None, environ: Mapping[str, str] = os.environ
) -> Config:
    """The configuration.  ``flags`` maps names of :data:`FLAGS` (or dotted names) to values; None means not given.

    Raises:
      ConfigError: one line that names the key, its origin and the allowed values.
    """
    values: dict[str, JsonObject] = {section: {} for section in _SECTIONS}
    origins: dict[str, str] = {}
    given = (*_from_file(path), *_from_environment(environ), *_from_flags(flags or {}))
    for name, value, origin, textual in given:
        section, key = name.split(".")
        values[section][key] = _converted(name, value, origin, textual)
        origins[name] = origin
    sections: JsonObject = {section: struct(**values[section]) for section, struct in _SECTIONS.items()}
    config = Config(**sections, origins=origins)
    _check(config)
    return config


def _from_file(path: Path | None) -> Iterator[_Given]:
    if path is None or not path.exists():
        return
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    version = document.pop("version", None)
    if version != VERSION:
        problem = "has no version" if version is None else f"has version {version!r}"
        raise ConfigError(f"{path} {problem}: its first line must be version = {VERSION}")
    for section, keys in document.items():
        if section not in _SECTIONS or not isinstance(keys, dict):
            raise ConfigError(_unknown(str(path), f"[{section}]", [f"[{name}]" for name in _SECTIONS]))
        for key, value in keys.items():
            yield _known(f"{section}.{key}", str(path)), value, str(path), False


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given]:
    for variable, value in sorted(environ.items()):
        # Other modules read variables without a section, such as P2PNODE_HOME.
        if variable.startswith(_PREFIX) and "__" in variable:
            section, _, key = variable.removeprefix(_PREFIX).lower().partition("__")
            origin = f"environment {variable}"
            yield _known(f"{section}.{key}", origin), value, origin, True


def _from_flags(flags: Mapping[str, object]) -> Iterator[_Given]:
    for flag, value in flags.items():
        # click gives an empty tuple for an absent repeatable option.
        if value is None or value == ():
            continue
        name = _known(FLAGS.get(flag, flag), "flag")
        yield name, value, f"flag --{flag.replace('_', '-')}", isinstance(value, str)


def _known(name: str, origin: str) -> str:
    if name not in KEYS:
        raise ConfigError(_unknown(origin, name, list(KEYS)))
    return name


def _unknown(origin: str, name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"{origin}: there is no setting {name}; {hint}"


def _converted(name: str, value: object, origin: str, textual: bool) -> object:
    """The value as the type of its key; text from environment and flags is read leniently (``1``, ``true``)."""
    wanted = KEYS[name]
    if get_origin(wanted) is tuple:
        value = _listed(value)
        if name == "engine.models" and isinstance(value, list):
            value = [_model(item, origin) if isinstance(item, str) else item for item in value]
    try:
        return msgspec.convert(value, wanted, strict=not textual)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {name} = {_shown(value)} is wrong: {_allowed(wanted, error)}") from None


def _listed(value: object) -> object:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:77]}..."


def _allowed(wanted: Any, error: Exception) -> str:
    if get_origin(wanted) is Literal:
        return f"it must be one of {', '.join(get_args(wanted))}"
    message = str(error).replace(" - at `$", ", in item `$")
    return message[:1].lower() + message[1:]


def _model(text: str, origin: str) -> dict[str, str]:
    """``NAME``, ``NAME=FOLDER`` or ``NAME=HUB/ID@REVISION``."""
    name, _, source = text.partition("=")
    if not name:
        raise ConfigError(f"{origin}: engine.models: {text!r} has no name; write NAME or NAME=SOURCE")
    local = source.startswith(("/", ".", "~")) or Path(source).exists()
    hub, _, revision = (source, "", "") if local or not source else source.partition("@")
    return {"name": name, "source": hub, "revision": revision}


def _check(config: Config) -> None:
    """Check values against each other."""
    try:
        host, _ = config.api_address
    except ValueError:
        where = config.origin("http.api")
        raise ConfigError(f"{where}: http.api = {config.http.api!r} is wrong: write HOST:PORT") from None
    if config.http.no_auth and not is_loopback(host):
        where = config.origin("http.no_auth")
        raise ConfigError(f"{where}: without keys only loopback may be served; {host} is not: drop --no-auth or --api")
    if config.engine.kind == "openai" and not config.engine.url.startswith(("http://", "https://")):
        raise ConfigError(
            "engine.url: the engine 'openai' needs the URL of a server: --engine-url http://127.0.0.1:8000/v1"
        )
    if config.routing.trusted:
        _check_peers(config)
    if config.node.policy != "expected-seconds":  # the usual case does without the import, which loads numpy
        from protocol.routing.policies import POLICIES  # noqa: PLC0415

        if config.node.policy not in POLICIES:
            where = config.origin("node.policy")
            known = ", ".join(POLICIES)
            raise ConfigError(f"{where}: node.policy = {config.node.policy!r} is wrong: it must be one of {known}")


def _check_peers(config: Config) -> None:
    from protocol.errors import InvalidPeerId  # noqa: PLC0415 - as above
    from protocol.ids import peer_from_text  # noqa: PLC0415

    for text in config.routing.trusted:
        try:
            peer_from_text(text)
        except InvalidPeerId:
            where = config.origin("routing.trusted")
            raise ConfigError(
                f"{where}: routing.trusted: {text!r} is no peer id; take it from: p2pnode status"
            ) from None


def split_host_port(text: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``; raises ``ValueError``."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(text)
    if host.startswith("[") != host.endswith("]") or (":" in host and not host.startswith("[")):
        raise ValueError(text)
    return host.strip("[]"), int(port)


def reached_here(host: str) -> str:
    """The address with which programs on this machine reach a server that listens on ``host``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine can reach ``host``."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
