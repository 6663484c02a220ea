"""``Equivariance`` under compact groups: vectors of the plane and of space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import equireg
from equireg import groups
from equireg.library.equivariance import Equivariance
from equireg.nonlinearities import Gates, Norms, Products
from equireg.representations import (
    Representation,
    angular_momentum,
    defining,
    direct_sum,
    frequency,
    from_generators,
    trivial,
)
from equireg.symmetry.groups import Elements, Group

O3 = groups.orthogonal(3)
VECTOR, TENSOR = defining(O3), angular_momentum(O3, 2)
HIDDEN = direct_sum(trivial(O3, 4), 4 * VECTOR, 2 * TENSOR)


class Inertia(nn.Module):
    """Two vectors to a vector: products, gates, norms."""

    def __init__(self, group: Group = O3, pointwise: bool = False) -> None:
        super().__init__()
        self.pointwise = pointwise
        self.first = nn.Linear(6, 6, bias=False)
        self.products = Products(2 * VECTOR, 2 * VECTOR)
        self.gates = Gates(HIDDEN)
        self.norms = Norms(HIDDEN)
        self.second = nn.Linear(36 + 6, self.gates.input.size)
        self.last = nn.Linear(HIDDEN.size, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.second(torch.cat([x, self.products(x)], 1))
        x = torch.tanh(self.gates(x)) if self.pointwise else self.norms(self.gates(x))
        return torch.as_tensor(self.last(x))


LAYERS = {
    "first": (None, 2 * VECTOR),
    "second": (None, Gates(HIDDEN).input),
    "last": (None, VECTOR),
}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Inertia().double()


def points(count: int = 5, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, size, dtype=torch.float64, generator=generator)


def made(model: nn.Module) -> Equivariance:
    return Equivariance(model, O3, points(), LAYERS, input=2 * VECTOR, strict=True)


def test_projected_weights_make_it_equivariant(model: nn.Module) -> None:
    eq = made(model)
    assert eq.error(points()).relative > 0.1
    assert eq.distance().total > 1
    eq.project_()
    assert eq.distance().total < 1e-12
    assert eq.error(points()).relative < 1e-12
    assert eq.check(points()) == []


def test_augmented_gradient_on_e_is_the_projected_one(model: nn.Module) -> None:
    """Fact A, once the mean is of the layers' degree; with targets that are moved too."""
    eq = made(model)
    eq.project_()
    weights, targets = list(model.parameters()), points(5, 3)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return torch.as_tensor((model(x) - y).square().mean())

    mean = torch.autograd.grad(eq.group_mean(loss, points(), targets), weights)
    with pytest.warns(UserWarning, match=r"degree is 1: gradients .* accepted: 4 or more"):
        coarse = Equivariance(model, O3, points(), LAYERS, input=2 * VECTOR, degree=1)
    rough = torch.autograd.grad(coarse.group_mean(loss, points(), targets), weights)
    loss(points(), targets).backward()
    eq.project_gradients_()
    for errors, bound in ((mean, 1e-12), (rough, None)):
        worst = max(
            float((one - two.grad).abs().max())
            for one, two in zip(errors, weights, strict=True)
            if two.grad is not None
        )
        assert worst < bound if bound else worst > 1e-3


def test_means_are_of_the_degree_that_the_layers_need() -> None:
    """A product of angular momenta 4 has 8 in it, and a layer from there to 4 needs 12."""
    group = groups.rotations(3)
    four = angular_momentum(group, 4)
    x, y = points(8, 9).chunk(2)
    layers = [nn.Linear(9, 9, bias=False), Products(four, four), nn.Linear(81, 9, bias=False)]
    model = nn.Sequential(*layers).double()
    eq = Equivariance(model, group, x, {"0": (None, four), "2": (None, four)}, input=four)
    eq.project_()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return torch.as_tensor((model(x) - y).square().mean())

    weights = list(model.parameters())
    mean = torch.autograd.grad(eq.group_mean(loss, x, y), weights)
    loss(x, y).backward()
    eq.project_gradients_()
    for one, two in zip(mean, weights, strict=True):
        assert two.grad is not None
        assert torch.allclose(one, two.grad, atol=1e-11)


def test_inputs_and_targets_move_alike(model: nn.Module) -> None:
    eq = made(model)
    eq.project_()
    generator = torch.Generator().manual_seed(0)
    elements = eq.draw(5, generator)
    assert isinstance(elements, Elements)
    moved = model(eq.act(elements, points()))
    assert torch.allclose(moved, eq.act(elements, model(points()), of="output"), atol=1e-12)
    one, two = (eq.augment(points(), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, points())
    with pytest.raises(ValueError, match=r"there are 2 elements .* accepted: 1, or one for each"):
        eq.act(elements[:2], points())


def test_the_mean_of_predictions_is_nearly_equivariant(model: nn.Module) -> None:
    eq = Equivariance(model, O3, points(), LAYERS, input=2 * VECTOR, degree=8)
    whole = eq.symmetrized()
    assert eq.error(points(), whole).relative < 1e-3 < eq.error(points()).relative


@pytest.mark.parametrize("name", ["O(2)", "C2"])
def test_odd_functions_commute_with_changes_of_sign(name: str) -> None:
    """Of numbers that a mirror turns into their negatives; even functions do not."""
    if name == "O(2)":
        sign = frequency(groups.orthogonal(2), 0, mirror=-1)
    else:
        sign = from_generators(groups.cyclic(2), [[[-1.0]]], "sign")
    layers = {"0": (None, 4 * sign), "2": (None, 2 * sign)}
    for function, commutes in ((nn.Tanh(), True), (nn.ReLU(), False)):
        parts = [nn.Linear(3, 4, bias=False), function, nn.Linear(4, 2, bias=False)]
        model, x = nn.Sequential(*parts).double(), points(5, 3)
        if not commutes:
            with pytest.warns(UserWarning, match=r"relu\): works entry by entry"):
                Equivariance(model, sign.group, x, layers, input=3 * sign)
            continue
        eq = Equivariance(model, sign.group, x, layers, input=3 * sign, strict=True)
        eq.project_()
        assert eq.error(x).relative < 1e-12


def test_what_does_not_commute_is_said() -> None:
    torch.manual_seed(0)
    model = Inertia(pointwise=True).double()
    with pytest.warns(UserWarning, match=r"tanh: works entry by entry, on trivial\(4\)"):
        Equivariance(model, O3, points(), LAYERS, input=2 * VECTOR)


def test_made_for_another_representation(model: nn.Module) -> None:
    other = direct_sum(*[TENSOR] * 6, trivial(O3, 2))
    assert other.size == Gates(HIDDEN).input.size
    layers = LAYERS | {"second": (None, other)}
    with pytest.raises(ValueError, match=r"layer 'gates' was made for .* its input is"):
        Equivariance(model, O3, points(), layers, input=2 * VECTOR)


def test_the_plane_and_its_frequencies() -> None:
    """Two channels of vectors after ten layers of training in E are still equivariant."""
    so2 = groups.rotations(2)
    vector = frequency(so2, 1)
    hidden = 3 * vector + 2 * frequency(so2, 2)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 4), Products(2 * vector, 2 * vector), nn.Linear(16, 10), Norms(hidden)
    ).double()
    layers: dict[str, tuple[None, Representation]] = {
        "0": (None, 2 * vector),
        "2": (None, hidden),
    }
    eq = Equivariance(model, so2, points(4, 4), layers, input=2 * vector, strict=True)
    assert "dim E" in str(eq)
    steps = torch.optim.SGD(model.parameters(), 0.1)
    eq.project_()
    for _ in range(5):
        steps.zero_grad()
        model(points(4, 4)).square().mean().backward()
        eq.project_gradients_()
        steps.step()
    assert eq.error(points(4, 4)).relative < 1e-12


def test_what_a_compact_group_cannot_do_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"O\(3\) moves neither the pixels"):
        Equivariance(nn.Conv2d(3, 3, 3), O3, torch.rand(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"subgroups of O\(3\), which is not finite"):
        Equivariance(model, O3, points(), LAYERS, input=2 * VECTOR, subgroups={"first": "C2"})
    plain = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"infinitely many elements"):
        Equivariance(plain, O3, torch.rand(2, 3), "regular", input=VECTOR)
    with pytest.raises(ValueError, match=r"degree is 0; accepted: 1 or more"):
        Equivariance(model, O3, points(), LAYERS, input=2 * VECTOR, degree=0)


def test_doors() -> None:
    assert equireg.nonlinearities.Norms is Norms
    assert equireg.groups.rotations(2).name == "SO(2)"
