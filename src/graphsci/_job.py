"""One run on files: read, check, train or load, write. What the command line and the demo do.

Everything that can be refused is refused before anything takes long: outputs, then the
request, then the counts. Estimates of all genes are streamed to disk in blocks of cells.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from graphsci import __version__, io, report
from graphsci._info import depth_and_zeros, describe_counts
from graphsci._job_output import LARGEST_HALF, is_shared, write_estimates, write_share
from graphsci._keys import DEFAULT_KEY, Keys, keys
from graphsci.checkpoint import Checkpoint
from graphsci.config import Config
from graphsci.estimates import ESTIMATES, Depth, Estimate, Scale, estimate_names
from graphsci.files import check_writable, write_json, write_text
from graphsci.imputer import Cells, GraphSCI, Request
from graphsci.known_networks import read_known_networks
from graphsci.network._table import network_slot
from graphsci.preprocessing import positions_of
from graphsci.sources import DiskCounts
from graphsci.streams import take_cells

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.distributed import Team
    from graphsci.training import Progress

Log = Callable[[str], None]

#: Share of the free memory from which on an input's matrices stay on disk.
_LARGE = 0.25


@dataclass(frozen=True)
class Job:
    """What to read, which estimates to make, and where to write them."""

    source: Path | str  #: the input, or what it is called if it is not a file
    output: Path
    layer: str | None = None
    batch_key: str | None = None
    genes_in: io.GenesIn | None = None
    make_names_unique: bool = False
    allow_fractional: bool = False
    estimates: tuple[Estimate, ...] = ("denoised",)
    genes: tuple[str, ...] | None = None
    depth: Depth = "own"
    scale: Scale = "counts"
    interval: float | None = None
    key_added: str = DEFAULT_KEY
    prefix: str = ""
    networks: tuple[Path, ...] = ()  #: known gene networks to train with
    network_symbols: Path | None = None  #: names of STRING's proteins
    ignore_case: bool = False  #: match TP53 with Tp53
    model: Path | None = None  #: folder to save the model in
    checkpoint: Path | None = None  #: file that keeps the state of training until the end
    checkpoint_minutes: float = 10.0  #: between two writings of it
    report: Path | None = None
    json: Path | None = None
    label_key: str | None = None  #: column of obs that colours the report's figures
    markers: tuple[str, ...] = ()  #: genes in the report's figures
    title: str = "graphsci report"
    overwrite: bool = False
    backed: bool | None = None  #: leave the input on disk; None decides by its size
    cells: tuple[str, ...] | None = None  #: only these cells
    dtype: Literal["float32", "float16"] = "float32"  #: of the estimates
    compression: Literal["gzip"] | None = None  #: of the estimates
    drop_below: float | None = None  #: store layers sparse, without values below this

    def __post_init__(self) -> None:
        """Refuse names that no file can hold, before any work."""
        _ = self.slots

    @property
    def counts(self) -> dict[str, Any]:
        """Arguments that say which counts are meant."""
        names = ("layer", "batch_key", "allow_fractional")
        return {name: getattr(self, name) for name in names}

    @property
    def request(self) -> dict[str, Any]:
        """Arguments that say which estimates are meant."""
        names = ("estimates", "genes", "depth", "scale", "interval")
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
        if network_slot(self.key_added) in adata.uns and self.slots.uns not in adata.uns:
            wanted = matrices  # a network of the same key wrote what its model says of genes
        return [f'{place}["{name}"]' for place, name in wanted if name in getattr(adata, place)]


class Outcome(NamedTuple):
    """A finished run."""

    summary: dict[str, Any]  #: plain values, ready for JSON
    model: GraphSCI
    pictures: list[report.Picture]  #: of the report; empty without one


class Clock:
    """Seconds spent in the stages of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)

    def finish(self) -> dict[str, float]:
        """Return all stages and the total."""
        return {**self.seconds, "total": round(time.perf_counter() - self._start, 3)}


@dataclass
class _Run:
    """A run under way."""

    job: Job
    clock: Clock = field(default_factory=Clock)
    log: Log = lambda message: None


def impute(
    job: Job,
    config: Config,
    *,
    adata: AnnData | None = None,
    progress: Progress | None = None,
    log: Log = lambda message: None,
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
        The input, if it is in memory already; results are added to it.
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
    check_outputs(job)
    run = _Run(job, log=log)
    adata = _read(run, adata)
    network = None
    if job.networks:
        network = read_known_networks(
            job.networks,
            adata.var_names,
            symbols=job.network_symbols,
            ignore_case=job.ignore_case,
        )
        for note in network.notes:
            log(f"known network: {note}")
    checkpoint = None
    if job.checkpoint is not None:
        writes = team is None or team.rank == 0  # the others read it
        minutes = job.checkpoint_minutes if writes else math.inf
        checkpoint = Checkpoint(job.checkpoint, minutes=minutes)
    with run.clock.stage("training"):
        model = GraphSCI(config).fit(
            adata,
            **job.counts,
            gene_graph=network,
            progress=progress,
            log=log,
            checkpoint=checkpoint,
            team=team,
        )
    outcome = _finish_together(run, model, adata, team)
    first = team is None or team.rank == 0
    if first and checkpoint is not None and model.fitted.stopped != "interrupted":
        checkpoint.remove()
    return outcome


def apply(
    job: Job,
    model_path: Path,
    *,
    device: str = "auto",
    log: Log = lambda message: None,
    team: Team | None = None,
) -> Outcome:
    """Write estimates of a trained model for the input's cells.

    Raises
    ------
    ValueError
        If there is a ``team`` and an output that one process alone can write; or as
        :func:`impute`.
    """
    check_outputs(job)
    if team is not None and not is_shared(job):
        raise ValueError(
            f"devices: {team.size} processes can only share the dense layers of a .zarr, and "
            f"{job.output} is another format or gets chosen genes or sparse layers (--genes, "
            "--drop-below). Use one process, or write all genes densely to a .zarr."
        )
    run = _Run(job, log=log)
    with run.clock.stage("loading the model"):
        model = GraphSCI.load(model_path, device=device if team is None else str(team.device))
    return _finish_together(run, model, _read(run, None), team)


# --- before the work --------------------------------------------------------------------


def check_outputs(job: Job) -> None:
    """Make sure that every output can be written.

    Raises
    ------
    ValueError, OSError
        The ending is wrong, a folder is missing or read-only, or a file exists and may not
        be replaced.
    """
    wanted: list[tuple[Path | None, Sequence[str] | None]] = [
        (job.output, io.ANNDATA_SUFFIXES),
        (job.model, None),
        (job.report, (".html", ".htm")),
        (job.json, (".json",)),
    ]
    for path, suffixes in wanted:
        if path is None:
            continue
        try:
            check_writable(path, suffixes=suffixes, overwrite=job.overwrite)
        except FileExistsError as error:
            raise FileExistsError(f"{error} (command line: --overwrite)") from None
    if job.checkpoint is not None:  # there may be one, to go on from
        check_writable(job.checkpoint, overwrite=True)
        wanted.append((job.checkpoint, None))
    paths = [path.resolve() for path, _ in wanted if path is not None]
    if len(set(paths)) < len(paths):
        raise ValueError("two outputs have the same path; give each its own.")


def _read(run: _Run, adata: AnnData | None) -> AnnData:
    job = run.job
    if adata is None:
        run.log(f"reading {job.source}")
        with run.clock.stage("reading"):
            adata = io.read_counts(
                job.source,
                genes_in=job.genes_in,
                backed=stays_on_disk(job, run.log),
                make_names_unique=job.make_names_unique,
            )
            if job.cells is not None:
                chosen = positions_of(
                    job.cells, adata.obs_names, kind="cell", option="cells (--cells)"
                )
                adata = take_cells(adata, chosen)
    _check_request(job, adata)
    return adata


def stays_on_disk(job: Job, log: Log) -> bool:
    """Whether the input is left on disk: if asked for, or if it is large for this machine.

    Large: more than a quarter of the memory that is available. In memory, counts are held once
    as they came, and the figures and the output need as much again. A few chosen cells are
    read from disk in any case.
    """
    if job.backed is not None:
        return job.backed
    size, available = io.size_in_memory(job.source), io.available_memory()
    if size is None or available is None:
        return False
    if job.cells is None and size > _LARGE * available:
        log(
            f"{job.source} stays on disk: its matrices would take {size / 2**30:.1f} of "
            f"{available / 2**30:.1f} GiB that are free"
        )
    return job.cells is not None or size > _LARGE * available


def _check_request(job: Job, adata: AnnData) -> None:
    """Refuse what the model would only refuse after training."""
    Request.of(adata, **job.request)
    if job.genes is not None and job.drop_below is not None:
        raise ValueError(
            "drop_below (--drop-below): it makes sparse layers, but chosen genes (--genes) are "
            "written as tables. Leave one of the two out."
        )
    if job.drop_below is not None and job.dtype == "float16":
        raise ValueError(
            "dtype (--dtype): sparse layers (--drop-below) have no float16, which scipy could not "
            "read. Leave one of the two out."
        )
    slashed = [name for name in job.genes or () if "/" in name]
    if slashed:
        raise ValueError(
            f"genes (--genes): {slashed[0]!r} has a '/' in its name and cannot be a column of a "
            "table in a file. Rename it in the input, or write all genes."
        )
    if job.genes is None and job.layer in [job.slots.layer(name) for name in job.names]:
        raise ValueError(
            f"layer: the counts are in layers[{job.layer!r}], where an estimate would be written. "
            "Give a prefix (--prefix)."
        )
    if job.label_key is not None and job.label_key not in adata.obs:
        present = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise ValueError(
            f"label_key (--label-key): obs has no column {job.label_key!r}; columns present: "
            f"{present}."
        )
    taken = [] if job.overwrite else job.taken(adata)
    if taken:
        raise ValueError(
            f"the input has {', '.join(taken)} already. Choose another name for this run "
            "(--key-added, --prefix), or replace them: --overwrite."
        )


def ordered(estimates: Sequence[str]) -> tuple[Estimate, ...]:
    """Return the estimates asked for, once each, in their usual order."""
    return tuple(name for name in ESTIMATES if name in estimates)


def read_genes(text: str) -> tuple[str, ...]:
    """Names of genes from a file, one a line, or from a comma-separated list."""
    return read_names(text, "genes")


def read_names(text: str, kind: str) -> tuple[str, ...]:
    """Names of genes or cells from a file, one a line, or from a comma-separated list."""
    path, is_file = Path(text), False
    with contextlib.suppress(OSError):  # a long list is too long for a name of a file
        is_file = path.is_file()
    names = path.read_text(encoding="utf-8").split("\n") if is_file else text.split(",")
    found = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
    if not found:
        raise ValueError(f"{kind}: {text!r} names none; give names or a file with one a line.")
    return found


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
    small = None
    if job.report is not None:
        with clock.stage("figures"):
            options = {**job.counts, "label_key": job.label_key, "genes": job.markers}
            small = report.sketch(model, adata, **options)
    cells = model.prepare(adata, **job.counts)
    log(f"writing {job.output}")
    with clock.stage("writing"):
        write_estimates(model, adata, cells, job, team)
        if job.model is not None:
            log(f"writing {job.model}")
            model.save(job.model, overwrite=job.overwrite)
    summary = _summary(run, model, adata, cells)
    pictures: list[report.Picture] = []
    if job.report is not None and small is not None:
        log(f"drawing figures, writing {job.report}")
        with clock.stage("figures"):
            pictures = report.figures(model, small, label_key=job.label_key, genes=job.markers)
        summary |= _cost(clock)
        write_text(job.report, report.render(summary, model.history, pictures, title=job.title))
    summary |= _cost(clock)
    if job.json is not None:
        write_json(job.json, summary)
    return Outcome(summary, model, pictures)


def _cost(clock: Clock) -> dict[str, Any]:
    return {"seconds": clock.finish(), "peak_memory_mib": peak_memory_mib()}


def _summary(run: _Run, model: GraphSCI, adata: AnnData, cells: Cells) -> dict[str, Any]:
    job, record = run.job, adata.uns[run.job.slots.uns]
    graph = model.gene_graph
    matrix = adata.X if job.layer is None else adata.layers[job.layer]
    outputs = {"output": job.output, "model": job.model, "report": job.report, "json": job.json}
    return {
        "graphsci": __version__,
        "input": str(job.source),
        "outputs": {name: str(path) for name, path in outputs.items() if path is not None},
        "data": _describe_data(cells, matrix),
        "slots": {name: job.slot(name) for name in job.names},
        "units": {name: record["estimates"][job.stored(name)]["unit"] for name in job.names},
        "key_added": job.key_added,
        "gene_match": cells.match.summary(),
        "gene_graph": {"source": graph.source, "edges": graph.n_edges, "genes": graph.n_genes},
        "notes": list(dict.fromkeys([*record["notes"], *cells.notes, *_notes(job, record)])),
        "record": record,
        "verdict": record["verdict"],
    }


def _notes(job: Job, record: dict[str, Any]) -> list[str]:
    """Say what a user of these estimates should know and the model's notes do not say."""
    notes = []
    filled = [name for name in job.estimates if name.startswith("imputed")]
    if filled and record["likelihood"] == "nb":
        said = f"{' and '.join(map(repr, filled))} {'equals' if len(filled) == 1 else 'equal'}"
        notes.append(
            f"{said} the counts here: the likelihood nb knows no dropout, so every zero is taken "
            "as measured. Use 'denoised', or --likelihood zinb."
        )
    notes += [
        f"{job.slot(name)} is stored without values below {lost['below']:g}: "
        f"{lost['share_of_entries']:.1%} of all entries, {lost['share_of_sum']:.2%} of their sum"
        for name in job.names
        if (lost := record["estimates"][job.stored(name)].get("dropped"))
    ]
    if record.get("clipped"):
        notes.append(
            f"{record['clipped']:,} values above {LARGEST_HALF:,} were stored as that, the largest "
            "that float16 holds. Use --dtype float32 or --scale log1p."
        )
    return notes


def _describe_data(cells: Cells, matrix: Any) -> dict[str, Any]:
    """Shape, zeros and depth; of a file what its check has found."""
    if not isinstance(cells.source, DiskCounts):
        return describe_counts(matrix)
    source = cells.source
    return depth_and_zeros(
        source.shape, int(source.detected.sum()), source.n_entries, source.totals
    )


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far; None where it cannot be asked."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
