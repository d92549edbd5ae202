"""PIDC against its authors' program, triplets worked by hand, and scikit-learn."""

from itertools import combinations

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.metrics import mutual_info_score

from graphsci.gene_graph import pidc
from graphsci.gene_graph.pidc import bayesian_blocks, discretize, pidc_graph, pidc_scores

# Golden: the 10-gene, 140-sample Yeast1 series of GeneNetWeaver (Schaffter et al. 2011), after
# Bayesian blocks, one digit per sample, with the scores of NetworkInference.jl
# (T. Chan; test/data of github.com/Tchanders/NetworkInference.jl, MIT licence). Its confidence
# is twice ours.
YEAST_BINS = [
    "1111111111111122111101111110111100111111121110011110111121111211111220"
    "2111011101111012212011021121101221210120221101000013210121230201021111",
    "1211111111111121221110011111011021101100011011110012200101111010012012"
    "1011111101012101001101211001111101023000001130110320113101000101312011",
    "1111111111111011111101100100212110012111101100011110011101001021001011"
    "0210111111111110010110101001011001011001001110110100010100101111101011",
    "2111112111311111111121111111111111211111111111311113112111211121111113"
    "1112213101113311111311212111112111113113112101303321110010113132112111",
    "1111111111111121121111111121111111112111111111111121111111111111111211"
    "2121111121121111212121111211112222212121221112121113110121131111121212",
    "2332233221221224212222411101322332122020001022220222210220202220000222"
    "0032222222022130213222202322212202203030011200310232300212320203002202",
    "1112122111111111121122111111111111111121111211331111212111112111111011"
    "1111111101113230111421241122240114132113111111103141314111112031211110",
    "2121211111211111211111111111120111111111111101110101110000111111102210"
    "0121111111120100110001100000001110011100011111110101010100111101021111",
    "1121112121111112121201110101110011021101100010120211111100002120002102"
    "0111122112111201101121112110110002100112112122010010111110210200111200",
    "1121012111112211111111211012121111111111101111101100100121121011001111"
    "1111111110110100011012101112112220011111001011221100201101111011102111",
]
YEAST_INFORMATION = {
    (1, 4): 0.2972651133683284,
    (1, 5): 0.20939834315117478,
    (7, 8): 0.1591589503456463,
    (3, 9): 0.07202931598519413,
    (5, 9): 0.014917741680880336,
}
YEAST_UNIQUE = {
    (1, 4): 12.223453815146156,
    (7, 8): 11.0329627675727,
    (3, 9): 10.40555358221134,
    (2, 7): 5.3649798520800145,
    (5, 10): 0.4231957746160684,
}
YEAST_CONFIDENCE = {
    (7, 8): 1.920336339689201,
    (3, 9): 1.8622996347947338,
    (1, 4): 1.8256128333196262,
    (2, 7): 0.658668876548085,
    (5, 10): 0.027096176296703724,
}


def scores_of(bins):
    information, redundancy = pidc._information_and_redundancy(np.asarray(bins, dtype=np.int32))
    unique = pidc._unique_contribution(information, redundancy)
    return pidc.PidcScores(information, unique, pidc._confidence(unique))


def genes_of(n):
    return [f"g{i}" for i in range(n)]


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((200, 3))
    return np.log1p(rng.poisson(np.exp(factors @ rng.normal(0, 0.8, (3, 12)))))


# The authors' program ------------------------------------------------------------


def test_scores_equal_the_authors_program():
    bins = np.array([[int(digit) for digit in gene] for gene in YEAST_BINS]).T
    assert bins.shape == (140, 10)
    scores = scores_of(bins)
    for golden, ours, factor in (
        (YEAST_INFORMATION, scores.mutual_information, 1),
        (YEAST_UNIQUE, scores.unique_contribution, 1),
        (YEAST_CONFIDENCE, scores.confidence, 2),
    ):
        for (a, b), expected in golden.items():
            assert factor * ours[a - 1, b - 1] == pytest.approx(expected, rel=1e-6)


# Information ---------------------------------------------------------------------


def test_information_equals_scikit_learn():
    rng = np.random.default_rng(1)
    bins = rng.integers(0, [2, 2, 3, 5], (50, 4))
    scores = scores_of(bins)
    for a, b in combinations(range(4), 2):
        judge = mutual_info_score(bins[:, a], bins[:, b]) / np.log(2)
        assert scores.mutual_information[a, b] == pytest.approx(judge, abs=1e-12)


def test_copies_and_a_bystander_by_hand():
    """X = Y, Z on its own: all of X's one bit about Y is Y's own."""
    x = [0, 0, 1, 1]
    scores = scores_of(np.array([x, x, [0, 1, 0, 1]]).T)
    np.testing.assert_allclose(scores.mutual_information, [[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(scores.unique_contribution, [[0, 2, 0], [2, 0, 0], [0, 0, 0]])


def test_three_copies_by_hand():
    """Whatever X knows about Y, Z knows too: nothing is unique."""
    x = [0, 0, 1, 1]
    scores = scores_of(np.array([x, x, x]).T)
    np.testing.assert_allclose(scores.unique_contribution, 0, atol=1e-12)
    np.testing.assert_allclose(scores.mutual_information, 1 - np.eye(3))


def test_and_gate_by_hand():
    """Z = X and Y. About Z, all is redundant; about X, Y knows nothing, so Z's part is unique."""
    x, y = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    scores = scores_of(np.array([x, y, x & y]).T)
    information = 1.5 - 0.75 * np.log2(3)  # 0.311 bits
    np.testing.assert_allclose(
        scores.mutual_information,
        [[0, 0, information], [0, 0, information], [information, information, 0]],
        atol=1e-12,
    )
    np.testing.assert_allclose(
        scores.unique_contribution, [[0, 0, 1], [0, 0, 1], [1, 1, 0]], atol=1e-12
    )


def test_xor_gate_by_hand():
    """All information is synergy: no pair knows anything."""
    x, y = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    scores = scores_of(np.array([x, y, x ^ y]).T)
    for matrix in scores:
        np.testing.assert_allclose(matrix, 0, atol=1e-12)


def redundancy(target, left, right):
    """Williams & Beer's I_min, term by term."""

    def specific(state, source):
        p = np.mean(target == state)
        return sum(
            np.mean(source[target == state] == value)
            * np.log2(np.mean(target[source == value] == state) / p)
            for value in np.unique(source[target == state])
        )

    return sum(
        np.mean(target == state) * min(specific(state, left), specific(state, right))
        for state in np.unique(target)
    )


def test_sorting_equals_the_sum_over_all_triplets(monkeypatch):
    monkeypatch.setattr(pidc, "BIN_BLOCK", 5)
    rng = np.random.default_rng(2)
    bins = rng.integers(0, 3, (40, 7))
    bins[:, 1] = bins[:, 0] * (rng.random(40) < 0.7)
    scores = scores_of(bins)
    for x, y in combinations(range(7), 2):
        information = mutual_info_score(bins[:, x], bins[:, y]) / np.log(2)
        expected = sum(
            2
            - redundancy(bins[:, x], bins[:, y], bins[:, z]) / information
            - redundancy(bins[:, y], bins[:, x], bins[:, z]) / information
            for z in range(7)
            if z not in (x, y)
        )
        assert scores.unique_contribution[x, y] == pytest.approx(expected, abs=1e-9)


# Context -------------------------------------------------------------------------


def test_gamma_fit_equals_scipy():
    rng = np.random.default_rng(3)
    for shape, scale in ((0.5, 2.0), (3.0, 0.1), (80.0, 5.0)):
        sample = rng.gamma(shape, scale, 300)
        unique = np.zeros((301, 301))
        unique[0, 1:] = sample
        fitted_shape, fitted_scale = pidc._fit_gamma(unique)
        judge = stats.gamma.fit(sample, floc=0)
        assert fitted_shape[0] == pytest.approx(judge[0], rel=1e-4)
        assert fitted_scale[0] == pytest.approx(judge[2], rel=1e-4)


# Bins ----------------------------------------------------------------------------


def test_bayesian_blocks_are_the_best_of_all_segmentations():
    rng = np.random.default_rng(4)
    x = np.concatenate([rng.uniform(0, 1, 4), rng.uniform(1, 1.02, 6), [3.0, 3.0]])
    distinct, counts = np.unique(x, return_counts=True)
    n = len(distinct)
    middles = (distinct[1:] + distinct[:-1]) / 2
    edges = np.concatenate([distinct[:1], middles, distinct[-1:]])

    def fitness(cuts):
        blocks = zip((0, *cuts), (*cuts, n), strict=True)
        return sum(
            counts[a:b].sum() * np.log(counts[a:b].sum() / (edges[b] - edges[a]))
            - (4 - np.log(73.53 * 0.05 * b**-0.478))
            for a, b in blocks
        )

    every = [cuts for k in range(n) for cuts in combinations(range(1, n), k)]
    best = max(every, key=fitness)
    np.testing.assert_allclose(bayesian_blocks(x), edges[[0, *best, n]])


def test_bayesian_blocks_find_the_change_of_density():
    rng = np.random.default_rng(5)
    x = np.concatenate([rng.uniform(0, 1, 300), rng.uniform(1, 10, 300)])
    edges = bayesian_blocks(x)
    assert len(edges) == 3
    assert edges[1] == pytest.approx(1, abs=0.1)


def test_bins_count_from_zero_without_gaps(values):
    for how in ("bayesian_blocks", "equal_width"):
        bins = discretize(values, discretization=how)
        assert all(set(np.unique(gene)) == set(range(gene.max() + 1)) for gene in bins.T)
        judge = stats.spearmanr(bins[:, 0], values[:, 0]).statistic
        assert judge > 0.7  # bins keep the order
    equal = discretize(np.array([[0.0], [1], [2.5], [10]]), discretization="equal_width", n_bins=4)
    assert equal.ravel().tolist() == [0, 0, 1, 2]


def test_a_constant_gene_is_one_bin(values):
    constant = np.column_stack([values, np.full(200, 3.0), np.zeros(200)])
    assert discretize(constant)[:, 12:].max() == 0
    graph = pidc_graph(constant, gene_names=genes_of(14), threshold=0)
    assert graph.adjacency[12:].nnz == 0
    assert np.all(np.isfinite(graph.adjacency.data))


# Graph ---------------------------------------------------------------------------


def test_graph_is_valid_and_does_not_depend_on_order(values):
    order = np.random.default_rng(6).permutation(12)
    graph = pidc_graph(values, gene_names=genes_of(12), threshold=0.5)
    again = pidc_graph(
        sparse.csr_matrix(values[:, order]), gene_names=np.array(genes_of(12))[order], threshold=0.5
    )
    a = graph.adjacency
    assert graph.source == "pidc"
    assert 0 < graph.n_edges < 66
    assert abs(a - a.T).nnz == 0
    assert np.all(a.diagonal() == 0)
    assert a.data.min() > 0.5
    assert a.data.max() <= 1
    np.testing.assert_allclose(
        again.adjacency.toarray(), a.toarray()[np.ix_(order, order)], rtol=1e-6
    )


def test_top_k_limits_the_edges(values):
    graph = pidc_graph(values, gene_names=genes_of(12), threshold=0, top_k=2)
    assert graph.n_edges <= 24
    assert graph.adjacency.getnnz(axis=1).min() >= 2


def test_indirect_link_of_a_chain_is_the_least_unique():
    """A -> B -> C: what A knows about C, B knows as well."""
    rng = np.random.default_rng(7)
    a = rng.standard_normal(800)
    b = a + 0.6 * rng.standard_normal(800)
    c = b + 0.6 * rng.standard_normal(800)
    scores = pidc_scores(np.column_stack([a, b, c]))
    unique = scores.unique_contribution
    assert scores.mutual_information[0, 2] > 0.2
    assert unique[0, 2] < 0.5 * min(unique[0, 1], unique[1, 2])


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (np.ones((5, 2)), {}, "at least 3 genes, got 2"),
        (np.ones((5, 4)), {"max_genes": 3}, "dense genes x genes .* max_genes is 3"),
        (np.ones((2, 4)), {}, "at least 3 cells"),
        (np.full((5, 4), np.nan), {}, "20 values are NaN or infinite"),
        (np.ones((5, 4)), {"discretization": "kmeans"}, "'equal_width', got 'kmeans'"),
        (np.ones((5, 4)), {"n_bins": 1, "discretization": "equal_width"}, "at least 2, got 1"),
        (np.ones((5, 4)), {"threshold": 1.5}, "threshold must be in"),
        (np.ones((5, 4)), {"top_k": 0}, "top_k must be at least 1"),
    ],
)
def test_bad_input(x, options, message):
    with pytest.raises(ValueError, match=message):
        pidc_graph(x, gene_names=genes_of(x.shape[1]), **options)
