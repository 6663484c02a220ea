"""Small changes of meaning, one at a time, and whether the tests of a module see them.

    python tests/mutants.py                    # some changes of every module below
    python tests/mutants.py batches --count 0  # every change of one

Each change is made in a copy of ``src/``, where the module's tests are run until one fails. A
change that no test saw is a survivor: it is either harmless, or a test is missing. ``make mutants``
runs it; docs/reliability.md has what survived, and why.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
TESTED = {  # below src/equireg/ and tests/
    "binding": ["test_binding"],
    "files": ["test_files"],
    "inventory/__init__": ["test_inventory"],
    "inventory/blocks": ["test_inventory", "test_status"],
    "inventory/dates": ["test_inventory"],
    "inventory/tables": ["test_inventory"],
    "spelling": ["test_settings"],
    "symmetry/groups": ["test_groups", "test_representations", "test_compact"],
    "symmetry/spaces": ["test_spaces", "test_representations", "test_compact", "test_step"],
    "symmetry/invariants": ["test_spaces", "test_compact", "test_network"],
    "training/batches": ["test_batches", "test_randomness"],
    "training/schedules": ["test_step", "test_outside", "test_optimizers"],
    "training/start": ["test_step", "test_randomness", "test_outside", "test_built"],
    "training/step": ["test_step", "test_optimizers", "test_compiled", "test_built"],
    "jobs/aggregate": ["test_aggregate"],
    "claims/criteria": ["test_check", "test_agreement"],
}
PATIENCE = 300  # seconds; a change that makes tests run for ever is seen
TWINS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div,
    ast.Mod: ast.FloorDiv,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


class Change(NamedTuple):
    """One change: the line, what stood there and what does, the module's whole text."""

    line: int
    before: str
    after: str
    text: str


def changes(source: str) -> Iterator[Change]:
    """Every change of a module: operators, numbers, negations, calls that are left out."""
    tree = ast.parse(source)
    skipped = {id(node) for one in ast.walk(tree) if spared(one) for node in ast.walk(one)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for way in range(ways(node)):
            changed = copy.deepcopy(tree)
            place = next(n for i, n in enumerate(ast.walk(changed)) if i == index)
            before = ast.unparse(place)
            change(place, way)
            yield Change(
                getattr(node, "lineno", 0), before, ast.unparse(place), ast.unparse(changed)
            )


def spared(node: ast.AST) -> bool:
    """What is left as it is: what an error says, and ``strict`` of zip, which checks us alone."""
    return isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg == "strict")


def ways(node: ast.AST) -> int:
    """In how many ways a node can be changed."""
    if isinstance(node, ast.Compare):
        return len(node.ops)
    if isinstance(node, ast.BinOp):
        return int(type(node.op) in TWINS)
    if isinstance(node, ast.Constant):
        return int(type(node.value) in (int, float, bool))
    if isinstance(node, ast.Expr):
        return int(isinstance(node.value, ast.Call))
    return int(isinstance(node, ast.BoolOp | ast.If | ast.IfExp))


def change(node: ast.AST, way: int) -> None:
    """Change a node in place."""
    if isinstance(node, ast.Compare):
        node.ops[way] = TWINS[type(node.ops[way])]()  # type: ignore[call-overload]
    elif isinstance(node, ast.BinOp | ast.BoolOp):
        node.op = TWINS[type(node.op)]()  # type: ignore[assignment]
    elif isinstance(node, ast.Constant):
        value = node.value
        node.value = not value if isinstance(value, bool) else value + 1  # type: ignore[operator]
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(None)
    elif isinstance(node, ast.If | ast.IfExp):
        node.test = ast.UnaryOp(ast.Not(), node.test)


def seen(module: str, changed: str, folder: Path) -> bool:
    """Whether a test of the module fails with this text in its place."""
    file = folder / "equireg" / f"{module}.py"
    before = file.read_text(encoding="utf-8")
    file.write_text(changed, encoding="utf-8")
    files = [f"tests/{name}.py" for name in TESTED[module]]
    if ">>> " in before:
        name = f"equireg.{module}".replace("/", ".").removesuffix(".__init__")
        files.append(f"tests/test_doctests.py::test_examples[{name}]")
    words = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow and not long", *files]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        command = [sys.executable, "-m", "pytest", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, timeout=PATIENCE
        )
        return done.returncode != 0
    except subprocess.TimeoutExpired:
        return True
    finally:
        file.write_text(before, encoding="utf-8")


def main() -> None:
    """Print each survivor, and how many of each module's changes were seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("module", nargs="*", help=f"of {', '.join(TESTED)}; all")
    parser.add_argument("--count", type=int, default=20, help="of changes per module; 0: all")
    chosen = parser.parse_args()
    modules = [m for m in TESTED if not chosen.module or {m, *m.split("/")} & {*chosen.module}]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "src")
        shutil.copytree(ROOT / "src", folder, ignore=shutil.ignore_patterns("__pycache__"))
        for module in modules:
            source = (folder / "equireg" / f"{module}.py").read_text(encoding="utf-8")
            if seen(module, ast.unparse(ast.parse(source)), folder):
                sys.exit(f"{module}: its tests fail as it is")
            every = list(changes(source))
            drawn = random.Random(0).sample(every, min(chosen.count or len(every), len(every)))
            caught = 0
            for one in sorted(drawn):
                if seen(module, one.text, folder):
                    caught += 1
                else:
                    print(f"{module}.py:{one.line}: {one.before} -> {one.after}", flush=True)
            print(f"{module}: {caught} of {len(drawn)} seen, {len(every)} there", flush=True)


if __name__ == "__main__":
    main()
