"""The paper's clustering protocols on cells whose groups are known."""

from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import adjusted_rand_score

from graphsci.evaluation import PROTOCOLS, evaluate_clustering
from graphsci.evaluation import clustering as c

LABELS = np.repeat(["a", "b", "c"], 40)


@pytest.fixture(scope="module")
def log_values() -> np.ndarray:
    """Three well-separated groups of 40 cells, 30 genes."""
    rng = np.random.default_rng(0)
    centres = rng.gamma(2.0, 3.0, size=(3, 30))
    return np.log1p(rng.poisson(np.repeat(centres, 40, axis=0)))


#: What a protocol needs that not everyone has.
PACKAGES = {"pca-leiden": "igraph", "umap-kmeans": "umap", "phate-kmeans": "phate"}


@pytest.mark.filterwarnings("ignore:Graph is disconnected:RuntimeWarning")  # of phate: so it is
@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_find_groups_that_are_there(log_values, name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    scores = evaluate_clustering(
        log_values=log_values, labels=LABELS, protocol=name, n_seeds=2, seed=1
    )
    assert scores.ari.mean > 0.95
    assert scores.accuracy.mean > 0.95
    assert scores.nmi.mean > 0.95
    assert scores.silhouette_labels.mean > 0.3
    assert scores.n_clusters.per_seed == (3.0, 3.0)


def test_sparse_and_dense_agree(log_values):
    dense, sparse = (
        c.embed_cells(log_values=values, method="pca", seed=0)
        for values in (log_values, sp.csr_matrix(log_values))
    )
    assert np.abs(dense) == pytest.approx(np.abs(sparse), abs=1e-6)


def test_a_seed_fixes_the_result_and_another_changes_it(log_values):
    first, second, third = (
        c.embed_cells(log_values=log_values, method="tsne", seed=seed) for seed in (0, 0, 1)
    )
    assert np.array_equal(first, second)
    assert first.shape == (120, 2)
    assert not np.array_equal(first, third)


def test_nothing_to_see_is_one_cluster_of_score_zero(log_values):
    scores = evaluate_clustering(log_values=0 * log_values, labels=LABELS, n_seeds=2)
    assert scores.n_clusters.mean == 1
    assert (scores.ari.mean, scores.ari.sd) == (0.0, 0.0)
    assert scores.accuracy.mean == pytest.approx(1 / 3)
    assert scores.silhouette_labels.mean == scores.silhouette_clusters.mean == 0.0


def test_permuting_cells_permutes_the_clusters(log_values):
    order = np.random.default_rng(0).permutation(len(log_values))
    straight, permuted = (
        c.cluster_cells(points=points, method="kmeans", n_clusters=3, seed=0)
        for points in (log_values, log_values[order])
    )
    assert adjusted_rand_score(straight[order], permuted) == 1.0


def test_shared_neighbour_graph_by_hand():
    """Points 0, 1, 3 with k = 2: neighbourhoods {0,1}, {1,0}, {3,1}."""
    graph = c.shared_neighbour_graph(np.array([[0.0], [1.0], [3.0]]), k=2).toarray()
    assert np.allclose(graph, [[0, 1, 0], [1, 0, 1 / 3], [0, 1 / 3, 0]])


def test_mean_and_sd_over_seeds():
    scores = c.SeedScores((1.0, 3.0))
    assert (scores.mean, scores.sd) == (2.0, pytest.approx(np.sqrt(2)))
    assert c.SeedScores((1.0,)).sd == 0.0


def test_a_missing_package_is_named(log_values, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "phate", None)
    with pytest.raises(
        ImportError, match=r"PHATE needs the package 'phate'.*pip install 'graphsci\[phate\]'"
    ):
        evaluate_clustering(log_values=log_values, labels=LABELS, protocol="phate-kmeans")


def test_bad_protocols_and_labels_are_refused(log_values):
    with pytest.raises(ValueError, match="protocol: got 'dbscan', expected one of tsne-kmeans"):
        evaluate_clustering(log_values=log_values, labels=LABELS, protocol="dbscan")
    with pytest.raises(ValueError, match="n_seeds: got 0, expected at least 1"):
        evaluate_clustering(log_values=log_values, labels=LABELS, n_seeds=0)
    with pytest.raises(ValueError, match="at least two kinds"):
        evaluate_clustering(log_values=log_values, labels=["a"] * 120)
    for missing in (np.nan, None, pd.NA):
        labels = LABELS.astype(object)
        labels[0] = missing
        with pytest.raises(ValueError, match="1 missing for 120 cells"):
            evaluate_clustering(log_values=log_values, labels=labels)
    with pytest.raises(ValueError, match="got embedding 'som'"):
        c.embed_cells(log_values=log_values, method="som", seed=0)
    with pytest.raises(ValueError, match="got clustering 'som'"):
        c.cluster_cells(points=log_values, method="som", n_clusters=2, seed=0)


def test_a_protocol_names_the_versions_of_its_packages():
    assert c.package_versions("tsne-kmeans") == {}
    assert c.package_versions("umap-kmeans") == {"umap-learn": version("umap-learn")}
    assert c.package_versions("pca-leiden") == {
        name: version(name) for name in ("igraph", "scanpy")
    }
