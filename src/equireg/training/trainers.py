"""What trains a block of runs, or evaluates it: the fastest that can take it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

from equireg.native import UnavailableError
from equireg.runtime import say
from equireg.settings import JobSettings, Step
from equireg.training.compiled import Compiled
from equireg.training.fused import fused
from equireg.training.graphed import Graphed
from equireg.training.network import Network
from equireg.training.optimizers import PLAIN, Optimizer
from equireg.training.step import Reference, Runs, Trainable, Trainer

Fast = TypeVar("Fast")
Plain = TypeVar("Plain")


def choose_trainer(
    network: Trainable,
    runs: Runs,
    images: Tensor,
    scale: float,
    jobs: JobSettings,
    optimizer: Optimizer = PLAIN,
) -> Trainer:
    """What trains the block: the step compiled for the device, or the reference.

    images: (count, channels, height, width) of uint8; ``scale`` multiplies the risk. Raises
    ValueError if the settings ask for the compiled step and it cannot be taken.
    """
    on_gpu = images.device.type == "cuda"
    plain = Graphed if on_gpu and jobs.step != "reference" and not network.apart else Reference

    def compiled() -> Trainer:
        if not isinstance(network, Network):
            raise UnavailableError("the network is a module of its own (network: build)")
        if optimizer.parts or optimizer.decay:
            raise UnavailableError("the optimizer is not plain gradient descent")
        if on_gpu:
            return fused(network, runs, images, scale)
        return Compiled(network, runs, images, scale, jobs.threads)

    return choose(
        jobs.step, compiled, lambda: plain(network, runs, images, scale, optimizer=optimizer)
    )


def choose(
    step: Step, compiled: Callable[[], Fast], reference: Callable[[], Plain]
) -> Fast | Plain:
    """The compiled way where it can be taken, else the reference; the log says which, and why.

    Raises ValueError if ``step`` asks for the compiled one and it cannot be taken.
    """
    why = "as asked"
    if step != "reference":
        try:
            fast = compiled()
        except UnavailableError as error:
            if step == "compiled":
                raise ValueError(
                    f"step is 'compiled', but {error}; accepted here: auto, reference"
                ) from error
            why = f"the compiled one cannot be taken, as {error}"
        else:
            say("step: compiled for this machine")
            return fast
    say(f"step: the reference; {why}")
    return reference()
