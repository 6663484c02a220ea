"""Turned digits: which, by which angles, what lies between the pixels, and how many are upright."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from equireg.data.turned import rotated, turned
from equireg.jobs import fetch as job
from equireg.randomness import generator
from equireg.settings import SourceSettings

DIGITS = Path(__file__).parent / "data" / "digits"


@pytest.fixture
def mnist(tmp_path: Path) -> dict[str, np.ndarray]:
    return job.idx(SourceSettings("digits", str(DIGITS)), tmp_path / "d.st", None)


def test_sizes_and_classes(mnist: dict[str, np.ndarray]) -> None:
    """All 500 digits, none twice: so many of each class as there are; the same at each call."""
    found = rotated(mnist, train=300, test=200)
    assert found["train_images"].shape == (300, 1, 28, 28)
    assert found["test_images"].shape == (200, 1, 28, 28)
    assert {array.dtype for array in found.values()} == {np.dtype(np.uint8)}
    before, after = (
        np.bincount(np.concatenate([arrays["train_labels"], arrays["test_labels"]]))
        for arrays in (mnist, found)
    )
    assert np.array_equal(before, after)
    again = rotated(mnist, train=300, test=200)
    assert all(np.array_equal(found[name], again[name]) for name in found)


def bilinear(image: np.ndarray, angle: float) -> np.ndarray:
    """Each pixel of the turned image from the four about where it came from, about the centre."""
    side = len(image)
    padded = np.pad(image.astype(float), 1)
    middle, turned = (side - 1) / 2, np.zeros((side, side))
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    for i in range(side):
        for j in range(side):
            y = cosine * (i - middle) + sine * (j - middle) + middle
            x = -sine * (i - middle) + cosine * (j - middle) + middle
            if not (0 <= y <= side - 1 and 0 <= x <= side - 1):
                continue
            top, left = int(y), int(x)
            v, u = y - top, x - left
            square = padded[top + 1 : top + 3, left + 1 : left + 3]
            turned[i, j] = np.array([1 - v, v]) @ square @ np.array([1 - u, u])
    return turned


def test_turning_is_bilinear(mnist: dict[str, np.ndarray]) -> None:
    """As ``rotated`` turns: by the angles that it draws, of the images that it draws."""
    found = rotated(mnist, train=3, test=1)
    random = generator(0, "rotated-mnist")
    images = np.concatenate([mnist["train_images"], mnist["test_images"]])
    taken = random.permutation(500)[:4]
    angles = random.uniform(0, 360, 4)
    for image, angle, number in zip(found["train_images"], angles[:3], taken[:3], strict=True):
        expected = bilinear(images[number, 0], angle)
        assert abs(image[0].astype(float) - expected).max() <= 0.5 + 1e-9


def test_another_sum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mnist: dict[str, np.ndarray]
) -> None:
    sums = tmp_path / "sums.txt"
    sums.write_text(f"{'0' * 64}  rotated-mnist/rotated-mnist.safetensors\n")
    monkeypatch.setattr(job, "idx", lambda *_: mnist)
    data, output = SourceSettings("rotated-mnist"), tmp_path / "data/rotated-mnist.safetensors"
    with pytest.raises(ValueError, match=r"mnist.safetensors: expected SHA-256 0000.*SciPy"):
        job.fetch(data, output, sums)
    assert not output.exists()
    job.fetch(data, output, None)
    assert output.exists()


def test_the_list_has_its_sum() -> None:
    sums = job.listed_sums(DIGITS.parent.parent.parent / "workflow/checksums.txt", "rotated-mnist")
    assert set(sums) == {"rotated-mnist.safetensors"}


def test_a_share_of_the_digits_stays_upright(mnist: dict[str, np.ndarray]) -> None:
    """The same digits at every share: those upright at a smaller one are so at a larger one."""
    at = {share: turned(mnist, share, train=300, test=200) for share in (0.0, 0.25, 0.75, 1.0)}
    images = {s: np.concatenate([a["train_images"], a["test_images"]]) for s, a in at.items()}
    upright = images[1.0]
    for share, found in at.items():
        assert np.array_equal(found["train_labels"], at[1.0]["train_labels"])
        quarters = [
            np.flatnonzero([np.array_equal(np.rot90(x, k, (1, 2)), y) for k in range(4)])
            for x, y in zip(upright, images[share], strict=True)
        ]
        assert all(len(k) == 1 for k in quarters)  # a quarter turn, and which one can be seen
        counts = np.bincount(np.concatenate(quarters), minlength=4) / len(upright)
        expected = np.array([share, 0, 0, 0]) + (1 - share) / 4
        assert abs(counts - expected).max() < 0.07  # three standard deviations of 500 draws
        same = (images[share] == upright).all((1, 2, 3))
        assert (same >= (images[0.0] == upright).all((1, 2, 3))).all()
