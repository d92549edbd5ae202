"""Random numbers by key: the right distributions, independent of each other and of company."""

import numpy as np
import pytest
import torch
from scipy import stats

from graphsci.nn import cell_random as cr

CPU = torch.device("cpu")


def keys_of(n, *, seed=0, step=1, use=cr.CELLS):
    return cr.row_keys(np.arange(n), cr.step_key(seed, step, use), CPU)


def binomial(counts, p, *, seed=0, step=1):
    """One gene in as many cells as there are counts."""
    rows = torch.arange(len(counts))
    keys = keys_of(len(counts), seed=seed, step=step)
    return cr.binomial(counts, p, keys=keys, rows=rows, columns=torch.zeros_like(rows))


@pytest.mark.parametrize("n", [1, 2, 5, 8, 30, 31, 32, 33, 63, 64, 256, 1000])
@pytest.mark.parametrize("p", [0.1, 0.4, 0.9])
def test_binomial_matches_scipy(n, p):
    draws = binomial(torch.full((20_000,), float(n)), p, seed=n)
    observed = np.bincount(draws.numpy().astype(int), minlength=n + 1)
    assert len(observed) == n + 1
    expected = stats.binom.pmf(np.arange(n + 1), n, p) * len(draws)
    common = expected >= 5
    observed = np.append(observed[common], observed[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    used = expected > 1e-9
    assert stats.chisquare(observed[used], expected[used]).pvalue > 1e-3


@pytest.mark.parametrize("n", [300, 4097, 99_999, 2**24])
@pytest.mark.parametrize("p", [1, 20_000, 65_535])
def test_binomial_of_large_counts(n, p):
    """Ranks uniform, mean and variance within five standard errors; no work that grows with n."""
    size, law = 20_000, stats.binom(n, p / 2**16)
    draws = binomial(torch.full((size,), float(n)), p / 2**16).double().numpy()
    assert (draws == np.rint(draws)).all()
    assert draws.min() >= 0
    assert draws.max() <= n
    below, upto = law.cdf(draws - 1), law.cdf(draws)
    rank = below + np.random.default_rng(0).random(size) * (upto - below)
    assert stats.kstest(rank, "uniform").pvalue > 1e-3
    assert abs(draws.mean() - law.mean()) < 5 * law.std() / np.sqrt(size)
    error = np.sqrt((2 + law.stats("k")) / size)
    assert draws.var() == pytest.approx(law.var(), rel=5 * error)


def test_draws_do_not_change_with_versions():
    """Sums of the draws of 0 to 256, and of larger counts, as first written down."""
    draws = [binomial(counts, 0.3) for counts in (torch.arange(257.0), torch.arange(300.0, 2000))]
    weighted = [(found.double() * torch.arange(1, len(found) + 1)).sum().item() for found in draws]
    assert weighted == [1718086.0, 621458140.0]


@pytest.mark.parametrize("p", [1e-9, 0.3, 0.9999])
def test_small_distributions_match_scipy(p):
    """Every value of every distribution function below 32, and in ascending order."""
    table = cr._small_distributions(p)
    expected = stats.binom.cdf(np.arange(32), np.arange(32)[:, None], p)
    assert table.dtype == np.int64
    np.testing.assert_allclose(table / 2**53, expected, rtol=1e-14, atol=2.0**-53)
    assert (np.diff(table, axis=1) >= 0).all()


def test_a_large_draw_does_not_depend_on_its_company():
    counts = torch.tensor([5.0, 3000.0, 300.0, 70_000.0])
    alone = cr.binomial(
        counts[3:], 0.3, keys=keys_of(4), rows=torch.tensor([3]), columns=torch.tensor([0])
    )
    assert torch.equal(binomial(counts, 0.3)[3:], alone)


def test_large_draws_of_neighbours_are_independent():
    """Of cells that follow each other, and of steps."""
    one, other = (binomial(torch.full((20_000,), 1023.0), 0.3, step=s).numpy() for s in (1, 2))
    for first, second in ((one, other), (one[1:], one[:-1])):
        assert abs(np.corrcoef(first, second)[0, 1]) < 5 / np.sqrt(len(first))


def test_binomial_limits():
    counts = torch.tensor([0.0, 1.0, 31.0, 32.0, 256.0, 500.0])
    assert torch.equal(binomial(counts, 1.0), counts)
    assert torch.equal(binomial(counts, 0.0), torch.zeros(6))
    assert binomial(counts[:0], 0.5).shape == (0,)


def test_draws_of_cells_genes_and_steps_are_independent():
    """Pairs of draws of neighbours in every direction: phi within five standard errors of 0."""
    n_cells, n_genes = 200, 100
    rows = torch.arange(n_cells).repeat_interleave(n_genes)
    columns = torch.arange(n_genes).repeat(n_cells)
    ones = torch.ones(len(rows))
    first, second = (
        cr.binomial(ones, 0.5, keys=keys_of(n_cells, step=step), rows=rows, columns=columns)
        .reshape(n_cells, n_genes)
        .numpy()
        for step in (1, 2)
    )
    mask = cr.keep_mask(keys_of(n_cells), n_genes, 0.5).numpy() > 0
    pairs = [
        (first, second),
        (first, mask),
        (first[1:], first[:-1]),
        (first[:, 1:], first[:, :-1]),
        (first[1:, 1:], first[:-1, :-1]),
    ]
    for one, other in pairs:
        phi = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(phi) < 5 / np.sqrt(one.size)


def test_uniform_and_normal_match_scipy():
    keys = keys_of(300)
    uniform, normal = cr.uniform(keys, 50, 1).numpy().ravel(), cr.normal(keys, 50).numpy().ravel()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3
    assert stats.kstest(normal, "norm").pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.8])
def test_dropout_keeps_the_expectation(rate):
    mask = cr.keep_mask(keys_of(400), 100, rate)
    assert mask.max().item() == pytest.approx(1 / (1 - rate))
    assert len(mask.unique()) == (1 if rate == 0 else 2)
    error = np.sqrt(rate * (1 - rate) / mask.numel())
    assert abs((mask == 0).float().mean().item() - rate) <= 5 * error


def test_numbers_belong_to_rows():
    chosen = torch.tensor([7, 2, 5])
    alone = cr.row_keys(chosen, cr.step_key(0, 1, cr.CELLS), CPU)
    assert torch.equal(alone, keys_of(10)[chosen])
    assert torch.equal(cr.uniform(alone, 4, 1), cr.uniform(keys_of(10), 4, 1)[chosen])
    assert torch.equal(cr.uniform(alone, 3, 1), cr.uniform(alone, 4, 1)[:, :3])


def test_every_part_of_a_key_counts():
    keys = [
        cr.step_key(*parts) for parts in ((0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, 0), (0, 1, 1))
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 2**63 for key in keys)


def test_the_hash_is_splitmix64():
    """The first numbers of SplitMix64 from seed 1234567, as published with xoshiro256."""
    state, drawn = 1234567, []
    for _ in range(3):
        state += cr._STEP
        drawn.append(cr._mix_int(state))
    assert drawn == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    same = cr._mix(torch.tensor([cr._signed(1234567 + i * cr._STEP) for i in (1, 2, 3)]))
    assert [value % 2**64 for value in same.tolist()] == drawn
