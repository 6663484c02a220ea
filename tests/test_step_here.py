"""Which step a machine takes is said before any training, by ``status`` and by ``step``."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from equireg import cli

COMMANDS = (["status"], ["step"])
LINE = "training here: the reference step, mostly several times slower, as "


def said(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr("sys.argv", ["equireg", *words])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert not leaving.value.code
    return capsys.readouterr().out.splitlines()[-1]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache of its own, and what was loaded before forgotten."""
    from equireg.training import compiled

    compiled.library.cache_clear()
    (tmp_path / "config.yaml").write_text("experiment: paper")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_compiler_is_enough(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(words, monkeypatch, capsys) == "training here: the step compiled for this machine"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_why_it_is_the_slow_one(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", "")
    assert said(words, monkeypatch, capsys).startswith(f"{LINE}there is no C++ compiler")
    monkeypatch.setenv("CXX", str(shutil.which("false", path="/bin:/usr/bin")))
    assert "false failed" in said(words, monkeypatch, capsys)
    (tmp_path / "file").touch()  # in the place of the folders for what would be compiled
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    line = said(words, monkeypatch, capsys)
    assert line.startswith(LINE)
    assert "File exists" in line


def test_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text("jobs: {step: reference, device: cpu}")
    line = said(["status"], monkeypatch, capsys)
    assert line == "training here: the reference step, as asked"
    monkeypatch.setenv("PATH", "")
    (tmp_path / "config.yaml").write_text("jobs: {step: compiled, device: cpu}")
    line = said(["status"], monkeypatch, capsys)
    assert line.startswith("training here: none, as jobs.step is 'compiled', but there is no C++")
