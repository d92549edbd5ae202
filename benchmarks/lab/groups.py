"""Sums over groups of cells: are estimates what another sample of the molecules shows?

    python benchmarks/lab/groups.py --data DIR [--only NAME ...]

Molecules are divided in two halves. Clusters (Leiden on 15 principal components of 1,500 variable
genes) and estimates know the one, the other judges: z is the other half's sum over a cluster minus
that estimated, in Poisson standard errors, for sums of five molecules or more. Seed 0, at most
4,000 genes. "half itself" has the error of both halves in its z.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parents[1]))
from data import read_dataset
from graphsci import GraphSCI
from graphsci.simple_methods import neighbour_pooling

NAMES = ("pbmc3k", "pbmc_1k_v3", "paul15")
N_GENES, FEWEST = 4_000, 5


def clusters(counts: sparse.csr_matrix) -> NDArray[np.str_]:
    """Clusters of cells by their counts (cells, genes)."""
    cells = AnnData(counts.copy())
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.highly_variable_genes(cells, n_top_genes=1_500)
    cells = cells[:, cells.var["highly_variable"]].copy()
    sc.pp.scale(cells, max_value=10)
    sc.pp.pca(cells, n_comps=15, random_state=0)
    sc.pp.neighbors(cells, random_state=0)
    sc.tl.leiden(cells, flavor="igraph", n_iterations=2, random_state=0)
    return cells.obs["leiden"].astype(str).to_numpy()


def main() -> None:
    """Print a table for every data set, and the markers of large types in small ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=NAMES)
    options = parser.parse_args()
    for name in options.only:
        adata = read_dataset(options.data, name)
        if adata is None:
            continue
        counts = sparse.csr_matrix(adata.X)
        chosen = np.sort(np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[:N_GENES])
        counts, rng = counts[:, chosen], np.random.default_rng(0)
        half = counts.copy()
        half.data = rng.binomial(counts.data.astype(np.int64), 0.5).astype(np.float32)
        other, gene_names = counts - half, np.asarray(adata.var_names)[chosen]
        half.eliminate_zeros()
        groups = clusters(half)
        cells = AnnData(half)
        cells.var_names = gene_names
        GraphSCI(seed=0, check=False).fit(cells).impute(cells, estimates=["mean", "denoised"])
        pooled = np.concatenate([block for _, block in neighbour_pooling(half, ratio=1.0)])
        times = other.sum() / half.sum()
        estimates = {
            "`denoised`": cells.layers["denoised"],
            "`mean`": cells.layers["mean"],
            "30 pooled neighbours": pooled,
            "half itself": half.toarray(),
        }
        print(f"{name}, {half.shape[0]:,} cells, {len(set(groups))} clusters")
        print("| | abs(z) > 3 | z > 4 (estimate too low) | z < -4 (too high) |\n|---|---|---|---|")
        for label, estimate in estimates.items():
            z = np.concatenate([scores(estimate, other, groups == g, times) for g in set(groups)])
            shares = np.mean(np.abs(z) > 3), np.mean(z > 4), np.mean(z < -4)
            print(f"| {label} | {' | '.join(f'{share:.2%}' for share in shares)} |", flush=True)
        if name == "pbmc3k":
            markers(cells, other, groups, pooled, times)


def scores(
    estimate: NDArray[np.floating], other: sparse.csr_matrix, of: NDArray[np.bool_], times: float
) -> NDArray[np.float64]:
    """Z of the sums of a cluster, for genes of which enough is expected."""
    expected = np.asarray(estimate[of].sum(0), dtype=np.float64) * times
    enough = expected >= FEWEST
    found = np.asarray(other[of].sum(0)).ravel()[enough]
    return (found - expected[enough]) / np.sqrt(expected[enough])


def markers(
    cells: AnnData,
    other: sparse.csr_matrix,
    groups: NDArray[np.str_],
    pooled: NDArray[np.floating],
    times: float,
) -> None:
    """CD3D, of T cells, in the cluster that is richest in GNLY."""
    position = cells.var_names.get_indexer(["GNLY", "CD3D"])
    share = {
        g: cells.X[groups == g, position[0]].sum() / cells.X[groups == g].sum() for g in groups
    }
    natural_killers = groups == max(share, key=share.get)
    sums = (
        cells.X[natural_killers, position[1]].sum(),
        other[natural_killers, position[1]].sum(),
        cells.layers["denoised"][natural_killers, position[1]].sum() * times,
        pooled[natural_killers, position[1]].sum() * times,
    )
    print(
        f"CD3D in {natural_killers.sum()} NK cells: {sums[0]:.0f} in this half, {sums[1]:.0f} "
        f"in the other, {sums[2]:.1f} in `denoised`, {sums[3]:.1f} in pooled neighbours"
    )


if __name__ == "__main__":
    main()
