"""Misfit of cells: by scipy's distributions, by law, and where training lacked a type of cell."""

import warnings

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import stats

from graphsci import GraphSCI
from graphsci._imputing.misfits import misfit_note, unexpected_genes
from graphsci.nn.misfit import gene_misfit, limit_at, misfit
from graphsci.nn.model_parts import CountDistribution


def distribution(mean, theta, dropped=None):
    logits = None if dropped is None else torch.as_tensor(np.log(dropped / (1 - dropped)))
    return CountDistribution(torch.as_tensor(mean), torch.as_tensor(theta), logits)


@pytest.mark.parametrize("dropped", [None, 0.3])
def test_by_the_moments_of_scipy(dropped):
    rng = np.random.default_rng(0)
    mean, theta = rng.gamma(1, 2, (5, 40)), np.tile(rng.gamma(2, 2, 40), (5, 1))
    counts = rng.poisson(mean).astype(float)
    share = None if dropped is None else np.full((5, 40), dropped)
    found = misfit(distribution(mean, theta, share), torch.as_tensor(counts)).numpy()
    kept = 1 if dropped is None else 1 - dropped
    whole = stats.nbinom(theta, theta / (theta + mean))
    expected = kept * whole.mean()
    variance = kept * (whole.var() + whole.mean() ** 2) - expected**2
    squares = np.minimum((counts - expected) ** 2 / (variance + 0.1), 20)
    by_hand = squares.sum(1) / (variance / (variance + 0.1)).sum(1)
    np.testing.assert_allclose(found, by_hand)


@pytest.mark.parametrize("depth", [0.1, 1.0, 30.0])
def test_about_one_in_the_mean_if_the_model_is_right(depth):
    rng = np.random.default_rng(1)
    mean, theta = depth * np.tile(rng.gamma(0.5, 2, 500), (400, 1)), np.full((400, 500), 3.0)
    counts = rng.negative_binomial(theta, theta / (theta + mean)).astype(float)
    found = misfit(distribution(mean, theta), torch.as_tensor(counts)).numpy()
    assert 0.95 < np.nanmean(found) < 1 + 4 * np.nanstd(found) / 20  # what is above 20 is cut off


def test_nothing_is_said_of_an_empty_cell():
    found = misfit(
        distribution(np.ones((2, 3)), np.ones((2, 3))), torch.tensor([[0, 0, 0], [1, 0, 2]])
    )
    assert found.isnan().tolist() == [True, False]


def test_misfit_of_genes_is_what_that_of_cells_is_made_of():
    rng = np.random.default_rng(2)
    mean, theta = rng.gamma(1, 2, (5, 40)), np.full((5, 40), 2.0)
    counts = rng.poisson(mean).astype(float)
    counts[3, 7] = 200
    predicted = distribution(mean, theta), torch.as_tensor(counts)
    expected, distance = gene_misfit(*predicted)
    variance = mean * (1 + mean / 2)
    share = variance / (variance + 0.1)
    squares = np.minimum((counts - mean) ** 2 / (variance + 0.1), 20)
    np.testing.assert_allclose(expected, mean.sum(0))
    np.testing.assert_allclose(distance, (squares - share).sum(0))
    per_cell = misfit(*predicted).numpy()
    np.testing.assert_allclose(distance.sum(), ((per_cell - 1) * share.sum(1)).sum())
    assert distance.argmax() == 7


# --- a type that training lacked ------------------------------------------------------


def cells(kind, n_cells, depth, seed):
    """Three types with ten genes of their own each, of 60; NB."""
    rng = np.random.default_rng(seed)
    profile = np.full(60, 1.0)
    profile[10 * kind : 10 * kind + 10] = 8
    mean = profile / profile.sum() * depth * rng.lognormal(0, 0.3, (n_cells, 1))
    counts = rng.poisson(mean * rng.gamma(5, 0.2, mean.shape))
    adata = AnnData(counts.astype(np.float32))
    adata.var_names = [f"g{i}" for i in range(60)]
    return adata


@pytest.fixture(scope="module")
def models():
    training = AnnData(np.vstack([cells(kind, 150, 300, kind).X for kind in (0, 1)]))
    training.var_names = cells(0, 1, 300, 0).var_names
    return {
        likelihood: GraphSCI(max_epochs=20, check=False, likelihood=likelihood).fit(training)
        for likelihood in ("nb", "zinb")
    }


@pytest.fixture
def model(models):
    return models["nb"]


@pytest.mark.parametrize("depth", [30, 100, 300, 1500])
@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_cells_of_a_known_type_fit_from_a_tenth_to_five_times_the_depth(models, likelihood, depth):
    model = models[likelihood]
    new = cells(0, 200, depth, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.impute(new)
    assert np.mean(new.obs["graphsci_misfit"] > 1) < 0.05
    assert new.obs["graphsci_misfit"].median() < 0.9


def test_when_a_note_is_due(model):
    """More than a tenth, and at least three."""
    prepared = model.prepare(cells(0, 103, 300, 7))

    def said_of(misfits):
        return misfit_note(model.fitted, prepared, np.asarray(misfits), "fit")

    some = [0.5] * 90 + [1.5] * 10 + [np.nan]
    assert said_of([*some, 0.9, 0.9]) is None  # ten of 102
    said = said_of([*some, 1.1, 0.2])
    assert said.startswith("11 of 102 cells (11%) fit the model worse than 99 % of the cells")
    assert "obs['fit'] above 1" in said
    assert said_of([3.0, 3.0]) is None  # of two cells nothing is said


def test_the_genes_of_an_unknown_type_are_named(model):
    """Those of the third type are g20 to g29; by hand what a cell has of them."""
    new = AnnData(np.vstack([cells(0, 50, 300, 4).X, cells(2, 50, 300, 8).X]))
    new.var_names = cells(0, 1, 300, 0).var_names
    prepared = model.prepare(new)
    found = unexpected_genes(model.fitted, prepared, np.arange(50, 100))
    assert set(found.names[:10]) == {f"g{i}" for i in range(20, 30)}
    means = new[50:].to_df().mean()
    np.testing.assert_allclose(found.observed, means[found.names], rtol=1e-5)
    assert (found.expected < found.observed).all()
    assert (found.expected[:10] < found.observed[:10] / 2).all()
    with pytest.warns(UserWarning, match=r"Least expected there: g2\d \(") as said:
        model.impute(new)
    assert f"({found.observed[0]:.2g} counts a cell, " in str(said[0].message)


def test_unexpected_genes_of_cells_far_apart(model):
    """From ten chunks at most, whose cells stand for all."""
    prepared = model.prepare(cells(2, 25_000, 300, 8))
    some = unexpected_genes(model.fitted, prepared, np.arange(0, 25_000, 3))
    assert set(some.names[:10]) == {f"g{i}" for i in range(20, 30)}
    three = unexpected_genes(model.fitted, prepared, np.array([1, 2_500, 24_999]))
    means = prepared.counts[[1, 2_500, 24_999]].mean(0).A1
    position = [int(name[1:]) for name in three.names]
    np.testing.assert_allclose(three.observed, means[position], rtol=1e-5)


def test_some_chunks_are_spread_over_all_or_over_those_of_cells(model, monkeypatch):
    """By hand: 19 chunks of two cells, of which every second one is read."""
    monkeypatch.setattr("graphsci._imputing.estimating.CHUNK_CELLS", 2)
    prepared = model.prepare(cells(0, 37, 300, 7))
    assert prepared.some_starts() == [*range(0, 37, 4)]
    assert prepared.some_starts(np.array([3, 2, 36])) == [2, 36]
    assert prepared.some_starts(np.array([], dtype=np.int64)) == []
    np.testing.assert_array_equal(
        prepared.chunk(36).toarray(), prepared.source.rows(36, 37).toarray()
    )


def test_cells_of_an_unknown_type_do_not(model, tmp_path):
    new = cells(2, 50, 300, 8)
    with pytest.warns(UserWarning, match=r"50 of 50 cells \(100%\) fit the model worse"):
        model.impute(new)
    assert new.obs["graphsci_misfit"].min() > 1.5
    assert any("fit the model worse" in note for note in new.uns["graphsci"]["notes"])
    model.save(tmp_path / "model")
    again = cells(2, 50, 300, 8)
    with pytest.warns(UserWarning, match="fit the model worse"):
        GraphSCI.load(tmp_path / "model").impute(again)
    np.testing.assert_array_equal(again.obs["graphsci_misfit"], new.obs["graphsci_misfit"])


def test_new_cells_of_known_types_fit_where_those_of_training_are_known_by_heart():
    """As many genes as cells, so that training cells are fitted closely: theirs is no limit."""
    rng = np.random.default_rng(3)
    profile = rng.gamma(0.7, 1.0, (3, 300)) * rng.gamma(1.0, 1.0, 300)
    profile *= 3000 / profile.sum(1, keepdims=True)
    mean = profile[rng.integers(0, 3, 500)] * rng.lognormal(0, 0.3, (500, 1))
    counts = AnnData(rng.poisson(mean * rng.gamma(4, 0.25, mean.shape)).astype(np.float32))
    model = GraphSCI(seed=0, check=False).fit(counts[:250].copy())
    new = counts[250:].copy()
    model.impute(new)
    assert np.mean(new.obs["graphsci_misfit"] > 1) < 0.05


def test_a_few_spoilt_training_cells_do_not_hide_a_type_that_is_unknown():
    training = np.vstack([cells(kind, 150, 300, kind).X for kind in (0, 1)])
    rng = np.random.default_rng(0)
    training[rng.permutation(300)[:30], rng.integers(0, 60, 30)] += 100
    model = GraphSCI(max_epochs=20, check=False, likelihood="nb").fit(AnnData(training))
    new = AnnData(cells(2, 50, 300, 8).X)
    with pytest.warns(UserWarning, match="fit the model worse"):
        model.impute(new)
    assert np.mean(new.obs["graphsci_misfit"] > 1) > 0.8


def test_limits_are_read_off_between_depths():
    """By hand, at powers of four: linear in log depth, constant beyond the last."""
    found = limit_at((1.0, 2.0, 4.0, 8.0), np.array([7.0, 1.0, 0.5, 0.25, 1 / 64, 1e-4, 0.0]))
    np.testing.assert_allclose(found, [1, 1, 1.5, 2, 8, 8, 8])


def test_few_training_cells_say_nothing_of_others(tmp_path):
    """Of 59 cells no limit is known: NaN, which no warning is of."""
    GraphSCI(max_epochs=2, check=False, likelihood="nb").fit(cells(0, 59, 300, 1)).save(
        tmp_path / "model"
    )
    new = cells(2, 50, 300, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GraphSCI.load(tmp_path / "model").impute(new)
    assert new.obs["graphsci_misfit"].isna().all()


def test_genes_that_were_not_measured_are_no_misfit(model):
    """Half of the genes are missing, and none of those that tell the types apart."""
    new = cells(0, 200, 300, 9)[:, :30].copy()
    with pytest.warns(UserWarning, match="30 genes of the model were not measured here") as said:
        model.impute(new)
    assert len(said) == 1
    assert np.mean(new.obs["graphsci_misfit"] > 1) < 0.05
