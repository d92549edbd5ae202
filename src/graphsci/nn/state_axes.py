"""Axes in which cells are reported: by how well a cell's counts tell states apart along them.

In the latent space in which training works every direction has variance 1, those that say next
to nothing too. Neighbours found there are neighbours in noise. The axes reported are those along
which the states of cells are uncorrelated and what a typical cell says of its state is so as well
(canonical axes of the two matrices), with its standard error for a unit, the clearest first.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphsci.nn.loading_prior import shared_axes

#: Precision along an axis that says nothing, so that coordinates can always be turned back.
_LEAST = 1e-9


class StateAxes(nn.Module):
    """Linear map between a network's latent space and the coordinates reported.

    ::

        z = A y,      E[y y^T] = 1,      A^T H A = diag(s),      coordinates  s^1/2 y

    with H what the counts of a typical cell say of its state (Fisher information). So two cells
    at distance d differ by d standard errors of a typical cell's state, and the standard
    deviation of an axis over the cells is s^1/2. The identity before :meth:`learn`.
    """

    axes: Tensor
    inverse: Tensor
    strength: Tensor

    def __init__(self, n_latent: int) -> None:
        super().__init__()
        self.register_buffer("axes", torch.eye(n_latent))  # A
        self.register_buffer("inverse", torch.eye(n_latent))
        self.register_buffer("strength", torch.ones(n_latent))  # s

    @torch.no_grad()
    def learn(self, second_moment: Tensor, known: Tensor, loadings: Tensor) -> None:
        """Find the axes.

        Parameters
        ----------
        second_moment
            (latent, latent) E[z z^T] over the cells, positive definite.
        known
            (latent, latent) H.
        loadings
            (genes, latent) of the genes, which decide the signs: the largest of an axis is > 0.
        """
        axes, strength = (part.flip(-1) for part in shared_axes(second_moment, known))
        along = loadings.detach().cpu().double() @ axes
        largest = along.gather(0, along.abs().argmax(0, keepdim=True))
        axes = axes * torch.where(largest < 0, -1.0, 1.0)
        self.axes.copy_(axes)
        self.inverse.copy_(torch.linalg.inv(axes))
        self.strength.copy_(strength.clamp_min(_LEAST))

    @property
    def spread(self) -> Tensor:
        """Standard deviation of the coordinates over the cells trained on, (latent,)."""
        return self.strength.sqrt()

    def of_cells(self, z: Tensor) -> Tensor:
        """Coordinates of cells at ``z`` (cells, latent)."""
        return z @ self.inverse.T * self.spread

    def to_z(self, coordinates: Tensor) -> Tensor:
        """Where cells of these ``coordinates`` (cells, latent) are in the latent space."""
        return coordinates / self.spread @ self.axes.T

    def of_genes(self, loadings: Tensor) -> Tensor:
        """What ``loadings`` (genes, latent) are per standard deviation of each axis."""
        return loadings @ self.axes

    def of_weights(self, weights: Tensor) -> Tensor:
        """What ``weights`` (latent,) of z are of the coordinates."""
        return weights @ self.axes / self.spread
