"""Verdict: the study's second stage, judged by the rule in ``study.verdicts``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from equireg import binding
from equireg.answers import mistakes
from equireg.binding import with_source, write_document
from equireg.digest import job_digest
from equireg.figures.arms import arms_figure
from equireg.figures.style import check_outputs, save, styled
from equireg.files import parse_json
from equireg.markdown import rows_of
from equireg.study import verdicts
from equireg.study.arms import FAMILIES, REFERENCE
from equireg.study.choosing import Choice
from equireg.study.verdicts import (
    DATA_SETS,
    LEAST_SEEDS,
    LEVEL,
    POINTS,
    SHARE,
    Comparison,
    compare,
    verdict,
)
from equireg.tables import open_parquet


def judge(
    experiment: Path,
    choices: Path,
    data: Path,
    output: Path,
    figures: list[Path],
    gate: float | None = None,
    threads: int = 1,
) -> None:
    """Write the verdicts on both families, with every comparison, and the figure of them.

    experiment: folder of the second stage's sweep; choices: what ``choose`` wrote; data: the folder
    of the data sets; gate: the error on validation images that networks in E are to reach in every
    cell, or there is no verdict. Raises ValueError where these do not belong together.
    """
    check_outputs(figures)
    table = experiment / "sweep.parquet"
    made = with_source(binding.read(table), "verdict", job_digest("verdict"))
    chosen = [Choice(**entry) for entry in parse_json(choices.read_bytes())["choices"]]
    with open_parquet(table, ["mode", "gamma", "seed"]) as file:
        runs: pd.DataFrame = file.read().to_pandas().astype({"mode": str})
    wrong = mistakes(experiment, data, runs, chosen, threads)
    found = {name: compare(wrong, arms) for name, arms in FAMILIES.items()}
    inside = [choice for choice in chosen if choice.arm == REFERENCE.name]
    closed = [c for c in inside if gate is not None and 1 - c.accuracy > gate]
    write_document(output, text(found, gate, closed), made)
    with styled():
        figure = arms_figure({name: every for name, every in found.items() if every})
        for file in figures:
            save(figure, file, made)


def text(
    found: dict[str, list[Comparison]], gate: float | None = None, closed: Sequence[Choice] = ()
) -> str:
    """The verdicts, and a table of comparisons for each family; closed: cells below the gate."""
    said = [f"- **{name}: {verdict(comparisons)}**" for name, comparisons in found.items()]
    if closed and gate is not None:
        errors = ", ".join(f"{100 * (1 - c.accuracy):.2f} % on {c.data}" for c in closed)
        said = [
            f"**No verdict**: networks in E err on {errors} of the validation images; the gate is "
            f"{100 * gate:g} %."
        ]
    cells = [comparison.cell for comparisons in found.values() for comparison in comparisons]
    alone = len({data for data, _ in cells}) < DATA_SETS
    lines = [
        "Is there a way to train that gives lower test error than manifest equivariance?",
        "",
        *said,
        *(["", f"Of fewer than {DATA_SETS} data sets there is no yes."] if alone else []),
        "",
        f"Yes: an arm gains, in {DATA_SETS} data sets or more, at least the margin, which is "
        f"{100 * POINTS:g} points of error or {100 * SHARE:g} % of the error in E, with an "
        f"adjusted p below {verdicts.SIGNIFICANT:g}. No: every {100 * LEVEL:g} % interval lies "
        f"below the margin. Undecided: anything else, or fewer than {LEAST_SEEDS} seeds. "
        "Gains are paired by seed; in brackets their "
        f"{100 * LEVEL:g} % bootstrap intervals, seeds and images drawn anew; p by Wilcoxon's "
        "signed ranks over seeds, adjusted by Holm over the family. All in points of error on test "
        "images.",
        "",
    ]
    for name, comparisons in found.items():
        lines += [
            f"## {name[0].upper()}{name[1:]}",
            "",
            *rows_of(HEAD, list(map(row, comparisons))),
        ]
    return "\n".join(lines)


HEAD = ["data", "images", "arm", "seeds", "error", "in E", "gain", "margin", "p", "reading"]


def row(comparison: Comparison) -> Sequence[str]:
    """A comparison as cells."""
    c = comparison
    reading = "better" if c.gains else "worse" if c.loses else ""
    return [
        c.cell[0],
        str(c.cell[1]),
        c.arm,
        str(c.seeds),
        f"{100 * c.error:.2f}",
        f"{100 * c.error_in_e:.2f}",
        f"{100 * c.gain:+.2f} [{100 * c.low:+.2f}, {100 * c.high:+.2f}]",
        f"{100 * c.margin:.2f}",
        f"{c.adjusted:.2g}",
        reading,
    ]
