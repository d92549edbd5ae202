"""The file contract of a peer: kept counts in, expected counts at each cell's own depth out.

    python run_NAME.py IN.h5ad OUT.h5ad --variant V --seed N

IN.h5ad has the kept counts in ``X``, (cells, genes), no cell and no gene without a molecule.
OUT.h5ad has the same cells and genes, and in ``X``, dense float32, the expected count of every
entry in a repetition of the same measurement at the same depth. A method that tells them apart
adds as layers ``before_dropout``, its expected count had nothing been dropped, ``common``, its
estimate at one depth for all cells, or ``sd``, the standard deviation of ``X``; without them a
judge makes them of ``X``. Needs numpy, scipy and anndata alone, so that it runs in every peer's
environment.
"""

import argparse
from collections.abc import Callable

import anndata
import numpy as np
from scipy import sparse

Floats = np.ndarray


def main(estimate: Callable[[sparse.csr_matrix, str, int], Floats | dict[str, Floats]]) -> None:
    """Run a peer: ``estimate(kept counts, variant, seed)`` returns one dense matrix, or several.

    Of several, ``estimate`` becomes ``X``, and the others are layers.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--variant", default="")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    given = anndata.read_h5ad(args.source)
    counts = sparse.csr_matrix(given.X)
    found = estimate(counts, args.variant, args.seed)
    named = found if isinstance(found, dict) else {"estimate": found}
    arrays = {name: np.asarray(values, dtype=np.float32) for name, values in named.items()}
    for name, values in arrays.items():
        if values.shape != counts.shape or not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(
                f"{name} has shape {values.shape} for counts {counts.shape}, and must be finite "
                "and at least 0"
            )
    out = anndata.AnnData(arrays.pop("estimate"), obs=given.obs[[]], var=given.var[[]])
    for name, values in arrays.items():
        out.layers[name] = values
    out.write_h5ad(args.target)


def library_sizes(counts: sparse.csr_matrix) -> Floats:
    """Return (cells, 1) molecules of each cell."""
    return np.asarray(counts.sum(1), dtype=np.float64).reshape(-1, 1)


def per_cell(counts: sparse.csr_matrix, target: float) -> Floats:
    """Return dense counts scaled to ``target`` per cell."""
    return counts.toarray().astype(np.float64) * (target / library_sizes(counts))


def at_own_depth(values: Floats, counts: sparse.csr_matrix) -> Floats:
    """Scale each cell's values (at least 0) to its own library size."""
    totals = values.sum(1, keepdims=True)
    return values * (library_sizes(counts) / np.where(totals > 0, totals, 1.0))
