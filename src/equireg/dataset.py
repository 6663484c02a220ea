"""A data set as training jobs see it: the file that ``fetch`` wrote, mapped into memory."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from equireg.plan import ARRAYS
from equireg.randomness import generator
from equireg.settings import ALL_IMAGES, NetworkSettings, SelectionSettings

# What arrays of bytes are; numbers, of float32, may have any shape.
KINDS = {(torch.uint8, 4): "images", (torch.uint8, 1): "labels"}


@dataclass(frozen=True)
class Dataset:
    """Images (count, channels, side, side) and labels (count,), uint8; pixels from 0 to 255.

    Of a network of one's own they may be numbers of any shape, (count, ...) of float32.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    validation_images: Tensor | None = None  # held out of the training images
    validation_labels: Tensor | None = None


def load_dataset(
    path: Path, network: NetworkSettings, selection: SelectionSettings = ALL_IMAGES
) -> Dataset:
    """Map the data set's file into memory; jobs on one machine share its pages.

    selection: how many images are held out for validation and how many are tested on, and that
    there are as many as a run takes. Numbers are for a network of one's own (``build``), which says
    itself what it takes.
    Raises ValueError if the file is damaged or does not fit the network or the selection.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such data set; `python -m equireg fetch` writes it")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged data set ({error}); remove it and fetch again") from None
    found = {name: KINDS.get((tensor.dtype, tensor.ndim)) for name, tensor in tensors.items()}
    numbers = {name for name, tensor in tensors.items() if tensor.dtype == torch.float32}
    wrong = {n for n, kind in found.items() if n not in numbers and kind != n.partition("_")[2]}
    if found.keys() != set(ARRAYS) or wrong:
        shapes = {name: (str(t.dtype), tuple(t.shape)) for name, t in sorted(tensors.items())}
        raise ValueError(
            f"{path}: holds {shapes}; expected uint8 images (N, C, H, H) and labels (N,), "
            "train and test; remove it, and fetch writes it anew"
        )
    if numbers and not network.build:
        raise ValueError(
            f"{path}: {min(numbers)} are float32 numbers; expected pixels and classes of uint8: "
            "other data are for a network of your own"
        )
    for part in ("train", "test"):
        images, labels = tensors[f"{part}_images"], tensors[f"{part}_labels"]
        if not len(images) == len(labels) > 0:
            raise ValueError(
                f"{path}: {len(images)} {part} images and {len(labels)} labels; expected as many, "
                "and at least one"
            )
        if not numbers:
            check_fit(path, part, images, labels, network)
    return select(Dataset(**tensors), selection)


def select(dataset: Dataset, selection: SelectionSettings) -> Dataset:
    """The images that are trained and tested on, in the order of the file.

    The training images are divided at random, alike for all seeds.

    Raises ValueError where the selection takes more than there are, or holds out none or all.
    """
    count, share = len(dataset.train_labels), selection.validation
    held = round(share * count) if share < 1 else int(share)
    if share and not 0 < held < count:
        raise ValueError(
            f"validation is {share:g}, {held} of {count} training images; accepted: 1 to "
            f"{count - 1} (data: validation)"
        )
    if (selection.train_images or 0) > count - held:
        raise ValueError(
            f"train_images is {selection.train_images}; accepted: at most {count - held}, the "
            "training images that there are (data: train_images)"
        )
    if (tested := selection.test_images) is not None:
        there = len(dataset.test_labels)
        if tested > there:
            raise ValueError(
                f"test_images is {tested}; accepted: at most {there}, the test images that there "
                "are (data: test_images)"
            )
        images, labels = dataset.test_images[:tested], dataset.test_labels[:tested]
        dataset = dataclasses.replace(dataset, test_images=images, test_labels=labels)
    if not held:
        return dataset
    drawn = torch.from_numpy(generator(0, "validation").permutation(count))
    out, left = drawn[:held].sort().values, drawn[held:].sort().values
    return dataclasses.replace(
        dataset,
        train_images=dataset.train_images[left],
        train_labels=dataset.train_labels[left],
        validation_images=dataset.train_images[out],
        validation_labels=dataset.train_labels[out],
    )


def check_fit(
    path: Path, part: str, images: Tensor, labels: Tensor, network: NetworkSettings
) -> None:
    """Raise ValueError, naming what is to be changed, for images or classes of another network."""
    side, channels = network.image_size, network.image_channels
    if images.shape[1:] != (channels, side, side):
        raise ValueError(
            f"{path}: {part} images have {images.shape[1]} channels of {images.shape[2]}x"
            f"{images.shape[3]} pixels; expected {channels} of {side}x{side} (network: "
            "image_channels, image_size)"
        )
    if (largest := int(labels.max())) >= network.classes:
        raise ValueError(
            f"{path}: a {part} label is {largest}; expected at most {network.classes - 1} "
            "(network: classes)"
        )
