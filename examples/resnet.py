"""torchvision's ResNet-18, adapted to invariance under quarter turns, on Fashion-MNIST.

Images are resized to 33 x 33 pixels: there each stride of the network divides the grid evenly, so
that equivariant weights make an exactly invariant function. At 32 x 32 they do not, and equireg
says so.

    python -m equireg fetch --name fashion-mnist --output results/data/fashion-mnist.safetensors \
        --sums workflow/checksums.txt
    python examples/resnet.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

import equireg
from equireg.dataset import load_dataset
from equireg.settings import NetworkSettings

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--data", type=Path, default=Path("results/data/fashion-mnist.safetensors"))
parser.add_argument("--images", type=int, default=4000, help="of the training set")
parser.add_argument("--gamma", type=float, default=1.0)
options = parser.parse_args()

torch.manual_seed(0)
data = load_dataset(options.data, NetworkSettings())


def resized(images: Tensor) -> Tensor:
    """(count, 1, 28, 28) of uint8 to (count, 3, 33, 33)."""
    pixels = F.interpolate(images / 255, size=33, mode="bilinear")
    return pixels.expand(-1, 3, -1, -1)


images, labels = data.train_images[: options.images], data.train_labels.long()
test_images, test_labels = resized(data.test_images[:500]), data.test_labels[:500].long()

model = torchvision.models.resnet18(num_classes=10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
eq = equireg.Equivariance(model, "C4", resized(images[:2]))
random = torch.Generator().manual_seed(0)


@torch.no_grad()
def report(when: str) -> None:
    model.eval()
    turned = eq.augment(test_images, torch.Generator().manual_seed(1))
    accuracy = (model(turned).argmax(1) == test_labels).float().mean()
    error = eq.error(test_images)
    print(
        f"{when}: distance to E {eq.distance().total:.2g}, error {error.relative:.2g}, predictions "
        f"that a turn changes {error.changed:.1%}, accuracy on turned images {accuracy:.1%}",
        flush=True,
    )
    model.train()


report("at the start")
for batch in torch.randperm(len(images), generator=random).split(32):
    x = eq.augment(resized(images[batch]), random)
    loss = F.cross_entropy(model(x), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    eq.add_penalty_gradients_(options.gamma)  # as gamma / 2 * eq.penalty() in the loss, faster
    optimizer.step()
report("trained")
eq.project_()
report("projected")
