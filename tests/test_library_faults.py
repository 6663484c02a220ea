"""Faults that the library had, a smallest case of each: refused, warned of, or exact.

Named by the rows of the list that they were found with, S1 to F5; what holds each kind in breadth
is in the other files of the library's tests.
"""

from __future__ import annotations

import random
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import equireg
from equireg.library.equivariance import Equivariance
from equireg.representations import vectors
from equireg.symmetry.groups import Group, cyclic, point_group, symmetric
from equireg.symmetry.representations import defining, grid, regular, trivial

C4 = point_group("C4")
X9 = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
NOT_SYMMETRIC = "do not make this model symmetric"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def said(model: nn.Module, example: Any, *args: Any, group: Any = "C4", **options: Any) -> str:
    """All that is warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Equivariance(model, group, example, *args, **options)
    return "\n".join(str(w.message) for w in caught)


def head(width: int, *before: nn.Module, classes: int = 10) -> nn.Sequential:
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    return nn.Sequential(*before, *pooled)


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def trained_apart(model: nn.Module) -> None:
    """Weights of a size at which the function, projected, shows what it is."""
    for parameter in model.parameters():
        parameter.data.normal_(0, 2 / max(parameter[0].numel(), 1) ** 0.5)


# S1: regular channels whose widths change, on grids that strides break


@pytest.mark.parametrize("widths", [(8, 16, 32), (16, 16, 16)])
def test_s1_strides_under_regular_channels(widths: tuple[int, int, int]) -> None:
    a, b, c = widths
    convs = nn.Conv2d(1, a, 3, 1, 1), nn.Conv2d(a, b, 3, 2, 1), nn.Conv2d(b, c, 3, 2, 1)
    model = head(c, *(x for conv in convs for x in (conv, nn.ReLU())))
    text = said(model, torch.zeros(2, 1, 28, 28), "regular")
    assert "break the symmetry of the grid" in text
    assert "2 (conv2d): 28 x 28 to 14 x 14 pixels" in text
    assert said(model, torch.zeros(2, 1, 29, 29), "regular") == ""


def test_s1_a_kernel_that_sees_one_pixel_from_the_side() -> None:
    """4 x 4 with padding 2 on one pixel: its weight is no central one."""
    model = head(16, nn.Conv2d(1, 8, 9), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 2), nn.ReLU())
    text = said(model, torch.zeros(2, 1, 9, 9), "regular")
    assert "2 (conv2d): 1 x 1 to 1 x 1 pixels is not symmetric" in text
    assert said(model, torch.zeros(2, 1, 9, 9)) == ""  # of trivial channels it is a number


# S2: the trial sees what is broken, whatever hides it at initialization


def broken_networks() -> dict[str, nn.Module]:
    def deep(function: Callable[[Tensor], Tensor], width: int = 8) -> nn.Sequential:
        layers = [nn.Conv2d(3, width, 3, padding=1), nn.Tanh(), Called(function)]
        for _ in range(2):
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.Tanh()]
        return head(width, *layers)

    def ramp(x: Tensor) -> Tensor:
        return x + torch.linspace(0, 1, x.shape[-1]).to(x)

    zero = deep(ramp)
    nn.init.zeros_(zero.get_parameter("9.weight"))
    small = deep(ramp)
    for parameter in small.parameters():
        parameter.data *= 1e-4
    across = torch.linspace(-1, 1, 9).expand(1, 1, 9, 9)
    coordinates = nn.Sequential(
        Called(lambda x: torch.cat([x, across.to(x).expand(len(x), -1, -1, -1)], 1)),
        head(8, nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()),
    )
    return {
        "a ramp": deep(ramp),
        "a head that starts at zero": zero,
        "small weights": small,
        "coordinates": coordinates,
        "sorted rows": deep(lambda x: x.sort(-1).values),
        "a row apart": deep(lambda x: torch.cat([x[:, :, :1].tanh(), x[:, :, 1:]], 2)),
        "every other pixel": deep(lambda x: x * (torch.arange(x.shape[-1]) % 2).to(x)),
        "a mask of the upper half": deep(lambda x: x.triu()),
        "differences along rows": deep(lambda x: F.pad(x.diff(dim=3), (0, 1))),
        "of both signs": deep(lambda x: torch.where(x <= 0, x, x.cumsum(2))),
        "drawn to a corner": deep(lambda x: F.pad(x, (0, 2, 0, 2))[..., 1:-1, 1:-1]),
        "half of it": deep(lambda x: torch.cat([x[..., :5], -x[..., 5:]], 3)),
        "by number": deep(lambda x: x[..., torch.tensor([1, 0, *range(2, 9)])]),
        "its maximum first": deep(lambda x: x - x[..., :1, :1]),
        "rolled": deep(lambda x: x.roll((1, 2), (2, 3))),
    }


REFUSED = ("a row apart", "differences along rows", "half of it")


@pytest.mark.parametrize("name", broken_networks())
def test_s2_what_is_broken_is_seen(name: str) -> None:
    model = broken_networks()[name]
    if name in REFUSED:
        with pytest.raises(ValueError, match="not known what acts on its 8 inputs after"):
            Equivariance(model, "C4", X9)
        return
    assert said(model, X9) != ""
    trained_apart(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eq = Equivariance(model, "C4", X9)
    eq.project_()
    assert eq.error(torch.randn(6, 3, 9, 9)).relative > 1e-3


# S3: no trial without a word


@dataclass
class Output:
    value: Tensor


def test_s3_what_was_not_tried_is_said() -> None:
    """Outputs of any kind are tried; an exception is said; layers that are left out are not."""

    def ends(function: Callable[[Tensor], Any], *, ramp: bool) -> nn.Module:
        between = Called(lambda x: x + torch.linspace(0, 1, 9).to(x) if ramp else x)
        layers = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), between, nn.Conv2d(4, 4, 3)
        return nn.Sequential(*layers, Called(lambda x: function(x.relu().mean((2, 3)))))

    for function in (
        lambda x: {"a": x},
        lambda x: (x, x + 1),
        Output,
        lambda x: x[:, :1].squeeze(-1),
        lambda x: x[:, 0],
    ):
        assert said(ends(function, ramp=False), X9) == ""
        assert NOT_SYMMETRIC in said(ends(function, ramp=True), X9)
        assert NOT_SYMMETRIC in said(ends(function, ramp=True), X9, {"3": None})
    parametrized = ends(lambda x: x, ramp=True)
    nn.utils.parametrizations.spectral_norm(parametrized.get_submodule("0"))
    assert NOT_SYMMETRIC in said(parametrized, X9)

    def fails(x: Tensor) -> Tensor:
        if x.dtype == torch.float64 or float(x.abs().max()) > 0.9:
            raise RuntimeError("only of small numbers")
        return x

    text = said(nn.Sequential(Called(fails), ends(lambda x: x, ramp=False)), 0.1 * X9)
    assert "could not be tried" in text
    assert "RuntimeError: only of small numbers" in text


def test_s3_a_loss_beside_the_outputs_and_truth_values() -> None:
    """A single number is followed alone; alone it is said, with what would do."""
    both = Called(lambda x: {"loss": x.square().mean(), "logits": x, "sure": x > 0})
    assert said(nn.Sequential(head(8, nn.Conv2d(3, 8, 3)), both), X9) == ""
    alone = nn.Sequential(head(8, nn.Conv2d(3, 8, 3)), Called(lambda x: x.square().mean()))
    text = said(alone, X9)
    assert "the model returns one number for all samples; have it return a row for each" in text


def test_s3_samples_that_are_mixed_are_said() -> None:
    """Each sample is augmented by its own element, which batch statistics do not see."""
    for function in (lambda x: x - x.mean(0), lambda x: x.roll(1, 0) * x, lambda x: x / x.std(0)):
        layers = nn.Conv2d(3, 8, 3, padding=1), nn.Tanh(), Called(function), nn.Conv2d(8, 8, 3)
        text = said(head(8, *layers, nn.Tanh()), X9)
        assert NOT_SYMMETRIC in text
        assert "samples are mixed" in text
    rows = Called(lambda x: x - x.mean(0))  # of what does not move
    assert said(nn.Sequential(head(8, nn.Conv2d(3, 8, 3)), rows), X9) == ""


# S4: modules whose train() acts are in tests/test_library_untouched.py

# S5: parameters that a subclass adds


class Gained(nn.Conv2d):
    """A parameter of each pixel beside those of the convolution."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.randn(9, 9))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.gain


class Bent(nn.Linear):
    """A parameter that no rule places."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.centres = nn.Parameter(torch.randn(5, 4))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + torch.cdist(input, self.centres).sum(1, keepdim=True)


def test_s5_parameters_of_a_subclass() -> None:
    model = head(4, Gained(), nn.ReLU())
    eq = Equivariance(model, "C4", X9)
    assert set(eq.spaces) == {"0.weight", "0.gain"}
    eq.project_()
    assert eq.error(X9).deviating < 1e-5
    kept = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Bent())
    Equivariance(kept, "C4", X9).project_()  # nothing moves there, so that any centres will do
    with pytest.raises(ValueError, match=r"layer '3': .* centres of a Bent, in cdist"):
        Equivariance(kept, "C4", X9, {"0": (None, "regular")})


# S6: an optimizer's state, see tests/test_library_weights.py; here what cannot be projected


@pytest.mark.parametrize("name", ["Adafactor", "LBFGS"])
def test_s6_states_of_another_shape_are_refused(name: str) -> None:
    model = head(8, nn.Conv2d(3, 8, 3), nn.Tanh())
    eq = Equivariance(model, "C4", X9)
    optimizer = getattr(torch.optim, name)(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = torch.as_tensor(model(X9)).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match=f"a {name}, holds .*; accepted: a new optimizer, made"):
        eq.project_(optimizer=optimizer)
    assert all(map(torch.equal, before, model.parameters()))
    eq.project_()
    assert eq.distance().total < 1e-6


# S7: a group that moves nothing


@pytest.mark.parametrize("group", [cyclic(4), symmetric(4), cyclic(2)])
def test_s7_a_group_that_leaves_pixels_where_they_are(group: Group) -> None:
    model = head(8, nn.Conv2d(3, 8, 3), nn.ReLU())
    with pytest.raises(ValueError, match=r"moves neither the pixels .* to turn pixels pass group="):
        Equivariance(model, group, X9, {"0": (None, "regular")} if group.order == 4 else None)
    with pytest.raises(ValueError, match=r"moves none of the inputs '0', '1'"):
        Equivariance(model, group, (X9, torch.zeros(2, 4)))


# S8: shapes that coincide


class Elements(nn.Module):
    """A set of 4 elements, of hidden width 4."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.out = nn.Linear(2, 4), nn.Linear(4, 2)
        self.among = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inside(x).tanh()
        x = self.among(x.mT).mT
        return torch.as_tensor(self.out(x.tanh().mean(1)))


def test_s8_which_axis_moves_is_said() -> None:
    group = symmetric(4)
    rho = defining(group)
    example = torch.randn(3, 4, 2)
    eq = Equivariance(Elements(), group, example, {"among": (None, rho)}, input={1: rho})
    assert {name: space.dimension for name, space in eq.spaces.items()} == {
        "among.weight": 2,
        "among.bias": 1,
    }  # the others are not moved: all of their 8 and more dimensions are E
    eq.project_()
    assert eq.error(example).relative < 1e-5
    with pytest.raises(ValueError, match=r"input: defining acts on 4 entries; axes 2 of shape"):
        Equivariance(Elements(), group, example, input={2: rho})
    with pytest.raises(ValueError, match=r"moves neither .*; pass input=|to turn pixels"):
        Equivariance(Elements(), group, example, {"among": (None, rho)})


# S9: the order of components, see tests/test_library_choices.py; as a target, the flow turns


def test_s9_a_flow_in_either_order() -> None:
    """A field of vectors to the centre: turned with its grid, it is itself in the order said."""
    rows, columns = torch.meshgrid(*[torch.arange(-4.0, 5)] * 2, indexing="ij")
    inwards = {"ij": (-rows, -columns), "xy": (-columns, -rows), "xy up": (-columns, rows)}
    around = {"ij": (columns, -rows), "xy": (-rows, columns), "xy up": (-rows, -columns)}
    model = nn.Conv2d(3, 2, 3, padding=1)
    for order in ("ij", "xy", "xy up"):
        rho = vectors(C4, order)
        eq = Equivariance(model, C4, X9, {"": (None, rho)})
        for field in (inwards, around):
            batch = torch.stack(field[order])[None]
            assert torch.allclose(eq.act(1, batch, of="output"), batch), order
    with pytest.raises(ValueError, match="defining, on components in the order of the pixels' ax"):
        Equivariance(model, C4, X9, {"": (None, defining(C4))})
    with pytest.raises(ValueError, match="defining, on components in the order of the pixels' ax"):
        Equivariance(model, C4, X9, output=defining(C4))


# S10: E of dimension 0


def test_s10_no_weights_but_zero() -> None:
    cube = point_group("O", 3)
    vector = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    options = {"group": cube, "input": defining(cube)}
    assert "no weights but zero are equivariant (dim E = 0) in layer '0'" in said(
        vector, torch.zeros(2, 3), **options
    )
    space = equireg.groups.rotations(3)
    rho = equireg.representations.defining(space)
    assert "dim E = 0" in said(vector, torch.zeros(2, 3), group=space, input=rho)


# S11, S12, S13: see tests/test_library_untouched.py and tests/test_library_weights.py


def test_s11_generators_of_its_own_are_as_before() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.torch = torch.Generator().manual_seed(0)
            self.numpy: list[Any] = [np.random.default_rng(0), np.random.RandomState(0)]
            self.python = {"one": random.Random(0)}

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(1, generator=self.torch)
            self.numpy[0].random()
            self.numpy[1].rand()
            self.python["one"].random()
            return torch.as_tensor(self.conv(x))

    model = Drawing()
    eq = Equivariance(model, "C4", X9)
    eq.error(X9)
    assert float(torch.rand(1, generator=model.torch)) == float(
        torch.rand(1, generator=torch.Generator().manual_seed(0))
    )
    assert model.numpy[0].random() == np.random.default_rng(0).random()
    assert model.numpy[1].rand() == np.random.RandomState(0).rand()
    assert model.python["one"].random() == random.Random(0).random()


# S14: statistics of single channels


def test_s14_batch_normalization_over_regular_channels() -> None:
    def network(norm: nn.Module) -> nn.Module:
        return head(8, nn.Conv2d(3, 8, 3), norm, nn.ReLU())

    for norm in (nn.BatchNorm2d(8), nn.SyncBatchNorm(8), nn.BatchNorm2d(8, affine=False)):
        assert "'1' (FieldBatchNorm(8, 4))" in said(network(norm), X9, {"0": (None, "regular")})
    assert said(network(equireg.FieldBatchNorm(8, 4)), X9, {"0": (None, "regular")}) == ""
    assert said(network(nn.GroupNorm(2, 8)), X9, {"0": (None, "regular")}) == ""
    assert said(network(nn.BatchNorm2d(8)), X9) == ""


class Own(nn.Module):
    """Batch normalization by the function."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, training=self.training)  # type: ignore


def test_s14_statistics_wherever_they_are_taken() -> None:
    """By the function, or of pixels that move after flattening."""
    own = head(8, nn.Conv2d(3, 8, 3), Own(), nn.ReLU())
    assert "'1' (FieldBatchNorm(8, 4))" in said(own, X9, {"0": (None, "regular")})
    assert said(own, X9) == ""
    flat = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.BatchNorm1d(98), nn.Linear(98, 3))
    assert "layer '2' (FieldBatchNorm(" in said(flat, X9)
    rho = trivial(C4, 2) * grid(C4, 7)
    flat[2] = equireg.FieldBatchNorm(rho)
    assert said(flat, X9) == ""


# M1: memory and time


@pytest.mark.slow
def test_m1_many_copies_cost_no_more_than_the_weights() -> None:
    """Each in seconds, and in memory of the weights' order."""
    group = symmetric(6)
    cases = (
        (nn.Linear(506, 1024), group, trivial(group, 500) + defining(group), 506),
        (nn.Linear(4096, 4096), point_group("D4"), 512 * regular(point_group("D4")), 4096),
    )
    for model, acting, rho, size in cases:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        eq = Equivariance(model, acting, torch.zeros(2, size), input=rho)
        eq.penalty().backward()
        eq.project_()
        assert eq.distance().total < 1e-3
        weights = 4 * size * model.out_features / 1024
        assert time.process_time() - start < 30
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 12 * weights + 3e5


# C1: raw errors; more of them in tests/test_library_choices.py


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"representations": [("0", None)]},
            r"representations is \[.*; accepted: 'regular', or a",
        ),
        ({"representations": regular(C4)}, "representations is .*; accepted: 'regular', or a dict"),
        ({"representations": {0: None}}, "representations is {0: None}; accepted: 'regular', or a"),
        ({"example": X9.to_sparse()}, "example is nested or of layout torch.sparse_coo; accepted"),
        ({"example": X9.numpy()}, "example is a ndarray; accepted: a tensor"),
        ({"model": lambda x: x}, "model is <function .*; accepted: an nn.Module"),
        ({"group": 4}, "group is 4; accepted: the name of a point group, or a Group"),
    ],
)
def test_c1_what_is_given_wrongly(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"model": head(8, nn.Conv2d(3, 8, 3)), "group": "C4", "example": X9}
    given |= options
    with pytest.raises(ValueError, match=message):
        Equivariance(**given)


def test_c1_weights_that_are_sparse_and_single_entries() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(243, 3))
    linear = model.get_submodule("1")
    linear.weight = nn.Parameter(model.get_parameter("1.weight").detach().to_sparse())
    with pytest.raises(ValueError, match=r"'1.weight' is of layout torch.sparse_coo; accepted: de"):
        Equivariance(model, "C4", X9)
    corner = Called(lambda x: x * (1 if x[0, 0, 0, 0] < 9 else 2))
    assert "to no pixels is not symm" in said(head(8, nn.Conv2d(3, 8, 3), corner), X9)


# C1, C2, F1, F2, F4: tests/test_library_choices.py, _actions.py, _weights.py, _trial.py
# F3, F5: tests/test_library_inputs.py
