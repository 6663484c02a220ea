"""Sums, means, maxima and norms along axes, and functions that normalize along axes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from equireg.library.atoms import Lost
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.functions.pointwise import entries
from equireg.library.registry import FUNCTIONS, follows

BY_NUMBER = ("argmax", "argmin", "max", "min", "median", "mode", "kthvalue")
SECOND = {"norm": 2, "vector_norm": 2, "logsumexp": 1, "kthvalue": 2, "normalize": 2}
EUCLIDEAN = ("norm", "vector_norm", "normalize")


@follows(
    *("mean", "sum", "nansum", "nanmean", "prod", "amax", "amin", "aminmax", "var", "std", "all"),
    *("any", "count_nonzero", "var_mean", "std_mean", "linalg_vector_norm", "linalg_norm"),
    *(*BY_NUMBER, "norm", "vector_norm", "logsumexp"),
)
def reduced(call: Call) -> Action | Unknown | list[Action | Unknown]:
    """The other axes stay as they are; blocks must be reduced whole."""
    if isinstance(call.argument(1, "other"), Tensor):
        return _entries(call)
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return found if isinstance(found, Unknown) else Unknown(call.name)
    axes = _axes(call, found, SECOND.get(call.name, 1))
    if not found.closed(axes):
        call.part()
        raise Lost
    inside = found.take(axes)
    rest = [axis for axis in range(len(found.axes)) if axis not in axes]
    whole = call.is_square(call.data[0]) and found.take(rest).permutes
    if not whole:
        call.part()
    if not (inside.permutes or whole or call.name in EUCLIDEAN):
        raise Lost
    kept = call.results[0].ndim == len(found.axes)
    result = found.replaced(dict.fromkeys(axes, ())) if kept else found.take(rest)
    if call.name in BY_NUMBER and not inside.is_trivial:
        number = Unknown(call.name)
        if call.name.startswith("arg"):
            return number
        both: list[Action | Unknown] = [result, number]
        return both[: len(call.results)]
    return result


def _entries(call: Call) -> Action | Unknown:
    found: Action | Unknown = entries(call)
    return found


def _axes(call: Call, found: Action, place: int) -> list[int]:
    """The axes that are reduced; all of them if none are named."""
    named = call.argument(place, "dim", "axis", default=None)
    count = len(found.axes)
    if named is None or isinstance(named, bool):
        named = call.kwargs.get("dim", call.kwargs.get("axis"))
    if named is None or (isinstance(named, Sequence) and not named):
        return list(range(count))
    return [axis % count for axis in ((named,) if isinstance(named, int) else named)]


@follows("softmax", "log_softmax", "softmin", "normalize", "gumbel_softmax")
def normalized(call: Call) -> Action | Unknown | None:
    """Entries divided by what they have in common along an axis."""
    found = call.of(call.data[0])
    if not isinstance(found, Action):
        return found if isinstance(found, Unknown) else None
    axis = call.argument(SECOND.get(call.name, 1), "dim", "axis", default=1)
    if not isinstance(axis, int):
        return None
    if not found.closed([axis]) or (call.name not in EUCLIDEAN and not found.permutes):
        raise Lost
    return found


FUNCTIONS["linalg_vector_norm"] = FUNCTIONS["vector_norm"]
