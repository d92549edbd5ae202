"""Loom files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from graphsci._words import few
from graphsci.io._hdf5 import content_hint
from graphsci.io._source import VALUES_PER_BLOCK, FileFormatError, GenesIn, Source, compact
from graphsci.io.sources import to_csr

_LOOM_GENES = ("Gene", "var_names", "gene_names", "GeneName", "Accession")
_LOOM_CELLS = ("CellID", "obs_names", "cell_names", "Barcode")


def read_loom(source: Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read a loom file (HDF5, genes x cells) without the loompy package."""
    with h5py.File(source.path, "r") as file:
        if not {"matrix", "row_attrs", "col_attrs"} <= set(file):
            raise FileFormatError(
                f"{source.path} is HDF5 but no loom file: it holds {few(list(file))}, expected "
                f"matrix, row_attrs and col_attrs.{content_hint(file)}"
            )
        var = _loom_attributes(source, file["row_attrs"], _LOOM_GENES, "gene")
        obs = _loom_attributes(source, file["col_attrs"], _LOOM_CELLS, "cell")
        layers = {name: _transposed_csr(item) for name, item in file.get("layers", {}).items()}
        return AnnData(_transposed_csr(file["matrix"]), obs=obs, var=var, layers=layers)


def _loom_attributes(
    source: Source, group: h5py.Group, name_keys: Sequence[str], kind: str
) -> pd.DataFrame:
    """Return one-dimensional attributes as columns, indexed by the names."""
    key = next((key for key in name_keys if key in group), None)
    if key is None:
        raise FileFormatError(
            f"{source.path} has no names of {kind}s: its attributes are "
            f"{few(list(group)) or 'none'}, expected one of {', '.join(name_keys)}. "
            "Add it, or convert the file to .h5ad."
        )
    columns = {name: _loom_values(item) for name, item in group.items() if item.ndim == 1}
    index = pd.Index(columns.pop(key).astype(str), dtype=object)
    return pd.DataFrame(columns, index=index)


def _loom_values(dataset: h5py.Dataset) -> NDArray[Any]:
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    values: NDArray[Any] = dataset.asstr()[()] if is_text else dataset[()]
    return values


def _transposed_csr(dataset: h5py.Dataset) -> sparse.csr_matrix:
    """Read a dense dataset in blocks of rows; return its transpose as CSR."""
    step = max(1, VALUES_PER_BLOCK // max(1, dataset.shape[1]))
    starts = range(0, dataset.shape[0], step)
    blocks = [to_csr(dataset[start : start + step]) for start in starts]
    return compact(sparse.vstack(blocks, format="csr").T)
