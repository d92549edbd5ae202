"""NB or ZINB: simulated counts whose dropout is known."""

import numpy as np
import pytest
from scipy import sparse, special, stats

from graphsci.training.zero_inflation import (
    CLEAR_SHARE,
    FEWEST_CELLS,
    ZeroInflation,
    detect_zero_inflation,
)


def negative_binomial(rng, mean: np.ndarray, theta: float) -> np.ndarray:
    return rng.poisson(rng.gamma(theta, mean / theta)).astype(np.float32)


def simulate(
    *, theta=2.0, n_cells=300, n_genes=80, n_types=1, fold=1.0, level=3.0, seed=0
) -> np.ndarray:
    """Counts of cells of unequal depth; genes differ between types by up to ``fold``."""
    rng = np.random.default_rng(seed)
    profile = rng.gamma(2.0, level / 2, n_genes) * rng.choice([1 / fold, fold], (n_types, n_genes))
    depth = rng.lognormal(0, 0.4, (n_cells, 1))
    return negative_binomial(rng, profile[rng.integers(0, n_types, n_cells)] * depth, theta)


def detect(counts: np.ndarray, seed: int = 0) -> ZeroInflation:
    return detect_zero_inflation(sparse.csr_matrix(counts), seed=seed)


@pytest.mark.parametrize("theta", [0.3, 0.7, 2.0, 1e4])
def test_negative_binomial_counts_are_nb(theta):
    found = detect(simulate(theta=theta))
    assert found.likelihood == "nb"
    assert found.evidence < 1.0
    assert found.clear < CLEAR_SHARE
    assert found.n_genes > 50
    assert found.n_cells == 300


@pytest.mark.parametrize("seed", range(3))
def test_two_very_different_cell_types_are_nb(seed):
    """A gene that is on in one type and off in the other has many zeros, and no dropout."""
    assert detect(simulate(n_types=2, fold=5.0, seed=seed)).likelihood == "nb"


@pytest.mark.parametrize("n_types", [1, 2])
def test_dropout_is_seen(n_types):
    counts = simulate(n_types=n_types, fold=3.0, level=6.0)
    dropped = counts * (np.random.default_rng(1).random(counts.shape) > 0.3)
    found = detect(dropped)
    assert found.likelihood == "zinb"
    assert found.evidence > 3
    assert found.share > 0.1


def test_dropout_that_depends_on_the_mean_is_seen():
    """Splat's: P(dropped) = sigmoid(-log mu)."""
    counts = simulate(theta=8.0, level=4.0)
    chance = 1 / (1 + np.maximum(counts.mean(0), 1e-3))
    assert detect(counts * (np.random.default_rng(2).random(counts.shape) > chance)).zero_inflated


def test_dropout_of_few_genes_at_depth_is_seen():
    """Nine genes of ten are so deep that next to nothing of theirs is dropped."""
    counts = simulate(theta=8.0, n_genes=200, level=60.0)
    counts[:, :20] = simulate(theta=8.0, n_genes=20, level=3.0, seed=5)
    chance = 1 / (1 + np.maximum(counts.mean(0), 1e-3))
    found = detect(counts * (np.random.default_rng(2).random(counts.shape) > chance))
    assert found.share <= 0.02
    assert found.likelihood == "zinb"


def test_more_dropout_is_a_larger_share():
    counts, rng = simulate(level=6.0), np.random.default_rng(3)
    uniform = rng.random(counts.shape)
    found = [detect(counts * (uniform > share)) for share in (0.0, 0.15, 0.4)]
    assert [one.share for one in found] == pytest.approx([0.0, 0.15, 0.4], abs=0.051)
    assert found[0].evidence < found[1].evidence < found[2].evidence


@pytest.mark.parametrize("n_cells", [2, 12, FEWEST_CELLS - 1])
def test_few_cells_are_nb_for_that_reason(n_cells):
    """With dropout, without, or with two cell types: it cannot be told."""
    mixed = simulate(n_types=2, fold=5.0, n_cells=n_cells)
    dropped = simulate(n_cells=n_cells) * (np.random.default_rng(1).random((n_cells, 80)) > 0.5)
    for counts in (simulate(n_cells=n_cells), mixed, dropped):
        found = detect(counts)
        assert found == ZeroInflation(0.0, 0.0, 0.0, 0, n_cells)
        assert found.likelihood == "nb"
        assert found.reason() == (
            f"likelihood nb: {n_cells} cells are too few to tell dropout from cell types "
            f"(at least {FEWEST_CELLS}); choose zinb yourself for reads with dropout"
        )


def test_empty_cells_do_not_count():
    counts = simulate(n_cells=FEWEST_CELLS)
    assert detect(counts).n_genes > 0
    counts[3] = 0
    assert detect(counts) == ZeroInflation(0.0, 0.0, 0.0, 0, FEWEST_CELLS - 1)
    more = simulate(n_cells=FEWEST_CELLS + 10)
    more[3] = 0
    assert detect(more).n_cells == FEWEST_CELLS + 9
    assert detect(more).likelihood == "nb"


def test_rare_genes():
    rare = detect(np.eye(250, dtype=np.float32))
    assert (rare.n_genes, rare.n_cells, rare.likelihood) == (0, 250, "nb")
    assert "no gene has enough counts to tell dropout from sampling" in rare.reason()


def test_the_seed_decides():
    counts = simulate(n_cells=400)
    assert detect(counts, seed=1) == detect(counts, seed=1)


def test_reasons():
    assert ZeroInflation(9.1, 0.2, 0.5, 500, 900).reason() == (
        "likelihood zinb: zeros exceed what a negative binomial predicts (dropout gains 9.1 in "
        "likelihood ratio a gene, by chance 0.5, zinb above 1.7; it is clear in 50% of 500 genes, "
        "by chance 2%, zinb above 10%; median share dropped 20%)"
    )
    few = ZeroInflation(9.1, 0.0, 0.05, 9, 600).reason()
    assert "likelihood nb: zeros exceed what" in few
    assert "choose zinb yourself" in few
    assert "likelihood nb: zeros match what" in ZeroInflation(0.4, 0.0, 0.02, 9, 600).reason()
    assert "99 cells are too few" in ZeroInflation(0.0, 0.0, 0.0, 0, 99).reason()


def test_the_likelihoods_are_those_of_the_model():
    """Against zinb_log_prob, which is itself checked against scipy."""
    import torch

    from graphsci.nn.likelihood import zinb_log_prob
    from graphsci.training.zero_inflation import _SHARES, _log_likelihoods

    rng = np.random.default_rng(0)
    x, expected, theta = rng.poisson(2.0, (30, 4)).astype(float), rng.gamma(4, 0.5, (30, 4)), 1.7
    found = _log_likelihoods(x, expected, theta)
    nb = stats.nbinom.logpmf(x, theta, theta / (theta + expected)) + special.gammaln(x + 1)
    np.testing.assert_allclose(found[0], nb.sum(0), rtol=1e-9)
    for row, share in enumerate(_SHARES[1:], start=1):
        exact = zinb_log_prob(
            torch.tensor(x),
            mean=torch.tensor(expected / (1 - share)),
            inverse_dispersion=torch.tensor(theta, dtype=torch.float64),
            zero_inflation_logits=torch.tensor(np.log(share / (1 - share))),
        )
        constant = torch.lgamma(torch.tensor(x) + 1)
        np.testing.assert_allclose(found[row], (exact + constant).sum(0).numpy(), rtol=1e-9)
