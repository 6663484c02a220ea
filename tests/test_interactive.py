"""The figure to move about in: what is in the page, and what a browser makes of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from browser import needs_browser, shown
from equireg.figures.curves import Curve
from equireg.figures.interactive import distance_page
from equireg.figures.style import COLOURS
from equireg.jobs.aggregate import aggregate
from equireg.plan import Condition
from equireg.settings import GridSettings
from synthetic import write_experiment


def curve(*distances: float) -> Curve:
    return Curve(np.arange(len(distances)), np.array(distances))


MEDIANS = {
    Condition(mode, gamma): curve(0.1, 0.2, 1 / (1 + gamma))
    for mode in ("nominal", "augmented")
    for gamma in (1.0, 100.0)
}
RUNS = {condition: {4: median, 7: median} for condition, median in MEDIANS.items()}


def test_it_needs_nothing_from_elsewhere() -> None:
    page = distance_page(RUNS, MEDIANS, {})
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=", page)
    assert '"seed"' in page
    for text in ("γ = 1", "γ = 10²", ">nominal</b> and", "augmented, seed @seed"):
        assert text in page


def test_a_mode_that_is_missing_is_not_named() -> None:
    medians = {
        condition: median for condition, median in MEDIANS.items() if condition[0] != "nominal"
    }
    page = distance_page({}, medians, {})
    assert ">augmented</b>:" in page
    assert "nominal" not in page.partition("<noscript>")[0]


def test_a_prediction_is_shown_up_to_the_highest_run() -> None:
    """One that leaves all bounds must not squeeze the rest."""
    lost = {Condition("nominal", 1.0): curve(0.1, 0.2, 1e8)}
    page = distance_page(RUNS, MEDIANS, lost)
    assert "nominal, predicted" in page
    assert "augmented, predicted" not in page
    assert "100000000" not in page
    assert "the predicted one dashed" in page
    assert "dashed" not in distance_page(RUNS, MEDIANS, {}).partition("<noscript>")[0]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    grid = GridSettings(seeds="0-3")
    write_experiment(folder, grid, steps=3000)
    aggregate(folder, grid)
    return folder


def draw(tables: Path, output: Path) -> Path:
    """As the workflow calls it, in a process of its own."""
    names = [f"--{name}={tables}/{name}.parquet" for name in ("trajectories", "summary")]
    command = [sys.executable, "-m", "equireg", "draw", *names, f"--output={output}"]
    subprocess.run(command, check=True)
    return output


def test_equal_tables_give_equal_pages(tables: Path, tmp_path: Path) -> None:
    pages = [draw(tables, tmp_path / f"{name}.html").read_bytes() for name in "ab"]
    assert pages[0] == pages[1]
    assert len(pages[0]) < 3_000_000


@needs_browser
@pytest.mark.slow
def test_a_browser_draws_it_without_a_network(tables: Path, tmp_path: Path) -> None:
    dom = shown(draw(tables, tmp_path / "figure2.html"), tmp_path)
    root = dom[dom.index("<html") : dom.index(">", dom.index("<html"))]
    assert 'data-state="drawn"' in root
    assert "errors" not in root
    pixels = imread(tmp_path / "screen.png")[..., :3]
    for mode in ("nominal", "augmented"):
        near = np.abs(pixels - to_rgb(COLOURS[mode])).max(-1) < 0.02
        panels = [
            near[y, x].sum()
            for y in (slice(450), slice(450, 900))
            for x in (slice(640), slice(640, 1280))
        ]
        assert min(panels) > 100, (mode, panels)


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_it_is_dark_where_the_reader_is(tables: Path, tmp_path: Path, dark: bool) -> None:
    """Paper and panels, with light text."""
    dom = shown(draw(tables, tmp_path / "figure2.html"), tmp_path, dark=dark)
    assert 'data-state="drawn"' in dom
    pixels = imread(tmp_path / "screen.png")[..., :3]
    shade = np.median(pixels[::7, ::7].mean(-1))
    assert shade < 0.15 if dark else shade > 0.95
    assert pixels[:100].mean(-1).max() > 0.85 if dark else pixels[:100].mean(-1).min() < 0.2
