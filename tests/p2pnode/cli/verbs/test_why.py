"""``p2pnode why``: the terms of every candidate, who was left out, and the attempts of a request."""

from __future__ import annotations

import pytest

from p2pnode.cli import app
from p2pnode.cli.exits import OK, USAGE
from p2pnode.cli.verbs import why
from tests.p2pnode.cli.fake_daemon import ROUTE, FakeDaemon


def test_why_shows_terms_and_who_was_left_out(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.answers["/v1/p2p/route"] = (200, ROUTE)
    assert app.run(["why", "mock-8b", "--prompt-tokens", "100", "--max-tokens", "7"]) == OK
    text = capsys.readouterr().out
    assert "1. ABCDEFGH ada  asked first in 91 % of requests, score 1.25" in text
    assert "warm, 0.8 ms away, link: standing" in text
    assert "bandwidth" in text
    assert "declared" in text
    assert "3 missed probes" in text
    assert max(map(len, text.splitlines())) <= 80
    assert "draws" not in text
    body = daemon.asked[0][2]
    assert (len(body["messages"][0]["content"]), body["max_tokens"]) == (400, 7)


def test_the_order_is_said_to_be_drawn_and_the_likeliest_is_shown_first(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]
) -> None:
    (one,) = ROUTE["candidates"]
    slow = one | {"peer": "12D3KooWslow", "short": "SLOWSLOW", "name": "\\[/x]", "odds": 0.0004, "link": "new"}
    held = one | {"peer": "12D3KooWheld", "short": "HELDHELD", "odds": 0.0, "needs": ["a free slot"], "link": "self"}
    route = ROUTE | {"candidates": [slow, held, one], "order": [slow["peer"], held["peer"], one["peer"]]}
    second = {"short": "SLOWSLOW", "name": "\\[/x]", "ahead": one, "gap": 0.42, "unit": "s", "needs": []}
    daemon.answers["/v1/p2p/route"] = (200, route | {"drawn": True, "temperature": 0.3, "runner_up": second})
    assert app.run(["why", "mock-8b"]) == OK
    text = capsys.readouterr().out
    assert "Each request draws its order (temperature 0.3): twice as good is first 10 times as often." in text
    assert "This time: SLOWSLOW \\[/x], HELDHELD ada, ABCDEFGH ada." in text
    assert "SLOWSLOW \\[/x] is second to ABCDEFGH ada: it would have to be 420 ms sooner." in text
    assert text.index("1. ABCDEFGH") < text.index("2. SLOWSLOW") < text.index("3. HELDHELD")
    assert "asked first in < 0.1 % of requests" in text
    assert "asked after the others" in text
    assert "this node, lacks a free slot" in text
    assert "link: new" in text


def test_the_best_of_several_drawn_ones_is_said(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = ROUTE["candidates"]
    drawn = {"drawn": True, "temperature": 0.3, "best_of": 3, "order": [one["peer"]] * 2}
    daemon.answers["/v1/p2p/route"] = (200, ROUTE | {"candidates": [one, one]} | drawn)
    assert app.run(["why", "mock-8b"]) == OK
    assert "of the first 3 with a fresh load the soonest is asked first." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"gap": 0.0, "unit": "s"}, "they are equal"),
        ({"gap": 0.17, "unit": "s", "by": "first token"}, "its first token would have to be 170 ms sooner"),
        ({"gap": 0.002, "unit": "USD"}, "0.002 USD cheaper"),
        ({"gap": 0.012, "unit": "1/s"}, "12 ms faster at each token"),
        ({"gap": 0.5, "unit": "jobs"}, "0.5 jobs per slot less"),
        ({"gap": 0.25, "unit": ""}, "its score would have to be 0.25 higher"),
        ({"gap": 1.0, "unit": "s", "needs": ["the model loaded", "a free slot"]}, "the model loaded and a free slot"),
    ],
)
def test_the_runner_up_is_told_what_it_would_have_needed(
    daemon: FakeDaemon, capsys: pytest.CaptureFixture[str], second: dict[str, object], words: str
) -> None:
    (one,) = ROUTE["candidates"]
    found = {"short": "SLOWSLOW", "name": "", "ahead": one, "needs": []} | second
    daemon.answers["/v1/p2p/route"] = (200, ROUTE | {"runner_up": found})
    assert app.run(["why", "mock-8b"]) == OK
    assert words in capsys.readouterr().out


def test_odds_look_neither_like_never_nor_like_always() -> None:
    assert [why.percent(share) for share in (0.0, 0.0004, 0.137, 0.5, 0.99999, 1.0)] == [
        "0 %",
        "< 0.1 %",
        "13.7 %",
        "50 %",
        "99.9 %",
        "100 %",
    ]


def test_why_of_a_request_shows_its_attempts(daemon: FakeDaemon, capsys: pytest.CaptureFixture[str]) -> None:
    attempts = [{"peer": "12D3KooWABCDEFGH", "outcome": "failed", "code": "link_broken", "ms": 12.0}]
    daemon.answers["/v1/jobs/req_1"] = (200, {"id": "req_1", "model": "m", "state": "failed", "attempts": attempts})
    assert app.run(["why", "--request", "req_1"]) == OK
    assert "link_broken" in capsys.readouterr().out
    assert app.run(["why"]) == USAGE
    assert app.run(["why", "m", "--request", "x"]) == USAGE
