"""How genes and edges are laid out and drawn, so that every name can be read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphsci._optional import networkx
from graphsci.pl._style import GREY, GROUP_COLORS, MANY_GROUP_COLORS, RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation

Places = NDArray[np.float64]  #: (genes, 2)

#: How an edge of a sign is drawn, and what it is called.
_EDGES: dict[int, tuple[Any, str, str]] = {
    1: ("solid", "#8C8C8C", "rise together"),
    -1: ((0, (3, 2)), RED, "one falls as the other rises"),
}
_ROOMY = 50  #: genes whose names have room in a figure of 9 x 8 inches
_GAP = 1.0  #: points between a name and its dot, and around both
_SWEEPS = 500  #: of pushing apart; 80 boxes that fill half of their area take 200 to 400
_TOUCH = 1e-3  #: share of their sizes by which two boxes may overlap


def size_for(n_genes: int) -> tuple[float, float]:
    """Return the size of a figure in inches, whose area grows with the genes."""
    side = float(np.sqrt(max(n_genes, _ROOMY) / _ROOMY))
    return 9 * side, 8 * side


def draw_graph(
    ax: Axes,
    graph: Any,
    *,
    bold: Collection[str],
    modules: pd.DataFrame | None,
    title: str,
    seed: int,
) -> None:
    """Draw a graph whose edges have ``size`` and ``sign``.

    Title and legend come first: they decide how large the axes are, and with it which names meet.
    """
    colors, paint = _colors(graph, modules)
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
    _legend(ax, graph, paint)
    places = layout(graph, seed=seed)
    low, high = places.min(0), places.max(0)
    margin = 0.08 * np.maximum(high - low, 1e-9)
    ax.set(
        xlim=(low[0] - margin[0], high[0] + margin[0]),
        ylim=(low[1] - margin[1], high[1] + margin[1]),
    )
    sizes = np.array([40.0 + 10 * graph.degree(gene) for gene in graph])  # points squared
    names = _write_names(ax, graph, places, sizes, bold)
    places = _make_room(ax, places, sizes, names)
    for name, place in zip(names, places, strict=True):
        name.xy = tuple(place)
    _draw_edges(ax, graph, dict(zip(graph, places, strict=True)))
    x, y = places.T
    ax.scatter(x, y, s=sizes, c=colors, edgecolors="white", linewidths=0.8, zorder=2)


def push_apart(places: Places, boxes: Places, area: Places) -> Places:
    """Move boxes until none overlaps another.

    Two that overlap part along the line through their centres until they touch, each by half of
    the way; this is repeated for all at once.

    Parameters
    ----------
    places
        (n, 2): points that carry a box.
    boxes
        (n, 4): left, bottom, right and top of each, seen from its point.
    area
        (4,): left, bottom, right and top of where they stay; in one that is too small for them
        some overlap is left.

    Returns
    -------
    (n, 2): the same for the same arguments.
    """
    number = np.arange(len(places))
    tie = 1e-6 * np.sign(number[:, None] - number)[:, :, None]  # of two in one place
    size = boxes[:, 2:] - boxes[:, :2]
    touching = (size[:, None] + size) / 2  # (n, n, 2): from centre to centre
    lowest, highest = area[:2] - boxes[:, :2], area[2:] - boxes[:, 2:]
    places = np.clip(places, lowest, highest)
    for _ in range(_SWEEPS):
        centre = places + boxes[:, :2] + size / 2
        gap = centre[:, None] - centre + tie * touching
        reach = (np.abs(gap) / touching).max(-1)  # 1 where two touch
        overlap = (reach < 1 - _TOUCH) & (number[:, None] != number)
        if not overlap.any():
            break
        stretch = np.where(overlap, 1 / np.where(overlap, reach, 1) - 1, 0)
        places = places + (0.5 * gap * stretch[:, :, None]).sum(1)
        places = np.clip(places, lowest, highest)
    return places


def layout(graph: Any, *, seed: int) -> Places:
    """Kamada-Kawai within each connected part, parts packed side by side.

    The order of the genes of a part changes nothing, so that it is the same in every process.
    """
    nx = networkx()
    parts = sorted(nx.connected_components(graph), key=len, reverse=True)
    places: dict[str, NDArray[np.float64]] = {}
    x = y = row_height = 0.0
    widest = np.sqrt(len(graph)) * 1.3
    for part in parts:
        size = np.sqrt(len(part))
        if x and x + 0.8 * size > widest:
            x, y, row_height = 0.0, y - row_height - 0.6, 0.0
        inner = nx.Graph()  # a view of the graph has the order of a set
        inner.add_nodes_from(sorted(part))
        inner.add_edges_from(graph.subgraph(part).edges)
        start = nx.spring_layout(inner, seed=seed)
        found = nx.kamada_kawai_layout(inner, pos=start, weight=None) if len(part) > 2 else start
        points = np.array([found[gene] for gene in inner])
        points = points - points.min(0)
        points *= size / max(points.max(), 1e-9)
        points[:, 1] -= points[:, 1].max()
        for gene, point in zip(inner, points, strict=True):
            places[gene] = point + np.array([x, y])
        x, row_height = x + points[:, 0].max() + 0.6, max(row_height, -points[:, 1].min())
    return np.array([places[gene] for gene in graph])


def _make_room(ax: Axes, places: Places, sizes: NDArray[Any], names: list[Annotation]) -> Places:
    """Push genes apart, each with the name above its dot, as large as they are on paper."""
    figure: Any = ax.figure.canvas.figure  # the whole one, if ``ax`` is in a part of it
    figure.draw_without_rendering()  # settles the size of the axes
    points = 72 / figure.dpi  # of a pixel
    extents = [name.get_window_extent() for name in names]
    wide, high = np.array([(box.width, box.height) for box in extents]).T * points
    radius = np.sqrt(sizes) / 2 + _GAP
    side = np.maximum(wide / 2 + _GAP, radius)
    boxes = np.column_stack([-side, -radius, side, radius + high + _GAP])
    area = np.ravel(ax.bbox.get_points()) * points
    moved = push_apart(ax.transData.transform(places) * points, boxes, area)
    return np.asarray(ax.transData.inverted().transform(moved / points))


def _write_names(
    ax: Axes, graph: Any, places: Places, sizes: NDArray[Any], bold: Collection[str]
) -> list[Annotation]:
    """Write every name above its dot; it is in the axes and leaves their size alone."""
    names = []
    for gene, place, size in zip(graph, places, sizes, strict=True):
        name = ax.annotate(
            gene,
            place,
            xytext=(0, np.sqrt(size) / 2 + _GAP),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8.5,
            fontweight="bold" if gene in bold else "normal",
            zorder=3,
            bbox={"boxstyle": "square,pad=0.05", "fc": "white", "ec": "none", "alpha": 0.7},
        )
        name.set_in_layout(False)
        names.append(name)
    return names


def _draw_edges(ax: Axes, graph: Any, places: Mapping[str, NDArray[np.float64]]) -> None:
    from matplotlib.collections import LineCollection

    strongest = max(size for *_, size in graph.edges(data="size")) or 1.0  # none has a strength
    for sign, (style, color, _) in _EDGES.items():
        chosen = [(a, b, d["size"]) for a, b, d in graph.edges(data=True) if d["sign"] == sign]
        lines = LineCollection(
            [(places[a], places[b]) for a, b, _ in chosen],
            colors=color,
            linestyles=[style],
            linewidths=[0.5 + 2 * size / strongest for *_, size in chosen],
            alpha=0.6,
            zorder=1,
        )
        ax.add_collection(lines, autolim=False)


def _colors(graph: Any, modules: pd.DataFrame | None) -> tuple[list[str], dict[int, str]]:
    """Colours of the genes, and of the modules among them."""
    module = {} if modules is None else dict(zip(modules["gene"], modules["module"], strict=True))
    order = pd.Series([module[gene] for gene in graph if gene in module]).value_counts().index
    colors_of_all = GROUP_COLORS if len(order) <= len(GROUP_COLORS) else MANY_GROUP_COLORS
    paint = dict(zip(order, colors_of_all, strict=False))
    return [paint.get(module.get(gene, -1), GREY) for gene in graph], paint


def _legend(ax: Axes, graph: Any, paint: Mapping[int, str]) -> None:
    for number, color in sorted(paint.items()):
        ax.scatter([], [], c=color, label=f"module {number}")
    signs = {sign for *_, sign in graph.edges(data="sign")}
    for sign, (style, color, name) in _EDGES.items():
        if sign in signs:
            ax.plot([], [], color=color, linestyle=style, linewidth=1.5, label=name)
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0), ncols=min(len(paint) + len(signs), 6))
