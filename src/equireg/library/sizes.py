"""Sizes of images at which no layer breaks the symmetry of the grid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

NEAR = 8  # how far from a layer's own, sides that work for it are looked for
FAR = 16  # and from the example's for all layers: five halvings ask for a rest modulo 32


class Sizes(NamedTuple):
    """The side at which all works, None if none was found, and why not: what failed how often."""

    side: int | None
    tried: tuple[int, int]
    broken: Counter[str]
    refused: Counter[str]

    def __str__(self) -> str:
        """Why none was found."""
        low, high = self.tried
        lines = [f"no nearby size of the images works for all layers, of {low} to {high} pixels:"]
        if count := self.refused.total():
            lines.append(f"  {count} the model does not take: {_most(self.refused)}")
        if count := self.broken.total():
            lines.append(f"  {count} break the symmetry: {_most(self.broken)}")
        return "\n".join(lines)


def working_size(side: int, fails: Callable[[int], str]) -> Sizes:
    """The side nearest this one at which nothing ``fails``; what does, is said in words.

    No side below half of it: in the end a network has one pixel left, which every group leaves
    where it is. What ``fails`` raises is the model's word that it takes no such images.
    """
    sides = [*sides_near(side, FAR)]
    broken, refused = Counter[str](), Counter[str]()
    for near in sides:
        try:
            why = fails(near)
        except Exception as error:  # the network takes no images of this size
            text = f"{error}".strip().split("\n")[0]
            refused[f"{type(error).__name__}: {text}"] += 1
            continue
        if not why:
            return Sizes(near, (min(sides), max(sides)), broken, refused)
        broken[why] += 1
    return Sizes(None, (min(sides), max(sides)), broken, refused)


def sides_near(side: int, far: int = NEAR) -> Iterator[int]:
    """The sides around this one, the nearest first."""
    for distance in range(1, far + 1):
        for near in (side + distance, side - distance):
            if near > side // 2:
                yield near


def _most(reasons: Counter[str]) -> str:
    (reason, _), *others = reasons.most_common()
    return f"{reason}, and {len(others)} others" if others else reason
