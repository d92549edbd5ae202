"""What is to be estimated: which genes, which estimates and on which scale, checked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from graphsci import estimates as es
from graphsci._keys import Keys
from graphsci.io import refuse_more_than_memory
from graphsci.preprocessing import check_is_anndata, positions_of

if TYPE_CHECKING:
    from anndata import AnnData


class Request(NamedTuple):
    """What is to be estimated, checked before any work."""

    names: tuple[str, ...]  #: matrices to make, e.g. denoised and denoised_sd
    columns: NDArray[np.int64]  #: positions of the genes wanted
    depth: es.Depth
    scale: es.Scale
    interval: float | None
    as_batch: str | None = None  #: batch that estimates are as of; None for each cell's own

    @classmethod
    def of(
        cls,
        adata: AnnData,
        estimates: Sequence[es.Estimate],
        genes: Sequence[str] | None,
        *,
        depth: es.Depth = "own",
        scale: es.Scale = "counts",
        interval: float | None = None,
        as_batch: str | None = None,
    ) -> Request:
        """Check a request; each fault is one ValueError that names it."""
        check_is_anndata(adata)
        _check_scale(depth, scale)
        chosen = _checked_estimates(estimates, interval)
        if as_batch is not None:
            as_batch = str(as_batch)  # as the names of batches are, whatever their type
            _refuse_counts(chosen)
        names, columns = es.estimate_names(chosen, interval), _columns(adata.var_names, genes)
        return cls(names, columns, depth, scale, interval, as_batch)

    @classmethod
    def plain(cls, *names: str) -> Request:
        """Of no gene, at own depth as counts: to describe a model, or estimates made elsewhere."""
        return cls(names, np.arange(0), "own", "counts", None)

    def refuse_no_room(self, adata: AnnData, *, copy: bool) -> None:
        """Refuse estimates that ``adata`` cannot take, or memory cannot."""
        if adata.isbacked and (copy or adata.is_view):
            what = "is a view of a backed AnnData" if adata.is_view else "is backed and copy=True"
            raise ValueError(
                f"adata {what}, which anndata cannot copy in memory. Call adata.to_memory() first, "
                "or take the estimates in blocks (iterate_estimates)."
            )
        refuse_more_than_memory(
            4 * adata.n_obs * len(self.columns) * len(self.names),
            what="these estimates take as layers",
            remedy="Choose genes (genes=[...]), take them in blocks (iterate_estimates), or let "
            "the command line stream them to disk (graphsci impute, graphsci apply).",
        )

    def refuse_overwriting(self, layer: str | None, slots: Keys) -> None:
        """Refuse to write a layer over the counts it is made from."""
        if layer in [slots.layer(name) for name in self.names]:
            raise ValueError(
                f"layer: the counts are in layers[{layer!r}], where an estimate would be written; "
                "give a prefix (command line: --prefix)."
            )


def _checked_estimates(estimates: Sequence[str], interval: float | None) -> tuple[es.Estimate, ...]:
    chosen = (estimates,) if isinstance(estimates, str) else tuple(estimates)
    unknown = [name for name in chosen if name not in es.ESTIMATES]
    if unknown or not chosen:
        raise ValueError(
            f"estimates: got {', '.join(map(repr, unknown)) or 'none'}, expected any of "
            f"{', '.join(es.ESTIMATES)}."
        )
    if interval is not None and not 0 < interval < 1:
        raise ValueError(f"interval: got {interval}, expected a level between 0 and 1, e.g. 0.9.")
    if interval is not None and "denoised" not in chosen:
        raise ValueError(
            "interval: it belongs to the estimate 'denoised', which was not asked for."
        )
    return tuple(name for name in es.ESTIMATES if name in chosen)


def _refuse_counts(estimates: tuple[es.Estimate, ...]) -> None:
    """Refuse estimates that keep counts, which are of the batch that they were measured in."""
    kept = [name for name in estimates if name.startswith("imputed")]
    if kept:
        raise ValueError(
            f"as_batch (--as-batch): {' and '.join(map(repr, kept))} "
            f"{'keeps' if len(kept) == 1 else 'keep'} the measured counts, which are of the cell's "
            "own batch; expected 'denoised' or 'mean'. Leave one of the two out."
        )


def _check_scale(depth: str, scale: str) -> None:
    if depth not in ("own", "common"):
        raise ValueError(f"depth: got {depth!r}, expected 'own' or 'common'.")
    if scale not in ("counts", "log1p"):
        raise ValueError(f"scale: got {scale!r}, expected 'counts' or 'log1p'.")


def _columns(names: pd.Index, genes: Sequence[str] | None) -> NDArray[np.int64]:
    """Positions of the chosen genes, all if None; by name, or by a boolean mask of ``var``."""
    if genes is None:
        return np.arange(len(names))
    if isinstance(genes, str) or not isinstance(genes, Iterable):
        genes = [genes]
    if pd.api.types.is_bool_dtype(pd.Index(genes)):
        genes = names[_mask(genes, names)].tolist()
    other = next((gene for gene in genes if not isinstance(gene, str)), None)
    if other is not None:
        raise TypeError(
            f"genes: got {other!r}, expected names of genes, or a boolean mask of var. For "
            "positions in var: genes=adata.var_names[[0, 5]]."
        )
    repeated = pd.Index(genes)[pd.Index(genes).duplicated()]
    if not len(genes) or len(repeated):
        found = f"{repeated[0]!r} more than once" if len(repeated) else "no gene"
        raise ValueError(f"genes: got {found}, expected one or more different genes.")
    return positions_of(genes, names, kind="gene", option="genes")


def _mask(genes: Sequence[str], names: pd.Index) -> NDArray[np.bool_]:
    """Return a boolean mask in the order of ``names``, which a Series is brought into."""
    mask = genes
    if isinstance(genes, pd.Series):
        if len(genes.index) != len(names) or not genes.index.isin(names).all():
            raise ValueError(
                f"genes: got a mask of {len(genes):,} genes whose index is not that of var, with "
                f"{len(names):,}. Take it of this adata, e.g. adata.var['highly_variable']."
            )
        mask = genes if genes.index.equals(names) else genes.reindex(names)
    if len(mask) != len(names):
        raise ValueError(
            f"genes: got a boolean mask of {len(mask):,}, expected names of genes or a mask of the "
            f"{len(names):,} genes of var."
        )
    return np.asarray(mask, dtype=bool)
