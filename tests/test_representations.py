"""Representations, the maps that are equivariant for them, and known dimensions of E."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from equireg.library.tracing import on_grid
from equireg.symmetry.groups import (
    POINT_GROUPS,
    Group,
    cyclic,
    dihedral,
    generate,
    permutation_group,
    point_group,
    symmetric,
)
from equireg.symmetry.representations import (
    Representation,
    defining,
    direct_sum,
    from_generators,
    grid,
    regular,
    trivial,
)
from equireg.symmetry.spaces import Space, hom

C4, D4, S3, S4 = point_group("C4"), point_group("D4"), symmetric(3), symmetric(4)
O = point_group("O", 3)  # noqa: E741 - the group's name
# The rotations of a cube on its faces: right, left, top, bottom, front, back.
CUBE = permutation_group("Cube", [[5, 4, 2, 3, 0, 1], [0, 1, 5, 4, 2, 3]])
SIGN_OF_S3 = from_generators(S3, [[[-1]], [[1]]], "sign")
TURN = from_generators(C4, [[[0, -1], [1, 0]]], "turn")

REPRESENTATIONS = [
    trivial(C4, 3),
    regular(C4),
    grid(C4, 3),
    TURN,
    regular(D4),
    grid(D4, (4, 4)),
    grid(D4, 3) + 2 * regular(D4),
    defining(D4) + regular(D4),
    defining(S3),
    SIGN_OF_S3,
    SIGN_OF_S3 * defining(S3),
    3 * SIGN_OF_S3 + regular(S3),
    defining(S4) * defining(S4),
    regular(cyclic(7)),
    defining(dihedral(5)),
    grid(point_group("D1", 1), 4),
    grid(O, 3),
    regular(O),
    grid(point_group("D4", 3), (2, 3, 3)),
]


@pytest.mark.parametrize("rho", REPRESENTATIONS, ids=lambda r: f"{r.group.name}: {r.name}")
def test_homomorphism_orthogonal_and_characters(rho: Representation) -> None:
    matrices = rho.matrices
    identity = np.eye(rho.size)
    assert np.allclose(matrices[0], identity)
    assert np.allclose(matrices @ matrices.transpose(0, 2, 1), identity)
    products = matrices[:, None] @ matrices[None]
    assert np.allclose(products, matrices[rho.group.table])
    assert np.allclose(rho.characters, np.trace(matrices, axis1=1, axis2=2))
    assert np.allclose(rho.generators, matrices[rho.group.cayley[:, 0]])
    x = torch.randn(5, rho.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for element in range(rho.group.order):
        moved = x.numpy() @ matrices[element].T
        assert np.allclose(rho.act(element, x), moved)
        assert np.allclose(rho.act(element, x.T, axis=0).T, moved)
    elements = torch.arange(5) % rho.group.order
    each = rho.act_each(elements, x[:, None])
    assert all(torch.allclose(rho.act(int(g), x[i]), each[i, 0]) for i, g in enumerate(elements))


PAIRS = [(a, b) for a in REPRESENTATIONS for b in REPRESENTATIONS if a.group is b.group]
SMALL_PAIRS = [(a, b) for a, b in PAIRS if a.size * b.size <= 400]


@pytest.mark.parametrize(
    ("rho_in", "rho_out"), SMALL_PAIRS, ids=lambda r: f"{r.group.name}: {r.name}"
)
def test_averaging_against_the_null_space(rho_in: Representation, rho_out: Representation) -> None:
    space = hom(rho_in, rho_out)
    basis, oracle = (
        x.reshape(len(x), math.prod(space.shape)) for x in (space.basis(), space.null_space())
    )
    assert len(basis) == len(oracle) == space.dimension
    assert np.allclose(basis @ basis.T, np.eye(len(basis)))
    assert np.allclose(basis.T @ basis, oracle.T @ oracle)
    entries = torch.eye(basis.shape[1], dtype=torch.float64).view(-1, *space.shape)
    assert np.allclose(space.project(entries).flatten(1), oracle.T @ oracle)


def test_equivariant_maps_commute() -> None:
    """rho_out(g) A = A rho_in(g), for a projected A."""
    rho_in, rho_out = grid(D4, 3) + regular(D4), defining(D4) + regular(D4)
    random = torch.Generator().manual_seed(0)
    a = torch.randn(rho_out.size, rho_in.size, dtype=torch.float64, generator=random)
    x = torch.randn(rho_in.size, dtype=torch.float64, generator=random)
    a = hom(rho_in, rho_out).project(a)
    for g in range(D4.order):
        assert torch.allclose(a @ rho_in.act(g, x), rho_out.act(g, a @ x))


@pytest.mark.parametrize(("k", "n"), [(k, 6) for k in range(4)] + [(k, 4) for k in range(5)])
def test_invariants_of_the_symmetric_group_are_counted_by_bell_numbers(k: int, n: int) -> None:
    """S_n on tensors of order k <= n: dim E is the number of partitions of k things."""
    vectors = defining(symmetric(n))
    bell = [1, 1, 2, 5, 15][k]
    assert Space(trivial(vectors.group), *[vectors] * k).dimension == bell
    assert len(Space(trivial(vectors.group), *[vectors] * k).basis()) == bell


@pytest.mark.parametrize(
    ("rho_in", "rho_out", "dimension"),
    [
        (defining(symmetric(5)), defining(symmetric(5)), 2),
        (defining(S4) * defining(S4), defining(S4), 5),
        (defining(S4) * defining(S4), defining(S4) * defining(S4), 15),
        (defining(cyclic(6)), defining(cyclic(6)), 6),
        (defining(dihedral(6)), defining(dihedral(6)), 4),
        (regular(S3), regular(S3), 6),
        (SIGN_OF_S3, trivial(S3), 0),
        (SIGN_OF_S3, regular(S3), 1),
        (TURN, TURN, 2),
        (defining(D4), defining(D4), 1),
        (defining(O), defining(O), 1),
        (grid(O, 3), trivial(O), 4),  # centre, faces, edges, corners
    ],
)
def test_known_dimensions(rho_in: Representation, rho_out: Representation, dimension: int) -> None:
    assert hom(rho_in, rho_out).dimension == dimension


# Found by emlp 1.0.3 with the same generators, spans equal to 1e-15.
@pytest.mark.parametrize(
    ("rho", "dimensions"),
    [
        (defining(S3), (2, 5, 14)),
        (defining(S4), (2, 5, 15)),
        (defining(cyclic(5)), (5, 25, 125)),
        (defining(dihedral(5)), (3, 13, 63)),
        (defining(C4), (2, 0, 8)),
        (defining(D4), (1, 0, 4)),
        (defining(CUBE), (3, 12, 60)),
    ],
    ids=lambda r: r.group.name if isinstance(r, Representation) else "",
)
def test_dimensions_that_emlp_finds(rho: Representation, dimensions: tuple[int, ...]) -> None:
    spaces = hom(rho, rho), hom(rho * rho, rho), hom(rho * rho, rho * rho)
    assert tuple(space.dimension for space in spaces) == dimensions
    assert tuple(len(space.basis()) for space in spaces) == dimensions


# The spans of e2cnn 0.2.3 and escnn 1.0.11 too, with rings at 0, 1 and sqrt(2) and no band limit;
# their default limit leaves out the corners, and so a third of these dimensions.
@pytest.mark.parametrize(
    ("group", "trivial_to_trivial", "trivial_to_regular", "regular_to_regular"),
    [(C4, 3, 9, 36), (D4, 3, 9, 72)],
    ids=["C4", "D4"],
)
def test_known_dimensions_of_3x3_filters(
    group: Group, trivial_to_trivial: int, trivial_to_regular: int, regular_to_regular: int
) -> None:
    def dimension(rho_in: Representation, rho_out: Representation) -> int:
        return hom(rho_in * grid(group, 3), rho_out).dimension

    assert dimension(trivial(group), trivial(group)) == trivial_to_trivial
    assert dimension(trivial(group), regular(group)) == trivial_to_regular
    assert dimension(regular(group), trivial(group)) == trivial_to_regular
    assert dimension(regular(group), regular(group)) == regular_to_regular


@pytest.mark.parametrize("name", POINT_GROUPS[3])
def test_orders_in_three_dimensions(name: str) -> None:
    orders = {"C1": 1, "C2": 2, "C4": 4, "D1": 2, "D2": 4, "D4": 8, "O": 24, "Oh": 48}
    assert point_group(name, 3).order == orders[name]


def test_orders_of_permutation_groups() -> None:
    assert [symmetric(n).order for n in range(1, 6)] == [math.factorial(n) for n in range(1, 6)]
    assert [cyclic(n).order for n in (1, 2, 9)] == [1, 2, 9]
    assert [dihedral(n).order for n in (3, 4, 9)] == [6, 8, 18]
    assert permutation_group("V4", [[1, 0, 3, 2], [2, 3, 0, 1]]).order == 4


def test_large_permutations_form_no_matrices() -> None:
    """A flattened feature map of 64 channels: a d x d matrix would take 1.6 GB."""
    features = 64 * trivial(C4) * grid(C4, 14)
    space = hom(features, trivial(C4, 2))
    assert space.dimension == 2 * 64 * 49
    a = torch.randn(2, 64, 14, 14, generator=torch.Generator().manual_seed(0))
    turns = torch.stack([a.rot90(k, (2, 3)) for k in range(4)])
    assert torch.allclose(space.project(a.flatten(1)), turns.mean(0).flatten(1), atol=1e-6)


def test_turns_are_those_of_torch() -> None:
    image = torch.arange(9.0).view(3, 3)
    moved = {tuple(grid(C4, 3).act(g, image.flatten()).tolist()) for g in range(4)}
    assert moved == {tuple(image.rot90(k).flatten().tolist()) for k in range(4)}


def test_what_is_no_representation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"is no representation of C4: .* generator 0"):
        from_generators(C4, [[[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]]])
    with pytest.raises(ValueError, match="is no representation of C4"):
        from_generators(C4, [[1, 2, 0]])
    with pytest.raises(ValueError, match=r"generator 0 is not orthogonal .* by 3"):
        from_generators(C4, [[[2.0, 0], [0, 2.0]]])
    with pytest.raises(ValueError, match=r"\[0, 0, 1\], of generator 0, is no permutation"):
        from_generators(C4, [[0, 0, 1]])
    with pytest.raises(ValueError, match=r"each of the 2 generators of D4"):
        from_generators(D4, [[[1]]])
    with pytest.raises(ValueError, match="square"):
        from_generators(C4, [[[1, 0]]])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"C4: a grid of 3 x 5 pixels is not mapped to itself"):
        grid(C4, (3, 5))
    with pytest.raises(ValueError, match=r"C4: a grid of 3 x 4 pixels is not mapped to itself"):
        grid(C4, (3, 4))
    with pytest.raises(ValueError, match=r"a grid of 3 x 3 x 3 pixels: accepted: 2 axes"):
        grid(C4, (3, 3, 3))
    with pytest.raises(ValueError, match=r"of 4 x 4 pixels is not mapped"):
        grid(generate("hexagon", [[[0, -1], [1, -1]]], 2), 4)
    with pytest.raises(ValueError, match=r"representations of C4 \(.* and of D4 \(.* meet"):
        direct_sum(regular(C4), regular(D4))
    with pytest.raises(ValueError, match="0 copies of regular"):
        0 * regular(C4)
    with pytest.raises(ValueError, match=r"regular acts on 4 entries; axis -1 .* has 5"):
        regular(C4).act(1, torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"determinants are \[2.0\]"):
        generate("doubling", [[[2]]], 1)
    with pytest.raises(ValueError, match="more than 100000 elements"):
        generate("shear", [[[1, 1], [0, 1]]], 2)
    with pytest.raises(ValueError, match=r"group 'X': \[0, 0\] is no permutation"):
        permutation_group("X", [[0, 0]])
    with pytest.raises(ValueError, match="group is 'C3'; accepted: C1, D1"):
        point_group("C3", 1)
    with pytest.raises(ValueError, match="a grid has 4 axes; accepted: 1, 2, 3"):
        point_group("C4", 4)
    with pytest.raises(ValueError, match="n is 2; accepted: 3 or more"):
        dihedral(2)


def test_groups_of_equal_elements_are_one_group() -> None:
    assert (regular(point_group("C4")) + regular(point_group("C4"))).size == 8


def test_tensor_products_agree_with_kronecker_products() -> None:
    for a, b in pairwise(r for r in REPRESENTATIONS if r.group is S3):
        kron = [np.kron(x, y) for x, y in zip(a.matrices, b.matrices, strict=True)]
        assert np.allclose((a * b).matrices, kron)


def test_matrices_refuse_integers() -> None:
    with pytest.raises(ValueError, match=r"turn acts by matrices, on a tensor of torch.int64"):
        TURN.act(1, torch.tensor([1, 2]))


def test_copies_are_written_in_front() -> None:
    with pytest.raises(TypeError, match="unsupported operand"):
        _ = regular(C4) * 3  # type: ignore[operator]
    with pytest.raises(ValueError, match="direct sum of 0 representations"):
        direct_sum()


def test_sides_of_numpy() -> None:
    assert grid(C4, np.int64(5)).equals(grid(C4, 5))  # type: ignore[arg-type]


def test_constants_made_under_inference_serve_training() -> None:
    rho = regular(point_group("C4"))
    x = torch.randn(3, 4, requires_grad=True)
    with torch.inference_mode():
        Space(rho).squared_distance(x)
        TURN.act(1, x[:, :2])
    Space(rho).squared_distance(x).backward()
    TURN.act(1, x[:, :2]).sum().backward()


def test_two_groups_of_one_name() -> None:
    with pytest.raises(
        ValueError, match=r"of C4 \(4 .* size 2, which move pixels\) and of C4 \(4 "
    ):
        _ = regular(C4) + regular(cyclic(4))


def test_pixels_on_a_grid_are_made_once() -> None:
    assert on_grid(C4, (7, 7)) is on_grid(C4, (7, 7))
