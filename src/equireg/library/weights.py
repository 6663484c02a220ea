"""The weights on which a group acts: their distance to E, the penalty, projections."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from equireg.library.tracing import Space
from equireg.library.untouched import evaluating
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.representations import Representation

Gamma = float | Mapping[str, float]  # for all layers, or by patterns of their names
STATISTICS = ("running_mean", "running_var")  # of batch normalization: projected, not penalized
BLOCK = 18  # up to so many entries, several grids are one row of a product: fewer, longer rows
WIDEST = 64  # grids of more entries are left to ``symmetry.Space``


class Distance(NamedTuple):
    """The Euclidean distance of the weights to E, in total and per layer."""

    total: float
    layers: dict[str, float]


class Weights:
    """Parameters, found by layer and name at each call, and the group's action on them.

    Calls that change weights or gradients check all layers first: they are whole or not at all.
    """

    def __init__(self, spaces: Sequence[Space]) -> None:
        self.spaces = list(spaces)

    def penalty(self, gamma: Gamma) -> Tensor:
        """The sum of gamma |Pi_{E-perp} A_i|^2 over the layers; a scalar."""
        factors = self._factors(gamma)
        terms = [
            factors[space.layer] * _squared(space, tensor) for space, tensor in self._current()
        ]
        return torch.stack([term.to(terms[0].device) for term in terms]).sum()

    @torch.no_grad()
    def prepare(self) -> None:
        """Make the constants, which torch.compile could not."""
        for space, tensor in self._current():
            none = tensor.new_zeros(0, *space.action.shape)
            space.action.squared_distance(_precise(none))

    @torch.no_grad()
    def distance(self) -> Distance:
        """The distance to E."""
        layers: dict[str, float] = {}
        for space, tensor in self._current():
            squared = float(_squared(space, tensor))
            layers[space.layer] = layers.get(space.layer, 0) + squared
        total = math.sqrt(sum(layers.values()))
        return Distance(total, {layer: math.sqrt(d) for layer, d in layers.items()})

    @torch.no_grad()
    def add_penalty_gradients_(self, gamma: Gamma) -> None:
        """Add gamma Pi_{E-perp} A to the gradients."""
        factors = self._factors(gamma)
        for space, tensor in self._stored():
            if not tensor.requires_grad or not factors[space.layer]:
                continue
            if tensor.grad is None:
                tensor.grad = torch.zeros_like(tensor)
            _add_complement_(space.action, tensor.grad, tensor, factors[space.layer])

    @torch.no_grad()
    def shrink_(self, shares: Mapping[str, float]) -> None:
        """A <- A - share Pi_{E-perp} A, per layer."""
        for space, tensor in self._stored():
            if shares[space.layer]:
                _add_complement_(space.action, tensor, tensor, -shares[space.layer])

    @torch.no_grad()
    def project_(self, share: float, optimizer: Optimizer | None) -> None:
        """A <- A - share Pi_{E-perp} A, running statistics and the optimizer's state with it."""
        pairs = self._stored(statistics=True)
        held = (
            {id(p) for group in optimizer.param_groups for p in group["params"]}
            if optimizer
            else set()
        )
        if optimizer and not any(id(tensor) in held for _, tensor in pairs):
            raise ValueError(
                f"optimizer, a {type(optimizer).__name__}, trains none of the weights; accepted: "
                "the one that trains this model"
            )
        for space, tensor in pairs:
            _check_moments(space, tensor, optimizer)
        for space, tensor in pairs:
            for one in (tensor, *_moments(space, tensor, optimizer)):
                projected = _projected(space, one)
                one.copy_(projected if share == 1 else torch.lerp(one, projected.to(one), share))

    @torch.no_grad()
    def project_gradients_(self) -> None:
        """Replace the gradients by Pi_E of them."""
        for space, tensor in self._stored():
            if tensor.grad is not None:
                tensor.grad.copy_(_projected(space, tensor.grad))

    def _factors(self, gamma: Gamma) -> dict[str, float]:
        """gamma per layer; of several patterns the last one that matches."""
        layers = list(dict.fromkeys(space.layer for space in self.spaces))
        for value in gamma.values() if isinstance(gamma, Mapping) else (gamma,):
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ValueError(f"gamma is {value!r}; accepted: numbers")
        if not isinstance(gamma, Mapping):
            return dict.fromkeys(layers, gamma)
        factors = dict.fromkeys(layers, 0.0)
        for pattern, value in gamma.items():
            matching = [layer for layer in layers if fnmatchcase(layer, pattern)]
            if not matching:
                raise ValueError(f"gamma: no layer {pattern!r}; accepted: {', '.join(layers)}")
            factors |= dict.fromkeys(matching, value)
        return factors

    def shares(self, gamma: Gamma, rate: float, steps: int) -> dict[str, float]:
        """1 - (1 - rate gamma)^steps per layer. Raises ValueError for rate gamma not in [0, 1]."""
        factors = self._factors(gamma)
        for layer, factor in factors.items():
            if not 0 <= rate * factor <= 1:
                raise ValueError(
                    f"layer {layer!r}: lr times gamma is {rate * factor:g}; accepted: 0 to 1"
                )
        return {layer: 1 - (1 - rate * factor) ** steps for layer, factor in factors.items()}

    def _current(self) -> Iterator[tuple[Space, Tensor]]:
        """Spaces and their parameters as they are now, computed ones too; no statistics."""
        for space in self.spaces:
            if space.parameter in STATISTICS:
                continue
            computing = getattr(space.module, "parametrizations", {})
            if space.parameter in computing:  # spectral_norm's own iteration is for the forward
                with evaluating(computing[space.parameter]):
                    tensor = getattr(space.module, space.parameter)
                yield space, tensor
            else:
                yield space, getattr(space.module, space.parameter)

    def _stored(self, *, statistics: bool = False) -> list[tuple[Space, Tensor]]:
        """The same where they can be changed in place; all or a ValueError."""
        pairs = []
        for space in self.spaces:
            if space.parameter in STATISTICS and not statistics:
                continue
            where = f"layer {space.layer!r}: its {space.parameter}"
            if space.parameter in getattr(space.module, "parametrizations", {}):
                raise ValueError(
                    f"{where} is computed from other parameters and cannot be projected; remove "
                    "the parametrization first"
                )
            tensor = getattr(space.module, space.parameter)
            if tensor.numel() != math.prod(space.action.shape):
                raise ValueError(
                    f"{where} now has shape {tuple(tensor.shape)}; accepted: "
                    f"{math.prod(space.action.shape)} entries, as when this Equivariance was made"
                )
            if tensor.is_inference() and not torch.is_inference_mode_enabled():
                raise ValueError(
                    f"{where} was made in inference mode and cannot be changed; accepted: weights "
                    "that can be trained"
                )
            if tensor.grad is not None and tensor.grad.layout != torch.strided:
                raise ValueError(
                    f"{where} has a gradient of layout {tensor.grad.layout}; accepted: dense ones"
                )
            pairs.append((space, tensor))
        return pairs

    def each(self) -> Iterator[tuple[Tensor, symmetry.Space]]:
        """Each parameter, and the action on it in its own shape."""
        for space, tensor in self._stored():
            action = space.action
            yield (
                tensor,
                symmetry.Space(*action.axes, shape=tensor.shape, trained=action.trained),
            )

    # What to print

    def rows(self) -> list[tuple[str, int, int, str]]:
        """Name, dim E, entries and axes of each parameter, without statistics."""
        return [
            (
                f"{s.layer}.{s.parameter}".lstrip("."),
                s.action.dimension,
                math.prod(s.action.shape),
                " * ".join(axis.name for axis in s.action.axes),
            )
            for s in self.spaces
            if s.parameter not in STATISTICS
        ]

    @torch.no_grad()
    def table(self) -> str:
        """Dimensions, distance to E and the cost of the penalty's gradient, per parameter."""
        lines = [f"{'parameter':32} {'dim E':>9} {'of':>9} {'distance':>9} {'share':>6} {'ms':>8}"]
        for (name, inside, entries, _), (space, tensor) in zip(
            self.rows(), self._current(), strict=True
        ):
            distance, norm = math.sqrt(float(_squared(space, tensor))), float(tensor.norm())
            total, times = torch.zeros_like(tensor), []
            for _ in range(3):
                start = time.perf_counter()
                _add_complement_(space.action, total, tensor, 1.0)
                times.append(1e3 * (time.perf_counter() - start))
            lines.append(
                f"{name:32} {inside:9} {entries:9} {distance:9.3g} "
                f"{distance / norm if norm else 0:6.1%} {sorted(times)[1]:8.3f}"
            )
        return "\n".join(lines)


def _squared(space: Space, tensor: Tensor) -> Tensor:
    with torch.autocast(tensor.device.type, enabled=False):
        return space.action.squared_distance(_precise(tensor).reshape(space.action.shape))


def _projected(space: Space, tensor: Tensor) -> Tensor:
    with torch.autocast(tensor.device.type, enabled=False):
        return space.action.project(_precise(tensor).reshape(space.action.shape)).reshape(
            tensor.shape
        )


def _precise(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _moments(space: Space, tensor: Tensor, optimizer: Optimizer | None) -> list[Tensor]:
    """An optimizer's means of gradients, and of squares where entries are permuted.

    The mean over a group of squares, entry by entry, means nothing under other matrices.
    """
    state = {} if optimizer is None else optimizer.state.get(tensor, {})
    permuted = all(axis.permutations is not None for axis in space.action.axes)
    return [
        value
        for value in state.values()
        if isinstance(value, Tensor)
        and value.shape == tensor.shape
        and value.is_floating_point()
        and (permuted or bool((value < 0).any()))
    ]


def _check_moments(space: Space, tensor: Tensor, optimizer: Optimizer | None) -> None:
    """Raise ValueError for what an optimizer holds of a weight in another shape, or of several."""
    for name, value in ({} if optimizer is None else optimizer.state.get(tensor, {})).items():
        several = isinstance(value, (list, tuple)) and any(isinstance(x, Tensor) for x in value)
        other = isinstance(value, Tensor) and value.numel() > 1 and value.shape != tensor.shape
        if several or other:
            raise ValueError(
                f"optimizer, a {type(optimizer).__name__}, holds {name} of layer {space.layer!r}, "
                "which is not of the weights' shape and cannot be projected; accepted: a new "
                "optimizer, made after project_()"
            )


def _add_complement_(action: symmetry.Space, total: Tensor, weights: Tensor, scale: float) -> None:
    """Add ``scale`` Pi_{E-perp} of the weights to ``total``, which may be the weights."""
    precise, held = _precise(total), _precise(weights)
    moved = [axis for axis in action.axes if not axis.is_trivial]
    last = len(moved) == 1 and moved[0] is action.axes[-1] and moved[0].size <= WIDEST
    with torch.autocast(total.device.type, enabled=False):
        if last and precise.is_contiguous() and held.is_contiguous():
            copies = max(BLOCK // moved[0].size, 1)
            while (held.numel() // moved[0].size) % copies:
                copies -= 1
            away = _away(moved[0], copies, held.device, held.dtype)
            rows, added = precise.view(-1, len(away)), held.view(-1, len(away))
            if precise is held:  # a product must not read what it writes
                rows.add_(added @ away, alpha=scale)
            else:
                rows.addmm_(added, away, alpha=scale)
        else:
            added = held.reshape(action.shape)
            away = (added - action.project(added)).reshape(held.shape)
            precise = precise.add_(away, alpha=scale)
    if precise is not total:  # of another type
        total.copy_(precise)


@functools.lru_cache(maxsize=256)
def _away(
    representation: Representation, copies: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """I - Pi_G on ``copies`` vectors side by side, a block-diagonal matrix."""
    with torch.inference_mode(False):
        entries = torch.eye(representation.size, dtype=torch.float64)
        away = entries - symmetry.Space(representation).project(entries)
        held: Tensor = torch.block_diag(*[away] * copies).to(device, dtype)
        return held
