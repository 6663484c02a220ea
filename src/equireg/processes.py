"""How training processes get along: one at a time per block of files, and ending when told to.

Nothing here changes a result.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple, NoReturn

from equireg.files import parse_json
from equireg.runtime import say

# Ctrl-C; what SLURM and others send before they kill; a closed terminal; a time limit's warning.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Stop:
    """Whether this process has been told to end: by a signal, or by the end of its parent.

    A job that finds ``asked`` saves what it has and calls ``leave``.
    """

    def __init__(self, parent: int | None = None) -> None:
        self.signal: signal.Signals | None = None
        self.parent, self.start = parent, started(parent) if parent else None
        if parent and self.start is None and started(os.getpid()):
            self.signal = signal.SIGHUP  # it ended while this process began

    @property
    def asked(self) -> bool:
        """Whether to end; the first reason holds."""
        if self.start and self.signal is None and started(self.parent or 0) != self.start:
            self.signal = signal.SIGHUP  # as when a terminal is closed
        return self.signal is not None

    def leave(self, line: str) -> NoReturn:
        """End the process with status 128 + signal, as a shell reports it, and a line that says so.

        Nothing was lost, and nothing was finished either.
        """
        number = self.signal or signal.SIGTERM
        say(f"{number.name}: {line}")
        raise SystemExit(128 + number)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or signal.Signals(number)


@contextlib.contextmanager
def stopping(parent: int | None = None) -> Iterator[Stop]:
    """Take note of signals that would end this process, instead of ending.

    parent: a process whose end is one of them. Signals that are ignored (``nohup``) stay so.
    """
    stop, before = Stop(parent), {}
    if threading.current_thread() is threading.main_thread():  # no other one can
        before = {s: signal.getsignal(s) for s in SIGNALS}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, stop._note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Have signals end this process where it stands, for a job of threads with nothing to save.

    An exception would wait until each thread has done its part.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def locked(path: Path, stop: Stop) -> Iterator[None]:
    """Hold the lock ``path``, a file that is there while it is held.

    A process of this machine that holds it is told to end, by SIGTERM; one of another machine is
    waited for. The lock is the system's (flock), so it ends with its process, however that ends,
    and a file that is left over locks nothing. It holds between machines on NFS from version 4 on,
    and on other shared file systems that have it; where there is none, a warning says so.
    """
    handle = _take(path, stop)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _take(path: Path, stop: Stop) -> int:
    """The open file, locked."""
    me = Holder(socket.gethostname(), os.getpid(), started(os.getpid()))
    told, said = None, -math.inf
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        # never through a link: what it points to would be overwritten
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read(handle)
            os.close(handle)
        except OSError as error:
            say(f"warning: {path} cannot be locked ({error.strerror}): start no block twice")
            return handle
        else:
            # Its holder removes the file as it goes, and a lock on a removed file is no lock.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), path.stat()):
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, json.dumps(me).encode(), 0)
                    return handle
            os.close(handle)
            continue
        here = holder.host == me.host and holder.start == started(holder.process)
        if here and told != holder:
            told, said = holder, time.monotonic()
            say(f"process {holder.process} trains the same block; telling it to end")
            with contextlib.suppress(OSError):  # it ended meanwhile, or is another user's
                os.kill(holder.process, signal.SIGTERM)
        elif time.monotonic() - said > 60:
            said = time.monotonic()
            say(f"waiting for {path}, which process {holder.process} on {holder.host} holds")
        if stop.asked:
            stop.leave(f"ended while it waited for {path}")
        time.sleep(0.2)


class Holder(NamedTuple):
    """Who holds a lock; the text of its file."""

    host: str
    process: int
    start: str | None


def _read(handle: int) -> Holder:
    try:
        host, process, start = parse_json(os.pread(handle, 4096, 0))
        return Holder(str(host), int(process), str(start))
    except (ValueError, TypeError):
        return Holder("a machine that has not said so yet", 0, "")


def started(process: int) -> str | None:
    """When a process started, in the system's ticks; None if it has ended.

    The number of a process is given again to another one; number and start together are not.
    """
    try:
        line = Path(f"/proc/{process}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = line.rpartition(b")")[2].decode().split()  # its name may hold anything
    return None if state in ("Z", "X") else fields[18]
