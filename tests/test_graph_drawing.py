"""Pictures of networks: names that can be read, in the same places every time."""

import networkx as nx
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

from graphsci import pl
from graphsci.pl._graph_drawing import layout, push_apart
from test_network import network_of


def drawn_graph(kind, n_genes, seed):
    """Graphs as networks around chosen genes have them, with names as long as mice's and men's."""
    rng = np.random.default_rng(seed)
    if kind == "hubs":  # two chosen genes with all others, which know some of each other
        graph = nx.gnm_random_graph(n_genes, 60, seed=seed)
        graph.add_edges_from((hub, gene) for hub in (0, 1) for gene in range(2, n_genes))
    elif kind == "dense":  # one complex: every name in the same place
        graph = nx.gnp_random_graph(n_genes, 0.6, seed=seed)
    else:  # modules and what is beside them
        sizes = [n_genes // 2, n_genes // 4, n_genes - n_genes // 2 - n_genes // 4]
        graph = nx.random_partition_graph(sizes, 0.5, 0.01, seed=seed)
    kinds = ("Gata{}", "HLA-DRB{}", "RP11-34P13.{}", "1110036E{}Rik", "MT-ND{}")
    names = [kinds[rng.integers(5)].format(i) for i in range(n_genes)]
    edges = [(names[a], names[b], rng.uniform(0.1, 0.9)) for a, b in graph.edges]
    return network_of(sorted(edges, key=lambda edge: -edge[2]), names)


def covered(ax):
    """Share of each name's area that another name covers, and that another gene's dot does."""
    ax.figure.draw_without_rendering()
    boxes = np.array([text.get_window_extent().extents for text in ax.texts])
    dots = next(d for d in ax.collections if len(d.get_offsets()) == len(ax.texts))
    radius = np.sqrt(dots.get_sizes()) / 2 * ax.figure.dpi / 72
    centre = ax.transData.transform(dots.get_offsets())
    around = np.column_stack([centre - radius[:, None], centre + radius[:, None]])
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)

    def share(others):
        sides = np.minimum(boxes[:, None, 2:], others[:, 2:]) - np.maximum(
            boxes[:, None, :2], others[:, :2]
        )
        common = np.prod(np.maximum(sides, 0), axis=-1)
        np.fill_diagonal(common, 0)
        return common / area[:, None]

    return share(boxes), share(around)


@pytest.mark.parametrize("kind", ["hubs", "dense", "modules"])
@pytest.mark.parametrize(("n_genes", "seed"), [(50, 0), (50, 1), (60, 2), (80, 3)])
def test_no_name_covers_another_or_a_dot(kind, n_genes, seed):
    ax = pl.gene_network(drawn_graph(kind, n_genes, seed), max_genes=80, max_edges=400, seed=seed)
    assert len(ax.texts) > 0.8 * n_genes
    by_names, by_dots = covered(ax)
    assert by_names.max() < 0.02
    assert by_dots.max() < 0.02
    whole, axes = ax.figure.bbox, ax.get_window_extent()
    for text in ax.texts:
        box = text.get_window_extent()
        assert axes.x0 - 1 <= box.x0 <= box.x1 <= axes.x1 + 1
        assert axes.y0 - 1 <= box.y0 <= box.y1 <= min(axes.y1, whole.y1) + 1
    pyplot.close("all")


def test_names_have_room_on_paper_in_any_resolution_and_without_pyplot():
    figure = Figure(figsize=(9, 8), layout="constrained", dpi=300)
    ax = pl.gene_network(drawn_graph("hubs", 50, 0), genes=["MT-ND0"], ax=figure.add_subplot())
    figure.set_dpi(72)
    assert max(share.max() for share in covered(ax)) < 0.1  # names are whole pixels


def test_two_networks_in_one_figure():
    """Where there is no room the picture is drawn all the same."""
    _, axes = pyplot.subplots(1, 2, figsize=(7, 3), layout="constrained")
    for ax in axes:
        pl.gene_network(drawn_graph("modules", 50, 0), ax=ax)
        assert len(ax.texts) == 50
    part = pyplot.figure(figsize=(9, 8)).subfigures(1, 2)[0]
    ax = pl.gene_network(drawn_graph("modules", 12, 0), ax=part.add_subplot())
    part.figure.canvas.draw()
    assert len(ax.texts) > 6
    pyplot.close("all")


def test_edges_end_at_their_genes():
    network = network_of([("a", "b", 0.9), ("b", "c", -0.5)], list("abc"))
    ax = pl.gene_network(network)
    place = {text.get_text(): np.array(text.xy) for text in ax.texts}
    lines = [line for collection in ax.collections for line in _segments(collection)]
    for line, ends in zip(lines, (("a", "b"), ("b", "c")), strict=True):
        np.testing.assert_allclose(line, [place[gene] for gene in ends])
    pyplot.close("all")


def _segments(collection):
    return collection.get_segments() if hasattr(collection, "get_segments") else []


def test_the_order_of_genes_is_not_seen():
    """It is that of a set of strings, other in each process, in what networkx calls a subgraph."""
    edges = [(f"g{a}", f"g{b}") for a, b in nx.gnm_random_graph(20, 40, seed=0).edges]
    graphs = nx.Graph(edges), nx.Graph(edges[::-1])
    assert list(graphs[0]) != list(graphs[1])
    one, other = (dict(zip(graph, layout(graph, seed=0), strict=True)) for graph in graphs)
    for gene, place in one.items():
        np.testing.assert_array_equal(place, other[gene])


def test_pushing_by_hand():
    box = np.array([[-2.0, -1.0, 2.0, 1.0]])
    area = np.array([-100.0, -100.0, 100.0, 100.0])
    places = np.array([[0.0, 0.0], [1.0, 1.5], [9.0, 0.0]])
    moved = push_apart(places, np.repeat(box, 3, axis=0), area)
    expected = [[-1 / 6, -0.25], [7 / 6, 1.75], [9, 0]]  # by a third of (1, 1.5), half each
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    again = push_apart(moved, np.repeat(box, 3, axis=0), area)
    np.testing.assert_array_equal(moved, again)
    same = push_apart(np.zeros((2, 2)), np.repeat(box, 2, axis=0), area)
    np.testing.assert_allclose(same, [[-2, -1], [2, 1]], atol=1e-5)  # the first gives way downwards


def test_pushed_boxes_stay_in_their_area():
    rng = np.random.default_rng(0)
    boxes = np.tile([-1.0, -0.5, 1.0, 0.7], (40, 1))
    moved = push_apart(rng.normal(size=(40, 2)), boxes, np.array([-10.0, -8.0, 10.0, 8.0]))
    low, high = moved + boxes[:, :2], moved + boxes[:, 2:]
    assert (low >= [-10 - 1e-9, -8 - 1e-9]).all()
    assert (high <= [10 + 1e-9, 8 + 1e-9]).all()
    depth = (np.minimum(high[:, None], high) - np.maximum(low[:, None], low)).min(-1)
    np.fill_diagonal(depth, 0)
    assert depth.max() <= 2e-3


def test_a_figure_grows_with_its_genes():
    few, many = (
        pl.gene_network(drawn_graph("hubs", n, 0), max_genes=80, max_edges=400).figure
        for n in (20, 80)
    )
    assert few.get_size_inches().tolist() == [9, 8]
    area = np.prod(many.get_size_inches()) / np.prod(few.get_size_inches())
    assert area == pytest.approx(80 / 50, rel=0.03)
    pyplot.close("all")
