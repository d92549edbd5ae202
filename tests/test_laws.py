"""Laws of a fitted model: what must happen to the output when the input changes."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ALL = ("mean", "denoised", "imputed")
NB, ZINB = ["nb", "batches", "paper"], ["zinb", "paper zinb"]


def layers_of(trained, name, adata, **options):
    key = "batch" if name == "batches" else None
    model, options = trained(name), {"estimates": ALL, **options}
    return model.impute(adata, batch_key=key, copy=True, **options).layers


@pytest.mark.parametrize("name", NB + ZINB)
def test_permuting_cells_permutes_estimates(trained, toy, name):
    """Up to the last bits: a matrix product may treat the rows at a block's edge differently."""
    order = np.random.default_rng(0).permutation(120)
    one, other = layers_of(trained, name, toy), layers_of(trained, name, toy[order].copy())
    for layer in (*ALL, "denoised_sd"):
        np.testing.assert_allclose(other[layer], one[layer][order], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("name", NB + ZINB)
def test_a_subset_of_cells_gives_the_subset(trained, toy, name):
    """Not to the bit: a block of another size is summed in another order."""
    one, other = layers_of(trained, name, toy), layers_of(trained, name, toy[30:60].copy())
    for layer in (*ALL, "denoised_sd"):
        np.testing.assert_allclose(other[layer], one[layer][30:60], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NB + ZINB)
def test_measured_values_are_kept(trained, toy, name):
    imputed = layers_of(trained, name, toy)["imputed"]
    measured = toy.X > 0
    assert np.array_equal(imputed[measured], toy.X[measured])


@pytest.mark.parametrize("name", NB)
def test_without_dropout_imputed_is_the_counts(trained, toy, name):
    assert np.array_equal(layers_of(trained, name, toy)["imputed"], toy.X)


@pytest.mark.parametrize("name", ZINB)
def test_with_dropout_zeros_are_filled_up_to_the_mean(trained, toy, name):
    layers = layers_of(trained, name, toy)
    zeros = toy.X == 0
    assert (layers["imputed"][zeros] <= layers["mean"][zeros] * (1 + 1e-6)).all()
    assert layers["imputed"][zeros].sum() > 0


@pytest.mark.parametrize("name", NB + ZINB)
def test_denoised_lies_between_count_and_mean(trained, toy, name):
    layers = layers_of(trained, name, toy)
    low, high = np.minimum(toy.X, layers["mean"]), np.maximum(toy.X, layers["mean"])
    slack = 1e-5 * (1 + high)
    assert (layers["denoised"] >= low - slack).all()
    assert (layers["denoised"] <= high + slack).all()


@pytest.mark.parametrize("name", NB + ZINB)
def test_another_molecule_raises_the_denoised_value_of_its_entry(trained, toy, name):
    """In nearly every cell: the network's mean, which hears of it too, may move elsewhere."""
    more = toy.copy()
    gene = int(np.argmax(toy.X.sum(0)))
    more.X[:, gene] += 1
    one, other = layers_of(trained, name, toy), layers_of(trained, name, more)
    full = np.flatnonzero(toy.X.sum(1) > 0)
    assert np.mean(other["denoised"][full, gene] > one["denoised"][full, gene]) > 0.9


@pytest.mark.filterwarnings("ignore:.*fit the model worse")
@pytest.mark.filterwarnings("ignore:These cells have about")  # chance: any counts
@pytest.mark.parametrize("name", NB)
def test_doubling_every_count_doubles_the_mean(trained, toy, name):
    """The encoder sees counts at a common depth, so only the size factor changes."""
    double = toy.copy()
    double.X = toy.X * 2
    one, other = layers_of(trained, name, toy), layers_of(trained, name, double)
    np.testing.assert_allclose(other["mean"], 2 * one["mean"], rtol=1e-4, atol=1e-7)
    common = [layers_of(trained, name, data, depth="common")["mean"] for data in (toy, double)]
    np.testing.assert_allclose(common[1], common[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", NB + ZINB)
def test_imputing_twice_gives_the_same_bits(trained, toy, name):
    one, other = layers_of(trained, name, toy), layers_of(trained, name, toy)
    for layer in (*ALL, "denoised_sd"):
        assert np.array_equal(one[layer], other[layer])


@pytest.mark.parametrize("name", NB + ZINB)
def test_the_interval_covers_the_denoised_value(trained, toy, name):
    """For the 99 % interval; a skewed posterior may have its mean outside a narrow one."""
    layers = layers_of(trained, name, toy, interval=0.99)
    slack = 1e-5 * (1 + layers["denoised"])
    assert (layers["denoised_lower"] <= layers["denoised"] + slack).all()
    inside = layers["denoised"] <= layers["denoised_upper"] + slack
    assert inside.mean() > 0.99


@pytest.mark.filterwarnings("ignore:.*fit the model worse")
@pytest.mark.filterwarnings("ignore:These cells have about")  # chance: any counts
@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**31), name=st.sampled_from(NB + ZINB), level=st.floats(0.01, 30.0))
def test_any_counts_give_finite_estimates(trained, draw, seed, name, level):
    """Counts unlike the training data: of any depth, with empty cells and outliers."""
    adata, rng = draw(), np.random.default_rng(seed)
    adata.X = rng.poisson(rng.gamma(0.3, level / 0.3, adata.shape)).astype(np.float32)
    adata.X[rng.integers(120), rng.integers(60)] = 10**6
    adata.X[rng.integers(120)] = 0
    adata.X[:, 5] = 0  # undetected in training
    layers = layers_of(trained, name, adata, interval=0.9)
    for layer in (*ALL, "denoised_sd", "denoised_lower", "denoised_upper"):
        assert np.isfinite(layers[layer]).all(), layer
        assert (layers[layer] >= 0).all(), layer
    empty = adata.X.sum(1) == 0
    assert not layers["mean"][empty].any()
    measured = adata.X > 0
    assert np.array_equal(layers["imputed"][measured], adata.X[measured])
