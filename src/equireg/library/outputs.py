"""What a model returned in a forward pass, and what acts on each tensor in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from equireg.library.features import Action
from equireg.library.tracing import Features, Given, Known, Trace, Unknown, acts_on_grids
from equireg.library.trees import leaves
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, regular, trivial

Wanted = Given | Mapping[str, Given]  # what a user says of outputs, by name where there are several


def known_outputs(found: Trace, wanted: Wanted, group: Group) -> dict[str, Known]:
    """What acts on the outputs that are known: by the user's word, or followed.

    Raises ValueError for names that the output does not have, and for sizes that do not fit.
    """
    tensors = dict(leaves(found.returned))
    known = dict[str, Known]()
    for path, one in found.leaves.items():
        if isinstance(one, Action) and len(one.axes) == 1:  # a number per sample
            one = Features(trivial(group), ())
        if not isinstance(one, Unknown) and tensors[path].ndim:
            known[path] = one
    said = wanted if isinstance(wanted, Mapping) else {} if wanted is None else {"": wanted}
    for path, rho in said.items():
        if path not in tensors:
            raise ValueError(
                f"output: the model returns no {path or 'single tensor'!r}; accepted: "
                f"{', '.join(map(repr, tensors)) or 'models that return tensors'}"
            )
        if rho is not None:
            known[path] = _given(path, rho, tensors[path], group)
    return known


def _given(path: str, rho: Representation | str, tensor: Tensor, group: Group) -> Features:
    """A user's representation, on the output's channels, or on all of its entries."""
    what, shape = f"output {path}".rstrip(), tuple(tensor.shape)
    if tensor.ndim < 1:
        raise ValueError(f"{what} is a scalar; accepted: outputs of one row per sample")
    channels, space = (shape[1], shape[2:]) if tensor.ndim > 1 else (1, ())
    if isinstance(rho, str):
        unit = {"trivial": trivial, "regular": regular}.get(rho)
        if unit is None or channels % unit(group).size:
            raise ValueError(
                f"{what} is {rho!r} for {channels} channels; accepted: 'trivial', a "
                f"Representation, or 'regular' for multiples of {group.order}"
            )
        rho = channels // unit(group).size * unit(group)
    if rho.size == channels:
        features = Features(rho, space)
        try:
            _ = features.pixels
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
        return features
    if rho.size == tensor[:1].numel():
        return Features(rho, ())
    raise ValueError(f"{what} is {rho.name}, on {rho.size} entries; the output has shape {shape}")


def candidates(tensor: Tensor, samples: int, group: Group) -> Iterator[Features]:
    """What may act on an output that could not be followed, to be tried: nothing, or on pixels."""
    if tensor.ndim < 1 or len(tensor) != samples or not tensor.is_floating_point():
        return
    size = tensor[:1].numel()
    yield Features(trivial(group, size), ())
    axes = group.elements.shape[-1]
    for space in {tuple(tensor.shape[2:]), tuple(tensor.shape[1:])}:
        if space and len(space) == axes and acts_on_grids(group, space):
            channels = tensor.shape[1] if tensor.ndim == axes + 2 else 1
            yield Features(trivial(group, channels), space)
