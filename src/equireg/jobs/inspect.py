"""Inspect a network before anything is trained: its parameters, their E, and a batch of data."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from equireg.binding import options, with_source, write_document
from equireg.built import Built, build, failing
from equireg.dataset import load_dataset
from equireg.digest import job_digest
from equireg.files import sha256
from equireg.markdown import rows_of
from equireg.settings import NetworkSettings
from equireg.training.network import Network
from equireg.training.step import Trainable, scaled

SAMPLES = 8  # of the training data that are tried


def inspect(settings: NetworkSettings, data: Path | None, output: Path | None) -> str:
    """The report on a network, as Markdown; written to ``output``, too, where that is given.

    data: the data set's file, of which a batch is tried. Raises ValueError, in one line, for a
    network that cannot be made, that the library refuses, or that does not fit the data.
    """
    built = build(settings) if settings.build else None
    network: Trainable = built.network if built else Network.of(settings)
    made = with_source(options(network=settings), "inspect", job_digest("inspect"))
    if data:
        dataset = load_dataset(data, settings)
        made["data"] = {"sha256": sha256(data)}
        if built:
            images, labels = dataset.train_images[:SAMPLES], dataset.train_labels[:SAMPLES]
            numbers = labels.is_floating_point()
            attempt(built, settings, images, labels if numbers else labels.long())
    text = report(network, str(settings.build or "The paper's kind of network"))
    if built and built.findings:
        text += "\n".join(["", "The library warns:", "", *(f"- {one}" for one in built.findings)])
        text += "\n"
    if output:
        write_document(output, text, made)
    return text


def report(network: Trainable, name: str) -> str:
    """A row per parameter: its shape, the dimensions of E and of its complement, what acts."""
    rows = [
        [
            parameter,
            " x ".join(map(str, space.shape)) or "1",
            *(f"{n:,}" for n in space.dims),
            " * ".join(axis.name for axis in space.axes),
        ]
        for parameter, space in network.spaces.items()
    ]
    inside, outside = (sum(s.dims[i] for s in network.spaces.values()) for i in (0, 1))
    head = ["parameter", "shape", "dim E", "dim E-perp", "moved by"]
    return "\n".join(
        [
            f"# {name}",
            "",
            f"{network.group.name} on {inside + outside:,} weights in {len(rows)} parameters: "
            f"dim E {inside:,}, dim E-perp {outside:,}.",
            "",
            *rows_of(head, rows),
            "",
        ]
    )


def attempt(built: Built, settings: NetworkSettings, images: Tensor, targets: Tensor) -> None:
    """One training step's forward and backward pass on a batch, as the seed 0 begins.

    Raises ValueError where the module fails, or its outputs or its loss do not fit the targets.
    """
    network = built.network
    draw = network.initial(0, "gaussian")
    weights = {
        name: x.float().unsqueeze(0) if name in network.spaces else x.unsqueeze(0)
        for name, x in draw.items()
    }
    leaves = [weights[name].requires_grad_() for name in network.spaces]
    with failing(settings, "failed on a batch of the data"):
        inputs = scaled(images, leaves[0])[None]
        outputs = network.forward(weights, inputs, training=True)
    shape, wanted, what = tuple(outputs.shape[1:]), tuple(targets.shape), "as the targets have"
    if not targets.is_floating_point():
        wanted, what = (len(images), settings.classes), "a number per class (network: classes)"
    if shape != wanted:
        raise ValueError(
            f"{settings.build}: the outputs have shape {shape} for {len(images)} samples; "
            f"accepted: {wanted}, {what}"
        )
    with failing(settings, "its outputs cannot be moved"):
        network.back(torch.stack([outputs] * network.turns))
        network.target_orbit(targets)
    with failing(settings, "its loss failed on a batch of the data"):
        loss = network.loss(outputs, targets[None])
    if tuple(loss.shape) != (1, len(images)):
        raise ValueError(
            f"{settings.build}: the loss has shape {tuple(loss.shape[1:])} for {len(images)} "
            "samples; accepted: a number for each"
        )
    if not loss.isfinite().all():
        raise ValueError(f"{settings.build}: the loss is {loss.mean():.3g}; accepted: numbers")
    with failing(settings, "its gradient failed"):
        gradients = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
    if all(gradient is None or not gradient.any() for gradient in gradients):
        raise ValueError(
            f"{settings.build}: the loss does not depend on the parameters; accepted: one that does"
        )
