"""The training step compiled for this machine's CPU.

``compiled.cpp`` does what ``step.training_step`` does, in float32, several times faster. Each run
is computed alone, so a run's bits depend neither on its block nor on the number of threads.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from equireg.files import atomic, sha256, write_text
from equireg.training.network import Network
from equireg.training.packed import (
    Lines,
    Packed,
    Sizes,
    UnavailableError,
    pack_weights,
    with_total,
)
from equireg.training.step import Runs

LANES = 16  # channels side by side, as in compiled.cpp
SOURCE = Path(__file__).with_suffix(".cpp")
# Arithmetic may be reordered, but a NaN stays one: a run that diverges must be seen to.
FLAGS = [
    *("-std=c++17", "-O3", "-shared", "-fPIC", "-ffp-contract=fast", "-fno-math-errno"),
    *("-fno-trapping-math", "-fassociative-math", "-freciprocal-math", "-fno-signed-zeros"),
]


class Compiled(Packed):
    """Trains a block of runs with the compiled step; see ``step.Trainer`` for its calls.

    Raises UnavailableError where there is no compiler, or the network or device does not fit.
    """

    def __init__(
        self, network: Network, runs: Runs, images: Tensor, scale: float, threads: int = 1
    ) -> None:
        self.library = library_for(network, images)
        super().__init__(network, runs)
        if widths := [lines.width for lines in self.lines.values() if lines.width % LANES]:
            raise UnavailableError(f"lines are {widths[0]} wide, not a multiple of {LANES}")
        self.images, self.threads, self.scale = images.contiguous(), threads, scale
        self.orbits = [_Orbits(lines) for lines in self.lines.values()]

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        runs, steps, batch = rows.shape
        rows, targets = rows.contiguous(), targets.contiguous()
        gammas, rates = gammas.float().contiguous(), rates.float().contiguous()
        recorded = torch.empty(runs, steps, 1 + len(self.orbits))
        spaces = (_Space * len(self.orbits))(*(orbits.space for orbits in self.orbits))
        state = self.inside, self.outside, self.whole, self.squares
        scale = float(np.float32(self.scale) / np.float32(batch))  # of an image's risk

        def run(i: int) -> None:
            self.library.train(
                *(x.data_ptr() for x in (self.images, rows[i], targets[i])),
                *(steps, batch, spaces),
                *(x[i].data_ptr() for x in state),
                scale,
                *(x[i].data_ptr() for x in (rates, gammas, recorded)),
            )

        with ThreadPoolExecutor(self.threads) as pool:  # a call releases the interpreter's lock
            list(pool.map(run, range(runs)))
        return torch.cat([recorded[..., :1], with_total(recorded[..., 1:])], -1)

    def anew(self, runs: Runs, images: Tensor, scale: float) -> Compiled:
        return Compiled(self.network, runs, images, scale, self.threads)


class CompiledForward:
    """The networks of a block of runs, for evaluation on uint8 images on the CPU.

    weights: (runs, *shape) per parameter. Raises UnavailableError as ``Compiled`` does.
    """

    def __init__(
        self, network: Network, weights: Mapping[str, Tensor], images: Tensor, threads: int = 1
    ) -> None:
        self.library = library_for(network, images)
        self.classes, self.threads = Sizes.of(network).classes, threads
        self.whole = pack_weights(network, weights)

    def __call__(self, images: Tensor) -> Tensor:
        """Every run's logits of images (count, 1, side, side): (runs, count, classes)."""
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
    return library(Sizes.of(network))


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
    if any(width % LANES for width in network.channels):
        raise UnavailableError(f"channels are {list(network.channels)}, not multiples of {LANES}")
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        raise UnavailableError("there is no C++ compiler (c++, g++, clang++, or CXX)")
    sizes = {
        "CHANNELS": ",".join(map(str, network.channels)),
        "SIDE": network.side,
        "KERNEL": network.kernel,
        "CLASSES": network.classes,
    }
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    command = [compiler, *FLAGS, native, *(f"-D{k}={v}" for k, v in sizes.items()), str(SOURCE)]
    try:
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
        key = [SOURCE.read_bytes(), version, " ".join(command[1:-1]).encode(), processor_features()]
        name = f"step-{hashlib.sha256(b'|'.join(key)).hexdigest()[:20]}.so"
        file = cache_folder() / name
        check = file.with_suffix(".sha256")  # a damaged library would end the process
        if not (file.exists() and check.exists() and sha256(file) == check.read_text()):
            with atomic(file) as temporary:
                done = subprocess.run([*command, "-o", str(temporary)], capture_output=True)
                if done.returncode:
                    raise UnavailableError(f"{compiler} failed: {complaint(done.stderr)}")
                write_text(check, sha256(temporary))
        loaded = ctypes.CDLL(str(file))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        raise UnavailableError(str(error)) from error
    pointer, whole, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    spaces = ctypes.POINTER(_Space)
    loaded.train.argtypes = (
        *[pointer] * 3,
        *(whole, whole, spaces),
        *[pointer] * 4,
        real,
        *[pointer] * 3,
    )
    loaded.predict.argtypes = (pointer, whole, pointer, pointer)
    loaded.train.restype = loaded.predict.restype = None
    return loaded


def complaint(output: bytes) -> str:
    """The first line of a compiler's output that says what is wrong."""
    lines = output.decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


def cache_folder() -> Path:
    """Where compiled steps are kept: ``XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "equireg"


def processor_features() -> bytes:
    """What the compiler's native code may use: nodes of one cluster may share a cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
