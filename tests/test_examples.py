"""The examples run as they are, at a small size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose classes are bright squares of ten sizes in a corner."""
    random = np.random.default_rng(0)
    tensors: dict[str, np.ndarray] = {}
    for part, count in (("train", 200), ("test", 60)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.integers(0, 50, (count, 28, 28)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[: 4 + 2 * label, : 4 + 2 * label] += 200
        tensors |= {f"{part}_images": images[:, None], f"{part}_labels": labels}
    path = tmp_path_factory.mktemp("data") / "squares.safetensors"
    save_file(tensors, path)
    return path


def run(*arguments: str | Path) -> str:
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def errors(output: str) -> list[float]:
    return [float(number) for number in re.findall(r"error ([\d.e+-]+),", output)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["three_lines", "resnet"])
def test_images(name: str, data: Path) -> None:
    output = run(f"examples/{name}.py", "--data", data, "--images", "96")
    start, trained, projected = errors(output)
    assert min(start, trained) > 1e-3
    assert projected < 1e-5
    assert "projected: distance to E" in output


@pytest.mark.slow
def test_own_group() -> None:
    plain, regularized = errors(run("examples/own_group.py"))
    assert regularized < 0.5 * plain


@pytest.mark.slow
def test_benchmark(data: Path) -> None:
    output = run("examples/benchmark.py", "compare", "--seconds", "0.2", "--data", data)
    assert "nominal" in output
    output = run("examples/benchmark.py", "cost", "--side", "33", "--rounds", "1")
    assert len(re.findall(r": [+-][\d.]+% \(median of 1\)", output)) == 3
    output = run("examples/benchmark.py", "making", "sets", "resnet", "--rounds", "1")
    assert all(float(share) < 1 for share in re.findall(r"([\d.]+) of them", output))
    assert output.count(" s a step") == 2


def test_the_example_of_compact_groups(tmp_path: Path) -> None:
    """README's, as it is copied; with the numbers that the text before it says."""
    text = (ROOT / "README.md").read_text()
    (code,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", text, re.S)
        if "orthogonal(3)" in block
    )
    path = tmp_path / "example.py"
    path.write_text(code)
    output = run(path)
    assert "dim E 57 of 1389" in output
    before, after = (float(x) for x in re.findall(r"error (\S+)$", output, re.M))
    assert before == 1
    assert after < 1e-6
