"""The networks that the theory is checked on, with the spaces of their layers.

Inputs, outputs and targets are flat vectors, each moved by a representation. Here are the paper's
network and a multilayer perceptron on the adjacency matrices of graphs, as in the first experiments
of [10], whose outputs the group leaves as they are; ``wider`` has those that need all of the
paper's assumptions: equivariant outputs, affine layers, compact groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.randomness import generator
from equireg.settings import NetworkSettings, Support
from equireg.symmetry.groups import Elements, Group, symmetric
from equireg.symmetry.representations import Representation, defining, grid, trivial
from equireg.symmetry.spaces import Space, hom
from equireg.training.network import Network

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Breach:
    """An assumption of the paper that a model breaks on purpose.

    what: "labels that are not turned"; of_lemma: whether Lemma 3.11 needs it too. It needs an
    invariant loss and functions that commute; Fact A also that Pi_L, the offset and the mean over
    the group are as they should be.
    """

    what: str
    of_lemma: bool


LOPSIDED = Breach("a lopsided support", of_lemma=False)


@dataclass(frozen=True, eq=False)
class Model:
    """An architecture L = A_0 + TL, and a group G.

    input, output, target: what acts on inputs, on the network's outputs and on what the loss
    compares them with; spaces: TL = TE + TE-perp of each layer; forward: the outputs (count,
    entries) from weights, ``space.shape`` each, and inputs (count, entries); loss: of outputs and
    targets, (count,); start: a seed's random weights in E, by the law of the experiment. offsets:
    A_0 of the layers that are affine, orthogonal to TL. degree: up to which the mean over a compact
    group is exact for the matrix entries of representations.
    """

    network: str
    input: Representation
    output: Representation
    target: Representation
    support: Support
    spaces: Mapping[str, Space]
    forward: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    loss: Loss
    start: Callable[[int], dict[str, Tensor]]
    offsets: Mapping[str, Tensor] = field(default_factory=dict)
    degree: int = 0
    breach: Breach | None = None

    @property
    def group(self) -> Group:
        """The group G."""
        return self.input.group

    @functools.cached_property
    def elements(self) -> tuple[Elements, Tensor]:
        """The elements of the mean over the group, and their weights, of sum 1: all, if finite."""
        elements, shares = self.group.quadrature(self.degree)
        return elements, torch.from_numpy(shares)

    def each_element(self) -> list[tuple[Elements, float]]:
        """The same one by one."""
        elements, shares = self.elements
        return [(elements[i : i + 1], share) for i, share in enumerate(shares.tolist())]

    def orbit(self, rho: Representation, x: Tensor) -> Tensor:
        """Every row moved by every element, (count * elements, entries), a row's side by side."""
        elements, _ = self.elements
        moved = rho.act_each(elements, x.expand(len(elements), *x.shape))
        return moved.transpose(0, 1).flatten(0, 1)

    def act(self, element: Elements, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """rho(g) A, that is rho_out(g) A rho_in(g)^-1 for each layer."""
        return {name: space.act(element, weights[name]) for name, space in self.spaces.items()}


def cross_entropy(classes: int) -> Loss:
    """The mean cross entropy of an input's targets, each a class, from so many outputs each."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        entropy = F.cross_entropy(outputs.reshape(-1, classes), targets.flatten(), reduction="none")
        return entropy.view(targets.shape).mean(1)

    return loss


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """|y - target|^2 / 2, invariant under orthogonal representations."""
    return (outputs - targets).square().sum(1) / 2


def convolutional(settings: NetworkSettings) -> Model:
    """The paper's network: the group moves the pixels of its images."""
    network = Network.of(settings)
    image = settings.image_channels, settings.image_size, settings.image_size

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        runs = {name: weight.unsqueeze(0) for name, weight in weights.items()}
        return network.forward(runs, inputs.view(1, -1, *image)).squeeze(0)

    channels, pixels = trivial(network.group, image[0]), grid(network.group, image[1])
    return Model(
        "convolutional",
        channels * pixels,
        trivial(network.group, settings.classes),
        trivial(network.group),
        settings.support,
        network.spaces,
        forward,
        cross_entropy(settings.classes),
        lambda seed: network.initial(seed, "gaussian"),
        breach=LOPSIDED if settings.support == "lopsided" else None,
    )


def perceptron(nodes: int, channels: Sequence[int], classes: int) -> Model:
    """Linear layers and tanh on graphs' adjacency matrices; S_n renames the nodes.

    Hidden spaces are copies of the inputs': each channel a matrix of nodes x nodes. L holds all
    linear layers.
    """
    group = symmetric(nodes)
    pairs = defining(group) * defining(group)
    signals = [pairs, *(count * pairs for count in channels), trivial(group, classes)]
    spaces = {f"linear{i}": hom(*signals[i - 1 : i + 1]) for i in range(1, len(signals))}

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        x = inputs
        for i, name in enumerate(spaces):
            x = (torch.tanh(x) if i else x) @ weights[name].mT
        return x

    return Model(
        "perceptron",
        pairs,
        signals[-1],
        trivial(group),
        "full",
        spaces,
        forward,
        cross_entropy(classes),
        functools.partial(normal_start, spaces),
    )


def normal_start(spaces: Mapping[str, Space], seed: int) -> dict[str, Tensor]:
    """Weights in E, each entry of L standard normal before it is projected."""
    return {
        name: space.project(
            torch.from_numpy(generator(seed, "initial weights", name).standard_normal(space.shape))
        )
        for name, space in spaces.items()
    }


def graphs(nodes: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random graphs as flat adjacency matrices, and whether they are connected.

    Nodes come in no random order: edges among the first are more probable, so that the nominal
    risk is not the augmented one.
    """
    random = generator(seed, "graphs")
    weight = np.linspace(1.2, 0.4, nodes)
    edges = np.triu(random.random((count, nodes, nodes)) < np.outer(weight, weight) * 0.6, 1)
    adjacency = (edges | edges.mT).astype(float)
    reach = np.linalg.matrix_power(np.eye(nodes) + adjacency, nodes)
    connected = (reach > 0).all((1, 2))
    labels = torch.from_numpy(connected.astype(np.int64)).unsqueeze(1)
    return torch.from_numpy(adjacency).flatten(1), labels
