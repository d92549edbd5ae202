"""``graphsci network``: from a model or counts to ranked edges, modules and files."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphsci import cli

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from graphsci.imputer import GraphSCI
    from graphsci.network import Control, GeneNetwork

FEW_EDGES = 10  #: edges shown on the terminal


@cli._command
def network(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL|IN",
            help="Folder that --save-model wrote, or raw counts to train on.",
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="EDGES.tsv", help="Ranked table of edges."),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="IN",
            help="The counts that MODEL was trained on: needed for confidence and denoised "
            "correlation.",
        ),
    ] = None,
    graphml: Annotated[
        Path | None, typer.Option(metavar="FILE.graphml", help="Write GraphML.")
    ] = None,
    cyjs: Annotated[
        Path | None, typer.Option(metavar="FILE.cyjs", help="Write Cytoscape JSON.")
    ] = None,
    sif: Annotated[Path | None, typer.Option(metavar="FILE.sif", help="Write SIF.")] = None,
    h5ad: Annotated[
        Path | None,
        typer.Option(metavar="OUT.h5ad", help="Write the counts with the network in varp."),
    ] = None,
    modules: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv", help="Write modules (Leiden) with hub genes."),
    ] = None,
    gene_sets: Annotated[
        Path | None,
        typer.Option(metavar="FILE.gmt", help="Test the modules for these gene sets."),
    ] = None,
    enrichment: Annotated[
        Path | None,
        typer.Option(metavar="FILE.tsv", help="Where the tests of --gene-sets go."),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Known network, reported beside the other evidence."),
    ] = None,
    genes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|A,B,C",
            help="Keep these genes and their strongest partners only.",
        ),
    ] = None,
    max_genes: Annotated[int, typer.Option(min=2, help="With --genes: genes kept.")] = 50,
    min_confidence: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Keep edges of this confidence (1 - FDR)."),
    ] = None,
    n_neighbors: Annotated[int, typer.Option(min=0, help="New edges per gene.")] = 20,
    control: Annotated[
        bool,
        typer.Option(help="Train again with shuffled genes, for the confidence of edges."),
    ] = True,
    n_models: Annotated[
        int, typer.Option(min=1, help="Seeds to train and average, for the stability of edges.")
    ] = 1,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png|pdf|svg", help="Draw the network (use --genes)."),
    ] = None,
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
    from graphsci import _job, io
    from graphsci.gene_sets import read_gene_sets, read_network
    from graphsci.imputer import GraphSCI
    from graphsci.model_io import RECORD
    from graphsci.network import annotate_network, refine_network, train_control, write_network

    is_model = source.is_dir() and (source / RECORD).is_file()
    outputs = {
        output: (".tsv",),
        graphml: (".graphml",),
        cyjs: (".cyjs",),
        sif: (".sif",),
        h5ad: io.ANNDATA_SUFFIXES,
        modules: (".tsv",),
        enrichment: (".tsv",),
        picture: (".png", ".pdf", ".svg"),
    }
    given = [output, graphml, cyjs, sif, h5ad, modules, enrichment, picture]
    _check_paths(given, outputs, overwrite=overwrite)
    _check_options(
        is_model=is_model,
        data=data,
        h5ad=h5ad,
        n_models=n_models,
        min_confidence=min_confidence,
        control=control,
        gene_sets=gene_sets,
        enrichment=enrichment,
    )
    prior_edges = None if prior is None else read_network(prior)
    sets = None if gene_sets is None else read_gene_sets(gene_sets)
    wanted = None if genes is None else _job.read_genes(genes)
    cli._use_threads(threads)
    reporter = cli._Reporter(quiet)
    counts: dict[str, Any] = {
        "layer": layer,
        "batch_key": batch_key,
        "allow_fractional": allow_fractional,
    }
    adata = _read(data if is_model else source, genes_in, make_names_unique, reporter)
    _check_genes(wanted, prior_edges, adata)
    with reporter.listening():
        if is_model:
            model = GraphSCI.load(source, device=chosen.device)
        else:
            assert adata is not None
            model = _train(chosen, adata, counts, reporter)
        more = [
            _train(chosen.replace(seed=chosen.seed + 1000 + number), adata, counts, reporter)
            for number in range(n_models - 1)
            if adata is not None
        ]
        twin: Control | None = None
        if control and adata is not None:
            twin = train_control(model, adata, **counts, log=reporter.log)
    reporter.log("ranking edges")
    found = refine_network(
        model,
        adata,
        **counts,
        control=twin,
        models=more,
        prior=prior_edges,
        n_neighbors=n_neighbors,
        seed=chosen.seed,
    )
    found = found if min_confidence is None else found.confident(min_confidence)
    grouped = _modules(found, chosen.seed, modules or sets or h5ad or graphml or cyjs)
    if adata is not None and h5ad is not None:
        annotate_network(adata, found, modules=grouped, key_added=key_added)
        io.write_anndata(adata, h5ad)
    _write_tables(found, grouped, sets, modules, enrichment, model)
    found = found if wanted is None else found.around(wanted, max_genes=max_genes)
    for path in (output, graphml, cyjs, sif):
        if path is not None:
            write_network(found, path, modules=grouped)
    if picture is not None:
        _draw(found, grouped, wanted or (), picture)
    _tell(found, grouped, [path for path in given if path is not None], quiet=quiet)


def _check_paths(
    given: list[Path | None], outputs: Mapping[Any, tuple[str, ...]], *, overwrite: bool
) -> None:
    from graphsci import io

    paths = [path for path in given if path is not None]
    for path in paths:
        try:
            io.check_writable(path, suffixes=outputs[path], overwrite=overwrite)
        except FileExistsError as error:
            raise FileExistsError(f"{error} (command line: --overwrite)") from None
    if len({path.resolve() for path in paths}) < len(paths):
        raise ValueError("two outputs have the same path; give each its own.")


def _check_options(
    *,
    is_model: bool,
    data: Path | None,
    h5ad: Path | None,
    n_models: int,
    min_confidence: float | None,
    control: bool,
    gene_sets: Path | None,
    enrichment: Path | None,
) -> None:
    """Refuse what does not go together."""
    has_data = data is not None or not is_model
    if data is not None and not is_model:
        raise ValueError("--data goes with a model folder; these counts are the input already.")
    if n_models > 1 and is_model:
        raise ValueError("--n-models trains on counts: give the counts instead of a model.")
    if h5ad is not None and not has_data:
        raise ValueError("--h5ad needs counts: give --data.")
    if min_confidence is not None and not (has_data and control):
        raise ValueError(
            "--min-confidence needs a control: give the counts (--data) and leave --control on."
        )
    if (gene_sets is None) != (enrichment is None):
        raise ValueError("--gene-sets and --enrichment go together: sets in, table out.")


def _check_genes(
    wanted: tuple[str, ...] | None, prior: pd.DataFrame | None, adata: AnnData | None
) -> None:
    """Refuse unknown genes and a prior of another species before training."""
    if adata is None:
        return
    if prior is not None:
        from graphsci.gene_sets import match_symbols

        match_symbols(prior, adata.var_names)
    unknown = [gene for gene in wanted or () if gene not in adata.var_names]
    if unknown:
        raise ValueError(
            f"genes: {', '.join(unknown[:5])} not among the genes of the data. "
            "Check spelling and case."
        )


def _read(
    path: Path | None, genes_in: Any, make_names_unique: bool, reporter: cli._Reporter
) -> AnnData | None:
    if path is None:
        return None
    from graphsci import io

    reporter.log(f"reading {path}")
    return io.read_counts(path, genes_in=genes_in, make_names_unique=make_names_unique)


def _train(config: Any, adata: Any, counts: dict[str, Any], reporter: cli._Reporter) -> GraphSCI:
    from graphsci.imputer import GraphSCI

    model = GraphSCI(config).fit(adata, **counts, progress=reporter.progress, log=reporter.log)
    reporter.close()
    return model


def _modules(found: GeneNetwork, seed: int, needed: Any) -> pd.DataFrame | None:
    """Modules of the confident edges; of all edges where none has a confidence."""
    if not needed:
        return None
    from graphsci.network import find_modules

    known = found.edges["confidence"].notna().any()
    return find_modules(found.confident(MODULE_CONFIDENCE) if known else found, seed=seed)


MODULE_CONFIDENCE = 0.9  #: modules rest on edges of which a tenth may be chance


def _write_tables(
    found: GeneNetwork,
    grouped: pd.DataFrame | None,
    sets: Any,
    modules: Path | None,
    enrichment: Path | None,
    model: GraphSCI,
) -> None:
    from graphsci.network import enrich_modules

    if grouped is not None and modules is not None:
        _write_tsv(grouped, modules)
    if grouped is not None and sets is not None and enrichment is not None:
        _write_tsv(enrich_modules(grouped, sets, background=model.gene_names), enrichment)


def _write_tsv(table: pd.DataFrame, path: Path) -> None:
    from graphsci.io import atomic_path

    with atomic_path(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")


def _draw(
    found: GeneNetwork, grouped: pd.DataFrame | None, wanted: tuple[str, ...], path: Path
) -> None:
    from matplotlib.figure import Figure

    from graphsci import pl

    figure = Figure(figsize=(9, 8), layout="constrained")
    pl.gene_network(found, genes=wanted, modules=grouped, ax=figure.add_subplot())
    figure.savefig(path)


def _tell(
    found: GeneNetwork, grouped: pd.DataFrame | None, paths: list[Path], *, quiet: bool
) -> None:
    """Say how many edges there are, the strongest of them, and what was written."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, quiet=quiet, file=sys.stdout)
    for note in found.notes:
        console.print(f"note: {note}", soft_wrap=True)
    new = int(found.edges["initial_correlation"].isna().sum())
    said = f"{found.n_edges:,} edges ({new:,} not in the initial graph)"
    if found.edges["confidence"].notna().any():
        sure = int((found.edges["q_value"] <= 0.1).sum())
        said += f", {sure:,} of them at a false-discovery rate of 0.1"
    if grouped is not None:
        said += f"; {grouped['module'].nunique()} modules"
    console.print(said + ".", soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    shown = ("gene_a", "gene_b", "sign", "initial_correlation", "refined", "q_value")
    for name in shown:
        table.add_column(name.replace("_", " "))
    for row in found.edges.head(FEW_EDGES)[list(shown)].itertuples(index=False):
        table.add_row(*map(_shown, row))
    console.print(table)
    for path in paths:
        console.print(f"written: {path}", soft_wrap=True)


def _shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "-" if value != value else f"{value:.3g}"
