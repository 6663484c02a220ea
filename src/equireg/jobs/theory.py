"""Theory: every statement of the paper measured, on its network and on a perceptron."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from equireg.binding import joined, options, read, with_source
from equireg.dataset import load_dataset
from equireg.digest import job_digest
from equireg.figures.style import check_outputs
from equireg.files import sha256
from equireg.runtime import say
from equireg.settings import ON_GRID, NetworkSettings
from equireg.tables import write_table
from equireg.theory.cases import Case, convolutional_cases, perceptron_case, wider_cases
from equireg.theory.facts import all_facts
from equireg.theory.figures import Landscape, draw_figures
from equireg.theory.flows import settle
from equireg.theory.measurement import Measurement, table
from equireg.theory.models import LOPSIDED
from equireg.theory.report import write_report
from equireg.theory.spectrum import spectrum
from equireg.theory.symmetry import projections, representations
from equireg.theory.theorems import (
    Settled,
    follow,
    plateaus,
    remark_1,
    remark_2,
    stationary,
    theorem_1,
    theorem_2,
    theorem_3,
    unstable,
)
from equireg.theory.tube import assumptions, at_a_distance

FLOWING = 2  # points from which Theorem 1's thousand steps start; the spectrum is taken there


def theory(
    settings: NetworkSettings,
    data: Path,
    blocks: Sequence[Path],
    output: Path,
    report: Path,
    figures: Sequence[Path],
) -> None:
    """Write the table of all measurements, the report and the figures.

    blocks: trajectories' parquets of trained runs, their weights beside them; the first seed of
    each is used. figures: files named ``theory_rates``, ``theory_plateau`` or ``theory_spectrum``.
    Raises ValueError if the files do not belong together, or for other names.
    """
    check_outputs(list(figures))
    if settings.build:
        raise ValueError(
            f"network.build is {settings.build}; the theory is not applicable: its statements are "
            "measured on the paper's kind of network"
        )
    if settings.group in ON_GRID:
        raise ValueError(
            f"network.group is {settings.group}; the theory is not applicable: its statements are "
            "measured with groups that map the pixels to themselves"
        )
    files = [file for block in blocks for file in (block, block.with_suffix(".safetensors"))]
    chosen = {**options(network=settings), "data": {"sha256": sha256(data)}}
    made = joined({**{file: read(file) for file in files}, "the command": chosen})
    made = with_source(made, "theory", job_digest("theory"))
    dataset = load_dataset(data, settings)
    measured: list[Measurement] = []
    landscapes: list[Landscape] = []
    for case in (
        *convolutional_cases(settings, dataset, blocks),
        perceptron_case(),
        *wider_cases(settings, dataset),
    ):
        measured += at_points(case)
        if case.wider:
            measured += in_short(case)
        elif case.flow is not None:
            found, landscape = along_flows(case)
            measured += found
            landscapes.append(landscape)
    write_table(output, table(measured), made)
    write_report(report, measured, made)
    draw_figures(landscapes, figures, made)


def at_points(case: Case) -> Iterator[Measurement]:
    """The statements that need no flow."""
    model = case.facts.model
    broken = f", {model.breach.what}" if model.breach else f", {model.support} support"
    say(f"{model.network} network, {model.group.name}{broken}: facts")
    if model.breach in (None, LOPSIDED):
        yield from representations(model)
        yield from projections(model)
    yield from all_facts(case.facts, case.points)


def in_short(case: Case) -> Iterator[Measurement]:
    """Theorems 1 to 3 for a wider case; where an assumption is broken, that Theorem 1 fails."""
    assert case.flow is not None
    assert case.start is not None
    yield from theorem_1(case.flow, case.start, "random")
    if case.flow.model.breach is None:
        settled = Settled.at(case.flow, "settled in E", settle(case.flow, case.start), case.longest)
        yield from (stationary(settled), *theorem_2(settled))
        yield from theorem_3(settled, [follow(settled, gamma) for gamma in settled.gammas])
        yield from at_a_distance(settled)


def along_flows(case: Case) -> tuple[list[Measurement], Landscape]:
    """Theorems 1 to 3 and the remarks, and what the figures show of them."""
    assert case.flow is not None
    assert case.start is not None
    flow = case.flow
    measured: list[Measurement] = []
    few = dict(itertools.islice(case.points.items(), FLOWING))
    for name, point in few.items():
        say(f"Theorem 1 from {name}")
        measured += theorem_1(flow, point, name)

    say("the spectrum")
    spectra = [spectrum(flow.plain(), name, point) for name, point in few.items()]
    measured += [unstable(flow, found) for found in spectra]
    settled = Settled.at(flow, "settled in E", settle(flow, case.start), case.longest)
    measured += [stationary(settled), *theorem_2(settled)]
    spectra.append(spectrum(flow, settled.name, settled.point))

    say("Theorem 3")
    rates = [follow(settled, gamma) for gamma in settled.gammas]
    measured += theorem_3(settled, rates)

    for name, point in few.items():
        measured += assumptions(flow, point, name)
    if case.small:
        measured += at_a_distance(settled)

    say("Remarks 1 and 2")
    mu, levels = plateaus(settled)
    measured += remark_1(settled, mu, levels)
    measured += remark_2(settled)
    return measured, Landscape(settled, rates, mu, levels, spectra)
