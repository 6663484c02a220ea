"""The compiled training step, held to the reference in float64."""

from __future__ import annotations

import ctypes
import math
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from equireg.batches import batches, elements, turned
from equireg.compiled import Compiled, CompiledForward, choose, compiled_is_faster
from equireg.network import Network
from equireg.packed import Packed, UnavailableError
from equireg.step import Reference, Runs, Trainer, start
from torch import Tensor

from equireg import compiled, native
from equireg.dataset import load_dataset
from equireg.jobs.fetch import fetch
from equireg.jobs.initialize import draw_equivariant
from equireg.jobs.train import perturbation
from equireg.settings import DataSettings, Mode, NetworkSettings, TrainingSettings

DIGITS = Path(__file__).parent / "data" / "digits"
HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs a C++ compiler")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tensor, Tensor]:
    file = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    fetch(DataSettings(name="digits", folder=str(DIGITS)), file, None)
    dataset = load_dataset(file, 28, 10)
    return dataset.train_images, dataset.train_labels


def block(network: Network, mode: Mode, seeds: list[int], gamma: float, noise: float) -> Runs:
    initial = {
        name: torch.stack([draw_equivariant(space, name, seed, "gaussian") for seed in seeds])
        for name, space in network.layers.items()
    }
    draws = [perturbation(network, mode, seed, noise) for seed in seeds]
    moved = {name: torch.stack([draw[name] for draw in draws]) for name in network.layers}
    return start(network, initial, None if mode == "equivariant" else moved, [gamma] * len(seeds))


def images_of_size(images: Tensor, size: int) -> Tensor:
    if size <= 28:
        return images[:, :size, :size].contiguous()
    return torch.nn.functional.pad(images, (0, size - 28) * 2)


def worst(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).abs() / expected.abs().clamp(min=1e-12)).max())


CASES = {
    "paper": NetworkSettings(),
    "mirrored": NetworkSettings(group="D4"),
    "trivial group": NetworkSettings(group="C1"),
    "cross": NetworkSettings(support="cross"),
    "lopsided": NetworkSettings(support="lopsided", allow_incompatible_support=True),
    "wide filter": NetworkSettings(kernel_size=5),
    "pixel filter": NetworkSettings(kernel_size=1),
    "one layer": NetworkSettings(channels=(32,)),
    "three layers": NetworkSettings(channels=(16, 32, 48), image_size=32),
    "odd sizes": NetworkSettings(channels=(16, 16), image_size=20, classes=11),
    "few channels": NetworkSettings(channels=(4, 8)),
    "uneven channels": NetworkSettings(channels=(12, 20), image_size=16, classes=12),
}


@needs_compiler
@pytest.mark.parametrize("mode", ["equivariant", "augmented", "nominal"])
@pytest.mark.parametrize("case", CASES)
def test_against_the_reference(case: str, mode: Mode, digits: tuple[Tensor, Tensor]) -> None:
    network = Network(CASES[case])
    images, labels = digits
    images = images_of_size(images, network.settings.image_size)
    table = turned(images, elements(network.group, mode))
    training = TrainingSettings(epochs=1, order="shuffled")
    seeds, rate, scale = [0, 1], 2e-3, 0.5
    exact = block(network, mode, seeds, 0.1, 1e-2)
    fast = Compiled(network, block(network, mode, seeds, 0.1, 1e-2), table, rate, scale)
    slow = Reference(network, exact, table, rate, scale)
    for rows, classes in batches(network.group, mode, seeds, labels, training, 12):
        found, expected = fast.advance(rows, classes), slow.advance(rows, classes)
        if mode == "equivariant":
            assert (found[..., 1:] == 0).all()
            found, expected = found[..., :1], expected[..., :1]
        found = found[..., ~(expected == 0).all(0).all(0)]  # a layer without a complement
        expected = expected[..., ~(expected == 0).all(0).all(0)]
        assert worst(found.double(), expected) < 1e-4
    final = slow.weights()
    for name, weight in fast.weights().items():
        assert (weight - final[name]).norm() / final[name].norm() < 1e-4


@needs_compiler
@pytest.mark.parametrize("trained", [False, True])
def test_gradients(trained: bool, digits: tuple[Tensor, Tensor]) -> None:
    """To 1e-5 relative, as the change of the weights in one step of unit size."""
    network = Network(NetworkSettings())
    images, labels = digits
    table = images.flatten(1)
    runs = block(network, "nominal", [0, 1], 0.0, 1e-1)
    if trained:
        reference = Reference(network, runs, table, 0.05, 1.0)
        for rows, classes in batches(
            network.group, "nominal", [0, 1], labels, TrainingSettings(epochs=5), 30
        ):
            reference.advance(rows, classes)
    hold_gradients(network, runs, table, labels)


def hold_gradients(network: Network, runs: Runs, table: Tensor, labels: Tensor) -> None:
    rows = torch.arange(20).view(2, 1, 10)
    before = runs.weights(network)
    fast = Compiled(network, runs, table, 1e3, 1.0)  # a long step, that rounding does not hide
    slow = Reference(network, runs, table, 1e3, 1.0)
    fast.advance(rows, labels[rows].long())
    slow.advance(rows, labels[rows].long())
    for name, weight in fast.weights().items():
        gradient = slow.weights()[name] - before[name]
        difference = weight - before[name] - gradient
        assert difference.norm() / gradient.norm() < 1e-5


X86 = platform.machine() in ("x86_64", "AMD64")
WIDTHS = {  # what the compiler is told, and what the processor must have to run it
    "SSE2": ((), ("-march=x86-64",), "sse2"),
    "AVX2": ((), ("-march=x86-64-v3",), "avx2"),
    "AVX-512": ((), ("-march=x86-64-v4",), "avx512f"),
    "4 of 8 lanes": ((("LANES", 4),), ("-march=x86-64-v3",), "avx2"),
    "16 lanes in pairs": ((("LANES", 16), ("REGISTERS", 32)), ("-march=x86-64-v3",), "avx2"),
}


@needs_compiler
@pytest.mark.skipif(not X86, reason="needs an x86-64 processor")
@pytest.mark.parametrize("shape", ["paper", "wide"])
@pytest.mark.parametrize("width", WIDTHS)
def test_every_width(
    width: str, shape: str, digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients to 1e-5 with each set of instructions that this processor has."""
    defines, flags, feature = WIDTHS[width]
    network = Network(NetworkSettings(channels=(16, 16) if shape == "paper" else (32, 48)))
    macros = {**compiled.sizes(network.settings), **dict(defines)}
    try:
        loaded = native.library(compiled.SOURCE, macros, (*compiled.FLAGS, *flags))
    except UnavailableError as error:
        if f"bad value ({flags[0].removeprefix('-march=')})" in str(error):
            pytest.skip(f"needs a compiler that knows {flags[0]}")
        raise
    if feature.encode() not in native.processor_features().split():
        pytest.skip(f"compiled, not run: needs a processor with {feature}")
    monkeypatch.setattr(compiled, "library", lambda settings: compiled.declared(loaded))
    images, labels = digits
    runs = block(network, "nominal", [0, 1], 0.0, 1e-1)
    hold_gradients(network, runs, images.flatten(1), labels)


@needs_compiler
def test_bits_depend_neither_on_the_block_nor_on_the_threads(
    digits: tuple[Tensor, Tensor],
) -> None:
    network = Network(NetworkSettings())
    images, labels = digits
    table = turned(images, network.group.elements)
    recorded, final = {}, {}
    for seeds, threads, chunk in (([0, 1, 2], 1, 7), ([0, 1, 2], 3, 30), ([1], 1, 30)):
        runs = block(network, "augmented", seeds, 1e-2, 1e-3)
        step = Compiled(network, runs, table, 1e-2, 0.1, threads=threads)
        chunks = batches(network.group, "augmented", seeds, labels, TrainingSettings(), chunk)
        recorded[len(seeds), threads] = torch.cat([step.advance(*chunk) for chunk in chunks], 1)
        final[len(seeds), threads] = {**step.weights(), "distances": step.distances()}
    assert torch.equal(recorded[3, 1], recorded[3, 3])
    assert torch.equal(recorded[3, 1][1:2], recorded[1, 1])
    for name, tensor in final[1, 1].items():
        assert torch.equal(tensor, final[3, 1][name][1:2])
        assert torch.equal(tensor, final[3, 3][name][1:2])


@pytest.mark.parametrize("kind", [pytest.param(Compiled, marks=needs_compiler), Reference])
def test_a_restored_state_goes_on_to_the_bit(
    kind: type[Compiled | Reference], digits: tuple[Tensor, Tensor]
) -> None:
    network = Network(NetworkSettings())
    images, labels = digits
    table, training = turned(images, network.group.elements), TrainingSettings(epochs=1)

    def trainer() -> Trainer:
        runs = block(network, "augmented", [0, 1], 1e-2, 1e-3).to(torch.float32)
        return kind(network.to(torch.float32), runs, table, 1e-2, 0.1)

    first, second, other = batches(network.group, "augmented", [0, 1], labels, training, 10)
    whole = trainer()
    whole.advance(*first)
    state = {name: held.clone() for name, held in whole.state().items()}
    assert all(len(held) == 2 for held in state.values())
    expected, weights = whole.advance(*second), whole.weights()
    resumed = trainer()
    resumed.advance(*other)
    resumed.restore(state)
    assert torch.equal(resumed.advance(*second), expected)
    assert torch.equal(resumed.distances(), whole.distances())
    for name, weight in resumed.weights().items():
        assert torch.equal(weight, weights[name])


@needs_compiler
def test_two_networks_in_one_process(digits: tuple[Tensor, Tensor]) -> None:
    """Their steps take turns: constants of one must not be those of the other."""
    images, labels = digits
    pairs = []
    for case in ("paper", "odd sizes", "wide filter"):
        network = Network(CASES[case])
        table = images_of_size(images, network.settings.image_size).flatten(1)
        runs = [block(network, "nominal", [0], 0.1, 1e-2) for _ in range(2)]
        pairs.append(
            (
                Compiled(network, runs[0], table, 2e-3, 0.5),
                Reference(network, runs[1], table, 2e-3, 0.5),
            )
        )
    for k in range(3):
        rows = torch.arange(20 * k, 20 * (k + 1)).view(1, 2, 10)
        for fast, slow in pairs:
            found = fast.advance(rows, labels[rows].long())
            assert worst(found.double(), slow.advance(rows, labels[rows].long())) < 1e-4


Call = Callable[[Packed, list[compiled._Space], list[float], list[float], Tensor], np.ndarray]


def call(network: Network, images: Tensor, labels: Tensor) -> Call:
    """``train`` of compiled.cpp itself, for one run: gammas, rates, rows -> recorded."""
    library = compiled.library(network.settings)

    def train(
        packed: Packed,
        spaces: list[compiled._Space],
        rates: list[float],
        gammas: list[float],
        rows: Tensor,
    ) -> np.ndarray:
        steps, batch = rows.shape
        recorded = np.empty((steps, 1 + len(spaces)), np.float32)
        arrays = [np.array(values, np.float32) for values in (rates, gammas)]
        classes = labels[rows].long()
        library.train(
            *(x.data_ptr() for x in (images, rows, classes)),
            *(steps, batch, (compiled._Space * len(spaces))(*spaces)),
            *(x.data_ptr() for x in packed._held().values()),
            *(0.5 / batch, *(x.ctypes.data for x in arrays), recorded.ctypes.data),
        )
        return recorded

    return train


@needs_compiler
@pytest.mark.parametrize("case", ["paper", "lopsided"])
def test_a_rate_and_a_gamma_per_step(case: str, digits: tuple[Tensor, Tensor]) -> None:
    """As the reference in float64 with another rate and gamma at every step; inf: in E."""
    network = Network(CASES[case])
    images, labels = digits
    table, rows = images.flatten(1), torch.arange(80).view(8, 10)
    rates = [1e-2, 2e-2, 0.0, 5e-3, 1e-2, 1e-2, 3e-2, 1e-2]
    gammas = [0.0, 1e-1, 1.0, 10.0, math.inf, 1e-1, 0.0, 2.0]
    packed = Packed(network, block(network, "nominal", [0], 0.0, 1e-2))
    orbits = [compiled._Orbits(space) for space in network.layers.values()]
    train = call(network, table, labels)
    found = train(packed, [o.space for o in orbits], rates, gammas, rows)

    slow = Reference(network, block(network, "nominal", [0], 0.0, 1e-2), table, 0.0, 0.5)
    for step, (rate, gamma) in enumerate(zip(rates, gammas, strict=True)):
        frozen = math.isinf(gamma)
        slow.learning_rate = rate
        slow.runs.gamma.fill_(0.0 if frozen else gamma)
        slow.runs.free.fill_(not frozen)
        squares = slow.distances()[0, 1:].square()
        expected = slow.step(rows[step].unsqueeze(0), labels[rows[step]].long().unsqueeze(0))[0]
        assert worst(torch.from_numpy(found[step, :1]).double(), expected[:1]) < 1e-4
        assert torch.allclose(torch.from_numpy(found[step, 1:]).double(), squares, rtol=1e-4)
        if frozen:  # by this step, whose gradient was taken before
            for b in slow.runs.complement.values():
                b.zero_()


@needs_compiler
def test_in_e(digits: tuple[Tensor, Tensor]) -> None:
    """An infinite gamma sets the part outside E to 0 at once, and the part in E goes on."""
    network = Network(NetworkSettings())
    images, labels = digits
    rows, train = torch.arange(30).view(3, 10), call(network, images.flatten(1), labels)
    orbits = [compiled._Orbits(space) for space in network.layers.values()]
    packed = Packed(network, block(network, "nominal", [0], 0.0, 1e-2))
    train(packed, [o.space for o in orbits], [1e-2] * 3, [math.inf] * 3, rows)
    assert (packed.outside == 0).all()
    assert (packed.squares == 0).all()
    inside = packed.inside.clone()
    for weight in packed.weights().values():
        assert torch.equal(weight, weight.rot90(1, (-2, -1)))
    train(packed, [o.space for o in orbits], [1e-2] * 3, [math.inf] * 3, rows)
    assert not torch.equal(packed.inside, inside)


@needs_compiler
@pytest.mark.parametrize("width", [1, 4, 10, 16])
def test_lines_of_any_width(width: int, digits: tuple[Tensor, Tensor]) -> None:
    """The same layers in shorter lines, whose orbits are more: the same weights, to the bit."""
    network = Network(NetworkSettings(channels=(16, 20)))
    images, labels = digits
    rows, train = torch.arange(30).view(3, 10), call(network, images.flatten(1), labels)
    weights, squares = [], []
    for shorter in (False, True):
        packed = Packed(network, block(network, "nominal", [0], 0.0, 1e-2))
        spaces, kept = [], []
        for space in network.layers.values():
            orbits = compiled._Orbits(space)
            order, ends, inside = orbits.arrays
            lines, wide = orbits.space.lines, orbits.space.width
            if shorter and wide % width == 0:
                parts = wide // width
                cut = [
                    np.arange(parts)[:, None] + own * parts for own in np.split(order, ends)[:-1]
                ]
                orders = [row for own in cut for row in own]
                arrays = [
                    np.concatenate(orders).astype(np.int32),
                    np.cumsum([len(own) for own in orders]).astype(np.int32),
                    inside.repeat(parts),
                ]
                pointers = (array.ctypes.data for array in arrays)
                kept.append(arrays)
                spaces.append(compiled._Space(lines * parts, width, len(ends) * parts, *pointers))
            else:
                kept.append(orbits.arrays)
                spaces.append(orbits.space)
        train(packed, spaces, [1e-1, 1e-2, 1e-1], [0.1, 1.0, 0.0], rows)
        weights.append(packed.whole)
        squares.append(packed.squares)
    assert torch.equal(weights[0], weights[1])
    assert torch.allclose(squares[0], squares[1], rtol=1e-5)


@needs_compiler
def test_patches_of_zeros(digits: tuple[Tensor, Tensor]) -> None:
    """They are left out of the first convolution: black images, single pixels, and digits."""
    network = Network(NetworkSettings())
    images, labels = digits[0][:20].clone(), digits[1][:20]
    images[0] = 0
    images[2:12] = 0
    for n, (y, x) in enumerate([(0, 0), (0, 27), (27, 0), (27, 27), (13, 13), (14, 0), (27, 14)]):
        images[2 + n, y, x] = 255
    runs = block(network, "nominal", [0, 1], 0.0, 1e-2)
    hold_gradients(network, runs, images.flatten(1), labels)


AARCH64 = "aarch64-linux-gnu-g++", "qemu-aarch64"


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, AARCH64)), reason=f"needs {' and '.join(AARCH64)}")
def test_neon(digits: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Compiled for 64-bit ARM and run under emulation: the gradients of this processor's step."""
    network = Network(NetworkSettings())
    images, labels = digits[0][:20].flatten(1).contiguous(), digits[1]
    rows = torch.arange(20).view(2, 10)
    orbits = [compiled._Orbits(space) for space in network.layers.values()]
    packed = Packed(network, block(network, "nominal", [0], 0.0, 1e-1))
    text = [f"{o.space.lines} {o.space.width} {o.space.orbits} {len(o.arrays[0])}" for o in orbits]
    tables = [" ".join(map(str, array.astype(int))) for o in orbits for array in o.arrays]
    numbers = [*rows.flatten().tolist(), *labels[rows].flatten().tolist()]
    held = list(packed._held().values())
    (tmp_path / "input").write_text(
        "\n".join(
            [
                f"{len(images)} {images.shape[1]} {len(orbits)} {len(rows)} {rows.shape[1]}",
                *text,
                *tables,
                " ".join(map(str, numbers)),
                " ".join(str(x.numel()) for x in held),
            ]
        )
    )
    with open(tmp_path / "data", "wb") as file:
        file.write(images.numpy().tobytes())
        for x in held:
            file.write(x.numpy().tobytes())
    program, driver = tmp_path / "train", Path(__file__).with_name("train_once.cpp")
    macros = [f"-D{name}={value}" for name, value in compiled.sizes(network.settings).items()]
    command = [AARCH64[0], "-std=c++17", "-O3", "-static", *compiled.FLAGS, *macros]
    subprocess.run([*command, str(compiled.SOURCE), str(driver), "-o", str(program)], check=True)
    done = subprocess.run(
        [AARCH64[1], str(program), str(tmp_path / "input"), str(tmp_path / "data")],
        check=True,
        capture_output=True,
    )
    before = packed.whole.clone()
    train = call(network, images, labels)
    recorded = train(packed, [o.space for o in orbits], [1e3, 1e-3], [0.0, 0.1], rows)
    found = torch.frombuffer(bytearray(done.stdout), dtype=torch.float32)
    weights, losses = found.split([before.numel(), recorded.size])
    change = packed.whole[0] - before[0]
    assert (weights - packed.whole[0]).norm() / change.norm() < 1e-5
    assert worst(losses, torch.from_numpy(recorded).flatten()) < 1e-4


@needs_compiler
def test_what_is_not_a_number_stays_so(digits: tuple[Tensor, Tensor]) -> None:
    network = Network(NetworkSettings())
    images, labels = digits
    for name in network.layers:
        runs = block(network, "nominal", [0], 0.0, 1e-3)
        runs.equivariant[name][0, 0, 0, 0] = float("nan")
        step = Compiled(network, runs, images.flatten(1), 1e-3, 1.0)
        rows = torch.arange(20).view(1, 2, 10)
        assert not step.advance(rows, labels[rows].long())[0, 1, 0].isfinite()


@needs_compiler
def test_tanh_far_out(digits: tuple[Tensor, Tensor]) -> None:
    """Saturated units: large weights, still the reference's loss."""
    network = Network(NetworkSettings())
    images, labels = digits
    runs = block(network, "nominal", [0], 0.0, 10.0)
    rows = torch.arange(10).view(1, 1, 10)
    arguments = network, runs, images.flatten(1), 1e-9, 1.0
    found = Compiled(*arguments).advance(rows, labels[rows].long())
    expected = Reference(*arguments).advance(rows, labels[rows].long())
    assert worst(found.double(), expected) < 1e-4


@needs_compiler
@pytest.mark.parametrize("case", CASES)
def test_forward_against_the_reference(case: str, digits: tuple[Tensor, Tensor]) -> None:
    network = Network(CASES[case])
    images = images_of_size(digits[0], network.settings.image_size)[:50]
    weights = block(network, "nominal", [0, 1], 0.0, 0.1).weights(network)
    expected = network.forward(weights, (images.double() / 255).expand(2, -1, -1, -1))
    found = CompiledForward(network, weights, images, threads=2)(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_what_is_chosen_and_said(capsys: pytest.CaptureFixture[str]) -> None:
    def impossible() -> str:
        raise UnavailableError("the moon is full")

    assert choose("auto", lambda: "fast", lambda: "plain") == "fast"
    assert choose("reference", lambda: "fast", lambda: "plain") == "plain"
    assert choose("auto", impossible, lambda: "plain") == "plain"
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "step: compiled for this machine"
    assert said[1] == "step: the reference; as asked"
    assert said[2].endswith("as the moon is full")
    with pytest.raises(ValueError, match="step is 'compiled', but the moon is full; accepted"):
        choose("compiled", impossible, lambda: "plain")


def test_reasons_not_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.library.cache_clear()
    with pytest.raises(UnavailableError, match=r"channels are \[6\], not multiples of 4"):
        compiled.library(NetworkSettings(channels=(6,)))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UnavailableError, match=r"no C\+\+ compiler"):
        compiled.library(NetworkSettings())


@needs_compiler
def test_large_images_do_not_overflow_the_stack() -> None:
    network = Network(NetworkSettings(channels=(128, 16), image_size=256, classes=2))
    runs = block(network, "nominal", [0], 0.0, 1e-3)
    step = Compiled(network, runs, torch.zeros(1, 256**2, dtype=torch.uint8), 1e-3, 1.0)
    zero = torch.zeros(1, 1, 1, dtype=torch.int64)
    assert step.advance(zero, zero).isfinite().all()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("channels", [(16, 16), (12, 12), (64, 64)])
def test_the_slower_step_is_not_taken(channels: tuple[int, int]) -> None:
    """The rule against the clock: what it leaves must not be faster by a third."""
    settings = NetworkSettings(channels=channels)
    exact = Network(settings)
    network = exact.to(torch.float32)
    images = torch.randint(256, (100, 28**2), dtype=torch.uint8)
    runs = [block(exact, "nominal", [0, 1, 2, 3], 1e-2, 1e-3) for _ in range(2)]
    rows = torch.randint(100, (4, 10, 10))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    steps: tuple[Trainer, Trainer] = (
        Compiled(network, runs[0].to(torch.float32), images, 1e-3, 0.1),
        Reference(network, runs[1].to(torch.float32), images, 1e-3, 0.1),
    )
    best = [math.inf, math.inf]
    for _ in range(6):  # they take turns; the least is the least disturbed
        for i, step in enumerate(steps):
            began = time.perf_counter()
            step.advance(rows, rows % 10)
            best[i] = min(best[i], time.perf_counter() - began)
    torch.set_num_threads(threads)
    lanes = ctypes.c_int.in_dll(compiled.library(settings), "lanes").value
    taken, left = best if compiled_is_faster(lanes, channels) else reversed(best)
    assert taken < left * 4 / 3


def test_where_the_compiled_step_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(compiled_is_faster(lanes, (16, 64)) for lanes in (4, 8, 16))
    assert [compiled_is_faster(lanes, (16, 68)) for lanes in (4, 8, 16)] == [False, True, True]
    monkeypatch.setattr(compiled, "compiled_is_faster", lambda lanes, channels: False)
    if HAS_COMPILER:
        compiled.library.cache_clear()
        with pytest.raises(
            UnavailableError, match=r"the reference is faster for channels \[16, 16\]"
        ):
            compiled.library(NetworkSettings())
