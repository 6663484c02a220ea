"""A full disk: every command says so, leaves no half file, and is done once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from equireg.plan import options
from equireg.settings import GridSettings
from experiment import DIGITS, Jobs
from synthetic import write_experiment

GRID = GridSettings(modes=("augmented", "nominal"), gammas=(1.0,), seeds="0-5", seeds_per_job=3)


class Disk:
    """A small file system of its own, in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def used(self) -> int:
        """Bytes in use, in whole pages."""
        found = os.statvfs(self.folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def resize(self, size: int) -> None:
        """Give it ``size`` bytes, rounded up to a page; 0 would be without a limit."""
        words = ["mount", "-o", f"remount,size={max(size, 1)}", str(self.folder)]
        subprocess.run(words, check=True)

    def files(self) -> dict[Path, bytes]:
        """What is on it, by paths relative to it."""
        paths = [path for path in self.folder.rglob("*") if path.is_file()]
        return {path.relative_to(self.folder): path.read_bytes() for path in paths}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """64 MB to begin with."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=64m", "equireg-test", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system (root)")
    yield Disk(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # errors hold files open


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    folder = tmp_path / "inputs"
    folder.mkdir()
    return Jobs(folder, monkeypatch)


def fetched(jobs: Jobs, disk: Path) -> list[object]:
    return [
        "fetch",
        "--name",
        "digits",
        "--folder",
        DIGITS,
        "--output",
        disk / "digits.safetensors",
    ]


def initialized(jobs: Jobs, disk: Path) -> list[object]:
    return ["initialize", "--seeds", "0-9", "--output", disk / "initial.safetensors", *jobs.network]


def trained(jobs: Jobs, disk: Path) -> list[object]:
    words = jobs.words("x", "augmented", "1e-2", "0-3", "--step", "reference")
    words[words.index(jobs.output("x"))] = disk / "runs" / "block.parquet"
    return words


def evaluated(jobs: Jobs, disk: Path) -> list[object]:
    if not jobs.output("y").exists():
        jobs.train("y", "nominal", "1e-2", "0-1", "--step", "reference")
    for suffix in (".parquet", ".safetensors"):
        shutil.copy(jobs.output("y").with_suffix(suffix), disk)
    files = ["--block", disk / jobs.output("y").name, "--data", jobs.data]
    return ["evaluate", *files, *jobs.network, "--step", "reference"]


def aggregated(jobs: Jobs, disk: Path) -> list[object]:
    if not (disk / "runs").exists():
        write_experiment(disk, GRID, 3000)
    return ["aggregate", "--experiment", disk, *options(GRID).split()]


def drawn(jobs: Jobs, disk: Path) -> list[object]:
    tables = jobs.folder / "made"
    if not tables.exists():
        write_experiment(tables, GRID, 3000)
        jobs.run("aggregate", "--experiment", tables, *options(GRID).split())
    inputs = [f"--{name}={tables / name}.parquet" for name in ("trajectories", "summary")]
    return ["draw", *inputs, *(f"--output={disk}/figure.{suffix}" for suffix in ("pdf", "png"))]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (fetched, [0.1, 0.5, 0.95]),
        (initialized, [0.1, 0.95]),
        (trained, [0.1, 0.5, 0.95]),
        (evaluated, [0.5]),
        (aggregated, [0.1, 0.5, 0.95]),
        (drawn, [0.6]),
    ],
    ids=["fetch", "initialize", "train", "evaluate", "aggregate", "draw"],
)
def test_a_full_disk(
    command: Callable[[Jobs, Path], list[object]], parts: list[float], jobs: Jobs, disk: Disk
) -> None:
    """With parts of the room that it needs; then with enough, to the same bytes."""
    words = command(jobs, disk.folder)
    before, used = disk.files(), disk.used()
    jobs.run(*words)
    whole, needed = disk.files(), disk.used() - used
    for name in whole.keys() - before.keys():
        (disk.folder / name).unlink()
    for part in parts:
        disk.resize(used + int(part * needed) - 4096)
        with pytest.raises(RuntimeError) as error:
            jobs.run(*words)
        (line,) = str(error.value).splitlines()
        assert line.startswith("equireg: [Errno 28] No space left on device; make room and run the")
        assert f"'{disk.folder}/" in line
        for name, content in disk.files().items():
            assert (
                content == whole.get(name)
                or name.suffix == ".json"
                or name.parent.suffix == ".checkpoint"
            )
    disk.resize(2**26)
    jobs.run(*words)
    found = disk.files()
    assert found.keys() == whole.keys()
    assert all(found[name] == whole[name] for name in found if name.suffix != ".json")
