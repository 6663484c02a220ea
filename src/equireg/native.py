"""Libraries in C++, compiled for the processor at hand and kept in the user's cache.

A library runs as the user does, so only what the user alone can have written is loaded: folders and
files of other owners, or that others may write, are passed over.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC")


class UnavailableError(Exception):
    """Why something compiled cannot be had here."""


def library(
    source: Path, defines: Mapping[str, str | int], flags: Sequence[str] = ()
) -> ctypes.CDLL:
    """``source`` compiled with ``defines`` as macros, once per machine, and loaded.

    flags: what the compiler takes beside ``FLAGS``; the code is for the processor at hand unless
    they name another by -march or -mcpu. Where a compiler or a folder fails the next is tried.
    Raises UnavailableError, saying why, if none is left.
    """
    found = list(compilers())
    if not found:
        raise UnavailableError("there is no C++ compiler (c++, g++, clang++, or CXX)")
    given = [*flags, *(f"-D{name}={value}" for name, value in defines.items())]
    reasons = []
    for folder in folders():
        try:
            make_private(folder)
        except (OSError, UnavailableError) as error:
            reasons.append(str(error))
            continue
        for compiler in found:
            try:
                return ctypes.CDLL(str(built(source, [*compiler, *FLAGS, *given], folder)))
            except (OSError, UnavailableError) as error:
                reasons.append(str(error))
    raise UnavailableError("; ".join(dict.fromkeys(reasons)))


def compilers() -> Iterator[list[str]]:
    """The commands to try, in order: ``CXX`` of the environment, then the usual names."""
    seen = set()
    for text in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        name, *options = shlex.split(text) or [""]
        found = shutil.which(name) if name else None
        if found and (key := (os.path.realpath(found), *options)) not in seen:
            seen.add(key)
            yield [found, *options]


def folders() -> Iterator[Path]:
    """Where libraries may be kept, in order: the user's cache, a folder for temporary files.

    The second is for homes that cannot be written to, or from which nothing may be run.
    """
    with contextlib.suppress(RuntimeError):  # no home is known
        yield Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "equireg"
    with contextlib.suppress(OSError):  # there is no such folder
        yield Path(tempfile.gettempdir()) / f"equireg-{user()}"


def user() -> int:
    """Whose files are loaded; the same for everyone where the system does not tell users apart."""
    return os.getuid() if hasattr(os, "getuid") else 0


def make_private(folder: Path) -> None:
    """Make ``folder`` if it is missing. Raises UnavailableError if others may write to it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    if reason := suspicion(folder):
        raise UnavailableError(reason)


def suspicion(path: Path) -> str:
    """Why others may have written what is at ``path``; empty if they cannot."""
    if not hasattr(os, "getuid"):
        return ""
    for status in (path.lstat(), path.stat()):  # a symbolic link, and what it points to
        if status.st_uid != user():
            return f"{path} belongs to another user"
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others may write to {path}"
    return ""


def built(source: Path, command: Sequence[str], folder: Path) -> Path:
    """The library that ``command`` makes of ``source``, in ``folder``; compiled if it is missing.

    Raises UnavailableError if the compiler fails.
    """
    if not any(flag.startswith(("-march=", "-mcpu=")) for flag in command):
        arm = platform.machine() in ("arm64", "aarch64")
        command = [*command, "-mcpu=native" if arm else "-march=native"]
    version = run([command[0], "--version"], folder)
    key = [source.read_bytes(), version, *map(os.fsencode, command[1:]), processor_features()]
    digest = hashlib.sha256(b"|".join(key)).hexdigest()[:20]
    file = folder / f"{source.stem}-{digest}.so"
    check = file.with_suffix(".sha256")  # a damaged library would end the process
    if not whole(file, check):
        with temporary(file) as made:
            run([*command, str(source), "-o", str(made)], folder)
            content = made.read_bytes()
        with temporary(check) as made:
            made.write_bytes(checksum(content))
    return file


def whole(file: Path, check: Path) -> bool:
    """Whether ``file`` is there, is the user's own, and has the sum that ``check`` holds."""
    try:
        own = not suspicion(file) and not suspicion(check)
        return own and checksum(file.read_bytes()) == check.read_bytes()
    except OSError:
        return False


def checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()


@contextlib.contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A file that only the user may write and that takes ``path``'s place at the end."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    made = Path(name)
    try:
        yield made
        made.chmod(0o700)  # whatever the linker and the umask made of it
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def run(command: Sequence[str], folder: Path) -> bytes:
    """What a compiler prints; its own temporary files go to ``folder``.

    Raises UnavailableError if it fails.
    """
    environment = {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, capture_output=True, env=environment)
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {complaint(done.stderr)}")
    return done.stdout


def complaint(output: bytes) -> str:
    """The first line of a compiler's output that says what is wrong."""
    lines = output.decode(errors="replace").splitlines()
    return next((line for line in lines if "error" in line), lines[0] if lines else "no message")


def processor_features() -> bytes:
    """What the compiler's native code may use: nodes of one cluster may share a cache folder."""
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.processor().encode()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")
