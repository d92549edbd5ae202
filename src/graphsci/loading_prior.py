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


def information(molecules: Tensor, theta: Tensor, *, n_cells: float, scored_share: float) -> Tensor:
    """Fisher information on a gene's log mean in all cells, for a mean that all cells share.

    An NB count of mean m has m / (1 + m / theta), and m is the share of the molecules that a
    step's loss scores.

    Parameters
    ----------
    molecules
        (genes,) of each gene in all cells.
    theta
        (genes,) inverse dispersion.
    n_cells
        Number of cells.
    scored_share
        Share of the molecules that is predicted, not encoded.
    """
    mean = scored_share * molecules / n_cells
    return n_cells * mean / (1 + mean / theta)


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
    left = loading_uncertainty(covariance, second_moment, information)
    uncertain = (left.axes * left.variance.mean(0)) @ left.axes.T
    updated = loadings.T @ loadings / len(loadings) + uncertain
    variance, directions = torch.linalg.eigh(updated)
    floor = max(smallest_variance, SMALLEST_SHARE * float(variance[-1]))
    if variance[0] >= floor:
        return updated
    return (directions * variance.clamp_min(floor)) @ directions.T


class LoadingUncertainty(NamedTuple):
    """Posterior covariance of every gene's loadings, A diag(d_g) A^T with one A for all genes."""

    axes: Tensor  #: A, (latent, latent) float64
    variance: Tensor  #: d, (genes, latent) float64, in (0, 1]: 1 where counts say nothing


def loading_uncertainty(
    covariance: Tensor, second_moment: Tensor, information: Tensor
) -> LoadingUncertainty:
    """What the counts leave open of the loadings: (S^-1 + I_g M)^-1 for every gene (Laplace).

    Along the columns of A the prior S is the identity and M diagonal, so that no gene needs an
    inverse. O(genes x latent) beside O(latent^3); float64 on the CPU.

    Parameters
    ----------
    covariance
        (latent, latent) S, positive definite.
    second_moment
        (latent, latent) M = E[z z^T] over the cells.
    information
        (genes,) I_g, >= 0 (:func:`information`).
    """
    covariance, second_moment, information = (
        tensor.detach().cpu().double() for tensor in (covariance, second_moment, information)
    )
    root = torch.linalg.cholesky(covariance)
    strength, rotation = torch.linalg.eigh(root.T @ second_moment @ root)
    kept = 1 / (1 + information[:, None] * strength.clamp_min(0))
    return LoadingUncertainty(root @ rotation, kept)
