"""A SLURM cluster of two nodes on this machine, in a folder of its own."""

from __future__ import annotations

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

NODES = ("one", "two")
PROGRAMS = (
    "setpriv",
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
    "srun",
    "squeue",
    "scontrol",
    "scancel",
)
# Of each node. SLURM does not count GPUs that have no device, but asks of it no more than to exist.
CPUS, MEGABYTES, GPUS = 2, 16_000, ("/dev/null", "/dev/zero")

# Seconds instead of minutes until a job starts, a node counts as lost, a job that was asked to end
# is killed. The least loaded node gets a job: so both are in use.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
AccountingStorageType=accounting_storage/none
ReturnToService=2
SlurmdTimeout=6
KillWait=5
SchedulerParameters=sched_interval=2,bf_interval=2
MinJobAge=3600
GresTypes=gpu
SlurmdParameters=config_overrides
PartitionName=main Nodes=ALL Default=YES State=UP MaxTime=INFINITE LLN=YES
"""
NODE = (
    "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port}"
    " CPUs={cpus} RealMemory={memory} Gres=gpu:{gpus} State=UNKNOWN\n"
)


def missing_programs() -> list[str]:
    """The programs of SLURM that this machine lacks."""
    path = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
    return [program for program in PROGRAMS if not shutil.which(program, path=path)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def processes(*marks: str) -> Iterator[int]:
    """The processes in whose environment every mark stands."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:  # it has ended, or is another user's
            continue
        if all(mark.encode() in environment for mark in marks):
            yield int(folder.name)


def kill(*marks: str) -> None:
    """End the processes in whose environment every mark stands, and those that they start."""
    while pids := list(processes(*marks)):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


class Cluster:
    """Nodes "one" and "two"; a context: on leaving it nothing of it is left running.

    Args:
        folder: for its configuration, state and logs; must not be there yet.
        environment: that the commands of SLURM and all jobs get, besides what makes them find it.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {
            **environment,
            "SLURM_CONF": str(folder / "slurm.conf"),
            # sbin: the daemons; bin: srun, below
            "PATH": f"{folder / 'bin'}{os.pathsep}{environment['PATH']}{os.pathsep}/usr/sbin",
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.stop)
            self._configure()
            self._start_daemon("munged", "munged", "--foreground", *self._munge_files())
            self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
            self._start_daemon("slurmctld", "slurmctld", "-D")
            for name in NODES:
                self.start_node(name)
            self._wait(lambda: self.idle_nodes() == set(NODES), "the nodes")
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill every daemon and every process of every job."""
        kill(f"{self.folder}/")
        for daemon in self._daemons.values():
            daemon.wait()

    def start_node(self, name: str) -> None:
        self._start_daemon(name, "slurmd", "-D", "-N", name)

    def kill_node(self, name: str) -> None:
        """As a power cut would: its daemon and all that it runs."""
        self._daemons[name].kill()
        self._daemons[name].wait()
        # The children of slurmd have its environment, those of jobs SLURM's name of the node.
        kill(f"EQUIREG_DAEMON={self.folder}/{name}\0")
        kill(f"{self.folder}/", f"SLURMD_NODENAME={name}\0")

    def run(self, *words: str) -> str:
        """What a command of SLURM says."""
        return subprocess.run(
            words, env=self.environment, check=True, text=True, stdout=subprocess.PIPE, timeout=60
        ).stdout

    def idle_nodes(self) -> set[str]:
        try:
            return set(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())
        except subprocess.CalledProcessError:  # slurmctld does not answer yet
            return set()

    def jobs(self, name: str) -> list[dict[str, str]]:
        """SLURM's records of the jobs of this name, one per task of an array."""
        lines = self.run("scontrol", "show", "jobs", "--oneliner").splitlines()
        pairs = ([word.partition("=") for word in line.split()] for line in lines)
        records = ({key: value for key, _, value in line} for line in pairs)
        return [record for record in records if record.get("JobName") == name]

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        user = getpass.getuser()
        self.folder.mkdir()
        for name in ("state", "bin", *NODES):
            (self.folder / name).mkdir()
        text = CONFIGURATION.format(host=host, port=free_port(), user=user, folder=self.folder)
        for name in NODES:
            text += NODE.format(
                name=name, host=host, port=free_port(), cpus=CPUS, memory=MEGABYTES, gpus=len(GPUS)
            )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(
            "".join(f"Name=gpu File={device}\n" for device in GPUS)
        )
        # The plugin calls srun without SLURM_CONF: it counts on a configuration in /etc/slurm.
        srun = self.folder / "bin" / "srun"
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which("srun")} "$@"\n'
        )
        srun.chmod(0o755)

    def _munge_files(self) -> list[str]:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        names = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return [
            f"--key-file={key}",
            *(f"--{option}={self.folder}/munge.{name}" for option, name in names.items()),
        ]

    def start(
        self, *words: str, said: Path, cwd: Path | None = None, **variables: str
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends with this one, whatever ends this one."""
        with open(said, "ab") as output:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *words],
                cwd=cwd,
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _start_daemon(self, label: str, *words: str) -> None:
        said = self.folder / f"{label}.out"
        variable = f"{self.folder}/{label}"
        self._daemons[label] = self.start(*words, said=said, EQUIREG_DAEMON=variable)

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + 30
        while not ready():
            if time.monotonic() > end:
                logs = "\n".join(
                    f"{log}:\n{log.read_text()[-2000:]}" for log in self.folder.glob("*.out")
                )
                raise TimeoutError(f"{what} did not start within 30 seconds\n{logs}")
            time.sleep(0.2)
