"""Does a gene vary with the state of the cell? A score test per gene, over all cells at once.

A gene without evidence keeps its mean share, but for a trace: otherwise its loadings, fitted to
noise, give it a share in every direction of the latent space, and two genes that have nothing to
do with each other come out correlated. See docs/method.md, "No invented correlation".

The state is that of other genes, along axes learned from other cells: a network knows the noise of
the cells that it was trained on, and would take it for variation.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, special

from graphsci.preprocessing import library_sizes, log_normalize, median_size

Floats = NDArray[np.float64]

#: Parts of the cells, each described along axes of the others; of many cells half are enough.
N_FOLDS, FEWER_FOLDS, MANY_CELLS = 5, 2, 5_000
#: Parts of the genes, each tested against the state of the others.
N_GROUPS = 10
#: Axes of a state; 10 and 32 find as many genes (benchmarks/lab).
N_AXES = 20
#: Of the randomised search for them: further axes, and power iterations.
_MORE_AXES, _N_ITERATIONS = 10, 3

#: Fewer degrees of freedom tell nothing; directions of less than this share are none.
_FEWEST_FREE, _SMALLEST_SHARE = 10, 1e-10
#: Counts are cut off so many standard deviations above their mean, but not at so few molecules.
_DEVIATIONS, _NEVER_CUT = 5.0, 10.0

#: Bins of p-values, and those above which hardly anything but genes without variation is left.
#: The last bin is left out: genes with so few molecules that the test says nothing pile up there.
_BINS, _MOSTLY_NULL = np.linspace(0, 0.95, 20), 0.6
_AS_LIKELY_AS_NOT = 0.5
#: How far genes without evidence follow the state of the cell. Measured in benchmarks/lab.
UNPROVEN = 0.01


def variation_p_values(
    counts: sparse.csr_matrix,
    batch: NDArray[np.int64],
    *,
    n_batches: int,
    seed: int,
    n_folds: int = 0,
    n_groups: int = N_GROUPS,
) -> Floats:
    """P-value of each gene under "it does not follow the state of the cell", (genes,).

    Cross-fitted, so that no noise speaks for itself. The cells are divided in folds; the principal
    axes of the log-normalised counts of the other folds describe the state of a fold's cells,
    by the counts of genes in other groups alone, at the depth that these genes show. The gene's
    own counts are then tested for dependence on that state (:func:`p_values`).

    Parameters
    ----------
    counts
        (cells, genes) molecules.
    batch
        (cells,) 0 to ``n_batches`` - 1.
    seed
        Of folds, groups and the randomised search for axes.
    n_folds, n_groups
        Parts of cells and genes; 0 folds: 5, and 2 from 5,000 cells on.

    Returns
    -------
    In [0, 1]; 1 where there are too few cells or genes to tell.

    Notes
    -----
    O(molecules x axes) for each fold, in float32; memory of a few copies of the counts, and
    (folds + 1) x genes x axes.
    """
    cells = np.flatnonzero(counts.getnnz(axis=1))
    counts, batch = sparse.csr_matrix(counts[cells], dtype=np.float32), batch[cells]
    (n_cells, n_genes), found = counts.shape, np.ones(counts.shape[1])
    if n_cells < 3 or n_genes < 2:
        return found
    rng = np.random.default_rng(seed)
    n_folds = n_folds or (FEWER_FOLDS if n_cells >= MANY_CELLS else N_FOLDS)
    fold = rng.permutation(n_cells) % n_folds
    group = rng.permutation(n_genes) % n_groups
    library = library_sizes(counts)
    values = log_normalize(counts, median_library_size=median_size(library))
    axes, columns = list(_axes_of_folds(values, fold, rng)), sparse.csc_matrix(counts)
    for number in range(min(n_groups, n_genes)):
        inside = group == number
        target = sparse.csr_matrix(columns[:, inside])
        depth = library - library_sizes(target)  # what the other genes show
        seen = depth > 0
        if not seen.any():
            continue
        median = median_size(depth)
        values = log_normalize(counts, median_library_size=median, library=depth)
        states = _states(values, fold, axes, ~inside)[seen]
        known = nuisance(depth[seen], batch[seen], n_batches=n_batches)
        found[inside] = p_values(target[seen], depth[seen], known, states)
    return found


class _Axes(NamedTuple):
    """What the state of a fold's cells is measured along."""

    mean: NDArray[np.float32]  # (genes,) of the other folds' cells
    directions: NDArray[np.float32]  # (genes, axes), orthonormal


def _axes_of_folds(
    values: sparse.csr_matrix, fold: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[_Axes]:
    """Yield the principal axes of the cells outside of each fold, turned towards the first's.

    Axes of nearly the same cells are nearly the same but for a rotation; turned (orthogonal
    Procrustes), they describe all cells by the same coordinates.
    """
    first = None
    n_axes = min(N_AXES, int((fold != 0).sum()) - 1, values.shape[1] - 1)
    start = rng.standard_normal((values.shape[1], n_axes + _MORE_AXES), dtype=np.float32)
    for number in range(fold.max() + 1):
        found = _principal_axes(values, fold != number, start, n_axes)
        if first is None:
            first = found.directions
        else:
            left, _, right = np.linalg.svd(found.directions.T @ first)
            found = found._replace(directions=found.directions @ (left @ right))
        yield found


def _principal_axes(
    values: sparse.csr_matrix,
    chosen: NDArray[np.bool_],
    start: NDArray[np.float32],
    n_axes: int,
) -> _Axes:
    """Principal axes of some cells, by power iterations from ``start`` (Halko 2011).

    doi:10.1137/090771806. The mean is taken away without making the values dense.
    """
    inside = chosen[:, None].astype(np.float32)
    mean = (values.T @ inside).ravel() / np.float32(inside.sum())
    found = start
    for _ in range(_N_ITERATIONS):
        scores = np.linalg.qr(inside * (values @ found - mean @ found))[0]  # (cells, axes)
        found = np.linalg.qr(values.T @ scores - np.outer(mean, scores.sum(0)))[0]
    scores = inside * (values @ found - mean @ found)
    rotation = np.linalg.svd(scores, full_matrices=False)[2][:n_axes]
    return _Axes(mean, found @ rotation.T)


def _states(
    values: sparse.csr_matrix,
    fold: NDArray[np.int64],
    axes: list[_Axes],
    used: NDArray[np.bool_],
) -> Floats:
    """Coordinates of every cell along its fold's axes, by the genes ``used``: (cells, axes).

    Divided by the root of their standard deviation: the first axes count for more, as they are
    found with more certainty, but not as much more as they vary.
    """
    states = np.empty((len(fold), axes[0].directions.shape[1]))
    for number, (mean, directions) in enumerate(axes):
        cells, seen = fold == number, directions * used[:, None]
        states[cells] = values[cells] @ seen - mean @ seen
    deviation = states.std(0)
    return states / np.sqrt(np.where(deviation > 0, deviation, 1.0))


def nuisance(library: Floats, batch: NDArray[np.int64], *, n_batches: int) -> Floats:
    """What may drive a gene without the cell's state: (cells, n_batches + 2).

    Its batch, and any relation to depth between none at all and proportional: the columns
    log(depth) and 1 / depth let the share of a gene, counts / depth, go from constant to
    1 / depth. No more than that, as types of cells differ in depth.

    Parameters
    ----------
    library
        (cells,) molecules of each cell, > 0.
    batch
        (cells,) 0 to ``n_batches`` - 1.
    """
    log = np.log(library / library.mean())
    return np.column_stack([np.eye(n_batches)[batch], log, np.exp(-log)])


def p_values(target: sparse.csr_matrix, library: Floats, known: Floats, states: Floats) -> Floats:
    """P-value of each gene under "its rate does not depend on the state", (genes,).

    A variance-component score test (Lin 1997, doi:10.1093/biomet/84.2.309). With t_c the gene's
    molecules, L_c the depth of the cell, and z~ the state with what is known, k_c, regressed out
    (weights L), loadings drawn from N(0, tau^2 I) have the score ::

        Q = |sum_c t_c z~_c|^2 / v,    v = mean over c of (t_c - L_c k_c b)^2 / L_c

    which for tau = 0 is a sum of chi-squares weighted by the eigenvalues of
    sum_c L_c z~_c z~_c^T, approximated by the scaled chi-square of the same mean and variance
    (Satterthwaite 1946). v is what is left of the gene's variance with its least-squares b
    (weights 1 / L, its degrees of freedom taken off), so that noise beyond Poisson is no
    evidence; of Poisson counts v is the gene's share of the molecules. Of an overdispersed gene
    it grows with depth, and is taken at the depth of the cells that say most, weighted by
    L |z~|^2 (:func:`_growth`). Counts are cut off at ten molecules, or at the gene's mean there
    and five standard deviations, if that is more, so that no cell alone hides variation.

    Parameters
    ----------
    target
        (cells, genes) molecules that ``states`` do not rest on.
    library
        (cells,) depth, > 0.
    known
        (cells, regressors) :func:`nuisance`.
    states
        (cells, axes).

    Returns
    -------
    In [0, 1]; 1 for a gene without molecules, and everywhere if the state is constant or has no
    axis, or there are too few cells.
    """
    at_depth = library[:, None] * known
    precision, rank = _inverse(known.T @ at_depth)  # a batch may have no cell in this part
    n_cells = len(library)
    if n_cells - rank < _FEWEST_FREE or not states.shape[1]:
        return np.ones(target.shape[1])
    left = states - known @ (precision @ (at_depth.T @ states))  # (cells, axes)
    scores = np.sqrt(library)[:, None] * left
    weights = np.maximum(np.linalg.eigvalsh(scores.T @ scores), 0.0)
    if weights.sum() <= 1e-9 * max(1.0, float((library[:, None] * states**2).sum())):
        return np.ones(target.shape[1])
    target = _without_outliers(target, library)
    variance = _squares(target, library, known)[0] / (n_cells - rank)
    where = np.average(library, weights=(scores**2).sum(1))
    variance *= 1 + (where - library.mean()) * _growth(target, library, np.hstack([known, states]))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = ((target.T @ left) ** 2).sum(1) / variance
    scale = (weights**2).sum() / weights.sum()
    p = special.chdtrc(weights.sum() / scale, statistic / scale)
    return np.where(np.isfinite(p), p, 1.0)


def _growth(target: sparse.csr_matrix, library: Floats, known: Floats) -> Floats:
    """Growth with depth of a gene's variance per molecule, as a share of that at mean depth.

    Of what ``known`` (cells, regressors), the states among them, leaves of the counts. With a
    variance of a L + b L^2 it is b / (a + b mean L): from 0 (Poisson) to 1 / mean L, (genes,).
    """
    per_molecule, as_is = _squares(target, library, known)
    mean, spread = library.mean(), library.var()
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = (as_is / per_molecule - mean) / spread
    return np.clip(np.nan_to_num(growth), 0, 1 / mean)


def _squares(target: sparse.csr_matrix, library: Floats, known: Floats) -> tuple[Floats, Floats]:
    """Sums of r_c^2 / L_c and of r_c^2, (genes,) each; r_c is what regressors leave of the counts.

    Least squares of t_c on L_c k_c, weights 1 / L_c.
    """
    at_depth, squares = library[:, None] * known, target.multiply(target).T
    shown = target.T @ known  # (genes, regressors)
    slope = shown @ _inverse(known.T @ at_depth)[0]
    per_molecule = squares @ (1 / library) - (slope * shown).sum(1)
    as_is = squares.sum(1).A1 - 2 * (slope * (target.T @ at_depth)).sum(1)
    as_is += ((slope @ (at_depth.T @ at_depth)) * slope).sum(1)
    return np.maximum(per_molecule, 0), np.maximum(as_is, 0)


def _inverse(gram: Floats) -> tuple[Floats, int]:
    """Pseudo-inverse and rank of a Gram matrix."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > _SMALLEST_SHARE * values.max(initial=0.0)
    return (vectors[:, kept] / values[kept]) @ vectors[:, kept].T, int(kept.sum())


def _without_outliers(target: sparse.csr_matrix, library: Floats) -> sparse.csr_matrix:
    """Counts cut off far above what a gene has at the depth of a cell, (cells, genes)."""
    target = sparse.csr_matrix(target, dtype=np.float64)
    totals = np.asarray(target.sum(0)).ravel()
    share = totals / library.sum()
    variance = (target.multiply(target).T @ (1 / library) - share * totals) / len(library)
    depth = np.repeat(library, np.diff(target.indptr))
    genes = target.indices
    highest = depth * share[genes] + _DEVIATIONS * np.sqrt(depth * np.maximum(variance[genes], 0))
    kept = np.minimum(target.data, np.maximum(highest, _NEVER_CUT))
    return sparse.csr_matrix((kept, genes, target.indptr), shape=target.shape)


def evidence(p: Floats) -> Callable[[Floats], Floats]:
    """Return the function from a p-value to the probability that such a gene varies at all.

    The p-values tell themselves: those of genes without variation are uniform, so that their
    density is that of the large p-values (Storey 2002, doi:10.1111/1467-9868.00346), here that
    beyond what chance makes of it; what a falling density has above it are genes that vary. The
    probability is 1 minus the local false-discovery rate (Efron 2001,
    doi:10.1198/016214501753382129), interpolated between the centres of bins; below the first
    (.025) it rises in a straight line to 1 at p = 0.

    Parameters
    ----------
    p
        (genes,) p-values of all genes.
    """
    found, edges = np.histogram(p, bins=_BINS)
    if not found.any():
        return lambda p: np.where(p == 0, 1.0, 0.0)
    from scipy.optimize import isotonic_regression  # few need it, and it takes long to import

    density = isotonic_regression(found.astype(float), increasing=False).x
    null = found[edges[:-1] >= _MOSTLY_NULL - 1e-9]
    at_most = (null.sum() + 2 * np.sqrt(null.sum()) + 1) / len(null)
    probability = 1 - np.minimum(at_most / np.maximum(density, at_most), 1)
    points = np.concatenate([[0.0], (edges[1:] + edges[:-1]) / 2])
    return lambda p: np.interp(p, points, np.concatenate([[1.0], probability]))


def level_for(p: Floats, level: float) -> float:
    """Return the p-value above which a gene has no evidence: ``level``, or more if it must be.

    Few cells, or noisy ones, give a weak test: then many genes that do vary lie above any small
    level, and holding them constant takes real variation away. The level is raised to where a
    gene varies as likely as not (:func:`evidence`).

    Parameters
    ----------
    p
        (genes,) p-values.
    level
        Least level; 1 is evidence for all genes.
    """
    grid = np.linspace(0, 1, 101)
    return max(level, float(grid[evidence(p)(grid) > _AS_LIKELY_AS_NOT].max(initial=0.0)))


def state_weights(p: Floats, level: float) -> Floats:
    """Return how far the mean of each gene follows the state of the cell, (genes,) in (0, 1].

    The mean of two models, one in which the gene varies and one in which it does not, weighted
    by their probabilities (:func:`evidence`). Above ``level``, or if the probability is less, the
    weight is ``UNPROVEN``: so little that independent genes stay uncorrelated beside the noise of
    their own counts, and enough for the order of the cells. With ``level`` 1 all weights are 1.

    Parameters
    ----------
    p
        (genes,) p-values.
    level
        What :func:`level_for` returned.
    """
    probability = state_probability(p, level)
    return np.maximum(np.where(p <= level, probability, 0.0), UNPROVEN)


def state_probability(p: Floats, level: float) -> Floats:
    """Return the probability that each gene varies with the state, (genes,): :func:`evidence`.

    With ``level`` 1, where none is asked for evidence, 1.
    """
    return np.ones_like(p) if level >= 1 else evidence(p)(p)
