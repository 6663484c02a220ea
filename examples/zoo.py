"""Which models of timm and torchvision the library follows without being told anything.

Of each model: accepted, accepted with warnings, or refused and why; and, after ``project_``, how
far the model itself is from invariant under C4, in double precision on turned images, with weights
rescaled layer by layer so that signals survive the depth. Needs timm, which this project does not
install: ``pip install timm``, then ``python examples/zoo.py vit_tiny_patch16_224 swin_t``; without
names, the smallest models of all families, which takes an hour on one core.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

import equireg

TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "maxvit_t"),
    *("mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16"),
)


def make(name: str) -> tuple[nn.Module, int]:
    """A model with random weights, and the side of its images."""
    import torchvision

    if name in TORCHVISION:
        options = {"init_weights": False} if name == "googlenet" else {}
        return getattr(torchvision.models, name)(**options), 224
    import timm

    model = timm.create_model(name)
    return model, model.default_cfg["input_size"][-1]


def families() -> Iterator[str]:
    """The smallest model of each family of timm, and the models of torchvision."""
    import timm

    for module in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=module):
            with torch.device("meta"):
                sizes[name] = sum(p.numel() for p in timm.create_model(name).parameters())
        yield min(sizes, key=lambda name: sizes[name])
    yield from TORCHVISION


def rescale(model: nn.Module, images: Tensor) -> None:
    """Set weights so that every convolution and linear layer keeps the variance of its signal."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        scale = output.std().clamp_min(1e-12)
        layer.get_parameter("weight").data /= scale
        return output / scale

    layers = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    hooks = [layer.register_forward_hook(hook) for layer in layers]
    with torch.no_grad():
        model(images)
    for one in hooks:
        one.remove()


def error(model: nn.Module, images: Tensor) -> float:
    """The largest change of the outputs by a turn, relative to how they vary over images."""
    with torch.no_grad():
        plain = model(images)
        spread = (plain - plain.mean(0)).norm() / len(plain) ** 0.5
        turned = [model(images.rot90(k, (2, 3))) for k in (1, 2, 3)]
    return max(float((x - plain).norm() / len(plain) ** 0.5 / spread) for x in turned)


def judge(name: str) -> str:
    """One row of the table."""
    torch.manual_seed(0)
    model, side = make(name)
    model.eval().double()
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            eq = equireg.Equivariance(model, "C4", images)
        except ValueError as refusal:
            return f"| {name} | {side} | refused | | {str(refusal).splitlines()[0]} |"
    rescale(model, images)
    eq.project_()
    said = "; ".join(str(w.message).splitlines()[-1].strip() for w in caught)
    return f"| {name} | {side} | accepted | {error(model, images):.1e} | {said} |"


def main() -> None:
    print("| model | pixels | | error | |\n| --- | --- | --- | --- | --- |")
    for name in sys.argv[1:] or families():
        print(judge(name), flush=True)


if __name__ == "__main__":
    main()
