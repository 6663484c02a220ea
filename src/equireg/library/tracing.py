"""Which representation acts on which parameter of a network, followed through one forward pass.

What acts on a tensor is an action per block of axes (``features``). It is followed from the inputs
through every function that is called (``following``): by the rules for functions that move data,
work entry by entry, or sum along axes (``functions``), and by those for layers, one file per kind
(``layers``). What no rule knows is tried on random inputs, moved and not (``trials``).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from equireg.library import functions, layers
from equireg.library.blocks import acts_on_grids, on_grid
from equireg.library.features import Action, Features, Unknown
from equireg.library.following import Follower, _own
from equireg.library.given import Given, Pair
from equireg.library.parameters import Space
from equireg.library.pixels import Pixels
from equireg.library.registry import of_module
from equireg.library.trees import call, copied, leaves, mapped
from equireg.library.untouched import differentiating, evaluating
from equireg.symmetry.representations import Representation

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CHANNELWISE = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.GroupNorm, nn.PReLU),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
)
OVER_LAST_AXES = (nn.LayerNorm, nn.RMSNorm)
LINEAR = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)
PLACED = (*LINEAR, *CHANNELWISE, *OVER_LAST_AXES, nn.MultiheadAttention, nn.Embedding)

Known = Features | Action | Pixels


@dataclass(frozen=True)
class Trace:
    """What one forward pass showed.

    spaces: the action on each parameter. output: what acts on the output; leaves: on each of its
    tensors, by the names of ``trees.leaves``. broken: per layer, the grids before and after, and
    sizes; asymmetric: per layer, why its function does not commute with the group. narrow: the
    kernels, per layer, that the group does not map to themselves; taken: what was taken to act on
    outputs of layers, to be put together with pixels; assumed: where, after which function, it was
    assumed that what is not known does not matter. unused: layers that did not run, and parameters
    that were not seen. outputs: what acts on the outputs of modules, in the order in which they
    returned. returned: what the model returned. gradients: whether it differentiates in forward,
    and so does not run without gradients. statistics: layers that take statistics of each channel,
    where these move.
    """

    spaces: list[Space]
    output: Known | Unknown
    broken: dict[str, str]
    unused: list[str]
    outputs: dict[str, Features]
    asymmetric: dict[str, str] = field(default_factory=dict)
    narrow: dict[str, tuple[int, ...]] = field(default_factory=dict)
    assumed: dict[str, str] = field(default_factory=dict)
    taken: dict[str, Representation] = field(default_factory=dict)
    leaves: dict[str, Known | Unknown] = field(default_factory=dict)
    returned: Any = None
    gradients: bool = False
    statistics: dict[str, Representation] = field(default_factory=dict)


def trace(
    model: nn.Module,
    example: Any,
    features: Known | Mapping[str, Known],
    given: Mapping[str, Pair],
    *,
    sizes: bool = True,
    stop: bool = False,
) -> Trace:
    """Run ``model`` on ``example`` in evaluation mode and say what acts on its parameters.

    example: a tensor, a tuple of arguments, or a dict of arguments by name. features: what acts on
    it, on each tensor by its name in ``trees.leaves(example)``; tensors without a name there are
    constants. given: per layer (input, output), or None for a layer to be left out. sizes: whether
    to look for sizes that work where a layer breaks the grid. stop: whether to raise ``Broken`` at
    the first function that breaks the symmetry, where that is all that is asked. Raises ValueError
    for a layer whose parameters cannot be placed, naming it and what to pass.
    """
    given = by_first_name(model, given)
    known = features if isinstance(features, Mapping) else {"": features}
    group = next(iter(known.values())).group

    def run(gradients: bool) -> Trace:
        taken, refused = dict[str, Representation](), None
        while True:  # until no layer has to be taken otherwise than so far
            said = given | {name: (_first(given, name), rho) for name, rho in taken.items()}
            lenient = refused is not None
            follower = Follower(model, group, said, sizes=sizes, stop=stop, lenient=lenient)
            try:
                output = _run(model, copied(example, gradients=gradients), known, follower)
            except ValueError as error:
                if follower.taken.keys() <= taken.keys():
                    if refused or not follower.assumed:
                        raise (refused or error) from None
                    refused = error
                    continue
            if follower.taken.keys() <= taken.keys():
                follower.taken = taken
                return _found(model, follower, output, gradients)
            taken |= follower.taken

    return differentiating(run)


def _first(given: Mapping[str, Pair], name: str) -> Given:
    """What the user said of a layer's input."""
    return (given.get(name) or (None, None))[0]


def _run(model: nn.Module, example: Any, known: Mapping[str, Known], follower: Follower) -> Any:
    """What the model returns, while it is followed."""
    devices = [x.device for _, x in leaves(example) if x.device.type == "cuda"]
    with ExitStack() as stack:
        for name, module in model.named_modules():
            for hook in follower.hooks(name, module):
                stack.callback(hook.remove)
        stack.enter_context(torch.random.fork_rng(list(set(devices))))
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        for name, tensor in leaves(example):
            if name in known:
                follower.tag(tensor, _action(known[name], tensor))
        stack.enter_context(follower)
        return call(model, example)


def _action(known: Known, tensor: Tensor) -> Action:
    if isinstance(known, Action):
        return known if known.shape == tensor.shape else known.of_samples(len(tensor))
    if isinstance(known, Pixels):
        return known.action(tensor.shape)
    return Action.of(known, tensor.shape)


def _found(model: nn.Module, follower: Follower, output: Any, gradients: bool) -> Trace:
    each = dict[str, Known | Unknown]()
    for path, tensor in leaves(output):
        tag = follower.finished(tensor)
        if isinstance(tag, Action) and (_has_samples(tag) or not tag.axes):
            each[path] = tag.features() or tag
        else:
            each[path] = tag if isinstance(tag, Unknown) else Unknown(follower.made_by(tensor))
    if isinstance(output, Tensor):
        found = each[""]
    else:
        found = Unknown(f"an output of type {type(output).__name__}")
    return Trace(
        list(follower.spaces.values()),
        found,
        follower.broken,
        _unused(model, follower),
        follower.outputs,
        follower.asymmetric,
        follower.narrow,
        follower.assumed if follower.lenient else {},
        follower.taken,
        each,
        mapped(lambda _, x: x.detach(), output),
        gradients,
        follower.statistics,
    )


def _has_samples(action: Action) -> bool:
    """Whether the first axis does not move, as that of samples."""
    return bool(action.axes) and action.closed([0]) and action.take([0]).is_trivial


def _unused(model: nn.Module, follower: Follower) -> list[str]:
    """Layers none of whose parameters were seen, and single parameters of the others."""
    result = list[str]()
    for name, module in model.named_modules():
        own = _own(module)
        if not own or follower.left_out(name):
            continue
        missing = [key for key in own if id(getattr(module, key)) not in follower.seen]
        if len(missing) == len(own):
            result.append(name)
        else:
            result += [f"{name}.{key}" if name else key for key in missing]
    return result


def by_first_name(model: nn.Module, given: Mapping[str, Pair]) -> dict[str, Pair]:
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
        followed = isinstance(module, PLACED) or _own(module) or of_module(module)
        if name and pair and not followed and [*module.parameters()]:
            raise ValueError(
                f"representations: {name!r} is a {type(module).__name__} that holds layers; "
                "accepted: the layers in it, modules without parameters, or None to leave all of "
                "it out"
            )
        result[first[module]] = pair
    return result


__all__ = [
    "LINEAR",
    "PLACED",
    "Features",
    "Given",
    "Pair",
    "Pixels",
    "Space",
    "Trace",
    "Unknown",
    "acts_on_grids",
    "by_first_name",
    "functions",
    "layers",
    "on_grid",
    "trace",
]
