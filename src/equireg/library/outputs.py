"""What a model returned in a forward pass, and what acts on each tensor in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from equireg.library.tracing import Features, Given, Trace, acts_on_grids
from equireg.library.trees import leaves
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation, regular, trivial

Wanted = Given | Mapping[str, Given]  # what a user says of outputs, by name where there are several


@dataclass
class Seen:
    """The output's tensors of the last run by name, and the modules that returned just these."""

    output: Any = None
    _made: dict[int, tuple[str, Tensor]] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """By name; one tensor alone is ""."""
        return dict(leaves(self.output))

    def maker(self, tensor: Tensor) -> str:
        """The module that returned this tensor, "" if none did."""
        return self._made.get(id(tensor), ("", tensor))[0]

    def forget(self) -> None:
        """Keep the output alone, and free what modules returned."""
        self._made.clear()

    def hook(self, name: str) -> Callable[..., None]:
        """A forward hook for the module of this name; "" is the model."""

        def note(module: Any, args: Any, out: Any) -> None:
            if not name:
                self.output = out
            elif isinstance(out, Tensor):
                self._made[id(out)] = name, out

        return note


@contextmanager
def seeing(model: nn.Module) -> Iterator[Seen]:
    """Note what ``model`` returns."""
    seen = Seen()
    hooks = [
        module.register_forward_hook(seen.hook(name)) for name, module in model.named_modules()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def known_outputs(found: Trace, seen: Seen, wanted: Wanted, group: Group) -> dict[str, Features]:
    """What acts on the outputs that are known: by the user's word, or followed.

    Raises ValueError for names that the output does not have, and for sizes that do not fit.
    """
    tensors = seen.tensors
    known = dict[str, Features]()
    for path, tensor in tensors.items():
        made = found.outputs.get(seen.maker(tensor))
        if not path and isinstance(found.output, Features):
            known[path] = found.output
        elif path and made is not None:
            known[path] = made
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
