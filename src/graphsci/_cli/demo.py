"""``graphsci demo``: its flags, and what it says at the end. The work is in demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from graphsci._cli.command import command
from graphsci._cli.config import HyperParameters
from graphsci._cli.options import GenesIn, LabelKey, Layer, Quiet, Threads
from graphsci._cli.outcome import tell
from graphsci._cli.processes import use_threads
from graphsci._terminal import Reporter, plain_console


@command
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
    config: HyperParameters,
) -> None:
    """Impute real data that needs no download, and leave files and pictures to look at."""
    from graphsci import demo as demonstration
    from graphsci.report import loading_lines

    use_threads(threads)
    reporter = Reporter(quiet)
    with reporter.listening():
        outcome = demonstration.run(
            out_dir,
            config,
            data=data,
            label_key=label_key,
            layer=layer,
            genes_in=genes_in,
            progress=reporter.progress,
            log=reporter.log,
        )
    tell(outcome, said=reporter.said, quiet=quiet)
    console = plain_console(quiet=quiet)
    console.print("\nWritten:")
    for path, what in demonstration.contents(out_dir, outcome).items():
        console.print(f"  {path}  {what}", soft_wrap=True)
    console.print("\nGo on in Python:")
    for line in loading_lines(outcome.summary):
        console.print(f"  {line}", soft_wrap=True)
