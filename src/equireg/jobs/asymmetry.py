"""Asymmetry: which way to train is best as less of the data is symmetric? Judged and drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from equireg import binding
from equireg.answers import answers, each_experiment
from equireg.binding import with_source, write_document
from equireg.config import Configuration
from equireg.digest import job_digest
from equireg.figures.asymmetry import asymmetry_figure
from equireg.figures.style import check_outputs, save, styled
from equireg.intervals import median_interval, spell_interval
from equireg.markdown import rows_of
from equireg.study.asymmetry import BEST, DATA, arms, compare, share_of, wins
from equireg.study.verdicts import LEVEL, SIGNIFICANT, Comparison
from equireg.tables import open_parquet

PAIR = (6, 9)  # the classes that a half turn takes for each other
CONFUSED = "confused"
NEEDED = [DATA, "mode", "gamma", "seed", "test_accuracy", "validation_accuracy"]


def asymmetry(experiment: Path, data: Path, output: Path, figures: list[Path]) -> None:
    """Write which training is best at each share, how often 6 and 9 are confused, and the figure.

    experiment: folder of a sweep over the data sets ``turned-mnist-...``; data: the folder that has
    them. Raises ValueError where the runs are others.
    """
    check_outputs(figures)
    table = experiment / "sweep.parquet"
    made = with_source(binding.read(table), "asymmetry", job_digest("asymmetry"))
    with open_parquet(table, NEEDED) as file:
        runs: pd.DataFrame = file.read(columns=NEEDED).to_pandas()
    every = each_experiment(experiment)
    found = pd.concat(confusions(one, folder, data) for one, _, folder in every)
    keys = NEEDED[:4]
    # gammas of networks in E are null, which merge takes for equal
    runs = runs.astype({"mode": str}).merge(found, on=keys, how="left", validate="one_to_one")
    compared = compare(runs)
    by_share = {share_of(str(name)): arms(some) for name, some in runs.groupby(DATA)}
    by_share = dict(sorted(by_share.items()))
    write_document(output, text(compared, by_share), made)
    with styled():
        figure = asymmetry_figure(by_share)
        for file in figures:
            save(figure, file, made)


def confusions(one: Configuration, folder: Path, data: Path) -> pd.DataFrame:
    """Of each run: the share of test images of one class of the pair that are given the other."""
    rows = []
    for _, (block, named, labels) in answers(one, folder, data, ["trained"], PAIR):
        shares = (named == sum(PAIR) - labels).double().mean(1)
        own = {DATA: one.data.name, "mode": block.mode, "gamma": block.gamma}
        rows.append(pd.DataFrame({**own, "seed": block.seeds, CONFUSED: shares.numpy()}))
    return pd.concat(rows).astype({"gamma": float})


def text(
    compared: Mapping[str, list[Comparison]], by_share: Mapping[int, Mapping[str, pd.DataFrame]]
) -> str:
    """Where soft equivariance wins, the comparisons, and the numbers of every arm."""
    won = wins(dict(compared))
    shares = ", ".join(f"{share} %" for share in won)
    said = f"where {shares} are kept upright" if won else "nowhere"
    first, second = PAIR
    lines = [
        "A share of the digits is kept upright, in training and in testing alike; the others are "
        "turned by 0, 90, 180 or 270 degrees. Nominal networks with a penalty against networks in "
        "E and augmented ones.",
        "",
        f"- **soft equivariance wins {said}**",
        "",
        "It wins at a share if nominal networks, with the gamma that did best on validation "
        "images, test better than both others, by 0.2 points and a tenth of their error at least, "
        f"with an adjusted p below {SIGNIFICANT:g}. Gains are paired by seed, in points of error, "
        f"with {100 * LEVEL:g} % intervals.",
        "",
    ]
    body = [
        [
            f"{c.cell[1]} %",
            c.arm,
            rival,
            f"{100 * c.gain:+.2f} [{100 * c.low:+.2f}, {100 * c.high:+.2f}]",
            f"{100 * c.margin:.2f}",
            f"{c.adjusted:.2g}",
            "better" if c.gains else "worse" if c.loses else "",
        ]
        for rival, some in compared.items()
        for c in some
    ]
    head = ["kept upright", "networks", "against", "gain", "margin", "p", "reading"]
    lines += rows_of(head, body)
    lines += ["", "Medians over the seeds, with their 95 % intervals, in percent.", ""]
    body = []
    for share, found in by_share.items():
        for name, own in found.items():
            penalty = own["gamma"].iloc[0]
            role = (str(share), name)
            numbers = [
                spell_interval(median_interval(100 * values.to_numpy(), column, *role))
                for column, values in (
                    ("error", 1 - own["test_accuracy"]),
                    (CONFUSED, own[CONFUSED]),
                )
            ]
            shown = f"{name} ({penalty:g})" if name == BEST else name
            body.append([f"{share} %", shown, str(len(own)), *numbers])
    head = ["kept upright", "networks", "seeds", "test error", f"{first} and {second} confused"]
    return "\n".join([*lines, *rows_of(head, body)])
