"""Which representation acts on which parameter of a network, followed through one forward pass.

A tensor between two layers carries ``Features``: the representation on its channels and the grid
of its pixels. They are followed from the input through every function that is called; a layer's
parameters are moved by the representations on its input and output. Functions that change the grid
are tried on turned pixels: a stride that does not divide the grid evenly breaks its symmetry.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import (
    Representation,
    check_one_group,
    direct_sum,
    grid,
    regular,
    trivial,
)

Given = Representation | str | None  # what acts on channels; "trivial", "regular"; None: inferred
Pair = tuple[Given, Given] | None  # at a layer's input and output; None: the layer is left out

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNELWISE = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.PReLU),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
OVER_LAST_AXES = (nn.LayerNorm, nn.RMSNorm)
LINEAR = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
PLACED = (*LINEAR, *CHANNELWISE, *OVER_LAST_AXES)
ACCEPTED = "convolutions, Linear, batch, instance, group, layer and RMS normalization, PReLU"
CONVOLVE = (
    *(torch.conv1d, torch.conv2d, torch.conv3d),
    *(torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d),
)
MOVES_AXES = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "__get__")
GROUPS = 6  # position of this argument in all of them
NEAR = 8  # how far from a layer's size, and the example's, sizes that work are looked for


@dataclass(frozen=True)
class Features:
    """What acts on a tensor (samples, channels, *space), or on the same flattened."""

    channels: Representation
    space: tuple[int, ...]

    @property
    def pixels(self) -> Representation:
        """The representation on the grid; trivial for a group that does not act on such grids."""
        return on_grid(self.channels.group, self.space)


@dataclass(frozen=True)
class Unknown:
    """A tensor of which it is not known what acts on it, since this function was called."""

    function: str


@dataclass(frozen=True)
class Space:
    """The action on a parameter: on ``parameter.view(action.shape)``."""

    layer: str
    module: nn.Module
    parameter: str
    action: symmetry.Space


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed. broken: per layer, the grids before and after, and sizes.

    outputs: what acts on the outputs of modules, in the order in which they returned.
    """

    spaces: list[Space]
    output: Features | Unknown
    broken: dict[str, str]
    unused: list[str]
    outputs: dict[str, Features]


@functools.lru_cache(maxsize=256)
def on_grid(group: Group, space: tuple[int, ...]) -> Representation:
    """The representation on the pixels of a grid, trivial if the group moves no such grid."""
    if acts_on_grids(group, space):
        return grid(group, space)
    return trivial(group, math.prod(space))


def acts_on_grids(group: Group, space: tuple[int, ...]) -> bool:
    """Whether the group moves the pixels of grids with so many axes."""
    return group.moves_pixels and bool(group.elements.shape[-1] == len(space))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Holds ``model`` in evaluation mode, then sets each module's own again."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def trace(
    model: nn.Module,
    example: Tensor,
    features: Features,
    given: Mapping[str, Pair],
    *,
    sizes: bool = True,
) -> Trace:
    """Run ``model`` on ``example`` in evaluation mode and say what acts on its parameters.

    given: per layer (input, output), or None for a layer to be left out. sizes: whether to look
    for sizes that work where a layer breaks the grid. Raises ValueError for a layer whose
    parameters cannot be placed, naming it and what to pass.
    """
    given = _by_first_name(model, given)
    tracer = Tracer(features.channels.group, given, sizes)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            for hook in tracer.hooks(name, module):
                stack.callback(hook.remove)
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        example = example.clone()
        tracer.tag(example, features)
        stack.enter_context(tracer)
        output = model(example)
    if not isinstance(output, Tensor):
        found: Features | Unknown = Unknown(f"an output of type {type(output).__name__}")
    else:
        found = tracer.features(output) or Unknown("the model")
    unused = [
        name
        for name, module in model.named_modules()
        if _own(module) and name not in tracer.ran and not tracer.left_out(name)
    ]
    spaces = [space for spaces in tracer.spaces.values() for space in spaces]
    return Trace(_each_once(spaces), found, tracer.broken, unused, tracer.outputs)


def _by_first_name(model: nn.Module, given: Mapping[str, Pair]) -> dict[str, Pair]:
    """What the user gave, by the names that hooks know: a shared module has several."""
    first = {module: name for name, module in model.named_modules()}
    every = dict(model.named_modules(remove_duplicate=False))
    result: dict[str, Pair] = {}
    for name, pair in given.items():
        if name not in every:
            layers = ", ".join(n for n, m in every.items() if isinstance(m, PLACED))
            raise ValueError(f"representations: no layer {name!r}; accepted: {layers}")
        module = every[name]
        if first[module] in result:
            raise ValueError(
                f"representations: {name!r} is the same module as another one given; accepted: one "
                "of its names"
            )
        if name and pair and not isinstance(module, PLACED) and [*module.parameters()]:
            raise ValueError(
                f"representations: {name!r} is a {type(module).__name__} that holds layers; "
                "accepted: the layers in it, modules without parameters, or None to leave all of "
                "it out"
            )
        result[first[module]] = pair
    return result


def _each_once(spaces: list[Space]) -> list[Space]:
    """The spaces, a tensor that several layers share only once; refuses different actions on it."""
    first: dict[int, Space] = {}
    result = []
    for space in spaces:
        tensor = vars(space.module)["_parameters"].get(space.parameter)
        one = space if tensor is None else first.setdefault(id(tensor), space)
        if one is space:
            result.append(space)
        elif not one.action.equals(space.action):
            raise ValueError(
                f"layers {one.layer!r} and {space.layer!r} share {space.parameter}, but the group "
                "acts on it otherwise in one than in the other; pass representations= that agree, "
                "or untie them"
            )
    return result


class Tracer(TorchFunctionMode):
    """Follows features through the functions and modules that run while it is entered."""

    def __init__(self, group: Group, given: Mapping[str, Pair], sizes: bool) -> None:
        super().__init__()
        self.group, self.given, self.sizes = group, given, sizes
        self.spaces: dict[str, list[Space]] = {}
        self.broken: dict[str, str] = {}
        self.outputs: dict[str, Features] = {}
        self.ran: set[str] = set()
        self._running: list[str] = []
        self._tags: dict[int, tuple[Tensor, Features | Unknown]] = {}  # keeps ids from reuse

    def tag(self, tensor: Tensor, features: Features | Unknown) -> None:
        """Say what acts on ``tensor``."""
        self._tags[id(tensor)] = tensor, features

    def features(self, tensor: Tensor) -> Features | Unknown | None:
        """What acts on ``tensor``; None: it does not come from the input."""
        return self._tags.get(id(tensor), (None, None))[1]

    def left_out(self, name: str) -> bool:
        """Whether the user passed None for this layer or for one that holds it."""
        parts = name.split(".")
        prefixes = (".".join(parts[:i]) for i in range(1, len(parts) + 1))
        return any(prefix in self.given and self.given[prefix] is None for prefix in prefixes)

    # Functions

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [(x, t) for x in _tensors((args, kwargs)) if (t := self.features(x))]
        if inputs:
            source, features = max(
                inputs, key=lambda pair: (pair[0].numel(), isinstance(pair[1], Features))
            )
            if _name(func) == "__setitem__" and self.features(args[2]) is not None:
                self.tag(args[0], Unknown("assigning to a part of a tensor"))
            for result in _tensors(out):
                found = self._follow(func, args, kwargs, inputs, source, features, result)
                self.tag(result, found)
                alone = all(x is source for x, _ in inputs)
                if alone and isinstance(features, Features) and isinstance(found, Features):
                    self._check_grid(func, args, kwargs, source, features, found)
        return out

    def _follow(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        inputs: list[tuple[Tensor, Features | Unknown]],
        source: Tensor,
        features: Features | Unknown,
        result: Tensor,
    ) -> Features | Unknown:
        """What acts on a function's result, from the shapes."""
        if isinstance(features, Unknown):
            return features
        channels, space = features.channels, features.space
        known = [(x, t) for x, t in inputs if isinstance(t, Features)]
        if func in (torch.cat, torch.concat, torch.concatenate):
            named = {**dict(zip(("tensors", "dim"), args, strict=False)), **kwargs}
            axis = named.get("dim", named.get("axis", 0))
            if axis % source.ndim == 1 and len(known) == len(list(_tensors(named["tensors"]))):
                return Features(direct_sum(*(t.channels for _, t in known)), space)
            known = []
        for x, other in inputs:
            if isinstance(other, Unknown) and (x.shape == source.shape or not known):
                return other
        for x, other in known:
            if x.shape == source.shape or (
                x.ndim == source.ndim and x.shape[1] == source.shape[1] == channels.size
            ):
                self._check_alike(func, channels, other.channels)
        pixels, rest = math.prod(space), tuple(result.shape[2:])
        if result.ndim < 2 or len(result) != len(source) or _name(func) in MOVES_AXES:
            return Unknown(_name(func))
        if result.shape == source.shape:
            return features
        if result.shape[1] == channels.size and len(rest) in (0, len(space)):
            return Features(channels, rest)
        if result.shape[1:] in ((channels.size, pixels), (channels.size * pixels,)):
            return features
        if result.shape[1] == channels.size and pixels == math.prod(rest) == 1:
            return Features(channels, rest)
        if channels.is_trivial and result.ndim == source.ndim == 2 + len(space):
            return Features(trivial(self.group, result.shape[1]), rest)
        return Unknown(_name(func))

    def _check_alike(self, func: Any, channels: Representation, other: Representation) -> None:
        if not other.equals(channels):
            raise ValueError(
                f"{self._where(func)} puts {other.name} and {channels.name} together; pass the "
                "same output representation for the layers before it"
            )

    def _check_grid(
        self,
        func: Any,
        args: Any,
        kwargs: dict[str, Any],
        source: Tensor,
        before: Features,
        after: Features,
    ) -> None:
        """Try whether a function that changes the grid commutes with the group on pixels."""
        shape = source.shape[2:]
        if shape != before.space or not acts_on_grids(self.group, before.space):
            return
        if after.space and not acts_on_grids(self.group, after.space):
            return
        convolves = func in CONVOLVE
        if shape == after.space and not convolves:
            return
        channels = source.shape[:2]
        if convolves:  # one channel will do, and a symmetric filter: this one need not be, yet
            try:
                args, kwargs = self._one_channel(args, kwargs)
            except ValueError:  # the filter has no symmetric shape; _spaces says what to do
                return
            channels = torch.Size((1, 1))

        def commutes(space: tuple[int, ...]) -> bool:
            def run(pixels: Tensor) -> Tensor:
                def swap(x: Tensor) -> Tensor:
                    if x is source:
                        return pixels
                    return x.float() if x.is_floating_point() else x

                return next(_tensors(func(*_map(swap, args), **_map(swap, kwargs))))

            pixels = torch.rand(*channels, *space, generator=torch.Generator().manual_seed(0))
            return self._commutes(run, pixels.to(source.device))

        try:
            if commutes(before.space):
                return
        except Exception:  # it does not run on these pixels alone
            return
        works = list[int]()
        for side in _sides_near(max(shape)) if self.sizes else ():
            try:
                if len(works) < 3 and commutes((side,) * len(shape)):
                    works.append(side)
            except Exception:  # such as too small for the filter
                continue
        self.broken[self._where(func)] = (
            f"{_times(before.space)} to {_times(after.space) or 'no'} pixels is not symmetric "
            f"under {self.group.name}"
            + (f"; here {', '.join(map(str, sorted(works)))} would be" if works else "")
        )

    def _one_channel(self, args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of a convolution, for one channel and a random symmetric filter."""
        names = ("input", "weight", "bias")
        args, kwargs = list(args), {**dict(zip(names, args, strict=False)), **kwargs}
        weight = kwargs["weight"]
        kernel = on_grid(self.group, tuple(weight.shape[2:]))
        random = torch.rand(kernel.size, generator=torch.Generator().manual_seed(1))
        symmetric = symmetry.Space(kernel).project(random).view(1, 1, *weight.shape[2:])
        kwargs |= {"weight": symmetric.to(weight.device), "bias": None}
        if len(args) > GROUPS:
            args[GROUPS] = 1
        elif "groups" in kwargs:
            kwargs["groups"] = 1
        return [kwargs.pop(n) for n in names] + args[len(names) :], kwargs

    def _commutes(self, run: Callable[[Tensor], Tensor], pixels: Tensor) -> bool:
        """Whether ``run`` commutes with the generators on these pixels."""
        plain = run(pixels)
        try:
            before = grid(self.group, tuple(pixels.shape[2:]))
            after = on_grid(self.group, tuple(plain.shape[2:]))
        except ValueError:
            return False
        bound = 1e-3 * float(plain.abs().max())
        for step in self.group.cayley[:, 0].tolist():
            turned = run(before.act(step, pixels.flatten(2)).view_as(pixels))
            one, two = (x.reshape(*x.shape[:2], -1) for x in (turned, plain))
            if not torch.allclose(one, after.act(step, two), rtol=0, atol=bound):
                return False
        return True

    def _where(self, func: Any) -> str:
        layer = next((name for name in reversed(self._running) if name), "")
        return f"{layer} ({_name(func)})" if layer else _name(func)

    # Modules

    def hooks(self, name: str, module: nn.Module) -> Iterator[Any]:
        """Hooks that tell the tracer which module runs, and on what."""

        def enter(module: nn.Module, args: Any) -> None:
            self._running.append(name)

        def leave(module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
            self._place(name, module, args, kwargs, out)
            self._running.pop()
            if isinstance(out, Tensor) and isinstance(found := self.features(out), Features):
                self.outputs[name] = found

        yield module.register_forward_pre_hook(enter, prepend=True)
        yield module.register_forward_hook(leave, with_kwargs=True)

    def _place(
        self, name: str, module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any
    ) -> None:
        """Say what acts on a module's parameters and on its output."""
        self.ran.add(name)
        results, source = list(_tensors(out)), next(_tensors((args, kwargs)), None)
        if self.left_out(name):
            if isinstance(module, LINEAR) and results:
                rest = tuple(results[0].shape[2:])
                self.tag(results[0], Features(trivial(self.group, results[0].shape[1]), rest))
        elif isinstance(module, PLACED) and source is not None:
            placed, after = self._spaces(name, module, source, self.features(source), results[0])
            spaces = [Space(name, module, p, action) for p, action in placed.items()]
            if hooked := [p for p in placed if p in vars(module)]:
                raise ValueError(
                    f"layer {name!r}: its {hooked[0]} is computed by a hook (torch.nn.utils.prune, "
                    "the old weight_norm and spectral_norm) and cannot be followed; take those of "
                    "torch.nn.utils.parametrizations, or call prune.remove first"
                )
            for one, two in zip(self.spaces.setdefault(name, spaces), spaces, strict=True):
                if not one.action.equals(two.action):
                    raise ValueError(f"layer {name!r} runs twice, on different representations")
            if after:
                self.tag(results[0], after)
        elif own := _own(module):
            raise ValueError(
                f"layer {name!r}: it is not known how the group acts on {', '.join(own)} of a "
                f"{type(module).__name__}; accepted: {ACCEPTED}; pass "
                f"representations={{{name!r}: None}} to leave it out"
            )
        elif name in self.given:
            found = self.features(results[0]) if not name else None  # only a module may change it
            known = found.channels if isinstance(found, Features) else None
            channels = self._chosen(name, 1, results[0].shape[1], known)
            space = found.space if isinstance(found, Features) else tuple(results[0].shape[2:])
            self.tag(results[0], Features(channels, space))

    def _chosen(
        self, name: str, end: int, size: int, found: Representation | None
    ) -> Representation:
        """The representation on a layer's input (0) or output (1): given, found or trivial."""
        end_name = ("input", "output")[end]
        given = self.given.get(name, (None, None))
        if not isinstance(given, tuple) or len(given) != 2:
            raise ValueError(
                f"layer {name!r}: representations are {given!r}; accepted: a pair "
                "(input, output), or None to leave the layer out"
            )
        rho: Given = given[end]
        if isinstance(rho, str):
            unit = {"trivial": trivial, "regular": regular}.get(rho)
            if unit is None or size % unit(self.group).size:
                raise ValueError(
                    f"layer {name!r}: {end_name} is {rho!r} for {size} channels; accepted: "
                    f"'trivial', a Representation, or 'regular' for multiples of {self.group.order}"
                )
            rho = size // unit(self.group).size * unit(self.group)
        if rho is None:
            return found or trivial(self.group, size)
        check_one_group(self.group, rho.group)
        if rho.size != size:
            raise ValueError(
                f"layer {name!r}: {end_name} {rho.name} acts on {rho.size} entries, but the layer "
                f"has {size}; pass sums and multiples of representations, such as 2 * rho"
            )
        if found is not None and not rho.equals(found):
            raise ValueError(
                f"layer {name!r}: its {end_name} is given as {rho.name}, but the layers before it "
                f"make it {found.name}; pass the same for their output (for the network's, input=)"
            )
        return rho

    def _spaces(
        self,
        name: str,
        module: Any,
        source: Tensor,
        found: Features | Unknown | None,
        result: Tensor,
    ) -> tuple[dict[str, symmetry.Space], Features | None]:
        """The actions on a layer's parameters, and what acts on its output where that changes."""
        known = found if isinstance(found, Features) else None
        if isinstance(module, nn.Linear):
            return self._linear(name, module, source, found, result)
        if isinstance(module, (*CHANNELWISE, *OVER_LAST_AXES)):
            return self._normalization(name, module, found), None

        space, kernel = tuple(source.shape[2:]), tuple(module.kernel_size)
        rho_in = self._chosen(name, 0, module.in_channels, known.channels if known else None)
        if not known and not self._says_input(name):
            raise self._lost(name, module.in_channels, found)
        rho_out = self._chosen(name, 1, module.out_channels, None)
        rows, columns = (rho_in, rho_out) if isinstance(module, TRANSPOSED) else (rho_out, rho_in)
        try:
            pixels = on_grid(self.group, kernel)
            on_grid(self.group, space)
        except ValueError as error:
            raise ValueError(
                f"layer {name!r}: {error}; take another group, or pass "
                f"representations={{{name!r}: None}} to leave it out"
            ) from None
        if module.groups == 1:
            weight = symmetry.Space(rows, columns, pixels)
        elif rows.is_trivial and columns.is_trivial:
            inner = trivial(self.group, columns.size // module.groups)
            weight = symmetry.Space(rows, inner, pixels)
        else:
            weight = symmetry.Space(_grouped(name, rows, columns, module.groups) * pixels)
        after = Features(rho_out, tuple(result.shape[2:]))
        bias = {} if module.bias is None else {"bias": symmetry.Space(rho_out)}
        return {"weight": weight, **bias}, after

    def _linear(
        self,
        name: str,
        module: nn.Linear,
        source: Tensor,
        found: Features | Unknown | None,
        result: Tensor,
    ) -> tuple[dict[str, symmetry.Space], Features | None]:
        size = module.in_features
        rho_out = self._chosen(name, 1, module.out_features, None)
        given = self._says_input(name)
        moved = isinstance(found, Features) and acts_on_grids(self.group, found.space)
        if source.ndim > 2 and isinstance(found, Features) and not moved:  # along the last axis
            columns = [self._chosen(name, 0, size, None)]
        elif source.ndim == 2 and isinstance(found, Features) and size == _size(found):
            columns = [found.channels, found.pixels]
            if given:
                whole = found.channels * found.pixels if found.space else found.channels
                columns = [self._chosen(name, 0, size, whole)]
        elif given:
            columns = [self._chosen(name, 0, size, None)]
        else:
            raise self._lost(name, size, found)
        after = Features(rho_out, ()) if source.ndim == 2 else None
        bias = {} if module.bias is None else {"bias": symmetry.Space(rho_out)}
        return {"weight": symmetry.Space(rho_out, *columns), **bias}, after

    def _says_input(self, name: str) -> bool:
        """Whether the user said what acts on a layer's input."""
        pair = self.given.get(name)
        return pair is not None and pair[0] is not None

    def _lost(self, name: str, size: int, found: Features | Unknown | None) -> ValueError:
        """What to say where it is not known what acts on a layer's input."""
        after = {
            Features: "the layers before it",
            Unknown: getattr(found, "function", ""),
            type(None): "a function that torch does not show, or on constants",
        }[type(found)]
        return ValueError(
            f"layer {name!r}: it is not known what acts on its {size} inputs after {after}; "
            f"pass representations={{{name!r}: ('trivial', None)}} if the group leaves them "
            "as they are, or the Representation that moves them"
        )

    def _normalization(
        self, name: str, module: Any, found: Features | Unknown | None
    ) -> dict[str, symmetry.Space]:
        """The actions on what scales and shifts channels, or channels and pixels."""
        if isinstance(module, OVER_LAST_AXES):
            shape = tuple(module.normalized_shape)
        else:
            size = getattr(module, "num_features", None) or getattr(module, "num_channels", None)
            shape = (size or module.num_parameters,)
        size, axes = math.prod(shape), list[Representation]()
        if not any(True for _ in (*module.parameters(), *module.buffers())):
            axes = [trivial(self.group, size)]
        if isinstance(found, Features):
            over_channels = isinstance(module, CHANNELWISE) or not found.space
            fixed = not acts_on_grids(self.group, found.space)
            if shape == (found.channels.size,) and over_channels:
                axes = [found.channels]
            elif shape in ((found.channels.size, *found.space), (_size(found),)):
                axes = [found.channels, found.pixels]
            elif not over_channels and shape == found.space:
                axes = [found.pixels]
            elif size == 1 or (fixed and not over_channels and len(shape) <= len(found.space)):
                axes = [trivial(self.group, size)]
        if not axes:
            if not self._says_input(name):
                raise self._lost(name, size, found)
            axes = [self._chosen(name, 0, size, None)]
        elif name in self.given:
            for end in (0, 1):
                self._chosen(name, end, size, functools.reduce(Representation.__mul__, axes))
        if isinstance(module, nn.GroupNorm) and axes[0].permutations is not None:
            moved = (axes[0].permutations // (size // module.num_groups)).reshape(
                self.group.order, module.num_groups, -1
            )
            if (moved != moved[..., :1]).any():
                raise ValueError(
                    f"layer {name!r}: the group moves channels from one of its {module.num_groups} "
                    f"groups to several; its input is {axes[0].name}"
                )
        return self._permuted(name, module, axes)

    def _permuted(
        self, name: str, module: nn.Module, axes: list[Representation]
    ) -> dict[str, symmetry.Space]:
        """Parameters and statistics that scale and shift entry by entry."""
        names = ("weight", "bias", "running_mean", "running_var")
        held = [n for n in names if isinstance(getattr(module, n, None), Tensor)]
        if held and any(axis.permutations is None for axis in axes):
            raise ValueError(
                f"layer {name!r}: {type(module).__name__} works entry by entry, which only "
                f"permutations commute with; its input is {axes[0].name}"
            )
        return {n: symmetry.Space(*axes) for n in held}


def working_size(
    model: nn.Module, example: Tensor, features: Features, given: Mapping[str, Pair]
) -> int | None:
    """The side near the example's at which no layer breaks the grid's symmetry, if any."""
    for side in _sides_near(max(example.shape[2:])):
        space = (side,) * (example.ndim - 2)
        try:
            resized = example.new_zeros(1, example.shape[1], *space)
            found = trace(model, resized, Features(features.channels, space), given, sizes=False)
        except Exception:  # the network takes no images of this size
            continue
        if not found.broken:
            return side
    return None


def _sides_near(side: int) -> list[int]:
    """The sides around this one, the nearest first."""
    sides = (side + s for distance in range(1, NEAR + 1) for s in (distance, -distance))
    return [near for near in sides if near > 0]


def _grouped(
    name: str, rows: Representation, columns: Representation, groups: int
) -> Representation:
    """What acts on the (rows, columns / groups) channels of a grouped convolution."""
    if rows.permutations is None or columns.permutations is None:
        raise ValueError(
            f"layer {name!r}: groups is {groups}; accepted for representations that are no "
            "permutations: 1"
        )
    fan_out, fan_in = rows.size // groups, columns.size // groups
    row = np.arange(rows.size)[:, None]
    column = row // fan_out * fan_in + np.arange(fan_in)
    moved_row = rows.permutations[:, :, None]
    inner = columns.permutations[:, column] - moved_row // fan_out * fan_in
    if (inner < 0).any() or (inner >= fan_in).any():
        raise ValueError(
            f"layer {name!r}: the group moves channels between the {groups} groups of the "
            "convolution otherwise at its input than at its output"
        )
    joint = (moved_row * fan_in + inner).reshape(rows.group.order, -1)
    return Representation(rows.group, f"{groups} groups", joint)


def _own(module: nn.Module) -> list[str]:
    """The parameters of a module itself, not of those in it; computed ones are seen in place."""
    if isinstance(module, ParametrizationList):
        return []
    return [name for name, _ in module.named_parameters(recurse=False)]


def _size(features: Features) -> int:
    return features.channels.size * math.prod(features.space)


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))


def _times(space: tuple[int, ...]) -> str:
    return " x ".join(map(str, space))


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        yield from _tensors(list(nested.values()))
    elif isinstance(nested, (tuple, list)):
        for item in nested:
            yield from _tensors(item)


def _map(function: Callable[[Tensor], Tensor], nested: Any) -> Any:
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, dict):
        return {key: _map(function, item) for key, item in nested.items()}
    if isinstance(nested, (tuple, list)):
        items = (_map(function, item) for item in nested)
        return tuple(items) if isinstance(nested, tuple) else list(items)
    return nested
