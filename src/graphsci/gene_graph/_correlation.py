"""Correlation of genes in blocks: the kernels behind `gene_graph`, and their p-values.

Standardised columns are stored as sparse minus low rank; only dense tiles of some genes x some
cells are ever made. `_edges` turns the weights into edges.
"""

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, sparse, special

from graphsci.gene_graph._edges import Block, Edges, FloatArray, blocks
from graphsci.gene_graph._inputs import refuse_negative

CELL_CHUNK = 4096  #: cells per dense tile: 2048 genes x 4096 cells x 4 bytes = 32 MiB
GENE_BLOCK = 2048  #: genes per dense tile; larger gains no speed
COEXPRESSED_GENE_BLOCK = 1024  #: six accumulators per pair of blocks instead of one
ORDERS = (2, 3, 4, 5, 6)  #: moments behind p-values; the last must be even
CHERNOFF_STEPS = 12  #: trial points of the bound; doubling them gains 1 % of log p
PAIR_CHUNK = 1 << 14  #: pairs whose p-values are bounded at once: 128 KiB for each array
CONSTANT = 1e-10  #: a variance below this share of the mean square is rounding error
MIN_RELATIVE_VARIANCE = 1e-3  #: same for float32 sums over a pair's common cells

# ----------------------------------------------------------------------------
# Standardised columns, one dense tile at a time
# ----------------------------------------------------------------------------


class Moments(NamedTuple):
    """Moments of standardised columns."""

    powers: NDArray[np.float64]  #: (orders, genes): mean of z^k for k in ORDERS
    peak: NDArray[np.float64]  #: (genes,): largest abs(z)


class Standardised(NamedTuple):
    """Columns of zero mean and unit norm, stored as sparse minus low rank.

    Dense values are ``values - design @ loadings``; only tiles are ever made.
    """

    values: sparse.csc_matrix  #: (cells, kept genes) float32
    design: NDArray[np.float32]  #: (cells, q): what was regressed out
    loadings: NDArray[np.float32]  #: (q, kept genes)
    genes: NDArray[np.intp]  #: (kept genes,): their index in the data
    norms: NDArray[np.float64]  #: (kept genes,): the columns' norms before scaling

    def tiles(self, block: Block) -> Iterator[NDArray[np.float32]]:
        """Yield dense (cell chunk, block) tiles, from the first cell to the last."""
        values = self.values[:, block].tocsr()
        loadings = self.loadings[:, block]
        for chunk in blocks(values.shape[0], CELL_CHUNK):
            tile = values[chunk].toarray(order="C")  # (chunk, block)
            # tile -= design @ loadings in place: a temporary as large costs more than the product
            yield linalg.blas.sgemm(
                -1, loadings.T, self.design[chunk].T, beta=1, c=tile.T, overwrite_c=True
            ).T

    def keep(self, kept: NDArray[np.bool_]) -> "Standardised":
        """Return the columns where ``kept`` is true."""
        return self._replace(
            values=self.values[:, kept],
            loadings=self.loadings[:, kept],
            genes=self.genes[kept],
            norms=self.norms[kept],
        )

    def moments(self) -> "Moments":
        """Return moments over cells of z, the columns at unit variance."""
        n_cells, n_genes = self.values.shape
        powers, peak = np.zeros((len(ORDERS), n_genes)), np.zeros(n_genes)
        for block in blocks(n_genes, GENE_BLOCK):
            for tile in self.tiles(block):
                tile *= np.float32(np.sqrt(n_cells))
                peak[block] = np.maximum(peak[block], np.abs(tile).max(axis=0))
                power = tile
                for index in range(len(ORDERS)):
                    power = power * tile
                    powers[index, block] += power.sum(axis=0, dtype=np.float64)
        return Moments(powers / n_cells, peak)

    def inflation(self) -> float:
        """Return n sum_c v_c^2 / (sum_c v_c)^2, v_c the mean square of cell c; at least 1.

        The variance of sum_c z_ci z_cj under independence, in units of n, when
        some cells (the deep or the shallow ones) vary more than others in all
        genes.
        """
        n_cells = self.values.shape[0]
        squares = np.zeros(n_cells)
        for block in blocks(len(self.genes), GENE_BLOCK):
            squares += np.concatenate([np.sum(tile**2, axis=1) for tile in self.tiles(block)])
        return float(max(n_cells * np.sum(squares**2) / max(np.sum(squares), 1e-30) ** 2, 1.0))


def standardise(values: sparse.csc_matrix, design: FloatArray) -> Standardised:
    """Regress ``design`` (cells, q) out of every column and scale to unit norm.

    Columns that the design explains entirely (constant genes) are left out.
    Sums run in float64.
    """
    basis = linalg.orth(design)  # (cells, q), collinear columns merged
    loadings, norms = _project(values, basis)
    residual = norms - np.sum(loadings**2, axis=0)
    kept = np.flatnonzero(residual > CONSTANT * norms)
    norms = np.sqrt(residual[kept])
    return Standardised(
        _scale_columns(values[:, kept], 1 / norms),
        basis.astype(np.float32),
        (loadings[:, kept] / norms).astype(np.float32),
        kept,
        norms,
    )


def _project(
    values: sparse.csc_matrix, basis: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return basis^T values (q, genes) and column sums of squares (genes,), in float64."""
    n_cells, n_genes = values.shape
    loadings = np.zeros((basis.shape[1], n_genes))
    norms = np.zeros(n_genes)
    for block in blocks(n_genes, GENE_BLOCK):
        part = values[:, block].astype(np.float64)
        loadings[:, block] = (part.T @ basis).T
        norms[block] = part.power(2).T @ np.ones(n_cells)
    return loadings, norms


def _scale_columns(values: sparse.csc_matrix, scale: FloatArray) -> sparse.csc_matrix:
    """Multiply column j by ``scale[j]``; float32."""
    factors = np.repeat(scale.astype(np.float32), np.diff(values.indptr))
    data = values.data.astype(np.float32) * factors
    return sparse.csc_matrix((data, values.indices, values.indptr), shape=values.shape)


def rate_residuals(
    counts: sparse.csc_matrix,
    size_factors: NDArray[np.float64],
    batch: NDArray[Any],
    min_variance_z: float,
    caution: float,
) -> tuple[Standardised, NDArray[np.float64]]:
    """Return the residuals e of ``noise_corrected_graph`` and their reliability.

    Only genes whose excess variance is above ``min_variance_z`` standard
    errors are kept; their reliability is ``caution`` errors above its estimate.
    """
    root = np.sqrt(size_factors)
    of_batch = batch[:, None] == np.unique(batch)
    design = np.hstack([of_batch * root[:, None], of_batch / root[:, None]])
    residuals = standardise(_scale_rows(counts, 1 / root), design)
    excess, error = _excess_variance(counts, residuals, size_factors)
    kept = excess > min_variance_z * error
    reliability = (excess + caution * error)[kept] / residuals.norms[kept] ** 2
    return residuals.keep(kept), np.minimum(reliability, 1)


def _excess_variance(
    counts: sparse.csc_matrix, residuals: Standardised, size_factors: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum_c t and its standard error, t = e^2 - x/s; both (kept genes,).

    Under the Poisson law Var t = 2 m^2, m the mean rate (Dean & Lawless 1989).
    The error is the larger of that and the empirical sqrt(sum t^2), which
    keeps one outlying cell from passing for variation. The factor 1 - q/n
    pays for the q fitted parameters, two for each batch.
    """
    n_cells, n_genes = len(size_factors), len(residuals.genes)
    n_fitted = residuals.design.shape[1]
    excess, squares = np.zeros(n_genes), np.zeros(n_genes)
    for block in blocks(n_genes, GENE_BLOCK):
        rates = _scale_rows(counts[:, residuals.genes[block]], 1 / size_factors).tocsr()
        chunks = blocks(n_cells, CELL_CHUNK)
        for chunk, tile in zip(chunks, residuals.tiles(block), strict=True):
            terms = (tile * residuals.norms[block]) ** 2  # (chunk, block) float64
            terms -= (1 - n_fitted / n_cells) * rates[chunk].toarray()
            excess[block] += terms.sum(axis=0)
            squares[block] += (terms**2).sum(axis=0)
    totals = counts[:, residuals.genes].T @ np.ones(n_cells)
    poisson = 2 * n_cells * (totals / size_factors.sum()) ** 2
    return excess, np.sqrt(np.maximum(squares, poisson))


def _scale_rows(values: sparse.csc_matrix, scale: NDArray[np.float64]) -> sparse.csc_matrix:
    """Multiply row i by ``scale[i]``; float32."""
    data = values.data * scale.astype(np.float32)[values.indices]
    return sparse.csc_matrix((data, values.indices, values.indptr), shape=values.shape)


# ----------------------------------------------------------------------------
# Kernels: the weights between two blocks of genes, and their p-values
# ----------------------------------------------------------------------------


class StandardisedKernel:
    """Inner products of standardised columns, times a gain per gene."""

    block_size = GENE_BLOCK

    def __init__(
        self,
        columns: Standardised,
        *,
        gain: FloatArray | None = None,
    ) -> None:
        self.columns = columns
        self.genes = columns.genes
        self.gain = np.ones(len(columns.genes)) if gain is None else gain
        self.moments = Moments(np.zeros((len(ORDERS), 0)), np.zeros(0))
        self.inflation = 1.0

    def prepare(self) -> None:
        """Compute the genes' moments and the variance inflation."""
        self.moments, self.inflation = self.columns.moments(), self.columns.inflation()

    def pair(self, left: Block, right: Block) -> tuple[NDArray[np.float32], None]:
        """Return gain_i gain_j sum_c z_ci z_cj; (left, right)."""
        total: Any = np.float32(0)
        for z_left, z_right in zip(
            self.columns.tiles(left), self.columns.tiles(right), strict=True
        ):
            total = total + z_left.T @ z_right
        total *= self.gain[left, None].astype(np.float32)
        total *= self.gain[right].astype(np.float32)
        return total, None

    def log_p(self, edges: Edges, support: NDArray[np.float32] | None) -> FloatArray:
        """Return the bound on log P(abs(r) this large), before the gain."""
        row, column, weight = edges
        r = weight / (self.gain[row] * self.gain[column])
        powers, peak = self.moments
        products = Moments(powers[:, row] * powers[:, column], peak[row] * peak[column])
        return _log_p_chernoff(r, products, self.columns.values.shape[0], self.inflation)


def _log_p_chernoff(
    r: FloatArray, products: Moments, n_cells: int, inflation: float = 1.0
) -> NDArray[np.float64]:
    r"""Bound the log p-value of correlations between independent genes of any distribution.

    S = n r is a sum of n terms z_i z_j. When the genes are independent the
    k-th moment of a term is the product kappa_k of the genes' own, kappa_1 = 0,
    and the terms are bounded by M. Chernoff's inequality, the exponential
    series written out to order K and its rest bounded by M:

    .. math::
        \log P(|S| \ge n |r|) &\le \log 2 + \min_{\theta > 0}
            n \left(\psi(\theta) - \theta |r|\right) \\
        \psi(\theta) &= \sum_{k=2}^{K} \frac{(\pm\theta)^k}{k!} \kappa_k
            + \frac{\kappa_K}{M^K} \sum_{k > K} \frac{(\theta M)^k}{k!}

    with the sign of r; K = 2 would be Bennett's inequality (1962,
    doi:10.1080/01621459.1962.10482149). For two rarely detected genes this is
    the Poisson tail of the number of common cells, where Fisher's z is wrong
    by orders of magnitude; for normal variables it is the normal tail. Any
    theta gives a valid bound; a few between the optima of these two cases
    are tried. ``inflation`` multiplies psi (see ``Standardised.inflation``).

    Parameters
    ----------
    r
        (pairs,).
    products
        Products of the two genes' moments and peaks; (orders, pairs), (pairs,).
    """
    log_p = np.empty(len(r))
    for part in blocks(len(r), PAIR_CHUNK):
        of_part = Moments(products.powers[:, part], products.peak[part])
        log_p[part] = _log_p_chernoff_part(r[part], of_part, n_cells, inflation)
    return log_p


def _log_p_chernoff_part(
    r: FloatArray, products: Moments, n_cells: int, inflation: float
) -> NDArray[np.float64]:
    """Work on so many pairs that the cache holds them."""
    strength, sign = np.abs(r).astype(np.float64), np.sign(r)
    kappa, peak = products
    log_small = np.log(np.log1p(peak * strength / inflation) / peak)  # optimum for K = 2
    log_large = np.log(strength / inflation)  # optimum for normal variables
    tail = kappa[-1] / peak ** ORDERS[-1]
    best = np.zeros(len(r))
    for step in np.linspace(0, 1, CHERNOFF_STEPS):
        theta = np.exp(log_small + step * (log_large - log_small))
        signed = sign * theta
        series = np.zeros(len(r))  # of psi, by Horner's rule
        for order, moment in zip(reversed(ORDERS), reversed(kappa), strict=True):
            series = series * signed + moment / math.factorial(order)
        psi = series * theta**2 + tail * _exponential_rest(theta * peak, ORDERS[-1])
        best = np.minimum(best, n_cells * (inflation * psi - theta * strength))
    return np.minimum(np.log(2) + best, 0)


def _exponential_rest(y: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Return sum_{k > order} y^k / k!, infinite where it overflows."""
    head = np.ones_like(y)
    for k in range(order, 0, -1):
        head = head * y / k + 1
    with np.errstate(over="ignore"):
        return np.maximum(np.exp(y) - head, 0)


def pearson_kernel(values: sparse.csc_matrix, min_cells: int) -> StandardisedKernel:
    """Pearson correlation over all cells."""
    columns = standardise(values, np.ones((values.shape[0], 1)))
    detected = np.diff(values.indptr)[columns.genes]
    return StandardisedKernel(columns.keep(detected >= min_cells))


class CoexpressedKernel:
    r"""Pearson correlation over the cells in which both genes are detected.

    With b = 1 where a gene is detected and z its value there (0 elsewhere),
    every sum over common cells is a matrix product:

    .. math:: n = b_i^T b_j, \; S_i = z_i^T b_j, \; S_j = b_i^T z_j, \;
              Q_i = (z_i^2)^T b_j, \; Q_j = b_i^T z_j^2, \; P = z_i^T z_j

    .. math:: r = \frac{n P - S_i S_j}{\sqrt{(n Q_i - S_i^2)(n Q_j - S_j^2)}}

    z is standardised over the gene's own detected cells, so that the sums are
    well conditioned in float32. A pair whose common cells show no variance in
    one of the genes has weight 0.
    """

    block_size = COEXPRESSED_GENE_BLOCK

    def __init__(self, values: sparse.csc_matrix, genes: NDArray[np.intp], min_cells: int) -> None:
        self.values = values  #: (cells, kept genes): z
        self.detected = sparse.csc_matrix(
            (np.ones_like(values.data), values.indices, values.indptr), shape=values.shape
        )
        self.genes = genes
        self.min_cells = min_cells

    def prepare(self) -> None:
        """Do nothing: Fisher's z needs n and r alone."""

    def pair(self, left: Block, right: Block) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return r and n, both (left, right)."""
        n, s_i, s_j, q_i, q_j, product = self._sums(left, right)
        var_i, var_j = n * q_i - s_i**2, n * q_j - s_j**2
        defined = (n >= self.min_cells) & (np.minimum(var_i, var_j) > MIN_RELATIVE_VARIANCE * n**2)
        scale = np.sqrt(np.where(defined, var_i * var_j, 1))
        r = np.where(defined, (n * product - s_i * s_j) / scale, 0)
        return np.clip(r, -1, 1).astype(np.float32), n.astype(np.float32)

    def _sums(self, left: Block, right: Block) -> NDArray[np.float64]:
        """Return n, S_i, S_j, Q_i, Q_j, P; (6, left, right)."""
        total: Any = np.float64(0)
        for (z_i, b_i), (z_j, b_j) in zip(self._tiles(left), self._tiles(right), strict=True):
            parts = [b_i.T @ b_j, z_i.T @ b_j, b_i.T @ z_j]
            parts += [(z_i**2).T @ b_j, b_i.T @ z_j**2, z_i.T @ z_j]
            total = total + np.stack(parts)
        return np.asarray(total, dtype=np.float64)

    def _tiles(self, block: Block) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Yield dense z and b, both (cell chunk, block)."""
        values, detected = self.values[:, block].tocsr(), self.detected[:, block].tocsr()
        for chunk in blocks(values.shape[0], CELL_CHUNK):
            yield values[chunk].toarray(), detected[chunk].toarray()

    def log_p(self, edges: Edges, support: NDArray[np.float32] | None) -> FloatArray:
        """Return Fisher's log p: atanh(r) sqrt(n - 3) is standard normal."""
        cells = np.asarray(support, dtype=np.float64)
        r = np.minimum(np.abs(edges.weight.astype(np.float64)), 1 - 1e-7)
        z = np.arctanh(r) * np.sqrt(np.maximum(cells - 3, 0))
        return np.log(2) + special.log_ndtr(-z)


def coexpressed_kernel(values: sparse.csc_matrix, min_cells: int) -> CoexpressedKernel:
    """Standardise every gene over the cells that detect it."""
    refuse_negative(values, "log_normalized with cells='coexpressed'")
    if min_cells < 3:
        raise ValueError(
            f"min_cells must be at least 3 with cells='coexpressed', got {min_cells}: "
            "two cells always correlate perfectly."
        )
    detected = np.diff(values.indptr)
    ones = np.ones(values.shape[0])
    mean = (values.T.astype(np.float64) @ ones) / np.maximum(detected, 1)
    centred = values.data - np.repeat(mean, detected)
    gene = np.repeat(np.arange(values.shape[1]), detected)
    squares = np.bincount(gene, weights=centred**2, minlength=values.shape[1])
    variance = squares / np.maximum(detected, 1)
    kept = np.flatnonzero((detected >= min_cells) & (variance > CONSTANT * mean**2))
    scale = np.sqrt(np.where(variance > 0, variance, 1))
    z = (centred / np.repeat(scale, detected)).astype(np.float32)
    standardised = sparse.csc_matrix((z, values.indices, values.indptr), shape=values.shape)
    return CoexpressedKernel(standardised[:, kept], kept, min_cells)
