"""One call of a function or a module, as the rules that follow it see it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from equireg.library.arguments import swapped, tensors
from equireg.library.features import Action, Unknown
from equireg.library.given import chosen
from equireg.library.parameters import Derived, Held, required
from equireg.library.pieces import Loose, Piece, Square
from equireg.library.protocol import Following
from equireg.library.sizes import sides_near
from equireg.library.trials import Run, commutes, invariant
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import (
    Representation,
)

ACCEPTED = (
    "convolutions, Linear, attention, embeddings, batch, instance, group, layer and RMS "
    "normalization, PReLU, parameters that are added or multiplied, kinds that are registered"
)
HALF = (torch.float16, torch.bfloat16)
JOINS = ("cat", "concat", "concatenate", "stack")  # what may make pieces whole again
ADDS_UP = ("sum", "mean")  # or squares of entries numbers


class Call:
    """What was called, with which arguments, and what came of it.

    name, args, kwargs, out: of the function; for a module, its own. results: the tensors in
    ``out``. data: the arguments that come from the model's inputs, each once. layer: the name of
    the module that runs, as in ``named_modules``; module: that module.
    """

    def __init__(
        self,
        follower: Following,
        name: str,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Any,
    ) -> None:
        self.name, self.out = name, out
        self.args, self.kwargs = tuple(args), dict(kwargs)
        self._follower, self._function = follower, function
        self.layer, self.module = follower.running()
        self.group: Group = follower.group
        self.results = list(tensors(out))
        inside = {id(x): x for x in tensors((self.args, self.kwargs))}
        tags = {key: follower.tag_of(x) for key, x in inside.items()}
        self._loose = {key: tag for key, tag in tags.items() if isinstance(tag, Loose)}
        self._tags = tags | {key: loose.alone for key, loose in self._loose.items()}
        self._deferred: list[str] | None = None
        if name not in JOINS + ADDS_UP:
            self.part()
        kept = [x for key, x in inside.items() if isinstance(self._tags[key], (Action, Unknown))]
        self.data: list[Tensor] = kept
        self.parameters = [x for key, x in inside.items() if isinstance(self._tags[key], Derived)]

    # What is known

    def argument(self, place: int, *names: str, default: Any = None) -> Any:
        """The argument at this place, or by one of these names."""
        for name in names:
            if name in self.kwargs:
                return self.kwargs[name]
        return self.args[place] if place < len(self.args) else default

    def of(self, tensor: Tensor) -> Action | Unknown | Derived | None:
        """What acts on a tensor; Derived: it is computed from parameters; None: a constant."""
        key = id(tensor)
        return self._tags[key] if key in self._tags else self._follower.tag_of(tensor)

    @property
    def input(self) -> Action:
        """What acts on the first argument that comes from the inputs; ValueError if unknown."""
        found = self.of(self.data[0]) if self.data else None
        if not isinstance(found, Action):
            raise self.lost(0, found)
        return found

    def pieces(self, parts: Sequence[Tensor]) -> list[Piece]:
        """These tensors as pieces of one; none if they are not."""
        tags = [self._loose.get(id(x)) for x in parts]
        found = [tag for tag in tags if isinstance(tag, Piece)]
        whole = {(id(piece.base), id(piece.whole)) for piece in found}
        return found if len(found) == len(parts) and len(whole) == 1 else []

    def is_square(self, tensor: Tensor) -> bool:
        """Whether this is a product of vectors that matrices move, entry by entry."""
        return isinstance(self._loose.get(id(tensor)), Square)

    def part(self) -> None:
        """Note that what breaks the symmetry alone is used so."""
        for loose in self._loose.values():
            self._follower.breaks(loose)

    @property
    def unknown(self) -> Unknown | None:
        """The first of ``data`` of which it is not known what acts on it."""
        found = (self.of(x) for x in self.data)
        return next((tag for tag in found if isinstance(tag, Unknown)), None)

    def trivial(self, result: Tensor) -> Action:
        """Nothing moves."""
        return Action.trivial(self.group, result.shape)

    # What the user says

    def layer_of(self, tensor: Any) -> str:
        """The name of the layer that holds a parameter, or of the module that runs."""
        held = self._follower.held(tensor) if isinstance(tensor, Tensor) else None
        if held is None:
            return self.layer
        names = [owner.layer for owner in held.owners]
        return self.layer if self.layer in names else names[0]

    def left_out(self, layer: str) -> bool:
        """Whether the user passed None for this layer or for one that holds it."""
        return self._follower.left_out(layer)

    def says_input(self, layer: str) -> bool:
        """Whether the user said what acts on a layer's input."""
        pair = self._follower.given.get(layer)
        return pair is not None and pair[0] is not None

    def says_output(self, layer: str) -> bool:
        """Whether the user said what acts on a layer's output."""
        pair = self._follower.given.get(layer)
        return pair is not None and pair[1] is not None

    def chosen(
        self, layer: str, end: int, size: int, found: Representation | None = None
    ) -> Representation:
        """The representation on a layer's input (0) or output (1): given, found or trivial."""
        return chosen(
            self.group, layer, self._follower.given.get(layer, (None, None)), end, size, found
        )

    def lost(self, size: int, found: Any, layer: str | None = None) -> ValueError:
        """What to say where it is not known what acts on a layer's input."""
        layer = self.layer if layer is None else layer
        after = "a function that torch does not show, or on constants"
        if isinstance(found, Unknown):
            after = found.function
        elif isinstance(found, Action):
            after = "the layers before it"
        return ValueError(
            f"layer {layer!r}: it is not known what acts on its {size} inputs after {after}; "
            f"pass representations={{{layer!r}: ('trivial', None)}} if the group leaves them "
            "as they are, or the Representation that moves them"
        )

    # What acts on parameters

    def place(
        self,
        tensor: Tensor,
        action: Action | Sequence[Representation],
        *,
        layer: str | None = None,
        lenient: bool = False,
    ) -> None:
        """Say what acts on a parameter, a buffer, or what is computed from parameters.

        Raises ValueError, naming the parameter, if that cannot be; lenient: for what is added or
        multiplied and computed from parameters, such as resized positions, note it instead.
        """
        layer = self.layer_of(tensor) if layer is None else layer
        found = self.of(tensor)
        pieces = action.pieces if isinstance(action, Action) else functools.partial(list, action)
        if isinstance(found, Action):  # computed from the inputs: it must be moved like that
            if not isinstance(action, Action) or not found.equals(action):
                raise self.refusal(tensor, layer)
            return
        held = self._follower.held(tensor)
        if held is not None:
            self._follower.put(held, symmetry.Space(*pieces()), layer)
            return
        if not isinstance(found, Derived):
            self._check_constant(tensor, action, layer)
            return
        if not isinstance(action, Action):
            action = _action(self.group, tuple(tensor.shape), list(action))
        spaces = required(found, action)
        if isinstance(spaces, Held) and (found.opaque or lenient):
            names = {owner.parameter for one in found.sources for owner in one.owners[:1]}
            self.asymmetric(
                "with what layers make of constants; their weights are left as they are"
                if found.opaque
                else f"with what is computed from {', '.join(sorted(names))}, which no action on "
                "it moves as it should; left as it is"
            )
            spaces = required(found, Action.trivial(self.group, tensor.shape))
        if isinstance(spaces, Held):
            raise self.refusal(spaces.tensor)
        for one, space in spaces.items():
            self._follower.put(one, space, one.owners[0].layer)

    def _check_constant(
        self, tensor: Tensor, action: Action | Sequence[Representation], layer: str
    ) -> None:
        if not isinstance(action, Action):
            action = _action(self.group, tuple(tensor.shape), list(action))
        if not invariant(tensor, action):
            self.asymmetric("with constants that the group moves")

    def settle(self, tensor: Tensor) -> Action:
        """Let a tensor that is computed from parameters be features that do not move."""
        action = self.trivial(tensor)
        self.place(tensor, action)
        return action

    def refusal(self, tensor: Tensor, layer: str | None = None) -> ValueError:
        """What to say where it is not known what acts on a parameter."""
        held = self._follower.held(tensor)
        if held is None:
            found = self.of(tensor)
            held = next(iter(found.sources)) if isinstance(found, Derived) else None
        if held is None:
            where, name, module = layer or self.layer, "what is computed", self.module
        else:
            where, module, name = held.owners[0]
        return ValueError(
            f"layer {where!r}: it is not known how the group acts on {name} of a "
            f"{type(module).__name__}, in {self.name}; accepted: {ACCEPTED}; pass "
            f"representations={{{where!r}: None}} to leave it out"
        )

    # What breaks the symmetry

    @property
    def where(self) -> str:
        """The layer and the function."""
        return f"{self.layer} ({self.name})" if self.layer else self.name

    def asymmetric(self, why: str) -> None:
        """Note that this function does not commute with the group."""
        self._follower.note(self._follower.asymmetric, self.where, why)

    def broken(self, why: str) -> None:
        """Note that this function breaks the symmetry of the grid."""
        if self._deferred is None:
            self._follower.note(self._follower.broken, self.where, why)
        else:
            self._deferred.append(why)

    def statistics(self, channels: Representation) -> None:
        """Note that statistics are taken of each channel, which these move."""
        if not self.left_out(self.layer):
            self._follower.statistics.setdefault(self.layer, channels)

    @contextmanager
    def deferring(self) -> Iterator[list[str]]:
        """Collects what would be noted as broken."""
        said = list[str]()
        self._deferred = said
        try:
            yield said
        finally:
            self._deferred = None

    @property
    def is_asymmetric(self) -> bool:
        """Whether a function was found that breaks the symmetry."""
        return bool(self._follower.broken or self._follower.asymmetric)

    def assumes(self, unknown: Unknown) -> bool:
        """Note that the rest would do, and say whether it is to be gone on with."""
        self._follower.assumed[self.where] = unknown.function
        return self._follower.lenient

    def take(self, outputs: Mapping[str, Representation]) -> None:
        """Note what must act on outputs of layers, where nobody said so."""
        self._follower.taken.update(outputs)

    def narrow(self, layer: str, kernel: tuple[int, ...]) -> None:
        """Note that the group does not map this layer's kernel to itself."""
        self._follower.narrow[layer] = kernel

    def run(self, values: Mapping[int, Tensor], result: int = 0) -> Tensor:
        """One of the results for other values of the arguments, by their ids."""
        half = any(x.dtype in HALF for x in tensors((self.args, self.kwargs)))

        def swap(x: Tensor) -> Tensor:
            x = values.get(id(x), x)
            return x.float() if half and x.dtype in HALF else x.clone()

        out = self._function(*swapped(swap, self.args), **swapped(swap, self.kwargs))
        return list(tensors(out))[result]

    def again(self, *args: Any, **kwargs: Any) -> Tensor:
        """The function for other arguments."""
        return next(tensors(self._function(*args, **kwargs)))

    @property
    def memory(self) -> dict[str, dict[Any, Any]]:
        """What rules keep while one model is followed."""
        return self._follower.memory

    def commutes(self, result: int, after: Action) -> bool:
        """Whether the function takes what acts on its data to ``after``, tried on random data."""
        before = [tag for x in self.data if isinstance(tag := self.of(x), Action)]

        def run(inputs: list[Tensor]) -> Tensor:
            return self.run({id(x): y for x, y in zip(self.data, inputs, strict=True)}, result)

        return commutes(self.group, _in_single(run), before, after, self.data)

    def sizes_that_work(self, works: Callable[[int], bool], side: int) -> list[int]:
        """Up to three sides near this one for which ``works``; none where they are not wanted."""
        found = list[int]()
        for near in sides_near(side) if self._follower.sizes else ():
            try:
                if len(found) < 3 and works(near):
                    found.append(near)
            except Exception:  # such as too small for the filter
                continue
        return sorted(found)


def _in_single(run: Run) -> Run:
    """In single precision at least: half is too coarse to tell."""

    def upcast(inputs: list[Tensor]) -> Tensor:
        return run([x.float() if x.dtype in HALF else x for x in inputs])

    return upcast


def _action(group: Group, shape: tuple[int, ...], pieces: list[Representation]) -> Action:
    """Representations side by side in row-major order, as an action on a tensor of this shape."""
    sizes = [piece.size for piece in pieces]
    return Action.on(group, sizes, dict(enumerate(pieces))).reshape(shape)
