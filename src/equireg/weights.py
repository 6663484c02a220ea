"""Weight files: safetensors with a leading axis of seeds; equal contents are equal bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from equireg.files import atomic, parse_json


class Shaped(Protocol):
    """What knows the shape of a parameter: a ``Space``, or a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""


def save_weights(
    path: Path, seeds: Sequence[int], tensors: Mapping[str, Tensor], about: Mapping[str, Any]
) -> None:
    """Write ``tensors``, each with a leading axis of seeds, the seeds, and what they are."""
    contents = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: the order of several would change from file to file.
    metadata = {"about": json.dumps(about, sort_keys=True)}
    with atomic(path) as temporary:
        temporary.write_bytes(save({**contents, "seeds": torch.tensor(seeds)}, metadata))


def load_weights(
    path: Path, seeds: Sequence[int], spaces: Mapping[str, Shaped]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of ``path``, their rows those of ``seeds``, in this order; and what they are.

    Raises FileNotFoundError, or ValueError if the file cannot be read, lacks a seed, or holds
    weights of another network than one of these ``spaces``.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing; initialize writes initial weights, train others"
        )
    try:
        with safe_open(path, "pt") as file:
            about = parse_json(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        held = tensors.pop("seeds").tolist()
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged, or no weight file of equireg ({error}); delete it and run the "
            "workflow again"
        ) from error
    for name, space in spaces.items():
        shape = tuple(tensors[name].shape[1:]) if name in tensors else None
        if shape != space.shape:
            raise ValueError(
                f"{path} holds {name} of shape {shape}; expected {space.shape}: it was made for "
                "another network"
            )
    missing = sorted(set(seeds) - set(held))
    if missing:
        raise ValueError(f"{path} lacks seed {missing[0]}; it holds seeds {held}")
    rows = [held.index(seed) for seed in seeds]
    return {name: tensor[rows] for name, tensor in tensors.items()}, about
