"""Small networks that need the paper's assumptions in full, and others that break one of them.

Outputs that the group moves, with labels that are turned with the images; channels that it moves;
layers in an affine space; SO(2) and SO(3). Each comes with a twin that has a breach: the statement
that holds for the one fails for the other.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from equireg.randomness import generator
from equireg.settings import NetworkSettings
from equireg.symmetry.compact import angular_momentum, frequency
from equireg.symmetry.groups import Group, point_group
from equireg.symmetry.nonlinearities import Gates, Norms, Products
from equireg.symmetry.representations import direct_sum, grid, trivial
from equireg.symmetry.spaces import Space, hom
from equireg.theory.models import (
    Breach,
    Model,
    convolutional,
    cross_entropy,
    normal_start,
    squared_error,
)

CHANNELS = 4  # of each hidden layer of convolutions
KINDS = 2  # of pixels, which segmentation tells apart
GAIN = 3.0  # of the tensors' first functions: entries large enough that tanh bends them
OFFSET = 0.3  # deviation of an offset's entries
UNTURNED = Breach("labels that are not turned", of_lemma=True)
OUTSIDE = Breach("an offset outside H_G", of_lemma=False)
ENTRYWISE = Breach("tanh of a vector's entries", of_lemma=True)
COARSE = Breach("a quadrature of too low a degree", of_lemma=False)


def segmentation(settings: NetworkSettings, breach: Breach | None = None) -> Model:
    """Three convolutions and tanh, from images to a kind for each pixel: rho_Y turns the pixels.

    The images have half of the settings' side, as ``halved`` makes them. breach: ``UNTURNED``,
    labels that stay where they are when the images are turned.
    """
    group, side = point_group(settings.group), settings.image_size // 2
    pixels = grid(group, side)
    widths = [settings.image_channels, CHANNELS, CHANNELS, KINDS]
    filters = grid(group, 3)
    spaces = {
        f"conv{i}": Space(
            trivial(group, after), trivial(group, before), filters, shape=(after, before, 3, 3)
        )
        for i, (before, after) in enumerate(itertools.pairwise(widths), 1)
    }

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        x = inputs.view(-1, widths[0], side, side)
        for i, name in enumerate(spaces):
            x = F.conv2d(torch.tanh(x) if i else x, weights[name], padding=1)
        return x.flatten(2).mT.flatten(1)  # pixel by pixel

    return Model(
        "segmentation",
        trivial(group, widths[0]) * pixels,
        pixels * trivial(group, KINDS),
        trivial(group, pixels.size) if breach else pixels,
        "full",
        spaces,
        forward,
        cross_entropy(KINDS),
        functools.partial(scaled_start, spaces),
        breach=breach,
    )


def regular_channels(settings: NetworkSettings, *, lopsided: bool = False) -> Model:
    """The paper's network with channels that the group moves, a field of them in each layer."""
    width = point_group(settings.group).order
    changed = dataclasses.replace(
        settings,
        representation="regular",
        channels=(width,) * len(settings.channels),
        support="lopsided" if lopsided else "full",
        allow_incompatible_support=True,
    )
    model = convolutional(changed)
    return dataclasses.replace(model, network="convolutional, regular channels")


def affine(settings: NetworkSettings, breach: Breach | None = None) -> Model:
    """The paper's network with cross-shaped filters whose other entries are fixed numbers: A_0.

    They are alike along orbits, so that A_0 is in H_G. breach: ``OUTSIDE``, any numbers.
    """
    changed = dataclasses.replace(
        settings, support="cross", channels=(CHANNELS,) * len(settings.channels)
    )
    model = convolutional(changed)
    offsets = {}
    for name, space in model.spaces.items():
        if space.trained is None:
            continue
        fixed = torch.from_numpy(~space.trained).view(space.shape[-2:])
        drawn = generator(0, "theory", "offset", name).standard_normal(space.shape)
        offset = OFFSET * fixed * torch.from_numpy(drawn)
        whole = Space(*space.axes, shape=space.shape)
        offsets[name] = offset if breach else whole.project(offset)
    return dataclasses.replace(
        model, network="convolutional, affine layers", offsets=offsets, breach=breach
    )


def tensors(group: Group, breach: Breach | None = None) -> Model:
    """From two vectors of the plane or of space to a vector and a tensor, under SO(2) or SO(3).

    Three linear layers; between them norms, products and gates, with hidden numbers, vectors and
    tensors. breach: ``ENTRYWISE``, tanh of entries in place of norms, or ``COARSE``, a mean over
    too few elements. The mean's degree is twice that of the layers' matrix entries: on E gradients,
    and Fact B, need it once, the Hessian's quadratic form on the complement twice.
    """
    vector, tensor = (
        frequency(group, k) if len(group.algebra) == 1 else angular_momentum(group, k)
        for k in (1, 2)
    )
    pair, both = 2 * vector, vector + tensor
    norms, products = Norms(pair), Products(pair, pair)
    gates = Gates(direct_sum(trivial(group, 2), pair, tensor))
    spaces = {
        "linear1": hom(pair, pair),
        "linear2": hom(pair + products.output, gates.input),
        "linear3": hom(gates.rho, both),
    }
    degree = max(sum(axis.degree for axis in space.axes) for space in spaces.values())

    def forward(weights: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        x = inputs @ weights["linear1"].mT
        bent = torch.tanh(GAIN * x) if breach == ENTRYWISE else norms(GAIN * x)
        x = gates(torch.cat([bent, products(x)], 1) @ weights["linear2"].mT)
        found: Tensor = x @ weights["linear3"].mT
        return found

    return Model(
        "tensors",
        pair,
        both,
        both,
        "full",
        spaces,
        forward,
        squared_error,
        functools.partial(scaled_start, spaces),
        degree=degree // 2 if breach == COARSE else 2 * degree,
        breach=breach,
    )


def scaled_start(spaces: Mapping[str, Space], seed: int) -> dict[str, Tensor]:
    """Random weights in E that keep the size of signals: rows of norm 1 in the mean."""
    return {
        name: weight * (len(weight) ** 0.5 / weight.norm())
        for name, weight in normal_start(spaces, seed).items()
    }


def halved(images: Tensor, side: int) -> Tensor:
    """Flat images of this side, averaged over 2 x 2 pixels."""
    return F.avg_pool2d(images.view(len(images), -1, side, side), 2).flatten(1)


def ink(images: Tensor, channels: int) -> Tensor:
    """Which pixels of flat images are ink, (count, pixels) of 0 and 1: by the mean channel."""
    mean: Tensor = images.unflatten(1, (channels, -1)).mean(1)
    return (mean > 0.5).long()


def vector_pairs(model: Model, count: int) -> tuple[Tensor, Tensor]:
    """Random pairs of vectors for ``tensors``, and targets that no equivariant function gives."""
    random = generator(0, "theory", "vectors", model.group.name)
    inputs = torch.from_numpy(random.standard_normal((count, model.input.size)))
    stretch = torch.from_numpy(random.standard_normal((model.input.size, model.output.size)))
    first, second = inputs.chunk(2, 1)
    return inputs, (inputs @ stretch + (first * second).sum(1, keepdim=True)) / 2
