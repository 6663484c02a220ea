"""Test trained runs: accuracy, invariance, and the distance to their equivariant twins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.binding import REMEDY, joined, options, read, with_source
from equireg.built import network_of
from equireg.dataset import load_dataset
from equireg.digest import job_digest
from equireg.files import sha256
from equireg.native import UnavailableError
from equireg.settings import ALL_IMAGES, JobSettings, Mode, NetworkSettings, SelectionSettings
from equireg.tables import RUN_FIELDS, distance_columns, open_parquet, run_columns, write_table
from equireg.training.compiled import CompiledForward
from equireg.training.network import Network
from equireg.training.step import Trainable
from equireg.training.trainers import choose
from equireg.weights import load_weights

IMAGES_AT_ONCE = 100  # per run; bounds the memory

# uint8 images (count, channels, side, side) -> logits (runs, count, classes)
Forward = Callable[[Tensor], Tensor]


def evaluate(
    settings: NetworkSettings,
    block: Path,
    twin: Path | None,
    data: Path,
    output: Path,
    device: str,
    jobs: JobSettings,
    selection: SelectionSettings = ALL_IMAGES,
) -> None:
    """Write a row per run of ``block``, a trajectories' parquet with the weights beside it.

    twin: equivariant weights of the same seeds; without them the twin columns are null. Raises
    ValueError if the files do not belong together, or were made by different settings.
    """
    needed = ["mode", "gamma", "seed", "step", "loss"]
    with open_parquet(block, needed) as file:
        table = file.read(columns=needed)
    steps = table["step"].to_numpy()
    last = table.take(np.flatnonzero(steps == steps.max()))
    mode, gamma = last["mode"][0].as_py(), last["gamma"][0].as_py()
    seeds = last["seed"].to_pylist()

    network = network_of(settings)
    names = distance_columns(list(network.spaces))
    dataset = load_dataset(data, settings, selection)
    trained = block.with_suffix(".safetensors")
    held, _ = load_weights(trained, seeds, {**network.spaces, **network.buffers})
    of_data = {"sha256": sha256(data), **dataclasses.asdict(selection)}
    chosen = {**options(network=settings), "data": of_data}
    runs = read(trained)["runs"]
    if read(block)["runs"] != runs:
        raise ValueError(f"{block} and {trained} hold different runs; {REMEDY}")
    files = [block, trained, *([twin] if twin else [])]
    made = joined({**{file: read(file) for file in files}, "the command": chosen})
    weights = {name: held[name] for name in network.spaces}
    twins = weights if mode == "equivariant" else None
    if twin and not twins:
        twins, _ = load_weights(twin, seeds, network.spaces)

    columns = {"final_loss": last["loss"].to_numpy()}
    columns |= {f"final_{name}": held[name].numpy() for name in names}
    images, labels = dataset.test_images.to(device), dataset.test_labels.to(device)
    moved = {name: held[name].to(device) for name in (*network.spaces, *network.buffers)}

    def compiled() -> Forward:
        if not isinstance(network, Network):
            raise UnavailableError("the network is a module of its own (network: build)")
        return CompiledForward(network, moved, images, jobs.threads)

    forward = choose(
        jobs.step if device == "cpu" else "reference",
        compiled,
        lambda: reference_forward(network, moved),
    )
    columns |= test(forward, network, images, labels)
    distances = twin_distances(weights, twins) if twins else [None] * len(names)
    columns |= {f"twin_{name}": d for name, d in zip(names, distances, strict=True)}
    runs = {**runs, "weights": sha256(trained), "twin": sha256(twin) if twin else None}
    made = with_source(made, "evaluate", job_digest("evaluate"), runs=runs)
    write_table(output, evaluation_table(mode, gamma, seeds, columns), made)


def reference_forward(network: Trainable, weights: Mapping[str, Tensor]) -> Forward:
    """The networks of the runs, on the device of their weights."""
    runs = len(next(iter(weights.values())))

    def forward(images: Tensor) -> Tensor:
        with torch.no_grad():
            return network.forward(weights, (images / 255.0).expand(runs, *images.shape))

    return forward


def test(
    forward: Forward, network: Trainable, images: Tensor, labels: Tensor
) -> dict[str, np.ndarray]:
    """Loss and accuracy on test images (count, channels, side, side), and what a turn changes.

    Per run: test_loss and test_accuracy on the upright images; test_accuracy_turned over all turns
    by the group; prediction_change, the share of (image, element other than the identity) whose
    predicted class is not the upright image's; equivariance_error, the root of the mean of
    |Phi(g x) - Phi(x)|^2 over these pairs, over that of |Phi(x)|^2 (see ``Equivariance.error``).
    """
    group = network.group
    loss, right, changed, spread, size = [], [], [], [], []
    for some, truth in zip(images.split(IMAGES_AT_ONCE), labels.split(IMAGES_AT_ONCE), strict=True):
        truth = truth.long()
        turns = network.orbit(some).view(len(some), group.order, *some.shape[1:])
        logits = torch.stack([forward(images) for images in turns.unbind(1)])
        upright = logits[0]
        losses = F.cross_entropy(
            upright.flatten(0, 1), truth.repeat(len(upright)), reduction="none"
        )
        loss.append(losses.view(len(upright), -1).double().sum(1))
        predicted = logits.argmax(-1)  # (elements, runs, images)
        right.append((predicted == truth).sum(2))
        changed.append((predicted[1:] != predicted[0]).sum((0, 2)))
        spread.append((logits[1:] - upright).square().double().sum((0, 2, 3)))
        size.append(upright.square().double().sum((1, 2)) * max(group.order - 1, 1))
    count = len(images)
    rights = torch.stack(right).sum(0).double() / count
    return {
        name: values.cpu().numpy()
        for name, values in {
            "test_loss": torch.stack(loss).sum(0) / count,
            "test_accuracy": rights[0],
            "test_accuracy_turned": rights.mean(0),
            "prediction_change": torch.stack(changed).sum(0).double()
            / (count * max(group.order - 1, 1)),
            "equivariance_error": (torch.stack(spread).sum(0) / torch.stack(size).sum(0)).sqrt(),
        }.items()
    }


def twin_distances(weights: Mapping[str, Tensor], twins: Mapping[str, Tensor]) -> list[np.ndarray]:
    """Euclidean distances between two networks of each run: in total, then per layer; (runs,)."""
    squares = [
        (weight.double() - twins[name].double()).square().flatten(1).sum(1)
        for name, weight in weights.items()
    ]
    return [square.sqrt().numpy() for square in (sum(squares[1:], squares[0]), *squares)]


def evaluation_table(
    mode: Mode,
    gamma: float | None,
    seeds: Sequence[int],
    columns: Mapping[str, np.ndarray | None],
) -> pa.Table:
    """A row per seed; a column of None is null."""
    fields = [*RUN_FIELDS, *(pa.field(name, pa.float64()) for name in columns)]
    arrays = run_columns(mode, gamma, np.asarray(seeds, np.int32))
    for values in columns.values():
        arrays.append(
            pa.nulls(len(seeds), pa.float64())
            if values is None
            else pa.array(values.astype(np.float64))
        )
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
