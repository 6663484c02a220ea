"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FULL = (errno.ENOSPC, errno.EDQUOT)  # a full disk, a used-up quota
REMEDY = "make room and run the workflow again"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and rename it to ``path``.

    After an error the temporary file is removed and whatever ``path`` was before stays as it was.
    Those that killed processes left beside ``path`` are removed, too; one that is being written is
    locked, so where the file system has no locks they stay. Raises OSError, which names ``path``,
    where the disk is full, whatever wrote to it.
    """
    temporary = handle = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent
        )
        temporary = Path(name)
        if _lock(handle):
            for other in _temporaries(path):
                _remove_if_left(other)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp made it readable by its owner alone
        temporary.replace(path)
    except Exception as error:
        # Not every library says it by an OSError, and none of them names the file.
        full = next((number for number in FULL if os.strerror(number) in str(error)), None)
        if full and REMEDY not in str(error):
            raise OSError(full, f"{os.strerror(full)}; {REMEDY}", str(path)) from error
        raise
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
        if handle is not None:
            os.close(handle)


def _lock(handle: int) -> bool:
    """Whether nobody else holds the file, which is held from now on."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # or there are no locks
        return False
    return True


def _temporaries(path: Path) -> Iterator[Path]:
    return path.parent.glob(f".{glob.escape(path.name)}.????????{path.suffix}")


def _remove_if_left(temporary: Path) -> None:
    """Remove a file whose process has ended, and with it its lock."""
    with contextlib.suppress(OSError):
        handle = os.open(temporary, os.O_RDONLY)
        try:
            if _lock(handle):
                temporary.unlink(missing_ok=True)
        finally:
            os.close(handle)


def remove_temporaries(path: Path) -> None:
    """Remove what ``atomic`` left beside ``path`` in processes that were killed.

    The caller must be the only one that writes ``path``.
    """
    for temporary in _temporaries(path):
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 sum of a file, in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def parse_json(text: str | bytes) -> Any:
    """What JSON says. Raises ValueError if it is none, or nested more deeply than Python reads."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")
