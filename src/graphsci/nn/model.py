"""The default network, and either network.

`CountNetwork`: the molecules of a cell are split in two, one part is encoded and the other
predicted; its gene loadings may be smoothed over the gene graph. `PaperNetwork` is the published
one, in :mod:`graphsci.nn.paper_model`.

Both are plain functions of tensors: cells come as a :class:`CellBlock`, expression leaves as
a :class:`CountDistribution`. docs/method.md lists every equation beside its function.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor, nn

from graphsci.nn.cell_random import binomial
from graphsci.nn.dispersion_prior import DispersionPrior
from graphsci.nn.fused_likelihood import RankOneTheta, SoftmaxMean, softmax_loss
from graphsci.nn.likelihood import SMALLEST_MEAN, ThinnedBlock, dropout_logits
from graphsci.nn.mean_uncertainty import MeanUncertainty
from graphsci.nn.model_parts import (
    LARGEST_THETA,
    SMALLEST_THETA,
    CellBlock,
    CountDistribution,
    RowDropout,
)
from graphsci.nn.paper_model import PaperNetwork
from graphsci.nn.sparse_product import DENSE_ABOVE, FixedMatrix, product_by_rows

#: The log of a cell's certainty is kept in +- this: cells of training are within 2.5 or so.
LARGEST_LOG_CERTAINTY = 3.0


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
    dispersion_prior: Tensor

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
        # (genes,) how far a gene follows the cell's state; for the rest its share is its batch's
        self.register_buffer("state_weight", torch.ones(n_genes))
        self.register_buffer("mean_share", torch.zeros(n_batches, n_genes))
        # (latent, latent) of the genes' loadings a priori, learned from all of them
        self.register_buffer("loading_covariance", torch.eye(n_latent, dtype=torch.float64))
        # the prior of the genes' log theta, learned from all of them
        self.register_buffer(
            "dispersion_prior", torch.tensor(DispersionPrior(), dtype=torch.float64)
        )

        self.uncertainty = MeanUncertainty(n_batches, n_genes, n_latent)

    @property
    def inverse_dispersion(self) -> Tensor:
        """Theta of each gene in a cell of average certainty, (genes,)."""
        return self.log_theta.clamp(math.log(SMALLEST_THETA), math.log(LARGEST_THETA)).exp()

    def gene_embedding(self) -> Tensor:
        """V, (genes, latent): log expression per unit of z."""
        return self.loadings if self.smoothing is None else self.smoothing(self.loadings)

    @torch.no_grad()
    def weigh_state(self, weight: Tensor, mean_shares: Tensor) -> None:
        """Let genes follow the state of the cell in part; for the rest their share is constant.

        With w the weights and p the mean shares in the cell's batch, ::

            rho_g = (1 - w_g) p_g + (sum_j w_j p_j) w_g e^l_g / (sum_j w_j e^l_j)

        Parameters
        ----------
        weight
            (genes,) w, in (0, 1].
        mean_shares
            (batches, genes) p (:func:`graphsci.training.variation.mean_shares`).
        """
        self.state_weight.copy_(weight)
        self.mean_share.copy_(mean_shares)

    @torch.no_grad()
    def move_dropout_curve(self, log_depth: float) -> None:
        """Let the dropout curve take means at another depth than it was trained at.

        What was dropped stays dropped at any depth, so a + c log mu keeps its value while mu
        changes: a becomes a - c ``log_depth``, the logarithm of new / old depth.
        """
        self.dropout_curve.copy_(self._dropout_curve_at(log_depth))

    def _dropout_curve_at(self, log_depth: float) -> Tensor:
        """(a, c) for means at another depth, of a logarithm beyond that of training."""
        if log_depth == 0:
            return self.dropout_curve
        intercept, slope = self.dropout_curve
        return torch.stack([intercept - slope * log_depth, slope])

    def encode(self, cells: CellBlock, *, hidden_share: Tensor | None = None) -> Tensor:
        """Encode the molecules given, (cells, latent), standardised over the training cells.

        A gene that is hidden in a share of the steps, (genes,), counts for more in the others, as
        in dropout.
        """
        hidden = self._input_product(cells, hidden_share).to(self.bias.dtype)  # (cells, hidden)
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

    def _input_product(self, cells: CellBlock, hidden_share: Tensor | None = None) -> Tensor:
        """X W of the log-normalised block X: sparse, or dense where that is faster."""
        values, n_genes = cells.log_normalized(self.median_library), len(self.input_weight)
        if hidden_share is not None:
            values = values / (1 - hidden_share.index_select(0, cells.genes))
        if values.is_cuda or values.shape[0] > DENSE_ABOVE * cells.n_cells * n_genes:
            with self._autocast():
                return cells.dense(values, n_genes) @ self.input_weight
        return product_by_rows(self.input_weight, cells.genes, cells.offsets, values)

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

    def _constant_shares(self, batch: Tensor) -> Tensor:
        """The part of every gene's share that follows no state, (cells, genes)."""
        return ((1 - self.state_weight) * self.mean_share).index_select(0, batch)

    def _shares(self, logits: Tensor, batch: Tensor) -> Tensor:
        """Share of every gene, (cells, genes): its constant part first, the rest by softmax."""
        constant = self._constant_shares(batch)
        left = 1 - constant.sum(1, keepdim=True)
        return torch.softmax(logits + self.state_weight.log(), 1) * left + constant

    def thinned_loss(
        self,
        kept: CellBlock,
        library: Tensor,
        thinned: ThinnedBlock,
        *,
        z: Tensor | None = None,
        log_depth: float = 0.0,
    ) -> Tensor:
        """Loss of predicting the target molecules at depth ``library`` (cells,) from the kept.

        The thinned loss of ``decode(encode(kept), library, batch)``, summed, in nats, without
        that distribution ever being made. All genes follow the cell's state in full: evidence is
        looked for at the end of training. ``z`` is the embedding of ``kept``, if it is known. Cells
        are deeper than those trained on by ``log_depth``, which the dropout curve has to know.
        """
        z = self.encode(kept) if z is None else z
        loadings, curve = self.gene_embedding(), None
        theta = RankOneTheta(self.inverse_dispersion, self.certainty(z))
        if len(self.batch_offset) > 1:  # a batch's offsets are the loadings of its indicator
            z = torch.cat([z, self._batches(kept)], 1)
            loadings = torch.cat([loadings, self.batch_offset.T], 1)
        if self.zero_inflated:
            library, curve = library * self.log_scale.exp(), self._dropout_curve_at(log_depth)
        mean = SoftmaxMean(z, loadings, self.bias, library)
        return softmax_loss(mean, theta, curve, thinned, bfloat16=self.use_bfloat16)

    def log_mean_variance(self, z: Tensor, cells: CellBlock, genes: Tensor | None = None) -> Tensor:
        """How uncertain log mu is in cells with embedding ``z``, (cells, genes).

        See :class:`~graphsci.nn.mean_uncertainty.MeanUncertainty`.
        """
        variance: Tensor = self.uncertainty(z, cells, genes)
        return variance

    def latent(self, cells: CellBlock) -> Tensor:
        """State of every cell, (cells, latent)."""
        return self.encode(cells)

    def cell_coordinates(self, z: Tensor) -> Tensor:
        """Cell embedding as it is reported, (cells, latent), of states ``z``.

        Along the axes of :class:`~graphsci.nn.state_axes.StateAxes`.
        """
        coordinates: Tensor = self.uncertainty.states.of_cells(z)
        return coordinates

    def gene_coordinates(self) -> Tensor:
        """Loadings as they are reported, (genes, latent): per standard deviation of each axis."""
        coordinates: Tensor = self.uncertainty.states.of_genes(self.gene_embedding())
        return coordinates

    def certainty_weights(self) -> Tensor:
        """What the log certainty of a cell is of its coordinates, (latent,)."""
        weights: Tensor = self.uncertainty.states.of_weights(self.to_certainty)
        return weights

    def expression(
        self, cells: CellBlock, depth: float = 1.0, *, z: Tensor | None = None
    ) -> CountDistribution:
        """Counts of ``cells``, encoded from all their molecules, at ``depth`` x their library.

        ``z`` is their embedding, if it is known already.
        """
        z = self.latent(cells) if z is None else z
        return self.decode(z, cells.library * depth, cells.batch)

    def expected_counts(self, cells: CellBlock) -> Tensor:
        """Expected counts of entries that were not measured, (cells, genes), after dropout.

        (1 - pi) mu; but the share that follows no state is one of what was measured
        (:func:`graphsci.training.variation.mean_shares`), so that dropout has been at it already.
        """
        mean, _, logits = self.expression(cells)
        if logits is None:
            return mean
        constant = self._constant_shares(cells.batch) * cells.library[:, None]
        return (mean - constant * self.log_scale.exp()) * torch.sigmoid(-logits) + constant


def split_block(
    cells: CellBlock, fraction: float, hidden: Tensor | None = None
) -> tuple[CellBlock, ThinnedBlock]:
    """Divide the molecules of a block: each is kept with probability ``fraction``, else predicted.

    Which ones are kept follows from the block's ``keys``.

    Parameters
    ----------
    cells
        The block.
    fraction
        Share that is kept.
    hidden
        (genes,) bool: all molecules of these are predicted.

    Returns
    -------
    kept
        The cells as the encoder sees them; entries left without a molecule stay, with count 0.
        The library is that of a cell without hidden genes: the other genes look the same.
    thinned
        Both parts at the measured entries, for the loss.
    """
    assert cells.keys is not None, "a random split needs the keys of the cells"
    rows = cells.rows()
    kept = binomial(cells.counts, fraction, keys=cells.keys, rows=rows, columns=cells.genes)
    library = torch.zeros_like(cells.library, dtype=torch.float64)
    library = library.index_add_(0, rows, kept.double()).to(cells.library.dtype)
    shares: float | Tensor = fraction
    if hidden is not None:
        kept = kept.masked_fill(hidden.index_select(0, cells.genes), 0)
        shares = (~hidden).to(cells.library.dtype) * fraction
    thinned = ThinnedBlock(rows, cells.genes, kept, cells.counts - kept, shares)
    return cells._replace(counts=kept, library=library), thinned


Network = PaperNetwork | CountNetwork
