"""Processes in which only some of the installed packages can be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ONLY = """\
import sys
class Only:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top in {allowed} or top.startswith("_sysconfigdata"):
            return self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Only, sys.meta_path)
"""


def needed(names: Iterable[str]) -> set[str]:
    """Distributions and, at any depth, those that they need, as installed here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name not in found:
            found.add(name)
            needs = map(Requirement, requires(name) or [])
            waiting += [n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    return found


def run(
    code: str, distributions: set[str], place: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``code`` where nothing but these distributions, equireg and Python's own can be imported.

    place: the folder that has equireg, where it is not this checkout.
    """
    allowed = {"equireg", *sys.stdlib_module_names}
    for module, owners in packages_distributions().items():
        if distributions & set(map(canonicalize_name, owners)):
            allowed.add(module)
    first = f"import sys; sys.path.insert(0, {str(place)!r})\n" if place else ""
    options = ["-I"] if place else []  # no PYTHONPATH
    code = f"{first}{ONLY.format(allowed=sorted(allowed))}{code}"
    return subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True)
