"""The paper's clustering protocols: embed, cluster, compare with known labels, over seeds."""

import contextlib
import importlib.metadata
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from graphsci._choices import CLUSTERING_SEEDS, PROTOCOL
from graphsci._optional import needed
from graphsci.evaluation import labels as label_scores
from graphsci.evaluation.controls import nearest_cells
from graphsci.predictions import Floats, Matrix

Embedding = Literal["tsne", "umap", "phate", "pca"]
Clustering = Literal["kmeans", "leiden"]

#: Components that every embedding starts from, as is usual for t-SNE and UMAP.
N_COMPONENTS = 50

#: Neighbours in UMAP and in the graph for Leiden, the cell itself included: scanpy's default.
N_NEIGHBOURS = 15


class Protocol(NamedTuple):
    """How cells are embedded and clustered."""

    label: str
    embedding: Embedding
    clustering: Clustering
    source: str


#: Protocols by name. The paper's tables use the first; its Figure S7 the next two.
PROTOCOLS: dict[str, Protocol] = {
    "tsne-kmeans": Protocol("K-means on 2-D t-SNE", "tsne", "kmeans", "the paper, Tables S1-S2"),
    "umap-kmeans": Protocol("K-means on 2-D UMAP", "umap", "kmeans", "the paper, Fig. S7"),
    "phate-kmeans": Protocol("K-means on 2-D PHATE", "phate", "kmeans", "the paper, Fig. S7"),
    "pca-kmeans": Protocol("K-means on 50 PCs", "pca", "kmeans", "common practice"),
    "pca-leiden": Protocol("Leiden on 50 PCs", "pca", "leiden", "doi:10.1038/s41598-019-41695-z"),
}

#: Modules that not everyone has: the module, what needs it, and the package to install.
_UMAP = ("umap", "UMAP", "umap-learn")
_PHATE = ("phate", "PHATE", "graphsci[phate]")
_IGRAPH = ("igraph", "Leiden", "graphsci[network]")
_SCANPY = ("scanpy", "Leiden", "scanpy")
#: Under which name a module is installed, where that is another one.
_DISTRIBUTIONS = {"umap": "umap-learn"}
_PACKAGES = {"umap": (_UMAP,), "phate": (_PHATE,), "leiden": (_IGRAPH, _SCANPY)}


class SeedScores(NamedTuple):
    """One score over seeds."""

    per_seed: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.per_seed))

    @property
    def sd(self) -> float:
        """Standard deviation over seeds (n - 1); 0 for one seed."""
        return float(np.std(self.per_seed, ddof=1)) if len(self.per_seed) > 1 else 0.0


class ClusteringScores(NamedTuple):
    """Agreement of clusters with known labels, over seeds."""

    ari: SeedScores  #: eq. 23
    accuracy: SeedScores  #: eq. 24
    nmi: SeedScores
    silhouette_clusters: SeedScores  #: eq. 25, of the found clusters in the embedding
    #: eq. 25, of the known labels in the embedding. The paper's tables must hold this one: found
    #: clusters of a 2-D t-SNE score .3-.4 whatever the data, and its raw SIM_T6 row says .019
    silhouette_labels: SeedScores
    n_clusters: SeedScores


def evaluate_clustering(
    *,
    log_values: Matrix,
    labels: label_scores.Labels,
    protocol: str = PROTOCOL,
    n_seeds: int = CLUSTERING_SEEDS,
    seed: int = 0,
) -> ClusteringScores:
    """Embed and cluster cells ``n_seeds`` times and compare with known labels.

    K-means is told the number of labels; Leiden finds its own number at resolution 1. Nothing
    else is tuned. Values that do not vary make one cluster, of silhouette 0.

    Parameters
    ----------
    log_values
        (cells, genes) on the log1p scale, dense or sparse.
    labels
        Known labels (cells,), at least two kinds.
    protocol
        A name in :data:`PROTOCOLS`.
    n_seeds
        Number of seeds: ``seed``, ``seed + 1``, ..., from 0 again after 2**32 - 1.
    seed
        First seed.

    Raises
    ------
    ValueError
        If the protocol is unknown, n_seeds < 1, or labels do not fit the cells.
    ImportError
        If the protocol needs a package that is not installed.
    """
    chosen = _checked_protocol(protocol, n_seeds)
    known = _checked_labels(labels, n_cells=log_values.shape[0])
    runs = [
        _one_run(log_values, known, chosen, seed=(seed + run) % 2**32) for run in range(n_seeds)
    ]
    return ClusteringScores(*(SeedScores(scores) for scores in zip(*runs, strict=True)))


def embed_cells(*, log_values: Matrix, method: Embedding, seed: int) -> Floats:
    """Return cells in few dimensions, (cells, 50) for ``"pca"`` and (cells, 2) for the others.

    All start from the 50 leading principal components (fewer for small data).

    Parameters
    ----------
    log_values
        (cells, genes) on the log1p scale.
    method
        ``"tsne"`` (scikit-learn, perplexity 30, random start), ``"umap"`` (umap-learn, 15
        neighbours), ``"phate"`` (phate's defaults) or ``"pca"``.
    seed
        Seed.

    Raises
    ------
    ValueError
        If the method is unknown.
    ImportError
        If the method's package is not installed.
    """
    if method not in {"tsne", "umap", "phate", "pca"}:
        raise ValueError(f"got embedding {method!r}, expected 'tsne', 'umap', 'phate' or 'pca'.")
    components = _principal_components(log_values, seed=seed)
    if method == "pca" or not np.ptp(components, axis=0).any():
        return components
    if method == "tsne":
        perplexity = min(30.0, (len(components) - 1) / 3)
        # a random start, so that seeds differ: with a PCA start they all give one map
        tsne = TSNE(perplexity=perplexity, init="random", random_state=seed)
        return tsne.fit_transform(components)
    return (_umap if method == "umap" else _phate)(components, seed)


def cluster_cells(
    *, points: Floats, method: Clustering, n_clusters: int, seed: int
) -> NDArray[np.int64]:
    """Return the cluster of each cell, (cells,).

    Parameters
    ----------
    points
        (cells, dimensions).
    method
        ``"kmeans"`` (10 starts) or ``"leiden"`` (15 nearest neighbours, resolution 1).
    n_clusters
        For K-means; Leiden ignores it.
    seed
        Seed.

    Raises
    ------
    ValueError
        If the method is unknown.
    ImportError
        If Leiden's package is not installed.
    """
    if method not in {"kmeans", "leiden"}:
        raise ValueError(f"got clustering {method!r}, expected 'kmeans' or 'leiden'.")
    if not np.ptp(points, axis=0).any():
        return np.zeros(len(points), dtype=np.int64)
    if method == "leiden":
        return _leiden(points, seed)
    n_clusters = min(n_clusters, len(np.unique(points, axis=0)))
    kmeans = KMeans(n_clusters, n_init=10, random_state=seed)
    return kmeans.fit_predict(points).astype(np.int64)


def _one_run(
    log_values: Matrix, labels: NDArray, protocol: Protocol, *, seed: int
) -> tuple[float, ...]:
    """Return the scores of one seed, in the order of :class:`ClusteringScores`."""
    points = embed_cells(log_values=log_values, method=protocol.embedding, seed=seed)
    clusters = cluster_cells(
        points=points,
        method=protocol.clustering,
        n_clusters=len(np.unique(labels)),
        seed=seed,
    )
    return (
        label_scores.adjusted_rand_index(labels=labels, clusters=clusters),
        label_scores.clustering_accuracy(labels=labels, clusters=clusters),
        label_scores.normalized_mutual_information(labels=labels, clusters=clusters),
        _silhouette_or_zero(points, clusters),
        _silhouette_or_zero(points, labels),
        float(len(np.unique(clusters))),
    )


def _silhouette_or_zero(points: Floats, groups: NDArray) -> float:
    """Return the silhouette, 0 where there is nothing to compare."""
    if not 1 < len(np.unique(groups)) < len(groups):
        return 0.0
    return label_scores.silhouette(points=points, labels=groups)


def _principal_components(log_values: Matrix, *, seed: int) -> Floats:
    """Return up to 50 principal components, (cells, components); sparse input stays sparse."""
    sparse = sp.issparse(log_values)
    values = sp.csr_matrix(log_values, dtype=np.float64) if sparse else np.asarray(log_values)
    n_components = min(N_COMPONENTS, min(values.shape) - 1)
    highest, lowest = values.max(axis=0), values.min(axis=0)
    spread = abs(highest - lowest).max()
    if not spread > 0:
        return np.zeros((values.shape[0], n_components))
    pca = PCA(n_components, svd_solver="arpack", random_state=seed)
    return pca.fit_transform(values)


def _umap(points: Floats, seed: int) -> Floats:
    """Return 2-D UMAP; one job, for more give another answer at each run."""
    umap = _package(*_UMAP)
    neighbours = min(N_NEIGHBOURS, len(points) - 1)
    model = umap.UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1)
    return model.fit_transform(points)


def _phate(points: Floats, seed: int) -> Floats:
    """Return 2-D PHATE."""
    phate = _package(*_PHATE)
    return phate.PHATE(random_state=seed, verbose=False, n_jobs=1).fit_transform(points)


def _leiden(points: Floats, seed: int) -> NDArray[np.int64]:
    """Return Leiden clusters at resolution 1 of the shared-neighbour graph."""
    _package(*_IGRAPH)
    sc = _package(*_SCANPY)
    adata = AnnData(obs=pd.DataFrame(index=[str(i) for i in range(len(points))]))
    graph = shared_neighbour_graph(points, k=N_NEIGHBOURS)
    options = {"flavor": "igraph", "n_iterations": 2, "directed": False}
    sc.tl.leiden(adata, adjacency=graph, random_state=seed, **options)
    return adata.obs["leiden"].to_numpy().astype(np.int64)


def shared_neighbour_graph(points: Floats, *, k: int) -> sp.csr_matrix:
    """Return the graph of k nearest neighbours, weighted by the neighbours two cells share.

    The Jaccard index of the two neighbourhoods (a cell is in its own), for each pair of which
    one is a neighbour of the other; symmetric, zero diagonal, (cells, cells).

    References
    ----------
    Levine et al. 2015 (PhenoGraph), doi:10.1016/j.cell.2015.05.047.
    """
    near = nearest_cells(points, k=min(k, len(points)))
    pointers = np.arange(len(points) + 1) * near.shape[1]
    members = sp.csr_matrix((np.ones(near.size), near.ravel(), pointers), shape=(len(points),) * 2)
    pairs = sp.triu(members + members.T, k=1).tocoo()
    shared = np.asarray(members[pairs.row].multiply(members[pairs.col]).sum(1)).ravel()
    weights = shared / (2 * near.shape[1] - shared)
    upper = sp.csr_matrix((weights, (pairs.row, pairs.col)), shape=members.shape)
    return sp.csr_matrix(upper + upper.T)


def require_packages(protocol: str) -> None:
    """Import what a protocol needs, so that a missing package is known before long work.

    Raises
    ------
    ValueError
        If the protocol is unknown.
    ImportError
        If a package is not installed.
    """
    chosen = _checked_protocol(protocol, n_seeds=1)
    for step in (chosen.embedding, chosen.clustering):
        for names in _PACKAGES.get(step, ()):
            _package(*names)


def package_versions(protocol: str) -> dict[str, str]:
    """Versions of the optional packages that a protocol needs and that are installed."""
    chosen = _checked_protocol(protocol, n_seeds=1)
    found = {}
    for step in (chosen.embedding, chosen.clustering):
        for module, *_ in _PACKAGES.get(step, ()):
            name = _DISTRIBUTIONS.get(module, module)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


def _package(module: str, what: str, package: str) -> Any:
    return needed(module, what, package, f", or choose another protocol of {', '.join(PROTOCOLS)}")


def _checked_protocol(protocol: str, n_seeds: int) -> Protocol:
    """Return the protocol of that name, or refuse it."""
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: got {protocol!r}, expected one of {', '.join(PROTOCOLS)}.")
    if n_seeds < 1:
        raise ValueError(f"n_seeds: got {n_seeds}, expected at least 1.")
    return PROTOCOLS[protocol]


def _checked_labels(labels: label_scores.Labels, *, n_cells: int) -> NDArray:
    """Return labels as text, or refuse them."""
    known = np.asarray(labels)
    missing = np.asarray(pd.isna(known))
    if known.shape != (n_cells,) or missing.any() or len(np.unique(known.astype(str))) < 2:
        raise ValueError(
            f"labels have shape {known.shape} with {int(missing.sum())} missing for {n_cells} "
            "cells, expected one label per cell of at least two kinds; drop unlabelled cells "
            "after imputing and before scoring."
        )
    return known.astype(str)
