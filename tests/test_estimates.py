"""The three estimates against numerical integration and their laws."""

import numpy as np
import pytest
import torch
from scipy import stats

from graphsci import estimates as es
from graphsci.nn.model_parts import CountDistribution


def distribution(mean, theta, logits=None) -> CountDistribution:
    as_block = lambda v: torch.tensor([[v]], dtype=torch.float64)  # noqa: E731
    return CountDistribution(
        as_block(mean),
        torch.tensor([theta], dtype=torch.float64),
        None if logits is None else as_block(logits),
    )


def integrated(x: int, mu: float, theta: float, pi: float) -> tuple[float, float]:
    """Posterior mean and sd of the rate, by integrating prior times likelihood."""
    rate = np.linspace(1e-8, 400, 2_000_001)
    prior = stats.gamma.pdf(rate, theta, scale=mu / theta)
    likelihood = (1 - pi) * stats.poisson.pmf(x, rate) + pi * (x == 0)
    weight = prior * likelihood
    weight /= np.trapezoid(weight, rate)
    mean = np.trapezoid(weight * rate, rate)
    return mean, np.sqrt(np.trapezoid(weight * (rate - mean) ** 2, rate))


@pytest.mark.parametrize(("x", "mu", "theta"), [(0, 2.0, 1.5), (3, 2.0, 4.0), (40, 12.0, 2.5)])
def test_denoised_matches_integration(x, mu, theta):
    rate = es.posterior(distribution(mu, theta), torch.tensor([[float(x)]]).double())
    mean, sd = integrated(x, mu, theta, pi=0.0)
    assert es.denoised(rate).item() == pytest.approx(mean, rel=1e-4)
    assert es.denoised_sd(rate).item() == pytest.approx(sd, rel=1e-4)
    lower, upper = es.interval(rate, 0.9)
    gamma = stats.gamma(x + theta, scale=mu / (mu + theta))
    assert (lower.item(), upper.item()) == pytest.approx((gamma.ppf(0.05), gamma.ppf(0.95)))


@pytest.mark.parametrize(("x", "pi"), [(0, 0.4), (0, 0.95), (2, 0.4)])
def test_denoised_with_dropout_matches_integration(x, pi):
    mu, theta = 3.0, 1.7
    logit = float(np.log(pi / (1 - pi)))
    rate = es.posterior(distribution(mu, theta, logit), torch.tensor([[float(x)]]).double())
    mean, sd = integrated(x, mu, theta, pi)
    assert es.denoised(rate).item() == pytest.approx(mean, rel=1e-4)
    assert es.denoised_sd(rate).item() == pytest.approx(sd, rel=1e-4)


@pytest.mark.parametrize(("x", "logit"), [(0, None), (4, None), (0, 1.0), (4, 1.0)])
def test_uncertain_mean_adds_by_the_law_of_total_variance(x, logit):
    """log mu ~ N(log 3, q) by quadrature, the probability of dropout as it is at its middle."""
    mu, theta, q = 3.0, 1.7, 1e-3
    counts = torch.tensor([[float(x)]]).double()
    dropped = es.posterior(distribution(mu, theta, logit), counts).dropped
    nodes, weights = np.polynomial.hermite_e.hermegauss(9)
    weights /= weights.sum()
    rates = [
        es.posterior(distribution(mu * np.exp(node * q**0.5), theta), counts)._replace(
            dropped=dropped
        )
        for node in nodes
    ]
    mean = np.array([es.denoised(rate).item() for rate in rates])
    within = np.array([es.denoised_sd(rate).item() ** 2 for rate in rates])
    variance = weights @ within + weights @ mean**2 - (weights @ mean) ** 2
    known = es.posterior(distribution(mu, theta, logit), counts)
    uncertain = es.posterior(distribution(mu, theta, logit), counts, torch.tensor([[q]]).double())
    of_mean = weights @ mean**2 - (weights @ mean) ** 2
    found = es.denoised_sd(uncertain).item() ** 2 - es.denoised_sd(known).item() ** 2
    assert found == pytest.approx(of_mean, rel=1e-2)
    assert es.denoised_sd(uncertain).item() ** 2 == pytest.approx(variance, rel=3 * q)
    assert es.denoised(uncertain) == es.denoised(known)
    assert es.imputed(uncertain) == es.imputed(known)


def test_interval_of_an_uncertain_mean_has_its_mean_and_variance():
    counts = torch.tensor([[2.0]]).double()
    rate = es.posterior(distribution(3.0, 1.7), counts, torch.tensor([[0.4]]).double())
    mean, sd = es.denoised(rate).item(), es.denoised_sd(rate).item()
    gamma = stats.gamma((mean / sd) ** 2, scale=sd**2 / mean)
    lower, upper = es.interval(rate, 0.9)
    assert (lower.item(), upper.item()) == pytest.approx((gamma.ppf(0.05), gamma.ppf(0.95)))


def test_interval_of_nothing_is_nothing():
    """A mean that underflowed to 0 in a cell without the gene."""
    rate = es.posterior(distribution(0.0, 1.7), torch.zeros(1, 1).double())
    assert [bound.item() for bound in es.interval(rate, 0.9)] == [0, 0]


def test_imputed_by_hand():
    """mu = 3, theta = 1: NB(0) = 1/4. pi = 1/2: P(dropped | 0) = (1/2) / (1/2 + 1/8) = 0.8."""
    rate = es.posterior(distribution(3.0, 1.0, 0.0), torch.zeros(1, 1).double())
    assert es.imputed(rate).item() == pytest.approx(0.8 * 3.0)


def test_imputed_median_by_hand():
    """mu = 3, theta = 1: geometric, F(m) = 1 - (3/4)^(m+1). pi / (1 - pi) = e^2.

    P(dropped | 0) = e^2 / (e^2 + 1/4) = .967, so the median is that of the geometric at
    1 - .5 / .967 = .483: F(1) = .4375, F(2) = .578.
    """
    rate = es.posterior(distribution(3.0, 1.0, 2.0), torch.zeros(1, 1).double())
    assert es.imputed_median(rate).item() == 2


@pytest.mark.parametrize("logit", [-3.0, 0.0, 1.0, 3.0])
@pytest.mark.parametrize(("mu", "theta"), [(0.3, 1.0), (2.0, 0.7), (9.0, 4.0), (60.0, 1e4)])
def test_imputed_median_is_the_median_of_the_count_before_dropout(mu, theta, logit):
    rate = es.posterior(distribution(mu, theta, logit), torch.zeros(1, 1).double())
    counts, dropped = np.arange(500), rate.dropped.item()
    chance = dropped * stats.nbinom.pmf(counts, theta, theta / (theta + mu))
    chance[0] += 1 - dropped
    found = es.imputed_median(rate).item()
    assert found == np.searchsorted(chance.cumsum(), 0.5)
    error = lambda value: (chance * abs(np.log1p(counts) - np.log1p(value))).sum()  # noqa: E731
    assert error(found) <= min(error(es.imputed(rate).item()), error(0), error(found + 1))


def test_imputed_median_keeps_what_was_measured():
    counts = torch.tensor([[0.0, 1.0, 7.0]])
    mean, theta = torch.tensor([[9.0, 9.0, 9.0]]), torch.tensor([2.0, 2.0, 2.0])
    found = es.imputed_median(
        es.posterior(CountDistribution(mean, theta, torch.full((1, 3), 2.0)), counts)
    )
    assert found[0, 1:].tolist() == [1, 7]
    assert found[0, 0] > 0
    without = es.posterior(CountDistribution(mean, theta, None), counts)
    assert torch.equal(es.imputed_median(without), counts)


def test_imputed_preserves_measured_values_and_equals_counts_without_dropout():
    counts = torch.tensor([[0.0, 1.0, 7.0]])
    predicted = CountDistribution(torch.full((1, 3), 2.0), torch.ones(3), torch.zeros(1, 3))
    assert torch.equal(es.imputed(es.posterior(predicted, counts))[0, 1:], counts[0, 1:])
    no_dropout = predicted._replace(zero_inflation_logits=None)
    assert torch.equal(es.imputed(es.posterior(no_dropout, counts)), counts)


def test_denoised_limits():
    counts = torch.tensor([[0.0, 5.0]]).double()
    mean = torch.full((1, 2), 2.0).double()
    certain = es.posterior(CountDistribution(mean, torch.full((2,), 1e12).double(), None), counts)
    torch.testing.assert_close(es.denoised(certain), mean)
    vague = es.posterior(CountDistribution(mean, torch.full((2,), 1e-9).double(), None), counts)
    torch.testing.assert_close(es.denoised(vague), counts, atol=1e-8, rtol=1e-6)


def test_rescale_common_depth_and_log():
    values = {"denoised": np.array([[2.0, 4.0]]), "denoised_sd": np.array([[1.0, 1.0]])}
    out = es.rescale(values, size_factors=np.array([2.0]), depth="common", scale="log1p")
    np.testing.assert_allclose(out["denoised"], np.log1p([[1.0, 2.0]]))
    np.testing.assert_allclose(out["denoised_sd"], [[0.5 / 2, 0.5 / 3]])
    same = es.rescale(values, size_factors=np.array([2.0]), depth="own", scale="counts")
    np.testing.assert_array_equal(same["denoised"], values["denoised"])


def test_estimate_names():
    assert es.estimate_names(("denoised", "imputed"), 0.9) == (
        "denoised",
        "denoised_sd",
        "denoised_lower",
        "denoised_upper",
        "imputed",
    )
