"""One run on files: read, check, train or load, write. What the command line and the demo do.

Everything that can be refused is refused before anything takes long: outputs, then the
request, then the counts. Estimates of all genes are streamed to disk in blocks of cells.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from graphsci import io
from graphsci._choices import CHECKPOINT_MINUTES, Digits
from graphsci._imputing.as_batch import check_as_batch
from graphsci._jobs.checks import check_networks, check_outputs, check_request
from graphsci._jobs.files import Endings, FileJob, stays_on_disk
from graphsci._jobs.output import is_shared, write_estimates, write_share
from graphsci._jobs.summary import Clock, cost, summarise
from graphsci._keys import Keys, keys
from graphsci._log import Log, say_nothing
from graphsci.config import Config
from graphsci.estimates import ESTIMATES, Depth, Estimate, Scale, estimate_names
from graphsci.imputer import GraphSCI
from graphsci.io.files import write_json, write_text
from graphsci.io.streams import take_cells
from graphsci.preprocessing import extract_batch, positions_of
from graphsci.training.checkpoint import Checkpoint

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.report import Picture
    from graphsci.training.distributed import Team
    from graphsci.training.loop import Progress


@dataclass(frozen=True)
class Job(FileJob):
    """What to read, which estimates to make, and where to write them."""

    ENDINGS: ClassVar[Endings] = {
        "output": io.ANNDATA_SUFFIXES,
        "model": None,
        "report": (".html", ".htm"),
        "json": (".json",),
    }

    source: Path | str  #: the input, or what it is called if it is not a file
    output: Path
    estimates: tuple[Estimate, ...] = ("denoised",)
    genes: tuple[str, ...] | None = None
    depth: Depth = "own"
    scale: Scale = "counts"
    interval: float | None = None
    as_batch: str | None = None
    prefix: str = ""
    model: Path | None = None  #: folder to save the model in
    checkpoint: Path | None = None  #: file that keeps the state of training until the end
    checkpoint_minutes: float = CHECKPOINT_MINUTES  #: between two writings of it
    report: Path | None = None
    json: Path | None = None
    label_key: str | None = None  #: column of obs that colours the report's figures
    markers: tuple[str, ...] = ()  #: genes in the report's figures
    title: str = "graphsci report"
    backed: bool | None = None  #: leave the input on disk; None decides by its size
    cells: tuple[str, ...] | None = None  #: only these cells
    dtype: Digits = "float32"  #: of the estimates
    compression: Literal["gzip"] | None = None  #: of the estimates
    drop_below: float | None = None  #: store layers sparse, without values below this

    def __post_init__(self) -> None:
        """Refuse names that no file can hold, before any work."""
        _ = self.slots

    @property
    def request(self) -> dict[str, Any]:
        """Arguments that say which estimates are meant."""
        names = ("estimates", "genes", "depth", "scale", "interval", "as_batch")
        return {name: getattr(self, name) for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the matrices that will be written, without prefix."""
        return estimate_names(self.estimates, self.interval)

    @property
    def slots(self) -> Keys:
        """Where the results go in the AnnData."""
        return keys(self.key_added, prefix=self.prefix)

    def stored(self, name: str) -> str:
        """Name of a matrix where it is stored."""
        return self.slots.layer(name) if self.genes is None else self.slots.table(name)

    @property
    def place(self) -> Literal["layers", "obsm"]:
        """Attribute of the AnnData that the matrices go to."""
        return "layers" if self.genes is None else "obsm"

    def slot(self, name: str) -> str:
        """Where a matrix goes, as Python would write it."""
        return f'{self.place}["{self.stored(name)}"]'

    def taken(self, adata: AnnData) -> list[str]:
        """Slots of the results that ``adata`` has already, as Python would write them."""
        matrices: Sequence[tuple[str, str]] = [
            (self.place, self.stored(name)) for name in self.names
        ]
        wanted: Sequence[tuple[str, str]] = [*self.slots.beside_estimates, *matrices]
        if self.slots.network in adata.uns and self.slots.uns not in adata.uns:
            wanted = matrices  # a network of the same key wrote what its model says of genes
        return [f'{place}["{name}"]' for place, name in wanted if name in getattr(adata, place)]


class Outcome(NamedTuple):
    """A finished run."""

    summary: dict[str, Any]  #: plain values, ready for JSON
    model: GraphSCI
    pictures: list[Picture]  #: of the report; empty without one
    checkpoint: Path | None = None  #: with the state of a training that was interrupted


@dataclass
class _Run:
    """A run under way."""

    job: Job
    trained_here: bool  #: the model is trained on the input, not loaded
    clock: Clock = field(default_factory=Clock)
    log: Log = say_nothing


def impute(
    job: Job,
    config: Config,
    *,
    adata: AnnData | None = None,
    progress: Progress | None = None,
    log: Log = say_nothing,
    team: Team | None = None,
) -> Outcome:
    """Train on the input and write its estimates.

    Parameters
    ----------
    job
        Input, request and outputs.
    config
        Hyper-parameters.
    adata
        The input, if it is in memory already; it is changed.
    progress, log
        Called after every epoch; called with one line before every stage.
    team
        The processes that do the job together; the first one writes.

    Raises
    ------
    ValueError, TypeError, OSError
        Whatever is wrong with outputs, request, or counts.
    KeyboardInterrupt
        Interrupted before there was anything to keep; later, training ends and work goes on.
    """
    _check_outputs(job)
    check_networks(job, read=job.networks)
    run = _Run(job, trained_here=True, log=log)
    adata = _read(run, adata)
    network = job.read_known(job.networks, adata.var_names, log)
    first, checkpoint = team is None or team.rank == 0, None
    if job.checkpoint is not None:
        minutes = job.checkpoint_minutes if first else math.inf  # the others read it
        checkpoint = Checkpoint(job.checkpoint, minutes=minutes)
    with run.clock.stage("training"):
        model = GraphSCI(config).fit(
            adata,
            **job.where,
            gene_graph=network,
            progress=progress,
            log=log,
            checkpoint=checkpoint,
            team=team,
        )
    outcome = _finish_together(run, model, adata, team)
    if first and checkpoint is not None and model.fitted.is_whole:
        checkpoint.remove()
    left = job.checkpoint is not None and job.checkpoint.exists()
    return outcome._replace(checkpoint=job.checkpoint if left else None)


def apply(
    job: Job,
    model_path: Path,
    *,
    device: str = "auto",
    log: Log = say_nothing,
    team: Team | None = None,
) -> Outcome:
    """Write estimates of a trained model for the input's cells.

    Raises
    ------
    ValueError
        If there is a ``team`` and an output that one process alone can write; or as
        :func:`impute`.
    """
    _check_outputs(job)
    if team is not None and not is_shared(job):
        raise ValueError(
            f"devices: {team.size} processes can only share the dense layers of a .zarr, and "
            f"{job.output} is another format or gets chosen genes or sparse layers (--genes, "
            "--drop-below). Use one process, or write all genes densely to a .zarr."
        )
    run = _Run(job, trained_here=False, log=log)
    with run.clock.stage("loading the model"):
        model = GraphSCI.load(model_path, device=device if team is None else str(team.device))
    check_as_batch(job.as_batch, model.fitted.spec.batch_names)
    return _finish_together(run, model, _read(run, None), team)


# --- before the work --------------------------------------------------------------------


def _check_outputs(job: Job) -> None:
    checkpoint = [] if job.checkpoint is None else [job.checkpoint]  # there may be one, to go on
    check_outputs(job, replaced=checkpoint)


def _read(run: _Run, adata: AnnData | None) -> AnnData:
    job = run.job
    if adata is None:
        run.log(f"reading {job.source}")
        with run.clock.stage("reading"):
            adata = job.read(job.source, backed=stays_on_disk(job, run.log))
            if job.cells is not None:
                chosen = positions_of(
                    job.cells, adata.obs_names, kind="cell", option="cells (--cells)"
                )
                adata = take_cells(adata, chosen)
    check_request(job, adata)
    if run.trained_here and job.as_batch is not None:
        check_as_batch(job.as_batch, extract_batch(adata, job.batch_key)[1])
    return adata


def ordered(estimates: Sequence[str]) -> tuple[Estimate, ...]:
    """Return the estimates asked for, once each, in their usual order."""
    return tuple(name for name in ESTIMATES if name in estimates)


# --- after training ---------------------------------------------------------------------


def _finish_together(run: _Run, model: GraphSCI, adata: AnnData, team: Team | None) -> Outcome:
    """Let the first process write all outputs; the others help where they can."""
    if team is None:
        return _finish(run, model, adata)
    if team.rank == 0:
        outcome = _finish(run, model, adata, team)
    else:
        if is_shared(run.job):
            write_share(model, adata, run.job, team)
        outcome = Outcome({}, model, [])
    team.leave()
    return outcome


def _finish(run: _Run, model: GraphSCI, adata: AnnData, team: Team | None = None) -> Outcome:
    """Write all outputs and return the summary."""
    job, log, clock = run.job, run.log, run.clock
    if job.report is not None:
        from graphsci import report  # with matplotlib, which only this needs

        with clock.stage("figures"):
            drawn: dict[str, Any] = {"label_key": job.label_key, "genes": job.markers}
            small = report.sketch(model, adata, **job.where, as_batch=job.as_batch, **drawn)
    cells = model.prepare(adata, **job.where)
    with clock.stage("writing"):
        if job.model is not None:  # first: it is small, and takes longest to make again
            log(f"writing {job.model}")
            model.save(job.model, overwrite=job.overwrite)
        log(f"writing {job.output}")
        write_estimates(model, adata, cells, job, team)
    summary = summarise(job, model, adata, cells, trained_here=run.trained_here)
    pictures: list[Picture] = []
    if job.report is not None:
        log(f"drawing figures, writing {job.report}")
        with clock.stage("figures"):
            pictures = report.figures(model, small, batch_key=job.batch_key, **drawn)
            apart = None if job.as_batch else report.group_departures(small, job.label_key)
        summary |= cost(clock)
        page = report.render(summary, model.history, pictures, departures=apart, title=job.title)
        write_text(job.report, page)
    summary |= cost(clock)
    if job.json is not None:
        write_json(job.json, summary)
    return Outcome(summary, model, pictures)
