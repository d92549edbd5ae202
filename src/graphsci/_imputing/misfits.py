"""Cells that fit the model badly: how many there are, and which genes it does not expect there."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from graphsci._imputing.estimating import Cells, evenly
from graphsci.nn.cell_blocks import row_blocks
from graphsci.nn.misfit import gene_misfit
from graphsci.preprocessing import align_counts
from graphsci.training.fitting import Fitted

#: More cells beyond the limit than this share of all, and a few, deserve a warning.
_MANY, _FEW = 0.1, 3
#: Genes that the warning names, and the cells that are asked for them.
_NAMED, _ASKED = 5, 500


class UnexpectedGenes(NamedTuple):
    """Genes that some cells express more than the model expects, furthest from it first."""

    names: NDArray[np.str_]  #: (genes,)
    observed: NDArray[np.float64]  #: (genes,) counts in the average of the cells
    expected: NDArray[np.float64]  #: (genes,) what the model predicts for it


def misfit_note(
    fitted: Fitted, cells: Cells, misfits: NDArray[np.floating], column: str
) -> str | None:
    """What to say if many cells are beyond the limit (1) of the training cells; else None.

    Then it costs a read of at most ten chunks of cells.

    Parameters
    ----------
    fitted
        The model.
    cells
        What it was applied to.
    misfits
        (cells,) theirs; NaN for a cell without molecules.
    column
        Where in ``obs`` they are.
    """
    known = misfits[np.isfinite(misfits)]
    beyond = int((known > 1).sum())
    if beyond < _FEW or beyond <= _MANY * len(known):
        return None
    found = unexpected_genes(fitted, cells, np.flatnonzero(misfits > 1))
    genes = [
        f"{name} ({seen:.2g} counts a cell, {predicted:.2g} expected)"
        for name, seen, predicted in zip(*found, strict=True)
    ][:_NAMED]
    named = f" Least expected there: {', '.join(genes)}." if genes else ""
    return (
        f"{beyond:,} of {len(known):,} cells ({beyond / len(known):.0%}) fit the model worse than "
        f"99 % of the cells that it knows (obs[{column!r}] above 1; median "
        f"{np.median(known):.2g}): they may be of a type, a protocol or a quality that training "
        f"lacked, and estimates then miss what only they express.{named} Train on data that have "
        "such cells."
    )


def unexpected_genes(fitted: Fitted, cells: Cells, which: NDArray[np.int64]) -> UnexpectedGenes:
    """Genes that are higher in the cells ``which`` than the model predicts for these cells.

    Of at most 500 of the cells, from at most ten chunks; genes that were not measured are left out.
    """
    network, n_genes = fitted.network, len(fitted.spec.gene_names)
    device = next(network.parameters()).device
    observed, expected, distance = np.zeros((3, n_genes))
    starts, n_cells = cells.some_starts(which), 0
    for start in starts:
        counts = cells.chunk(start)
        inside = which[(which >= start) & (which < start + counts.shape[0])]
        rows = evenly(inside, _ASKED // len(starts))
        aligned = align_counts(counts[rows - start], cells.match)
        n_cells += len(rows)
        for _, part in row_blocks(len(rows)):
            block = cells.block(aligned[part], cells.batch[rows[part]], device)
            with torch.inference_mode():
                dense = block.dense(block.counts, n_genes)
                found = gene_misfit(network.expression(block), dense)
            for total, values in zip(
                (observed, expected, distance), (dense.sum(0), *found), strict=True
            ):
                total += values.numpy(force=True)
    order = np.argsort(-distance, kind="stable")
    higher = (observed > expected) & (cells.match.positions >= 0) & (distance > 0)
    order = order[higher[order]]
    times = fitted.spec.copies[order] / max(n_cells, 1)
    names = np.asarray(fitted.spec.gene_names, dtype=str)[order]
    return UnexpectedGenes(names, observed[order] * times, expected[order] * times)
