"""Where counts come from: a matrix in memory, or a file that is read in rows of cells.

Everything that learns or estimates asks a :class:`CountSource` for consecutive rows and gets
the same float32 CSR whichever it is. A file is never read as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

#: Cells that are read together: 94,000 a second were read so, 14,000 one by one.
CHUNK_CELLS = 2_000
#: Values of a dense file that are read in one go.
_DENSE_VALUES = 2**22

Key = TypeVar("Key")
T = TypeVar("T")


class CountSource(Protocol):
    """Checked counts of all cells and genes, in the order they came in."""

    @property
    def shape(self) -> tuple[int, int]:
        """(cells, genes)."""
        ...

    @property
    def n_entries(self) -> int:
        """Number of counts above 0."""
        ...

    @property
    def on_disk(self) -> bool:
        """Whether they are read from a file each time."""
        ...

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells ``start:stop``, (stop - start, genes), canonical CSR float32."""
        ...


class MemoryCounts:
    """Counts in memory, canonical CSR float32; nothing is copied but the rows asked for."""

    on_disk = False

    def __init__(self, matrix: sparse.csr_matrix) -> None:
        self.matrix = matrix

    @property
    def shape(self) -> tuple[int, int]:
        """(cells, genes)."""
        return self.matrix.shape

    @property
    def n_entries(self) -> int:
        """Number of counts above 0."""
        return int(self.matrix.nnz)

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells ``start:stop``."""
        return self.matrix[start:stop]


class DividedCounts:
    """Counts of another source, those of each gene divided by a number; ``divisors`` (genes,)."""

    def __init__(self, source: CountSource, divisors: NDArray[np.float32]) -> None:
        self.source, self.divisors = source, divisors

    @property
    def shape(self) -> tuple[int, int]:
        """(cells, genes)."""
        return self.source.shape

    @property
    def n_entries(self) -> int:
        """Number of counts above 0."""
        return self.source.n_entries

    @property
    def on_disk(self) -> bool:
        """Whether those of the other source are."""
        return self.source.on_disk

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Return the cells ``start:stop``, divided; their structure is shared."""
        return divide(self.source.rows(start, stop), self.divisors)


def divide(counts: sparse.csr_matrix, divisors: NDArray[np.float32]) -> sparse.csr_matrix:
    """Divide the counts (cells, genes) of each gene by one of the ``divisors`` (genes,)."""
    arrays = counts.data / divisors[counts.indices], counts.indices, counts.indptr
    return sparse.csr_matrix(arrays, shape=counts.shape)


def divided(source: CountSource, divisors: NDArray[np.float32]) -> CountSource:
    """Return counts / ``divisors`` (genes,); the source itself where that changes nothing."""
    return DividedCounts(source, divisors) if (divisors != 1).any() else source


class DiskMatrix:
    """Rows of a matrix in an ``.h5ad`` or ``.zarr`` file, in the file's own dtype.

    Parameters
    ----------
    stored
        A CSR dataset of AnnData (backed ``X`` or layer), or a dense HDF5 or zarr array.
    where
        What it is called in messages.

    Raises
    ------
    ValueError
        If it is stored by columns (CSC), which cannot be read in rows.
    """

    def __init__(self, stored: Any, where: str) -> None:
        from anndata.abc import CSCDataset, CSRDataset

        if isinstance(stored, CSCDataset):
            raise ValueError(
                f"{where} is stored by columns (CSC), expected rows (CSR): cells cannot be read "
                "in blocks from it. Read the file into memory (adata.to_memory(); command line: "
                f"--no-backed) or store it as CSR: {where} = {where}.tocsr()."
            )
        self.where, self.shape = where, (int(stored.shape[0]), int(stored.shape[1]))
        self._dense = None if isinstance(stored, CSRDataset) else stored
        if self._dense is None:
            group = stored.group
            self._indptr = np.asarray(group["indptr"][:], dtype=np.int64)
            self._indices, self._data = group["indices"], group["data"]

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read the cells ``start:stop``, (stop - start, genes).

        Raises
        ------
        OSError
            If the file can no longer be read.
        """
        try:
            return self._read(start, stop)
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise OSError(
                f"cells {start:,} to {stop:,} of {self.where} could not be read: {error}. "
                "Was the file moved, removed or closed while it was in use?"
            ) from error

    def _read(self, start: int, stop: int) -> sparse.csr_matrix:
        shape = (stop - start, self.shape[1])
        if self._dense is not None:
            step = max(1, _DENSE_VALUES // self.shape[1])
            parts = [
                to_csr(self._dense[at : min(at + step, stop)]) for at in range(start, stop, step)
            ]
            return sparse.csr_matrix(sparse.vstack(parts, format="csr"))
        first, last = int(self._indptr[start]), int(self._indptr[stop])
        indices = np.asarray(self._indices[first:last]).astype(np.int32, copy=False)
        data = storable(np.asarray(self._data[first:last]))
        indptr = (self._indptr[start : stop + 1] - first).astype(np.int32)
        return sparse.csr_matrix((data, indices, indptr), shape=shape)


class DiskCounts:
    """Counts of a file, checked once from end to end (``preprocessing.open_counts``).

    Every later read of a chunk must have the total that it had when it was checked: a chunk of
    a zarr store that vanishes would otherwise read as zeros.
    """

    on_disk = True

    def __init__(
        self,
        matrix: DiskMatrix,
        *,
        n_entries: int,
        totals: NDArray[np.float64],
    ) -> None:
        self._matrix, self._n_entries = matrix, n_entries
        self.totals = totals  #: (cells,) all counts of each

    @property
    def shape(self) -> tuple[int, int]:
        """(cells, genes)."""
        return self._matrix.shape

    @property
    def n_entries(self) -> int:
        """Number of counts above 0."""
        return self._n_entries

    def rows(self, start: int, stop: int) -> sparse.csr_matrix:
        """Read the cells ``start:stop``.

        Raises
        ------
        OSError
            If the file cannot be read, or holds other counts than when it was checked.
        """
        counts = as_float32(canonical_csr(self._matrix.rows(start, stop)))
        if not np.allclose(row_totals(counts), self.totals[start:stop], rtol=1e-6):
            raise OSError(
                f"cells {start:,} to {stop:,} of {self._matrix.where} are not what they were when "
                "the counts were checked: the file was changed or parts of it are gone. Leave it "
                "alone until the run has ended, then start again."
            )
        return counts


def read_ahead(read: Callable[[Key], T], keys: Iterable[Key]) -> Iterator[T]:
    """Yield ``read(key)`` for every key; a thread reads the next while this one is used.

    At most two results are alive at a time: the one in use and the one being read.
    """
    keys = list(keys)
    if len(keys) < 2:
        yield from map(read, keys)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="graphsci-reader") as reader:
        coming = reader.submit(read, keys[0])
        for key in keys[1:]:
            present, coming = coming.result(), reader.submit(read, key)
            yield present
            del present
        yield coming.result()


def row_totals(counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Return the total of every row, summed in float64."""
    return np.asarray(counts @ np.ones(counts.shape[1], dtype=np.float64))


def is_on_disk(matrix: Any) -> bool:
    """Whether a matrix of an AnnData is left in a file."""
    return type(matrix).__module__.split(".")[0] in ("h5py", "zarr") or hasattr(matrix, "group")


def to_csr(matrix: Any) -> sparse.csr_matrix:
    """Return a matrix in memory, sparse or dense of any dtype, as CSR that scipy computes with."""
    if not sparse.issparse(matrix):
        return sparse.csr_matrix(storable(np.asarray(matrix)))
    return sparse.csr_matrix(matrix.astype(_storable_dtype(matrix.dtype), copy=False))


def canonical_csr(matrix: Any) -> sparse.csr_matrix:
    """Return sorted CSR without duplicates and explicit zeros.

    The input's dtype is kept, but for integers whose duplicates are summed, in 64 bits.
    """
    csr = to_csr(matrix)
    if csr.has_canonical_format and csr.data.all():
        return csr
    if csr.dtype.kind in "iu" and csr.dtype.itemsize < 8 and _has_duplicates(csr):
        csr = csr.astype(np.int64)
    elif sparse.issparse(matrix) and np.shares_memory(csr.data, matrix.data):
        csr = csr.copy()
    csr.sum_duplicates()
    csr.eliminate_zeros()
    return csr


def _has_duplicates(csr: sparse.csr_matrix) -> bool:
    if csr.has_canonical_format:
        return False
    ordered = csr.copy()
    ordered.sort_indices()
    return not ordered.has_canonical_format


def as_float32(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """Return the matrix with float32 values, its structure shared."""
    with np.errstate(over="ignore"):  # an overflow is reported as a value that is too large
        data = matrix.data.astype(np.float32, copy=False)
    return sparse.csr_matrix((data, matrix.indices, matrix.indptr), shape=matrix.shape)


def storable(values: NDArray[Any]) -> NDArray[Any]:
    """Return values in a dtype that scipy's sparse matrices can hold, unchanged in value."""
    return values.astype(_storable_dtype(values.dtype), copy=False)


def _storable_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype == np.float16 else dtype.newbyteorder("=")
