"""What acts on each layer's inputs and outputs, followed through models of many kinds.

The judge is the projected model itself, in double precision on moved inputs.
"""

from __future__ import annotations

import dataclasses
import doctest
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import equireg.library.features as features_module
from equireg.library import registry
from equireg.library.call import Call
from equireg.library.features import Action, Features, Unknown
from equireg.library.pixels import Pixels
from equireg.library.tracing import Trace, trace
from equireg.library.trees import leaves, mapped
from equireg.symmetry.compact import rotations
from equireg.symmetry.groups import Group, cyclic, point_group, symmetric
from equireg.symmetry.representations import defining, from_generators, grid, regular, trivial

C4, D4, S4 = point_group("C4"), point_group("D4"), symmetric(4)
TURN = from_generators(C4, [[[0, -1], [1, 0]]], "turn")
Known = Features | Action | Pixels


def images(channels: int = 3, side: int = 8) -> Features:
    return Features(trivial(C4, channels), (side, side))


def example(features: Known) -> Tensor:
    assert not isinstance(features, Pixels)
    shape = (
        features.shape
        if isinstance(features, Action)
        else ((2, features.channels.size, *features.space))
    )
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def action(known: Known | Unknown, x: Tensor) -> Action:
    assert not isinstance(known, Unknown | Pixels), known
    return known if isinstance(known, Action) else Action.of(known, x.shape)


def follow(model: nn.Module, known: Any, given: Mapping[str, Any] | None = None) -> Trace:
    """The trace, after the weights were set to random ones and projected."""
    model.double()
    x = mapped_example(known)
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        random = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = random / max(1, parameter[0].numel()) ** 0.5 if parameter.ndim else random
    found = trace(model, x, known, given or {})
    for space in found.spaces:
        held = getattr(space.module, space.parameter)
        held.data = space.action.project(held.data.reshape(space.action.shape)).reshape(held.shape)
    return found


def mapped_example(known: Any) -> Any:
    if isinstance(known, dict):
        return {name: example(one) for name, one in known.items()}
    return example(known)


def error(model: nn.Module, known: Any, found: Trace) -> float:
    """The largest relative error over the generators."""
    model.eval()
    x = mapped_example(known)
    known = known if isinstance(known, dict) else {"": known}
    run: Callable[[Any], Any] = (lambda y: model(**y)) if isinstance(x, dict) else model
    plain, worst = dict(leaves(run(x))), 0.0
    assert plain.keys() == found.leaves.keys()
    for step in C4_or(known).cayley[:, 0].tolist():
        moved = mapped(lambda path, y: action(known[path], y).act(step, y), x)  # noqa: B023
        for path, y in leaves(run(moved)):
            expected = action(found.leaves[path], y).act(step, plain[path]).detach()
            assert expected.std() > 1e-6
            away = (y.detach() - expected).norm() / expected.std() / y.numel() ** 0.5
            worst = max(worst, float(away))
    return worst


def C4_or(known: Mapping[str, Known]) -> Group:  # noqa: N802
    one = next(iter(known.values()))
    return one.group


class Through(nn.Module):
    """A convolution, a function, and layers after it."""

    def __init__(
        self, function: Callable[..., Tensor], *last: nn.Module, channels: int = 4
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.function, self.last = function, nn.ModuleList(last)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.conv(x).tanh())
        for layer in self.last:
            x = layer(x)
        return x


def windows(x: Tensor, side: int) -> Tensor:
    b, c, h, w = x.shape
    x = x.view(b, c, h // side, side, w // side, side).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(-1, side * side, c)


def unwindowed(x: Tensor, side: int, pixels: int) -> Tensor:
    count, c = pixels // side, x.shape[-1]
    x = x.view(-1, count, count, side, side, c).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(-1, c, pixels, pixels)


MOVED: dict[str, Callable[[], nn.Module]] = {
    "there and back": lambda: Through(
        lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), nn.Conv2d(4, 2, 3)
    ),
    "pixels first": lambda: Through(
        lambda x: x.permute(0, 2, 3, 1).reshape(len(x), -1), nn.Linear(256, 3)
    ),
    "channels last": lambda: Through(
        lambda x: x.movedim(1, -1), nn.LayerNorm(4), nn.Linear(4, 5), nn.GELU()
    ),
    "tokens": lambda: Through(
        lambda x: x.flatten(2).transpose(1, 2), nn.LayerNorm(4), nn.Linear(4, 3), nn.Softmax(-1)
    ),
    "transposed": lambda: Through(
        lambda x: x.transpose(2, 3).transpose(3, 2), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)
    ),
    "split and joined": lambda: Through(
        lambda x: torch.cat([a * b for a, b in (x.chunk(2, 1), x.split(2, 1))], 1),
        nn.Conv2d(4, 2, 3),
    ),
    "stacked": lambda: Through(lambda x: torch.stack([x, x.relu()], 1).mean(1), nn.Conv2d(4, 2, 3)),
    "shuffled pixels": lambda: Through(
        lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2).tanh(), 2), nn.Conv2d(4, 2, 3)
    ),
    "patches": lambda: Through(
        lambda x: F.unfold(x, 2, stride=2).transpose(1, 2), nn.Linear(16, 3)
    ),
    "padded and cut": lambda: Through(
        lambda x: F.pad(x, (2, 2, 2, 2))[:, :, 1:-1, 1:-1], nn.Conv2d(4, 2, 3)
    ),
    "rolled and back": lambda: Through(
        lambda x: x.roll((1, 2), (2, 3)).tanh().roll((-1, -2), (2, 3)), nn.Conv2d(4, 2, 3)
    ),
    "flipped": lambda: Through(lambda x: x.flip(3), nn.Conv2d(4, 2, 3), nn.AvgPool2d(2)),
    "flipped and back": lambda: Through(
        lambda x: F.max_pool2d(x.flip(2), 2).flip(2), nn.Conv2d(4, 2, 3, padding=1)
    ),
    "turned": lambda: Through(lambda x: x.rot90(1, (2, 3)), nn.Conv2d(4, 2, 3)),
    "rows for columns": lambda: Through(
        lambda x: F.interpolate(x.transpose(2, 3), scale_factor=2), nn.Conv2d(4, 2, 4, stride=2)
    ),
    "windows and back": lambda: Through(
        lambda x: unwindowed(windows(x, 4).softmax(1), 4, 8), nn.Conv2d(4, 2, 3)
    ),
    "shifted windows": lambda: Through(
        lambda x: unwindowed(windows(x.roll((2, 2), (2, 3)), 4).softmax(1), 4, 8).roll(
            (-2, -2), (2, 3)
        ),
        nn.Conv2d(4, 2, 3),
    ),
    "mlp over pixels": lambda: Through(lambda x: x.flatten(2), nn.Linear(64, 7)),
    "indexed": lambda: Through(
        lambda x: x[:, torch.tensor([2, 0, 1])][..., None].expand(-1, -1, -1, -1, 2).mean(-1),
        nn.Conv2d(3, 2, 3),
    ),
    "attention by hand": lambda: Through(
        lambda x: (
            torch.einsum("bcn,bcm->bnm", x.flatten(2), x.flatten(2)).softmax(-1) @ x.flatten(2).mT
        ),
        nn.Linear(4, 2),
    ),
    "constants like it": lambda: Through(
        lambda x: (
            x * (x.new_ones(1, 4, 1, 1) + 1).to(x).expand_as(x) / torch.tensor(2.0).type_as(x)
            + torch.ones(2, 256).view_as(x)
        ),
        nn.Conv2d(4, 2, 3),
    ),
    "attention": lambda: Through(
        lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT] * 3), nn.Linear(4, 2)
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_what_only_moves_data_is_followed(name: str) -> None:
    model = MOVED[name]()
    found = follow(model, images())
    assert not found.broken
    assert not found.asymmetric
    assert not found.unused
    assert error(model, images(), found) < 1e-9


@pytest.mark.parametrize(
    "name",
    [
        *("there and back", "tokens", "shuffled pixels", "windows and back", "pixels first"),
        *("flipped", "flipped and back", "turned", "rows for columns"),
    ],
)
def test_regular_channels_too(name: str) -> None:
    model = MOVED[name]()
    found = follow(model, images(), {"conv": (None, "regular")})
    assert not found.broken
    assert not found.asymmetric
    assert error(model, images(), found) < 1e-9


def every_other(x: Tensor, *corners: int) -> list[Tensor]:
    return [x[..., corner // 2 :: 2, corner % 2 :: 2] for corner in corners]


PIECES: dict[str, Callable[[Tensor], Tensor]] = {
    "side by side": lambda x: torch.cat(every_other(x, 0, 1, 2, 3), 1),
    "in another order": lambda x: torch.cat(every_other(x, 0, 2, 3, 1), -3),
    "stacked": lambda x: torch.stack(every_other(x, 0, 1, 2, 3), 1).flatten(1, 2),
}


@pytest.mark.parametrize("name", PIECES)
@pytest.mark.parametrize("channels", ["trivial", "regular"])
def test_pieces_that_together_are_whole(name: str, channels: str) -> None:
    """Every other pixel of four kinds: the group moves the kinds; E of what follows is smaller."""
    model = Through(PIECES[name], nn.GroupNorm(1, 16), nn.Conv2d(16, 4, 3))
    found = follow(model, images(), {"conv": (None, channels)})
    assert not found.broken
    assert error(model, images(), found) < 1e-9
    weights = {s.layer: s.action for s in found.spaces if s.parameter == "weight"}
    assert weights["last.1"].dimension == 4 * 4 * 9  # a quarter of its entries


@pytest.mark.parametrize("corners", [(0,), (0, 1), (0, 1, 2), (0, 0, 1, 2)])
def test_pieces_that_are_not_whole_break_the_grid(corners: tuple[int, ...]) -> None:
    model = Through(
        lambda x: torch.cat(every_other(x, *corners), 1), nn.Conv2d(4 * len(corners), 2, 3)
    )
    found = follow(model, images())
    (why,) = found.broken.values()
    assert "8 x 8 to 4 x 4 pixels is not symmetric under C4" in why
    alone = follow(Through(lambda x: every_other(x, *corners)[0]), images())
    assert alone.broken
    dropped = follow(Through(lambda x: (every_other(x, *corners), x)[1]), images())
    assert not dropped.broken


TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "flipped": lambda x: x.flip(-1),
    "flipped the other way": lambda x: x.flip(-2),
    "a quarter": lambda x: x.rot90(1, (-2, -1)),
    "transposed": lambda x: x.mT,
    "all": lambda x: x.mT.flip(-1).flip(-2).rot90(1, (-2, -1)),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("name", ["C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("channels", ["trivial", "regular"])
def test_grids_that_were_turned(turn: str, name: str, channels: str) -> None:
    """A convolution commutes with h g h^-1 as it does with g; pooled, all of it is invariant."""
    group = point_group(name)
    known = Features(trivial(group, 3), (9, 9))
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        Called(TURNS[turn]),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.Tanh(),
        nn.MaxPool2d(2, 2),
        nn.ConvTranspose2d(16, 8, 2, stride=2),
    )
    found = follow(model, known, {str(i): (None, channels) for i in (0, 3, 6)})
    assert not found.broken
    assert not found.asymmetric
    assert error(model, known, found) < 1e-9


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("axes", [(2,), (3, 4), (2, 3, 4)])
def test_volumes_that_were_flipped(axes: tuple[int, ...]) -> None:
    cube = point_group("O", 3)
    known = Features(trivial(cube, 1), (5, 5, 5))
    layers = (
        nn.Conv3d(1, 2, 3, padding=1),
        nn.Tanh(),
        Called(lambda x: x.flip(axes).transpose(2, 4)),
    )
    model = nn.Sequential(*layers, nn.Conv3d(2, 2, 3))
    found = follow(model, known)
    assert not found.asymmetric
    assert error(model, known, found) < 1e-9


def test_one_layer_on_an_image_and_on_its_mirror_image() -> None:
    """One E is that of both, where channels do not move; where they do, it is refused."""

    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.conv(x).tanh() + self.conv(x.flip(3)).flip(3).tanh())

    found = follow(model := Twins(), images())
    assert not found.asymmetric
    assert error(model, images(), found) < 1e-9
    with pytest.raises(ValueError, match="layer 'conv' runs twice, on different repres"):
        follow(Twins(), images(), {"conv": (None, "regular")})


class Transformer(nn.Module):
    """Patches, a class token, position embeddings, layer scale, attention of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 2, stride=2)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.positions = nn.Parameter(torch.zeros(1, 17, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        x = x + self.scale * self.block(x)
        return {"logits": self.head(x[:, 0]), "map": x[:, 1:]}


def test_a_transformer_with_a_class_token() -> None:
    model = Transformer()
    found = follow(model, images())
    assert not found.unused
    assert error(model, images(), found) < 1e-9
    spaces = {f"{s.layer}.{s.parameter}": s.action for s in found.spaces}
    assert spaces[".positions"].dimension == 8 * (1 + 4)  # the token, and 4 orbits of 16 patches
    assert spaces["head.weight"].is_trivial


class Table(nn.Module):
    """Attention within windows, with a bias looked up by relative position."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.query = nn.Conv2d(3, 4, 1), nn.Linear(4, 8)
        self.table = nn.Parameter(torch.zeros(25, 2))
        grid = torch.stack(torch.meshgrid(*[torch.arange(3)] * 2, indexing="ij")).flatten(1)
        shift = (grid[:, :, None] - grid[:, None] + 2).long()
        self.index: Tensor
        self.register_buffer("index", shift[0] * 5 + shift[1])

    def forward(self, x: Tensor) -> Tensor:
        x = windows(self.project(x), 3)
        q, k = self.query(x).view(-1, 9, 2, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.table[self.index.view(-1)].view(9, 9, 2).permute(2, 0, 1)
        x = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ x.unsqueeze(1)
        return torch.as_tensor(torch.unflatten(x, 0, (-1, 9)))


def test_tables_of_relative_positions() -> None:
    """E on the table is what the turns of the 25 shifts leave fixed: 7 of them, per head."""
    model = Table()
    found = follow(model, images(side=9))
    assert error(model, images(side=9), found) < 1e-9
    table = next(s.action for s in found.spaces if s.parameter == "table")
    assert table.dimension == 7 * 2


class Scaled(nn.Conv2d):
    """A known layer with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3, padding=1)
        self.map = nn.Parameter(torch.ones(8, 8))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.map


def test_parameters_that_a_subclass_adds() -> None:
    found = follow(model := Scaled(), images())
    assert {s.parameter for s in found.spaces} == {"weight", "bias", "map"}
    assert error(model, images(), found) < 1e-9


class Widened(nn.Module):
    """A parameter in the shape and type of what it is added to."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.map = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(6, 6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.as_tensor(x + self.map.type_as(x).expand_as(x))


def test_parameters_in_the_shape_of_features() -> None:
    found = follow(model := Widened(), images())
    assert not found.asymmetric
    assert {s.parameter: s.action.dimension for s in found.spaces}["map"] == 9
    assert error(model, images(), found) < 1e-9


class Standardized(nn.Conv2d):
    """Weights with mean 0 and variance 1 per filter, and a gain."""

    def __init__(self) -> None:
        super().__init__(3, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.ones(4, 1, 1, 1))

    def forward(self, input: Tensor) -> Tensor:
        flat = F.batch_norm(self.weight.reshape(1, 4, -1), None, None, training=True)
        return F.conv2d(input, flat.reshape_as(self.weight) * self.gain, self.bias, padding=1)


class Triangular(nn.Conv2d):
    """Weights that are cut so that no turn keeps them."""

    def forward(self, input: Tensor) -> Tensor:
        return F.conv2d(input, self.weight.tril(), self.bias, padding=1)


def test_weights_computed_from_parameters() -> None:
    found = follow(model := Standardized(), images())
    assert not found.unused
    assert error(model, images(), found) < 1e-9
    with pytest.raises(ValueError, match="not known how the group acts on weight of a Triangular"):
        follow(Triangular(3, 4, 3), images())


class Points(nn.Module):
    """Distances between points, and displacements weighted by them."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
        self.mix = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        shift = x[:, :, None] - x[:, None]
        weights = self.weigh(shift.norm(dim=-1, keepdim=True))
        return torch.as_tensor(self.mix(x + (weights * shift).mean(2)))


def test_points_with_a_group_on_the_last_axis() -> None:
    octahedral = point_group("O", 3)
    vectors = defining(octahedral)
    known = Action.on(octahedral, (2, 5, 3), {-1: vectors})
    found = follow(model := Points(), known, {"mix": (None, vectors)})
    spaces = {f"{s.layer}.{s.parameter}": s.action.dimension for s in found.spaces}
    assert spaces["mix.weight"] == 1
    assert spaces["mix.bias"] == 0
    assert error(model, known, found) < 1e-9


class Set(nn.Module):
    """As many elements as hidden entries."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.last(self.first(x).tanh().mean(1)))


def test_which_axis_moves_is_no_guess() -> None:
    known = Action.on(S4, (2, 4, 2), {1: defining(S4)})
    found = follow(model := Set(), known)
    assert all(space.action.is_trivial for space in found.spaces)
    assert error(model, known, found) < 1e-9
    graphs = Action.on(S4, (2, 4, 4), {1: defining(S4), 2: defining(S4)})
    found = follow(nn.Linear(4, 4), graphs, {"": (None, defining(S4))})
    assert {s.parameter: s.action.dimension for s in found.spaces} == {"weight": 2, "bias": 1}


@dataclasses.dataclass
class Outputs:
    map: Tensor
    scores: tuple[Tensor, Tensor]


class Several(nn.Module):
    """Two inputs by name, a mask and labels among the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(6, 4)

    def forward(self, image: Tensor, text: Tensor) -> Outputs:
        x = self.one(image) * self.two(text)[:, :, None, None].sigmoid()
        return Outputs(x.mean(1), (x.mean((2, 3)), x.amax((2, 3))))


def test_several_inputs_and_outputs() -> None:
    known = {"image": images(), "text": Action.trivial(C4, (2, 6))}
    found = follow(model := Several(), known)
    assert list(found.leaves) == ["map", "scores.0", "scores.1"]
    assert error(model, known, found) < 1e-9
    assert str(found.leaves["map"]) == "(2, grid 8 x 8/0, grid 8 x 8/1)"


BREAKS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a roll": (lambda x: F.conv2d(x.roll(1, 2), torch.ones(1, 4, 3, 3)), ""),
    "odd windows": (
        lambda x: unwindowed(windows(x.roll(1, 2), 4).softmax(1), 4, 8),
        "windows that the group does not map to windows",
    ),
    "positions": (lambda x: x + torch.arange(8.0), "with constants that the group moves"),
    "coordinates": (
        lambda x: torch.cat([x, torch.linspace(0, 1, 8).expand(len(x), 1, 8, 8)], 1),
        "with constants that the group moves",
    ),
    "shifted neighbours": (lambda x: x + x.roll(1, 3), "pixels together that the group moves"),
    "sums along rows": (lambda x: x.cumsum(-1), "does not commute with C4"),
    "a mirror image beside it": (
        lambda x: torch.cat([x, x.flip(3)], 1),
        "pixels together that the group moves",
    ),
    "a causal mask": (
        lambda x: F.scaled_dot_product_attention(
            x.flatten(2).mT, x.flatten(2).mT, x.flatten(2).mT, is_causal=True
        ),
        "is causal",
    ),
    "a causal mask by hand": (
        lambda x: (x.flatten(2).mT @ x.flatten(2)).masked_fill(
            torch.ones(64, 64).triu(1).bool(), -torch.inf
        ),
        "with constants that the group moves",
    ),
}


@pytest.mark.parametrize("name", [name for name in BREAKS if name != "a roll"])
def test_what_does_not_commute_is_said(name: str) -> None:
    function, why = BREAKS[name]
    model = Through(lambda x: function(x.float()).double())
    found = trace(model.double(), example(images()), images(), {})
    assert any(why in line for line in found.asymmetric.values()), found.asymmetric


def test_outputs_that_are_added_to_pixels_are_taken_for_pixels() -> None:
    """As in an MLP over pixels: only so can they be added; the user may say it, too."""

    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(64, 64)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(x.flatten(2) + self.mix(x.flatten(2)))

    for said, taken in (({}, ["mix"]), ({"mix": (None, grid(C4, 8))}, [])):
        found = follow(model := Mixer(), images(), said)
        assert not found.asymmetric
        assert list(found.taken) == taken
        assert error(model, images(), found) < 1e-9


def test_what_cuts_through_pixels_is_refused() -> None:
    for function in (lambda x: x.mean(3), lambda x: x.argmax(3).double()):
        with pytest.raises(ValueError, match="not known what acts on its 8 inputs after"):
            follow(Through(function, nn.Linear(8, 2)), images())


class Strange(nn.Module):
    """A layer that no rule knows."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.zeros(3, size))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cdist(x.flatten(2), self.points)


@pytest.fixture
def registered() -> Iterator[None]:
    @registry.follows(Strange)
    def strange(call: Call) -> Action:
        found = call.input
        call.place(
            call.module.get_parameter("points"), [trivial(C4, 3), *found.take([2, 3]).pieces()]
        )
        return Action(found.group, (*found.axes[:2], *Action.trivial(C4, (3,)).axes))

    yield
    del registry.MODULES[Strange]


def test_a_layer_of_the_users_own(registered: None) -> None:
    model = Through(lambda x: x, Strange(64))
    found = follow(model, images())
    assert not found.unused
    assert error(model, images(), found) < 1e-9


class Stranger(Strange):
    """A subclass that does something else with its points."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).cumsum(1)


def test_a_rule_is_not_that_of_subclasses_with_another_function(registered: None) -> None:
    assert registry.of_module(Strange(64)) is not None
    assert registry.of_module(Stranger(64)) is None
    with pytest.raises(ValueError, match=r"layer 'last.0': .* points of a Stranger, in cdist"):
        follow(Through(lambda x: x, Stranger(64)), images())


def test_modules_that_run_on_what_is_moved_otherwise_have_no_one_output() -> None:
    """Or a trial of the model would take one of them for broken."""

    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.bend = nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.bend(self.two(self.bend(self.one(x)))))

    given = {"one": (None, "regular"), "two": (None, None)}
    found = follow(Reused(), images(), given)
    assert list(found.outputs) == ["one", "two", ""]
    found = follow(Reused(), images(), {**given, "two": (None, "regular")})
    assert list(found.outputs) == ["one", "two", "bend", ""]


def test_a_layer_that_no_rule_knows() -> None:
    with pytest.raises(ValueError, match=r"layer 'last.0': .* points of a Strange, in cdist"):
        follow(Through(lambda x: x, Strange(64)), images())


def test_actions() -> None:
    """Blocks split where their representation is a product, and come together again."""
    base = Action.of(Features(trivial(C4, 3), (8, 8)), (2, 3, 8, 8))
    split = base.reshape((2, 3, 4, 2, 4, 2))
    assert split.closed([2, 4])
    assert not split.closed([2, 3])
    assert split.reshape((2, 3, 8, 8)).equals(base)
    assert split.reshape((2, 3, 2, 4, 8)).closed([2, 3, 4])
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(split.act(1, x.view(split.shape)).reshape(x.shape), x.rot90(1, (2, 3)))
    assert not base.permute([0, 1, 3, 2]).equals(base)
    mixed = Action.on(C4, (2, 8, 4), {1: 4 * TURN, 2: regular(C4)})
    assert mixed.reshape((2, 4, 2, 4)).take([2]).representation().equals(TURN)
    assert mixed.reshape((2, 32)).reshape((2, 8, 4)).equals(mixed)


def test_actions_on_axes() -> None:
    shift = cyclic(3)
    with pytest.raises(ValueError, match="defining acts on 3 entries; axes 1 of shape"):
        Action.on(shift, (2, 4), {1: defining(shift)})
    assert str(Action.on(D4, (2, 5, 5), {})) == "(2, 5, 5)"


def test_doctests() -> None:
    held = dict(registry.MODULES)
    for module in (features_module, registry):
        found = doctest.testmod(module)
        assert found.attempted
        assert not found.failed
    for kind in registry.MODULES.keys() - held:
        del registry.MODULES[kind]


def test_maxima_of_the_entries_of_vectors_are_said() -> None:
    """The largest of each component is no vector; means are."""
    known = Features(TURN, (8, 8))
    given = {"0": (None, TURN)}
    for pool, breaks in ((nn.MaxPool2d(2), True), (nn.AvgPool2d(2), False)):
        model = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), pool)
        found = follow(model, known, given)
        assert bool(found.asymmetric or found.broken) == breaks
        assert breaks or error(model, known, found) < 1e-9


def test_windows_that_are_shifted_by_half_their_side() -> None:
    """Windows of 4 shifted by 2, with masks and tables; merged patches are pieces of the grid."""
    swin = torchvision.models.swin_transformer.SwinTransformer
    for window, exact in ((4, True), (5, False)):
        torch.manual_seed(0)
        model = swin([2, 2], 16, [2, 2], [2, 2], [window, window], num_classes=3)
        known = images(side=8 * window)
        found = follow(model, known)
        assert not found.broken
        assert (not found.asymmetric) == exact, found.asymmetric
        if exact:
            assert error(model, known, found) < 1e-9
        else:
            assert any("any size of the images" in why for why in found.asymmetric.values())


LENGTHS: dict[str, Callable[[Tensor], Tensor]] = {
    "squares": lambda d: (d**2).sum(-1, keepdim=True),
    "a square": lambda d: d.square().sum(dim=-1).unsqueeze(-1),
    "a norm": lambda d: d.norm(dim=-1, keepdim=True),
    "by einsum": lambda d: torch.einsum("bijk,bijk->bij", d, d)[..., None],
}


class Lengths(nn.Module):
    """A function of the distances of points."""

    def __init__(self, length: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weigh, self.mix, self.length = nn.Linear(1, 4), nn.Linear(3, 3), length

    def forward(self, x: Tensor) -> Tensor:
        shift = self.mix(x)[:, :, None] - x[:, None]
        return torch.as_tensor(self.weigh(self.length(shift)).tanh().sum((1, 2)))


@pytest.mark.parametrize("name", ["squares", "a square", "a norm", "by einsum"])
def test_squares_of_vectors_that_are_summed(name: str) -> None:
    octahedral = point_group("O", 3)
    vectors = defining(octahedral)
    known = Action.on(octahedral, (2, 5, 3), {-1: vectors})
    found = follow(model := Lengths(LENGTHS[name]), known, {"mix": (None, vectors)})
    assert not found.asymmetric
    assert error(model, known, found) < 1e-9


@pytest.mark.parametrize(
    "length",
    [
        lambda d: d.square()[..., :1],
        lambda d: (d**3).sum(-1, keepdim=True),
        lambda d: d.abs().sum(-1, keepdim=True),
        lambda d: d.square().amax(-1, keepdim=True),
        lambda d: (d.square() * torch.arange(3)).sum(-1, keepdim=True),
    ],
)
def test_squares_of_vectors_that_are_not_summed_are_said(
    length: Callable[[Tensor], Tensor],
) -> None:
    space = rotations(3)
    known = Action.on(space, (2, 5, 3), {-1: defining(space)})
    given = {"mix": (None, defining(space)), "weigh": ("trivial", None)}
    found = follow(Lengths(length), known, given)
    assert any("permutes nothing" in why for why in found.asymmetric.values())


def test_distances_of_points_that_come_in() -> None:
    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.last = nn.Linear(3, 3), nn.Linear(1, 4)

        def forward(self, x: Tensor) -> Tensor:
            apart = torch.cdist(self.mix(x), x)
            return torch.as_tensor(self.last(apart.unsqueeze(-1)).tanh().sum((1, 2)))

    octahedral = point_group("O", 3)
    vectors = defining(octahedral)
    known = Action.on(octahedral, (2, 5, 3), {-1: vectors})
    found = follow(model := Apart(), known, {"mix": (None, vectors)})
    assert error(model, known, found) < 1e-9


def test_constants_that_are_filled_in_place() -> None:
    """Classes of pixels written into zeros: run again on zeros, and not on what came of them."""
    known: dict[str, Known] = {"image": images(), "classes": Pixels(C4, 2)}

    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 2, 3)

        def forward(self, image: Tensor, classes: Tensor) -> Tensor:
            one_hot = torch.zeros(len(image), 5, 8, 8).double().scatter_(1, classes[:, None], 1.0)
            return torch.as_tensor(self.conv(torch.cat([image, one_hot], 1)))

    batch = {"image": example(images()), "classes": torch.randint(5, (2, 8, 8))}
    found = trace(Classes().double(), batch, known, {})
    assert not found.broken
    assert not found.asymmetric


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.Linear(5, 5), "its bias is added alike to all entries"),
        (nn.Linear(5, 5, bias=False), ""),
        (nn.LayerNorm(5), "works entry by entry"),
        (nn.RMSNorm(5), "works entry by entry"),
        (nn.GroupNorm(1, 3, affine=False), "works entry by entry"),
        (nn.Sequential(Called(lambda x: x.mT), nn.BatchNorm1d(5)), "works entry by entry"),
        (nn.Sequential(Called(lambda x: x.mT), nn.RMSNorm(3, elementwise_affine=False)), ""),
    ],
)
def test_layers_along_what_does_not_move_of_vectors(layer: nn.Module, says: str) -> None:
    """Channels of vectors (samples, 3, channels): biases and statistics are no vectors."""
    octahedral = point_group("O", 3)
    known = Action.on(octahedral, (2, 3, 5), {1: defining(octahedral)})
    model = nn.Sequential(nn.Linear(5, 5, bias=False), layer)
    if "bias" in says:
        with pytest.raises(ValueError, match=says):
            follow(model, known)
        return
    found = follow(model, known)
    assert says in "; ".join(found.asymmetric.values())
    assert says or error(model, known, found) < 1e-9
