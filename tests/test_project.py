"""The repository's own files: they agree with each other and with the code."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import equireg

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


def test_github_does_what_ci_does() -> None:
    (job,) = read_yaml(".github/workflows/test.yaml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_hook_checks_what_make_lint_checks() -> None:
    ((hook,),) = [repo["hooks"] for repo in read_yaml(".pre-commit-config.yaml")["repos"]]
    assert hook["entry"] == "make lint"
    assert re.search(r"^lint: setup", read("Makefile"), re.MULTILINE)


def test_snakedeploy_finds_the_configuration() -> None:
    """A copy of config/ is what it gives a user to edit; it is the same file here."""
    assert (ROOT / "config/config.yaml").resolve() == ROOT / "config.yaml"
    usage = read_yaml(".snakemake-workflow-catalog.yml")["usage"]
    assert usage["software-stack-deployment"] == {"conda": True}
