"""The report of a run: one HTML file with verdict, numbers, figures, settings and versions.

It is self-contained (figures are embedded, nothing is loaded from elsewhere), so that it can
be mailed and printed. What it says comes from the run's summary, the same values as in
``--json``.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from graphsci import pl, tl
from graphsci._imputing.annotation import run_record
from graphsci._imputing.request import Request
from graphsci._keys import keys
from graphsci._labels import known_labels
from graphsci._words import check_column
from graphsci.config import PRESETS
from graphsci.io.files import is_store
from graphsci.io.sources import divide
from graphsci.io.streams import take_cells
from graphsci.pl._cells import scanpy_colors
from graphsci.preprocessing import library_sizes, log_normalize, read_batches
from graphsci.verdict import NO_VERDICT

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.imputer import GraphSCI

#: A sketch has at most so many cells, and so many cells x genes.
_SKETCH_CELLS, _SKETCH_ENTRIES = 2_000, 3_000_000
_VARIABLE_GENES = 1_000
_NO_LABEL = "no label"
_BATCHES = 20  #: that are named with their cells


class Picture(NamedTuple):
    """A figure with its words."""

    name: str  #: of its file, without ending
    title: str
    caption: str
    figure: Figure

    def png(self) -> bytes:
        """Return the figure as PNG."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=150, facecolor="white")
        return buffer.getvalue()

    def data_uri(self) -> str:
        """Return the figure as text that HTML can embed."""
        return "data:image/png;base64," + base64.b64encode(self.png()).decode()


# --- a part of the data for the figures -------------------------------------------------


def sketch(
    model: GraphSCI,
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    as_batch: str | None = None,
    label_key: str | None = None,
    genes: Sequence[str] = (),
) -> AnnData:
    """Take some cells and genes with their estimates, small enough to draw.

    Parameters
    ----------
    model
        Trained.
    adata
        Raw counts, as for :meth:`GraphSCI.impute`; not changed.
    layer, batch_key, allow_fractional
        As for :meth:`GraphSCI.impute`; batches that the model knows of are kept, as names.
    as_batch
        Batch that the estimates are as of.
    label_key
        Column of ``obs`` to keep.
    genes
        Genes to keep in any case.

    Returns
    -------
    AnnData
        At most 2,000 cells and 3 million entries: the most variable genes and a random choice
        of the others. ``X`` are counts, ``layers`` ``denoised`` and ``denoised_sd`` at own
        depth, ``obs`` library sizes in all genes of the model and the size factors of the
        estimates.
    """
    rng = np.random.default_rng(0)
    n_cells = min(adata.n_obs, _SKETCH_CELLS)
    rows = np.sort(rng.choice(adata.n_obs, n_cells, replace=False))
    part = take_cells(adata, rows)
    options: dict[str, Any] = {
        "layer": layer,
        "batch_key": batch_key,
        "allow_fractional": allow_fractional,
    }
    counts = divide(model.prepare(part, **options).counts, np.reciprocal(model.fitted.spec.copies))
    columns = _sketch_genes(counts, model, genes, _SKETCH_ENTRIES // n_cells, rng)
    names = model.gene_names[columns]
    wanted = {"genes": names.tolist(), "as_batch": as_batch}
    blocks = list(model.iterate_estimates(part, **options, **wanted))
    from anndata import AnnData

    small = AnnData(
        counts[:, columns],
        obs=pd.DataFrame(
            {
                keys().library: library_sizes(counts),
                keys().size_factor: np.concatenate([block.size_factors for block in blocks]),
            },
            index=part.obs_names,
        ),
        var=pd.DataFrame(index=names),
        layers={
            name: np.concatenate([block.values[name] for block in blocks])
            for name in ("denoised", "denoised_sd")
        },
    )
    if label_key is not None:
        small.obs[label_key] = _labels(adata, label_key).iloc[rows].array
        small.uns |= _colors(adata, small.obs[label_key])
    if batch_key is not None and batch_key != label_key and model.fitted.spec.batch_names:
        small.obs[batch_key] = _batches(adata, batch_key).iloc[rows].array
        small.uns |= _colors(adata, small.obs[batch_key])
    theta = model.inverse_dispersion()
    if theta is not None:
        small.var[keys().inverse_dispersion] = theta.to_numpy()[columns]
    copies = model.copies()
    if copies is not None:
        small.var[keys().copies] = copies.to_numpy()[columns]
    request = Request.plain("denoised", "denoised_sd")._replace(as_batch=as_batch)
    small.uns["graphsci"] = run_record(model, request)
    return small


def _sketch_genes(
    counts: Any, model: GraphSCI, wanted: Sequence[str], n_genes: int, rng: np.random.Generator
) -> np.ndarray:
    """Positions of genes of the model: those wanted, the most variable ones, some others."""
    logged = log_normalize(counts, median_library_size=model.fitted.spec.common_counts)
    mean = np.asarray(logged.mean(0)).ravel()
    variance = np.asarray(logged.multiply(logged).mean(0)).ravel() - mean**2
    measured = np.flatnonzero(mean > 0)
    order = measured[np.argsort(-variance[measured], kind="stable")]
    first = np.flatnonzero(np.isin(model.gene_names, list(wanted)))
    ranked = [*first, *order[:_VARIABLE_GENES], *rng.permutation(order[_VARIABLE_GENES:])]
    chosen = pd.unique(np.asarray(ranked, dtype=np.int64))[: max(n_genes, 2)]
    return np.sort(chosen)


def _labels(adata: AnnData, label_key: str) -> pd.Series:
    """Labels as they are drawn; those that are categories keep their order."""
    check_column(adata.obs, label_key, option="label_key")
    column = adata.obs[label_key]
    if pl.is_numeric(column):
        return column
    labels = known_labels(column)
    labels[labels == None] = _NO_LABEL  # noqa: E711 (each element)
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Series(labels.astype(str), index=column.index)
    order = [*column.cat.categories.astype(str), _NO_LABEL]
    order = [name for name in dict.fromkeys(order) if name in set(labels)]
    return pd.Series(pd.Categorical(labels, categories=order), index=column.index)


def _batches(adata: AnnData, batch_key: str) -> pd.Series:
    """Names of the cells' batches, as the model knows them."""
    codes, names = read_batches(adata, batch_key)
    batches = pd.Categorical.from_codes(codes, categories=pd.Index(names))
    return pd.Series(batches, index=adata.obs_names, name=batch_key)


def _colors(adata: AnnData, kept: pd.Series) -> dict[str, list[str]]:
    """Scanpy's colours of the groups that are drawn, in their order; nothing where it left none."""
    known = scanpy_colors(adata, str(kept.name))
    if not known:
        return {}
    return {f"{kept.name}_colors": [known.get(name, "grey") for name in kept.cat.categories]}


# --- figures ----------------------------------------------------------------------------


def figures(
    model: GraphSCI,
    small: AnnData,
    *,
    label_key: str | None = None,
    batch_key: str | None = None,
    genes: Sequence[str] = (),
) -> list[Picture]:
    """Draw what is worth looking at after a run; a map only of four cells or more.

    Parameters
    ----------
    model
        Trained.
    small
        From :func:`sketch`.
    label_key
        Column of ``small.obs`` that colours the cells and groups the violins.
    batch_key
        Column with batches, by which cells are coloured as well if ``small`` has it.
    genes
        Marker genes for the violins; the three most variable genes if empty.
    """
    pictures: list[Picture] = []

    def add(name: str, title: str, caption: str, figure: Figure) -> None:
        pictures.append(Picture(name, title, caption, figure))

    if model.verdict is not None:
        figure = _draw((6.6, 2.5), lambda ax: pl.verdict(model, ax=ax))
        add("verdict", "Held-out molecules", _CAPTIONS["verdict"], figure)
    if small.n_obs >= pl.FEWEST_MAPPED:
        colors: list[Any] = [label_key]  # None is the library size
        if batch_key in small.obs and batch_key != label_key:
            colors.append(batch_key)
        figure = Figure(figsize=(10.5, 4.4 * len(colors)), layout="constrained")
        pl.embedding(small, color=colors, figure=figure)
        add("embedding", "Cells before and after", _caption("embedding", small, model), figure)
    if label_key is not None and not pl.is_numeric(small.obs[label_key]):
        chosen = [gene for gene in genes if gene in small.var_names] or _most_variable(small, 3)
        size = (10.5, 1.5 * len(chosen) + 1.6)
        figure = Figure(figsize=size, layout="constrained")
        pl.expression(small, chosen, label_key, figure=figure)
        add("expression", "Genes by group", _CAPTIONS["expression"], figure)
    by_gene: dict[str, Callable[..., Any]] = {
        "mean_variance": pl.mean_variance,
        "dropout_curve": pl.dropout_curve,
    }
    if keys().inverse_dispersion in small.var:
        by_gene["dispersion"] = pl.dispersion
    titles = {
        "mean_variance": "Noise removed",
        "dropout_curve": "Zeros",
        "dispersion": "Dispersion",
    }
    add(
        "training",
        "Training",
        _CAPTIONS["training"],
        _draw(_SIZE, lambda ax: pl.training_curve(model, ax=ax)),
    )
    for name, function in by_gene.items():
        figure = Figure(figsize=_SIZE, layout="constrained")
        function(small, ax=figure.add_subplot())
        add(name, titles[name], _caption(name, small, model), figure)
    figure = _draw(_SIZE, lambda ax: pl.uncertainty(small, ax=ax))
    add("uncertainty", "Uncertainty", _CAPTIONS["uncertainty"], figure)
    figure = _draw(_SIZE, lambda ax: pl.gene_graph_degree(model, ax=ax))
    add("gene_graph", "Gene graph", _CAPTIONS["gene_graph"], figure)
    return pictures


_SIZE = (5.2, 3.8)
#: Standard errors from which a departure is told, and how many are.
_DEPARTURE, _DEPARTURES = 4.0, 12
_CAPTIONS = {
    "verdict": "Each method saw nine tenths of the molecules (or the share given in the settings) "
    "and predicted the rest. A shorter bar is a better prediction; 'doing nothing' takes each "
    "count itself as the prediction, 'neighbour pooling' the profile of the cell and its 29 most "
    "similar ones; 'with own counts' says that the cell's own counts correct these, as they do in "
    "'denoised', with a dispersion of their own or graphsci's, whichever is better. What lies "
    "below both 'with own counts' was learned of the cells' states.",
    "embedding": "Both maps were made in the same way, from the counts and from the denoised "
    "expression (common depth, log1p, the same variable genes, principal components, UMAP). A "
    "tidier map is no evidence that it is truer: that is what the verdict is for.",
    "expression": "Counts beside denoised expression, at common depth; the bar is the median of "
    "a group.",
    "training": "Validation is on molecules withheld from training; the weights of its best "
    "epoch are kept. With the preset 'default' the training loss is jagged because the share of "
    "the molecules that is scored is another in every step; over many epochs its mean of five is "
    "drawn, the epochs faintly. It may rise while validation falls: how often a gene is hidden and "
    "predicted as a whole, which costs more, follows what is learned. Validation decides.",
    "mean_variance": "Sampling alone gives a variance equal to the mean, or of reads to the mean "
    "times the copies of a molecule (dashed). Counts lie "
    "above; denoised expression keeps the variance that the model could predict or that the "
    "counts prove.",
    "dropout_curve": "The dashed line: zeros of Poisson counts (or molecules, where reads were "
    "divided) of this mean, averaged over the "
    "cells' own library sizes, as if they were alike in all but depth. Genes above it have more: "
    "because cells differ in more than depth, or because molecules were lost.",
    "dispersion": "What the embedding does not explain: the variance around the prediction μ, in "
    "an average cell, is μ + μ²/θ; of reads that were divided, in molecules.",
    "uncertainty": "Posterior standard deviation of each entry's expression rate. On the dashed "
    "line it is that of a single Poisson count, or of molecules where reads were divided.",
    "gene_graph": "How many edges the genes have in the gene graph the model was trained with. "
    "Genes without edges are modelled by themselves.",
}


def _caption(name: str, small: AnnData, model: GraphSCI) -> str:
    drawn = f"Drawn: {small.n_obs:,} cells"
    if small.n_vars < len(model.gene_names):
        drawn += f" and {small.n_vars:,} genes, the most variable ones and a random choice"
    return f"{_CAPTIONS[name]} {drawn}."


def _draw(size: tuple[float, float], draw: Callable[..., Any]) -> Figure:
    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    return figure


def _most_variable(small: AnnData, n_genes: int) -> list[str]:
    values = np.log1p(small.layers["denoised"])
    return small.var_names[np.argsort(-values.var(0), kind="stable")[:n_genes]].tolist()


def group_departures(small: AnnData, label_key: str | None) -> pd.DataFrame | None:
    """Where `denoised` of a group departs most from its counts, a few rows; of :func:`sketch`.

    None where no groups were named.
    """
    if label_key is None or pl.is_numeric(small.obs[label_key]):
        return None
    found = tl.group_departures(small, label_key)
    told = (found["z"].abs() > _DEPARTURE) & (found["group"] != _NO_LABEL)
    return found[told].head(_DEPARTURES)


# --- the page ---------------------------------------------------------------------------


def render(
    summary: Mapping[str, Any],
    history: pd.DataFrame,
    pictures: Sequence[Picture],
    *,
    departures: pd.DataFrame | None = None,
    title: str = "graphsci report",
) -> str:
    """Return the report as HTML.

    Parameters
    ----------
    summary
        What a run leaves behind, the same as ``--json``.
    history
        Of the model.
    pictures
        From :func:`figures`.
    departures
        From :func:`group_departures`.
    title
        Of the page.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("graphsci", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    record = summary["record"]
    return environment.get_template("report.html.j2").render(
        title=title,
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        summary=summary,
        record=record,
        verdict=_verdict_words(summary["verdict"]),
        scores=_score_rows(summary["verdict"]),
        settings=_settings(record["config"]),
        stopped=_stopped_words(record["training"]),
        loading=loading_lines(summary),
        counted=_counted_words(summary),
        pictures=pictures,
        departures=None if departures is None else departures.to_dict("records"),
        n_epochs=len(history),
    )


class _Words(NamedTuple):
    """A verdict in words."""

    status: str  #: "good", "doubtful", "bad" or "none"
    headline: str
    details: str


def _verdict_words(verdict: Mapping[str, Any]) -> _Words:
    if not verdict:
        return _Words("none", "Not checked.", NO_VERDICT)
    return _Words(verdict["status"], verdict["headline"], verdict["details"])


def _score_rows(verdict: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row of the table for each method, the best first."""
    if not verdict:
        return []
    rows = [{"method": method, **score} for method, score in verdict["scores"].items()]
    return sorted(rows, key=lambda row: row["deviance"])


def _settings(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every hyper-parameter with its help, and whether it differs from its preset."""
    from dataclasses import fields

    preset = PRESETS[config["preset"]]
    return [
        {
            "name": field.name,
            "value": config[field.name],
            "changed": config[field.name] != getattr(preset, field.name),
            "help": field.metadata["help"],
        }
        for field in fields(preset)
    ]


def _stopped_words(training: Mapping[str, Any]) -> str:
    epochs, best = training["epochs"], training["best_epoch"]
    reasons = {
        "finished": "all planned epochs were done",
        "no improvement": "the withheld loss did not improve any more",
        "interrupted": "it was interrupted (Ctrl-C)",
    }
    why = reasons.get(training["stopped"], training["stopped"])
    return f"{epochs} epochs; {why}. The weights are those of epoch {best}."


def _counted_words(summary: Mapping[str, Any]) -> list[str]:
    """Say of a run which counts were used, if not those of X, and which batches, if any."""
    record, sizes = summary["record"], summary["batch_cells"]
    lines = []
    if record.get("counts", "X") != "X":
        lines.append(f"Counts: those of {record['counts']}.")
    if sizes:
        named = [f"{name} ({n:,} cells)" for name, n in sizes.items()]
        more = [f"and {len(named) - _BATCHES:,} more"] if len(named) > _BATCHES else []
        lines.append(
            f"Batches: those of obs/{record['batch_key']}, "
            + ", ".join(named[:_BATCHES] + more)
            + "."
        )
        lines.append(
            f"Estimates of all cells, in the figures too, are as of batch {record['as_batch']}."
            if "as_batch" in record
            else "Estimates are on the scale of each cell's own batch; --as-batch NAME gives them "
            "as of one."
        )
    return lines


def loading_lines(summary: Mapping[str, Any]) -> list[str]:
    """Python that opens the results of a run."""
    path = summary["outputs"]["output"]
    reader = "read_zarr" if is_store(Path(path)) else "read_h5ad"
    name = next(iter(summary["slots"]))
    unit = summary["units"][name]
    return [
        "import anndata",
        f'adata = anndata.{reader}("{path}")',
        f"adata.{summary['slots'][name]}  # {unit}",
    ]
