"""What the runs of a training job record: held in memory for a while, then in its checkpoint."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from equireg.binding import Binding
from equireg.files import atomic
from equireg.runtime import say
from equireg.spelling import spell_gamma
from equireg.tables import distance_columns, parquet_writer, trajectory_schema, trajectory_table
from equireg.training.blocks import Blocks
from equireg.training.checkpoint import Checkpoint

# Steps that are read back, and written to a row group, at once: memory does not grow with a run's
# length. The paper's 60,000 are one group.
GROUP = 2**16


class Recorder:
    """The rows of a job's blocks: one per gamma, all of the same seeds; and how far they are.

    Runs are sorted by gamma as given, then by seed. ``outputs``: the blocks' trajectory files.
    ``made``: their binding, but for gamma.
    """

    def __init__(
        self,
        blocks: Blocks,
        outputs: Sequence[Path],
        layers: Sequence[str],
        steps: int,
        checkpoint: Checkpoint,
        made: Binding,
    ) -> None:
        self.blocks, self.outputs = blocks, outputs
        self.layers, self.steps, self.checkpoint, self.made = layers, steps, checkpoint, made
        self.held: list[Tensor] = []  # the rows since the last segment, (runs, steps, columns)
        self.done = self.resumed = checkpoint.step
        self.began = self.said = self.saved = time.perf_counter()

    def add(self, recorded: Tensor) -> None:
        """Keep the next steps, (runs, steps, columns).

        Raises FloatingPointError, after writing what its block recorded, if a run diverged.
        """
        rows = recorded.cpu()
        self.held.append(rows)
        sound = rows[..., :2].isfinite().all(-1)  # the loss and the distance
        if not sound.all():
            step = int((~sound.all(0)).nonzero()[0])
            self.give_up(self.done + step, int((~sound[:, step]).nonzero()[0]))
        self.done += rows.shape[1]
        self.report(rows[:, -1])

    def save(self, state: Mapping[str, Tensor]) -> None:
        """Move what is held to the checkpoint, with the trainer's state after it."""
        if self.held:
            self.checkpoint.add(torch.cat(self.held, 1), state)
            self.held = []
        self.saved = time.perf_counter()

    def check_end(self, trained: Mapping[str, Tensor]) -> None:
        """Hold what the last update made to the same: a row of ``trained`` must be finite."""
        for run in range(len(self.blocks.gammas) * len(self.blocks.seeds)):
            if not all(tensor[run].isfinite().all() for tensor in trained.values()):
                self.give_up(self.done, run)

    def give_up(self, step: int, run: int) -> NoReturn:
        """Write its block up to ``step``, where ``run`` diverged, and raise FloatingPointError.

        The checkpoint stays: the same command diverges again, and so it does so soon.
        """
        blocks = self.blocks
        block, seed = divmod(run, len(blocks.seeds))
        kept = diverged(self.outputs[block])
        recorded = self.checkpoint.step + sum(rows.shape[1] for rows in self.held)
        self.write(block, kept, min(step + 1, recorded))
        raise FloatingPointError(
            f"mode {blocks.mode}, gamma {spell_gamma(blocks.gammas[block])}, seed "
            f"{blocks.seeds[seed]}: the loss or the distance is no longer finite at step {step}; "
            f"what was recorded is in {kept}"
        )

    def report(self, row: Tensor) -> None:
        """Say every ten seconds, and at the end, how far the runs are and what is left.

        On a terminal twice a second, in one line that changes.
        """
        now = time.perf_counter()
        passing = sys.stderr.isatty() and self.done < self.steps
        if now - self.said < (0.5 if passing else 10) and self.done < self.steps:
            return
        self.said = now
        loss, distance = row[:, 0], row[:, 1]
        pace = (now - self.began) / (self.done - self.resumed)
        say(
            f"step {self.done}/{self.steps}  loss {loss.mean():.4f}"
            f"  distance {distance.quantile(0.5):.3e}"
            f"  {1 / pace:.0f} steps/s  {1e6 * pace / len(row):.0f} us per run and step"
            f"  {pace * (self.steps - self.done):.0f} s left",
            passing=passing,
        )

    def write(self, block: int, path: Path, steps: int) -> None:
        """Write the first ``steps`` steps of a block's trajectories, whole or not at all."""
        schema = trajectory_schema(self.layers)
        columns = ["loss", *distance_columns(self.layers)]
        made = of_block(self.made, self.blocks.gammas[block])
        with atomic(path) as temporary, parquet_writer(temporary, schema, made) as writer:
            for i, seed in enumerate(self.blocks.seeds):
                for first in range(0, steps, GROUP):
                    rows = self._rows(
                        block * len(self.blocks.seeds) + i, first, min(first + GROUP, steps)
                    )
                    metrics = {name: rows[None, :, k].numpy() for k, name in enumerate(columns)}
                    writer.write_table(
                        trajectory_table(
                            self.blocks.mode, self.blocks.gammas[block], [seed], metrics, first
                        )
                    )

    def _rows(self, run: int, first: int, last: int) -> Tensor:
        """What a run recorded from step ``first`` to before ``last``, (steps, columns)."""
        parts, at = self.checkpoint.rows(run, first, last), self.checkpoint.step
        for held in self.held:
            parts.append(held[run, max(first - at, 0) : max(last - at, 0)])
            at += held.shape[1]
        return torch.cat(parts)


def of_block(made: Binding, gamma: float | None) -> dict[str, Any]:
    """The binding of one of the job's blocks: that of the job, and its gamma."""
    return {**made, "runs": {**made["runs"], "gamma": gamma}}


def diverged(output: Path) -> Path:
    """Where a block's trajectories are kept if one of its runs diverges."""
    return output.with_suffix(".diverged.parquet")
