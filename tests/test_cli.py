"""What a command says when it cannot go on, and what it leaves behind."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from equireg import cli
from equireg.files import atomic


def ends(monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    return str(leaving.value)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_is_a_line(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ends(monkeypatch, error)
    assert said.startswith("equireg: out of memory (")
    assert said.endswith("a job of fewer seeds (grid: seeds_per_job) needs less")
    assert "\n" not in said


def test_another_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "app", lambda: (_ for _ in ()).throw(RuntimeError("a bug")).send(None))
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main()


def test_sigterm_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        with atomic(tmp_path / "table.parquet"):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "app", command)
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before
