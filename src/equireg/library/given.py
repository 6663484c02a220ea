"""What a user says of a layer: which representations act on its input and output."""

from __future__ import annotations

from typing import Any

from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, check_one_group, regular, trivial

Given = Representation | str | None  # what acts on channels; "trivial", "regular"; None: inferred
Pair = tuple[Given, Given] | None  # at a layer's input and output; None: the layer is left out


def chosen(
    group: Group, layer: str, given: Any, end: int, size: int, found: Representation | None
) -> Representation:
    """The representation on a layer's input (0) or output (1): given, found or trivial."""
    end_name = ("input", "output")[end]
    if given is None:
        return found or trivial(group, size)
    if not isinstance(given, tuple) or len(given) != 2:
        raise ValueError(
            f"layer {layer!r}: representations are {given!r}; accepted: a pair "
            "(input, output), or None to leave the layer out"
        )
    rho: Representation | str | None = given[end]
    if isinstance(rho, str):
        unit = {"trivial": trivial, "regular": regular}.get(rho)
        if unit is None or size % unit(group).size:
            raise ValueError(
                f"layer {layer!r}: {end_name} is {rho!r} for {size} channels; accepted: "
                f"'trivial', a Representation, or 'regular' for multiples of {group.order}"
            )
        rho = size // unit(group).size * unit(group)
    if rho is None:
        return found or trivial(group, size)
    check_one_group(group, rho.group)
    if rho.size != size:
        raise ValueError(
            f"layer {layer!r}: {end_name} {rho.name} acts on {rho.size} entries, but the layer "
            f"has {size}; pass sums and multiples of representations, such as 2 * rho"
        )
    if found is not None and not rho.equals(found):
        raise ValueError(
            f"layer {layer!r}: its {end_name} is given as {rho.name}, but the layers before it "
            f"make it {found.name}; pass the same for their output (for the network's, input=)"
        )
    return rho
