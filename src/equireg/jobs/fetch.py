"""Fetch: a data set, from whichever source gives the right files, as one file of arrays."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.numpy

from equireg.data.arrays import Arrays, decode, describe, read_arrays
from equireg.data.sources import KNOWN, Files, sources
from equireg.data.turned import TEST, TRAIN, rotated, turned
from equireg.files import atomic, write_json, write_text
from equireg.files import sha256 as sha256_of
from equireg.plan import DATA_FILES, data_files, holds_arrays
from equireg.provenance import provenance
from equireg.runtime import say
from equireg.settings import MADE, UPRIGHT, SourceSettings


def fetch(data: SourceSettings, output: Path, sums: Path | None) -> None:
    """Obtain the data set, check it, and store it in ``output``; ``data.arrays`` says how.

    IDX files are compared with the list ``sums`` and kept beside ``output``, in a folder named like
    the data set; where they are there already, with the listed sums, nothing is downloaded. Sums of
    a known data set that are not listed yet are added to the list.

    Raises ValueError or OSError if no source gives sound files with the listed sums.
    """
    if holds_arrays(data) and data.name in (*KNOWN, *MADE):
        raise ValueError(
            f"data set {data.name}: {data.folder or data.file} has arrays of your own; accepted: a "
            "name of their own (data: name: in config.yaml)"
        )
    if holds_arrays(data):
        content = safetensors.numpy.save(own(data))
    elif data.folder is None and data.name in MADE:
        content = made(data, output, sums)
    else:
        content = safetensors.numpy.save(idx(data, output, sums))
    if output.is_file() and output.read_bytes() == content:
        say(f"{data.name}: {output} is as it should be")
    else:
        with atomic(output) as temporary:
            temporary.write_bytes(content)
        say(f"{data.name}: decoded into {output}")
    write_json(output.with_suffix(".json"), story(data, output))


def own(data: SourceSettings) -> Arrays:
    """The arrays that a user wrote."""
    try:
        return read_arrays(data)
    except (OSError, ValueError) as error:
        key = "folder" if data.file is None else "file"
        raise ValueError(
            f"data set {data.name}: {error}. Remedy: correct it (data: {key}: in config.yaml)"
        ) from error


def made(data: SourceSettings, output: Path, sums: Path | None) -> bytes:
    """The file of a data set that is made from another one, which is fetched first.

    Raises ValueError if its sum is not the listed one.
    """
    base = idx(SourceSettings(MADE[data.name]), output, sums)
    say(f"{data.name}: turning {TRAIN + TEST} images")
    upright = UPRIGHT.get(data.name)
    arrays = rotated(base) if upright is None else turned(base, upright)
    content = safetensors.numpy.save(arrays)
    expected = listed_sums(sums, data.name) if sums else {}
    try:
        check_sums({f"{data.name}.safetensors": content}, expected)
    except ValueError as error:
        raise ValueError(f"{error}; this machine's NumPy and SciPy make others") from None
    return content


def idx(data: SourceSettings, output: Path, sums: Path | None) -> Arrays:
    """The arrays of four IDX files, which are kept beside ``output``."""
    kept = output.parent / data.name
    if kept == output:
        raise ValueError(f"output is {output}; the raw files go there: choose another file name")

    expected = listed_sums(sums, data.name) if sums else {}
    files = read_kept(kept, expected)
    if files is None:
        files = obtain(data, expected)
        for name, content in files.items():
            with atomic(kept / name) as temporary:
                temporary.write_bytes(content)
    unlisted = {name: sha256(files[name]) for name in DATA_FILES if name not in expected}
    if unlisted:
        # a folder vouches for nothing, torchvision's mirrors do
        report_unlisted(data.name, unlisted, sums if data.folder is None else None)
    return decode(files)


def story(data: SourceSettings, output: Path) -> dict[str, Any]:
    """Where the data set came from: its sum, and those of a user's files as they lie there.

    By the latter it is seen whether they have changed.
    """
    return {
        "name": data.name,
        "folder": data.folder,
        "file": data.file,
        "files": {Path(file).name: sha256_of(Path(file)) for file in data_files(data)},
        "sha256": sha256_of(output),
        **provenance(),
    }


def sha256(content: bytes) -> str:
    """The SHA-256 sum, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def listed_sums(path: Path, data_name: str) -> dict[str, str]:
    """The SHA-256 sums that the list gives for the data set's files: ``<sum>  <data set>/<file>``.

    Raises ValueError if a line is not of this form, OSError if the list cannot be read.
    """
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S+)\s*", line)
        if match is None:
            raise ValueError(
                f"{path}, line {number}: {line!r}; accepted: '<SHA-256>  <data set>/<file>'"
            )
        folder, _, name = match[2].rpartition("/")
        if folder == data_name:
            sums[name] = match[1].lower()
    return sums


def check_sums(files: Mapping[str, bytes], expected: Mapping[str, str]) -> None:
    """Raise ValueError for the first file whose sum is not the expected one."""
    for name, content in files.items():
        if name in expected and sha256(content) != expected[name]:
            raise ValueError(
                f"{name}: expected SHA-256 {expected[name]}, got {sha256(content)} "
                f"({describe(content)})"
            )


def report_unlisted(data_name: str, unlisted: Mapping[str, str], sums: Path | None) -> None:
    """Add a known data set's sums to the list; say those of a user's own, or without a list."""
    lines = "".join(f"{value}  {data_name}/{name}\n" for name, value in unlisted.items())
    if sums is None or data_name not in KNOWN:
        say(f"{data_name}: compared with no listed sums; these files came:\n{lines}".rstrip())
        return
    text = sums.read_text(encoding="utf-8")
    try:
        write_text(sums, text + ("\n" if text and not text.endswith("\n") else "") + lines)
    except OSError as error:
        say(f"{data_name}: these sums could not be added to {sums} ({error}):\n{lines}".rstrip())
    else:
        say(f"{data_name}: first seen; its sums were added to {sums}: check and commit them")


def read_kept(folder: Path, expected: Mapping[str, str]) -> Files | None:
    """The raw files of an earlier fetch if all have their listed sums; wrong ones are removed."""
    files = {}
    for name in DATA_FILES:
        path = folder / name
        if name not in expected or not path.is_file():
            continue
        content = path.read_bytes()
        try:
            check_sums({name: content}, expected)
        except ValueError as error:
            say(f"{folder}: {error}; removed")
            path.unlink()
        else:
            files[name] = content
    return files if len(files) == len(DATA_FILES) else None


def obtain(data: SourceSettings, expected: Mapping[str, str]) -> Files:
    """The files of the first source that gives sound ones with the expected sums.

    Raises ValueError, saying what was wrong with each source and what can be done.
    """
    failures = []
    for label, read in sources(data):
        try:
            files = read()
            check_sums(files, expected)
            decode(files)
        except (OSError, ValueError) as error:
            failures.append(f"{label}: {error}")
            say(f"{data.name}: {failures[-1]}")
        else:
            say(f"{data.name}: obtained from {label}")
            return files
    if data.folder is None:
        remedy = (
            "download the four IDX files elsewhere and name their folder in config.yaml "
            "(data: folder:)"
        )
    elif expected:
        remedy = (
            "correct the folder, or, if these files are meant to differ from the listed ones, give "
            "the data set a name of its own in config.yaml (data: name:)"
        )
    else:
        remedy = "correct the folder (data: folder: in config.yaml)"
    raise ValueError(f"data set {data.name}: {'; '.join(failures)}. Remedy: {remedy}")
