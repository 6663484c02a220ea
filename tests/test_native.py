"""C++ compiled for the machine at hand: cached, checked, and had in another way where one fails."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from equireg import native
from equireg.native import UnavailableError, library

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one function, with a cache and a folder for temporary files of its own."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.delenv("CXX", raising=False)
    source = tmp_path / "answer.cpp"
    source.write_text('extern "C" int answer() { return ANSWER; }\n')
    return source


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def answer(source: Path, number: int = 42) -> int:
    value = library(source, {"ANSWER": number}).answer()
    assert isinstance(value, int)
    return value


def kept(tmp_path: Path) -> list[Path]:
    """The libraries in the cache and in the folder that stands in for it."""
    return sorted(tmp_path.glob("*/equireg*/*.so"))


@needs_compiler
def test_defines_are_part_of_what_is_kept(source: Path, tmp_path: Path) -> None:
    assert [answer(source), answer(source, 43), answer(source)] == [42, 43, 42]
    files = kept(tmp_path)
    assert len(files) == 2
    folder = tmp_path / "cache" / "equireg"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(file.parent == folder for file in files)
    assert not list(folder.glob(".*"))  # no temporary file stays
    before = files[0].stat()
    answer(source)
    assert files[0].stat() == before


@needs_compiler
def test_each_kind_of_processor_has_its_own(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes of a cluster may share a home."""
    for features in (b"flags : sse2", b"flags : sse2 avx2", b"flags : sse2"):
        monkeypatch.setattr(native, "processor_features", lambda features=features: features)
        assert answer(source) == 42
    assert len(kept(tmp_path)) == 2


@needs_compiler
@pytest.mark.parametrize("damage", ["library cut", "a byte of the sum", "sum removed"])
def test_what_is_damaged_is_compiled_anew(damage: str, source: Path, tmp_path: Path) -> None:
    answer(source)
    (file,) = kept(tmp_path)
    check, whole = file.with_suffix(".sha256"), file.read_bytes()
    if damage == "library cut":
        file.unlink()  # not written over: it is mapped into this process
        file.write_bytes(whole[: len(whole) // 2])
        file.chmod(0o700)
    elif damage == "a byte of the sum":
        check.write_bytes(b"\xff" + check.read_bytes()[1:])
    else:
        check.unlink()
    assert answer(source) == 42
    assert file.read_bytes() == whole
    assert check.read_bytes() == native.checksum(whole)


@needs_compiler
def test_a_planted_library_is_not_loaded(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that others could write, or wrote, is compiled anew though its sum is right."""
    answer(source)
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    planted = native.built(source, ["c++", *native.FLAGS, "-DANSWER=13"], tmp_path).read_bytes()
    for mode in (0o720, 0o702):
        file.unlink()
        file.write_bytes(planted)
        file.with_suffix(".sha256").write_bytes(native.checksum(planted))
        file.chmod(mode)
        assert answer(source) == 42
        assert file.read_bytes() == whole
        assert file.stat().st_mode & 0o777 == 0o700


@needs_compiler
@pytest.mark.parametrize("refused", ["writable by others", "a file", "another owner"])
def test_a_folder_that_is_not_private_is_passed_over(
    refused: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache" / "equireg"
    folder.parent.mkdir()
    if refused == "a file":
        folder.touch()
    else:
        folder.mkdir()
        folder.chmod(0o777 if refused == "writable by others" else 0o700)
    if refused == "another owner":
        if os.getuid() != 0:
            pytest.skip("needs the right to give a folder away")
        os.chown(folder, 12345, -1)
    assert answer(source) == 42
    (file,) = kept(tmp_path)
    assert file.parent == tmp_path / "temporary" / f"equireg-{os.getuid()}"
    assert file.parent.stat().st_mode & 0o777 == 0o700
    if folder.is_dir():
        assert not list(folder.iterdir())


@needs_compiler
def test_a_link_of_another_user_is_not_followed(source: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("needs the right to give a link away")
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "cache").mkdir()
    link = tmp_path / "cache" / "equireg"
    link.symlink_to(tmp_path / "own")
    assert not native.suspicion(link)
    os.chown(link, 12345, -1, follow_symlinks=False)
    assert native.suspicion(link) == f"{link} belongs to another user"


@needs_compiler
def test_a_folder_from_which_nothing_may_be_run(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = ctypes.CDLL

    def refuse(name: str) -> ctypes.CDLL:
        if "/cache/" in name:
            raise OSError(f"{name}: failed to map segment from shared object")
        return load(name)

    monkeypatch.setattr("ctypes.CDLL", refuse)
    assert answer(source) == 42
    assert {file.parts[-3] for file in kept(tmp_path)} == {"cache", "temporary"}


@needs_compiler
@pytest.mark.parametrize("command", ["false", "exit 1", "[ $1 = --version ] || exit 1"])
def test_the_next_compiler_is_tried(
    command: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / "broken", command)
    monkeypatch.setenv("CXX", str(tmp_path / "broken"))
    assert answer(source) == 42


@needs_compiler
def test_a_compiler_with_options(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(name for name in ("c++", "g++", "clang++") if shutil.which(name))
    monkeypatch.setenv("CXX", f"{name} -DANSWER=7")
    assert library(source, {}).answer() == 7


@needs_compiler
def test_temporary_files_that_cannot_be_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    assert answer(source) == 42


def test_why_there_is_none(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UnavailableError, match=r"no C\+\+ compiler"):
        library(source, {})
    broken = tmp_path / "broken"
    complaints = "echo note: x >&2\necho error: no space left >&2"
    script(broken, f'[ "$1" = --version ] && exit 0\n{complaints}\nexit 1')
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(UnavailableError, match="broken failed: error: no space left") as raised:
        library(source, {})
    assert str(raised.value).count("no space left") == 1  # said once, though both folders failed
    assert not list(tmp_path.glob("*/equireg*/*"))
    for folder in ("cache/equireg", f"temporary/equireg-{os.getuid()}"):
        (tmp_path / folder).chmod(0o777)
    with pytest.raises(UnavailableError, match=r"others may write to .*; others may write to"):
        library(source, {})
