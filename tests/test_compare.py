"""Comparisons: intervals, the figure's content, the paired gain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.colors import to_hex

from equireg.figures.gammas import gamma_figure, gamma_places
from equireg.figures.quantities import read
from equireg.figures.style import COLOURS, SERIES
from equireg.intervals import Interval, median_interval, spell_interval
from equireg.jobs.compare import compare, read_critical, report
from equireg.tables import RUN_FIELDS, run_columns, write_table

GAMMAS = (0.0, 1e-4, 1e0)


def write_evaluation(path: Path, modes: tuple[str, ...], shift: float = 0.0) -> Path:
    """Nine seeds per mode and gamma; the augmented mode tests 0.01 better than its twins."""
    seeds = np.arange(9)
    tables = []
    for mode in modes:
        for gamma in (None,) if mode == "equivariant" else GAMMAS:
            level = {"equivariant": 0.0, "augmented": 0.1, "nominal": 1.0}[mode]
            distance = level * (1 + seeds / 100) / (1 + (gamma or 0.0))
            accuracy = 0.6 + shift + seeds / 100 + (0.01 if mode == "augmented" else 0.0)
            values = [distance, distance / 2, accuracy, accuracy]
            names = ["final_distance", "equivariance_error", "test_accuracy"]
            fields = [pa.field(n, pa.float64()) for n in (*names, "test_accuracy_turned")]
            columns = [*run_columns(mode, gamma, seeds), *map(pa.array, values)]  # type: ignore[arg-type]
            tables.append(pa.Table.from_arrays(columns, schema=pa.schema([*RUN_FIELDS, *fields])))
    write_table(path, pa.concat_tables(tables).combine_chunks(), {"data": {"sha256": "0" * 64}})
    return path


ALL = ("augmented", "equivariant", "nominal")


def test_the_interval_is_that_of_the_median() -> None:
    """For n normal values the median's standard error is about 1.2533 / sqrt(n)."""
    values = np.random.default_rng(0).standard_normal(400)
    found = median_interval(values, "test")
    assert found.median == np.median(values)
    assert found.low < found.median < found.high
    assert (found.high - found.low) / (2 * 1.96 * 1.2533 / 20) == pytest.approx(1, abs=0.3)
    assert median_interval(values, "test") == found
    assert median_interval(np.array([2.0]), "test").low == 2.0


def test_nothing_is_spelled_as_less_than_nothing() -> None:
    assert spell_interval(Interval(-1e-6, -0.02, 1e-6), "+.4f") == "+0.0000 [-0.0200, +0.0000]"
    assert spell_interval(Interval(-1e-6, -0.02, 0.5), ".3f") == "0.000 [-0.020, 0.500]"


def test_a_regression_shows_its_loss_in_place_of_accuracies(tmp_path: Path) -> None:
    runs = read(write_evaluation(tmp_path / "a.parquet", ALL)).assign(experiment="a")
    runs["test_loss"] = runs["equivariance_error"] + 0.1
    runs[["test_accuracy", "test_accuracy_turned"]] = np.nan
    titles = [panel.get_title() for panel in gamma_figure(runs).axes]
    assert titles == [r"distance to $\mathcal{E}$", "equivariance error", "test loss"]
    averaged = runs.assign(test_averaged_loss=runs["test_loss"] / 2)
    assert gamma_figure(averaged).axes[3].get_title() == "test loss, averaged"
    assert "test loss" in report(runs)
    assert "nan" not in report(runs)


def test_one_experiment_shows_its_modes(tmp_path: Path) -> None:
    runs = read(write_evaluation(tmp_path / "a.parquet", ALL)).assign(experiment="a")
    figure = gamma_figure(runs)
    assert len(figure.axes) == 4
    panel = figure.axes[0]
    lines = {to_hex(line.get_color()).upper(): line for line in panel.lines}
    assert set(lines) == {COLOURS["augmented"], COLOURS["nominal"]}
    x, y = lines[COLOURS["nominal"]].get_data()
    assert np.array_equal(x, [-5.5, -4, 0])
    assert np.allclose(np.asarray(y), [1.04, 1.04 / (1 + 1e-4), 0.52])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["nominal", "augmented", "equivariant"]


def test_several_experiments_show_a_row_per_mode(tmp_path: Path) -> None:
    tables = {
        "a": write_evaluation(tmp_path / "a.parquet", ALL),
        "b": write_evaluation(tmp_path / "b.parquet", ("augmented",), shift=0.1),
    }
    outputs = [tmp_path / "figure.png", tmp_path / "figure.pdf"]
    compare(tables, outputs, tmp_path / "table.md")
    content = [path.read_bytes() for path in outputs]
    compare(tables, outputs, tmp_path / "table.md")
    assert content == [path.read_bytes() for path in outputs]
    import pandas as pd

    figure = gamma_figure(pd.concat([read(p).assign(experiment=n) for n, p in tables.items()]))
    assert len(figure.axes) == 8
    nominal, augmented = figure.axes[0], figure.axes[4]
    assert [to_hex(line.get_color()).upper() for line in nominal.lines] == [SERIES[0]]
    assert [to_hex(line.get_color()).upper() for line in augmented.lines] == list(SERIES[:2])


def test_critical_gammas_are_marked_and_told(tmp_path: Path) -> None:
    rows = {
        "mode": ["augmented"] * 4 + ["nominal"] * 2,
        "weights": ["start"] * 2 + ["trained"] * 2 + ["start", "trained"],
        "critical_gamma": [0.5, 0.7, 0.1, 0.001, 0.2, 0.0],
    }
    write_table(tmp_path / "critical.parquet", pa.table(rows), {})
    table = write_evaluation(tmp_path / "a.parquet", ALL)
    output = tmp_path / "table.md"
    compare({"a": table}, [tmp_path / "f.pdf"], output, tmp_path / "critical.parquet")
    said = output.read_text()
    assert "augmented, by the Hessian at equivariant weights, start: 0.6.\n" in said
    assert "nominal, by the Hessian at equivariant weights, trained: 0.\n" in said
    figure = gamma_figure(
        read(table).assign(experiment="a"), read_critical(tmp_path / "critical.parquet")
    )
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "critical, augmented" in labels
    assert "critical, nominal" not in labels  # 0 is on no logarithmic axis
    marks = [line for line in figure.axes[0].lines if line.get_label() == "critical, augmented"]
    assert np.asarray(marks[0].get_xdata())[0] == pytest.approx(np.log10(0.0505))


def test_the_gain_is_paired_by_seed(tmp_path: Path) -> None:
    text = report(read(write_evaluation(tmp_path / "a.parquet", ALL)).assign(experiment="a"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[4:]]
    gains = {tuple(row[1:3]): row[-1] for row in rows}
    assert gains["augmented", "1e-4"] == "+0.0100 [+0.0100, +0.0100]"
    assert gains["nominal", "0"] == "+0.0000 [+0.0000, +0.0000]"
    assert gains["equivariant", "none"] == ""
    assert all(row[3] == "9" for row in rows)


def test_no_penalty_stands_left_of_the_smallest_one() -> None:
    assert gamma_places([0.0, 1e-2, 1.0]) == {0.0: -3.5, 1e-2: -2.0, 1.0: 0.0}
    assert gamma_places([1.0]) == {1.0: 0.0}


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    lone = write_evaluation(tmp_path / "a.parquet", ("equivariant",))
    with pytest.raises(ValueError, match="neither a nominal nor an augmented run"):
        compare({"a": lone}, [tmp_path / "f.pdf"], tmp_path / "t.md")
    with pytest.raises(ValueError, match=r"output is .*f\.gif; accepted endings"):
        compare({"a": lone}, [tmp_path / "f.gif"], tmp_path / "t.md")
    assert not (tmp_path / "t.md").exists()
