"""Estimates of other programs, as layers of the file that has the kept counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from graphsci._jobs.evaluate_ours import OUR_MEAN, OURS
from graphsci.evaluation import study
from graphsci.evaluation.controls import CONTROLS
from graphsci.io.sources import to_csr
from graphsci.preprocessing import library_sizes

if TYPE_CHECKING:
    from anndata import AnnData

#: Methods that need no layer.
BUILT_IN = (OURS, OUR_MEAN, *CONTROLS, study.CEILING)
#: Where ``--write-split`` puts the held-out molecules.
HELD_OUT_LAYER = "held_out"
#: Cells in which a layer is compared with the counts that were divided.
_LOOKED_AT = 100
#: More of them alike than this share are no chance.
_NEARLY_ALL = 0.8


def estimate_of_layer(adata: AnnData, name: str, *, held_out: bool) -> Any:
    """Return someone's estimate; refuse one that may have seen the held-out molecules.

    ``held_out``: whether they were held out before, so that it need not have.
    """
    if name not in adata.layers:
        raise ValueError(
            f"method: got {name!r}, expected one of {', '.join(BUILT_IN)}, or a layer "
            f"of the input ({', '.join(adata.layers) or 'it has none'})."
        )
    if not held_out:
        raise ValueError(
            f"method: layers[{name!r}] was made from the counts that would be held out, so it has "
            "seen the answer. Write the kept counts with --write-split FILE, run the other method "
            "on that file's X, add its estimate as a layer, and evaluate that file with "
            f"--held-out {HELD_OUT_LAYER}."
        )
    values = adata.layers[name]
    data = values.data if sparse.issparse(values) else np.asarray(values)
    if not np.isfinite(data).all() or (data < 0).any():
        raise ValueError(
            f"method: layers[{name!r}] holds negative or non-finite values, expected counts at "
            "each cell's own depth; undo any logarithm and scaling first."
        )
    return values


def refuse_whole_counts(
    layers: dict[str, Any], kept: sparse.csr_matrix, held_out: sparse.csr_matrix
) -> None:
    """Refuse the very counts that were divided, on whatever scale: they have every answer.

    Some cells are looked at. An estimate that in nearly all of them has one value for every whole
    count, and none that falls with it, is these counts, scaled, normalised or logged.
    """
    some = np.flatnonzero(held_out.getnnz(axis=1))[:_LOOKED_AT]
    whole = (kept[some] + held_out[some]).toarray()
    for name, values in layers.items():
        looked_at = to_csr(values[some]).toarray()
        alike = [_is_function_of(*pair) for pair in zip(looked_at, whole, strict=True)]
        if np.mean(alike or [False]) > _NEARLY_ALL:
            raise ValueError(
                f"method: layers[{name!r}] holds the kept counts and the held-out ones together, "
                "so it has seen the answer. Run the method on X of this file, the kept counts."
            )


def _is_function_of(values: NDArray[Any], counts: NDArray[Any]) -> bool:
    """Whether a cell's values, (genes,), rise with its counts, (genes,), and nothing else.

    Large counts may have one value, as logarithms in float32 do; none and one may not.
    """
    lowest, highest = (
        np.array([end(values[counts == count]) for count in np.unique(counts)])
        for end in (np.min, np.max)
    )
    if len(lowest) == 1:
        return False
    close = 1e-5 * np.maximum(np.abs(lowest), np.abs(highest))
    rises = np.diff(lowest) >= -close[1:]
    first = lowest[1] - highest[0] > max(close[:2])
    return bool((highest - lowest <= close).all() and rises.all() and first)


def other_scales(layers: dict[str, Any], kept: sparse.csr_matrix) -> list[str]:
    """Say which estimates are not on the scale of the kept counts; they are scored as they are."""
    library, notes = library_sizes(kept), []
    some = np.flatnonzero(library)
    for name, values in layers.items():
        share = np.asarray(values[some].sum(1), dtype=np.float64).ravel() / library[some]
        low, median, high = np.quantile(share, [0.05, 0.5, 0.95])
        if low < median / 2 or high > 2 * median or not 0.5 < median < 2:
            notes.append(
                f"layers[{name!r}] sums to {median:.3g} times the kept counts of a cell ({low:.2g} "
                f"to {high:.2g} in nine cells of ten), expected about 1: an estimate of counts at "
                "each cell's own depth. It is scored as it is, and loses by its scale: undo "
                "logarithms, and multiply shares by the sum of the cell's kept counts."
            )
    return notes
