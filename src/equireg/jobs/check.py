"""Check: what the paper says of its figure 2, beside what was measured.

Every criterion is data in this file, fixed before the experiment was run. A claim is a conjunction
of conditions. Each condition is judged twice: on the medians over the seeds, and seed by seed by an
exact one-sided sign test (null hypothesis: at most every other seed agrees). A conjunction of tests
at one level has at most that level, so nothing is corrected for their number within a claim.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

from equireg.binding import together, with_source, write_document
from equireg.digest import job_digest
from equireg.markdown import rows_of
from equireg.settings import MODES, Mode, spell_gamma, spell_seeds
from equireg.tables import open_parquet

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

RUN_COLUMNS = (
    "mode",
    "gamma",
    "seed",
    "start_distance",
    "highest_distance",
    "final_distance",
)

Verdict = Literal["held", "held, too few seeds", "did not hold", "not applicable"]


class Condition(NamedTuple):
    """A curve of the figure."""

    mode: Mode
    gamma: float

    def __str__(self) -> str:
        return f"{self.mode} at gamma {spell_gamma(self.gamma)}"


@dataclass(frozen=True)
class Stays:
    """The network stays close to E: at no step is it CLOSE times as far as it started.

    A seed agrees if this is so of its own start and its own highest distance.
    """

    condition: Condition


@dataclass(frozen=True)
class Drifts:
    """The network ends more than CLOSE times as far from E as it started."""

    condition: Condition


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


@dataclass(frozen=True)
class Measured:
    """A curve: medians over the seeds (start: at step 0; highest: at any step), and each seed's.

    final: after the last step; starts: at step 0; highs: the largest of the run, final included.
    """

    start: float
    highest: float
    steps: int
    final: Mapping[int, float]
    starts: Mapping[int, float]
    highs: Mapping[int, float]

    @property
    def end(self) -> float:
        """The median distance after the last step."""
        return float(np.median(list(self.final.values())))


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


def claims(gammas: Sequence[float]) -> list[Claim]:
    """What is checked; the last two are asked of every gamma that the experiment has."""
    intermediate, low = INTERMEDIATE_GAMMA, LOW_GAMMA
    free: tuple[Mode, ...] = ("nominal", "augmented")
    return [
        Claim(
            "For large gamma both networks stay close to E",
            "for high values of γ, both non-equivariant models stay close to E",
            f"At gamma {' and '.join(map(spell_gamma, LARGE_GAMMAS))}, nominal and augmented, the "
            f"median distance is below {CLOSE:g} times its start at every step.",
            tuple(Stays(Condition(mode, gamma)) for gamma in LARGE_GAMMAS for mode in free),
        ),
        Claim(
            f"At gamma {spell_gamma(intermediate)} the nominal network drifts, the augmented stays",
            "already for γ = 1e-2, the model trained on non-augmented data drifts considerably, "
            "while the augmented model stays close to E",
            f"The nominal network's median distance at the end is above {CLOSE:g} times its start "
            f"and above {CONSIDERABLE:g} times the augmented network's, whose median is below "
            f"{CLOSE:g} times its start at every step.",
            (
                Drifts(Condition("nominal", intermediate)),
                Exceeds(
                    Condition("nominal", intermediate),
                    Condition("augmented", intermediate),
                    CONSIDERABLE,
                ),
                Stays(Condition("augmented", intermediate)),
            ),
        ),
        Claim(
            f"At gamma {spell_gamma(low)} the augmented network drifts too",
            "when the constant is chosen too low (γ = 1e-4), the augmented model will also drift "
            "from E",
            f"The augmented network's median distance at the end is above {CLOSE:g} times its "
            "start.",
            (Drifts(Condition("augmented", low)),),
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


def check(summary: Path, evaluation: Path, output: Path) -> None:
    """Write the report on the paper's claims, as Markdown.

    Raises ValueError where the tables are damaged or do not belong together. A claim that does not
    hold is a line of the report, not an error.
    """
    made = with_source(together(summary, evaluation), "check", job_digest("check"))
    write_document(output, report(read(summary, evaluation)), made)


def read(summary: Path, evaluation: Path) -> dict[Condition, Measured]:
    """The curves of the two tables, without the equivariant one, whose distance is always 0."""
    runs: dict[Condition, list[dict[str, Any]]] = {}
    for row in _read(evaluation, RUN_COLUMNS).to_pylist():
        if row["gamma"] is not None:
            runs.setdefault(Condition(row["mode"], row["gamma"]), []).append(row)

    table = _read(summary, ["mode", "gamma", "step", "seeds", "median"])
    modes, gammas, steps, seeds, medians = (column.to_numpy() for column in table.columns)
    curves: dict[Condition, np.ndarray] = {}  # the rows of each
    for mode in sorted(set(modes)):
        for gamma in np.unique(gammas[(modes == mode) & ~np.isnan(gammas)]).tolist():
            curves[Condition(mode, gamma)] = (modes == mode) & (gammas == gamma)

    counts = {condition: int(seeds[rows][0]) for condition, rows in curves.items()}
    if {condition: len(some) for condition, some in runs.items()} != counts:
        raise ValueError(
            f"{evaluation} holds other runs than {summary}; delete both and run the workflow again"
        )
    return {
        condition: Measured(
            start=float(medians[rows & (steps == 0)][0]),
            highest=float(medians[rows].max()),
            steps=int(rows.sum()),
            final={run["seed"]: run["final_distance"] for run in runs[condition]},
            starts={run["seed"]: run["start_distance"] for run in runs[condition]},
            highs={run["seed"]: run["highest_distance"] for run in runs[condition]},
        )
        for condition, rows in curves.items()
    }


def _read(path: Path, columns: Sequence[str]) -> pa.Table:
    with open_parquet(path, columns) as file:
        return file.read(columns=list(columns))


def examine(part: Part, measured: Mapping[Condition, Measured]) -> Result | str:
    """The numbers of a part of a claim, or why the experiment cannot tell."""
    conditions = [part.further, part.nearer] if isinstance(part, Exceeds) else [part.condition]
    if missing := [str(condition) for condition in conditions if condition not in measured]:
        return f"the experiment has no {' and no '.join(missing)}"
    runs = measured[conditions[0]]

    if isinstance(part, Exceeds):
        other = measured[part.nearer]
        pairs = [
            (runs.final[seed], other.final[seed]) for seed in runs.final if seed in other.final
        ]
        if not pairs:
            return f"{part.further} and {part.nearer} have no seed in common"
        above = "" if part.factor == 1 else f"{part.factor:g} times "
        return Result(
            f"{part.further} ends above {above}{part.nearer}",
            f"{_number(runs.end)} against {_number(other.end)}{_times(runs.end, other.end)}",
            runs.end > part.factor * other.end,
            sum(further > part.factor * nearer for further, nearer in pairs),
            len(pairs),
        )

    if runs.start == 0:
        return f"{part.condition} starts on E: its distance is no multiple of its start"
    bound = CLOSE * runs.start
    found = f"starts at {_number(runs.start)}, ends at {_number(runs.end)}"
    found += _times(runs.end, runs.start)
    ends = list(runs.final.values())
    if isinstance(part, Stays):
        highest = max(runs.highest, runs.end)
        return Result(
            f"{part.condition} stays below {CLOSE:g} times its start",
            f"{found}; at most {_number(highest)}{_times(highest, runs.start)}",
            highest < bound,
            sum(high < CLOSE * runs.starts[seed] for seed, high in runs.highs.items()),
            len(ends),
        )
    return Result(
        f"{part.condition} ends above {CLOSE:g} times its start",
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


def report(measured: Mapping[Condition, Measured]) -> str:
    """The whole report, as Markdown."""
    gammas = sorted({condition.gamma for condition in measured})
    checked = [
        (claim, [examine(part, measured) for part in claim.parts]) for claim in claims(gammas)
    ]
    verdicts = [judge(results) for _, results in checked]
    lines = [
        "# The paper's claims about its figure 2, checked",
        "",
        _experiment(measured),
        "",
        "A distance is the distance to E, ‖Π_E⊥ A‖, of all layers together.",
        "",
        *rows_of(
            ["", "Claim", "Verdict"],
            [
                [str(i), claim.title, f"**{verdict}**"]
                for i, ((claim, _), verdict) in enumerate(zip(checked, verdicts, strict=True), 1)
            ],
        ),
        *_method(),
        *_distances(measured),
    ]
    for i, ((claim, results), verdict) in enumerate(zip(checked, verdicts, strict=True), 1):
        lines += _section(i, claim, results, verdict)
    return "\n".join(lines).rstrip() + "\n"


def _experiment(measured: Mapping[Condition, Measured]) -> str:
    if not measured:
        return "The experiment has neither a nominal nor an augmented run."
    seeds = sorted({seed for runs in measured.values() for seed in runs.final})
    steps = sorted({runs.steps for runs in measured.values()})
    gammas = sorted({condition.gamma for condition in measured})
    modes = sorted({condition.mode for condition in measured}, key=MODES.index)
    plural = "seed" if len(seeds) == 1 else "seeds"
    return (
        f"Experiment: {' and '.join(modes)} training at gamma "
        f"{', '.join(map(spell_gamma, gammas))}; {len(seeds)} {plural} ({spell_seeds(seeds)}); "
        f"{' or '.join(f'{n:,}' for n in steps)} steps."
    )


def _method() -> list[str]:
    fewest = deciding_seeds()
    return [
        "## How a claim is judged",
        "",
        "The criteria were fixed in the program before the experiment was run. A claim may have "
        "several parts. Each part is judged twice: on the medians over the seeds, and seed by seed "
        "with an exact one-sided sign test, where p is the probability that at least as many "
        "seeds would agree by chance, each with probability 1/2.",
        "",
        "When a seed agrees:",
        "",
        f"- that a network stays below {CLOSE:g} times its start: the highest distance of its own "
        f"run, over all steps, is below {CLOSE:g} times that run's start.",
        f"- that it ends above {CLOSE:g} times its start: its distance after the last step is "
        f"above {CLOSE:g} times the median start.",
        f"- that it ends above another network, or above {CONSIDERABLE:g} times another: its "
        "distance after the last step is above that of the other network of the same seed, or "
        f"above {CONSIDERABLE:g} times that.",
        "",
        "The verdicts:",
        "",
        f"- **held**: every part is true on the medians, and p < {LEVEL:g} for each.",
        "- **held, too few seeds**: every part is true on the medians, but there are fewer than "
        f"{fewest} seeds, so that no outcome has p < {LEVEL:g}; {fewest} seeds that all agree "
        "would decide.",
        f"- **did not hold**: some part is false on the medians, or has p ≥ {LEVEL:g} with "
        f"{fewest} seeds or more.",
        "- **not applicable**: no part failed, but the experiment lacks what some part asks about.",
        "",
    ]


def _distances(measured: Mapping[Condition, Measured]) -> list[str]:
    rows = []
    for condition, runs in sorted(measured.items(), key=lambda item: (item[0].gamma, item[0].mode)):
        low, high = np.quantile(list(runs.final.values()), [0.05, 0.95])
        rows.append(
            [
                spell_gamma(condition.gamma),
                condition.mode,
                _number(runs.start),
                _number(max(runs.highest, runs.end)),
                _number(runs.end),
                f"{_number(low)} to {_number(high)}",
                f"{runs.end / runs.start:.3g}" if runs.start else "",
            ]
        )
    head = ["gamma", "Mode", "Start", "Highest", "End", "End, 5 to 95 %", "End / start"]
    return ["## Distances, medians over the seeds", "", *rows_of(head, rows)]


def _section(i: int, claim: Claim, results: Sequence[Result | str], verdict: Verdict) -> list[str]:
    lines = [f"## {i}. {claim.title}: {verdict}", "", f"> {claim.words}", "", claim.reading, ""]
    rows = []
    for result in results:
        if isinstance(result, Result):
            true = "yes" if result.holds else "**no**"
            agree = f"{result.agree} of {result.seeds}"
            rows.append([result.asked, result.found, true, agree, f"{result.p:.2g}"])
    if rows:
        lines += rows_of(["Part", "Medians", "True of the medians", "Seeds that agree", "p"], rows)
    lacking = [result for result in results if isinstance(result, str)]
    if not results:
        lacking.append(f"the experiment has {claim.without}")
    if lacking:
        lines += [f"Not examined: {'; '.join(lacking)}.", ""]
    if reason := _reason(results, verdict):
        lines += [reason, ""]
    return lines


def _reason(results: Sequence[Result | str], verdict: Verdict) -> str:
    """Why a claim that is true on all medians has not simply held."""
    examined = [result for result in results if isinstance(result, Result)]
    unsure = [result for result in examined if result.holds and result.p >= LEVEL]
    if verdict == "held, too few seeds":
        fewest = min(result.seeds for result in unsure)
        return (
            f"True on the medians, but {fewest} {'seed is' if fewest == 1 else 'seeds are'} too "
            f"few to tell from chance; {deciding_seeds()} that all agree would be enough."
        )
    if verdict == "did not hold" and all(result.holds for result in examined):
        return "True on the medians, but too many seeds disagree to tell it from chance."
    return ""


def _number(value: float) -> str:
    """Three significant digits: ``0.0861``, ``8.6e-05``."""
    return f"{value:.3g}"


def _times(value: float, of: float) -> str:
    """`` (2.5×)``; nothing where ``of`` is 0."""
    return f" ({value / of:.3g}×)" if of else ""
