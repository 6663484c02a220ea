"""Train blocks of runs and record every step."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from equireg.binding import Binding, joined, options, with_source
from equireg.dataset import load_dataset
from equireg.digest import job_digest
from equireg.files import remove_temporaries, sha256, write_json
from equireg.processes import Stop, locked
from equireg.provenance import processor, provenance
from equireg.randomness import generator
from equireg.runtime import say
from equireg.settings import (
    UNREAD,
    JobSettings,
    Mode,
    NetworkSettings,
    TrainingSettings,
    spell_gamma,
    spell_seeds,
)
from equireg.tables import distance_columns
from equireg.training.batches import batches, elements, steps_per_epoch, turned
from equireg.training.checkpoint import Checkpoint
from equireg.training.compiled import Compiled, choose
from equireg.training.fused import Fused, fused
from equireg.training.graphed import Graphed
from equireg.training.network import Network
from equireg.training.recorder import Recorder, diverged, of_block
from equireg.training.step import Reference, Runs, Trainer, start
from equireg.weights import load_weights, save_weights

CHUNK = 1000  # steps whose batches are gathered at once
PATIENCE = 0.5  # seconds of steps between two looks at whether to end
SEGMENT = 120.0  # seconds of steps that a kill may cost, where an epoch takes longer


def train(
    mode: Mode,
    gammas: Sequence[float],
    seeds: Sequence[int],
    settings: NetworkSettings,
    training: TrainingSettings,
    data: Path,
    initial: Path,
    outputs: Sequence[Path],
    device: str,
    jobs: JobSettings,
    stop: Stop,
) -> None:
    """Train a block of ``seeds`` per gamma, all at once; write what they recorded and became.

    outputs: each block's trajectories (parquet); its weights (safetensors, with the final
    distances) and provenance (JSON) go beside them. The equivariant mode has one block, no gamma.
    After every epoch what was recorded and the state go to ``<first output's stem>.checkpoint/``,
    from where the same call goes on if this one is cut off. stop: says when to end early.

    Raises ValueError for settings that do not fit together; FloatingPointError, after writing
    ``<output's stem>.diverged.parquet``, if a run diverges; SystemExit, after saving the state, if
    the process is told to end.
    """
    began = time.perf_counter()
    check(mode, gammas, training)
    penalties: list[float | None] = list(gammas) or [None]
    check_outputs(outputs, len(penalties))
    network = Network(settings)
    dataset = load_dataset(data, settings.image_size, settings.classes)
    if training.batch_size > len(dataset.train_labels):
        raise ValueError(
            f"batch_size is {training.batch_size}; accepted: at most {len(dataset.train_labels)}, "
            f"the training images of {data}"
        )
    weights, about = load_weights(initial, seeds, network.layers)
    exact = start_runs(network, weights, mode, penalties, seeds, training.perturbation)
    runs, network = exact.to(device, torch.float32), network.to(device, torch.float32)
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    trainer = choose_trainer(
        network, runs, turned(images, elements(network.group, mode)), training, jobs
    )

    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    chosen = {k: v for k, v in dataclasses.asdict(training).items() if k not in UNREAD[mode]}
    read = {"training": chosen, "data": {"sha256": sha256(data)}}
    made = with_source(
        joined({initial: about, "the command": {**options(network=settings), **read}}),
        "train",
        job_digest("train"),
        runs={"mode": mode, "seeds": spell_seeds(list(seeds))},
    )
    how = {
        "device": name if device == "cuda" else "cpu",
        "threads": jobs.threads,
        "step": type(trainer).__name__.lower(),
        **provenance(),
    }
    key = checkpoint_key(made, how, gammas=penalties, device=device, initial=sha256(initial))
    epoch, layers = steps_per_epoch(len(labels), training), list(network.layers)
    steps = epoch * training.epochs
    with hold(outputs, stop):
        checkpoint = Checkpoint(checkpoint_folder(outputs[0]), key, name)
        if state := checkpoint.resume():
            trainer.restore(state)
            say(f"resumed at step {checkpoint.step} of {steps} from {checkpoint.folder}")
        write_json(checkpoint.folder / "made.json", {"made": made, "steps": steps})
        recorder = Recorder(mode, penalties, seeds, outputs, layers, steps, checkpoint, made)
        chunks = batches(network.group, mode, seeds, labels, training, CHUNK, checkpoint.step)
        advance(trainer, recorder, chunks, epoch, stop)

        final = dict(zip(distance_columns(layers), trainer.distances().unbind(1), strict=True))
        trained = {**trainer.weights(), **final}
        recorder.check_end(trained)
        for block, (gamma, output) in enumerate(zip(penalties, outputs, strict=True)):
            own = slice(block * len(seeds), (block + 1) * len(seeds))
            weights = {layer: tensor[own] for layer, tensor in trained.items()}
            whole = of_block(made, gamma)
            save_weights(output.with_suffix(".safetensors"), seeds, weights, whole)
            recorder.write(block, output, steps)
            story = {
                "made": whole,
                "processes": checkpoint.processes,
                "wall_seconds": round(time.perf_counter() - began, 3),
            }
            write_json(output.with_suffix(".json"), {**how, **story})
        if stop.asked:  # whoever told it to end may take these files for unfinished ones
            stop.leave(f"ended at step {steps} of {steps}; the same command finishes at once")
        for output in outputs:
            shutil.rmtree(checkpoint_folder(output), ignore_errors=True)
            diverged(output).unlink(missing_ok=True)


def check(mode: Mode, gammas: Sequence[float], training: TrainingSettings) -> None:
    """Raise ValueError for gammas that the mode does not take, or settings that cannot train."""
    if (mode == "equivariant") != (not gammas):
        needs = "no gamma: it has no penalty" if mode == "equivariant" else "a gamma, 0 or more"
        given = ", ".join(map(spell_gamma, gammas)) or "none"
        raise ValueError(f"gamma is {given}; mode {mode} takes {needs}")
    if not 0 < training.learning_rate < math.inf:
        raise ValueError(f"learning_rate is {training.learning_rate}; accepted: more than 0")
    for gamma in gammas:
        if not 0 <= gamma * training.learning_rate <= 2:
            raise ValueError(
                f"gamma is {spell_gamma(gamma)}; accepted: 0 to {2 / training.learning_rate:g}, "
                "since explicit steps are unstable where learning_rate * gamma > 2"
            )
    for name in ("batch_size", "epochs"):
        if getattr(training, name) < 1:
            raise ValueError(f"{name} is {getattr(training, name)}; accepted: 1 or more")
    if not 0 <= training.perturbation < math.inf:
        raise ValueError(f"perturbation is {training.perturbation}; accepted: 0 or more")


def check_outputs(outputs: Sequence[Path], blocks: int) -> None:
    """Raise ValueError unless there is a parquet of its own for each block."""
    given = ", ".join(map(str, outputs))
    if any(output.suffix != ".parquet" for output in outputs):
        raise ValueError(f"output is {given}; accepted: a name that ends in .parquet")
    if not len(outputs) == len(set(outputs)) == blocks:
        raise ValueError(f"output is {given}; accepted: one for each gamma, {blocks} in all")


def start_runs(
    network: Network,
    weights: Mapping[str, Tensor],
    mode: Mode,
    gammas: Sequence[float | None],
    seeds: Sequence[int],
    deviation: float,
) -> Runs:
    """The runs as they start, sorted by gamma as given, then by seed.

    In float64, so that the coordinates of a weight in E are exact, to be rounded to float32 once.
    """

    def stacked(block: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: torch.cat([tensor] * len(gammas)) for name, tensor in block.items()}

    noise = None
    if mode != "equivariant":
        draws = [perturbation(network, mode, seed, deviation) for seed in seeds]
        noise = stacked({name: torch.stack([x[name] for x in draws]) for name in network.layers})
    return start(network, stacked(weights), noise, [g or 0.0 for g in gammas for _ in seeds])


def perturbation(network: Network, mode: Mode, seed: int, deviation: float) -> dict[str, Tensor]:
    """Gaussian noise on every entry of every layer, float64, of its own for each mode and seed."""
    return {
        name: deviation
        * torch.from_numpy(generator(seed, "perturbation", mode, name).standard_normal(space.shape))
        for name, space in network.layers.items()
    }


def choose_trainer(
    network: Network, runs: Runs, images: Tensor, training: TrainingSettings, jobs: JobSettings
) -> Compiled | Fused | Reference:
    """What trains the block: the step compiled for the device, or the reference."""
    scale = training.scale
    arguments = network, runs, images, training.learning_rate, scale
    if images.device.type == "cuda":
        plain = Reference if jobs.step == "reference" else Graphed
        return choose(jobs.step, lambda: fused(*arguments), lambda: plain(*arguments))
    return choose(
        jobs.step,
        lambda: Compiled(*arguments, threads=jobs.threads),
        lambda: Reference(*arguments),
    )


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
            for suffix in (".parquet", ".safetensors", ".json", ".diverged.parquet"):
                remove_temporaries(output.with_suffix(suffix))
        if stop.asked:  # it may have ended the compiler, so that the step is another one
            stop.leave("ended before the first step; nothing was changed")
        yield


def advance(
    trainer: Trainer,
    recorder: Recorder,
    chunks: Iterable[tuple[Tensor, Tensor]],
    epoch: int,
    stop: Stop,
) -> None:
    """Train to the end, saving the state every ``epoch`` steps, and when told to end.

    chunks: the batches of the seeds, which the blocks share. Looks up every ``PATIENCE`` seconds.
    """
    count = 1
    for rows, classes in chunks:
        while rows.shape[1]:
            if stop.asked:
                recorder.save(trainer.state())
                stop.leave(
                    f"ended at step {recorder.done} of {recorder.steps}; the same command goes on "
                    "from there"
                )
            began = time.perf_counter()
            count = min(count, rows.shape[1], epoch - recorder.done % epoch)
            part = (x[:, :count].repeat(len(recorder.gammas), 1, 1) for x in (rows, classes))
            recorder.add(trainer.advance(*part))
            if recorder.done % epoch == 0 or time.perf_counter() - recorder.saved > SEGMENT:
                recorder.save(trainer.state())
            rows, classes = rows[:, count:], classes[:, count:]
            pace = (time.perf_counter() - began) / count
            count = max(1, min(10 * count, int(PATIENCE / pace)))
