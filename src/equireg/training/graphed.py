"""The reference step on a GPU, recorded once and replayed.

A step is some hundred small kernels, and to launch them one by one takes longer than to run them.
A CUDA graph launches them all at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equireg.runtime import say
from equireg.training.network import Network
from equireg.training.step import Reference, Runs

WARM_UP = 3  # steps in which libraries choose their algorithms, which no graph can record


def cuda_graph(step: Callable[[], None]) -> Callable[[], None]:
    """Record what ``step`` does on the current GPU; return what repeats it. Runs it, too."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Graphed(Reference):
    """The reference, its step recorded by ``record`` at the first call.

    ``record`` may run the step that it is given: the state is put back. Where it fails, the log
    says why, and every step is launched kernel by kernel.
    """

    def __init__(
        self,
        network: Network,
        runs: Runs,
        images: Tensor,
        learning_rate: float,
        scale: float,
        record: Callable[[Callable[[], None]], Callable[[], None]] = cuda_graph,
    ) -> None:
        super().__init__(network, runs, images, learning_rate, scale)
        self.record = record
        self.rows = self.labels = self.recorded = torch.empty(0)
        self.repeat = self._step

    def advance(self, rows: Tensor, labels: Tensor) -> Tensor:
        if self.rows.shape != rows[:, 0].shape:
            self._prepare(rows[:, 0], labels[:, 0])
        recorded = self.recorded.new_empty(*rows.shape[:2], self.recorded.shape[1])
        for step in range(rows.shape[1]):
            self.rows.copy_(rows[:, step])
            self.labels.copy_(labels[:, step])
            self.repeat()
            recorded[:, step] = self.recorded
        return recorded

    def _step(self) -> None:
        self.recorded.copy_(self.step(self.rows, self.labels))

    def _prepare(self, rows: Tensor, labels: Tensor) -> None:
        """Record a step on batches of this shape; its graph reads and writes these tensors."""
        self.rows, self.labels = rows.clone(), labels.clone()
        self.recorded = self.runs.gamma.new_empty(len(rows), 2 + len(self.network.layers))
        before = {name: held.clone() for name, held in self._held().items()}
        try:
            self.repeat = self.record(self._step)
            say("step: recorded as a CUDA graph")
        except RuntimeError as error:
            complaint = str(error).strip().splitlines()
            say(f"step: kernel by kernel; no CUDA graph: {complaint[0] if complaint else 'failed'}")
            self.repeat = self._step
        for held in self._held().values():
            held.requires_grad_(False)  # a step that was cut off leaves it set
        self.restore(before)
