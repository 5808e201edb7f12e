"""The table of blame: the one for people says what the data says."""

from __future__ import annotations

import re

import pytest

from protocol.reputation import outcomes
from protocol.reputation.outcomes import VERDICTS, Outcome


def documented() -> dict[str, tuple[str, ...]]:
    """The rows of the module's docstring: blame, complete, live, risk, network."""
    assert outcomes.__doc__ is not None
    rows = re.findall(
        r"^(\w+) +(yes|no) +(\S+(?: x \d)?) +(\S+(?: x \d)?) +(yes|no) +(yes|no) +\S", outcomes.__doc__, re.M
    )
    return {name: tuple(cells) for name, *cells in rows}


def written(evidence: tuple[float, float] | None) -> str:
    """Evidence as the table writes it."""
    return "-" if evidence is None else f"{evidence[0]:g} x {evidence[1]:g}"


@pytest.mark.parametrize("outcome", Outcome)
def test_the_table_for_people_is_the_data(outcome: Outcome) -> None:
    verdict = VERDICTS[outcome]
    said = (verdict.blame, written(verdict.complete), written(verdict.live), verdict.risk, verdict.network)
    words = {True: "yes", False: "no"}
    assert documented()[outcome] == tuple(words.get(each, each) if isinstance(each, bool) else each for each in said)


def test_only_blame_brings_bad_evidence_and_only_a_whole_answer_good() -> None:
    for outcome, verdict in VERDICTS.items():
        bad = any(said is not None and said[0] < 1 for said in (verdict.complete, verdict.live))
        assert bad == verdict.blame
        good = verdict.complete is not None and verdict.complete[0] == 1
        assert good == (outcome is Outcome.COMPLETED)
        assert verdict.blame or not verdict.network
