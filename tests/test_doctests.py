"""The examples in docstrings, with numbers that a reader can check by hand."""

from __future__ import annotations

import doctest
import importlib

import pytest

from equireg.digest import SOURCES

MODULES = [
    ".".join(file.relative_to(SOURCES).with_suffix("").parts)
    for file in sorted((SOURCES / "equireg").rglob("*.py"))
    if ">>> " in file.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("module", MODULES)
def test_examples(module: str) -> None:
    found = doctest.testmod(
        importlib.import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert found.attempted
    assert not found.failed


def test_the_algebra_and_the_library_have_examples() -> None:
    algebra = {f"equireg.symmetry.{name}" for name in ("groups", "representations", "spaces")}
    assert algebra | {"equireg.library.equivariance"} <= set(MODULES)
