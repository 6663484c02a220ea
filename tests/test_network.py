"""The network: what it computes, and its invariance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import images, initial
from equireg.settings import NetworkSettings, Support
from equireg.symmetry.groups import GENERATORS
from equireg.training.batches import turned
from equireg.training.network import Network


def random_weights(network: Network, runs: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(runs, *space.shape, dtype=torch.float64, generator=random)
        for name, space in network.spaces.items()
    }


def every_turn(network: Network, channels: int = 1, side: int = 28) -> Tensor:
    """Four images in every turn, an image's side by side, as one run's: (1, 4 * order, ...)."""
    table = turned(images(4, side, channels), network.group.elements)
    return table.double().unsqueeze(0) / 255.0


def test_the_papers_network_written_out() -> None:
    network = Network.of(NetworkSettings())
    weights = random_weights(network, 3)
    inputs = images(6, 28).view(3, 2, 1, 28, 28).double() / 255.0
    logits = network.forward(weights, inputs)
    for run in range(3):
        x = inputs[run]
        for name in ("conv1", "conv2"):
            x = F.avg_pool2d(F.conv2d(x, weights[name][run], padding=1), 2)
            x = F.layer_norm(torch.tanh(x), x.shape[-2:], eps=1e-5)
        expected = F.linear(x.flatten(1), weights["linear"][run].flatten(1))
        assert torch.allclose(logits[run], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("support", ["full", "cross", "lopsided"])
@pytest.mark.parametrize("group", GENERATORS)
def test_equivariant_networks_are_invariant(group: str, support: Support) -> None:
    network = Network.of(
        NetworkSettings(group=group, support=support, allow_incompatible_support=True)
    )
    inputs = every_turn(network).expand(2, -1, -1, -1, -1)
    logits = network.forward(initial(network, [0, 1]), inputs)
    per_image = logits.view(2, 4, network.group.order, 10)
    assert (per_image - per_image[:, :, :1]).abs().max() < 1e-12


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("group", ["C2", "C4", "D4"])
def test_fields_of_channels_make_invariant_networks(group: str, channels: int) -> None:
    """Regular channels, of which E has as many dimensions per weight as the group has elements."""
    settings = NetworkSettings(
        group=group, representation="regular", channels=(8, 16), image_channels=channels
    )
    network = Network.of(settings)
    inputs = every_turn(network, channels).expand(2, -1, -1, -1, -1)
    logits = network.forward(initial(network, [0, 1]), inputs)
    per_image = logits.view(2, 4, network.group.order, 10)
    assert (per_image - per_image[:, :, :1]).abs().max() < 1e-12
    assert (per_image[:, 1:, 0] - per_image[:, :1, 0]).abs().max() > 1e-2
    order = network.group.order
    assert network.spaces["conv2"].dims[0] == 16 * 8 * 9 // order


def test_fields_start_with_entries_of_one_variance() -> None:
    """1 / (3 channels in), as in the trivial case: signals keep their size through the depth."""
    settings = NetworkSettings(representation="regular", channels=(64, 64))
    weight = Network.of(settings).initial(0, "gaussian")["conv2"]
    assert weight.var().item() == pytest.approx(1 / (3 * 64), rel=0.05)


def test_a_network_off_e_is_not_invariant() -> None:
    network = Network.of(NetworkSettings())
    logits = network.forward(random_weights(network, 1), every_turn(network))
    per_image = logits.view(4, 4, 10)
    assert (per_image - per_image[:, :1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_size": 30}, "image_size is 30; accepted: multiples of 4 from 8 on"),
        ({"image_size": 4}, "image_size is 4; accepted: multiples of 4 from 8 on"),
        ({"kernel_size": 4}, "kernel_size is 4; accepted: odd"),
        ({"channels": ()}, r"channels is \[\]; accepted: one convolution or more"),
        ({"group": "C3"}, "group is 'C3'; accepted: C1, C2, C4"),
        ({"support": "lopsided"}, "compatibility condition"),
        ({"representation": "regular", "channels": (6, 8)}, "multiples of 4, as a field has"),
    ],
)
def test_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network.of(NetworkSettings(**values))


@pytest.mark.parametrize("channels", [(4,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_other_shapes(channels: tuple[int, ...], kernel_size: int) -> None:
    settings = NetworkSettings(channels=channels, kernel_size=kernel_size, image_size=24)
    network = Network.of(settings)
    inputs = torch.rand(2, 3, 1, 24, 24, dtype=torch.float64)
    assert network.forward(random_weights(network, 2), inputs).shape == (2, 3, 10)
