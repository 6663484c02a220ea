"""The benchmark runs and says what it measured; how fast, no test can know."""

from __future__ import annotations

import json
import subprocess
import sys


def test_bench() -> None:
    command = [sys.executable, "-m", "equireg", "bench", "--seeds", "0-1", "--steps", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["block"] == 2
    for name in ("engine", "reference", "baseline"):
        first, third = result[f"{name}_quartiles_us"]
        assert 0 < first <= result[f"{name}_us"] <= third
    assert abs(result["ratio"] - result["baseline_us"] / result["engine_us"]) < 0.05
    assert result["device"]
