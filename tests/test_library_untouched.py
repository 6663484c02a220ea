"""Making an ``Equivariance`` and measuring leave no trace."""

from __future__ import annotations

import copy
import gc
import random
import weakref
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from equireg.library.equivariance import Equivariance

SQUARE = torch.zeros(2, 1, 8, 8)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Adapter(nn.Module):
    """A low-rank correction that evaluation merges into the weights, and training takes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.down, self.up = torch.randn(4, 2), torch.randn(2, 9)
        self.merged = False
        self.calls = list[bool]()

    def train(self, mode: bool = True) -> Adapter:
        super().train(mode)
        self.calls.append(mode)
        if self.merged == mode:
            sign = -1 if mode else 1
            self.conv.weight.data += sign * (self.down @ self.up).view(4, 1, 3, 3)
            self.conv.weight.requires_grad_(mode)
            self.merged = not mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(x))


def test_modules_whose_train_acts_are_as_before() -> None:
    model = nn.Sequential(Adapter(), nn.AdaptiveAvgPool2d(1))
    adapter = model[0]
    assert isinstance(adapter, Adapter)
    weight = adapter.conv.weight.detach().clone()
    eq = Equivariance(model, "C4", SQUARE)
    eq.error(torch.randn(2, 1, 8, 8))
    assert not adapter.merged
    assert adapter.training
    assert adapter.conv.weight.requires_grad
    assert torch.equal(adapter.conv.weight, weight)


class Restless(nn.Module):
    """Counts, keeps, draws and tracks in every forward pass, also in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)
        self.calls, self.kept, self.meter = 0, list[float](), Meter()
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("variance", torch.ones(4))
        self.observed = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.kept.append(float(x.mean()))
        self.meter.total += 1
        self.observed += 1
        np.random.rand()  # noqa: NPY002
        random.random()
        x = F.batch_norm(self.conv(x), self.mean, self.variance, training=True)  # type: ignore
        x = F.dropout(x.relu().mean((2, 3)), 0.5, training=True)
        return torch.as_tensor(self.head(x + 0 * torch.randn_like(x)))


class Meter:
    def __init__(self) -> None:
        self.total = 0


def test_state_and_random_numbers_are_as_before() -> None:
    model = Restless()
    state = copy.deepcopy(model.state_dict())
    python, cpu = random.getstate(), torch.get_rng_state()
    legacy = np.random.get_state(legacy=False)  # noqa: NPY002
    eq = Equivariance(model, "C4", SQUARE)
    eq.error(torch.randn(2, 1, 8, 8, generator=torch.Generator()))
    assert (model.calls, model.kept, model.meter.total, float(model.observed)) == (0, [], 0, 0)
    for name, x in model.state_dict().items():
        assert torch.equal(x, state[name])
    assert random.getstate() == python
    now = np.random.get_state(legacy=False)  # noqa: NPY002
    assert (now["state"]["key"] == legacy["state"]["key"]).all()
    assert now["state"]["pos"] == legacy["state"]["pos"]
    assert torch.equal(torch.get_rng_state(), cpu)


class Buffered(nn.Module):
    """Writes its outputs into one tensor at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.out = nn.Linear(64, 3), torch.zeros(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.out[: len(x)].copy_(self.flat(x.flatten(1)))


def test_a_model_that_writes_into_one_buffer_is_measured() -> None:
    model = Buffered()
    eq = Equivariance(model, "C4", SQUARE)
    batch = torch.randn(4, 1, 8, 8)
    assert eq.error(batch).relative > 1e-2
    eq.project_()
    assert eq.error(batch).relative < 1e-5


class Careless(nn.Module):
    """Changes its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(x.relu_()).mean((2, 3)))


def test_batches_are_left_as_they_are() -> None:
    example, batch = torch.randn(2, 1, 8, 8), torch.randn(4, 1, 8, 8)
    held = example.clone(), batch.clone()
    eq = Equivariance(Careless(), "C4", example)
    eq.error(batch)
    eq.symmetrized()(batch)
    assert torch.equal(example, held[0])
    assert torch.equal(batch, held[1])


def test_activations_are_not_kept() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    kept = list[weakref.ref[Tensor]]()
    model[0].register_forward_hook(lambda _, __, out: kept.append(weakref.ref(out)))
    data = torch.randn(1000, 1, 8, 8)
    eq = Equivariance(model, "C4", data[:2])
    gc.collect()
    assert all(one() is None for one in kept)
    assert eq._made.example.untyped_storage().nbytes() < 1000


def test_a_failure_leaves_no_trace_either() -> None:
    class Fails(Restless):
        def forward(self, x: Tensor) -> Any:
            super().forward(x)
            raise KeyError("late")

    model = Fails()
    cpu = torch.get_rng_state()
    with pytest.raises(ValueError, match=r"cannot be followed: .* it raised KeyError: 'late'"):
        Equivariance(model, "C4", SQUARE)
    assert model.calls == 0
    assert model.training
    assert torch.equal(torch.get_rng_state(), cpu)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
