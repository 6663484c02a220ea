"""The digest follows code and imports, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from equireg.digest import NEUTRAL, SOURCES, closure, parse, source_digest

STEP = '''\
"""How a step is made."""
from equireg import shared
import numpy as np

RATE = 1  # per step

def step(x: int) -> int:
    """One step."""
    from .late import late
    return late(x) + RATE
'''


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A package: jobs.train imports step, which imports shared and, in a function, late."""
    files = {
        "__init__.py": '__version__ = "1"\n',
        "jobs/__init__.py": '"""Jobs."""\n',
        "jobs/train.py": "from equireg.step import step\nfrom equireg.files import atomic\n",
        "jobs/draw.py": "import equireg.style as style\n",
        "step.py": STEP,
        "shared.py": "from .deep import a, b\nfrom . import relative\n",
        "late.py": "def late(x):\n    return x\n",
        "deep/__init__.py": "from equireg.deep.a import a\n",
        "deep/a.py": "a = 1\n",
        "relative.py": "from ..elsewhere import x\n",
        "files.py": "WHOLE = True\n",
        "style.py": "COLOUR = 1\n",
    }
    for name, text in files.items():
        (tmp_path / "equireg" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "equireg" / name).write_text(text)
    return tmp_path


def test_imports_are_followed(sources: Path) -> None:
    assert set(closure("equireg.jobs.train", sources=sources)) == {
        "equireg.jobs.train",
        "equireg.step",
        "equireg.shared",
        "equireg.late",
        "equireg.deep",
        "equireg.deep.a",
        "equireg.relative",
    }
    assert "equireg.style" in closure("equireg.jobs.draw", sources=sources)


def changed(sources: Path, file: str, old: str, new: str) -> bool:
    """Whether the digest of the training job changes with ``old`` -> ``new`` in a file."""
    before = source_digest("equireg.jobs.train", sources=sources)
    path = sources / "equireg" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    parse.cache_clear()
    return source_digest("equireg.jobs.train", sources=sources) != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("step.py", "RATE = 1", "RATE = 2"),
        ("step.py", "late(x) + RATE", "late(x) - RATE"),
        ("late.py", "return x", "return -x"),
        ("deep/a.py", "a = 1", "a = 2"),
        ("deep/__init__.py", "import a", "import a as b"),
        ("jobs/train.py", "step\n", "step\nstep(1)\n"),
    ],
)
def test_code_changes_it(sources: Path, file: str, old: str, new: str) -> None:
    assert changed(sources, file, old, new)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("step.py", "# per step", "# for each step"),
        ("step.py", "One step.", "A single step."),
        ("step.py", '    """One step."""\n', ""),
        ("step.py", "How a step is made.", "Steps."),
        ("step.py", "RATE = 1", "RATE   =  1\n\n"),
        ("step.py", "RATE = 1", 'RATE = 1\n"""What the rate is."""'),
        ("jobs/__init__.py", "Jobs", "All jobs"),
        ("__init__.py", '"1"', '"2"'),
        ("files.py", "True", "False"),
        ("style.py", "1", "2"),
    ],
)
def test_nothing_else_does(sources: Path, file: str, old: str, new: str) -> None:
    assert not changed(sources, file, old, new)


def test_a_function_of_a_docstring_alone(sources: Path) -> None:
    (sources / "equireg/late.py").write_text("def late(x):\n    'To be written.'\n")
    assert not changed(sources, "late.py", "'To be written.'", "pass")


def test_order_does_not_matter(sources: Path) -> None:
    names = ("equireg.jobs.train", "equireg.jobs.draw")
    assert source_digest(*names, sources=sources) == source_digest(*names[::-1], sources=sources)


def test_a_module_that_is_not_there(sources: Path) -> None:
    with pytest.raises(ValueError, match=r"module is 'equireg\.jobs\.trian'"):
        source_digest("equireg.jobs.trian", sources=sources)


def test_this_package() -> None:
    """Figures do not depend on training, nor training on figures; the neutral modules exist."""
    training = set(closure("equireg.jobs.train"))
    assert {"equireg.step", "equireg.projections", "equireg.tables"} <= training
    assert not {"equireg.jobs.draw", "equireg.style"} & training
    assert "equireg.step" not in closure("equireg.jobs.draw")
    for name in NEUTRAL - {"equireg"}:
        assert SOURCES.joinpath(*name.split(".")).with_suffix(".py").is_file()


def test_the_code_that_a_module_compiles_counts_without_its_comments(sources: Path) -> None:
    compiled = sources / "equireg" / "step.cpp"
    without = source_digest("equireg.jobs.train", sources=sources)
    compiled.write_text("int a = 1;  // one\n")
    before = source_digest("equireg.jobs.train", sources=sources)
    compiled.write_text("// a number\n\n  int a = 1;\n")
    assert source_digest("equireg.jobs.train", sources=sources) == before != without
    compiled.write_text("int a = 2;\n")
    assert source_digest("equireg.jobs.train", sources=sources) != before


def test_the_training_job_compiles_its_step() -> None:
    assert "equireg.compiled" in closure("equireg.jobs.train")
    assert (SOURCES / "equireg" / "compiled.cpp").is_file()
