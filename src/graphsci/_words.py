"""Words that several places say: which names there are, which were meant, how far a run got."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

#: What 10x calls a gene among its features.
GENE_FEATURE = "Gene Expression"
_LISTS = (".txt", ".tsv", ".csv")  # files that list names
_SHOWN = 5  # names shown in messages


def few(names: Sequence[str] | NDArray[Any] | pd.Index) -> str:
    """Return the first few names, comma-separated."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return shown + ", ..." if len(names) > _SHOWN else shown


def no_such_file(names: Sequence[str]) -> str:
    """Say that there is no file, where an unknown name looks like the path of a list of names."""
    if len(names) != 1:
        return ""
    name = names[0]
    looks_so = "/" in name or os.sep in name or name.endswith(_LISTS)
    return f" There is no file {name} either." if looks_so else ""


def duration(seconds: float) -> str:
    """Return a length of time to two digits or so: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if round(seconds) < 100:
        return f"{seconds:.0f} s"
    if minutes < 100:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def time_left(seconds: float, done: float, of: float) -> str:
    """Say how long the rest takes at the pace of what is done, which is more than nothing.

    1 s at least.
    """
    return f"{duration(max(1.0, seconds * (of - done) / done))} left"


def epochs_in_words(training: Mapping[str, Any]) -> str:
    """Which epoch's weights a run record's ``training`` kept, of how many."""
    stopped = ", interrupted" if training["stopped"] == "interrupted" else ""
    return f"epoch {training['best_epoch']} of {training['epochs']}{stopped}"


def check_is_name(column: object, *, option: str) -> None:
    """Refuse anything but the name of one column."""
    if not isinstance(column, str):
        raise TypeError(
            f"{option}: got {column!r}, expected the name of one column of obs. Join several into "
            "one first: obs['both'] = obs['a'].astype(str) + ' ' + obs['b'].astype(str)."
        )


def check_column(obs: pd.DataFrame, column: str, *, option: str) -> None:
    """Refuse a column that ``obs`` does not have, and say which it has."""
    check_is_name(column, option=option)
    if column not in obs:
        present = ", ".join(map(repr, obs.columns)) or "none"
        raise ValueError(f"{option}: obs has no column {column!r}; columns present: {present}.")


def similar_names(name: str, names: pd.Index) -> str:
    """Names that differ in little, or in case."""
    folded = {known.casefold(): known for known in names.astype(str)}
    near = difflib.get_close_matches(name.casefold(), folded, n=3)
    return f" (similar: {', '.join(folded[other] for other in near)})" if near else ""


def copies_in_words(record: Mapping[str, Any]) -> str:
    """What the counts were divided by, of a run record with copies."""
    return f"{record['copies']:.3g} counts a molecule in the median gene, divided before training"
