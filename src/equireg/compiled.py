"""The training step compiled for this machine's CPU.

``compiled.cpp`` does what ``step.training_step`` does, in float32, several times faster. Each run
is computed alone, so a run's bits depend neither on its block nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from equireg import native
from equireg.native import UnavailableError
from equireg.network import Network
from equireg.packed import Packed, orbits_of, pack, with_total
from equireg.projections import LayerSpace
from equireg.runtime import say
from equireg.settings import LANES, NetworkSettings, Step
from equireg.step import Runs

SOURCE = Path(__file__).with_suffix(".cpp")
# Multiplications and additions may be fused; a NaN stays one: a run that diverges must be seen to.
FLAGS = ("-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros")

Fast = TypeVar("Fast")
Plain = TypeVar("Plain")


class Compiled(Packed):
    """Trains a block of runs with the compiled step; see ``step.Trainer`` for its calls.

    Raises UnavailableError where there is no compiler, or the network or device does not fit.
    """

    def __init__(
        self,
        network: Network,
        runs: Runs,
        images: Tensor,
        learning_rate: float,
        scale: float,
        threads: int = 1,
    ) -> None:
        self.library = library_for(network, images)
        super().__init__(network, runs)
        self.images, self.threads = images, threads
        self.learning_rate, self.scale = learning_rate, scale
        self.spaces = [_Orbits(space) for space in network.layers.values()]

    def advance(self, rows: Tensor, labels: Tensor) -> Tensor:
        runs, steps, batch = rows.shape
        rows, labels = rows.contiguous(), labels.contiguous()
        recorded = torch.empty(runs, steps, 1 + len(self.spaces))
        spaces = (_Space * len(self.spaces))(*(orbits.space for orbits in self.spaces))
        state = self._held().values()
        scale = np.float32(self.scale) / np.float32(batch)  # of the sum of the batch's losses
        rates = torch.full((steps,), self.learning_rate)
        frozen = self.gamma.where(self.free != 0, torch.inf)  # in E
        gammas = frozen.unsqueeze(1).repeat(1, steps)

        def run(i: int) -> None:
            self.library.train(
                *(x.data_ptr() for x in (self.images, rows[i], labels[i])),
                *(steps, batch, spaces),
                *(x[i].data_ptr() for x in state),
                *(scale, rates.data_ptr(), gammas[i].data_ptr(), recorded[i].data_ptr()),
            )

        with ThreadPoolExecutor(self.threads) as pool:  # a call releases the interpreter's lock
            list(pool.map(run, range(runs)))
        return torch.cat([recorded[..., :1], with_total(recorded[..., 1:])], -1)


def choose(
    step: Step, compiled: Callable[[], Fast], reference: Callable[[], Plain]
) -> Fast | Plain:
    """The compiled way where it can be taken, else the reference; the log says which, and why.

    Raises ValueError if ``step`` asks for the compiled one and it cannot be taken.
    """
    why = "as asked"
    if step != "reference":
        try:
            fast = compiled()
        except UnavailableError as error:
            if step == "compiled":
                raise ValueError(
                    f"step is 'compiled', but {error}; accepted here: auto, reference"
                ) from error
            why = f"the compiled one cannot be taken, as {error}"
        else:
            say("step: compiled for this machine")
            return fast
    say(f"step: the reference; {why}")
    return reference()


class CompiledForward:
    """The networks of a block of runs, for evaluation on uint8 images on the CPU.

    weights: (runs, *shape) per layer. Raises UnavailableError as ``Compiled`` does.
    """

    def __init__(
        self, network: Network, weights: Mapping[str, Tensor], images: Tensor, threads: int = 1
    ) -> None:
        self.library = library_for(network, images)
        self.classes, self.threads = network.settings.classes, threads
        self.whole = pack({name: weight.flatten(-2) for name, weight in weights.items()})

    def __call__(self, images: Tensor) -> Tensor:
        """Every run's logits of images (count, side, side): (runs, count, classes)."""
        images = images.contiguous()
        logits = torch.empty(len(self.whole), len(images), self.classes)

        def run(i: int) -> None:
            pointers = self.whole[i].data_ptr(), logits[i].data_ptr()
            self.library.predict(images.data_ptr(), len(images), *pointers)

        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(run, range(len(logits))))
        return logits


def library_for(network: Network, images: Tensor) -> ctypes.CDLL:
    """The library for this network if its images lie where it can read them."""
    if images.device.type != "cpu":
        raise UnavailableError(f"it runs on CPUs, not on {images.device.type}")
    return library(network.settings)


class _Space(ctypes.Structure):
    """``Space`` of compiled.cpp."""

    _fields_ = (
        *((name, ctypes.c_int) for name in ("lines", "width", "orbits")),
        *((name, ctypes.c_void_p) for name in ("order", "ends", "inside")),
    )


class _Orbits:
    """A layer's orbits for compiled.cpp: ``space``, and the arrays that it points to."""

    def __init__(self, space: LayerSpace) -> None:
        groups, cut = orbits_of(space)
        # What the support leaves of the orbits that it cuts: one group without a part in E.
        lists = [*groups, cut]
        self.arrays = [
            np.array(values, np.int32)
            for values in (
                np.concatenate(lists),
                np.cumsum([len(group) for group in lists]),
                [True] * len(groups) + [False],
            )
        ]
        side, grids = space.shape[-1], space.shape[0] * space.shape[1]
        pointers = (array.ctypes.data for array in self.arrays)
        self.space = _Space(side**2, grids, len(lists), *pointers)


@functools.cache
def library(settings: NetworkSettings) -> ctypes.CDLL:
    """compiled.cpp for this network, compiled once per machine and kept in the user's cache.

    Raises UnavailableError, saying why, if there is no compiler or the network does not fit.
    """
    if any(width % LANES for width in settings.channels):
        raise UnavailableError(f"channels are {list(settings.channels)}, not multiples of {LANES}")
    loaded = declared(native.library(SOURCE, sizes(settings), FLAGS))
    lanes = ctypes.c_int.in_dll(loaded, "lanes").value
    if not compiled_is_faster(lanes, settings.channels):
        raise UnavailableError(
            f"the reference is faster for channels {list(settings.channels)} taken {lanes} at once"
        )
    return loaded


def compiled_is_faster(lanes: int, channels: Sequence[int]) -> bool:
    """Which step is taken: a fixed rule, so that results never depend on a measurement.

    lanes: the channels that compiled.cpp takes at once: 16 with AVX-512, 8 with AVX2, 4 with SSE2
    or NEON, less where fewer divide the channels. With 4 of them large products of matrices may
    be PyTorch's gain, which has wider instructions on some of these processors.
    """
    return lanes >= 8 or max(channels) <= 64


def sizes(settings: NetworkSettings) -> dict[str, str | int]:
    """The macros that compiled.cpp is compiled with."""
    return {
        "CHANNELS": ",".join(map(str, settings.channels)),
        "SIDE": settings.image_size,
        "KERNEL": settings.kernel_size,
        "CLASSES": settings.classes,
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
    loaded.predict.argtypes = (pointer, whole, pointer, pointer)
    loaded.train.restype = loaded.predict.restype = None
    return loaded
