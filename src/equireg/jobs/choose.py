"""Choose: what the study's second stage trains, from the validation images of the first."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from equireg import binding
from equireg.binding import REMEDY, with_source
from equireg.config.reading import read as read_yaml
from equireg.digest import job_digest
from equireg.files import write_json, write_text
from equireg.inventory import written_seeds
from equireg.markdown import rows_of
from equireg.runtime import say
from equireg.spelling import spell_gamma
from equireg.study.arms import CELL, PERTURBATION, RATE, SCHEDULE
from equireg.study.choosing import Choice, products
from equireg.study.choosing import choose as choose_of
from equireg.sweeps import keys
from equireg.tables import open_parquet

OWN = (*CELL, RATE, SCHEDULE, PERTURBATION, "grid.modes", "grid.gammas")


def choose(
    first: Path,
    experiment: str,
    seeds: str,
    tested: int | None,
    images: Mapping[int, int],
    output: Path,
    choices: Path,
) -> None:
    """Write the preset of the second stage, and what was chosen beside its name.

    first: folder of the first stage, a sweep; images: how many training images the second stage
    has for so many of the first, where it is not as many. No images are held out of them any more;
    ``tested`` test images are looked at. Raises ValueError for a sweep of other keys.
    """
    table = read(first / "sweep.parquet")
    configuration = read_yaml(first / "configuration.yaml")
    swept = keys(configuration["sweep"])
    if missing := [key for key in OWN if key not in swept]:
        raise ValueError(
            f"{first} sweeps over {', '.join(swept)}; accepted: with {missing[0]}, too"
        )
    found = choose_of(table)
    own = [key for key in swept if key not in OWN]
    beside = {
        images.get(count, count): {key: one_of(table, count, key) for key in own}
        for count in sorted(set(table[CELL[1]]))
    }
    chosen = [dataclasses.replace(c, images=images.get(c.images, c.images)) for c in found]
    made = with_source(binding.read(first / "sweep.parquet"), "choose", job_digest("choose"))
    write_json(choices, {"choices": list(map(dataclasses.asdict, chosen)), "made": made["source"]})
    data = {**configuration["data"], "validation": 0, "test_images": tested}
    preset = {
        "experiment": experiment,
        "sweep": list(products(chosen, beside)),
        "data": {k: v for k, v in data.items() if f"data.{k}" not in swept},
        **{
            name: {k: v for k, v in configuration[name].items() if f"{name}.{k}" not in swept}
            for name in ("network", "initialization", "training")
        },
        "grid": {
            "seeds": written_seeds(seeds),
            "seeds_per_job": configuration["grid"]["seeds_per_job"],
        },
    }
    body = yaml.safe_dump(preset, sort_keys=False, default_flow_style=None, width=100)
    write_text(output, f"{head(first, choices)}{body}")
    say(text(chosen))


def head(first: Path, choices: Path) -> str:
    """What the preset says of itself."""
    return (
        "# yaml-language-server: $schema=../config.schema.json\n"
        f"# Written by `python -m equireg choose` from the validation images of {first}: do not\n"
        f"# edit. A product per arm and cell; {choices.name} says which is which.\n"
    )


def read(path: Path) -> pd.DataFrame:
    """A table over a sweep."""
    with open_parquet(path, [*OWN[:2], "mode", "gamma", "seed"]) as file:
        table: pd.DataFrame = file.read().to_pandas()
    return table.astype({"mode": str})


def one_of(table: pd.DataFrame, count: int, key: str) -> Any:
    """The one value of a key at so many training images."""
    values = table.loc[table[CELL[1]] == count, key].unique().tolist()
    if len(values) != 1:
        raise ValueError(
            f"{key} is {', '.join(map(str, values))} at {count} training images; accepted: one "
            f"value, or {REMEDY}"
        )
    return values[0]


def text(chosen: list[Choice]) -> str:
    """The choices as a table in Markdown."""
    body = [
        [
            c.data,
            str(c.images),
            c.arm,
            spell_gamma(c.rate),
            spell_gamma(c.gamma),
            f"{c.accuracy:.4f}",
        ]
        for c in chosen
    ]
    head = ["data", "images", "arm", "learning rate", "gamma", "accuracy on validation images"]
    return "\n".join(rows_of(head, body))
