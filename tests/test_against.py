"""Our training beside somebody else's network: one that is right, and some that are not.

The network is the test's own, with the interface of the authors'; theirs has no licence and is not
here.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from equireg.jobs.against import CLASS, FILE, PARAMETERS
from experiment import Jobs

NETWORK = '''
import torch
import torch.nn.functional as F
from torch import nn


class Filters(nn.Module):
    def __init__(self, rows, columns, entries):
        super().__init__()
        self.weight = nn.Parameter(torch.full((rows, columns, entries), torch.nan))


def off(grid):
    """The squared norm of what a quarter turn's mean leaves."""
    mean = torch.stack([torch.rot90(grid, k, (-2, -1)) for k in range(4)]).mean(0)
    return ((grid - mean) ** 2).sum()


class omegaCNN(nn.Module):
    def __init__(self, omega, hidden):
        super().__init__()
        entries = int(omega.sum())
        self.conv1 = Filters(hidden[0], 1, entries)
        self.conv2 = Filters(hidden[1], hidden[0], entries)
        self.lin = nn.Linear(49 * hidden[1], 10, bias=False)

    def projection_error(self):
        filters = [layer.weight.unflatten(-1, (3, 3)) for layer in (self.conv1, self.conv2)]
        return tuple(map(off, (*filters, self.lin.weight.unflatten(-1, (-1, 7, 7)))))

    def forward(self, x):
        for layer in (self.conv1, self.conv2):
            x = F.conv2d(x, layer.weight.unflatten(-1, (3, 3)), padding=1)
            x = F.avg_pool2d(x, 2).tanh()
            x = F.layer_norm(x, x.shape[-2:])
        return self.lin(x.flatten(1))
'''


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    return Jobs(tmp_path, monkeypatch)


def clone(jobs: Jobs, old: str = "", new: str = "") -> Path:
    """A folder with the network, in which something may have been replaced."""
    folder = jobs.folder / "clone"
    folder.mkdir(exist_ok=True)
    assert old in NETWORK
    (folder / FILE).write_text(NETWORK.replace(old, new) if old else NETWORK)
    return folder


def differences(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], authors: Path, *more: object
) -> dict[tuple[str, str], list[float]]:
    """The numbers of the table, by gamma and mode."""
    words = ["--authors", authors, "--data", jobs.data, "--steps", 20, "--step", "reference"]
    capsys.readouterr()
    jobs.run("against", *words, *more)
    said = capsys.readouterr().out
    rows = re.findall(r"^\| (\S+) \| (augmented|nominal) \| (.*) \|$", said, re.MULTILINE)
    found = {
        (gamma, mode): [float(x) for x in numbers.replace("|", " ").split()]
        for gamma, mode, numbers in rows
    }
    largest = max(numbers[0] for numbers in found.values())
    assert "before each of 20 steps, seeds 0-1: ours differ from" in said
    assert f"by at most {largest:.1e} of theirs." in said
    return found


def test_a_network_that_is_right_differs_by_rounding(
    jobs: Jobs, capsys: pytest.CaptureFixture[str]
) -> None:
    """At every penalty and in both modes; had the images been turned the other way, it shows."""
    found = differences(jobs, capsys, clone(jobs), "--seeds", "0-1")
    modes = ("augmented", "nominal")
    assert set(found) == {(g, mode) for g in ("1e-4", "1e-2", "1e0", "1e2") for mode in modes}
    for (_, mode), numbers in found.items():
        assert 0 < numbers[0] < 2e-5
        assert len(numbers) == (2 if mode == "augmented" else 1)
        assert all(other > 20 * numbers[0] for other in numbers[1:])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (").mean(0)", ")[:2].mean(0)"),
        ("            x = F.layer_norm(x, x.shape[-2:])\n", ""),
        ("        return self.lin(x.flatten(1))", "        return 1.1 * self.lin(x.flatten(1))"),
    ],
    ids=["distance", "normalization", "outputs"],
)
def test_a_network_that_is_not_is_seen(
    jobs: Jobs, capsys: pytest.CaptureFixture[str], old: str, new: str
) -> None:
    more = ["--seeds", "0-1", "--gamma", 1, "--mode", "nominal"]
    ((_, (difference,)),) = differences(jobs, capsys, clone(jobs, old, new), *more).items()
    assert difference > 1e-3


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("class omegaCNN", "class other", f"{FILE} has no {CLASS} (AttributeError("),
        ("import torch\n", "import no_such_thing\n", f"{FILE} has no {CLASS} (ModuleNotFoundErr"),
        ("self.lin", "self.last", f"{CLASS} has parameters {{'conv1.weight': 144, 'conv2.weight'"),
    ],
)
def test_another_repository_is_refused(jobs: Jobs, old: str, new: str, said: str) -> None:
    with pytest.raises(RuntimeError, match=re.escape(said)):
        jobs.run("against", "--authors", clone(jobs, old, new), "--data", jobs.data, "--steps", 1)
    assert PARAMETERS["linear"] == "lin.weight"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--mode", "equivariant"], "mode is 'equivariant'; accepted: augmented, nominal"),
        (
            ["--gamma", "3000"],
            "gamma is 3e3; accepted with training.learning_rate 0.001: 0 to",
        ),
        (["--steps", "0"], "steps is 0; accepted: 1 or more"),
        (["--steps", "301"], "steps is 301; accepted: at most 300, all of a training"),
        (["--authors", "nowhere"], f"nowhere has no {FILE}; accepted: a clone of https://github.c"),
    ],
)
def test_a_wrong_value_is_refused(jobs: Jobs, more: list[str], said: str) -> None:
    words = ["--authors", clone(jobs), "--data", jobs.data]
    with pytest.raises(RuntimeError, match=re.escape(said)):
        jobs.run("against", *words, *more)
