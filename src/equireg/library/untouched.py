"""Running a user's model without leaving a trace: modes, state and random numbers as they were."""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Holds ``model`` in evaluation mode, then sets each module's own again.

    By ``train()`` and ``eval()``, which some modules give a meaning of their own (adapters that
    merge their weights), from the root down, and only where the mode differs.
    """
    modes = {module: module.training for module in model.modules()}
    if any(modes.values()):
        model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            if module.training != mode:
                module.train(mode)
        for module, mode in modes.items():  # what a train() of its own did not set
            module.training = mode


def differentiating(run: Callable[[bool], T]) -> T:
    """``run(False)`` without gradients; ``run(True)`` with them, where a model asks for its own.

    That is one that differentiates in forward, as forces are computed from an energy.
    """
    try:
        with torch.no_grad():
            return run(False)
    except RuntimeError as error:
        if "require grad" not in f"{error}":
            raise
    with torch.enable_grad():
        return run(True)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, after which the model and all global random numbers are as before.

    Attributes of the modules are restored, the containers in them, and tensors to the bit:
    counters, observers, running statistics, masks that a forward pass applies to its weights.
    """
    restore = [_containers(model), _tensors(model), _random()]
    try:
        with evaluating(model):
            yield
    finally:
        for one in restore:
            one()


def _containers(model: nn.Module) -> Callable[[], None]:
    """How to restore the attributes of all modules, and lists, dicts and sets in them.

    Random generators in them, too, which are drawn from.
    """
    held: dict[int, tuple[Any, Any]] = {}
    drawn = dict[int, Callable[[], object]]()

    def hold(value: Any, depth: int) -> None:
        if id(value) in held or isinstance(value, (Tensor, nn.Module, type)):
            return
        if again := _state_of(value):
            drawn.setdefault(id(value), again)
            return
        if isinstance(value, (dict, list, set, deque)):
            held[id(value)] = value, value.copy()
            for item in value.values() if isinstance(value, dict) else value:
                hold(item, depth)
        elif isinstance(value, tuple):
            for item in value:
                hold(item, depth)
        elif depth and isinstance(getattr(value, "__dict__", None), dict) and not callable(value):
            hold(vars(value), depth - 1)  # a meter; what that refers to is not the model's

    for module in model.modules():
        hold(vars(module), 1)

    def restore() -> None:
        for again in drawn.values():
            again()
        for value, copy in held.values():
            if isinstance(value, dict):
                if list(map(_identity, value.items())) != list(map(_identity, copy.items())):
                    value.clear()
                    value.update(copy)
            elif isinstance(value, set):
                if value != copy:
                    value.clear()
                    value.update(copy)
            elif list(map(id, value)) != list(map(id, copy)):
                value.clear()
                value.extend(copy)

    return restore


def _state_of(value: Any) -> Callable[[], object] | None:
    """How to set a random generator to where it is now; None for what is none."""
    if isinstance(value, torch.Generator):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, np.random.RandomState):
        return functools.partial(value.set_state, value.get_state())
    if isinstance(value, random.Random):
        return functools.partial(value.setstate, value.getstate())
    if isinstance(value, np.random.Generator):
        bits: Any = value.bit_generator
        return functools.partial(setattr, bits, "state", deepcopy(bits.state))
    return None


def _identity(item: tuple[Any, Any]) -> tuple[Any, int]:
    return item[0], id(item[1])


def _tensors(model: nn.Module) -> Callable[[], None]:
    """How to restore parameters, buffers and tensors held as attributes."""
    held: dict[int, tuple[Tensor, Tensor]] = {}
    for module in model.modules():
        state = vars(module)
        for values in (state, state["_parameters"], state["_buffers"]):
            for tensor in values.values():
                if isinstance(tensor, Tensor) and not tensor.is_meta:
                    held[id(tensor)] = tensor, tensor.detach().clone()

    def restore() -> None:
        for tensor, copy in held.values():
            if not torch.equal(tensor, copy):
                tensor.data.copy_(copy)

    return restore


def _random() -> Callable[[], None]:
    """How to restore the global random states of torch, CUDA, numpy and Python."""
    cpu, python = torch.get_rng_state(), random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None

    def restore() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)

    return restore
