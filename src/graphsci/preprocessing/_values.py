"""Every value of a matrix, looked at block by block, in memory or in a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci.advance import Meter
from graphsci.io.sources import (
    CHUNK_CELLS,
    DiskMatrix,
    as_float32,
    canonical_csr,
    read_ahead,
    row_totals,
    storable,
)
from graphsci.preprocessing._types import Mask

_VALUES_PER_BLOCK = 2**22  # dense or stored values looked at in one go
_CHECKING = "checking the counts"
#: Counts in so many genes have no double by chance.
_GENES_OF_A_DOUBLE = 50


class Found(NamedTuple):
    """What the values of a matrix are like."""

    n_not_finite: int = 0
    n_negative: int = 0
    n_fractional: int = 0
    max_rounding: float = 0.0  #: largest distance to the nearest integer
    minimum: float = 0.0
    maximum: float = 0.0

    def __add__(self, other: Found) -> Found:  # type: ignore[override]
        return Found(
            self.n_not_finite + other.n_not_finite,
            self.n_negative + other.n_negative,
            self.n_fractional + other.n_fractional,
            max(self.max_rounding, other.max_rounding),
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )


def inspect_values(values: NDArray[Any], meter: Meter | None = None) -> Found:
    """Count what is wrong with a 1-D array of values, in its own dtype."""
    found = Found()
    for start in range(0, len(values), _VALUES_PER_BLOCK):
        found += _inspect_block(values[start : start + _VALUES_PER_BLOCK])
        if meter is not None:
            meter.reach(min(start + _VALUES_PER_BLOCK, len(values)))
    return found


def _inspect_block(values: NDArray[Any]) -> Found:
    if values.dtype.kind in "iu":
        n_negative = int(np.count_nonzero(values < 0)) if values.dtype.kind == "i" else 0
        return Found(0, n_negative, 0, 0.0, float(values.min()), float(values.max()))
    finite = values[np.isfinite(values)]
    if not len(finite):
        return Found(n_not_finite=len(values))
    rounding = np.abs(finite - np.rint(finite))
    return Found(
        len(values) - len(finite),
        int(np.count_nonzero(finite < 0)),
        int(np.count_nonzero(rounding)),
        float(rounding.max()),
        float(finite.min()),
        float(finite.max()),
    )


class Rows(NamedTuple):
    """What tells of each cell's counts whether they are raw, and its own."""

    n_genes: NDArray[np.int64]  #: (cells,) genes with counts
    n_ones: NDArray[np.int64]  #: (cells,) genes with a count of 1
    fingerprints: NDArray[np.float64]  #: (cells,) shared by cells of the same counts alone

    @classmethod
    def of(cls, counts: sparse.csr_matrix) -> Rows:
        """Look at counts (cells, genes).

        A fingerprint is a sum of the counts with random weights, so that others have it by no
        practical chance; nan for few genes, which others have by chance.
        """
        weights = np.random.default_rng(0).uniform(1, 2, counts.shape[1])
        parts = []
        for start in range(0, counts.shape[0], CHUNK_CELLS):  # its products copy what they take
            part = counts[start : start + CHUNK_CELLS]
            n_genes = part.getnnz(axis=1).astype(np.int64)
            ones = np.concatenate([[0], np.cumsum(part.data == 1)])
            prints = np.where(n_genes < _GENES_OF_A_DOUBLE, np.nan, part @ weights)
            parts.append(cls(n_genes, np.diff(ones[part.indptr]), prints))
        return cls.together(parts)

    @classmethod
    def together(cls, parts: list[Rows]) -> Rows:
        """Of consecutive cells."""
        return cls(*(np.concatenate(part) for part in zip(*parts, strict=True)))


class Scan(NamedTuple):
    """What one pass over a file finds."""

    found: Found
    n_entries: int  #: values other than 0
    totals: NDArray[np.float64]  #: (cells,)
    detected: Mask  #: (genes,)
    rows: Rows


def scan_file(matrix: DiskMatrix) -> Scan:
    """Look at every value of a file, a chunk of rows at a time."""
    n_cells, n_genes = matrix.shape
    found, n_entries = Found(), 0
    totals, detected = np.zeros(n_cells), np.zeros(n_genes, dtype=bool)
    parts = []
    rows = [(at, min(at + CHUNK_CELLS, n_cells)) for at in range(0, n_cells, CHUNK_CELLS)]
    blocks = read_ahead(lambda at: canonical_csr(matrix.rows(*at)), rows)
    meter = Meter(_CHECKING, n_cells)
    for (start, stop), block in zip(rows, blocks, strict=True):
        found += inspect_values(block.data)
        n_entries += block.nnz
        with np.errstate(invalid="ignore"):  # infinite values are refused after the pass
            counts = as_float32(block)
            totals[start:stop] = row_totals(counts)
            parts.append(Rows.of(counts))
        detected |= np.bincount(block.indices, minlength=n_genes) > 0
        meter.reach(stop)
    return Scan(found, n_entries, totals, detected, Rows.together(parts))


def to_checked_csr(matrix: Any) -> tuple[sparse.csr_matrix, Found]:
    """Return the matrix as canonical float32 CSR, and what its values are like.

    Values are inspected before the cast, so that the cast cannot hide anything.
    """
    if _is_on_disk_columns(matrix):
        matrix = matrix.to_memory()
    if sparse.issparse(matrix):
        matrix = canonical_csr(matrix)
        values = matrix.data
        return as_float32(matrix), inspect_values(values, Meter(_CHECKING, len(values), "values"))
    found, n_seen, meter = Found(), 0, Meter(_CHECKING, matrix.shape[0])
    blocks = []
    for block in _row_blocks(matrix):
        found += inspect_values(block.data)
        blocks.append(as_float32(block))
        n_seen += block.shape[0]
        meter.reach(n_seen)
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
