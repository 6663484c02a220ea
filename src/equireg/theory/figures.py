"""The theory's figures: rates, plateaus and spectra, measured beside predicted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from equireg.binding import Binding
from equireg.figures.style import COLOURS, PAGE_WIDTH, save, styled
from equireg.theory.spectrum import Spectrum
from equireg.theory.theorems import Plateau, Rates, Settled

GREY = "#555555"
SHOWN = 1e-7  # of the starting distance: what has shrunk further is not shown


@dataclass(frozen=True)
class Landscape:
    """What the figures show of one network."""

    settled: Settled
    rates: list[Rates]
    nominal_mu: float
    levels: list[Plateau]
    spectra: list[Spectrum]

    @property
    def name(self) -> str:
        """``convolutional network, C4``."""
        model = self.settled.risk.model
        network = "perceptron" if model.network == "perceptron" else f"{model.network} network"
        return f"{network}, {_tex(model.group.name)}"


def draw_figures(landscapes: Sequence[Landscape], outputs: Sequence[Path], made: Binding) -> None:
    """Draw each output by its name, in the format of its ending.

    Raises ValueError for a name that is no figure's.
    """
    figures: dict[str, Callable[[Sequence[Landscape]], Figure]] = {
        "theory_rates": rates_figure,
        "theory_plateau": plateau_figure,
        "theory_spectrum": spectrum_figure,
    }
    with styled():
        for output in outputs:
            if output.stem not in figures:
                raise ValueError(f"figure is {output.name}; accepted names: {', '.join(figures)}")
            save(figures[output.stem](landscapes), output, made)


def rates_figure(landscapes: Sequence[Landscape]) -> Figure:
    """Theorem 3: distances over time for gammas about the critical one, and the rates.

    A row per network: left the distance, with the predicted slope dashed; right measured rates of
    the slowest directions against gamma + eigenvalue.
    """
    figure = Figure(figsize=(PAGE_WIDTH, 0.3 + 2.5 * len(landscapes)), layout="constrained")
    rows = figure.subplots(len(landscapes), 2, squeeze=False)
    for (left, right), landscape in zip(rows, landscapes, strict=True):
        size = abs(float(landscape.settled.mu[0]))
        for i, rate in enumerate(landscape.rates):
            colour = _shade(i, len(landscape.rates))
            label = f"$\\gamma = {rate.gamma / size:g}\\,|\\mu|$"
            left.semilogy(rate.times * size, rate.distances, color=colour, label=label)
            slope = rate.distances[0] * rate.expected()
            visible = slope < 2 * max(r.distances.max() for r in landscape.rates)
            left.semilogy(
                rate.times[visible] * size, slope[visible], color=GREY, linestyle=":", linewidth=0.9
            )
            right.plot(
                rate.predicted / size,
                rate.measured / size,
                "o",
                markersize=4,
                markerfacecolor="none",
                color=colour,
            )
        left.set_xlabel(r"time  $t\,|\mu|$")
        left.set_ylabel(r"distance to $\mathcal{E}$")
        left.set_title(f"{landscape.name}:  $\\mu = {landscape.settled.mu[0]:.3g}$")
        lowest = min(r.distances[-1] for r in landscape.rates)
        left.set_ylim(bottom=max(lowest, SHOWN * landscape.rates[0].distances[0]) / 2)
        left.yaxis.set_minor_formatter(NullFormatter())
        ends = [
            f(np.concatenate([r.predicted for r in landscape.rates])) / size for f in (min, max)
        ]
        right.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
        right.set_xlabel(r"predicted rate  $(\gamma + \lambda_i)\,/\,|\mu|$")
        right.set_ylabel(r"measured rate  $/\,|\mu|$")
        right.axhline(0, color=GREY, linewidth=0.6, linestyle=":")
    handles, labels = rows[0][0].get_legend_handles_labels()
    handles.append(Line2D([], [], color=GREY, linestyle=":", linewidth=0.9))
    labels.append(r"predicted by $\gamma + \mu$")
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), handlelength=1.4)
    return figure


def plateau_figure(landscapes: Sequence[Landscape]) -> Figure:
    """Remark 1: where the nominal flow levels off, against gamma; a panel per network."""
    figure = Figure(figsize=(PAGE_WIDTH, 2.9), layout="constrained")
    panels = figure.subplots(1, len(landscapes), squeeze=False)[0]
    for panel, landscape in zip(panels, landscapes, strict=True):
        levels, size = landscape.levels, abs(landscape.nominal_mu)
        gammas = [round(found.gamma / size, 6) for found in levels]
        panel.loglog(
            gammas,
            [found.bound for found in levels],
            color=GREY,
            linestyle=(0, (4, 1)),
            label=r"$\|\Pi_{\mathcal{E}^\perp}\nabla R\|\,/\,(\gamma + \mu')$",
        )
        panel.loglog(
            gammas,
            [found.predicted for found in levels],
            color=COLOURS["nominal"],
            label=r"$\|(\Pi_{\mathcal{E}^\perp}\nabla^2 R + \gamma)^{-1}\,"
            r"\Pi_{\mathcal{E}^\perp}\nabla R\|$",
        )
        panel.loglog(
            gammas,
            [found.measured for found in levels],
            "o",
            markersize=4.5,
            markerfacecolor="none",
            color="black",
            label="measured",
        )
        panel.set_xticks(gammas, [f"{gamma:g}" for gamma in gammas])
        panel.minorticks_off()
        panel.set_title(f"{landscape.name}:  $\\mu' = {landscape.nominal_mu:.3g}$")
        panel.set_xlabel(r"$\gamma\,/\,|\mu'|$")
    panels[0].set_ylabel(r"distance to $\mathcal{E}$ of the nominal flow")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, handlelength=2.2)
    return figure


def spectrum_figure(landscapes: Sequence[Landscape]) -> Figure:
    """Theorem 2: the ends of the augmented Hessian's spectrum in E and on its complement."""
    figure = Figure(
        figsize=(PAGE_WIDTH, 0.9 + 0.42 * sum(1 + len(one.spectra) for one in landscapes)),
        layout="constrained",
    )
    heights = [1 + len(one.spectra) for one in landscapes]
    panels = figure.subplots(len(landscapes), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, landscape in zip(panels, landscapes, strict=True):
        _draw_spectra(panel, landscape.spectra)
        panel.set_title(landscape.name)
    panels[-1].set_xlabel(r"eigenvalue of $\nabla^2 R^{aug}$")
    handles = [
        Line2D([], [], color=COLOURS[mode], marker="|", linestyle="", markersize=9, label=label)
        for mode, label in (
            ("equivariant", r"on $T\mathcal{E}$"),
            ("augmented", r"on its complement"),
        )
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _draw_spectra(panel: Axes, spectra: Sequence[Spectrum]) -> None:
    for i, found in enumerate(spectra):
        for values, mode, shift in (
            (found.equivariant, "equivariant", -0.17),
            (found.complement, "augmented", 0.17),
        ):
            height = np.full(len(values), i + shift)
            panel.plot([values.min(), values.max()], height[:2], color=COLOURS[mode], alpha=0.25)
            panel.plot(values, height, "|", color=COLOURS[mode], markersize=9)
    lowest = abs(float(spectra[-1].complement.min()))  # mu at the settled point stays visible
    panel.set_xscale("symlog", linthresh=10 ** np.floor(np.log10(lowest)), linscale=0.7)
    panel.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    panel.set_yticks(range(len(spectra)), [found.name for found in spectra])
    panel.set_ylim(len(spectra) - 0.5, -0.5)
    panel.grid(False, axis="y")


def _shade(i: int, count: int) -> Any:
    """Light for the first of ``count`` gammas, dark for the last."""
    return matplotlib.colormaps["viridis"](0.9 - 0.85 * i / max(count - 1, 1))


def _tex(group: str) -> str:
    """``C4`` -> ``$C_4$``."""
    return f"${group[0]}_{{{group[1:]}}}$"
