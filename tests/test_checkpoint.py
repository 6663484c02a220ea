"""Checkpoints: what is cut off goes on to the same bytes; what is damaged is not trusted."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from checkout import ENVIRONMENT, SMALL, copy_repository, snakemake
from equireg.jobs import train as job
from equireg.processes import SIGNALS
from equireg.training import blocks as module
from equireg.training.checkpoint import Checkpoint
from equireg.training.network import Network
from equireg.training.step import Trainer
from equireg.training.trainers import choose_trainer
from experiment import NETWORK, Jobs

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
STEPS = {
    "reference": NETWORK,
    "compiled": ["--channels", "16"],
}
EACH_STEP = [
    "reference",
    pytest.param(
        "compiled", marks=pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")
    ),
]
BLOCK = "augmented", "1e-2", "0-1"


@pytest.fixture
def jobs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Jobs]:
    """With the network of the step that the test is given, else of the reference."""
    step = request.node.callspec.params.get("step") if hasattr(request.node, "callspec") else None
    with pytest.MonkeyPatch.context() as patch:
        yield Jobs(tmp_path, patch, STEPS[step or "reference"])
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)


def watch(jobs: Jobs, step: int, then: Callable[[Tensor], None]) -> None:
    """Have the next trainings do something with what they recorded, once they have come so far."""

    def choose_watched(*arguments: Any) -> Trainer:
        trainer: Any = choose_trainer(*arguments)
        advance, left = trainer.advance, step

        def advance_watched(*given: Tensor) -> Tensor:
            nonlocal left
            recorded: Tensor = advance(*given)
            left -= recorded.shape[1]
            if left <= 0:
                then(recorded)
            return recorded

        trainer.advance = advance_watched
        watched: Trainer = trainer
        return watched

    jobs.monkeypatch.setattr(module, "choose_trainer", choose_watched)


@pytest.fixture(autouse=True)
def _signals_end_processes() -> Iterator[None]:
    """As in a terminal; where tests run in the background, some are ignored (``nohup``)."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def interrupt(jobs: Jobs, name: str, step: int, number: int = signal.SIGTERM) -> Path:
    """Send a training a signal after so many steps; its checkpoint."""
    with jobs.monkeypatch.context() as patch:
        patch.setattr(jobs, "monkeypatch", patch)
        patch.setattr(job, "PATIENCE", 0.0)  # looks up after every step
        watch(jobs, step, lambda _: os.kill(os.getpid(), number))
        with pytest.raises(RuntimeError) as error:
            jobs.train(name, *BLOCK)
    assert error.value.args == (128 + number,)
    return jobs.output(name).with_suffix(".checkpoint")


def same(found: Path, expected: Path) -> None:
    """Whether two blocks have the same bytes, and nothing else is left of them."""
    for suffix in (".parquet", ".function.parquet", ".safetensors"):
        assert found.with_suffix(suffix).read_bytes() == expected.with_suffix(suffix).read_bytes()
    assert sorted(path.suffix for path in found.parent.iterdir()) == [
        ".json",
        ".parquet",
        ".parquet",
        ".safetensors",
    ]


@pytest.mark.parametrize("step", EACH_STEP)
def test_a_training_that_was_told_to_end_goes_on_to_the_same_bytes(
    step: str, jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within epochs (of 30 steps), at the end of one, twice in a row, and at the very end."""
    whole = jobs.train("whole", *BLOCK)
    for stops in ([1], [30], [20, 25], [60]):
        for at in stops:
            checkpoint = interrupt(jobs, "again", at)
        assert not checkpoint.with_suffix(".lock").exists()
        assert checkpoint.with_suffix(".json").exists() == (stops == [60])
        assert f"SIGTERM: ended at step {sum(stops)} of 60" in capsys.readouterr().err
        again = jobs.train("again", *BLOCK)
        assert f"resumed at step {sum(stops)} of 60 from {checkpoint}" in capsys.readouterr().err
        same(again, whole)
        written = json.loads(again.with_suffix(".json").read_text())
        first = [process["first_step"] for process in written["processes"]]
        assert first == [0, *itertools.accumulate(stops)]
        assert written["step"] == step
        shutil.rmtree(again.parent)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1], ids=lambda number: number.name
)
def test_signals(number: signal.Signals, jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    assert interrupt(jobs, "a", 1, number).is_dir()
    assert f"{number.name}: ended at step 1 of 60" in capsys.readouterr().err
    assert signal.getsignal(number) == before


def test_a_signal_that_is_ignored_stays_so(jobs: Jobs) -> None:
    """As of nohup, and of a shell's processes in the background."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        watch(jobs, 1, lambda _: os.kill(os.getpid(), signal.SIGHUP))
        assert jobs.train("a", *BLOCK).exists()
    finally:
        signal.signal(signal.SIGHUP, before)


def process(words: list[object]) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "equireg", *map(str, words)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], object]) -> None:
    """Return once the condition holds."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("step", EACH_STEP)
def test_a_killed_training_goes_on_to_the_same_bytes(step: str, jobs: Jobs) -> None:
    """Killed three times at moments drawn anew each time, wherever that hits."""
    block = *BLOCK, "--epochs", "100" if step == "compiled" else "10"
    whole, words = jobs.train("whole", *block), jobs.words("again", *block)
    checkpoint = jobs.output("again").with_suffix(".checkpoint")
    for _ in range(3):
        before = set(checkpoint.glob("from-*"))
        running = process(words)
        until(lambda: set(checkpoint.glob("from-*")) - before)  # noqa: B023
        time.sleep(random.random() / 10)
        running.kill()
        running.communicate()
    jobs.run(*words)
    same(jobs.output("again"), whole)
    written = json.loads(jobs.output("again").with_suffix(".json").read_text())
    first = [part["first_step"] for part in written["processes"]]
    assert len(first) == 4
    assert all(step % 30 == 0 for step in first)
    assert first == sorted(set(first))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[-100] ^= 1
    file.write_bytes(whole)


@pytest.mark.parametrize(
    "damage",
    [truncate, flip, lambda file: file.write_bytes(b""), lambda file: file.write_text("?" * 999)],
    ids=["truncated", "a bit", "empty", "text"],
)
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_damaged_is_set_aside(
    damage: Callable[[Path], None], which: int, jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupt(jobs, "again", 45)
    files = sorted(checkpoint.glob("*.safetensors"))
    assert [file.name[10:19] for file in files] == ["000000000", "000000030"]
    damage(files[which])
    capsys.readouterr()
    interrupt(jobs, "again", 1)  # so that it can be seen
    said = capsys.readouterr().err
    assert [f"warning: {file} is set aside: it " in said for file in files] == [which == 0, True]
    assert ("resumed at step 30" in said) == (which == 1)
    assert [file.with_suffix(".unusable").exists() for file in files] == [which == 0, True]
    jobs.train("again", *BLOCK)
    same(jobs.output("again"), jobs.train("whole", *BLOCK))


@pytest.mark.parametrize(
    "change",
    [
        ("nominal", "1e-2", "0-1"),
        ("augmented", "2e-2", "0-1"),
        ("augmented", "1e-2", "0-2"),
        (*BLOCK, "--learning-rate", "0.04"),
        (*BLOCK, "--epochs", "3"),
        (*BLOCK, "--order", "shuffled"),
        "initial",
        "data",
        "code",
    ],
    ids=str,
)
def test_another_training_s_checkpoint_is_set_aside(
    change: tuple[str, str, str] | str, jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = interrupt(jobs, "a", 45)
    block = change if isinstance(change, tuple) else BLOCK
    if change == "initial":
        law = ["--distribution", "uniform", *jobs.network]
        jobs.run(
            "initialize",
            "--seeds",
            "0-1",
            "--output",
            jobs.folder / "initial-0-1.safetensors",
            *law,
        )
    elif change == "data":  # one pixel of it
        tensors = load_file(jobs.data)
        tensors["train_images"][0, 0, 0, 0] += 1
        save_file(tensors, jobs.data)
    elif change == "code":
        jobs.monkeypatch.setattr(job, "job_digest", lambda *_: "another")
    capsys.readouterr()
    found = jobs.train("a", *block)
    said = capsys.readouterr().err
    assert (
        f"warning: {checkpoint}/from-step-000000000.safetensors is set aside: it is of another"
        in said
    )
    assert "resumed" not in said
    same(found, jobs.train("b", *block))


def test_a_training_that_is_told_to_end_at_once_touches_nothing(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C may have reached the compiler as well, and so have chosen another step."""
    checkpoint = interrupt(jobs, "a", 45)
    before = {file: file.read_bytes() for file in checkpoint.iterdir()}
    with jobs.monkeypatch.context() as patch:
        patch.setattr(jobs, "monkeypatch", patch)
        patch.setattr(job, "job_digest", lambda *_: "another")
        patch.setattr(Network, "orbit", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        patch.setattr(module, "choose_trainer", lambda *_: None)
        with pytest.raises(RuntimeError, match="130"):
            jobs.train("a", *BLOCK)
    assert "SIGINT: ended before the first step" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_threads_and_places_may_differ(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = interrupt(jobs, "a", 45)
    moved = jobs.output("b").with_suffix(".checkpoint")
    moved.parent.mkdir()
    checkpoint.rename(moved)
    data = jobs.folder / "moved.safetensors"
    jobs.data = jobs.data.rename(data)
    jobs.train("b", *BLOCK, "--threads", "2")
    assert f"of 60 from {moved}" in capsys.readouterr().err


def write_segments(folder: Path, key: str = "key") -> dict[str, Tensor]:
    """Three segments, of 4, 1 and 3 steps of two runs; the last state."""
    checkpoint, state = Checkpoint(folder, key, "x"), {}
    rows = torch.arange(2 * 8 * 3, dtype=torch.float32).view(2, 8, 3)
    for part in rows.split([4, 1, 3], 1):
        state = {"a": torch.full((2, 5), float(checkpoint.step)), "empty": torch.empty(2, 0)}
        checkpoint.add(part, state)
    return state


def test_rows_across_segments(tmp_path: Path) -> None:
    last = write_segments(tmp_path)
    checkpoint = Checkpoint(tmp_path, "key", "x")
    state = checkpoint.resume()
    assert state is not None
    assert checkpoint.step == 8
    assert state.keys() == last.keys()
    assert all(torch.equal(state[name], last[name]) for name in last)
    rows = torch.arange(2 * 8 * 3, dtype=torch.float32).view(2, 8, 3)
    for run in range(2):
        for first in range(8):
            for end in range(first + 1, 9):
                found = torch.cat(checkpoint.rows(run, first, end))
                assert torch.equal(found, rows[run, first:end])


def test_another_processor_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_segments(tmp_path)
    checkpoint = Checkpoint(tmp_path, "key", "y")
    checkpoint.resume()
    assert "warning: begun on x, to be ended on y" in capsys.readouterr().err
    assert checkpoint.processes[1] == {"first_step": 8, "processor": "y"}


def test_no_flipped_bit_is_trusted(tmp_path: Path) -> None:
    """Any bit of the first segment: it is refused, or what it holds is what it was."""
    write_segments(tmp_path / "whole")
    name = "from-step-000000000.safetensors"
    whole = (tmp_path / "whole" / name).read_bytes()
    draws, refused = np.random.default_rng(0), 0
    for position in draws.choice(8 * len(whole), 300, replace=False):
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        shutil.rmtree(tmp_path / "damaged", ignore_errors=True)
        shutil.copytree(tmp_path / "whole", tmp_path / "damaged")
        (tmp_path / "damaged" / name).write_bytes(damaged)
        checkpoint = Checkpoint(tmp_path / "damaged", "key", "x")
        if checkpoint.resume() is None:
            refused += 1
            assert len(list((tmp_path / "damaged").glob("*.unusable"))) == 3
        else:
            assert checkpoint.step == 8
    assert refused > 250


def test_a_run_that_diverges_again_does_so_soon(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was recorded before the checkpoint is kept, too."""

    def diverge(recorded: Tensor) -> None:
        recorded[1, -1, 0] = float("nan")

    jobs.monkeypatch.setattr(job, "PATIENCE", 60.0)  # to the epoch's end, on a slow machine, too
    watch(jobs, 45, diverge)
    with pytest.raises(RuntimeError, match=r"seed 1: .* no longer finite at step 59"):
        jobs.train("a", *BLOCK)
    kept = jobs.output("a").with_suffix(".diverged.parquet")
    first = kept.read_bytes()
    table = pq.read_table(kept)
    assert table["step"].to_pylist() == 2 * list(range(60))
    assert np.isnan(table["loss"].to_numpy()).tolist() == 119 * [False] + [True]
    watch(jobs, 15, diverge)
    with pytest.raises(RuntimeError, match="no longer finite at step 59"):
        jobs.run(*jobs.words("a", *BLOCK))
    assert "resumed at step 30" in capsys.readouterr().err
    assert kept.read_bytes() == first


def test_of_several_blocks_the_one_that_diverges_is_kept(jobs: Jobs) -> None:
    def diverge(recorded: Tensor) -> None:
        recorded[3, -1, 1] = float("inf")  # the second gamma's second seed

    watch(jobs, 60, diverge)
    more = ["--gamma", "1", "--output", jobs.output("b")]
    with pytest.raises(RuntimeError, match=r"augmented, gamma 1e0, seed 1: .* at step 59"):
        jobs.train("a", *BLOCK, *more)
    table = pq.read_table(jobs.output("b").with_suffix(".diverged.parquet"))
    assert set(table["gamma"].to_pylist()) == {1.0}
    assert not jobs.output("a").with_suffix(".diverged.parquet").exists()


def test_several_blocks_share_a_checkpoint(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """And none is left of the time when they were trained one by one."""
    more = ["--gamma", "1", "--output", jobs.output("b")]
    jobs.train("a", *BLOCK, *more)
    whole = {name: jobs.output(name).read_bytes() for name in ("a", "b")}
    interrupt(jobs, "b", 45)
    capsys.readouterr()
    jobs.monkeypatch.setattr(job, "PATIENCE", 0.0)
    with jobs.monkeypatch.context() as patch:
        patch.setattr(jobs, "monkeypatch", patch)
        watch(jobs, 45, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(RuntimeError, match="143"):
            jobs.train("a", *BLOCK, *more)
    assert jobs.output("a").with_suffix(".checkpoint").is_dir()
    jobs.train("a", *BLOCK, *more)
    assert "resumed at step 45 of 60" in capsys.readouterr().err
    assert {name: jobs.output(name).read_bytes() for name in ("a", "b")} == whole
    for name in ("a", "b"):
        same(jobs.output(name), jobs.output(name))


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    """As on a full disk; nothing is left of it, and it can be written later."""
    checkpoint, rows = Checkpoint(tmp_path, "key", "x"), torch.zeros(1, 1000, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"from-step-0+\.safetensors cannot be written: .* large"):
            checkpoint.add(rows, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    checkpoint.add(rows, {})
    assert checkpoint.step == 1000


@pytest.mark.slow
def test_a_killed_snakemake_s_training_ends_and_goes_on(tmp_path: Path) -> None:
    folder = copy_repository(tmp_path)
    block = "results/test/runs/nominal/gamma-1e2/seeds-002-002"
    words = *SMALL, "--config", "training={'epochs': 400}", "--cores", "1", f"{block}.parquet"
    files = {suffix: folder / f"{block}.{suffix}" for suffix in ("parquet", "lock", "checkpoint")}
    running = subprocess.Popen(
        [sys.executable, "-m", "snakemake", *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: any(files["checkpoint"].glob("from-*")))
    assert files["lock"].exists()
    running.kill()
    running.wait()
    until(lambda: not files["lock"].exists())
    assert not files["parquet"].exists()
    said = (folder / "results/test/logs/train/nominal/gamma-1e2/seeds-002-002.log").read_text()
    assert "SIGHUP: ended at step" in said

    assert snakemake(*words, "--unlock", cwd=folder).returncode == 0
    made = []
    for _ in range(2):
        done = snakemake(*words, cwd=folder)
        assert done.returncode == 0, done.stdout
        made.append(files["parquet"].read_bytes())
        written = json.loads(files["parquet"].with_suffix(".json").read_text())
        assert len(written["processes"]) == 3 - len(made)  # two, then one that was not disturbed
        assert not files["checkpoint"].exists()
        files["parquet"].unlink()
    assert made[0] == made[1]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    """100 MB of rows pass through a process that grows by less than a quarter of it."""
    code = f"""
import resource, torch
from pathlib import Path
from equireg.training.blocks import Blocks
from equireg.training.checkpoint import Checkpoint
from equireg.training.recorder import Recorder

folder, steps = Path({str(tmp_path)!r}), 500_000
checkpoint = Checkpoint(folder, "", "")
blocks = Blocks.of("nominal", [0.0], range(10))
made = {{"runs": {{}}}}
recorder = Recorder(blocks, [folder / "x"], ["a", "b", "c"], steps, checkpoint, made)
def run(times):
    for _ in range(times):
        recorder.add(torch.rand(10, 5_000, 5))
        recorder.save({{}})
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
run(5)
recorder.write(0, folder / "few.parquet", recorder.done)
before = peak()
run(95)
recorder.write(0, folder / "all.parquet", steps)
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert pq.ParquetFile(tmp_path / "all.parquet").metadata.num_rows == 5_000_000
    assert float(done.stdout) < 25
