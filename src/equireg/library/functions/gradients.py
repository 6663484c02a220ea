"""Derivatives that a model takes of itself, such as forces of an energy."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from equireg.library.arguments import tensors
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.registry import follows


@follows("grad")
def gradient(call: Call) -> list[Action | Unknown] | None:
    """The derivatives of what does not move by what does: moved like that, as rho is orthogonal.

    The entries of ``outputs`` are summed up, so that samples must not mix otherwise than there.
    """
    if call.argument(1, "inputs") is None:  # the attribute of a tensor
        return None
    outputs, inputs = tensors(call.argument(0, "outputs")), call.argument(1, "inputs")
    known = [call.of(x) for x in outputs]
    if not all(isinstance(one, Action) and one.is_trivial for one in known):
        return [Unknown(call.name)] * len(call.results)
    each = [inputs] if isinstance(inputs, Tensor) else [*tensors(inputs)]
    returned = [call.out] if isinstance(call.out, Tensor) else [*_values(call.out)]
    moved = [call.of(x) for x, y in zip(each, returned, strict=True) if isinstance(y, Tensor)]
    return [one if isinstance(one, Action | Unknown) else Unknown(call.name) for one in moved]


def _values(out: Any) -> list[Any]:
    return [*out.values()] if isinstance(out, dict) else [*out]
