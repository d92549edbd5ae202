"""How far the genes of a trained model follow the state of the cell, weighed by the evidence.

And how well the counts determine it. The test itself needs no network
(:mod:`graphsci.training.predictability`); here it meets one.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import sparse

from graphsci.nn import cell_blocks
from graphsci.nn.mean_uncertainty import information_of_entries
from graphsci.nn.model import CountNetwork
from graphsci.training import predictability
from graphsci.training.objectives import BATCH_SCALE


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
        here = information_of_entries(network.expression(block, z=z)).double()
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
