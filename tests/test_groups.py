"""Groups and how they act on grids."""

from __future__ import annotations

import numpy as np
import pytest

from equireg.symmetry.groups import (
    GENERATORS,
    dihedral,
    grid_permutations,
    permutation_matrices,
    point_group,
    symmetric,
)

ORDERS = {"C1": 1, "C2": 2, "C4": 4, "D1": 2, "D2": 4, "D4": 8}


@pytest.mark.parametrize("name", GENERATORS)
def test_orders(name: str) -> None:
    assert point_group(name).order == ORDERS[name]


@pytest.mark.parametrize("name", GENERATORS)
def test_table_is_a_group(name: str) -> None:
    group = point_group(name)
    table, everything = group.table, set(range(group.order))
    assert (table[0] == np.arange(group.order)).all()
    assert all(set(row) == everything for row in table)
    assert all(set(column) == everything for column in table.T)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 28])
@pytest.mark.parametrize("name", GENERATORS)
def test_grid_action_is_a_representation(name: str, size: int) -> None:
    group = point_group(name)
    permutations = grid_permutations(group.elements, size)
    image = np.arange(size**2)
    for g in range(group.order):
        for h in range(group.order):
            both = image[permutations[h]][permutations[g]]  # rho(g) rho(h) x
            assert (both == image[permutations[group.table[g, h]]]).all()


def test_quarter_turns_are_those_of_numpy() -> None:
    image = np.random.default_rng(0).random((5, 5))
    permutations = grid_permutations(point_group("C4").elements, 5)
    turned = {image.ravel()[p].tobytes() for p in permutations}
    assert turned == {np.ascontiguousarray(np.rot90(image, k)).tobytes() for k in range(4)}


def test_reflections_are_those_of_numpy() -> None:
    image = np.random.default_rng(0).random((4, 4))
    permutations = grid_permutations(point_group("D4").elements, 4)
    turned = {image.ravel()[p].tobytes() for p in permutations}
    every = [np.rot90(x, k) for x in (image, image[::-1]) for k in range(4)]
    assert turned == {np.ascontiguousarray(x).tobytes() for x in every}


def test_matrices_are_orthogonal_and_act_like_the_permutations() -> None:
    permutations = grid_permutations(point_group("D4").elements, 3)
    matrices = permutation_matrices(permutations)
    image = np.random.default_rng(0).random(9)
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), np.eye(9))
    assert (matrices @ image == image[permutations]).all()


def test_unknown_group() -> None:
    with pytest.raises(ValueError, match="group is 'C3'; accepted: C1, C2, C4"):
        point_group("C3")


def test_too_large_a_group() -> None:
    with pytest.raises(ValueError, match=r"'S9': .* accepted: finite groups of order 100000 at"):
        symmetric(9)


def test_which_groups_move_pixels() -> None:
    assert point_group("C4").moves_pixels
    assert not symmetric(2).moves_pixels


def test_inverses() -> None:
    group = point_group("D4")
    inverse = group.inverse(group.numbered(np.arange(8)))
    assert (group.elements @ group.elements[inverse.index] == np.eye(2)).all()


def test_the_mean_over_a_finite_group_is_over_all_its_elements() -> None:
    elements, weights = dihedral(5).quadrature(3)
    assert len(elements) == len(weights) == 10
    assert weights.sum() == pytest.approx(1)
    assert np.ptp(weights) == 0
