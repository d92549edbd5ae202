"""What a trained model's genes have to do with the state of the cell: tested, then weighed.

And how well the counts determine it.

The statistics are in :mod:`graphsci.training.predictability`; here they meet the network.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse

from graphsci.nn import cell_blocks
from graphsci.nn.cell_random import TEST_SPLITS, row_keys, step_key
from graphsci.nn.mean_uncertainty import log_mean_information
from graphsci.nn.model import CountNetwork, split_block
from graphsci.nn.model_parts import CellBlock
from graphsci.preprocessing import library_sizes
from graphsci.training import predictability
from graphsci.training.objectives import BATCH_SCALE

#: Random halvings of the molecules behind the test of a gene's variation. With one, which genes
#: pass depends on luck; ten instead of four change nothing (benchmarks/lab).
_TEST_SPLITS = 4


def variation_p_values(
    network: CountNetwork,
    counts: sparse.csr_matrix,
    held_out: sparse.csr_matrix | None,
    batch: NDArray[np.int64],
    *,
    n_batches: int,
    seed: int,
    unseen: Sequence[NDArray[np.int64]] = (),
) -> NDArray[np.float64]:
    """Whether each gene varies with the state of the cell: p-values, (1 + len(unseen), genes).

    Half of the molecules of every cell are encoded, and the other half are tested for
    dependence on that embedding (:func:`graphsci.training.predictability.p_values`), in several
    random splits. The test needs no loadings, so nothing fitted to a gene speaks for it. The
    encoder, however, was trained on both halves: directions of the embedding are left out that
    fail on withheld molecules (:func:`graphsci.training.predictability.real_directions`).

    Parameters
    ----------
    counts
        (cells, genes) molecules that training saw, of all cells or of a sample.
    held_out
        (cells, genes) molecules withheld from training, in some of the cells or in all; None
        takes every direction for real.
    batch
        (cells,) 0 to ``n_batches`` - 1.
    seed
        Of the splits.
    unseen
        Cells, as positions: the further rows are found without their withheld molecules, so
        that these can judge the outcome.

    Notes
    -----
    Costs five passes of the encoder, one more for each of ``unseen``; memory for
    genes x (latent + batches + 2) float64.
    """
    scores = _Scores(network.eval(), batch, n_batches, _directions(network, counts))
    cells = np.flatnonzero(counts.getnnz(axis=1))
    if not len(cells):
        return np.ones((1 + len(unseen), counts.shape[1]))
    splits = [
        scores.of_halves(counts, cells, step_key(seed, n, TEST_SPLITS)) for n in range(_TEST_SPLITS)
    ]
    withholding = cells[:0]
    if held_out is not None:
        withholding = cells[held_out.getnnz(axis=1)[cells] > 0]

    def without(left_out: NDArray[np.int64]) -> NDArray[np.float64]:
        """Find the p-values with the directions that hold on molecules of the other cells."""
        seen, used = np.setdiff1d(withholding, left_out), splits
        if held_out is not None and len(seen):
            withheld = scores.of_withheld(counts, held_out, seen)
            real = predictability.real_directions(withheld, splits[0], n_nuisance=n_batches + 2)
            regressors = np.append(np.ones(n_batches + 2, dtype=bool), real)
            used = [sums.along(regressors) for sums in splits]
        p_values = [predictability.p_values(sums, n_nuisance=n_batches + 2) for sums in used]
        return predictability.combine_p_values(np.stack(p_values))

    return np.stack([without(left_out) for left_out in (cells[:0], *unseen)])


def _directions(network: CountNetwork, counts: sparse.csr_matrix) -> NDArray[np.float64]:
    """Principal directions of the loadings, (latent, latent): what is real apart from noise."""
    with torch.inference_mode():
        loadings = network.gene_embedding().numpy(force=True).astype(np.float64)
    share = np.asarray(counts.sum(0)).ravel() / max(counts.sum(), 1.0)
    directions: NDArray[np.float64] = np.linalg.eigh((loadings.T * share) @ loadings)[1]
    return directions


class _Scores(NamedTuple):
    """What some molecules of the cells, encoded, say of others."""

    network: CountNetwork
    batch: NDArray[np.int64]  # (cells,)
    n_batches: int
    directions: NDArray[np.float64]  # (latent, directions) of the embedding

    def of_halves(
        self, counts: sparse.csr_matrix, cells: NDArray[np.int64], key: int
    ) -> predictability.ScoreSums:
        """Halve the molecules of every cell at random; what one half says of the other."""

        def part(chosen: NDArray[np.int64]) -> predictability.ScoreSums:
            keys = row_keys(chosen, key, self._device)
            block = cell_blocks.move_cells(
                counts[chosen], self.batch[chosen], self._device, keys=keys
            )
            kept, target = _halves(block, counts.shape[1])
            return self._sums(kept, target, block.library.numpy(force=True))

        return self._over(cells, part)

    def of_withheld(
        self, counts: sparse.csr_matrix, held_out: sparse.csr_matrix, cells: NDArray[np.int64]
    ) -> predictability.ScoreSums:
        """What ``counts``, which training saw, say of the molecules ``held_out``."""

        def part(chosen: NDArray[np.int64]) -> predictability.ScoreSums:
            block = cell_blocks.move_cells(counts[chosen], self.batch[chosen], self._device)
            target = held_out[chosen].astype(np.float64)
            library = block.library.numpy(force=True) + library_sizes(target)
            return self._sums(block, target, library)

        return self._over(cells, part)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    @staticmethod
    def _over(
        cells: NDArray[np.int64], part: Callable[[NDArray[np.int64]], predictability.ScoreSums]
    ) -> predictability.ScoreSums:
        parts = (part(cells[rows]) for _, rows in cell_blocks.row_blocks(len(cells)))
        return functools.reduce(predictability.ScoreSums.plus, parts)

    @torch.inference_mode()
    def _sums(
        self, encoded: CellBlock, target: sparse.csr_matrix, library: NDArray[np.float64]
    ) -> predictability.ScoreSums:
        """``target`` (cells, genes); ``library`` (cells,) of both."""
        z = self.network.encode(encoded).numpy(force=True).astype(np.float64)
        batch = encoded.batch.numpy(force=True)
        known = predictability.nuisance(library.astype(np.float64), batch, n_batches=self.n_batches)
        return predictability.score_sums(target, np.column_stack([known, z @ self.directions]))


@torch.inference_mode()
def _halves(block: CellBlock, n_genes: int) -> tuple[CellBlock, sparse.csr_matrix]:
    """Split the molecules of a block in halves: one to be encoded, the other as a matrix."""
    kept, thinned = split_block(block, 0.5)
    arrays = (tensor.numpy(force=True) for tensor in (thinned.target, block.genes, block.offsets))
    target, genes, offsets = arrays
    return kept, sparse.csr_matrix(
        (target.astype(np.float64), genes, offsets), shape=(block.n_cells, n_genes)
    )


def mean_shares(
    counts: sparse.csr_matrix,
    batch: NDArray[np.int64],
    gene_proportions: NDArray[np.float32],
    *,
    n_batches: int,
) -> NDArray[np.float64]:
    """Share that a gene has in every cell of a batch if it follows no state; (batches, genes).

    Its share of the batch's molecules; among several batches with a Gamma prior of shape 1 around
    the share over all of them, so that a batch with few molecules says little.

    Parameters
    ----------
    counts
        (cells, genes) molecules that training saw, of all cells or of a sample.
    batch
        (cells,) of these cells, 0 to ``n_batches`` - 1.
    gene_proportions
        (genes,) share of each gene in all molecules.

    Notes
    -----
    Under ZINB these are shares of what was measured, and dropout takes from genes of few
    molecules more than from others. Shares before dropout would need the fitted curve where no
    gene has shown it: on Splat's counts that erred by more, and upwards (benchmarks/lab).
    """
    shares = np.tile(gene_proportions.astype(np.float64), (n_batches, 1))
    if n_batches == 1:
        return shares
    for number, share in enumerate(shares):
        molecules = np.asarray(counts[batch == number].sum(0), dtype=np.float64).ravel()
        share *= (molecules + 1) / (share * molecules.sum() + 1)
        share /= share.sum()
    return shares


def weigh_evidence(
    network: CountNetwork,
    p_values: NDArray[np.float64],
    shares: NDArray[np.float64],
    *,
    level: float,
) -> tuple[str, ...]:
    """Let genes follow the cell's state as far as there is evidence; note how many have none.

    ``shares`` are :func:`mean_shares`; ``level`` is the least one of the test,
    ``config.variation_level``.
    """
    level = predictability.level_for(p_values, level)
    weights = predictability.state_weights(p_values, level)
    network.weigh_state(torch.from_numpy(weights), torch.from_numpy(shares))
    n_without = int((weights <= predictability.UNPROVEN).sum())
    if not n_without:
        return ()
    note = (
        f"estimates: {n_without:,} of {len(p_values):,} genes show no predictable variation "
        f"(score test at level {level:.2g}) and keep their mean share in each cell, "
        f"but for {predictability.UNPROVEN:.0%} of what was fitted"
    )
    if network.zero_inflated:
        note += (
            "; it is their share of what was measured, so that where dropout took most of a gene "
            "its estimates are too low, and their intervals miss"
        )
    return (note,)


@torch.no_grad()
def learn_uncertainty(
    network: CountNetwork,
    counts: sparse.csr_matrix,
    batch: NDArray[np.int64],
    p_values: NDArray[np.float64],
    *,
    molecules: NDArray[np.float64],
    n_cells: int,
    level: float,
) -> None:
    """Let a network with weighed genes know what its training counts leave open.

    Costs one pass of the encoder and of the decoder.

    Parameters
    ----------
    counts
        (cells, genes) molecules that training saw, of all cells or of a sample.
    batch
        (cells,) of these cells.
    p_values
        (genes,) of the test of variation.
    molecules
        (genes,) of each gene in all ``n_cells`` cells of training.
    level
        ``config.variation_level``; with 1 no gene is asked for evidence.
    """
    network.eval()
    moment = torch.zeros_like(network.loading_covariance)
    known = torch.zeros_like(network.mean_share, dtype=torch.float64)  # (batches, genes)
    for _, rows in cell_blocks.row_blocks(counts.shape[0]):
        block = cell_blocks.cell_block(counts, batch, rows, moment.device)
        z = network.encode(block)
        states = z.to(moment)
        moment += states.T @ states
        here = log_mean_information(network.expression(block, z=z)).double()
        known += F.one_hot(block.batch, len(known)).double().T @ here
    network.uncertainty.learn(
        information=known * (n_cells / counts.shape[0]),
        molecules=torch.from_numpy(molecules).clamp_min(0.5),
        n_cells=n_cells,
        loadings=network.gene_embedding() * network.state_weight[:, None],
        loading_covariance=network.loading_covariance,
        second_moment=moment / counts.shape[0],
        probability=torch.from_numpy(predictability.state_probability(p_values, level)),
        batch_scale=BATCH_SCALE,
    )
