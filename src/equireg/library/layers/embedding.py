"""Embeddings: a row of the table per index."""

from __future__ import annotations

from torch import Tensor

from equireg.library.atoms import moving
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.functions.derived import derive
from equireg.library.parameters import Derived
from equireg.library.registry import follows


@follows("embedding")
def embedding(call: Call) -> Action | Unknown | list[Derived]:
    """Entries that move are looked up in rows that do not; the embedding's entries may move."""
    names: tuple[Tensor, Tensor] = (call.argument(0, "input"), call.argument(1, "weight"))
    index, weight = names
    found = call.of(index)
    if isinstance(found, Unknown):
        return found
    if not isinstance(found, Action):
        return derive(call)
    layer = call.layer_of(weight)
    rho_out = call.chosen(layer, 1, weight.shape[1])
    from equireg.symmetry.representations import trivial

    call.place(weight, [trivial(call.group, len(weight)), rho_out], layer=layer)
    return Action(call.group, (*found.axes, *moving(rho_out, (rho_out.size,))))
