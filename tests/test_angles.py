"""Images under angles that are none of their grid, and data under groups without end."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage
from torch import Tensor

from cases import images, initial
from equireg.built import build
from equireg.settings import JobSettings, NetworkSettings, TrainingSettings
from equireg.symmetry.groups import Elements
from equireg.training.batches import batches, interpolated
from equireg.training.blocks import Blocks
from equireg.training.function import Tally, reference_forward, turned_outputs
from equireg.training.network import Network, plane_of
from equireg.training.step import Reference, Trainable
from experiment import Jobs

SIDE = 12
EXAMPLES = Path(__file__).parent.parent / "examples" / "networks"


def network(group: str) -> Network:
    return Network.of(NetworkSettings(group=group, image_size=SIDE, channels=(4, 4), classes=5))


def turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@pytest.mark.parametrize("side", [5, 8])
def test_turned_images_are_scipys(side: int) -> None:
    """Bilinear between the pixels, 0 outside; numbers to rounding, bytes to the byte."""
    pixels, angles = images(3, side, 2), np.array([0.3, 2.0, 5.1])
    matrices = np.stack([turn(angle) for angle in angles])
    numbers = interpolated(pixels.double(), matrices)
    for image, matrix, found in zip(pixels, matrices, numbers, strict=True):
        centre = np.full(2, (side - 1) / 2)
        shift = centre - matrix.T @ centre  # (rho(g) x)(v) = x(g^T v), v from the centre
        for channel, one in zip(image, found, strict=True):
            expected = ndimage.affine_transform(
                channel.double().numpy(), matrix.T, shift, order=1, mode="grid-constant"
            )
            assert np.allclose(one, expected, atol=1e-10)
    assert torch.equal(interpolated(pixels, matrices), numbers.round().to(torch.uint8))


@pytest.mark.parametrize(("group", "turns"), [("C8", 8), ("D8", 16)])
def test_quarter_turns_among_them_are_exact(group: str, turns: int) -> None:
    here, pixels = network(group), images(4, SIDE)
    each = here.orbit(pixels).view(4, turns, 1, SIDE, SIDE)
    assert here.listed
    assert torch.equal(each[:, 0], pixels)
    found = {one.numpy().tobytes() for one in each[0]}
    assert len(found) == turns
    for one in each[0]:  # and the set of all is closed under them, though not under eighths
        assert one.rot90(1, (-2, -1)).numpy().tobytes() in found
    if group == "C8":
        for k in range(4):
            assert torch.equal(each[:, 2 * k], pixels.rot90(k, (-2, -1)))


@pytest.mark.parametrize(
    ("group", "inside"), [("C8", "C4"), ("SO(2)", "C4"), ("D8", "D4"), ("O(2)", "D4")]
)
def test_e_is_that_of_the_part_that_maps_the_grid_to_itself(group: str, inside: str) -> None:
    here, there = network(group), network(inside)
    assert here.group.name == inside
    assert all(here.spaces[name].equals(space) for name, space in there.spaces.items())
    assert {name: s.dims for name, s in here.spaces.items()} == {
        name: s.dims for name, s in there.spaces.items()
    }


def off_e(here: Network, table: Tensor) -> float:
    """The part off E of the gradient at weights in E, over that in it: on these images, alike."""
    weights = {name: w.requires_grad_() for name, w in initial(here, [0]).items()}
    inputs = table[None].double() / 255
    labels = (torch.arange(len(table)) // (len(table) // 3))[None] % 5
    loss = here.loss(here.forward(weights, inputs), labels).mean()
    gradients = torch.autograd.grad(loss, list(weights.values()))
    pairs = [s.coordinates(g[0]) for s, g in zip(here.spaces.values(), gradients, strict=True)]
    inner, outer = (
        torch.cat([p.flatten() for p in side]).norm() for side in zip(*pairs, strict=True)
    )
    return float(outer / inner)


def test_fact_a_for_the_mean_over_c8() -> None:
    """It is the mean over C4 of images at 0 and 45 degrees; without the quarter turns it is not."""
    here, pixels = network("C8"), images(3, SIDE)
    table = here.orbit(pixels).view(3, 8, 1, SIDE, SIDE)
    assert off_e(here, table.flatten(0, 1)) < 1e-12
    assert off_e(here, table[:, :2].flatten(0, 1)) > 1e-2


def test_no_weights_in_e_are_invariant_under_eighths() -> None:
    here, pixels = network("C8"), images(20, SIDE).double() / 255
    weights = initial(here, [0, 1])
    outputs = turned_outputs(here, reference_forward(here, weights), pixels)
    assert outputs.shape == (8, 2, 20, 5)
    assert torch.allclose(outputs[::2], outputs[:1].expand(4, -1, -1, -1), atol=1e-12)
    assert (outputs[1] - outputs[0]).norm() > 1e-2 * outputs[0].norm()
    tally = Tally(here)
    tally.add(outputs, torch.zeros(20, dtype=torch.uint8))
    error = (outputs[1:] - outputs[0]).square().sum((0, 2, 3)) / outputs[0].square().sum((1, 2)) / 7
    found = tally.results()["equivariance_error"]
    assert found is not None
    assert torch.allclose(found, error.sqrt())


def chunks(here: Trainable, pixels: Tensor, labels: Tensor, first: int = 0) -> list[list[Tensor]]:
    """What two seeds train on from a step on, step by step."""
    training = TrainingSettings(batch_size=4, epochs=2, order="shuffled")
    blocks = Blocks.of("augmented", [0.1], [0, 1])
    parts = [
        torch.cat(part, 1)
        for part in zip(*blocks.chunks(here, labels, training, first, None, pixels), strict=True)
    ]
    return [list(step) for step in zip(*(part.unbind(1) for part in parts), strict=True)]


def test_each_image_of_each_step_has_an_angle_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    here, labels = network("SO(2)"), torch.arange(12, dtype=torch.uint8) % 5
    pixels = images(1, SIDE).expand(12, -1, -1, -1)  # twelve times the same image
    every = chunks(here, pixels, labels)
    moved = torch.stack([inputs for inputs, *_ in every], 1)
    assert moved.shape == (2, 6, 4, 1, SIDE, SIDE)
    assert moved.dtype == torch.uint8
    assert len({one.numpy().tobytes() for one in moved.flatten(0, 2)}) == 48
    # Neither where a training is taken up nor how much is made at once matters to a bit.
    monkeypatch.setattr("equireg.training.blocks.MOVED", 2 * 4 * SIDE**2)
    for first in (0, 2, 3, 5):
        later = chunks(here, pixels, labels, first)
        assert len(later) == 6 - first
        for one, two in zip(later, every[first:], strict=True):
            assert all(map(torch.equal, one, two))
    quarter = Elements(np.zeros(12, np.int64), np.full((12, 1), math.pi / 2))
    turned, same = here.move(pixels, labels, quarter)
    assert torch.equal(turned, pixels.rot90(1, (-2, -1)))
    assert same is labels


@pytest.mark.parametrize("step", ["reference", "auto"])
def test_steps_on_images_are_those_on_rows(step: str) -> None:
    """A batch may name images or bring them: the same bits."""
    here, pixels = network("SO(2)"), images(12, SIDE)
    blocks, training = Blocks.of("augmented", [0.1], [0, 1]), TrainingSettings()
    jobs = JobSettings(step=step)  # type: ignore[arg-type]
    one, two = (
        blocks.trainer(here, initial(here, [0, 1]), training, pixels, "cpu", jobs) for _ in "ab"
    )
    rows = torch.arange(2 * 3 * 4).view(2, 3, 4) % 12
    rest = rows % 5, torch.full((2, 3), 0.1), torch.full((2, 3), 0.05)
    assert torch.equal(one.advance(rows, *rest), two.advance(pixels[rows], *rest))
    for name, weight in one.weights().items():
        assert torch.equal(weight, two.weights()[name])
    assert step == "auto" or isinstance(one, Reference)


def test_a_group_without_end_has_no_exact_augmentation() -> None:
    here, labels = network("O(2)"), torch.zeros(20, dtype=torch.uint8)
    training = TrainingSettings(augmentation="exact")
    with pytest.raises(ValueError, match=r"is exact; O\(2\) has infinitely many .*: random"):
        next(batches(here.acting, "augmented", [0], labels, training, 1, move=lambda r, e: (r, r)))


def test_planes_turn_as_grids_do() -> None:
    for name, quarter in (("C8", 2), ("D8", None)):
        plane = plane_of(name)
        assert plane is not None
        if quarter:
            assert np.allclose(plane.matrices[quarter], turn(math.pi / 2))
        assert np.allclose(plane.matrices @ plane.matrices.swapaxes(1, 2), np.eye(2))
    assert plane_of("C4") is None


@pytest.mark.parametrize("group", ["C8", "SO(2)"])
def test_from_start_to_evaluation(
    group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = Jobs(tmp_path, monkeypatch, ["--group", group, "--channels", "4", "--channels", "4"])
    block = jobs.train("a", "augmented", "0.1", "0-1")
    jobs.run("evaluate", "--block", block, "--data", jobs.data, *jobs.network)
    table = pd.read_parquet(block.with_suffix(".evaluation.parquet"))
    assert (table["equivariance_error"] > 1e-2).all()
    assert table["test_accuracy_turned"].between(0.1, 0.95).all()


# --- The inertia of point masses, under O(3). -----------------------------------------------------


@pytest.fixture(scope="module")
def inertia() -> Trainable:
    built = build(NetworkSettings(build=f"{EXAMPLES}/inertia.py:network"))
    assert built.findings == ()
    return built.network


def clouds(count: int) -> tuple[Tensor, Tensor]:
    """Masses and positions, and tensors by the textbook's entries."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(count, 20, generator=random)
    mass, place = x[:, :5, None], x[:, 5:].view(count, 5, 3)
    a, b, c = place.unbind(2)
    rows = [
        [b**2 + c**2, -a * b, -a * c],
        [-a * b, a**2 + c**2, -b * c],
        [-a * c, -b * c, a**2 + b**2],
    ]
    each = torch.stack([torch.stack(row, 2) for row in rows], 2)
    return x, (mass[..., None] * each).mean(1).flatten(1)


def test_clouds_and_tensors_move_alike(inertia: Trainable) -> None:
    """The tensor of a moved cloud is the moved tensor; and the example makes these tensors."""
    x, y = clouds(6)
    elements = inertia.acting.sample(6, np.random.default_rng(0))
    moved, targets = inertia.move(x, y, elements)
    place, there = x[:, 5:].view(6, 5, 3), moved[:, 5:].view(6, 5, 3)
    assert torch.equal(moved[:, :5], x[:, :5])
    assert torch.allclose(there @ there.mT, place @ place.mT, atol=1e-5)
    square = (moved[:, :5, None, None] * there.square().sum(2)[..., None, None]) * torch.eye(3)
    outer = moved[:, :5, None, None] * there.unsqueeze(3) * there.unsqueeze(2)
    assert torch.allclose((square - outer).mean(1).flatten(1), targets, atol=1e-4)
    assert not torch.allclose(targets, y, atol=1e-1)


def test_the_network_is_equivariant_in_e_and_its_mean_nearly(inertia: Trainable) -> None:
    x, y = clouds(10)
    weights = {name: w[None] for name, w in inertia.initial(0, "gaussian").items()}  # type: ignore[attr-defined]
    assert (inertia.turns, inertia.listed) == (16, False)
    outputs = turned_outputs(inertia, reference_forward(inertia, weights), x.double())
    assert outputs.shape == (16, 1, 10, 9)
    assert torch.allclose(outputs, outputs[:1].expand_as(outputs), atol=1e-10)
    assert outputs.std() > 0.01
    losses = inertia.loss(outputs[0], y[None].double())
    assert losses.shape == (1, 10)


def test_training_under_o3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In E the function is equivariant; free, it is not, and its mean over elements is another."""
    x, y = clouds(40)
    data = tmp_path / "clouds.safetensors"
    arrays = {"train_images": x, "train_labels": y, "test_images": x[:20], "test_labels": y[:20]}
    save_file({name: value.clone() for name, value in arrays.items()}, data)
    jobs = Jobs(tmp_path, monkeypatch, ["--build", f"{EXAMPLES}/inertia.py:network"])
    jobs.data = data
    more = ("--optimizer", "adam", "--learning-rate", "0.01", "--steps", "30")
    twin = jobs.train("e", "equivariant", None, "0", *more)
    free = jobs.train("a", "augmented", "0.1", "0", *more)
    for block in (twin, free):
        words = ["--block", block, "--twins", twin.parent, "--data", jobs.data]
        jobs.run("evaluate", *words, *jobs.network)
    inside, outside = (pd.read_parquet(b.with_suffix(".evaluation.parquet")) for b in (twin, free))
    assert len(pd.read_parquet(free)) == 30
    assert (inside["equivariance_error"] < 1e-4).all()
    assert (outside["equivariance_error"] > 1e-3).all()
    assert ((outside["test_averaged_loss"] / outside["test_loss"] - 1).abs() > 1e-4).all()
    assert outside["test_accuracy"].isna().all()
    with pytest.raises(RuntimeError, match=r"augmentation is exact; O\(3\) has infinitely many"):
        jobs.train("x", "augmented", "0.1", "0", *more, "--augmentation", "exact")


def test_a_training_under_o3_that_is_taken_up_is_the_same(inertia: Trainable) -> None:
    x, y = clouds(12)
    every = chunks(inertia, x, y)
    assert every[0][0].shape == (2, 4, 20)
    assert every[0][1].shape == (2, 4, 9)
    for one, two in zip(chunks(inertia, x, y, 4), every[4:], strict=True):
        assert all(map(torch.equal, one, two))
