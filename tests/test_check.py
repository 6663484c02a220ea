"""The verdicts on the paper's claims, on made-up distances for each branch."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from equireg.binding import without_comment
from equireg.claims.criteria import (
    CLOSE,
    CONSIDERABLE,
    Drifts,
    Exceeds,
    Measured,
    Result,
    Stays,
    claims,
    deciding_seeds,
    examine,
    judge,
)
from equireg.claims.report import report
from equireg.cli import main
from equireg.jobs.aggregate import aggregate
from equireg.jobs.check import check, read
from equireg.plan import Block, Condition
from equireg.settings import GridSettings, Mode, NetworkSettings
from equireg.tables import trajectory_table, write_table
from synthetic import distances, write_ensembles, write_evaluation, write_experiment, write_function

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
    assert "too many seeds disagree" in report(measured, None)


@pytest.mark.parametrize("seeds", [3, 30])
def test_the_sign_test_is_the_exact_binomial(seeds: int) -> None:
    assert Result("", "", True, seeds, seeds).p == pytest.approx(0.5**seeds)
    assert Result("", "", True, 0, seeds).p == 1


def test_what_is_missing_is_named() -> None:
    measured = {c: m for c, m in paper().items() if c.gamma != 1e2}
    assert verdicts(measured) == ["not applicable", *["held"] * 4]
    text = report(measured, None)
    assert "the experiment has no nominal at gamma 1e2; the experiment has no augmented at" in text


def test_a_failure_is_not_hidden_by_what_is_missing() -> None:
    measured = {c: m for c, m in paper().items() if c.gamma != 1e2}
    measured[Condition("nominal", 1e0)] = runs(3)
    assert verdicts(measured)[0] == "did not hold"


def test_a_missing_mode_leaves_what_it_can() -> None:
    measured = {c: m for c, m in paper().items() if c.mode == "augmented"}
    assert verdicts(measured) == ["not applicable"] * 2 + ["held"] + ["not applicable"] * 2
    said = "**1 of the 1 that apply of our 5 readings of its sentences held.**"
    assert report(measured, None).splitlines()[2] == said


def test_one_gamma_has_no_order() -> None:
    measured = {c: m for c, m in paper().items() if c.gamma == 1e-4}
    assert verdicts(measured)[4] == "not applicable"
    assert "the experiment has fewer than two gammas" in report(measured, None)


def test_an_experiment_without_free_runs_is_reported() -> None:
    assert verdicts({}) == ["not applicable"] * 5
    assert "neither a nominal nor an augmented run" in report({}, None)


def test_runs_that_start_on_e_have_no_multiples() -> None:
    condition = Condition("augmented", 1e-4)
    measured = {condition: curve(0.0, 1.0, {0: 1.0})}
    assert "starts on E" in str(examine(Drifts(condition), measured))
    assert "starts on E" in report(measured, None)


def test_the_report_is_markdown() -> None:
    text = report(paper(3), None)
    lines = text.splitlines()
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert lines[0].startswith("# ")
    assert "3 seeds (0-2); 60,000 steps." in text
    assert "gamma 1e-4, 1e-2, 1e0, 1e2" in text
    assert "3 seeds are too few to tell from chance; 5 that all agree would be enough." in text
    for i, title in enumerate((claim.title for claim in claims(GAMMAS)), 1):
        assert f"| {i} | {title} | **not applicable** | **held, too few seeds** |" in lines
        assert f"## {i}. {title}" in lines
    assert "their numbers were not given" in text
    few = "0 of our 5 readings of its sentences held, 5 more on the medians of too few seeds"
    assert lines[2] == f"**{few}.**"
    enough = report(paper(5), None).splitlines()[2]
    assert enough == "**5 of our 5 readings of its sentences held.**"
    for above, line in itertools.pairwise(lines):  # tables: own paragraphs, equal columns
        if above.startswith("|"):
            assert line == "" or line.count("|") == above.count("|")
        elif line.startswith("|"):
            assert above == ""


def test_other_thresholds_are_told_beside_ours() -> None:
    """Nominal at gamma 1 goes to 2.17 times its start, augmented at 1e-4 to 1.38."""
    measured = {
        **paper(),
        Condition("nominal", 1e0): runs(1.2, highest=2.17),
        Condition("augmented", 1e-4): runs(1.38),
    }
    text = report(measured, None)
    lines = text.split("## Other thresholds, post hoc")[1].splitlines()
    assert "| 2 (ours) | 5 | did not hold | held | did not hold |" in lines
    assert "| 1.25 | 5 | did not hold | held | held |" in lines
    assert "| 2.5 | 5 | held | held | did not hold |" in lines
    assert "| 2 | 20 | did not hold | held | did not hold |" in lines  # 25 times
    measured[Condition("augmented", 1e-2)] = runs(1.2)
    rows = report(measured, None).splitlines()
    assert "| 2 | 10 | did not hold | held | did not hold |" in rows
    assert "| 2 | 20 | did not hold | did not hold | did not hold |" in rows  # 16.7 times


TABLES = ("trajectories.parquet", "summary.parquet", "evaluation.parquet")
Tables = tuple[Path, Path, Path]


def tables_in(folder: Path) -> Tables:
    a, b, c = (folder / name for name in TABLES)
    return a, b, c


def experiment(folder: Path, grid: GridSettings, steps: int) -> Tables:
    write_experiment(folder, grid, steps)
    aggregate(folder, grid)
    return tables_in(folder)


def test_tables_of_an_experiment_are_read(tmp_path: Path) -> None:
    grid = GridSettings(gammas=(1e-2, 1e0), seeds="0-2", seeds_per_job=2)
    tables = experiment(tmp_path, grid, 100)
    measured = read(*tables, steps=(0, 20, 99, 100))
    assert sorted(measured) == [(m, g) for m in ("augmented", "nominal") for g in (1e-2, 1e0)]
    for condition, some in measured.items():
        assert some.start == pytest.approx(0.086, rel=0.05)
        assert some.steps == 100
        assert list(some.ends) == list(some.starts) == list(some.highs) == [0, 1, 2]
        assert list(some.along) == [0, 20, 99]  # it has no step 100
        for seed in range(3):
            distance = distances(*condition, seed, 100)["distance"]
            assert some.ends[seed] == np.median(distance[-10:])  # a tenth of a short run
            assert some.along[0][seed] == distance[0] == np.float32(some.starts[seed])
            assert some.along[20][seed] == np.median(distance[:21])
            assert some.highs[seed] == distance.max()
            assert some.changes[seed] == pytest.approx(0.5 + seed / 1000)
    assert measured[Condition("nominal", 1e-2)].highest >= 0.9
    text = report(measured, None)
    assert "| Changed |" in text
    assert "| 50.1 % |" in text

    sections = {"network": NetworkSettings()}
    check(*tables, tmp_path / "docs" / "claims.md", None, sections)
    assert without_comment((tmp_path / "docs/claims.md").read_text("utf-8")) == text


def test_the_command_compares_what_is_of_the_papers_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = experiment(tmp_path, GridSettings(gammas=(1.0,), seeds="0-5"), 200)
    output, numbers = tmp_path / "claims.md", Path(__file__).parent.parent / "workflow/authors.json"
    files = [f"--{table.stem}={table}" for table in tables]
    words = ["equireg", "check", *files, f"--numbers={numbers}", f"--output={output}"]
    for more, said in {
        "--epochs=1": "| 1e0 | nominal | 0.0",
        "--learning-rate=0.01": "another experiment; training.learning_rate is 0.01, theirs 0.001.",
        "--name=kmnist": "another experiment; data.name is kmnist, theirs mnist.",
    }.items():
        monkeypatch.setattr("sys.argv", [*words, more])
        with contextlib.suppress(SystemExit):
            main()
        assert said in output.read_text(encoding="utf-8")
        output.unlink()


def test_the_end_is_a_window_and_not_a_step(tmp_path: Path) -> None:
    """Whatever the last batch did: of 3,000 steps the last 201 count."""
    block = Block("nominal", 1.0, (0,))
    flat = np.full(3000, 0.5, np.float32)
    flat[-100:] = 9  # fewer than half of them
    metrics = dict.fromkeys(("loss", "distance"), flat[None])
    write_table(
        tmp_path / block.path.with_name(block.name + ".parquet"),
        trajectory_table(block.mode, block.gamma, block.seeds, metrics),
        {},
    )
    write_evaluation(tmp_path, block, np.array([9.0], np.float32))
    write_function(tmp_path, block, 3000)
    grid = GridSettings(modes=("nominal",), gammas=(1.0,), seeds="0")
    write_ensembles(tmp_path, grid)
    aggregate(tmp_path, grid)
    (measured,) = read(*tables_in(tmp_path)).values()
    assert (measured.end, measured.highest) == (0.5, 9)


def test_a_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    trajectories, summary, evaluation = experiment(
        tmp_path, GridSettings(gammas=(1.0,), seeds="0-1"), 10
    )
    with pytest.raises(ValueError, match=r"evaluation.parquet has no column step, seeds, median; "):
        read(trajectories, evaluation, evaluation)
    with pytest.raises(ValueError, match=r"summary.parquet has no column seed, distance; "):
        read(summary, summary, evaluation)
    whole = pq.read_table(evaluation)
    evaluation.unlink()
    write_table(evaluation, whole.drop_columns("highest_distance"), {})
    with pytest.raises(ValueError, match=r"no column highest_distance; its columns: mode, gamma"):
        read(trajectories, summary, evaluation)


def nulled(table: pa.Table, name: str, value: object = None) -> pa.Table:
    """The table with one entry of a column, or with None all of them, another value."""
    column = table[name].to_pylist()
    column = [None] * len(column) if value is None else [value, *column[1:]]
    type_ = pa.string() if isinstance(value, str) else table.schema.field(name).type
    field = pa.field(name, type_)
    return table.set_column(table.column_names.index(name), field, pa.array(column, type_))


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        (1, lambda t: nulled(t, "median"), "a median is null; expected a number; "),
        (1, lambda t: nulled(t, "median", np.nan), "a median is nan; expected a number; "),
        (1, lambda t: nulled(t, "step"), "a step is null; expected a whole number; "),
        (1, lambda t: nulled(t, "step", 3), "steps of augmented at gamma 1e0 are not 0, 1, 2"),
        (1, lambda t: t.slice(0, 0), "summary.parquet lacks augmented at gamma 1e0, which "),
        (2, lambda t: nulled(t, "highest_distance"), "a highest_distance is null; expected a num"),
        (2, lambda t: nulled(t, "prediction_change", np.inf), "a prediction_change is inf; exp"),
        (2, lambda t: nulled(t, "seed"), "a seed is null; expected a whole number; "),
        (0, lambda t: nulled(t, "step"), "a step is null; expected a number; "),
        (0, lambda t: nulled(t, "distance", np.nan), "seed 0 of augmented at gamma 1e0 has a ste"),
        *(
            (
                i,
                lambda t: t.set_column(1, "gamma", pa.array(["1"] * len(t))),
                "gamma is of type string; expected a number or null; delete it",
            )
            for i in range(3)
        ),
        *(
            (
                i,
                lambda t: t.set_column(0, "mode", pa.array(["normal"] * len(t))),
                said,
            )
            for i, said in enumerate(["hold other runs of", "a mode is normal", "a mode is normal"])
        ),
    ],
)
def test_what_is_no_number_is_refused(
    tmp_path: Path, table: int, change: Callable[[pa.Table], pa.Table], said: str
) -> None:
    grid = GridSettings(modes=("augmented", "nominal"), gammas=(1.0,), seeds="0-1")
    tables = experiment(tmp_path, grid, 10)
    changed = change(pq.read_table(tables[table]))
    tables[table].unlink()
    pq.write_table(changed, tables[table])
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        check(*tables, tmp_path / "claims.md", None, {})
    assert "\n" not in str(error.value)
    assert tables[table].name in str(error.value)
    assert not (tmp_path / "claims.md").exists()


def test_tables_are_made_checked_and_drawn_without_pandas(tmp_path: Path) -> None:
    grid = GridSettings(gammas=(1e-2, 1e0), seeds="0-2")
    write_experiment(tmp_path, grid, 100)
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pandas.py").write_text("raise ImportError('blocked')\n")
    program = f"""
from pathlib import Path
from equireg.cli import main
from equireg.jobs.aggregate import aggregate
from equireg.jobs.check import check
from equireg.jobs.draw import draw
from equireg.settings import GridSettings

try:
    import pandas
except ImportError:
    aggregate(Path(), {grid!r})
    tables = [Path(name) for name in {TABLES!r}]
    check(*tables, Path("claims.md"), None, {{}})
    draw(Path("trajectories.parquet"), Path("summary.parquet"), [Path("figure2.png")])
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(blocked), *sys.path])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    measured = read(*tables_in(tmp_path))
    assert without_comment((tmp_path / "claims.md").read_text("utf-8")) == report(measured, None)
    assert (tmp_path / "figure2.png").is_file()


@pytest.mark.parametrize("other", range(3))
def test_tables_of_other_experiments_are_refused(tmp_path: Path, other: int) -> None:
    a, b = (
        experiment(tmp_path / name, GridSettings(gammas=(1.0,), seeds=seeds), 10)
        for name, seeds in (("a", "0-1"), ("b", "0-2"))
    )
    mixed = [b[i] if i == other else a[i] for i in range(3)]
    with pytest.raises(
        ValueError,
        match=r'grid.seeds is "0-[12]", but "0-[12]" in .* settings are not mixed: delete',
    ):
        check(mixed[0], mixed[1], mixed[2], tmp_path / "claims.md", None, {})
    assert not (tmp_path / "claims.md").exists()
