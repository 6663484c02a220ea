"""Compact groups of matrices: rotations of the plane and of space, SU(2), and products.

Each is a ``Group`` that brings Haar measure twice: as random elements and as a quadrature. All are
written exp(X) g, X in the Lie algebra and g in a finite subgroup that has an element in every
component ([18] builds representations from the same generators).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from equireg.symmetry.groups import Elements, Group, generate
from equireg.symmetry.representations import Representation, from_generators

PLANE = np.array([[[0.0, -1.0], [1.0, 0.0]]])
# The turns about the axes x, y and z.
SPACE = np.zeros((3, 3, 3))
for _axis, (_from, _to) in enumerate([(1, 2), (2, 0), (0, 1)]):
    SPACE[_axis, _to, _from], SPACE[_axis, _from, _to] = 1.0, -1.0
# Half the multiplications by the quaternions i, j and k from the left, on (1, i, j, k).
SPIN = 0.5 * np.array(
    [
        [[0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, -1], [0, 0, 1, 0]],
        [[0, 0, -1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, -1, 0, 0]],
        [[0, 0, 0, -1], [0, 0, -1, 0], [0, 1, 0, 0], [1, 0, 0, 0]],
    ],
    float,
)
Sampler = Callable[[int, np.random.Generator], np.ndarray]
Rule = Callable[[int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Compact(Group):
    """A compact group: components, each the identity's times an element of a finite subgroup.

    draw: random coordinates of the Lie algebra, (count, k), whose exponentials are Haar-distributed
    on the identity's component; rule: coordinates, (n, k), and weights that are exact there up to a
    degree.
    """

    draw: Sampler
    rule: Rule

    @classmethod
    def of(
        cls,
        name: str,
        components: Group,
        algebra: np.ndarray,
        turns: np.ndarray,
        draw: Sampler,
        rule: Rule,
    ) -> Compact:
        """The group whose components these are, and whose identity's component the others say."""
        return cls(
            name,
            components.elements,
            components.generators,
            algebra=algebra,
            turns=turns,
            draw=draw,
            rule=rule,
        )

    def sample(self, count: int, random: np.random.Generator) -> Elements:
        """Elements drawn from Haar measure.

        >>> angles = rotations(2).sample(1000, np.random.default_rng(0)).algebra
        >>> bool(abs(np.exp(1j * angles).mean()) < 0.1)
        True
        """
        return Elements(random.integers(self.order, size=count), self.draw(count, random))

    def quadrature(self, degree: int) -> tuple[Elements, np.ndarray]:
        """Elements and weights, exact for matrix entries of representations up to ``degree``.

        >>> elements, weights = rotations(2).quadrature(3)  # frequencies to 3: four angles
        >>> (elements.algebra[:, 0] / np.pi).round(6).tolist(), weights.tolist()
        ([0.0, 0.5, 1.0, 1.5], [0.25, 0.25, 0.25, 0.25])
        """
        if degree < 0:
            raise ValueError(f"degree is {degree}; accepted: 0 or more")
        points, shares = self.rule(degree)
        count = len(shares)
        index = np.repeat(np.arange(self.order), count)
        elements = Elements(index, np.tile(points, (self.order, 1)))
        return elements, np.tile(shares / self.order, self.order)


def rotations(dimension: int) -> Compact:
    """SO(2) or SO(3): the rotations of the plane or of space.

    >>> rotations(3).algebra.shape
    (3, 3, 3)
    """
    return _rotations(dimension, "SO", np.zeros((0, dimension, dimension)))


def orthogonal(dimension: int) -> Compact:
    """O(2) or O(3): rotations and reflections.

    >>> orthogonal(3).elements[1].tolist()  # space is turned inside out
    [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    """
    mirror = np.diag([1, -1]) if dimension == 2 else -np.eye(dimension)
    return _rotations(dimension, "O", mirror[None])


def unitary() -> Compact:
    """SU(2), by real matrices: the unit quaternions, multiplied from the left.

    A turn by 2 pi is -1, by 4 pi 1: representations may have half of a frequency of SO(3)'s.
    """
    components = _finite("1", np.zeros((0, 4, 4)))
    turns = 4 * np.pi * np.eye(3)
    return Compact.of("SU(2)", components, SPIN, turns, _draw_spins, _spin_rule)


def product(first: Group, second: Group) -> Group:
    """G x H, on the vectors of both side by side; finite if both are.

    >>> product(rotations(2), orthogonal(2)).algebra.shape
    (2, 4, 4)
    """
    one_part, two_part = map(_identity_part, (first, second))
    sizes = first.elements.shape[-1], second.elements.shape[-1]
    zero = np.zeros((sum(sizes), sum(sizes)))

    def beside(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        both = zero.copy()
        both[: sizes[0], : sizes[0]], both[sizes[0] :, sizes[0] :] = one, two
        return both

    ones = np.eye(sizes[0]), np.eye(sizes[1])
    steps = [beside(step, ones[1]) for step in first.generators]
    steps += [beside(ones[0], step) for step in second.generators]
    name = f"{first.name} x {second.name}"
    components = _finite(name, np.array(steps).reshape(-1, *zero.shape))
    if components.order != first.order * second.order:
        raise ValueError(f"{name} has {components.order} components; accepted: as many as both")
    if not len(first.algebra) + len(second.algebra):
        return components
    algebra = [beside(x, 0 * ones[1]) for x in first.algebra]
    algebra += [beside(0 * ones[0], x) for x in second.algebra]
    turns = np.zeros((len(first.full_turns) + len(second.full_turns), len(algebra)))
    turns[: len(first.full_turns), : len(first.algebra)] = first.full_turns
    turns[len(first.full_turns) :, len(first.algebra) :] = second.full_turns

    def draw(count: int, random: np.random.Generator) -> np.ndarray:
        return np.hstack([part.draw(count, random) for part in (one_part, two_part)])

    def rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
        (one, share), (two, other) = (part.rule(degree) for part in (one_part, two_part))
        pairs = list(itertools.product(range(len(share)), range(len(other))))
        points = np.array([np.concatenate([one[i], two[j]]) for i, j in pairs])
        return points, np.array([share[i] * other[j] for i, j in pairs])

    return Compact.of(name, components, np.array(algebra), turns, draw, rule)


def lifted(rho: Representation, group: Group, place: int) -> Representation:
    """What acts on one factor's vectors, as a representation of the product: the other leaves it.

    group: ``product(first, second)``; place: 0 if rho is of the first, 1 of the second. Tensor
    products of lifted ones are what both act on. Raises ValueError for another group.

    A vector for each of three nodes, turned with space and renamed:

    >>> from equireg.symmetry.groups import symmetric
    >>> from equireg.symmetry.representations import defining
    >>> both = product(rotations(3), symmetric(3))
    >>> nodes = lifted(defining(symmetric(3)), both, 1)
    >>> (nodes * lifted(defining(rotations(3)), both, 0)).size
    9
    """
    if place not in (0, 1):
        raise ValueError(f"place is {place!r}; accepted: 0, 1")
    size = rho.size
    steps, algebra = list(rho.generators), np.zeros((len(rho.group.algebra), size, size))
    if rho.algebra is not None:
        algebra = rho.algebra
    others = len(group.generators) - len(steps), len(group.algebra) - len(algebra)
    if min(others) < 0:
        raise ValueError(f"group is {group.name}; accepted: a product with {rho.group.name}")
    still, flat = [np.eye(size)] * others[0], np.zeros((others[1], size, size))
    steps = [*steps, *still] if place == 0 else [*still, *steps]
    if not len(group.algebra):
        whole = np.array(steps)
        return from_generators(
            group, whole.argmax(2) if rho.permutations is not None else whole, rho.name
        )
    every = [algebra, flat] if place == 0 else [flat, algebra]
    return from_generators(group, steps, rho.name, np.concatenate(every), rho.degree)


def _identity_part(group: Group) -> Compact:
    """The identity's component: of a finite group, the identity alone."""
    if isinstance(group, Compact):
        return group
    if len(group.algebra):
        raise TypeError(f"group {group.name!r} is a {type(group).__name__}; accepted: Compact")
    one = _finite("1", np.zeros((0, 1, 1)))
    return Compact.of(
        "1",
        one,
        np.zeros((0, 1, 1)),
        np.zeros((0, 0)),
        lambda count, random: np.zeros((count, 0)),
        lambda degree: (np.zeros((1, 0)), np.ones(1)),
    )


def _rotations(dimension: int, kind: str, mirrors: np.ndarray) -> Compact:
    if dimension not in (2, 3):
        raise ValueError(f"dimension is {dimension}; accepted: 2, 3")
    components, name = _finite("components", mirrors), f"{kind}({dimension})"
    turns = 2 * np.pi * np.eye(len(PLANE if dimension == 2 else SPACE))
    if dimension == 2:
        return Compact.of(name, components, PLANE, turns, _draw_angles, _angle_rule)
    return Compact.of(name, components, SPACE, turns, _draw_turns, _turn_rule)


def _finite(name: str, steps: np.ndarray) -> Group:
    return generate(name, steps.astype(np.int64).tolist(), steps.shape[-1])


def _draw_angles(count: int, random: np.random.Generator) -> np.ndarray:
    return random.uniform(0, 2 * np.pi, (count, 1))


def _angle_rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
    count = degree + 1
    return 2 * np.pi * np.arange(count)[:, None] / count, np.full(count, 1 / count)


def _draw_spins(count: int, random: np.random.Generator) -> np.ndarray:
    """Logarithms of quaternions that are uniform on the sphere, twice their angle long."""
    drawn = random.standard_normal((count, 4))
    return _logarithms(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def _draw_turns(count: int, random: np.random.Generator) -> np.ndarray:
    """The same: SU(2) covers SO(3) twice, each element alike."""
    return _draw_spins(count, random)


def _logarithms(quaternions: np.ndarray) -> np.ndarray:
    """v with exp(v / 2) = q, (n, 3): the axis of a turn times its angle, from 0 to 2 pi."""
    real, imaginary = quaternions[:, 0], quaternions[:, 1:]
    length = np.linalg.norm(imaginary, axis=1)
    angle = 2 * np.arctan2(length, real)
    axis = imaginary / np.where(length > 0, length, 1)[:, None]
    axis[length == 0] = [0, 0, 1]  # 1 or -1, which has a logarithm along any axis
    return np.asarray(angle[:, None] * axis)


def _turn_rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """Of space: the angle that is taken last runs over one turn."""
    return _euler_rule(degree, 2 * np.pi)


def _spin_rule(degree: int) -> tuple[np.ndarray, np.ndarray]:
    """The same on SU(2), where it takes two turns to come back; degrees count half frequencies."""
    return _euler_rule(degree, 4 * np.pi)


def _euler_rule(degree: int, last: float) -> tuple[np.ndarray, np.ndarray]:
    """Euler angles about z, y and z: equispaced, Gauss' nodes in the cosine, equispaced.

    Matrix entries are exp(i m a) d(b) exp(i n c). As many angles as there are frequencies leave
    those with m = n = 0, which are polynomials in cos b of this degree at most.
    """
    count = degree + 1
    first, third = (end * np.arange(count) / count for end in (2 * np.pi, last))
    nodes, shares = np.polynomial.legendre.leggauss(degree // 2 + 1)
    a, cosine, c = (x.ravel() for x in np.meshgrid(first, nodes, third, indexing="ij"))
    weights = np.meshgrid(first, shares / (2 * count**2), third, indexing="ij")[1].ravel()
    b = np.arccos(cosine)
    near, far = np.cos(b / 2), np.sin(b / 2)
    plus, minus = (a + c) / 2, (a - c) / 2
    quaternions = np.stack(  # exp(a k / 2) exp(b j / 2) exp(c k / 2)
        [
            near * np.cos(plus),
            -far * np.sin(minus),
            far * np.cos(minus),
            near * np.sin(plus),
        ],
        1,
    )
    return _logarithms(quaternions), weights


def frequency(group: Group, k: int, mirror: int = 1) -> Representation:
    """A turn of the plane by k times the angle, of SO(2) or O(2); k = 0 is one number.

    mirror: what a reflection does to that number, 1 or -1.

    >>> frequency(rotations(2), 3).degree, frequency(orthogonal(2), 0, mirror=-1).size
    (3, 1)
    """
    _check_whole("k", k)
    _check_sign("mirror", mirror, group, only=k == 0)
    steps = len(group.generators)
    if k == 0:
        return from_generators(group, [[[mirror]]] * steps, f"frequency 0 ({mirror})", [[[0.0]]])
    return from_generators(group, [np.diag([1, -1])] * steps, f"frequency {k}", k * PLANE)


def angular_momentum(group: Group, degree: int, parity: int = 1) -> Representation:
    """The irreducible representation of SO(3) or O(3) on 2 degree + 1 numbers, real.

    They are the coefficients of the spherical harmonics of this degree, for m from -degree to
    degree. parity: what turning space inside out does to them, 1 or -1; of vectors it is -1.

    >>> [angular_momentum(rotations(3), degree).size for degree in range(4)]
    [1, 3, 5, 7]
    """
    _check_whole("degree", degree)
    _check_sign("parity", parity, group)
    steps = [parity * np.eye(2 * degree + 1)] * len(group.generators)
    return from_generators(group, steps, f"angular momentum {degree} ({parity})", _momenta(degree))


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, (int, np.integer)) or value < 0:
        raise ValueError(f"{name} is {value!r}; accepted: whole numbers, 0 and more")


def _check_sign(name: str, sign: object, group: Group, only: bool = True) -> None:
    """Raise ValueError for what is no sign, and for -1 where nothing would have it."""
    if sign not in (1, -1):
        raise ValueError(f"{name} is {sign!r}; accepted: 1, -1")
    if sign == -1 and not (only and len(group.generators)):
        where = f"of {group.name}" if not len(group.generators) else "of a k above 0"
        raise ValueError(f"{name} is -1, {where}; accepted: 1")


def _momenta(degree: int) -> np.ndarray:
    """The turns about x, y, z on real spherical harmonics, (3, 2 degree + 1, 2 degree + 1)."""
    m = np.arange(-degree, degree + 1)
    size = len(m)
    raising = np.zeros((size, size), complex)
    raising[np.arange(1, size), np.arange(size - 1)] = np.sqrt(
        degree * (degree + 1) - m[:-1] * (m[:-1] + 1)
    )
    lowering = raising.T
    complex_momenta = [(raising + lowering) / 2, (raising - lowering) / 2j, np.diag(m)]
    # Rows: the real harmonics, as combinations of the complex ones.
    change = np.zeros((size, size), complex)
    change[degree, degree] = 1
    for k in range(1, degree + 1):
        plus, minus = degree + k, degree - k
        change[plus, minus], change[plus, plus] = 1 / np.sqrt(2), (-1) ** k / np.sqrt(2)
        change[minus, minus], change[minus, plus] = 1j / np.sqrt(2), -1j * (-1) ** k / np.sqrt(2)
    turns = np.stack([change.conj() @ (-1j * x) @ change.T for x in complex_momenta])
    return np.asarray(turns.real)
