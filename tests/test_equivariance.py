"""``Equivariance`` on models of many kinds, against averages over the group and known sizes."""

from __future__ import annotations

import copy
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import prune

import equireg.library.equivariance
from equireg.library.equivariance import Equivariance
from equireg.symmetry.groups import Group, cyclic, generate, point_group, symmetric
from equireg.symmetry.representations import (
    defining,
    from_generators,
    grid,
    regular,
    trivial,
)

# Batch normalization over regular channels is exact in evaluation mode, as it is used here.
POOLED = "batch normalization over channels that the group moves"
pytestmark = pytest.mark.filterwarnings(f"ignore:{POOLED}")

C4, D4, S5 = point_group("C4"), point_group("D4"), symmetric(5)
TURN = from_generators(C4, [[[0, -1], [1, 0]]], "turn")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


def cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Tanh(),
        nn.LayerNorm((6, 4, 4)),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(96, 8),
        nn.ReLU(),
        nn.Linear(8, 5),
    )


class Functional(nn.Module):
    """Everything done by functions and methods, with a shortcut and two branches."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 5, padding=2)
        self.norm, self.last = nn.GroupNorm(2, 8), nn.Linear(8 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.first(x).relu(), 2)
        x = torch.cat([x, x + self.second(x)], dim=1)
        x = F.max_pool2d(F.pad(self.norm(x), (1, 1, 1, 1)), kernel_size=3, stride=2)
        return torch.sigmoid(self.last(x.reshape(len(x), -1)))


def regular_cnn() -> tuple[nn.Module, dict[str, Any]]:
    """Lifting, group convolutions with normalization, one grouped, to an invariant output."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.PReLU(16),
        nn.Conv2d(16, 16, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    layers = dict.fromkeys(("0", "3", "5"), (None, "regular"))
    return model, layers


class Deep(nn.Module):
    """A multilayer perceptron, from and to vectors."""

    def __init__(self, *sizes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return torch.as_tensor(self.layers[-1](x))


V5 = defining(S5)
Case = Callable[[], tuple[nn.Module, "str | Group", Tensor, dict[str, Any]]]
CASES: dict[str, Case] = {
    "cnn C4": lambda: (cnn(), "C4", images(3, 2, 8, 8), {}),
    "cnn D4": lambda: (cnn(), "D4", images(3, 2, 8, 8), {}),
    "cnn D1": lambda: (cnn(), "D1", images(3, 2, 8, 8), {}),
    "functional": lambda: (Functional(), "D4", images(3, 1, 10, 10), {}),
    "line": lambda: (
        nn.Sequential(nn.Conv1d(2, 4, 3, dilation=2), nn.Flatten(), nn.Linear(24, 3)),
        "D1",
        images(3, 2, 10),
        {},
    ),
    "volume": lambda: (
        nn.Sequential(
            nn.Conv3d(1, 2, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(16, 3)
        ),
        "Oh",
        images(2, 1, 6, 6, 6),
        {},
    ),
    "rectangle": lambda: (
        nn.Sequential(nn.Conv2d(1, 2, (3, 5)), nn.Flatten(), nn.Linear(2 * 4 * 3, 3)),
        "D2",
        images(2, 1, 6, 7),
        {},
    ),
    "pixels to pixels": lambda: (
        nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.ConvTranspose2d(4, 4, 3, stride=2, padding=1),
            nn.ConvTranspose2d(4, 2, 3, padding=1, groups=2),
        ),
        "D4",
        images(2, 1, 9, 9),
        {},
    ),
    "regular C4": lambda: (*_at(regular_cnn(), "C4", images(3, 1, 9, 9)),),
    "regular D4": lambda: (*_at(regular_cnn(), "D4", images(3, 1, 9, 9)),),
    "vectors of pixels": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)),
        C4,
        images(3, 2, 5, 5),
        {
            "representations": {"0": (TURN, 2 * TURN), "1": (None, TURN)},
            "input": TURN,
        },
    ),
    "permuted vectors": lambda: (
        Deep(5, 20, 26, 5),
        S5,
        images(3, 5),
        {
            "input": V5,
            "representations": {
                "layers.0": (None, 4 * V5),
                "layers.1": (None, V5 * V5 + trivial(S5)),
                "layers.2": (None, V5),
            },
        },
    ),
    "graphs": lambda: (
        Deep(25, 25, 3),
        S5,
        images(3, 25),
        {"input": V5 * V5, "representations": {"layers.0": (None, V5 * V5)}},
    ),
    "shifted channels": lambda: (
        nn.Sequential(nn.Conv1d(6, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 5, 2)),
        cyclic(6),
        images(3, 6, 7),
        {"input": defining(cyclic(6)), "representations": {"0": (None, "regular")}},
    ),
}


def _at(
    model: tuple[nn.Module, dict[str, Any]], group: str, example: Tensor
) -> tuple[nn.Module, str, Tensor, dict[str, Any]]:
    return model[0], group, example, {"representations": model[1]}


def build(name: str) -> tuple[Equivariance, nn.Module, Tensor]:
    model, group, example, options = CASES[name]()
    model.double()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm | nn.PReLU):
            for tensor in (*layer.parameters(), *layer.buffers()):
                if tensor.is_floating_point():
                    tensor.data.uniform_(0.5, 1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=POOLED)
        return Equivariance(model, group, example, **options), model, example


@pytest.mark.parametrize("name", CASES)
def test_projected_models_are_equivariant(name: str) -> None:
    eq, model, example = build(name)
    before = eq.error(example)
    assert before.relative > 1e-3
    assert eq.distance().total > 0.1
    eq.project_()
    assert eq.distance().total < 1e-12
    assert eq.error(example).relative < 1e-12
    assert eq.error(example).largest < 1e-12
    held = copy.deepcopy(model.state_dict())
    eq.project_()
    for key, tensor in model.state_dict().items():
        assert torch.allclose(tensor.double(), held[key].double(), atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_penalty_and_its_gradient(name: str) -> None:
    """|A - Pi_E A|^2 with gradient 2 (A - Pi_E A), by what projection changes."""
    eq, model, _ = build(name)
    penalty = eq.penalty()
    penalty.backward()
    twin = copy.deepcopy(eq)
    twin.project_()
    pairs = zip(model.parameters(), twin._model.parameters(), strict=True)
    total = 0.0
    for weight, projected in pairs:
        away = (weight - projected).detach()
        total += float(away.square().sum())
        gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
        assert torch.allclose(gradient, 2 * away, atol=1e-12)
    assert penalty.item() == pytest.approx(total, rel=1e-12)
    distance = eq.distance()
    assert distance.total == pytest.approx(total**0.5)
    assert sum(d**2 for d in distance.layers.values()) == pytest.approx(total)


@pytest.mark.parametrize("name", CASES)
def test_added_gradients_are_those_of_the_penalty(name: str) -> None:
    eq, model, example = build(name)
    model.eval()
    (model(example).square().mean() + 0.3 / 2 * eq.penalty()).backward()
    expected = [p.grad for p in model.parameters()]
    model.zero_grad()
    model(example).square().mean().backward()
    eq.add_penalty_gradients_(0.3)
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        assert weight.grad is not None
        assert gradient is not None
        assert torch.allclose(weight.grad, gradient, atol=1e-12)


def test_penalty_is_twice_differentiable() -> None:
    eq, model, _ = build("regular C4")
    weights = list(model.parameters())
    first = torch.autograd.grad(eq.penalty(), weights, create_graph=True, allow_unused=True)
    moved = [g for g in first if g is not None]
    squared = torch.stack([g.square().sum() for g in moved]).sum()
    second = torch.autograd.grad(squared, weights, allow_unused=True)
    for one, two in zip(first, second, strict=True):  # projections: 2 Pi (2 Pi A) 2 = 4 (2 Pi A)
        assert (one is None) == (two is None)
        assert one is None or two is None or torch.allclose(two, 4 * one, atol=1e-12)


def test_penalty_under_functional_transforms() -> None:
    """By the name of a weight, as torch.func wants it."""
    eq, model, _ = build("cnn C4")
    weight = model.get_parameter("0.weight")
    eq.penalty().backward()

    class Penalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self) -> Tensor:
            return eq.penalty()

    held = {"model.0.weight": weight.detach()}
    gradient = torch.func.grad(lambda w: torch.func.functional_call(Penalty(), w, ()))(held)
    gradient = gradient["model.0.weight"]
    assert weight.grad is not None
    assert torch.allclose(gradient, weight.grad, atol=1e-12)


def test_known_dimensions() -> None:
    """The paper's network with biases: per filter 3 of 9, per output and channel 13 of 49."""
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(784, 10),
    )
    text = str(Equivariance(model, "C4", torch.zeros(1, 1, 28, 28)))
    assert text.splitlines()[0] == (
        f"C4 on 3 layers; dim E {16 * 3 + 256 * 3 + 160 * 13} of {16 * 9 + 256 * 9 + 160 * 49}"
    )


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=1e-2),
        lambda p: torch.optim.Adam(p, 1e-2),
    ],
    ids=["SGD", "Adam"],
)
@pytest.mark.parametrize("name", ["cnn D4", "regular C4", "graphs"])
def test_projected_gradients_keep_weights_equivariant(
    name: str, optimizer: Callable[[Any], torch.optim.Optimizer]
) -> None:
    eq, model, example = build(name)
    eq.project_()
    model.eval()
    start = [p.clone() for p in model.parameters()]
    steps = optimizer(model.parameters())
    for _ in range(5):
        steps.zero_grad()
        model(example).exp().sum().backward()
        eq.project_gradients_()
        steps.step()
    assert eq.distance().total < 1e-10
    assert not torch.allclose(start[0], next(model.parameters()))


@pytest.mark.parametrize("name", ["cnn C4", "regular D4"])
def test_augmented_gradient_on_e_is_the_projected_one(name: str) -> None:
    """Fact A: for A in E, grad R_aug(A) = Pi_E grad R(A), with the exact group mean."""
    eq, model, example = build(name)
    eq.project_()
    model.eval()
    weights = list(model.parameters())
    augmented = torch.autograd.grad(
        eq.group_mean(lambda x: model(x).exp().mean(), example), weights
    )
    model(example).exp().mean().backward()
    eq.project_gradients_()
    for one, two in zip(augmented, weights, strict=True):
        assert two.grad is not None
        assert torch.allclose(one, two.grad, atol=1e-12)


def test_targets_are_moved_with_the_batch() -> None:
    """Fact A for outputs that the group moves; with targets that stay where they are it fails."""
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)
    ).double()
    batch, weights = images(3, 1, 6, 6), list(model.parameters())
    kinds = (images(3, 6, 6) * 3).long()
    eq = Equivariance(model, "C4", batch)
    eq.project_()
    F.cross_entropy(model(batch), kinds).backward()
    eq.project_gradients_()
    moved = eq.group_mean(lambda x, y: F.cross_entropy(model(x), y), batch, kinds)
    still = eq.group_mean(lambda x: F.cross_entropy(model(x), kinds), batch)
    errors = [
        max(
            float((one - weight.grad).abs().max())
            for one, weight in zip(torch.autograd.grad(mean, weights), weights, strict=True)
            if weight.grad is not None
        )
        for mean in (moved, still)
    ]
    assert errors[0] < 1e-14
    assert errors[1] > 1e-4


def test_penalty_attracts_what_augmentation_alone_does_not() -> None:
    eq, model, example = build("cnn C4")
    descent = torch.optim.SGD(model.parameters(), 0.05)
    random, start = torch.Generator().manual_seed(0), eq.distance().total
    for _ in range(200):
        descent.zero_grad()
        loss = model(eq.augment(example, random)).square().mean()
        (loss + 1.0 * eq.penalty()).backward()
        descent.step()
    assert eq.distance().total < 1e-2 * start


def test_augmentation_draws_uniform_elements_per_image() -> None:
    eq, _, _ = build("cnn D4")
    batch = images(1, 2, 8, 8).expand(4000, -1, -1, -1)
    moved = eq.augment(batch, torch.Generator().manual_seed(0))
    again = eq.augment(batch, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)
    one = batch[0]
    turns = [x.rot90(k, (1, 2)) for x in (one, one.flip(2)) for k in range(4)]
    counts = [int((moved == turn).flatten(1).all(1).sum()) for turn in turns]
    assert sum(counts) == 4000
    assert min(counts) > 400


def test_augmentation_of_integers_of_another_size_and_targets() -> None:
    eq, _, _ = build("cnn C4")
    batch = (images(5, 2, 12, 12) * 255).to(torch.uint8)
    elements = eq.draw(5, torch.Generator().manual_seed(3))
    assert isinstance(elements, Tensor)
    moved = eq.act(elements, batch)
    assert moved.dtype == torch.uint8
    for i, g in enumerate(elements.tolist()):
        assert torch.equal(moved[i], eq.act(g, batch[i : i + 1])[0])
    with pytest.raises(ValueError, match=r"batch has shape \(5, 12, 12\); accepted: \(samples, 2"):
        eq.act(1, batch[:, 0])


def test_channels_move_with_the_pixels() -> None:
    """A field of vectors is turned with its grid."""
    eq, _, batch = build("vectors of pixels")
    moved = eq.act(1, batch)
    expected = batch.rot90(1, (2, 3))
    expected = torch.stack([-expected[:, 1], expected[:, 0]], 1)
    assert torch.allclose(moved, expected)


def test_error_counts_changed_predictions() -> None:
    """A model that reads one corner of an image of four classes changes three times in four."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).double()
    with torch.no_grad():
        model.get_parameter("1.weight").copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0.5]]))
    batch = torch.eye(4, dtype=torch.float64).view(4, 1, 2, 2)
    error = Equivariance(model, "C4", batch).error(batch)
    assert error.largest == 1
    # Images 0, 1, 2 are of class 0, image 3 of class 1; turned, each is at the other corners.
    assert error.changed == (3 * 1 + 3) / 12


def test_resnet_is_exact_where_the_grid_is() -> None:
    model = torchvision.models.resnet18(num_classes=10).double()
    batch = images(2, 3, 33, 33)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = Equivariance(model, "C4", batch)
    assert eq.error(batch).relative > 1e-2
    eq.project_()
    assert eq.error(batch).relative < 1e-12


@pytest.mark.slow
def test_sizes_that_break_the_grid_are_named() -> None:
    model = torchvision.models.resnet18(num_classes=10)
    batch = images(2, 3, 32, 32, dtype=torch.float32)
    with pytest.warns(UserWarning, match="break the symmetry of the grid") as caught:
        eq = Equivariance(model, "C4", batch)
    text = str(caught[0].message)
    assert "conv1 (conv2d): 32 x 32 to 16 x 16 pixels is not symmetric under C4" in text
    assert "maxpool (max_pool2d): 16 x 16 to 8 x 8" in text
    assert "here 31, 33, 35 would be" in text
    assert text.endswith("images of 33 x 33 pixels work for all layers")
    eq.project_()
    assert eq.error(batch).relative > 1e-2


@pytest.mark.parametrize(
    ("function", "size", "breaks"),
    [
        (lambda x: F.avg_pool2d(x, 2), 7, True),
        (lambda x: F.avg_pool2d(x, 2), 8, False),
        (lambda x: F.avg_pool2d(x, 2, ceil_mode=True), 7, True),
        (lambda x: x[:, :, ::2, ::2], 8, True),
        (lambda x: x[:, :, ::2, ::2], 9, False),
        (lambda x: x[..., 1:, 1:], 8, True),
        (lambda x: F.pad(x, (1, 0, 1, 0)), 8, True),
        (lambda x: F.interpolate(x, scale_factor=2), 5, False),
        (lambda x: F.interpolate(x, size=(8, 8)), 5, True),
        (lambda x: F.interpolate(x, size=(8, 8), mode="bilinear"), 5, False),
        (lambda x: F.adaptive_avg_pool2d(x, 3), 8, False),
        (lambda x: F.unfold(x, 2, stride=2).view(len(x), -1, 4, 4), 8, False),
    ],
)
def test_what_breaks_the_grid(
    function: Callable[[Tensor], Tensor], size: int, breaks: bool
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return function(self.conv(x)).mean((2, 3))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eq = Equivariance(Model(), "C4", torch.zeros(2, 1, size, size))
    assert bool(caught) == breaks, [str(w.message) for w in caught]
    eq.project_()
    assert breaks or eq.error(images(4, 1, size, size, dtype=torch.float32)).deviating < 1e-4


@pytest.mark.parametrize(
    ("layer", "size", "breaks"),
    [
        (nn.Conv2d(1, 1, 3, stride=2), 8, True),
        (nn.Conv2d(1, 1, 3, stride=2), 9, False),
        (nn.Conv2d(1, 1, 2, padding="same"), 8, True),
        (nn.Conv2d(1, 1, 3, padding="same", padding_mode="circular"), 8, False),
        (nn.Conv2d(1, 1, 3, dilation=2, stride=3), 8, False),
        (nn.Conv2d(1, 1, 3, dilation=2, stride=3), 9, True),
        (nn.Conv2d(1, 1, 2, stride=2), 8, False),
        (nn.ConvTranspose2d(1, 1, 3, stride=2), 4, False),
        (nn.ConvTranspose2d(1, 1, 3, stride=2, output_padding=1), 4, True),
    ],
)
def test_strides_that_break_the_grid(layer: nn.Module, size: int, breaks: bool) -> None:
    """The warning agrees with the error that is left after projection."""
    batch = images(2, 1, size, size, dtype=torch.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eq = Equivariance(nn.Sequential(layer), "C4", batch)
    eq.project_()
    assert bool(caught) == breaks
    assert (eq.error(batch).relative > 1e-4) == breaks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* should not be instantiated:DeprecationWarning")  # torch 2.6
def test_under_torch_compile() -> None:
    plain = cnn()
    compiled: Any = torch.compile(copy.deepcopy(plain), backend="aot_eager")
    batch = images(2, 2, 8, 8, dtype=torch.float32)
    outside, inside = Equivariance(plain, "C4", batch), Equivariance(compiled, "C4", batch)
    penalty = torch.compile(inside.penalty, fullgraph=True, backend="aot_eager")()
    penalty.backward()
    outside.penalty().backward()
    assert torch.allclose(penalty, outside.penalty(), rtol=1e-5)
    for one, two in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None and two.grad is not None:
            assert torch.allclose(one.grad, two.grad, atol=1e-6)
    inside.project_()
    assert inside.error(batch).relative < 1e-5
    assert list(inside.distance().layers) == list(outside.distance().layers)


def test_wrapped_by_data_parallel() -> None:
    model = nn.DataParallel(regular_cnn()[0])
    batch = images(2, 1, 9, 9, dtype=torch.float32)
    layers = {f"module.{n}": pair for n, pair in regular_cnn()[1].items()}
    eq = Equivariance(model, "C4", batch, layers)
    eq.project_()
    assert eq.error(batch).relative < 1e-5


def test_under_autocast() -> None:
    eq, _, _ = build("cnn C4")
    eq._model.float()
    outside = eq.penalty()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(eq.penalty(), outside)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, batch = regular_cnn()[0].to(dtype), images(2, 1, 9, 9, dtype=torch.float32)
    eq = Equivariance(model, "C4", batch, regular_cnn()[1])
    penalty = eq.penalty()
    assert penalty.dtype == torch.float32
    penalty.backward()
    weight = next(model.parameters())
    assert weight.grad is not None
    assert weight.grad.dtype == dtype
    held = weight.grad.clone()
    weight.grad.zero_()
    eq.add_penalty_gradients_(2)
    assert torch.equal(weight.grad, held)
    before = eq.distance().total
    eq.project_()
    assert eq.distance().total < 1e-2 * before
    assert weight.dtype == dtype


def test_a_model_is_left_as_it_was() -> None:
    model, batch = cnn(), images(4, 2, 8, 8, dtype=torch.float32)
    model[3].eval()
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    held = batch.clone()
    eq = Equivariance(model, "C4", batch)
    eq.penalty()
    eq.distance()
    eq.error(batch)
    eq.augment(batch, torch.Generator())
    assert torch.equal(batch, held)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_parameter_in_two_layers_counts_once() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.AdaptiveAvgPool2d(1))
    once = Equivariance(model[:1], "C4", torch.zeros(1, 1, 8, 8)).penalty()
    model[1].weight = model[0].weight
    twice = Equivariance(model, "C4", torch.zeros(1, 1, 8, 8)).penalty()
    assert torch.equal(once, twice)


def test_layers_can_be_left_out() -> None:
    model = cnn()
    eq = Equivariance(model, "C4", torch.zeros(1, 2, 8, 8), {"4": None, "9": None})
    assert set(eq.distance().layers) == {"0", "6"}


def test_reloaded_and_replaced_weights_are_seen() -> None:
    model = cnn()
    eq = Equivariance(model, "C4", torch.zeros(1, 2, 8, 8))
    zeros = {key: torch.zeros_like(tensor) for key, tensor in model.state_dict().items()}
    model.load_state_dict(zeros, assign=True)
    assert eq.penalty().item() == 0


def test_parametrized_weights_are_penalized_but_not_projected() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))
    model = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1))
    eq = Equivariance(model, "C4", torch.zeros(1, 1, 8, 8))
    eq.penalty().backward()
    assert all(p.grad is not None for p in conv.parametrizations["weight"].parameters())
    with pytest.raises(ValueError, match=r"layer '0': its weight is computed"):
        eq.project_()


class Twice(nn.Module):
    """Sums what it cannot sum."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.one(x) + self.two(x))


class Mixed(nn.Module):
    """Puts the pixels before the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.conv(x).permute(0, 2, 3, 1).reshape(len(x), -1)))


class Hidden(nn.Module):
    """Loses track of the pixels before a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(torch.fft.fft(self.conv(x).flatten(1)).abs()))


class Raw(nn.Module):
    """Holds a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.points = nn.Conv2d(1, 2, 3), nn.Parameter(torch.ones(4, 36))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(self.conv(x).flatten(2), self.points)


SQUARE = torch.zeros(2, 1, 8, 8)
SMALL = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


@pytest.mark.parametrize(
    ("model", "group", "example", "options", "message"),
    [
        (SMALL, "C3", SQUARE, {}, r"group is 'C3'; accepted: C1, C2, C4"),
        (SMALL, "C1", SQUARE, {}, r"C1 acts trivially on every layer"),
        (SMALL, "C4", torch.zeros(2, 1, 8, 9), {}, r"C4: a grid of 8 x 9 pixels"),
        (SMALL, "C4", torch.zeros(8), {}, r"example has shape \(8,\); accepted: \(samples,"),
        (SMALL, "C4", torch.zeros(2, 8), {}, r"shape \(2, 8\); a group by name turns pixels"),
        (SMALL, "C4", SQUARE, {"input": regular(C4)}, r"input is regular, on 4 entries; example"),
        (SMALL, D4, SQUARE, {"input": trivial(C4)}, r"representations of .* meet"),
        (
            SMALL,
            "C4",
            SQUARE,
            {"representations": {"7": ("trivial", "trivial")}},
            r"no layer '7'; accepted: 0, 1, 2",
        ),
        (
            SMALL,
            "C4",
            SQUARE,
            {"representations": {"0": "regular"}},
            r"layer '0': representations are 'regular'; accepted: a pair \(input, output\)",
        ),
        (
            SMALL,
            "C4",
            SQUARE,
            {"representations": {"0": (None, "irregular")}},
            r"layer '0': output is 'irregular' for 4 channels; accepted: 'trivial'",
        ),
        (
            SMALL,
            "D4",
            SQUARE,
            {"representations": {"0": (None, "regular")}},
            r"layer '0': output is 'regular' for 4 channels; .* multiples of 8",
        ),
        (
            SMALL,
            "C4",
            SQUARE,
            {"representations": {"0": (None, 2 * regular(C4))}},
            r"layer '0': output 2 \* regular acts on 8 entries, but the layer has 4",
        ),
        (
            SMALL,
            "C4",
            SQUARE,
            {"representations": {"2": ("regular", None)}},
            r"layer '2': its input is given as .*regular, but the layers before it make it trivial",
        ),
        (
            SMALL,
            "C4",
            SQUARE,
            {"representations": {"0": (None, 2 * TURN)}},
            r"layer '1': BatchNorm2d works entry by entry.* 2 \* turn",
        ),
        (
            nn.Sequential(nn.Conv2d(1, 4, (2, 3))),
            "C4",
            SQUARE,
            {},
            r"layer '0': C4: a grid of 2 x 3 pixels .* pass representations=\{'0': None\}",
        ),
        (
            Twice(),
            "C4",
            SQUARE,
            {"representations": {"one": (None, "regular")}},
            r"add puts .* together; pass the same output representation",
        ),
        (
            Hidden(),
            "C4",
            SQUARE,
            {},
            r"layer 'last': it is not known what acts on its 72 inputs after fft_fft; pass "
            r"representations=\{'last': \('trivial', None\)\}",
        ),
        (
            Raw(),
            "C4",
            SQUARE,
            {},
            r"layer '': it is not known how the group acts on points of a Raw, in cdist; accepted",
        ),
        (
            nn.Sequential(nn.Conv2d(4, 4, 3, groups=2)),
            "C4",
            torch.zeros(1, 4, 8, 8),
            {"input": 4 * trivial(C4), "representations": {"0": (None, "regular")}},
            r"layer '0': the group moves channels between the 2 groups",
        ),
    ],
)
def test_what_is_refused(
    model: nn.Module, group: str | Group, example: Tensor, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Equivariance(model, group, example, **options)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert model.training


def test_what_a_user_says_of_an_unknown_layer() -> None:
    """Pixels first, then channels: the user's representation of the reshaped features."""
    pixels_first = grid(C4, 6) * trivial(C4, 2)
    eq = Equivariance(Mixed(), "C4", SQUARE, {"last": (pixels_first, None)})
    eq.project_()
    batch = images(2, 1, 8, 8, dtype=torch.float32)
    assert eq.error(batch).relative < 1e-5


def test_layers_that_did_not_run_are_named() -> None:
    model = Twice()
    model.three = nn.Conv2d(1, 1, 3)
    with pytest.warns(UserWarning, match="did not run on the example are left out: three"):
        Equivariance(model, "C4", SQUARE)


def test_unknown_outputs_have_no_error() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(0))
    with pytest.warns(UserWarning, match="could not be tried.*after flatten; pass it as repr"):
        eq = Equivariance(model, "C4", SQUARE)
    with pytest.raises(ValueError, match="acts on the model's output after flatten"):
        eq.error(SQUARE)


def test_the_package_is_imported_without_torch() -> None:
    code = "import equireg, sys; assert 'torch' not in sys.modules; equireg.Equivariance"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Equivarience'"):
        _ = equireg.Equivarience  # type: ignore[attr-defined] # which `make lint` holds, too


def test_spaces_are_those_of_the_papers_layers() -> None:
    """The library's E is that of the paper's network, which holds it in coordinates."""
    from equireg.symmetry.representations import grid, trivial
    from equireg.symmetry.spaces import Space

    eq, model, _ = build("cnn C4")
    weight = model.get_submodule("4").weight
    assert isinstance(weight, Tensor)
    space = Space(trivial(C4, 6), trivial(C4, 4), grid(C4, 3), shape=(6, 4, 3, 3))
    expected = space.coordinates(weight.detach())[1].norm()
    assert eq.distance().layers["4"] == pytest.approx(float(expected), rel=1e-12)
    assert eq.penalty().item() == pytest.approx(eq.distance().total ** 2)


class Between(nn.Module):
    """Two layers with a function between them."""

    def __init__(
        self, first: nn.Module, function: Callable[[Tensor], Tensor], last: nn.Module
    ) -> None:
        super().__init__()
        self.first, self.function, self.last = first, function, last

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.function(self.first(x))))


def pasted(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 8, 8, 8)
    out[:, :, 1:-1, 1:-1] = x
    return out.flatten(1)


def copied(x: Tensor) -> Tensor:
    out = torch.zeros(len(x), 8, 8, 8)
    out[:, :, 1:-1, 1:-1].copy_(x)
    return out.flatten(1)


REGULAR = {"first": (None, "regular")}
LOST = {
    "transformed": (
        lambda x: torch.fft.fft2(x).real,
        nn.Conv2d(8, 2, 3),
        "8 inputs after fft_fft2",
    ),
    "pasted": (pasted, nn.Linear(512, 3), "after assigning to a part of a tensor"),
    "copied": (copied, nn.Linear(512, 3), "after assigning to a part of a tensor"),
    "along pixels": (lambda x: x, nn.Linear(6, 3), "6 inputs after the layers before it"),
    "normalized along pixels": (lambda x: x, nn.LayerNorm(6), "6 inputs after the layers before"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_lost_track_is_refused(name: str) -> None:
    function, last, message = LOST[name]
    model = Between(nn.Conv2d(1, 8, 3), function, last)
    with pytest.raises(ValueError, match=rf"layer 'last': it is not known .*{message}"):
        Equivariance(model, "C4", SQUARE, REGULAR)


def test_what_torch_does_not_show_is_refused() -> None:
    def hidden(x: Tensor) -> Tensor:
        return torch.from_numpy(x.flatten(1).numpy().copy())

    model = Between(nn.Conv2d(1, 8, 3), hidden, nn.Linear(288, 3))
    with pytest.raises(ValueError, match="after a function that torch does not show"):
        Equivariance(model, "C4", SQUARE, REGULAR)


def test_a_lost_track_is_what_the_user_says() -> None:
    def moved(x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)

    model = Between(nn.Conv2d(1, 8, 3), moved, nn.Conv2d(8, 2, 3))
    eq = Equivariance(model, "C4", SQUARE, {**REGULAR, "last": ("regular", None)})
    eq.project_()
    assert eq.error(images(2, 1, 8, 8, dtype=torch.float32)).relative < 1e-5


@pytest.mark.parametrize(
    "join",
    [
        lambda x: torch.cat([x, x], axis=1),  # type: ignore[call-arg]
        lambda x: torch.cat(tensors=[x, x], dim=1),
        lambda x: torch.concat((x, x), -3),
    ],
)
def test_joined_channels(join: Callable[[Tensor], Tensor]) -> None:
    model = Between(nn.Conv2d(1, 8, 3), join, nn.Conv2d(16, 2, 3))
    text = str(Equivariance(model, "C4", SQUARE, {"first": (None, "regular")}))
    assert "trivial(2) * 2 * regular + 2 * regular * grid 3 x 3" in text


BROKEN: dict[str, tuple[Callable[[Tensor], Tensor], dict[str, Any], str]] = {
    "rolled": (lambda x: x.roll(1, 2), {}, "last (conv2d): convolves 6 x 6 pixels that the group"),
    "positions": (lambda x: x + torch.arange(6.0), {}, "add: with constants that the group moves"),
    "vectors": (torch.relu, {"first": (None, 4 * TURN)}, "relu: works entry by entry, on 4 * turn"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_functions_that_break_the_symmetry_are_noticed(name: str) -> None:
    function, layers, message = BROKEN[name]
    model = Between(nn.Conv2d(1, 8, 3), function, nn.Conv2d(8, 2, 3))
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    with pytest.warns(UserWarning, match="do not make this model symmetric") as caught:
        eq = Equivariance(model, "C4", SQUARE, layers)
    assert message in str(caught[0].message)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(state[key], tensor) for key, tensor in model.state_dict().items())
    assert model.training
    eq.project_()
    assert eq.error(images(2, 1, 8, 8, dtype=torch.float32)).relative > 1e-3


def test_a_corner_is_no_pooling() -> None:
    model = Between(nn.Conv2d(1, 8, 3), lambda x: x[:, :, 0, 0], nn.Linear(8, 2))
    with pytest.warns(UserWarning, match="6 x 6 to no pixels is not symmetric under C4"):
        Equivariance(model, "C4", SQUARE)


class Excited(nn.Module):
    """Squeeze and excitation between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 3)
        self.gate = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate = self.gate(x.mean((2, 3))).sigmoid()
        return torch.as_tensor(self.last(x * gate.view(len(x), 8, 1, 1)))


def test_gates_are_those_of_their_channels() -> None:
    with pytest.raises(ValueError, match=r"mul puts .* together"):
        Equivariance(Excited(), "C4", SQUARE, REGULAR)
    for layers in ({}, {**REGULAR, "gate": (None, "regular")}):
        eq = Equivariance(Excited(), "C4", SQUARE, layers)
        eq.project_()
        assert eq.error(images(2, 1, 8, 8, dtype=torch.float32)).relative < 1e-5


def test_normalization_groups_are_moved_as_a_whole() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8))
    with pytest.raises(ValueError, match="moves channels from one of its 4 groups to several"):
        Equivariance(model, "C4", SQUARE, {"0": (None, "regular")})
    model[1] = nn.GroupNorm(2, 8)
    eq = Equivariance(model, "C4", SQUARE, {"0": (None, "regular")})
    eq.project_()
    assert eq.error(images(2, 1, 8, 8, dtype=torch.float32)).relative < 1e-5


def test_a_model_that_cannot_be_copied_is_tried() -> None:
    model = Between(nn.Conv2d(1, 8, 3), lambda x: x.roll(1, 2), nn.Conv2d(8, 2, 3))
    model.held = torch.ones(1, requires_grad=True) * 2  # refuses to be copied, as no leaf
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model)
    with pytest.warns(UserWarning, match="convolves 6 x 6 pixels that the group moves otherwise"):
        Equivariance(model, "C4", SQUARE)
    model.function = torch.tanh
    Equivariance(model, "C4", SQUARE)


def test_computed_weights_are_never_silently_left() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 2, 3))
    eq = Equivariance(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1)), "C4", SQUARE)
    for call in (eq.project_gradients_, lambda: eq.add_penalty_gradients_(1)):
        with pytest.raises(ValueError, match="layer '0': its weight is computed from other"):
            call()


def test_spectral_norm_is_left_as_it_was() -> None:
    conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(1, 2, 3))
    eq = Equivariance(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1)), "C4", SQUARE)
    state = copy.deepcopy(conv.state_dict())
    eq.penalty().backward()
    assert all(torch.equal(state[key], tensor) for key, tensor in conv.state_dict().items())
    assert all(module.training for module in conv.modules())


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("name", ["weight norm", "pruning"])
def test_weights_computed_by_hooks_are_refused(name: str) -> None:
    conv = nn.Conv2d(1, 2, 3)
    if name == "pruning":
        prune.random_unstructured(conv, "weight", 0.5)
    else:
        nn.utils.weight_norm(conv)
    with pytest.raises(ValueError, match="layer '0': its weight is computed by a hook"):
        Equivariance(nn.Sequential(conv, nn.AdaptiveAvgPool2d(1)), "C4", SQUARE)


def test_frozen_parameters_get_no_gradients() -> None:
    eq, model, _ = build("cnn C4")
    frozen = model.get_parameter("0.weight").requires_grad_(False)
    eq.add_penalty_gradients_(1)
    assert frozen.grad is None
    assert model.get_parameter("4.weight").grad is not None


def test_only_groups_of_pixels_move_them() -> None:
    """S_2 swaps two channels; its 2 x 2 matrices are none of an image."""
    swap = symmetric(2)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, (1, 3)))
    eq = Equivariance(
        model, swap, images(1, 2, 8, 8), {"1": (None, defining(swap))}, input=defining(swap)
    )
    batch = images(2, 2, 8, 8)
    assert torch.equal(eq.act(1, batch), batch.flip(1))
    mirror = generate("mirror", [[[0, 1], [1, 0]]], 2, moves_pixels=True)
    eq = Equivariance(model[:1], mirror, images(1, 2, 8, 8))
    assert torch.equal(eq.act(1, batch), batch.mT)


def test_layers_that_share_a_parameter_agree() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[2].weight = model[1].weight
    with pytest.raises(ValueError, match="layers '1' and '2' share weight, but the group acts"):
        Equivariance(model, "C4", SQUARE, {"1": (None, "regular"), "2": ("regular", None)})
    every = dict.fromkeys("012", (None, "regular"))
    eq = Equivariance(model, "C4", SQUARE, every)
    assert [s.layer for s in eq._spaces if s.parameter == "weight"] == ["0", "1"]
    eq.project_()
    assert eq.error(images(2, 1, 8, 8, dtype=torch.float32)).relative < 1e-5


def test_representations_of_what_is_no_layer() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(1, 8, 3)), nn.BatchNorm2d(8), nn.ReLU())
    with pytest.raises(ValueError, match="'0' is a Sequential that holds layers"):
        Equivariance(model, "C4", SQUARE, {"0": (None, "regular")})
    with pytest.raises(ValueError, match=r"layer '1': its output is given as .*regular, but"):
        Equivariance(model, "C4", SQUARE, {"1": (None, "regular")})
    eq = Equivariance(model, "C4", SQUARE, {"0.0": (None, "regular"), "1": ("regular", "regular")})
    assert set(eq.distance().layers) == {"0.0", "1"}


def test_a_shared_layer_by_either_name() -> None:
    conv = nn.Conv2d(8, 8, 3)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), conv, conv)
    layers = {"0": (None, "regular"), "2": (None, "regular")}
    assert "regular * 2 * regular" in str(Equivariance(model, "C4", SQUARE, layers))
    with pytest.raises(ValueError, match="'1' is the same module as another one"):
        Equivariance(model, "C4", SQUARE, {**layers, "1": (None, "regular")})


class Unpooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x, where = F.max_pool2d(self.conv(x), 2, return_indices=True)
        return F.max_unpool2d(x, where, [2, 2])


def test_unpooling_is_symmetric() -> None:
    eq = Equivariance(Unpooled(), "C4", SQUARE)
    eq.project_()
    assert eq.error(images(2, 1, 8, 8, dtype=torch.float32)).relative < 1e-5


def test_models_that_refuse_other_sizes_are_only_warned_of() -> None:
    class Picky(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            if input.shape[-1] != 8:
                raise KeyError(input.shape[-1])
            return super().forward(input)

    with pytest.warns(UserWarning, match="no nearby size of the images works"):
        Equivariance(nn.Sequential(Picky(1, 2, 3, stride=2)), "C4", SQUARE)


def test_training_after_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1))
    with torch.inference_mode():
        eq = Equivariance(model, "C4", SQUARE)
        eq.error(SQUARE)
    eq.penalty().backward()


def test_error_of_flattened_outputs_and_empty_batches() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    eq = Equivariance(model, "C4", SQUARE)
    eq.project_()
    batch = images(2, 1, 8, 8, dtype=torch.float32)
    assert 0 < eq.error(batch).largest < 1e-5
    with pytest.raises(ValueError, match=r"the model's output has shape \(2, 98\); accepted: \(sa"):
        eq.error(images(2, 1, 9, 9, dtype=torch.float32))
    with pytest.raises(ValueError, match="batch is empty"):
        eq.error(batch[:0])


def test_the_models_output_can_be_given() -> None:
    model = Between(nn.Conv2d(1, 8, 3), lambda x: x.permute(0, 2, 3, 1), nn.Flatten())
    eq = Equivariance(model, "C4", SQUARE, {"": (None, grid(C4, 6) * trivial(C4, 8))})
    eq.project_()
    assert eq.error(images(2, 1, 8, 8, dtype=torch.float32)).relative < 1e-5


def test_models_without_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="the model, a ReLU, has no parameters"):
        Equivariance(nn.ReLU(), "C4", SQUARE)
