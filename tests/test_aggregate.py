"""The three tables of an experiment."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from equireg import binding
from equireg.jobs import aggregate as job
from equireg.jobs.aggregate import QUANTILES, aggregate, quantiles
from equireg.plan import Block
from equireg.settings import GridSettings
from equireg.tables import write_table
from synthetic import distances, write_block, write_experiment

STEPS = 50
GRID = GridSettings(gammas=(1.0, 1e-2), seeds="0-4", seeds_per_job=2)
TABLES = (
    "trajectories.parquet",
    "summary.parquet",
    "evaluation.parquet",
    "ensembles.parquet",
    "function.parquet",
)
BLOCK = Path("runs/augmented/gamma-1e-2/seeds-002-003.parquet")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment's blocks and tables; not to be changed."""
    experiment = tmp_path_factory.mktemp("made")
    write_experiment(experiment, GRID, STEPS)
    aggregate(experiment, GRID)
    return experiment


@pytest.fixture
def experiment(made: Path, tmp_path: Path) -> Path:
    """A copy of the blocks alone, to be damaged."""
    shutil.copytree(made / "runs", tmp_path / "runs")
    return tmp_path


def test_trajectories_hold_every_step_sorted(made: Path) -> None:
    frame = pd.read_parquet(made / "trajectories.parquet")
    assert len(frame) == (1 + 2 + 2) * 5 * STEPS
    order = frame.assign(mode=frame["mode"].astype(str))
    assert order.equals(order.sort_values(["mode", "gamma", "seed", "step"], ignore_index=True))
    assert frame.loc[frame["mode"] == "equivariant", "gamma"].isna().all()
    some = frame[(frame["mode"] == "nominal") & (frame["gamma"] == 0.01) & (frame["seed"] == 3)]
    for name, values in distances("nominal", 0.01, 3, STEPS).items():
        np.testing.assert_array_equal(some[name], values)


def test_row_groups_hold_whole_runs(
    made: Path, experiment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "ROWS", 4 * STEPS + 1)
    aggregate(experiment, GRID)
    file = pq.ParquetFile(experiment / "trajectories.parquet")
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    assert groups == [4 * STEPS] * 6 + [STEPS]
    found, expected = (
        pd.read_parquet(folder / "trajectories.parquet").astype({"mode": str})
        for folder in (experiment, made)
    )
    pd.testing.assert_frame_equal(found, expected, check_exact=True)


@pytest.mark.parametrize("values", [1, 7, 100])
def test_quantiles_do_not_depend_on_how_many_are_computed_at_once(
    made: Path, experiment: Path, monkeypatch: pytest.MonkeyPatch, values: int
) -> None:
    monkeypatch.setattr(job, "VALUES", values)
    aggregate(experiment, GRID)
    assert pq.read_table(experiment / "summary.parquet").equals(
        pq.read_table(made / "summary.parquet")
    )


def test_columns_are_typed_tightly(made: Path) -> None:
    schema = pq.read_schema(made / "trajectories.parquet")
    assert [str(field.type) for field in schema][1:4] == ["double", "int32", "int32"]
    assert {str(field.type) for field in list(schema)[4:]} == {"float"}


def test_summary_is_what_pandas_computes(made: Path) -> None:
    rows = pd.read_parquet(made / "trajectories.parquet").astype({"mode": str})
    summary = pd.read_parquet(made / "summary.parquet").astype({"mode": str})
    assert not summary.drop(columns="gamma").isna().to_numpy().any()
    assert set(summary["seeds"]) == {5}
    groups = rows.groupby(["mode", "gamma", "step"], dropna=False)["distance"]
    for name, level in QUANTILES.items():
        np.testing.assert_allclose(summary[name], groups.quantile(level), rtol=1e-6)


@pytest.mark.parametrize("seeds", [1, 2, 30])
def test_quantiles_are_those_of_numpy(seeds: int) -> None:
    values = np.random.default_rng(0).random((seeds, 20_000), np.float32)
    for name, column in quantiles(values).items():
        assert column.dtype == np.float32
        np.testing.assert_allclose(column, np.quantile(values, QUANTILES[name], 0), rtol=1e-6)


def test_evaluation_has_a_row_per_run(made: Path) -> None:
    frame = pd.read_parquet(made / "evaluation.parquet")
    assert len(frame) == 25
    assert list(frame["mode"].unique()) == ["augmented", "equivariant", "nominal"]
    assert list(frame["seed"][:10]) == [0, 1, 2, 3, 4] * 2
    assert list(frame["gamma"][:10]) == [0.01] * 5 + [1.0] * 5


def test_evaluation_has_each_runs_start_and_highest_distance(made: Path) -> None:
    rows = pd.read_parquet(made / "trajectories.parquet").astype({"mode": str})
    runs = rows.groupby(["mode", "gamma", "seed"], dropna=False)["distance"]
    frame = pd.read_parquet(made / "evaluation.parquet")
    np.testing.assert_array_equal(frame["start_distance"], runs.first())
    np.testing.assert_array_equal(frame["highest_distance"], runs.max())


def test_the_highest_distance_may_be_after_the_last_step(experiment: Path) -> None:
    path = (experiment / BLOCK).with_suffix(".evaluation.parquet")
    change(path, "final_distance", 1, 9.0)
    aggregate(experiment, GRID)
    frame = pd.read_parquet(experiment / "evaluation.parquet")
    assert frame.loc[frame["highest_distance"] == 9, ["gamma", "seed"]].to_numpy().tolist() == [
        [0.01, 3]
    ]


@pytest.mark.parametrize("seeds_per_job", [1, 3, 10])
def test_bytes_do_not_depend_on_the_blocks(made: Path, tmp_path: Path, seeds_per_job: int) -> None:
    grid = GridSettings(gammas=GRID.gammas, seeds=GRID.seeds, seeds_per_job=seeds_per_job)
    write_experiment(tmp_path, grid, STEPS)
    for _ in range(2):
        aggregate(tmp_path, grid)
    for name in TABLES:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


def fails(experiment: Path) -> str:
    """The error's line; no table was written, nor a temporary file left."""
    with pytest.raises(ValueError, match=r".") as error:
        aggregate(experiment, GRID)
    assert [path.name for path in experiment.iterdir()] == ["runs"]
    line = str(error.value)
    assert "\n" not in line
    return line


def test_missing_blocks_are_named_and_counted(experiment: Path) -> None:
    (experiment / BLOCK).unlink()
    (experiment / BLOCK).with_suffix(".evaluation.parquet").unlink()
    line = fails(experiment)
    assert line == f"{experiment / BLOCK} is missing (and 1 more); run the workflow again"


@pytest.mark.parametrize("suffix", [".parquet", ".evaluation.parquet"])
@pytest.mark.parametrize("kept", [0, 3, 0.5, -1])
def test_truncated_blocks_are_named(experiment: Path, suffix: str, kept: float) -> None:
    path = (experiment / BLOCK).with_suffix(suffix)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept) if 0 < kept < 1 else int(kept)])
    line = fails(experiment)
    assert line.startswith(f"{path} is damaged (")
    assert line.endswith("delete it and run the workflow again")


def test_a_flipped_bit_is_noticed(experiment: Path) -> None:
    path = experiment / BLOCK
    content = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(5)
    content[chunk.data_page_offset + chunk.total_compressed_size - 20] ^= 1
    path.write_bytes(content)
    assert fails(experiment).startswith(f"{path} is damaged (")


def rewrite(path: Path, table: pa.Table) -> None:
    """Write ``table`` without regard for what the file should hold."""
    made = binding.read(path)
    path.unlink()
    write_table(path, table, made)


def change(path: Path, name: str, row: int, value: float | None) -> None:
    """Write one number into the file."""
    table = pq.read_table(path)
    column = table[name].to_pylist()
    column[row] = value
    i = table.column_names.index(name)
    rewrite(
        path, table.set_column(i, table.schema.field(i), pa.array(column, table.schema.types[i]))
    )


def test_foreign_columns_are_refused(experiment: Path) -> None:
    path = experiment / BLOCK
    rewrite(path, pq.read_table(path).drop_columns("loss"))
    assert fails(experiment).startswith(f"{path} has columns mode string, gamma double")


def test_columns_of_other_layers_are_refused(experiment: Path) -> None:
    path = experiment / BLOCK
    table = pq.read_table(path)
    rewrite(path, table.rename_columns([*table.column_names[:-1], "distance_conv3"]))
    assert "distance_conv3 float, expected" in fails(experiment)


def test_other_numbers_of_steps_are_refused(experiment: Path) -> None:
    block = Block("nominal", 1.0, (0, 1))
    write_block(experiment, block, STEPS + 1)
    line = fails(experiment)
    assert f"{block.path}.parquet has 102 rows for 2 seeds, expected 50 steps per run" in line


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (Block("augmented", 1e-2, (4, 5)), "holds seed 4"),
        (Block("augmented", 1e-3, (2, 3)), "holds gamma 1e-3, expected 1e-2"),
        (Block("nominal", 1e-2, (2, 3)), "holds mode nominal, expected augmented"),
        (Block("equivariant", None, (2, 3)), "holds mode equivariant, expected augmented"),
    ],
    ids=lambda value: value.mode if isinstance(value, Block) else "",
)
@pytest.mark.parametrize("suffix", [".parquet", ".evaluation.parquet"])
def test_blocks_of_other_runs_are_refused(
    experiment: Path, tmp_path: Path, block: Block, problem: str, suffix: str
) -> None:
    other = tmp_path / "runs" / "other"
    write_block(other, block, STEPS)
    path = (experiment / BLOCK).with_suffix(suffix)
    shutil.copy(other / block.path.with_name(block.name + suffix), path)
    line = fails(experiment)
    assert line.startswith(f"{path} {problem}")


def test_steps_out_of_order_are_refused(experiment: Path) -> None:
    path = experiment / BLOCK
    rewrite(path, pq.read_table(path).sort_by([("seed", "ascending"), ("step", "descending")]))
    assert "the steps of seed 2 are not 0, 1, 2, ..." in fails(experiment)


def test_numbers_that_are_not_finite_are_refused(experiment: Path) -> None:
    path = experiment / BLOCK
    table = pq.read_table(path)
    distance = table["distance"].to_numpy().copy()
    distance[STEPS + 7] = np.nan
    rewrite(path, table.set_column(5, table.schema.field(5), pa.array(distance)))
    assert "distance of seed 3 is nan at step 7" in fails(experiment)


@pytest.mark.parametrize(
    ("value", "spelled"), [(np.nan, "nan"), (np.inf, "inf"), (None, "null")], ids=str
)
@pytest.mark.parametrize("name", ["final_distance", "test_accuracy"])
def test_evaluations_that_are_not_finite_are_refused(
    experiment: Path, name: str, value: float | None, spelled: str
) -> None:
    path = (experiment / BLOCK).with_suffix(".evaluation.parquet")
    change(path, name, 1, value)
    problem = f"{path}: {name} of seed 3 is {spelled}; a finite number is needed"
    assert fails(experiment) == problem


def test_twins_may_be_missing_only_without_the_equivariant_mode(experiment: Path) -> None:
    for path in experiment.rglob("*.evaluation.parquet"):
        table = pq.read_table(path)
        nulls = pa.nulls(table.num_rows, pa.float64())
        rewrite(path, table.append_column("twin_distance", nulls))
    assert "seeds-000-001.evaluation.parquet: twin_distance of seed 0 is null" in fails(experiment)
    grid = dataclasses.replace(GRID, modes=("augmented", "nominal"))
    aggregate(experiment, grid)
    evaluation = pq.read_table(experiment / "evaluation.parquet")
    assert evaluation["twin_distance"].null_count == evaluation.num_rows == 20
    path = (experiment / BLOCK).with_suffix(".evaluation.parquet")
    change(path, "twin_distance", 0, np.nan)
    with pytest.raises(ValueError, match=r"twin_distance of seed 2 is nan; a finite number"):
        aggregate(experiment, grid)


@pytest.mark.parametrize("name", ["gamma", "final_distance"])
def test_evaluations_of_another_kind_are_refused(experiment: Path, name: str) -> None:
    path = (experiment / BLOCK).with_suffix(".evaluation.parquet")
    rewrite(path, pq.read_table(path).drop_columns(name))
    assert fails(experiment).startswith(f"{path} has no column {name}; its columns: mode, ")


def test_evaluations_must_have_the_same_columns(experiment: Path) -> None:
    path = (experiment / BLOCK).with_suffix(".evaluation.parquet")
    rewrite(path, pq.read_table(path).drop_columns("test_accuracy"))
    assert fails(experiment).startswith(f"{path} has columns mode, gamma, seed, final_distance")


def test_tables_survive_a_failure(experiment: Path) -> None:
    aggregate(experiment, GRID)
    before = [(experiment / name).read_bytes() for name in TABLES]
    (experiment / BLOCK).write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        aggregate(experiment, GRID)
    assert before == [(experiment / name).read_bytes() for name in TABLES]


def test_the_quantiles_have_their_names() -> None:
    """0, 1, ..., 100: a quantile is its percentage."""
    found = quantiles(np.arange(101, dtype=np.float32)[:, None])
    assert {name: values.item() for name, values in found.items()} == {
        "q05": 5.0,
        "q25": 25.0,
        "median": 50.0,
        "q75": 75.0,
        "q95": 95.0,
    }


@pytest.mark.parametrize("name", ["loss", "distance", "distance_conv1", "distance_linear"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_column_may_hold_what_is_no_number(name: str, value: float, experiment: Path) -> None:
    change(experiment / BLOCK, name, 3, value)
    assert f"{name} of seed " in fails(experiment)


@pytest.mark.parametrize("file", ["seeds-002-003.function.parquet", "ensembles.parquet"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_else_is_joined_is_finite(experiment: Path, file: str, value: float) -> None:
    path = (experiment / BLOCK).with_name(file)
    change(path, "equivariance_error", 0, value)
    assert f"{path}: equivariance_error" in fails(experiment)
