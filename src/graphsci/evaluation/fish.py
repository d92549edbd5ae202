"""Single-molecule FISH as truth: variation of genes, and their correlations.

Its cells are others of the same population, and its molecules are not those that a method was
given, so no method can overfit to it; it has an error of its own, which is reported.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from graphsci.predictions import Floats, Matrix, as_dense


class FishTruth(NamedTuple):
    """What single-molecule FISH says of a few genes of one population."""

    genes: tuple[str, ...]
    cv: Floats  #: (genes,) standard deviation / mean over cells
    pairs: tuple[tuple[str, str], ...]  #: genes that were counted in the same cells
    correlation: Floats  #: (pairs,) Pearson's r over cells
    n_cells: NDArray[np.int64]  #: (pairs,) cells behind each correlation


class Moments(NamedTuple):
    """Variation of genes over cells."""

    cv: Floats  #: (genes,) standard deviation / mean; 0 for a gene that does not vary
    correlation: Floats  #: (genes, genes) Pearson's r; 0 for a gene that does not vary


class FishScores(NamedTuple):
    """Agreement of an estimate with single-molecule FISH."""

    cv_error: float  #: see :func:`cv_error`
    correlation_error: float  #: see :func:`correlation_error`
    genes: tuple[str, ...]  #: genes that both have
    cv: Floats  #: (genes,) of the estimate
    pairs: tuple[tuple[str, str], ...]  #: pairs that both have
    correlation: Floats  #: (pairs,) of the estimate


def fish_truth(*, tables: Sequence[pd.DataFrame], size: str | None = "Area") -> FishTruth:
    """Return CVs and correlations of genes counted two at a time in the same cells.

    Parameters
    ----------
    tables
        One for each pair of genes: a column of molecules for each of two genes, a row for each
        cell, and perhaps the cell's size.
    size
        Column of the cell's size. Counts are divided by it, as sequenced counts are by the
        library size: large cells hold more of everything, and that correlates all genes. None
        compares molecules per cell. The squared CVs of a gene in several tables are averaged,
        weighted by cells.

    Raises
    ------
    ValueError
        If a table has not two genes, has fewer than three cells, or holds bad counts or sizes.

    References
    ----------
    Gruen et al. 2014, doi:10.1038/nmeth.2930 (the experiment this is written for).
    """
    squares: dict[str, list[tuple[float, int]]] = {}
    pairs, correlations, n_cells = [], [], []
    for table in tables:
        names, values = _fish_values(table, size)
        found = moments(values=values)
        pairs.append(names)
        correlations.append(float(found.correlation[0, 1]))
        n_cells.append(len(values))
        for name, cv in zip(names, found.cv, strict=True):
            squares.setdefault(name, []).append((float(cv) ** 2, len(values)))
    cv = [
        np.sqrt(np.average([square for square, _ in found], weights=[n for _, n in found]))
        for found in squares.values()
    ]
    return FishTruth(
        tuple(squares), np.array(cv), tuple(pairs), np.array(correlations), np.array(n_cells)
    )


def moments(*, values: Matrix, variance: Matrix | None = None) -> Moments:
    """Return CVs and correlations of estimates over cells.

    Parameters
    ----------
    values
        (cells, genes), at least two cells: rates or normalised counts, *not* logarithms, at a
        common depth. Choose the genes first: (genes, genes) are computed.
    variance
        (cells, genes) posterior variance of each value. The mean of a posterior varies less than
        what it estimates; with this, by the law of total variance, the moments are those of draws
        from the posterior, independent between genes.

    Raises
    ------
    ValueError
        If the variance has another shape, or is below 0 or not finite somewhere.
    """
    dense = as_dense(values)
    covariance = np.atleast_2d(np.cov(dense.T))
    if variance is not None:
        own = as_dense(variance)
        if own.shape != dense.shape or not (np.isfinite(own) & (own >= 0)).all():
            raise ValueError(
                f"variance has shape {own.shape} and minimum {own.min(initial=np.inf):.3g}, "
                f"expected {dense.shape} finite numbers of at least 0."
            )
        covariance = covariance + np.diag(own.mean(0))
    return _moments(dense.mean(0), covariance)


def moments_without_counting_noise(*, counts: Matrix, size_factors: ArrayLike) -> Moments:
    """Return CVs and correlations of the rates behind Poisson counts, without imputing any.

    The control that a method must beat. With ``x_ij ~ Poisson(s_i r_ij)`` and ``c = x / s`` the
    variance of r is ``Var(c) - mean(c / s)``, and covariances of c are those of r. A variance
    below 0, possible by chance, is taken as 0; correlations are cut at -1 and 1.

    Parameters
    ----------
    counts
        (cells, genes) raw counts of the chosen genes.
    size_factors
        (cells,) above 0: library size over all genes / its median.

    Raises
    ------
    ValueError
        If there is not one positive size factor per cell.
    """
    sizes, x = np.asarray(size_factors, dtype=np.float64), as_dense(counts)
    if sizes.shape != (len(x),) or not (sizes > 0).all():
        raise ValueError(
            f"size_factors have shape {sizes.shape} and minimum {sizes.min(initial=np.inf)}, "
            f"expected {len(x)} positive numbers, one per cell; leave out cells without counts."
        )
    scaled = x / sizes[:, None]
    covariance = np.atleast_2d(np.cov(scaled.T))
    np.fill_diagonal(covariance, covariance.diagonal() - (scaled / sizes[:, None]).mean(0))
    return _moments(scaled.mean(0), covariance)


def score_against_fish(*, moments: Moments, genes: Sequence[str], truth: FishTruth) -> FishScores:
    """Compare moments of some genes with single-molecule FISH, on the genes that both have.

    Parameters
    ----------
    moments
        Of the estimate (:func:`moments`) or of the counts.
    genes
        Names of the genes of ``moments``.
    truth
        From :func:`fish_truth`.

    Raises
    ------
    ValueError
        If no pair of genes is in both.
    """
    place = {gene: index for index, gene in enumerate(genes)}
    shared = [index for index, gene in enumerate(truth.genes) if gene in place]
    both = [index for index, pair in enumerate(truth.pairs) if set(pair) <= set(place)]
    if not both:
        raise ValueError(
            f"none of the {len(truth.pairs)} pairs of the truth is among {len(place)} genes, "
            "expected at least one; check that both name genes alike."
        )
    names = tuple(truth.genes[index] for index in shared)
    pairs = tuple(truth.pairs[index] for index in both)
    cv = moments.cv[[place[name] for name in names]]
    r = np.array([moments.correlation[place[one], place[two]] for one, two in pairs])
    return FishScores(
        cv_error(estimated=cv, truth=truth.cv[shared]),
        correlation_error(estimated=r, truth=truth.correlation[both]),
        names,
        cv,
        pairs,
        r,
    )


def cv_error(*, estimated: ArrayLike, truth: ArrayLike) -> float:
    """Return the mean of ``|a - b| / (a + b)`` over coefficients of variation.

    0 for equal ones, 1/3 for a factor of two either way, 1 for a gene that does not vary in one
    of the two. It is ``tanh(|log(a / b)| / 2)``: a log ratio that has a limit.

    Parameters
    ----------
    estimated, truth
        (genes,) at least 0.
    """
    a, b = _numbers(estimated, truth)
    total = np.where(a + b > 0, a + b, 1.0)
    return float((np.abs(a - b) / total).mean())


def correlation_error(*, estimated: ArrayLike, truth: ArrayLike) -> float:
    """Return the mean absolute difference between correlations, (pairs,) each."""
    a, b = _numbers(estimated, truth)
    return float(np.abs(a - b).mean())


def _fish_values(table: pd.DataFrame, size: str | None) -> tuple[tuple[str, str], Floats]:
    """Return the names and (cells, 2) sizes-corrected molecules of a table, or refuse it."""
    names = [str(column) for column in table.columns if column != size]
    if len(names) != 2 or (size is not None and size not in table.columns) or len(table) < 3:
        raise ValueError(
            f"a table has columns {', '.join(map(str, table.columns))} and {len(table)} cells, "
            f"expected two genes and {size!r}, and at least three cells; pass size=None if no "
            "sizes were measured."
        )
    values = table[names].to_numpy(dtype=np.float64)
    sizes = np.ones(len(table)) if size is None else table[size].to_numpy(dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and (sizes > 0).all()):
        raise ValueError(
            f"the table of {names[0]} and {names[1]} holds missing or negative molecules or sizes, "
            "expected molecules of at least 0 and sizes above 0; drop those cells."
        )
    return (names[0], names[1]), values / sizes[:, None]


def _moments(mean: Floats, covariance: Floats) -> Moments:
    """Return CVs and correlations; 0 where nothing varies."""
    variance = np.maximum(covariance.diagonal(), 0.0)
    varying = (variance > 1e-12 * mean**2) & (mean > 0)
    sd = np.sqrt(np.where(varying, variance, 1.0))
    cv = np.where(varying, sd / np.where(mean > 0, mean, 1.0), 0.0)
    r = np.clip(covariance / np.outer(sd, sd), -1.0, 1.0) * np.outer(varying, varying)
    np.fill_diagonal(r, varying.astype(np.float64))
    return Moments(cv, r)


def _numbers(estimated: ArrayLike, truth: ArrayLike) -> tuple[Floats, Floats]:
    """Return two vectors of one length, or refuse them."""
    a, b = (np.asarray(values, dtype=np.float64) for values in (estimated, truth))
    if a.shape != b.shape or a.ndim != 1 or not a.size or not np.isfinite([a, b]).all():
        raise ValueError(
            f"got {a.shape} estimated and {b.shape} true values, expected finite numbers for the "
            "same genes or pairs, at least one."
        )
    return a, b
