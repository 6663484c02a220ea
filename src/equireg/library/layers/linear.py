"""Linear layers: A in Hom(rho_in, rho_out) on the last axis."""

from __future__ import annotations

import torch
from torch import Tensor

from equireg.library.atoms import Axis, Block, Lost, moving
from equireg.library.call import Call
from equireg.library.features import Action, Features, Unknown
from equireg.library.parameters import Derived, combined
from equireg.library.registry import follows
from equireg.library.trials import invariant
from equireg.symmetry.representations import Representation, trivial


@follows("linear")
def linear(call: Call) -> Action | Unknown | None:
    """x A^T + b."""
    x, weight = call.argument(0, "input"), call.argument(1, "weight")
    if call.of(weight) is None:  # a constant
        return None
    return apply(call, x, weight, call.argument(2, "bias"), call.results[0])


linear.settles = True  # type: ignore[attr-defined]


def apply(
    call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, result: Tensor
) -> Action | Unknown:
    """What acts on ``result`` = x A^T + b; the weight and bias are placed."""
    layer, size = call.layer_of(weight), x.shape[-1]
    found = call.of(x)
    if isinstance(found, Derived):
        found = call.settle(x)
    if call.left_out(layer):
        return _left_out(call, found, result)
    rho_out = call.chosen(layer, 1, result.shape[-1])
    columns = _columns(call, layer, found, size)
    call.place(weight, [rho_out, *columns], layer=layer)
    if bias is not None:
        _check_bias(call, layer, found)
        call.place(bias, [rho_out], layer=layer)
    if isinstance(found, Action) and found.closed([-1]):
        return Action(call.group, (*found.axes[:-1], _outputs(call, layer, rho_out)))
    if result.ndim == 2:
        return Action.of(Features(rho_out, ()), result.shape)
    return Unknown("linear")


def _outputs(call: Call, layer: str, rho: Representation) -> Axis:
    """The outputs; marked as the layer's where nobody said how they move."""
    if rho.size > 1 and rho.is_trivial and not call.says_output(layer):
        return ((Block(None, (rho.size,), layer), 0),)
    return moving(rho, (rho.size,))[0]


def _columns(call: Call, layer: str, found: object, size: int) -> list[Representation]:
    """What acts on the inputs: found, or given where it is not known."""
    pieces = list[Representation]()
    if isinstance(found, Action) and found.closed([-1]):
        try:
            pieces = found.take([-1]).pieces()
        except Lost:
            pieces = []
    if pieces:
        if call.says_input(layer):
            return [call.chosen(layer, 0, size, combined(call.group, pieces))]
        return pieces
    if not call.says_input(layer):
        raise call.lost(size, found, layer)
    return [call.chosen(layer, 0, size)]


def _check_bias(call: Call, layer: str, found: object) -> None:
    """Raise ValueError for a bias that is added to entries of vectors, alike to all of them."""
    if not isinstance(found, Action) or found.permutes or not found.closed([-1]):
        return
    rest = found.take(range(len(found.axes) - 1))
    if not invariant(torch.ones(rest.shape), rest):
        raise ValueError(
            f"layer {layer!r}: its bias is added alike to all entries of {rest}, which none but "
            f"zero commutes with; accepted: bias=False, or representations={{{layer!r}: None}}"
        )


def _left_out(call: Call, found: object, result: Tensor) -> Action:
    if isinstance(found, Action) and found.closed([-1]):
        return found.replaced(
            {-1: moving(trivial(call.group, result.shape[-1]), result.shape[-1:])[0]}
        )
    return call.trivial(result)
