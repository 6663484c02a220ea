"""Functions between layers that commute; see ``equireg.symmetry.nonlinearities``."""

from equireg.symmetry.nonlinearities import Gates, Norms, Products

__all__ = ["Gates", "Norms", "Products"]
