"""The protocol of p2pnode: wire formats and the machines that decide.

General layout
==============

Nothing in this package waits, reads a clock, opens a socket or rolls a die of its own.  A machine is an object with
``handle(event, now) -> list[Effect]``: what happened goes in with the time it happened, what should be done comes out
as data.  The daemon (``p2pnode``) performs the effects with trio and libp2p; the simulator (``simulations``) performs
the same effects with a heap and a virtual clock.

* values: ``ids``, ``errors``, ``adverts``, ``settings``, ``rng``; ``events`` and ``effects`` of a node
* the wire: ``codec``, ``messages``, ``envelope``, ``mux``, ``end_signature`` (spec: ``README.md`` beside this file)
* machines of the network, composed by ``node``:

  * ``overlay`` (whom to link), ``failure_detector`` (who is there), ``peer_view`` on ``peer_record`` and
  ``columns`` (what is believed of each)
  * ``gossip``, on ``intake`` (which statements are taken), ``versions`` (how old they are), ``announcing`` (our own),
    ``backlog`` (what a neighbour lacks), ``digests`` (what is missing where) and ``budget`` (how much may be said)
  * ``dht``, on ``kbuckets`` (whom to ask), ``lookup`` (one search) and ``shelf`` (what is kept for others)

* machines of a job: ``cascade`` with the vocabulary of ``attempts`` (entry), ``admission`` (worker)
* who gets it: ``ranking``, on ``crowd`` (who offers the model), ``filters`` (who cannot take it) and ``policies`` (who
  is best); ``catalog`` (what can be asked for)
* the engine of a simulated GPU: ``batch_engine``, on ``step_clock`` (when), ``kv_cache`` and ``model_cache``
  (memory), ``model_timing``
  (how fast) and ``sequences`` (its values)
* tables and physics: ``gpu_catalog``, ``cost_model``, ``tables/``

Times called ``now`` are seconds on the caller's monotonic clock; ``wall`` is seconds since the Unix epoch and is used
for nothing but judging the age of a signed statement made by somebody else's clock.
"""

__version__ = "0.1.0"

#: Version of the wire format; a peer of another version is refused in HELLO (see README.md, "Versions").
PROTOCOL_VERSION = 1
