"""The test of a gene's variation against permutation, laws and tiny cases."""

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse, stats

from graphsci import GraphSCI
from graphsci.evaluation.false_signal import append_shuffled_genes, mean_absolute_correlation
from graphsci.training import predictability
from graphsci.training.predictability import (
    UNPROVEN,
    combine_p_values,
    evidence,
    level_for,
    nuisance,
    p_values,
    real_directions,
    score_sums,
    state_weights,
)

N_CELLS, N_LATENT = 400, 3


def regressors(depth, z, batch=None, n_batches=1):
    batch = np.zeros(len(depth), np.int64) if batch is None else batch
    return np.column_stack([nuisance(depth, batch, n_batches=n_batches), z])


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    return rng, rng.lognormal(6, 0.4, N_CELLS).round(), rng.standard_normal((N_CELLS, N_LATENT))


def filler(rng, depth, genes=50):
    """Genes that carry the library, so that those under test hardly move it."""
    return rng.poisson(depth[:, None] / genes, (len(depth), genes))


def test_of_independent_genes_is_uniform_and_of_driven_genes_tiny(cells):
    rng, depth, z = cells
    null = rng.poisson(0.001 * depth[:, None], (N_CELLS, 500))
    driven = rng.poisson(0.002 * depth[:, None] * np.exp(0.5 * z @ rng.standard_normal((3, 20))))
    counts = sparse.csr_matrix(np.hstack([filler(rng, depth), null, driven]).astype(float))
    p = p_values(score_sums(counts, regressors(depth, z)), n_nuisance=3)
    assert stats.kstest(p[50:550], "uniform").pvalue > 0.01
    assert np.median(p[550:]) < 1e-4


def test_agrees_with_permutation(cells):
    """Where nothing depends on depth, shuffling the embedding gives the null distribution."""
    rng, _, z = cells
    depth = np.full(N_CELLS, 400.0)
    z[:, 1] *= 0.3  # unequal weights of the chi-squares
    effect = np.linspace(0, 0.3, 12)
    genes = rng.poisson(0.7 * np.exp(z[:, :1] * effect))
    constant = np.full((N_CELLS, 50), 8)  # a library that hardly varies
    counts = sparse.csr_matrix(np.hstack([constant, genes]).astype(float))
    ours = p_values(score_sums(counts, regressors(depth, z)), n_nuisance=3)[50:]
    statistic = lambda order: (  # noqa: E731
        ((genes - genes.mean(0)).T @ (z[order] - z.mean(0))) ** 2
    ).sum(1)
    observed = statistic(np.arange(N_CELLS))
    shuffled = np.stack([statistic(rng.permutation(N_CELLS)) for _ in range(2000)])
    assert ours == pytest.approx((shuffled >= observed).mean(0), abs=0.04)


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_a_gene_that_follows_depth_alone_is_no_evidence(cells, power):
    rng, depth, z = cells
    z[:, 0] = np.log(depth) + 0.1 * z[:, 0]  # the embedding knows the depth
    genes = rng.poisson(2 * (depth[:, None] / depth.mean()) ** power, (N_CELLS, 200))
    counts = sparse.csr_matrix(np.hstack([filler(rng, depth), genes]).astype(float))
    p = p_values(score_sums(counts, regressors(depth, z)), n_nuisance=3)[50:]
    assert (p < 0.2).mean() == pytest.approx(0.2, abs=0.1)


def test_a_gene_that_follows_its_batch_alone_is_no_evidence(cells):
    rng, depth, z = cells
    batch = rng.integers(0, 2, N_CELLS)
    z[:, 0] = batch + 0.3 * z[:, 0]
    genes = rng.poisson(np.where(batch == 0, 0.5, 3.0)[:, None], (N_CELLS, 200))
    counts = sparse.csr_matrix(np.hstack([filler(rng, depth), genes]).astype(float))
    known = p_values(score_sums(counts, regressors(depth, z, batch, 2)), n_nuisance=4)[50:]
    unknown = p_values(score_sums(counts, regressors(depth, z)), n_nuisance=3)[50:]
    assert np.median(known) > 0.2
    assert np.median(unknown) < 1e-3


def test_noise_beyond_poisson_is_no_evidence(cells):
    rng, depth, z = cells
    rate = depth[:, None] / 100 * rng.gamma(0.5, 2, (N_CELLS, 300))
    counts = sparse.csr_matrix(np.hstack([filler(rng, depth), rng.poisson(rate)]).astype(float))
    p = p_values(score_sums(counts, regressors(depth, z)), n_nuisance=3)[50:]
    assert (p < 0.2).mean() == pytest.approx(0.2, abs=0.08)


def test_sums_of_blocks_add_up(cells):
    rng, depth, z = cells
    counts = sparse.csr_matrix(filler(rng, depth).astype(float))
    known = regressors(depth, z)
    whole = score_sums(counts, known)
    parts = score_sums(counts[:150], known[:150]).plus(score_sums(counts[150:], known[150:]))
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other)


def test_without_evidence_of_any_kind_every_p_is_one(cells):
    rng, depth, _ = cells
    counts = sparse.csr_matrix(filler(rng, depth).astype(float))
    constant = score_sums(counts, regressors(depth, np.ones((N_CELLS, 2))))
    assert (p_values(constant, n_nuisance=3) == 1).all()
    nothing = score_sums(sparse.csr_matrix((N_CELLS, 2)), regressors(depth, np.ones((N_CELLS, 2))))
    assert (p_values(nothing, n_nuisance=3) == 1).all()


def drawn(rng, depth, z, share, effect=0.0):
    """Sums of molecules that follow the second direction alone, a share of all."""
    loadings = effect * np.random.default_rng(7).standard_normal(60)
    rate = share * depth[:, None] * np.exp(z[:, [1]] * loadings) / 60
    counts = sparse.csr_matrix(rng.poisson(rate).astype(float))
    return score_sums(counts, regressors(depth, z))


def overfitted(sums, by=1.5):
    """The same sums, had the encoder fitted the noise of these molecules, too."""
    by_gene = sums.by_gene.copy()
    by_gene[:, 3:] *= by
    return sums._replace(by_gene=by_gene)


def test_directions_that_fail_on_withheld_molecules_are_not_real(cells):
    rng, depth, z = cells
    training = overfitted(drawn(rng, depth, z, 0.45, effect=0.2))
    real = real_directions(drawn(rng, depth, z, 0.4, effect=0.2), training, n_nuisance=3)
    np.testing.assert_array_equal(real, [False, True, False])
    training = overfitted(drawn(rng, depth, z, 0.45))
    assert not real_directions(drawn(rng, depth, z, 0.4), training, n_nuisance=3).any()


def test_a_dead_direction_does_not_speak_for_the_others(cells):
    rng, depth, z = cells
    z[:, 0] = 0.0
    training = overfitted(drawn(rng, depth, z, 0.45))
    assert not real_directions(drawn(rng, depth, z, 0.4), training, n_nuisance=3).any()


@pytest.mark.parametrize("share", [0.0005, 0.005])
def test_too_few_withheld_molecules_refute_nothing(cells, share):
    rng, depth, z = cells
    training = overfitted(drawn(rng, depth, z, 0.45))
    assert real_directions(drawn(rng, depth, z, share), training, n_nuisance=3).all()


def test_directions_that_keep_their_promise_are_real(cells):
    """Also those too weak to be proven one by one."""
    rng, depth, z = cells
    effect = 0.02
    training, withheld = (drawn(rng, depth, z, share, effect) for share in (0.5, 0.5))
    assert real_directions(withheld, training, n_nuisance=3).all()


def test_a_strong_promise_that_was_kept_is_not_drowned_by_weak_ones(cells, monkeypatch):
    """Two directions promise 2.2 standard errors and show 2.6; eight promise .1 and show -.5.

    By hand: noise is likelier by 8 x .1 (.05 + .5) - 2 x 2.2 (2.6 - 1.1) < 0. Their plain sums, 1.2
    seen of 5.2 promised, say the reverse; and so they do if the two show nothing, rightly.
    """
    kept, broken = (np.array([first] * 2 + [-0.5] * 8) for first in (2.6, -0.5))
    promised = np.array([2.2] * 2 + [0.1] * 8)
    sums = drawn(*cells, 0.4)
    for seen, real in ((kept, True), (broken, False)):
        scores = iter([seen, promised])
        score = lambda _, __: predictability._Score(  # noqa: E731
            np.tile(1 + np.sqrt(2 / 60) * next(scores), (60, 1)),  # noqa: B023
            np.eye(10),
        )
        monkeypatch.setattr(predictability, "_score", score)
        assert (real_directions(sums, sums, n_nuisance=3) == real).all()


def test_without_directions_every_p_is_one(cells):
    rng, depth, z = cells
    counts = sparse.csr_matrix(filler(rng, depth).astype(float))
    assert (p_values(score_sums(counts, regressors(depth, z[:, :0])), n_nuisance=3) == 1).all()


def test_combining_equal_p_values_changes_nothing():
    p = np.array([1e-6, 0.01, 0.3, 0.9])
    np.testing.assert_allclose(combine_p_values(np.stack([p, p, p])), p, rtol=1e-6)
    assert combine_p_values(np.array([[0.0, 1.0], [1.0, 1.0]])) == pytest.approx([0, 1], abs=1e-6)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1])
def test_a_strong_test_keeps_its_level(share):
    """Genes that vary have tiny p-values; the others are uniform, with few molecules at 1."""
    rng = np.random.default_rng(0)
    null = rng.uniform(size=int(5000 * share))
    p = np.concatenate([null, rng.beta(0.1, 20, 5000 - len(null)), np.ones(500)])
    assert level_for(p, 0.2) == 0.2


@pytest.mark.parametrize("n_genes", [2000, 20_000])
def test_a_weak_test_lets_genes_vary_that_more_likely_do_than_not(n_genes):
    """A fifth without variation, the rest Beta(.8, 3): densities cross near p = .52."""
    rng = np.random.default_rng(1)
    n_null = n_genes // 5
    p = np.concatenate([rng.uniform(size=n_null), rng.beta(0.8, 3, n_genes - n_null)])
    grid = np.linspace(0.01, 0.95, 500)
    crossing = grid[0.8 * stats.beta.pdf(grid, 0.8, 3) > 0.2][-1]
    assert crossing - 0.2 < level_for(p, 0.2) <= crossing + 0.05
    truth = 1 - 0.2 / (0.2 + 0.8 * stats.beta.pdf(grid, 0.8, 3))
    small = grid < 0.3
    assert evidence(p)(grid)[small] == pytest.approx(truth[small], abs=0.15)
    assert (evidence(p)(grid) <= truth + 0.05).all()  # some that vary have a large p: careful
    assert level_for(p, 0.9) == 0.9
    assert level_for(p, 1.0) == 1.0


def test_the_level_of_no_genes():
    assert level_for(np.ones(0), 0.2) == 0.2
    assert level_for(np.ones(3), 0.2) == 0.2


def test_weights_fall_from_one_to_a_trace():
    rng = np.random.default_rng(0)
    p = np.sort(np.concatenate([[0.0], rng.uniform(size=9000), rng.beta(0.3, 5, 9000), [1.0]]))
    weights = state_weights(p, 0.2)
    assert (np.diff(weights) <= 0).all()
    assert weights[0] == 1
    assert (weights[p > 0.2] == UNPROVEN).all()
    inside = (p > 0) & (p <= 0.2)
    density = stats.beta.pdf(p[inside], 0.3, 5)
    assert weights[inside] == pytest.approx(density / (1 + density), abs=0.15)
    assert (state_weights(p, 1.0) == 1).all()


def test_weights_where_nothing_or_everything_varies():
    assert (state_weights(np.ones(5), 0.2) == UNPROVEN).all()
    assert (state_weights(np.full(500, 1e-12), 0.2) > 0.999).all()
    uniform = np.random.default_rng(0).uniform(size=20_000)
    assert (state_weights(uniform, 0.2)[uniform > 0.05] < 0.1).all()
    assert state_weights(uniform, 0.2).mean() < 0.03


@pytest.fixture(scope="module")
def with_shuffled():
    """Three cell types, 80 genes, and shuffled copies of 40 of them."""
    rng = np.random.default_rng(0)
    group, depth = rng.integers(0, 3, 300), rng.lognormal(0, 0.1, 300)
    rate = rng.gamma(0.5, 1.0, (3, 80))[group] * depth[:, None]
    more = append_shuffled_genes(rng.poisson(rate), n_copies=40, min_cells=5, rng=rng)
    adata = AnnData(sparse.csr_matrix(more.counts, dtype=np.float32))
    return adata, more.copies


def common_log(adata, values):
    library = np.asarray(adata.X.sum(1))
    return np.log1p(values * np.median(library) / library)


def test_genes_independent_by_construction_come_out_uncorrelated(with_shuffled):
    adata, copies = with_shuffled
    raw = mean_absolute_correlation(values=common_log(adata, adata.X.toarray())[:, copies])
    found = {}
    for level in (0.2, 1.0):
        model = GraphSCI(seed=0, variation_level=level, check=False, max_epochs=40).fit(adata)
        layer = model.impute(adata, copy=True).layers["denoised"]
        found[level] = mean_absolute_correlation(values=common_log(adata, layer)[:, copies])
    assert found[0.2] < raw + 0.02
    assert found[1.0] > raw + 0.04  # what it is for


def test_one_cell_type_of_independent_genes_has_no_variation():
    """An encoder fits noise, which on its own training molecules looks like variation."""
    rng = np.random.default_rng(1)
    rate = 2 * rng.lognormal(0, 0.3, (500, 1)) * rng.gamma(2, 0.5, (1, 300))
    adata = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    model = GraphSCI(seed=1, likelihood="nb", max_epochs=40).fit(adata)
    assert (model.variation_p_values() > 0.2).mean() > 0.95
    raw = mean_absolute_correlation(values=common_log(adata, adata.X.toarray()))
    layer = model.impute(adata, copy=True).layers["denoised"]
    assert mean_absolute_correlation(values=common_log(adata, layer)) < raw + 0.01


def test_genes_without_evidence_keep_their_share_but_for_a_trace(with_shuffled, tmp_path):
    adata, copies = with_shuffled
    model = GraphSCI(seed=0, check=False, max_epochs=40).fit(adata)
    p = model.variation_p_values().to_numpy()
    assert (p[copies] > 0.2).mean() > 0.6
    assert (p[:80] < 0.2).mean() > 0.8
    constant = model.fitted.network.state_weight.numpy() <= np.float32(UNPROVEN)
    (note,) = (note for note in model.fitted.notes if "keep their mean share" in note)
    assert note.startswith(f"estimates: {constant.sum()} of 120 genes")
    assert constant[p > 0.2].mean() > 0.9
    mean = model.impute(adata, estimates=["mean"], copy=True).layers["mean"]
    library = np.asarray(adata.X.sum(1))
    np.testing.assert_allclose(mean.sum(1, keepdims=True), library, rtol=1e-4)
    share = np.asarray(mean / library)
    spread = share.std(0) / share.mean(0)
    assert (spread[constant] < 0.01).all()
    assert (spread > 0).all()
    assert np.median(spread[p < 0.01]) > 0.1
    model.save(tmp_path / "model")
    loaded = GraphSCI.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.variation_p_values(), p)
    np.testing.assert_array_equal(
        loaded.impute(adata, estimates=["mean"], copy=True).layers["mean"], mean
    )
