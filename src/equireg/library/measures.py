"""How far a function is from equivariant, and the equivariant function nearest to it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from equireg.library.actions import Moving, act, inverse, move, shaped
from equireg.library.tracing import Known
from equireg.library.trees import call, copied, leaves, mapped
from equireg.symmetry.groups import Elements

Mean = Sequence[tuple[int | Elements, float]]  # elements and their weights, of sum 1
BLIND = 1e-9  # outputs that vary less, relative to their size, are constant


class Error(NamedTuple):
    """How far a function is from equivariant on a batch, over all elements but the identity.

    relative: root of the sum of |f(rho_in(g) x) - rho_out(g) f(x)|^2 over that of |f(x)|^2;
    largest: the largest absolute difference of an output; changed: the share of pairs of a sample
    and an element for which the largest channel of the output is another one; deviating: as
    relative, over |f(x) - mean f(x)|^2 in place of |f(x)|^2: outputs that vary little, beside what
    they have in common, look equivariant by the first. NaN if they do not vary, as for one sample.
    """

    relative: float
    largest: float
    changed: float
    deviating: float


def compare(
    function: Callable[[Any], Any],
    inputs: Mapping[str, Known],
    outputs: Mapping[str, Known],
    elements: Sequence[Moving],
    batch: Any,
) -> Error:
    """The error of ``function`` of a batch over these elements; exact, in double precision.

    What ``function`` returns is copied: it may write into one buffer at every call. What it is
    called with is not: it is to leave that as it is.
    """
    squared, norm, deviation, largest, changed, predictions = 0.0, 0.0, 0.0, 0.0, 0, 0
    plain = _known(outputs, function(batch))
    for x in map(_precise, plain.values()):
        norm += float(x.abs().square().sum())
        deviation += float((x - x.mean(0)).abs().square().sum())
    for element in elements:
        moved = function(act(inputs, element, batch))
        for path, x in _known(outputs, moved).items():
            expected = _precise(move(outputs[path], element, plain[path]))
            difference = _precise(x) - expected
            squared += float(difference.abs().square().sum())
            if difference.numel():
                largest = max(largest, float(difference.abs().max()))
            changed += int((_precise(x).real.argmax(1) != expected.real.argmax(1)).sum())
            predictions += expected[:, 0].numel()
    total, spread = len(elements) * norm, len(elements) * deviation
    return Error(
        math.sqrt(squared / total) if total else 0.0,
        largest,
        changed / max(predictions, 1),
        math.sqrt(squared / spread) if deviation > BLIND**2 * norm else math.nan,
    )


def _precise(x: Tensor) -> Tensor:
    """In double precision."""
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _known(outputs: Mapping[str, Known], output: Any) -> dict[str, Tensor]:
    """The output's tensors as ``shaped``, those that are in ``outputs``."""
    return {
        path: shaped(outputs[path], tensor.detach().clone(), "the model's output", flattened=True)
        for path, tensor in leaves(output)
        if path in outputs
    }


class Symmetrized(nn.Module):
    """The mean of rho_out(g)^-1 f(rho_in(g) x) over the group, and over the models f.

    It is equivariant whatever the weights, at |G| times the cost: the nearest equivariant function
    to the models' mean. Its gradients reach all models. A model's outputs may be a tensor, dict,
    tuple, list or dataclass; those on which the action is not known are left out of the mean. It is
    called as the models are: with one tensor, or with several by position or by name.
    """

    def __init__(
        self,
        mean: Mean,
        inputs: Mapping[str, Known],
        outputs: Mapping[str, Known],
        models: Iterable[nn.Module],
    ) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self._mean, self._inputs, self._outputs = [*mean], dict(inputs), dict(outputs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The averaged prediction, of the models' output type."""
        alone = "" in self._inputs
        if bool(args) == bool(kwargs) or (alone and len(args) != 1):
            names = ", ".join(map(repr, self._inputs))
            raise ValueError(
                f"{len(args)} inputs by position, {len(kwargs)} by name; accepted: "
                + ("one by position" if alone else f"all as in the example, {names}")
            )
        batch = kwargs or (args[0] if alone else args)
        total: dict[str, Tensor] = {}
        first = None
        for output, share in self._each(batch):
            first = output if first is None else first
            for path, tensor in leaves(output):
                if path in self._outputs:
                    term = share * tensor
                    total[path] = total[path] + term if path in total else term
        return mapped(lambda path, x: total.get(path, x), first)

    def _each(self, batch: Any) -> Iterator[tuple[Any, float]]:
        group = next(iter(self._inputs.values())).group
        for element, share in self._mean:
            back = functools.partial(self._back, inverse(group, element))
            for model in self.models:
                moved = act(self._inputs, element, copied(batch))
                yield mapped(back, call(model, moved)), share / len(self.models)

    def _back(self, element: int | Elements, path: str, tensor: Tensor) -> Tensor:
        if path not in self._outputs:
            return tensor
        features = self._outputs[path]
        moved = move(features, element, shaped(features, tensor, "output", flattened=True))
        return moved.reshape(tensor.shape)


def group_mean(
    mean: Mean,
    inputs: Mapping[str, Known],
    loss: Callable[..., Tensor],
    batch: Any,
    targets: Callable[[int | Elements], Any] | None = None,
) -> Tensor:
    """The mean of ``loss(rho_in(g) batch)`` over the group.

    targets: what an element makes of the loss's second argument, if it takes one.
    """
    terms = []
    for element, share in mean:
        moved = act(inputs, element, batch)
        terms.append(share * (loss(moved) if targets is None else loss(moved, targets(element))))
    return torch.stack(terms).sum(0)
