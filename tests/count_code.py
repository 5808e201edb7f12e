"""Counts the lines of code of the four packages: blank lines, comments and docstrings do not count.

``python -m tests.count_code [FOLDER]``, where the folder is the root of a checkout (this one if none is given).
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

PACKAGES = ("protocol", "p2pnode", "bootstrap", "simulations")
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(text: str) -> int:
    """The lines of a module that hold code."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    spans = (range(token.start[0], token.end[0] + 1) for token in tokens if token.type not in NO_CODE)
    return len({line for span in spans for line in span} - docstrings)


def count(root: Path) -> Counter[str]:
    """Lines of code by package."""
    return Counter(
        {
            package: sum(code_lines(path.read_text(encoding="utf-8")) for path in (root / package).rglob("*.py"))
            for package in PACKAGES
        }
    )


if __name__ == "__main__":
    lines = count(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent.parent)
    print(*(f"{package} {lines[package]}" for package in PACKAGES), f"all {lines.total()}", sep="\n")
