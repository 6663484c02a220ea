"""Stochastic gradient descent beside E, to first order: a discrete Ornstein-Uhlenbeck process.

Beside the equivariant trajectory A_E(t), the part Y of the weights outside E takes the steps

    Y_{t+1} = (1 - lr gamma) Y_t - lr scale (H_t Y_t + m_t + xi_t),

m_t the mean and C_t / batch_size the covariance of the gradient's part outside E at A_E(t), H_t the
block of the Hessian there, all of the mean cross entropy, which ``scale`` multiplies. Remark 1's
plateau is where mean and curvature balance. H, m and C move slowly, so several steps are taken at
once: a stretch of ``steps``, within which Y in the product with H stands still.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stretch:
    """What ``steps`` steps do, with r = 1 - lr gamma.

    kept: r^steps, of Y; push: lr sum_j r^j, of a constant gradient; noise: lr^2 sum_j r^2j, of the
    covariance of independent ones.
    """

    kept: float
    push: float
    noise: float

    @classmethod
    def of(cls, learning_rate: float, gamma: float, steps: int) -> Stretch:
        """The stretch of ``steps`` steps with this penalty."""
        kept = (1 - learning_rate * gamma) ** np.arange(steps + 1.0)
        powers = learning_rate * kept[:-1]
        return cls(float(kept[-1]), float(powers.sum()), float((powers**2).sum()))


@dataclass(frozen=True)
class Slope:
    """The gradient of the mean cross entropy at A_E, estimated on some images.

    mean: of that many ``images``; 0 is for one that is known to vanish. draw: a draw of mean 0 and
    covariance C / images, independent of ``mean``. (runs, dimension) each.
    """

    mean: np.ndarray
    draw: np.ndarray
    images: int
    exact: bool = False  # the mean is not an estimate

    @classmethod
    def of_halves(cls, first: np.ndarray, second: np.ndarray, images: int) -> Slope:
        """From the mean gradients of two independent halves of the images.

        Their mean and half their difference have the same covariance and none with each other.
        """
        return cls((first + second) / 2, (first - second) / 2, images)


def propagate(
    y: np.ndarray,
    curvature: np.ndarray,
    slope: Slope,
    stretch: Stretch,
    scale: float,
    batch_size: int,
) -> np.ndarray:
    """Y after a stretch, (runs, dimension); ``curvature`` is H Y.

    The noise of a stretch's batches has covariance scale^2 noise C / batch_size. An estimated
    mean brings a part of it, so that only the rest is drawn; with fewer images than the
    stretch's batches hold it may bring more.
    """
    brought = 0.0 if slope.exact else stretch.push**2
    missing = max(0.0, stretch.noise * slope.images / batch_size - brought)
    stepped = stretch.kept * y - stretch.push * scale * (curvature + slope.mean)
    return np.asarray(stepped + scale * np.sqrt(missing) * slope.draw)


def knots(steps: int, longest: int) -> Iterator[int]:
    """The steps between stretches, from 0 to ``steps``.

    Stretches grow to ``longest`` steps as training goes on: it begins with its fastest changes.
    """
    step = 0
    while step < steps:
        yield step
        step = min(steps, step + max(1, min(longest, step // 4)))
    yield steps
