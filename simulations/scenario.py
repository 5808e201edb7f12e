"""A scenario: everything that decides how a simulated network goes, as typed values.  What TOML files become.

Units are in the names (``_s`` seconds, ``_ms`` milliseconds, ``_mbit`` megabits per second).  ``node`` holds the
daemon's own settings under the daemon's own names.  Not here: reading files, ``extends`` and ``[sweep]`` (``loading``),
judging ``[goals]`` (``goals``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from protocol.settings import NodeSettings

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(ge=0)]
Index = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=1)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts of a scenario: frozen, by name, and nothing that is not known."""


class Uplink(Part, frozen=True):
    """One class of access links; ``share`` of the nodes have it."""

    share: Share = 1.0
    up_mbit: Positive = 50.0
    down_mbit: Positive = 200.0


class Topology(Part, frozen=True):
    """Where the nodes are and what lies between them."""

    nodes: Count = 100
    #: Public nodes that everybody knows from the start; the first so many of all.
    seeds: Count = 3
    #: ``planetlab490`` (servers), ``seattle99`` (homes, with their tails), ``regions8`` (a table), ``uniform``.
    latency: Literal["planetlab490", "seattle99", "regions8", "uniform"] = "planetlab490"
    #: One-way seconds under ``uniform``.
    latency_s: Seconds = 0.025
    #: Sigma of the log-normal factor on each delay (guess); ``seattle99`` has its own per pair.
    jitter: Annotated[float, Meta(ge=0, le=2)] = 0.1
    #: Share of messages whose segment is lost; on a stream that is a retransmission (delay), not a loss.  If all were,
    #: none would ever arrive.
    loss: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    #: Messages that vanish although the link stands (for tests of repair: no stream does that).
    drop: Share = 0.0
    uplinks: tuple[Uplink, ...] = (Uplink(share=0.8), Uplink(share=0.2, up_mbit=1000.0, down_mbit=1000.0))
    #: The nodes join over so many seconds, evenly; 0 is all at once.
    join_s: Seconds = 5.0
    #: Start with full views and standing links, as after hours of running: for questions that joining would drown.
    settled: bool = False
    #: Sigma of the error of each node's wall clock, seconds.
    clock_skew_s: Seconds = 0.5
    #: Nodes per /24 network group.
    per_group: Count = 4


class Hardware(Part, frozen=True):
    """One kind of machine; shares are relative to each other.  ``gpu`` is a name of the GPU table."""

    gpu: str
    share: Positive = 1.0
    count: Count = 1
    slots: Count = 16


class ExactMachine(Part, frozen=True):
    """``count`` machines of an exact fleet, in the order of the nodes; without a ``gpu`` they are entries only."""

    gpu: str = ""
    count: Count = 1
    #: GPUs in each of them.
    gpus: Count = 1
    slots: Count = 16


class Model(Part, frozen=True):
    """One model of the catalogue; ``popularity`` is relative, 0 takes its place in Zipf's law."""

    name: str
    quantization: str = ""
    #: Parameters in 10^9, of a model that is not in the table; 0 if its name says it.
    params_b: Annotated[float, Meta(ge=0)] = 0.0
    popularity: Annotated[float, Meta(ge=0)] = 0.0
    context: Count = 32768


class Models(Part, frozen=True):
    """What is served and how often it is asked for."""

    catalogue: Annotated[tuple[Model, ...], Meta(min_length=1)] = (
        Model(name="llama-3.1-8b-instruct"),
        Model(name="qwen2.5-7b-instruct"),
    )
    #: Exponent of the popularity by rank.
    zipf: Annotated[float, Meta(ge=0, le=3)] = 0.9
    #: How many models are resident on a node, and how many more it has on disk.
    warm: Annotated[int, Meta(ge=0)] = 1
    on_disk: Annotated[int, Meta(ge=0)] = 0
    #: Nodes without a GPU: entries only.
    without_engine: Share = 0.0
    #: At this time the popularities turn by half the catalogue (0: never).
    shift_at_s: Seconds = 0.0


class EngineModel(Part, frozen=True):
    """The simulated model server."""

    #: Sigma of the hidden log-normal factor on the speed of each node, which no statement tells (guess).
    efficiency_sigma: Annotated[float, Meta(ge=0, le=1)] = 0.15
    block_tokens: Count = 16
    prefix_reuse: bool = True
    #: Step by step instead of lumped; dear, for checking.
    exact: bool = False


class Lengths(Part, frozen=True):
    """Log-normal numbers of tokens: median and sigma, with bounds."""

    median: Positive = 500.0
    sigma: Annotated[float, Meta(ge=0, le=3)] = 1.0
    least: Count = 1
    most: Count = 16384


class Workload(Part, frozen=True):
    """Who asks for what, when.  ``none`` is silence."""

    kind: Literal["none", "poisson", "bursty", "diurnal", "flash", "sessions", "trace"] = "poisson"
    #: Jobs per second of the whole network; or, if ``utilisation`` is given, that share of what it can do.
    rate_per_s: Annotated[float, Meta(ge=0)] = 10.0
    utilisation: Annotated[float, Meta(ge=0)] | None = None
    prompt: Lengths = Lengths()
    output: Lengths = Lengths(median=200.0, sigma=0.9, most=4096)
    #: ``bursty``: coefficient of variation of the gaps (gamma renewals; ServeGen's clients).
    cv: Positive = 2.0
    #: ``diurnal``: share by which the rate swings, and over how long.
    swing: Share = 0.5
    day_s: Positive = 600.0
    #: ``flash``: the rate is multiplied between these times.
    flash_factor: Positive = 10.0
    flash_at_s: Seconds = 60.0
    flash_for_s: Seconds = 30.0
    #: ``sessions``: mean turns of a conversation (geometric) and mean pause between them.
    turns: Positive = 3.0
    think_s: Positive = 20.0
    #: ``trace``: azure-code, azure-conv, mooncake-conversation, mooncake-synthetic, servegen, or a path to a CSV.
    trace: str = ""
    #: ``trace``: virtual seconds per second of the trace; below 1 compresses it.
    time_scale: Positive = 1.0
    #: Share of the jobs that are streamed.
    streamed: Share = 1.0
    #: Share of the nodes at which jobs arrive.
    entries: Share = 1.0
    #: What counts as served well: seconds to the first token, seconds per token after it.
    slo_ttft_s: Positive = 2.0
    slo_itl_s: Positive = 0.1
    #: Callers give up after this long; 0 is never.
    patience_s: Seconds = 0.0


class Routing(Part, frozen=True):
    """How an entry chooses: a policy of the daemon, or one of the simulator's baselines (``omniscient``...)."""

    policy: str = "expected-seconds"


class Lookups(Part, frozen=True):
    """Questions to the DHT beyond those of jobs: so many random nodes per second ask for a model's providers."""

    rate_per_s: Annotated[float, Meta(ge=0)] = 0.0


class Churn(Part, frozen=True):
    """Nodes that come and go by themselves."""

    #: ``none``; sessions ``exponential``, ``weibull`` (shape below), or ``bimodal`` (a stable core, the rest restless).
    model: Literal["none", "exponential", "weibull", "bimodal"] = "none"
    mean_session_s: Positive = 1800.0
    mean_off_s: Positive = 600.0
    #: Weibull shape (guess: 0.5, heavy tailed as measured for file sharing).
    shape: Positive = 0.5
    #: Bimodal: share that stays.
    stable: Share = 0.5
    #: Share of the departures that are crashes; the others say goodbye.
    crash_share: Share = 0.7
    #: Share of the crashes after which the node has lost its state (marks, addresses).
    amnesia: Share = 0.2
    from_s: Seconds = 0.0
    #: 0 is the end, or the begin of the quiet phase.
    until_s: Seconds = 0.0
    #: The nodes that everybody knows from the start stay.
    spare_seeds: bool = False
    #: Nodes that were never there before, per second, under every model.
    newcomers_per_s: Annotated[float, Meta(ge=0)] = 0.0
    #: A flash crowd: so many times the nodes there are come at once, over so many seconds from that time on.
    crowd_factor: Annotated[float, Meta(ge=0)] = 0.0
    crowd_at_s: Seconds = 60.0
    crowd_over_s: Seconds = 10.0


class Fault(Part, frozen=True):
    """Something breaks at ``at_s`` for ``for_s`` seconds.  Which fields count depends on ``kind`` (``faults``).

    ``nodes`` are chosen by ``share`` unless listed; ``groups`` are shares of the nodes on each side of a partition.
    """

    kind: str
    at_s: Seconds = 60.0
    for_s: Seconds = 60.0
    share: Share = 0.1
    nodes: tuple[Index, ...] = ()
    groups: tuple[Share, ...] = (0.5, 0.5)
    #: Instead of ``groups``: these regions on the one side, all others on the other.
    regions: tuple[str, ...] = ()
    one_way: bool = False
    amount: float = 0.0


class Attack(Part, frozen=True):
    """Nodes of bad intent: ``share`` of all, of one kind (``attackers``), from ``from_s`` on."""

    kind: str
    share: Share = 0.1
    #: Instead of ``share``: these nodes.
    nodes: tuple[Index, ...] = ()
    from_s: Seconds = 0.0
    until_s: Seconds = 0.0
    #: Identities per machine, for ``sybil`` and ``paper``.
    identities: Count = 10
    #: How many times faster than it is each bad machine claims to be.
    claims: Positive = 1.0
    amount: Annotated[float, Meta(ge=0)] = 0.0


class Measure(Part, frozen=True):
    """What is looked at beyond the jobs."""

    #: Adverts whose spreading is followed: one node changes its advert every so many seconds; 0 is never.
    track_every_s: Seconds = 0.0
    #: Seconds between samples of the time series.
    sample_s: Positive = 1.0
    #: Rows of the heat map of load.
    heat_rows: Count = 60
    #: Check the invariants that look at whole states every so many seconds; 0 is never.
    invariants_every_s: Seconds = 5.0
    #: An entry has learned who is who after so many of its jobs: the figures of experienced entries begin there.
    experience_jobs: Index = 100
    #: ``KEY=VALUE`` of the sweep: ``ttft_p95_to_reference`` is a run's TTFT p95 over that of the run with this value.
    reference: str = ""
    #: Seconds within which the network has to be whole again in the quiet phase (I9).
    liveness_s: Seconds = 60.0


class Scenario(Part, frozen=True):
    """One experiment at one point of its sweep."""

    name: str
    about: str = ""
    seeds: Annotated[tuple[int, ...], Meta(min_length=1)] = (1,)
    duration_s: Positive = 120.0
    #: Jobs that arrive before this are not measured.
    warmup_s: Seconds = 20.0
    #: The last so many seconds have no faults, attacks or churn: what was broken has to heal.
    quiet_s: Seconds = 0.0
    #: Faults of every kind, drawn from the seed.
    chaos: bool = False
    #: The daemon's profile whose settings ``node`` starts from.
    profile: Literal["wan", "lan", "local", "test"] = "wan"
    topology: Topology = Topology()
    hardware: Annotated[tuple[Hardware, ...], Meta(min_length=1)] = (Hardware(gpu="rtx 4090"),)
    #: An exact fleet instead of the shares of ``hardware``; newcomers are these machines again, from the first on.
    machine: tuple[ExactMachine, ...] = ()
    models: Models = Models()
    engine: EngineModel = EngineModel()
    workload: Workload = Workload()
    routing: Routing = Routing()
    lookups: Lookups = Lookups()
    node: NodeSettings = NodeSettings()
    churn: Churn = Churn()
    faults: tuple[Fault, ...] = ()
    attacks: tuple[Attack, ...] = ()
    measure: Measure = Measure()
    #: Values of dotted keys, every combination of which is a run.
    sweep: dict[str, list[Any]] = {}
    #: Bounds on metrics, as text: ``">= 0.995"``.
    goals: dict[str, str] = {}
