"""Test trained runs: accuracy, invariance, and the distance to their equivariant twins.

Each run as it was trained, projected onto E, and averaged over the group; and ensembles of seeds,
whose outputs are the means of their members'.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from equireg.binding import REMEDY, Binding, joined, options, read, with_source
from equireg.built import network_of
from equireg.dataset import Dataset, load_dataset
from equireg.digest import job_digest
from equireg.files import sha256
from equireg.plan import ENSEMBLES
from equireg.settings import ALL_IMAGES, JobSettings, Mode, NetworkSettings, SelectionSettings
from equireg.spelling import spell_seeds
from equireg.tables import (
    ENSEMBLE_SCHEMA,
    RUN_FIELDS,
    distance_columns,
    open_parquet,
    run_columns,
    write_table,
)
from equireg.training.function import Forward, Tally, forward_of, turned_outputs
from equireg.training.projected import projected
from equireg.training.step import Trainable
from equireg.weights import Shaped, load_weights

IMAGES_AT_ONCE = 100  # per run; bounds the memory
MEMBERS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of ensembles, and all that there are

# Columns on upright test images, and on turned ones.
FIRST = ("test_loss", "test_accuracy", "test_accuracy_turned")
CHANGES = ("prediction_change", "equivariance_error")


def evaluate(
    settings: NetworkSettings,
    blocks: Sequence[Path],
    twins: Path | None,
    data: Path,
    device: str,
    jobs: JobSettings,
    selection: SelectionSettings = ALL_IMAGES,
) -> None:
    """Write a row per run beside each block, and one per ensemble of them all.

    blocks: trajectories' parquets of one mode and gamma in one folder, with the weights beside
    them; ``<block>.evaluation.parquet`` and ``ensembles.parquet`` go there. twins: the folder of
    the equivariant blocks of the same seeds; without it the twin columns are null. Raises
    ValueError if the files do not belong together, or were made by different settings.
    """
    network = network_of(settings)
    dataset = load_dataset(data, settings, selection)
    of_data = {"sha256": sha256(data), **dataclasses.asdict(selection)}
    chosen = {**options(network=settings), "data": of_data}
    every = [Block.of(file, twins, network, chosen) for file in blocks]
    if len({(block.mode, block.gamma, block.file.parent) for block in every}) > 1:
        raise ValueError(f"block is {', '.join(map(str, blocks))}; accepted: of one mode and gamma")
    images = dataset.train_images.to(device)
    measures = Measures(network, every, images, selection.train_images, jobs)
    for name, images, labels in parts(dataset, device):
        measures.take(name, images, labels)
    for i, block in enumerate(every):
        names = distance_columns(list(network.spaces))
        columns: dict[str, Any] = {"final_loss": block.losses}
        columns |= {f"final_{name}": block.held[name].numpy() for name in names}
        first, more = measures.columns(i)
        distances: list[Any] = block.twin_distances() or []
        distances = distances or [None] * len(names)
        columns |= first
        columns |= {f"twin_{name}": d for name, d in zip(names, distances, strict=True)}
        made = with_source(block.made, "evaluate", job_digest("evaluate"), runs=block.runs)
        table = evaluation_table(block.mode, block.gamma, block.seeds, {**columns, **more})
        write_table(block.file.with_suffix(".evaluation.parquet"), table, made)
    write_table(blocks[0].with_name(ENSEMBLES), *ensembles(every, measures))


@dataclass(frozen=True)
class Block:
    """What a training job left: of one mode and gamma.

    losses: of the last step; held: weights, buffers, final distances; twins: the equivariant
    weights of the same seeds; made, runs: its binding, and its section on runs.
    """

    file: Path
    mode: Mode
    gamma: float | None
    seeds: tuple[int, ...]
    losses: np.ndarray
    held: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    twins: Mapping[str, Tensor] | None
    made: Binding
    runs: dict[str, Any]

    @classmethod
    def of(cls, file: Path, twins: Path | None, network: Trainable, chosen: Binding) -> Block:
        """The block of these trajectories. Raises ValueError if its files do not go together."""
        needed = ["mode", "gamma", "seed", "step", "loss"]
        with open_parquet(file, needed) as opened:
            table = opened.read(columns=needed)
        steps = table["step"].to_numpy()
        last = table.take(np.flatnonzero(steps == steps.max()))
        mode, gamma = last["mode"][0].as_py(), last["gamma"][0].as_py()
        seeds = last["seed"].to_pylist()

        trained = file.with_suffix(".safetensors")
        shapes: dict[str, Shaped] = {**network.spaces, **network.buffers}
        held, _ = load_weights(trained, seeds, shapes)
        runs = read(trained)["runs"]
        if read(file)["runs"] != runs:
            raise ValueError(f"{file} and {trained} hold different runs; {REMEDY}")
        twin = twins / trained.name if twins else None
        files = [file, trained, *([twin] if twin else [])]
        made = joined({**{name: read(name) for name in files}, "the command": chosen})
        weights = {name: held[name] for name in network.spaces}
        beside = weights if mode == "equivariant" else None
        if twin and not beside:
            beside, _ = load_weights(twin, seeds, network.spaces)
        runs = {**runs, "weights": sha256(trained), "twin": sha256(twin) if twin else None}
        losses = last["loss"].to_numpy()
        return cls(file, mode, gamma, tuple(seeds), losses, held, weights, beside, made, runs)

    def twin_distances(self) -> list[np.ndarray] | None:
        """Euclidean distances to the twins, (runs,): in total, then per layer."""
        if self.twins is None:
            return None
        squares = [
            (weight.double() - self.twins[name].double()).square().flatten(1).sum(1)
            for name, weight in self.weights.items()
        ]
        return [square.sqrt().numpy() for square in (sum(squares[1:], squares[0]), *squares)]


def parts(dataset: Dataset, device: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    """What runs are tested on: name, images, labels."""
    yield "test", dataset.test_images.to(device), dataset.test_labels.to(device)
    if dataset.validation_images is not None and dataset.validation_labels is not None:
        images, labels = dataset.validation_images, dataset.validation_labels
        yield "validation", images.to(device), labels.to(device)


class Measures:
    """Tallies of the blocks' runs, by part of the data set and form; and of ensembles of them.

    Forms: ``trained``; ``projected``, with the weights' part in E alone, and statistics of batches
    that fit them; ``averaged``, the mean of the outputs over all turns of an image. The last two
    are invariant. images: of training, of which each run has ``count``.
    """

    def __init__(
        self,
        network: Trainable,
        blocks: Sequence[Block],
        images: Tensor,
        count: int | None,
        jobs: JobSettings,
    ) -> None:
        self.network, self.blocks, self.jobs = network, blocks, jobs
        names = (*network.spaces, *network.buffers)
        trained = [{name: block.held[name] for name in names} for block in blocks]
        self.weights = [
            (held, projected(network, held, block.seeds, images, count))
            for held, block in zip(trained, blocks, strict=True)
        ]
        self.tallies: list[dict[tuple[str, str], Tally]] = [{} for _ in blocks]
        self.seeds = [seed for block in blocks for seed in block.seeds]
        sizes = {*(n for n in MEMBERS if n < len(self.seeds)), len(self.seeds)}
        self.ensembles = {members: Tally(network) for members in sorted(sizes)}

    def take(self, part: str, images: Tensor, labels: Tensor) -> None:
        """Test all runs on a part of the data set; on ``test`` ensembles, too."""
        forms = [
            (self._forward(trained, images), self._forward(inside, images))
            for trained, inside in self.weights
        ]
        for tallies in self.tallies:
            for form in ("trained", "projected", "averaged"):
                tallies[part, form] = Tally(self.network)
        for some, truth in zip(
            images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE), strict=True
        ):
            members = []
            for (forward, inside), tallies in zip(forms, self.tallies, strict=True):
                outputs = turned_outputs(self.network, forward, some)
                tallies[part, "trained"].add(outputs, truth)
                tallies[part, "averaged"].add(outputs.mean(0, keepdim=True), truth)
                tallies[part, "projected"].add(inside(some).unsqueeze(0), truth)
                members.append(outputs)
            if part == "test":
                self._join(torch.cat(members, 1), truth)

    def _forward(self, held: Mapping[str, Tensor], images: Tensor) -> Forward:
        moved = {name: weight.to(images.device) for name, weight in held.items()}
        return forward_of(self.network, moved, images, self.jobs)

    def _join(self, outputs: Tensor, truth: Tensor) -> None:
        """Add the means of so many runs each, one after the other, of (elements, runs, ...)."""
        for members, tally in self.ensembles.items():
            whole = outputs[:, : len(self.seeds) // members * members]
            tally.add(whole.unflatten(1, (-1, members)).mean(2), truth)

    def columns(self, block: int) -> tuple[dict[str, Tensor | None], dict[str, Tensor | None]]:
        """Of the evaluation: those on test images as trained, and all others."""
        tallies = self.tallies[block]
        found: dict[str, Tensor | None] = {}
        for part in ("test", "validation"):
            for form in ("trained", "projected", "averaged"):
                tally = tallies.get((part, form))
                results = tally.results() if tally else {}
                own = ("loss", "accuracy", *(("accuracy_turned",) if form == "trained" else ()))
                name = part if form == "trained" else f"{part}_{form}"
                found |= {f"{name}_{key}": results.get(key) for key in own}
        trained = tallies["test", "trained"].results()
        first = {name: found.pop(name) for name in FIRST}
        return {**first, **{name: trained[name] for name in CHANGES}}, found


def ensembles(blocks: Sequence[Block], measures: Measures) -> tuple[pa.Table, dict[str, Any]]:
    """A row per ensemble, sorted by members and seeds; and what made it."""
    mode, gamma = blocks[0].mode, blocks[0].gamma
    columns: dict[str, list[Any]] = {name: [] for name in ENSEMBLE_SCHEMA.names}
    for members, tally in measures.ensembles.items():
        count = len(measures.seeds) // members
        groups = [measures.seeds[i * members : (i + 1) * members] for i in range(count)]
        columns["mode"] += [mode] * count
        columns["gamma"] += [gamma] * count
        columns["members"] += [members] * count
        columns["seeds"] += map(spell_seeds, groups)
        for name, values in tally.results().items():
            column = name if name in CHANGES else f"test_{name}"
            columns[column] += [None] * count if values is None else values.tolist()
    made = joined({block.file: block.made for block in blocks})
    weights = [block.runs["weights"] for block in blocks]
    seeds = spell_seeds(measures.seeds)
    runs = {"mode": mode, "gamma": gamma, "seeds": seeds, "weights": weights}
    made = with_source(made, "evaluate", job_digest("evaluate"), runs=runs)
    return pa.table(columns, schema=ENSEMBLE_SCHEMA), made


def evaluation_table(
    mode: Mode,
    gamma: float | None,
    seeds: Sequence[int],
    columns: Mapping[str, Any],
) -> pa.Table:
    """A row per seed; a column of None is null."""
    fields = [*RUN_FIELDS, *(pa.field(name, pa.float64()) for name in columns)]
    arrays = run_columns(mode, gamma, np.asarray(seeds, np.int32))
    for values in columns.values():
        arrays.append(
            pa.nulls(len(seeds), pa.float64())
            if values is None
            else pa.array(np.asarray(values, np.float64))
        )
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
