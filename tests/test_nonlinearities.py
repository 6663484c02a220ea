"""Functions between layers: that they commute with the group, and what they do to one vector."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from equireg.symmetry.compact import angular_momentum, frequency, orthogonal, rotations, unitary
from equireg.symmetry.groups import Group, cyclic
from equireg.symmetry.nonlinearities import Gates, Norms, Products
from equireg.symmetry.representations import (
    Representation,
    defining,
    direct_sum,
    regular,
    trivial,
)

SO2, SO3, O3 = rotations(2), rotations(3), orthogonal(3)
MIXED = {
    "SO(2)": direct_sum(frequency(SO2, 1), trivial(SO2, 2), frequency(SO2, 3), frequency(SO2, 1)),
    "SO(3)": direct_sum(
        angular_momentum(SO3, 2), angular_momentum(SO3, 1), trivial(SO3), angular_momentum(SO3, 2)
    ),
    "O(3)": direct_sum(angular_momentum(O3, 0, -1), trivial(O3), defining(O3)),
    "SU(2)": 2 * defining(unitary()) + trivial(unitary(), 2),
    "C3": regular(cyclic(3)) + trivial(cyclic(3)),
}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def defect(
    group: Group, function: Callable[[Tensor], Tensor], rho: Representation, sigma: Representation
) -> float:
    """|f(rho(g) x) - sigma(g) f(x)|, the largest, over random elements."""
    elements, x = group.sample(5, np.random.default_rng(1)), random(5, 3, rho.size)
    moved = function(rho.act_each(elements, x))
    return float((moved - sigma.act_each(elements, function(x))).abs().max())


@pytest.mark.parametrize("rho", MIXED.values(), ids=MIXED)
def test_they_commute(rho: Representation) -> None:
    group = rho.group
    norms, gates, products = Norms(rho), Gates(rho), Products(rho, rho)
    assert defect(group, norms, rho, rho) < 1e-12
    assert defect(group, gates, gates.input, rho) < 1e-12
    assert defect(group, products, rho, products.output) < 1e-12
    if rho.permutations is None:
        assert defect(group, torch.tanh, rho, rho) > 1e-2  # of entries: does not


def test_gates_and_norms_reach_the_right_summands() -> None:
    """A summand of its own for each number, whatever the order of the kinds."""
    rho = MIXED["SO(2)"]
    gates = Gates(rho, gate=lambda s: s)
    x = torch.cat([torch.ones(rho.size), torch.tensor([2.0, 3.0, 4.0])])
    one = float(torch.tanh(torch.tensor(1.0)))
    assert gates(x).tolist() == pytest.approx([2, 2, one, one, 3, 3, 4, 4])
    lengths = Norms(rho, lambda r: r * r)(2 * torch.ones(rho.size))
    four = 2 * 8**0.5
    assert lengths.tolist() == pytest.approx([four, four, 4, 4, *[four] * 4])


def test_gradients_at_zero_are_numbers() -> None:
    x = torch.zeros(3, MIXED["SO(3)"].size, requires_grad=True)
    Norms(MIXED["SO(3)"])(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_two_vectors_make_a_number_a_vector_and_a_tensor() -> None:
    vectors = defining(SO3)
    assert Products(vectors, vectors).output.size == 9
    found = Products(2 * vectors, vectors).output
    assert len(found.summands) == 2
    assert len(Products(2 * vectors, 2 * vectors).output.kinds) == 1  # one basis for all four
    outer = Products(vectors, vectors)(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 1.0, 0.0]))
    assert outer.tolist() == [0, 1, 0, 0, 2, 0, 0, 3, 0]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"moves nothing; accepted: a summand"):
        Gates(trivial(SO2, 3))
    with pytest.raises(ValueError, match=r"x has 2 entries; accepted: 3, the last 1"):
        Gates(frequency(SO2, 1))(torch.ones(2))
    with pytest.raises(ValueError, match=r"x has 3 entries; accepted: 2"):
        Norms(frequency(SO2, 1))(torch.ones(3))
    with pytest.raises(ValueError, match=r"representations of SO\(2\).* meet"):
        Products(frequency(SO2, 1), defining(SO3))
    vectors, turned = frequency(SO2, 1), frequency(SO2, 2)
    with pytest.raises(ValueError, match=r"x has 4 entries; accepted: 2"):
        Products(vectors, vectors)(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"y has 3 entries; accepted: 2"):
        Products(vectors, vectors)(torch.ones(2, 2), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"one argument, and rho is frequency 1, sigma freq"):
        Products(vectors, turned)(torch.ones(2))
