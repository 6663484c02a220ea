"""A data set as training jobs see it: the file that ``fetch`` wrote, mapped into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from equireg.settings import NetworkSettings


@dataclass(frozen=True)
class Dataset:
    """Images (count, channels, side, side) and labels (count,), uint8; pixels from 0 to 255."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def load_dataset(path: Path, network: NetworkSettings) -> Dataset:
    """Map the data set's file into memory; jobs on one machine share its pages.

    Raises ValueError if the file is damaged or does not fit the network.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data set; `python -m equireg fetch` writes it")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged data set ({error}); remove it and fetch again") from None
    expected = {"train_images": 4, "train_labels": 1, "test_images": 4, "test_labels": 1}
    found = {name: tensor.ndim for name, tensor in tensors.items() if tensor.dtype == torch.uint8}
    if found != expected or len(tensors) != len(expected):
        shapes = {name: (str(t.dtype), tuple(t.shape)) for name, t in sorted(tensors.items())}
        raise ValueError(
            f"{path}: holds {shapes}; expected uint8 images (N, C, H, H) and labels (N,), "
            "train and test; remove it, and fetch writes it anew"
        )
    for part in ("train", "test"):
        images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
        side, channels = network.image_size, network.image_channels
        if images.shape[1:] != (channels, side, side):
            raise ValueError(
                f"{path}: {part} images have {images.shape[1]} channels of {images.shape[2]}x"
                f"{images.shape[3]} pixels; expected {channels} of {side}x{side} (network: "
                "image_channels, image_size)"
            )
        if not len(images) == len(labels) > 0:
            raise ValueError(
                f"{path}: {len(images)} {part} images and {len(labels)} labels; expected as many, "
                "and at least one"
            )
        if (largest := int(labels.max())) >= network.classes:
            raise ValueError(
                f"{path}: a {part} label is {largest}; expected at most {network.classes - 1} "
                "(network: classes)"
            )
    return Dataset(**tensors)
