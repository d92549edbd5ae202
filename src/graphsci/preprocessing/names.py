"""Names of genes and cells: unique, and found among others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphsci._words import few, no_such_file, similar_names
from graphsci.preprocessing._types import Names


def checked_names(index: pd.Index, kind: str, remedy: str) -> Names:
    """Return names as a numpy str array; refuse duplicates."""
    repeated = repeated_names(index)
    if len(repeated):
        raise ValueError(
            f"{kind} names occur more than once ({len(repeated):,}: {few(repeated)}), "
            f"expected unique names: {kind}s are matched by name. "
            f"Make them unique: {remedy} (command line: --make-names-unique)."
        )
    return as_names(index)


def as_names(index: pd.Index) -> Names:
    """Return names as a numpy str array."""
    return np.asarray(index.astype(str), dtype=np.str_)


#: Genes that nearly every cell expresses, in man, mouse and others.
_HOUSEKEEPING = re.compile(
    r"RP[LS]\d+[AXY]?|MT-(ND|CO|ATP|CYB)\w*|ACTB|GAPDH|EEF1A1|MALAT1|B2M|PPIA", re.I
)


def genes_every_cell_has(names: Names) -> Names:
    """Return those of ``names`` that are genes which nearly every cell expresses."""
    return names[[_HOUSEKEEPING.fullmatch(name) is not None for name in names]]


def repeated_names(index: pd.Index) -> pd.Index:
    """Return the names that occur more than once, once each."""
    return index[index.duplicated()].unique()


def positions_of(
    names: Sequence[str], index: pd.Index, *, kind: Literal["gene", "cell"], option: str
) -> NDArray[np.int64]:
    """Positions of chosen genes or cells in ``index``, in the order asked for.

    Raises
    ------
    ValueError
        If one is unknown, or names in ``index`` repeat; ``option`` is what the message names.
    """
    slot, hint = {"gene": ("var_names", "case"), "cell": ("obs_names", "suffixes")}[kind]
    checked_names(index, kind, f"adata.{slot}_make_unique()")
    positions = index.get_indexer(pd.Index(names))
    missing = [name for name, position in zip(names, positions, strict=True) if position < 0]
    if missing:
        told = missing[:5]
        if kind == "gene":  # of cells there may be millions
            told = [f"{name}{similar_names(name, index)}" for name in told]
        raise ValueError(
            f"{option}: {len(missing)} of {len(names)} are not in {slot}: "
            f"{', '.join(told)}. Check spelling and {hint}.{no_such_file(names)}"
        )
    return np.asarray(positions, dtype=np.int64)
