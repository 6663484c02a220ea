"""Tensors in dicts, tuples, lists and dataclasses, by the names that lead to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in ``tree``, named such as ``logits`` or ``heads.0``; one alone is ``""``."""
    if isinstance(tree, Tensor):
        yield path, tree
        return
    for key, item in _items(tree):
        yield from leaves(item, f"{path}.{key}" if path else key)


def mapped(function: Callable[[str, Tensor], Any], tree: Any, path: str = "") -> Any:
    """The same tree with ``function(path, tensor)`` in place of each tensor."""
    if isinstance(tree, Tensor):
        return function(path, tree)
    items = {
        key: mapped(function, item, f"{path}.{key}" if path else key) for key, item in _items(tree)
    }
    if isinstance(tree, Mapping):
        values = zip(tree, items.values(), strict=True)
        if not isinstance(tree, dict):
            return dict(values)
        new = tree.copy()
        new.update(values)
        return new
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return dataclasses.replace(tree, **items)
    if isinstance(tree, tuple):
        return type(tree)(*items.values()) if hasattr(tree, "_fields") else tuple(items.values())
    return list(items.values()) if isinstance(tree, list) else tree


def copied(tree: Any, *, gradients: bool = False) -> Any:
    """The same tree with each tensor copied.

    gradients: whether the copies are to be differentiated by, those that can be.
    """

    def one(_: str, x: Tensor) -> Tensor:
        if gradients and x.is_floating_point():
            return x.detach().clone().requires_grad_()
        return x.clone()

    return mapped(one, tree)


def check_tensors(tree: Any, path: str = "") -> None:
    """Raise ValueError for arrays that are no tensors, and for trees without tensors."""
    if isinstance(tree, np.ndarray):
        raise ValueError(f"batch {path}".rstrip() + " is a NumPy array; accepted: tensors")
    for key, item in _items(tree):
        check_tensors(item, f"{path}.{key}" if path else key)
    if not path and next(leaves(tree), None) is None:
        raise ValueError(f"batch is a {type(tree).__name__} without tensors; accepted: tensors")


def call(function: Callable[..., Any], batch: Any) -> Any:
    """``function`` on one tensor, on several (a tuple or list), or by name (a dict)."""
    if isinstance(batch, Mapping):
        return function(**batch)
    return function(*batch) if isinstance(batch, (tuple, list)) else function(batch)


def _items(tree: Any) -> list[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        return [(str(key), item) for key, item in tree.items()]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [(field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, (tuple, list)):
        return [(str(i), item) for i, item in enumerate(tree)]
    return []
