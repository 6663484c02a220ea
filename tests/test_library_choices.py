"""What a user says of layers: all at once, by patterns; and what is refused, in one line."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from equireg.library.equivariance import Equivariance
from equireg.representations import vectors
from equireg.symmetry.groups import Group, cyclic, point_group, symmetric
from equireg.symmetry.representations import defining, grid, regular

C4 = point_group("C4")
SQUARE = torch.zeros(2, 1, 9, 9)
BATCH = torch.randn(4, 1, 9, 9, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for one, two in zip((1, *widths[:-1]), widths, strict=True):
        layers += [nn.Conv2d(one, two, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 3))


def outputs(eq: Equivariance) -> dict[str, str]:
    """The representation of each layer's output."""
    return {s.layer: s.action.axes[0].name for s in eq._spaces if s.parameter == "weight"}


def test_regular_for_all_layers_but_the_head() -> None:
    eq = Equivariance(network(8, 16, 4), "C4", SQUARE, "regular")
    assert outputs(eq) == {
        "0": "2 * regular",
        "2": "4 * regular",
        "4": "1 * regular",
        "8": "trivial(3)",
    }
    eq.project_()
    assert eq.error(BATCH).relative < 1e-5


def test_every_head_is_left_trivial() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(1, 8, 3)
            self.one, self.two = nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.body(x).relu().mean((2, 3))
            return {"one": self.one(x), "two": self.two(x)}

    eq = Equivariance(Heads(), "C4", SQUARE, "regular")
    assert outputs(eq) == {"body": "2 * regular", "one": "trivial(4)", "two": "trivial(4)"}


def test_widths_that_are_no_multiples_are_said_at_once_with_the_dict() -> None:
    model = network(6, 8, 10)
    with pytest.raises(
        ValueError, match="multiples of 4 channels; layer '0' has 6, layer '4'"
    ) as e:
        Equivariance(model, "C4", SQUARE, "regular")
    given = ast.literal_eval(str(e.value).split("representations=")[-1])
    assert given == {"0": (None, "trivial"), "2": (None, "regular"), "4": (None, "trivial")}
    Equivariance(model, "C4", SQUARE, given).project_()
    with pytest.raises(ValueError, match="representations is 'Regular'; accepted: 'regular'"):
        Equivariance(model, "C4", SQUARE, "Regular")


def test_patterns_of_names() -> None:
    body = nn.ModuleDict({"stem": nn.Conv2d(1, 8, 3), "deep": network(8, 8)})
    model = nn.Sequential(body["stem"], nn.ReLU(), nn.Conv2d(8, 1, 1), body["deep"])
    eq = Equivariance(
        model, "C4", SQUARE, {"3.*": (None, "regular"), "0": (None, "regular"), "3.6": (None, None)}
    )
    named = {"0": "2 * regular", "2": "trivial(1)", "3.0": "2 * regular", "3.2": "2 * regular"}
    assert outputs(eq) == named | {"3.6": "trivial(3)"}
    later: dict[str, Any] = {"*": (None, "trivial"), "3.[02]": (None, "regular")}
    seen = outputs(Equivariance(model, "C4", SQUARE, later))
    regulars = {"3.0": "2 * regular", "3.2": "2 * regular"}  # in layer 2 nothing is moved
    assert seen == regulars | {"0": "trivial(8)", "3.6": "trivial(3)"}
    left = Equivariance(model, "C4", SQUARE, {"3*": None})
    assert set(outputs(left)) == {"0"}
    with pytest.raises(ValueError, match=r"no layer matches 'x\*'; accepted: 0, 2, 3\.0"):
        Equivariance(model, "C4", SQUARE, {"x*": None})


def test_all_refusals_at_once_in_the_form_of_the_dict_to_pass() -> None:
    class Lost(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Bilinear(81, 81, 4), nn.Bilinear(4, 4, 4)
            self.conv, self.three = nn.Conv2d(1, 2, 3), nn.Bilinear(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x.flatten(1), x.flatten(1)) + self.conv(x).mean()
            return torch.as_tensor(self.three(self.two(y, y), y))

    with pytest.raises(ValueError, match="3 refusals") as e:
        Equivariance(Lost(), "C4", SQUARE)
    given = ast.literal_eval(str(e.value).split("representations=")[-1])
    assert given == {"one": None, "two": None, "three": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Equivariance(Lost(), "C4", SQUARE, given)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))


def of_complex() -> nn.Module:
    model = small()
    for name in ("weight", "bias"):
        setattr(model[0], name, nn.Parameter(torch.zeros_like(getattr(model[0], name)) + 0j))
    return model


@pytest.mark.parametrize("group", [cyclic(4), symmetric(3), point_group("O", 3)])
def test_a_group_that_moves_nothing_is_refused(group: Group) -> None:
    with pytest.raises(
        ValueError, match=r"moves neither the pixels .* to turn pixels pass group='"
    ):
        Equivariance(network(24), group, SQUARE, {"0": (None, "regular")})


@pytest.mark.parametrize(
    ("model", "example", "options", "message"),
    [
        (of_complex(), SQUARE, {}, "parameter '0.weight' is torch.complex64; acc"),
        (small(), SQUARE.to(torch.complex64), {}, "example is torch.complex64; accepted: real"),
        (small().to("meta"), SQUARE, {}, "parameter '0.weight' is on the meta device"),
        (small(), (SQUARE, SQUARE), {}, "raised TypeError: .*takes 2 positional .*; accepted"),
        (small(), {"x": SQUARE}, {}, "raised TypeError: .*keyword argument 'x'; accepted"),
        (small(), "images", {}, "example is a str; accepted: a tensor"),
        (small(), [], {}, "example is a list; accepted: a tensor .* or a dict by name"),
        (lambda x: x, SQUARE, {}, "model is <function .*; accepted: an nn.Module"),
        (small(), SQUARE[:0], {}, r"example has shape \(0, 1, 9, 9\); accepted: \(samples"),
        (nn.Sequential(nn.LazyConv2d(2, 3)), SQUARE, {}, "'0.weight' is not initialized; accept"),
        (
            small(),
            SQUARE,
            {"representations": {"0": (None, 8)}},
            "layer '0': output is 8; accepted: a Representation, 'trivial', 'regular', or None",
        ),
        (small(), SQUARE, {"input": "regular"}, "input is 'regular'; accepted: a Representation"),
        (small(), SQUARE, {"output": 3}, "output is 3; accepted: a Representation"),
        (small(), SQUARE, {"output": {"x": None}}, "returns no 'x'; accepted: ''"),
    ],
)
def test_what_is_refused(model: Any, example: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Equivariance(model, "C4", example, **options)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is not supported")
def test_scripted_modules_are_refused() -> None:
    model = nn.Sequential(small(), torch.jit.script(nn.Linear(7, 7)))
    with pytest.raises(ValueError, match="module '1' is scripted, and cannot be followed"):
        Equivariance(model, "C4", SQUARE)


def test_sharded_weights_are_refused() -> None:
    model = small()
    weight: Any = model.get_parameter("0.weight")
    weight.device_mesh = "mesh"  # as of torch.distributed.tensor
    with pytest.raises(ValueError, match=r"0.weight. is sharded; accepted: the model before"):
        Equivariance(model, "C4", SQUARE)


def test_forward_that_differentiates_is_followed() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.flat = nn.Linear(81, 1)

        def forward(self, x: Tensor) -> Tensor:
            energy = self.flat(x.flatten(1)).square().sum()
            return torch.autograd.grad(energy, x)[0]

    model = Force()
    eq = Equivariance(model, "C4", SQUARE)
    assert eq.error(BATCH).relative > 1e-2
    eq.project_()
    assert eq.error(BATCH).relative < 1e-5


@dataclass
class Prediction:
    field: Tensor
    steps: int = 3


class Predicts(nn.Module):
    """Channels last; ``hidden``: after a function that is not followed, which changes nothing."""

    def __init__(self, *, hidden: bool) -> None:
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(1, 8, 3), hidden

    def forward(self, x: Tensor) -> Prediction:
        x = self.conv(x).permute(0, 2, 3, 1)
        return Prediction(torch.fft.ifft(torch.fft.fft(x)).real if self.hidden else x)


def test_advice_on_outputs_that_are_not_tensors_can_be_followed() -> None:
    layers, model = {"conv": (None, "regular")}, Predicts(hidden=True)
    with pytest.warns(UserWarning, match=r"outputs field; pass output=\{'field': \"trivial\"\}"):
        eq = Equivariance(model, "C4", SQUARE, layers)
    with pytest.raises(ValueError, match=r"outputs field; pass output=\{'field': \"trivial\"\}"):
        eq.error(BATCH)
    with pytest.raises(ValueError, match="output field: C4: a grid of 7 x 8 pixels is not mapped"):
        Equivariance(model, "C4", SQUARE, layers, output={"field": "trivial"})
    pixels_first = grid(C4, 7) * (2 * regular(C4))
    eq = Equivariance(model, "C4", SQUARE, layers, output={"field": pixels_first})
    eq.project_()
    assert eq.error(BATCH).relative < 1e-5


def test_outputs_that_are_followed_need_no_word() -> None:
    """Channels last and regular: measured, moved and averaged like any other, for any samples."""
    model = Predicts(hidden=False)
    eq = Equivariance(model, "C4", SQUARE, {"conv": (None, "regular")})
    assert eq.error(BATCH).relative > 1e-2
    assert eq.error(BATCH, eq.symmetrized()).relative < 1e-5
    eq.project_()
    assert eq.error(BATCH).relative < 1e-5
    for batch in (BATCH[:3], BATCH[:1]):
        elements = torch.tensor([3, 1, 2])[: len(batch)]
        out = eq.act(elements, model(batch), of="output").field
        assert torch.allclose(model(eq.act(elements, batch)).field, out, atol=1e-5)
        assert not torch.allclose(model(batch).field, out, atol=1e-2)
    with pytest.raises(ValueError, match=r"has shape \(1, 9, 9, 8\); accepted: \(samples, 7, 7, 8"):
        eq.act(1, Prediction(torch.zeros(1, 9, 9, 8)), of="output")


def test_sizes_that_work_are_found_where_there_are_some() -> None:
    """Of two samples, as batch normalization of vectors refuses one; and never of one pixel."""

    class Vectors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 2, 3, stride=2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).mean((2, 3))
            if len(x) == 1:
                raise ValueError("expected more than 1 value per channel")
            return torch.as_tensor(self.head(x))

    with pytest.warns(UserWarning, match="images of 9 x 9 pixels work for all layers"):
        Equivariance(Vectors(), "C4", torch.zeros(2, 1, 8, 8))
    halved = nn.Sequential(*(nn.Conv2d(1, 1, 3, 2, 1) for _ in range(3)))  # 1, 9, 17, ...
    with pytest.warns(UserWarning, match="images of 9 x 9 pixels work for all layers"):
        Equivariance(halved, "C4", torch.zeros(2, 1, 4, 4))


def test_the_order_of_components_is_said() -> None:
    """A field turned by hand: its pixels, and its components in the order that is said."""
    group = point_group("C4")
    field = torch.randn(3, 2, 5, 5)
    turned = field.rot90(1, (2, 3))
    row, column = turned.unbind(1)
    by_hand = {
        "ij": torch.stack([-column, row], 1),  # counterclockwise: right becomes up, row -1
        "xy": torch.stack([column, -row], 1),  # here row is x, column is y
        "xy up": torch.stack([-column, row], 1),  # here row is x, column is y upwards
    }
    for order in ("ij", "xy", "xy up"):
        rho = vectors(group, order)
        model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1))
        eq = Equivariance(model, group, field, {"0": (rho, rho)}, input=rho)
        assert torch.allclose(eq.act(1, field), by_hand[order]), order
    with pytest.raises(
        ValueError, match=r"input is defining, on components .*vectors\(group, 'ij'"
    ):
        Equivariance(model, group, field, input=defining(group))
    with pytest.raises(ValueError, match=r"layer '0': output is 2 \* defining, on components"):
        Equivariance(small(), C4, SQUARE, {"0": (None, 2 * defining(C4))})
    vector = nn.Sequential(nn.Linear(3, 3, bias=False))  # without pixels there is one order
    cube = point_group("O", 3)
    Equivariance(
        vector, cube, torch.zeros(2, 3), {"0": (None, defining(cube))}, input=defining(cube)
    )
    with pytest.raises(ValueError, match="order is 'yx' in 2 axes; accepted: ij, xy, xy up"):
        vectors(group, "yx")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="C4 moves no pixels; accepted: point groups"):
        vectors(cyclic(4), "xy")
