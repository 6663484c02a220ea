"""Networks projected onto E: their weights, and what batch normalization keeps beside them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from equireg.built import network_of
from equireg.settings import NetworkSettings
from equireg.training.modules import ModuleNetwork
from equireg.training.projected import BATCH, projected

NETWORK = """
import torch
from torch import nn
import equireg

def network():
    layers = [nn.Conv2d(1, 8, 3, bias=False), equireg.FieldBatchNorm(8, 4), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return {"module": model, "representations": "regular"}
"""


def held_by(network: ModuleNetwork, seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Runs that begin in E, and are moved off it."""
    random = torch.Generator().manual_seed(0)
    each = [network.initial(seed, "gaussian") for seed in seeds]
    held = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    for name in network.spaces:
        held[name] = held[name].float() + torch.randn(held[name].shape, generator=random)
    return held


def test_statistics_are_those_of_the_projected_weights(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(NETWORK)
    network = network_of(NetworkSettings(build=f"{file}:network", image_size=9))
    assert isinstance(network, ModuleNetwork)
    held = held_by(network, (3, 4))
    kept = {name: x.clone() for name, x in held.items()}
    images = torch.rand(30 * BATCH, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    found = projected(network, held, images)
    assert all(torch.equal(held[name], kept[name]) for name in held)
    for run in range(2):
        for name, space in network.spaces.items():
            assert space.distance(found[name][run : run + 1]).max() < 1e-5
        out = torch.nn.functional.conv2d(images, found["0.weight"][run])
        fields = out.unflatten(1, (2, 4))
        mean = fields.mean((0, 2, 3, 4)).repeat_interleave(4)
        variance = fields.var((0, 2, 3, 4)).repeat_interleave(4)
        # what is left of the old ones is 0.9^30, and batches differ
        assert torch.allclose(found["1.running_mean"][run], mean, rtol=0.1, atol=0.05)
        assert torch.allclose(found["1.running_var"][run], variance, rtol=0.1, atol=0.05)
    assert not torch.equal(found["1.running_var"][0], found["1.running_var"][1])


def test_without_buffers_no_images_are_asked_for() -> None:
    network = network_of(NetworkSettings())
    random = torch.Generator().manual_seed(0)
    held = {n: torch.randn(2, *s.shape, generator=random) for n, s in network.spaces.items()}
    found = projected(network, held, torch.empty(0))
    for name, space in network.spaces.items():
        assert torch.allclose(found[name], space.project(held[name].double()).float())
