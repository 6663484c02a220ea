"""What is kept of an experiment's folder, by what its files say of themselves."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from equireg import binding
from equireg.binding import metadata, options, write_document
from equireg.config import Configuration, ConfigurationError, load
from equireg.files import sha256
from equireg.inventory import (
    Inventory,
    begin,
    check,
    configuration_text,
    redate,
    take,
    take_sweep,
    wanted,
)
from equireg.inventory.blocks import digest_of
from equireg.plan import Block, blocks
from equireg.settings import UNREAD, DataSettings, GridSettings, NetworkSettings
from equireg.tables import write_table

GRID = GridSettings(("equivariant", "nominal"), (1e-2, 1.0), "0-2", seeds_per_job=2)
CHOSEN = Configuration("mine", grid=GRID)


def write(file: Path, made: Any) -> None:
    """A file that holds next to nothing but what made it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        write_table(file, pa.table({"x": [1]}), made)
    elif file.suffix == ".safetensors":
        safetensors.numpy.save_file(
            {"x": np.frombuffer(str(file.name).encode(), np.uint8)},
            file,
            {"about": json.dumps(made)},
        )
    elif file.suffix == ".json":
        file.write_text(json.dumps({"made": made}))
    elif file.suffix == ".png":
        info = PngInfo()
        for key, text in metadata(made).items():
            info.add_text(key, text)
        Image.new("L", (1, 1)).save(file, pnginfo=info)
    else:
        write_document(file, "text\n", made)


def digests(*jobs: str) -> dict[str, str]:
    return {job: digest_of(job) for job in jobs}


def finish(results: Path, chosen: Configuration = CHOSEN) -> Path:
    """Every file of the finished experiment, as its jobs would bind it; returns its folder."""
    folder, data = results / chosen.experiment, results / "data" / "mnist.safetensors"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_bytes(b"images")
    about = {"files": {}, "sha256": sha256(data)}
    data.with_suffix(".json").write_text(json.dumps(about))
    start = options(network=chosen.network, initialization=chosen.initialization)
    training = dataclasses.asdict(chosen.training)
    selected = {"sha256": sha256(data), "train_images": None, "validation": 0.0}

    def of(modes: tuple[str, ...], *jobs: str, **more: Any) -> dict[str, Any]:
        read = {k: v for k, v in training.items() if any(k not in UNREAD[m] for m in modes)}  # type: ignore[index]
        source = digests("initialize", "train", *jobs)
        return {**start, "training": read, "data": selected, "source": source, **more}

    sums: dict[Block, str] = {}
    for block in blocks(chosen.grid):
        seeds = "0-1" if block.seeds == (0, 1) else "2"
        runs: dict[str, Any] = {"mode": block.mode, "gamma": block.gamma, "seeds": seeds}
        file = folder / block.path
        for suffix in ("parquet", "safetensors", "function.parquet", "json"):
            write(file.with_name(f"{file.name}.{suffix}"), of((block.mode,), runs=runs))
        sums[block] = sha256(file.with_name(f"{file.name}.safetensors"))
        write(
            folder / "initial" / f"{block.name}.safetensors",
            {**start, "source": digests("initialize")},
        )
    for block in blocks(chosen.grid):
        file = folder / block.path
        twin = sums[Block("equivariant", None, block.seeds)]
        runs = {"weights": sums[block], "twin": twin}
        made = of((block.mode,), "evaluate", runs=runs)
        write(file.with_name(f"{file.name}.evaluation.parquet"), made)
        every = [s for b, s in sums.items() if (b.mode, b.gamma) == (block.mode, block.gamma)]
        made = of((block.mode,), "evaluate", runs={"weights": every})
        write(file.with_name("ensembles.parquet"), made)

    modes, more = tuple(chosen.grid.modes), ("evaluate", "aggregate")
    grid = {"modes": sorted(modes), "gammas": sorted(chosen.grid.gammas), "seeds": "0-2"}
    for name in ("trajectories", "summary", "evaluation", "ensembles", "function"):
        write(folder / f"{name}.parquet", of(modes, *more, grid=grid))
    few = {"modes": ["nominal"], "gammas": grid["gammas"], "seeds": "0-2"}
    predicted = {**start, "training": training, "data": selected, "runs": few}
    write(folder / "predictions.parquet", {**predicted, "source": digests("initialize", "predict")})
    compared: dict[str, Any] = {"names": [chosen.experiment], "beside": {}, "critical": False}
    for name, jobs, runs in (
        ("claims.md", ("check",), {}),
        ("predictions.md", ("predict", "score"), {}),
        ("comparison.md", ("compare",), compared),
        ("figures/comparison.png", ("compare",), compared),
        ("figures/figure2.png", ("predict", "draw"), {}),
        ("figures/figure2.html", ("predict", "draw"), {}),
        ("figures/function.png", ("draw",), {}),
        (
            "overview.html",
            ("predict", "draw", "check", "compare", "overview"),
            {"experiment": chosen.experiment},
        ),
    ):
        write(folder / name, of(modes, *more, *jobs, grid=grid, runs=runs))
    return folder


def changed(made: dict[str, Any], section: str, key: str, value: Any) -> dict[str, Any]:
    return {**made, section: {**made.get(section, {}), key: value}}


def names(found: Inventory, folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in found.outdated}


MADE = {  # by the job that comes last
    "trajectories.parquet": "aggregate",
    "summary.parquet": "aggregate",
    "evaluation.parquet": "aggregate",
    "ensembles.parquet": "aggregate",
    "function.parquet": "aggregate",
    "predictions.parquet": "predict",
    "claims.md": "check",
    "predictions.md": "score",
    "comparison.md": "compare",
    "figures/comparison.png": "compare",
    "figures/figure2.png": "draw",
    "figures/figure2.html": "draw",
    "figures/function.png": "draw",
    "overview.html": "overview",
}


def test_a_finished_experiment_is_kept(tmp_path: Path) -> None:
    folder = finish(tmp_path)
    found = take(CHOSEN, tmp_path)
    assert found.outdated == []
    assert found.unlike == []
    assert found.trained == set(blocks(GRID))
    assert found.evaluated == {(b.mode, b.gamma) for b in blocks(GRID)}
    assert found.data
    assert found.predicted
    there = {file for file in folder.rglob("*.*") if file.is_file()}
    assert there | {tmp_path / "data/mnist.safetensors"} == set(found.current)
    check(CHOSEN, found, tmp_path)


@pytest.mark.parametrize("name", MADE)
def test_a_table_or_page_of_something_else_is_outdated_and_no_other(
    tmp_path: Path, name: str
) -> None:
    """Put there from another experiment, another machine, another version; or cut in half."""
    folder = finish(tmp_path)
    file = folder / name
    made = binding.read(file)
    others = [
        changed(made, "training", "learning_rate", 0.01),
        changed(made, "network", "group", "D4"),
        changed(made, "initialization", "distribution", "uniform"),
        changed(made, "data", "sha256", "1" * 64),
        changed(made, "data", "train_images", 10),
        changed(made, "source", MADE[name], "2" * 64),
        changed(made, "source", "initialize", "2" * 64),
        {},
    ]
    if name != "predictions.parquet":
        others.append(changed(made, "source", "train", "2" * 64))
        others.append(changed(made, "grid", "seeds", "0-3"))
    else:
        others.append(changed(made, "runs", "gammas", [1.0]))
    for other in others:
        write(file, other)
        found = take(CHOSEN, tmp_path)
        assert names(found, folder) == {name}, other
        assert found.predicted == (name != "predictions.parquet")
    write(file, changed(made, "runs", "note", "does no harm"))
    assert take(CHOSEN, tmp_path).outdated == []
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert names(take(CHOSEN, tmp_path), folder) == {name}
    file.unlink()
    assert take(CHOSEN, tmp_path).outdated == []


def test_penalties_of_equivariant_runs_alone_make_no_difference(tmp_path: Path) -> None:
    grid = GridSettings(("equivariant",), (1.0,), "0-2", seeds_per_job=2)
    finish(tmp_path, dataclasses.replace(CHOSEN, grid=grid))
    chosen = dataclasses.replace(CHOSEN, grid=dataclasses.replace(grid, gammas=()))
    found = take(chosen, tmp_path)
    assert "evaluation.parquet" not in names(found, tmp_path / "mine")
    assert found.trained == set(blocks(grid))


def test_a_renamed_experiment_gets_pages_of_its_name(tmp_path: Path) -> None:
    finish(tmp_path).rename(tmp_path / "other")
    found = take(dataclasses.replace(CHOSEN, experiment="other"), tmp_path)
    pages = {"comparison.md", "figures/comparison.png", "overview.html"}
    assert names(found, tmp_path / "other") == pages
    assert found.trained == set(blocks(GRID))


def test_a_comparison_is_with_those_that_are_named_as_they_are_now(tmp_path: Path) -> None:
    folder = finish(tmp_path)
    other = tmp_path / "other" / "evaluation.parquet"
    write(other, {"training": {"learning_rate": 1.0}})
    both = dataclasses.replace(CHOSEN, compare=("other",))
    pages = {"comparison.md", "figures/comparison.png"}
    assert names(take(both, tmp_path), folder) == pages
    for name in pages:
        made = binding.read(folder / name)
        beside = {"other": binding.read(other)}
        runs = {"names": ["mine", "other"], "beside": beside, "critical": False}
        write(folder / name, {**made, "runs": runs})
    assert take(both, tmp_path).outdated == []
    assert names(take(CHOSEN, tmp_path), folder) == pages
    write(other, {"training": {"learning_rate": 2.0}})
    assert names(take(both, tmp_path), folder) == pages
    other.write_text("no table")
    assert names(take(both, tmp_path), folder) == pages
    marked = dataclasses.replace(CHOSEN, mark_critical=True)
    assert names(take(marked, tmp_path), folder) == pages


def test_the_page_of_a_sweep_is_of_its_combinations(tmp_path: Path) -> None:
    over = {"training.epochs": (1, 2), "network.channels": ((8, 8), (16, 16))}
    chosen = dataclasses.replace(CHOSEN, sweep=over)
    source = digests("sweep", "overview")
    runs = {"sweep": json.loads(json.dumps(over))}
    tables = {"sweep.parquet", "sweep.md", "figures/sweep.png"}
    for name in tables:
        write(tmp_path / "mine" / name, {"source": source, "runs": runs})
    write(tmp_path / "mine/overview.html", {"source": source, "runs": {"experiment": "mine"}})
    assert take_sweep(chosen, tmp_path).outdated == []
    assert len(take_sweep(chosen, tmp_path).current) == 4
    assert take_sweep(CHOSEN, tmp_path) == Inventory()
    for fewer in (
        {**over, "training.epochs": (1,)},
        {**over, "training.epochs": (2, 1)},
        {"training.epochs": (1, 2)},
    ):
        found = take_sweep(dataclasses.replace(chosen, sweep=fewer), tmp_path)
        assert names(found, tmp_path / "mine") == tables
    renamed = dataclasses.replace(chosen, experiment="other")
    (tmp_path / "mine").rename(tmp_path / "other")
    assert names(take_sweep(renamed, tmp_path), tmp_path / "other") == {"overview.html"}


BLOCK = "runs/nominal/gamma-1e-2/seeds-000-001"


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("training", "learning_rate", 0.01, "trained with training.learning_rate 0.01, not 0.001"),
        ("network", "channels", [8, 8], "trained with network.channels [8, 8], not [16, 16]"),
        ("data", "sha256", "1" * 64, "trained with data.sha256 111111111111, not "),
        ("data", "validation", 0.5, "trained with data.validation 0.5, not 0.0"),
        ("runs", "gamma", 1.0, "its gamma is 1.0, not 0.01, as files were moved"),
        ("runs", "mode", "augmented", 'its mode is "augmented", not "nominal", as files were'),
        ("runs", "seeds", "2-3", 'its seeds is "2-3", not "0-1", as files were moved'),
    ],
)
def test_a_block_of_something_else_is_refused(
    tmp_path: Path, section: str, key: str, value: Any, line: str
) -> None:
    folder = finish(tmp_path)
    file = folder / f"{BLOCK}.json"
    write(file, changed(json.loads(file.read_text())["made"], section, key, value))
    found = take(CHOSEN, tmp_path)
    with pytest.raises(ConfigurationError) as error:
        check(CHOSEN, found, tmp_path)
    assert str(error.value).startswith(f"{folder / BLOCK}: {line}")
    assert "\n" not in str(error.value)
    assert len(found.trained) == len(blocks(GRID)) - 1
    assert folder / f"{BLOCK}.parquet" in found.outdated
    check(dataclasses.replace(CHOSEN, overwrite=True), found, tmp_path)


ODD: list[Any] = [None, 3, "x", [], {}, {"source": 3}, {"network": [1], "data": "x", "training": 5}]


@pytest.mark.parametrize("made", ODD, ids=map(str, ODD))
def test_a_block_that_does_not_say_what_made_it(tmp_path: Path, made: Any) -> None:
    """Of an older version, damaged, or somebody's: a line, and what can be done."""
    folder = finish(tmp_path)
    file = folder / f"{BLOCK}.json"
    write(file, made)
    found = take(CHOSEN, tmp_path)
    with pytest.raises(ConfigurationError, match=r"; delete it and run|overwrite: true"):
        check(CHOSEN, found, tmp_path)
    file.write_text(file.read_text()[:-3])
    with pytest.raises(ConfigurationError) as error:
        check(CHOSEN, take(CHOSEN, tmp_path), tmp_path)
    assert str(error.value) == (
        f"{file} does not say what made it, as files of an older version and damaged ones do; "
        "delete it and run the workflow again"
    )
    file.unlink()
    found = take(CHOSEN, tmp_path)
    check(CHOSEN, found, tmp_path)
    assert len(found.trained) == len(blocks(GRID)) - 1


def test_other_runs_train_anew_where_the_code_is_another(tmp_path: Path) -> None:
    folder = finish(tmp_path)
    file = folder / f"{BLOCK}.json"
    made = json.loads(file.read_text())["made"]
    write(file, changed(made, "source", "train", "2" * 64))
    found = take(CHOSEN, tmp_path)
    check(CHOSEN, found, tmp_path)
    assert found.unlike == []
    assert found.evaluated == {("equivariant", None), ("nominal", 1.0)}


@pytest.mark.parametrize("name", ["seeds-000-001.evaluation.parquet", "ensembles.parquet"])
@pytest.mark.parametrize("left", [None, b"PAR1 and no more"])
def test_an_evaluation_that_is_missing_or_damaged_is_made_anew(
    tmp_path: Path, name: str, left: bytes | None
) -> None:
    """That of all its mode and gamma, which one job makes."""
    file = finish(tmp_path) / "runs/nominal/gamma-1e-2" / name
    file.unlink()
    if left is not None:
        file.write_bytes(left)
    assert take(CHOSEN, tmp_path).evaluated == {("equivariant", None), ("nominal", 1.0)}


def test_a_network_of_ones_own_is_code_and_no_setting(tmp_path: Path) -> None:
    """Another one makes runs outdated, to be made anew, and not other runs, to be refused."""
    file = tmp_path / "nets.py"
    file.write_text("def make():\n    return {}\n")
    chosen = dataclasses.replace(CHOSEN, network=NetworkSettings(build=f"{file}:make"))
    assert options(network=chosen.network)["source"]
    assert "source" not in wanted(chosen, blocks(GRID)[0], None)


def test_a_folder_says_what_it_is(tmp_path: Path) -> None:
    """Its configuration is written where it is another one, and else left with its date."""
    begin(CHOSEN, tmp_path)
    file = tmp_path / CHOSEN.experiment / "configuration.yaml"
    assert file.read_text() == configuration_text(CHOSEN)
    os.utime(file, (1, 1))
    begin(CHOSEN, tmp_path)
    assert file.stat().st_mtime == 1
    begin(dataclasses.replace(CHOSEN, mark_critical=True), tmp_path)
    assert "mark_critical: true" in file.read_text()


def test_a_data_set_that_is_not_the_one_that_was_fetched(tmp_path: Path) -> None:
    """Cut off, or another one under its name; and one of which nothing is said."""
    finish(tmp_path)
    data = tmp_path / "data/mnist.safetensors"
    data.write_bytes(b"imag")
    for chosen in (CHOSEN, dataclasses.replace(CHOSEN, overwrite=True)):
        with pytest.raises(ConfigurationError) as error:
            check(chosen, take(chosen, tmp_path), tmp_path)
        assert str(error.value).startswith(f"{data}: its SHA-256 sum is ")
        assert str(error.value).endswith("; delete it and run the workflow again")
    data.write_bytes(b"images")
    for text in ("", "[]", "3", '{"sha256": '):
        data.with_suffix(".json").write_text(text)
        found = take(CHOSEN, tmp_path)
        check(CHOSEN, found, tmp_path)
        assert found.trained == set(blocks(GRID))


def test_a_folder_of_data_counts_by_content(tmp_path: Path) -> None:
    finish(tmp_path)
    data, own = tmp_path / "data/mnist.safetensors", tmp_path / "own.npz"
    own.write_bytes(b"arrays")
    chosen = dataclasses.replace(CHOSEN, data=DataSettings("mine", file=str(own)))
    for suffix in (".safetensors", ".json"):
        data.with_suffix(suffix).rename(data.with_name(f"mine{suffix}"))
    story = {
        "files": {"own.npz": sha256(own)},
        "sha256": sha256(data.with_name("mine.safetensors")),
    }
    said = data.with_name("mine.json")
    said.write_text(json.dumps(story))
    assert take(chosen, tmp_path).outdated == []
    own.write_bytes(b"others")
    found = take(chosen, tmp_path)
    assert not found.data
    assert not found.predicted
    with pytest.raises(ConfigurationError, match=r"not \"other files in data.folder\""):
        check(chosen, found, tmp_path)
    said.unlink()  # then fetch looks, and what it finds is compared with the runs' sums
    found = take(chosen, tmp_path)
    assert not found.data
    assert found.unlike == []
    own.unlink()  # on another machine
    assert take(chosen, tmp_path).data


def test_outdated_files_are_dated_back_and_right_ones_forth(tmp_path: Path) -> None:
    """Links too, by both times that they have; one of the future is dated now."""
    file, link, future = (tmp_path / name for name in ("file", "link", "future"))
    file.write_text("x")
    future.write_text("x")
    link.symlink_to(file)
    before = file.stat().st_mtime_ns
    os.utime(future, (time.time() + 1e6,) * 2)
    redate([link], [future])
    assert future.stat().st_mtime <= time.time()
    for follow in (True, False):
        assert link.stat(follow_symlinks=follow).st_mtime < 1e9
    redate([link, tmp_path / "none"], [tmp_path / "none"])
    assert file.stat().st_mtime_ns == before - 10**18
    redate([], [link])
    assert file.stat().st_mtime_ns == before
    for time_ in (0, 315532800):  # of archives that keep no times
        os.utime(file, (time_, time_))
        redate([file], [])
        assert file.stat().st_mtime == time_
        redate([], [file])
        assert 1e9 <= file.stat().st_mtime <= time.time()


def test_an_outdated_file_that_cannot_be_dated_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of somebody else: it would pass for what is wanted."""
    file = tmp_path / "summary.parquet"
    file.write_text("x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    with pytest.raises(ConfigurationError, match=rf"^{file} was made by .* \(Operation not perm"):
        redate([file], [])
    redate([], [file])


def test_a_configuration_of_a_folder_that_was_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its old name everything would be trained anew."""
    monkeypatch.chdir(tmp_path)
    file = Path("results/other/configuration.yaml")
    file.parent.mkdir(parents=True)
    file.write_text("experiment: mine\n")
    line = f"^{file}: experiment is 'mine'; accepted in this folder, .*: 'other'$"
    with pytest.raises(ConfigurationError, match=line):
        load([file], {"experiment": "third"})
    file.write_text("experiment: other\n")
    assert load([file]).experiment == "other"
    assert load([file], {"experiment": "third"}).experiment == "third"
    file.rename("configuration.yaml")
    assert load(["configuration.yaml"], {"experiment": "third"}).experiment == "third"
