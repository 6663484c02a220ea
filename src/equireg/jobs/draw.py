"""Draw: the paper's figure 2, the distance to E along training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from equireg.binding import REMEDY, together, with_source, write_document
from equireg.digest import job_digest
from equireg.figures.curves import Curve, decimate, series, thin
from equireg.figures.figure2 import MODES, distance_figure
from equireg.figures.style import check_outputs, save, styled
from equireg.plan import Condition
from equireg.spelling import spell_gamma
from equireg.tables import open_parquet

POINTS = 120_000  # in all faint lines together, about: 1 MB of PDF
MOST_BINS = 300  # per faint line: finer than its width in print
FEWEST_BINS = 20
MEDIAN_BINS = 300


def draw(
    trajectories: Path,
    summary: Path,
    outputs: list[Path],
    predictions: Path | None = None,
    function: Path | None = None,
    function_outputs: Sequence[Path] = (),
) -> None:
    """Draw the paper's figure 2 into ``outputs``: vector (.pdf, .svg), 200 dpi (.png), or a page.

    The page (.html) names the run and the step under the pointer.

    One panel per gamma; every run faintly, the median over the seeds boldly; nominal and augmented.
    predictions: what ``predict`` wrote; its medians are drawn over the others.
    function: table of what the functions were along training, drawn into ``function_outputs``.
    One row group of the tables is in memory at a time. Raises ValueError where the tables hold no
    run to draw or were made by different settings, or an ending is unknown.
    """
    tables = [trajectories, summary, *([predictions] if predictions else [])]
    made = with_source(together(*tables), "draw", job_digest("draw"))
    pages = [output for output in outputs if output.suffix == ".html"]
    check_outputs([*(output for output in outputs if output not in pages), *function_outputs])
    if function and function_outputs:
        draw_function(function, function_outputs)
    medians: dict[Condition, Curve] = {}
    longest = 0
    for (mode, gamma), steps, values in series(summary, ["mode", "gamma"], "median"):
        longest = max(longest, len(steps))
        if mode in MODES:
            medians[Condition(mode, gamma)] = thin(steps, values, MEDIAN_BINS)
    if not medians:
        raise ValueError(f"{summary} has neither a nominal nor an augmented run; nothing to draw")

    with open_parquet(trajectories) as file:
        count = file.metadata.num_rows // longest
    bins = min(MOST_BINS, max(FEWEST_BINS, POINTS // (2 * max(count, 1))))
    runs: dict[Condition, dict[int, Curve]] = {condition: {} for condition in medians}
    for (mode, gamma, seed), steps, values in series(
        trajectories, ["mode", "gamma", "seed"], "distance"
    ):
        condition = Condition(mode, gamma)
        if mode in MODES and condition not in runs:
            raise ValueError(
                f"{summary} lacks {mode} at gamma {spell_gamma(gamma)}, which {trajectories} "
                "holds; accepted: tables of one experiment"
            )
        if mode in MODES:
            runs[condition][seed] = decimate(steps, values, bins)
    if not any(runs.values()):
        raise ValueError(f"{trajectories} has no run to draw; {REMEDY}")

    predicted: dict[Condition, Curve] = {}
    if predictions:
        for (mode, gamma), steps, values in series(predictions, ["mode", "gamma"], "median"):
            if (mode, gamma) in medians:
                positive = np.where(values > 0, values, np.nan)
                predicted[Condition(mode, gamma)] = Curve(steps, positive)

    with styled():
        lines = {condition: list(some.values()) for condition, some in runs.items()}
        figure = distance_figure(lines, medians, predicted)
        for output in outputs:
            if output not in pages:
                save(figure, output, made)
    for output in pages:
        from equireg.figures.interactive import distance_page  # half a second to import

        write_document(output, distance_page(runs, medians, predicted), made)


def draw_function(table: Path, outputs: Sequence[Path]) -> None:
    """Draw how far from symmetric the runs' functions are along training; regressions in part."""
    from equireg.figures.function import QUANTITIES, function_figure

    made = with_source(together(table), "draw", job_digest("draw"))
    seen: dict[str, dict[Condition, tuple[np.ndarray, np.ndarray]]] = {}
    for quantity in QUANTITIES:
        runs: dict[Condition, list[np.ndarray]] = {}
        at: dict[Condition, np.ndarray] = {}
        for (mode, gamma, _), steps, values in series(table, ["mode", "gamma", "seed"], quantity):
            if mode in MODES and not np.isnan(values.astype(float)).any():
                runs.setdefault(Condition(mode, gamma), []).append(values)
                at[Condition(mode, gamma)] = steps
        seen[quantity] = {key: (at[key], np.stack(curves)) for key, curves in runs.items()}
    with styled():
        figure = function_figure(seen)
        for output in outputs:
            save(figure, output, made)
