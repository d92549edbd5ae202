"""How hard the simulated presets are, and which setting makes them so.

    python benchmarks/splat_presets.py --seeds 1 --clustering-seeds 2

For the paper's two simulations: as stated, with more dropout alone, with less depth alone, and
the hard preset (both). Prints a Markdown table: what dropout took, and the clustering of the raw
counts by the paper's protocol (K-means on 2-D t-SNE of log-normalised counts).
"""

import argparse
from dataclasses import replace

import anndata as ad
import numpy as np
import scipy.sparse as sp

from graphsci.evaluation import evaluate_clustering
from graphsci.evaluation.clustering import ClusteringScores
from graphsci.preprocessing import fit_median_library_size, log_normalize
from graphsci.simulation import PRESETS, SplatParams, simulate_splat

#: dropout.mid that takes 27-28 % of the positive counts at splatter's default depth.
MID = 0.75


def variants(preset: str) -> dict[str, SplatParams]:
    """Return the settings that are compared."""
    stated, hard = PRESETS[preset], PRESETS[f"{preset}-hard"]
    return {
        "as stated": stated,
        f"dropout.mid {MID} alone": replace(stated, dropout_mid=MID),
        f"lib.loc {hard.lib_loc} alone": replace(stated, lib_loc=hard.lib_loc),
        f"{preset}-hard: lib.loc {hard.lib_loc}, dropout.mid {hard.dropout_mid}": hard,
    }


def raw_scores(adata: ad.AnnData, n_seeds: int) -> ClusteringScores:
    """Cluster the counts as they are."""
    counts = sp.csr_matrix(adata.X, dtype=np.float64)
    counts = counts[:, counts.getnnz(axis=0) > 0]
    logs = log_normalize(counts, median_library_size=fit_median_library_size(counts))
    labels = adata.obs["Group"].astype(str).to_numpy()
    return evaluate_clustering(log_values=logs, labels=labels, n_seeds=n_seeds)


def row(name: str, params: SplatParams, *, seeds: int, clustering_seeds: int) -> str:
    """Return one line of the table, means over simulations."""
    found = []
    for seed in range(seeds):
        adata = simulate_splat(params, seed=seed)
        kept, true = adata.X.nnz, adata.layers["TrueCounts"].nnz
        scores = raw_scores(adata, clustering_seeds)
        dropped = ((true - kept) / true, (true - kept) / (adata.n_obs * adata.n_vars))
        depth = float(np.median(np.asarray(adata.layers["TrueCounts"].sum(1))))
        clusters = (scores.ari.mean, scores.accuracy.mean, scores.silhouette_labels.mean)
        found.append((depth, *dropped, *clusters))
    depth, of_positive, of_all, ari, accuracy, silhouette = np.mean(found, axis=0)
    return (
        f"| {name} | {depth:,.0f} | {of_positive:.1%} | {of_all:.1%} | {ari:.3f} | "
        f"{accuracy:.3f} | {silhouette:.3f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="simulations of each setting")
    parser.add_argument("--clustering-seeds", type=int, default=2)
    args = parser.parse_args()
    for preset in ("sim-t2", "sim-t6"):
        columns = ["molecules before dropout", "dropped, of positive counts", "of all entries"]
        columns = [preset, *columns, "raw ARI", "raw CA", "raw SC"]
        print(f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for name, params in variants(preset).items():
            common = {"seeds": args.seeds, "clustering_seeds": args.clustering_seeds}
            print(row(name, params, **common), flush=True)


if __name__ == "__main__":
    main()
