"""Functions of single entries: tensors that meet move alike, and so does the result."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from equireg.library.call import Call
from equireg.library.features import Action, Unknown
from equireg.library.meeting import contract
from equireg.library.parameters import Derived
from equireg.library.pieces import Square
from equireg.library.registry import follows
from equireg.symmetry.representations import Representation

SMALL = 1e-6  # an entry of an orthogonal matrix that counts as 0

COPIES = {
    *("clone", "contiguous", "detach", "to", "float", "double", "half", "bfloat16", "type"),
    *("type_as", "cpu", "cuda", "data", "requires_grad", "alias", "dropout", "dropout1d"),
    *("dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "identity", "positive"),
    *("checkpoint", "_to_copy", "real"),
}
SUMS = {
    *("add", "sub", "radd", "rsub", "iadd", "isub", "subtract", "neg", "negative", "lerp"),
}
PRODUCTS = {
    *("mul", "rmul", "imul", "multiply", "div", "truediv", "itruediv", "divide", "true_divide"),
    *("addcmul",),
}
ENTRIES = {
    *("rdiv", "rtruediv", "floordiv", "floor_divide", "remainder", "mod", "fmod", "pow", "rpow"),
    *("ipow", "square", "sqrt", "rsqrt", "reciprocal", "exp", "expm1", "exp2", "log", "log1p"),
    *("log2", "log10", "abs", "absolute", "sign", "sgn", "sin", "cos", "tan", "asin", "acos"),
    *("atan", "atan2", "arctan2", "sinh", "cosh", "tanh", "erf", "erfc", "sigmoid", "logit"),
    *("relu", "relu6", "gelu", "silu", "mish", "elu", "celu", "selu", "leaky_relu", "softplus"),
    *("softsign", "softshrink", "hardshrink", "tanhshrink", "threshold", "hardtanh", "hardswish"),
    *("hardsigmoid", "logsigmoid", "rrelu", "clamp", "clamp_min", "clamp_max", "clip", "round"),
    *("floor", "ceil", "trunc", "frac", "nan_to_num", "maximum", "minimum", "fmax", "fmin"),
    *("where", "masked_fill", "eq", "ne", "gt", "ge", "lt", "le", "isnan", "isfinite", "isinf"),
    *("logical_and", "logical_or", "logical_not", "logical_xor", "bitwise_and", "bitwise_or"),
    *("and", "or", "xor", "invert", "bitwise_not", "bool", "int", "long", "addcdiv", "hypot"),
    *("exponential", "xlogy", "sinc", "deg2rad", "special_expit", "special_erf", "isclose"),
    *("logaddexp", "heaviside", "copysign"),
}
ODD = {  # f(-x) = -f(x): they commute with what permutes entries and changes signs
    *("tanh", "sin", "tan", "asin", "atan", "sinh", "erf", "special_erf", "softsign", "sign"),
    *("softshrink", "hardshrink", "tanhshrink", "sgn"),
}
POINTWISE = COPIES | SUMS | PRODUCTS | ENTRIES


@follows(*POINTWISE)
def entries(call: Call) -> Action | Unknown:
    """Broadcast as torch does."""
    result = call.results[0]
    operands = _operands(call)
    if call.unknown and len(call.data) == 1:
        if call.parameters and not call.left_out(call.layer_of(call.parameters[0])):
            raise call.refusal(call.parameters[0])
        return call.unknown
    labels = [(x, range(result.ndim - x.ndim, result.ndim)) for x in operands]
    found = contract(call, labels, range(result.ndim))
    if isinstance(found, Action) and call.name not in COPIES | SUMS and not found.permutes:
        return _of_vectors(call, found, operands)
    return found


def _operands(call: Call) -> list[Tensor]:
    """The tensors that are spread over the result; those of other shapes are options."""
    from equireg.library.arguments import tensors

    if call.name in COPIES:
        return call.data[:1]
    shape = call.results[0].shape
    return [
        x
        for x in tensors((call.args, call.kwargs))
        if x.ndim <= len(shape)
        and all(a in (1, b) for a, b in zip(reversed(x.shape), reversed(shape), strict=False))
    ]


def _of_vectors(call: Call, found: Action, operands: list[Tensor]) -> Action:
    """Entries that matrices mix may be scaled together; or squared, if they are then summed."""
    mixed = [
        axis - len(found.axes)
        for axis, atoms in enumerate(found.axes)
        if any(block.rho is not None and block.rho.permutations is None for block, _ in atoms)
    ]
    full = [x for x in operands if any(x.ndim >= -axis and x.shape[axis] > 1 for axis in mixed)]
    if call.name in PRODUCTS and len(full) == 1:
        return found
    kinds = [block.rho for atoms in found.axes for block, _ in atoms if block.rho is not None]
    if call.name in ODD and all(map(_changes_signs, kinds)):
        return found
    names = {
        block.rho.name
        for atoms in found.axes
        for block, _ in atoms
        if block.rho is not None and block.rho.permutations is None
    }
    for x in full:
        if isinstance(call.of(x), Derived):
            raise ValueError(
                f"layer {call.layer!r}: {type(call.module).__name__} works entry by entry, which "
                f"only permutations commute with; its input is {', '.join(sorted(names))}"
            )
    why = f"works entry by entry, on {', '.join(sorted(names))}, which permutes nothing"
    if _squares(call, full):
        return Square(found.group, found.axes, call.where, why)
    call.asymmetric(why)
    return found


def _changes_signs(rho: Representation) -> bool:
    """Whether it permutes entries, some of which it turns into their negatives."""
    if rho.permutations is not None:
        return True
    return rho.algebra is None and bool(((np.abs(rho.matrices) > SMALL).sum(2) == 1).all())


def _squares(call: Call, full: list[Tensor]) -> bool:
    """Whether these are multiplied by one another, or by themselves."""
    if call.name == "pow":
        exponent = call.argument(1, "exponent")
        return len(full) == 1 and isinstance(exponent, (int, float)) and exponent == 2
    if call.name == "square":
        return True
    both = len(full) == 2 and all(isinstance(call.of(x), Action) for x in full)
    return both and call.name in ("mul", "multiply")
