"""The benchmark runs and says what it measured; how fast, no test can know."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

from equireg.jobs.bench import operations, patches_of_zeros, strokes
from equireg.settings import NetworkSettings

HAS_COMPILER = any(map(shutil.which, ("c++", "g++", "clang++")))


def test_bench() -> None:
    command = [sys.executable, "-m", "equireg", "bench", "--seeds", "0-1", "--steps", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["block"] == 2
    for name in ("engine", "reference", "torch_compile", "baseline"):
        first, third = result[f"{name}_quartiles_us"]
        assert 0 < first <= result[f"{name}_us"] <= third
    assert abs(result["ratio"] - result["baseline_us"] / result["engine_us"]) < 0.05
    assert result["device"]
    if HAS_COMPILER:
        assert 1 < result["peak_gflops"] < 1000
        assert abs(result["engine_to_floor"] - result["engine_us"] / result["floor_us"]) < 0.2


def test_images_are_as_empty_as_mnists() -> None:
    images = strokes(1000, 28)
    assert 0.78 < (images == 0).mean() < 0.84
    assert 0.58 < patches_of_zeros(images, 3).mean() < 0.66


def test_operations_of_the_papers_step() -> None:
    """Counted by hand, per image: the convolutions 2 and 3 times, the linear layer 3 times."""
    first, second, linear = 14**2 * 9 * 16, 7**2 * 9 * 256, 49 * 160
    expected = 20 * (2 * first + 3 * second + 3 * linear)
    assert operations(NetworkSettings(), 10, 0.0) == expected
    assert operations(NetworkSettings(), 10, 0.5) == expected - 20 * first
