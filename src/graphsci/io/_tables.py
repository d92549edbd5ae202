"""Text tables, whose orientation must be stated."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from graphsci._words import few
from graphsci.io._source import VALUES_PER_BLOCK, FileFormatError, GenesIn, Source, compact

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")


def read_table(source: Source, genes_in: GenesIn | None, backed: bool) -> AnnData:
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
    return AnnData(compact(matrix), obs=obs, var=var)


def _open_text(path: Path) -> IO[str]:
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    file: IO[str] = opener(path, "rt", encoding="utf-8-sig", newline="")
    return file


def _table_header(source: Source, separator: str) -> tuple[str, list[str]]:
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


def _check_row_names(source: Source, corner: str, rows: Sequence[str]) -> None:
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


def _orientation_question(source: Source, separator: str, columns: list[str]) -> str:
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
    source: Source, separator: str, n_columns: int, read: Sequence[str]
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
            chunksize=max(1, VALUES_PER_BLOCK // n_columns),
        )
        try:
            yield from (block.set_index(0) for block in blocks)
        except ValueError as error:
            raise FileFormatError(
                f"{source.path}, after {len(read):,} rows: {error}. Expected a name and "
                f"{n_columns:,} numbers in each row. Fill in missing values (0 if not observed)."
            ) from error
