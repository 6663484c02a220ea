"""The digest follows code and imports, and nothing else."""

from __future__ import annotations

import ast
import shutil
import subprocess
from pathlib import Path

import pytest

from equireg.digest import (
    NEUTRAL,
    SOURCES,
    closure,
    locate,
    network_digest,
    parse,
    source_digest,
    spell,
)
from equireg.runtime import configured
from equireg.settings import JobSettings

STEP = '''\
"""How a step is made."""
from equireg import shared
import numpy as np

RATE = 1  # per step

def step(x: int) -> int:
    """One step."""
    from .late import late
    if x < 0:
        raise ValueError(f"x is {x}") from None
    say(f"a step of {x}")
    return late(x) + RATE
'''


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """A package: jobs.train imports step, which imports shared and, in a function, late."""
    files = {
        "__init__.py": '__version__ = "1"\n',
        "jobs/__init__.py": '"""Jobs."""\n',
        "jobs/train.py": (
            "from equireg.step import step\n"
            "from equireg.files import atomic\n"
            "from equireg.settings import spell\n"
        ),
        "jobs/draw.py": "import equireg.style as style\n",
        "step.py": STEP,
        "shared.py": "from .deep import a, b\nfrom . import relative\n",
        "late.py": "def late(x):\n    return x\n",
        "deep/__init__.py": "from equireg.deep.a import a\n",
        "deep/a.py": "a = 1\n",
        "relative.py": "from ..elsewhere import x\n",
        "files.py": "WHOLE = True\n",
        "settings.py": "spell = 1\n",
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
        ("step.py", "x < 0", "x < 1"),
        ("step.py", "raise ValueError", "raise OSError"),
        ("step.py", '    say(f"a step of {x}")\n', ""),
        ("deep/a.py", "a = 1", "a = 2"),
        ("deep/a.py", "a = 1", "a = 1.0"),
        ("deep/a.py", "a = 1", "a = True"),
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
        ("step.py", "x is {x}", "x is {x}, below 0"),
        ("step.py", "a step of {x}", "step {x!r}"),
        ("step.py", "RATE = 1", 'RATE = 1\n"""What the rate is."""'),
        ("jobs/__init__.py", "Jobs", "All jobs"),
        ("__init__.py", '"1"', '"2"'),
        ("files.py", "True", "False"),
        ("settings.py", "spell = 1", "spell = 2"),
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


def test_a_neutral_module_counts_where_it_is_named(sources: Path) -> None:
    """Figures and claims show numbers as the settings spell them; runs do not."""
    named = "equireg.jobs.draw", "equireg.settings"
    assert set(closure(*named, sources=sources)) == {*named, "equireg.style"}
    before = source_digest(*named, sources=sources)
    (sources / "equireg/settings.py").write_text("spell = 2\n")
    parse.cache_clear()
    assert source_digest(*named, sources=sources) != before


def spelled(text: str) -> str:
    return spell(ast.parse(text))


def test_fields_that_some_versions_have_and_others_do_not() -> None:
    """type_params came with 3.12; optional fields may be absent since 3.13."""
    text = "def f(x: int) -> int:\n    return x\nclass C: ...\nx: int\n"
    tree = ast.parse(text)
    for node in ast.walk(tree):
        for name in ("type_params", "decorator_list", "keywords", "kwonlyargs", "type_comment"):
            if not getattr(node, name, None):
                node.__dict__.pop(name, None)
    assert spell(tree) == spelled(text)


def test_the_texts_of_an_f_string_are_cut_in_some_versions() -> None:
    tree = ast.parse("f'a{{b{x:>{w}.2f}'", mode="eval")
    before = spell(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            node.values = [
                part
                for value in node.values
                for part in (
                    [ast.Constant(text) for text in ("", *str(value.value))]
                    if isinstance(value, ast.Constant)
                    else [value]
                )
            ]
    assert spell(tree) == before
    assert spelled("f'{x}b'") != spelled("f'{x}a'")
    assert spelled("f'{x!r}'") != spelled("f'{x}'") != spelled("f'{x:>3}'")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = (b, c)", "a = [b, c]"),
        ("f(a, b)", "f((a, b))"),
        ("f(a, b)", "f(a, b=b)"),
        ("a - (b - c)", "a - b - c"),
        ("{**a}", "{None: a}"),
        ("return_ = '1'", "return_ = 1"),
        ("a = 'b'", "a = b"),
        ("a = b''", "a = ''"),
        ("def f(*, a, b=1): pass", "def f(*, a=1, b): pass"),
        ("from . import a", "from .. import a"),
    ],
)
def test_what_is_not_the_same_code(one: str, other: str) -> None:
    assert spelled(one) != spelled(other)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_every_python_gives_the_same_digest(version: str) -> None:
    """Where it is installed. digest.py needs the standard library only."""
    python = shutil.which(f"python{version}")
    code = f"import sys; sys.path.insert(0, {str(SOURCES)!r}); import equireg.digest as d; "
    code += "print(d.source_digest('equireg.jobs.train', 'equireg.jobs.check', 'equireg.cli'))"
    done = python and subprocess.run([python, "-I", "-c", code], capture_output=True, text=True)
    if not done or done.returncode:
        pytest.skip(f"needs Python {version}")
    digest = source_digest("equireg.jobs.train", "equireg.jobs.check", "equireg.cli")
    assert done.stdout.strip() == digest


def test_this_package() -> None:
    """Figures do not depend on training, nor training on figures; the neutral modules exist."""
    training = set(closure("equireg.jobs.train"))
    assert {"equireg.training.step", "equireg.symmetry.spaces", "equireg.tables"} <= training
    assert not {"equireg.jobs.draw", "equireg.figures.style"} & training
    assert "equireg.training.step" not in closure("equireg.jobs.draw")
    for name in NEUTRAL - {"equireg"}:
        assert SOURCES.joinpath(*name.split(".")).with_suffix(".py").is_file()


TRAINING = sorted(closure("equireg.jobs.train", "equireg.runtime"))


def test_each_module_of_the_training_counts(tmp_path: Path) -> None:
    """Edited in turn, each retrains."""
    shutil.copytree(SOURCES / "equireg", tmp_path / "equireg")
    names = "equireg.jobs.train", "equireg.runtime"
    before = source_digest(*names, sources=tmp_path)
    for module in TRAINING:
        file = locate(module, tmp_path)
        assert file is not None
        text = file.read_text(encoding="utf-8")
        file.write_text(text + "\n_CHANGED = True\n")
        parse.cache_clear()
        assert source_digest(*names, sources=tmp_path) != before, module
        file.write_text(text)


def test_what_trains_is_in_its_digest() -> None:
    """Whoever makes batches, schedules, starts or spells a gamma can change a result."""
    rooms = {"training", "symmetry"}
    every = {
        ".".join(file.relative_to(SOURCES).with_suffix("").parts)
        for room in rooms
        for file in (SOURCES / "equireg" / room).glob("*.py")
        if file.name != "__init__.py"
    }
    # nobody trains with compact groups yet; projected are networks that are tested; a network of
    # the user's own has modules in its digest
    aside = {f"equireg.{name}" for name in ("symmetry.compact", "symmetry.nonlinearities")}
    aside |= {"equireg.training.modules", "equireg.training.projected"}
    assert every - aside <= set(TRAINING)
    assert "equireg.training.modules" in closure("equireg.built")
    assert {"equireg.spelling", "equireg.randomness", "equireg.dataset"} <= set(TRAINING)


def test_a_network_of_ones_own_counts_by_its_code_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("import torch\n")
    before = network_digest(file)
    file.write_text('"""A text."""\nimport torch  # and a comment\n')
    assert network_digest(file) == before
    file.write_text("import torch\nx = 1\n")
    assert network_digest(file) != before
    file.write_text("def")
    with pytest.raises(ValueError, match=r"mine\.py is not Python"):
        network_digest(file)
    with pytest.raises(ValueError, match=r"there\.py cannot be read"):
        network_digest(tmp_path / "there.py")


def test_the_library_does_not_count_for_the_papers_runs() -> None:
    assert not [name for name in TRAINING if name.startswith("equireg.library")]
    assert "equireg.library.equivariance" in closure("equireg.built")


def test_settings_hold_values_and_limits_alone() -> None:
    """They are left out of the digest, so they must not compute what a result depends on."""
    tree = ast.parse((SOURCES / "equireg" / "settings.py").read_text(encoding="utf-8"))
    properties = [
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        and any(
            getattr(d, "id", getattr(d, "attr", "")) in ("property", "cached_property")
            for d in node.decorator_list
        )
    ]
    assert properties == []


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
    assert "equireg.training.compiled" in closure("equireg.jobs.train")
    assert (SOURCES / "equireg" / "training" / "compiled.cpp").is_file()


def test_a_job_finds_the_digest_that_the_workflow_found() -> None:
    """A job takes denormals for 0, in the source's numbers as well: there are none."""
    before = source_digest("equireg.jobs.train", "equireg.runtime")
    parse.cache_clear()
    with configured(JobSettings(device="cpu")):
        assert source_digest("equireg.jobs.train", "equireg.runtime") == before
