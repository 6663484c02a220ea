"""Train blocks of runs and record every step."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from equireg.binding import Binding, joined, options, with_source
from equireg.built import network_of
from equireg.dataset import load_dataset
from equireg.digest import job_digest
from equireg.files import remove_temporaries, sha256, write_json
from equireg.processes import Stop, locked
from equireg.provenance import processor, provenance
from equireg.runtime import say
from equireg.settings import (
    ALL_IMAGES,
    UNREAD,
    JobSettings,
    Mode,
    NetworkSettings,
    SelectionSettings,
    TrainingSettings,
)
from equireg.spelling import spell_seeds
from equireg.tables import FUNCTION_SCHEMA, distance_columns, run_columns, write_table
from equireg.training.batches import steps_of, steps_per_epoch
from equireg.training.blocks import Blocks
from equireg.training.checkpoint import Checkpoint
from equireg.training.recorder import Recorder, diverged, of_block
from equireg.training.step import Trainer
from equireg.training.watch import Watch
from equireg.weights import Shaped, load_weights, save_weights

# What a job leaves of a block; half of it, if it is killed.
TEMPORARIES = (".parquet", ".safetensors", ".json", ".function.parquet", ".diverged.parquet")
PATIENCE = 0.5  # seconds of steps between two looks at whether to end
SHORTEST = 10  # steps between two savings of the state, at least, where epochs are shorter
SEGMENT = 120.0  # seconds of steps that a kill may cost, where an epoch takes longer


def train(
    blocks: Blocks,
    settings: NetworkSettings,
    training: TrainingSettings,
    data: Path,
    initial: Path,
    outputs: Sequence[Path],
    device: str,
    jobs: JobSettings,
    stop: Stop,
    selection: SelectionSettings = ALL_IMAGES,
) -> None:
    """Train the runs of some blocks, all at once; write what they recorded and became.

    outputs: each block's trajectories (parquet); its weights (safetensors, with the final
    distances) and provenance (JSON) go beside them. After every epoch what was recorded and the
    state go to ``<first output's stem>.checkpoint/``, from where the same call goes on if this one
    is cut off. stop: says when to end early.

    Raises ValueError for settings that do not fit together; FloatingPointError, after writing
    ``<output's stem>.diverged.parquet``, if a run diverges; SystemExit, after saving the state, if
    the process is told to end.
    """
    began = time.perf_counter()
    check_outputs(outputs, len(blocks.gammas))
    blocks.refuse_unstable(training)
    network, dataset = network_of(settings), load_dataset(data, settings, selection)
    subset = selection.train_images
    epoch = steps_per_epoch(subset or len(dataset.train_labels), training)
    kept: dict[str, Shaped] = {**network.spaces, **network.buffers}
    weights, about = load_weights(initial, blocks.seeds, kept)
    trainer = blocks.trainer(network, weights, training, dataset.train_images, device, jobs)
    of_data = {"sha256": sha256(data), **dataclasses.asdict(selection)}
    made = binding_of(blocks, settings, training, {initial: about}, of_data)
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    how = {
        "device": name if device == "cuda" else "cpu",
        "threads": jobs.threads,
        "step": type(trainer).__name__.lower(),
        **provenance(),
    }
    key = checkpoint_key(made, how, gammas=blocks.gammas, device=device, initial=sha256(initial))
    steps = steps_of(subset or len(dataset.train_labels), training)
    with hold(outputs, stop):
        checkpoint = Checkpoint(checkpoint_folder(outputs[0]), key, name)
        parts = dataset.test_images, dataset.test_labels
        watch = Watch(network, *parts, epoch, steps, training.batch_size)
        if state := checkpoint.resume():
            trainer.restore(state)
            watch.restore(state)
            say(f"resumed at step {checkpoint.step} of {steps} from {checkpoint.folder}")
        write_json(checkpoint.folder / "made.json", {"made": made, "steps": steps})
        recorder = Recorder(blocks, outputs, list(network.spaces), steps, checkpoint, made)
        labels = dataset.train_labels.to(device)
        images = dataset.train_images.to(device)
        given = blocks.chunks(network, labels, training, checkpoint.step, subset, images)
        saved = epoch * -(-SHORTEST // epoch)
        train_to_end(trainer, recorder, given, saved, stop, watch, jobs.threads)
        write(trainer, recorder, how, time.perf_counter() - began, watch)
        if stop.asked:  # whoever told it to end may take these files for unfinished ones
            stop.leave(f"ended at step {steps} of {steps}; the same command finishes at once")
        for output in outputs:
            shutil.rmtree(checkpoint_folder(output), ignore_errors=True)
            diverged(output).unlink(missing_ok=True)


def binding_of(
    blocks: Blocks,
    settings: NetworkSettings,
    training: TrainingSettings,
    initial: Mapping[Path | str, Binding],
    data: Mapping[str, Any],
) -> dict[str, Any]:
    """What makes the runs of these blocks: settings, the data, the code.

    initial: the binding of their initial weights, by its file; data: its SHA-256 sum, and which of
    it are taken.
    """
    chosen = dataclasses.asdict(training)
    read = {name: value for name, value in chosen.items() if name not in UNREAD[blocks.mode]}
    command = {**options(network=settings), "training": read, "data": data}
    return with_source(
        joined({**initial, "the command": command}),
        "train",
        job_digest("train"),
        runs={"mode": blocks.mode, "seeds": spell_seeds(list(blocks.seeds))},
    )


def check_outputs(outputs: Sequence[Path], blocks: int) -> None:
    """Raise ValueError unless there is a parquet of its own for each block."""
    given = ", ".join(map(str, outputs))
    if any(output.suffix != ".parquet" for output in outputs):
        raise ValueError(f"output is {given}; accepted: a name that ends in .parquet")
    if not len(outputs) == len(set(outputs)) == blocks:
        raise ValueError(f"output is {given}; accepted: one for each gamma, {blocks} in all")


def write(
    trainer: Trainer,
    recorder: Recorder,
    how: Mapping[str, Any],
    seconds: float,
    watch: Watch,
) -> None:
    """Write what the runs became, block by block. Raises FloatingPointError if one diverged."""
    names = distance_columns(recorder.layers)
    final = dict(zip(names, trainer.distances().unbind(1), strict=True))
    trained = {**trainer.weights(), **final}
    recorder.check_end(trained)
    blocks = recorder.blocks
    for block, (gamma, output) in enumerate(zip(blocks.gammas, recorder.outputs, strict=True)):
        own = slice(block * len(blocks.seeds), (block + 1) * len(blocks.seeds))
        weights = {layer: tensor[own] for layer, tensor in trained.items()}
        made = of_block(recorder.made, gamma)
        save_weights(output.with_suffix(".safetensors"), blocks.seeds, weights, made)
        recorder.write(block, output, recorder.steps)
        seen = torch.stack(watch.looks, 1)[own].numpy()
        table = function_table(recorder.blocks.mode, gamma, recorder.blocks.seeds, seen)
        write_table(output.with_suffix(".function.parquet"), table, made)
        story = {
            "made": made,
            "processes": recorder.checkpoint.processes,
            "wall_seconds": round(seconds, 3),
        }
        write_json(output.with_suffix(".json"), {**how, **story})


def function_table(
    mode: Mode, gamma: float | None, seeds: Sequence[int], seen: np.ndarray
) -> pa.Table:
    """Rows sorted by seed and step from what was seen, (seeds, looks, columns)."""
    count = seen.shape[1]
    columns = run_columns(mode, gamma, np.repeat(np.asarray(seeds, np.int32), count))
    steps, *values = seen.reshape(-1, seen.shape[2]).T
    columns.append(pa.array(steps.astype(np.int32)))
    columns += [pa.array(column, from_pandas=True) for column in values]  # NaN: null
    return pa.Table.from_arrays(columns, schema=FUNCTION_SCHEMA)


def checkpoint_folder(output: Path) -> Path:
    """Where the checkpoint of a job is kept whose first output this is."""
    return output.with_suffix(".checkpoint")


def checkpoint_key(made: Binding, how: Mapping[str, Any], **more: object) -> str:
    """What determines a training's bits on one machine, as a SHA-256 sum.

    made, how: the binding of its results, and where they came from. Not the threads, nor paths and
    names of files.
    """
    libraries = {name: how["libraries"][name] for name in ("torch", "numpy")}
    bits = {**made, **more, "step": how["step"], "libraries": libraries}
    return hashlib.sha256(json.dumps(bits, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def hold(outputs: Sequence[Path], stop: Stop) -> Iterator[None]:
    """Be the one process that writes these blocks; remove what one that was killed half wrote."""
    with contextlib.ExitStack() as locks:
        for output in sorted(outputs):  # sorted, so that two jobs never wait for each other
            locks.enter_context(locked(output.with_suffix(".lock"), stop))
            for suffix in TEMPORARIES:
                remove_temporaries(output.with_suffix(suffix))
        if stop.asked:  # it may have ended the compiler, so that the step is another one
            stop.leave("ended before the first step; nothing was changed")
        yield


def train_to_end(
    trainer: Trainer,
    recorder: Recorder,
    given: Iterable[tuple[Tensor, ...]],
    saved: int,
    stop: Stop,
    watch: Watch,
    threads: int,
) -> None:
    """Train to the end, saving the state every ``saved`` steps, and when told to end.

    given: what ``Trainer.advance`` takes, chunk by chunk. Looks up every ``PATIENCE`` seconds.
    """
    count = 1
    watch.look(recorder.done, trainer, threads)
    for chunk in given:
        while chunk[0].shape[1]:
            if stop.asked:
                recorder.save({**trainer.state(), **watch.state()})
                stop.leave(
                    f"ended at step {recorder.done} of {recorder.steps}; the same command goes on "
                    "from there"
                )
            began = time.perf_counter()
            count = min(count, chunk[0].shape[1], saved - recorder.done % saved)
            recorder.add(trainer.advance(*(x[:, :count] for x in chunk)))
            watch.look(recorder.done, trainer, threads)
            if recorder.done % saved == 0 or time.perf_counter() - recorder.saved > SEGMENT:
                recorder.save({**trainer.state(), **watch.state()})
            chunk = tuple(x[:, count:] for x in chunk)
            pace = (time.perf_counter() - began) / count
            count = max(1, min(10 * count, int(PATIENCE / pace)))
