"""The matrix of an AnnData, with its names and batches, before its values are looked at."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsci._words import GENE_FEATURE, few
from graphsci.preprocessing._types import Names
from graphsci.preprocessing.batches import extract_batch
from graphsci.preprocessing.names import as_names, checked_names, repeated_names

if TYPE_CHECKING:
    from anndata import AnnData


#: A cell's barcode, with what pipelines put after it: AAACCTGAGCATCATC-1, or a sample before it.
_BARCODE = re.compile(r"(?:\w+[_:#-])?[ACGT]{10,}(?:[-_.]\w+)?x?")


class Opened(NamedTuple):
    """A matrix of an AnnData with its names, before its values were looked at."""

    matrix: Any
    where: str
    cell_names: Names
    gene_names: Names
    batch: NDArray[np.int64] | None
    batch_names: tuple[str, ...]
    notes: list[str]


def open_matrix(adata: AnnData, layer: str | None, batch_key: str | None, min_cells: int) -> Opened:
    """Refuse everything but values."""
    check_is_anndata(adata)
    matrix = find_matrix(adata, layer)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    _check_shape(matrix.shape, where, min_cells)
    _check_dtype(matrix, where)
    gene_names = checked_names(adata.var_names, "gene", "adata.var_names_make_unique()")
    _refuse_barcodes(gene_names, where)
    _refuse_other_features(adata)
    batch, batch_names, notes = extract_batch(adata, batch_key)
    repeated = repeated_names(adata.obs_names)
    if len(repeated):
        notes.append(
            f"Cell names occur more than once ({len(repeated):,}: {few(repeated)}): no matter "
            "here, but cells cannot be chosen by name."
        )
    cell_names = as_names(adata.obs_names)
    return Opened(matrix, where, cell_names, gene_names, batch, batch_names, notes)


def check_is_anndata(adata: object) -> None:
    """Refuse anything but an AnnData with a TypeError that says what to do."""
    import anndata

    if not isinstance(adata, anndata.AnnData):
        raise TypeError(
            f"got a {type(adata).__name__}, expected an AnnData (cells x genes). "
            "Wrap an array with anndata.AnnData(X), or read a file with graphsci.io.read_counts."
        )


def find_matrix(adata: AnnData, layer: str | None) -> Any:
    """Return ``X`` or a layer, or say what there is instead."""
    if layer is not None and layer not in adata.layers:
        raise ValueError(
            f"there is no layer {layer!r}; {layers_present(adata)} "
            "Name one of these, or leave `layer` out to use adata.X."
        )
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        raise ValueError(
            f"adata.X is empty (None), expected raw counts; {layers_present(adata)} "
            "Name the one with raw counts: `layer=` (`--layer`)."
        )
    return matrix


def layers_present(adata: AnnData) -> str:
    """Say which layers there are."""
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


def _refuse_other_features(adata: AnnData) -> None:
    """Refuse antibodies, guides or peaks among the genes, as 10x files name them."""
    if "feature_types" not in adata.var:
        return
    types = adata.var["feature_types"].astype(str).value_counts()
    if len(types) > 1 and GENE_FEATURE in types:
        others = ", ".join(f"{n:,} {name}" for name, n in types.items() if name != GENE_FEATURE)
        raise ValueError(
            f"adata.var['feature_types'] names {types[GENE_FEATURE]:,} genes and {others}, "
            "expected genes alone: the others would count as the cell's molecules. Choose the "
            f"genes: adata[:, adata.var['feature_types'] == {GENE_FEATURE!r}].copy()"
        )


def _refuse_barcodes(gene_names: Names, where: str) -> None:
    """Refuse genes that are called like cells: the matrix lies on its side."""
    like_barcodes = [name for name in gene_names[:1000] if _BARCODE.fullmatch(name)]
    if len(like_barcodes) > len(gene_names[:1000]) / 2:
        raise ValueError(
            f"the genes of {where} are called like cells ({few(like_barcodes)}), expected cells x "
            "genes. Turn the matrix round: adata.T (a table on the command line: the other "
            "--genes-in)."
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
