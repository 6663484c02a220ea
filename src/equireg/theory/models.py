"""The networks that the theory is checked on, with the spaces of their layers.

Inputs are flat vectors that the group permutes, outputs carry the trivial representation, and every
layer is a ``LayerSpace``. Two networks: the paper's, and a multilayer perceptron on the adjacency
matrices of graphs, as in the first experiments of [10].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equireg.jobs.initialize import draw_equivariant
from equireg.randomness import generator
from equireg.settings import Support
from equireg.symmetry.groups import Group, grid_permutations, symmetric
from equireg.symmetry.projections import LayerSpace
from equireg.symmetry.representations import Representation, defining, hom, trivial
from equireg.training.network import Network


@dataclass(frozen=True, eq=False)
class Model:
    """An architecture L, and a group G that permutes the entries of its inputs.

    layers: their spaces; permutations: (order, entries) with ``(rho(g) x) = x[permutations[g]]``;
    forward: the logits (count, classes) from weights, ``layer.shape`` each, and inputs
    (count, entries); start: a seed's random weights in E, by the law of the experiment.
    """

    network: str
    group: Group
    support: Support
    layers: Mapping[str, LayerSpace]
    permutations: np.ndarray
    forward: Callable[[Mapping[str, Tensor], Tensor], Tensor]
    start: Callable[[int], dict[str, Tensor]]

    def moved(self, inputs: Tensor) -> Tensor:
        """Every input moved by every element, (count * order, entries), an input's side by side."""
        return inputs[:, torch.from_numpy(self.permutations)].flatten(0, 1)

    def act(self, element: int, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """rho(g) A, that is rho_out(g) A rho_in(g)^-1 for each layer."""
        return {
            name: weights[name].flatten(-2)[..., space.permutations[element]].view(space.shape)
            for name, space in self.layers.items()
        }


def convolutional(network: Network) -> Model:
    """The paper's network: the group moves the pixels of its images."""
    settings, side = network.settings, network.settings.image_size

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        runs = {name: weight.unsqueeze(0) for name, weight in weights.items()}
        return network.forward(runs, inputs.view(1, -1, side, side)).squeeze(0)

    def start(seed: int) -> dict[str, Tensor]:
        return {
            name: draw_equivariant(space, name, seed, "gaussian")
            for name, space in network.layers.items()
        }

    permutations = grid_permutations(network.group.elements, side)
    return Model(
        "convolutional",
        network.group,
        settings.support,
        network.layers,
        permutations,
        forward,
        start,
    )


def perceptron(nodes: int, channels: Sequence[int], classes: int) -> Model:
    """Linear layers and tanh on graphs' adjacency matrices; S_n renames the nodes.

    Hidden spaces are copies of the inputs': each channel a matrix of nodes x nodes. L holds all
    linear layers.
    """
    group = symmetric(nodes)
    pairs = defining(group) * defining(group)
    signals = [pairs, *(count * pairs for count in channels), trivial(group, classes)]
    layers = {f"linear{i}": linear_space(*signals[i - 1 : i + 1]) for i in range(1, len(signals))}

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        x = inputs
        for i, name in enumerate(layers):
            x = (torch.tanh(x) if i else x) @ weights[name][0, 0].mT
        return x

    def start(seed: int) -> dict[str, Tensor]:
        return {
            name: space.project_equivariant(
                torch.from_numpy(
                    generator(seed, "initial weights", name).standard_normal(space.shape)
                )
            )
            for name, space in layers.items()
        }

    assert pairs.permutations is not None
    return Model("perceptron", group, "full", layers, pairs.permutations, forward, start)


def linear_space(rho_in: Representation, rho_out: Representation) -> LayerSpace:
    """All linear maps from one permutation representation to another, as the space of a layer."""
    joint = (rho_out * rho_in).permutations
    assert joint is not None
    equivariant = hom(rho_in, rho_out).basis().reshape(-1, joint.shape[1]).T
    rotation, _ = np.linalg.qr(equivariant, mode="complete")
    complement = rotation[:, equivariant.shape[1] :]
    shape = (1, 1, rho_out.size, rho_in.size)
    bases = (torch.from_numpy(np.ascontiguousarray(basis)) for basis in (equivariant, complement))
    return LayerSpace(shape, joint, *bases)


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
