"""How the grid becomes blocks, paths and command lines."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from equireg.plan import (
    DATA_FILES,
    Block,
    blocks,
    blocks_options,
    data_files,
    options,
    runs_per_job,
    seeds_option,
    seen_blocks,
    train_options,
)
from equireg.settings import (
    MODES,
    UNREAD,
    DataSettings,
    GridSettings,
    InitializationSettings,
    JobSettings,
    NetworkSettings,
    SelectionSettings,
    SourceSettings,
    TrainingSettings,
)


def test_the_paper_has_27_blocks_and_270_runs() -> None:
    grid = blocks(GridSettings())
    assert len(grid) == 27
    assert sum(len(block.seeds) for block in grid) == 30 + 2 * 4 * 30
    assert len({block.path for block in grid}) == 27


def test_blocks_are_sorted_by_mode_gamma_and_seed() -> None:
    grid = blocks(GridSettings(gammas=(1e2, 0.0, 1e-4), seeds="0-19"))
    assert [block.mode for block in grid] == ["augmented"] * 6 + ["equivariant"] * 2 + [
        "nominal"
    ] * 6
    assert [block.gamma for block in grid[:6]] == [0.0, 0.0, 1e-4, 1e-4, 1e2, 1e2]
    assert [block.seeds[0] for block in grid[:4]] == [0, 10, 0, 10]


def test_the_equivariant_mode_comes_once_and_without_gamma() -> None:
    grid = blocks(GridSettings(modes=("equivariant",), gammas=(), seeds="0-9"))
    assert grid == [Block("equivariant", None, tuple(range(10)))]
    assert grid[0].path == Path("runs/equivariant/gamma-none/seeds-000-009")


@pytest.mark.parametrize(
    ("seeds", "seeds_per_job", "names"),
    [
        ("0-29", 10, ["000-009", "010-019", "020-029"]),
        ("0-2", 10, ["000-002"]),
        ("5-14", 10, ["005-009", "010-014"]),
        ("0,2-3,19", 10, ["000-000", "002-003", "019-019"]),
        ("0-2", 1, ["000-000", "001-001", "002-002"]),
        ("998-1001", 100, ["998-999", "1000-1001"]),
    ],
)
def test_blocks_are_aligned_and_cut_at_missing_seeds(
    seeds: str, seeds_per_job: int, names: list[str]
) -> None:
    grid = GridSettings(modes=("equivariant",), seeds=seeds, seeds_per_job=seeds_per_job)
    assert [block.name for block in blocks(grid)] == [f"seeds-{name}" for name in names]


def test_more_seeds_keep_the_blocks_there_are() -> None:
    few, more = (set(blocks(GridSettings(seeds=f"0-{last}"))) for last in (29, 39))
    assert few < more
    assert {block.seeds for block in more - few} == {tuple(range(30, 40))}


@pytest.mark.parametrize("gamma", [0.01, float("1e-02")])
def test_a_gamma_has_one_path(gamma: float) -> None:
    assert Block("nominal", gamma, (7,)).path == Path("runs/nominal/gamma-1e-2/seeds-007-007")


def test_a_block_of_no_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seeds_per_job is 0; accepted: 1 to"):
        blocks(GridSettings(seeds_per_job=0))


def test_a_mode_that_there_is_not_is_refused() -> None:
    """The command line, which cannot say so itself, hands any text on."""
    modes: Any = ("nominal", "augmentd")
    message = "^modes is 'augmentd'; accepted: equivariant, augmented, nominal$"
    with pytest.raises(ValueError, match=message):
        blocks(GridSettings(modes=modes))


@pytest.mark.parametrize("gamma", [-1.0, float("inf"), float("nan")])
def test_a_gamma_that_cannot_be_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match=f"^gammas is {gamma}; accepted: finite numbers, 0 and "):
        blocks(GridSettings(gammas=(1.0, gamma)))


def test_training_is_not_told_what_its_mode_does_not_read() -> None:
    assert set(UNREAD) == set(MODES)
    plain = {mode: train_options(NetworkSettings(), TrainingSettings(), mode) for mode in MODES}
    assert plain["augmented"] == options(NetworkSettings(), TrainingSettings(), SelectionSettings())
    for change, modes in (
        ({"augmentation": "exact"}, {"augmented"}),
        ({"perturbation": 1e-2}, {"augmented", "nominal"}),
        ({"learning_rate": 1e-2}, set(MODES)),
    ):
        training = replace(TrainingSettings(), **change)
        told = {mode: train_options(NetworkSettings(), training, mode) for mode in MODES}
        assert {mode for mode in MODES if told[mode] != plain[mode]} == modes


def test_the_files_of_a_folder(tmp_path: Path) -> None:
    """Those that ``fetch`` reads; a folder of any name."""
    assert data_files(DataSettings()) == []
    folder = tmp_path / "a folder [of] $HOME"
    folder.mkdir()
    raw, gzipped, both, _ = DATA_FILES
    for name in (raw, f"{gzipped}.gz", both, f"{both}.gz", "other"):
        (folder / name).touch()
    data = DataSettings(folder=str(folder))
    assert data_files(data) == [str(folder / name) for name in (raw, f"{gzipped}.gz", both)]


def test_seeds_option() -> None:
    assert seeds_option("000-009") == "--seeds 0-9"
    assert seeds_option("007-007") == "--seeds 7"


def test_blocks_options() -> None:
    paths = [f"results/x/runs/augmented/gamma-{gamma}/seeds-000-009" for gamma in ("1e-2", "0")]
    outputs = [f"{path}.parquet" for path in paths]
    assert blocks_options("augmented", ["1e-2", "0"], "000-009", outputs) == (
        "--mode augmented --gamma 1e-2 --gamma 0 --seeds 0-9"
        f" --output {paths[0]}.parquet --output {paths[1]}.parquet"
    )
    alone = "results/x/runs/equivariant/gamma-none/seeds-007-007.parquet"
    assert blocks_options("equivariant", ["none"], "007-007", [alone]) == (
        f"--mode equivariant --seeds 7 --output {alone}"
    )


def test_options_spell_every_field() -> None:
    network = options(NetworkSettings())
    assert network == (
        "--group C4 --representation trivial --image-size 28 --image-channels 1 --classes 10"
        " --channels 16 --channels 16 --kernel-size 3 --support full"
        " --no-allow-incompatible-support"
    )
    assert options(JobSettings(), InitializationSettings()) == (
        "--threads 1 --device auto --step auto --distribution gaussian"
    )


def test_options_leave_out_none_and_spell_numbers_one_way() -> None:
    assert options(DataSettings()) == "--name mnist --validation 0"
    training = options(replace(TrainingSettings(), perturbation=0.0, learning_rate=0.001))
    assert "--perturbation 0 " in training
    assert "--learning-rate 1e-3 " in training
    assert "--gammas 1e-4 --gammas 1e-2 --gammas 1e0 --gammas 1e2" in options(GridSettings())


@pytest.mark.parametrize("folder", ["a folder", "$(id)", "it's;", "-x"])
def test_options_are_quoted_for_a_shell(folder: str) -> None:
    line = options(SourceSettings(folder=folder))
    assert shlex.split(line) == ["--name", "mnist", "--folder", folder]


def test_plan_needs_no_library() -> None:
    code = (
        "import sys, equireg.plan; "
        "print([name for name in ('numpy', 'pydantic', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_job_takes_a_block_or_one_for_each_gamma() -> None:
    grid = GridSettings(gammas=(0.0, 1e-2, 1.0), seeds_per_job=10)
    assert runs_per_job(grid, stacked=False) == 10
    assert runs_per_job(grid, stacked=True) == 30


def test_seen_blocks_are_the_first_seeds_at_the_smallest_gamma() -> None:
    grid = GridSettings(gammas=(1.0, 1e-2), seeds="3-8", seeds_per_job=4)
    assert [(b.mode, b.gamma, b.seeds) for b in seen_blocks(grid)] == [
        ("equivariant", None, (3,)),
        ("augmented", 1e-2, (3,)),
        ("nominal", 1e-2, (3,)),
    ]
    assert seen_blocks(GridSettings(modes=("equivariant",), gammas=()))[0].gamma is None
