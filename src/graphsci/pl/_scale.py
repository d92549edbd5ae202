"""Counts and estimates of an AnnData, brought to one depth on the count scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci._words import check_column

if TYPE_CHECKING:
    from anndata import AnnData

Values = NDArray[np.floating]


class Common(NamedTuple):
    """Brings counts and estimates to the same depth, on the count scale."""

    adata: AnnData
    counts_layer: str | None
    size_factors: Values  # (cells,) library size / common depth of the run; else / median
    key: str

    @classmethod
    def of(
        cls, adata: AnnData, counts_layer: str | None, library_key: str | None, key: str
    ) -> Common:
        if counts_layer is None:
            counts_layer = _layer_of_counts(adata, key)
        library = _library(adata, counts_layer, library_key)
        median = float(np.median(library[library > 0])) if (library > 0).any() else 1.0
        if isinstance(adata.uns.get(key), Mapping):  # the depth of its estimates
            median = float(adata.uns[key].get("common_depth", median))
        return cls(adata, counts_layer, np.where(library > 0, library / median, 1.0), key)

    def counts(self, genes: Any = slice(None)) -> Values:
        values = dense_values(layer_of(self.adata, self.counts_layer), genes)
        return values / self.size_factors[:, None]

    def estimate(self, layer: str, genes: Any = slice(None)) -> Values:
        values = np.nan_to_num(dense_values(layer_of(self.adata, layer), genes))
        said = description(run_record(self.adata, self.key), layer)
        if said.get("scale") == "log1p":
            values = np.expm1(values)
        return values if said.get("depth") == "common" else values / self.size_factors[:, None]

    def sides(self, layer: str, genes: Any) -> dict[str, Values]:
        """Titles and log1p values, (cells, genes), of the counts and of an estimate."""
        return {
            "Counts": np.log1p(self.counts(genes)),
            layer.capitalize(): np.log1p(self.estimate(layer, genes)),
        }

    def sparse_counts(self) -> sparse.csr_matrix:
        """Counts of all genes, (cells, genes), at each cell's own depth."""
        return sparse.csr_matrix(layer_of(self.adata, self.counts_layer))

    def gene_means(self, counts: sparse.csr_matrix) -> Values:
        """Mean of each gene, (genes,), with counts of :meth:`sparse_counts` at the same depth."""
        return np.asarray((sparse.diags_array(1 / self.size_factors) @ counts).mean(0)).ravel()


def variable_genes(common: Common, n_genes: int) -> NDArray[np.int64]:
    """Positions of the genes whose log-normalised counts vary most."""
    variances = []
    for start in range(0, common.adata.n_vars, 2000):
        block = np.log1p(common.counts(slice(start, start + 2000)))
        variances.append(block.var(0))
    return np.sort(np.argsort(-np.concatenate(variances), kind="stable")[:n_genes])


def run_record(adata: AnnData, key: str) -> Mapping[str, Any]:
    """Return what a run said of itself; refuse if there is no such run."""
    if key not in adata.uns:
        raise ValueError(
            f"adata.uns has no run {key!r}; it has {', '.join(map(repr, adata.uns)) or 'nothing'}. "
            "Run graphsci.tl.impute first, or name the run: key=..."
        )
    record: Mapping[str, Any] = adata.uns[key]
    return record


def description(record: Mapping[str, Any], layer: str) -> Mapping[str, Any]:
    """Return what the run record says of a layer.

    Raises
    ------
    ValueError
        If it says nothing: the layer's scale is not known then.
    """
    described: Mapping[str, Mapping[str, Any]] = record.get("estimates", {})
    if layer not in described:
        raise ValueError(
            f"the run's record does not describe the layer {layer!r}; it describes "
            f"{', '.join(map(repr, described)) or 'none'}. Name the run that made it: key=..."
        )
    return described[layer]


def layer_of(adata: AnnData, layer: str | None) -> Any:
    """Return a layer, ``X`` if None; refuse if it is not there."""
    if layer is None:
        return adata.X
    if layer not in adata.layers:
        present = ", ".join(map(repr, adata.layers)) or "none"
        raise ValueError(
            f"there is no layer {layer!r}; layers present: {present}. Impute all genes, or name "
            "the layer."
        )
    return adata.layers[layer]


def dense_values(matrix: Any, genes: Any = slice(None)) -> Values:
    """Return columns of a matrix as a dense array of float64."""
    part = matrix[:, genes]
    dense = part.toarray() if sparse.issparse(part) else np.asarray(part)
    return np.asarray(dense, dtype=np.float64)


def _library(adata: AnnData, counts_layer: str | None, library_key: str | None) -> Values:
    """Library size of each cell: a column of ``obs``, or the sum of its counts."""
    if library_key is None:
        return np.asarray(layer_of(adata, counts_layer).sum(1), dtype=np.float64).ravel()
    check_column(adata.obs, library_key, option="library_key")
    return adata.obs[library_key].to_numpy(dtype=np.float64)


def _layer_of_counts(adata: AnnData, key: str) -> str | None:
    """Where a run found the counts; None for ``X``, also without a run."""
    place = str(adata.uns.get(key, {}).get("counts", "X"))
    return place.removeprefix("layers/") if place.startswith("layers/") else None
