"""Tensors whose axes are labelled, and meet: what acts along each label."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence

from equireg.library.atoms import Axis, Block, Lost
from equireg.library.blocks import acts_on_grids, on_grid
from equireg.library.features import Action
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation

Labelled = tuple[Action, Sequence[Hashable]]  # what acts on a tensor, and a label per axis


class Apart(ValueError):  # noqa: N818
    """Tensors meet that are moved otherwise; holds the names of what acts on both."""


def join(operands: Sequence[Labelled]) -> dict[Hashable, Axis]:
    """What acts along each label, of tensors whose axes are labelled.

    Axes of one label that move in several tensors must move alike in all of them; axes of one
    entry are broadcast. Raises Apart if they do not, or if a block would be cut.
    """
    known: dict[Hashable, Axis] = {}
    for action, labels in operands:
        action = action.fresh()
        mine = {label: axis for label, axis in zip(labels, action.axes, strict=True) if axis}
        shared = [label for label in mine if label in known]
        if shared:
            one = Action(action.group, (*known.values(),))
            places = [[*known].index(label) for label in shared]
            others = [[*labels].index(label) for label in shared]
            if not (one.closed(places) and action.closed(others)):
                raise Apart(str(one), str(action))
            first, second = one.take(places), action.take(others)
            if not first.equals(second):
                raise Apart(*_names(first, second))
        known |= {label: axis for label, axis in mine.items() if label not in known}
    return known


def _names(one: Action, two: Action) -> tuple[str, str]:
    """The names of both."""
    result = []
    for action in (one, two):
        try:
            result.append(" * ".join(piece.name for piece in action.pieces()))
        except Lost:
            result.append(str(action))
    return result[0], result[1]


def differ_in_pixels(pairs: Sequence[Labelled]) -> bool:
    """Whether tensors have the same channels, on pixels that all move, but not alike.

    Channels side by side, as in cat, need not be the same. Pixels that do not move are a layer's
    output that the user may have to name.
    """
    first, labels = pairs[0]
    rest = range(2, len(first.axes))
    if not rest:
        return False
    return all(
        len(names) == len(labels)
        and all(names[axis] == labels[axis] for axis in rest)
        and one.shape[2:] == first.shape[2:]
        and one.closed([0, 1])
        and not one.take(rest).is_trivial
        and (names[1] != labels[1] or one.take([0, 1]).equals(first.take([0, 1])))
        for one, names in pairs
    )


def restricted(
    group: Group, known: Mapping[Hashable, Axis], labels: Sequence[Hashable], shape: Sequence[int]
) -> Action:
    """What acts on these labels alone, for this shape. Raises Lost if it cuts a block."""
    chosen = {label for label, n in zip(labels, shape, strict=True) if n > 1}
    within = {block for label in chosen for block, _ in known.get(label, ())}
    for label, axis in known.items():
        if label not in chosen and any(block in within for block, _ in axis):
            raise Lost
    base = Action.trivial(group, shape).axes
    axes = [
        known[label] if n > 1 and label in known else axis
        for label, n, axis in zip(labels, shape, base, strict=True)
    ]
    return Action(group, tuple(axes))


def cuts_pixels(
    group: Group, known: Mapping[Hashable, Axis], labels: Sequence[Hashable], shape: Sequence[int]
) -> bool:
    """Whether these labels hold a part of some pixels, such as their rows, or else whole blocks."""
    chosen = {label for label, n in zip(labels, shape, strict=True) if n > 1}
    inside = {block for label in chosen for block, _ in known.get(label, ())}
    rest = {b for label, axis in known.items() if label not in chosen for b, _ in axis}
    return bool(inside & rest) and all(_is_grid(group, block) for block in inside & rest)


def like_pixels(pairs: Sequence[Labelled]) -> tuple[list[Labelled], dict[str, Representation]]:
    """The same with outputs of linear layers moved like the pixels that they meet.

    Only those of which nobody said how they move, by the layers that made them.
    """
    result, taken = list[Labelled](), dict[str, Representation]()
    for action, labels in pairs:
        new = dict[int, Axis]()
        for i, label in enumerate(labels):
            (block, _), *more = action.axes[i] or ((Block(None, (1,)), 0),)
            found = _pixels_along(pairs, label) if block.layer and not more else None
            if found and block.rho is None and found[0].size == block.shape[0]:
                taken[block.layer], new[i] = found
        result.append((action.replaced(new).fresh(), labels))
    return result, taken


def beside_pixels(pairs: Sequence[Labelled]) -> list[Labelled]:
    """The same without axes that are not known to move with the pixels that lie along them."""
    result = list[Labelled]()
    for action, labels in pairs:
        new = {
            i: ()
            for i, label in enumerate(labels)
            if action.axes[i]
            and all(block.rho is None for block, _ in action.axes[i])
            and any(_holds_pixels(other, names, label) for other, names in pairs)
        }
        result.append((action.replaced(new), labels))
    return result


def _pixels_along(pairs: Sequence[Labelled], label: Hashable) -> tuple[Representation, Axis] | None:
    """What moves the pixels that lie along this label in one of the tensors."""
    for action, labels in pairs:
        if label not in labels:
            continue
        i = [*labels].index(label)
        blocks = dict.fromkeys(block for block, _ in action.axes[i])
        if len(blocks) == 1 and action.closed([i]) and _holds_pixels(action, labels, label):
            return action.take([i]).representation(), action.axes[i]
    return None


def _holds_pixels(action: Action, labels: Sequence[Hashable], label: Hashable) -> bool:
    """Whether what moves along this label is the pixels of grids, perhaps of many samples."""
    axis = action.axes[[*labels].index(label)] if label in labels else ()
    moving = [block for block, _ in axis if block.rho is not None]
    return bool(moving) and all(_is_grid(action.group, block) for block in moving)


def _is_grid(group: Group, block: Block) -> bool:
    """Whether a block is the pixels of a grid; on one axis, of a square or a cube."""
    if block.rho is None or not group.moves_pixels:
        return False
    shape, axes = block.shape, group.elements.shape[-1]
    if len(shape) == 1:
        shape = (round(math.pow(shape[0], 1 / axes)),) * axes
    if not acts_on_grids(group, shape) or math.prod(shape) != block.rho.size:
        return False
    try:
        return on_grid(group, shape).equals(block.rho)
    except ValueError:
        return False
