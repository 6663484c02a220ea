"""What the parts of the tracer know of the pass that they follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from equireg.library.features import Action, Unknown
from equireg.library.given import Pair
from equireg.library.parameters import Derived, Held
from equireg.library.pieces import Loose
from equireg.symmetry import spaces as symmetry
from equireg.symmetry.groups import Group
from equireg.symmetry.representations import Representation


class Broken(Exception):  # noqa: N818
    """A function breaks the symmetry, which was to be found out and nothing more."""


class Following(Protocol):
    """What calls have to know of the pass that they are part of: a ``Follower``."""

    group: Group
    given: Mapping[str, Pair]
    sizes: bool
    stop: bool
    broken: dict[str, str]
    asymmetric: dict[str, str]
    narrow: dict[str, tuple[int, ...]]
    taken: dict[str, Representation]
    assumed: dict[str, str]
    lenient: bool
    statistics: dict[str, Representation]
    memory: dict[str, dict[Any, Any]]

    def running(self) -> tuple[str, nn.Module]:
        """The innermost module that runs, by its name."""

    def tag_of(self, tensor: Tensor) -> Action | Unknown | Derived | None:
        """What acts on ``tensor``."""

    def held(self, tensor: Tensor) -> Held | None:
        """The parameter or buffer that this tensor is."""

    def left_out(self, name: str) -> bool:
        """Whether the user passed None for this layer or for one that holds it."""

    def put(self, held: Held, action: symmetry.Space, layer: str) -> None:
        """Keep what acts on a parameter."""

    def note(self, kept: dict[str, str], where: str, why: str) -> None:
        """Keep where and why the symmetry is broken, in ``broken`` or ``asymmetric``."""

    def breaks(self, loose: Loose) -> None:
        """Note that this is used alone."""
