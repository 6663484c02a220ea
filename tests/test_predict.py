"""Figure 2, predicted: derivatives, bytes, and predictions beside trained networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from cases import images, initial
from equireg.jobs.predict import SCHEMA
from equireg.jobs.score import compared, score
from equireg.native import UnavailableError
from equireg.plan import predicted_seeds
from equireg.settings import GridSettings, NetworkSettings
from equireg.tables import write_table
from equireg.theory.gradients import Outside
from equireg.training.compiled import CompiledGradient
from equireg.training.network import Network
from equireg.training.step import Gradient, ReferenceGradient
from experiment import SPEED, Jobs

SMALL = NetworkSettings(image_size=8, channels=(16, 16), classes=4)
RUNS, IMAGES = 2, 50


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr("equireg.jobs.predict.IMAGES", 20)
    yield Jobs(tmp_path, monkeypatch)
    torch.set_flush_denormal(False)  # a job sets its process up for speed; this one has more to do
    torch.use_deterministic_algorithms(False)


def predict(jobs: Jobs, name: str, seeds: str, *more: object) -> pd.DataFrame:
    """Predict both modes at gamma 1e-2 and 10, and read what was written."""
    network = jobs.network
    initial = jobs.folder / f"initial-{seeds}.safetensors"
    if not initial.exists():
        jobs.run("initialize", "--seeds", seeds, "--output", initial, *network)
    files = ["--data", jobs.data, "--initial", initial, "--output", jobs.folder / name]
    grid = ["--seeds", seeds, "--gammas", "1e-2", "--gammas", "10"]
    jobs.run("predict", *files, *grid, *network, *SPEED, *more)
    frame: pd.DataFrame = pq.read_table(jobs.folder / name).to_pandas()
    return frame.astype({"mode": str})


@pytest.mark.parametrize("step", ["reference", "compiled"])
def test_derivatives_are_those_of_automatic_differentiation(step: str) -> None:
    """In float64 by torch, beside those of the step in float32."""
    network = Network.of(SMALL)
    weights, pixels = initial(network, range(RUNS)), images(IMAGES, 8)
    random = torch.Generator().manual_seed(0)
    rows = torch.randint(IMAGES, (RUNS, 30), generator=random)
    labels = torch.randint(4, (RUNS, 30), generator=random)
    gradient = gradient_for(step, network, pixels)

    outside = Outside(network.spaces)
    origin = np.zeros((RUNS, sum(space.dims[1] for space in network.spaces.values())))
    directions = np.random.default_rng(0).normal(size=(3, *origin.shape)) * 1e-3
    risk = risk_outside(network, weights, pixels, rows, labels)

    y = torch.from_numpy(origin).requires_grad_(True)
    (slope,) = torch.autograd.grad(risk(y), y, create_graph=True)
    found = outside.gradient(gradient, weights, rows, labels)
    assert distance(found, slope.detach().numpy()) < 1e-5

    curved = outside.curvature(gradient, weights, directions, rows, labels)
    for direction, one in zip(directions, curved, strict=True):
        (expected,) = torch.autograd.grad(
            (slope * torch.from_numpy(direction)).sum(), y, retain_graph=True
        )
        assert distance(one, expected.numpy()) < 0.02  # of the difference quotient
    assert (outside.curvature(gradient, weights, 0 * directions, rows, labels) == 0).all()


def gradient_for(step: str, network: Network, pixels: Tensor) -> Gradient:
    if step == "reference":
        return ReferenceGradient(network, pixels)
    try:
        return CompiledGradient(network, pixels)
    except UnavailableError as error:
        pytest.skip(f"needs the compiled step: {error}")


def risk_outside(
    network: Network, weights: dict[str, Tensor], pixels: Tensor, rows: Tensor, labels: Tensor
) -> Callable[[Tensor], Tensor]:
    """The runs' risks, summed, as a function of the coordinates outside E; float64."""
    inputs = pixels[rows].double() / 255
    sizes = [space.dims[1] for space in network.spaces.values()]

    def risk(y: Tensor) -> Tensor:
        moved = {}
        for (name, space), part in zip(network.spaces.items(), y.split(sizes, 1), strict=True):
            inside, _ = space.coordinates(weights[name])
            moved[name] = space.weight(inside, part)
        return network.loss(network.forward(moved, inputs), labels).mean(1).sum()

    return risk


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_what_is_written(jobs: Jobs) -> None:
    frame = predict(jobs, "p.parquet", "0-2", "--epochs", "1")
    assert pq.read_schema(jobs.folder / "p.parquet").equals(SCHEMA)
    assert frame.groupby(["mode", "gamma"]).size().nunique() == 1
    assert sorted(set(frame["mode"])) == ["augmented", "nominal"]
    assert set(frame["gamma"]) == {0.01, 10.0}
    assert set(frame["seeds"]) == {3}
    assert frame["step"].min() == 0
    assert frame["step"].max() == 29  # the last one that is recorded
    assert (frame["low"] <= frame["median"]).all()
    assert (frame["median"] <= frame["high"]).all()


@pytest.mark.slow
def test_equal_bytes_and_independence_of_the_threads_and_the_block(jobs: Jobs) -> None:
    """With the compiled step where there is a compiler; channels of 3 would be for the other."""
    jobs.network = ["--channels", "16", "--channels", "16"]
    short = ["--epochs", "1"]
    both = predict(jobs, "first.parquet", "0-1", *short)
    predict(jobs, "again.parquet", "0-1", *short, "--threads", "2")
    first, again = (jobs.folder / name for name in ("first.parquet", "again.parquet"))
    assert first.read_bytes() == again.read_bytes()
    alone = [predict(jobs, f"{seed}.parquet", str(seed), *short)["median"] for seed in (0, 1)]
    np.testing.assert_allclose(both["median"], (alone[0] + alone[1]) / 2, rtol=1e-3)


@pytest.mark.slow
def test_trained_networks_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To 20 % in the median over the steps, but for nominal ones at a small penalty.

    Those leave the linear range, where the prediction grows on.
    """
    jobs = Jobs(tmp_path, monkeypatch, ["--channels", "4", "--channels", "4"])
    frame = predict(jobs, "p.parquet", "0-2")
    for (mode, gamma), curve in frame.groupby(["mode", "gamma"]):
        block = jobs.train(f"{mode}-{gamma}", str(mode), str(gamma), "0-2")
        runs = pq.read_table(block).to_pandas().groupby("step")["distance"].median()
        curve = curve.set_index("step")
        ratio = curve["median"] / runs.loc[curve.index]
        assert ratio.loc[0] == pytest.approx(1, rel=1e-5)
        off = abs(np.log(ratio))
        print(mode, gamma, "median", np.exp(off.median()), "worst", np.exp(off.max()))
        if (mode, gamma) == ("nominal", 0.01):
            assert ratio.loc[59] > 2
        else:
            assert off.median() < np.log(1.2)


def test_exact_augmentation_has_no_noise(jobs: Jobs) -> None:
    """Nothing pushes out of E then (Fact A): without a start outside, Y stays 0."""
    still = ["--augmentation", "exact", "--perturbation", "0"]
    frame = predict(jobs, "p.parquet", "0", *still)
    assert frame.loc[frame["mode"] == "augmented", "high"].max() < 1e-4
    assert frame.loc[frame["mode"] == "nominal", "low"].iloc[-1] > 1e-2


def test_a_prediction_that_overflows_stays_a_number(jobs: Jobs) -> None:
    """Far out of its range the linear recursion grows without bound."""
    frame = predict(jobs, "p.parquet", "0", "--learning-rate", "0.19", "--epochs", "4")
    assert np.isfinite(frame["median"]).all()


def test_a_penalty_too_large_for_the_step_is_refused(jobs: Jobs) -> None:
    message = "gamma is 1e1; accepted with training.learning_rate 0.5: 0 to 4, as explicit"
    with pytest.raises(RuntimeError, match=message):
        predict(jobs, "p.parquet", "0", "--learning-rate", "0.5")


def test_a_batch_larger_than_the_data_is_refused(jobs: Jobs) -> None:
    with pytest.raises(RuntimeError, match="batch_size is 5000; accepted: at most"):
        predict(jobs, "p.parquet", "0", "--batch-size", "5000")
    assert not (jobs.folder / "p.parquet").exists()


def test_the_seeds_that_are_predicted() -> None:
    assert predicted_seeds(GridSettings()) == tuple(range(10))
    assert predicted_seeds(GridSettings(seeds="3-5,9")) == (3, 4, 5)


def tables(folder: Path, factor: float) -> tuple[Path, Path]:
    """A measured median of 1 at 1,000 steps, and a prediction ``factor`` off from 100 on."""
    steps = np.arange(1000)
    common = {"mode": "nominal", "gamma": 0.01, "step": steps}
    predicted = np.where(steps < 100, 1.0, factor)
    bounds = {"low": predicted * 0.9, "high": predicted * 1.1}
    paths = folder / "predictions.parquet", folder / "summary.parquet"
    frames = (
        pd.DataFrame({**common, "seeds": 4, "median": predicted, **bounds}),
        pd.DataFrame({**common, "seeds": 30, "median": 1.0}),
    )
    for path, frame in zip(paths, frames, strict=True):
        write_table(path, pa.table(frame.to_dict("list")), {})
    return paths


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_the_score(tmp_path: Path, factor: float) -> None:
    score(*tables(tmp_path, factor), tmp_path / "predictions.md")
    report = (tmp_path / "predictions.md").read_text()
    (row,) = [line for line in report.splitlines() if line.startswith("| 1e-2 | ")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:4] == ["1e-2", "nominal", "1", f"{factor:.3g}"]
    # Of about 60 steps evenly spaced from 1 to 999 on a log scale, two thirds are below 100.
    assert cells[5:7] == ["1", "4"]
    assert 80 < int(cells[7]) < 100
    assert 55 <= int(cells[8].rstrip("%")) <= 70
    assert "over 4 seeds" in report
    assert "over 30 seeds" in report


def test_a_prediction_that_stays_near_does_so_to_the_end(tmp_path: Path) -> None:
    score(*tables(tmp_path, 1.5), tmp_path / "predictions.md")
    assert "| 1.5 | the end | " in (tmp_path / "predictions.md").read_text()


def test_a_score_of_a_single_step() -> None:
    curve = pd.DataFrame(
        {"step": [0], "median": [3.0], "low": [1.0], "high": [4.0], "median_measured": [1.0]}
    )
    one = compared(curve)
    assert one.factors == pytest.approx([3.0])
    assert one.near_until == -1


def test_tables_of_different_experiments_are_refused(tmp_path: Path) -> None:
    predictions, summary = tables(tmp_path, 1.0)
    half = pq.read_table(summary).slice(0, 500)
    summary.unlink()
    write_table(summary, half, {})
    with pytest.raises(ValueError, match=r"summary.parquet lacks runs or steps that"):
        score(predictions, summary, tmp_path / "predictions.md")
