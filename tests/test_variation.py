"""The share of a gene that follows no state: what is predicted adds up to what was measured."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from graphsci import GraphSCI
from graphsci.training.variation import mean_shares


def test_one_batch_has_the_shares_of_all_molecules():
    counts = sparse.csr_matrix(np.array([[1.0, 2.0], [3.0, 4.0]]))
    shares = mean_shares(counts, np.zeros(2, int), np.float32([0.4, 0.6]), n_batches=1)
    np.testing.assert_allclose(shares, [[0.4, 0.6]], rtol=1e-6)


def test_shares_of_batches_by_hand():
    """Shares .5, .5 over all; a batch of 8 + 2 molecules, one of 0 + 0, one that is not there."""
    counts = sparse.csr_matrix(np.array([[3.0, 2.0], [5.0, 0.0], [0.0, 0.0]]))
    shares = mean_shares(counts, np.array([0, 0, 1]), np.float32([0.5, 0.5]), n_batches=3)
    first = np.array([0.5 * 9 / 6, 0.5 * 3 / 6])  # p (m + 1) / (p M + 1)
    np.testing.assert_allclose(shares, [first / first.sum(), [0.5, 0.5], [0.5, 0.5]], rtol=1e-6)


@pytest.fixture(scope="module")
def batches():
    """300 cells of one state in two batches, 9 to 1; a third of the genes thrice as high in one."""
    rng = np.random.default_rng(1)
    batch = np.repeat(["many", "few"], [270, 30])
    shares = np.tile(rng.dirichlet(np.full(60, 2.0)), (2, 1))
    shares[1, :20] *= 3
    shares /= shares.sum(1, keepdims=True)
    library = rng.lognormal(7.5, 0.3, 300)
    counts = rng.poisson(library[:, None] * shares[(batch == "few").astype(int)])
    obs = pd.DataFrame({"b": batch}, index=[f"c{n}" for n in range(300)])
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)


def constant_totals(model, adata, batch_key=None):
    """Measured molecules of every gene that are predicted if no gene follows the state."""
    network = model.fitted.network
    network.state_weight.fill_(0.01)
    blocks = model.iterate_estimates(adata, estimates=["mean"], batch_key=batch_key)
    return np.concatenate([block.values["mean"] for block in blocks])


def test_constant_genes_add_up_in_every_batch(batches):
    model = GraphSCI(seed=0, max_epochs=20, check=False).fit(batches, batch_key="b")
    predicted = constant_totals(model, batches, "b")
    for batch in ("many", "few"):
        cells = (batches.obs["b"] == batch).to_numpy()
        ratio = predicted[cells].sum(0) / batches.X.toarray()[cells].sum(0)
        assert abs(np.log(ratio)).max() < np.log(1.15), batch
