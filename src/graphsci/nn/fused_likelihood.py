"""The thinned loss of the preset `default` in one pass: loss and gradient from one block.

:func:`softmax_loss` is what :mod:`graphsci.nn.likelihood` defines for mu = library x softmax(z V^T
+ b), without five arrays of cells x genes: a block of means becomes its own gradient, piece by
piece in the cache, and log-gammas are taken at the measured entries alone. docs/method.md has the
sums.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from graphsci.nn.likelihood import (
    SMALLEST_MEAN,
    ThinnedBlock,
    dropout_logits,
    nb_excess,
    zinb_excess,
)


class SoftmaxMean(NamedTuple):
    """What makes the mean counts of a block: mu = library x softmax(z V^T + b)."""

    z: Tensor  #: (cells, latent)
    loadings: Tensor  #: V, (genes, latent)
    bias: Tensor  #: b, (genes,)
    library: Tensor  #: (cells,) > 0


class RankOneTheta(NamedTuple):
    """Inverse dispersion of every entry: that of its gene times the certainty of its cell."""

    genes: Tensor  #: (genes,) > 0
    certainty: Tensor  #: (cells,) > 0

    def at(self, thinned: ThinnedBlock) -> RankOneTheta:
        """Both factors at the measured entries of a block, (entries,) each."""
        return RankOneTheta(
            self.genes.index_select(0, thinned.columns),
            self.certainty.index_select(0, thinned.rows),
        )


def softmax_loss(
    mean: SoftmaxMean,
    inverse_dispersion: RankOneTheta,
    dropout_curve: Tensor | None,
    thinned: ThinnedBlock,
    *,
    bfloat16: bool = False,
) -> Tensor:
    """Thinned loss of mu = library x softmax(z V^T + b), from its factors, in one pass.

    The same number as ``thinned_nb_loss`` or ``thinned_zinb_loss`` of that mean, with theta =
    ``certainty`` of the cell x theta of the gene. A single block of (cells, genes) holds the
    logits, then the means, then the gradient of the logits; the gradients of the factors are
    taken from it at once, and nothing of that size is left for the backward pass.

    Parameters
    ----------
    mean
        The factors of mu.
    inverse_dispersion
        The factors of theta.
    dropout_curve
        (a, c): an entry is dropped with probability sigmoid(a + c log mu). None for NB.
    thinned
        The measured entries of the block, ordered by cell; all others are 0.
    bfloat16
        Do the matrix products in bfloat16.

    Returns
    -------
    Scalar, nats, differentiable in all factors and ``dropout_curve``.
    """
    wanted, factors = torch.is_grad_enabled(), (*mean, *inverse_dispersion)
    return _SoftmaxLoss.apply(*factors, dropout_curve, thinned, bfloat16, wanted)


#: Entries of the one (cells, genes) block of :func:`softmax_loss`: 32 MiB in float32.
_ENTRIES_IN_BLOCK = 1 << 23
#: Entries worked on at once on a CPU, 0.5 MiB in float32: what is done to a piece, some ten
#: operations, finds it in the cache.
_ENTRIES_IN_CACHE = 1 << 17
#: The same on a GPU, 8 MiB: enough to keep it busy, and the twenty arrays of a ZINB pass are small.
_ENTRIES_ON_GPU = 1 << 21


class _SoftmaxLoss(torch.autograd.Function):
    """Loss and gradients of :func:`softmax_loss`, some cells at a time."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        z: Tensor,
        loadings: Tensor,
        bias: Tensor,
        library: Tensor,
        theta: Tensor,
        certainty: Tensor,
        curve: Tensor | None,
        thinned: ThinnedBlock,
        bfloat16: bool,
        with_gradient: bool,
    ) -> Tensor:
        product = _product_bfloat16 if bfloat16 else torch.matmul
        by_z, by_library = torch.zeros_like(z), torch.zeros_like(library)
        by_certainty = torch.zeros_like(certainty)
        by_loadings, by_bias = torch.zeros_like(loadings), torch.zeros_like(bias)
        loss, by_theta, by_curve = (
            theta.new_zeros(n, dtype=torch.float64) for n in (1, len(theta), 2)
        )
        for cells, part in _parts(thinned, len(z), len(bias)):
            logits = product(z[cells], loadings.T).add_(bias)
            score = _nb_pass_ if curve is None else functools.partial(_zinb_pass_, curve=curve)
            here = RankOneTheta(theta, certainty[cells])
            found = score(logits, library[cells], here, part)
            loss += found.loss
            if with_gradient:
                by_logits = logits  # what the pass left there
                by_theta += found.by_theta
                by_curve += found.by_curve
                by_library[cells] = found.by_library
                by_certainty[cells] = found.by_certainty
                by_z[cells] = product(by_logits, loadings)
                by_loadings += product(by_logits.T, z[cells])
                by_bias += by_logits.sum(0)
        if with_gradient:
            exact = (by_theta.to(theta.dtype), by_certainty, by_curve.to(theta.dtype))
            ctx.save_for_backward(by_z, by_loadings, by_bias, by_library, *exact)
        return loss[0].to(z.dtype)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad[: len(saved)]  # type: ignore[attr-defined]
        grads = [
            part * gradient if want else None for part, want in zip(saved, wanted, strict=True)
        ]
        return *grads, None, None, None


def _product_bfloat16(left: Tensor, right: Tensor) -> Tensor:
    """Matrix product in bfloat16, in the precision of ``left``."""
    return (left.bfloat16() @ right.bfloat16()).to(left.dtype)


def _divided(rows: Tensor, n_rows: int, step: int) -> list[tuple[slice, slice]]:
    """Cells in groups of ``step``, and where the entries of each are among sorted ``rows``."""
    if n_rows <= step:
        return [(slice(0, n_rows), slice(0, len(rows)))]
    bounds = [*range(0, n_rows, step), n_rows]
    sought = torch.as_tensor(bounds, device=rows.device)
    ends = torch.searchsorted(rows.contiguous(), sought).tolist()
    groups = zip(itertools.pairwise(bounds), itertools.pairwise(ends), strict=True)
    return [(slice(*cells), slice(*entries)) for cells, entries in groups]


def _parts(
    thinned: ThinnedBlock, n_cells: int, n_genes: int
) -> Iterator[tuple[slice, ThinnedBlock]]:
    """Cut a block into the cells whose means are in memory at once."""
    step = max(1, _ENTRIES_IN_BLOCK // n_genes)
    for cells, entries in _divided(thinned.rows, n_cells, step):
        rows, columns, kept, target = (values[entries] for values in thinned[:4])
        rows = rows - cells.start if cells.start else rows
        yield cells, ThinnedBlock(rows, columns, kept, target, thinned.fraction)


class _Pass(NamedTuple):
    """What a pass over a block of logits found; it leaves the loss's gradient in the logits."""

    loss: Tensor  #: scalar, float64
    by_theta: Tensor  #: (genes,), float64
    by_curve: Tensor  #: (2,), float64
    by_library: Tensor  #: (cells,)
    by_certainty: Tensor  #: (cells,)


def _pieces(block: Tensor, rows: Tensor) -> list[tuple[slice, slice]]:
    """Cells of a block that are worked on at once, and where their entries are in ``rows``."""
    at_once = _ENTRIES_ON_GPU if block.is_cuda else _ENTRIES_IN_CACHE
    return _divided(rows, len(block), max(1, at_once // block.shape[1]))


def _softmax_mean_(logits: Tensor, library: Tensor, pieces: list[tuple[slice, slice]]) -> Tensor:
    """Turn logits (cells, genes) into library x softmax, in place."""
    share = torch.empty_like(logits[pieces[0][0]])
    for cells, _ in pieces:
        here = logits[cells]
        torch.softmax(here, 1, out=share[: len(here)])
        torch.mul(share[: len(here)], library[cells, None], out=here)
    return logits


def _sum_by_theta(columns: Tensor, by_theta: Tensor, theta: Tensor, *, whole: bool) -> Tensor:
    """Sum of an entry's gradients by theta for each gene, (genes,) float64.

    ``whole``: add whole numbers, of theta x gradient (a gradient by log theta, free of theta's
    scale) in units of 2^-28. Their sum is the same in every order, and a GPU has none.
    """
    total = torch.zeros_like(theta, dtype=torch.int64 if whole else torch.float64)
    if not whole:
        return total.index_add_(0, columns, by_theta.double())
    by_log = by_theta.double() * theta.double().index_select(0, columns)
    units = by_log.clamp_(-(2.0**24), 2.0**24).mul_(2.0**28).round_().long()
    return total.index_add_(0, columns, units).double().mul_(2.0**-28).div_(theta.double())


def _nb_pass_(logits: Tensor, library: Tensor, theta: RankOneTheta, thinned: ThinnedBlock) -> _Pass:
    """Thinned NB loss of ``logits`` (cells, genes), which become its gradient.

    Every entry is scored as a zero, and the measured ones are corrected: log-gammas are needed
    there alone. With theta of the gene, c the certainty of the cell, m = mu / c and l the
    derivative of the loss by log mu, that by a logit is l - mu / library x (sum of l over the
    genes), and at a zero::

        loss        = c theta log r,      r = (c theta + mu) / (c theta + f mu)
                                            = (theta + m) / (theta + f m)
        l           = c theta^2 (1 - f) m / [(theta + m) (theta + f m)]
        d / d theta = c log r - l / theta
        d / d c     = theta log r - l / c
    """
    f, n_genes, genes, certainty = thinned.fraction, logits.shape[1], *theta
    pieces = _pieces(logits, thinned.rows)
    scaled_library = library / certainty
    mean = _softmax_mean_(logits, scaled_library, pieces)  # m
    flat = thinned.rows * n_genes + thinned.columns
    here = theta.at(thinned)
    mu = mean.view(-1).index_select(0, flat).mul_(here.certainty).clamp_min_(SMALLEST_MEAN)
    excess, by_mean, by_product = nb_excess(mu, here.genes * here.certainty, thinned)
    by_log_mean = by_mean.mul_(mu)
    by_library = torch.empty_like(library)
    by_entries, by_certainty = _by_factors(by_product, here, theta, thinned)
    log_ratio, share = (genes.new_zeros(n_genes, dtype=torch.float64) for _ in range(2))
    factor = genes.square() * (1 - f)
    full, part = (torch.empty_like(mean[pieces[0][0]]) for _ in range(2))
    for cells, entries in pieces:
        m, c = mean[cells], certainty[cells]
        a, b = full[: len(m)], part[: len(m)]
        if isinstance(f, Tensor):
            torch.mul(m, f, out=b).add_(genes)
        else:
            torch.add(genes, m, alpha=f, out=b)
        torch.div(m, b, out=b)  # m / (theta + f m)
        torch.add(genes, m, out=a)
        torch.div(b, a, out=a)  # m / [(theta + m) (theta + f m)]
        b.mul_(1 - f).log1p_()  # log r
        share += c @ a
        log_ratio += c @ b
        by_certainty[cells] += b @ genes - a @ factor
        by_log = a.mul_(factor).mul_(c[:, None])
        by_log.view(-1).index_add_(0, flat[entries] - cells.start * n_genes, by_log_mean[entries])
        by_library[cells] = _to_logits_(m, by_log, scaled_library[cells]).div_(c)
    theta64 = genes.double()
    by_theta = log_ratio - (1 - f) * theta64 * share + by_entries
    loss = (log_ratio * theta64).sum() + excess.double().sum()
    return _Pass(loss, by_theta, loss.new_zeros(2), by_library, by_certainty)


def _by_factors(
    by_product: Tensor, here: RankOneTheta, theta: RankOneTheta, thinned: ThinnedBlock
) -> tuple[Tensor, Tensor]:
    """Gradients by theta (genes,) and certainty (cells,), from those by their product at entries.

    ``here`` has both factors at the entries.
    """
    whole = by_product.is_cuda
    by_theta = _sum_by_theta(thinned.columns, by_product * here.certainty, theta.genes, whole=whole)
    return by_theta, _sum_by_cell(thinned.rows, by_product * here.genes, len(theta.certainty))


def _sum_by_cell(rows: Tensor, values: Tensor, n_cells: int) -> Tensor:
    """Sum the ``values`` (entries,) of each cell, (cells,), in their order; ``rows`` is sorted."""
    cells = torch.arange(n_cells + 1, device=rows.device)
    offsets = torch.searchsorted(rows.contiguous(), cells)
    total: Tensor = torch.segment_reduce(values, "sum", offsets=offsets, initial=0, unsafe=True)
    return total


def _to_logits_(mean: Tensor, by_log_mean: Tensor, library: Tensor) -> Tensor:
    """Turn means (cells, genes) into the loss's gradient by their logits; return that by library.

    ``by_log_mean`` is its gradient by the logarithms of the means.
    """
    by_library = by_log_mean.sum(1).div_(library.clamp_min(SMALLEST_MEAN))  # 0 / 0 in empty cells
    torch.addcmul(by_log_mean, mean, by_library[:, None], value=-1, out=mean)
    return by_library


#: The logit of dropout is kept in +- this: e^60 is far from overflow, and e^-60 from mattering.
_LARGEST_LOGIT = 60.0


def _zinb_pass_(
    logits: Tensor, library: Tensor, theta: RankOneTheta, thinned: ThinnedBlock, *, curve: Tensor
) -> _Pass:
    """As :func:`_nb_pass_` with dropout of logit a + c log mu, ``curve`` = (a, c)."""
    n_genes, genes, certainty = logits.shape[1], *theta
    pieces = _pieces(logits, thinned.rows)
    mean = _softmax_mean_(logits, library, pieces)
    flat = thinned.rows * n_genes + thinned.columns
    mu = mean.view(-1).index_select(0, flat).clamp_min_(SMALLEST_MEAN)
    here = theta.at(thinned)
    with torch.enable_grad():
        leaves = mu.log(), here.genes * here.certainty, curve.clone()
        log_mu, product, curve_here = (leaf.detach().requires_grad_() for leaf in leaves)
        dropped = dropout_logits(log_mu, curve_here)
        excess = zinb_excess(log_mu.exp(), product, dropped, thinned).double().sum()
        grads = torch.autograd.grad(excess, (log_mu, product, curve_here))
    by_log_mean, by_product, excess_by_curve = grads
    by_library = torch.empty_like(library)
    by_theta, by_certainty = _by_factors(by_product, here, theta, thinned)
    by_curve, loss = excess_by_curve.double(), excess.detach()
    for cells, entries in pieces:
        mu, c = mean[cells], certainty[cells]
        zero = _zinb_zero(mu, RankOneTheta(genes, c), curve, thinned.fraction)
        loss += zero.loss
        by_theta += zero.by_theta
        by_certainty[cells] += zero.by_certainty
        by_curve += zero.by_curve
        by_log = zero.by_log_mean
        by_log.view(-1).index_add_(0, flat[entries] - cells.start * n_genes, by_log_mean[entries])
        by_library[cells] = _to_logits_(mu, by_log, library[cells])
    return _Pass(loss, by_theta, by_curve, by_library, by_certainty)


class _ZinbZero(NamedTuple):
    """Thinned loss of zeros, and its derivatives."""

    loss: Tensor  #: sum
    by_log_mean: Tensor  #: (cells, genes)
    by_theta: Tensor  #: (genes,)
    by_certainty: Tensor  #: (cells,)
    by_curve: Tensor  #: (2,)


def _zinb_zero(mean: Tensor, factors: RankOneTheta, curve: Tensor, f: float | Tensor) -> _ZinbZero:
    """Score a piece of a block as zeros.

    With q and q_k the probabilities of 0 molecules in x and in its kept part, NB without dropout,
    and e^l the odds of dropout::

        loss = log[(e^l + q_k) / (e^l + q)] = log1p[(q_k - q) / (e^l + q)]
        q_k - q = -q_k expm1(-theta log[(theta + mu) / (theta + f mu)])
    """
    theta = factors.certainty[:, None] * factors.genes
    log_mean = mean.clamp_min(SMALLEST_MEAN).log_()
    odds = dropout_logits(log_mean, curve).clamp_(-_LARGEST_LOGIT, _LARGEST_LOGIT).exp_()
    full, part = mean + theta, mean.mul(f).add_(theta)
    log_part = torch.log1p(f * mean / theta)  # log[(theta + f mu) / theta]
    log_ratio = ((1 - f) * mean).div_(part).log1p_()
    zero_part = (-theta * log_part).exp_()  # q_k
    difference = (-theta * log_ratio).expm1_().mul_(zero_part).neg_()  # q_k - q
    total, total_part = odds + zero_part - difference, odds + zero_part
    shown, shown_part = (zero_part - difference).div_(total), zero_part / total_part  # not dropped
    by_logit = (odds * difference).div_(total * total_part).neg_()
    slope = shown.mul(mean).div_(full)  # - d log q / d log mu x P(not dropped) / theta
    slope_part = shown_part.mul(mean).mul_(f).div_(part)
    by_log_mean = (slope - slope_part).mul_(theta).add_(by_logit * curve[1])
    by_theta = shown * (log_ratio + log_part) - slope - (shown_part * log_part - slope_part)
    return _ZinbZero(
        torch.log1p(difference / total).sum(dtype=torch.float64),
        by_log_mean,
        (factors.certainty @ by_theta).double(),
        by_theta @ factors.genes,
        torch.stack([by_logit.sum(), (by_logit * log_mean).sum()]).double(),
    )
