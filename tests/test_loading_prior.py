"""EM for the covariance of the loadings against matrix formulas and simulated loadings."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from graphsci.nn.loading_prior import (
    loading_scale_for,
    log_mean_information,
    scored_share,
    updated_covariance,
)


@pytest.mark.parametrize(
    ("n_cells", "asked", "chosen"),
    [(50, 0, 0.07), (490, 0, 0.07), (810, 0, 0.09), (1000, 0, 0.1), (10**6, 0, 0.1), (50, 2, 2)],
)
def test_width_at_the_start(n_cells, asked, chosen):
    assert loading_scale_for(n_cells, asked) == pytest.approx(chosen)


def test_information_by_hand():
    """100 molecules in 50 cells, half of them scored: mean 1; theta 1 halves what 50 cells say."""
    scored = 0.5 * torch.tensor([100.0, 100.0, 0.0]) / 50
    known = 50 * log_mean_information(scored, torch.tensor([1.0, 1e12, 1.0]))
    torch.testing.assert_close(known, torch.tensor([25.0, 50.0, 0.0]))


@pytest.mark.parametrize("theta", [0.3, 2.0, 50.0])
@pytest.mark.parametrize("mean", [0.05, 1.0, 40.0])
def test_information_is_that_of_all_counts(mean, theta):
    """The mean square of d log p / d log mean over the counts of an NB."""
    counts = np.arange(int(20 * mean + 200 + 30 * mean / theta))
    share = theta / (theta + mean)
    score = counts - (counts + theta) * mean / (mean + theta)
    exact = (stats.nbinom.pmf(counts, theta, share) * score**2).sum()
    found = log_mean_information(*(torch.tensor([x]).double() for x in (mean, theta)))
    assert float(found) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("mean", [0.01, 0.7, 5.0])
def test_what_a_step_scores_is_the_information_of_one_part_given_the_other(mean):
    """All pairs of a kept and a scored count; the score by a difference quotient."""
    theta, kept = 1.5, 0.6

    def log_p(mean):
        k, t = np.ogrid[:250, :250]
        rate = (theta + k) * (1 - kept) * mean / (theta + kept * mean)
        size = theta + k
        return stats.nbinom.logpmf(t, size, size / (size + rate))

    joint = np.exp(log_p(mean)) * stats.nbinom.pmf(
        np.arange(250)[:, None], theta, theta / (theta + kept * mean)
    )
    score = (log_p(mean * math.exp(1e-5)) - log_p(mean * math.exp(-1e-5))) / 2e-5
    m, t = (torch.tensor([x]).double() for x in (mean, theta))
    divided = scored_share(m, t, kept=kept, hidden_share=0.0) * log_mean_information(m, t)
    assert float(divided) == pytest.approx((joint * score**2).sum(), rel=1e-4)
    mixed = scored_share(m, t, kept=[kept, kept], hidden_share=0.25) * log_mean_information(m, t)
    assert float(mixed) == pytest.approx(float(0.75 * divided + 0.25 * log_mean_information(m, t)))


def random_problem(n_genes=40, n_latent=4, seed=0):
    rng = np.random.default_rng(seed)
    covariance, moment = (m @ m.T for m in rng.normal(size=(2, n_latent, n_latent)))
    return covariance, rng.normal(size=(n_genes, n_latent)), moment, rng.exponential(size=n_genes)


def test_step_is_the_mean_second_moment_of_the_posteriors():
    """A dense inverse for every gene."""
    covariance, loadings, moment, known = random_problem()
    posterior = [
        np.outer(v, v) + np.linalg.inv(np.linalg.inv(covariance) + i * moment)
        for v, i in zip(loadings, known, strict=True)
    ]
    problem = map(torch.as_tensor, (covariance, loadings, moment, known))
    updated = updated_covariance(*problem, smallest_variance=0)
    np.testing.assert_allclose(updated.numpy(), np.mean(posterior, axis=0), rtol=1e-9)


def test_genes_without_molecules_leave_the_prior_as_it_is():
    covariance, _, moment, _ = random_problem()
    nothing = torch.zeros(10, 4), torch.as_tensor(moment), torch.zeros(10)
    updated = updated_covariance(torch.as_tensor(covariance), *nothing, smallest_variance=0)
    np.testing.assert_allclose(updated.numpy(), covariance, rtol=1e-9)


def test_directions_that_no_cell_uses_keep_their_width():
    """Loadings 0, z along the first axis alone: there 1 / (1 / .25 + 2 I), elsewhere .25."""
    moment = torch.zeros(3, 3)
    moment[0, 0] = 2.0
    known = torch.tensor([1.0, 8.0])
    start = 0.25 * torch.eye(3), torch.zeros(2, 3)
    updated = updated_covariance(*start, moment, known, smallest_variance=0)
    used = (1 / (4 + 2 * 1) + 1 / (4 + 2 * 8)) / 2
    torch.testing.assert_close(updated, torch.diag(torch.tensor([used, 0.25, 0.25])).double())


@pytest.mark.parametrize(("smallest", "left"), [(0, 1e-4), (0.25, 0.25)])
def test_no_direction_becomes_too_narrow_and_the_covariance_can_be_inverted(smallest, left):
    """All that is known says 0, a hundred times; one direction is 10^8 times as wide."""
    covariance = torch.diag(torch.tensor([1e4, 1.0, 1.0], dtype=torch.float64))
    moment, known = torch.diag(torch.tensor([0.0, 1.0, 1.0])), torch.full((5,), 1e9)
    for _ in range(100):
        loadings = torch.zeros(5, 3)
        covariance = updated_covariance(
            covariance, loadings, moment, known, smallest_variance=smallest
        )
    torch.testing.assert_close(
        covariance.diagonal(), torch.tensor([1e4, left, left], dtype=torch.float64)
    )
    torch.linalg.cholesky(covariance)


def test_em_finds_the_covariance_that_loadings_were_drawn_from():
    """Gaussian data, where EM is exact: the posterior mean is what the optimiser finds."""
    rng = np.random.default_rng(1)
    true = np.diag([1.0, 0.25, 0.01]) ** 2
    loadings = rng.multivariate_normal(np.zeros(3), true, size=4000)
    known = rng.exponential(50.0, size=4000)
    noisy = loadings + rng.normal(size=loadings.shape) / np.sqrt(known)[:, None]
    covariance = torch.eye(3, dtype=torch.float64) * 0.1**2
    for _ in range(300):
        weight = covariance @ torch.linalg.inv(
            covariance + torch.eye(3) / torch.as_tensor(known)[:, None, None]
        )
        found = torch.einsum("gij,gj->gi", weight, torch.as_tensor(noisy))
        covariance = updated_covariance(
            covariance, found, torch.eye(3), torch.as_tensor(known), smallest_variance=0
        )
    widths = covariance.diagonal().sqrt().numpy()
    np.testing.assert_allclose(widths[:2], [1.0, 0.25], rtol=0.05)
    assert widths[2] < 0.05
