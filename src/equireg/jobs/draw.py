"""Draw: the paper's figure 2, the distance to E along training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FuncFormatter, MaxNLocator

from equireg.files import write_text
from equireg.settings import spell_gamma
from equireg.style import COLOURS, DASHES, PAGE_WIDTH, check_outputs, save, styled
from equireg.tables import open_parquet

MODES = ("nominal", "augmented")  # in the order of drawing; the equivariant distance is always 0
POINTS = 120_000  # in all faint lines together, about: 1 MB of PDF
MOST_BINS = 300  # per faint line: finer than its width in print
FEWEST_BINS = 20
MEDIAN_BINS = 300
PREDICTED: dict[str, Any] = {"color": "black", "linestyle": (0, (3, 2)), "linewidth": 0.8}


class Condition(NamedTuple):
    """What a curve belongs to."""

    mode: str
    gamma: float


@dataclass(frozen=True)
class Curve:
    """A polyline, (points,) each; NaN where the distance is 0, which a log scale cannot show."""

    steps: np.ndarray
    distances: np.ndarray


def draw(
    trajectories: Path, summary: Path, outputs: list[Path], predictions: Path | None = None
) -> None:
    """Draw the paper's figure 2 into ``outputs``: vector (.pdf, .svg), 200 dpi (.png), or a page.

    The page (.html) names the run and the step under the pointer.

    One panel per gamma; every run faintly, the median over the seeds boldly; nominal and augmented.
    predictions: what ``predict`` wrote; its medians are drawn over the others.
    One row group of the tables is in memory at a time. Raises ValueError where the tables hold no
    run to draw, or an ending is unknown.
    """
    pages = [output for output in outputs if output.suffix == ".html"]
    check_outputs([output for output in outputs if output not in pages])
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
                save(figure, output)
    for output in pages:
        from equireg.interactive import distance_page  # half a second to import

        write_text(output, distance_page(runs, medians, predicted))


def series(
    path: Path, keys: list[str], value: str
) -> Iterator[tuple[tuple[Any, ...], np.ndarray, np.ndarray]]:
    """Consecutive rows of the table with equal ``keys``: the keys, the steps, the values.

    Reads one row group at a time and only the columns it needs.
    """
    current: tuple[Any, ...] | None = None
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    needed = [*keys, "step", value]
    with open_parquet(path, needed) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=needed)
            steps, values = table["step"].to_numpy(), table[value].to_numpy()
            bounds = [0, *_changes(table.select(keys)), len(steps)]
            for start, stop in itertools.pairwise(bounds):
                key = tuple(table[name][start].as_py() for name in keys)
                if key != current and current is not None:
                    yield current, *_joined(parts)
                    parts = []
                current = key
                parts.append((steps[start:stop], values[start:stop]))
    if current is not None:
        yield current, *_joined(parts)


def _changes(table: pa.Table) -> list[int]:
    """The rows, but the first, that differ from the row above."""
    changed = np.zeros(max(table.num_rows - 1, 0), bool)
    for column in table.columns:
        array = column.combine_chunks()
        if pa.types.is_dictionary(array.type):
            array = array.indices
        numbers = array.fill_null(-1).to_numpy(zero_copy_only=False)
        changed |= numbers[1:] != numbers[:-1]
    return (np.flatnonzero(changed) + 1).tolist()


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts])


def decimate(steps: np.ndarray, values: np.ndarray, bins: int) -> Curve:
    """Thin a curve to two points per bin: its smallest and its largest value, in their order.

    No extreme is lost, and the first and the last point stay. Values of 0 become NaN.
    """
    values = np.where(values > 0, values, np.nan)
    edges = np.unique(np.linspace(0, len(values), bins + 1).astype(int))
    if len(values) <= 2 * bins:
        return Curve(steps, values)
    lowest = np.where(np.isnan(values), np.inf, values)
    highest = np.where(np.isnan(values), -np.inf, values)
    kept = {0, len(values) - 1}
    for start, stop in itertools.pairwise(edges.tolist()):
        kept |= {
            start + int(lowest[start:stop].argmin()),
            start + int(highest[start:stop].argmax()),
        }
    index = np.array(sorted(kept))
    return Curve(steps[index], values[index])


def thin(steps: np.ndarray, values: np.ndarray, bins: int) -> Curve:
    """Thin a median to one point per bin, the middle of its values; the faint runs show the rest.

    The first and the last point stay. Values of 0 become NaN.
    """
    values = np.where(values > 0, values, np.nan)
    if len(values) <= bins:
        return Curve(steps, values)
    edges = np.unique(np.linspace(1, len(values) - 1, bins - 1).astype(int))
    middles = [
        (steps[(start + stop) // 2], np.median(values[start:stop]))
        for start, stop in itertools.pairwise(edges.tolist())
    ]
    ends = [(steps[i], values[i]) for i in (0, -1)]
    index, thinned = np.array([ends[0], *middles, ends[1]]).T
    return Curve(index.astype(steps.dtype), thinned)


def distance_figure(
    runs: Mapping[Condition, Sequence[Curve]],
    medians: Mapping[Condition, Curve],
    predicted: Mapping[Condition, Curve] | None = None,
) -> Figure:
    """The figure from its curves; one panel per gamma, in ascending order."""
    predicted = predicted or {}
    gammas = sorted({condition.gamma for condition in medians})
    columns = min(len(gammas), 2 if len(gammas) <= 4 else 3)
    rows = math.ceil(len(gammas) / columns)
    figure = Figure(figsize=(PAGE_WIDTH, 0.5 + 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for i, (panel, gamma) in enumerate(itertools.zip_longest(panels, gammas)):
        if gamma is None:
            panel.remove()
            continue
        panel.tick_params(labelbottom=i + columns >= len(gammas))  # nothing below it
        present = [Condition(mode, gamma) for mode in MODES if (mode, gamma) in medians]
        for condition in present:
            _draw_runs(panel, condition, runs.get(condition, []))
        for condition in present:
            _draw_median(panel, condition, medians[condition])
        for condition in present:
            if condition in predicted:
                _draw_prediction(panel, predicted[condition])
        panel.set_title(f"$\\gamma = {_tex(gamma)}$")
    everything = [*medians.values(), *itertools.chain.from_iterable(runs.values())]
    _set_axes(figure, everything)
    _set_legend(figure, runs, medians, bool(predicted))
    return figure


def _draw_runs(panel: Axes, condition: Condition, curves: Sequence[Curve]) -> None:
    lines = [np.column_stack([curve.steps, curve.distances]) for curve in curves]
    opacity = min(0.6, max(0.08, 10 / max(len(lines), 1)))
    colour = COLOURS[condition.mode]
    panel.add_collection(
        LineCollection(lines, colors=colour, linewidths=0.5, alpha=opacity), autolim=False
    )


def _draw_median(panel: Axes, condition: Condition, curve: Curve) -> None:
    panel.plot(
        curve.steps,
        curve.distances,
        color=COLOURS[condition.mode],
        linestyle=DASHES[condition.mode],
        linewidth=1.6,
        path_effects=[Stroke(linewidth=2.2, foreground="white"), Normal()],
    )


def _draw_prediction(panel: Axes, curve: Curve) -> None:
    # Without effect on the limits: where first order fails it leaves the panel.
    panel.plot(curve.steps, curve.distances, **PREDICTED)


def _set_axes(figure: Figure, curves: Iterable[Curve]) -> None:
    """Shared scales, limits that hold every point, and labels."""
    curves = list(curves)
    shown = [c.distances[~np.isnan(c.distances)] for c in curves]
    lowest = min((float(d.min()) for d in shown if len(d)), default=1.0)
    highest = max((float(d.max()) for d in shown if len(d)), default=1.0)
    pad = max((highest / lowest) ** 0.04, 1.1)
    panel = figure.axes[0]
    panel.set_yscale("log")
    panel.set_ylim(lowest / pad, highest * pad)
    end = max(int(c.steps[-1]) + 1 for c in curves)
    panel.set_xlim(-0.012 * end, end)  # a steep fall at the start stays clear of the axis
    panel.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10], integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
    figure.supxlabel("SGD step", fontsize=8)
    label = r"distance to $\mathcal{E}$,  $\|\Pi_{\mathcal{E}^\perp} A\|$"
    if any(np.isnan(c.distances).any() for c in curves):
        label += "  (where it is not 0)"
    figure.supylabel(label, fontsize=8)


def _set_legend(
    figure: Figure,
    runs: Mapping[Condition, Sequence[Curve]],
    medians: Mapping[Condition, Curve],
    predicted: bool,
) -> None:
    handles: list[Line2D] = []
    for mode in MODES:
        count = max(
            (len(some) for condition, some in runs.items() if condition.mode == mode), default=0
        )
        if any(condition.mode == mode for condition in medians):
            label = f"{mode}: median over {count} seeds" if count != 1 else f"{mode}: one seed"
            style = {"color": COLOURS[mode], "linestyle": DASHES[mode]}
            handles.append(Line2D([], [], linewidth=1.6, label=label, **style))
    handles.append(Line2D([], [], color="#777777", linewidth=0.5, label="faint: every run"))
    if predicted:
        handles.append(Line2D([], [], label="predicted", **PREDICTED))
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=len(handles),
        handlelength=2.5,
        columnspacing=1.2,
    )


def _tex(gamma: float) -> str:
    """``1e-2`` -> ``10^{-2}``, ``2.5e1`` -> ``2.5 \\cdot 10^{1}``, as mathtext."""
    mantissa, _, exponent = spell_gamma(gamma).partition("e")
    if exponent in ("", "0"):
        return mantissa
    power = f"10^{{{exponent}}}"
    return power if mantissa == "1" else rf"{mantissa} \cdot {power}"
