"""The study's confirming network: a P4-CNN of 65,834 weights, of which E has 16,466.

Four convolutions between fields of C4's regular representation, batch normalization pooled over
each field, ReLU, max pooling and the mean over what is left. docs/study.md has what it is for.
"""

from __future__ import annotations

from typing import Any

from torch import nn

import equireg

ORDER = 4  # of C4: the channels of a field


def network() -> dict[str, Any]:
    """For images of 28 x 28 pixels and ten classes."""
    layers: list[nn.Module] = []
    for fan_in, fan_out, pooled in ((1, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)):
        layers += [
            nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False),
            equireg.FieldBatchNorm(fan_out, ORDER),
            nn.ReLU(),
        ]
        if pooled > 1:
            layers.append(nn.MaxPool2d(pooled))
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return {"module": model, "representations": "regular"}
