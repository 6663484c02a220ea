"""The JSON Schema that editors check configurations by: up to date, and of one mind with load."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from jsonschema import Draft7Validator

from equireg.config import Configuration, ConfigurationError, load, schema
from equireg.inventory import configuration_text
from equireg.settings import _option, between

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "config.yaml", *sorted((ROOT / "workflow/presets").glob("*.yaml"))]
CHECK = Draft7Validator(schema.schema())


class Yaml(yaml.SafeLoader):
    """YAML as editors read it, version 1.2: there, 1e-3 is a number."""


Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)"),
    list("-+.0123456789"),
)


def mistakes(text: str) -> list[str]:
    """What an editor would underline."""
    return [error.message for error in CHECK.iter_errors(yaml.load(text, Yaml))]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("workflow/config.schema.json", schema.schema_text()),
        ("docs/config.md", schema.page_text()),
    ],
)
def test_what_is_checked_in_is_up_to_date(file: str, text: str) -> None:
    """Else: make schema."""
    assert (ROOT / file).read_text(encoding="utf-8") == text


def test_it_is_a_schema() -> None:
    Draft7Validator.check_schema(schema.schema())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_files_are_accepted_and_say_where_it_is(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert mistakes(text) == []
    said = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert said
    assert (file.parent / said[1]).samefile(ROOT / "workflow/config.schema.json")


def test_the_merged_configuration_is_accepted() -> None:
    assert mistakes(configuration_text(Configuration())) == []


def test_every_key_has_a_description_and_its_default() -> None:
    def keys(section: dict[str, Any], values: Any) -> Iterator[tuple[dict[str, Any], Any]]:
        for name, key in section["properties"].items():
            value = getattr(values, name)
            if "properties" in key:
                yield from keys(key, value)
            else:
                yield key, list(value) if isinstance(value, tuple) else value

    for key, default in keys(schema.schema(), Configuration()):
        assert re.search(r"\S. Accepted: \S", key["description"])
        assert key["default"] == default


@pytest.mark.parametrize(
    "text",
    [
        "grid: {seeds: 30}",
        "grid: {seeds: '0-2, 7'}",
        "grid: {seeds: [0, 3]}",
        "grid: {seeds: [0-3, 9]}",
        "grid: {gammas: [0, 1e-4, 2000]}",
        "grid: {modes: [nominal]}",
        "data: {folder: null}",
        "training: {learning_rate: 1e-3}",
        "network: {kernel_size: 5, channels: [4]}",
        "{}",
    ],
)
def test_what_both_accept(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    load(["mine.yaml"])
    assert mistakes(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "traning: {}",
        "training: {epoch: 1}",
        "training: null",
        "training: {epochs: 0}",
        "training: {epochs: 100001}",
        "training: {epochs: 1.5}",
        "training: {epochs: true}",
        "training: {learning_rate: 0}",
        "training: {perturbation: -1}",
        "training: {order: any}",
        "network: {group: C3}",
        "network: {kernel_size: 4}",
        "network: {kernel_size: 101}",
        "network: {channels: [0]}",
        "network: {channels: 16}",
        "network: {allow_incompatible_support: 1}",
        "data: {name: MNIST}",
        "data: {folder: '{x}'}",
        "data: {folder: 3}",
        "experiment: ../x",
        "compare: ['../x']",
        "grid: {modes: [augmentd]}",
        "grid: {gammas: [-1]}",
        "grid: {gammas: 1}",
        "grid: {seeds: 0}",
        "grid: {seeds: '3-'}",
        "grid: {seeds: []}",
        "jobs: {threads: 0}",
    ],
)
def test_what_both_refuse(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    with pytest.raises(ConfigurationError):
        load(["mine.yaml"])
    assert mistakes(text)


def test_types_that_no_setting_has_yet() -> None:
    @dataclass
    class Made:
        pair: tuple[int, float] = _option((1, 2.0), "A pair.")
        some: tuple[Literal["a", "b"], ...] = _option(("a",), "Some.")
        perhaps: float | None = _option(None, "Perhaps.", between(1, 3))
        table: dict[str, int] | tuple[int, ...] = _option(None, "A table.")

    found = schema._section(Made)["properties"]
    assert found["pair"]["items"] == [{"type": "integer"}, {"type": "number"}]
    assert (found["pair"]["minItems"], found["pair"]["maxItems"]) == (2, 2)
    assert found["some"]["items"] == {"enum": ["a", "b"]}
    assert found["perhaps"] == {
        "description": "Perhaps. Accepted: 1 to 3, or null.",
        "type": ["number", "null"],
        "minimum": 1,
        "maximum": 3,
        "default": None,
    }
    assert found["table"]["anyOf"][0]["additionalProperties"] == {"type": "integer"}
    with pytest.raises(TypeError, match="set"):
        schema._type(set)
