"""``graphsci evaluate``: every method on the user's own held-out molecules, in one table."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from graphsci import _choices as choices
from graphsci._cli.command import command
from graphsci._cli.config import HyperParameters
from graphsci._cli.options import (
    STANDARD_OUTPUT,
    Counts,
    Json,
    Overwrite,
    Quiet,
    Source,
    Threads,
    file_of,
)
from graphsci._cli.processes import use_threads
from graphsci._log import Log
from graphsci._terminal import Reporter

if TYPE_CHECKING:
    from graphsci._jobs.evaluate_request import Job
    from graphsci.config import Config


@dataclass(frozen=True)
class Study:
    """Which methods are compared, on what, and how often."""

    methods: Annotated[
        list[str],
        typer.Option(
            "--method",
            metavar="NAME",
            help="graphsci, graphsci-mean (the kept count not used again), a control (nothing, "
            "gene_mean, gene_mean_posterior, neighbour_pooling, neighbour_pooling_posterior, "
            "empty, truth), or with --held-out a layer of the input with expected counts at each "
            "cell's own depth; may be repeated. Without it: all but layers.",
        ),
    ] = field(default_factory=list)
    design: Annotated[
        choices.Designs,
        typer.Option(
            help="What is held out: a share of all molecules, a share of the non-zero entries, "
            "molecules in a fifth of the cells (training on the others), all molecules above "
            "--depth; or all designs, one after the other.",
        ),
    ] = "molecules"
    fraction: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of molecules or entries held out.")
    ] = choices.HELD_OUT_FRACTION
    depth: Annotated[
        float | None,
        typer.Option(
            help="Median molecules per cell that '--design depth' keeps; half of what there is "
            "with '--design all'."
        ),
    ] = None
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Layer with molecules that were held out before; the counts are what was kept.",
        ),
    ] = None
    seeds: Annotated[
        int,
        typer.Option(
            min=1,
            help="Repeat with this many seeds, from --seed on: each holds out, trains and clusters "
            "anew.",
        ),
    ] = 1


@dataclass(frozen=True)
class Scores:
    """What is scored beside the prediction of held-out molecules, and how."""

    level: Annotated[
        float,
        typer.Option(
            min=1e-6, max=1 - 1e-6, help="Level of the interval whose coverage is measured."
        ),
    ] = choices.INTERVAL_LEVEL
    label_key: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of obs; adds clustering scores."),
    ] = None
    protocol: Annotated[
        str,
        typer.Option(
            help="Clustering: tsne-kmeans (the paper), umap-kmeans, phate-kmeans, pca-kmeans, "
            "pca-leiden.",
        ),
    ] = choices.PROTOCOL
    clustering_seeds: Annotated[int, typer.Option(min=1, help="Seeds of the clustering.")] = (
        choices.CLUSTERING_SEEDS
    )
    shuffled: Annotated[
        int,
        typer.Option(
            "--shuffled-genes",
            min=0,
            help="Score false signal with this many shuffled genes, e.g. 100; trains once more.",
        ),
    ] = 0


@command
def evaluate(
    source: Source,
    *,
    counts: Counts,
    study: Study,
    scores: Scores,
    write_split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Only hold out, as with this --seed: write kept counts (X) and held-out ones "
            "(layer 'held_out').",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Keep results and pictures here; what is there already is not computed again.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one row per method, seed and score.")
    ] = None,
    json_to: Json = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
    config: HyperParameters,
) -> None:
    """Score graphsci and simple methods on molecules held out from your own counts."""
    from graphsci._jobs import evaluate as work
    from graphsci._jobs import evaluate_report, evaluate_request
    from graphsci._versions import source_digest, versions

    given = {**vars(counts), **vars(study), **vars(scores)}
    given["methods"] = evaluate_request.method_names(given["methods"])
    job = evaluate_request.Job(source=source, output=output, **given)
    outputs = evaluate_report.Outputs(
        csv=csv,
        json=file_of(json_to),
        print_json=json_to == STANDARD_OUTPUT,
        overwrite=overwrite,
        quiet=quiet,
    )
    use_threads(threads)
    reporter = Reporter(quiet)
    if write_split is not None:
        _write_split(job, write_split, config, overwrite=overwrite, log=reporter.log)
        return
    outputs.check(job.output)
    with reporter.listening():
        outcomes = work.evaluate(job, config, progress=reporter.progress, log=reporter.log)
    found = evaluate_report.summary(
        job,
        outcomes,
        config=config.to_dict(),
        versions={**versions(), "source": source_digest()},
    )
    evaluate_report.deliver(outcomes, job, found, outputs)


def _write_split(job: Job, path: Path, config: Config, *, overwrite: bool, log: Log) -> None:
    """Hold out only, and say what was written."""
    from graphsci._jobs import evaluate as work

    kept = work.write_split(
        job, path, seed=config.seed, copies=config.copies, overwrite=overwrite, log=log
    )
    log(
        f"written: {path}, {kept.n_obs:,} cells x {kept.n_vars:,} genes; X holds the kept counts, "
        f"layers['{work.HELD_OUT_LAYER}'] the others"
    )
