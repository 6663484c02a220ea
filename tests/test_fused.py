"""The fused step, held to the reference in float64.

On a machine with a GPU the kernel runs there; else Triton's interpreter runs it on the CPU.
"""

from __future__ import annotations

import json
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

from equireg.dataset import load_dataset
from equireg.jobs.fetch import fetch
from equireg.training.start import draw_equivariant
from equireg.training.trainers import choose_trainer
from equireg.training.start import perturbation
from equireg.settings import DataSettings, JobSettings, Mode, NetworkSettings, TrainingSettings
from equireg.training import fused as module
from equireg.training.batches import batches, elements, turned
from equireg.training.trainers import choose
from equireg.training.fused import Fused, fused
from equireg.training.network import Network
from equireg.training.packed import UnavailableError
from equireg.training.step import Reference, Runs
from equireg.training.start import start

pytest.importorskip("triton", reason="needs Triton, which is made for Linux")
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")

# Of what is left of the image, 3x3 pixels: fewer make layers without a gradient.
SMALL = NetworkSettings("C4", 12, 4, (3, 2))
CASES = {
    "small": SMALL,
    "mirrored": NetworkSettings("D4", 12, 4, (3, 2)),
    "trivial group": NetworkSettings("C1", 6, 4, (2,)),
    "cross": NetworkSettings("C4", 12, 3, (2, 2), support="cross"),
    "lopsided": NetworkSettings(
        "C4", 12, 3, (2, 2), support="lopsided", allow_incompatible_support=True
    ),
    "wide filter": NetworkSettings("D2", 12, 3, (2, 3), kernel_size=5),
    "pixel filter": NetworkSettings("C2", 12, 3, (2, 3), kernel_size=1),
    "three layers": NetworkSettings("C4", 24, 2, (2, 1, 2)),
    "wide layers": NetworkSettings("C4", 12, 17, (18, 17)),
}


def block(
    network: Network, mode: Mode, seeds: list[int], gammas: list[float], noise: float
) -> Runs:
    initial = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in seeds])
        for name, space in network.layers.items()
    }
    draws = [perturbation(network, mode, seed, noise) for seed in seeds]
    moved = {name: torch.stack([draw[name] for draw in draws]) for name in network.layers}
    return start(network, initial, None if mode == "equivariant" else moved, gammas)


def digits(settings: NetworkSettings, count: int = 20) -> Tensor:
    random = np.random.default_rng(0)
    shape = count, settings.image_size, settings.image_size
    return torch.from_numpy(random.integers(256, size=shape).astype(np.uint8))


class Pair:
    """The fused step on the device and the reference in float64, from the same start."""

    def __init__(
        self,
        settings: NetworkSettings,
        mode: Mode,
        rate: float,
        scale: float,
        gammas: list[float],
        noise: float = 0.1,
    ) -> None:
        network = Network(settings)
        self.table = turned(digits(settings), elements(network.group, mode))
        seeds = list(range(len(gammas)))
        runs = block(network, mode, seeds, gammas, noise)
        moved = network.to(DEVICE, torch.float32)
        held = runs.to(DEVICE, torch.float32)
        self.before = runs.weights(network)
        self.fast = Fused(moved, held, self.table.to(DEVICE), rate, scale)
        self.slow = Reference(network, runs, self.table, rate, scale)
        self.plain = Reference(moved, held, self.table.to(DEVICE), rate, scale)

    def advance(self, rows: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        found = self.fast.advance(rows.to(DEVICE), labels.to(DEVICE))
        return found.cpu().double(), self.slow.advance(rows, labels)

    def error_of_change(self, name: str, trainer: Fused | Reference | None = None) -> float:
        after = (trainer or self.fast).weights()[name].cpu()
        change = self.slow.weights()[name] - self.before[name]
        return float((after - self.before[name] - change).norm() / change.norm())


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
    pair.plain.advance(rows.to(DEVICE), labels.to(DEVICE))
    for name in pair.before:
        plain = pair.error_of_change(name, pair.plain)
        assert pair.error_of_change(name) < max(1e-5, 4 * plain)


@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
def test_trajectories(mode: Mode) -> None:
    """Two runs with penalties of their own, a few steps."""
    pair = Pair(SMALL, mode, 0.1, 0.5, [0.1, 1.0])
    rows, labels = draw(2, 3, 3, len(pair.table), SMALL.classes)
    found, expected = pair.advance(rows, labels)
    assert torch.equal(found == 0, expected == 0)
    assert torch.allclose(found, expected, rtol=1e-5, atol=0)
    distances = pair.fast.distances().cpu().double()
    assert torch.allclose(distances, pair.slow.distances(), rtol=1e-5, atol=0)
    for name in pair.before:
        assert pair.error_of_change(name) < 1e-4


def test_exact_augmentation() -> None:
    """Batches of every image in every turn: 40 images, five times eight."""
    training = TrainingSettings(epochs=1, augmentation="exact")
    network, pair = Network(SMALL), Pair(SMALL, "augmented", 0.1, 1.0, [0.1])
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
    dataset, network = load_dataset(file, 28, 10), Network(NetworkSettings())
    images, labels = dataset.train_images.flatten(1), dataset.train_labels.long()
    runs = block(network, "nominal", [0], [0.0], 0.1)
    if trained:
        reference, training = (
            Reference(network, runs, images, 0.05, 1.0),
            TrainingSettings(epochs=2),
        )
        for chunk in batches(network.group, "nominal", [0], labels, training, 100):
            reference.advance(*chunk)
    before, rows = runs.weights(network), torch.arange(10).view(1, 1, 10)
    fast = Fused(
        network.to(DEVICE, torch.float32),
        runs.to(DEVICE, torch.float32),
        images.to(DEVICE),
        1e3,
        1.0,
    )
    slow = Reference(network, runs, images, 1e3, 1.0)
    found = fast.advance(rows.to(DEVICE), labels[rows].to(DEVICE)).cpu().double()
    assert torch.allclose(found, slow.advance(rows, labels[rows]), rtol=1e-5, atol=0)
    for name, weight in fast.weights().items():
        change = slow.weights()[name] - before[name]
        assert (weight.cpu() - before[name] - change).norm() < 1e-5 * change.norm()


def test_neither_chunks_nor_a_restored_state_change_bits() -> None:
    rows, labels = (x.to(DEVICE) for x in draw(1, 2, 2, 20, SMALL.classes))
    whole, parts, resumed = (Pair(SMALL, "nominal", 0.5, 0.5, [0.1]).fast for _ in range(3))
    expected = whole.advance(rows, labels)
    first = parts.advance(rows[:, :1], labels[:, :1])
    state = {name: held.clone() for name, held in parts.state().items()}
    assert torch.equal(torch.cat([first, parts.advance(rows[:, 1:], labels[:, 1:])], 1), expected)
    resumed.restore(state)
    assert torch.equal(resumed.advance(rows[:, 1:], labels[:, 1:]), expected[:, 1:])
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


def arguments(settings: NetworkSettings) -> tuple[Network, Runs, Tensor, float, float]:
    network = Network(settings)
    runs = block(network, "nominal", [0], [0.1], 1e-3).to(DEVICE, torch.float32)
    return network.to(DEVICE, torch.float32), runs, digits(settings).flatten(1).to(DEVICE), 0.1, 1.0


def test_it_is_trusted_if_its_step_is_the_references() -> None:
    network, runs, images, rate, scale = arguments(SMALL)
    before = runs.weights(network)
    trainer = fused(network, runs, images, rate, scale)
    for name, weight in trainer.weights().items():  # the trial left no trace
        assert torch.allclose(weight, before[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize("where", ["conv2", "losses"])
def test_it_is_not_trusted_if_its_step_is_another(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Fused.advance

    def wrong(self: Fused, rows: Tensor, labels: Tensor) -> Tensor:
        recorded = advance(self, rows, labels)
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
    def fail(self: Fused, rows: Tensor, labels: Tensor) -> Tensor:
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
    network, runs, images, rate, scale = arguments(SMALL)
    space = network.layers["conv1"]
    turn = torch.linalg.qr(torch.eye(3) + 0.1)[0].to(space.equivariant)
    network.layers["conv1"] = type(space)(
        space.shape, space.permutations, space.equivariant @ turn, space.complement
    )
    with pytest.raises(UnavailableError, match="not spanned by orbits"):
        fused(network, runs, images, rate, scale)


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
    pair.fast.advance(*draw(1, 2, 9, len(pair.table), 4))
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
    network, seeds, training = Network(settings), [0, 1, 2], TrainingSettings(epochs=500)
    images = digits(settings).to(DEVICE)
    table = turned(images, elements(network.group, mode))
    labels = torch.arange(20, device=DEVICE).remainder(10)
    runs = block(network, mode, seeds, [1e-2] * 3, 1e-3).to(DEVICE, torch.float32)
    moved = network.to(DEVICE, torch.float32)
    found = choose_trainer(moved, runs, table, training, JobSettings(step="compiled"))
    assert isinstance(found, Fused)
    exact = block(network, mode, seeds, [1e-2] * 3, 1e-3)
    expected = Reference(network, exact, table.cpu(), 1e-3, 0.1)
    for rows, classes in batches(network.group, mode, seeds, labels, training, 100):
        distances = found.advance(rows, classes)[..., 1:].cpu().double()
        exactly = expected.advance(rows.cpu(), classes.cpu())[..., 1:]
        assert torch.allclose(distances, exactly, rtol=1e-4, atol=0)
