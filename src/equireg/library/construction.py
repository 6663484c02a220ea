"""What an ``Equivariance`` finds out when it is made, and what it says of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from equireg.library.choices import all_refusals
from equireg.library.features import Action
from equireg.library.inputs import main_grid, resized, samples
from equireg.library.layers.kernels import middle
from equireg.library.outputs import Wanted, candidates, known_outputs
from equireg.library.protocol import Broken
from equireg.library.sizes import working_size
from equireg.library.subgroups import common, restricted
from equireg.library.tracing import Known, Pair, Trace, Unknown, trace
from equireg.library.trees import leaves
from equireg.library.trial import CONSTANT, Subject, Verdict, trial
from equireg.library.untouched import untouched
from equireg.symmetry.groups import Elements, Group
from equireg.symmetry.representations import Representation

SHOWN = 4  # layers that a warning names, where it may be all of them


@dataclass(frozen=True)
class Construction:
    """A model, what the user said of it, and what one forward pass showed.

    inputs: what acts on each tensor of the example, by its name in ``leaves``.
    """

    model: nn.Module
    group: Group
    example: Any
    inputs: Mapping[str, Known]
    given: dict[str, Pair]
    subgroups: Mapping[str, Group]
    found: Trace
    outputs: dict[str, Known]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        group: Group,
        example: Any,
        inputs: Mapping[str, Known],
        given: dict[str, Pair],
        wanted: Wanted,
        subgroups: Mapping[str, Group],
    ) -> Construction:
        """Follow the example through the model. Raises ValueError for what cannot be followed."""
        with untouched(model):
            found = all_refusals(lambda said: _traced(model, example, inputs, said), given)
        outputs = known_outputs(found, wanted, group)
        found = restricted(found, group, subgroups)
        return cls(model, group, example, inputs, given, subgroups, found, outputs)

    @property
    def elements(self) -> list[int]:
        """The group's elements that are in all subgroups, the identity first."""
        return common(self.group, self.subgroups)

    @property
    def _tensors(self) -> dict[str, Tensor]:
        """The output's tensors by name; one alone is ""."""
        return dict(leaves(self.found.returned))

    @property
    def advice(self) -> str:
        """What to pass where it is not known what acts on the output."""
        tensors = self._tensors
        names = [name for name in tensors if name]
        if not any(tensor.ndim for tensor in tensors.values()):
            return "have it return a row for each sample"
        if not names:
            return (
                'pass it as representations={"": (None, ...)} or output=, a Representation or '
                '"trivial"'
            )
        return f'pass output={{{names[0]!r}: "trivial"}}, or a Representation, for each of {names}'

    def findings(self) -> tuple[list[str], Subject]:
        """What there is to warn of, and what was tried, with the outputs that are known now."""
        found, said = self.found, list[str]()
        modules = dict(self.model.named_modules())
        layers = [name for name in found.unused if name in modules]
        single = [name for name in found.unused if name not in modules]
        for what, names in (("layers", layers), ("parameters", single)):
            if names:
                said.append(
                    f"{what} that did not run on the example are left out: "
                    + ", ".join(name or "the model itself" for name in names)
                )
        constants = self._constants()
        said += constants + self._statistics() + self._taken() + self._narrow()
        if found.broken:
            said.append(self._broken())
        if found.asymmetric:
            said.append(self._asymmetric())
        if found.broken or found.asymmetric:
            return said, self._subject(found, self.outputs)
        whole, reason = self._whole()
        subject = self._complete(self._subject(whole, self.outputs))
        verdict = trial(subject, self.example)
        if verdict.failure and reason:
            verdict = Verdict("", reason)
        if verdict.failure:
            said.append(
                "symmetric weights do not make this model symmetric: with random weights in E it "
                f"has {verdict.failure}; check for functions that do not commute with the "
                "group (positions added or shifted, parts cut out, entry by entry on other than "
                "permutations), and what representations= and input= say" + self._assumed()
            )
        elif (verdict.untried or reason) and not (constants and verdict.untried == CONSTANT):
            said.append(
                "it could not be tried whether symmetric weights make this model symmetric: "
                f"{verdict.untried or reason}; {self._remedy(verdict)}"
            )
        return said, subject

    def _remedy(self, verdict: Verdict) -> str:
        return (
            self.advice
            if verdict.untried and verdict.untried == self._unknown(self.outputs)
            else "look at eq.error after eq.project_(), on a copy of the model"
        )

    def _subject(self, found: Trace, outputs: Mapping[str, Known]) -> Subject:
        unknown, tensors = self._unknown(outputs), dict(leaves(found.returned))
        count = samples(self.inputs, self.example)
        return Subject(
            self.model,
            found.spaces,
            self.inputs,
            outputs,
            unknown,
            found.outputs,
            self._tried,
            found.gradients,
            all(tensors[path].shape[:1] == (count,) for path in outputs),
        )

    @property
    def _tried(self) -> list[int | Elements]:
        """Elements that imply the others."""
        group, elements = self.group, self.elements
        return [*group.witnesses] if len(elements) == group.order else [*elements[1:]]

    def _unknown(self, outputs: Mapping[str, Known]) -> str:
        """Why it is not known what acts on the outputs; "" if it is of all of them.

        Single numbers beside them, such as a loss, are followed alone.
        """
        tensors = self._tensors
        numbers = {p for p, one in self.found.leaves.items() if isinstance(one, Action)}
        numbers = {path for path in numbers if not tensors[path].ndim} if outputs else set()
        lost = [path for path in tensors if path not in outputs and path not in numbers]
        if not lost and tensors:
            return ""
        if not tensors:
            return f"the model returns a {type(self.found.returned).__name__} without tensors"
        if lost == [""] and not tensors[""].ndim:
            return "the model returns one number for all samples"
        if lost == [""] and isinstance(self.found.output, Unknown):
            return (
                "it is not known what acts on the model's output after "
                f"{self.found.output.function}"
            )
        return f"it is not known what acts on the model's outputs {', '.join(lost)}"

    def _complete(self, subject: Subject) -> Subject:
        """The same with outputs that a trial shows to be left as they are, or moved as pixels."""
        outputs = dict(subject.outputs)
        count = samples(self.inputs, self.example)
        for path, tensor in self._tensors.items():
            if path in outputs:
                continue
            for features in candidates(tensor, count, self.group):
                tried = replace(subject, outputs={path: features}, unknown="")
                if trial(tried, self.example) == Verdict("", ""):
                    outputs[path] = features
                    break
        return replace(subject, outputs=outputs, unknown=self._unknown(outputs))

    def _whole(self) -> tuple[Trace, str]:
        """The trace with layers that the user leaves out, so that the others can be tried.

        With a reason why they cannot where it is not known what acts on such a layer.
        """
        left_out = [name for name, pair in self.given.items() if pair is None]
        if not left_out:
            return self.found, ""
        said = {name: pair for name, pair in self.given.items() if pair is not None}
        names = ", ".join(left_out)
        try:
            with untouched(self.model):
                whole = trace(self.model, self.example, self.inputs, said, sizes=False)
        except Exception as error:
            return self.found, f"of the layers left out, {names}, {error}"
        whole = restricted(whole, self.group, self.subgroups)
        if whole.broken:
            return self.found, f"the layers left out, {names}, break the symmetry of the grid"
        return whole, ""

    def _constants(self) -> list[str]:
        """Layers whose only equivariant weights are zero."""
        zero = [
            f"{space.layer!r} ({' * '.join(axis.name for axis in space.action.axes)})"
            for space in self.found.spaces
            if space.parameter not in ("bias", "running_mean") and not space.action.dimension
        ]
        if not zero:
            return []
        return [
            f"no weights but zero are equivariant (dim E = 0) in layer {', '.join(zero)}: "
            "projected, it makes a constant; pass another representation for its output or input"
        ]

    def _assumed(self) -> str:
        """Where it was assumed that what is not known does not matter."""
        each = {f"{where} (after {after})" for where, after in self.found.assumed.items()}
        return f"; it is not known what acts on parts of {', '.join(sorted(each))}" if each else ""

    def _taken(self) -> list[str]:
        """Layers whose outputs are moved like the pixels that they are put together with."""
        if not self.found.taken:
            return []
        each = [f"{name!r} ({rho.name})" for name, rho in self.found.taken.items()]
        return [
            "outputs of layers are taken to be moved like the pixels that they are put together "
            f"with: {_some(each)}; pass representations= to say so, or otherwise"
        ]

    def _narrow(self) -> list[str]:
        """Kernels of which E leaves the middle alone."""
        if not self.found.narrow:
            return []
        each = [
            f"{name!r} ({' x '.join(map(str, kernel))}: {middle(self.group, kernel)} of "
            f"{math.prod(kernel)} pixels)"
            for name, kernel in self.found.narrow.items()
        ]
        return [
            "the group does not map kernels to themselves, so that equivariant ones are zero but "
            f"on what it does: layer {_some(each)}; pass None for a layer to leave it out"
        ]

    def _statistics(self) -> list[str]:
        """Batch normalization whose statistics are of single channels that the group moves."""
        layers = []
        for name, channels in self.found.statistics.items():
            module = self.model.get_submodule(name)
            pooled = f"FieldBatchNorm({_fields(channels)})"
            if isinstance(module, nn.modules.instancenorm._InstanceNorm):
                pooled = "track_running_stats=False"
            layers.append(f"{name!r} ({pooled})")
        if not layers:
            return []
        return [
            "batch normalization over channels that the group moves takes statistics of each "
            "channel, so that in training, and by what it keeps, symmetric weights are not enough: "
            f"layer {', '.join(layers)}; replace them by what is in parentheses, of equireg, with "
            "statistics of each field, or train with eq.project_() before evaluation"
        ]

    def _broken(self) -> str:
        """What to say of layers that break the grid, and the size that would do."""
        space = main_grid(self.inputs, self.example)
        with untouched(self.model):
            sizes = working_size(max(space), self._fails) if space else None
        remedy = "no nearby size of the images works for all layers"
        if sizes:
            shown = " x ".join([str(sizes.side)] * len(space))
            remedy = f"images of {shown} pixels work for all layers" if sizes.side else f"{sizes}"
        lines = "\n".join(f"  {layer}: {what}" for layer, what in self.found.broken.items())
        return (
            "layers break the symmetry of the grid, so that symmetric weights do not make the "
            f"network symmetric:\n{lines}\n{remedy}"
        )

    def _asymmetric(self) -> str:
        """What to say of functions that do not commute with the group."""
        lines = "\n".join(f"  {layer}: {why}" for layer, why in self.found.asymmetric.items())
        return (
            "symmetric weights do not make this model symmetric: functions do not commute with the "
            f"group:\n{lines}"
        )

    def _fails(self, side: int) -> str:
        """Which layer breaks the grid of images of this side, or how the model is not symmetric."""
        example, inputs = resized(self.inputs, self.example, side)
        try:
            found = trace(self.model, example, inputs, self.given, sizes=False, stop=True)
        except Broken as broken:
            return f"{broken}"
        found = restricted(found, self.group, self.subgroups)
        outputs = known_outputs(found, None, self.group)
        subject = replace(self._subject(found, outputs), inputs=inputs, unknown="")
        left_out = None in self.given.values()
        return "" if left_out else trial(subject, example).failure


def _traced(
    model: nn.Module, example: Any, inputs: Mapping[str, Known], given: Mapping[str, Pair]
) -> Trace:
    """``trace``, with what a model raises said in a line."""
    try:
        return trace(model, example, inputs, given)
    except ValueError:
        raise
    except Exception as error:
        text = f"{error}".strip().split("\n")[0]
        raise ValueError(
            f"the model cannot be followed: on the example, in evaluation mode, it "
            f"raised {type(error).__name__}: {text}; accepted: models that run so"
        ) from error


def _some(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _fields(channels: Representation) -> str:
    """What FieldBatchNorm is to be called with for these channels."""
    if channels.permutations is None:
        return channels.name
    orbits, order = channels.orbits, channels.group.order
    blocks = len(orbits) % order == 0 and (orbits == np.arange(len(orbits)) // order).all()
    return f"{len(orbits)}, {order}" if blocks else channels.name


def unwrapped(model: nn.Module) -> tuple[nn.Module, str]:
    """The model inside DataParallel and torch.compile, and the prefix that they put to names."""
    prefix = ""
    while True:
        for name in ("module", "_orig_mod"):
            inner = getattr(model, name, None)
            wraps = name == "_orig_mod" or isinstance(
                model, (nn.DataParallel, nn.parallel.DistributedDataParallel)
            )
            if wraps and isinstance(inner, nn.Module):
                model, prefix = inner, f"{prefix}{name}."
                break
        else:
            return model, prefix
