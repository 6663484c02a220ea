"""The paper's method for an ordinary PyTorch model: penalty, projection, augmentation, measure."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from equireg.library.features import Action
from equireg.library.tracing import (
    Features,
    Pair,
    Space,
    Trace,
    Unknown,
    evaluating,
    on_grid,
    trace,
    working_size,
)
from equireg.symmetry.groups import POINT_GROUPS, Group, point_group
from equireg.symmetry.representations import Representation, check_one_group, trivial

ROUNDING = 1e-3  # a relative error above is none of rounding
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
    is or wrapped by DataParallel or torch.compile; it is not changed. A module replaced later
    (``model[0] = ...``) is not seen: make a new ``Equivariance``. group: the name of a point group
    (such as C4, D4; O for volumes), or a ``Group``. A group of ``point_group``, or of ``generate``
    with ``moves_pixels``, moves the pixels of grids with as many axes; others leave pixels as they
    are. example: a batch, from which shapes are inferred. representations: per layer, by its name
    in ``model.named_modules()``, (input, output), each a ``Representation`` on the channels (for a
    Linear, on its entries), "trivial", "regular", or None: inferred (an input from the layers
    before it, an output trivial); or None instead of the pair to leave a layer out. Naming a module
    without parameters says what acts on its output; "" names the model. input: what acts on the
    example's channels; trivial by default.

    Raises ValueError where it is not known what acts on a layer, naming it and what to pass. Warns
    of layers whose stride or pooling breaks the symmetry of the grid, and otherwise of a model that
    a copy with projected weights shows not to be symmetric.

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
        representations: Mapping[str, Pair] | None = None,
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
        parameter = next(bare.parameters(), None)
        if parameter is None:
            raise ValueError(
                f"the model, a {type(bare).__name__}, has no parameters; accepted: one with layers"
            )
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
        if found.asymmetric:
            lines = [f"  {layer}: {why}" for layer, why in found.asymmetric.items()]
            warnings.warn(
                "symmetric weights do not make this model symmetric: functions do not commute with "
                "the group:\n" + "\n".join(lines),
                stacklevel=2,
            )
        elif found.broken:
            pass
        elif None not in given.values() and (failure := self._failure(bare, example, found)):
            warnings.warn(
                "symmetric weights do not make this model symmetric: a copy with projected weights "
                f"has {failure}; check for functions that do not commute with the group (positions "
                "added or shifted, parts cut out, entry by entry on other than permutations), and "
                "what representations= and input= say",
                stacklevel=2,
            )

    def _failure(self, bare: nn.Module, example: Tensor, found: Trace) -> str:
        """How the projected model fails to be symmetric; "" if it does not or cannot be tried.

        Tried on a copy and on random samples, for the generators: they imply the group.
        """
        if isinstance(self.output, Unknown):
            return ""
        kept = [self.group, self.input, self.output, *(s.action for s in self._spaces)]
        device, two = example.device, (min(len(example), 2), *example.shape[1:])
        random = torch.Generator().manual_seed(0)
        high = 256 if example.dtype == torch.uint8 else 2
        batch = torch.rand(two, generator=random)
        batch = batch.to(example) if example.is_floating_point() else (batch * high).to(example)
        generators = self.group.cayley[:, 0].tolist()
        try:
            twin = copy.copy(self)
            twin._model, twin._spaces = copy.deepcopy(
                (bare, self._spaces), {id(one): one for one in kept}
            )
            if example.dtype != torch.float32 or device.type != "cpu":  # less precise by default
                twin._model.double()
                batch = batch.double() if batch.is_floating_point() else batch
            with (
                torch.random.fork_rng([device] if device.type == "cuda" else []),
                torch.autocast(device.type, enabled=False),
                torch.compiler.set_stance("force_eager"),
                torch.no_grad(),
            ):
                twin.project_()
                error = twin._compare(generators, batch).relative
                if not error > ROUNDING:
                    return ""
                first = twin._first_failure(found.outputs, generators, batch)
        except Exception:  # a model that cannot be copied, or run in this way
            return ""
        where = f", the first at the output of {first!r}" if first else ""
        return f"a relative error of {error:.2g}{where}"

    def _first_failure(
        self, outputs: Mapping[str, Features], elements: list[int], batch: Tensor
    ) -> str:
        """The first module in ``outputs`` whose output is not moved as it says; "" if none."""
        held: dict[str, list[Tensor]] = {name: [] for name in outputs if name}
        for name, outs in held.items():
            self._model.get_submodule(name).register_forward_hook(
                lambda _, __, out, outs=outs: outs.append(out.clone())
            )
        with evaluating(self._model):
            for element in (0, *elements):
                self._model(self.act(element, batch))
        for name, outs in held.items():
            calls = len(outs) // (1 + len(elements))
            plain, moved = outs[:calls], outs[calls:]
            for i, one in enumerate(moved):
                expected = self._act(outputs[name], elements[i // calls], plain[i % calls])
                if (one - expected).norm() > ROUNDING * one.norm():
                    return name
        return ""

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
        autocast; where TF32 is allowed for matrix products, these are of its precision. Add
        gamma / 2 times it to the loss.
        """
        terms = [_squared(space, tensor) for space, tensor in self._parameters()]
        return torch.stack([term.to(terms[0].device) for term in terms]).sum()

    @torch.no_grad()
    def add_penalty_gradients_(self, gamma: float) -> None:
        """Add gamma Pi_{E-perp} A to the gradients, in place, between ``backward`` and the step.

        The same as gamma / 2 times ``penalty`` in the loss, at about a third of its cost, which
        shows where images are small and layers large. Parameters that need no gradient are left
        as they are. Not for gradients that are still scaled (``GradScaler``): unscale them first.
        Raises ValueError for a layer whose weights are computed from others (a parametrization).
        """
        for space, tensor in self._parameters(stored=True):
            if not tensor.requires_grad:
                continue
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
        for space, tensor in self._parameters(stored=True, statistics=True):
            tensor.copy_(_projected(space, tensor))

    @torch.no_grad()
    def project_gradients_(self) -> None:
        """Replace the gradients by Pi_E of them: after ``backward``, before the optimizer's step.

        With weights in E (``project_``) that is equivariant training, A' = -Pi_E grad R. Plain
        and momentum gradient descent stay in E for every representation, Adam and others that
        work entry by entry for permutations. Raises ValueError for a layer whose weights are
        computed from others (a parametrization).
        """
        for space, tensor in self._parameters(stored=True):
            if tensor.grad is not None:
                tensor.grad.copy_(_projected(space, tensor.grad))

    def _parameters(
        self, *, stored: bool = False, statistics: bool = False
    ) -> Iterator[tuple[Space, Tensor]]:
        """Spaces and their parameters as they are now, each parameter once.

        stored: refuse those that are computed from others. statistics: those of normalization too.
        """
        for space in self._spaces:
            if space.parameter in STATISTICS and not statistics:
                continue
            computing = getattr(space.module, "parametrizations", {})
            if space.parameter not in computing:
                yield space, getattr(space.module, space.parameter)
            elif stored:
                raise ValueError(
                    f"layer {space.layer!r}: its {space.parameter} is computed from other "
                    "parameters and cannot be projected; remove the parametrization first"
                )
            else:  # spectral_norm's own iteration is for the forward pass
                with evaluating(computing[space.parameter]):
                    tensor = getattr(space.module, space.parameter)
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

        Raises ValueError if it is not known what acts on the model's output, or for an empty batch.
        """
        return self._compare(range(1, self.group.order), batch)

    def _compare(self, elements: Sequence[int], batch: Tensor) -> Error:
        """The error over these elements."""
        if isinstance(self.output, Unknown):
            raise ValueError(
                f"it is not known what acts on the model's output after {self.output.function}; "
                'pass it as representations={"": (None, ...)}, a Representation or "trivial"'
            )
        if not len(batch):
            raise ValueError("batch is empty; accepted: one sample or more")
        squared, largest, changed = 0.0, 0.0, 0
        with evaluating(self._model):
            plain = self._shaped(self.output, self._model(batch), "the model's output")
            for element in elements:
                moved = self._model(self.act(element, batch)).reshape(plain.shape)
                expected = self._act(self.output, element, plain)
                difference = moved.double() - expected.double()
                squared += float(difference.square().sum())
                largest = max(largest, float(difference.abs().max()))
                changed += int((moved.argmax(1) != expected.argmax(1)).sum())
        predictions = len(elements) * plain.argmax(1).numel()
        norm = len(elements) * float(plain.double().square().sum())
        return Error(math.sqrt(squared / norm) if norm else 0.0, largest, changed / predictions)

    def _act(self, features: Features | Action, elements: Tensor | int, batch: Tensor) -> Tensor:
        if isinstance(features, Action):
            return features.act(elements, batch)
        if isinstance(elements, int):
            elements = torch.full((len(batch),), elements)
        elements, channels = elements.to(batch.device), features.channels
        shaped = self._shaped(features, batch, "batch")
        moved = shaped.flatten(2) if features.space else shaped.unsqueeze(2)
        pixels = on_grid(self.group, tuple(shaped.shape[2:]))
        moved = pixels.act_each(elements, moved)
        moved = channels.act_each(elements, moved.mT).mT
        return moved.reshape(batch.shape)

    def _shaped(self, features: Features | Action, batch: Tensor, what: str) -> Tensor:
        """The batch as (samples, channels, *pixels), of any size unless it is flattened."""
        if isinstance(features, Action):
            return batch
        size, space = features.channels.size, features.space
        if batch.ndim == 2 + len(space) and batch.shape[1] == size:
            return batch
        if features is not self.input and batch[0].numel() == size * math.prod(space):
            return batch.reshape(len(batch), size, *space)
        raise ValueError(
            f"{what} has shape {tuple(batch.shape)}; accepted: (samples, {size}"
            + ", pixels" * len(space)
            + ")"
        )


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
