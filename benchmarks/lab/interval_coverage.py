"""How often 90 % intervals hold the true rate, on simulated counts whose rates are known.

    python benchmarks/lab/interval_coverage.py [--seeds 0 1]

NB counts around the states of three types of cells and a fourth with a dozen of 800; 900 genes, a
fifth of them with another level in each type, theta alike or of its own for every gene; in one
setting entries are dropped, half of them at a mean of 1 (logit -log mean). By the mean rate of the
gene, and for the markers of the first type in the cells of the second.
"""

import argparse
import itertools
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from graphsci import GraphSCI
from graphsci import estimates as es
from graphsci.nn import cell_blocks

N_CELLS, N_GENES, N_RARE_CELLS = 800, 900, 12
BINS = (0.0, 0.05, 0.2, 1.0, 5.0, np.inf)
SETTINGS = {  # theta, its sd over genes (of the logarithm), molecules in a cell, dropout
    "theta 5, 4,000 molecules": (5.0, 0.0, 4000, False),
    "theta 1, 600 molecules": (1.0, 0.0, 600, False),
    "theta 2 (sd 1), 2,000 molecules": (2.0, 1.0, 2000, False),
    "theta 10, 30,000 molecules": (10.0, 0.0, 30000, False),
    "theta 5, 4,000 molecules, dropout": (5.0, 0.0, 4000, True),
}


class Simulated(NamedTuple):
    """Counts and what they were drawn from; genes without a molecule are left out."""

    counts: sparse.csr_matrix
    rate: np.ndarray  #: (cells, genes) true, gamma around the state of the cell
    types: np.ndarray  #: (cells,) 0 to 3, the last with a dozen cells
    markers: np.ndarray  #: (genes,) at least e times as high in type 0 as in type 1


def simulate(theta: float, spread: float, molecules: float, dropout: bool, seed: int) -> Simulated:
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
    if dropout:
        counts[rng.random(counts.shape) < 1 / (1 + mean)] = 0
    found = counts.sum(0) > 0
    markers = (change[0] - change[1] >= 1)[found]
    return Simulated(
        sparse.csr_matrix(counts[:, found], dtype=np.float32), rate[:, found], types, markers
    )


def coverage(made: Simulated, seed: int) -> dict[str, dict[str, float]]:
    """Fit the default; return the share of rates in their intervals, by group of entries.

    With the mean of an entry taken as known, and with its uncertainty.
    """
    counts = made.counts
    network = GraphSCI(check=False, seed=seed).fit(AnnData(counts)).fitted.network
    inside = {name: np.zeros(counts.shape, dtype=bool) for name in ("mu known", "mu uncertain")}
    batch = np.zeros(len(made.rate), dtype=np.int64)
    for _, rows in cell_blocks.row_blocks(len(made.rate)):
        block = cell_blocks.cell_block(counts, batch, rows, torch.device("cpu"))
        with torch.inference_mode():
            rate = es.posterior_of(network, block)
            for name, held in inside.items():
                known = rate._replace(log_mean_variance=None)
                low, high = es.interval(known if name == "mu known" else rate, 0.9)
                held[rows] = (low <= made.rate[rows]) & (made.rate[rows] <= high)
    return {name: _by_group(made, held) for name, held in inside.items()}


def _by_group(made: Simulated, inside: np.ndarray) -> dict[str, float]:
    mean = made.rate.mean(0)
    groups = {
        f"{low:g} to {high:g}": inside[:, (mean > low) & (mean <= high)]
        for low, high in itertools.pairwise(BINS)
    }
    groups["markers of another type"] = inside[np.ix_(made.types == 1, made.markers)]
    groups["type of 12 cells"] = inside[made.types == 3]
    return {name: float(part.mean()) for name, part in groups.items() if part.size}


def main() -> None:
    """Print a table: settings by groups, means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args()
    rows = []
    for setting, options in SETTINGS.items():
        for seed in args.seeds:
            for name, found in coverage(simulate(*options, seed), seed).items():
                rows.append({"setting": setting, "interval": name, **found})
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby(["setting", "interval"], sort=False).mean()
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
