"""The workflow itself: what it plans, what it runs again, what it refuses."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from browser import needs_browser, shown
from checkout import ENVIRONMENT, ROOT, SMALL, SUFFIXES, copy_repository, snakemake, wait_for
from equireg import binding
from equireg.config import load
from equireg.jobs.aggregate import aggregate
from equireg.tables import write_table

NOTHING = "Nothing to be done"


def planned(*words: str, cwd: Path) -> dict[str, int]:
    """The number of jobs per rule that a dry run plans."""
    done = snakemake("--dry-run", *words, cwd=cwd)
    assert done.returncode == 0, done.stdout
    if NOTHING in done.stdout:
        return {}
    table = done.stdout.split("Job stats:")[1].split("total")[0]
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}
    assert jobs.pop("all") == 1
    return jobs


@pytest.fixture(scope="session")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which nothing has run."""
    return copy_repository(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository in which the smallest experiment has run to its end."""
    folder = copy_repository(tmp_path_factory.mktemp("finished"))
    done = snakemake(*SMALL, "--cores", "2", cwd=folder)
    assert done.returncode == 0, done.stdout
    return folder


@contextlib.contextmanager
def edited(file: Path, text: str) -> Iterator[None]:
    """The file with ``text`` at its end, for a while."""
    before = file.read_text(encoding="utf-8")
    file.write_text(before + text, encoding="utf-8")
    try:
        yield
    finally:
        file.write_text(before, encoding="utf-8")


@pytest.mark.slow
def test_a_workflow_of_another_s_has_it_as_a_module(untouched: Path, tmp_path: Path) -> None:
    """As snakedeploy writes it; results go beside the other's, its configuration counts."""
    lines = [
        'configfile: "config/config.yaml"',
        "module equireg:",
        f'    snakefile: "{untouched}/Snakefile"',
        "    config: config",
        "use rule * from equireg",
    ]
    (tmp_path / "Snakefile").write_text("\n".join(lines))
    (tmp_path / "config").mkdir()
    chosen = tmp_path / "config" / "config.yaml"
    chosen.write_text("experiment: mine\ngrid: {seeds: 2, gammas: [1]}\n")
    assert planned(cwd=tmp_path)["train"] == 3
    done = snakemake("--cores", "2", "--until", "initialize", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "results/mine/initial/seeds-000-001.safetensors").is_file()
    chosen.write_text("grid: {gammas: [-1]}\n")
    done = snakemake("--dry-run", cwd=tmp_path)
    assert done.returncode
    assert "grid.gammas is -1" in done.stdout


def test_a_repository_elsewhere_as_snakedeploy_names_it(tmp_path: Path) -> None:
    """From a clone in Snakemake's cache, so without a network; its commit is unpacked for jobs."""
    if shutil.which("git") is None:
        pytest.skip("needs git")
    source = copy_repository(tmp_path / "source")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(source)]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"], ["tag", "v1"]):
        subprocess.run([*git, *words], check=True)
    cache = "cache/snakemake/snakemake/source-cache/snakemake-git-cache/github.com/owner/equireg"
    clone = ["git", "clone", "-q", "--bare", str(source), str(tmp_path / cache)]
    subprocess.run(clone, check=True)
    mine = tmp_path / "mine"
    for part in ("workflow", "config"):
        (mine / part).mkdir(parents=True)
    shutil.copy(ROOT / "config/config.yaml", mine / "config")  # what snakedeploy copies
    (mine / "workflow/Snakefile").write_text(
        'configfile: "config/config.yaml"\nmodule equireg:\n'
        '    snakefile: github("owner/equireg", path="Snakefile", tag="v1")\n'
        "    config: config\nuse rule * from equireg\n"
    )
    environment = {**ENVIRONMENT, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    asked = ("--cores", "1", "--until", "initialize", "--config", "grid={'seeds': 1}")
    done = snakemake(*asked, cwd=mine, environment=environment)
    assert done.returncode == 0, done.stdout
    assert (mine / "results/paper/initial/seeds-000-000.safetensors").is_file()
    (unpacked,) = (mine / ".snakemake/equireg").iterdir()
    assert (unpacked / "src/equireg/cli.py").is_file()


GAMMAS = "1e-2", "1e2"  # of the smallest experiment
LAST = {"aggregate": 1, "check": 1, "compare": 1, "draw": 1, "overview": 1, "score": 1}
PREDICT = {"predict": 1}


def test_the_paper(untouched: Path) -> None:
    jobs = planned(cwd=untouched)
    assert jobs == {"fetch": 1, "initialize": 3, "train": 27, "evaluate": 9, **PREDICT, **LAST}


def test_quick(untouched: Path) -> None:
    jobs = planned("--configfile", "workflow/presets/quick.yaml", cwd=untouched)
    assert jobs == {"fetch": 1, "initialize": 1, "train": 9, "evaluate": 9, **PREDICT, **LAST}


def test_one_seed_per_job_and_the_profile_for_slurm(untouched: Path) -> None:
    grid = "grid={'seeds': 4, 'seeds_per_job': 1, 'modes': [equivariant, nominal], 'gammas': [0]}"
    done = snakemake("--dry-run", "--profile", "slurm", "--config", grid, cwd=untouched)
    assert done.returncode == 0, done.stdout
    assert re.search(r"^train +8$", done.stdout, re.MULTILINE)
    assert "results/paper/runs/nominal/gamma-0/seeds-003-003.parquet" in done.stdout


def test_all_gammas_in_one_job(untouched: Path) -> None:
    """All gammas of a mode; the equivariant mode has none."""
    stacked = "--config", "jobs={'stack_gammas': True}"
    jobs = planned(*stacked, cwd=untouched)
    assert jobs == {
        "fetch": 1,
        "initialize": 3,
        "train": 3,
        "train_stacked": 6,
        "evaluate": 9,
        **PREDICT,
        **LAST,
    }
    said = snakemake("--dry-run", "--profile", "slurm", *stacked, cwd=untouched).stdout
    gammas = "--gamma 1e-4 --gamma 1e-2 --gamma 1e0 --gamma 1e2"
    assert f"equireg train --mode nominal {gammas} --seeds 10-19 --output " in said


def test_without_the_equivariant_mode_there_is_no_twin(untouched: Path) -> None:
    grid = "grid={'seeds': 3, 'modes': [augmented, nominal]}"
    done = snakemake("--dry-run", "--config", grid, cwd=untouched)
    assert done.returncode == 0, done.stdout
    assert "equireg evaluate" in done.stdout
    assert "--twins" not in done.stdout


def test_equivariant_runs_alone_have_tables_and_no_figures(untouched: Path) -> None:
    """They are at distance 0, which no logarithmic axis shows."""
    jobs = planned("--config", "grid={'modes': [equivariant], 'gammas': []}", cwd=untouched)
    assert jobs == {
        "fetch": 1,
        "initialize": 3,
        "train": 3,
        "evaluate": 1,
        **PREDICT,
        **dict.fromkeys(("aggregate", "check", "score"), 1),
    }


def test_the_default_profile_shows_commands(untouched: Path) -> None:
    """Without an option: so that they can be pasted."""
    said = snakemake("--dry-run", cwd=untouched).stdout
    assert "profiles/default" in said
    assert re.search(r"python -m equireg train --mode equivariant --seeds 0-9 --output ", said)
    assert re.search(r"python -m equireg train --mode nominal --gamma 1e-2 --seeds 10-19 ", said)


def test_the_theory_is_part_of_the_result_once_it_was_asked_for(tmp_path: Path) -> None:
    folder = copy_repository(tmp_path)
    assert "theory" not in planned(cwd=folder)
    theory = folder / "results/paper/theory.md"
    theory.parent.mkdir(parents=True)
    theory.touch()
    said = snakemake("--dry-run", cwd=folder).stdout
    assert "--document results/paper/claims.md" in said
    assert "--document results/paper/theory.md" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config", "experimnt=x"], "the command line (--config): experimnt is 'x'; "),
        (["--config", "experiment=a;b"], "the command line (--config): experiment is 'a;b'; "),
        (["--config", "training={'epochs': 1}"], "the command line (--config): training.epochs is"),
        (["--configfile", "bad.yaml"], "bad.yaml: training.epochs is 0; accepted: 1 to 100000"),
    ],
)
def test_a_bad_configuration_is_one_line(untouched: Path, words: list[str], line: str) -> None:
    (untouched / "bad.yaml").write_text("training: {epochs: 0}")
    done = snakemake(*words, "--cores", "1", cwd=untouched)
    assert done.returncode == 1
    (said,) = [text for text in done.stdout.splitlines() if not text.startswith("Using ")]
    assert said.startswith(f"equireg: {line}")
    assert not (untouched / "results").exists()


def test_a_mistake_is_blamed_on_its_file_wherever_commands_are_run(
    untouched: Path, tmp_path: Path
) -> None:
    """With --directory, through a link, and for a module, whose configuration is its own."""
    preset, folder = tmp_path / "my presets" / "mine.yaml", tmp_path / "elsewhere"
    preset.parent.mkdir()
    preset.write_text("experiment: mine\ntraining: {epochs: 0}")
    folder.mkdir()
    (tmp_path / "link").symlink_to(untouched)
    line = "equireg: ../my presets/mine.yaml: training.epochs is 0; accepted: 1 to 100000"
    own = ("--configfile", str(preset), "--dry-run")
    for words, cwd in (
        (("--snakefile", f"{untouched}/Snakefile", "--directory", str(folder)), tmp_path),
        (("--snakefile", "../link/Snakefile"), folder),
    ):
        done = snakemake(*words, *own, cwd=cwd)
        assert done.returncode == 1
        assert line in done.stdout.splitlines()
    (folder / "config.yaml").write_text("experiment: there\ntraining: {order: any}")
    done = snakemake("--snakefile", "../link/Snakefile", "--dry-run", cwd=folder)
    assert "equireg: config.yaml: training.order is 'any'; " in done.stdout
    (folder / "Snakefile").write_text(
        f'module equireg:\n    snakefile: "{untouched}/Snakefile"\n'
        '    config: {"grid": {"gammas": [-1]}}\nuse rule * from equireg\n'
    )
    done = snakemake("--dry-run", cwd=folder)
    assert "equireg: the configuration of the module: grid.gammas is -1" in done.stdout


def test_a_config_yaml_that_is_not_yaml(tmp_path: Path) -> None:
    folder = copy_repository(tmp_path)
    with (folder / "config.yaml").open("a") as file:
        file.write("\njobs: [\n")
    done = snakemake("--cores", "1", cwd=folder)
    assert done.returncode == 1
    (said,) = [text for text in done.stdout.splitlines() if not text.startswith("Using ")]
    assert said.startswith("equireg: config.yaml: is not YAML: ")


@pytest.mark.parametrize("compiler", ["", "/bin/false"])
def test_the_step_is_said_when_trainings_start(tmp_path: Path, compiler: str) -> None:
    """Once, and why where it is the slow one; nothing is said where none is to run."""
    folder = copy_repository(tmp_path / "checkout")
    environment = {**ENVIRONMENT, "CXX": compiler, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    if compiler:  # and no other: the usual ones are played by it, too
        (tmp_path / "bin").mkdir()
        for name in ("c++", "g++", "clang++"):
            (tmp_path / "bin" / name).symlink_to(compiler)
        environment["PATH"] = f"{tmp_path}/bin:{ENVIRONMENT['PATH']}"
    elif not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("needs a C++ compiler")
    epochs = ("--config", "training={'epochs': 1}", "experiment=short")
    wanted = "results/short/runs/equivariant/gamma-none/seeds-002-002.parquet"
    done = snakemake(*SMALL, *epochs, "--cores", "1", wanted, cwd=folder, environment=environment)
    assert done.returncode == 0, done.stdout
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("training here: ")]
    slow = "the reference step, mostly several times slower, as /bin/false failed"
    assert line.removeprefix("training here: ").startswith(
        slow if compiler else "the step compiled for this machine"
    )
    again = snakemake(*SMALL, *epochs, "--cores", "1", wanted, cwd=folder, environment=environment)
    assert "training here" not in again.stdout


LIMIT = """
import sys
from snakemake import cli
from snakemake.scheduling.job_scheduler import JobScheduler

def schedule(self):  # in the place of running jobs
    limiter = self.job_rate_limiter
    print("limit", limiter and limiter.max_jobs)
    return True

JobScheduler.schedule = schedule
cli.main()
"""


@pytest.mark.parametrize(("words", "limit"), [([], "None"), (["5/1s"], "5")])
def test_ready_jobs_are_not_looked_through_again_and_again(
    tmp_path: Path, words: list[str], limit: str
) -> None:
    """Snakemake's default limit does so, once a second for each job that has ended."""
    tree = copy_repository(tmp_path / "checkout")
    chosen = ["--max-jobs-per-timespan", *words] if words else []
    command = [sys.executable, "-c", LIMIT, "--cores", "1", "--quiet", "all", *chosen]
    done = subprocess.run(
        command, cwd=tree, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert f"limit {limit}" in done.stdout, done.stderr


def test_a_failed_job_shows_what_it_said(tmp_path: Path) -> None:
    folder = copy_repository(tmp_path)
    for file in (folder / "tests/data/digits").iterdir():
        file.write_bytes(b"no images")
    done = snakemake(*SMALL, "--cores", "1", cwd=folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    said = (folder / "results/data/logs/digits.log").read_text()
    (error,) = [line for line in said.splitlines() if line.startswith("equireg: ")]
    assert error in done.stdout


@pytest.mark.slow
class TestFinished:
    """What a finished experiment runs again, asked by dry runs; each leaves it as it was."""

    def test_its_files(self, finished: Path) -> None:
        folder = finished / "results" / "test"
        blocks = [path.relative_to(folder / "runs") for path in folder.glob("runs/**/*.json")]
        assert sorted(map(str, blocks)) == [
            f"{run}/seeds-{seeds}.json"
            for run in (
                "augmented/gamma-1e-2",
                "augmented/gamma-1e2",
                "equivariant/gamma-none",
                "nominal/gamma-1e-2",
                "nominal/gamma-1e2",
            )
            for seeds in ("000-001", "002-002")
        ]
        for name in ("trajectories", "summary", "evaluation", "ensembles", "function"):
            assert (folder / f"{name}.parquet").stat().st_size > 0
        assert (folder / "figures/figure2.pdf").read_bytes().startswith(b"%PDF")
        for name in ("figure2", "function"):
            assert (folder / f"figures/{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / "figures/figure2.html").read_bytes().startswith(b"<!DOCTYPE html>")
        assert (folder / "claims.md").read_text().strip()
        assert (folder / "predictions.md").read_text().count("| 1e2 | ") == 2
        assert len(list(folder.glob("logs/train/**/*.log"))) == 10
        assert len(list(folder.glob("benchmarks/train/**/*.tsv"))) == 10

    @pytest.mark.parametrize(
        "name", ["trajectories", "summary", "evaluation", "ensembles", "function", "predictions"]
    )
    def test_the_data_dictionary(self, finished: Path, name: str) -> None:
        """docs/data.md has every column of the table and no other."""
        text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
        said = text.split(f"## {name}.parquet")[1].split("\n## ")[0]
        cells = re.findall(r"^\| (`.*?) \|", said, re.MULTILINE)
        names = [word for cell in cells for word in re.findall(r"`(.+?)`", cell)]
        layers = ("conv1", "conv2", "linear")
        spelled = {word.replace("<layer>", layer) for word in names for layer in layers}
        assert spelled == set(pq.read_schema(finished / f"results/test/{name}.parquet").names)

    def test_where_results_came_from_is_documented(self, finished: Path) -> None:
        """docs/data.md has every key of the two JSON files and no other."""
        text = (ROOT / "docs/data.md").read_text(encoding="utf-8")
        said = text.split("## Where a block came from")[1].split("\n## ")[0]
        tables = [
            {
                key
                for row in re.findall(r"^\| (`.*?) \|", table, re.M)
                for key in row.split("`")[1::2]
            }
            for table in said.split("`results/data/<name>.json`")
        ]
        block = "results/test/runs/nominal/gamma-1e2/seeds-002-002.json"
        files = [
            json.loads((finished / n).read_text()) for n in (block, "results/data/digits.json")
        ]
        assert set(files[0]) == tables[0]
        both = {"equireg", "commit", "python", "libraries", "machine"}
        assert set(files[1]) == tables[1] | both

    def test_the_readmes_table(self, finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The columns that it reads are there."""
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        (code,) = re.findall(r"^```python\n(import pandas as pd\n.*?)^```", text, re.M | re.S)
        monkeypatch.chdir(finished)
        exec(code.replace("results/paper", "results/test"), {})

    def test_nothing(self, finished: Path) -> None:
        assert planned(*SMALL, cwd=finished) == {}

    def test_nothing_through_a_link(self, finished: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(finished)
        assert planned(*SMALL, "--snakefile", f"{tmp_path}/link/Snakefile", cwd=finished) == {}

    @pytest.mark.parametrize(
        ("module", "jobs"),
        [
            ("training/step", {"train": 10, "evaluate": 5, **PREDICT, **LAST}),
            ("jobs/train", {"train": 10, "evaluate": 5, **LAST}),
            (
                "jobs/initialize",
                {"initialize": 3, "train": 10, "evaluate": 5, **PREDICT, **LAST},
            ),
            ("jobs/evaluate", {"evaluate": 5, **LAST}),
            ("jobs/aggregate", LAST),
            ("jobs/predict", {"predict": 1, "score": 1, "draw": 1, "overview": 1}),
            ("jobs/score", {"score": 1}),
            ("jobs/draw", {"draw": 1, "overview": 1}),
            ("jobs/check", {"check": 1, "overview": 1}),
            ("claims/criteria", {"check": 1, "overview": 1}),
            ("jobs/compare", {"compare": 1, "overview": 1}),
            ("jobs/overview", {"overview": 1}),
            ("jobs/fetch", {}),
            ("settings", {}),
            ("cli", {}),
        ],
    )
    def test_changed_code(self, finished: Path, module: str, jobs: dict[str, int]) -> None:
        file = finished / "src" / "equireg" / f"{module}.py"
        with edited(file, "\n_CHANGED = True\n"):
            assert planned(*SMALL, cwd=finished) == jobs

    def test_a_changed_comment(self, finished: Path) -> None:
        with edited(finished / "src/equireg/training/step.py", "\n# A comment.\n"):
            assert planned(*SMALL, cwd=finished) == {}

    def test_more_seeds_train_only_those(self, finished: Path) -> None:
        more = ("--config", "grid={'seeds': '0-2,4-5'}")
        jobs = planned(*SMALL, *more, cwd=finished)
        assert jobs == {"initialize": 1, "train": 5, "evaluate": 5, **LAST}

    def test_another_gamma_trains_only_that(self, finished: Path) -> None:
        more = ("--config", "grid={'gammas': [0.01, 1, 100]}")
        assert planned(*SMALL, *more, cwd=finished) == {
            "train": 4,
            "evaluate": 2,
            **PREDICT,
            **LAST,
        }

    @pytest.mark.parametrize(
        ("section", "runs"),
        [
            ("{'learning_rate': 0.002}", 10),
            # Four blocks are augmented, four nominal, two equivariant: what a mode does not read.
            ("{'augmentation': exact}", 4),
            ("{'perturbation': 0.01}", 8),
        ],
    )
    def test_other_settings_are_refused_or_train_anew(
        self, finished: Path, section: str, runs: int
    ) -> None:
        other = ("--config", f"training={section}")
        done = snakemake(*SMALL, "--dry-run", *other, cwd=finished)
        assert done.returncode == 1
        (line,) = [text for text in done.stdout.splitlines() if text.startswith("equireg: ")]
        assert f" and {runs - 1} more: trained with training." in line
        assert "overwrite: true" in line
        jobs = planned(*SMALL, *other, "overwrite=true", cwd=finished)
        # a job evaluates all seeds of a mode and gamma, two blocks
        assert jobs == {"train": runs, "evaluate": runs // 2, **PREDICT, **LAST}

    def test_another_file_in_the_folder_of_the_data(self, finished: Path) -> None:
        file = max((finished / "tests/data/digits").glob("train-labels*"))
        before = file.read_bytes()
        file.touch()
        assert planned(*SMALL, cwd=finished) == {}  # it counts by content
        file.write_bytes(before + b"\0")
        try:
            done = snakemake(*SMALL, "--dry-run", cwd=finished)
            jobs = planned(*SMALL, "--config", "overwrite=true", cwd=finished)
        finally:
            file.write_bytes(before)
        assert done.returncode == 1
        assert "other files in data.folder" in done.stdout
        assert jobs == {"fetch": 1, "train": 10, "evaluate": 5, **PREDICT, **LAST}
        assert planned(*SMALL, cwd=finished) == {}

    def test_results_move_to_another_checkout(self, finished: Path, tmp_path: Path) -> None:
        """Without what Snakemake knows of them; with their times, and with new ones."""
        folder = copy_repository(tmp_path)
        shutil.copytree(finished / "results", folder / "results")  # with their times
        own = ("--configfile", "results/test/configuration.yaml")
        assert planned(*SMALL, cwd=folder) == planned(*own, cwd=folder) == {}
        for age, file in enumerate(sorted((folder / "results").rglob("*"))):
            os.utime(file, (1e9 + age, 1e9 + age))
        assert set(planned(*SMALL, cwd=folder)) <= set(LAST)
        done = snakemake(*own, "--cores", "1", cwd=folder)
        assert done.returncode == 0, done.stdout
        for file in folder.glob("results/**/*.parquet"):
            assert file.read_bytes() == (finished / file.relative_to(folder)).read_bytes(), file
        other = ("--config", "training={'learning_rate': 0.01}", "grid={'seeds': 5}")
        done = snakemake(*SMALL, *other, "--cores", "1", cwd=folder)
        assert done.returncode == 1
        assert "trained with training.learning_rate 0.001, not 0.01" in done.stdout
        for file in (folder / "results").rglob("*.*"):  # the clock was a year ahead
            os.utime(file, (time.time() + 3e7,) * 2)
        (folder / "results/test/summary.parquet").unlink()
        done = snakemake(*own, "--cores", "1", cwd=folder)
        assert done.returncode == 0, done.stdout
        assert planned(*SMALL, cwd=folder) == {}
        (folder / "results/data/digits.safetensors").unlink()
        assert planned(*SMALL, cwd=folder) == {"fetch": 1}

    def test_a_block_of_other_settings_is_not_mixed_in(
        self, finished: Path, tmp_path: Path
    ) -> None:
        """Put there by hand, and read by hand: the workflow refuses it, and so do its jobs."""
        folder = tmp_path / "test"
        shutil.copytree(finished / "results/test", folder)
        grid = load([finished / "config.yaml", finished / SMALL[1]]).grid
        odd = folder / "runs/nominal/gamma-1e2/seeds-002-002.parquet"
        made = binding.read(odd)
        made["training"]["learning_rate"] = 0.01
        write_table(odd, pq.read_table(odd), made)
        with pytest.raises(ValueError, match=rf"^{odd}: training.learning_rate is 0.01, but 0.001"):
            aggregate(folder, grid)

    def test_a_killed_snakemake_goes_on(self, finished: Path) -> None:
        """Killed while a job runs, which ends by itself and whose files nobody has checked."""
        claims, log = (finished / "results/test" / name for name in ("claims.md", "logs/check.log"))
        before = claims.read_bytes()
        claims.unlink()
        log.unlink()
        running = subprocess.Popen(
            [sys.executable, "-m", "snakemake", *SMALL, "--cores", "1"],
            cwd=finished,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for(log)
        running.kill()
        assert running.wait() == -signal.SIGKILL
        wait_for(claims)
        said = snakemake(*SMALL, "--cores", "1", cwd=finished).stdout
        assert "--unlock" in said
        assert snakemake(*SMALL, "--unlock", cwd=finished).returncode == 0
        said = snakemake(*SMALL, "--dry-run", "--workflow-profile", "none", cwd=finished).stdout
        assert "IncompleteFilesException" in said  # the default profile says what to do with them
        for profile in ((), ("--profile", "slurm")):
            assert planned(*SMALL, *profile, cwd=finished) == {"check": 1, "overview": 1}
        done = snakemake(*SMALL, "--cores", "1", cwd=finished)
        assert done.returncode == 0, done.stdout
        assert claims.read_bytes() == before
        assert planned(*SMALL, cwd=finished) == {}

    @pytest.mark.parametrize(
        "section",
        [
            "training={'learning_rate': 0.001}",
            "grid={'gammas': [0.01, 100.0]}",
            "grid={'seeds': [2, 1, 0]}",
            "jobs={'threads': 2, 'device': cpu}",
            "jobs={'stack_gammas': True}",
            "network={'allow_incompatible_support': True}",
        ],
    )
    def test_the_same_said_differently(self, finished: Path, section: str) -> None:
        assert planned(*SMALL, "--config", section, cwd=finished) == {}

    def test_new_sums_fetch_nothing(self, finished: Path) -> None:
        (finished / "workflow/checksums.txt").touch()
        assert planned(*SMALL, cwd=finished) == {}

    def test_the_same_bytes_in_another_order(self, finished: Path, tmp_path: Path) -> None:
        """One job at a time and some of the jobs: the same bytes as two at a time and all."""
        folder = copy_repository(tmp_path)
        runs = folder / "results/test/runs"
        blocks = [  # all that the evaluation of a mode and gamma asks for
            f"{mode}/{seeds}"
            for mode in ("nominal/gamma-1e2", "equivariant/gamma-none")
            for seeds in ("seeds-000-001", "seeds-002-002")
        ]
        wanted = "results/test/runs/nominal/gamma-1e2/seeds-000-001.evaluation.parquet"
        done = snakemake(*SMALL, "--cores", "1", wanted, cwd=folder)
        assert done.returncode == 0, done.stdout
        assert sorted(runs.glob("**/*.safetensors")) == sorted(
            runs / f"{block}.safetensors" for block in blocks
        )
        for suffix in ("parquet", "safetensors"):
            for file in folder.glob(f"results/**/*.{suffix}"):
                assert file.read_bytes() == (finished / file.relative_to(folder)).read_bytes(), file

    def test_the_same_bytes_with_all_gammas_in_one_job(
        self, finished: Path, tmp_path: Path
    ) -> None:
        """And what was made so is not made anew one by one."""
        folder = copy_repository(tmp_path)
        runs = "results/test/runs/augmented"
        wanted = [f"{runs}/gamma-{gamma}/seeds-000-001.evaluation.parquet" for gamma in GAMMAS]
        stacked = "--config", "jobs={'stack_gammas': True}"
        done = snakemake(*SMALL, *stacked, "--cores", "1", wanted[0], cwd=folder)
        assert done.returncode == 0, done.stdout
        logs = sorted(path.name for path in folder.glob("results/test/logs/train/augmented/*"))
        assert logs == ["seeds-000-001.log", "seeds-002-002.log"]
        for gamma in GAMMAS:
            for suffix in ("parquet", "safetensors"):
                file = Path(runs, f"gamma-{gamma}", f"seeds-000-001.{suffix}")
                assert (folder / file).read_bytes() == (finished / file).read_bytes(), file
        said = snakemake(*SMALL, "--dry-run", *wanted, cwd=folder).stdout
        counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
        assert counts == {"evaluate": "1", "total": "1"}

    def test_a_pasted_command_does_what_the_job_did(self, finished: Path, tmp_path: Path) -> None:
        """In a shell with this environment, from Snakemake's own record of the job."""
        log = max((finished / ".snakemake/log").glob("*.log"), key=lambda path: path.stat().st_size)
        output = "results/test/runs/augmented/gamma-1e-2/seeds-002-002.parquet"
        pattern = rf"(python -m equireg train .*--output {re.escape(output)} .*?) > "
        command = re.search(pattern, log.read_text(encoding="utf-8"))
        assert command
        pasted = command[1].replace(output, str(tmp_path / "pasted.parquet"))
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-c", pasted], cwd=finished, env=environment, check=True)
        assert (tmp_path / "pasted.parquet").read_bytes() == (finished / output).read_bytes()


@pytest.mark.parametrize(
    "name",
    ["summary.parquet", *(f"runs/nominal/gamma-1e2/seeds-002-002.{s}" for s in SUFFIXES)],
)
def test_a_deleted_file_is_made_anew(finished: Path, name: str) -> None:
    file = finished / "results" / "test" / name
    away = file.with_name("away")
    file.rename(away)
    try:
        jobs = planned(*SMALL, cwd=finished)
    finally:
        away.rename(file)
    assert jobs
    assert jobs.get("train", 0) == (0 if "evaluation" in name or "summary" in name else 1)


VISIT = """
const pause = () => new Promise(done => setTimeout(done, 100))
const find = async choose => { while (!choose()) await pause(); return choose() }
const named = text => [...document.querySelectorAll("#app a")].find(x => x.innerText === text)
const seen = document.documentElement.dataset
async function visit() {
    seen.first = (await find(() => document.querySelector("iframe"))).src.slice(0, 15)
    named("Workflow").click()
    await find(() => document.querySelector("#rulegraph canvas, #rulegraph svg"))
    seen.home = document.querySelector("#app").innerText
    named("Result").click()
    const view = await find(() => document.querySelector("#app table a"))
    seen.menu = document.querySelector("#app").innerText
    view.click()
    seen.frame = (await find(() => document.querySelector("iframe"))).src.slice(0, 15)
}
visit()
"""


@needs_browser
@pytest.mark.slow
def test_the_report_in_a_browser(finished: Path, tmp_path: Path) -> None:
    """Written and shown without a network; opens on the overview, and is clicked through to it."""
    report = finished / "results/test/report.html"
    style = ("--report-stylesheet", "workflow/report/style.css")
    offline = {**ENVIRONMENT, **dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")}
    done = snakemake(*SMALL, "--report", str(report), *style, cwd=finished, environment=offline)
    assert done.returncode == 0, done.stdout
    assert "(ERROR" not in done.stdout  # of the captions' text
    assert not re.search(r"<(script|link|img)[^>]* (src|href)=.http", report.read_text())
    dom = shown(report, tmp_path, VISIT)
    root = html.unescape(dom[dom.index("<html") : dom.index(">", dom.index("<html"))])
    assert "errors=" not in root
    for text in (
        "Statistics",
        "Figures",
        "Result",
        "Tables",
        "experiment: test",
        "epochs: 2",
        "gammas: [0.01, 100.0]",
    ):
        assert text in root.partition("data-home=")[2]
    assert "figure, claims and numbers" in root.partition("data-menu=")[2]
    for name in ("first", "frame"):
        assert f'data-{name}="data:text/html;"' in root
