"""Products of tensors that sum over axes: matmul, einsum and attention without weights."""

from __future__ import annotations

from collections.abc import Hashable

from torch import Tensor

from equireg.library.atoms import Lost
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.meeting import contract
from equireg.library.registry import follows


@follows("matmul", "bmm", "mm", "mv", "rmatmul", "dot")
def product(call: Call) -> Action | Unknown:
    """A B, with batches broadcast."""
    one, two = call.args[0], call.argument(1, "other", "mat2", "tensor2", "vec")
    if call.name == "rmatmul":
        one, two = two, one
    return _matrices(call, one, two)


@follows("baddbmm", "addmm", "addbmm")
def added_product(call: Call) -> Action | Unknown:
    """C + A B."""
    base, one, two = call.args[:3]
    found = _matrices(call, one, two)
    if isinstance(found, Unknown):
        return found
    if isinstance(tag := call.of(base), Action) and tag.shape == found.shape:
        if not tag.equals(found):
            raise Lost
    elif base.numel() > 1:
        call.place(base, found if base.shape == found.shape else found.take([-1]))
    return found


def _matrices(
    call: Call, one: Tensor, two: Tensor, *, rows_of_both: bool = False
) -> Action | Unknown:
    rows: list[Hashable] = ["row"] if one.ndim > 1 else []
    columns: list[Hashable] = ["column"] if two.ndim > 1 else []
    second = [*columns, "inner"] if rows_of_both else ["inner", *columns]
    labels = [
        [*(("batch", i) for i in range(2 - x.ndim, 0)), *last]
        for x, last in ((one, [*rows, "inner"]), (two, second))
    ]
    batch = max(one.ndim - 2, two.ndim - 2, 0)
    out = [*(("batch", i) for i in range(-batch, 0)), *rows, *columns]
    return contract(call, [(one, labels[0]), (two, labels[1])], out)


@follows("cdist")
def distances(call: Call) -> Action | Unknown | None:
    """|x_i - y_j|, of points that come from the inputs."""
    one, two = call.argument(0, "x1"), call.argument(1, "x2")
    power = call.argument(2, "p", default=2.0)
    if power != 2 or not all(isinstance(call.of(x), Action) for x in (one, two)):
        return None
    return _matrices(call, one, two, rows_of_both=True)


@follows("einsum")
def summed(call: Call) -> Action | Unknown:
    """Einstein sums; the output's order is the alphabet's where it is not given."""
    equation, operands = call.args[0], list(call.args[1:])
    if not isinstance(equation, str):
        raise Lost
    if len(operands) == 1 and not isinstance(operands[0], Tensor):
        operands = list(operands[0])
    left, arrow, right = equation.replace(" ", "").partition("->")
    labels = [_labels(term, x.ndim) for term, x in zip(left.split(","), operands, strict=True)]
    if any(len(set(term)) < len(term) for term in labels):
        raise Lost
    every = [label for term in labels for label in term]
    if arrow:
        out = _labels(right, call.results[0].ndim)
    else:
        once = sorted((x for x in set(every) if every.count(x) == 1), key=str)
        out = [
            *dict.fromkeys(x for x in every if isinstance(x, int)),
            *(x for x in once if isinstance(x, str)),
        ]
    return contract(call, list(zip(operands, labels, strict=True)), out)


def _labels(term: str, ndim: int) -> list[Hashable]:
    before, dots, after = term.partition("...")
    count = ndim - len(before) - len(after)
    return [*before, *(range(-count, 0) if dots else ()), *after]


@follows("scaled_dot_product_attention")
def attention(call: Call) -> Action | Unknown:
    """softmax(Q K^T + M) V: tokens that are looked at must move alike in K, V and M."""
    query, key, value = (call.argument(i, n) for i, n in enumerate(("query", "key", "value")))
    mask = call.argument(3, "attn_mask")
    batch = [("batch", i) for i in range(2 - query.ndim, 0)]
    operands = [
        (query, [*batch, "query", "width"]),
        (key, [*batch, "key", "width"]),
        (value, [*batch, "key", "value"]),
    ]
    if isinstance(mask, Tensor):
        last = [*batch, "query", "key"]
        operands.append((mask, last[len(last) - mask.ndim :]))
    found = contract(call, operands, [*batch, "query", "value"])
    causal = call.argument(5, "is_causal", default=False)
    if causal and isinstance(found, Action) and not found.take([-2]).is_trivial:
        call.asymmetric("is causal: tokens have an order that the group does not keep")
    return found
