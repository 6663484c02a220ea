"""One process at a time per block of files; whoever is told to end does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from equireg.processes import Stop, ending_at_once, locked, started, stopping

HOLD = """
import sys, time
from pathlib import Path
from equireg.processes import locked, stopping

parent = int(sys.argv[2])
with stopping(parent) as stop:
    print("there", flush=True)
    with locked(Path(sys.argv[1]), stop):
        print("held", flush=True)
        while not stop.asked:
            time.sleep(0.01)
    stop.leave("ended")
"""


@pytest.fixture
def holders() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that must not outlive the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def holder(
    processes: list[subprocess.Popen[str]], lock: Path, parent: int = 0, code: str = HOLD
) -> subprocess.Popen[str]:
    """A process that takes the lock, and holds it until it is told to end."""
    command = [sys.executable, "-c", code, str(lock), str(parent)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    processes.append(process)
    assert process.stdout
    assert process.stdout.readline() == "there\n"
    return process


def says(process: subprocess.Popen[str]) -> str:
    """The next line of its output."""
    assert process.stdout
    return process.stdout.readline()


def test_a_lock_is_a_file_while_it_is_held(tmp_path: Path) -> None:
    lock = tmp_path / "new" / "block.lock"
    with locked(lock, Stop()):
        assert json.loads(lock.read_text())[1] == os.getpid()
    assert not lock.exists()


@pytest.mark.parametrize("text", ["", "[", "nonsense", '["here", 1, "2"]', "{}", "[1]"])
def test_a_file_that_is_left_over_locks_nothing(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "block.lock"
    lock.write_text(text)
    with locked(lock, Stop()):
        pass
    assert not lock.exists()


def test_the_holder_is_told_to_end(
    tmp_path: Path, holders: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "block.lock"
    first = holder(holders, lock)
    assert says(first) == "held\n"
    with locked(lock, Stop()):
        assert first.wait() == 128 + signal.SIGTERM
    assert first.stderr
    assert first.stderr.read() == "SIGTERM: ended\n"
    said = f"process {first.pid} trains the same block; telling it to end\n"
    assert capsys.readouterr().err == said


def test_a_killed_holder_leaves_no_lock(
    tmp_path: Path, holders: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "block.lock"
    first = holder(holders, lock)
    assert says(first) == "held\n"
    first.kill()
    first.wait()
    assert lock.exists()
    with locked(lock, Stop()):
        assert capsys.readouterr().err == ""


def test_many_at_once_take_turns(tmp_path: Path, holders: list[subprocess.Popen[str]]) -> None:
    """Each tells the one before it to end; never do two hold the lock."""
    lock = tmp_path / "block.lock"
    for _ in range(4):
        holder(holders, lock)
    held = 0
    while held < 4:
        running = [process for process in holders if process.poll() is None]
        assert running
        time.sleep(0.05)
        held = sum(process.poll() is not None for process in holders)
        if held == 3:  # nobody tells the last one
            (last,) = (process for process in holders if process.poll() is None)
            assert says(last) == "held\n"
            last.terminate()
            last.wait()
            held = 4
    assert not lock.exists()


ELSEWHERE = "import socket; socket.gethostname = lambda: 'elsewhere'\n" + HOLD


def test_another_machine_s_holder_is_waited_for(
    tmp_path: Path, holders: list[subprocess.Popen[str]]
) -> None:
    lock = tmp_path / "block.lock"
    first = holder(holders, lock, code=ELSEWHERE)
    assert says(first) == "held\n"
    second = holder(holders, lock)
    assert second.stderr
    waits = f"waiting for {lock}, which process {first.pid} on elsewhere holds\n"
    assert second.stderr.readline() == waits
    assert first.poll() is None
    third = holder(holders, lock)
    assert third.stderr
    assert third.stderr.readline() == waits
    third.terminate()  # one that waits can be told to end, too
    assert third.wait() == 128 + signal.SIGTERM
    first.terminate()
    assert says(second) == "held\n"


def test_nobody_but_the_holder_is_told_to_end(
    tmp_path: Path, holders: list[subprocess.Popen[str]]
) -> None:
    """The file names a process that has the number of one that ended long ago."""
    lock = tmp_path / "block.lock"
    first = holder(holders, lock)
    assert says(first) == "held\n"
    other = subprocess.Popen(["sleep", "60"], text=True)
    holders.append(other)
    host, _, _ = json.loads(lock.read_text())
    lock.write_text(json.dumps([host, other.pid, "1"]))
    second = holder(holders, lock)
    assert second.stderr
    assert f"which process {other.pid} on {host} holds" in second.stderr.readline()
    first.terminate()
    assert says(second) == "held\n"
    assert other.poll() is None


def test_without_locks_there_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "block.lock", Stop()):
        pass
    assert "cannot be locked (Function not implemented)" in capsys.readouterr().err


@pytest.mark.parametrize("end", [subprocess.Popen.kill, subprocess.Popen.terminate])
def test_a_process_ends_with_its_parent(
    end: Callable[[subprocess.Popen[str]], None],
    tmp_path: Path,
    holders: list[subprocess.Popen[str]],
) -> None:
    """Also while nobody has waited for it: it is a zombie then."""
    parent = subprocess.Popen(["sleep", "60"], text=True)
    holders.append(parent)
    child = holder(holders, tmp_path / "block.lock", parent=parent.pid)
    assert says(child) == "held\n"
    end(parent)
    assert child.wait() == 128 + signal.SIGHUP


def test_a_parent_that_has_ended_before_is_noticed() -> None:
    """Snakemake may be killed while its training still imports what it needs."""
    with stopping(2**22 + 1) as stop:  # more than the system gives
        assert stop.asked
        assert stop.signal == signal.SIGHUP
    with stopping(None) as stop:
        assert not stop.asked


def test_started() -> None:
    assert started(os.getpid()) == started(os.getpid()) is not None
    assert started(2**22 + 1) is None


def test_a_lock_that_is_a_link_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "block.lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"), locked(tmp_path / "block.lock", Stop()):
        pass
    assert (tmp_path / "precious").read_text() == "kept"


THREADS = """
import signal, time
from concurrent.futures import ThreadPoolExecutor
from equireg.processes import ending_at_once

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
with ending_at_once(), ThreadPoolExecutor(2) as pool:
    pool.submit(time.sleep, 60)
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_threads_do_not_keep_a_process(
    number: signal.Signals, holders: list[subprocess.Popen[str]]
) -> None:
    command = [sys.executable, "-c", THREADS]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    holders.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    process.send_signal(number)
    assert process.wait(10) == -number


def test_what_signals_did_before_is_undone() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ending_at_once():
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) == before
