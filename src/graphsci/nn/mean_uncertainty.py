"""How well the counts determine the mean of an entry, by the preset `default`.

log mu = level of the gene in the batch + z . v. The level is as uncertain as the gene's molecules
in all cells leave it, and so are its loadings v; the state z of a cell as the cell's own molecules
do. All three posteriors are normal (Laplace) around what was learned, the loadings' with one set
of axes for all genes and the states' with one for all cells, so that the variance of every entry
is a matrix product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphsci.nn.loading_prior import SMALLEST_SHARE, log_mean_information, shared_axes
from graphsci.nn.model_parts import CellBlock, CountDistribution
from graphsci.nn.state_axes import StateAxes


def information_of_entries(predicted: CountDistribution) -> Tensor:
    """What a count says of log mu, (cells, genes).

    :func:`.log_mean_information` of an NB count. Under ZINB times the probability that the entry
    was not dropped, as if that were seen: more than the count says.
    """
    mean, theta, logits = predicted
    known = log_mean_information(mean, theta)
    return known if logits is None else known * torch.sigmoid(-logits)


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
    by_state: Tensor
    library: Tensor
    saturation: Tensor

    def __init__(self, n_batches: int, n_genes: int, n_latent: int) -> None:
        super().__init__()
        self.register_buffer("by_level", torch.zeros(n_batches, n_genes))
        self.register_buffer("loading_axes", torch.zeros(n_latent, n_latent))
        self.register_buffer("by_loadings", torch.zeros(n_genes, n_latent))
        self.states = StateAxes(n_latent)
        self.register_buffer("by_state", torch.zeros(n_genes, n_latent))
        self.register_buffer("library", torch.ones(()))
        self.register_buffer("saturation", torch.zeros(()))

    @torch.no_grad()
    def learn(
        self,
        *,
        information: Tensor,
        molecules: Tensor,
        n_cells: int,
        loadings: Tensor,
        loading_covariance: Tensor,
        second_moment: Tensor,
        probability: Tensor,
        batch_scale: float,
    ) -> None:
        """Find the three posteriors, and the axes of the states.

        Parameters
        ----------
        information
            (batches, genes) what the cells of each batch say of a gene's log mean, > 0
            (:func:`information_of_entries`).
        molecules
            (genes,) of each gene in all cells, > 0.
        n_cells
            Cells in which both were counted.
        loadings
            (genes, latent) v, as far as estimates follow them.
        loading_covariance
            (latent, latent) S, of the loadings a priori.
        second_moment
            (latent, latent) M = E[z z^T] over the cells.
        probability
            (genes,) that a gene follows the state.
        batch_scale
            Standard deviation of a batch's level around that of all.
        """
        information, molecules, loadings, moment, probability = (
            tensor.detach().cpu().double()
            for tensor in (information, molecules, loadings, second_moment, probability)
        )
        by_gene = information.sum(0)
        self.by_level.copy_(level_variance(information, batch_scale=batch_scale))
        axes, strength = shared_axes(loading_covariance, moment)
        self.loading_axes.copy_(axes)
        self.by_loadings.copy_(probability[:, None] / (1 + by_gene[:, None] * strength))
        # a common shift of all loadings changes no share, and nothing below
        loadings = loadings - (molecules / molecules.sum()) @ loadings
        known = (loadings.T * (by_gene / n_cells)) @ loadings  # in a typical cell, of z
        least = SMALLEST_SHARE * moment.trace()  # of few cells M is singular
        self.states.learn(moment + least * torch.eye(len(moment)), known, loadings)
        self.by_state.copy_(self.states.of_genes(loadings.to(self.states.axes)).square())
        self.library.copy_(molecules.sum() / n_cells)
        self.saturation.copy_(_saturation(by_gene * loadings.square().sum(1), by_gene / molecules))

    def forward(self, z: Tensor, cells: CellBlock, genes: Tensor | None = None) -> Tensor:
        """Variance of log mu, (cells, genes).

        ::

            Var(level_g)  +  P_g z^T (S^-1 + I_g M)^-1 z  +  v_g^T (M^-1 + r H)^-1 v_g

        with P_g the probability that the gene follows the state, I_g what all cells say of its log
        mean, H = sum_g I_g v_g v_g^T / cells what a typical cell says of its state, and r how many
        times that this cell says.

        Parameters
        ----------
        z
            (cells, latent) embedding.
        cells
            From whose ``library`` molecules ``z`` was found, with their batch.
        genes
            Positions of the genes wanted; all if None.
        """
        of_levels, of_genes = self.by_level, torch.cat([self.by_loadings, self.by_state], 1)
        if genes is not None:
            of_levels, of_genes = of_levels[:, genes], of_genes.index_select(0, genes)
        of_loadings = (z @ self.loading_axes).square()
        relative = self._relative_information(cells.library)
        of_states = 1 / (1 + relative[:, None] * self.states.strength)
        variance = F.linear(torch.cat([of_loadings, of_states], 1), of_genes)
        return variance + of_levels.index_select(0, cells.batch)

    def _relative_information(self, molecules: Tensor) -> Tensor:
        """What ``molecules`` (cells,) say of a state, 1 for a typical cell; it saturates.

        (1 + k) t / (1 + k t) of t times the typical number: right to first order around it.
        """
        times = molecules / self.library
        return (1 + self.saturation) * times / (1 + self.saturation * times)


def _saturation(weight: Tensor, unsaturated: Tensor) -> Tensor:
    """K of :meth:`MeanUncertainty._relative_information`, scalar.

    Of m molecules the information m / (1 + m / theta) grows by 1 / (1 + m / theta) of itself, which
    is information per molecule; 1 / (1 + k) is the mean over the genes.

    Parameters
    ----------
    weight
        (genes,) what they say of states.
    unsaturated
        (genes,) information per molecule.
    """
    if not weight.sum() > 0:
        return torch.zeros(())
    slope = (weight * unsaturated.clamp(0, 1)).sum() / weight.sum()
    return 1 / slope - 1
