"""The spectrum of the Hessian on TE and on its complement, through Hessian-vector products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from equireg.randomness import generator
from equireg.theory.risks import Coordinates, Risk

Block = Literal["equivariant", "complement", "all"]

PRECISION = 1e-6  # of an eigenvector: its residual, relative to the eigenvalue
ENDS = 6  # eigenvalues at each end of a spectrum
ROUGH = 1e-3  # where the eigenvalue alone is wanted: its error is of the order of the square


def operator(size: int, product: Callable[[Tensor], Tensor]) -> LinearOperator:
    """A symmetric map of float64 vectors of this size, for scipy."""

    def matvec(x: np.ndarray) -> np.ndarray:
        return np.asarray(product(torch.from_numpy(np.array(x.reshape(-1)))).numpy())

    return LinearOperator((size, size), matvec=matvec, rmatvec=matvec, dtype=np.float64)


def block_operator(risk: Risk, point: Tensor, block: Block) -> LinearOperator:
    """X -> Pi hess R(A) X for X in TE, in its complement, or in TL."""
    coordinates, product = risk.coordinates, risk.hessian(point)
    places = block_slice(coordinates, block)

    def restricted(x: Tensor) -> Tensor:
        direction = torch.zeros(coordinates.dimension, dtype=torch.float64)
        direction[places] = x
        return product(direction)[places]

    return operator(places.stop - places.start, restricted)


def block_slice(coordinates: Coordinates, block: Block) -> slice:
    """The places of a block's coordinates in a point's."""
    if block == "equivariant":
        return slice(0, coordinates.equivariant)
    return slice(coordinates.equivariant if block == "complement" else 0, coordinates.dimension)


def smallest(
    block: LinearOperator, count: int, precision: float = PRECISION
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest eigenvalues, ascending, (count,), and their eigenvectors, (size, count)."""
    return _extreme(block, count, "SA", precision)


def largest(block: LinearOperator, count: int, precision: float = ROUGH) -> np.ndarray:
    """The largest eigenvalues, ascending, (count,)."""
    return _extreme(block, count, "LA", precision)[0]


def _extreme(
    block: LinearOperator, count: int, which: str, precision: float
) -> tuple[np.ndarray, np.ndarray]:
    size = block.shape[0]
    if size <= 4 * count + 40:  # Lanczos wants room
        values, vectors = np.linalg.eigh(block @ np.eye(size))
        below = {"SA": count, "LA": 0, "BE": count // 2}[which]
        few = np.r_[:below, size - count + below : size]
        return values[few], vectors[:, few]
    start = generator(0, "theory", "Lanczos").standard_normal(size)
    room = 4 * count + 20
    values, vectors = eigsh(block, count, which=which, v0=start, tol=precision, ncv=room)
    order = np.argsort(values)
    return values[order], vectors[:, order]


@dataclass(frozen=True)
class Spectrum:
    """The ends of the spectrum of hess R_aug on TE and on its complement, at a point; ascending."""

    name: str
    equivariant: np.ndarray
    complement: np.ndarray


def spectrum(risk: Risk, name: str, point: Tensor) -> Spectrum:
    """The ``ENDS`` smallest and as many largest eigenvalues of either block, at a point in E."""
    augmented = risk.augmented()
    ends = []
    blocks: tuple[Block, ...] = ("equivariant", "complement")
    for block in blocks:
        held = block_operator(augmented, point, block)
        ends.append(_extreme(held, 2 * ENDS, "BE", ROUGH)[0])
    return Spectrum(name, *ends)
