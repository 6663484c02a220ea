"""The network: what it computes, and its invariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from equireg.training.start import draw_equivariant
from equireg.settings import NetworkSettings, Support
from equireg.symmetry.groups import GENERATORS
from equireg.training.batches import turned
from equireg.training.network import Network


def random_weights(network: Network, runs: int) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(runs, *space.shape, dtype=torch.float64, generator=random)
        for name, space in network.layers.items()
    }


def random_images(count: int, size: int) -> torch.Tensor:
    pixels = np.random.default_rng(0).integers(256, size=(count, size, size), dtype=np.uint8)
    return torch.from_numpy(pixels)


def test_the_papers_network_written_out() -> None:
    network = Network(NetworkSettings())
    weights = random_weights(network, 3)
    images = random_images(6, 28).view(3, 2, 28, 28) / 255.0
    logits = network.forward(weights, images.double())
    for run in range(3):
        x = images[run, :, None].double()
        for name in ("conv1", "conv2"):
            x = F.avg_pool2d(F.conv2d(x, weights[name][run], padding=1), 2)
            x = F.layer_norm(torch.tanh(x), x.shape[-2:], eps=1e-5)
        expected = F.linear(x.flatten(1), weights["linear"][run].flatten(1))
        assert torch.allclose(logits[run], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("support", ["full", "cross", "lopsided"])
@pytest.mark.parametrize("group", GENERATORS)
def test_equivariant_networks_are_invariant(group: str, support: Support) -> None:
    network = Network(
        NetworkSettings(group=group, support=support, allow_incompatible_support=True)
    )
    weights = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in (0, 1)])
        for name, space in network.layers.items()
    }
    pixels = turned(random_images(4, 28), network.group.elements).view(1, -1, 28, 28) / 255.0
    logits = network.forward(weights, pixels.double().expand(2, -1, -1, -1))
    per_image = logits.view(2, 4, network.group.order, 10)
    assert (per_image - per_image[:, :, :1]).abs().max() < 1e-12


def test_a_network_off_e_is_not_invariant() -> None:
    network = Network(NetworkSettings())
    pixels = turned(random_images(4, 28), network.group.elements).view(1, -1, 28, 28) / 255.0
    logits = network.forward(random_weights(network, 1), pixels.double())
    per_image = logits.view(4, 4, 10)
    assert (per_image - per_image[:, :1]).abs().max() > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (NetworkSettings(image_size=30), "image_size is 30; accepted: multiples of 4"),
        (NetworkSettings(kernel_size=4), "kernel_size is 4; accepted: odd"),
        (NetworkSettings(channels=()), r"channels are \[\]"),
        (NetworkSettings(group="C3"), "group is 'C3'"),
        (NetworkSettings(support="lopsided"), "compatibility condition"),
    ],
)
def test_refused(settings: NetworkSettings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Network(settings)


@pytest.mark.parametrize("channels", [(4,), (3, 5), (2, 3, 4)])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_other_shapes(channels: tuple[int, ...], kernel_size: int) -> None:
    network = Network(NetworkSettings(channels=channels, kernel_size=kernel_size, image_size=24))
    images = torch.rand(2, 3, 24, 24, dtype=torch.float64)
    assert network.forward(random_weights(network, 2), images).shape == (2, 3, 10)
