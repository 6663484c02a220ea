"""What runs between SLURM and the workflow's commands; needs no SLURM."""

from __future__ import annotations

import base64
import json
import shlex
import signal
import subprocess
import zlib
from pathlib import Path

import pytest

from checkout import ENVIRONMENT, ROOT, wait_for
from experiment import Jobs


def start(
    script: Path, stdout: int = subprocess.DEVNULL, **variables: str
) -> subprocess.Popen[str]:
    """The batch script as SLURM starts it on a node."""
    environment = ENVIRONMENT | {"SLURM_JOB_ID": "7"} | variables
    return subprocess.Popen(
        ["sh", str(script)], cwd=ROOT, env=environment, text=True, stdout=stdout
    )


def batch_script(folder: Path, first: str, others: dict[int, str]) -> Path:
    """As the plugin writes it: the first task's command, and an option with the others'."""
    packed = {task: zlib.compress(line.encode()).hex() for task, line in others.items()}
    option = base64.b64encode(json.dumps(packed).encode()).decode()
    script = folder / "slurm_script"
    script.write_text(
        f"#!/bin/sh\n\n. slurm/job.sh && {first} --slurm-jobstep-array-execs={option}\n"
    )
    return script


@pytest.mark.parametrize(("task", "says"), [("1", "one --slurm"), ("2", "two"), ("12", "twelve")])
def test_each_task_runs_its_own_command(task: str, says: str, tmp_path: Path) -> None:
    others = {n: f". slurm/job.sh && echo {said}" for n, said in ((2, "two"), (12, "twelve"))}
    script = batch_script(tmp_path, "echo one", others)
    running = start(script, SLURM_ARRAY_TASK_ID=task, stdout=subprocess.PIPE)
    assert running.communicate(timeout=60)[0].startswith(says)


def test_the_status_is_the_command_s(tmp_path: Path) -> None:
    script = tmp_path / "slurm_script"
    script.write_text(". slurm/job.sh && exit 3\n")
    assert start(script).wait(timeout=60) == 3
    script.write_text(". slurm/job.sh && kill -9 $$\n")
    assert start(script).wait(timeout=60) == 128 + signal.SIGKILL


@pytest.mark.slow
def test_the_training_hears_that_the_job_is_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most clusters signal only the batch script, which a shell and Snakemakes separate from it."""
    jobs = Jobs(tmp_path, monkeypatch)
    words = shlex.join(map(str, jobs.words("a", "nominal", "0", "0", "--epochs", "100000")))
    script, log = tmp_path / "slurm_script", tmp_path / "log"
    script.write_text(
        f". slurm/job.sh && PYTHONPATH={ROOT}/src sh -c '(python -m equireg {words}) 2> {log}'\n"
    )
    running = start(script)
    wait_for(tmp_path / "a" / "block.checkpoint" / "from-step-000000000.safetensors", 180)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=30) == 128 + signal.SIGTERM
    assert "SIGTERM: ended at step" in log.read_text()
