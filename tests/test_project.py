"""The repository's own files: they agree with each other and with the code."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

import equireg
from equireg.digest import SOURCES, ancestry, closure, imports, locate

ROOT = Path(__file__).parent.parent


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def read_yaml(name: str) -> Any:
    return yaml.safe_load(read(name))


def test_one_version_and_one_license() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    citation = read_yaml("CITATION.cff")
    newest = re.search(r"^## (\S+?),? ", read("CHANGELOG.md"), re.MULTILINE)
    assert newest
    versions = {equireg.__version__, citation["version"], newest[1].strip(",")}
    assert versions == {equireg.__version__}
    assert project["license"] == citation["license"] == read("LICENSE").split()[0]


def test_the_citation_names_the_paper() -> None:
    (paper,) = read_yaml("CITATION.cff")["references"]
    assert paper["identifiers"][0]["value"].removeprefix("arXiv:") in read("README.md")
    assert [author["family-names"] for author in paper["authors"]] == ["Nordenfors", "Flinth"]


def commands(job: Any) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def test_github_does_what_ci_does() -> None:
    jobs = read_yaml(".github/workflows/test.yaml")["jobs"]
    assert commands(jobs["all"]) == [".ci/run"]
    assert commands(jobs["library"]) == [".ci/library ${{ matrix.versions }}"]
    assert ".ci/run" in commands(read_yaml(".github/workflows/release.yaml")["jobs"]["build"])
    assert all(os.access(ROOT / script, os.X_OK) for script in (".ci/run", ".ci/library"))


def test_what_github_runs_of_others_is_pinned() -> None:
    """By a commit, with the version's name; the action that publishes, by its branch."""
    for file in (ROOT / ".github/workflows").glob("*.yaml"):
        used = re.findall(r"uses: (\S+)@(.*)", file.read_text(encoding="utf-8"))
        assert used
        for action, version in used:
            if action != "pypa/gh-action-pypi-publish":
                assert re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", version), (action, version)


def test_the_library_s_tests_need_the_library_alone() -> None:
    """What .ci/library runs, where nothing of the workflow is installed."""
    listed = re.findall(r"^    (tests/test_\S+\.py)$", read(".ci/library"), re.MULTILINE)
    files = [file for name in listed for file in sorted(ROOT.glob(name))]
    assert len(files) > 12
    assert set(ROOT.glob("tests/test_library_*.py")) < set(files)
    for file in files:
        names = set(imports(ast.parse(file.read_text(encoding="utf-8")), ""))
        ours = {m for n in names for m in ancestry(n) if locate(m, SOURCES)} - {"equireg"}
        for module, tree in closure(*ours).items():
            names |= set(imports(tree, module.rpartition(".")[0]))
        tops = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"equireg", ""}
        assert tops <= {"torch", "numpy", "scipy", "torchvision", "pytest"}, file


def test_the_hook_checks_what_make_lint_checks() -> None:
    ((hook,),) = [repo["hooks"] for repo in read_yaml(".pre-commit-config.yaml")["repos"]]
    assert hook["entry"] == "make lint"
    assert re.search(r"^lint: setup", read("Makefile"), re.MULTILINE)


def test_snakedeploy_finds_the_configuration() -> None:
    """A copy of config/ is what it gives a user to edit; it is the same file here."""
    assert (ROOT / "config/config.yaml").resolve() == ROOT / "config.yaml"
    usage = read_yaml(".snakemake-workflow-catalog.yml")["usage"]
    assert usage["software-stack-deployment"] == {"conda": True}
