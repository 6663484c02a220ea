"""Step: which training step the jobs of a network take on this machine, before any has run."""

from __future__ import annotations

import torch

from equireg.native import UnavailableError
from equireg.settings import JobSettings, NetworkSettings
from equireg.training.compiled import library_for
from equireg.training.network import Network


def step(network: NetworkSettings, job: JobSettings, device: str) -> str:
    """A line that says it, and why where it is the slow one; what is compiled is kept for the jobs.

    On a GPU nothing is compiled yet: the job's log says which step it took.
    """
    if device == "cuda":
        return "training here: on a GPU"
    if job.step == "reference":
        return "training here: the reference step, as asked"
    side = network.image_size
    images = torch.zeros(1, network.image_channels, side, side, dtype=torch.uint8)
    try:
        library_for(Network.of(network), images)
    except UnavailableError as error:
        if job.step == "compiled":
            return f"training here: none, as jobs.step is 'compiled', but {error}"
        return f"training here: the reference step, mostly several times slower, as {error}"
    return "training here: the step compiled for this machine"
