"""The study: what its second stage trains, and the rule of its verdict, by tables made up here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import Tensor

from equireg.answers import mistakes, runs_of
from equireg.built import network_of
from equireg.config import Configuration, experiments, load
from equireg.figures.arms import arms_figure
from equireg.intervals import median_interval
from equireg.inventory import file_of
from equireg.jobs.asymmetry import CONFUSED, PAIR, asymmetry, confusions
from equireg.jobs.choose import choose
from equireg.jobs.escape import escape
from equireg.jobs.verdict import judge
from equireg.plan import blocks
from equireg.randomness import generator
from equireg.settings import Mode
from equireg.study.arms import ARMS, FAMILIES
from equireg.study.asymmetry import best_gamma, wins
from equireg.study.asymmetry import compare as compare_nominal
from equireg.study.choosing import Choice
from equireg.study.choosing import choose as choose_of
from equireg.study.escape import TEST, TRAINING, by_epoch
from equireg.study.escape import compare as compare_released
from equireg.study.escape import verdict as verdict_released
from equireg.study.toy import TILT, critical, descend, minima, risk
from equireg.study.verdicts import Comparison, compare, holm, interval, verdict
from equireg.sweeps import combinations, path
from equireg.tables import trajectory_table, write_table
from equireg.training.function import reference_forward
from equireg.training.network import Network
from equireg.weights import save_weights

SEEDS = range(10)
DATA = ("mnist", "fashion-mnist")


def rows_of(arm: str, data: str, rate: float, gamma: float | None, accuracies: Any) -> pd.DataFrame:
    """Runs of an arm with these accuracies, by seed, in every form and part."""
    found = ARMS[arm]
    forms = ["", "_projected", "_averaged"]
    columns = {f"{p}{form}_accuracy": accuracies for p in ("test", "validation") for form in forms}
    own = {
        "data.name": data,
        "data.train_images": 500,
        "training.epochs": 60,
        "training.learning_rate": rate,
        "training.gamma_schedule": found.schedule,
        "training.perturbation": found.perturbation,
        "grid.modes": found.mode,
        "grid.gammas": "0",
        "mode": found.mode,
        "gamma": gamma,
        "seed": range(len(accuracies)),
    }
    return pd.DataFrame({**own, **columns}).astype({"gamma": float})


def wrong(errors: Any, images: int = 10_000) -> pd.DataFrame:
    """Which images are wrong, by seed: always the hardest ones."""
    counts = np.rint(np.asarray(errors) * images)
    return pd.DataFrame(np.arange(images) < counts[:, None])


def mistakes_of(runs: pd.DataFrame, choices: list[Choice]) -> dict[Choice, pd.DataFrame]:
    """Of each choice, such that the errors are the table's."""
    errors = {c: 1 - c.runs(runs)[ARMS[c.arm].column("test")] for c in choices}
    return {choice: wrong(own).set_index(own.index) for choice, own in errors.items()}


def table(gain: float, noise: float = 0.001) -> tuple[pd.DataFrame, list[Choice]]:
    """Augmented runs so much better than those in E, on both data sets; and the choices."""
    parts, choices = [], []
    for data in DATA:
        draws = generator(0, "test", data).normal(0, noise, (2, len(SEEDS)))
        parts.append(rows_of("in E", data, 0.01, None, 0.9 + draws[0]))
        parts.append(rows_of("augmented", data, 0.03, 0.0, 0.9 + gain + draws[1]))
        choices.append(Choice(data, 500, "in E", 0.01, None, 0.9))
        choices.append(Choice(data, 500, "augmented", 0.03, 0.0, 0.9))
    return pd.concat(parts), choices


@pytest.mark.parametrize(
    ("gain", "noise", "said"),
    [
        (0.02, 0.001, "yes"),  # twice the margin of a tenth of 10 points
        (0.005, 0.001, "no"),  # sure, but less than the margin
        (-0.02, 0.001, "no"),
        (0.01, 0.02, "undecided"),  # as likely more as less
    ],
)
def test_the_verdict(gain: float, noise: float, said: str) -> None:
    runs, choices = table(gain, noise)
    found = compare(mistakes_of(runs, choices), FAMILIES["same hypothesis class"])
    assert [c.cell for c in found] == [(name, 500) for name in DATA]
    assert verdict(found) == said
    assert found[0].error_in_e == pytest.approx(0.1, abs=2 * noise)
    assert found[0].margin == pytest.approx(0.1 * found[0].error_in_e)
    assert found[0].low <= found[0].gain <= found[0].high


def test_one_data_set_is_not_enough() -> None:
    runs, choices = table(0.02)
    other = [c for c in choices if c.data == DATA[0]]
    (found,) = compare(mistakes_of(runs, other), FAMILIES["same hypothesis class"])
    assert found.gains
    assert verdict([found]) == "undecided"
    assert verdict([]) == "undecided"
    runs, choices = table(0.02)
    some = mistakes_of(runs[runs["seed"] < 9], choices)
    few = compare(some, FAMILIES["same hypothesis class"])
    assert verdict(few) == "undecided"
    assert verdict([found, replace(found, cell=(DATA[1], 500), arm="rising")]) == "undecided"


def test_runs_are_paired_by_seed() -> None:
    """What all arms of a seed have in common takes nothing from a gain."""
    runs, choices = table(0.011, 0.0)
    shared = runs["seed"].map(dict(enumerate(np.linspace(-0.05, 0.05, len(SEEDS)))))
    runs["test_accuracy"] += shared
    runs["test_projected_accuracy"] += shared
    found = compare(mistakes_of(runs, choices), FAMILIES["same hypothesis class"])
    assert [c.gain for c in found] == pytest.approx([0.011] * 2)
    # every one of ten gains is above 0: 2 of 1,024 orders of signs; two comparisons, by Holm
    assert [c.p for c in found] == pytest.approx([2 / 1024] * 2)
    assert [c.adjusted for c in found] == pytest.approx([4 / 1024] * 2)
    with pytest.raises(ValueError, match="has other seeds than in E"):
        compare(
            mistakes_of(runs[(runs["mode"] == "augmented") | (runs["seed"] > 0)], choices),
            [ARMS["augmented"]],
        )
    fewer = {
        c: rows.iloc[:, int(c.arm == "in E") :] for c, rows in mistakes_of(runs, choices).items()
    }
    with pytest.raises(ValueError, match="augmented on mnist has other test images"):
        compare(fewer, [ARMS["augmented"]])
    with pytest.raises(ValueError, match="has 20 runs of 10 seeds"):
        runs_of(choices[0], pd.concat([runs, runs]))


def test_intervals_are_over_seeds_and_images() -> None:
    same = np.zeros((30, 1000), np.float32)
    same[:, :50] = (
        1  # every seed gains the same 50 images: another thousand would have more or less
    )
    found = interval(same, "test")
    spread = 1.645 * np.sqrt(0.05 * 0.95 / 1000)  # of a binomial share
    assert found.median == pytest.approx(0.05)
    assert (found.low, found.high) == pytest.approx((0.05 - spread, 0.05 + spread), abs=2e-3)
    gains = generator(0, "test", "gains").normal(size=101).astype(np.float32)
    alone = interval(np.repeat(gains[:, None], 20, 1), "test")  # all images alike: seeds alone
    over_seeds = median_interval(gains, "test", level=0.9)
    assert (alone.low, alone.high) == pytest.approx((over_seeds.low, over_seeds.high), abs=0.02)
    assert alone.low < alone.median < alone.high
    # sure of every seed, and yet no more than chance by a hundred images: no "no"
    _, choices = table(0.008, 0.0)
    for images, said in ((100_000, "no"), (500, "undecided")):
        errors = {"in E": 0.1, "augmented": 0.092}
        many = {c: wrong([errors[c.arm]] * 10, images) for c in choices}
        assert verdict(compare(many, [ARMS["augmented"]])) == said


def test_holm_never_falls_below_a_smaller_one() -> None:
    assert holm([0.04, 0.001, 0.5]) == [0.08, 0.003, 0.5]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_what_did_best_on_validation_images_is_chosen() -> None:
    """By the arm's own form; what does best on test images does not count."""
    parts = [
        rows_of("in E", "mnist", rate, None, [good] * 3)
        for rate, good in ((0.003, 0.7), (0.01, 0.8), (0.03, 0.8))
    ]
    parts += [
        rows_of("penalized", "mnist", 0.01, gamma, [good] * 3)
        for gamma, good in ((0.01, 0.75), (0.1, 0.85), (1.0, 0.6))
    ]
    runs = pd.concat(parts)
    runs.loc[runs["gamma"] == 0.01, "validation_averaged_accuracy"] = 0.95
    runs.loc[runs["gamma"] == 1.0, "test_projected_accuracy"] = 1.0
    found = {choice.arm: choice for choice in choose_of(runs)}
    assert (found["in E"].rate, found["in E"].gamma) == (0.01, None)  # of equal ones the smaller
    assert found["penalized"].gamma == 0.1
    assert found["augmented, averaged"].gamma == 0.01
    assert "rising" not in found
    with pytest.raises(ValueError, match=r"accepted: a sweep with validation images"):
        choose_of(runs.assign(validation_accuracy=None))


def test_the_second_stage_is_a_preset(tmp_path: Path) -> None:
    """It trains each choice once, and the workflow takes it."""
    runs, _ = table(0.02)
    first = tmp_path / "study-1"
    first.mkdir()
    write_table(first / "sweep.parquet", pa.Table.from_pandas(runs, preserve_index=False), {})
    keys = [key for key in runs.columns if "." in key]
    sweep: dict[str, list[Any]] = {key: runs[key].unique().tolist() for key in keys}
    sweep |= {"grid.modes": [["equivariant", "augmented"]], "grid.gammas": [[0]]}
    configuration = {
        "sweep": sweep,
        "data": {"name": "mnist", "folder": None, "validation": 100},
        "network": {"representation": "regular"},
        "initialization": {},
        "training": {"epochs": 1, "risk_scale": "mean"},
        "grid": {"seeds_per_job": 10},
    }
    (first / "configuration.yaml").write_text(yaml.safe_dump(configuration))
    preset, choices = tmp_path / "study-2.yaml", tmp_path / "study-2.json"
    choose(first, "study-2", "100-109", 1000, {500: 600}, preset, choices)
    made = load([preset])
    assert made.data.validation == 0
    assert (made.data.test_images, made.grid.seeds) == (1000, "100-109")
    assert made.network.representation == "regular"
    every = combinations(made.sweep)
    # "augmented" and "augmented, averaged" are the same runs
    assert len(every) == 2 * len(DATA)
    assert {c["training.learning_rate"] for c in every} == {0.01, 0.03}
    assert {(c["data.train_images"], c["training.epochs"]) for c in every} == {(600, 60)}
    choose(first, "study-2", "7", 1000, {500: 600}, preset, choices)
    assert load([preset]).grid.seeds == "7"  # not seven of them


def test_the_verdict_is_written_and_drawn(tmp_path: Path) -> None:
    """From weights that are stored; the table is what another implementation makes of them."""
    folder = tmp_path / "study-2"
    products = [
        {
            "data.name": [data],
            "data.train_images": [20],
            "training.learning_rate": [0.01],
            "training.gamma_schedule": ["constant"],
            "training.perturbation": [0.01],
            "grid.modes": [[mode]],
            "grid.gammas": [[0.0]],
        }
        for data in DATA
        for mode in ("equivariant", "augmented")
    ]
    chosen = {"experiment": "study-2", "sweep": products, "grid": {"seeds": 10}}
    rows = []
    for one, here, images, labels, network in stored(folder, chosen):
        (block,) = blocks(one.grid)
        draws = drawn(network, block.seeds, [one.data.name, block.mode])
        file = file_of(here, block, "safetensors")
        file.parent.mkdir(parents=True)
        save_weights(file, block.seeds, draws, {})
        inside = {
            n: space.project(draws[n].double()).float() for n, space in network.spaces.items()
        }
        turns = [torch.rot90(images, k, (-2, -1)) for k in range(4)]
        by_form = {
            "": reference_forward(network, draws)(images),
            "_projected": reference_forward(network, inside)(images),
            "_averaged": torch.stack([reference_forward(network, draws)(x) for x in turns]).mean(0),
        }
        rights = {f: (o.argmax(-1) == labels).double().mean(1) for f, o in by_form.items()}
        arm = "in E" if block.mode == "equivariant" else "augmented"
        own = rows_of(arm, str(one.data.name), 0.01, block.gamma, np.zeros(10))
        own = own.assign(**{"data.train_images": 20, "grid.modes": block.mode})
        rows.append(own.assign(**{f"test{f}_accuracy": r.numpy() for f, r in rights.items()}))
    runs = pd.concat(rows)
    write_table(folder / "sweep.parquet", pa.Table.from_pandas(runs, preserve_index=False), {})
    choices = [
        Choice(data, 20, arm, 0.01, None if arm == "in E" else 0.0, 0.9)
        for data in DATA
        for arm in ("in E", "augmented", "augmented, averaged")
    ]
    told = tmp_path / "choices.json"
    told.write_text(pd.Series({"choices": [vars(c) for c in choices]}).to_json())
    outputs = [tmp_path / name for name in ("verdict.md", "verdict.png")]
    judge(folder, told, tmp_path, outputs[0], outputs[1:])
    text = outputs[0].read_text()
    assert "- **same hypothesis class: " in text
    by_arm = compare(mistakes(folder, tmp_path, runs, choices), [ARMS["augmented, averaged"]])
    for found in by_arm:
        own = runs[(runs["data.name"] == found.cell[0]) & (runs["mode"] == "augmented")]
        assert found.error == pytest.approx(1 - own["test_averaged_accuracy"].median())
    line = next(line for line in text.splitlines() if line.startswith("| mnist | 20 | augmented |"))
    mine = runs[(runs["data.name"] == "mnist") & (runs["mode"] == "augmented")]
    assert f"| {100 * (1 - mine['test_projected_accuracy'].median()):.2f} |" in line
    judge(folder, told, tmp_path, outputs[0], outputs[1:], gate=0.05)
    assert "**No verdict**: networks in E err on 10.00 % on mnist, 10.00 % on fash" in (
        outputs[0].read_text()
    )
    judge(folder, told, tmp_path, outputs[0], outputs[1:], gate=0.1 + 1e-9)
    before = [output.read_bytes() for output in outputs]
    judge(folder, told, tmp_path, outputs[0], outputs[1:])
    assert [output.read_bytes() for output in outputs] == before
    other = runs.assign(test_accuracy=runs["test_accuracy"] + 0.05)
    fewer = runs[runs["seed"] < 4]  # a table of before, or of other seeds
    for table_of_others in (other, fewer):
        with pytest.raises(ValueError, match="in E on mnist, 20 images, has other seeds or errors"):
            mistakes(folder, tmp_path, table_of_others, choices)


def test_the_figure_shows_every_comparison() -> None:
    made = Comparison(
        ("mnist", 500), "augmented", 30, 0.08, 0.1, 0.02, 0.015, 0.03, 0.01, 1e-4, 1e-4
    )
    figure = arms_figure(
        {
            "a b": [made, replace(made, arm="rising", gain=-0.02, low=-0.03, high=-0.01)],
            "c d": [made],
        }
    )
    assert isinstance(figure, Figure)
    assert [len(panel.containers) for panel in figure.axes] == [2, 1]
    (medians, *_) = figure.axes[0].lines
    assert medians.get_xdata() == pytest.approx([2.0])
    far = arms_figure({"a b": [replace(made, gain=-0.2, low=-0.3, high=-0.1)]}).axes[0]
    assert far.texts[0].get_text().strip() == "\N{MINUS SIGN}20"  # off the scale: its number
    assert not far.containers


def test_a_bad_minimum_on_e_is_left_below_the_critical_gamma_alone() -> None:
    """And E is come back to, at the better one, without a penalty there."""
    bad, good = minima()
    for a in (bad, good):  # the risk on E has no slope there, and is curved upwards
        assert 4 * a * (a * a - 1) == pytest.approx(TILT)
        assert 12 * a * a - 4 > 0
    h = 1e-4  # the curvature off E by differences, at the bad one: -critical
    curvature = (risk(bad, h) - 2 * risk(bad, 0) + risk(bad, -h)) / h**2
    assert curvature == pytest.approx(-critical(), rel=1e-4)
    for share, end in ((0.0, good), (0.9, good), (1.1, bad)):
        a, b = descend(share * critical(), kick=1e-3, steps=40_000)[-1]
        assert (a, b) == pytest.approx((end, 0), abs=1e-6)
    assert descend(0.0, kick=0.0)[-1] == pytest.approx((bad, 0))
    assert risk(good, 0) < risk(bad, 0) - 0.9
    with pytest.raises(ValueError, match="tilt is 2; accepted"):
        minima(2.0)


RELEASE = "0.0:inf,0.5:0.0,0.75:inf"


def released(folder: Path, gain: float) -> Path:
    """A sweep: in E for 2 epochs and for 4; released, with so much less training risk and error."""
    sweep: list[dict[str, list[Any]]] = [
        {"training.gamma_schedule": ["constant"], "training.epochs": [2, 4]},
        {"training.gamma_schedule": [RELEASE], "training.epochs": [4]},
    ]
    rows = []
    for one in combinations(sweep):
        out = one["training.gamma_schedule"] != "constant"
        random = generator(0, "test", "released" if out else "in E")
        steps = 3 * one["training.epochs"]
        # the last epoch alone counts: before it a released network is worse
        losses = 1 + random.normal(0, 0.01, (len(SEEDS), steps))
        losses[:, :-3] += 5 * out
        losses[:, -3:] -= gain * out
        distances = np.zeros_like(losses)
        distances[:, 7:9] = 2.0 * out
        values = {"loss": losses, "distance": distances}
        values |= {f"distance_{name}": distances for name in ("conv1", "conv2", "linear")}
        mode: Mode = "augmented" if out else "equivariant"
        file = folder / path(one) / "runs" / mode / "gamma-0" / "seeds-000-009.parquet"
        file.parent.mkdir(parents=True)
        write_table(file, trajectory_table(mode, 0.0 if out else None, SEEDS, values), {})
        file.with_suffix(".evaluation.parquet").write_text("no trajectories")
        accuracies = 0.9 + gain * out + random.normal(0, 0.001, len(SEEDS))
        rows.append(pd.DataFrame({**one, "seed": SEEDS, "test_accuracy": accuracies}))
    table = pa.Table.from_pandas(pd.concat(rows), preserve_index=False)
    write_table(folder / "sweep.parquet", table, {"runs": {"sweep": sweep}})
    return folder


@pytest.mark.parametrize(("gain", "said"), [(0.2, "yes"), (0.0, "no"), (-0.2, "no")])
def test_networks_that_were_released_are_judged(tmp_path: Path, gain: float, said: str) -> None:
    folder = released(tmp_path / "study-escape", gain)
    critical = tmp_path / "critical.parquet"
    gammas = {"weights": ["start", "trained", "trained"], "critical_gamma": [9.0, 1.0, 3.0]}
    write_table(critical, pa.table(gammas), {})
    outputs = [tmp_path / name for name in ("escape.md", "escape.png")]
    escape(folder, outputs[0], outputs[1:], critical)
    text = outputs[0].read_text()
    assert f"- **{TEST}: {said}**" in text
    assert f"- **{TRAINING}: {said}**" in text
    assert "above gamma = 2 (median of 2 seeds, 1 to 3)" in text
    lines = [line for line in text.splitlines() if line.startswith("| released at 50 %")]
    assert len(lines) == 2
    word = {0.2: "better", 0.0: "", -0.2: "worse"}[gain]
    assert all([c.strip() for c in line.split("|")][-2] == word for line in lines)
    assert f"| {100 * (0.1 - gain):.0f}" in lines[0].replace("| 29.9", "| 30")
    assert outputs[1].stat().st_size > 10_000


def test_released_networks_need_others_and_seeds() -> None:
    ten = pd.Series(np.linspace(0.1, 0.2, 10))
    for every in ({"in E": ten}, {"released at 40 %": ten}):
        with pytest.raises(ValueError, match="accepted: constant and others, as many epochs"):
            compare_released(("x", 0), every, every)
    few = {"in E": ten[:9], "released at 40 %": ten[:9] / 2}
    found = compare_released(("x", 0), few, few)
    assert [verdict_released(some) for some in found.values()] == ["undecided"] * 2
    with pytest.raises(ValueError, match="steps are 7; accepted: a multiple of the 2 epochs"):
        by_epoch(np.zeros((1, 7)), 2)


PARTS = ("turned-mnist-0", "turned-mnist-50")
ERRORS = {  # of networks in E, augmented ones, nominal ones by gamma
    PARTS[0]: {"equivariant": 0.1, "augmented": 0.1, 0.0: 0.3, 0.1: 0.2, 1.0: 0.15},
    PARTS[1]: {"equivariant": 0.1, "augmented": 0.09, 0.0: 0.1, 0.1: 0.05, 1.0: 0.08},
}


def partly() -> pd.DataFrame:
    """Runs on data of which none and of which half is upright."""
    rows = []
    for data, errors in ERRORS.items():
        for key, error in errors.items():
            mode, gamma = (key, None) if key == "equivariant" else (key, 0.0)
            mode, gamma = ("nominal", key) if isinstance(key, float) else (mode, gamma)
            noise = generator(0, "test", data, str(key)).normal(0, 0.001, len(SEEDS))
            own = {"data.name": data, "mode": mode, "gamma": gamma, "seed": SEEDS}
            accuracies = dict.fromkeys(("test_accuracy", "validation_accuracy"), 1 - error + noise)
            rows.append(pd.DataFrame({**own, **accuracies}).astype({"gamma": float}))
    return pd.concat(rows)


def test_a_soft_symmetry_wins_where_it_beats_both() -> None:
    runs = partly()
    found = compare_nominal(runs)
    assert wins(found) == [50]
    assert [c.cell[1] for c in found["in E"]] == [0, 50]
    assert [round(c.gain, 2) for c in found["in E"]] == [-0.05, 0.05]
    assert [round(c.gain, 2) for c in found["augmented"]] == [-0.05, 0.04]
    assert found["in E"][1].arm == "nominal, gamma = 1e-1"
    assert found["in E"][0].adjusted == pytest.approx(4 * 2 / 1024)  # four comparisons, by Holm
    # not where one of them is as good
    even = runs.copy()
    even.loc[(even["mode"] == "augmented") & (even["data.name"] == PARTS[1]), "test_accuracy"] = (
        0.95
    )
    assert wins(compare_nominal(even)) == []


def test_the_gamma_is_chosen_on_validation_images() -> None:
    runs = partly()
    half = runs[runs["data.name"] == PARTS[1]].copy()
    half.loc[half["gamma"] == 1.0, "test_accuracy"] = 1.0
    assert best_gamma(half) == 0.1
    assert best_gamma(half.assign(validation_accuracy=0.5)) == 0.0  # of equal ones the smaller
    with pytest.raises(ValueError, match="no nominal mode or no validation images"):
        best_gamma(half.assign(validation_accuracy=None))


def stored(
    folder: Path, chosen: dict[str, Any]
) -> Iterator[tuple[Configuration, Path, Tensor, Tensor, Network]]:
    """Of each experiment of a sweep of small networks: folder, test images, labels, network.

    The configuration is written, and beside its folder the data sets.
    """
    folder.mkdir()
    small = {
        "data": {"validation": 5},
        "network": {"image_size": 12, "channels": [4, 4]},
        "training": {"batch_size": 5},
    }
    (folder / "configuration.yaml").write_text(yaml.safe_dump({**small, **chosen}))
    random = generator(0, "test", "images")
    labels = torch.arange(60, dtype=torch.uint8) % 10
    pixels = torch.from_numpy(random.integers(256, size=(60, 1, 12, 12), dtype=np.uint8))
    arrays = {"images": pixels, "labels": labels}
    tensors = {f"{s}_{n}": t.clone() for s in ("train", "test") for n, t in arrays.items()}
    configuration = load([folder / "configuration.yaml"])
    for one, at in zip(experiments(configuration), combinations(configuration.sweep), strict=True):
        save_file(tensors, folder.parent / f"{one.data.name}.safetensors")
        network = network_of(one.network)
        assert isinstance(network, Network)
        yield one, folder / path(at), pixels, labels, network


def drawn(network: Network, seeds: Sequence[int], role: list[str]) -> dict[str, Tensor]:
    """Weights of these runs."""
    random = generator(0, "test", *role)
    return {
        name: torch.from_numpy(random.normal(size=(len(seeds), *space.shape))).float()
        for name, space in network.spaces.items()
    }


def test_confusions_are_counted_and_all_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "study-asymmetry"
    chosen = {
        "experiment": "study-asymmetry",
        "sweep": {"data.name": list(PARTS)},
        "grid": {"modes": ["equivariant", "augmented", "nominal"], "gammas": [0], "seeds": 10},
    }
    rows = []
    for one, here, pixels, labels, network in stored(folder, chosen):
        for block in blocks(one.grid):
            draws = drawn(network, block.seeds, [one.data.name, block.mode])
            file = file_of(here, block, "safetensors")
            file.parent.mkdir(parents=True)
            save_weights(file, block.seeds, draws, {})
            predicted = reference_forward(network, draws)(pixels).argmax(-1)
            some = torch.isin(labels, torch.tensor(PAIR))
            expected = (predicted[:, some] == 15 - labels[some].long()).double().mean(1)
            own = {"data.name": one.data.name, "mode": block.mode, "gamma": block.gamma}
            accuracies = {n: 0.9 - 0.001 * np.array(block.seeds) for n in ("test_accuracy",)}
            accuracies["validation_accuracy"] = accuracies["test_accuracy"]
            rows.append(
                pd.DataFrame({**own, "seed": block.seeds, **accuracies, "expected": expected})
            )
        counted = confusions(one, here, tmp_path)[CONFUSED].to_numpy()
        wanted = pd.concat(rows[-3:])["expected"].to_numpy()
        assert counted == pytest.approx(wanted, abs=1 / 12 + 1e-9)  # a tie, rounded otherwise
        assert 0 < counted.mean() < 0.5
    table = pa.Table.from_pandas(pd.concat(rows).astype({"gamma": float}), preserve_index=False)
    write_table(folder / "sweep.parquet", table, {})
    outputs = [tmp_path / name for name in ("asymmetry.md", "asymmetry.png")]
    asymmetry(folder, tmp_path, outputs[0], outputs[1:])
    text = outputs[0].read_text()
    assert "- **soft equivariance wins nowhere**" in text
    cells = [[c.strip() for c in line.split("|")] for line in text.splitlines()]
    assert ["50 %", "nominal, best gamma (0)", "10"] in [row[1:4] for row in cells]
    assert "6 and 9 confused" in text
    assert outputs[1].stat().st_size > 10_000
