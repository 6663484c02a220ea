"""Kills, damage and double starts of the workflow: in the end, the bytes of an undisturbed run.

docs/reliability.md says what was found. The long tests: pytest -m long tests/test_faults.py -s
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from safetensors import safe_open

from checkout import ENVIRONMENT, copy_repository, snakemake
from equireg.plan import DATA_FILES

pytestmark = pytest.mark.slow
TIMES = 20  # each training image so often: an epoch of 600 steps
PRESET = ("--configfile", "faults.yaml")
EXPERIMENT = {
    "experiment": "faults",
    "data": {"name": "repeated", "folder": "tests/data/repeated"},
    "network": {"channels": [16, 16]},
    "grid": {"modes": ["equivariant", "augmented"], "gammas": [0.01]},
}
STEPS = 300 * TIMES // 10  # of an epoch


def repository(to: Path, epochs: int, seeds: int) -> Path:
    """A copy of the repository with a small experiment of two blocks in ``faults.yaml``."""
    folder = copy_repository(to)
    data = folder / "tests/data/repeated"
    data.mkdir()
    for name in DATA_FILES:
        content = gzip.decompress((folder / f"tests/data/digits/{name}.gz").read_bytes())
        if name.startswith("train"):
            (count,) = struct.unpack(">I", content[4:8])
            start = 16 if "images" in name else 8
            head = content[:4] + struct.pack(">I", TIMES * count) + content[8:start]
            content = head + TIMES * content[start:]
        (data / name).write_bytes(content)
    grid = {**EXPERIMENT["grid"], "seeds": seeds, "seeds_per_job": seeds}  # type: ignore[dict-item]
    preset = {**EXPERIMENT, "training": {"epochs": epochs}, "grid": grid}
    (folder / "faults.yaml").write_text(yaml.safe_dump(preset))
    return folder


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Snakemake in the background, for a single core."""
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *PRESET, "--cores", "1", *words],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(folder: Path, *words: str) -> str:
    """Run Snakemake to the end, which must be a good one; what it said."""
    done = snakemake(*PRESET, "--cores", "1", *words, cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


def results(folder: Path) -> dict[str, bytes]:
    """Every result that must not depend on what happened on the way."""
    files = [
        path
        for path in (folder / "results").rglob("*")
        if path.suffix in (".parquet", ".safetensors", ".pdf", ".png", ".md")
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def trainings(folder: Path) -> list[int]:
    """The processes that train in this folder, whoever started them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            here = (process / "cwd").resolve() == folder.resolve()
        except OSError:  # it has ended
            continue
        if here and words[1:4] == [b"-m", b"equireg", b"train"]:
            found.append(int(process.name))
    return found


def saved(folder: Path) -> dict[str, int]:
    """The steps that are in the checkpoints, by block."""
    found = {}
    runs = folder / "results/faults/runs"
    for checkpoint in runs.rglob("*.checkpoint"):
        files = sorted(checkpoint.glob("from-step-*.safetensors"))
        with contextlib.suppress(OSError):  # the training is done, and its checkpoint gone
            if files:
                with safe_open(files[-1], "numpy") as opened:
                    last = json.loads(opened.metadata()["about"])["last"]
                found[str(checkpoint.relative_to(runs))] = int(last)
    return found


def steps_saved(folder: Path) -> int:
    """The steps that are in all checkpoints together."""
    return sum(saved(folder).values())


def until(condition: Callable[[], object], patience: float = 120) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@dataclass
class Found:
    """What the kills did."""

    kept: list[dict[str, int]] = field(default_factory=list)  # steps on disk after each kill
    resumed: list[tuple[str, int]] = field(default_factory=list)  # what the logs said
    outlived: list[float] = field(default_factory=list)  # seconds a training outlived Snakemake


def logs(folder: Path, found: Found) -> None:
    """Read from the logs at which step trainings went on; each must be the checkpoint's last."""
    for log in (folder / "results/faults/logs/train").rglob("*.log"):
        for said in re.findall(r"resumed at step (\d+) of \d+ from (\S+)", log.read_text()):
            block = str(Path(said[1]).relative_to("results/faults/runs"))
            found.resumed.append((block, int(said[0])))
            assert any(kept.get(block) == int(said[0]) for kept in found.kept), said
        log.unlink()


@dataclass(frozen=True)
class Pace:
    """Of an undisturbed training, in seconds."""

    begin: float  # from its start to its first checkpoint
    epoch: float  # from there to the second


def wait_for_a_moment(
    folder: Path, running: subprocess.Popen[str], pace: Pace, draw: random.Random
) -> int:
    """Return in the midst of a training, 0 to 2 epochs after its start and a bit; its process."""
    epochs = draw.randrange(3)
    more = draw.uniform(0, pace.epoch if epochs else pace.begin)
    while True:
        until(lambda: trainings(folder) or running.poll() is not None)
        assert running.poll() is None, running.communicate()[0]
        (training,) = trainings(folder)
        before, moment = steps_saved(folder), math.inf
        # A machine that has become faster meanwhile shortens the wait: at most one epoch more.
        while training in trainings(folder) and time.monotonic() < moment:
            done = steps_saved(folder) - before
            if done > epochs * STEPS:
                return training
            if done == epochs * STEPS:
                moment = min(moment, time.monotonic() + more)
            time.sleep(0.01)
        if training in trainings(folder):
            return training


def kill_often(folder: Path, victims: list[str], pace: Pace, draw: random.Random) -> Found:
    """Kill the training (or Snakemake) at random moments, each time going on; then finish."""
    found = Found()
    for victim in victims:
        running = start(folder)
        training = wait_for_a_moment(folder, running, pace, draw)
        if victim == "training":
            os.kill(training, signal.SIGKILL)
            said, _ = running.communicate()
            assert running.returncode == 1, said
        else:
            running.kill()
            running.wait()
            began = time.monotonic()
            until(lambda: not trainings(folder))
            found.outlived.append(time.monotonic() - began)
            running.communicate()
            assert "--unlock" in snakemake(*PRESET, "--cores", "1", cwd=folder).stdout
            assert snakemake(*PRESET, "--unlock", cwd=folder).returncode == 0
        assert trainings(folder) == []
        found.kept.append(saved(folder))
        logs(folder, found)
    finish(folder)
    logs(folder, found)
    return found


def held_to(folder: Path, undisturbed: dict[str, bytes], found: Found) -> None:
    """The same bytes; no epoch that was on disk was trained again, and nothing is left over."""
    assert results(folder) == undisturbed
    assert not list((folder / "results").rglob("*.checkpoint"))
    assert not list((folder / "results").rglob("*.lock"))
    for file in (folder / "results/faults/runs").rglob("*.json"):
        first = [process["first_step"] for process in json.loads(file.read_text())["processes"]]
        assert first[0] == 0
        assert first == sorted(set(first))
    assert found.resumed, "no kill struck after the first epoch"
    for before, after in zip(found.kept, found.kept[1:], strict=False):
        # What was on disk stayed there: nothing but the interrupted epoch was trained again.
        assert all(after.get(block, done + 1) >= done for block, done in before.items())


def undisturbed_run(folder: Path) -> Pace:
    """Run the experiment, and see how fast its first training is."""
    running = start(folder)
    moments = []
    for steps in (0, STEPS, 2 * STEPS):
        until(lambda: trainings(folder) and max([0, *saved(folder).values()]) >= steps)  # noqa: B023
        moments.append(time.monotonic())
    said, _ = running.communicate()
    assert running.returncode == 0, said
    return Pace(moments[1] - moments[0], moments[2] - moments[1])


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Pace]:
    """A finished run that nothing disturbed; each test leaves it as it was."""
    folder = repository(tmp_path_factory.mktemp("reference"), epochs=8, seeds=3)
    return folder, undisturbed_run(folder)


def unfinished(reference: Path, to: Path) -> Path:
    """A copy in which nothing has run but what comes before training."""
    folder = Path(shutil.copytree(reference, to, symlinks=True))
    for path in (folder / "results/faults").iterdir():
        if path.name != "initial":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def test_three_kills_of_a_training_and_one_of_snakemake(
    reference: tuple[Path, Pace], tmp_path: Path
) -> None:
    finished, pace = reference
    folder = unfinished(finished, tmp_path / "killed")
    victims = ["training", "snakemake", "training", "training"]
    found = kill_often(folder, victims, pace, random.Random(0))
    held_to(folder, results(finished), found)


@pytest.mark.long
def test_twenty_kills_of_trainings_and_five_of_snakemake(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = repository(tmp_path / "whole", epochs=40, seeds=12)
    pace = undisturbed_run(whole)
    folder = unfinished(whole, tmp_path / "killed")
    draw = random.Random(1)
    victims = draw.sample(20 * ["training"] + 5 * ["snakemake"], 25)
    found = kill_often(folder, victims, pace, draw)
    print(f"\n{pace}; resumed {found.resumed}; outlived {found.outlived}")
    held_to(folder, results(whole), found)


def test_a_second_snakemake_is_refused(reference: tuple[Path, Pace], tmp_path: Path) -> None:
    finished, _ = reference
    folder = unfinished(finished, tmp_path / "twice")
    block = "results/faults/runs/augmented/gamma-1e-2/seeds-000-002.parquet"
    first = start(folder, block)
    until(lambda: trainings(folder))
    second = snakemake(*PRESET, "--cores", "1", cwd=folder)
    assert second.returncode == 1
    assert "LockException" in second.stdout
    assert "cannot be locked" in second.stdout
    said, _ = first.communicate()
    assert first.returncode == 0, said
    assert (folder / block).read_bytes() == (finished / block).read_bytes()


@pytest.mark.parametrize(
    ("suffix", "behind", "rule"),
    [(".parquet", "summary.parquet", "aggregate"), (".safetensors", "evaluation", "evaluate")],
)
def test_a_damaged_result_is_named_and_made_anew(
    reference: tuple[Path, Pace], suffix: str, behind: str, rule: str
) -> None:
    """Damaged behind Snakemake's back: the time of the file stays as it was."""
    folder, _ = reference
    before = results(folder)
    block = Path("results/faults/runs/augmented/gamma-1e-2/seeds-000-002")
    file = folder / block.with_suffix(suffix)
    times = file.stat()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    below = folder / "results/faults" if rule == "aggregate" else (folder / block).parent
    for path in below.glob(f"*{behind}*"):
        path.unlink()
    said = snakemake(*PRESET, "--cores", "1", cwd=folder)
    assert said.returncode == 1
    assert f"Error in rule {rule}" in said.stdout
    (line,) = {line for line in said.stdout.splitlines() if line.startswith("equireg: ")}
    assert line.startswith(f"equireg: {block.with_suffix(suffix)} is damaged")
    assert line.endswith("delete it and run the workflow again")
    file.unlink()
    finish(folder)
    assert results(folder) == before
