"""The two networks, top to bottom in order of use.

`PaperNetwork` is the published model: a graph convolution encodes the genes (eq. 3-4), a
graph-masked layer encodes the cells (eq. 5), and both embeddings together give the counts
(eq. 6-15) and the edges (eq. 16-18).

`CountNetwork` is the default: the molecules of a cell are split in two, one part is encoded
and the other predicted; its gene loadings may be smoothed over the gene graph.

Both are plain functions of tensors: cells come as a :class:`CellBlock`, expression leaves as
a :class:`CountDistribution`. docs/method.md lists every equation beside its function.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from graphsci.cell_random import binomial, keep_mask
from graphsci.fused_likelihood import RankOneTheta, SoftmaxMean, softmax_loss
from graphsci.likelihood import SMALLEST_MEAN, ThinnedBlock, dropout_logits, edge_logits

#: log expression is clamped to this before exp: e^30 molecules is beyond any measurement.
LARGEST_LOG_MEAN = 30.0
#: The log of a cell's certainty is kept in +- this: cells of training are within 2.5 or so.
LARGEST_LOG_CERTAINTY = 3.0
#: A gene's theta is kept in this range: below, it is all outliers; above, it is Poisson.
SMALLEST_THETA, LARGEST_THETA = 1e-4, 1e6
#: Share of non-zero entries above which a dense product beats the sparse one (measured on
#: two CPU cores with 128 hidden units; on a GPU the dense one always does).
DENSE_ABOVE = 0.12


class CellBlock(NamedTuple):
    """Measured counts of some cells, compressed by row as in scipy's CSR."""

    offsets: Tensor  #: (cells + 1,) where each cell starts in the entries
    genes: Tensor  #: (entries,) gene of each entry
    counts: Tensor  #: (entries,) count of each entry, > 0
    library: Tensor  #: (cells,) total count, over all genes of the model
    batch: Tensor  #: (cells,) batch of each cell; all 0 without batches
    keys: Tensor | None = None  #: (cells,) of a step's random numbers; None outside training

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.library.shape[0]

    def rows(self) -> Tensor:
        """(entries,) cell of each entry, within the block."""
        sizes = self.offsets.diff()
        return torch.repeat_interleave(sizes, output_size=self.genes.shape[0])

    def log_normalized(self, median_library: float) -> Tensor:
        """(entries,) log(1 + x / size factor), eq. 1."""
        library = self.library  # (cells,)
        scale = torch.where(library > 0, median_library / library, 0)
        return torch.log1p(self.counts * scale[self.rows()])

    def dense(self, values: Tensor, n_genes: int) -> Tensor:
        """(cells, genes) block of ``values`` (entries,), zero elsewhere."""
        block = values.new_zeros(self.n_cells, n_genes)
        block[self.rows(), self.genes] = values
        return block


class CountDistribution(NamedTuple):
    """NB or ZINB of every entry of a block, at each cell's own depth."""

    mean: Tensor  #: mu, (cells, genes), before dropout
    inverse_dispersion: Tensor  #: theta, (cells, genes)
    zero_inflation_logits: Tensor | None  #: log(pi / (1 - pi)), (cells, genes); None for NB


class RowDropout(nn.Module):
    """Dropout whose mask belongs to the rows and the step, whatever rows are beside them."""

    def __init__(self, dropout_rate: float) -> None:
        super().__init__()
        self.rate = dropout_rate

    def forward(self, values: Tensor, keys: Tensor | None) -> Tensor:
        """Silence a share of ``values`` (rows, units) in training; ``keys`` (rows,)."""
        if not self.training or self.rate == 0:
            return values
        assert keys is not None, "dropout in training needs the keys of the rows"
        return values * keep_mask(keys, values.shape[1], self.rate).to(values.dtype)


class FixedMatrix(NamedTuple):
    """A sparse matrix that is not learned, by rows and, for the gradient, by columns.

    Each element of its products is summed in one order, on any device; torch's own sparse
    products leave the order to the GPU.
    """

    columns: Tensor  #: (entries,) by rows
    row_offsets: Tensor  #: (rows + 1,) where each row starts
    values: Tensor  #: (entries,)
    rows: Tensor  #: (entries,) by columns
    column_offsets: Tensor  #: (columns + 1,)
    values_by_column: Tensor  #: (entries,)

    @classmethod
    def of(
        cls,
        matrix: sparse.spmatrix,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> FixedMatrix:
        """Move a scipy matrix to the device."""
        tensors = []
        for part in (sparse.csr_matrix(matrix), sparse.csc_matrix(matrix)):
            places = (torch.as_tensor(places).long() for places in (part.indices, part.indptr))
            tensors += [*places, torch.as_tensor(part.data).to(dtype)]
        return cls(*(tensor.to(device) for tensor in tensors))

    def times(self, dense: Tensor) -> Tensor:
        """Multiply ``dense`` (columns, n) to (rows, n)."""
        product: Tensor = _FixedProduct.apply(dense, *self)
        return product


class _FixedProduct(torch.autograd.Function):
    """P X of a sparse P, by rows; the gradient of X is P^T times that of the product.

    The parts of P by columns are given, or made when the gradient is asked for, on a CPU.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, dense: Tensor, *matrix: Tensor) -> Tensor:
        ctx.save_for_backward(*matrix)
        ctx.n_columns = len(dense)  # type: ignore[attr-defined]
        columns, offsets, values = matrix[:3]
        return _weighted_rows(columns, dense, offsets, values)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        matrix = ctx.saved_tensors  # type: ignore[attr-defined]
        columns, offsets, values, *turned = matrix
        if not turned:
            turned = _by_columns(columns, offsets, values, ctx.n_columns)  # type: ignore[attr-defined]
        rows, starts, entries = turned
        by_dense = _weighted_rows(rows, gradient.contiguous(), starts, entries)
        return by_dense, *(None for _ in matrix)


def _by_columns(
    columns: Tensor, offsets: Tensor, values: Tensor, n_columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, offsets and values by columns of a sparse matrix by rows."""
    arrays = (values.numpy(), columns.int().numpy(), offsets.int().numpy())
    shape = (len(offsets) - 1, n_columns)
    turned = sparse.csr_matrix(arrays, shape=shape, copy=False).tocsc()
    rows, starts, entries = map(torch.from_numpy, (turned.indices, turned.indptr, turned.data))
    return rows, starts, entries


class GraphConvolution(nn.Module):
    """A~ X W: one graph convolution (Kipf & Welling 2017; eq. 3-4)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_in, n_out))
        nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor | FixedMatrix, adjacency: FixedMatrix) -> Tensor:
        """Convolve ``features`` (genes, n_in) to (genes, n_out) by A~ (genes, genes)."""
        if isinstance(features, FixedMatrix):
            return adjacency.times(features.times(self.weight))
        return adjacency.times(features @ self.weight)


class GeneEncoder(nn.Module):
    """Two graph convolutions from expression to Gaussian gene embeddings (eq. 3-4).

    W0 has one row per training cell, so this half of the model is tied to the training data:
    once trained, the embeddings are kept and the encoder is dropped.
    """

    def __init__(self, n_cells: int, n_hidden: int, n_latent: int, dropout_rate: float) -> None:
        super().__init__()
        self.hidden = GraphConvolution(n_cells, n_hidden)
        self.posterior = GraphConvolution(n_hidden, 2 * n_latent)
        self.dropout = RowDropout(dropout_rate)

    def forward(
        self, expression: Tensor | FixedMatrix, adjacency: FixedMatrix, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of Z_N, each (genes, latent).

        ``expression`` is X^T, (genes, cells); ``keys`` (genes,) of dropout.
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
        return _weighted_rows(sources, features.T.contiguous(), offsets, weight[by_target]).T

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

    def gene_embedding(self) -> Tensor:
        """Posterior mean of Z_N, (genes, latent)."""
        return self.gene_mean

    @torch.no_grad()
    def freeze_genes(self, gene_mean: Tensor) -> None:
        """Keep the gene embeddings, and the graph they imply, for cells to come."""
        self.gene_mean.copy_(gene_mean)
        self.edge_mask.copy_(self.reconstruct_edges(gene_mean))


class GraphSmoothing(nn.Module):
    """Loadings of a gene plus a learned share of its neighbours': U + g .* (P U).

    P averages over neighbours in the gene graph, weighted by the absolute correlation and
    signed by it; g in (-1, 1) is one gate per gene, starting at 0.

    Parameters
    ----------
    averaging
        P, (genes, genes).
    """

    def __init__(self, averaging: sparse.csr_matrix) -> None:
        super().__init__()
        for name, tensor in FixedMatrix.of(averaging)._asdict().items():
            # rebuilt from the graph when a model is loaded
            self.register_buffer(name, tensor, persistent=False)
        self.gate = nn.Parameter(torch.zeros(averaging.shape[0]))

    def forward(self, loadings: Tensor) -> Tensor:
        """Smooth ``loadings`` (genes, latent)."""
        averaging = FixedMatrix(*(getattr(self, name) for name in FixedMatrix._fields))
        return loadings + torch.tanh(self.gate)[:, None] * averaging.times(loadings)


class CountNetwork(nn.Module):
    """The default model: a log-linear factor model of proportions with a neural encoder.

    ::

        z = encoder(log1p of the kept molecules at the median depth)
        rho = softmax(V z + b + offset of the batch),       mu = rho x library size
        kappa = exp(u z),                                   theta = kappa x theta of the gene
        x ~ NB(mu, theta)    or, with dropout,  ZINB(s mu, theta, pi = sigmoid(a + c log s mu))

    kappa is the certainty of a cell: how closely its counts keep to its state.

    Parameters
    ----------
    gene_proportions
        (genes,) share of each gene in all molecules, > 0: where the bias b starts.
    n_batches
        Number of batches; 1 for none.
    averaging
        (genes, genes) averages over neighbours in the gene graph; None for no graph.
    bfloat16
        Do the products with the hidden layer and the loadings in bfloat16.

    Notes
    -----
    After training, a gene follows the state of its cell, and its certainty, only as far as there
    is evidence that it does (:meth:`weigh_state`); for the rest it has a constant share, and the
    softmax divides what those leave.
    """

    state_weight: Tensor
    mean_share: Tensor
    loading_covariance: Tensor

    def __init__(
        self,
        *,
        gene_proportions: Tensor,
        n_latent: int,
        n_hidden: int,
        dropout_rate: float,
        median_library: float,
        n_batches: int,
        zero_inflated: bool,
        averaging: sparse.csr_matrix | None,
        bfloat16: bool = False,
    ) -> None:
        super().__init__()
        n_genes = gene_proportions.shape[0]
        self.use_bfloat16 = bfloat16
        self.median_library = median_library
        self.zero_inflated = zero_inflated
        self.input_weight = nn.Parameter(torch.randn(n_genes, n_hidden) * 0.02)
        # what all cells share has no effect before a batch norm
        shift = torch.zeros(n_batches, n_hidden)
        self.input_batch = nn.Parameter(shift, requires_grad=n_batches > 1)
        self.input_norm = nn.BatchNorm1d(n_hidden)
        self.dropout = RowDropout(dropout_rate)
        self.to_latent = nn.Linear(n_hidden, n_latent, bias=False)
        self.latent_norm = nn.BatchNorm1d(n_latent, affine=False)
        self.loadings = nn.Parameter(torch.randn(n_genes, n_latent) * 0.01)
        self.bias = nn.Parameter(gene_proportions.log())
        offset = torch.zeros(n_batches, n_genes)
        self.batch_offset = nn.Parameter(offset, requires_grad=n_batches > 1)
        self.log_theta = nn.Parameter(torch.zeros(n_genes))
        self.to_certainty = nn.Parameter(torch.zeros(n_latent))  # u
        # a, c and log s; the start says: half of the entries with a mean of 1 are dropped
        self.dropout_curve = nn.Parameter(torch.tensor([0.0, -1.0]), requires_grad=zero_inflated)
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=zero_inflated)
        self.smoothing = None if averaging is None else GraphSmoothing(averaging)
        # (genes,) how far a gene follows the cell's state; for the rest it keeps its mean share
        self.register_buffer("state_weight", torch.ones(n_genes))
        self.register_buffer("mean_share", torch.zeros(n_batches, n_genes))
        # (latent, latent) of the genes' loadings a priori, learned from all of them
        self.register_buffer("loading_covariance", torch.eye(n_latent, dtype=torch.float64))

    @property
    def inverse_dispersion(self) -> Tensor:
        """Theta of each gene in a cell of average certainty, (genes,)."""
        return self.log_theta.clamp(math.log(SMALLEST_THETA), math.log(LARGEST_THETA)).exp()

    def gene_embedding(self) -> Tensor:
        """V, (genes, latent): log expression per unit of each latent direction."""
        return self.loadings if self.smoothing is None else self.smoothing(self.loadings)

    @torch.no_grad()
    def weigh_state(self, weight: Tensor, gene_proportions: Tensor) -> None:
        """Let genes follow the state of the cell in part; for the rest their share is constant.

        With w the weights and p the mean shares of the batch, ::

            rho_g = (1 - w_g) p_g + (sum_j w_j p_j) w_g e^l_g / (sum_j w_j e^l_j)

        Parameters
        ----------
        weight
            (genes,) w, in (0, 1].
        gene_proportions
            (genes,) share of each gene in all molecules; the offsets of the batches move it.
        """
        self.state_weight.copy_(weight)
        proportions = gene_proportions.to(self.batch_offset)
        self.mean_share.copy_(torch.softmax(proportions.log() + self.batch_offset, 1))

    @torch.no_grad()
    def move_dropout_curve(self, log_depth: float) -> None:
        """Let the dropout curve take means at another depth than it was trained at.

        What was dropped stays dropped at any depth, so a + c log mu keeps its value while mu
        changes: a becomes a - c ``log_depth``, the logarithm of new / old depth.
        """
        self.dropout_curve[0] -= self.dropout_curve[1] * log_depth

    def encode(self, cells: CellBlock) -> Tensor:
        """Encode the molecules given, (cells, latent), standardised over the training cells."""
        hidden = self._input_product(cells).to(self.bias.dtype)  # (cells, hidden)
        one = len(self.input_batch) == 1
        shift = self.input_batch if one else self._batches(cells) @ self.input_batch
        hidden = F.relu(self.input_norm(hidden + shift))
        z: Tensor = self.to_latent(self.dropout(hidden, cells.keys))
        return self.latent_norm(z)  # (cells, latent)

    def _batches(self, cells: CellBlock) -> Tensor:
        """Indicators of the cells' batches, (cells, batches)."""
        return F.one_hot(cells.batch, len(self.batch_offset)).to(self.bias.dtype)

    def _autocast(self) -> torch.autocast:
        """Context in which matrix products are done in bfloat16, if asked for."""
        kind = self.input_weight.device.type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self.use_bfloat16)

    def _input_product(self, cells: CellBlock) -> Tensor:
        """X W of the log-normalised block X: sparse, or dense where that is faster."""
        values, n_genes = cells.log_normalized(self.median_library), len(self.input_weight)
        if values.is_cuda or values.shape[0] > DENSE_ABOVE * cells.n_cells * n_genes:
            with self._autocast():
                return cells.dense(values, n_genes) @ self.input_weight
        product: Tensor = _FixedProduct.apply(self.input_weight, cells.genes, cells.offsets, values)
        return product

    def decode(self, z: Tensor, library: Tensor, batch: Tensor) -> CountDistribution:
        """Counts at depth ``library`` (cells,) from the cell embedding (cells, latent)."""
        loadings = self.gene_embedding()
        with self._autocast():
            logits = F.linear(z, loadings)  # (cells, genes)
        logits = logits.to(self.bias.dtype) + self.bias  # log proportions need their digits
        if self.batch_offset.shape[0] > 1:
            logits = logits + self.batch_offset.index_select(0, batch)
        mean = self._shares(logits, batch) * library[:, None]
        # a gene that does not follow the state does not follow its certainty: (cells, genes)
        theta = self.certainty(z)[:, None] ** self.state_weight * self.inverse_dispersion
        if not self.zero_inflated:
            return CountDistribution(mean, theta, None)
        mean = mean * self.log_scale.exp()  # counts before dropout exceed those measured
        dropped = dropout_logits(mean.clamp_min(SMALLEST_MEAN).log(), self.dropout_curve)
        return CountDistribution(mean, theta, dropped)

    def certainty(self, z: Tensor) -> Tensor:
        """Return kappa, (cells,): how closely cells keep to their state (cells, latent)."""
        log = z @ self.to_certainty
        return log.clamp(-LARGEST_LOG_CERTAINTY, LARGEST_LOG_CERTAINTY).exp()

    def _shares(self, logits: Tensor, batch: Tensor) -> Tensor:
        """Share of every gene, (cells, genes): its constant part first, the rest by softmax."""
        constant = ((1 - self.state_weight) * self.mean_share).index_select(0, batch)
        left = 1 - constant.sum(1, keepdim=True)
        return torch.softmax(logits + self.state_weight.log(), 1) * left + constant

    def thinned_loss(
        self, kept: CellBlock, library: Tensor, thinned: ThinnedBlock, *, z: Tensor | None = None
    ) -> Tensor:
        """Loss of predicting the target molecules at depth ``library`` (cells,) from the kept.

        The thinned loss of ``decode(encode(kept), library, batch)``, summed, in nats, without
        that distribution ever being made. All genes follow the cell's state in full: evidence is
        looked for at the end of training. ``z`` is the embedding of ``kept``, if it is known.
        """
        z = self.encode(kept) if z is None else z
        loadings, curve = self.gene_embedding(), None
        theta = RankOneTheta(self.inverse_dispersion, self.certainty(z))
        if len(self.batch_offset) > 1:  # a batch's offsets are the loadings of its indicator
            z = torch.cat([z, self._batches(kept)], 1)
            loadings = torch.cat([loadings, self.batch_offset.T], 1)
        if self.zero_inflated:
            library, curve = library * self.log_scale.exp(), self.dropout_curve
        mean = SoftmaxMean(z, loadings, self.bias, library)
        return softmax_loss(mean, theta, curve, thinned, bfloat16=self.use_bfloat16)

    def latent(self, cells: CellBlock) -> Tensor:
        """Cell embedding, (cells, latent)."""
        return self.encode(cells)

    def expression(
        self, cells: CellBlock, depth: float = 1.0, *, z: Tensor | None = None
    ) -> CountDistribution:
        """Counts of ``cells``, encoded from all their molecules, at ``depth`` x their library.

        ``z`` is their embedding, if it is known already.
        """
        z = self.latent(cells) if z is None else z
        return self.decode(z, cells.library * depth, cells.batch)


def _weighted_rows(index: Tensor, rows: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """Sums of weighted rows: those of ``index`` between two ``offsets`` (sums + 1,) each."""
    return F.embedding_bag(
        index, rows, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
    )


def split_block(cells: CellBlock, fraction: float) -> tuple[CellBlock, ThinnedBlock]:
    """Split every molecule of a block: kept with probability ``fraction``, else predicted.

    Which ones are kept follows from the block's ``keys``.

    Returns
    -------
    kept
        The cells as the encoder sees them; entries left without a molecule stay, with count 0.
    thinned
        Both parts at the measured entries, for the loss.
    """
    assert cells.keys is not None, "a random split needs the keys of the cells"
    rows = cells.rows()
    kept = binomial(cells.counts, fraction, keys=cells.keys, rows=rows, columns=cells.genes)
    library = torch.zeros_like(cells.library, dtype=torch.float64)
    library = library.index_add_(0, rows, kept.double()).to(cells.library.dtype)
    thinned = ThinnedBlock(rows, cells.genes, kept, cells.counts - kept, fraction)
    return cells._replace(counts=kept, library=library), thinned


Network = PaperNetwork | CountNetwork
