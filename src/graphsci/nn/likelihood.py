"""Count likelihoods and divergences: pure functions of tensors.

Notation, the same everywhere: a count x with mean mu and inverse dispersion theta has
variance mu + mu^2 / theta; pi is the probability that the entry was dropped, i.e. that
it was set to zero after counting, and ``zero_inflation_logits`` is log(pi / (1 - pi)).

Accuracy: log-gammas are differences of large numbers when theta is large, so they are
taken in float64 whatever the input; everything else is written with ``log1p`` and
``softplus`` and stays in the precision of its input.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: Means are kept above this before a logarithm: 1e-8 molecules is far below one molecule
#: in a cell of a million, so nothing measurable is changed.
SMALLEST_MEAN = 1e-8


#: Above this theta the log-gammas are replaced by Stirling's series, whose first neglected
#: term, 1 / (360 theta^3), is then below 1e-14.
LARGE_THETA = 1e4


def _log_gamma_ratio(theta: Tensor, x: Tensor) -> Tensor:
    """Log Gamma(theta + x) - log Gamma(theta) in float64, for any theta > 0 and x >= 0."""
    large = theta.clamp_min(LARGE_THETA)
    series = x * large.log() + (large + x - 0.5) * torch.log1p(x / large) - x
    series = series + (1 / (large + x) - 1 / large) / 12
    small = theta.clamp_max(LARGE_THETA)
    exact = torch.lgamma(small + x) - torch.lgamma(small)
    return torch.where(theta > LARGE_THETA, series, exact)


def nb_log_prob(counts: Tensor, *, mean: Tensor, inverse_dispersion: Tensor) -> Tensor:
    """Log-probability of counts under the negative binomial (eq. 7).

    ::

        log NB(x | mu, theta) = log [Gamma(x + theta) / (Gamma(theta) Gamma(x + 1))]
                                - theta log(1 + mu / theta) + x log(mu / (mu + theta))

    Parameters
    ----------
    counts
        x >= 0, any shape.
    mean
        mu > 0 on the scale of ``counts``, broadcastable to it.
    inverse_dispersion
        theta > 0, broadcastable; theta -> infinity is the Poisson distribution.

    Returns
    -------
    Tensor of the broadcast shape and of the dtype of ``mean``.
    """
    mean = mean.clamp_min(SMALLEST_MEAN)
    x, mu, theta = counts.double(), mean.double(), inverse_dispersion.double()
    choose = _log_gamma_ratio(theta, x) - torch.lgamma(x + 1)
    log_zero = -theta * torch.log1p(mu / theta)
    return (choose + log_zero - x * torch.log1p(theta / mu)).to(mean.dtype)


def nb_log_zero(mean: Tensor, inverse_dispersion: Tensor) -> Tensor:
    """Log NB(0 | mu, theta) = -theta log(1 + mu / theta), without log-gammas."""
    return -inverse_dispersion * torch.log1p(mean / inverse_dispersion)


def zinb_log_prob(
    counts: Tensor, *, mean: Tensor, inverse_dispersion: Tensor, zero_inflation_logits: Tensor
) -> Tensor:
    """Log-probability of counts under the zero-inflated negative binomial (eq. 8).

    ::

        log ZINB(0) = log(pi + (1 - pi) NB(0)) = log NB(0) + softplus(l - log NB(0)) - softplus(l)
        log ZINB(x) = log(1 - pi) + log NB(x)  = log NB(x) - softplus(l),       x > 0

    with l = ``zero_inflation_logits`` = log(pi / (1 - pi)); l -> -infinity is the NB.

    Shapes and scales as in :func:`nb_log_prob`; ``zero_inflation_logits`` is broadcastable.
    """
    logits = zero_inflation_logits.double()
    nb = nb_log_prob(counts, mean=mean.double(), inverse_dispersion=inverse_dispersion)
    inflation = torch.where(counts > 0, 0.0, F.softplus(logits - nb))
    return (nb + inflation - F.softplus(logits)).to(mean.dtype)


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)), summed over the last axis (eq. 22).

    ::

        KL = -1/2 sum_d (1 + log sigma_d^2 - sigma_d^2 - mu_d^2)
    """
    return -0.5 * (1 + log_variance - log_variance.exp() - mean.square()).sum(-1)


def edge_cross_entropy(
    gene_embedding: Tensor, edges: Tensor, non_edges: Tensor, *, n_pairs: float
) -> Tensor:
    """Cross-entropy of A under A^ = sigmoid(Z Z^T) (eq. 16-18), from sampled pairs.

    Every one of the ``n_pairs`` unordered gene pairs counts once in the full sum. Here the
    edges are summed exactly and the non-edges are estimated from a uniform sample of them,
    re-weighted to their number: the same expectation, without a genes x genes tensor.

    Parameters
    ----------
    gene_embedding
        Z, (genes, latent).
    edges, non_edges
        (2, edges), each once, and (2, sample), drawn with replacement; integer gene positions.
    n_pairs
        Number of unordered pairs, genes (genes - 1) / 2.

    Returns
    -------
    Scalar: the mean cross-entropy per gene pair, in nats.
    """
    positive = F.softplus(-edge_logits(gene_embedding, edges)).sum()
    n_negative = n_pairs - edges.shape[1]
    if non_edges.shape[1] == 0:
        return positive / n_pairs
    negative = F.softplus(edge_logits(gene_embedding, non_edges)).mean() * n_negative
    return (positive + negative) / n_pairs


def edge_logits(gene_embedding: Tensor, pairs: Tensor) -> Tensor:
    """z_i . z_j for each pair: the logit of its edge probability (eq. 18), (pairs,)."""
    # index_select: its gradient is summed in one order, that of [] in whichever comes first
    first, second = (gene_embedding.index_select(0, index) for index in pairs)
    return (first * second).sum(-1)


class ThinnedBlock(NamedTuple):
    """Non-zero entries of a block of cells whose molecules were split in two.

    Every molecule went to the ``kept`` part with probability ``fraction``, else to the
    ``target`` part; x = kept + target is the measured count. Of a gene that was hidden as a whole,
    the fraction is 0, in cells without a molecule of it too.
    """

    rows: Tensor  #: (entries,) cell of each entry with x > 0, within the block
    columns: Tensor  #: (entries,) gene of each entry
    kept: Tensor  #: (entries,) molecules the encoder sees
    target: Tensor  #: (entries,) molecules to be predicted
    fraction: float | Tensor  #: probability of being kept, in [0, 1); of each gene if (genes,)

    def fraction_at_entries(self) -> float | Tensor:
        """The same number, or (entries,)."""
        f = self.fraction
        return f.index_select(0, self.columns) if isinstance(f, Tensor) else f


def nb_excess(mu: Tensor, theta: Tensor, thinned: ThinnedBlock) -> tuple[Tensor, Tensor, Tensor]:
    """What a measured entry adds to the loss of a zero there, and its two derivatives.

    With k molecules kept and t to be predicted::

        k log[(theta + mu) / (theta + f mu)] + t log[(theta + mu) / ((1 - f) mu)]
        - log Gamma(theta + k + t) + log Gamma(theta + k) + log Gamma(t + 1)
    """
    f = thinned.fraction_at_entries()
    k, t = thinned.kept.to(mu.dtype), thinned.target.to(mu.dtype)
    full, part = theta + mu, theta + f * mu
    log_choose, slope = log_rising_factorial(theta + k, t)
    gain = (1 - f) * mu / part  # (theta + mu) / (theta + f mu) - 1
    loss = k * torch.log1p(gain) + t * torch.log(full / ((1 - f) * mu)) - log_choose
    by_mean = theta / full * (k * (1 - f) / part - t / mu)
    by_theta = (t - k * gain) / full - slope
    return loss, by_mean, by_theta


#: Counts up to this are handled by multiplying out; log-gammas serve the rest.
_FEW_MOLECULES = 8


def log_rising_factorial(start: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """log[start (start + 1) ... (start + n - 1) / n!] and its derivative in ``start``.

    The same as log Gamma(start + n) - log Gamma(start) - log Gamma(n + 1), without the
    cancellation of large log-gammas and at a fraction of their cost: most counts are 0 or 1,
    so the product is multiplied out, beyond the first factor for the few entries that have more.
    A GPU has log-gammas in abundance and must not wait to learn how many entries those are.

    Parameters
    ----------
    start
        (entries,) > 0.
    n
        (entries,) integral, >= 0.
    """
    if start.is_cuda:
        return _log_rising_factorial_by_gamma(start, n)
    one = n.clamp(max=1)
    value, slope = torch.log(start).mul_(one), torch.reciprocal(start).mul_(one)
    several = torch.nonzero(n > 1).squeeze(1)
    first, size = (values.index_select(0, several) for values in (start, n))
    logs, slopes = torch.zeros_like(first), torch.zeros_like(first)
    for factor in range(1, _FEW_MOLECULES):
        here, there = first + factor, (size - factor).clamp_(0, 1)  # 0 beyond the last factor
        slopes.addcdiv_(there, here)
        logs.addcmul_(here.div_(factor + 1).log_(), there)
    many = torch.nonzero(size > _FEW_MOLECULES).squeeze(1)
    here, n_here = (values.index_select(0, many).double() for values in (first, size))
    here, more = here + _FEW_MOLECULES, n_here - _FEW_MOLECULES
    rest = _log_gamma_ratio(here, more) - torch.lgamma(n_here + 1)
    rest += math.lgamma(_FEW_MOLECULES + 1)
    logs.index_add_(0, many, rest.to(logs.dtype))
    rest_slope = torch.digamma(here + more) - torch.digamma(here)
    slopes.index_add_(0, many, rest_slope.to(slopes.dtype))
    return value.index_add_(0, several, logs), slope.index_add_(0, several, slopes)


def _log_rising_factorial_by_gamma(start: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the same for every entry alike, in float64."""
    here, more = start.double(), n.double()
    value = _log_gamma_ratio(here, more) - torch.lgamma(more + 1)
    slope = torch.digamma(here + more) - torch.digamma(here)
    return value.to(start.dtype), slope.to(start.dtype)


def thinned_nb_loss(mean: Tensor, inverse_dispersion: Tensor, thinned: ThinnedBlock) -> Tensor:
    """Negative log-probability of the target molecules given the kept ones, summed.

    The rate of an entry is lambda ~ Gamma(shape theta, mean mu) and its molecules are
    Poisson, so the kept ones move the rate before the target ones are predicted::

        k ~ Poisson(f lambda),   t ~ Poisson((1 - f) lambda)
        t | k ~ NB(mean = (theta + k) (1 - f) mu / (theta + f mu),
                   inverse dispersion = theta + k)

    This is what the `denoised` estimate does with a held-out molecule, so mu and theta are
    learned for the estimate that is reported, not for the network's mean alone.

    Parameters
    ----------
    mean
        mu > 0, (cells, genes): the expected count x = k + t at the cell's own depth.
    inverse_dispersion
        theta > 0, (genes,) or (cells, genes).
    thinned
        The measured entries of the block; all others are 0.

    Returns
    -------
    Scalar, nats, differentiable in ``mean`` and ``inverse_dispersion``. Training uses
    :func:`~graphsci.nn.fused_likelihood.softmax_loss`, the same in one pass.
    """
    f, at = thinned.fraction, (thinned.rows, thinned.columns)
    at_zero = inverse_dispersion * _log_ratio(mean, inverse_dispersion, f)
    theta = inverse_dispersion.expand_as(mean)[at]
    excess = _MeasuredExcess.apply(mean[at].clamp_min(SMALLEST_MEAN), theta, thinned)
    return at_zero.sum() + excess.sum().to(mean.dtype)


def _log_ratio(mean: Tensor, theta: Tensor, f: float | Tensor) -> Tensor:
    """log[(theta + mu) / (theta + f mu)]; no digit is lost where theta is far above mu."""
    return torch.log1p((1 - f) * mean / (theta + f * mean))


class _MeasuredExcess(torch.autograd.Function):
    """:func:`nb_excess` with its own derivatives."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, mu: Tensor, theta: Tensor, thinned: ThinnedBlock
    ) -> Tensor:
        loss, by_mean, by_theta = nb_excess(mu, theta, thinned)
        ctx.save_for_backward(by_mean, by_theta)
        return loss

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        by_mean, by_theta = ctx.saved_tensors  # type: ignore[attr-defined]
        return by_mean * gradient, by_theta * gradient, None


def thinned_zinb_loss(
    mean: Tensor,
    inverse_dispersion: Tensor,
    zero_inflation_logits: Tensor,
    thinned: ThinnedBlock,
) -> Tensor:
    """As :func:`thinned_nb_loss` when an entry may have been dropped as a whole.

    Dropout acts on the count x, before it is split, so both parts of a dropped entry are 0.
    With q = NB(0 | mu), q_k = NB(0 | f mu) and l the logit of the dropout probability::

        k = t = 0      log[pi + (1 - pi) q] - log[pi + (1 - pi) q_k]
        k = 0, t > 0   log[(1 - pi) NB(0, t)] - log[pi + (1 - pi) q_k]
        k > 0          log NB(t | k): the entry was not dropped

    written with log[pi + (1 - pi) q] = log q + softplus(l - log q) - softplus(l).

    Shapes as in :func:`thinned_nb_loss`; ``zero_inflation_logits`` is (cells, genes).
    """
    f, at = thinned.fraction, (thinned.rows, thinned.columns)
    logits = zero_inflation_logits
    at_zero = _zinb_at_zero(mean, inverse_dispersion, logits, f)
    mu = mean[at].clamp_min(SMALLEST_MEAN)
    theta = inverse_dispersion.expand_as(mean)[at]
    excess = zinb_excess(mu, theta, logits[at], thinned)
    return at_zero.sum() + excess.sum().to(mean.dtype)


def _zinb_at_zero(mean: Tensor, theta: Tensor, logits: Tensor, f: float | Tensor) -> Tensor:
    """Thinned loss of k = t = 0, elementwise."""
    zero, zero_part = (nb_log_zero(m, theta) for m in (mean, f * mean))
    inflation = F.softplus(logits - zero_part) - F.softplus(logits - zero)
    return theta * _log_ratio(mean, theta, f) + inflation


def zinb_excess(mu: Tensor, theta: Tensor, logits: Tensor, thinned: ThinnedBlock) -> Tensor:
    """What a measured entry adds to the loss of a zero there, (entries,)."""
    f = thinned.fraction_at_entries()
    excess = _MeasuredExcess.apply(mu, theta, thinned) + F.softplus(logits - nb_log_zero(mu, theta))
    # at k = 0 the denominator is the mixture, not NB(0 | f mu) alone
    part = F.softplus(logits - nb_log_zero(f * mu, theta))
    return excess - torch.where(thinned.kept > 0, part, 0.0)


def dropout_logits(log_mean: Tensor, curve: Tensor) -> Tensor:
    """Logit of the probability that an entry was dropped, a + c log mu."""
    return curve[0] + curve[1] * log_mean


def block_nll(
    mean: Tensor,
    inverse_dispersion: Tensor,
    zero_inflation_logits: Tensor | None,
    rows: Tensor,
    columns: Tensor,
    counts: Tensor,
) -> Tensor:
    """Negative log-likelihood of a block of cells, NB or ZINB, summed (eq. 7-8, 22).

    Every entry is first scored as a zero, then the measured ones are corrected: log-gammas
    are needed at the measured entries alone.

    Parameters
    ----------
    mean, inverse_dispersion, zero_inflation_logits
        mu and theta, (cells, genes); the logits likewise, or None for NB.
    rows, columns, counts
        (entries,) the measured entries, counts > 0.

    Returns
    -------
    Scalar, nats.
    """
    at = (rows, columns)
    zero = nb_log_zero(mean, inverse_dispersion)
    if zero_inflation_logits is None:
        measured = nb_log_prob(counts, mean=mean[at], inverse_dispersion=inverse_dispersion[at])
    else:
        logits = zero_inflation_logits
        zero = zero + F.softplus(logits - zero) - F.softplus(logits)
        measured = zinb_log_prob(
            counts,
            mean=mean[at],
            inverse_dispersion=inverse_dispersion[at],
            zero_inflation_logits=logits[at],
        )
    return -(zero.sum() + (measured - zero[at]).sum())
