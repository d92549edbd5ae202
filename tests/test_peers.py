"""Peers that we wrote ourselves, against what their papers describe."""

import sys

import anndata
import numpy as np
import pytest
from scipy import optimize, sparse, special, stats


@pytest.fixture
def peer(benchmarks, monkeypatch):
    """Import a peer's script as it runs: from its own folder."""
    monkeypatch.syspath_prepend(str(benchmarks / "peers"))

    def load(name):
        import importlib

        monkeypatch.delitem(sys.modules, name, raising=False)
        return importlib.import_module(name)

    return load


@pytest.fixture(scope="module")
def low_rank():
    """Log values of rank 4 with small noise, cut at zero, (150, 120)."""
    rng = np.random.default_rng(0)
    signal = rng.gamma(1, 1, (150, 4)) @ rng.gamma(1, 1, (4, 120))
    values = np.maximum(signal + 0.05 * rng.standard_normal(signal.shape), 0)
    values[rng.random(values.shape) < 0.2] = 0
    return values


def test_alra_finds_the_rank(peer):
    """Of a matrix far larger than the 100 singular values that the rule looks at."""
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((900, 4)) @ rng.standard_normal((4, 900))
    values = signal + rng.standard_normal((900, 900))
    assert peer("run_alra").choose_k(values, seed=0) == 4


def test_alra_matches_the_moments_of_each_genes_measured_values(peer, low_rank):
    """Where nothing was clipped or put back, mean and sd of the non-zeros are the measured."""
    found = peer("run_alra").complete(low_rank, 4, seed=0)
    u, d, v = np.linalg.svd(low_rank, full_matrices=False)
    exact = (u[:, :4] * d[:4]) @ v[:4]
    kept = exact > abs(np.quantile(exact, 0.001, axis=0))
    checked = 0
    for gene in range(found.shape[1]):
        inside = kept[:, gene]
        if (found[inside, gene] > 0).all() and inside.sum() > 2:
            measured = low_rank[low_rank[:, gene] > 0, gene]
            assert found[inside, gene].mean() == pytest.approx(measured.mean(), rel=0.02)
            assert found[inside, gene].std(ddof=1) == pytest.approx(measured.std(ddof=1), rel=0.02)
            checked += 1
    assert checked > 30


def test_alra_gives_no_negative_value_and_loses_no_measured_one(peer, low_rank):
    found = peer("run_alra").complete(low_rank, 4, seed=0)
    assert (found >= 0).all()
    assert (found[low_rank > 0] > 0).all()
    assert (found[low_rank == 0] > 0).mean() > 0.5  # dropped values come back


def test_knn_smoothing_sums_each_cell_with_its_nearest(peer):
    """Groups of four far apart and k = 3: every cell becomes the sum of its group."""
    rng = np.random.default_rng(0)
    profile = np.zeros((5, 50))
    for group in range(5):
        profile[group, group * 10 : group * 10 + 10] = 40
    group = np.repeat(np.arange(5), 4)
    counts = sparse.csr_matrix(rng.poisson(profile[group]).astype(float))
    found = peer("run_knn_smoothing").smooth(counts, 3, 0).toarray()
    sums = np.stack([counts.toarray()[group == g].sum(0) for g in group])
    np.testing.assert_array_equal(found, sums)


# --- SAVER ------------------------------------------------------------------------------


@pytest.fixture
def saver(peer):
    pytest.importorskip("numba")
    return peer("run_saver")


def test_savers_lasso_satisfies_the_optimality_conditions(saver):
    """Of mean(exp(eta) - y eta) + penalty |b|: slopes are the penalty where b is not 0."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 300))
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    y = rng.poisson(np.exp(0.5 + 0.6 * x[0] - 0.3 * x[1])).astype(float)
    top = saver.largest_penalty(x, y)
    b0, b = saver.lasso_path(x, y, np.array([top * 1.001, top / 10]))
    assert (b[0] == 0).all()
    assert b0[0] == pytest.approx(np.log(y.mean()), abs=1e-3)
    slopes = x @ (y - np.exp(b0[1] + b[1] @ x)) / y.size
    active = b[1] != 0
    np.testing.assert_allclose(slopes[active], np.sign(b[1][active]) * top / 10, atol=2e-3)
    assert (abs(slopes[~active]) <= top / 10 + 2e-3).all()
    assert b[1][0] > 0.3 > 0 > b[1][1]


@pytest.mark.parametrize("model", [0, 1, 2])
def test_savers_marginal_likelihood_is_negative_binomial(saver, model):
    """Up to what the counts fix: the difference between two spreads is scipy's."""
    rng = np.random.default_rng(1)
    s, mu = rng.uniform(0.5, 2, 40), rng.uniform(0.5, 4, 40)
    y = rng.poisson(mu * s).astype(float)

    def by_scipy(value):
        shape = {0: np.full(40, 1 / value), 1: mu / value, 2: mu**2 / value}[model]
        rate = shape / mu
        return -stats.nbinom.logpmf(y, shape, rate / (rate + s)).sum()

    def own(value):
        return saver.negative_log_likelihood(model, value, y, mu, s)

    assert by_scipy(0.3) - by_scipy(0.8) == pytest.approx(own(0.3) - own(0.8), rel=1e-6)


def test_savers_posterior_lies_between_the_prior_mean_and_the_count(saver):
    rng = np.random.default_rng(2)
    s, mu = rng.uniform(0.5, 2, 200), rng.uniform(1, 5, 200)
    y = rng.poisson(rng.gamma(2, mu / 2) * s).astype(float)
    found, sd = saver.posterior_rate(y, mu, s, False)
    low, high = np.minimum(mu, y / s), np.maximum(mu, y / s)
    assert ((found >= low - 1e-9) & (found <= high + 1e-9)).all()
    shape = (found / sd) ** 2  # of the posterior: alpha + y, more than the count
    assert (shape > y).all()
    assert sd.mean() < np.sqrt(y / s**2).mean()  # it knows more than the count alone


def test_saver_borrows_from_genes_that_vary_together(saver):
    """Two groups of cells in 60 genes: nearer to the rates than gene means and than counts."""
    rng = np.random.default_rng(3)
    high = np.repeat([True, False], 60)
    rates = np.where(high[:, None] == (np.arange(60) < 30)[None, :], 3.0, 0.3)
    counts = sparse.csr_matrix(rng.poisson(rates).astype(float))
    found = saver.rates(counts, seed=0)[0]
    error = np.abs(found - rates).mean()
    assert error < 0.5 * np.abs(counts.toarray() - rates).mean()
    assert error < 0.5 * np.abs(counts.toarray().mean(0) - rates).mean()


# --- scImpute ---------------------------------------------------------------------------


@pytest.fixture
def scimpute(peer):
    pytest.importorskip("numba")
    return peer("run_scimpute")


def test_scimputes_gamma_shape_solves_its_equation(scimpute):
    v = np.array([0.03, 0.1, 0.5, 2.0])
    shape = scimpute.gamma_shape(v)
    np.testing.assert_allclose(np.log(shape) - special.digamma(shape), v, rtol=1e-6)
    assert scimpute.gamma_shape(np.array([-1.0]))[0] == 20  # no spread: the largest shape


def test_scimpute_finds_the_mixture(scimpute):
    """Three in ten values at the floor, the others normal: rate, mean and sd come back."""
    rng = np.random.default_rng(0)
    values = np.maximum(rng.normal(3.0, 0.4, (400, 5)), scimpute.POINT + 0.01)
    dropped = rng.random(values.shape) < 0.3
    values[dropped] = scimpute.POINT
    found = scimpute.fit_mixtures(values)
    np.testing.assert_allclose(found.rate, dropped.mean(0), atol=0.01)
    np.testing.assert_allclose(found.mean, 3.0, atol=0.1)
    np.testing.assert_allclose(found.sd, 0.4, atol=0.05)
    gene = np.broadcast_to(np.arange(5), values.shape)
    np.testing.assert_array_equal(found.dropped(values, gene) > 0.5, dropped)


def test_scimputes_regression_is_non_negative_least_squares(scimpute):
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 8)), rng.random(60)
    found = scimpute.non_negative_least_squares(x.T @ x, x.T @ y)
    np.testing.assert_allclose(found, optimize.nnls(x, y)[0], atol=1e-3)


def test_scimpute_fills_dropped_values_and_keeps_the_others(scimpute):
    rng = np.random.default_rng(0)
    profile = rng.gamma(2, 1, (2, 60)) * 100
    rates = profile[np.repeat([0, 1], 40)]
    full = rng.poisson(rates).astype(float)
    dropped = (rng.random(full.shape) < 0.03) & (full > 0)
    counts = sparse.csr_matrix(np.where(dropped, 0, full))
    found = scimpute.estimate(counts, "", 0)
    filled = dropped & (found > 0)
    assert filled.sum() > 0.8 * dropped.sum()
    ratio = found[filled] / rates[filled]
    assert np.median(abs(np.log(ratio))) < np.log(1.5)  # small clusters here do worse
    same = np.isclose(found, counts.toarray(), rtol=1e-4, atol=0.5)
    assert same[counts.toarray() > 0].mean() > 0.95


@pytest.mark.parametrize("name", ["run_alra", "run_knn_smoothing"])
def test_estimates_are_at_each_cells_own_depth(peer, name):
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (130, 110)).astype(float))
    found = peer(name).estimate(counts, "", 0)
    np.testing.assert_allclose(found.sum(1), np.asarray(counts.sum(1)).ravel())
    np.testing.assert_array_equal(found, peer(name).estimate(counts, "", 0))


def test_the_contract_refuses_what_is_no_estimate(peer, tmp_path, monkeypatch):
    contract = peer("contract")
    source = tmp_path / "kept.h5ad"
    anndata.AnnData(np.ones((3, 2), np.float32)).write_h5ad(source)
    monkeypatch.setattr(sys, "argv", ["peer", str(source), str(tmp_path / "out.h5ad")])
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        contract.main(lambda counts, variant, seed: -counts.toarray())
    contract.main(lambda counts, variant, seed: counts.toarray())
    np.testing.assert_array_equal(anndata.read_h5ad(tmp_path / "out.h5ad").X, np.ones((3, 2)))
    contract.main(lambda counts, variant, seed: {"estimate": np.ones((3, 2)), "sd": np.eye(3, 2)})
    found = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(found.layers["sd"], np.eye(3, 2))
