"""Theorem 3 at a finite distance, and where its assumptions (ii) and (iii) hold.

About E, with third derivatives of R_aug bounded by M in the directions Y of the complement, the
theorem's proof says, for distances |Y| up to epsilon,

    d/dt |Y|^2 / 2 <= -(gamma + mu) |Y|^2 + M / 2 |Y|^3,

so that gamma > M epsilon / 2 - mu suffices: no start within epsilon leaves, and |Y| falls from the
start at a rate of gamma + mu - M epsilon / 2 at least. mu and M are estimated here: mu is the
lowest of the points of E that were looked at, M the largest of some directions' ascent, so that the
true ones are no better. The points are those where the part in E travels in flows like the ones
that are then measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equireg.theory.facts import named, unit
from equireg.theory.flows import descend
from equireg.theory.measurement import Measurement
from equireg.theory.risks import Risk
from equireg.theory.spectrum import ROUGH, block_operator, smallest
from equireg.theory.symmetry import random_tensor
from equireg.theory.theorems import Settled

# Fixed before anything was measured.
REACHES = (0.02, 0.1)  # epsilon, in units of the norm of the part in E
SPARE = 0.5  # what gamma is above the sufficient bound, in units of |mu|
DIRECTIONS = 8  # starts in random directions; beside the slowest and the most curved, both ways
ASCENTS, CLIMBS = 3, 6  # of the third derivative: from so many directions, so many steps
ALONG = (-1.0, 0.0, 1.0)  # where on the tube it is taken, in units of epsilon
FOLDS, LONGEST = 1, 60  # flows last until exp(-FOLDS) is guaranteed, or for so many steps
MOVED = 0.5  # how far from the settled point the starts' part in E is, in units of epsilon
NEAR = 0.01  # below -mu: the start's distance, in units of epsilon
STEP = 0.5  # in units of 1 / the largest eigenvalue
ROUNDING = 1e-9
SCALES = (1.0, 10.0, 100.0)  # of the last layer
SEEN = 16  # data on which that is measured: it fails for any


def third_derivative(risk: Risk, point: Tensor, direction: Tensor) -> Tensor:
    """D^3 R(A)[u, u, .] for u in TL, (dim TL,)."""
    leaf = point.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(risk.value(leaf), leaf, create_graph=True)
    (bent,) = torch.autograd.grad(gradient @ direction, leaf, create_graph=True)
    (found,) = torch.autograd.grad(bent @ direction, leaf)
    return found


def steepest(
    risk: Risk, centre: Tensor, starts: Sequence[Tensor], epsilon: float
) -> tuple[float, Tensor]:
    """The largest |D^3 R[u, u, u]| that was met, and its u of norm 1 in the complement.

    From each start u <- D^3 R[u, u, .] at ``centre``, normalized; then along the line that u spans,
    up to ``epsilon``.
    """
    coordinates = risk.coordinates
    best, found = 0.0, starts[0]
    for u in starts:
        for _ in range(CLIMBS):
            climbed = third_derivative(risk, centre, coordinates.join(outside=u))
            u = unit(coordinates.split(climbed)[1])
        direction = coordinates.join(outside=u)
        for share in ALONG if epsilon else (0.0,):
            point = centre + share * epsilon * direction
            value = abs(float(third_derivative(risk, point, direction) @ direction))
            if value > best:
                best, found = value, u
    return best, found


@dataclass(frozen=True)
class Tube:
    """What was sampled within epsilon of a path in E: mu and M, and where they were met.

    lowest, curved: the directions of mu and of M in the complement's coordinates, of norm 1; at:
    the point of E where mu was met.
    """

    epsilon: float
    mu: float
    lowest: Tensor
    at: Tensor
    third: float
    curved: Tensor

    @classmethod
    def about(cls, risk: Risk, centres: Sequence[Tensor], epsilon: float) -> Tube:
        """risk: the augmented one; centres: points of E."""
        size = risk.coordinates.complement
        drawn = [unit(random_tensor(f"ascent {i}", size)) for i in range(ASCENTS - 1)]
        low: list[tuple[float, Tensor, Tensor]] = []
        curved: list[tuple[float, Tensor]] = []
        for centre in centres:
            values, vectors = smallest(block_operator(risk, centre, "complement"), 1, ROUGH)
            lowest = torch.from_numpy(vectors[:, 0].copy())
            low.append((float(values[0]), lowest, centre))
            curved.append(steepest(risk, centre, [lowest, *drawn], epsilon))
        return cls(epsilon, *min(low, key=lambda x: x[0]), *max(curved, key=lambda x: x[0]))

    @property
    def sufficient(self) -> float:
        """The gamma above which no start within epsilon leaves, by the theorem's proof."""
        return max(0.0, self.third * self.epsilon / 2 - self.mu)

    @property
    def gamma(self) -> float:
        """A gamma somewhat above it."""
        return self.sufficient + SPARE * abs(self.mu)

    @property
    def rate(self) -> float:
        """At which |Y| then falls, at least."""
        return self.gamma + self.mu - self.third * self.epsilon / 2


@dataclass(frozen=True)
class Flow:
    """The regularized augmented flow from one start, at a distance epsilon."""

    furthest: float  # the largest distance to E, in units of the start's
    slowest: float  # the smallest -d/dt log |Y|
    ends: Tensor  # the part in E where it ended


def flow(settled: Settled, start: Tensor, gamma: float, rate: float) -> Flow:
    """Follow it until exp(-rate t) has made the distance exp(-FOLDS) of what it was."""
    risk, coordinates = settled.risk.augmented(), settled.risk.coordinates
    step = STEP / (settled.highest + gamma)
    count = min(int(FOLDS / (rate * step)) + 1, LONGEST)
    distances, rates = [], []
    for point, gradient in itertools.islice(descend(risk, start, gamma, step), count):
        y, push = coordinates.split(point)[1], coordinates.split(gradient)[1]
        distances.append(float(y.norm()))
        rates.append(gamma + float(push @ y) / distances[-1] ** 2)
    ends = coordinates.join(inside=coordinates.split(point)[0])
    return Flow(max(distances) / distances[0], min(rates), ends)


def at_a_distance(settled: Settled) -> Iterator[Measurement]:
    """Starts at epsilon in many directions: none leaves, and all fall at the rate that is said."""
    size = float(settled.point.norm())
    for reach in REACHES:
        yield from within(settled, reach * size)


def leaves(settled: Settled) -> Measurement:
    """Where the model breaks an assumption, a start near E leaves, whatever the bound says."""
    augmented, coordinates = settled.risk.augmented(), settled.risk.coordinates
    epsilon = REACHES[0] * float(settled.point.norm())
    tube = Tube.about(augmented, [settled.point], epsilon)
    start = settled.point + coordinates.join(outside=NEAR * epsilon * tube.lowest)
    found = flow(settled, start, tube.gamma, tube.rate)
    return settled.measured(
        named("Theorem 3 at a finite distance", settled.risk.model.breach),
        "III, Theorem 3",
        f"largest distance over that at the start, {NEAR * epsilon:.2g} from E",
        found.furthest,
        ">",
        1 + ROUNDING,
        gamma=tube.gamma,
    )


def within(settled: Settled, epsilon: float) -> Iterator[Measurement]:
    """The same for one epsilon, with starts whose part in E is not the settled one.

    gamma is chosen twice: from the tube about that part, and from one that covers the places to
    which it travels in flows with the first gamma.
    """
    augmented, coordinates = settled.risk.augmented(), settled.risk.coordinates
    aside = unit(random_tensor("part in E", coordinates.equivariant))
    centre = settled.point + coordinates.join(inside=MOVED * epsilon * aside)
    tube = Tube.about(augmented, [centre], epsilon)
    pilots = flows(settled, centre, tube, 0)
    end = max((f.ends for f in pilots), key=lambda x: float((x - centre).norm()))
    tube = Tube.about(augmented, [centre, end], epsilon)
    found = flows(settled, centre, tube, DIRECTIONS)
    name = f"within {epsilon:.2g} of E"
    place, statement = "III, Theorem 3", "Theorem 3 at a finite distance"

    def measured(
        quantity: str, value: float, relation: str, tolerance: float, gamma: float | None
    ) -> Measurement:
        return settled.measured(
            statement, place, f"{quantity}, {name}", value, relation, tolerance, gamma=gamma
        )

    yield measured(
        f"largest distance over that at the start, of {len(found)} directions",
        max(f.furthest for f in found),
        "<",
        1 + ROUNDING,
        tube.gamma,
    )
    yield measured(
        f"slowest rate over gamma + mu - M epsilon / 2, mu = {tube.mu:.3g} and M = "
        f"{tube.third:.3g} sampled",
        min(f.slowest for f in found) / tube.rate,
        ">",
        1 - ROUNDING,
        tube.gamma,
    )
    travelled = max(float((f.ends - centre).norm()) for f in found)
    yield measured("the part in E travels, over epsilon", travelled / epsilon, "<", 1.0, tube.gamma)
    if tube.mu < 0:
        yield measured(
            "gap: the sufficient gamma over -mu", tube.sufficient / -tube.mu, ">", 1.0, None
        )
        below = -tube.mu / 2
        start = tube.at + coordinates.join(outside=NEAR * epsilon * tube.lowest)
        away = flow(settled, start, below, -tube.mu / 2)
        yield measured(
            f"largest distance over that at the start, {NEAR:g} epsilon along the lowest "
            "eigenvector, gamma = -mu / 2",
            away.furthest,
            ">",
            1.0,
            below,
        )


def flows(settled: Settled, centre: Tensor, tube: Tube, drawn: int) -> list[Flow]:
    """From epsilon in the slowest and the most curved direction, and in random ones, both ways."""
    coordinates = settled.risk.coordinates
    chosen = [tube.lowest, tube.curved]
    chosen += [unit(random_tensor(f"start {i}", coordinates.complement)) for i in range(drawn // 2)]
    starts = [
        centre + coordinates.join(outside=sign * tube.epsilon * unit(u))
        for u in chosen
        for sign in (1, -1)
    ]
    return [flow(settled, start, tube.gamma, tube.rate) for start in starts]


def assumptions(risk: Risk, point: Tensor, name: str) -> Iterator[Measurement]:
    """Assumptions (ii) and (iii) on all of E: a larger last layer makes mu and M worse.

    Cross entropy of s times the same outputs has second and third derivatives that grow with s, so
    that no bound holds for all of E, and Theorem 3 speaks of a neighbourhood here.
    """
    few = replace(risk.plain(), inputs=risk.inputs[:SEEN], targets=risk.targets[:SEEN])
    augmented, coordinates = few.augmented(), risk.coordinates
    last = list(risk.model.spaces)[-1]
    first: tuple[float, float] | None = None
    for scale in SCALES:
        weights = coordinates.direction(point)
        weights[last] = scale * weights[last]
        there = coordinates.of(weights)
        values, vectors = smallest(block_operator(augmented, there, "complement"), 1, ROUGH)
        lowest = torch.from_numpy(vectors[:, 0].copy())
        starts = [lowest, unit(random_tensor("ascent", coordinates.complement))]
        mu, third = float(values[0]), steepest(augmented, there, starts, 0.0)[0]
        if first is None:
            first = mu, third
            continue
        where = f"with the last layer times {scale:g}, against it as it is"
        for title, quantity, value, relation, bound in (
            ("(ii)", "mu", mu, "<", first[0]),
            ("(iii)", "the largest third derivative met", third, ">", first[1]),
        ):
            assert relation in ("<", ">")
            yield Measurement(
                f"Assumption {title} has no bound on all of E",
                f"III, assumption {title}",
                risk.model,
                "augmented",
                name,
                f"{quantity} {where}",
                value,
                "<" if relation == "<" else ">",
                bound,
            )
