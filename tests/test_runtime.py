"""What a job says, in a log and on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
import torch

from equireg.runtime import configured
from equireg.settings import JobSettings

SAYING = "from equireg.runtime import say; say('step 1', passing=True); say('step 2')"


def test_a_log_has_every_line() -> None:
    done = subprocess.run([sys.executable, "-c", SAYING], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "step 1\nstep 2\n")


def test_a_terminal_shows_one_line_that_changes() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", SAYING], stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 1000).decode()
    os.close(ours)
    assert shown == "\r\x1b[Kstep 1\r\x1b[Kstep 2\r\n"


def test_threads_that_wait_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every job of several threads; unless the user has said how they wait."""
    for before, within in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
        if before:
            monkeypatch.setenv("OMP_WAIT_POLICY", before)
        with configured(JobSettings(2, "cpu")):
            assert os.environ["OMP_WAIT_POLICY"] == within
        assert os.environ.get("OMP_WAIT_POLICY") == before


def test_what_a_job_sets_is_undone() -> None:
    """A job in the process of a test, or of a user, leaves torch's arithmetic as it was."""
    tiny = torch.tensor([1e-40])  # no normal number of float32

    def state() -> tuple[object, ...]:
        return (
            torch.get_num_threads(),
            bool((tiny * 0.5).item()),  # 0 where such numbers are flushed
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cuda.matmul.allow_tf32,
            {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG")},
        )

    before = state()
    with configured(JobSettings(before[0] % 2 + 1, "cpu")):  # type: ignore[operator]
        assert all(inside != outside for inside, outside in zip(state()[:3], before, strict=False))
    assert state() == before
    with pytest.raises(RuntimeError, match="a fault"), configured(JobSettings(1, "cpu")):
        raise RuntimeError("a fault")
    assert state() == before
