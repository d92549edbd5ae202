"""Losses of held-out counts: all of :mod:`graphsci.count_loss`, which the judge measures by."""

from graphsci.count_loss import (
    CHANCE,
    FLOOR,
    DevianceSums,
    PairedDifference,
    d2,
    mean_difference,
    nb_deviance,
    nb_deviance_sums,
    paired_difference,
    poisson_deviance,
    poisson_deviance_sums,
    poisson_loss,
    poisson_loss_sums,
    significant_z,
)

__all__ = [
    "CHANCE",
    "FLOOR",
    "DevianceSums",
    "PairedDifference",
    "d2",
    "mean_difference",
    "nb_deviance",
    "nb_deviance_sums",
    "paired_difference",
    "poisson_deviance",
    "poisson_deviance_sums",
    "poisson_loss",
    "poisson_loss_sums",
    "significant_z",
]
