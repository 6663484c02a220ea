"""Made-up experiments in the layout of the real ones, for tests of what comes after training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from equireg.binding import options
from equireg.jobs.train import function_table
from equireg.plan import ENSEMBLES, Block, blocks, conditions
from equireg.settings import (
    UNREAD,
    GridSettings,
    InitializationSettings,
    NetworkSettings,
    TrainingSettings,
)
from equireg.spelling import spell_seeds
from equireg.tables import ENSEMBLE_SCHEMA, RUN_FIELDS, run_columns, trajectory_table, write_table

LAYERS = {"conv1": 96, "conv2": 1536, "linear": 5760}  # dimensions of E-perp


def distances(
    mode: str, gamma: float | None, seed: int, steps: int, perturbation: float = 1e-3
) -> dict[str, np.ndarray]:
    """Loss and distances to E, (steps,) each, shaped like the paper's; reproducible.

    Per layer: a start of ``perturbation`` times the root of the dimension, relaxation to a level
    that noise (augmented) or the nominal gradient and gamma set, and noise about it.
    """
    random = np.random.default_rng([seed, len(mode)])
    time = np.linspace(0, 60, steps)  # lr times 60,000 steps
    metrics = {"loss": (2.3 * np.exp(-time / 5) + random.gamma(0.5, 0.4, steps))}
    total = np.zeros(steps)
    for layer, dimension in LAYERS.items():
        if gamma is None:
            layer_distance = np.zeros(steps)
        else:
            rate = gamma + 0.005
            push = {"nominal": 0.03, "augmented": 0.004}[mode] * random.lognormal(0, 0.3)
            start = perturbation * np.sqrt(dimension) * np.exp(-rate * time)
            level = push / rate * (1 - np.exp(-rate * time))
            wobble = np.exp(0.08 * _wander(random, time, max(rate, 0.3)))
            layer_distance = np.hypot(start, level * wobble * (random.lognormal(0, 0.1)))
        metrics[f"distance_{layer}"] = layer_distance
        total += layer_distance**2
    metrics["distance"] = np.sqrt(total)
    order = ["loss", "distance", *(f"distance_{layer}" for layer in LAYERS)]
    return {name: metrics[name].astype(np.float32) for name in order}


def _wander(random: np.random.Generator, time: np.ndarray, rate: float) -> np.ndarray:
    """A stationary autoregressive path of unit variance."""
    from scipy.signal import lfilter

    keep = np.exp(-rate * (time[1] - time[0])) if len(time) > 1 else 0.0
    noise = random.standard_normal(len(time)) * np.sqrt(1 - keep**2)
    return np.asarray(lfilter([1.0], [1.0, -keep], noise))


def binding(block: Block, perturbation: float = 1e-3) -> dict[str, Any]:
    """What a block says of itself that the default settings made."""
    training = dataclasses.asdict(TrainingSettings(perturbation=perturbation))
    return {
        **options(network=NetworkSettings(), initialization=InitializationSettings()),
        "training": {k: v for k, v in training.items() if k not in UNREAD[block.mode]},
        "data": {"sha256": "0" * 64},
        "source": {"initialize": "1" * 64, "train": "2" * 64},
        "runs": {"mode": block.mode, "gamma": block.gamma, "seeds": spell_seeds([*block.seeds])},
    }


def write_block(experiment: Path, block: Block, steps: int, perturbation: float = 1e-3) -> None:
    """The trajectories and the evaluation of one block."""
    runs = [distances(block.mode, block.gamma, seed, steps, perturbation) for seed in block.seeds]
    metrics = {name: np.stack([run[name] for run in runs]) for name in runs[0]}
    path = experiment / block.path.with_name(block.name + ".parquet")
    made = binding(block, perturbation)
    write_table(path, trajectory_table(block.mode, block.gamma, block.seeds, metrics), made)
    write_function(experiment, block, steps, perturbation)
    write_evaluation(experiment, block, metrics["distance"][:, -1], perturbation)


def write_evaluation(
    experiment: Path, block: Block, final_distances: np.ndarray, perturbation: float = 1e-3
) -> None:
    """The evaluation of one block, with the distances (seeds,) after its last step."""
    accuracy = pa.array([0.9 + seed / 1000 for seed in block.seeds], pa.float32())
    runs = run_columns(block.mode, block.gamma, np.array(block.seeds))
    change = pa.array([0.5 + seed / 1000 for seed in block.seeds], pa.float32())
    columns = [*runs, pa.array(final_distances), accuracy, change]
    names = ("final_distance", "test_accuracy", "prediction_change")
    extra = [pa.field(name, pa.float32()) for name in names]
    write_table(
        experiment / block.path.with_name(block.name + ".evaluation.parquet"),
        pa.Table.from_arrays(columns, schema=pa.schema([*RUN_FIELDS, *extra])),
        binding(block, perturbation),
    )


def write_function(experiment: Path, block: Block, steps: int, perturbation: float = 1e-3) -> None:
    """Two looks at each run: what a gamma leaves, and more of it in the nominal mode."""
    size = 0.0 if block.gamma is None else {"nominal": 1.0, "augmented": 0.1}[block.mode]
    seen = np.array([[[0, size / 2, size / 3], [steps, size, size / 2]]] * len(block.seeds))
    table = function_table(block.mode, block.gamma, block.seeds, seen)
    path = experiment / block.path.with_name(f"{block.name}.function.parquet")
    write_table(path, table, binding(block, perturbation))


def write_ensembles(experiment: Path, grid: GridSettings, perturbation: float = 1e-3) -> None:
    """Of each mode and gamma one, of all seeds."""
    for (mode, gamma), group in conditions(grid).items():
        seeds = [seed for block in group for seed in block.seeds]
        row = {"mode": mode, "gamma": gamma, "members": len(seeds), "seeds": spell_seeds(seeds)}
        row |= dict.fromkeys(ENSEMBLE_SCHEMA.names[4:], 0.5)
        table = pa.Table.from_pylist([row], schema=ENSEMBLE_SCHEMA)
        made = binding(group[0], perturbation)
        write_table(experiment / group[0].path.with_name(ENSEMBLES), table, made)


def write_experiment(
    experiment: Path, grid: GridSettings, steps: int, perturbation: float = 1e-3
) -> None:
    """Every block of ``grid``."""
    for block in blocks(grid):
        write_block(experiment, block, steps, perturbation)
    write_ensembles(experiment, grid, perturbation)
