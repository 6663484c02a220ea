"""Sweeps: combinations, their folders, what is refused, and their table."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from checkout import SMALL, copy_repository, snakemake
from equireg import binding
from equireg.config import Configuration, ConfigurationError, experiments, load
from equireg.figures.keys import rows, sweep_figure
from equireg.figures.quantities import read
from equireg.inventory import configuration_text
from equireg.jobs.sweep import by_gamma, sweep
from equireg.plan import Block, folders_but_for
from equireg.sweeps import combinations, label, parse_sweep, path, size, spell_sweep, spell_value
from test_compare import write_evaluation

OVER: dict[str, list[Any]] = {
    "training.learning_rate": [1e-3, 1e-2],
    "data.train_images": [500, None],
}
FEW = {"gammas": [0, 1], "seeds": 2}


def chosen(sweep: Any, **more: Any) -> Configuration:
    return load([], {"experiment": "s", "sweep": sweep, "grid": FEW, **more})


def test_every_combination_once() -> None:
    every = combinations(OVER)
    assert len(every) == size(OVER) == 4
    assert every[1] == {"training.learning_rate": 1e-3, "data.train_images": None}
    assert combinations({}) == [{}]
    assert parse_sweep(spell_sweep(OVER)) == OVER


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (0.01, "1e-2"),
        (3, "3"),
        (None, "null"),
        (True, "true"),
        ((16, 32), "16,32"),
        ([0.5], "5e-1"),
        ("regular", "regular"),
        ("0.0:inf,0.5:1.0", "0.0:inf,0.5:1.0"),
        ("../my net.py:f", "..%2Fmy%20net.py:f"),
        ("a{b}", "a%7Bb%7D"),
    ],
)
def test_values_are_spelled_as_one_folder(value: Any, spelled: str) -> None:
    assert spell_value(value) == spelled
    assert path({"network.build": value}) == Path(f"network.build={spelled}")


def test_a_sweep_is_an_experiment_for_each_combination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are those of the keys, however they were spelled; the whole can be read again."""
    monkeypatch.chdir(tmp_path)
    made = chosen({"training.learning_rate": ["1e-3", 0.01], "network.channels": [[4], [4, 8]]})
    assert made.sweep == {
        "training.learning_rate": (1e-3, 1e-2),
        "network.channels": ((4,), (4, 8)),
    }
    every = experiments(made)
    assert [point.experiment for point in every][1] == (
        "s/training.learning_rate=1e-3/network.channels=4,8"
    )
    assert [(p.training.learning_rate, p.network.channels) for p in every] == [
        (rate, channels) for rate in (1e-3, 1e-2) for channels in ((4,), (4, 8))
    ]
    assert not any(point.sweep for point in every)
    Path("again.yaml").write_text(configuration_text(made))
    assert load(["again.yaml"]) == made


PARTS: list[dict[str, list[Any]]] = [
    {"training.epochs": [2], "grid.modes": [["equivariant"]], "grid.gammas": [[0]]},
    {"training.epochs": [1, 2], "grid.modes": [["augmented"]], "grid.gammas": [[1, 0], ["1e-2"]]},
]


def test_a_sum_of_products_with_grids_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each product trains its own modes and gammas, at the same seeds."""
    monkeypatch.chdir(tmp_path)
    made = chosen(PARTS)
    assert size(made.sweep) == 5
    every = experiments(made)
    assert every[1].experiment == "s/training.epochs=1/grid.modes=augmented/grid.gammas=1e0,0"
    told = [(p.training.epochs, p.grid.modes, p.grid.gammas, p.grid.seeds) for p in every]
    assert told[0] == (2, ("equivariant",), (0.0,), "0-1")
    assert told[2] == (1, ("augmented",), (0.01,), "0-1")
    Path("again.yaml").write_text(configuration_text(made))
    assert load(["again.yaml"]) == made
    assert parse_sweep(spell_sweep(made.sweep)) == json.loads(json.dumps(made.sweep))
    with pytest.raises(ConfigurationError, match=r"with a sweep over grid\.gammas: false"):
        chosen(PARTS, jobs={"stack_gammas": True})


@pytest.mark.parametrize("seeds", [1, [7], "0-2", [3, 5]])
def test_a_written_configuration_has_the_same_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: Any
) -> None:
    """Seed 7 alone is not seven seeds."""
    monkeypatch.chdir(tmp_path)
    made = load([], {"grid": {"seeds": seeds}})
    Path("again.yaml").write_text(configuration_text(made))
    assert load(["again.yaml"]) == made


def test_without_a_sweep_nothing_changes() -> None:
    plain = load([])
    assert experiments(plain) == [plain]
    assert load([], {"sweep": {}}) == plain
    assert "sweep" not in configuration_text(plain)


@pytest.mark.parametrize(
    ("sweep", "line"),
    [
        ({"training.rate": [1]}, r"sweep.training.rate is \[1\]; .*accepted: keys of data"),
        ({"training.epoch": [1]}, r"sweep.training.epoch is .*did you mean training.epochs\?"),
        ({"grid.seeds": [[1]]}, r"sweep.grid.seeds is .*accepted: keys of data"),
        ([OVER, 1], r"sweep is .*accepted: lists of values by key"),
        ([OVER, {}], r"sweep is .*accepted: lists of values by key"),
        (
            [{"training.epochs": [1]}, {"training.batch_size": [1]}],
            r"sweep is .*accepted: the keys of the first one in each, training.epochs",
        ),
        (
            [{"training.epochs": [1, 2]}, {"training.epochs": [3, 2]}],
            r"sweep is 'training.epochs 2'; accepted: each combination in one product only",
        ),
        (
            {"grid.gammas": [[1], [-1]]},
            r"in the sweep, at grid.gammas \[-1\]: grid.gammas is -1.0; accepted: finite numbers",
        ),
        ({"data.folder": ["x"]}, r"sweep.data.folder is .*accepted: keys of data"),
        ({"training.epochs": 3}, r"sweep.training.epochs is 3; accepted: a list of one value"),
        ({"training.epochs": []}, r"sweep.training.epochs is \[\]; accepted: a list of one value"),
        (
            {"training.learning_rate": [0.001, "1e-3"]},
            r"sweep.training.learning_rate is .*each once; 1e-3 is repeated",
        ),
        (
            {"training.epochs": list(range(1, 40)), "training.batch_size": list(range(1, 40))},
            r"sweep is .*at most 1000 combinations",
        ),
        (
            {"training.epochs": [1, 0]},
            r"in the sweep, at training.epochs 0: training.epochs is 0; accepted: 1 to 100000",
        ),
        (
            {"network.channels": [[4], [6]], "network.representation": ["regular"]},
            r"in the sweep, at network.channels \[6\], network.representation 'regular': "
            r"network.channels is \[6\]; accepted with network.representation regular",
        ),
        (
            {"training.learning_rate": [0.1, 3]},
            r"in the sweep, at training.learning_rate 3: grid.gammas is 1.0; accepted with",
        ),
    ],
)
def test_a_wrong_sweep_is_refused_in_a_line(sweep: Any, line: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        chosen(sweep)
    (said,) = str(error.value).split("\n")
    assert re.search(line, said), said


def test_what_is_wrong_everywhere_is_said_once_and_without_a_combination() -> None:
    with pytest.raises(ConfigurationError) as error:
        chosen(OVER, network={"kernel_size": 2})
    assert str(error.value) == (
        "the command line (--config): network.kernel_size is 2; accepted: odd numbers, 1 to 99"
    )


def test_a_sweep_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text("experiment: paper")
    with pytest.raises(ConfigurationError, match="experiment is 'paper'; accepted with a sweep"):
        load(["config.yaml"], {"sweep": OVER, "grid": FEW})


def test_finished_blocks_of_one_combination_have_no_rule() -> None:
    """Those of the others still have one."""
    block = Block("augmented", 1e-2, (0, 1))
    pattern = folders_but_for({"s/a=1": {block}, "s/a=10": set()})
    rest = f"/{block.path}.parquet"
    matched = re.compile(rf"({pattern}){rest}")
    assert not matched.fullmatch(f"s/a=1{rest}")
    assert matched.fullmatch(f"s/a=10{rest}")


def folders(experiment: Path) -> None:
    """An evaluation for each combination, better with more images."""
    for i, combination in enumerate(combinations(OVER)):
        file = experiment / path(combination) / "evaluation.parquet"
        file.parent.mkdir(parents=True)
        write_evaluation(file, ("augmented", "equivariant"), shift=i / 10)


def test_one_table_over_all(tmp_path: Path) -> None:
    folders(tmp_path)
    files = [tmp_path / name for name in ("sweep.parquet", "sweep.md", "sweep.png")]
    sweep(tmp_path, OVER, files[0], files[1], files[2:])
    table = pq.read_table(files[0])
    assert table.column_names[:3] == [*OVER, "mode"]
    frame = table.to_pandas()
    assert len(frame) == 4 * 9 * 4
    few = frame[(frame["training.learning_rate"] == 1e-2) & frame["data.train_images"].isna()]
    assert few["test_accuracy"].min() == pytest.approx(0.9)
    assert "| 1e-2 | null | equivariant | none | 9 |" in files[1].read_text()
    for file in files:
        assert binding.read(file)["runs"] == {"sweep": json.loads(spell_sweep(OVER))}
    before = [file.read_bytes() for file in files]
    sweep(tmp_path, OVER, files[0], files[1], files[2:])
    assert [file.read_bytes() for file in files] == before


def test_the_figure_has_a_row_for_each_key_and_setting_of_the_others(tmp_path: Path) -> None:
    folders(tmp_path)
    runs = [(c, read(tmp_path / path(c) / "evaluation.parquet")) for c in combinations(OVER)]
    assert [key for key, _ in rows(OVER)] == [key for key in OVER for _ in range(2)]
    keys = [(key, len(alike)) for key, alike in rows(PARTS)]
    assert keys == [("training.epochs", 2)] * 2 + [("grid.gammas", 2)] * 2
    figure = sweep_figure(OVER, runs)
    assert len(figure.axes) == 4 * 4
    accuracy = figure.axes[3]  # turned, along the learning rate at 500 images
    line = next(line for line in accuracy.lines if line.get_label() == "equivariant")
    first, second = np.asarray(line.get_ydata(), float)
    assert second - first == pytest.approx(0.2)


def test_the_figure_against_gamma_has_a_line_for_each_combination(tmp_path: Path) -> None:
    folders(tmp_path)
    runs = [(c, read(tmp_path / path(c) / "evaluation.parquet")) for c in combinations(OVER)]
    figure = by_gamma(OVER, runs)
    (row,) = [figure.axes]  # of the augmented mode alone
    assert len(row) == 4
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[0] == "learning_rate 1e-3, train_images 500"
    assert len(labels) == 5  # and the equivariant ones
    heights = [np.asarray(line.get_ydata(), float)[-1] for line in row[2].lines[1::2]]
    assert np.allclose(np.diff(heights), 0.1)
    lone = by_gamma({"training.epochs": [1]}, [({"training.epochs": 1}, runs[0][1])])
    assert [text.get_text() for text in lone.legends[0].get_texts()] == ["augmented", "equivariant"]
    table, report = tmp_path / "sweep.parquet", tmp_path / "sweep.md"
    files = [tmp_path / "sweep.png", tmp_path / "gammas.png"]
    sweep(tmp_path, OVER, table, report, files)
    assert files[0].read_bytes() != files[1].read_bytes()


def test_paths_in_texts_are_short() -> None:
    assert label({"network.build": "a/mine.py:net"}) == "network.build mine.py:net"


def test_an_evaluation_of_another_combination_is_not_mixed_in(tmp_path: Path) -> None:
    over: dict[str, list[Any]] = {"training.epochs": [1, 2]}
    file = tmp_path / "training.epochs=1" / "evaluation.parquet"
    file.parent.mkdir()
    write_evaluation(file, ("augmented",))
    wrong = tmp_path / "training.epochs=2"
    wrong.mkdir()
    table = pq.read_table(file)
    made = {"training": {"epochs": 1}}
    pq.write_table(
        table.replace_schema_metadata(binding.metadata(made)), wrong / "evaluation.parquet"
    )
    with pytest.raises(ValueError, match=r"training.epochs is 1, not 2 as its folder says"):
        sweep(tmp_path, over, tmp_path / "a.parquet", tmp_path / "a.md", [])
    (wrong / "evaluation.parquet").unlink()
    with pytest.raises(ValueError, match="is missing"):
        sweep(tmp_path, over, tmp_path / "a.parquet", tmp_path / "a.md", [])


def test_tables_have_their_modes_and_gammas_in_an_order_of_their_own(tmp_path: Path) -> None:
    over: list[dict[str, list[Any]]] = [
        {"grid.modes": [["nominal", "augmented"]], "grid.gammas": [[1.0, 0.1], [3.0]]}
    ]
    for combination, gammas in zip(combinations(over), ([0.1, 1.0], [3.0]), strict=True):
        file = tmp_path / path(combination) / "evaluation.parquet"
        file.parent.mkdir(parents=True)
        write_evaluation(file, ("augmented", "nominal"))
        made = {"grid": {"modes": ["augmented", "nominal"], "gammas": gammas}}
        table = pq.read_table(file).replace_schema_metadata(binding.metadata(made))
        pq.write_table(table, file)
    output = tmp_path / "sweep.parquet"
    sweep(tmp_path, over, output, tmp_path / "sweep.md", [])
    assert set(pq.read_table(output)["grid.gammas"].to_pylist()) == {"1e0,1e-1", "3e0"}
    assert "grid" not in binding.read(output)
    over[0]["grid.gammas"] = [[1.0, 0.2]]
    wrong = tmp_path / path(combinations(over)[0])
    (tmp_path / path({"grid.modes": ["nominal", "augmented"], "grid.gammas": [3.0]})).rename(wrong)
    with pytest.raises(ValueError, match=r"grid.gammas is \[3.0\], not \[0.2, 1.0\] as its folder"):
        sweep(tmp_path, over, output, tmp_path / "sweep.md", [])


def test_a_sweep_of_too_many_jobs_is_refused() -> None:
    grid = {"seeds": 10000, "seeds_per_job": 1, "modes": ["augmented"], "gammas": [1]}
    with pytest.raises(ConfigurationError, match=r"sweep is .* 60000 training jobs; 50000 at most"):
        load(
            [], {"experiment": "x", "grid": grid, "sweep": {"training.epochs": [1, 2, 3, 4, 5, 6]}}
        )


@pytest.mark.slow
def test_a_sweep_to_its_table_and_on(tmp_path: Path) -> None:
    """Two combinations, then a third: the finished ones are not trained again."""
    folder = copy_repository(tmp_path)
    text = (
        "experiment: tiny\ngrid: {gammas: [1], modes: [augmented], seeds: 1}\n"
        "training: {epochs: 1}\nsweep: {training.learning_rate: [1e-3, 1e-2]}\n"
    )
    (folder / "tiny.yaml").write_text(text)
    words = (*SMALL, "tiny.yaml", "--cores", "2")
    done = snakemake(*words, cwd=folder)
    assert done.returncode == 0, done.stdout
    results = folder / "results/tiny"
    assert {f.name for f in results.glob("training*")} == {
        "training.learning_rate=1e-3",
        "training.learning_rate=1e-2",
    }
    assert pq.read_table(results / "sweep.parquet")["training.learning_rate"].to_pylist() == [
        1e-3,
        1e-2,
    ]
    for name in ("sweep.md", "overview.html", "figures/sweep.png", "figures/gammas.pdf"):
        assert (results / name).is_file()
    assert "Nothing to be done" in snakemake(*words, "--dry-run", cwd=folder).stdout
    (folder / "tiny.yaml").write_text(text.replace("1e-2]", "1e-2, 2e-2]"))
    said = snakemake(*words, "--dry-run", cwd=folder).stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert counts["train"] == counts["evaluate"] == counts["sweep"] == "1"
    (folder / "tiny.yaml").write_text(text.replace("1e-3, 1e-2", "1e-2"))
    shutil.rmtree(folder / ".snakemake")  # as in a copy
    said = snakemake(*words, "--dry-run", cwd=folder).stdout
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert counts == {"all": "1", "sweep": "1", "overview_of_sweep": "1", "total": "3"}
