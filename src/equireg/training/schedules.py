"""The penalty and the learning rate along training, as pure functions of the step.

A schedule maps steps, (n,), and the number of all steps to values, (n,) float64. Whatever asks for
the same step gets the same value, so that a training that was cut off goes on as it would have.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from equireg.settings import TrainingSettings
from equireg.spelling import parse_knots

Schedule = Callable[[np.ndarray, int], np.ndarray]


def constant(value: float) -> Schedule:
    """The same at every step.

    >>> constant(0.5)(np.arange(3), 100).tolist()
    [0.5, 0.5, 0.5]
    """
    if not value >= 0:
        raise ValueError(f"value is {value}; accepted: 0 or more")
    return lambda steps, total: np.full(len(steps), float(value))


def piecewise(knots: Sequence[tuple[float, float]]) -> Schedule:
    """Piecewise linear in the logarithm, over the share of training that is done.

    knots: (share, value), shares ascending from 0. A piece that touches 0 or infinity has no
    logarithm to be linear in: it keeps the value of its first knot. After the last knot, its value.
    Raises ValueError for knots that are not so.

    >>> piecewise([(0, 1e-2), (1, 1)])(np.array([0, 50, 100]), 100).round(3).tolist()
    [0.01, 0.1, 1.0]
    >>> piecewise([(0, math.inf), (0.5, 0)])(np.array([0, 49, 50, 99]), 100).tolist()
    [inf, inf, 0.0, 0.0]
    """
    shares, values = np.array(knots, float).reshape(-1, 2).T
    sound = len(shares) > 0 and bool((values >= 0).all())
    if not sound or shares[0] != 0 or (np.diff(shares) <= 0).any() or shares[-1] > 1:
        raise ValueError(
            f"knots are {[tuple(knot) for knot in knots]}; accepted: (share, value), shares "
            "ascending from 0 to at most 1, values 0 or more"
        )
    with np.errstate(divide="ignore"):
        logarithms = np.log(values)

    def schedule(steps: np.ndarray, total: int) -> np.ndarray:
        share = np.asarray(steps) / total
        piece = np.clip(np.searchsorted(shares, share, side="right") - 1, 0, len(shares) - 1)
        last = np.minimum(piece + 1, len(shares) - 1)
        sloped = np.isfinite(logarithms[piece]) & np.isfinite(logarithms[last]) & (last > piece)
        found: np.ndarray = values[piece]
        there, here, done = last[sloped], piece[sloped], share[sloped]
        part = (done - shares[here]) / (shares[there] - shares[here])
        found[sloped] = np.exp((1 - part) * logarithms[here] + part * logarithms[there])
        return found

    return schedule


def cosine(value: float) -> Schedule:
    """From ``value`` to 0 along half a cosine.

    >>> cosine(2.0)(np.array([0, 50, 100]), 100).round(9).tolist()
    [2.0, 1.0, 0.0]
    """
    start = constant(value)
    return lambda steps, total: start(steps, total) * (1 + np.cos(np.pi * steps / total)) / 2


def gamma_schedule(gamma: float | None, training: TrainingSettings) -> Schedule:
    """Of a run with this penalty, times the factors of the training's schedule.

    None is the equivariant mode, which is in E throughout; so is any run where the factor is
    infinite, also one without a penalty.

    >>> release = TrainingSettings(gamma_schedule="release")
    >>> gamma_schedule(0.1, release)(np.array([0, 49, 50, 99]), 100).tolist()
    [inf, inf, 0.1, 0.1]
    """
    if gamma is None:
        return constant(math.inf)
    if training.gamma_schedule == "constant":
        return constant(gamma)
    factor = piecewise(parse_knots(training.gamma_schedule))

    def schedule(steps: np.ndarray, total: int) -> np.ndarray:
        factors = factor(steps, total)
        in_e = np.isposinf(factors)
        return np.where(in_e, np.inf, gamma * np.where(in_e, 0, factors))

    return schedule


def learning_rates(training: TrainingSettings) -> Schedule:
    """The learning rate of a training."""
    kind = cosine if training.rate_schedule == "cosine" else constant
    return kind(training.learning_rate)


def risk_scale(training: TrainingSettings) -> float:
    """The risk that is trained, in units of the mean loss of a batch."""
    return 1 / training.batch_size if training.risk_scale == "batch" else 1.0


def along(schedules: Sequence[Schedule], copies: int, first: int, count: int, total: int) -> Tensor:
    """Their values at ``count`` steps from ``first``, each for ``copies`` runs side by side.

    (schedules * copies, count), float32.
    """
    steps = np.arange(first, first + count)
    values = torch.from_numpy(np.stack([schedule(steps, total) for schedule in schedules]))
    return values.float().repeat_interleave(copies, 0)
