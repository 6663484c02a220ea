"""The types of keys: what pydantic checks, one model per section, made from its dataclass."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from equireg.config.messages import Mistake
from equireg.settings import GridSettings, TrainingSettings
from equireg.spelling import (
    KNOTS,
    MOST_SEEDS,
    parse_knots,
    parse_seeds,
    spell_knots,
    spell_seeds,
)


def _accept(remedy: str) -> PydanticCustomError:
    return PydanticCustomError("remedy", "{remedy}", {"remedy": f"accepted: {remedy}"})


def _number(value: Any) -> Any:
    """Text is a number where it spells one: to YAML, 1e-4 without a dot is text. true is not 1."""
    if isinstance(value, bool):
        raise _accept("a number")
    return value


def _truth(value: Any) -> Any:
    if not isinstance(value, bool) and value not in ("true", "True", "false", "False"):
        raise _accept("true or false")
    return value


def _list(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise _accept("a list, such as [1, 2]")
    return value


_RANGE = r"\d{1,9}(-\d{1,9})?"
_SEEDS = "a number of seeds, ranges such as 0-29 or 0,3,7-9, or a list of seeds"


def _seeds(value: Any) -> str:
    """A number of seeds, a text of ranges or a list of seeds; in the one spelling of settings."""
    items = value if isinstance(value, list) else [value]
    text = ",".join(str(item) for item in items if type(item) in (int, str))
    if items is not value and re.fullmatch(r"\d+", text):  # a number; --config makes it a text
        text = f"0-{int(text) - 1}"
    if any(type(item) not in (int, str) for item in items):
        raise _accept(_SEEDS)
    try:
        return spell_seeds(parse_seeds(text))
    except ValueError as error:
        remedy = str(error).partition("accepted: ")[2]
        raise _accept(_SEEDS if remedy.startswith("numbers") else remedy) from None


_KNOTS = (
    f"{', '.join(KNOTS)}, or a list of [share, factor], with shares ascending from 0 to at most 1 "
    "and factors that are 0 or more, or inf"
)


def _knots(value: Any) -> str:
    """A name, or a list of knots [share, factor] as the text that settings hold."""
    if isinstance(value, str) and value in KNOTS:
        return value
    text = value
    if isinstance(value, list):
        sound = all(isinstance(knot, list) and len(knot) == 2 for knot in value)
        text = ",".join(f"{knot[0]}:{knot[1]}" for knot in value) if sound else ""
    try:
        return spell_knots(parse_knots(str(text)))
    except ValueError:
        raise _accept(_KNOTS) from None


class Spelling(NamedTuple):
    """How YAML may spell a key whose type in settings is the one spelling of all of them.

    read: what makes that of any of them, or refuses it; schema: the values in JSON Schema's words.
    """

    read: Callable[[Any], Any]
    text: str
    schema: Mapping[str, Any]


SPELLINGS: dict[tuple[type, str], Spelling] = {
    (GridSettings, "seeds"): Spelling(
        _seeds,
        _SEEDS,
        {
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": MOST_SEEDS},
                {"type": "string", "pattern": rf"^\s*{_RANGE}\s*(,\s*{_RANGE}\s*)*$"},
                {"type": "array", "minItems": 1, "items": {"type": ["integer", "string"]}},
            ]
        },
    ),
    (TrainingSettings, "gamma_schedule"): Spelling(
        _knots,
        _KNOTS,
        {
            "anyOf": [
                {"enum": list(KNOTS)},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "type": "array",
                        "minItems": 2,
                        "maxItems": 2,
                        "items": {"type": ["number", "string"]},
                    },
                },
            ]
        },
    ),
}

_READERS: dict[Any, Callable[[Any], Any]] = {int: _number, float: _number, bool: _truth}


def _type(hint: Any) -> Any:
    if typing.get_origin(hint) is tuple:
        item: Any = _type(typing.get_args(hint)[0])
        return Annotated[tuple[item, ...], BeforeValidator(_list)]
    if dataclasses.is_dataclass(hint):
        return model_of(typing.cast(type, hint))
    if typing.get_origin(hint) is types.UnionType:  # or null
        (some,) = (kind for kind in typing.get_args(hint) if kind is not type(None))
        return _type(some) | None
    return Annotated[hint, BeforeValidator(_READERS[hint])] if hint in _READERS else hint


def model_of(section: type) -> type[BaseModel]:
    """The model whose keys and types are the fields of a dataclass."""
    fields: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(section).items():
        spelling = SPELLINGS.get((section, name))
        kind = Annotated[hint, BeforeValidator(spelling.read)] if spelling else _type(hint)
        fields[name] = (kind, None)
    return create_model(section.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def values_of(model: BaseModel) -> dict[str, Any]:
    """The values that are set in the model; those of a section as a dictionary of its own."""
    values = {name: getattr(model, name) for name in model.model_fields_set}
    return {k: values_of(v) if isinstance(v, BaseModel) else v for k, v in values.items()}


def explain(details: ErrorDetails, root: type) -> Mistake:
    """Pydantic's error in this program's words."""
    key, value, message = details["loc"], details["input"], details["msg"]
    kind = details["type"]
    if kind in ("extra_forbidden", "invalid_key"):
        section: Any = root
        for part in key[:-1]:
            section = typing.get_type_hints(section)[str(part)]
        names = [entry.name for entry in dataclasses.fields(section)]
        close = difflib.get_close_matches(str(key[-1]), names, 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return Mistake(key, value, f"there is no such key; {hint}accepted: {', '.join(names)}")
    if kind == "literal_error":
        accepted = str(details["ctx"]["expected"])
        close = difflib.get_close_matches(str(value), re.findall(r"'(.*?)'", accepted), 1)
        hint = f"did you mean {close[0]}? " if close else ""
        return Mistake(key, value, f"{hint}accepted: {accepted}")
    if kind in ("model_type", "model_attributes_type"):
        return Mistake(key, value, "accepted: a section, that is keys and values below it")
    types = {"string": "a text; write it in quotes", "int": "a whole number", "float": "a number"}
    if kind.split("_")[0] in types:
        return Mistake(key, value, f"accepted: {types[kind.split('_')[0]]}")
    return Mistake(key, value, message.replace("Input should be", "accepted:"))
