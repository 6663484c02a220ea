"""Which GPU of this machine a job takes, where several jobs share several."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from equireg.native import UnavailableError, make_private, user
from equireg.runtime import say

NAME = "CUDA_VISIBLE_DEVICES"
EVERY = 0.5  # seconds between two looks for a free one


@contextlib.contextmanager
def own(wanted: bool) -> Iterator[None]:
    """Show this process a single GPU, which no other such process of this user has; wait for one.

    Enter it before torch is imported. A GPU is held by a lock of the system's (flock) on a file in
    the folder for temporary files: it ends with its process, however that ends. Raises ValueError
    where there is no GPU, or no such folder.
    """
    if not wanted:
        yield
        return
    names = visible()
    if not names:
        raise ValueError(
            f"own-gpu is true, but this machine shows no GPU ({NAME}, nvidia-smi); accepted here: "
            "no --resources gpu, or --no-own-gpu"
        )
    handle, name = _take(names)
    before = os.environ.get(NAME)
    os.environ[NAME] = name
    say(f"GPU: {name} of {', '.join(names)}")
    try:
        yield
    finally:
        if before is None:
            del os.environ[NAME]
        else:
            os.environ[NAME] = before
        os.close(handle)


def visible() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA takes.

    Those of CUDA_VISIBLE_DEVICES where it is set; else all that nvidia-smi knows, as CUDA's order
    of numbers is not nvidia-smi's.
    """
    if (said := os.environ.get(NAME)) is None:
        command = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return []
        said = ",".join(done.stdout.split()) if done.returncode == 0 else ""
    return [name for name in map(str.strip, said.split(",")) if name and name != "-1"]


def _take(names: Sequence[str]) -> tuple[int, str]:
    """The first GPU that is free, and the open file that holds it."""
    folder = Path(tempfile.gettempdir()) / f"equireg-{user()}"
    try:
        make_private(folder)
    except (OSError, UnavailableError) as error:
        raise ValueError(f"GPUs cannot be shared out: {error}") from error
    waits = False
    while True:
        for name in names:
            lock = folder / f"gpu-{re.sub(r'[^A-Za-z0-9]', '-', name)}.lock"
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
            else:
                return handle, name
        if not waits:
            say(f"waiting for a GPU: {', '.join(names)} are taken")
            waits = True
        time.sleep(EVERY)
