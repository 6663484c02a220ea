"""Rotated MNIST: digits turned by angles of their own, from MNIST."""

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

    images = np.concatenate([mnist["train_images"], mnist["test_images"]])
    labels = np.concatenate([mnist["train_labels"], mnist["test_labels"]])
    random = generator(0, "rotated-mnist")
    taken = random.permutation(len(images))[: train + test]
    angles = random.uniform(0, 360, len(taken))
    turned = np.empty_like(images[taken])
    for i, (image, angle) in enumerate(zip(images[taken, 0], angles, strict=True)):
        exact = ndimage.rotate(image.astype(np.float64), angle, reshape=False, order=1)
        turned[i, 0] = np.rint(exact)
    return {
        "train_images": turned[:train],
        "train_labels": labels[taken[:train]],
        "test_images": turned[train:],
        "test_labels": labels[taken[train:]],
    }
