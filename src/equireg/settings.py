"""What can be chosen: one dataclass per section of ``config.yaml``, with the limits of its values.

It is long because every key and its limit stand here and nowhere else: a section that breaks one
cannot be made, whoever makes it.
Nothing is computed here, so that a result depends on the values alone. Standard library only, so
that a machine that only trains needs no validation library; ``config`` reads the same dataclasses
from YAML and says where a value came from.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, TypeVar, get_args

from equireg.spelling import KNOTS, MOST_SEEDS, parse_knots, parse_seeds

Mode = Literal["equivariant", "augmented", "nominal"]
Channels = Literal["trivial", "regular"]
Support = Literal["full", "cross", "lopsided"]
Distribution = Literal["gaussian", "uniform"]
RiskScale = Literal["mean", "batch"]
Unit = Literal["absolute", "relative"]
Order = Literal["file", "shuffled"]
Augmentation = Literal["random", "exact"]
Optimizer = Literal["sgd", "adam", "adamw"]
RateSchedule = Literal["constant", "cosine"]
Device = Literal["auto", "cpu", "cuda"]
Step = Literal["auto", "compiled", "reference"]

MODES: tuple[Mode, ...] = get_args(Mode)
# The groups that turn square images, and their orders; ``symmetry.groups`` makes them.
ORDERS = {"C1": 1, "C2": 2, "C4": 4, "D1": 2, "D2": 4, "D4": 8}
# Those that turn images by other angles, too, and the part of them that maps a grid to itself.
ON_GRID = {"C8": "C4", "D8": "D4", "SO(2)": "C4", "O(2)": "D4"}
DOWNLOADED = ("mnist", "fashion-mnist", "kmnist")  # the data sets that need no folder
# Those that are made from one of them; turned-mnist-25: so many percent of the digits upright.
UPRIGHT = {f"turned-mnist-{percent}": percent / 100 for percent in (0, 25, 50, 75)}
MADE = dict.fromkeys(["rotated-mnist", *UPRIGHT], "mnist")
MOST_IMAGES = 1_000_000_000
MOST_STEPS = 1_000_000_000
MOST_GAMMAS = 1000
MOST_GAMMA = 1e30  # in float32, much larger ones are infinite, which means in E


class Mistake(NamedTuple):
    """A value that cannot be taken; ``remedy`` says what is accepted."""

    name: str
    value: Any
    remedy: str


class Accepted(NamedTuple):
    """What a field takes: a condition, of each value of a tuple, and its text.

    schema: the condition in the words of JSON Schema, as far as they go.
    """

    holds: Callable[[Any], bool]
    text: str
    schema: Mapping[str, Any] = MappingProxyType({})


def between(least: int, most: int) -> Accepted:
    """Numbers that are larger than any machine's memory or patience end here, not in a job."""
    return Accepted(
        lambda value: isinstance(value, int) and least <= value <= most,
        f"{least} to {most}",
        {"minimum": least, "maximum": most},
    )


def one_of(values: tuple[str, ...]) -> Accepted:
    """These texts."""
    return Accepted(lambda value: value in values, ", ".join(values), {"enum": list(values)})


def plain(path: str) -> bool:
    """Without braces: to Snakemake, what they hold in the name of an input is a wildcard."""
    return not {*"{}"} & {*path}


_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
AMOUNT = Accepted(lambda value: 0 <= value < math.inf, "finite numbers, 0 and more", {"minimum": 0})
_BUILD = re.compile(r"[^{}\0\n]+\.py:[A-Za-z_]\w*")


def _option(default: Any, help: str, *accepted: Accepted) -> Any:
    """A field whose help text the command line shows, and what its value must fulfil."""
    return field(default=default, metadata={"help": help, "accepted": accepted})


class Section:
    """A dataclass that refuses values beyond its limits, as ValueError in one line."""

    def __post_init__(self) -> None:
        for name, value, remedy in self._mistakes():
            raise ValueError(f"{name} is {show(value)}; {remedy}")

    @classmethod
    def mistakes(cls, values: Mapping[str, Any]) -> list[Mistake]:
        """All that is wrong with these values and the defaults of the others; none is made."""
        draft = object.__new__(cls)
        for entry in dataclasses.fields(cls):  # type: ignore[arg-type]
            object.__setattr__(draft, entry.name, values.get(entry.name, entry.default))
        return list(draft._mistakes())

    def _mistakes(self) -> Iterator[Mistake]:
        wrong = False
        for entry in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, entry.name)
            for holds, text, _ in entry.metadata.get("accepted", ()):
                items = value if isinstance(value, tuple) else (value,)
                found = [item for item in items if not _holds(holds, item)]
                if found:  # a line is enough for a value
                    wrong = True
                    yield Mistake(entry.name, found[0], f"accepted: {text}")
                    break
        if not wrong:
            yield from self._misfits()

    def _misfits(self) -> Iterator[Mistake]:
        """Values that do not go together, once each is sound by itself."""
        yield from ()


def _holds(condition: Callable[[Any], bool], value: Any) -> bool:
    try:
        return condition(value)
    except TypeError:  # of another type
        return False


def show(value: Any) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


@dataclass(frozen=True)
class SourceSettings(Section):
    """Where the images come from."""

    name: str = _option(
        "mnist",
        "mnist, fashion-mnist, kmnist, rotated-mnist, turned-mnist-0, -25, -50, -75, or a name for "
        "data of your own.",
        Accepted(
            lambda name: _NAME.fullmatch(name) is not None,
            "up to 100 lower-case letters, digits, '.', '_' and '-', beginning with a letter or a "
            "digit",
            {"pattern": f"^{_NAME.pattern}$"},
        ),
    )
    folder: str | None = _option(
        None,
        "Folder with the four IDX files, raw or gzipped, or four .npy files; none: download.",
        Accepted(
            lambda folder: plain(folder or ""), "folders without { and }", {"pattern": "^[^{}]*$"}
        ),
    )
    file: str | None = _option(
        None,
        "File with the four arrays, .npz or .safetensors, in the place of a folder.",
        Accepted(
            lambda file: file is None or (plain(file) and file.endswith((".npz", ".safetensors"))),
            "files that end in .npz or .safetensors, without { and }",
            {"pattern": r"^[^{}]*\.(npz|safetensors)$"},
        ),
    )

    def _misfits(self) -> Iterator[Mistake]:
        if self.folder is not None and self.file is not None:
            yield Mistake("file", self.file, "accepted with data.folder: null")
        elif self.name in MADE and self.folder is not None:
            yield Mistake("name", self.name, "accepted with data.folder: a name of its own")
        elif self.name in (*DOWNLOADED, *MADE) and self.file is not None:
            yield Mistake("name", self.name, "accepted with data.file: a name of its own")
        if self.folder is None and self.file is None and self.name not in (*DOWNLOADED, *MADE):
            known = ", ".join((*DOWNLOADED, *MADE))
            yield Mistake("name", self.name, f"accepted without data.folder and data.file: {known}")


SOME_IMAGES = Accepted(
    lambda count: count is None or (isinstance(count, int) and 1 <= count <= MOST_IMAGES),
    f"1 to {MOST_IMAGES}",
    {"minimum": 1, "maximum": MOST_IMAGES},
)


@dataclass(frozen=True, kw_only=True)
class SelectionSettings(Section):
    """Which of the images are trained and tested on."""

    train_images: int | None = _option(
        None,
        "Training images of a run, drawn anew for each seed; none: all.",
        SOME_IMAGES,
    )
    validation: float = _option(
        0.0,
        "Held out of the training images for validation: a share below 1, or so many.",
        Accepted(
            lambda held: 0 <= held < 1 or (1 <= held <= MOST_IMAGES and held == int(held)),
            "shares, 0 to below 1, or whole numbers of images",
            {"minimum": 0, "maximum": MOST_IMAGES},
        ),
    )
    test_images: int | None = _option(
        None, "Test images that runs are tested on, the first so many; none: all.", SOME_IMAGES
    )


ALL_IMAGES = SelectionSettings()


@dataclass(frozen=True)
class DataSettings(SelectionSettings, SourceSettings):
    """The images: where they come from, and which are trained on."""


Part = TypeVar("Part", bound=Section)


def part(kind: type[Part], whole: Section) -> Part:
    """The fields of a section that has more."""
    names = (entry.name for entry in dataclasses.fields(kind))  # type: ignore[arg-type]
    return kind(**{name: getattr(whole, name) for name in names})


@dataclass(frozen=True)
class NetworkSettings(Section):
    """The architecture L and the group G."""

    group: str = _option(
        "C4",
        "Group that turns the images: C1, C2, C4, D1, D2, D4; between pixels C8, D8, SO(2), O(2).",
        one_of((*ORDERS, *ON_GRID)),
    )
    representation: Channels = _option(
        "trivial",
        "trivial: the group leaves channels as they are; regular: it permutes fields of them.",
        one_of(get_args(Channels)),
    )
    image_size: int = _option(28, "Side of the square images, in pixels.", between(1, 1024))
    image_channels: int = _option(1, "Channels of the images: 1 is grey, 3 colour.", between(1, 64))
    classes: int = _option(10, "Number of outputs.", between(2, 256))  # a label is a byte
    channels: tuple[int, ...] = _option(
        (16, 16), "Channels of each convolution, once per layer.", between(1, 4096)
    )
    kernel_size: int = _option(
        3,
        "Side of the filters; odd.",
        Accepted(
            lambda size: size in range(1, 100, 2),
            "odd numbers, 1 to 99",
            {"minimum": 1, "maximum": 99, "not": {"multipleOf": 2}},
        ),
    )
    support: Support = _option(
        "full", "Which entries of a filter are trained.", one_of(get_args(Support))
    )
    allow_incompatible_support: bool = _option(
        False, "Train although the support violates the compatibility condition."
    )
    build: str | None = _option(
        None,
        "A network of your own, path/to/mine.py:function; none: the paper's kind.",
        Accepted(
            lambda build: build is None or _BUILD.fullmatch(build) is not None,
            "path/to/mine.py:function, without { and }",
            {"pattern": r"^[^{}\n]+\.py:[A-Za-z_]\w*$"},
        ),
    )

    def _misfits(self) -> Iterator[Mistake]:
        if self.build:  # the other keys say how the paper's kind of network is made
            if self.group in ON_GRID:
                known = ", ".join(ORDERS)
                yield Mistake("group", self.group, f"accepted with network.build: {known}")
            return
        if not self.channels:
            yield Mistake("channels", (), "accepted: one convolution or more")
        pooled = 2 ** len(self.channels)
        if self.image_size % pooled or self.image_size == pooled:
            yield Mistake(
                "image_size",
                self.image_size,
                f"accepted: multiples of {pooled} from {2 * pooled} on, as each of the "
                f"{len(self.channels)} convolutions halves the image by 2x2 pooling, and a single "
                "pixel is always 0 after the normalization",
            )
        if self.support == "lopsided" and self.kernel_size == 1:
            yield Mistake(
                "kernel_size",
                1,
                "accepted with network.support lopsided: 3 and more, as no entry of a 1x1 filter "
                "would be trained",
            )
        group = ON_GRID.get(self.group, self.group)
        order = ORDERS[group]
        if self.representation == "regular" and any(width % order for width in self.channels):
            yield Mistake(
                "channels",
                self.channels,
                f"accepted with network.representation regular: multiples of {order}, as a field "
                f"has a channel for each element of {group}",
            )


@dataclass(frozen=True)
class InitializationSettings(Section):
    """The equivariant starting point, shared by the modes."""

    distribution: Distribution = _option(
        "gaussian", "Law of the initial equivariant weights.", one_of(get_args(Distribution))
    )


@dataclass(frozen=True)
class TrainingSettings(Section):
    """Descent on the regularized risk, from a perturbed start."""

    perturbation: float = _option(
        1e-3, "Standard deviation, per entry, of the step away from E before training.", AMOUNT
    )
    perturbation_unit: Unit = _option(
        "absolute",
        "absolute, or relative: to the root mean square of a layer's initial weights.",
        one_of(get_args(Unit)),
    )
    epochs: int = _option(10, "Passes over the training images.", between(1, 100_000))
    steps: int | None = _option(
        None,
        "Steps of a run in the place of epochs, whatever the number of images; none: epochs count.",
        Accepted(
            lambda steps: steps is None or (isinstance(steps, int) and 1 <= steps <= MOST_STEPS),
            f"1 to {MOST_STEPS}",
            {"minimum": 1, "maximum": MOST_STEPS},
        ),
    )
    batch_size: int = _option(10, "Images per step.", between(1, 1_000_000))
    learning_rate: float = _option(
        1e-3,
        "Step size.",
        Accepted(
            lambda rate: 0 < rate < math.inf, "finite numbers above 0", {"exclusiveMinimum": 0}
        ),
    )
    risk_scale: RiskScale = _option(
        "batch",
        "mean: cross entropy averaged over the batch; batch: divided by its size once more.",
        one_of(get_args(RiskScale)),
    )
    order: Order = _option(
        "file",
        "Order of the images: as in the file, or shuffled each epoch.",
        one_of(get_args(Order)),
    )
    augmentation: Augmentation = _option(
        "random",
        "random: one group element per image; exact: the mean over the group.",
        one_of(get_args(Augmentation)),
    )
    optimizer: Optimizer = _option(
        "sgd", "What makes steps of gradients: sgd, adam or adamw.", one_of(get_args(Optimizer))
    )
    momentum: float = _option(
        0.0,
        "Of sgd: how much of the step before a step keeps.",
        Accepted(
            lambda momentum: 0 <= momentum < 1,
            "0 to below 1",
            {"minimum": 0, "exclusiveMaximum": 1},
        ),
    )
    weight_decay: float = _option(0.0, "Of adamw: decay of all weights, decoupled.", AMOUNT)
    rate_schedule: RateSchedule = _option(
        "constant",
        "constant, or cosine: the learning rate falls to 0 along half a cosine.",
        one_of(get_args(RateSchedule)),
    )
    gamma_schedule: str = _option(
        "constant",
        f"Factor of gamma along training: {', '.join(KNOTS)}, or share:factor,...",
    )

    def _misfits(self) -> Iterator[Mistake]:
        if self.optimizer != "sgd" and self.momentum:
            remedy = f"accepted with training.optimizer {self.optimizer}: 0; it has its own means"
            yield Mistake("momentum", self.momentum, remedy)
        decays = self.optimizer == "adamw"
        if decays != (self.weight_decay > 0):
            accepted = "above 0, such as 0.01; without, it is adam" if decays else "0"
            remedy = f"accepted with training.optimizer {self.optimizer}: {accepted}"
            yield Mistake("weight_decay", self.weight_decay, remedy)
        try:
            parse_knots(self.gamma_schedule)
        except ValueError as error:
            yield Mistake("gamma_schedule", self.gamma_schedule, str(error).partition("; ")[2])

    def unpredicted(self) -> str:
        """Why no first-order prediction is made of such runs; empty where one is."""
        if self.optimizer != "sgd" or self.momentum:
            return "training.optimizer is not plain gradient descent"
        for name in ("rate_schedule", "gamma_schedule"):
            if getattr(self, name) != "constant":
                return f"training.{name} is not constant"
        return ""

    def unstable(self, gammas: tuple[float, ...]) -> Iterator[Mistake]:
        """Penalties at which explicit steps of this size grow without bound."""
        factors = [factor for _, factor in parse_knots(self.gamma_schedule) if factor < math.inf]
        most = max(factors, default=0.0)
        scheduled = f" and factors of gamma up to {most:g}" if most > 1 else ""
        for gamma in gammas:
            if not (0 <= gamma <= MOST_GAMMA and gamma * most * self.learning_rate <= 2):
                yield Mistake(
                    "gammas",
                    gamma,
                    f"accepted with training.learning_rate {self.learning_rate:g}{scheduled}: 0 to "
                    f"{2 / self.learning_rate / (most or 1):g}, as explicit steps are unstable "
                    "where learning_rate * gamma > 2",
                )


# The training settings that a mode does not read: it starts in E, or turns no images.
UNREAD: dict[Mode, frozenset[str]] = {
    "equivariant": frozenset(
        {"perturbation", "perturbation_unit", "augmentation", "gamma_schedule"}
    ),
    "augmented": frozenset(),
    "nominal": frozenset({"augmentation"}),
}


@dataclass(frozen=True)
class GridSettings(Section):
    """Which runs there are, and how they are cut into jobs."""

    modes: tuple[Mode, ...] = _option(MODES, "Training modes.", one_of(MODES))
    gammas: tuple[float, ...] = _option(
        (1e-4, 1e-2, 1e0, 1e2), "Penalties of the two free modes.", AMOUNT
    )
    seeds: str = _option("0-29", "Seeds, such as 0-29 or 0,3,7-9.")
    seeds_per_job: int = _option(10, "Seeds that one training job takes.", between(1, MOST_SEEDS))

    def _misfits(self) -> Iterator[Mistake]:
        try:
            parse_seeds(self.seeds)
        except ValueError as error:
            yield Mistake("seeds", self.seeds, str(error).partition("; ")[2])
        if not self.modes:
            yield Mistake("modes", (), "accepted: one mode or more")
        free = [mode for mode in self.modes if mode != "equivariant"]
        if free and not self.gammas:
            yield Mistake("gammas", (), f"accepted: one gamma or more, for mode {free[0]}")
        if len(self.gammas) > MOST_GAMMAS:
            yield Mistake("gammas", len(self.gammas), f"accepted: at most {MOST_GAMMAS} of them")
            return
        for name in ("modes", "gammas"):
            values = getattr(self, name)
            for value in sorted(value for value, count in Counter(values).items() if count > 1):
                yield Mistake(name, values, f"accepted: each once; {show(value)} is repeated")


@dataclass(frozen=True)
class JobSettings(Section):
    """How one job runs; none of this may change a result beyond rounding."""

    threads: int = _option(1, "Threads of one training process.", between(1, 1024))
    device: Device = _option("auto", "auto: a GPU where there is one.", one_of(get_args(Device)))
    step: Step = _option(
        "auto",
        "auto: the compiled training step where it can be taken.",
        one_of(get_args(Step)),
    )


@dataclass(frozen=True)
class WorkflowJobSettings(JobSettings):
    """How every job of a workflow runs, and which blocks one training job takes."""

    stack_gammas: bool = _option(False, "A training job takes all gammas of a mode and its seeds.")

    def _misfits(self) -> Iterator[Mistake]:
        if self.step == "compiled" and self.device == "cuda":
            yield Mistake(
                "step",
                self.step,
                "accepted with jobs.device cuda: auto or reference, as the compiled step runs on "
                "CPUs",
            )
