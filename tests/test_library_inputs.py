"""Models of several inputs: what acts on each, by position or by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import equireg
from equireg.library.equivariance import Equivariance
from equireg.library.trees import mapped
from equireg.representations import vectors
from equireg.symmetry.groups import cyclic, point_group, symmetric
from equireg.symmetry.representations import defining, grid, regular, trivial

C4 = point_group("C4")
RANDOM = torch.Generator().manual_seed(0)
ONE, TWO = (torch.randn(4, c, 9, 9, generator=RANDOM, dtype=torch.float64) for c in (1, 2))
MASK = torch.rand(4, 9, 9, generator=RANDOM) < 0.5
CLASSES = torch.randint(5, (4, 9, 9), generator=RANDOM)
NUMBERS = torch.randn(4, 6, generator=RANDOM, dtype=torch.float64)
TIMES = torch.rand(4, generator=RANDOM, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Pair(nn.Module):
    """Two images, of other channels each; ``late`` acts on the second before they meet."""

    def __init__(self, late: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(2, 4, 3, padding=1)
        self.last, self.late = nn.Conv2d(8, 3, 3), late

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        x = torch.cat([self.first(left).tanh(), self.late(self.second(right))], 1)
        return torch.as_tensor(self.last(x).tanh().mean((2, 3)))


class Masked(nn.Module):
    """Segments an image where a mask says so; the classes of before are embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.known = nn.Conv2d(1, 4, 3, padding=1), nn.Embedding(5, 4)
        self.last = nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, image: Tensor, mask: Tensor, before: Tensor) -> dict[str, Tensor]:
        x = self.conv(image) + self.known(before).permute(0, 3, 1, 2)
        return {"classes": self.last(x.tanh() * mask[:, None])}


class Conditioned(nn.Module):
    """An image under conditions that do not move: numbers of the sample, a time, a table."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(6, 4)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor, numbers: Tensor, time: Tensor, table: Tensor) -> Tensor:
        scale = self.mix(numbers) * time[:, None] + table.mean()
        return torch.as_tensor(self.last((self.conv(x) * scale[:, :, None, None]).tanh()))


def made(model: nn.Module, example: Any, *args: Any, **options: Any) -> Equivariance:
    """Without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Equivariance(model.double(), "C4", example, *args, **options)


def by_hand(tree: Any, fixed: tuple[str, ...] = ()) -> Any:
    """Every tensor turned by its last two axes, but for those that stay."""
    return mapped(lambda path, x: x if path in fixed else x.rot90(1, (-2, -1)), tree)


Case = tuple[Callable[[], nn.Module], Any, Any, tuple[str, ...]]
CASES: dict[str, Case] = {
    "by position": (Pair, (ONE, TWO), None, ()),
    "a list": (Pair, [ONE, TWO], None, ()),
    "by name": (Pair, {"right": TWO, "left": ONE}, None, ()),
    "a mask and classes": (
        Masked,
        {"image": ONE, "mask": MASK, "before": CLASSES},
        {"mask": "pixels", "before": "pixels"},
        (),
    ),
    "a mask and classes by position": (
        Masked,
        (ONE, MASK, CLASSES),
        (None, "pixels", "pixels"),
        (),
    ),
    "conditions": (
        Conditioned,
        {"x": ONE, "numbers": NUMBERS, "time": TIMES, "table": torch.ones(7, 3, 2).double()},
        {"table": "fixed"},
        ("numbers", "time", "table"),
    ),
}


def called(model: Callable[..., Any], batch: Any) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(*batch)


@pytest.mark.parametrize("name", CASES)
def test_projected_models_of_several_inputs_are_equivariant(name: str) -> None:
    build, example, said, fixed = CASES[name]
    model = build()
    eq = made(model, example, input=said)
    assert eq.error(example).relative > 1e-2
    assert eq.check() == eq.check(example) == []
    symmetric = eq.symmetrized()
    assert eq.error(example, symmetric).relative < 1e-12
    eq.project_()
    assert eq.error(example).relative < 1e-12
    moved = by_hand(example, fixed)
    turn = next(g for g in range(4) if _same(eq.act(g, example), moved))
    out = called(model, example)
    assert _same(called(model, moved), eq.act(turn, out, of="output"))
    assert _same(called(symmetric, example), out)


def _same(one: Any, two: Any) -> bool:
    pairs = zip(_tensors(one), _tensors(two), strict=True)
    return all(torch.allclose(x, y, rtol=0, atol=1e-12) for x, y in pairs)


def _tensors(tree: Any) -> list[Tensor]:
    found = list[Tensor]()
    mapped(lambda _, x: found.append(x), tree)
    return found


def test_each_sample_is_moved_by_its_own_element_in_all_inputs() -> None:
    eq = made(Masked(), (ONE, MASK, CLASSES), input=(None, "pixels", "pixels"))
    elements = torch.tensor([3, 0, 1, 2])
    moved = eq.act(elements, (ONE, MASK, CLASSES))
    for one, two in zip(moved, (ONE, MASK, CLASSES), strict=True):
        assert one.dtype == two.dtype
        for i, g in enumerate(elements.tolist()):
            assert torch.equal(one[i], eq.act(g, two[i : i + 1], of="pixels")[0])
    augmented = eq.augment((ONE, MASK, CLASSES), torch.Generator().manual_seed(1))
    again = eq.act(eq.draw(4, torch.Generator().manual_seed(1)), (ONE, MASK, CLASSES))
    assert _same(augmented, again)
    part = eq.act(1, {"1": MASK})  # some of them, by the names that messages show
    assert torch.equal(part["1"], eq.act(1, (ONE, MASK, CLASSES))[1])


def test_the_augmented_gradient_on_e_is_the_projected_one() -> None:
    model = Pair()
    eq = made(model, {"left": ONE, "right": TWO})
    eq.project_()
    batch = {"left": ONE, "right": TWO}
    eq.group_mean(lambda x: called(model, x).square().sum(), batch).backward()
    mean = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    called(model, batch).square().sum().backward()
    eq.project_gradients_()
    for one, p in zip(mean, model.parameters(), strict=True):
        assert p.grad is not None
        assert torch.allclose(one, p.grad, rtol=0, atol=1e-10 * float(one.abs().max()))


def test_regular_channels_and_channels_that_move() -> None:
    """A field of vectors beside an image, both to regular channels."""
    rho = vectors(C4, "xy")
    model = Pair()
    layers = {"first": (None, "regular"), "second": (None, "regular")}
    eq = made(model, (ONE, TWO), layers, input={"1": rho})
    assert {s.layer: s.action.axes[1].name for s in eq._spaces if s.parameter == "weight"} == {
        "first": "trivial(1)",
        "second": "vectors xy",
        "last": "1 * regular + 1 * regular",
    }
    eq.project_()
    assert eq.error((ONE, TWO)).relative < 1e-12
    assert not torch.allclose(eq.act(1, (ONE, TWO))[1], TWO.rot90(1, (2, 3)))
    widths = nn.ModuleDict({"first": nn.Conv2d(1, 8, 3), "second": nn.Conv2d(2, 8, 3)})

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = *widths.values(), nn.Linear(8, 3)

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            x = (self.first(left) + self.second(right)).tanh()
            return torch.as_tensor(self.head(x.mean((2, 3))))

    eq = made(Sum(), (ONE, TWO), "regular")
    assert eq.error((ONE, TWO)).relative > 1e-3
    eq.project_()
    assert eq.error((ONE, TWO)).relative < 1e-12


BREAKING: dict[str, Callable[[Tensor], Tensor]] = {
    "ramp": lambda x: (x + torch.linspace(0, 1, 9)).tanh(),
    "one turned": lambda x: x.tanh().rot90(1, (2, 3)).cumsum(3),
    "hidden": lambda x: x.tanh() * (x.shape[2] > 0) if x[0, 0, 0, 0] > 9 else _hidden(x),
}


def _hidden(x: Tensor) -> Tensor:
    return torch.as_tensor(torch.fft.ifft2(torch.fft.fft2(x) * torch.linspace(0, 1, 9)).real.tanh())


@pytest.mark.parametrize("name", ["ramp", "one turned"])
def test_what_breaks_one_of_the_inputs_is_said(name: str) -> None:
    with pytest.warns(UserWarning, match="do not make this model symmetric"):
        eq = Equivariance(Pair(BREAKING[name]).double(), "C4", (ONE, TWO))
    eq.project_()
    assert eq.error((ONE, TWO)).relative > 1e-3
    with pytest.raises(ValueError, match="not known what acts on its 8 inputs after fft"):
        Equivariance(Pair(BREAKING["hidden"]).double(), "C4", (ONE, TWO))


def test_an_input_that_is_said_to_stay_but_moves_is_found_out() -> None:
    """As a second image whose pixels stay where they are breaks the symmetry."""
    with pytest.warns(UserWarning, match="do not make this model symmetric"):
        Equivariance(Pair().double(), "C4", (ONE, TWO), input=(None, "fixed"))


def test_a_warning_names_sizes_for_all_inputs_of_one_grid() -> None:
    class Strided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, stride=2)

        def forward(self, x: Tensor, mask: Tensor, numbers: Tensor) -> Tensor:
            return torch.as_tensor(
                self.conv(x * mask[:, None]).mean((2, 3)) * numbers.mean(1)[:, None]
            )

    images = torch.zeros(2, 1, 8, 8), torch.ones(2, 8, 8), torch.zeros(2, 6)
    with pytest.warns(UserWarning, match="images of 9 x 9 pixels work for all layers"):
        Equivariance(Strided(), "C4", images, input={"1": "pixels"})
    larger = torch.zeros(2, 1, 9, 9), torch.ones(2, 9, 9), torch.zeros(2, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Equivariance(Strided(), "C4", larger, input={"1": "pixels"})


class Cloud(nn.Module):
    """Points, their kinds and a mask of those that are there: a vector for each cloud."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh, self.mix = nn.Linear(1, 5), nn.Linear(3, 3, bias=False)
        self.kind = nn.Embedding(3, 5)

    def forward(self, points: Tensor, kinds: Tensor, there: Tensor) -> Tensor:
        shift = points[:, :, None] - points[:, None]
        weights = (self.weigh(shift.norm(dim=-1, keepdim=True)) * self.kind(kinds)[:, None]).tanh()
        forces = (weights.sum(-1, keepdim=True) * shift * there[:, None, :, None]).sum(2)
        return torch.as_tensor(self.mix(forces).sum(1))


def test_points_whose_last_axis_moves() -> None:
    cube = point_group("O", 3)
    rho = defining(cube)
    example = {
        "points": torch.randn(3, 6, 3, dtype=torch.float64, generator=RANDOM),
        "kinds": torch.randint(3, (3, 6), generator=RANDOM),
        "there": (torch.rand(3, 6, generator=RANDOM) < 0.7).double(),
    }
    model = Cloud().double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = Equivariance(model, cube, example, {"mix": (None, rho)}, input={"points": {-1: rho}})
    assert {s.layer: s.action.dimension for s in eq._spaces} == {"mix": 1}
    assert eq.error(example).relative > 1e-2
    eq.project_()
    assert eq.error(example).relative < 1e-12
    turned = {**example, "points": example["points"] @ torch.tensor(cube.elements[5]).double().T}
    assert _same(eq.act(5, example), turned)
    two = {name: x[:2] for name, x in example.items()}  # another number of samples
    assert eq.error(two).relative < 1e-12


def test_graphs_whose_nodes_are_permuted() -> None:
    """Adjacency on two axes, features on one: a layer per node, and E = a 1 + b on what is left."""
    group, count = symmetric(5), 5
    rho = defining(group)

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.nodes = nn.Linear(2, 3), nn.Linear(count, count, bias=False)

        def forward(self, edges: Tensor, x: Tensor) -> Tensor:
            x = (edges @ self.features(x)).tanh()
            return torch.as_tensor(self.nodes(x.mT))

    example = (torch.randn(2, count, count).double(), torch.randn(2, count, 2).double())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = Equivariance(
            Graph().double(),
            group,
            example,
            {"nodes": (None, rho)},
            input=({1: rho, 2: rho}, {1: rho}),
        )
    assert {s.layer: s.action.dimension for s in eq._spaces} == {"nodes": 2}
    eq.project_()
    assert eq.error(example).relative < 1e-12


def test_one_input_of_other_shapes() -> None:
    """Grey images without an axis of channels, channels last, a video."""
    grey = nn.Sequential(nn.Flatten(), nn.Linear(81, 3)).double()
    eq = Equivariance(grey, "C4", ONE[:, 0], input="pixels")
    eq.project_()
    assert eq.error(ONE[:, 0]).relative < 1e-12
    assert torch.equal(eq.act(1, ONE[:, 0]), eq.act(1, ONE[:, 0], of="pixels"))

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix, self.flat = nn.Linear(2, 4), nn.Linear(4 * 81, 3)

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.flat(self.mix(x).tanh().flatten(1)))

    last = TWO.movedim(1, -1).contiguous()
    eq = Equivariance(Last().double(), C4, last, input={(1, 2): grid(C4, 9)})
    assert eq.error(last).relative > 1e-2
    eq.project_()
    assert eq.error(last).relative < 1e-12

    class Frames(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x.flatten(0, 1)).tanh().mean((2, 3))
            return torch.as_tensor(self.head(y.view(len(x), -1)))

    video = torch.randn(2, 3, 2, 7, 7, generator=RANDOM, dtype=torch.float64)
    eq = Equivariance(Frames().double(), C4, video, input="pixels")
    eq.project_()
    assert eq.error(video).relative < 1e-12


@pytest.mark.parametrize(
    ("example", "options", "message"),
    [
        ((ONE, MASK), {}, r"input 1: it cannot be told .*shape \(4, 9, 9\); pass input=\{'1': \"f"),
        ((ONE, TWO), {"input": (None,)}, "input is of 1 entries; accepted: as many as the example"),
        ((ONE, TWO), {"input": "pixels"}, "input is 'pixels' for several inputs; accepted: a dict"),
        ((ONE, TWO), {"input": {"2": None}}, "input: the example has no '2'; accepted: '0', '1'"),
        ((ONE, TWO), {"input": {"1": "pixel"}}, "input 1 is 'pixel'; accepted: a Representation"),
        (
            (ONE, TWO),
            {"input": {"1": regular(C4)}},
            "input 1 is regular, on 4 entries; example has",
        ),
        ((ONE, TWO), {"input": {"1": {1: 3}}}, "input 1 is 3 on axis 1; accepted: a Representati"),
        ((ONE, TWO), {"input": {"1": {5: regular(C4)}}}, "input 1 is of axis 5; accepted: numbers"),
        ((ONE, TWO), {"input": {"1": {0: trivial(C4, 4)}}}, "input 1: axis 0 is that of samples"),
        (
            (ONE, TWO),
            {"input": {"1": {1: regular(C4)}}},
            "input 1: regular acts on 4 entries; axes",
        ),
        ((ONE, TWO), {"input": {"0": defining(C4)}}, "input 0 is defining, on components in the"),
        ((ONE, TWO), {"input": ("fixed", "fixed")}, "cannot be told which axes|moves none of the"),
        ((ONE, TWO[..., :8]), {}, "input 1: C4: a grid of 9 x 8 pixels is not mapped"),
        ((), {}, "example is a tuple; accepted: a tensor"),
        ((3, None), {}, "example is a tuple; accepted: a tensor .* or a dict by name"),
        ((ONE, TWO + 0j), {}, "example 1 is torch.complex128; accepted: real inputs"),
        ((ONE, TWO[:0]), {}, r"example 1 has shape \(0, 2, 9, 9\); accepted"),
        ((ONE,), {}, "the model cannot be followed: .* raised TypeError: .*'right'"),
    ],
)
def test_what_is_refused(example: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Equivariance(Pair().double(), "C4", example, **options)


def test_what_is_refused_later() -> None:
    eq = made(Pair(), {"left": ONE, "right": TWO})
    for call, message in (
        (lambda: eq.act(1, (ONE, TWO)), "not known what acts on '0'; accepted: 'left', 'right'"),
        (lambda: eq.act(1, ONE), "what acts on 'a tensor alone'; accepted: 'left', 'right'"),
        (lambda: eq.act(1, {"left": TWO}), r"batch left has shape \(4, 2, 9, 9\); accepted: \(sam"),
        (lambda: eq.error({"left": ONE[:0], "right": TWO[:0]}), "batch is empty; accepted: one"),
        (lambda: eq.symmetrized()(ONE, right=TWO), "1 inputs by position, 1 by name; accepted: al"),
        (lambda: made(nn.Conv2d(1, 2, 3), ONE).symmetrized()(ONE, ONE), "accepted: one by posit"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(ValueError, match="D1', and it cannot be told which axes of the inputs"):
        Equivariance(Pair(), "D1", (ONE, ONE[:, 0]))


def test_a_group_without_pixels_moves_one_of_the_inputs() -> None:
    group = cyclic(6)

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = (
                nn.Linear(6, 12),
                nn.Linear(3, 12),
                nn.Linear(12, 2),
            )

        def forward(self, ring: Tensor, numbers: Tensor) -> Tensor:
            return torch.as_tensor(self.head((self.first(ring) + self.second(numbers)).tanh()))

    example = (NUMBERS, torch.randn(4, 3).double())
    layers = {"first": (None, "regular"), "second": (None, "regular")}
    eq = Equivariance(Mixed().double(), group, example, layers, input=(defining(group), None))
    eq.project_()
    assert eq.error(example).relative < 1e-12
    assert torch.equal(eq.act(1, example)[1], example[1])
    assert not torch.equal(eq.act(1, example)[0], example[0])


class Energy(nn.Module):
    """Forces, the derivative of an energy by the points, taken in forward."""

    def __init__(self, *, careful: bool, ramp: bool = False) -> None:
        super().__init__()
        self.pair, self.careful, self.ramp = nn.Linear(3, 8), careful, ramp
        self.last = nn.Linear(8, 1)

    def energy(self, x: Tensor) -> Tensor:
        shift = x[:, :, None] - x[:, None]
        return torch.as_tensor(self.last(self.pair(shift).tanh())).sum((1, 2, 3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        if self.careful:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                energy = self.energy(x)
                return {
                    "energy": energy.detach(),
                    "forces": -torch.autograd.grad(energy.sum(), x)[0],
                }
        energy = self.energy(x)
        ones = torch.ones_like(energy)
        (forces,) = torch.autograd.grad(energy, [x], ones, create_graph=self.training)
        return {"energy": energy, "forces": -forces}


@pytest.mark.parametrize("careful", [True, False])
def test_forces_by_differentiation_in_forward(careful: bool) -> None:
    """They move as the points do: known, tried, measured and averaged."""
    cube = point_group("O", 3)
    rho = defining(cube)
    points = torch.randn(3, 5, 3, dtype=torch.float64, generator=RANDOM)
    model = Energy(careful=careful).double()
    layers = {"pair": (None, "regular")}
    model.pair, model.last = nn.Linear(3, 24).double(), nn.Linear(24, 1).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = Equivariance(model, cube, points, layers, input={-1: rho})
    assert eq.error(points).relative > 1e-2
    eq.project_()
    assert eq.error(points).relative < 1e-12
    points.requires_grad_()
    out, moved = model(points), model(eq.act(7, points))
    forces = out["forces"] @ torch.tensor(cube.elements[7]).double().T
    assert torch.allclose(moved["forces"], forces, atol=1e-12)
    assert torch.allclose(moved["energy"], out["energy"], atol=1e-12)


def test_names_of_inputs_may_be_nested() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Pair()

        def forward(self, batch: dict[str, Any], scale: float) -> Tensor:
            return torch.as_tensor(self.pair(batch["images"][0], batch["images"][1]) * scale)

    example = ({"images": [ONE, TWO], "text": "none"}, 2.0)
    eq = made(Nested(), example, input={"0.images.1": vectors(C4, "ij")})
    eq.project_()
    assert eq.error(example).relative < 1e-12
    assert eq.act(1, example)[1] == 2.0


def test_the_example_of_the_documents() -> None:
    """docs/library.md, as it is written there."""
    from pathlib import Path

    text = (Path(__file__).parent.parent / "docs/library.md").read_text(encoding="utf-8")
    section = text.partition("## Several inputs")[2].partition("\n## ")[0]
    code = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "equireg": equireg}
    exec(code, names)
    assert names["eq"].distance().total < 1e-5
