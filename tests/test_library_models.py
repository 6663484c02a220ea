"""Kinds of layers that models of public collections have, followed or said to break the symmetry.

The judge is the projected model itself, in double precision on turned images.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equireg.library.equivariance import Equivariance
from equireg.library.layers.kernels import middle, on_kernel
from equireg.symmetry.groups import point_group
from equireg.symmetry.spaces import Space

SIDE = 8


def batch(side: int = SIDE) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, side, side, generator=generator, dtype=torch.float64)


def made(model: nn.Module, side: int = SIDE, group: str = "C4") -> tuple[Equivariance, str]:
    """Of a model with random weights; and what was warned of."""
    generator = torch.Generator().manual_seed(1)
    model.double().eval()
    for parameter in model.parameters():
        shape = parameter.shape
        parameter.data = torch.randn(shape, generator=generator, dtype=torch.float64) / 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eq = Equivariance(model, group, batch(side))
    return eq, "\n".join(str(one.message) for one in caught)


def error(eq: Equivariance, side: int = SIDE) -> float:
    """Of the projected model."""
    eq.project_()
    return eq.error(batch(side)).deviating


class Through(nn.Module):
    """A convolution, a function, and a linear head on the mean over pixels."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.function(self.conv(x).tanh()))
        return x.tanh().mean((2, 3))


@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize(("kernel", "kept"), [((1, 7), 1), ((5, 3), 9), ((3, 3), 9), ((2, 4), 4)])
def test_kernels_that_the_group_does_not_map_to_themselves(
    group: str, kernel: tuple[int, int], kept: int
) -> None:
    """E is what it maps to the kernel, and is moved as on a square; the rest is zero."""
    acting = point_group(group)
    assert middle(acting, kernel) == kept
    basis = Space(on_kernel(acting, kernel)).basis().reshape(-1, *kernel)
    side = max(kernel)
    cut = [slice((side - n) // 2, (side + n) // 2) for n in kernel]
    square = torch.zeros(len(basis), side, side, dtype=torch.float64)
    square[:, cut[0], cut[1]] = torch.from_numpy(basis)
    assert torch.allclose(square, square.rot90(1, (1, 2)), atol=1e-12)
    orbits = {(1, 7): 1, (5, 3): 3, (3, 3): 3, (2, 4): 1}
    assert len(basis) == orbits[kernel]


def test_kernels_of_which_nothing_is_left() -> None:
    with pytest.raises(ValueError, match="a grid of 1 x 2 pixels is not mapped to itself"):
        on_kernel(point_group("C4"), (1, 2))


def test_a_network_of_kernels_of_one_row_or_column() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, (1, 7), padding=(0, 3)),
        nn.Tanh(),
        nn.Conv2d(4, 4, (5, 1), padding=(2, 0), groups=4),
        nn.Tanh(),
        nn.Conv2d(4, 2, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
    )
    eq, said = made(model)
    assert "'0' (1 x 7: 1 of 7 pixels), '2' (5 x 1: 1 of 5 pixels)" in said
    assert error(eq) < 1e-12
    assert float(eq.distance().total) < 1e-12
    weight = model[0].get_parameter("weight")
    assert not weight[..., [0, 1, 2, 4, 5, 6]].any()
    assert weight[..., 3].all()
    with pytest.raises(ValueError, match="layer '0': C4: a grid of 1 x 7 pixels"):
        Equivariance(model, "C4", batch(), {"0": (None, "regular"), "2": (None, "regular")})


def test_subgroups_that_map_a_kernel_to_itself() -> None:
    """A half turn reverses a row of pixels: four directions of seven, per pair of channels."""
    model = nn.Sequential(nn.Conv2d(3, 2, (1, 7), padding=(0, 3)), nn.AdaptiveAvgPool2d(1)).double()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq = Equivariance(model, "C4", batch(), subgroups={"0": "C2"})
    assert eq.spaces["0.weight"].dimension == 4 * 6
    assert error(eq) < 1e-12


class Mixer(nn.Module):
    """Linear layers over pixels, whose outputs are added to, or multiplied with, pixels."""

    def __init__(self, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.stem, self.head = nn.Conv2d(3, 4, 1), nn.Linear(4, 2)
        self.mix = nn.Sequential(nn.Linear(SIDE**2, 6), nn.Tanh(), nn.Linear(6, SIDE**2))
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).tanh().flatten(2).mT
        mixed = self.scale * self.mix(x.mT).mT
        return torch.as_tensor(self.head((x * mixed if self.gated else x + mixed).tanh().mean(1)))


@pytest.mark.parametrize("gated", [False, True])
def test_outputs_over_pixels_are_taken_to_be_pixels(gated: bool) -> None:
    """As in an MLP-Mixer: nothing else can be added to pixels that move; and it is said."""
    eq, said = made(Mixer(gated))
    assert "taken to be moved like the pixels that they are put together with: 'mix.2' (" in said
    assert error(eq) < 1e-12
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = eq.spaces["mix.2.weight"].axes[0]
        Equivariance(Mixer(gated).double(), "C4", batch(), {"mix.2": (None, pixels)})


class Decomposed(nn.Module):
    """Attention with positions of rows and columns apart."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 2)
        self.rows, self.columns = (nn.Parameter(torch.zeros(2 * SIDE - 1, 4)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.query(x).permute(0, 2, 3, 1)
        apart = torch.arange(SIDE)[:, None] - torch.arange(SIDE) + SIDE - 1
        along = torch.einsum("bhwc,hkc->bhwk", x, self.rows[apart])
        across = torch.einsum("bhwc,wkc->bhwk", x, self.columns[apart])
        bias = (along[..., None] + across[..., None, :]).flatten(1, 2).flatten(2)
        tokens = x.flatten(1, 2)
        seen = (tokens @ tokens.mT + bias).softmax(-1) @ tokens
        return torch.as_tensor(self.head(seen.tanh().mean(1)))


def test_positions_of_rows_and_columns_apart_are_said() -> None:
    eq, said = made(Decomposed())
    assert "with rows, of rows or columns of pixels alone; left as it is" in said
    assert "puts pixels beside what is not known to move with them" in said
    assert not {"rows", "columns"} & eq.spaces.keys()
    assert error(eq) > 1e-3


def overlapping(x: Tensor) -> Tensor:
    """Windows of 4 with a pixel of their neighbours, unfolded axis by axis; their largest."""
    x = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)
    return x.flatten(4).softmax(-1).amax(-1)


def replaced(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 2:-2, 2:-2] = x[:, :, 2:-2, 2:-2].exp()
    return y


def shown(x: Tensor) -> Tensor:
    """Blurred by way of functions that no rule knows."""
    squares = torch.fft.fftfreq(SIDE).square()
    return torch.as_tensor(
        x + torch.fft.ifft2(torch.fft.fft2(x) * (squares + squares[:, None])).real
    )


FOLLOWED = {"overlapping": overlapping, "replaced": replaced, "shown": shown}


@pytest.mark.parametrize("name", FOLLOWED)
def test_what_is_followed(name: str) -> None:
    eq, said = made(Through(FOLLOWED[name]))
    assert not said
    assert error(eq) < 1e-12


def one_sided(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 1:, 1:] = x[:, :, 1:, 1:].exp()
    return y


def moved(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :, 2:-2, 2:-2] = x[:, :, 2:-2, 2:-2].mT
    return y


def hidden(x: Tensor) -> Tensor:
    spectrum = torch.fft.fft2(x)
    return torch.as_tensor(x + torch.fft.ifft2(spectrum * torch.arange(SIDE)).real)


BROKEN = {"one side replaced": one_sided, "replaced otherwise": moved, "hidden": hidden}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_warned_of_or_refused(name: str) -> None:
    if name == "replaced otherwise":
        with pytest.raises(ValueError, match="after assigning to a part of a tensor"):
            made(Through(BROKEN[name]))
        return
    eq, said = made(Through(BROKEN[name]))
    assert "symmetric" in said
    assert error(eq) > 1e-3
    if name == "hidden":
        assert "it is not known what acts on parts of add (after " in said


def test_constant_weights_are_no_layer() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.weight: Tensor
            self.register_buffer("weight", torch.arange(36.0).view(1, 36))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.conv(x).flatten(2), self.weight)

    eq, said = made(Fixed())
    assert "does not commute with C4" in said or "not symmetric" in said
    assert set(eq.spaces) == {"conv.weight"}


def test_numbers_that_scale_all_entries_are_seen() -> None:
    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor((self.conv(x) * self.scale + self.shift).tanh().mean((2, 3)))

    eq, said = made(Affine())
    assert not said
    assert error(eq) < 1e-12
