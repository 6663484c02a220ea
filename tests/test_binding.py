"""What files say of themselves, and that what was made differently is not mixed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from matplotlib.figure import Figure

from equireg import binding
from equireg.binding import differences, flat, joined, nested, read, with_source
from equireg.figures.style import save
from equireg.files import write_json
from equireg.jobs.aggregate import aggregate
from equireg.jobs.check import check
from equireg.jobs.draw import draw
from equireg.plan import blocks
from equireg.settings import GridSettings
from equireg.tables import write_table
from equireg.weights import save_weights
from synthetic import write_block, write_experiment

MADE = {
    "training": {"learning_rate": 1e-3},
    "data": {"sha256": "a" * 64},
    "source": {"train": "1" * 64},
    "runs": {"seeds": "0-2", "note": "-->"},
}
GRID = GridSettings(("equivariant", "nominal"), (1.0,), "0-3", seeds_per_job=2)


def write(path: Path, made: dict[str, object]) -> None:
    """A file of any kind."""
    if path.suffix == ".parquet":
        write_table(path, pa.table({"x": [1]}), made)
    elif path.suffix == ".safetensors":
        save_weights(path, [0], {}, made)
    elif path.suffix == ".json":
        write_json(path, {"made": made})
    elif path.suffix == ".png":
        save(Figure(figsize=(1, 1)), path, made)
    else:
        binding.write_document(path, "# A text\n", made)


@pytest.mark.parametrize("suffix", ["parquet", "safetensors", "json", "png", "md", "html"])
def test_a_file_says_what_made_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{suffix}"
    write(path, MADE)
    assert read(path) == MADE
    before = path.read_bytes()
    write(path, dict(reversed(MADE.items())))
    assert path.read_bytes() == before


@pytest.mark.parametrize("suffix", ["pdf", "svg"])
def test_a_figure_for_print_says_it_too(suffix: str, tmp_path: Path) -> None:
    save(Figure(figsize=(1, 1)), tmp_path / f"figure.{suffix}", MADE)
    assert b"learning_rate" in (tmp_path / f"figure.{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", ["parquet", "safetensors", "json", "png", "md", "html"])
def test_a_file_that_does_not_say_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"file.{suffix}"
    with pytest.raises(ValueError, match=rf"^{path} is missing; run the workflow again$"):
        read(path)
    path.write_bytes(b"\xff{}")
    message = rf"^{path} does not say what made it, .*; delete it and run the workflow again$"
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_text_without_its_comment() -> None:
    text = f"# A text\n{binding.comment(MADE)}"
    assert binding.without_comment(text) == "# A text\n"
    assert text.count("-->") == 1


def test_sections_and_values() -> None:
    assert nested(dict(flat(MADE))) == MADE
    wanted = {"training": {"learning_rate": 2e-3, "epochs": 1}, "gammas": (1.0,)}
    assert differences({**MADE, "gammas": [1.0]}, wanted) == [
        ("training.learning_rate", 1e-3, 2e-3),
        ("training.epochs", None, 1),
    ]
    assert with_source(MADE, "check", "2")["source"] == {"train": "1" * 64, "check": "2"}


def test_what_only_one_file_says_is_said_by_both() -> None:
    some = joined({"a": MADE, "b": {"network": {"group": "C4"}, "runs": {"seeds": "3"}}})
    assert some == {k: v for k, v in {**MADE, "network": {"group": "C4"}}.items() if k != "runs"}


def test_a_picture_that_was_cut_off_says_nothing(tmp_path: Path) -> None:
    """Also where only its pixels are missing, which come last."""
    file = tmp_path / "a.png"
    save(Figure(figsize=(1, 1)), file, MADE)
    assert read(file)["training"] == MADE["training"]
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"a.png does not say what made it"):
        read(file)


def test_where_the_file_of_a_network_lies_makes_no_difference() -> None:
    """What is in it does, by its digest; so does which function of it."""
    here, there = ({"network": {"build": f"{at}mine.py:net"}} for at in ("", "/home/me/nets/"))
    assert binding.differences(here, there) == binding.differences(there, here) == []
    assert binding.joined({"a": here, "b": there}) == here
    other = {"network": {"build": "mine.py:other"}}
    assert binding.differences(here, other) == [("network.build", "mine.py:net", "mine.py:other")]


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("training", "learning_rate", 2e-3, "training.learning_rate is 0.002, but 0.001 in a; "),
        ("data", "sha256", "b" * 64, f"data.sha256 is {'b' * 12}, but {'a' * 12} in a; "),
        ("source", "train", "2" * 64, f"source.train is {'2' * 12}, but {'1' * 12} in a; "),
    ],
)
def test_what_was_made_differently_is_refused(
    section: str, key: str, value: object, line: str
) -> None:
    what = {"training": "settings", "source": "code"}.get(section, section)
    end = f"results of different {what} are not mixed: delete the one that is not meant"
    said = f"^b: {re.escape(line)}{end}, and run the workflow again$"
    with pytest.raises(ValueError, match=said):
        joined({"a": MADE, "b": {section: {key: value}}})


def test_tables_are_not_made_of_blocks_of_different_settings(tmp_path: Path) -> None:
    write_experiment(tmp_path, GRID, 5)
    odd = blocks(GRID)[-1]
    write_block(tmp_path, odd, 5, perturbation=1e-2)
    path = tmp_path / odd.path.with_name(f"{odd.name}.parquet")
    with pytest.raises(ValueError, match=f"^{path}: training.perturbation is 0.01, but 0.001 in "):
        aggregate(tmp_path, GRID)
    assert not list(tmp_path.glob("*.parquet"))


def test_tables_say_what_their_blocks_say_however_those_are_cut(tmp_path: Path) -> None:
    for size in (1, 2, 4):
        grid = GridSettings(GRID.modes, GRID.gammas, GRID.seeds, seeds_per_job=size)
        write_experiment(tmp_path / str(size), grid, 5)
        aggregate(tmp_path / str(size), grid)
    for name in ("trajectories", "summary", "evaluation"):
        files = [tmp_path / size / f"{name}.parquet" for size in "124"]
        assert len({file.read_bytes() for file in files}) == 1
        made = read(files[0])
        assert made["grid"] == {"modes": [*GRID.modes], "gammas": [1.0], "seeds": "0-3"}
        assert made["training"]["perturbation"] == 1e-3
        assert set(made["source"]) == {"initialize", "train", "aggregate"}


def test_figures_and_claims_are_not_made_of_tables_of_different_grids(tmp_path: Path) -> None:
    few = GridSettings(GRID.modes, GRID.gammas, "0-1", seeds_per_job=2)
    for name, grid in (("all", GRID), ("few", few)):
        write_experiment(tmp_path / name, grid, 5)
        aggregate(tmp_path / name, grid)
    summary, output = tmp_path / "all/summary.parquet", tmp_path / "out"
    message = 'grid.seeds is "0-.", but "0-." in '
    with pytest.raises(ValueError, match=message):
        draw(tmp_path / "few/trajectories.parquet", summary, [output.with_suffix(".png")])
    tables = tmp_path / "all/trajectories.parquet", summary, tmp_path / "few/evaluation.parquet"
    with pytest.raises(ValueError, match=message):
        check(*tables, output.with_suffix(".md"), None, {})
    draw(tmp_path / "all/trajectories.parquet", summary, [output.with_suffix(".png")])
    assert set(read(output.with_suffix(".png"))["source"]) >= {"train", "aggregate", "draw"}
    assert np.isclose(read(output.with_suffix(".png"))["training"]["perturbation"], 1e-3)
