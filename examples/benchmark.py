"""What the penalty costs beside a training step, and how it compares with equivariance-regularizer.

    python examples/benchmark.py cost --side 33
    python examples/benchmark.py making resnet vit linear sets
    python examples/benchmark.py compare --seconds 20

CPU time on one core, so that other programs disturb little. ``compare`` takes the package
equivariance-regularizer (pip install equivariance-regularizer) into account where it is installed:
it penalizes |f(g x) - f(x)| on random images, or here also on the batch.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import equireg
from equireg.dataset import load_dataset
from equireg.groups import point_group, symmetric
from equireg.representations import defining, regular, trivial
from equireg.settings import NetworkSettings

Penalty = Callable[[Tensor], Tensor]
Regular = dict[str, tuple[None, str]] | None
REGULAR: Regular = {"0": (None, "regular"), "3": (None, "regular")}


def cost(options: argparse.Namespace) -> None:
    """Time a ResNet-18's steps at batch 32 and what the penalty adds to each, in turn.

    The penalty in the loss is steps with it beside steps without; the two other ways are calls, and
    are timed as such, within the loop, where nothing they need is in the cache.
    """
    model = torchvision.models.resnet18(num_classes=10)
    x = torch.rand(32, 3, options.side, options.side)
    labels = torch.arange(32) % 10
    eq = equireg.Equivariance(model, "C4", x[:2])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    times: dict[str, list[float]] = {}

    def timed(what: str, call: Callable[[], None]) -> float:
        start = time.process_time()
        call()
        times.setdefault(what, []).append(time.process_time() - start)
        return times[what][-1]

    def backward(penalized: bool) -> None:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), labels)
        (loss + 1e-2 / 2 * eq.penalty() if penalized else loss).backward()

    for _ in range(options.rounds + 1):
        plain = timed("backward", partial(backward, False))
        timed("add_penalty_gradients_()", partial(eq.add_penalty_gradients_, 1e-2))
        times.setdefault("step", []).append(plain + timed("optimizer", optimizer.step))
        with_it = timed("with it", partial(backward, True))
        times.setdefault("penalty()", []).append(with_it - plain)
        optimizer.step()
        eighth = timed("all eight", partial(eq.decoupled_penalty_, 1e-2, lr=1e-3, steps=8)) / 8
        times.setdefault("decoupled_penalty_() every 8 steps", []).append(eighth)
    step = median(times["step"][1:])
    print(f"ResNet-18, 32 images of {options.side} x {options.side}: {step:.3f} s a step")
    for kind in ("penalty()", "add_penalty_gradients_()", "decoupled_penalty_() every 8 steps"):
        taken = times[kind][1:]
        print(f"  {kind}: {median(taken) / step:+.1%} (median of {len(taken)})")


def making(options: argparse.Namespace) -> None:
    """Time what making ``eq`` takes beside a training step at batch 32, and count what it holds."""
    for name in options.names or CASES:
        for cache in caches():
            cache.cache_clear()
        model, x, arguments = CASES[name]()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def step(model: nn.Module, x: Tensor, optimizer: torch.optim.Optimizer) -> None:
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()

        times: dict[str, list[float]] = {"step": [], "making": []}
        for _ in range(options.rounds):
            for what, call in (
                ("step", partial(step, model, x, optimizer)),
                ("making", partial(equireg.Equivariance, model, **arguments)),
            ):
                start = time.process_time()
                call()
                times[what].append(time.process_time() - start)
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        optimizer.zero_grad()
        eq = equireg.Equivariance(model, **arguments)
        eq.penalty().backward()  # makes what is made at first use
        eq.add_penalty_gradients_(1.0)
        eq.project_()
        held = constants(eq, model)
        steps = [a / b for a, b in zip(times["making"], times["step"], strict=True)]
        print(
            f"{name}: {median(times['step']):.3f} s a step; making eq {median(times['making']):.3f}"
            f" s, {median(steps):.1f} steps (median of {len(steps)}; the first "
            f"{steps[0]:.1f}); weights {weights / 2**20:.2f} MiB, "
            f"constants {held / 2**20:.2f} MiB, {held / weights:.2f} of them",
            flush=True,
        )


def caches() -> list[Any]:
    """The library's caches."""
    kind = type(functools.lru_cache(len))
    every = [x for x in gc.get_objects() if type(x) is kind]
    return [x for x in every if f"{getattr(x, '__module__', '')}".startswith("equireg")]


def constants(eq: equireg.Equivariance, model: nn.Module) -> int:
    """Bytes of all arrays that ``eq`` refers to, the library's caches too, without the model."""
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [p.grad for p in model.parameters() if p.grad is not None]
    known = {x.untyped_storage().data_ptr() for x in tensors}
    held = caches()
    seen, total, todo = {id(model)}, 0, list[Any]([eq, *held])
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, (nn.Module, type, type(gc))):
            continue
        seen.add(id(one))
        if isinstance(one, np.ndarray):
            while isinstance(one.base, np.ndarray):
                one = one.base
            where, size = one.__array_interface__["data"][0], one.nbytes
        elif isinstance(one, Tensor):
            where, size = one.untyped_storage().data_ptr(), one.untyped_storage().nbytes()
        else:
            if not callable(one) or one in held:
                todo += gc.get_referents(one)
            continue
        if where not in known:
            known.add(where)
            total += size
    return total


def linear() -> Case:
    """4096 to 4096 entries under D4, all regular."""
    group = point_group("D4")
    rho = 512 * regular(group)
    layers = {"": (None, rho)}
    model = nn.Linear(4096, 4096)
    x = torch.randn(32, 4096)
    return model, x, {"group": group, "example": x[:2], "representations": layers, "input": rho}


def sets() -> Case:
    """506 entries, of which S6 permutes the last six, to 1024 that stay."""
    group = symmetric(6)
    rho = trivial(group, 500) + defining(group)
    x = torch.randn(32, 506)
    return nn.Linear(506, 1024), x, {"group": group, "example": x[:2], "input": rho}


def images(make: Callable[..., nn.Module], side: int) -> Case:
    """A classifier of images under C4."""
    x = torch.randn(32, 3, side, side)
    return make(num_classes=10), x, {"group": "C4", "example": x[:2]}


Case = tuple[nn.Module, Tensor, dict[str, Any]]
CASES: dict[str, Callable[[], Case]] = {
    "resnet": partial(images, torchvision.models.resnet18, 33),
    "vit": partial(images, torchvision.models.vit_b_16, 224),
    "linear": linear,
    "sets": sets,
}


def compare(options: argparse.Namespace) -> None:
    """Train a small network on MNIST for equal time with each method."""
    data = load_dataset(options.data, NetworkSettings())
    images, labels = data.train_images / 255, data.train_labels.long()
    test_images, test_labels = data.test_images[:2000] / 255, data.test_labels[:2000]

    def train(name: str, augmented: bool, penalty: Callable[[nn.Module], Penalty]) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 10),
        )  # fmt: skip
        eq = equireg.Equivariance(
            model, "C4", images[:2], REGULAR if "regular channels" in name else None
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        random, extra = torch.Generator().manual_seed(0), penalty(model)
        steps, start = 0, time.process_time()
        while time.process_time() - start < options.seconds:
            batch = torch.randint(len(images), (32,), generator=random)
            x = eq.augment(images[batch], random) if augmented else images[batch]
            loss = F.cross_entropy(model(x), labels[batch]) + extra(x)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1

        def measured() -> str:
            error = eq.error(test_images)
            with torch.no_grad():
                turned = eq.augment(test_images, torch.Generator().manual_seed(1))
                accuracy = (model(turned).argmax(1) == test_labels).float().mean()
            return f"{error.relative:8.2g} {error.changed:8.2%} {accuracy:8.2%}"

        print(f"{name:44} {steps:6} {measured()}", flush=True)
        if name.startswith("equireg,"):
            eq.project_()
            print(f"{'  projected':44} {'':6} {measured()}", flush=True)

    def ours(gamma: float, representations: Regular, model: nn.Module) -> Penalty:
        eq = equireg.Equivariance(model, "C4", images[:2], representations)
        return lambda x: gamma / 2 * eq.penalty()

    def theirs(weight: float, on_batch: bool, model: nn.Module) -> Penalty:
        from equivariance_regularizer import EquivarianceRegularizer  # type: ignore

        turns = [partial(torch.rot90, k=k, dims=(2, 3)) for k in (1, 2, 3)]
        transforms = [[lambda y: y, turn, 0.0, weight] for turn in turns]
        regularizer = EquivarianceRegularizer(model, (1, 28, 28), transforms, n=32)
        return lambda x: regularizer(x) if on_batch else regularizer()

    print(f"{'method':44} {'steps':>6} {'error':>8} {'changed':>8} {'accuracy':>8}")
    train("nominal", False, lambda model: lambda x: torch.zeros(()))
    train("augmented", True, lambda model: lambda x: torch.zeros(()))
    for gamma in (1e-1, 1e0):
        train(f"equireg, gamma {gamma:g}", True, partial(ours, gamma, None))
        name = f"equireg, gamma {gamma:g}, regular channels"
        train(name, True, partial(ours, gamma, REGULAR))
    if importlib.util.find_spec("equivariance_regularizer"):
        for on_batch in (False, True):
            for weight in (0.1, 1.0):
                where = "batch, augmented" if on_batch else "random images"
                name = f"equivariance-regularizer {weight:g}, {where}"
                train(name, on_batch, partial(theirs, weight, on_batch))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
verbs = parser.add_subparsers(required=True)
one = verbs.add_parser("cost")
one.add_argument("--side", type=int, default=33, help="of the images")
one.add_argument("--rounds", type=int, default=10)
one.set_defaults(run=cost)
made = verbs.add_parser("making")
made.add_argument("names", nargs="*", help="of: resnet, vit, linear, sets")
made.add_argument("--rounds", type=int, default=3)
made.set_defaults(run=making)
two = verbs.add_parser("compare")
two.add_argument("--seconds", type=float, default=20, help="of CPU time for each method")
two.add_argument("--data", type=Path, default=Path("results/data/mnist.safetensors"))
two.set_defaults(run=compare)
chosen = parser.parse_args()
torch.set_num_threads(1)
chosen.run(chosen)
