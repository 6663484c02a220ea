"""The parquet tables: their columns, and how a run's trajectory becomes rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from equireg.binding import REMEDY, Binding, metadata
from equireg.files import atomic
from equireg.settings import Mode

RUN_FIELDS = (
    pa.field("mode", pa.string(), nullable=False),
    pa.field("gamma", pa.float64()),  # null: the equivariant mode has no penalty
    pa.field("seed", pa.int32(), nullable=False),
)


# A row per ensemble; ``seeds``: its members, spelled.
ENSEMBLE_SCHEMA = pa.schema(
    [
        *RUN_FIELDS[:2],
        pa.field("members", pa.int32(), nullable=False),
        pa.field("seeds", pa.string(), nullable=False),
        *(
            pa.field(name, pa.float64())
            for name in (
                *("test_loss", "test_accuracy", "test_accuracy_turned"),
                *("prediction_change", "equivariance_error"),
            )
        ),
    ]
)


# How far from symmetric a run's function is, at some steps.
FUNCTION_SCHEMA = pa.schema(
    [
        *RUN_FIELDS,
        pa.field("step", pa.int32(), nullable=False),
        pa.field("equivariance_error", pa.float64()),
        pa.field("prediction_change", pa.float64()),
    ]
)


def trajectory_schema(layers: Sequence[str]) -> pa.Schema:
    """mode, gamma, seed, step, loss, distance, and distance_<layer> for each layer."""
    metrics = ["loss", *distance_columns(layers)]
    step = pa.field("step", pa.int32(), nullable=False)
    return pa.schema([*RUN_FIELDS, step, *(pa.field(name, pa.float32()) for name in metrics)])


def distance_columns(layers: Sequence[str]) -> list[str]:
    """``distance``, the total, then one column per layer."""
    return ["distance", *(f"distance_{layer}" for layer in layers)]


def run_columns(mode: Mode, gamma: float | None, seeds: np.ndarray) -> list[pa.Array]:
    """The columns of ``RUN_FIELDS`` for rows of one (mode, gamma) with the given seeds."""
    return [
        pa.repeat(pa.scalar(mode, pa.string()), len(seeds)),
        pa.repeat(pa.scalar(gamma, pa.float64()), len(seeds)),
        pa.array(seeds, pa.int32()),
    ]


def trajectory_table(
    mode: Mode,
    gamma: float | None,
    seeds: Sequence[int],
    metrics: Mapping[str, np.ndarray],
    first: int = 0,
) -> pa.Table:
    """Rows sorted by seed and step from ``metrics``, arrays (seeds, steps) from ``first`` on."""
    count, steps = metrics["loss"].shape
    schema = trajectory_schema([name[9:] for name in metrics if name.startswith("distance_")])
    columns = run_columns(mode, gamma, np.repeat(np.asarray(seeds, np.int32), steps))
    columns.append(pa.array(np.tile(np.arange(first, first + steps, dtype=np.int32), count)))
    columns += [pa.array(metrics[name].reshape(-1), pa.float32()) for name in schema.names[4:]]
    return pa.Table.from_arrays(columns, schema=schema)


def parquet_writer(path: Path, schema: pa.Schema, made: Binding) -> pq.ParquetWriter:
    """A writer with the encodings that suit smooth steps and noisy floats.

    made: what made the table; the file's metadata say it (``binding``). Pages carry checksums:
    without them most flipped bits would be read as other numbers.
    """
    floats = [field.name for field in schema if pa.types.is_float32(field.type)]
    encodings = dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
    if "step" in schema.names:
        encodings["step"] = "DELTA_BINARY_PACKED"
    dictionary = [name for name in schema.names if name not in encodings]
    return pq.ParquetWriter(
        path,
        schema.with_metadata(metadata(made)),
        compression="zstd",
        write_page_checksum=True,
        use_dictionary=dictionary,
        column_encoding=encodings,
    )


@contextmanager
def open_parquet(path: Path, columns: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """The parquet file, its checksums verified.

    columns: those that the caller needs. Raises ValueError where the file is missing or damaged,
    one line that names it and the remedy, or lacks one of the columns.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found = file.schema_arrow.names
            if missing := [name for name in columns if name not in found]:
                raise ValueError(
                    f"{path} has no column {', '.join(missing)}; its columns: {', '.join(found)}; "
                    f"if an older version wrote it, {REMEDY}"
                )
            yield file
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; run the workflow again") from error
    except PermissionError:
        raise
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is damaged ({reason}); {REMEDY}") from error


def write_table(path: Path, table: pa.Table, made: Binding) -> None:
    """Write ``table`` and what made it, whole or not at all; equal tables give equal bytes."""
    with atomic(path) as temporary, parquet_writer(temporary, table.schema, made) as writer:
        writer.write_table(table)
