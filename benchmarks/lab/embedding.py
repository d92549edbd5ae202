"""How well the cell embedding tells known types: X_graphsci, the latent space, plain PCA.

    python benchmarks/lab/embedding.py --data DIR [--only NAME ...]

Trained without the check, seed 0. For each embedding: share of the 15 nearest neighbours that are
of the cell's own type; silhouette of the types; ARI of K-means with as many clusters as types
(mean of five seeds); ARI and silhouette on a 2-D t-SNE, as the paper does (mean of two). "latent"
is the space in which training works, where every direction has variance 1; "PCA 32" is that of the
log-normalised counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_rand_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

sys.path.insert(0, str(Path(__file__).parents[1]))
from data import labels_of, read_dataset
from graphsci import GraphSCI
from graphsci.simple_methods import principal_components
from graphsci.simulation import PRESETS, simulate_splat

REAL = ("scmix_sc_celseq2", "klein_mes", "paul15", "pbmc3k")
SIMULATED = ("sim-t2-hard", "sim-t6-hard")
N_NEIGHBORS, N_KMEANS, N_TSNE = 15, 5, 2


class Labelled(NamedTuple):
    """A data set with types of cells."""

    name: str
    embeddings: dict[str, NDArray[np.float64]]  #: (cells, axes) each
    labels: NDArray[np.str_]  #: (cells,)


def labelled(data: Path, names: list[str]) -> Iterator[Labelled]:
    """Train on every data set that is there."""
    for name in names:
        if name in SIMULATED:
            adata = simulate_splat(PRESETS[name], seed=0)
            labels = adata.obs["Group"].astype(str).to_numpy()
        elif (adata := read_dataset(data, name)) is not None:
            labels = np.asarray(labels_of(adata, name)).astype(str)
        else:
            continue
        adata = adata[labels != "nan"].copy()
        adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
        model = GraphSCI(seed=0, check=False).fit(adata)
        found = model.latent(adata).astype(np.float64)
        states = model.count_network.uncertainty.states.double()
        embeddings = {
            "PCA 32": principal_components(adata.X, n_components=32),
            "latent": states.to_z(torch.from_numpy(found)).numpy(),
            "X_graphsci": found,
        }
        yield Labelled(name, embeddings, labels[labels != "nan"])


def scores(points: NDArray[np.float64], labels: NDArray[np.str_]) -> list[float]:
    """Neighbours of the own type, silhouette, ARI of K-means; ARI and silhouette on t-SNE."""
    search = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(points)
    own = labels[search.kneighbors(return_distance=False)] == labels[:, None]
    n_types = len(np.unique(labels))

    def ari(where: NDArray[np.floating], seed: int) -> float:
        clusters = KMeans(n_types, n_init=10, random_state=seed).fit_predict(where)
        return float(adjusted_rand_score(labels, clusters))

    maps = [TSNE(2, random_state=seed).fit_transform(points) for seed in range(N_TSNE)]
    return [
        float(own.mean()),
        float(silhouette_score(points, labels)),
        float(np.mean([ari(points, seed) for seed in range(N_KMEANS)])),
        float(np.mean([ari(each, 0) for each in maps])),
        float(np.mean([silhouette_score(each, labels) for each in maps])),
    ]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[*REAL, *SIMULATED])
    options = parser.parse_args()
    print(
        "| data set | embedding | own type | silhouette | K-means | t-SNE, K-means | silhouette |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for one in labelled(options.data, options.only):
        for name, points in one.embeddings.items():
            row = " | ".join(f"{value:.3f}" for value in scores(points, one.labels))
            print(f"| {one.name} | {name} | {row} |", flush=True)


if __name__ == "__main__":
    main()
