"""How gammas, schedules and seeds are spelled in paths, texts and on the command line.

Standard library only: the workflow imports it each time it is parsed.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path

NO_PENALTY = "none"  # the equivariant mode's gamma
GAMMA = rf"{NO_PENALTY}|0|\d(\.\d+)?e-?\d+"  # a regular expression of what ``spell_gamma`` gives
MOST_SEEDS = 100_000  # more is a slip of the keyboard
# The schedules of gamma that have a name: two decades up or down, in E for the first half.
KNOTS = {
    "constant": "0:1",
    "rising": "0:0.01,1:1",
    "falling": "0:1,1:0.01",
    "release": "0:inf,0.5:1",
}


def spell_gamma(gamma: float | None) -> str:
    """The one spelling of a gamma in paths and texts: ``1e-2``, ``2.5e0``, ``0``, ``none``.

    Exact: ``float(spell_gamma(g)) == g``.
    """
    if gamma is None:
        return NO_PENALTY
    if gamma == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(float(gamma))).normalize().as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"gamma is {gamma}; a finite number is needed")
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if digits[1:] else "")
    return f"{'-' if sign else ''}{mantissa}e{exponent + len(digits) - 1}"


def parse_knots(text: str) -> tuple[tuple[float, float], ...]:
    """A schedule, by name or spelled out: shares of training, and a factor of gamma at each.

    Raises ValueError unless shares ascend from 0 to at most 1, and factors are 0 or more, or inf.

    >>> parse_knots("0:inf,0.5:1") == parse_knots("release")
    True
    >>> parse_knots("release")
    ((0.0, inf), (0.5, 1.0))
    """
    accepted = (
        f"{', '.join(KNOTS)}, or share:factor,... with shares ascending from 0 to at most 1 and "
        "factors that are 0 or more, or inf"
    )
    try:
        pairs = [part.split(":") for part in KNOTS.get(text, text).split(",")]
        knots = tuple((float(share), float(value)) for share, value in pairs)
    except ValueError:
        raise ValueError(f"knots are {text!r}; accepted: {accepted}") from None
    shares, values = zip(*knots, strict=True)
    ascending = all(before < after for before, after in itertools.pairwise(shares))
    if not (shares[0] == 0 and ascending and shares[-1] <= 1 and all(v >= 0 for v in values)):
        raise ValueError(f"knots are {text!r}; accepted: {accepted}")
    return knots


def spell_knots(knots: Iterable[tuple[float, float]]) -> str:
    """Inverse of ``parse_knots``, in one spelling: 1e-2 and 0.01 are the same schedule."""
    return ",".join(f"{float(share)!r}:{float(value)!r}" for share, value in knots)


def build_file(build: str | None) -> Path | None:
    """``"path/to/mine.py:function"`` -> ``path/to/mine.py``: where a network of one's own is."""
    return Path(build.rpartition(":")[0]).expanduser() if build else None


def parse_seeds(text: str) -> list[int]:
    """``"0-2,7"`` -> ``[0, 1, 2, 7]``, sorted; ValueError for nonsense and repeated seeds.

    >>> parse_seeds("0-2,7")
    [0, 1, 2, 7]
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(
                f"seeds are {text!r}; accepted: numbers and ranges, such as 0-29 or 0,3,7-9"
            )
        if len(seeds) + last - first >= MOST_SEEDS:
            raise ValueError(f"seeds are {text!r}; accepted: at most {MOST_SEEDS} seeds")
        seeds += range(first, last + 1)
    repeated = [seed for seed, count in Counter(seeds).items() if count > 1]
    if repeated:
        raise ValueError(
            f"seeds are {text!r}; accepted: each seed once; seed {repeated[0]} is repeated"
        )
    return sorted(seeds)


def spell_seeds(seeds: list[int]) -> str:
    """Inverse of ``parse_seeds``: ``[0, 1, 2, 7]`` -> ``"0-2,7"``."""
    return ",".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in consecutive(seeds)
    )


def consecutive(seeds: list[int]) -> list[list[int]]:
    """The seeds, sorted, cut wherever one is missing."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return runs
