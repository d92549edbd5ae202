"""Simulated data with known truth: Splat, and bulk profiles with dropout noise.

Splat (Zappia et al. 2017, doi:10.1186/s13059-017-1305-0) as ``splatSimulate(method = "groups")``
of splatter 1.29 computes it, step by step::

    genes     m_j ~ Gamma(shape, rate); an outlier: median(m) * logNormal factor
              f_gj  DE factor of group g; h_bj  factor of batch b
              q_j = sqrt(df / chi2_df)
    cells     group g ~ probabilities; L_i ~ logNormal
    base      lambda_ij = L_i m_j h_bj f_gj / sum_j m_j h_bj f_gj
    BCV       B_ij = (common + 1 / sqrt(lambda_ij)) q_j
              r_ij ~ Gamma(shape 1 / B^2, scale lambda B^2)
    counts    t_ij ~ Poisson(r_ij)
    dropout   x_ij = t_ij with probability 1 - sigmoid(k (log r_ij - x0)), else 0

Cells are drawn in blocks with a random stream each, so that memory does not grow with their
number and a matrix is the same in memory and on disk. Differentiation paths are not simulated.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import write_elem
from numpy.typing import NDArray
from scipy.special import expit

from graphsci._splat_params import PRESETS as PRESETS
from graphsci._splat_params import SplatParams as SplatParams
from graphsci.io.files import atomic_path, check_writable
from graphsci.io.streams import SparseWriter

Floats = NDArray[np.float64]

#: Cells of one random stream: a constant, for another number would give other draws.
BLOCK_CELLS = 500


class SplatGenes(NamedTuple):
    """What is drawn once for each gene."""

    base_mean: Floats  #: (genes,)
    outlier_factor: Floats  #: (genes,), 1 for a gene that is no outlier
    mean: Floats  #: (genes,), base or outlier mean
    batch_factors: Floats  #: (batches, genes)
    de_factors: Floats  #: (groups, genes), 1 where the group does not differ
    bcv_factor: Floats  #: (genes,) sqrt(df / chi-square)


class SplatCells(NamedTuple):
    """What is drawn once for each cell."""

    batch: NDArray[np.int64]  #: (cells,)
    group: NDArray[np.int64]  #: (cells,)
    library_size: Floats  #: (cells,) expected


class SplatBlock(NamedTuple):
    """Counts of some cells."""

    true_counts: NDArray[np.int64]  #: (cells, genes) before dropout
    counts: NDArray[np.int64]  #: (cells, genes) after dropout
    rates: Floats  #: (cells, genes) the Poisson rates r


def simulate_splat(params: SplatParams, *, seed: int) -> AnnData:
    """Simulate counts by Splat.

    Parameters
    ----------
    params
        Parameters; :data:`PRESETS` has the paper's.
    seed
        Fixes the result, whatever the memory or the block of cells.

    Returns
    -------
    AnnData, with splatter's names:
        ``X`` counts after dropout and ``layers["TrueCounts"]`` before, (cells, genes) CSR
        float32; ``obs``: Batch, Group, ExpLibSize; ``var``: BaseGeneMean, OutlierFactor,
        GeneMean, BatchFacBatch1.. (with two batches or more), DEFacGroup1..;
        ``uns["sim"]``: simulator, parameters, seed. Genes without a count are kept.
    """
    genes, cells, streams = _draw_design(params, seed)
    blocks = [
        [_to_csr(block.counts), _to_csr(block.true_counts)]
        for block in _blocks(genes, cells, params, streams)
    ]
    counts, true_counts = (sp.csr_matrix(sp.vstack(part)) for part in zip(*blocks, strict=True))
    return AnnData(
        X=counts,
        layers={"TrueCounts": true_counts},
        obs=_obs(cells, params),
        var=_var(genes, params),
        uns=_uns(params, seed),
    )


def simulate_to_disk(
    path: str | os.PathLike[str],
    params: SplatParams,
    *,
    seed: int,
    true_counts: bool = False,
    compression: str | None = "gzip",
) -> Path:
    """Simulate counts of any number of cells straight into an ``.h5ad`` file.

    One block of :data:`BLOCK_CELLS` cells is in memory at a time. The file holds what
    :func:`simulate_splat` returns for the same seed, value for value. It appears under its name
    only when it is complete.

    Parameters
    ----------
    path
        File to write; must end in ``.h5ad``. An existing file is replaced.
    params
        Parameters.
    seed
        Fixes the result.
    true_counts
        Whether to write ``layers["TrueCounts"]`` too.
    compression
        HDF5 filter of the matrices; None writes faster and larger.

    Raises
    ------
    ValueError
        If the name does not end in ``.h5ad``.
    """
    target = check_writable(path, suffixes=(".h5ad",))
    with atomic_path(target) as temporary, h5py.File(temporary, "w") as file:
        _write_file(file, params, seed, true_counts=true_counts, compression=compression)
    return target


def add_exponential_noise(
    bulk: NDArray[np.floating],
    *,
    zero_fraction: float,
    gene_wise: bool = False,
    rng: np.random.Generator,
) -> Floats:
    """Turn bulk profiles into single-cell-like ones: subtract exponential noise, cut at zero.

    ``max(x_ij - e_ij, 0)`` with ``e_ij ~ Exponential(mean c)``. One mean c for all genes, found
    so that the expected share of zeros, the mean of ``exp(-x_ij / c)``, is ``zero_fraction``: a
    low gene then drops out more than a high one. ``gene_wise`` finds a mean for each gene, so
    that high genes drop out as often. The paper's C. elegans experiment, which takes it from
    DCA, with 50-70 % zeros.

    Parameters
    ----------
    bulk
        Expression (samples, genes), at least 0, on the scale that is to be recovered.
    zero_fraction
        Wanted share of zeros, above that of ``bulk`` and below 1.
    gene_wise
        Whether each gene reaches the share by itself. A gene that has more zeros already gets no
        noise, so the share over all genes ends above the wanted one.
    rng
        Source of randomness.

    Raises
    ------
    ValueError
        If values are negative or not finite, or the share cannot be reached.

    References
    ----------
    Eraslan et al. 2019, doi:10.1038/s41467-018-07931-2.
    """
    values = np.asarray(bulk, dtype=np.float64)
    if not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            "bulk holds negative or non-finite values, expected expression of at least 0; "
            "pass counts, TPM or their log1p."
        )
    zeros = float((values == 0).mean())
    if not zeros < zero_fraction < 1:
        raise ValueError(
            f"zero_fraction is {zero_fraction}, expected a number above {zeros:.3f}, the share of "
            "zeros already there, and below 1; noise cannot remove zeros."
        )
    mean = _noise_mean(values if gene_wise else values.reshape(-1, 1), zero_fraction)
    return np.maximum(values - rng.exponential(mean, values.shape), 0)


def log_normal_factors(
    n: int,
    *,
    probability: float,
    down_probability: float,
    loc: float,
    scale: float,
    rng: np.random.Generator,
) -> Floats:
    """Return splatter's factors (``getLNormFactors``): 1, or with a probability logNormal.

    A drawn factor is turned to at least 1, or with ``down_probability`` to at most 1: its
    exponent is -1 if it is to go down, and changes sign if the draw was below 1.

    Parameters
    ----------
    n
        Factors to draw.
    probability, down_probability
        That a factor is not 1, and that such a factor goes down.
    loc, scale
        Location and scale of the log-normal.
    rng
        Source of the draws.
    """
    selected = rng.random(n) < probability
    drawn = rng.lognormal(loc, scale, int(selected.sum()))
    exponent = np.where(rng.random(drawn.size) < down_probability, -1.0, 1.0)
    exponent[drawn < 1] *= -1
    factors = np.ones(n)
    factors[selected] = drawn**exponent
    return factors


def draw_genes(params: SplatParams, *, rng: np.random.Generator) -> SplatGenes:
    """Draw means, outliers, batch and DE factors and the BCV factor of each gene.

    Parameters
    ----------
    params
        Settings of the simulation.
    rng
        Source of the draws.
    """
    n = params.n_genes
    base = rng.gamma(params.mean_shape, 1.0 / params.mean_rate, n)
    outlier = log_normal_factors(
        n,
        probability=params.out_prob,
        down_probability=0.0,
        loc=params.out_fac_loc,
        scale=params.out_fac_scale,
        rng=rng,
    )
    mean = np.where(outlier != 1, np.median(base) * outlier, base)
    return SplatGenes(
        base_mean=base,
        outlier_factor=outlier,
        mean=mean,
        batch_factors=_batch_factors(params, rng),
        de_factors=_de_factors(params, rng),
        bcv_factor=np.sqrt(params.bcv_df / rng.chisquare(params.bcv_df, n)),
    )


def draw_cells(params: SplatParams, *, rng: np.random.Generator) -> SplatCells:
    """Draw the group and the expected library size of each cell.

    Parameters
    ----------
    params
        Settings of the simulation.
    rng
        Source of the draws.
    """
    n = params.n_cells
    return SplatCells(
        batch=np.repeat(np.arange(len(params.batch_cells)), params.batch_cells),
        group=rng.choice(len(params.group_prob), size=n, p=params.group_prob),
        library_size=rng.lognormal(params.lib_loc, params.lib_scale, n),
    )


def draw_counts(
    genes: SplatGenes, cells: SplatCells, params: SplatParams, *, rng: np.random.Generator
) -> SplatBlock:
    """Draw the counts of cells, before and after dropout.

    Parameters
    ----------
    genes, cells
        From :func:`draw_genes` and :func:`draw_cells`.
    params
        Settings of the simulation.
    rng
        Source of the draws.
    """
    base = base_cell_means(genes, cells)  # (cells, genes)
    with np.errstate(divide="ignore"):  # a mean of zero has an infinite BCV and a rate of zero
        bcv = (params.bcv_common + 1.0 / np.sqrt(base)) * genes.bcv_factor
    shape = 1.0 / bcv**2
    rates = rng.gamma(shape) * np.divide(base, shape, out=np.zeros_like(base), where=shape > 0)
    true_counts = rng.poisson(rates)
    if params.dropout_type == "none":
        return SplatBlock(true_counts, true_counts, rates)
    kept = rng.random(rates.shape) >= dropout_probability(rates, params)
    return SplatBlock(true_counts, true_counts * kept, rates)


def base_cell_means(genes: SplatGenes, cells: SplatCells) -> Floats:
    """Return lambda, each cell's expected counts before BCV, (cells, genes).

    Parameters
    ----------
    genes, cells
        From :func:`draw_genes` and :func:`draw_cells`.
    """
    profile = genes.mean * genes.batch_factors[cells.batch] * genes.de_factors[cells.group]
    return profile * (cells.library_size / profile.sum(1))[:, None]


def dropout_probability(rates: Floats, params: SplatParams) -> Floats:
    """Return ``sigmoid(k (log r - x0))``, k the shape and x0 the midpoint.

    Parameters
    ----------
    rates
        Expected counts before dropout, of any shape.
    params
        Settings with the midpoint x0 and the shape k of the curve.
    """
    with np.errstate(divide="ignore"):  # a rate of zero: log is -inf, the probability 1 (k < 0)
        return expit(params.dropout_shape * (np.log(rates) - params.dropout_mid))


def _batch_factors(params: SplatParams, rng: np.random.Generator) -> Floats:
    """Return the factor of each batch and gene; ones for a single batch."""
    if len(params.batch_cells) == 1:
        return np.ones((1, params.n_genes))
    draws = [
        log_normal_factors(
            params.n_genes,
            probability=1.0,
            down_probability=0.5,
            loc=params.batch_fac_loc,
            scale=params.batch_fac_scale,
            rng=rng,
        )
        for _ in params.batch_cells
    ]
    return np.stack(draws)


def _de_factors(params: SplatParams, rng: np.random.Generator) -> Floats:
    """Return the factor of each group and gene; ones for a single group."""
    if len(params.group_prob) == 1:
        return np.ones((1, params.n_genes))
    draws = [
        log_normal_factors(
            params.n_genes,
            probability=params.de_prob,
            down_probability=params.de_down_prob,
            loc=params.de_fac_loc,
            scale=params.de_fac_scale,
            rng=rng,
        )
        for _ in params.group_prob
    ]
    return np.stack(draws)


def _draw_design(
    params: SplatParams, seed: int
) -> tuple[SplatGenes, SplatCells, list[np.random.SeedSequence]]:
    """Draw genes and cells, and return a random stream for each block of cells."""
    n_blocks = -(-params.n_cells // BLOCK_CELLS)
    design, *streams = np.random.SeedSequence(seed).spawn(1 + n_blocks)
    rng = np.random.default_rng(design)
    return draw_genes(params, rng=rng), draw_cells(params, rng=rng), streams


def _blocks(
    genes: SplatGenes,
    cells: SplatCells,
    params: SplatParams,
    streams: list[np.random.SeedSequence],
) -> Iterator[SplatBlock]:
    """Yield the counts of the cells, block by block."""
    for index, stream in enumerate(streams):
        rows = slice(index * BLOCK_CELLS, (index + 1) * BLOCK_CELLS)
        some = SplatCells(cells.batch[rows], cells.group[rows], cells.library_size[rows])
        yield draw_counts(genes, some, params, rng=np.random.default_rng(stream))


def _to_csr(counts: NDArray[np.int64]) -> sp.csr_matrix:
    """Return counts as CSR float32, the form the package works on."""
    return sp.csr_matrix(counts.astype(np.float32))


def _obs(cells: SplatCells, params: SplatParams) -> pd.DataFrame:
    """Return splatter's ``colData``."""
    batches = [f"Batch{i + 1}" for i in range(len(params.batch_cells))]
    groups = [f"Group{i + 1}" for i in range(len(params.group_prob))]
    return pd.DataFrame(
        {
            "Batch": pd.Categorical.from_codes(cells.batch, categories=pd.Index(batches)),
            "Group": pd.Categorical.from_codes(cells.group, categories=pd.Index(groups)),
            "ExpLibSize": cells.library_size,
        },
        index=[f"Cell{i + 1}" for i in range(params.n_cells)],
    )


def _var(genes: SplatGenes, params: SplatParams) -> pd.DataFrame:
    """Return splatter's ``rowData``."""
    columns = {
        "BaseGeneMean": genes.base_mean,
        "OutlierFactor": genes.outlier_factor,
        "GeneMean": genes.mean,
    }
    if len(params.batch_cells) > 1:
        columns |= {f"BatchFacBatch{i + 1}": f for i, f in enumerate(genes.batch_factors)}
    columns |= {f"DEFacGroup{i + 1}": f for i, f in enumerate(genes.de_factors)}
    return pd.DataFrame(columns, index=[f"Gene{i + 1}" for i in range(params.n_genes)])


def _uns(params: SplatParams, seed: int) -> dict[str, Any]:
    """Return the record of the simulation; tuples become arrays, which HDF5 can hold."""
    values = {
        name: np.asarray(value) if isinstance(value, tuple) else value
        for name, value in asdict(params).items()
    }
    return {"sim": {"simulator": "graphsci Splat", "seed": seed, "params": values}}


def _write_file(
    file: h5py.File,
    params: SplatParams,
    seed: int,
    *,
    true_counts: bool,
    compression: str | None,
) -> None:
    """Write an AnnData file, the matrices block by block."""
    genes, cells, streams = _draw_design(params, seed)
    write_elem(file, "/", AnnData(sp.csr_matrix((1, 1))))  # for the groups that a file must have
    file.pop("raw", None)  # anndata writes an empty one for None
    del file["X"]
    write_elem(file, "obs", _obs(cells, params))
    write_elem(file, "var", _var(genes, params))
    write_elem(file, "uns", _uns(params, seed))
    names = ["X", "layers/TrueCounts"] if true_counts else ["X"]
    writers = [SparseWriter(file, name, compression=compression) for name in names]
    for block in _blocks(genes, cells, params, streams):
        for writer, counts in zip(writers, (block.counts, block.true_counts), strict=False):
            writer.append(_to_csr(counts))


def _noise_mean(values: Floats, zero_fraction: float) -> Floats:
    """Return c with ``mean(exp(-x / c)) = zero_fraction`` of each column, by bisection on log c.

    0 for a column that has as many zeros without noise.
    """
    reachable = (values == 0).mean(0) < zero_fraction
    positive = np.where(values > 0, values, np.nan)[:, reachable]
    low, high = np.log(np.nanmin(positive, 0) * 1e-3), np.log(np.nanmax(positive, 0) * 1e6)
    for _ in range(60):  # of a range of less than exp(70), to less than 1e-12 of c
        middle = (low + high) / 2
        few = np.exp(-values[:, reachable] / np.exp(middle)).mean(0) < zero_fraction
        low, high = np.where(few, middle, low), np.where(few, high, middle)
    mean = np.zeros(values.shape[1])
    mean[reachable] = np.exp((low + high) / 2)
    return mean
