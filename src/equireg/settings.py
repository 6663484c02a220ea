"""What can be chosen: one dataclass per section of ``config.yaml``, and how its values are spelled.

Standard library only, so that a machine that only trains needs no validation library; ``config``
validates the same dataclasses when the workflow is parsed.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, get_args

Mode = Literal["equivariant", "augmented", "nominal"]
Support = Literal["full", "cross", "lopsided"]
Distribution = Literal["gaussian", "uniform"]
RiskScale = Literal["mean", "batch"]
Order = Literal["file", "shuffled"]
Augmentation = Literal["random", "exact"]
Device = Literal["auto", "cpu", "cuda"]
Step = Literal["auto", "compiled", "reference"]

MODES: tuple[Mode, ...] = get_args(Mode)
LANES = 4  # the compiled step takes channels that are multiples of so many


def _option(default: Any, help: str) -> Any:
    """A field whose help text the command line shows."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class DataSettings:
    """Where the images come from."""

    name: str = _option(
        "mnist", "mnist, fashion-mnist, kmnist, or a name for a folder of your own."
    )
    folder: str | None = _option(
        None, "Folder with the four IDX files, raw or gzipped; none: download."
    )


@dataclass(frozen=True)
class NetworkSettings:
    """The architecture L and the group G."""

    group: str = _option("C4", "Group that turns the images: C1, C2, C4, D1, D2 or D4.")
    image_size: int = _option(28, "Side of the square images, in pixels.")
    classes: int = _option(10, "Number of outputs.")
    channels: tuple[int, ...] = _option((16, 16), "Channels of each convolution, once per layer.")
    kernel_size: int = _option(3, "Side of the filters; odd.")
    support: Support = _option("full", "Which entries of a filter are trained.")
    allow_incompatible_support: bool = _option(
        False, "Train although the support violates the compatibility condition."
    )


@dataclass(frozen=True)
class InitializationSettings:
    """The equivariant starting point, shared by the modes."""

    distribution: Distribution = _option("gaussian", "Law of the initial equivariant weights.")


@dataclass(frozen=True)
class TrainingSettings:
    """Stochastic gradient descent on the regularized risk, from a perturbed start."""

    perturbation: float = _option(
        1e-3, "Standard deviation, per entry, of the step away from E before training."
    )
    epochs: int = _option(10, "Passes over the training images.")
    batch_size: int = _option(10, "Images per step.")
    learning_rate: float = _option(1e-3, "Step size.")
    risk_scale: RiskScale = _option(
        "batch",
        "mean: cross entropy averaged over the batch; batch: divided by its size once more.",
    )
    order: Order = _option("file", "Order of the images: as in the file, or shuffled each epoch.")
    augmentation: Augmentation = _option(
        "random", "random: one group element per image; exact: the mean over the group."
    )

    @property
    def scale(self) -> float:
        """The risk that is trained, in units of the mean cross entropy."""
        return 1 / self.batch_size if self.risk_scale == "batch" else 1.0


# The training settings that a mode does not read: it starts in E, or turns no images.
UNREAD: dict[Mode, frozenset[str]] = {
    "equivariant": frozenset({"perturbation", "augmentation"}),
    "augmented": frozenset(),
    "nominal": frozenset({"augmentation"}),
}


@dataclass(frozen=True)
class GridSettings:
    """Which runs there are, and how they are cut into jobs."""

    modes: tuple[Mode, ...] = _option(MODES, "Training modes.")
    gammas: tuple[float, ...] = _option((1e-4, 1e-2, 1e0, 1e2), "Penalties of the two free modes.")
    seeds: str = _option("0-29", "Seeds, such as 0-29 or 0,3,7-9.")
    seeds_per_job: int = _option(10, "Seeds that one training job takes.")


@dataclass(frozen=True)
class JobSettings:
    """How one job runs; none of this may change a result beyond rounding."""

    threads: int = _option(1, "Threads of one training process.")
    device: Device = _option("auto", "auto: a GPU where there is one.")
    step: Step = _option("auto", "auto: the compiled training step where it can be taken.")


@dataclass(frozen=True)
class WorkflowJobSettings(JobSettings):
    """How every job of a workflow runs, and which blocks one training job takes."""

    stack_gammas: bool = _option(False, "A training job takes all gammas of a mode and its seeds.")


def spell_gamma(gamma: float | None) -> str:
    """The one spelling of a gamma in paths and texts: ``1e-2``, ``2.5e0``, ``0``, ``none``.

    Exact: ``float(spell_gamma(g)) == g``.
    """
    if gamma is None:
        return "none"
    if gamma == 0:
        return "0"
    sign, digits, exponent = Decimal(repr(float(gamma))).normalize().as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"gamma is {gamma}; a finite number is needed")
    mantissa = str(digits[0]) + ("." + "".join(map(str, digits[1:])) if digits[1:] else "")
    return f"{'-' if sign else ''}{mantissa}e{exponent + len(digits) - 1}"


def parse_seeds(text: str) -> list[int]:
    """``"0-2,7"`` -> ``[0, 1, 2, 7]``, sorted; ValueError for nonsense and repeated seeds."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ValueError(
                f"seeds are {text!r}; accepted: numbers and ranges, such as 0-29 or 0,3,7-9"
            )
        seeds += range(first, last + 1)
    repeated = [seed for seed, count in Counter(seeds).items() if count > 1]
    if repeated:
        raise ValueError(f"seeds are {text!r}; seed {repeated[0]} is repeated")
    return sorted(seeds)


def spell_seeds(seeds: list[int]) -> str:
    """Inverse of ``parse_seeds``: ``[0, 1, 2, 7]`` -> ``"0-2,7"``."""
    return ",".join(
        str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in consecutive(seeds)
    )


def consecutive(seeds: list[int]) -> list[list[int]]:
    """The seeds, sorted, cut wherever one is missing."""
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][-1] + 1:
            runs[-1].append(seed)
        else:
            runs.append([seed])
    return runs
