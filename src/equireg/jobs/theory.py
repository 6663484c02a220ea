"""Theory: every statement of the paper measured, on its network and on a perceptron."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from equireg.binding import joined, options, read, with_source
from equireg.dataset import load_dataset
from equireg.digest import job_digest
from equireg.figures.style import check_outputs
from equireg.files import sha256
from equireg.processes import ending_at_once
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
    theorem_2_fails,
    theorem_3,
    theorem_3_fails,
    unstable,
)
from equireg.theory.tube import assumptions, at_a_distance, leaves

Found = tuple[list[Measurement], Landscape | None]
Part = Callable[[], Found]
FLOWING = 2  # points from which Theorem 1's thousand steps start; the spectrum is taken there


def theory(
    settings: NetworkSettings,
    data: Path,
    blocks: Sequence[Path],
    output: Path,
    report: Path,
    figures: Sequence[Path],
    threads: int = 1,
) -> None:
    """Write the table of all measurements, the report and the figures.

    blocks: trajectories' parquets of trained runs, their weights beside them; the first seed of
    each is used. figures: files named ``theory_rates``, ``theory_plateau`` or ``theory_spectrum``.
    threads: so many parts are measured at once, each by one thread: more are no gain for products
    this small. Raises ValueError if the files do not belong together, or for other names.
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
    every = [
        *convolutional_cases(settings, dataset, blocks),
        perceptron_case(),
        *wider_cases(settings, dataset),
    ]
    measured: list[Measurement] = []
    landscapes: list[Landscape] = []
    with ending_at_once(), ThreadPoolExecutor(threads) as pool:
        for found, landscape in pool.map(lambda part: part(), parts(every)):
            measured += found
            landscapes += [landscape] if landscape else []
    write_table(output, table(measured), made)
    write_report(report, measured, made)
    draw_figures(landscapes, figures, made)


def parts(cases: Sequence[Case]) -> Iterator[Part]:
    """What is measured of each case: at points, and along flows where it has them."""
    for case in cases:
        yield functools.partial(at_points, case)
        if case.flow is not None:
            yield functools.partial(in_short if case.wider else along_flows, case)


def at_points(case: Case) -> Found:
    """The statements that need no flow."""
    model = case.facts.model
    say(f"{title(case)}: facts")
    measured: list[Measurement] = []
    if model.breach in (None, LOPSIDED):
        measured += [*representations(model), *projections(model)]
    return [*measured, *all_facts(case.facts, case.points)], None


def title(case: Case) -> str:
    """What the log calls it."""
    model = case.facts.model
    broken = model.breach.what if model.breach else f"{model.support} support"
    return f"{model.network} network, {model.group.name}, {broken}"


def in_short(case: Case) -> Found:
    """Theorems 1 to 3 for a wider case; where an assumption is broken, that they fail."""
    assert case.flow is not None
    assert case.start is not None
    say(f"{title(case)}: Theorems 1 to 3")
    measured = [*theorem_1(case.flow, case.start, "random")]
    settled = Settled.at(case.flow, "settled in E", settle(case.flow, case.start), case.longest)
    if case.flow.model.breach:
        measured += [theorem_2_fails(settled), theorem_3_fails(settled), leaves(settled)]
    else:
        measured += [stationary(settled), *theorem_2(settled)]
        measured += theorem_3(settled, [follow(settled, gamma) for gamma in settled.gammas])
        measured += at_a_distance(settled)
    return measured, None


def along_flows(case: Case) -> Found:
    """Theorems 1 to 3 and the remarks, and what the figures show of them."""
    assert case.flow is not None
    assert case.start is not None
    flow, called = case.flow, title(case)
    measured: list[Measurement] = []
    few = dict(itertools.islice(case.points.items(), FLOWING))
    for name, point in few.items():
        say(f"{called}: Theorem 1 from {name}")
        measured += theorem_1(flow, point, name)

    say(f"{called}: the spectrum")
    spectra = [spectrum(flow.plain(), name, point) for name, point in few.items()]
    measured += [unstable(flow, found) for found in spectra]
    settled = Settled.at(flow, "settled in E", settle(flow, case.start), case.longest)
    measured += [stationary(settled), *theorem_2(settled)]
    spectra.append(spectrum(flow, settled.name, settled.point))

    say(f"{called}: Theorem 3")
    rates = [follow(settled, gamma) for gamma in settled.gammas]
    measured += theorem_3(settled, rates)

    for name, point in few.items():
        measured += assumptions(flow, point, name)
    if case.small:
        measured += at_a_distance(settled)

    say(f"{called}: Remarks 1 and 2")
    mu, levels = plateaus(settled)
    measured += remark_1(settled, mu, levels)
    measured += remark_2(settled)
    return measured, Landscape(settled, rates, mu, levels, spectra)
