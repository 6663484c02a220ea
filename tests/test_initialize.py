"""Initial weights: in E, with the variances of the authors' code, and by seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from equireg import binding
from equireg.jobs.initialize import initialize
from equireg.settings import Distribution, InitializationSettings, NetworkSettings
from equireg.training.network import Network
from equireg.weights import load_weights


@pytest.mark.parametrize("distribution", ["gaussian", "uniform"])
def test_entry_variances(distribution: Distribution) -> None:
    network = Network.of(NetworkSettings())
    seeds = [network.initial(seed, distribution) for seed in range(100)]
    expected = {"conv1": 1 / 3, "conv2": 1 / 48, "linear": 1 / 576}
    for name, space in network.spaces.items():
        draws = torch.stack([draw[name] for draw in seeds])
        assert torch.allclose(space.project(draws), draws, atol=1e-14)
        variance = draws.square().mean((0, 1, 2))
        if name == "linear":
            assert np.isclose(variance[3, 3], 1 / 48, rtol=0.1)
            variance[3, 3] = expected[name]
        assert np.allclose(variance, expected[name], rtol=0.15)
        kurtosis = (draws[..., 0, 0] ** 4).mean() / draws[..., 0, 0].square().mean() ** 2
        assert np.isclose(kurtosis, 3.0 if distribution == "gaussian" else 1.8, rtol=0.2)


def test_files_depend_on_the_seeds_alone(tmp_path: Path) -> None:
    for name, seeds in (("a", [0, 1, 2]), ("b", [0, 1, 2]), ("c", [2])):
        initialize(NetworkSettings(), InitializationSettings(), seeds, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    spaces = Network.of(NetworkSettings()).spaces
    many, about = load_weights(tmp_path / "a", [2], spaces)
    one, _ = load_weights(tmp_path / "c", [2], spaces)
    assert about["initialization"]["distribution"] == "gaussian"
    assert all(torch.equal(many[name], one[name]) for name in many)
    assert many["conv2"].shape == (1, 16, 16, 3, 3)
    with pytest.raises(ValueError, match="lacks seed 5"):
        load_weights(tmp_path / "a", [5], spaces)
    narrow = Network.of(NetworkSettings(channels=(16, 8))).spaces
    with pytest.raises(ValueError, match=r"conv2 of shape .* expected \(8, 16, 3, 3\)"):
        load_weights(tmp_path / "a", [2], narrow)
    with pytest.raises(FileNotFoundError, match="initialize writes initial weights"):
        load_weights(tmp_path / "none", [2], spaces)


def test_a_file_that_is_no_weight_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("<html>")
    with pytest.raises(ValueError, match=r"is damaged, or no weight file .* delete it"):
        load_weights(tmp_path / "x", [0], {})


def test_what_a_file_says_of_itself_may_be_nested_without_end(tmp_path: Path) -> None:
    """Python's reader of JSON ends with another error then than for what is no JSON."""
    file = tmp_path / "x.safetensors"
    save_file({"seeds": torch.tensor([0])}, file, {"about": "[" * 100_000})
    with pytest.raises(ValueError, match=r"no weight file of equireg \(nested too deeply\)"):
        load_weights(file, [0], {})
    with pytest.raises(ValueError, match="does not say what made it"):
        binding.read(file)
