"""Layers, one file per kind; imported, they are registered."""

from equireg.library.layers import (
    attention,
    convolution,
    embedding,
    linear,
    nonlinearities,
    normalization,
)

__all__ = [
    "attention",
    "convolution",
    "embedding",
    "linear",
    "nonlinearities",
    "normalization",
]
