"""A small network for MNIST, made invariant to quarter turns: three lines of the loop do it.

    python -m equireg fetch --name mnist --output results/data/mnist.safetensors \
        --sums workflow/checksums.txt
    python examples/three_lines.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import equireg
from equireg.dataset import load_dataset
from equireg.settings import NetworkSettings

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, default=Path("results/data/mnist.safetensors"))
parser.add_argument("--images", type=int, default=30_000, help="of the training set")
parser.add_argument("--gamma", type=float, default=1.0)
options = parser.parse_args()

torch.manual_seed(0)
data = load_dataset(options.data, NetworkSettings())
images = data.train_images[: options.images] / 255
labels = data.train_labels[: options.images].long()
test_images, test_labels = (
    data.test_images[:1000] / 255,
    data.test_labels[:1000].long(),
)

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
    nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
)  # fmt: skip
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

# Regular channels: the group permutes them, so that filters can see orientations.
regular = {"0": (None, "regular"), "3": (None, "regular")}
eq = equireg.Equivariance(model, "C4", images[:2], regular)  # 1
random = torch.Generator().manual_seed(0)


def report(when: str) -> None:
    turned = eq.augment(test_images, torch.Generator().manual_seed(1))
    accuracy = (model(turned).argmax(1) == test_labels).float().mean()
    error = eq.error(test_images)
    print(
        f"{when}: distance to E {eq.distance().total:.2g}, error {error.relative:.2g}, predictions "
        f"that a turn changes {error.changed:.1%}, accuracy on turned digits {accuracy:.1%}"
    )


report("at the start")
for batch in torch.randperm(len(images), generator=random).split(32):
    x = eq.augment(images[batch], random)  # 2
    loss = F.cross_entropy(model(x), labels[batch])
    loss = loss + options.gamma / 2 * eq.penalty()  # 3
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
report("trained")
eq.project_()
report("projected")
