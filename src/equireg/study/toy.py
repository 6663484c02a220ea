"""A risk with a bad minimum on E that a network leaves, and comes back to E from, for a better one.

Two weights A = (a, b); the group {1, -1} acts by b -> -b, so that E is b = 0 and the penalty
gamma / 2 b². The risk is that of a tilted ring,

    R(a, b) = (a² + b² - 1)² - h a,

which is invariant. On E it has two minima for 0 < h < 8 / sqrt(27), the good one near a = 1 and the
bad one near a = -1. At either, dR/da = 4 a (a² - 1) - h = 0, so that the curvature off E is
4 (a² - 1) = h / a: negative at the bad one. There E attracts if gamma > -h / a, the critical gamma,
and otherwise the ring leads from it to the good one, at which E attracts without any penalty.
Training in E never leaves the bad one: its gradient has no part off E (Theorem 1).
"""

from __future__ import annotations

import numpy as np

TILT = 0.5  # h


def risk(a: float, b: float, tilt: float = TILT) -> float:
    """R(a, b).

    >>> risk(1.0, 0.0), risk(-1.0, 0.0)
    (-0.5, 0.5)
    """
    return (a * a + b * b - 1) ** 2 - tilt * a


def minima(tilt: float = TILT) -> tuple[float, float]:
    """a at the bad and at the good minimum on E: the outer roots of 4 a³ - 4 a - h.

    >>> [round(a, 4) for a in minima()]
    [-0.9304, 1.0575]
    """
    if not 0 < tilt < 8 / np.sqrt(27):
        raise ValueError(f"tilt is {tilt:g}; accepted: above 0 and below 1.5396, for two minima")
    bad, _, good = sorted(np.roots([4, 0, -4, -tilt]).real)
    return float(bad), float(good)


def critical(tilt: float = TILT) -> float:
    """The gamma above which E attracts at the bad minimum: -mu.

    >>> round(critical(), 4)
    0.5374
    """
    return -tilt / minima(tilt)[0]


def descend(
    gamma: float, kick: float, rate: float = 0.01, steps: int = 10_000, tilt: float = TILT
) -> np.ndarray:
    """Gradient descent on R + gamma / 2 b² from the bad minimum, moved off E by a kick.

    (steps + 1, 2): a and b.
    """
    path = np.empty((steps + 1, 2))
    path[0] = minima(tilt)[0], kick
    for i, (a, b) in enumerate(path[:-1]):
        slope = 4 * (a * a + b * b - 1)
        path[i + 1] = a - rate * (slope * a - tilt), b - rate * (slope * b + gamma * b)
    return path
