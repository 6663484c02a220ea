"""The training step compiled for this machine's CPU.

``compiled.cpp`` does what ``step.training_step`` does, in float32, several times faster. Each run
is computed alone, so a run's bits depend neither on its block nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equireg import native
from equireg.native import UnavailableError
from equireg.training.network import Network
from equireg.training.packed import (
    Lines,
    Packed,
    Sizes,
    check_images,
    lines_of,
    packed_weights,
    unpacked_weights,
    with_total,
)
from equireg.training.step import Runs, named

SOURCE = Path(__file__).with_suffix(".cpp")
MULTIPLE = 4  # channels come in multiples of so many; more are taken side by side where they fit
# Multiplications and additions may be fused; a NaN stays one: a run that diverges must be seen to.
FLAGS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")


class Compiled(Packed):
    """Trains a block of runs with the compiled step; see ``step.Trainer`` for its calls.

    Raises UnavailableError where there is no compiler, or the network or device does not fit.
    """

    def __init__(
        self, network: Network, runs: Runs, images: Tensor, scale: float, threads: int = 1
    ) -> None:
        self.library = library_for(network, images)
        super().__init__(network, runs, images, scale)
        self.threads = threads
        self.orbits = [_Orbits(lines) for lines in self.lines.values()]

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        images, rows = named(self.images, rows)
        images, (runs, steps, batch) = images.contiguous(), rows.shape
        rows, targets = rows.long().contiguous(), targets.long().contiguous()
        gammas, rates = gammas.float().contiguous(), rates.float().contiguous()
        recorded = torch.empty(runs, steps, 1 + len(self.orbits))
        spaces = (_Space * len(self.orbits))(*(orbits.space for orbits in self.orbits))
        state = self.inside, self.outside, self.whole, self.squares

        def run(i: int) -> None:
            self.library.train(
                *(x.data_ptr() for x in (images, rows[i], targets[i])),
                *(steps, batch, spaces),
                *(x[i].data_ptr() for x in state),
                self.scale_of_an_image(batch),
                *(x[i].data_ptr() for x in (rates, gammas, recorded)),
            )

        with ThreadPoolExecutor(self.threads) as pool:  # a call releases the interpreter's lock
            list(pool.map(run, range(runs)))
        return torch.cat([recorded[..., :1], with_total(recorded[..., 1:])], -1)


class CompiledForward:
    """The networks of a block of runs, for evaluation on uint8 images on the CPU.

    weights: (runs, *shape) per parameter. Raises UnavailableError as ``Compiled`` does.
    """

    def __init__(
        self, network: Network, weights: Mapping[str, Tensor], images: Tensor, threads: int = 1
    ) -> None:
        self.library = library_for(network, images)
        self.sizes, self.threads = Sizes.of(network), threads
        self.whole = packed_weights(lines_of(network), weights)

    def __call__(self, images: Tensor) -> Tensor:
        """Every run's logits of images (count, 1, side, side): (runs, count, classes)."""
        check_images(images, self.sizes)
        images = images.contiguous()
        logits = torch.empty(len(self.whole), len(images), self.sizes.classes)

        def run(i: int) -> None:
            pointers = self.whole[i].data_ptr(), logits[i].data_ptr()
            self.library.predict(images.data_ptr(), len(images), *pointers)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(run, range(len(logits))))
        return logits


class CompiledGradient:
    """The gradients of a block of networks, for uint8 images on the CPU: see ``step.Gradient``.

    Raises UnavailableError as ``Compiled`` does.
    """

    def __init__(self, network: Network, images: Tensor, threads: int = 1) -> None:
        self.library = library_for(network, images)
        self.lines, self.images, self.threads = lines_of(network), images.contiguous(), threads

    def __call__(
        self, weights: Mapping[str, Tensor], rows: Tensor, targets: Tensor
    ) -> dict[str, Tensor]:
        rows, targets = rows.long().contiguous(), targets.long().contiguous()
        whole = packed_weights(self.lines, weights)
        gradient = torch.empty_like(whole)

        def run(i: int) -> None:
            self.library.differentiate(
                *(x.data_ptr() for x in (self.images, rows[i], targets[i])),
                rows.shape[1],
                *(x[i].data_ptr() for x in (whole, gradient)),
            )

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(run, range(len(rows))))
        return unpacked_weights(self.lines, gradient.div_(rows.shape[1]))


def library_for(network: Network, images: Tensor) -> ctypes.CDLL:
    """The library for this network if its images lie where it can read them."""
    if images.device.type != "cpu":
        raise UnavailableError(f"it runs on CPUs, not on {images.device.type}")
    sizes = Sizes.of(network)
    check_images(images, sizes)
    return library(sizes)


class _Space(ctypes.Structure):
    """``Space`` of compiled.cpp."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("lines", "width", "orbits")),
        *((name, ctypes.c_void_p) for name in ("order", "ends", "inside")),
    )


class _Orbits:
    """A layer's orbits for compiled.cpp: ``space``, and the arrays that it points to."""

    def __init__(self, lines: Lines) -> None:
        inside = np.arange(len(lines.orbits)) < lines.inside
        lengths = [len(orbit) for orbit in lines.orbits]
        arrays = np.concatenate(lines.orbits), np.cumsum(lengths), inside
        self.arrays = [np.ascontiguousarray(values, np.int32) for values in arrays]
        pointers = (array.ctypes.data for array in self.arrays)
        self.space = _Space(lines.count, lines.width, len(lines.orbits), *pointers)


@functools.cache
def library(network: Sizes) -> ctypes.CDLL:
    """compiled.cpp for this network, compiled once per machine and kept in the user's cache.

    Raises UnavailableError, saying why, if there is no compiler or the network does not fit.
    """
    if any(width % MULTIPLE for width in network.channels):
        raise UnavailableError(
            f"channels are {list(network.channels)}, not multiples of {MULTIPLE}"
        )
    loaded = declared(native.library(SOURCE, macros(network), FLAGS))
    lanes = ctypes.c_int.in_dll(loaded, "lanes").value
    if not compiled_is_faster(lanes, network.channels):
        raise UnavailableError(
            f"the reference is faster for channels {list(network.channels)} taken {lanes} at once"
        )
    return loaded


def compiled_is_faster(lanes: int, channels: Sequence[int]) -> bool:
    """Which step is taken: a fixed rule, so that results never depend on a measurement.

    lanes: the channels that compiled.cpp takes at once: 16 with AVX-512, 8 with AVX2, 4 with SSE2
    or NEON, less where fewer divide the channels. With 4 of them large products of matrices may
    be PyTorch's gain, which has wider instructions on some of these processors.
    """
    return lanes >= 8 or max(channels) <= 64


def macros(network: Sizes) -> dict[str, str | int]:
    """What compiled.cpp is compiled with."""
    return {
        "CHANNELS": ",".join(map(str, network.channels)),
        "SIDE": network.side,
        "KERNEL": network.kernel,
        "CLASSES": network.classes,
    }


def declared(loaded: ctypes.CDLL) -> ctypes.CDLL:
    """The library with its functions' types."""
    pointer, whole, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    loaded.train.argtypes = (
        *[pointer] * 3,
        *(whole, whole, ctypes.POINTER(_Space)),
        *[pointer] * 4,
        *(real, pointer, pointer, pointer),
    )
    loaded.differentiate.argtypes = (*[pointer] * 3, whole, pointer, pointer)
    loaded.predict.argtypes = (pointer, whole, pointer, pointer)
    for function in (loaded.train, loaded.differentiate, loaded.predict):
        function.restype = None
    return loaded
