"""Looks at the functions along training: when, on what, and that they change nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from equireg.settings import NetworkSettings
from equireg.training import watch
from equireg.training.network import Network
from equireg.training.recorder import Recorder
from experiment import NETWORK, Jobs


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    monkeypatch.setattr(watch, "SPACING", 1)
    yield Jobs(tmp_path, monkeypatch)
    torch.set_flush_denormal(False)
    torch.use_deterministic_algorithms(False)


def test_looks(jobs: Jobs) -> None:
    """At the start, after each epoch, and at the end; the last one as evaluation has it."""
    jobs.monkeypatch.setattr(watch, "IMAGES", 800)  # all 200 test images in four turns
    block = jobs.train("a", "nominal", "1e-2", "0-1")
    seen = pq.read_table(block.with_suffix(".function.parquet")).to_pandas()
    assert seen["seed"].tolist() == [0, 0, 0, 1, 1, 1]
    assert seen["step"].tolist() == [0, 30, 60] * 2
    jobs.run("evaluate", "--block", block, "--data", jobs.data, *NETWORK)
    end = pq.read_table(block.with_suffix(".evaluation.parquet")).to_pandas()
    for name in ("equivariance_error", "prediction_change"):
        last = seen[seen["step"] == 60][name].to_numpy()
        assert last == pytest.approx(end[name].to_numpy(), rel=1e-5)
    equivariant = jobs.train("e", "equivariant", None, "0")
    inside = pq.read_table(equivariant.with_suffix(".function.parquet")).to_pandas()
    assert (inside["equivariance_error"] < 1e-5).all()
    assert inside["gamma"].isna().all()


def test_images_are_taken_evenly_from_all() -> None:
    """Test sets are often sorted by class, or by who wrote the digits."""
    network = Network.of(NetworkSettings(group="C4"))
    every = torch.arange(1000)
    seen = watch.Watch(network, every, every, epoch=10, steps=10, batch=1)
    assert len(seen.images) == watch.IMAGES // 4
    assert (int(seen.images[0]), int(seen.images[-1])) == (0, 999)
    assert {*seen.images.diff().tolist()} == {3, 4}
    assert torch.equal(seen.images, seen.targets)


def test_a_training_that_was_cut_off_keeps_what_was_seen(jobs: Jobs) -> None:
    """And a look changes no trajectory."""
    whole = jobs.train("whole", "nominal", "1e-2", "0-1")
    save, saved = Recorder.save, []

    def leave(self: Recorder, state: dict[str, torch.Tensor]) -> None:
        save(self, state)
        saved.append(self.done)
        if len(saved) == 1:
            raise RuntimeError("the power is cut")

    jobs.monkeypatch.setattr(Recorder, "save", leave)
    with pytest.raises(RuntimeError, match="power"):
        jobs.train("cut", "nominal", "1e-2", "0-1")
    cut = jobs.train("cut", "nominal", "1e-2", "0-1")
    assert saved == [30, 60]
    for suffix in (".function.parquet", ".parquet"):
        assert cut.with_suffix(suffix).read_bytes() == whole.with_suffix(suffix).read_bytes()
    jobs.monkeypatch.setattr(watch.Watch, "look", blind)
    unseen = jobs.train("unseen", "nominal", "1e-2", "0-1")
    assert unseen.read_bytes() == whole.read_bytes()


def blind(watched: watch.Watch, *_: object) -> None:
    watched.looks = [torch.zeros(2, 3, dtype=torch.float64)]


@pytest.mark.parametrize(
    ("epoch", "batch", "due"),
    [
        (6000, 10, [0, 6000, 12000]),  # the paper's
        (50, 10, [0, 4000, 8000, 12000]),  # 80 epochs of 500 images
        (7000, 10, [0, 7000, 12000]),
    ],
)
def test_looks_are_far_enough_apart(epoch: int, batch: int, due: list[int]) -> None:
    network = Network.of(NetworkSettings())
    images, labels = torch.zeros(5000, 1, 28, 28, dtype=torch.uint8), torch.zeros(5000)
    made = watch.Watch(network, images, labels, epoch, 12_000, batch)
    assert sorted(made.due) == due
    assert len(made.images) == 300
