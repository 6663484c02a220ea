"""The training and evaluation jobs, through the command line, on real digits."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from equireg.jobs.evaluate import Measures
from equireg.settings import NetworkSettings
from equireg.spelling import parse_seeds
from equireg.training.network import Network
from equireg.weights import load_weights, save_weights
from experiment import NETWORK, Jobs

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    yield Jobs(tmp_path, monkeypatch)
    torch.set_flush_denormal(False)  # a job sets its process up for speed; this one has more to do
    torch.use_deterministic_algorithms(False)


def test_what_a_block_writes(jobs: Jobs) -> None:
    block = jobs.train("a", "augmented", "1e-2", "3-4")
    table = pq.read_table(block)
    assert table.num_rows == 2 * 60
    assert table["seed"].to_pylist() == [3] * 60 + [4] * 60
    assert table["step"].to_pylist() == 2 * list(range(60))
    assert set(table["mode"].to_pylist()) == {"augmented"}
    assert set(table["gamma"].to_pylist()) == {0.01}
    losses = table["loss"].to_numpy().reshape(2, 60)
    assert (losses[:, -10:].mean(1) < losses[:, :10].mean(1)).all()  # it learns

    weights = load_file(block.with_suffix(".safetensors"))
    assert weights["seeds"].tolist() == [3, 4]
    assert weights["conv2"].shape == (2, 3, 3, 3, 3)
    assert weights["distance"].shape == (2,)
    written = json.loads(block.with_suffix(".json").read_text())
    assert written["made"]["training"]["learning_rate"] == 0.05
    assert written["libraries"]["torch"] == torch.__version__.split("+")[0]


def test_a_subset_and_images_held_out(jobs: Jobs) -> None:
    """20 of 240 images for each seed: two steps an epoch; and the block says so."""
    chosen = "--train-images", 20, "--validation", 0.2
    block = jobs.train("a", "augmented", "1e-2", "0-2", *chosen)
    assert pq.read_table(block).num_rows == 3 * 2 * 2
    data = json.loads(block.with_suffix(".json").read_text())["made"]["data"]
    assert (data["train_images"], data["validation"]) == (20, 0.2)
    alone = jobs.train("b", "augmented", "1e-2", "1", *chosen)
    rows = pq.read_table(block, filters=[("seed", "=", 1)])
    assert np.allclose(rows["loss"], pq.read_table(alone)["loss"], rtol=1e-5)
    words = ["evaluate", "--block", block, "--data", jobs.data, *jobs.network]
    with pytest.raises(RuntimeError, match=r"data.train_images is null, but 20 in"):
        jobs.run(*words)
    jobs.run(*words, *chosen)
    found = pq.read_table(block.with_suffix(".evaluation.parquet")).to_pandas()
    held_out = found.filter(like="validation")
    assert held_out.shape == (3, 7)
    assert held_out.notna().to_numpy().all()
    assert (found["validation_accuracy"] != found["test_accuracy"]).any()
    with pytest.raises(RuntimeError, match="train_images is 241; accepted: at most 240"):
        jobs.train("c", "augmented", "1e-2", "0-2", "--train-images", 241, "--validation", 0.2)


def test_equal_bytes_and_independence_of_the_block(jobs: Jobs) -> None:
    first = jobs.train("first", "augmented", "1e-2", "0-2")
    again = jobs.train("again", "augmented", "1e-2", "0-2")
    alone = jobs.train("alone", "augmented", "1e-2", "1")
    for suffix in (".parquet", ".safetensors"):
        assert first.with_suffix(suffix).read_bytes() == again.with_suffix(suffix).read_bytes()
    rows = pq.read_table(first, filters=[("seed", "=", 1)])
    for name in ("loss", "distance", "distance_linear"):
        expected = pq.read_table(alone)[name].to_numpy()
        assert np.allclose(rows[name].to_numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize(
    "network",
    [
        NETWORK,
        pytest.param(
            ["--channels", "16"],
            marks=pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler"),
        ),
    ],
    ids=["reference", "compiled"],
)
def test_all_gammas_at_once(jobs: Jobs, network: list[str]) -> None:
    """The files are those of single blocks: to the bit if compiled, else to rounding."""
    jobs.network = network
    gammas = ["1e-2", "0", "1"]  # in any order
    more = [("--gamma", gamma, "--output", jobs.output(gamma)) for gamma in gammas[1:]]
    jobs.train("1e-2", "augmented", "1e-2", "0-1", *itertools.chain(*more))
    for gamma in gammas:
        together, alone = jobs.output(gamma), jobs.train("alone", "augmented", gamma, "0-1")
        written = [json.loads(x.with_suffix(".json").read_text()) for x in (together, alone)]
        for story in written:
            del story["wall_seconds"]
        assert written[0] == written[1]
        assert written[0]["step"] == ("reference" if network == NETWORK else "compiled")
        if network == NETWORK:
            loss, expected = (pq.read_table(x)["loss"].to_numpy() for x in (together, alone))
            assert np.allclose(loss, expected, rtol=1e-4)
        else:
            for suffix in (".parquet", ".safetensors"):
                found, expected = (x.with_suffix(suffix).read_bytes() for x in (together, alone))
                assert found == expected


def test_modes_are_paired_by_seed(jobs: Jobs) -> None:
    """Without a perturbation the three modes take their first step from the same point."""
    quiet = ["--perturbation", "0"]
    tables = {
        mode: pq.read_table(jobs.train(mode, mode, gamma, "0-1", *quiet))
        for mode, gamma in (("equivariant", None), ("nominal", "0"), ("augmented", "0"))
    }
    losses = {mode: t["loss"].to_numpy().reshape(2, 60)[:, 0] for mode, t in tables.items()}
    # The batch is the same, and turning it changes nothing where the network is invariant.
    assert np.allclose(losses["nominal"], losses["equivariant"], rtol=1e-6)
    assert np.allclose(losses["augmented"], losses["equivariant"], rtol=1e-5)
    assert tables["equivariant"]["gamma"].null_count == 120
    assert (tables["equivariant"]["distance"].to_numpy() == 0).all()


def test_the_starting_distance_is_that_of_the_perturbation(jobs: Jobs) -> None:
    """sigma on every entry off E: sigma sqrt(dim), the paper's 0.086 at 1e-3 and 7,392."""
    block = jobs.train("a", "nominal", "0", "0-4", "--perturbation", "1e-2")
    starts = pq.read_table(block, filters=[("step", "=", 0)])["distance"].to_numpy()
    spaces = Network.of(NetworkSettings(channels=(3, 3))).spaces.values()
    dimension = sum(space.dims[1] for space in spaces)
    assert np.allclose(starts, 1e-2 * np.sqrt(dimension), rtol=0.05)


def test_a_relative_perturbation_is_as_large_as_the_weights(jobs: Jobs) -> None:
    """From 1 a run starts as one that knows of no symmetry: entries off E like those in E."""
    relative = ["--perturbation-unit", "relative", "--perturbation", "1"]
    block = jobs.train("a", "nominal", "0", "0-4", *relative)
    first = pq.read_table(block, filters=[("step", "=", 0)])
    network = Network.of(NetworkSettings(channels=(3, 3)))
    weights, _ = load_weights(jobs.folder / "initial-0-4.safetensors", range(5), network.spaces)
    squares = 0.0
    for name, space in network.spaces.items():
        expected = weights[name].flatten(1).square().mean(1) * space.dims[1]
        found = first[f"distance_{name}"].to_numpy() ** 2
        assert np.allclose(found, expected, rtol=5 / np.sqrt(space.dims[1]))
        squares = squares + found
    assert np.allclose(first["distance"].to_numpy() ** 2, squares)


def test_the_scale_of_the_risk_is_that_of_the_learning_rate(jobs: Jobs) -> None:
    """Without a penalty, dividing by the batch size once more is a tenth of the learning rate."""
    scales = {"mean": "5e-3", "batch": "5e-2"}
    blocks = [
        jobs.train(scale, "nominal", "0", "0", "--risk-scale", scale, "--learning-rate", rate)
        for scale, rate in scales.items()
    ]
    mean, batch = (pq.read_table(block)["loss"].to_numpy() for block in blocks)
    assert np.allclose(mean, batch, rtol=1e-5)


def test_saved_distances_are_those_of_the_saved_weights(jobs: Jobs) -> None:
    weights = load_file(jobs.train("a", "nominal", "1e-2", "0-1").with_suffix(".safetensors"))
    squares = []
    for name, space in Network.of(NetworkSettings(channels=(3, 3))).spaces.items():
        outside = space.project_complement(weights[name].double()).flatten(1).norm(dim=1)
        assert torch.allclose(weights[f"distance_{name}"].double(), outside, rtol=1e-4)
        squares.append(outside.square())
    total = torch.stack(squares).sum(0).sqrt()
    assert torch.allclose(weights["distance"].double(), total, rtol=1e-4)


def test_a_strong_penalty_keeps_the_run_at_e(jobs: Jobs) -> None:
    free = pq.read_table(jobs.train("free", "nominal", "0", "0"))["distance"].to_numpy()
    held = pq.read_table(jobs.train("held", "nominal", "10", "0"))["distance"].to_numpy()
    assert held[0] == free[0]
    assert held[-1] < 0.5 * free[-1]


def test_evaluation(jobs: Jobs) -> None:
    equivariant = jobs.train("equivariant", "equivariant", None, "0-1")
    nominal = jobs.train("nominal", "nominal", "1e-2", "0-1")
    rows = {}
    for block in (equivariant, nominal):
        output = block.with_suffix(".evaluation.parquet")
        words = ["--twins", equivariant.parent, "--data", jobs.data]
        jobs.run("evaluate", "--block", block, *words, *NETWORK)
        rows[block] = pq.read_table(output).to_pandas()
    invariant, free = rows[equivariant], rows[nominal]
    assert list(free["seed"]) == [0, 1]
    assert (free["test_accuracy"] > 0.3).all()
    assert (invariant["prediction_change"] == 0).all()
    assert np.allclose(invariant["test_accuracy"], invariant["test_accuracy_turned"])
    assert (free["prediction_change"] > 0).all()
    assert (invariant["equivariance_error"] < 1e-5).all()
    assert (free["equivariance_error"] > 1e-3).all()
    assert (invariant["twin_distance"] == 0).all()
    layers = free[["twin_distance_conv1", "twin_distance_conv2", "twin_distance_linear"]]
    assert np.allclose(np.linalg.norm(layers, axis=1), free["twin_distance"])
    ours, twins = (load_file(block.with_suffix(".safetensors")) for block in (nominal, equivariant))
    for layer in ("conv1", "conv2", "linear"):  # the equivariant run is another network
        expected = (ours[layer] - twins[layer]).flatten(1).norm(dim=1).numpy()
        assert (expected > 1e-2).all()
        assert np.allclose(free[f"twin_distance_{layer}"], expected, rtol=1e-4)
    last = pq.read_table(nominal)["loss"].to_numpy().reshape(2, 60)[:, -1]
    assert np.allclose(free["final_loss"], last)

    lone = nominal.with_suffix(".evaluation.parquet")
    jobs.run("evaluate", "--block", nominal, "--data", jobs.data, *NETWORK)
    assert pq.read_table(lone)["twin_distance"].null_count == 2


def test_accuracy_is_that_of_the_logits_written_out(jobs: Jobs) -> None:
    block = jobs.train("a", "nominal", "0", "5")
    output = block.with_suffix(".evaluation.parquet")
    jobs.run("evaluate", "--block", block, "--data", jobs.data, *NETWORK)
    row = pq.read_table(output).to_pylist()[0]
    weights = load_file(block.with_suffix(".safetensors"))
    data = load_file(jobs.data)
    network = Network.of(NetworkSettings(channels=(3, 3)))
    right, changed, logits, upright = [], [], [], None
    for k in range(4):
        images = torch.rot90(data["test_images"], k, (2, 3))[None] / 255.0
        logits.append(network.forward(weights, images)[0].double())
        predicted = logits[-1].argmax(-1)
        right.append((predicted == data["test_labels"]).double().mean().item())
        upright = predicted if upright is None else upright
        changed.append((predicted != upright).double().mean().item())
    assert row["test_accuracy"] == pytest.approx(right[0])
    assert row["test_accuracy_turned"] == pytest.approx(np.mean(right))
    assert row["prediction_change"] == pytest.approx(np.mean(changed[1:]))
    turned = torch.stack(logits)
    error = (turned[1:] - turned[0]).norm() / (3**0.5 * turned[0].norm())
    assert row["equivariance_error"] == pytest.approx(error.item(), rel=1e-5)


def test_projected_averaged_and_ensembles(jobs: Jobs) -> None:
    """Against outputs written out, of two blocks of one mode and gamma."""
    blocks = [
        jobs.train(name, "nominal", "1e-2", seeds) for name, seeds in (("a", "0-1"), ("b", "2"))
    ]
    for suffix in (".parquet", ".safetensors"):
        shutil.copy(blocks[1].with_suffix(suffix), blocks[0].with_name(f"more{suffix}"))
    blocks[1] = blocks[0].with_name("more.parquet")
    words = [word for block in blocks for word in ("--block", block)]
    jobs.run("evaluate", *words, "--data", jobs.data, *NETWORK)
    tables = [pq.read_table(b.with_suffix(".evaluation.parquet")).to_pandas() for b in blocks]
    rows = {row["seed"]: row for table in tables for _, row in table.iterrows()}
    data, network = load_file(jobs.data), Network.of(NetworkSettings(channels=(3, 3)))
    labels = data["test_labels"].long()
    turns = [torch.rot90(data["test_images"], k, (2, 3))[None] / 255.0 for k in range(4)]
    every = []
    for block in blocks:
        held = load_file(block.with_suffix(".safetensors"))
        for i, seed in enumerate(held["seeds"].tolist()):
            weights = {name: held[name][i : i + 1] for name in network.spaces}
            inside = {n: s.project(weights[n].double()).float() for n, s in network.spaces.items()}
            outputs = torch.stack([network.forward(weights, images)[0] for images in turns])
            projected = torch.stack([network.forward(inside, images)[0] for images in turns])
            assert torch.allclose(projected, projected[:1].expand_as(projected), atol=1e-4)
            for name, found in (("averaged", outputs.mean(0)), ("projected", projected[0])):
                accuracy = (found.argmax(1) == labels).double().mean().item()
                loss = F.cross_entropy(found, labels).item()
                assert rows[seed][f"test_{name}_accuracy"] == pytest.approx(accuracy)
                assert rows[seed][f"test_{name}_loss"] == pytest.approx(loss, rel=1e-4)
            every.append(outputs)

    ensembles = pq.read_table(blocks[0].with_name("ensembles.parquet")).to_pandas()
    assert ensembles["members"].tolist() == [1, 1, 1, 2, 3]
    assert ensembles["seeds"].tolist() == ["0", "1", "2", "0-1", "0-2"]
    for _, row in ensembles.iterrows():
        first = int(row["seeds"].split("-")[0])
        mean = torch.stack(every[first : first + row["members"]]).mean(0).double()
        assert row["test_accuracy"] == (mean[0].argmax(1) == labels).double().mean().item()
        error = (mean[1:] - mean[0]).norm() / (3**0.5 * mean[0].norm())
        assert row["equivariance_error"] == pytest.approx(error.item(), rel=1e-4)
        if row["members"] == 1:
            for name in ("test_loss", "test_accuracy_turned", "prediction_change"):
                assert row[name] == pytest.approx(rows[first][name])
    other = jobs.train("c", "augmented", "1e-2", "0-1")
    with pytest.raises(RuntimeError, match="accepted: of one mode and gamma"):
        jobs.run("evaluate", *words, "--block", other, "--data", jobs.data, *NETWORK)


def test_an_ensemble_is_of_seeds_one_after_the_other() -> None:
    """As its row says; those left over are in none of that size."""

    class Kept:
        def add(self, outputs: torch.Tensor, _: torch.Tensor) -> None:
            self.outputs = outputs

    measures: Any = object.__new__(Measures)
    measures.seeds, measures.ensembles = [0, 1, 2, 3, 4], {2: Kept(), 5: Kept()}
    measures._join(torch.arange(5.0)[None, :, None, None], torch.zeros(1))
    assert measures.ensembles[2].outputs.flatten().tolist() == [0.5, 2.5]
    assert measures.ensembles[5].outputs.flatten().tolist() == [2.0]


@pytest.mark.parametrize(
    ("made", "used", "message"),
    [
        ([], ["--channels", "8"], r"conv1 of shape \(3, 1, 3, 3\); expected \(8, 1, 3, 3\)"),
        (["--group", "C2"], [], "weights of conv1 are .* away from E of group C4"),
    ],
)
@pytest.mark.parametrize("mode", ["equivariant", "nominal"])
def test_initial_weights_of_another_network(
    jobs: Jobs, mode: str, made: list[str], used: list[str], message: str
) -> None:
    initial = jobs.folder / "initial.safetensors"
    jobs.run("initialize", "--seeds", "0", "--output", initial, *NETWORK, *made)
    files = ["--data", jobs.data, "--initial", initial, "--output", jobs.folder / "x.parquet"]
    penalty = [] if mode == "equivariant" else ["--gamma", "0"]
    with pytest.raises(RuntimeError, match=message):
        jobs.run("train", "--mode", mode, *penalty, "--seeds", "0", *files, *(used or NETWORK))


def test_weights_of_another_network_are_not_evaluated(jobs: Jobs) -> None:
    block = jobs.train("a", "nominal", "0", "0")
    with pytest.raises(RuntimeError, match="made for another network"):
        jobs.run("evaluate", "--block", block, "--data", jobs.data)


def test_divergence_in_the_last_update_is_noticed(jobs: Jobs) -> None:
    """The loss before the only update is finite, the weights after it are not."""
    huge = ["--batch-size", "300", "--epochs", "1", "--learning-rate", "1e38"]
    with pytest.raises(RuntimeError, match="no longer finite at step 1"):
        jobs.train("a", "nominal", "0", "0", *huge)


def test_divergence_names_the_run_and_keeps_what_it_recorded(jobs: Jobs) -> None:
    initial = jobs.folder / "initial-0-1.safetensors"
    jobs.run("initialize", "--seeds", "0-1", "--output", initial, *NETWORK)
    broken, about = load_weights(initial, [0, 1], {})
    broken["conv1"][1] = float("nan")
    save_weights(initial, [0, 1], broken, about)
    output = jobs.folder / "block.parquet"
    files = ["--data", jobs.data, "--initial", initial, "--output", output]
    with pytest.raises(
        RuntimeError, match=r"nominal, gamma 1e-2, seed 1: .* at step 0; .*diverged"
    ):
        jobs.run(
            "train", "--mode", "nominal", "--gamma", "0.01", "--seeds", "0-1", *files, *NETWORK
        )
    assert not output.exists()
    kept = pq.read_table(output.with_suffix(".diverged.parquet"))
    assert kept["seed"].to_pylist() == [0, 1]
    assert np.isfinite(kept["loss"][0].as_py())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "nominal"], "gamma is none; mode nominal takes a gamma"),
        (
            ["--mode", "equivariant", "--gamma", "1"],
            "gamma is 1e0; mode equivariant takes no gamma",
        ),
        (
            ["--mode", "nominal", "--gamma", "-1"],
            "gamma is -1e0; accepted with training.learning_rate 0.001: 0 to 2000",
        ),
        (["--mode", "nominal", "--gamma", "1e9"], r"learning_rate \* gamma > 2"),
        (["--mode", "nominal", "--gamma", "1", "--learning-rate", "0"], "learning_rate is 0"),
        (["--mode", "nominal", "--gamma", "1", "--perturbation", "-1"], "perturbation is -1"),
        (["--mode", "nominal", "--gamma", "1", "--epochs", "0"], "epochs is 0; accepted: 1"),
        (["--mode", "nominal", "--gamma", "1", "--batch-size", "301"], "batch_size is 301"),
        (["--mode", "nominal", "--gamma", "1", "--seeds", "2-1"], "seeds are '2-1'"),
        (["--mode", "nominal", "--gamma", "1", "--threads", "0"], "threads is 0"),
        (["--mode", "nominal", "--gamma", "1", "--image-size", "32"], "32x32"),
        (["--mode", "nominal", "--gamma", "1", "--output", "x.json"], "ends in .parquet"),
        (
            ["--mode", "nominal", "--gamma", "1", "--output", "x.parquet"],
            "for each gamma, 1 in all",
        ),
        (["--mode", "nominal", "--gamma", "1", "--gamma", "2"], "one for each gamma, 2 in all"),
        (["--mode", "equivariant", "--gamma", "1", "--gamma", "2"], "gamma is 1e0, 2e0; mode"),
    ],
)
def test_refused(jobs: Jobs, words: list[str], message: str) -> None:
    output = jobs.folder / "block.parquet"
    files = ["--data", jobs.data, "--initial", jobs.folder / "none", "--output", output]
    with pytest.raises(RuntimeError, match=message):
        jobs.run("train", "--seeds", "0", *files, *words)
    assert not output.exists()


def test_a_compiled_step_that_does_not_take_the_network_is_refused(jobs: Jobs) -> None:
    message = (
        r"step is 'compiled', but channels are \[3, 3\], not multiples of \d+; "
        "accepted here: auto, reference"
    )
    with pytest.raises(RuntimeError, match=message):
        jobs.train("a", "nominal", "1", "0", "--step", "compiled", "--device", "cpu")
    assert not jobs.output("a").exists()


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("0-2,7", [0, 1, 2, 7]), (" 5 , 3-4 ", [3, 4, 5])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds
