"""The test of a gene's variation against permutation, laws and tiny cases."""

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse, stats

from graphsci import GraphSCI
from graphsci.evaluation.false_signal import append_shuffled_genes, mean_absolute_correlation
from graphsci.training.predictability import (
    UNPROVEN,
    evidence,
    level_for,
    nuisance,
    p_values,
    state_weights,
    variation_p_values,
)

N_CELLS, N_LATENT = 400, 3


def p_given(counts, depth, z, batch=None, n_batches=1):
    """P-values given the states ``z``."""
    batch = np.zeros(len(depth), np.int64) if batch is None else batch
    known = nuisance(depth, batch, n_batches=n_batches)
    return p_values(sparse.csr_matrix(counts.astype(float)), depth, known, z)


def p_found(counts, batch=None, n_batches=1, seed=0, **options):
    """P-values with the states that the counts show."""
    counts = sparse.csr_matrix(counts.astype(np.float32))
    batch = np.zeros(counts.shape[0], np.int64) if batch is None else batch
    return variation_p_values(counts, batch, n_batches=n_batches, seed=seed, **options)


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
    p = p_given(np.hstack([filler(rng, depth), null, driven]), depth, z)
    assert stats.kstest(p[50:550], "uniform").pvalue > 0.01
    assert np.median(p[550:]) < 1e-4


def test_agrees_with_permutation(cells):
    """Where nothing depends on depth, shuffling the embedding gives the null distribution."""
    rng, _, z = cells
    depth = np.full(N_CELLS, 400.0)
    known = nuisance(depth, np.zeros(N_CELLS, int), n_batches=1)
    z[:, 1] *= 0.3  # unequal weights of the chi-squares
    effect = np.linspace(0, 0.3, 12)
    genes = rng.poisson(0.7 * np.exp(z[:, :1] * effect))
    ours = p_values(sparse.csr_matrix(genes.astype(float)), depth, known, z)
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
    p = p_given(np.hstack([filler(rng, depth), genes]), depth, z)[50:]
    assert (p < 0.2).mean() == pytest.approx(0.2, abs=0.1)


def test_a_gene_that_follows_its_batch_alone_is_no_evidence(cells):
    rng, depth, z = cells
    batch = rng.integers(0, 2, N_CELLS)
    z[:, 0] = batch + 0.3 * z[:, 0]
    genes = rng.poisson(np.where(batch == 0, 0.5, 3.0)[:, None], (N_CELLS, 200))
    counts = np.hstack([filler(rng, depth), genes])
    known, unknown = p_given(counts, depth, z, batch, 2)[50:], p_given(counts, depth, z)[50:]
    assert np.median(known) > 0.2
    assert np.median(unknown) < 1e-3


def test_noise_beyond_poisson_is_no_evidence(cells):
    rng, depth, z = cells
    rate = depth[:, None] / 100 * rng.gamma(0.5, 2, (N_CELLS, 300))
    p = p_given(np.hstack([filler(rng, depth), rng.poisson(rate)]), depth, z)[50:]
    assert (p < 0.2).mean() == pytest.approx(0.2, abs=0.08)


def test_without_evidence_of_any_kind_every_p_is_one(cells):
    rng, depth, z = cells
    counts = filler(rng, depth)
    for states in (np.ones((N_CELLS, 2)), z[:, :0]):
        assert (p_given(counts, depth, states) == 1).all()
    counts[:, 7] = 0
    assert p_given(counts, depth, z)[7] == 1
    for few in (1, 5, 12):  # fewer than ten more cells than regressors
        assert (p_given(counts[:few], depth[:few], z[:few]) == 1).all()


def types(rng, n_cells=400, n_genes=300, n_driven=60):
    """Counts of two types of cells that differ in the first genes; noise beyond Poisson.

    Both types have as many molecules, so that the shares of the other genes are the same in both.
    """
    group = rng.permutation(n_cells) % 2
    mean = rng.gamma(1.0, 1.0, n_genes)
    change = np.ones((2, n_genes))
    change[1, : n_driven // 2], change[1, n_driven // 2 : n_driven] = 3, 1 / 3
    driven = slice(0, n_driven)
    change[1, driven] *= mean[driven].sum() / (mean * change[1])[driven].sum()
    rate = mean * change[group] * rng.lognormal(0, 0.3, (n_cells, 1))
    return rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, rate.shape))


def test_genes_of_two_types_are_found_and_the_others_are_not():
    """Over data sets: the other genes of one share its state, so that their p-values do too."""
    found, power = [], []
    for seed in range(5):
        counts = types(np.random.default_rng(seed))
        p, seen = p_found(counts), counts.mean(0) > 0.2
        power.append((p[:60][seen[:60]] < 0.05).mean())
        found.append(p[60:])
    assert np.mean(power) > 0.9
    found = np.concatenate(found)
    for level in (0.05, 0.2, 0.5):
        assert (found < level).mean() == pytest.approx(level, rel=0.4)


@pytest.mark.parametrize(
    ("theta", "deviation", "most"),
    [(5.0, 0.3, 0.08), (5.0, 0.7, 0.08), (5.0, 1.0, 0.08), (1.0, 0.7, 0.1), (1.0, 1.0, 0.13)],
)
def test_is_nearly_uniform_however_much_depth_and_genes_vary(theta, deviation, most):
    """The variance of an overdispersed gene grows with the square of the depth.

    Taken as growing with depth alone, p < .05 came out for .55 of the genes in the last case.
    """
    rng = np.random.default_rng(0)
    mean = 2 * rng.lognormal(0, deviation, (800, 1))
    p = p_found(rng.poisson(mean * rng.gamma(theta, 1 / theta, (800, 500))))
    assert 0.02 < (p < 0.05).mean() < most
    assert (p < 0.001).mean() < most / 8


@pytest.mark.parametrize(("n_deep", "times"), [(12, 10), (40, 4)])
def test_a_few_deep_cells_are_no_evidence(n_deep, times):
    """They have 60 genes of their own; the variance of the others is largest there."""
    rng = np.random.default_rng(1)
    rate = np.tile(rng.gamma(1.0, 0.5, 600), (800, 1)) * rng.lognormal(0, 0.3, (800, 1))
    rate[:n_deep] *= times
    rate[:n_deep, :60] *= 8
    counts = rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, rate.shape))
    p, seen = p_found(counts), counts[:, :60].sum(0) > 30
    assert (p[60:] < 0.05).mean() < 0.08
    if n_deep == 40:  # of a dozen it cannot be told whether they vary or the genes are noisy
        assert (p[:60][seen] < 0.05).mean() > 0.6


def test_one_cell_does_not_hide_variation():
    """Some markers and other genes have a hundred molecules in one cell each.

    With the counts as they are, p < .01 comes out for one in six of these markers.
    """
    counts = types(np.random.default_rng(0))
    markers = np.flatnonzero(p_found(counts)[:60] < 1e-4)[:12]
    others = np.arange(60, 100)
    spoilt = np.r_[markers, others]
    cells = np.random.default_rng(1).integers(0, len(counts), len(spoilt))
    counts[cells, spoilt] += 100
    p = p_found(counts)
    assert (p[markers] < 0.01).mean() > 0.75
    assert (p[others] < 0.05).mean() < 0.15


def test_a_type_of_a_dozen_cells_is_found():
    rng = np.random.default_rng(1)
    rate = np.tile(rng.gamma(1.0, 0.5, 600), (800, 1)) * rng.lognormal(0, 0.3, (800, 1))
    rate[:12, :60] *= 8
    counts = rng.poisson(rate * rng.gamma(3.0, 1 / 3.0, rate.shape))
    seen = counts[:12, :60].mean(0) > 1
    assert (p_found(counts)[:60][seen] < 0.05).mean() > 0.9


@pytest.mark.parametrize(
    ("n_cells", "n_genes", "mean", "theta"),
    [(800, 200, 3, 5), (800, 200, 3, 0.4), (800, 200, 3, 1e6), (300, 1500, 0.5, 1), (60, 40, 5, 2)],
)
def test_a_genes_own_noise_is_no_evidence(n_cells, n_genes, mean, theta):
    """Cells of one type, independent genes. A network that knew these cells took it for variation.

    Before, of the first panel 86 and 96 % followed the state.
    """
    rng = np.random.default_rng(2)
    rate = (
        mean * rng.lognormal(0, 0.3, (n_cells, 1)) * rng.gamma(theta, 1 / theta, (n_cells, n_genes))
    )
    p = p_found(rng.poisson(rate))
    error = np.sqrt(0.2 * 0.8 / n_genes)
    assert (p < 0.2).mean() < 0.2 + 3 * error
    assert (p < 0.02).mean() < 0.02 + 3 * np.sqrt(0.02 / n_genes)


def test_agrees_with_leaving_out_one_gene_at_a_time_by_dense_algebra():
    """Each gene apart, its state by numpy's SVD of the other cells: plainly, gene by gene."""
    rng = np.random.default_rng(3)
    counts = types(rng, n_cells=120, n_genes=25, n_driven=12).astype(float) + 1
    ours = p_found(counts, n_folds=2, n_groups=25)
    draw = np.random.default_rng(0)
    fold = draw.permutation(120) % 2
    log = np.log1p(counts / counts.sum(1, keepdims=True) * np.median(counts.sum(1)))
    axes = []
    for number in (0, 1):
        part = log[fold != number]
        axes.append((part.mean(0), np.linalg.svd(part - part.mean(0))[2][:20].T))
    left, _, right = np.linalg.svd(axes[1][1].T @ axes[0][1])
    axes[1] = axes[1][0], axes[1][1] @ left @ right
    for gene in range(25):
        others = np.arange(25) != gene
        depth = counts[:, others].sum(1)
        log = np.log1p(counts / depth[:, None] * np.median(depth))
        states = np.empty((120, 20))
        for number, (mean, directions) in enumerate(axes):
            rows = fold == number
            states[rows] = (log[rows] - mean)[:, others] @ directions[others]
        states /= np.sqrt(states.std(0))
        known = nuisance(depth, np.zeros(120, int), n_batches=1)
        target = sparse.csr_matrix(counts[:, [gene]])
        assert ours[gene] == pytest.approx(p_values(target, depth, known, states)[0], abs=2e-3)


def test_a_gene_that_follows_its_batch_alone_is_not_found():
    rng = np.random.default_rng(4)
    batch = rng.integers(0, 2, 400)
    mean = rng.gamma(1.0, 1.0, (2, 200))
    counts = rng.poisson(mean[batch] * rng.lognormal(0, 0.3, (400, 1)))
    assert (p_found(counts, batch, 2) < 0.2).mean() == pytest.approx(0.2, abs=0.09)
    assert (p_found(counts) < 0.2).mean() > 0.7


def test_too_little_to_tell_is_no_evidence():
    counts = np.random.default_rng(0).poisson(3.0, (6, 5))
    assert (p_found(counts[:2]) == 1).all()
    assert (p_found(counts[:, :1]) == 1).all()
    assert (p_found(np.zeros((6, 5))) == 1).all()
    counts[:3] = 0
    counts[:, 4] = 0
    p = p_found(counts)
    assert p[4] == 1
    assert ((p >= 0) & (p <= 1)).all()


def test_empty_cells_and_the_seed():
    counts = types(np.random.default_rng(5))
    with_empty = np.zeros((410, 300))
    with_empty[np.sort(np.random.default_rng(0).permutation(410)[:400])] = counts
    np.testing.assert_array_equal(p_found(with_empty), p_found(counts))
    np.testing.assert_array_equal(p_found(counts, seed=1), p_found(counts, seed=1))
    one, other = p_found(counts), p_found(counts, seed=1)
    assert (one != other).any()
    assert stats.spearmanr(one, other).statistic > 0.6


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
    assert stats.kstest(model.variation_p_values(), "uniform").pvalue > 0.01
    assert (model.state_weights() > 0.1).mean() < 0.05
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
