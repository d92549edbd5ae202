"""Counts and estimates of an AnnData, brought to one depth on the count scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._keys import keys
from graphsci._words import check_column, few
from graphsci.io.sources import canonical_csr, to_csr
from graphsci.preprocessing import library_sizes

if TYPE_CHECKING:
    from anndata import AnnData

Values = NDArray[np.floating]
#: Cells that tell whether a matrix is what it was.
_LOOKED_AT = 200
#: Entries, cells x genes, that are in memory at a time where all of them are gone through.
_BLOCK_ENTRIES = 2**21
#: Estimates whose sums over cells are about those of the counts.
_MEANS = ("mean", "denoised", "imputed")
_HIGHEST_LOG = 50.0  # exp of more is out of bounds
#: Gain in log likelihood (nats, in all and for each molecule) that proves a logarithm; with less,
#: nearly all rates are so low that their logarithms log1p are hardly other numbers.
_LEAST_GAIN, _LEAST_GAIN_EACH = 10.0, 0.03


class Common(NamedTuple):
    """Brings counts and estimates to the same depth, on the count scale."""

    adata: AnnData
    counts_layer: str | None
    size_factors: Values  # (cells,) of the run; else library size / its common depth, or median
    key: str

    @classmethod
    def of(
        cls, adata: AnnData, counts_layer: str | None, library_key: str | None, key: str
    ) -> Common:
        if counts_layer is None:
            counts_layer = _layer_of_counts(adata, key)
        library = _library(adata, counts_layer, library_key, key)
        _refuse_changed_counts(layer_of(adata, counts_layer), library, counts_layer)
        factors = _size_factors(adata, library, key, chosen=library_key is not None)
        return cls(adata, counts_layer, np.where(factors > 0, factors, 1.0), key)

    def counts(self, genes: Any = slice(None)) -> Values:
        values = dense_values(layer_of(self.adata, self.counts_layer), genes)
        return values / self.size_factors[:, None]

    def estimate(self, layer: str, genes: Any = slice(None)) -> Values:
        return self._estimated(self._unchanged(layer), genes, slice(None))

    def _unchanged(self, layer: str) -> Stored:
        """Find an estimate; refuse one that has been normalised or logged since."""
        found = estimate_of(self.adata, layer, self.key)
        found.refuse_changed(self.size_factors, layer_of(self.adata, self.counts_layer))
        return found

    def _estimated(self, found: Stored, genes: Any, cells: slice) -> Values:
        values = found.decoded(found.values(genes, cells=cells))
        return values if found.at_common_depth else values / self.size_factors[cells, None]

    def _blocks(self, n_genes: int) -> Iterator[slice]:
        """Consecutive cells, so many that they are small as a dense array too."""
        width = max(1, _BLOCK_ENTRIES // max(n_genes, 1))
        for start in range(0, self.adata.n_obs, width):
            yield slice(start, start + width)

    def count_blocks(self) -> Iterator[sparse.csr_matrix]:
        """Yield counts of all genes and of consecutive cells, sparse."""
        matrix = layer_of(self.adata, self.counts_layer)
        matrix = to_csr(matrix) if sparse.issparse(matrix) else matrix
        for cells in self._blocks(self.adata.n_vars):
            block = canonical_csr(matrix[cells])
            data = block.data / np.repeat(self.size_factors[cells], np.diff(block.indptr))
            yield sparse.csr_matrix((data, block.indices, block.indptr), shape=block.shape)

    def estimate_blocks(self, layer: str) -> Iterator[Values]:
        """Yield an estimate, of the genes that it has, of consecutive cells."""
        found = self._unchanged(layer)
        if sparse.issparse(found.matrix):
            found = found._replace(matrix=to_csr(found.matrix))
        genes = found.estimated if found.is_table else slice(None)
        for cells in self._blocks(len(found.estimated)):
            yield self._estimated(found, genes, cells)

    def refuse_unknown(self, layer: str, genes: Sequence[str]) -> None:
        """Refuse genes that have no estimate, which would be drawn as if they were silent."""
        found = estimate_of(self.adata, layer, self.key)
        values = found.values(self.adata.var_names.get_indexer(pd.Index(genes)))
        unknown = [gene for n, gene in enumerate(genes) if np.isnan(values[:, n]).all()]
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no estimate in {found.place}, since the model was "
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


def check_has_results(adata: object) -> None:
    """Refuse anything but an AnnData, and say how a model's results get into one."""
    if hasattr(adata, "obs") and hasattr(adata, "uns"):
        return
    kind = type(adata).__name__
    remedy = " model.impute(adata) writes them into it." if kind == "GraphSCI" else ""
    raise TypeError(
        f"got a {kind}, expected an AnnData with results of graphsci.tl.impute.{remedy}"
    )


class Stored(NamedTuple):
    """An estimate as it is stored: a layer, or a table of chosen genes in ``obsm``."""

    matrix: Any  # (cells, genes of its own)
    genes: pd.Index  # those of adata
    columns: NDArray[np.int64]  # of the matrix, one for each gene of adata; -1 has none
    place: str
    name: str  # in the run's record
    key: str
    said: Mapping[str, Any]  # by the run's record

    @property
    def is_table(self) -> bool:
        return self.place.startswith("obsm")

    @property
    def at_common_depth(self) -> bool:
        return self.said.get("depth") == "common"

    @property
    def is_log(self) -> bool:
        return self.said.get("scale") == "log1p"

    @property
    def estimated(self) -> NDArray[np.int64]:
        """Positions in ``adata.var`` of the genes that there are."""
        return np.flatnonzero(self.columns >= 0)

    def values(self, genes: Any = slice(None), *, cells: Any = slice(None)) -> Values:
        """Return numbers as stored, of genes given by their positions in ``adata.var``."""
        columns = self.columns[genes]
        missing = self.genes[genes][columns < 0]
        if len(missing):
            raise ValueError(
                f"{self.place} has no estimate of {few(missing)}: it is a table of "
                f"{len(self.estimated):,} genes ({few(self.genes[self.estimated])}). Choose among "
                "these, or impute these genes too, or all of them (without genes=...)."
            )
        return dense_values(self.matrix[cells], columns if self.is_table else genes)

    def decoded(self, values: Values) -> Values:
        """Return stored numbers on the count scale; what is not known is 0."""
        values = np.nan_to_num(values)
        return np.expm1(values) if self.is_log else values

    def refuse_changed(
        self, size_factors: Values, counts: Any = None, library: Values | None = None
    ) -> None:
        """Refuse what has been normalised or logged since; some cells are looked at.

        Expected are the ``counts`` of adata or, where they are gone, the ``library`` sizes.
        """
        some, factors = slice(_LOOKED_AT), size_factors[:_LOOKED_AT]
        measured = self.estimated
        stored = self.values(measured, cells=some)
        if self.said.get("depth") == "own" and not self.is_table:
            self._refuse_one_sum(np.nan_to_num(stored), factors)
        if not self.name.endswith(_MEANS):
            return
        known = ~np.isnan(stored).any(0)
        depth = factors[:, None] if self.at_common_depth else 1.0
        values = depth * self.decoded(stored[:, known])
        again = depth * self.decoded(np.expm1(np.minimum(stored[:, known], _HIGHEST_LOG)))
        if counts is not None:
            expected = np.asarray(to_csr(counts[some])[:, measured[known]].sum(0)).ravel()
            logged = _fits_better(expected, again.sum(0), values.sum(0))
        elif library is not None:  # genes may have been left out: only a close fit tells
            expected, sums = library[some], again.sum(1)
            close = np.abs(sums - expected).sum() < 0.2 * expected.sum()
            logged = close and _fits_better(expected, sums, values.sum(1))
        else:
            logged = False
        if logged:
            raise ValueError(
                f"{self.place} has been normalised since it was made: its numbers are logarithms "
                f"(log1p) of {'those that the run wrote' if self.is_log else 'counts'}. "
                + self._remedy("Take the logarithm of a copy")
            )

    def _refuse_one_sum(self, some: Values, factors: Values) -> None:
        """Refuse an estimate at one depth for all cells that differ in theirs."""
        if len(factors) < 2 or np.ptp(factors) < 0.01:
            return
        for values in (some, np.expm1(np.minimum(some, _HIGHEST_LOG))):
            sums = values.sum(1)
            if sums.mean() > 0 and np.ptp(sums) < 1e-4 * sums.mean():
                raise ValueError(
                    f"{self.place} has been normalised since it was made: all cells have one sum. "
                    + self._remedy("Normalise a copy")
                )

    def _remedy(self, what: str) -> str:
        slot, _, _ = self.place.partition("[")
        return (
            f"Pictures do that themselves. {what}: "
            f"adata.{slot}['log_{self.name}'] = adata.{self.place}.copy()."
        )


def estimate_of(adata: AnnData, layer: str, key: str) -> Stored:
    """Find an estimate of a run: a layer, or a table of chosen genes in ``obsm``."""
    record, genes = run_record(adata, key), adata.var_names
    named = (keys(key).table(layer), layer)
    tables = [name for name in named if isinstance(adata.obsm.get(name), pd.DataFrame)]
    if layer not in adata.layers and not tables:
        raise ValueError(
            f"there is no layer {layer!r}; layers present: {_listed(adata.layers)}. Tables of "
            f"chosen genes in obsm: {_listed(_tables(adata, record))}. Impute it, or name another: "
            "layer=..."
        )
    if layer in adata.layers:
        matrix, place = layer_of(adata, layer), f"layers[{layer!r}]"
        said = description(record, layer)
        return Stored(matrix, genes, np.arange(adata.n_vars), place, layer, key, said)
    table = tables[0]
    frame = adata.obsm[table]
    columns, place = frame.columns.get_indexer(genes), f"obsm[{table!r}]"
    if (columns < 0).all():
        raise ValueError(
            f"{place} has estimates of {few(frame.columns)}, of none of the genes of adata. Take "
            "an adata with these genes, or impute again."
        )
    said = description(record, table)
    return Stored(frame.to_numpy(), genes, columns, place, table, key, said)


def _tables(adata: AnnData, record: Mapping[str, Any]) -> list[str]:
    """Tables of chosen genes that a run left in ``obsm``."""
    return [name for name in record.get("estimates", {}) if name in adata.obsm]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def refuse_changed(adata: AnnData, found: Stored) -> None:
    """Refuse an estimate that has been normalised or logged, in a picture that needs no counts."""
    library = adata.obs.get(keys(found.key).library)
    if library is None:
        return
    try:
        common = Common.of(adata, None, None, found.key)
    except ValueError:  # the counts have been normalised
        sizes = library.to_numpy(dtype=np.float64)
        found.refuse_changed(_size_factors(adata, sizes, found.key), library=sizes)
    else:
        found.refuse_changed(common.size_factors, layer_of(adata, common.counts_layer))


def _fits_better(expected: Values, one: Values, other: Values) -> bool:
    """Whether Poisson counts are clearly likelier, and nearer, with the one of two means."""
    seen = other > 0
    gain = expected[seen] * np.log(one[seen] / other[seen]) - (one - other)[seen]
    nearer = np.abs(one - expected).sum() < np.abs(other - expected).sum()
    return bool(nearer and gain.sum() > max(_LEAST_GAIN, _LEAST_GAIN_EACH * expected.sum()))


def variable_genes(common: Common, n_genes: int) -> NDArray[np.int64]:
    """Positions of the genes whose log-normalised counts vary most."""
    variance = moments(block.log1p() for block in common.count_blocks()).variance
    return np.sort(np.argsort(-variance, kind="stable")[:n_genes])


class Moments(NamedTuple):
    """Over cells, (genes,) each."""

    mean: Values
    variance: Values


def moments(blocks: Iterable[Values | sparse.csr_matrix]) -> Moments:
    """Mean and variance of all rows of ``blocks`` (cells, genes), which are there one at a time.

    Squares are of the distance to each block's own mean, so that no digits are lost, and are put
    together as in Chan et al. 1979, doi:10.1007/978-3-642-51461-6_3.
    """
    n, mean, squares = 0, np.zeros(1), np.zeros(1)
    for block in blocks:
        own, own_squares = _sums_of(block)
        total, change = n + block.shape[0], own - mean
        mean = mean + change * (block.shape[0] / total)
        squares = squares + own_squares + change**2 * (n * block.shape[0] / total)
        n = total
    return Moments(mean, squares / n)


def _sums_of(block: Values | sparse.csr_matrix) -> tuple[Values, Values]:
    """Mean over rows, and the sum of squared distances to it."""
    if isinstance(block, np.ndarray):
        mean = block.mean(0)
        return mean, ((block - mean) ** 2).sum(0)
    n_rows, n_genes = block.shape
    mean = np.bincount(block.indices, block.data, n_genes) / n_rows
    squares = np.bincount(block.indices, (block.data - mean[block.indices]) ** 2, n_genes)
    return mean, squares + (n_rows - block.getnnz(axis=0)) * mean**2


def run_record(adata: AnnData, key: str) -> Mapping[str, Any]:
    """Return what a run said of itself; refuse if there is no such run."""
    if key not in adata.uns:
        if keys(key).network in adata.uns:
            raise ValueError(
                f"adata has a gene network {key!r} but no estimates of a run of that name, which "
                "graphsci network and graphsci.tl.gene_network do not make. Run "
                "graphsci.tl.impute (command line: graphsci impute), or name the run that made "
                "estimates: key=..."
            )
        raise ValueError(
            f"adata.uns has no run {key!r}; it has {', '.join(map(repr, adata.uns)) or 'nothing'}. "
            "Run graphsci.tl.impute first, or name the run: key=... (anndata.concat keeps it with "
            "merge='same', uns_merge='same')."
        )
    record: Mapping[str, Any] = adata.uns[key]
    return record


def copies_of(adata: AnnData, key: str) -> Values:
    """Counts that a molecule of each gene left, by which a run divided them, (genes,); else 1."""
    column = keys(key).copies
    if column not in adata.var:
        return np.ones(adata.n_vars)
    return np.nan_to_num(adata.var[column].to_numpy(dtype=np.float64), nan=1.0)


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
        raise ValueError(
            f"there is no layer {layer!r}; layers present: {_listed(adata.layers)}. Impute all "
            "genes, or name the layer."
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


def _size_factors(adata: AnnData, library: Values, key: str, *, chosen: bool = False) -> Values:
    """Depth of each cell, 1 the common depth of the run, without one that of the median cell.

    As the run left it: of the model's genes alone, as its estimates are; by the ``library`` if
    that was ``chosen``, or nothing was left.
    """
    record, column = adata.uns.get(key), keys(key).size_factor
    depth = float(np.median(library[library > 0])) if (library > 0).any() else 1.0
    if isinstance(record, Mapping):  # the depth of its estimates
        if column in adata.obs and not chosen:
            return adata.obs[column].to_numpy(dtype=np.float64)
        depth = float(record.get("common_depth", depth))
    return library / depth


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


def _layer_of_counts(adata: AnnData, key: str) -> str | None:
    """Where a run found the counts; None for ``X``, also without a run."""
    place = str(adata.uns.get(key, {}).get("counts", "X"))
    return place.removeprefix("layers/") if place.startswith("layers/") else None
