"""Random numbers that depend on a seed and a role, and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(seed: int, *role: str | int) -> np.random.Generator:
    """The generator of ``role`` (such as ``"augmentation", epoch``) for the run with this seed.

    Philox, keyed by a digest of seed and role: the draws of one role never depend on how many
    another one made, on the process, or on the device. Runs of one seed are so paired across modes
    and gammas, and an epoch can be resumed without a stored state.
    """
    digest = hashlib.sha256("/".join(map(str, ("equireg", seed, *role))).encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
