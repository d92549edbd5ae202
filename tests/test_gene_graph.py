"""Gene graphs against numpy, networkx and dense algebra; laws; bad input."""

import re

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from graphsci.gene_graph import _correlation as kernels
from graphsci.gene_graph import _edges
from graphsci.gene_graph.expression import correlation_graph, noise_corrected_graph
from graphsci.gene_graph.graph import (
    GeneGraph,
    combine_graphs,
    graph_from_edges,
    graph_from_matrix,
    normalized_adjacency,
)


def genes_that_vary(graph):
    """Their number, as the note says; all of them without one."""
    if not graph.notes:
        return len(graph.gene_names)
    return int(re.search(r"([\d,]+) of", graph.notes[0])[1].replace(",", ""))


def names_of(n):
    return np.array([f"g{i}" for i in range(n)])


@pytest.fixture(scope="module")
def counts():
    """300 cells x 60 genes with shared factors, one gene never seen, one always the same."""
    rng = np.random.default_rng(0)
    factors, loadings = rng.standard_normal((300, 5)), rng.standard_normal((5, 60))
    x = rng.poisson(np.exp(0.4 * factors @ loadings - 0.5)).astype(np.float64)
    x[:, 7], x[:, 8] = 0, 2
    return x


@pytest.fixture(scope="module")
def log_normalized(counts):
    return np.log1p(counts)


def dense_correlation(x):
    """Judge: numpy, with constant genes at 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.nan_to_num(np.corrcoef(x.T))
    np.fill_diagonal(r, 0)
    return r


def coexpressed_by_loop(x, min_cells):
    """Judge: numpy, one pair at a time."""
    r = np.zeros((x.shape[1], x.shape[1]))
    for i in range(x.shape[1]):
        for j in range(i):
            common = (x[:, i] > 0) & (x[:, j] > 0)
            a, b = x[common, i], x[common, j]
            if common.sum() >= min_cells and min(np.ptp(a), np.ptp(b)) > 0:
                r[i, j] = r[j, i] = np.corrcoef(a, b)[0, 1]
    return r


def top_k_by_loop(r, k):
    kept = np.zeros(r.shape, dtype=bool)
    for i, row in enumerate(np.abs(r)):
        kept[i, np.argsort(-row)[:k]] = True
    return np.where(kept | kept.T, r, 0)


def assert_valid(graph):
    a = graph.adjacency
    assert sparse.issparse(a)
    assert a.format == "csr"
    assert a.dtype == np.float32
    assert np.all(a.data != 0)
    assert np.all(a.diagonal() == 0)
    assert abs(a - a.T).nnz == 0


# Correlation -----------------------------------------------------------------


@pytest.mark.parametrize("block_size", [1, 13, 60, 1000])
def test_pearson_equals_numpy(log_normalized, block_size):
    graph = correlation_graph(
        sparse.csr_matrix(log_normalized), gene_names=names_of(60), block_size=block_size
    )
    r = dense_correlation(log_normalized)
    assert_valid(graph)
    assert graph.n_edges == np.sum(np.triu(np.abs(r) > 0.3)) > 50
    np.testing.assert_allclose(
        graph.adjacency.toarray(), np.where(np.abs(r) > 0.3, r, 0), atol=1e-5
    )


def test_cells_are_read_in_chunks(log_normalized, monkeypatch):
    whole = correlation_graph(log_normalized, gene_names=names_of(60))
    monkeypatch.setattr(kernels, "CELL_CHUNK", 7)
    chunked = correlation_graph(log_normalized, gene_names=names_of(60))
    np.testing.assert_allclose(whole.adjacency.toarray(), chunked.adjacency.toarray(), atol=1e-5)


def test_large_offset_keeps_precision():
    """Centring before the product: a mean 1000 times the deviation does no harm."""
    rng = np.random.default_rng(1)
    x = 1000 + rng.standard_normal((200, 8)) @ rng.standard_normal((8, 8))
    graph = correlation_graph(x, gene_names=names_of(8), threshold=0)
    np.testing.assert_allclose(graph.adjacency.toarray(), dense_correlation(x), atol=2e-4)


@pytest.mark.parametrize("cells", ["all", "coexpressed"])
@pytest.mark.parametrize("block_size", [9, None])
def test_top_k_keeps_the_strongest_of_either_gene(log_normalized, cells, block_size):
    options = {"gene_names": names_of(60), "threshold": 0, "cells": cells}
    full = correlation_graph(log_normalized, **options).adjacency.toarray()
    graph = correlation_graph(log_normalized, top_k=3, block_size=block_size, **options)
    assert_valid(graph)
    np.testing.assert_allclose(graph.adjacency.toarray(), top_k_by_loop(full, 3), atol=1e-5)


def test_threshold_applies_before_top_k(log_normalized):
    graph = correlation_graph(log_normalized, gene_names=names_of(60), threshold=0.5, top_k=2)
    assert np.abs(graph.adjacency.data).min() > 0.5
    np.testing.assert_array_equal(
        correlation_graph(
            log_normalized, gene_names=names_of(60), threshold=0.5, top_k=59
        ).adjacency.toarray(),
        correlation_graph(
            log_normalized, gene_names=names_of(60), threshold=0.5
        ).adjacency.toarray(),
    )


@pytest.mark.parametrize("block_size", [13, None])
def test_coexpressed_equals_loop(log_normalized, block_size):
    graph = correlation_graph(
        log_normalized, gene_names=names_of(60), cells="coexpressed", block_size=block_size
    )
    r = coexpressed_by_loop(log_normalized, 10)
    assert_valid(graph)
    assert graph.n_edges > 50
    np.testing.assert_allclose(
        graph.adjacency.toarray(), np.where(np.abs(r) > 0.3, r, 0), atol=1e-5
    )


def test_coexpressed_needs_min_cells(log_normalized):
    options = {"gene_names": names_of(60), "cells": "coexpressed", "threshold": 0}
    graph = correlation_graph(log_normalized, min_cells=80, **options)
    detected = (log_normalized > 0).astype(int)
    common = detected.T @ detected
    assert 0 < graph.n_edges < correlation_graph(log_normalized, **options).n_edges
    assert common[graph.adjacency.nonzero()].min() >= 80


@pytest.mark.parametrize("cells", ["all", "coexpressed"])
def test_constant_and_unseen_genes_have_no_edges(log_normalized, cells):
    graph = correlation_graph(log_normalized, gene_names=names_of(60), threshold=0, cells=cells)
    assert graph.adjacency[[7, 8]].nnz == 0


def test_min_cells_for_all_cells(log_normalized):
    few = int((log_normalized > 0).sum(axis=0)[0])
    graph = correlation_graph(
        log_normalized, gene_names=names_of(60), threshold=0, min_cells=few + 1
    )
    rare = (log_normalized > 0).sum(axis=0) <= few
    assert graph.adjacency[rare].nnz == 0
    assert graph.n_edges > 0


def permuted_and_straight(build, x):
    order = np.random.default_rng(2).permutation(x.shape[1])
    names = names_of(x.shape[1])
    straight = build(x, names).adjacency.toarray()
    assert np.count_nonzero(straight) > 60
    return build(x[:, order], names[order]).adjacency.toarray(), straight[np.ix_(order, order)]


@pytest.mark.parametrize("cells", ["all", "coexpressed"])
def test_permuting_genes_permutes_the_graph(log_normalized, cells):
    def build(x, names):
        return correlation_graph(x, gene_names=names, cells=cells, top_k=9)

    np.testing.assert_allclose(*permuted_and_straight(build, log_normalized), atol=1e-5)


def test_a_batch_joins_no_genes():
    """Independent genes, each three times as high in one of two batches."""
    rng = np.random.default_rng(0)
    batch = np.repeat([0, 1], 200)
    factor = np.where((np.arange(40) < 20) == (batch == 1)[:, None], 3.0, 1.0)
    counts = rng.poisson(rng.gamma(4, 2.0, (400, 40)) * factor)
    library = counts.sum(1)
    options = {"size_factors": library / np.median(library), "gene_names": names_of(40)}
    assert noise_corrected_graph(counts, **options).n_edges > 100
    assert noise_corrected_graph(counts, batch=batch, **options).n_edges <= 2
    one = noise_corrected_graph(counts, batch=np.zeros(400), **options)
    assert (one.adjacency != noise_corrected_graph(counts, **options).adjacency).nnz == 0
    with pytest.raises(ValueError, match=r"batch has shape \(3,\), expected \(400,\)"):
        noise_corrected_graph(counts, batch=[0, 0, 1], **options)


def test_permuting_genes_permutes_the_noise_corrected_graph(noisy):
    counts, size_factors, _ = noisy

    def build(x, names):
        return noise_corrected_graph(x, size_factors=size_factors, gene_names=names, top_k=9)

    np.testing.assert_allclose(*permuted_and_straight(build, counts), atol=1e-5)


def test_permuting_cells_and_scaling_genes_change_nothing(log_normalized):
    rng = np.random.default_rng(3)
    graph = correlation_graph(log_normalized, gene_names=names_of(60))
    scaled = log_normalized[rng.permutation(300)] * rng.uniform(0.1, 10, 60)
    np.testing.assert_allclose(
        correlation_graph(scaled, gene_names=names_of(60)).adjacency.toarray(),
        graph.adjacency.toarray(),
        atol=1e-5,
    )


def test_input_is_untouched_and_any_format_will_do(log_normalized):
    csc = sparse.csc_matrix(log_normalized.astype(np.float32))
    csc.data[::5] = 0  # explicit zeros
    before = csc.copy()
    expected = correlation_graph(csc.toarray(), gene_names=names_of(60))
    for matrix in (csc, sparse.csr_array(csc), sparse.coo_matrix(csc)):
        graph = correlation_graph(matrix, gene_names=names_of(60))
        np.testing.assert_array_equal(graph.adjacency.toarray(), expected.adjacency.toarray())
    np.testing.assert_array_equal(csc.data, before.data)
    np.testing.assert_array_equal(csc.indptr, before.indptr)


# Significance ----------------------------------------------------------------


def shuffled(x, seed):
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(gene) for gene in x.T], axis=1)


def bound_of(x, y):
    """The bound on log p for two genes."""
    z = np.column_stack([(v - v.mean()) / v.std() for v in (x, y)])
    products = kernels.Moments(
        np.array([[np.prod(np.mean(z**k, axis=0))] for k in kernels.ORDERS]),
        np.array([np.prod(np.abs(z).max(axis=0))]),
    )
    return kernels._log_p_chernoff(np.mean(z[:, :1] * z[:, 1:], axis=0), products, len(x))[0]


def test_p_values_of_rare_genes_bound_the_exact_ones():
    """Two genes seen in 5 of 400 cells each: the overlap is hypergeometric."""
    n, seen = 400, 5
    gene = np.zeros(n)
    gene[:seen] = 1
    for overlap in (1, 2, 3):
        other = np.roll(gene, seen - overlap)
        exact = stats.hypergeom(n, seen, seen).sf(overlap - 1)
        fisher = stats.norm.sf(np.arctanh(np.corrcoef(gene, other)[0, 1]) * np.sqrt(n - 3))
        assert np.log(exact) <= bound_of(gene, other) < np.log(exact) + 4
        assert fisher < exact / 10  # why Fisher's z will not do


def test_p_values_of_normal_genes_are_near_the_normal_ones():
    x = stats.norm.ppf((np.arange(500) + 0.5) / 500)
    noise = np.random.default_rng(0).permutation(x)
    for slope in (-0.4, 0.2, 0.4):
        y = slope * x + noise
        exact = np.log(stats.pearsonr(x, y).pvalue)
        assert exact <= bound_of(x, y) < 0.7 * exact


@pytest.mark.parametrize("sign", [-1, 1])
def test_p_values_of_skewed_genes_hold_under_permutation(sign):
    """At the 99.9 % point of r between two permuted skewed genes the bound is above 0.1 %."""
    rng = np.random.default_rng(1)
    x = rng.poisson(rng.gamma(0.3, 1.0, 200)).astype(float)
    y = rng.poisson(rng.gamma(0.3, 1.0, 200)).astype(float)
    draws = [rng.permutation(y) for _ in range(5000)]
    r = sign * np.array([np.corrcoef(x, draw)[0, 1] for draw in draws])
    extreme = draws[np.argsort(-r)[5]]
    assert np.log(1e-3) <= bound_of(x, extreme) < np.log(0.3)


def test_benjamini_hochberg_equals_scipy():
    rng = np.random.default_rng(4)
    p = np.concatenate([rng.uniform(size=900), rng.uniform(size=100) * 1e-4])
    judge = stats.false_discovery_control(p) <= 0.05
    listed = p <= 0.05  # only these are collected; the others still count as tests
    accepted = _edges._benjamini_hochberg(np.log(p[listed]), len(p), 0.05)
    np.testing.assert_array_equal(accepted, judge[listed])
    assert accepted.sum() > 50


@pytest.mark.parametrize("cells", ["all", "coexpressed"])
def test_false_discovery_rate_removes_chance_edges(log_normalized, cells):
    options = {"gene_names": names_of(60), "cells": cells, "threshold": 0.1}
    null = shuffled(log_normalized, 5)
    assert correlation_graph(null, **options).n_edges > 50
    assert correlation_graph(null, false_discovery_rate=0.01, **options).n_edges <= 1
    real = correlation_graph(log_normalized, false_discovery_rate=0.01, **options)
    assert real.n_edges > 40
    for block_size in (11, 60):
        again = correlation_graph(
            log_normalized, false_discovery_rate=0.01, block_size=block_size, **options
        )
        assert again.n_edges == real.n_edges


# Noise correction ------------------------------------------------------------


@pytest.fixture(scope="module")
def noisy():
    """Counts of 40 genes at 0.05-2 molecules per cell, 3000 cells; rates and depths known."""
    rng = np.random.default_rng(6)
    size_factors = rng.lognormal(0, 0.4, 3000)
    factors = rng.standard_normal((3000, 3))
    loadings = np.zeros((3, 40))
    loadings[rng.integers(0, 3, 40), np.arange(40)] = rng.choice([-0.7, 0.7], 40)
    noise = rng.gamma(4, 0.25, (3000, 40))
    rates = rng.uniform(0.05, 2, 40) * np.exp(factors @ loadings) * noise
    return rng.poisson(size_factors[:, None] * rates), size_factors, rates


def test_correction_is_nearer_to_the_latent_correlation(noisy):
    counts, size_factors, rates = noisy
    truth = dense_correlation(rates)
    raw = dense_correlation(counts / size_factors[:, None])
    logged = dense_correlation(np.log1p(counts / size_factors[:, None]))
    graph = noise_corrected_graph(
        counts, size_factors=size_factors, gene_names=names_of(40), threshold=0.1, caution=0
    )
    assert_valid(graph)
    edges = graph.adjacency.nonzero()
    corrected = graph.adjacency.toarray()
    error = {
        name: np.abs(r - truth)[edges].mean()
        for name, r in {"raw": raw, "logged": logged, "corrected": corrected}.items()
    }
    assert graph.n_edges > 100
    assert error["corrected"] < 0.5 * min(error["raw"], error["logged"])
    slope = np.sum(corrected[edges] * truth[edges]) / np.sum(truth[edges] ** 2)
    assert slope == pytest.approx(1, abs=0.1)  # unbiased, where raw is attenuated
    assert np.sum(raw[edges] * truth[edges]) / np.sum(truth[edges] ** 2) < 0.7


def test_more_true_edges_than_plain_correlation(noisy):
    counts, size_factors, rates = noisy
    truth = np.abs(dense_correlation(rates)) > 0.3
    found = noise_corrected_graph(counts, size_factors=size_factors, gene_names=names_of(40))
    plain = correlation_graph(np.log1p(counts / size_factors[:, None]), gene_names=names_of(40))
    recall = {g.source: truth[g.adjacency.nonzero()].sum() / truth.sum() for g in (found, plain)}
    assert truth[found.adjacency.nonzero()].mean() > 0.85
    assert recall["noise_corrected"] > 1.5 * recall["pearson"]


def test_reliability_equals_its_formula(noisy):
    """Term by term, in dense float64."""
    counts, s, _ = noisy
    design = np.column_stack([np.ones_like(s), s])
    weighted = design / np.sqrt(s)[:, None]
    scaled = counts / np.sqrt(s)[:, None]
    e = scaled - weighted @ np.linalg.lstsq(weighted, scaled, rcond=None)[0]
    noise = (1 - 2 / len(s)) * np.sum(counts / s[:, None], axis=0)
    rho = 1 - noise / np.sum(e**2, axis=0)
    expected = np.clip((e / np.linalg.norm(e, axis=0)).T @ (e / np.linalg.norm(e, axis=0)), -1, 1)
    expected /= np.sqrt(np.outer(rho, rho))
    graph = noise_corrected_graph(
        counts, size_factors=s, gene_names=names_of(40), threshold=0, caution=0
    )
    edges = graph.adjacency.nonzero()
    np.testing.assert_allclose(
        graph.adjacency.toarray()[edges], np.clip(expected, -1, 1)[edges], atol=1e-4
    )


def test_caution_corrects_less(noisy):
    counts, size_factors, _ = noisy
    options = {"size_factors": size_factors, "gene_names": names_of(40), "threshold": 0.1}
    strength = [
        np.abs(noise_corrected_graph(counts, caution=caution, **options).adjacency.toarray())
        for caution in (0, 1, 1e9)
    ]
    edges = strength[2].nonzero()
    assert np.all(strength[0][edges] >= strength[1][edges])
    assert np.all(strength[1][edges] >= strength[2][edges])
    assert strength[0].sum() > strength[1].sum() > strength[2].sum() > 0


def test_pure_noise_and_shuffled_genes_have_no_edges(noisy):
    counts, size_factors, _ = noisy
    rng = np.random.default_rng(7)
    options = {"size_factors": size_factors, "gene_names": names_of(40), "threshold": 0}
    poisson = rng.poisson(np.outer(size_factors, rng.uniform(0.05, 2, 40)))
    graph = noise_corrected_graph(poisson, **options)
    assert graph.n_edges == 0
    varying = genes_that_vary(graph)
    assert varying <= 1  # P(z > 3) of 40
    edges = [noise_corrected_graph(shuffled(counts, seed), **options).n_edges for seed in range(5)]
    assert sum(edges) <= 1  # of 5 x 780 pairs


def test_depth_alone_joins_no_genes():
    """Genes that ignore depth, or follow it, are not joined by it."""
    rng = np.random.default_rng(8)
    s = rng.lognormal(0, 0.8, 2000)
    follow, ignore = rng.poisson(np.outer(s, np.full(5, 3.0))), rng.poisson(3.0, (2000, 5))
    burst = rng.gamma(2, 0.5, (2000, 10))  # every gene varies, independently
    x = rng.poisson(np.hstack([follow, ignore]) * burst)
    graph = noise_corrected_graph(x, size_factors=s, gene_names=names_of(10), threshold=0)
    assert genes_that_vary(graph) == 10
    assert graph.n_edges == 0
    naive = dense_correlation(x / s[:, None])
    assert naive[5:, 5:][np.triu_indices(5, 1)].min() > 0.2  # what it protects from


def test_equal_depths_are_no_obstacle(noisy):
    """Then depth and intercept are the same column."""
    counts = noisy[0]
    graph = noise_corrected_graph(counts, size_factors=np.ones(3000), gene_names=names_of(40))
    assert graph.n_edges > 50


def test_one_outlying_cell_is_not_variation():
    rng = np.random.default_rng(9)
    x = rng.poisson(0.05, (1000, 6))
    x[0, :2] = 30
    graph = noise_corrected_graph(x, size_factors=np.ones(1000), gene_names=names_of(6))
    assert graph.n_edges == 0


# Prior graphs ----------------------------------------------------------------


def test_edges_worked_by_hand():
    edges = pd.DataFrame(
        {
            "gene_a": ["a", "b", "a", "c", "a", "x", "b"],
            "gene_b": ["b", "a", "c", "c", "y", "y", "c"],
            "weight": [0.2, 0.9, 0.5, 1.0, 1.0, 1.0, 0.0],
        }
    )
    graph = graph_from_edges(edges, gene_names=["c", "b", "a", "lonely"], source="mine")
    assert_valid(graph)
    assert graph.n_genes == 4
    assert graph.n_edges == 2
    expected = np.zeros((4, 4), np.float32)
    expected[1, 2] = expected[2, 1] = 0.9
    expected[0, 2] = expected[2, 0] = 0.5
    np.testing.assert_array_equal(graph.adjacency.toarray(), expected)
    assert graph.source == "mine"
    assert graph.notes == (
        "2 of 7 edges name genes that are not in the data and were left out "
        "(2 such genes, e.g. 'x', 'y')",
        "1 self-loops dropped",
        "1 edges of weight 0 dropped",
        "1 duplicated or mirrored edges merged (the strongest weight stays)",
    )
    table = graph.edge_table()
    assert list(table.columns) == ["gene_a", "gene_b", "weight"]
    assert {frozenset(pair) for pair in table[["gene_a", "gene_b"]].to_numpy()} == {
        frozenset("ab"),
        frozenset("ac"),
    }


@pytest.mark.parametrize("signs", [[1, -1], [-1, 1]])
def test_a_pair_of_both_signs_does_not_depend_on_the_order_of_lines(signs):
    edges = pd.DataFrame({"gene_a": ["a", "b"], "gene_b": ["b", "a"], "weight": signs})
    graph = graph_from_edges(edges, gene_names=["a", "b"])
    assert graph.adjacency[0, 1] == 1
    assert graph.notes[-1] == "1 pairs listed with both signs (of equal weights the positive)"


def test_pairs_signs_and_explicit_weights():
    pairs = graph_from_edges([["a", "b"]], gene_names=["a", "b"])
    assert pairs.adjacency[0, 1] == 1
    assert pairs.notes == ()
    weighted = graph_from_edges([["a", "b"]], gene_names=["a", "b"], weights=[0.25])
    assert weighted.adjacency[1, 0] == 0.25
    signed = pd.DataFrame({"gene_a": ["a"], "gene_b": ["b"], "weight": [2.0], "sign": [-1]})
    assert graph_from_edges(signed, gene_names=["a", "b"]).adjacency[0, 1] == -2


def test_edge_table_round_trip(log_normalized):
    graph = correlation_graph(log_normalized, gene_names=names_of(60))
    again = graph_from_edges(graph.edge_table(), gene_names=names_of(60))
    np.testing.assert_array_equal(again.adjacency.toarray(), graph.adjacency.toarray())
    judge = nx.from_pandas_edgelist(graph.edge_table(), "gene_a", "gene_b", "weight")
    assert judge.number_of_edges() == graph.n_edges
    assert nx.number_of_selfloops(judge) == 0


def test_matrix_is_made_symmetric():
    matrix = np.array([[5, 0.5, 0], [0.1, 0, -2], [0, 0, 0]])
    graph = graph_from_matrix(matrix, gene_names=list("abc"))
    assert_valid(graph)
    np.testing.assert_array_equal(
        graph.adjacency.toarray(), np.array([[0, 0.5, 0], [0.5, 0, -2], [0, -2, 0]], np.float32)
    )
    assert len(graph.notes) == 2
    assert graph.notes[0].startswith("2 edges differed between their two directions")
    assert graph.notes[1] == "1 self-loops dropped"
    again = graph_from_matrix(graph.adjacency, gene_names=list("abc"))
    assert again.notes == ()
    np.testing.assert_array_equal(again.adjacency.toarray(), graph.adjacency.toarray())


# Combination -----------------------------------------------------------------


def graph_of(edges, source="x"):
    pairs = [edge[:2] for edge in edges]
    return graph_from_edges(
        pairs, gene_names=list("abc"), weights=[e[2] for e in edges], source=source
    )


def test_combination_worked_by_hand():
    data = graph_of([("a", "b", -0.5), ("b", "c", 0.4)], "pearson")
    prior = graph_of([("a", "b", 0.5), ("a", "c", 1.0)], "string")
    union = combine_graphs([data, prior])
    assert_valid(union)
    np.testing.assert_allclose(
        union.adjacency.toarray(), [[0, -0.5, 0.5], [-0.5, 0, 0.2], [0.5, 0.2, 0]], atol=1e-7
    )
    both = combine_graphs([data, prior], how="intersection", weights=[3, 1])
    assert both.edge_table().to_numpy().tolist() == [["a", "b", -0.5]]
    assert union.source == "pearson+string"
    assert both.parameters == {
        "how": "intersection",
        "weights": [0.75, 0.25],
        "sources": ["pearson", "string"],
    }


def test_combining_a_graph_with_itself_changes_nothing(log_normalized):
    graph = correlation_graph(log_normalized, gene_names=names_of(60))
    for how in ("union", "intersection"):
        combined = combine_graphs([graph, graph], how=how)
        np.testing.assert_allclose(combined.adjacency.toarray(), graph.adjacency.toarray())


# Normalisation ---------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_normalisation_equals_dense_algebra(log_normalized, weighted):
    graph = correlation_graph(log_normalized, gene_names=names_of(60))
    a = np.abs(graph.adjacency.toarray().astype(np.float64))
    a = (a if weighted else (a > 0)) + np.eye(60)
    d = np.diag(a.sum(axis=1) ** -0.5)
    result = normalized_adjacency(graph.adjacency, weighted=weighted)
    assert result.dtype == np.float32
    assert result.format == "csr"
    np.testing.assert_allclose(result.toarray(), d @ a @ d, atol=1e-6)
    assert np.abs(np.linalg.eigvalsh(result.toarray())).max() <= 1 + 1e-5


def test_normalisation_equals_networkx():
    judge = nx.karate_club_graph()
    adjacency = nx.to_scipy_sparse_array(judge, weight=None)
    laplacian = nx.normalized_laplacian_matrix(
        nx.from_scipy_sparse_array(adjacency + sparse.identity(34)), weight=None
    )
    # networkx counts a loop once in the adjacency and once in the degree, as we do
    np.testing.assert_allclose(
        normalized_adjacency(sparse.csr_matrix(adjacency)).toarray(),
        np.eye(34) - laplacian.toarray(),
        atol=1e-6,
    )


def test_isolated_gene_hears_itself_and_input_is_kept():
    a = sparse.csr_matrix(np.array([[9, 2, 0], [2, 0, 0], [0, 0, 0]], np.float32))
    before = a.toarray()
    np.testing.assert_allclose(
        normalized_adjacency(a).toarray(), [[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 1]]
    )
    np.testing.assert_array_equal(a.toarray(), before)


def test_mask_is_binary(log_normalized):
    graph = correlation_graph(log_normalized, gene_names=names_of(60))
    assert set(graph.mask().data) == {1.0}
    np.testing.assert_array_equal(graph.mask().toarray(), graph.adjacency.toarray() != 0)
    assert isinstance(graph, GeneGraph)


# Bad input -------------------------------------------------------------------

X = np.random.default_rng(0).random((20, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.1}, r"threshold must be in \[0, 1\].*got 1.1"),
        ({"threshold": -0.1}, "threshold must be in"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"false_discovery_rate": 0.0}, "false_discovery_rate must be between 0 and 1"),
        ({"cells": "some"}, "cells must be 'all' or 'coexpressed', got 'some'"),
        ({"cells": "coexpressed", "min_cells": 2}, "min_cells must be at least 3"),
        ({"gene_names": ["a", "b"]}, r"gene_names has shape \(2,\), expected \(3,\)"),
        ({"gene_names": ["a", "b", "a"]}, "gene_names must be unique; 1 names .*'a'"),
    ],
)
def test_bad_options(change, message):
    options = {"gene_names": list("abc")} | change
    with pytest.raises(ValueError, match=message):
        correlation_graph(X, **options)


@pytest.mark.parametrize(
    ("matrix", "options", "message"),
    [
        (np.where(X > 0.9, np.nan, X), {}, "values? (is|are) NaN or infinite in log_normalized"),
        (X[:2], {}, "at least 3 cells, log_normalized has 2"),
        (X[0], {}, r"must be a \(cells, genes\) matrix, got 1 axes"),
        (X - 0.5, {"cells": "coexpressed"}, "must not be negative"),
    ],
)
def test_bad_matrix(matrix, options, message):
    with pytest.raises(ValueError, match=message):
        correlation_graph(matrix, gene_names=list("abc"), **options)


def test_too_many_edges(monkeypatch, log_normalized):
    monkeypatch.setattr(_edges, "MAX_EDGES", 100)
    with pytest.raises(ValueError, match=r"More than 100 gene pairs .* raise threshold, set top_k"):
        correlation_graph(log_normalized, gene_names=names_of(60), threshold=0)
    options = {"threshold": 0, "false_discovery_rate": 0.9, "top_k": 1}
    with pytest.raises(ValueError, match=r"raise threshold, lower false_discovery_rate \(0.9\)"):
        correlation_graph(log_normalized, gene_names=names_of(60), **options)


def test_candidates_in_blocks_do_not_count_against_the_limit(monkeypatch, log_normalized):
    options = {"gene_names": names_of(60), "threshold": 0, "top_k": 2}
    whole = correlation_graph(log_normalized, **options, block_size=60)
    monkeypatch.setattr(_edges, "MAX_EDGES", 2 * 60)  # two each: never more are kept
    parts = correlation_graph(log_normalized, **options, block_size=5)
    np.testing.assert_allclose(parts.adjacency.toarray(), whole.adjacency.toarray(), atol=1e-6)


@pytest.mark.parametrize(
    ("size_factors", "message"),
    [
        (np.ones(3), r"size_factors has shape \(3,\), expected \(20,\)"),
        (np.zeros(20), "size_factors must be finite and positive"),
        (np.full(20, np.nan), "size_factors must be finite and positive"),
    ],
)
def test_bad_size_factors(size_factors, message):
    with pytest.raises(ValueError, match=message):
        noise_corrected_graph(X, size_factors=size_factors, gene_names=list("abc"))


def test_negative_guards():
    with pytest.raises(ValueError, match=r"must not be negative; got 3\.0 and -1"):
        noise_corrected_graph(X, size_factors=np.ones(20), gene_names=list("abc"), caution=-1)


def test_negative_counts():
    with pytest.raises(ValueError, match="counts must not be negative"):
        noise_corrected_graph(X - 1, size_factors=np.ones(20), gene_names=list("abc"))


@pytest.mark.parametrize(
    ("edges", "options", "message"),
    [
        ([["x", "y"]], {}, "None of the 1 edges joins two of the 3 genes .*'x', 'y'.*'a', 'b'"),
        (np.zeros((0, 2), str), {}, "The edge list is empty"),
        ([["a", "a"]], {}, "no edge between two different genes"),
        ([["a", "b"]], {"weights": [np.nan]}, "1 value is NaN or infinite in edge weights"),
        ([["a", "b"]], {"weights": [1, 2]}, r"weights has shape \(2,\), expected \(1,\)"),
        ([["a", "b", "c"]], {}, r"edges has shape \(1, 3\), expected \(edges, 2\)"),
        (pd.DataFrame({"from": ["a"], "gene_b": ["b"]}), {}, r"lacks \['gene_a'\]"),
    ],
)
def test_bad_edges(edges, options, message):
    with pytest.raises(ValueError, match=message):
        graph_from_edges(edges, gene_names=list("abc"), **options)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "The network is a 2 x 3 matrix; expected 3 x 3"),
        (np.ones((4, 4)), "The network is a 4 x 4 matrix; expected 3 x 3"),
        (np.full((3, 3), np.inf), "9 values are NaN or infinite in weights in the network"),
        (np.eye(3), "no edge between two different genes"),
    ],
)
def test_bad_network_matrix(matrix, message):
    with pytest.raises(ValueError, match=message):
        graph_from_matrix(matrix, gene_names=list("abc"))


@pytest.mark.parametrize(
    ("graphs", "options", "message"),
    [
        ([], {}, "at least one graph"),
        ([0], {"how": "sum"}, "how must be 'union' or 'intersection', got 'sum'"),
        ([0, 1], {}, "is over other genes, or another order of them"),
        ([0], {"weights": [1, 2]}, "weights must be 1 positive numbers"),
        ([0], {"weights": [-1]}, "weights must be 1 positive numbers"),
    ],
)
def test_bad_combination(graphs, options, message):
    built = [
        graph_from_edges([["a", "b"]], gene_names=list("abc")),
        graph_from_edges([["a", "b"]], gene_names=list("acb")),
    ]
    with pytest.raises(ValueError, match=message):
        combine_graphs([built[i] for i in graphs], **options)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "must be square"),
        (np.array([[0, 1.0], [0, 0]]), "not symmetric.*graph_from_matrix"),
        (np.array([[0, np.nan], [np.nan, 0]]), "NaN or infinite in the adjacency"),
    ],
)
def test_bad_adjacency(matrix, message):
    with pytest.raises(ValueError, match=message):
        normalized_adjacency(sparse.csr_matrix(matrix))


@pytest.mark.parametrize("k", [1, 3, 50])
def test_no_weaker_than_the_kth_strongest_by_sorting_each_gene(k):
    """Ties included; genes with fewer entries keep all; genes without entries do no harm."""
    rng = np.random.default_rng(k)
    gene = rng.choice([0, 2, 3, 9], 200)
    strength = rng.integers(0, 30, 200).astype(np.float32) / 7
    found = _edges._at_least_kth(gene, strength, k)
    for one in np.unique(gene):
        of_gene = strength[gene == one]
        kth = np.sort(of_gene)[-min(k, len(of_gene))]
        np.testing.assert_array_equal(found[gene == one], of_gene >= kth)


def test_no_entries_have_no_kth_strongest():
    none = np.zeros(0, np.int64), np.zeros(0, np.float32)
    assert _edges._at_least_kth(*none, 3).shape == (0,)


def test_a_graph_shows_its_size_and_not_its_arrays():
    graph = graph_from_edges(
        pd.DataFrame({"gene_a": ["a", "b"], "gene_b": ["b", "c"], "weight": [0.5, -0.25]}),
        gene_names=list("abcd"),
    )
    said = repr(graph)
    assert said.startswith(f"GeneGraph: 2 edges among 4 genes, source {graph.source!r}\n")
    assert "weights -0.25 to 0.5" in said
    assert max(map(len, said.splitlines())) < 150
    empty = graph._replace(adjacency=sparse.csr_matrix((4, 4)), parameters={"cells": "all"})
    assert repr(empty).splitlines()[1] == "no edge; cells='all'"
    assert repr(empty._replace(parameters={})).splitlines()[1] == "no edge"
