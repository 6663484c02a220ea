"""The theory beyond the experiment: each statement where it holds, and where one is to fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equireg.dataset import Dataset
from equireg.jobs.theory import at_points, in_short
from equireg.settings import NetworkSettings
from equireg.symmetry.compact import rotations
from equireg.theory import cases, theorems
from equireg.theory.cases import Case, wider_cases
from equireg.theory.facts import fact_a
from equireg.theory.measurement import Measurement
from equireg.theory.risks import Risk
from equireg.theory.symmetry import homomorphism_defect
from equireg.theory.wider import COARSE, tensors, vector_pairs

SMALL = NetworkSettings(image_size=12, channels=(3, 4), classes=4)
TWINS = {
    "segmentation": "labels that are not turned",
    "regular channels": "a lopsided support",
    "affine layers": "an offset outside H_G",
    "tensors": "tanh of a vector's entries",
}


@pytest.fixture(scope="module")
def found() -> list[Case]:
    random = np.random.default_rng(0)
    images = torch.from_numpy(random.integers(256, size=(12, 1, 12, 12), dtype=np.uint8))
    labels = torch.from_numpy(random.integers(4, size=12, dtype=np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cases, "PAIRS", 3)
        return wider_cases(SMALL, Dataset(images, labels, images, labels))


def assert_held(measured: list[Measurement]) -> None:
    assert measured
    assert [(m.statement, m.quantity, m.value) for m in measured if not m.held] == []


def test_statements_at_points(found: list[Case]) -> None:
    """With every assumption they hold, and each breach breaks Facts A and B."""
    for case in found:
        measured, _ = at_points(case)
        assert_held(measured)
        breach = case.facts.model.breach
        broken = {m.statement for m in measured if m.relation == ">" and "fails" in m.statement}
        expected = {"Fact A", "Fact B"} | ({"Lemma 3.11"} if breach and breach.of_lemma else set())
        assert broken == ({f"{s} fails for {breach.what}" for s in expected} if breach else set())


def test_each_has_a_twin_that_breaks_an_assumption(found: list[Case]) -> None:
    models = [case.facts.model for case in found]
    for name, breach in TWINS.items():
        mine = [model for model in models if name in model.network]
        assert any(model.breach is None for model in mine), name
        assert any(model.breach and model.breach.what == breach for model in mine), name
    assert {model.group.name for model in models} == {"C4", "SO(2)", "SO(3)"}


def test_theorems_for_rotations_of_the_plane(
    found: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(theorems, "STEPS", 200)
    monkeypatch.setattr(theorems, "LEARNING_RATE", 5e-3)
    for case in found:
        model = case.facts.model
        if model.group.name == "SO(2)":
            measured, _ = in_short(case)
            assert_held(measured)
            if model.breach:
                every = ("1.1", "1.2", "2", "3", "3 at a finite distance")
                assert [m.statement for m in measured] == [
                    f"Theorem {which} fails for {model.breach.what}" for which in every
                ]


def test_the_mean_over_rotations_is_exact_once_its_degree_suffices() -> None:
    """Five angles for Fact A, as Hom has frequencies to 4; four are too few."""
    errors = {}
    for degree in (3, 4, 8):
        model = tensors(rotations(2))
        object.__setattr__(model, "degree", degree)
        risk = Risk(model, *vector_pairs(model, 3))
        point = risk.coordinates.of(model.start(0))
        errors[degree] = fact_a(risk, point, "random").value
    assert errors[3] > 1e-2
    assert max(errors[4], errors[8]) < 1e-11
    assert tensors(rotations(2), COARSE).degree == 2


def test_an_offset_is_in_the_weights_and_not_in_the_coordinates(found: list[Case]) -> None:
    (case,) = (c for c in found if c.facts.model.offsets and c.facts.model.breach is None)
    coordinates, point = case.facts.coordinates, case.points["random"]
    weights = coordinates.weights(point)
    for name, offset in case.facts.model.offsets.items():
        assert offset.abs().sum() > 0
        assert torch.equal(weights[name] * (offset != 0), offset)
    assert torch.allclose(coordinates.of(weights), point, atol=1e-12)


def test_what_is_no_representation_shows() -> None:
    rho = tensors(rotations(3)).spaces["linear2"].axes[1]
    assert homomorphism_defect(rho) < 1e-12
    assert rho.algebra is not None
    object.__setattr__(rho, "algebra", rho.algebra * 2)
    assert homomorphism_defect(rho) > 0.1
