"""The gene network as a result: refined, checked against a null, ranked, exported.

A trained model gives every gene a vector such that the inner product of two vectors is the
strength of their relation (:func:`gene_coordinates`). From it, in blocks of genes and without
any genes x genes matrix:

1. candidates: the strongest partners of every gene, and the edges of the initial graph;
2. evidence for each: initial correlation, refined strength, denoised correlation, prior
   network, stability over models (:func:`refine_network`);
3. a false-discovery rate against genes that are independent by construction: the model is
   trained again with shuffled copies of genes among the real ones (:func:`train_control`).

docs/network.md has the reasons and the measurements.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse, special, stats

from graphsci._keys import DEFAULT_KEY
from graphsci.evaluation.false_signal import append_shuffled_genes
from graphsci.gene_graph import GeneGraph, graph_from_edges
from graphsci.gene_sets import match_symbols
from graphsci.imputer import GraphSCI
from graphsci.model import CountNetwork
from graphsci.preprocessing import extract_counts

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.fitting import Log

#: Exponent of the singular values of the loadings: 1 is the model's own correlation, which is
#: mostly that of cell types; 0 treats all directions alike, noise included.
BALANCE = 0.25
#: Weight of the Poisson noise of one cell, 1 / mean count, in a gene's own variance.
COUNT_NOISE = 0.3
N_NEIGHBORS = 20  #: candidates per gene
GENE_BLOCK = 1024  #: genes per block of strengths: 1024 x 20,000 x 4 bytes = 80 MiB
EDGE_BLOCK = 16_384  #: edges per block of denoised correlations
STRENGTH_BINS = 8192  #: resolution of the tail counts behind the false-discovery rate
DECOY_SHARE = 0.2  #: shuffled copies, as a share of the genes
DECOY_RANGE = (50, 1000)  #: but at least and at most so many
DECOY_MIN_CELLS = 10  #: a decoy seen in fewer cells could not correlate with anything
DENOISED_CELLS = 2000  #: cells of the denoised correlation: its standard error is then .02
FEWEST_LABEL_CELLS = 50  #: fewer cells of a type cannot tell the covariance of their states
#: Graphs that are computed again when decoys are added; any other came from the user.
_COMPUTED_GRAPHS = ("pearson", "pearson_coexpressed", "noise_corrected", "pidc", "none")
#: Relation words of SIF files.
_RELATIONS = {1: "positive", -1: "negative"}

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]

#: The columns of an edge table, in order.
EDGE_COLUMNS = (
    "gene_a",
    "gene_b",
    "sign",
    "initial_correlation",
    "refined",
    "probability",
    "denoised_correlation",
    "prior_weight",
    "stability",
    "q_value",
    "confidence",
)


class GeneNetwork(NamedTuple):
    """A refined gene network.

    ``edges`` is ranked, strongest first; its columns are

    - ``gene_a``, ``gene_b``, ``sign`` (1 or -1);
    - ``initial_correlation``: weight in the model's gene graph, NaN for a new edge;
    - ``refined``: strength of the relation, from the gene embedding;
    - ``probability``: sigmoid(z_a . z_b), preset ``paper`` (eq. 18); NaN otherwise;
    - ``denoised_correlation``: of the posterior rates, their uncertainty counted as variance;
    - ``prior_weight``: in the prior network, 0 if it has no such edge;
    - ``stability``: share of the models that rank the pair as highly, with this sign;
    - ``q_value``: expected share of chance pairs among this edge and all stronger ones;
    - ``confidence``: 1 - ``q_value``.

    Evidence that was not asked for is NaN.
    """

    edges: pd.DataFrame
    gene_names: NDArray[np.str_]  #: (genes,) all genes of the model, isolated ones included
    parameters: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def n_edges(self) -> int:
        """Number of edges, each counted once."""
        return len(self.edges)

    def adjacency(self, column: str = "refined") -> sparse.csr_matrix:
        """Return the symmetric (genes, genes) matrix of a column of the table."""
        index = pd.Index(self.gene_names)
        rows, columns = (
            index.get_indexer(pd.Index(self.edges[name])) for name in ("gene_a", "gene_b")
        )
        values = self.edges[column].to_numpy(dtype=np.float32)
        size = (len(index), len(index))
        upper = sparse.coo_matrix((values, (rows, columns)), shape=size)
        return sparse.csr_matrix(upper + upper.T)

    def confident(self, min_confidence: float) -> GeneNetwork:
        """Keep edges of at least this confidence."""
        if not 0 <= min_confidence <= 1:
            raise ValueError(f"min_confidence must be in [0, 1], got {min_confidence}.")
        if self.n_edges and self.edges["confidence"].isna().all():
            raise ValueError(
                "min_confidence needs a control: no edge of this network has a confidence. Pass "
                "control=train_control(model, adata)."
            )
        kept = self.edges["confidence"] >= min_confidence
        return self._replace(edges=self.edges[kept].reset_index(drop=True))

    def around(self, genes: Sequence[str], *, max_genes: int = 50) -> GeneNetwork:
        """Keep chosen genes, their strongest partners up to ``max_genes``, and edges among them.

        Raises
        ------
        ValueError
            If a gene is not in the network.
        """
        wanted = [genes] if isinstance(genes, str) else list(genes)
        unknown = [gene for gene in wanted if gene not in set(self.gene_names)]
        if unknown or not wanted:
            raise ValueError(
                f"genes: {', '.join(map(repr, unknown[:5])) or 'none given'} not among the "
                f"{len(self.gene_names)} genes of the network, e.g. {self.gene_names[0]!r}. "
                "Check spelling and case."
            )
        chosen = dict.fromkeys(wanted)
        touching = self.edges[self.edges["gene_a"].isin(wanted) | self.edges["gene_b"].isin(wanted)]
        for pair in zip(touching["gene_a"], touching["gene_b"], strict=True):
            if len(chosen | dict.fromkeys(pair)) <= max_genes:
                chosen |= dict.fromkeys(pair)
        inside = self.edges["gene_a"].isin(chosen) & self.edges["gene_b"].isin(chosen)
        names = self.gene_names[np.isin(self.gene_names, list(chosen))]
        return self._replace(edges=self.edges[inside].reset_index(drop=True), gene_names=names)


# ----------------------------------------------------------------------------
# From a model to strengths
# ----------------------------------------------------------------------------


class Coordinates(NamedTuple):
    """Vectors of genes whose inner products are the strengths of their relations."""

    vectors: Floats  #: (genes, k)
    signed: bool  #: whether a negative product is a relation as well

    def strengths(self, rows: Indices, columns: Indices) -> NDArray[np.float64]:
        """Strength of pairs, (pairs,)."""
        parts = [
            np.einsum("ij,ij->i", self.vectors[rows[part]], self.vectors[columns[part]])
            for part in _blocks(len(rows), 1 << 18)
        ]
        return np.concatenate([np.zeros(0), *parts]).astype(np.float64)

    def size(self, values: NDArray[Any]) -> NDArray[Any]:
        """What pairs are ranked by."""
        return np.abs(values) if self.signed else np.maximum(values, 0)


def gene_coordinates(
    model: GraphSCI,
    adata: AnnData | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
) -> Coordinates:
    r"""Return a vector per gene of the model; inner products are strengths of relations.

    Preset ``default``: log expression of gene g in cell c is V_g . z_c + const, so genes i and j
    covary by V_i C V_j^T, C the covariance of z over the cells. The largest directions are cell
    types, which correlate half of all genes; balanced by a power of the singular values they
    leave room for the rest (``BALANCE``). What varies in a gene alone (1 / theta, and the
    noise of its counts) is part of its variance, so that a gene that follows no other relates
    to none:

    .. math::
        P \, S \, Q^T &= (V - \bar V) \, C^{1/2}, \qquad W = c \, P S^{1/4} \\
        u_i &= W_i / \sqrt{|W_i|^2 + 1/\theta_i + 0.3 / \mu_i}

    with c such that W has the size of (V - mean V) C^(1/2), and mu the mean count.
    The strength u_i . u_j is in (-1, 1).

    Preset ``paper``: u = z_N, and eq. 18 turns u_i . u_j into a probability.

    Parameters
    ----------
    model
        Trained.
    adata
        Cells over which genes relate; without, C is the identity, which ranks edges less well.
    layer, batch_key, allow_fractional
        Where the counts are, as in ``GraphSCI.fit``.
    """
    embedding = model.gene_embedding().to_numpy(dtype=np.float64)
    if not isinstance(model.fitted.network, CountNetwork):
        return Coordinates(embedding.astype(np.float32), signed=False)
    loadings = embedding - embedding.mean(0)
    if adata is not None:
        counts = {"layer": layer, "batch_key": batch_key, "allow_fractional": allow_fractional}
        z = model.latent(adata, **counts).astype(np.float64)  # type: ignore[arg-type]
        loadings = loadings @ _square_root(np.atleast_2d(np.cov(z.T)))
    balanced = balance(loadings)
    spec, theta = model.fitted.spec, model.inverse_dispersion()
    assert theta is not None
    mean_count = spec.gene_proportions.astype(np.float64) * spec.common_depth
    own = 1 / theta.to_numpy(dtype=np.float64) + COUNT_NOISE / mean_count
    scale = np.sqrt((balanced**2).sum(1) + own)
    return Coordinates((balanced / scale[:, None]).astype(np.float32), signed=True)


def balance(loadings: NDArray[np.float64], power: float = BALANCE) -> NDArray[np.float64]:
    """Raise the singular values of ``loadings`` (genes, k) to ``power``; the norm stays."""
    left, values, _ = np.linalg.svd(loadings, full_matrices=False)
    if not values.any():
        return np.zeros_like(left)
    # directions that the cells do not use are rounding error, and 0^power would revive them
    raised = np.where(values > 1e-6 * values[0], values, 0) ** power
    return np.asarray(left * raised * np.sqrt((values**2).sum() / (raised**2).sum()))


def _square_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def _ensemble(members: Sequence[Coordinates]) -> Coordinates:
    """Coordinates whose products are the mean of the members' products."""
    vectors = np.hstack([member.vectors for member in members]) / np.sqrt(len(members))
    return Coordinates(vectors.astype(np.float32), members[0].signed)


def nearest_pairs(coordinates: Coordinates, n_neighbors: int) -> tuple[Indices, Indices]:
    """Return pairs (i < j) that are among the strongest ``n_neighbors`` of one of their genes.

    Exact, in blocks: genes^2 k multiply-adds, memory genes x ``GENE_BLOCK``.
    """
    n_genes = len(coordinates.vectors)
    n_neighbors = min(n_neighbors, n_genes - 1)
    keys = [np.zeros(0, np.int64)]
    for part, strengths in _strength_blocks(coordinates):
        size = coordinates.size(strengths)
        gene = np.arange(part.start, part.stop)
        size[gene - part.start, gene] = -1
        best = np.argpartition(size, -n_neighbors, axis=1)[:, -n_neighbors:]
        real = np.take_along_axis(size, best, 1) > 0
        rows, columns = np.broadcast_to(gene[:, None], best.shape)[real], best[real]
        keys.append(np.minimum(rows, columns) * n_genes + np.maximum(rows, columns))
    first, second = np.divmod(np.unique(np.concatenate(keys)), n_genes)
    return first, second


def _strength_blocks(coordinates: Coordinates) -> Iterator[tuple[slice, Floats]]:
    """Yield (block of genes, strengths of the block with all genes)."""
    for part in _blocks(len(coordinates.vectors), GENE_BLOCK):
        yield part, coordinates.vectors[part] @ coordinates.vectors.T


def _blocks(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


# ----------------------------------------------------------------------------
# The null: shuffled genes among the real ones
# ----------------------------------------------------------------------------


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
    log: Log = lambda message: None,
) -> Control:
    """Train ``model``'s twin on the same cells with decoys: genes in an order of their own.

    A decoy has a real gene's distribution and is independent of every gene, so whatever
    relations the twin gives it are invented. Costs one more training.

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
    log
        Called with one line before every stage.

    Raises
    ------
    ValueError
        If too few genes are seen often enough to make decoys of.
    """
    from anndata import AnnData

    spec = model.fitted.spec
    seed = spec.config.seed + 1 if seed is None else seed
    data = extract_counts(
        adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
    )
    known = pd.Index(data.gene_names).get_indexer(pd.Index(spec.gene_names))
    counts = sparse.csr_matrix(data.counts[:, known[known >= 0]])
    names = spec.gene_names[known >= 0]
    if n_decoys is None:
        eligible = int((counts.getnnz(axis=0) >= DECOY_MIN_CELLS).sum())
        n_decoys = min(eligible, max(DECOY_RANGE[0], round(DECOY_SHARE * len(names))))
        n_decoys = min(n_decoys, DECOY_RANGE[1])
    rng = np.random.default_rng(seed)
    mixed = append_shuffled_genes(counts, n_copies=n_decoys, min_cells=DECOY_MIN_CELLS, rng=rng)
    decoys = _unused_names(n_decoys, set(names))
    twin = AnnData(
        mixed.counts.astype(np.float32),
        obs=adata.obs[[] if batch_key is None else [batch_key]].copy(),
        var=pd.DataFrame(index=[*names, *decoys]),
    )
    log(f"control: training with {n_decoys} shuffled genes among {len(names)}")
    trained = GraphSCI(spec.config.replace(check=False, seed=seed)).fit(
        twin,
        batch_key=batch_key,
        allow_fractional=allow_fractional,
        gene_graph=_padded(spec.graph, twin),
        log=log,
    )
    return Control(trained, twin, frozenset(decoys), batch_key)


def _unused_names(count: int, taken: set[str]) -> list[str]:
    stem = "decoy"
    while any(name.startswith(stem) for name in taken):
        stem = "_" + stem
    return [f"{stem}{number}" for number in range(count)]


def _padded(graph: GeneGraph, twin: AnnData) -> GeneGraph | None:
    """A user's graph over the genes with decoys, which it does not know; None if computed."""
    if graph.source in _COMPUTED_GRAPHS or graph.n_edges == 0:
        return None
    return graph_from_edges(graph.edge_table(), gene_names=twin.var_names, source=graph.source)


class _Tail(NamedTuple):
    """How many of a set of pairs are at least so strong."""

    counts: NDArray[np.float64]  # (bins,) pairs in this bin or a higher one
    limit: float  # upper end of the bins

    @classmethod
    def of(
        cls, coordinates: Coordinates, limit: float, decoys: NDArray[np.bool_] | None = None
    ) -> _Tail:
        """Count all pairs, or with ``decoys`` (genes,) the pairs that hold at least one."""
        found = np.zeros(STRENGTH_BINS)
        n_genes = len(coordinates.vectors)
        for part, strengths in _strength_blocks(coordinates):
            once = np.arange(n_genes) > np.arange(part.start, part.stop)[:, None]
            if decoys is not None:
                once &= decoys | decoys[part, None]
            bins = cls._bins(coordinates.size(strengths[once]), limit)
            found += np.bincount(bins, minlength=STRENGTH_BINS)
        return cls(np.cumsum(found[::-1])[::-1], limit)

    @staticmethod
    def _bins(sizes: NDArray[Any], limit: float) -> NDArray[np.int64]:
        scaled = sizes * (STRENGTH_BINS / limit)
        return np.minimum(scaled.astype(np.int64), STRENGTH_BINS - 1)

    @property
    def n_pairs(self) -> float:
        return float(self.counts[0])

    def at(self, sizes: NDArray[Any]) -> NDArray[np.float64]:
        """Pairs as strong as these, to the resolution of the bins; (sizes,)."""
        return self.counts[self._bins(sizes, self.limit)]

    def rank_limit(self, rank: int) -> float:
        """The strength of the pair at this rank."""
        position = int(np.searchsorted(-self.counts, -rank))
        return min(position, STRENGTH_BINS) * self.limit / STRENGTH_BINS


def _limit(coordinates: Coordinates) -> float:
    """No strength is above this."""
    if coordinates.signed:
        return 1.0
    return float((coordinates.vectors.astype(np.float64) ** 2).sum(1).max()) + 1e-9


def q_values(found: _Tail, null: _Tail) -> NDArray[np.float64]:
    r"""Return q for each bin: the expected share of chance pairs from this bin on.

    .. math:: FDR(t) = n \, \frac{1 + \#\{null \ge t\}}{1 + n_{null}} \Big/ \#\{found \ge t\}

    made monotone: a stronger edge never has a larger q. All pairs count as null (pi_0 = 1).
    """
    p = (1 + null.counts) / (1 + null.n_pairs)
    rate = np.minimum(found.n_pairs * p / np.maximum(found.counts, 1), 1)
    return np.minimum.accumulate(rate)


# ----------------------------------------------------------------------------
# The refined network
# ----------------------------------------------------------------------------


def refine_network(
    model: GraphSCI,
    adata: AnnData | None = None,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
    control: Control | None = None,
    models: Sequence[GraphSCI] = (),
    prior: pd.DataFrame | None = None,
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
        A known network: ``gene_a``, ``gene_b`` and optionally ``weight``, as
        ``gene_sets.read_network`` returns. Only reported, beside the other evidence.
    n_neighbors
        New edges: so many strongest partners of every gene.
    denoised
        Compute the denoised correlation, from at most 2000 cells.
    cells
        (cells,) booleans: relations within these cells only, e.g. of one type.
    seed
        Of the choice of cells for the denoised correlation.

    Returns
    -------
    GeneNetwork

    Raises
    ------
    ValueError
        If models disagree in their genes, options are out of range, or the prior names none
        of the genes.

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
    coordinates = _ensemble(members)
    graph, names, notes = model.gene_graph, model.gene_names, list[str]()
    rows, columns = _candidates(coordinates, graph, n_neighbors)
    strength = coordinates.strengths(rows, columns)
    edges = pd.DataFrame({"gene_a": names[rows], "gene_b": names[columns]})
    edges["refined"] = strength
    edges["initial_correlation"] = _lookup(graph.adjacency, rows, columns, absent=np.nan)
    edges["probability"] = np.nan if coordinates.signed else special.expit(strength)
    edges["denoised_correlation"] = np.nan
    if denoised and chosen is not None:
        values = denoised_correlation(model, chosen, rows, columns, seed=seed, **where)
        edges["denoised_correlation"] = values
    edges["sign"] = _signs(edges, coordinates)
    edges["prior_weight"] = np.nan
    if prior is not None:
        matched = match_symbols(prior, names)
        known = graph_from_edges(matched.edges, gene_names=names)
        edges["prior_weight"] = np.abs(_lookup(known.adjacency, rows, columns, absent=0.0))
        notes += [f"prior: {note}" for note in matched.notes]
    edges["stability"] = _stability(members, rows, columns, coordinates.size(strength), strength)
    edges["q_value"] = np.nan
    if control is not None and null is not None:
        edges["q_value"] = _edge_q_values(coordinates, strength, null, control)
    else:
        notes.append("no control was trained: edges have no confidence")
    edges["confidence"] = 1 - edges["q_value"]
    ranked = np.argsort(-coordinates.size(strength), kind="stable")
    parameters = {
        "n_neighbors": n_neighbors,
        "n_models": len(members),
        "n_decoys": 0 if control is None else len(control.decoys),
        "preset": model.config.preset,
        "initial_graph": graph.source,
        "n_cells": 0 if chosen is None else chosen.n_obs,
    }
    table = edges.iloc[ranked][list(EDGE_COLUMNS)].reset_index(drop=True)
    return GeneNetwork(table, names, parameters, tuple(notes))


def networks_by_label(
    model: GraphSCI, adata: AnnData, *, label_key: str, **options: Any
) -> dict[str, GeneNetwork]:
    """Refine one network for each group of cells: same genes and loadings, its own cell states.

    Groups of fewer than ``FEWEST_LABEL_CELLS`` cells are left out. ``options`` as for
    :func:`refine_network`.

    Raises
    ------
    ValueError
        If ``obs`` has no such column, or no group is large enough.
    """
    if label_key not in adata.obs:
        raise ValueError(
            f"label_key: obs has no column {label_key!r}; it has "
            f"{', '.join(map(repr, adata.obs.columns)) or 'none'}."
        )
    labels = adata.obs[label_key].astype(str)
    sizes = labels.value_counts()
    kept = sorted(sizes.index[sizes >= FEWEST_LABEL_CELLS])
    if not kept:
        raise ValueError(
            f"label_key: no group in {label_key!r} has {FEWEST_LABEL_CELLS} cells; the largest "
            f"has {sizes.max()}."
        )
    return {
        label: refine_network(model, adata, cells=(labels == label).to_numpy(), **options)
        for label in kept
    }


def denoised_correlation(
    model: GraphSCI,
    adata: AnnData,
    rows: Indices,
    columns: Indices,
    *,
    max_cells: int = DENOISED_CELLS,
    seed: int = 0,
    **where: Any,
) -> NDArray[np.float64]:
    """Correlation of log rates over draws from the posterior, for pairs of genes; (pairs,).

    Rates are independent given the model, so a draw has the covariances of the posterior means
    and the variances of the means plus the mean posterior variance: no draw is needed. The
    correlation of the means alone, which leaves the posterior variance out, is what makes
    denoised data correlate between independent genes.
    """
    if adata.n_obs > max_cells:
        rng = np.random.default_rng(seed)
        adata = adata[np.sort(rng.choice(adata.n_obs, max_cells, replace=False))].copy()
    genes = [str(gene) for gene in model.gene_names if gene in adata.var_names]
    position = pd.Index(genes).get_indexer(pd.Index(model.gene_names))
    blocks = model.iterate_estimates(adata, genes=genes, depth="common", **where)
    means, variance = [], np.zeros(len(genes))
    for block in blocks:
        rate, sd = block.values["denoised"], block.values["denoised_sd"]
        means.append(np.log1p(rate))
        variance += np.square(sd / (1 + rate), dtype=np.float64).sum(0)
    values = np.concatenate(means)
    values -= values.mean(0)
    scale = np.sqrt(np.square(values, dtype=np.float64).sum(0) + variance)
    values /= np.maximum(scale, 1e-12)
    values = np.ascontiguousarray(values.T)  # (genes, cells)
    parts = [np.zeros(0)]
    for part in _blocks(len(rows), EDGE_BLOCK):
        left, right = position[rows[part]], position[columns[part]]
        product = np.einsum("ij,ij->i", values[left], values[right]).astype(np.float64)
        parts.append(np.where((left < 0) | (right < 0), np.nan, product))
    return np.concatenate(parts)


def _check_request(
    model: GraphSCI,
    adata: AnnData | None,
    models: Sequence[GraphSCI],
    control: Control | None,
    cells: NDArray[np.bool_] | None,
    n_neighbors: int,
) -> None:
    if n_neighbors < 0:
        raise ValueError(f"n_neighbors must not be negative, got {n_neighbors}.")
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
    if cells is not None and (adata is None or np.shape(cells) != (adata.n_obs,)):
        raise ValueError("cells: expected adata, and one boolean for each of its cells.")


def _candidates(
    coordinates: Coordinates, graph: GeneGraph, n_neighbors: int
) -> tuple[Indices, Indices]:
    """Nearest neighbours and initial edges, each pair once, in gene order."""
    initial = sparse.triu(graph.adjacency, k=1, format="coo")
    n_genes = graph.n_genes
    keys = initial.row.astype(np.int64) * n_genes + initial.col
    if n_neighbors and n_genes > 1:
        first, second = nearest_pairs(coordinates, n_neighbors)
        keys = np.union1d(keys, first * n_genes + second)
    first, second = np.divmod(np.unique(keys), n_genes)
    return first, second


def _lookup(
    adjacency: sparse.csr_matrix, rows: Indices, columns: Indices, *, absent: float
) -> NDArray[np.float64]:
    """Weights of pairs in a sparse graph; (pairs,)."""
    if len(rows) == 0:
        return np.zeros(0)
    values = np.asarray(sparse.csr_matrix(adjacency)[rows, columns], dtype=np.float64).ravel()
    return np.where(values == 0, absent, values)


def _signs(edges: pd.DataFrame, coordinates: Coordinates) -> NDArray[np.int64]:
    """Sign of the strength; for ``paper``, whose strengths have none, of a correlation."""
    if coordinates.signed:
        return np.where(edges["refined"] < 0, -1, 1)
    seen = edges["initial_correlation"].fillna(edges["denoised_correlation"])
    return np.where(seen < 0, -1, 1)


def _stability(
    members: Sequence[Coordinates],
    rows: Indices,
    columns: Indices,
    size: NDArray[np.float64],
    strength: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Share of models in which a pair is among the strongest, as many as there are edges."""
    if len(members) == 1:
        return np.full(len(rows), np.nan)
    votes = np.zeros(len(rows))
    for member in members:
        value = member.strengths(rows, columns)
        least = _Tail.of(member, _limit(member)).rank_limit(len(rows))
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
    coordinates: Coordinates,
    strength: NDArray[np.float64],
    null: Coordinates,
    control: Control,
) -> NDArray[np.float64]:
    limit = max(_limit(coordinates), _limit(null))
    decoys = np.isin(control.model.gene_names, list(control.decoys))
    found = _Tail.of(coordinates, limit)
    q = q_values(found, _Tail.of(null, limit, decoys))
    return q[_Tail._bins(coordinates.size(strength), limit)]


# ----------------------------------------------------------------------------
# Modules, hubs and their enrichment
# ----------------------------------------------------------------------------


def find_modules(
    network: GeneNetwork, *, resolution: float = 1.0, min_genes: int = 3, seed: int = 0
) -> pd.DataFrame:
    """Cut a network into modules of genes that go up and down together (Leiden).

    Parameters
    ----------
    network
        Its positive edges are used, weighted by ``refined``. Keep confident edges first:
        ``network.confident(0.9)``.
    resolution
        Larger gives more and smaller modules.
    min_genes
        Smaller modules are no modules.
    seed
        Of the Leiden algorithm.

    Returns
    -------
    pandas.DataFrame
        One row per gene in a module: ``gene``, ``module`` (0 is the largest), ``degree``
        (edges within the module), ``strength`` (their sum), ``hub_rank`` (1 is the strongest).

    References
    ----------
    Traag et al. 2019, doi:10.1038/s41598-019-41695-z.
    """
    igraph, leidenalg = _needed("igraph"), _needed("leidenalg")
    edges = network.edges[network.edges["sign"] > 0]
    names = pd.Index(pd.unique(edges[["gene_a", "gene_b"]].to_numpy().ravel()))
    ends = np.column_stack([names.get_indexer(edges["gene_a"]), names.get_indexer(edges["gene_b"])])
    weights = edges["refined"].abs().to_numpy(dtype=np.float64)
    graph = igraph.Graph(n=len(names), edges=ends.tolist())
    partition = leidenalg.find_partition(
        graph,
        leidenalg.RBConfigurationVertexPartition,
        weights=weights.tolist(),
        resolution_parameter=resolution,
        seed=seed,
        n_iterations=-1,
    )
    return _describe_modules(names, np.asarray(partition.membership), ends, weights, min_genes)


def _describe_modules(
    names: pd.Index,
    membership: NDArray[Any],
    ends: NDArray[Any],
    weights: NDArray[np.float64],
    min_genes: int,
) -> pd.DataFrame:
    inside = membership[ends[:, 0]] == membership[ends[:, 1]] if len(ends) else np.zeros(0, bool)
    ends, weights = ends[inside].astype(np.int64).ravel(), np.repeat(weights[inside], 2)
    table = pd.DataFrame(
        {
            "gene": names,
            "module": membership.astype(np.int64),
            "degree": np.bincount(ends, minlength=len(names)),
            "strength": np.bincount(ends, weights=weights, minlength=len(names)),
        }
    )
    sizes = table["module"].value_counts(sort=False).sort_index()
    order = sizes.sort_values(ascending=False, kind="stable")
    order = order[order >= min_genes]
    table = table[table["module"].isin(order.index)].copy()
    table["module"] = table["module"].map({old: new for new, old in enumerate(order.index)})
    table = table.sort_values(
        ["module", "strength", "gene"], ascending=[True, False, True], ignore_index=True
    )
    table["hub_rank"] = table.groupby("module").cumcount() + 1
    return table


def enrich_modules(
    modules: pd.DataFrame,
    gene_sets: Mapping[str, Sequence[str]],
    *,
    background: Sequence[str] | NDArray[np.str_],
    min_overlap: int = 2,
) -> pd.DataFrame:
    """Test each module for each gene set (hypergeometric), Benjamini-Hochberg over all tests.

    Parameters
    ----------
    modules
        From :func:`find_modules`.
    gene_sets
        Name to genes, e.g. from ``gene_sets.read_gene_sets``.
    background
        Genes that could have been in a module: those of the model.
    min_overlap
        Rows with fewer common genes are tested but not listed.

    Returns
    -------
    pandas.DataFrame
        ``module``, ``gene_set``, ``overlap``, ``module_size``, ``set_size``, ``expected``,
        ``p_value``, ``q_value``, ``genes``; smallest p first.

    Raises
    ------
    ValueError
        If no set holds two genes of the background: wrong species or identifiers.
    """
    universe = set(map(str, background))
    sets = {name: universe.intersection(genes) for name, genes in gene_sets.items()}
    sets = {name: genes for name, genes in sets.items() if len(genes) >= 2}
    if not sets:
        example = next((gene for genes in gene_sets.values() for gene in genes), None)
        raise ValueError(
            f"none of {len(gene_sets)} gene sets holds two of the {len(universe)} genes of the "
            f"data (sets: {example!r}; data: {min(universe, default=None)!r}). Check that both "
            "are of the same species and use the same identifiers."
        )
    rows = [
        (module, name, genes & inside, len(inside), len(genes))
        for module, members in modules.groupby("module")["gene"]
        for inside in [universe.intersection(members)]
        for name, genes in sets.items()
    ]
    table = pd.DataFrame(rows, columns=["module", "gene_set", "genes", "module_size", "set_size"])
    table["overlap"] = table["genes"].map(len)
    table["expected"] = table["module_size"] * table["set_size"] / len(universe)
    table["p_value"] = stats.hypergeom.sf(
        table["overlap"].to_numpy(dtype=np.int64) - 1,
        len(universe),
        table["set_size"].to_numpy(dtype=np.int64),
        table["module_size"].to_numpy(dtype=np.int64),
    )
    adjusted = stats.false_discovery_control(table["p_value"]) if len(table) else []
    table["q_value"] = np.asarray(adjusted, dtype=np.float64)
    table["genes"] = table["genes"].map(lambda genes: ",".join(sorted(genes)))
    table = table[table["overlap"] >= min_overlap].sort_values("p_value", kind="stable")
    columns = ["module", "gene_set", "overlap", "module_size", "set_size", "expected"]
    return table[[*columns, "p_value", "q_value", "genes"]].reset_index(drop=True)


def _needed(name: str) -> Any:
    """Import an optional package, or say how to get it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"this needs the package {name}, which is not installed: "
            "pip install 'graphsci[network]'"
        ) from None


# ----------------------------------------------------------------------------
# Comparison with a known network
# ----------------------------------------------------------------------------


def compare_networks(
    networks: Mapping[str, sparse.spmatrix],
    known: GeneGraph,
    *,
    n_edges: int | None = None,
) -> pd.DataFrame:
    r"""Compare ranked networks with a known one, all at the same number of edges.

    Pairs of genes that the known network mentions count, each once.

    Parameters
    ----------
    networks
        Name to (genes, genes) symmetric weights over ``known.gene_names``; ranked by size.
    known
        The known network.
    n_edges
        Strongest edges taken of each network; default those of the smallest.

    Returns
    -------
    pandas.DataFrame
        By name: ``n_edges`` (taken), ``precision``, ``recall`` (of these), ``auprc`` (of all),
        ``early_precision`` (of as many edges as are known: BEELINE), ``chance`` (share of
        pairs that are known), ``odds_ratio``: against the hits expected of a network that
        joins genes by their known degrees k alone,

        .. math:: E = \sum_{\text{edges}} \min(1, k_i k_j / 2m)

        so that a preference for well-studied genes earns nothing.

    Raises
    ------
    ValueError
        If there is no network, or a shape differs.

    References
    ----------
    Pratapa et al. 2020 (BEELINE), doi:10.1038/s41592-019-0690-6.
    """
    from graphsci.evaluation.detection import edge_scores

    if not networks:
        raise ValueError("networks: got none, expected at least one.")
    degree = np.diff(known.adjacency.indptr)
    spoken = np.flatnonzero(degree)
    truth, degree = known.adjacency[spoken][:, spoken], degree[spoken]
    ranked = {
        name: _ranked_pairs(name, matrix, known.n_genes, spoken)
        for name, matrix in networks.items()
    }
    if n_edges is None:
        n_edges = min(len(pairs[0]) for pairs in ranked.values())
    chance = truth.nnz / (len(spoken) * (len(spoken) - 1))
    rows = {}
    for name, (first, second) in ranked.items():
        hit = _lookup(truth, first, second, absent=0.0) != 0
        taken, n_known = hit[:n_edges], truth.nnz // 2
        expected = np.minimum(degree[first] * degree[second] / truth.nnz, 1)[:n_edges].sum()
        weights = abs(sparse.csr_matrix(networks[name], dtype=np.float64))
        rows[name] = {
            "n_edges": len(taken),
            "precision": taken.mean() if len(taken) else 0.0,
            "recall": taken.sum() / n_known,
            "auprc": edge_scores(weights=weights, known=known.adjacency).auprc,
            "early_precision": hit[:n_known].mean() if len(hit) else 0.0,
            "odds_ratio": _odds_ratio(float(taken.sum()), float(expected), len(taken)),
            "chance": chance,
        }
    return pd.DataFrame(rows).T.astype({"n_edges": int})


def _ranked_pairs(
    name: str, matrix: sparse.spmatrix, n_genes: int, spoken: NDArray[Any]
) -> tuple[Indices, Indices]:
    """Pairs of the spoken-of genes with a weight, strongest first."""
    if matrix.shape != (n_genes, n_genes):
        raise ValueError(
            f"network {name!r} has shape {matrix.shape}, expected ({n_genes}, {n_genes}): the "
            "genes of the known network."
        )
    part = sparse.csr_matrix(matrix)[spoken][:, spoken]
    upper = sparse.triu(part, k=1, format="coo")
    strong = upper.data != 0
    order = np.argsort(-np.abs(upper.data[strong]), kind="stable")
    rows, columns = upper.row[strong][order], upper.col[strong][order]
    return rows.astype(np.int64), columns.astype(np.int64)


def _odds_ratio(hits: float, expected: float, n: int) -> float:
    """Odds of a hit against the odds expected; half a hit is added to avoid 0 / 0."""
    return ((hits + 0.5) / (n - hits + 0.5)) / ((expected + 0.5) / (n - expected + 0.5))


def network_slot(key_added: str = DEFAULT_KEY) -> str:
    """Name of the network in ``varp``."""
    return f"{key_added}_network"


def annotate_network(
    adata: AnnData,
    network: GeneNetwork,
    *,
    modules: pd.DataFrame | None = None,
    key_added: str = DEFAULT_KEY,
) -> None:
    """Write ``varp[key_added + "_network"]``, the table to ``uns`` and modules to ``var``.

    Genes that the network does not have get no edges; ``var[key_added + "_module"]`` is -1
    outside of modules.
    """
    position = pd.Index(network.gene_names).get_indexer(adata.var_names)
    known = np.flatnonzero(position >= 0)
    place = sparse.csr_matrix(
        (np.ones(len(known), np.float32), (known, position[known])),
        shape=(adata.n_vars, len(network.gene_names)),
    )
    adata.varp[network_slot(key_added)] = sparse.csr_matrix(place @ network.adjacency() @ place.T)
    adata.uns[network_slot(key_added)] = {
        "edges": network.edges,
        "parameters": network.parameters,
        "notes": list(network.notes),
    }
    if modules is not None:
        module = modules.set_index("gene")["module"]
        values = module.reindex(adata.var_names).fillna(-1).to_numpy(dtype=np.int64)
        adata.var[f"{key_added}_module"] = values
