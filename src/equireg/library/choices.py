"""What a user says of a model's layers: by name, by patterns, of all at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from equireg.library.tracing import LINEAR, PLACED, Given, Pair, Trace, acts_on_grids
from equireg.library.trees import call, copied, leaves, mapped
from equireg.library.untouched import differentiating, untouched
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, check_one_group

Choice = Mapping[str, Pair] | str | None  # per layer or pattern; "regular": all but the heads
SPECIAL = re.compile(r"[*?\[]")
MANY = 100  # refusals that one message lists


def choose(
    model: nn.Module, group: Group, example: Any, axes: int, choice: Choice, prefix: str
) -> dict[str, Pair]:
    """The pair of each layer by its exact name, from names and patterns as in a shell.

    axes: how many axes of pixels the group moves in the inputs. Exact names win over patterns,
    later patterns over earlier ones. A pair by a pattern is for layers with weights from channels
    to channels; None for whatever matches. Raises ValueError for what matches nothing, and for what
    is no representation.
    """
    if isinstance(choice, str):
        return _all(model, group, example, choice)
    if not (choice is None or isinstance(choice, Mapping)) or not all(
        isinstance(key, str) for key in choice or ()
    ):
        shown = choice.name if isinstance(choice, Representation) else repr(choice)
        raise ValueError(
            f"representations is {shown}; accepted: 'regular', or a dict of pairs (input, output) "
            "by layers' names"
        )
    modules = dict(model.named_modules(remove_duplicate=False))
    first = {module: name for name, module in model.named_modules()}
    exact, matched = dict[str, Pair](), dict[str, Pair]()
    for key, pair in (choice or {}).items():
        pattern = key.removeprefix(prefix)
        _check(pattern, pair, group, axes)
        if pattern in modules or not SPECIAL.search(pattern):
            exact[pattern] = pair
            continue
        names = [n for n in modules if n and fnmatchcase(n, pattern)]
        if pair is not None:
            names = [n for n in names if isinstance(modules[n], LINEAR)]
        if not names:
            layers = ", ".join(n for n, m in modules.items() if isinstance(m, PLACED))
            raise ValueError(f"representations: no layer matches {key!r}; accepted: {layers}")
        matched |= {first[modules[name]]: pair for name in names}
    said = {first.get(modules[name]) for name in exact if name in modules}
    return {name: pair for name, pair in matched.items() if name not in said} | exact


def _all(model: nn.Module, group: Group, example: Any, choice: str) -> dict[str, Pair]:
    """Regular outputs for all layers that run, but for those that make the model's outputs."""
    if choice != "regular":
        raise ValueError(
            f"representations is {choice!r}; accepted: 'regular', or a dict of pairs (input, "
            "output) per layer"
        )
    ran, heads = _order(model, example)
    pairs, odd = dict[str, Pair](), list[str]()
    for name, size in ran.items():
        if name in heads:
            continue
        pairs[name] = (None, "regular" if size % group.order == 0 else "trivial")
        if size % group.order:
            odd.append(f"{name!r} has {size}")
    if odd:
        raise ValueError(
            f"representations is 'regular', for multiples of {group.order} channels; layer "
            f"{', layer '.join(odd)}; change them, or pass representations={pairs!r}"
        )
    return pairs


def _order(model: nn.Module, example: Any) -> tuple[dict[str, int], set[str]]:
    """Layers in the order in which they run, with their channels; and those that run last."""
    ran, made = dict[str, int](), dict[int, str]()
    kept = list[Tensor]()  # from reuse of their ids

    def note(name: str) -> Callable[..., None]:
        def hook(module: Any, args: Any, out: Any) -> None:
            if isinstance(out, Tensor):
                ran[name] = getattr(module, "out_channels", 0) or module.out_features
                made[id(out)] = name
                kept.append(out)

        return hook

    hooks = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if isinstance(module, LINEAR)
    ]
    try:
        with untouched(model), torch.compiler.set_stance("force_eager"):
            output = differentiating(lambda on: call(model, copied(example, gradients=on)))
    finally:
        for hook in hooks:
            hook.remove()
    heads = {made[id(tensor)] for _, tensor in leaves(output) if id(tensor) in made}
    return ran, heads | set(list(ran)[-1:])


def _check(name: str, pair: Any, group: Group, axes: int) -> None:
    """Raise ValueError for what is no pair of representations of this group, or None."""
    if pair is None:
        return
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(
            f"layer {name!r}: representations are {pair!r}; accepted: a pair (input, output), or "
            "None to leave the layer out"
        )
    for end, rho in zip(("input", "output"), pair, strict=True):
        check_given(f"layer {name!r}: {end}", rho, group, axes)


def check_given(what: str, rho: Given | Any, group: Group, axes: int) -> None:
    """Raise ValueError for what is no representation of this group.

    axes: of pixels, beside the channels. Components of vectors on a pixel grid have an order, which
    ``defining`` does not show.
    """
    if rho is not None and not isinstance(rho, (str, Representation)):
        raise ValueError(
            f"{what} is {rho!r}; accepted: a Representation, 'trivial', 'regular', or None"
        )
    if isinstance(rho, Representation):
        check_one_group(group, rho.group)
        if axes > 1 and acts_on_grids(group, (1,) * axes) and "defining" in rho.name:
            raise ValueError(
                f"{what} is {rho.name}, on components in the order of the pixels' axes (row, "
                f"column), which may not be yours; accepted: equireg.representations.vectors("
                f"group, 'ij') for this order, 'xy' for (x, y) with y downwards, 'xy up'"
            )


def check_model(model: nn.Module, example: Any) -> Any:
    """The example on the model's device and in its type; ValueError for what is not followed."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {model!r}; accepted: an nn.Module")
    tensors = dict(leaves(example))
    if not tensors or (isinstance(example, (tuple, list, Mapping)) and not example):
        raise ValueError(
            f"example is a {type(example).__name__}; accepted: a tensor (samples, channels, "
            "*pixels); for models of several inputs a tuple by position, or a dict by name"
        )
    for path, tensor in tensors.items():
        what = f"example {path}".rstrip()
        if tensor.is_nested or tensor.layout != torch.strided:
            raise ValueError(
                f"{what} is nested or of layout {tensor.layout}; accepted: dense tensors"
            )
        shape = tuple(tensor.shape)
        if (not path and tensor.ndim < 2) or (tensor.ndim and not len(tensor)):
            raise ValueError(f"{what} has shape {shape}; accepted: (samples, channels, *pixels)")
        if tensor.is_complex():
            raise ValueError(f"{what} is {tensor.dtype}; accepted: real inputs")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                f"module {name!r} is scripted, and cannot be followed; accepted: the module before "
                "torch.jit.script"
            )
    parameters = dict(model.named_parameters())
    if not parameters:
        raise ValueError(
            f"the model, a {type(model).__name__}, has no parameters; accepted: one with layers"
        )
    for name, parameter in parameters.items():
        for wrong, what, accepted in (
            (
                isinstance(parameter, UninitializedParameter),
                "not initialized",
                "a model that has run once",
            ),
            (hasattr(parameter, "device_mesh"), "sharded", "the model before it is sharded"),
            (parameter.is_meta, "on the meta device, without values", "weights with values"),
            (parameter.is_complex(), f"{parameter.dtype}", "real weights"),
            (parameter.layout != torch.strided, f"of layout {parameter.layout}", "dense weights"),
        ):
            if wrong:
                raise ValueError(f"parameter {name!r} is {what}; accepted: {accepted}")
    place: Tensor = next(iter(parameters.values()))

    def held(path: str, tensor: Tensor) -> Tensor:
        moved = tensor.detach().clone().to(place.device)
        return moved.to(place.dtype) if moved.is_floating_point() else moved

    return mapped(held, example)


def all_refusals(run: Callable[[Mapping[str, Pair]], Trace], given: dict[str, Pair]) -> Trace:
    """``run(given)``; where it is refused, with all refusals at once and the dict to pass."""
    said, refusals, found = dict(given), list[ValueError](), list[tuple[str, Pair]]()
    while True:
        try:
            trace = run(said)
        except ValueError as error:
            refusals.append(error)
            advice = _advice(error)
            if advice is None or advice[0] in said or len(refusals) > MANY:
                break
            found.append(advice)
            said[advice[0]] = advice[1]
            continue
        if not refusals:
            return trace
        break
    if len(refusals) == 1:
        raise refusals[0]
    lines = "\n".join(f"  {error}" for error in refusals)
    raise ValueError(
        f"{len(refusals)} refusals:\n{lines}\nin one, where that is what you mean: "
        f"representations={given | dict(found)!r}"
    ) from refusals[0]


def _advice(error: ValueError) -> tuple[str, Pair] | None:
    """The layer and the pair that a refusal says to pass."""
    pair = r"\{'[^{}]*'[^{}]*: (?:None|\('trivial', None\))\}"
    match = re.search(f"representations=({pair})", f"{error}")
    return next(iter(ast.literal_eval(match[1]).items())) if match else None
