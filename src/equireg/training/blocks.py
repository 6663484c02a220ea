"""The blocks of runs of one training job: what trains them, and on what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equireg.settings import MODES, JobSettings, Mode, TrainingSettings
from equireg.spelling import spell_gamma
from equireg.training.batches import Move, batches, steps_of
from equireg.training.optimizers import optimizer_of
from equireg.training.schedules import along, gamma_schedule, learning_rates, risk_scale
from equireg.training.start import start_runs
from equireg.training.step import Trainable, Trainer
from equireg.training.trainers import choose_trainer

CHUNK = 1000  # steps whose batches are gathered at once
MOVED = 2**24  # numbers, where images are moved one by one: fewer steps, so that they fit


@dataclass(frozen=True)
class Blocks:
    """One mode, a gamma per block, and the seeds that all of them share.

    The equivariant mode has one block, whose gamma is None. Runs are sorted by gamma as given, then
    by seed.
    """

    mode: Mode
    gammas: tuple[float | None, ...]
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, mode: Mode, gammas: Sequence[float], seeds: Sequence[int]) -> Blocks:
        """The blocks that a command line names: no gamma is that of the equivariant mode.

        Raises ValueError for gammas that the mode does not take.
        """
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; accepted: {', '.join(MODES)}")
        if (mode == "equivariant") != (not gammas):
            needs = "no gamma: it has no penalty" if mode == "equivariant" else "a gamma, 0 or more"
            given = ", ".join(map(spell_gamma, gammas)) or "none"
            raise ValueError(f"gamma is {given}; mode {mode} takes {needs}")
        return cls(mode, tuple(gammas) or (None,), tuple(seeds))

    def refuse_unstable(self, training: TrainingSettings) -> None:
        """Raise ValueError for a gamma with which steps of this size are unstable."""
        for mistake in training.unstable(tuple(g for g in self.gammas if g is not None)):
            raise ValueError(f"gamma is {spell_gamma(mistake.value)}; {mistake.remedy}")

    def trainer(
        self,
        network: Trainable,
        weights: Mapping[str, Tensor],
        training: TrainingSettings,
        images: Tensor,
        device: str,
        jobs: JobSettings,
    ) -> Trainer:
        """What trains these runs from ``weights`` in E, (seeds, *shape), float32 on the device.

        weights: with the network's buffers; images: (count, channels, height, width) of uint8.
        """
        runs = start_runs(
            network.spaces,
            weights,
            self.mode,
            self.seeds,
            training.perturbation,
            len(self.gammas),
            training.perturbation_unit,
        )
        for name in network.buffers:
            runs.buffers[name] = torch.cat([weights[name]] * len(self.gammas))
        table = images.to(device)
        if self.mode == "augmented" and network.listed:
            table = network.orbit(table)
        held = runs.to(device, torch.float32)
        scale, optimizer = risk_scale(training), optimizer_of(training)
        return choose_trainer(network, held, table, scale, jobs, optimizer)

    def chunks(
        self,
        network: Trainable,
        labels: Tensor,
        training: TrainingSettings,
        first: int = 0,
        subset: int | None = None,
        images: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, ...]]:
        """What every run trains on from step ``first`` on: what ``Trainer.advance`` takes.

        The blocks share the batches of their seeds. subset: of the images, for each seed. images:
        needed where the group's elements are too many for a table, and each is moved by its own.
        """
        total = steps_of(subset or len(labels), training)
        gammas = [gamma_schedule(gamma, training) for gamma in self.gammas]
        seeds, runs = len(self.seeds), len(self.seeds) * len(gammas)
        augmented, chunk = self.mode == "augmented", CHUNK
        moved = network.target_orbit(labels) if augmented and network.listed else None
        move: Move | None = None
        if augmented and not network.listed:
            assert images is not None
            numbers = seeds * training.batch_size * images[0].numel()
            chunk, move = max(1, min(CHUNK, MOVED // numbers)), _mover(network, images, labels)
        given = batches(
            network.acting,
            *(self.mode, self.seeds, labels, training, chunk, first, subset, move),
        )
        for rows, classes in given:
            steps = rows.shape[1]
            penalties = along(gammas, seeds, first, steps, total)
            rates = along([learning_rates(training)], runs, first, steps, total)
            if moved is not None:
                classes = moved[rows]
            shared = (torch.cat([x] * len(gammas)) for x in (rows, classes))
            yield *shared, penalties.to(labels.device), rates.to(labels.device)
            first += steps


def _mover(network: Trainable, images: Tensor, labels: Tensor) -> Move:
    return lambda rows, elements: network.move(images[rows], labels[rows], elements)
