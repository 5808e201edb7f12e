"""The simulator: drives the machines of ``protocol`` with a heap and a virtual clock, without ``p2pnode``.

General layout
==============

A scenario (TOML) and a seed become a *world* of nodes, each driven by the very ``protocol.node.Node`` of the daemon;
what came of it becomes ``results.json`` and ``report.html``.  Theory, words, keys and what is not modelled:
``README.md`` beside this file.

* the run: ``world``, on ``kernel`` (virtual time) and ``dice`` (every draw); ``network`` (between nodes) and ``sizes``;
  ``peer`` (one machine) and ``costs`` (its processor); ``entry``, ``worker`` and ``jobs`` (a job at both ends);
  ``choosing`` (who is asked); ``settled`` (as after hours of running)
* the fleet: ``topology``, ``fleet``, ``popularity``, ``capacity``
* the jobs: ``workload``, on ``timing``, ``sessions``, ``traces``, ``servegen`` and ``arrivals``
* what goes wrong: ``churn``, ``faults`` with ``chaos``, ``attackers``; ``fuzz``
* what must hold: ``invariants``, on ``engines``, ``healing``, ``probes`` and ``breach``
* what is seen: ``recorder``, ``watch``, ``outcome``
* files and command: ``scenario``; ``files`` on ``layers``, ``checking`` and ``meaning``; ``goals``, ``results``,
  ``compare``; ``runs``, ``progress``, ``tables``, ``campaign``, ``cli``; ``report``

Times are virtual seconds since the start of the run.  Nothing here looks at a real clock but ``runs`` and ``progress``,
which measure what a run costs and show how it goes.
"""
