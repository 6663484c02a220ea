"""The paper's sentences about figure 2 as criteria on numbers, and the verdicts.

Every criterion is data in this file, fixed before the experiment was run. A claim is a conjunction
of conditions. Each condition is judged twice: on the medians over the seeds, and seed by seed by an
exact one-sided sign test (null hypothesis: at most every other seed agrees). A conjunction of tests
at one level has at most that level, so nothing is corrected for their number within a claim.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.stats import binomtest

from equireg.plan import Condition
from equireg.settings import Mode
from equireg.spelling import spell_gamma

# --- The criteria, written down before the run ----------------------------------------------------
LARGE_GAMMAS = (1e0, 1e2)  # "for high values of gamma"
INTERMEDIATE_GAMMA = 1e-2  # "already for gamma = 1e-2"
LOW_GAMMA = 1e-4  # "when the constant is chosen too low"
CLOSE = 2.0  # close: below this many times the starting distance; drifted: above it
CONSIDERABLE = (
    5.0  # drifts considerably: ends above this many times the augmented network's distance
)
LEVEL = 0.05  # of the sign test
# --------------------------------------------------------------------------------------------------

# With the data in file order the last batch is the same for every seed, so one step is no number to
# tell. A distance at the end is the median over a run's last steps: so many, or a tenth of a run
# that has fewer than ten times as many.
END_WINDOW = 201

Verdict = Literal["held", "held, too few seeds", "did not hold", "not applicable"]


@dataclass(frozen=True)
class Stays:
    """The network stays close to E: at no step is it ``bound`` times as far as it started.

    A seed agrees if this is so of its own start and its own highest distance.
    """

    condition: Condition
    bound: float = CLOSE


@dataclass(frozen=True)
class Drifts:
    """The network ends more than ``bound`` times as far from E as it started."""

    condition: Condition
    bound: float = CLOSE


@dataclass(frozen=True)
class Exceeds:
    """One network ends more than ``factor`` times as far from E as another of the same seed."""

    further: Condition
    nearer: Condition
    factor: float = 1.0


Part = Stays | Drifts | Exceeds


@dataclass(frozen=True)
class Claim:
    """words: the paper's; reading: what they ask of the numbers; parts: the same, as data."""

    title: str
    words: str
    reading: str
    parts: tuple[Part, ...]
    without: str = ""  # what the experiment has when there is nothing to ask

    @property
    def conditions(self) -> set[Condition]:
        """The curves that it is about."""
        return {condition for part in self.parts for condition in conditions_of(part)}


@dataclass(frozen=True)
class Measured:
    """A curve: medians over the seeds (start: at step 0; highest: at any step), and each seed's.

    ends: over the last steps (``END_WINDOW``); starts: at step 0; highs: the largest of the run.
    changes: the share of test images whose predicted class a turn changes, at the end. along: the
    seeds' distances, (seeds,), at the steps of the authors' numbers.
    """

    start: float
    highest: float
    steps: int
    ends: Mapping[int, float]
    starts: Mapping[int, float]
    highs: Mapping[int, float]
    changes: Mapping[int, float] = field(default_factory=dict)
    along: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def end(self) -> float:
        """The median distance at the end."""
        return float(np.median(list(self.ends.values())))


@dataclass(frozen=True)
class Result:
    """A part's numbers: what was asked, what was found on the medians, how many seeds agree."""

    asked: str
    found: str
    holds: bool
    agree: int
    seeds: int

    @property
    def p(self) -> float:
        """How likely at least as many seeds agree by chance, if every other one does."""
        return float(binomtest(self.agree, self.seeds, 0.5, alternative="greater").pvalue)


def claims(
    gammas: Sequence[float], close: float = CLOSE, considerable: float = CONSIDERABLE
) -> list[Claim]:
    """What is checked; the last two are asked of every gamma that the experiment has."""
    intermediate, low = INTERMEDIATE_GAMMA, LOW_GAMMA
    free: tuple[Mode, ...] = ("nominal", "augmented")
    return [
        Claim(
            "For large gamma both networks stay close to E",
            "for high values of γ, both non-equivariant models stay close to E",
            f"At gamma {' and '.join(map(spell_gamma, LARGE_GAMMAS))}, nominal and augmented, the "
            f"median distance is below {close:g} times its start at every step.",
            tuple(Stays(Condition(mode, gamma), close) for gamma in LARGE_GAMMAS for mode in free),
        ),
        Claim(
            f"At gamma {spell_gamma(intermediate)} the nominal network drifts, the augmented stays",
            "already for γ = 1e-2, the model trained on non-augmented data drifts considerably, "
            "while the augmented model stays close to E",
            f"The nominal network's median distance at the end is above {close:g} times its start "
            f"and above {considerable:g} times the augmented network's, whose median is below "
            f"{close:g} times its start at every step.",
            (
                Drifts(Condition("nominal", intermediate), close),
                Exceeds(
                    Condition("nominal", intermediate),
                    Condition("augmented", intermediate),
                    considerable,
                ),
                Stays(Condition("augmented", intermediate), close),
            ),
        ),
        Claim(
            f"At gamma {spell_gamma(low)} the augmented network drifts too",
            "when the constant is chosen too low (γ = 1e-4), the augmented model will also drift "
            "from E",
            f"The augmented network's median distance at the end is above {close:g} times its "
            "start.",
            (Drifts(Condition("augmented", low), close),),
        ),
        Claim(
            "Augmentation helps at every gamma",
            "The graphs look just as one expects",
            "Our reading of this, after Remark 1: at every gamma, the augmented network ends "
            "nearer to E than the nominal one of the same seed.",
            tuple(Exceeds(Condition("nominal", g), Condition("augmented", g)) for g in gammas),
            without="no gamma",
        ),
        Claim(
            "A larger gamma ends nearer to E",
            "The graphs look just as one expects",
            "Our reading of this, after Theorem 3: nominal and augmented networks end nearer to E "
            "than those of the same seed at the next smaller gamma.",
            tuple(
                Exceeds(Condition(mode, smaller), Condition(mode, larger))
                for mode in free
                for smaller, larger in itertools.pairwise(gammas)
            ),
            without="fewer than two gammas",
        ),
    ]


def gammas_of(measured: Mapping[Condition, Measured]) -> list[float]:
    """The gammas of an experiment, ascending."""
    return sorted({condition.gamma for condition in measured})


def conditions_of(part: Part) -> tuple[Condition, ...]:
    """The one or two curves that a part is about, the one that it is said of first."""
    return (part.further, part.nearer) if isinstance(part, Exceeds) else (part.condition,)


def examine(part: Part, measured: Mapping[Condition, Measured]) -> Result | str:
    """The numbers of a part of a claim, or why the experiment cannot tell."""
    conditions = conditions_of(part)
    if missing := [str(condition) for condition in conditions if condition not in measured]:
        return f"the experiment has no {' and no '.join(missing)}"
    runs = measured[conditions[0]]

    if isinstance(part, Exceeds):
        other = measured[part.nearer]
        pairs = [(runs.ends[seed], other.ends[seed]) for seed in runs.ends if seed in other.ends]
        if not pairs:
            return f"{part.further} and {part.nearer} have no seed in common"
        above = "" if part.factor == 1 else f"{part.factor:g} times "
        return Result(
            f"{part.further} ends above {above}{part.nearer}",
            f"{number(runs.end)} against {number(other.end)}{_times(runs.end, other.end)}",
            runs.end > part.factor * other.end,
            sum(further > part.factor * nearer for further, nearer in pairs),
            len(pairs),
        )

    if runs.start == 0:
        return f"{part.condition} starts on E: its distance is no multiple of its start"
    bound = part.bound * runs.start
    found = f"starts at {number(runs.start)}, ends at {number(runs.end)}"
    found += _times(runs.end, runs.start)
    ends = list(runs.ends.values())
    if isinstance(part, Stays):
        highest = max(runs.highest, runs.end)
        return Result(
            f"{part.condition} stays below {part.bound:g} times its start",
            f"{found}; at most {number(highest)}{_times(highest, runs.start)}",
            highest < bound,
            sum(high < part.bound * runs.starts[seed] for seed, high in runs.highs.items()),
            len(ends),
        )
    return Result(
        f"{part.condition} ends above {part.bound:g} times its start",
        found,
        runs.end > bound,
        sum(end > bound for end in ends),
        len(ends),
    )


def judge(results: Sequence[Result | str]) -> Verdict:
    """The verdict on a claim from all its parts.

    One part that fails decides, also where another cannot be examined.
    """
    examined = [result for result in results if isinstance(result, Result)]
    if any(not _stands(result) for result in examined):
        return "did not hold"
    if not examined or len(examined) < len(results):
        return "not applicable"
    if all(result.p < LEVEL for result in examined):
        return "held"
    return "held, too few seeds"


def deciding_seeds() -> int:
    """The fewest seeds that can decide: that many, all agreeing, are below LEVEL."""
    return next(n for n in itertools.count(1) if 0.5**n < LEVEL)


def _stands(result: Result) -> bool:
    """True on the medians, and by the sign test unless the seeds are too few for any outcome."""
    return result.holds and (result.p < LEVEL or result.seeds < deciding_seeds())


def number(value: float) -> str:
    """Three significant digits: ``0.0861``, ``8.6e-05``."""
    return f"{value:.3g}"


def _times(value: float, of: float) -> str:
    """`` (2.5×)``; nothing where ``of`` is 0."""
    return f" ({value / of:.3g}×)" if of else ""
