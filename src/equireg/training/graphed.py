"""The reference step on a GPU, recorded once and replayed.

A step is some hundred small kernels, and to launch them one by one takes longer than to run them.
A CUDA graph launches them all at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from equireg.runtime import say
from equireg.training.optimizers import PLAIN, Optimizer
from equireg.training.step import Reference, Runs, Trainable

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
        network: Trainable,
        runs: Runs,
        images: Tensor,
        scale: float,
        record: Callable[[Callable[[], None]], Callable[[], None]] = cuda_graph,
        optimizer: Optimizer = PLAIN,
    ) -> None:
        super().__init__(network, runs, images, scale, optimizer)
        self.record = record
        self.inputs: tuple[Tensor, ...] = ()  # rows, targets, gamma, rate of a step
        self.recorded = torch.empty(0)
        self.repeat = self._step

    def advance(self, rows: Tensor, targets: Tensor, gammas: Tensor, rates: Tensor) -> Tensor:
        given = rows, targets, gammas, rates
        if [x.shape for x in self.inputs] != [x[:, 0].shape for x in given]:
            self._prepare(tuple(x[:, 0].clone() for x in given))
        recorded = self.recorded.new_empty(*rows.shape[:2], self.recorded.shape[1])
        for step in range(rows.shape[1]):
            for held, now in zip(self.inputs, given, strict=True):
                held.copy_(now[:, step])
            self.repeat()
            recorded[:, step] = self.recorded
        return recorded

    def _step(self) -> None:
        self.recorded.copy_(self.step(*self.inputs))

    def _prepare(self, inputs: tuple[Tensor, ...]) -> None:
        """Record a step on batches of this shape; its graph reads and writes these tensors."""
        self.inputs = inputs
        like = next(iter(self.runs.equivariant.values()))
        self.recorded = like.new_empty(len(inputs[0]), 2 + len(self.network.spaces))
        before = {name: held.clone() for name, held in self._held().items()}
        try:
            self.repeat = self.record(self._step)
            say("step: recorded as a CUDA graph")
        except RuntimeError as error:
            complaint = str(error).strip().splitlines()
            say(f"step: kernel by kernel; no CUDA graph: {complaint[0] if complaint else 'failed'}")
            self.repeat = self._step
        self.restore(before)
