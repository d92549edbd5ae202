"""The null: shuffled genes among the real ones, and the false-discovery rate they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from graphsci._log import Log, say_nothing
from graphsci.config import Config, later_seed
from graphsci.gene_graph._edges import blocks
from graphsci.gene_graph.graph import GeneGraph, graph_from_edges
from graphsci.imputer import GraphSCI
from graphsci.network.strength import FEWEST_CELLS, GENE_BLOCK, Coordinates, largest, least_listed
from graphsci.preprocessing import CountData, extract_counts
from graphsci.shuffled_genes import append_shuffled_genes, cells_of_one_depth

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.training.loop import Progress

DECOY_SHARE = 0.2  #: shuffled copies, as a share of the genes
DECOY_RANGE = (50, 1000)  #: but at least and at most so many
_WITHOUT = "Leave the control out (control=False, --no-control): edges then have no confidence."


def check_control(adata: AnnData) -> None:
    """Refuse too few cells for a control, before any training."""
    if adata.n_obs < FEWEST_CELLS:
        raise ValueError(
            f"control: got {adata.n_obs} cells, expected at least {FEWEST_CELLS} to tell "
            f"relations from chance. {_WITHOUT}"
        )


class Control(NamedTuple):
    """A model trained like another, with shuffled copies of genes among the real ones."""

    model: GraphSCI
    adata: AnnData  #: counts with the decoys
    decoys: frozenset[str]  #: their names
    batch_key: str | None


def train_control(
    model: GraphSCI,
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    n_decoys: int | None = None,
    seed: int | None = None,
    progress: bool | Progress | None = None,
    log: Log = say_nothing,
) -> Control:
    """Train ``model``'s twin on the same cells with decoys: genes in an order of their own.

    A decoy has a real gene's distribution, with ``batch_key`` in each batch, grows with the depth
    of the cells as its gene does, and follows no other gene given that, so whatever relations the
    twin gives it are invented. Costs one more training.

    Parameters
    ----------
    model, adata
        The trained model, and its training data.
    layer, batch_key, allow_fractional
        As in ``GraphSCI.fit``.
    n_decoys
        Default a fifth of the genes, between 50 and 1000.
    seed
        Of decoys and training; default the model's seed + 1.
    progress, log
        As in ``GraphSCI.fit``.

    Raises
    ------
    ValueError
        If there are too few cells, or genes that are seen often enough to make decoys of.
    KeyboardInterrupt
        If training was interrupted, after any number of epochs.
    """
    check_control(adata)
    seed = later_seed(model.fitted.spec.config.seed, 1) if seed is None else seed
    data = extract_counts(
        adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
    )
    batches = adata.obs[[] if batch_key is None else [batch_key]].copy()
    twin, decoys = _with_decoys(model, data, batches, n_decoys=n_decoys, seed=seed)
    log(f"control: training with {len(decoys)} shuffled genes among {twin.n_vars - len(decoys)}")
    config, graph = _training_of_twin(model, twin, seed)
    trained = GraphSCI(config).fit(
        twin,
        batch_key=batch_key,
        allow_fractional=allow_fractional,
        gene_graph=graph,
        progress=progress,
        log=log,
        whole=True,  # decoys that are hardly fitted give no rate that holds
    )
    return Control(trained, twin, frozenset(decoys), batch_key)


def _with_decoys(
    model: GraphSCI,
    data: CountData[sparse.csr_matrix],
    obs: pd.DataFrame,
    *,
    n_decoys: int | None,
    seed: int,
) -> tuple[AnnData, list[str]]:
    """Return counts of the model's genes and of decoys, and the decoys' names."""
    from anndata import AnnData

    spec = model.fitted.spec
    known = pd.Index(data.gene_names).get_indexer(pd.Index(spec.gene_names))
    counts = sparse.csr_matrix(data.counts[:, known[known >= 0]])
    names = spec.gene_names[known >= 0]
    if n_decoys is None:
        eligible = int((counts.getnnz(axis=0) >= FEWEST_CELLS).sum())
        n_decoys = min(eligible, max(DECOY_RANGE[0], round(DECOY_SHARE * len(names))))
        n_decoys = min(n_decoys, DECOY_RANGE[1])
    if n_decoys < 2:
        raise ValueError(
            f"control: {n_decoys} genes are seen in at least {FEWEST_CELLS} cells, expected 2 "
            f"or more to make decoys of. {_WITHOUT}"
        )
    mixed = append_shuffled_genes(
        counts,
        n_copies=n_decoys,
        min_cells=FEWEST_CELLS,
        groups=cells_of_one_depth(counts, data.batch),
        rng=np.random.default_rng(seed),
    )
    decoys = _unused_names(n_decoys, set(names))
    twin = AnnData(
        mixed.counts.astype(np.float32),
        obs=obs,
        var=pd.DataFrame(index=[*names, *decoys]),
    )
    return twin, decoys


def _training_of_twin(model: GraphSCI, twin: AnnData, seed: int) -> tuple[Config, GeneGraph | None]:
    """Return hyper-parameters and known network with which the twin is trained like the model."""
    spec, graph = model.fitted.spec, None
    config = spec.config.replace(
        check=False,
        seed=seed,
        likelihood=spec.likelihood,
        copies=spec.config.copies if spec.is_divided else 1.0,
        device=model.config.device,
    )
    if config.preset == "default":  # trained to the end on all molecules, so that decoys are fitted
        config = config.replace(validation_fraction=0.0)  # as closely as can be: the safe side
    if spec.graph_given:  # it comes as it was combined: nothing is to be computed beside it
        config, graph = config.replace(graph="none", network_weight=1.0), _padded(spec.graph, twin)
    return config, graph


def _unused_names(count: int, taken: set[str]) -> list[str]:
    stem = "decoy"
    while any(name.startswith(stem) for name in taken):
        stem = "_" + stem
    return [f"{stem}{number}" for number in range(count)]


def _padded(graph: GeneGraph, twin: AnnData) -> GeneGraph | None:
    """A user's graph over the genes with decoys, which it does not know; None without edges."""
    if graph.n_edges == 0:
        return None
    return graph_from_edges(graph.edge_table(), gene_names=twin.var_names, source=graph.source)


class Null(NamedTuple):
    """Relations that decoys got in the twin, found and listed by the rules for real genes."""

    listed: NDArray[np.float64]  #: sizes of listed pairs of a real gene and a decoy, ascending
    all: NDArray[np.float32]  #: sizes of all such pairs, ascending
    n_pairs: int  #: pairs of a real gene and a decoy


def decoy_relations(control: Control, coordinates: Coordinates, n_neighbors: int) -> Null:
    """Return what decoys got: pairs that would be listed if the decoy were a gene of the data.

    A pair is listed if it is among the strongest ``n_neighbors`` relations to real genes of its
    gene or of its decoy, or an edge of the twin's initial graph. Each decoy is judged as if it
    were alone, so that the number of decoys does not matter.

    Parameters
    ----------
    control
        The twin and its decoys.
    coordinates
        Of the twin's genes.
    n_neighbors
        As for the real network.
    """
    decoy = np.isin(control.model.gene_names, list(control.decoys))
    genes = coordinates._replace(vectors=coordinates.vectors[~decoy])
    decoys = coordinates.vectors[decoy]
    least = least_listed(genes, n_neighbors)
    joined = sparse.csr_matrix(control.model.gene_graph.adjacency)[decoy][:, ~decoy]
    listed, sizes = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for part in blocks(len(decoys), GENE_BLOCK):
        size = coordinates.size(decoys[part] @ genes.vectors.T)
        own = largest(size, n_neighbors)[:, None]
        chosen = ((size >= own) | (size >= least)) & (size > 0)
        chosen |= joined[part].toarray() != 0
        listed.append(size[chosen])
        sizes.append(size.ravel())
    ordered = np.sort(np.concatenate(sizes))
    return Null(np.sort(np.concatenate(listed)).astype(np.float64), ordered, len(ordered))


def q_values(
    sizes: NDArray[np.float64], null: Null, *, n_pairs: int, n_given: int = 0
) -> NDArray[np.float64]:
    r"""Return for each listed edge the expected share of chance edges among it and all stronger.

    A chance pair is one of a gene that follows no other. Real pairs are listed before they are
    counted, so decoys' must be as well: with n pairs of real genes and m of a gene and a decoy,

    .. math:: q(t) = \frac{n}{m + 1} \,
              \frac{1 + \#\{\text{listed decoy pairs} \ge t\}}{\#\{\text{listed edges} \ge t\}}

    made monotone: a stronger edge never has a larger q. All pairs of real genes are counted as
    if they could be chance (pi_0 = 1), which errs on the safe side.

    Parameters
    ----------
    sizes
        (edges,) of the listed edges, in any order. One of size 0 is no relation: its q is 1.
    null
        From :func:`decoy_relations`.
    n_pairs
        Pairs of real genes.
    n_given
        Edges that are listed because a user named them, whatever their strength: each adds the
        chance that any decoy pair is as strong.

    Returns
    -------
    numpy.ndarray
        (edges,) in [0, 1].
    """
    order = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes > 0)]
    ranked = sizes[order]
    as_strong = np.searchsorted(-ranked, -ranked, side="right")  # ties share their last rank
    chance = n_pairs * _at_least(null.listed, ranked) + n_given * _at_least(null.all, ranked)
    rate = np.minimum(chance / (1 + null.n_pairs) / as_strong, 1)
    q = np.ones(len(sizes))
    q[order] = np.minimum.accumulate(rate[::-1])[::-1]
    return q


def _at_least(ascending: NDArray[Any], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 + how many are at least so large."""
    below = np.searchsorted(ascending, sizes)
    return np.asarray(1 + len(ascending) - below, dtype=np.float64)
