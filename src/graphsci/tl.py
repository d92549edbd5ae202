"""Tools in scanpy's manner: functions of an AnnData that write into it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from scipy import sparse

from graphsci._keys import DEFAULT_KEY, keys
from graphsci.config import Config
from graphsci.estimates import Depth, Estimate, Scale
from graphsci.gene_graph import GeneGraph
from graphsci.imputer import GraphSCI, Request

if TYPE_CHECKING:
    from anndata import AnnData


def impute(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    estimates: Sequence[Estimate] = ("denoised",),
    genes: Sequence[str] | None = None,
    depth: Depth = "own",
    scale: Scale = "counts",
    interval: float | None = None,
    gene_graph: GeneGraph | sparse.spmatrix | pd.DataFrame | None = None,
    allow_fractional: bool = False,
    key_added: str = DEFAULT_KEY,
    prefix: str = "",
    copy: bool = False,
    config: Config | None = None,
    **options: Any,
) -> AnnData | None:
    """Train on the raw counts of ``adata`` and write estimates of its expression into it.

    The same as ``GraphSCI(config, **options).fit(adata, ...)`` followed by
    :meth:`~graphsci.GraphSCI.impute`, which describes parameters and results. The verdict of
    the check against held-out molecules is in ``adata.uns[key_added]["verdict"]``.

    Parameters
    ----------
    adata
        Raw counts in ``X``, or in ``layer``; never overwritten.
    gene_graph
        A network to use instead of one computed from the counts.
    config, **options
        Hyper-parameters, e.g. ``seed=1``, ``preset="paper"``, ``check=False``.
    copy
        Return a changed copy instead of changing ``adata``.

    Examples
    --------
    >>> graphsci.tl.impute(adata, estimates=["denoised", "imputed"], seed=0)
    >>> print(adata.uns["graphsci"]["verdict"]["line"])
    >>> sc.pl.umap(adata, color="LYZ", layer="denoised")
    """
    # what is asked for is checked before the long work
    request = Request.of(adata, estimates, genes, depth=depth, scale=scale, interval=interval)
    if genes is None:
        request.refuse_overwriting(layer, keys(key_added, prefix=prefix))
    model = GraphSCI(config, **options).fit(
        adata,
        layer=layer,
        batch_key=batch_key,
        allow_fractional=allow_fractional,
        gene_graph=gene_graph,
    )
    return model.impute(
        adata,
        layer=layer,
        batch_key=batch_key,
        allow_fractional=allow_fractional,
        estimates=estimates,
        genes=genes,
        depth=depth,
        scale=scale,
        interval=interval,
        key_added=key_added,
        prefix=prefix,
        copy=copy,
    )
