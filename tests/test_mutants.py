"""The changes of ``make mutants`` themselves."""

from __future__ import annotations

import ast

import pytest

from mutants import ROOT, TESTED, changes


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ("a < b <= c", ["a <= b <= c", "a < b < c"]),
        ("a + b * c", ["a - b * c", "a + b / c"]),
        ("a and b", ["a or b"]),
        ("a = 2.5", ["a = 3.5"]),
        ("a = True", ["a = False"]),
        ("if a:\n    f(b)", ["if not a:\n    f(b)", "if a:\n    None"]),
        ("raise ValueError(f'{a + 1}')", []),
        ("a = 'text'", []),
    ],
)
def test_what_is_changed(source: str, after: list[str]) -> None:
    found = [change.text for change in changes(source)]
    assert found == after
    assert all(ast.unparse(ast.parse(source)) != text for text in found)


def test_every_module_has_tests() -> None:
    for module, tests in TESTED.items():
        assert (ROOT / "src/equireg" / f"{module}.py").is_file()
        assert all((ROOT / "tests" / f"{name}.py").is_file() for name in tests)
