"""Gradient descent on the regularized risk, and points where the equivariant flow stands still."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import cg
from torch import Tensor

from equireg.runtime import say
from equireg.theory.risks import Risk
from equireg.theory.spectrum import block_operator, operator

SWIFT = 1.8  # of a step about a minimum, in units of 1 / the largest eigenvalue; 2 would diverge
EVEN = 1.9  # the same, in units of 1 / the sum of the largest and the smallest
ROUND, SPREAD = 8, 64  # steps of a round, and what they cover of a spectrum
SETTLED = 1e-9  # norm of the gradient in E at which a point counts as settled


def descend(
    risk: Risk, start: Tensor, gamma: float, *steps: float
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the points of A <- A - step (Pi_L grad R(A) + gamma Pi_{E-perp} A), the start first.

    With each point its gradient Pi_L grad R(A), without the penalty. Steps of several sizes take
    turns. Never ends.
    """
    coordinates, point = risk.coordinates, start.clone()
    for step in itertools.cycle(steps):
        gradient = risk.gradient(point)
        yield point, gradient
        outside = coordinates.split(point)[1]
        point = point - step * (gradient + coordinates.join(outside=gamma * outside))


def swift_steps(slowest: float, fastest: float) -> list[float]:
    """Steps of descent about a minimum, or beside it, to be taken in turn: a round of them.

    Chebyshev's: directions of eigenvalues from ``fastest`` / ``SPREAD`` to ``fastest`` shrink to a
    quarter in each round, which lasts four times as long as its steps would if all were of one
    size. Slower ones, and those that grow, go on as exp(-eigenvalue t) does, nearly; exactly by the
    product of (1 - step eigenvalue). Where the slowest direction is none of them, a single step.
    """
    if slowest > fastest / SPREAD:
        return [min(SWIFT / fastest, EVEN / (fastest + slowest))]
    middle, half = (fastest + fastest / SPREAD) / 2, (fastest - fastest / SPREAD) / 2
    angles = np.pi * (np.arange(ROUND) + 0.5) / ROUND
    return [float(step) for step in 1 / (middle + half * np.cos(angles))]  # the smallest first


def settle(risk: Risk, start: Tensor) -> Tensor:
    """A stationary point of the equivariant flow: L-BFGS on R in the coordinates of E, then Newton.

    The last steps are Newton's with conjugate gradients, to a gradient below ``SETTLED``, where
    five of them suffice; else the log says what was reached.
    """
    coordinates = risk.coordinates

    def on_e(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = risk.value_and_gradient(coordinates.join(torch.from_numpy(x)))
        return value, coordinates.split(gradient)[0].numpy()

    found = minimize(
        on_e,
        coordinates.split(start)[0].numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 2000, "maxfun": 2000, "ftol": 0, "gtol": 1e-7, "maxcor": 30},
    )
    point = coordinates.join(torch.from_numpy(found.x))
    for _ in range(5):
        inside = coordinates.split(risk.gradient(point))[0]
        if inside.norm() < SETTLED:
            return point
        hessian = block_operator(risk, point, "equivariant")
        newton, _ = cg(hessian, -inside.numpy(), rtol=1e-4)
        point = point + coordinates.join(torch.from_numpy(newton))
    inside = coordinates.split(risk.gradient(point))[0]
    say(f"settled in E to a gradient of {float(inside.norm()):.2g}")
    return point


def plateau(risk: Risk, point: Tensor, gamma: float) -> Tensor:
    """Y with (Pi hess R(A) + gamma) Y = -Pi grad R(A) on the complement of TE, for A in E.

    To first order where the nominal flow levels off (Remark 1); needs gamma + mu' > 0.
    """
    coordinates = risk.coordinates
    block = block_operator(risk, point, "complement")
    shifted = operator(block.shape[0], lambda y: torch.from_numpy(block @ y.numpy()) + gamma * y)
    push = coordinates.split(risk.gradient(point))[1].numpy()
    found, failed = cg(shifted, -push, rtol=1e-8, maxiter=2000)
    if failed:
        return torch.full((block.shape[0],), torch.nan, dtype=torch.float64)
    return torch.from_numpy(found)
