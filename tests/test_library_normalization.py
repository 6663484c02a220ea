"""Batch normalization over regular channels: warned of, and exact with statistics of fields."""

from __future__ import annotations

import copy
import doctest
import warnings

import pytest
import torch
from torch import nn

import equireg
from equireg import FieldBatchNorm
from equireg.library import equivariance, normalization, vectors
from equireg.library.equivariance import Equivariance
from equireg.symmetry.groups import point_group
from equireg.symmetry.representations import regular, trivial

D4 = point_group("D4")
IMAGES = torch.randn(6, 1, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(norm: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        norm,
        nn.ReLU(),
        nn.Conv2d(16, 8, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()


def made(model: nn.Module) -> Equivariance:
    return Equivariance(model, "D4", IMAGES, {"[03]": (None, "regular")})


@pytest.mark.parametrize("pooled", [True, False], ids=["fields", "channels"])
def test_training_with_each_image_turned_by_itself(pooled: bool) -> None:
    """With weights in E it changes no output, no gradient, no running statistic: of fields only."""
    model = network(FieldBatchNorm(16, 8) if pooled else nn.BatchNorm2d(16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eq = made(model)
    eq.project_()
    twin = copy.deepcopy(model)
    elements = torch.tensor([0, 3, 5, 7, 1, 6])
    worst = 0.0
    for _ in range(3):
        one, two = model(IMAGES), twin(eq.act(elements, IMAGES))
        worst = max(worst, float(((one - two).norm() / one.norm()).detach()))
    for (name, x), y in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        if "running" in name:
            worst = max(worst, float((x - y).norm() / x.norm()))
    one.square().sum().backward()
    two.square().sum().backward()
    eq.project_gradients_()
    evaluated = eq.error(IMAGES).relative
    assert (worst < 1e-12) == pooled
    assert (evaluated < 1e-12) == pooled


def test_plain_batch_normalization_is_warned_of_with_what_to_do() -> None:
    with pytest.warns(UserWarning, match=r"layer '1' \(FieldBatchNorm\(16, 8\)\)") as caught:
        made(network(nn.BatchNorm2d(16, affine=False)))
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=r"layer '1' \(track_running_stats=False\)"):
        made(network(nn.InstanceNorm2d(16, track_running_stats=True)))
    for norm in (FieldBatchNorm(16, 8), FieldBatchNorm(2 * regular(D4)), nn.InstanceNorm2d(16)):
        made(network(norm))
    Equivariance(network(nn.BatchNorm2d(16)), "D4", IMAGES)  # trivial channels are not moved


@pytest.mark.parametrize("momentum", [0.1, None])
def test_fields_of_one_channel_are_batch_normalization(momentum: float | None) -> None:
    ours = FieldBatchNorm(3, 1, momentum=momentum).double()
    theirs = nn.BatchNorm2d(3, momentum=momentum).double()
    theirs.load_state_dict(ours.state_dict())
    for _ in range(3):
        batch = torch.randn(5, 3, 4, 4).double()
        assert torch.allclose(ours(batch), theirs(batch), atol=1e-12)
    for one, two in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        assert torch.allclose(one, two)
    ours.eval()
    theirs.eval()
    assert torch.allclose(ours(batch), theirs(batch), atol=1e-12)


def test_statistics_are_those_of_each_field() -> None:
    norm = FieldBatchNorm(regular(D4) + trivial(D4, 2), momentum=1.0).double()
    x = 3 + 2 * torch.randn(50, 10, 6).double()
    norm(x)
    field = x[:, :8]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean[:8], field.mean().expand(8))
    assert torch.allclose(norm.running_var[:8], field.var().expand(8))
    assert torch.allclose(norm.running_mean[8:], x[:, 8:].mean((0, 2)))
    assert torch.allclose(norm.running_var[9], x[:, 9].var())


def test_what_is_refused() -> None:
    for make, message in (
        (lambda: FieldBatchNorm(10, 4), "10 channels in fields of 4; accepted: multiples"),
        (lambda: FieldBatchNorm(equireg.representations.vectors(D4, "xy") * regular(D4)), "not"),
        (lambda: FieldBatchNorm(4, 2)(torch.zeros(2, 3)), r"shape \(2, 3\); accepted: \(samples"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_doctests() -> None:
    for module in (normalization, vectors, equivariance):
        assert doctest.testmod(module).attempted
        assert not doctest.testmod(module).failed
