"""Layers that are to commute with a part of the group only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase

from equireg.library.layers.kernels import on_kernel
from equireg.library.tracing import Trace
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Group, point_group
from equireg.symmetry.representations import (
    Representation,
    from_generators,
    trivial,
)


def subgroups_of(group: Group, given: Mapping[str, str | Group] | None) -> dict[str, Group]:
    """The subgroup for each pattern of layers' names. Raises ValueError for what is none."""
    found = {}
    if given and len(group.algebra):
        raise ValueError(f"subgroups of {group.name}, which is not finite; accepted: None")
    for pattern, one in (given or {}).items():
        if isinstance(one, str):
            one = point_group(one, group.elements.shape[-1])
        elements(group, one)
        found[pattern] = one
    return found


def elements(group: Group, subgroup: Group) -> list[int]:
    """The numbers in ``group`` of the subgroup's elements. Raises ValueError if it is none."""
    numbers = {element.tobytes(): number for number, element in enumerate(group.elements)}
    found = [numbers.get(element.tobytes(), -1) for element in subgroup.elements]
    if -1 in found:
        raise ValueError(
            f"subgroups: {subgroup.name} is no subgroup of {group.name}; accepted: groups whose "
            f"matrices are among the {group.order} of {group.name}"
        )
    return found


def common(group: Group, subgroups: Mapping[str, Group]) -> list[int]:
    """The numbers of the elements that are in all of the subgroups, the identity first."""
    kept = set(range(group.order))
    for subgroup in subgroups.values():
        kept &= set(elements(group, subgroup))
    if len(kept) == 1 < group.order:
        names = ", ".join(subgroup.name for subgroup in subgroups.values())
        raise ValueError(
            f"subgroups: {names} have only the identity in common, which leaves nothing to learn; "
            "accepted: subgroups with an element in common"
        )
    return sorted(kept)


def restricted(found: Trace, group: Group, subgroups: Mapping[str, Group]) -> Trace:
    """The trace with the actions of the subgroups on the layers that their patterns match.

    Of several patterns the last one that matches. Raises ValueError for one that matches none.
    """
    layers = list(dict.fromkeys(space.layer for space in found.spaces))
    for pattern in subgroups:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise ValueError(f"subgroups: no layer {pattern!r}; accepted: {', '.join(layers)}")
    spaces, narrow = [], dict(found.narrow)
    for space in found.spaces:
        matching = [g for pattern, g in subgroups.items() if fnmatchcase(space.layer, pattern)]
        if matching:
            axes = [_restrict(axis, group, matching[-1]) for axis in space.action.axes]
            if space.layer in narrow and space.action.axes[-1].permutations is None:
                axes[-1] = on_kernel(matching[-1], narrow[space.layer])
                if axes[-1].permutations is not None:
                    del narrow[space.layer]
            space = replace(space, action=symmetry.Space(*axes))
        spaces.append(space)
    return replace(found, spaces=spaces, narrow=narrow)


def _restrict(rho: Representation, group: Group, subgroup: Group) -> Representation:
    if rho.is_trivial or not len(subgroup.generators):
        return trivial(subgroup, rho.size)
    numbers = elements(group, subgroup)
    steps = [numbers[number] for number in subgroup.cayley[:, 0].tolist()]
    images = rho.matrices if rho.permutations is None else rho.permutations
    return from_generators(subgroup, images[steps].tolist(), rho.name)
