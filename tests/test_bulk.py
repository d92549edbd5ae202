"""Bulk RNA-seq as truth, and the paper's bulk experiment."""

import numpy as np
import pytest
from scipy import stats

from graphsci.evaluation import bulk as b

RNG = np.random.default_rng


def test_differential_genes_by_hand():
    """Gene 0 up beyond doubt; 1 overlaps; 2 down; 3 too low to be tested; 4 the rest."""
    first = np.array([[500, 50, 10, 0.9, 0], [400, 10, 20, 0.9, 0]])
    second = np.array([[100, 40, 80, 0.1, 0], [90, 5, 90, 0.1, 0]])
    for counts in (first, second):
        counts[:, 4] = 1e6 - counts.sum(1)
    found = b.bulk_differential(first=first, second=second, min_cpm=1)
    assert found.different.tolist() == [True, False, True, False, False]
    assert found.tested.tolist() == [True, True, True, False, True]
    expected = np.log2([501, 401]).mean() - np.log2([101, 91]).mean()
    assert found.log_fold_change[0] == pytest.approx(expected)


def test_swapping_conditions_turns_the_fold_changes():
    first, second = RNG(0).poisson(30.0, size=(2, 50)), RNG(1).poisson(30.0, size=(3, 50))
    one, two = (
        b.bulk_differential(first=x, second=y) for x, y in ((first, second), (second, first))
    )
    assert one.log_fold_change == pytest.approx(-two.log_fold_change)
    assert np.array_equal(one.different, two.different)


def test_cells_are_scored_against_bulk():
    rng = RNG(0)
    change = np.where(np.arange(100) < 30, 2.0, 0.0) * rng.choice([-1, 1], 100)
    level = rng.normal(5, 1, 100)
    samples = [np.exp2(level + sign * change / 2) * 1e3 for sign in (1, -1)]
    truth = b.bulk_differential(
        first=rng.poisson(np.stack([samples[0]] * 2)),
        second=rng.poisson(np.stack([samples[1]] * 2)),
    )
    cells = [np.log1p(rng.poisson(np.tile(mean / 1e4, (60, 1)))) for mean in samples]
    found = b.score_against_bulk(first=cells[0], second=cells[1], bulk=truth, n_top=30)
    assert found.n_genes == 100
    assert found.n_different == 30
    assert found.auc > 0.95
    assert found.top_overlap > 0.8
    assert found.fold_change_correlation > 0.6
    nothing = b.score_against_bulk(first=0 * cells[0], second=0 * cells[1], bulk=truth, n_top=30)
    assert (nothing.auc, nothing.fold_change_correlation) == (0.5, 0.0)
    assert nothing.top_overlap == pytest.approx(0.3)


def test_top_overlap_by_hand_with_ties():
    assert b.top_overlap(scores=[4, 3, 2, 1], reference=[4, 1, 3, 2], n_top=2) == 0.5
    assert b.top_overlap(scores=[1, 1, 1, 1], reference=[4, 3, 2, 1], n_top=2) == 0.5
    assert b.top_overlap(scores=[9, 1, 1, 0], reference=[4, 3, 2, 1], n_top=2) == 0.75


def test_level_and_fold_change_correlation_are_spearmans():
    one, two = RNG(0).gamma(1.0, size=20), RNG(1).gamma(1.0, size=20)
    judge = stats.spearmanr(one, two).statistic
    assert b.level_correlation(profile=one, bulk=two) == pytest.approx(judge)
    assert b.fold_change_correlation(estimated=one, truth=two) == pytest.approx(judge)
    assert b.level_correlation(profile=0 * one, bulk=two) == 0


# --- the paper's bulk experiment --------------------------------------------------------


@pytest.fixture(scope="module")
def profiles() -> np.ndarray:
    """Log1p of 30 smooth profiles of 300 genes."""
    time = np.linspace(0, 1, 30)[:, None]
    rng = RNG(0)
    return np.log1p(np.exp(rng.normal(5, 2, 300) + np.sin(6 * time + rng.uniform(0, 6, 300))))


@pytest.mark.parametrize("noise_on", ["counts", "log1p"])
@pytest.mark.parametrize("gene_wise", [True, False])
def test_the_experiment_reaches_its_zeros_and_keeps_a_truth(profiles, noise_on, gene_wise):
    made = b.bulk_experiment(
        bulk=profiles,
        scale="log1p",
        zero_fraction=0.6,
        noise_on=noise_on,
        gene_wise=gene_wise,
        rng=RNG(1),
    )
    assert made.zero_fraction == pytest.approx(0.6, abs=0.02)
    assert (made.counts <= made.truth).all()
    assert made.counts.dtype.kind == made.truth.dtype.kind == "i"
    assert made.truth.sum(1) == pytest.approx(1e6, rel=1e-3)
    zeros = (made.counts == 0).mean(0)
    assert (np.ptp(zeros) < 0.65) == gene_wise


def test_a_seed_fixes_the_experiment(profiles):
    common = {"bulk": profiles, "scale": "log1p", "zero_fraction": 0.5}
    one, two, three = (b.bulk_experiment(**common, rng=RNG(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one.counts, two.counts)
    assert not np.array_equal(one.counts, three.counts)
    assert np.array_equal(one.truth, three.truth)


def test_recovery_is_one_for_the_truth_and_zero_for_nothing(profiles):
    made = b.bulk_experiment(bulk=profiles, scale="log1p", zero_fraction=0.5, rng=RNG(0))
    perfect, raw, nothing = (
        b.bulk_recovery(estimate=estimate, truth=made.truth)
        for estimate in (made.truth, made.counts, 0 * made.truth)
    )
    assert perfect == pytest.approx((1.0, 1.0))
    assert nothing == (0.0, 0.0)
    assert perfect.median_per_gene > raw.median_per_gene > 0
    assert perfect.median_per_sample > raw.median_per_sample > 0


def test_bad_bulk_is_refused(profiles):
    with pytest.raises(ValueError, match="min_fold is 1"):
        b.bulk_differential(first=profiles, second=profiles, min_fold=1)
    with pytest.raises(ValueError, match="expected the same genes"):
        b.bulk_differential(first=profiles, second=profiles[:, :5])
    with pytest.raises(ValueError, match="with counts in every sample"):
        b.bulk_differential(first=0 * profiles, second=profiles)
    with pytest.raises(ValueError, match="n_top between 1 and their number"):
        b.top_overlap(scores=[1.0], reference=[1.0], n_top=2)
    with pytest.raises(ValueError, match="a truth that is not the same for all"):
        b.level_correlation(profile=[1.0, 2.0], bulk=[1.0, 1.0])
    with pytest.raises(ValueError, match="expected 'counts' or 'log1p'"):
        b.bulk_experiment(bulk=profiles, scale="log2", zero_fraction=0.5, rng=RNG(0))
    truth = b.bulk_differential(first=profiles, second=profiles)
    with pytest.raises(ValueError, match="the groups have 5 and 5 genes, bulk 300"):
        b.score_against_bulk(first=profiles[:, :5], second=profiles[:, :5], bulk=truth)
