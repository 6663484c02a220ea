"""Tensors that meet in one call: products and sums over labelled axes, as in einsum."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Mapping, Sequence

from torch import Tensor

from equireg.library.atoms import Axis, Lost
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.joining import (
    Apart,
    Labelled,
    beside_pixels,
    cuts_pixels,
    differ_in_pixels,
    join,
    like_pixels,
    restricted,
)
from equireg.library.parameters import Derived
from equireg.library.trials import invariant

Operands = Sequence[tuple[Tensor, Sequence[Hashable]]]  # tensors, and a label for each axis
Known = Mapping[Hashable, Axis]  # what acts along each label


def contract(call: Call, operands: Operands, out: Sequence[Hashable]) -> Action | Unknown:
    """What acts on a product of tensors whose axes are labelled, as in einsum.

    Parameters get the action of their labels; constants are checked to be invariant. Raises
    ValueError where tensors that are moved otherwise meet.
    """
    operands = _without_unknown(call, operands, out)
    known = joined(call, operands)
    if isinstance(known, Unknown):
        return known
    for x, labels in operands:
        tag = call.of(x)
        if isinstance(tag, Action):
            continue
        if x.numel() == 1:  # spread over all entries, whatever moves them
            if isinstance(tag, Derived):
                call.settle(x)
        elif isinstance(tag, Derived):
            try:
                needed = restricted(call.group, known, labels, x.shape)
            except Lost:
                needed = _of_rows(call, x, tag, labels, known)
            call.place(x, needed, lenient=True)
        else:
            _constant(call, x, labels, known)
    sizes = {label: n for x, ls in operands for label, n in zip(ls, x.shape, strict=True) if n > 1}
    shape = [sizes.get(label, 1) for label in out]
    return restricted(call.group, known, out, shape)


def _without_unknown(call: Call, operands: Operands, out: Sequence[Hashable]) -> Operands:
    """The operands of which it is known what acts on them, if these have all labels of the result.

    And if it is to be assumed that the others do not matter, which a trial of the model shows.
    """
    unknown = [tag for x, _ in operands if isinstance(tag := call.of(x), Unknown)]
    if not unknown:
        return operands
    kept = [(x, labels) for x, labels in operands if not isinstance(call.of(x), Unknown)]
    known = [(x, labels) for x, labels in kept if isinstance(call.of(x), Action)]
    has, needs = (
        {label for x, labels in some for label, n in zip(labels, x.shape, strict=True) if n > 1}
        for some in (known, operands)
    )
    return kept if known and needs & {*out} <= has and call.assumes(unknown[0]) else operands


def joined(call: Call, operands: Operands) -> Known | Unknown:
    """What acts along each label. Raises ValueError where data meet that do not move alike."""
    pairs = list[Labelled]()
    for x, labels in operands:
        tag = call.of(x)
        if isinstance(tag, Unknown):
            return tag
        if isinstance(tag, Action):
            pairs.append((tag, labels))
    pairs.sort(key=lambda pair: -sum(map(len, pair[0].axes)))
    try:
        return join(pairs)
    except Apart as apart:
        found = _apart(call, pairs)
        if found is None:
            raise ValueError(
                f"{call.where} puts {apart.args[1]} and {apart.args[0]} together; pass the same "
                "output representation for the layers before it, or input= for what comes in"
            ) from None
        return found


def _apart(call: Call, pairs: list[Labelled]) -> Known | None:
    """What can be made of data that meet and do not move alike; None if nothing can."""
    alike, taken = like_pixels(pairs)
    call.take(taken)
    if taken:
        with contextlib.suppress(Apart):
            return join(alike)
    if differ_in_pixels(pairs):
        call.asymmetric("puts pixels together that the group moves otherwise")
        return join(pairs[:1])
    if call.is_asymmetric:
        with contextlib.suppress(Apart):
            known = join(beside_pixels(pairs))
            call.asymmetric("puts pixels beside what is not known to move with them")
            return known
    return None


def _of_rows(
    call: Call, x: Tensor, tag: Derived, labels: Sequence[Hashable], known: Known
) -> Action:
    """Nothing moves parameters of rows or of columns alone, which is noted; others are refused."""
    if not cuts_pixels(call.group, known, labels, x.shape):
        raise call.refusal(x)
    names = {owner.parameter for held in tag.sources for owner in held.owners[:1]}
    call.asymmetric(
        f"with {', '.join(sorted(names))}, of rows or columns of pixels alone; left as it is"
    )
    return call.trivial(x)


def _constant(call: Call, x: Tensor, labels: Sequence[Hashable], known: Known) -> None:
    """Check that the group leaves a constant as it is, spread over whole blocks."""
    mine = [label for label, n in zip(labels, x.shape, strict=True) if n > 1]
    blocks = {block for label in mine for block, _ in known.get(label, ())}
    more = [
        label
        for label, axis in known.items()
        if label not in mine and any(block in blocks for block, _ in axis)
    ]
    kept = x.detach().reshape([n for n in x.shape if n > 1])
    sizes = [Action(call.group, (known[label],)).shape[0] for label in more]
    kept = kept.expand(*sizes, *kept.shape)
    action = restricted(call.group, known, [*more, *mine], kept.shape)
    if not invariant(kept, action):
        call.asymmetric("with constants that the group moves")
