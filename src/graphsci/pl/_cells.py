"""Maps of the cells, before and after."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from matplotlib.colors import is_color_like

from graphsci._keys import DEFAULT_KEY
from graphsci._labels import group_names
from graphsci._words import few, similar_names
from graphsci.pl._scale import (
    Common,
    Stored,
    Values,
    check_has_results,
    estimate_of,
    variable_genes,
)
from graphsci.pl._style import (
    COLOR_MAP,
    GREY,
    GROUP_COLORS,
    GROUP_MARKERS,
    MANY_GROUP_COLORS,
    figure_for,
    styled,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Method = Literal["umap", "tsne"]
_Paint = Callable[["Axes", Values], None]

#: Cells that a map needs: fewer have no neighbours to be placed by.
FEWEST_MAPPED = 4
_OTHER = "other"
_LEGEND_ROWS = 18  #: groups that fit beside a panel
_LEGEND_POINT = 45  #: area of a point in a legend, however small those of the cells are


@styled
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
        scanpy left them, and the order of the categories of a categorical column; those of other
        columns are ordered by size.
    layer
        The estimate; its scale is read from the run record. If it is a table of chosen genes in
        ``obsm`` (``impute(genes=...)``), which makes no map, both maps are those of the counts,
        and ``color`` is one of these genes.
    counts_layer
        Where the counts are; where the run found them if None.
    library_key
        Column of ``obs`` with library sizes; if None those that the run left there, or the sums of
        the counts.
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
    check_has_results(adata)
    if adata.n_obs < FEWEST_MAPPED:
        raise ValueError(
            f"{adata.n_obs} cells make no map: expected at least {FEWEST_MAPPED}. Look at genes "
            "instead: graphsci.pl.expression."
        )
    common = Common.of(adata, counts_layer, library_key, key)
    genes = variable_genes(common, n_genes)
    colors = [color] if color is None or isinstance(color, str) else list(color)
    if not colors:
        raise ValueError("color: got an empty list, expected columns of obs or genes.")
    found = estimate_of(adata, layer, key)
    if found.is_table:
        _refuse_other_colors(found, colors, adata)
        sides = {"Counts": np.log1p(common.counts(genes))}
    else:
        sides = common.sides(layer, genes)
    paints = [_paints(adata, common, color, layer) for color in colors]
    name = {"umap": "UMAP", "tsne": "t-SNE"}[_checked_method(method)]
    maps = {title: _map(values, method, n_pcs, seed) for title, values in sides.items()}
    if found.is_table:
        maps[f"{layer.capitalize()} (map of the counts)"] = maps["Counts"]
    figure = figure_for(figure, (10.5, 4.4 * len(colors)))
    grid = figure.subplots(len(colors), 2, squeeze=False)
    for axes, color, pair in zip(grid, colors, paints, strict=True):
        for ax, paint, (title, points) in zip(axes, pair, maps.items(), strict=True):
            paint(ax, points)
            ax.set(title=title, xlabel=f"{name} 1", ylabel=f"{name} 2", xticks=[], yticks=[])
            ax.spines[["top", "right"]].set_visible(False)
        is_gene = color in adata.var_names and color not in adata.obs
        _legend(figure, axes, f"{color}, log(1 + counts at common depth)" if is_gene else color)
    return figure


def _refuse_other_colors(found: Stored, colors: Sequence[str | None], adata: AnnData) -> None:
    """Refuse what a table of chosen genes cannot show: a map, or another gene."""
    genes = adata.var_names[found.estimated]
    other = [color for color in colors if color not in genes or color in adata.obs]
    if other:
        raise ValueError(
            f"color: got {other[0]!r}, but {found.place} is a table of {len(genes):,} genes "
            f"({few(genes)}), and has no map of the cells: expected one of them, drawn on the map "
            "of the counts. Or impute all genes (without genes=...)."
        )


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


def _paints(adata: AnnData, common: Common, color: str | None, layer: str) -> tuple[_Paint, _Paint]:
    """Return what draws the points of the two sides in the colours asked for."""
    if color is None:
        numbers = np.log10(common.size_factors)
        return (functools.partial(_paint_numbers, numbers=numbers, limits=_limits(numbers)),) * 2
    if color in adata.obs:
        column = adata.obs[color]
        if not is_numeric(column):
            marks = _marks(column, scanpy_colors(adata, color))
            return (functools.partial(_paint_groups, groups=column, marks=marks),) * 2
        numbers = column.to_numpy(dtype=np.float64)
        return (functools.partial(_paint_numbers, numbers=numbers, limits=_limits(numbers)),) * 2
    if color in adata.var_names:
        common.refuse_unknown(layer, [color])
        gene = [adata.var_names.get_loc(color)]
        both = [np.log1p(x).ravel() for x in (common.counts(gene), common.estimate(layer, gene))]
        limits = _limits(np.concatenate(both))
        counts, estimate = (
            functools.partial(_paint_numbers, numbers=numbers, limits=limits) for numbers in both
        )
        return counts, estimate
    raise ValueError(
        f"color: {color!r} is neither a column of obs ({', '.join(adata.obs.columns) or 'none'}) "
        f"nor a gene{similar_names(color, adata.var_names)}."
    )


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
        cmap=COLOR_MAP,
        s=_point_size(len(points)),
        linewidths=0,
        rasterized=True,
    )


def _paint_groups(
    ax: Axes, points: Values, *, groups: pd.Series, marks: Mapping[str, tuple[str, str]]
) -> None:
    names = groups.astype(str).to_numpy()
    sizes = pd.Series(names).value_counts()
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
            zorder=2 - sizes.get(name, 0) / len(names),  # small groups above large ones
            label=f"{name} ({own.sum():,})",
            rasterized=True,
        )


def scanpy_colors(adata: AnnData, name: str) -> dict[str, str]:
    """Colour of each group of a column, where scanpy left one for each of its categories."""
    column, colors = adata.obs[name], adata.uns.get(f"{name}_colors", ())
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return {}
    categories = column.cat.categories.astype(str)
    usable = len(colors) >= len(categories) and all(map(is_color_like, colors))
    return dict(zip(categories, colors, strict=False)) if usable else {}


def _marks(groups: pd.Series, palette: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each group, as :func:`group_names` orders them.

    Of more groups than there are looks, the smallest are one, grey.
    """
    if palette:
        return {name: (palette.get(name, GREY), GROUP_MARKERS[0]) for name in group_names(groups)}
    n_groups = groups.astype(str).nunique()
    colors = GROUP_COLORS if n_groups <= len(GROUP_COLORS) else MANY_GROUP_COLORS
    looks = [(color, marker) for marker in GROUP_MARKERS for color in colors]
    marks = dict(zip(group_names(groups, most=len(looks)), looks, strict=False))
    return marks | ({_OTHER: (GREY, ".")} if n_groups > len(looks) else {})


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
