"""False signal: structure that a method puts where by construction there is none."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsci.predictions import Floats, Matrix, as_dense
from graphsci.shuffled_genes import WithShuffledGenes as WithShuffledGenes
from graphsci.shuffled_genes import append_shuffled_genes as append_shuffled_genes
from graphsci.shuffled_genes import genes_to_copy as genes_to_copy


class RandomHalves(NamedTuple):
    """Two random halves of one population."""

    first: NDArray[np.int64]  #: sorted cells
    second: NDArray[np.int64]  #: sorted cells


def mean_absolute_correlation(*, values: Matrix) -> float:
    """Return the mean |r| over pairs of genes that are independent by construction.

    Parameters
    ----------
    values
        The estimates of the shuffled copies alone, (cells, copies), on the scale that is judged.
        A constant gene correlates with nothing: 0.

    Raises
    ------
    ValueError
        If there are fewer than two genes or two cells.
    """
    dense = as_dense(values)
    if dense.ndim != 2 or min(dense.shape) < 2:
        raise ValueError(
            f"values have shape {dense.shape}, expected (cells, copies) with at least two of each."
        )
    varying = np.ptp(dense, axis=0) > 0
    centred = dense - dense.mean(0)
    norms = np.where(varying, np.sqrt((centred**2).sum(0)), 1.0)
    scaled = np.where(varying, centred / np.where(norms > 0, norms, 1.0), 0.0)
    r = scaled.T @ scaled
    return float(np.abs(r[np.triu_indices(len(r), k=1)]).mean())


def correlation_given_depth(*, values: Matrix, library: Floats) -> float:
    """Return the mean |r| over pairs of independent genes that the depth of the cells leaves.

    Shuffling takes a gene's relation to depth, too. A copy that is divided by depth falls with
    it, and all copies fall together: the clearer, the less noise an estimate leaves. Here the
    logarithm of the library and its inverse are regressed out of every gene, between which its
    share of the molecules goes from following depth in full to not at all; what is left
    was invented. For independent genes of n cells it is about ``sqrt(2 / (pi n))``.

    Parameters
    ----------
    values
        As in :func:`mean_absolute_correlation`.
    library
        Total count of each cell, (cells,); an empty cell is taken for as deep as the
        shallowest other one.

    Raises
    ------
    ValueError
        If a library is negative or NaN, all are 0, or their number is not that of the cells.
    """
    dense, depth = as_dense(values).astype(np.float64), np.asarray(library, dtype=np.float64)
    if depth.shape != dense.shape[:1] or not (depth >= 0).all() or not depth.any():
        raise ValueError(
            f"library has shape {depth.shape}, minimum {depth.min(initial=np.inf)} and maximum "
            f"{depth.max(initial=0)}, expected the total count of each of {len(dense)} cells."
        )
    depth = np.maximum(depth, depth[depth > 0].min())
    given = np.stack([np.ones_like(depth), np.log(depth), depth.mean() / depth], axis=1)
    left = dense - given @ np.linalg.lstsq(given, dense, rcond=None)[0]
    # what is rounding beside the values themselves is no variation
    left[:, left.std(0) <= 1e-9 * np.abs(dense).max(0)] = 0
    return mean_absolute_correlation(values=left)


def random_halves(n_cells: int, *, rng: np.random.Generator) -> RandomHalves:
    """Split cells at random into halves between which nothing differs.

    Use the cells of one population only: a type that falls unevenly by chance differs in truth.

    Raises
    ------
    ValueError
        If there are fewer than four cells.
    """
    if n_cells < 4:
        raise ValueError(f"got {n_cells} cells, expected at least 4, two for each half.")
    order = rng.permutation(n_cells).astype(np.int64)
    return RandomHalves(np.sort(order[: n_cells // 2]), np.sort(order[n_cells // 2 :]))


def false_de_fraction(*, log_values: Matrix, halves: RandomHalves, fdr: float = 0.05) -> float:
    """Return the share of genes called different between random halves of one population.

    Welch's t-test per gene on log-normalised values, Benjamini-Hochberg at ``fdr`` over the
    genes that vary; the share is of all genes. Honest estimates give about none; smoothing shares
    one cell's noise with its neighbours and so shrinks the variance the test relies on.

    Parameters
    ----------
    log_values
        (cells, genes) on the log1p scale.
    halves
        From :func:`random_halves`.
    fdr
        False-discovery rate of the test.

    Raises
    ------
    ValueError
        If ``fdr`` is not between 0 and 1.
    """
    first, second = as_dense(log_values[halves.first]), as_dense(log_values[halves.second])
    p = welch_p_values(first=first, second=second)
    return float(called_different(p_values=p[_varying(first, second)], fdr=fdr).sum() / len(p))


def false_positive_rate(*, first: Matrix, second: Matrix, level: float = 0.05) -> float:
    """Return the share of varying genes with p < ``level`` between groups that do not differ.

    It should *be* ``level``, the nominal rate of Welch's test where nothing differs. Two uses:
    shuffled genes (:func:`append_shuffled_genes`) between real cell types, where a method that
    lets types leak into independent genes is far above it; and random halves of one population,
    see :func:`rates_over_halves`.

    Parameters
    ----------
    first, second
        (cells, genes) of the two groups, at least two cells each, on the log1p scale.
    level
        Nominal rate.

    Raises
    ------
    ValueError
        If ``level`` is not between 0 and 1, or no gene varies.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1, such as 0.05.")
    one, two = as_dense(first), as_dense(second)
    varying = _varying(one, two)
    if not varying.any():
        raise ValueError(
            "no gene varies, expected at least one; an estimate that is the same in all cells "
            "has no test to judge."
        )
    return float((welch_p_values(first=one[:, varying], second=two[:, varying]) < level).mean())


def rates_over_halves(
    *, log_values: Matrix, n_draws: int = 20, level: float = 0.05, rng: np.random.Generator
) -> Floats:
    """Return the false-positive rate between each of ``n_draws`` pairs of random halves.

    The halves are drawn after the estimate was made, so its values are exchangeable between them
    and the *mean* is near ``level`` for any method, a bad one too. What a bad one shows is the
    *spread*: if genes share a few invented directions they are false together, none in one draw
    and a third of them in the next. To judge a method's whole work, let it impute each half by
    itself and use :func:`false_positive_rate`.

    Parameters
    ----------
    log_values
        (cells, genes) of one population, on the log1p scale.
    n_draws
        Divisions into halves.
    level
        Nominal rate.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        As :func:`false_positive_rate` and :func:`random_halves`.
    """
    dense = as_dense(log_values)
    draws = (random_halves(len(dense), rng=rng) for _ in range(n_draws))
    return np.array(
        [false_positive_rate(first=dense[a], second=dense[b], level=level) for a, b in draws]
    )


def welch_p_values(*, first: Matrix, second: Matrix) -> Floats:
    """Return Welch's two-sided p value of each gene, (genes,).

    Where neither group varies: 1 if they are equal, 0 if not.

    Parameters
    ----------
    first, second
        (cells, genes) of the two groups, at least two cells each, on the log1p scale.

    References
    ----------
    Welch 1947, doi:10.1093/biomet/34.1-2.28.
    """
    return _welch(first, second)[1]


def welch_t(*, first: Matrix, second: Matrix) -> Floats:
    """Return Welch's t of each gene, (genes,), first minus second: a rank where p is 0.

    Where neither group varies: 0 if they are equal, the largest finite number if not. Parameters
    and errors as :func:`welch_p_values`.
    """
    t = _welch(first, second)[0]
    return np.clip(t, -np.finfo(float).max, np.finfo(float).max)


def _welch(first: Matrix, second: Matrix) -> tuple[Floats, Floats]:
    """Return t and p of each gene; t is infinite where neither group varies and they differ."""
    from scipy.stats import ttest_ind_from_stats  # takes long to import

    one, two = as_dense(first), as_dense(second)
    if min(len(one), len(two)) < 2:
        raise ValueError(
            f"got groups of {len(one)} and {len(two)} cells, expected at least two cells in each."
        )
    # by the values: rounding gives equal ones a mean beside them, and a variance
    difference = one[0] - two[0]
    t = np.where(difference == 0, 0.0, np.copysign(np.inf, difference))
    p = np.where(difference == 0, 1.0, 0.0)
    varies = [np.ptp(group, axis=0) > 0 for group in (one, two)]
    varying = varies[0] | varies[1]
    (mean1, sd1, n1), (mean2, sd2, n2) = (
        (
            np.where(moves, group.mean(0), group[0])[varying],
            np.where(moves, group.std(0, ddof=1), 0)[varying],
            len(group),
        )
        for group, moves in zip((one, two), varies, strict=True)
    )
    test = ttest_ind_from_stats(mean1, sd1, n1, mean2, sd2, n2, equal_var=False)
    t[varying], p[varying] = test.statistic, test.pvalue
    return t, p


def _varying(one: Floats, two: Floats) -> NDArray[np.bool_]:
    """Which genes differ between any two cells of either group, (genes,)."""
    varying: NDArray[np.bool_] = (one != one[0]).any(0) | (two != one[0]).any(0)
    return varying


def called_different(*, p_values: Floats, fdr: float = 0.05) -> NDArray[np.bool_]:
    """Return which genes are different at a false-discovery rate (Benjamini-Hochberg).

    References
    ----------
    Benjamini & Hochberg 1995, doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    if not 0 < fdr < 1:
        raise ValueError(f"fdr is {fdr}, expected a number between 0 and 1, such as 0.05.")
    from scipy.stats import false_discovery_control  # takes long to import

    p = np.asarray(p_values)
    return false_discovery_control(p) <= fdr if p.size else np.zeros(0, dtype=bool)


def other_species_share(*, values: Matrix, cell_species: NDArray, gene_species: NDArray) -> float:
    """Return the share of expression that cells are given in genes of another species.

    ``sum of values at (cell of A, gene of B) / sum of all values``, averaged over cells. A method
    that smooths across species raises it above the raw counts' (ambient RNA); one that lowers it
    removes contamination.

    Parameters
    ----------
    values
        (cells, genes), at least 0, on the count scale.
    cell_species, gene_species
        Species of each cell (cells,) and gene (genes,), by the same names.

    Raises
    ------
    ValueError
        If lengths do not fit or a cell's species has no gene.
    """
    matrix = as_dense(values)
    cells, genes = np.asarray(cell_species), np.asarray(gene_species)
    if matrix.shape != (cells.size, genes.size) or not np.isin(cells, genes).all():
        raise ValueError(
            f"values have shape {matrix.shape} for {cells.size} cells and {genes.size} genes, "
            "expected one species per cell and gene, and genes of every cell's species; "
            "drop doublets and controls."
        )
    foreign = cells[:, None] != genes
    totals = matrix.sum(1)
    share = np.divide(
        (matrix * foreign).sum(1), totals, out=np.zeros_like(totals), where=totals > 0
    )
    return float(share.mean())
