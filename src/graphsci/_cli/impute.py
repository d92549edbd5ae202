"""``graphsci impute`` and ``graphsci apply``: estimates by a model trained here, or before.

The work is in :mod:`graphsci._jobs.impute`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from graphsci import _choices as choices
from graphsci._cli.command import command
from graphsci._cli.config import HyperParameters
from graphsci._cli.options import (
    STANDARD_OUTPUT,
    Counts,
    IgnoreCase,
    Json,
    KeyAdded,
    LabelKey,
    Networks,
    NetworkSymbols,
    Overwrite,
    Quiet,
    Source,
    Threads,
    file_of,
)
from graphsci._cli.outcome import tell
from graphsci._cli.processes import dying_of_ctrl_c, launched, use_threads
from graphsci._keys import DEFAULT_KEY
from graphsci._terminal import Reporter, rank
from graphsci.io.files import ANNDATA_SUFFIXES, check_writable

if TYPE_CHECKING:
    from graphsci._jobs.impute import Job


class EstimateName(StrEnum):
    """Names of the estimates; typer takes no list of literals."""

    mean = "mean"
    denoised = "denoised"
    imputed = "imputed"
    imputed_median = "imputed_median"


Output = Annotated[
    Path, typer.Option("--output", "-o", metavar="OUT", help="Where to write: .h5ad or .zarr.")
]


@dataclass(frozen=True)
class Estimates:
    """Which estimates are made, and what they are called."""

    estimate: Annotated[
        list[EstimateName],
        typer.Option("--estimate", help="What to write; may be repeated."),
    ] = field(default_factory=lambda: [EstimateName.denoised])
    genes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|A,B,C",
            help="Write these genes only, as tables in obsm: a file, one a line, or names.",
        ),
    ] = None
    depth: Annotated[
        choices.Depth,
        typer.Option(help="Estimates at each cell's own depth, or all at the median depth."),
    ] = "own"
    scale: Annotated[
        choices.Scale,
        typer.Option(help="Scale of the estimates."),
    ] = "counts"
    interval: Annotated[
        float | None,
        typer.Option(
            min=1e-6,
            max=1 - 1e-6,
            help="Add a posterior interval of this level, e.g. 0.9, to 'denoised'.",
        ),
    ] = None
    as_batch: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="'mean' and 'denoised' of all cells as of this batch, so that batches can be "
            "compared; needs --batch-key. Each cell's own if not given.",
        ),
    ] = None
    key_added: KeyAdded = DEFAULT_KEY
    prefix: Annotated[str, typer.Option(help="Put in front of the names of layers.")] = ""


@dataclass(frozen=True)
class Storage:
    """How the input is held, and the estimates are stored."""

    backed: Annotated[
        bool | None,
        typer.Option(
            "--backed/--no-backed",
            help="Leave IN on disk and read it in chunks, or read it into memory. Not given: on "
            "disk if it is an .h5ad or .zarr of more than a quarter of the free memory.",
            show_default=False,
        ),
    ] = None
    dtype: Annotated[
        choices.Digits,
        typer.Option(help="Digits of the estimates in OUT: float16 has three, up to 65,504."),
    ] = "float32"
    compression: Annotated[
        Literal["none", "gzip"],
        typer.Option(help="Of the layers in OUT; gzip is slow and saves little on dense ones."),
    ] = "none"
    drop_below: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Store layers sparse, without the values below this; OUT says what was dropped.",
        ),
    ] = None


@dataclass(frozen=True)
class Results:
    """What is written beside the estimates."""

    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="Write a report with figures."),
    ] = None
    label_key: LabelKey = None
    json_to: Json = None
    overwrite: Overwrite = False


Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that share the work on this machine, each with its GPU if there are as "
        "many. Not with torchrun, which starts them itself.",
    ),
]


@command
def impute(
    source: Source,
    *,
    output: Output,
    counts: Counts,
    network: Networks = None,
    network_symbols: NetworkSymbols = None,
    ignore_case: IgnoreCase = False,
    estimates: Estimates,
    storage: Storage,
    save_model: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save the trained model."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Keeps the state of a long training; the same command goes on from it, and it is "
            "removed at the end. OUT.checkpoint if not given.",
        ),
    ] = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option(
            min=0,
            help="Minutes between checkpoints; shorter runs leave none. 0 writes every epoch.",
        ),
    ] = choices.CHECKPOINT_MINUTES,
    results: Results,
    devices: Devices = None,
    threads: Threads = None,
    quiet: Quiet = False,
    config: HyperParameters,
) -> None:
    """Train on the raw counts in IN and write OUT: IN with estimates of its expression."""
    check_writable(output, suffixes=ANNDATA_SUFFIXES)  # before the slow import of torch
    checkpoint = checkpoint or output.with_name(output.name + ".checkpoint")
    if launched(devices, checkpoint):
        return
    from graphsci._jobs import impute as work
    from graphsci.training import distributed

    job = _job_of(
        source,
        output,
        counts,
        estimates,
        storage,
        results,
        networks=tuple(network or ()),
        network_symbols=network_symbols,
        ignore_case=ignore_case,
        model=save_model,
        checkpoint=checkpoint,
        checkpoint_minutes=checkpoint_minutes,
    )
    use_threads(threads)
    first = rank() == 0
    reporter = Reporter(quiet or not first)
    team = distributed.join(config.device)
    alone = contextlib.nullcontext() if team is None else dying_of_ctrl_c()
    with reporter.listening(), alone:
        outcome = work.impute(job, config, progress=reporter.progress, log=reporter.log, team=team)
    if first:
        to_stdout = results.json_to == STANDARD_OUTPUT
        tell(outcome, said=reporter.said, json_to_stdout=to_stdout, quiet=quiet)


@command
def apply(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that --save-model wrote.")],
    source: Source,
    *,
    output: Output,
    counts: Counts,
    estimates: Estimates,
    cells: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|A,B,C",
            help="Estimate these cells only: a file, one a line, or names. No other is read.",
        ),
    ] = None,
    storage: Storage,
    results: Results,
    devices: Devices = None,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda' or 'cuda:N'.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Write estimates for the cells in IN with a model trained before; genes match by name."""
    check_writable(output, suffixes=ANNDATA_SUFFIXES)  # before the slow import of torch
    if launched(devices):
        return
    from graphsci._jobs import impute as work
    from graphsci._jobs.files import read_names
    from graphsci.training import distributed

    job = _job_of(
        source,
        output,
        counts,
        estimates,
        storage,
        results,
        cells=None if cells is None else read_names(cells, "cells"),
    )
    use_threads(threads)
    first = rank() == 0
    reporter = Reporter(quiet or not first)
    team = distributed.join(device)
    with reporter.listening():
        outcome = work.apply(job, model, device=device, log=reporter.log, team=team)
    if first:
        to_stdout = results.json_to == STANDARD_OUTPUT
        tell(
            outcome,
            said=reporter.said,
            json_to_stdout=to_stdout,
            quiet=quiet,
        )


def _job_of(
    source: Path,
    output: Path,
    counts: Counts,
    estimates: Estimates,
    storage: Storage,
    results: Results,
    **more: Any,
) -> Job:
    """Say what was asked for in the words of a job."""
    from graphsci._jobs import impute as work
    from graphsci._jobs.files import read_names

    given = {**vars(counts), **vars(estimates), **vars(storage), **more}
    names, genes = given.pop("estimate"), given.pop("genes")
    if given["compression"] == "none":
        given["compression"] = None
    return work.Job(
        source=source,
        output=output,
        estimates=work.ordered(names),
        genes=None if genes is None else read_names(genes, "genes"),
        report=results.report,
        label_key=results.label_key,
        json=file_of(results.json_to),
        overwrite=results.overwrite,
        **given,
    )
