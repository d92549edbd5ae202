"""``graphsci network``: its flags, and what it says at the end. The work is in _network_job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphsci import cli

if TYPE_CHECKING:
    from graphsci._network_job import Findings

FEW_EDGES = 10  #: edges shown on the terminal
_SHOWN = ("gene_a", "gene_b", "sign", "initial_correlation", "refined", "q_value")

Source = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL|IN", help="Folder that --save-model wrote, or raw counts to train on."
    ),
]
Edges = Annotated[
    Path, typer.Option("--output", "-o", metavar="EDGES.tsv|csv", help="Ranked table of edges.")
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="IN",
        help="The counts that MODEL was trained on: needed for confidence and correlations.",
    ),
]
GraphML = Annotated[Path | None, typer.Option(metavar="FILE.graphml", help="Write GraphML.")]
Cx2 = Annotated[
    Path | None, typer.Option(metavar="FILE.cx2", help="Write CX2: Cytoscape 3.10, NDEx.")
]
Cyjs = Annotated[Path | None, typer.Option(metavar="FILE.cyjs", help="Write Cytoscape JSON.")]
Sif = Annotated[Path | None, typer.Option(metavar="FILE.sif", help="Write SIF.")]
H5ad = Annotated[
    Path | None,
    typer.Option(metavar="OUT.h5ad", help="Write the counts with the network in varp."),
]
Modules = Annotated[
    Path | None, typer.Option(metavar="FILE.tsv|csv", help="Write modules (Leiden) with hub genes.")
]
GeneSets = Annotated[
    Path | None, typer.Option(metavar="FILE.gmt", help="Test the modules for these gene sets.")
]
Enrichment = Annotated[
    Path | None, typer.Option(metavar="FILE.tsv|csv", help="Where the tests of --gene-sets go.")
]
LabelKey = Annotated[
    str | None, typer.Option(help="Column of obs: one more network for each group of cells.")
]
LabelEdges = Annotated[
    Path | None, typer.Option(metavar="FILE.tsv|csv", help="Where the networks of --label-key go.")
]
Priors = Annotated[
    list[Path] | None,
    typer.Option(
        "--prior",
        metavar="FILE",
        help="Known network, reported beside the other evidence; may be repeated.",
    ),
]
Around = Annotated[
    str | None,
    typer.Option(metavar="FILE|A,B,C", help="Keep these genes and their strongest partners only."),
]
MaxGenes = Annotated[int, typer.Option(min=2, help="With --genes: genes kept.")]
MinConfidence = Annotated[
    float | None,
    typer.Option(min=0.0, max=1.0, help="Keep edges of this confidence (1 - FDR)."),
]
Neighbors = Annotated[int, typer.Option(min=0, help="New edges per gene.")]
Control = Annotated[
    bool, typer.Option(help="Train again with shuffled genes, for the confidence of edges.")
]
Models = Annotated[
    int, typer.Option(min=1, help="Seeds to train and average, for the stability of edges.")
]
Picture = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png|pdf|svg", help="Draw the network (use --genes)."),
]


@cli._command
def network(
    source: Source,
    *,
    output: Edges,
    data: Data = None,
    graphml: GraphML = None,
    cx2: Cx2 = None,
    cyjs: Cyjs = None,
    sif: Sif = None,
    h5ad: H5ad = None,
    modules: Modules = None,
    gene_sets: GeneSets = None,
    enrichment: Enrichment = None,
    label_key: LabelKey = None,
    label_edges: LabelEdges = None,
    network: cli.Networks = None,
    prior: Priors = None,
    network_symbols: cli.NetworkSymbols = None,
    ignore_case: cli.IgnoreCase = False,
    genes: Around = None,
    max_genes: MaxGenes = 50,
    min_confidence: MinConfidence = None,
    n_neighbors: Neighbors = 20,
    control: Control = True,
    n_models: Models = 1,
    picture: Picture = None,
    layer: cli.Layer = None,
    batch_key: cli.BatchKey = None,
    genes_in: cli.GenesIn = None,
    make_names_unique: cli.MakeNamesUnique = False,
    allow_fractional: cli.AllowFractional = False,
    key_added: cli.KeyAdded = "graphsci",
    overwrite: cli.Overwrite = False,
    threads: cli.Threads = None,
    quiet: cli.Quiet = False,
    config: cli.ConfigFile = None,
    **options: Any,
) -> None:
    """Rank the relations between genes, new ones included, with the evidence for each."""
    chosen = cli.build_config(options, config)
    from graphsci import _job, _network_job

    job = _network_job.NetworkJob(
        source=source,
        output=output,
        data=data,
        graphml=graphml,
        cx2=cx2,
        cyjs=cyjs,
        sif=sif,
        h5ad=h5ad,
        modules=modules,
        gene_sets=gene_sets,
        enrichment=enrichment,
        label_key=label_key,
        label_edges=label_edges,
        picture=picture,
        networks=tuple(network or ()),
        priors=tuple(prior or ()),
        network_symbols=network_symbols,
        ignore_case=ignore_case,
        genes=None if genes is None else _job.read_genes(genes),
        max_genes=max_genes,
        min_confidence=min_confidence,
        n_neighbors=n_neighbors,
        control=control,
        n_models=n_models,
        layer=layer,
        batch_key=batch_key,
        genes_in=genes_in,
        make_names_unique=make_names_unique,
        allow_fractional=allow_fractional,
        key_added=key_added,
        overwrite=overwrite,
    )
    cli._use_threads(threads)
    reporter = cli._Reporter(quiet)
    with reporter.listening():
        found = _network_job.run(job, chosen, log=reporter.log, progress=reporter.progress)
    _tell(found, list(job.paths.values()), quiet=quiet)


def _tell(findings: Findings, paths: list[Path], *, quiet: bool) -> None:
    """Say how many edges there are, the strongest of them, and what was written."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, quiet=quiet, file=sys.stdout)
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
