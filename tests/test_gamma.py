"""Quantiles of Gamma distributions against scipy."""

import numpy as np
import pytest
from scipy import special

from graphsci._gamma import gamma_quantile


@pytest.mark.parametrize("probability", [1e-6, 5e-4, 0.05, 0.5, 0.95, 1 - 1e-6])
def test_quantiles_are_scipys(probability):
    """Also outside of the table, between 1e-3 and 1e7."""
    shape = np.exp(np.random.default_rng(0).uniform(np.log(1e-5), np.log(1e9), (7, 5000)))
    found, truth = gamma_quantile(shape, probability), special.gammaincinv(shape, probability)
    assert found.shape == shape.shape
    there = truth > 1e-290
    np.testing.assert_allclose(found[there], truth[there], rtol=3e-9)
    assert (found[~there] < 1e-289).all()


def test_exponential_distributions_by_hand():
    assert gamma_quantile(np.ones(1), 0.5) == pytest.approx(np.log(2), rel=1e-9)


def test_of_nothing_there_is_nothing():
    assert gamma_quantile(np.zeros((0, 3)), 0.5).shape == (0, 3)
