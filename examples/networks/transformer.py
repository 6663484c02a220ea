"""A small vision transformer: patches, positions, attention; the group moves the tokens.

A quarter turn permutes the patches, and attention does not ask where a token stands. What breaks
the symmetry are the patches' embedding and the positions: their part off E is what is penalized.

    snakemake --configfile workflow/presets/own-transformer.yaml --cores all
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PATCH, WIDTH, HEADS, DEPTH = 7, 32, 4, 2


class Block(nn.Module):
    """Attention and a perceptron, each behind a normalization and beside an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.perceptron = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        normal = self.before(x)
        x = x + self.attention(normal, normal, normal, need_weights=False)[0]
        return x + self.perceptron(self.between(x))


class Transformer(nn.Module):
    """For images of 28 x 28 pixels, 4 x 4 patches, and ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, stride=PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (28 // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.normal = nn.LayerNorm(WIDTH)
        self.classes = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.classes(self.normal(self.blocks(tokens)).mean(1))


def network() -> nn.Module:
    return Transformer()
