"""Data sets of NumPy and safetensors files: what is taken, and what is refused, in a line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from equireg.data.arrays import checked
from equireg.dataset import load_dataset
from equireg.jobs.fetch import fetch
from equireg.plan import ARRAYS, data_files
from equireg.settings import DataSettings, NetworkSettings, SourceSettings

RANDOM = np.random.default_rng(0)
COLOUR: dict[str, np.ndarray] = {
    "train_images": RANDOM.integers(256, size=(6, 3, 8, 8), dtype=np.uint8),
    "train_labels": np.array([0, 1, 2, 0, 1, 2]),
    "test_images": RANDOM.integers(256, size=(3, 3, 8, 8), dtype=np.uint8),
    "test_labels": np.array([0, 2, 1]),
}
VECTORS: dict[str, np.ndarray] = {
    "train_images": RANDOM.standard_normal((6, 4)),
    "train_labels": RANDOM.standard_normal((6, 2)),
    "test_images": RANDOM.standard_normal((3, 4)),
    "test_labels": RANDOM.standard_normal((3, 2)),
}


def written(folder: Path, kind: str, arrays: dict[str, np.ndarray]) -> DataSettings:
    """The arrays as a user writes them."""
    if kind == "folder":
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
        return DataSettings("mine", str(folder))
    file = folder / f"mine.{kind}"
    if kind == "npz":
        np.savez(file, **arrays)  # type: ignore[arg-type]
    else:
        safetensors.numpy.save_file(arrays, file)
    return DataSettings("mine", file=str(file))


@pytest.mark.parametrize("kind", ["folder", "npz", "safetensors"])
def test_colour(kind: str, tmp_path: Path) -> None:
    """Whatever the file, the same bytes; classes of any integers become bytes."""
    data = written(tmp_path, kind, COLOUR)
    assert len(data_files(data)) == (4 if kind == "folder" else 1)
    output = tmp_path / "data/mine.safetensors"
    fetch(data, output, None)
    other = written(tmp_path, "npz", COLOUR)
    fetch(other, tmp_path / "data/other.safetensors", None)
    assert output.read_bytes() == (tmp_path / "data/other.safetensors").read_bytes()
    network = NetworkSettings(image_size=8, image_channels=3, classes=3)
    dataset = load_dataset(output, network)
    assert np.array_equal(dataset.train_images, COLOUR["train_images"])
    assert np.array_equal(dataset.test_labels, COLOUR["test_labels"])
    with pytest.raises(ValueError, match=r"3 channels of 8x8 pixels; expected 1 .*image_channels"):
        load_dataset(output, NetworkSettings(image_size=8, classes=3))


def test_grey_images_need_no_axis_of_channels(tmp_path: Path) -> None:
    grey = {name: a[:, 0] if "images" in name else a for name, a in COLOUR.items()}
    fetch(written(tmp_path, "npz", grey), tmp_path / "d.safetensors", None)
    found = load_dataset(tmp_path / "d.safetensors", NetworkSettings(image_size=8, classes=3))
    assert np.array_equal(found.train_images[:, 0], COLOUR["train_images"][:, 0])


def test_a_small_test_set_may_lack_a_class(tmp_path: Path) -> None:
    arrays = COLOUR | {"test_labels": np.array([1, 2, 1])}
    fetch(written(tmp_path, "npz", arrays), tmp_path / "d.safetensors", None)
    found = load_dataset(
        tmp_path / "d.safetensors", NetworkSettings(image_size=8, image_channels=3, classes=3)
    )
    assert found.test_labels.tolist() == [1, 2, 1]


def test_numbers_are_for_networks_of_ones_own(tmp_path: Path) -> None:
    fetch(written(tmp_path, "npz", VECTORS), tmp_path / "d.safetensors", None)
    found = load_dataset(tmp_path / "d.safetensors", NetworkSettings(build="mine.py:network"))
    assert np.array_equal(found.train_labels, VECTORS["train_labels"].astype(np.float32))
    with pytest.raises(ValueError, match=r"test_images are float32 numbers; expected pixels"):
        load_dataset(tmp_path / "d.safetensors", NetworkSettings())


def test_masks(tmp_path: Path) -> None:
    masks = {n: np.zeros((len(a), 1, 8, 8)) if "labels" in n else a for n, a in COLOUR.items()}
    fetch(written(tmp_path, "npz", masks), tmp_path / "d.safetensors", None)
    found = load_dataset(tmp_path / "d.safetensors", NetworkSettings(build="mine.py:network"))
    assert found.test_labels.shape == (3, 1, 8, 8)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train_images", None, "has no train_images; it holds test_images, test_labels, train_lab"),
        ("test_images", np.zeros((3, 3, 8, 8), np.int64), "test_images: int64 (3, 3, 8, 8); accep"),
        ("test_images", np.zeros((3, 8, 8, 3), np.uint8), "square, channels before the pixels"),
        ("test_images", np.zeros((3, 1, 8, 8), np.uint8), "of 8x8 pixels; expected 3 channels of "),
        ("test_images", np.zeros((3, 3, 8, 8)), "3x8x8 float32 numbers; expected 3 channels of 8x"),
        ("test_images", np.zeros((0, 3, 8, 8), np.uint8), "0 images of 8x8"),
        ("test_labels", np.array([0, 1]), "test_labels: 2 labels; expected 3"),
        ("train_labels", np.arange(1, 7), "the smallest label is 1; accepted: labels that start"),
        ("test_labels", np.array([0, 1, 256]), "test_labels: a label is 256; accepted: 0 to 255"),
        ("test_labels", np.array([0, 1, -1]), "test_labels: a label is -1; accepted: 0 to 255"),
        ("test_labels", np.array([0, 0.5, 1]), "float64 (3,); accepted: classes, (count,) of inte"),
        ("test_labels", np.zeros((3, 1), int), "int64 (3, 1); accepted: classes"),
        ("test_labels", np.zeros((3, 2)), "labels of 2 float32 numbers; expected classes"),
        ("train_labels", np.full((6, 2), np.nan), "train_labels: [0, 0] is nan; accepted: finite"),
        ("train_labels", np.full((6, 1), 1e300), "train_labels: [0, 0] is 1e+300; accepted: fini"),
        ("test_labels", np.array(["a", "b", "c"]), "<U1 (3,); accepted: classes"),
    ],
)
def test_what_is_refused(name: str, array: np.ndarray | None, message: str, tmp_path: Path) -> None:
    arrays = {n: a for n, a in {**COLOUR, name: array}.items() if a is not None}
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        fetch(written(tmp_path, "npz", arrays), tmp_path / "data/d.safetensors", None)
    assert "\n" not in str(error.value)
    assert "correct it (data: file: in config.yaml)" in str(error.value)
    assert not (tmp_path / "data").exists()


class Harmful:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_nothing_is_unpickled(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {**COLOUR, "test_labels": np.array([Harmful()] * 3, object)}
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        fetch(written(tmp_path, kind, arrays), tmp_path / "data/d.safetensors", None)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4no zip", b"text", b"\x93NUMPY\1\0"])
@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_a_damaged_file(content: bytes, ending: str, tmp_path: Path) -> None:
    file = tmp_path / f"mine.{ending}"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"mine.{ending}: cannot be read \(") as error:
        fetch(DataSettings("mine", file=str(file)), tmp_path / "data/d.safetensors", None)
    assert "\n" not in str(error.value)


def test_one_array_instead_of_four(tmp_path: Path) -> None:
    with (tmp_path / "mine.npz").open("wb") as file:
        np.save(file, COLOUR["train_images"])
    with pytest.raises(ValueError, match="has no train_images; it holds mine; accepted"):
        fetch(DataSettings("mine", file=str(tmp_path / "mine.npz")), tmp_path / "d.st", None)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file: "):
        fetch(DataSettings("mine", file=str(tmp_path / "no.npz")), tmp_path / "d.st", None)
    np.save(tmp_path / "train_images.npy", COLOUR["train_images"])
    with pytest.raises(ValueError, match=r"has no train_labels; it holds train_images"):
        fetch(DataSettings("mine", str(tmp_path)), tmp_path / "d.st", None)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"folder": "a", "file": "b.npz"}, "accepted with data.folder: null"),
        ({"file": "b.csv"}, "file is 'b.csv'; accepted: files that end in .npz or .safetensors"),
        ({"file": "{b}.npz"}, "without { and }"),
    ],
)
def test_settings(chosen: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SourceSettings("mine", **chosen)


def test_equal_arrays_are_stored_alike_whatever_their_layout() -> None:
    names = {name: name for name in ARRAYS}
    turned = {name: np.asfortranarray(array) for name, array in COLOUR.items()}
    found = checked(turned, names, "here")
    assert all(array.flags.c_contiguous for array in found.values())


def test_the_readmes_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(import numpy.*?savez.*?)^```", text, re.M | re.S)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    (name,) = re.findall(r"file: (\w+\.npz)", text)
    fetch(DataSettings("bars", file=name), tmp_path / "bars.safetensors", None)
    network = NetworkSettings(image_size=12, image_channels=3, classes=2)
    assert len(load_dataset(tmp_path / "bars.safetensors", network).train_images) == 1000
