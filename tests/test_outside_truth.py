"""smFISH, surface proteins and deep profiles: by hand, by law, and what they refuse."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from graphsci.evaluation import depth, fish, proteins

RNG = np.random.default_rng


def table(first, second, area=None) -> pd.DataFrame:
    columns = {"A": first, "B": second}
    return pd.DataFrame(columns | ({} if area is None else {"Area": area}))


# --- smFISH -----------------------------------------------------------------------------


def test_fish_truth_by_hand():
    """Sizes divide: 2/1, 8/2, 18/3 = 2, 4, 6; the second gene falls as the first rises."""
    found = fish.fish_truth(tables=[table([2, 8, 18], [6, 8, 6], [1, 2, 3])])
    assert found.genes == ("A", "B")
    assert found.pairs == (("A", "B"),)
    assert found.cv == pytest.approx([2 / 4, 2 / 4])
    assert found.correlation == pytest.approx([-1.0])
    assert found.n_cells.tolist() == [3]


def test_a_gene_of_several_tables_has_the_mean_of_its_squared_cvs():
    one, two = table([1, 2, 3], [1, 1, 2]), table([2, 2, 8], [1, 3, 5]).rename(columns={"B": "C"})
    found = fish.fish_truth(tables=[one, two], size=None)
    squares = [np.var(t["A"], ddof=1) / t["A"].mean() ** 2 for t in (one, two)]
    assert found.genes == ("A", "B", "C")
    assert found.cv[0] == pytest.approx(np.sqrt(np.mean(squares)))


def test_moments_against_numpy_and_of_a_constant_gene():
    values = RNG(0).gamma(2.0, size=(50, 4))
    values[:, 3] = 0.1
    found = fish.moments(values=sp.csr_matrix(values))
    assert found.cv[:3] == pytest.approx(stats.variation(values[:, :3], ddof=1))
    assert found.correlation[:3, :3] == pytest.approx(np.corrcoef(values[:, :3].T))
    assert found.cv[3] == 0
    assert not found.correlation[3].any()


def test_moments_with_a_posterior_variance_are_those_of_draws():
    rng = RNG(0)
    values, sd = rng.gamma(2.0, size=(400, 3)), rng.uniform(0.2, 1.0, size=(400, 3))
    values[:, 1] += values[:, 0]
    draws = values + sd * rng.normal(size=(300, 400, 3))
    found = fish.moments(values=values, variance=np.square(sd))
    by_draws = fish.moments(values=draws.reshape(-1, 3))
    assert found.cv == pytest.approx(by_draws.cv, rel=0.01)
    assert found.correlation == pytest.approx(by_draws.correlation, abs=0.01)
    assert (found.cv > fish.moments(values=values).cv).all()
    with pytest.raises(ValueError, match=r"variance has shape \(400, 2\)"):
        fish.moments(values=values, variance=sd[:, :2])
    for bad in (-sd, np.where(sd > 0.9, np.nan, sd)):
        with pytest.raises(ValueError, match="finite numbers of at least 0"):
            fish.moments(values=values, variance=bad)


def test_moments_without_counting_noise_are_those_of_the_rates():
    """Laws: counts inflate the CV and weaken r; the correction undoes both, imputing nothing."""
    rng, n = RNG(0), 40_000
    common = rng.gamma(4.0, 0.25, size=(n, 1))
    rates = common * rng.gamma(8.0, 1 / 8, size=(n, 2)) * [1.0, 3.0]
    sizes = rng.lognormal(0, 0.3, n)
    counts = rng.poisson(rates * sizes[:, None])
    true, raw = fish.moments(values=rates), fish.moments(values=counts / sizes[:, None])
    found = fish.moments_without_counting_noise(counts=counts, size_factors=sizes)
    assert found.cv == pytest.approx(true.cv, rel=0.03)
    assert found.correlation[0, 1] == pytest.approx(true.correlation[0, 1], abs=0.03)
    assert (raw.cv > 1.1 * true.cv).all()
    assert raw.correlation[0, 1] < 0.7 * true.correlation[0, 1]


def test_noise_alone_has_no_variation_left():
    counts = np.tile([[1], [1], [1], [2]], (10, 2))  # variance below the mean
    found = fish.moments_without_counting_noise(counts=counts, size_factors=np.ones(40))
    assert not found.cv.any()
    assert not found.correlation.any()


def test_fish_errors_by_hand():
    assert fish.cv_error(estimated=[1.0, 2.0, 0.0], truth=[1.0, 1.0, 3.0]) == pytest.approx(4 / 9)
    assert fish.cv_error(estimated=[0.0], truth=[0.0]) == 0
    assert fish.correlation_error(estimated=[0.5, 0.0], truth=[0.2, 0.1]) == pytest.approx(0.2)


def test_scores_are_of_the_genes_that_both_have():
    truth = fish.fish_truth(
        tables=[table([1, 2, 3], [1, 2, 3]), table([1, 2, 3], [3, 1, 2]).add_suffix("x")], size=None
    )
    values = np.array([[3, 5, 1], [2, 5, 2], [1, 5, 3]])
    found = fish.score_against_fish(
        moments=fish.moments(values=values), genes=["A", "other", "B"], truth=truth
    )
    assert found.genes == ("A", "B")
    assert found.pairs == (("A", "B"),)
    assert found.cv_error == pytest.approx(0)
    assert found.correlation_error == pytest.approx(2)


def test_bad_fish_input_is_refused():
    with pytest.raises(ValueError, match="expected two genes and 'Area'"):
        fish.fish_truth(tables=[table([1, 2, 3], [1, 2, 3])])
    with pytest.raises(ValueError, match="missing or negative molecules or sizes"):
        fish.fish_truth(tables=[table([1, 2, np.nan], [1, 2, 3])], size=None)
    with pytest.raises(ValueError, match="expected 3 positive numbers, one per cell"):
        fish.moments_without_counting_noise(counts=np.ones((3, 2)), size_factors=[1, 0, 1])
    truth = fish.fish_truth(tables=[table([1, 2, 3], [1, 2, 3])], size=None)
    with pytest.raises(ValueError, match="none of the 1 pairs of the truth is among 1 genes"):
        fish.score_against_fish(
            moments=fish.moments(values=np.ones((3, 1))), genes=["A"], truth=truth
        )
    with pytest.raises(ValueError, match="the same genes or pairs"):
        fish.cv_error(estimated=[1.0], truth=[1.0, 2.0])


# --- proteins ---------------------------------------------------------------------------


def test_antibodies_are_matched_to_genes():
    found = proteins.match_proteins(
        proteins=["CD15_TotalSeqB", "CD3_TotalSeqB", "PD-1_TotalSeqB", "CD45RA", "CD8a"],
        genes=["CD8A", "PDCD1", "CD3E", "FUT4"],
    )
    assert found.names == ("CD3E", "PDCD1", "CD8A")
    assert found.proteins.tolist() == [1, 2, 4]
    assert found.genes.tolist() == [2, 1, 0]
    with pytest.raises(ValueError, match="none of 1 antibodies could be matched"):
        proteins.match_proteins(proteins=["IgG1"], genes=["CD4"])


def test_centred_log_ratio_does_not_see_a_cells_number_of_antibodies():
    counts = np.array([[1e4, 1e5, 1e6]])
    assert proteins.centred_log_ratio(counts) == pytest.approx(np.log([[0.1, 1, 10]]), abs=1e-3)
    assert proteins.centred_log_ratio(7 * counts) == pytest.approx(
        proteins.centred_log_ratio(counts), abs=1e-3
    )


def test_protein_correlation_against_scipy():
    rng = RNG(0)
    expression, measured = rng.poisson(1.0, size=(30, 2)), rng.normal(size=(30, 2))
    found = proteins.protein_rna_correlation(expression=expression, proteins=measured)
    judge = [stats.spearmanr(expression[:, j], measured[:, j]).statistic for j in range(2)]
    assert found == pytest.approx(judge)


# --- deep profiles ----------------------------------------------------------------------


def test_log_errors_by_hand_and_without_depth():
    estimate, truth = np.array([[1.0, 3.0], [2.0, 0.0]]), np.array([[10.0, 10.0], [1.0, 0.0]])
    logs = np.log1p([[1, 3], [4, 0]]), np.log1p([[2, 2], [4, 0]])
    expected = np.abs(logs[0] - logs[1])
    common = {"estimate": estimate, "truth": truth, "library_size": 4}
    assert depth.log_error_per_gene(**common) == pytest.approx(expected.mean(0))
    assert depth.log_error_per_cell(**common) == pytest.approx(expected.mean(1))
    deeper = common | {"truth": 9 * truth}
    assert depth.log_error_per_gene(**deeper) == pytest.approx(expected.mean(0))


def test_deep_scores_by_kind_of_entry():
    deep = np.array([[4.0, 4.0, 0.0], [4.0, 0.0, 0.0], [2.0, 2.0, 0.0]])
    observed = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]])
    perfect = depth.score_against_deep(estimate=deep / 4, deep=deep, observed=observed, min_cells=2)
    assert perfect.n_genes == 2
    assert perfect.pearson_gene == perfect.pearson_cell == pytest.approx(1)
    assert perfect.log_error == perfect.log_error_dropped == perfect.log_error_absent == 0
    same = np.ones((3, 3))
    invented = depth.score_against_deep(
        estimate=same, deep=deep, observed=observed, min_cells=2, library_size=3
    )
    assert invented.log_error_absent == pytest.approx(np.log1p(1))
    assert invented.log_error_dropped == pytest.approx(np.log1p(1.5) - np.log1p(1))
    assert invented.pearson_gene == 0


def test_a_thinned_profile_is_closer_to_its_own_cells_than_to_others():
    rng = RNG(0)
    deep = rng.poisson(rng.gamma(1.0, 20.0, size=(40, 60)))
    observed = rng.binomial(deep, 0.2)
    own, other = (
        depth.score_against_deep(estimate=observed[order], deep=deep, observed=observed)
        for order in (np.arange(40), np.roll(np.arange(40), 1))
    )
    assert own.log_error < other.log_error
    assert own.pearson_gene > 0.5 > abs(other.pearson_gene)
    assert own.pearson_cell > other.pearson_cell


def test_profiles_of_groups_are_means_of_shares():
    counts = np.array([[1, 1], [0, 8], [5, 0], [0, 0]])
    found = depth.profiles_of_groups(counts=counts, groups=["a", "a", "b", "b"], wanted=["b", "a"])
    assert found == pytest.approx(np.array([[1.0, 0.0], [0.25, 0.75]]))


def test_bad_deep_input_is_refused():
    ones = np.ones((3, 2))
    with pytest.raises(ValueError, match="0 genes have deep expression in at least 9 cells"):
        depth.score_against_deep(estimate=ones, deep=ones, observed=ones, min_cells=9)
    with pytest.raises(ValueError, match="estimate has shape"):
        depth.log_error_per_gene(estimate=ones[:2], truth=ones)
    with pytest.raises(ValueError, match="1 of 2 wanted cells are of a group that has counts"):
        depth.profiles_of_groups(counts=ones, groups=[1, 2, 3], wanted=[1, 4])
    with pytest.raises(ValueError, match="1 of 2 wanted cells are of a group that has counts"):
        depth.profiles_of_groups(counts=[[1, 2], [0, 0]], groups=["x", "y"], wanted=["x", "y"])
    with pytest.raises(ValueError, match="groups: got 2 groups for 3 cells"):
        depth.profiles_of_groups(counts=ones, groups=[1, 2], wanted=[1])
