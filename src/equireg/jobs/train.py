"""Train a block of runs and record every step."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equireg.batches import batches, steps_per_epoch
from equireg.dataset import Dataset, load_dataset
from equireg.files import write_json
from equireg.network import Network
from equireg.provenance import provenance
from equireg.randomness import generator
from equireg.settings import Mode, NetworkSettings, TrainingSettings, spell_gamma, spell_seeds
from equireg.step import Runs, start, training_step
from equireg.tables import distance_columns, trajectory_table, write_table
from equireg.weights import load_weights, save_weights

CHUNK = 100  # steps whose batches are gathered at once


def train(
    mode: Mode,
    gamma: float | None,
    seeds: Sequence[int],
    settings: NetworkSettings,
    training: TrainingSettings,
    data: Path,
    initial: Path,
    output: Path,
    device: str,
) -> None:
    """Train the runs of ``seeds`` and write what they recorded, their weights and provenance.

    output: the trajectories' parquet; the weights (safetensors, with the final distances) and the
    provenance (JSON) go beside it. Raises ValueError for settings that do not fit together, and
    FloatingPointError, after writing ``<output stem>.diverged.parquet``, if a run diverges.
    """
    check(mode, gamma, training)
    began = time.perf_counter()
    network = Network(settings)
    dataset = load_dataset(data, settings.image_size, settings.classes)
    if training.batch_size > len(dataset.train_labels):
        raise ValueError(
            f"batch_size is {training.batch_size}; accepted: at most {len(dataset.train_labels)}, "
            f"the training images of {data}"
        )
    noise = None
    if mode != "equivariant":
        draws = [perturbation(network, mode, seed, training.perturbation) for seed in seeds]
        noise = {name: torch.stack([draw[name] for draw in draws]) for name in network.layers}
    # In float64, so that the coordinates of a weight in E are exact; rounded to float32 once.
    exact = start(network, load_weights(initial, seeds), noise, [gamma or 0.0] * len(seeds))
    runs, network = exact.to(device, torch.float32), network.to(device, torch.float32)

    metrics = record(network, runs, mode, gamma, seeds, dataset, training, device, output)
    names = distance_columns(list(network.layers))
    final = {name: runs.distances()[:, i] for i, name in enumerate(names)}
    save_weights(output.with_suffix(".safetensors"), seeds, {**runs.weights(network), **final})
    write_table(output, trajectory_table(mode, gamma, seeds, metrics))
    write_json(
        output.with_suffix(".json"),
        {
            "mode": mode,
            "gamma": gamma,
            "seeds": spell_seeds(list(seeds)),
            "network": dataclasses.asdict(settings),
            "training": dataclasses.asdict(training),
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": torch.get_num_threads(),
            "wall_seconds": round(time.perf_counter() - began, 3),
            **provenance(),
        },
    )


def check(mode: Mode, gamma: float | None, training: TrainingSettings) -> None:
    """Raise ValueError for a gamma that the mode does not take, or settings that cannot train."""
    if (mode == "equivariant") != (gamma is None):
        needs = "no gamma: it has no penalty" if mode == "equivariant" else "a gamma, 0 or more"
        raise ValueError(f"gamma is {spell_gamma(gamma)}; mode {mode} takes {needs}")
    if gamma is not None and not 0 <= gamma * training.learning_rate <= 2:
        raise ValueError(
            f"gamma is {spell_gamma(gamma)}; accepted: 0 to {2 / training.learning_rate:g}, since "
            "explicit steps are unstable where learning_rate * gamma > 2"
        )
    for name in ("batch_size", "epochs"):
        if getattr(training, name) < 1:
            raise ValueError(f"{name} is {getattr(training, name)}; accepted: 1 or more")


def perturbation(network: Network, mode: Mode, seed: int, deviation: float) -> dict[str, Tensor]:
    """Gaussian noise on every entry of every layer, float64, of its own for each mode and seed."""
    return {
        name: deviation
        * torch.from_numpy(generator(seed, "perturbation", mode, name).standard_normal(space.shape))
        for name, space in network.layers.items()
    }


def record(
    network: Network,
    runs: Runs,
    mode: Mode,
    gamma: float | None,
    seeds: Sequence[int],
    dataset: Dataset,
    training: TrainingSettings,
    device: str,
    output: Path,
) -> dict[str, np.ndarray]:
    """Train ``runs`` to the end; what each step recorded, (seeds, steps) per column.

    Raises FloatingPointError, after writing what was recorded beside ``output``, if a run diverges.
    """
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    steps = steps_per_epoch(len(images), training) * training.epochs
    columns = ["loss", *distance_columns(list(network.layers))]
    metrics = np.empty((len(columns), len(seeds), steps), np.float32)
    scale = 1 / training.batch_size if training.risk_scale == "batch" else 1.0
    done, began, said = 0, time.perf_counter(), 0.0

    def table(count: int) -> dict[str, np.ndarray]:
        return dict(zip(columns, metrics[:, :, :count], strict=True))

    for pixels, classes in batches(network.group, mode, seeds, images, labels, training, CHUNK):
        recorded = torch.stack(
            [
                training_step(network, runs, x / 255.0, y, training.learning_rate, scale)
                for x, y in zip(pixels.unbind(1), classes.unbind(1), strict=True)
            ]
        )
        count = len(recorded)
        metrics[:, :, done : done + count] = recorded.permute(2, 1, 0).cpu().numpy()
        broken = np.argwhere(~np.isfinite(metrics[:2, :, done : done + count]).all(0).T)
        done += count
        if len(broken):
            step, run = done - count + broken[0, 0], broken[0, 1]
            kept = output.with_suffix(".diverged.parquet")
            write_table(kept, trajectory_table(mode, gamma, seeds, table(step + 1)))
            raise FloatingPointError(
                f"mode {mode}, gamma {spell_gamma(gamma)}, seed {seeds[run]}: the loss or the "
                f"distance is no longer finite at step {step}; what was recorded is in {kept}"
            )
        elapsed = time.perf_counter() - began
        if elapsed - said > 10 or done == steps:
            said = elapsed
            left = elapsed / done * (steps - done)
            print(
                f"step {done}/{steps}  loss {metrics[0, :, done - 1].mean():.4f}  distance "
                f"{np.median(metrics[1, :, done - 1]):.3e}  "
                f"{1e6 * elapsed / done / len(seeds):.0f} us per run and step  {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
    return table(steps)
