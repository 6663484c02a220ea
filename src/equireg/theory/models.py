"""The networks that the theory is checked on, with the spaces of their layers.

Inputs are flat vectors that the group permutes, outputs carry the trivial representation. Two
networks: the paper's, and a multilayer perceptron on the adjacency matrices of graphs, as in the
first experiments of [10].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equireg.randomness import generator
from equireg.settings import NetworkSettings, Support
from equireg.symmetry.groups import Group, symmetric
from equireg.symmetry.representations import Representation, defining, grid, trivial
from equireg.symmetry.spaces import Space, hom
from equireg.training.network import Network


@dataclass(frozen=True, eq=False)
class Model:
    """An architecture L, and a group G that permutes the entries of its inputs.

    input: how it permutes them; spaces: TL = TE + TE-perp of each layer; forward: the logits
    (count, classes) from weights, ``space.shape`` each, and inputs (count, entries); start: a
    seed's random weights in E, by the law of the experiment.
    """

    network: str
    input: Representation
    support: Support
    spaces: Mapping[str, Space]
    forward: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    start: Callable[[int], dict[str, Tensor]]

    @property
    def group(self) -> Group:
        """The group G."""
        return self.input.group

    def orbit(self, inputs: Tensor) -> Tensor:
        """Every input moved by every element, (count * order, entries), an input's side by side."""
        each = [self.input.act(element, inputs) for element in range(self.group.order)]
        return torch.stack(each, 1).flatten(0, 1)

    def act(self, element: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """rho(g) A, that is rho_out(g) A rho_in(g)^-1 for each layer."""
        return {name: space.act(element, weights[name]) for name, space in self.spaces.items()}


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
        settings.support,
        network.spaces,
        forward,
        lambda seed: network.initial(seed, "gaussian"),
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

    def start(seed: int) -> dict[str, Tensor]:
        return {
            name: space.project(
                torch.from_numpy(
                    generator(seed, "initial weights", name).standard_normal(space.shape)
                )
            )
            for name, space in spaces.items()
        }

    return Model("perceptron", pairs, "full", spaces, forward, start)


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
    return torch.from_numpy(adjacency).flatten(1), torch.from_numpy(connected.astype(np.int64))
