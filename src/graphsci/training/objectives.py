"""What is minimised: the thinned loss of the preset `default`, the lower bound of `paper`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from graphsci.config import Config
from graphsci.nn.cell_blocks import Indices, cell_block, move_cells, row_blocks
from graphsci.nn.cell_random import (
    CELLS,
    GENES,
    HIDDEN_GENES,
    PAIRS,
    normal,
    row_keys,
    step_key,
    uniform,
)
from graphsci.nn.dispersion_prior import DispersionPrior, scored_information, updated_trend
from graphsci.nn.likelihood import ThinnedBlock, block_nll, edge_cross_entropy, gaussian_kl
from graphsci.nn.loading_prior import (
    hidden_share_for,
    loading_scale_for,
    log_mean_information,
    scored_share,
    updated_covariance,
)
from graphsci.nn.model import CountNetwork, split_block
from graphsci.nn.model_parts import CellBlock, CountDistribution
from graphsci.nn.paper_model import GeneEncoder, PaperNetwork
from graphsci.nn.sparse_product import DENSE_ABOVE, FixedMatrix, StandardizedMatrix, row_moments
from graphsci.training.blocks import CountBlocks, MemoryBlocks, Minibatch, shuffled
from graphsci.training.loop import Pooled, alone

#: theta starts at 1 for every gene and has far to go (a Poisson-like gene to 100 or more)
#: in logarithmic steps, so it learns faster than the weights. Measured in benchmarks/lab.
THETA_RATE = 5.0
#: Standard deviation a priori of what a batch adds to a gene's logarithm: an e-fold change is
#: nothing out of the way. Measured in benchmarks/lab.
BATCH_SCALE = 1.0
#: Shares of the molecules at which what is scored is averaged over the range that is kept.
N_SHARES = 9
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


class HeldOut(NamedTuple):
    """The cells that decide when to stop: what training sees of them, and what was withheld."""

    kept: sparse.csr_matrix  #: (cells, genes) their molecules that are trained on
    counts: sparse.csr_matrix  #: (cells, genes) their withheld molecules
    batch: Indices  #: (cells,)
    fraction: float  #: chance of each molecule to be withheld
    log_depth: float = 0.0  #: of all molecules over those trained on, where depth decides


class _Hiding(NamedTuple):
    """Which genes steps hide."""

    share: Tensor  #: (genes,) share of the steps that hide each
    of_molecules: float  #: share of the molecules that is hidden, over the steps

    @property
    def any(self) -> bool:
        """Whether any gene is ever hidden."""
        return self.of_molecules > 0


class _ValidationBlock(NamedTuple):
    """Some of the deciding cells: what ``CountNetwork.thinned_loss`` takes."""

    kept: CellBlock
    library: Tensor
    thinned: ThinnedBlock


class ThinningObjective:
    """Split each cell's molecules at random; encode one part, predict the other.

    Of many molecules the kept ones say nearly all of the others, whatever the mean, which then
    would never be learned from other genes. So genes are hidden as a whole in some steps, each in
    as many as it takes to score enough of what it says (``config.least_scored``).

    The loss of a step is the negative log-probability of the predicted part given the
    encoded one, per cell. Weights with a row per gene have a Gaussian prior, worth one
    observation of the whole data set: each of its cells carries 1/cells of it, and as a step
    scores but a share of what a count says, that share of it. Its gradient joins that of the loss.
    The priors of the loadings and of theta are learned (:mod:`graphsci.nn.loading_prior`,
    :mod:`graphsci.nn.dispersion_prior`).

    Parameters
    ----------
    network
        What is trained.
    counts
        (cells, genes) that are learned from.
    batch
        (cells,)
    molecules
        (genes,) of each gene in ``counts``.
    config
        Hyper-parameters.
    device
        Where the network is.
    held_out
        Cells whose withheld molecules are scored after every epoch; None for none.
    """

    def __init__(
        self,
        network: CountNetwork,
        counts: CountBlocks,
        batch: Indices,
        molecules: NDArray[np.float64],
        config: Config,
        *,
        device: torch.device,
        held_out: HeldOut | None,
    ) -> None:
        self.model, self.config, self.device = network, config, device
        self.blocks, self.batch, self.held_out = counts, batch, held_out
        self.molecules = torch.as_tensor(molecules)
        self.n_cells = counts.shape[0]
        # a gene without molecules counts as one with half a molecule
        log_mean = (self.molecules.double().clamp_min(0.5) / self.n_cells).log()
        self._log_mean = log_mean.to(network.log_theta)
        self.scored_share, self._kept_share = 1.0, 0.0  # of the last step
        self._hiding: _Hiding | None = None  # made when first needed: of the state restored
        self.validation: list[_ValidationBlock] | None = None  # made when first needed
        self.scale = loading_scale_for(self.n_cells, config.loading_scale)
        covariance = network.loading_covariance
        covariance.copy_(self.scale**2 * torch.eye(len(covariance), dtype=covariance.dtype))
        self._precision: Tensor | None = None  # made when first needed: of the state restored
        self._moment, self._cells_encoded = covariance.new_zeros(covariance.shape).float(), 0

    @property
    def network(self) -> CountNetwork:
        """The network, all of which is trained."""
        return self.model

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Those of the encoder, others, and what learns faster: theta, the curve."""
        fast = ("log_theta", "dropout_curve", "log_scale", "smoothing.gate")
        named = dict(self.network.named_parameters())
        encoder = named.pop("input_weight")
        rest = [p for name, p in named.items() if name not in fast]
        return [
            {"params": [encoder], "precision": 1 / (self.scale**2 * self.n_cells)},
            {"params": rest},
            {"params": [p for name, p in named.items() if name in fast], "rate": THETA_RATE},
        ]

    @torch.no_grad()
    def add_prior_gradient(self) -> None:
        """Add the priors' gradients by every gene's loadings, log theta and batch offsets.

        S^-1 v, the distance of log theta to its trend over t^2, and the offset over the square of
        its width, times the share that the step scores of what the gene's counts say of its mean,
        over the number of cells.
        """
        loadings = self.network.loadings
        assert loadings.grad is not None
        if self._precision is None:
            precision = torch.linalg.inv(self.network.loading_covariance.cpu())
            self._precision = (precision / self.n_cells).to(loadings)
        log_theta = self.network.log_theta
        assert log_theta.grad is not None
        prior = DispersionPrior(*self.network.dispersion_prior.to(log_theta))
        pull = (log_theta - prior.expected(self._log_mean)) / prior.variance
        scored = scored_share(
            self._log_mean.exp(),
            self.network.inverse_dispersion,
            kept=self._kept_share,
            hidden_share=self.hiding.share,
        )
        loadings.grad.addcmul_(loadings @ self._precision, scored[:, None])
        log_theta.grad.addcmul_(pull, scored, value=1 / self.n_cells)
        offset = self.network.batch_offset
        if offset.grad is not None:
            offset.grad.addcmul_(offset, scored, value=1 / (BATCH_SCALE**2 * self.n_cells))

    @torch.no_grad()
    def end_epoch(self, pooled: Pooled = alone) -> None:
        """Update S from the loadings and the epoch's embeddings, and the trend of theta."""
        network = self.network
        n_cells = pooled(self._moment.new_tensor(float(self._cells_encoded)))
        second_moment = pooled(self._moment) / n_cells
        self._moment.zero_()
        self._cells_encoded = 0
        learned = (second_moment, network.loadings, network.log_theta)
        if not all(values.isfinite().all() for values in learned):
            return  # the next loss will say so
        mean, theta = self._log_mean.cpu().double().exp(), network.inverse_dispersion.cpu().double()
        hidden = self.hiding.share.cpu().double()
        steps: dict[str, Any] = {"kept": self._kept_shares(), "hidden_share": hidden}
        scored = scored_share(mean, theta, **steps)
        known = self.n_cells * scored * log_mean_information(mean, theta)
        known[self.molecules == 0] = 0
        before = network.loading_covariance
        covariance = updated_covariance(
            before, network.loadings, second_moment, known, smallest_variance=self.scale**2
        )
        before.copy_(pooled(covariance.to(before)))
        self._precision = None
        known = self.n_cells * scored_information(mean, theta, **steps)
        prior = DispersionPrior(*network.dispersion_prior.tolist())
        trend = updated_trend(prior, theta.log(), mean.log(), known)
        network.dispersion_prior.copy_(pooled(network.dispersion_prior.new_tensor(trend)))
        self._hiding = None  # theta has changed

    @property
    def hiding(self) -> _Hiding:
        """Which genes the steps of an epoch hide, by theta as it was when it began."""
        if self._hiding is None:
            mean, theta = self._log_mean.exp(), self.network.inverse_dispersion.detach()
            scored = scored_share(mean, theta, kept=self._kept_shares())
            share = hidden_share_for(scored, self.config.least_scored)
            of_molecules = float((share * mean).sum() / mean.sum())
            self._hiding = _Hiding(share, of_molecules)
        return self._hiding

    def _kept_shares(self) -> list[float]:
        """Shares of the molecules that steps keep, evenly over their range."""
        ends = self.config.kept_low, self.config.kept_high
        return torch.linspace(*ends, N_SHARES, dtype=torch.float64).tolist()

    def minibatches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """Yield every cell once, shuffled."""
        return shuffled(self.blocks, batch_size, rng)

    def step_loss(self, cells: Minibatch, step: int) -> Tensor:
        """Thinned loss of some cells, per cell."""
        keys = row_keys(cells.cells, step_key(self.config.seed, step, CELLS), self.device)
        block = move_cells(cells.counts, self.batch[cells.cells], self.device, keys=keys)
        self._kept_share = fraction = self._fraction(step)
        hiding = self.hiding
        self.scored_share = 1 - (1 - hiding.of_molecules) * fraction
        kept, thinned = split_block(block, fraction, self._hidden(step))
        z = self.network.encode(kept, hidden_share=hiding.share if hiding.any else None)
        with torch.no_grad():
            self._moment.addmm_(z.T, z)
        self._cells_encoded += block.n_cells
        return self.network.thinned_loss(kept, block.library, thinned, z=z) / block.n_cells

    def _hidden(self, step: int) -> Tensor | None:
        """Genes that a step hides, (genes,) bool; None where none ever is."""
        if not self.hiding.any:
            return None
        key = step_key(self.config.seed, step, HIDDEN_GENES)
        keys = row_keys(np.arange(len(self.molecules)), key, self.device)
        return uniform(keys, 1, HIDDEN_GENES).squeeze(1) < self.hiding.share

    def _fraction(self, step: int) -> float:
        """Share of the molecules to be kept in a step, evenly spread over its range.

        Multiples of the golden ratio, modulo 1, fill the range evenly however many are taken
        (Weyl 1916), so that epochs are alike and their losses can be compared.
        """
        low, high = self.config.kept_low, self.config.kept_high
        return low + (high - low) * (step * GOLDEN_RATIO % 1)

    @torch.no_grad()
    def validation_loss(self) -> float | None:
        """Loss of the withheld molecules of the deciding cells, per cell."""
        if self.held_out is None:
            return None
        if self.validation is None:
            self.validation = list(_validation_blocks(self.held_out, self.device))
        deeper = self.held_out.log_depth
        losses = (self.network.thinned_loss(*block, log_depth=deeper) for block in self.validation)
        return sum(float(loss) for loss in losses) / len(self.held_out.batch)


def _validation_blocks(held: HeldOut, device: torch.device) -> Iterator[_ValidationBlock]:
    """Yield the deciding cells as they are scored after every epoch."""
    for _, part in row_blocks(len(held.batch)):
        kept = cell_block(held.kept, held.batch, part, device)
        full = held.kept[part] + held.counts[part]
        thinned = _measured_entries(full, held.counts[part], 1 - held.fraction, device)
        yield _ValidationBlock(kept, kept.library / (1 - held.fraction), thinned)


def _measured_entries(
    full: sparse.csr_matrix, target: sparse.csr_matrix, fraction: float, device: torch.device
) -> ThinnedBlock:
    """Entries of ``full`` as a thinned block whose target part is ``target``."""
    full = full.tocoo()
    hidden = np.asarray(target[full.row, full.col], dtype=np.float32).ravel()
    move = lambda values: torch.as_tensor(values).to(device)  # noqa: E731
    rows, columns = (move(index.astype(np.int64)) for index in (full.row, full.col))
    return ThinnedBlock(rows, columns, move(full.data - hidden), move(hidden), fraction)


class PaperObjective:
    """The variational lower bound of the paper (eq. 19-22), in nats per cell.

    ::

        - [ E log p(X | Z_N, Z_M) + E log p(A | Z_N) - KL(Z_M) - KL(Z_N) ] / cells
        + L2 / 2 x (sum of squared encoder weights)

    Each term is the full sum of eq. 19; a minibatch stands for its share of the cells.
    Eq. 22 divides every term by a different number, which would weigh the KL of a cell
    genes / latent times its share and switch the latent space off.
    """

    def __init__(
        self,
        network: PaperNetwork,
        counts: sparse.csr_matrix,
        batch: Indices,
        config: Config,
        *,
        device: torch.device,
        log_normalized: sparse.csr_matrix,
        adjacency: sparse.csr_matrix,
        normalized_adjacency: sparse.csr_matrix,
        validation: Indices,
    ) -> None:
        self.decoder, self.config, self.device = network, config, device
        self.training = np.setdiff1d(np.arange(counts.shape[0]), validation)
        self.validation, self.counts, self.batch = validation, counts, batch
        self.blocks = MemoryBlocks(counts[self.training])
        self.scored_share = 1.0
        self.n_cells, self.n_genes = len(self.training), counts.shape[1]
        self.genes = torch.arange(self.n_genes, device=device)
        self.gene_encoder = GeneEncoder(
            self.n_cells, config.n_hidden, config.n_latent, config.dropout_rate
        ).to(device)
        self.both = torch.nn.ModuleDict({"decoder": network, "gene_encoder": self.gene_encoder})
        self.expression = _standardized_genes(log_normalized[self.training], device)
        self.normalized_adjacency = FixedMatrix.of(normalized_adjacency, device)
        upper = sparse.triu(adjacency, k=1).tocoo()
        self.edges = torch.as_tensor(np.stack([upper.row, upper.col])).long().to(device)
        self.edge_keys = torch.sort(self.edges[0] * self.n_genes + self.edges[1]).values
        self.n_pairs = self.n_genes * (self.n_genes - 1) / 2

    @property
    def network(self) -> torch.nn.Module:
        """The network together with the gene encoder, which is dropped after training."""
        return self.both

    def parameter_groups(self) -> list[dict[str, Any]]:
        """All weights at the learning rate."""
        return [{"params": list(self.network.parameters())}]

    def add_prior_gradient(self) -> None:
        """Nothing: L2 is part of the loss."""

    @torch.no_grad()
    def end_epoch(self, pooled: Pooled = alone) -> None:
        """Keep the gene embeddings, and the graph they imply, that cells are judged with."""
        gene_mean, _ = self.gene_encoder(self.expression, self.normalized_adjacency)
        self.decoder.freeze_genes(gene_mean)

    def minibatches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """Yield every training cell once, shuffled."""
        return shuffled(self.blocks, batch_size, rng)

    def step_loss(self, cells: Minibatch, step: int) -> Tensor:
        """Negative lower bound of a minibatch, per cell, plus the L2 penalty."""
        seed, batch = self.config.seed, self.batch[self.training[cells.cells]]
        cell_keys = row_keys(cells.cells, step_key(seed, step, CELLS), self.device)
        gene_keys = row_keys(self.genes, step_key(seed, step, GENES), self.device)
        pair_key = step_key(seed, step, PAIRS)
        block = move_cells(cells.counts, batch, self.device, keys=cell_keys)
        gene_mean, gene_log_variance = self.gene_encoder(
            self.expression, self.normalized_adjacency, gene_keys
        )
        z_gene = _sample(gene_mean, gene_log_variance, gene_keys)  # (genes, latent)
        posterior = self.decoder.encode(block, self.decoder.reconstruct_edges(z_gene))
        z_cell = _sample(posterior.mean, posterior.log_variance, cell_keys)  # (cells, latent)
        predicted = self.decoder.decode(z_cell, z_gene, block.library)
        per_cell = _block_nll(predicted, block)
        per_cell = per_cell + gaussian_kl(posterior.mean, posterior.log_variance).sum()
        genes = self._edge_loss(z_gene, pair_key)
        genes = genes + gaussian_kl(gene_mean, gene_log_variance).sum()
        return per_cell / block.n_cells + genes / self.n_cells + self._l2()

    @torch.no_grad()
    def validation_loss(self) -> float | None:
        """Expression likelihood of the withheld cells plus edge cross-entropy, per cell.

        With the genes as they were when the last epoch ended.
        """
        if not len(self.validation):
            return None
        total = 0.0
        for _, part in row_blocks(len(self.validation)):
            block = cell_block(self.counts, self.batch, self.validation[part], self.device)
            total += float(_block_nll(self.decoder.expression(block), block))
        same = step_key(0, 0, PAIRS)  # the same non-edges every epoch
        edges = float(self._edge_loss(self.decoder.gene_mean, same)) / self.n_cells
        return total / len(self.validation) + edges

    def _edge_loss(self, z_gene: Tensor, key: int) -> Tensor:
        """Cross-entropy of all gene pairs, from all edges and as many non-edges, by ``key``."""
        n_sample = max(1000, self.edges.shape[1])
        drawn = uniform(row_keys(np.arange(2), key, self.device), n_sample, PAIRS)
        pairs = (drawn * self.n_genes).long()
        pairs = torch.stack([pairs.amin(0), pairs.amax(0)])
        keys = pairs[0] * self.n_genes + pairs[1]
        is_edge = torch.isin(keys, self.edge_keys, assume_unique=False)
        non_edges = pairs[:, (pairs[0] != pairs[1]) & ~is_edge]
        return self.n_pairs * edge_cross_entropy(
            z_gene, self.edges, non_edges, n_pairs=self.n_pairs
        )

    def _l2(self) -> Tensor:
        decoder, encoder = self.decoder, self.gene_encoder
        weights = (
            encoder.hidden.weight,
            encoder.posterior.weight,
            decoder.cell_graph_layer.weight,
            decoder.cell_hidden.weight,
            decoder.cell_posterior.weight,
        )
        return 0.5 * self.config.l2 * torch.stack([w.square().sum() for w in weights]).sum()


def _standardized_genes(
    values: sparse.csr_matrix, device: torch.device
) -> Tensor | StandardizedMatrix:
    """Transpose of (cells, genes), every gene standardised, on the device; dense if faster."""
    by_genes = sparse.csr_matrix(values.T)
    if by_genes.nnz <= DENSE_ABOVE * by_genes.shape[0] * by_genes.shape[1]:
        return StandardizedMatrix.of(by_genes, device)
    mean, deviation = (moment.astype(np.float32) for moment in row_moments(by_genes))
    dense = by_genes.astype(np.float32).toarray()
    dense -= mean
    dense /= deviation
    # a copy: matrix products give the same bits only for the same alignment of memory, which
    # torch's own allocations keep and numpy's do not
    return torch.tensor(dense, dtype=torch.float32, device=device)


def _sample(mean: Tensor, log_variance: Tensor, keys: Tensor) -> Tensor:
    """Reparameterised draw from N(mean, exp(log_variance)), each (rows, latent)."""
    noise = normal(keys, mean.shape[1]).to(mean.dtype)
    return mean + noise * (0.5 * log_variance).exp()


def _block_nll(predicted: CountDistribution, block: CellBlock) -> Tensor:
    mean, theta, logits = predicted
    return block_nll(mean, theta, logits, block.rows(), block.genes, block.counts)
