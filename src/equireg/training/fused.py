"""The training step on a GPU, fused into one kernel: makes ``fused_kernel.py`` ready and calls it.

Every run is a program of its own that takes all steps of a chunk; nothing but what is recorded
leaves the GPU, once per chunk.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equireg.training.network import Network
from equireg.training.packed import Packed, UnavailableError, orbits_of, with_total
from equireg.training.step import Reference, Runs

IMAGES = 8  # at most so many go through at a time; a power of two
# A program alone on its processor hides its waiting by more warps; else three share one.
ALONE = {"num_warps": 8, "num_stages": 1}
SHARED = {"num_warps": 4, "num_stages": 1, "maxnreg": 168}
TOLERANCE = 1e-4  # relative, of one step against the reference, both in float32


class Fused(Packed):
    """Trains a block of runs with the fused step; see ``step.Trainer`` for its calls.

    Takes any network whose spaces E are spanned by orbits, else raises UnavailableError.
    """

    def __init__(
        self, network: Network, runs: Runs, images: Tensor, learning_rate: float, scale: float
    ) -> None:
        super().__init__(network, runs)
        self.images, self.learning_rate, self.scale = images.contiguous(), learning_rate, scale
        self.constants, table = plan(network)
        self.table = torch.from_numpy(table).to(images.device)
        self.gradient = torch.empty_like(self.whole)
        self.scratch = self.whole.new_empty(len(self.whole), self.constants["SIZES"][2])
        processors = 0
        if images.device.type == "cuda":
            processors = torch.cuda.get_device_properties(images.device).multi_processor_count
        self.options = ALONE if len(self.whole) <= processors else SHARED

    def advance(self, rows: Tensor, labels: Tensor) -> Tensor:
        from equireg.training.fused_kernel import train

        runs, steps, batch = rows.shape
        recorded = self.whole.new_empty(runs, steps, 1 + len(self.network.layers))
        train[(runs,)](
            *(self.images, rows.contiguous(), labels.contiguous()),
            *(steps, batch, math.ceil(batch / math.ceil(batch / IMAGES))),
            *(self.table, self.gamma, self.free),
            *self._held().values(),
            *(self.gradient, self.scratch, recorded),
            *(float(self.scale / batch), float(self.learning_rate)),
            **self.constants,
            **self.options,
        )
        return torch.cat([recorded[..., :1], with_total(recorded[..., 1:])], -1)


def plan(network: Network) -> tuple[dict[str, Any], np.ndarray]:
    """The constants of ``fused_kernel.train``, where they are explained, and its table."""
    settings, kernel = network.settings, network.settings.kernel_size
    starts = {"inside": 0, "whole": 0, "scratch": 0, "table": 0}

    def take(where: str, count: int) -> int:
        """Where the next ``count`` numbers begin."""
        starts[where] += count
        return starts[where] - count

    def scratch(*shape: int) -> int:
        return take("scratch", math.ceil(math.prod(shape) / 16) * 16)  # wide loads need alignment

    every = [orbits_of(space) for space in network.layers.values()]
    members = max([1, *(len(orbit) for orbits, _ in every for orbit in orbits)])
    spaces, tables = [], []
    for (orbits, cut), space in zip(every, network.layers.values(), strict=True):
        lines = [*orbits, *cut[:, None]]
        table = np.full((len(lines), members), -1, np.int32)
        for line, orbit in zip(table, lines, strict=True):
            line[: len(orbit)] = orbit
        tables.append(table.ravel())
        inner = space.shape[0] * space.shape[1]
        begin = take("table", table.size), take("inside", (len(orbits) + 1) * inner)
        weights = take("whole", math.prod(space.shape))
        spaces.append((len(lines), len(orbits), inner, *begin, weights))

    layers, side = [], settings.image_size
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise((1, *settings.channels))):
        box, pixels = side + 2 * (kernel // 2) - 1, (side // 2) ** 2
        places = (
            scratch(IMAGES, box, box, fan_in),
            scratch(IMAGES, pixels, fan_out),
            scratch(IMAGES, 2, fan_out),
            scratch(IMAGES, pixels, fan_out),
        )
        layers.append((fan_in, fan_out, side, spaces[i][5], *places))
        side //= 2
    channels, classes = settings.channels[-1], settings.classes
    features, logits = scratch(IMAGES, side**2, channels), scratch(IMAGES, classes)
    linear = channels, side**2, classes, spaces[-1][5], features, logits, scratch(IMAGES, classes)
    constants = {
        "LAYERS": tuple(layers),
        "LINEAR": linear,
        "SPACES": tuple(spaces),
        "SIZES": (starts["inside"], starts["whole"], starts["scratch"]),
        "KERNEL": kernel,
        "IMAGES": IMAGES,
        "WIDTH": 1 << (classes - 1).bit_length(),
        "MEMBERS": members,
    }
    return constants, np.concatenate(tables)


def fused(
    network: Network, runs: Runs, images: Tensor, learning_rate: float, scale: float
) -> Fused:
    """``Fused``, once one step of it from ``runs`` has been that of the reference.

    Raises UnavailableError, saying why, if it is not, or if Triton or the device cannot take it.
    """
    try:
        check(network, runs, images)
        return Fused(network, runs, images, learning_rate, scale)
    except UnavailableError:
        raise
    except ImportError as error:
        raise UnavailableError(f"Triton cannot be imported: {error}") from error
    except Exception as error:  # of a compiler or driver, whatever it is: the reference can train
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise UnavailableError(reason) from error


def check(network: Network, runs: Runs, images: Tensor) -> None:
    """Raise UnavailableError unless one step from ``runs`` is the reference's, to TOLERANCE.

    A long step, of size 1, that rounding does not hide: per layer, the norm of the difference is
    held against that of the change. The losses and distances are compared as well.
    """
    count = len(runs.gamma), 1, 10
    rows = torch.arange(math.prod(count), device=images.device).view(count) % len(images)
    labels = rows % network.settings.classes
    fast = Fused(network, runs, images, 1.0, 1.0)
    slow = Reference(network, copy.deepcopy(runs), images, 1.0, 1.0)
    before = slow.weights()
    found, expected = fast.advance(rows, labels), slow.advance(rows, labels)
    worst = ((found - expected).abs() / expected.abs().clamp(min=1e-30)).max()
    if not worst <= TOLERANCE:
        raise UnavailableError(
            f"its losses or distances differ from the reference's by {worst:.1g}"
        )
    after, exact = fast.weights(), slow.weights()
    for name in network.layers:
        error = (after[name] - exact[name]).norm()
        change = (exact[name] - before[name]).norm()
        if not error <= TOLERANCE * change:
            raise UnavailableError(
                f"its step differs from the reference's by {error / change:.1g} in {name}"
            )
