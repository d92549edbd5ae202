"""The prior of theta against sums over all counts, least squares and simulated genes."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from graphsci.nn.dispersion_prior import (
    SMALLEST_VARIANCE,
    DispersionPrior,
    log_theta_information,
    scored_information,
    updated_trend,
)
from graphsci.training.objectives import N_SHARES


def exact_information(mean, theta):
    """Mean square of d log p / d log theta over the counts of an NB."""
    counts = np.arange(int(20 * mean + 200 + 30 * mean / theta))
    share = theta / (theta + mean)
    score = special.digamma(counts + theta) - special.digamma(theta)
    score += np.log(share) + 1 - (counts + theta) / (theta + mean)
    return (stats.nbinom.pmf(counts, theta, share) * (theta * score) ** 2).sum()


@pytest.mark.parametrize("theta", [0.2, 1.0, 5.0, 30.0])
@pytest.mark.parametrize("mean", [0.01, 0.1, 1.0, 10.0, 100.0])
def test_information_is_near_that_of_all_counts(mean, theta):
    found = float(log_theta_information(torch.tensor(mean).double(), torch.tensor(theta).double()))
    tight = theta >= 5 and mean <= 10
    assert found == pytest.approx(exact_information(mean, theta), rel=0.03 if tight else 0.36)


def test_what_a_step_scores_is_the_information_of_one_part_given_the_other():
    """All pairs of a kept and a scored count; the score by a difference quotient."""
    mean, theta, kept = 0.7, 1.5, 0.6

    def log_p(theta):
        k, t = np.ogrid[:60, :60]
        rate = (theta + k) * (1 - kept) * mean / (theta + kept * mean)
        size = theta + k
        return stats.nbinom.logpmf(t, size, size / (size + rate))

    joint = np.exp(log_p(theta)) * stats.nbinom.pmf(
        np.arange(60)[:, None], theta, theta / (theta + kept * mean)
    )
    assert joint.sum() == pytest.approx(1)
    score = (log_p(theta * math.exp(1e-5)) - log_p(theta * math.exp(-1e-5))) / 2e-5
    found = scored_information(
        torch.tensor([mean]).double(), torch.tensor([theta]).double(), kept=[kept]
    )
    assert float(found) == pytest.approx((joint * score**2).sum(), rel=0.03)


def test_shares_are_averaged_and_hidden_counts_scored_as_a_whole():
    """The nine shares that training asks for are as good as the integral over the range."""
    mean, theta = torch.tensor([0.3, 4.0]).double(), torch.tensor([2.0, 0.7]).double()
    shares = np.linspace(0.4, 0.9, 2001)
    of_kept = np.mean(
        [log_theta_information(share * mean, theta).numpy() for share in shares], axis=0
    )
    whole = log_theta_information(mean, theta).numpy()
    nine = np.linspace(0.4, 0.9, N_SHARES).tolist()
    found = scored_information(mean, theta, kept=nine)
    np.testing.assert_allclose(found.numpy(), whole - of_kept, rtol=0.02)
    mixed = scored_information(mean, theta, kept=nine, hidden_share=0.25)
    np.testing.assert_allclose(mixed.numpy(), 0.75 * found.numpy() + 0.25 * whole, rtol=1e-12)


def test_genes_weigh_by_what_they_say_of_the_trend():
    """Half of the genes are known five times as badly as the spread is wide."""
    rng = np.random.default_rng(0)
    log_mean, log_theta = rng.normal(size=(2, 60))
    known = np.where(np.arange(60) < 30, 1e9, 1 / 25)
    found = updated_trend(DispersionPrior(), *map(torch.tensor, (log_theta, log_mean, known)))
    root = np.sqrt(1 / (1 + 1 / known))
    design = np.stack([np.ones(60), log_mean], 1) * root[:, None]
    design = np.concatenate([design, np.eye(2)])  # a and b are N(0, 1)
    values = np.concatenate([log_theta * root, np.zeros(2)])
    expected = np.linalg.lstsq(design, values, rcond=None)[0]
    assert found[:2] == pytest.approx(tuple(expected), rel=1e-6)


def test_known_thetas_are_fitted_by_least_squares():
    rng = np.random.default_rng(0)
    log_mean = rng.normal(size=200)
    log_theta = 1 + 0.5 * log_mean + rng.normal(size=200)
    known = torch.full((200,), 1e12)
    trend = updated_trend(
        DispersionPrior(variance=1e-6), torch.tensor(log_theta), torch.tensor(log_mean), known
    )
    slope, intercept = np.polyfit(log_mean, log_theta, 1)
    assert (trend.intercept, trend.slope) == pytest.approx((intercept, slope), rel=1e-5)
    residuals = log_theta - intercept - slope * log_mean
    assert trend.variance == pytest.approx(np.mean(residuals**2) + 1e-6, rel=1e-5)


def test_genes_whose_counts_say_nothing_leave_the_prior_as_it_is():
    nothing = torch.zeros(5)
    start = DispersionPrior(0.0, 0.0, 0.7)
    assert updated_trend(start, nothing, torch.arange(5.0), nothing) == pytest.approx(start)


def test_genes_of_one_mean_and_no_spread_still_have_a_prior():
    same = torch.ones(5)
    trend = updated_trend(DispersionPrior(), same, same, 1e12 * same)
    assert trend.expected(1.0) == pytest.approx(1.0, abs=0.2)
    assert trend.variance == SMALLEST_VARIANCE


def test_the_trend_of_simulated_genes_is_found():
    """log theta ~ N(1 + .4 log mean, .8); of half of the genes the counts say next to nothing."""
    rng = np.random.default_rng(1)
    log_mean = rng.normal(-2, 2, size=4000)
    true = 1 + 0.4 * log_mean + rng.normal(0, math.sqrt(0.8), size=4000)
    known = np.exp(2 * log_mean + 4)
    alone = true + rng.normal(size=4000) / np.sqrt(known)  # without a prior
    prior = DispersionPrior()
    for _ in range(200):
        expected = prior.intercept + prior.slope * log_mean
        learned = (known * alone + expected / prior.variance) / (known + 1 / prior.variance)
        prior = updated_trend(prior, *map(torch.tensor, (learned, log_mean, known)))
    assert prior == pytest.approx((1, 0.4, 0.8), abs=0.1)
    few = known < 0.1
    assert few.mean() > 0.2
    assert np.mean((learned - true)[few] ** 2) < 1.2 * 0.8 < np.mean((alone - true)[few] ** 2)
