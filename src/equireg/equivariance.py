"""The paper's method for an ordinary PyTorch model: penalty, projection, augmentation, measure."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equireg.groups import POINT_GROUPS, Group, point_group
from equireg.representations import Representation, check_one_group, trivial
from equireg.tracing import Features, Space, on_grid, trace, working_size

STATISTICS = ("running_mean", "running_var")  # of batch normalization: projected, not penalized


class Distance(NamedTuple):
    """The Euclidean distance of the weights to E, in total and per layer."""

    total: float
    layers: dict[str, float]


class Error(NamedTuple):
    """How far a function is from equivariant on a batch, over all elements but the identity.

    relative: root of the sum of |f(rho_in(g) x) - rho_out(g) f(x)|^2 over that of |f(x)|^2;
    largest: the largest absolute difference of an output; changed: the share of pairs of a sample
    and an element for which the largest channel of the output is another one.
    """

    relative: float
    largest: float
    changed: float


class Equivariance:
    """A group's action on the weights of a model, and what the paper does with it.

    The model's layers are A = (A_1, ..., A_n); E is the space of those with
    rho_out(g) A_i = A_i rho_in(g) for every g (section II). Adding gamma / 2 times ``penalty`` to
    the loss and training on ``augment``-ed batches makes E an attractor (Theorem 3).

    model: of convolutions, Linear, normalization layers and functions without parameters, as it
    is or wrapped by DataParallel or torch.compile; it is not changed. group: the name of a point
    group (such as C4, D4; O for volumes), or a ``Group``. example: a batch, from which shapes are
    inferred. representations: per layer, by its name in ``model.named_modules()``, (input, output),
    each a ``Representation`` on the channels (for a Linear, on its entries), "trivial", "regular",
    or None: inferred (an input from the layers before it, an output trivial); or None instead of
    the pair to leave a layer out. Naming a module without parameters says what acts on its output.
    input: what acts on the example's channels; trivial by default.

    Raises ValueError where it is not known what acts on a layer, naming it and what to pass. Warns
    of layers whose stride or pooling breaks the symmetry of the grid.

    >>> import torch, equireg
    >>> from torch import nn
    >>> filters, pixels = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8 * 4 * 4, 10)
    >>> model = nn.Sequential(filters, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), pixels)
    >>> images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> eq = equireg.Equivariance(model, "C4", images)
    >>> print(eq)
    C4 on 2 layers; dim E 344 of 1352
      0.weight: dim E 24 of 72; trivial(8) * trivial(1) * grid 3 x 3
      4.weight: dim E 320 of 1280; trivial(10) * trivial(8) * grid 4 x 4
    >>> eq.penalty().item() > 0, eq.error(images).relative > 1e-3
    (True, True)
    >>> eq.project_()
    >>> eq.distance().total < 1e-6, eq.error(images).relative < 1e-5
    (True, True)
    """

    def __init__(
        self,
        model: nn.Module,
        group: str | Group,
        example: Tensor,
        representations: Mapping[str, tuple[Any, Any] | None] | None = None,
        *,
        input: Representation | None = None,
    ) -> None:
        bare, prefix = _unwrapped(model)
        if example.ndim < 2:
            raise ValueError(
                f"example has shape {tuple(example.shape)}; accepted: (samples, channels, *pixels)"
            )
        space = tuple(example.shape[2:])
        if isinstance(group, str):
            if len(space) not in POINT_GROUPS:
                raise ValueError(
                    f"example has shape {tuple(example.shape)}; a group by name turns pixels: pass "
                    "images (samples, channels, *pixels), or a Group and its representation input="
                )
            group = point_group(group, len(space))
        channels = input or trivial(group, example.shape[1])
        check_one_group(group, channels.group)
        if channels.size != example.shape[1]:
            raise ValueError(
                f"input is {channels.name}, on {channels.size} entries; example has shape "
                f"{tuple(example.shape)}; accepted: a representation on {example.shape[1]} entries"
            )
        parameter = next(bare.parameters())
        example = example.detach().to(parameter.device)
        if example.is_floating_point():
            example = example.to(parameter.dtype)

        given = {name.removeprefix(prefix): pair for name, pair in (representations or {}).items()}
        self.group, self._model = group, model
        self.input = Features(channels, space)
        _ = self.input.pixels  # refuses a grid that the group does not map to itself
        found = trace(bare, example, self.input, given)
        self.output = found.output
        self._spaces = [space for space in found.spaces if not space.action.is_trivial]
        if not self._spaces:
            raise ValueError(
                f"{group.name} acts trivially on every layer, so that all weights are equivariant; "
                "pass what acts on the channels: input= or representations="
            )
        self.distance()  # makes the constants, which torch.compile could not
        if found.unused:
            warnings.warn(
                f"layers that did not run on the example are left out: {', '.join(found.unused)}",
                stacklevel=2,
            )
        if found.broken:
            side = working_size(bare, example, self.input, given)
            lines = [f"  {layer}: {what}" for layer, what in found.broken.items()]
            remedy = (
                f"images of {' x '.join([str(side)] * len(space))} pixels work for all layers"
                if side
                else "no nearby size of the images works for all layers"
            )
            warnings.warn(
                "layers break the symmetry of the grid, so that symmetric weights do not make the "
                "network symmetric:\n" + "\n".join(lines) + f"\n{remedy}",
                stacklevel=2,
            )

    def __str__(self) -> str:
        """The layers on which the group acts, with the dimensions of E."""
        rows = [
            (f"{s.layer}.{s.parameter}", " * ".join(a.name for a in s.action.axes), s.action)
            for s, _ in self._parameters()
        ]
        total = sum(math.prod(action.shape) for *_, action in rows)
        inside = sum(action.dimension for *_, action in rows)
        lines = [
            f"  {name}: dim E {action.dimension} of {math.prod(action.shape)}; {axes}"
            for name, axes, action in rows
        ]
        layers = len({s.layer for s in self._spaces})
        return "\n".join(
            [f"{self.group.name} on {layers} layers; dim E {inside} of {total}", *lines]
        )

    # The weights

    def penalty(self) -> Tensor:
        """|Pi_{E-perp} A|^2, the squared distance of the weights to E (section II-B); a scalar.

        Differentiable, with gradient 2 Pi_{E-perp} A. Computed in float32 at least, outside of
        autocast. Add gamma / 2 times it to the loss.
        """
        return torch.stack([_squared(space, tensor) for space, tensor in self._parameters()]).sum()

    @torch.no_grad()
    def add_penalty_gradients_(self, gamma: float) -> None:
        """Add gamma Pi_{E-perp} A to the gradients, in place, between ``backward`` and the step.

        The same as gamma / 2 times ``penalty`` in the loss, at about a third of its cost, which
        shows where images are small and layers large. Not for gradients that are still scaled
        (``GradScaler``): unscale them first.
        """
        for space, tensor in self._parameters():
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
            precise = _precise(tensor.grad)
            with torch.autocast(tensor.device.type, enabled=False):
                total, weights = (
                    x.reshape(space.action.shape) for x in (precise, _precise(tensor))
                )
                space.action.add_complement_(total, weights, gamma)
            if total.data_ptr() != tensor.grad.data_ptr():  # a copy: other type or layout
                tensor.grad.copy_(total.reshape(tensor.shape))

    def distance(self) -> Distance:
        """The distance of the weights to E, in total and per layer."""
        layers: dict[str, float] = {}
        with torch.no_grad():
            for space, tensor in self._parameters():
                squared = float(_squared(space, tensor))
                layers[space.layer] = layers.get(space.layer, 0) + squared
        total = math.sqrt(sum(layers.values()))
        return Distance(total, {layer: math.sqrt(d) for layer, d in layers.items()})

    @torch.no_grad()
    def project_(self) -> None:
        """Replace the weights by the nearest equivariant ones, Pi_E A, in place.

        The running statistics of batch normalization are projected with them. Raises ValueError
        for a layer whose weights are computed from others (a parametrization).
        """
        for space in self._spaces:
            tensor = getattr(space.module, space.parameter)
            if not isinstance(tensor, nn.Parameter) and space.parameter not in STATISTICS:
                raise ValueError(
                    f"layer {space.layer!r}: its {space.parameter} is computed from other "
                    "parameters and cannot be projected; remove the parametrization first"
                )
            tensor.copy_(_projected(space, tensor))

    @torch.no_grad()
    def project_gradients_(self) -> None:
        """Replace the gradients by Pi_E of them: after ``backward``, before the optimizer's step.

        With weights in E (``project_``) that is equivariant training, A' = -Pi_E grad R. Plain
        and momentum gradient descent stay in E for every representation, Adam and others that
        work entry by entry for permutations.
        """
        for space, tensor in self._parameters():
            if tensor.grad is not None:
                tensor.grad.copy_(_projected(space, tensor.grad))

    def _parameters(self) -> Iterator[tuple[Space, Tensor]]:
        """Spaces and their parameters as they are now, each parameter once."""
        seen: set[int] = set()
        for space in self._spaces:
            if space.parameter in STATISTICS:
                continue
            tensor = getattr(space.module, space.parameter)
            if id(tensor) not in seen:
                seen.add(id(tensor))
                yield space, tensor

    # The function

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Numbers of Haar-random group elements, (count,), on the generator's device."""
        return torch.randint(
            self.group.order, (count,), generator=generator, device=generator.device
        )

    def act(self, elements: Tensor | int, batch: Tensor) -> Tensor:
        """rho_in(g) x: each sample of ``batch`` moved by its element, or all by the same one."""
        return self._act(self.input, elements, batch)

    def augment(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Each sample moved by its own Haar-random group element, on the device of ``batch``.

        To move targets alike, call ``draw`` and ``act``.
        """
        return self.act(self.draw(len(batch), generator), batch)

    def group_mean(self, loss: Callable[[Tensor], Tensor], batch: Tensor) -> Tensor:
        """The exact mean of ``loss(rho_in(g) batch)`` over the group: the augmented risk."""
        losses = [loss(self.act(element, batch)) for element in range(self.group.order)]
        return torch.stack(losses).mean(0)

    @torch.no_grad()
    def error(self, batch: Tensor) -> Error:
        """How far the model, in evaluation mode, is from equivariant on ``batch``; exact over G.

        Raises ValueError if it is not known what acts on the model's output.
        """
        if not isinstance(self.output, Features):
            raise ValueError(
                f"it is not known what acts on the model's output after {self.output.function}; "
                "pass the output representation of its last module in representations="
            )
        training = {module: module.training for module in self._model.modules()}
        self._model.eval()
        try:
            plain = self._model(batch)
            moved = [self._model(self.act(g, batch)) for g in range(1, self.group.order)]
        finally:
            for module, mode in training.items():
                module.training = mode
        squared, largest, changed = 0.0, 0.0, 0
        for element, one in enumerate(moved, 1):
            expected = self._act(self.output, element, plain)
            difference = one.double() - expected.double()
            squared += float(difference.square().sum())
            largest = max(largest, float(difference.abs().max()))
            changed += int((one.argmax(1) != expected.argmax(1)).sum())
        predictions = len(moved) * plain.argmax(1).numel()
        norm = len(moved) * float(plain.double().square().sum())
        return Error(math.sqrt(squared / norm) if norm else 0.0, largest, changed / predictions)

    def _act(self, features: Features, elements: Tensor | int, batch: Tensor) -> Tensor:
        if isinstance(elements, int):
            elements = torch.full((len(batch),), elements)
        elements, channels = elements.to(batch.device), features.channels
        if batch.ndim != 2 + len(features.space) or batch.shape[1] != channels.size:
            raise ValueError(
                f"batch has shape {tuple(batch.shape)}; accepted: (samples, {channels.size}"
                + ", pixels" * len(features.space)
                + ")"
            )
        moved = batch.flatten(2) if features.space else batch.unsqueeze(2)
        pixels = on_grid(self.group, tuple(batch.shape[2:]))
        moved = pixels.act_each(elements, moved)
        moved = channels.act_each(elements, moved.mT).mT
        return moved.reshape(batch.shape)


def _squared(space: Space, tensor: Tensor) -> Tensor:
    with torch.autocast(tensor.device.type, enabled=False):
        return space.action.squared_distance(_precise(tensor).reshape(space.action.shape))


def _projected(space: Space, tensor: Tensor) -> Tensor:
    with torch.autocast(tensor.device.type, enabled=False):
        return space.action.project(_precise(tensor).reshape(space.action.shape)).reshape(
            tensor.shape
        )


def _precise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The model inside DataParallel and torch.compile, and the prefix that they put to names."""
    prefix = ""
    while True:
        for name in ("module", "_orig_mod"):
            inner = getattr(model, name, None)
            wraps = name == "_orig_mod" or isinstance(
                model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
            )
            if wraps and isinstance(inner, nn.Module):
                model, prefix = inner, f"{prefix}{name}."
                break
        else:
            return model, prefix
