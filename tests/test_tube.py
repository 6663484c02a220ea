"""Theorem 3 at a finite distance: its estimates, its flows, and that both can fail."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from equireg.symmetry.compact import rotations
from equireg.theory import cases, tube
from equireg.theory.cases import wider_case
from equireg.theory.facts import unit
from equireg.theory.flows import settle
from equireg.theory.models import graphs, perceptron
from equireg.theory.risks import Risk
from equireg.theory.symmetry import random_tensor
from equireg.theory.theorems import Settled
from equireg.theory.tube import Tube, assumptions, at_a_distance, flow, steepest, third_derivative
from equireg.theory.wider import tensors, vector_pairs


@pytest.fixture(scope="module")
def settled() -> Settled:
    """Tensors of the plane, where the equivariant flow stands still."""
    model = tensors(rotations(2))
    case = wider_case(Risk(model, *vector_pairs(model, 4)))
    assert case.flow is not None
    assert case.start is not None
    return Settled.at(case.flow, "settled", settle(case.flow, case.start), cases.LONGEST_WIDER)


def test_third_derivative_against_differences(settled: Settled) -> None:
    risk, point, h = settled.risk, settled.point, 1e-4
    u = unit(random_tensor("direction", len(point)))
    ahead, behind = (risk.hessian(point + s * h * u)(u) for s in (1, -1))
    found = third_derivative(risk, point, u)
    assert torch.allclose(found, (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5)


def test_ascent_finds_more_than_chance(settled: Settled) -> None:
    risk, coordinates = settled.risk.augmented(), settled.risk.coordinates
    drawn = [unit(random_tensor(f"u {i}", coordinates.complement)) for i in range(20)]
    best, direction = steepest(risk, settled.point, drawn[:2], 0.1)
    along = [coordinates.join(outside=u) for u in drawn]
    chance = [abs(float(third_derivative(risk, settled.point, u) @ u)) for u in along]
    assert best > 3 * max(chance)
    assert float(direction.norm()) == pytest.approx(1)


def test_none_leaves_and_the_rate_holds(settled: Settled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tube, "LONGEST", 30)
    monkeypatch.setattr(tube, "REACHES", (0.05,))
    measured = list(at_a_distance(settled))
    assert [(m.quantity, m.value) for m in measured if not m.held] == []
    assert len(measured) == 5  # mu is negative here, so the gap is among them


def test_a_penalty_that_is_too_small_lets_some_leave(settled: Settled) -> None:
    coordinates, lowest = settled.risk.coordinates, settled.directions[:, 0]
    start = settled.point + coordinates.join(outside=1e-2 * lowest)
    assert flow(settled, start, 0.5 * settled.critical, 1.0).furthest > 1.01
    away = flow(settled, start, 0.5 * settled.critical, 1.0)
    assert away.slowest < 0
    assert flow(settled, start, 3 * settled.critical, 1.0).furthest == 1


def test_the_bound_is_that_of_the_proof(settled: Settled) -> None:
    lowest = settled.directions[:, 0]
    one = Tube(0.1, -2.0, lowest, settled.point, 30.0, lowest)
    assert one.sufficient == pytest.approx(30 * 0.1 / 2 + 2)
    assert one.rate == pytest.approx(one.gamma - 2 - 1.5)
    assert dataclasses.replace(one, mu=5.0).sufficient == 0


def test_assumptions_have_no_bound_on_all_of_e() -> None:
    model = perceptron(4, (2,), 2)
    risk = Risk(model, *graphs(4, 16, seed=0))
    measured = list(assumptions(risk, risk.coordinates.of(model.start(0)), "random"))
    assert [m.held for m in measured] == [True] * 4
    lower = [m.value for m in measured if m.quantity.startswith("mu")]
    assert lower[1] < 3 * lower[0] < 0
