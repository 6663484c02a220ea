"""Critical: the penalty above which E attracts, from the Hessian at equivariant weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from equireg.binding import joined, options, read, with_source
from equireg.dataset import load_dataset
from equireg.digest import job_digest
from equireg.files import sha256
from equireg.runtime import say
from equireg.settings import MODES, ON_GRID, NetworkSettings, TrainingSettings
from equireg.spelling import spell_gamma
from equireg.tables import write_table
from equireg.theory.cases import sample
from equireg.theory.models import convolutional
from equireg.theory.risks import Risk
from equireg.theory.spectrum import ROUGH, block_operator, smallest
from equireg.training.schedules import risk_scale
from equireg.weights import load_weights

IMAGES = 1024  # that a Hessian sees, counting every turn

SCHEMA = pa.schema(
    [
        pa.field("mode", pa.string(), nullable=False),
        pa.field("weights", pa.string(), nullable=False),  # start or trained
        pa.field("seed", pa.int32(), nullable=False),
        pa.field("mu", pa.float64(), nullable=False),
        pa.field("critical_gamma", pa.float64(), nullable=False),
    ]
)


def critical(
    settings: NetworkSettings,
    training: TrainingSettings,
    modes: Sequence[str],
    seeds: Sequence[int],
    data: Path,
    initial: Path,
    trained: Path,
    output: Path,
) -> None:
    """Write mu and the critical gamma at the seeds' equivariant weights, at start and end.

    mu is the smallest eigenvalue of the mean risk's Hessian on the complement of TE: of R_aug in
    the augmented mode (Theorem 3), of R in the nominal one (Remark 1). The critical gamma is
    max(0, -scale mu), where training divides the mean risk by 1 / scale. Measured on random
    training images. initial, trained: files of equivariant weights. Raises ValueError for unknown
    modes, and for files of another network, or that lack a seed.
    """
    for mode in modes:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; accepted: {', '.join(MODES)}")
    if settings.build:
        raise ValueError(
            f"network.build is {settings.build}; the critical gamma is not applicable: it is taken "
            "of the paper's kind of network"
        )
    if settings.group in ON_GRID:
        raise ValueError(
            f"network.group is {settings.group}; the critical gamma is not applicable: it is taken "
            "with groups that map the pixels to themselves"
        )
    dataset = load_dataset(data, settings)
    model = convolutional(settings)
    scale = risk_scale(training)
    risks = {
        "augmented": Risk(model, *sample(dataset, IMAGES // model.group.order)).augmented(),
        "nominal": Risk(model, *sample(dataset, IMAGES)),
    }
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA.names}
    for mode in sorted(mode for mode in modes if mode != "equivariant"):
        risk = risks[mode]
        for name, file in (("start", initial), ("trained", trained)):
            weights, _ = load_weights(file, seeds, model.spaces)
            for i, seed in enumerate(seeds):
                point = risk.coordinates.of({n: weights[n][i].double() for n in model.spaces})
                block = block_operator(risk, point, "complement")
                mu = float(smallest(block, 1, ROUGH)[0][0])
                gamma = max(0.0, -scale * mu)
                say(f"{mode}, {name}, seed {seed}: critical gamma {spell_gamma(round(gamma, 6))}")
                for column, value in zip(SCHEMA.names, (mode, name, seed, mu, gamma), strict=True):
                    columns[column].append(value)
    chosen = {**options(network=settings), "data": {"sha256": sha256(data)}}
    made = joined({initial: read(initial), trained: read(trained), "the command": chosen})
    runs = {"modes": sorted(mode for mode in modes if mode != "equivariant")}
    made = with_source(made, "critical", job_digest("critical"), runs=runs)
    write_table(output, pa.table(columns, schema=SCHEMA), made)
