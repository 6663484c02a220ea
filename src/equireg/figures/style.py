"""How figures look: one place for colours, sizes and matplotlib's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from equireg.binding import ENTRY, Binding, text
from equireg.files import atomic

# Okabe and Ito's palette, made to be told apart by colour-blind readers. Augmented is dark and
# nominal light, so that grey prints keep them apart too; dashes say it once more.
COLOURS = {"augmented": "#0072B2", "nominal": "#E69F00", "equivariant": "#009E73"}
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # for anything else
DASHES: dict[str, Any] = {"augmented": "solid", "nominal": (0, (4, 1)), "equivariant": "dotted"}

PAGE_WIDTH = 7.16  # inches: both columns of an IEEE page
PNG_RESOLUTION = 200  # dots per inch

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so that figures look the same everywhere
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "legend.fontsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "ytick.minor.width": 0.4,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "savefig.dpi": PNG_RESOLUTION,
    "pdf.fonttype": 42,  # TrueType: text stays text, and journals accept it
    "pdf.compression": 9,
    "svg.hashsalt": "equireg",  # names inside the file do not change from call to call
    "svg.fonttype": "path",
}

# Whatever holds the time of drawing is left out, so that equal figures are equal bytes.
TIMES: dict[str, dict[str, Any]] = {
    ".pdf": {"CreationDate": None},
    ".png": {},
    ".svg": {"Date": None},
}
# Where a format has room for what made the figure.
ROOM = {".pdf": "Keywords", ".png": ENTRY, ".svg": "Description"}


@contextmanager
def styled() -> Iterator[None]:
    """Figures made and saved inside look like ours, whatever the user's matplotlibrc says."""
    with matplotlib.style.context(["default", SETTINGS]):
        yield


def check_outputs(outputs: list[Path]) -> None:
    """Raise ValueError for a file name whose ending is no format that figures are written in."""
    for output in outputs:
        if output.suffix not in TIMES:
            raise ValueError(f"output is {output}; accepted endings: {', '.join(TIMES)}")


def save(figure: Figure, output: Path, made: Binding) -> None:
    """Write ``figure`` and what made it in the format of the ending, whole or not at all."""
    with atomic(output) as temporary:
        metadata = {**TIMES[output.suffix], ROOM[output.suffix]: text(made)}
        figure.savefig(temporary, format=output.suffix[1:], metadata=metadata)
