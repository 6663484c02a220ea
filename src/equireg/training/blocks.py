"""The blocks of runs of one training job: what trains them, and on what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from equireg.settings import MODES, JobSettings, Mode, TrainingSettings
from equireg.spelling import spell_gamma
from equireg.symmetry.groups import Group
from equireg.training.batches import batches, steps_per_epoch
from equireg.training.optimizers import optimizer_of
from equireg.training.schedules import along, gamma_schedule, learning_rates, risk_scale
from equireg.training.start import start_runs
from equireg.training.step import Trainable, Trainer
from equireg.training.trainers import choose_trainer

CHUNK = 1000  # steps whose batches are gathered at once


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
        if self.mode == "augmented":
            table = network.orbit(table)
        held = runs.to(device, torch.float32)
        scale, optimizer = risk_scale(training), optimizer_of(training)
        return choose_trainer(network, held, table, scale, jobs, optimizer)

    def chunks(
        self,
        group: Group,
        labels: Tensor,
        training: TrainingSettings,
        first: int = 0,
        subset: int | None = None,
        moved: Tensor | None = None,
    ) -> Iterator[tuple[Tensor, ...]]:
        """What every run trains on from step ``first`` on: what ``Trainer.advance`` takes.

        The blocks share the batches of their seeds. subset: of the images, for each seed.
        moved: the targets of every row, where the group moves them (``Trainable.target_orbit``).
        """
        total = steps_per_epoch(subset or len(labels), training) * training.epochs
        gammas = [gamma_schedule(gamma, training) for gamma in self.gammas]
        seeds, runs = len(self.seeds), len(self.seeds) * len(gammas)
        given = batches(group, self.mode, self.seeds, labels, training, CHUNK, first, subset)
        for rows, classes in given:
            steps = rows.shape[1]
            penalties = along(gammas, seeds, first, steps, total)
            rates = along([learning_rates(training)], runs, first, steps, total)
            if moved is not None:
                classes = moved[rows]
            shared = (torch.cat([x] * len(gammas)) for x in (rows, classes))
            yield *shared, penalties.to(labels.device), rates.to(labels.device)
            first += steps
