"""snakemake --profile slurm, on a real SLURM."""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster import NODES, Cluster, missing_programs

from checkout import ENVIRONMENT, SMALL, copy_repository, snakemake, wait_for

pytestmark = pytest.mark.slow

# Two trainings, an array, long enough to be hit in the middle.
TRAININGS = (
    *SMALL,
    "--until",
    "train",
    "--config",
    "training={epochs: 2000}",
    "grid={modes: [nominal], gammas: [0, 1], seeds: 1}",
)
BLOCKS = [f"results/test/runs/nominal/gamma-{gamma}/seeds-000-000" for gamma in ("0", "1e0")]
# The first look after seconds instead of 40; every look finds several jobs of the small experiment.
SOON = ("--slurm-init-seconds-before-status-checks", "2")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes, each with two counted GPUs; without accounting."""
    if missing := missing_programs():
        pytest.skip(f"needs SLURM (Debian: slurm-wlm, munge); {', '.join(missing)} not found")
    # Not in pytest's folder: the path of a socket must be short, and munged wants it open to all.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        Path(folder).chmod(0o755)
        with Cluster(Path(folder, "cluster"), ENVIRONMENT) as running:
            yield running


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)


def run_id(said: str) -> str:
    """The name that the plugin gives to all SLURM jobs of a call of Snakemake."""
    found = re.search(r"SLURM run ID: (\S+)", said)
    assert found, said
    return found[1]


def test_the_small_experiment(cluster: Cluster, tmp_path: Path) -> None:
    """To the figures; without accounting the plugin's default would wait for ever."""
    folder = copy_repository(tmp_path / "checkout")
    done = snakemake(
        "--profile", "slurm", *SMALL, *SOON, cwd=folder, environment=cluster.environment
    )
    assert done.returncode == 0, done.stdout
    assert (folder / "results/test/figures/figure2.pdf").stat().st_size > 0

    jobs = cluster.jobs(run_id(done.stdout))
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    rules = {
        rule: [job for job in jobs if job["Comment"].startswith(f"rule_{rule}")]
        for rule in ("train", "evaluate", "aggregate", "predict")
    }
    assert {rule: len(found) for rule, found in rules.items()} == {
        "train": 10,
        "evaluate": 5,
        "aggregate": 1,
        "predict": 1,
    }
    assert len(jobs) == 17  # the light jobs ran beside Snakemake
    # What the rule asks for two seeds and two epochs, and a MB for the list of an array's jobs.
    asked = [
        {key: job[key] for key in ("NumCPUs", "MinMemoryNode", "TimeLimit", "TresPerJob")}
        for job in rules["train"]
    ]
    assert asked == 10 * [
        {
            "NumCPUs": "1",
            "MinMemoryNode": "3101M",
            "TimeLimit": "00:17:00",
            "TresPerJob": "gres:gpu:1",
        }
    ]
    assert not any("TresPerJob" in job for rule in rules if rule != "train" for job in rules[rule])
    # Five jobs for each of two initial weights, which are ready together or one after the other.
    assert len({job["ArrayJobId"] for job in rules["train"]}) <= 2
    assert {job["NodeList"] for job in rules["train"]} == set(NODES)


def test_a_node_fails_and_a_job_is_requeued(cluster: Cluster, tmp_path: Path) -> None:
    """In mid-run: both trainings go on from their checkpoints, to the bytes of undisturbed ones."""
    calm = copy_repository(tmp_path / "calm")
    done = snakemake(*TRAININGS, "--cores", "2", cwd=calm)
    assert done.returncode == 0, done.stdout

    folder, said = copy_repository(tmp_path / "disturbed"), tmp_path / "said"
    words = [sys.executable, "-m", "snakemake", "--profile", "slurm", *TRAININGS, *SOON]
    running = cluster.start(*words, said=said, cwd=folder)
    try:
        for block in BLOCKS:
            wait_for(folder / f"{block}.checkpoint" / "from-step-000000000.safetensors", 180)
        name = run_id(said.read_text())
        before = {job["NodeList"]: job["JobId"] for job in cluster.jobs(name)}
        assert set(before) == set(NODES)
        cluster.run("scontrol", "requeue", before["two"])
        cluster.kill_node("one")
        end = time.monotonic() + 300
        while running.poll() is None and time.monotonic() < end:
            for job in cluster.jobs(name):
                if job["JobState"] == "PENDING":  # for two minutes, or until it is told otherwise
                    cluster.run("scontrol", "update", f"JobId={job['JobId']}", "StartTime=now")
            time.sleep(2)
        assert running.poll() == 0, said.read_text()
    finally:
        running.kill()
        cluster.start_node("one")

    jobs = cluster.jobs(name)
    assert len({job["ArrayJobId"] for job in jobs}) == 1
    assert {job["JobId"] for job in jobs} == set(before.values())  # run again, not submitted again
    assert [(job["JobState"], job["Restarts"]) for job in jobs] == [("COMPLETED", "1")] * 2
    assert {job["NodeList"] for job in jobs} == {"two"}
    for block in BLOCKS:
        log = (folder / block.replace("/runs/", "/logs/train/")).with_suffix(".log")
        assert "resumed at step" in log.read_text()
        for suffix in ("parquet", "safetensors"):
            file = f"{block}.{suffix}"
            assert (folder / file).read_bytes() == (calm / file).read_bytes()


def test_more_time_than_a_partition_allows_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """SLURM would queue such jobs without a word, and Snakemake would wait for ever."""
    folder = copy_repository(tmp_path / "checkout")
    cluster.run("scontrol", "update", "PartitionName=main", "MaxTime=10")
    words = ["--profile", "slurm", *SMALL, *SOON]
    try:
        done = snakemake(*words, cwd=folder, environment=cluster.environment, timeout=120)
        assert done.returncode == 1
        lines = [line for line in done.stdout.splitlines() if line.startswith("equireg: ")]
        (train,) = [line for line in lines if line.startswith("equireg: train ")]
        assert "asks for 17 minutes, more than its partition allows (main 00:10:00)" in train
        assert "--set-resources train:runtime=MINUTES" in train
        assert "Traceback" not in done.stdout
        assert not (folder / "results/test/initial").exists()  # nothing has begun
        done = snakemake(
            *(*words, "--default-resources", "slurm_partition=none"),
            cwd=folder,
            environment=cluster.environment,
            timeout=120,
        )
        assert "equireg: train asks for partition none; accepted: main" in done.stdout
    finally:
        cluster.run("scontrol", "update", "PartitionName=main", "MaxTime=INFINITE")


def test_why_a_job_waits_for_ever_is_said(cluster: Cluster, tmp_path: Path) -> None:
    """Once Snakemake has submitted it: here the partition is switched off, as for a maintenance."""
    folder, said = copy_repository(tmp_path / "checkout"), tmp_path / "said"
    words = [sys.executable, "-m", "snakemake", "--profile", "slurm", *TRAININGS, *SOON]
    cluster.run("scontrol", "update", "PartitionName=main", "State=DOWN")
    running = cluster.start(*words, said=said, cwd=folder, EQUIREG_WATCH_SECONDS="2")
    try:
        wait_until(lambda: "equireg: SLURM will not start" in said.read_text(), 240)
        (line,) = [line for line in said.read_text().splitlines() if "will not start" in line]
        assert "(train, partition main), for PartitionDown" in line
        assert "slurm_account=NAME" in line
    finally:
        running.kill()
        running.wait()
        cluster.run("scancel", "--me")
        cluster.run("scontrol", "update", "PartitionName=main", "State=UP")
