"""Tools in scanpy's manner: functions of an AnnData that write into it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._choices import N_NEIGHBORS
from graphsci._imputing.as_batch import check_as_batch
from graphsci._imputing.request import Request
from graphsci._keys import DEFAULT_KEY, keys
from graphsci._log import Log, say_nothing
from graphsci._terminal import shown
from graphsci._words import check_column
from graphsci.config import Config
from graphsci.estimates import Depth, Estimate, Scale
from graphsci.gene_graph.graph import GeneGraph
from graphsci.imputer import GraphSCI
from graphsci.preprocessing import extract_batch

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.network import GeneNetwork
    from graphsci.training.loop import Progress

__all__ = ["gene_network", "group_departures", "impute"]


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
    as_batch: str | None = None,
    gene_graph: GeneGraph | sparse.spmatrix | NDArray | pd.DataFrame | None = None,
    allow_fractional: bool = False,
    key_added: str = DEFAULT_KEY,
    prefix: str = "",
    copy: bool = False,
    progress: bool | Progress | None = None,
    log: Log = say_nothing,
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
    layer, batch_key, allow_fractional
        Where the counts are, and their batches: as in ``GraphSCI.fit``.
    estimates, genes, depth, scale, interval, as_batch
        What is estimated: as in :meth:`graphsci.GraphSCI.impute`.
    gene_graph
        A network to use instead of one computed from the counts.
    key_added, prefix
        Names of the results: as in :meth:`graphsci.GraphSCI.impute`.
    copy
        Return a changed copy instead of changing ``adata``.
    progress, log
        A bar with the time left, and what is called before every stage: as in ``GraphSCI.fit``.
    config, **options
        Hyper-parameters, e.g. ``seed=1``, ``preset="paper"``, ``check=False``.

    Warns
    -----
    UserWarning
        If the check did not find the imputation better than every simple method; and what
        ``GraphSCI.fit`` and :meth:`~graphsci.GraphSCI.impute` warn of.

    Examples
    --------
    >>> graphsci.tl.impute(adata, estimates=["denoised", "imputed"], seed=0)
    >>> print(adata.uns["graphsci"]["verdict"]["line"])
    >>> sc.pl.umap(adata, color="LYZ", layer="denoised")
    """
    # what is asked for is checked before the long work
    request = Request.of(
        adata, estimates, genes, depth=depth, scale=scale, interval=interval, as_batch=as_batch
    )
    if as_batch is not None:
        check_as_batch(request.as_batch, extract_batch(adata, batch_key)[1])
    slots = keys(key_added, prefix=prefix)
    if genes is None:
        request.refuse_overwriting(layer, slots)
    request.refuse_no_room(adata, copy=copy)
    model = GraphSCI(config, **options).fit(
        adata,
        layer=layer,
        batch_key=batch_key,
        allow_fractional=allow_fractional,
        gene_graph=gene_graph,
        progress=progress,
        log=log,
    )
    verdict = model.verdict
    if verdict is not None and not (verdict.passed or verdict.of_copies):  # of copies fit warned
        warnings.warn(verdict.line(), stacklevel=2)
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
        as_batch=as_batch,
        key_added=key_added,
        prefix=prefix,
        copy=copy,
        progress=None if callable(progress) else progress,
    )


def group_departures(
    adata: AnnData,
    label_key: str,
    *,
    estimate: str = "denoised",
    layer: str | None = None,
    key_added: str = DEFAULT_KEY,
) -> pd.DataFrame:
    """Where an estimate of a group of cells departs from what was counted in it.

    An estimate borrows from similar cells: of a small type that is like a large one it has the
    markers of the large one too high and its own too low. Summed over the cells of a group the
    counts say how high they are; where the two differ by many standard errors, believe the counts.

    Costs memory of groups x genes.

    Parameters
    ----------
    adata
        With an estimate in ``layers[estimate]``, on the scale of counts at own depth, as
        :meth:`graphsci.GraphSCI.impute` writes it.
    label_key
        Column of ``obs`` with the groups, e.g. clusters. Cells without one are left out.
    estimate
        Name of the layer.
    layer
        Layer of the counts; ``X`` if None.
    key_added
        Name of the run that wrote the estimate.

    Returns
    -------
    The largest departure first: ``group``, ``gene``, ``cells``, ``measured`` and ``estimated``
    (sums over the group), their ``ratio``, and ``z``, estimated minus measured in standard errors
    of a Poisson count. Of a group's thousands of genes some are at 4 by chance.

    Raises
    ------
    ValueError
        If there is no such column or layer, or the run's record says that it is on another scale
        or at another depth.

    Examples
    --------
    >>> table = graphsci.tl.group_departures(adata, "leiden")
    >>> table[table["ratio"] > 1.5].head(20)
    """
    from graphsci._imputing.departures import departures
    from graphsci._labels import known_labels

    check_column(adata.obs, label_key, option="label_key")
    if estimate not in adata.layers:
        raise ValueError(
            f"layers has no {estimate!r} (it has {', '.join(adata.layers) or 'none'}): expected an "
            "estimate of all genes. Run impute first, or name another layer (estimate=)."
        )
    record = adata.uns.get(key_added, {})
    said = dict(record.get("estimates", {})).get(estimate, {})
    if said.get("scale", "counts") != "counts" or said.get("depth", "own") != "own":
        raise ValueError(
            f"layers[{estimate!r}] is on the scale {said['scale']!r} at {said['depth']!r} depth, "
            "expected counts at the cells' own depth, as the counts are. Run impute without scale "
            "and depth."
        )
    if (as_batch := said.get("as_batch")) is not None:
        raise ValueError(
            f"layers[{estimate!r}] is as of batch {as_batch!r}, expected each cell's own "
            "batch, as the counts are. Run impute without as_batch."
        )
    counts = adata.X if layer is None else adata.layers[layer]
    copies = adata.var.get(keys(key_added).copies)
    return departures(
        sparse.csr_matrix(counts),
        adata.layers[estimate],
        known_labels(adata.obs[label_key]),
        np.asarray(adata.var_names),
        copies=1.0 if copies is None else copies.fillna(1.0).to_numpy(),
    )


def gene_network(
    adata: AnnData,
    model: GraphSCI | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    gene_graph: GeneGraph | sparse.spmatrix | NDArray | pd.DataFrame | None = None,
    prior: pd.DataFrame | GeneGraph | None = None,
    n_neighbors: int = N_NEIGHBORS,
    control: bool = True,
    modules: bool = True,
    min_confidence: float | None = None,
    label_key: str | None = None,
    key_added: str = DEFAULT_KEY,
    progress: bool | Progress | None = None,
    log: Log = say_nothing,
    config: Config | None = None,
    **options: Any,
) -> GeneNetwork:
    """Refine the gene network of ``adata`` and write it into it.

    Parameters
    ----------
    adata
        Raw counts in ``X``, or in ``layer``; never overwritten.
    model
        Trained on these cells; trained here if None, with ``config`` and ``**options``.
    layer, batch_key, allow_fractional
        Where the counts are, and their batches: as in ``GraphSCI.fit``.
    gene_graph
        Known network to train with; beside the graph of the counts with ``network_weight``
        below 1. As in ``GraphSCI.fit``.
    prior
        Known network, reported beside the other evidence.
    n_neighbors
        New edges: so many strongest partners of every gene.
    control
        Train once more with shuffled genes, which gives edges a false-discovery rate.
    modules
        Find modules of edges with a confidence of .9 (of all edges without a control);
        needs ``pip install 'graphsci[network]'``.
    min_confidence
        Keep edges of this confidence, 1 minus the false-discovery rate; needs a control. None
        keeps all.
    label_key
        Column of ``obs``, e.g. cell types: one more network for each group of 50 cells or more.
    key_added
        Name of the run, with which the slots of the results begin.
    progress, log
        A bar with the time left, and what is called before every stage: as in ``GraphSCI.fit``.
    config, **options
        Hyper-parameters of a training here.

    Raises
    ------
    ValueError
        Before training, if ``model`` comes with what is for a training (``gene_graph``,
        ``config``, ``**options``), ``min_confidence`` is no share or has no control,
        ``n_neighbors`` is negative, the prior names none of the genes, there are fewer than
        ten cells for a control, or ``obs`` has no column ``label_key`` or no large group in it.
    ImportError
        Before training, if modules need a package.

    Returns
    -------
    GeneNetwork
        That of all cells. Written are ``varp[key_added + "_network"]`` (strengths), ``uns`` of
        that name (a dictionary: ``edges``, the table with its evidence; ``parameters``;
        ``notes``) and ``var[key_added + "_module"]``; ``network.stored_network(adata)`` reads it
        back. What the model learned of genes, its gene graph included, is written as
        :func:`impute` does, unless ``adata`` has its results under the same key.

        With ``label_key`` also ``uns[key_added + "_network_by_label"]``, a dictionary of tables
        with a column ``label``: ``edges``, as ``graphsci network --label-edges`` writes them,
        ``parameters`` and ``notes``; ``network.stored_network(adata, label="B cell")`` reads
        the network of one group.

    Warns
    -----
    UserWarning
        Before training, if groups are too small for a network, or cells have no label.

    Examples
    --------
    >>> network = graphsci.tl.gene_network(adata, seed=0)
    >>> network.edges.head()
    >>> graphsci.pl.gene_network(adata, genes=["LYZ"])
    >>> graphsci.tl.gene_network(adata, label_key="cell_type")
    >>> graphsci.pl.gene_network(adata, genes=["LYZ"], label="monocyte")
    """
    from graphsci import network as nw
    from graphsci.network._search import Search

    keys(key_added)  # refuses what is no name
    if model is not None:
        _refuse_training(gene_graph=gene_graph, config=config, **options)
    search = Search(
        where={"layer": layer, "batch_key": batch_key, "allow_fractional": allow_fractional},
        prior=prior,
        n_neighbors=n_neighbors,
        control=control,
        modules=modules,
        min_confidence=min_confidence,
        label_key=label_key,
    )
    for note in search.check(adata):
        warnings.warn(note, stacklevel=2)
    config = GraphSCI(config, **options).config if model is None else model.config
    with shown(progress) as told:
        found = search.run(adata, config, model, gene_graph=gene_graph, progress=told, log=log)
    nw.annotate_network(
        adata,
        found.network,
        modules=found.modules,
        by_label=found.by_label,
        model=found.model,
        key_added=key_added,
    )
    return found.network


def _refuse_training(**given: Any) -> None:
    names = [name for name, value in given.items() if value is not None]
    if names:
        raise ValueError(
            f"{', '.join(names)}: only for training, and a trained model was given. Leave out "
            "either the model or these."
        )


def __dir__() -> list[str]:
    return __all__
