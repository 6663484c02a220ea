"""Networks of one's own: built, tried, trained, gone on with, and refused in a line."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cases import SMALL, images, runs_of
from equireg.built import build
from equireg.settings import NetworkSettings, TrainingSettings
from equireg.training.modules import DRAWS, ModuleNetwork
from equireg.training.network import Network
from equireg.training.optimizers import optimizer_of
from equireg.training.start import start
from equireg.training.step import Reference, Runs
from experiment import Jobs

# Regular channels, statistics of fields, dropout: buffers and random numbers are a run's own.
MINE = """
    import equireg
    from torch import nn

    def network():
        return {
            "module": nn.Sequential(
                nn.Conv2d(1, 8, 3, padding=1), equireg.FieldBatchNorm(8, 4), nn.ReLU(),
                nn.AvgPool2d(4), nn.Dropout(0.2), nn.Flatten(), nn.Linear(8 * 7 * 7, 10),
            ),
            "representations": "regular",
        }

    def paper():
        block = [nn.AvgPool2d(2), nn.Tanh()]
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, bias=False), *block,
            nn.LayerNorm((4, 4), elementwise_affine=False),
            nn.Conv2d(3, 4, 3, padding=1, bias=False), *block,
            nn.LayerNorm((2, 2), elementwise_affine=False),
            nn.Flatten(), nn.Linear(16, 5, bias=False),
        )
"""


def written(folder: Path, text: str = MINE) -> Path:
    file = folder / "mine.py"
    file.write_text(textwrap.dedent(text))
    return file


def own(folder: Path, name: str = "network", **settings: Any) -> ModuleNetwork:
    return build(NetworkSettings(build=f"{written(folder)}:{name}", **settings)).network


def module_runs(network: ModuleNetwork, seeds: list[int], mode: Any = "nominal") -> Runs:
    """The seeds' runs as they start, float32, with their buffers."""
    draws = [network.initial(seed, "gaussian") for seed in seeds]
    runs = runs_of(network, mode, seeds, 1e-2).to(torch.float32)  # type: ignore[arg-type]
    runs.buffers = {name: torch.stack([draw[name] for draw in draws]) for name in network.buffers}
    return runs


def given(runs: int, steps: int, classes: int = 10) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = torch.arange(runs * steps * 6).view(runs, steps, 6) % 60
    return rows, rows % classes, torch.full((runs, steps), 0.1), torch.full((runs, steps), 0.05)


def test_the_papers_network_as_a_module_trains_as_the_papers_network(tmp_path: Path) -> None:
    paper = Network.of(SMALL)
    network = own(tmp_path, "paper", image_size=8, classes=5)
    names = dict(zip(network.spaces, paper.spaces, strict=True))
    runs = runs_of(paper, "nominal", [0, 1])
    weights = {
        mine: runs.weights(paper.spaces)[name].view(-1, *network.spaces[mine].shape)
        for mine, name in names.items()
    }
    inside = {n: torch.stack([network.spaces[n].project(w) for w in weights[n]]) for n in names}
    held = start(network.spaces, inside, weights)
    held.buffers = {DRAWS: torch.zeros(2, dtype=torch.int64)}
    pixels = images(60, 8)
    ours, theirs = Reference(network, held, pixels, 1.0), Reference(paper, runs, pixels, 1.0)
    found, expected = (t.advance(*given(2, 4, 5)) for t in (ours, theirs))
    assert torch.allclose(found, expected, rtol=1e-9)
    for mine, name in names.items():
        other = theirs.weights()[name].view_as(ours.weights()[mine])
        assert torch.allclose(ours.weights()[mine], other, rtol=1e-9)


def test_the_start_is_the_modules_own_projected(tmp_path: Path) -> None:
    network = own(tmp_path)
    state = torch.get_rng_state()
    draw, again, other = (network.initial(seed, "gaussian") for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    module = network.make(3)
    for name, space in network.spaces.items():
        weight = dict(module.named_parameters())[name].detach().double()
        assert torch.equal(draw[name], space.project(weight))
        assert torch.equal(draw[name], again[name])
    assert (draw["0.weight"] != other["0.weight"]).any()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_state_goes_on_to_the_bit_with_buffers_and_random_numbers(
    tmp_path: Path, optimizer: Any
) -> None:
    network, pixels = own(tmp_path), images(60, 28)
    chosen = optimizer_of(TrainingSettings(optimizer=optimizer))
    whole, first, second, alone = (
        Reference(network, module_runs(network, seeds), pixels, 1.0, chosen)
        for seeds in ([0, 1], [0, 1], [0, 1], [1])
    )
    every = given(2, 4)
    recorded = whole.advance(*every)
    first.advance(*(x[:, :1] for x in every))
    second.restore({name: x.clone() for name, x in first.state().items()})
    rest = second.advance(*(x[:, 1:] for x in every))
    assert torch.equal(recorded[:, 1:], rest)
    for name, held in whole.state().items():
        assert torch.equal(held, second.state()[name]), name
    one = alone.advance(*(x[1:] for x in every))
    assert torch.equal(recorded[1:], one)  # to the bit, whatever shares its process
    assert (whole.weights()["1.num_batches_tracked"] == 4).all()
    assert (whole.weights()[DRAWS] - network.initial(0, "gaussian")[DRAWS])[0] == 4
    means = whole.weights()["1.running_mean"]
    assert (means[0] != means[1]).any()


def test_from_start_to_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In E: statistics of fields, dropout off, and the function is invariant to rounding."""
    name = f"{written(tmp_path)}:network"
    jobs = Jobs(tmp_path, monkeypatch, ["--build", name])
    more = ("--optimizer", "adam", "--learning-rate", "0.01", "--rate-schedule", "cosine")
    twin = jobs.train("e", "equivariant", None, "0-1", *more)
    free = jobs.train("n", "nominal", "0.1", "0-1", *more)
    for block in (twin, free):
        words = ["--block", block, "--twins", twin.parent, "--data", jobs.data]
        jobs.run("evaluate", *words, *jobs.network)
    inside, outside = (pd.read_parquet(b.with_suffix(".evaluation.parquet")) for b in (twin, free))
    assert (inside["equivariance_error"] < 1e-5).all()
    assert (outside["equivariance_error"] > 1e-3).all()
    assert (inside["test_accuracy"] > 0.3).all()  # ten classes
    assert (inside["final_distance"] == 0).all()
    table = pd.read_parquet(free)
    assert "distance_0.weight" in table
    assert (table.groupby("seed")["distance"].first() > 0).all()
    assert "1.running_mean" in load_file(free.with_suffix(".safetensors"))

    output, initial = tmp_path / "p.parquet", tmp_path / "initial-0-1.safetensors"
    files = ("--data", jobs.data, "--initial", initial)
    jobs.run("predict", *files, *jobs.network, "--seeds", "0-1", "--output", output)
    assert pd.read_parquet(output).empty


def test_an_edited_network_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path)
    jobs = Jobs(tmp_path, monkeypatch, ["--build", f"{file}:network"])
    jobs.words("e", "equivariant", None, "0")
    file.write_text(file.read_text().replace("Dropout(0.2)", "Dropout(0.3)"))
    with pytest.raises(RuntimeError, match=r"source\.network is .* results of different code"):
        jobs.train("e", "equivariant", None, "0")


REFUSED = {
    "nn.ReLU()": "a ReLU without parameters that need a gradient",
    "1 / 0": "failed in line 6: ZeroDivisionError: division by zero",
    "[1]": "returned a list; accepted: an nn.Module, or a dict",
    "{'module': nn.Linear(2, 2), 'los': 1}": "returned the key 'los'; accepted: module, group,",
    "nn.Sequential(nn.Conv2d(1, 4, (2, 3)), nn.Flatten(), nn.LazyLinear(10))": "is refused: ",
    "nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 7))": (
        r"the outputs have shape \(8, 7\) for 8 samples; accepted: \(8, 10\), a number per class"
    ),
    "nn.Sequential(nn.Conv2d(1, 10, 3), nn.AdaptiveAvgPool2d(1))": (
        r"the outputs have shape \(8, 10, 1, 1\)"
    ),
    "{'module': GOOD, 'loss': lambda y, t: y.mean()}": r"the loss has shape \(\) for 8 samples",
    "{'module': GOOD, 'loss': lambda y, t: y[t, t, t]}": "its loss failed .*IndexError",
    "{'module': GOOD, 'loss': lambda y, t: 0 * y.sum(1)}": "does not depend on the parameters",
}


@pytest.mark.parametrize("returned", REFUSED)
def test_bad_networks_are_refused_in_a_line(
    returned: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = "nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
    good += "nn.Linear(4, 10))"
    text = f"import torch\nfrom torch import nn\nGOOD = {good}\n\ndef network():\n"
    file = written(tmp_path, f"{text}    return {returned}\n")
    jobs = Jobs(tmp_path, monkeypatch)
    output = tmp_path / "network.md"
    words = ("inspect", "--build", f"{file}:network", "--data", jobs.data, "--output", output)
    with pytest.raises(RuntimeError, match=REFUSED[returned]) as refused:
        jobs.run(*words)
    assert str(refused.value).startswith(f"equireg: {file}:network: ")
    assert "\n" not in str(refused.value)
    assert not output.exists()


@pytest.mark.parametrize(
    ("build_", "said"),
    [
        ("{}/none.py:network", r"none\.py is missing"),
        ("{}/mine.py:nothing", r"mine\.py has no function nothing"),
        ("{}/mine.py", r"accepted: path/to/mine\.py:function"),
    ],
)
def test_what_is_not_there_is_named(
    build_: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path)
    with pytest.raises(RuntimeError, match=said):
        Jobs(tmp_path, monkeypatch).run("inspect", "--build", build_.format(tmp_path))


def test_inspect_prints_layers_and_dimensions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs(tmp_path, monkeypatch)
    jobs.run("inspect", "--build", f"{written(tmp_path)}:network", "--data", jobs.data)
    assert "| 0.weight | 8 x 1 x 3 x 3 | 18 | 54 |" in capsys.readouterr().out
    jobs.run("inspect", "--channels", "3")
    assert "| conv1 | 3 x 1 x 3 x 3 | 9 | 18 |" in capsys.readouterr().out


EXAMPLES = Path(__file__).parent.parent / "examples" / "networks"


def test_vectors_and_targets_move_with_the_group() -> None:
    """In E the outputs of moved inputs, moved back, are those of the inputs: exact on vectors."""
    network = build(NetworkSettings(build=f"{EXAMPLES}/perceptron.py:network")).network
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(5, 12, generator=random), torch.randn(5, 2, generator=random)
    moved, targets = network.orbit(x), network.target_orbit(y)
    assert targets is not None
    assert (moved.shape, targets.shape) == ((60, 12), (60, 2))
    assert torch.equal(moved[::12], x)  # the identity comes first
    weights = {name: w.unsqueeze(0) for name, w in network.initial(0, "gaussian").items()}
    each = moved.double().view(5, 12, 12).transpose(0, 1)
    outputs = torch.stack([network.forward(weights, some[None]) for some in each])
    size = float(outputs.abs().max())
    assert float((network.back(outputs) - outputs[0]).abs().max()) < 1e-5 * size
    assert float((outputs[1:] - outputs[0]).abs().max()) > 0.1 * size
    pairs = zip(outputs, targets.view(5, 12, 2).unbind(1), strict=True)
    losses = torch.stack([network.loss(o, t[None]) for o, t in pairs])
    assert torch.allclose(losses, losses[:1].expand_as(losses), atol=1e-5)  # Fact A, image by image


@pytest.mark.parametrize("name", ["p4cnn", "transformer"])
def test_examples_are_accepted_and_invariant_in_e(name: str) -> None:
    built = build(NetworkSettings(build=f"{EXAMPLES}/{name}.py:network"))
    assert built.findings == ()
    weights = {n: w.unsqueeze(0) for n, w in built.network.initial(0, "gaussian").items()}
    turned = built.network.orbit(images(2, 28)).double().view(2, 4, 1, 28, 28).transpose(0, 1) / 255
    outputs = torch.stack([built.network.forward(weights, some[None]) for some in turned])
    assert torch.allclose(outputs, outputs[:1].expand_as(outputs), atol=1e-5)
    assert outputs.std() > 1e-3
