"""The prior of the gene loadings, learned together with them (empirical Bayes).

A priori a gene's loadings are N(0, S), with one S for all genes. S starts as a multiple of the
identity, and after every epoch makes a step of expectation and maximisation. Directions of the
latent space along which many genes vary become wide, so that a gene with few molecules may
follow them; the others stay as they were. None becomes narrower than at the start: loadings near
0 and a narrow prior would draw each other in, until `mean` no longer tells cells apart.

What the counts leave open of a gene's loadings is part of the uncertainty of its estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

#: No variance of the prior is less than this share of the largest: S can be inverted.
SMALLEST_SHARE = 1e-8


def loading_scale_for(n_cells: int, loading_scale: float = 0.0) -> float:
    """Width of the prior at the start: ``loading_scale`` if given, else 0.1, for few cells 0.07.

    What is learned of the state of few cells is less certain, and so is what is read from it.
    """
    return loading_scale or float(np.clip(0.1 * math.sqrt(n_cells / 1000), 0.07, 0.1))


def log_mean_information(mean: Tensor, theta: Tensor) -> Tensor:
    """Fisher information of one NB count on its log mean, m / (1 + m / theta).

    Parameters
    ----------
    mean, theta
        Of one shape, m and inverse dispersion, > 0.
    """
    return mean / (1 + mean / theta)


def scored_share(
    mean: Tensor,
    theta: Tensor,
    *,
    kept: float | Sequence[float],
    hidden_share: float | Tensor = 0.0,
) -> Tensor:
    """Share of what a count says of its log mean that a step scores, (genes,).

    All of a hidden count; of a divided one what the kept molecules do not say,
    1 - I(f m) / I(m) = theta (1 - f) / (f m + theta): the share set aside, 1 - f, if it has few
    molecules, and next to nothing if it has many.

    Parameters
    ----------
    mean, theta
        (genes,) m and inverse dispersion, > 0.
    kept
        f, the share of the molecules that is kept; the mean over several.
    hidden_share
        Share of the steps in which a gene is hidden, of all or (genes,).
    """
    shares = [kept] if isinstance(kept, float) else list(kept)
    divided = torch.stack([theta * (1 - f) / (f * mean + theta) for f in shares]).mean(0)
    return hidden_share + (1 - hidden_share) * divided


def hidden_share_for(scored: Tensor, least: float) -> Tensor:
    """Share of the steps that have to hide a gene so that ``least`` of what it says is scored.

    Parameters
    ----------
    scored
        (genes,) share that is scored of genes that are not hidden.
    least
        Below 1.
    """
    return ((least - scored) / (1 - scored)).clamp_min(0)


def updated_covariance(
    covariance: Tensor,
    loadings: Tensor,
    second_moment: Tensor,
    information: Tensor,
    *,
    smallest_variance: float,
) -> Tensor:
    """One step of EM for the covariance S of the loadings, (latent, latent).

    With v_g the loadings of a gene, I_g what its counts say, and M = E[z z^T] over the cells, the
    posterior of v_g is N(v_g, (S^-1 + I_g M)^-1) (Laplace), and the new S the mean over genes of
    v_g v_g^T plus that covariance. A gene without molecules has I_g = 0 and leaves S as it is.
    O(genes x latent^2), in float64 on the CPU.

    Parameters
    ----------
    covariance
        (latent, latent) S, positive definite.
    loadings
        (genes, latent).
    second_moment
        (latent, latent) M.
    information
        (genes,) I_g, >= 0.
    smallest_variance
        Along no direction is the new S narrower.
    """
    covariance, loadings, second_moment, information = (
        tensor.detach().cpu().double()
        for tensor in (covariance, loadings, second_moment, information)
    )
    axes, strength = shared_axes(covariance, second_moment)
    kept = (1 / (1 + information[:, None] * strength)).mean(0)  # (latent,)
    uncertain = (axes * kept) @ axes.T
    updated = loadings.T @ loadings / len(loadings) + uncertain
    variance, directions = torch.linalg.eigh(updated)
    floor = max(smallest_variance, SMALLEST_SHARE * float(variance[-1]))
    if variance[0] >= floor:
        return updated
    return (directions * variance.clamp_min(floor)) @ directions.T


class SharedAxes(NamedTuple):
    """Axes in which P^-1 + i Q is diagonal for every number i >= 0.

    (P^-1 + i Q)^-1 = A diag(1 / (1 + i s)) A^T.
    """

    axes: Tensor  #: A, (latent, latent) float64
    strength: Tensor  #: s, (latent,) float64, >= 0


def shared_axes(prior: Tensor, said: Tensor) -> SharedAxes:
    """Axes of the posteriors that one prior and more or less of one kind of evidence lead to.

    Along the columns of A the prior P is the identity and Q diagonal, so that no gene, and no
    cell, needs an inverse. float64 on the CPU.

    Parameters
    ----------
    prior
        (latent, latent) P, a covariance, positive definite.
    said
        (latent, latent) Q, a precision, positive semi-definite.
    """
    prior, said = (matrix.detach().cpu().double() for matrix in (prior, said))
    root = torch.linalg.cholesky(prior)
    strength, rotation = torch.linalg.eigh(root.T @ said @ root)
    return SharedAxes(root @ rotation, strength.clamp_min(0))
