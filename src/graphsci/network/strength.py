"""Vectors of genes whose inner products are the strengths of their relations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from graphsci._imputing.estimating import cell_states
from graphsci.gene_graph._edges import blocks
from graphsci.imputer import GraphSCI
from graphsci.network._arrays import Floats, Indices
from graphsci.nn.model import CountNetwork
from graphsci.training.predictability import UNPROVEN

if TYPE_CHECKING:
    from anndata import AnnData

#: Exponent of the singular values of the loadings: 1 is the model's own correlation, which is
#: mostly that of cell types; 0 treats all directions alike, noise included.
BALANCE = 0.25
#: Weight of the Poisson noise of one cell, 1 / mean count, in a gene's own variance.
COUNT_NOISE = 0.3
#: A negative relation counts half: genes of one complex or function are hardly ever opposed, so
#: that known networks have fewer negative relations than chance (docs/network.md).
NEGATIVE_WEIGHT = 0.5
#: Cells that must show a gene for it to have relations; decoys are made of such genes as well.
FEWEST_CELLS = 10
STRENGTH_BINS = 8192  #: resolution of a strength at a rank
GENE_BLOCK = 1024  #: genes per block of strengths: 1024 x 20,000 x 4 bytes = 80 MiB


class Coordinates(NamedTuple):
    """Vectors of genes whose inner products are the strengths of their relations."""

    vectors: Floats  #: (genes, k)
    signed: bool  #: whether a negative product is a relation as well

    def strengths(self, rows: Indices, columns: Indices) -> NDArray[np.float64]:
        """Strength of pairs, (pairs,).

        Parameters
        ----------
        rows, columns
            (pairs,) positions of the two genes of each pair.
        """
        parts = [
            np.einsum("ij,ij->i", self.vectors[rows[part]], self.vectors[columns[part]])
            for part in blocks(len(rows), 1 << 18)
        ]
        return np.concatenate([np.zeros(0), *parts]).astype(np.float64)

    def size(self, values: NDArray[Any]) -> NDArray[Any]:
        """What pairs are ranked by: the strength, half of it if negative (``paper``: nothing)."""
        return np.maximum(values, -NEGATIVE_WEIGHT * values if self.signed else 0)


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
    covary by V_i C V_j^T, C the covariance of z over the cells given their depth and batch
    (:func:`covariance_given_depth`), which make genes covary that have nothing else in common. The
    largest directions are cell
    types, which correlate half of all genes; balanced by a power of the singular values they
    leave room for the rest (``BALANCE``). What varies in a gene alone (1 / theta, and the
    noise of its counts) is part of its variance, so that a gene that follows no other relates
    to none:

    .. math::
        P \, S \, Q^T &= (V - \bar V) \, C^{1/2}, \qquad W = c \, P S^{1/4} \\
        u_i &= w_i W_i / \sqrt{|W_i|^2 + 1/\theta_i + 0.3 / \mu_i}

    with c such that W has the size of (V - mean V) C^(1/2), mu the mean count in the cells at
    common depth, theta in an average cell and w the probability that the gene varies predictably.
    The strength u_i . u_j is in (-1, 1). Genes whose variation could not be predicted have no
    relations, nor have those that fewer than ten of the cells show.

    Preset ``paper``: u = z_N, and eq. 18 turns u_i . u_j into a probability.

    Parameters
    ----------
    model
        Trained.
    adata
        Cells over which genes relate, empty ones left out; without, C is the identity, which
        ranks edges less well.
    layer, batch_key, allow_fractional
        Where the counts are, as in ``GraphSCI.fit``.
    """
    network = model.fitted.network
    embedding = network.gene_embedding().double().numpy(force=True)
    if not isinstance(network, CountNetwork):
        return Coordinates(embedding.astype(np.float32), signed=False)
    weight = network.state_weight.numpy(force=True)
    varying = weight > np.float32(UNPROVEN)
    vectors = np.zeros(embedding.shape, np.float32)
    spec, theta = model.fitted.spec, model.inverse_dispersion()
    assert theta is not None
    proportions, root = spec.gene_proportions.astype(np.float64), np.eye(embedding.shape[1])
    if adata is not None:
        cells = model.prepare(
            adata, layer=layer, batch_key=batch_key, allow_fractional=allow_fractional
        )
        z, library, n_seen, totals = cell_states(network, cells)
        varying &= n_seen >= FEWEST_CELLS
        proportions = totals / max(totals.sum(), 1.0)
        filled = library > 0  # the others have no state
        root = _square_root(
            covariance_given_depth(
                z[filled].astype(np.float64), library[filled], cells.batch[filled]
            )
        )
    if not varying.any():
        return Coordinates(vectors, signed=True)
    balanced = balance((embedding[varying] - embedding.mean(0)) @ root)
    mean_count = np.maximum(proportions * spec.common_depth, 1e-12)
    own = 1 / theta.to_numpy(dtype=np.float64) + COUNT_NOISE / mean_count
    scale = np.sqrt((balanced**2).sum(1) + own[varying])
    vectors[varying, : balanced.shape[1]] = balanced * (weight[varying] / scale)[:, None]
    return Coordinates(vectors, signed=True)


def balance(loadings: NDArray[np.float64], power: float = BALANCE) -> NDArray[np.float64]:
    """Raise the singular values of ``loadings`` (genes, k) to ``power``; the norm stays."""
    left, values, _ = np.linalg.svd(loadings, full_matrices=False)
    if not values.any():
        return np.zeros_like(left)
    # directions that the cells do not use are rounding error, and 0^power would revive them
    raised = np.where(values > 1e-6 * values[0], values, 0) ** power
    return np.asarray(left * raised * np.sqrt((values**2).sum() / (raised**2).sum()))


def covariance_given_depth(
    z: NDArray[np.float64], library: NDArray[Any], batch: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Covariance of z (cells, k) given library (cells,) and batch (cells,): what they leave.

    A gene whose counts do not follow the library has a share that falls as the library grows, and
    a batch has a profile of its own: all such genes would be related. Regressed out are the means
    of the batches and a cubic of the log library.
    """
    depth = np.log(np.maximum(library, 1.0))
    depth = (depth - depth.mean()) / max(depth.std(), 1e-6)
    of_batch = batch[:, None] == np.unique(batch)
    basis = linalg.orth(np.column_stack([of_batch, depth, depth**2, depth**3]).astype(np.float64))
    z = z - basis @ (basis.T @ z)
    return np.asarray(z.T @ z / max(len(z) - basis.shape[1], 1))


def _square_root(covariance: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


def ensemble(members: Sequence[Coordinates]) -> Coordinates:
    """Coordinates whose products are the mean of the members' products.

    A gene without relations in one member (it varies unpredictably) has none at all.
    """
    related = np.all([member.vectors.any(1) for member in members], axis=0)
    vectors = np.hstack([member.vectors for member in members]) / np.sqrt(len(members))
    return Coordinates((vectors * related[:, None]).astype(np.float32), members[0].signed)


def nearest_pairs(coordinates: Coordinates, n_neighbors: int) -> tuple[Indices, Indices]:
    """Return pairs (i < j) that are among the strongest ``n_neighbors`` of one of their genes.

    Exact, in blocks: genes^2 k multiply-adds, memory genes x ``GENE_BLOCK``.

    Parameters
    ----------
    coordinates
        Of the genes, from :func:`gene_coordinates`.
    n_neighbors
        Pairs of each gene.
    """
    n_genes = len(coordinates.vectors)
    n_neighbors = min(n_neighbors, n_genes - 1)
    keys = [np.zeros(0, np.int64)]
    for part, strengths in strength_blocks(coordinates) if n_neighbors > 0 else ():
        size = coordinates.size(strengths)
        gene = np.arange(part.start, part.stop)
        size[gene - part.start, gene] = -1
        best = np.argpartition(size, -n_neighbors, axis=1)[:, -n_neighbors:]
        real = np.take_along_axis(size, best, 1) > 0
        rows, columns = np.broadcast_to(gene[:, None], best.shape)[real], best[real]
        keys.append(np.minimum(rows, columns) * n_genes + np.maximum(rows, columns))
    first, second = np.divmod(np.unique(np.concatenate(keys)), n_genes)
    return first, second


def least_listed(coordinates: Coordinates, n_neighbors: int) -> NDArray[np.float64]:
    """Size of each gene's ``n_neighbors``-th strongest relation, (genes,); inf for none."""
    parts = [np.zeros(0)]
    for part, strengths in strength_blocks(coordinates):
        size = coordinates.size(strengths)
        gene = np.arange(part.start, part.stop)
        size[gene - part.start, gene] = -1
        parts.append(largest(size, n_neighbors))
    return np.concatenate(parts)


def largest(sizes: NDArray[Any], rank: int) -> NDArray[np.float64]:
    """Value at a rank (1 is the largest) of each row; inf for rank 0, the least for too many."""
    if rank == 0 or sizes.shape[1] == 0:
        return np.full(len(sizes), np.inf)
    rank = min(rank, sizes.shape[1])
    return np.partition(sizes, -rank, axis=1)[:, -rank].astype(np.float64)


def strength_at_rank(coordinates: Coordinates, rank: int) -> float:
    """Size of the pair at this rank among all pairs, to the resolution of the bins."""
    limit = 1.0
    if not coordinates.signed:
        limit = float((coordinates.vectors.astype(np.float64) ** 2).sum(1).max()) + 1e-9
    found = np.zeros(STRENGTH_BINS)
    for part, strengths in strength_blocks(coordinates):
        genes = np.arange(part.start, part.stop)[:, None]
        once = np.arange(strengths.shape[1]) > genes
        size = coordinates.size(strengths[once]) * (STRENGTH_BINS / limit)
        bins = np.minimum(size.astype(np.int64), STRENGTH_BINS - 1)
        found += np.bincount(bins, minlength=STRENGTH_BINS)
    at_least = np.cumsum(found[::-1])
    return (STRENGTH_BINS - 1 - int(np.searchsorted(at_least, rank))) * limit / STRENGTH_BINS


def strength_blocks(coordinates: Coordinates) -> Iterator[tuple[slice, Floats]]:
    """Yield (block of genes, strengths of the block with all genes)."""
    for part in blocks(len(coordinates.vectors), GENE_BLOCK):
        yield part, coordinates.vectors[part] @ coordinates.vectors.T
