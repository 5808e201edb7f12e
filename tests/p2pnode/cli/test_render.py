"""Tables and units for people: they read well, and names from the network cannot draw on the terminal."""

from __future__ import annotations

from p2pnode.cli import render


def test_names_from_the_network_cannot_draw_on_the_terminal() -> None:
    assert render.safe("\x1b[31mred[/]\n") == "?\\[31mred\\[/]?"
    assert len(render.safe("x" * 100, 10)) == 10


def test_units_read_well() -> None:
    assert [render.seconds(value) for value in (None, 0.0013, 0.25, 3.44, 42, 300, 7200, 200000)] == [
        "-",
        "1.3 ms",
        "250 ms",
        "3.4 s",
        "42 s",
        "5 min",
        "2 h",
        "2 d",
    ]
    assert [render.gib(value) for value in (0, None, 512, 24564)] == ["-", "-", "0.5", "24"]
