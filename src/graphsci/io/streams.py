"""AnnData files that are copied and extended without being in memory.

What a run on disk writes: a copy of its input, element by element and the matrices in chunks,
and beside it tables and sparse layers that grow a block of cells at a time. Dense layers are
in :func:`graphsci.io.layers.stream_layers`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import anndata
import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy import sparse

from graphsci.advance import Meter
from graphsci.io import written_as_is
from graphsci.io.files import is_store
from graphsci.io.layers import refresh_summary
from graphsci.io.sources import CHUNK_CELLS, DiskMatrix, is_on_disk

if TYPE_CHECKING:
    from anndata import AnnData

#: Rows of a table that are held back and written together: few, large pieces.
_TABLE_ROWS = 2**16
#: Elements that hold others, each of which is whole in itself.
_OF_ELEMENTS = ("layers", "obsm", "varm", "obsp", "varp", "uns")
#: What is small beside the matrices, and read and written as a whole.
_SMALL = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")


def copy_anndata(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    without: Collection[str] = (),
) -> None:
    """Copy an ``.h5ad`` or ``.zarr`` file, if need be from one format to the other.

    Between files of one format everything is copied as it is stored. From one to the other,
    matrices are read and written in chunks of cells, the rest element by element.

    Parameters
    ----------
    source, target
        Files or folders; ``target`` must not exist.
    without
        Elements to leave out, e.g. ``{"layers/denoised", "uns/graphsci"}``.

    Raises
    ------
    ValueError
        If ``without`` has a part of an element, such as a column of ``obs``: the rest could not
        be read.
    """
    for name in without:
        element, *inner = name.split("/")
        if len(inner) > (element in _OF_ELEMENTS):
            raise ValueError(
                f"without: got {name!r}, a part of an element, expected one that is whole, such as "
                "'obs' or 'layers/denoised'. Leave it out and write what is left of it "
                "(add_elements)."
            )
    source, target = Path(source), Path(target)
    if is_store(source) and is_store(target):
        dropped = {str(source / name) for name in without}
        shutil.copytree(
            source,
            target,
            ignore=lambda folder, names: [
                name for name in names if str(Path(folder) / name) in dropped
            ],
        )
        refresh_summary(target)
    elif not is_store(source) and not is_store(target):
        with h5py.File(source, "r") as old, h5py.File(target, "w") as new:
            _copy_h5(old, new, set(without))
    else:
        with open_store(source, "r") as old, open_store(target, "w") as new:
            _convert(old, new, set(without))


def _copy_h5(old: h5py.Group, new: h5py.Group, without: set[str]) -> None:
    """Copy a group as stored, and go into it only where something is left out."""
    new.attrs.update(old.attrs)
    for key in old:
        inside = {name.partition("/")[2] for name in without if name.partition("/")[0] == key}
        if "" in inside:
            continue
        if inside:
            _copy_h5(old[key], new.create_group(key), inside)
        else:
            old.copy(key, new)


def _convert(old: Any, new: Any, without: set[str]) -> None:
    """Write the elements of one format in the other."""
    new.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    for key in _SMALL:
        if key in old:
            value = anndata.io.read_elem(old[key])
            for name in without:
                group, _, inner = name.partition("/")
                if group == key and inner:
                    value.pop(inner, None)
            anndata.io.write_elem(new, key, value)
    layers = new.create_group("layers")
    layers.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
    matrices = [*(["X"] if "X" in old else []), *(f"layers/{n}" for n in old.get("layers", ()))]
    if "raw" in old and "X" in old["raw"] and "raw" not in without:
        raw = new.create_group("raw")
        raw.attrs.update({"encoding-type": "raw", "encoding-version": "0.1.0"})
        for key in ("var", "varm"):
            if key in old["raw"]:
                anndata.io.write_elem(raw, key, anndata.io.read_elem(old["raw"][key]))
        matrices.append("raw/X")
    for name in matrices:
        if name not in without:
            _copy_matrix(old[name], new, name)


def _copy_matrix(stored: Any, new: Any, name: str) -> None:
    """Write a sparse or dense matrix in chunks of cells; columns (CSC) as a whole."""
    kind = stored.attrs["encoding-type"]
    if kind not in ("csr_matrix", "array"):
        anndata.io.write_elem(new, name, anndata.io.read_elem(stored))
        return
    on_disk = anndata.io.sparse_dataset(stored) if kind == "csr_matrix" else stored
    rows = DiskMatrix(on_disk, name)
    writer = SparseWriter(new, name) if kind == "csr_matrix" else None
    if writer is None:
        make = new.create_dataset if isinstance(new, h5py.Group) else new.create_array
        dense = make(name, shape=rows.shape, dtype=stored.dtype)
        dense.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    meter = Meter(f"copying {name}", rows.shape[0])
    for start in range(0, rows.shape[0], CHUNK_CELLS):
        stop = min(start + CHUNK_CELLS, rows.shape[0])
        if writer is None:
            dense[start:stop] = stored[start:stop]
        else:
            writer.append(rows.rows(start, stop))
        meter.reach(stop)


def take_cells(adata: AnnData, cells: NDArray[np.int64]) -> AnnData:
    """Return some cells in memory, with what is in ``X``, ``layers``, ``obs`` and ``obsm``.

    Of matrices in a file only these rows are read, unless they are stored by columns.
    """
    from anndata import AnnData
    from anndata.abc import CSCDataset, CSRDataset

    def rows(matrix: Any) -> Any:
        if isinstance(matrix, CSCDataset):
            matrix = matrix.to_memory()
        if not is_on_disk(matrix):
            return matrix[cells]
        if not isinstance(matrix, CSRDataset):
            return np.stack([matrix[int(cell)] for cell in cells])
        stored = DiskMatrix(matrix, "the matrix")
        return sparse.csr_matrix(
            sparse.vstack([stored.rows(int(cell), int(cell) + 1) for cell in cells], format="csr")
        )

    return AnnData(
        None if adata.X is None else rows(adata.X),
        obs=adata.obs.iloc[cells].copy(),
        var=adata.var.copy(),
        layers={name: rows(adata.layers[name]) for name in adata.layers},
        obsm={
            name: value.iloc[cells] if hasattr(value, "iloc") else value[cells]
            for name, value in adata.obsm.items()
        },
    )


@contextmanager
def open_store(path: Path, mode: Literal["r", "r+", "w"]) -> Iterator[Any]:
    """Open an ``.h5ad`` or ``.zarr`` as h5py's or zarr's root group."""
    with written_as_is():
        if not is_store(path):
            with h5py.File(path, mode) as file:
                yield file
            return
        options: dict[str, Any] = {"zarr_format": 2} if mode == "w" else {"use_consolidated": False}
        yield zarr.open_group(path, mode=mode, **options)
    if mode != "r":
        refresh_summary(path)


def add_elements(path: str | os.PathLike[str], elements: Mapping[str, Any]) -> None:
    """Write elements into a file, e.g. ``{"uns/graphsci": {...}}``; those there are replaced."""
    with open_store(Path(path), "r+") as root:
        for name, value in elements.items():
            anndata.io.write_elem(root, name, value)


def add_column(path: str | os.PathLike[str], table: str, name: str, values: Any) -> None:
    """Add a column to a table of a file, e.g. ``obs``; the others stay as they are stored."""
    with open_store(Path(path), "r+") as root:
        anndata.io.write_elem(root[table], name, values)
        columns = [str(column) for column in root[table].attrs["column-order"]]
        root[table].attrs["column-order"] = [*(c for c in columns if c != name), name]


class SparseWriter:
    """A CSR matrix in a file that grows by rows.

    Parameters
    ----------
    root
        Group that is open for writing.
    name
        Where in it.
    compression
        "gzip" or None; in zarr its default.
    """

    def __init__(self, root: Any, name: str, *, compression: str | None = None) -> None:
        self._root, self._name = root, name
        self._options = {"compression": compression} if isinstance(root, h5py.Group) else {}
        self._started = False

    def append(self, block: sparse.csr_matrix) -> None:
        """Add rows below those there."""
        if self._started:
            anndata.io.sparse_dataset(self._root[self._name]).append(block)
            return
        block = sparse.csr_matrix(block)
        block.indptr = block.indptr.astype(np.int64)  # a large file has more than 2^31 values
        anndata.io.write_elem(self._root, self._name, block, dataset_kwargs=self._options)
        self._started = True


class TableWriter:
    """Tables of ``obsm`` (cells, columns) that are written a block of cells at a time.

    Each column is an array of the file, as anndata encodes data frames. Rows are held back
    until there are 65,536, or the last.

    Parameters
    ----------
    root
        Group that is open for writing, with an ``obs`` whose names become the index.
    names
        For each estimate the name of its table.
    columns
        The same for all.
    dtype
        Of the values.
    """

    def __init__(
        self,
        root: Any,
        names: Mapping[str, str],
        columns: Sequence[str],
        *,
        dtype: str = "float32",
    ) -> None:
        index = root["obs"].attrs["_index"]
        cells = anndata.io.read_elem(root["obs"][index])
        self._start = 0
        self._held: dict[str, list[NDArray[Any]]] = {name: [] for name in names}
        self._tables = {}
        root.require_group("obsm")
        for name, place in names.items():
            if place in root["obsm"]:
                del root["obsm"][place]
            # only this kind of HDF5 group holds the names of 5,000 columns (anndata, issue 874)
            options = {"track_order": True} if isinstance(root, h5py.Group) else {}
            table = root["obsm"].create_group(place, **options)
            table.attrs.update(
                {
                    "encoding-type": "dataframe",
                    "encoding-version": "0.2.0",
                    "_index": "_index",
                    "column-order": list(columns),
                }
            )
            anndata.io.write_elem(table, "_index", cells)
            self._tables[name] = [
                _new_column(table, column, len(cells), np.dtype(dtype)) for column in columns
            ]
        self._n_cells = len(cells)

    def append(self, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Add rows (rows, columns) to every table."""
        for name, block in blocks.items():
            self._held[name].append(block)
        n_held = sum(map(len, next(iter(self._held.values()))))
        if n_held >= _TABLE_ROWS or self._start + n_held == self._n_cells:
            self._write(n_held)

    def _write(self, n_rows: int) -> None:
        rows = slice(self._start, self._start + n_rows)
        for name, parts in self._held.items():
            values = np.concatenate(parts)
            parts.clear()
            for column, dataset in enumerate(self._tables[name]):
                dataset[rows] = values[:, column].astype(dataset.dtype)
        self._start = rows.stop


def _new_column(table: Any, name: str, length: int, dtype: np.dtype[Any]) -> Any:
    """Create one column."""
    options = {"shape": (length,), "dtype": dtype, "chunks": (min(length, _TABLE_ROWS),)}
    make = table.create_dataset if isinstance(table, h5py.Group) else table.create_array
    dataset = make(name, **options)
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return dataset


class SparseLayers:
    """Layers that keep only the values of at least a threshold, and count what they drop.

    A standard deviation or bound (``denoised_sd``, ...) is kept where its estimate
    (``denoised``) is. NaN is kept.
    """

    def __init__(
        self,
        root: Any,
        layers: Mapping[str, str],
        *,
        below: float,
        compression: str | None,
    ) -> None:
        self.below = below
        root.require_group("layers")
        self._writers = {
            name: SparseWriter(root, f"layers/{layer}", compression=compression)
            for name, layer in layers.items()
        }
        self._dropped = {name: np.zeros(4) for name in layers}  # entries, all; sum, total

    def append(self, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Add rows (rows, genes) to every layer, by name of the estimate."""
        for name, values in blocks.items():
            leader = blocks["denoised"] if name.startswith("denoised_") else values
            keep = ~(leader < self.below)
            kept = np.where(keep, values, 0).astype(np.float32)  # scipy knows no float16
            self._writers[name].append(sparse.csr_matrix(kept))
            lost = values[~keep]
            sums = lost.sum(dtype=float), np.nansum(values, dtype=float)
            self._dropped[name] += np.array([np.count_nonzero(lost), values.size, *sums])

    def dropped(self) -> dict[str, dict[str, float]]:
        """Share of the entries, and of the sum of all values, that was not written."""
        return {
            name: {
                "below": self.below,
                "share_of_entries": entries / max(n, 1),
                "share_of_sum": lost / total if total > 0 else 0.0,
            }
            for name, (entries, n, lost, total) in self._dropped.items()
        }
