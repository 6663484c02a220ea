"""The compiled training step, held to the reference in float64."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cases import images as random_images
from cases import runs_of, steady
from equireg import native
from equireg.dataset import load_dataset
from equireg.jobs.fetch import fetch
from equireg.native import UnavailableError
from equireg.settings import DataSettings, JobSettings, Mode, NetworkSettings, TrainingSettings
from equireg.symmetry.groups import point_group
from equireg.symmetry.representations import regular, trivial
from equireg.training import compiled
from equireg.training.batches import batches, elements, turned
from equireg.training.compiled import Compiled, CompiledForward, compiled_is_faster
from equireg.training.layers import Layer, Linear, PooledConvolution
from equireg.training.network import Network
from equireg.training.packed import Lines, Sizes
from equireg.training.step import Reference, Runs, Trainer
from equireg.training.trainers import choose, choose_trainer

DIGITS = Path(__file__).parent / "data" / "digits"
HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    file = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    fetch(DataSettings(name="digits", folder=str(DIGITS)), file, None)
    dataset = load_dataset(file, NetworkSettings())
    return dataset.train_images, dataset.train_labels


def images_of_size(images: Tensor, size: int) -> Tensor:
    if size <= 28:
        return images[..., :size, :size].contiguous()
    return torch.nn.functional.pad(images, (0, size - 28) * 2)


def given(
    rows: Tensor, labels: Tensor, gammas: Sequence[float], rate: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What ``Trainer.advance`` takes: rows, their classes, a gamma per run and one rate."""
    return rows, labels[rows].long(), *steady(rows, gammas, rate)


def worst(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs().clamp(min=1e-12)).max())


CASES = {
    "paper": NetworkSettings(),
    "mirrored": NetworkSettings(group="D4"),
    "trivial group": NetworkSettings(group="C1"),
    "cross": NetworkSettings(support="cross"),
    "lopsided": NetworkSettings(support="lopsided", allow_incompatible_support=True),
    "wide filter": NetworkSettings(kernel_size=5),
    "pixel filter": NetworkSettings(kernel_size=1),
    "one layer": NetworkSettings(channels=(32,)),
    "three layers": NetworkSettings(channels=(16, 32, 48), image_size=32),
    "odd sizes": NetworkSettings(channels=(16, 16), image_size=20, classes=11),
    "few channels": NetworkSettings(channels=(4, 8)),
    "uneven channels": NetworkSettings(channels=(12, 20), image_size=16, classes=12),
    "fields": NetworkSettings(representation="regular"),
    "mirrored fields": NetworkSettings(
        group="D4", representation="regular", channels=(8, 24), image_size=16
    ),
    "lopsided fields": NetworkSettings(
        representation="regular", support="lopsided", allow_incompatible_support=True
    ),
    "wide fields": NetworkSettings(representation="regular", channels=(32, 32)),
}


@needs_compiler
@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
@pytest.mark.parametrize("case", CASES)
def test_against_the_reference(case: str, mode: Mode, digits: tuple[Tensor, Tensor]) -> None:
    settings = CASES[case]
    network = Network.of(settings)
    images, labels = digits
    images = images_of_size(images, settings.image_size)
    table = turned(images, elements(network.group, mode))
    training = TrainingSettings(epochs=1, order="shuffled")
    seeds, rate, scale = [0, 1], 2e-3, 0.5
    gammas = [math.inf if mode == "equivariant" else 0.1] * len(seeds)
    fast = Compiled(network, runs_of(network, mode, seeds, 1e-2), table, scale)
    slow = Reference(network, runs_of(network, mode, seeds, 1e-2), table, scale)
    for rows, classes in batches(network.group, mode, seeds, labels, training, 12):
        chunk = rows, classes, *steady(rows, gammas, rate)
        found, expected = fast.advance(*chunk), slow.advance(*chunk)
        if mode == "equivariant":
            assert (found[..., 1:] == 0).all()
            found, expected = found[..., :1], expected[..., :1]
        found = found[..., ~(expected == 0).all(0).all(0)]  # a layer without a complement
        expected = expected[..., ~(expected == 0).all(0).all(0)]
        assert worst(found.double(), expected) < 1e-4
    final = slow.weights()
    for name, weight in fast.weights().items():
        assert (weight - final[name]).norm() / final[name].norm() < 1e-4


@needs_compiler
def test_every_run_has_images_of_its_own(digits: tuple[Tensor, Tensor]) -> None:
    """Rows that differ between the runs of a block, as with ``data.train_images``."""
    images, labels = digits
    network = Network.of(CASES["paper"])
    seeds, training = [0, 1], TrainingSettings(epochs=2)
    fast, slow = (
        kind(network, runs_of(network, "nominal", seeds, 1e-2), images, 0.5)
        for kind in (Compiled, Reference)
    )
    for rows, classes in batches(network.group, "nominal", seeds, labels, training, 9, subset=20):
        assert not torch.equal(*rows)
        chunk = rows, classes, *steady(rows, [0.1, 0.1], 2e-3)
        assert worst(fast.advance(*chunk).double(), slow.advance(*chunk)) < 1e-4


@needs_compiler
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("case", ["paper", "fields"])
def test_gradients(case: str, trained: bool, digits: tuple[Tensor, Tensor]) -> None:
    """To 1e-5 relative, as the change of the weights in one step of unit size."""
    network = Network.of(CASES[case])
    images, labels = digits
    runs = runs_of(network, "nominal", [0, 1], 1e-1)
    if trained:
        reference, training = Reference(network, runs, images, 1.0), TrainingSettings(epochs=5)
        for rows, classes in batches(network.group, "nominal", [0, 1], labels, training, 30):
            reference.advance(rows, classes, *steady(rows, [0.0] * 2, 0.05))
    hold_gradients(network, runs, images, labels)


def hold_gradients(network: Network, runs: Runs, table: Tensor, labels: Tensor) -> None:
    rows = torch.arange(20).view(2, 1, 10)
    before = runs.weights(network.spaces)
    fast, slow = Compiled(network, runs, table, 1.0), Reference(network, runs, table, 1.0)
    chunk = given(rows, labels, [0.0] * 2, 1e3)  # a long step, that rounding does not hide
    fast.advance(*chunk)
    slow.advance(*chunk)
    for name, weight in fast.weights().items():
        gradient = slow.weights()[name] - before[name]
        difference = weight - before[name] - gradient
        assert difference.norm() / gradient.norm() < 1e-5


X86 = platform.machine() in ("x86_64", "AMD64")
WIDTHS = {  # what the compiler is told, and what the processor must have to run it
    "SSE2": ((), ("-march=x86-64",), "sse2"),
    "AVX2": ((), ("-march=x86-64-v3",), "avx2"),
    "AVX-512": ((), ("-march=x86-64-v4",), "avx512f"),
    "4 of 8 lanes": ((("LANES", 4),), ("-march=x86-64-v3",), "avx2"),
    "16 lanes in pairs": ((("LANES", 16), ("REGISTERS", 32)), ("-march=x86-64-v3",), "avx2"),
}
WIDE = {
    "paper": NetworkSettings(channels=(16, 16)),
    "wide": NetworkSettings(channels=(32, 48)),
    "fields": NetworkSettings(channels=(16, 16), representation="regular"),
}


@needs_compiler
@pytest.mark.skipif(not X86, reason="needs an x86-64 processor")
@pytest.mark.parametrize("shape", WIDE)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width(
    width: str, shape: str, digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients to 1e-5 with each set of instructions that this processor has."""
    defines, flags, feature = WIDTHS[width]
    network = Network.of(WIDE[shape])
    macros = {**compiled.macros(Sizes.of(network)), **dict(defines)}
    try:
        loaded = native.library(compiled.SOURCE, macros, (*compiled.FLAGS, *flags))
    except UnavailableError as error:
        if f"bad value ({flags[0].removeprefix('-march=')})" in str(error):
            pytest.skip(f"needs a compiler that knows {flags[0]}")
        raise
    if feature.encode() not in native.processor_features().split():
        pytest.skip(f"compiled, not run: needs a processor with {feature}")
    monkeypatch.setattr(compiled, "library", lambda sizes: compiled.declared(loaded))
    images, labels = digits
    runs = runs_of(network, "nominal", [0, 1], 1e-1)
    hold_gradients(network, runs, images, labels)


@needs_compiler
@pytest.mark.parametrize("case", ["paper", "fields"])
def test_bits_depend_neither_on_the_block_nor_on_the_threads(
    case: str, digits: tuple[Tensor, Tensor]
) -> None:
    network = Network.of(CASES[case])
    images, labels = digits
    table = turned(images, network.group.elements)
    recorded, final = {}, {}
    for seeds, threads, chunk in (([0, 1, 2], 1, 7), ([0, 1, 2], 3, 30), ([1], 1, 30)):
        runs = runs_of(network, "augmented", seeds, 1e-3)
        step = Compiled(network, runs, table, 0.1, threads=threads)
        chunks = batches(network.group, "augmented", seeds, labels, TrainingSettings(), chunk)
        parts = [
            step.advance(rows, classes, *steady(rows, [1e-2] * len(seeds), 1e-2))
            for rows, classes in chunks
        ]
        recorded[len(seeds), threads] = torch.cat(parts, 1)
        final[len(seeds), threads] = {**step.weights(), "distances": step.distances()}
    assert torch.equal(recorded[3, 1], recorded[3, 3])
    assert torch.equal(recorded[3, 1][1:2], recorded[1, 1])
    for name, tensor in final[1, 1].items():
        assert torch.equal(tensor, final[3, 1][name][1:2])
        assert torch.equal(tensor, final[3, 3][name][1:2])


@pytest.mark.parametrize("kind", [pytest.param(Compiled, marks=needs_compiler), Reference])
def test_a_restored_state_goes_on_to_the_bit(
    kind: type[Compiled | Reference], digits: tuple[Tensor, Tensor]
) -> None:
    network = Network.of(NetworkSettings())
    images, labels = digits
    table, training = turned(images, network.group.elements), TrainingSettings(epochs=1)

    def trainer() -> Trainer:
        runs = runs_of(network, "augmented", [0, 1], 1e-3).to(torch.float32)
        return kind(network, runs, table, 0.1)

    first, second, other = (
        (rows, classes, *steady(rows, [1e-2] * 2, 1e-2))
        for rows, classes in batches(network.group, "augmented", [0, 1], labels, training, 10)
    )
    whole = trainer()
    whole.advance(*first)
    state = {name: held.clone() for name, held in whole.state().items()}
    assert all(len(held) == 2 for held in state.values())
    expected, weights = whole.advance(*second), whole.weights()
    resumed = trainer()
    resumed.advance(*other)
    resumed.restore(state)
    assert torch.equal(resumed.advance(*second), expected)
    assert torch.equal(resumed.distances(), whole.distances())
    for name, weight in resumed.weights().items():
        assert torch.equal(weight, weights[name])


@needs_compiler
def test_two_networks_in_one_process(digits: tuple[Tensor, Tensor]) -> None:
    """Their steps take turns: constants of one must not be those of the other."""
    images, labels = digits
    pairs = []
    for case in ("paper", "odd sizes", "wide filter", "fields"):
        network = Network.of(CASES[case])
        table = images_of_size(images, CASES[case].image_size)
        runs = [runs_of(network, "nominal", [0], 1e-2) for _ in range(2)]
        pairs.append(
            (Compiled(network, runs[0], table, 0.5), Reference(network, runs[1], table, 0.5))
        )
    for k in range(3):
        chunk = given(torch.arange(20 * k, 20 * (k + 1)).view(1, 2, 10), labels, [0.1], 2e-3)
        for fast, slow in pairs:
            assert worst(fast.advance(*chunk).double(), slow.advance(*chunk)) < 1e-4


@needs_compiler
@pytest.mark.parametrize("case", ["paper", "lopsided", "fields", "lopsided fields"])
def test_a_rate_and_a_gamma_per_step(case: str, digits: tuple[Tensor, Tensor]) -> None:
    """As the reference in float64 with another rate and gamma at every step; inf: in E."""
    network = Network.of(CASES[case])
    images, labels = digits
    rows = torch.arange(80).view(1, 8, 10)
    rates = torch.tensor([[1e-2, 2e-2, 0.0, 5e-3, 1e-2, 1e-2, 3e-2, 1e-2]])
    gammas = torch.tensor([[0.0, 1e-1, 1.0, 10.0, math.inf, 1e-1, 0.0, 2.0]])
    fast = Compiled(network, runs_of(network, "nominal", [0], 1e-2), images, 0.5)
    slow = Reference(network, runs_of(network, "nominal", [0], 1e-2), images, 0.5)
    chunk = rows, labels[rows].long(), gammas, rates
    found, expected = fast.advance(*chunk).double(), slow.advance(*chunk)
    assert worst(found[..., :1], expected[..., :1]) < 1e-4
    assert torch.allclose(found[..., 2:].square(), expected[..., 2:].square(), rtol=1e-4)
    assert (expected[0, :5, 1:] > 0).all()
    assert (found[0, 5, 1:] == 0).all()  # by the step before, whose gradient was taken before
    assert (expected[0, 5, 1:] == 0).all()
    final = slow.weights()
    for name, weight in fast.weights().items():
        assert (weight - final[name]).norm() / final[name].norm() < 1e-4


@needs_compiler
@pytest.mark.parametrize("case", ["paper", "fields", "mirrored fields"])
def test_in_e(case: str, digits: tuple[Tensor, Tensor]) -> None:
    """An infinite gamma sets the part outside E to 0 at once, and the part in E goes on."""
    settings = CASES[case]
    network = Network.of(settings)
    images, labels = digits
    table = images_of_size(images, settings.image_size)
    runs = runs_of(network, "nominal", [0], 1e-2)
    step = Compiled(network, runs, table, 0.5)
    chunk = given(torch.arange(30).view(1, 3, 10), labels, [math.inf], 1e-2)
    step.advance(*chunk)
    assert (step.outside == 0).all()
    assert (step.squares == 0).all()
    inside = step.inside.clone()
    for name, weight in step.weights().items():
        for element in range(network.group.order):
            assert torch.equal(weight, network.spaces[name].act(element, weight))
        if settings.representation == "trivial":
            assert torch.equal(weight, weight.rot90(1, (-2, -1)))
    step.advance(*chunk)
    assert not torch.equal(step.inside, inside)


def shorter(lines: Lines, width: int) -> Lines:
    """The same layer in lines of ``width``, whose orbits are more; where it divides the lines."""
    if lines.width % width:
        return lines
    parts = lines.width // width
    orbits = [orbit * parts + part for orbit in lines.orbits for part in range(parts)]
    return dataclasses.replace(
        lines, count=lines.count * parts, width=width, orbits=orbits, inside=lines.inside * parts
    )


@needs_compiler
@pytest.mark.parametrize(
    ("width", "settings"),
    [
        *((width, NetworkSettings(channels=(16, 20))) for width in (1, 4, 10, 16)),
        *(
            (width, NetworkSettings(channels=(16, 20), representation="regular"))
            for width in (1, 4, 5)
        ),
    ],
)
def test_lines_of_any_width(
    width: int, settings: NetworkSettings, digits: tuple[Tensor, Tensor]
) -> None:
    """The same layers in shorter lines, whose orbits are more: the same weights, to the bit."""
    network = Network.of(settings)
    images, labels = digits
    rows = torch.arange(30).view(1, 3, 10)
    gammas, rates = torch.tensor([[0.1, 1.0, 0.0]]), torch.tensor([[1e-1, 1e-2, 1e-1]])
    whole, cut = (
        Compiled(network, runs_of(network, "nominal", [0], 1e-2), images, 0.5) for _ in range(2)
    )
    lines = [shorter(own, width) for own in cut.lines.values()]
    assert any(own.width == width for own in lines)
    cut.orbits = [compiled._Orbits(own) for own in lines]
    for step in (whole, cut):
        step.advance(rows, labels[rows].long(), gammas, rates)
    assert torch.equal(whole.whole, cut.whole)
    assert torch.allclose(whole.squares, cut.squares, rtol=1e-5)


@needs_compiler
def test_patches_of_zeros(digits: tuple[Tensor, Tensor]) -> None:
    """They are left out of the first convolution: black images, single pixels, and digits."""
    network = Network.of(NetworkSettings())
    images, labels = digits[0][:20].clone(), digits[1][:20]
    images[0] = 0
    images[2:12] = 0
    for n, (y, x) in enumerate([(0, 0), (0, 27), (27, 0), (27, 27), (13, 13), (14, 0), (27, 14)]):
        images[2 + n, :, y, x] = 255
    runs = runs_of(network, "nominal", [0, 1], 1e-2)
    hold_gradients(network, runs, images, labels)


AARCH64 = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, AARCH64)), reason=f"needs {' and '.join(AARCH64)}")
@pytest.mark.parametrize("case", ["paper", "fields"])
def test_neon(case: str, digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Compiled for 64-bit ARM and run under emulation: the gradients of this processor's step."""
    network = Network.of(CASES[case])
    images, labels = digits[0][:20].contiguous(), digits[1]
    rows = torch.arange(20).view(1, 2, 10)
    step = Compiled(network, runs_of(network, "nominal", [0], 1e-1), images, 0.5)
    orbits, before = step.orbits, step.whole.clone()
    text = [f"{o.space.lines} {o.space.width} {o.space.orbits} {len(o.arrays[0])}" for o in orbits]
    tables = [" ".join(map(str, array.astype(int))) for o in orbits for array in o.arrays]
    numbers = [*rows.flatten().tolist(), *labels[rows].flatten().tolist()]
    held = list(step._held().values())
    (tmp_path / "input").write_text(
        "\n".join(
            [
                f"{len(images)} {images[0].numel()} {len(orbits)} {rows.shape[1]} {rows.shape[2]}",
                *text,
                *tables,
                " ".join(map(str, numbers)),
                " ".join(str(x.numel()) for x in held),
            ]
        )
    )
    with open(tmp_path / "data", "wb") as file:
        file.write(images.numpy().tobytes())
        for x in held:
            file.write(x.numpy().tobytes())
    program, driver = tmp_path / "train", Path(__file__).with_name("train_once.cpp")
    macros = [f"-D{name}={value}" for name, value in compiled.macros(Sizes.of(network)).items()]
    command = [AARCH64[0], "-std=c++17", "-O3", "-static", *compiled.FLAGS, *macros]
    subprocess.run([*command, str(compiled.SOURCE), str(driver), "-o", str(program)], check=True)
    done = subprocess.run(
        [AARCH64[1], str(program), str(tmp_path / "input"), str(tmp_path / "data")],
        check=True,
        capture_output=True,
    )
    gammas, rates = torch.tensor([[0.0, 0.1]]), torch.tensor([[1e3, 1e-3]])
    recorded = step.advance(rows, labels[rows].long(), gammas, rates)
    expected = torch.cat([recorded[..., :1], recorded[..., 2:].square()], -1)
    found = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32)
    weights, losses = found.split([before.numel(), expected.numel()])
    change = step.whole[0] - before[0]
    assert (weights - step.whole[0]).norm() / change.norm() < 1e-5
    assert worst(losses, expected.flatten()) < 1e-4


@needs_compiler
@pytest.mark.parametrize("case", ["paper", "fields"])
def test_what_is_not_a_number_stays_so(case: str, digits: tuple[Tensor, Tensor]) -> None:
    network = Network.of(CASES[case])
    images, labels = digits
    chunk = given(torch.arange(20).view(1, 2, 10), labels, [0.0], 1e-3)
    for name in network.spaces:
        runs = runs_of(network, "nominal", [0], 1e-3)
        runs.equivariant[name][0, 0] = float("nan")
        step = Compiled(network, runs, images, 1.0)
        assert not step.advance(*chunk)[0, 1, 0].isfinite()


@needs_compiler
def test_tanh_far_out(digits: tuple[Tensor, Tensor]) -> None:
    """Saturated units: large weights, still the reference's loss."""
    network = Network.of(NetworkSettings())
    images, labels = digits
    runs = runs_of(network, "nominal", [0], 10.0)
    arguments = network, runs, images, 1.0
    chunk = given(torch.arange(10).view(1, 1, 10), labels, [0.0], 1e-9)
    found = Compiled(*arguments).advance(*chunk)
    expected = Reference(*arguments).advance(*chunk)
    assert worst(found.double(), expected) < 1e-4


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_forward_against_the_reference(case: str, digits: tuple[Tensor, Tensor]) -> None:
    network = Network.of(CASES[case])
    images = images_of_size(digits[0], CASES[case].image_size)[:50]
    weights = runs_of(network, "nominal", [0, 1], 0.1).weights(network.spaces)
    expected = network.forward(weights, (images.double() / 255).expand(2, -1, -1, -1, -1))
    found = CompiledForward(network, weights, images, threads=2)(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_what_is_chosen_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    def impossible() -> str:
        raise UnavailableError("the moon is full")

    assert choose("auto", lambda: "fast", lambda: "plain") == "fast"
    assert choose("reference", lambda: "fast", lambda: "plain") == "plain"
    assert choose("auto", impossible, lambda: "plain") == "plain"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "step: compiled for this machine"
    assert said[1] == "step: the reference; as asked"
    assert said[2].endswith("as the moon is full")
    with pytest.raises(ValueError, match="step is 'compiled', but the moon is full; accepted"):
        choose("compiled", impossible, lambda: "plain")


def test_reasons_not_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.library.cache_clear()
    with pytest.raises(UnavailableError, match=r"channels are \[6\], not multiples of 4"):
        compiled.library(sizes_of(channels=(6,)))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UnavailableError, match=r"no C\+\+ compiler"):
        compiled.library(sizes_of())


def sizes_of(**values: Any) -> Sizes:
    return Sizes.of(Network.of(NetworkSettings(**values)))


class Stranger(PooledConvolution):
    """A layer that kernels do not know."""

    def packing(self) -> None:  # type: ignore[override]
        return None


C4 = point_group("C4")
ONE, FOUR, EIGHT, CLASSES = (trivial(C4, size) for size in (1, 4, 8, 5))
FIELDS = 2 * regular(C4)
MIXED = 4 * ONE + 2 * regular(C4)  # channels of two kinds: E falls into blocks of different orbits
REFUSED: dict[str, tuple[list[Layer], str]] = {
    "colour": (
        [PooledConvolution("conv", trivial(C4, 3), FOUR, 3), Linear("linear", FOUR, CLASSES, 4)],
        "images have 3 channels, not 1",
    ),
    "strange layer": (
        [Stranger("odd", ONE, FOUR, 3), Linear("linear", FOUR, CLASSES, 4)],
        "odd is a layer that it does not know",
    ),
    "linear alone": (
        [Linear("linear", ONE, CLASSES, 8)],
        "the layers are linear, not pooled convolutions and a linear one",
    ),
    "no linear layer": (
        [PooledConvolution("conv", ONE, FOUR, 3)],
        "the layers are pooled convolution, not pooled convolutions and a linear one",
    ),
    "filters of two sides": (
        [
            PooledConvolution("conv1", ONE, FOUR, 3),
            PooledConvolution("conv2", FOUR, FOUR, 5),
            Linear("linear", FOUR, CLASSES, 2),
        ],
        "filters have sides [3, 5]",
    ),
    "channels that do not follow": (
        [PooledConvolution("conv", ONE, FOUR, 3), Linear("linear", EIGHT, CLASSES, 4)],
        "the channels of its layers do not follow on each other",
    ),
    "channels that are sorted otherwise": (
        [PooledConvolution("conv", ONE, FIELDS, 3), Linear("linear", EIGHT, CLASSES, 4)],
        "the channels of its layers do not follow on each other",
    ),
    "outputs in fields": (
        [PooledConvolution("conv", ONE, FOUR, 3), Linear("linear", FOUR, FIELDS, 4)],
        "its outputs are fields of several numbers",
    ),
    "channels of two kinds": (
        [PooledConvolution("conv", ONE, MIXED, 3), Linear("linear", MIXED, CLASSES, 4)],
        "E is not spanned by orbits of the weights",
    ),
}


@needs_compiler
@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_it_does_not_take(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused with the reason, which the log says, and the reference trains them."""
    layers, reason = REFUSED[case]
    network, exactly = Network(C4, layers), f"^{re.escape(reason)}$"
    inside, outside = (
        {name: torch.zeros(1, space.dims[i]) for name, space in network.spaces.items()}
        for i in (0, 1)
    )
    runs = Runs(inside, outside)
    pixels = random_images(20, 8, 3 if case == "colour" else 1)
    with pytest.raises(UnavailableError, match=exactly):
        Compiled(network, runs, pixels, 1.0)
    with pytest.raises(UnavailableError, match=exactly):
        CompiledForward(network, runs.weights(network.spaces), pixels)
    trainer = choose_trainer(network, runs, pixels, 1.0, JobSettings())
    assert isinstance(trainer, Reference)
    said = capsys.readouterr().err.strip()
    assert said == f"step: the reference; the compiled one cannot be taken, as {reason}"


def test_images_that_it_cannot_read() -> None:
    network = Network.of(NetworkSettings())
    with pytest.raises(UnavailableError, match="it runs on CPUs, not on meta"):
        Compiled(network, runs_of(network, "nominal", [0]), random_images(20, 28).to("meta"), 1.0)


@needs_compiler
@pytest.mark.parametrize(
    ("pixels", "what"),
    [
        (random_images(20, 12), r"images are \(1, 12, 12\) of torch.uint8, not \(1, 8, 8\)"),
        (random_images(20, 8).float(), r"images are \(1, 8, 8\) of torch.float32, not"),
    ],
)
def test_images_that_it_would_read_as_others(pixels: Tensor, what: str) -> None:
    """Pointers know neither shapes nor types: a wrong loss, or the end of the process."""
    network = Network.of(NetworkSettings(image_size=8, channels=(4,), classes=5))
    runs = runs_of(network, "nominal", [0])
    with pytest.raises(UnavailableError, match=what):
        Compiled(network, runs, pixels, 1.0)
    forward = CompiledForward(network, runs.weights(network.spaces), random_images(20, 8))
    with pytest.raises(UnavailableError, match=what):
        forward(pixels)
    rows = torch.arange(10, dtype=torch.int32).view(1, 1, 10)
    found, expected = (
        Compiled(network, runs, random_images(20, 8), 1.0).advance(
            some, some % 5, *steady(some, [0.0], 0.1)
        )
        for some in (rows, rows.long())
    )
    assert torch.equal(found, expected)


@needs_compiler
def test_large_images_do_not_overflow_the_stack() -> None:
    network = Network.of(NetworkSettings(channels=(128, 16), image_size=256, classes=2))
    runs = runs_of(network, "nominal", [0], 1e-3)
    step = Compiled(network, runs, torch.zeros(1, 1, 256, 256, dtype=torch.uint8), 1.0)
    zero = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert step.advance(zero, zero, *steady(zero, [0.0], 1e-3)).isfinite().all()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("channels", [(16, 16), (12, 12), (64, 64)])
def test_the_slower_step_is_not_taken(channels: tuple[int, int]) -> None:
    """The rule against the clock: what it leaves must not be faster by a third."""
    network = Network.of(NetworkSettings(channels=channels))
    pixels = random_images(100, 28)
    runs = [runs_of(network, "nominal", range(4), 1e-3).to(torch.float32) for _ in range(2)]
    rows = torch.randint(100, (4, 10, 10))
    chunk = rows, rows % 10, *steady(rows, [1e-2] * 4, 1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps: tuple[Trainer, Trainer] = (
        Compiled(network, runs[0], pixels, 0.1),
        Reference(network, runs[1], pixels, 0.1),
    )
    best = [math.inf, math.inf]
    for _ in range(6):  # they take turns; the least is the least disturbed
        for i, step in enumerate(steps):
            began = time.perf_counter()
            step.advance(*chunk)
            best[i] = min(best[i], time.perf_counter() - began)
    torch.set_num_threads(threads)
    lanes = ctypes.c_int.in_dll(compiled.library(Sizes.of(network)), "lanes").value
    taken, left = best if compiled_is_faster(lanes, channels) else reversed(best)
    assert taken < left * 4 / 3


def test_where_the_compiled_step_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(compiled_is_faster(lanes, (16, 64)) for lanes in (4, 8, 16))
    assert [compiled_is_faster(lanes, (16, 68)) for lanes in (4, 8, 16)] == [False, True, True]
    monkeypatch.setattr(compiled, "compiled_is_faster", lambda lanes, channels: False)
    if HAS_COMPILER:
        compiled.library.cache_clear()
        with pytest.raises(
            UnavailableError, match=r"the reference is faster for channels \[16, 16\]"
        ):
            compiled.library(sizes_of())
