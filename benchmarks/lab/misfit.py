"""How many cells are above the limit of misfit: of known kinds, of types that training lacked.

    python benchmarks/lab/misfit.py --data DIR

Trained without the check, seed 0: on cells of pbmc3k and paul15 without one type; on 600 cells of
pbmc_1k_v3, for its others, another donor and another chemistry; and on counts simulated from three
types (NB, theta 5), for as many other cells of them, a fourth type, doublets and other depths.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parents[1]))
from data import labels_of, read_dataset
from graphsci import GraphSCI

#: Data set, type that training lacks, cells trained on.
WITHOUT = [("pbmc3k", "B", 1200), ("pbmc3k", "NK", 1200), ("paul15", "Basophils", 800)]
DEPTH, THETA = 4000, 5.0


def told(model: GraphSCI, cells: AnnData) -> str:
    """Median misfit, and the share of the cells above the limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = model.impute(cells, copy=True).obs["graphsci_misfit"]
    return f"median {found.median():.2f}, above 1 {np.mean(found > 1):.1%}"


def without_a_type(data: Path) -> Iterator[str]:
    """Known and lacking cells of real data."""
    for name, lacking, n_training in WITHOUT:
        adata = read_dataset(data, name)
        if adata is None:
            continue
        label = np.asarray(labels_of(adata, name)).astype(str)
        known = np.random.default_rng(0).permutation(np.flatnonzero(label != lacking))
        model = GraphSCI(seed=0, check=False).fit(adata[np.sort(known[:n_training])].copy())
        yield f"{name}, known: {told(model, adata[known[n_training : n_training + 300]].copy())}"
        yield f"{name}, {lacking}: {told(model, adata[np.flatnonzero(label == lacking)].copy())}"


def other_donors(data: Path) -> Iterator[str]:
    """Cells of the same sample, of another donor, of another chemistry."""
    names = ("pbmc_1k_v3", "pbmc_5k_protein_v3_200", "pbmc3k")
    sets = [read_dataset(data, name) for name in names]
    if any(adata is None for adata in sets):
        return
    same, donor, chemistry = sets
    order = np.random.default_rng(0).permutation(same.n_obs)
    model = GraphSCI(seed=0, check=False).fit(same[np.sort(order[:600])].copy())
    parts = {names[0]: same[np.sort(order[600:])].copy(), names[1]: donor, names[2]: chemistry}
    for name, adata in parts.items():
        yield f"600 cells of pbmc_1k_v3, {name}: {told(model, adata)}"


def simulated() -> Iterator[str]:
    """Known kinds, a fourth type, doublets, other depths."""
    rng = np.random.default_rng(0)
    share = rng.gamma(0.5, 2.0, 1000) * np.exp(0.5 * rng.standard_normal((4, 1000)))
    share[3, :40] *= 8
    share /= share.sum(1, keepdims=True)

    def cells(kinds: list[int], n_cells: int = 300, depth: float = DEPTH, pair: bool = False):
        mean = share[rng.choice(kinds, n_cells)]
        if pair:
            mean = mean + share[rng.choice(kinds, n_cells)]
        mean = mean * depth * rng.lognormal(0, 0.3, (n_cells, 1))
        counts = rng.poisson(mean * rng.gamma(THETA, 1 / THETA, mean.shape))
        return AnnData(sparse.csr_matrix(counts.astype(np.float32)))

    known = [0, 1, 2]
    model = GraphSCI(seed=0, check=False).fit(cells(known, 900))
    yield f"simulated, known: {told(model, cells(known))}"
    for times in (0.1, 0.2, 10):
        shallow = cells(known, depth=times * DEPTH)
        yield f"simulated, known, {times} x the depth: {told(model, shallow)}"
    yield f"simulated, a fourth type: {told(model, cells([3]))}"
    yield f"simulated, doublets: {told(model, cells(known, pair=True))}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for lines in (simulated(), without_a_type(args.data), other_donors(args.data)):
        for line in lines:
            print(line, flush=True)
