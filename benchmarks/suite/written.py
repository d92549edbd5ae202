"""Tables on disk: what a run measured, merged with what earlier ones did, written if it changed."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from suite.environments import BENCHMARKS

RESULTS = BENCHMARKS / "results"
#: Columns that name a run of the study ``truth``.
RUN = ("kind", "dataset", "method", "seed")
#: Columns of text that may look like numbers, as the commit 12e4567 does.
_TEXT = dict.fromkeys(("code", "date", "versions", "machine", "reason"), str)
NOTHING_TO_DO = "Nothing to do: every run is there already, and nothing changed."


def is_there(name: str) -> bool:
    """Whether a study has a table."""
    return (RESULTS / f"{name}.csv").is_file()


def put(path: Path, text: str, *, quiet: bool = False) -> bool:
    """Write a file, whole or not at all, unless it holds the text; return whether it was written.

    A study that was stopped between its runs and its tables so catches up the next time.
    """
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    if not quiet:
        print(f"written: {path}")
    return True


def put_table(path: Path, table: pd.DataFrame, *, digits: int = 6) -> bool:
    """Write a CSV unless it is there as it is; return whether it was written.

    Make the Markdown from what :func:`read` returns afterwards, so that it says the same whether
    the records are still at hand or not.
    """
    return put(path, table.to_csv(index=False, float_format=f"%.{digits}g"))


def write(name: str, table: pd.DataFrame, text: list[str]) -> bool:
    """Write a study's CSV and its Markdown; return whether one changed."""
    changed = [put_table(RESULTS / f"{name}.csv", table), put_text(name, text)]
    return any(changed)


def put_text(name: str, text: list[str]) -> bool:
    """Write a study's Markdown unless it is there as it is; return whether it was written."""
    return put(RESULTS / f"{name}.md", "\n".join(text) + "\n")


def read(path: Path | io.StringIO) -> pd.DataFrame:
    """Return a written table; empty cells stay empty text where a column is text."""
    table = pd.read_csv(path, keep_default_na=False, dtype=_TEXT)
    if "value" in table:
        table["value"] = pd.to_numeric(table.value)
    return table


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table as it is after it was written and read."""
    return read(io.StringIO(table.to_csv(index=False, float_format="%.6g")))


def with_earlier(
    table: pd.DataFrame,
    path: Path,
    *,
    by: Sequence[str] = RUN,
    tried: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Add the rows of a written table whose runs were not made again.

    A variant's rows (``method@variant``) belong to the run of the method.

    Parameters
    ----------
    table
        New rows.
    path
        The written table, if there is one.
    by
        Columns that name a run.
    tried
        The runs made, one a row, where some have no row in ``table``.
    """
    if not path.is_file():
        return table
    earlier = read(path)
    made = _runs(table if tried is None else tried, by)
    earlier = earlier[~_runs(earlier, by).isin(made)].copy()
    if table.empty or earlier.empty:  # the columns of the new one, whichever has rows
        return _completed(earlier, table) if table.empty else table
    return pd.concat([table, _completed(earlier, table)], ignore_index=True)


def _runs(table: pd.DataFrame, by: Sequence[str]) -> pd.MultiIndex:
    """Return the run of each row."""
    runs = table[list(by)]
    if "method" in runs:
        runs = runs.assign(method=runs.method.str.split("@").str[0])
    return pd.MultiIndex.from_frame(runs)


def _completed(earlier: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Add empty columns that a table written by an older program lacks."""
    missing = {name: "" for name in table.columns if name not in earlier}
    return earlier.assign(**missing).reset_index(drop=True)


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """Return any small table as Markdown."""

    def text(value: object) -> str:
        if isinstance(value, float):
            return "-" if np.isnan(value) else f"{value:.{digits}f}"
        return str(value)

    lines = [f"| {' | '.join(map(str, table.columns))} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(map(text, row))} |" for row in table.itertuples(index=False)]
    return "\n".join(lines)
