"""Theorems 1 to 3 and Remarks 1 and 2, measured on gradient descent and on the Hessian's blocks.

It is long because it goes statement by statement, as the paper does.

Gradient descent with step size s multiplies a direction of eigenvalue h by 1 - s h at each step, so
that a factor q is the rate (1 - q) / s of the flow, exactly and for any s: rates below are those.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equireg.theory.facts import named, unit
from equireg.theory.flows import SWIFT, descend, plateau, swift_steps
from equireg.theory.measurement import Measurement, Relation
from equireg.theory.risks import Risk
from equireg.theory.spectrum import ROUGH, Spectrum, block_operator, largest, smallest
from equireg.theory.symmetry import random_tensor

# Fixed before anything was measured.
STEPS = 1000  # of gradient descent, Theorem 1
LEARNING_RATE = 1e-3  # the experiment's, on the mean risk
STAYS = 1e-10  # distance to E after them
LEAVES = 1e-3
NORMS_AGREE = 1e-10  # relative
NORMS_DIFFER = 1e-4  # relative, where an assumption is broken
SPLITS = 1e-6  # relative: the spectrum of all is that of the blocks
STATIONARY = 1e-6  # norm of a gradient
RATE = 1e-2  # error of a rate, relative to the size of mu
PLATEAU = 5e-2  # error of the plateau, relative
SETTLED = 1e-2  # relative change of a distance that has levelled off, in the last quarter
FIRST_ORDER = 0.9  # order of that error in |Y|, at least, where |Y| is small

MODES = 6  # the slowest directions, whose rates are measured
FACTORS = (0.0, 0.5, 1.0, 2.0, 4.0)  # gammas, in units of the critical one
SMALL = 1e-6  # size of a perturbation whose rate is measured
VISIBLE = 1e-3  # of one that is followed until it has grown or gone
FITTED_FOLDS, FITTED_STEPS = 3, 60  # it is followed that far, or that long: it must stay small
FOLDS = 3  # a visible perturbation is followed for this many times 1 / critical gamma
PLATEAU_FACTORS = (1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)  # gammas, in units of -mu'
LONGEST = 4000  # steps of a nominal flow
SETTLING = 12  # a plateau is waited for this many times 1 / (gamma + mu')


@dataclass(frozen=True)
class Settled:
    """A stationary point of the equivariant flow, with the spectrum there.

    mu, directions: the smallest eigenvalues of the augmented Hessian on the complement, (modes,),
    and their eigenvectors, (dimension, modes); highest: the largest of all; longest: steps of an
    augmented flow from there, at most.
    """

    risk: Risk  # nominal
    name: str
    point: Tensor
    mu: np.ndarray
    directions: Tensor
    inside: float
    highest: float
    longest: int

    @classmethod
    def at(cls, risk: Risk, name: str, point: Tensor, longest: int) -> Settled:
        """With the spectrum of R_aug at ``point``."""
        augmented = risk.augmented()
        mu, directions = smallest(block_operator(augmented, point, "complement"), MODES)
        inside = smallest(block_operator(augmented, point, "equivariant"), 1, ROUGH)[0]
        highest = largest(block_operator(augmented, point, "all"), 1)
        ends = float(inside[0]), float(highest[0])
        return cls(risk, name, point, mu, torch.from_numpy(directions), *ends, longest)

    @property
    def critical(self) -> float:
        """The gamma above which E attracts: max(0, -mu)."""
        return max(0.0, -float(self.mu[0]))

    @property
    def gammas(self) -> list[float]:
        """Gammas below, at and above the critical one."""
        return [factor * abs(float(self.mu[0])) for factor in FACTORS]

    def measured(
        self,
        statement: str,
        place: str,
        quantity: str,
        value: float,
        relation: str,
        tolerance: float,
        mode: str = "augmented",
        gamma: float | None = None,
    ) -> Measurement:
        """A measurement at this point."""
        assert relation in ("<", ">")
        return Measurement(
            statement,
            place,
            self.risk.model,
            mode,
            self.name,
            quantity,
            value,
            "<" if relation == "<" else ">",
            tolerance,
            gamma,
        )


def theorem_1(risk: Risk, start: Tensor, name: str) -> Iterator[Measurement]:
    """E is invariant under the augmented flow, where it is the equivariant one; not the nominal.

    Where the model breaks an assumption, the augmented flow is to leave E, too.
    """
    risk = risk.plain()
    coordinates, augmented, step = risk.coordinates, risk.augmented(), LEARNING_RATE
    model, place, breach = risk.model, "II-C, Theorem 1", risk.model.breach
    quantity = f"distance to E after {STEPS} steps of {step:g} from E"
    worst = 0.0
    for i, (point, gradient) in enumerate(descend(augmented, start, 0.0, step)):
        if i % (STEPS // 10) == 0:
            inside = coordinates.split(risk.gradient(point))[0].norm()
            worst = max(worst, float((gradient.norm() - inside).abs() / inside))
        if i == STEPS:
            stayed = coordinates.distance(point)
            break
    left: tuple[Relation, float] = (">", LEAVES) if breach else ("<", STAYS)
    of = named("Theorem 1.1", breach)
    yield Measurement(of, place, model, "augmented", name, quantity, stayed, *left)
    apart: tuple[Relation, float] = (">", NORMS_DIFFER) if breach else ("<", NORMS_AGREE)
    yield Measurement(
        named("Theorem 1.2", breach),
        place,
        model,
        "augmented",
        name,
        "| |Pi_L grad R_aug| - |Pi_E grad R| | / |Pi_E grad R|, the largest along these steps",
        worst,
        *apart,
    )
    if breach:
        return
    for i, (point, _) in enumerate(descend(risk, start, 0.0, step)):
        if i == STEPS:
            away = coordinates.distance(point)
            break
    yield Measurement("Theorem 1.1", place, model, "nominal", name, quantity, away, ">", LEAVES)


def stationary(settled: Settled) -> Measurement:
    """A stationary point of the equivariant flow is one of the augmented flow."""
    gradient = settled.risk.augmented().gradient(settled.point)
    return settled.measured(
        "Theorem 1.2",
        "II-C, Theorem 1",
        "|Pi_L grad R_aug| where the equivariant flow stands still",
        float(gradient.norm()),
        "<",
        STATIONARY,
    )


def theorem_2(settled: Settled) -> Iterator[Measurement]:
    """The spectrum is that of the two blocks, so that E-stability is only half of stability."""
    place = "II-C, Theorem 2"
    whole = block_operator(settled.risk.augmented(), settled.point, "all")
    lowest = float(smallest(whole, 1)[0][0])
    blocks = min(settled.inside, float(settled.mu[0]))
    yield settled.measured(
        "Theorem 2",
        place,
        "smallest eigenvalue of all against the smaller one of the blocks, relative to the largest",
        abs(lowest - blocks) / settled.highest,
        "<",
        SPLITS,
    )
    if settled.mu[0] < 0:
        statement = "Theorem 2: stable in E, unstable for augmented"
        yield settled.measured(
            statement, place, "smallest eigenvalue of hess R_aug on TE", settled.inside, ">", 0.0
        )
        yield settled.measured(
            statement,
            place,
            "mu, its smallest eigenvalue on the complement",
            float(settled.mu[0]),
            "<",
            0.0,
        )


def theorem_2_fails(settled: Settled) -> Measurement:
    """Where the model breaks an assumption, the block's eigenvectors are none of the whole."""
    risk, coordinates = settled.risk.augmented(), settled.risk.coordinates
    count = min(MODES, coordinates.equivariant)
    _, slowest = smallest(block_operator(risk, settled.point, "equivariant"), count)
    hessian = risk.hessian(settled.point)
    mixed = [
        coordinates.split(hessian(coordinates.join(inside=torch.from_numpy(x.copy()))))[1].norm()
        for x in slowest.T
    ]
    return settled.measured(
        named("Theorem 2", settled.risk.model.breach),
        "II-C, Theorem 2",
        f"part off TE of hess R_aug X, X the {count} slowest directions in TE, relative to the "
        "largest eigenvalue",
        float(max(mixed)) / settled.highest,
        ">",
        SPLITS,
    )


def unstable(risk: Risk, found: Spectrum) -> Measurement:
    """E is no attractor of the augmented flow where mu is negative, without a penalty."""
    return Measurement(
        "E need not attract",
        "II-C, after Theorem 2",
        risk.model,
        "augmented",
        found.name,
        "mu, the smallest eigenvalue of hess R_aug on the complement of TE",
        float(found.complement[0]),
        "<",
        0.0,
    )


@dataclass(frozen=True)
class Rates:
    """Measured rates beside predicted ones, and distances over time, for one gamma."""

    gamma: float
    predicted: np.ndarray  # gamma + eigenvalue, (modes,)
    measured: np.ndarray
    steps: np.ndarray  # of a round of descent, after which a distance is recorded
    distances: np.ndarray

    @property
    def times(self) -> np.ndarray:
        """The time at each distance."""
        return np.asarray(self.steps.sum() * np.arange(len(self.distances)))

    def expected(self) -> np.ndarray:
        """What the rate gamma + mu makes of a distance of 1, round by round."""
        factor = np.prod(1 - self.steps * self.predicted[0])
        return np.asarray(factor ** np.arange(len(self.distances)))


def follow(settled: Settled, gamma: float) -> Rates:
    """Train the regularized augmented risk from two perturbations of the point.

    A very small one along the slowest directions, whose components give the rates; a visible one,
    along the slowest and in part random, whose distance is recorded.
    """
    risk, coordinates = settled.risk.augmented(), settled.risk.coordinates
    fastest, slowest = settled.highest + gamma, gamma + float(settled.mu[0])
    step = SWIFT / fastest

    def perturbed(outside: Tensor) -> Tensor:
        return settled.point + coordinates.join(outside=outside)

    followed = np.abs(gamma + settled.mu).max()
    fitted = int(np.clip(FITTED_FOLDS / (followed * step), 4, FITTED_STEPS))
    start = perturbed(SMALL * settled.directions.sum(1))
    components = [
        (coordinates.split(point)[1] @ settled.directions).numpy()
        for point, _ in itertools.islice(descend(risk, start, gamma, step), fitted)
    ]
    slopes = np.polyfit(np.arange(fitted), np.log(np.abs(components)), 1)[0]

    anywhere = unit(random_tensor("perturbation", coordinates.complement))
    start = perturbed(VISIBLE * unit(settled.directions[:, 0] + 0.3 * anywhere))
    steps = swift_steps(slowest, fastest)
    rounds = math.ceil(min(FOLDS / abs(float(settled.mu[0])), settled.longest * step) / sum(steps))
    distances = [
        coordinates.distance(point)
        for point, _ in itertools.islice(
            descend(risk, start, gamma, *steps), 0, rounds * len(steps) + 1, len(steps)
        )
    ]
    return Rates(
        gamma,
        gamma + settled.mu,
        (1 - np.exp(slopes)) / step,
        np.array(steps),
        np.array(distances),
    )


def theorem_3(settled: Settled, rates: list[Rates]) -> Iterator[Measurement]:
    """Small perturbations decay at the rate gamma + mu, so that E attracts where gamma > -mu."""
    statement, place = "Theorem 3", "III, Theorem 3"
    for rate in rates:
        error = np.abs(rate.measured - rate.predicted).max() / abs(settled.mu[0])
        yield settled.measured(
            statement,
            place,
            f"|measured rate - (gamma + eigenvalue)| / |mu|, the worst of the {MODES} slowest",
            float(error),
            "<",
            RATE,
            gamma=rate.gamma,
        )
        ratio = float(rate.distances[-1] / rate.distances[0])
        if rate.gamma > settled.critical:
            yield settled.measured(
                statement,
                place,
                "distance at the end over what gamma + mu makes of that at the start",
                ratio / float(rate.expected()[-1]),
                "<",
                1 + RATE,
                gamma=rate.gamma,
            )
        elif rate.gamma < settled.critical:
            yield settled.measured(
                statement,
                place,
                "distance at the end over that at the start, gamma below the critical one",
                ratio,
                ">",
                1.0,
                gamma=rate.gamma,
            )


def theorem_3_fails(settled: Settled) -> Measurement:
    """With the largest gamma, where the model breaks an assumption: a push out of E remains."""
    gamma = settled.gammas[-1]
    rate = follow(settled, gamma)
    return settled.measured(
        named("Theorem 3", settled.risk.model.breach),
        "III, Theorem 3",
        "distance at the end over what gamma + mu makes of that at the start",
        float(rate.distances[-1] / rate.distances[0] / rate.expected()[-1]),
        ">",
        1 + RATE,
        gamma=gamma,
    )


@dataclass(frozen=True)
class Plateau:
    """Where the nominal flow levels off, for one gamma: measured and predicted at its A_E."""

    gamma: float
    measured: float
    predicted: float
    bound: float
    error: float  # |Y - predicted Y| / |Y|
    settled: float  # relative change of the distance in the last quarter


def level(settled: Settled, gamma: float, mu: float, highest: float) -> Plateau:
    """Train the regularized nominal risk from the point until it levels off.

    mu: the smallest eigenvalue of the nominal Hessian on the complement there; highest: the largest
    of all. Predicted at the part in E where the flow arrived.
    """
    risk, coordinates = settled.risk, settled.risk.coordinates
    step = 1 / (highest + gamma)
    count = min(int(SETTLING / (gamma + mu) / step) + 1, LONGEST)
    distances = []
    for point, _ in itertools.islice(descend(risk, settled.point, gamma, step), count):
        distances.append(coordinates.distance(point))
        final = point
    inside, outside = coordinates.split(final)
    at = coordinates.join(inside=inside)
    predicted = plateau(risk, at, gamma)
    lowest = float(smallest(block_operator(risk, at, "complement"), 1, ROUGH)[0][0])
    push = coordinates.split(risk.gradient(at))[1].norm()
    return Plateau(
        gamma,
        float(outside.norm()),
        float(predicted.norm()),
        float(push) / (gamma + lowest),
        float((outside - predicted).norm() / outside.norm()),
        abs(1 - distances[-len(distances) // 4] / distances[-1]),
    )


def plateaus(settled: Settled) -> tuple[float, list[Plateau]]:
    """mu' of the nominal risk, and where its flow levels off over gammas."""
    mu = float(smallest(block_operator(settled.risk, settled.point, "complement"), 1)[0][0])
    highest = float(largest(block_operator(settled.risk, settled.point, "all"), 1)[0])
    return mu, [level(settled, factor * abs(mu), mu, highest) for factor in PLATEAU_FACTORS]


def remark_1(settled: Settled, mu: float, levels: list[Plateau]) -> Iterator[Measurement]:
    """mu' <= mu; the nominal distance levels off where the push and gamma + mu' balance.

    That the level solves the linear system is an estimate of ours, to first order in Y: how far it
    reaches is measured, and is no statement of the paper.
    """
    statement, place = "Remark 1", "III, Remark 1"
    ours, first_order = "Limits of our estimate", "ours, of Remark 1's level"
    yield settled.measured(
        statement,
        place,
        "mu - mu', relative to |mu'|",
        (float(settled.mu[0]) - mu) / abs(mu),
        ">",
        -SPLITS,
    )
    for found in levels:
        yield settled.measured(
            ours,
            first_order,
            "|Y - predicted Y| / |Y|, by the linear system",
            found.error,
            "<",
            PLATEAU,
            "nominal",
            found.gamma,
        )
        yield settled.measured(
            statement,
            place,
            "|Y| over the simple bound |Pi_E-perp grad R| / (gamma + mu')",
            found.measured / found.bound,
            "<",
            1.0,
            "nominal",
            found.gamma,
        )
        yield settled.measured(
            statement,
            place,
            "change of the nominal distance in the last quarter of its flow, relative",
            found.settled,
            "<",
            SETTLED,
            "nominal",
            found.gamma,
        )
    nearer, further = levels[-1], levels[-2]
    order = np.log(nearer.error / further.error) / np.log(nearer.measured / further.measured)
    yield settled.measured(
        ours,
        first_order,
        "order in |Y| of |Y - predicted Y| / |Y|, from the two largest gammas",
        float(order),
        ">",
        FIRST_ORDER,
        "nominal",
    )


def remark_2(settled: Settled) -> Iterator[Measurement]:
    """Near a strict minimum in E the regularized augmented flow converges to it.

    gamma = 2 max(0, -mu) makes the Hessian positive definite; followed from a random perturbation
    in TL until the slowest direction has shrunk by exp(-5), or for ``longest`` steps.
    """
    risk, coordinates = settled.risk.augmented(), settled.risk.coordinates
    gamma = 2 * settled.critical
    slowest = min(settled.inside, gamma + float(settled.mu[0]))
    fastest = settled.highest + gamma
    start = settled.point + VISIBLE * unit(random_tensor("neighbour", coordinates.dimension))
    steps = swift_steps(slowest, fastest)
    rounds = math.ceil(min(5 / slowest, settled.longest / fastest) / sum(steps))
    count = rounds * len(steps)
    for point, _ in itertools.islice(descend(risk, start, gamma, *steps), count + 1):
        final = point
    ratio = float((final - settled.point).norm() / (start - settled.point).norm())
    statement, place = "Remark 2", "III, Remark 2"
    yield settled.measured(
        statement,
        place,
        "smallest eigenvalue of the regularized Hessian",
        slowest,
        ">",
        0.0,
        gamma=gamma,
    )
    yield settled.measured(
        statement,
        place,
        "distance to the minimum at the end over exp(-slowest rate t) times that at the start",
        ratio / float(np.exp(-slowest * sum(steps) * rounds)),
        "<",
        1 + RATE,
        gamma=gamma,
    )
