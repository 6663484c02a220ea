"""The training step: gradient, penalty, the three modes, and independence of the block."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import REGULAR, SMALL, images, runs_of, steady
from equireg.settings import Mode, NetworkSettings, TrainingSettings
from equireg.training.batches import batches, turned
from equireg.training.network import Network
from equireg.training.schedules import along, constant, piecewise, risk_scale
from equireg.training.start import perturbations, start, start_runs
from equireg.training.step import Reference, Runs, training_step

IN_E = math.inf


def batch(runs: int, size: int = 6) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    inputs = torch.rand(runs, size, 1, 8, 8, dtype=torch.float64, generator=random)
    return inputs, torch.randint(5, (runs, size), generator=random)


def step(
    network: Network,
    runs: Runs,
    given: tuple[Tensor, Tensor],
    gamma: float,
    rate: float,
    scale: float,
) -> Tensor:
    """One step with the same penalty and rate for all runs."""
    gammas, rates = (torch.full((len(given[0]),), x, dtype=torch.float64) for x in (gamma, rate))
    return training_step(network, runs, *given, gammas, rates, scale)


@pytest.mark.parametrize("settings", [SMALL, REGULAR], ids=["trivial", "regular"])
@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_one_step_is_projected_gradient_descent_on_the_weights(
    mode: Mode, scale: float, settings: NetworkSettings
) -> None:
    """A <- A - lr Pi (scale grad R + gamma Pi_perp A), with Pi = Pi_E in the equivariant mode."""
    network, rate = Network.of(settings), 0.05
    gamma = IN_E if mode == "equivariant" else 0.3
    runs, given = runs_of(network, mode, [0, 1]), batch(2)
    before = runs.weights(network.spaces)

    leaves = {name: weight.clone().requires_grad_() for name, weight in before.items()}
    logits = network.forward(leaves, given[0])
    loss = torch.stack([F.cross_entropy(x, y) for x, y in zip(logits, given[1], strict=True)])
    gradients = dict(
        zip(leaves, torch.autograd.grad(loss.sum(), list(leaves.values())), strict=True)
    )
    recorded = step(network, runs, given, gamma, rate, scale)

    assert torch.allclose(recorded[:, 0], loss, rtol=1e-12)
    after = runs.weights(network.spaces)
    for name, space in network.spaces.items():
        if mode == "equivariant":
            direction = scale * space.project(gradients[name])
        else:
            penalty = gamma * space.project_complement(before[name])
            direction = scale * gradients[name] + penalty
        assert torch.allclose(after[name], before[name] - rate * direction, atol=1e-14)


def test_recorded_distances_are_those_before_the_update() -> None:
    network = Network.of(SMALL)
    runs = runs_of(network, "augmented", [0, 1])
    weights = runs.weights(network.spaces)
    recorded = step(network, runs, batch(2), 1.0, 0.1, 1.0)
    outside = [space.project_complement(weights[n]) for n, space in network.spaces.items()]
    per_layer = torch.stack([w.flatten(1).norm(dim=1) for w in outside], 1)
    assert torch.allclose(recorded[:, 2:], per_layer, rtol=1e-12)
    assert torch.allclose(recorded[:, 1], per_layer.norm(dim=1), rtol=1e-12)


def test_equivariant_runs_stay_in_e_exactly() -> None:
    network = Network.of(SMALL)
    runs = runs_of(network, "equivariant", [0])
    for _ in range(5):
        recorded = step(network, runs, batch(1), IN_E, 0.5, 1.0)
    assert (recorded[:, 1:] == 0).all()
    assert all((b == 0).all() for b in runs.complement.values())


def test_a_gamma_of_infinity_puts_a_run_into_e_and_leaves_the_others() -> None:
    """It is a mask: an infinite penalty times a part of 0 would be no number."""
    network = Network.of(SMALL)
    runs, alone = runs_of(network, "nominal", [0, 1]), runs_of(network, "nominal", [1])
    inputs, targets = batch(2)
    gammas = torch.tensor([IN_E, 0.5], dtype=torch.float64)
    rates = torch.full((2,), 0.1, dtype=torch.float64)
    for _ in range(2):
        recorded = training_step(network, runs, inputs, targets, gammas, rates, 1.0)
        one = step(network, alone, (inputs[1:], targets[1:]), 0.5, 0.1, 1.0)
    assert recorded.isfinite().all()
    assert (recorded[0, 1:] == 0).all()
    assert torch.allclose(recorded[1], one[0], rtol=1e-12)


def test_each_step_has_its_own_gamma_and_rate() -> None:
    """Released from E halfway: gamma infinity, then 0; and a rate that halves at each step."""
    network, pixels = Network.of(SMALL), images(6, 8)
    rows = torch.arange(6).view(1, 3, 2)
    gammas = torch.from_numpy(piecewise([(0, IN_E), (0.5, 0)])(torch.arange(3).numpy(), 3))[None]
    rates = torch.tensor([[0.2, 0.1, 0.05]], dtype=torch.float64)
    whole = Reference(network, runs_of(network, "nominal", [0]), pixels, 1.0)
    recorded = whole.advance(rows, rows % 5, gammas, rates)
    assert gammas.tolist() == [[IN_E, IN_E, 0.0]]
    assert recorded[0, :, 1].tolist()[1:] == [0.0, 0.0]
    assert whole.distances()[0, 0] > 0

    single = runs_of(network, "nominal", [0])
    for k in range(3):
        given = pixels[rows[:, k]].double() / 255, rows[:, k] % 5
        step(network, single, given, float(gammas[0, k]), float(rates[0, k]), 1.0)
    for name, weight in single.weights(network.spaces).items():
        assert torch.allclose(weight, whole.weights()[name], rtol=1e-12)


def test_penalty_alone_shrinks_the_distance_by_one_minus_lr_gamma() -> None:
    network = Network.of(SMALL)
    runs = runs_of(network, "augmented", [0])
    start_distance = runs.distances()
    step(network, runs, batch(1), 2.0, 0.1, 0.0)
    assert torch.allclose(runs.distances(), start_distance * (1 - 0.1 * 2.0), rtol=1e-12)


def test_runs_of_a_block_do_not_see_each_other() -> None:
    network = Network.of(SMALL)
    together, alone = runs_of(network, "nominal", [3, 4, 5]), runs_of(network, "nominal", [4])
    inputs, targets = batch(3)
    for _ in range(3):
        many = step(network, together, (inputs, targets), 0.1, 0.1, 1.0)
        one = step(network, alone, (inputs[1:2], targets[1:2]), 0.1, 0.1, 1.0)
        assert torch.allclose(many[1], one[0], rtol=1e-12)


def test_modes_of_a_seed_share_the_equivariant_start() -> None:
    network = Network.of(SMALL)
    equivariant, augmented, nominal = (
        runs_of(network, mode, [0, 1]) for mode in ("equivariant", "augmented", "nominal")
    )
    for name in network.spaces:
        for runs in (augmented, nominal):
            assert torch.equal(runs.equivariant[name], equivariant.equivariant[name])
            assert (runs.complement[name] != 0).any()
        assert (augmented.complement[name] != nominal.complement[name]).any()


def test_exact_augmentation_takes_the_mean_gradient_over_the_group() -> None:
    """One step on every turn of each image, through the batches, against the mean of the turns."""
    network, rate = Network.of(SMALL), 0.1
    pixels = torch.arange(6 * 64).mul(37).remainder(256).to(torch.uint8).view(6, 1, 8, 8)
    labels = torch.arange(6).remainder(5)
    training = TrainingSettings(batch_size=6, epochs=1, augmentation="exact")
    ((rows, classes),) = batches(network.group, "augmented", [0], labels, training, 1)
    exact = runs_of(network, "augmented", [0])
    before = exact.weights(network.spaces)
    trainer = Reference(network, exact, turned(pixels, network.group.elements), 1.0)
    trainer.advance(rows, classes, *steady(rows, [0.0], rate))
    mean = {name: torch.zeros_like(weight) for name, weight in before.items()}
    for k in range(4):
        runs = runs_of(network, "augmented", [0])
        inputs = torch.rot90(pixels, k, (2, 3))[None].double() / 255
        step(network, runs, (inputs, labels[None]), 0.0, rate, 1.0)
        for name, weight in runs.weights(network.spaces).items():
            mean[name] += (weight - before[name]) / 4
    for name, weight in exact.weights(network.spaces).items():
        assert torch.allclose(weight - before[name], mean[name], atol=1e-13)


def test_relative_noise_is_as_large_as_the_layer_s_weights() -> None:
    """Layer by layer and run by run; absolute noise is not."""
    network = Network.of(NetworkSettings(channels=(8, 8)))
    weights = {
        name: torch.stack([scale * w for scale in (1.0, 10.0)])
        for name, w in network.initial(0, "gaussian").items()
    }
    for unit, ratio in (("absolute", 1.0), ("relative", 10.0)):
        noise = perturbations(network.spaces, weights, "nominal", [3, 3], 0.5, unit)  # type: ignore[arg-type]
        for name, own in noise.items():
            assert own.shape == weights[name].shape
            assert torch.allclose(own[1], ratio * own[0])
            if unit == "relative":
                sizes = [x[0].square().mean().sqrt() for x in (own, weights[name].double())]
                assert float(sizes[0]) == pytest.approx(0.5 * float(sizes[1]), rel=0.4)


def test_the_risk_is_the_mean_or_divided_by_the_batch_once_more() -> None:
    assert risk_scale(TrainingSettings(risk_scale="mean", batch_size=8)) == 1
    assert risk_scale(TrainingSettings(risk_scale="batch", batch_size=8)) == 1 / 8


def test_schedules_are_values_of_runs_and_steps() -> None:
    ramp = piecewise([(0, 0.5), (1, 2.0)])
    found = along([constant(3.0), ramp], copies=2, first=50, count=2, total=100)
    expected = torch.tensor([[3.0, 3.0], [1.0, 0.5 * 4**0.51]])
    assert torch.allclose(found, expected.repeat_interleave(2, 0))


@pytest.mark.parametrize(
    "knots", [[], [(0.1, 1)], [(0, 1), (0, 2)], [(0, 1), (0.5, 1), (0.5, 2)], [(0, 1), (1.5, 1)]]
)
def test_knots_that_are_none_are_refused(knots: list[tuple[float, float]]) -> None:
    with pytest.raises(ValueError, match=r"accepted: \(share, value\), shares ascending from 0"):
        piecewise(knots)
    assert piecewise([(0, 0.5)])(np.array([7]), 10).tolist() == [0.5]


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_initial_weights_are_in_e_but_for_rounding(size: float) -> None:
    """Relative to their norm, whatever that is."""
    network = Network.of(SMALL)
    inside = {name: size * w[None] for name, w in network.initial(0, "gaussian").items()}
    runs = start_runs(network.spaces, inside, "equivariant", [0], 0.0)
    assert {len(a) for a in runs.equivariant.values()} == {1}
    name, space = next(iter(network.spaces.items()))
    outside = torch.ones(inside[name].shape).double()
    outside[..., 0, 0] = -3.0
    outside -= space.project(outside)
    for share, refused in ((1e-6, False), (1e-4, True), (0.5, True)):
        moved = inside[name].double()
        moved = moved + share * moved.norm() * outside / outside.norm()
        if refused:
            with pytest.raises(ValueError, match=f"the initial weights of {name} are"):
                start(network.spaces, {**inside, name: moved})
        else:
            start(network.spaces, {**inside, name: moved})
