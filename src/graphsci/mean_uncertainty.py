"""How well the counts determine the mean of an entry, by the preset `default`.

log mu = level of the gene in the batch + z . v. The level is as uncertain as the gene's molecules
in all cells leave it, and so are its loadings v; the state z of a cell as the cell's own molecules
do. All three posteriors are normal (Laplace) around what was learned, the loadings' with one set
of axes for all genes and the states' with one for all cells, so that the variance of every entry
is a matrix product.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsci.loading_prior import LoadingUncertainty


class StateUncertainty(NamedTuple):
    """Posterior covariance of a cell's state, U diag(1 / (1 + L h)) U^T with L molecules."""

    axes: Tensor  #: U, (latent, latent) float64
    information: Tensor  #: h, (latent,) float64, >= 0: what a molecule says along each axis


def state_uncertainty(
    loadings: Tensor, share: Tensor, theta: Tensor, *, library: float
) -> StateUncertainty:
    """What the molecules of a cell leave open of its state: (I + sum_g i_g v_g v_g^T)^-1.

    A priori z is N(0, I), as the batch norm leaves it. i_g = m / (1 + m / theta) is what an NB
    count of mean m says of its log mean, with m the gene's share of ``library`` molecules, and is
    taken to grow with the library of a cell.

    Parameters
    ----------
    loadings
        (genes, latent) v.
    share, theta
        (genes,) of all molecules; inverse dispersion.
    library
        Molecules of a typical cell.
    """
    loadings, share, theta = (tensor.detach().cpu().double() for tensor in (loadings, share, theta))
    mean = library * share
    information, axes = torch.linalg.eigh((loadings.T * (mean / (1 + mean / theta))) @ loadings)
    return StateUncertainty(axes, information.clamp_min(0) / library)


def level_variance(information: Tensor, *, batch_scale: float) -> Tensor:
    """Variance of a gene's log level in each batch, (batches, genes).

    Levels of the batches are N(b, ``batch_scale``^2) around a level b of which nothing is known a
    priori, and counts say I of each::

        s^2 r + r^2 / sum over batches of I r,      r = 1 / (1 + s^2 I)

    1 / I for a single batch.

    Parameters
    ----------
    information
        (batches, genes) I, >= 0, and > 0 in one of them.
    batch_scale
        s, which says nothing where there is one batch.
    """
    variance = 0.0 if len(information) == 1 else batch_scale**2
    kept = 1 / (1 + variance * information)
    return variance * kept + kept.square() / (information * kept).sum(0)


class MeanUncertainty(nn.Module):
    """Variance of log mu given the counts, for a trained network; 0 before :meth:`learn`."""

    by_level: Tensor
    loading_axes: Tensor
    by_loadings: Tensor
    state_information: Tensor
    by_state: Tensor

    def __init__(self, n_batches: int, n_genes: int, n_latent: int) -> None:
        super().__init__()
        self.register_buffer("by_level", torch.zeros(n_batches, n_genes))
        self.register_buffer("loading_axes", torch.zeros(n_latent, n_latent))
        self.register_buffer("by_loadings", torch.zeros(n_genes, n_latent))
        self.register_buffer("state_information", torch.zeros(n_latent))
        self.register_buffer("by_state", torch.zeros(n_genes, n_latent))

    @torch.no_grad()
    def learn(
        self,
        of_levels: Tensor,
        of_loadings: LoadingUncertainty,
        probability: Tensor,
        of_states: StateUncertainty,
        loadings: Tensor,
    ) -> None:
        """Take over the posteriors.

        Parameters
        ----------
        of_levels
            (batches, genes) variances.
        of_loadings
            Of genes that follow the state.
        probability
            (genes,) that a gene follows it.
        of_states
            Of cells.
        loadings
            (genes, latent), as far as estimates follow them.
        """
        self.by_level.copy_(of_levels)
        self.loading_axes.copy_(of_loadings.axes)
        self.by_loadings.copy_(probability[:, None] * of_loadings.variance)
        self.state_information.copy_(of_states.information)
        self.by_state.copy_((loadings.cpu().double() @ of_states.axes).square())

    def forward(
        self, z: Tensor, molecules: Tensor, batch: Tensor, genes: Tensor | None = None
    ) -> Tensor:
        """Variance of log mu, (cells, genes).

        ::

            Var(level)  +  P(g follows the state) z^T Cov(v_g) z  +  v_g^T Cov(z) v_g

        Parameters
        ----------
        z
            (cells, latent) embedding.
        molecules
            (cells,) from which ``z`` was found.
        batch
            (cells,) batch of each.
        genes
            Positions of the genes wanted; all if None.
        """
        of_levels, of_genes = self.by_level, torch.cat([self.by_loadings, self.by_state], 1)
        if genes is not None:
            of_levels, of_genes = of_levels[:, genes], of_genes.index_select(0, genes)
        of_loadings = (z @ self.loading_axes).square()
        of_states = 1 / (1 + molecules[:, None] * self.state_information)
        variance = F.linear(torch.cat([of_loadings, of_states], 1), of_genes)
        return variance + of_levels.index_select(0, batch)
