"""The rooms and the ways between them: what docs/architecture.md draws, read from the imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from equireg.digest import SOURCES, ancestry, imports, locate

PACKAGE = SOURCES / "equireg"
# The public doors: they lead to rooms, and no room goes through them.
DOORS = {"equireg.groups", "equireg.nonlinearities", "equireg.representations"}
LONGEST = 400  # lines of a module; a longer one says why at its head


def modules() -> dict[str, Path]:
    """Every module of the package, and its file."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(SOURCES).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def drawn() -> dict[str, set[str]]:
    """Of each room in the picture of docs/architecture.md: where its arrows lead, step by step."""
    text = (SOURCES.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"flowchart BT\n(.*?)```", text, re.DOTALL)
    arrows: dict[str, set[str]] = {}
    for line in re.sub(r"\[.*?\]", "", picture).splitlines():
        above, _, below = line.partition("-->")
        for name in above.split("&"):
            arrows.setdefault(name.strip(), set()).update(map(str.strip, below.split("&")))
    found = {name: {*below} for name, below in arrows.items()}
    for _ in found:
        for reached in found.values():
            reached.update(*(found.get(name, set()) for name in [*reached]))
    return found


BELOW = drawn()


def place(module: str) -> str:
    """The room of a module as the picture has it."""
    return room(module) if room(module) in BELOW else "ground"


def imported(module: str, file: Path) -> Iterator[str]:
    """The modules of this package that a module imports, also within functions."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for name in imports(ast.parse(file.read_text(encoding="utf-8")), package):
        inside = [m for m in ancestry(name) if m.startswith("equireg.") and locate(m, SOURCES)]
        yield from inside[-1:]


IMPORTS = {
    module: {name for name in imported(module, file) if name != module}
    for module, file in modules().items()
}


def test_imports_follow_the_arrows() -> None:
    """None runs upward, or across: the library and the training above all do not know each other.

    Free are the package itself and the doors, through which no room goes.
    """
    across = [
        f"{module} -> {name}"
        for module, names in IMPORTS.items()
        for name in names
        if module not in DOORS
        and module != "equireg"
        and (place(name) not in {place(module), *BELOW.get(place(module), ())} or name in DOORS)
    ]
    assert across == []


def test_the_picture_has_every_room() -> None:
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(BELOW)
    assert not any(room in below for room, below in BELOW.items())
    assert "training" not in BELOW["library"] | BELOW["figures"]
    assert "library" not in BELOW["training"]


def test_jobs_do_not_import_each_other() -> None:
    jobs = {module for module in IMPORTS if module.startswith("equireg.jobs.")}
    assert {module: IMPORTS[module] & jobs for module in jobs if IMPORTS[module] & jobs} == {}


def test_no_import_runs_in_a_circle() -> None:
    waiting = {module: set(names) for module, names in IMPORTS.items()}
    while free := [module for module, names in waiting.items() if not names & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert waiting == {}


@pytest.mark.parametrize("name", ["symmetry", "library"])
def test_the_algebra_needs_torch_numpy_and_scipy_alone(name: str) -> None:
    """scipy within functions: it costs a tenth of a second."""
    allowed = {"torch", "numpy", "equireg", *sys.stdlib_module_names}
    for module, file in modules().items():
        if room(module) != name:
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        every = {found.split(".")[0] for found in imports(tree, module)} - {""}
        top = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
        top.body = [node for node in top.body if not isinstance(node, ast.ClassDef)]
        first = {found.split(".")[0] for found in imports(top, module)} - {""}
        assert every <= allowed | {"scipy"}, module
        assert first <= allowed, module


def test_no_module_is_long_without_a_reason() -> None:
    """A reason is a sentence with the word "long" in the module's docstring."""
    for module, file in modules().items():
        text = file.read_text(encoding="utf-8")
        if len(text.splitlines()) > LONGEST:
            said = ast.get_docstring(ast.parse(text)) or ""
            assert re.search(r"\blong\b", said), f"{module} has {len(text.splitlines())} lines"


def test_the_picture_names_the_rooms() -> None:
    text = (SOURCES.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms <= set(re.findall(r"`src/equireg/(\w+)/", text))


def test_public_names_are_there_before_anything_was_touched() -> None:
    code = "import equireg; equireg.groups.cyclic(5); equireg.representations.regular; "
    code += "assert {'groups', 'representations', 'Equivariance'} <= set(dir(equireg)); "
    code += "from equireg import Equivariance, groups; from equireg.groups import dihedral"
    subprocess.run([sys.executable, "-c", code], check=True)
