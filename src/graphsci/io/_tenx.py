"""10x: Cell Ranger's HDF5 file and its folder."""

from __future__ import annotations

import csv
import inspect
import logging
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.io import mmread

from graphsci._words import GENE_FEATURE, few
from graphsci.io._hdf5 import content_hint, matrix_groups
from graphsci.io._source import FileFormatError, GenesIn, Source, compact, plain_or_gz

logger = logging.getLogger("graphsci")


def read_10x_h5(source: Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read Cell Ranger's HDF5: version 3 (/matrix) or 2 (one group for each genome)."""
    with h5py.File(source.path, "r") as file:
        groups = matrix_groups(file)
        if len(groups) != 1:
            found = f"matrices for {few(groups)}" if groups else few(list(file)) or "nothing"
            raise FileFormatError(
                f"{source.path} holds {found}, expected one 10x matrix."
                + (" Split it by genome first." if groups else content_hint(file))
            )
        group = file[groups[0]]
        shape = (group["shape"][1], group["shape"][0])  # stored as features x barcodes, CSC
        matrix = sparse.csr_matrix(
            (group["data"][()], group["indices"][()], group["indptr"][()]), shape=shape
        )
        matrix.check_format(full_check=True)
        cells = group["barcodes"].asstr()[()]
        return _from_10x(source, matrix, cells, _10x_h5_features(group))


def _10x_h5_features(group: h5py.Group) -> pd.DataFrame:
    """Return ids, symbols and types of the features."""
    if "features" not in group:
        columns = {"gene_ids": group["genes"], "symbol": group["gene_names"]}
    else:
        features = group["features"]
        columns = {"gene_ids": features["id"], "symbol": features["name"]}
        columns |= {"feature_types": features["feature_type"]}
        columns |= {"genome": features["genome"]} if "genome" in features else {}
    return pd.DataFrame({key: values.asstr()[()] for key, values in columns.items()}, dtype=object)


def read_10x_folder(source: Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read Cell Ranger's folder: version 3 (features.tsv.gz) or 2 (genes.tsv)."""
    matrix_file = _10x_file(source, "matrix.mtx")
    barcodes = _read_names(_10x_file(source, "barcodes.tsv"))
    features = _read_names(_10x_file(source, "features.tsv", "genes.tsv"))
    # scipy 1.18 warns unless told which kind of matrix is wanted; older ones lack the argument
    kind = {"spmatrix": True} if "spmatrix" in inspect.signature(mmread).parameters else {}
    matrix = mmread(matrix_file, **kind)
    if matrix.shape != (len(features), len(barcodes)):
        raise FileFormatError(
            f"{matrix_file} is {matrix.shape[0]:,} x {matrix.shape[1]:,}, expected "
            f"{len(features):,} features x {len(barcodes):,} barcodes, as the files beside it say. "
            "Do the three files belong together?"
        )
    if features.shape[1] == 1:
        features[1] = features[0]
    columns = dict(enumerate(("gene_ids", "symbol", "feature_types")))
    table = features.iloc[:, :3].rename(columns=columns)
    return _from_10x(source, sparse.csr_matrix(matrix.T), barcodes[0].to_numpy(), table)


def _10x_file(source: Source, *names: str) -> Path:
    """Return the first of the files that is there, plain or compressed."""
    for name in names:
        found = plain_or_gz(source.path / f"{source.prefix}{name}")
        if found is not None:
            return found
    wanted = " or ".join(f"{source.prefix}{name}" for name in names)
    raise FileFormatError(
        f"{source.path} lacks {wanted} (plain or .gz), expected beside {source.prefix}matrix.mtx. "
        "Copy all three files of the 10x matrix into one folder."
    )


def _read_names(path: Path) -> pd.DataFrame:
    """Read a headless tab-separated file as text; a gene may be called NA."""
    return pd.read_csv(
        path, sep="\t", header=None, dtype=object, keep_default_na=False, quoting=csv.QUOTE_NONE
    )


def _from_10x(
    source: Source, matrix: sparse.csr_matrix, cells: NDArray[Any], features: pd.DataFrame
) -> AnnData:
    """Build an AnnData named by gene symbols; keep gene expression only."""
    var = features.set_index(pd.Index(features["symbol"], name=None)).drop(columns="symbol")
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    keep = _gene_expression(source, features)
    return AnnData(compact(matrix[:, keep]), obs=obs, var=var[keep])


def _gene_expression(source: Source, features: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the features of type "Gene Expression"; say what is left out."""
    if "feature_types" not in features:
        return np.ones(len(features), dtype=bool)
    types = features["feature_types"]
    keep = (types == GENE_FEATURE).to_numpy()
    others = types[~keep].value_counts()
    text = ", ".join(f"{n:,} {kind}" for kind, n in others.items())
    if not keep.any():
        raise FileFormatError(
            f"{source.path} has no feature of type {GENE_FEATURE!r}; it has {text}. "
            "Give the gene expression matrix."
        )
    if text:
        logger.warning("%s: kept %d genes, left out %s.", source.path, keep.sum(), text)
    return keep
