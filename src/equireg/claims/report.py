"""The report on the claims, as Markdown: results first, rules last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from equireg.claims.agreement import (
    CONFIDENCE,
    FEWEST,
    FIRST,
    MARGIN,
    WINDOW,
    Agreement,
    Numbers,
    Ratio,
    as_measured,
    compare,
    judge_claim,
    judge_curve,
)
from equireg.claims.criteria import (
    CLOSE,
    CONSIDERABLE,
    END_WINDOW,
    LEVEL,
    Claim,
    Measured,
    Result,
    Verdict,
    claims,
    deciding_seeds,
    examine,
    gammas_of,
    judge,
    number,
)
from equireg.markdown import rows_of
from equireg.plan import Condition
from equireg.settings import MODES
from equireg.spelling import spell_gamma, spell_seeds

OTHER_CLOSE = (1.1, 1.25, 1.5, 2.0, 2.5, 3.0)  # thresholds that were looked at afterwards
OTHER_CONSIDERABLE = (2.0, 5.0, 10.0, 20.0)

Curves = Mapping[Condition, Measured]


@dataclass(frozen=True)
class Examined:
    """A claim with what was found: of our numbers, and of the authors'.

    theirs: whether every part is true of their medians; None where they cannot tell.
    """

    claim: Claim
    results: Sequence[Result | str]
    verdict: Verdict
    reproduced: Agreement
    theirs: bool | None


def report(measured: Curves, numbers: Numbers | None, unlike: Sequence[str] = ()) -> str:
    """The whole report.

    numbers: the authors'. unlike: how the experiment differs from theirs, if it does; then nothing
    is compared.
    """
    compared: dict[Condition, list[Ratio]] = {}
    if numbers and not unlike:
        common = [condition for condition in measured if condition in numbers.curves]
        compared = {c: compare(measured[c], c, numbers) for c in sorted(common, key=_order)}
    agreements = {c: judge_curve(r, numbers) for c, r in compared.items()} if numbers else {}
    whole = any(verdict != "not applicable" for verdict in agreements.values())
    examined = [
        _examined(claim, measured, agreements, numbers if whole else None)
        for claim in claims(gammas_of(measured))
    ]
    lines = [
        "# The paper's claims about its figure 2, checked",
        "",
        headline(examined, agreements),
        "",
        _experiment(measured),
        "",
        *rows_of(
            ["", "Claim", "Reproduced?", "Our reading of the sentence"],
            [
                [str(i), e.claim.title, f"**{e.reproduced}**", f"**{e.verdict}**{_theirs(e)}"]
                for i, e in enumerate(examined, 1)
            ],
        ),
        "*Reproduced*: our distances against those of the authors' code. *Our reading*: the "
        "sentence as a criterion with numbers, which the paper does not give; ours were fixed "
        "beforehand. Theirs: the medians of the authors' code, by the same criterion.",
        "",
        *_distances(measured),
        *_agreement(compared, agreements, numbers, unlike),
    ]
    for i, some in enumerate(examined, 1):
        lines += _section(i, some)
    lines += [*_other_thresholds(measured), *_method()]
    return "\n".join(lines).rstrip() + "\n"


def headline(examined: Sequence[Examined], agreements: Mapping[Condition, Agreement]) -> str:
    """The result in a line or two."""
    held, few = (
        sum(e.verdict == verdict for e in examined) for verdict in ("held", "held, too few seeds")
    )
    applied = sum(e.verdict != "not applicable" for e in examined)
    if not applied:
        return "**None of the paper's sentences is about gammas and modes of this experiment.**"
    every = len(examined)
    some = f"our {every}" if applied == every else f"the {applied} that apply of our {every}"
    readings = f"{held} of {some} readings of its sentences held"
    if few:
        readings += f", {few} more on the medians of too few seeds"
    same = [e for e in examined if e.verdict == "did not hold" and e.theirs is False]
    if same:
        they = "the one that did not does not" if len(same) == 1 else "those that did not do not"
        readings += f"; {they} hold of the authors' own numbers either"
    judged = [verdict for verdict in agreements.values() if verdict != "not applicable"]
    if not judged:
        return f"**{readings}.**"
    agree, all_of_them = judged.count("yes"), len(judged)
    figure = "The authors' figure is reproduced" if agree == all_of_them else "Against the authors'"
    return (
        f"**{figure}: {agree} of {all_of_them} curves agree with their code's within "
        f"{_percent(MARGIN)}. {readings}.**"
    )


def _examined(
    claim: Claim,
    measured: Curves,
    agreements: Mapping[Condition, Agreement],
    numbers: Numbers | None,
) -> Examined:
    results = [examine(part, measured) for part in claim.parts]
    theirs: bool | None = None
    if numbers:
        found = [examine(part, as_measured(numbers)) for part in claim.parts]
        if found and all(isinstance(result, Result) for result in found):
            theirs = all(isinstance(result, Result) and result.holds for result in found)
    return Examined(claim, results, judge(results), judge_claim(claim, agreements), theirs)


def _theirs(examined: Examined) -> str:
    """What the same criterion says of the authors' numbers."""
    if examined.theirs is None:
        return ""
    if examined.verdict.startswith("held"):
        return ", as for theirs" if examined.theirs else ", but not for theirs"
    return ", but does for theirs" if examined.theirs else ", nor for theirs"


def _order(condition: Condition) -> tuple[float, int]:
    return condition.gamma, MODES.index(condition.mode)


def _experiment(measured: Curves) -> str:
    if not measured:
        return "The experiment has neither a nominal nor an augmented run."
    seeds = sorted({seed for runs in measured.values() for seed in runs.ends})
    steps = sorted({runs.steps for runs in measured.values()})
    modes = sorted({condition.mode for condition in measured}, key=MODES.index)
    plural = "seed" if len(seeds) == 1 else "seeds"
    return (
        f"Experiment: {' and '.join(modes)} training at gamma "
        f"{', '.join(map(spell_gamma, gammas_of(measured)))}; {len(seeds)} {plural} "
        f"({spell_seeds(seeds)}); {' or '.join(f'{n:,}' for n in steps)} steps. A distance is the "
        "distance to E, ‖Π_E⊥ A‖, of all layers together."
    )


def _distances(measured: Curves) -> list[str]:
    rows = []
    for condition, runs in sorted(measured.items(), key=lambda item: _order(item[0])):
        low, high = np.quantile(list(runs.ends.values()), [0.05, 0.95])
        changes = list(runs.changes.values())
        rows.append(
            [
                spell_gamma(condition.gamma),
                condition.mode,
                number(runs.start),
                number(max(runs.highest, runs.end)),
                number(runs.end),
                f"{number(low)} to {number(high)}",
                f"{runs.end / runs.start:.3g}" if runs.start else "",
                _percent(float(np.median(changes)), 1) if changes else "",
            ]
        )
    head = ["gamma", "Mode", "Start", "Highest", "End", "End, 5 to 95 %", "End / start", "Changed"]
    return [
        "## Distances, medians over the seeds",
        "",
        *rows_of(head, rows),
        "Changed: the share of test images, over all turns but the identity, whose predicted class "
        "the turn changes, at the end. Near to E in weights is not near to invariant in function: "
        "the distance does not say what a weight does.",
        "",
    ]


def _agreement(
    compared: Mapping[Condition, Sequence[Ratio]],
    agreements: Mapping[Condition, Agreement],
    numbers: Numbers | None,
    unlike: Sequence[str],
) -> list[str]:
    lines = ["## Our distances over those of the authors' code", ""]
    if not numbers:
        return [*lines, "Not applicable: their numbers were not given.", ""]
    if unlike:
        return [*lines, f"Not applicable: another experiment; {'; '.join(unlike)}.", ""]
    if not compared:
        return [*lines, "Not applicable: no gamma of theirs.", ""]
    steps = [ratio.step for ratio in next(iter(compared.values()))]
    head = ["gamma", "Mode", *(f"{step:,}" for step in steps)]
    ratios, distances = [], []
    for condition, some in compared.items():
        name = [spell_gamma(condition.gamma), condition.mode]
        ratios.append([*name, *map(_ratio, some), f"**{agreements[condition]}**"])
        seeds = str(len(numbers.curves[condition]))
        pairs = [f"{number(ratio.ours)} / {number(ratio.theirs)}" for ratio in some]
        distances.append([*name, *pairs, seeds])
    lines += [
        f"By step, with the {_percent(CONFIDENCE)} interval of the ratio.",
        "",
        *rows_of([*head, "Agrees"], ratios),
        "The distances, ours / theirs:",
        "",
        *rows_of([*head, "Their seeds"], distances),
    ]
    if steps != list(numbers.steps):
        lines += [f"Not judged: these runs are shorter than theirs, {numbers.length:,} steps.", ""]
    return lines


def _ratio(ratio: Ratio) -> str:
    interval = "" if ratio.low is None else f" [{ratio.low:.2f}, {ratio.high:.2f}]"
    return f"{ratio.value:.3f}{interval}"


def _section(i: int, examined: Examined) -> list[str]:
    claim, results, verdict = examined.claim, examined.results, examined.verdict
    lines = [f"## {i}. {claim.title}", "", f"> {claim.words}", ""]
    lines += [
        f"Reproduced: **{examined.reproduced}**. Our reading: **{verdict}**{_theirs(examined)}. "
        f"{claim.reading}",
        "",
    ]
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


def _other_thresholds(measured: Curves) -> list[str]:
    """The verdicts on the first three claims had the thresholds been others."""
    pairs = [(close, CONSIDERABLE) for close in OTHER_CLOSE]
    pairs += [(CLOSE, factor) for factor in OTHER_CONSIDERABLE if factor != CONSIDERABLE]
    rows = []
    for close, considerable in pairs:
        asked = claims(gammas_of(measured), close, considerable)[:3]
        verdicts = [judge([examine(part, measured) for part in claim.parts]) for claim in asked]
        fixed = " (ours)" if (close, considerable) == (CLOSE, CONSIDERABLE) else ""
        rows.append([f"{close:g}{fixed}", f"{considerable:g}", *verdicts])
    return [
        "## Other thresholds, post hoc",
        "",
        "What the first three verdicts would have been with other thresholds; chosen after the "
        "results were known, so no verdicts. Close: below so many times the start. Considerably: "
        "above so many times the augmented network's distance.",
        "",
        *rows_of(["Close", "Considerably", "Claim 1", "Claim 2", "Claim 3"], rows),
    ]


def _method() -> list[str]:
    fewest = deciding_seeds()
    return [
        "## How it is judged",
        "",
        "**Reproduced?** A run's distance at a step is the median over that step and the "
        f"{WINDOW - 1} before it, as many as there are, before each update; a curve's is the "
        "median over the seeds. The interval takes the authors' law to be ours up to a factor, and "
        f"is that factor's, by a bootstrap over seeds; it is left out below {FEWEST} seeds. A "
        f"curve agrees (yes) if the ratio is within {_percent(MARGIN)} at every step from "
        f"{FIRST:,} on; it does not (no) if it is further off at some step and the interval there "
        "leaves out 1; else undecided. A claim is reproduced if every curve that it is about "
        "agrees. The rule was written down before it was applied, but after a comparison by eye.",
        "",
        "**Our reading.** The criteria were fixed in the program before the experiment was run. A "
        "claim may have several parts. Each part is judged twice: on the medians over the seeds, "
        "and seed by seed with an exact one-sided sign test, where p is the probability that at "
        "least as many seeds would agree by chance, each with probability 1/2. Of the authors' "
        "numbers, few seeds at few steps, only the medians are judged: true, or not true.",
        "",
        f"A distance at the end is the median over a run's last {END_WINDOW} steps (a tenth of a "
        "short run): with the data in file order the last batch is the same for every seed. When a "
        "seed agrees:",
        "",
        f"- that a network stays below {CLOSE:g} times its start: the highest distance of its own "
        f"run, over all steps, is below {CLOSE:g} times that run's start.",
        f"- that it ends above {CLOSE:g} times its start: its distance at the end is above "
        f"{CLOSE:g} times the median start.",
        f"- that it ends above another network, or above {CONSIDERABLE:g} times another: its "
        "distance at the end is above that of the other network of the same seed, or above "
        f"{CONSIDERABLE:g} times that.",
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


def _percent(share: float, digits: int = 0) -> str:
    """``53.1 %``."""
    return f"{100 * share:.{digits}f} %"
