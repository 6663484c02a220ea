"""Compact groups: Haar measure, representations, and the dimensions that are known."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch

from equireg.symmetry.compact import (
    SPACE,
    angular_momentum,
    frequency,
    lifted,
    orthogonal,
    product,
    rotations,
    unitary,
)
from equireg.symmetry.groups import Elements, Group, cyclic, symmetric
from equireg.symmetry.irreducible import average, irreducible
from equireg.symmetry.representations import (
    Representation,
    defining,
    from_generators,
    grid,
    regular,
    trivial,
)
from equireg.symmetry.spaces import Schur, Space, hom
from equireg.training.network import Network

SO2, O2, SO3, O3, SU2 = rotations(2), orthogonal(2), rotations(3), orthogonal(3), unitary()
PAIR = product(SO2, O3)
HALF: Any = 0.5
GROUPS = [SO2, O2, SO3, O3, SU2, PAIR, product(cyclic(3), SO2)]
NAMES = [group.name for group in GROUPS]


def matrices(group: Group, index: np.ndarray, algebra: np.ndarray) -> np.ndarray:
    return np.asarray(
        scipy.linalg.expm(np.tensordot(algebra, group.algebra, 1)) @ group.elements[index]
    )


@pytest.mark.parametrize("group", GROUPS, ids=NAMES)
def test_random_elements_and_quadrature_have_the_same_moments(group: Group) -> None:
    """Of the entries' products: by the rule exactly as by 20,000 draws within their noise."""
    drawn = group.sample(20_000, np.random.default_rng(0))
    points, shares = group.quadrature(4)
    assert shares.sum() == pytest.approx(1)
    random, exact = (
        matrices(group, x.index, x.algebra).reshape(len(x), -1) for x in (drawn, points)
    )
    second = np.einsum("n,ni,nj->ij", shares, exact, exact)
    found = random.T @ random / len(random)
    assert np.allclose(found, second, atol=0.03)
    assert np.allclose(random.mean(0), shares @ exact, atol=0.03)


@pytest.mark.parametrize("group", GROUPS, ids=NAMES)
def test_elements_are_orthogonal_matrices_of_the_group(group: Group) -> None:
    drawn = group.sample(5, np.random.default_rng(1))
    found = matrices(group, drawn.index, drawn.algebra)
    assert np.allclose(found @ found.transpose(0, 2, 1), np.eye(found.shape[-1]))
    assert np.allclose(defining(group).matrices_of(drawn), found)


@pytest.mark.parametrize("group", GROUPS, ids=NAMES)
def test_inverses(group: Group) -> None:
    drawn = group.sample(5, np.random.default_rng(2))
    one, two = (matrices(group, x.index, x.algebra) for x in (drawn, group.inverse(drawn)))
    assert np.allclose(one @ two, np.eye(one.shape[-1]))
    rho = defining(group)
    x = torch.randn(rho.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert np.allclose(rho.act(drawn[:1], x), one[0] @ x.numpy())


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
def test_the_rule_of_space_is_exact_to_its_degree(degree: int) -> None:
    """Characters' means: 1 for the numbers, 0 for every other irreducible representation."""
    elements, shares = SO3.quadrature(degree)
    for momentum in range(degree + 1):
        entries = angular_momentum(SO3, momentum).matrices_of(elements)
        mean = np.tensordot(shares, entries, 1)
        assert np.allclose(mean, 1.0 if momentum == 0 else 0.0, atol=1e-13)
    missed = angular_momentum(SO3, 2 * degree + 2).matrices_of(elements)
    assert np.abs(np.tensordot(shares, missed, 1)).max() > 1e-3  # and to no other


def test_two_points_do_not_see_what_three_do() -> None:
    """Hom of vectors to vectors has frequencies to 2: three angles are exact, two are not."""
    vectors = defining(SO2)
    space = hom(vectors, vectors)
    x = torch.randn(2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    errors = []
    for degree in (1, 2):
        elements, shares = SO2.quadrature(degree)
        turns = torch.from_numpy(vectors.matrices_of(elements))
        mean = torch.einsum("g,gij,jk,glk->il", torch.from_numpy(shares), turns, x, turns)
        errors.append(float((mean - space.project(x)).abs().max()))
    assert errors[0] > 0.1
    assert errors[1] < 1e-12


# Of invariant tensors of order 0, 1, ..., as emlp finds them too.
@pytest.mark.parametrize(
    ("group", "dimensions"),
    [
        (SO2, (1, 0, 2, 0, 6, 0)),
        (O2, (1, 0, 1, 0, 3, 0)),
        (SO3, (1, 0, 1, 1, 3, 6)),
        (O3, (1, 0, 1, 0, 3, 0)),
    ],
    ids=["SO(2)", "O(2)", "SO(3)", "O(3)"],
)
def test_invariant_tensors(group: Group, dimensions: tuple[int, ...]) -> None:
    vectors = defining(group)
    found = []
    for order in range(len(dimensions)):
        space = Space(trivial(group), *[vectors] * order)
        found.append(space.dimension)
        if found[-1] and vectors.size**order <= 100:
            basis, oracle = (x.reshape(len(x), -1) for x in (space.basis(), space.null_space()))
            assert np.allclose(basis.T @ basis, oracle.T @ oracle, atol=1e-10)
    assert tuple(found) == dimensions


def test_angular_momenta_couple_by_the_triangle() -> None:
    """Hom(l1 x l2, l3) has one dimension if |l1 - l2| <= l3 <= l1 + l2, else none (e3nn)."""
    spin = functools.partial(angular_momentum, SO3)
    for one, two, three in np.ndindex(3, 3, 4):
        space = hom(spin(one) * spin(two), spin(three))
        assert space.dimension == (abs(one - two) <= three <= one + two), (one, two, three)


def test_parity_is_kept() -> None:
    """Two vectors make a pseudovector, not a vector: the cross product."""
    vector, pseudo = angular_momentum(O3, 1, -1), angular_momentum(O3, 1, 1)
    assert hom(vector * vector, pseudo).dimension == 1
    assert hom(vector * vector, vector).dimension == 0
    assert hom(defining(O3), vector).dimension == 1
    assert hom(defining(O2), frequency(O2, 1)).dimension == 1


def test_spins_have_half_of_the_frequencies() -> None:
    """SU(2): quaternions commute with left multiplication from the right: 4 dimensions."""
    spinor = defining(SU2)
    assert spinor.degree == 1
    assert hom(spinor, spinor).dimension == 4
    vector = from_generators(SU2, [], "vectors", SPACE)
    assert vector.degree == 2
    assert hom(spinor, vector).dimension == 0
    assert hom(spinor * spinor, vector).dimension == 4


def test_products_act_on_both() -> None:
    group = product(SO2, symmetric(3))
    assert group.order == 6
    assert len(group.algebra) == 1
    assert hom(defining(group), defining(group)).dimension == 2 + 2
    finite = product(cyclic(2), cyclic(3))
    assert finite.order == 6
    assert not len(finite.algebra)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: from_generators(SO3, [], "half", SPACE / 2), r"d rho\(\[X, Y\]\) is not"),
        (
            lambda: from_generators(SO3, [], "spinors", defining(SU2).algebra),
            "a full turn is not the identity",
        ),
        (lambda: from_generators(SO3, [], "two", SPACE[:2]), "each of the 3 elements"),
        (lambda: from_generators(SO3, [], "symmetric", np.abs(SPACE)), "not skew-symmetric"),
        (lambda: from_generators(O2, [], "no mirror", O2.algebra), "each of the 1 generators"),
        (
            lambda: from_generators(O2, [np.eye(2)], "mirror", O2.algebra),
            r"d rho\(s X s\^-1\) is not",
        ),
        (lambda: rotations(4), "dimension is 4; accepted: 2, 3"),
    ],
)
def test_what_is_no_representation_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "rho", [2 * defining(O3) + trivial(O3, 3), defining(SU2)], ids=lambda r: r.group.name
)
def test_equivariant_maps_commute_with_random_elements(rho: Representation) -> None:
    space = hom(rho, rho)
    x = torch.randn(space.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a = space.project(x)
    elements = rho.group.sample(6, np.random.default_rng(3))
    y = torch.randn(6, rho.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    moved = rho.act_each(elements, y)
    assert torch.allclose(moved @ a.mT, rho.act_each(elements, y @ a.mT), atol=1e-12)
    assert torch.allclose(space.weight(*space.coordinates(x)), x, atol=1e-12)


def test_what_acts_on_grids_and_on_functions_is_finite() -> None:
    """Elements of the components alone would leave everything equivariant."""
    with pytest.raises(ValueError, match=r"SO\(2\) does not map grids to themselves"):
        grid(SO2, 3)
    with pytest.raises(ValueError, match=r"SO\(2\) has infinitely many elements"):
        regular(SO2)
    with pytest.raises(ValueError, match=r"S3 leaves pixels as they are"):
        grid(symmetric(3), 3)
    with pytest.raises(ValueError, match=r"C3 is finite and has no Lie algebra"):
        from_generators(cyclic(3), [[1, 2, 0]], "turns", np.zeros((0, 3, 3)))
    with pytest.raises(ValueError, match=r"SO\(2\) is not finite; accepted: finite groups"):
        Network(SO2, [])


def test_a_group_of_somebody_elses_goes_into_representations() -> None:
    """It need not say which turns are full; then neither is known what is no representation."""
    own = Group("turns", SO2.elements, SO2.generators, algebra=SO2.algebra)
    assert from_generators(own, [], "turn", 3 * own.algebra, degree=3).degree == 3
    assert defining(own, 1).degree == 1
    with pytest.raises(ValueError, match=r"turns says no full turns, .*; accepted: with degree"):
        from_generators(own, [], "turn", own.algebra)
    with pytest.raises(ValueError, match=r"defining: turns says no full turns"):
        defining(own)
    with pytest.raises(TypeError, match="group 'turns' is a Group; accepted: Compact"):
        product(SO2, own).sample(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: angular_momentum(SO3, HALF),
            r"degree is 0.5; accepted: whole numbers, 0 and more",
        ),
        (lambda: angular_momentum(SO3, -1), r"degree is -1; accepted: whole numbers"),
        (lambda: angular_momentum(O3, 1, 2), r"parity is 2; accepted: 1, -1"),
        (lambda: angular_momentum(SO3, 1, -1), r"parity is -1, of SO\(3\); accepted: 1"),
        (lambda: frequency(SO2, HALF), r"k is 0.5; accepted: whole numbers, 0 and more"),
        (lambda: frequency(SO2, 0, -1), r"mirror is -1, of SO\(2\); accepted: 1"),
        (lambda: frequency(O2, 3, -1), r"mirror is -1, of a k above 0; accepted: 1"),
        (lambda: SO2.quadrature(-1), r"degree is -1; accepted: 0 or more"),
        (lambda: lifted(defining(SO2), SO3, 0), r"matrix for|not skew|no representation|bracket"),
        (lambda: lifted(defining(SO3), SO2, 0), r"group is SO\(2\); accepted: a product with SO"),
        (lambda: lifted(defining(SO3), product(SO3, SO2), 2), r"place is 2; accepted: 0, 1"),
    ],
)
def test_bad_input_gets_a_line(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("other", [SO3, cyclic(3)], ids=["SO(3)", "C3"])
@pytest.mark.parametrize("one", [O2, symmetric(3)], ids=["O(2)", "S3"])
def test_a_factor_s_representation_in_the_product(one: Group, other: Group, place: int) -> None:
    """Its own elements move it as before, the other factor's leave it: characters say how much."""
    both = product(one, other) if place == 0 else product(other, one)
    rho = lifted(defining(one), both, place)
    assert rho.size == defining(one).size
    elements, shares = both.quadrature(2 * rho.degree)
    moved = rho.matrices_of(elements)
    alone, weights = one.quadrature(2 * rho.degree)
    for power in (1, 2):
        own = np.trace(defining(one).matrices_of(alone), axis1=1, axis2=2) ** power
        assert shares @ np.trace(moved, axis1=1, axis2=2) ** power == pytest.approx(weights @ own)
    assert hom(rho, lifted(defining(other), both, 1 - place)).dims[0] == (
        hom(defining(one), trivial(one)).dims[0] * hom(trivial(other), defining(other)).dims[0]
    )


def test_a_frequency_of_zero_is_trivial() -> None:
    assert frequency(SO2, 0).is_trivial
    assert angular_momentum(SO3, 0).is_trivial
    assert not angular_momentum(O3, 0, -1).is_trivial


@pytest.mark.parametrize(
    ("group", "order", "sizes"),
    [
        # numbers, vectors and so on in V x ... x V, by the Clebsch-Gordan series
        (SO3, 2, {1: 1, 3: 1, 5: 1}),
        (SO3, 3, {1: 1, 3: 3, 5: 2, 7: 1}),
        (SO3, 4, {1: 3, 3: 6, 5: 6, 7: 3, 9: 1}),
        (O3, 3, {1: 1, 3: 3, 5: 2, 7: 1}),
        (SO2, 4, {1: 6, 2: 5}),  # frequencies 0 six times, 2 four times, 4 once
        (SU2, 2, {1: 4, 3: 4}),
        (symmetric(4), 2, {1: 2, 2: 1, 3: 4}),
    ],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_irreducible_parts(group: Group, order: int, sizes: dict[int, int]) -> None:
    rho = functools.reduce(Representation.__mul__, [defining(group)] * order)
    sigma, q = irreducible(rho)
    found = collections.Counter(part.size for part in sigma.summands)
    assert found == sizes
    assert np.allclose(q.T @ q, np.eye(rho.size))
    drawn = group.sample(4, np.random.default_rng(0))
    rebuilt = q @ sigma.matrices_of(drawn) @ q.T
    assert np.allclose(rebuilt, rho.matrices_of(drawn), atol=1e-9)
    copies = sum(len(places) ** 2 for _, places in sigma.kinds)
    real = group not in (SO2, SU2)  # else maps between copies have more than one dimension
    assert not real or copies == hom(sigma, sigma).dimension


def test_spaces_too_long_for_dense_bases() -> None:
    """Of 3 ** 8 entries; Riordan's numbers, as emlp finds them up to 6; and the mean beside it."""
    fourth = functools.reduce(Representation.__mul__, [defining(SO3)] * 4)
    space = hom(fourth, fourth)
    assert space.dims == (91, 6561 - 91)
    assert isinstance(space.blocks[0].inside, Schur)
    x = torch.randn(space.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert np.allclose(space.project(x), average(fourth, x.numpy(), fourth), atol=1e-10)
    a, b = space.coordinates(x)
    assert torch.allclose(space.weight(a, b), x, atol=1e-10)
    assert torch.allclose(a.square().sum() + b.square().sum(), x.square().sum())
    assert torch.allclose(space.squared_distance(x), b.square().sum())
    total = torch.ones_like(x)
    space.add_complement_(total, x, 0.5)
    assert torch.allclose(total, 1 + 0.5 * (x - space.project(x)), atol=1e-10)
    third = functools.reduce(Representation.__mul__, [defining(SO3)] * 3)
    assert Space(third, third, defining(SO3)).dimension == 36
    assert hom(third, fourth).dimension == 36


@pytest.mark.parametrize("k", [1, 4, 8])
def test_turns_are_exact_to_rounding(k: int) -> None:
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 500)
    found = frequency(SO2, k).matrices_of(Elements(np.zeros(500, np.int64), angles[:, None]))
    cos, sin = np.cos(k * angles), np.sin(k * angles)
    expected = np.stack([np.stack([cos, -sin], -1), np.stack([sin, cos], -1)], -2)
    assert np.abs(found - expected).max() < 5e-15
