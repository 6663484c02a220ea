"""The figure: its files, its panels, and what thinning keeps."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from equireg.figures import style
from equireg.figures.curves import Curve, decimate, series, thin
from equireg.figures.figure2 import distance_figure
from equireg.jobs.aggregate import aggregate
from equireg.jobs.draw import draw, draw_function
from equireg.plan import Condition
from equireg.settings import GridSettings, Mode
from equireg.tables import write_table
from synthetic import write_experiment

STEPS = 400
GRID = GridSettings(seeds="0-2")


def experiment(folder: Path, grid: GridSettings = GRID, steps: int = STEPS, **made: float) -> Path:
    write_experiment(folder, grid, steps, **made)
    aggregate(folder, grid)
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return experiment(tmp_path_factory.mktemp("tables"))


def drawn(folder: Path, *outputs: Path) -> None:
    draw(folder / "trajectories.parquet", folder / "summary.parquet", list(outputs))


def test_files_are_drawn_and_equal_each_time(tables: Path, tmp_path: Path) -> None:
    names = ("figure2.pdf", "figure2.png", "figure2.svg")
    for folder in ("first", "second"):
        drawn(tables, *(tmp_path / folder / name for name in names))
    for name in names:
        first = (tmp_path / "first" / name).read_bytes()
        assert first == (tmp_path / "second" / name).read_bytes()
        assert b"CreationDate" not in first
    assert (tmp_path / "first/figure2.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "first/figure2.png").read_bytes().startswith(b"\x89PNG")


def test_the_pdf_is_vector_and_small_at_the_papers_scale(tmp_path: Path) -> None:
    # 3,000 of the 60,000 steps: as many bins as the paper's experiment, so as many points.
    folder = experiment(tmp_path, GridSettings(), steps=3000)
    drawn(folder, tmp_path / "figure2.pdf")
    content = (tmp_path / "figure2.pdf").read_bytes()
    assert 300_000 < len(content) < 2_000_000
    assert b"/Subtype /Image" not in content


def test_an_unknown_ending_is_refused(tables: Path) -> None:
    with pytest.raises(ValueError, match=r"output is figure2.jpg; accepted endings: .pdf, .png"):
        drawn(tables, Path("figure2.jpg"))


@pytest.mark.parametrize("broken", ["trajectories.parquet", "summary.parquet"])
def test_damaged_tables_are_named(tables: Path, tmp_path: Path, broken: str) -> None:
    for name in ("trajectories.parquet", "summary.parquet"):
        content = (tables / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-9] if name == broken else content)
    with pytest.raises(
        ValueError, match=f"{broken} does not say what made it, as .* damaged ones do; delete it"
    ):
        drawn(tmp_path, tmp_path / "figure2.png")


@pytest.mark.parametrize(
    ("trajectories", "summary", "problem"),
    [
        (
            "trajectories",
            "trajectories",
            "trajectories.parquet has no column median; its columns: ",
        ),
        ("summary", "summary", "summary.parquet has no column seed, distance; its columns: mode, "),
    ],
)
def test_tables_of_another_kind_are_refused(
    tables: Path, tmp_path: Path, trajectories: str, summary: str, problem: str
) -> None:
    files = [tables / f"{name}.parquet" for name in (trajectories, summary)]
    with pytest.raises(ValueError, match=problem):
        draw(files[0], files[1], [tmp_path / "figure2.png"])


@pytest.mark.parametrize(
    ("table", "column", "said"),
    [
        ("summary", None, "summary.parquet has neither a nominal nor an augmented run"),
        ("trajectories", None, "has no run to draw"),
        ("summary", "median", "summary.parquet: a median is null; expected a number; delete"),
        ("summary", "step", "summary.parquet: a step is null; expected a number; delete"),
        ("trajectories", "distance", "trajectories.parquet: a distance is null; expected a num"),
        ("trajectories", "step", "trajectories.parquet: a step is null; expected a number; "),
    ],
)
def test_tables_without_rows_or_numbers_are_refused(
    tables: Path, tmp_path: Path, table: str, column: str | None, said: str
) -> None:
    files = [tmp_path / f"{name}.parquet" for name in ("trajectories", "summary")]
    for file in files:
        whole = pq.read_table(tables / file.name)
        changed = whole
        if file.stem == table and column is None:
            changed = whole.slice(0, 0)
        elif file.stem == table:
            field = whole.schema.field(column).with_nullable(True)
            nulls = pa.nulls(len(whole), field.type)
            changed = whole.set_column(whole.column_names.index(column), field, nulls)
        pq.write_table(changed.replace_schema_metadata(whole.schema.metadata), file)
    with pytest.raises(ValueError, match=said):
        drawn(tmp_path, tmp_path / "figure2.png")
    assert not (tmp_path / "figure2.png").exists()


def test_tables_of_different_experiments_are_refused(tables: Path, tmp_path: Path) -> None:
    other = experiment(tmp_path / "other", GridSettings(gammas=(3.0,), seeds="0-1"))
    words = rf"grid.gammas is \[3.0\], but \[.*\] in {tables}.*are not mixed: delete the one"
    with pytest.raises(ValueError, match=words):
        draw(tables / "trajectories.parquet", other / "summary.parquet", [tmp_path / "f.pdf"])


@pytest.mark.parametrize("modes", [("nominal",), ("augmented", "equivariant")], ids="+".join)
def test_missing_modes_are_left_out(tmp_path: Path, modes: tuple[Mode, ...]) -> None:
    folder = experiment(tmp_path, GridSettings(modes=modes, gammas=(0.0,), seeds="7"), steps=20)
    drawn(folder, tmp_path / "figure2.png")
    assert (tmp_path / "figure2.png").stat().st_size > 5000


def test_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    folder = experiment(tmp_path, GridSettings(modes=("equivariant",), seeds="0"), steps=20)
    with pytest.raises(ValueError, match=r"neither a nominal nor an augmented run"):
        drawn(folder, tmp_path / "figure2.png")
    assert not (tmp_path / "figure2.png").exists()


def test_distances_of_zero_are_left_out(tmp_path: Path) -> None:
    folder = experiment(tmp_path, perturbation=0.0)
    rows = list(series(folder / "summary.parquet", ["mode", "gamma"], "median"))
    assert all(values[0] == 0 for _, _, values in rows)
    drawn(folder, tmp_path / "figure2.png", tmp_path / "figure2.pdf")


def curve(*distances: float) -> Curve:
    return Curve(np.arange(len(distances)), np.array(distances))


@pytest.mark.parametrize("gammas", [1, 2, 3, 4, 5, 7])
def test_a_panel_per_gamma(gammas: int) -> None:
    medians = {
        Condition(mode, 10.0**i): curve(0.1, 10.0**-i)
        for i in range(gammas)
        for mode in ("nominal", "augmented")
    }
    runs = {condition: [median] * 3 for condition, median in medians.items()}
    with style.styled():
        figure = distance_figure(runs, medians)
        figure.draw_without_rendering()
    assert len(figure.axes) == gammas
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == [r"$\gamma = 1$"] + [rf"$\gamma = 10^{{{i}}}$" for i in range(1, gammas)]
    for panel in figure.axes:
        assert panel.get_yscale() == "log"
        assert panel.get_ylim() == figure.axes[0].get_ylim()
        assert [to_hex(line.get_color()) for line in panel.lines] == [
            style.COLOURS["nominal"].lower(),
            style.COLOURS["augmented"].lower(),
        ]
        assert [len(faint.get_segments()) for faint in panel.collections] == [3, 3]  # type: ignore[attr-defined]
    low, high = figure.axes[0].get_ylim()
    assert low < 10.0 ** (1 - gammas)
    assert high > 0.1
    columns = {1: 1, 2: 2, 3: 2, 4: 2}.get(gammas, 3)
    labelled = [panel.xaxis.get_tick_params()["labelbottom"] for panel in figure.axes]
    assert labelled == [False] * (gammas - columns) + [True] * columns
    assert figure.legends[0].get_texts()[0].get_text() == "nominal: median over 3 seeds"


def test_predictions_are_drawn_without_moving_the_limits() -> None:
    """The panel of a gamma shows those of its modes; where they leave it, its scale stays."""
    conditions = [
        Condition(mode, gamma) for gamma in (0.1, 1.0) for mode in ("nominal", "augmented")
    ]
    medians = {condition: curve(0.1, 1.0) for condition in conditions}
    predicted = {Condition("nominal", 1.0): curve(0.1, 1e9)}
    with style.styled():
        without, figure = (distance_figure({}, medians, some) for some in (None, predicted))
        figure.draw_without_rendering()
    assert [len(panel.lines) for panel in without.axes] == [2, 2]
    assert [len(panel.lines) for panel in figure.axes] == [2, 3]
    line = figure.axes[1].lines[2]
    np.testing.assert_array_equal(line.get_ydata(), [0.1, 1e9])
    assert line.get_linestyle() == "--"
    for before, after in zip(without.axes, figure.axes, strict=True):
        assert before.get_ylim() == after.get_ylim()
        assert before.get_xlim() == after.get_xlim()
    texts = [[text.get_text() for text in f.legends[0].get_texts()] for f in (without, figure)]
    assert texts[1] == [*texts[0], "predicted"]


def test_files_with_predictions(tables: Path, tmp_path: Path) -> None:
    """Of conditions that are drawn; others, of a larger grid, are left out."""
    steps = np.arange(0, STEPS, 10, dtype=np.int32)
    frame = pd.DataFrame({"mode": "nominal", "gamma": 1.0, "step": steps, "median": 0.1})
    other = frame.assign(gamma=3.0, median=np.nan)
    names = {"without": None, "with": frame, "more": pd.concat([frame, other])}
    content = {}
    for name, some in names.items():
        predictions = None
        if some is not None:
            predictions = tmp_path / f"{name}.parquet"
            write_table(predictions, pa.table(some.to_dict("list")), {})
        output = tmp_path / f"{name}.svg"
        draw(tables / "trajectories.parquet", tables / "summary.parquet", [output], predictions)
        content[name] = output.read_bytes()
    assert content["with"] == content["more"]
    assert content["with"] != content["without"]


def test_every_prediction_is_drawn_as_its_own_mode_and_gamma(
    tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back from the figure: a panel's lines are two medians and their predictions."""
    figures: list[Figure] = []
    monkeypatch.setattr("equireg.jobs.draw.save", lambda figure, *_: figures.append(figure))
    levels = {("nominal", 1e0): 0.2, ("augmented", 1e0): 0.02, ("augmented", 1e2): 0.002}
    steps = np.arange(0, STEPS, 10, dtype=np.int32)
    frames = [
        pd.DataFrame({"mode": mode, "gamma": gamma, "step": steps, "median": level})
        for (mode, gamma), level in levels.items()
    ]
    predictions = tmp_path / "predictions.parquet"
    frame = pd.concat(frames)
    write_table(predictions, pa.table(frame.to_dict("list")), {})
    outputs = [tmp_path / "figure2.png"]
    draw(tables / "trajectories.parquet", tables / "summary.parquet", outputs, predictions)
    (figure,) = figures
    colours = [style.COLOURS[mode].lower() for mode in ("nominal", "augmented")]
    drawn = {}
    for panel in figure.axes:
        *medians, first, second = [*panel.lines, None, None][:4]
        assert [to_hex(line.get_color()) for line in panel.lines[:2]] == colours
        assert len(medians) == 2
        drawn[panel.get_title()] = [
            (line.get_label(), float(np.asarray(line.get_ydata())[0]))
            for line in (first, second)
            if line
        ]
    assert drawn == {
        "$\\gamma = 10^{-4}$": [],
        "$\\gamma = 10^{-2}$": [],
        "$\\gamma = 1$": [("nominal, predicted", 0.2), ("augmented, predicted", 0.02)],
        "$\\gamma = 10^{2}$": [("augmented, predicted", 0.002)],
    }


def test_everything_at_zero_draws_empty_panels() -> None:
    with style.styled():
        figure = distance_figure({}, {Condition("nominal", 1.0): curve(np.nan, np.nan)})
        figure.draw_without_rendering()
    assert "not 0" in figure.get_supylabel()


def test_figures_do_not_change_global_settings() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    with style.styled():
        assert matplotlib.rcParams["pdf.fonttype"] == 42
    assert dict(matplotlib.rcParams) == before


def test_decimation_keeps_extremes_and_ends() -> None:
    values = np.random.default_rng(0).random(10_007) + 1
    values[5003], values[7001] = 9, 0.1
    kept = decimate(np.arange(10_007), values, 100)
    assert len(kept.steps) <= 2 * 100 + 2
    assert (np.diff(kept.steps) > 0).all()
    assert {0, 5003, 7001, 10_006} <= set(kept.steps.tolist())
    np.testing.assert_array_equal(kept.distances, values[kept.steps])
    for start, stop in itertools.pairwise(np.linspace(0, 10_007, 101).astype(int)):
        inside = kept.distances[(kept.steps >= start) & (kept.steps < stop)]
        assert inside.min() == values[start:stop].min()
        assert inside.max() == values[start:stop].max()


def test_short_curves_stay_whole() -> None:
    kept = decimate(np.arange(5), np.array([1.0, 0.0, 3.0, 2.0, 5.0]), 3)
    np.testing.assert_array_equal(kept.distances, [1, np.nan, 3, 2, 5])


def test_decimation_of_zeros_leaves_gaps() -> None:
    kept = decimate(np.arange(1000), np.r_[np.zeros(500), np.ones(500)], 10)
    assert np.isnan(kept.distances[kept.steps < 500]).all()
    assert (kept.distances[kept.steps >= 500] == 1).all()


def test_series_do_not_depend_on_row_groups(tables: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tables / "trajectories.parquet"
    other = tmp_path / "other.parquet"
    pq.write_table(pq.read_table(path), other, row_group_size=333)
    keys = ["mode", "gamma", "seed"]
    found, expected = (list(series(file, keys, "distance")) for file in (other, path))
    assert [key for key, _, _ in found] == [key for key, _, _ in expected]
    assert len(found) == 27
    for (_, steps, values), (_, same_steps, same) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(steps, same_steps)
        np.testing.assert_array_equal(values, same)


def test_a_thinned_median_keeps_its_ends_and_its_level() -> None:
    steps = np.arange(60_000, dtype=np.int32)
    noise = np.random.default_rng(0).uniform(0.5, 1.5, len(steps))
    curve = thin(steps, (1e-3 * noise).astype(np.float32), 300)
    assert len(curve.steps) <= 301
    assert curve.steps[[0, -1]].tolist() == [0, 59_999]
    assert (np.diff(curve.steps) > 0).all()
    assert np.allclose(curve.distances[1:-1], 1e-3, rtol=0.15)
    assert np.isnan(thin(steps[:5], np.array([0.0, 1, 1, 1, 1]), 10).distances[0])


def test_a_value_that_is_not_there_is_nan_where_that_is_said(tmp_path: Path) -> None:
    """As of a regression, whose predictions are no classes: the other quantity is drawn."""
    rows = {"mode": ["nominal"] * 2, "gamma": [0.1] * 2, "seed": [0] * 2, "step": [0, 1]}
    changes = pa.array([None, None], pa.float64())
    table = pa.table({**rows, "equivariance_error": [0.1, 0.2], "prediction_change": changes})
    file = tmp_path / "function.parquet"
    write_table(file, table, {"data": {"sha256": "0" * 64}})
    ((_, steps, values),) = series(file, ["mode"], "prediction_change", missing=True)
    assert steps.tolist() == [0, 1]
    assert np.isnan(values).all()
    with pytest.raises(ValueError, match="a prediction_change is null; expected a number"):
        list(series(file, ["mode"], "prediction_change"))
    draw_function(file, [tmp_path / "function.png"])
    assert (tmp_path / "function.png").is_file()
