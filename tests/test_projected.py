"""Networks projected onto E: their weights, and what batch normalization keeps beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.built import network_of
from equireg.settings import NetworkSettings
from equireg.training.batches import subsets
from equireg.training.modules import DRAWS, ModuleNetwork
from equireg.training.projected import projected

NETWORK = """
import torch
from torch import nn
import equireg

def network():
    norm = equireg.FieldBatchNorm(8, 4, momentum=MOMENTUM)
    layers = [nn.Conv2d(1, 8, 3, bias=False), norm, nn.ReLU()]
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


@pytest.mark.parametrize(
    ("momentum", "count", "images"),
    [("0.1", None, 3000), ("0.01", 450, 500), ("None", 60, 500), ("0.1", 301, 400)],
)
def test_statistics_are_those_of_the_projected_weights(
    tmp_path: Path, momentum: str, count: int | None, images: int
) -> None:
    """On images of the run's own alone, whatever was kept before and in what order they lie."""
    file = tmp_path / "net.py"
    file.write_text(NETWORK.replace("MOMENTUM", momentum))
    network = network_of(NetworkSettings(build=f"{file}:network", image_size=9))
    assert isinstance(network, ModuleNetwork)
    seeds = (3, 4)
    held = held_by(network, seeds)
    held["1.running_var"] += 50
    held["1.num_batches_tracked"] += 2000
    kept = {name: x.clone() for name, x in held.items()}
    pixels = torch.rand(images, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    pixels *= torch.linspace(0.1, 2, images).view(-1, 1, 1, 1)  # sorted by brightness
    found = projected(network, held, seeds, pixels, count)
    assert all(torch.equal(held[name], kept[name]) for name in held)
    assert found.keys() == held.keys()
    assert torch.equal(found["1.num_batches_tracked"], kept["1.num_batches_tracked"])
    assert torch.equal(found[DRAWS], kept[DRAWS])
    for run in range(2):
        for name, space in network.spaces.items():
            assert space.distance(found[name][run : run + 1]).max() < 1e-5
        own = subsets(seeds, images, count)[run] if count else torch.arange(images)
        fields = F.conv2d(pixels[own], found["0.weight"][run]).unflatten(1, (2, 4))
        mean = fields.mean((0, 2, 3, 4)).repeat_interleave(4)
        variance = fields.var((0, 2, 3, 4)).repeat_interleave(4)
        # means of batches alike in size are the whole's; variances but for the batches' means
        assert torch.allclose(found["1.running_mean"][run], mean, rtol=0.01, atol=0.01)
        assert torch.allclose(found["1.running_var"][run], variance, rtol=0.02)
    assert not torch.equal(found["1.running_var"][0], found["1.running_var"][1])
    again = projected(network, held, seeds[::-1], pixels, count)
    assert count is None or not torch.equal(found["1.running_var"], again["1.running_var"])


def test_without_statistics_no_images_are_asked_for() -> None:
    network = network_of(NetworkSettings())
    random = torch.Generator().manual_seed(0)
    held = {n: torch.randn(2, *s.shape, generator=random) for n, s in network.spaces.items()}
    found = projected(network, held, (0, 1), torch.empty(0))
    for name, space in network.spaces.items():
        assert torch.allclose(found[name], space.project(held[name].double()).float())
