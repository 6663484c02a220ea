"""What a sweep's trained networks answer to each test image, from their stored weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from equireg.built import network_of
from equireg.config import Configuration, experiments, load
from equireg.dataset import load_dataset
from equireg.inventory import file_of
from equireg.plan import Block, blocks
from equireg.settings import JobSettings, SelectionSettings, part
from equireg.study.arms import ARMS, Form
from equireg.study.choosing import Choice
from equireg.sweeps import Combination, cell, combinations, path
from equireg.training.function import forward_of, turned_outputs
from equireg.training.projected import projected
from equireg.weights import load_weights

AT_ONCE = 500  # images; bounds the memory
ROUNDING = 1e-3  # of errors, or one image: another processor may answer some otherwise


class Answers(NamedTuple):
    """Of a block's runs: the classes they name, (runs, images), and the true ones, (images,)."""

    block: Block
    named: Tensor
    labels: Tensor


def each_experiment(experiment: Path) -> Iterator[tuple[Configuration, Combination, Path]]:
    """The experiments of a sweep, each with its values of the keys swept and its folder."""
    configuration = load([experiment / "configuration.yaml"])
    every = zip(experiments(configuration), combinations(configuration.sweep), strict=True)
    for one, at in every:
        yield one, at, experiment / path(at)


def answers(
    one: Configuration,
    folder: Path,
    data: Path,
    forms: Sequence[Form],
    classes: Sequence[int] | None = None,
    threads: int = 1,
) -> Iterator[tuple[Form, Answers]]:
    """Of each block of an experiment, in each form.

    folder: of the experiment; data: that of the data sets; classes: of test images, the others are
    left out.
    """
    selection = part(SelectionSettings, one.data)
    dataset = load_dataset(data / f"{one.data.name}.safetensors", one.network, selection)
    images, labels = dataset.test_images, dataset.test_labels.long()
    if classes is not None:
        here = torch.isin(labels, torch.tensor(classes))
        images, labels = images[here], labels[here]
    network, jobs = network_of(one.network), JobSettings(threads=threads)
    for block in blocks(one.grid):
        file = file_of(folder, block, "safetensors")
        held, _ = load_weights(file, block.seeds, {**network.spaces, **network.buffers})
        for form in forms:
            weights = held
            if form == "projected":
                whole, count = dataset.train_images, one.data.train_images
                weights = projected(network, held, block.seeds, whole, count)
            forward = forward_of(network, weights, images, jobs)
            named = [
                (
                    turned_outputs(network, forward, some).mean(0)
                    if form == "averaged"
                    else forward(some)
                ).argmax(-1)
                for some in images.split(AT_ONCE)
            ]
            yield form, Answers(block, torch.cat(named, 1), labels)


def mistakes(
    experiment: Path, data: Path, table: pd.DataFrame, choices: Sequence[Choice], threads: int = 1
) -> dict[Choice, pd.DataFrame]:
    """Of each choice, which test images its runs get wrong: a row per seed, a column per image.

    experiment: folder of the sweep that trained the choices; table: over it; data: folder of the
    data sets. Raises ValueError where a choice was not trained, or where the stored weights do not
    have the table's accuracies.
    """
    trained = {choice: runs_of(choice, table) for choice in choices}
    parts: dict[Choice, list[pd.DataFrame]] = {choice: [] for choice in choices}
    for one, at, folder in each_experiment(experiment):
        here = [c for c in choices if all(trained[c][k].iloc[0] == cell(v) for k, v in at.items())]
        forms = list(dict.fromkeys(ARMS[choice.arm].form for choice in here))
        for form, (block, named, labels) in answers(one, folder, data, forms, threads=threads):
            wrong = pd.DataFrame((named != labels).numpy(), index=list(block.seeds))
            for choice in here:
                arm = ARMS[choice.arm]
                if (arm.form, arm.mode, choice.gamma) == (form, block.mode, block.gamma):
                    parts[choice].append(wrong)
    found = {}
    for choice, runs in trained.items():
        told = 1 - runs[ARMS[choice.arm].column("test")]
        wrong = pd.concat(parts[choice]).sort_index() if parts[choice] else pd.DataFrame()
        off = wrong.mean(axis=1).sub(told).abs().max(skipna=False)
        if not off < max(ROUNDING, 1.5 / max(wrong.shape[1], 1)):
            raise ValueError(
                f"{choice.arm} on {choice.data}, {choice.images} images, has other seeds or errors "
                f"by its weights in {experiment} than by the table; accepted: weights and a table "
                "of the same runs"
            )
        found[choice] = wrong
    return found


def runs_of(choice: Choice, table: pd.DataFrame) -> pd.DataFrame:
    """The runs of a choice, by seed. Raises ValueError if there is not one of each seed."""
    runs = choice.runs(table)
    if runs.empty or runs.index.has_duplicates:
        raise ValueError(
            f"{choice.arm} on {choice.data}, {choice.images} images, has {len(runs)} runs of "
            f"{runs.index.nunique()} seeds; accepted: one of each"
        )
    return runs
