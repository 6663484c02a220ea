"""The report on all measurements, as Markdown."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from equireg.binding import Binding, write_document
from equireg.markdown import rows_of
from equireg.theory.measurement import Measurement

HEAD = ["Network", "Group", "Support", "Mode", "Point", "gamma", "Measured", "Value", "", "Held"]


def write_report(path: Path, measured: Sequence[Measurement], made: Binding) -> None:
    """Write ``report(measured)``, and what made it."""
    write_document(path, report(measured), made)


def report(measured: Sequence[Measurement]) -> str:
    """What held and what did not, statement by statement."""
    failed = [m for m in measured if not m.held]
    ordered = sorted(measured, key=lambda m: m.statement)
    groups = [
        (statement, list(some))
        for statement, some in itertools.groupby(ordered, key=lambda m: m.statement)
    ]
    lines = [
        "# The paper's theory, measured",
        "",
        f"{len(measured)} measurements, {len(measured) - len(failed)} held. Each has a tolerance "
        "that was fixed beforehand; in float64, with the exact mean over the group as "
        "augmentation. The table beside this file holds the same.",
        "",
        *rows_of(
            ["Statement", "In the paper", "Measurements", "Held", "Largest value of <", "Bound"],
            [_summary(statement, some) for statement, some in groups],
        ),
    ]
    if failed:
        lines += ["## What did not hold", ""]
        named = [[m.statement, *row] for m, row in zip(failed, map(_row, failed), strict=True)]
        lines += rows_of(["Statement", *HEAD], named)
    for statement, some in groups:
        lines += [f"## {statement}", "", *_rows(some)]
    return "\n".join(lines).rstrip() + "\n"


def _summary(statement: str, some: Sequence[Measurement]) -> list[str]:
    places = list(dict.fromkeys(m.place for m in some))
    below = [m for m in some if m.relation == "<"]
    held = sum(m.held for m in some)
    worst = max(below, key=lambda m: m.value / m.tolerance if m.tolerance else 0, default=None)
    count = str(held) if held == len(some) else f"**{held}**"
    return [
        statement,
        "; ".join(places),
        str(len(some)),
        count,
        f"{worst.value:.2g}" if worst else "",
        f"{worst.tolerance:g}" if worst else "",
    ]


def _rows(some: Sequence[Measurement]) -> list[str]:
    return rows_of(HEAD, [_row(m) for m in some])


def _row(m: Measurement) -> list[str]:
    return [
        m.model.network,
        m.model.group.name,
        m.model.support,
        m.mode,
        m.point,
        "" if m.gamma is None else f"{m.gamma:.3g}",
        _cell(m.quantity),
        f"{m.value:.3g}",
        f"{m.relation} {m.tolerance:g}",
        "yes" if m.held else "**no**",
    ]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
