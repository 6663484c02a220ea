"""What a configuration may say, and the line that answers what it may not."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from equireg.config import COMMAND_LINE, Configuration, ConfigurationError, load
from equireg.config.reading import read
from equireg.settings import GridSettings, NetworkSettings
from equireg.spelling import MOST_SEEDS

ROOT = Path(__file__).parent.parent
PRESETS = sorted((ROOT / "workflow" / "presets").glob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(*texts: str, **overrides: Any) -> str:
    """The message for files with these texts, named first.yaml, second.yaml."""
    files = [Path(name) for name, _ in zip(("first.yaml", "second.yaml"), texts, strict=False)]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError) as error:
        load(files, overrides)
    return str(error.value)


def test_config_yaml_spells_the_defaults_out() -> None:
    file = ROOT / "config.yaml"
    assert load([file]) == Configuration()
    written = {
        (name, key)
        for name, section in yaml.safe_load(file.read_text("utf-8")).items()
        for key in (section if isinstance(section, dict) and section else [None])
    }
    assert written == {
        (field.name, key)
        for field in dataclasses.fields(Configuration)
        for key in (
            [sub.name for sub in dataclasses.fields(getattr(Configuration(), field.name))]
            if dataclasses.is_dataclass(getattr(Configuration(), field.name))
            else [None]
        )
    }


@pytest.mark.parametrize("preset", PRESETS, ids=lambda file: file.stem)
def test_presets_are_accepted(preset: Path) -> None:
    for part in ("tests", "examples"):  # data and networks that some have there
        Path(part).symlink_to(ROOT / part)
    made = yaml.safe_load(preset.read_text(encoding="utf-8")).get("data", {}).get("file")
    if made:  # by a script, which its comment names
        Path(made).parent.mkdir(parents=True)
        Path(made).touch()
    for other in PRESETS:  # those that a preset may compare with have been run
        swept = "sweep" in yaml.safe_load(other.read_text(encoding="utf-8"))
        table = Path("results", other.stem, f"{'sweep' if swept else 'evaluation'}.parquet")
        table.parent.mkdir(parents=True)
        table.touch()
    assert load([ROOT / "config.yaml", preset]).experiment == preset.stem


def test_later_files_and_the_command_line_win() -> None:
    Path("a.yaml").write_text("training: {epochs: 2, batch_size: 5}\ngrid: {gammas: [1]}")
    Path("b.yaml").write_text("experiment: b\ntraining: {epochs: 3}\ngrid: {gammas: [2, 3]}")
    chosen = load(["a.yaml", "b.yaml"], {"training": {"batch_size": 7}})
    assert (chosen.training.epochs, chosen.training.batch_size) == (3, 7)
    assert chosen.grid.gammas == (2.0, 3.0)


def test_numbers_that_yaml_takes_for_texts() -> None:
    Path("a.yaml").write_text("training: {learning_rate: 1e-3}\ngrid: {gammas: [1e-4, 1e2, 0, 5]}")
    chosen = load(["a.yaml"])
    assert chosen.training.learning_rate == 1e-3
    assert chosen.grid.gammas == (1e-4, 1e2, 0.0, 5.0)
    assert all(type(gamma) is float for gamma in chosen.grid.gammas)


def test_what_snakemake_makes_of_the_command_line() -> None:
    """Values in a section that comes with --config are texts, all of them."""
    unusual = {"support": "lopsided", "allow_incompatible_support": "True"}
    chosen = load([], {"network": {"channels": ["8", "8"], **unusual}, "grid": {"seeds": "3"}})
    assert chosen.network == NetworkSettings(
        channels=(8, 8), support="lopsided", allow_incompatible_support=True
    )
    assert chosen.grid.seeds == "0-2"


@pytest.mark.parametrize(
    ("seeds", "meant"),
    [
        (30, "0-29"),
        (1, "0"),
        ("0-29", "0-29"),
        ("3, 0-1", "0-1,3"),
        ([2, 0, 1], "0-2"),
        ([7], "7"),
        ("7-7", "7"),
        (["0-3", 9], "0-3,9"),
    ],
)
def test_seeds(seeds: Any, meant: str) -> None:
    assert load([], {"grid": {"seeds": seeds}}).grid == GridSettings(seeds=meant)


BAD = [
    # yaml, key, value, what the answer says
    ("experimnt: x", "experimnt", "'x'", "did you mean experiment?"),
    ("training: {epoch: 3}", "training.epoch", "3", "did you mean epochs?"),
    ("traning: {epochs: 3}", "traning", "{'epochs': 3}", "did you mean training?"),
    ("training:", "training", "null", "a section"),
    ("training: [epochs]", "training", "['epochs']", "a section"),
    ("training: 3", "training", "3", "a section"),
    ("grid: {modes: [augmentd]}", "grid.modes[0]", "'augmentd'", "did you mean augmented?"),
    ("grid: {modes: augmented}", "grid.modes", "'augmented'", "a list"),
    ("grid: {modes: [nominal, nominal]}", "grid.modes", "['nominal', 'nominal']", "each once"),
    ("grid: {modes: []}", "grid.modes", "[]", "one mode or more"),
    ("grid: {modes: [3]}", "grid.modes[0]", "3", "'equivariant', 'augmented' or 'nominal'"),
    ("grid: {gammas: [1, -1]}", "grid.gammas", "-1.0", "0 and more"),
    ("grid: {gammas: [.inf]}", "grid.gammas", "inf", "finite"),
    ("grid: {gammas: [.nan]}", "grid.gammas", "nan", "finite"),
    ("grid: {gammas: [1e999]}", "grid.gammas", "inf", "finite"),
    ("grid: {gammas: [0.01, 1e-2]}", "grid.gammas", "[0.01, 0.01]", "0.01 is repeated"),
    (
        "grid: {gammas: [2001]}",
        "grid.gammas",
        "2001.0",
        "0 to 2000, as explicit steps are unstable",
    ),
    ("grid: {gammas: []}", "grid.gammas", "[]", "one gamma or more, for mode augmented"),
    ("grid: {gammas: 1}", "grid.gammas", "1", "a list"),
    ("grid: {gammas: {a: 1}}", "grid.gammas", "{'a': 1}", "a list"),
    ("grid: {gammas: [[1]]}", "grid.gammas[0]", "[1]", "a number"),
    ("grid: {gammas: [true]}", "grid.gammas[0]", "true", "a number"),
    ("grid: {gammas: [small]}", "grid.gammas[0]", "'small'", "a number"),
    ("grid: {gammas: [null]}", "grid.gammas[0]", "null", "a number"),
    ("grid: {seeds: [0, 1, 0]}", "grid.seeds", "[0, 1, 0]", "each seed once"),
    ("grid: {seeds: '0-3,2'}", "grid.seeds", "'0-3,2'", "each seed once"),
    ("grid: {seeds: 3-1}", "grid.seeds", "'3-1'", "a number of seeds"),
    ("grid: {seeds: 0}", "grid.seeds", "0", "a number of seeds"),
    ("grid: {seeds: -3}", "grid.seeds", "-3", "a number of seeds"),
    ("grid: {seeds: [-1]}", "grid.seeds", "[-1]", "a number of seeds"),
    ("grid: {seeds: 2.5}", "grid.seeds", "2.5", "a number of seeds"),
    ("grid: {seeds: true}", "grid.seeds", "true", "a number of seeds"),
    ("grid: {seeds: []}", "grid.seeds", "[]", "a number of seeds"),
    ("grid: {seeds: null}", "grid.seeds", "null", "a number of seeds"),
    ("grid: {seeds: {a: 1}}", "grid.seeds", "{'a': 1}", "a number of seeds"),
    ("grid: {seeds: 999999999}", "grid.seeds", "999999999", f"at most {MOST_SEEDS} seeds"),
    ("grid: {seeds: 99999999999999}", "grid.seeds", "99999999999999", "a number of seeds"),
    ("grid: {seeds_per_job: 0}", "grid.seeds_per_job", "0", f"1 to {MOST_SEEDS}"),
    (
        "grid: {seeds: 100000, seeds_per_job: 1}",
        "grid.seeds_per_job",
        "1",
        "accepted: more, as there would be 900000 training jobs; 50000 at most",
    ),
    ("grid: {seeds_per_job: true}", "grid.seeds_per_job", "true", "a number"),
    ("training: {epochs: 0}", "training.epochs", "0", "1 to 100000"),
    ("training: {epochs: -1}", "training.epochs", "-1", "1 to 100000"),
    ("training: {epochs: 1.5}", "training.epochs", "1.5", "a whole number"),
    ("training: {epochs: ten}", "training.epochs", "'ten'", "a whole number"),
    ("training: {epochs: [1]}", "training.epochs", "[1]", "a whole number"),
    ("training: {epochs: true}", "training.epochs", "true", "a number"),
    ("data: {train_images: many}", "data.train_images", "'many'", "a whole number"),
    ("data: {train_images: true}", "data.train_images", "true", "a number"),
    ("data: {validation: 1.5}", "data.validation", "1.5", "shares, 0 to below 1, or whole numbers"),
    ("data: {validation: null}", "data.validation", "null", "a number"),
    ("training: {epochs: null}", "training.epochs", "null", "a whole number"),
    (f"training: {{epochs: {10**20}}}", "training.epochs", str(10**20), "1 to 100000"),
    ("training: {epochs: 2026-01-01}", "training.epochs", "datetime.date(2026, 1, 1)", "a whole"),
    ("training: {batch_size: 0}", "training.batch_size", "0", "1 to 1000000"),
    ("training: {batch_size: -10}", "training.batch_size", "-10", "1 to 1000000"),
    ("training: {perturbation: -1e-3}", "training.perturbation", "-0.001", "0 and more"),
    ("training: {perturbation: .nan}", "training.perturbation", "nan", "finite"),
    ("training: {learning_rate: 0}", "training.learning_rate", "0.0", "above 0"),
    ("training: {learning_rate: -1}", "training.learning_rate", "-1.0", "above 0"),
    ("training: {learning_rate: .inf}", "training.learning_rate", "inf", "finite"),
    ("training: {learning_rate: 0.1}", "grid.gammas", "100.0", "0 to 20, as explicit steps"),
    ("training: {risk_scale: none}", "training.risk_scale", "'none'", "'mean' or 'batch'"),
    ("training: {order: random}", "training.order", "'random'", "'file' or 'shuffled'"),
    ("training: {augmentation: exct}", "training.augmentation", "'exct'", "did you mean exact?"),
    (
        "initialization: {distribution: normal}",
        "initialization.distribution",
        "'normal'",
        "uniform",
    ),
    (
        "network: {group: C3}",
        "network.group",
        "'C3'",
        "C1, C2, C4, D1, D2, D4, C8, D8, SO(2), O(2)",
    ),
    (
        "network: {group: C8, build: mine.py:f}",
        "network.group",
        "'C8'",
        "accepted with network.build: C1, C2, C4, D1, D2, D4",
    ),
    (
        "network: {group: O(2)}\ntraining: {augmentation: exact}",
        "training.augmentation",
        "'exact'",
        "accepted with network.group O(2), which has no end of elements: random",
    ),
    (
        "mark_critical: true\nnetwork: {group: SO(2)}",
        "mark_critical",
        "true",
        "accepted with network.group SO(2): false",
    ),
    ("training: {steps: 0}", "training.steps", "0", "1 to 1000000000"),
    ("network: {group: 4}", "network.group", "4", "a text"),
    ("network: {image_size: 30}", "network.image_size", "30", "multiples of 4"),
    ("network: {image_size: 4}", "network.image_size", "4", "from 8 on"),
    ("network: {image_size: 0}", "network.image_size", "0", "1 to 1024"),
    ("network: {channels: [8, 8, 8]}", "network.image_size", "28", "multiples of 8"),
    ("network: {channels: []}", "network.channels", "[]", "one convolution or more"),
    ("network: {channels: [16, 0]}", "network.channels", "0", "1 to 4096"),
    ("network: {channels: [100000]}", "network.channels", "100000", "1 to 4096"),
    ("network: {image_size: 100000}", "network.image_size", "100000", "1 to 1024"),
    ("network: {kernel_size: 101}", "network.kernel_size", "101", "odd numbers, 1 to 99"),
    ("network: {classes: 257}", "network.classes", "257", "2 to 256"),
    ("network: {channels: 16}", "network.channels", "16", "a list"),
    ("network: {classes: 1}", "network.classes", "1", "2 to 256"),
    ("network: {kernel_size: 4}", "network.kernel_size", "4", "odd"),
    ("network: {kernel_size: -3}", "network.kernel_size", "-3", "odd"),
    ("network: {support: round}", "network.support", "'round'", "'full', 'cross' or 'lopsided'"),
    (
        "network: {support: lopsided, kernel_size: 1, allow_incompatible_support: true}",
        "network.kernel_size",
        "1",
        "accepted with network.support lopsided: 3 and more",
    ),
    (
        "network: {representation: fields}",
        "network.representation",
        "'fields'",
        "'trivial' or 'regular'",
    ),
    (
        "network: {channels: [8, 6], representation: regular}",
        "network.channels",
        "[8, 6]",
        "accepted with network.representation regular: multiples of 4",
    ),
    ("network: {image_channels: 0}", "network.image_channels", "0", "1 to 64"),
    ("network: {image_channels: 65}", "network.image_channels", "65", "1 to 64"),
    ("network: {support: lopsided}", "network.support", "'lopsided'", "compatibility condition"),
    (
        "mark_critical: true\nnetwork: {group: C1}",
        "mark_critical",
        "true",
        "accepted with network.group C1: false",
    ),
    (
        "mark_critical: true\ngrid: {modes: [nominal]}",
        "mark_critical",
        "true",
        "accepted with grid.modes ['nominal']: false",
    ),
    (
        "network: {allow_incompatible_support: 1}",
        "network.allow_incompatible_support",
        "1",
        "true or false",
    ),
    ("jobs: {threads: 0}", "jobs.threads", "0", "1 to 1024"),
    ("jobs: {threads: 100000}", "jobs.threads", "100000", "1 to 1024"),
    ("jobs: {threads: 1.5}", "jobs.threads", "1.5", "a whole number"),
    ("jobs: {step: compild}", "jobs.step", "'compild'", "did you mean compiled?"),
    (
        "jobs: {step: compiled, device: cuda}",
        "jobs.step",
        "'compiled'",
        "accepted with jobs.device cuda: auto or reference",
    ),
    ("jobs: {device: gpu}", "jobs.device", "'gpu'", "'auto', 'cpu' or 'cuda'"),
    ("experiment: ../x", "experiment", "'../x'", "no '/'"),
    ("experiment: a/b", "experiment", "'a/b'", "no '/'"),
    ("experiment: ..", "experiment", "'..'", "letters"),
    ("experiment: .hidden", "experiment", "'.hidden'", "letters"),
    ("experiment: -rf", "experiment", "'-rf'", "letters"),
    ("experiment: x; rm -r y", "experiment", "'x; rm -r y'", "letters"),
    ("experiment: $(id)", "experiment", "'$(id)'", "letters"),
    ('experiment: "x\\n"', "experiment", r"'x\n'", "letters"),
    ("experiment: é", "experiment", "'é'", "letters"),
    ('experiment: "a\\u202eb"', "experiment", r"'a\u202eb'", "letters"),
    ("experiment: /etc", "experiment", "'/etc'", "no '/'"),
    ("experiment: ''", "experiment", "''", "letters"),
    ("experiment: '{mode}'", "experiment", "'{mode}'", "letters"),
    ("experiment: data", "experiment", "'data'", "results/data/ holds the data sets"),
    ("experiment: 2026", "experiment", "2026", "in quotes"),
    ("experiment: [a]", "experiment", "['a']", "a text"),
    ("experiment: null", "experiment", "null", "a text"),
    ("data: {name: ../mnist}", "data.name", "'../mnist'", "up to 100 lower-case letters, digits"),
    ("data: {name: -x}", "data.name", "'-x'", "letters"),
    ("data: {name: $(id)}", "data.name", "'$(id)'", "letters"),
    ("data: {name: 'a b'}", "data.name", "'a b'", "letters"),
    ("data: {name: MNIST}", "data.name", "'MNIST'", "lower-case"),
    ("data: {name: digits}", "data.name", "'digits'", "mnist, fashion-mnist, kmnist"),
    ("data: {name: mnist, file: a.npz}", "data.name", "'mnist'", "data.file: a name of its own"),
    ("data: {file: a.npz}", "data.name", "'mnist'", "data.file: a name of its own"),
    ("data: {name: rotated-mnist, folder: .}", "data.name", "'rotated-mnist'", "a name of its own"),
    ("data: {folder: nowhere}", "data.folder", "'nowhere'", "a folder that exists"),
    ("data: {folder: first.yaml}", "data.folder", "'first.yaml'", "a folder that exists"),
    ("data: {folder: ''}", "data.folder", "''", "a folder that exists"),
    ('data: {folder: "a\\0b"}', "data.folder", r"'a\x00b'", "a folder that exists"),
    ("data: {folder: 3}", "data.folder", "3", "a text"),
    ("data: {folder: '{seeds}'}", "data.folder", "'{seeds}'", "folders without { and }"),
    ("data: {folder: ~no-such-user/x}", "data.folder", "'~no-such-user/x'", "a folder that exists"),
    ("__use_yte__: true", "__use_yte__", "true", "no such key"),
]


def section_of(key: str) -> str:
    """The section that a row of BAD is about; the keys that are in none are the experiment's."""
    name = re.split(r"[.\[]", key)[0]
    return name if "." in key or name in SECTIONS else "experiment"


SECTIONS = ("data", "network", "initialization", "training", "grid", "jobs")


@pytest.mark.parametrize("section", ["experiment", *SECTIONS])
def test_one_line_names_file_key_value_and_what_is_accepted(section: str) -> None:
    rows = [row for row in BAD if section_of(row[1]) == section]
    assert rows
    wrong = []
    for text, key, value, answer in rows:
        message = refused(text)
        leaf = re.split(r"[.\[]", key)[1 if "." in key else 0]
        named = "first.yaml" if leaf in text else "the defaults"
        start = f"{named}: {key} is {value}; "
        if "\n" in message or not message.startswith(start) or answer not in message:
            wrong.append(f"{text}: {message}")
    assert wrong == []


NO_CONFIGURATION = [
    ("", "holds null"),
    ("- experiment", "holds ['experiment']"),
    ("experiment", "holds 'experiment'"),
    ("training: {epochs: 1", "is not YAML"),
    ("training:\n\tepochs: 1", "is not YAML"),
    ("training: {epochs: 1, epochs: 2}", "'epochs' comes twice"),
    ("a: &a [*a]\nb: *c", "*a stands for another value; write the value itself"),
    ("training: &a {epochs: *a}", "*a stands for another value"),
    ("grid: {gammas: &a [1], seeds: *a}", "*a stands for another value"),
    ("training: {5: 6}", "the key 5 is not a text"),
    ("null: 3", "the key None is not a text"),
    ("? [a]\n: b", "is not YAML"),
    ("experiment: a\n---\nexperiment: b", "is not YAML"),
    ("training: {<<: 5}", "is not YAML"),
    ("%", "is not YAML"),
    ("experiment: x\0", "is not YAML"),
    ("x: !!python/object/apply:os.system [id]", "is not YAML"),
    ("x: 2026-99-99", "is not YAML"),
    ("[" * 5000, "is not YAML"),
]


def test_a_file_that_is_no_configuration() -> None:
    wrong = []
    for text, answer in NO_CONFIGURATION:
        message = refused(text)
        if "\n" in message or not message.startswith("first.yaml: ") or answer not in message:
            wrong.append(f"{text[:40]}: {message}")
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"experiment: {'x' * 101}", "experiment is 'xxx...xxx'; accepted: up to 100 letters"),
        (f"data: {{folder: {'x' * 300}}}", "data.folder is 'xxx...xxx'; accepted: a folder that"),
        (f"data: {{folder: {'x/' * 3000}}}", "data.folder is 'x/x...x/'; accepted: a folder that"),
    ],
    ids=["name", "folder", "path"],
)
def test_a_long_value_is_shortened(text: str, line: str) -> None:
    message = refused(text)
    assert len(message) < 200
    assert re.sub(r"'(...).*(\.\.\.).*(..x|x/)'", r"'\1\2\3'", message).startswith(
        f"first.yaml: {line}"
    )


def test_only_the_first_of_many_mistakes_are_shown() -> None:
    lines = refused("".join(f"key{i}: 0\n" for i in range(1000))).splitlines()
    assert len(lines) == 21
    assert lines[-1] == "and 980 more mistakes"


def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(ConfigurationError, match=r"^none.yaml: is not there; accepted: "):
        read(Path("none.yaml"))
    Path("binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match=r"^binary.yaml: is not YAML"):
        read(Path("binary.yaml"))


def test_the_file_named_is_the_one_that_holds_the_key() -> None:
    first, second = "training: {epochs: 0}", "training: {batch_size: 5}"
    assert refused(first, second).startswith("first.yaml: training.epochs")
    assert refused(second, first).startswith("second.yaml: training.epochs")
    assert refused(second, training={"epochs": 0}).startswith("the command line (--config): ")


def test_every_mistake_has_its_line() -> None:
    lines = refused("training: {epochs: 0, batch_size: 0}", "jobs: {threads: 0}").splitlines()
    assert [line.split(" is ")[0] for line in lines] == [
        "first.yaml: training.epochs",
        "first.yaml: training.batch_size",
        "second.yaml: jobs.threads",
    ]


def test_what_is_unusual_and_accepted() -> None:
    load([], {"grid": {"gammas": [0], "modes": ["nominal"]}})
    load([], {"grid": {"gammas": [], "modes": ["equivariant"]}})
    load([], {"grid": {"gammas": [2000]}})
    load([], {"network": {"support": "lopsided", "allow_incompatible_support": True}})
    load([], {"network": {"support": "cross", "group": "D4"}})
    load([], {"network": {"support": "lopsided", "group": "C1"}})
    load([], {"network": {"channels": [4], "image_size": 6, "kernel_size": 1}})
    load([], {"network": {"channels": [8, 6], "representation": "regular", "group": "C2"}})
    load([], {"network": {"image_channels": 3, "image_size": 32}})
    load([], {"experiment": "2026-01_a.b", "training": {"perturbation": 0}})
    Path("folder").mkdir()
    load([], {"data": {"name": "my-digits", "folder": "folder"}})


@pytest.mark.parametrize("support", ["full", "cross", "lopsided"])
@pytest.mark.parametrize("group", ["C1", "D4"])
def test_an_incompatible_support_is_allowed_only_where_there_is_one(
    support: str, group: str
) -> None:
    network = {"support": support, "group": group, "allow_incompatible_support": True}
    allowed = load([], {"network": network}).network.allow_incompatible_support
    assert allowed == (support == "lopsided" and group == "D4")


PAPER = "experiment: paper\ntraining: {epochs: 10}"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("training: {epochs: 1}", "training.epochs is 1; accepted in experiment paper: 10; "),
        ("training: {order: shuffled}", "training.order is 'shuffled'; "),
        ("network: {group: D4}", "network.group is 'D4'; "),
        ("initialization: {distribution: uniform}", "initialization.distribution is 'uniform'; "),
        ("data: {name: kmnist}", "data.name is 'kmnist'; accepted in experiment paper: 'mnist'; "),
        ("data: {folder: .}", "data.folder is '.'; accepted in experiment paper: null; "),
        ("experiment: paper\ntraining: {epochs: 1}", "training.epochs is 1; "),
    ],
)
def test_another_experiment_needs_a_name_of_its_own(change: str, line: str) -> None:
    message = refused(PAPER, change)
    assert message.startswith(f"second.yaml: {line}")
    assert "give it an experiment of its own" in message
    assert "results/paper" in message
    overrides = yaml.safe_load(change)
    assert refused(PAPER, **overrides).startswith(f"{COMMAND_LINE}: {line}")
    assert load(["first.yaml"], overrides | {"experiment": "mine"}).experiment == "mine"


@pytest.mark.parametrize(
    "change",
    [
        "grid: {seeds: 40, gammas: [1], seeds_per_job: 5, modes: [nominal]}",
        "jobs: {threads: 2, device: cpu}",
        "training: {epochs: 10, learning_rate: 0.001}",  # as they are
    ],
)
def test_what_the_same_experiment_may_change(change: str) -> None:
    Path("first.yaml").write_text(PAPER)
    Path("second.yaml").write_text(change)
    assert load(["first.yaml", "second.yaml"]).experiment == "paper"
    assert load(["first.yaml"], yaml.safe_load(change)).experiment == "paper"


def test_a_results_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("results").write_text("a file")
    assert refused("experiment: mine").startswith(
        "first.yaml: experiment is 'mine'; results cannot be written; accepted: "
    )
    Path("results").unlink()
    Path("results").symlink_to("nowhere")
    assert "results cannot be written" in refused("experiment: mine")
    Path("results").unlink()
    Path("results/mine").mkdir(parents=True)
    load([], {"experiment": "mine"})
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "results/mine")
    assert "results/mine cannot be written" in refused("experiment: mine")
    load([], {"experiment": "other"})


def test_a_comparison_needs_what_it_compares_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused("compare: [other]")
    assert (
        "compare is 'other'; accepted: experiments that have been run, with evaluation.parquet in "
        "results/other/"
    ) in said
    assert "names of experiments" in refused("compare: ['../x']")
    Path("results/other").mkdir(parents=True)
    Path("results/other/evaluation.parquet").touch()
    assert load([], {"compare": ["other"]}).compare == ("other",)
    sweep = "experiment: s, sweep: {training.epochs: [1, 2]}"
    said = refused(f"{{{sweep}, compare: [other]}}")
    assert "accepted: sweeps that have been run, with sweep.parquet in results/other/" in said
    Path("results/other/sweep.parquet").touch()
    swept = {"experiment": "s", "sweep": {"training.epochs": [1, 2]}, "compare": ["other"]}
    assert load([], swept).compare == ("other",)
    assert "each once; other is repeated" in refused("compare: [other, other]")
    assert "other than this one" in refused("{experiment: other, compare: [other]}")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=5,
)
sections = st.sampled_from([f.name for f in dataclasses.fields(Configuration)]) | st.text(
    max_size=9
)
keys = st.sampled_from(
    [
        field.name
        for section in dataclasses.fields(Configuration)
        if dataclasses.is_dataclass(getattr(Configuration(), section.name))
        for field in dataclasses.fields(getattr(Configuration(), section.name))
    ]
)


@given(st.dictionaries(sections, st.dictionaries(keys, values, max_size=3) | values, max_size=3))
def test_nothing_gives_a_traceback(overrides: dict[str, Any]) -> None:
    try:
        load([], overrides)
    except ConfigurationError as error:
        lines = str(error).split("\n")
    else:
        lines = []
    assert all(re.match(r"the (command line|defaults)", line) for line in lines)


def test_a_file_runs_nothing(tmp_path: Path) -> None:
    file, trace = tmp_path / "x.yaml", tmp_path / "trace"
    file.write_text(f'experiment: !!python/object/apply:os.system ["touch {trace}"]\n')
    with pytest.raises(ConfigurationError, match="could not determine a constructor"):
        load([file])
    assert not trace.exists()
