"""AnnData files, ``.h5ad`` and ``.zarr``: read, opened so that matrices stay there, written."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anndata
import h5py
import zarr
from anndata import AnnData

from graphsci._words import few
from graphsci.io._hdf5 import content_hint
from graphsci.io._source import FileFormatError, GenesIn, Source
from graphsci.io.files import ANNDATA_SUFFIXES, atomic_path, check_writable, is_store


def read_h5ad(source: Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read an ``.h5ad``; ``backed`` leaves X and layers on disk."""
    with h5py.File(source.path, "r") as file:
        if "obs" not in file or "var" not in file:
            raise FileFormatError(
                f"{source.path} is HDF5 but no AnnData: it holds {few(list(file))}, expected "
                f"obs and var.{content_hint(file)}"
            )
        old = isinstance(file["obs"], h5py.Dataset)  # anndata below 0.7
    if backed and not old:
        return _open_h5ad(source.path)
    return anndata.read_h5ad(source.path, backed="r" if backed else None)


def _open_h5ad(path: Path) -> AnnData:
    """Return a backed AnnData whose layers stay on disk too, as anndata's own do not."""
    file = h5py.File(path, "r")  # closed with the layers; anndata opens X for itself
    slots = {**_small_slots(file), "layers": _stored_layers(file)}
    if "X" not in file:  # anndata fails where the X of a backed AnnData without one is asked for
        return AnnData(**slots)
    raw = file.get("raw")
    if isinstance(raw, h5py.Group):  # a raw that is None may be stored as null
        slots["raw"] = {key: anndata.io.read_elem(raw[key]) for key in ("var", "varm")}
    return AnnData(filename=path, filemode="r", **slots)


def read_zarr(source: Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read a zarr store; ``backed`` leaves X and layers on disk."""
    group = zarr.open_group(source.path, mode="r")
    if "obs" not in group or "var" not in group:
        raise FileFormatError(
            f"{source.path} is a zarr store but no AnnData: it holds "
            f"{few(sorted(group.keys())) or 'nothing'}, expected obs and var. "
            "Write it with anndata's write_zarr."
        )
    return _open_zarr(group) if backed else anndata.read_zarr(group)


def _open_zarr(group: Any) -> AnnData:
    """Return an AnnData whose X and layers stay on disk."""
    matrix = _on_disk(group["X"]) if "X" in group else None
    return AnnData(X=matrix, layers=_stored_layers(group), **_small_slots(group))


def _small_slots(root: Any) -> dict[str, Any]:
    """Read what is small beside the matrices; a file need not have all of it."""
    slots = ("obs", "var", "obsm", "varm", "obsp", "varp", "uns")
    return {key: anndata.io.read_elem(root[key]) for key in slots if key in root}


def _stored_layers(root: Any) -> dict[str, Any]:
    """Return the layers of a file, left in it."""
    group = root.get("layers", {})
    return {name: _on_disk(group[name]) for name in group}


def _on_disk(element: Any) -> Any:
    is_sparse = isinstance(element, zarr.Group | h5py.Group)
    return anndata.io.sparse_dataset(element) if is_sparse else element


def written_as_is() -> AbstractContextManager[None]:
    """Context in which anndata writes text of pandas' own type, and zarr without shards.

    Shards are what anndata announces for later; chunks alone are what can be written in blocks.
    """
    wanted = {"allow_write_nullable_strings": True, "auto_shard_zarr_v3": False}
    known = {name: value for name, value in wanted.items() if hasattr(anndata.settings, name)}
    return anndata.settings.override(**known)


def write_anndata(
    adata: AnnData, path: str | os.PathLike[str], *, compression: str | None = "gzip"
) -> None:
    """Write an AnnData as ``.h5ad`` or ``.zarr``, whole or not at all.

    ``adata`` is not changed (anndata itself would turn its strings into categories).

    Parameters
    ----------
    adata
        In memory or backed.
    path
        Output; the ending says which format.
    compression
        Of an ``.h5ad``: "gzip", "lzf" or None. A ``.zarr`` has zarr's default compression.
    """
    path = check_writable(path, suffixes=ANNDATA_SUFFIXES)
    with atomic_path(path) as temporary, written_as_is():
        if is_store(path):
            # format 2 is what every anndata that reads zarr can open
            group = zarr.open_group(temporary, mode="w", zarr_format=2)
            anndata.io.write_elem(group, "/", adata)
        else:
            options = {"compression": compression, "convert_strings_to_categoricals": False}
            anndata.io.write_h5ad(temporary, adata, **options)
