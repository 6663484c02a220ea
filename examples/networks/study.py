"""The study's confirming network: a P4-CNN of 89,674 weights, of which E has 22,426.

Six convolutions between fields of C4's regular representation, batch normalization pooled over each
field, ReLU. The first goes in steps of two pixels, which turns take onto each other since (28 - 4)
/ 2 is whole; the last sees the whole image. docs/study.md has what it is for.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import equireg

ORDER = 4  # of C4: the channels of a field
# Channels in and out, pixels of the filter, and of a step: from 28 x 28 to 13, 11, 9, 7, 5 and 1.
LAYERS = (
    (1, 32, 4, 2),
    (32, 32, 3, 1),
    (32, 32, 3, 1),
    (32, 32, 3, 1),
    (32, 32, 3, 1),
    (32, 64, 5, 1),
)


def network() -> dict[str, Any]:
    """For images of 28 x 28 pixels and ten classes."""
    layers: list[nn.Module] = []
    for fan_in, fan_out, size, stride in LAYERS:
        layers += [
            nn.Conv2d(fan_in, fan_out, size, stride, bias=False),
            equireg.FieldBatchNorm(fan_out, ORDER),
            nn.ReLU(),
        ]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 10))
    return {"module": model, "representations": "regular"}
