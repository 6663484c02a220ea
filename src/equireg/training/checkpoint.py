"""Checkpoints: what a training has recorded, and its state, in segments of consecutive steps.

A folder has one safetensors file per segment: the rows of its steps, and the state after them. A
training that was cut off goes on from the last one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from equireg.files import atomic, parse_json
from equireg.runtime import say


@dataclass(frozen=True)
class Segment:
    """The steps from ``first`` to before ``last``."""

    first: int
    last: int
    file: Path


class Checkpoint:
    """The segments of one training in a folder of their own; none of them before ``resume``.

    key: says what determines the training's bits. A segment with another key is none of it.
    processor: what computes.
    """

    def __init__(self, folder: Path, key: str, processor: str) -> None:
        self.folder, self.key = folder, key
        self.segments: list[Segment] = []
        # The first step of each process that took part, and what computed there.
        self.processes = [{"first_step": 0, "processor": processor}]

    @property
    def step(self) -> int:
        """The step after the last segment."""
        return self.segments[-1].last if self.segments else 0

    def resume(self) -> dict[str, Tensor] | None:
        """Find the segments from step 0 on; the state after them, None if there are none.

        A file that is not whole, or another training's, is set aside with a warning, and so are
        those behind it: their steps are trained anew.
        """
        state: dict[str, Tensor] | None = None
        (processor,) = (process["processor"] for process in self.processes)
        why = f"it does not follow on step {self.step}"
        while (file := self._file(self.step)).exists():
            try:
                about, tensors = _read(file)
                if about["key"] != self.key:
                    raise ValueError("it is of another configuration or version of the code")
                if about["first"] != self.step:
                    raise ValueError(f"it starts at step {about['first']}")
            except ValueError as error:
                why = str(error)
                break
            del tensors["recorded"]
            self.segments.append(Segment(about["first"], about["last"], file))
            state, self.processes = tensors, about["processes"]
        known = {segment.file for segment in self.segments}
        for half in self.folder.glob(".*"):  # left by ``atomic`` in a process that was killed
            half.unlink()
        for file in sorted(set(self.folder.glob("*.safetensors")) - known):
            file.replace(file.with_suffix(".unusable"))
            say(f"warning: {file} is set aside: {why}")
            why = f"it does not follow on step {self.step}"
        if state:
            before = self.processes[-1]["processor"]
            if before != processor:
                say(f"warning: begun on {before}, to be ended on {processor}: rounding differs")
            self.processes.append({"first_step": self.step, "processor": processor})
        return state

    def add(self, recorded: Tensor, state: Mapping[str, Tensor]) -> None:
        """Write the next segment: ``recorded`` (runs, steps, columns), then ``state``."""
        first = self.step
        segment = Segment(first, first + recorded.shape[1], self._file(first))
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        tensors["recorded"] = recorded.contiguous()
        about = {"key": self.key, "first": first, "last": segment.last, "processes": self.processes}
        entry = json.dumps({**about, "sha256": _sum(about, tensors)})
        try:
            with atomic(segment.file) as temporary:
                save_file(tensors, temporary, {"about": entry})
        except SafetensorError as error:
            raise OSError(f"{segment.file} cannot be written: {error}") from error
        self.segments.append(segment)

    def rows(self, run: int, first: int, last: int) -> list[Tensor]:
        """What a run recorded from step ``first`` to before ``last``, (steps, columns) in parts."""
        parts = []
        for segment in self.segments:
            begin, end = max(first, segment.first), min(last, segment.last)
            if begin < end:
                with safe_open(segment.file, "pt") as file:
                    rows = file.get_slice("recorded")
                    steps = slice(begin - segment.first, end - segment.first)
                    parts.append(rows[run : run + 1, steps][0])
        return parts

    def _file(self, first: int) -> Path:
        return self.folder / f"from-step-{first:09d}.safetensors"


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a segment says of itself, and its tensors. Raises ValueError if it is not whole."""
    try:
        with safe_open(file, "pt") as opened:
            about = parse_json(opened.metadata()["about"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if about.pop("sha256") != _sum(about, tensors):
            raise ValueError("its checksum is wrong")
    except (SafetensorError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"it is damaged ({error})") from error
    return about, tensors


def _sum(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 sum of a segment's contents."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
