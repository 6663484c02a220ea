"""What a block of runs says of itself, and what a configuration would have it say."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equireg import binding
from equireg.binding import Binding
from equireg.config import Configuration
from equireg.digest import job_digest
from equireg.plan import Block
from equireg.settings import (
    UNREAD,
    Mode,
    NetworkSettings,
    SelectionSettings,
    TrainingSettings,
    part,
)
from equireg.spelling import spell_gamma, spell_seeds

digest_of = functools.cache(job_digest)  # asked for often, and the code does not change meanwhile
# what a finished training job leaves of a block
TRAINED = ("parquet", "safetensors", "json", "function.parquet")


def file_of(folder: Path, block: Block, suffix: str) -> Path:
    """A file of a block below the experiment's folder."""
    return folder / block.path.with_name(f"{block.name}.{suffix}")


def folder_of(folder: Path, condition: tuple[Mode, float | None]) -> Path:
    """Where the blocks of a mode and gamma are, below the experiment's folder."""
    mode, gamma = condition
    return folder / "runs" / mode / f"gamma-{spell_gamma(gamma)}"


def of_block(folder: Path, block: Block) -> dict[str, Any] | None:
    """The binding of a block whose training has finished, empty if it has none; None otherwise."""
    if not all(file_of(folder, block, suffix).is_file() for suffix in TRAINED):
        return None
    try:
        return completed(binding.read(file_of(folder, block, "json")))
    except ValueError:
        return {}


def last_step(segment: Path) -> int:
    """The step after those that a segment of a checkpoint holds, from its header."""
    return int(binding.header(segment)["last"])


def wanted(configuration: Configuration, block: Block, data: str | None) -> dict[str, Any]:
    """The settings, and the data's sum where it is known, that the configuration gives a block."""
    training = dataclasses.asdict(configuration.training)
    made = binding.options(
        network=configuration.network, initialization=configuration.initialization
    )
    made.pop("source", None)
    made["training"] = {k: v for k, v in training.items() if k not in UNREAD[block.mode]}
    made["data"] = dataclasses.asdict(part(SelectionSettings, configuration.data))
    if data:
        made["data"]["sha256"] = data
    return made


def runs_of(block: Block) -> dict[str, Any]:
    """Which runs a block's files say that they hold."""
    seeds = spell_seeds([*block.seeds])
    return {binding.OWN: {"mode": block.mode, "gamma": block.gamma, "seeds": seeds}}


def completed(made: Binding) -> dict[str, Any]:
    """A binding with the defaults of keys that were not there yet when the file was made."""
    defaults = binding.options(
        network=NetworkSettings(), training=TrainingSettings(), data=SelectionSettings()
    )
    whole = {
        name: {**values, **made[name]}
        for name, values in defaults.items()
        if isinstance(made.get(name), Mapping)
    }
    return {**made, **whole}
