"""Count checks, size factors, log-normalisation, thinning and matching of genes.

Everything a user can bring wrongly is refused here, once (:func:`extract_counts`).
The rest are pure functions on sparse arrays that never change their input; what is
learned from data (the median library size) is learned by a ``fit_`` function and handed
to the transform, so that held-out cells are normalised with *training* statistics.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci.sources import (
    CHUNK_CELLS,
    CountSource,
    DiskCounts,
    DiskMatrix,
    MemoryCounts,
    as_float32,
    canonical_csr,
    is_on_disk,
    read_ahead,
    row_totals,
    storable,
)

if TYPE_CHECKING:
    from anndata import AnnData

Names = NDArray[np.str_]
Mask = NDArray[np.bool_]

#: Largest integer up to which float32 holds every integer exactly.
MAX_EXACT_COUNT = 2**24
_VALUES_PER_BLOCK = 2**22  # dense or stored values looked at in one go
_SAMPLE_ROWS = 200  # rows looked at to guess what refused values are; never to accept them
_SHOWN = 5  # names shown in messages
#: Library sizes are one if 5 % and 95 % of the cells are this near, relative to the median: counts
#: rounded at a depth of 10,000 or more are, sequenced cells differ several-fold.
_ONE_DEPTH, _MIN_CELLS_OF_ONE_DEPTH = 0.02, 20
#: A batch of fewer cells hardly teaches its offsets.
_SMALL_BATCH = 10
#: From this share of cells with a batch of their own the column is no batch.
_SINGLE_CELLS = 0.9


#: Counts as a matrix in memory, or as a source that is read in rows.
Counts = TypeVar("Counts", sparse.csr_matrix, CountSource)


class CountData(NamedTuple, Generic[Counts]):
    """Checked raw counts with everything that travels along.

    All genes and cells are there, in the order they came in; the masks say which of them
    carry no information, so that training can leave them out and output can hold them.
    """

    counts: Counts  #: (cells, genes) float32, canonical, count scale
    cell_names: Names  #: (cells,)
    gene_names: Names  #: (genes,)
    batch: NDArray[np.int64] | None  #: (cells,) index into ``batch_names``, or None
    batch_names: tuple[str, ...]  #: empty without batches
    empty_cells: Mask  #: (cells,) no molecule in any gene
    undetected_genes: Mask  #: (genes,) no molecule in any cell
    notes: tuple[str, ...]  #: one sentence for every treatment applied


class GeneMatch(NamedTuple):
    """Where each reference gene stands among other names; see :func:`match_genes`."""

    positions: NDArray[np.int64]  #: (reference genes,) index into names, -1 when missing
    n_matched: int
    missing: tuple[str, ...]  #: reference genes that names lacks
    extra: tuple[str, ...]  #: names that the reference lacks

    def summary(self) -> str:
        """One sentence on what matched, what was not measured and what the model lacks."""
        text = f"{self.n_matched:,} of {len(self.positions):,} genes matched by name"
        if self.missing:
            text += f"; {len(self.missing):,} not measured here ({_first(self.missing)})"
        if self.extra:
            text += f"; {len(self.extra):,} outside the model ({_first(self.extra)})"
        return text + "."


# --- from AnnData to checked counts ---------------------------------------------------


def extract_counts(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    min_cells: int = 2,
) -> CountData[sparse.csr_matrix]:
    """Take raw counts out of an AnnData and check every one of them.

    Parameters
    ----------
    adata
        Cells x genes; in memory or backed, sparse or dense, any numeric dtype. It is not
        changed. A canonical float32 CSR matrix is *not copied*: treat the result as
        read-only.
    layer
        Layer that holds the counts; ``adata.X`` if None.
    batch_key
        Column of ``adata.obs`` with the batch of each cell.
    allow_fractional
        Accept non-integral values: ambient-corrected or expected counts. They must be
        non-negative and finite all the same.
    min_cells
        Fewest cells with counts: 2 to learn from, 1 to apply a trained model to.

    Returns
    -------
    CountData
        Counts on the count scale, with names, batches, masks and notes.

    Raises
    ------
    TypeError
        ``adata`` is no AnnData, or the values are not real numbers.
    ValueError
        The values are not raw counts (negative, not finite, not integral, too large, all
        zero), names repeat, there is a single cell or gene, or a layer or batch is missing.
    """
    opened = _open(adata, layer, batch_key, min_cells)
    counts, found = _to_checked_csr(opened.matrix)
    _check_values(found, opened, adata, layer, counts, allow_fractional)
    totals = library_sizes(counts)
    return _count_data(opened, counts, found, totals, ~detected_genes(counts), min_cells)


def open_counts(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    min_cells: int = 2,
) -> CountData[CountSource]:
    """Check raw counts and leave them where they are: in memory, or in a file.

    A backed AnnData, or one whose matrix is a dataset of a file, is read once from end to end
    in chunks of rows, and never as a whole. Parameters and errors as for
    :func:`extract_counts`; a file that is stored by columns (CSC) is refused.
    """
    check_is_anndata(adata)
    if not is_on_disk(_find_matrix(adata, layer)):
        data = extract_counts(
            adata,
            layer=layer,
            batch_key=batch_key,
            allow_fractional=allow_fractional,
            min_cells=min_cells,
        )
        return CountData(MemoryCounts(data.counts), *data[1:])
    opened = _open(adata, layer, batch_key, min_cells)
    matrix = DiskMatrix(opened.matrix, opened.where)
    scan = _scan(matrix)
    first_rows = as_float32(canonical_csr(matrix.rows(0, min(_SAMPLE_ROWS, matrix.shape[0]))))
    _check_values(scan.found, opened, adata, layer, first_rows, allow_fractional, scan.n_entries)
    counts = DiskCounts(
        matrix, n_entries=scan.n_entries, totals=scan.totals, detected=scan.detected
    )
    return _count_data(opened, counts, scan.found, scan.totals, ~scan.detected, min_cells)


class _Opened(NamedTuple):
    """A matrix of an AnnData with its names, before its values were looked at."""

    matrix: Any
    where: str
    cell_names: Names
    gene_names: Names
    batch: NDArray[np.int64] | None
    batch_names: tuple[str, ...]
    notes: list[str]


def _open(adata: AnnData, layer: str | None, batch_key: str | None, min_cells: int) -> _Opened:
    """Refuse everything but values."""
    check_is_anndata(adata)
    matrix = _find_matrix(adata, layer)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    _check_shape(matrix.shape, where, min_cells)
    _check_dtype(matrix, where)
    cell_names = checked_names(adata.obs_names, "cell", "adata.obs_names_make_unique()")
    gene_names = checked_names(adata.var_names, "gene", "adata.var_names_make_unique()")
    return _Opened(matrix, where, cell_names, gene_names, *_extract_batch(adata, batch_key))


def _count_data(
    opened: _Opened,
    counts: Any,
    found: _Found,
    totals: NDArray[np.float64],
    undetected_genes: Mask,
    min_cells: int,
) -> CountData[Any]:
    empty_cells = totals == 0
    n_filled = len(totals) - int(empty_cells.sum())
    if n_filled < min_cells:
        raise ValueError(
            f"{opened.where} has counts in {n_filled:,} of {len(totals):,} cells, expected at "
            f"least {min_cells} cells with counts. Check that the file was read fully."
        )
    notes = [
        *opened.notes,
        *_one_depth(totals),
        *_describe(found, empty_cells, opened.cell_names, undetected_genes, opened.gene_names),
    ]
    return CountData(
        counts,
        opened.cell_names,
        opened.gene_names,
        opened.batch,
        opened.batch_names,
        empty_cells,
        undetected_genes,
        tuple(notes),
    )


def check_is_anndata(adata: object) -> None:
    """Refuse anything but an AnnData with a TypeError that says what to do."""
    import anndata

    if not isinstance(adata, anndata.AnnData):
        raise TypeError(
            f"got a {type(adata).__name__}, expected an AnnData (cells x genes). "
            "Wrap an array with anndata.AnnData(X), or read a file with graphsci.io.read_counts."
        )


def _find_matrix(adata: AnnData, layer: str | None) -> Any:
    """Return ``X`` or a layer, or say what there is instead."""
    if layer is not None and layer not in adata.layers:
        raise ValueError(
            f"there is no layer {layer!r}; {_layers_present(adata)} "
            "Name one of these, or leave `layer` out to use adata.X."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError(
            f"adata.X is empty (None), expected raw counts; {_layers_present(adata)} "
            "Name the one with raw counts: `layer=` (`--layer`)."
        )
    return matrix


def _layers_present(adata: AnnData) -> str:
    if not len(adata.layers):
        return "adata has no layers."
    return f"layers present: {', '.join(map(repr, adata.layers))}."


def _check_shape(shape: tuple[int, ...], where: str, min_cells: int) -> None:
    n_cells, n_genes = shape
    if n_cells < min_cells or n_genes < 2:
        raise ValueError(
            f"{where} is {n_cells:,} cells x {n_genes:,} genes, "
            f"expected at least {min_cells} cells and 2 genes: "
            "genes are predicted from each other across cells. "
            "Check that the file was read fully and in the right orientation."
        )


def _check_dtype(matrix: Any, where: str) -> None:
    if type(matrix).__module__.startswith("dask"):
        raise TypeError(
            f"{where} is a dask array, expected values in memory or a backed file. "
            "Call adata.to_memory() first, or open the file with read_counts(..., backed=True)."
        )
    if np.dtype(matrix.dtype).kind not in "iuf":
        hint = (
            "True/False only says whether a gene was detected; bring the counts themselves."
            if matrix.dtype == bool
            else "Convert it, e.g. adata.X = adata.X.astype('float32')."
        )
        raise TypeError(
            f"{where} has dtype {matrix.dtype}, expected real numbers (integer or float). {hint}"
        )


def checked_names(index: pd.Index, kind: str, remedy: str) -> Names:
    """Return names as a numpy str array; refuse duplicates."""
    if not index.is_unique:
        repeated = index[index.duplicated()].unique()
        raise ValueError(
            f"{len(repeated):,} {kind} names occur more than once ({_first(repeated)}), "
            f"expected unique names: {kind}s are matched by name. "
            f"Make them unique: {remedy} (command line: --make-names-unique)."
        )
    return np.asarray(index.astype(str), dtype=np.str_)


def positions_of(
    names: Sequence[str], index: pd.Index, *, kind: Literal["gene", "cell"], option: str
) -> NDArray[np.int64]:
    """Positions of chosen genes or cells in ``index``, in the order asked for.

    Raises
    ------
    ValueError
        If one is unknown, or names in ``index`` repeat; ``option`` is what the message names.
    """
    slot, hint = {"gene": ("var_names", "case"), "cell": ("obs_names", "suffixes")}[kind]
    checked_names(index, kind, f"adata.{slot}_make_unique()")
    positions = index.get_indexer(pd.Index(names))
    missing = [name for name, position in zip(names, positions, strict=True) if position < 0]
    if missing:
        raise ValueError(
            f"{option}: {len(missing)} of {len(names)} are not in {slot}: "
            f"{', '.join(missing[:5])}. Check spelling and {hint}."
        )
    return np.asarray(positions, dtype=np.int64)


def _extract_batch(
    adata: AnnData, batch_key: str | None
) -> tuple[NDArray[np.int64] | None, tuple[str, ...], list[str]]:
    """Return codes (cells,), batch names and notes."""
    if batch_key is None:
        return None, (), []
    codes, names = read_batches(adata, batch_key)
    if len(names) == 1:
        return None, (), [f"Batch column {batch_key!r} has one level ({names[0]}): not used."]
    sizes = np.bincount(codes)
    n_single = int((sizes == 1).sum())
    if len(codes) > 2 and n_single > _SINGLE_CELLS * len(codes):
        raise ValueError(
            f"batch column {batch_key!r} has a value of its own in {n_single:,} of {len(codes):,} "
            "cells, expected a few groups of cells. Choose another `batch_key` (`--batch-key`)."
        )
    return codes, names, _small_batches(batch_key, names, sizes)


def read_batches(adata: AnnData, batch_key: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the batch of each cell (cells,), as an index into the names, and the names.

    For training and for later cells alike: whatever the column's type, a name is ``str(value)``.
    """
    categories = pd.Categorical(_batch_column(adata, batch_key)).remove_unused_categories()
    positions, names = pd.factorize(np.array([str(n) for n in categories.categories], object))
    return positions[categories.codes].astype(np.int64), tuple(names)


def _small_batches(batch_key: str, names: tuple[str, ...], sizes: NDArray[np.int64]) -> list[str]:
    """Return a warning if batches have too few cells to learn their offsets from."""
    small = [name for name, size in zip(names, sizes, strict=True) if size < _SMALL_BATCH]
    if not small:
        return []
    return [
        f"Batch column {batch_key!r}: {len(small):,} of {len(names):,} batches have fewer than "
        f"{_SMALL_BATCH} cells ({_first(small)}), too few to learn a batch's offsets from. Merge "
        "them, or choose another `batch_key` (`--batch-key`)."
    ]


def _batch_column(adata: AnnData, batch_key: str) -> pd.Series:
    if batch_key not in adata.obs.columns:
        present = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise ValueError(
            f"there is no batch column {batch_key!r} in adata.obs; columns present: {present}. "
            "Name one of these, or leave `batch_key` (`--batch-key`) out."
        )
    column: pd.Series = adata.obs[batch_key]
    missing = column.isna().to_numpy()
    if missing.any():
        cells = adata.obs_names[missing]
        raise ValueError(
            f"batch column {batch_key!r} lacks a value for {len(cells):,} cells "
            f"({_first(cells)}), expected one for every cell. Fill them in, or remove those cells."
        )
    return column


# --- the whole matrix, block by block -------------------------------------------------


class _Found(NamedTuple):
    """What the values of a matrix are like."""

    n_not_finite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    max_rounding: float = 0.0  #: largest distance to the nearest integer
    minimum: float = 0.0
    maximum: float = 0.0

    def __add__(self, other: _Found) -> _Found:  # type: ignore[override]
        return _Found(
            self.n_not_finite + other.n_not_finite,
            self.n_negative + other.n_negative,
            self.n_fractional + other.n_fractional,
            max(self.max_rounding, other.max_rounding),
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


def _inspect_values(values: NDArray[Any]) -> _Found:
    """Count what is wrong with a 1-D array of values, in its own dtype."""
    found = _Found()
    for start in range(0, len(values), _VALUES_PER_BLOCK):
        found += _inspect_block(values[start : start + _VALUES_PER_BLOCK])
    return found


def _inspect_block(values: NDArray[Any]) -> _Found:
    if values.dtype.kind in "iu":
        n_negative = int(np.count_nonzero(values < 0)) if values.dtype.kind == "i" else 0
        return _Found(0, n_negative, 0, 0.0, float(values.min()), float(values.max()))
    finite = values[np.isfinite(values)]
    if not len(finite):
        return _Found(n_not_finite=len(values))
    rounding = np.abs(finite - np.rint(finite))
    return _Found(
        len(values) - len(finite),
        int(np.count_nonzero(finite < 0)),
        int(np.count_nonzero(rounding)),
        float(rounding.max()),
        float(finite.min()),
        float(finite.max()),
    )


class _Scan(NamedTuple):
    """What one pass over a file finds."""

    found: _Found
    n_entries: int  #: values other than 0
    totals: NDArray[np.float64]  #: (cells,)
    detected: Mask  #: (genes,)


def _scan(matrix: DiskMatrix) -> _Scan:
    """Look at every value of a file, a chunk of rows at a time."""
    n_cells, n_genes = matrix.shape
    found, n_entries = _Found(), 0
    totals, detected = np.zeros(n_cells), np.zeros(n_genes, dtype=bool)
    rows = [(at, min(at + CHUNK_CELLS, n_cells)) for at in range(0, n_cells, CHUNK_CELLS)]
    blocks = read_ahead(lambda at: canonical_csr(matrix.rows(*at)), rows)
    for (start, stop), block in zip(rows, blocks, strict=True):
        found += _inspect_values(block.data)
        n_entries += block.nnz
        with np.errstate(invalid="ignore"):  # infinite values are refused after the pass
            totals[start:stop] = row_totals(as_float32(block))
        detected |= np.bincount(block.indices, minlength=n_genes) > 0
    return _Scan(found, n_entries, totals, detected)


def _to_checked_csr(matrix: Any) -> tuple[sparse.csr_matrix, _Found]:
    """Return the matrix as canonical float32 CSR, and what its values are like.

    Values are inspected before the cast, so that the cast cannot hide anything.
    """
    if _is_on_disk_columns(matrix):
        matrix = matrix.to_memory()
    if sparse.issparse(matrix):
        matrix = canonical_csr(matrix)
        return as_float32(matrix), _inspect_values(matrix.data)
    found = _Found()
    blocks = []
    for block in _row_blocks(matrix):
        found += _inspect_values(block.data)
        blocks.append(as_float32(block))
    return sparse.csr_matrix(sparse.vstack(blocks, format="csr")), found


def _is_on_disk_columns(matrix: Any) -> bool:
    from anndata.abc import CSCDataset

    return isinstance(matrix, CSCDataset)


def _row_blocks(matrix: Any) -> Iterator[sparse.csr_matrix]:
    """Read a dense, or an on-disk sparse or dense matrix, in canonical CSR row blocks."""
    n_rows, n_columns = matrix.shape
    step = max(1, _VALUES_PER_BLOCK // n_columns)
    for start in range(0, n_rows, step):
        block = matrix[start : start + step]
        yield canonical_csr(block if sparse.issparse(block) else storable(np.asarray(block)))


# --- refusals -------------------------------------------------------------------------


def _check_values(
    found: _Found,
    opened: _Opened,
    adata: AnnData,
    layer: str | None,
    counts: sparse.csr_matrix,
    allow_fractional: bool,
    n_entries: int | None = None,
) -> None:
    """Refuse values that are not raw counts; say what they look like and what to do.

    ``counts`` may be the first rows of a file whose ``n_entries`` are known.
    """
    where, n_entries = opened.where, counts.nnz if n_entries is None else n_entries
    if found.n_not_finite:
        raise ValueError(
            f"{where} holds {found.n_not_finite:,} NaN or infinite values, expected finite counts. "
            "Set missing entries to 0 if they were not observed, or bring the raw counts."
        )
    if found.n_negative:
        raise ValueError(
            f"{where} holds {found.n_negative:,} negative values (smallest {found.minimum:.4g}), "
            f"expected raw counts. {_negative_guess(found)} {_where_counts_may_be(adata, layer)}"
        )
    if found.maximum > MAX_EXACT_COUNT:
        raise ValueError(
            f"{where} holds a value of {found.maximum:,.0f}, expected counts up to "
            f"{MAX_EXACT_COUNT:,} (2^24, what float32 holds exactly). "
            "Is this a total or an intensity? Remove that gene or cell, or bring raw counts."
        )
    if found.n_fractional and not allow_fractional:
        _refuse_fractional(found, where, adata, layer, counts, n_entries)
    if not n_entries:
        raise ValueError(
            f"{where} holds no counts at all: every value is 0. Expected raw counts. "
            f"{_where_counts_may_be(adata, layer)}"
        )


def _negative_guess(found: _Found) -> str:
    if found.n_fractional:
        return "It looks like scaled (z-scored) or centred data."
    return "All are whole numbers: it looks like a difference, or a code for missing values."


def _refuse_fractional(
    found: _Found,
    where: str,
    adata: AnnData,
    layer: str | None,
    counts: sparse.csr_matrix,
    n_entries: int,
) -> None:
    """Raise for values that are not whole numbers."""
    share = found.n_fractional / max(n_entries, 1)
    raise ValueError(
        f"{where} holds {found.n_fractional:,} values that are not whole numbers "
        f"({share:.0%} of the non-zeros, largest value {found.maximum:.4g}), expected raw counts. "
        f"{_fractional_guess(found, adata, layer, counts)} {_where_counts_may_be(adata, layer)} "
        "If these are counts that may lawfully be fractional (ambient-corrected, expected "
        "counts), say so: `allow_fractional=True` (`--allow-fractional`)."
    )


def _fractional_guess(
    found: _Found, adata: AnnData, layer: str | None, counts: sparse.csr_matrix
) -> str:
    """Say in one sentence what fractional values look like."""
    if found.max_rounding < 1e-3:
        return "All are within 0.001 of one: they look like counts with rounding errors; round."
    if _sums_are_constant(counts, np.expm1):
        return "It looks like log1p-normalised data (expm1 of each cell has the same sum)."
    if layer is None and "log1p" in adata.uns:
        return "It looks like log1p-normalised data (adata.uns['log1p'] is set)."
    if _sums_are_constant(counts, lambda values: values):
        return "It looks like data normalised to a common depth (each cell has the same sum)."
    if found.maximum < 20:
        return "It looks like log-transformed data (all values are small)."
    return "It looks like normalised expression (TPM, FPKM, counts scaled per cell)."


def _sums_are_constant(counts: sparse.csr_matrix, transform: Any) -> bool:
    """Whether transformed values of non-empty cells add up to one constant (0.1 %)."""
    sample = counts[:_SAMPLE_ROWS].astype(np.float64)
    sample.data = transform(np.minimum(sample.data, 700.0 if transform is np.expm1 else np.inf))
    sums = library_sizes(sample)
    sums = sums[sums > 0]
    return len(sums) > 1 and bool(np.ptp(sums) < 1e-3 * sums.mean())


def _where_counts_may_be(adata: AnnData, layer: str | None) -> str:
    """Name the layers and ``adata.raw`` as places of raw counts, if they look like them."""
    others = {f"layer={key!r}": adata.layers[key] for key in adata.layers if key != layer}
    if layer is not None and adata.X is not None:
        others["adata.X (leave `layer` out)"] = adata.X
    good = [name for name, matrix in others.items() if _looks_like_counts(matrix)]
    text = _layers_present(adata)
    if good:
        text += f" Whole numbers are in {', '.join(good)}."
    if len(adata.layers):
        text += " Choose the one with raw counts: `layer=` (`--layer`)."
    if adata.raw is not None and _looks_like_counts(adata.raw.X):
        text += (
            " adata.raw looks like counts: use adata.raw.to_adata(); for the command line write "
            'them to a file: python -c "import graphsci; '
            "graphsci.read_counts('IN').raw.to_adata().write_h5ad('counts.h5ad')\"."
        )
    elif not good:
        text += " Bring the counts as they were before any normalisation."
    return text


def _looks_like_counts(matrix: Any) -> bool:
    """Whether the first rows are non-negative whole numbers, not all zero."""
    if np.dtype(matrix.dtype).kind not in "iuf":
        return False
    rows = matrix[:_SAMPLE_ROWS]
    values = rows.data if sparse.issparse(rows) else np.asarray(rows).ravel()
    found = _inspect_values(values)
    return found.maximum > 0 and not (found.n_not_finite or found.n_negative or found.n_fractional)


def _one_depth(totals: NDArray[np.float64]) -> list[str]:
    """Return a warning if practically all cells have one library size, as no sequencer gives."""
    sizes = totals[totals > 0]
    if len(sizes) < _MIN_CELLS_OF_ONE_DEPTH:
        return []
    low, median, high = np.quantile(sizes, [0.05, 0.5, 0.95])
    if high - low > _ONE_DEPTH * median:
        return []
    return [
        f"Practically all cells have one library size ({low:,.0f} to {high:,.0f}): these look "
        "like rounded CPM, or counts normalised to a common depth otherwise, and not like raw "
        "counts; expected a library size of its own for each cell. Estimates, intervals and the "
        "verdict take every unit for a molecule: bring the counts as they were before any "
        "normalisation. Only cells that were down-sampled to one depth are right as they are."
    ]


def _describe(
    found: _Found, empty_cells: Mask, cell_names: Names, undetected_genes: Mask, gene_names: Names
) -> list[str]:
    """Return a sentence for each treatment."""
    notes = []
    if found.n_fractional:
        notes.append(f"{found.n_fractional:,} values are not whole numbers; allowed on request.")
    if empty_cells.any():
        names = _first(cell_names[empty_cells])
        notes.append(
            f"Cells without any count: {empty_cells.sum():,} ({names}); "
            "nothing is learned from them, and they stay in the output."
        )
    if undetected_genes.any():
        names = _first(gene_names[undetected_genes])
        notes.append(
            f"Genes without any count: {undetected_genes.sum():,} ({names}); "
            "nothing is learned from them, and they stay in the output."
        )
    return notes


def _first(names: Sequence[str] | Names | pd.Index) -> str:
    """Return the first few names, comma-separated."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return shown + ", ..." if len(names) > _SHOWN else shown


# --- filters, size factors, log-normalisation (eq. 1) ---------------------------------


def detected_genes(counts: sparse.csr_matrix, *, min_cells: int = 1) -> Mask:
    """Mark genes that are non-zero in at least ``min_cells`` cells.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR.
    min_cells
        Smallest number of cells.

    Returns
    -------
    (genes,) bool
    """
    columns = counts.indices[counts.data > 0]
    return np.bincount(columns, minlength=counts.shape[1]) >= min_cells


def detected_cells(counts: sparse.csr_matrix, *, min_counts: float = 1) -> Mask:
    """Mark non-empty cells that have a library size of at least ``min_counts``.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR.
    min_counts
        Smallest library size; an empty cell is never marked.

    Returns
    -------
    (cells,) bool
    """
    sizes = library_sizes(counts)
    return (sizes >= min_counts) & (sizes > 0)


def library_sizes(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the total count of each cell, summed in float64.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, count scale.

    Returns
    -------
    (cells,) float64
    """
    return row_totals(counts)


def fit_median_library_size(counts: sparse.csr_matrix) -> float:
    """Return the median library size of the non-empty cells: the common depth of eq. 1.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR of the *training* cells, count scale.

    Raises
    ------
    ValueError
        All cells are empty.
    """
    return median_size(library_sizes(counts))


def median_size(sizes: NDArray[np.float64]) -> float:
    """Return the median of the library sizes above 0; refuse if there is none."""
    if not sizes.any():
        raise ValueError(
            f"all {len(sizes):,} cells are empty, expected counts to take a median depth from. "
            "Check the filters: was every cell or gene removed?"
        )
    return float(np.median(sizes[sizes > 0]))


def size_factors(counts: sparse.csr_matrix, *, median_library_size: float) -> NDArray[np.float64]:
    """Return s = library size / median library size (eq. 1); 0 for an empty cell.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, count scale.
    median_library_size
        From :func:`fit_median_library_size` on the training cells.

    Returns
    -------
    (cells,) float64
    """
    if not (np.isfinite(median_library_size) and median_library_size > 0):
        raise ValueError(
            f"median_library_size is {median_library_size}, expected a positive number. "
            "Take it from fit_median_library_size(training_counts)."
        )
    return library_sizes(counts) / median_library_size


def log_normalize(counts: sparse.csr_matrix, *, median_library_size: float) -> sparse.csr_matrix:
    """Return log1p(counts / s), the encoder's input (eq. 1), as sparse as the counts.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, count scale.
    median_library_size
        From :func:`fit_median_library_size` on the training cells.

    Returns
    -------
    (cells, genes) CSR float32
        log1p scale at the median depth; the row of an empty cell stays zero.
    """
    factors = size_factors(counts, median_library_size=median_library_size)
    scale = np.divide(1.0, factors, out=np.zeros_like(factors), where=factors > 0)
    per_value = np.repeat(scale.astype(np.float32), np.diff(counts.indptr))
    data = np.log1p(counts.data.astype(np.float32, copy=False) * per_value)
    structure = (counts.indices.copy(), counts.indptr.copy())
    return sparse.csr_matrix((data, *structure), shape=counts.shape)


# --- thinning -------------------------------------------------------------------------


def thin_counts(
    counts: sparse.csr_matrix, *, fraction: float, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Split molecules at random in two parts: held_out ~ Binomial(x, fraction).

    Each molecule is held out independently, so for Poisson counts both parts are
    independent Poisson counts with means (1 - fraction) and fraction times the original.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, whole numbers.
    fraction
        Share of the molecules to hold out, in (0, 1).
    rng
        Source of randomness.

    Returns
    -------
    kept, held_out
        (cells, genes) CSR float32 each, without explicit zeros; ``kept + held_out`` is
        ``counts`` exactly.
    """
    if not 0 < fraction < 1:
        raise ValueError(
            f"fraction is {fraction}, expected a share of the molecules between 0 and 1 "
            "(both excluded), e.g. 0.1."
        )
    molecules = _as_molecules(counts.data)
    held_out = _binomial(molecules, fraction, rng)
    return _with_data(counts, molecules - held_out), _with_data(counts, held_out)


def _as_molecules(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return values as integers; refuse what is not a number of molecules."""
    with np.errstate(invalid="ignore"):
        molecules = values.astype(np.int64)
    if not np.array_equal(molecules, values) or (len(values) and molecules.min() < 0):
        raise ValueError(
            "counts hold values that are not whole numbers >= 0, expected molecules that can be "
            "split one by one. Fractional counts (`allow_fractional`) cannot be thinned: round "
            "them first, or switch off what needs thinning (`--no-check`)."
        )
    return molecules


def _binomial(
    trials: NDArray[np.int64], probability: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw Binomial(trials, probability); single molecules, the majority, by one uniform."""
    drawn = ((rng.random(len(trials)) < probability) & (trials > 0)).astype(np.int64)
    several = np.flatnonzero(trials > 1)
    drawn[several] = rng.binomial(trials[several], probability)
    return drawn


def _with_data(matrix: sparse.csr_matrix, data: NDArray[Any]) -> sparse.csr_matrix:
    """Return a float32 CSR with the structure of ``matrix``, other values, no zeros."""
    return _select(matrix, data != 0, data.astype(np.float32), matrix.indices, matrix.shape[1])


def _select(
    matrix: sparse.csr_matrix,
    keep: Mask,
    data: NDArray[Any],
    indices: NDArray[Any],
    n_columns: int,
) -> sparse.csr_matrix:
    """Keep some stored entries of a CSR, with new values and columns."""
    kept = np.flatnonzero(keep)
    indptr = np.searchsorted(kept, matrix.indptr).astype(matrix.indptr.dtype)
    shape = (matrix.shape[0], n_columns)
    return sparse.csr_matrix((data[kept], indices[kept], indptr), shape=shape)


# --- genes of new cells ---------------------------------------------------------------


def match_genes(
    reference: Sequence[str] | Names, names: Sequence[str] | Names, *, min_fraction: float = 0.5
) -> GeneMatch:
    """Find each reference gene among ``names``, by exact name.

    Parameters
    ----------
    reference
        (reference genes,) unique names a model was trained with.
    names
        (genes,) unique names of new data.
    min_fraction
        Smallest share of the reference genes that must be found.

    Returns
    -------
    GeneMatch
        Positions, and what is missing or extra.

    Raises
    ------
    ValueError
        Names repeat, or too few match; the message says whether lower/upper case, Ensembl
        versions, or symbols against Ensembl ids is the reason.
    """
    reference_index, index = pd.Index(reference, dtype=object), pd.Index(names, dtype=object)
    checked_names(reference_index, "reference gene", "adata.var_names_make_unique()")
    checked_names(index, "gene", "adata.var_names_make_unique()")
    positions = index.get_indexer(reference_index).astype(np.int64)
    found = positions >= 0
    n_matched = int(found.sum())
    if n_matched == 0 or n_matched < min_fraction * len(positions):
        raise ValueError(
            f"{n_matched:,} of {len(positions):,} genes of the model are in the data, expected at "
            f"least {min_fraction:.0%}. The model has {_first(reference_index)}; the data have "
            f"{_first(index)}. {_mismatch_guess(reference_index, index, n_matched)}"
        )
    extra = index[~index.isin(reference_index)]
    return GeneMatch(positions, n_matched, tuple(reference_index[~found]), tuple(extra))


def align_counts(counts: sparse.csr_matrix, match: GeneMatch) -> sparse.csr_matrix:
    """Put columns in the order of the reference genes; missing genes are all zero.

    Parameters
    ----------
    counts
        (cells, genes) sparse CSR, columns as in the ``names`` of :func:`match_genes`.
    match
        Result of :func:`match_genes`.

    Returns
    -------
    (cells, reference genes) CSR
        Same dtype and scale as ``counts``.
    """
    n_names = match.n_matched + len(match.extra)
    if counts.shape[1] != n_names:
        raise ValueError(
            f"counts have {counts.shape[1]:,} genes, expected the {n_names:,} whose names were "
            "matched. Call match_genes with the names of these very columns."
        )
    target = np.full(n_names, -1, dtype=counts.indices.dtype)
    found = match.positions >= 0
    target[match.positions[found]] = np.flatnonzero(found)
    columns = target[counts.indices]
    aligned = _select(counts, columns >= 0, counts.data, columns, len(match.positions))
    aligned.sort_indices()
    return aligned


_ENSEMBL = re.compile(r"^ENS[A-Z]*G\d{6,}")


def _mismatch_guess(reference: pd.Index, names: pd.Index, n_matched: int) -> str:
    """Say in one or two sentences why names may not match, and what to do."""
    ours, theirs = _share_ensembl(reference), _share_ensembl(names)
    if ours > 0.5 > theirs:
        return (
            "The model uses Ensembl ids, the data gene symbols: "
            "set adata.var_names to the ids, often adata.var['gene_ids']."
        )
    if theirs > 0.5 > ours:
        return (
            "The data use Ensembl ids, the model gene symbols: "
            "set adata.var_names to the symbols, often adata.var['gene_symbols']."
        )
    if _n_common(reference, names, _without_version) > n_matched:
        return "Without the version (ENSG....5) more would match: remove it from both."
    n_any_case = _n_common(reference, names, str.upper)
    if n_any_case > n_matched:
        return (
            f"Ignoring case {n_any_case:,} would match: if the species is the same, "
            "change the case, e.g. adata.var_names = adata.var_names.str.upper()."
        )
    return "Is it the same species and gene annotation? Rename the genes, or train a new model."


def _share_ensembl(names: pd.Index) -> float:
    return float(np.mean([bool(_ENSEMBL.match(str(name))) for name in names])) if len(names) else 0


def _without_version(name: str) -> str:
    return name.split(".")[0] if _ENSEMBL.match(name) else name


def _n_common(reference: pd.Index, names: pd.Index, change: Any) -> int:
    """Return how many reference names are in ``names`` when both are changed."""
    there = {change(str(name)) for name in names}
    return sum(change(str(name)) in there for name in reference)
