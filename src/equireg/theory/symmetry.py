"""Representations, projections and the compatibility condition (section II), checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.randomness import generator
from equireg.symmetry.groups import Group, grid_permutations, permutation_matrices
from equireg.symmetry.projections import LayerSpace, null_space_basis
from equireg.theory.measurement import Measurement
from equireg.theory.models import Model
from equireg.training.network import pooled_convolution

EXACT = 1e-12  # what is exact but for rounding
MOST_ENTRIES = 600  # of a grid whose null space is computed, by a singular value decomposition


def representations(model: Model) -> Iterator[Measurement]:
    """Definition 1: homomorphisms, unitary; Definition 2: an invariant network for A in E."""

    def measured(quantity: str, value: float) -> Measurement:
        return Measurement(
            "Representations", "II, Def. 1, 2", model, "", "", quantity, value, "<", EXACT
        )

    spaces = {"inputs": model.permutations}
    spaces |= {name: space.permutations for name, space in model.layers.items()}
    for name, permutations in spaces.items():
        defect = homomorphism_defect(model.group, permutations)
        yield measured(f"rho(s g) - rho(s) rho(g), {name}", defect)
        # A matrix with rows of the identity is orthogonal if it has each of them once.
        moved = np.sort(permutations) - np.arange(permutations.shape[1])
        yield measured(f"rho(g)^T rho(g) - 1, {name}", float(np.abs(moved).max()))
    weights = model.start(0)
    inputs = random_tensor("inputs", 2, model.permutations.shape[1]).abs()
    logits = model.forward(weights, model.moved(inputs)).view(2, model.group.order, -1)
    turned = (logits - logits[:, :1]).abs().max() / logits.abs().max()
    yield measured("Phi_A(rho(g) x) - Phi_A(x), relative, A in E", float(turned))
    if model.network == "convolutional":
        for name, operation in pixelwise(model).items():
            yield measured(f"{name} commutes with rho(g)", commutator(model, operation))


def homomorphism_defect(group: Group, permutations: np.ndarray) -> float:
    """The largest entry of rho(s g) - rho(s) rho(g), s a generator, as permutations."""
    differences = [
        np.abs(permutations[row] - permutations[:, permutations[row[0]]]).max()
        for row in group.cayley
    ]
    return float(max(differences, default=0))


def pixelwise(model: Model) -> dict[str, Callable[[Tensor], Tensor]]:
    """What the paper's network does between its layers, and a filter in E with its pooling."""
    space = model.layers["conv1"]
    kernel = space.project_equivariant(random_tensor("kernel", *space.shape))
    return {
        "tanh": torch.tanh,
        "average pooling": lambda x: F.avg_pool2d(x, 2),
        "layer normalization": lambda x: F.layer_norm(x, x.shape[-2:]),
        "a convolution in E with its pooling": lambda x: pooled_convolution(x, kernel, groups=1),
    }


def commutator(model: Model, operation: Callable[[Tensor], Tensor]) -> float:
    """The largest entry of op(rho(g) x) - rho(g) op(x), relative, on random images."""
    side = round(model.permutations.shape[1] ** 0.5)
    images = random_tensor("images", 2, side * side)
    moved = operation(model.moved(images).view(-1, 1, side, side))
    whole = operation(images.view(-1, 1, side, side))
    size = whole.shape[-1]
    permutations = torch.from_numpy(grid_permutations(model.group.elements, size))
    expected = whole.flatten(-2)[..., permutations]  # (images, channels, order, pixels)
    found = moved.flatten(-2).view(2, model.group.order, -1, size * size).transpose(1, 2)
    return float((found - expected).abs().max() / expected.abs().max())


def projections(model: Model) -> Iterator[Measurement]:
    """Pi_E and Pi_{E-perp}: symmetric, idempotent; the compatibility condition (b)."""

    def measured(quantity: str, value: float) -> Measurement:
        return Measurement("Projections", "II-A, II-B", model, "", "", quantity, value, "<", EXACT)

    for name, space in model.layers.items():
        x, y = random_tensor(name, 2, *space.shape)
        for label, project in (
            ("Pi_E", space.project_equivariant),
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
        if space.permutations.shape[1] <= MOST_ENTRIES:
            defect = null_space_defect(model.group, space)
            yield measured(f"Pi_E by averaging - Pi_E by null space, {name}", defect)
    for name, space in model.layers.items():
        defect = compatibility_defect(space)
        lopsided = model.support == "lopsided" and name != "linear"
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


def overlap(space: LayerSpace) -> float:
    """The largest inner product of a basis vector of E and one of its complement."""
    products = space.equivariant.mT @ space.complement
    return float(products.abs().max()) if products.numel() else 0.0


def null_space_defect(group: Group, space: LayerSpace) -> float:
    """How far Pi_E is from that of the generators' constraints, as matrices on one grid."""
    trained = (torch.cat([space.equivariant, space.complement], 1) != 0).any(1).numpy()
    generators = permutation_matrices(space.permutations[group.cayley[:, 0]])
    basis = null_space_basis(generators, trained)
    return float(np.abs((space.equivariant @ space.equivariant.mT).numpy() - basis @ basis.T).max())


def compatibility_defect(space: LayerSpace) -> float:
    """|(Pi_L Pi_G - Pi_G Pi_L) x| / |x| for a random x, Pi_G the mean over the group."""
    permutations = torch.from_numpy(space.permutations)

    def pi_l(x: Tensor) -> Tensor:
        return space.project_equivariant(x) + space.project_complement(x)

    def pi_g(x: Tensor) -> Tensor:
        total = torch.zeros_like(x.flatten(-2))
        for p in permutations:
            total += x.flatten(-2)[..., p]
        return (total / len(permutations)).view_as(x)

    x = random_tensor("compatibility", *space.shape)
    return float((pi_l(pi_g(x)) - pi_g(pi_l(x))).norm() / x.norm())


def relative(found: Tensor, expected: Tensor) -> float:
    """|found - expected| / |expected|."""
    return float((found - expected).norm() / expected.norm())


def random_tensor(role: str, *shape: int) -> Tensor:
    """Standard normal numbers that depend on the role and the shape alone."""
    return torch.from_numpy(generator(0, "theory", role).standard_normal(shape))
