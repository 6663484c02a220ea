"""Escape: do networks that leave E come back to a better place on it? Judged and drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from equireg import binding
from equireg.binding import with_source, write_document
from equireg.digest import job_digest
from equireg.figures.escape import escape_figure
from equireg.figures.style import check_outputs, save, styled
from equireg.markdown import rows_of
from equireg.study.escape import EPOCHS, SCHEDULE, TEST, Course, by_epoch, compare, name_of, verdict
from equireg.study.verdicts import LEVEL, SIGNIFICANT, Comparison
from equireg.sweeps import combinations, path
from equireg.tables import open_parquet

NEEDED = [EPOCHS, SCHEDULE, "seed", "test_accuracy"]


def escape(
    experiment: Path, output: Path, figures: list[Path], critical: Path | None = None
) -> None:
    """Write the verdict on networks that were released from E, and the figure of their courses.

    experiment: folder of a sweep over the schedule of gamma; of several numbers of epochs the
    largest counts. critical: the critical gammas at the release, which ``critical`` wrote. Raises
    ValueError where the runs do not belong together.
    """
    check_outputs(figures)
    table = experiment / "sweep.parquet"
    made = with_source(binding.read(table), "escape", job_digest("escape"))
    with open_parquet(table, NEEDED) as file:
        names = file.schema_arrow.names  # the keys in the order of the folders; a binding sorts
        runs: pd.DataFrame = file.read(columns=NEEDED).to_pandas()
    epochs = int(runs[EPOCHS].max())
    tests: dict[str, pd.Series] = {}
    risks: dict[str, pd.Series] = {}
    courses = []
    over = binding.read(table)[binding.OWN]["sweep"]
    for one in combinations(over):
        if one[EPOCHS] != epochs:
            continue
        place = path({name: one[name] for name in names if name in one})
        losses, distances = trajectories(experiment / place)
        name = name_of(one[SCHEDULE])
        own = runs[(runs[EPOCHS] == epochs) & (runs[SCHEDULE].map(name_of) == name)]
        tests[name] = 1 - own.set_index("seed")["test_accuracy"].sort_index()
        means = by_epoch(losses.to_numpy(), epochs).mean(2)
        risks[name] = pd.Series(means[:, -1], losses.index)
        far = by_epoch(distances.to_numpy(), epochs).max(2)
        courses.append(Course(name, np.median(means, 0), np.median(far, 0)))
    found = compare((experiment.name, 0), tests, risks)
    gammas = released_above(critical) if critical else None
    write_document(output, text(found, gammas), made)
    with styled():
        figure = escape_figure(courses)
        for file in figures:
            save(figure, file, made)


def trajectories(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Losses and distances of a combination's runs, a row per seed and a column per step."""
    columns = ["seed", "step", "loss", "distance"]
    parts = []
    for file in sorted(folder.glob("runs/*/*/seeds-*[0-9].parquet")):
        with open_parquet(file, columns) as opened:
            parts.append(opened.read(columns=columns).to_pandas())
    if not parts:
        raise ValueError(f"{folder}/runs has no trajectories; run the workflow")
    every = pd.concat(parts)
    found = [every.pivot(index="seed", columns="step", values=name) for name in columns[2:]]
    return found[0], found[1]


def released_above(critical: Path) -> np.ndarray:
    """The critical gammas at trained weights, (seeds,)."""
    needed = ["weights", "critical_gamma"]
    with open_parquet(critical, needed) as file:
        table = file.read(columns=needed).to_pandas()
    return np.asarray(table.loc[table["weights"] == "trained", "critical_gamma"])


def text(found: Mapping[str, Sequence[Comparison]], gammas: np.ndarray | None) -> str:
    """The verdicts, the critical gammas at the release, and a table of comparisons each."""
    lines = [
        "Do networks that leave E in the middle of training come back to a better place on it?",
        "",
        *[f"- **{quantity}: {verdict(comparisons)}**" for quantity, comparisons in found.items()],
        "",
        "Yes: a schedule gains at least the margin, a tenth of what networks in E have (of errors "
        f"0.2 points at least), with an adjusted p below {SIGNIFICANT:g}. No: every "
        f"{100 * LEVEL:g} % interval lies below it. Gains are paired by seed; the training risk is "
        "the mean loss over the last epoch.",
        "",
    ]
    if gammas is not None:
        lines += [
            f"At the release E attracts above gamma = {np.median(gammas):.3g} (median of "
            f"{len(gammas)} seeds, {gammas.min():.3g} to {gammas.max():.3g}).",
            "",
        ]
    for quantity, comparisons in found.items():
        unit = 100 if quantity == TEST else 1
        body = [
            [
                c.arm,
                str(c.seeds),
                f"{unit * c.error:.4g}",
                f"{unit * c.error_in_e:.4g}",
                f"{unit * c.gain:+.3g} [{unit * c.low:+.3g}, {unit * c.high:+.3g}]",
                f"{unit * c.margin:.3g}",
                f"{c.adjusted:.2g}",
                "better" if c.gains else "worse" if c.loses else "",
            ]
            for c in comparisons
        ]
        in_points = " (points)" if quantity == TEST else ""
        lines += [f"## {quantity[0].upper()}{quantity[1:]}{in_points}", "", *rows_of(HEAD, body)]
    return "\n".join(lines)


HEAD = ["networks", "seeds", "at the end", "in E all along", "gain", "margin", "p", "reading"]
