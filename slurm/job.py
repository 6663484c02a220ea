"""Runs a SLURM job's command on its node: the right one, and told when it is to end.

Both would go wrong with version 2.8 of Snakemake's plugin:

- Each task of an array runs its command inside a Snakemake that believes to run the array's first
  job: it waits for the first job's files, fails where they come more than ``latency-wait`` later,
  and deletes them if the task fails (issue 447 of the plugin). Here a task's command runs alone.
- Before SLURM kills a job (preemption, time limit, ``scancel``) it sends SIGTERM, on most clusters
  only to the process that it started itself: this one. Here the training gets it too, and saves its
  state. SLURM waits for ``KillWait``, usually 30 seconds.

Usage: python slurm/job.py <batch script>
"""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def command(script: Path, task: str | None) -> list[str]:
    """What to run: the batch script, or what it has for this task of an array.

    It has the tasks' commands, but not that of the first, in an option for the plugin.
    """
    option = re.search(r"--slurm-jobstep-array-execs='?=?'?([\w+/=]+)", script.read_text())
    commands = json.loads(base64.b64decode(option[1])) if option else {}
    if task not in commands:
        return ["sh", str(script)]
    return ["sh", "-c", zlib.decompress(bytes.fromhex(commands[task])).decode()]


def equireg_processes(job: str) -> Iterator[int]:
    """This job's calls of equireg on this node; a step of SLURM (srun) makes them no children."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
            if words[1:3] == [b"-m", b"equireg"] and f"SLURM_JOB_ID={job}".encode() in environment:
                yield int(folder.name)


def main() -> int:
    """Run the command; return its status, as a shell does."""
    job = os.environ["SLURM_JOB_ID"]
    told = False

    def tell(number: int, _: object) -> None:
        nonlocal told
        told = True
        for process in equireg_processes(job):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    signal.signal(signal.SIGTERM, tell)
    running = subprocess.Popen(command(Path(sys.argv[1]), os.environ.get("SLURM_ARRAY_TASK_ID")))
    status = running.wait()
    # Where SIGTERM reached the shells between, they ended first; SLURM kills what outlives this.
    while told and any(equireg_processes(job)):
        time.sleep(0.1)
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main())
