"""What the readers share: text files with comments, tables of strings, tables of edges."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TextIO, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Table = tuple[pd.DataFrame, list[str]]  #: edges, and notes of what was left out

MISSING = {"", "na", "nan", "null", "none"}  #: what programs write for no number
EDGE_HEADERS = {"gene_a", "gene_b", "gene1", "gene2", "source", "target", "from", "to"} | {
    "node1",
    "node2",
    "tf",
    "regulator",
    "protein1",
    "protein2",
    "weight",
    "score",
}


#: What libraries say of files that are damaged, no text or no table.
_DAMAGE = (
    UnicodeDecodeError,
    EOFError,
    zlib.error,
    gzip.BadGzipFile,
    pd.errors.ParserError,
    pd.errors.EmptyDataError,
)


class _Lines(NamedTuple):
    """Which lines of a file are not of its table, and how that begins."""

    comments: list[int]  #: counted from 0
    first: list[str]  #: two lines, a header included; fewer if there are no more


def _lines(path: Path, *, only_first: bool = False) -> _Lines:
    """Tell comments from the table: they begin with #, but for a header that does, ``#node1``."""
    comments: dict[int, str] = {}
    first: list[str] = []
    with open_text(path) as lines:
        for number, line in enumerate(lines):
            if line.startswith("#"):
                comments[number] = line
            elif line.strip() and len(first) < 2:
                if not first:
                    headers = [n for n, above in comments.items() if _is_header(above, line)]
                    first += [comments.pop(n) for n in headers[-1:]]
                first.append(line)
            if only_first and len(first) >= 2:
                break
    return _Lines(list(comments), first[:2])


def first_lines(path: Path) -> list[str]:
    """Return the first two lines of the table, a header included; fewer if there are no more."""
    return _lines(path, only_first=True).first


def _is_header(comment: str, below: str) -> bool:
    """Whether a line that begins with # names the columns of a table, as ``#node1`` does."""
    names = fields(comment)
    named = bool(EDGE_HEADERS & set(names)) and len(names) == len(fields(below))
    return named and not comment.startswith(("# ", "##"))


def fields(line: str) -> list[str]:
    """Return the fields of a line, in small letters, without the mark of a header."""
    found = [field.strip().strip('"').lower() for field in line.split(_separator(line))]
    return [found[0].removeprefix("#"), *found[1:]] if found else []


def _separator(line: str) -> str | None:
    """What separates the fields of a line; None for white space."""
    return next((mark for mark in ("\t", ",", ";") if mark in line), None)


def read_table(path: Path) -> pd.DataFrame:
    """Read TSV, CSV or white-space separated text as strings, the first line as any other.

    Comments and an index, a first column without a name, are left out.
    """
    comments, first = _lines(path)
    if not first:
        raise ValueError(f"{path.name} is empty. Expected a gene network.")
    # "NA" may be a gene: nothing written in the file counts as missing
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skiprows": comments}
    frame = pd.read_csv(path, sep=_separator(first[0]) or r"\s+", header=None, **options)
    if first[0].startswith("#"):  # small, as it is surely a name: "TF" may be transferrin
        frame.iloc[0, 0] = frame.iloc[0, 0].removeprefix("#").lower()
    without_first = frame.iloc[:, 1:].set_axis(range(frame.shape[1] - 1), axis=1)
    if frame.shape[1] > 2 and frame.iloc[0, 0] == "" and has_header(without_first):
        frame = without_first
    needed = frame.iloc[:, :3]  # two genes and a weight
    empty = needed.isna() | needed.apply(lambda column: column.str.strip() == "")
    short = np.flatnonzero(empty.any(axis=1))
    if len(short):
        raise ValueError(
            f"Row {_line_number(path, short[0], comments)} of {path.name} has an empty or missing "
            "field. Complete the row, or delete it."
        )
    return frame


def _line_number(path: Path, row: int, comments: Iterable[int]) -> int:
    """Return the line of a row of the table, as an editor counts it."""
    left_out = set(comments)
    with open_text(path) as lines:
        table = (n for n, line in enumerate(lines) if line.strip() and n not in left_out)
        return next(n for position, n in enumerate(table) if position == row) + 1


def has_header(frame: pd.DataFrame) -> bool:
    """Tell whether the first line names the columns.

    It does if it holds a usual name, or text above a third column of numbers. "TF" alone may be
    transferrin: it is a name if it is written small.
    """
    first = {str(field) for field in frame.iloc[0]}
    usual = EDGE_HEADERS & {field.lower() for field in first}
    if usual - {"tf"} or "tf" in first:
        return True
    if frame.shape[1] < 3 or len(frame) < 2:
        return False
    numeric = pd.to_numeric(frame.iloc[:, 2], errors="coerce").notna()
    third = str(frame.iloc[0, 2]).strip().lower()
    named = not (numeric.iloc[0] or third in MISSING or third[:1].isdigit())  # "1 # a remark"
    return bool(numeric.iloc[1:].all() and named)


def with_header(frame: pd.DataFrame) -> pd.DataFrame:
    """Make the first line the names of the columns, in small letters."""
    return frame.iloc[1:].set_axis(frame.iloc[0].str.strip().str.lower().to_list(), axis=1)


def refuse_twins(frame: pd.DataFrame, names: Iterable[str], path: Path) -> None:
    """Refuse two columns of one of these names."""
    twins = [name for name in names if list(frame.columns).count(name) > 1]
    if twins:
        raise ValueError(
            f"{path.name} has two columns of the name {twins[0]!r}. Rename or delete one of them."
        )


def edge_table(gene_a: Any, gene_b: Any, weight: Any) -> pd.DataFrame:
    """Return ``gene_a``, ``gene_b``, ``weight``, a row an edge; names without blanks around."""
    ends = (pd.Series(np.asarray(genes, str)).str.strip() for genes in (gene_a, gene_b))
    table = pd.DataFrame(dict(zip(("gene_a", "gene_b"), ends, strict=True)))
    return table.assign(weight=np.asarray(weight, dtype=np.float64))


def numbers(column: pd.Series, path: Path) -> NDArray[np.float64]:
    """Return a column of text as numbers; refuse any that is none."""
    numeric = pd.to_numeric(column, errors="coerce")
    if numeric.isna().any():
        bad = column[numeric.isna()].iloc[0]
        raise ValueError(
            f"Column {column.name!r} of {path.name} must hold numbers, got {bad!r}. "
            "Correct the file, or remove the column."
        )
    return cast(NDArray[np.float64], numeric.to_numpy(dtype=np.float64))


def first_column(frame: pd.DataFrame, names: Iterable[str], path: Path) -> str:
    """Return the first of ``names`` that is a column; refuse a table with none of them."""
    present = [name for name in names if name in frame.columns]
    if not present:
        require(frame, tuple(names)[:1], path)
    return present[0]


def require(frame: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    """Refuse a table that lacks one of these columns."""
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {list(frame.columns)[:6]}. Name the right format, or rename the columns."
        )


def existing(path: str | Path) -> Path:
    """Return a path; refuse it if there is no file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the path.")
    return path


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library says about a damaged file into one clear error."""
    try:
        yield
    except _DAMAGE as error:
        raise ValueError(
            f"{path.name} cannot be read as a table of text ({error}). Is it complete, and is it "
            "text, gzipped if the name ends in .gz?"
        ) from error


def open_text(path: Path) -> TextIO:
    """Open a text file to read, gzipped if its name ends in ``.gz``, with or without a BOM."""
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return open(path, encoding="utf-8-sig")
