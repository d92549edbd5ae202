"""Plots in scanpy's manner: functions of results that return what they drew.

Each takes an optional ``ax`` or ``figure`` to draw on, and otherwise makes one with pyplot, so
that notebooks show it. None calls ``plt.show`` or changes a global setting. Colours are those
of Okabe and Ito, which most colour-blind people can tell apart; more than six groups have those
of matplotlib's tab20, and beyond these the marker changes as well.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, cast

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import is_color_like, to_hex
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import sparse, special

from graphsci._keys import DEFAULT_KEY, keys

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graphsci.imputer import GraphSCI
    from graphsci.verdict import Verdict

__all__ = [
    "dispersion",
    "dropout_curve",
    "embedding",
    "expression",
    "gene_graph_degree",
    "gene_network",
    "mean_variance",
    "module_heatmap",
    "network_degree",
    "training_curve",
    "uncertainty",
    "verdict",
]

Method = Literal["umap", "tsne"]
Values = NDArray[np.floating]
_Draw = TypeVar("_Draw", bound=Callable[..., Any])

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
GREY, INK = "#9A9A9A", "#222222"
GROUP_COLORS = (BLUE, ORANGE, GREEN, RED, "#56B4E9", "#CC79A7")
#: For more groups: tab20 without its greys, the strong colours first.
MANY_GROUP_COLORS = tuple(
    to_hex(matplotlib.colormaps["tab20"](i))
    for i in (*range(0, 20, 2), *range(1, 20, 2))
    if i not in (14, 15)
)
GROUP_MARKERS = ("o", "^", "s", "D")
_COLOR_MAP = "cividis"
_OTHER = "other"
_LEGEND_ROWS = 18  #: groups that fit beside a panel
_LEGEND_POINT = 45  #: area of a point in a legend, however small those of the cells are
#: Entries drawn in a scatter or density of all cells x genes; more would only cost time.
_SHOWN_ENTRIES = 200_000

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "legend.fontsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "savefig.dpi": 150,
}


def _styled(draw: _Draw) -> _Draw:
    """Draw in our style without leaving it behind."""

    @functools.wraps(draw)
    def styled(*args: Any, **kwargs: Any) -> Any:
        with matplotlib.rc_context(_STYLE):  # type: ignore[arg-type]
            return draw(*args, **kwargs)

    return styled  # type: ignore[return-value]


def _axes(ax: Axes | None, size: tuple[float, float] = (5.2, 3.8)) -> Axes:
    if ax is None:
        from matplotlib import pyplot as plt

        ax = plt.figure(figsize=size, layout="constrained").add_subplot()
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _figure(figure: Figure | None, size: tuple[float, float]) -> Figure:
    if figure is not None:
        return figure
    from matplotlib import pyplot as plt

    return plt.figure(figsize=size, layout="constrained")


# --- training and verdict ---------------------------------------------------------------


@_styled
def training_curve(model: GraphSCI | pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Losses by epoch, with the epoch whose weights were kept.

    Parameters
    ----------
    model
        A trained model, or its ``history``.
    ax
        Where to draw; a new figure if None.

    Notes
    -----
    The two losses are of different molecules, training and withheld ones, so each has its own
    axis: compare their courses, not their heights. With the preset ``default`` the training
    loss is jagged because the share of the molecules that is scored is drawn anew each step.
    """
    history = model if isinstance(model, pd.DataFrame) else model.history
    if history.empty:
        raise ValueError("the history has no epochs: nothing was trained, so nothing to draw.")
    ax = _axes(ax)
    epochs = history["epoch"]
    ax.plot(epochs, history["training_loss"], color=GREY, linewidth=1, label="training")
    ax.set(xlabel="epoch", ylabel="training loss (nats per cell)", title="Training")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles = ax.get_lines()
    if history["validation_loss"].notna().any():
        twin = ax.twinx()
        twin.spines["right"].set_visible(True)
        best = history.iloc[int(history["validation_loss"].argmin())]
        twin.plot(epochs, history["validation_loss"], color=BLUE, label="withheld molecules")
        twin.plot(
            best["epoch"],
            best["validation_loss"],
            "o",
            color=RED,
            label=f"kept: epoch {best['epoch']:.0f}",
        )
        twin.set_ylabel("validation loss (nats per cell)", color=BLUE)
        twin.tick_params(axis="y", colors=BLUE)
        handles = [*handles, *twin.get_lines()]
    ax.legend(handles=handles, loc="upper right")
    return ax


@_styled
def verdict(
    result: AnnData | GraphSCI | Verdict | Mapping[str, Any],
    *,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Deviance of held-out molecules, ours against the simple methods; shorter is better.

    Parameters
    ----------
    result
        Anything that carries a verdict: an imputed AnnData, a model, the verdict itself or
        its dictionary.
    key
        Name of the run in an AnnData.
    ax
        Where to draw; a new figure if None.
    """
    record = _verdict_record(result, key)
    if not record:
        raise ValueError(
            "there is no verdict to draw: the check was switched off (check=False, --no-check)."
        )
    scores = sorted(record["scores"].items(), key=lambda item: -item[1]["deviance"])
    names, values = [name for name, _ in scores], [score["deviance"] for _, score in scores]
    colors = [BLUE if name.startswith("graphsci") else "#BDBDBD" for name in names]
    ax = _axes(ax, (6.2, 2.6))
    bars = ax.barh(names, values, color=colors)
    ax.bar_label(bars, fmt=" %.4f", padding=2)
    ax.set_xlim(0, 1.18 * max(values))
    ax.set_xlabel("Poisson deviance per entry of held-out molecules (lower is better)")
    ax.set_title(str(record["line"]).split(". ")[0].split(": ")[0] + ".")
    return ax


def _verdict_record(result: Any, key: str) -> Mapping[str, Any]:
    if isinstance(result, Mapping):
        return result
    if hasattr(result, "uns"):
        return _record(result, key).get("verdict", {})
    found = result if hasattr(result, "scores") else result.verdict
    return {} if found is None else found.to_dict()


# --- expression on one scale ------------------------------------------------------------


def _record(adata: AnnData, key: str) -> Mapping[str, Any]:
    if key not in adata.uns:
        raise ValueError(
            f"adata.uns has no run {key!r}; it has {', '.join(map(repr, adata.uns)) or 'nothing'}. "
            "Run graphsci.tl.impute first, or name the run: key=..."
        )
    record: Mapping[str, Any] = adata.uns[key]
    return record


def _layer(adata: AnnData, layer: str | None) -> Any:
    if layer is None:
        return adata.X
    if layer not in adata.layers:
        present = ", ".join(map(repr, adata.layers)) or "none"
        raise ValueError(
            f"there is no layer {layer!r}; layers present: {present}. Impute all genes, or name "
            "the layer."
        )
    return adata.layers[layer]


def _dense(matrix: Any, genes: Any = slice(None)) -> Values:
    part = matrix[:, genes]
    dense = part.toarray() if sparse.issparse(part) else np.asarray(part)
    return np.asarray(dense, dtype=np.float64)


def _library(adata: AnnData, counts_layer: str | None, library_key: str | None) -> Values:
    """Library size of each cell: a column of ``obs``, or the sum of its counts."""
    if library_key is None:
        return np.asarray(_layer(adata, counts_layer).sum(1), dtype=np.float64).ravel()
    if library_key not in adata.obs:
        raise ValueError(f"library_key: obs has no column {library_key!r}.")
    return adata.obs[library_key].to_numpy(dtype=np.float64)


def _layer_of_counts(adata: AnnData, key: str) -> str | None:
    """Where a run found the counts; None for ``X``, also without a run."""
    place = str(adata.uns.get(key, {}).get("counts", "X"))
    return place.removeprefix("layers/") if place.startswith("layers/") else None


class _Common(NamedTuple):
    """Brings counts and estimates to the same depth, on the count scale."""

    adata: AnnData
    counts_layer: str | None
    size_factors: Values  # (cells,) library size / median
    key: str

    @classmethod
    def of(
        cls, adata: AnnData, counts_layer: str | None, library_key: str | None, key: str
    ) -> _Common:
        if counts_layer is None:
            counts_layer = _layer_of_counts(adata, key)
        library = _library(adata, counts_layer, library_key)
        median = float(np.median(library[library > 0])) if (library > 0).any() else 1.0
        return cls(adata, counts_layer, np.where(library > 0, library / median, 1.0), key)

    def counts(self, genes: Any = slice(None)) -> Values:
        return _dense(_layer(self.adata, self.counts_layer), genes) / self.size_factors[:, None]

    def estimate(self, layer: str, genes: Any = slice(None)) -> Values:
        values = np.nan_to_num(_dense(_layer(self.adata, layer), genes))
        said = _described(_record(self.adata, self.key), layer)
        if said.get("scale") == "log1p":
            values = np.expm1(values)
        return values if said.get("depth") == "common" else values / self.size_factors[:, None]


def _described(record: Mapping[str, Any], layer: str) -> Mapping[str, Any]:
    """Return what the run record says of a layer.

    Raises
    ------
    ValueError
        If it says nothing: the layer's scale is not known then.
    """
    described: Mapping[str, Mapping[str, Any]] = record.get("estimates", {})
    if layer not in described:
        raise ValueError(
            f"the run's record does not describe the layer {layer!r}; it describes "
            f"{', '.join(map(repr, described)) or 'none'}. Name the run that made it: key=..."
        )
    return described[layer]


def _variable_genes(common: _Common, n_genes: int) -> NDArray[np.int64]:
    """Positions of the genes whose log-normalised counts vary most."""
    variances = []
    for start in range(0, common.adata.n_vars, 2000):
        block = np.log1p(common.counts(slice(start, start + 2000)))
        variances.append(block.var(0))
    return np.sort(np.argsort(-np.concatenate(variances), kind="stable")[:n_genes])


# --- cells ------------------------------------------------------------------------------


@_styled
def embedding(
    adata: AnnData,
    *,
    color: str | Sequence[str] | None = None,
    layer: str = "denoised",
    counts_layer: str | None = None,
    library_key: str | None = None,
    method: Method = "umap",
    n_genes: int = 1000,
    n_pcs: int = 30,
    seed: int = 0,
    key: str = DEFAULT_KEY,
    figure: Figure | None = None,
) -> Figure:
    """Two-dimensional maps of the cells, from the counts and from an estimate.

    Both go the same way: common depth, log1p, the same most variable genes (of the counts),
    principal components, UMAP or t-SNE.

    Parameters
    ----------
    adata
        Counts with results.
    color
        Column of ``obs`` (groups or numbers), or a gene, or a list of them, a row of maps each;
        the library size if None. Groups have the colours of ``uns[color + "_colors"]`` where
        scanpy left them.
    layer
        The estimate; its scale is read from the run record.
    counts_layer
        Where the counts are; where the run found them if None.
    library_key
        Column of ``obs`` with library sizes, for an ``adata`` that holds some genes only.
    method
        ``umap`` or ``tsne``.
    n_genes, n_pcs
        Genes and principal components used.
    seed
        Seed of the map.
    key
        Name of the run.
    figure
        Where to draw; a new one if None.
    """
    common = _Common.of(adata, counts_layer, library_key, key)
    genes = _variable_genes(common, n_genes)
    sides = {
        "Counts": np.log1p(common.counts(genes)),
        layer.capitalize(): np.log1p(common.estimate(layer, genes)),
    }
    colors = [color] if color is None or isinstance(color, str) else list(color)
    if not colors:
        raise ValueError("color: got an empty list, expected columns of obs or genes.")
    paints = [_paints(adata, common, color, layer) for color in colors]
    name = {"umap": "UMAP", "tsne": "t-SNE"}[_checked_method(method)]
    maps = {title: _map(values, method, n_pcs, seed) for title, values in sides.items()}
    figure = _figure(figure, (10.5, 4.4 * len(colors)))
    grid = figure.subplots(len(colors), 2, squeeze=False)
    for axes, color, pair in zip(grid, colors, paints, strict=True):
        for ax, paint, (title, points) in zip(axes, pair, maps.items(), strict=True):
            paint(ax, points)
            ax.set(title=title, xlabel=f"{name} 1", ylabel=f"{name} 2", xticks=[], yticks=[])
            ax.spines[["top", "right"]].set_visible(False)
        is_gene = color in adata.var_names and color not in adata.obs
        _legend(figure, axes, f"{color}, log(1 + counts)" if is_gene else color)
    return figure


def _checked_method(method: str) -> Method:
    if method not in ("umap", "tsne"):
        raise ValueError(f"method: got {method!r}, expected 'umap' or 'tsne'.")
    return method  # type: ignore[return-value]


def _map(values: Values, method: Method, n_pcs: int, seed: int) -> Values:
    """Map (cells, genes) log expression to (cells, 2)."""
    from sklearn.decomposition import PCA

    n_cells, n_genes = values.shape
    pca = PCA(min(n_pcs, n_cells - 1, n_genes), random_state=seed)
    components = pca.fit_transform(values).astype(np.float32)
    if method == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (n_cells - 1) / 3)
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
        return np.asarray(tsne.fit_transform(components))
    import scanpy as sc
    from anndata import AnnData

    cells = AnnData(components)
    sc.pp.neighbors(cells, use_rep="X", n_neighbors=min(15, n_cells - 1), random_state=seed)
    sc.tl.umap(cells, random_state=seed)
    return np.asarray(cells.obsm["X_umap"])


_Paint = Callable[["Axes", Values], None]


def _paints(
    adata: AnnData, common: _Common, color: str | None, layer: str
) -> tuple[_Paint, _Paint]:
    """Return what draws the points of the two sides in the colours asked for."""
    if color is None:
        numbers = np.log10(common.size_factors)
        return (functools.partial(_paint_numbers, numbers=numbers, limits=_limits(numbers)),) * 2
    if color in adata.obs:
        column = adata.obs[color]
        if not is_numeric(column):
            marks = _marks(column, _scanpy_colors(adata, color))
            return (functools.partial(_paint_groups, groups=column, marks=marks),) * 2
        numbers = column.to_numpy(dtype=np.float64)
        return (functools.partial(_paint_numbers, numbers=numbers, limits=_limits(numbers)),) * 2
    if color in adata.var_names:
        gene = [adata.var_names.get_loc(color)]
        both = [np.log1p(x).ravel() for x in (common.counts(gene), common.estimate(layer, gene))]
        limits = _limits(np.concatenate(both))
        counts, estimate = (
            functools.partial(_paint_numbers, numbers=numbers, limits=limits) for numbers in both
        )
        return counts, estimate
    raise ValueError(
        f"color: {color!r} is neither a column of obs ({', '.join(adata.obs.columns) or 'none'}) "
        f"nor a gene{_similar(color, adata.var_names)}."
    )


def _similar(name: str, names: pd.Index) -> str:
    """Names that differ in little, or in case."""
    folded = {known.casefold(): known for known in names.astype(str)}
    near = difflib.get_close_matches(name.casefold(), folded, n=3)
    return f" (similar: {', '.join(folded[other] for other in near)})" if near else ""


def is_numeric(column: pd.Series) -> bool:
    """Whether a column holds numbers rather than the numbers of a few groups."""
    return pd.api.types.is_numeric_dtype(column) and column.nunique() > len(GROUP_COLORS)


def _limits(numbers: Values) -> tuple[float, float]:
    return float(np.nanmin(numbers)), float(np.nanmax(numbers))


def _point_size(n_points: int) -> float:
    return float(np.clip(12_000 / n_points, 2, 22))


def _paint_numbers(
    ax: Axes, points: Values, *, numbers: Values, limits: tuple[float, float]
) -> None:
    order = np.argsort(numbers)  # the highest on top
    ax.scatter(
        points[order, 0],
        points[order, 1],
        vmin=limits[0],
        vmax=limits[1],
        c=numbers[order],
        cmap=_COLOR_MAP,
        s=_point_size(len(points)),
        linewidths=0,
        rasterized=True,
    )


def _paint_groups(
    ax: Axes, points: Values, *, groups: pd.Series, marks: Mapping[str, tuple[str, str]]
) -> None:
    names = groups.astype(str).to_numpy()
    for name, (color, marker) in marks.items():
        own = names == name
        if name == _OTHER:
            own |= ~np.isin(names, list(marks))
        ax.scatter(
            points[own, 0],
            points[own, 1],
            color=color,
            marker=marker,
            s=_point_size(len(points)),
            linewidths=0,
            alpha=0.85,
            label=f"{name} ({own.sum():,})",
            rasterized=True,
        )


def _scanpy_colors(adata: AnnData, name: str) -> dict[str, str]:
    """Colour of each group of a column, where scanpy left one for each of its categories."""
    column, colors = adata.obs[name], adata.uns.get(f"{name}_colors", ())
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return {}
    categories = column.cat.categories.astype(str)
    usable = len(colors) >= len(categories) and all(map(is_color_like, colors))
    return dict(zip(categories, colors, strict=False)) if usable else {}


def _marks(groups: pd.Series, palette: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each group, the most frequent first; the rest are one, grey."""
    names = groups.astype(str).value_counts().index.tolist()
    if palette:
        return {name: (palette.get(name, GREY), GROUP_MARKERS[0]) for name in names}
    colors = GROUP_COLORS if len(names) <= len(GROUP_COLORS) else MANY_GROUP_COLORS
    looks = [(color, marker) for marker in GROUP_MARKERS for color in colors]
    marks = dict(zip(names, looks, strict=False))
    return marks | ({_OTHER: (GREY, ".")} if len(names) > len(looks) else {})


def _legend(figure: Figure, axes: Any, label: str | None) -> None:
    """One legend or colour bar for a row of panels, at its right."""
    handles, labels = axes[-1].get_legend_handles_labels()
    if handles:
        columns = -(-len(handles) // _LEGEND_ROWS)
        legend = axes[-1].legend(
            handles, labels, title=label, loc="upper left", bbox_to_anchor=(1, 1), ncols=columns
        )
        for handle in legend.legend_handles:
            handle.set_sizes([_LEGEND_POINT])
    else:
        text = "log10(library size / median)" if label is None else label
        bar = axes[-1].inset_axes((1.04, 0, 0.05, 1))
        figure.colorbar(axes[-1].collections[0], cax=bar, label=text)


# --- genes ------------------------------------------------------------------------------


@_styled
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
        Column of ``obs`` with the groups.
    layer, counts_layer, library_key, key
        As in :func:`embedding`.
    figure
        Where to draw; a new one if None.
    """
    genes = [genes] if isinstance(genes, str) else list(genes)
    unknown = [f"{g}{_similar(g, adata.var_names)}" for g in genes if g not in adata.var_names]
    if unknown:
        raise ValueError(f"genes: adata.var_names has no {', '.join(unknown)}.")
    if not genes:
        raise ValueError("genes: got an empty list, expected names of genes.")
    if groupby not in adata.obs:
        raise ValueError(f"groupby: obs has no column {groupby!r}.")
    common = _Common.of(adata, counts_layer, library_key, key)
    columns = adata.var_names.get_indexer(pd.Index(genes))
    sides = {
        "Counts": np.log1p(common.counts(columns)),
        layer.capitalize(): np.log1p(common.estimate(layer, columns)),
    }
    groups = adata.obs[groupby].astype(str)
    names = groups.value_counts().index.tolist()
    figure = _figure(figure, (10.5, 1.5 * len(genes) + 1.6))
    grid = figure.subplots(len(genes), 2, sharex=True, sharey="row", squeeze=False)
    for column, (title, values) in enumerate(sides.items()):
        grid[0, column].set_title(f"{title}, log(1 + counts at common depth)")
        for row, gene in enumerate(genes):
            parts = [values[(groups == name).to_numpy(), row] for name in names]
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


@_styled
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

    Counts lie on or above the Poisson line: sampling alone gives a variance equal to the
    mean. An estimate that removed the sampling noise lies below its counts.
    """
    common = _Common.of(adata, counts_layer, library_key, key)
    ax = _axes(ax)
    for values, color, label in (
        (common.counts(), GREY, "counts"),
        (common.estimate(layer), BLUE, layer),
    ):
        mean, variance = values.mean(0), values.var(0)
        seen = (mean > 0) & (variance > 0)
        ax.plot(
            mean[seen],
            variance[seen],
            ".",
            color=color,
            markersize=3,
            alpha=0.5,
            label=label,
            rasterized=True,
        )
    ax.set(xscale="log", yscale="log")
    span = np.array(ax.get_xlim())
    ax.plot(span, span, color=INK, linewidth=1, linestyle="--", label="Poisson: variance = mean")
    ax.set_xlim(*span)
    ax.set(
        xlabel="mean of the gene (counts at common depth)",
        ylabel="variance over cells (counts²)",
        title="Mean and variance of genes",
    )
    ax.legend(loc="upper left", markerscale=3)
    return ax


@_styled
def dispersion(
    adata: AnnData,
    *,
    counts_layer: str | None = None,
    library_key: str | None = None,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Learned dispersion 1/theta of each gene against its mean.

    The variance that the model expects around its own prediction mu is mu + mu² / theta: the
    dispersion is what the cell embedding does not explain.
    """
    column = keys(key).inverse_dispersion
    if column not in adata.var:
        raise ValueError(
            f"adata.var has no column {column!r}: the preset 'paper' learns a dispersion for "
            "every entry, none by gene."
        )
    common = _Common.of(adata, counts_layer, library_key, key)
    counts = sparse.csr_matrix(_layer(adata, common.counts_layer))
    mean = (sparse.diags_array(1 / common.size_factors) @ counts).mean(0)
    mean, theta = np.asarray(mean).ravel(), adata.var[column].to_numpy(dtype=np.float64)
    seen = (mean > 0) & np.isfinite(theta)
    ax = _axes(ax)
    ax.plot(mean[seen], 1 / theta[seen], ".", color=BLUE, markersize=3, alpha=0.5, rasterized=True)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="mean of the gene (counts at common depth)",
        ylabel="dispersion 1/θ (variance = μ + μ²/θ)",
        title="Learned dispersion of genes",
    )
    return ax


@_styled
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
    """
    value, spread = _layer(adata, layer), _layer(adata, f"{layer}_sd")
    rng = np.random.default_rng(seed)
    n_cells = min(adata.n_obs, max(1, _SHOWN_ENTRIES // adata.n_vars))
    cells = np.sort(rng.choice(adata.n_obs, n_cells, replace=False))
    genes = np.sort(
        rng.choice(adata.n_vars, min(adata.n_vars, _SHOWN_ENTRIES // n_cells), replace=False)
    )
    x, y = (_dense(matrix[cells], genes).ravel() for matrix in (value, spread))
    seen = (x > 0) & (y > 0)
    ax = _axes(ax)
    said = _described(_record(adata, key), layer)
    drawn = ax.hexbin(
        x[seen],
        y[seen],
        xscale="log",
        yscale="log",
        bins="log",
        gridsize=60,
        cmap=_COLOR_MAP,
        mincnt=1,
        linewidths=0.1,
    )
    ax.figure.colorbar(drawn, ax=ax, label="entries")
    if said.get("scale") == "counts" and said.get("depth") == "own":
        span = np.geomspace(x[seen].min(), x[seen].max(), 50)
        ax.plot(span, np.sqrt(span), color=RED, linestyle="--", label="a Poisson count: sd = √mean")
        ax.legend(loc="upper left")
    unit = str(said.get("unit", "its own scale")).split(",")[0]
    ax.set(
        xlabel=f"{layer} ({unit})",
        ylabel="posterior standard deviation",
        title="Uncertainty of entries",
    )
    return ax


@_styled
def dropout_curve(
    adata: AnnData,
    *,
    counts_layer: str | None = None,
    library_key: str | None = None,
    key: str = DEFAULT_KEY,
    ax: Axes | None = None,
) -> Axes:
    """Share of zeros of each gene against its mean, with what Poisson counts would show.

    With a ZINB the learned curve P(dropped) = sigmoid(intercept + slope log mu) is drawn too.
    """
    common = _Common.of(adata, counts_layer, library_key, key)
    counts = sparse.csr_matrix(_layer(adata, common.counts_layer))
    mean = np.asarray((sparse.diags_array(1 / common.size_factors) @ counts).mean(0)).ravel()
    zeros = 1 - np.asarray((counts > 0).mean(0)).ravel()
    ax = _axes(ax)
    seen = mean > 0
    ax.plot(
        mean[seen],
        100 * zeros[seen],
        ".",
        color=GREY,
        markersize=3,
        alpha=0.6,
        label="a gene",
        rasterized=True,
    )
    span = np.geomspace(mean[seen].min(), mean[seen].max(), 200)
    expected = np.exp(-span[:, None] * common.size_factors).mean(1)
    ax.plot(span, 100 * expected, color=INK, linestyle="--", label="Poisson at this mean")
    curve = _record(adata, key).get("dropout_curve") or {}
    if curve:
        dropped = special.expit(curve["intercept"] + curve["slope"] * np.log(span))
        ax.plot(span, 100 * dropped, color=RED, label="learned P(dropped)")
    ax.set(
        xscale="log",
        ylim=(-2, 102),
        xlabel="mean of the gene (counts at common depth)",
        ylabel="zeros (% of cells)",
        title="Zeros of genes",
    )
    ax.legend(loc="lower left", markerscale=3)
    return ax


@_styled
def gene_graph_degree(
    result: AnnData | GraphSCI, *, key: str = DEFAULT_KEY, ax: Axes | None = None
) -> Axes:
    """Draw how many neighbours the genes have in the gene graph.

    Parameters
    ----------
    result
        An AnnData with a gene graph, of ``graphsci.tl.impute`` or ``gene_network``, or a model.
    key
        Name of the run in an AnnData.
    ax
        Where to draw; a new figure if None.
    """
    graph = _adjacency(result, key)
    degree = np.diff(sparse.csr_matrix(graph).indptr)
    connected = degree[degree > 0]
    ax = _axes(ax)
    if len(connected):
        width = -(-int(connected.max()) // 40)  # whole numbers, at most 40 bars
        bins = np.arange(1, connected.max() + width + 1, width) - 0.5
        ax.hist(connected, bins=bins.tolist(), color=BLUE, edgecolor="white", linewidth=0.5)
    ax.set(
        xlabel="edges of a gene",
        ylabel="genes",
        title=f"Gene graph: {graph.nnz // 2:,} edges, {len(connected):,} of {len(degree):,} genes "
        "connected",
    )
    return ax


def _adjacency(result: Any, key: str) -> sparse.csr_matrix:
    if not hasattr(result, "varp"):
        return result.gene_graph.adjacency
    slot = keys(key).gene_graph
    if slot not in result.varp:
        raise ValueError(
            f"adata.varp has no gene graph {slot!r}; it has "
            f"{', '.join(map(repr, result.varp)) or 'nothing'}. Run graphsci.tl.impute or "
            "graphsci.tl.gene_network first, or name the run: key=..."
        )
    return sparse.csr_matrix(result.varp[slot])


def __dir__() -> list[str]:
    return __all__


# pictures of refined networks have a module of their own, which uses what is above
from graphsci._network_plots import gene_network, module_heatmap, network_degree  # noqa: E402
