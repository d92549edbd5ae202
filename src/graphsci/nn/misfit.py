"""How far the counts of a cell are from what the model predicts for it.

The state of a cell says what its genes express as far as the model has seen such cells. A cell of a
type that training lacked gets the state of the nearest one that there was, and its own genes are
taken for noise: nothing in the state itself says so, but the counts do.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

from graphsci.nn import cell_blocks
from graphsci.nn.model import Network
from graphsci.nn.model_parts import CountDistribution

#: Added to the variance of every entry, so that a single molecule of a rare gene decides nothing.
_FLOOR = 0.1
#: Largest squared residual, so that no single entry does: some genes now and then have tens of
#: molecules where next to none are expected, and a type that is unlike is unlike in many genes.
_CAP = 20.0
#: Cells that the limit is taken from, and the share of them within it.
_LIMIT_CELLS, _LIMIT_SHARE = 1_000, 0.99


def misfit(predicted: CountDistribution, counts: Tensor) -> Tensor:
    """Squared residuals over their expectation, (cells,); about 1 if the model is right.

    With m and v the mean and variance of an entry, dropout included, and c = 0.1::

        sum_g min((x_g - m_g)^2 / (v_g + c), 20)  /  sum_g v_g / (v_g + c)

    NaN for a cell without molecules.

    Parameters
    ----------
    predicted
        Of the entries, (cells, genes).
    counts
        (cells, genes), of the same genes.
    """
    _, squares, weight = _squares(predicted, counts)
    expected = weight.shape[1] - _FLOOR * weight.sum(1)  # v / (v + c) = 1 - c / (v + c)
    return torch.where(counts.any(1), squares.sum(1) / expected, torch.nan)


def gene_misfit(predicted: CountDistribution, counts: Tensor) -> tuple[Tensor, Tensor]:
    """What is predicted of genes in some cells, and how far their counts are off, (genes,) each.

    Sums over the cells of m, and of min((x - m)^2 / (v + c), 20) - v / (v + c), in the notation of
    :func:`misfit`: 0 in the mean if the model is right.
    """
    mean, squares, weight = _squares(predicted, counts)
    return mean.sum(0), squares.sum(0) - len(counts) + _FLOOR * weight.sum(0)


def _squares(predicted: CountDistribution, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means of the entries, their capped squares, and what these were weighed by, 1 / (v + c)."""
    mean, theta, logits = predicted
    variance = mean.div(theta).add_(1).mul_(mean)
    if logits is not None:
        kept = torch.sigmoid(-logits)
        variance = kept * (variance + (1 - kept) * mean.square())
        mean = kept * mean
    weight = variance.add_(_FLOOR).reciprocal_()
    return mean, (counts - mean).square_().mul_(weight).clamp_max_(_CAP), weight


def misfit_limit(
    network: Network, counts: sparse.csr_matrix, batch: NDArray[np.int64], *, seed: int
) -> float:
    """What 99 of 100 cells stay within; (cells, genes) counts of training and (cells,) batch.

    Of the training cells, and of cells that the model makes in their place, whichever is more:
    those of training are better known to the network than any others of their kind.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.flatnonzero(np.diff(counts.indptr)))[:_LIMIT_CELLS]
    device, seen, made = next(network.parameters()).device, [], []
    with torch.inference_mode():
        for _, rows in cell_blocks.row_blocks(len(chosen)):
            own, places = counts[chosen[rows]], batch[chosen[rows]]
            predicted, found = _predicted(network, own, places, device)
            seen.append(found)
            made.append(_predicted(network, _drawn(predicted, rng), places, device)[1])
    limits = [np.nanquantile(np.concatenate(parts), _LIMIT_SHARE) for parts in (seen, made)]
    return float(max(limits))


def _predicted(
    network: Network,
    counts: sparse.csr_matrix,
    batch: NDArray[np.int64],
    device: torch.device,
) -> tuple[CountDistribution, NDArray[np.float32]]:
    """What the network predicts for some cells, and their misfit, (cells,)."""
    block = cell_blocks.cell_block(counts, batch, np.arange(len(batch)), device)
    predicted = network.expression(block)
    dense = block.dense(block.counts, counts.shape[1])
    return predicted, misfit(predicted, dense).numpy(force=True)


def _drawn(predicted: CountDistribution, rng: np.random.Generator) -> sparse.csr_matrix:
    """Counts of cells as the model has them, (cells, genes)."""
    mean, theta, logits = predicted
    shape = theta.expand_as(mean).numpy(force=True).astype(np.float64)
    rate = rng.standard_gamma(shape) * (mean.numpy(force=True) / shape)
    counts = rng.poisson(rate).astype(np.float32)
    if logits is not None:
        counts *= rng.random(counts.shape) < torch.sigmoid(-logits).numpy(force=True)
    return sparse.csr_matrix(counts)
