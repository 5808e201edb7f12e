"""The simulator: one to ten thousand nodes in one process, driven by the machines of ``protocol`` in virtual time.

A scenario (TOML) and a seed become a network whose nodes run the daemon's own ``protocol.node.Node``.  The run becomes
``results.json`` and ``report.html``.  ``README.md`` beside this file has the theory, all keys, and the model's limits.

* ``run``: one run from scenario and seed to figures, on ``event_loop`` (virtual time) and ``rng_streams`` (every draw)
* ``scenario``: all keys of a scenario; ``cli``: the command
* ``sim/``: the simulated network: nodes, links, machines, and jobs at both ends; ``workload/``: the jobs that arrive
* ``faults/``: faults and churn; ``attackers/``: nodes with bad intent
* ``measure/``: samples, metrics and invariants of one run
* ``experiment/``: scenario files, sweeps, run processes, goals, baselines, comparison, fuzzing; ``report/``: the page

Times are virtual seconds since the start of the run.  Only ``experiment.run_pool`` and ``experiment.progress`` read a
real clock: they measure what a run costs.
"""
