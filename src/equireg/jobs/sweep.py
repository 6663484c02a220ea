"""Sweep: the evaluations of all combinations as one table, in a figure and in numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from matplotlib.figure import Figure

from equireg import binding
from equireg.binding import write_document
from equireg.digest import job_digest
from equireg.figures.gammas import gamma_figure
from equireg.figures.keys import Runs, groups, sweep_figure
from equireg.figures.quantities import quantities_of, read
from equireg.figures.style import SERIES, check_outputs, save, styled
from equireg.intervals import LEVEL, median_interval, spell_interval
from equireg.markdown import rows_of
from equireg.spelling import spell_gamma
from equireg.sweeps import Combination, Sweep, cell, combinations, keys, label, path, spell_value
from equireg.tables import open_parquet, write_table

BY_GAMMA = "gammas"  # the figure of this name

# What changes with a key of another name.
ALONG = {"data.name": ("data", "sha256"), "network.build": ("source", "network")}


def sweep(
    experiment: Path,
    over: Sweep,
    output: Path,
    report: Path,
    figures: list[Path],
    beside: Sequence[Path] = (),
) -> None:
    """Write the table, the report and the figures of a sweep's combinations.

    experiment: the folder that has theirs. figures: those named ``gammas`` have the penalty as
    their axis, and a line for each of the first combinations. beside: folders of other sweeps over
    these keys, to stand beside them in it. The table is their evaluations one below the other, with
    a column before them for each key, of its name; lists are texts in it. Raises ValueError where
    an evaluation is missing or is not of its folder's combination, and where two are of different
    settings, data or code in anything that is not swept.
    """
    check_outputs(figures)
    every = combinations(over)
    files = [experiment / path(combination) / "evaluation.parquet" for combination in every]
    made = origin(over, dict(zip(files, every, strict=True)))
    write_table(output, table(over, dict(zip(files, every, strict=True))), made)
    runs = [(combination, read(file)) for file, combination in zip(files, every, strict=True)]
    write_document(report, text(over, runs), made)
    tables = [folder / "sweep.parquet" for folder in beside]
    told = {folder.name: binding.read(file) for folder, file in zip(beside, tables, strict=True)}
    drawn = {**made, binding.OWN: {**made[binding.OWN], "beside": told}} if told else made
    with styled():
        for file in figures:
            if file.stem == BY_GAMMA:
                save(by_gamma(over, runs, tables), file, drawn)
            else:
                save(sweep_figure(over, runs), file, made)


def by_gamma(over: Sweep, runs: Runs, others: Sequence[Path] = ()) -> Figure:
    """The quantities against gamma, a row of panels per mode, a line per combination.

    others: the tables of other sweeps. Of as many combinations as there are colours; named by those
    keys that have several values.
    """
    names = keys(over)
    several = [key for key in names if len({spell_value(one[key]) for one, _ in runs}) > 1]
    named = [("", combination, table) for combination, table in runs]
    for file in others:
        with open_parquet(file, names) as stream:
            swept = stream.read(columns=names).to_pandas()
        table = read(file)
        for combination, _ in runs:
            same = (swept == [cell(combination[key]) for key in names]).all(axis=1)
            named.append((f"{file.parent.name}, ", combination, table[same]))
    tables = []
    for name, combination, table in named[: len(SERIES)]:
        texts = label({key: combination[key] for key in several} or combination)
        short = re.sub(r"(^|, )[a-z]+\.", r"\1", texts)
        tables.append(table.assign(experiment=name + short))
    return gamma_figure(pd.concat(tables))


def origin(over: Sweep, files: Mapping[Path, Combination]) -> dict[str, Any]:
    """What made all the evaluations, but for the keys that are swept, which are told beside it."""
    names = keys(over)
    swept = {tuple(key.split(".")) for key in names} | {ALONG[k] for k in names if k in ALONG}
    common: dict[Path | str, binding.Binding] = {}
    for file, combination in files.items():
        values = dict(binding.flat(binding.read(file)))
        chosen = binding.nested({tuple(key.split(".")): v for key, v in combination.items()})
        for key, value in binding.flat(chosen):
            have = values.get(key, value)  # what no mode of the grid reads
            if key[0] == "grid":  # tables have modes and gammas in their own order
                have, value = sorted(have), sorted(value)
            if have != value:
                raise ValueError(
                    f"{file}: {'.'.join(key)} is {binding.spell(have)}, not "
                    f"{binding.spell(value)} as its folder says; {binding.REMEDY}"
                )
        common[file] = binding.nested({k: v for k, v in values.items() if k not in swept})
    made = binding.joined(common)
    return binding.with_source(made, "sweep", job_digest("sweep"), **{binding.OWN: {"sweep": over}})


def table(over: Sweep, files: Mapping[Path, Combination]) -> pa.Table:
    """The evaluations one below the other, a column for each key first."""
    parts, places = [], []
    for file, combination in files.items():
        with open_parquet(file) as stream:
            parts.append(stream.read().replace_schema_metadata(None))
        places += [combination] * parts[-1].num_rows
    every = pa.concat_tables(parts, promote_options="default").combine_chunks()
    for key in reversed(keys(over)):
        every = every.add_column(0, key, pa.array([cell(place[key]) for place in places]))
    return every


def text(over: Sweep, runs: Runs) -> str:
    """The numbers in Markdown: a row per combination, mode and gamma."""
    quantities = quantities_of(pd.concat([evaluation for _, evaluation in runs]))
    names = [quantity.column.replace("_", " ") for quantity in quantities]
    body = []
    for combination, evaluation in runs:
        place = [spell_value(value) for value in combination.values()]
        for mode, gamma, some in groups(evaluation):
            role = (*place, mode, spell_gamma(gamma))
            found = [
                median_interval(some[quantity.column].to_numpy(), quantity.column, *role)
                for quantity in quantities
            ]
            body.append([*role, str(len(some)), *map(spell_interval, found)])
    head = [*keys(over), "mode", "gamma", "seeds", *names]
    return (
        f"Medians over the seeds, in brackets their {100 * LEVEL:g} % bootstrap intervals.\n\n"
        + "\n".join(rows_of(head, body))
    )
