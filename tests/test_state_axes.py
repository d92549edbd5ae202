"""Axes in which cells are reported, against dense linear algebra and a case worked by hand."""

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

from graphsci import GraphSCI
from graphsci.nn.state_axes import StateAxes

N_CELLS, N_GENES, N_LATENT = 400, 9, 4


@pytest.fixture
def problem():
    """States of cells, what a cell says of its state, loadings; float64."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=(N_CELLS, N_LATENT)) @ rng.normal(size=(N_LATENT, N_LATENT))
    root = rng.normal(size=(N_LATENT, N_LATENT))
    values = z, root @ root.T, rng.normal(size=(N_GENES, N_LATENT))
    return tuple(torch.from_numpy(value) for value in values)


@pytest.fixture
def learned(problem):
    z, known, loadings = problem
    states = StateAxes(N_LATENT).double()
    states.learn(z.T @ z / len(z), known, loadings)
    return states


def test_coordinates_are_uncorrelated_the_clearest_first(problem, learned):
    coordinates = learned.of_cells(problem[0])
    moment = coordinates.T @ coordinates / N_CELLS
    torch.testing.assert_close(moment, torch.diag(learned.spread**2))
    assert (learned.spread.diff() <= 0).all()


def test_a_typical_cell_knows_each_coordinate_to_one(problem, learned):
    """Information in other coordinates, by the chain rule: J^T H J with J = dz / dcoordinates."""
    jacobian = torch.linalg.inv(learned.of_cells(torch.eye(N_LATENT).double())).T
    torch.testing.assert_close(jacobian.T @ problem[1] @ jacobian, torch.eye(N_LATENT).double())


def test_loadings_and_weights_say_the_same_of_coordinates(problem, learned):
    z, _, loadings = problem
    standardized = learned.of_cells(z) / learned.spread
    torch.testing.assert_close(standardized @ learned.of_genes(loadings).T, z @ loadings.T)
    weights = loadings[0]
    torch.testing.assert_close(learned.of_cells(z) @ learned.of_weights(weights), z @ weights)
    torch.testing.assert_close(learned.to_z(learned.of_cells(z)), z)


def test_signs_are_those_of_the_largest_loading(problem):
    z, known, loadings = problem
    one, other = StateAxes(N_LATENT).double(), StateAxes(N_LATENT).double()
    one.learn(z.T @ z / len(z), known, loadings)
    other.learn(z.T @ z / len(z), known, -loadings)
    torch.testing.assert_close(one.axes, -other.axes)
    along = one.of_genes(loadings)
    assert (along.gather(0, along.abs().argmax(0, keepdim=True)) > 0).all()


def test_two_axes_by_hand():
    """Variances 4 and 1, precisions 1 and 9: of standard deviation 2 and 3, the second first."""
    states = StateAxes(2).double()
    variances, known = torch.tensor([4.0, 1.0]), torch.tensor([1.0, 9.0])
    states.learn(torch.diag(variances), torch.diag(known), torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(states.spread, torch.tensor([3.0, 2.0]).double())
    found = states.of_cells(torch.tensor([[2.0, 1.0]]).double())
    torch.testing.assert_close(found, torch.tensor([[3.0, 2.0]]).double())


def test_nothing_known_can_be_turned_back(problem):
    z, known, loadings = problem
    states = StateAxes(N_LATENT).double()
    states.learn(z.T @ z / len(z), torch.zeros_like(known), loadings)
    standardized = states.of_cells(z) / states.spread
    torch.testing.assert_close(standardized @ states.of_genes(loadings).T, z @ loadings.T)


def test_before_learning_nothing_is_changed(problem):
    z, _, loadings = problem
    states = StateAxes(N_LATENT).double()
    assert torch.equal(states.of_cells(z), z)
    assert torch.equal(states.of_genes(loadings), loadings)


@pytest.fixture(scope="module")
def three_types():
    """450 shallow cells of three types, which differ in a tenth of 300 genes; and a model."""
    rng = np.random.default_rng(0)
    profile = rng.lognormal(0, 1, (1, 300)) * np.exp(
        rng.normal(0, 1, (3, 300)) * (rng.random((3, 300)) < 0.1)
    )
    types = np.repeat(np.arange(3), 150)
    rates = profile[types] * 250 / profile.mean(0).sum()
    counts = rng.poisson(rates * rng.gamma(4, 1 / 4, rates.shape))
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.var_names = [f"gene{i}" for i in range(adata.n_vars)]
    return adata, types, GraphSCI(seed=0, check=False, graph="none").fit(adata)


def share_of_own_type(points, types, n_neighbors=15):
    found = NearestNeighbors(n_neighbors=n_neighbors + 1).fit(points).kneighbors(points)[1]
    return (types[found[:, 1:]] == types[:, None]).mean()


def test_neighbours_are_of_a_kind(three_types):
    """More than where every direction of the latent space counts alike, noise included."""
    adata, types, model = three_types
    states, found = model.count_network.uncertainty.states, model.latent(adata)
    z = states.to_z(torch.from_numpy(found)).numpy()
    ours, before = (share_of_own_type(points, types) for points in (found, z))
    assert ours > 0.95
    assert ours - before > 0.02


def test_output_says_what_axes_are(three_types):
    """Standard deviations over the cells, and `mean` from the two embeddings."""
    adata, _, model = three_types
    out = model.impute(adata, estimates=["mean"], copy=True)
    points, sd = out.obsm["X_graphsci"], np.asarray(out.uns["graphsci"]["axis_sd"])
    np.testing.assert_allclose(points.std(0)[:2], sd[:2], rtol=0.1)
    # the others keep a trace of their mean share
    following = out.var["graphsci_state_weight"].to_numpy() > 0.99999
    assert following.sum() > 5
    log = np.log(out.layers["mean"][:, following])
    rebuilt = (points / sd) @ out.varm["graphsci"][following].T
    # up to what a cell and a gene add for themselves: shares add up to 1
    left = (log - rebuilt) - (log - rebuilt).mean(1, keepdims=True)
    np.testing.assert_allclose(left - left.mean(0), 0, atol=2e-3)
