"""A repeatable sample of mutants of one module: ``make mutants FILE=protocol/… [N=15] [SEED=1] [TESTS=…]``.

Each mutant changes one place of a copy of the tree, and the tests have to fail there.  First run the module's own tests
(``tests/a/test_b.py`` for ``a/b.py``), then the rest of their folder.  Not every survivor is a gap: some mutants do the
same as the original.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult},
    **{ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd},
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And},
}
#: Pytest ends a test after so many seconds (a mutant may loop), or after this multiple of the time of the whole run.
LEAST_S, SLACK = 30.0, 5.0


def changed(node: ast.AST) -> Iterator[str]:
    """The source texts by which a mutant may replace this node."""
    match node:
        case ast.BinOp(op=op) | ast.BoolOp(op=op) if type(op) in SWAPPED:
            yield ast.unparse(_with(node, op=SWAPPED[type(op)]()))
        case ast.Compare(ops=[op, *rest]) if type(op) in SWAPPED:
            yield ast.unparse(_with(node, ops=[SWAPPED[type(op)](), *rest]))
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield f"({ast.unparse(operand)})"
        case ast.Constant(value=bool() as value):
            yield str(not value)
        case ast.Constant(value=int() | float() as value):
            yield repr(value + 1)
        case ast.If(test=test) | ast.While(test=test) | ast.IfExp(test=test):
            yield f"not ({ast.unparse(test)})"
        case ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Delete() | ast.Continue() | ast.Break():
            yield "pass"
        case ast.Return(value=value) if value is not None:
            yield "return None"
        case ast.Expr(value=value) if not isinstance(value, ast.Constant):
            yield "pass"


def _with(node: Any, **fields: Any) -> ast.AST:
    return type(node)(**{name: getattr(node, name) for name in node._fields} | fields)


def places(node: ast.AST, *, inside: bool = False) -> Iterator[tuple[ast.AST, str]]:
    """Where a mutant may change what the code does, and to what: not in types, assertions or texts."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list") or (isinstance(node, ast.ClassDef) and name != "body"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.Assert | ast.JoinedStr):
                continue
            within = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            if inside or isinstance(child, ast.Constant | ast.UnaryOp):
                at = child.test if isinstance(child, ast.If | ast.While | ast.IfExp) else child
                yield from ((at, text) for text in changed(child))
            yield from places(child, inside=within)


def mutants(source: str) -> list[tuple[int, str]]:
    """Every mutant of a module: the line that it changes, and its whole source."""
    starts = [0]
    for line in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for at, text in places(ast.parse(source)):
        first, last = starts[at.lineno - 1] + at.col_offset, starts[at.end_lineno - 1] + at.end_col_offset
        mutant = (source.encode()[:first] + text.encode() + source.encode()[last:]).decode()
        found.append((at.lineno, mutant))
    return found


def stages(root: Path, file: Path, tests: list[str]) -> list[list[str]]:
    """The arguments of pytest, one run after the other: the module's own tests, then the others."""
    if tests:
        return [[each] for each in tests]
    own = Path("tests", file.parent, f"test_{file.stem}.py")
    folder = next(each for each in own.parents if (root / each).is_dir())
    return [*([[str(own)]] if (root / own).exists() else []), [str(folder), f"--ignore={own}"]]


def killed(copy: Path, runs: list[list[str]], limit_s: float) -> bool:
    """Whether a test fails in the copy."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", f"--timeout={limit_s:.0f}"]
    # A mutant of the same size and second would be taken for the compiled file of the one before.
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    for run in runs:
        command = [sys.executable, "-m", "pytest", *options, *run]
        try:
            done = subprocess.run(
                command, check=False, cwd=copy, env=environment, capture_output=True, timeout=4 * limit_s
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode not in (0, 5):  # 5: there are no tests but those of the first run
            return True
    return False


def sample(root: Path, file: Path, runs: list[list[str]], n: int, seed: int) -> int:
    """Try ``n`` mutants of a file; the exit code says whether one survived."""
    source = (root / file).read_text(encoding="utf-8")
    every = mutants(source)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listing, cwd=root, check=True, capture_output=True, text=True).stdout.split("\0"):
            if name and (root / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(root / name, copy / name)
        began = time.monotonic()
        if killed(copy, runs, 600.0):
            sys.exit(f"the tests fail without a mutant: pytest {' '.join(each for run in runs for each in run)}")
        limit_s = max(LEAST_S, SLACK * (time.monotonic() - began))
        survivors = 0
        chosen = sorted(random.Random(seed).sample(every, min(n, len(every))))
        for line, mutant in chosen:
            (copy / file).write_text(mutant, encoding="utf-8")
            dead = killed(copy, runs, limit_s)
            survivors += not dead
            print(f"{'killed  ' if dead else 'SURVIVED'} {file}:{line}", flush=True)
            if not dead:
                lines = difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=2, lineterm="")
                print(*list(lines)[2:], sep="\n", flush=True)
    print(f"{file}: {len(chosen) - survivors} of {len(chosen)} mutants killed (of {len(every)} possible, seed {seed})")
    return 1 if survivors else 0


def main(arguments: list[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--n", type=int, default=15)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tests", nargs="*", default=[], help="run these instead, in this order")
    options = parser.parse_args(arguments)
    try:
        return sample(root, options.file, stages(root, options.file, options.tests), options.n, options.seed)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
