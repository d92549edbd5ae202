"""One training loop, two objectives.

An objective knows a network and its data: which minibatches an epoch has, what a step costs,
and how good the weights are on what was withheld. The loop steps, keeps the best weights,
stops early, and can be interrupted without losing them. Everything that changes on the way is in
:class:`TrainingState`, which :mod:`graphsci.checkpoint` writes and reads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from graphsci.blocks import CountBlocks, MemoryBlocks, Minibatch, shuffled
from graphsci.cell_random import CELLS, GENES, PAIRS, normal, row_keys, step_key, uniform
from graphsci.config import Config
from graphsci.likelihood import (
    ThinnedBlock,
    block_nll,
    edge_cross_entropy,
    gaussian_kl,
)
from graphsci.loading_prior import information, loading_scale_for, updated_covariance
from graphsci.model import CountNetwork, split_block
from graphsci.model_parts import CellBlock, CountDistribution
from graphsci.paper_model import GeneEncoder, PaperNetwork
from graphsci.sparse_product import DENSE_ABOVE, FixedMatrix

Indices = NDArray[np.int64]

#: Cells per block where no gradient is needed: large enough for the matrix products, small
#: enough that means and theta of 30,000 genes take 60 MiB each; a quarter of a chunk that is read.
EVALUATION_CELLS = 500
#: theta starts at 1 for every gene and has far to go (a Poisson-like gene to 100 or more)
#: in logarithmic steps, so it learns faster than the weights. Measured in benchmarks/lab.
THETA_RATE = 5.0
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
#: Fewest and most optimiser steps of a run whose number of epochs is chosen for it; more than
#: these gain nothing with 30,000 simulated cells (benchmarks/lab).
STEPS = (600, 6_000)


class EpochRecord(NamedTuple):
    """What one epoch did."""

    epoch: int  #: from 1
    training_loss: float  #: nats per cell, as if all of its molecules had been predicted
    validation_loss: float  #: nats per cell on withheld data; nan without validation
    learning_rate: float
    seconds: float  #: since training began


class TrainingResult(NamedTuple):
    """How training went; the network holds the best weights."""

    history: list[EpochRecord]
    best_epoch: int
    stopped: str  #: "finished", "no improvement" or "interrupted"


class Progress(Protocol):
    """Called after every epoch with the number of epochs planned."""

    def __call__(self, record: EpochRecord, n_epochs: int) -> None:
        """Report an epoch."""


class Checkpoint(Protocol):
    """Keeps the state of training on disk."""

    def restore(self, state: TrainingState) -> None:
        """Bring ``state`` to where an earlier run left off, if there was one."""

    def offer(self, state: TrainingState) -> None:
        """Take ``state`` at the end of an epoch; keep it if it is time to."""


class Objective(Protocol):
    """What the loop needs to know of a model and its data."""

    n_cells: int
    scored_share: float  #: share of a cell's molecules that the last step's loss covers

    @property
    def network(self) -> torch.nn.Module:
        """What is trained; its weights are kept and restored."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters for the optimiser.

        ``rate`` multiplies a group's learning rate. With ``precision``, its weights are
        N(0, 1 / precision) a priori, which adds precision / 2 x (sum of their squares) to the
        loss per cell, times ``scored_share``.
        """
        ...

    def minibatches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """Yield every training cell once, shuffled; see :func:`graphsci.blocks.shuffled`."""
        ...

    def step_loss(self, cells: Minibatch, step: int) -> Tensor:
        """Loss of a minibatch in the run's ``step`` (from 1), in nats per cell."""
        ...

    def add_prior_gradient(self) -> None:
        """Add to the gradients of a step those of priors that ``precision`` cannot express."""
        ...

    def learn_prior(self, pooled: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        """Update at the end of an epoch what is learned of a prior.

        ``pooled`` averages a tensor over the processes that train together.
        """
        ...

    def validation_loss(self) -> float | None:
        """Loss on withheld data, in nats per cell; None if nothing was withheld."""
        ...


def n_epochs_for(n_cells: int, batch_size: int, max_epochs: int = 0) -> int:
    """Passes over the cells: ``max_epochs`` if given, else by the number of steps.

    40 passes suffice for thousands of cells; few cells need more passes to make enough steps,
    many cells fewer, but never fewer than 4.
    """
    if max_epochs:
        return max_epochs
    steps_per_epoch = max(1, n_cells // batch_size)
    n_steps = np.clip(40 * steps_per_epoch, *STEPS)
    return max(4, math.ceil(n_steps / steps_per_epoch))


def batch_size_for(n_cells: int, config: Config) -> int:
    """Cells per step: as configured, else an eighth (`paper`: a twentieth), from 32 to 128."""
    steps_per_epoch = 8 if config.preset == "default" else 20
    chosen = config.batch_size or int(np.clip(n_cells // steps_per_epoch, 32, 128))
    return min(chosen, n_cells)


def row_blocks(n_cells: int) -> Iterator[tuple[int, Indices]]:
    """Yield the start and the positions of blocks of cells, for work without a gradient."""
    for start in range(0, n_cells, EVALUATION_CELLS):
        yield start, np.arange(start, min(start + EVALUATION_CELLS, n_cells))


def cell_block(
    counts: sparse.csr_matrix, batch: Indices, cells: Indices, device: torch.device
) -> CellBlock:
    """Move some cells of a CSR matrix to the device.

    ``counts`` (all cells, genes) float32; ``batch`` (all cells,); ``cells`` positions.
    """
    return move_cells(counts[cells], batch[cells], device)


def move_cells(
    part: sparse.csr_matrix, batch: Indices, device: torch.device, *, keys: Tensor | None = None
) -> CellBlock:
    """Move cells to the device: counts (cells, genes) and batches (cells,); add their keys."""
    library = np.asarray(part.sum(1), dtype=np.float32).ravel()
    arrays = (part.indptr, part.indices, part.data, library, batch)
    kinds = (torch.int64, torch.int64, torch.float32, torch.float32, torch.int64)
    tensors = [
        torch.as_tensor(array).to(device=device, dtype=kind)
        for array, kind in zip(arrays, kinds, strict=True)
    ]
    return CellBlock(*tensors)._replace(keys=keys)


def train(
    objective: Objective,
    config: Config,
    *,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> TrainingResult:
    """Minimise an objective; leave the best weights in its network.

    Ctrl-C ends training at once and keeps the best weights so far; before the end of the first
    epoch there are none, and the interrupt goes on to the caller.

    Parameters
    ----------
    objective
        Network and data.
    config
        Epochs, batch size, learning rate, patience and seed.
    progress
        Called after every epoch.
    checkpoint
        Where the state is kept; a run that goes on from it gives the same weights, bit by
        bit, as one that was never stopped.

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    """
    batch_size = batch_size_for(objective.n_cells, config)
    n_epochs = n_epochs_for(objective.n_cells, batch_size, config.max_epochs)
    steps_per_epoch = max(1, objective.n_cells // batch_size)
    state = TrainingState(objective, config, n_steps=n_epochs * steps_per_epoch)
    if checkpoint is not None:
        checkpoint.restore(state)
    before = state.history[-1].seconds if state.history else 0.0
    stopped, start = "finished", time.perf_counter() - before
    try:
        while len(state.history) < n_epochs and not state.patience_ended(config.patience):
            training = _epoch(objective, state, batch_size)
            validation = objective.validation_loss()
            state.record(training, validation, seconds=time.perf_counter() - start)
            if checkpoint is not None:
                checkpoint.offer(state)
            if progress is not None:
                progress(state.history[-1], n_epochs)
        if state.patience_ended(config.patience):
            stopped = "no improvement"
    except KeyboardInterrupt:
        if not state.history:
            raise
        stopped = "interrupted"
    finally:
        state.best.restore()
    objective.network.eval()
    return TrainingResult(state.history, state.best.epoch, stopped)


def _epoch(objective: Objective, state: TrainingState, batch_size: int) -> float:
    """Pass over the cells once; return the training loss, leave the network in eval mode."""
    objective.network.train()
    total, shares = torch.zeros((), dtype=torch.float64), 0.0
    for cells in objective.minibatches(batch_size, state.order):
        state.step += 1
        loss = objective.step_loss(cells, state.step)
        state.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        objective.add_prior_gradient()
        for group in state.optimizer.param_groups:  # adds weight_decay x weight to the gradient
            group["weight_decay"] = group["precision"] * objective.scored_share
        state.optimizer.step()
        state.scheduler.step()
        total = total.to(loss.device) + loss.detach().double()
        shares += objective.scored_share
    objective.network.eval()
    training_loss = float(total) / shares
    if math.isfinite(training_loss):
        objective.learn_prior()
    return training_loss


class TrainingState:
    """Everything that changes while a model is trained.

    The random numbers of a step follow from its number (:mod:`graphsci.cell_random`), so that
    only the order of the cells has a state of its own.

    Attributes
    ----------
    step
        Optimiser steps so far.
    order
        Shuffles the cells of every epoch.
    history
        One record per finished epoch.
    """

    def __init__(self, objective: Objective, config: Config, *, n_steps: int) -> None:
        self.network = objective.network
        self.optimizer, self.scheduler = _optimizer(objective, config, n_steps=n_steps)
        self.order = np.random.default_rng(config.seed)
        self.best = _BestWeights(objective.network)
        self.history: list[EpochRecord] = []
        self.step = 0

    def record(self, training: float, validation: float | None, *, seconds: float) -> None:
        """Note a finished epoch, and its weights if they are the best."""
        epoch, shown = len(self.history) + 1, math.nan if validation is None else validation
        rate = self.optimizer.param_groups[0]["lr"]
        self.history.append(EpochRecord(epoch, training, shown, rate, seconds))
        _refuse_divergence(self.history[-1])
        self.best.consider(epoch, validation)

    def patience_ended(self, patience: int) -> bool:
        """Whether the last ``patience`` epochs brought nothing; 0 is endless patience."""
        return 0 < patience <= len(self.history) - self.best.epoch

    def state_dict(self) -> dict[str, Any]:
        """All of it as nested dicts and lists of tensors and plain values."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "best": {name: getattr(self.best, name) for name in _BestWeights.kept},
            "order": self.order.bit_generator.state,
            "history": [list(record) for record in self.history],
            "step": self.step,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, here or in an earlier run."""
        self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        for name in _BestWeights.kept:
            setattr(self.best, name, saved["best"][name])
        self.order.bit_generator.state = saved["order"]
        self.history = [EpochRecord(*record) for record in saved["history"]]
        self.step = saved["step"]


class _BestWeights:
    """Keeps a copy of the weights of the best epoch; of the last one without validation."""

    kept = ("epoch", "loss", "weights")

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.epoch, self.loss = network, 0, math.inf
        self.weights: dict[str, Tensor] | None = None

    def consider(self, epoch: int, validation_loss: float | None) -> None:
        if validation_loss is None or validation_loss < self.loss:  # false for nan
            self.epoch, self.loss = epoch, math.inf if validation_loss is None else validation_loss
            state = self.network.state_dict()
            self.weights = {name: tensor.detach().clone() for name, tensor in state.items()}

    def restore(self) -> None:
        if self.weights is not None:
            self.network.load_state_dict(self.weights)


def _optimizer(
    objective: Objective, config: Config, *, n_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Adam with the preset's schedule: one cycle, or decay by 0.9 every 50 steps (Fig. S9)."""
    groups = [
        {
            "params": group["params"],
            "lr": config.learning_rate * group.get("rate", 1.0),
            "precision": group.get("precision", 0.0),
        }
        for group in objective.parameter_groups()
    ]
    optimizer = torch.optim.Adam(groups, fused=True)
    if config.preset == "paper":
        decay: Callable[[int], float] = lambda step: 0.9 ** (step / 50)  # noqa: E731
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, decay)
    peaks = [group["lr"] for group in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, peaks, total_steps=n_steps + 1, pct_start=0.3
    )
    return optimizer, schedule


def _refuse_divergence(record: EpochRecord) -> None:
    if not math.isfinite(record.training_loss):
        raise FloatingPointError(
            f"The training loss became {record.training_loss} in epoch {record.epoch}. "
            "Try a smaller learning_rate, or float32 precision."
        )


class HeldOut(NamedTuple):
    """The cells that decide when to stop: what training sees of them, and what was withheld."""

    kept: sparse.csr_matrix  #: (cells, genes) their molecules that are trained on
    counts: sparse.csr_matrix  #: (cells, genes) their withheld molecules
    batch: Indices  #: (cells,)
    fraction: float  #: share of a molecule's chance to be withheld


class _ValidationBlock(NamedTuple):
    """Some of the deciding cells: what ``CountNetwork.thinned_loss`` takes."""

    kept: CellBlock
    library: Tensor
    thinned: ThinnedBlock


class ThinningObjective:
    """Split each cell's molecules at random; encode one part, predict the other.

    The loss of a step is the negative log-probability of the predicted part given the
    encoded one, per cell. Weights with a row per gene have a Gaussian prior, worth one
    observation of the whole data set: each of its cells carries 1/cells of it, and as only
    1 - f of the molecules are scored, 1 - f of that. Its gradient joins that of the loss.
    The prior of the loadings is learned (:mod:`graphsci.loading_prior`).

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
        self.scored_share = 1.0
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
        """Weights with a prior of fixed width, others, and what learns faster: theta, the curve."""
        fast = ("log_theta", "dropout_curve", "log_scale", "smoothing.gate")
        regular = ("batch_offset", "input_weight")
        named = dict(self.network.named_parameters())
        rest = [p for name, p in named.items() if name not in (*fast, *regular)]
        return [
            {
                "params": [named[name] for name in regular],
                "precision": 1 / (self.scale**2 * self.n_cells),
            },
            {"params": rest},
            {"params": [p for name, p in named.items() if name in fast], "rate": THETA_RATE},
        ]

    @torch.no_grad()
    def add_prior_gradient(self) -> None:
        """Add S^-1 v of every gene's loadings v, times ``scored_share`` / cells."""
        loadings = self.network.loadings
        assert loadings.grad is not None
        if self._precision is None:
            precision = torch.linalg.inv(self.network.loading_covariance.cpu())
            self._precision = (precision / self.n_cells).to(loadings)
        loadings.grad.addmm_(loadings, self._precision, alpha=self.scored_share)

    @torch.no_grad()
    def learn_prior(self, pooled: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        """Update S from the loadings, and from the embeddings of the epoch's steps."""
        network = self.network
        n_cells = pooled(self._moment.new_tensor(float(self._cells_encoded)))
        second_moment = pooled(self._moment) / n_cells
        self._moment.zero_()
        self._cells_encoded = 0
        if not (second_moment.isfinite().all() and network.loadings.isfinite().all()):
            return  # the next loss will say so
        known = information(
            self.molecules,
            network.inverse_dispersion.cpu().double(),
            n_cells=self.n_cells,
            scored_share=1 - (self.config.kept_low + self.config.kept_high) / 2,
        )
        before = network.loading_covariance
        covariance = updated_covariance(
            before, network.loadings, second_moment, known, smallest_variance=self.scale**2
        )
        before.copy_(pooled(covariance.to(before)))
        self._precision = None

    def minibatches(self, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """Yield every cell once, shuffled."""
        return shuffled(self.blocks, batch_size, rng)

    def step_loss(self, cells: Minibatch, step: int) -> Tensor:
        """Thinned loss of some cells, per cell."""
        keys = row_keys(cells.cells, step_key(self.config.seed, step, CELLS), self.device)
        block = move_cells(cells.counts, self.batch[cells.cells], self.device, keys=keys)
        fraction = self._fraction(step)
        self.scored_share = 1 - fraction
        kept, thinned = split_block(block, fraction)
        z = self.network.encode(kept)
        with torch.no_grad():
            self._moment.addmm_(z.T, z)
        self._cells_encoded += block.n_cells
        return self.network.thinned_loss(kept, block.library, thinned, z=z) / block.n_cells

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
        loss = sum(float(self.network.thinned_loss(*block)) for block in self.validation)
        return loss / len(self.held_out.batch)


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
        self.expression = _by_genes(log_normalized[self.training], device)
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

    def learn_prior(self, pooled: Callable[[Tensor], Tensor] = lambda own: own) -> None:
        """Nothing is learned of it."""

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
        """Expression likelihood of the withheld cells plus edge cross-entropy, per cell."""
        gene_mean, _ = self.gene_encoder(self.expression, self.normalized_adjacency)
        self.decoder.freeze_genes(gene_mean)
        if not len(self.validation):
            return None
        total = 0.0
        for _, part in row_blocks(len(self.validation)):
            block = cell_block(self.counts, self.batch, self.validation[part], self.device)
            total += float(_block_nll(self.decoder.expression(block), block))
        same = step_key(0, 0, PAIRS)  # the same non-edges every epoch
        edges = float(self._edge_loss(gene_mean, same)) / self.n_cells
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


def _by_genes(values: sparse.csr_matrix, device: torch.device) -> Tensor | FixedMatrix:
    """Transpose of (cells, genes) on the device; dense if that is faster."""
    if values.nnz <= DENSE_ABOVE * values.shape[0] * values.shape[1]:
        return FixedMatrix.of(values.T, device)
    # a copy: matrix products give the same bits only for the same alignment of memory, which
    # torch's own allocations keep and numpy's do not
    return torch.tensor(values.T.toarray(), dtype=torch.float32, device=device)


def _sample(mean: Tensor, log_variance: Tensor, keys: Tensor) -> Tensor:
    """Reparameterised draw from N(mean, exp(log_variance)), each (rows, latent)."""
    noise = normal(keys, mean.shape[1]).to(mean.dtype)
    return mean + noise * (0.5 * log_variance).exp()


def _block_nll(predicted: CountDistribution, block: CellBlock) -> Tensor:
    mean, theta, logits = predicted
    return block_nll(mean, theta, logits, block.rows(), block.genes, block.counts)
