"""The compiled training step, held to the reference in float64."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from equireg.dataset import load_dataset
from equireg.jobs.fetch import fetch
from equireg.native import UnavailableError
from equireg.settings import DataSettings, Mode, NetworkSettings, TrainingSettings
from equireg.training import compiled
from equireg.training.batches import batches, elements, turned
from equireg.training.compiled import Compiled, CompiledForward
from equireg.training.network import Network
from equireg.training.start import draw_equivariant, perturbation, start
from equireg.training.step import Reference, Runs, Trainer
from equireg.training.trainers import choose

DIGITS = Path(__file__).parent / "data" / "digits"
HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    file = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    fetch(DataSettings(name="digits", folder=str(DIGITS)), file, None)
    dataset = load_dataset(file, 28, 10)
    return dataset.train_images, dataset.train_labels


def block(network: Network, mode: Mode, seeds: list[int], gamma: float, noise: float) -> Runs:
    initial = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in seeds])
        for name, space in network.layers.items()
    }
    draws = [perturbation(network, mode, seed, noise) for seed in seeds]
    moved = {name: torch.stack([draw[name] for draw in draws]) for name in network.layers}
    return start(network, initial, None if mode == "equivariant" else moved, [gamma] * len(seeds))


def images_of_size(images: Tensor, size: int) -> Tensor:
    if size <= 28:
        return images[:, :size, :size].contiguous()
    return torch.nn.functional.pad(images, (0, size - 28) * 2)


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
}


@needs_compiler
@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
@pytest.mark.parametrize("case", CASES)
def test_against_the_reference(case: str, mode: Mode, digits: tuple[Tensor, Tensor]) -> None:
    network = Network(CASES[case])
    images, labels = digits
    images = images_of_size(images, network.settings.image_size)
    table = turned(images, elements(network.group, mode))
    training = TrainingSettings(epochs=1, order="shuffled")
    seeds, rate, scale = [0, 1], 2e-3, 0.5
    exact = block(network, mode, seeds, 0.1, 1e-2)
    fast = Compiled(network, block(network, mode, seeds, 0.1, 1e-2), table, rate, scale)
    slow = Reference(network, exact, table, rate, scale)
    for rows, classes in batches(network.group, mode, seeds, labels, training, 12):
        found, expected = fast.advance(rows, classes), slow.advance(rows, classes)
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
@pytest.mark.parametrize("trained", [False, True])
def test_gradients(trained: bool, digits: tuple[Tensor, Tensor]) -> None:
    """To 1e-5 relative, as the change of the weights in one step of unit size."""
    network = Network(NetworkSettings())
    images, labels = digits
    table = images.flatten(1)
    runs = block(network, "nominal", [0, 1], 0.0, 1e-1)
    if trained:
        reference = Reference(network, runs, table, 0.05, 1.0)
        for rows, classes in batches(
            network.group, "nominal", [0, 1], labels, TrainingSettings(epochs=5), 30
        ):
            reference.advance(rows, classes)
    rows = torch.arange(20).view(2, 1, 10)
    before = runs.weights(network)
    fast = Compiled(network, runs, table, 1e3, 1.0)  # a long step, that rounding does not hide
    slow = Reference(network, runs, table, 1e3, 1.0)
    fast.advance(rows, labels[rows].long())
    slow.advance(rows, labels[rows].long())
    for name, weight in fast.weights().items():
        gradient = slow.weights()[name] - before[name]
        difference = weight - before[name] - gradient
        assert difference.norm() / gradient.norm() < 1e-5


@needs_compiler
def test_bits_depend_neither_on_the_block_nor_on_the_threads(
    digits: tuple[Tensor, Tensor],
) -> None:
    network = Network(NetworkSettings())
    images, labels = digits
    table = turned(images, network.group.elements)
    recorded, final = {}, {}
    for seeds, threads, chunk in (([0, 1, 2], 1, 7), ([0, 1, 2], 3, 30), ([1], 1, 30)):
        runs = block(network, "augmented", seeds, 1e-2, 1e-3)
        step = Compiled(network, runs, table, 1e-2, 0.1, threads=threads)
        chunks = batches(network.group, "augmented", seeds, labels, TrainingSettings(), chunk)
        recorded[len(seeds), threads] = torch.cat([step.advance(*chunk) for chunk in chunks], 1)
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
    network = Network(NetworkSettings())
    images, labels = digits
    table, training = turned(images, network.group.elements), TrainingSettings(epochs=1)

    def trainer() -> Trainer:
        runs = block(network, "augmented", [0, 1], 1e-2, 1e-3).to(torch.float32)
        return kind(network.to(torch.float32), runs, table, 1e-2, 0.1)

    first, second, other = batches(network.group, "augmented", [0, 1], labels, training, 10)
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
def test_what_is_not_a_number_stays_so(digits: tuple[Tensor, Tensor]) -> None:
    network = Network(NetworkSettings())
    images, labels = digits
    for name in network.layers:
        runs = block(network, "nominal", [0], 0.0, 1e-3)
        runs.equivariant[name][0, 0, 0, 0] = float("nan")
        step = Compiled(network, runs, images.flatten(1), 1e-3, 1.0)
        rows = torch.arange(20).view(1, 2, 10)
        assert not step.advance(rows, labels[rows].long())[0, 1, 0].isfinite()


@needs_compiler
def test_tanh_far_out(digits: tuple[Tensor, Tensor]) -> None:
    """Saturated units: large weights, still the reference's loss."""
    network = Network(NetworkSettings())
    images, labels = digits
    runs = block(network, "nominal", [0], 0.0, 10.0)
    rows = torch.arange(10).view(1, 1, 10)
    arguments = network, runs, images.flatten(1), 1e-9, 1.0
    found = Compiled(*arguments).advance(rows, labels[rows].long())
    expected = Reference(*arguments).advance(rows, labels[rows].long())
    assert worst(found.double(), expected) < 1e-4


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_forward_against_the_reference(case: str, digits: tuple[Tensor, Tensor]) -> None:
    network = Network(CASES[case])
    images = images_of_size(digits[0], network.settings.image_size)[:50]
    weights = block(network, "nominal", [0, 1], 0.0, 0.1).weights(network)
    expected = network.forward(weights, (images.double() / 255).expand(2, -1, -1, -1))
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
    with pytest.raises(UnavailableError, match=r"channels are \[4\], not multiples of 16"):
        compiled.library(NetworkSettings(channels=(4,)))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UnavailableError, match=r"no C\+\+ compiler"):
        compiled.library(NetworkSettings())


@needs_compiler
def test_a_damaged_library_is_compiled_anew(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    settings = NetworkSettings(channels=(16,), image_size=4)
    compiled.library.cache_clear()
    compiled.library(settings)
    (library,) = (tmp_path / "equireg").glob("*.so")
    whole = library.read_bytes()
    library.unlink()  # not written over: it is mapped into this process
    library.write_bytes(whole[: len(whole) // 2])
    compiled.library.cache_clear()
    compiled.library(settings)
    assert library.read_bytes()[: len(whole) // 2] == whole[: len(whole) // 2]
    assert library.stat().st_size == len(whole)


@needs_compiler
def test_large_images_do_not_overflow_the_stack() -> None:
    network = Network(NetworkSettings(channels=(128, 16), image_size=256, classes=2))
    runs = block(network, "nominal", [0], 0.0, 1e-3)
    step = Compiled(network, runs, torch.zeros(1, 256**2, dtype=torch.uint8), 1e-3, 1.0)
    zero = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert step.advance(zero, zero).isfinite().all()


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiled.library.cache_clear()
    broken = tmp_path / "c++"
    complaints = "echo note: x >&2\necho error: no space left >&2\n"
    broken.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit 0\n{complaints}exit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(UnavailableError, match="failed: error: no space left"):
        compiled.library(NetworkSettings())
    assert list((tmp_path / "cache" / "equireg").iterdir()) == []
    compiled.library.cache_clear()
