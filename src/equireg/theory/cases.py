"""The networks, data and points on which the statements are measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from equireg.dataset import Dataset
from equireg.randomness import generator
from equireg.settings import ORDERS, NetworkSettings, Support
from equireg.spelling import spell_gamma
from equireg.symmetry.compact import rotations
from equireg.tables import open_parquet
from equireg.theory.models import convolutional, graphs, perceptron
from equireg.theory.risks import Risk
from equireg.theory.wider import (
    COARSE,
    ENTRYWISE,
    OUTSIDE,
    UNTURNED,
    affine,
    halved,
    ink,
    regular_channels,
    segmentation,
    tensors,
    vector_pairs,
)
from equireg.weights import load_weights

TURNED = 256  # images that the flows see, counting every turn
# Steps of an augmented flow, at most, by what a step takes: of the paper's network, the perceptron.
LONGEST, LONGEST_SMALL = 600, 4000
FACTS = 2  # times as many for the statements at single points
STIFFNESS = 10.0  # of the anchor that holds the part in E of the paper's network
NODES, CHANNELS, GRAPHS, DECAY = 5, (2, 2), 64, 1e-2  # the perceptron's
IMAGES, PAIRS, LONGEST_WIDER = 8, 8, 300  # data of the wider cases, steps of their flows
SUPPORTS: tuple[Support, ...] = ("full", "cross", "lopsided")


@dataclass(frozen=True, eq=False)
class Case:
    """A network with its risks and points.

    facts: the nominal risk for statements at single points; points: coordinates in E, by name.
    flow, start: the nominal risk whose equivariant flow settles near ``start``; None where flows
    are not followed. longest: steps of an augmented flow from there, at most. wider: whether it is
    a case for one assumption of the paper, which the remarks and the figures leave out; small:
    whether third derivatives are affordable, for Theorem 3 at a finite distance.
    """

    facts: Risk
    points: dict[str, Tensor]
    flow: Risk | None = None
    start: Tensor | None = None
    longest: int = 0
    wider: bool = False
    small: bool = False


def convolutional_cases(
    settings: NetworkSettings, dataset: Dataset, blocks: Sequence[Path]
) -> list[Case]:
    """The paper's network on a random subset of the training images: first as it is configured.

    Then, with the facts alone, on the other supports, a lopsided one among them. blocks: parquets
    of trained runs of this network, their weights beside them. Raises ValueError for a group of
    one element, whose E is all of L.
    """
    order = ORDERS[settings.group]
    if order == 1:
        raise ValueError(f"group is {settings.group!r}; accepted: one with more elements than one")
    count = FACTS * TURNED // order
    inputs, labels = sample(dataset, count)

    cases = []
    others = [s for s in SUPPORTS if s != settings.support and settings.kernel_size > 1]
    for support in (settings.support, *others):
        changed = dataclasses.replace(settings, support=support, allow_incompatible_support=True)
        model = convolutional(changed)
        risk = Risk(model, inputs, labels)
        points = {"random": risk.coordinates.of(model.start(0))}
        if support != settings.support or support == "lopsided":
            cases.append(Case(risk, points))
            continue
        for block in blocks:
            name, point = trained(block, risk)
            points[name] = point
        start = list(points.values())[min(1, len(blocks))]
        few = slice(0, count // FACTS)
        inside = risk.coordinates.split(start)[0]
        flow = Risk(model, inputs[few], labels[few], anchor=inside, stiffness=STIFFNESS)
        cases.append(Case(risk, points, flow, start, LONGEST))
    return cases


def sample(dataset: Dataset, count: int) -> tuple[Tensor, Tensor]:
    """The first ``count`` training images of a fixed random order, flat, and their classes."""
    chosen = generator(0, "theory", "images").permutation(len(dataset.train_labels))[:count]
    images = dataset.train_images[chosen].flatten(1).double() / 255
    return images, dataset.train_labels[chosen].long().unsqueeze(1)


def trained(block: Path, risk: Risk) -> tuple[str, Tensor]:
    """The name and the part in E of the final weights of a block's first seed."""
    with open_parquet(block, ["mode", "gamma", "seed"]) as file:
        first = file.read_row_group(0, columns=["mode", "gamma", "seed"]).slice(0, 1).to_pylist()[0]
    path = block.with_suffix(".safetensors")
    weights, _ = load_weights(path, [first["seed"]], risk.model.spaces)
    point = risk.coordinates.of({n: weights[n][0].double() for n in risk.model.spaces})
    penalty = "" if first["gamma"] is None else f", gamma {spell_gamma(first['gamma'])}"
    name = f"trained, {first['mode']}{penalty}, seed {first['seed']}"
    return name, risk.coordinates.join(inside=risk.coordinates.split(point)[0])


def perceptron_case() -> Case:
    """The perceptron on random graphs, with weight decay: its minima in E are strict."""
    model = perceptron(NODES, CHANNELS, classes=2)
    risk = Risk(model, *graphs(NODES, GRAPHS, seed=0))
    start = risk.coordinates.of(model.start(0))
    flow = dataclasses.replace(risk, decay=DECAY)
    return Case(risk, {"random": start}, flow, start, LONGEST_SMALL, small=True)


def wider_cases(settings: NetworkSettings, dataset: Dataset) -> list[Case]:
    """What the paper allows beyond its experiment, each beside a twin that breaks an assumption.

    Equivariant outputs, channels that the group moves, affine layers, and SO(2) and SO(3).
    """
    images, labels = sample(dataset, IMAGES)
    small = halved(images, settings.image_size)
    kinds = ink(small, settings.image_channels)
    found = [
        *(Risk(segmentation(settings, breach), small, kinds) for breach in (None, UNTURNED)),
        Risk(regular_channels(settings), images, labels),
    ]
    if settings.kernel_size > 1:
        found.append(Risk(regular_channels(settings, lopsided=True), images, labels))
        found += [Risk(affine(settings, breach), images, labels) for breach in (None, OUTSIDE)]
    for dimension in (2, 3):
        group = rotations(dimension)
        for breach in (None, ENTRYWISE, COARSE):
            model = tensors(group, breach)
            found.append(Risk(model, *vector_pairs(model, PAIRS)))
    return [wider_case(risk) for risk in found]


def wider_case(risk: Risk) -> Case:
    """Statements at a random point of E, and flows held near it by the anchor."""
    start = risk.coordinates.of(risk.model.start(0))
    inside = risk.coordinates.split(start)[0]
    flow = dataclasses.replace(risk, anchor=inside, stiffness=STIFFNESS)
    return Case(risk, {"random": start}, flow, start, LONGEST_WIDER, wider=True, small=True)
