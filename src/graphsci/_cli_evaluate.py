"""``graphsci evaluate``: every method on the user's own held-out molecules, in one table."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from graphsci.cli import (
    STANDARD_OUTPUT,
    ConfigFile,
    GenesIn,
    Input,
    Json,
    Layer,
    MakeNamesUnique,
    Overwrite,
    Quiet,
    Threads,
    _command,
    _plain,
    _Reporter,
    _use_threads,
    build_config,
)

if TYPE_CHECKING:
    from graphsci._evaluate import Outcome
    from graphsci.evaluation.study import Summary

#: Columns of the table: score, header, format.
_COLUMNS = (
    ("deviance", "deviance", ".5f"),
    ("d2", "D2", ".3f"),
    ("d2_rare", "D2 rare genes", ".3f"),
    ("coverage", "coverage", ".3f"),
    ("ari", "ARI", ".3f"),
    ("nmi", "NMI", ".3f"),
    ("shuffled_correlation", "|r| shuffled", ".3f"),
    ("seconds", "seconds", ".1f"),
)

#: Characters that the widest table needs.
_WIDTH = 130

Methods = Annotated[
    list[str],
    typer.Option(
        "--method",
        metavar="NAME",
        help="graphsci, a control (nothing, gene_mean, neighbour_pooling, "
        "neighbour_pooling_posterior, empty), or with --held-out a layer of the input; may be "
        "repeated. Without it: graphsci and all controls.",
    ),
]


@_command
def evaluate(
    source: Input,
    *,
    layer: Layer = None,
    genes_in: GenesIn = None,
    make_names_unique: MakeNamesUnique = False,
    labels: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of obs; adds clustering scores."),
    ] = None,
    method: Methods = [],  # noqa: B006 (typer copies it)
    design: Annotated[
        Literal["molecules", "cells", "depth"],
        typer.Option(
            help="What is held out: a share of all molecules, the same in a fifth of the cells "
            "(training on the others), or all molecules above --depth.",
        ),
    ] = "molecules",
    fraction: Annotated[
        float, typer.Option(min=0.001, max=0.9, help="Share of the molecules held out.")
    ] = 0.1,
    depth: Annotated[
        float | None,
        typer.Option(help="Median molecules per cell that '--design depth' keeps."),
    ] = None,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Layer with molecules that were held out before; the counts are what was kept.",
        ),
    ] = None,
    write_split: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Only hold out: write kept counts (X) and held-out ones (layer 'held_out').",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Repeat with this many seeds.")] = 1,
    level: Annotated[
        float, typer.Option(help="Level of the interval whose coverage is measured.")
    ] = 0.9,
    protocol: Annotated[
        str,
        typer.Option(
            help="Clustering: tsne-kmeans (the paper), umap-kmeans, phate-kmeans, pca-kmeans, "
            "pca-leiden.",
        ),
    ] = "tsne-kmeans",
    clustering_seeds: Annotated[int, typer.Option(min=1, help="Seeds of the clustering.")] = 5,
    shuffled_genes: Annotated[
        int,
        typer.Option(
            min=0,
            help="Score false signal with this many shuffled genes, e.g. 100; trains once more.",
        ),
    ] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Keep results here; what is there already is not computed again.",
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one row per method, seed and score.")
    ] = None,
    json_to: Json = None,
    overwrite: Overwrite = False,
    threads: Threads = None,
    quiet: Quiet = False,
    config: ConfigFile = None,
    **options: Any,
) -> None:
    """Score graphsci and simple methods on molecules held out from your own counts."""
    chosen = build_config(options, config)
    from graphsci import _evaluate, io

    job = _evaluate.Job(
        source=source,
        layer=layer,
        held_out=held_out,
        labels=labels,
        genes_in=genes_in,
        make_names_unique=make_names_unique,
        methods=_evaluate.method_names(method),
        design=design,
        fraction=fraction,
        depth=depth,
        seeds=seeds,
        level=level,
        protocol=protocol,
        clustering_seeds=clustering_seeds,
        shuffled=shuffled_genes,
        output=output,
    )
    _use_threads(threads)
    reporter = _Reporter(quiet)
    if write_split is not None:
        kept = _evaluate.write_split(job, write_split, seed=chosen.seed, overwrite=overwrite)
        reporter.log(
            f"written: {write_split}, {kept.n_obs:,} cells x {kept.n_vars:,} genes; X holds the "
            f"kept counts, layers['{_evaluate.HELD_OUT_LAYER}'] the others"
        )
        return
    json_file = None if json_to == STANDARD_OUTPUT else json_to
    for path, suffix in ((csv, ".csv"), (json_file, ".json")):
        if path is not None:
            io.check_writable(path, suffixes=(suffix,), overwrite=overwrite)
    with reporter.listening():
        outcome = _evaluate.evaluate(job, chosen, progress=reporter.progress, log=reporter.log)
    found = _evaluate.summary(job, chosen, outcome)
    rows = _evaluate.table(outcome).to_csv(index=False)
    for path in (csv, _unless_kept(output, "scores.csv", outcome)):
        if path is not None:
            io.write_text(path, rows)
    for path in (json_file, _unless_kept(output, "summary.json", outcome)):
        if path is not None:
            io.write_json(path, found)
    if json_to == STANDARD_OUTPUT:
        sys.stdout.write(json.dumps(found, indent=2, default=_plain) + "\n")
    _tell(outcome, output=output, level=level, to_stderr=json_to == STANDARD_OUTPUT, quiet=quiet)


def _unless_kept(folder: Path | None, name: str, outcome: Outcome) -> Path | None:
    """Return where a result goes in the folder; None if nothing changed since it was written."""
    if folder is None or (outcome.n_new == 0 and (folder / name).exists()):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _tell(
    outcome: Outcome, *, output: Path | None, level: float, to_stderr: bool, quiet: bool
) -> None:
    """Print the table, notes and the sentence."""
    console = Console(stderr=to_stderr, highlight=False, markup=False, quiet=quiet)
    console.width = max(console.width, _WIDTH)  # rather long lines than cut numbers
    console.print(_table(outcome.summaries))
    console.print(_legend(outcome.summaries, level), style="dim", soft_wrap=True)
    for note in outcome.notes:
        console.print(f"note: {note}", soft_wrap=True)
    if output is not None and not outcome.n_new:
        console.print(
            f"Nothing to do: all {len(outcome.runs)} runs were in {output} already, and nothing "
            "changed.",
            soft_wrap=True,
        )
    console.print(outcome.sentence, style="bold", soft_wrap=True)


def _table(summaries: Sequence[Summary]) -> Table:
    columns = [c for c in _COLUMNS if any(c[0] in s.scores for s in summaries)]
    table = Table(box=None, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for _, header, _ in columns:
        table.add_column(header, justify="right", no_wrap=True)
    best = summaries[0]
    table.add_column("above the best", justify="right", no_wrap=True)
    for found in summaries:
        cells = [
            format(found.scores[name], form) if name in found.scores else "-"
            for name, _, form in columns
        ]
        gap = found.against.get(best.method)
        above = "-" if gap is None else f"{gap.difference:.2g} ± {gap.standard_error:.1g}"
        table.add_row(found.method, *cells, above)
    return table


def _legend(summaries: Sequence[Summary], level: float) -> str:
    """Explain the columns that are there."""
    present = {name for found in summaries for name in found.scores}
    n_seeds = summaries[0].n_seeds
    words = [
        "deviance: mean Poisson deviance per held-out entry, lower is better; D2: share of the "
        "gene means' deviance that is explained (rare genes: the half with the fewest molecules)"
    ]
    if "coverage" in present:
        words.append(f"coverage of held-out counts by {level:.0%} intervals")
    if "ari" in present:
        words.append("ARI, NMI: clusters against the labels")
    if "shuffled_correlation" in present:
        words.append("|r| between shuffled genes, near 0 in truth")
    words.append("± standard error over cells, paired")
    words.append(f"{n_seeds} seed{'s' if n_seeds > 1 else ''}")
    return "; ".join(words) + "."
