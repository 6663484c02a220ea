"""Against: our training beside networks of the authors' code, from one start, step for step.

Their code has no licence, so nothing of it is here: this reads a clone that the user has, makes
their network, puts our initial weights in, and trains it on our batches, with a loop of our own:
mean cross entropy, divided once more by the batch size, plus gamma/2 times the squared distance to
E that their network says it has. Where both are right, the distances differ by rounding alone.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equireg.dataset import load_dataset
from equireg.jobs.initialize import draw_equivariant
from equireg.jobs.train import check, choose_trainer, perturbation
from equireg.markdown import rows_of
from equireg.settings import (
    JobSettings,
    Mode,
    NetworkSettings,
    TrainingSettings,
    spell_gamma,
    spell_seeds,
)
from equireg.training.batches import batches, elements, turned
from equireg.training.network import Network
from equireg.training.step import start

REPOSITORY = "https://github.com/usinedepain/eq_aug_reg_release"
FILE, CLASS = "networks_final.py", "omegaCNN"  # in it: the network that is free to leave E
PARAMETERS = {"conv1": "conv1.weight", "conv2": "conv2.weight", "linear": "lin.weight"}
NETWORK, TRAINING = NetworkSettings(), TrainingSettings()  # the paper's; theirs has no others

Make = Callable[..., nn.Module]


@dataclass(frozen=True)
class Compared:
    """One mode and gamma: the largest relative difference of the distances, over steps and seeds.

    other_way: the same had their images been turned the other way, which training would not show
    otherwise; None where none is turned.
    """

    mode: Mode
    gamma: float
    difference: float
    other_way: float | None


def against(
    authors: Path,
    modes: Sequence[Mode],
    gammas: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    data: Path,
    device: str,
    jobs: JobSettings,
) -> Iterator[Compared]:
    """Train both, and yield how far their distances to E are apart, condition by condition.

    authors: a clone of the authors' repository, whose code is run. Raises ValueError where it is
    not one, or for a mode or a gamma that has no distance.
    """
    make = load(authors)
    for mode in modes:
        if mode not in ("augmented", "nominal"):
            raise ValueError(f"mode is {mode!r}; accepted: augmented, nominal")
        check(mode, gammas, TRAINING)
    if steps < 1:
        raise ValueError(f"steps is {steps}; accepted: 1 or more")
    dataset = load_dataset(data, NETWORK.image_size, NETWORK.classes)
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    network = Network(NETWORK)
    for mode in modes:
        moves = elements(network.group, mode)
        table = turned(images, moves)
        inverse = turned(images, moves.swapaxes(-1, -2))  # of a turn: its transpose
        rows, classes = first_batches(network, mode, seeds, labels, steps)
        for gamma in gammas:
            weights, ours = train(network, mode, gamma, seeds, table, rows, classes, jobs)
            apart = []
            for some in (table, inverse) if len(moves) > 1 else (table,):
                theirs = torch.stack(
                    [
                        drive(
                            make,
                            {name: weight[i] for name, weight in weights.items()},
                            gamma,
                            some,
                            rows[i],
                            classes[i],
                        )
                        for i in range(len(seeds))
                    ]
                )
                apart.append(float((ours / theirs - 1).abs().max()))
            yield Compared(mode, gamma, apart[0], apart[1] if len(apart) > 1 else None)


def load(authors: Path) -> Make:
    """What makes the authors' network, from their file.

    Raises ValueError where the folder has no such file, or the file no such class.
    """
    file = authors / FILE
    if not file.is_file():
        raise ValueError(f"{authors} has no {FILE}; accepted: a clone of {REPOSITORY}")
    spec = importlib.util.spec_from_file_location("authors", file)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        made: Make = getattr(module, CLASS)
    except Exception as error:  # somebody else's code may raise anything
        raise ValueError(f"{file} has no {CLASS} ({error!r}); a clone of {REPOSITORY}?") from error
    return made


def first_batches(
    network: Network, mode: Mode, seeds: Sequence[int], labels: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """The first ``steps`` batches of a training: which images, turned how, and their classes.

    (seeds, steps, batch) each. Raises ValueError where a training has fewer.
    """
    rows, classes, found = [], [], 0
    for some, theirs in batches(network.group, mode, seeds, labels, TRAINING, steps):
        rows.append(some)
        classes.append(theirs)
        found += some.shape[1]
        if found >= steps:
            return torch.cat(rows, 1)[:, :steps], torch.cat(classes, 1)[:, :steps]
    raise ValueError(f"steps is {steps}; accepted: at most {found}, all of a training")


def train(
    network: Network,
    mode: Mode,
    gamma: float,
    seeds: Sequence[int],
    images: Tensor,
    rows: Tensor,
    classes: Tensor,
    jobs: JobSettings,
) -> tuple[dict[str, Tensor], Tensor]:
    """Our training: the weights at its start; the distances before each step, (seeds, steps)."""
    spaces = network.layers.items()
    initial = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in seeds])
        for name, space in spaces
    }
    draws = [perturbation(network, mode, seed, TRAINING.perturbation) for seed in seeds]
    noise = {name: torch.stack([draw[name] for draw in draws]) for name, _ in spaces}
    runs = start(network, initial, noise, [gamma] * len(seeds))
    weights = {name: weight.float() for name, weight in runs.weights(network).items()}
    moved = network.to(images.device, torch.float32), runs.to(images.device, torch.float32)
    trainer = choose_trainer(*moved, images, TRAINING, jobs)
    return weights, trainer.advance(rows, classes)[..., 1].double()


def drive(
    make: Make,
    weights: Mapping[str, Tensor],
    gamma: float,
    images: Tensor,
    rows: Tensor,
    classes: Tensor,
) -> Tensor:
    """The distances before each step, (steps,), of a network of theirs that starts at ``weights``.

    images: rows of pixels, uint8; rows, classes: (steps, batch). Raises ValueError if the network
    has not the parameters that it should have.
    """
    support = torch.ones(NETWORK.kernel_size, NETWORK.kernel_size)
    network = make(support, hidden=NETWORK.channels).to(images.device)
    parameters = dict(network.named_parameters())
    found = {name: parameter.numel() for name, parameter in parameters.items()}
    expected = {PARAMETERS[name]: weight.numel() for name, weight in weights.items()}
    if found != expected:
        raise ValueError(f"{CLASS} has parameters {found}; expected {expected}")
    with torch.no_grad():
        for name, weight in weights.items():
            parameter = parameters[PARAMETERS[name]]
            parameter.copy_(weight.reshape(parameter.shape))
    optimizer = torch.optim.SGD(network.parameters(), TRAINING.learning_rate)
    squares = []
    for batch, labels in zip(rows, classes, strict=True):
        x = images[batch].view(-1, 1, NETWORK.image_size, NETWORK.image_size).float() / 255
        square = torch.stack(tuple(network.projection_error())).sum()  # type: ignore[operator]
        loss = TRAINING.scale * F.cross_entropy(network(x), labels) + gamma / 2 * square
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        squares.append(square.detach().double())
    return torch.stack(squares).sqrt()


def table(compared: Sequence[Compared], seeds: Sequence[int], steps: int) -> str:
    """The differences as a table in Markdown, and the largest of them in a line."""
    head = ["gamma", "mode", "largest relative difference", "turned the other way"]
    rows = [
        [
            spell_gamma(one.gamma),
            one.mode,
            f"{one.difference:.1e}",
            "" if one.other_way is None else f"{one.other_way:.1e}",
        ]
        for one in compared
    ]
    largest = max(one.difference for one in compared)
    lines = rows_of(head, rows)
    lines.append(
        f"Distances to E before each of {steps:,} steps, seeds {spell_seeds(list(seeds))}: ours "
        f"differ from those of the authors' network by at most {largest:.1e} of theirs."
    )
    return "\n".join(lines)
