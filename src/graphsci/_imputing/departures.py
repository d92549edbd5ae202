"""Where the estimates of a group of cells are not what was counted in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

#: Sums of fewer counts say little; so does a departure from them.
_LEAST_EXPECTED = 1.0


def departures(
    counts: sparse.csr_matrix,
    estimate: NDArray[np.floating],
    groups: NDArray[Any],
    gene_names: NDArray[Any],
    *,
    copies: NDArray[np.floating] | float = 1.0,
) -> pd.DataFrame:
    """Compare sums over groups, the largest departure first.

    Parameters
    ----------
    counts, estimate
        (cells, genes), both at the cells' own depth; genes with an estimate that is NaN are left
        out.
    groups
        (cells,) labels as text, None for none.
    gene_names
        (genes,)
    copies
        Counts that a molecule left, (genes,) or of all: reads vary by as much more.

    Returns
    -------
    A row for each group and gene of which at least one count was estimated or measured: ``group``,
    ``gene``, ``cells`` (of the group), ``measured`` and ``estimated`` (sums), ``ratio`` and ``z``,
    estimated minus measured in standard errors of a Poisson count of the estimated mean.
    """
    known = np.flatnonzero([group is not None for group in groups])
    names, codes = np.unique(groups[known].astype(str), return_inverse=True)
    where = codes, known
    indicator = sparse.csr_matrix((np.ones(len(known)), where), shape=(len(names), counts.shape[0]))
    measured = np.asarray((indicator @ counts).todense(), dtype=np.float64)
    estimated = np.asarray(indicator @ estimate, dtype=np.float64)
    error = np.sqrt(np.maximum(estimated, _LEAST_EXPECTED) * copies)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = estimated / measured
    rows, genes = np.nonzero(np.maximum(measured, estimated) >= _LEAST_EXPECTED)
    at = rows, genes
    table = pd.DataFrame(
        {
            "group": names[rows],
            "gene": gene_names[genes],
            "cells": np.bincount(codes, minlength=len(names))[rows],
            "measured": measured[at],
            "estimated": estimated[at],
            "ratio": ratio[at],
            "z": ((estimated - measured) / error)[at],
        }
    )
    order = np.argsort(-table["z"].abs().to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)
