"""Choose the reader from a file's name and content; one error for whatever is wrong."""

from __future__ import annotations

import csv
import difflib
import logging
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
from anndata import AnnData

from graphsci._words import few
from graphsci.io._anndata import read_h5ad, read_zarr
from graphsci.io._loom import read_loom
from graphsci.io._source import FileFormatError, GenesIn, Source, plain_or_gz
from graphsci.io._tables import TABLE_SUFFIXES, read_table
from graphsci.io._tenx import read_10x_folder, read_10x_h5
from graphsci.io.files import ANNDATA_SUFFIXES, is_store

logger = logging.getLogger("graphsci")

_READABLE = (
    ".h5ad, .zarr, 10x .h5, a 10x folder (matrix.mtx, barcodes.tsv, features.tsv or genes.tsv, "
    "each plain or .gz), .loom, .csv, .tsv, .txt (each plain or .gz)"
)

# what h5py, zarr, anndata, scipy, gzip and csv raise on damaged files
_DAMAGE = (OSError, EOFError, LookupError, ValueError, TypeError, zlib.error, csv.Error)


def read_counts(
    path: str | os.PathLike[str],
    *,
    genes_in: GenesIn | None = None,
    backed: bool = False,
    make_names_unique: bool = False,
) -> AnnData:
    """Read a count matrix, cells x genes; values are checked later, by ``extract_counts``.

    Parameters
    ----------
    path
        ``.h5ad``, ``.zarr``, 10x ``.h5``, a 10x folder (or its ``matrix.mtx``, or folder plus
        the prefix of its file names), ``.loom``, or a ``.csv``/``.tsv``/``.txt`` table (may be
        ``.gz``) whose first row and first column hold names.
    genes_in
        Where a table's genes are: ``"columns"`` (a row is a cell) or ``"rows"``. Must be
        given for tables, and for nothing else.
    backed
        Leave ``X`` and layers on disk (``.h5ad`` and ``.zarr`` only).
    make_names_unique
        Append -1, -2, ... to repeated gene and cell names.

    Returns
    -------
    AnnData
        As stored for ``.h5ad`` and ``.zarr``; else ``X`` is CSR, float32 unless that would
        change a value. Of 10x files only features of type "Gene Expression" are kept.

    Raises
    ------
    FileNotFoundError, PermissionError
        The file is not there or may not be read.
    FileFormatError
        (A ValueError.) The format is unknown, the content does not fit it, or the
        orientation of a table is not stated.
    """
    source = _find_source(Path(path))
    _check_options(source, genes_in, backed)
    with anndata.settings.override(check_uniqueness=False):  # refused later, with the remedy
        with _reading(source):
            adata = source.reader(source, genes_in, backed)
        if make_names_unique:
            _make_names_unique(adata)
    return adata


def _find_source(path: Path) -> Source:
    """Choose the reader from what is at ``path``."""
    if path.is_dir():
        return _find_folder(path)
    if not path.exists():
        if _has_matrix(path.parent, path.name):
            return Source(path.parent, "10x folder", read_10x_folder, path.name)
        raise FileNotFoundError(f"there is no file {path}.{_similar_names(path)}")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} may not be read by this user. Check its permissions.")
    return _find_file(path)


def _find_file(path: Path) -> Source:
    name = path.name.lower()
    for tail in ("matrix.mtx", "matrix.mtx.gz"):
        if name.endswith(tail):
            return Source(path.parent, "10x folder", read_10x_folder, path.name[: -len(tail)])
    readers = {".h5ad": read_h5ad, ".h5": read_10x_h5, ".loom": read_loom}
    for suffix, reader in readers.items():
        if name.endswith(suffix):
            return Source(path, "10x .h5" if suffix == ".h5" else suffix, reader)
    if name.endswith(TABLE_SUFFIXES):
        return Source(path, "table", read_table)
    if name.endswith(".zarr"):
        raise FileFormatError(f"{path} is a file, expected a .zarr folder. Unpack it first.")
    raise FileFormatError(
        f"{path} has an unknown ending, expected one of: {_READABLE}. "
        "Rename the file if it is one of these, or convert it to .h5ad."
    )


def _find_folder(path: Path) -> Source:
    if is_store(path):
        return Source(path, ".zarr", read_zarr)
    if _has_matrix(path, ""):
        return Source(path, "10x folder", read_10x_folder)
    files = sorted(entry.name for entry in path.iterdir())
    hint = "Give the folder that holds matrix.mtx, or a file."
    prefixed = [name for name in files if name.endswith(("matrix.mtx", "matrix.mtx.gz"))]
    if prefixed:
        hint = f"If it is 10x data with a prefix, give the matrix file: {path / prefixed[0]}."
    raise FileFormatError(
        f"{path} is a folder with {few(files) or 'nothing in it'}, expected a .zarr store or "
        f"a 10x folder (matrix.mtx, barcodes.tsv, features.tsv or genes.tsv). {hint}"
    )


def _has_matrix(folder: Path, prefix: str) -> bool:
    return plain_or_gz(folder / f"{prefix}matrix.mtx") is not None


def _similar_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either. Check the path."
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=3)
    return f" Did you mean {', '.join(close)}?" if close else " Check the path."


def _check_options(source: Source, genes_in: GenesIn | None, backed: bool) -> None:
    if backed and source.format not in ANNDATA_SUFFIXES:
        raise FileFormatError(
            f"{source.path} cannot stay on disk: backed reading needs .h5ad or .zarr. "
            "Read it without `backed`, or convert it with graphsci.io.write_anndata."
        )
    if source.format != "table" and genes_in is not None:
        raise FileFormatError(
            f"genes_in={genes_in!r} was given for {source.path}, but only tables (.csv, .tsv, "
            f".txt) need it; {source.format} says itself where its genes are. Leave it out."
        )
    if genes_in not in (None, "rows", "columns"):
        raise FileFormatError(f"genes_in is {genes_in!r}, expected 'rows' or 'columns'.")


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """Turn whatever a library says about a damaged file into one clear error."""
    try:
        yield
    except FileFormatError:
        raise
    except _DAMAGE as error:
        raise FileFormatError(
            f"{source.path} could not be read as {source.format}: {error}. "
            "Is the file complete, and is it what its name says? Copy or export it again."
        ) from error


def _make_names_unique(adata: AnnData) -> None:
    for kind, names, rename in (
        ("gene", adata.var_names, adata.var_names_make_unique),
        ("cell", adata.obs_names, adata.obs_names_make_unique),
    ):
        n_repeated = int(names.duplicated().sum())
        if n_repeated:
            rename()
            logger.warning("Made %s repeated %s names unique: -1, -2, ...", n_repeated, kind)
