"""Estimates as of a common batch: the rates that cells would have in another batch than their own.

An entry's departure from what was expected of it in its own batch, lambda / mu, is of the cell, and
what the named batch expects of it, mu', takes the place of mu::

    lambda' = lambda mu' / mu,      E[lambda' | x] = (x + theta) mu' / (mu + theta)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphsci import estimates as es
from graphsci._words import similar_names
from graphsci.nn.model import CountNetwork, Network
from graphsci.nn.model_parts import CellBlock

if TYPE_CHECKING:
    from graphsci._imputing.estimating import Cells
    from graphsci.training.fitting import Fitted

#: Batches of fewer cells have no mean state to speak of.
_FEWEST = 20
#: A difference of batches (sd of the log) that is left deserves a warning if it is larger than the
#: first, and than this part of what it was.
_LEFT, _PART_LEFT = 0.1, 0.25
#: A mean is taken for this much at least where it is divided by: with any other mean and count the
#: quotient stays a number of float32.
_SMALLEST = 1e-30


def check_as_batch(name: str | None, known: Sequence[str]) -> None:
    """Refuse a batch that is none of those ``known`` to the model."""
    if name is None or name in known:
        return
    if not known:
        raise ValueError(
            f"as_batch (--as-batch): got {name!r}, but the model knows of no batches. Train with "
            "batch_key (--batch-key) and two batches or more, or leave as_batch out."
        )
    raise ValueError(
        f"as_batch (--as-batch): there is no batch {name!r}{similar_names(name, pd.Index(known))}; "
        f"the model knows {', '.join(known)}."
    )


class InBatch(NamedTuple):
    """Some entries in a named batch, (cells, genes) each."""

    mean: Tensor  #: mu', before dropout
    times: Tensor  #: mu' / mu; 1 in cells of the batch itself

    def of(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Bring estimates of the entries in their own batches to the named one."""
        times = self.times.numpy(force=True)
        return {
            name: self.mean.numpy(force=True) if name == "mean" else value * times
            for name, value in values.items()
        }


def in_batch(
    network: Network, cells: CellBlock, z: Tensor, code: int, rate: es.Posterior, genes: Tensor
) -> tuple[InBatch, es.Posterior]:
    """Predict entries in the batch ``code``; with them the rates, as uncertain as there.

    Parameters
    ----------
    network
        Trained with batches.
    cells, z
        In their own batches, and their embedding (cells, latent).
    code
        Number of the named batch.
    rate
        Of the entries (cells, genes) in their own batches.
    genes
        Positions of these genes in the model.
    """
    assert isinstance(network, CountNetwork)
    there = cells._replace(batch=torch.full_like(cells.batch, code))
    mean = network.expression(there, z=z).mean.index_select(1, genes)
    times = mean / rate.mean.clamp_min(_SMALLEST)
    at_home = (cells.batch == code)[:, None]
    if rate.log_mean_variance is not None:
        levels = network.uncertainty.by_level[:, genes]
        of_own, of_named = levels.index_select(0, cells.batch), levels[code]
        moved = log_mean_variance(rate, of_own, of_named)
        rate = rate._replace(log_mean_variance=torch.where(at_home, rate.log_mean_variance, moved))
    return InBatch(mean, times.masked_fill(at_home, 1.0)), rate


def log_mean_variance(rate: es.Posterior, of_own: Tensor, of_named: Tensor) -> Tensor:
    """Variance of log mu with which `denoised` is as uncertain as in the named batch.

    The levels of a gene in two batches are uncertain by V and V', each for itself: what they may
    share is left out, so that this is rather too much. With D the mean of lambda' and c its part
    that follows the count, D changes by D - c mu / (mu + theta) with what both batches share of log
    mu (variance q - V), by D with the named level and by -c mu / (mu + theta) with the own one.

    Parameters
    ----------
    rate
        Of the entries in their own batches, with q.
    of_own, of_named
        V and V', (cells, genes) or what broadcasts to it.
    """
    assert rate.log_mean_variance is not None
    counted, total = es.expected_measured(rate), rate.mean + rate.theta
    by_own = counted * rate.mean / total
    by_both = counted * rate.theta / total
    if rate.dropped is not None:
        by_both = by_both + rate.dropped * rate.mean
    least = by_both.clamp_min(_SMALLEST)
    relative = ((by_both + by_own) / least).square() * of_named + (by_own / least).square() * of_own
    return (rate.log_mean_variance - of_own).clamp_min(0) + relative


def left_note(
    fitted: Fitted, cells: Cells, embedding: NDArray[np.floating], as_batch: str | None
) -> str | None:
    """What to say if batches still differ as of one by much of what they did before; else None.

    The model's profiles of the batches' mean states are compared: each in its own batch, and all
    in the named one.

    Parameters
    ----------
    fitted, cells
        The model, and what it was applied to.
    embedding
        (cells, latent) coordinates of the cells, as they are reported.
    as_batch
        The batch that estimates are as of; nothing is said without one.
    """
    if as_batch is None:
        return None
    network, batch = fitted.network, cells.batch
    assert isinstance(network, CountNetwork)
    code = fitted.spec.batch_names.index(as_batch)
    codes = [own for own in np.unique(batch) if (batch == own).sum() >= _FEWEST]
    if len(codes) < 2:
        return None
    states = network.uncertainty.states
    with torch.inference_mode():
        means = np.stack([embedding[batch == own].mean(0) for own in codes])
        z = states.to_z(torch.as_tensor(means).to(network.bias))
        own = torch.as_tensor(np.array(codes), device=z.device)
        before, left = (
            _spread(network.decode(z, torch.ones_like(z[:, 0]), part).mean)
            for part in (own, torch.full_like(own, code))
        )
    if left <= max(_LEFT, _PART_LEFT * before):
        return None
    return (
        f"As of batch {as_batch!r} the mean profiles of the batches still differ by {left:.2g} (sd "
        f"of the log over molecules; each in its own batch: {before:.2g}). What is left are cells "
        "of other types or states, or what the states took up of strong batch differences, which "
        "as_batch does not take out (docs/method.md, 'As of one batch')."
    )


def _spread(profiles: Tensor) -> float:
    """How far the logarithms of ``profiles`` (batches, genes) differ, over molecules."""
    weight = profiles.mean(0) / profiles.mean(0).sum()
    return float((profiles.clamp_min(_SMALLEST).log().var(0) * weight).sum().sqrt())
