"""Optimizers against PyTorch's own, their penalty, E, and schedules on the command line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cases import REGULAR, images, runs_of
from equireg.settings import JobSettings, TrainingSettings
from equireg.training.network import Network
from equireg.training.optimizers import optimizer_of
from equireg.training.schedules import gamma_schedule, learning_rates
from equireg.training.step import Reference
from equireg.training.trainers import choose_trainer
from experiment import Jobs

KINDS: dict[str, TrainingSettings] = {
    "momentum": TrainingSettings(momentum=0.9, epochs=1),
    "adam": TrainingSettings(optimizer="adam", epochs=1),
    "adamw": TrainingSettings(optimizer="adamw", weight_decay=0.1, epochs=1),
}
THEIRS: dict[str, Any] = {
    "momentum": lambda p, lr: torch.optim.SGD(p, lr, momentum=0.9),
    "adam": lambda p, lr: torch.optim.Adam(p, lr),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr, weight_decay=0.1),
}
RATE, STEPS = 0.01, 6


def trained(kind: str, mode: Any, gamma: float, seeds: list[int] | None = None) -> Reference:
    """A few steps in float64, on batches that the run number alone changes."""
    network, pixels = Network.of(REGULAR), images(60, 8)
    runs = runs_of(network, mode, seeds or [0])
    trainer = Reference(network, runs, pixels, 1.0, optimizer_of(KINDS[kind]))
    rows = torch.arange(STEPS * 10).view(1, STEPS, 10).expand(len(seeds or [0]), -1, -1)
    shape = rows.shape[:2]
    trainer.advance(rows, rows % 5, torch.full(shape, gamma), torch.full(shape, RATE))
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_penalty_it_is_pytorchs(kind: str) -> None:
    network, pixels = Network.of(REGULAR), images(60, 8)
    start = runs_of(network, "nominal", [0]).weights(network.spaces)
    leaves = {name: torch.nn.Parameter(weight) for name, weight in start.items()}
    theirs = THEIRS[kind](list(leaves.values()), RATE)
    for rows in torch.arange(STEPS * 10).view(STEPS, 10):
        outputs = network.forward(leaves, pixels[rows][None].double() / 255)[0]
        theirs.zero_grad()
        F.cross_entropy(outputs, rows % 5).backward()
        theirs.step()
    for name, weight in trained(kind, "nominal", 0.0).weights().items():
        # the rates are float32
        assert torch.allclose(weight, leaves[name].detach(), rtol=1e-5, atol=1e-7), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_penalty_is_decoupled(kind: str) -> None:
    """Without gradients, each step shrinks the distance by 1 - lr (gamma + decay)."""
    network = Network.of(REGULAR)
    optimizer = optimizer_of(KINDS[kind])
    trainer = Reference(network, runs_of(network, "nominal", [0]), images(10, 8), 0.0, optimizer)
    before = trainer.distances()
    rows, shape = torch.zeros(1, 3, 4, dtype=torch.int64), (1, 3)
    trainer.advance(rows, rows, torch.full(shape, 2.0), torch.full(shape, RATE))
    shrunk = (1 - RATE * (2.0 + optimizer.decay)) ** 3
    assert torch.allclose(trainer.distances(), before * shrunk, rtol=1e-6)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_in_e_gradients_and_moments_are_projected(
    kind: str, apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where runs are taken one by one, as those of a module are."""
    monkeypatch.setattr(Network, "apart", apart)
    trainer = trained(kind, "equivariant", math.inf)
    assert (trainer.distances() == 0).all()
    for name, space in trainer.network.spaces.items():
        for part in trainer.optimizer.parts:
            moment = trainer.runs.moments[f"{part}.{name}"]
            assert moment.any()
            assert torch.allclose(space.project(moment), moment, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_goes_on_as_the_training_would_have(kind: str) -> None:
    network, pixels = Network.of(REGULAR), images(60, 8)
    rows = torch.arange(STEPS * 10).view(1, STEPS, 10)
    given = rows, rows % 5, torch.full((1, STEPS), 0.5), torch.full((1, STEPS), RATE)

    def new() -> Reference:
        return Reference(
            network, runs_of(network, "nominal", [0]), pixels, 1.0, optimizer_of(KINDS[kind])
        )

    whole, first, second = new(), new(), new()
    whole.advance(*given)
    first.advance(*(x[:, :2] for x in given))
    second.restore({name: x.clone() for name, x in first.state().items()})
    second.advance(*(x[:, 2:] for x in given))
    for name, weight in whole.state().items():
        assert torch.equal(weight, second.state()[name]), name


def test_the_compiled_step_says_why_it_is_not_taken(capsys: pytest.CaptureFixture[str]) -> None:
    network = Network.of(REGULAR)
    runs = runs_of(network, "nominal", [0]).to(torch.float32)
    optimizer = optimizer_of(KINDS["adam"])
    arguments = network, runs, images(10, 8), 1.0
    assert isinstance(choose_trainer(*arguments, JobSettings(), optimizer), Reference)
    assert "the optimizer is not plain gradient descent" in capsys.readouterr().err
    with pytest.raises(ValueError, match="step is 'compiled', but the optimizer is not plain"):
        choose_trainer(*arguments, JobSettings(step="compiled"), optimizer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant", [0.5, 0.5, 0.5]),
        ("rising", [0.005, 0.05, 0.5]),
        ("falling", [0.5, 0.05, 0.005]),
        ("release", [math.inf, 0.5, 0.5]),
        ("0:1,0.5:0", [0.5, 0, 0]),
    ],
)
def test_a_schedule_multiplies_the_grids_gamma(name: str, expected: list[float]) -> None:
    steps = np.array([0, 50, 100])
    found = gamma_schedule(0.5, TrainingSettings(gamma_schedule=name))(steps, 100)
    assert found == pytest.approx(expected)
    assert np.isinf(gamma_schedule(None, TrainingSettings(gamma_schedule=name))(steps, 100)).all()


def test_in_e_is_in_e_also_without_a_penalty() -> None:
    found = gamma_schedule(0.0, TrainingSettings(gamma_schedule="release"))(np.array([0, 9]), 10)
    assert found.tolist() == [math.inf, 0]


def test_the_cosine_falls_to_zero() -> None:
    rates = learning_rates(TrainingSettings(rate_schedule="cosine", learning_rate=0.2))
    assert rates(np.array([0, 5, 10]), 10) == pytest.approx([0.2, 0.1, 0])


def test_released_from_e_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With whatever step is taken here; 60 steps, in E for the first half of them."""
    import pandas as pd

    jobs = Jobs(tmp_path, monkeypatch)
    more = ("--gamma-schedule", "release", "--rate-schedule", "cosine")
    table = pd.read_parquet(jobs.train("a", "nominal", "0.1", "0", *more))
    distance = table["distance"].to_numpy()
    assert distance[0] > 0  # the perturbation, before the first step
    assert (distance[1:31] == 0).all()
    assert (distance[31:] > 0).all()
