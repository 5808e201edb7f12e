"""Checks the rules of a scenario that no type expresses: names in tables and registries, times after the end, shares
above 1 in sum, runs that would never end and faults that would never happen.

Each point of a sweep is checked.  Not here: types and the words of a message (``schema``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from math import inf, nextafter
from pathlib import Path
from typing import Final

from protocol.perf.gpu_catalog import find_gpu, gpu_names, model_names, shape_of
from protocol.routing.policies import POLICIES, SORTS
from protocol.statements.envelope import MAX_TTL_S
from simulations.attackers import KINDS as ATTACKS
from simulations.experiment.schema import Problem, listed, meant, none_of, shown
from simulations.faults.chaos import drowned
from simulations.faults.faults import KINDS as FAULTS
from simulations.scenario import Fault, Scenario
from simulations.sim.baselines import BASELINES
from simulations.sim.topology import regions_of
from simulations.workload.traces import NAMES as TRACES
from simulations.workload.traces import BadTrace, check

#: Settings of ``node`` that may be 0: a tolerance, a queue, a saving; without any of the others nothing would go.
MAY_BE_ZERO: Final = ("burst_bytes", "load_change", "marks_s", "probes", "queue", "skew_s")
#: The least time between two turns of anything, seconds: shorter ones would be nothing but events (guess).
LEAST_S: Final = 0.01
#: From, to: what ``amount`` of a fault may be where 0 and more is not right (``faults`` says what it means).  Holds
#: shorter than 10 ms would be nothing but events (guess).
AMOUNTS: Final[dict[str, tuple[float, float]]] = {
    "bandwidth_cap": (0.001, inf),
    "clock_jump": (-inf, inf),
    "drop": (0.0, 1.0),
    "hold": (0.01, inf),
    "slow_cpu": (1.0, inf),
    "throttle": (0.0, 1.0),
}
#: A model is a mistyped one of the table if it has the same numbers and so much in common with it (guess).
MISTYPED: Final = 0.9


def by_meaning(scenario: Scenario) -> Iterator[Problem]:
    """The mistakes in values of the right type."""
    yield from _names(scenario)
    yield from _trace(scenario)
    yield from _sizes(scenario)
    yield from _times(scenario)
    yield from _quiet(scenario)
    yield from _faults(scenario)
    yield from _attacks(scenario)
    yield from _settings(scenario)


# --- names -----------------------------------------------------------------------------------------------------------


def _names(scenario: Scenario) -> Iterator[Problem]:
    yield from _one_of("routing.policy", scenario.routing.policy, dict.fromkeys((*POLICIES, *SORTS, *BASELINES)))
    gpus = [(f"hardware.{index}.gpu", machine.gpu) for index, machine in enumerate(scenario.hardware)]
    gpus += [(f"machine.{index}.gpu", machine.gpu) for index, machine in enumerate(scenario.machine) if machine.gpu]
    for key, gpu in gpus:
        if find_gpu(gpu) is None:
            says = f"= {shown(gpu)} is not in the table of GPUs{meant(gpu, gpu_names())}"
            digits = "".join(filter(str.isdigit, gpu))
            alike = [name for name in gpu_names() if digits and digits in name]
            yield Problem(key, f"{says}; there are {listed(alike or gpu_names())}")
    for index, fault in enumerate(scenario.faults):
        yield from _one_of(f"faults.{index}.kind", fault.kind, FAULTS)
    for index, attack in enumerate(scenario.attacks):
        yield from _one_of(f"attacks.{index}.kind", attack.kind, ATTACKS)
    for index, model in enumerate(scenario.models.catalogue):
        if not model.params_b and (says := _no_model(model.name)):
            own = "a model of your own says params_b, its parameters in 10^9"
            yield Problem(f"models.catalogue.{index}.name", f"= {shown(model.name)} {says}; {own}")


def _no_model(name: str) -> str:
    """Why the model is unknown, or nothing: the model is in the table, or its name gives its size."""
    shape = shape_of(name)
    near = [known for known in model_names() if _mistyped(name.lower(), known)]
    if shape.known or (shape.sized and not near):
        return ""
    known = "" if near else f": these are {listed(model_names())}"
    return f"is not in the table of models{meant(name, near or model_names())}{known}"


def _mistyped(name: str, known: str) -> bool:
    same = re.findall(r"\d+", name) == re.findall(r"\d+", known)
    return same and SequenceMatcher(None, name, known).ratio() >= MISTYPED


def _trace(scenario: Scenario) -> Iterator[Problem]:
    trace = scenario.workload.trace
    if scenario.workload.kind == "trace" and trace not in TRACES and not Path(trace).is_file():
        what = f"= {shown(trace)} is neither a trace nor a file" if trace else "is missing"
        yield Problem("workload.trace", f"{what}{meant(trace, TRACES)}; the traces are {listed(TRACES)}")
    elif scenario.workload.kind == "trace" and trace not in TRACES:
        try:
            check(scenario)
        except BadTrace as error:
            yield Problem("workload.trace", f"cannot be replayed: {error}")


# --- numbers ---------------------------------------------------------------------------------------------------------


def _sizes(scenario: Scenario) -> Iterator[Problem]:
    topology = scenario.topology
    if topology.seeds > topology.nodes:
        yield Problem("topology.seeds", f"= {topology.seeds} is more than topology.nodes, which is {topology.nodes}")
    machines = sum(one.count for one in scenario.machine)
    if scenario.machine and machines != topology.nodes:
        yield Problem("topology.nodes", f"= {topology.nodes} has to be the number of all [[machine]]: {machines}")
    if scenario.machine and scenario.models.without_engine:
        says = "has no sense with [[machine]]: one without a gpu is a node without an engine"
        yield Problem("models.without_engine", says)
    for key, lengths in (("prompt", scenario.workload.prompt), ("output", scenario.workload.output)):
        if lengths.least > lengths.most:
            yield Problem(f"workload.{key}.least", f"= {lengths.least} is more than most, which is {lengths.most}")


def _times(scenario: Scenario) -> Iterator[Problem]:
    end = scenario.duration_s
    for key, value in (("warmup_s", scenario.warmup_s), ("quiet_s", scenario.quiet_s)):
        if value >= end:
            yield Problem(key, f"= {value:g} leaves nothing of the {end:g} s of duration_s")
    if max(scenario.warmup_s, scenario.quiet_s) < end <= scenario.warmup_s + scenario.quiet_s:
        both = f"= {scenario.warmup_s:g} and quiet_s = {scenario.quiet_s:g}"
        yield Problem("warmup_s", f"{both} leave nothing of the {end:g} s of duration_s, so no job would be measured")
    for index, attack in enumerate(scenario.attacks):
        if 0 < attack.until_s <= attack.from_s:
            says = f"= {attack.until_s:g} is not after from_s, which is {attack.from_s:g}; 0 is to the end"
            yield Problem(f"attacks.{index}.until_s", says)


def _quiet(scenario: Scenario) -> Iterator[Problem]:
    """Nothing begins once everything has to heal, and there is time to see that it does (I9)."""
    end, quiet, liveness = scenario.duration_s, scenario.quiet_s, scenario.measure.liveness_s
    begins = [(f"faults.{index}.at_s", fault.at_s) for index, fault in enumerate(scenario.faults)]
    begins += [(f"attacks.{index}.from_s", attack.from_s) for index, attack in enumerate(scenario.attacks)]
    begins += [("churn.crowd_at_s", scenario.churn.crowd_at_s)] * (scenario.churn.crowd_factor > 0)
    for key, at in begins:
        if at >= end:
            yield Problem(key, f"= {at:g} is after the end: duration_s is {end:g}")
        elif at >= end - quiet:
            last = f"the last {quiet:g} s (quiet_s) of {end:g} (duration_s)"
            yield Problem(key, f"= {at:g} is in the quiet phase, {last}: it must be below {end - quiet:g}")
    if scenario.chaos and not quiet:
        says = f"= 0 is wrong with chaos: what it breaks has to heal, so it must be at least {liveness:g}"
        yield Problem("quiet_s", f"{says}, which is measure.liveness_s")
    elif 0 < quiet < liveness:
        says = f"= {quiet:g} is less than measure.liveness_s, which is {liveness:g}"
        yield Problem("quiet_s", f"{says}: the network could not be found whole within it; lengthen it or lower that")


# --- faults and attacks ----------------------------------------------------------------------------------------------


def _faults(scenario: Scenario) -> Iterator[Problem]:
    nodes = scenario.topology.nodes
    for index, fault in enumerate(scenario.faults):
        for place, node in enumerate(fault.nodes):
            if node >= nodes:
                says = f"= {node} is no node: the {nodes} of topology.nodes count from 0 to {nodes - 1}"
                yield Problem(f"faults.{index}.nodes.{place}", says)
        least, most = AMOUNTS.get(fault.kind, (0.0, inf))
        if fault.amount and not least <= fault.amount <= most:
            bound = f"of at least {least:g}" if most == inf else f"from {least:g} to {most:g}"
            says = f"= {fault.amount:g} is wrong: for {fault.kind} it must be a number {bound}; 0 is what is usual"
            yield Problem(f"faults.{index}.amount", says)
        if fault.kind == "partition":
            yield from _sides(fault, f"faults.{index}", scenario.topology.latency)
    for index, loss in drowned(scenario, scenario.faults):
        says = "must stay below 1, topology.loss and all that overlap taken together: else nothing would ever arrive"
        lost = f"makes it {loss:g} of all segments that are lost at that time"
        yield Problem(f"faults.{index}.amount", f"{lost}; it {says}")


def _sides(fault: Fault, key: str, latency: str) -> Iterator[Problem]:
    """A partition that cuts nothing."""
    if not fault.regions:
        if sum(share > 0 for share in fault.groups) < 2:
            yield Problem(f"{key}.groups", f"= {shown(list(fault.groups))} has fewer than two sides with nodes")
        return
    known = regions_of(latency)
    if len(known) == 1:
        says = f"has no sense here: topology.latency = {latency} has but one region; use groups"
        yield Problem(f"{key}.regions", says)
        return
    for place, region in enumerate(fault.regions):
        yield from _one_of(f"{key}.regions.{place}", region, known)
    if set(known) <= set(fault.regions):
        yield Problem(f"{key}.regions", "has every region there is: nobody would be on the other side")


def _attacks(scenario: Scenario) -> Iterator[Problem]:
    nodes = scenario.topology.nodes
    for index, attack in enumerate(scenario.attacks):
        for place, node in enumerate(attack.nodes):
            if not scenario.topology.seeds <= node < nodes:
                says = f"= {node} is no node that may be bad: these are {scenario.topology.seeds} to {nodes - 1}"
                yield Problem(f"attacks.{index}.nodes.{place}", says)
    drawn = [attack for attack in scenario.attacks if not attack.nodes]
    whole = sum(attack.share for attack in drawn)
    if whole > 1 + 1e-9:  # as many tenths as you like
        shares = " + ".join(f"{attack.share:g}" for attack in drawn)
        says = f"is too much: the shares of all attacks are {shares} = {whole:g}, more than all nodes"
        yield Problem(f"attacks.{len(scenario.attacks) - 1}.share", says)


def _settings(scenario: Scenario) -> Iterator[Problem]:
    for part in scenario.node.__struct_fields__:
        settings = getattr(scenario.node, part)
        for name in settings.__struct_fields__:
            value = getattr(settings, name)
            if not isinstance(value, int | float):
                continue
            least = 0.0 if name in MAY_BE_ZERO else LEAST_S if name.endswith("_s") else nextafter(0.0, 1.0)
            most = MAX_TTL_S if name == "provider_ttl_s" else inf
            if not least <= value <= most:
                below = "" if most == inf else f" and at most {most:g}"
                above = f"of at least {least:g}" if least in (0.0, LEAST_S) else "above 0"
                yield Problem(f"node.{part}.{name}", f"= {value:g} is wrong: it must be a number {above}{below}")


def _one_of(key: str, value: str, known: Iterable[str]) -> Iterator[Problem]:
    if value not in known:
        yield Problem(key, none_of(value, known))
