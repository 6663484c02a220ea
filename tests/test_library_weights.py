"""Weights in E: penalties by layer, shares, optimizers' states, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equireg.library.equivariance import Equivariance
from equireg.symmetry.groups import point_group
from equireg.symmetry.representations import from_generators

C4 = point_group("C4")
TURN = from_generators(C4, [[[0, -1], [1, 0]]], "turn")
BATCH = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(6 * 64, 3),
    ).double()


def made(model: nn.Sequential) -> Equivariance:
    return Equivariance(model, "C4", BATCH, {"0": (None, "regular")})


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "momentum": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, 1e-2, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-2, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_projection_takes_the_optimizers_state_with_it(name: str) -> None:
    """Nominal training first, then equivariant: without the state, momentum leads out of E."""

    def trained(given: bool) -> float:
        torch.manual_seed(0)
        model = network()
        eq, optimizer = made(model), OPTIMIZERS[name](model.parameters())
        for step in range(20):
            optimizer.zero_grad()
            model(BATCH).square().sum().backward()
            if step >= 10:
                eq.project_gradients_()
            optimizer.step()
            if step == 9:
                eq.project_(optimizer=optimizer if given else None)
        return eq.distance().total

    assert trained(True) < 1e-12
    assert trained(False) > 1e-4


def test_second_moments_under_matrices_stay_positive() -> None:
    model = nn.Sequential(nn.Linear(2, 6), nn.Linear(6, 2)).double()
    eq = Equivariance(model, C4, torch.zeros(2, 2).double(), {"0": (None, 3 * TURN), "1": (None, TURN)}, input=TURN)  # fmt: skip # noqa: E501
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(4, 2).double()).square().sum().backward()
    optimizer.step()
    eq.project_(optimizer=optimizer)
    for state in optimizer.state.values():
        assert (state["exp_avg_sq"] >= 0).all()


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, other = network(), network()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="optimizer, a SGD, trains none of the weights"):
        made(model).project_(optimizer=torch.optim.SGD(other.parameters(), 0.1))
    for one, two in zip(model.parameters(), before, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("call", ["project_", "project_gradients_", "penalty", "decoupled"])
def test_calls_in_place_are_whole_or_not_at_all(call: str) -> None:
    model = network()
    eq = made(model)
    model(BATCH).sum().backward()
    nn.utils.parametrizations.weight_norm(model[2])
    tensors = [x for p in model.parameters() for x in (p, p.grad) if x is not None]
    before = [x.detach().clone() for x in tensors]
    calls: dict[str, Callable[[], None]] = {
        "project_": eq.project_,
        "project_gradients_": eq.project_gradients_,
        "penalty": lambda: eq.add_penalty_gradients_(1.0),
        "decoupled": lambda: eq.decoupled_penalty_(1.0, lr=0.1),
    }
    with pytest.raises(ValueError, match="layer '2': its weight is computed from other"):
        calls[call]()
    for one, two in zip(tensors, before, strict=True):
        assert torch.equal(one, two)


def test_a_share_of_the_distance() -> None:
    model = network()
    eq = made(model)
    before = eq.distance()
    kept = [_projected(model, eq)]
    eq.project_(share=0.3)
    after = eq.distance()
    for layer, distance in after.layers.items():
        assert distance == pytest.approx(0.7 * before.layers[layer], rel=1e-12)
    kept.append(_projected(model, eq))
    for one, two in zip(*kept, strict=True):
        assert torch.allclose(one, two, atol=1e-14)
    with pytest.raises(ValueError, match="share is 0; accepted: above 0 up to 1"):
        eq.project_(share=0)


def _projected(model: nn.Module, eq: Equivariance) -> list[Tensor]:
    held = [p.detach().clone() for p in model.parameters()]
    eq.project_()
    projected = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p, x in zip(model.parameters(), held, strict=True):
            p.copy_(x)
    return projected


def test_a_factor_for_each_layer_in_one_convention() -> None:
    """gamma / 2 times the penalty in the loss is what is added to the gradients."""
    model, gammas = network(), {"*": 0.5, "2": 0.25, "5": 0.0}
    eq = made(model)
    squared = {layer: d**2 for layer, d in eq.distance().layers.items()}
    expected = 0.5 * squared["0"] + 0.25 * squared["2"]
    assert eq.penalty(gammas).item() == pytest.approx(expected)
    assert eq.penalty(2.0).item() == pytest.approx(2 * eq.penalty().item())
    (1 / 2 * eq.penalty(gammas)).backward()
    by_loss = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad()
    eq.add_penalty_gradients_(gammas)
    added = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    for one, two in zip(by_loss, added, strict=True):
        assert torch.allclose(one, two, atol=1e-13)
    with pytest.raises(ValueError, match="gamma: no layer '7'; accepted: 0, 2, 5"):
        eq.penalty({"7": 1.0})
    with pytest.raises(ValueError, match="gamma is nan; accepted: numbers"):
        eq.add_penalty_gradients_(float("nan"))


def test_the_decoupled_penalty_is_the_flow_of_the_added_one() -> None:
    """Eight steps of gradient descent on the penalty alone, in one."""
    one, two = network(), network()
    two.load_state_dict(one.state_dict())
    eq, steps = made(one), torch.optim.SGD(one.parameters(), lr=0.1)
    for _ in range(8):
        steps.zero_grad()
        eq.add_penalty_gradients_({"0": 2.0, "*": 0.7})
        steps.step()
    made(two).decoupled_penalty_({"0": 2.0, "*": 0.7}, lr=0.1, steps=8)
    for x, y in zip(one.parameters(), two.parameters(), strict=True):
        # of patterns, the last one counts
        assert torch.allclose(x, y, atol=1e-13)
    before = made(two).distance().layers["2"]
    made(two).decoupled_penalty_(1.0, lr=1.0)
    assert made(two).distance().total < 1e-12 < before


def test_a_decoupled_penalty_that_would_not_shrink_is_refused() -> None:
    eq = made(network())
    before = eq.distance().total
    for gamma in (11.0, -1.0):
        with pytest.raises(ValueError, match=r"layer '0': lr times gamma is .*; accepted: 0 to 1"):
            eq.decoupled_penalty_(gamma, lr=0.1)
    with pytest.raises(ValueError, match="steps is 0; accepted: 1 or more"):
        eq.decoupled_penalty_(1.0, lr=0.1, steps=0)
    assert eq.distance().total == before


def test_the_table_has_a_line_for_each_parameter() -> None:
    eq = made(network())
    lines = eq.table().splitlines()
    assert lines[0].split() == ["parameter", "dim", "E", "of", "distance", "share", "ms"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[1:]}
    assert list(rows) == ["0.weight", "0.bias", "2.weight", "5.weight"]
    assert rows["2.weight"][:2] == [str(8 * 6 * 9 // 4), str(8 * 6 * 9)]
    assert float(rows["5.weight"][2]) == pytest.approx(eq.distance().layers["5"], rel=1e-2)


@pytest.mark.parametrize("layout", ["channels last", "transposed gradient"])
def test_other_layouts_of_memory(layout: str) -> None:
    model = network()
    if layout == "channels last":
        model.to(memory_format=torch.channels_last)
    eq = made(model)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
        if layout == "transposed gradient" and p.ndim == 4:
            p.grad = torch.zeros_like(p.mT).mT
    eq.add_penalty_gradients_(1.0)
    added = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    (1 / 2 * eq.penalty()).backward()
    for name, p in model.named_parameters():
        expected = torch.zeros_like(p) if p.grad is None else p.grad
        assert torch.allclose(added[name], expected, atol=1e-13)
    eq.decoupled_penalty_(10.0, lr=0.1)
    assert eq.distance().total < 1e-12


def test_a_layer_that_commutes_with_a_subgroup_only() -> None:
    """Under C2 a 3 x 3 filter keeps 5 directions in place of 3; the network commutes with C2."""
    model = network()
    eq = Equivariance(model, "C4", BATCH, subgroups={"2": "C2"})
    rows = {line.split(".weight")[0].strip(): line for line in str(eq).splitlines()[1:]}
    assert f"dim E {8 * 3} of {8 * 9}" in rows["0"]
    assert f"dim E {48 * 5} of {48 * 9}" in rows["2"]
    before = eq.error(BATCH).relative
    eq.project_()
    assert eq.error(BATCH).relative < 1e-12 < before
    assert eq.error(BATCH, eq.symmetrized()).relative < 1e-12
    numbers = eq.draw(100, torch.Generator().manual_seed(0))
    assert isinstance(numbers, torch.Tensor)
    drawn = numbers.unique().tolist()
    assert len(drawn) == 2
    turned = eq.act(drawn[1], BATCH)
    assert torch.equal(turned, BATCH.flip(2, 3))
    assert Equivariance(model, "C4", BATCH).error(BATCH).relative > 1e-3
    for given, message in (
        ({"2": "D1"}, "subgroups: D1 is no subgroup of C4"),
        ({"3": "C2"}, "subgroups: no layer '3'; accepted: 0, 2, 5"),
        ({"2": "C1"}, "subgroups: C1 have only the identity in common"),
    ):
        with pytest.raises(ValueError, match=message):
            Equivariance(model, "C4", BATCH, subgroups=given)
