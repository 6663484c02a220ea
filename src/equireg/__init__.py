"""Learning group equivariance from augmented data and a penalty on the non-equivariant weights."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equireg import groups as groups
    from equireg import representations as representations
    from equireg.library.equivariance import Equivariance as Equivariance

__version__ = "0.1.0"
__all__ = ["Equivariance", "__version__", "groups", "representations"]


def __getattr__(name: str) -> Any:
    """Import what is public when it is asked for: ``import equireg`` alone needs no torch."""
    if name == "Equivariance":
        return importlib.import_module("equireg.library.equivariance").Equivariance
    if name in __all__:
        return importlib.import_module(f"equireg.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
