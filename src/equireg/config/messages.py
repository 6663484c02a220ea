"""What is wrong with a configuration: a line per mistake says where, and what is accepted."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from equireg.settings import show as spelled

Key = tuple[int | str, ...]


class ConfigurationError(ValueError):
    """What is wrong with a configuration, a line per mistake."""


@dataclass(frozen=True)
class Mistake:
    """A value that cannot be taken; ``remedy`` says what is accepted."""

    key: Key
    value: Any
    remedy: str


_shorten = reprlib.Repr()
_shorten.maxstring = _shorten.maxother = _shorten.maxlong = 80


def line(
    mistake: Mistake, layers: Mapping[str, Mapping[Any, Any]], at: str = "", place: Key = ()
) -> str:
    """A mistake as a line; at: the combination of a sweep in which it is one.

    place: the key at which a layer says the value, where it is not the mistake's.
    """
    key = "".join(f".{part}" if isinstance(part, str) else f"[{part}]" for part in mistake.key)
    said = f"{key.lstrip('.')} is {show(mistake.value)}; {mistake.remedy}"
    within = f"in the sweep, at {at}: " if at else ""
    return one_line(f"{source(place or mistake.key, layers)}: {within}{said}")


def source(key: Key, layers: Mapping[str, Mapping[Any, Any]]) -> str:
    """The last layer that says something at this key or at a section that it is in."""
    for name, layer in list(layers.items())[::-1]:
        found: Any = layer
        for part in key:
            if not isinstance(found, Mapping):
                return name
            if part not in found:
                break
            found = found[part]
        else:
            return name
    return "the defaults"


def show(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return spelled(value)
    return _shorten.repr(list(value) if isinstance(value, tuple) else value)


def one_line(text: str) -> str:
    return " ".join(text.split())
