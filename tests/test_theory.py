"""The theory's statements at a small size, their parts against oracles, and that they can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from equireg.dataset import Dataset
from equireg.jobs.theory import theory
from equireg.randomness import generator
from equireg.settings import NetworkSettings, Support
from equireg.symmetry.representations import Representation
from equireg.tables import trajectory_table, write_table
from equireg.theory import cases, theorems, tube
from equireg.theory.facts import all_facts, fact_a, fact_b, lemma, unit, zero_directions
from equireg.theory.flows import SETTLED, descend, plateau, settle, swift_steps
from equireg.theory.measurement import Measurement, table
from equireg.theory.models import Model, convolutional, graphs, perceptron
from equireg.theory.report import report
from equireg.theory.risks import Risk
from equireg.theory.spectrum import ENDS, Block, block_operator, largest, smallest, spectrum
from equireg.theory.symmetry import projections, random_tensor, representations
from equireg.theory.theorems import (
    Settled,
    follow,
    level,
    remark_2,
    stationary,
    theorem_1,
    theorem_2,
    theorem_3,
)
from equireg.weights import save_weights

BLOCKS: dict[str, Block] = {"equivariant": "equivariant", "complement": "complement", "all": "all"}

# Of 8 x 8 images 2 x 2 pixels would be left, one orbit: normalized, their sum is 0.
SMALL = NetworkSettings(image_size=12, channels=(3, 4), classes=4)


def small_network(group: str = "C4", support: Support = "full") -> Model:
    settings = dataclasses.replace(
        SMALL, group=group, support=support, allow_incompatible_support=True
    )
    return convolutional(settings)


def small_risk(model: Model) -> Risk:
    random = generator(0, "test")
    if model.network == "perceptron":
        return Risk(model, *graphs(4, 16, seed=0))
    images = torch.from_numpy(random.random((12, 144)))
    return Risk(model, images, torch.from_numpy(random.integers(4, size=(12, 1))))


@pytest.fixture(scope="module")
def settled() -> Settled:
    """The perceptron of S_4 where its equivariant flow stands still; weight decay 0.005."""
    risk = dataclasses.replace(small_risk(perceptron(4, (2,), 2)), decay=5e-3)
    start = risk.coordinates.of(risk.model.start(0))
    return Settled.at(risk, "settled", settle(risk, start), longest=500)


MODELS: dict[str, tuple[str, Support] | None] = {
    "C4-full": ("C4", "full"),
    "C4-cross": ("C4", "cross"),
    "C4-lopsided": ("C4", "lopsided"),
    "D4-full": ("D4", "full"),
    "D2-lopsided": ("D2", "lopsided"),
    "perceptron": None,
}


@pytest.fixture(params=MODELS, ids=str)
def model(request: pytest.FixtureRequest) -> Model:
    chosen = MODELS[request.param]
    return small_network(*chosen) if chosen else perceptron(4, (2,), 2)


def assert_held(measured: list[Measurement]) -> None:
    assert measured
    assert [(m.quantity, m.value) for m in measured if not m.held] == []


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("group", ["C4", "D4"])
def test_representations_of_fields_and_of_colours(group: str, channels: int) -> None:
    """Channels that the group moves too, and images of several."""
    settings = dataclasses.replace(
        SMALL, group=group, representation="regular", channels=(8, 8), image_channels=channels
    )
    model = convolutional(settings)
    assert_held([*representations(model), *projections(model)])


def test_statements_at_a_point(model: Model) -> None:
    risk = small_risk(model)
    measured = [*representations(model), *projections(model)]
    measured += all_facts(risk, {"random": risk.coordinates.of(model.start(0))})
    assert_held(measured)
    broken = {m.statement for m in measured if m.relation == ">"}
    assert ("Fact A fails for a lopsided support" in broken) == (model.support == "lopsided")


def test_statements_fail_where_they_should() -> None:
    """Off E, for images that move otherwise than filters, and where a decay sees all."""
    model = small_network()
    risk = small_risk(model)
    point = risk.coordinates.of(model.start(0))
    away = point + random_tensor("away", len(point))
    assert not fact_a(risk, away, "off E").held
    assert not fact_b(risk, away, "off E").held
    permutations = model.input.permutations
    assert permutations is not None
    rolled = Representation(model.group, "rolled", np.roll(permutations, 1, 1))
    other = dataclasses.replace(model, input=rolled)
    wrong = dataclasses.replace(risk, model=other)
    assert not lemma(wrong, away, "images turned otherwise than filters").held
    assert not any(m.held for m in representations(other) if m.quantity.startswith("Phi_A"))
    decayed = dataclasses.replace(risk, decay=1e-2)
    assert not zero_directions(decayed, point, "with weight decay").held


def test_augmented_risk_is_the_mean_over_turned_images() -> None:
    model = small_network()
    risk = small_risk(model)
    point = random_tensor("point", risk.coordinates.dimension) * 0.3
    images = risk.inputs.view(-1, 12, 12)
    turned = [
        dataclasses.replace(risk, inputs=torch.rot90(images, k, (1, 2)).flatten(1))
        for k in range(4)
    ]
    mean = torch.stack([each.value(point) for each in turned]).mean()
    assert len(risk.augmented().inputs) == 4 * len(images)
    assert torch.allclose(risk.augmented().value(point), mean, rtol=1e-13)


def test_equal_graphs_are_taken_once() -> None:
    model = perceptron(4, (2,), 2)
    risk = small_risk(model)
    point = random_tensor("point", risk.coordinates.dimension)
    every = dataclasses.replace(
        risk,
        inputs=model.orbit(model.input, risk.inputs),
        targets=risk.targets.repeat_interleave(model.group.order, 0),
    )
    once = risk.augmented()
    assert len(once.inputs) < len(every.inputs) / 4
    assert torch.allclose(once.value(point), every.value(point), rtol=1e-13)


def test_coordinates_are_orthonormal(model: Model) -> None:
    coordinates = small_risk(model).coordinates
    point = random_tensor("point", coordinates.dimension)
    weights = coordinates.weights(point)
    assert torch.allclose(coordinates.of(weights), point, atol=1e-13)
    norm = torch.stack([weight.square().sum() for weight in weights.values()]).sum().sqrt()
    assert torch.allclose(norm, point.norm())
    inside = coordinates.weights(coordinates.join(inside=coordinates.split(point)[0]))
    for name, space in model.spaces.items():
        assert torch.allclose(space.project(inside[name]), inside[name], atol=1e-13)
        assert inside[name].shape == space.shape


@pytest.mark.parametrize(("decay", "stiffness"), [(0.0, 0.0), (0.1, 0.0), (0.0, 2.0)])
def test_derivatives_against_differences(decay: float, stiffness: float) -> None:
    risk = small_risk(small_network())
    size = risk.coordinates.dimension
    anchor = random_tensor("anchor", risk.coordinates.equivariant)
    risk = dataclasses.replace(risk, decay=decay, anchor=anchor, stiffness=stiffness)
    point, direction = 0.3 * random_tensor("point", size), unit(random_tensor("direction", size))
    h = 1e-5
    ahead, behind = point + h * direction, point - h * direction
    slope = (risk.value(ahead) - risk.value(behind)) / (2 * h)
    assert torch.allclose(risk.gradient(point) @ direction, slope, rtol=1e-6)
    bend = (risk.gradient(ahead) - risk.gradient(behind)) / (2 * h)
    assert torch.allclose(risk.hessian(point)(direction), bend, rtol=1e-5, atol=1e-8)


def test_lanczos_against_the_dense_spectrum() -> None:
    risk = small_risk(perceptron(4, (2,), 2))
    point = risk.coordinates.of(risk.model.start(0))
    for block in ("complement", "all"):
        held = block_operator(risk, point, BLOCKS[block])
        dense = np.linalg.eigvalsh(held @ np.eye(held.shape[0]))
        values, vectors = smallest(held, 3)
        assert values == pytest.approx(dense[:3], rel=1e-6)
        assert np.allclose(held @ vectors, vectors * values, atol=1e-5)
        assert largest(held, 2, 1e-6) == pytest.approx(dense[-2:], rel=1e-6)


def test_the_ends_of_a_spectrum() -> None:
    risk = small_risk(perceptron(4, (2,), 2))
    point = risk.coordinates.of(risk.model.start(0))
    found = spectrum(risk, "random", point)
    for block, ends in (("equivariant", found.equivariant), ("complement", found.complement)):
        held = block_operator(risk.augmented(), point, BLOCKS[block])
        dense = np.linalg.eigvalsh(held @ np.eye(held.shape[0]))
        assert ends == pytest.approx(np.r_[dense[:ENDS], dense[-ENDS:]], rel=1e-3, abs=1e-5)


def test_theorem_1() -> None:
    risk = small_risk(small_network())
    assert_held(list(theorem_1(risk, risk.coordinates.of(risk.model.start(0)), "random")))


def test_settled_points_and_theorem_2(settled: Settled) -> None:
    coordinates = settled.risk.coordinates
    inside = coordinates.split(settled.risk.gradient(settled.point))[0]
    assert inside.norm() < SETTLED
    assert coordinates.distance(settled.point) == 0
    assert settled.mu[0] < 0 < settled.inside  # stable in E, not for augmented
    assert_held([stationary(settled), *theorem_2(settled)])


def test_theorem_3_below_at_and_above_the_critical_gamma(settled: Settled) -> None:
    gammas = [0.5 * settled.critical, settled.critical, 3 * settled.critical]
    rates = [follow(settled, gamma) for gamma in gammas]
    assert_held(list(theorem_3(settled, rates)))
    assert [np.sign(rate.predicted[0].round(12)) for rate in rates] == [-1, 0, 1]
    wrong = [dataclasses.replace(rate, measured=rate.measured + 0.1) for rate in rates]
    assert not any(m.held for m in theorem_3(settled, wrong) if "measured rate" in m.quantity)


def test_plateau_of_the_nominal_flow(settled: Settled) -> None:
    """For a large gamma it is where first order says, and the simple bound is above it."""
    found = level(settled, 5.0, mu=-0.2, highest=30.0)
    assert found.error < 0.02
    assert found.measured == pytest.approx(found.predicted, rel=0.02)
    assert found.measured < found.bound
    assert found.settled < 1e-2


def test_plateau_solves_its_linear_system(settled: Settled) -> None:
    coordinates, gamma = settled.risk.coordinates, 2.0
    y = plateau(settled.risk, settled.point, gamma)
    image = settled.risk.hessian(settled.point)(coordinates.join(outside=y))
    push = coordinates.split(settled.risk.gradient(settled.point))[1]
    assert torch.allclose(coordinates.split(image)[1] + gamma * y, -push, atol=1e-8)


def test_remark_2(settled: Settled) -> None:
    """Weight decay of 1 leaves the origin as the one minimum."""
    risk = dataclasses.replace(settled.risk, decay=1.0)
    steep = Settled.at(risk, "steep", settle(risk, settled.point), longest=500)
    assert_held(list(remark_2(steep)))


def test_descent_is_that_of_the_weights(settled: Settled) -> None:
    """Two steps against a plain loop over the projected weights."""
    risk, gamma, step = small_risk(small_network()), 0.7, 0.05
    weights = risk.coordinates.weights(random_tensor("point", risk.coordinates.dimension))
    steps = descend(risk, risk.coordinates.of(weights), gamma, step)
    for _ in range(2):
        next(steps)
        gradient = risk.weight_gradient(weights)
        for name, space in risk.model.spaces.items():
            outside = space.project_complement(weights[name])
            weights[name] = weights[name] - step * (gradient[name] + gamma * outside)
    found, _ = next(steps)
    assert torch.allclose(found, risk.coordinates.of(weights), atol=1e-12)


def test_swift_steps_are_those_of_a_flow() -> None:
    """A round shrinks what is fast to a quarter, keeps what is slow, and takes a quarter."""
    steps = np.array(swift_steps(0.01, 100.0))
    assert len(steps) == 8
    assert steps.sum() > 4 * 8 * 1.8 / 100
    fast = np.linspace(100 / 64, 100, 1000)
    assert np.abs(np.prod(1 - np.outer(fast, steps), 1)).max() < 0.27
    for slow in (-0.05, 0.01, 0.1):
        assert np.prod(1 - slow * steps) == pytest.approx(np.exp(-slow * steps.sum()), rel=1e-3)
    assert swift_steps(50.0, 100.0) == [1.9 / 150]  # nothing is slow


def test_a_measurement_that_is_no_number_has_not_held() -> None:
    model = perceptron(4, (2,), 2)
    for relation in ("<", ">"):
        bad = Measurement(
            "S", "p", model, "", "", "q", np.nan, "<" if relation == "<" else ">", 1.0
        )
        assert not bad.held
    good = Measurement("S", "p", model, "", "", "|q|", 0.5, "<", 1.0)
    text = report([good, dataclasses.replace(good, value=2.0)])
    assert "2 measurements, 1 held" in text
    assert "## What did not hold" in text
    assert table([good])["held"].to_pylist() == [True]


@pytest.mark.slow
def test_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"NODES": 4, "CHANNELS": (2,), "GRAPHS": 16, "TURNED": 16, "IMAGES": 3, "PAIRS": 2}
    for name, value in {**small, "LONGEST": 500, "LONGEST_SMALL": 500}.items():
        monkeypatch.setattr(cases, name, value)
    monkeypatch.setattr(theorems, "LONGEST", 500)
    monkeypatch.setattr(tube, "LONGEST", 10)
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(256, size=(40, 1, 12, 12), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(4, size=40, dtype=np.uint8))
    parts = {"images": pixels, "labels": labels}
    data = tmp_path / "data.safetensors"
    save_file({f"{s}_{n}": t.clone() for s in ("train", "test") for n, t in parts.items()}, data)
    block = tmp_path / "seeds-000-000.parquet"
    columns = ["loss", "distance", "distance_conv1", "distance_conv2", "distance_linear"]
    zeros = {name: np.zeros((1, 1)) for name in columns}
    write_table(block, trajectory_table("augmented", 1e-2, [0], zeros), {})
    weights = {name: w.float()[None] for name, w in small_network().start(3).items()}
    save_weights(block.with_suffix(".safetensors"), [0], weights, {})

    figures = [tmp_path / f"theory_{name}.png" for name in ("rates", "plateau", "spectrum")]
    output = tmp_path / "theory.parquet"
    theory(SMALL, data, [block], output, tmp_path / "theory.md", figures, threads=2)
    rows = pq.read_table(output).to_pylist()
    assert rows[0]["statement"] == "Representations"  # in the cases' order, whatever ends first
    assert rows[-1]["network"] == "tensors"
    assert {row["support"] for row in rows} == {"full", "cross", "lopsided"}
    assert {row["network"] for row in rows} == {
        "convolutional",
        "convolutional, affine layers",
        "convolutional, regular channels",
        "perceptron",
        "segmentation",
        "tensors",
    }
    assert "trained, augmented, gamma 1e-2, seed 0" in {row["point"] for row in rows}
    first_order = ("by the linear system", "measured rate")  # hold where perturbations are small
    failed = [r["quantity"] for r in rows if not r["held"]]
    assert [q for q in failed if not any(part in q for part in first_order)] == []
    assert all(figure.stat().st_size > 10_000 for figure in figures)


@pytest.mark.parametrize(("group", "message"), [("C1", "group is 'C1'; accepted: one with more")])
def test_refused(group: str, message: str, tmp_path: Path) -> None:
    dataset = Dataset(*[torch.zeros(1, dtype=torch.uint8)] * 4)
    with pytest.raises(ValueError, match=message):
        cases.convolutional_cases(NetworkSettings(group=group), dataset, [])
