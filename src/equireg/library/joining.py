"""Tensors whose axes are labelled, and meet: what acts along each label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from equireg.library.atoms import Axis, Lost
from equireg.library.features import Action
from equireg.symmetry.groups import Group


class Apart(ValueError):  # noqa: N818
    """Tensors meet that are moved otherwise; holds the names of what acts on both."""


def join(operands: Sequence[tuple[Action, Sequence[Hashable]]]) -> dict[Hashable, Axis]:
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


def differ_in_pixels(pairs: Sequence[tuple[Action, Sequence[Hashable]]]) -> bool:
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
