"""Check: what the paper says of its figure 2, beside our numbers and those of its authors' code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from equireg.binding import REMEDY, together, with_source, write_document
from equireg.claims.agreement import other_settings, read_numbers, window_medians
from equireg.claims.criteria import END_WINDOW, Measured
from equireg.claims.report import report
from equireg.digest import job_digest
from equireg.figures.curves import series
from equireg.plan import Condition
from equireg.settings import MODES
from equireg.tables import open_parquet

# The columns that are read, and what must be in them.
RUNS = {
    "mode": "mode",
    "gamma": "number or null",
    "seed": "whole number",
    "start_distance": "number",
    "highest_distance": "number",
    "prediction_change": "number or null",
}
TRAJECTORIES = {
    "mode": "mode",
    "gamma": "number or null",
    "seed": "whole number",
    "step": "whole number",
    "distance": "number",
}
SUMMARY = {
    "mode": "mode",
    "gamma": "number or null",
    "step": "whole number",
    "seeds": "whole number",
    "median": "number",
}


def check(
    trajectories: Path,
    summary: Path,
    evaluation: Path,
    output: Path,
    numbers: Path | None,
    sections: Mapping[str, Any],
) -> None:
    """Write the report on the paper's claims, as Markdown.

    numbers: those of the authors' code. sections: the experiment's configuration by section, which
    says whether they can be compared. Raises ValueError where the tables are damaged or do not
    belong together. A claim that does not hold is a line of the report, not an error.
    """
    made = with_source(together(trajectories, summary, evaluation), "check", job_digest("check"))
    theirs = read_numbers(numbers) if numbers else None
    unlike = other_settings(theirs, sections) if theirs else []
    measured = read(trajectories, summary, evaluation, theirs.steps if theirs else ())
    write_document(output, report(measured, theirs, unlike), made)


def read(
    trajectories: Path, summary: Path, evaluation: Path, steps: Sequence[int] = ()
) -> dict[Condition, Measured]:
    """The curves of the three tables, without the equivariant one, whose distance is always 0.

    steps: at which the seeds' distances are wanted, as far as the runs have them.
    """
    runs: dict[Condition, dict[int, dict[str, Any]]] = {}
    for row in _read(evaluation, RUNS).to_pylist():
        if row["gamma"] is not None:
            runs.setdefault(Condition(row["mode"], row["gamma"]), {})[row["seed"]] = row

    with open_parquet(trajectories, list(TRAJECTORIES)) as file:
        _check_types(trajectories, file.schema_arrow, TRAJECTORIES)
    ends: dict[Condition, dict[int, float]] = {}
    along: dict[Condition, dict[int, np.ndarray]] = {}
    for (mode, gamma, seed), recorded, distances in series(
        trajectories, ["mode", "gamma", "seed"], "distance"
    ):
        if gamma is None:
            continue
        condition = Condition(mode, gamma)
        if (
            not np.array_equal(recorded, np.arange(len(recorded)))
            or not np.isfinite(distances).all()
        ):
            raise ValueError(
                f"{trajectories}: seed {seed} of {condition} has a step that is missing or a "
                f"distance that is not finite; {REMEDY}"
            )
        some = [step for step in steps if step < len(recorded)]
        last = max(1, min(END_WINDOW, len(recorded) // 10))
        ends.setdefault(condition, {})[seed] = float(np.median(distances[-last:]))
        along.setdefault(condition, {})[seed] = window_medians(distances, some)

    measured = {}
    for condition, (start, highest, length, count) in _medians(summary).items():
        own, ended = runs.get(condition, {}), ends.get(condition, {})
        if len(own) != count or set(own) != set(ended):
            raise ValueError(
                f"{evaluation}, {summary} and {trajectories} hold other runs of {condition}; "
                "delete them and run the workflow again"
            )
        table = np.stack([along[condition][seed] for seed in own])
        measured[condition] = Measured(
            start,
            highest,
            length,
            ends={seed: ended[seed] for seed in own},
            starts={seed: run["start_distance"] for seed, run in own.items()},
            highs={seed: run["highest_distance"] for seed, run in own.items()},
            changes={
                seed: run["prediction_change"]
                for seed, run in own.items()
                if run["prediction_change"] is not None  # as of what is no class
            },
            along={step: table[:, k] for k, step in enumerate(steps[: table.shape[1]])},
        )
    if others := sorted((set(runs) | set(ends)) - set(measured)):
        raise ValueError(
            f"{summary} lacks {others[0]}, which {evaluation} or {trajectories} holds; delete them "
            "and run the workflow again"
        )
    return measured


def _medians(summary: Path) -> dict[Condition, tuple[float, float, int, int]]:
    """Per curve: the median distance at the start, the highest, the steps, and how many seeds."""
    table = _read(summary, SUMMARY)
    modes, gammas, steps, seeds, medians = (
        table[name].to_numpy() for name in ("mode", "gamma", "step", "seeds", "median")
    )
    found = {}
    for mode in sorted(set(modes)):
        for gamma in np.unique(gammas[(modes == mode) & ~np.isnan(gammas)]).tolist():
            rows = (modes == mode) & (gammas == gamma)
            start = medians[rows & (steps == 0)]
            if len(start) != 1 or not np.array_equal(np.sort(steps[rows]), np.arange(rows.sum())):
                raise ValueError(
                    f"{summary}: the steps of {Condition(mode, gamma)} are not 0, 1, 2, ...; "
                    f"{REMEDY}"
                )
            found[Condition(mode, gamma)] = (
                float(start[0]),
                float(medians[rows].max()),
                int(rows.sum()),
                int(seeds[rows][0]),
            )
    return found


def _read(path: Path, kinds: Mapping[str, str]) -> pa.Table:
    """Columns of a table; ValueError where one holds what its kind does not allow."""
    with open_parquet(path, list(kinds)) as file:
        _check_types(path, file.schema_arrow, kinds)
        table = file.read(columns=list(kinds))
    for name, kind in kinds.items():
        column = table[name]
        if column.null_count and not kind.endswith("null"):
            raise ValueError(f"{path}: a {name} is null; expected a {kind}; {REMEDY}")
        values = column.drop_null().to_numpy()
        wrong = ~np.isin(values, MODES) if kind == "mode" else ~np.isfinite(values)
        if wrong.any():
            raise ValueError(f"{path}: a {name} is {values[wrong][0]}; expected a {kind}; {REMEDY}")
    return table


def _check_types(path: Path, schema: pa.Schema, kinds: Mapping[str, str]) -> None:
    """Raise ValueError where a column is of another type than its kind."""
    for name, kind in kinds.items():
        found = schema.field(name).type
        type_ = found.value_type if pa.types.is_dictionary(found) else found
        if kind == "mode":
            right = pa.types.is_string(type_) or pa.types.is_large_string(type_)
        elif kind == "whole number":
            right = pa.types.is_integer(type_)
        else:
            right = pa.types.is_floating(type_)
        if not right:
            raise ValueError(f"{path}: {name} is of type {type_}; expected a {kind}; {REMEDY}")
