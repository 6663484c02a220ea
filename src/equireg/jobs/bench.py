"""Bench: microseconds per run and step of the training loop, beside slower ways, and its floor.

engine: the step that a training job takes. reference: the plain PyTorch step, the same block of
runs at once. torch_compile: the same, its network compiled by torch.compile. baseline: one network
after the other, in a loop as such scripts usually have it. floor: the multiplications and additions
that a step needs, at the rate that one core reaches with nothing else to do.
"""

from __future__ import annotations

import ctypes
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

from equireg.native import UnavailableError, library
from equireg.settings import JobSettings, NetworkSettings, TrainingSettings
from equireg.training.blocks import Blocks
from equireg.training.checkpoint import Checkpoint
from equireg.training.layers import POOLING
from equireg.training.network import Network
from equireg.training.recorder import Recorder
from equireg.training.step import Reference

IMAGES = 10_000
GAMMA = 1e-2
REPEATS = 9
PEAK = Path(__file__).parents[1] / "peak.cpp"


def bench(seeds: Sequence[int], steps: int, device: str, jobs: JobSettings) -> dict[str, object]:
    """Time ``steps`` steps of the paper's augmented training on random images.

    The ways alternate; the slower ones take fewer steps, the baseline a single network. Returns
    the medians over the repeats in microseconds, their quartiles, the ratio of the baseline to the
    engine, and on a CPU the floor and the ratio of the engine to it. Raises ValueError for a number
    of steps that is not positive.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; accepted: 1 or more")
    settings, training = NetworkSettings(), TrainingSettings()
    pixels = strokes(IMAGES, settings.image_size)
    images = torch.from_numpy(pixels).unsqueeze(1).to(device)
    labels = torch.arange(IMAGES, device=device).remainder(settings.classes).to(torch.uint8)
    plain = JobSettings(jobs.threads, jobs.device, "reference")
    fewer = max(steps // 5, 1)
    ways = {
        "engine": loop(settings, training, seeds, steps, images, labels, jobs),
        "reference": loop(settings, training, seeds, fewer, images, labels, plain),
        "torch_compile": loop(
            settings, training, seeds, fewer, images, labels, plain, compiled=True
        ),
        "baseline": baseline(settings, training, max(steps // 10, 1), images, labels),
    }
    rates: list[float] = []  # the core's, measured between the ways as it may vary
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(REPEATS + 1):
        rates.append(peak() if device == "cpu" else 0.0)
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
    result["ratio"] = round(ratio, 2)
    if max(rates):
        share = float(patches_of_zeros(pixels, settings.kernel_size).mean())
        floor = 1e-3 * operations(settings, training.batch_size, share) / max(rates)
        result["peak_gflops"] = round(max(rates), 1)
        result["floor_us"] = round(floor, 1)
        result["engine_to_floor"] = round(statistics.median(times["engine"]) / floor, 2)
    return {**result, "device": name_of(device), "block": len(seeds)}


def strokes(count: int, side: int) -> np.ndarray:
    """Images like handwritten digits: one stroke on black, (count, side, side) of uint8.

    As in MNIST about 0.8 of the pixels are 0, and 0.62 of the 4x4 patches at every second place.
    """
    rng = np.random.default_rng(0)
    images, every = np.zeros((count, side, side), np.uint8), np.arange(count)
    low, high = 0.15 * side, 0.8 * side
    place, angle = rng.uniform(low, high, (count, 2)), rng.uniform(0, 2 * np.pi, count)
    for _ in range(2 * side):
        for offset in itertools.product(range(3), repeat=2):
            y, x = (place + offset).astype(int).T
            images[every, y, x] = rng.integers(1, 256, count)
        angle += rng.normal(0, 0.4, count)
        place += np.stack([np.sin(angle), np.cos(angle)], 1)
        angle[((place < low) | (place > high)).any(1)] += np.pi / 2
        place = place.clip(low, high)
    return images


def patches_of_zeros(images: np.ndarray, kernel: int) -> np.ndarray:
    """Where what a filter and the pooling see is all 0: (count, side / 2, side / 2) of bool."""
    edge, size = kernel // 2, kernel - 1 + POOLING
    padded = np.pad(images, ((0, 0), (edge, edge), (edge, edge)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
    return np.asarray(~patches[:, ::POOLING, ::POOLING].any((-1, -2)))


def operations(settings: NetworkSettings, batch: int, zeros: float) -> float:
    """Multiplications and additions of one step's convolutions and linear layer, both ways.

    zeros: the share of the first convolution's patches that are all 0, of which there are none.
    """
    side, fan_in, total = settings.image_size, 1, 0.0
    for layer, fan_out in enumerate(settings.channels):
        side //= POOLING
        products = side**2 * settings.kernel_size**2 * fan_in * fan_out
        total += products * 3 if layer else products * 2 * (1 - zeros)  # no gradient of the image
        fan_in = fan_out
    return 2 * batch * (total + 3 * side**2 * fan_in * settings.classes)


def peak() -> float:
    """GFLOP/s of one core that multiplies and adds in registers; 0 without a compiler."""
    try:
        measure = library(PEAK, {}, ("-ffp-contract=fast",)).peak
    except UnavailableError:
        return 0.0
    measure.restype, measure.argtypes = ctypes.c_double, (ctypes.c_int, ctypes.c_void_p)
    result = ctypes.c_float()
    return float(max(measure(10_000, ctypes.byref(result)) for _ in range(100)))


def loop(
    settings: NetworkSettings,
    training: TrainingSettings,
    seeds: Sequence[int],
    steps: int,
    images: Tensor,
    labels: Tensor,
    jobs: JobSettings,
    compiled: bool = False,
) -> Callable[[], tuple[float, int]]:
    """The training job's loop: batches, steps and recording; call for (seconds, run-steps).

    compiled: the reference's network goes through torch.compile.
    """
    network = Network.of(settings)
    draws = [network.initial(seed, "gaussian") for seed in seeds]
    initial = {name: torch.stack([draw[name] for draw in draws]) for name in network.spaces}
    blocks = Blocks.of("augmented", [GAMMA], seeds)
    trainer = blocks.trainer(network, initial, training, images, str(images.device), jobs)
    if compiled and isinstance(trainer, Reference):
        trainer.network.forward = torch.compile(trainer.network.forward)  # type: ignore[method-assign]

    def forever() -> Iterator[tuple[Tensor, ...]]:
        while True:
            for chunk in blocks.chunks(network, labels, training):
                for first in range(0, chunk[0].shape[1], steps):
                    yield tuple(x[:, first : first + steps] for x in chunk)

    source = forever()

    def once() -> tuple[float, int]:
        began = time.perf_counter()
        given = next(source)
        count = given[0].shape[1]
        with tempfile.TemporaryDirectory() as folder:
            layers, longer = list(network.spaces), count + 1  # the end of a run would be reported
            checkpoint = Checkpoint(Path(folder), "", "")
            recorder = Recorder(blocks, [], layers, longer, checkpoint, {})
            recorder.add(trainer.advance(*given))
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
    data = TensorDataset(images.float() / 255, labels.long())
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
        f"{name:<13} {result[f'{name}_us']:>8} us per run and step, quartiles "
        f"{result[f'{name}_quartiles_us']}"
        for name in ("engine", "reference", "torch_compile", "baseline")
    ]
    if "floor_us" in result:
        lines.append(
            f"{'floor':<13} {result['floor_us']:>8} us at {result['peak_gflops']} GFLOP/s; the "
            f"engine takes {result['engine_to_floor']} times that"
        )
    return "\n".join([*lines, json.dumps(result)])
