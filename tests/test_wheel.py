"""What a user installs: the wheel, alone, where only torch, numpy and scipy are; the extras."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from checkout import tracked
from hiding import needed, run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LIBRARY = [Requirement(text).name for text in PROJECT["dependencies"]]


def extra(name: str) -> list[str]:
    """The distributions of an extra, and of those that it takes in."""
    needs = list(map(Requirement, PROJECT["optional-dependencies"][name]))
    within = [more for need in needs if need.name == "equireg" for more in need.extras]
    return [n.name for n in needs if n.name != "equireg"] + [d for e in within for d in extra(e)]


def snippet(document: str) -> str:
    """The indented block that begins with ``import equireg``."""
    text = (ROOT / document).read_text(encoding="utf-8")
    (found,) = re.findall(r"^    import equireg\n(?:    .*\n)+", text, flags=re.MULTILINE)
    return re.sub(r"^    ", "", found, flags=re.MULTILINE)


def modules_of(*places: str) -> list[str]:
    files = [file for place in places for file in (ROOT / "src/equireg").glob(place)]
    names = [".".join(file.relative_to(ROOT / "src").with_suffix("").parts) for file in files]
    return [name.removesuffix(".__init__") for name in sorted(names)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone: what git has, as it is now."""
    folder = tmp_path_factory.mktemp("clone")
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def built(source: Path) -> dict[str, Path]:
    """The wheel, made of the source distribution, and that; with no network."""
    code = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (archive,) = (source / "dist").glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    alone = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    folder, site = source / "dist", source / "site"
    subprocess.run([*pip, "wheel", *alone, "--wheel-dir", str(folder), str(archive)], check=True)
    (file,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", *alone, "--target", str(site), str(file)], check=True)
    return {"sdist": archive, "wheel": file, "site": site}


def test_the_source_distribution_is_the_repository(built: dict[str, Path]) -> None:
    with tarfile.open(built["sdist"]) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in files if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    hidden = {name for name in tracked() if name.startswith(".")}  # CI's and the editors'
    assert files - made == set(tracked()) - hidden


def test_the_wheel_is_the_package(built: dict[str, Path]) -> None:
    """With the C++ that is compiled where it runs, a page's template, and the mark of types."""
    package = [name.removeprefix("src/") for name in tracked() if name.startswith("src/equireg/")]
    assert {Path(name).suffix for name in package} == {".py", ".cpp", ".html", ".typed"}
    for name in package:
        assert (built["site"] / name).read_bytes() == (ROOT / "src" / name).read_bytes()


def test_what_an_index_shows_of_it(built: dict[str, Path]) -> None:
    """Nothing in it is relative to a repository, and its snippet is the README's."""
    (file,) = built["site"].glob("*.dist-info/METADATA")
    said = file.read_text(encoding="utf-8")
    assert said.endswith((ROOT / "docs/package.md").read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)]*)\)", said)
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    assert snippet("docs/package.md") == snippet("README.md")
    needs = {
        re.split(r"[^\w-]", n)[0] for n in re.findall(r"^Requires-Dist: ([^;\n]*)$", said, re.M)
    }
    assert needs == {"torch", "numpy", "scipy"}


def in_the_wheel(code: str, built: dict[str, Path]) -> subprocess.CompletedProcess[str]:
    """Run it where there are the wheel, and torch, numpy, scipy with what they need."""
    allowed = needed(LIBRARY)
    assert not {"pydantic", "typer", "pyarrow", "safetensors", "matplotlib"} & allowed
    return run(code, allowed, built["site"])


MODEL = """
import torch
from torch import nn
from torch.nn.functional import cross_entropy
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)
    def forward(self, x):
        return self.head(self.conv2(self.conv1(x).relu()).relu().mean((2, 3)))
torch.manual_seed(0)
model, images, labels = Model(), torch.randn(4, 1, 8, 8), torch.arange(4)
generator, gamma = torch.Generator().manual_seed(0), 1.0
"""
SHOWN = """
import sys
assert equireg.__file__.startswith(sys.path[0]), equireg.__file__
loss.backward()
assert all(weight.grad is not None for weight in model.parameters())
assert eq.error(images).relative > 1e-3
eq.project_()
assert eq.distance().total < 1e-6 and eq.error(images).relative < 1e-5
"""


def test_the_readme_s_snippet_runs_in_the_wheel_alone(built: dict[str, Path]) -> None:
    done = in_the_wheel(MODEL + snippet("README.md") + SHOWN, built)
    assert done.returncode == 0, done.stderr


def test_the_library_s_examples_run_in_the_wheel_alone(built: dict[str, Path]) -> None:
    """Every module of it is imported, too."""
    modules = modules_of("library/**/*.py", "symmetry/*.py", "groups.py", "representations.py")
    assert len(modules) > 40
    done = in_the_wheel(
        "import doctest, importlib\n"
        f"modules = [importlib.import_module(name) for name in {modules}]\n"
        "found = [doctest.testmod(m, optionflags=doctest.NORMALIZE_WHITESPACE) for m in modules]\n"
        "print(sum(f.attempted for f in found), sum(f.failed for f in found))\n",
        built,
    )
    assert done.returncode == 0, done.stderr
    attempted, failed = map(int, done.stdout.split()[-2:])
    assert attempted > 20, done.stdout
    assert failed == 0, done.stdout


@pytest.mark.parametrize("words", [[], ["train"]], ids=["help", "train"])
def test_a_command_without_its_packages_is_a_line(words: list[str], built: dict[str, Path]) -> None:
    code = f"sys.argv = ['equireg', *{words}]\nfrom equireg.__main__ import main\nmain()"
    done = in_the_wheel(code, built)
    assert done.returncode == 1
    assert done.stderr == (
        "equireg: typer is not installed; the commands need more than the library does: "
        "pip install 'equireg[workflow]'\n"
    )


def test_a_fault_of_the_program_is_no_missing_package() -> None:
    code = "import sys; sys.modules['equireg.cli'] = None; import equireg.__main__ as m; m.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("name", "modules"),
    [
        ("figures", modules_of("figures/*.py")),
        ("workflow", [m for m in modules_of("**/*.py") if not m.endswith("fused_kernel")]),
    ],
)
def test_an_extra_has_what_its_modules_import(name: str, modules: list[str]) -> None:
    """Triton, for the kernel, comes with torch where there are GPUs."""
    assert len(modules) > 3
    done = run(f"import {', '.join(modules)}", needed([*LIBRARY, *extra(name)]))
    assert done.returncode == 0, done.stderr


LOADING = """
import sys, time
start = time.process_time()
import torch
middle, before = time.process_time(), set(sys.modules)
import equireg
assert {m.split(".")[0] for m in set(sys.modules) - before} == {"equireg"}, "without torch"
equireg.Equivariance
print(*(set(sys.modules) - before))
print((time.process_time() - middle) / (middle - start))
"""


def test_the_library_loads_in_a_small_part_of_torch_s_time() -> None:
    """Its own modules and nothing else; the best of three, as others may use the machine."""
    shares = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", LOADING], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        modules, share = done.stdout.splitlines()
        assert {name.split(".")[0] for name in modules.split()} == {"equireg"}
        shares.append(float(share))
    assert min(shares) < 1 / 8, shares


def test_the_command_has_its_name() -> None:
    module, _, function = PROJECT["scripts"]["equireg"].partition(":")
    code = f"import {module} as m; m.sys.argv = ['equireg', '--help']; m.{function}()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage: equireg" in done.stdout
