"""The batches: which images, how they are turned, and what that depends on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from equireg.settings import Mode, TrainingSettings
from equireg.symmetry.groups import point_group
from equireg.training.batches import batches, elements, subsets, turned

COUNT, SIDE = 23, 4
IMAGES = torch.from_numpy(
    np.random.default_rng(0).integers(256, size=(COUNT, 1, SIDE, SIDE), dtype=np.uint8)
)
LABELS = torch.arange(COUNT, dtype=torch.uint8)


def collect(
    mode: Mode, seeds: list[int], chunk: int = 3, **chosen: object
) -> tuple[Tensor, Tensor]:
    training = TrainingSettings(batch_size=5, epochs=2, **chosen)  # type: ignore[arg-type]
    group = point_group("C4")
    parts = list(batches(group, mode, seeds, LABELS, training, chunk))
    assert all(len(labels[0]) <= chunk for _, labels in parts)
    rows, labels = (torch.cat(tensors, 1) for tensors in zip(*parts, strict=True))
    images = turned(IMAGES, elements(group, mode))[rows]
    return images, labels


def turn_of(image: Tensor, original: Tensor) -> int:
    return next(k for k in range(4) if torch.equal(torch.rot90(original, k, (1, 2)), image))


@pytest.mark.parametrize("mode", ["equivariant", "nominal"])
def test_file_order(mode: Mode) -> None:
    images, labels = collect(mode, [0, 7])
    assert images.shape == (2, 8, 5, 1, SIDE, SIDE)
    expected = torch.arange(20).view(4, 5).repeat(2, 1)  # four whole batches, the same each epoch
    assert torch.equal(labels, expected.expand(2, -1, -1))
    assert torch.equal(images, IMAGES[labels])


def test_augmentation_turns_each_image_by_its_own_element() -> None:
    images, labels = collect("augmented", [0, 1])
    turns = [
        turn_of(x, IMAGES[y]) for x, y in zip(images.flatten(0, 2), labels.flatten(), strict=True)
    ]
    assert set(turns) == {0, 1, 2, 3}
    per_run = np.array(turns).reshape(2, 2, -1)  # runs, epochs
    assert (per_run[0] != per_run[1]).any()
    assert (per_run[:, 0] != per_run[:, 1]).any()


def test_exact_augmentation_holds_every_turn() -> None:
    images, labels = collect("augmented", [0], augmentation="exact")
    assert images.shape == (1, 8, 20, 1, SIDE, SIDE)
    some, truth = images[0, 0].view(5, 4, 1, SIDE, SIDE), labels[0, 0].view(5, 4)
    for orbit, label in zip(some, truth, strict=True):
        assert len(set(label.tolist())) == 1
        assert {turn_of(x, IMAGES[label[0]]) for x in orbit} == {0, 1, 2, 3}


def test_shuffling_depends_on_the_seed_and_the_epoch_and_is_shared_by_the_modes() -> None:
    nominal = collect("nominal", [0, 1], order="shuffled")[1]
    augmented = collect("augmented", [0, 1], order="shuffled")[1]
    assert torch.equal(nominal, augmented)
    assert not torch.equal(nominal[0], nominal[1])
    assert not torch.equal(nominal[0, :4], nominal[0, 4:])
    assert all(len(set(epoch.flatten().tolist())) == 20 for epoch in nominal[0].split(4))


@pytest.mark.parametrize("order", ["file", "shuffled"])
def test_neither_block_nor_chunk_changes_a_run(order: str) -> None:
    together = collect("augmented", [2, 3, 4], chunk=3, order=order)
    alone = collect("augmented", [3], chunk=100, order=order)
    for many, one in zip(together, alone, strict=True):
        assert torch.equal(many[1], one[0])


@pytest.mark.parametrize("order", ["file", "shuffled"])
def test_a_subset_is_the_seeds_own_and_shared_by_the_modes(order: str) -> None:
    """In every epoch all of it, in the order of the file or shuffled; whatever the block."""
    training = TrainingSettings(batch_size=5, epochs=2, order=order)  # type: ignore[arg-type]

    def classes(mode: Mode, *seeds: int) -> Tensor:
        given = batches(point_group("C4"), mode, seeds, LABELS, training, 1, subset=10)
        return torch.cat([labels for _, labels in given], 1)

    nominal = classes("nominal", 0, 1)
    assert nominal.shape == (2, 4, 5)
    assert torch.equal(nominal, classes("augmented", 0, 1))
    assert torch.equal(nominal[1:], classes("nominal", 1))
    own = subsets([0, 1], COUNT, 10)
    for run, images in zip(nominal, own, strict=True):
        for epoch in run.view(2, 10):
            assert sorted(epoch.tolist()) == images.tolist()
            assert (epoch.tolist() == images.tolist()) == (order == "file")
    assert not torch.equal(*own)
    with pytest.raises(ValueError, match="at most 4, the training images"):
        next(batches(point_group("C4"), "nominal", [0], LABELS, training, 1, subset=4))


def test_numbers_stay_numbers() -> None:
    """What a regression is to say is no class."""
    targets = torch.rand(COUNT, 2)
    training = TrainingSettings(batch_size=5, epochs=1)
    rows, given = next(batches(point_group("C4"), "nominal", [0], targets, training, 9))
    assert torch.equal(given, targets[rows])


@pytest.mark.parametrize("augmentation", ["random", "exact"])
@pytest.mark.parametrize("first", [0, 2, 3, 4, 7, 8])
def test_a_later_first_step_leaves_out_those_before_it(first: int, augmentation: str) -> None:
    training = TrainingSettings(batch_size=5, epochs=2, order="shuffled", augmentation=augmentation)  # type: ignore[arg-type]
    every = list(batches(point_group("C4"), "augmented", [0, 1], LABELS, training, 1))
    later = list(batches(point_group("C4"), "augmented", [0, 1], LABELS, training, 1, first))
    for found, expected in zip(later, every[first:], strict=True):
        assert all(map(torch.equal, found, expected))


def test_a_group_of_two_turns_images_too() -> None:
    group, training = point_group("C2"), TrainingSettings(batch_size=10, epochs=1)
    rows, labels = next(batches(group, "augmented", [0], LABELS, training, 9))
    images = turned(IMAGES, elements(group, "augmented"))[rows]
    pairs = zip(images.flatten(0, 2), labels.flatten(), strict=True)
    assert {turn_of(image, IMAGES[label]) for image, label in pairs} == {0, 2}


def test_the_channels_of_an_image_turn_together() -> None:
    colours = torch.cat([IMAGES[:4], IMAGES[4:8], IMAGES[8:12]], 1)
    every = turned(colours, point_group("C4").elements).view(4, 4, 3, SIDE, SIDE)
    for image, turns in zip(colours, every, strict=True):
        assert all(torch.equal(turns[k], torch.rot90(image, k, (1, 2))) for k in range(4))
