"""Controls of held-out prediction: by hand, by law, and in the order they must rank."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.decomposition import PCA

from graphsci.evaluation import controls, count_loss
from graphsci.predictions import Prediction
from graphsci.preprocessing import thin_counts

RATIO = 0.1 / 0.9


@pytest.fixture(scope="module")
def rates() -> np.ndarray:
    """Two groups of 100 cells, 60 genes; the group doubles or halves a third of the genes."""
    rng = np.random.default_rng(0)
    base = rng.gamma(0.8, 2.0, size=60)
    effect = np.exp(rng.normal(0, 1.0, size=(2, 60)) * (rng.random(60) < 0.5))
    return (base * effect)[np.repeat([0, 1], 100)] * rng.lognormal(0, 0.3, size=(200, 1))


@pytest.fixture(scope="module")
def split(rates: np.ndarray) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    rng = np.random.default_rng(1)
    return thin_counts(sp.csr_matrix(rng.poisson(rates)), fraction=0.1, rng=rng)


def test_nothing_is_the_scaled_counts():
    kept = sp.csr_matrix([[9.0, 0.0], [0.0, 18.0]])
    assert np.allclose(controls.nothing(kept, ratio=1 / 9).toarray(), [[1, 0], [0, 2]])


def test_gene_mean_by_hand():
    kept = np.array([[3.0, 1.0], [0.0, 4.0], [3.0, 1.0]])  # shares 1/2, 1/2; 4 molecules each
    assert np.allclose(controls.gene_mean(kept, ratio=0.5).toarray(), np.ones((3, 2)))


def test_gene_mean_of_a_batch_by_hand():
    """Each batch is one cell of 4 molecules; the pseudo-cell has 2 of each gene."""
    kept = np.array([[3.0, 1.0], [1.0, 3.0]])
    found = controls.gene_mean(kept, ratio=0.5, batch=np.array([0, 1])).toarray()
    assert np.allclose(found, [[1.25, 0.75], [0.75, 1.25]])


def test_gene_mean_with_own_counts_by_hand():
    """Mu is 2 everywhere and theta 4 * 2^2 / (4 * (2^2 - 2)) = 2: (x + 2) * 2 / 4."""
    kept = np.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0], [0.0, 4.0]])
    found = controls.gene_mean_posterior(kept, ratio=0.5).toarray()
    assert np.allclose(found, np.where(kept > 0, 1.5, 0.5))


def test_gene_mean_keeps_both_margins(split):
    kept, _ = split
    predicted = controls.gene_mean(kept, ratio=1.0).toarray()
    assert np.allclose(predicted.sum(0), np.asarray(kept.sum(0)).ravel())
    assert np.allclose(predicted.sum(1), np.asarray(kept.sum(1)).ravel())


def test_pooling_over_all_cells_is_the_gene_mean(split):
    kept, _ = split
    pooled = controls.neighbour_pooling(kept, ratio=RATIO, k=10_000, n_components=5)
    assert np.allclose(pooled.toarray(), controls.gene_mean(kept, ratio=RATIO).toarray())


def test_pooling_by_hand():
    """Two far-apart pairs: each cell is pooled with its twin and the mean pseudo-cell."""
    kept = np.array([[8.0, 0, 0], [8, 0, 0], [0, 6, 2], [0, 6, 2]])
    pooled = np.array([[16.0, 0, 0], [0, 12, 4]]) + kept.mean(0)
    profile = (pooled / pooled.sum(1, keepdims=True))[[0, 0, 1, 1]]
    got = controls.neighbour_pooling(kept, ratio=0.5, k=2, n_components=2).toarray()
    assert np.allclose(got, 0.5 * 8 * profile)


def test_pooling_keeps_library_sizes_and_leaves_no_seen_gene_at_zero(split):
    kept, _ = split
    predicted = controls.neighbour_pooling(kept, ratio=1.0, k=5).toarray()
    assert np.allclose(predicted.sum(1), np.asarray(kept.sum(1)).ravel())
    assert (predicted > 0).all(axis=0)[np.asarray(kept.sum(0)).ravel() > 0].all()


def test_posterior_lies_between_the_pool_and_the_cells_own_counts(split):
    kept, _ = split
    own = RATIO * kept.toarray()
    pool = controls.neighbour_pooling(kept, ratio=RATIO).toarray()
    posterior = controls.neighbour_pooling_posterior(kept, ratio=RATIO).toarray()
    assert (posterior >= np.minimum(own, pool) - 1e-9).all()
    assert (posterior <= np.maximum(own, pool) + 1e-9).all()


def test_permuting_genes_permutes_the_prediction(split):
    kept, _ = split
    order = np.random.default_rng(0).permutation(kept.shape[1])
    straight = controls.neighbour_pooling_posterior(kept, ratio=RATIO).toarray()
    permuted = controls.neighbour_pooling_posterior(kept[:, order], ratio=RATIO).toarray()
    assert np.allclose(straight[:, order], permuted)


def test_block_size_does_not_matter(split):
    kept, _ = split
    whole = controls.neighbour_pooling(kept, ratio=RATIO)
    blocks = Prediction(whole.shape, whole.rows, block_rows=7)
    assert np.allclose(whole.toarray(), blocks.toarray())
    assert np.allclose(blocks.genes(np.array([3, 1])), whole.toarray()[:, [3, 1]])


@pytest.mark.parametrize("name", controls.CONTROLS)
def test_controls_are_deterministic_and_finite(split, name):
    kept, _ = split
    first = controls.CONTROLS[name](kept, ratio=RATIO, seed=3).toarray()
    second = controls.CONTROLS[name](kept, ratio=RATIO, seed=3).toarray()
    assert np.array_equal(first, second)
    assert np.isfinite(first).all()
    assert (first >= 0).all()


def test_an_empty_cell_is_predicted_empty(split):
    kept = split[0].tolil()
    kept[3] = 0
    for control in controls.CONTROLS.values():
        assert np.allclose(control(kept.tocsr(), ratio=RATIO).rows(3, 4), 0.0)


def test_controls_rank_as_they_must(rates, split):
    kept, held_out = split
    losses = {
        name: count_loss.poisson_loss(predicted=control(kept, ratio=RATIO), held_out=held_out)
        for name, control in controls.CONTROLS.items()
    }
    losses["truth"] = count_loss.poisson_loss(
        predicted=controls.truth(0.1 * rates), held_out=held_out
    )
    order = ["truth", "neighbour_pooling_posterior", "gene_mean", "nothing", "empty"]
    assert sorted(order, key=losses.__getitem__) == order
    assert losses["neighbour_pooling"] < losses["gene_mean"]


def test_theta_by_moments_recovers_theta():
    rng = np.random.default_rng(0)
    mu, theta = np.full((20_000, 3), 4.0), np.array([0.5, 2.0, 10.0])
    counts = rng.poisson(rng.gamma(theta, mu / theta))
    expected = Prediction(mu.shape, lambda start, stop: mu[start:stop])
    found = controls.theta_by_moments(counts=counts, expected=expected)
    assert found == pytest.approx(theta, rel=0.1)


def test_theta_is_bounded_for_poisson_and_for_absent_genes():
    mu = np.tile([3.0, 0.0], (50, 1))
    expected = Prediction(mu.shape, lambda start, stop: mu[start:stop])
    found = controls.theta_by_moments(counts=np.rint(mu), expected=expected)
    assert found.tolist() == [controls.THETA_BOUNDS[1]] * 2


def test_principal_components_agree_with_dense_pca(split):
    kept, _ = split
    logs = kept.toarray()
    logs = np.log1p(logs / logs.sum(1, keepdims=True) * np.median(logs.sum(1)))
    dense = PCA(3, svd_solver="full").fit_transform(logs)
    got = controls.principal_components(kept, n_components=3)
    assert np.abs(got) == pytest.approx(np.abs(dense), abs=1e-4)


def test_nearest_cells_puts_the_cell_first_even_among_twins():
    found = controls.nearest_cells(np.zeros((4, 2)), k=2)
    assert found[:, 0].tolist() == [0, 1, 2, 3]
    assert controls.nearest_cells(np.zeros((1, 2)), k=5).tolist() == [[0]]


@pytest.mark.parametrize("ratio", [0.0, -1.0, np.nan, np.inf])
def test_bad_ratio_is_refused(split, ratio):
    with pytest.raises(ValueError, match="held-out fraction / kept fraction"):
        controls.gene_mean(split[0], ratio=ratio)


def test_bad_k_and_components_are_refused(split):
    with pytest.raises(ValueError, match="k is 0, expected at least 1"):
        controls.neighbour_pooling(split[0], ratio=RATIO, k=0)
    with pytest.raises(ValueError, match="n_components is 0"):
        controls.neighbour_pooling(split[0], ratio=RATIO, n_components=0)


def test_no_molecules_are_refused():
    with pytest.raises(ValueError, match="holds no molecule"):
        controls.gene_mean(sp.csr_matrix((3, 2)), ratio=RATIO)


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="kept holds negative or non-finite"):
        controls.nothing(np.array([[-1.0, 2.0]]), ratio=RATIO)
