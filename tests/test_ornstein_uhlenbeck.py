"""The discrete Ornstein-Uhlenbeck process against the exact moments of linear systems."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from equireg.theory.ornstein_uhlenbeck import Slope, Stretch, knots, propagate

RATE, SCALE, BATCH = 0.01, 0.1, 10


@pytest.mark.parametrize("gamma", [0.0, 1e-2, 30.0, 100.0, 150.0, 200.0])
@pytest.mark.parametrize("steps", [1, 2, 37])
def test_an_interval_is_its_steps(gamma: float, steps: int) -> None:
    """Also where steps overshoot, lr gamma > 1, and where they swing for ever, lr gamma = 2."""
    stretch = Stretch.of(RATE, gamma, steps)
    y, moved, variance = 1.0, 0.0, 0.0
    for _ in range(steps):
        keep = 1 - RATE * gamma
        y, moved, variance = keep * y, keep * moved + RATE, keep**2 * variance + RATE**2
    assert stretch.kept == pytest.approx(y, rel=1e-12)
    assert stretch.push == pytest.approx(moved, rel=1e-12)
    assert stretch.noise == pytest.approx(variance, rel=1e-12)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 150.0])
def test_the_noise_of_an_interval_is_that_of_its_batches(gamma: float, exact: bool) -> None:
    """Whether or not a part of it comes with an estimated mean: of mean and draw, both C / n."""
    steps = 20
    images = 7 if exact else steps * BATCH
    stretch = Stretch.of(RATE, gamma, steps)
    one, none = np.ones((1, 1)), np.zeros((1, 1))
    drawn, brought = (
        propagate(none, none, Slope(mean, draw, images, exact), stretch, SCALE, BATCH)
        for mean, draw in ((none, one), (one, none))
    )
    variance = drawn**2 if exact else drawn**2 + brought**2
    assert variance / images == pytest.approx(SCALE**2 * stretch.noise / BATCH, rel=1e-12)


def test_halves_give_a_mean_and_an_independent_draw() -> None:
    """Both with covariance C / n, on gradients of independent images."""
    n, runs = 50, 4000
    each = np.random.default_rng(0).normal(3.0, 2.0, (runs, n))
    slope = Slope.of_halves(each[:, : n // 2].mean(1), each[:, n // 2 :].mean(1), n)
    np.testing.assert_allclose(slope.mean, each.mean(1))
    covariance = n * np.cov(slope.mean, slope.draw) / 4
    # The deviations of these estimates are sqrt(2 / runs) and sqrt(1 / runs).
    np.testing.assert_allclose(covariance, np.eye(2), atol=4 * np.sqrt(2 / runs))
    assert abs(slope.draw.mean()) < 4 * np.sqrt(4 / n / runs)


@pytest.mark.parametrize(("longest", "tolerance"), [(1, 1e-10), (5, 0.06)])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 20.0])
def test_moments_of_a_linear_system(gamma: float, longest: int, tolerance: float) -> None:
    """Mean and covariance of Y, stepwise and exact against ``propagate``, over 300 steps.

    Every noise source is sent through on its own: the process is linear, so that the covariance is
    the sum of what each unit of noise becomes. H has a negative eigenvalue; the largest, times the
    length of a stretch in lr scale, is 0.1: an explicit step of that length, off by about a half
    of it.
    """
    steps, dimension, images = 300, 3, 40
    random = np.random.default_rng(1)
    turn, _ = np.linalg.qr(random.normal(size=(dimension, dimension)))
    hessian = turn @ np.diag([-5.0, 1.0, 20.0]) @ turn.T
    root = random.normal(size=(dimension, dimension))  # of C
    slope, start = random.normal(size=(2, dimension))

    keep = (1 - RATE * gamma) * np.eye(dimension) - RATE * SCALE * hessian
    mean, covariance = start, np.zeros((dimension, dimension))
    for _ in range(steps):
        mean = keep @ mean - RATE * SCALE * slope
        covariance = keep @ covariance @ keep.T + (RATE * SCALE) ** 2 * root @ root.T / BATCH

    visited = list(knots(steps, longest))
    found = np.zeros((1 + dimension * (len(visited) - 1), dimension))
    found[0] = start
    for i, (here, there) in enumerate(itertools.pairwise(visited)):
        means, draws = np.zeros_like(found), np.zeros_like(found)
        means[0] = slope
        draws[1 + dimension * i : 1 + dimension * (i + 1)] = root.T / np.sqrt(images)
        found = propagate(
            found,
            found @ hessian,
            Slope(means, draws, images, exact=True),
            Stretch.of(RATE, gamma, there - here),
            SCALE,
            BATCH,
        )
    assert np.linalg.norm(found[0] - mean) < tolerance * np.linalg.norm(mean)
    summed = found[1:].T @ found[1:]
    assert np.linalg.norm(summed - covariance) < tolerance * np.linalg.norm(covariance)


def test_knots() -> None:
    visited = np.array(list(knots(60_000, 250)))
    assert visited[0] == 0
    assert visited[-1] == 60_000
    gaps = np.diff(visited)
    assert gaps.min() == 1
    assert gaps.max() == 250
    assert (gaps <= np.maximum(1, visited[:-1] // 4)).all()
    assert list(knots(0, 250)) == [0]
    assert list(knots(3, 1)) == [0, 1, 2, 3]
