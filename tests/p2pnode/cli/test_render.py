"""Tables and units for people: they read well, and names from the network cannot draw on the terminal."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from rich.text import Text

from p2pnode.cli import render
from p2pnode.cli.render import Column

#: What a peer may call itself to break a program that reads names as markup.
NAMES = ("\\[/x]", "[/]", "[bold]", "\\", "a\\[b", "[link=http://x]y[/link]", ":smile:")


def drawn(columns: tuple[Column, ...], rows: list[list[str | Text]], width: int) -> list[str]:
    screen = io.StringIO()
    render.print_table(Console(file=screen, width=width, markup=False, emoji=False), columns, rows)
    return screen.getvalue().splitlines()


def test_names_from_the_network_cannot_draw_on_the_terminal() -> None:
    assert render.safe("\x1b[31mred[/]\n") == "?[31mred[/]?"
    assert render.safe("\u202eright to left") == "?right to left"
    assert len(render.safe("x" * 100, 10)) == 10
    assert render.safe("x" * 128) == "x" * 128, "the longest name of a model"


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_never_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert drawn((Column("name", whole=True),), [[render.safe(name)]], 80) == ["name", name]
    console = render.out()
    console.print(f"{render.safe(name)} at the start")
    render.print_whole(console, render.text((render.safe(name), "bold"), " in bold"))
    assert capsys.readouterr().out == f"{name} at the start\n{name} in bold\n"


def test_json_is_complete_and_cannot_draw_on_the_terminal_either(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["\x9b31mred", "\u202eright to left", "\U000e0041 a tag", "line\nbreak", "Müller 🦙", "\x7f"]
    render.print_json({"names": names})
    text = capsys.readouterr().out
    assert json.loads(text) == {"names": names}
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "Müller 🦙" in text


COLUMNS = (Column("name", whole=True), Column("gpu"), Column("GiB", right=True, spare=1), Column("rtt", spare=2))
ROW: list[str | Text] = ["hugging-quants/Meta-Llama", "GeForce RTX 4090", "12/24", "0.5 ms"]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (80, "hugging-quants/Meta-Llama  GeForce RTX 4090  12/24  0.5 ms"),
        (50, "hugging-quants/Meta-Llama  GeForce RTX 4090  12/24"),
        (49, "hugging-quants/Meta-Llama  GeForce RTX 40…  12/24"),
        (40, "hugging-quants/Meta-Llama  GeForce RTX …"),
        (10, "hugging-quants/Meta-Llama  GeForce R…"),
    ],
)
def test_a_narrow_terminal_leaves_out_spare_columns_then_cuts_text_and_never_a_name(width: int, line: str) -> None:
    assert drawn(COLUMNS, [ROW], width)[1] == line


def test_numbers_stand_right_and_wide_characters_count_twice() -> None:
    assert drawn((Column("n", right=True), Column("x")), [["1", "a"], ["100", "b"]], 80) == [
        "  n  x",
        "  1  a",
        "100  b",
    ]
    assert drawn((Column("名", whole=True), Column("x")), [["名前", "a"]], 80) == ["名    x", "名前  a"]


def test_without_a_terminal_lines_have_any_length(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    render.out().print("x" * 500)
    assert capsys.readouterr().out == "x" * 500 + "\n"


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
