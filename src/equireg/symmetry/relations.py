"""What the images of a group's generators must fulfil to make a representation.

Each function raises ValueError, in a line that names the representation and what is wrong.
"""

from __future__ import annotations

import numpy as np

from equireg.symmetry.groups import Group

TOLERANCE = 1e-8  # of orthogonality and of the homomorphism, per matrix entry


def orthogonal(steps: np.ndarray, name: str) -> np.ndarray:
    """The matrices, checked; as index arrays if all of them are permutation matrices."""
    if steps.shape[1] != steps.shape[2]:
        raise ValueError(f"{name}: matrices of shape {steps.shape[1:]}; accepted: square ones")
    for s, step in enumerate(steps):
        defect = np.abs(step @ step.T - np.eye(len(step))).max()
        if not defect < TOLERANCE:
            raise ValueError(
                f"{name}: the matrix of generator {s} is not orthogonal (rho rho^T differs from "
                f"the identity by {defect:.3g})"
            )
    return steps.argmax(2) if np.isin(steps, (0, 1)).all() else steps


def permutations_of(group: Group, steps: np.ndarray, name: str) -> np.ndarray:
    """The index arrays of all elements, (order, d), from those of the generators."""
    identity = np.arange(steps.shape[1])
    for s, step in enumerate(steps):
        if not (np.sort(step) == identity).all():
            raise ValueError(
                f"{name}: {step.tolist()}, of generator {s}, is no permutation; accepted: each of "
                f"0 to {len(step) - 1} once"
            )
    permutations = group.extend(identity, steps, lambda step, p: p[step])
    for s, step in enumerate(steps):
        differs = permutations[:, step] != permutations[group.cayley[s]]
        hold_to_relations(group, name, s, differs.any(1))
    return permutations


def hold_to_relations(group: Group, name: str, step: int, differs: np.ndarray) -> None:
    if differs.any():
        raise ValueError(
            f"{name} is no representation of {group.name}: rho(s) rho(g) is not rho(s g) for "
            f"generator {step} and element {int(differs.argmax())}; accepted: matrices that "
            "satisfy the relations of the group's generators"
        )


def check_algebra(group: Group, steps: np.ndarray, images: np.ndarray, name: str) -> None:
    """Raise ValueError unless brackets, and the generators' action, are those of the group."""
    basis = group.algebra.reshape(len(group.algebra), -1).T

    def image(x: np.ndarray) -> np.ndarray:
        """d rho(x) for an element x of the Lie algebra."""
        found: np.ndarray = np.linalg.lstsq(basis, x.ravel(), rcond=None)[0]
        return np.tensordot(found, images, 1)

    size = images.shape[-1]
    for x, one in zip(group.algebra, images, strict=True):
        for y, two in zip(group.algebra, images, strict=True):
            if not np.allclose(image(x @ y - y @ x), one @ two - two @ one, atol=TOLERANCE * size):
                raise ValueError(
                    f"{name} is no representation of {group.name}: d rho([X, Y]) is not "
                    "[d rho(X), d rho(Y)]"
                )
        for s, step in zip(group.generators, steps, strict=True):
            if not np.allclose(image(s @ x @ s.T), step @ one @ step.T, atol=TOLERANCE * size):
                raise ValueError(
                    f"{name} is no representation of {group.name}: d rho(s X s^-1) is not "
                    "rho(s) d rho(X) rho(s)^-1"
                )
