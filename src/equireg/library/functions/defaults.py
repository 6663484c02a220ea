"""Functions that no rule is registered for: what acts on the result is guessed and then tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from equireg.library.atoms import Axis, Lost, moving, still
from equireg.library.blocks import acts_on_grids, on_grid, resized
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.functions import numbered
from equireg.library.functions.grids import not_symmetric, pools_commute
from equireg.library.pieces import Piece
from equireg.library.registry import follows
from equireg.symmetry.representations import Representation

POOLS = {
    f"{kind}_pool{axes}d"
    for kind in ("max", "avg", "lp", "adaptive_max", "adaptive_avg")
    for axes in (1, 2, 3)
}


def follow(call: Call) -> list[Action | Unknown]:
    """What acts on each result."""
    if call.unknown:
        found: list[Action | Unknown] = [call.unknown] * len(call.results)
    else:
        found = [_result(call, number, x) for number, x in enumerate(call.results)]
    if call.parameters and not all(map(call.left_out, map(call.layer_of, call.parameters))):
        inputs = [tag for x in call.data if isinstance(tag := call.of(x), Action)]
        if call.unknown or not all(tag.is_trivial for tag in inputs):
            raise call.refusal(call.parameters[0])
        for parameter in call.parameters:
            call.settle(parameter)
    return found


def _result(call: Call, number: int, result: Tensor) -> Action | Unknown:
    inputs = [tag for x in call.data if isinstance(tag := call.of(x), Action)]
    if not result.numel() or all(tag.is_trivial for tag in inputs):
        return call.trivial(result)
    pools = call.name in POOLS and len(inputs) == 1
    if len(inputs) == 1 and not call.parameters and not pools:
        source = numbered.sources(call, call.data[0], number)
        if source is not None:
            return _cut_out(call, inputs[0], source)
    found = _guess(call, inputs, result)
    if found is None or not result.is_floating_point():
        return Unknown(call.name)
    try:
        if pools_commute(call, inputs[0], found) if pools else call.commutes(number, found):
            return found
    except Exception:  # it does not run on random data
        call.asymmetric("could not be tried on random data")
        return found
    before = inputs[0].shape[2:]
    if len(inputs) == 1 and inputs[0].shape != found.shape:
        call.broken(not_symmetric(call, before, found.shape[2:]))
    else:
        call.asymmetric(f"does not commute with {call.group.name}")
    return found


def _cut_out(call: Call, whole: Action, source: np.ndarray) -> Action:
    """A part of a tensor, or its entries in another order."""
    if call.name != "getitem":
        return numbered.follow(call, whole, source)
    with call.deferring() as said:
        found = numbered.follow(call, whole, source)
    if not said:
        return found
    return Piece(found.group, found.axes, call.where, said[0], whole, call.data[0], source)


def _guess(call: Call, inputs: Sequence[Action], result: Tensor) -> Action | None:
    """The largest input's action, with other sizes where its axes changed."""
    largest = max(inputs, key=lambda action: (sum(map(len, action.axes)), action.shape))
    shape, group = tuple(result.shape), call.group
    if largest.shape == shape:
        return largest
    if len(largest.axes) != len(shape):
        rest = largest.shape[2:]
        if len(shape) == 2 and largest.shape[:2] == shape and acts_on_grids(group, rest):
            return largest.take([0, 1]) if largest.closed([0, 1]) else None
        return None
    changed = [i for i, (a, b) in enumerate(zip(largest.shape, shape, strict=True)) if a != b]
    moved = [i for i in changed if any(b.rho is not None for b, _ in largest.axes[i])]
    new: dict[int, Axis] = {i: still(shape[i]) for i in changed}
    if moved:
        blocks = {block for i in moved for block, _ in largest.axes[i]}
        axes = [i for i, axis in enumerate(largest.axes) if any(b in blocks for b, _ in axis)]
        space = tuple(shape[i] for i in axes)
        part = largest.take(axes)
        rho = resized(part.representation(), part.shape, space) or _tokens(part, space)
        if rho is None:
            return None
        new |= dict(zip(axes, moving(rho, space), strict=True))
    try:
        return largest.replaced(new)
    except Lost:
        return None


def _tokens(part: Action, space: Sequence[int]) -> Representation | None:
    """What acts on fewer tokens of an image, in the order of its pixels, if they make a square."""
    side = math.isqrt(space[0])
    atoms = part.axes[0]
    if len(space) != 1 or side * side != space[0] or len(atoms) != 2:
        return None
    whole = tuple(block.shape[place] for block, place in atoms)
    if not acts_on_grids(part.group, whole):
        return None
    return resized(part.representation(), whole, (side, side))


@follows("fold")
def folded(call: Call) -> Action | Unknown:
    """Overlapping patches summed up to an image: the inverse of unfold's rule."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return found if isinstance(found, Unknown) else Unknown(call.name)
    shape = tuple(call.results[0].shape)
    inner = found.reshape(
        (*found.shape[:1], shape[1], -(-found.shape[1] // shape[1]), found.shape[2])
    )
    space = moving(on_grid(call.group, shape[2:]), shape[2:])
    result = Action(call.group, (*inner.axes[:2], *space))
    if not inner.closed([0, 1]):
        raise Lost
    if not call.commutes(0, result):
        call.broken(not_symmetric(call, (found.shape[2],), shape[2:]))
    return result


@follows("max_unpool1d", "max_unpool2d", "max_unpool3d")
def unpooled(call: Call) -> Action | Unknown:
    """Back to where maxima came from: symmetric where the pooling was."""
    found = call.of(call.argument(0, "input"))
    if not isinstance(found, Action):
        return found if isinstance(found, Unknown) else Unknown(call.name)
    return _guess(call, [found], call.results[0]) or Unknown(call.name)
