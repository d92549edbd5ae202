"""``graphsci network``: its flags, and what it says at the end.

The work is in :mod:`graphsci._jobs.network`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphsci import _choices as choices
from graphsci._cli.command import command
from graphsci._cli.config import HyperParameters
from graphsci._cli.options import (
    Counts,
    IgnoreCase,
    KeyAdded,
    Networks,
    NetworkSymbols,
    Overwrite,
    Quiet,
    Threads,
)
from graphsci._cli.processes import use_threads
from graphsci._keys import DEFAULT_KEY
from graphsci._terminal import Reporter, plain_console

if TYPE_CHECKING:
    from graphsci.network._search import Findings

FEW_EDGES = 10  #: edges shown on the terminal
_SHOWN = ("gene_a", "gene_b", "sign", "initial_correlation", "refined", "q_value")


@dataclass(frozen=True)
class Files:
    """The counts of a model, and what is written beside the table of edges."""

    data: Annotated[
        Path | None,
        typer.Option(
            metavar="IN",
            help="The counts that MODEL was trained on: needed for confidence and correlations.",
        ),
    ] = None
    graphml: Annotated[Path | None, typer.Option(metavar="FILE.graphml", help="Write GraphML.")] = (
        None
    )
    cx2: Annotated[
        Path | None, typer.Option(metavar="FILE.cx2", help="Write CX2: Cytoscape 3.10, NDEx.")
    ] = None
    cyjs: Annotated[
        Path | None, typer.Option(metavar="FILE.cyjs", help="Write Cytoscape JSON.")
    ] = None
    sif: Annotated[Path | None, typer.Option(metavar="FILE.sif", help="Write SIF.")] = None
    h5ad: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.h5ad",
            help="Write the counts with the network in varp, and those of --label-key in uns.",
        ),
    ] = None
    modules: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv|csv", help="Write modules (Leiden) with hub genes."),
    ] = None
    gene_sets: Annotated[
        Path | None, typer.Option(metavar="FILE.gmt", help="Test the modules for these gene sets.")
    ] = None
    enrichment: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv|csv", help="Where the tests of --gene-sets go."),
    ] = None
    label_key: Annotated[
        str | None,
        typer.Option(
            help="Column of obs: one more network for each group of "
            f"{choices.FEWEST_LABEL_CELLS} cells or more."
        ),
    ] = None
    label_edges: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv|csv", help="Where the networks of --label-key go."),
    ] = None


@dataclass(frozen=True)
class Ranking:
    """Which edges are looked for, and which are shown."""

    max_genes: Annotated[
        int | None,
        typer.Option(
            min=2, help="With --genes: genes kept.", show_default=str(choices.N_SHOWN_GENES)
        ),
    ] = None
    min_confidence: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Keep edges of this confidence (1 - FDR)."),
    ] = None
    n_neighbors: Annotated[int, typer.Option(min=0, help="New edges per gene.")] = (
        choices.N_NEIGHBORS
    )
    control: Annotated[
        bool, typer.Option(help="Train again with shuffled genes, for the confidence of edges.")
    ] = True
    n_models: Annotated[
        int, typer.Option(min=1, help="Seeds to train and average, for the stability of edges.")
    ] = 1
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png|pdf|svg", help="Draw the network (use --genes)."),
    ] = None


@command
def network(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|IN", help="Folder that --save-model wrote, or raw counts to train on."
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="EDGES.tsv|csv", help="Ranked table of edges."),
    ],
    files: Files,
    network: Networks = None,
    prior: Annotated[
        list[Path] | None,
        typer.Option(
            "--prior",
            metavar="FILE",
            help="Known network, reported beside the other evidence; may be repeated.",
        ),
    ] = None,
    network_symbols: NetworkSymbols = None,
    ignore_case: IgnoreCase = False,
    genes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|A,B,C", help="Keep these genes and their strongest partners only."
        ),
    ] = None,
    ranking: Ranking,
    counts: Counts,
    key_added: KeyAdded = DEFAULT_KEY,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
    config: HyperParameters,
) -> None:
    """Rank the relations between genes, new ones included, with the evidence for each."""
    from graphsci._jobs import network as work
    from graphsci._jobs.files import read_names

    job = work.NetworkJob(
        source=source,
        output=output,
        networks=tuple(network or ()),
        priors=tuple(prior or ()),
        network_symbols=network_symbols,
        ignore_case=ignore_case,
        genes=None if genes is None else read_names(genes, "genes"),
        key_added=key_added,
        overwrite=overwrite,
        **vars(files),
        **vars(ranking),
        **vars(counts),
    )
    use_threads(threads)
    reporter = Reporter(quiet)
    with reporter.listening():
        found = work.run(job, config, log=reporter.log, progress=reporter.progress)
    _tell(found, work.written(job, found), quiet=quiet)


def _tell(findings: Findings, paths: list[Path], *, quiet: bool) -> None:
    """Say how many edges there are, the strongest of them, and what was written."""
    from rich.table import Table

    console = plain_console(quiet=quiet)
    found = findings.network
    everywhere = (found, *findings.by_label.values())
    for note in dict.fromkeys(note for network in everywhere for note in network.notes):
        console.print(f"note: {note}", soft_wrap=True)
    console.print(_summary(findings), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for name in _SHOWN:
        table.add_column(name.replace("_", " "))
    for row in found.edges.head(FEW_EDGES)[list(_SHOWN)].itertuples(index=False):
        table.add_row(*map(_shown, row))
    console.print(table)
    for path in paths:
        console.print(f"written: {path}", soft_wrap=True)


def _summary(findings: Findings) -> str:
    edges = findings.network.edges
    new = int(edges["initial_correlation"].isna().sum())
    said = f"{len(edges):,} edges ({new:,} not in the initial graph)"
    if edges["confidence"].notna().any():
        sure = int((edges["q_value"] <= 0.1).sum())
        said += f", {sure:,} of them at a false-discovery rate of 0.1"
    if findings.modules is not None:
        said += f"; {findings.modules['module'].nunique()} modules"
    if findings.by_label:
        sizes = (f"{label} {found.n_edges:,}" for label, found in findings.by_label.items())
        said += f"; edges by label: {', '.join(sizes)}"
    return said + "."


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if value != value else f"{value:.3g}"
