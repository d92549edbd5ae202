"""Read count matrices; write an AnnData.

Reading never guesses: the format follows from the file's name and is checked against its
content, and a text table must come with its orientation.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import inspect
import logging
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from scipy.io import mmread

from graphsci._words import few
from graphsci.files import ANNDATA_SUFFIXES, atomic_path, check_writable, is_store

logger = logging.getLogger("graphsci")

GenesIn = Literal["rows", "columns"]

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
_READABLE = (
    ".h5ad, .zarr, 10x .h5, a 10x folder (matrix.mtx, barcodes.tsv, features.tsv or genes.tsv, "
    "each plain or .gz), .loom, .csv, .tsv, .txt (each plain or .gz)"
)
_GENE_EXPRESSION = "Gene Expression"
_VALUES_PER_BLOCK = 2**22


# what h5py, zarr, anndata, scipy, gzip and csv raise on damaged files
_DAMAGE = (OSError, EOFError, LookupError, ValueError, TypeError, zlib.error, csv.Error)


class FileFormatError(ValueError):
    """A file is not what its name says, is damaged, or leaves something open."""


# --- reading --------------------------------------------------------------------------


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


class _Source(NamedTuple):
    """A file or folder and how to read it."""

    path: Path
    format: str
    reader: Callable[[_Source, GenesIn | None, bool], AnnData]
    prefix: str = ""  # of the file names in a 10x folder


def _find_source(path: Path) -> _Source:
    """Choose the reader from what is at ``path``."""
    if path.is_dir():
        return _find_folder(path)
    if not path.exists():
        if _has_matrix(path.parent, path.name):
            return _Source(path.parent, "10x folder", _read_10x_folder, path.name)
        raise FileNotFoundError(f"there is no file {path}.{_similar_names(path)}")
    if not os.access(path, os.R_OK):
        raise PermissionError(f"{path} may not be read by this user. Check its permissions.")
    return _find_file(path)


def _find_file(path: Path) -> _Source:
    name = path.name.lower()
    for tail in ("matrix.mtx", "matrix.mtx.gz"):
        if name.endswith(tail):
            return _Source(path.parent, "10x folder", _read_10x_folder, path.name[: -len(tail)])
    readers = {".h5ad": _read_h5ad, ".h5": _read_10x_h5, ".loom": _read_loom}
    for suffix, reader in readers.items():
        if name.endswith(suffix):
            return _Source(path, "10x .h5" if suffix == ".h5" else suffix, reader)
    if name.endswith(TABLE_SUFFIXES):
        return _Source(path, "table", _read_table)
    if name.endswith(".zarr"):
        raise FileFormatError(f"{path} is a file, expected a .zarr folder. Unpack it first.")
    raise FileFormatError(
        f"{path} has an unknown ending, expected one of: {_READABLE}. "
        "Rename the file if it is one of these, or convert it to .h5ad."
    )


def _find_folder(path: Path) -> _Source:
    if is_store(path):
        return _Source(path, ".zarr", _read_zarr)
    if _has_matrix(path, ""):
        return _Source(path, "10x folder", _read_10x_folder)
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
    return _plain_or_gz(folder / f"{prefix}matrix.mtx") is not None


def _plain_or_gz(path: Path) -> Path | None:
    """Return ``path`` or ``path.gz``, whichever is a file."""
    for candidate in (path, path.with_name(f"{path.name}.gz")):
        if candidate.is_file():
            return candidate
    return None


def _similar_names(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either. Check the path."
    names = [entry.name for entry in path.parent.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=3)
    return f" Did you mean {', '.join(close)}?" if close else " Check the path."


def _check_options(source: _Source, genes_in: GenesIn | None, backed: bool) -> None:
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
def _reading(source: _Source) -> Iterator[None]:
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


def _compact(matrix: Any) -> sparse.csr_matrix:
    """Return CSR, float32 if that changes no value."""
    csr = sparse.csr_matrix(matrix)
    with np.errstate(over="ignore"):
        data = csr.data.astype(np.float32)
    if not np.array_equal(data, csr.data, equal_nan=data.dtype == csr.data.dtype):
        return csr
    return sparse.csr_matrix((data, csr.indices, csr.indptr), shape=csr.shape)


# --- .h5ad and .zarr ------------------------------------------------------------------


def _read_h5ad(source: _Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    with h5py.File(source.path, "r") as file:
        if "obs" not in file or "var" not in file:
            raise FileFormatError(
                f"{source.path} is HDF5 but no AnnData: it holds {few(list(file))}, expected "
                f"obs and var.{_content_hint(file)}"
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


def _content_hint(file: h5py.File) -> str:
    """Say what an HDF5 file looks like."""
    if "row_attrs" in file and "col_attrs" in file:
        return " It looks like a loom file: rename it to .loom."
    if "obs" in file and "var" in file:
        return " It looks like an AnnData file: rename it to .h5ad."
    if _10x_groups(file):
        return " It looks like a 10x file: rename it to .h5."
    return " Check where the file comes from."


def _read_zarr(source: _Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
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


def available_memory() -> int | None:
    """Return the bytes of memory that this process may still take; None if it cannot be told.

    The least of what the system has available and what is left of a container's limit.
    """
    limits = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        limits.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((group / "memory.max").read_text())
        limits.append(limit - int((group / "memory.current").read_text()))
    return min(limits, default=None)


def size_in_memory(path: str | os.PathLike[str]) -> int | None:
    """Return the bytes that the matrices of an ``.h5ad`` or ``.zarr`` take when read.

    None for other formats, whose size is not known before they are read.
    """
    source = Path(path)
    name = source.name.lower()
    if name.endswith(".h5ad") and source.is_file():
        with suppress(OSError), h5py.File(source, "r") as file:
            return sum(_n_bytes(file[slot]) for slot in ("X", "layers", "raw") if slot in file)
    if source.is_dir() and is_store(source):
        group = zarr.open_group(source, mode="r")
        return sum(_n_bytes(group[slot]) for slot in ("X", "layers", "raw") if slot in group)
    return None


def _n_bytes(element: Any) -> int:
    """Bytes of an array, or of all arrays in a group."""
    if not hasattr(element, "keys"):
        return int(element.nbytes)  # 0 for an element that is null, such as no raw
    return sum(_n_bytes(element[key]) for key in element)


def _on_disk(element: Any) -> Any:
    is_sparse = isinstance(element, zarr.Group | h5py.Group)
    return anndata.io.sparse_dataset(element) if is_sparse else element


# --- 10x ------------------------------------------------------------------------------


def _10x_groups(file: h5py.File) -> list[str]:
    """Return the groups of an HDF5 file that hold a 10x matrix."""
    return [
        name for name, item in file.items() if isinstance(item, h5py.Group) and "barcodes" in item
    ]


def _read_10x_h5(source: _Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read Cell Ranger's HDF5: version 3 (/matrix) or 2 (one group for each genome)."""
    with h5py.File(source.path, "r") as file:
        groups = _10x_groups(file)
        if len(groups) != 1:
            found = f"matrices for {few(groups)}" if groups else few(list(file)) or "nothing"
            raise FileFormatError(
                f"{source.path} holds {found}, expected one 10x matrix."
                + (" Split it by genome first." if groups else _content_hint(file))
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


def _read_10x_folder(source: _Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
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


def _10x_file(source: _Source, *names: str) -> Path:
    """Return the first of the files that is there, plain or compressed."""
    for name in names:
        found = _plain_or_gz(source.path / f"{source.prefix}{name}")
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
    source: _Source, matrix: sparse.csr_matrix, cells: NDArray[Any], features: pd.DataFrame
) -> AnnData:
    """Build an AnnData named by gene symbols; keep gene expression only."""
    var = features.set_index(pd.Index(features["symbol"], name=None)).drop(columns="symbol")
    obs = pd.DataFrame(index=pd.Index(cells, dtype=object))
    keep = _gene_expression(source, features)
    return AnnData(_compact(matrix[:, keep]), obs=obs, var=var[keep])


def _gene_expression(source: _Source, features: pd.DataFrame) -> NDArray[np.bool_]:
    """Mark the features of type "Gene Expression"; say what is left out."""
    if "feature_types" not in features:
        return np.ones(len(features), dtype=bool)
    types = features["feature_types"]
    keep = (types == _GENE_EXPRESSION).to_numpy()
    others = types[~keep].value_counts()
    text = ", ".join(f"{n:,} {kind}" for kind, n in others.items())
    if not keep.any():
        raise FileFormatError(
            f"{source.path} has no feature of type {_GENE_EXPRESSION!r}; it has {text}. "
            "Give the gene expression matrix."
        )
    if text:
        logger.warning("%s: kept %d genes, left out %s.", source.path, keep.sum(), text)
    return keep


# --- loom -----------------------------------------------------------------------------

_LOOM_GENES = ("Gene", "var_names", "gene_names", "GeneName", "Accession")
_LOOM_CELLS = ("CellID", "obs_names", "cell_names", "Barcode")


def _read_loom(source: _Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read a loom file (HDF5, genes x cells) without the loompy package."""
    with h5py.File(source.path, "r") as file:
        if not {"matrix", "row_attrs", "col_attrs"} <= set(file):
            raise FileFormatError(
                f"{source.path} is HDF5 but no loom file: it holds {few(list(file))}, expected "
                f"matrix, row_attrs and col_attrs.{_content_hint(file)}"
            )
        var = _loom_attributes(source, file["row_attrs"], _LOOM_GENES, "gene")
        obs = _loom_attributes(source, file["col_attrs"], _LOOM_CELLS, "cell")
        layers = {name: _transposed_csr(item) for name, item in file.get("layers", {}).items()}
        return AnnData(_transposed_csr(file["matrix"]), obs=obs, var=var, layers=layers)


def _loom_attributes(
    source: _Source, group: h5py.Group, name_keys: Sequence[str], kind: str
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
    step = max(1, _VALUES_PER_BLOCK // max(1, dataset.shape[1]))
    starts = range(0, dataset.shape[0], step)
    blocks = [sparse.csr_matrix(dataset[start : start + step]) for start in starts]
    return _compact(sparse.vstack(blocks, format="csr").T)


# --- tables ---------------------------------------------------------------------------


def _read_table(source: _Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
    """Read a text table in blocks of rows; it is never dense as a whole."""
    separator = "," if ".csv" in source.path.name.lower() else "\t"
    corner, columns = _table_header(source, separator)
    if genes_in is None:
        raise FileFormatError(_orientation_question(source, separator, columns))
    rows: list[str] = []
    blocks = []
    for frame in _table_blocks(source, separator, len(columns), rows):
        rows += frame.index.tolist()
        blocks.append(sparse.csr_matrix(frame.to_numpy()))
    _check_row_names(source, corner, rows)
    matrix = sparse.vstack(blocks, format="csr")
    if genes_in == "rows":
        matrix, rows, columns = matrix.T, columns, rows
    obs, var = (pd.DataFrame(index=pd.Index(names, dtype=object)) for names in (rows, columns))
    return AnnData(_compact(matrix), obs=obs, var=var)


def _open_text(path: Path) -> IO[str]:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    file: IO[str] = opener(path, "rt", encoding="utf-8-sig", newline="")
    return file


def _table_header(source: _Source, separator: str) -> tuple[str, list[str]]:
    """Return the corner field, which may be lacking as R writes it, and the columns' names."""
    with _open_text(source.path) as file:
        lines = csv.reader(file, delimiter=separator)
        header, first = next(lines, []), next(filter(None, lines), [])
    shown = "a tab" if separator == "\t" else "a comma"
    if len(first) < 2:
        raise FileFormatError(
            f"{source.path} has {len(first)} fields in its second line, expected a row name and "
            f"values separated by {shown}. {_separator_hint(''.join(first))}"
        )
    if len(header) not in (len(first), len(first) - 1):
        raise FileFormatError(
            f"{source.path} has {len(header)} fields in its first line and {len(first)} in its "
            f"second, expected as many (or one less, without a corner field), separated by {shown}."
        )
    corner = header.pop(0) if len(header) == len(first) else ""
    return corner, header


def _separator_hint(line: str) -> str:
    """Say what separates a line, if not what the name of the file says."""
    if "\t" in line:
        return "It looks separated by tabs: name the file .tsv."
    if ";" in line:
        return "It looks separated by semicolons: export it with commas, or with tabs as .tsv."
    if "," in line:
        return "It looks separated by commas: name the file .csv."
    return "Name the file .csv for commas, .tsv for tabs."


def _check_row_names(source: _Source, corner: str, rows: Sequence[str]) -> None:
    """Refuse a first column of numbers under a name: it may be data, where names are expected."""
    if corner and rows and all(map(_is_number, rows)):
        raise FileFormatError(
            f"{source.path} has numbers ({few(rows)}) under {corner!r} in its first column, "
            "expected the names of the rows. Write the table with its row names (in pandas "
            "without index=False); if these numbers are the names, leave the first field of the "
            "first line empty."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _orientation_question(source: _Source, separator: str, columns: list[str]) -> str:
    """Say what the table looks like, so that the user can state its orientation."""
    with _open_text(source.path) as file:
        lines = (line for line in csv.reader(file, delimiter=separator) if line)
        next(lines)
        rows = [line[0] for line in lines]
    return (
        f"{source.path} is a table of {len(rows):,} rows ({few(rows)}) x {len(columns):,} "
        f"columns ({few(columns)}). Its orientation must be stated: genes_in='columns' "
        "(`--genes-in columns`) if columns are genes and rows are cells, genes_in='rows' "
        "(`--genes-in rows`) if rows are genes and columns are cells."
    )


def _table_blocks(
    source: _Source, separator: str, n_columns: int, read: Sequence[str]
) -> Iterator[pd.DataFrame]:
    """Yield blocks of rows as float64, indexed by row name; ``read`` are the rows so far."""
    types = {0: object} | dict.fromkeys(range(1, n_columns + 1), np.float64)
    with _open_text(source.path) as file:
        blocks = pd.read_csv(
            file,
            sep=separator,
            header=None,
            skiprows=1,
            dtype=types,
            keep_default_na=False,  # a gene may be called NA; a missing value is refused below
            chunksize=max(1, _VALUES_PER_BLOCK // n_columns),
        )
        try:
            yield from (block.set_index(0) for block in blocks)
        except ValueError as error:
            raise FileFormatError(
                f"{source.path}, after {len(read):,} rows: {error}. Expected a name and "
                f"{n_columns:,} numbers in each row. Fill in missing values (0 if not observed)."
            ) from error


# --- writing --------------------------------------------------------------------------


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
    # text columns of pandas' own string type are written as they are
    allow = anndata.settings.override(allow_write_nullable_strings=True)
    with atomic_path(path) as temporary, allow:
        if is_store(path):
            # format 2 is what every anndata that reads zarr can open
            group = zarr.open_group(temporary, mode="w", zarr_format=2)
            anndata.io.write_elem(group, "/", adata)
        else:
            options = {"compression": compression, "convert_strings_to_categoricals": False}
            anndata.io.write_h5ad(temporary, adata, **options)
