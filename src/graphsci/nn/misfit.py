"""How far the counts of a cell are from what the model predicts for it.

The state of a cell says what its genes express as far as the model has seen such cells. A cell of a
type that training lacked gets the state of the nearest one that there was, and its own genes are
taken for noise: nothing in the state itself says so, but the counts do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
#: Cells that the limits are taken from, those needed, and the share of them within.
_LIMIT_CELLS, _FEWEST_CELLS, _LIMIT_SHARE = 1_000, 60, 0.99
#: Depths that the limits are of, times that of the training cells.
LIMIT_DEPTHS = (1.0, 1 / 4, 1 / 16, 1 / 64)


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


def misfit_limits(
    network: Network, counts: sparse.csr_matrix, batch: NDArray[np.int64], *, seed: int
) -> tuple[float, ...]:
    """What 99 of 100 cells stay within, at each of :data:`LIMIT_DEPTHS` times their depth.

    Of the training cells, and of cells that the model makes in their place, whichever is more:
    those of training are better known to the network than any others of their kind. The state of
    shallower cells is known less well, and theirs may be more: of both, molecules are taken away.
    NaN with fewer than 60 cells with molecules, which say little of others.

    Parameters
    ----------
    counts, batch
        (cells, genes) of training, and (cells,).
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.flatnonzero(np.diff(counts.indptr)))[:_LIMIT_CELLS]
    if len(chosen) < _FEWEST_CELLS:
        return (math.nan,) * len(LIMIT_DEPTHS)
    device = next(network.parameters()).device
    found: list[list[NDArray[np.float32]]] = []  # blocks, then seen and made at every depth
    with torch.inference_mode():
        for _, rows in cell_blocks.row_blocks(len(chosen)):
            own, places = counts[chosen[rows]], batch[chosen[rows]]
            made = _drawn(_predicted(network, own, places, device)[0], rng)
            found.append(
                [
                    _predicted(network, _thinned(cells, depth, rng), places, device)[1]
                    for depth in LIMIT_DEPTHS
                    for cells in (own, made)
                ]
            )
    parts = (np.concatenate(blocks) for blocks in zip(*found, strict=True))
    limits = [float(np.nanquantile(part, _LIMIT_SHARE)) for part in parts]
    return tuple(max(pair) for pair in zip(limits[::2], limits[1::2], strict=True))


def limit_at(limits: Sequence[float], depth: NDArray[np.floating]) -> NDArray[np.floating]:
    """Limits of cells with ``depth`` times the usual depth of training, (cells,).

    Between the :data:`LIMIT_DEPTHS` linear in log depth, beyond them that of the last.
    """
    known, places = np.log(LIMIT_DEPTHS[::-1]), np.log(np.maximum(depth, LIMIT_DEPTHS[-1]))
    return np.interp(places, known, limits[::-1])


def _thinned(
    counts: sparse.csr_matrix, share: float, rng: np.random.Generator
) -> sparse.csr_matrix:
    """Counts of which each molecule is kept with some probability."""
    if share == 1:
        return counts
    kept = rng.binomial(np.rint(counts.data).astype(np.int64), share).astype(np.float32)
    return sparse.csr_matrix((kept, counts.indices, counts.indptr), shape=counts.shape)


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
