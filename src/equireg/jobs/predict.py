"""Predict figure 2 from the equivariant runs: no other network is trained."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from equireg.binding import joined, options, read, with_source
from equireg.dataset import Dataset, load_dataset
from equireg.digest import job_digest
from equireg.files import sha256
from equireg.randomness import generator
from equireg.runtime import say
from equireg.settings import (
    ALL_IMAGES,
    GridSettings,
    JobSettings,
    Mode,
    NetworkSettings,
    SelectionSettings,
    TrainingSettings,
)
from equireg.spelling import parse_seeds, spell_gamma
from equireg.tables import write_table
from equireg.theory.gradients import Outside
from equireg.theory.ornstein_uhlenbeck import Slope, Stretch, knots, propagate
from equireg.training.batches import batches, steps_of, subsets
from equireg.training.compiled import CompiledGradient
from equireg.training.network import Network
from equireg.training.schedules import along, gamma_schedule, learning_rates, risk_scale
from equireg.training.start import perturbations, start_runs
from equireg.training.step import Gradient, ReferenceGradient
from equireg.training.trainers import choose, choose_trainer
from equireg.weights import load_weights

IMAGES = 100  # per estimate of a Hessian-vector product and of the augmented mode's noise
LONGEST = 0.01  # learning rate times scale times steps of a stretch: stable for curvatures to 200
FARTHEST = 1e100  # of a coordinate: where first order fails it grows without bound
QUANTILES = {"median": 0.5, "low": 0.1, "high": 0.9}

SCHEMA = pa.schema(
    [
        pa.field("mode", pa.string(), nullable=False),
        pa.field("gamma", pa.float64(), nullable=False),
        pa.field("step", pa.int32(), nullable=False),
        pa.field("seeds", pa.int32(), nullable=False),
        *(pa.field(name, pa.float64()) for name in QUANTILES),
    ]
)


def predict(
    settings: NetworkSettings,
    training: TrainingSettings,
    grid: GridSettings,
    data: Path,
    initial: Path,
    output: Path,
    device: str,
    jobs: JobSettings,
    selection: SelectionSettings = ALL_IMAGES,
) -> None:
    """Write quantiles over the grid's seeds of the predicted distance to E, per mode and gamma.

    Each seed's equivariant run is trained anew, and measured at some steps: see ``Prediction``.
    Where none is made, the table is empty and its binding says why. Raises ValueError for settings
    that do not fit together.
    """
    modes: list[Mode] = sorted(mode for mode in grid.modes if mode != "equivariant")
    gammas = sorted(grid.gammas)
    for mistake in training.unstable(tuple(gammas)):
        raise ValueError(f"gamma is {spell_gamma(mistake.value)}; {mistake.remedy}")
    chosen = {
        **options(network=settings, training=training),
        "data": {"sha256": sha256(data), **dataclasses.asdict(selection)},
    }
    made = joined({initial: read(initial), "the command": chosen})
    runs = {"modes": modes, "gammas": gammas, "seeds": grid.seeds}
    why = unpredicted(settings) or training.unpredicted()
    if why:
        say(f"not applicable: {why}")
        made = with_source(
            made, "predict", job_digest("predict"), runs={**runs, "not_applicable": why}
        )
        write_table(output, SCHEMA.empty_table(), made)
        return
    dataset, subset = load_dataset(data, settings, selection), selection.train_images
    seeds = parse_seeds(grid.seeds)
    twin = Twin(settings, training, seeds, dataset, initial, modes, device, jobs, subset)
    predictions = {mode: Prediction(twin, mode, gammas) for mode in modes}

    steps = twin.steps - 1
    longest = max(1, int(LONGEST / (training.learning_rate * twin.scale)))
    visited = list(knots(steps, longest))
    said = time.perf_counter()
    for here, there in itertools.pairwise(visited):
        weights = twin.trainer.weights()
        for prediction in predictions.values():
            prediction.follow(weights, here, there)
        twin.train_to(here, there)
        if time.perf_counter() - said > 10 or there == steps:
            said = time.perf_counter()
            say(f"step {there}/{steps}")
    made = with_source(made, "predict", job_digest("predict"), runs=runs)
    write_table(output, table(predictions, visited, len(twin.seeds)), made)


def unpredicted(settings: NetworkSettings) -> str:
    """Why no prediction is made for such a network; empty where one is."""
    if settings.build:
        return "network.build is a network of its own"
    listed = Network.of(settings).listed
    return (
        "" if listed else f"network.group is {settings.group}, which has infinitely many elements"
    )


class Twin:
    """The equivariant runs of some seeds, and what it takes to differentiate beside them."""

    def __init__(
        self,
        settings: NetworkSettings,
        training: TrainingSettings,
        seeds: Sequence[int],
        dataset: Dataset,
        initial: Path,
        modes: Sequence[Mode],
        device: str,
        jobs: JobSettings,
        subset: int | None = None,
    ) -> None:
        self.network = Network.of(settings)
        self.training, self.seeds, self.jobs = training, seeds, jobs
        self.outside = Outside(self.network.spaces)
        self.labels, self.subset = dataset.train_labels.to(device), subset
        images_of_a_run = subset or len(self.labels)
        self.steps = steps_of(images_of_a_run, training)
        self.own = subsets(seeds, len(self.labels), images_of_a_run) if subset else None
        self.scale = risk_scale(training)
        images = dataset.train_images.to(device)
        self.images = {
            mode: self.network.orbit(images) if mode == "augmented" else images
            for mode in ("equivariant", *modes)
        }
        self.initial, _ = load_weights(initial, seeds, self.network.spaces)
        start = start_runs(self.network.spaces, self.initial, "equivariant", seeds, 0.0)
        self.trainer = choose_trainer(
            self.network,
            start.to(device, torch.float32),
            self.images["equivariant"],
            self.scale,
            jobs,
        )

    def train_to(self, here: int, there: int) -> None:
        """Train from step ``here`` to step ``there``."""
        runs, device = len(self.seeds), self.labels.device
        while here < there:
            chunk = batches(
                self.network.acting,
                "equivariant",
                self.seeds,
                self.labels,
                self.training,
                there - here,
                here,
                self.subset,
            )
            rows, classes = next(chunk)  # ends with its epoch at the latest
            count = rows.shape[1]
            values = gamma_schedule(None, self.training), learning_rates(self.training)
            total = self.steps
            along_them = (along([value], runs, here, count, total).to(device) for value in values)
            self.trainer.advance(rows, classes, *along_them)
            here += count

    def gradient(self, mode: Mode) -> Gradient:
        """What differentiates the mean cross entropy on the images of ``mode``."""
        network, images, jobs = self.network, self.images[mode], self.jobs
        return choose(
            jobs.step if images.device.type == "cpu" else "reference",
            lambda: CompiledGradient(network, images, jobs.threads),
            lambda: ReferenceGradient(network, images),
        )


class Prediction:
    """Of one mode, for every gamma: how its runs leave E beside their equivariant twins.

    To first order in Y, the weights' part outside E, by ``theory.ornstein_uhlenbeck``. Used are the
    start, which is the run's own, and at each step visited, on random training images: the mean of
    the gradient outside E, which vanishes in the augmented mode (Fact A); draws of the gradient's
    noise; and products of Y with the Hessian's block outside E. The nominal Hessian also couples
    Y with E; that is left out, as in Remark 1.
    """

    def __init__(self, twin: Twin, mode: Mode, gammas: Sequence[float]) -> None:
        self.twin, self.mode, self.gammas = twin, mode, gammas
        self.gradient = twin.gradient(mode)
        training, spaces = twin.training, twin.network.spaces
        beside = perturbations(
            spaces,
            twin.initial,
            mode,
            twin.seeds,
            training.perturbation,
            training.perturbation_unit,
        )
        self.y = np.stack([twin.outside.flatten(beside)] * len(gammas))
        self.distances = [np.linalg.norm(self.y, axis=-1)]

    def follow(self, weights: dict[str, Tensor], here: int, there: int) -> None:
        """Take Y from step ``here``, where the twin has these weights, to step ``there``."""
        training, scale = self.twin.training, self.twin.scale
        slope = self.slope(weights, here, there)
        curvature = self.twin.outside.curvature(
            self.gradient, weights, self.y, *self.sample("curvature", here, IMAGES)
        )
        for i, gamma in enumerate(self.gammas):
            stretch = Stretch.of(training.learning_rate, gamma, there - here)
            y = propagate(self.y[i], curvature[i], slope, stretch, scale, training.batch_size)
            self.y[i] = np.clip(y, -FARTHEST, FARTHEST)
        self.distances.append(np.linalg.norm(self.y, axis=-1))

    def slope(self, weights: dict[str, Tensor], here: int, there: int) -> Slope:
        """The gradient at ``weights``; nominal: on as many images as the batches hold."""
        outside, twin = self.twin.outside, self.twin
        if self.mode == "augmented":
            sample = self.sample("noise", here, IMAGES)
            draw = outside.gradient(self.gradient, weights, *sample)
            return Slope(np.zeros_like(draw), draw, IMAGES, exact=True)
        half = max(1, (there - here) * twin.training.batch_size // 2)
        first, second = (
            outside.gradient(self.gradient, weights, *self.sample(name, here, half))
            for name in ("first half", "second half")
        )
        return Slope.of_halves(first, second, 2 * half)

    def sample(self, role: str, step: int, count: int) -> tuple[Tensor, Tensor]:
        """Random training images as rows of the mode's images, and their classes.

        (runs, count), or with exact augmentation (runs, count * order of the group): each image
        in every turn.
        """
        labels, training = self.twin.labels, self.twin.training
        order = self.twin.network.turns if self.mode == "augmented" else 1
        draws = [generator(seed, "prediction", self.mode, role, step) for seed in self.twin.seeds]
        images = self.twin.subset or len(labels)
        image = torch.from_numpy(np.stack([g.integers(images, size=count) for g in draws]))
        if self.twin.own is not None:
            image = self.twin.own.gather(1, image)
        turn = torch.from_numpy(np.stack([g.integers(order, size=count) for g in draws]))
        if order > 1 and training.augmentation == "exact":
            image = image.repeat_interleave(order, 1)
            turn = torch.arange(order).repeat(len(draws), count)
        image, turn = image.to(labels.device), turn.to(labels.device)
        return image * order + turn, labels[image].long()


def table(predictions: Mapping[Mode, Prediction], visited: Sequence[int], seeds: int) -> pa.Table:
    """The quantiles, sorted by mode, gamma and step."""
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for mode, prediction in predictions.items():
        distances = np.stack(prediction.distances)  # (steps, gammas, seeds)
        for i, gamma in enumerate(prediction.gammas):
            columns["mode"] += [mode] * len(visited)
            columns["gamma"] += [gamma] * len(visited)
            columns["step"] += visited
            columns["seeds"] += [seeds] * len(visited)
            for name, quantile in QUANTILES.items():
                columns[name] += np.quantile(distances[:, i], quantile, axis=-1).tolist()
    return pa.table(columns, schema=SCHEMA)
