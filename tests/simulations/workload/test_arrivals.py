"""Arrivals have the rates, bursts, lengths and beginnings that the scenario asks for, and are the same every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest

from simulations.scenario import Lengths, Model, Models
from simulations.workload.arrivals import mixed
from simulations.workload.workload import Arrival, arrivals
from tests.simulations.workload.sample_workloads import THREE, jobs, scenario


def gaps(found: list[Arrival]) -> np.ndarray:
    return np.diff([job.at for job in found])


@pytest.mark.parametrize("kind", ["poisson", "bursty", "diurnal", "flash", "sessions"])
def test_jobs_come_in_order_until_the_end(kind: str) -> None:
    found = jobs(scenario(kind, 40.0), 50.0)
    assert all(one.at <= two.at for one, two in pairwise(found))
    assert 0 <= found[0].at < found[-1].at < 40.0
    assert all(0 <= job.entry < 1 for job in found)


@pytest.mark.parametrize("kind", ["none", "poisson", "bursty", "diurnal", "flash", "sessions"])
def test_silence_is_silent(kind: str) -> None:
    assert jobs(scenario(kind), 10.0 if kind == "none" else 0.0) == []


def test_poisson_has_its_rate_and_no_bursts() -> None:
    between = gaps(jobs(scenario("poisson"), 100.0))
    assert len(between) == pytest.approx(10_000, abs=4 * 100)
    assert between.std() / between.mean() == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("cv", [0.5, 2.0, 4.0])
def test_bursts_have_their_coefficient_of_variation(cv: float) -> None:
    between = gaps(jobs(scenario("bursty", cv=cv), 200.0))
    assert len(between) == pytest.approx(20_000, abs=4 * cv * 20_000**0.5)
    assert between.std() / between.mean() == pytest.approx(cv, rel=0.1)


def test_bursts_do_not_begin_with_one() -> None:
    # Counted from a job on, a cv of 8 would bring (cv^2 - 1) / 2 = 31 more than the rate says.
    counts = [len(jobs(scenario("bursty", 20.0, cv=8.0), 1.0, seed)) for seed in range(300)]
    assert np.mean(counts) == pytest.approx(20, abs=4 * np.std(counts) / 300**0.5)
    assert np.std(counts) / 300**0.5 < 4


def test_a_day_swings() -> None:
    at = np.array([job.at for job in jobs(scenario("diurnal", 200.0, swing=0.8, day_s=200.0), 100.0)])
    counts = np.histogram(at, bins=4, range=(0, 200))[0]
    # The mean of a sine over a quarter is 2 / pi at its top; jobs of the two halves mirror each other.
    up, down = 5000 * (1 + 0.8 * 2 / np.pi), 5000 * (1 - 0.8 * 2 / np.pi)
    assert counts == pytest.approx([up, up, down, down], rel=0.05)


def test_a_flash_crowd_comes_and_goes() -> None:
    given = scenario("flash", flash_factor=6.0, flash_at_s=40.0, flash_for_s=20.0)
    counts = np.histogram([job.at for job in jobs(given, 50.0)], bins=5, range=(0, 100))[0]
    assert counts == pytest.approx([1000, 1000, 6000, 1000, 1000], rel=0.1)


def test_lengths_are_log_normal_within_their_bounds() -> None:
    given = scenario(
        "poisson",
        models=Models(catalogue=(Model(name="a-8b"),)),
        prompt=Lengths(median=300, sigma=0.7, least=50, most=3000),
        output=Lengths(median=100, sigma=0.5, most=400),
    )
    found = jobs(given, 100.0)
    prompts = np.array([job.prompt_tokens for job in found])
    outputs = np.array([job.output_tokens for job in found])
    assert np.median(prompts) == pytest.approx(300, rel=0.05)
    assert np.percentile(prompts, 84.13) == pytest.approx(300 * np.exp(0.7), rel=0.06)
    assert (prompts.min(), prompts.max()) == (50, 3000)
    assert np.log(outputs[outputs < 400]).std() == pytest.approx(0.5, abs=0.04)
    assert abs(np.corrcoef(prompts, outputs)[0, 1]) < 0.05


def test_no_job_is_larger_than_its_model() -> None:
    context = {model.name: model.context for model in THREE}
    found = jobs(scenario("poisson", prompt=Lengths(median=3000), output=Lengths(median=900, most=9000)), 100.0)
    assert all(job.prompt_tokens >= 1 and job.output_tokens >= 1 for job in found)
    assert all(job.prompt_tokens + job.max_tokens <= context[job.model] for job in found)
    assert any(job.prompt_tokens + job.output_tokens == 2048 for job in found)


def test_callers_declare_too_much_in_round_numbers() -> None:
    found = jobs(scenario("poisson", models=Models(catalogue=(Model(name="a-8b", context=1 << 20),))), 50.0)
    over = np.array([job.max_tokens / job.output_tokens for job in found])
    assert over.min() >= 1
    assert over.max() <= 16
    assert all(job.max_tokens & (job.max_tokens - 1) == 0 for job in found)
    # The truth cannot be read off: half of the limits are more than four times as much.
    assert 3 < np.median(over) < 6


def test_models_are_asked_for_by_popularity_until_it_shifts() -> None:
    catalogue = tuple(Model(name=f"m{number}-8b") for number in range(4))
    found = jobs(scenario("poisson", models=Models(catalogue=catalogue, zipf=1.0, shift_at_s=50.0)), 200.0)
    early = Counter(job.model for job in found if job.at < 50)
    late = Counter(job.model for job in found if job.at >= 50)
    wanted = np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (25 / 12)
    names = [model.name for model in catalogue]
    assert [early[name] / early.total() for name in names] == pytest.approx(wanted, abs=0.02)
    assert [late[name] / late.total() for name in names] == pytest.approx(np.roll(wanted, 2), abs=0.02)


def test_the_lengths_leave_the_times_alone() -> None:
    one = jobs(scenario("poisson"), 20.0)
    other = jobs(scenario("poisson", prompt=Lengths(median=50), streamed=0.5), 20.0)
    assert [(job.at, job.model, job.entry) for job in one] == [(job.at, job.model, job.entry) for job in other]
    assert sum(job.streamed for job in other) / len(other) == pytest.approx(0.5, abs=0.05)
    assert all(job.streamed for job in one)


def test_seeds_differ() -> None:
    assert jobs(scenario("poisson"), 5.0, 1) != jobs(scenario("poisson"), 5.0, 2)


def test_mixing_is_uniform_and_by_number() -> None:
    draws = mixed(np.arange(20_000), 12345)
    assert np.histogram(draws, bins=10, range=(0, 1))[0] == pytest.approx([2000] * 10, rel=0.1)
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.03
    np.testing.assert_array_equal(mixed(np.array([7, 7, 19]), 12345), draws[[7, 7, 19]])


# --- determinism -----------------------------------------------------------------------------------------------------

KINDS = (
    *("Workload(kind='poisson')", "Workload(kind='bursty')", "Workload(kind='sessions')"),
    *(f"Workload(kind='trace', trace={name!r})" for name in ("azure-code", "mooncake-conversation", "servegen")),
)
PROGRAM = f"""
import hashlib
from simulations.scenario import Model, Models, Scenario, Topology, Workload
from simulations.workload.workload import arrivals
from simulations.sim.machines import machine
from simulations.sim.capacity import capacity
from simulations.sim.topology import latencies
digest = hashlib.sha256()
for workload in ({", ".join(KINDS)}):
    models = Models(catalogue=tuple(Model(name=name) for name in ("a-8b", "b-3b", "c-1b")), warm=2, on_disk=1)
    given = Scenario(name="x", duration_s=30, workload=workload, models=models, topology=Topology(nodes=20))
    for job in arrivals(given, 3, 20.0):
        digest.update(repr(job).encode())
    digest.update(repr(capacity(given, 3)).encode())
digest.update(repr([machine(given, 3, index) for index in range(20)]).encode())
found = latencies(given.topology, 3)
digest.update(repr([(found.region(a), found.one_way_s(a, 3), found.jitter_of(3, a)) for a in range(30)]).encode())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_everything_is_the_same_under_other_hashes() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("0", "1", "77")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == hashlib.sha256().digest_size * 2


def test_arrivals_are_made_when_they_are_asked_for() -> None:
    # A year at a million per second: only what is taken is made.
    endless = arrivals(scenario("poisson", 3e7), 1, 1e6)
    assert len(list(islice(endless, 10))) == 10
