"""Entries that were moved out of any order that the group keeps, followed until they are back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from equireg.library.atoms import Lost
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.functions import numbered
from equireg.library.functions.pointwise import COPIES, POINTWISE

Found = list[Action | Unknown]


@dataclass(frozen=True, eq=False)
class Scattered(Unknown):
    """Entries of a tensor on which ``action`` acts, in an order in which nothing acts on them.

    source: which entry of that tensor each is, -1 for constants. What moves them further may bring
    them back into an order that the group keeps: windows that overlap, unfolded axis by axis.
    """

    action: Action
    source: np.ndarray


def scattered(call: Call) -> Found:
    """For each result of a call after which nothing acts on them: where entries come from."""
    return [_from_known(call, number) for number in range(len(call.results))]


def _from_known(call: Call, number: int) -> Unknown:
    known = call.of(call.data[0]) if _alone(call) else None
    if isinstance(known, Action):
        source = numbered.sources(call, call.data[0], number)
        if source is not None:
            return Scattered(call.name, known, source)
    return Unknown(call.name)


def onwards(call: Call) -> Found | None:
    """What acts on the results of moving scattered entries; None for other calls."""
    if not _alone(call):
        return None
    tag = call.of(call.data[0])
    if not isinstance(tag, Scattered):
        return None
    return [_moved(call, tag, number, x) for number, x in enumerate(call.results)]


def _alone(call: Call) -> bool:
    """Whether the call may only move the entries of one tensor."""
    moves = call.name in COPIES or call.name not in POINTWISE
    return len(call.data) == 1 and not call.parameters and moves


def _moved(call: Call, tag: Scattered, number: int, result: Tensor) -> Action | Unknown:
    if call.name in COPIES and result.shape == call.data[0].shape:
        return tag
    came = numbered.sources(call, call.data[0], number)
    if came is None:
        return Unknown(tag.function)
    source = np.where(came < 0, -1, tag.source.reshape(-1)[came])
    try:
        return numbered.follow(call, tag.action, source, few=True)
    except Lost:
        return Scattered(tag.function, tag.action, source)
