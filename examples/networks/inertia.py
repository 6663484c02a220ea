"""A regression under O(3): from a cloud of point masses to its tensor of inertia.

Inputs are five masses and their positions, targets the nine entries of the mean of
m (|x|^2 1 - x x^T). Turning or mirroring the cloud turns the tensor. ``network`` is a multilayer
perceptron with channels of numbers, vectors and tensors; ``plain`` is an ordinary one. Called as a
script, the file writes two data sets: one as above, and one of a symmetry that is only approximate,
where masses weigh more along one axis.

    python examples/networks/inertia.py
    snakemake --configfile workflow/presets/inertia.yaml --cores all
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from equireg.groups import orthogonal
from equireg.nonlinearities import Gates, Products
from equireg.representations import Representation, angular_momentum, defining, direct_sum, trivial
from equireg.symmetry.spaces import hom

MASSES = 5
AXIS = torch.tensor([0.0, 0.0, 1.0])
PREFERENCE = 0.5  # of the axis: what it adds to the tensor, in units of m (x . axis)^2
O3 = orthogonal(3)
VECTOR, TENSOR = defining(O3), angular_momentum(O3, 2)
CLOUD = direct_sum(trivial(O3, MASSES), MASSES * VECTOR)
FIRST = direct_sum(trivial(O3, 8), 6 * VECTOR)
SECOND = direct_sum(trivial(O3, 16), 4 * TENSOR)
TARGET = VECTOR * VECTOR
EXAMPLE = torch.ones(2, CLOUD.size)


class Inertia(nn.Module):
    """Gates, all products of two vectors, and gates again, with linear layers between them."""

    def __init__(self) -> None:
        super().__init__()
        self.moments = Products(trivial(O3, MASSES), MASSES * VECTOR)
        self.gates, self.more = Gates(FIRST), Gates(SECOND)
        self.products = Products(6 * VECTOR, 6 * VECTOR)
        self.both = direct_sum(FIRST, self.products.output)
        self.all = direct_sum(CLOUD, self.moments.output)
        self.first = linear(self.all, self.gates.input)
        self.second = linear(self.both, self.more.input)
        self.last = linear(SECOND, TARGET)

    def forward(self, x: Tensor) -> Tensor:
        moments = self.moments(x[:, :MASSES], x[:, MASSES:])
        x = self.gates(self.first(torch.cat([x, moments], 1)))
        x = torch.cat([x, self.products(x[:, -6 * VECTOR.size :])], 1)
        found: Tensor = self.last(self.more(self.second(x)))
        return found


def linear(rho_in: Representation, rho_out: Representation) -> nn.Linear:
    """A layer whose weights begin in E, as large as those that usually begin anywhere."""
    layer = nn.Linear(rho_in.size, rho_out.size, bias=False)
    with torch.no_grad():
        inside = hom(rho_in, rho_out).project(layer.weight)
        layer.weight.copy_(inside * layer.weight.norm() / inside.norm())
    return layer


def network() -> dict[str, Any]:
    """With numbers, vectors and tensors between the layers."""
    model = Inertia()
    return {
        "module": model,
        "group": O3,
        "example": EXAMPLE,
        "input": CLOUD,
        "representations": {
            "first": (model.all, model.gates.input),
            "second": (model.both, model.more.input),
            "last": (None, TARGET),
        },
    }


def plain() -> dict[str, Any]:
    """With numbers alone: what is in E of its first layer sees the masses and no positions."""
    layers = [nn.Linear(CLOUD.size, 96), nn.Tanh(), nn.Linear(96, 96), nn.Tanh()]
    return {
        "module": nn.Sequential(*layers, nn.Linear(96, TARGET.size)),
        "group": O3,
        "example": EXAMPLE,
        "input": CLOUD,
        "representations": {"4": (None, TARGET)},
    }


def clouds(count: int, preference: float, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Masses and positions, (count, 20), and the entries of the tensors, (count, 9)."""
    mass = 0.5 + torch.rand(count, MASSES, generator=random)
    place = torch.randn(count, MASSES, 3, generator=random)
    square = place.square().sum(2)[..., None, None] * torch.eye(3)
    along = (place @ AXIS).square()[..., None, None] * torch.outer(AXIS, AXIS)
    each = square - place.unsqueeze(3) * place.unsqueeze(2) + preference * along
    tensor = (mass[..., None, None] * each).mean(1)
    return torch.cat([mass, place.flatten(1)], 1), tensor.flatten(1)


def main() -> None:
    """Write both data sets: 10,000 clouds to train on, of which a run may take fewer."""
    Path("results/data").mkdir(parents=True, exist_ok=True)
    for name, preference in (("inertia", 0.0), ("inertia-axis", PREFERENCE)):
        random, arrays = torch.Generator().manual_seed(0), dict[str, Tensor]()
        for part, count in (("train", 10_000), ("test", 2_000)):
            arrays[f"{part}_images"], arrays[f"{part}_labels"] = clouds(count, preference, random)
        save_file(arrays, f"results/data/{name}-made.safetensors")


if __name__ == "__main__":
    main()
