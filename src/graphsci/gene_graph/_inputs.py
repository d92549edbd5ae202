"""What a user gives for a gene graph, brought into one form or refused with one clear message."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse


def check_options(threshold: float, top_k: int | None, false_discovery_rate: float | None) -> None:
    """Refuse a rule that no edge, or every one, could meet."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], a bound on abs(r); got {threshold}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}. Use None for no limit.")
    if false_discovery_rate is not None and not 0 < false_discovery_rate < 1:
        raise ValueError(
            f"false_discovery_rate must be between 0 and 1, got {false_discovery_rate}."
        )


def cells_by_genes(matrix: sparse.spmatrix | ArrayLike, name: str) -> sparse.csc_matrix:
    """Return a finite (cells, genes) CSC float32 without explicit zeros; input untouched."""
    if not sparse.issparse(matrix) and np.ndim(matrix) != 2:
        raise ValueError(f"{name} must be a (cells, genes) matrix, got {np.ndim(matrix)} axes.")
    values = sparse.csc_matrix(matrix, dtype=np.float32)
    refuse_non_finite(values.data, name)
    if values.shape[0] < 3:
        raise ValueError(f"A correlation needs at least 3 cells, {name} has {values.shape[0]}.")
    if np.any(values.data == 0):
        values = values.copy()
        values.eliminate_zeros()
    return values


def check_gene_names(gene_names: ArrayLike, n_genes: int | None = None) -> NDArray[np.str_]:
    """Return names as a (genes,) str array; refuse another number of them, and repeated ones."""
    names = np.asarray(gene_names).astype(str)
    if names.ndim != 1 or (n_genes is not None and len(names) != n_genes):
        raise ValueError(
            f"gene_names has shape {names.shape}, expected ({n_genes or 'genes'},): "
            "one name for each column of the data."
        )
    unique, count = np.unique(names, return_counts=True)
    if len(unique) < len(names):
        raise ValueError(
            f"gene_names must be unique; {np.sum(count > 1)} names occur more than once, "
            f"e.g. {examples(unique[count > 1])}. Make them unique first "
            "(in scanpy: adata.var_names_make_unique())."
        )
    return names


def check_size_factors(size_factors: ArrayLike, n_cells: int) -> NDArray[np.float64]:
    """Return size factors (cells,) as float64; refuse what no count can be divided by."""
    depth = np.asarray(size_factors, dtype=np.float64)
    if depth.shape != (n_cells,):
        raise ValueError(f"size_factors has shape {depth.shape}, expected ({n_cells},).")
    if not np.all(np.isfinite(depth)) or depth.min() <= 0:
        raise ValueError(
            "size_factors must be finite and positive. Remove cells without reads first."
        )
    return depth


def edge_columns(
    edges: pd.DataFrame | ArrayLike, weights: ArrayLike | None
) -> tuple[NDArray[np.str_], NDArray[np.str_], NDArray[np.float64]]:
    """Return the two name columns and signed weights of an edge list."""
    frame = edges if isinstance(edges, pd.DataFrame) else _pairs(edges)
    missing = {"gene_a", "gene_b"} - set(frame.columns)
    if missing:
        raise ValueError(
            f"The edge table lacks {sorted(missing)}; it has {list(frame.columns)}. "
            "Rename its columns to gene_a and gene_b."
        )
    if weights is not None:
        weight = np.asarray(weights, dtype=np.float64)
    else:
        weight = np.asarray(frame["weight"] if "weight" in frame else np.ones(len(frame)), float)
        if "sign" in frame:
            weight = np.where(np.asarray(frame["sign"]) < 0, -np.abs(weight), weight)
    if weight.shape != (len(frame),):
        raise ValueError(f"weights has shape {weight.shape}, expected ({len(frame)},).")
    refuse_non_finite(weight, "edge weights")
    return (
        np.asarray(frame["gene_a"]).astype(str),
        np.asarray(frame["gene_b"]).astype(str),
        weight,
    )


def _pairs(edges: ArrayLike) -> pd.DataFrame:
    pairs = np.asarray(edges)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"edges has shape {pairs.shape}, expected (edges, 2): one pair of gene names per row."
        )
    return pd.DataFrame({"gene_a": pairs[:, 0], "gene_b": pairs[:, 1]})


def no_overlap_message(n_edges: int, unknown: NDArray[np.str_], names: NDArray[np.str_]) -> str:
    """Say why no edge of a network joins two genes of the data."""
    if n_edges == 0:
        return "The edge list is empty. Pass at least one pair of gene names."
    return (
        f"None of the {n_edges} edges joins two of the {len(names)} genes of the data "
        f"(network: {examples(unknown)}; data: {examples(names)}). "
        "Check that both are of the same species and use the same identifiers; "
        "gene_symbols.match_symbols tells what differs."
    )


def examples(names: ArrayLike) -> str:
    """Return the first names in quotes, for a message."""
    return ", ".join(repr(str(name)) for name in np.asarray(names)[:3])


def check_symmetric(adjacency: sparse.csr_matrix) -> None:
    """Refuse a directed graph, and weights that are no numbers."""
    if adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(f"The adjacency must be square (genes, genes), got {adjacency.shape}.")
    refuse_non_finite(adjacency.data, "the adjacency")
    difference = abs(adjacency - adjacency.T)
    if difference.nnz and difference.max() > 1e-6 * abs(adjacency).max():
        raise ValueError(
            "The adjacency is not symmetric; a gene graph is undirected. "
            "Pass it through graph_from_matrix first."
        )


def refuse_non_finite(data: ArrayLike, name: str) -> None:
    """Refuse NaN and infinite values; ``name`` says of what."""
    bad = int(np.sum(~np.isfinite(np.asarray(data, dtype=np.float64))))
    if bad:
        raise ValueError(
            f"{bad} {'value is' if bad == 1 else 'values are'} NaN or infinite in {name}. "
            "Remove or replace them first."
        )


def refuse_negative(values: sparse.csc_matrix, name: str) -> None:
    """Refuse values below 0; ``name`` says of what."""
    if values.nnz and values.data.min() < 0:
        raise ValueError(
            f"{name} must not be negative (detected means > 0); the smallest value is "
            f"{values.data.min():g}. Pass unscaled, uncentred data."
        )
