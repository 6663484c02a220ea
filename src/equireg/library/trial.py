"""Whether symmetric weights make a model symmetric: tried on random ones, on the model itself.

A layer's weights say nothing of the functions between layers. So the model is run with weights in
E in place of its own, on random samples and on what the generators make of them; they imply the
group. So that what is broken can be seen, weights are drawn anew (a head that starts at zero hides
everything before it), biases are small, and outputs of layers are centred and scaled to keep the
signal's variance through the depth, which commutes with the group. The error is measured against
the outputs' deviation from their mean. Where outputs cannot be told, modules' outputs are.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from equireg.library.actions import Moving, act, move, shaped
from equireg.library.inputs import is_sampled, samples
from equireg.library.measures import BLIND, compare
from equireg.library.tracing import CHANNELWISE, OVER_LAST_AXES, Features, Known, Space
from equireg.library.trees import call, copied, leaves, mapped
from equireg.library.untouched import untouched
from equireg.library.weights import STATISTICS
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Elements

DOUBLE, SINGLE = 1e-4, 1e-3  # errors above are none of rounding; single precision within is common
SAMPLES = 4
CONSTANT = "its outputs do not depend on the input"
ZERO = "its outputs are zero but for rounding"
MIXED = (
    "a relative error of {:.2g} where each sample is moved by its own element, as by augment, and "
    "none where all are moved by the same one: samples are mixed"
)


class Verdict(NamedTuple):
    """failure: how the model is not symmetric; untried: why that is not known; "" if neither."""

    failure: str
    untried: str


@dataclass(frozen=True)
class Subject:
    """A model and what is known of it.

    outputs: by their names; modules: by theirs, in order; elements: those to try, which imply the
    others.
    unknown: outputs of which it is not known what acts on them, and why; "" if there are none.
    gradients: whether the model differentiates in forward. apart: whether outputs have a row per
    sample, so that each can be moved by its own element.
    """

    model: nn.Module
    spaces: Sequence[Space]
    inputs: Mapping[str, Known]
    outputs: Mapping[str, Known]
    unknown: str
    modules: Mapping[str, Known]
    elements: Sequence[int | Elements]
    gradients: bool = False
    apart: bool = True


def trial(subject: Subject, example: Any, *, own: bool = False, batch: Any = None) -> Verdict:
    """Try the model with weights in E, drawn anew, or the projections of its own.

    On random samples, or on ``batch``. In double precision, and otherwise in single; where it takes
    no other, on the example's number of samples.
    """
    untried = ""
    count = samples(subject.inputs, example)
    for dtype, number, positive in (
        (torch.float64, SAMPLES, False),
        (torch.float64, SAMPLES, True),
        (torch.float64, count, False),
        (torch.float32, SAMPLES, False),
        (torch.float32, count, False),
    ):
        tried = _batch(subject.inputs, example, number, dtype, positive=positive)
        if batch is not None:
            like = dict(leaves(tried))
            tried = mapped(lambda path, x: x.detach().to(like.get(path, x)), batch)  # noqa: B023
        try:
            verdict = _attempt(subject, tried, dtype, own)
        except _UndefinedError as error:  # such as the logarithm of negative numbers
            untried = untried or f"{error}"
            continue
        except Exception as error:  # whatever a user's model raises is the answer
            text = f"{error}".strip().split("\n")[0]
            untried = f"it raised {type(error).__name__}: {text}"
            continue
        return verdict
    return Verdict("", untried)


class _UndefinedError(ArithmeticError):
    """A model's outputs are no numbers."""


def _batch(
    inputs: Mapping[str, Known], example: Any, number: int, dtype: torch.dtype, *, positive: bool
) -> Any:
    """Random samples like the example: of both signs, or integers in its range.

    Tensors without samples, such as numbers and tables, are kept.
    """
    random, count = torch.Generator().manual_seed(0), samples(inputs, example)

    def one(path: str, x: Tensor) -> Tensor:
        if not is_sampled(inputs[path], x, count):
            return _cast(x, dtype)
        shape = (number, *x.shape[1:])
        if x.dtype == torch.bool:
            return (torch.rand(shape, generator=random) < 0.5).to(x.device)
        if not x.is_floating_point():
            high = 256 if x.dtype == torch.uint8 else max(int(x.max()) + 1, 2)
            return (torch.rand(shape, generator=random) * high).to(x)
        draw = torch.rand if positive else torch.randn
        return draw(shape, generator=random, dtype=torch.float64).to(x.device, dtype)

    return mapped(one, example)


def _attempt(subject: Subject, batch: Any, dtype: torch.dtype, own: bool) -> Verdict:
    model, elements = subject.model, list(dict.fromkeys(subject.elements))
    bound = DOUBLE if dtype == torch.float64 else SINGLE
    with contextlib.ExitStack() as stack:
        stack.enter_context(untouched(model))
        stack.enter_context(torch.set_grad_enabled(subject.gradients))
        device = next(x.device for _, x in leaves(batch))
        stack.enter_context(torch.autocast(device.type, enabled=False))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        state = _weights(subject, dtype, own)
        for computed, tensor in _computed(subject, dtype, own):
            hook = computed.register_forward_hook(lambda *_, tensor=tensor: tensor)
            stack.callback(hook.remove)
        if not own:
            scales = _Scales(subject)
            for module in dict.fromkeys(space.module for space in subject.spaces):
                stack.callback(module.register_forward_hook(scales).remove)

        def run(x: Any, seed: int = 0) -> Any:
            _seed(seed)  # dropout that is always on
            x = copied(x, gradients=subject.gradients)
            return call(lambda *a, **k: torch.func.functional_call(model, state, a, k), x)

        def error_of(elements: Sequence[Moving]) -> float:
            return compare(run, subject.inputs, subject.outputs, elements, batch).deviating

        error = math.nan
        if subject.outputs:
            apart = _every_other(elements[-1], samples(subject.inputs, batch))
            error = error_of([*elements, apart] if subject.apart else elements)
            if error <= bound and not subject.unknown:
                return Verdict("", "")
            if error > bound and _vanish(run(batch), subject.outputs):
                return Verdict("", ZERO)
            together = error_of(elements)
            if together <= bound < error:
                return Verdict(MIXED.format(error), "")
            error = together
        modules = _modules(subject, run, elements, batch, bound)
        one, two = (dict(leaves(run(batch, seed))) for seed in (1, 2))
        if any(not torch.equal(one[name].nan_to_num(), two[name].nan_to_num()) for name in one):
            return Verdict("", "its outputs are random in evaluation mode")
    if modules.undefined and math.isnan(error):
        raise _UndefinedError("its outputs on random samples are not finite")
    first = f", the first at the output of {modules.first!r}" if modules.first else ""
    if error > bound or modules.first:
        worst = error if error > bound else modules.error
        return Verdict(f"a relative error of {worst:.2g}{first}", "")
    if subject.unknown:
        return Verdict("", subject.unknown)
    if math.isnan(error):
        return Verdict("", CONSTANT)
    return Verdict("", "")


def _vanish(output: Any, known: Mapping[str, Known]) -> bool:
    """Whether outputs are no larger than rounding, beside the signals of size 1 in the model."""
    sizes = [
        float(x.detach().abs().max()) for name, x in leaves(output) if name in known and x.numel()
    ]
    return max(sizes, default=0.0) < 1e-12


def _every_other(element: int | Elements, count: int) -> Moving:
    """This element for every other sample, the identity for those between."""
    kept = np.arange(count) % 2 == 0
    if isinstance(element, Elements):
        return Elements(element.index * kept, element.algebra * kept[:, None])
    return torch.from_numpy(element * kept)


def _seed(seed: int) -> None:
    """``torch.manual_seed``, which keeps a trace of the stack for a GPU that is not in use."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def _weights(subject: Subject, dtype: torch.dtype, own: bool) -> dict[str, Tensor]:
    """Parameters and buffers by name, those on which the group acts in E."""
    named = (*subject.model.named_parameters(), *subject.model.named_buffers())
    names, tensors = {id(tensor): name for name, tensor in named}, dict(named)
    state = dict[str, Tensor]()
    random = torch.Generator().manual_seed(1)
    for space in subject.spaces:
        held = vars(space.module)["_parameters"] | vars(space.module)["_buffers"]
        name = names.get(id(held.get(space.parameter)))  # shared ones have several names
        if name is not None:
            state[name] = _placed(space, state.get(name, tensors[name]), dtype, random, own)
    return state | {name: _cast(tensor, dtype) for name, tensor in named if name not in state}


def _computed(
    subject: Subject, dtype: torch.dtype, own: bool
) -> Iterator[tuple[nn.Module, Tensor]]:
    """Parametrizations and what stands for the weights that they compute."""
    random = torch.Generator().manual_seed(2)
    for space in subject.spaces:
        computed = getattr(space.module, "parametrizations", {})
        if space.parameter in computed:
            held = getattr(space.module, space.parameter)
            yield computed[space.parameter], _placed(space, held, dtype, random, own)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """A copy, in this type if it is of numbers with a point."""
    return tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype, copy=True)


def _placed(
    space: Space, held: Tensor, dtype: torch.dtype, random: torch.Generator, own: bool
) -> Tensor:
    """A parameter in E: its own projected, or a random one of a size that keeps signals alive."""
    buffer = space.parameter in space.module._buffers
    if own or (buffer and space.parameter not in STATISTICS):  # such as a variance
        tensor = _cast(held, dtype)
    else:
        draw = functools.partial(torch.randn, held.shape, generator=random)
        name = space.parameter
        normalizes = isinstance(space.module, (*CHANNELWISE, *OVER_LAST_AXES))
        if name == "running_mean":
            tensor = torch.zeros(held.shape)
        elif name.endswith("bias"):  # some, as odd functions of differences cancel
            tensor = 0.3 * draw()
        elif name == "running_var":
            tensor = torch.ones(held.shape)
        elif normalizes:
            tensor = 1 + 0.3 * draw()
        elif name.endswith("weight"):
            scale = 1 / math.sqrt(max(held.numel() // max(len(held), 1), 1))
            if not space.action.is_trivial:  # the projection of a normal one, with less to draw
                drawn = space.action.draw(random).mul_(scale)
                return drawn.reshape(held.shape).to(held.device, dtype)
            tensor = draw() * scale
        else:  # scales, positions, tokens
            tensor = draw()
        tensor = tensor.to(held.device, dtype)
    if space.action.is_trivial:
        return tensor
    return space.action.project(tensor.reshape(space.action.shape)).reshape(held.shape)


@dataclass
class _Scales:
    """Hooks that keep a layer's outputs of mean 0 and variance 1, by constants in E.

    The constants are those of the layer's first call; they stand for its bias and its scale.
    """

    subject: Subject
    held: dict[nn.Module, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __call__(self, module: nn.Module, args: Any, out: Any) -> Any:
        if not isinstance(out, Tensor) or not out.is_floating_point() or not out.numel():
            return None
        if module not in self.held:
            self.held[module] = self._of(module, out.detach())
        mean, factor = self.held[module]
        return (out - mean) * factor

    def _of(self, module: nn.Module, out: Tensor) -> tuple[Tensor, Tensor]:
        name = next(s.layer for s in self.subject.spaces if s.module is module)
        mean = _mean(self.subject.modules.get(name), out)
        deviation = (out - mean).square().mean().sqrt()
        alive = deviation > BLIND * out.square().mean().sqrt()
        return mean, torch.where(alive, 1 / deviation, torch.ones_like(deviation))


def _mean(features: Known | None, out: Tensor) -> Tensor:
    """The mean per channel, as far as the group leaves it fixed."""
    if not isinstance(features, Features) or out.ndim != 2 + len(features.space):
        return out.new_zeros(())
    if out.shape[1] != features.channels.size:
        return out.new_zeros(())
    mean = symmetry.Space(features.channels).project(out.movedim(1, -1).flatten(0, -2).mean(0))
    return mean.view(-1, *(1,) * len(features.space))


class _Found(NamedTuple):
    """The first module whose output is not moved as it should be, "" if none, and by how much."""

    first: str
    error: float
    undefined: bool


def _modules(
    subject: Subject,
    run: Callable[[Any], Any],
    elements: Sequence[int | Elements],
    batch: Any,
    bound: float,
) -> _Found:
    """Compare the outputs of all modules of which it is known what acts on them."""
    names = [name for name in subject.modules if name]
    plain: dict[str, list[Tensor]] = {name: [] for name in names}
    wrong: dict[str, float] = {}
    undefined = False
    element: int | Elements = 0
    position = dict.fromkeys(names, 0)

    def hook(name: str, out: Any) -> None:
        nonlocal undefined
        features = subject.modules[name]
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return
        out = out.detach()
        if not element:
            plain[name].append(out.clone())
            undefined = undefined or not bool(out.isfinite().all())
            return
        before = plain[name][position[name]]
        position[name] += 1
        expected = move(
            features, element, shaped(features, before, f"the output of {name!r}", flattened=True)
        ).reshape(before.shape)
        deviation = (before - before.mean(0)).norm()
        if deviation <= BLIND * before.norm():
            return
        error = float((out - expected).norm() / deviation)
        if error > bound and name not in wrong:
            wrong[name] = error

    with contextlib.ExitStack() as stack:
        for name in names:
            module = subject.model.get_submodule(name)
            one = module.register_forward_hook(lambda _, __, out, name=name: hook(name, out))
            stack.callback(one.remove)
        run(batch)
        for element in elements:
            position = dict.fromkeys(names, 0)
            run(act(subject.inputs, element, batch))
    first = next((name for name in names if name in wrong), "")
    return _Found(first, wrong.get(first, 0.0), undefined)
