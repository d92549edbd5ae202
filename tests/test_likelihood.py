"""Likelihoods against scipy, numerical sums, autograd and their limiting cases."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.autograd import gradcheck

from graphsci.nn import fused_likelihood as fused
from graphsci.nn import likelihood as lk


def grid(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x = torch.tensor([0.0, 1.0, 2.0, 17.0, 400.0, 30_000.0], dtype=dtype)
    mu = torch.tensor([1e-4, 0.3, 5.0, 380.0, 2e4], dtype=dtype)
    theta = torch.tensor([1e-2, 0.7, 10.0, 1e3, 1e6], dtype=dtype)
    return tuple(t.reshape(-1) for t in torch.meshgrid(x, mu, theta, indexing="ij"))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_nb_matches_scipy(dtype, tolerance):
    x, mu, theta = grid(dtype)
    ours = lk.nb_log_prob(x, mean=mu, inverse_dispersion=theta).double().numpy()
    x64, mu64, th64 = (t.double().numpy() for t in (x, mu, theta))
    truth = stats.nbinom.logpmf(x64, th64, th64 / (th64 + mu64))
    # scipy's own logpmf loses digits near 0 for theta = 1e6, hence the absolute floor
    np.testing.assert_allclose(ours, truth, rtol=tolerance, atol=tolerance * 1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("pi", [1e-6, 0.3, 0.97])
def test_zinb_matches_scipy(dtype, tolerance, pi):
    x, mu, theta = grid(dtype)
    logits = torch.full_like(mu, float(np.log(pi / (1 - pi))))
    ours = lk.zinb_log_prob(x, mean=mu, inverse_dispersion=theta, zero_inflation_logits=logits)
    x64, mu64, th64 = (t.double().numpy() for t in (x, mu, theta))
    nb = stats.nbinom.logpmf(x64, th64, th64 / (th64 + mu64))
    truth = np.where(x64 == 0, np.log(pi + (1 - pi) * np.exp(nb)), np.log1p(-pi) + nb)
    np.testing.assert_allclose(ours.double().numpy(), truth, rtol=tolerance, atol=tolerance * 1e-3)


def test_probabilities_sum_to_one():
    x = torch.arange(0, 4000, dtype=torch.float64)
    mean, theta = torch.tensor(7.0, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64)
    logits = torch.tensor(-0.2, dtype=torch.float64)
    nb = lk.nb_log_prob(x, mean=mean, inverse_dispersion=theta).exp()
    zinb = lk.zinb_log_prob(
        x, mean=mean, inverse_dispersion=theta, zero_inflation_logits=logits
    ).exp()
    assert nb.sum().item() == pytest.approx(1, abs=1e-9)
    assert zinb.sum().item() == pytest.approx(1, abs=1e-9)
    assert (nb * x).sum().item() == pytest.approx(7, rel=1e-6)
    assert (zinb * x).sum().item() == pytest.approx(7 * (1 - torch.sigmoid(logits).item()))


def test_zinb_without_dropout_is_nb():
    x, mu, theta = grid(torch.float64)
    none = torch.full_like(mu, -1e5)
    zinb = lk.zinb_log_prob(x, mean=mu, inverse_dispersion=theta, zero_inflation_logits=none)
    torch.testing.assert_close(zinb, lk.nb_log_prob(x, mean=mu, inverse_dispersion=theta))


def test_nb_with_large_theta_is_poisson():
    x, mu, _ = grid(torch.float64)
    nb = lk.nb_log_prob(
        x[x < 500], mean=mu[x < 500], inverse_dispersion=torch.tensor(1e12).double()
    )
    poisson = stats.poisson.logpmf(x[x < 500].numpy(), mu[x < 500].numpy())
    np.testing.assert_allclose(nb.numpy(), poisson, rtol=1e-4, atol=1e-4)


def test_densities_have_right_gradients():
    x = torch.tensor([0.0, 0.0, 1.0, 6.0], dtype=torch.float64)
    mu = torch.tensor([0.2, 3.0, 0.9, 8.0], dtype=torch.float64, requires_grad=True)
    theta = torch.tensor([0.5, 2.0, 1.0, 30.0], dtype=torch.float64, requires_grad=True)
    logits = torch.tensor([-1.0, 0.5, 2.0, -3.0], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda m, t: lk.nb_log_prob(x, mean=m, inverse_dispersion=t), (mu, theta))
    assert gradcheck(
        lambda m, t, z: lk.zinb_log_prob(x, mean=m, inverse_dispersion=t, zero_inflation_logits=z),
        (mu, theta, logits),
    )


def block(
    fraction: float = 0.7, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, lk.ThinnedBlock]:
    """Kept and target counts of 5 cells x 4 genes, dense and as measured entries."""
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.8, 3.0, size=(5, 4)))
    kept = rng.binomial(x, fraction)
    rows, columns = np.nonzero(x)
    entries = lk.ThinnedBlock(
        torch.from_numpy(rows),
        torch.from_numpy(columns),
        torch.from_numpy(kept[rows, columns]).double(),
        torch.from_numpy((x - kept)[rows, columns]).double(),
        fraction,
    )
    return torch.from_numpy(kept).double(), torch.from_numpy(x - kept).double(), entries


def parameters(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = (torch.rand(5, 4, generator=generator, dtype=torch.float64) * 6 + 0.05).requires_grad_()
    theta = (torch.rand(4, generator=generator, dtype=torch.float64) * 5 + 0.1).requires_grad_()
    logits = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    return mean, theta, logits


def test_thinned_nb_is_the_ratio_of_joint_to_marginal():
    kept, target, thinned = block()
    mean, theta, _ = parameters()
    f = thinned.fraction
    truth = lk.nb_log_prob(
        target,
        mean=(theta + kept) * (1 - f) * mean / (theta + f * mean),
        inverse_dispersion=theta + kept,
    ).sum()
    torch.testing.assert_close(lk.thinned_nb_loss(mean, theta, thinned), -truth)


def test_thinned_nb_against_numerical_integration():
    """P(t | k) = integral of Poisson(t | (1-f) lambda) p(lambda | k) d lambda."""
    mu, theta, f, k, t = 2.3, 0.8, 0.7, 2, 3
    rate = np.linspace(1e-9, 80, 400_001)
    weight = stats.gamma.pdf(rate, theta, scale=mu / theta) * stats.poisson.pmf(k, f * rate)
    truth = np.trapezoid(weight * stats.poisson.pmf(t, (1 - f) * rate), rate)
    truth /= np.trapezoid(weight, rate)
    one = torch.zeros(1, dtype=torch.int64)
    thinned = lk.ThinnedBlock(one, one, torch.tensor([2.0]), torch.tensor([3.0]), f)
    loss = lk.thinned_nb_loss(
        torch.tensor([[mu]], dtype=torch.float64), torch.tensor([theta]).double(), thinned
    )
    assert np.exp(-loss.item()) == pytest.approx(truth, rel=1e-5)


def test_thinned_gradients():
    _, _, thinned = block()
    mean, theta, logits = parameters()
    assert gradcheck(lambda m, t: lk.thinned_nb_loss(m, t, thinned), (mean, theta))
    assert gradcheck(lambda m, t, z: lk.thinned_zinb_loss(m, t, z, thinned), (mean, theta, logits))


def test_thinned_zinb_is_the_ratio_of_joint_to_marginal():
    kept, target, thinned = block(seed=3)
    mean, theta, logits = parameters()
    f, pi = thinned.fraction, torch.sigmoid(logits)

    def nb(x, mu):
        return lk.nb_log_prob(x, mean=mu, inverse_dispersion=theta).exp()

    given = lk.nb_log_prob(
        target,
        mean=(theta + kept) * (1 - f) * mean / (theta + f * mean),
        inverse_dispersion=theta + kept,
    ).exp()
    joint = (1 - pi) * nb(kept, f * mean) * given + pi * ((kept == 0) & (target == 0))
    marginal = (1 - pi) * nb(kept, f * mean) + pi * (kept == 0)
    truth = -(joint / marginal).log().sum()
    torch.testing.assert_close(lk.thinned_zinb_loss(mean, theta, logits, thinned), truth)
    no_dropout = torch.full_like(logits, -50.0)
    torch.testing.assert_close(
        lk.thinned_zinb_loss(mean, theta, no_dropout, thinned),
        lk.thinned_nb_loss(mean, theta, thinned),
    )


def factors(seed: int = 2) -> tuple[fused.SoftmaxMean, fused.RankOneTheta, torch.Tensor]:
    """Factors of the mean of 5 cells x 4 genes, those of theta, and a dropout curve."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    mean = fused.SoftmaxMean(draw(5, 3), draw(4, 3), draw(4), draw(5).exp() * 10)
    theta = fused.RankOneTheta(draw(4).exp(), draw(5).exp())
    curve = torch.tensor([0.3, -0.9], dtype=torch.float64)
    for tensor in (*mean, *theta, curve):
        tensor.requires_grad_()
    return mean, theta, curve


def plain_softmax_loss(mean, theta, curve, thinned):
    """The definition: first the distribution of every entry, then its loss."""
    mu = mean.library[:, None] * torch.softmax(mean.z @ mean.loadings.T + mean.bias, 1)
    of_entries = theta.certainty[:, None] * theta.genes
    if curve is None:
        return lk.thinned_nb_loss(mu, of_entries, thinned)
    return lk.thinned_zinb_loss(mu, of_entries, curve[0] + curve[1] * mu.log(), thinned)


def hidden(thinned: lk.ThinnedBlock) -> lk.ThinnedBlock:
    """Hide the second and the fourth of the four genes."""
    whole = thinned.kept + thinned.target
    kept = torch.where(thinned.columns % 2 == 0, thinned.kept, 0)
    fraction = torch.tensor([thinned.fraction, 0.0]).repeat(2).double()
    return thinned._replace(kept=kept, target=whole - kept, fraction=fraction)


@pytest.mark.parametrize("zero_inflated", [False, True])
@pytest.mark.parametrize("entries", [1 << 23, 9])
@pytest.mark.parametrize("in_cache", [1 << 17, 8])
@pytest.mark.parametrize("some_hidden", [False, True])
def test_softmax_loss_is_the_plain_expression(
    monkeypatch, zero_inflated, entries, in_cache, some_hidden
):
    """Loss and all gradients, over all cells at once and over two cells at a time."""
    monkeypatch.setattr(fused, "_ENTRIES_IN_BLOCK", entries)
    monkeypatch.setattr(fused, "_ENTRIES_IN_CACHE", in_cache)
    _, _, thinned = block(seed=4)
    thinned = hidden(thinned) if some_hidden else thinned
    mean, theta, curve = factors()
    wanted = (*mean, *theta, *([curve] if zero_inflated else []))
    arguments = (mean, theta, curve if zero_inflated else None, thinned)
    ours, plain = fused.softmax_loss(*arguments), plain_softmax_loss(*arguments)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(
        torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * plain, wanted)
    )
    with torch.no_grad():
        torch.testing.assert_close(fused.softmax_loss(*arguments), plain)


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_hidden_genes_are_scored_as_whole_counts(zero_inflated):
    """Their loss is the usual one, the others' is as it was."""
    kept, target, thinned = block()
    mean, theta, logits = parameters()
    counts, shown, rest = kept + target, [0, 2], [1, 3]
    rows, columns = (counts[:, rest] > 0).nonzero().T
    usual = lk.block_nll(
        mean[:, rest],
        theta[rest].expand(5, 2),
        logits[:, rest] if zero_inflated else None,
        rows,
        columns,
        counts[:, rest][rows, columns],
    )
    at = thinned.columns % 2 == 0
    part = lk.ThinnedBlock(*(values[at] for values in thinned[:4]), thinned.fraction)
    part = part._replace(columns=part.columns // 2)
    if zero_inflated:
        as_before = lk.thinned_zinb_loss(mean[:, shown], theta[shown], logits[:, shown], part)
        found = lk.thinned_zinb_loss(mean, theta, logits, hidden(thinned))
    else:
        as_before = lk.thinned_nb_loss(mean[:, shown], theta[shown], part)
        found = lk.thinned_nb_loss(mean, theta, hidden(thinned))
    torch.testing.assert_close(found, as_before + usual)


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_an_empty_cell_says_nothing(zero_inflated):
    """All molecules of a cell may be held out: its library is 0, and 0 / 0 would be nan."""
    _, _, thinned = block(seed=4)
    mean, theta, curve = factors()
    keep = thinned.rows != 2
    thinned = lk.ThinnedBlock(*(part[keep] for part in thinned[:4]), thinned.fraction)
    library = mean.library.detach().clone()
    library[2] = 0.0
    others = torch.arange(5) != 2
    rows = thinned.rows - (thinned.rows > 2).long()
    results = []
    for cells, thin in ((slice(None), thinned), (others, thinned._replace(rows=rows))):
        part = mean._replace(z=mean.z[cells], library=library[cells])
        here = theta._replace(certainty=theta.certainty[cells])
        loss = fused.softmax_loss(part, here, curve if zero_inflated else None, thin)
        wanted = (mean.z, mean.loadings, mean.bias, *theta)
        results.append((loss, *torch.autograd.grad(loss, wanted)))
    torch.testing.assert_close(*results)
    _, by_z, *_, by_certainty = results[0]
    assert (by_z[2] == 0).all()
    assert by_certainty[2] == 0


@pytest.mark.parametrize("zero_inflated", [False, True])
def test_softmax_loss_has_right_gradients(monkeypatch, zero_inflated):
    monkeypatch.setattr(fused, "_ENTRIES_IN_CACHE", 8)
    _, _, thinned = block()
    mean, theta, curve = factors()

    def loss(z, loadings, bias, library, genes, certainty, *curve):
        mean, theta = (
            fused.SoftmaxMean(z, loadings, bias, library),
            fused.RankOneTheta(genes, certainty),
        )
        return fused.softmax_loss(mean, theta, curve[0] if curve else None, thinned)

    assert gradcheck(loss, (*mean, *theta, *([curve] if zero_inflated else [])))


@pytest.mark.parametrize("zero_inflated", [False, True])
@pytest.mark.parametrize("theta", [0.1, 30.0, 1e6])
def test_softmax_loss_in_float32(zero_inflated, theta):
    """A block as in training: 60 cells, 300 genes from a molecule in 10,000 to one in two."""
    rng = np.random.default_rng(0)
    share = np.exp(rng.uniform(np.log(1e-5), 0, 300))
    x = rng.poisson(2000 * share / share.sum() * rng.gamma(2, 0.5, (60, 300)))
    kept = rng.binomial(x, 0.6)
    rows, columns = (torch.from_numpy(index) for index in np.nonzero(x))
    generator = torch.Generator().manual_seed(0)
    z, loadings = torch.randn(60, 8, generator=generator), torch.randn(300, 8, generator=generator)
    certainty = torch.randn(60, generator=generator).exp()
    results = []
    for dtype in (torch.float64, torch.float32):
        entries = [torch.as_tensor(part[x > 0]).to(dtype) for part in (kept, x - kept)]
        thinned = lk.ThinnedBlock(rows, columns, *entries, 0.6)
        tensors = [z, 0.1 * loadings, torch.as_tensor(np.log(share)), torch.as_tensor(x.sum(1))]
        tensors += [torch.full((300,), theta), certainty, torch.tensor([0.0, -1.0])]
        tensors = [tensor.to(dtype).requires_grad_() for tensor in tensors]
        curve = tensors.pop() if zero_inflated else None
        mean, inverse = fused.SoftmaxMean(*tensors[:4]), fused.RankOneTheta(*tensors[4:6])
        loss = fused.softmax_loss(mean, inverse, curve, thinned)
        # a Poisson gene's theta is rounding
        wanted = tensors[:6] if theta < 1e3 else tensors[:4]
        results.append((loss, *torch.autograd.grad(loss, wanted)))
    for exact, single in zip(*results, strict=True):
        difference = (single.double() - exact).norm()
        assert difference <= 1e-5 * exact.norm()


@pytest.mark.parametrize("theta", [1e-4, 0.7, 30.0, 1e5, 1e6])
def test_sums_of_whole_numbers_are_those_of_floats(theta):
    """To the digits of float32 whatever theta, and the same bits in any order."""
    rng = np.random.default_rng(0)
    columns = torch.as_tensor(rng.integers(0, 20, 5_000))
    by_theta = torch.as_tensor(rng.normal(size=5_000) / theta, dtype=torch.float32)
    thetas = torch.full((20,), theta)
    exact = fused._sum_by_theta(columns, by_theta, thetas, whole=False)
    found = fused._sum_by_theta(columns, by_theta, thetas, whole=True)
    torch.testing.assert_close(found * theta, exact * theta, rtol=0, atol=1e-5)
    order = torch.as_tensor(rng.permutation(5_000))
    again = fused._sum_by_theta(columns[order], by_theta[order], thetas, whole=True)
    assert torch.equal(again, found)


def test_gaussian_kl_against_torch():
    mean, log_variance = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    ours = lk.gaussian_kl(mean, log_variance)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    truth = torch.distributions.kl_divergence(posterior, prior).sum(-1)
    torch.testing.assert_close(ours, truth)
    assert lk.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3)).abs().max() == 0


def test_edge_cross_entropy_with_all_pairs_is_the_dense_one():
    """Three genes, one edge, all non-edges given: the dense computation by hand."""
    z = torch.tensor([[1.0, 0.5], [0.3, -1.0], [-0.2, 0.4]], dtype=torch.float64)
    edges, rest = torch.tensor([[0], [2]]), torch.tensor([[0, 1], [1, 2]])
    ours = lk.edge_cross_entropy(z, edges, rest, n_pairs=3)
    probability = torch.sigmoid(z @ z.T)
    truth = -(probability[0, 2].log() + (1 - probability[0, 1]).log()) / 3
    truth -= (1 - probability[1, 2]).log() / 3
    torch.testing.assert_close(ours, truth)
