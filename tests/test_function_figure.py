"""The figure of the functions along training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equireg import binding
from equireg.figures.function import MOST_NAMED, QUANTITIES, function_figure
from equireg.jobs.aggregate import aggregate
from equireg.jobs.draw import draw_function
from equireg.plan import Condition
from equireg.settings import GridSettings
from synthetic import write_experiment


def test_medians_are_drawn_per_mode_gamma_and_quantity() -> None:
    steps, values = np.array([0, 10]), np.array([[0.1, 0.2], [0.3, 0.6], [0.2, 0.3]])
    gammas = [10.0**k for k in range(-6, 4)]
    curves = {
        Condition(m, g): (steps, values * g) for m in ("nominal", "augmented") for g in gammas
    }
    figure = function_figure(dict.fromkeys(QUANTITIES, curves))
    assert [panel.get_title() for panel in figure.axes] == ["nominal", "augmented", "", ""]
    for panel in figure.axes:
        drawn = [np.asarray(line.get_ydata()) for line in panel.lines]
        assert np.allclose(drawn, [np.array([0.2, 0.3]) * gamma for gamma in gammas])
    assert len(figure.legends[0].get_texts()) == MOST_NAMED


def test_a_quantity_that_is_not_there_has_no_row() -> None:
    curves = {Condition("nominal", 1.0): (np.array([0, 10]), np.full((3, 2), 0.1))}
    figure = function_figure({"equivariance_error": curves, "prediction_change": {}})
    assert [panel.get_ylabel() for panel in figure.axes] == ["equivariance error"]


def test_from_the_table(tmp_path: Path) -> None:
    grid = GridSettings(seeds="0-2")
    write_experiment(tmp_path, grid, steps=20)
    aggregate(tmp_path, grid)
    draw_function(tmp_path / "function.parquet", [tmp_path / "f.png"])
    assert "draw" in binding.read(tmp_path / "f.png")["source"]
    with pytest.raises(ValueError, match="is missing"):
        draw_function(tmp_path / "none.parquet", [tmp_path / "g.png"])
