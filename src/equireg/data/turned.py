"""Digits of MNIST, turned: each by an angle of its own, or by quarter turns unless upright."""

from __future__ import annotations

import numpy as np

from equireg.data.arrays import Arrays
from equireg.randomness import generator

TRAIN, TEST = 12_000, 50_000  # images, as in the usual benchmark


def rotated(mnist: Arrays, train: int = TRAIN, test: int = TEST) -> Arrays:
    """Images of MNIST, none twice, each turned about its centre by an angle of its own.

    Which of the 70,000 images are taken is drawn at random, and so are the angles, uniformly from
    all; between pixels the image is bilinear, outside it 0; the result is rounded to bytes. The
    same draws for everybody. The usual file, of which only the sizes are taken, is another draw.
    """
    from scipy import ndimage  # a tenth of a second

    random = generator(0, "rotated-mnist")
    images, labels = drawn(mnist, random, train + test)
    angles = random.uniform(0, 360, len(images))
    turned = np.empty_like(images)
    for i, (image, angle) in enumerate(zip(images[:, 0], angles, strict=True)):
        exact = ndimage.rotate(image.astype(np.float64), angle, reshape=False, order=1)
        turned[i, 0] = np.rint(exact)
    return divided(turned, labels, train)


def turned(mnist: Arrays, upright: float, train: int = TRAIN, test: int = TEST) -> Arrays:
    """The same images, of which a share stays upright: the symmetry of C4, broken by so much.

    Of the others, each is turned by a quarter turn of its own, 0, 90, 180 or 270 degrees with equal
    probability. With no share upright the law of the images is invariant. The images and their
    turns are the same for every share; the larger one leaves more of them out.
    """
    random = generator(0, "turned-mnist")
    images, labels = drawn(mnist, random, train + test)
    quarters = random.integers(0, 4, len(images))
    quarters[random.uniform(size=len(images)) < upright] = 0
    moved = np.stack(
        [np.rot90(image, k, (1, 2)) for image, k in zip(images, quarters, strict=True)]
    )
    return divided(moved, labels, train)


def drawn(mnist: Arrays, random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """So many of all its images, none twice, with their labels."""
    images = np.concatenate([mnist["train_images"], mnist["test_images"]])
    labels = np.concatenate([mnist["train_labels"], mnist["test_labels"]])
    taken = random.permutation(len(images))[:count]
    return images[taken], labels[taken]


def divided(images: np.ndarray, labels: np.ndarray, train: int) -> Arrays:
    """The first so many to train on, the others to test on."""
    return {
        "train_images": images[:train],
        "train_labels": labels[:train],
        "test_images": images[train:],
        "test_labels": labels[train:],
    }
