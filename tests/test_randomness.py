"""Every random role has numbers of its own, the same always, for each seed, layer and epoch."""

from __future__ import annotations

import hashlib
import itertools
from types import SimpleNamespace

import numpy as np
import torch

from cases import SMALL
from equireg.jobs.predict import IMAGES, Prediction
from equireg.settings import MODES, Mode, TrainingSettings
from equireg.training.batches import batches
from equireg.training.network import Network
from equireg.training.start import perturbations

SEEDS = (0, 1)
# Of the first numbers, rounded. Another digest is other results: a line in CHANGELOG.md.
DIGEST = "f72ecd01018f1bdb0477c17d2c5c839981098a6790e5d369a47b2bf489fbd6eb"


def first_numbers() -> dict[str, list[float]]:
    """The first numbers of each role as trainings and predictions get them."""
    network, found = Network.of(SMALL), {}
    for seed in SEEDS:
        for law in ("gaussian", "uniform"):
            for layer, weight in network.initial(seed, law).items():
                found[f"weights, {law}, {layer}, {seed}"] = weight.flatten()[:9].tolist()
        for mode in MODES:
            for layer, noise in perturbations(network.spaces, {}, mode, [seed], 1.0).items():
                found[f"perturbation, {mode}, {layer}, {seed}"] = noise.flatten()[:9].tolist()
    labels = torch.zeros(40, dtype=torch.uint8)
    shuffled = TrainingSettings(order="shuffled", epochs=2, batch_size=40)
    free: tuple[Mode, ...] = "nominal", "augmented"
    for mode in free:
        given = batches(network.group, mode, SEEDS, labels, shuffled, 1)
        for epoch, (rows, _) in enumerate(given):
            for seed, row in zip(SEEDS, rows, strict=True):
                found[f"order, {mode}, epoch {epoch}, {seed}"] = row.flatten().tolist()
    prediction = Prediction.__new__(Prediction)
    prediction.twin = SimpleNamespace(  # type: ignore[assignment]
        labels=torch.zeros(1000, dtype=torch.uint8),
        training=TrainingSettings(),
        network=network,
        seeds=SEEDS,
        subset=None,
        own=None,
    )
    for mode, role, step in itertools.product(free, ("a", "b"), (0, 5)):
        prediction.mode = mode
        for seed, row in zip(SEEDS, prediction.sample(role, step, 8)[0], strict=True):
            found[f"prediction, {mode}, {role}, {step}, {seed}"] = row.tolist()
    return found


def test_no_two_roles_share_their_numbers() -> None:
    found = first_numbers()
    assert len(found) == 2 * (6 + 9) + 2 * 2 * 2 + 8 * 2
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        size = min(len(first), len(second))
        assert first[:size] != second[:size], (one, other)


def test_they_are_the_same_everywhere() -> None:
    told = "\n".join(
        f"{role}: {' '.join(f'{number:.5f}' for number in numbers)}"
        for role, numbers in sorted(first_numbers().items())
    )
    assert hashlib.sha256(told.encode()).hexdigest() == DIGEST, told


def test_a_nominal_prediction_has_the_noise_of_its_batches() -> None:
    """Two halves of as many images as the batches hold, and no image's draw in both."""
    counts: dict[str, int] = {}

    def sample(role: str, step: int, count: int) -> tuple[str, int]:
        counts[role] = count
        return role, step

    draws = {"first half": np.full((2, 3), 5.0), "second half": np.full((2, 3), 1.0)}
    prediction = Prediction.__new__(Prediction)
    prediction.mode = "nominal"
    prediction.gradient = None  # type: ignore[assignment]
    prediction.sample = sample  # type: ignore[assignment, method-assign]
    prediction.twin = SimpleNamespace(  # type: ignore[assignment]
        training=TrainingSettings(batch_size=10),
        outside=SimpleNamespace(gradient=lambda gradient, weights, role, step: draws[role]),
    )
    slope = prediction.slope({}, 30, 50)
    assert counts == {"first half": 100, "second half": 100}
    assert slope.images == 200
    assert (slope.mean == 3).all()
    assert (slope.draw == 2).all()
    assert not slope.exact
    prediction.mode = "augmented"
    draws["noise"] = np.full((2, 3), 7.0)
    slope = prediction.slope({}, 30, 50)
    assert counts["noise"] == slope.images == IMAGES
    assert (slope.mean == 0).all()
    assert (slope.draw == 7).all()
    assert slope.exact
