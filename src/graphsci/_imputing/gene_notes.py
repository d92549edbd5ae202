"""What is to be said of genes that a model and the cells it is applied to do not share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from graphsci._imputing.estimating import Cells
from graphsci._words import few
from graphsci.training.fitting import ModelSpec

#: Less than this share of the training molecules in the genes measured deserves a note.
_FEW_MEASURED = 0.9
#: A larger share of the counts than this in genes that had none in training does.
_TRACE = 0.001


def gene_notes(spec: ModelSpec, cells: Cells, columns: NDArray[np.int64]) -> list[str]:
    """Notes on genes that the model misses, never saw, or saw without a molecule.

    Parameters
    ----------
    spec, cells
        The model's, and what it is applied to.
    columns
        Genes of the data that are estimated.
    """
    wanted = cells.gene_names[columns]
    return [
        *_missing(cells),
        *_unknown(spec, cells, wanted),
        *_silent(spec, cells, wanted),
    ]


def _missing(cells: Cells) -> list[str]:
    missing = cells.match.missing
    if not missing or cells.measured_share >= _FEW_MEASURED:
        return []
    return [
        f"{len(missing):,} genes of the model were not measured here ({few(missing)}), "
        f"{1 - cells.measured_share:.0%} of the molecules it was trained on: estimates rest on "
        "the other genes."
    ]


def _unknown(spec: ModelSpec, cells: Cells, wanted: NDArray[np.str_]) -> list[str]:
    known, asked = {*spec.gene_names, *spec.undetected}, {*wanted}
    unknown = [name for name in cells.match.extra if name in asked and name not in known]
    if not unknown:
        return []
    return [
        f"{len(unknown):,} genes are not in the model's training data ({few(unknown)}): their "
        "estimates are NaN, but for 'imputed', which keeps the counts. Choose genes=..., or "
        "train on data that have them."
    ]


def _silent(spec: ModelSpec, cells: Cells, wanted: NDArray[np.str_]) -> list[str]:
    """Of genes that training saw without a molecule; costs a read of at most ten chunks."""
    silent = np.flatnonzero(np.isin(cells.gene_names, spec.undetected))
    silent = silent[np.isin(cells.gene_names[silent], wanted)]
    if not len(silent):
        return []
    totals, of_all = np.zeros(len(silent)), 0.0
    for start in cells.some_starts():
        counts = cells.chunk(start)
        totals += np.asarray(counts[:, silent].sum(0)).ravel()
        of_all += float(counts.sum())
    seen = totals > 0
    share = totals.sum() / max(of_all, 1.0)
    if share <= _TRACE:
        return []
    names = cells.gene_names[silent[np.argsort(-totals, kind="stable")]][: int(seen.sum())]
    return [
        f"Genes without a molecule in training ({few(names)}) have {share:.1%} of the counts here: "
        "their estimates are NaN where they have counts, but for 'imputed', and no misfit of cells "
        "counts them. These may be cells of a type that training lacked: train on data that have "
        "such cells."
    ]
