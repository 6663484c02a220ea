"""YAML files of configuration, read as plain values and laid over one another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from equireg.config.messages import ConfigurationError, one_line, show


def read(file: Path) -> dict[str, Any]:
    """The sections in a YAML file. Raises ConfigurationError where there are none."""
    try:
        with file.open(encoding="utf-8") as stream:
            content = yaml.load(stream, _Loader)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{file}: is not there; accepted: a path from the folder that holds the "
            "Snakefile, where commands are run"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{file}: is not YAML: {one_line(str(error))}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{file}: holds {show(content)}; accepted: sections of keys, as in config.yaml"
        )
    return content


def merge(base: Any, layer: Mapping[Any, Any]) -> dict[Any, Any]:
    """``layer`` laid over ``base`` key by key, as Snakemake lays --configfile over config.yaml."""
    merged = dict(base) if isinstance(base, Mapping) else {}
    for key, value in layer.items():
        merged[key] = merge(merged.get(key), value) if isinstance(value, Mapping) else value
    return merged


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which makes plain values and runs nothing, with three refusals more:

    a key that a section has twice, of which YAML would silently drop the first; a key that is no
    text; and a value that stands for another one, which could hold itself, or a million others.
    """

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            message = f"*{event.anchor} stands for another value; write the value itself"
            raise yaml.composer.ComposerError(None, None, message, event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        repeated = [key for key, count in keys.items() if count > 1]
        if repeated:
            message = f"the key {repeated[0]!r} comes twice in one section"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        mapping = super().construct_mapping(node, deep)
        for key in mapping:
            if not isinstance(key, str):
                message = f"the key {key} is not a text"
                raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return mapping
