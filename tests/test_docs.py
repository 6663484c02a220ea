"""What the documents say can be run and found."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer.core
import typer.main
import yaml

import equireg
from checkout import copy_repository, snakemake
from equireg import groups, nonlinearities, representations
from equireg.cli import app
from equireg.config import load
from equireg.jobs.aggregate import aggregate
from equireg.settings import GridSettings
from synthetic import write_experiment

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted(
    str(file.relative_to(ROOT)) for file in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))
)


def blocks(document: str) -> list[str]:
    """The indented and the fenced blocks of a Markdown document, without their indentation."""
    text = (ROOT / document).read_text(encoding="utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"(?:(?<=\n\n)|\A)((?:    .*\n|\n(?=    ))+)", text)
    return [*fenced, *(re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in indented)]


def commands(document: str, program: str) -> list[list[str]]:
    """The calls of ``program`` in the blocks of a document, as words, without its name."""
    found = []
    for block in blocks(document):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith(f"{program} "):
                words = shlex.split(line.partition(" | ")[0], comments=True)
                found.append(words[len(program.split()) :])
    return found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_linked_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (ROOT / document).parent.joinpath(link).exists()] == []


def navigated(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        for inner in entry.values():
            yield from navigated(inner) if isinstance(inner, list) else [inner]


def test_every_document_has_its_place_in_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    site = yaml.safe_load(text.replace("!!python/name:", ""))
    pages = list(navigated(site["nav"]))
    made = {"index.md", "contributing.md", "changelog.md", "api.md"}
    left_out = set(site["exclude_docs"].split()) - {"site.py"}
    assert len(set(pages)) == len(pages)
    assert set(pages) - made == {f.name for f in ROOT.glob("docs/*.md")} - left_out


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    """So that every link in it resolves, and every name of the API has its docstring."""
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"^(WARNING|ERROR)", done.stderr, re.MULTILINE), done.stderr
    page = (tmp_path / "api.html").read_text(encoding="utf-8")
    modules = {"groups", "nonlinearities", "representations"}
    for module in (equireg, groups, nonlinearities, representations):
        for name in set(module.__all__) - {"__version__", *modules}:
            assert re.search(rf'id="equireg\.[\w.]+\.{name}"', page), name
    assert "&gt;&gt;&gt;" in re.sub(r"<[^>]*>", "", page)
    assert "<blockquote>" not in page


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_path_that_is_named_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    roots = ("docs", "envs", "profiles", "slurm", "src", "tests", "workflow")
    paths = re.findall(rf"`((?:{'|'.join(roots)})/[^`*<> ]*)`", text)
    paths += re.findall(r"`(Snakefile|Makefile|config\.yaml)`", text)
    assert paths
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_architecture_has_every_rule_and_module() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    diagram = text.split("```mermaid")[1].split("```")[0]
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        for rule in re.findall(r"^rule (\w+):", file.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"\b{rule}\b", diagram), rule


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_call_of_make_has_a_target(document: str) -> None:
    for words in commands(document, "make"):
        words = ["CONFIG=config.yaml" if "CONFIG=" in word else word for word in words]
        done = subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_call_of_equireg_has_its_options(document: str) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    for verb, *words in commands(document, "python -m equireg"):
        if words != ["--help"]:
            group.commands[verb].make_context(verb, words)


def test_every_preset_in_the_readme_is_accepted_and_every_call_of_snakemake_plans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_repository(tmp_path)
    (tmp_path / "bars.npz").touch()
    (tmp_path / "results/data").mkdir(parents=True)
    (tmp_path / "results/data/sensors-made.safetensors").touch()
    monkeypatch.chdir(tmp_path)
    presets = [block for block in blocks("README.md") if block.startswith("experiment: ")]
    for preset in reversed(presets):  # the first one stays
        (tmp_path / "mine.yaml").write_text(preset, encoding="utf-8")
        assert load(["config.yaml", "mine.yaml"]).experiment == yaml.safe_load(preset)["experiment"]
    calls = commands("README.md", "snakemake")
    assert len(presets) >= 2
    for words in calls:
        if "--unlock" not in words:
            done = snakemake("--dry-run", *words, cwd=tmp_path)
            assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("library", ["pandas", "polars", "duckdb"])
def test_the_median_curve_is_read_as_said(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(library)
    folder, grid = tmp_path / "results/paper", GridSettings(seeds="0-4")
    write_experiment(folder, grid, steps=50)
    aggregate(folder, grid)
    monkeypatch.chdir(tmp_path)
    (code,) = [text for text in blocks("docs/data.md") if text.startswith(f"import {library}")]
    found: dict[str, object] = {}
    exec(code, found)
    median = found["median"]
    values = median.to_numpy() if library == "pandas" else median["distance"].to_numpy()  # type: ignore[attr-defined, index]
    rows = pq.read_table(
        folder / "summary.parquet", filters=[("mode", "==", "augmented"), ("gamma", "==", 1e-2)]
    )
    assert len(values) == 50
    np.testing.assert_allclose(values, rows["median"].to_numpy(), rtol=1e-6)
