"""How values are spelled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from equireg.spelling import parse_seeds, spell_gamma, spell_seeds


@pytest.mark.parametrize(
    ("gamma", "spelled"),
    [
        (None, "none"),
        (0.0, "0"),
        (1e-4, "1e-4"),
        (0.01, "1e-2"),
        (1.0, "1e0"),
        (100.0, "1e2"),
        (0.25, "2.5e-1"),
        (123456789.0, "1.23456789e8"),
        (-3.0, "-3e0"),
    ],
)
def test_spell_gamma(gamma: float | None, spelled: str) -> None:
    assert spell_gamma(gamma) == spelled


@given(some.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_spelling_a_gamma_loses_nothing(gamma: float) -> None:
    assert float(spell_gamma(gamma)) == gamma


@pytest.mark.parametrize("gamma", [float("nan"), float("inf")])
def test_a_gamma_that_is_no_number(gamma: float) -> None:
    with pytest.raises(ValueError, match="a finite number is needed"):
        spell_gamma(gamma)


@given(some.sets(some.integers(0, 999), min_size=1))
def test_spelling_seeds_loses_nothing(seeds: set[int]) -> None:
    assert parse_seeds(spell_seeds(sorted(seeds))) == sorted(seeds)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-2", "1;2", "1.5"])
def test_seeds_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="accepted: numbers and ranges"):
        parse_seeds(text)


def test_repeated_seeds() -> None:
    with pytest.raises(ValueError, match="seed 3 is repeated"):
        parse_seeds("1-4,3")
