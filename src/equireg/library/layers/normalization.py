"""Normalization, and other layers that scale and shift entry by entry."""

from __future__ import annotations

import math

from torch import Tensor

from equireg.library.atoms import Lost
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.normalization import FieldBatchNorm
from equireg.library.parameters import Derived, combined
from equireg.library.registry import follows
from equireg.symmetry.representations import Representation


@follows("batch_norm", "instance_norm")
def per_channel(call: Call) -> Action | Unknown:
    """Statistics and parameters per channel, axis 1."""
    names = ("running_mean", "running_var", "weight", "bias")
    held = [call.argument(i + 1, name) for i, name in enumerate(names)]
    found = _scaled(call, [1], held)
    kept = held[0] is not None
    if isinstance(found, Action) and (kept or call.name == "batch_norm") and found.closed([1]):
        channels = found.take([1]).representation()
        if not channels.is_trivial:
            call.statistics(channels)
    return found


@follows(FieldBatchNorm)
def per_field(call: Call) -> Action | Unknown:
    """Statistics per field of channels, held and placed per channel."""
    module = call.module
    names = ("running_mean", "running_var", "weight", "bias")
    return _scaled(call, [1], [getattr(module, name) for name in names])


@follows("group_norm")
def per_group(call: Call) -> Action | Unknown:
    """Statistics per group of channels, parameters per channel."""
    held = [call.argument(2, "weight"), call.argument(3, "bias")]
    found = _scaled(call, [1], held)
    if isinstance(found, Action):
        _check_groups(call, found, call.argument(1, "num_groups"), call.argument(2, "weight"))
    return found


@follows("layer_norm", "rms_norm")
def over_last_axes(call: Call) -> Action | Unknown:
    """Statistics over the last axes, parameters per entry."""
    count = len(call.argument(1, "normalized_shape"))
    held = [call.argument(2, "weight"), call.argument(3, "bias")]
    if call.name == "rms_norm":
        held = held[:1]
    return _scaled(call, list(range(-count, 0)), held)


@follows("prelu")
def prelu(call: Call) -> Action | Unknown:
    """A slope per channel, or one for all."""
    weight = call.argument(1, "weight")
    return _scaled(call, [1] if weight.numel() > 1 else [], [weight])


@follows("local_response_norm")
def across_channels(call: Call) -> Action | Unknown:
    """Statistics over neighbouring channels, which must not move."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return found if isinstance(found, Unknown) else Unknown(call.name)
    if not found.closed([1]) or not found.take([1]).is_trivial:
        raise Lost
    return found


def _scaled(call: Call, axes: list[int], held: list[Tensor | None]) -> Action | Unknown:
    """The parameters move like these axes of the input, which stays as it is."""
    x = call.argument(0, "input")
    found = call.of(x)
    if isinstance(found, Derived):
        found = call.settle(x)
    parameters = [h for h in held if isinstance(h, Tensor)]
    layer = call.layer_of(parameters[0]) if parameters else call.layer
    if call.left_out(layer):
        return found if isinstance(found, Action | Unknown) else Unknown(call.name)
    size = math.prod(x.shape[axis] for axis in axes)
    pieces = list[Representation]()
    if isinstance(found, Action) and found.closed(axes):
        pieces = found.take(axes).pieces() if axes else []
    elif not (parameters or isinstance(found, Action)):
        return found if isinstance(found, Unknown) else Unknown(call.name)
    elif not call.says_input(layer) and axes:
        raise call.lost(size, found, layer)
    if axes and (call.says_input(layer) or not pieces):
        known = combined(call.group, pieces) if pieces else None
        pieces = [call.chosen(layer, 0, size, known)]
    if axes:
        call.chosen(layer, 1, size, combined(call.group, pieces))
    if parameters and any(piece.permutations is None for piece in pieces):
        raise ValueError(
            f"layer {layer!r}: {type(call.module).__name__} works entry by entry, which only "
            f"permutations commute with; its input is {pieces[0].name}"
        )
    if isinstance(found, Action) and not found.permutes:
        _check_vectors(call, found, axes)
    for parameter in parameters:
        call.place(parameter, pieces, layer=layer)
    return found if isinstance(found, Action) else Unknown(call.name)


def _check_vectors(call: Call, found: Action, axes: list[int]) -> None:
    """Note that entries of vectors are normalized one by one, but for lengths of whole vectors."""
    normalized = {axis % len(found.axes) for axis in axes}
    rest = [axis for axis in range(len(found.axes)) if axis not in normalized]
    if call.name != "rms_norm" or not found.closed(rest) or not found.take(rest).permutes:
        call.asymmetric(f"works entry by entry, on {found}, which permutes not all of them")


def _check_groups(call: Call, found: Action, groups: int, weight: Tensor | None) -> None:
    layer = call.layer if weight is None else call.layer_of(weight)
    if call.left_out(layer) or not found.closed([1]):
        return
    rho = found.take([1]).representation()
    if rho.is_trivial or rho.permutations is None:
        return
    moved = (rho.permutations // (rho.size // groups)).reshape(rho.group.order, groups, -1)
    if (moved != moved[..., :1]).any():
        raise ValueError(
            f"layer {layer!r}: the group moves channels from one of its {groups} "
            f"groups to several; its input is {rho.name}"
        )
