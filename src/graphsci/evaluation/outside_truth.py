"""Truth from another instrument: single-molecule FISH, surface proteins, deeper sequencing.

None of them counts the molecules that a method was given, so no method can overfit to them; each
has an error and a scale of its own, which the functions state.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from graphsci.evaluation import metrics
from graphsci.evaluation._blocks import Floats, Matrix, as_dense

#: Library size that profiles of different depth are compared at, before log1p.
LIBRARY_SIZE = 10_000.0


# --- single-molecule FISH ---------------------------------------------------------------


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


def moments(*, values: Matrix) -> Moments:
    """Return CVs and correlations of estimates over cells.

    Parameters
    ----------
    values
        (cells, genes), at least two cells: rates or normalised counts, *not* logarithms, at a
        common depth. Choose the genes first: (genes, genes) are computed.
    """
    dense = as_dense(values)
    return _moments(dense.mean(0), np.atleast_2d(np.cov(dense.T)))


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


# --- surface proteins -------------------------------------------------------------------

#: The gene of surface proteins that one gene decides, by antibody name without its panel's
#: suffix; HGNC symbols. Left out: CD15 (a sugar), CD45RA and CD45RO (splice forms of one gene).
PROTEIN_GENES = {
    "CD2": "CD2",
    "CD3": "CD3E",
    "CD4": "CD4",
    "CD5": "CD5",
    "CD8": "CD8A",
    "CD8A": "CD8A",
    "CD10": "MME",
    "CD11B": "ITGAM",
    "CD11C": "ITGAX",
    "CD14": "CD14",
    "CD16": "FCGR3A",
    "CD19": "CD19",
    "CD20": "MS4A1",
    "CD25": "IL2RA",
    "CD27": "CD27",
    "CD28": "CD28",
    "CD34": "CD34",
    "CD38": "CD38",
    "CD56": "NCAM1",
    "CD57": "B3GAT1",
    "CD62L": "SELL",
    "CD69": "CD69",
    "CD80": "CD80",
    "CD86": "CD86",
    "CD127": "IL7R",
    "CD137": "TNFRSF9",
    "CD161": "KLRB1",
    "CD197": "CCR7",
    "CCR7": "CCR7",
    "CD274": "CD274",
    "CD278": "ICOS",
    "CD335": "NCR1",
    "PD-1": "PDCD1",
    "HLA-DR": "HLA-DRA",
    "TIGIT": "TIGIT",
}


class ProteinPairs(NamedTuple):
    """Proteins and the genes that make them."""

    proteins: NDArray[np.int64]  #: (pairs,) positions among the proteins
    genes: NDArray[np.int64]  #: (pairs,) positions among the genes
    names: tuple[str, ...]  #: (pairs,) gene symbols


def match_proteins(*, proteins: Sequence[str], genes: Sequence[str]) -> ProteinPairs:
    """Match antibodies to the genes of their proteins, by :data:`PROTEIN_GENES`.

    Parameters
    ----------
    proteins
        Names of antibodies; what follows an underscore (``CD3_TotalSeqB``) is ignored.
    genes
        Gene symbols of the data.

    Raises
    ------
    ValueError
        If no pair is found.
    """
    place = {gene: index for index, gene in enumerate(genes)}
    wanted = [PROTEIN_GENES.get(name.split("_")[0].upper()) for name in proteins]
    found = [
        (index, place[gene], gene)
        for index, gene in enumerate(wanted)
        if gene is not None and gene in place
    ]
    if not found:
        raise ValueError(
            f"none of {len(proteins)} antibodies could be matched to {len(place)} genes, expected "
            "names such as CD3 or CD3_TotalSeqB and human gene symbols."
        )
    protein, gene, names = zip(*found, strict=True)
    return ProteinPairs(np.array(protein), np.array(gene), names)


def centred_log_ratio(counts: Matrix) -> Floats:
    """Return ``log1p(x) - mean over proteins of log1p(x)``, each cell by itself.

    Parameters
    ----------
    counts
        Antibody counts (cells, proteins), all of the panel.

    References
    ----------
    Stoeckius et al. 2017, doi:10.1038/nmeth.4380.
    """
    logs = np.log1p(as_dense(counts))
    return logs - logs.mean(1, keepdims=True)


def protein_rna_correlation(*, expression: Matrix, proteins: Matrix) -> Floats:
    """Return Spearman's correlation over cells of each gene with its own protein, (pairs,).

    Both vary between cell types, so an estimate that knows the type alone scores well; repeat it
    within a type to see more.

    Parameters
    ----------
    expression
        Estimates (cells, pairs), the genes of :func:`match_proteins` in their order, normalised.
    proteins
        (cells, pairs), see :func:`centred_log_ratio`.

    Raises
    ------
    ValueError
        If shapes differ.
    """
    return metrics.spearman_per_gene(estimate=expression, truth=proteins)


# --- the same cells, sequenced deeper ---------------------------------------------------


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
    pair = [metrics.on_scale(m, scale="log1p", library_size=library_size) for m in (estimate, true)]
    errors = _log_errors(estimate, true, library_size)[:, judged]
    true, counts, (a, b) = true[:, judged], counts[:, judged], (m[:, judged] for m in pair)
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
    if known.shape != (len(matrix),) or not np.isin(asked, known).all():
        raise ValueError(
            f"{known.size} groups for {len(matrix)} cells, and {np.isin(asked, known).sum()} of "
            f"{asked.size} wanted groups are among them, expected one per cell and all of them."
        )
    totals = matrix.sum(1)
    share = matrix / np.where(totals > 0, totals, 1.0)[:, None]
    names, place = np.unique(asked, return_inverse=True)
    means = np.stack([share[(known == name) & (totals > 0)].mean(0) for name in names])
    return means[place]


def _log_errors(estimate: Matrix, truth: Matrix, library_size: float) -> Floats:
    """Return absolute differences on the log1p scale, (cells, genes)."""
    pair = [
        metrics.on_scale(m, scale="log1p", library_size=library_size) for m in (estimate, truth)
    ]
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"estimate has shape {pair[0].shape} and truth {pair[1].shape}, expected the same "
            "(cells, genes); align cells and genes first."
        )
    return np.abs(pair[0] - pair[1])


def _mean_where(values: Floats, chosen: NDArray[np.bool_]) -> float:
    """Return the mean over chosen entries, NaN if there are none."""
    return float(values[chosen].mean()) if chosen.any() else float("nan")


def _median(values: Floats) -> float:
    """Return the median of what could be computed, NaN if nothing could."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")
