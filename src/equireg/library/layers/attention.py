"""``nn.MultiheadAttention``: its projections are linear layers, inside of which nothing moves."""

from __future__ import annotations

from torch import Tensor

from equireg.library.atoms import Lost, moving
from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.joining import join
from equireg.library.parameters import Derived
from equireg.library.registry import follows
from equireg.symmetry.representations import trivial

ORDER = (
    *("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight"),
    *("in_proj_bias", "bias_k", "bias_v", "add_zero_attn", "dropout_p", "out_proj_weight"),
    *("out_proj_bias", "training", "key_padding_mask", "need_weights", "attn_mask"),
    *("use_separate_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"),
    *("static_k", "static_v", "average_attn_weights", "is_causal"),
)


@follows("multi_head_attention_forward")
def multi_head(call: Call) -> list[Action | Unknown]:
    """Queries (L, N, E), keys and values (S, N, E); tokens of keys and values move alike."""
    given = {name: call.argument(i, name) for i, name in enumerate(ORDER)}
    layer = call.layer
    found = []
    for name in ("query", "key", "value"):
        tag = call.of(given[name])
        if isinstance(tag, Derived):
            tag = call.settle(given[name])
        if isinstance(tag, Unknown) or tag is None:
            raise call.lost(given[name].shape[-1], tag)
        found.append(tag)
    query, key, value = found
    if not all(tag.closed([-1]) for tag in found):
        raise call.lost(given["query"].shape[-1], query)
    inner = trivial(call.group, given["embed_dim_to_check"])
    rho_out = call.chosen(layer, 1, inner.size)
    names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
    separate = [given[name] for name in names]
    columns = [tag.take([-1]).pieces() for tag in found]
    call.chosen(layer, 0, given["query"].shape[-1], query.take([-1]).representation())
    if isinstance(given["in_proj_weight"], Tensor):
        if not (
            query.take([-1]).equals(key.take([-1])) and query.take([-1]).equals(value.take([-1]))
        ):
            raise Lost
        rows = trivial(call.group, 3 * inner.size)
        call.place(given["in_proj_weight"], [rows, *columns[0]], layer=layer)
    else:
        for weight, pieces in zip(separate, columns, strict=True):
            call.place(weight, [inner, *pieces], layer=layer)
    for name in ("in_proj_bias", "bias_k", "bias_v"):
        if isinstance(given[name], Tensor):
            size = given[name].numel()
            call.place(given[name], [trivial(call.group, size)], layer=layer)
    call.place(given["out_proj_weight"], [rho_out, inner])
    if isinstance(given["out_proj_bias"], Tensor):
        call.place(given["out_proj_bias"], [rho_out])
    _check_masks(call, given, query, key)
    tokens = join(
        [
            (key.take(range(key_axes := len(key.axes) - 1)), range(key_axes)),
            (value.take(range(key_axes)), range(key_axes)),
        ]
    )
    assert tokens is not None
    result = query.replaced({-1: moving(rho_out, (rho_out.size,))[0]})
    weights: list[Action | Unknown] = [Unknown("attention's weights")] * (len(call.results) - 1)
    return [result, *weights]


def _check_masks(call: Call, given: dict[str, object], query: Action, key: Action) -> None:
    """Masks must be left as they are: (L, S), and (N, S) for what is padded."""
    mask, padding = given["attn_mask"], given["key_padding_mask"]
    rows, columns = query.axes[0], key.axes[0]
    fresh = Action(call.group, (columns,)).fresh().axes[0]
    if isinstance(mask, Tensor) and mask.ndim == 2:
        call.place(mask, Action(call.group, (rows, fresh)))
    elif isinstance(mask, Tensor) and columns:
        raise Lost
    if isinstance(padding, Tensor) and padding.ndim == 2:
        call.place(padding, Action(call.group, (query.axes[1], fresh)))
    if given["is_causal"] and not Action(call.group, (rows,)).is_trivial:
        call.asymmetric("is causal: tokens have an order that the group does not keep")


multi_head.settles = True  # type: ignore[attr-defined]
