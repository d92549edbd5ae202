r"""Correlation and variation of genes as posterior estimates, not as those of posterior means.

The mean of a posterior varies less than what it is the mean of: denoised values understate how
much genes vary, and correlating them makes all genes look related. The law of total (co)variance
puts back what is missing,

.. math::
    \text{Cov}(\lambda_i, \lambda_j) &= \text{Cov}_c(m_{ci}, m_{cj}), \quad i \ne j \\
    \text{Var}(\lambda_i) &= \text{Var}_c(m_{ci}) + \text{mean}_c(v_{ci})

with posterior mean m and variance v of gene i's rate in cell c; rates of a cell are independent
given the model. It is the correlation over draws from the posterior, without drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphsci._imputing.estimating import Cells, EstimateBlock, estimate_blocks
from graphsci._imputing.request import Request
from graphsci.gene_graph._edges import blocks
from graphsci.imputer import GraphSCI
from graphsci.network._arrays import Floats, Indices
from graphsci.preprocessing import log_normalize

if TYPE_CHECKING:
    from anndata import AnnData

EDGE_BLOCK = 16_384  #: edges per block of correlations
DENOISED_CELLS = 2000  #: cells of a correlation: its standard error is then .02

Scale = Literal["log1p", "rate"]


def posterior_correlation(
    model: GraphSCI,
    adata: AnnData,
    genes: Sequence[str],
    *,
    scale: Scale = "log1p",
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    max_cells: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate the correlation between chosen genes, their uncertainty counted as variance.

    Use it instead of correlating ``layers["denoised"]``, which invents relations.

    Parameters
    ----------
    model
        Trained.
    adata
        Raw counts of the cells to correlate over; take the cells of one type to leave out what
        correlates because types differ.
    genes
        Two or more of the model's genes that ``adata`` has.
    scale
        Of the expression at common depth that is correlated: ``log1p`` of the rate, its variance
        by the delta method, or the ``rate`` itself.
    layer, batch_key, allow_fractional
        Where the counts are, as in ``GraphSCI.fit``.
    max_cells, seed
        Use a random choice of so many cells; default all. Empty cells are left out.

    Returns
    -------
    pandas.DataFrame
        (genes, genes), symmetric, 1 on the diagonal; within the batches that the model knows. A
        cautious estimate: how uncertain the state of a cell itself is counts as variance, and not
        as covariance of the genes that follow it, so that the shallower the cells the more a true
        correlation is underrated (at 1,500 molecules a cell .28 for .49, at 10,000 .49 for .50,
        in a simulation; docs/network.md).

    Raises
    ------
    ValueError
        If a gene is unknown or repeated, or fewer than three cells have counts.
    """
    wanted = [genes] if isinstance(genes, str) else list(genes)
    both = set(model.gene_names) & set(adata.var_names)
    _known(wanted, both, fewest=2)
    if scale not in ("log1p", "rate"):
        raise ValueError(f"scale: got {scale!r}, expected 'log1p' or 'rate'.")
    where = {"layer": layer, "batch_key": batch_key, "allow_fractional": allow_fractional}
    chosen = SampledCells.of(model, adata, max_cells, seed, where)
    scores = chosen.posterior_scores(wanted, scale).astype(np.float64)
    correlation = scores @ scores.T
    np.fill_diagonal(correlation, 1.0)
    return pd.DataFrame(correlation, index=wanted, columns=wanted)


def posterior_variation(
    model: GraphSCI,
    adata: AnnData,
    genes: Sequence[str] | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    max_cells: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Estimate how much genes vary over cells, their uncertainty counted as variance.

    One pass over the cells, and the memory of a block of them. Use it instead of the variance of
    ``layers["denoised"]``, which is too small, and of that of the counts, which holds their
    sampling noise. Against single-molecule FISH: docs/network.md.

    Parameters
    ----------
    model
        Trained.
    adata
        Raw counts of the cells to look at; take the cells of one type for what varies within it.
    genes
        Genes of the model that ``adata`` has; default all of them.
    layer, batch_key, allow_fractional
        Where the counts are, as in ``GraphSCI.fit``.
    max_cells, seed
        Use a random choice of so many cells; default all. Empty cells are left out.

    Returns
    -------
    pandas.DataFrame
        Indexed by gene, of the expression rate at common depth: ``mean``, of the posterior
        (counts); ``cv``, standard deviation over cells / mean; ``cv_state``, the same of what the
        network predicts from the cell's state, what a gene varies together with others. That one
        leaves out how uncertain the state itself is, and is a lower bound. Within the batches
        that the model knows.

    Raises
    ------
    ValueError
        If a gene is unknown or repeated, or fewer than three cells have counts.
    """
    both = set(model.gene_names) & set(adata.var_names)
    wanted = [str(gene) for gene in model.gene_names if gene in both]
    if genes is not None:
        wanted = _known([genes] if isinstance(genes, str) else list(genes), both, fewest=1)
    where = {"layer": layer, "batch_key": batch_key, "allow_fractional": allow_fractional}
    return SampledCells.of(model, adata, max_cells, seed, where).variation(wanted)


def _known(genes: list[str], both: set[str], *, fewest: int) -> list[str]:
    """Refuse genes that model and data do not both have, repeated ones, and too few."""
    absent = [gene for gene in genes if gene not in both]
    if absent or len(set(genes)) < max(fewest, len(genes)):
        said = f"{', '.join(absent[:5])} not in model and data" if absent else f"got {genes[:5]}"
        least = {1: "one", 2: "two"}[fewest]
        raise ValueError(f"genes: {said}; expected {least} or more different genes that both have.")
    return genes


class SampledCells(NamedTuple):
    """The cells of a correlation, prepared for the model."""

    model: GraphSCI
    adata: AnnData
    cells: Cells
    filled: NDArray[np.bool_]  #: (cells,) those with counts

    @classmethod
    def of(
        cls,
        model: GraphSCI,
        adata: AnnData,
        max_cells: int | None,
        seed: int,
        where: dict[str, Any],
    ) -> SampledCells:
        """At most ``max_cells`` cells, by chance; fewer than three with counts are refused."""
        if max_cells is not None and adata.n_obs > max_cells:
            rng = np.random.default_rng(seed)
            adata = adata[np.sort(rng.choice(adata.n_obs, max_cells, replace=False))].to_memory()
        cells = model.prepare(adata, **where)
        filled = cells.library > 0
        if filled.sum() < 3:
            raise ValueError(
                f"adata has {filled.sum()} cells with counts, expected at least 3 cells."
            )
        return cls(model, adata, cells, filled)

    def raw_correlation(self, rows: Indices, columns: Indices) -> NDArray[np.float64]:
        """Pearson correlation of log-normalised counts, for pairs of the model's genes; (pairs,).

        Within the batches that the model knows. NaN where ``adata`` lacks a gene, or one does not
        vary.
        """
        depth = self.model.fitted.spec.common_depth
        values = log_normalize(self.cells.counts[self.filled], median_library_size=depth)
        scores = self._within_batches(values.toarray().astype(np.float32)).T
        norm = np.sqrt(np.square(scores, dtype=np.float64).sum(1))
        scores /= np.maximum(norm, 1e-12)[:, None]
        known = (self.cells.match.positions >= 0) & (norm > 1e-6)
        position = np.where(known, np.arange(len(norm)), -1)
        return _products(scores, position[rows], position[columns])

    def denoised_correlation(self, rows: Indices, columns: Indices) -> NDArray[np.float64]:
        """:func:`posterior_correlation` of pairs of the model's genes, by position; (pairs,).

        NaN where ``adata`` lacks a gene.
        """
        names, present = self.model.gene_names, set(self.adata.var_names)
        genes = [str(gene) for gene in names if gene in present]
        position = pd.Index(genes).get_indexer(pd.Index(names))
        scores = self.posterior_scores(genes, "log1p")
        return _products(scores, position[rows], position[columns])

    def posterior_scores(self, genes: list[str], scale: Scale) -> Floats:
        """Scores (genes, cells) whose products between different genes are the correlations.

        Cells without counts are left out: they have no state, and their estimates, all 0, would
        make all genes look related.
        """
        means, variance = [], np.zeros(len(genes))
        request = Request.of(self.adata, ("denoised",), genes, depth="common")
        for block in self._estimates(request):
            rate, sd = block.values["denoised"], block.values["denoised_sd"]
            if scale == "log1p":
                rate, sd = np.log1p(rate), sd / (1 + rate)
            means.append(rate)
            variance += np.square(sd, dtype=np.float64).sum(0)
        values = self._within_batches(np.concatenate(means)[self.filled])
        total = np.sqrt(np.square(values, dtype=np.float64).sum(0) + variance)
        values /= np.maximum(total, 1e-12)
        return np.ascontiguousarray(values.T)

    def variation(self, genes: list[str]) -> pd.DataFrame:
        """:func:`posterior_variation` of genes that the model and the data have."""
        names = ("mean", "denoised", "denoised_sd")
        size = (int(self.cells.batch.max()) + 1, len(genes))
        sums, squares = ({name: np.zeros(size) for name in names} for _ in range(2))
        request = Request.of(self.adata, ("mean", "denoised"), genes, depth="common")
        for block in self._estimates(request):
            rows = slice(block.start, block.start + len(block.values["mean"]))
            filled = np.flatnonzero(self.filled[rows])
            batch = self.cells.batch[rows][filled]
            for name in names:
                values = block.values[name][filled].astype(np.float64)
                for code in np.unique(batch):
                    sums[name][code] += values[batch == code].sum(0)
                    squares[name][code] += np.square(values[batch == code]).sum(0)
        n_cells = np.bincount(self.cells.batch[self.filled], minlength=size[0])[:, None]
        total = n_cells.sum()
        within = {
            name: (squares[name] - np.square(sums[name]) / np.maximum(n_cells, 1)).sum(0) / total
            for name in ("mean", "denoised")
        }
        variance = within["denoised"] + squares["denoised_sd"].sum(0) / total
        mean = sums["denoised"].sum(0) / total
        expected = sums["mean"].sum(0) / total
        cv = np.sqrt(np.maximum(variance, 0)) / mean
        cv_state = np.sqrt(np.maximum(within["mean"], 0)) / expected
        return pd.DataFrame(
            {"mean": mean, "cv": cv, "cv_state": cv_state}, index=pd.Index(genes, name="gene")
        )

    def _estimates(self, request: Request) -> Iterator[EstimateBlock]:
        """Estimates given the model, whose errors are no variation between cells."""
        return estimate_blocks(self.model.fitted, self.cells, request, mean_is_known=True)

    def _within_batches(self, values: Floats) -> Floats:
        """Values (cells, genes) less the mean of their batch, in place."""
        batch = self.cells.batch[self.filled]
        for code in np.unique(batch):
            values[batch == code] -= values[batch == code].mean(0)
        return values


def _products(scores: Floats, left: Indices, right: Indices) -> NDArray[np.float64]:
    """Inner products of rows of ``scores``; NaN where a position is negative."""
    found = np.empty(len(left))
    for part in blocks(len(left), EDGE_BLOCK):
        pair = scores[left[part]], scores[right[part]]
        found[part] = np.einsum("ij,ij->i", *pair)
    return np.where((left < 0) | (right < 0), np.nan, found)
