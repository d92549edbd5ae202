"""Estimates of expression, never confused: `mean`, `denoised`, `imputed`, `imputed_median`.

All start from the distribution of an entry, NB(mu, theta) possibly dropped with probability
pi, and the count x measured there. The rate of the entry is lambda ~ Gamma(shape theta,
mean mu) and its molecules are Poisson(lambda), so given a count that was not dropped
lambda is Gamma(shape x + theta, rate 1 + theta / mu). mu itself is known up to a variance q of its
logarithm.

==================  ====================================================================
``mean``            mu: what the network predicts for the cell; the count itself is not
                    used again
``denoised``        E[lambda | x]: trusts the count where it is informative, the network
                    elsewhere
``imputed``         E[count before dropout | x]: x itself where x > 0; at a zero, the
                    probability that it was dropped times mu. Without dropout (NB) it is
                    the counts.
``imputed_median``  the median of the count before dropout: a zero is filled only where a
                    molecule was there more likely than not
==================  ====================================================================

`imputed_median` has the smallest expected absolute error of all estimates, on counts and on any
scale that keeps their order; `imputed` has the smallest squared error and unbiased totals.

Uncertainty comes with `denoised`: ``denoised_sd`` is the standard deviation of lambda given
x, ``denoised_lower`` and ``denoised_upper`` bound its central interval. Both count the uncertainty
of mu; the estimates themselves take mu as known. Where a rate is all but 0 its distribution is so
skewed that the mean, `denoised`, may lie above the interval.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from graphsci._choices import ESTIMATES as ESTIMATES
from graphsci._choices import Depth, Estimate, Scale
from graphsci._gamma import gamma_quantile
from graphsci.nn.likelihood import nb_log_zero
from graphsci.nn.model_parts import CellBlock, CountDistribution

if TYPE_CHECKING:
    from graphsci.nn.model import Network

MEANINGS = {
    "mean": "expected count (before dropout) of the entry as the network predicts it from the cell",
    "denoised": "posterior mean of the expression rate given the measured count",
    "denoised_sd": "posterior standard deviation of the expression rate",
    "denoised_lower": "lower end of the central posterior interval of the expression rate",
    "denoised_upper": "upper end of the central posterior interval of the expression rate",
    "imputed": "expected count before dropout: measured counts kept, dropped zeros filled",
    "imputed_median": (
        "median count before dropout: measured counts kept, a zero filled where more likely than "
        "not a molecule was dropped"
    ),
}


class Posterior(NamedTuple):
    """The expression rate lambda of every entry given its count, (cells, genes) each.

    A mixture of two Gammas: with probability ``dropped`` the zero says nothing and lambda
    keeps its prior Gamma(theta, mean mu); else it is Gamma(x + theta, rate 1 + theta / mu).
    """

    counts: Tensor  #: x, dense
    mean: Tensor  #: mu
    theta: Tensor  #: theta, broadcastable
    dropped: Tensor | None  #: P(dropped | x); 0 where x > 0; None for NB
    log_mean_variance: Tensor | None = None  #: q, of log mu; None: mu is taken as known


def posterior(
    predicted: CountDistribution, counts: Tensor, log_mean_variance: Tensor | None = None
) -> Posterior:
    """Combine the predicted distribution with the measured ``counts``, all (cells, genes)."""
    mean, theta, logits = predicted
    dropped = None
    if logits is not None:
        # pi / (pi + (1 - pi) NB(0)) = sigmoid(l - log NB(0))
        dropped = torch.sigmoid(logits - nb_log_zero(mean, theta)) * (counts == 0)
    return Posterior(counts, mean, theta, dropped, log_mean_variance)


def posterior_of(network: Network, cells: CellBlock) -> Posterior:
    """Return what a network says of the rates of cells given their counts, all (cells, genes)."""
    z = network.latent(cells)
    predicted = network.expression(cells, z=z)
    dense = cells.dense(cells.counts, predicted.mean.shape[1])
    return posterior(predicted, dense, network.log_mean_variance(z, cells))


def _counted_mean(rate: Posterior) -> Tensor:
    """Posterior mean of lambda where the count was not dropped."""
    return (rate.counts + rate.theta) * (rate.mean / (rate.mean + rate.theta))


def denoised(rate: Posterior) -> Tensor:
    """Posterior mean of lambda: (x + theta) mu / (mu + theta), mixed with mu if dropped."""
    value = _counted_mean(rate)
    if rate.dropped is None:
        return value
    return value + rate.dropped * (rate.mean - value)


def denoised_sd(rate: Posterior) -> Tensor:
    """Posterior standard deviation of lambda.

    Variance (x + theta) [mu / (mu + theta)]^2 given a count; mu^2 / theta given dropout; that of
    the mixture of the two; and, where mu is uncertain, q [d lambda^ / d log mu]^2 with lambda^ the
    mean of each (the law of total variance, to first order in q).
    """
    counted = _counted_mean(rate)
    variance = counted * rate.mean / (rate.mean + rate.theta)
    slope = counted * rate.theta / (rate.mean + rate.theta)
    if rate.dropped is not None:
        between = rate.dropped * (1 - rate.dropped) * (rate.mean - counted).square()
        variance = variance + rate.dropped * (rate.mean.square() / rate.theta - variance) + between
        slope = slope + rate.dropped * (rate.mean - slope)
    if rate.log_mean_variance is not None:
        variance = variance + rate.log_mean_variance * slope.square()
    return variance.sqrt()


def expected_measured(rate: Posterior) -> Tensor:
    """Expected molecules of a repeated measurement: a dropped entry gives none again."""
    value = _counted_mean(rate)
    return value if rate.dropped is None else (1 - rate.dropped) * value


def imputed(rate: Posterior) -> Tensor:
    """X where x > 0; at a zero, P(dropped | x = 0) mu. Equal to x without dropout."""
    if rate.dropped is None:
        return rate.counts
    return rate.counts + rate.dropped * rate.mean


def imputed_median(rate: Posterior) -> Tensor:
    """X where x > 0; at a zero, the posterior median of the count before dropout.

    Given the zero, that count is 0 with probability 1 - P(dropped) and else NB(mu, theta), so
    its median is 0 unless P(dropped) (1 - NB(0)) > 1/2, and then the quantile of the NB at
    1 - 1 / (2 P(dropped)).
    """
    if rate.dropped is None:
        return rate.counts
    from scipy.stats import nbinom  # takes long to import

    at = torch.nonzero(rate.dropped > 0.5, as_tuple=True)
    theta = rate.theta.expand_as(rate.mean)[at].double()
    mu, dropped = rate.mean[at].double(), rate.dropped[at].double()
    level, n, p = (
        value.numpy(force=True) for value in (1 - 0.5 / dropped, theta, theta / (theta + mu))
    )
    filled = rate.counts.clone()
    filled[at] = torch.as_tensor(nbinom.ppf(level, n, p)).to(filled)
    return filled


def interval(rate: Posterior, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Central posterior interval of lambda, (cells, genes) each.

    Quantiles of the Gamma that has the mean and variance of lambda: exact if mu is known and the
    count was not dropped, or surely was; else an approximation to a mixture.

    Costs some 30 nanoseconds per entry and bound (:mod:`graphsci._gamma`).
    """
    rate = _in_float64(rate)
    centre, variance = denoised(rate), denoised_sd(rate).square()
    empty = variance == 0  # a mean that is 0 to the last digit
    scale = (variance / centre).masked_fill(empty, 0.0)
    shape = (centre.square() / variance).masked_fill(empty, 1.0)
    tail = (1 - level) / 2
    lower, upper = (
        gamma_quantile(shape.numpy(force=True), q) * scale.numpy(force=True)
        for q in (tail, 1 - tail)
    )
    return lower, upper


def _in_float64(rate: Posterior) -> Posterior:
    dropped, uncertain = rate.dropped, rate.log_mean_variance
    return Posterior(
        rate.counts.double(),
        rate.mean.double(),
        rate.theta.double(),
        None if dropped is None else dropped.double(),
        None if uncertain is None else uncertain.double(),
    )


def estimate_names(
    estimates: tuple[Estimate, ...], interval_level: float | None
) -> tuple[str, ...]:
    """Names of the matrices that a choice of estimates produces, in order."""
    names: list[str] = []
    for name in estimates:
        names.append(name)
        if name == "denoised":
            names.append("denoised_sd")
            if interval_level is not None:
                names += ["denoised_lower", "denoised_upper"]
    return tuple(names)


def compute_estimates(
    rate: Posterior, names: tuple[str, ...], *, interval_level: float | None = None
) -> dict[str, np.ndarray]:
    """Compute the named matrices for a block of cells, at own depth, on the count scale."""
    simple = {
        "denoised": denoised,
        "denoised_sd": denoised_sd,
        "imputed": imputed,
        "imputed_median": imputed_median,
    }
    values = {name: simple[name](rate).numpy(force=True) for name in names if name in simple}
    if "mean" in names:
        values["mean"] = rate.mean.numpy(force=True)
    if "denoised_lower" in names:
        assert interval_level is not None
        lower, upper = interval(rate, interval_level)
        values |= {"denoised_lower": lower, "denoised_upper": upper}
    return {name: values[name] for name in names}


def rescale(
    values: dict[str, np.ndarray],
    *,
    size_factors: np.ndarray,
    depth: Depth,
    scale: Scale,
) -> dict[str, np.ndarray]:
    """Bring estimates from counts at own depth to the depth and scale asked for.

    ``depth="common"`` divides by the size factor (cells,), i.e. as if every cell had the
    median library size; ``scale="log1p"`` takes log(1 + value). A standard deviation goes
    through the logarithm by its derivative: sd / (1 + denoised).
    """
    factor = np.where(size_factors > 0, size_factors, 1.0)[:, None].astype(np.float32)
    if depth == "common":
        values = {name: value / factor for name, value in values.items()}
    if scale == "counts":
        return values
    out = {name: np.log1p(value) for name, value in values.items() if name != "denoised_sd"}
    if "denoised_sd" in values:
        out["denoised_sd"] = values["denoised_sd"] / (1 + values["denoised"])
    return {name: out[name] for name in values}


def describe_scale(depth: Depth, scale: Scale, *, median_library: float) -> dict[str, Any]:
    """Say in words, for the run record, what a number in an estimate means."""
    where = (
        "each cell's own library size"
        if depth == "own"
        else f"a common library size of {median_library:g} counts (the training median)"
    )
    unit = "counts" if scale == "counts" else "log(1 + counts), natural logarithm"
    return {"depth": depth, "scale": scale, "unit": f"{unit}, at {where}"}
