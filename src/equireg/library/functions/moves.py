"""Functions that only move data.

Reshapes and permutations of axes act on the lists of atoms; tensors side by side on the sums of
what acts on them. All others (slices, roll, flip, pad, unfold, repeat, pixel shuffle, indexing) go
one way, that of ``numbered``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from equireg.library.arguments import swapped
from equireg.library.atoms import Axis, Lost, moving, still
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.functions import numbered
from equireg.library.meeting import contract, joined
from equireg.library.registry import follows
from equireg.symmetry.representations import Representation, direct_sum

Found = Action | Unknown


@follows(
    *("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"),
    *("ravel", "_reshape_alias", "squeeze_", "atleast_2d", "atleast_3d"),
)
def reshaped(call: Call) -> Found:
    """The same entries in row-major order."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return _unknown(found)
    if call.results[0].dtype != call.data[0].dtype:  # a view of other bits
        return Unknown(call.name)

    def bent(rho: Representation) -> None:
        call.memory["bent"] = {}
        call.asymmetric(
            f"to {tuple(call.results[0].shape)}: windows that the group does not map to windows, "
            "as where they are shifted by other than half their side; at any size of the images"
        )

    return found.reshape(call.results[0].shape, bent)


@follows(
    *("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "T", "mT"),
    *("adjoint", "H", "mH", "channels_last", "numpy_T"),
)
def permuted(call: Call) -> Found:
    """The axes in another order, read off the strides of what it makes of a contiguous tensor."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return _unknown(found)
    # Sizes of two and more, so that no strides coincide.
    probe = torch.empty([2] * call.data[0].ndim, device="meta")
    strides = probe.stride()
    moved = _probed(call, probe)
    return found.permute([strides.index(stride) for stride in moved.stride()])


def _probed(call: Call, probe: Tensor) -> Tensor:
    source = call.data[0]

    def swap(x: Tensor) -> Tensor:
        return probe if x is source else x

    return call._function(*swapped(swap, call.args), **swapped(swap, call.kwargs))  # type: ignore[no-any-return]


@follows("cat", "concat", "concatenate")
def side_by_side(call: Call) -> Found | None:
    """Side by side along one axis: the direct sum there, the same on the other axes."""
    parts = list(call.argument(0, "tensors"))
    axis = call.argument(1, "dim", "axis", default=0) % call.results[0].ndim
    if whole := _whole(call, parts, lambda sources: np.concatenate(sources, axis)):
        return whole
    if call.unknown:
        return call.unknown
    parts = [x for x in parts if x.ndim == call.results[0].ndim and x.shape[axis]]
    others = joined(call, [(x, _labels(x, axis, k)) for k, x in enumerate(parts)])
    if isinstance(others, Unknown):
        return others
    shape = call.results[0].shape
    along = list[Representation]()
    for x in parts:
        tag = call.of(x)
        if not isinstance(tag, Action):
            sizes = [n if i != axis else 1 for i, n in enumerate(x.shape)]
            one = Action(
                call.group,
                tuple(
                    others.get(i, still(n)) if i != axis else still(x.shape[axis])
                    for i, n in enumerate(sizes)
                ),
            )
            call.place(x, one)
            tag = one
        if not tag.closed([axis]):
            return None  # such as rows of an image
        along.append(tag.take([axis]).representation())
    if all(rho.is_trivial for rho in along):
        new: Axis = still(shape[axis])
    else:
        new = moving(direct_sum(*along), [shape[axis]])[0]
    axes = [others.get(i, still(shape[i])) for i in range(len(shape))]
    axes[axis] = new
    return Action(call.group, tuple(axes))


def _whole(
    call: Call, parts: list[Tensor], join: Callable[[list[np.ndarray]], np.ndarray]
) -> Action | None:
    """Pieces of one tensor that together the group maps to one another, or None."""
    if pieces := call.pieces(parts):
        try:
            with call.deferring() as said:
                source = join([piece.source for piece in pieces])
                found = numbered.follow(call, pieces[0].whole, source)
            if not said:
                return found
        except Lost:
            pass
    call.part()
    return None


def _labels(x: Tensor, axis: int, part: int) -> list[object]:
    return [("part", part) if i == axis else i for i in range(x.ndim)]


@follows("one_hot")
def one_hot(call: Call) -> Found:
    """A new last axis, of classes, which does not move."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return _unknown(found)
    return Action(call.group, (*found.axes, still(call.results[0].shape[-1])))


@follows("stack")
def stacked(call: Call) -> Found:
    """Along a new axis, which does not move."""
    parts = list(call.argument(0, "tensors"))
    axis = call.argument(1, "dim", default=0) % call.results[0].ndim
    if whole := _whole(call, parts, lambda sources: np.stack(sources, axis)):
        return whole
    found = contract(call, [(x, range(x.ndim)) for x in parts], range(parts[0].ndim))
    if isinstance(found, Unknown):
        return found
    return Action(call.group, (*found.axes[:axis], still(len(parts)), *found.axes[axis:]))


def _unknown(found: object) -> Unknown:
    return found if isinstance(found, Unknown) else Unknown("a function of parameters")
