"""Uncertainty of log mu against dense inverses, hand-worked cases and simulated rates."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats

from graphsci import GraphSCI
from graphsci.nn.mean_uncertainty import MeanUncertainty, information_of_entries, level_variance
from graphsci.nn.model_parts import CellBlock, CountDistribution

N_BATCHES, N_GENES, N_LATENT, N_CELLS = 2, 12, 4, 5


@pytest.fixture
def problem():
    """What a network would know after training on 300 cells."""
    rng = np.random.default_rng(3)
    root, other = rng.normal(size=(2, N_LATENT, N_LATENT))
    molecules = rng.exponential(size=N_GENES) * 3000
    return {
        "information": molecules * rng.uniform(0.05, 0.5, (N_BATCHES, N_GENES)),
        "molecules": molecules,
        "loadings": rng.normal(size=(N_GENES, N_LATENT)),
        "loading_covariance": root @ root.T,
        "second_moment": other @ other.T,
        "probability": rng.uniform(size=N_GENES),
    }


@pytest.fixture
def cells():
    rng = np.random.default_rng(4)
    z = torch.from_numpy(rng.normal(size=(N_CELLS, N_LATENT)))
    library = torch.from_numpy(rng.integers(1, 400, N_CELLS).astype(float))
    nothing = torch.zeros(0)
    return z, CellBlock(nothing, nothing, nothing, library, torch.tensor([0, 1, 1, 0, 1]))


def learned(problem, **changes):
    given = {name: torch.from_numpy(values) for name, values in (problem | changes).items()}
    uncertainty = MeanUncertainty(N_BATCHES, N_GENES, N_LATENT).double()
    uncertainty.learn(**given, n_cells=300, batch_scale=0.7)
    return uncertainty


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


def relative_information(problem, library):
    """By its definition: right for a typical cell, with the mean slope of m / (1 + m / theta)."""
    share = problem["molecules"] / problem["molecules"].sum()
    centred = problem["loadings"] - share @ problem["loadings"]
    by_gene = problem["information"].sum(0)
    weight = by_gene * (centred**2).sum(1)
    slope = (weight * by_gene / problem["molecules"]).sum() / weight.sum()
    times = library / (problem["molecules"].sum() / 300)
    k = 1 / slope - 1
    return times * (1 + k) / (1 + k * times)


def test_variance_of_an_entry_is_the_sum_of_three(problem, cells):
    """Against a loop over entries with dense inverses."""
    z, block = cells
    assert not MeanUncertainty(N_BATCHES, N_GENES, N_LATENT).double()(z, block).any()
    by_gene, inverse = problem["information"].sum(0), np.linalg.inv
    levels = level_variance(torch.from_numpy(problem["information"]), batch_scale=0.7).numpy()
    share = problem["molecules"] / problem["molecules"].sum()
    centred = problem["loadings"] - share @ problem["loadings"]
    typical = (centred.T * by_gene / 300) @ centred
    moment = problem["second_moment"]
    expected = np.empty((N_CELLS, N_GENES))
    for c, (state, library, batch) in enumerate(
        zip(z.numpy(), block.library.tolist(), block.batch.tolist(), strict=True)
    ):
        of_state = inverse(inverse(moment) + relative_information(problem, library) * typical)
        for g, v in enumerate(centred):
            of_loadings = inverse(inverse(problem["loading_covariance"]) + by_gene[g] * moment)
            expected[c, g] = levels[batch, g] + v @ of_state @ v
            expected[c, g] += problem["probability"][g] * state @ of_loadings @ state
    found = learned(problem)
    np.testing.assert_allclose(found(z, block), expected, rtol=1e-5)
    some = torch.tensor([7, 2])
    np.testing.assert_allclose(found(z, block, some), expected[:, some], rtol=1e-5)


def test_a_shift_common_to_all_loadings_changes_nothing(problem, cells):
    """It changes no share of any gene."""
    shifted = learned(problem, loadings=problem["loadings"] + np.array([3.0, -1.0, 0.5, 2.0]))
    torch.testing.assert_close(shifted(*cells), learned(problem)(*cells))


def test_molecules_say_of_a_state_what_they_say_of_the_genes():
    """Two molecules say less than twice of one where counts exceed theta; Poisson counts, twice."""
    library = torch.tensor([50.0, 100.0, 200.0, 1e9])
    poisson, saturated = (
        learned_with_saturation(unsaturated)._relative_information(library)
        for unsaturated in (1.0, 0.25)
    )
    assert poisson.tolist() == pytest.approx([0.5, 1, 2, 1e7])
    # m / (1 + m / theta) at m = 3 theta: 1/4 of m, growing to 4/3 of what it is there
    exact = [(4 * t) / (1 + 3 * t) for t in (0.5, 1, 2)]
    assert saturated.tolist() == pytest.approx([*exact, 4 / 3])


def learned_with_saturation(unsaturated):
    """One kind of genes, in a typical cell of 100 molecules, which say ``unsaturated`` each."""
    uncertainty = MeanUncertainty(1, 2, 2).double()
    uncertainty.learn(
        information=torch.full((1, 2), 500.0 * unsaturated).double(),
        molecules=torch.full((2,), 500.0).double(),
        n_cells=10,
        loadings=torch.eye(2).double(),
        loading_covariance=torch.eye(2).double(),
        second_moment=torch.eye(2).double(),
        probability=torch.ones(2).double(),
        batch_scale=1.0,
    )
    return uncertainty


def test_loadings_of_nothing_leave_no_state_uncertain(problem, cells):
    uncertainty = learned(problem, loadings=np.zeros((N_GENES, N_LATENT)), probability=np.zeros(12))
    levels = level_variance(torch.from_numpy(problem["information"]), batch_scale=0.7)
    torch.testing.assert_close(uncertainty(*cells), levels[cells[1].batch])


@pytest.mark.parametrize(("mu", "theta"), [(0.2, 3.0), (9.0, 2.0), (80.0, 0.7)])
def test_information_is_the_expected_curvature(mu, theta):
    """Second differences of the log-likelihood of NB counts, in expectation."""
    counts, step = np.arange(5000), 1e-3
    at = lambda log_mu: stats.nbinom.logpmf(counts, theta, theta / (theta + np.exp(log_mu)))  # noqa: E731
    middle = at(np.log(mu))
    curvature = at(np.log(mu) + step) - 2 * middle + at(np.log(mu) - step)
    expected = -(np.exp(middle) * curvature).sum() / step**2
    tensors = (torch.tensor([[value]]).double() for value in (mu, theta))
    found = information_of_entries(CountDistribution(*tensors, None))
    assert found.item() == pytest.approx(expected, rel=1e-3)


def test_information_of_an_entry_that_may_be_dropped_is_that_of_those_which_are_not():
    predicted = CountDistribution(*(torch.tensor([[v]]) for v in (2.0, 2.0, np.log(3.0))))
    assert information_of_entries(predicted).item() == pytest.approx(0.25)  # 1 kept in 4


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
    """Where counts are few, intervals that take mu as known hold clearly fewer; three data sets."""
    found = []
    for seed in range(3):
        adata, rate = simulated_types(seed=seed)
        model = GraphSCI(check=False, likelihood="nb", graph="none").fit(adata)
        out = model.impute(adata, estimates=["denoised", "mean"], interval=0.9, copy=True)
        held = (out.layers["denoised_lower"] <= rate) & (rate <= out.layers["denoised_upper"])
        kappa = model.certainty(adata)[:, None]
        theta = kappa ** model.state_weights().to_numpy() * model.inverse_dispersion().to_numpy()
        mu = out.layers["mean"]
        known = stats.gamma(adata.X.toarray() + theta, scale=mu / (mu + theta))
        held_if_known = (known.ppf(0.05) <= rate) & (rate <= known.ppf(0.95))
        rare = rate.mean(0) < 0.3
        found.append([held.mean(), held[:, rare].mean(), held_if_known[:, rare].mean()])
    of_all, of_rare, of_rare_if_known = np.mean(found, 0)
    assert 0.86 < of_all < 0.94
    assert 0.86 < of_rare < 0.94
    assert of_rare_if_known < of_rare - 0.03


def test_paper_preset_takes_its_mean_as_known(trained):
    network = trained("paper").fitted.network
    assert network.log_mean_variance(torch.zeros(1, 2), None) is None


def test_standard_deviations_know_how_many_molecules_a_cell_has(trained, toy):
    """The same states and counts from a tenth of the molecules would be less certain."""
    network = trained("batches").fitted.network
    nothing, z = torch.zeros(0), torch.ones(2, network.loadings.shape[1])
    block = CellBlock(nothing, nothing, nothing, torch.tensor([30.0, 300.0]), torch.tensor([0, 0]))
    shallow, deep = network.log_mean_variance(z, block)
    assert (shallow >= deep).all()
    assert (shallow > deep).any()
    other = network.log_mean_variance(z, block._replace(batch=torch.tensor([1, 1])))[1]
    assert not torch.equal(other, deep)
