"""Counts and estimates of an AnnData, brought to one depth on the count scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._keys import keys
from graphsci._words import check_column
from graphsci.preprocessing import library_sizes
from graphsci.sources import to_csr

if TYPE_CHECKING:
    from anndata import AnnData

Values = NDArray[np.floating]
#: Cells that tell whether a matrix is what it was.
_LOOKED_AT = 200


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
        library = _library(adata, counts_layer, library_key, key)
        _refuse_changed_counts(layer_of(adata, counts_layer), library, counts_layer)
        median = float(np.median(library[library > 0])) if (library > 0).any() else 1.0
        if isinstance(adata.uns.get(key), Mapping):  # the depth of its estimates
            median = float(adata.uns[key].get("common_depth", median))
        return cls(adata, counts_layer, np.where(library > 0, library / median, 1.0), key)

    def counts(self, genes: Any = slice(None)) -> Values:
        values = dense_values(layer_of(self.adata, self.counts_layer), genes)
        return values / self.size_factors[:, None]

    def estimate(self, layer: str, genes: Any = slice(None)) -> Values:
        matrix = layer_of(self.adata, layer)
        said = description(run_record(self.adata, self.key), layer)
        if said.get("depth") == "own":
            _refuse_changed_estimates(matrix, layer, self.size_factors)
        values = np.nan_to_num(dense_values(matrix, genes))
        if said.get("scale") == "log1p":
            values = np.expm1(values)
        return values if said.get("depth") == "common" else values / self.size_factors[:, None]

    def refuse_unknown(self, layer: str, genes: Sequence[str]) -> None:
        """Refuse genes that have no estimate, which would be drawn as if they were silent."""
        columns = self.adata.var_names.get_indexer(pd.Index(genes))
        values = dense_values(layer_of(self.adata, layer), columns)
        unknown = [gene for n, gene in enumerate(genes) if np.isnan(values[:, n]).all()]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no estimate in layers[{layer!r}], since the model was "
                "trained on data without. Choose other genes, or train on data that have them."
            )

    def sides(self, layer: str, genes: Any) -> dict[str, Values]:
        """Titles and log1p values, (cells, genes), of the counts and of an estimate."""
        return {
            "Counts": np.log1p(self.counts(genes)),
            layer.capitalize(): np.log1p(self.estimate(layer, genes)),
        }

    def sparse_counts(self) -> sparse.csr_matrix:
        """Counts of all genes, (cells, genes), at each cell's own depth."""
        return to_csr(layer_of(self.adata, self.counts_layer))

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
            "Run graphsci.tl.impute first, or name the run: key=... (anndata.concat keeps it with "
            "merge='same', uns_merge='same')."
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


def _library(adata: AnnData, counts_layer: str | None, library_key: str | None, key: str) -> Values:
    """Library size of each cell: a column of ``obs``, that of the run, or the sum of its counts."""
    if library_key is None and keys(key).library in adata.obs:
        library_key = keys(key).library
    if library_key is None:
        return np.asarray(layer_of(adata, counts_layer).sum(1), dtype=np.float64).ravel()
    check_column(adata.obs, library_key, option="library_key")
    return adata.obs[library_key].to_numpy(dtype=np.float64)


def _refuse_changed_counts(counts: Any, library: Values, layer: str | None) -> None:
    """Refuse what are counts no more; some cells are looked at."""
    some, library = to_csr(counts[:_LOOKED_AT]), library[:_LOOKED_AT]
    known = np.isfinite(library).all()
    whole = known and (library == np.rint(library)).all()
    fractional = whole and (some.data != np.rint(some.data)).any()
    if fractional or (known and (library_sizes(some) > 1.001 * library + 1e-6).any()):
        place = "X" if layer is None else f"layers[{layer!r}]"
        raise ValueError(
            f"{place} holds no counts any more: it has been normalised since. Before normalising, "
            "keep them (adata.layers['counts'] = adata.X.copy()), and name that layer: "
            "counts_layer='counts'."
        )


def _refuse_changed_estimates(matrix: Any, layer: str, size_factors: Values) -> None:
    """Refuse an estimate at one depth for all cells that differ in theirs; some are looked at."""
    some = np.nan_to_num(dense_values(matrix[:_LOOKED_AT]))
    factors = size_factors[:_LOOKED_AT]
    if len(factors) < 2 or np.ptp(factors) < 0.01:
        return
    for values in (some, np.expm1(np.minimum(some, 50.0))):
        sums = values.sum(1)
        if sums.mean() > 0 and np.ptp(sums) < 1e-4 * sums.mean():
            raise ValueError(
                f"layers[{layer!r}] has been normalised since it was made: all cells have one sum. "
                "Pictures do that themselves. Normalise a copy: "
                f"adata.layers['log_{layer}'] = adata.layers[{layer!r}].copy()."
            )


def _layer_of_counts(adata: AnnData, key: str) -> str | None:
    """Where a run found the counts; None for ``X``, also without a run."""
    place = str(adata.uns.get(key, {}).get("counts", "X"))
    return place.removeprefix("layers/") if place.startswith("layers/") else None
