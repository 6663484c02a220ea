"""The trial at construction: it sees what is broken, and says what it could not try."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equireg.library.equivariance import Equivariance
from equireg.symmetry.groups import point_group
from equireg.symmetry.representations import from_generators

C4 = point_group("C4")
TURN = from_generators(C4, [[[0, -1], [1, 0]]], "turn")
SQUARE = torch.zeros(2, 1, 9, 9)
BROKEN = "do not make this model symmetric"
UNTRIED = "could not be tried"


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def warned(model: nn.Module, *args: Any, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Equivariance(model, "C4", SQUARE, *args, **options)
    return [str(w.message) for w in caught]


class Deep(nn.Module):
    """Four convolutions, a function after the first, and a head; what it returns can be wrapped."""

    def __init__(
        self,
        function: Callable[[Tensor], Tensor] = torch.relu,
        wrap: Callable[[Tensor], Any] = lambda x: x,
        *,
        width: int = 4,
    ) -> None:
        super().__init__()
        sizes = [1, width, width, width]
        self.convs = nn.ModuleList(nn.Conv2d(i, width, 3, padding=1) for i in sizes)
        self.head = nn.Linear(width, 3)
        self.function, self.wrap = function, wrap

    def forward(self, x: Tensor) -> Any:
        for i, conv in enumerate(self.convs):
            x = torch.relu(conv(x))
            x = self.function(x) if i == 0 else x
        return self.wrap(self.head(x.mean((2, 3))))


def ramp(x: Tensor) -> Tensor:
    return x + torch.linspace(0, 1, x.shape[-1]).to(x)


class Coordinates(Deep):
    """Its first convolution sees where each pixel is."""

    def __init__(self) -> None:
        super().__init__()
        self.convs[0] = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Any:
        across = torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, 9, 9)
        return super().forward(torch.cat([x, across], 1))


class Masked(nn.Conv2d):
    """Sees only what lies above, as pixel by pixel generators do."""

    def forward(self, input: Tensor) -> Tensor:
        mask = torch.ones(3, 3)
        mask[2] = mask[1, 2] = 0
        return F.conv2d(input, self.weight * mask, self.bias, padding=1)


class Residual(nn.Module):
    """A branch whose last scale starts at zero."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.function = function
        nn.init.zeros_(self.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        x = x + self.norm(self.two(self.function(x)))
        return torch.as_tensor(self.head(x.mean((2, 3))))


def with_zero_head(function: Callable[[Tensor], Tensor]) -> nn.Module:
    model = Deep(function)
    nn.init.zeros_(model.head.weight)
    return model


def with_large_biases(function: Callable[[Tensor], Tensor]) -> nn.Module:
    model = Deep(function)
    nn.init.constant_(model.head.bias, 1e6)
    return model


HIDDEN: dict[str, Callable[[], nn.Module]] = {
    "deep": lambda: Deep(ramp),
    "rolled": lambda: Deep(lambda x: x.roll(1, 2)),
    "coordinates": Coordinates,
    "zero head": lambda: with_zero_head(ramp),
    "large biases": lambda: with_large_biases(ramp),
    "zero residual": lambda: Residual(lambda x: torch.relu(ramp(x))),
    "negative half": lambda: Deep(lambda x: torch.where(x > 0, x, x.roll(1, 3)).clamp(min=-1)),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_what_breaks_the_symmetry_is_seen(name: str) -> None:
    """With weights of a size that shows it, the projected model is far from symmetric."""
    model = HIDDEN[name]()
    (text,) = warned(model)
    assert BROKEN in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        eq = Equivariance(model, "C4", SQUARE)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                module.weight.normal_(0.5, 1)
                assert module.bias is not None
                module.bias.zero_()
    eq.project_()
    assert eq.error(torch.randn(8, 1, 9, 9)).deviating > 1e-3


def test_weights_that_a_mask_makes_asymmetric_are_refused() -> None:
    model = Deep()
    model.convs[1] = Masked(4, 4, 3, padding=1)
    with pytest.raises(ValueError, match=r"layer 'convs.1': .* weight of a Masked, in conv2d"):
        Equivariance(model, "C4", SQUARE)


@pytest.mark.parametrize(
    "model",
    [Deep(), with_zero_head(torch.relu), with_large_biases(torch.relu), Residual(torch.relu)],
    ids=["deep", "zero head", "large biases", "zero residual"],
)
def test_what_is_symmetric_is_not_warned_of(model: nn.Module) -> None:
    assert warned(model) == []


def test_signals_survive_a_hundred_layers() -> None:
    layers = [nn.Conv2d(4, 4, 3, padding=1) for _ in range(100)]
    seen = [x for layer in layers for x in (layer, nn.ReLU())]
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Function(ramp), *seen)
    assert BROKEN in warned(model)[0]
    assert warned(nn.Sequential(model[0], *seen)) == []


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass
class Output:
    logits: Tensor
    name: str = "an output"


WRAPS: dict[str, Callable[[Tensor], Any]] = {
    "dict": lambda x: {"logits": x},
    "tuple": lambda x: (x, x.exp()),
    "dataclass": lambda x: Output(x),
    "nested": lambda x: {"heads": [x, None], "step": 3},
    "squeezed": lambda x: x[:, :1].squeeze(-1),
}


@pytest.mark.parametrize("name", WRAPS)
def test_outputs_of_many_kinds_are_tried(name: str) -> None:
    """Outputs that are left as they are need no word; a broken model is found out."""
    assert warned(Deep(torch.relu, WRAPS[name])) == []
    assert BROKEN in warned(Deep(ramp, WRAPS[name]))[0] or UNTRIED in warned(Deep(ramp))[0]
    model = Deep(torch.relu, WRAPS[name])
    eq = Equivariance(model, "C4", SQUARE)
    batch = torch.randn(4, 1, 9, 9)
    assert eq.error(batch).deviating > 1e-3
    eq.project_()
    assert eq.error(batch).deviating < 1e-3
    assert eq.error(batch).relative < 1e-5


class Parametrized(Deep):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__(function)
        for i in range(4):
            nn.utils.parametrizations.weight_norm(self.convs[i])


def test_parametrized_models_are_tried() -> None:
    assert warned(Parametrized(torch.relu)) == []
    assert BROKEN in warned(Parametrized(ramp))[0]


def test_layers_left_out_are_tried_as_if_they_were_symmetric() -> None:
    assert warned(Deep(), {"convs.1": None}) == []
    assert BROKEN in warned(Deep(ramp), {"convs.1": None})[0]


class Distances(nn.Module):
    """Not followed: how the group is to act on its points is not known."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(5, 81))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x.flatten(2), self.points)


def test_what_could_not_be_tried_is_said_with_its_reason() -> None:
    layers = nn.Conv2d(1, 4, 3, padding=1), Distances(), nn.Flatten(), nn.Linear(20, 3)
    (text,) = warned(nn.Sequential(*layers), {"1": None, "3": ("trivial", None)})
    assert UNTRIED in text
    assert "of the layers left out, 1" in text

    def fails(x: Tensor) -> Tensor:
        if x.abs().max() > 1:  # not so on the example
            raise KeyError("varying")
        return x

    (text,) = warned(Deep(fails))
    assert UNTRIED in text
    assert "it raised KeyError: 'varying'" in text


def test_outputs_that_cannot_be_told_are_said_and_can_be_given() -> None:
    class Fields(nn.Module):
        def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.conv, self.function = nn.Conv2d(1, 2, 3, padding=1), function

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"field": self.function(self.conv(x))}

    def hidden(x: Tensor) -> Tensor:
        return torch.as_tensor(torch.fft.ifft2(torch.fft.fft2(x)).real)

    layers = {"conv": (None, TURN)}
    assert warned(Fields(lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2)), layers) == []
    (text,) = warned(Fields(hidden), layers)
    assert UNTRIED in text
    assert "outputs field; pass output={'field': \"trivial\"}" in text
    eq = Equivariance(Fields(hidden), "C4", SQUARE, layers, output={"field": TURN})
    eq.project_()
    assert eq.error(torch.randn(3, 1, 9, 9)).relative < 1e-5
    with pytest.raises(ValueError, match=r"output: the model returns no 'fields'; accepted: 'fi"):
        Equivariance(Fields(hidden), "C4", SQUARE, layers, output={"fields": TURN})


def test_a_layer_without_equivariant_weights_is_said() -> None:
    """Vectors have no invariant of first order: the network would be a constant."""
    model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.warns(UserWarning, match="no weights but zero") as caught:
        Equivariance(model, C4, torch.zeros(2, 2), input=TURN)
    text = str(caught[0].message)
    assert "no weights but zero are equivariant (dim E = 0) in layer '0' (trivial(8) * turn" in text
    Equivariance(model, C4, torch.zeros(2, 2), {"0": (None, "regular")}, input=TURN)


def test_strict_makes_warnings_errors() -> None:
    with pytest.raises(ValueError, match=BROKEN):
        Equivariance(Deep(ramp), "C4", SQUARE, strict=True)
    Equivariance(Deep(), "C4", SQUARE, strict=True)


def test_check_tries_again_after_training() -> None:
    model = Deep()
    eq = Equivariance(model, "C4", SQUARE)
    state = {name: x.clone() for name, x in model.state_dict().items()}
    assert eq.check() == []
    assert eq.check(torch.randn(5, 1, 9, 9)) == []
    model.function = ramp
    with pytest.warns(UserWarning, match=BROKEN):
        assert BROKEN in eq.check()[0]
    for name, x in model.state_dict().items():
        assert torch.equal(state[name], x)


@pytest.mark.parametrize("example", [torch.zeros(2, 1, 9, 9, dtype=torch.uint8), SQUARE.half()])
def test_examples_of_other_types_are_tried(example: Tensor) -> None:
    def build(function: Callable[[Tensor], Tensor]) -> nn.Module:
        model = Deep(function)
        if example.is_floating_point():
            return model.half()
        return nn.Sequential(Function(lambda x: x / 255), model)

    Equivariance(build(torch.relu), "C4", example)
    with pytest.warns(UserWarning, match=BROKEN):
        Equivariance(build(ramp), "C4", example)


def test_logarithms_are_tried_on_positive_inputs() -> None:
    def build(function: Callable[[Tensor], Tensor]) -> nn.Module:
        return nn.Sequential(Function(lambda x: (x + 1e-3).log()), Deep(function))

    assert warned(build(torch.relu)) == []
    assert BROKEN in warned(build(ramp))[0]


def test_random_functions_are_not_taken_for_broken_ones() -> None:
    (text,) = warned(Deep(lambda x: F.dropout(x, 0.5, training=True)))
    assert UNTRIED in text
    assert "its outputs are random in evaluation mode" in text


def test_layers_that_share_weights_are_tried_whichever_runs_first() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.late, self.early = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
            self.late.weight = self.early.weight

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.late(self.early(x).relu()))

    assert warned(Shared()) == []


class _Noted(nn.Module):
    """Notes that it runs."""

    def __init__(self, runs: list[int]) -> None:
        super().__init__()
        self.note: Callable[[int], None] = runs.append

    def forward(self, x: Tensor) -> Tensor:
        self.note(1)
        return x


class _Shifted(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, -1)


@pytest.mark.filterwarnings("ignore:symmetric weights")
def test_sizes_are_given_up_at_the_first_function_that_breaks_the_symmetry() -> None:
    """The search took minutes on networks of many layers that no size makes symmetric."""
    runs = list[int]()
    first = nn.Conv2d(1, 4, 3, 2, 1)  # breaks 8 x 8 pixels
    model = nn.Sequential(first, _Shifted(), nn.Conv2d(4, 4, 3, padding=1), _Noted(runs))
    with pytest.warns(UserWarning, match="no nearby size"):
        Equivariance(model, "C4", torch.zeros(2, 1, 8, 8))
    assert len(runs) == 1
