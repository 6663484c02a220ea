"""The commands of one experiment on real digits, small enough to train in a second."""

from __future__ import annotations

from pathlib import Path

import pytest

from equireg.cli import main

DIGITS = Path(__file__).parent / "data" / "digits"
NETWORK = ["--channels", "3", "--channels", "3"]
SPEED = ["--batch-size", "10", "--epochs", "2", "--learning-rate", "0.05", "--risk-scale", "mean"]


class Jobs:
    """The commands, in a folder of its own; 30 steps per epoch."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, network: list[str] = NETWORK
    ) -> None:
        self.folder, self.monkeypatch, self.network = folder, monkeypatch, network
        self.data = folder / "digits.safetensors"
        self.run("fetch", "--name", "digits", "--folder", DIGITS, "--output", self.data)

    def run(self, *words: object) -> None:
        """Run a command in this process. Raises RuntimeError with its message or status."""
        self.monkeypatch.setattr("sys.argv", ["equireg", *map(str, words)])
        try:
            main()
        except SystemExit as leaving:
            if leaving.code:
                raise RuntimeError(leaving.code) from leaving

    def train(self, name: str, mode: str, gamma: str | None, seeds: str, *more: object) -> Path:
        """Train a block, and return its trajectories."""
        self.run(*self.words(name, mode, gamma, seeds, *more))
        return self.output(name)

    def words(
        self, name: str, mode: str, gamma: str | None, seeds: str, *more: object
    ) -> list[object]:
        """The command that trains a block; its initial weights are there."""
        initial = self.folder / f"initial-{seeds}.safetensors"
        if not initial.exists():
            self.run("initialize", "--seeds", seeds, "--output", initial, *self.network)
        penalty = [] if gamma is None else ["--gamma", gamma]
        files = ["--data", self.data, "--initial", initial, "--output", self.output(name)]
        block = ["--mode", mode, *penalty, "--seeds", seeds, *files]
        return ["train", *block, *self.network, *SPEED, *more]

    def output(self, name: str) -> Path:
        return self.folder / name / "block.parquet"
