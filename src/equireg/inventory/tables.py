"""Tables, figures and pages: which are there, and whether the configuration would make the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from equireg import binding
from equireg.binding import Binding
from equireg.config import Configuration
from equireg.inventory.blocks import completed, digest_of
from equireg.plan import predicted_seeds
from equireg.settings import UNREAD, Mode, SelectionSettings, part
from equireg.spelling import parse_seeds, spell_seeds
from equireg.sweeps import parse_sweep, spell_sweep


def tables(
    configuration: Configuration, results: Path, data: str | None, digests: Mapping[str, str]
) -> Iterator[tuple[Path, bool]]:
    """Each that is there; false where other settings, data, code or another grid made it.

    data: the data set's sum; digests: of the code of the jobs that lead to evaluations.
    """
    folder, grid = results / configuration.experiment, configuration.grid
    seeds = spell_seeds(parse_seeds(grid.seeds))
    free = [mode for mode in sorted(grid.modes) if mode != "equivariant"]
    gammas = {"gammas": sorted(grid.gammas)} if free else {}  # of none, whatever they are
    of_grid = {"modes": sorted(grid.modes), "seeds": seeds, **gammas}
    few = {"modes": free, "seeds": spell_seeds(list(predicted_seeds(grid))), **gammas}
    of_network = binding.options(network=configuration.network)
    own = of_network.pop("source", {})
    common: Binding = {
        **of_network,
        **binding.options(initialization=configuration.initialization),
        "data": {
            **dataclasses.asdict(part(SelectionSettings, configuration.data)),
            **({"sha256": data} if data else {}),
        },
    }
    training = dataclasses.asdict(configuration.training)

    def of(modes: Collection[Mode], *jobs: str, **more: Any) -> Binding:
        """What is made of runs of these modes, by these jobs in the end."""
        read = {k: v for k, v in training.items() if any(k not in UNREAD[mode] for mode in modes)}
        source = {**digests, **{job: digest_of(job) for job in jobs}}
        return {**common, "training": read, "source": source, **more}

    def table(*jobs: str) -> Binding:
        return of(grid.modes, "aggregate", *jobs, grid=of_grid)

    for name in ("trajectories", "summary", "evaluation", "ensembles", "function"):
        yield from _sort(folder / f"{name}.parquet", table())
    start = {**own, "initialize": digests["initialize"], "predict": digest_of("predict")}
    prediction = {**common, "training": training, "source": start}
    yield from _sort(folder / "predictions.parquet", prediction, few)
    trained = {job: digests[job] for job in (*own, "initialize", "train")}
    if configuration.mark_critical:
        source = {**trained, "critical": digest_of("critical")}
        critical = {**of(["equivariant"]), "source": source}
        yield from _sort(folder / "critical.parquet", critical, {"modes": free})
    theory = {**of(grid.modes), "source": {**trained, "theory": digest_of("theory")}}
    for name in ("theory.parquet", "theory.md"):
        yield from _sort(folder / name, theory)
    compared = {
        "names": [configuration.experiment, *configuration.compare],
        "beside": {
            name: _said(results / name / "evaluation.parquet") for name in configuration.compare
        },
        "critical": configuration.mark_critical,
    }
    for name in ("comparison.md", "figures/comparison.png"):
        yield from _sort(folder / name, table("compare"), compared)
    for name, job in (("claims.md", "check"), ("figures/function.png", "draw")):
        yield from _sort(folder / name, table(job))
    for name, job in (
        ("predictions.md", "score"),
        ("figures/figure2.png", "draw"),
        ("figures/figure2.html", "draw"),
    ):
        yield from _sort(folder / name, table("predict", job))
    page = table("predict", "draw", "check", "compare", "overview")
    yield from _sort(folder / "overview.html", page, {"experiment": configuration.experiment})
    inspected = {**of_network, "source": {**own, "inspect": digest_of("inspect")}}
    yield from _sort(folder / "network.md", inspected)


def tables_of_sweep(configuration: Configuration, folder: Path) -> Iterator[tuple[Path, bool]]:
    """The same of what is made of all combinations of a sweep, in its folder."""
    over = parse_sweep(spell_sweep(configuration.sweep))
    for job, name, runs in (
        ("sweep", "sweep.parquet", {"sweep": over}),
        ("sweep", "sweep.md", {"sweep": over}),
        ("sweep", "figures/sweep.png", {"sweep": over}),
        ("overview", "overview.html", {"experiment": configuration.experiment}),
    ):
        yield from _sort(folder / name, {"source": {job: digest_of(job)}}, runs)


def _said(file: Path) -> dict[str, Any] | None:
    """A file's binding; None where it has none."""
    try:
        return binding.read(file)
    except ValueError:
        return None


def _sort(
    file: Path, chosen: Binding, runs: Mapping[str, Any] | None = None
) -> Iterator[tuple[Path, bool]]:
    """A file, if it is there, and whether it says what is chosen.

    runs: what its section on runs has to say, to the letter; of others a value that is not in
    ``chosen`` does no harm.
    """
    if not file.is_file():
        return
    made = _said(file) or {}
    own = made.get(binding.OWN)
    yield (
        file,
        bool(made)
        and not binding.differences(completed(made), chosen)
        and (
            not runs or (isinstance(own, Mapping) and all(own.get(k) == v for k, v in runs.items()))
        ),
    )
