"""Pictures of genes, and of entries of cells x genes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
from scipy import special

from graphsci._keys import DEFAULT_KEY, keys
from graphsci._labels import group_names
from graphsci._words import check_column, similar_names
from graphsci.pl._scale import (
    Common,
    Moments,
    Values,
    check_has_results,
    copies_of,
    estimate_of,
    moments,
    refuse_changed,
    run_record,
)
from graphsci.pl._style import (
    BLUE,
    COLOR_MAP,
    GREY,
    INK,
    RED,
    axes_for,
    figure_for,
    styled,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Entries drawn in a scatter or density of all cells x genes; more would only cost time.
_SHOWN_ENTRIES = 200_000
#: Depths that stand for those of all cells.
_SHOWN_DEPTHS = 1000
#: Width of a group in a panel of violins.
_GROUP_INCHES = 0.35


@styled
def expression(
    adata: AnnData,
    genes: Sequence[str],
    groupby: str,
    *,
    layer: str = "denoised",
    counts_layer: str | None = None,
    library_key: str | None = None,
    key: str = DEFAULT_KEY,
    figure: Figure | None = None,
) -> Figure:
    """Distribution of some genes in each group of cells, counts beside an estimate.

    Parameters
    ----------
    adata
        Counts with results.
    genes
        Genes to draw, one row each.
    groupby
        Column of ``obs`` with the groups, drawn in the order of its categories if it is
        categorical; else the largest first.
    layer, counts_layer, library_key, key
        As in :func:`embedding`.
    figure
        Where to draw; a new one if None.
    """
    check_has_results(adata)
    genes = [genes] if isinstance(genes, str) else list(genes)
    unknown = [f"{g}{similar_names(g, adata.var_names)}" for g in genes if g not in adata.var_names]
    if unknown:
        raise ValueError(f"genes: adata.var_names has no {', '.join(unknown)}.")
    if not genes:
        raise ValueError("genes: got an empty list, expected names of genes.")
    check_column(adata.obs, groupby, option="groupby")
    common = Common.of(adata, counts_layer, library_key, key)
    common.refuse_unknown(layer, genes)
    columns = adata.var_names.get_indexer(pd.Index(genes))
    sides = common.sides(layer, columns)
    groups = adata.obs[groupby]
    names = group_names(groups.dropna())  # cells without a label are in no group
    labels = groups.astype(str).where(groups.notna(), None)
    if not names:
        raise ValueError(f"groupby: no cell has a label in {groupby!r}.")
    width = max(10.5, 2 * _GROUP_INCHES * len(names) + 1)
    figure = figure_for(figure, (width, 1.5 * len(genes) + 1.6))
    grid = figure.subplots(len(genes), 2, sharex=True, sharey="row", squeeze=False)
    for column, (title, values) in enumerate(sides.items()):
        grid[0, column].set_title(f"{title}, log(1 + counts at common depth)")
        for row, gene in enumerate(genes):
            parts = [values[(labels == name).to_numpy(), row] for name in names]
            _violins(grid[row, column], parts, BLUE if column else "#BDBDBD")
            grid[row, column].spines[["top", "right"]].set_visible(False)
            grid[row, 0].set_ylabel(gene, style="italic")
        grid[-1, column].set_xticks(
            range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor"
        )
    return figure


def _violins(ax: Axes, parts: list[Values], color: str) -> None:
    """Violins with the median of each; a group without spread is its median alone."""
    spread = [i for i, part in enumerate(parts) if len(part) > 1 and np.ptp(part) > 0]
    if spread:
        drawn = ax.violinplot(
            [parts[i] for i in spread], positions=spread, widths=0.85, showextrema=False
        )
        for body in cast("list[Any]", drawn["bodies"]):
            body.set(facecolor=color, alpha=0.75, edgecolor=INK, linewidth=0.5)
    medians = [float(np.median(part)) if len(part) else np.nan for part in parts]
    ax.plot(range(len(parts)), medians, "_", color=INK, markersize=9, markeredgewidth=1.6)


def _dots(
    ax: Axes, x: Values, y: Values, *, color: str, alpha: float = 0.5, label: str | None = None
) -> None:
    """Draw a point for each gene."""
    ax.plot(x, y, ".", color=color, markersize=3, alpha=alpha, label=label, rasterized=True)


def _unit(copies: Values) -> str:
    """What means are of that were divided by ``copies``."""
    return "counts" if (copies == 1).all() else "molecules"


@styled
def mean_variance(
    adata: AnnData,
    *,
    layer: str = "denoised",
    counts_layer: str | None = None,
    library_key: str | None = None,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Variance over cells against the mean of each gene, counts and estimate.

    Counts lie on or above the Poisson line: sampling alone gives a variance equal to the mean or,
    of reads, to the mean times the copies of a molecule. An estimate that removed the sampling
    noise lies below its counts. Of a table of chosen genes (``impute(genes=...)``) these are drawn.

    Parameters
    ----------
    adata
        Counts with results.
    layer, counts_layer, library_key, key
        As in :func:`embedding`.
    ax
        Where to draw; a new figure if None.
    """
    check_has_results(adata)
    common = Common.of(adata, counts_layer, library_key, key)
    found = estimate_of(adata, layer, key)
    counts = Moments(*(x[found.estimated] for x in moments(common.count_blocks())))
    estimate = moments(common.estimate_blocks(layer))
    ax = axes_for(ax)
    for (mean, variance), color, label in ((counts, GREY, "counts"), (estimate, BLUE, layer)):
        seen = (mean > 0) & (variance > 0)
        _dots(ax, mean[seen], variance[seen], color=color, label=label)
    ax.set(xscale="log", yscale="log")
    span = np.array(ax.get_xlim())
    copies = float(np.median(copies_of(adata, key)))
    line = "variance = mean" if copies == 1 else f"variance = {copies:.3g} mean, of molecules"
    ax.plot(span, copies * span, color=INK, linewidth=1, linestyle="--", label=f"Poisson: {line}")
    ax.set_xlim(*span)
    ax.set(
        xlabel="mean of the gene (counts at common depth)",
        ylabel="variance over cells (counts²)",
        title="Mean and variance of genes",
    )
    ax.legend(loc="upper left", markerscale=3)
    return ax


@styled
def dispersion(
    adata: AnnData,
    *,
    counts_layer: str | None = None,
    library_key: str | None = None,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Learned dispersion 1/theta of each gene against its mean.

    The variance that the model expects around its own prediction mu, in an average cell, is
    mu + mu² / theta: the dispersion is what the cell embedding does not explain. Of reads that
    were divided by the copies of a molecule, all of it is of molecules.

    Parameters
    ----------
    adata
        Counts with results.
    counts_layer, library_key, key
        As in :func:`embedding`.
    ax
        Where to draw; a new figure if None.
    """
    check_has_results(adata)
    column = keys(key).inverse_dispersion
    if column not in adata.var:
        raise ValueError(
            f"adata.var has no column {column!r}: the preset 'paper' learns a dispersion for "
            "every entry, none by gene."
        )
    common = Common.of(adata, counts_layer, library_key, key)
    copies = copies_of(adata, key)
    mean = common.gene_means(common.sparse_counts()) / copies
    theta = adata.var[column].to_numpy(dtype=np.float64)
    seen = (mean > 0) & np.isfinite(theta)
    ax = axes_for(ax)
    _dots(ax, mean[seen], 1 / theta[seen], color=BLUE)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=f"mean of the gene ({_unit(copies)} at common depth)",
        ylabel="dispersion 1/θ (variance = μ + μ²/θ)",
        title="Learned dispersion of genes",
    )
    return ax


@styled
def uncertainty(
    adata: AnnData,
    *,
    layer: str = "denoised",
    key: str = DEFAULT_KEY,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Posterior standard deviation against the estimate, over entries of cells x genes.

    Below the dashed line the posterior is tighter than a single Poisson count of that mean.

    Parameters
    ----------
    adata
        Counts with results.
    layer, key
        As in :func:`embedding`; the estimate must have a ``layer + "_sd"`` beside it.
    seed
        Of the choice of entries that are drawn.
    ax
        Where to draw; a new figure if None.
    """
    check_has_results(adata)
    value, spread = (estimate_of(adata, name, key) for name in (layer, f"{layer}_sd"))
    refuse_changed(adata, value)
    rng = np.random.default_rng(seed)
    n_genes = len(value.estimated)
    n_cells = min(adata.n_obs, max(1, _SHOWN_ENTRIES // n_genes))
    cells = np.sort(rng.choice(adata.n_obs, n_cells, replace=False))
    chosen = rng.choice(n_genes, min(n_genes, _SHOWN_ENTRIES // n_cells), replace=False)
    genes = value.estimated[np.sort(chosen)]
    x, y = (found.values(genes, cells=cells).ravel() for found in (value, spread))
    seen = (x > 0) & (y > 0)
    ax = axes_for(ax)
    said = value.said
    drawn = ax.hexbin(
        x[seen],
        y[seen],
        xscale="log",
        yscale="log",
        bins="log",
        gridsize=60,
        cmap=COLOR_MAP,
        mincnt=1,
        linewidths=0.1,
    )
    ax.figure.colorbar(drawn, ax=ax, label="entries")
    if said.get("scale") == "counts" and said.get("depth") == "own":
        span = np.geomspace(x[seen].min(), x[seen].max(), 50)
        copies = float(np.median(copies_of(adata, key)))
        line = "count: sd = √mean" if copies == 1 else f"molecule: sd = √({copies:.3g} mean)"
        ax.plot(span, np.sqrt(copies * span), color=RED, linestyle="--", label=f"a Poisson {line}")
        ax.legend(loc="upper left")
    unit = str(said.get("unit", "its own scale")).split(",")[0]
    ax.set(
        xlabel=f"{layer} ({unit})",
        ylabel="posterior standard deviation",
        title="Uncertainty of entries",
    )
    return ax


def poisson_zeros(means: Values, size_factors: Values) -> Values:
    """Share of cells without a molecule: mean over cells of exp(-m s); for each mean m.

    Of more than a thousand cells, that many quantiles of the size factors s stand for them.
    """
    if len(size_factors) > _SHOWN_DEPTHS:
        middles = (np.arange(_SHOWN_DEPTHS) + 0.5) / _SHOWN_DEPTHS
        size_factors = np.quantile(size_factors, middles)
    return np.exp(-means[:, None] * size_factors).mean(1)


@styled
def dropout_curve(
    adata: AnnData,
    *,
    counts_layer: str | None = None,
    library_key: str | None = None,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Share of zeros of each gene against its mean, with what Poisson counts would show.

    The dashed line is of cells that are alike but for their depth: the mean of exp(-m s) over the
    cells' own depths, m the mean at common depth and s the size factor of a cell. Cells of
    different library size have more zeros than exp(-m), and are no reason to lie above the line.
    With a ZINB the learned curve P(dropped) = sigmoid(intercept + slope log mu) is drawn too. Of
    reads that were divided by the copies of a molecule, means are of molecules.

    Parameters
    ----------
    adata
        Counts with results.
    counts_layer, library_key, key
        As in :func:`embedding`.
    ax
        Where to draw; a new figure if None.
    """
    check_has_results(adata)
    common = Common.of(adata, counts_layer, library_key, key)
    counts = common.sparse_counts()
    copies = copies_of(adata, key)
    mean = common.gene_means(counts) / copies
    zeros = 1 - np.asarray((counts > 0).mean(0)).ravel()
    ax = axes_for(ax)
    seen = mean > 0
    _dots(ax, mean[seen], 100 * zeros[seen], color=GREY, alpha=0.6, label="a gene")
    span = np.geomspace(mean[seen].min(), mean[seen].max(), 200)
    ax.plot(
        span,
        100 * poisson_zeros(span, common.size_factors),
        color=INK,
        linestyle="--",
        label="Poisson at this mean,\ncells of these depths",
    )
    curve = run_record(adata, key).get("dropout_curve") or {}
    if curve:
        dropped = special.expit(curve["intercept"] + curve["slope"] * np.log(span))
        ax.plot(span, 100 * dropped, color=RED, label="learned P(dropped)")
    ax.set(
        xscale="log",
        ylim=(-2, 102),
        xlabel=f"mean of the gene ({_unit(copies)} at common depth)",
        ylabel="zeros (% of cells)",
        title="Zeros of genes",
    )
    ax.legend(loc="upper right", markerscale=3)
    return ax
