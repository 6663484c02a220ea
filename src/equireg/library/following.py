"""Follows what acts on tensors through the functions and modules of one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.overrides import TorchFunctionMode

from equireg.library.arguments import swapped, tensors
from equireg.library.atoms import Lost
from equireg.library.call import Call
from equireg.library.features import Action, Features, Unknown
from equireg.library.functions import defaults, scattered
from equireg.library.functions.derived import derive
from equireg.library.given import Pair, chosen
from equireg.library.joining import Apart
from equireg.library.parameters import Derived, Held, Owner, Space, holders
from equireg.library.pieces import Loose, Piece
from equireg.library.protocol import Broken
from equireg.library.registry import FUNCTIONS, name_of, of_module
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation

Tag = Action | Unknown | Derived

COMPUTED = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm, nn.LayerNorm)
MAKES_CONSTANTS = {
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "randint_like"),
}
LIKE = {"to", "type_as", "view_as", "reshape_as", "expand_as"}  # what follows is a model for these
HIDING = {"from_numpy", "tensor", "as_tensor", "asarray", "frombuffer", "from_dlpack"}


class Follower(TorchFunctionMode):
    """Follows actions through the functions and modules that run while it is entered.

    spaces: the action on each parameter. broken, asymmetric: per layer, how its function breaks
    the symmetry of the grid, or otherwise does not commute with the group. narrow: kernels that the
    group does not map to themselves. taken: what must act on outputs of layers, where nobody said
    so, to be put together with pixels. assumed: where something meets what it is not known what
    acts on, and would be followed if it does not matter. outputs: what acts on the outputs of
    modules, where it is the same at every call. statistics: layers that take statistics of each
    channel, and what moves these. sizes: whether to look for sizes that work; stop: whether to
    raise ``Broken`` at the first function of broken or asymmetric; lenient: whether to assume that
    it does not matter.
    """

    def __init__(
        self,
        model: nn.Module,
        group: Group,
        given: Mapping[str, Pair],
        *,
        sizes: bool = True,
        stop: bool = False,
        lenient: bool = False,
    ) -> None:
        super().__init__()
        self.group, self.given, self.sizes, self.stop = group, given, sizes, stop
        self.lenient = lenient
        self.spaces: dict[tuple[int, str], Space] = {}
        self.broken: dict[str, str] = {}
        self.asymmetric: dict[str, str] = {}
        self.narrow: dict[str, tuple[int, ...]] = {}
        self.taken: dict[str, Representation] = {}
        self.assumed: dict[str, str] = {}
        self.outputs: dict[str, Features] = {}
        self.statistics: dict[str, Representation] = {}
        self.seen: set[int] = set()
        self.memory: dict[str, dict[Any, Any]] = {}
        self._model, self._held = model, holders(model)
        self._parameters = {id(parameter) for parameter in model.parameters()}
        self._running: list[tuple[str, nn.Module]] = []
        self._constants: dict[int, Tensor] = {}
        self._made: dict[int, str] = {}
        self._returned: set[str] = set()  # modules that have run
        self._whole = 0  # modules that are followed as a whole and run now
        self._tags: dict[int, tuple[Tensor, Tag]] = {}  # keeps ids from reuse

    # What is known

    def tag(self, tensor: Tensor, found: Tag | None) -> None:
        """Say what acts on ``tensor``."""
        if found is None:
            self._tags.pop(id(tensor), None)
        else:
            self._tags[id(tensor)] = tensor, found

    def tag_of(self, tensor: Tensor) -> Tag | None:
        """What acts on ``tensor``; None: it comes neither from the input nor from parameters."""
        found = self._tags.get(id(tensor), (None, None))[1]
        if found is None and id(tensor) in self._parameters:
            return Derived.direct(self._held[id(tensor)])
        return found

    def made_by(self, tensor: Tensor) -> str:
        """The function that made a tensor."""
        return self._made.get(id(tensor), "the model")

    def held(self, tensor: Tensor) -> Held | None:
        """The parameter or buffer that this tensor is."""
        return self._held.get(id(tensor))

    def running(self) -> tuple[str, nn.Module]:
        """The innermost module that runs, by its name."""
        return self._running[-1] if self._running else ("", self._model)

    def left_out(self, name: str) -> bool:
        """Whether the user passed None for this layer or for one that holds it."""
        parts = name.split(".")
        prefixes = (".".join(parts[:i]) for i in range(len(parts) + 1))
        return any(prefix in self.given and self.given[prefix] is None for prefix in prefixes)

    def put(self, held: Held, action: symmetry.Space, layer: str) -> None:
        """Keep what acts on a parameter. Raises ValueError if it was another action before."""
        self.seen.add(id(held.tensor))
        owner = next((o for o in held.owners if o.layer == layer), held.owners[0])
        if self.left_out(owner.layer):
            return
        key = (id(held.tensor), owner.parameter)
        first = self.spaces.setdefault(key, Space(*owner, action))
        if first.action.equals(action) or (first.action.is_trivial and action.is_trivial):
            return
        if _fixes_the_same(first.action, action):
            return
        if first.layer == owner.layer:
            raise ValueError(f"layer {owner.layer!r} runs twice, on different representations")
        raise ValueError(
            f"layers {first.layer!r} and {owner.layer!r} share {owner.parameter}, but the group "
            "acts on it otherwise in one than in the other; pass representations= that agree, "
            "or untie them"
        )

    def breaks(self, loose: Loose) -> None:
        """Note that this is used alone."""
        kept = self.broken if isinstance(loose, Piece) else self.asymmetric
        self.note(kept, loose.where, loose.why)

    def note(self, kept: dict[str, str], where: str, why: str) -> None:
        """Keep where and why the symmetry is broken, in ``broken`` or ``asymmetric``."""
        kept.setdefault(where, why)
        if self.stop:
            raise Broken(f"{where}: {why}")

    def finished(self, tensor: Tensor) -> Tag | None:
        """What acts on an output, which nothing comes after."""
        return self._alone(self.tag_of(tensor))

    def _alone(self, tag: Tag | None) -> Tag | None:
        if isinstance(tag, Loose):
            self.breaks(tag)
            return tag.alone
        return tag

    # Functions

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = not self._whole and self._fills_a_constant(func, args)
        before = args[0].clone() if filled else None  # as it was, for running it again
        out = func(*args, **kwargs)
        if self._whole:
            return out
        name = name_of(func)
        if name in MAKES_CONSTANTS or not isinstance(out, (Tensor, tuple, list)):
            if name == "setitem":
                self._assigned(args)
            return out
        if name in LIKE:
            args, kwargs = self._first(args, kwargs)
        again = args if before is None else (before, *args[1:])
        call = Call(self, name, func, again, kwargs, out)
        made = not (call.data or call.parameters) and name not in HIDING
        if made and all(self._is_constant(x) for x in tensors((args, kwargs))):
            self._constants |= {id(x): x for x in call.results}
        if (call.data or call.parameters) and call.results:
            found = self._follow(call)
            each = found if isinstance(found, list) else [found] * len(call.results)
            for result, one in zip(call.results, each, strict=True):
                if id(result) not in self._parameters:
                    self.tag(result, one)
                    self._made[id(result)] = name
            if call.data and args and call.results[0] is args[0]:
                self._filled(args[0])
        return out

    def _fills_a_constant(self, func: Any, args: Any) -> bool:
        """Whether it works in place, on what does not come from the inputs."""
        name = str(getattr(func, "__name__", ""))
        constant = bool(args) and isinstance(args[0], Tensor) and self.tag_of(args[0]) is None
        return constant and name.endswith("_") and not name.startswith("__")

    def _first(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments with constants in place of all tensors but the first."""
        first: Tensor = args[0]

        def plain(x: Tensor) -> Tensor:
            if x is first:
                return x
            stand_in = torch.empty((), dtype=x.dtype, device=x.device).expand(x.shape)
            self._constants[id(stand_in)] = stand_in
            return stand_in

        return swapped(plain, args), swapped(plain, kwargs)

    def _is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor is a buffer, or made from nothing but buffers and numbers."""
        key = id(tensor)
        return key in self._constants or (key in self._held and key not in self._parameters)

    def _on_constants(self, call: Call) -> bool:
        """Whether a layer runs on constants, or on what layers made of constants."""
        x = next(tensors((call.args, call.kwargs)))
        tag = self.tag_of(x)
        return tag.opaque if isinstance(tag, Derived) else tag is None and self._is_constant(x)

    def _assigned(self, args: Any) -> None:
        """Parts of a tensor were set: nothing is known of what shares its memory.

        Unless they are moved like those that they replace.
        """
        value = args[2]
        both = (args[0], *tensors(value))
        moved = any(isinstance(self.tag_of(x), (Action, Unknown)) for x in both)
        if moved and not self._keeps(*args[:3]):
            where = args[0].untyped_storage().data_ptr()
            lost = Unknown("assigning to a part of a tensor")
            self.tag(args[0], lost)
            for tensor, _ in list(self._tags.values()):
                if tensor.untyped_storage().data_ptr() == where:
                    self.tag(tensor, lost)

    def _keeps(self, target: Tensor, index: Any, value: Any) -> bool:
        """Whether what acts on ``target[index]`` acts on ``value``."""
        new = self.tag_of(value) if isinstance(value, Tensor) else None
        known = isinstance(self.tag_of(target), Action) and isinstance(new, Action)
        if not known or any(self.tag_of(x) is not None for x in tensors(index)):
            return False
        part = target[index]
        found = self._follow(Call(self, "getitem", Tensor.__getitem__, (target, index), {}, part))
        one, new = map(self._alone, (found[0] if isinstance(found, list) else found, new))
        return isinstance(one, Action) and isinstance(new, Action) and one.equals(new)

    def _filled(self, part: Tensor) -> None:
        """Data was written in place: constants that it is a part of are none any more."""
        where = part.untyped_storage().data_ptr()
        for tensor in self._constants.values():
            if tensor is not part and tensor.untyped_storage().data_ptr() == where:
                self.tag(tensor, Unknown("assigning to a part of a tensor"))

    def _follow(self, call: Call) -> Any:
        rule = FUNCTIONS.get(call.name)
        if (onwards := scattered.onwards(call)) is not None:
            return onwards
        try:
            settles = getattr(rule, "settles", False)
            if not call.data and (not settles or self._on_constants(call)):
                return derive(call)
            found = None if rule is None else rule(call)
            if found is None:
                found = defaults.follow(call)
        except Lost:
            return scattered.scattered(call)
        except Apart as apart:
            raise ValueError(f"{call.where} puts {' and '.join(apart.args)} together") from None
        return found

    # Modules

    def hooks(self, name: str, module: nn.Module) -> Iterator[Any]:
        """Hooks that tell the follower which module runs, and on what."""
        rule = of_module(module)
        whole = rule is not None or (isinstance(module, ParametrizationList))

        def enter(module: nn.Module, args: Any) -> None:
            self._running.append((name, module))
            if isinstance(module, COMPUTED) and not self.left_out(name):
                _refuse_computed(name, module)
            self._whole += whole

        def leave(module: nn.Module, args: Any, kwargs: dict[str, Any], out: Any) -> None:
            self._whole -= whole
            if isinstance(module, ParametrizationList):
                if not self._whole:
                    self._parametrized(name, out)
            elif not self._whole:
                self._left(name, module, rule, args, kwargs, out)
            self._running.pop()

        yield module.register_forward_pre_hook(enter, prepend=True)
        yield module.register_forward_hook(leave, with_kwargs=True)

    def _left(
        self, name: str, module: nn.Module, rule: Any, args: Any, kwargs: dict[str, Any], out: Any
    ) -> None:
        """A module has returned."""
        results = list(tensors(out))
        if rule is not None:
            call = Call(self, type(module).__name__, module.forward, args, kwargs, out)
            for parameter in module.parameters():
                self.seen.add(id(parameter))
            found = rule(call)
            each = found if isinstance(found, list) else [found] * len(results)
            for result, one in zip(results, each, strict=True):
                self.tag(result, one)
        elif name in self.given and self.given[name] and results and not _own(module):
            self._say(name, results[0])
        tag = self.tag_of(out) if isinstance(out, Tensor) else None
        features = None
        if isinstance(tag, Action) and not isinstance(tag, Loose):
            features = tag.features()
        known = self.outputs.pop(name, None)
        if features and (name not in self._returned or (known and _alike(known, features))):
            self.outputs[name] = features
        self._returned.add(name)

    def _say(self, name: str, result: Tensor) -> None:
        """The user says what acts on the output of a module without parameters, or of the model."""
        tag = self.finished(result)
        features = tag.features() if isinstance(tag, Action) else None
        space = tuple(result.shape[2:])
        known = None
        if features and not name:  # only a module may change it
            space, known = features.space, features.channels
            if result.shape[1] != known.size:
                known = known * features.pixels
                space = ()
        channels = chosen(self.group, name, self.given[name], 1, result.shape[1], known)
        self.tag(result, Action.of(Features(channels, space), result.shape))

    def _parametrized(self, name: str, out: Tensor) -> None:
        """A weight was computed by ``torch.nn.utils.parametrize``: it stands for itself."""
        parent, _, rest = name.rpartition("parametrizations.")
        layer = parent.rstrip(".")
        module = self._model.get_submodule(layer) if layer else self._model
        for _, parameter in module.get_submodule(f"parametrizations.{rest}").named_parameters():
            self.seen.add(id(parameter))
        held = Held(out, [Owner(layer, module, rest)])
        self._held[id(out)] = held
        self.tag(out, Derived.direct(held))


def _alike(one: Features, two: Features) -> bool:
    return one.channels.equals(two.channels) and len(one.space) == len(two.space)


def _fixes_the_same(one: symmetry.Space, two: symmetry.Space) -> bool:
    """Whether both have the same E, as a grid's turns and their inverses have."""
    random = torch.randn(math.prod(one.shape), generator=torch.Generator().manual_seed(0)).double()
    first, second = (s.project(random.reshape(s.shape)).reshape(-1) for s in (one, two))
    return torch.allclose(first, second, rtol=0, atol=1e-10)


def _refuse_computed(name: str, module: nn.Module) -> None:
    if hooked := [key for key in ("weight", "bias") if key in vars(module)]:
        raise ValueError(
            f"layer {name!r}: its {hooked[0]} is computed by a hook (torch.nn.utils.prune, "
            "the old weight_norm and spectral_norm) and cannot be followed; take those of "
            "torch.nn.utils.parametrizations, or call prune.remove first"
        )


def _own(module: nn.Module) -> list[str]:
    """The parameters of a module itself, not of those in it; computed ones are seen in place."""
    if isinstance(module, ParametrizationList):
        return []
    return [name for name, _ in module.named_parameters(recurse=False)]
