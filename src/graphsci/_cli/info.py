"""``graphsci info``: what a file holds. The work is in ``_jobs.info``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from graphsci._cli.command import command
from graphsci._cli.options import GenesIn, Layer
from graphsci._terminal import plain_console, table_of_facts
from graphsci.io.files import json_text


@command
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
    from graphsci._jobs import info as work

    found = work.describe(path, layer=layer, genes_in=genes_in)
    if as_json:
        sys.stdout.write(json_text(found))
    else:
        plain_console().print(table_of_facts(work.describe_in_words(found)))
