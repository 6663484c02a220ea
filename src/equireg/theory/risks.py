"""Risks as functions of coordinates, with their gradients and Hessians.

A point A of L is a vector of coordinates, (dim TL,): of all layers those in TE first, then those
in its complement. The bases are orthonormal, so that gradients and Hessians in coordinates are
those of the paper, projected by Pi_L, and their blocks are those on TE and on its complement.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equireg.theory.models import Model


class Coordinates:
    """The orthonormal coordinates of a model's TL = TE + TE-perp; float64 vectors."""

    def __init__(self, model: Model) -> None:
        self.spaces, self.offsets = model.spaces, model.offsets
        sizes = [space.dims for space in self.spaces.values()]
        self.equivariant, self.complement = (sum(dims) for dims in zip(*sizes, strict=True))
        self.dimension = self.equivariant + self.complement

    def of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The coordinates of weights or of a direction, (*shape) per layer: an offset has none."""
        pairs = [space.coordinates(weights[name]) for name, space in self.spaces.items()]
        return torch.cat([part.flatten() for side in zip(*pairs, strict=True) for part in side])

    def weights(self, point: Tensor) -> dict[str, Tensor]:
        """The layers A with these coordinates; the inverse of ``of`` on L."""
        found = self.direction(point)
        return found | {name: found[name] + offset for name, offset in self.offsets.items()}

    def direction(self, point: Tensor) -> dict[str, Tensor]:
        """The same without the offset: a direction X in TL."""
        sides = point.split([self.equivariant, self.complement])
        parts = [
            side.split([space.dims[i] for space in self.spaces.values()])
            for i, side in enumerate(sides)
        ]
        return {
            name: space.weight(inside, outside)
            for (name, space), inside, outside in zip(self.spaces.items(), *parts, strict=True)
        }

    def split(self, point: Tensor) -> tuple[Tensor, Tensor]:
        """The coordinates in TE and in its complement; views."""
        inside, outside = point.split([self.equivariant, self.complement])
        return inside, outside

    def join(self, inside: Tensor | None = None, outside: Tensor | None = None) -> Tensor:
        """The point with these coordinates; 0 where none are given."""
        if inside is None:
            inside = torch.zeros(self.equivariant, dtype=torch.float64)
        if outside is None:
            outside = torch.zeros(self.complement, dtype=torch.float64)
        return torch.cat([inside, outside])

    def distance(self, point: Tensor) -> float:
        """|Pi_{E-perp} A|, the distance to E."""
        return float(self.split(point)[1].norm())


@dataclass(frozen=True, eq=False)
class Risk:
    """R(A) = the mean of the loss over inputs + decay/2 |A|^2 + stiffness/2 |Pi_E A - A_0|^2.

    inputs, targets: (count, entries) each; shares: (count,), of each input in the mean, None where
    all are alike; anchor: the coordinates of A_0 in E. Both further terms are invariant, as the
    representations are unitary, so that all of the paper holds with them. They make minima in E
    exist, and strict: images that can be told apart have none, and cross entropy does not see the
    same vector added to all rows of the last layer. The second leaves the Hessian on the complement
    as it is.
    """

    model: Model
    inputs: Tensor
    targets: Tensor
    shares: Tensor | None = None
    decay: float = 0.0
    anchor: Tensor | None = None
    stiffness: float = 0.0

    @functools.cached_property
    def coordinates(self) -> Coordinates:
        """The coordinates that points are given in."""
        return Coordinates(self.model)

    def augmented(self) -> Risk:
        """R_aug: the mean of R over data moved by each element, targets too (section II-B).

        Exact for a finite group; of a compact one as exact as the model's ``degree`` is high. Moved
        inputs that are equal are taken once: of graphs most are.
        """
        return self._augmented

    @functools.cached_property
    def _augmented(self) -> Risk:
        model = self.model
        inputs, targets = (
            model.orbit(rho, x)
            for rho, x in ((model.input, self.inputs), (model.target, self.targets))
        )
        shares = model.elements[1].repeat(len(self.inputs)) / len(self.inputs)
        pairs, place = torch.unique(torch.cat([inputs, targets], 1), dim=0, return_inverse=True)
        shares = shares.new_zeros(len(pairs)).index_add(0, place, shares)
        width = inputs.shape[1]
        return replace(
            self,
            inputs=pairs[:, :width],
            targets=pairs[:, width:].to(self.targets.dtype),
            shares=shares,
        )

    def plain(self) -> Risk:
        """The same without decay and anchor."""
        return replace(self, decay=0.0, anchor=None)

    def of_weights(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss and the decay of weights that need not lie in L."""
        outputs = self.model.forward(weights, self.inputs)
        squares = torch.stack([weight.square().sum() for weight in weights.values()])
        losses = self.model.loss(outputs, self.targets)
        mean = losses.mean() if self.shares is None else self.shares @ losses
        return mean + self.decay / 2 * squares.sum()

    def value(self, point: Tensor) -> Tensor:
        """R(A)."""
        coordinates = self.coordinates
        value = self.of_weights(coordinates.weights(point))
        if self.anchor is not None:
            away = coordinates.split(point)[0] - self.anchor
            value = value + self.stiffness / 2 * away.square().sum()
        return value

    def gradient(self, point: Tensor) -> Tensor:
        """Pi_L grad R(A), (dim TL,)."""
        return self.value_and_gradient(point)[1]

    def value_and_gradient(self, point: Tensor) -> tuple[float, Tensor]:
        """R(A) and Pi_L grad R(A)."""
        leaf = point.detach().requires_grad_()
        value = self.value(leaf)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient

    def hessian(self, point: Tensor) -> Callable[[Tensor], Tensor]:
        """X -> Pi_L hess R(A) X, for X in TL, (dim TL,).

        The gradient's graph is kept, so that a product costs one pass through it; it holds about
        half a megabyte per image of 28 x 28 pixels.
        """
        leaf = point.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.value(leaf), leaf, create_graph=True)

        def product(direction: Tensor) -> Tensor:
            (found,) = torch.autograd.grad(gradient, leaf, direction, retain_graph=True)
            return found

        return product

    def weight_gradient(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """grad R(A) in all entries of the layers, not projected onto TL."""
        leaves = {name: weight.detach().requires_grad_() for name, weight in weights.items()}
        found = torch.autograd.grad(self.of_weights(leaves), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))
