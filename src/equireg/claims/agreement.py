"""Our distances against those of the authors' code: how they are cut, pooled and compared.

The rule, all of it in this file. A run's distance at a step is the median over that step and the
100 before it (fewer where the run has fewer), of the distances recorded before each update: the
authors' numbers are cut so. A curve's is the median over the seeds. Two curves are compared by the
ratio of ours to theirs. Its 90 % interval takes their law to be ours up to a factor: n and m seeds
drawn from ours (n of ours, m of theirs) say how far the ratio of two medians strays when the
factor is 1, and that many times is the ratio off (a bootstrap, 10,000 draws).

A curve agrees if the ratio is within ``MARGIN`` at every step from ``FIRST`` on; it does not if at
one of them the ratio is further off and the interval leaves 1 out; else the seeds leave it open.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from equireg.claims.criteria import Claim, Measured
from equireg.files import parse_json
from equireg.plan import Condition
from equireg.randomness import generator
from equireg.spelling import spell_gamma

WINDOW = 101  # steps
FIRST = 1000  # before, all curves are still near their start
MARGIN = 0.10
CONFIDENCE = 0.90
DRAWS = 10_000
FEWEST = 5  # seeds of ours, for an interval

Agreement = Literal["yes", "no", "undecided", "not applicable"]


@dataclass(frozen=True)
class Numbers:
    """What the authors' code gave: per curve the distances of every seed, (seeds, steps).

    length: the steps of a run; settings: what their experiment is, by section of the
    configuration; about: where the numbers come from.
    """

    about: str
    length: int
    steps: tuple[int, ...]
    settings: Mapping[str, Mapping[str, Any]]
    curves: Mapping[Condition, np.ndarray]


@dataclass(frozen=True)
class Ratio:
    """Two curves at a step: their medians over the seeds, ours / theirs, and its interval.

    low, high: None where our seeds are fewer than ``FEWEST``.
    """

    step: int
    ours: float
    theirs: float
    low: float | None
    high: float | None

    @property
    def value(self) -> float:
        """Ours over theirs."""
        return self.ours / self.theirs


def read_numbers(path: Path) -> Numbers:
    """The authors' numbers from their file, JSON.

    Raises ValueError, one line that names the file, where it is not such a file.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        steps = tuple(int(step) for step in content["steps"])
        curves = {
            Condition(curve["mode"], float(curve["gamma"])): np.array(curve["distances"], float)
            for curve in content["curves"]
        }
        numbers = Numbers(
            str(content["about"]), int(content["length"]), steps, dict(content["settings"]), curves
        )
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing; expected the numbers of the authors' code") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not the numbers of the authors' code ({error!r})") from error
    for condition, distances in curves.items():
        if distances.shape[1:] != (len(steps),) or not (distances > 0).all():
            raise ValueError(
                f"{path}: {condition} has distances of shape {distances.shape}; expected a row per "
                f"seed of {len(steps)} positive numbers, one for each step"
            )
    return numbers


def other_settings(numbers: Numbers, sections: Mapping[str, Any]) -> list[str]:
    """How an experiment differs from the authors', a text per setting; none: it is theirs.

    sections: the configuration's dataclasses by name, such as ``{"network": NetworkSettings()}``.
    """
    differing = []
    for section, settings in numbers.settings.items():
        chosen = dataclasses.asdict(sections[section])
        for key, value in settings.items():
            ours = list(chosen[key]) if isinstance(chosen[key], tuple) else chosen[key]
            if ours != value:
                differing.append(f"{section}.{key} is {ours}, theirs {value}")
    return differing


def window_medians(distances: np.ndarray, steps: Iterable[int], width: int = WINDOW) -> np.ndarray:
    """Medians over ``width`` steps that end with each of ``steps``, (steps,); of a run's distances.

    >>> window_medians(np.array([5.0, 1.0, 2.0, 9.0]), [0, 3], width=3)
    array([5., 2.])
    """
    return np.array([np.median(distances[max(0, s - width + 1) : s + 1]) for s in steps])


def compare(measured: Measured, condition: Condition, numbers: Numbers) -> list[Ratio]:
    """A curve against the authors', at those of their steps that its runs have."""
    theirs, ratios = numbers.curves[condition], []
    for k, step in enumerate(numbers.steps):
        if step in measured.along:
            ours = measured.along[step]
            some = float(np.median(ours)), float(np.median(theirs[:, k]))
            low, high = _interval(some[0] / some[1], ours, len(theirs), condition)
            ratios.append(Ratio(step, *some, low, high))
    return ratios


def _interval(
    ratio: float, ours: np.ndarray, seeds: int, condition: Condition
) -> tuple[float, float] | tuple[None, None]:
    """The interval of the ratio of ``ours`` to as many ``seeds`` of theirs."""
    if len(ours) < FEWEST:
        return None, None
    random = generator(0, "agreement", condition.mode, spell_gamma(condition.gamma))
    medians = [
        np.median(ours[random.integers(len(ours), size=(DRAWS, count))], axis=1)
        for count in (len(ours), seeds)
    ]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians[0] / medians[1], [tail, 1 - tail])
    return ratio / float(high), ratio / float(low)


def judge_curve(ratios: Sequence[Ratio], numbers: Numbers) -> Agreement:
    """Whether a curve agrees with the authors', by the rule of this module."""
    if [ratio.step for ratio in ratios] != list(numbers.steps):
        return "not applicable"
    off = [
        ratio
        for ratio in ratios
        if ratio.step >= FIRST and abs(np.log(ratio.value)) > np.log1p(MARGIN)
    ]
    if not off:
        return "yes"
    apart = [r for r in off if r.low is not None and r.high is not None and not r.low < 1 < r.high]
    return "no" if apart else "undecided"


def judge_claim(claim: Claim, curves: Mapping[Condition, Agreement]) -> Agreement:
    """Whether what a claim is about is reproduced: every curve of it.

    One that does not agree decides.
    """
    found = {curves.get(condition, "not applicable") for condition in claim.conditions}
    order: tuple[Agreement, ...] = ("no", "not applicable", "undecided", "yes")
    return next((verdict for verdict in order if verdict in found), "not applicable")


def as_measured(numbers: Numbers) -> dict[Condition, Measured]:
    """The authors' numbers in the place of ours, to be held to the same criteria.

    Their highest is that of the steps that are known.
    """
    return {
        condition: Measured(
            start=float(np.median(distances[:, 0])),
            highest=float(np.median(distances, axis=0).max()),
            steps=numbers.length,
            ends=dict(enumerate(distances[:, -1].tolist())),
            starts=dict(enumerate(distances[:, 0].tolist())),
            highs=dict(enumerate(distances.max(1).tolist())),
        )
        for condition, distances in numbers.curves.items()
    }
