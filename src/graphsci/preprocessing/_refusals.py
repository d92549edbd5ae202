"""Values that are not raw counts: what they look like, and where counts may be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from graphsci.preprocessing._opening import Opened, layers_present
from graphsci.preprocessing._values import Found, inspect_values
from graphsci.preprocessing.normalization import library_sizes

if TYPE_CHECKING:
    from anndata import AnnData

#: Largest integer up to which float32 holds every integer exactly.
MAX_EXACT_COUNT = 2**24
SAMPLE_ROWS = 200  # rows looked at to guess what refused values are; never to accept them


def check_values(
    found: Found,
    opened: Opened,
    adata: AnnData,
    layer: str | None,
    counts: sparse.csr_matrix,
    allow_fractional: bool,
    n_entries: int | None = None,
) -> None:
    """Refuse values that are not raw counts; say what they look like and what to do.

    ``counts`` may be the first rows of a file whose ``n_entries`` are known.
    """
    where, n_entries = opened.where, counts.nnz if n_entries is None else n_entries
    if found.n_not_finite:
        raise ValueError(
            f"{where} holds NaN or infinite values ({found.n_not_finite:,}), expected finite "
            "counts. Set missing entries to 0 if they were not observed, or bring the raw counts."
        )
    if found.n_negative:
        raise ValueError(
            f"{where} holds negative values ({found.n_negative:,}, smallest {found.minimum:.4g}), "
            f"expected raw counts. {_negative_guess(found)} {_where_counts_may_be(adata, layer)}"
        )
    if found.maximum > MAX_EXACT_COUNT:
        raise ValueError(
            f"{where} holds a value of {found.maximum:,.0f}, expected counts up to "
            f"{MAX_EXACT_COUNT:,} (2^24, what float32 holds exactly). "
            "Is this a total or an intensity? Remove that gene or cell, or bring raw counts."
        )
    if found.n_fractional and not allow_fractional:
        _refuse_fractional(found, where, adata, layer, counts, n_entries)
    if not n_entries:
        raise ValueError(
            f"{where} holds no counts at all: every value is 0. Expected raw counts. "
            f"{_where_counts_may_be(adata, layer)}"
        )


def _negative_guess(found: Found) -> str:
    if found.n_fractional:
        return "It looks like scaled (z-scored) or centred data."
    return "All are whole numbers: it looks like a difference, or a code for missing values."


def _refuse_fractional(
    found: Found,
    where: str,
    adata: AnnData,
    layer: str | None,
    counts: sparse.csr_matrix,
    n_entries: int,
) -> None:
    """Raise for values that are not whole numbers."""
    share = found.n_fractional / max(n_entries, 1)
    raise ValueError(
        f"{where} holds {found.n_fractional:,} values that are not whole numbers "
        f"({share:.0%} of the non-zeros, largest value {found.maximum:.4g}), expected raw counts. "
        f"{_fractional_guess(found, adata, layer, counts)} {_where_counts_may_be(adata, layer)} "
        "If these are counts that may lawfully be fractional (ambient-corrected, expected "
        "counts), say so: `allow_fractional=True` (`--allow-fractional`)."
    )


def _fractional_guess(
    found: Found, adata: AnnData, layer: str | None, counts: sparse.csr_matrix
) -> str:
    """Say in one sentence what fractional values look like."""
    if found.max_rounding < 1e-3:
        return "All are within 0.001 of one: they look like counts with rounding errors; round."
    if _sums_are_constant(counts, np.expm1):
        return "It looks like log1p-normalised data (expm1 of each cell has the same sum)."
    if layer is None and "log1p" in adata.uns:
        return "It looks like log1p-normalised data (adata.uns['log1p'] is set)."
    if _sums_are_constant(counts, lambda values: values):
        return "It looks like data normalised to a common depth (each cell has the same sum)."
    if found.maximum < 20:
        return "It looks like log-transformed data (all values are small)."
    return "It looks like normalised expression (TPM, FPKM, counts scaled per cell)."


def _sums_are_constant(counts: sparse.csr_matrix, transform: Any) -> bool:
    """Whether transformed values of non-empty cells add up to one constant (0.1 %)."""
    sample = counts[:SAMPLE_ROWS].astype(np.float64)
    sample.data = transform(np.minimum(sample.data, 700.0 if transform is np.expm1 else np.inf))
    sums = library_sizes(sample)
    sums = sums[sums > 0]
    return len(sums) > 1 and bool(np.ptp(sums) < 1e-3 * sums.mean())


def _where_counts_may_be(adata: AnnData, layer: str | None) -> str:
    """Name the layers and ``adata.raw`` as places of raw counts, if they look like them."""
    others = {f"layer={key!r}": adata.layers[key] for key in adata.layers if key != layer}
    if layer is not None and adata.X is not None:
        others["adata.X (leave `layer` out)"] = adata.X
    good = [name for name, matrix in others.items() if _looks_like_counts(matrix)]
    text = layers_present(adata)
    if good:
        text += f" Whole numbers are in {', '.join(good)}."
    if len(adata.layers):
        text += " Choose the one with raw counts: `layer=` (`--layer`)."
    if adata.raw is not None and _looks_like_counts(adata.raw.X):
        text += (
            " adata.raw looks like counts: use adata.raw.to_adata(); for the command line write "
            'them to a file: python -c "import graphsci; '
            "graphsci.read_counts('IN').raw.to_adata().write_h5ad('counts.h5ad')\"."
        )
    elif not good:
        text += " Bring the counts as they were before any normalisation."
    return text


def _looks_like_counts(matrix: Any) -> bool:
    """Whether the first rows are non-negative whole numbers, not all zero."""
    if np.dtype(matrix.dtype).kind not in "iuf":
        return False
    rows = matrix[:SAMPLE_ROWS]
    values = rows.data if sparse.issparse(rows) else np.asarray(rows).ravel()
    found = inspect_values(values)
    return found.maximum > 0 and not (found.n_not_finite or found.n_negative or found.n_fractional)
