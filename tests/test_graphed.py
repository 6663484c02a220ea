"""The recorded step: all but the recording on the CPU, the recording where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch

from equireg.jobs import train
from equireg.training.start import draw_equivariant
from equireg.training.trainers import choose_trainer
from equireg.training.start import perturbation
from equireg.settings import JobSettings, NetworkSettings, TrainingSettings
from equireg.training.batches import elements, turned
from equireg.training.graphed import Graphed, cuda_graph
from equireg.training.network import Network
from equireg.training.packed import UnavailableError
from equireg.training.step import Reference, Runs
from equireg.training.start import start

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SETTINGS = NetworkSettings(image_size=8, channels=(3, 2), classes=4)
Step = Callable[[], None]


def runs(network: Network, device: str) -> Runs:
    seeds = [0, 1]
    layers = network.layers.items()
    initial = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in seeds])
        for name, space in layers
    }
    draws = [perturbation(network, "augmented", seed, 1e-2) for seed in seeds]
    noise = {name: torch.stack([draw[name] for draw in draws]) for name in network.layers}
    return start(network, initial, noise, [0.1, 1.0]).to(device, torch.float32)


def compare(record: Callable[[Step], Step], device: str) -> None:
    """The same bits as the reference, over two chunks and a batch of another size."""
    network, random = Network(SETTINGS), np.random.default_rng(0)
    images = torch.from_numpy(random.integers(256, size=(20, 8, 8)).astype(np.uint8)).to(device)
    table = turned(images, elements(network.group, "augmented"))
    moved = network.to(device, torch.float32)
    found = Graphed(moved, runs(network, device), table, 0.1, 1.0, record)
    expected = Reference(moved, runs(network, device), table, 0.1, 1.0)
    for shape in ((2, 3, 5), (2, 2, 5), (2, 2, 4)):
        rows = torch.from_numpy(random.integers(80, size=shape)).to(device)
        labels = rows // 4 % 4
        assert torch.equal(found.advance(rows, labels), expected.advance(rows, labels))
    for name, weight in found.weights().items():
        assert torch.equal(weight, expected.weights()[name])
    assert torch.equal(found.distances(), expected.distances())


def test_steps_of_the_reference() -> None:
    def record(step: Step) -> Step:
        step()  # as recording does
        return step

    compare(record, "cpu")


def test_a_failed_recording_is_said_and_does_no_harm(capsys: pytest.CaptureFixture[str]) -> None:
    def record(step: Step) -> Step:
        step()
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    compare(record, "cpu")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "step: kernel by kernel; no CUDA graph: operation not permitted"


def test_what_a_gpu_gets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fused step, else the recorded one; the plain one if it is asked for."""
    network = Network(SETTINGS)
    images = SimpleNamespace(device=SimpleNamespace(type="cuda"))

    def choice(step: Literal["auto", "compiled", "reference"]) -> object:
        arguments = network, runs(network, "cpu"), images, TrainingSettings()
        return choose_trainer(*arguments, JobSettings(step=step))  # type: ignore[arg-type]

    assert type(choice("reference")) is Reference
    monkeypatch.setattr(train, "fused", lambda *arguments: "fused")
    assert choice("auto") == choice("compiled") == "fused"

    def unavailable(*arguments: object) -> None:
        raise UnavailableError("its step differs")

    monkeypatch.setattr(train, "fused", unavailable)
    assert type(choice("auto")) is Graphed
    assert "the compiled one cannot be taken, as its step differs" in capsys.readouterr().err
    with pytest.raises(ValueError, match="step is 'compiled', but its step differs"):
        choice("compiled")


@needs_gpu
def test_on_a_gpu() -> None:
    compare(cuda_graph, "cuda")
