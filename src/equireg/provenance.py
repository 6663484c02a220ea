"""Where a result came from."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from equireg import __version__
from equireg.digest import source_digest

LIBRARIES = ("torch", "numpy", "pyarrow", "safetensors")


def provenance(*modules: str) -> dict[str, Any]:
    """Version and source of equireg, versions of Python and of the libraries, the machine.

    modules: those that made the result; ``source`` is the digest of their code.
    """
    return {
        "equireg": __version__,
        "source": source_digest(*modules),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "machine": {"system": platform.system(), "processor": processor()},
    }


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
