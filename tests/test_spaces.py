"""E, its complement and the projections, against independent oracles."""

from __future__ import annotations

import functools
import math
import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from equireg.settings import Support
from equireg.symmetry.compact import frequency, rotations
from equireg.symmetry.groups import GENERATORS, point_group
from equireg.symmetry.invariants import DENSE, Dense, Orbitwise, invariants, null_space, orbit_bases
from equireg.symmetry.representations import (
    Representation,
    defining,
    from_generators,
    grid,
    regular,
    trivial,
)
from equireg.symmetry.spaces import Space, compatibility_defect, hom
from equireg.training.layers import check_compatible, support_mask

SUPPORTS: tuple[Support, ...] = ("full", "cross", "lopsided")
C4, D4 = point_group("C4"), point_group("D4")
TURN = from_generators(C4, [[[0, -1], [1, 0]]], "turn")


def filters(name: str, support: Support, size: int, rows: int = 1, columns: int = 1) -> Space:
    """The space of a convolution whose channels the group leaves as they are."""
    group = point_group(name)
    axes = trivial(group, rows), trivial(group, columns), grid(group, size)
    shape = (rows, columns, size, size)
    return Space(*axes, shape=shape, trained=support_mask(support, size))


@pytest.mark.parametrize("size", [1, 3, 4, 5, 7])
@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", GENERATORS)
def test_bases_against_the_null_space(name: str, support: Support, size: int) -> None:
    pixels, mask = grid(point_group(name), size), support_mask(support, size).ravel()
    assert pixels.permutations is not None
    equivariant, complement = orbit_bases(pixels.permutations, mask)
    oracle = null_space(pixels.constraints, mask)

    both = np.hstack([equivariant, complement])
    assert np.allclose(both.T @ both, np.eye(both.shape[1]), atol=1e-14)
    assert np.allclose(both @ both.T, np.diag(mask.astype(float)), atol=1e-14)
    assert np.allclose(equivariant @ equivariant.T, oracle @ oracle.T, atol=1e-13)


@pytest.mark.parametrize("name", GENERATORS)
def test_average_projects_onto_e(name: str) -> None:
    pixels = grid(point_group(name), 3)
    assert pixels.permutations is not None
    equivariant, _ = orbit_bases(pixels.permutations)
    assert np.allclose(pixels.mean, equivariant @ equivariant.T, atol=1e-14)


@pytest.mark.parametrize("name", GENERATORS)
def test_filters_in_e_are_the_equivariant_convolutions(name: str) -> None:
    """The projected filter is the mean over g of rho(g)^-1 conv rho(g), on images."""
    space, pixels = filters(name, "full", 3, 2, 1), grid(point_group(name), 6)
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 1, 3, 3, dtype=torch.float64, generator=random)
    image = torch.randn(1, 1, 6, 6, dtype=torch.float64, generator=random)
    assert pixels.permutations is not None

    mean = torch.zeros(1, 2, 6, 6, dtype=torch.float64)
    for p in torch.from_numpy(pixels.permutations):
        turned = image.flatten(2)[..., p].view_as(image)
        output = F.conv2d(turned, weight, padding=1).flatten(2)
        mean += output[..., p.argsort()].view_as(mean) / space.group.order
    projected = F.conv2d(image, space.project(weight), padding=1)
    assert torch.allclose(projected, mean, atol=1e-13)


@pytest.mark.parametrize("support", SUPPORTS)
def test_projections_are_orthogonal_and_complete(support: Support) -> None:
    space = filters("C4", support, 3, 3, 2)
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 3, 2, 3, 3, dtype=torch.float64, generator=random)
    for project in (space.project, space.project_complement):
        assert torch.allclose(project(project(x)), project(x), atol=1e-14)
        assert torch.allclose((project(x) * y).sum(), (x * project(y)).sum(), atol=1e-13)
    within = x * torch.from_numpy(support_mask(support, 3))
    assert torch.allclose(space.project(x) + space.project_complement(x), within)
    assert torch.allclose(space.weight(*space.coordinates(x)), within)
    norms = sum(c.square().sum() for c in space.coordinates(x))
    assert torch.allclose(torch.as_tensor(norms), within.square().sum())
    outside = space.coordinates(x)[1].square().sum()
    assert torch.allclose(space.squared_distance(x), outside)


SPACES = {
    "filters": filters("D4", "cross", 3, 2, 3),
    "fields": Space(2 * regular(C4), 3 * regular(C4), grid(C4, 3)),
    "fields that the support cuts": Space(
        regular(C4), 2 * regular(C4), grid(C4, 3), trained=support_mask("lopsided", 3)
    ),
    "fields and numbers": Space(
        2 * regular(D4) + trivial(D4, 3), trivial(D4, 2) + regular(D4), grid(D4, 3)
    ),
    "vectors": Space(2 * TURN + trivial(C4), TURN + regular(C4), grid(C4, 3)),
    "kinds in turn": Space(regular(C4) + trivial(C4) + regular(C4), trivial(C4, 2)),
    "long orbits": Space(trivial(C4, 2), grid(C4, 20)),
    "a bias": Space(2 * regular(D4)),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_by_blocks_against_its_constraints(name: str) -> None:
    """By blocks, by the mean over all elements, and by the generators' null space."""
    space = SPACES[name]
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, *space.shape, dtype=torch.float64, generator=random)
    mask = torch.ones(space.sizes, dtype=torch.float64)
    if space.trained is not None:
        mask = mask * torch.from_numpy(space.trained)
    within = x * mask.view(space.shape)

    a, b = space.coordinates(x)
    assert a.shape == (4, space.dims[0])
    assert b.shape == (4, space.dims[1])
    assert sum(space.dims) == int(mask.sum())
    assert torch.allclose(space.weight(a, b), within, atol=1e-12)
    assert torch.allclose(a.square().sum() + b.square().sum(), within.square().sum())
    assert torch.allclose(space.project(x), space.weight(a, 0 * b), atol=1e-12)
    for element in range(space.group.order):
        inside = space.project(x)
        assert torch.allclose(space.act(element, inside), inside, atol=1e-12)
    if space.trained is None:
        mean = torch.stack([space.act(g, x) for g in range(space.group.order)]).mean(0)
        assert torch.allclose(space.project(x), mean, atol=1e-12)
    if math.prod(space.shape) <= 1500:
        basis, oracle = (y.reshape(len(y), -1) for y in (space.basis(), space.null_space()))
        assert len(basis) == space.dimension
        assert np.allclose(basis.T @ basis, oracle.T @ oracle, atol=1e-12)

    leaf = x.clone().requires_grad_()
    space.squared_distance(leaf).backward()
    outside = space.project_complement(x)
    assert torch.allclose(space.squared_distance(x), outside.square().sum())
    assert leaf.grad is not None
    assert torch.allclose(leaf.grad, 2 * outside, atol=1e-12)
    total = torch.ones_like(x)
    space.add_complement_(total, x, 0.5)
    assert torch.allclose(total, 1 + 0.5 * outside, atol=1e-12)


@pytest.mark.parametrize("support", ["full", "lopsided"])
def test_orbits_one_by_one_are_what_matrices_are(support: Support) -> None:
    pixels, mask = grid(D4, 9), support_mask(support, 9).ravel()
    long, dense = Orbitwise(pixels, mask), Dense(pixels, mask)
    assert isinstance(invariants(grid(D4, math.isqrt(DENSE) + 1)), Orbitwise)
    assert isinstance(invariants(pixels), Dense)
    x = torch.randn(3, 81, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert long.dims == dense.dims
    assert torch.allclose(long.project(x), dense.project(x), atol=1e-13)
    assert torch.allclose(long.squared_distance(x), dense.squared_distance(x))
    a, b = long.coordinates(x)
    assert torch.allclose(long.combine(a, b), x * torch.from_numpy(mask), atol=1e-13)


def test_fields_of_a_wide_layer_share_one_basis() -> None:
    """The basis of E-perp of 32 channels would take half a gigabyte; a pair of fields' does not."""
    space = Space(8 * regular(C4), 8 * regular(C4), grid(C4, 3))
    (block,) = space.blocks
    assert isinstance(block.inside, Dense)
    assert block.inside.complement.shape == (144, 108)
    other = Space(16 * regular(C4), 2 * regular(C4), grid(C4, 3))
    assert other.blocks[0].inside.dims == block.inside.dims


def test_a_point_of_many_orbits_costs_no_more_than_its_entries() -> None:
    """S6 on 506 entries, 500 of them alone: the constants do not repeat them 720 times."""
    from equireg.symmetry.groups import symmetric

    s6 = symmetric(6)
    space = hom(trivial(s6, 500) + defining(s6), trivial(s6, 64))
    held = [block.inside for block in space.blocks]
    assert sum(x.equivariant.size + x.complement.size for x in held if isinstance(x, Dense)) < 100
    assert space.dims == (64 * 501, 64 * 5)


def drawn_spaces() -> dict[str, Space]:
    """Kinds of blocks: bases, orbits of many entries, a mean over the group, several in one."""
    from equireg.symmetry.groups import symmetric
    from equireg.symmetry.representations import defining, from_generators

    s5, turn = symmetric(5), from_generators(C4, [[[0, -1], [1, 0]]], "turn")
    pair = defining(s5) * defining(s5)
    return {
        "filters": Space(2 * regular(C4), trivial(C4, 3), grid(C4, 3), shape=(8, 3, 3, 3)),
        "orbits": hom(pair, pair),
        "matrices": hom(3 * turn + trivial(C4, 2), 2 * turn),
        "a mean": hom(functools.reduce(operator.mul, [turn] * 5), grid(C4, 6)),
    }


@pytest.mark.parametrize("name", ["filters", "orbits", "matrices", "a mean"])
def test_weights_drawn_in_e(name: str) -> None:
    """Normal ones, projected: they are in E, and of its dimension."""
    space, generator = drawn_spaces()[name], torch.Generator().manual_seed(0)
    drawn = [space.draw(generator) for _ in range(40)]
    assert all(x.shape == space.shape for x in drawn)
    assert all(torch.allclose(space.project(x), x, atol=1e-9) for x in drawn)
    squares = sum(float(x.square().sum()) for x in drawn) / len(drawn)
    assert squares == pytest.approx(space.dims[0], rel=4 * (2 / space.dims[0] / len(drawn)) ** 0.5)


def test_dimensions_of_the_papers_complement() -> None:
    shapes = [(3, 16, 1), (3, 16, 16), (7, 10, 16)]
    spaces = [filters("C4", "full", size, rows, columns) for size, rows, columns in shapes]
    assert [space.dims[1] for space in spaces] == [96, 1536, 5760]


@pytest.mark.parametrize("name", ["C1", "C2", "C4", "D1", "D2", "D4"])
@pytest.mark.parametrize("support", SUPPORTS)
def test_compatibility_condition(name: str, support: Support) -> None:
    group, defect = point_group(name), compatibility_defect(filters(name, support, 3))
    if support == "lopsided" and name != "C1":
        assert defect > 0.1
        with pytest.raises(ValueError, match=r"compatibility condition Pi_L Pi_G = Pi_G Pi_L"):
            check_compatible(group, support, 3)
    else:
        assert defect < 1e-14
        check_compatible(group, support, 3)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\); the group moves axes of \(2, 4\)"):
        Space(trivial(C4, 2), regular(C4), shape=(2, 3))
    mixed = Space(trivial(C4), 2 * regular(C4), trained=np.arange(8) > 0)
    with pytest.raises(ValueError, match="an axis that is no direct sum"):
        _ = mixed.dims


def test_acting_on_a_sum_is_acting_on_its_parts() -> None:
    rho: Representation = 3 * TURN + regular(C4) + 2 * TURN
    x = torch.randn(2, 14, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for element in range(4):
        expected = torch.einsum("ij,njk->nik", torch.from_numpy(rho.matrices[element]), x)
        assert torch.allclose(rho.act(element, x, 1), expected)
    each = rho.act_each(torch.tensor([1, 3]), x.mT)
    assert torch.allclose(each[1], rho.act(3, x, 1)[1].mT)


def test_integers_and_other_shapes_are_refused() -> None:
    """They would be truncated, broadcast or cut off without a word."""
    space = filters("C4", "full", 3)
    with pytest.raises(ValueError, match=r"weights are of torch.int64; accepted: floating-point"):
        space.project(torch.arange(9).view(1, 1, 3, 3))
    with pytest.raises(ValueError, match=r"weights have shape \(4, 2\); accepted: \(2, 4\)"):
        hom(trivial(C4, 4), trivial(C4, 2)).project(torch.ones(4, 2))
    with pytest.raises(ValueError, match="there are 5 and 6 coordinates; accepted: 3 and 6"):
        space.weight(torch.ones(5), torch.ones(6))


def test_long_orbits_that_the_support_cuts_all() -> None:
    long = Orbitwise(grid(C4, 20), np.arange(400) == 7)
    x = torch.randn(2, 400, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = long.coordinates(x)
    assert (a.shape, b.shape) == ((2, 0), (2, 1))
    assert torch.equal(long.combine(a, b)[:, 7], x[:, 7])


def test_spaces_are_equal_by_what_moves_and_how_much() -> None:
    """A single entry that stays where it is does not matter; two do."""
    c4 = point_group("C4")
    one, two, field = trivial(c4, 1), trivial(c4, 2), regular(c4)
    assert Space(one, field).equals(Space(field))
    assert not Space(two, field).equals(Space(field))
    assert not Space(two, field).equals(Space(one, field))
    assert not Space(field, field).equals(Space(field))


def test_orbits_are_those_of_one_kind_of_block() -> None:
    """Kernels know E by them: of several kinds they would take the first alone."""
    c4 = point_group("C4")
    assert Space(regular(c4), grid(c4, 3)).orbits() is not None
    assert Space(trivial(c4) + regular(c4), grid(c4, 3)).orbits() is None
    assert hom(frequency(rotations(2), 1), frequency(rotations(2), 1)).orbits() is None


def test_what_was_first_used_for_inference_can_be_trained() -> None:
    c4 = point_group("C4")
    several = trivial(c4) + regular(c4) + grid(c4, 3)  # nine kinds of blocks: by an index
    space = hom(several, several)
    weight = torch.ones(space.shape)
    with torch.inference_mode():
        space.project(weight)
    weight.requires_grad_()
    space.project(weight).square().sum().backward()
    assert weight.grad is not None
    assert torch.allclose(weight.grad, 2 * space.project(weight).detach(), atol=1e-5)
