"""The configuration's JSON Schema and its page, both from the dataclasses that it consists of.

For editors, which complete and check ``config.yaml`` and presets by it. What it cannot say, such as
values that do not go together, is refused when the workflow is planned.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal

from equireg.config import Configuration
from equireg.config.types import SPELLINGS
from equireg.markdown import rows_of
from equireg.settings import Accepted

_TYPES: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "boolean",
    str: "string",
    type(None): "null",
}
# What a reader calls the types of JSON.
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "string": "a text",
}

PAGE = """\
# Configuration, key by key

Written by `make schema` from the code that reads it: do not edit. [config.yaml](../config.yaml) has
the paper's values and says of each what the paper's text and its authors' code do. A preset names
what it changes; `--config` on the command line comes last. Editors that know YAML's language server
complete and check a file that begins with

    # yaml-language-server: $schema=workflow/config.schema.json

(in a preset, with the path from there). What they cannot see, such as an image that is halved too
often, is refused when the workflow is planned, in a line that names the file, the key, the value
and what is accepted.
"""


def schema() -> dict[str, Any]:
    """What a configuration may be, in the words of JSON Schema (draft 7, which editors know)."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "equireg's configuration",
        **_section(Configuration),
    }


def schema_text() -> str:
    """The file that is checked in."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def page_text() -> str:
    """The same for readers, in Markdown: a table per section."""
    hints = typing.get_type_hints(Configuration)
    sections = [(name, hint) for name, hint in hints.items() if dataclasses.is_dataclass(hint)]
    parts = [PAGE, "## The experiment\n", *_table(Configuration)]
    for name, section in sections:
        parts += [f"## {name}\n", f"{section.__doc__}\n", *_table(typing.cast(type, section))]
    return "\n".join(parts).rstrip() + "\n"


def _section(section: type) -> dict[str, Any]:
    """A dataclass: its keys and no others, none of which must be there."""
    hints = typing.get_type_hints(section)
    keys = {
        entry.name: _key(section, entry, hints[entry.name]) for entry in dataclasses.fields(section)
    }
    return {
        "description": section.__doc__,
        "type": "object",
        "properties": keys,
        "additionalProperties": False,
    }


def _key(section: type, entry: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    """A field: its help, its type, what its values must fulfil, and its default."""
    if dataclasses.is_dataclass(hint):
        return _section(typing.cast(type, hint))
    spelling = SPELLINGS.get((section, entry.name))
    values = dict(spelling.schema) if spelling else _type(hint)
    for condition in _conditions(entry):
        values.get("items", values).update(condition.schema)  # of a list, each of its values
    said = f"{entry.metadata.get('help', '')} Accepted: {_accepted(section, entry, hint)}."
    return {"description": said.strip(), **values, "default": _default(entry)}


def _accepted(section: type, entry: dataclasses.Field[Any], hint: Any) -> str:
    """What a reader is told of a field's values."""
    if spelling := SPELLINGS.get((section, entry.name)):
        return spelling.text
    kinds = _type(hint).get("type", [])
    texts = [condition.text for condition in _conditions(entry)]
    if kinds == "array":
        return f"a list; each: {'; '.join(texts) or 'a value'}"
    if not texts:
        every: list[str] = kinds if isinstance(kinds, list) else [kinds]
        texts = [_WORDS.get(kind, kind) for kind in every]
    elif "null" in kinds:
        return f"{', '.join(texts)}, or null"
    return " or ".join(texts)


def _conditions(entry: dataclasses.Field[Any]) -> tuple[Accepted, ...]:
    return tuple(entry.metadata.get("accepted", ()))


def _type(hint: Any) -> dict[str, Any]:
    """The schema of a type. Raises TypeError for one that YAML has no values of."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (typing.Union, types.UnionType):
        choices = [_type(argument) for argument in arguments]
        if all(choice.keys() == {"type"} for choice in choices):
            return {"type": [choice["type"] for choice in choices]}
        return {"anyOf": choices}
    if origin is tuple and arguments[-1] is ...:
        return {"type": "array", "items": _type(arguments[0])}
    if origin is tuple:
        items = [_type(argument) for argument in arguments]
        return {"type": "array", "items": items, "minItems": len(items), "maxItems": len(items)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    raise TypeError(f"{hint} has no JSON Schema here; accepted: numbers, texts, choices and tuples")


def _default(entry: dataclasses.Field[Any]) -> Any:
    made = entry.default_factory
    return _plain(entry.default if made is dataclasses.MISSING else made())


def _plain(value: Any) -> Any:
    """Lists in the place of tuples."""
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _table(section: type) -> list[str]:
    """A row per key that is no section."""
    hints = typing.get_type_hints(section)
    rows = [
        [
            f"`{entry.name}`",
            entry.metadata.get("help", ""),
            _accepted(section, entry, hints[entry.name]),
            f"`{json.dumps(_default(entry))}`",
        ]
        for entry in dataclasses.fields(section)
        if not dataclasses.is_dataclass(hints[entry.name])
    ]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return rows_of(["key", "what", "accepted", "default"], cells)
