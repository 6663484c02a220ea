"""Which models of timm and torchvision the library follows without being told anything.

Of each model: accepted, accepted with warnings, or refused and why; and, after ``project_``, how
far the model itself is from invariant under C4, in double precision on turned images, with weights
rescaled layer by layer so that signals survive the depth. Needs timm, which this project does not
install: ``pip install timm``, then ``python examples/zoo.py vit_tiny_patch16_224 swin_t``; without
names, the smallest models of all families, which takes some hours on one core. ``--into FILE`` adds
the rows to a file and leaves out the models that are in it; ``--once`` judges a model at one size
alone, its own or the one that a warning names; ``--list`` only names the models.
"""

from __future__ import annotations

import argparse
import copy
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import equireg

TORCHVISION = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "maxvit_t"),
    *("mnasnet0_5", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "shufflenet_v2_x0_5"),
    *("squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16"),
)
WORKING = re.compile(r"images of (\d+) x \d+ pixels work")


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


def judge(name: str, once: bool) -> str:
    """One row of the table: at the model's own size, and at the one that a warning names."""
    torch.manual_seed(0)
    model, side = make(name)
    model.eval()
    fresh = copy.deepcopy(model)
    try:
        off, said = tried(model, side, once)
    except ValueError as refusal:
        return f"| {name} | {side} | refused | | | {line(str(refusal))} |"
    there = ""
    if size := WORKING.search(said):
        there = f"{tried(fresh, int(size[1]))[0]:.1e} at {size[1]}"
    own = "" if off is None else f"{off:.1e}"
    return f"| {name} | {side} | accepted | {own} | {there} | {line(said)} |"


def tried(model: nn.Module, side: int, once: bool = False) -> tuple[float | None, str]:
    """The projected model's error at this size, and what was warned of.

    once: not where a warning names another size.
    """
    images = torch.randn(2, 3, side, side)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        eq = equireg.Equivariance(model, "C4", images)
    said = "; ".join(str(w.message) for w in caught if issubclass(w.category, UserWarning))
    if once and WORKING.search(said):
        return None, said
    model.double()
    images = images.double()
    rescale(model, images)
    eq.project_()
    return error(model, images), said


def line(text: str) -> str:
    """A message as one cell."""
    return re.sub(r"\s+", " ", text).replace("|", "/")[:400]


def main() -> None:
    parser = argparse.ArgumentParser(description="which models are followed, and how exactly")
    parser.add_argument("names", nargs="*", help="of timm or torchvision; all families if none")
    parser.add_argument("--into", type=Path, help="a file for the rows, gone on with if it exists")
    parser.add_argument("--once", action="store_true", help="judge at one size alone")
    parser.add_argument("--list", action="store_true", help="only name the models")
    options = parser.parse_args()
    held = options.into.read_text() if options.into and options.into.exists() else ""
    done = set(re.findall(r"^\| (\S+) \|", held, re.MULTILINE))
    for name in options.names or families():
        if options.list:
            print(name, flush=True)
            continue
        if name in done:
            continue
        try:
            row = judge(name, options.once)
        except Exception as failure:  # the model itself fails, or the library does: both are rows
            row = f"| {name} | | failed | | | {type(failure).__name__}: {line(str(failure))} |"
        print(row, flush=True)
        if options.into:
            with options.into.open("a") as file:
                file.write(f"{row}\n")


if __name__ == "__main__":
    main()
