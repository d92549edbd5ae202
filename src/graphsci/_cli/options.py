"""The options that several commands share, each declared once.

A dataclass holds options that go together; :func:`graphsci._cli.command.command` makes flags of
its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from graphsci import _choices as choices

STANDARD_OUTPUT = Path("-")


def file_of(json_to: Path | None) -> Path | None:
    """Return where ``--json`` writes to, if that is a file."""
    return None if json_to == STANDARD_OUTPUT else json_to


# --- what is read -----------------------------------------------------------------------

Source = Annotated[
    Path,
    typer.Argument(
        metavar="IN",
        help="Raw counts: .h5ad, .zarr, 10x .h5 or folder, .loom, .csv/.tsv/.txt (.gz).",
    ),
]
Layer = Annotated[
    str | None, typer.Option(help="Layer of the input with the counts; X if not given.")
]
GenesIn = Annotated[
    choices.GenesIn | None,
    typer.Option(help="Where a text table has its genes; required for it."),
]
MakeNamesUnique = Annotated[
    bool, typer.Option("--make-names-unique", help="Number repeated gene and cell names.")
]


BatchKey = Annotated[str | None, typer.Option(help="Column of obs with batches.")]


@dataclass(frozen=True)
class Counts:
    """Which counts are meant, and how they are read."""

    layer: Layer = None
    batch_key: BatchKey = None
    genes_in: GenesIn = None
    make_names_unique: MakeNamesUnique = False
    allow_fractional: Annotated[
        bool,
        typer.Option(
            "--allow-fractional",
            help="Accept counts that are not whole, e.g. ambient-corrected.",
        ),
    ] = False


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
    bool, typer.Option("--ignore-case", help="Match TP53 of a known network with Tp53.")
]

# --- what is written --------------------------------------------------------------------

KeyAdded = Annotated[str, typer.Option(help="Name of the run: its slots in the output.")]
LabelKey = Annotated[
    str | None, typer.Option(help="Column of obs that colours the report's figures.")
]
Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE|-", help="Write a summary for machines."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite/--no-overwrite",
        help="Replace outputs, and results of the same name in the input.",
    ),
]

# --- how it runs ------------------------------------------------------------------------

Threads = Annotated[int | None, typer.Option(min=1, help="Threads; all cores if not given.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
