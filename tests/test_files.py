"""Files that are whole or absent, and random numbers that depend on seed and role alone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from equireg.files import atomic, remove_temporaries, write_json, write_text
from equireg.randomness import generator


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "x.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "one" / "two" / "x.txt", "text")
    assert (tmp_path / "one" / "two" / "x.txt").read_text() == "text"


def test_a_full_disk_names_the_file_and_the_remedy_once(tmp_path: Path) -> None:
    """Also where one file is written while another is: the inner one is named."""

    def fill() -> None:
        with atomic(tmp_path / "outer"), atomic(tmp_path / "inner"):
            raise RuntimeError(f"writing failed: {os.strerror(errno.ENOSPC)}")

    with pytest.raises(OSError, match="make room and run the workflow again: ") as error:
        fill()
    assert error.value.errno == errno.ENOSPC
    assert str(error.value).count("make room") == 1
    assert str(tmp_path / "inner") in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses power may come up with the name and nothing in it."""
    path, flushed = tmp_path / "x.txt", []
    fsync = os.fsync

    def watched(handle: int) -> None:
        size = os.fstat(handle).st_size
        flushed.append((str(Path(f"/proc/self/fd/{handle}").readlink()), size, path.exists()))
        fsync(handle)

    monkeypatch.setattr("os.fsync", watched)
    write_text(path, "text")
    ((name, size, there),) = flushed
    assert (Path(name).parent, size, there) == (tmp_path, 4, False)
    assert Path(name) != path
    assert path.read_text() == "text"


def test_what_a_killed_process_left_is_removed_and_nothing_of_others(tmp_path: Path) -> None:
    """The names are those that ``atomic`` gives; a file of another name is another process's."""
    names = []
    for name in ("block.parquet", "block.evaluation.parquet", "block.safetensors", "a[b].parquet"):
        (tmp_path / name).touch()
        with atomic(tmp_path / name) as temporary:
            names.append(temporary.name)
    for name in names:
        (tmp_path / name).touch()
    before = set(tmp_path.iterdir())
    for name, left in zip(("block.parquet", "a[b].parquet"), (names[0], names[3]), strict=True):
        remove_temporaries(tmp_path / name)
        assert before - set(tmp_path.iterdir()) == {tmp_path / left}
        before.discard(tmp_path / left)


def test_the_next_one_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """Whoever it was that wrote; what is being written by another process stays."""
    table = tmp_path / "table.parquet"
    code = (
        "import os, signal, sys; from pathlib import Path; from equireg.files import atomic\n"
        "with atomic(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half'); print(temporary, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(table)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        half = Path(process.stdout.readline().decode().strip())
        write_text(table, "whole")
        assert half.read_text() == "half"
        process.kill()
    assert set(tmp_path.iterdir()) == {half, table}
    with atomic(table) as temporary:
        assert set(tmp_path.iterdir()) == {table, temporary}


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": 1, "a": [2]})
    (tmp_path / "y").write_text("")
    assert (tmp_path / "x.json").stat().st_mode == (tmp_path / "y").stat().st_mode
    assert (tmp_path / "x.json").read_text().startswith('{\n  "a"')


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_nothing_is_left_open_and_the_umask_is_as_before(tmp_path: Path) -> None:
    """Also of what another process left, and after an error."""
    path, before = tmp_path / "x.txt", os.umask(0o027)
    try:
        write_text(path, "first")
        held = len(list(Path("/proc/self/fd").iterdir()))
        (tmp_path / ".x.txt.abcdefgh.txt").write_text("left")
        write_text(path, "second")
        with pytest.raises(RuntimeError), atomic(path):
            raise RuntimeError
        assert len(list(Path("/proc/self/fd").iterdir())) == held
        assert list(tmp_path.iterdir()) == [path]
        assert os.umask(0o027) == 0o027
        assert path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_generators_depend_on_seed_and_role() -> None:
    def draw(seed: int, *role: str | int) -> np.ndarray:
        return generator(seed, *role).standard_normal(4)

    assert (draw(0, "weights") == draw(0, "weights")).all()
    assert (draw(0, "weights") != draw(1, "weights")).all()
    assert (draw(0, "weights", 1) != draw(0, "weights", 2)).all()
    assert (draw(0, "weights") != draw(0, "order")).all()


def test_generators_are_the_same_everywhere() -> None:
    """Pinned, so that another machine or version that draws other numbers is noticed."""

    def pinned() -> np.random.Generator:
        return generator(0, "pinned")

    normal = [-0.163013430937893, -0.4691363748838322, 1.5953160025722952]
    uniform = [-0.47310094336045383, -0.44895639034309354, -0.5320951771879929]
    assert generator(0, "augmentation", 0).integers(4, size=8).tolist() == [0, 2, 1, 1, 2, 0, 0, 1]
    assert np.allclose(pinned().standard_normal(3), normal, rtol=1e-14)
    assert np.allclose(pinned().uniform(-1, 1, 3), uniform, rtol=1e-14)
    assert pinned().permutation(8).tolist() == [6, 2, 0, 3, 7, 1, 4, 5]
