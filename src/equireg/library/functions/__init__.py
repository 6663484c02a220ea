"""Functions without parameters of their own, one file per kind; imported, they are registered."""

from equireg.library.functions import contractions, moves, pointwise, reductions

__all__ = ["contractions", "moves", "pointwise", "reductions"]
