"""Compare: what the penalty does to trained networks, in one experiment or beside others.

Quantities of the trained runs against gamma, with the manifestly equivariant networks as a band.
Medians over the seeds with 95 % bootstrap intervals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from equireg import binding
from equireg.binding import together, with_source, write_document
from equireg.digest import job_digest
from equireg.figures.gammas import Critical, conditions, gamma_figure
from equireg.figures.quantities import quantities_of, read
from equireg.figures.style import check_outputs, save, styled
from equireg.intervals import LEVEL, median_interval, spell_interval
from equireg.markdown import rows_of
from equireg.spelling import spell_gamma
from equireg.tables import open_parquet


def compare(
    evaluations: Mapping[str, Path],
    figures: list[Path],
    output: Path,
    critical: Path | None = None,
) -> None:
    """Draw and tabulate the experiments' evaluations, by name, against gamma.

    One experiment: its modes beside each other. Several: a row of panels per mode of the first, and
    a line per experiment. critical: the table of the first one's critical gammas. Raises ValueError
    where a table lacks a column, or there is nothing to compare.
    """
    check_outputs(figures)
    made = origin(evaluations, critical)
    runs = pd.concat([read(path).assign(experiment=name) for name, path in evaluations.items()])
    name, first = next(iter(evaluations.items()))
    if not ((runs["experiment"] == name) & (runs["mode"] != "equivariant")).any():
        raise ValueError(f"{first}: neither a nominal nor an augmented run; nothing to compare")
    with styled():
        gammas = read_critical(critical) if critical else {}
        figure = gamma_figure(runs, gammas)
        for path in figures:
            save(figure, path, made)
    write_document(output, report(runs) + critical_report(gammas), made)


def origin(evaluations: Mapping[str, Path], critical: Path | None) -> dict[str, Any]:
    """The binding: that of the first experiment, in which its name and the others are told.

    They may have been made by other settings: that is what is compared.
    """
    first, *others = evaluations.items()
    made = together(first[1], *([critical] if critical else []))
    runs = {
        "names": list(evaluations),
        "beside": {name: binding.read(path) for name, path in others},
        "critical": critical is not None,
    }
    return with_source(made, "compare", job_digest("compare"), **{binding.OWN: runs})


def read_critical(path: Path) -> Critical:
    """The medians over seeds of the critical gammas."""
    columns = ["mode", "weights", "critical_gamma"]
    with open_parquet(path, columns) as file:
        table: pd.DataFrame = file.read(columns=columns).to_pandas()
    medians = table.groupby(["mode", "weights"], as_index=False)["critical_gamma"].median()
    modes, weights, gammas = (medians[column].tolist() for column in columns)
    return dict(zip(zip(modes, weights, strict=True), gammas, strict=True))


def report(runs: pd.DataFrame) -> str:
    """The table as markdown: medians with intervals, and what is gained on the same seed's twin."""
    quantities = [
        (quantity.column, quantity.column.replace("_", " ")) for quantity in quantities_of(runs)
    ]
    head = ["experiment", "mode", "gamma", "seeds", *(words for _, words in quantities)]
    head.append("accuracy, turned, minus equivariant")
    rows = []
    for experiment, mode, gamma, some in conditions(runs):
        role = experiment, mode, spell_gamma(gamma)
        cells = [*role, str(len(some))]
        cells += [
            spell_interval(median_interval(some[column].to_numpy(), column, *role))
            for column, _ in quantities
        ]
        twins = runs[(runs["experiment"] == experiment) & (runs["mode"] == "equivariant")]
        paired = some.merge(twins, on="seed", suffixes=("", "_twin"))
        gain = (paired["test_accuracy_turned"] - paired["test_accuracy_turned_twin"]).to_numpy()
        known = len(gain) > 0 and mode != "equivariant" and not np.isnan(gain).all()
        cells.append(spell_interval(median_interval(gain, "gain", *role), "+.4f") if known else "")
        rows.append(cells)
    percent = f"{100 * LEVEL:g} %"
    return (
        f"Medians over the seeds, in brackets their {percent} bootstrap intervals. The last column "
        "is paired by seed.\n\n" + "\n".join(rows_of(head, rows))
    )


def critical_report(critical: Critical) -> str:
    """The critical gammas as sentences; empty where there are none."""
    lines = [
        f"Critical gamma, {mode}, by the Hessian at equivariant weights, {weights}: {gamma:.3g}.\n"
        for (mode, weights), gamma in critical.items()
    ]
    return "".join(f"\n{line}" for line in lines)
