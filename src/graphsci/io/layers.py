"""Dense layers of an AnnData file on disk, written in blocks of cells."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray

from graphsci.io.files import ANNDATA_SUFFIXES

#: Cells and genes of a chunk of a dense layer: the cells of a block of estimates, 4 MiB.
_CHUNK = (500, 2_048)


def stream_layers(
    path: str | os.PathLike[str],
    shape: tuple[int, int],
    names: Sequence[str],
    *,
    dtype: str = "float32",
    compression: str | None = None,
    embeddings: Mapping[str, int] | None = None,
    rows: slice | None = None,
    begun: bool = False,
) -> LayerWriter:
    """Add dense layers to a written ``.h5ad`` or ``.zarr``, a block of cells at a time.

    Parameters
    ----------
    path
        File written before, e.g. by :func:`graphsci.io.write_anndata`. For an output that is
        whole or not at all, write and stream inside one :func:`graphsci.io.files.atomic_path`.
    shape
        (cells, genes), as in the file.
    names
        Layers to add.
    dtype
        Of the stored values.
    compression
        None or "gzip"; also "lzf" for ``.h5ad``, "zstd" for ``.zarr``.
    embeddings
        Arrays of ``obsm`` to write besides: name and number of columns; always float32.
    rows
        The rows that come through this writer, where several processes share a ``.zarr``; all
        if None. Each process begins at a multiple of ``chunk_rows``, so that none writes into
        another's chunk.
    begun
        Whether another process has made the layers already, which then are only filled.

    Returns
    -------
    LayerWriter
        A context manager.

    Examples
    --------
    >>> with stream_layers(path, (n_cells, n_genes), ["denoised"]) as layers:  # doctest: +SKIP
    ...     layers.write(0, {"denoised": block})
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}: write the AnnData first, then layers.")
    if not path.name.lower().endswith(ANNDATA_SUFFIXES):
        raise ValueError(f"{path} ends in {path.suffix!r}, expected .h5ad or .zarr.")
    known = (None, "gzip", "zstd") if path.is_dir() else (None, "gzip", "lzf")
    if compression not in known:
        raise ValueError(
            f"compression is {compression!r}, expected one of {', '.join(map(repr, known))} "
            f"for {path.suffix}."
        )
    slots = {name: _Slot("layers", int(shape[1]), np.dtype(dtype)) for name in names}
    for name, width in (embeddings or {}).items():
        slots[name] = _Slot("obsm", width, np.dtype(np.float32))
    writer = LayerWriter(path, shape, slots, compression, begun=begun)
    if rows is not None:
        writer.expect(rows)
    return writer


class _Slot(NamedTuple):
    """Where a streamed array goes, and what it is."""

    group: str
    width: int
    dtype: np.dtype[Any]


class LayerWriter:
    """Streams dense layers into a file; made by :func:`stream_layers`.

    Values are stored with anndata's encoding of dense arrays, so that the file opens with
    ``anndata.read_h5ad`` or ``read_zarr``. Closing checks that every row was written once.

    Attributes
    ----------
    chunk_rows
        Rows stored together, with up to 2,048 columns. Compressed and zarr layers are written
        fastest in blocks that start and end at its multiples.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        slots: Mapping[str, _Slot],
        compression: str | None,
        *,
        begun: bool = False,
    ) -> None:
        self.path = path
        self._begun = begun
        self.shape = (int(shape[0]), int(shape[1]))
        self.slots = dict(slots)
        self.chunk_rows = max(1, min(self.shape[0], _CHUNK[0]))
        self._compression = compression
        self._stack = ExitStack()
        self._datasets: dict[str, Any] = {}
        self._written = np.zeros(self.shape[0], dtype=bool)

    def expect(self, rows: slice) -> None:
        """Leave all other rows to other processes."""
        if not self.path.is_dir():
            raise ValueError(f"{self.path} is one file, expected a .zarr for several processes.")
        start, stop, _ = rows.indices(self.shape[0])
        if start % self.chunk_rows and start < stop:
            raise ValueError(
                f"got rows from {start}, expected a multiple of {self.chunk_rows}: two processes "
                "would write into one chunk."
            )
        self._written[:start] = self._written[stop:] = True

    def __enter__(self) -> Self:
        with ExitStack() as stack:  # closes the file if a check fails
            root = self._open(stack)
            if self._begun:
                for name, slot in self.slots.items():
                    self._datasets[name] = root[slot.group][name]
                return self
            self._check_root(root)
            for name, slot in self.slots.items():
                group = root.require_group(slot.group)
                group.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
                self._datasets[name] = self._create(group, name, slot)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stack.close()
        self._datasets = {}
        if kind is None and not self._written.all():
            missing = np.flatnonzero(~self._written)
            raise ValueError(
                f"{len(missing):,} of {self.shape[0]:,} rows of the layers in {self.path} were "
                f"never written (first: {missing[0]}), expected all. Write every block of cells."
            )

    def write(self, start_row: int, blocks: Mapping[str, NDArray[Any]]) -> None:
        """Write consecutive rows of every layer.

        Parameters
        ----------
        start_row
            Row of the first cell of the blocks.
        blocks
            For each layer an array (rows, genes), for each embedding (rows, its columns).
        """
        stop_row = start_row + self._check_blocks(start_row, blocks)
        for name, block in blocks.items():
            values = np.asarray(block, dtype=self.slots[name].dtype)
            self._datasets[name][start_row:stop_row] = values
        self._written[start_row:stop_row] = True

    def _check_blocks(self, start_row: int, blocks: Mapping[str, NDArray[Any]]) -> int:
        """Return the number of rows; refuse blocks that do not fit."""
        if not self._datasets:
            raise ValueError("the layers are closed; write inside `with stream_layers(...)`.")
        if set(blocks) != set(self.slots):
            raise ValueError(
                f"got blocks for {sorted(blocks)}, expected one for each of {sorted(self.slots)}."
            )
        n_rows = len(next(iter(blocks.values())))
        for name, block in blocks.items():
            if np.shape(block) != (n_rows, self.slots[name].width):
                raise ValueError(
                    f"got a block of shape {np.shape(block)} for {name!r}, expected one shape "
                    f"({n_rows}, {self.slots[name].width}) of the same rows for all."
                )
        rows = slice(start_row, start_row + n_rows)
        if start_row < 0 or rows.stop > self.shape[0] or self._written[rows].any():
            raise ValueError(
                f"got rows {rows.start} to {rows.stop}, expected rows within 0 to {self.shape[0]} "
                "that were not written before."
            )
        return n_rows

    def _open(self, stack: ExitStack) -> Any:
        """Return the root group, h5py's or zarr's, open for changes."""
        if not self.path.is_dir():
            return stack.enter_context(h5py.File(self.path, "r+"))
        root = zarr.open_group(self.path, mode="r+", use_consolidated=False)
        if not self._begun:
            stack.callback(refresh_summary, self.path)
        return root

    def _check_root(self, root: Any) -> None:
        shape = tuple(_n_names(root[slot]) for slot in ("obs", "var"))
        if shape != self.shape:
            raise ValueError(
                f"layers of shape {self.shape} do not fit {self.path}, which is "
                f"{shape[0]:,} cells x {shape[1]:,} genes. Stream layers of the file's shape."
            )
        present = [name for name, at in self.slots.items() if name in root.get(at.group, ())]
        if present:
            raise ValueError(
                f"{self.path} has layers {', '.join(map(repr, present))} already, expected none of "
                "these names. Use another prefix, or remove them."
            )

    def _create(self, group: Any, name: str, slot: _Slot) -> Any:
        """Create one dense dataset with anndata's encoding."""
        make = self._create_zarr if self.path.is_dir() else self._create_h5
        dataset = make(group, name, (self.shape[0], slot.width), slot.dtype)
        dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return dataset

    def _create_h5(
        self, group: h5py.Group, name: str, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> h5py.Dataset:
        chunks = None if self._compression is None else self._chunks(shape)
        return group.create_dataset(
            name, shape, dtype, chunks=chunks, compression=self._compression
        )

    def _create_zarr(
        self, group: zarr.Group, name: str, shape: tuple[int, int], dtype: np.dtype[Any]
    ) -> Any:
        return group.create_array(
            name,
            shape=shape,
            dtype=dtype,
            chunks=self._chunks(shape),
            compressors=_zarr_codec(self._compression, group.metadata.zarr_format),
        )

    def _chunks(self, shape: tuple[int, int]) -> tuple[int, int]:
        return self.chunk_rows, max(1, min(shape[1], _CHUNK[1]))


def _n_names(frame: Any) -> int:
    """Return the number of rows of an on-disk data frame."""
    return int(frame[frame.attrs["_index"]].shape[0])


def _zarr_codec(compression: str | None, zarr_format: int) -> dict[str, Any] | None:
    """Return a compression as zarr's metadata writes it."""
    if compression is None:
        return None
    level = 5 if compression == "gzip" else 3
    if zarr_format == 2:
        return {"id": compression, "level": level}
    settings = {"level": level} | ({"checksum": False} if compression == "zstd" else {})
    return {"name": compression, "configuration": settings}


def refresh_summary(path: Path) -> None:
    """Renew a zarr store's summary of its metadata, if it has one: else new layers stay unseen."""
    if zarr.open_group(path, mode="r").metadata.consolidated_metadata is None:
        return
    with warnings.catch_warnings():
        # zarr warns that the summary is not in its format 3; the store came with one
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(path)
