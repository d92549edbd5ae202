"""The command line: ``graphsci impute``, ``apply``, ``demo`` and ``info``.

Every hyper-parameter of :class:`graphsci.config.Config` is a flag, made from the dataclass, so
that its default, bounds and help have one home. What works on data is imported inside the
commands: ``graphsci --help`` is quick.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from rich.console import Console
from rich.table import Table

from graphsci import __version__
from graphsci.config import Config, option_names, preset, read_config
from graphsci.files import ANNDATA_SUFFIXES, check_writable, json_text, remove_unfinished

if TYPE_CHECKING:
    from types import FrameType

    from rich.progress import Progress, TaskID

    from graphsci._job import Outcome
    from graphsci.training import EpochRecord

#: What bad input, bad requests, failing disks and packages that are not installed raise;
#: anything else is a bug of ours.
_EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, ImportError)
BAD_INPUT, OUR_BUG, STOPPED = 2, 1, 130
STANDARD_OUTPUT = Path("-")

app = typer.Typer(
    name="graphsci",
    help="Recover single-cell gene expression and its gene network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# --- flags from the dataclass, errors in one line ---------------------------------------


def _flag(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    """Turn a hyper-parameter into a flag that is None unless given."""
    name = field.name.replace("_", "-")
    low, high = field.metadata["low"], field.metadata["high"]
    bounds = {"min": low, "max": high} if kind in (int, float) else {}
    shown = ("" if field.default else "no-") + name if kind is bool else str(field.default)
    option = typer.Option(
        f"--{name}/--no-{name}" if kind is bool else f"--{name}",
        help=field.metadata["help"],
        show_default=shown,
        **bounds,
    )
    annotation = Annotated[kind | None, option]
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _flags() -> list[inspect.Parameter]:
    hints = get_type_hints(Config)
    return [_flag(field, hints[field.name]) for field in dataclasses.fields(Config)]


_DEBUG = inspect.Parameter(
    "debug",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")],
)


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command; ``**options`` in its signature becomes all hyper-parameters."""
    signature = inspect.signature(function, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    more = _flags() if len(own) < len(signature.parameters) else []
    parameters = [*own, *more, _DEBUG]

    @functools.wraps(function)
    def command(*args: Any, debug: bool = False, **kwargs: Any) -> None:
        with _one_line_errors(debug):
            function(*args, **kwargs)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    del command.__wrapped__  # typer shall see the signature above
    return app.command()(command)


@contextlib.contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Say what is wrong in one line; the exit code says whose mistake it is."""
    try:
        yield
    except KeyboardInterrupt:
        said = "stopped by Ctrl-C; unfinished outputs were removed."
        raise _failure(said, STOPPED, debug) from None
    except MemoryError:
        raise _failure("out of memory.", OUR_BUG, debug) from None
    except _EXPECTED as error:
        raise _failure(str(error), BAD_INPUT, debug) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _lost_another(error):
            said = "another process of this job ended, so this one had to; start the job again."
            raise _failure(said, OUR_BUG, debug) from None
        said = f"{type(error).__name__}: {error}. This looks like a bug: report it with --debug."
        raise _failure(said, OUR_BUG, debug) from None


def _failure(message: str, code: int, debug: bool) -> typer.Exit:
    """Say what is wrong; of several processes, bad input is the first one's to tell."""
    rank = _rank()
    if debug:
        traceback.print_exc()
    if rank == 0 or code != BAD_INPUT:
        who = f"process {rank + 1}: " if rank else ""
        one_line = " ".join(message.split())
        _stderr().print(f"graphsci: error: {who}{one_line}", style="bold red", soft_wrap=True)
    return typer.Exit(code)


def _rank() -> int:
    """Number of this process in its job, from 0, as torchrun says."""
    return int(os.environ.get("RANK", "0"))


def _lost_another(error: Exception) -> bool:
    """Whether another process of this job is gone."""
    if "torch" not in sys.modules:
        return False
    from graphsci import distributed

    return distributed.lost_another(error)


def _launched(devices: int | None, checkpoint: Path | None = None) -> bool:
    """Run this command in several processes, if that was asked for; false if it is to run here.

    A job that trains and fails says whether ``checkpoint`` holds something to go on from.
    """
    n_here = int(os.environ.get("WORLD_SIZE", "1"))
    if n_here > 1 and devices not in (None, n_here):
        raise ValueError(
            f"devices (--devices): got {devices}, but torchrun started {n_here} processes. "
            "Leave --devices out under torchrun."
        )
    if n_here > 1 or devices in (None, 1):
        return False
    from graphsci import distributed

    try:
        distributed.launch(devices, sys.argv[1:])
    except distributed.ProcessDied as error:
        if error.exit_code == BAD_INPUT:  # said already
            raise typer.Exit(BAD_INPUT) from None
        kept = ""
        if checkpoint is not None:
            kept = f" Training: the same command goes on from {checkpoint}."
            if not checkpoint.exists():
                kept = " Training: it was too early for a checkpoint (--checkpoint-minutes)."
        raise _failure(f"{error}{kept}", OUR_BUG, debug=False) from None
    return True


def _stderr(**options: Any) -> Console:
    return Console(stderr=True, highlight=False, markup=False, **options)


def build_config(options: Mapping[str, Any], file: Path | None) -> Config:
    """Merge hyper-parameters: a flag wins over the file, the file over the preset."""
    from_file = {} if file is None else read_config(file)
    given = {name: options[name] for name in option_names() if options.get(name) is not None}
    values = from_file | given
    return preset(values.pop("preset", "default"), **values)


# --- progress ---------------------------------------------------------------------------


class _Reporter:
    """Tells on stderr what happens: a line for each stage, a bar for the epochs."""

    def __init__(self, quiet: bool) -> None:
        self.console = _stderr(quiet=quiet)
        self.said: set[str] = set()
        self.training = False  #: there are weights worth keeping, and training goes on
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def log(self, message: str) -> None:
        self.close()
        self.said.add(message)
        self.console.print(message, style="dim", soft_wrap=True)

    def progress(self, record: EpochRecord, n_epochs: int) -> None:
        self.training = True
        losses = f"loss {record.training_loss:.2f}"
        if record.validation_loss == record.validation_loss:
            losses += f", validation {record.validation_loss:.2f}"
        if not self.console.is_terminal:  # a log file: a line now and then
            if record.epoch % max(1, n_epochs // 10) == 0:
                self.console.print(f"epoch {record.epoch} of {n_epochs}: {losses}")
            return
        if self._bar is None or self._task is None:
            self._bar = _training_bar(self.console)
            self._bar.start()
            self._task = self._bar.add_task("training", total=n_epochs, losses="")
        self._bar.update(self._task, completed=record.epoch, losses=losses)

    def close(self) -> None:
        """End the bar: training is over."""
        self.training = False
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let the first Ctrl-C end training with the best weights so far, and say so."""
        previous = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.training:
                self.close()
                self.console.print(
                    "Ctrl-C: training ends here, with the best weights so far. "
                    "Another one skips the check, or stops everything.",
                    style="bold yellow",
                    soft_wrap=True,
                )
            raise KeyboardInterrupt

        with contextlib.suppress(ValueError):  # not in the main thread: nothing to catch
            signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            self.close()
            with contextlib.suppress(ValueError):
                signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def _dying_of_ctrl_c() -> Iterator[None]:
    """End this process at Ctrl-C: the processes of a job cannot stop at different places."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(STOPPED)

    signal.signal(signal.SIGINT, end)
    yield


def _training_bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(bar_width=24),
        TextColumn("epoch"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


# --- what a run says at its end ---------------------------------------------------------


def _tell(
    outcome: Outcome,
    *,
    said: set[str],
    json_to_stdout: bool = False,
    quiet: bool = False,
    trained_here: bool = True,
) -> None:
    """Print notes that were not said before, a table and the verdict; JSON for machines."""
    if json_to_stdout:
        sys.stdout.write(json_text(outcome.summary))
    console = Console(stderr=json_to_stdout, highlight=False, markup=False, quiet=quiet)
    verdict, record = outcome.summary["verdict"], outcome.summary["record"]
    if record["training"]["stopped"] == "interrupted":
        training = record["training"]
        console.print(
            f"Training was interrupted after {training['epochs']} epochs; the weights of epoch "
            f"{training['best_epoch']} were used.",
            style="bold yellow",
            soft_wrap=True,
        )
    for note in [note for note in outcome.summary["notes"] if note not in said]:
        of_training = not trained_here and note in record["notes"]
        console.print(f"{'training' if of_training else 'note'}: {note}", soft_wrap=True)
    console.print(_summary_table(outcome.summary, matched=not trained_here))
    line = verdict.get("line", "No verdict: these estimates were not checked.")
    if not trained_here:
        line = f"Checked on the model's training data: {line}"
    style = "bold green" if verdict.get("passed") else "bold yellow"
    console.print(line, style=style, soft_wrap=True)


def _summary_table(summary: Mapping[str, Any], *, matched: bool) -> Table:
    """What was done; ``matched`` names the genes' match, which says nothing of training data."""
    data, record, seconds = summary["data"], summary["record"], summary["seconds"]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("input", str(summary["input"]))
    table.add_row(
        "counts",
        f"{data['cells']:,} cells x {data['genes']:,} genes, {data['zeros']:.1%} zeros, median "
        f"depth {data['depth']['median']:,.0f}",
    )
    if matched:
        table.add_row("genes", summary["gene_match"])
    training = record["training"]
    table.add_row(
        "model",
        f"{record['config']['preset']}, {record['likelihood']}, epoch {training['best_epoch']} "
        f"of {training['epochs']}, seed {record['seed']}",
    )
    for name, slot in summary["slots"].items():
        table.add_row(slot, summary["units"][name])
    for name, path in summary["outputs"].items():
        table.add_row("saved model" if name == "model" else name, path)
    memory = summary["peak_memory_mib"]
    spent = f"{seconds['total']:.1f} s" + ("" if memory is None else f", {memory:,.0f} MiB at most")
    table.add_row("took", spent)
    return table


def _use_threads(n_threads: int | None) -> None:
    if n_threads is None:
        return
    import threadpoolctl  # type: ignore[import-untyped]
    import torch

    torch.set_num_threads(n_threads)
    threadpoolctl.threadpool_limits(n_threads)


# --- options that several commands share ------------------------------------------------


class EstimateName(StrEnum):
    """Names of the estimates; typer takes no list of literals."""

    mean = "mean"
    denoised = "denoised"
    imputed = "imputed"
    imputed_median = "imputed_median"


Input = Annotated[
    Path,
    typer.Argument(
        metavar="IN",
        help="Raw counts: .h5ad, .zarr, 10x .h5 or folder, .loom, .csv/.tsv/.txt (.gz).",
    ),
]
Output = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        metavar="OUT",
        help="Where to write: .h5ad or .zarr.",
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        help="Layer of the input with the counts; X if not given.",
    ),
]
BatchKey = Annotated[
    str | None,
    typer.Option(
        help="Column of obs with batches.",
    ),
]
GenesIn = Annotated[
    Literal["rows", "columns"] | None,
    typer.Option(
        help="Where a text table has its genes; required for it.",
    ),
]
MakeNamesUnique = Annotated[
    bool,
    typer.Option(
        "--make-names-unique",
        help="Number repeated gene and cell names.",
    ),
]
AllowFractional = Annotated[
    bool,
    typer.Option(
        "--allow-fractional",
        help="Accept counts that are not whole, e.g. ambient-corrected.",
    ),
]
Networks = Annotated[
    list[Path] | None,
    typer.Option(
        "--network",
        metavar="FILE",
        help="Train with this known network instead of a graph computed from the counts, or "
        "beside it (--network-weight): a table of edges, STRING, GMT, TRRUST or a regulon; may "
        "be repeated.",
    ),
]
NetworkSymbols = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="STRING's protein.info or protein.aliases file, which names its proteins.",
    ),
]
IgnoreCase = Annotated[
    bool,
    typer.Option(
        "--ignore-case",
        help="Match TP53 of a known network with Tp53.",
    ),
]
Estimates = Annotated[
    list[EstimateName],
    typer.Option(
        "--estimate",
        help="What to write; may be repeated.",
    ),
]
Genes = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|A,B,C",
        help="Write these genes only, as tables in obsm: a file, one a line, or names.",
    ),
]
Backed = Annotated[
    bool | None,
    typer.Option(
        "--backed/--no-backed",
        help="Leave IN on disk and read it in chunks, or read it into memory. Not given: on disk "
        "if it is an .h5ad or .zarr of more than a quarter of the free memory.",
        show_default=False,
    ),
]
Dtype = Annotated[
    Literal["float32", "float16"],
    typer.Option(help="Digits of the estimates in OUT: float16 has three, up to 65,504."),
]
Compression = Annotated[
    Literal["none", "gzip"],
    typer.Option(help="Of the layers in OUT; gzip is slow and saves little on dense ones."),
]
DropBelow = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        help="Store layers sparse, without the values below this; OUT says what was dropped.",
    ),
]
Depth = Annotated[
    Literal["own", "common"],
    typer.Option(
        help="Estimates at each cell's own depth, or all at the median depth.",
    ),
]
Scale = Annotated[
    Literal["counts", "log1p"],
    typer.Option(
        help="Scale of the estimates.",
    ),
]
Interval = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        max=1 - 1e-6,
        help="Add a posterior interval of this level, e.g. 0.9, to 'denoised'.",
    ),
]
KeyAdded = Annotated[
    str,
    typer.Option(
        help="Name of the run: its slots in the output.",
    ),
]
Prefix = Annotated[
    str,
    typer.Option(
        help="Put in front of the names of layers.",
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.html",
        help="Write a report with figures.",
    ),
]
LabelKey = Annotated[
    str | None,
    typer.Option(
        help="Column of obs that colours the report's figures.",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="Write a summary for machines.",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite/--no-overwrite",
        help="Replace outputs, and results of the same name in the input.",
    ),
]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes that share the work on this machine, each with its GPU if there are "
        "as many. Not with torchrun, which starts them itself.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads; all cores if not given.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print errors only.",
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Hyper-parameters, one 'name = value' a line; flags win over it.",
    ),
]


# --- commands ---------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"graphsci {__version__}")
        raise typer.Exit


@_command
def impute(
    source: Input,
    *,
    output: Output,
    layer: Layer = None,
    batch_key: BatchKey = None,
    genes_in: GenesIn = None,
    make_names_unique: MakeNamesUnique = False,
    allow_fractional: AllowFractional = False,
    network: Networks = None,
    network_symbols: NetworkSymbols = None,
    ignore_case: IgnoreCase = False,
    estimate: Estimates = [EstimateName.denoised],  # noqa: B006 (typer copies it)
    genes: Genes = None,
    depth: Depth = "own",
    scale: Scale = "counts",
    interval: Interval = None,
    key_added: KeyAdded = "graphsci",
    prefix: Prefix = "",
    backed: Backed = None,
    dtype: Dtype = "float32",
    compression: Compression = "none",
    drop_below: DropBelow = None,
    save_model: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Save the trained model.",
        ),
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
    ] = 10.0,
    report: Report = None,
    label_key: LabelKey = None,
    json_to: Json = None,
    overwrite: Overwrite = False,
    devices: Devices = None,
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
    **options: Any,
) -> None:
    """Train on the raw counts in IN and write OUT: IN with estimates of its expression."""
    chosen = build_config(options, config)
    check_writable(output, suffixes=ANNDATA_SUFFIXES)  # before the slow import of torch
    checkpoint = checkpoint or output.with_name(output.name + ".checkpoint")
    if _launched(devices, checkpoint):
        return
    from graphsci import _job, distributed

    job = _job.Job(
        source=source,
        output=output,
        layer=layer,
        batch_key=batch_key,
        genes_in=genes_in,
        make_names_unique=make_names_unique,
        allow_fractional=allow_fractional,
        networks=tuple(network or ()),
        network_symbols=network_symbols,
        ignore_case=ignore_case,
        estimates=_job.ordered(estimate),
        genes=None if genes is None else _job.read_genes(genes),
        depth=depth,
        scale=scale,
        interval=interval,
        key_added=key_added,
        prefix=prefix,
        model=save_model,
        checkpoint=checkpoint,
        checkpoint_minutes=checkpoint_minutes,
        report=report,
        label_key=label_key,
        json=None if json_to == STANDARD_OUTPUT else json_to,
        overwrite=overwrite,
        backed=backed,
        dtype=dtype,
        compression=None if compression == "none" else compression,
        drop_below=drop_below,
    )
    _use_threads(threads)
    first = _rank() == 0
    reporter = _Reporter(quiet or not first)
    team = distributed.join(chosen.device)
    with reporter.listening() if team is None else _dying_of_ctrl_c():
        outcome = _job.impute(job, chosen, progress=reporter.progress, log=reporter.log, team=team)
    if first:
        to_stdout = json_to == STANDARD_OUTPUT
        _tell(outcome, said=reporter.said, json_to_stdout=to_stdout, quiet=quiet)


@_command
def apply(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that --save-model wrote.")],
    source: Input,
    *,
    output: Output,
    layer: Layer = None,
    batch_key: BatchKey = None,
    genes_in: GenesIn = None,
    make_names_unique: MakeNamesUnique = False,
    allow_fractional: AllowFractional = False,
    estimate: Estimates = [EstimateName.denoised],  # noqa: B006 (typer copies it)
    genes: Genes = None,
    depth: Depth = "own",
    scale: Scale = "counts",
    interval: Interval = None,
    key_added: KeyAdded = "graphsci",
    prefix: Prefix = "",
    cells: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|A,B,C",
            help="Estimate these cells only: a file, one a line, or names. No other is read.",
        ),
    ] = None,
    backed: Backed = None,
    dtype: Dtype = "float32",
    compression: Compression = "none",
    drop_below: DropBelow = None,
    report: Report = None,
    label_key: LabelKey = None,
    json_to: Json = None,
    overwrite: Overwrite = False,
    devices: Devices = None,
    threads: Threads = None,
    device: Annotated[
        str,
        typer.Option(
            help="'auto', 'cpu', 'cuda' or 'cuda:N'.",
        ),
    ] = "auto",
    quiet: Quiet = False,
) -> None:
    """Write estimates for the cells in IN with a model trained before; genes match by name."""
    check_writable(output, suffixes=ANNDATA_SUFFIXES)  # before the slow import of torch
    if _launched(devices):
        return
    from graphsci import _job, distributed

    job = _job.Job(
        source=source,
        output=output,
        layer=layer,
        batch_key=batch_key,
        genes_in=genes_in,
        make_names_unique=make_names_unique,
        allow_fractional=allow_fractional,
        estimates=_job.ordered(estimate),
        genes=None if genes is None else _job.read_genes(genes),
        depth=depth,
        scale=scale,
        interval=interval,
        key_added=key_added,
        prefix=prefix,
        report=report,
        label_key=label_key,
        json=None if json_to == STANDARD_OUTPUT else json_to,
        overwrite=overwrite,
        backed=backed,
        cells=None if cells is None else _job.read_names(cells, "cells"),
        dtype=dtype,
        compression=None if compression == "none" else compression,
        drop_below=drop_below,
    )
    _use_threads(threads)
    first = _rank() == 0
    reporter = _Reporter(quiet or not first)
    team = distributed.join(device)
    outcome = _job.apply(job, model, device=device, log=reporter.log, team=team)
    if first:
        _tell(
            outcome,
            said=reporter.said,
            json_to_stdout=json_to == STANDARD_OUTPUT,
            quiet=quiet,
            trained_here=False,
        )


@_command
def demo(
    *,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Counts instead of the 700 blood cells of the demo."),
    ] = None,
    out_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for everything the demo writes.")
    ] = Path("graphsci-demo"),
    label_key: LabelKey = None,
    layer: Layer = None,
    genes_in: GenesIn = None,
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
    **options: Any,
) -> None:
    """Impute real data that needs no download, and leave files and pictures to look at."""
    chosen = build_config(options, config)
    from graphsci import demo as demonstration
    from graphsci.report import loading_lines

    _use_threads(threads)
    reporter = _Reporter(quiet)
    with reporter.listening():
        outcome = demonstration.run(
            out_dir,
            chosen,
            data=data,
            label_key=label_key,
            layer=layer,
            genes_in=genes_in,
            progress=reporter.progress,
            log=reporter.log,
        )
    _tell(outcome, said=reporter.said, quiet=quiet)
    console = Console(highlight=False, markup=False, quiet=quiet)
    console.print("\nWritten:")
    for path, what in demonstration.contents(out_dir, outcome).items():
        console.print(f"  {path}  {what}", soft_wrap=True)
    console.print("\nGo on in Python:")
    for line in loading_lines(outcome.summary):
        console.print(f"  {line}", soft_wrap=True)


@_command
def info(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="A count file, an output, or a model folder.")
    ],
    *,
    layer: Layer = None,
    genes_in: GenesIn = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what a file holds: shape, depth, whether these are raw counts; runs and verdicts."""
    from graphsci import _info

    found = _info.describe(path, layer=layer, genes_in=genes_in)
    if as_json:
        sys.stdout.write(json_text(found))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in _info.describe_in_words(found).items():
        table.add_row(name, words)
    Console(highlight=False, markup=False).print(table)


def main() -> None:
    """Run the command line.

    Threads that wait for each other sleep instead of spinning, unless the environment says
    otherwise: on a shared machine spinning made an epoch of two threads ten times slower
    (benchmarks/lab/log.md). It must be said before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _cleaning_up_at_sigterm():
        app()


@contextlib.contextmanager
def _cleaning_up_at_sigterm() -> Iterator[None]:
    """Remove temporary files before SIGTERM, of a batch system, ends this process.

    An exception would not do: raised in a callback of a library, as often as not, it is ignored.
    """

    def end(number: int, frame: FrameType | None) -> None:
        remove_unfinished()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():  # nothing to catch
        yield
        return
    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


# commands with a module of their own; they use what is above
from graphsci import _cli_evaluate as _cli_evaluate  # noqa: E402
from graphsci import _cli_network as _cli_network  # noqa: E402
from graphsci import _cli_simulate as _cli_simulate  # noqa: E402
