"""A copy of the repository for tests that run the workflow, and Snakemake in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = (
    *("Snakefile", "config.yaml", "workflow", "profiles", "slurm", "envs", "src"),
    *("tests/data", "examples/networks"),
)
SMALL = ("--configfile", "workflow/presets/test.yaml")
SUFFIXES = (
    "parquet",
    "safetensors",
    "json",
    "function.parquet",
    "evaluation.parquet",
)  # of a block
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    "COLUMNS": "200",
}


def tracked() -> list[str]:
    """The files that git has or would take, as paths below the root."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone")
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True, text=True)
    names = {name for name in done.stdout.split("\0") if name}
    return sorted(name for name in names if (ROOT / name).is_file())


def copy_repository(to: Path) -> Path:
    """What the workflow needs of the repository, in a folder of its own."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, to / part, ignore=ignored)
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / part, to / part)
    return to


def snakemake(
    *words: str, cwd: Path, environment: Mapping[str, str] = ENVIRONMENT, timeout: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run Snakemake as a user would, with this environment's commands on the path."""
    return subprocess.run(
        [sys.executable, "-m", "snakemake", *words],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=timeout,
    )


def wait_for(file: Path, seconds: float = 60) -> None:
    """Return once the file is there."""
    end = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < end, file
        time.sleep(0.01)
