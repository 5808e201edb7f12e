"""Refuses every py-libp2p but the version that ``libp2p_workarounds`` and ``yamux`` were written for.

``check_library`` compares the version and the hashes of the functions in ``KNOWN``.  ``python -m
p2pnode.swarm.library_check`` prints the hashes of the installed version.  Not here: the workarounds.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import inspect
from typing import Any, Final

from p2pnode.swarm.net import NetError

PINNED: Final = "0.8.1"
#: Functions on whose inside we depend, with the beginning of the SHA-256 of their text in the pinned version.
KNOWN: Final[dict[str, str]] = {
    "libp2p.stream_muxer.yamux.yamux:Yamux.__init__": "3b11a2a71ca444ca",
    "libp2p.stream_muxer.yamux.yamux:Yamux._cleanup_on_error": "4fed61a999a34989",
    "libp2p.stream_muxer.yamux.yamux:Yamux._measure_rtt_loop": "86222ce6e35836fd",
    "libp2p.stream_muxer.yamux.yamux:Yamux._read_data_body": "54cc06c91ba6ee15",
    "libp2p.stream_muxer.yamux.yamux:Yamux._write_frame": "16ff969cdd0d2b1b",
    "libp2p.stream_muxer.yamux.yamux:Yamux._sweep_stale_streams": "0b1a5033e707e138",
    "libp2p.stream_muxer.yamux.yamux:Yamux.handle_incoming": "ad15ff6943feac20",
    "libp2p.stream_muxer.yamux.yamux:Yamux.open_stream": "f3e0ef79ec21d0cb",
    "libp2p.stream_muxer.yamux.yamux:Yamux.start": "bd1a114758a61e42",
    "libp2p.stream_muxer.yamux.yamux:YamuxStream._auto_tune_and_send_window_update": "6ebcbd822fe7f996",
    "libp2p.stream_muxer.yamux.yamux:YamuxStream.read": "ca585f2199fd4e83",
    "libp2p.stream_muxer.muxer_multistream:MuxerMultistream.new_conn": "91d21f40f524ad99",
    "noise.backends.default.ciphers:ChaCha20Cipher.format_nonce": "0116b7da61887c16",
    "libp2p.security.noise.io:BaseNoiseMsgReadWriter.read_msg": "b2fa218c135c82c0",
    "libp2p.security.noise.io:BaseNoiseMsgReadWriter.write_msg": "00818920318f86aa",
    "libp2p.security.noise.patterns:PatternXX.handshake_inbound": "d2f509f2c5b65643",
    "libp2p.security.noise.patterns:PatternXX.handshake_outbound": "8d2a997bd6b0bbd6",
    "libp2p.security.noise.transport:Transport.secure_inbound": "4c447c4ea56267b1",
    "libp2p.security.noise.transport:Transport.secure_outbound": "f5be8851b898cbf1",
    "libp2p.security.secure_session:SecureSession._drain": "a697c9f38d7b2e6c",
    "libp2p.security.secure_session:SecureSession.read": "eeba14a89cf12325",
    "libp2p.io.utils:read_exactly": "ae12723eff6b556d",
    "libp2p.transport.upgrader:TransportUpgrader.upgrade_security": "70dd214038eced03",
    "libp2p.network.connection.swarm_connection:SwarmConn.close": "442c6259a8e9e45e",
    "libp2p.network.connection.swarm_connection:SwarmConn._handle_muxed_stream": "fb51f8a3e37c9800",
    "libp2p.network.swarm:Swarm._do_handle_inbound_connection": "c22fdfd5289f671c",
    "libp2p.network.swarm:Swarm._handle_inbound_connection": "0800fdf9770ed8e6",
    "libp2p.network.swarm:Swarm.add_conn": "d469d71b3ed1f4df",
    "libp2p.network.swarm:Swarm.listen": "c23f133cd5acc0a9",
    "libp2p.network.swarm:Swarm.run": "15ac9440b4fed110",
    "libp2p.network.swarm:Swarm.upgrade_outbound_raw_conn": "54a8867681b2f4f0",
    "libp2p.host.basic_host:BasicHost.__init__": "6a81506e92fbd211",
    "libp2p.host.basic_host:BasicHost._swarm_stream_handler": "cec985884b1ba269",
    "libp2p.host.basic_host:BasicHost.run": "49d086030a367765",
}


class WrongLibrary(NetError):
    """The installed py-libp2p is not the one that p2pnode knows how to contain; install libp2p==0.8.1."""


def check_library() -> None:
    """Raise ``WrongLibrary`` unless the version and the text of each function are the known ones."""
    found = importlib.metadata.version("libp2p")
    if found != PINNED:
        raise WrongLibrary(f"{WrongLibrary.__doc__} Found {found}.")
    changed = [name for name, expected in KNOWN.items() if source_hash(name) != expected]
    if changed:
        raise WrongLibrary(f"{WrongLibrary.__doc__} Its text differs in {', '.join(changed)}.")


def source_hash(name: str) -> str:
    """Hash of the text of ``module:qualified.name``; empty if it does not exist."""
    module_name, _, path = name.partition(":")
    try:
        target: Any = importlib.import_module(module_name)
        for part in path.split("."):
            target = getattr(target, part)
        return hashlib.sha256(inspect.getsource(target).encode()).hexdigest()[:16]
    except (ImportError, AttributeError, OSError, TypeError):
        return ""


if __name__ == "__main__":
    for known in KNOWN:
        print(f'    "{known}": "{source_hash(known)}",')  # noqa: T201
