"""Learning group equivariance from augmented data and a penalty on the non-equivariant weights."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from equireg.equivariance import Equivariance as Equivariance

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import ``Equivariance`` when it is asked for: the jobs need no tracing."""
    if name == "Equivariance":
        from equireg.equivariance import Equivariance

        return Equivariance
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
