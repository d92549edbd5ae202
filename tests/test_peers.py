"""Peers that we wrote ourselves, against what their papers describe."""

import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

PEERS = Path(__file__).resolve().parents[1] / "benchmarks" / "peers"


@pytest.fixture
def peer(monkeypatch):
    """Import a peer's script as it runs: from its own folder."""
    if not PEERS.is_dir():
        pytest.skip("an installed package has no benchmarks")
    monkeypatch.syspath_prepend(str(PEERS))

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
    monkeypatch.setattr(sys, "argv", ["peer", str(source), str(tmp_path / "out.npz")])
    with pytest.raises(ValueError, match="must be finite and at least 0"):
        contract.main(lambda counts, variant, seed: -counts.toarray())
    contract.main(lambda counts, variant, seed: counts.toarray())
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["estimate"], np.ones((3, 2)))
