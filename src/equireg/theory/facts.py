"""Lemma 3.11 of [10], Facts A and B, and the zero directions of cross entropy, checked.

Where a model breaks an assumption on purpose (``Model.breach``), the statement that needs it is to
fail.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from equireg.theory.measurement import Measurement
from equireg.theory.models import Breach, Model
from equireg.theory.risks import Coordinates, Risk
from equireg.theory.symmetry import random_tensor

LEMMA = 1e-10  # relative error
FACT_A = 1e-10
FACT_B = 1e-9
VIOLATED = 1e-3  # a relative error above this is no rounding


def named(name: str, breach: Breach | None) -> str:
    """``Fact A``, or ``Fact A fails for labels that are not turned``."""
    return f"{name} fails for {breach.what}" if breach else name


def lemma(risk: Risk, point: Tensor, name: str) -> Measurement:
    """grad R_aug(A) = mean over g of rho(g)^-1 grad R(rho(g) A), for any A; in all entries.

    Taken with g^-1 in place of g, term by term what moving the data by g does: so it holds for the
    rule that stands for a compact group, too, whose elements need not include their inverses.
    """
    model, weights = risk.model, risk.coordinates.weights(point)
    found = risk.augmented().weight_gradient(weights)
    mean = {layer: torch.zeros_like(weight) for layer, weight in weights.items()}
    for element, share in model.each_element():
        gradient = risk.weight_gradient(model.act(model.group.inverse(element), weights))
        for layer, part in model.act(element, gradient).items():
            mean[layer] += share * part
    broken = model.breach if model.breach and model.breach.of_lemma else None
    return Measurement(
        named("Lemma 3.11", broken),
        "[10], Lemma 3.11",
        model,
        "augmented",
        name,
        "|grad R_aug(A) - mean rho(g)^-1 grad R(rho(g) A)| / |grad R_aug(A)|",
        relative_difference(found, mean),
        ">" if broken else "<",
        VIOLATED if broken else LEMMA,
    )


def relative_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """|found - expected| / |found|, of all layers together."""
    error = sum(float((found[name] - expected[name]).square().sum()) for name in found)
    size = sum(float(part.square().sum()) for part in found.values())
    return float((error / size) ** 0.5)


def fact_a(risk: Risk, point: Tensor, name: str) -> Measurement:
    """Pi_L grad R_aug(A) = Pi_E grad R(A) for A in E; false where the model has a breach."""
    coordinates, breach = risk.coordinates, risk.model.breach
    found = risk.augmented().gradient(point)
    expected = coordinates.join(inside=coordinates.split(risk.gradient(point))[0])
    return Measurement(
        named("Fact A", breach),
        "II-C, Fact A",
        risk.model,
        "augmented",
        name,
        "|Pi_L grad R_aug(A) - Pi_E grad R(A)| / |Pi_E grad R(A)|",
        float((found - expected).norm() / expected.norm()),
        ">" if breach else "<",
        VIOLATED if breach else FACT_A,
    )


def nominal_push(risk: Risk, point: Tensor, name: str) -> Measurement:
    """Pi_{E-perp} grad R(A) does not vanish for A in E: Fact A is one of the augmented risk."""
    inside, outside = risk.coordinates.split(risk.gradient(point))
    return Measurement(
        "Remark 1",
        "III, Remark 1",
        risk.model,
        "nominal",
        name,
        "|Pi_E-perp grad R(A)| / |Pi_E grad R(A)|, A in E",
        float(outside.norm() / inside.norm()),
        ">",
        VIOLATED,
    )


def fact_b(risk: Risk, point: Tensor, name: str) -> Measurement:
    """<hess R_aug(A) X, Y> = 0 for A in E, X in TE, Y in its complement.

    Measured for a random X of norm 1 and the worst Y of norm 1, against |hess R_aug(A) X|. False
    where the model has a breach.
    """
    coordinates, breach = risk.coordinates, risk.model.breach
    x = unit(random_tensor("X", coordinates.equivariant))
    image = risk.augmented().hessian(point)(coordinates.join(inside=x))
    crossed = coordinates.split(image)[1].norm() / image.norm()
    return Measurement(
        named("Fact B", breach),
        "III, Fact B",
        risk.model,
        "augmented",
        name,
        "max over Y of <hess R_aug(A) X, Y> / |hess R_aug(A) X|",
        float(crossed),
        ">" if breach else "<",
        VIOLATED if breach else FACT_B,
    )


def orbit_of_hessians(risk: Risk, point: Tensor, name: str) -> Measurement:
    """<hess R_aug(A) Y, Y> = mean over g of <hess R(A) rho(g) Y, rho(g) Y> for A in E."""
    coordinates, model = risk.coordinates, risk.model
    y = coordinates.join(outside=unit(random_tensor("Y", coordinates.complement)))
    found = float(y @ risk.augmented().hessian(point)(y))
    product, direction = risk.hessian(point), coordinates.direction(y)
    terms, mean = [], 0.0
    for element, share in model.each_element():
        z = coordinates.of(model.act(element, direction))
        terms.append(float(z @ product(z)))
        mean += share * terms[-1]
    return Measurement(
        "Remark 1",
        "III, Remark 1, from [10], Lemma 3.11",
        model,
        "augmented",
        name,
        "<hess R_aug Y, Y> against the mean of <hess R rho(g) Y, rho(g) Y>, relative",
        abs(found - mean) / max(map(abs, terms)),
        "<",
        LEMMA,
    )


def zero_directions(risk: Risk, point: Tensor, name: str) -> Measurement:
    """The Hessian's exact zeros: the same vector added to all rows of the last layer.

    Measured on a random one in the complement of TE.
    """
    coordinates, model = risk.coordinates, risk.model
    y = unit(null_direction(coordinates, model))
    image = risk.augmented().hessian(point)(y)
    return Measurement(
        "Zero directions",
        "cross entropy",
        model,
        "augmented",
        name,
        "|hess R_aug(A) Y|, Y the same in every class, |Y| = 1",
        float(image.norm()),
        "<",
        FACT_B,
    )


def null_direction(coordinates: Coordinates, model: Model) -> Tensor:
    """A random vector in the complement of TE that cross entropy does not see."""
    last = list(model.spaces)[-1]
    weights = {layer: torch.zeros(space.shape) for layer, space in model.spaces.items()}
    weights = {layer: weight.double() for layer, weight in weights.items()}
    shape = model.spaces[last].shape
    # The rows are the classes: the first axis of a filter bank, the third of a plain matrix.
    axis = 0 if shape[0] > 1 else 2
    row = random_tensor("zero direction", *(1 if i == axis else n for i, n in enumerate(shape)))
    weights[last] = row.expand(shape).contiguous()
    return coordinates.join(outside=coordinates.split(coordinates.of(weights))[1])


def unit(x: Tensor) -> Tensor:
    """x / |x|."""
    return x.div(x.norm())


def all_facts(risk: Risk, points: dict[str, Tensor]) -> Iterator[Measurement]:
    """Every statement of this module at points of E."""
    for name, point in points.items():
        coordinates = risk.coordinates
        away = unit(random_tensor("away from E", coordinates.complement))
        away = point + coordinates.join(outside=0.1 * point.norm() * away)
        yield lemma(risk, point, name)
        yield lemma(risk, away, f"{name}, moved off E")
        yield fact_a(risk, point, name)
        yield fact_b(risk, point, name)
        if risk.model.breach is None:
            yield orbit_of_hessians(risk, point, name)
            yield nominal_push(risk, point, name)
            if risk.model.output.is_trivial:
                yield zero_directions(risk, point, name)
