"""A data set as training jobs see it: the file that ``fetch`` wrote, mapped into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Dataset:
    """Images (count, side, side) and labels (count,), uint8; pixels from 0 to 255."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_dataset(path: Path, image_size: int, classes: int) -> Dataset:
    """Map the data set's file into memory; jobs on one machine share its pages.

    Raises ValueError if the file is damaged or does not fit ``image_size`` and ``classes``.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data set; `python -m equireg fetch` writes it")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged data set ({error}); remove it and fetch again") from None
    expected = {"train_images": 3, "train_labels": 1, "test_images": 3, "test_labels": 1}
    found = {name: tensor.ndim for name, tensor in tensors.items() if tensor.dtype == torch.uint8}
    if found != expected or len(tensors) != len(expected):
        shapes = {name: (str(t.dtype), tuple(t.shape)) for name, t in sorted(tensors.items())}
        raise ValueError(
            f"{path}: holds {shapes}; expected uint8 images (N, H, H) and labels (N,), "
            "train and test, as fetch writes them"
        )
    for part in ("train", "test"):
        images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
        if images.shape[1:] != (image_size, image_size):
            raise ValueError(
                f"{path}: {part} images are {images.shape[1]}x{images.shape[2]} pixels; expected "
                f"{image_size}x{image_size} (network: image_size)"
            )
        if not len(images) == len(labels) > 0:
            raise ValueError(
                f"{path}: {len(images)} {part} images and {len(labels)} labels; expected as many, "
                "and at least one"
            )
        if (largest := int(labels.max())) >= classes:
            raise ValueError(
                f"{path}: a {part} label is {largest}; expected at most {classes - 1} "
                "(network: classes)"
            )
    return Dataset(**tensors)
