"""From a trained model to a ranked network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse, special

from graphsci._choices import FEWEST_LABEL_CELLS, N_NEIGHBORS
from graphsci._labels import known_labels
from graphsci._words import check_column, few
from graphsci.gene_graph.graph import GeneGraph, graph_from_edges
from graphsci.imputer import GraphSCI
from graphsci.network._arrays import Indices, lookup
from graphsci.network._table import EDGE_COLUMNS, GeneNetwork
from graphsci.network.null import Control, decoy_relations, q_values
from graphsci.network.posterior import DENOISED_CELLS, SampledCells
from graphsci.network.strength import (
    Coordinates,
    ensemble,
    gene_coordinates,
    nearest_pairs,
    strength_at_rank,
)
from graphsci.prior_knowledge.gene_symbols import match_symbols

if TYPE_CHECKING:
    from anndata import AnnData


def refine_network(
    model: GraphSCI,
    adata: AnnData | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    control: Control | None = None,
    models: Sequence[GraphSCI] = (),
    prior: pd.DataFrame | GeneGraph | None = None,
    n_neighbors: int = N_NEIGHBORS,
    denoised: bool = True,
    cells: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> GeneNetwork:
    """Rank the relations between genes, with the evidence for each.

    Parameters
    ----------
    model
        Trained. Its gene graph is the initial network.
    adata
        The cells, with raw counts. Without them there is no denoised correlation.
    layer, batch_key, allow_fractional
        Where the counts are, as in ``GraphSCI.fit``.
    control
        From :func:`train_control`; without it no edge has a confidence. Its real genes count as
        one more model, since relations that a single training invents are the most misleading.
    models
        Further models of the same genes, e.g. of other seeds: strengths are averaged over all,
        and ``stability`` says how many of them agree.
    prior
        A known network: a graph, or a table of ``gene_a``, ``gene_b`` and optionally ``weight``,
        as ``prior_knowledge.read_network`` returns. Only reported, beside the other evidence.
    n_neighbors
        New edges: so many strongest partners of every gene.
    denoised
        Compute the raw and the denoised correlation, from at most 2000 cells.
    cells
        (cells,) booleans: relations within these cells only, e.g. of one type.
    seed
        Of the choice of cells for the correlations.

    Returns
    -------
    GeneNetwork

    Raises
    ------
    ValueError
        If models disagree in their genes, options are out of range, the prior names none of the
        genes, there is a control and no cells or others than its own, or fewer than three cells
        have counts.

    Notes
    -----
    Cost: genes^2 multiply-adds per latent direction, three times; memory genes x 1024 and
    the edges, at most ``n_neighbors`` x genes plus those of the initial graph.
    """
    _check_request(model, adata, models, control, cells, n_neighbors)
    where: dict[str, Any] = {
        "layer": layer,
        "batch_key": batch_key,
        "allow_fractional": allow_fractional,
    }
    chosen = adata if adata is None or cells is None else adata[cells]
    members = [gene_coordinates(m, chosen, **where) for m in (model, *models)]
    null = None if control is None else _control_coordinates(control, cells)
    if control is not None and null is not None:
        members.append(_of_genes(null, control.model.gene_names, model.gene_names))
    coordinates, names = ensemble(members), model.gene_names
    rows, columns, named = _candidates(coordinates, model.gene_graph, n_neighbors)
    strength = coordinates.strengths(rows, columns)
    size = coordinates.size(strength)
    edges = pd.DataFrame({"gene_a": names[rows], "gene_b": names[columns]})
    edges["refined"] = strength
    edges["probability"] = np.nan if coordinates.signed else special.expit(strength)
    initial = model.gene_graph.adjacency
    edges["initial_correlation"] = lookup(initial, rows, columns, absent=np.nan)
    edges["raw_correlation"] = edges["denoised_correlation"] = np.nan
    n_correlated = 0
    if chosen is not None and denoised:
        sample = SampledCells.of(model, chosen, DENOISED_CELLS, seed, where)
        n_correlated = sample.adata.n_obs
        edges["raw_correlation"] = sample.raw_correlation(rows, columns)
        edges["denoised_correlation"] = sample.denoised_correlation(rows, columns)
    edges["sign"] = _signs(edges, coordinates)
    known, notes = prior_graph(prior, names)
    edges["prior_weight"] = np.nan
    if known is not None:
        edges["prior_weight"] = np.abs(lookup(known.adjacency, rows, columns, absent=0.0))
    edges["stability"] = _stability(members, rows, columns, size, strength)
    edges["q_value"] = np.nan
    if control is not None and null is not None:
        edges["q_value"] = _edge_q_values(size, named, null, control, n_neighbors, len(names))
    else:
        notes.append("no control was trained: edges have no confidence")
    edges["confidence"] = 1 - edges["q_value"]
    notes += _interruption_note(model) + _verdict_note(model) + _silent_note(size)
    parameters = {
        "n_neighbors": n_neighbors,
        "n_models": len(members),
        "n_decoys": 0 if control is None else len(control.decoys),
        "preset": model.config.preset,
        "initial_graph": model.gene_graph.source,
        "n_cells": 0 if chosen is None else chosen.n_obs,
        "n_cells_correlated": n_correlated,
    }
    ranked = np.argsort(-size, kind="stable")
    table = edges.iloc[ranked][list(EDGE_COLUMNS)].reset_index(drop=True)
    return GeneNetwork(table, names, parameters, tuple(notes))


def _interruption_note(model: GraphSCI) -> list[str]:
    if model.fitted.is_whole:
        return []
    return [
        f"training of the model was interrupted after {len(model.fitted.history)} epochs: its "
        "relations are half learned, and rates of false edges do not hold"
    ]


def _verdict_note(model: GraphSCI) -> list[str]:
    """Say so if the model that the relations come from was not better than simple methods."""
    verdict = model.verdict
    if verdict is None or verdict.passed:
        return []
    return [f"the relations rest on a model whose check says: {verdict.headline()}"]


def _silent_note(size: NDArray[np.float64]) -> list[str]:
    """Say so if the ranking ranks nothing."""
    if not len(size) or size.any():
        return []
    return ["no relation has a strength: the order of the edges means nothing"]


def networks_by_label(
    model: GraphSCI, adata: AnnData, *, label_key: str, **options: Any
) -> dict[str, GeneNetwork]:
    """Refine one network for each group of cells: same genes and loadings, its own cell states.

    Groups of fewer than ``FEWEST_LABEL_CELLS`` cells are left out, and cells without a label.

    Parameters
    ----------
    model, adata
        As in :func:`refine_network`.
    label_key
        Column of ``obs`` with the group of each cell.
    **options
        The other parameters of :func:`refine_network`.

    Raises
    ------
    ValueError
        If ``obs`` has no such column, or no group is large enough.
    """
    groups = large_groups(adata, label_key)
    labels = known_labels(adata.obs[label_key])
    left_out, found = left_out_notes(adata, label_key), {}
    for label in groups:
        network = refine_network(model, adata, cells=labels == label, **options)
        found[label] = network._replace(
            parameters={**network.parameters, "label_key": label_key, "label": label},
            notes=(*network.notes, *left_out),
        )
    return found


def large_groups(adata: AnnData, label_key: str) -> list[str]:
    """Groups of at least ``FEWEST_LABEL_CELLS`` cells, in order.

    Parameters
    ----------
    adata
        The cells.
    label_key
        Column of ``obs`` with the group of each.

    Raises
    ------
    ValueError
        If ``obs`` has no such column, or no group is large enough.
    """
    check_column(adata.obs, label_key, option="label_key")
    sizes = _group_sizes(adata, label_key)
    kept = sorted(sizes.index[sizes >= FEWEST_LABEL_CELLS])
    if not kept:
        raise ValueError(
            f"label_key: no group in {label_key!r} has {FEWEST_LABEL_CELLS} cells; the largest "
            f"has {max(sizes, default=0)}."
        )
    return kept


def left_out_notes(adata: AnnData, label_key: str) -> list[str]:
    """Say which groups are too small for a network, and how many cells have no label."""
    sizes, notes = _group_sizes(adata, label_key), []
    small = sizes[sizes < FEWEST_LABEL_CELLS]
    if len(small):
        named = few([f"{label} ({size})" for label, size in small.items()])
        notes.append(f"groups of fewer than {FEWEST_LABEL_CELLS} cells are in no network: {named}")
    n_missing = adata.n_obs - int(sizes.sum())
    if n_missing:
        notes.append(f"{n_missing:,} cells without a label in {label_key!r} are in no network")
    return notes


def _group_sizes(adata: AnnData, label_key: str) -> pd.Series:
    return pd.Series(known_labels(adata.obs[label_key]), dtype=object).value_counts()


def check_neighbors(n_neighbors: int) -> None:
    """Refuse a number of partners that is not whole, or below 0."""
    if not isinstance(n_neighbors, int | np.integer) or n_neighbors < 0:
        raise ValueError(f"n_neighbors: got {n_neighbors!r}, expected a whole number, 0 or more.")


def _check_request(
    model: GraphSCI,
    adata: AnnData | None,
    models: Sequence[GraphSCI],
    control: Control | None,
    cells: NDArray[np.bool_] | None,
    n_neighbors: int,
) -> None:
    check_neighbors(n_neighbors)
    if control is not None and adata is None:
        raise ValueError(
            "control: sizes of relations are compared with those of shuffled genes over the same "
            "cells, so give adata; or leave the control out, and edges have no confidence."
        )
    for other in models:
        if not np.array_equal(other.gene_names, model.gene_names):
            raise ValueError(
                "models: one of them was trained on other genes, or another order of them. "
                "Train all on the same data."
            )
        if other.config.preset != model.config.preset:
            raise ValueError("models: presets 'default' and 'paper' cannot be averaged.")
    if control is not None and control.model.config.preset != model.config.preset:
        raise ValueError("control: it was trained with another preset. Train it for this model.")
    if control is not None and adata is not None:
        _check_same_cells(control, adata)
    if cells is not None and (adata is None or np.shape(cells) != (adata.n_obs,)):
        raise ValueError("cells: expected adata, and one boolean for each of its cells.")


def _check_same_cells(control: Control, adata: AnnData) -> None:
    """Refuse a control over other cells, or in another order: masks of cells fit both."""
    if not control.adata.obs_names.equals(adata.obs_names):
        raise ValueError(
            f"control: it was trained on {control.adata.n_obs:,} cells, and adata has "
            f"{adata.n_obs:,}, or names them otherwise or in another order. Give the cells of "
            "the control, and choose among them by cells=."
        )


def _candidates(
    coordinates: Coordinates, graph: GeneGraph, n_neighbors: int
) -> tuple[Indices, Indices, NDArray[np.bool_]]:
    """Strongest partners and initial edges, each pair once; which are initial edges only."""
    initial = sparse.triu(graph.adjacency, k=1, format="coo")
    n_genes = graph.n_genes
    first, second = nearest_pairs(coordinates, n_neighbors)
    strongest = first * n_genes + second
    keys = np.union1d(initial.row.astype(np.int64) * n_genes + initial.col, strongest)
    first, second = np.divmod(keys, n_genes)
    return first, second, ~np.isin(keys, strongest)


def prior_graph(
    prior: pd.DataFrame | GeneGraph | None, names: ArrayLike
) -> tuple[GeneGraph | None, list[str]]:
    """Return a known network over the genes ``names``, and notes; None and nothing of none.

    Raises
    ------
    ValueError, TypeError
        If it names none of the genes; if it is neither a graph nor a table.
    """
    if prior is None:
        return None, []
    if not isinstance(prior, pd.DataFrame | GeneGraph):
        raise TypeError(
            f"prior: got {type(prior).__name__}, expected a GeneGraph or a table of edges. "
            "graphsci.prior_knowledge.read_network(path) reads one from a file."
        )
    if isinstance(prior, GeneGraph):
        known = graph_from_edges(prior.edge_table(), gene_names=names)
        return known, [f"prior: {note}" for note in prior.notes]
    matched = match_symbols(prior, names)
    known = graph_from_edges(matched.edges, gene_names=names)
    return known, [f"prior: {note}" for note in (*prior.attrs.get("notes", ()), *matched.notes)]


def _signs(edges: pd.DataFrame, coordinates: Coordinates) -> NDArray[np.int64]:
    """Sign of the strength; where it has none, of the denoised or the initial correlation.

    Strengths of ``paper`` have no sign, and one of 0 has none: such an edge is listed as it is in
    the initial graph.
    """
    measured = edges["denoised_correlation"].replace(0.0, np.nan)
    seen = measured.fillna(edges["initial_correlation"])
    told = edges["refined"].where(edges["refined"] != 0, seen) if coordinates.signed else seen
    return np.where(told < 0, -1, 1)


def _stability(
    members: Sequence[Coordinates],
    rows: Indices,
    columns: Indices,
    size: NDArray[np.float64],
    strength: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Share of models in which a pair is among the strongest, as many as there are relations."""
    if len(members) == 1:
        return np.full(len(rows), np.nan)
    votes, n_related = np.zeros(len(rows)), int((size > 0).sum())
    for member in members:
        value = member.strengths(rows, columns)
        least = strength_at_rank(member, n_related)
        votes += (member.size(value) >= least) & (value * strength > 0)
    return votes / len(members)


def _control_coordinates(control: Control, cells: NDArray[np.bool_] | None) -> Coordinates:
    chosen = control.adata if cells is None else control.adata[cells]
    return gene_coordinates(
        control.model, chosen, batch_key=control.batch_key, allow_fractional=True
    )


def _of_genes(
    coordinates: Coordinates, names: NDArray[np.str_], wanted: NDArray[np.str_]
) -> Coordinates:
    """Vectors of the wanted genes; zero for one that is not there."""
    position = pd.Index(names).get_indexer(pd.Index(wanted))
    vectors = np.where((position >= 0)[:, None], coordinates.vectors[position], 0)
    return coordinates._replace(vectors=vectors.astype(np.float32))


def _edge_q_values(
    sizes: NDArray[np.float64],
    named: NDArray[np.bool_],
    null: Coordinates,
    control: Control,
    n_neighbors: int,
    n_genes: int,
) -> NDArray[np.float64]:
    """Q of listed edges; ``named`` ones are in the initial graph and not among the strongest."""
    given = control.model.fitted.spec.graph_given
    return q_values(
        sizes,
        decoy_relations(control, null, n_neighbors),
        n_pairs=n_genes * (n_genes - 1) // 2,
        n_given=int(named.sum()) if given else 0,
    )
