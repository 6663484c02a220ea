"""Tensors in nested arguments of functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(nested: Any) -> Iterator[Tensor]:
    """The tensors in nested arguments."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, Mapping):
        yield from tensors(list(nested.values()))
    elif isinstance(nested, (tuple, list)):
        for item in nested:
            yield from tensors(item)


def swapped(function: Callable[[Tensor], Any], nested: Any) -> Any:
    """Nested arguments with each tensor replaced."""
    if isinstance(nested, Tensor):
        return function(nested)
    if isinstance(nested, dict):
        return {key: swapped(function, item) for key, item in nested.items()}
    if isinstance(nested, (tuple, list)):
        items = (swapped(function, item) for item in nested)
        return tuple(items) if isinstance(nested, tuple) else list(items)
    return nested
