"""Convolutions: A in Hom(rho_in * grid of the kernel, rho_out) on (samples, channels, *space).

A stride that does not divide the grid evenly breaks its symmetry, whatever the weights: tried with
a random symmetric filter on turned pixels.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from torch import Tensor

from equireg.library.atoms import Axis, Lost, moving, still
from equireg.library.blocks import Turn, acts_on_grids, on_grid, turn_of, turned
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.functions.grids import not_symmetric, times
from equireg.library.layers.kernels import on_kernel
from equireg.library.parameters import Derived, pieces_of
from equireg.library.registry import follows
from equireg.library.trials import commutes
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.representations import Representation, trivial

NAMES = ("conv1d", "conv2d", "conv3d")
TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


@follows(*NAMES, *TRANSPOSED)
def convolution(call: Call) -> Action | Unknown | None:
    """The channels and the grid after it."""
    x, weight, bias = (call.argument(i, n) for i, n in enumerate(("input", "weight", "bias")))
    dims = int(call.name[-2])
    layer, transposed = call.layer_of(weight), call.name in TRANSPOSED
    groups = call.argument(6, "groups", default=1)
    found, held = call.of(x), call.of(weight)
    if not isinstance(held, Derived):  # a fixed filter, or one that depends on the inputs
        return None if held is None and isinstance(found, Action) else Unknown(call.name)
    if isinstance(found, Derived):
        found = call.settle(x)
    result = call.results[0]
    batched = x.ndim == 2 + dims
    shape = tuple(x.shape) if batched else (1, *x.shape)
    after_shape = tuple(result.shape) if batched else (1, *result.shape)
    kernel = tuple(weight.shape[2:])
    single = set(kernel) == {1} and shape[2:] == after_shape[2:]  # of each pixel alone
    known = found if isinstance(found, Action) else None
    if known and not batched:
        known = Action(call.group, ((), *known.axes))
    turn = None
    if known and not single:
        known, turn = _grid_of(call, known, shape)
    samples = known.axes[0] if known and known.closed([0]) else still(shape[0])
    left_out = call.left_out(layer)
    if left_out:
        rho_in, rho_out = trivial(call.group, shape[1]), trivial(call.group, after_shape[1])
    else:
        rho_found = known.take([1]).representation() if known and known.closed([1]) else None
        rho_in = call.chosen(layer, 0, shape[1], rho_found)
        if rho_found is None and not call.says_input(layer):
            raise call.lost(shape[1], found, layer)
        rho_out = call.chosen(layer, 1, after_shape[1])
    still_ends = rho_in.is_trivial and rho_out.is_trivial
    pixels = _pixels(call, layer, kernel, shape[2:], turn, still_ends, left_out or single)
    if not left_out:
        rows, columns = (rho_in, rho_out) if transposed else (rho_out, rho_in)
        pieces = _pieces(call, layer, rows, columns, pixels, groups)
        call.place(weight, pieces, layer=layer)
        if bias is not None:
            call.place(bias, [rho_out], layer=layer)
        product = symmetry.Space(*pieces)
        if acts_on_grids(call.group, shape[2:]) and not single:
            _try(call, product, (rho_in, rho_out), shape, after_shape, turn)
    if single and known:
        space = known.replaced({1: moving(rho_out, after_shape[1:2])[0]}).axes[2:]
        samples = known.axes[0]
    else:
        space = tuple(_grid(call, after_shape[2:], turn))
    axes: tuple[Axis, ...] = (samples, *moving(rho_out, after_shape[1:2]), *space)
    return Action(call.group, axes if batched else axes[1:])


convolution.settles = True  # type: ignore[attr-defined]


def _grid_of(
    call: Call, found: Action, shape: tuple[int, ...]
) -> tuple[Action | None, Turn | None]:
    """What acts on the input, if its pixels are those of a grid, or are taken for one.

    And how the grid was turned since it was an image: a convolution commutes with it as well.
    """
    space, places = shape[2:], tuple(range(2, len(shape)))
    try:
        standard = Action.on(
            call.group, space, {tuple(range(len(places))): on_grid(call.group, space)}
        )
    except ValueError:
        return found, None
    if not found.closed(places):
        return None, None
    part = found.take(places)
    if part.equals(standard):
        return found, None
    turn = turn_of(part.representation(), space)
    if turn is not None:
        return found, turn
    call.asymmetric(
        f"convolves {times(space)} pixels that the group moves otherwise than those of an image"
    )
    return found.replaced(dict(zip(places, standard.axes, strict=True))), None


def _grid(call: Call, space: tuple[int, ...], turn: Turn | None) -> list[Axis]:
    try:
        return moving(turned(call.group, space, turn), space)
    except ValueError:
        return [still(size) for size in space]


def _pixels(
    call: Call,
    layer: str,
    kernel: tuple[int, ...],
    space: tuple[int, ...],
    turn: Turn | None,
    still_ends: bool,
    left_out: bool,
) -> Representation:
    """What acts on the kernel's pixels; still_ends: whether channels do not move."""
    if left_out:
        return trivial(call.group, int(np.prod(kernel)))
    try:
        turned(call.group, space, turn)
        on = on_kernel if still_ends else turned
        found = on(call.group, kernel, turn)
    except ValueError as error:
        raise ValueError(
            f"layer {layer!r}: {error}; take another group, or pass "
            f"representations={{{layer!r}: None}} to leave it out"
        ) from None
    if found.permutations is None:
        call.narrow(layer, kernel)
    return found


def _pieces(
    call: Call,
    layer: str,
    rows: Representation,
    columns: Representation,
    pixels: Representation,
    groups: int,
) -> list[Representation]:
    """What acts on the weight, (rows, columns / groups, *kernel)."""
    if groups == 1:
        return [rows, columns, pixels]
    if rows.is_trivial and columns.is_trivial:
        return [rows, trivial(call.group, columns.size // groups), pixels]
    return [grouped(layer, rows, columns, groups) * pixels]


def grouped(
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


Ends = tuple[Representation, Representation]


def _try(
    call: Call,
    product: symmetry.Space,
    ends: Ends,
    shape: tuple[int, ...],
    after_shape: tuple[int, ...],
    turn: Turn | None,
) -> None:
    """Whether it commutes with the group for a random symmetric filter.

    Channels that do not move need one filter; others are tried as they are: less would hide what
    breaks on few pixels.
    """
    weight = call.argument(1, "weight")
    plain = all(rho.is_trivial for rho in ends)
    key: Hashable = (call.name, shape[2:], tuple(weight.shape[2:]), turn, str(_options(call)))
    if not plain:
        key = (key, weight.shape, ends)
    tried = call.memory.setdefault("convolutions", {})
    if key not in tried:
        tried[key] = _commutes(call, product, ends, shape[2:], turn, plain)
    if not tried[key]:

        def works(side: int) -> bool:
            return _commutes(call, product, ends, (side,) * (len(shape) - 2), turn, plain)

        sizes = call.sizes_that_work(works, max(shape[2:]))
        call.broken(not_symmetric(call, shape[2:], after_shape[2:], sizes))


def _options(call: Call) -> list[object]:
    named = {k: v for k, v in call.kwargs.items() if not isinstance(v, Tensor)}
    return [*call.args[3:6], *call.args[7:], *sorted(named.items())]


def _commutes(
    call: Call,
    product: symmetry.Space,
    ends: Ends,
    space: tuple[int, ...],
    turn: Turn | None,
    plain: bool,
) -> bool:
    x, weight = call.argument(0, "input"), call.argument(1, "weight")
    group, generator = call.group, torch.Generator().manual_seed(1)
    if plain:
        pixels = on_kernel(group, tuple(weight.shape[2:]), turn)
        product = symmetry.Space(*pieces_of(pixels, tuple(weight.shape[2:])))
        ends = (trivial(group, 1), trivial(group, 1))
    count, single = ends[0].size, torch.float32
    entries = torch.randn(product.shape, generator=generator, dtype=single)
    filters = product.project(entries.to(x.device)).reshape(
        (1, 1, *weight.shape[2:]) if plain else weight.shape
    )
    shape = (1, count, *space)
    before = Action.on(
        group, shape, {1: ends[0], tuple(range(2, len(shape))): turned(group, space, turn)}
    )

    def run(inputs: list[Tensor]) -> Tensor:
        return _convolve(call, inputs[0], filters, plain)

    like = torch.empty(0, dtype=single, device=x.device)
    out = run([torch.zeros(shape, device=x.device)])
    try:
        after = Action.on(
            group,
            out.shape,
            {
                1: ends[1],
                tuple(range(2, len(shape))): turned(group, tuple(out.shape[2:]), turn),
            },
        )
    except ValueError:
        return False
    return commutes(group, run, [before], after, [like])


def _convolve(call: Call, x: Tensor, filters: Tensor, plain: bool) -> Tensor:
    """The same function with these filters and no bias; one channel needs no groups."""
    kwargs, args = dict(call.kwargs), list(call.args)
    for name in ("input", "weight", "bias"):
        kwargs.pop(name, None)
    rest = args[3:]
    if plain:
        kwargs.pop("groups", None)
        if len(rest) > 3:
            rest[3] = 1
    return call.again(x, filters, None, *rest, **kwargs)


__all__ = ["Lost", "convolution", "grouped"]
