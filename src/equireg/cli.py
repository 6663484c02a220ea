"""The command line: ``python -m equireg <command>``, a thin layer over ``equireg.jobs``.

It is long because every option of every command stands here, with its help, and nothing else does.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import signal
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from equireg.gpus import own
from equireg.runtime import configured, wipe
from equireg.settings import (
    DataSettings,
    GridSettings,
    InitializationSettings,
    JobSettings,
    Mode,
    NetworkSettings,
    SelectionSettings,
    SourceSettings,
    TrainingSettings,
)
from equireg.spelling import parse_seeds

app = typer.Typer(
    help="Learning group equivariance from augmented data and a penalty.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def options(*sections: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of ``sections``, and pass it the sections, built.

    The command takes one keyword argument per section, named like the class without ``Settings``,
    in lower case. So that each option is named, typed, defaulted and explained in one place.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        names = {s: s.__name__.removesuffix("Settings").lower() for s in sections}
        parameters = [p for name, p in own.items() if name not in names.values()]
        for section in sections:
            hints = typing.get_type_hints(section)
            for field in dataclasses.fields(section):
                kind: Any = hints[field.name]
                if typing.get_origin(kind) is tuple:
                    (element, _) = typing.get_args(kind)
                    choices = typing.get_origin(element) is Literal  # typer has no lists of them
                    kind = list.__class_getitem__(str if choices else element)
                annotation = Annotated[kind, typer.Option(help=field.metadata["help"])]
                parameters.append(
                    inspect.Parameter(
                        field.name,
                        inspect.Parameter.KEYWORD_ONLY,
                        default=field.default,
                        annotation=annotation,
                    )
                )

        def wrapped(**values: Any) -> None:
            built = {}
            for section, name in names.items():
                chosen = {f.name: values.pop(f.name) for f in dataclasses.fields(section)}
                built[name] = section(
                    **{k: tuple(v) if isinstance(v, list) else v for k, v in chosen.items()}
                )
            command(**values, **built)

        keyword_only = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
        wrapped.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in keyword_only}
        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        return wrapped

    return decorate


Output = Annotated[Path, typer.Option(help="File to write.")]
Seeds = Annotated[str, typer.Option(help="Seeds, such as 0-9 or 0,3,7-9.")]
Threads = Annotated[int, typer.Option(help="Threads of the process.")]
OwnGpu = Annotated[
    bool, typer.Option(help="Take a GPU that no other such job has, and wait for one.")
]
SumsFile = Annotated[Path | None, typer.Option(help="Known SHA-256 sums.")]
SummaryFile = Annotated[Path, typer.Option(help="Table of quantiles over seeds.")]
InitialFile = Annotated[Path, typer.Option(help="Initial weights, written by initialize.")]
DataFile = Annotated[Path, typer.Option(help="The data set's file, written by fetch.")]


@app.command()
@options(SourceSettings)
def fetch(*, source: SourceSettings, output: Output, sums: SumsFile = None) -> None:
    """Obtain a data set, check its sums, and decode it into one file."""
    from equireg.jobs.fetch import fetch

    fetch(source, output, sums)


@app.command("inspect")
@options(NetworkSettings)
def inspect_network(
    *,
    network: NetworkSettings,
    data: Annotated[
        Path | None, typer.Option(help="The data set's file, to try the network on.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Report to write, as Markdown.")] = None,
) -> None:
    """Build the network once; print its layers and the dimensions of E."""
    from equireg.jobs.inspect import inspect

    print(inspect(network, data, output), end="")


@app.command()
@options(NetworkSettings, InitializationSettings)
def initialize(
    *,
    network: NetworkSettings,
    initialization: InitializationSettings,
    seeds: Seeds,
    output: Output,
) -> None:
    """Draw the initial equivariant weights of a block of seeds."""
    from equireg.jobs.initialize import initialize

    initialize(network, initialization, parse_seeds(seeds), output)


@app.command()
@options(NetworkSettings, TrainingSettings, SelectionSettings, JobSettings)
def train(
    *,
    network: NetworkSettings,
    training: TrainingSettings,
    selection: SelectionSettings,
    job: JobSettings,
    mode: Annotated[Mode, typer.Option(help="Training mode.")],
    gamma: Annotated[
        list[float] | None, typer.Option(help="Penalty, once per block; none if equivariant.")
    ] = None,
    seeds: Seeds,
    data: DataFile,
    initial: InitialFile,
    output: Annotated[
        list[Path], typer.Option(help="Parquet to write, once per block; the rest goes beside it.")
    ],
    parent: Annotated[int | None, typer.Option(help="Process whose end ends this one.")] = None,
    own_gpu: OwnGpu = False,
) -> None:
    """Train blocks of runs, stacked: one mode, some gammas, some seeds.

    Cut off, the same command goes on from its checkpoint.
    """
    from equireg.processes import stopping

    with own(own_gpu), stopping(parent) as stop, configured(job) as device:
        from equireg.jobs.train import train
        from equireg.training.blocks import Blocks

        blocks = Blocks.of(mode, gamma or [], parse_seeds(seeds))
        train(blocks, network, training, data, initial, output, device, job, stop, selection)


@app.command()
@options(NetworkSettings, JobSettings)
def step(*, network: NetworkSettings, job: JobSettings) -> None:
    """Say which training step this machine takes, and compile it if it is not there yet."""
    print(_step_here(network, job))


@app.command()
@options(NetworkSettings, SelectionSettings, JobSettings)
def evaluate(
    *,
    network: NetworkSettings,
    selection: SelectionSettings,
    job: JobSettings,
    block: Annotated[
        list[Path], typer.Option(help="Parquet of a block, its weights beside it; once per block.")
    ],
    twins: Annotated[
        Path | None, typer.Option(help="Folder of the equivariant blocks of the seeds.")
    ] = None,
    data: DataFile,
    own_gpu: OwnGpu = False,
) -> None:
    """Test the trained blocks of a mode and gamma; write evaluations and ensembles beside them."""
    with own(own_gpu), configured(job) as device:
        from equireg.jobs.evaluate import evaluate

        evaluate(network, block, twins, data, device, job, selection)


@app.command()
@options(GridSettings)
def aggregate(
    *,
    grid: GridSettings,
    experiment: Annotated[Path, typer.Option(help="Folder of the experiment.")],
) -> None:
    """Collect the blocks of an experiment into its three tables."""
    from equireg.jobs.aggregate import aggregate

    aggregate(experiment, grid)


@app.command()
@options(NetworkSettings, TrainingSettings, SelectionSettings, GridSettings, JobSettings)
def predict(
    *,
    network: NetworkSettings,
    training: TrainingSettings,
    selection: SelectionSettings,
    grid: GridSettings,
    job: JobSettings,
    data: DataFile,
    initial: InitialFile,
    output: Output,
    own_gpu: OwnGpu = False,
) -> None:
    """Predict figure 2 from the equivariant runs alone."""
    with own(own_gpu), configured(job) as device:
        from equireg.jobs.predict import predict

        predict(network, training, grid, data, initial, output, device, job, selection)


@app.command()
def score(
    *,
    predictions: Annotated[Path, typer.Option(help="Table of predicted quantiles.")],
    summary: SummaryFile,
    output: Output,
) -> None:
    """Say how far the predicted distances are from the measured ones."""
    from equireg.jobs.score import score

    score(predictions, summary, output)


@app.command()
def draw(
    *,
    trajectories: Annotated[Path, typer.Option(help="Table of every run and step.")],
    summary: SummaryFile,
    predictions: Annotated[
        Path | None, typer.Option(help="Table of predicted quantiles, to be drawn too.")
    ] = None,
    function: Annotated[
        Path | None, typer.Option(help="Table of what the functions were along training.")
    ] = None,
    output: Annotated[list[Path], typer.Option(help="Figure to write, once per format.")],
    function_output: Annotated[
        list[Path] | None, typer.Option(help="Figure of the functions, once per format.")
    ] = None,
) -> None:
    """Draw the paper's figure 2, and beside it how far from symmetric the functions are."""
    from equireg.jobs.draw import draw

    draw(trajectories, summary, output, predictions, function, function_output or [])


@app.command()
@options(DataSettings, NetworkSettings, TrainingSettings)
def check(
    *,
    data: DataSettings,
    network: NetworkSettings,
    training: TrainingSettings,
    trajectories: Annotated[Path, typer.Option(help="Table of every run and step.")],
    summary: SummaryFile,
    evaluation: Annotated[Path, typer.Option(help="Table with a row per run.")],
    numbers: Annotated[
        Path | None, typer.Option(help="Numbers of the authors' code, JSON, to compare with.")
    ] = None,
    output: Output,
) -> None:
    """Check the paper's sentences and its authors' numbers against the measured ones."""
    from equireg.jobs.check import check

    sections = {"data": data, "network": network, "training": training}
    check(trajectories, summary, evaluation, output, numbers, sections)


@app.command()
def compare(
    *,
    evaluation: Annotated[list[Path], typer.Option(help="Table with a row per run.")],
    name: Annotated[list[str], typer.Option(help="What to call each table's experiment.")],
    critical: Annotated[
        Path | None, typer.Option(help="Table of critical gammas, marked on the figure.")
    ] = None,
    figure: Annotated[list[Path], typer.Option(help="Figure to write, once per format.")],
    output: Output,
) -> None:
    """Draw and tabulate trained networks against gamma, one experiment or several."""
    from equireg.jobs.compare import compare

    if len(set(name)) != len(evaluation):
        raise ValueError(f"name is {', '.join(name)}; accepted: one for each --evaluation")
    compare(dict(zip(name, evaluation, strict=True)), figure, output, critical)


@app.command()
def sweep(
    *,
    experiment: Annotated[Path, typer.Option(help="Folder of the sweep, which has theirs.")],
    over: Annotated[
        str, typer.Option(help='Values by key: {"training.learning_rate": [0.001, 0.01]}.')
    ],
    output: Output,
    report: Annotated[Path, typer.Option(help="Report to write, as Markdown.")],
    figure: Annotated[list[Path], typer.Option(help="Figure to write, once per format.")],
    beside: Annotated[
        list[Path] | None, typer.Option(help="Folder of another sweep, once each.")
    ] = None,
) -> None:
    """Put the evaluations of a sweep's combinations into one table, a figure and a report."""
    from equireg.jobs.sweep import sweep
    from equireg.sweeps import parse_sweep

    sweep(experiment, parse_sweep(over), output, report, figure, beside or [])


@app.command()
def choose(
    *,
    first: Annotated[Path, typer.Option(help="Folder of the study's first stage, a sweep.")],
    experiment: Annotated[str, typer.Option(help="Name of the second stage.")],
    seeds: Annotated[str, typer.Option(help="Seeds of the second stage, such as 100-119.")],
    test_images: Annotated[
        int | None, typer.Option(help="Test images of the second stage; none: all.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Training images of the second stage, as 10000=12000: for the first's."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Preset to write, as YAML.")],
    choices: Annotated[Path, typer.Option(help="What was chosen, to write as JSON.")],
) -> None:
    """Write the study's second stage: what did best on the validation images of the first."""
    from equireg.jobs.choose import choose

    more = {}
    for pair in images or []:
        match = re.fullmatch(r"(\d+)=(\d+)", pair)
        if not match:
            raise ValueError(f"images is {pair!r}; accepted: two numbers, such as 10000=12000")
        more[int(match[1])] = int(match[2])
    choose(first, experiment, seeds, test_images, more, output, choices)


@app.command()
def verdict(
    *,
    experiment: Annotated[Path, typer.Option(help="Folder of the second stage's sweep.")],
    choices: Annotated[Path, typer.Option(help="JSON that choose wrote.")],
    data: Annotated[Path, typer.Option(help="Folder of the data sets' files.")],
    threads: Threads = 1,
    gate: Annotated[
        float | None,
        typer.Option(help="Error on validation images that networks in E are to reach."),
    ] = None,
    output: Output,
    figure: Annotated[list[Path], typer.Option(help="Figure to write, once per format.")],
) -> None:
    """Judge the study's second stage by the rule that was fixed before it ran."""
    from equireg.jobs.verdict import judge

    judge(experiment, choices, data, output, figure, gate, threads)


@app.command()
def escape(
    *,
    experiment: Annotated[Path, typer.Option(help="Folder of a sweep over gamma's schedule.")],
    critical: Annotated[
        Path | None, typer.Option(help="Table of critical gammas at the release.")
    ] = None,
    output: Output,
    figure: Annotated[list[Path], typer.Option(help="Figure to write, once per format.")],
) -> None:
    """Judge whether networks that leave E come back to a better place on it."""
    from equireg.jobs.escape import escape

    escape(experiment, output, figure, critical)


@app.command()
def asymmetry(
    *,
    experiment: Annotated[Path, typer.Option(help="Folder of a sweep over turned-mnist-...")],
    data: Annotated[Path, typer.Option(help="Folder of the data sets' files.")],
    output: Output,
    figure: Annotated[list[Path], typer.Option(help="Figure to write, once per format.")],
) -> None:
    """Judge which way to train is best as less of the data is symmetric."""
    from equireg.jobs.asymmetry import asymmetry

    asymmetry(experiment, data, output, figure)


@app.command()
def overview(
    *,
    experiment: Annotated[str, typer.Option(help="Name of the experiment.")],
    figure: Annotated[Path, typer.Option(help="PNG of the figure.")],
    document: Annotated[list[Path], typer.Option(help="Markdown to show, once per document.")],
    output: Output,
) -> None:
    """Write one page with the figure, the claims and the numbers."""
    from equireg.jobs.overview import overview

    overview(experiment, figure, document, output)


@app.command()
@options(NetworkSettings)
def theory(
    *,
    network: NetworkSettings,
    threads: Threads = 1,
    data: DataFile,
    block: Annotated[
        list[Path] | None, typer.Option(help="Parquet of a trained block, its weights beside it.")
    ] = None,
    output: Output,
    report: Annotated[Path, typer.Option(help="Report to write, as Markdown.")],
    figure: Annotated[
        list[Path] | None,
        typer.Option(help="theory_rates, theory_plateau or theory_spectrum; once per format."),
    ] = None,
) -> None:
    """Measure every statement of the paper: facts, theorems, remarks."""
    with configured(JobSettings(1, "cpu")):
        from equireg.jobs.theory import theory

        theory(network, data, block or [], output, report, figure or [], threads)


@app.command()
@options(NetworkSettings, TrainingSettings)
def critical(
    *,
    network: NetworkSettings,
    training: TrainingSettings,
    threads: Threads = 1,
    mode: Annotated[list[str], typer.Option(help="Mode of training, once per mode.")],
    seeds: Seeds,
    data: DataFile,
    initial: InitialFile,
    trained: Annotated[Path, typer.Option(help="Trained weights of the equivariant runs.")],
    output: Output,
) -> None:
    """Find the penalty above which E attracts, from the Hessian."""
    with configured(JobSettings(threads, "cpu")):
        from equireg.jobs.critical import critical

        critical(network, training, mode, parse_seeds(seeds), data, initial, trained, output)


@app.command()
@options(JobSettings)
def bench(
    *,
    job: JobSettings,
    seeds: Seeds = "0-9",
    steps: Annotated[int, typer.Option(help="Steps per measurement.")] = 200,
    json: Annotated[bool, typer.Option(help="Print the JSON object alone.")] = False,
) -> None:
    """Time the training loop beside the plain step and a usual script."""
    with configured(job) as device:
        from equireg.jobs.bench import bench, table

        result = table(bench(parse_seeds(seeds), steps, device, job))
        print(result.splitlines()[-1] if json else result)


@app.command()
@options(JobSettings)
def against(
    *,
    job: JobSettings,
    authors: Annotated[
        Path,
        typer.Option(help="A clone of the authors' repository; its networks_final.py is run."),
    ],
    data: DataFile,
    mode: Annotated[list[str] | None, typer.Option(help="augmented or nominal; both.")] = None,
    gamma: Annotated[list[float] | None, typer.Option(help="Penalty; the paper's four.")] = None,
    seeds: Seeds = "0",
    steps: Annotated[int, typer.Option(help="Steps of a training.")] = 1000,
) -> None:
    """Train beside the authors' networks, from the same start and on the same batches."""
    with configured(job) as device:
        from equireg.jobs.against import against, table

        modes: Any = mode or ["augmented", "nominal"]
        chosen, gammas = parse_seeds(seeds), gamma or GridSettings().gammas
        compared = list(against(authors, modes, gammas, chosen, steps, data, device, job))
        print(table(compared, chosen, steps))


@app.command()
def schema(
    *,
    output: Annotated[
        Path | None, typer.Option(help="JSON Schema to write; none: print it.")
    ] = None,
    page: Annotated[Path | None, typer.Option(help="The same as a page in Markdown.")] = None,
) -> None:
    """Write what a configuration may be, for editors and for readers."""
    from equireg.config.schema import page_text, schema_text
    from equireg.files import write_text

    for file, text in ((output, schema_text()), (page, page_text())):
        if file:
            write_text(file, text)
    if not (output or page):
        print(schema_text(), end="")


@app.command()
def status(
    *,
    configfile: Annotated[
        list[Path] | None, typer.Option(help="Preset laid over config.yaml, as for snakemake.")
    ] = None,
    name: Annotated[bool, typer.Option(help="Print the experiment's name alone.")] = False,
    live: Annotated[bool, typer.Option(help="Stay until every run is done.")] = False,
) -> None:
    """Show which runs of an experiment are done, running, stopped, failed or missing."""
    from rich.console import Console

    from equireg.config import load
    from equireg.jobs.status import follow, status

    configuration = load(["config.yaml", *(configfile or [])])
    if name:
        print(configuration.experiment)
        return
    show = follow if live else status
    show(configuration, Path("results"), Console())
    if not live:
        print(_step_here(configuration.network, configuration.jobs))


def _step_here(network: NetworkSettings, jobs: JobSettings) -> str:
    """Which step a training would take here, as ``step`` says it; or why there would be none."""
    try:
        with configured(jobs) as device:
            from equireg.jobs.step import step

            return step(network, jobs, device)
    except ValueError as error:
        return f"training here: none, as {error}"


def main() -> None:
    """Run the command line; a wrong input is answered by one line and status 1.

    SIGTERM ends a command as Ctrl-C does, so that it takes its half-written files along.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        app()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"{wipe()}equireg: {error}")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        said = (str(error) or "no more could be had").splitlines()[0]
        remedy = "a job of fewer seeds (grid: seeds_per_job) needs less"
        sys.exit(f"{wipe()}equireg: out of memory ({said}); {remedy}")
    finally:
        signal.signal(signal.SIGTERM, before)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory was lacking, on the host or on a device: torch says so by its message."""
    said = r"out of memory|can't allocate memory|not enough memory"
    return isinstance(error, MemoryError) or re.search(said, str(error)) is not None
