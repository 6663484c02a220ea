"""Representations, projections and the compatibility condition (section II), checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.randomness import generator
from equireg.symmetry.representations import Representation, grid
from equireg.symmetry.spaces import Space
from equireg.theory.measurement import Measurement
from equireg.theory.models import Model
from equireg.theory.risks import Coordinates
from equireg.training.layers import pooled_convolution

EXACT = 1e-12  # what is exact but for rounding
MOST_ENTRIES = 600  # of a grid whose null space is computed, by a singular value decomposition


def representations(model: Model) -> Iterator[Measurement]:
    """Definition 1: homomorphisms, unitary; Definition 2: an equivariant network for A in E."""

    def measured(quantity: str, value: float) -> Measurement:
        return Measurement(
            "Representations", "II, Def. 1, 2", model, "", "", quantity, value, "<", EXACT
        )

    moving = {"inputs": (model.input,)} | {n: space.axes for n, space in model.spaces.items()}
    for name, axes in moving.items():
        defect = max(homomorphism_defect(rho) for rho in axes)
        yield measured(f"rho(s g) - rho(s) rho(g), {name}", defect)
        yield measured(f"rho(g)^T rho(g) - 1, {name}", max(map(orthogonality_defect, axes)))
    kind = "Phi_A(x)" if model.output.is_trivial else "rho(g) Phi_A(x)"
    yield measured(f"Phi_A(rho(g) x) - {kind}, relative, A in E", equivariance_defect(model))
    if model.network == "convolutional":
        for name, (operation, channels) in pixelwise(model).items():
            defect = commutator(model, operation, channels)
            yield measured(f"{name} commutes with rho(g)", defect)


def equivariance_defect(model: Model) -> float:
    """The largest entry of Phi_A(rho(g) x) - rho(g) Phi_A(x), relative, at random weights in E."""
    weights = Coordinates(model).weights(Coordinates(model).of(model.start(0)))
    inputs = random_tensor("inputs", 2, model.input.size).abs()
    found = model.forward(weights, model.orbit(model.input, inputs))
    expected = model.orbit(model.output, model.forward(weights, inputs))
    return float((found - expected).abs().max() / expected.abs().max())


def homomorphism_defect(rho: Representation) -> float:
    """The largest entry of rho(s g) - rho(s) rho(g), s a generator, as permutations or matrices.

    Of a Lie algebra that of d rho([X, Y]) - [d rho(X), d rho(Y)].
    """
    cayley = rho.group.cayley
    if rho.permutations is not None:
        images = rho.permutations
        products = [images[:, images[row[0]]] for row in cayley]
    else:
        images = rho.matrices
        products = [images[row[0]] @ images for row in cayley]
    differences = [
        np.abs(images[row] - product).max() for row, product in zip(cayley, products, strict=True)
    ]
    if rho.algebra is not None:
        differences.append(bracket_defect(rho.group.algebra, rho.algebra))
    return float(max(differences, default=0))


def bracket_defect(algebra: np.ndarray, images: np.ndarray) -> float:
    """The largest entry of d rho([X, Y]) - [d rho(X), d rho(Y)] over a basis of the algebra."""

    def brackets(x: np.ndarray) -> np.ndarray:
        products = x[:, None] @ x[None]
        return np.asarray(products - products.swapaxes(0, 1))

    size = len(algebra)
    basis, found = algebra.reshape(size, -1).T, brackets(algebra).reshape(size * size, -1).T
    coefficients = np.linalg.lstsq(basis, found, rcond=None)[0]
    expected = np.tensordot(coefficients.T, images, 1).reshape(size, size, *images.shape[1:])
    return float(np.abs(brackets(images) - expected).max())


def orthogonality_defect(rho: Representation) -> float:
    """How far rho(g) is from orthogonal: a permutation matrix is, with each row just once."""
    if rho.permutations is not None:
        return float(np.abs(np.sort(rho.permutations) - np.arange(rho.size)).max())
    elements = rho.group.sample(8, generator(0, "theory", "elements"))
    matrices = rho.matrices_of(elements)
    return float(np.abs(matrices @ matrices.mT - np.eye(rho.size)).max())


def pixelwise(model: Model) -> dict[str, tuple[Callable[[Tensor], Tensor], Representation]]:
    """What the paper's network does between its layers, and a filter in E with its pooling.

    With each, how the group acts on the channels that come out.
    """
    space = next(iter(model.spaces.values()))
    kernel = space.project(random_tensor("kernel", *space.shape))
    rho_out, rho_in, _ = space.axes
    return {
        "tanh": (torch.tanh, rho_in),
        "average pooling": (lambda x: F.avg_pool2d(x, 2), rho_in),
        "layer normalization": (lambda x: F.layer_norm(x, x.shape[-2:]), rho_in),
        "a convolution in E with its pooling": (
            lambda x: pooled_convolution(x, kernel, groups=1),
            rho_out,
        ),
    }


def commutator(
    model: Model, operation: Callable[[Tensor], Tensor], channels: Representation
) -> float:
    """The largest entry of op(rho(g) x) - rho(g) op(x), relative, on random images.

    channels: how the group acts on those that come out; it leaves the images' as they are.
    """
    count = next(iter(model.spaces.values())).axes[1].size
    side = round((model.input.size / count) ** 0.5)
    images = random_tensor("images", 2, count * side * side)
    moved = operation(model.orbit(model.input, images).view(-1, count, side, side))
    whole = operation(images.view(-1, count, side, side))
    pixels = grid(model.group, whole.shape[-1])
    expected = torch.stack(
        [
            channels.act(element, pixels.act(element, whole.flatten(-2)), 1)
            for element, _ in model.each_element()
        ],
        1,
    )
    found = moved.flatten(-2).view(expected.shape)
    return float((found - expected).abs().max() / expected.abs().max())


def projections(model: Model) -> Iterator[Measurement]:
    """Pi_E and Pi_{E-perp}: symmetric, idempotent; the compatibility condition (b)."""

    def measured(quantity: str, value: float) -> Measurement:
        return Measurement("Projections", "II-A, II-B", model, "", "", quantity, value, "<", EXACT)

    for name, space in model.spaces.items():
        x, y = random_tensor(name, 2, *space.shape)
        for label, project in (
            ("Pi_E", space.project),
            ("Pi_E-perp", space.project_complement),
        ):
            yield measured(
                f"{label}^2 - {label}, {name}", relative(project(project(x)), project(x))
            )
            skew = (project(x) * y).sum() - (x * project(y)).sum()
            yield measured(
                f"{label}^T - {label}, {name}", float(skew.abs() / (x.norm() * y.norm()))
            )
        yield measured(f"Pi_E Pi_E-perp, {name}", overlap(space))
        if math.prod((one := single(space)).shape) <= MOST_ENTRIES:
            defect = null_space_defect(one)
            yield measured(f"Pi_E by averaging - Pi_E by null space, {name}", defect)
    for name, space in model.spaces.items():
        defect = commutator_of_projections(space)
        lopsided = model.support == "lopsided" and space.trained is not None
        yield Measurement(
            "Compatibility condition" if not lopsided else "Compatibility condition is violated",
            "II-C, (b)",
            model,
            "",
            "",
            f"|(Pi_L Pi_G - Pi_G Pi_L) x| / |x|, {name}",
            defect,
            ">" if lopsided else "<",
            0.1 if lopsided else EXACT,
        )


def single(space: Space) -> Space:
    """The space of one block, a summand of the first kind along each axis: all others are alike."""
    return Space(*space.blocks[0].summands, trained=space.trained)


def overlap(space: Space) -> float:
    """The largest inner product of a basis vector of E and one of its complement."""
    one = single(space)
    inside, outside = (torch.eye(n, dtype=torch.float64) for n in one.dims)
    bases = (
        one.weight(inside, inside.new_zeros(one.dims)),
        one.weight(outside.new_zeros(one.dims[::-1]), outside),
    )
    products = bases[0].flatten(1) @ bases[1].flatten(1).mT
    return float(products.abs().max()) if products.numel() else 0.0


def null_space_defect(space: Space) -> float:
    """How far Pi_E is from that of the generators' constraints, as matrices."""
    both = space.basis(), space.null_space()
    found, expected = (x.reshape(len(x), math.prod(space.shape)) for x in both)
    return float(np.abs(found.T @ found - expected.T @ expected).max())


def commutator_of_projections(space: Space) -> float:
    """|(Pi_L Pi_G - Pi_G Pi_L) x| / |x| for a random x, Pi_G the mean over the group."""

    def pi_l(x: Tensor) -> Tensor:
        return space.project(x) + space.project_complement(x)

    elements, shares = space.group.quadrature(sum(axis.degree for axis in space.axes))

    def pi_g(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for i, share in enumerate(shares.tolist()):
            total += share * space.act(elements[i : i + 1], x)
        return total

    x = random_tensor("compatibility", *space.shape)
    return float((pi_l(pi_g(x)) - pi_g(pi_l(x))).norm() / x.norm())


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|; the numerator alone where there is nothing to expect."""
    size = float(expected.norm())
    return float((found - expected).norm()) / (size or 1.0)


def random_tensor(role: str, *shape: int) -> Tensor:
    """Standard normal numbers that depend on the role and the shape alone."""
    return torch.from_numpy(generator(0, "theory", role).standard_normal(shape))
