"""The protocol of p2pnode: wire formats and the machines that decide.  No I/O, no clock, no randomness of its own.

A machine has ``handle(event, now) -> list[Effect]``: an event and its time go in, the actions to take come out as data.
The daemon (``p2pnode``) performs them with trio and libp2p, the simulator (``simulations``) with a virtual clock.

* ``node``: all machines of one node behind one ``handle``; ``events`` and ``effects`` are its vocabulary
* ``statements/``: what nodes say of themselves, signed; ``wire/``: the frames and messages between two peers
* ``gossip/``: how statements spread; ``membership/``: which peers exist, live, have links; ``dht/``: how to find more
* ``routing/``: which peer should get a job; ``jobs/``: a job at the entry (entry, cascade) and the worker (admission)
* ``perf/``: GPU catalogue, cost model, and the engine of a simulated GPU; ``tables/``: their data
* ``ids``, ``errors``, ``settings``, ``rng``, ``codec``, ``subnet``, ``token_bucket``, ``arrays``: values for all

``now`` is seconds on the caller's monotonic clock.  ``wall`` is seconds since the Unix epoch; only the age of a
statement that another node signed is judged by it.  ``README.md`` beside this file specifies the wire format.
"""

__version__ = "0.1.0"

#: Version of the wire format; a peer of another version is refused in HELLO (see README.md, "Versions").
PROTOCOL_VERSION = 1
