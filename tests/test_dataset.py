"""The data set's file as training jobs map it."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from equireg.dataset import load_dataset
from equireg.jobs.fetch import fetch
from equireg.settings import DataSettings, NetworkSettings, SelectionSettings

DIGITS = Path(__file__).parent / "data/digits"
NETWORK = NetworkSettings(image_size=8)


def write(path: Path, **changes: np.ndarray | None) -> Path:
    """A small sound data set, with some arrays changed or left out."""
    arrays: dict[str, np.ndarray | None] = {
        "train_images": np.zeros((6, 1, 8, 8), np.uint8),
        "train_labels": np.arange(6, dtype=np.uint8),
        "test_images": np.zeros((3, 1, 8, 8), np.uint8),
        "test_labels": np.arange(3, dtype=np.uint8),
    }
    arrays |= changes
    save_file({name: array for name, array in arrays.items() if array is not None}, path)
    return path


def test_digits(tmp_path: Path) -> None:
    fetch(DataSettings("digits", str(DIGITS)), tmp_path / "digits.safetensors", None)
    dataset = load_dataset(tmp_path / "digits.safetensors", NetworkSettings())
    assert dataset.train_images.shape == (300, 1, 28, 28)
    assert dataset.test_images.shape == (200, 1, 28, 28)
    assert dataset.train_images.dtype == dataset.train_labels.dtype == torch.uint8
    assert dataset.train_labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert set(dataset.test_labels.tolist()) == set(range(10))
    assert dataset.train_images.max() == 255


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_file_is_mapped_and_never_written_to(tmp_path: Path) -> None:
    path = write(tmp_path / "d.safetensors")
    before = path.read_bytes()
    dataset = load_dataset(path, NETWORK)
    assert str(path) in Path("/proc/self/smaps").read_text()
    dataset.train_images.fill_(7)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (
            {"image_size": 12},
            "train images have 1 channels of 8x8 pixels; expected 1 of 12x12 (network: "
            "image_channels, image_size)",
        ),
        (
            {"image_channels": 3},
            "train images have 1 channels of 8x8 pixels; expected 3 of 8x8 (network: "
            "image_channels, image_size)",
        ),
        ({"classes": 5}, "a train label is 5; expected at most 4 (network: classes)"),
    ],
)
def test_settings_that_do_not_fit(chosen: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}$"):
        load_dataset(path, dataclasses.replace(NETWORK, **chosen))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_labels": np.full(3, 10, np.uint8)}, "a test label is 10; expected at most 9"),
        (
            {"test_images": np.zeros((3, 1, 9, 9), np.uint8)},
            "test images have 1 channels of 9x9 pixels",
        ),
        (
            {"train_images": np.zeros((6, 1, 8, 4), np.uint8)},
            "train images have 1 channels of 8x4 pixels",
        ),
        ({"train_labels": np.zeros(5, np.uint8)}, "6 train images and 5 labels"),
        (
            {"test_images": np.zeros((0, 1, 8, 8), np.uint8), "test_labels": np.zeros(0, np.uint8)},
            "0 test images and 0 labels",
        ),
        ({"test_labels": None}, "expected uint8 images"),
        ({"more": np.zeros(1, np.float32)}, "expected uint8 images"),
        ({"train_images": np.zeros((6, 1, 8, 8), np.float32)}, "float32"),
        ({"train_images": np.zeros((6, 8, 8), np.uint8)}, r"\(6, 8, 8\)"),
        (
            {"train_images": np.zeros((6, 3, 8, 8), np.uint8)},
            "train images have 3 channels of 8x8 pixels; expected 1 of 8x8",
        ),
    ],
)
def test_file_that_does_not_fit(
    changes: dict[str, np.ndarray | None], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "d.safetensors", **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset(path, NETWORK)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


def test_file_that_is_cut_off_or_no_data_set(tmp_path: Path) -> None:
    path = write(tmp_path / "d.safetensors")
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b"", b"<!DOCTYPE html>"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="remove it and fetch again"):
            load_dataset(path, NETWORK)


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="equireg fetch"):
        load_dataset(tmp_path / "d.safetensors", NETWORK)


def test_training_needs_no_downloader() -> None:
    script = (
        "import sys, equireg.dataset\n"
        "assert not {'requests', 'torchvision', 'equireg.jobs.fetch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(("validation", "held"), [(0.5, 3), (2, 2), (0.1, 1)])
def test_validation_images_are_not_trained_on(validation: float, held: int, tmp_path: Path) -> None:
    path = write(tmp_path / "d.safetensors")
    whole = load_dataset(path, NETWORK)
    assert whole.validation_images is None
    found = load_dataset(path, NETWORK, SelectionSettings(validation=validation))
    assert found.validation_labels is not None
    assert found.validation_images is not None
    out, left = found.validation_labels.tolist(), found.train_labels.tolist()
    assert len(out) == len(found.validation_images) == held
    assert len(left) == len(found.train_images) == 6 - held
    assert sorted(out + left) == whole.train_labels.tolist()
    assert (out, left) == (sorted(out), sorted(left))  # each image's label is its number here
    assert torch.equal(found.test_labels, whole.test_labels)


def test_the_first_test_images_are_tested_on(tmp_path: Path) -> None:
    path = write(tmp_path / "d.safetensors")
    whole, found = (
        load_dataset(path, NETWORK),
        load_dataset(path, NETWORK, SelectionSettings(test_images=2)),
    )
    assert len(whole.test_labels) > 2
    assert torch.equal(found.test_images, whole.test_images[:2])
    assert torch.equal(found.test_labels, whole.test_labels[:2])
    assert torch.equal(found.train_images, whole.train_images)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"validation": 6}, "validation is 6, 6 of 6 training images; accepted: 1 to 5"),
        ({"validation": 0.01}, "validation is 0.01, 0 of 6 training images"),
        ({"train_images": 7}, "train_images is 7; accepted: at most 6, the training images"),
        ({"train_images": 5, "validation": 2}, "train_images is 5; accepted: at most 4"),
        ({"test_images": 100}, "test_images is 100; accepted: at most"),
    ],
)
def test_a_selection_of_more_than_there_are(
    chosen: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "d.safetensors")
    with pytest.raises(ValueError, match=message):
        load_dataset(path, NETWORK, SelectionSettings(**chosen))
