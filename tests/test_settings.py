"""How values are spelled, and which are taken: a limit holds whoever makes a section."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as some

from equireg.settings import (
    ORDERS,
    DataSettings,
    GridSettings,
    NetworkSettings,
    SelectionSettings,
    TrainingSettings,
)
from equireg.spelling import (
    MOST_SEEDS,
    build_file,
    parse_knots,
    parse_seeds,
    spell_gamma,
    spell_knots,
    spell_seeds,
)
from equireg.symmetry.groups import GENERATORS, point_group


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


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: NetworkSettings(image_size=4), "image_size is 4; accepted: multiples of 4 from 8"),
        (
            lambda: NetworkSettings(image_size=cast(Any, "28")),
            "image_size is '28'; accepted: 1 to",
        ),
        (
            lambda: NetworkSettings(image_size=cast(Any, 28.0)),
            "image_size is 28.0; accepted: 1",
        ),
        (
            lambda: TrainingSettings(batch_size=cast(Any, 1.5)),
            "batch_size is 1.5; accepted: 1",
        ),
        (lambda: TrainingSettings(learning_rate=0.0), "learning_rate is 0.0; accepted: finite num"),
        (lambda: GridSettings(gammas=(-1.0,)), "gammas is -1.0; accepted: finite numbers, 0 and"),
        (lambda: GridSettings(seeds="3-1"), "seeds is '3-1'; accepted: numbers and ranges"),
        (lambda: SelectionSettings(train_images=0), "train_images is 0; accepted: 1 to 1000000000"),
        (lambda: SelectionSettings(validation=1.5), "validation is 1.5; accepted: shares, 0 to b"),
        (lambda: DataSettings(name="mine"), "name is 'mine'; accepted without data.folder and"),
        (lambda: dataclasses.replace(NetworkSettings(), kernel_size=2), "kernel_size is 2; accep"),
    ],
)
def test_limits(make: Callable[[], object], line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)):
        make()


def test_a_gamma_that_float32_takes_for_infinite_is_unstable() -> None:
    """Infinity means in E."""
    (mistake,) = TrainingSettings(learning_rate=1e-39).unstable((1e39,))
    assert mistake.value == 1e39
    assert not [*TrainingSettings().unstable((0.0, 1.0, 2000.0))]
    assert [*TrainingSettings().unstable((2001.0,))]


def test_the_orders_are_those_of_the_groups() -> None:
    assert {name: point_group(name).order for name in GENERATORS} == ORDERS


def test_knots_are_shares_and_factors() -> None:
    knots = ((0.0, 0.5), (0.5, 0.0), (1.0, 0.01))
    assert parse_knots("0:0.5,0.5:0,1:1e-2") == knots
    assert parse_knots(spell_knots(knots)) == knots
    for wrong in ("0.1:1", "0:1,0:2", "0:1,1.5:1", "0:-1", "0:1,0.5", "often"):
        with pytest.raises(ValueError, match="accepted: constant, rising"):
            parse_knots(wrong)


def test_a_network_s_file_is_before_the_last_colon() -> None:
    assert build_file("my/nets.py:make") == Path("my/nets.py")
    assert build_file("C:/nets.py:make") == Path("C:/nets.py")
    assert build_file(None) is None


def test_as_many_seeds_as_are_accepted() -> None:
    assert len(parse_seeds(f"0-{MOST_SEEDS - 1}")) == MOST_SEEDS
    for more in (f"0-{MOST_SEEDS}", f"7,100-{MOST_SEEDS + 99}"):
        with pytest.raises(ValueError, match=f"accepted: at most {MOST_SEEDS} seeds"):
            parse_seeds(more)
