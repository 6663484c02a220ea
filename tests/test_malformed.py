"""Configurations that nobody would write, or only to do harm: generated, and with hostile names.

tests/test_config.py has the table of mistakes that people do make.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
import shutil
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from checkout import copy_repository, snakemake
from equireg.config import COMMAND_LINE, Configuration, ConfigurationError, load
from equireg.plan import Block, options
from equireg.settings import ON_GRID, ORDERS, SourceSettings
from equireg.spelling import KNOTS


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# In one folder for all examples of a test, which none of them changes but for the file it writes.
generated = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)

# --- Every key, with values of the wrong kind or out of range. ------------------------------------

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
nothing = st.none() | st.dictionaries(text, st.integers(), max_size=2)
no_list = st.integers() | st.floats() | text | st.booleans() | nothing
no_number = (
    nothing
    | st.booleans()
    | st.lists(st.integers(), max_size=2)
    | text.filter(lambda value: re.search(r"[0-9]|inf|nan", value, re.IGNORECASE) is None)
)
no_truth = nothing | st.integers() | st.floats() | st.just("")
no_text = nothing | st.booleans() | st.integers() | st.floats() | st.lists(text, max_size=2)


def whole(least: int, most: int) -> st.SearchStrategy[Any]:
    """What is no whole number from ``least`` to ``most``."""
    fraction = st.floats(0, 1e6).filter(lambda value: value % 1 != 0)
    infinite = st.sampled_from([float("inf"), float("-inf"), float("nan")])
    outside = st.integers(max_value=least - 1) | st.integers(min_value=most + 1)
    return no_number | fraction | infinite | outside


def amount(least: float) -> st.SearchStrategy[Any]:
    """What is no finite number from ``least`` on."""
    below = st.floats(max_value=least, exclude_max=True)
    return no_number | below | st.sampled_from([float("inf"), float("nan"), "-inf", "nan"])


def other(hint: Any) -> st.SearchStrategy[Any]:
    """What is none of a choice."""
    return no_text | text.filter(lambda value: value not in typing.get_args(hint))


def within(wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is no list, or a list with one value that is wrong."""
    return no_list | wrong.map(lambda value: [value])


def something(wrong: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is no text and not null, which is accepted, or a text that is wrong."""
    return no_text.filter(lambda value: value is not None) | wrong


hints: dict[tuple[str, ...], Any] = {}
for section, kind in typing.get_type_hints(Configuration).items():
    if dataclasses.is_dataclass(kind):
        hints |= {(section, key): hint for key, hint in typing.get_type_hints(kind).items()}
    else:
        hints[section,] = kind
no_name = no_text | text.filter(
    lambda value: not re.fullmatch(r"[\w][\w.-]{0,99}", value, re.ASCII)
)
WRONG: dict[tuple[str, ...], st.SearchStrategy[Any]] = {
    ("experiment",): no_name,
    ("compare",): within(no_name),
    ("sweep",): st.sampled_from([None, True, 1, 0.5, "x", [], [1]]),
    ("data", "name"): no_name,
    ("data", "folder"): no_text.filter(lambda value: value is not None) | text.map("no/{}".format),
    ("data", "file"): something(text.map("no/{}.csv".format)),
    ("data", "train_images"): whole(1, 1_000_000_000).filter(lambda value: value is not None),
    ("data", "test_images"): whole(1, 1_000_000_000).filter(lambda value: value is not None),
    ("data", "validation"): amount(0) | st.floats(1, 1e6).filter(lambda value: value % 1 != 0),
    ("network", "build"): something(text.filter(lambda value: ".py:" not in value)),
    ("network", "group"): no_text | text.filter(lambda value: value not in {*ORDERS, *ON_GRID}),
    ("network", "image_size"): whole(1, 1024),
    ("network", "image_channels"): whole(1, 64),
    ("network", "classes"): whole(2, 256),
    ("network", "channels"): within(whole(1, 4096)) | st.just([]),
    ("network", "kernel_size"): whole(1, 99) | st.integers(0, 49).map(lambda half: 2 * half),
    ("training", "perturbation"): amount(0),
    ("training", "epochs"): whole(1, 100_000),
    ("training", "steps"): whole(1, 1_000_000_000).filter(lambda value: value is not None),
    ("training", "batch_size"): whole(1, 1_000_000),
    ("training", "learning_rate"): amount(0) | st.just(0),
    ("training", "momentum"): amount(0) | st.floats(1, 1e6),
    ("training", "weight_decay"): amount(0),
    ("training", "gamma_schedule"): no_text.filter(lambda value: value not in ({}, None))
    | text.filter(lambda value: value not in KNOTS and ":" not in value)
    | st.lists(st.tuples(amount(0), st.integers(0, 9)).map(list), min_size=1, max_size=2),
    ("grid", "gammas"): within(amount(0)) | st.just([]),
    ("grid", "modes"): within(other(typing.Literal["equivariant", "augmented", "nominal"])),
    ("grid", "seeds"): nothing
    | st.booleans()
    | st.floats()
    | st.integers(max_value=0)
    | text.filter(lambda value: not re.search(r"\d", value))
    | st.tuples(st.integers(1, 99), st.integers(1, 99)).map(lambda p: f"{sum(p)}-{p[0]}")
    | st.lists(st.integers(), max_size=1).map(lambda values: [*values, 1, 1]),
    ("grid", "seeds_per_job"): whole(1, 100_000),
    ("jobs", "threads"): whole(1, 1024),
    **{key: no_truth for key, hint in hints.items() if hint is bool},
    **{
        key: other(hint) for key, hint in hints.items() if typing.get_origin(hint) is typing.Literal
    },
}


def test_every_key_has_wrong_values() -> None:
    assert set(WRONG) == set(hints)


wrong = st.sampled_from(sorted(WRONG)).flatmap(lambda key: st.tuples(st.just(key), WRONG[key]))


@generated
@given(wrong)
def test_a_wrong_value_is_refused_in_a_line(case: tuple[tuple[str, ...], Any]) -> None:
    key, value = case
    section = {key[-1]: value} if len(key) == 2 else value
    overrides = {key[0]: section}
    Path("file.yaml").write_text(yaml.safe_dump(overrides), encoding="utf-8")
    for source, arguments in ((COMMAND_LINE, ([], overrides)), ("file.yaml", (["file.yaml"],))):
        with pytest.raises(ConfigurationError) as error:
            load(*arguments)
        (line,) = str(error.value).split("\n")
        said = re.escape(f"{source}: {'.'.join(key)}")
        assert re.fullmatch(rf"{said}(\[\d\])* is .+; .*(accepted|at most).*", line), line


@generated
@given(st.sampled_from(sorted(WRONG)), st.integers(0, 30), text.filter(bool))
def test_a_misspelt_key_is_refused_in_a_line(key: tuple[str, ...], place: int, more: str) -> None:
    misspelt = key[-1][:place] + more + key[-1][place:]
    overrides = {misspelt: 1} if len(key) == 1 else {key[0]: {misspelt: 1}}
    with pytest.raises(ConfigurationError) as error:
        load([], overrides)
    (line,) = str(error.value).split("\n")
    assert "is 1; there is no such key; " in line
    assert key[-1] in line.split("accepted: ")[1]


@generated
@given(text.map(str.encode) | st.binary(max_size=30))
def test_any_file_gives_a_configuration_or_a_line(content: bytes) -> None:
    Path("file.yaml").write_bytes(content)
    lines = []
    try:
        load(["file.yaml"])
    except ConfigurationError as error:
        lines = str(error).split("\n")
    assert all(line.startswith("file.yaml: ") for line in lines)


# --- Names: none leads out of the results, or into a shell. ---------------------------------------

HOSTILE = [
    *(
        "..",
        ".",
        "../x",
        "/",
        "/etc/x",
        "a/../../x",
        "a/b",
        "~",
        "~root",
        "",
        " ",
        "a b",
        " a",
        "a ",
    ),
    *("-", "-rf", "--help", ";", "x; touch y", "x && touch y", "x | tee y", "x > y", "$(touch y)"),
    *("`touch y`", "$HOME", "${IFS}", "x\ny", "x\n", "\n", "x\ry", "x\ty", "x\0y", "'", '"', "\\"),
    *(
        "*",
        "?",
        "[a]",
        "{mode}",
        "{",
        "}",
        "{{",
        "%s",
        "#",
        "!",
        "a=b",
        "a:b",
        "é",
        "ａ",
        "٣",
        "x\u202ey",
    ),
    *("x\u2028y", "\ud800", "x" * 101, "x" * 100_000, ".x", "_x"),
]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:20]))
@pytest.mark.parametrize("key", ["experiment", "data.name"])
def test_a_hostile_name_is_refused(key: str, name: str) -> None:
    overrides: dict[str, Any] = {"experiment": name}
    if key == "data.name":
        overrides = {"data": {"name": name, "folder": "."}}
    with pytest.raises(ConfigurationError) as error:
        load([], overrides)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"{COMMAND_LINE}: {key} is ")
    assert line.isprintable()


@generated
@given(st.text(st.characters(codec="ascii"), max_size=120))
def test_a_name_that_is_taken_is_one_plain_name(name: str) -> None:
    try:
        chosen = load([], {"experiment": name})
    except ConfigurationError:
        return
    assert Path("results", chosen.experiment).resolve().parent == Path("results").resolve()
    assert shlex.split(chosen.experiment) == [chosen.experiment] == [shlex.quote(name)]
    block = Path("results", chosen.experiment, Block("nominal", 1.0, (0,)).path).resolve()
    assert block.is_relative_to(Path("results").resolve())


FOLDERS = ["-rf", "a b", "$(touch y)", "`touch y`", "x; touch y", "x' \"y", "%s", "é٣", "*"]


@pytest.mark.slow
def test_the_name_of_a_folder_is_data(tmp_path: Path) -> None:
    """A folder of one's own may have any name: a job that reads it runs nothing else."""
    for name in FOLDERS:
        assert shlex.split(options(SourceSettings("x", name))) == ["--name", "x", "--folder", name]
    (tmp_path / "repository").mkdir()
    repository = copy_repository(tmp_path / "repository")
    before = {path.name for path in repository.iterdir()}
    for name in ("$(touch y); touch y # ' \" %s é", "-rf"):
        shutil.copytree(repository / "tests/data/digits", repository / name)
        preset = {"experiment": "x", "data": {"name": "x", "folder": name}}
        (repository / "x.yaml").write_text(yaml.safe_dump(preset, allow_unicode=True))
        target = "results/data/x.safetensors"
        done = snakemake("--configfile", "x.yaml", "--cores", "1", target, cwd=repository)
        assert done.returncode == 0, done.stdout
        shutil.rmtree(repository / name)
        (repository / target).unlink()
    after = {path.name for path in repository.iterdir()}
    assert after - before == {"results", "x.yaml", ".snakemake"}


# --- Through the real command. --------------------------------------------------------------------


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_repository(tmp_path_factory.mktemp("repository"))


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("experiment: ../../x", "file.yaml: experiment is '../../x'; accepted: "),
        ("experiment: '$(touch y)'", "file.yaml: experiment is '$(touch y)'; accepted: "),
        ("5: 6", "file.yaml: is not YAML: the key 5 is not a text"),
        ("grid: {gammas: &a [1], seeds: *a}", "file.yaml: is not YAML: *a stands for another"),
    ],
)
def test_the_command_answers_in_a_line(repository: Path, written: str, line: str) -> None:
    (repository / "file.yaml").write_text(written)
    done = snakemake("--configfile", "file.yaml", "--cores", "1", cwd=repository)
    assert done.returncode == 1
    (said,) = [said for said in done.stdout.splitlines() if not said.startswith("Using ")]
    assert said.startswith(f"equireg: {line}")
    assert not (repository / "results").exists()
    assert not (repository / "y").exists()


@pytest.mark.parametrize(
    ("file", "content", "answer"),
    [
        ("nowhere.yaml", None, "No such file or directory: 'nowhere.yaml'"),
        ("file.yaml", b"training: {epochs: 1", "Config file is not valid JSON or YAML"),
    ],
    ids=["missing", "broken"],
)
def test_what_snakemake_itself_refuses(
    repository: Path, file: str, content: bytes | None, answer: str
) -> None:
    """It reads the files of --configfile before the workflow is there to say it better."""
    if content is not None:
        (repository / file).write_bytes(content)
    done = snakemake("--configfile", file, "--cores", "1", cwd=repository)
    assert done.returncode == 1
    assert answer in done.stdout
    assert not (repository / "results").exists()
