"""Deeper sequencing as truth: the profile of the same cells, or of cells of the same kind.

The deep profile counts other molecules of the same libraries, at a depth of its own: both are
compared as log1p at one library size.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from graphsci.evaluation import metrics
from graphsci.predictions import Floats, Matrix, as_dense

#: Library size that profiles of different depth are compared at, before log1p.
LIBRARY_SIZE = 10_000.0


class DeepScores(NamedTuple):
    """Agreement with a deep profile of the same cells; log1p per :data:`LIBRARY_SIZE`."""

    log_error: float  #: mean |log difference| over all entries of the judged genes
    log_error_dropped: float  #: where the deep profile has the gene and the counts have not
    log_error_observed: float  #: where the counts have it
    log_error_absent: float  #: where the deep profile has none: what was invented
    pearson_gene: float  #: median over judged genes of r over cells
    pearson_cell: float  #: median over cells of r over judged genes
    n_genes: int  #: judged genes


def log_error_per_gene(
    *, estimate: Matrix, truth: Matrix, library_size: float = LIBRARY_SIZE
) -> Floats:
    """Return each gene's mean absolute difference on the log1p scale, (genes,).

    Parameters
    ----------
    estimate, truth
        (cells, genes) counts or rates; each cell of each is scaled to ``library_size`` first, so
        that depth does not matter.
    library_size
        Common library size.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    return _log_errors(estimate, truth, library_size).mean(0)


def log_error_per_cell(
    *, estimate: Matrix, truth: Matrix, library_size: float = LIBRARY_SIZE
) -> Floats:
    """Return each cell's mean absolute log difference, (cells,): see `log_error_per_gene`."""
    return _log_errors(estimate, truth, library_size).mean(1)


def score_against_deep(
    *,
    estimate: Matrix,
    deep: Matrix,
    observed: Matrix,
    min_cells: int = 3,
    library_size: float = LIBRARY_SIZE,
) -> DeepScores:
    """Compare an estimate with a deep profile of the same cells.

    Parameters
    ----------
    estimate
        (cells, genes) rates, made from ``observed`` alone.
    deep
        (cells, genes) of the same cells: deeper counts, or :func:`profiles_of_groups`.
    observed
        The shallow counts (cells, genes).
    min_cells
        Genes with deep expression in at least so many cells are judged.
    library_size
        Common library size.

    Raises
    ------
    ValueError
        If shapes differ or no gene can be judged.
    """
    true, counts = as_dense(deep), as_dense(observed)
    judged = (true > 0).sum(0) >= min_cells if true.ndim == 2 else np.zeros(0, dtype=bool)
    if true.shape != counts.shape or not judged.any():
        raise ValueError(
            f"deep has shape {true.shape}, observed {counts.shape}, and {int(judged.sum())} genes "
            f"have deep expression in at least {min_cells} cells, expected one shape and at least "
            "one gene; align cells and genes first."
        )
    pair = metrics.log_pair(estimate, true, library_size=library_size)
    true, counts, (a, b) = true[:, judged], counts[:, judged], (m[:, judged] for m in pair)
    errors = np.abs(a - b)
    kinds = {"dropped": (counts == 0) & (true > 0), "observed": counts > 0, "absent": true == 0}
    return DeepScores(
        log_error=float(errors.mean()),
        **{f"log_error_{name}": _mean_where(errors, kind) for name, kind in kinds.items()},
        pearson_gene=_median(metrics.pearson_per_gene(estimate=a, truth=b)),
        pearson_cell=_median(metrics.pearson_per_cell(estimate=a, truth=b)),
        n_genes=int(judged.sum()),
    )


def profiles_of_groups(*, counts: Matrix, groups: ArrayLike, wanted: ArrayLike) -> Floats:
    """Return the profile of each wanted cell's group, from other cells of that group.

    The truth of a diluted well is the mean of the undiluted wells of the same mixture.

    Parameters
    ----------
    counts
        (cells, genes) of the cells that are the truth, such as wells of 30 pg RNA.
    groups
        Group of each of them (cells,).
    wanted
        Group of each cell to be judged (n,).

    Returns
    -------
    (n, genes) mean over the group's cells of each gene's share of the cell's counts.

    Raises
    ------
    ValueError
        If lengths differ or a wanted group has no cell with counts.
    """
    matrix, known, asked = as_dense(counts), np.asarray(groups), np.asarray(wanted)
    if known.shape != (len(matrix),):
        raise ValueError(
            f"groups: got {known.size} groups for {len(matrix)} cells, expected one per cell."
        )
    totals = matrix.sum(1)
    filled = totals > 0
    told = np.isin(asked, known[filled])
    if not told.all():
        raise ValueError(
            f"wanted: {told.sum()} of {asked.size} wanted cells are of a group that has counts, "
            "expected all of them; leave the others out."
        )
    share = matrix[filled] / totals[filled, None]
    names, place = np.unique(asked, return_inverse=True)
    means = np.stack([share[known[filled] == name].mean(0) for name in names])
    return means[place]


def _log_errors(estimate: Matrix, truth: Matrix, library_size: float) -> Floats:
    """Return absolute differences on the log1p scale, (cells, genes)."""
    one, other = metrics.log_pair(estimate, truth, library_size=library_size)
    return np.abs(one - other)


def _mean_where(values: Floats, chosen: NDArray[np.bool_]) -> float:
    """Return the mean over chosen entries, NaN if there are none."""
    return float(values[chosen].mean()) if chosen.any() else float("nan")


def _median(values: Floats) -> float:
    """Return the median of what could be computed, NaN if nothing could."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
