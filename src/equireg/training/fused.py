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

from equireg.native import UnavailableError
from equireg.training.network import Network
from equireg.training.packed import Packed, Sizes, lines_of, with_total
from equireg.training.step import Reference, Runs, named

IMAGES = 8  # at most so many go through at a time; a power of two
# A program alone on its processor hides its waiting by more warps; else three share one.
ALONE = {"num_warps": 8, "num_stages": 1}
SHARED = {"num_warps": 4, "num_stages": 1, "maxnreg": 168}
TOLERANCE = 1e-4  # relative, of one step against the reference, both in float32


class Fused(Packed):
    """Trains a block of runs with the fused step; see ``step.Trainer`` for its calls.

    Takes any network whose spaces E are spanned by orbits, else raises UnavailableError.
    """

    def __init__(self, network: Network, runs: Runs, images: Tensor, scale: float) -> None:
        super().__init__(network, runs, images, scale)
        self.constants, table = plan(network)
        self.table = torch.from_numpy(table).to(images.device)
        self.gradient = torch.empty_like(self.whole)
        self.scratch = self.whole.new_empty(len(self.whole), self.constants["SIZES"][2])
        processors = 0
        if images.device.type == "cuda":
            processors = torch.cuda.get_device_properties(images.device).multi_processor_count
        self.options = ALONE if len(self.whole) <= processors else SHARED

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        from equireg.training.fused_kernel import train

        images, rows = named(self.images, rows)
        runs, steps, batch = rows.shape
        recorded = self.whole.new_empty(runs, steps, 1 + len(self.lines))
        train[(runs,)](
            *(images.contiguous(), rows.contiguous(), targets.contiguous()),
            *(steps, batch, math.ceil(batch / math.ceil(batch / IMAGES))),
            *(self.table, *(x.float().contiguous() for x in (gammas, rates))),
            *(self.inside, self.outside, self.whole, self.squares),
            *(self.gradient, self.scratch, recorded),
            self.scale_of_an_image(batch),
            **self.constants,
            **self.options,
        )
        return torch.cat([recorded[..., :1], with_total(recorded[..., 1:])], -1)


def plan(network: Network) -> tuple[dict[str, Any], np.ndarray]:
    """The constants of ``fused_kernel.train``, where they are explained, and its table."""
    sizes = Sizes.of(network)
    counts = {"inside": 0, "whole": 0, "scratch": 0, "table": 0}

    def take(where: str, count: int) -> int:
        """Where the next ``count`` numbers begin."""
        counts[where] += count
        return counts[where] - count

    def scratch(*shape: int) -> int:
        return take("scratch", math.ceil(math.prod(shape) / 16) * 16)  # wide loads need alignment

    every = list(lines_of(network).values())
    members = max(len(orbit) for lines in every for orbit in lines.orbits[: lines.inside])
    spaces, tables = [], []
    for lines in every:
        cut = [entry for orbit in lines.orbits[lines.inside :] for entry in orbit[:, None]]
        rows = [*lines.orbits[: lines.inside], *cut]
        table = np.full((len(rows), members), -1, np.int32)
        for line, orbit in zip(table, rows, strict=True):
            line[: len(orbit)] = orbit
        tables.append(table.ravel())
        begin = take("table", table.size), take("inside", len(lines.orbits) * lines.width)
        weights = take("whole", lines.count * lines.width)
        spaces.append((len(rows), lines.inside, lines.width, *begin, weights))

    layers, side = [], sizes.side
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise((1, *sizes.channels))):
        box, pixels = side + 2 * (sizes.kernel // 2) - 1, (side // 2) ** 2
        places = (
            scratch(IMAGES, box, box, fan_in),
            scratch(IMAGES, pixels, fan_out),
            scratch(IMAGES, 2, fan_out),
            scratch(IMAGES, pixels, fan_out),
        )
        layers.append((fan_in, fan_out, side, spaces[i][5], *places))
        side //= 2
    channels, classes = sizes.channels[-1], sizes.classes
    features, logits = scratch(IMAGES, side**2, channels), scratch(IMAGES, classes)
    linear = channels, side**2, classes, spaces[-1][5], features, logits, scratch(IMAGES, classes)
    constants = {
        "LAYERS": tuple(layers),
        "LINEAR": linear,
        "SPACES": tuple(spaces),
        "SIZES": (counts["inside"], counts["whole"], counts["scratch"]),
        "KERNEL": sizes.kernel,
        "IMAGES": IMAGES,
        "WIDTH": 1 << (classes - 1).bit_length(),
        "MEMBERS": members,
    }
    return constants, np.concatenate(tables)


def fused(network: Network, runs: Runs, images: Tensor, scale: float) -> Fused:
    """``Fused``, once one step of it from ``runs`` has been that of the reference.

    Raises UnavailableError, saying why, if it is not, or if Triton or the device cannot take it.
    """
    try:
        hold_to_reference(network, runs, images)
        return Fused(network, runs, images, scale)
    except UnavailableError:
        raise
    except ImportError as error:
        raise UnavailableError(f"Triton cannot be imported: {error}") from error
    except Exception as error:  # of a compiler or driver, whatever it is: the reference can train
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
        raise UnavailableError(reason) from error


def hold_to_reference(network: Network, runs: Runs, images: Tensor) -> None:
    """Raise UnavailableError unless one step from ``runs`` is the reference's, to TOLERANCE.

    A long step, of size 1, that rounding does not hide: per layer, the norm of the difference is
    held against that of the change. The losses and distances are compared as well.
    """
    first = next(iter(runs.equivariant.values()))
    count = len(first), 1, 10
    rows = torch.arange(math.prod(count), device=images.device).view(count) % len(images)
    labels = rows % Sizes.of(network).classes
    ones = torch.ones(count[:2], device=images.device)
    fast = Fused(network, runs, images, 1.0)
    slow = Reference(network, copy.deepcopy(runs), images, 1.0)
    before = slow.weights()
    found, expected = (way.advance(rows, labels, ones, ones) for way in (fast, slow))
    worst = ((found - expected).abs() / expected.abs().clamp(min=1e-30)).max()
    if not worst <= TOLERANCE:
        raise UnavailableError(
            f"its losses or distances differ from the reference's by {worst:.1g}"
        )
    after, exact = fast.weights(), slow.weights()
    for name in network.spaces:
        error = (after[name] - exact[name]).norm()
        change = (exact[name] - before[name]).norm()
        if not error <= TOLERANCE * change:
            raise UnavailableError(
                f"its step differs from the reference's by {error / change:.1g} in {name}"
            )
