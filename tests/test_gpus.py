"""GPUs shared by the jobs of one machine, counted and absent: each job has one to itself."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkout import ENVIRONMENT, SMALL, copy_repository, snakemake
from equireg import gpus

# Holds a GPU for a moment; prints which, from when and until when.
HOLD = """
import os, time
from equireg.gpus import own
with own(True):
    began = time.monotonic()
    time.sleep(0.3)
    print(os.environ["CUDA_VISIBLE_DEVICES"], began, time.monotonic())
"""


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two GPUs that nvidia-smi knows, and a folder for locks."""
    names = ["GPU-aaaa", "GPU-bbbb"]
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "nvidia-smi"
    script.write_text("#!/bin/sh\nprintf 'GPU-aaaa\\nGPU-bbbb\\n'\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(gpus.NAME, raising=False)
    return names


def test_which_there_are(counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpus.visible() == counted
    for said, names in (("3, 1", ["3", "1"]), ("MIG-x", ["MIG-x"]), ("", []), ("-1", [])):
        monkeypatch.setenv(gpus.NAME, said)
        assert gpus.visible() == names
    monkeypatch.delenv(gpus.NAME)
    monkeypatch.setenv("PATH", "")
    assert gpus.visible() == []


def test_a_job_sees_its_own_alone(counted: list[str]) -> None:
    with gpus.own(True):
        assert os.environ[gpus.NAME] == counted[0]
    assert gpus.NAME not in os.environ
    with gpus.own(False):
        assert gpus.NAME not in os.environ


@pytest.mark.parametrize("count", [1, 2, 8])
def test_no_two_jobs_have_the_same_one(
    count: int, counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice as many jobs as GPUs; one that is killed gives its own back."""
    monkeypatch.setenv(gpus.NAME, ",".join(map(str, range(count))))
    jobs = [
        subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True)
        for _ in range(2 * count)
    ]
    held = [job.communicate(timeout=60)[0].split() for job in jobs]
    assert {name for name, _, _ in held} == set(map(str, range(count)))
    for name in map(str, range(count)):
        spans = sorted((float(began), float(ended)) for own, began, ended in held if own == name)
        assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def test_a_killed_job_gives_its_own_back(
    counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gpus.NAME, "0")
    script = HOLD.replace("time.sleep(0.3)", "print('has it', flush=True); time.sleep(60)")
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert job.stdout
    assert job.stdout.readline() == "has it\n"
    job.kill()
    job.communicate()
    began = time.monotonic()
    with gpus.own(True):
        assert time.monotonic() - began < 5


def test_where_there_is_none_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gpus.NAME, "")
    with pytest.raises(ValueError, match="this machine shows no GPU"), gpus.own(True):
        pass


@pytest.mark.slow
def test_a_workflow_shares_them_out(counted: list[str], tmp_path: Path) -> None:
    """Two at a time, whatever the cores, each on one of its own; without a count, none is taken."""
    folder = copy_repository(tmp_path / "checkout")
    environment = {**ENVIRONMENT, "PATH": os.environ["PATH"], "TMPDIR": str(tmp_path)}
    grid = ("--config", "grid={modes: [nominal], gammas: [0.01, 1, 10, 100], seeds: 1}")
    words = (*SMALL, "--cores", "4", "--until", "train", *grid)
    done = snakemake(*words, "--resources", "gpu=2", cwd=folder, environment=environment)
    assert done.returncode == 0, done.stdout
    logs = [log.read_text() for log in folder.glob("results/test/logs/train/**/*.log")]
    assert len(logs) == 4
    assert all(log.count("GPU: GPU-") == 1 for log in logs)
    assert not any("waiting for a GPU" in log for log in logs)  # Snakemake counts, too
    assert {name for name in counted if any(f"GPU: {name} of" in log for log in logs)} == {*counted}
    said = snakemake(*words, "--forceall", "--dry-run", cwd=folder, environment=environment).stdout
    assert "--no-own-gpu" in said
    assert " --own-gpu" not in said
    cpu = ("--forceall", "--dry-run", "--config", "jobs={device: cpu}")
    said = snakemake(*SMALL, *cpu, "--resources", "gpu=2", cwd=folder).stdout
    assert " --own-gpu" not in said
