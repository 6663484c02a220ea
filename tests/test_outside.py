"""A layer, a group, a schedule and a data set of somebody else's, defined here and nowhere else."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from cases import images, initial, runs_of, steady
from equireg.cli import main
from equireg.dataset import load_dataset
from equireg.settings import Distribution, JobSettings, NetworkSettings
from equireg.symmetry.groups import Elements, Group, point_group
from equireg.symmetry.representations import Representation, grid, regular, trivial
from equireg.symmetry.spaces import Space, hom
from equireg.training.layers import Linear, Packing, PooledConvolution
from equireg.training.network import Network
from equireg.training.schedules import along
from equireg.training.step import Reference
from equireg.training.trainers import choose_trainer

# --- A layer: fields gain a bias of their own; then the mean over the pixels is taken. ---------


class Bias:
    """x + b, where b is one number per channel; then a relu. E: b is alike within a field."""

    def __init__(self, name: str, channels: Representation) -> None:
        self.name, self.spaces = name, {name: Space(channels)}

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        return {self.name: torch.zeros(self.spaces[self.name].shape, dtype=torch.float64)}

    def forward(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return F.relu(x + weights[self.name][:, None, :, None, None])

    def packing(self) -> Packing | None:
        return None


class Mean:
    """The mean over all pixels: a layer without parameters."""

    spaces: Mapping[str, Space] = {}

    def initial(self, seed: int, law: Distribution) -> dict[str, Tensor]:
        return {}

    def forward(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        return x.mean((-2, -1), keepdim=True)

    def packing(self) -> Packing | None:
        return None


def network() -> Network:
    c4 = point_group("C4")
    fields = 2 * regular(c4)
    filters = PooledConvolution("conv1", trivial(c4), fields, 3)
    last = Linear("linear", fields, trivial(c4, 3), 1)
    return Network(c4, [filters, Bias("bias", fields), Mean(), last])


def test_a_layer_with_a_bias_and_one_without_parameters(capfd: pytest.CaptureFixture[str]) -> None:
    """Trained as the others are: in E, off it with a penalty; kernels leave it to the reference."""
    here, pixels = network(), images(12, 8)
    assert here.spaces["bias"].dims == (2, 6)
    runs = runs_of(here, "augmented", [0, 1], deviation=0.1).to("cpu", torch.float32)
    trainer = choose_trainer(here, runs, pixels, 1.0, JobSettings())
    assert isinstance(trainer, Reference)
    assert "bias is a layer that it does not know" in capfd.readouterr().err
    rows = torch.arange(80).remainder(12).view(2, 8, 5)
    recorded = trainer.advance(rows, rows % 3, *steady(rows, [3.0, 3.0], 0.1))
    assert recorded.shape == (2, 8, 2 + 3)
    assert (recorded[:, -1, 1] < 0.2 * recorded[:, 0, 1]).all()

    inside = runs_of(here, "equivariant", [0])
    trainer = Reference(here, inside, pixels, 1.0)
    trainer.advance(rows[:1], rows[:1] % 3, *steady(rows[:1], [math.inf], 0.1))
    weights = trainer.weights()
    assert weights["bias"].abs().max() > 0
    x = pixels.double()[None] / 255
    turned = here.forward(weights, x.rot90(1, (-2, -1)))
    assert torch.allclose(here.forward(weights, x), turned, atol=1e-12)


# --- A group: all rotations of the plane, whose elements cannot be listed. ----------------------


class Rotations(Group):
    """SO(2): one generator of its Lie algebra, uniform angles, equispaced ones for means."""

    def __init__(self) -> None:
        turn = np.array([[[0.0, -1.0], [1.0, 0.0]]])
        one = np.eye(2, dtype=np.int64)[None]
        super().__init__("SO(2)", one, one[:0], algebra=turn)

    def sample(self, count: int, random: np.random.Generator) -> Elements:
        return Elements(np.zeros(count, np.int64), random.uniform(0, 2 * np.pi, (count, 1)))

    def quadrature(self, degree: int) -> tuple[Elements, np.ndarray]:
        count = degree + 1
        angles = 2 * np.pi * np.arange(count)[:, None] / count
        return Elements(np.zeros(count, np.int64), angles), np.full(count, 1 / count)

    def frequency(self, k: int) -> Representation:
        """Turns by k times the angle."""
        identity = np.eye(2)[None]
        return Representation(
            self, f"frequency {k}", dense=identity, algebra=k * self.algebra, degree=k
        )


SO2 = Rotations()
VECTORS = SO2.frequency(1)


@pytest.mark.parametrize(
    ("rho_in", "rho_out", "dimension"),
    [
        (VECTORS, VECTORS, 2),  # a rotation, scaled
        (VECTORS, SO2.frequency(2), 0),
        (VECTORS * VECTORS, trivial(SO2), 2),  # the trace and the area
        (VECTORS * VECTORS, SO2.frequency(2), 2),
        (3 * VECTORS + trivial(SO2, 2), VECTORS + trivial(SO2), 3 * 2 + 2),
    ],
)
def test_a_compact_group(rho_in: Representation, rho_out: Representation, dimension: int) -> None:
    """E by the Lie algebra's null space, block by block, against the mean over the quadrature."""
    space = hom(rho_in, rho_out)
    assert space.dims == (dimension, rho_in.size * rho_out.size - dimension)
    x = torch.randn(space.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    elements, shares = SO2.quadrature(rho_in.degree + rho_out.degree)
    ins, outs = (torch.from_numpy(rho.matrices_of(elements)) for rho in (rho_in, rho_out))
    mean = torch.einsum("g,gij,jk,glk->il", torch.from_numpy(shares), outs, x, ins)
    assert torch.allclose(space.project(x), mean, atol=1e-12)

    a = space.project(x)
    drawn = SO2.sample(5, np.random.default_rng(0))
    y = torch.randn(5, rho_in.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(rho_in.act_each(drawn, y) @ a.mT, rho_out.act_each(drawn, y @ a.mT))


def test_a_compact_group_in_irreducible_parts() -> None:
    """Of six vectors' products: maps between them are as many as ways to choose 6 of 12."""
    six = functools.reduce(operator.mul, [VECTORS] * 6)
    assert hom(six, six).dims[0] == math.comb(12, 6)
    assert hom(six, VECTORS).dims[0] == 0


def test_a_group_with_an_algebra_has_to_bring_its_mean() -> None:
    with pytest.raises(
        TypeError, match=r"group 'U' has a Lie algebra; its class has to have sample"
    ):
        Group("U", SO2.elements, SO2.generators, algebra=SO2.algebra).sample(
            1, np.random.default_rng(0)
        )


# --- A schedule: the penalty swings between 0 and 2. --------------------------------------------


def swing(steps: np.ndarray, total: int) -> np.ndarray:
    return np.asarray(1 + np.cos(2 * np.pi * steps / total))


def test_a_schedule() -> None:
    """With no risk, the distance shrinks by 1 - rate gamma(step): each step has its own."""
    here, pixels = network(), images(4, 8)
    trainer = Reference(here, runs_of(here, "nominal", [0]), pixels, 0.0)
    rows = torch.zeros(1, 6, 2, dtype=torch.int64)
    gammas = along([swing], 1, 0, 6, 6)
    recorded = trainer.advance(rows, rows, gammas, torch.full((1, 6), 0.1))
    expected = recorded[0, 0, 1].item() * np.cumprod(1 - 0.1 * swing(np.arange(6), 6))
    found = [*recorded[0, 1:, 1].tolist(), trainer.distances()[0, 0].item()]
    assert np.allclose(found, expected, rtol=1e-6)
    # Resumed at step 4, it is the same.
    assert torch.equal(along([swing], 1, 4, 2, 6), gammas[:, 4:])


# --- A data set: three colours, written by the user's own script. --------------------------------


def test_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Arrays by name in one file; the command line trains on it, colour and all."""
    pixels, labels = images(20, 8, 3).numpy(), (np.arange(20) % 4).astype(np.uint8)
    arrays = {"train_images": pixels, "train_labels": labels}
    arrays |= {"test_images": pixels[:5], "test_labels": labels[:5]}
    data = tmp_path / "colours.safetensors"
    safetensors.numpy.save_file(arrays, data)
    settings = NetworkSettings(image_size=8, image_channels=3, classes=4, channels=(4,))
    assert load_dataset(data, settings).train_images.shape == (20, 3, 8, 8)
    with pytest.raises(ValueError, match="train images have 3 channels of 8x8 pixels; expected 1"):
        load_dataset(data, NetworkSettings(image_size=8, classes=4))

    chosen = "--image-size 8 --image-channels 3 --classes 4 --channels 4 --representation regular"
    start, output = tmp_path / "initial.safetensors", tmp_path / "block.parquet"
    words = f"initialize --seeds 0-1 --output {start} {chosen}"
    more = f"train --mode augmented --gamma 1e-2 --seeds 0-1 --data {data} --initial {start}"
    for command in (words, f"{more} --output {output} --epochs 2 --batch-size 5 {chosen}"):
        monkeypatch.setattr("sys.argv", ["equireg", *command.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
    assert "images have 3 channels, not 1" in capfd.readouterr().err
    assert output.exists()


def test_initial_weights_are_in_e() -> None:
    here = network()
    for name, weight in initial(here, [0]).items():
        assert here.spaces[name].coordinates(weight)[1].norm() < 1e-12
    assert grid(here.group, 3).dimension == 3


def test_layers_of_another_group_and_single_pixels_are_refused() -> None:
    c4, d4 = point_group("C4"), point_group("D4")
    with pytest.raises(ValueError, match=r"representations of C4 .* and of D4 .* meet"):
        Network(c4, [Linear("linear", trivial(d4), trivial(d4, 2), 3)])
    two = [PooledConvolution(f"conv{i}", trivial(c4), trivial(c4), 3) for i in (1, 2)]
    here = Network(c4, [*two, Linear("linear", trivial(c4), trivial(c4, 2), 1)])
    inputs = torch.rand(1, 2, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="conv2 leaves a single pixel, which is always 0"):
        here.forward(initial(here, [0]), inputs)
