"""A P4-CNN: convolutions between regular channels of C4, pooling, batch normalization over fields.

Every four channels are a field that a quarter turn permutes, so that a filter sees orientations and
the network is invariant all the same: pixels and fields are averaged at the end.

    snakemake --configfile workflow/presets/own-p4cnn.yaml --cores all
"""

from __future__ import annotations

from typing import Any

from torch import nn

import equireg

ORDER = 4  # of C4: the channels of a field


def network() -> dict[str, Any]:
    """For images of 28 x 28 pixels and ten classes."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((1, 8), (8, 16), (16, 16)):
        layers += [
            nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=False),
            equireg.FieldBatchNorm(fan_out, ORDER),
            nn.ReLU(),
            nn.AvgPool2d(2) if fan_in < 16 else nn.AdaptiveAvgPool2d(1),
        ]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16, 10))
    return {"module": model, "representations": "regular"}
