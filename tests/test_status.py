"""The status table: what files and logs say of a grid."""

from __future__ import annotations

import fcntl
import io
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from equireg.config import Configuration
from equireg.files import sha256
from equireg.jobs.status import SILENT, follow, minutes_left, progress, status
from equireg.plan import Block, blocks
from equireg.settings import GridSettings, TrainingSettings
from synthetic import binding

GRID = GridSettings(("equivariant", "nominal"), (1e-2, 1.0), "0-3", seeds_per_job=2)
STEP = (
    "step 250/1000  loss 0.5  distance 8.7e-01  900 steps/s  100 us per run and step  30 s left\n"
)


CHOSEN = Configuration("mine", grid=GRID)


def write(folder: Path, block: Block, *suffixes: str) -> None:
    for suffix in suffixes:
        file = folder / block.path.with_name(f"{block.name}.{suffix}")
        file.parent.mkdir(parents=True, exist_ok=True)
        made = binding(block) if suffix == "json" else {}
        file.write_text(json.dumps({"made": made}))


def log(folder: Path, block: Block, job: str, text: str, age: float = 0) -> Path:
    below = block.path.relative_to("runs")
    file = folder / "logs" / job / below.with_name(f"{block.name}.log")
    if job == "evaluate":  # of all seeds
        file = file.parent.with_name(f"{file.parent.name}.log")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    os.utime(file, (time.time() - age,) * 2)
    return file


TRAINED = ("parquet", "safetensors", "json", "function.parquet")


def printed(results: Path, grid: GridSettings) -> str:
    out = io.StringIO()
    status(Configuration("mine", grid=grid), results, Console(file=out, width=100))
    return out.getvalue()


def rows(said: str) -> dict[tuple[str, str], list[str]]:
    """The table's numbers by mode and gamma, a word per column that has one."""
    words = [line.split() for line in said.splitlines()]
    return {(w[0], w[1]): w[2:] for w in words if w and w[0] in ("equivariant", "nominal")}


def test_live_it_stays_until_every_run_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = GridSettings(("equivariant",), (), "0-3", seeds_per_job=2)
    waiting = blocks(grid)

    def finish_one(_: float) -> None:
        write(tmp_path / "mine", waiting.pop(), *TRAINED, "evaluation.parquet")

    monkeypatch.setattr("equireg.jobs.status.time.sleep", finish_one)
    out = io.StringIO()
    follow(Configuration("mine", grid=grid), tmp_path, Console(file=out, width=200))
    assert not waiting
    assert out.getvalue().rstrip().endswith(f"{tmp_path}/mine: 4 of 4 runs done")


def test_a_terminal_of_80_columns_shows_every_name(tmp_path: Path) -> None:
    """Also of a grid whose runs are in many states."""
    folder = tmp_path / "mine"
    done, _, runs, fails, *_ = blocks(GRID)
    write(folder, done, *TRAINED, "evaluation.parquet")
    log(folder, runs, "train", STEP)
    log(folder, fails, "train", "equireg: no longer finite\n")
    out = io.StringIO()
    status(CHOSEN, tmp_path, Console(file=out, width=80))
    said = out.getvalue()
    head = next(line.split() for line in said.splitlines() if "mode" in line)
    assert head == ["mode", "gamma", "done", "running", "failed", "missing", "trained"]
    assert "equivariant" in said
    assert "…" not in said


def test_nothing_has_run(tmp_path: Path) -> None:
    said = printed(tmp_path, GRID)
    assert said.splitlines()[-1] == f"{tmp_path}/mine: 0 of 12 runs done"
    assert list(rows(said)) == [("equivariant", "none"), ("nominal", "1e-2"), ("nominal", "1e0")]
    assert all(words == ["4", "0", "%"] for words in rows(said).values())


def test_every_state(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    done, _, runs, stops, fails, killed = blocks(GRID)
    write(folder, done, *TRAINED, "evaluation.parquet")
    log(folder, done, "train", "equireg: of an earlier try\n")
    log(folder, runs, "train", "step: compiled\n" + STEP)
    stopped = log(folder, stops, "train", STEP, age=2 * SILENT)
    failure = "equireg: mode nominal, gamma 1e0, seed 0: no longer finite at step 7\n"
    diverged = log(folder, fails, "train", STEP + failure)
    write(folder, killed, *TRAINED)
    traced = log(folder, killed, "evaluate", "Traceback (most recent call last):\nMemoryError\n")
    states = [progress(CHOSEN, folder, block).state for block in blocks(GRID)]
    assert states == ["done", "missing", "running", "stopped", "failed", "failed"]
    said = printed(tmp_path, GRID)
    assert rows(said) == {
        ("equivariant", "none"): ["2", "2", "50", "%"],
        ("nominal", "1e-2"): ["2", "2", "25", "%"],
        ("nominal", "1e0"): ["4", "62", "%"],
    }
    lines = [line.strip() for line in said.splitlines()]
    assert f"{folder}: 2 of 12 runs done, about 2 min of training left" in lines
    for line, file in (
        (f"stopped: {STEP.strip()}", stopped),
        (f"failed: {failure.strip()}", diverged),
        ("failed: MemoryError", traced),
    ):
        assert lines[lines.index(line) + 1] == f"see {file}"


def test_time_left_is_that_of_the_jobs_side_by_side(tmp_path: Path) -> None:
    """Two of six blocks a quarter done with 30 s left: 40 s a block, two at a time."""
    for block in blocks(GRID)[:2]:
        log(tmp_path, block, "train", STEP)
    grid = [progress(CHOSEN, tmp_path, block) for block in blocks(GRID)]
    assert minutes_left(grid) == pytest.approx((2 * 30 + 4 * 40) / 2 / 60)
    assert minutes_left(grid[2:]) is None


@pytest.mark.parametrize("name", ["mine/logs/aggregate.log", "data/logs/mnist.log"])
def test_failures_of_other_jobs_are_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(parents=True)
    file.write_text("equireg: no space left on device\n")
    said = printed(tmp_path, GRID)
    assert f"failed: equireg: no space left on device\n    see {file}\n" in said


def test_a_job_that_was_told_to_end_has_stopped(tmp_path: Path) -> None:
    block = blocks(GRID)[0]
    log(tmp_path, block, "train", STEP + "SIGTERM: ended at step 300 of 1000; it goes on there\n")
    found = progress(CHOSEN, tmp_path, block)
    assert (found.state, found.share, found.seconds) == ("stopped", 0.25, None)


def test_a_log_without_a_line_is_a_job_that_starts(tmp_path: Path) -> None:
    block = blocks(GRID)[0]
    log(tmp_path, block, "train", "")
    assert progress(CHOSEN, tmp_path, block).state == "running"
    log(tmp_path, block, "train", "", age=2 * SILENT)
    assert progress(CHOSEN, tmp_path, block).said == "it said nothing"


def test_all_gammas_of_a_mode_in_one_job(tmp_path: Path) -> None:
    """Their log is that of each block, unless the block was trained alone later."""
    alone = blocks(GRID)[2]
    file = tmp_path / "logs/train/nominal" / f"{alone.name}.log"
    file.parent.mkdir(parents=True)
    file.write_text(STEP)
    states = [progress(CHOSEN, tmp_path, block).state for block in blocks(GRID)]
    assert states == ["missing", "missing", "running", "missing", "running", "missing"]
    assert progress(CHOSEN, tmp_path, alone).log == file
    log(tmp_path, alone, "train", STEP, age=-1)
    assert progress(CHOSEN, tmp_path, alone).log != file


def test_finished_runs_of_other_settings_are_told_apart(tmp_path: Path) -> None:
    grid = GridSettings(("equivariant",), (), "0-1", seeds_per_job=2)
    (block,) = blocks(grid)
    write(tmp_path / "mine", block, *TRAINED, "evaluation.parquet")
    chosen = Configuration("mine", training=TrainingSettings(learning_rate=2e-3), grid=grid)
    assert progress(chosen, tmp_path / "mine", block).state == "other"
    out = io.StringIO()
    status(chosen, tmp_path, Console(file=out, width=200))
    assert "0 of 2 runs done" in out.getvalue()
    said = "of other settings: training.learning_rate is 0.001, the configuration says 0.002"
    assert said in out.getvalue()


def test_runs_of_other_data_or_of_another_place_are_told_apart(tmp_path: Path) -> None:
    grid = GridSettings(("nominal",), (1e-2, 1.0), "0-1", seeds_per_job=2)
    first, _ = blocks(grid)
    write(tmp_path / "mine", first, *TRAINED, "evaluation.parquet")
    assert "2 of 4 runs done" in printed(tmp_path, grid)
    moved = tmp_path / "mine" / first.path.parent
    moved.rename(moved.with_name("gamma-1e0"))
    said = printed(tmp_path, grid)
    assert "0 of 4 runs done" in said
    assert "of other settings: runs.gamma is 0.01, the configuration says 1.0" in said
    moved.with_name("gamma-1e0").rename(moved)
    data = tmp_path / "data/mnist.safetensors"
    data.parent.mkdir()
    for content in (b"images", b"others"):
        data.write_bytes(content)
        os.utime(data, ns=(0, len(content) + content[0]))
        line = f"data.sha256 is {'0' * 12}, the configuration says {sha256(data)[:12]}"
        assert line in printed(tmp_path, grid)


def test_a_block_that_does_not_say_what_made_it_has_failed(tmp_path: Path) -> None:
    grid = GridSettings(("nominal",), (1.0,), "0")
    (block,) = blocks(grid)
    write(tmp_path / "mine", block, *TRAINED, "evaluation.parquet")
    file = tmp_path / "mine" / block.path.with_name(f"{block.name}.json")
    file.write_text(file.read_text()[:-9])
    said = printed(tmp_path, grid)
    assert "failed: the block does not say what made it; delete it and run" in said
    assert f"see {file}" in said.replace("\n", "")


def test_a_lock_that_is_held_is_a_training_that_runs(tmp_path: Path) -> None:
    """However long its log has been silent."""
    block = blocks(GRID)[0]
    log(tmp_path, block, "train", STEP, age=2 * SILENT)
    lock = tmp_path / block.path.with_name(f"{block.name}.lock")
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as stream:
        assert progress(CHOSEN, tmp_path, block).state == "stopped"
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert progress(CHOSEN, tmp_path, block).state == "running"


def test_a_checkpoint_tells_how_far_it_is(tmp_path: Path) -> None:
    block = blocks(GRID)[0]
    folder = tmp_path / block.path.with_name(f"{block.name}.checkpoint")
    folder.mkdir(parents=True)
    for last in (30, 45):
        about = {"about": json.dumps({"last": last})}
        save_file({"x": np.zeros(1)}, folder / f"from-step-{last}.safetensors", about)
    for made, share in ((binding(block), 0.75), (binding(block, perturbation=0.5), 0.75), ({}, 0)):
        (folder / "made.json").write_text(json.dumps({"made": made, "steps": 60}))
        found = progress(CHOSEN, tmp_path, block)
        assert (found.state, found.share) == ("stopped" if share else "missing", share)
