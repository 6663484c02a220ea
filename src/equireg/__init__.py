"""Learning group equivariance from augmented data and a penalty on the non-equivariant weights."""

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [
    "Equivariance",
    "FieldBatchNorm",
    "__version__",
    "groups",
    "nonlinearities",
    "representations",
]

if TYPE_CHECKING:
    from equireg import groups as groups
    from equireg import nonlinearities as nonlinearities
    from equireg import representations as representations
    from equireg.library.equivariance import Equivariance as Equivariance
    from equireg.library.normalization import FieldBatchNorm as FieldBatchNorm
else:  # what type checkers would take for a promise of any name

    def __getattr__(name: str) -> object:
        """Import what is public when it is asked for: ``import equireg`` alone needs no torch."""
        modules = {"Equivariance": "equivariance", "FieldBatchNorm": "normalization"}
        if name in modules:
            return getattr(importlib.import_module(f"equireg.library.{modules[name]}"), name)
        if name in __all__:
            return importlib.import_module(f"equireg.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
