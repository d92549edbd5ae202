"""Uncertainty of log mu against dense inverses, hand-worked cases and simulated rates."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats

from graphsci import GraphSCI
from graphsci.loading_prior import loading_uncertainty
from graphsci.mean_uncertainty import MeanUncertainty, level_variance, state_uncertainty

N_GENES, N_LATENT, N_CELLS = 12, 4, 5


@pytest.fixture
def problem():
    rng = np.random.default_rng(3)
    root, moment = rng.normal(size=(2, N_LATENT, N_LATENT))
    return {
        "covariance": root @ root.T,
        "moment": moment @ moment.T,
        "known": rng.exponential(size=N_GENES) * 5,
        "loadings": rng.normal(size=(N_GENES, N_LATENT)),
        "share": rng.dirichlet(np.ones(N_GENES)),
        "theta": rng.exponential(size=N_GENES) + 0.1,
        "probability": rng.uniform(size=N_GENES),
        "levels": rng.exponential(size=(2, N_GENES)),
        "z": rng.normal(size=(N_CELLS, N_LATENT)),
        "molecules": rng.integers(0, 400, N_CELLS).astype(float),
        "batch": rng.integers(0, 2, N_CELLS),
    }


def dense_state_covariance(problem, library, at):
    """Inverse of the prior's precision plus what a library of ``at`` says, linear from ``library``.

    (latent, latent)
    """
    mean = library * problem["share"]
    known = mean / (1 + mean / problem["theta"]) * at / library
    v = problem["loadings"]
    return np.linalg.inv(np.eye(N_LATENT) + (v.T * known) @ v)


@pytest.mark.parametrize("molecules", [0.0, 50.0, 700.0])
def test_state_uncertainty_is_the_dense_inverse(problem, molecules):
    tensors = (torch.from_numpy(problem[name]) for name in ("loadings", "share", "theta"))
    axes, information = state_uncertainty(*tensors, library=200.0)
    found = (axes / (1 + molecules * information)) @ axes.T
    np.testing.assert_allclose(found, dense_state_covariance(problem, 200.0, molecules), atol=1e-14)


def test_level_of_one_batch_is_known_by_its_information():
    known = torch.tensor([[4.0, 0.5]])
    torch.testing.assert_close(level_variance(known, batch_scale=1.0), 1 / known)


@pytest.mark.parametrize("scale", [0.3, 2.0])
def test_level_variance_is_that_of_the_joint_posterior(scale):
    """Levels and their centre together: the inverse of a (batches + 1) precision matrix."""
    known = np.array([[3.0, 0.0], [0.2, 5.0], [40.0, 1.0]])
    found = level_variance(torch.from_numpy(known), batch_scale=scale)
    for gene, information in enumerate(known.T):
        precision = np.diag([*(information + scale**-2), len(information) * scale**-2])
        precision[-1, :-1] = precision[:-1, -1] = -(scale**-2)
        np.testing.assert_allclose(found[:, gene], np.linalg.inv(precision).diagonal()[:-1])


def test_batches_that_may_differ_by_anything_know_nothing_of_each_other():
    known = torch.tensor([[4.0], [0.5]]).double()
    torch.testing.assert_close(level_variance(known, batch_scale=1e4), 1 / known, rtol=1e-6, atol=0)


def test_variance_of_an_entry_is_the_sum_of_three(problem):
    """Against a loop over entries with dense covariances."""
    given = {name: torch.from_numpy(values) for name, values in problem.items()}
    uncertainty = MeanUncertainty(2, N_GENES, N_LATENT).double()
    cells = given["z"], given["molecules"], given["batch"]
    assert not uncertainty(*cells).any()  # before anything is known of it
    uncertainty.learn(
        given["levels"],
        loading_uncertainty(given["covariance"], given["moment"], given["known"]),
        given["probability"],
        state_uncertainty(given["loadings"], given["share"], given["theta"], library=200.0),
        given["loadings"],
    )
    expected = np.empty((N_CELLS, N_GENES))
    prior = np.linalg.inv(problem["covariance"])
    for c, z in enumerate(problem["z"]):
        of_state = dense_state_covariance(problem, 200.0, problem["molecules"][c])
        for g, v in enumerate(problem["loadings"]):
            of_loadings = np.linalg.inv(prior + problem["known"][g] * problem["moment"])
            expected[c, g] = problem["levels"][problem["batch"][c], g] + v @ of_state @ v
            expected[c, g] += problem["probability"][g] * z @ of_loadings @ z
    np.testing.assert_allclose(uncertainty(*cells), expected)
    some = torch.tensor([7, 2])
    np.testing.assert_allclose(uncertainty(*cells, some), expected[:, some])


def simulated_types(n_cells=400, n_genes=250, seed=0):
    """NB counts of three types of cells, and the rates they were drawn from."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 1.6, n_genes)
    change = rng.normal(size=(3, n_genes)) * (rng.random((3, n_genes)) < 0.2)
    share = np.exp(level + change[rng.integers(0, 3, n_cells)])
    mean = share / share.sum(1, keepdims=True) * 1500
    rate = rng.gamma(5.0, mean / 5.0)
    counts = rng.poisson(rate).astype(np.float32)
    found = counts.sum(0) > 0
    return AnnData(sparse.csr_matrix(counts[:, found])), rate[:, found]


def test_intervals_hold_as_many_true_rates_as_they_say():
    """Where counts are few, intervals that take mu as known hold clearly fewer."""
    adata, rate = simulated_types()
    model = GraphSCI(check=False, likelihood="nb", graph="none").fit(adata)
    out = model.impute(adata, estimates=["denoised", "mean"], interval=0.9, copy=True)
    held = (out.layers["denoised_lower"] <= rate) & (rate <= out.layers["denoised_upper"])
    kappa = model.certainty(adata)[:, None]
    theta = kappa ** model.state_weights().to_numpy() * model.inverse_dispersion().to_numpy()
    mu = out.layers["mean"]
    known = stats.gamma(adata.X.toarray() + theta, scale=mu / (mu + theta))
    held_if_known = (known.ppf(0.05) <= rate) & (rate <= known.ppf(0.95))
    rare = rate.mean(0) < 0.3
    assert 0.86 < held.mean() < 0.94
    assert 0.86 < held[:, rare].mean() < 0.94
    assert held_if_known[:, rare].mean() < held[:, rare].mean() - 0.03


def test_paper_preset_takes_its_mean_as_known(trained, toy):
    network = trained("paper").fitted.network
    assert network.log_mean_variance(torch.zeros(1, 2), torch.ones(1), torch.zeros(1)) is None
