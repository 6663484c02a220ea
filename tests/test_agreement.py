"""Our distances against the authors': the rule, on made-up numbers, and the file of theirs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equireg.claims.agreement import (
    FIRST,
    MARGIN,
    WINDOW,
    Numbers,
    as_measured,
    compare,
    judge_claim,
    judge_curve,
    other_settings,
    read_numbers,
    window_medians,
)
from equireg.claims.criteria import Measured, claims, gammas_of
from equireg.claims.report import report
from equireg.config import load
from equireg.plan import Condition
from equireg.settings import DataSettings, NetworkSettings, TrainingSettings

FILE = Path(__file__).parent.parent / "workflow/authors.json"
SECTIONS: dict[str, Any] = {
    "data": DataSettings(),
    "network": NetworkSettings(),
    "training": TrainingSettings(),
}
NOMINAL = Condition("nominal", 1.0)


@pytest.fixture(scope="module")
def theirs() -> Numbers:
    return read_numbers(FILE)


def ours_like(
    numbers: Numbers, seeds: int = 30, factor: float = 1.0, spread: float = 0.05
) -> dict[Condition, Measured]:
    """An experiment of ours with their medians times ``factor``, a few per cent apart."""
    measured = {}
    apart = np.exp(spread * np.linspace(-1, 1, seeds))
    for condition, some in as_measured(numbers).items():
        medians = factor * np.median(numbers.curves[condition], axis=0)
        along = {step: median * apart for step, median in zip(numbers.steps, medians, strict=True)}
        measured[condition] = Measured(
            factor * some.start,
            factor * some.highest,
            numbers.length,
            dict(enumerate((medians[-1] * apart).tolist())),
            dict.fromkeys(range(seeds), factor * some.start),
            dict.fromkeys(range(seeds), factor * some.highest),
            dict.fromkeys(range(seeds), 0.5),
            along,
        )
    return measured


def one(distances: list[list[float]], steps: tuple[int, ...] = (0, 2000)) -> Numbers:
    return Numbers("", 60_000, steps, {}, {NOMINAL: np.array(distances)})


def alone(along: dict[int, np.ndarray]) -> Measured:
    return Measured(1, 1, 60_000, {}, {}, {}, along=along)


def test_a_window_ends_with_its_step() -> None:
    distances = np.arange(1000.0)
    found = window_medians(distances, [0, 1, 100, 500])
    np.testing.assert_array_equal(found, [0, 0.5, 50, 450])
    assert WINDOW == 101


def test_the_ratio_is_that_of_the_medians_over_the_seeds() -> None:
    numbers = one([[1, 2.0], [1, 3.0], [1, 100.0]])
    ours = np.array([1.5, 1.2, 70, 1.4, 0.1])
    first, last = compare(alone({0: np.ones(5), 2000: ours}), NOMINAL, numbers)
    assert (first.step, first.value, first.low, first.high) == (0, 1, 1, 1)
    assert (last.ours, last.theirs) == (1.4, 3.0)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Seeds of one law on both sides, times a factor: in 9 of 10 cases the factor is in it."""
    random, factor, cases, held = np.random.default_rng(0), 1.3, 200, 0
    for _ in range(cases):
        a, b = np.exp(0.2 * random.standard_normal(30)), np.exp(0.2 * random.standard_normal(2))
        (ratio,) = compare(alone({0: factor * a}), NOMINAL, one(b[:, None].tolist(), (0,)))
        assert ratio.low is not None
        assert ratio.high is not None
        assert ratio.low < ratio.high
        held += ratio.low < factor < ratio.high
    assert 0.85 < held / cases < 0.95


def test_more_of_their_seeds_make_it_narrower() -> None:
    ours = np.exp(0.2 * np.random.default_rng(0).standard_normal(30))
    widths = []
    for seeds in (2, 12):
        numbers = one([[1.0]] * seeds, (0,))
        (ratio,) = compare(alone({0: ours}), NOMINAL, numbers)
        (again,) = compare(alone({0: ours}), NOMINAL, numbers)
        assert ratio == again
        assert ratio.low is not None
        assert ratio.high is not None
        widths.append(np.log(ratio.high / ratio.low))
    assert widths[1] < 0.75 * widths[0]


def test_the_interval_looks_the_right_way() -> None:
    """One seed in five goes three times as far. Theirs, a single one, may well be such a one."""
    ours = np.array([1.0] * 24 + [3.0] * 6)
    (ratio,) = compare(alone({0: ours}), NOMINAL, one([[3.0]], (0,)))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1 / 3, 1 / 3, 1))


def test_few_seeds_have_no_interval() -> None:
    (ratio,) = compare(alone({0: np.ones(4)}), NOMINAL, one([[1.0]], (0,)))
    assert (ratio.low, ratio.high) == (None, None)


@pytest.mark.parametrize(
    ("off", "step", "spread", "seeds", "expected"),
    [
        (1.0, 2000, 0.02, 30, "yes"),
        (1 + MARGIN - 0.001, 2000, 0.0, 30, "yes"),
        (1 / (1 + MARGIN) + 0.001, 2000, 0.0, 30, "yes"),
        (1 + MARGIN + 0.001, 2000, 0.0, 30, "no"),
        (1.2, 2000, 0.02, 30, "no"),
        (1 / 1.2, 2000, 0.02, 30, "no"),
        (1.2, 2000, 0.6, 30, "undecided"),  # the seeds are further apart
        (1.2, 2000, 0.02, 4, "undecided"),
        (1.2, FIRST, 0.02, 30, "no"),
        (1.2, FIRST - 1, 0.02, 30, "yes"),  # all curves are still near their start
    ],
)
def test_a_curve_is_judged(off: float, step: int, spread: float, seeds: int, expected: str) -> None:
    numbers = one([[1, 1.0], [1, 1.0]], (0, step))
    apart = np.exp(spread * np.linspace(-1, 1, seeds))
    ratios = compare(alone({0: np.ones(seeds), step: off * apart}), NOMINAL, numbers)
    assert judge_curve(ratios, numbers) == expected


def test_shorter_runs_are_not_judged(theirs: Numbers) -> None:
    measured = ours_like(theirs)
    short = {
        c: Measured(m.start, m.highest, 6000, m.ends, m.starts, m.highs, m.changes,
                    {step: d for step, d in m.along.items() if step < 6000})
        for c, m in measured.items()
    }  # fmt: skip
    ratios = compare(short[NOMINAL], NOMINAL, theirs)
    assert [ratio.step for ratio in ratios] == [0, 100, 1000, 3000, 5999]
    assert judge_curve(ratios, theirs) == "not applicable"
    text = report(short, theirs)
    assert "| gamma | Mode | 0 | 100 | 1,000 | 3,000 | 5,999 | Agrees |" in text
    assert "these runs are shorter than theirs, 60,000 steps" in text
    assert "curves agree" not in text
    assert not re.search(r"(as|nor|not|does) for theirs", text)  # at their end, which is not ours
    assert re.search(r"(as|nor) for theirs", report(measured, theirs))


def test_a_claim_is_reproduced_if_all_its_curves_are(theirs: Numbers) -> None:
    every = dict.fromkeys(theirs.curves, "yes")
    asked = claims(sorted({c.gamma for c in theirs.curves}))
    assert [judge_claim(claim, every) for claim in asked] == ["yes"] * 5  # type: ignore[arg-type]
    for verdict in ("no", "undecided", "not applicable"):
        some = {**every, NOMINAL: verdict}
        expected = [verdict, "yes", "yes", verdict, verdict]
        assert [judge_claim(claim, some) for claim in asked] == expected  # type: ignore[arg-type]
    del every[NOMINAL]
    assert judge_claim(asked[0], every) == "not applicable"  # type: ignore[arg-type]


def test_the_file_is_of_the_papers_experiment(theirs: Numbers) -> None:
    """Eight curves, at least two seeds each, of config.yaml as it is."""
    chosen = load(["config.yaml"])
    sections = {"data": chosen.data, "network": chosen.network, "training": chosen.training}
    assert other_settings(theirs, sections) == other_settings(theirs, SECTIONS) == []
    assert theirs.length == 60_000
    gammas = {1e-4, 1e-2, 1e0, 1e2}
    assert set(theirs.curves) == {Condition(m, g) for m in ("nominal", "augmented") for g in gammas}
    for distances in theirs.curves.values():
        assert len(distances) >= 2
        np.testing.assert_allclose(distances[:, 0], 1e-3 * np.sqrt(7392), rtol=0.03)


def test_their_numbers_fail_where_ours_do(theirs: Numbers) -> None:
    """The two sentences of which our readings do not hold, of their numbers."""
    they = as_measured(theirs)
    assert they[NOMINAL].highest / they[NOMINAL].start > 2
    low = they[Condition("augmented", 1e-4)]
    assert 1.2 < low.end / low.start < 2


@pytest.mark.parametrize("factor", [1.0, 1.2])
def test_the_report_has_both_questions(theirs: Numbers, factor: float) -> None:
    measured = ours_like(theirs, factor=factor)
    text = report(measured, theirs)
    agree = "yes" if factor == 1 else "no"
    titles = [claim.title for claim in claims(gammas_of(measured))]
    verdicts = ["did not hold**, nor for theirs", *["held**, as for theirs"] * 4]
    verdicts[2] = verdicts[0]
    for i, (title, verdict) in enumerate(zip(titles, verdicts, strict=True), 1):
        assert f"| {i} | {title} | **{agree}** | **{verdict} |" in text
    ratios = text.split("interval of the ratio")[1].split("The distances")[0]
    assert ratios.count(f"] | **{agree}** |") == len(theirs.curves)
    assert f"| {factor:.3f} [" in text
    first = text.splitlines()[2]
    said = "The authors' figure is reproduced: 8 of 8" if factor == 1 else "Against the authors': 0"
    assert first.startswith(f"**{said}")
    assert "3 of our 5 readings of its sentences held; those that did not do not hold of" in first


def test_another_experiment_is_not_compared(theirs: Numbers) -> None:
    other = {**SECTIONS, "training": TrainingSettings(learning_rate=1e-2, epochs=1)}
    unlike = other_settings(theirs, other)
    assert unlike == ["training.learning_rate is 0.01, theirs 0.001"]  # shorter is not another
    other["data"], other["network"] = DataSettings("kmnist"), NetworkSettings(channels=(32, 32))
    assert len(other_settings(theirs, other)) == 3
    text = report(ours_like(theirs), theirs, unlike)
    assert "Not applicable: another experiment; training.learning_rate is 0.01, theirs" in text
    assert text.count("| **not applicable** |") == 5
    assert "theirs**" not in text
    assert text.splitlines()[2] == "**3 of our 5 readings of its sentences held.**"


def test_gammas_of_ones_own_are_not_compared(theirs: Numbers) -> None:
    measured = {Condition("nominal", 3.0): ours_like(theirs)[NOMINAL]}
    text = report(measured, theirs)
    assert "Not applicable: no gamma of theirs." in text
    assert text.splitlines()[2] == (
        "**None of the paper's sentences is about gammas and modes of this experiment.**"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing; expected the numbers of the authors' code"),
        ("{", "not the numbers of the authors' code"),
        ("[]", "not the numbers of the authors' code"),
        ("{}", "not the numbers of the authors' code (KeyError('steps'))"),
        ({"steps": [0]}, "nominal at gamma 1e0 has distances of shape (2, 2); expected a row per"),
        ({"curves": [{"mode": "nominal", "gamma": 1, "distances": [[1, 0]]}]}, "positive numbers"),
        ({"curves": [{"mode": "nominal", "gamma": 1, "distances": [[1], [1, 2]]}]}, "not the num"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    whole = {
        "about": "",
        "length": 10,
        "steps": [0, 9],
        "settings": {},
        "curves": [{"mode": "nominal", "gamma": 1.0, "distances": [[1.0, 2.0], [1.0, 3.0]]}],
    }
    path = tmp_path / "numbers.json"
    path.write_text(json.dumps(whole))
    assert read_numbers(path).curves[NOMINAL].shape == (2, 2)
    if content is None:
        path.unlink()
    else:
        path.write_text(content if isinstance(content, str) else json.dumps({**whole, **content}))
    with pytest.raises(ValueError, match=r"numbers.json") as error:
        read_numbers(path)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
