"""What a configuration names on this machine: files that are there, folders to be written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from equireg.config.messages import Mistake
from equireg.digest import network_digest
from equireg.settings import SourceSettings
from equireg.spelling import build_file


def _is_folder(path: str) -> bool:
    try:
        return path != "" and "\0" not in path and Path(path).expanduser().is_dir()
    except (OSError, RuntimeError):  # a name too long; the home of nobody
        return False


def _is_file(path: str) -> bool:
    try:
        return "\0" not in path and Path(path).expanduser().is_file()
    except (OSError, RuntimeError):
        return False


def wrong_places(
    experiment: str, compare: Iterable[Path], data: SourceSettings, build: str | None
) -> Iterator[Mistake]:
    """Data and results that could not be read or written. Paths are relative to the repository.

    compare: tables of other experiments; build: a network of the user's own.
    """
    if file := build_file(build):
        try:
            network_digest(file)
        except ValueError as error:
            yield Mistake(("network", "build"), build, str(error))
    there = Path("results", "data", f"{data.name}.safetensors")  # what was read of it once suffices
    if data.folder is not None and not (_is_folder(data.folder) or there.is_file()):
        yield Mistake(("data", "folder"), data.folder, "accepted: a folder that exists")
    if data.file is not None and not (_is_file(data.file) or there.is_file()):
        yield Mistake(("data", "file"), data.file, "accepted: a file that exists")
    for table in compare:
        if not table.exists():
            folder, of = table.parent, "sweeps" if table.stem == "sweep" else "experiments"
            remedy = f"accepted: {of} that have been run, with {table.name} in {folder}/"
            yield Mistake(("compare",), folder.name, remedy)
    for folder in (Path("results"), Path("results", experiment)):
        there = folder if os.path.lexists(folder) else folder.parent
        if os.path.lexists(there) and not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            yield Mistake(
                ("experiment",),
                experiment,
                f"{there} cannot be written; accepted: an experiment whose folder {folder} can",
            )
            return
