"""Norms, gates and products: what acts on them is what they were made for."""

from __future__ import annotations

from equireg.library.atoms import Lost, moving
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.registry import follows
from equireg.symmetry.nonlinearities import Gates, Norms, Products
from equireg.symmetry.representations import Representation


@follows(Norms)
def norms(call: Call) -> Action | Unknown:
    """x f(|x|) / |x|."""
    made = call.module
    assert isinstance(made, Norms)
    return _made(call, [made.rho], made.rho)


@follows(Gates)
def gates(call: Call) -> Action | Unknown:
    """x gate(s)."""
    made = call.module
    assert isinstance(made, Gates)
    return _made(call, [made.input], made.rho)


@follows(Products)
def products(call: Call) -> Action | Unknown:
    """x y^T."""
    made = call.module
    assert isinstance(made, Products)
    return _made(call, [made.rho, made.sigma][: len(call.data)], made.output)


def _made(call: Call, taken: list[Representation], output: Representation) -> Action | Unknown:
    """What acts on the result, on its last axis. Raises ValueError for inputs moved otherwise."""
    for x, rho in zip(call.data, taken, strict=True):
        found = call.of(x)
        if not isinstance(found, Action) or not found.closed([-1]):
            return Unknown(type(call.module).__name__)
        try:
            acting = found.take([-1]).representation()
        except Lost:
            return Unknown(type(call.module).__name__)
        if not acting.equals(rho):
            raise ValueError(
                f"layer {call.layer!r} was made for {rho.name}, of size {rho.size}; its input is "
                f"moved by {acting.name}"
            )
    result = call.results[0]
    return Action(call.group, (*call.input.axes[:-1], *moving(output, (result.shape[-1],))))
