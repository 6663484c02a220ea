"""The environments: one lock file, conda's pins equal to it, and make."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hiding import needed, run

ROOT = Path(__file__).parent.parent
CONDA = sorted((ROOT / "envs").glob("*.yaml"))
JOBS = {  # the commands that each conda environment runs
    "data": ["fetch"],
    "theory": ["theory"],
    "training": ["initialize", "inspect", "train", "evaluate", "predict"],
    "tables": ["aggregate", "check"],
    "figures": ["draw", "compare", "overview", "score", "sweep"],
}


def locked(python: str) -> dict[str, str]:
    """The lock file's versions for a version of Python."""
    lines = (ROOT / "envs" / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    pins: dict[str, str] = {}
    for line in lines.splitlines():
        text = line.split(" --hash")[0].split("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(
            {"python_version": python, "python_full_version": f"{python}.0"}
        ):
            (pin,) = requirement.specifier
            assert pin.operator == "=="
            pins[canonicalize_name(requirement.name)] = pin.version
    return pins


def test_the_lock_file_has_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    wanted += [text for texts in extras.values() for text in texts]
    for python in ("3.11", "3.12", "3.13"):
        pins = locked(python)
        for text in wanted:
            requirement = Requirement(text)
            if requirement.name != "equireg":  # an extra within another
                assert pins[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("file", CONDA, ids=lambda file: file.stem)
def test_conda_has_the_versions_of_the_lock_file(file: Path) -> None:
    environment = yaml.safe_load(file.read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    python = next(text.removeprefix("python=") for text in conda if text.startswith("python="))
    pins = locked(python)
    for text in pip["pip"]:
        name, version = text.split("==")
        assert pins[canonicalize_name(name)] == version


@pytest.mark.parametrize("file", CONDA, ids=lambda file: file.stem)
def test_conda_has_every_library_that_its_jobs_import(file: Path) -> None:
    """Its jobs are imported where nothing else that is installed here can be.

    Imports at the top of modules, that is; those in functions are for one path.
    """
    environment = yaml.safe_load(file.read_text(encoding="utf-8"))
    there = needed(text.split("==")[0] for text in environment["dependencies"][-1]["pip"])
    assert not {"snakemake", "pytest"} & there
    modules = ["equireg.cli", *(f"equireg.jobs.{job}" for job in JOBS[file.stem])]
    done = run(f"import {', '.join(modules)}", there)
    assert done.returncode == 0, done.stderr


def test_each_rule_names_an_environment_for_its_command() -> None:
    for file in (ROOT / "workflow" / "rules").glob("*.smk"):
        rules = re.split(r"^rule ", file.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        for rule in rules:
            name = rule.split(":")[0]
            environment = re.search(r"\.\./\.\./envs/(\w+)\.yaml", rule)
            assert environment, name
            assert name in JOBS[environment[1]]


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")


def make(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    return subprocess.run(
        ["make", *words], cwd=cwd, capture_output=True, text=True, env=environment, timeout=60
    )


@needs_make
def test_make_help_has_a_line_for_each_target() -> None:
    said = make("help").stdout
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z]+):", text, flags=re.MULTILINE)
    assert targets
    assert [line.split()[0] for line in said.splitlines()] == targets
    assert make().stdout == said


@needs_make
@pytest.mark.parametrize("version", ["3.10.4", "2.7.18"])
def test_an_old_python_is_refused_in_one_line(tmp_path: Path, version: str) -> None:
    """An old Python is played by a script that answers as one would."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    old = tmp_path / "python-old"
    major, minor, _ = version.split(".")
    old.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'import sys; code = sys.argv[1]; "
        f'sys.version_info = ({major}, {minor}); sys.version = "{version} (main)"; '
        'exec(code)\' "$2"\n'
    )
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", cwd=tmp_path)
    assert done.returncode != 0
    first, *rest = done.stderr.splitlines()
    assert f"equireg: needs Python 3.11 or newer; {old} is {version}" in first
    assert all(line.startswith("make: ***") for line in rest)
    assert not (tmp_path / ".venv").exists()


@needs_make
def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/requirements.lock").touch()
    (tmp_path / "pyproject.toml").touch()
    done = make("setup", "PYTHON=python-none", cwd=tmp_path)
    assert done.returncode != 0
    assert "equireg: python-none is not installed" in done.stderr


@needs_make
@pytest.mark.slow
def test_packages_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers at the index; the next call begins again."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs/requirements.lock").write_text("numpy==1.0\n")
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for _ in range(2):
        done = make("setup", f"PYTHON={sys.executable}", cwd=tmp_path)
        assert done.returncode != 0
        *_, said, last = done.stderr.splitlines()
        assert said.startswith("equireg: not every package could be installed")
        assert last.startswith("make: ***")


@needs_make
def test_a_preset_that_is_not_there() -> None:
    done = make("figures", "CONFIG=typo.yaml")
    assert done.returncode != 0
    assert "equireg: CONFIG is typo.yaml; no such file here.  Stop." in done.stderr
    assert done.stdout == ""


@needs_make
def test_a_preset_s_path_may_have_spaces_and_quotes(tmp_path: Path) -> None:
    preset = tmp_path / "Anna's presets" / "mine.yaml"
    quoted = str(preset).replace("'", "'\\''")
    preset.parent.mkdir()
    preset.write_text("experiment: mine")
    for target in ("figures", "quick", "report", "theory", "status", "live"):
        done = make("-n", target, f"CONFIG={preset}")
        assert done.returncode == 0, done.stderr
        assert f"--configfile '{quoted}'" in done.stdout


@needs_make
def test_an_environment_s_path_may_not_have_spaces() -> None:
    done = make("help", "VENV=/my scratch/venv")
    assert done.returncode != 0
    assert "equireg: VENV is /my scratch/venv; accepted: a path without spaces" in done.stderr


@pytest.fixture
def pretended(tmp_path: Path) -> Path:
    """A checkout whose Python makes environments of nothing, and says what it was called with."""
    folder = tmp_path / "checkout"
    (folder / "envs").mkdir(parents=True)
    (folder / "envs/requirements.lock").touch()
    (folder / "pyproject.toml").touch()
    shutil.copy(ROOT / "Makefile", folder)
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\n[ "$1" = -m ] && [ "$2" = venv ] || exit 0\necho "called: $*"\n'
        'for last; do :; done\nmkdir -p "$last/bin" && ln -sf /bin/true "$last/bin/python"\n'
    )
    python.chmod(0o755)
    return folder


@needs_make
def test_a_folder_that_was_moved_gets_its_environment_anew(pretended: Path) -> None:
    """And only then: its commands have the old place in them."""
    python = f"PYTHON={pretended.parent / 'python'}"
    assert "called: -m venv .venv" in make("setup", python, cwd=pretended).stdout
    assert "called" not in make("setup", python, cwd=pretended).stdout
    moved = pretended.rename(pretended.with_name("renamed"))
    assert "called: -m venv --clear .venv" in make("setup", python, cwd=moved).stdout
    assert "called" not in make("setup", python, cwd=moved).stdout


@needs_make
@pytest.mark.parametrize("place", ["link", "elsewhere"])
def test_the_environment_may_lie_elsewhere(pretended: Path, tmp_path: Path, place: str) -> None:
    """Behind a link whose target is not there yet, or where VENV says."""
    python, scratch = f"PYTHON={tmp_path / 'python'}", tmp_path / "scratch" / "venv"
    if place == "link":
        (pretended / ".venv").symlink_to(scratch)
    more = [] if place == "link" else [f"VENV={scratch}"]
    done = make("setup", python, *more, cwd=pretended)
    assert done.returncode == 0, done.stderr
    assert (scratch / "bin/python").exists()
    assert (scratch / ".installed").read_text() == str(pretended)
