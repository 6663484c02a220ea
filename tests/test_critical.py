"""The critical penalty: the Hessian's smallest eigenvalue, in the units of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from equireg.dataset import load_dataset
from equireg.settings import NetworkSettings
from equireg.theory.cases import sample
from equireg.theory.models import convolutional
from equireg.theory.risks import Risk
from equireg.weights import load_weights
from experiment import Jobs

NARROW = ["--channels", "2", "--channels", "2"]


def test_it_is_that_of_the_whole_hessian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By automatic differentiation of the risk in all coordinates, and dense eigenvalues."""
    monkeypatch.setattr("equireg.jobs.critical.IMAGES", 64)
    jobs = Jobs(tmp_path, monkeypatch, NARROW)
    trained = jobs.train("twin", "equivariant", None, "0-1").with_suffix(".safetensors")
    files = ["--data", jobs.data, "--initial", tmp_path / "initial-0-1.safetensors"]
    modes = [word for mode in ("nominal", "augmented") for word in ("--mode", mode)]
    output = tmp_path / "critical.parquet"
    words = [*files, "--trained", trained, *modes, "--seeds", "0-1", *NARROW, "--output", output]
    jobs.run("critical", *words, "--batch-size", "4")
    table = pq.read_table(output).to_pandas()
    assert len(table) == 8
    assert (table["critical_gamma"] == np.maximum(0, -table["mu"] / 4)).all()

    settings = NetworkSettings(channels=(2, 2))
    model = convolutional(settings)
    dataset = load_dataset(jobs.data, settings)
    for mode, risk in {
        "augmented": Risk(model, *sample(dataset, 16)).augmented(),
        "nominal": Risk(model, *sample(dataset, 64)),
    }.items():
        weights, _ = load_weights(trained, [1], model.spaces)
        point = risk.coordinates.of({n: weights[n][0].double() for n in model.spaces})
        whole = torch.autograd.functional.hessian(risk.value, point)
        block = whole[risk.coordinates.equivariant :, risk.coordinates.equivariant :]
        lowest = float(torch.linalg.eigvalsh(block)[0])
        row = table[(table["mode"] == mode) & (table.weights == "trained") & (table.seed == 1)]
        assert row["mu"].item() == pytest.approx(lowest, rel=1e-4)
    assert (table["mu"] < 0).any()
