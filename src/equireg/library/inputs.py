"""A model's inputs, one tensor or several, by position or by name, and what acts on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from equireg.library.choices import check_given
from equireg.library.features import Action, Features
from equireg.library.pixels import Pixels
from equireg.library.tracing import Known, acts_on_grids
from equireg.library.trees import leaves, mapped
from equireg.symmetry.groups import POINT_GROUPS, Group, point_group
from equireg.symmetry.representations import Representation, check_one_group, trivial

# Of one tensor: on its channels; along axes; "pixels": its last axes are the grid's; "fixed": none.
Said = Representation | Mapping[Any, Any] | str | None
SaidOfInputs = Said | Sequence[Any]  # of several by name, or in order
ACCEPTED = 'a Representation, "pixels", "fixed", or {axis: Representation}'


def inputs_of(
    group: str | Group, example: Any, said: SaidOfInputs
) -> tuple[Group, dict[str, Known]]:
    """The group, and what acts on each tensor of the example, by its name in ``leaves``.

    Raises ValueError for what is no representation of the group, for a tensor of several of which
    it cannot be told whether it moves, and if nothing moves.
    """
    tensors = dict(leaves(example))
    each = _by_name(said, example, tensors)
    if isinstance(group, str):
        group = _named(group, tensors, each)
    if not isinstance(group, Group):
        raise ValueError(f"group is {group!r}; accepted: the name of a point group, or a Group")
    found = {
        path: _acting(group, path, tensor, each.get(path), alone=[*tensors] == [""])
        for path, tensor in tensors.items()
    }
    seen = any(tensor.ndim > 2 for tensor in tensors.values())
    if group.order > 1 and seen and all(map(_stays, found.values())):
        raise ValueError(_unmoved(group, tensors))
    return group, found


def pixel_axes(inputs: Mapping[str, Known], example: Any) -> int:
    """How many axes of pixels the group moves in the inputs; 0 if none."""
    return len(main_grid(inputs, example))


def samples(inputs: Mapping[str, Known], batch: Any) -> int:
    """The number of samples: the length of the first tensor of a batch that is not "fixed"."""
    tensors = dict(leaves(batch))
    moved = (tensors[path] for path in tensors if path in inputs and not _fixed(inputs[path]))
    first: Tensor | None = next(moved, next(iter(tensors.values()), None))
    if first is None or not first.ndim:
        raise ValueError("batch has no samples; accepted: the tensors that the model takes")
    return len(first)


def is_sampled(known: Known, tensor: Tensor, count: int) -> bool:
    """Whether a tensor of an example of ``count`` samples has one row for each of them."""
    return not _fixed(known) or (tensor.ndim > 0 and len(tensor) == count)


def main_grid(inputs: Mapping[str, Known], example: Any) -> tuple[int, ...]:
    """The pixels of the first input that has some which the group moves; () if there is none."""
    grids = (_space(inputs[path], tensor) for path, tensor in leaves(example))
    return next(filter(None, grids), ())


def resized(inputs: Mapping[str, Known], example: Any, side: int) -> tuple[Any, dict[str, Known]]:
    """An example of two samples whose grids have this side where they were the main one.

    And what acts on it. Of two, as some layers refuse one.
    """
    main, count = main_grid(inputs, example), samples(inputs, example)
    changed = dict(inputs)

    def one(path: str, tensor: Tensor) -> Tensor:
        known = inputs[path]
        if not is_sampled(known, tensor, count):
            return tensor
        two = tensor[[0, -1]]
        if _space(known, tensor) != main:
            return two
        space = (side,) * len(main)
        if isinstance(known, Features):
            changed[path] = Features(known.channels, space)
        return two.new_zeros(*two.shape[: two.ndim - len(main)], *space)

    return mapped(one, example), changed


def _by_name(said: SaidOfInputs, example: Any, tensors: Mapping[str, Tensor]) -> dict[str, Said]:
    """What the user says of each tensor, by name."""
    names = ", ".join(map(repr, tensors))
    if said is None:
        return {}
    if isinstance(example, Tensor):
        return {"": cast("Said", said)}
    if isinstance(said, (tuple, list)):
        if not isinstance(example, (tuple, list)) or len(said) != len(example):
            raise ValueError(
                f"input is of {len(said)} entries; accepted: as many as the example, or a dict "
                f"with any of the names {names}"
            )
        return {str(i): one for i, one in enumerate(said) if one is not None}
    if not isinstance(said, Mapping) or not all(isinstance(key, str) for key in said):
        raise ValueError(
            f"input is {_shown(said)} for several inputs; accepted: a dict with any of the names "
            f"{names}, each {ACCEPTED}"
        )
    for name in said:
        if name not in tensors:
            raise ValueError(f"input: the example has no {name!r}; accepted: {names}")
    return dict(said)


def _named(name: str, tensors: Mapping[str, Tensor], said: Mapping[str, Said]) -> Group:
    """The point group of this name, for grids of as many axes as the inputs have."""
    known = {axes for axes, names in POINT_GROUPS.items() if name in names}
    if not known:
        return point_group(name)  # which refuses it
    if [*tensors] == [""] and said.get("") != "pixels":
        axes = tensors[""].ndim - 2
        if axes not in POINT_GROUPS:
            raise ValueError(
                f"example has shape {tuple(tensors[''].shape)}; a group by name turns pixels: pass "
                "images (samples, channels, *pixels), or a Group and its representation input="
            )
        return point_group(name, axes)
    of_images, of_pixels = set[int](), set[int]()
    for path, tensor in tensors.items():
        one = said.get(path)
        if one is None or isinstance(one, Representation):
            of_images.add(tensor.ndim - 2)
        elif one == "pixels":
            of_pixels |= {tensor.ndim - 2, tensor.ndim - 1}
    found = of_images & known or of_pixels & known
    if len(found) != 1:
        shapes = ", ".join(f"{path!r} {tuple(x.shape)}" for path, x in tensors.items())
        raise ValueError(
            f"group is {name!r}, and it cannot be told which axes of the inputs ({shapes}) are "
            "pixels; accepted: inputs with images (samples, channels, *pixels), or a Group such as "
            f"equireg.groups.point_group({name!r}, {max(known, default=2)})"
        )
    return point_group(name, found.pop())


def _acting(group: Group, path: str, tensor: Tensor, said: Said, *, alone: bool) -> Known:
    """What acts on one tensor."""
    what, shape = f"input {path}".rstrip(), tuple(tensor.shape)
    axes = group.elements.shape[-1] if group.moves_pixels else 0
    if said is None and not alone:
        said = _default(group, path, tensor, axes)
    if said == "fixed":
        return Pixels(group, 0)
    if isinstance(said, str):
        if said != "pixels":
            raise ValueError(f"{what} is {said!r}; accepted: {ACCEPTED}")
        if not axes or tensor.ndim <= axes:
            raise ValueError(
                f"{what} is 'pixels', of shape {shape}; accepted: (samples"
                + ", pixels" * max(axes, 1)
                + f") and a group that moves them, which {group.name} "
                + ("does" if axes else "does not")
            )
        return _checked(what, Pixels(group, axes), shape)
    if isinstance(said, Mapping):
        return _along(group, what, tensor, said)
    if said is not None and not isinstance(said, Representation):
        raise ValueError(f"{what} is {said!r}; accepted: {ACCEPTED}")
    check_given(what, said, group, tensor.ndim - 2)
    if tensor.ndim < 2:
        raise ValueError(f"{what} has shape {shape}; accepted: (samples, channels, *pixels)")
    channels = said or trivial(group, shape[1])
    check_one_group(group, channels.group)
    if channels.size != shape[1]:
        raise ValueError(
            f"{what} is {channels.name}, on {channels.size} entries; example has shape {shape}; "
            f"accepted: a representation on {shape[1]} entries"
        )
    return _checked(what if path else "", Features(channels, shape[2:]), shape)


def _default(group: Group, path: str, tensor: Tensor, axes: int) -> Said:
    """Of one of several inputs: images move by their pixels, vectors and numbers stay."""
    if axes and tensor.ndim == 2 + axes:
        return trivial(group, tensor.shape[1])
    if tensor.ndim <= 2 or not axes:
        return "fixed"
    raise ValueError(
        f"input {path}: it cannot be told what acts on its shape {tuple(tensor.shape)}; pass "
        f'input={{{path!r}: "fixed"}} if {group.name} leaves it as it is, "pixels" if its last '
        f"{axes} axes are pixels, or {{axis: Representation}}"
    )


def _along(group: Group, what: str, tensor: Tensor, said: Mapping[Any, Any]) -> Action:
    """Representations on axes of a tensor."""
    for key, rho in said.items():
        places = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(i, int) and -tensor.ndim <= i < tensor.ndim for i in places):
            raise ValueError(
                f"{what} is of axis {key!r}; accepted: numbers of the {tensor.ndim} axes of shape "
                f"{tuple(tensor.shape)}, or tuples of them"
            )
        if any(i % tensor.ndim == 0 for i in places):
            raise ValueError(f"{what}: axis 0 is that of samples; accepted: others")
        if not isinstance(rho, Representation):
            raise ValueError(f"{what} is {rho!r} on axis {key}; accepted: a Representation")
    try:
        return Action.on(group, tuple(tensor.shape), said)
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None


def _checked(what: str, known: Features | Pixels, shape: tuple[int, ...]) -> Features | Pixels:
    """The same; ValueError for a grid that the group does not map to itself."""
    try:
        if isinstance(known, Pixels):
            known.action(shape)
        else:
            _ = known.pixels
    except ValueError as error:
        raise ValueError(f"{what}: {error}" if what else f"{error}") from None
    return known


def _stays(known: Known) -> bool:
    """Whether the group moves nothing in such a tensor."""
    if isinstance(known, Action):
        return known.is_trivial
    if isinstance(known, Pixels):
        return not known.axes
    return known.channels.is_trivial and not acts_on_grids(known.group, known.space)


def _fixed(known: Known) -> bool:
    """Whether a tensor is one that stays, with samples or without."""
    return isinstance(known, Pixels) and not known.axes


def _space(known: Known, tensor: Tensor) -> tuple[int, ...]:
    """The pixels of a tensor that move; () if there are none."""
    if isinstance(known, Pixels):
        return tuple(tensor.shape[tensor.ndim - known.axes :])
    if isinstance(known, Features) and acts_on_grids(known.group, known.space):
        return known.space
    return ()


def _unmoved(group: Group, tensors: Mapping[str, Tensor]) -> str:
    """What to say where the group moves none of the inputs."""
    if [*tensors] != [""]:
        return (
            f"{group.name} moves none of the inputs {', '.join(map(repr, tensors))}; pass input=, "
            f"a dict of {ACCEPTED}"
        )
    shape = tuple(tensors[""].shape)
    known = [name for name in POINT_GROUPS.get(len(shape) - 2, {}) if name != "C1"]
    turns = f"group={(group.name if group.name in known else known[-1])!r}" if known else ""
    return f"{group.name} moves neither the pixels of the example, of shape {shape}, nor its " + (
        f"channels; to turn pixels pass {turns} (accepted: {', '.join(known)}) or "
        "generate(..., moves_pixels=True); to move channels pass input=, a Representation"
        if known
        else "entries; pass input=, a Representation"
    )


def _shown(said: Any) -> str:
    return said.name if isinstance(said, Representation) else repr(said)
