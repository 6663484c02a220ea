"""Where a result came from."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from equireg import __version__

LIBRARIES = ("torch", "numpy", "pyarrow", "safetensors")


def provenance() -> dict[str, Any]:
    """Version of equireg, commit of its checkout, versions of Python and of the libraries, machine.

    They inform and bind nothing: a file whose bytes must not depend on them has none of them.
    """
    return {
        "equireg": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "machine": {"system": platform.system(), "processor": processor()},
    }


def commit() -> str | None:
    """The commit of the checkout that this code is in, ``-dirty`` where files differ from it.

    None outside a checkout, or without git.
    """
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's model name where the system tells it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.machine()
