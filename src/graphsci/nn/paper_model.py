"""The published network, top to bottom in order of use (preset `paper`).

A graph convolution encodes the genes (eq. 3-4), a graph-masked layer encodes the cells (eq. 5), and
both embeddings together give the counts (eq. 6-15) and the edges (eq. 16-18). docs/method.md lists
every equation beside its function.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsci.nn.likelihood import SMALLEST_MEAN, edge_logits
from graphsci.nn.model_parts import (
    LARGEST_THETA,
    SMALLEST_THETA,
    CellBlock,
    CountDistribution,
    RowDropout,
)
from graphsci.nn.sparse_product import FixedMatrix, StandardizedMatrix, weighted_rows

#: log expression is clamped to this before exp: e^30 molecules is beyond any measurement.
LARGEST_LOG_MEAN = 30.0


class GraphConvolution(nn.Module):
    """A~ X W: one graph convolution (Kipf & Welling 2017; eq. 3-4)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(
        self, features: Tensor | FixedMatrix | StandardizedMatrix, adjacency: FixedMatrix
    ) -> Tensor:
        """Convolve ``features`` (genes, n_in) to (genes, n_out) by A~ (genes, genes)."""
        if isinstance(features, Tensor):
            return adjacency.times(features @ self.weight)
        return adjacency.times(features.times(self.weight))


class GeneEncoder(nn.Module):
    """Two graph convolutions from expression to Gaussian gene embeddings (eq. 3-4).

    W0 has one row per training cell, so this half of the model is tied to the training data:
    once trained, the embeddings are kept and the encoder is dropped.

    Genes are standardised over the cells. Log expression as it is has no negative value, so that
    all weights of a hidden unit move together: after a step or two of Adam no gene reaches
    any unit, and by eq. 3, which has no bias, none ever does again (docs/method.md).
    """

    def __init__(self, n_cells: int, n_hidden: int, n_latent: int, dropout_rate: float) -> None:
        super().__init__()
        self.hidden = GraphConvolution(n_cells, n_hidden)
        self.posterior = GraphConvolution(n_hidden, 2 * n_latent)
        self.dropout = RowDropout(dropout_rate)

    def forward(
        self,
        expression: Tensor | StandardizedMatrix,
        adjacency: FixedMatrix,
        keys: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of Z_N, each (genes, latent).

        ``expression`` is X^T with standardised rows, (genes, cells); ``keys`` (genes,) of dropout.
        """
        hidden = F.relu(self.hidden(expression, adjacency))  # (genes, hidden)
        mean, log_variance = self.posterior(self.dropout(hidden, keys), adjacency).chunk(2, 1)
        return mean, log_variance.clamp(-10, 10)


class _MaskedProduct(torch.autograd.Function):
    """X (W .* A) with the weights of the edges only; X is data and gets no gradient."""

    #: (edge, cell) products formed at once in the backward pass: 2^24 floats are 64 MiB
    products_at_once = 1 << 24

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        features: Tensor,
        weight: Tensor,
        edges: Tensor,
        sources: Tensor,
        by_target: Tensor,
        offsets: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(features, edges)
        return weighted_rows(sources, features.T.contiguous(), offsets, weight[by_target]).T

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[None, Tensor, None, None, None, None]:
        features, edges = ctx.saved_tensors  # type: ignore[attr-defined]
        from_gene, to_gene = features.T.contiguous(), gradient.T.contiguous()
        step = max(1, _MaskedProduct.products_at_once // max(1, features.shape[0]))
        parts = [
            (from_gene[source] * to_gene[target]).sum(1)
            for source, target in zip(edges[0].split(step), edges[1].split(step), strict=True)
        ]
        by_weight = torch.cat(parts) if parts else gradient.new_zeros(0)
        return None, by_weight, None, None, None, None


class MaskedGraphLinear(nn.Module):
    """X (W .* A) + b, the first layer of the cell encoder (eq. 5).

    W has a free weight for every ordered pair of genes joined by A and none elsewhere, which
    is the published function in O(edges) memory instead of O(genes^2).

    Parameters
    ----------
    edges
        (2, edges) ordered pairs (i, j), both directions; i = j where a gene keeps itself.
    """

    edges: Tensor
    sources: Tensor
    by_target: Tensor
    offsets: Tensor

    def __init__(self, n_genes: int, edges: Tensor) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.register_buffer("edges", edges)
        for name in ("sources", "by_target", "offsets"):
            self.register_buffer(name, None, persistent=False)
        self._order()
        self.register_load_state_dict_post_hook(lambda layer, _: layer._order())
        degree = torch.bincount(edges[1], minlength=n_genes).clamp_min(1)
        self.weight = nn.Parameter(torch.randn(edges.shape[1]) / degree[edges[1]].sqrt())
        self.bias = nn.Parameter(torch.zeros(n_genes))

    def _order(self) -> None:
        """Note the edges in the order of their targets, and where those of a target begin."""
        source, target = self.edges
        self.by_target = torch.argsort(target, stable=True)
        self.sources = source[self.by_target]
        self.offsets = F.pad(torch.bincount(target, minlength=self.n_genes).cumsum(0), (1, 0))

    def forward(self, features: Tensor, edge_mask: Tensor | None = None) -> Tensor:
        """Map ``features`` (cells, genes) to (cells, genes).

        ``edge_mask`` (edges,) multiplies the weights: the current reconstruction of the graph.
        """
        weight = self.weight if edge_mask is None else self.weight * edge_mask
        order = self.sources, self.by_target, self.offsets
        product = _MaskedProduct.apply(features, weight, self.edges, *order)
        return product + self.bias


class CellPosterior(NamedTuple):
    """Gaussian posterior of the cell embedding, each (cells, latent)."""

    mean: Tensor
    log_variance: Tensor


class PaperNetwork(nn.Module):
    """GraphSCI as published (eq. 3-18), with the gaps settled in docs/method.md.

    Parameters
    ----------
    n_genes, n_latent, n_hidden, dropout_rate
        Sizes; the paper has latent 32, hidden 16, dropout rate 0.2.
    edges
        (2, edges) ordered gene pairs of A, both directions, and every gene with itself.
    median_library
        Median library size of the training cells (eq. 1).
    zero_inflated
        ZINB if true, NB otherwise.
    """

    gene_mean: Tensor
    edge_mask: Tensor

    def __init__(
        self,
        *,
        n_genes: int,
        n_latent: int,
        n_hidden: int,
        dropout_rate: float,
        edges: Tensor,
        median_library: float,
        zero_inflated: bool,
    ) -> None:
        super().__init__()
        self.median_library = median_library
        self.zero_inflated = zero_inflated
        self.cell_graph_layer = MaskedGraphLinear(n_genes, edges)
        self.cell_hidden = nn.Linear(n_genes, n_hidden)
        self.cell_posterior = nn.Linear(n_hidden, 2 * n_latent)
        self.dropout = RowDropout(dropout_rate)
        n_heads = 3 if zero_inflated else 2
        self.head_weight = nn.Parameter(torch.empty(n_heads, n_latent, n_latent))
        nn.init.xavier_uniform_(self.head_weight)
        self.head_bias = nn.Parameter(torch.zeros(n_heads, n_genes))
        self.register_buffer("gene_mean", torch.zeros(n_genes, n_latent))
        self.register_buffer("edge_mask", torch.ones(edges.shape[1]))

    def reconstruct_edges(self, gene_embedding: Tensor) -> Tensor:
        """A^ = sigmoid(z_i . z_j) on the edges of the mask (eq. 18), (edges,)."""
        return torch.sigmoid(edge_logits(gene_embedding, self.cell_graph_layer.edges))

    def encode(self, cells: CellBlock, edge_mask: Tensor) -> CellPosterior:
        """Encode cells with the graph as it stands (eq. 5): posterior of Z_M."""
        n_genes = self.head_bias.shape[1]
        x = cells.dense(cells.log_normalized(self.median_library), n_genes)  # (cells, genes)
        hidden = torch.tanh(self.cell_graph_layer(x, edge_mask))  # (cells, genes)
        hidden = self.dropout(hidden, cells.keys)
        hidden = torch.tanh(self.cell_hidden(hidden))  # (cells, hidden)
        mean, log_variance = self.cell_posterior(hidden).chunk(2, 1)  # (cells, latent) each
        return CellPosterior(mean, log_variance.clamp(-10, 10))

    def decode(self, z_cell: Tensor, z_gene: Tensor, library: Tensor) -> CountDistribution:
        """Counts from both embeddings (eq. 12-15) through the heads of eq. 9-11.

        Head h of cell c and gene g is z_c^T W_h z_g + b_hg.
        """
        heads = torch.einsum("cd,hde->hce", z_cell, self.head_weight) @ z_gene.T
        heads = heads + self.head_bias[:, None, :]  # (heads, cells, genes)
        size_factor = (library / self.median_library)[:, None]
        mean = size_factor * heads[0].clamp_max(LARGEST_LOG_MEAN).exp()  # eq. 9, 15
        theta = F.softplus(heads[1]).clamp(SMALLEST_THETA, LARGEST_THETA)  # eq. 10
        logits = heads[2] if self.zero_inflated else None  # eq. 11 before the sigmoid
        return CountDistribution(mean.clamp_min(SMALLEST_MEAN), theta, logits)

    def latent(self, cells: CellBlock) -> Tensor:
        """Posterior mean of Z_M, (cells, latent)."""
        return self.encode(cells, self.edge_mask).mean

    def expression(
        self, cells: CellBlock, depth: float = 1.0, *, z: Tensor | None = None
    ) -> CountDistribution:
        """Counts of ``cells`` with the trained gene embeddings, at ``depth`` x their library.

        ``z`` is their embedding, if it is known already.
        """
        z = self.latent(cells) if z is None else z
        return self.decode(z, self.gene_mean, cells.library * depth)

    def expected_counts(self, cells: CellBlock) -> Tensor:
        """Expected counts of entries that were not measured, (cells, genes): (1 - pi) mu."""
        mean, _, logits = self.expression(cells)
        return mean if logits is None else mean * torch.sigmoid(-logits)

    def log_mean_variance(self, z: Tensor, cells: CellBlock, genes: Tensor | None = None) -> None:
        """Not known: the published decoder is a point estimate."""

    def gene_embedding(self) -> Tensor:
        """Posterior mean of Z_N, (genes, latent)."""
        return self.gene_mean

    def cell_coordinates(self, z: Tensor) -> Tensor:
        """Cell embedding as it is reported: Z_M itself."""
        return z

    def gene_coordinates(self) -> Tensor:
        """Gene embedding as it is reported: Z_N itself."""
        return self.gene_embedding()

    @torch.no_grad()
    def freeze_genes(self, gene_mean: Tensor) -> None:
        """Keep the gene embeddings, and the graph they imply, for cells to come."""
        self.gene_mean.copy_(gene_mean)
        self.edge_mask.copy_(self.reconstruct_edges(gene_mean))
