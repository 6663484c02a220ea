"""E, its complement and the projections, against independent oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from equireg.settings import Support
from equireg.symmetry.groups import GENERATORS, grid_permutations, permutation_matrices, point_group
from equireg.symmetry.projections import (
    LayerSpace,
    average,
    check_compatible,
    compatibility_defect,
    null_space_basis,
    orbit_bases,
    support_mask,
)

SUPPORTS: tuple[Support, ...] = ("full", "cross", "lopsided")


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", GENERATORS)
def test_bases_against_the_null_space(name: str, support: Support, size: int) -> None:
    group, mask = point_group(name), support_mask(support, size)
    permutations = grid_permutations(group.elements, size)
    equivariant, complement = orbit_bases(permutations, mask)
    generators = permutation_matrices(grid_permutations(group.generators, size))
    oracle = null_space_basis(generators, mask)

    both = np.hstack([equivariant, complement])
    assert np.allclose(both.T @ both, np.eye(both.shape[1]), atol=1e-14)
    assert np.allclose(both @ both.T, np.diag(mask.ravel().astype(float)), atol=1e-14)
    assert np.allclose(equivariant @ equivariant.T, oracle @ oracle.T, atol=1e-13)


@pytest.mark.parametrize("name", GENERATORS)
def test_average_projects_onto_e(name: str) -> None:
    permutations = grid_permutations(point_group(name).elements, 3)
    equivariant, _ = orbit_bases(permutations, np.ones((3, 3), bool))
    assert np.allclose(average(permutations), equivariant @ equivariant.T, atol=1e-14)


@pytest.mark.parametrize("name", GENERATORS)
def test_filters_in_e_are_the_equivariant_convolutions(name: str) -> None:
    """The projected filter is the mean over g of rho(g)^-1 conv rho(g), on images."""
    group = point_group(name)
    space = LayerSpace.build((2, 1, 3, 3), group, "full")
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=random)
    image = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=random)
    permutations = torch.from_numpy(grid_permutations(group.elements, 6))

    mean = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    for p in permutations:
        turned = image.flatten(2)[..., p].view_as(image)
        output = F.conv2d(turned, weight, padding=1).flatten(2)
        mean += output[..., p.argsort()].view_as(mean) / group.order
    projected = F.conv2d(image, space.project_equivariant(weight), padding=1)
    assert torch.allclose(projected, mean, atol=1e-13)


@pytest.mark.parametrize("support", SUPPORTS)
def test_projections_are_orthogonal_and_complete(support: Support) -> None:
    space = LayerSpace.build((3, 2, 3, 3), point_group("C4"), support)
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64, generator=random)
    for project in (space.project_equivariant, space.project_complement):
        assert torch.allclose(project(project(x)), project(x), atol=1e-14)
        assert torch.allclose((project(x) * y).sum(), (x * project(y)).sum(), atol=1e-13)
    within = x * torch.from_numpy(support_mask(support, 3))
    assert torch.allclose(space.project_equivariant(x) + space.project_complement(x), within)
    assert torch.allclose(space.weight(*space.coordinates(x)), within)
    norms = sum(c.square().sum() for c in space.coordinates(x))
    assert torch.allclose(torch.as_tensor(norms), within.square().sum())


def test_dimensions_of_the_papers_complement() -> None:
    c4 = point_group("C4")
    shapes = [(16, 1, 3, 3), (16, 16, 3, 3), (10, 16, 7, 7)]
    dimensions = [LayerSpace.build(shape, c4, "full").dimensions[1] for shape in shapes]
    assert dimensions == [96, 1536, 5760]


@pytest.mark.parametrize("name", ["C1", "C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("support", SUPPORTS)
def test_compatibility_condition(name: str, support: Support) -> None:
    group = point_group(name)
    defect = compatibility_defect(grid_permutations(group.elements, 3), support_mask(support, 3))
    if support == "lopsided" and name != "C1":
        assert defect > 0.1
        with pytest.raises(ValueError, match=r"compatibility condition Pi_L Pi_G = Pi_G Pi_L"):
            check_compatible(group, support, 3)
    else:
        assert defect < 1e-14
        check_compatible(group, support, 3)
