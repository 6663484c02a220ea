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
from equireg.markdown import rows_of
from equireg.settings import JobSettings, Mode, NetworkSettings, TrainingSettings
from equireg.spelling import spell_gamma, spell_seeds
from equireg.training.batches import elements, turned
from equireg.training.blocks import Blocks
from equireg.training.network import Network
from equireg.training.schedules import risk_scale
from equireg.training.start import start_runs

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
        Blocks.of(mode, gammas, seeds).refuse_unstable(TRAINING)
    if steps < 1:
        raise ValueError(f"steps is {steps}; accepted: 1 or more")
    dataset = load_dataset(data, NETWORK)
    images, labels = dataset.train_images.to(device), dataset.train_labels.to(device)
    network = Network.of(NETWORK)
    for mode in modes:
        moves = elements(network.group, mode)
        table = turned(images, moves)
        inverse = turned(images, moves.swapaxes(-1, -2))  # of a turn: its transpose
        for gamma in gammas:
            blocks = Blocks.of(mode, [gamma], seeds)
            given = first_batches(blocks, network, labels, steps)
            rows, classes = given[:2]
            weights, ours = train(blocks, network, images, given, jobs)
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
    blocks: Blocks, network: Network, labels: Tensor, steps: int
) -> tuple[Tensor, ...]:
    """What ``blocks`` train on in the first ``steps`` steps: see ``Trainer.advance``.

    Raises ValueError where a training has fewer.
    """
    chunks: list[tuple[Tensor, ...]] = []
    found = 0
    for chunk in blocks.chunks(network, labels, TRAINING):
        chunks.append(chunk)
        found += chunk[0].shape[1]
        if found >= steps:
            return tuple(torch.cat(parts, 1)[:, :steps] for parts in zip(*chunks, strict=True))
    raise ValueError(f"steps is {steps}; accepted: at most {found}, all of a training")


def train(
    blocks: Blocks,
    network: Network,
    images: Tensor,
    given: tuple[Tensor, ...],
    jobs: JobSettings,
) -> tuple[dict[str, Tensor], Tensor]:
    """Our training: the weights at its start; the distances before each step, (seeds, steps)."""
    draws = [network.initial(seed, "gaussian") for seed in blocks.seeds]
    initial = {name: torch.stack([draw[name] for draw in draws]) for name in network.spaces}
    runs = start_runs(network.spaces, initial, blocks.mode, blocks.seeds, TRAINING.perturbation)
    weights = {name: weight.float() for name, weight in runs.weights(network.spaces).items()}
    device = str(images.device)
    trainer = blocks.trainer(network, initial, TRAINING, images, device, jobs)
    return weights, trainer.advance(*given)[..., 1].double()


def drive(
    make: Make,
    weights: Mapping[str, Tensor],
    gamma: float,
    images: Tensor,
    rows: Tensor,
    classes: Tensor,
) -> Tensor:
    """The distances before each step, (steps,), of a network of theirs that starts at ``weights``.

    images: (count, 1, height, width) of uint8; rows, classes: (steps, batch). Raises ValueError if
    the network has not the parameters that it should have.
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
        x = images[batch].float() / 255
        square = torch.stack(tuple(network.projection_error())).sum()  # type: ignore[operator]
        loss = risk_scale(TRAINING) * F.cross_entropy(network(x), labels) + gamma / 2 * square
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
