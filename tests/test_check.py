"""The verdicts on the paper's claims, on made-up distances for each branch."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from equireg.binding import without_comment
from equireg.jobs.aggregate import aggregate
from equireg.jobs.check import (
    CLOSE,
    CONSIDERABLE,
    Condition,
    Drifts,
    Exceeds,
    Measured,
    Result,
    Stays,
    check,
    claims,
    deciding_seeds,
    examine,
    judge,
    read,
    report,
)
from equireg.settings import GridSettings, Mode
from equireg.tables import write_table
from synthetic import write_experiment

GAMMAS = (1e-4, 1e-2, 1e0, 1e2)
START = 0.1
# What the paper describes, as multiples of the start.
PAPER: dict[Mode, tuple[float, ...]] = {
    "nominal": (30, 20, 0.5, 0.01),
    "augmented": (4, 0.8, 0.1, 0.001),
}
Runs = dict[Condition, Measured]


def curve(start: float, highest: float, final: Mapping[int, float]) -> Measured:
    """Runs with one start that were, before their ends, at most as far as ``highest``."""
    highs = {seed: max(highest, end) for seed, end in final.items()}
    return Measured(start, highest, 60_000, final, dict.fromkeys(final, start), highs)


def runs(end: float, seeds: int = 30, start: float = START, highest: float = 0.0) -> Measured:
    """Runs whose distances end about ``end`` times their start, a little apart."""
    spread = [1 + 0.01 * (seed - (seeds - 1) / 2) for seed in range(seeds)]
    final = {seed: end * start * factor for seed, factor in enumerate(spread)}
    return curve(start, max(1, highest) * start, final)


def paper(seeds: int = 30) -> Runs:
    """An experiment that came out as the paper says."""
    return {
        Condition(mode, gamma): runs(end, seeds)
        for mode, ends in PAPER.items()
        for gamma, end in zip(GAMMAS, ends, strict=True)
    }


def verdicts(measured: Runs) -> list[str]:
    gammas = sorted({condition.gamma for condition in measured})
    return [judge([examine(part, measured) for part in claim.parts]) for claim in claims(gammas)]


def examined(part: Stays | Drifts | Exceeds, measured: Runs) -> Result:
    result = examine(part, measured)
    assert isinstance(result, Result)
    return result


@pytest.mark.parametrize("seeds", [5, 10, 30])
def test_what_the_paper_says_holds(seeds: int) -> None:
    assert verdicts(paper(seeds)) == ["held"] * 5


@pytest.mark.parametrize("seeds", [1, 3, 4])
def test_few_seeds_decide_nothing(seeds: int) -> None:
    assert verdicts(paper(seeds)) == ["held, too few seeds"] * 5


def test_five_seeds_that_agree_decide() -> None:
    assert deciding_seeds() == 5
    assert binomtest(5, 5, alternative="greater").pvalue < 0.05
    assert binomtest(4, 4, alternative="greater").pvalue > 0.05


@pytest.mark.parametrize(
    ("mode", "gamma", "end", "failing"),
    [
        ("nominal", 1e0, 3, [1]),
        ("augmented", 1e2, 3, [1, 4, 5]),  # also above the nominal one and above gamma 1e0
        ("nominal", 1e-2, 1.9, [2]),  # stays close
        ("nominal", 1e-2, 3.9, [2]),  # drifts, but is less than 5 times the augmented one
        ("augmented", 1e-2, 2.1, [2]),  # drifts
        ("augmented", 1e-4, 1.9, [3]),  # stays close
        ("augmented", 1e-4, 31, [4]),
        ("nominal", 1e-4, 19, [5]),
    ],
)
@pytest.mark.parametrize("seeds", [3, 30])
def test_a_failure_is_found(
    mode: Mode, gamma: float, end: float, failing: list[int], seeds: int
) -> None:
    measured = {**paper(seeds), Condition(mode, gamma): runs(end, seeds)}
    found = [i for i, v in enumerate(verdicts(measured), 1) if v == "did not hold"]
    assert found == failing


def test_staying_close_means_throughout() -> None:
    condition = Condition("nominal", 1e0)
    measured = {**paper(), condition: runs(0.5, highest=2.5)}
    assert verdicts(measured)[0] == "did not hold"
    result = examined(Stays(condition), measured)
    assert (result.holds, result.agree) == (False, 0)
    assert "at most 0.25 (2.5×)" in result.found


def test_a_seed_stays_close_to_its_own_start_throughout() -> None:
    condition = Condition("nominal", 1e0)
    starts = {0: 0.1, 1: 0.2, 2: 0.1, 3: 0.1}
    highs = {0: 0.19, 1: 0.39, 2: 0.2, 3: 0.21}  # seed 1: close only to its own start
    measured = {condition: Measured(0.1, 0.19, 10, dict.fromkeys(starts, 0.05), starts, highs)}
    result = examined(Stays(condition), measured)
    assert (result.holds, result.agree, result.seeds) == (True, 2, 4)


@pytest.mark.parametrize("factor", [1.0, CONSIDERABLE])
def test_seeds_are_paired(factor: float) -> None:
    a, b = Condition("nominal", 1.0), Condition("augmented", 1.0)
    further = curve(1, 9, {0: factor * 1.1, 1: factor * 2.1, 2: factor * 2.9, 7: 1e9})
    nearer = curve(1, 9, {2: 3.0, 1: 2.0, 0: 1.0, 8: 1e-9})
    result = examined(Exceeds(a, b, factor), {a: further, b: nearer})
    assert (result.agree, result.seeds) == (2, 3)
    assert result.p == pytest.approx(0.5)


def test_equal_distances_do_not_agree() -> None:
    a, b = Condition("nominal", 1.0), Condition("augmented", 1.0)
    result = examined(Exceeds(a, b), {a: runs(1), b: runs(1)})
    assert (result.holds, result.agree) == (False, 0)


def test_a_median_without_the_seeds_is_not_enough() -> None:
    condition = Condition("augmented", 1e-4)
    final = {seed: START * CLOSE * (1.1 if seed < 16 else 0.9) for seed in range(30)}
    measured = {**paper(), condition: curve(START, 1.0, final)}
    result = examined(Drifts(condition), measured)
    assert (result.holds, result.agree, result.seeds) == (True, 16, 30)
    assert result.p > 0.05
    assert verdicts(measured)[2] == "did not hold"
    assert "too many seeds disagree" in report(measured)


@pytest.mark.parametrize("seeds", [3, 30])
def test_the_sign_test_is_the_exact_binomial(seeds: int) -> None:
    assert Result("", "", True, seeds, seeds).p == pytest.approx(0.5**seeds)
    assert Result("", "", True, 0, seeds).p == 1


def test_what_is_missing_is_named() -> None:
    measured = {c: m for c, m in paper().items() if c.gamma != 1e2}
    assert verdicts(measured) == ["not applicable", *["held"] * 4]
    text = report(measured)
    assert "the experiment has no nominal at gamma 1e2; the experiment has no augmented at" in text


def test_a_failure_is_not_hidden_by_what_is_missing() -> None:
    measured = {c: m for c, m in paper().items() if c.gamma != 1e2}
    measured[Condition("nominal", 1e0)] = runs(3)
    assert verdicts(measured)[0] == "did not hold"


def test_a_missing_mode_leaves_what_it_can() -> None:
    measured = {c: m for c, m in paper().items() if c.mode == "augmented"}
    assert verdicts(measured) == ["not applicable"] * 2 + ["held"] + ["not applicable"] * 2


def test_one_gamma_has_no_order() -> None:
    measured = {c: m for c, m in paper().items() if c.gamma == 1e-4}
    assert verdicts(measured)[4] == "not applicable"
    assert "the experiment has fewer than two gammas" in report(measured)


def test_an_experiment_without_free_runs_is_reported() -> None:
    assert verdicts({}) == ["not applicable"] * 5
    assert "neither a nominal nor an augmented run" in report({})


def test_runs_that_start_on_e_have_no_multiples() -> None:
    condition = Condition("augmented", 1e-4)
    measured = {condition: curve(0.0, 1.0, {0: 1.0})}
    assert "starts on E" in str(examine(Drifts(condition), measured))
    assert "starts on E" in report(measured)


def test_the_report_is_markdown() -> None:
    text = report(paper(3))
    lines = text.splitlines()
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert lines[0].startswith("# ")
    assert "3 seeds (0-2); 60,000 steps." in text
    assert "gamma 1e-4, 1e-2, 1e0, 1e2" in text
    assert "3 seeds are too few to tell from chance; 5 that all agree would be enough." in text
    for i, title in enumerate((claim.title for claim in claims(GAMMAS)), 1):
        assert f"| {i} | {title} | **held, too few seeds** |" in lines
        assert f"## {i}. {title}: held, too few seeds" in lines
    for above, line in itertools.pairwise(lines):  # tables: own paragraphs, equal columns
        if above.startswith("|"):
            assert line == "" or line.count("|") == above.count("|")
        elif line.startswith("|"):
            assert above == ""


def test_tables_of_an_experiment_are_read(tmp_path: Path) -> None:
    grid = GridSettings(gammas=(1e-2, 1e0), seeds="0-2", seeds_per_job=2)
    write_experiment(tmp_path, grid, 100)
    aggregate(tmp_path, grid)
    tables = (tmp_path / "summary.parquet", tmp_path / "evaluation.parquet")
    measured = read(*tables)
    assert sorted(measured) == [(m, g) for m in ("augmented", "nominal") for g in (1e-2, 1e0)]
    for some in measured.values():
        assert some.start == pytest.approx(0.086, rel=0.05)
        assert some.steps == 100
        assert list(some.final) == list(some.starts) == list(some.highs) == [0, 1, 2]
        assert all(
            some.highs[seed] >= max(some.starts[seed], some.final[seed]) for seed in range(3)
        )
    assert measured[Condition("nominal", 1e-2)].highest >= 0.9

    check(*tables, tmp_path / "docs" / "claims.md")
    assert without_comment((tmp_path / "docs/claims.md").read_text("utf-8")) == report(measured)


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    grid = GridSettings(gammas=(1.0,), seeds="0-1")
    write_experiment(tmp_path, grid, 10)
    aggregate(tmp_path, grid)
    summary, evaluation = tmp_path / "summary.parquet", tmp_path / "evaluation.parquet"
    with pytest.raises(ValueError, match=r"evaluation.parquet has no column step, seeds, median; "):
        read(evaluation, evaluation)
    whole = pq.read_table(evaluation)
    evaluation.unlink()
    write_table(evaluation, whole.drop_columns("highest_distance"), {})
    with pytest.raises(ValueError, match=r"no column highest_distance; its columns: mode, gamma"):
        read(summary, evaluation)


def test_tables_are_made_checked_and_drawn_without_pandas(tmp_path: Path) -> None:
    grid = GridSettings(gammas=(1e-2, 1e0), seeds="0-2")
    write_experiment(tmp_path, grid, 100)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pandas.py").write_text("raise ImportError('blocked')\n")
    program = f"""
from pathlib import Path
from equireg.jobs.aggregate import aggregate
from equireg.jobs.check import check
from equireg.jobs.draw import draw
from equireg.settings import GridSettings

try:
    import pandas
except ImportError:
    aggregate(Path(), {grid!r})
    check(Path("summary.parquet"), Path("evaluation.parquet"), Path("claims.md"))
    draw(Path("trajectories.parquet"), Path("summary.parquet"), [Path("figure2.png")])
"""
    environment = {**os.environ, "PYTHONPATH": str(blocked)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    tables = (tmp_path / "summary.parquet", tmp_path / "evaluation.parquet")
    assert without_comment((tmp_path / "claims.md").read_text("utf-8")) == report(read(*tables))
    assert (tmp_path / "figure2.png").is_file()


def test_tables_of_other_experiments_are_refused(tmp_path: Path) -> None:
    for name, seeds in (("a", "0-1"), ("b", "0-2")):
        grid = GridSettings(gammas=(1.0,), seeds=seeds)
        write_experiment(tmp_path / name, grid, 10)
        aggregate(tmp_path / name, grid)
    with pytest.raises(ValueError, match=r'grid\.seeds is "0-2", but "0-1" in '):
        check(
            tmp_path / "a" / "summary.parquet",
            tmp_path / "b" / "evaluation.parquet",
            tmp_path / "claims.md",
        )
    assert not (tmp_path / "claims.md").exists()
