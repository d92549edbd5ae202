"""How often 90 % intervals hold the true rate, on simulated counts whose rates are known.

    python benchmarks/lab/coverage.py [--seeds 0 1]

NB counts around the states of three types of cells and a fourth with a dozen of 800; 900 genes, a
fifth of them with another level in each type, theta alike or of its own for every gene. By the
mean count of the gene, and for the markers of the first type in the cells of the second.
"""

import argparse
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from graphsci import GraphSCI, cell_blocks
from graphsci import estimates as es

N_CELLS, N_GENES, N_RARE_CELLS = 800, 900, 12
BINS = (0.0, 0.05, 0.2, 1.0, 5.0, np.inf)
SETTINGS = {  # theta, its standard deviation over genes (of the logarithm), molecules in a cell
    "theta 5, 4,000 molecules": (5.0, 0.0, 4000),
    "theta 1, 600 molecules": (1.0, 0.0, 600),
    "theta 2 (sd 1), 2,000 molecules": (2.0, 1.0, 2000),
    "theta 10, 30,000 molecules": (10.0, 0.0, 30000),
}


class Simulated(NamedTuple):
    """Counts and what they were drawn from; genes without a molecule are left out."""

    counts: sparse.csr_matrix
    rate: np.ndarray  #: (cells, genes) true, gamma around the state of the cell
    types: np.ndarray  #: (cells,) 0 to 3, the last with a dozen cells
    markers: np.ndarray  #: (genes,) at least e times as high in type 0 as in type 1


def simulate(theta: float, spread: float, molecules: float, seed: int) -> Simulated:
    """Draw one data set."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 1.6, N_GENES)
    change = rng.normal(size=(4, N_GENES)) * (rng.random((4, N_GENES)) < 0.2)
    types = rng.integers(0, 3, N_CELLS)
    types[:N_RARE_CELLS] = 3
    share = np.exp(level + change[types])
    library = molecules * np.exp(rng.normal(0, 0.35, N_CELLS))
    mean = share / share.sum(1, keepdims=True) * library[:, None]
    shape = theta * np.exp(spread * rng.normal(size=N_GENES))
    rate = rng.gamma(shape, mean / shape)
    counts = rng.poisson(rate)
    found = counts.sum(0) > 0
    markers = (change[0] - change[1] >= 1)[found]
    return Simulated(
        sparse.csr_matrix(counts[:, found], dtype=np.float32), rate[:, found], types, markers
    )


def coverage(made: Simulated, seed: int) -> dict[str, float]:
    """Fit the default; return the share of rates in their intervals, by group of entries."""
    counts = made.counts
    network = GraphSCI(check=False, seed=seed).fit(AnnData(counts)).fitted.network
    inside = np.zeros(counts.shape, dtype=bool)
    batch = np.zeros(len(made.rate), dtype=np.int64)
    for _, rows in cell_blocks.row_blocks(len(made.rate)):
        block = cell_blocks.cell_block(counts, batch, rows, torch.device("cpu"))
        with torch.inference_mode():
            z, dense = network.latent(block), block.dense(block.counts, counts.shape[1])
            predicted = network.expression(block, z=z)
            rate = es.posterior(
                predicted, dense, network.log_mean_variance(z, block.library, block.batch)
            )
            low, high = es.interval(rate, 0.9)
        inside[rows] = (low <= made.rate[rows]) & (made.rate[rows] <= high)
    mean = np.asarray(counts.mean(0)).ravel()
    groups = {
        f"{low:g} to {high:g}": inside[:, (mean > low) & (mean <= high)]
        for low, high in itertools.pairwise(BINS)
    }
    groups["markers of another type"] = inside[np.ix_(made.types == 1, made.markers)]
    groups["type of 12 cells"] = inside[made.types == 3]
    return {name: float(part.mean()) for name, part in groups.items()}


def main() -> None:
    """Print a table: settings by groups, means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    rows = []
    for name, (theta, spread, molecules) in SETTINGS.items():
        for seed in args.seeds:
            found = coverage(simulate(theta, spread, molecules, seed), seed)
            rows.append({"setting": name, **found})
            print(rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby("setting", sort=False).mean()
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
