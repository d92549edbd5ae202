"""Prior knowledge about genes: networks and gene sets, read from their usual files.

======================  =====================================================================
``format``              File
======================  =====================================================================
``string``              STRING ``protein.links[.detailed|.full]`` as downloaded
                        (``protein1 protein2 ... combined_score``), with its ``protein.info``
                        or ``protein.aliases`` file to turn protein ids into symbols
``gmt``                 gene sets (CORUM, Reactome, MSigDB): members of a set are connected
``trrust``              TRRUST: TF, target, mode, PubMed ids; with or without a header
``regulon``             DoRothEA and CollecTRI, decoupler's columns ``source``/``tf``,
                        ``target``, ``weight``/``mor``, ``confidence``
``edges``               any TSV or CSV whose first two columns are gene symbols, with a weight
                        in a column of that name, ``score`` or ``combined_score``, or in the
                        third if it is numeric; SIF (gene, relation, gene)
======================  =====================================================================

``format="auto"`` looks at the first line. All may be gzipped. The result is
an edge table for ``gene_graph.graph_from_edges``.
"""

import gzip
from collections.abc import Iterable, Iterator
from itertools import combinations, islice, takewhile
from pathlib import Path
from typing import Any, Literal, TextIO, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Format = Literal["auto", "string", "gmt", "trrust", "regulon", "edges"]
FORMATS = ("auto", "string", "gmt", "trrust", "regulon", "edges")

MAX_SET_SIZE = 100  #: a set of n genes makes n (n - 1) / 2 edges: beyond this, pathways
#: like "signal transduction" (2,600 genes, 3.4 million edges) drown the complexes
STRING_MIN_SCORE = 700  #: STRING's own "high confidence", of 1000
#: Sources of aliases that are symbols, best first; what they hold differs by species and version.
STRING_SYMBOL_SOURCES = (
    *("Ensembl_HGNC_symbol", "Ensembl_gene_name", "Ensembl_EntrezGene"),
    *("Ensembl_MGI", "UniProt_GN_Name", "BLAST_UniProt_GN_Name"),
)
_ACCESSION = r"|\d+|[A-Z]+:.*"  #: aliases that are no symbol: none, 14460, MGI:95661
REGULON_SOURCES = ("source", "tf")
REGULON_WEIGHTS = ("weight", "mor")
EDGE_WEIGHTS = ("weight", "score", "combined_score")
MISSING = {"", "na", "nan", "null", "none"}  #: what programs write for no number
EDGE_HEADERS = {"gene_a", "gene_b", "gene1", "gene2", "source", "target", "from", "to"} | {
    "node1",
    "node2",
    "#node1",
    "tf",
    "regulator",
    "protein1",
    "protein2",
    "weight",
    "score",
}
TRRUST_SIGNS = {"activation": 1.0, "repression": -1.0, "unknown": 0.0}
SIF_SIGNS = {"positive": 1.0, "negative": -1.0} | TRRUST_SIGNS  #: ``write_network`` has the first
CHUNK_ROWS = 1_000_000  #: STRING's human file has 14 million rows; most score low


def read_network(
    path: str | Path,
    *,
    format: Format = "auto",
    symbols: str | Path | None = None,
    min_score: float | None = None,
    confidence: Iterable[str] | None = None,
    max_set_size: int = MAX_SET_SIZE,
) -> pd.DataFrame:
    """Read a prior gene network.

    Parameters
    ----------
    path
        File, gzipped if it ends in ``.gz``.
    format
        One of the table above; ``"auto"`` decides by the first line.
    symbols
        STRING only: its ``protein.info`` or ``protein.aliases`` file, which
        names the proteins. Without it protein ids stay, and match nothing.
    min_score
        Leave out edges with a smaller score. STRING: of 1000, default 700
        ("high confidence"); others: the weight, default none.
    confidence
        Regulons with a ``confidence`` column: levels to keep, e.g. ``"AB"``.
    max_set_size
        GMT only: larger sets are left out, since n genes make n (n - 1) / 2
        edges and membership of a large set says little about a pair.

    Returns
    -------
    pandas.DataFrame
        ``gene_a``, ``gene_b``, ``weight``: for STRING the score / 1000; for
        gene sets the number of sets that hold both genes; for regulons the
        absolute weight; otherwise the third column, or 1. Regulatory networks
        have ``sign`` as well: 1 activation, -1 repression, 0 unknown, and
        ``gene_a`` regulates ``gene_b``. ``attrs["notes"]`` says what was left
        out. Pairs are as in the file: ``graph_from_edges`` merges duplicates.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, empty, not of the stated format, or holds no
        edge after the filters; if an option does not fit the format.
    """
    path = _existing(path)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}; got {format!r}.")
    try:
        if format == "auto":
            format = _detect(path)
        _check_options(format, symbols=symbols, confidence=confidence)
        if format == "string":
            minimum = STRING_MIN_SCORE if min_score is None else min_score
            table, notes = _read_string(path, symbols, minimum)
        elif format == "gmt":
            table, notes = _edges_of_sets(read_gene_sets(path), max_set_size)
        elif format == "trrust":
            table, notes = _read_trrust(path)
        elif format == "regulon":
            table, notes = _read_regulon(path, confidence)
        else:
            table, notes = _read_edges(path)
    except (UnicodeDecodeError, gzip.BadGzipFile, pd.errors.ParserError) as error:
        raise _unreadable(path, error) from error
    if min_score is not None and format != "string":
        table, notes = (
            table[table["weight"] >= min_score],
            [*notes, f"weights below {min_score:g} left out"],
        )
    if len(table) == 0:
        raise ValueError(
            f"{path.name} holds no edge{' (' + '; '.join(notes) + ')' if notes else ''}. "
            "Check the file, or relax min_score, confidence or max_set_size."
        )
    table = table.reset_index(drop=True)
    table.attrs["notes"] = tuple(notes)
    table.attrs["format"] = format
    return table


def detect_format(path: str | Path) -> Format:
    """Return the format of a network file, by its name and first line.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, empty, or no text.
    """
    path = _existing(path)
    try:
        return _detect(path)
    except (UnicodeDecodeError, gzip.BadGzipFile) as error:
        raise _unreadable(path, error) from error


def read_gene_sets(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Read gene sets from a GMT file: name, description, genes, separated by tabs.

    Returns
    -------
    dict
        Name to members, in the file's order, each gene once. Sets of the same
        name are kept apart by a suffix `` (2)``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing or a line has fewer than three fields.
    """
    path = _existing(path)
    sets: dict[str, tuple[str, ...]] = {}
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name, *rest = line.rstrip("\r\n").split("\t")
            members = tuple(dict.fromkeys(gene.strip() for gene in rest[1:] if gene.strip()))
            if not members:
                raise ValueError(
                    f"Line {number} of {path.name} is not GMT: expected name, description and at "
                    f"least one gene, separated by tabs; got {line[:60].rstrip()!r}."
                )
            sets[_unused(name, sets)] = members
    if not sets:
        raise ValueError(f"{path.name} is empty. Expected one gene set per line.")
    return sets


# ----------------------------------------------------------------------------
# One reader per format
# ----------------------------------------------------------------------------

Table = tuple[pd.DataFrame, list[str]]


def _read_string(path: Path, symbols: str | Path | None, min_score: float) -> Table:
    """Read STRING's protein.links, in chunks: the human file has 14 million rows."""
    kept, total = [], 0
    columns = ("protein1", "protein2", "combined_score")
    with pd.read_csv(
        path, sep=r"\s+", chunksize=CHUNK_ROWS, usecols=lambda name: name in columns
    ) as chunks:
        for chunk in chunks:
            _require(chunk, columns, path)
            total += len(chunk)
            kept.append(chunk.loc[chunk["combined_score"] >= min_score])
    links = pd.concat(kept)
    notes = []
    if len(links) < total:
        notes.append(
            f"{total - len(links)} of {total} edges with a score below {min_score:g} left out"
        )
    table = _edge_table(links["protein1"], links["protein2"], links["combined_score"] / 1000)
    if symbols is None:
        return table, notes
    return _name_proteins(table, _existing(symbols), notes)


def _name_proteins(table: pd.DataFrame, path: Path, notes: list[str]) -> Table:
    """Replace STRING protein ids by gene symbols; edges of unnamed proteins are left out."""
    naming = _protein_symbols(path)
    named = table.assign(gene_a=table["gene_a"].map(naming), gene_b=table["gene_b"].map(naming))
    named = named.dropna(subset=["gene_a", "gene_b"])
    if len(named) == 0 and len(table):
        raise ValueError(
            f"{path.name} names none of the proteins, e.g. {table['gene_a'].iloc[0]!r}; it has "
            f"{next(iter(naming), None)!r}. Use the file of the same species and STRING version."
        )
    if len(named) < len(table):
        notes = [*notes, f"{len(table) - len(named)} edges of proteins without a symbol left out"]
    return named, notes


def _protein_symbols(path: Path) -> dict[str, str]:
    """Read STRING's protein.info (preferred name) or protein.aliases (symbol sources)."""
    frame = pd.read_csv(path, sep="\t", dtype=str, quoting=3, keep_default_na=False)
    frame.columns = frame.columns.str.lstrip("#")
    if {"string_protein_id", "preferred_name"} <= set(frame.columns):
        return dict(zip(frame["string_protein_id"], frame["preferred_name"], strict=True))
    if {"string_protein_id", "alias", "source"} <= set(frame.columns):
        rank = {source: position for position, source in enumerate(STRING_SYMBOL_SOURCES)}
        is_symbol = ~frame["alias"].str.fullmatch(_ACCESSION)
        frame = frame[frame["source"].isin(list(rank)) & is_symbol]
        frame = frame.sort_values("source", key=lambda s: s.map(rank), kind="stable")
        frame = frame.drop_duplicates("string_protein_id")
        return dict(zip(frame["string_protein_id"], frame["alias"], strict=True))
    raise ValueError(
        f"{path.name} is neither STRING's protein.info (columns string_protein_id, "
        "preferred_name) nor protein.aliases (string_protein_id, alias, source); it has "
        f"{list(frame.columns)[:5]}."
    )


def _edges_of_sets(sets: dict[str, tuple[str, ...]], max_set_size: int) -> Table:
    """Connect the members of every set; the weight counts the sets of a pair."""
    if max_set_size < 2:
        raise ValueError(f"max_set_size must be at least 2, a pair of genes; got {max_set_size}.")
    large = [name for name, members in sets.items() if len(members) > max_set_size]
    weight: dict[tuple[str, str], int] = {}
    for members in sets.values():
        if len(members) <= max_set_size:
            for pair in combinations(sorted(members), 2):
                weight[pair] = weight.get(pair, 0) + 1
    notes = []
    if large:
        notes.append(f"{len(large)} of {len(sets)} sets of more than {max_set_size} genes left out")
    pairs = list(weight)
    return (
        _edge_table([a for a, _ in pairs], [b for _, b in pairs], list(weight.values())),
        notes,
    )


def _read_trrust(path: Path) -> Table:
    """Read TRRUST: TF, target, mode, PubMed ids. Distributed without a header."""
    frame = _read_table(path)
    if frame.shape[1] < 3:
        raise ValueError(
            f"{path.name} has {frame.shape[1]} columns; TRRUST has TF, target, mode and PubMed ids."
        )
    if str(frame.iloc[0, 2]).lower() not in TRRUST_SIGNS:
        frame = frame.iloc[1:]  # a header was added
    sign = frame[2].str.lower().map(TRRUST_SIGNS)
    if sign.isna().any():
        raise ValueError(
            f"{path.name} has modes {sorted(set(frame[2][sign.isna()]))[:3]}; TRRUST's are "
            "Activation, Repression and Unknown."
        )
    table = _edge_table(frame[0], frame[1], 1.0)
    return table.assign(sign=sign.to_numpy()), []


def _read_regulon(path: Path, confidence: Iterable[str] | None) -> Table:
    """Read DoRothEA or CollecTRI as decoupler writes them."""
    frame = _with_header(_read_table(path))
    _refuse_twins(frame, (*REGULON_SOURCES, "target", "confidence", *REGULON_WEIGHTS), path)
    source = _first_column(frame, REGULON_SOURCES, path)
    _require(frame, ("target",), path)
    notes = []
    if confidence is not None:
        levels = sorted(set(confidence))
        _require(frame, ("confidence",), path)
        before = len(frame)
        frame = frame[frame["confidence"].isin(levels)]
        notes.append(
            f"{before - len(frame)} of {before} edges of other confidence than {levels} left out"
        )
    columns = [column for column in REGULON_WEIGHTS if column in frame]
    weight = _numbers(frame[columns[0]], path) if columns else np.ones(len(frame))
    table = _edge_table(frame[source], frame["target"], np.abs(weight))
    return table.assign(sign=np.sign(weight)), notes


def _read_edges(path: Path) -> Table:
    """Read any table whose first two columns are genes and whose third may be a weight."""
    frame = _read_table(path)
    if frame.shape[1] < 2:
        raise ValueError(
            f"{path.name} has one column; an edge list needs two columns of gene symbols, "
            "separated by tabs or commas."
        )
    if _is_sif(path):
        return _edges_of_sif(frame, path), []
    if _has_header(frame):
        frame = _with_header(frame)
        _refuse_twins(frame, ("gene_a", "gene_b", *EDGE_WEIGHTS), path)
    first, second = ("gene_a", "gene_b") if "gene_a" in frame else frame.columns[:2]
    weight, notes = _optional_weight(frame, path)
    return _edge_table(frame[first], frame[second], weight), notes


def _edges_of_sif(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Gene, relation, gene; a sign where all relations have one."""
    if frame.shape[1] != 3:
        raise ValueError(
            f"{path.name} has {frame.shape[1]} columns; a SIF file has gene, relation and gene, "
            "one pair a line."
        )
    if EDGE_HEADERS & set(frame.iloc[0].str.strip().str.lower()):
        frame = frame.iloc[1:]
    table, sign = _edge_table(frame[0], frame[2], 1.0), frame[1].str.lower().map(SIF_SIGNS)
    return table if sign.isna().any() else table.assign(sign=sign.to_numpy())


def _optional_weight(frame: pd.DataFrame, path: Path) -> tuple[Any, list[str]]:
    """Return the column of weights: by its name, or the third if it holds numbers; else 1."""
    named = [name for name in EDGE_WEIGHTS if name in frame]
    if named:
        return _numbers(frame[named[0]], path), []
    if frame.shape[1] < 3:
        return 1.0, []
    third = frame.columns[2]
    is_number = pd.to_numeric(frame[third], errors="coerce").notna()
    if (is_number | frame[third].str.strip().str.lower().isin(MISSING)).all() and is_number.any():
        return _numbers(frame[third], path), []  # which refuses what is missing
    name = f"column {third!r}" if isinstance(third, str) else "the third column"
    return 1.0, [f"{name} is not numeric and was not used as weight"]


def _has_header(frame: pd.DataFrame) -> bool:
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
    named = not numeric.iloc[0] and str(frame.iloc[0, 2]).strip().lower() not in MISSING
    return bool(numeric.iloc[1:].all() and named)


def _with_header(frame: pd.DataFrame) -> pd.DataFrame:
    """Make the first line the names of the columns, in small letters."""
    return frame.iloc[1:].set_axis(frame.iloc[0].str.strip().str.lower().to_list(), axis=1)


def _refuse_twins(frame: pd.DataFrame, names: Iterable[str], path: Path) -> None:
    """Refuse two columns of one of these names."""
    twins = [name for name in names if list(frame.columns).count(name) > 1]
    if twins:
        raise ValueError(
            f"{path.name} has two columns of the name {twins[0]!r}. Rename or delete one of them."
        )


# ----------------------------------------------------------------------------
# Files
# ----------------------------------------------------------------------------


def _detect(path: Path) -> Format:
    """Decide the format by name and first line."""
    if ".gmt" in path.suffixes:
        return "gmt"
    if _is_sif(path):
        return "edges"
    with _open(path) as lines:
        first = list(islice(_filled(lines), 2))
    if not first:
        raise ValueError(f"{path.name} is empty. Expected a gene network.")
    head, *below = map(_fields, first)
    if {"protein1", "protein2"} <= set(first[0].lower().split()):
        return "string"
    if set(head) & {*REGULON_WEIGHTS, *EDGE_WEIGHTS}:  # modes in the third column are no weights
        below = []
    if any(line[2:3] and line[2] in TRRUST_SIGNS for line in (head, *below)):
        return "trrust"
    if {"target"} < set(head) and set(REGULON_SOURCES) & set(head):
        return "trrust" if "mode" in head else "regulon"
    return "edges"


def _fields(line: str) -> list[str]:
    """Return the fields of a line, in small letters."""
    return [field.strip().strip('"').lower() for field in line.split(_separator(line))]


def _is_sif(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".sif")


def _separator(line: str) -> str | None:
    """What separates the fields of a line; None for white space."""
    return next((mark for mark in ("\t", ",", ";") if mark in line), None)


def _filled(lines: Iterable[str]) -> Iterator[str]:
    return filter(_is_filled, lines)


def _is_filled(line: str) -> bool:
    """Whether a line is neither blank nor a comment; ``#node1`` is the first name of a header."""
    return bool(line.strip()) and not line.startswith(("# ", "##"))


def _read_table(path: Path) -> pd.DataFrame:
    """Read TSV, CSV or white-space separated text as strings, the first line as any other.

    Comments above the table and an index, a first column without a name, are left out.
    """
    with _open(path) as lines:
        above = list(takewhile(lambda line: not _is_filled(line), lines))
    with _open(path) as lines:
        first = next(_filled(lines), "")
    if not first:
        raise ValueError(f"{path.name} is empty. Expected a gene network.")
    separator = _separator(first) or r"\s+"
    # "NA" may be a gene: nothing written in the file counts as missing
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skiprows": len(above)}
    frame = pd.read_csv(path, sep=separator, header=None, **options)
    without_first = frame.iloc[:, 1:].set_axis(range(frame.shape[1] - 1), axis=1)
    if frame.shape[1] > 2 and frame.iloc[0, 0] == "" and _has_header(without_first):
        frame = without_first
    needed = frame.iloc[:, :3]  # two genes and a weight
    empty = needed.isna() | needed.apply(lambda column: column.str.strip() == "")
    short = np.flatnonzero(empty.any(axis=1))
    if len(short):
        raise ValueError(
            f"Row {len(above) + short[0] + 1} of {path.name} has an empty or missing field. "
            "Complete the row, or delete it."
        )
    return frame


def _edge_table(gene_a: Any, gene_b: Any, weight: Any) -> pd.DataFrame:
    ends = (pd.Series(np.asarray(genes, str)).str.strip() for genes in (gene_a, gene_b))
    table = pd.DataFrame(dict(zip(("gene_a", "gene_b"), ends, strict=True)))
    return table.assign(weight=np.asarray(weight, dtype=np.float64))


def _numbers(column: pd.Series, path: Path) -> NDArray[np.float64]:
    numeric = pd.to_numeric(column, errors="coerce")
    if numeric.isna().any():
        bad = column[numeric.isna()].iloc[0]
        raise ValueError(
            f"Column {column.name!r} of {path.name} must hold numbers, got {bad!r}. "
            "Correct the file, or remove the column."
        )
    return cast(NDArray[np.float64], numeric.to_numpy(dtype=np.float64))


def _first_column(frame: pd.DataFrame, names: Iterable[str], path: Path) -> str:
    present = [name for name in names if name in frame.columns]
    if not present:
        _require(frame, tuple(names)[:1], path)
    return present[0]


def _require(frame: pd.DataFrame, columns: tuple[str, ...], path: Path) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(
            f"{path.name} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; "
            f"it has {list(frame.columns)[:6]}. Name the right format, or rename the columns."
        )


def _check_options(format: str, **options: Any) -> None:
    needed = {"symbols": "string", "confidence": "regulon"}
    for name, value in options.items():
        if value is not None and format != needed[name]:
            raise ValueError(
                f"{name} applies to the format {needed[name]!r}, this file is read as {format!r}. "
                "Leave the option out, or name the format."
            )


def _unreadable(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path.name} cannot be read as a table of text ({error}). "
        f"Formats: {', '.join(FORMATS[1:])}; gzipped if the name ends in .gz."
    )


def _existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Check the path of the network.")
    return path


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return cast(TextIO, gzip.open(path, "rt", encoding="utf-8-sig"))
    return open(path, encoding="utf-8-sig")


def _unused(name: str, taken: dict[str, Any]) -> str:
    if name not in taken:
        return name
    return next(f"{name} ({n})" for n in range(2, len(taken) + 3) if f"{name} ({n})" not in taken)
