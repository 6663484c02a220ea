"""The training step: gradient, penalty, the three modes, and independence of the block."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.training.start import draw_equivariant
from equireg.training.start import perturbation
from equireg.settings import Mode, NetworkSettings, TrainingSettings
from equireg.training.batches import batches, turned
from equireg.training.network import Network
from equireg.training.step import Reference, Runs, training_step
from equireg.training.start import start

SMALL = NetworkSettings(image_size=8, channels=(3, 4), classes=5)


def block(network: Network, mode: Mode, seeds: list[int], gamma: float = 0.0) -> Runs:
    initial = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in seeds])
        for name, space in network.layers.items()
    }
    noise = None
    if mode != "equivariant":
        draws = [perturbation(network, mode, seed, 1e-1) for seed in seeds]
        noise = {name: torch.stack([draw[name] for draw in draws]) for name in network.layers}
    return start(network, initial, noise, [gamma] * len(seeds))


def batch(runs: int, size: int = 6) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(runs, size, 8, 8, dtype=torch.float64, generator=random)
    return images, torch.randint(5, (runs, size), generator=random)


@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_one_step_is_projected_gradient_descent_on_the_weights(mode: Mode, scale: float) -> None:
    """A <- A - lr Pi (scale grad R + gamma Pi_perp A), with Pi = Pi_E in the equivariant mode."""
    network, gamma, rate = Network(SMALL), 0.3, 0.05
    runs = block(network, mode, [0, 1], gamma)
    images, labels = batch(2)
    before = runs.weights(network)

    leaves = {name: weight.clone().requires_grad_() for name, weight in before.items()}
    logits = network.forward(leaves, images)
    loss = torch.stack([F.cross_entropy(x, y) for x, y in zip(logits, labels, strict=True)])
    gradients = dict(
        zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True)
    )
    recorded = training_step(network, runs, images, labels, rate, scale)

    assert torch.allclose(recorded[:, 0], loss, rtol=1e-12)
    after = runs.weights(network)
    for name, space in network.layers.items():
        if mode == "equivariant":
            direction = scale * space.project_equivariant(gradients[name])
        else:
            penalty = gamma * space.project_complement(before[name])
            direction = scale * gradients[name] + penalty
        assert torch.allclose(after[name], before[name] - rate * direction, atol=1e-14)


def test_recorded_distances_are_those_before_the_update() -> None:
    network = Network(SMALL)
    runs = block(network, "augmented", [0, 1], gamma=1.0)
    weights = runs.weights(network)
    recorded = training_step(network, runs, *batch(2), 0.1, 1.0)
    outside = [space.project_complement(weights[n]) for n, space in network.layers.items()]
    per_layer = torch.stack([w.flatten(1).norm(dim=1) for w in outside], 1)
    assert torch.allclose(recorded[:, 2:], per_layer, rtol=1e-12)
    assert torch.allclose(recorded[:, 1], per_layer.norm(dim=1), rtol=1e-12)


def test_equivariant_runs_stay_in_e_exactly() -> None:
    network = Network(SMALL)
    runs = block(network, "equivariant", [0])
    for _ in range(5):
        recorded = training_step(network, runs, *batch(1), 0.5, 1.0)
    assert (recorded[:, 1:] == 0).all()
    assert all((b == 0).all() for b in runs.complement.values())


def test_penalty_alone_shrinks_the_distance_by_one_minus_lr_gamma() -> None:
    network = Network(SMALL)
    runs = block(network, "augmented", [0], gamma=2.0)
    start_distance = runs.distances()
    training_step(network, runs, *batch(1), 0.1, 0.0)
    assert torch.allclose(runs.distances(), start_distance * (1 - 0.1 * 2.0), rtol=1e-12)


def test_runs_of_a_block_do_not_see_each_other() -> None:
    network = Network(SMALL)
    together, alone = block(network, "nominal", [3, 4, 5], 0.1), block(network, "nominal", [4], 0.1)
    images, labels = batch(3)
    for _ in range(3):
        many = training_step(network, together, images, labels, 0.1, 1.0)
        one = training_step(network, alone, images[1:2], labels[1:2], 0.1, 1.0)
        assert torch.allclose(many[1], one[0], rtol=1e-12)


def test_modes_of_a_seed_share_the_equivariant_start() -> None:
    network = Network(SMALL)
    equivariant, augmented, nominal = (
        block(network, mode, [0, 1]) for mode in ("equivariant", "augmented", "nominal")
    )
    for name in network.layers:
        for runs in (augmented, nominal):
            assert torch.equal(runs.equivariant[name], equivariant.equivariant[name])
            assert (runs.complement[name] != 0).any()
        assert (augmented.complement[name] != nominal.complement[name]).any()


def test_exact_augmentation_takes_the_mean_gradient_over_the_group() -> None:
    """One step on every turn of each image, through the batches, against the mean of the turns."""
    network, rate = Network(SMALL), 0.1
    pixels = torch.arange(6 * 64).mul(37).remainder(256).to(torch.uint8).view(6, 8, 8)
    labels = torch.arange(6).remainder(5)
    training = TrainingSettings(batch_size=6, epochs=1, augmentation="exact")
    ((rows, classes),) = batches(network.group, "augmented", [0], labels, training, 1)
    exact = block(network, "augmented", [0])
    before = exact.weights(network)
    Reference(network, exact, turned(pixels, network.group.elements), rate, 1.0).advance(
        rows, classes
    )
    mean = {name: torch.zeros_like(weight) for name, weight in before.items()}
    for k in range(4):
        runs = block(network, "augmented", [0])
        images = torch.rot90(pixels, k, (1, 2))[None].double() / 255
        training_step(network, runs, images, labels[None], rate, 1.0)
        for name, weight in runs.weights(network).items():
            mean[name] += (weight - before[name]) / 4
    for name, weight in exact.weights(network).items():
        assert torch.allclose(weight - before[name], mean[name], atol=1e-13)
