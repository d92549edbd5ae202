"""From weights between genes to edges: the rule, the search over blocks, the adjacency.

A kernel gives the weights between two blocks of genes; every pair of blocks is visited once, and
only what passes the rule is kept. No genes x genes matrix exists at any time.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

MAX_EDGES = 50_000_000  #: 800 MB as symmetric CSR; beyond it the graph tells nothing

Block = slice
FloatArray = NDArray[np.floating[Any]]


def blocks(n: int, size: int) -> list[Block]:
    """Cut range(n) into slices of at most ``size``."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def _block_pairs(n: int, size: int) -> Iterator[tuple[Block, Block]]:
    """Yield every unordered pair of blocks once, equal pairs included."""
    parts = blocks(n, size)
    for position, left in enumerate(parts):
        for right in parts[position:]:
            yield left, right


def spread(adjacency: sparse.csr_matrix, places: NDArray[np.integer], n: int) -> sparse.csr_matrix:
    """Return an adjacency (k, k) among ``n`` genes: its genes at ``places`` (k,), no others."""
    part = sparse.coo_matrix(adjacency)
    at = places[part.row], places[part.col]
    return sparse.csr_matrix((part.data, at), shape=(n, n))


class Kernel(Protocol):
    """Weights between blocks of the genes that may have edges."""

    genes: NDArray[np.intp]  #: (kept genes,): their index in the data
    block_size: int  #: genes per block that suits the kernel's memory

    def prepare(self) -> None:
        """Compute what p-values need."""

    def pair(
        self, left: Block, right: Block
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return weights (left, right), and the cells each rests on if they differ."""

    def log_p(self, edges: "Edges", support: NDArray[np.float32] | None) -> FloatArray:
        """Return the log p-values of some entries, under independence."""


class EdgeRule(NamedTuple):
    """What makes an edge."""

    threshold: float
    top_k: int | None
    false_discovery_rate: float | None
    block_size: int | None


class Edges(NamedTuple):
    """Edges as three equally long columns."""

    row: NDArray[np.integer[Any]]
    column: NDArray[np.integer[Any]]
    weight: FloatArray

    def where(self, kept: NDArray[Any]) -> "Edges":
        """Return the chosen edges."""
        return Edges(self.row[kept], self.column[kept], self.weight[kept])


def find_edges(kernel: Kernel, rule: EdgeRule) -> Edges:
    """Visit every pair of blocks once and return the edges, each once."""
    if rule.false_discovery_rate is not None:
        kernel.prepare()
    found = [Edges(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))]
    log_p: list[FloatArray] = [np.zeros(0)]
    size, n_found = rule.block_size or kernel.block_size, 0
    for left, right in _block_pairs(len(kernel.genes), size):
        edges, p = _edges_between(kernel, rule, left, right)
        found.append(edges)
        log_p.append(p)
        n_found += len(edges.row)
        if n_found > MAX_EDGES and rule.top_k is not None and rule.false_discovery_rate is None:
            edges = _together(found)  # what is not among the strongest so far never will be
            found = [edges.where(strongest(edges, rule.top_k))]
            n_found = len(found[0].row)
        _check_edge_count(n_found, rule)
    edges = _together(found)
    if rule.false_discovery_rate is not None:
        n_tests = len(kernel.genes) * (len(kernel.genes) - 1) // 2
        edges = edges.where(
            _benjamini_hochberg(np.concatenate(log_p), n_tests, rule.false_discovery_rate)
        )
    edges = edges._replace(row=kernel.genes[edges.row], column=kernel.genes[edges.column])
    if rule.top_k is not None:
        edges = edges.where(strongest(edges, rule.top_k))
    return edges


def _together(parts: list[Edges]) -> Edges:
    return Edges(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _edges_between(
    kernel: Kernel, rule: EdgeRule, left: Block, right: Block
) -> tuple[Edges, FloatArray]:
    """Return the candidate edges between two blocks and their log p-values."""
    weights, support = kernel.pair(left, right)
    # the strongest of the *significant* edges are wanted: prune only if all are
    top_k = rule.top_k if rule.false_discovery_rate is None else None
    passing = _passing(weights, rule.threshold, top_k, same=left == right)
    chosen = np.flatnonzero(passing)
    row, column = np.divmod(chosen, weights.shape[1])
    row, column = (row + left.start).astype(np.int32), (column + right.start).astype(np.int32)
    edges = Edges(row, column, weights.ravel()[chosen])
    if rule.false_discovery_rate is None:
        return edges, np.zeros(0)
    log_p = kernel.log_p(edges, None if support is None else support.ravel()[chosen])
    likely = log_p <= np.log(rule.false_discovery_rate)  # p above it is never accepted
    return edges.where(likely), log_p[likely].astype(np.float32)


def _passing(
    weights: NDArray[np.float32], threshold: float, top_k: int | None, *, same: bool
) -> NDArray[np.bool_]:
    """Mark weights above the threshold and among the k strongest of their row or column."""
    strength = np.abs(weights)
    if same:
        np.fill_diagonal(strength, 0)
    passing = strength > threshold
    if top_k is not None:
        of_row = _kth_largest(strength, top_k)[:, None]
        of_column = _kth_largest(np.ascontiguousarray(strength.T), top_k)
        passing &= (strength >= of_row) | (strength >= of_column)
    return np.triu(passing, 1) if same else passing


def _kth_largest(values: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Return the k-th largest value of each row, 0 if the row is shorter."""
    if k >= values.shape[1]:
        return np.zeros(len(values), np.float32)
    return np.partition(values, -k, axis=1)[:, -k]


def strongest(edges: Edges, top_k: int) -> NDArray[np.bool_]:
    """Mark edges that are among the k strongest of at least one of their genes."""
    gene = np.concatenate([edges.row, edges.column])
    other = np.concatenate([edges.column, edges.row])
    strength = np.abs(np.concatenate([edges.weight, edges.weight]), dtype=np.float32)
    near = np.flatnonzero(_at_least_kth(gene, strength, top_k))
    order = near[np.lexsort((other[near], -strength[near], gene[near]))]
    ordered = gene[order]
    rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    kept = np.zeros(len(edges.row), dtype=bool)
    kept[order[rank < top_k] % max(len(edges.row), 1)] = True
    return kept


def _at_least_kth(
    gene: NDArray[np.integer[Any]], strength: NDArray[np.float32], k: int
) -> NDArray[np.bool_]:
    """Mark entries no weaker than the k-th strongest of their gene, ties included.

    Gene and strength make one whole number, as the bits of floats >= 0 are in their order: numbers
    are sorted many times as fast as pairs.
    """
    key = (gene.astype(np.uint64) << np.uint64(32)) | strength.view(np.uint32)
    ordered = np.sort(key)
    genes = np.arange(int(gene.max(initial=-1)) + 1, dtype=np.uint64)
    starts, ends = (
        np.searchsorted(ordered, (genes + np.uint64(n)) << np.uint64(32)) for n in (0, 1)
    )
    last = np.maximum(ends - k, starts).clip(max=max(len(ordered) - 1, 0))
    return key >= ordered[last][gene] if len(key) else np.zeros(0, dtype=bool)


def _benjamini_hochberg(
    log_p: FloatArray, n_tests: int, false_discovery_rate: float
) -> NDArray[np.bool_]:
    """Mark accepted p-values; those not listed among the ``n_tests`` are not accepted.

    Largest k with p_(k) <= k q / n_tests. Leaving out pairs below the
    threshold on abs(r) lowers k only, so the rate is kept.

    Source: Benjamini & Hochberg (1995), doi:10.1111/j.2517-6161.1995.tb02031.x.
    """
    ordered = np.sort(log_p)
    ranks = np.arange(1, len(log_p) + 1)
    accepted = np.flatnonzero(ordered <= np.log(false_discovery_rate * ranks / max(n_tests, 1)))
    if len(accepted) == 0:
        return np.zeros(len(log_p), dtype=bool)
    return log_p <= ordered[accepted[-1]]


def symmetric(edges: Edges, n_genes: int) -> sparse.csr_matrix:
    """Return the (genes, genes) adjacency of edges given once each."""
    row = np.concatenate([edges.row, edges.column])
    column = np.concatenate([edges.column, edges.row])
    weight = np.concatenate([edges.weight, edges.weight]).astype(np.float32)
    return canonical(sparse.coo_matrix((weight, (row, column)), shape=(n_genes, n_genes)))


def canonical(matrix: sparse.spmatrix) -> sparse.csr_matrix:
    """Return CSR, float32, sorted, without explicit zeros."""
    result = sparse.csr_matrix(matrix, dtype=np.float32)
    result.eliminate_zeros()
    result.sort_indices()
    return result


def _check_edge_count(count: int, rule: EdgeRule) -> None:
    if count > MAX_EDGES:
        remedy = (
            "set top_k"
            if rule.false_discovery_rate is None
            else f"lower false_discovery_rate ({rule.false_discovery_rate:g})"
        )
        raise ValueError(
            f"More than {MAX_EDGES:,} gene pairs have abs(r) above {rule.threshold}. A graph this "
            f"dense tells nothing: raise threshold, {remedy}, or check that the data are "
            "log-normalised at a common depth."
        )
