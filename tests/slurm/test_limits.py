"""What SLURM's limits say of jobs, read from its own words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "slurm"))

import limits  # noqa: E402

KNOWN = {
    "short": {"PartitionName": "short", "MaxTime": "00:10:00"},
    "long": {"PartitionName": "long", "MaxTime": "2-00:00:00"},
    "open": {"PartitionName": "open", "MaxTime": "UNLIMITED"},
}


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("00:10:00", 10), ("1-02:03:30", 24 * 60 + 123.5), ("UNLIMITED", float("inf"))],
)
def test_a_time(time: str, minutes: float) -> None:
    assert limits.minutes(time) == minutes


@pytest.mark.parametrize(
    ("asked", "default", "said"),
    [
        ("train=10", "short", ""),
        ("train=11@", "short", "train asks for 11 minutes, more than its partition allows (short"),
        ("train=11@short,long", "short", ""),
        ("train=2881@short,long", "open", "(short 00:10:00, long 2-00:00:00)"),
        ("train=99999", "open", ""),
        ("train=1@gpu", "open", "train asks for partition gpu; accepted: long, open, short"),
        ("train=99999", "", ""),  # no default partition: SLURM itself refuses
    ],
)
def test_what_is_refused(asked: str, default: str, said: str) -> None:
    known = {**KNOWN, **({"": KNOWN[default]} if default else {})}
    lines = list(limits.refused([asked], known))
    assert bool(lines) == bool(said)
    assert all(said in line for line in lines)


@pytest.mark.parametrize(
    ("reason", "never"),
    [
        ("PartitionTimeLimit", True),
        ("QOSMaxWallDurationPerJobLimit", True),
        ("AssocMaxCpuPerJobLimit", True),
        ("InvalidAccount", True),
        ("JobHeldAdmin", True),
        ("PartitionDown", True),
        ("Resources", False),
        ("Priority", False),
        ("BeginTime", False),
        ("QOSMaxJobsPerUserLimit", False),
        ("AssocGrpCpuLimit", False),
    ],
)
def test_which_reasons_do_not_end_by_waiting(reason: str, never: bool) -> None:
    assert (limits.NEVER.fullmatch(reason) is not None) == never


def test_without_slurm_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert limits.partitions() == {}
    assert list(limits.refused(["train=99"], {})) == []
    assert limits.waiting(Path.cwd()) == {}


def test_the_watch_ends_with_its_process_though_nobody_asked_how_that_ended() -> None:
    """Whoever waits for the end of what both say would wait for ever."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{ended.pid}").is_dir()  # a zombie
    words = [sys.executable, str(ROOT / "slurm/limits.py"), "watch", str(ended.pid)]
    subprocess.run(words, check=True, timeout=30)
    ended.wait()
