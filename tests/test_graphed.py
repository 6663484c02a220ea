"""The recorded step: all but the recording on the CPU, the recording where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch

from cases import images, runs_of, steady
from equireg.native import UnavailableError
from equireg.settings import JobSettings, NetworkSettings
from equireg.training import trainers
from equireg.training.batches import elements, turned
from equireg.training.graphed import Graphed, cuda_graph
from equireg.training.network import Network
from equireg.training.step import Reference, Runs
from equireg.training.trainers import choose_trainer

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SETTINGS = NetworkSettings(image_size=8, channels=(3, 2), classes=4)
Step = Callable[[], None]


def runs(network: Network, device: str) -> Runs:
    return runs_of(network, "augmented", [0, 1], 1e-2).to(device, torch.float32)


def compare(record: Callable[[Step], Step], device: str, changing: bool = False) -> None:
    """The same bits as the reference, over two chunks and a batch of another size.

    changing: with a penalty and a rate of each step, in E at some.
    """
    network, random = Network.of(SETTINGS), np.random.default_rng(0)
    table = turned(images(20, 8).to(device), elements(network.group, "augmented"))
    found = Graphed(network, runs(network, device), table, 1.0, record)
    expected = Reference(network, runs(network, device), table, 1.0)
    for shape in ((2, 3, 5), (2, 2, 5), (2, 2, 4)):
        rows = torch.from_numpy(random.integers(80, size=shape)).to(device)
        gammas, rates = steady(rows, [0.1, 1.0], 0.1)
        if changing:
            gammas = torch.from_numpy(random.random(shape[:2])).float()
            rates = torch.from_numpy(random.random(shape[:2])).float()
            gammas[0, 1] = torch.inf
        given = rows, rows // 4 % 4, gammas.to(device), rates.to(device)
        assert torch.equal(found.advance(*given), expected.advance(*given))
        assert torch.equal(found.distances()[:, 0] == 0, given[2][:, -1].isinf())
    for name, weight in found.weights().items():
        assert torch.equal(weight, expected.weights()[name])
    assert torch.equal(found.distances(), expected.distances())


@pytest.mark.parametrize("changing", [False, True])
def test_steps_of_the_reference(changing: bool) -> None:
    def record(step: Step) -> Step:
        step()  # as recording does
        return step

    compare(record, "cpu", changing)


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
    network = Network.of(SETTINGS)
    there = SimpleNamespace(device=SimpleNamespace(type="cuda"))

    def choice(step: Literal["auto", "compiled", "reference"]) -> object:
        arguments = network, runs(network, "cpu"), there, 1.0
        return choose_trainer(*arguments, JobSettings(step=step))  # type: ignore[arg-type]

    assert type(choice("reference")) is Reference
    monkeypatch.setattr(trainers, "fused", lambda *arguments: "fused")
    assert choice("auto") == choice("compiled") == "fused"

    def unavailable(*arguments: object) -> None:
        raise UnavailableError("its step differs")

    monkeypatch.setattr(trainers, "fused", unavailable)
    assert type(choice("auto")) is Graphed
    assert "the compiled one cannot be taken, as its step differs" in capsys.readouterr().err
    with pytest.raises(ValueError, match="step is 'compiled', but its step differs"):
        choice("compiled")


@needs_gpu
@pytest.mark.parametrize("changing", [False, True])
def test_on_a_gpu(changing: bool) -> None:
    compare(cuda_graph, "cuda", changing)
