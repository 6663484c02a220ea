"""Weight files: safetensors with a leading axis of seeds, and no metadata, so equal in bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from equireg.files import atomic


def save_weights(path: Path, seeds: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
    """Write ``tensors``, each with a leading axis of seeds, and the seeds themselves."""
    contents = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    with atomic(path) as temporary:
        save_file({**contents, "seeds": torch.tensor(seeds)}, temporary)


def load_weights(path: Path, seeds: Sequence[int]) -> dict[str, Tensor]:
    """The tensors of ``path``, their rows those of ``seeds``, in this order.

    Raises ValueError if the file cannot be read or lacks a seed.
    """
    try:
        tensors = load_file(path)
        held = tensors.pop("seeds").tolist()
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is not a weight file of equireg: {error}") from error
    missing = sorted(set(seeds) - set(held))
    if missing:
        raise ValueError(f"{path} lacks seed {missing[0]}; it holds seeds {held}")
    rows = [held.index(seed) for seed in seeds]
    return {name: tensor[rows] for name, tensor in tensors.items()}
