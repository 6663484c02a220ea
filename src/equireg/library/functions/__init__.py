"""Functions without parameters of their own, one file per kind; imported, they are registered."""

from equireg.library.functions import contractions, gradients, moves, pointwise, reductions

__all__ = ["contractions", "gradients", "moves", "pointwise", "reductions"]
