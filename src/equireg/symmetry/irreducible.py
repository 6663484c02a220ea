"""The irreducible parts of a representation, for spaces whose dense bases are out of reach.

A random symmetric matrix, averaged over the group to rho(g) S rho(g)^T, commutes with rho; by
Schur's lemma its eigenspaces are irreducible, with probability 1. Between two of them a random map,
averaged alike, is 0 or a multiple of an isometry that commutes: then they are copies of one part.
"""

from __future__ import annotations

import numpy as np

from equireg.symmetry.representations import Representation, direct_sum, from_generators, trivial

AT_ONCE = 64  # elements whose matrices are held
APART = 1e-8  # eigenvalues further apart than this, relative to the largest, are of two spaces
COPY = 1e-6  # norm of an averaged map from which on it is none of rounding


def irreducible(rho: Representation) -> tuple[Representation, np.ndarray]:
    """A direct sum of irreducible parts, and the basis in which rho is that sum.

    Returns sigma and an orthogonal Q, (d, d), with rho(g) = Q sigma(g) Q^T; copies of a part are
    the same object. Irreducible over the real numbers: a turn of the plane is one part.

    Two vectors in space make a number, a pseudovector and a symmetric tensor without trace.

    >>> from equireg.symmetry.compact import rotations
    >>> from equireg.symmetry.representations import defining
    >>> vectors = defining(rotations(3))
    >>> sigma, q = irreducible(vectors * vectors)
    >>> sorted(part.size for part in sigma.summands)
    [1, 3, 5]
    """
    if rho.is_trivial:
        return rho, np.eye(rho.size)
    random = np.random.default_rng(0)
    drawn = random.standard_normal((rho.size, rho.size))
    values, vectors = np.linalg.eigh(average(rho, drawn + drawn.T, rho))
    cuts = np.flatnonzero(np.diff(values) > APART * np.abs(values).max()) + 1
    found: list[tuple[int, np.ndarray]] = []  # of each eigenspace its kind, and its basis
    kinds: list[Representation] = []
    for basis in np.split(vectors, cuts, axis=1):
        part = _restricted(rho, basis)
        for kind, other in enumerate(kinds):
            if other.size != part.size:
                continue
            between = average(part, random.standard_normal((part.size, part.size)), other)
            size = np.linalg.norm(between) / np.sqrt(part.size)
            if size > COPY:
                found.append((kind, basis @ (between / size)))
                break
        else:
            found.append((len(kinds), basis))
            kinds.append(part)
    found.sort(key=lambda x: x[0])
    sigma = direct_sum(*(kinds[kind] for kind, _ in found), name=f"parts of {rho.name}")
    return sigma, np.hstack([basis for _, basis in found])


def average(one: Representation, x: np.ndarray, two: Representation) -> np.ndarray:
    """The mean of one(g) X two(g)^T over the group, exact."""
    elements, shares = one.group.quadrature(one.degree + two.degree)
    total = np.zeros_like(x)
    for i in range(0, len(elements), AT_ONCE):
        some = elements[i : i + AT_ONCE]
        moved = one.matrices_of(some) @ x @ two.matrices_of(some).swapaxes(1, 2)
        total += np.tensordot(shares[i : i + AT_ONCE], moved, 1)
    return total


def _restricted(rho: Representation, basis: np.ndarray) -> Representation:
    """What rho is on the space that this basis spans, (d, size)."""
    group, size = rho.group, basis.shape[1]
    steps = basis.T @ rho.generators @ basis
    algebra = None
    if len(group.algebra):
        images = np.zeros((len(group.algebra), rho.size, rho.size))
        if rho.algebra is not None:
            images = rho.algebra
        algebra = basis.T @ images @ basis
        algebra = (algebra - algebra.swapaxes(1, 2)) / 2
    if not len(steps) and algebra is None:
        return trivial(group, size)
    # where full turns do not say what a part's degree is, that of the whole suffices
    degree = None if len(group.full_turns) else rho.degree
    return from_generators(group, steps, f"part of {rho.name}", algebra, degree)
