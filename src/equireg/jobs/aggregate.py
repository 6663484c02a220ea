"""Aggregate: from the files of the blocks to the three tables of an experiment."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from equireg.binding import REMEDY, together, with_source
from equireg.digest import job_digest
from equireg.files import atomic
from equireg.plan import ENSEMBLES, Block, blocks, conditions
from equireg.settings import GridSettings, Mode
from equireg.spelling import parse_seeds, spell_gamma, spell_seeds
from equireg.tables import (
    ENSEMBLE_SCHEMA,
    FUNCTION_SCHEMA,
    RUN_FIELDS,
    open_parquet,
    parquet_writer,
    run_columns,
    trajectory_schema,
    write_table,
)

QUANTILES = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}

SUMMARY_SCHEMA = pa.schema(
    [
        *RUN_FIELDS[:2],
        pa.field("step", pa.int32(), nullable=False),
        pa.field("seeds", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in QUANTILES),
    ]
)

# What is in memory at a time, however many runs there are.
ROWS = 1 << 20  # of a row group, about: the footer has an entry per row group and column
VALUES = 1 << 21  # distances whose quantiles are computed at once


def aggregate(experiment: Path, grid: GridSettings) -> None:
    """Gather the blocks of ``grid`` below ``experiment`` into its tables.

    trajectories.parquet: every run's steps, sorted by mode, gamma, seed and step, in row groups of
    whole runs; does not depend on how the seeds were cut into blocks. summary.parquet: quantiles of
    the distance to E over the seeds, per mode, gamma and step (the paper's figure 2).
    evaluation.parquet: a row per run, with start_distance, at step 0, and highest_distance, the
    largest recorded in the run or after its last step. ensembles.parquet: a row per ensemble.
    function.parquet: how far from symmetric each run's function is, at some steps.

    A row group or ``VALUES`` distances are in memory at a time; the distances of one (mode, gamma)
    wait for their quantiles in a temporary file in ``experiment``, which has no name. Raises
    ValueError where a file of a block is missing, damaged, or holds other runs than it should, or a
    number that is not finite; then no table is written.
    """
    planned = blocks(grid)
    groups = conditions(grid)
    if not planned:
        raise ValueError(f"no runs in the grid: modes {grid.modes}, gammas {grid.gammas}")
    _require([*_files(experiment, planned), *(_ensembles(experiment, g) for g in groups.values())])
    evaluation, ensembles = _evaluation(experiment, planned), _joined(experiment, groups)
    functions = _functions(experiment, planned)
    schema, steps = _shape(experiment, planned)
    made = _made(experiment, planned, grid)
    starts: list[float] = []
    highest: list[float] = []

    with (
        atomic(experiment / "trajectories.parquet") as trajectories_file,
        atomic(experiment / "summary.parquet") as summary_file,
        parquet_writer(trajectories_file, schema, made) as trajectories,
        parquet_writer(summary_file, SUMMARY_SCHEMA, made) as summary,
    ):
        waiting: list[pa.Table] = []
        for (mode, gamma), group in itertools.groupby(planned, lambda b: (b.mode, b.gamma)):
            with tempfile.TemporaryFile(dir=experiment) as distances:
                for block in group:
                    for run in _runs(_file(experiment, block), block, schema, steps):
                        waiting.append(run)
                        if len(waiting) >= ROWS // steps:
                            trajectories.write_table(pa.concat_tables(waiting))
                            waiting = []
                        distance = run["distance"].to_numpy()
                        distances.write(distance)
                        starts.append(float(distance[0]))
                        highest.append(float(distance.max()))
                for first, part in _by_steps(distances, steps):
                    summary.write_table(summarize(mode, gamma, part, first))
        if waiting:
            trajectories.write_table(pa.concat_tables(waiting))
    ends = evaluation["final_distance"].to_numpy()  # after the last step, which no row records
    evaluation = evaluation.append_column("start_distance", pa.array(starts, pa.float64()))
    evaluation = evaluation.append_column(
        "highest_distance", pa.array(np.maximum(highest, ends), pa.float64())
    )
    write_table(experiment / "evaluation.parquet", evaluation, made)
    write_table(experiment / ENSEMBLES, ensembles, made)
    write_table(experiment / "function.parquet", functions, made)


def quantiles(distances: np.ndarray) -> dict[str, np.ndarray]:
    """Quantiles over the seeds, linearly interpolated: (seeds, steps) -> name: (steps,) float32."""
    levels = list(QUANTILES.values())
    result = np.quantile(distances.astype(np.float64), levels, axis=0, overwrite_input=True)
    return dict(zip(QUANTILES, result.astype(np.float32), strict=True))


def summarize(mode: Mode, gamma: float | None, distances: np.ndarray, first: int = 0) -> pa.Table:
    """The rows of summary.parquet of one (mode, gamma) from its distances, (seeds, steps).

    first: the step that they begin with.
    """
    count, steps = distances.shape
    step = np.arange(first, first + steps, dtype=np.int32)
    columns = [*run_columns(mode, gamma, step)[:2], pa.array(step)]
    columns.append(pa.repeat(pa.scalar(count, pa.int32()), steps))
    columns += [pa.array(values) for values in quantiles(distances).values()]
    return pa.Table.from_arrays(columns, schema=SUMMARY_SCHEMA)


def _by_steps(distances: BinaryIO, steps: int) -> Iterator[tuple[int, np.ndarray]]:
    """All seeds' distances at some steps at a time, (seeds, some), with the first of the steps.

    distances: a file of float32, (seeds, steps).
    """
    size = np.dtype(np.float32).itemsize
    seeds = distances.tell() // (steps * size)
    some = max(1, VALUES // seeds)
    for first in range(0, steps, some):
        part = np.empty((seeds, min(some, steps - first)), np.float32)
        for seed, row in enumerate(part):
            distances.seek((seed * steps + first) * size)
            row[:] = np.frombuffer(distances.read(row.nbytes), np.float32)
        yield first, part


def _file(experiment: Path, block: Block, suffix: str = ".parquet") -> Path:
    return experiment / block.path.with_name(block.path.name + suffix)


def _ensembles(experiment: Path, group: list[Block]) -> Path:
    return experiment / group[0].path.with_name(ENSEMBLES)


def _files(experiment: Path, planned: list[Block]) -> list[Path]:
    suffixes = (".parquet", ".evaluation.parquet", ".function.parquet")
    return [_file(experiment, block, suffix) for block in planned for suffix in suffixes]


def _require(files: list[Path]) -> None:
    """Every file is there; the line names the first that is not and counts the others."""
    missing = [file for file in files if not file.is_file()]
    if missing:
        others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ValueError(f"{missing[0]} is missing{others}; run the workflow again")


def _made(experiment: Path, planned: list[Block], grid: GridSettings) -> dict[str, Any]:
    """The tables' binding: what all files of the blocks say, which must agree, and the grid.

    However the seeds are cut into blocks, it is the same.
    """
    paths = _files(experiment, planned)
    paths += [_ensembles(experiment, group) for group in conditions(grid).values()]
    runs = {
        "modes": sorted(set(grid.modes)),
        "gammas": sorted(set(grid.gammas)),
        "seeds": spell_seeds(parse_seeds(grid.seeds)),
    }
    return with_source(together(*paths), "aggregate", job_digest("aggregate"), grid=runs)


def _shape(experiment: Path, planned: list[Block]) -> tuple[pa.Schema, int]:
    """The columns and the number of steps that all blocks share; reads only the files' footers."""
    first = _file(experiment, planned[0])
    schema, steps = pa.schema([]), 0
    for block in planned:
        path = _file(experiment, block)
        with open_parquet(path) as file:
            found, rows = file.schema_arrow.remove_metadata(), file.metadata.num_rows
        if path == first:
            layers = [name[9:] for name in found.names if name.startswith("distance_")]
            schema, steps = trajectory_schema(layers), rows // len(block.seeds)
        if not found.equals(schema):
            raise ValueError(
                f"{path} has columns {_spell(found)}, expected {_spell(schema)}; {REMEDY}"
            )
        if rows == 0 or rows != steps * len(block.seeds):
            raise ValueError(
                f"{path} has {rows} rows for {len(block.seeds)} seeds, expected "
                f"{steps} steps per run as in {first}; delete the wrong one and run the workflow "
                "again"
            )
    return schema, steps


def _spell(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _runs(path: Path, block: Block, schema: pa.Schema, steps: int) -> Iterator[pa.Table]:
    """The runs of a block, one table each, checked, and spelled the same whatever the block was."""
    with open_parquet(path) as file:
        pending = schema.empty_table()
        seeds = iter(block.seeds)
        for batch in file.iter_batches(batch_size=steps, use_threads=False):
            pending = pa.concat_tables([pending, pa.Table.from_batches([batch])])
            while pending.num_rows >= steps:
                yield _checked(path, pending.slice(0, steps), block, next(seeds))
                pending = pending.slice(steps)


def _checked(path: Path, run: pa.Table, block: Block, seed: int) -> pa.Table:
    """``run``'s table with its metadata columns rebuilt, once they are what they should be."""
    _check_runs(path, run, block, [seed])
    steps = run["step"].to_numpy()
    if not np.array_equal(steps, np.arange(len(steps))):
        raise ValueError(f"{path}: the steps of seed {seed} are not 0, 1, 2, ...; {REMEDY}")
    for name in run.column_names[4:]:
        finite = np.isfinite(run[name].to_numpy())
        if not finite.all():
            step = int(np.argmin(finite))
            raise ValueError(
                f"{path}: {name} of seed {seed} is {run[name][step]} at step {step}; "
                "a finite number is needed"
            )
    columns = run_columns(block.mode, block.gamma, np.full(len(steps), seed, np.int32))
    return pa.Table.from_arrays([*columns, *run.columns[3:]], schema=run.schema.remove_metadata())


def _check_runs(path: Path, table: pa.Table, block: Block, seeds: list[int]) -> None:
    """``table`` holds the block's mode and gamma and, in this order of appearance, ``seeds``."""
    expected: dict[str, list[Any]] = {"mode": [block.mode], "gamma": [block.gamma], "seed": seeds}
    for name, values in expected.items():
        found = pc.unique(table[name]).to_pylist()
        if found != values:
            spelled = [
                ", ".join(spell_gamma(v) if name == "gamma" else str(v) for v in some)
                for some in (found, values)
            ]
            raise ValueError(f"{path} holds {name} {spelled[0]}, expected {spelled[1]}; {REMEDY}")


def _check_finite(path: Path, table: pa.Table, twins: bool) -> None:
    """Every number of an evaluation is finite, or a whole column of those that may be null.

    There may be no twins, no validation images, and no accuracy of a regression.
    """
    for name in table.column_names:
        column = table[name]
        if name == "gamma" or not pa.types.is_floating(column.type):
            continue
        usable = np.isfinite(column.to_numpy())  # null becomes NaN
        absent = (not twins if name.startswith("twin_") else name.startswith("validation_")) or (
            column.null_count == len(column) and ("accuracy" in name or name == "prediction_change")
        )
        if absent:
            usable |= column.is_null().to_numpy()
        if not usable.all():
            row = int(np.argmin(usable))
            own = "seed" if "seed" in table.column_names else "seeds"
            which = f"{own} {table[own][row]}"
            value = "null" if column[row].as_py() is None else column[row]
            raise ValueError(f"{path}: {name} of {which} is {value}; a finite number is needed")


def _functions(experiment: Path, planned: list[Block]) -> pa.Table:
    """What was seen of every run's function, sorted by mode, gamma, seed and step."""
    tables = []
    for block in planned:
        path = _file(experiment, block, ".function.parquet")
        with open_parquet(path, FUNCTION_SCHEMA.names) as file:
            table = file.read(columns=FUNCTION_SCHEMA.names).replace_schema_metadata(None)
        _check_runs(path, table, block, list(block.seeds))
        _check_finite(path, table, twins=False)
        tables.append(table.cast(FUNCTION_SCHEMA))
    return pa.concat_tables(tables).combine_chunks()


def _joined(experiment: Path, groups: Mapping[Any, list[Block]]) -> pa.Table:
    """The ensembles of every mode and gamma."""
    tables: list[pa.Table] = []
    for (mode, gamma), group in groups.items():
        path = _ensembles(experiment, group)
        with open_parquet(path, ENSEMBLE_SCHEMA.names) as file:
            table = file.read(columns=ENSEMBLE_SCHEMA.names).replace_schema_metadata(None)
        seeds = sum(len(block.seeds) for block in group)
        if table["members"].to_pylist()[-1:] != [seeds]:
            raise ValueError(f"{path} is not of {seeds} seeds; {REMEDY}")
        _check_finite(path, table, twins=False)
        expected = {"mode": mode, "gamma": gamma}
        if any(pc.unique(table[key]).to_pylist() != [value] for key, value in expected.items()):
            raise ValueError(f"{path} is not of {mode}, gamma {spell_gamma(gamma)}; {REMEDY}")
        tables.append(table.cast(ENSEMBLE_SCHEMA))
    return pa.concat_tables(tables).combine_chunks()


def _evaluation(experiment: Path, planned: list[Block]) -> pa.Table:
    """The blocks' evaluations, one row per run."""
    twins = any(block.mode == "equivariant" for block in planned)
    tables: list[pa.Table] = []
    for block in planned:
        path = _file(experiment, block, ".evaluation.parquet")
        with open_parquet(path, [*(field.name for field in RUN_FIELDS), "final_distance"]) as file:
            table = file.read().replace_schema_metadata(None)
        if tables and table.column_names != tables[0].column_names:
            raise ValueError(
                f"{path} has columns {', '.join(table.column_names)}, "
                f"expected {', '.join(tables[0].column_names)}; {REMEDY}"
            )
        if table.num_rows != len(block.seeds):
            raise ValueError(
                f"{path} has {table.num_rows} rows for {len(block.seeds)} seeds; {REMEDY}"
            )
        table = table.sort_by("seed")
        _check_runs(path, table, block, list(block.seeds))
        _check_finite(path, table, twins)
        for i, column in enumerate(run_columns(block.mode, block.gamma, np.array(block.seeds))):
            name = RUN_FIELDS[i].name
            table = table.set_column(table.column_names.index(name), RUN_FIELDS[i], column)
        if tables and table.schema != tables[0].schema:
            raise ValueError(
                f"{path} has columns {_spell(table.schema)}, "
                f"expected {_spell(tables[0].schema)}; {REMEDY}"
            )
        tables.append(table)
    return pa.concat_tables(tables).combine_chunks()
