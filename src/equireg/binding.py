"""What made a file, said in the file itself, so that what is read together was made alike.

A file's binding is a dictionary of sections: ``network``, ``initialization``, ``training`` and
``grid`` have settings, ``data`` the SHA-256 sum of the data set, ``source`` a digest of the code of
every job on the way to the file; ``runs`` says which runs the file holds, and alone may differ
between files that are read together. Versions, processors and times are no part of it: they say
where a result came from (``provenance``), not what it is.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

from equireg.digest import network_digest
from equireg.files import parse_json, write_text
from equireg.spelling import build_file

Binding = Mapping[str, Any]

ENTRY = "equireg"  # of a parquet file's and a picture's metadata
OWN = "runs"  # the section that files which are read together need not share
PNG_END = b"IEND\xaeB`\x82"
HEADER = 100_000_000  # bytes; no safetensors file has a longer one

REMEDY = "delete it and run the workflow again"


def read(path: Path) -> dict[str, Any]:
    """The binding of a table, weights, a picture (.png), a text or a page.

    Raises ValueError, naming the file and the remedy, where it is missing or has none.
    """
    readers = {
        ".parquet": _of_parquet,
        ".safetensors": header,
        ".json": lambda file: parse_json(file.read_bytes())["made"],
        ".png": _of_picture,
        ".md": _of_text,
        ".html": _of_text,
    }
    try:
        made = readers[path.suffix](path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing; run the workflow again") from None
    except (KeyError, IndexError, TypeError, ValueError, OSError):
        made = None
    if not isinstance(made, dict):
        raise ValueError(
            f"{path} does not say what made it, as files of an older version and damaged ones do; "
            f"{REMEDY}"
        )
    return made


def joined(files: Mapping[Path | str, Binding]) -> dict[str, Any]:
    """What all the files say together, without ``OWN``.

    Raises ValueError, a line with the file, the key, both values and the remedy, where two differ
    in a key that both have.
    """
    found: dict[tuple[str, ...], tuple[Any, Path | str]] = {}
    for path, made in files.items():
        for key, value in flat(made):
            if key[0] == OWN:
                continue
            before, other = found.setdefault(key, (value, path))
            if value != before:
                what = "code" if key[0] == "source" else "data" if key[0] == "data" else "settings"
                raise ValueError(
                    f"{path}: {'.'.join(key)} is {spell(value)}, but {spell(before)} in {other}; "
                    f"results of different {what} are not mixed: delete the one that is not meant, "
                    "and run the workflow again"
                )
    return nested({key: value for key, (value, _) in found.items()})


def together(*paths: Path) -> dict[str, Any]:
    """``joined`` of the bindings in the files."""
    return joined({path: read(path) for path in paths})


def options(**chosen: Any) -> dict[str, Any]:
    """Sections of settings as a binding has them: dataclasses become dictionaries.

    With the digest of a network of the user's own, which is code. Raises ValueError where its file
    cannot be read.
    """
    made = {name: dataclasses.asdict(section) for name, section in chosen.items()}
    file = build_file(made.get("network", {}).get("build"))
    return {**made, "source": {"network": network_digest(file)}} if file else made


def with_source(made: Binding, job: str, digest: str, **sections: Any) -> dict[str, Any]:
    """A binding with the job that comes last, and its sections."""
    return {**made, **sections, "source": {**made.get("source", {}), job: digest}}


def differences(made: Binding, wanted: Binding) -> list[tuple[str, Any, Any]]:
    """Key, value made and value wanted, wherever they differ in a key of ``wanted``.

    A key that was not there when the file was made is None in it.
    """
    have = dict(flat(made))
    return [
        (".".join(key), have.get(key), value)
        for key, value in flat(wanted)
        if have.get(key) != value
    ]


def flat(made: Binding, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no section, with the path of keys to it; as JSON would give it back.

    Of a network of the user's own only the names of its file and function: where the file lies
    makes no difference, and what is in it has a digest.
    """
    for key, value in made.items():
        if isinstance(value, Mapping):
            yield from flat(value, (*above, key))
        elif key == "build" and isinstance(value, str):
            yield (*above, key), PurePath(value).name
        else:
            yield (*above, key), list(value) if isinstance(value, tuple) else value


def nested(values: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    """Inverse of ``flat``."""
    made: dict[str, Any] = {}
    for (*above, key), value in values.items():
        section = made
        for part in above:
            section = section.setdefault(part, {})
        section[key] = value
    return made


def spell(value: Any) -> str:
    """A value in a message: sums and digests by their first twelve digits, the rest as JSON."""
    if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value):
        return value[:12]
    return json.dumps(value)


def text(made: Binding) -> str:
    """A binding as JSON, in the one spelling that equal ones share."""
    return json.dumps(made, sort_keys=True)


def metadata(made: Binding) -> dict[str, str]:
    """The entry of a parquet file's, or a picture's, metadata."""
    return {ENTRY: text(made)}


def comment(made: Binding) -> str:
    """The last line of a text or a page: a comment in Markdown and in HTML."""
    return f"<!-- {ENTRY} {text(made).replace('>', chr(92) + 'u003e')} -->\n"


def write_document(path: Path, content: str, made: Binding) -> None:
    """Write a text (Markdown) or a page (HTML), and what made it, whole or not at all."""
    write_text(path, f"{content}{comment(made)}")


def without_comment(content: str) -> str:
    """A text without that line."""
    return re.sub(rf"<!-- {ENTRY} .* -->\n\Z", "", content)


def _of_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq  # a part of a second, which most readers do not need

    return parse_json((pq.read_schema(path).metadata or {})[ENTRY.encode()])


def header(path: Path) -> Any:
    """What a safetensors file is about, from its header alone: a length in 8 bytes, then JSON."""
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > HEADER:
            raise ValueError("no safetensors file")
        return parse_json(parse_json(stream.read(length))["__metadata__"]["about"])


def _of_picture(path: Path) -> Any:
    from PIL import Image

    if not path.read_bytes().endswith(PNG_END):  # which its reader does not look for
        raise ValueError("cut off")
    with Image.open(path) as picture:
        return parse_json(picture.info[ENTRY])


def _of_text(path: Path) -> Any:
    last = path.read_text(encoding="utf-8").rstrip("\n").rpartition("\n")[2]
    return parse_json(re.findall(rf"\A<!-- {ENTRY} (.*) -->\Z", last)[0])
