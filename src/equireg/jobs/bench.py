"""Bench: microseconds per run and step of the training loop, beside two slower ways to do it.

engine: the step that a training job takes. reference: the plain PyTorch step, the same block of
runs at once. baseline: one network after the other, in a loop as such scripts usually have it.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from equireg.jobs.initialize import draw_equivariant
from equireg.jobs.train import choose_trainer, perturbation
from equireg.settings import JobSettings, NetworkSettings, TrainingSettings
from equireg.training.batches import batches, elements, turned
from equireg.training.checkpoint import Checkpoint
from equireg.training.network import Network
from equireg.training.recorder import Recorder
from equireg.training.step import start

IMAGES = 10_000
GAMMA = 1e-2
REPEATS = 9


def bench(seeds: Sequence[int], steps: int, device: str, jobs: JobSettings) -> dict[str, object]:
    """Time ``steps`` steps of the paper's augmented training on random images.

    The three ways alternate; the slower ones take fewer steps, the baseline a single network.
    Returns the medians over the repeats in microseconds, their quartiles, and the ratio of the
    baseline to the engine. Raises ValueError for a number of steps that is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; accepted: 1 or more")
    settings, training = NetworkSettings(), TrainingSettings()
    pixels = np.random.default_rng(0).integers(256, size=(IMAGES, *2 * [settings.image_size]))
    images = torch.from_numpy(pixels.astype(np.uint8)).to(device)
    labels = torch.arange(IMAGES, device=device).remainder(settings.classes).to(torch.uint8)
    ways = {
        "engine": loop(settings, training, seeds, steps, images, labels, jobs),
        "reference": loop(
            settings,
            training,
            seeds,
            max(steps // 5, 1),
            images,
            labels,
            JobSettings(jobs.threads, jobs.device, "reference"),
        ),
        "baseline": baseline(settings, training, max(steps // 10, 1), images, labels),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(REPEATS + 1):
        for name, way in ways.items():
            seconds, count = way()
            if repeat:  # the first warms up
                times[name].append(1e6 * seconds / count)
    result: dict[str, object] = {}
    for name, measured in times.items():
        result[f"{name}_us"] = round(statistics.median(measured), 1)
        first, _, third = statistics.quantiles(measured, n=4)
        result[f"{name}_quartiles_us"] = [round(first, 1), round(third, 1)]
    ratio = statistics.median(times["baseline"]) / statistics.median(times["engine"])
    return {**result, "ratio": round(ratio, 2), "device": name_of(device), "block": len(seeds)}


def loop(
    settings: NetworkSettings,
    training: TrainingSettings,
    seeds: Sequence[int],
    steps: int,
    images: Tensor,
    labels: Tensor,
    jobs: JobSettings,
) -> Callable[[], tuple[float, int]]:
    """The training job's loop: batches, steps and recording; call for (seconds, run-steps)."""
    network, device = Network(settings), images.device
    spaces = network.layers.items()
    initial = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in seeds])
        for name, space in spaces
    }
    draws = [perturbation(network, "augmented", seed, training.perturbation) for seed in seeds]
    noise = {name: torch.stack([draw[name] for draw in draws]) for name in network.layers}
    runs = start(network, initial, noise, [GAMMA] * len(seeds)).to(device, torch.float32)
    table = turned(images, elements(network.group, "augmented"))
    trainer = choose_trainer(network.to(device, torch.float32), runs, table, training, jobs)

    def chunks() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from batches(network.group, "augmented", seeds, labels, training, steps)

    source = chunks()

    def once() -> tuple[float, int]:
        began = time.perf_counter()
        rows, classes = next(source)
        count = rows.shape[1]
        with tempfile.TemporaryDirectory() as folder:
            layers, longer = list(network.layers), count + 1  # the end of a run would be reported
            checkpoint = Checkpoint(Path(folder), "", "")
            recorder = Recorder("augmented", [GAMMA], seeds, [], layers, longer, checkpoint, {})
            recorder.add(trainer.advance(rows, classes))
        return time.perf_counter() - began, count * len(seeds)

    return once


def baseline(
    settings: NetworkSettings,
    training: TrainingSettings,
    steps: int,
    images: Tensor,
    labels: Tensor,
) -> Callable[[], tuple[float, int]]:
    """One network in plain PyTorch, with a DataLoader, autograd and ``.item()`` at every step."""
    device, widths = images.device, (1, *settings.channels)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(widths):
        side = settings.image_size >> len(layers) // 4 + 1
        convolution = nn.Conv2d(fan_in, fan_out, settings.kernel_size, padding="same", bias=False)
        normalization = nn.LayerNorm((side, side), elementwise_affine=False)
        layers += [convolution, nn.AvgPool2d(2), nn.Tanh(), normalization]
    side = settings.image_size >> len(settings.channels)
    linear = nn.Linear(widths[-1] * side**2, settings.classes, bias=False)
    model = nn.Sequential(*layers, nn.Flatten(), linear).to(device)
    optimizer = torch.optim.SGD(model.parameters(), training.learning_rate)
    data = TensorDataset(images.unsqueeze(1).float() / 255, labels.long())
    loader = DataLoader(data, training.batch_size, shuffle=False)

    def off_equivariance(weight: Tensor) -> Tensor:
        grid = weight if weight.ndim == 4 else weight.view(settings.classes, -1, side, side)
        mean = sum((torch.rot90(grid, k, (2, 3)) for k in range(1, 4)), grid) / 4
        return (grid - mean).square().sum()

    def once() -> tuple[float, int]:
        began, log = time.perf_counter(), []
        for x, y in itertools.islice(loader, steps):
            turns = torch.randint(4, (len(x),)).tolist()
            x = torch.stack(
                [torch.rot90(image, k, (1, 2)) for image, k in zip(x, turns, strict=True)]
            )
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            squared = torch.stack([off_equivariance(w) for w in model.parameters()]).sum()
            (loss / training.batch_size + GAMMA / 2 * squared).backward()
            optimizer.step()
            log.append((loss.item(), squared.sqrt().item()))
        return time.perf_counter() - began, len(log)

    return once


def name_of(device: str) -> str:
    """What ran it."""
    from equireg.provenance import processor

    return torch.cuda.get_device_name() if device == "cuda" else processor()


def table(result: dict[str, object]) -> str:
    """The result in lines for people, the JSON object last."""
    lines = [
        f"{name:<10} {result[f'{name}_us']:>8} us per run and step, quartiles "
        f"{result[f'{name}_quartiles_us']}"
        for name in ("engine", "reference", "baseline")
    ]
    return "\n".join([*lines, json.dumps(result)])
