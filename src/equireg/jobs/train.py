"""Train a block of runs and record every step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from equireg.batches import batches, elements, steps_per_epoch, turned
from equireg.compiled import Compiled, choose
from equireg.dataset import load_dataset
from equireg.files import sha256, write_json
from equireg.graphed import Graphed
from equireg.network import Network
from equireg.provenance import provenance
from equireg.randomness import generator
from equireg.runtime import say
from equireg.settings import (
    UNREAD,
    JobSettings,
    Mode,
    NetworkSettings,
    TrainingSettings,
    spell_gamma,
    spell_seeds,
)
from equireg.step import Reference, Runs, start
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
    jobs: JobSettings,
) -> None:
    """Train the runs of ``seeds`` and write what they recorded, their weights and provenance.

    output: the trajectories' parquet; the weights (safetensors, with the final distances) and the
    provenance (JSON) go beside it. Raises ValueError for settings that do not fit together, and
    FloatingPointError, after writing ``<output stem>.diverged.parquet``, if a run diverges.
    """
    check(mode, gamma, training)
    if output.suffix != ".parquet":
        raise ValueError(f"output is {output}; accepted: a name that ends in .parquet")
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
    weights, about = load_weights(initial, seeds, network.layers)
    exact = start(network, weights, noise, [gamma or 0.0] * len(seeds))
    runs, network = exact.to(device, torch.float32), network.to(device, torch.float32)

    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    trainer = choose_trainer(
        network, runs, turned(images, elements(network.group, mode)), training, jobs
    )
    steps = steps_per_epoch(len(labels), training) * training.epochs
    chunks = batches(network.group, mode, seeds, labels, training, CHUNK)
    recorder = Recorder(mode, gamma, seeds, list(network.layers), steps, output)
    for rows, classes in chunks:
        recorder.add(trainer.advance(rows, classes))

    names = distance_columns(list(network.layers))
    final = {name: trainer.distances()[:, i] for i, name in enumerate(names)}
    trained = {**trainer.weights(), **final}
    recorder.check_end(trained)
    chosen = dataclasses.asdict(training)
    origin = {
        "network": dataclasses.asdict(settings),
        "training": {k: v for k, v in chosen.items() if k not in UNREAD[mode]},
        "initialization": about,
        "data": {"file": data.name, "sha256": sha256(data)},
    }
    save_weights(output.with_suffix(".safetensors"), seeds, trained, origin)
    write_table(output, recorder.table())
    recorder.kept.unlink(missing_ok=True)
    write_json(
        output.with_suffix(".json"),
        {
            "mode": mode,
            "gamma": gamma,
            "seeds": spell_seeds(list(seeds)),
            **origin,
            "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
            "threads": jobs.threads,
            "step": type(trainer).__name__.lower(),
            "wall_seconds": round(time.perf_counter() - began, 3),
            **provenance("equireg.jobs.train", "equireg.runtime"),
        },
    )


def check(mode: Mode, gamma: float | None, training: TrainingSettings) -> None:
    """Raise ValueError for a gamma that the mode does not take, or settings that cannot train."""
    if (mode == "equivariant") != (gamma is None):
        needs = "no gamma: it has no penalty" if mode == "equivariant" else "a gamma, 0 or more"
        raise ValueError(f"gamma is {spell_gamma(gamma)}; mode {mode} takes {needs}")
    if not 0 < training.learning_rate < math.inf:
        raise ValueError(f"learning_rate is {training.learning_rate}; accepted: more than 0")
    if gamma is not None and not 0 <= gamma * training.learning_rate <= 2:
        raise ValueError(
            f"gamma is {spell_gamma(gamma)}; accepted: 0 to {2 / training.learning_rate:g}, since "
            "explicit steps are unstable where learning_rate * gamma > 2"
        )
    for name in ("batch_size", "epochs"):
        if getattr(training, name) < 1:
            raise ValueError(f"{name} is {getattr(training, name)}; accepted: 1 or more")
    if not 0 <= training.perturbation < math.inf:
        raise ValueError(f"perturbation is {training.perturbation}; accepted: 0 or more")


def perturbation(network: Network, mode: Mode, seed: int, deviation: float) -> dict[str, Tensor]:
    """Gaussian noise on every entry of every layer, float64, of its own for each mode and seed."""
    return {
        name: deviation
        * torch.from_numpy(generator(seed, "perturbation", mode, name).standard_normal(space.shape))
        for name, space in network.layers.items()
    }


def choose_trainer(
    network: Network, runs: Runs, images: Tensor, training: TrainingSettings, jobs: JobSettings
) -> Compiled | Reference:
    """What trains the block: the compiled step or the reference."""
    scale = 1 / training.batch_size if training.risk_scale == "batch" else 1.0
    arguments = network, runs, images, training.learning_rate, scale
    plain = Graphed if images.device.type == "cuda" and jobs.step != "reference" else Reference
    return choose(
        jobs.step,
        lambda: Compiled(*arguments, threads=jobs.threads),
        lambda: plain(*arguments),
    )


class Recorder:
    """What the runs of a block record, and how far they are."""

    def __init__(
        self,
        mode: Mode,
        gamma: float | None,
        seeds: Sequence[int],
        layers: Sequence[str],
        steps: int,
        output: Path,
    ) -> None:
        self.run = mode, gamma, seeds
        self.columns = ["loss", *distance_columns(layers)]
        self.metrics = np.empty((len(self.columns), len(seeds), steps), np.float32)
        self.kept, self.done = output.with_suffix(".diverged.parquet"), 0
        self.began = self.said = time.perf_counter()

    def add(self, recorded: Tensor) -> None:
        """Keep the next steps, (runs, steps, columns).

        Raises FloatingPointError, after writing what was recorded, if a run diverged.
        """
        first, self.done = self.done, self.done + recorded.shape[1]
        self.metrics[:, :, first : self.done] = recorded.permute(2, 0, 1).cpu().numpy()
        sound: np.ndarray = np.all(np.isfinite(self.metrics[:2, :, first : self.done]), 0)
        if not sound.all():
            step = int(np.argmin(sound.all(0)))
            self.give_up(first + step, int(np.argmin(sound[:, step])))
        self.report()

    def check_end(self, trained: Mapping[str, Tensor]) -> None:
        """Hold what the last update made to the same: a row of ``trained`` must be finite."""
        for run in range(len(self.run[2])):
            if not all(tensor[run].isfinite().all() for tensor in trained.values()):
                self.give_up(self.done, run)

    def give_up(self, step: int, run: int) -> NoReturn:
        """Write the steps up to ``step``, where ``run`` diverged, and raise FloatingPointError."""
        self.done = min(step + 1, self.done)
        write_table(self.kept, self.table())
        mode, gamma, seeds = self.run
        raise FloatingPointError(
            f"mode {mode}, gamma {spell_gamma(gamma)}, seed {seeds[run]}: the loss or the distance "
            f"is no longer finite at step {step}; what was recorded is in {self.kept}"
        )

    def report(self) -> None:
        """Say every ten seconds, and at the end, how far the runs are and what is left."""
        now, steps = time.perf_counter(), self.metrics.shape[2]
        if now - self.said < 10 and self.done < steps:
            return
        self.said = now
        loss, distance = self.metrics[:2, :, self.done - 1]
        pace = (now - self.began) / self.done
        say(
            f"step {self.done}/{steps}  loss {loss.mean():.4f}  distance {np.median(distance):.3e}"
            f"  {1e6 * pace / len(loss):.0f} us per run and step"
            f"  {pace * (steps - self.done):.0f} s left"
        )

    def table(self) -> pa.Table:
        """The trajectories recorded so far."""
        metrics = self.metrics[:, :, : self.done]
        return trajectory_table(*self.run, dict(zip(self.columns, metrics, strict=True)))
