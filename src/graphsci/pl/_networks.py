"""Pictures of gene graphs and gene networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray
from scipy import sparse

from graphsci._choices import N_SHOWN_GENES
from graphsci._keys import DEFAULT_KEY, keys
from graphsci._optional import networkx
from graphsci._words import few
from graphsci.pl._graph_drawing import draw_graph, size_for
from graphsci.pl._scale import Common, check_has_results
from graphsci.pl._style import BLUE, INK, axes_for, figure_for, styled

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from graphsci.imputer import GraphSCI
    from graphsci.network import GeneNetwork

#: More genes than this cannot be told apart in one picture.
MOST_GENES = 80
#: Genes in a heat map; beyond it a gene is less than a pixel.
HEATMAP_GENES = 240


@styled
def gene_network(
    network: AnnData | GeneNetwork,
    *,
    genes: Sequence[str] = (),
    modules: pd.DataFrame | None = None,
    max_genes: int = N_SHOWN_GENES,
    max_edges: int = 150,
    seed: int = 0,
    key: str = DEFAULT_KEY,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a network around chosen genes, coloured by module.

    Parameters
    ----------
    network
        An AnnData that ``graphsci.tl.gene_network`` wrote to, or what it returned.
    genes
        Drawn with their strongest partners; the ends of the strongest edges if none.
    modules
        From ``network.find_modules``; those of an AnnData if None.
    max_genes, max_edges
        Genes and edges that are drawn: the strongest, those of ``genes`` first.
    seed
        Of the layout.
    key
        Name of the run in an AnnData.
    label
        Group of cells in an AnnData whose network is drawn (``label_key`` of
        ``graphsci.tl.gene_network``); that of all cells if None.
    ax
        Where to draw; a new figure if None.

    Notes
    -----
    Solid lines are positive relations, dashed ones negative; wider is stronger. A gene's dot grows
    with its edges in the picture. Chosen genes have bold names. Genes are moved apart until no
    name covers another or a dot, as far as ``ax`` has room: a new figure has about a square inch
    and a half for each gene.
    """
    nx = networkx()
    if not 2 <= max_genes <= MOST_GENES:
        raise ValueError(f"max_genes: got {max_genes}, expected 2 to {MOST_GENES}.")
    found, stored = _network(network, key, label)
    modules = stored if modules is None else modules
    genes = [genes] if isinstance(genes, str) else list(genes)
    if len(genes) > max_genes:
        raise ValueError(f"genes: got {len(genes)}, expected at most max_genes, {max_genes}.")
    if genes:
        edges = found.around(genes, max_genes=max_genes, max_edges=max_edges).edges
    else:
        edges = _strongest_edges(found.edges, max_genes, max_edges)
    if edges.empty:
        raise ValueError("the network has no edge to draw; lower min_confidence or add genes.")
    graph = nx.Graph()
    graph.add_nodes_from(genes)
    for edge in edges.to_dict("records"):
        ends = edge["gene_a"], edge["gene_b"]
        graph.add_edge(*ends, size=abs(edge["refined"]), sign=edge["sign"])
    shown, present = graph.number_of_edges(), found.n_edges
    title = f"{_group(found)}{len(graph)} genes, {shown:,} edges"
    if genes:
        title += f" around {few(genes)}"
    if shown < present:
        title += f", of {present:,}" if genes else f", the strongest of {present:,}"
    ax = axes_for(ax, size_for(len(graph)))
    draw_graph(ax, graph, bold=genes, modules=modules, title=title, seed=seed)
    return ax


@styled
def module_heatmap(
    adata: AnnData,
    modules: pd.DataFrame | None = None,
    *,
    layer: str = "denoised",
    counts_layer: str | None = None,
    library_key: str | None = None,
    key: str = DEFAULT_KEY,
    figure: Figure | None = None,
) -> Figure:
    """Gene x gene correlations before and after, genes ordered by module (the paper's Fig. 8).

    Both are correlations of log expression at a common depth. Those of an estimate include
    what the method invents: see docs/network.md.

    Parameters
    ----------
    adata
        Counts with results.
    modules
        From ``network.find_modules``; the hubs of each are drawn, 240 genes in all. If None those
        that ``graphsci.tl.gene_network`` left in ``var[key + "_module"]``; those that it left
        under another key are ``network.stored_modules(adata, key)``.
    layer, counts_layer, library_key, key
        As in :func:`graphsci.pl.embedding`.
    figure
        Where to draw; a new one if None.
    """
    check_has_results(adata)
    modules = _stored_modules(adata, key) if modules is None else modules
    present = modules[modules["gene"].isin(adata.var_names)].sort_values("module", kind="stable")
    hubs = HEATMAP_GENES // max(1, min(present["module"].nunique(), HEATMAP_GENES // 8))
    shown = present.groupby("module").head(hubs).head(HEATMAP_GENES)
    if len(shown) < 2:
        raise ValueError("modules: expected at least two genes of adata, got fewer.")
    common = Common.of(adata, counts_layer, library_key, key)
    genes = adata.var_names.get_indexer(pd.Index(shown["gene"]))
    sides = common.sides(layer, genes)
    figure = figure_for(figure, (10.5, 5))
    axes = figure.subplots(1, 2)
    starts = np.flatnonzero(np.diff(shown["module"], prepend=-1))
    for ax, (title, values) in zip(axes, sides.items(), strict=True):
        drawn = ax.imshow(
            _correlation(values), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="none"
        )
        for start in starts[1:]:
            ax.axhline(start - 0.5, color=INK, linewidth=0.6)
            ax.axvline(start - 0.5, color=INK, linewidth=0.6)
        ax.set_title(title)
        ends = np.append(starts[1:], len(shown))
        large = ends - starts >= 0.03 * len(shown)  # no room for a number beside smaller ones
        ax.set_xticks([])
        ax.set_yticks(((starts + ends - 1) / 2)[large])
        ax.set_yticklabels(shown["module"].to_numpy()[starts][large].astype(str))
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel("module")
    figure.colorbar(drawn, ax=axes, label="correlation", shrink=0.8)
    return figure


@styled
def network_degree(
    network: AnnData | GeneNetwork,
    *,
    key: str = DEFAULT_KEY,
    label: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the share of genes with at least so many edges, on logarithmic axes.

    Parameters
    ----------
    network, key, label
        As in :func:`gene_network`.
    ax
        Where to draw; a new figure if None.
    """
    found, _ = _network(network, key, label)
    ends = found.edges[["gene_a", "gene_b"]].to_numpy().ravel()
    degree = pd.Series(ends).value_counts().to_numpy()
    if not len(degree):
        raise ValueError("the network has no edge, so no degrees to draw.")
    ax = axes_for(ax)
    ordered = np.sort(degree)
    share = 100 * np.arange(len(ordered), 0, -1) / len(found.gene_names)
    ax.step(ordered, share, where="post", color=BLUE)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="edges of a gene, at least",
        ylabel="genes (% of all)",
        title=f"{_group(found)}{found.n_edges:,} edges, {len(degree):,} of "
        f"{len(found.gene_names):,} genes connected",
    )
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    return ax


@styled
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
    ax = axes_for(ax)
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


def _network(result: Any, key: str, label: str | None) -> tuple[GeneNetwork, pd.DataFrame | None]:
    """Return a network, and its modules if they are stored with it."""
    from graphsci.network import stored_modules, stored_network

    if hasattr(result, "uns"):
        return stored_network(result, key, label=label), stored_modules(result, key)
    if not hasattr(result, "edges"):
        raise TypeError(
            f"got a {type(result).__name__}, expected an AnnData with a network of "
            "graphsci.tl.gene_network, or that GeneNetwork."
        )
    if label is not None:
        raise ValueError("label: chooses among networks of an AnnData. Leave it out with one.")
    return result, None


def _stored_modules(adata: AnnData, key: str) -> pd.DataFrame:
    """Modules of a stored network, the genes with the strongest relations first."""
    from graphsci.network import stored_modules

    modules = stored_modules(adata, key)
    if modules is None:
        raise ValueError(
            f"adata.var has no column {keys(key).module!r}, and no modules were given. Run "
            "graphsci.tl.gene_network first, or give those of network.find_modules, or of another "
            "run: network.stored_modules(adata, its key)."
        )
    if keys(key).network in adata.varp:
        strengths = pd.Series(
            np.asarray(abs(adata.varp[keys(key).network]).sum(1)).ravel(), index=adata.var_names
        )
        order = np.argsort(-strengths[modules["gene"]].to_numpy(), kind="stable")
        modules = modules.iloc[order]
    return modules


def _group(found: GeneNetwork) -> str:
    """How a title begins: with the group of cells that a network is of, if it is of one."""
    return f"{found.parameters['label']}: " if "label" in found.parameters else ""


def _strongest_edges(edges: pd.DataFrame, max_genes: int, max_edges: int) -> pd.DataFrame:
    """Strongest edges among the first ``max_genes`` genes met, at most ``max_edges``."""
    genes: dict[str, None] = {}
    for a, b in zip(edges["gene_a"], edges["gene_b"], strict=True):
        if len(genes | {a: None, b: None}) <= max_genes:
            genes |= {a: None, b: None}
        if len(genes) == max_genes:
            break
    inside = edges["gene_a"].isin(genes) & edges["gene_b"].isin(genes)
    return edges[inside].head(max_edges)


def _correlation(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Correlation of columns, 0 for a constant one."""
    centred = values - values.mean(0)
    norm = np.sqrt((centred**2).sum(0))
    scaled = centred / np.where(norm > 0, norm, 1)
    return np.asarray(scaled.T @ scaled, dtype=np.float64)
