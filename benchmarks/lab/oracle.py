"""What could be known of a dropped count: errors of an oracle on the simulations.

    python benchmarks/lab/oracle.py

The oracle knows each cell's expected count lambda, the law of its variation (BCV), and the dropout
curve; it lacks the rate, the molecules and the coin of the entry alone. No method knows as much.
Three answers at a zero: the expected count, the median, and the median given that molecules were
dropped there. Mean absolute error of log1p over all entries and over the dropped ones.
"""

import numpy as np
from scipy import special, stats

from graphsci._splat_params import SplatParams
from graphsci.simulation import (
    PRESETS,
    base_cell_means,
    draw_cells,
    draw_counts,
    draw_genes,
    dropout_probability,
)

N_CELLS, SEED = 40, 0
#: Points of the rate's distribution, and counts that are told apart.
N_RATES, LARGEST = 40, 400


def main() -> None:
    """Print one row for each preset and answer."""
    print("| simulation | answer | error, all | error, dropped |\n|---|---|---|---|")
    for name, params in PRESETS.items():
        for answer, (of_all, of_dropped) in errors(params).items():
            print(f"| {name} | {answer} | {of_all:.3f} | {of_dropped:.3f} |")


def errors(params: SplatParams) -> dict[str, tuple[float, float]]:
    """Return the two errors of each answer."""
    rng = np.random.default_rng(SEED)
    genes, cells = draw_genes(params, rng=rng), draw_cells(params, rng=rng)
    chosen = rng.choice(params.n_cells, N_CELLS, replace=False)
    cells = type(cells)(*(np.asarray(values)[chosen] for values in cells))
    block = draw_counts(genes, cells, params, rng=rng)
    base = base_cell_means(genes, cells)
    with np.errstate(divide="ignore"):
        bcv = (params.bcv_common + 1 / np.sqrt(base)) * genes.bcv_factor
    zero = (block.counts == 0) & (base > 0)
    mass = posterior(base[zero], 1 / bcv[zero] ** 2, params)
    truth = np.log1p(block.true_counts[zero])
    found = {}
    for name, value in answers(mass).items():
        error = np.abs(np.log1p(value) - truth)
        found[name] = error.sum() / zero.size, error[truth > 0].mean()
    return found


def posterior(base: np.ndarray, shape: np.ndarray, params: SplatParams) -> np.ndarray:
    """Return the distribution of the count before dropout at each zero, (zeros, counts)."""
    levels = (np.arange(N_RATES) + 0.5) / N_RATES
    mass = np.zeros((len(base), LARGEST))
    counts = np.arange(LARGEST)
    for level in levels:
        rates = special.gammaincinv(shape, level) * base / shape
        chance = stats.poisson.pmf(counts, rates[:, None])
        dropped = dropout_probability(rates, params)
        chance[:, 1:] *= dropped[:, None]  # a count above zero is seen as zero if dropped
        mass += chance
    return mass / mass.sum(1, keepdims=True)


def answers(mass: np.ndarray) -> dict[str, np.ndarray]:
    """Return the three answers at each zero."""
    given_dropped = mass.copy()
    given_dropped[:, 0] = 0
    given_dropped /= np.maximum(given_dropped.sum(1, keepdims=True), 1e-300)
    return {
        "expected count": mass @ np.arange(mass.shape[1]),
        "median": (mass.cumsum(1) < 0.5).sum(1),
        "median if dropped": (given_dropped.cumsum(1) < 0.5).sum(1),
    }


if __name__ == "__main__":
    main()
