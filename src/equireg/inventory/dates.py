"""Times of files made to say what their contents say, for whoever compares times."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from equireg.binding import REMEDY
from equireg.config import ConfigurationError

SHIFT = 10**18  # nanoseconds, since 1970 until 2001 and by which files are dated back


def redate(outdated: Iterable[Path], current: Iterable[Path]) -> None:
    """Date outdated files back by decades, so that whoever compares times makes them anew.

    A file that was dated back, by a dry run say, and is right after all gets its time back. One
    that is dated ahead, by a clock that was set back since, is dated now: whatever is made of it
    would be older than it, which Snakemake takes for a broken clock, and deletes. Raises
    ConfigurationError where an outdated file cannot be dated: it would pass for what is wanted.
    """
    now = time.time_ns()
    for file in outdated:
        try:
            _date(file, lambda dated: dated - SHIFT if dated > SHIFT else dated)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConfigurationError(
                f"{file} was made by other code or settings, or of another grid, and is not ours "
                f"to replace ({error.strerror}); {REMEDY}"
            ) from None
    for file in current:
        with contextlib.suppress(OSError):
            _date(file, lambda dated: min(now, dated + SHIFT if dated < SHIFT else dated))


def _date(file: Path, anew: Callable[[int], int]) -> None:
    """Date a file; where it is a link, what it points to and the link, as Snakemake reads both."""
    for follow in (True, False):
        dated = file.stat(follow_symlinks=follow).st_mtime_ns
        if anew(dated) != dated:
            os.utime(file, ns=(anew(dated), anew(dated)), follow_symlinks=follow)
