"""The fused step, held to the reference in float64.

On a machine with a GPU the kernel runs there; else Triton's interpreter runs it on the CPU.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cases import initial, runs_of, steady
from equireg.dataset import load_dataset
from equireg.jobs.fetch import fetch
from equireg.native import UnavailableError
from equireg.settings import DataSettings, JobSettings, Mode, NetworkSettings, TrainingSettings
from equireg.symmetry.representations import regular, trivial
from equireg.training import fused as module
from equireg.training.batches import batches, elements, turned
from equireg.training.blocks import Blocks
from equireg.training.fused import Fused, fused
from equireg.training.layers import Layer, Linear, PooledConvolution
from equireg.training.network import Network
from equireg.training.step import Reference, Runs
from equireg.training.trainers import choose

pytest.importorskip("triton", reason="needs Triton, which is made for Linux")
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")


def network_of(
    group: str, side: int, classes: int, channels: tuple[int, ...], **more: Any
) -> NetworkSettings:
    sizes: dict[str, Any] = {"image_size": side, "classes": classes, "channels": channels}
    return NetworkSettings(group, **sizes, **more)


# Of what is left of the image, 3x3 pixels: fewer make layers without a gradient.
SMALL = network_of("C4", 12, 4, (3, 2))
CASES = {
    "small": SMALL,
    "mirrored": network_of("D4", 12, 4, (3, 2)),
    "trivial group": network_of("C1", 6, 4, (2,)),
    "cross": network_of("C4", 12, 3, (2, 2), support="cross"),
    "lopsided": network_of(
        "C4", 12, 3, (2, 2), support="lopsided", allow_incompatible_support=True
    ),
    "wide filter": network_of("D2", 12, 3, (2, 3), kernel_size=5),
    "pixel filter": network_of("C2", 12, 3, (2, 3), kernel_size=1),
    "three layers": network_of("C4", 24, 2, (2, 1, 2)),
    "wide layers": network_of("C4", 12, 17, (18, 17)),
    "fields": network_of("C4", 12, 5, (4, 8), representation="regular"),
    "mirrored fields": network_of("D4", 12, 3, (8, 8), representation="regular"),
    "lopsided fields": network_of(
        "C4",
        12,
        3,
        (4, 4),
        representation="regular",
        support="lopsided",
        allow_incompatible_support=True,
    ),
}


def digits(settings: NetworkSettings, count: int = 20) -> Tensor:
    """Random images: those on which the bounds on rounding below were found."""
    shape = count, settings.image_channels, settings.image_size, settings.image_size
    pixels = np.random.default_rng(0).integers(256, size=shape)
    return torch.from_numpy(pixels.astype(np.uint8))


class Pair:
    """The fused step on the device and the reference in float64, from the same start.

    A gamma per run, which the equivariant mode has none of, and one rate, unless ``advance`` is
    given others.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        mode: Mode,
        rate: float,
        scale: float,
        gammas: list[float],
        noise: float = 0.1,
    ) -> None:
        network = Network.of(settings)
        pixels = digits(settings)
        self.rate = rate
        self.gammas = [math.inf] * len(gammas) if mode == "equivariant" else gammas
        self.table = turned(pixels, elements(network.group, mode))
        runs = runs_of(network, mode, range(len(gammas)), noise)
        held = runs.to(DEVICE, torch.float32)
        self.before = runs.weights(network.spaces)
        self.fast = Fused(network, held, self.table.to(DEVICE), scale)
        self.slow = Reference(network, runs, self.table, scale)
        self.plain = Reference(network, held, self.table.to(DEVICE), scale)

    def steady(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """What ``Trainer.advance`` takes."""
        return rows, labels, *steady(rows, self.gammas, self.rate)

    def advance(self, *given: Tensor) -> tuple[Tensor, Tensor]:
        """What the fused step and the reference record; given: rows, labels, or penalties too."""
        if len(given) == 2:
            given = self.steady(*given)
        found = self.fast.advance(*on_device(*given))
        return found.cpu().double(), self.slow.advance(*given)

    def error_of_change(self, name: str, trainer: Fused | Reference | None = None) -> float:
        after = (trainer or self.fast).weights()[name].cpu()
        change = self.slow.weights()[name] - self.before[name]
        return float((after - self.before[name] - change).norm() / change.norm())


def on_device(*given: Tensor) -> list[Tensor]:
    return [x.to(DEVICE) for x in given]


def draw(runs: int, steps: int, batch: int, rows: int, classes: int) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(1)
    row = torch.from_numpy(random.integers(rows, size=(runs, steps, batch)))
    return row, row % classes


@pytest.mark.parametrize("case", CASES)
def test_gradients(case: str) -> None:
    """As the change of the weights in one long step, with images left over.

    To 1e-5 relative, or to four times the error of the reference in float32 where that is more.
    """
    settings = CASES[case]
    pair = Pair(settings, "augmented", 1e3, 1.0, [0.0])
    rows, labels = draw(1, 1, 9, len(pair.table), settings.classes)
    found, expected = pair.advance(rows, labels)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-7)
    pair.plain.advance(*on_device(*pair.steady(rows, labels)))
    for name in pair.before:
        plain = pair.error_of_change(name, pair.plain)
        assert pair.error_of_change(name) < max(1e-5, 4 * plain)


def check_trajectories(pair: Pair, *given: Tensor) -> Tensor:
    """Hold the fused step to the reference along a few steps; return what it recorded."""
    found, expected = pair.advance(*given)
    assert torch.equal(found == 0, expected == 0)
    assert torch.allclose(found, expected, rtol=1e-5, atol=0)
    distances = pair.fast.distances().cpu().double()
    assert torch.allclose(distances, pair.slow.distances(), rtol=1e-5, atol=0)
    for name in pair.before:
        assert pair.error_of_change(name) < 1e-4
    return found


@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
@pytest.mark.parametrize("case", ["small", "fields"])
def test_trajectories(case: str, mode: Mode) -> None:
    """Two runs with penalties of their own, a few steps."""
    settings = CASES[case]
    pair = Pair(settings, mode, 0.1, 0.5, [0.1, 1.0])
    check_trajectories(pair, *draw(2, 3, 3, len(pair.table), settings.classes))


@pytest.mark.parametrize("case", ["small", "fields"])
def test_penalties_and_rates_of_each_step(case: str) -> None:
    """One run falls onto E at its second step and leaves it after the third, by the gradient."""
    settings = CASES[case]
    pair = Pair(settings, "nominal", 0.1, 0.5, [0.0, 0.0])
    given = draw(2, 5, 3, len(pair.table), settings.classes)
    gammas = torch.tensor([[0.1, math.inf, math.inf, 0.0, 2.0], [0.0, 3.0, 1.0, 0.5, 0.1]])
    rates = torch.tensor([[0.01, 0.02, 0.05, 0.01, 0.03], [0.03, 0.0, 0.01, 0.02, 0.01]])
    distances = check_trajectories(pair, *given, gammas, rates)[..., 1]
    assert (distances[0] > 0).tolist() == [True, True, False, False, True]
    assert (distances[1] > 0).all()


@pytest.mark.slow
def test_fields_of_sixteen_channels() -> None:
    """The paper's widths, as the compiled steps take them."""
    settings = network_of("C4", 12, 10, (16, 16), representation="regular")
    pair = Pair(settings, "augmented", 0.1, 0.5, [0.1])
    check_trajectories(pair, *draw(1, 2, 4, len(pair.table), settings.classes))


def test_exact_augmentation() -> None:
    """Batches of every image in every turn: 40 images, five times eight."""
    training = TrainingSettings(epochs=1, augmentation="exact")
    network, pair = Network.of(SMALL), Pair(SMALL, "augmented", 0.1, 1.0, [0.1])
    labels = torch.arange(20).remainder(SMALL.classes)
    for chunk in batches(network.group, "augmented", [0], labels, training, 2):
        assert chunk[0].shape == (1, 2, 40)
        found, expected = pair.advance(*chunk)
        assert torch.allclose(found, expected, rtol=1e-5, atol=0)
    for name in pair.before:
        assert pair.error_of_change(name) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("trained", [False, True])
def test_the_papers_network(trained: bool, tmp_path: Path) -> None:
    """Its gradients on digits, to 1e-5 relative."""
    file, folder = tmp_path / "digits.safetensors", Path(__file__).parent / "data" / "digits"
    fetch(DataSettings(name="digits", folder=str(folder)), file, None)
    settings = NetworkSettings()
    dataset, network = load_dataset(file, settings), Network.of(settings)
    pixels, labels = dataset.train_images, dataset.train_labels.long()
    runs = runs_of(network, "nominal", [0])
    if trained:
        reference, training = Reference(network, runs, pixels, 1.0), TrainingSettings(epochs=2)
        for chunk in batches(network.group, "nominal", [0], labels, training, 100):
            reference.advance(*chunk, *steady(chunk[0], [0.0], 0.05))
    before, rows = runs.weights(network.spaces), torch.arange(10).view(1, 1, 10)
    fast = Fused(network, runs.to(DEVICE, torch.float32), pixels.to(DEVICE), 1.0)
    slow = Reference(network, runs, pixels, 1.0)
    given = rows, labels[rows], *steady(rows, [0.0], 1e3)
    found = fast.advance(*on_device(*given)).cpu().double()
    assert torch.allclose(found, slow.advance(*given), rtol=1e-5, atol=0)
    for name, weight in fast.weights().items():
        change = slow.weights()[name] - before[name]
        assert (weight.cpu() - before[name] - change).norm() < 1e-5 * change.norm()


def test_neither_chunks_nor_a_restored_state_change_bits() -> None:
    pairs = [Pair(SMALL, "nominal", 0.5, 0.5, [0.1]) for _ in range(3)]
    whole, parts, resumed = (pair.fast for pair in pairs)
    given = on_device(*pairs[0].steady(*draw(1, 2, 2, 20, SMALL.classes)))
    start, rest = [x[:, :1] for x in given], [x[:, 1:] for x in given]
    expected = whole.advance(*given)
    first = parts.advance(*start)
    state = {name: held.clone() for name, held in parts.state().items()}
    assert torch.equal(torch.cat([first, parts.advance(*rest)], 1), expected)
    resumed.restore(state)
    assert torch.equal(resumed.advance(*rest), expected[:, 1:])
    for trainer in (parts, resumed):
        assert torch.equal(trainer.distances(), whole.distances())
        for name, weight in trainer.weights().items():
            assert torch.equal(weight, whole.weights()[name])


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # by the interpreter
def test_what_is_not_a_number_stays_so() -> None:
    rows, labels = draw(1, 2, 2, 20, SMALL.classes)
    pair = Pair(SMALL, "nominal", 1e-3, 1.0, [0.0])
    pair.fast.whole[0, 0] = float("nan")
    assert not pair.advance(rows, labels)[0][0, :, 0].isfinite().any()


def test_saturated_units() -> None:
    pair = Pair(SMALL, "nominal", 1e-9, 1.0, [0.0], noise=10.0)
    found, expected = pair.advance(*draw(1, 1, 4, 20, SMALL.classes))
    assert torch.allclose(found, expected, rtol=1e-4, atol=0)


def arguments(settings: NetworkSettings) -> tuple[Network, Runs, Tensor, float]:
    network = Network.of(settings)
    runs = runs_of(network, "nominal", [0], 1e-3).to(DEVICE, torch.float32)
    return network, runs, digits(settings).to(DEVICE), 1.0


def test_it_is_trusted_if_its_step_is_the_references() -> None:
    network, runs, pixels, scale = arguments(SMALL)
    before = runs.weights(network.spaces)
    trainer = fused(network, runs, pixels, scale)
    for name, weight in trainer.weights().items():  # the trial left no trace
        assert torch.allclose(weight, before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("where", ["conv2", "losses"])
def test_it_is_not_trusted_if_its_step_is_another(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Fused.advance

    def wrong(self: Fused, *given: Tensor) -> Tensor:
        recorded = advance(self, *given)
        if where == "losses":
            return recorded + torch.tensor([1e-3, *[0.0] * (recorded.shape[-1] - 1)]).to(recorded)
        self.whole[0, 9 * 3 : 9 * 3 + 54] += 1e-3
        return recorded

    monkeypatch.setattr(Fused, "advance", wrong)
    expected = {"conv2": "its step differs .* in conv2", "losses": "its losses .* differ"}
    with pytest.raises(UnavailableError, match=expected[where]):
        fused(*arguments(SMALL))


def test_a_failure_is_said_and_the_reference_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Fused, *given: Tensor) -> Tensor:
        raise RuntimeError("PassManager::run failed\nand more")

    given = arguments(SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(Fused, "advance", fail)
        assert choose("auto", lambda: fused(*given), lambda: "reference") == "reference"
    said = capsys.readouterr().err
    assert said.strip().endswith("cannot be taken, as RuntimeError: PassManager::run failed")
    monkeypatch.setitem(sys.modules, "equireg.training.fused_kernel", None)
    with pytest.raises(ValueError, match="step is 'compiled', but Triton cannot be imported"):
        choose("compiled", lambda: fused(*given), lambda: "reference")


def test_weights_without_orbits() -> None:
    """Channels of two kinds: E falls into blocks of different orbits."""
    group = Network.of(SMALL).group
    mixed, classes = 3 * trivial(group) + 2 * regular(group), trivial(group, 4)
    layers: list[Layer] = [
        PooledConvolution("conv1", trivial(group), mixed, 3),
        Linear("linear", mixed, classes, 6),
    ]
    network = Network(group, layers)
    sides = (
        {name: torch.zeros(1, s.dims[i]) for name, s in network.spaces.items()} for i in (0, 1)
    )
    zeros = Runs(*sides)
    with pytest.raises(UnavailableError, match="not spanned by orbits"):
        fused(network, zeros.to(DEVICE), digits(SMALL).to(DEVICE), 1.0)


class Phases:
    """Watches the interpreter's memory for what a barrier is missing between.

    Since the last barrier: ``written``, the addresses that were stored to; ``read``, of those that
    were loaded, by which tile of addresses. A tile may store where it alone has loaded, since every
    number has a thread of its own there; not a tile that is smaller than the threads are many.
    """

    THREADS = 32 * module.ALONE["num_warps"]

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from triton.runtime.interpreter import InterpreterBuilder as Builder

        self.written: set[int] = set()
        self.read: dict[int, int] = {}
        self.stores = self.barriers = 0
        load, store = Builder.create_masked_load, Builder.create_masked_store

        def watch_load(builder: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
            for address, tile in self.tile(pointers, mask):
                assert address not in self.written, "loaded what was stored in the same phase"
                shared = pointers.data.size < self.THREADS or self.read.get(address, tile) != tile
                self.read[address] = -1 if shared else tile
            return load(builder, pointers, mask, *rest)

        def watch_store(builder: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
            self.stores += 1
            for address, tile in self.tile(pointers, mask):
                assert address not in self.written, "stored twice in the same phase"
                other = self.read.get(address, tile) != tile
                assert not other, "stored where another tile loaded in the same phase"
                self.written.add(address)
            return store(builder, pointers, value, mask, *rest)

        def watch_barrier(builder: Any) -> None:
            self.barriers += 1
            self.written.clear()
            self.read.clear()

        monkeypatch.setattr(Builder, "create_masked_load", watch_load)
        monkeypatch.setattr(Builder, "create_masked_store", watch_store)
        monkeypatch.setattr(Builder, "create_barrier", watch_barrier)

    @staticmethod
    def tile(pointers: Any, mask: Any) -> Iterator[tuple[int, int]]:
        where = np.atleast_1d(pointers.data)[np.atleast_1d(mask.data)].ravel().tolist()
        name = hash(tuple(where))
        return ((address, name) for address in where)


@pytest.mark.skipif(HAS_GPU, reason="needs Triton's interpreter, taken where there is no GPU")
def test_barriers(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread reads or overwrites what another one has to do with in the same phase."""
    pair = Pair(CASES["mirrored"], "augmented", 0.1, 1.0, [0.1])
    phases = Phases(monkeypatch)
    pair.fast.advance(*pair.steady(*draw(1, 2, 9, len(pair.table), 4)))
    assert phases.stores > phases.barriers > 2 * 20


@pytest.mark.slow
@pytest.mark.parametrize(
    ("capability", "programs"), [(90, "SHARED"), (90, "ALONE"), (80, "SHARED")]
)
def test_it_compiles_without_a_gpu(capability: int, programs: str) -> None:
    """What three programs on a processor may take, or one alone; float32, in coherent memory."""
    script = Path(__file__).with_name("compile_fused.py")
    command = [sys.executable, str(script), str(capability), programs]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found = json.loads(done.stdout.splitlines()[-1])
    threads = 32 * getattr(module, programs)["num_warps"]
    together = 3 if programs == "SHARED" else 1
    assert found["registers"] * threads * together <= 2**16
    assert found["shared"] * together <= 160 * 2**10
    assert found["stack"] <= 512  # bytes per thread of what does not fit into registers
    assert found["compilations"] == 1  # for chunks and batches of any size
    assert found["uncoherent loads"] == found["tensor cores"] == 0


@needs_gpu
@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
def test_a_thousand_steps_on_a_gpu(mode: Mode) -> None:
    """The paper's network, as a job would train it."""
    settings = NetworkSettings()
    network, seeds, training = Network.of(settings), [0, 1, 2], TrainingSettings(epochs=500)
    pixels, labels = digits(settings), torch.arange(20).remainder(10)
    blocks = Blocks.of(mode, [] if mode == "equivariant" else [1e-2], seeds)
    weights, jobs = initial(network, seeds), JobSettings(step="compiled")
    found = blocks.trainer(network, weights, training, pixels, DEVICE, jobs)
    assert isinstance(found, Fused)
    table = turned(pixels, elements(network.group, mode))
    expected = Reference(network, runs_of(network, mode, seeds, 1e-3), table, 0.1)
    for given in blocks.chunks(network, labels, training):
        distances = found.advance(*on_device(*given))[..., 1:].cpu().double()
        exactly = expected.advance(*given)[..., 1:]
        assert torch.allclose(distances, exactly, rtol=1e-4, atol=0)
