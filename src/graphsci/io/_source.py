"""What all readers share: the file or folder, the error, the form of what is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from scipy import sparse

from graphsci._choices import GenesIn

#: Values of a table or a dense dataset that are read at once.
VALUES_PER_BLOCK = 2**22


class FileFormatError(ValueError):
    """A file is not what its name says, is damaged, or leaves something open."""


class Source(NamedTuple):
    """A file or folder and how to read it."""

    path: Path
    format: str
    reader: Callable[[Source, GenesIn | None, bool], AnnData]
    prefix: str = ""  # of the file names in a 10x folder


def plain_or_gz(path: Path) -> Path | None:
    """Return ``path`` or ``path.gz``, whichever is a file."""
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    return None


def compact(matrix: Any) -> sparse.csr_matrix:
    """Return CSR, float32 if that changes no value."""
    csr = sparse.csr_matrix(matrix)
    with np.errstate(over="ignore"):
        data = csr.data.astype(np.float32)
    if not np.array_equal(data, csr.data, equal_nan=data.dtype == csr.data.dtype):
        return csr
    return sparse.csr_matrix((data, csr.indices, csr.indptr), shape=csr.shape)
