"""The network of the configuration: the paper's kind, or a user's own from a Python file.

A function of the file makes the module, the library finds the spaces of its parameters, and
training gets both: the two know nothing of each other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import random
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from equireg.library.actions import inverse
from equireg.library.equivariance import Equivariance
from equireg.randomness import generator
from equireg.settings import NetworkSettings
from equireg.spelling import build_file
from equireg.symmetry.groups import Elements
from equireg.symmetry.representations import trivial
from equireg.symmetry.spaces import Space
from equireg.training.modules import ModuleNetwork, Motion, usual_loss
from equireg.training.network import Network

# What a function may return in a dict: the module; arguments of ``equireg.Equivariance``; the loss.
ARGUMENTS = ("group", "example", "representations", "input", "output")
KEYS = ("module", *ARGUMENTS, "loss")
AT_ONCE = 1000  # inputs that are moved at a time; bounds the memory


@dataclass(frozen=True)
class Built:
    """A user's network; findings: what the library warns of."""

    network: ModuleNetwork
    equivariance: Equivariance
    findings: tuple[str, ...]


def network_of(settings: NetworkSettings) -> Network | ModuleNetwork:
    """The network of these settings. Raises ValueError, in one line, if it cannot be made."""
    return Network.of(settings) if settings.build is None else build(settings).network


def build(settings: NetworkSettings) -> Built:
    """The network that ``settings.build`` names.

    Raises ValueError, in one line that names the file and the function, where these are not there,
    where the function fails or returns something else than it should, and for a network that the
    library refuses.
    """
    function = _function(settings)
    made = _made(settings, function, 0)
    module = made["module"]
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(
            f"{settings.build}: a {type(module).__name__} without parameters that need a gradient; "
            "accepted: a module with some"
        )
    side, channels = settings.image_size, settings.image_channels
    drawn = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    arguments: dict[str, Any] = {"group": settings.group, "example": drawn}
    arguments |= {name: made[name] for name in ARGUMENTS if name in made}
    if not isinstance(arguments["example"], Tensor):
        raise ValueError(
            f"{settings.build}: example is a {type(arguments['example']).__name__}; accepted: one "
            "tensor, as training has one image for each sample"
        )
    with warnings.catch_warnings(record=True) as said, failing(settings, "is refused"):
        warnings.simplefilter("always")
        found = Equivariance(module, **arguments)
        spaces = found.spaces
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and name not in spaces:  # the group leaves it as it is
            whole = trivial(found.group, parameter.numel())
            spaces[name] = Space(whole, shape=parameter.shape)
    order = [name for name, _ in module.named_parameters() if name in spaces]
    taken = [name for name in order if name == "seeds" or name.startswith("distance")]
    if taken:
        raise ValueError(
            f"{settings.build}: a parameter is named {taken[0]}, as a column of the results is; "
            "accepted: other names"
        )
    network = ModuleNetwork(
        module,
        lambda seed: _made(settings, function, seed)["module"],
        found.group,
        {name: spaces[name] for name in order},
        Motion(
            functools.partial(_orbit, found),
            functools.partial(_target_orbit, found),
            functools.partial(_back, found),
            functools.partial(_move, found),
        ),
        made.get("loss", usual_loss),
    )
    findings = dict.fromkeys(" ".join(str(one.message).split()) for one in said)
    return Built(network, found, tuple(findings))


def _made(settings: NetworkSettings, function: Callable[[], Any], seed: int) -> dict[str, Any]:
    """What the function returns for a seed, as a dict."""
    with _seeded(seed), failing(settings, "failed"):
        made = function()
    if isinstance(made, nn.Module):
        made = {"module": made}
    if not isinstance(made, dict) or not isinstance(made.get("module"), nn.Module):
        raise ValueError(
            f"{settings.build}: returned a {type(made).__name__}; accepted: an nn.Module, or a "
            f"dict with one and any of {', '.join(KEYS[1:])}"
        )
    if unknown := made.keys() - {*KEYS}:
        raise ValueError(
            f"{settings.build}: returned the key {min(map(str, unknown))!r}; accepted: "
            f"{', '.join(KEYS)}"
        )
    return made


def _function(settings: NetworkSettings) -> Callable[[], Any]:
    file, name = build_file(settings.build), str(settings.build).rpartition(":")[2]
    assert file
    if not file.is_file():
        raise ValueError(f"{settings.build}: {file} is missing; accepted: a file that exists")
    with failing(settings, "failed when it was read"):
        function: Callable[[], Any] | None = getattr(_read(file.resolve()), name, None)
    if not callable(function):
        raise ValueError(f"{settings.build}: {file} has no function {name}; accepted: one it has")
    return function


def _read(file: Path) -> ModuleType:
    """The file as a module of its own; what it defines is found by its name in ``sys.modules``."""
    name = f"equireg_network_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec
    assert spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def failing(settings: NetworkSettings, what: str) -> Iterator[None]:
    """Say in one line what somebody else's code raises, and where."""
    file = build_file(settings.build)
    try:
        yield
    except Exception as error:  # it may raise anything
        places = [
            frame.lineno
            for frame in traceback.extract_tb(error.__traceback__)
            if file and Path(frame.filename) == file.resolve()
        ]
        where = f" in line {places[-1]}" if places else ""
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        text = " ".join(str(error).split())
        raise ValueError(f"{settings.build}: {what}{where}: {kind}{text}") from error


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The usual generators, those of PyTorch, NumPy and Python, from a seed; then as before."""
    key = int(generator(seed, "initial weights").integers(2**32))
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key)
            random.seed(key)
            np.random.seed(key)  # noqa: NPY002
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def _compared(found: Equivariance) -> list[int | Elements]:
    """The elements by which all inputs are moved; numbers of those of a finite group."""
    group = found.group
    if not len(group.algebra):
        return [*range(group.order)]
    return [group.compared[i : i + 1] for i in range(len(group.compared))]


def _orbit(found: Equivariance, inputs: Tensor, of: Literal["input", "output"] = "input") -> Tensor:
    """Every input moved by every element, (count * turns, ...), an input's side by side."""
    every = _compared(found)
    parts = [
        torch.stack([found.act(element, part, of) for element in every], 1).flatten(0, 1)
        for part in inputs.split(AT_ONCE)
    ]
    return torch.cat(parts)


def _is_moved(targets: Tensor) -> bool:
    """Classes of whole inputs stay as they are."""
    return targets.ndim > 1 or targets.is_floating_point()


def _target_orbit(found: Equivariance, targets: Tensor) -> Tensor | None:
    """The same of targets; None for classes of whole inputs."""
    return _orbit(found, targets, "output") if _is_moved(targets) else None


def _back(found: Equivariance, outputs: Tensor) -> Tensor:
    """Each element's outputs, (turns, runs, count, ...), moved by its inverse."""
    inverses = [inverse(found.group, element) for element in _compared(found)]
    each = zip(inverses, outputs.flatten(1, 2), strict=True)
    return torch.stack([found.act(g, part, "output") for g, part in each]).view(outputs.shape)


def _move(
    found: Equivariance, inputs: Tensor, targets: Tensor, elements: Elements
) -> tuple[Tensor, Tensor]:
    """Inputs and targets, each moved by its own element."""
    moved = found.act(elements, inputs)
    return moved, found.act(elements, targets, "output") if _is_moved(targets) else targets
