"""Any architecture is refused, warned of, or exact once its weights are projected: never silent.

Architectures are drawn at random, some with a function that breaks the symmetry. The judge is the
model itself: projected, its weights scaled so that signals survive the depth, in double precision
on turned samples.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equireg import FieldBatchNorm
from equireg.library.equivariance import Equivariance
from equireg.randomness import generator
from equireg.symmetry.groups import point_group

ARCHITECTURES, BATCHES = 240, 8  # in so many tests
EXACT = 1e-8


class Function(nn.Module):
    def __init__(self, name: str, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.name, self.function = name, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.as_tensor(self.inner(x))


class Head(nn.Module):
    """The end of a network: what it returns, and how."""

    def __init__(self, kind: str, width: int, pixels: int, output: str) -> None:
        super().__init__()
        self.kind, self.output = kind, output
        if kind == "map":
            self.last: nn.Module = nn.Conv2d(width, 2, 1)
        else:
            self.last = nn.Linear(width if kind == "pooled" else width * pixels, 3)

    def forward(self, x: Tensor) -> object:
        if self.kind == "pooled":
            x = x.mean((2, 3))
        elif self.kind == "flat":
            x = x.flatten(1)
        x = self.last(x)
        return {"dict": {"out": x}, "tuple": (x, None), "tensor": x}[self.output]


def ramp(x: Tensor) -> Tensor:
    return x + torch.linspace(-1, 1, x.shape[-1]).to(x)


def some(x: Tensor) -> Tensor:
    """Treats the first channel otherwise than the rest: right where channels are not moved."""
    return torch.cat([x[:, :1].tanh(), x[:, 1:]], 1)


def corners(x: Tensor) -> list[Tensor]:
    return [x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)]


BREAKING: dict[str, Callable[[Tensor], Tensor]] = {
    "flipped": lambda x: x.flip(3),  # which breaks nothing, as the next two
    "transposed": lambda x: x.transpose(2, 3),
    "every other pixel": lambda x: (
        F.pixel_unshuffle(x, 2) if x.shape[2] % 2 else torch.cat(corners(x), 1)
    ),
    "ramp": ramp,
    "rolled": lambda x: x.roll(1, 2),
    "summed up": lambda x: x.cumsum(3) / x.shape[3],
    "masked": lambda x: x.tril(),
    "one side": lambda x: F.pad(x, (1, 0, 1, 0)),
    "cut": lambda x: x[:, :, 1:, 1:],
    "weighted": lambda x: x * torch.arange(1.0, x.shape[2] + 1).to(x)[:, None],
    "some channels": some,
    "shifted channels": lambda x: x + torch.arange(x.shape[1]).to(x)[:, None, None],
    "softmax of rows": lambda x: x.softmax(3),
    "halves": lambda x: torch.where(x > 0, x, x.flip(2)),
    "sorted": lambda x: x.sort(3).values,
    "strided": lambda x: x[:, :, ::2, ::2],
    "to a size": lambda x: F.interpolate(x, size=(7, 7)),
}


def pick(random: np.random.Generator, *options: object) -> object:
    return options[int(random.integers(len(options)))]


def chosen(random: np.random.Generator, *options: int) -> int:
    return options[int(random.integers(len(options)))]


def body(random: np.random.Generator, order: int, colors: int, regular: bool) -> list[nn.Module]:
    """Convolutions of changing widths and strides, with what is put between them."""
    layers: list[nn.Module] = []
    width = colors
    for _ in range(chosen(random, 1, 2, 3, 5)):
        out = chosen(random, 1, 2, 3) * (order if regular else 2)
        kernel = chosen(random, 1, 2, 3, 3, 3, 4, 5)
        stride, padding = chosen(random, 1, 1, 1, 1, 2), chosen(random, 0, kernel // 2)
        same = kernel % 2 and stride == 1 and out == width and random.random() < 0.5
        conv = nn.Conv2d(width, out, kernel, stride, kernel // 2 if same else padding)
        layers.append(Residual(conv) if same else conv)
        width = out
        norm = chosen(random, 0, 0, 1, 2, 3)
        if norm == 1:
            layers.append(FieldBatchNorm(width, order) if regular else nn.BatchNorm2d(width))
        elif norm == 2:
            layers.append(nn.GroupNorm(1, width))
        elif norm == 3:
            layers.append(nn.InstanceNorm2d(width))
        layers.append((nn.ReLU(), nn.Tanh(), nn.GELU())[chosen(random, 0, 1, 2)])
        pool = chosen(random, 0, 0, 0, 0, 1, 2, 3)
        if pool:
            layers.append(
                (nn.AvgPool2d(2), nn.MaxPool2d(3, 2, 1), nn.Upsample(scale_factor=2))[pool - 1]
            )
    return layers


def drawn(index: int) -> tuple[nn.Module, str, Tensor, dict[str, object], str]:
    """A network, a group, an example, options, and the name of what breaks it, or ""."""
    random = generator(0, "architecture", index)
    torch.manual_seed(index)
    name = ("C2", "C4", "C4", "D4", "D2")[chosen(random, 0, 1, 2, 3, 4)]
    regular, side = bool(random.random() < 0.5), chosen(random, 9, 12, 13, 16, 17)
    order, colors = point_group(name).order, chosen(random, 1, 3)
    layers = body(random, order, colors, regular)
    breaks = ""
    if random.random() < 0.5:
        breaks = str(pick(random, *BREAKING))
        layers.insert(int(random.integers(len(layers) + 1)), Function(breaks, BREAKING[breaks]))
    example = torch.zeros(2, colors, side, side)
    network = nn.Sequential(*layers)
    with torch.no_grad():
        width, *space = network.eval()(example).shape[1:]
    head = Head(
        str(pick(random, "pooled", "flat", "map")),
        width,
        math.prod(space),
        str(pick(random, "tensor", "tensor", "dict", "tuple")),
    )
    if random.random() < 0.2:
        torch.nn.init.zeros_(next(head.parameters()))
    network.append(head)
    options: dict[str, object] = {"representations": "regular"} if regular else {}
    return network.train(), name, example, options, breaks


def judged(model: nn.Module, eq: Equivariance, example: Tensor) -> float:
    """The error of the projected model, relative to the deviation of its outputs."""
    model.double().eval()
    random = torch.Generator().manual_seed(0)
    batch = torch.randn(4, *example.shape[1:], generator=random, dtype=torch.float64)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
    with torch.no_grad():
        for layer in (*layers, *norms):
            for p in layer.parameters():
                p.normal_(generator=random)
        eq.project_()
        for layer in layers:
            if layer.bias is not None:
                layer.bias.mul_(0.1)

            def keep(module: nn.Module, args: object, out: Tensor) -> Tensor:
                scale = 1 / (out - out.mean()).square().mean().sqrt().clamp(min=1e-30)
                for p in module.parameters():
                    p.mul_(scale)
                return out * scale

            hook = layer.register_forward_hook(keep)
            model(batch)
            hook.remove()
    assert eq.distance().total < 1e-8 * (
        1 + sum(float(p.detach().norm()) for p in model.parameters())
    )
    return eq.error(batch).deviating


@pytest.mark.parametrize("part", range(BATCHES))
def test_no_architecture_is_silently_wrong(part: int) -> None:
    outcomes: Counter[str] = Counter()
    for index in range(part, ARCHITECTURES, BATCHES):
        try:
            model, group, example, options, breaks = drawn(index)
        except (RuntimeError, ValueError):  # the image is too small for the network
            outcomes["none"] += 1
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                eq = Equivariance(model, group, example, **options)  # type: ignore[arg-type]
            except ValueError:
                outcomes["refused"] += 1
                continue
        if caught:
            outcomes["warned"] += 1
            continue
        error = judged(model, eq, example)
        assert error < EXACT or math.isnan(error), (index, group, breaks, error, model)
        outcomes["exact"] += 1
    assert outcomes["exact"] >= 4
    assert outcomes["warned"] >= 4
    assert outcomes["refused"] + outcomes["none"] < 12
