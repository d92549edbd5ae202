"""The bridge to AnnData: slots, scales, genes by name, new cells, forms of input, errors."""

import re
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats

from conftest import EMPTY_CELL, UNDETECTED_GENE
from graphsci import Config, GraphSCI, pl, tl
from graphsci._imputing.model_io import RECORD
from graphsci.estimates import ESTIMATES, MEANINGS
from graphsci.gene_graph.graph import GeneGraph
from graphsci.network import train_control
from graphsci.nn.model_parts import CellBlock
from graphsci.training import fitting

ALL = ("mean", "denoised", "imputed")
MODELS = ["nb", "zinb", "batches", "paper", "paper zinb"]
CELLS = np.delete(np.arange(120), EMPTY_CELL)
GENES = np.delete(np.arange(60), UNDETECTED_GENE)


def key_of(name: str) -> str | None:
    return "batch" if name == "batches" else None


def impute(trained, name: str, adata: AnnData, **options) -> AnnData:
    options = {"batch_key": key_of(name), "estimates": ALL, **options}
    return trained(name).impute(adata, copy=True, **options)


# --- slots ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_slots_and_shapes(trained, toy, name):
    out = impute(trained, name, toy)
    for layer in (*ALL, "denoised_sd"):
        assert out.layers[layer].shape == toy.shape
        assert out.layers[layer].dtype == np.float32
        assert np.isfinite(out.layers[layer]).all()
        assert (out.layers[layer] >= 0).all()
    assert out.obsm["X_graphsci"].shape == (120, 32)
    assert out.varm["graphsci"].shape == (60, 32)
    assert np.isnan(out.varm["graphsci"][UNDETECTED_GENE]).all()
    assert np.isfinite(out.varm["graphsci"][GENES]).all()
    graph = out.varp["graphsci_graph"]
    assert graph.shape == (60, 60)
    assert abs(graph - graph.T).nnz == 0
    assert graph[[UNDETECTED_GENE]].nnz == 0
    theta = trained(name).inverse_dispersion()
    assert ("graphsci_inverse_dispersion" in out.var) == (theta is not None)
    if theta is not None:
        written = out.var["graphsci_inverse_dispersion"]
        assert np.isnan(written.iloc[UNDETECTED_GENE])
        np.testing.assert_allclose(written.iloc[GENES], theta)
    assert out.obs_names.equals(toy.obs_names)
    assert out.var_names.equals(toy.var_names)


def test_nothing_of_the_users_is_changed(trained, toy):
    toy.raw = toy
    toy.uns["mine"] = 1
    before = toy.copy()
    assert trained("nb").impute(toy) is None
    assert np.array_equal(toy.X, before.X)
    assert toy.X.dtype == before.X.dtype
    assert np.array_equal(toy.raw.X, before.X)
    assert np.array_equal(toy.layers["rate"], before.layers["rate"])
    np.testing.assert_array_equal(toy.obs.pop("graphsci_library"), toy.X.sum(1))
    columns = [f"graphsci_{name}" for name in ("size_factor", "certainty", "misfit")]
    assert toy.obs.drop(columns=columns).equals(before.obs)
    assert toy.uns["mine"] == 1


def test_copy_leaves_the_original_alone(trained, toy):
    out = trained("nb").impute(toy, copy=True)
    assert "denoised" in out.layers
    assert set(toy.layers) == {"rate"}
    assert "graphsci" not in toy.uns
    assert not toy.obsm
    assert not toy.varm


@pytest.mark.filterwarnings("ignore:Genes without a molecule")  # the layer has counts of gene5
def test_a_second_run_describes_its_own_numbers_and_leaves_what_the_first_one_said(trained, toy):
    model = trained("nb")
    model.impute(toy, layer="rate", allow_fractional=True)
    model.impute(toy, scale="log1p", depth="common", prefix="l_")
    model.impute(toy, genes=["gene3"], depth="common")
    said = toy.uns["graphsci"]["estimates"]
    assert {name: (entry["depth"], entry["scale"]) for name, entry in said.items()} == {
        "denoised": ("own", "counts"),
        "denoised_sd": ("own", "counts"),
        "l_denoised": ("common", "log1p"),
        "l_denoised_sd": ("common", "log1p"),
        "graphsci_denoised": ("common", "counts"),
        "graphsci_denoised_sd": ("common", "counts"),
    }
    del toy.layers["denoised"]
    model.impute(toy, scale="log1p", prefix="l_")
    said = toy.uns["graphsci"]["estimates"]
    assert "denoised" not in said
    assert said["l_denoised"]["depth"] == "own"


def test_the_record_says_where_the_counts_were(trained, toy):
    assert trained("nb").impute(toy, copy=True).uns["graphsci"]["counts"] == "X"
    toy.layers["counts"] = toy.X
    out = trained("nb").impute(toy, layer="counts", copy=True)
    assert out.uns["graphsci"]["counts"] == "layers/counts"


def test_key_and_prefix_keep_two_runs_apart(trained, toy):
    trained("nb").impute(toy, key_added="first", prefix="a_")
    trained("paper").impute(toy, key_added="second", prefix="b_")
    assert {"a_denoised", "a_denoised_sd", "b_denoised", "b_denoised_sd"} <= set(toy.layers)
    assert {"X_first", "X_second"} == set(toy.obsm)
    assert {"first", "second"} == set(toy.varm)
    assert {"first_graph", "second_graph"} == set(toy.varp)
    assert set(toy.uns) == {"first", "second"}
    assert toy.uns["first"]["config"]["preset"] == "default"
    assert toy.uns["second"]["config"]["preset"] == "paper"
    assert "first_inverse_dispersion" in toy.var


def test_a_run_does_not_describe_what_another_replaced(trained, toy):
    """Pictures trust the record: it must not say 'counts' of what is now on a log scale."""
    trained("nb").impute(toy, estimates=["mean", "denoised"])
    before = toy.uns["graphsci"]
    with pytest.warns(UserWarning, match="are replaced, which no run 'log' wrote"):
        trained("nb").impute(toy, key_added="log", scale="log1p", depth="common")
    assert set(toy.uns["graphsci"]["estimates"]) == {"mean"}
    assert set(toy.uns["log"]["estimates"]) == {"denoised", "denoised_sd"}
    assert set(before["estimates"]) == {"mean", "denoised", "denoised_sd"}  # a copy was changed
    with pytest.raises(ValueError, match="record does not describe the layer 'denoised'"):
        pl.expression(toy, ["gene1"], groupby="group")


@pytest.mark.parametrize("name", ["denoised", "denoised_sd"])
def test_counts_in_a_layer_named_like_an_estimate_survive(trained, toy, name):
    plain = trained("nb").impute(toy, copy=True).layers["denoised"]
    toy.layers[name] = toy.X.copy()
    toy.X = np.log1p(toy.X)
    before = toy.layers[name].copy()
    message = rf"layer: the counts are in layers\['{name}'\], where an .* be written; give a prefix"
    with pytest.raises(ValueError, match=message):
        trained("nb").impute(toy, layer=name)
    assert set(toy.layers) == {"rate", name}
    assert not toy.uns
    trained("nb").impute(toy, layer=name, prefix="new_")
    assert np.array_equal(toy.layers["new_denoised"], plain)
    trained("nb").impute(toy, layer=name, genes=["gene1"])
    trained("nb").impute(toy, layer=name, estimates="mean")
    assert np.array_equal(toy.layers[name], before)


def test_tl_impute_refuses_to_overwrite_the_counts_before_training(toy, monkeypatch):
    toy.layers["denoised"] = toy.X.copy()
    monkeypatch.setattr(GraphSCI, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(ValueError, match=r"layer: the counts are in layers\['denoised'\]"):
        tl.impute(toy, layer="denoised")


def test_estimates_are_those_asked_for(trained, toy):
    assert set(trained("nb").impute(toy, copy=True).layers) == {"rate", "denoised", "denoised_sd"}
    out = trained("nb").impute(toy, estimates="imputed", copy=True)
    assert set(out.layers) == {"rate", "imputed"}
    out = trained("nb").impute(toy, estimates=["imputed", "mean"], copy=True)
    assert set(out.layers) == {"rate", "imputed", "mean"}


# --- the run record -------------------------------------------------------------------


def test_record_says_what_the_numbers_mean(trained, toy):
    out = impute(trained, "nb", toy, depth="common", scale="log1p", interval=0.8)
    record = out.uns["graphsci"]
    names = {*ALL, "denoised_sd", "denoised_lower", "denoised_upper"}
    assert set(record["estimates"]) == names
    median = np.median(toy.X[CELLS].sum(1))
    assert record["common_depth"] == median
    assert "median_library" not in record
    for name in names:
        entry = record["estimates"][name]
        assert entry["meaning"] == MEANINGS[name]
        assert (entry["depth"], entry["scale"]) == ("common", "log1p")
        assert "log(1 + counts), natural logarithm" in entry["unit"]
        assert f"common library size of {median:g}" in entry["unit"]
    assert record["interval_level"] == 0.8
    assert record["seed"] == 1
    assert record["config"] == trained("nb").config.to_dict()
    assert record["likelihood"] == "nb"
    assert record["verdict"]["line"] == trained("nb").verdict.line()
    assert {"graphsci", "torch"} <= set(record["versions"])
    assert record["training"]["epochs"] == len(trained("nb").history)
    assert record["gene_match"].startswith("59 of 59 genes matched by name; 1 outside")
    own = trained("nb").impute(toy, copy=True).uns["graphsci"]["estimates"]["denoised"]
    assert own["unit"] == "counts, at each cell's own library size"


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("genes", [None, ["gene3", "gene1"]])
def test_everything_survives_an_h5ad_file(trained, toy, tmp_path, name, genes):
    out = impute(trained, name, toy, interval=0.9, genes=genes)
    out.write_h5ad(tmp_path / "out.h5ad")
    back = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert back.uns["graphsci"]["estimates"].keys() == out.uns["graphsci"]["estimates"].keys()
    assert back.uns["graphsci"]["verdict"]["line"] == trained(name).verdict.line()
    scores = back.uns["graphsci"]["verdict"]["scores"]
    assert scores["gene means"]["z"] == trained(name).verdict.of("gene means").z
    untested = (
        "The check is of the estimate 'denoised': of 'mean' and 'imputed' nothing was tested."
    )
    notes = [*trained(name).fitted.notes, untested]
    assert list(back.uns["graphsci"]["notes"]) == notes
    assert Config(**_plain(back.uns["graphsci"]["config"])) == trained(name).config
    for layer in out.layers:
        assert np.array_equal(back.layers[layer], out.layers[layer])
    for key in out.obsm:
        assert np.array_equal(np.asarray(back.obsm[key]), np.asarray(out.obsm[key]))


def _plain(config) -> dict:
    return {key: value.item() if hasattr(value, "item") else value for key, value in config.items()}


# --- empty cells, undetected, missing and unknown genes -------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_empty_cells_and_undetected_genes_stay_in_place(trained, toy, name):
    out = impute(trained, name, toy, interval=0.5)
    for layer in (*ALL, "denoised_sd", "denoised_lower", "denoised_upper"):
        assert not out.layers[layer][EMPTY_CELL].any()
        assert not out.layers[layer][:, UNDETECTED_GENE].any()
    assert (out.layers["mean"][np.ix_(CELLS, GENES)] > 0).all()
    assert np.isfinite(out.obsm["X_graphsci"]).all()


@pytest.mark.parametrize("name", MODELS)
def test_gene_order_of_the_data_does_not_matter(trained, toy, name):
    order = np.random.default_rng(0).permutation(60)
    one = impute(trained, name, toy)
    other = impute(trained, name, toy[:, order].copy())
    for layer in (*ALL, "denoised_sd"):
        # by its place in memory an entry gets the vector or the scalar form of sigmoid
        np.testing.assert_array_max_ulp(one.layers[layer][:, order], other.layers[layer], maxulp=2)
    assert np.array_equal(one.varm["graphsci"][order], other.varm["graphsci"], equal_nan=True)
    permuted = one.varp["graphsci_graph"][order][:, order]
    assert (permuted != other.varp["graphsci_graph"]).nnz == 0


@pytest.mark.parametrize("name", ["nb", "zinb", "paper"])
def test_unknown_genes_keep_their_counts_are_nan_else_and_change_nothing(trained, toy, name):
    """`imputed` leaves a gene that was not in the training data as it was measured, zeros too."""
    aliens = np.full((120, 2), 9.0, dtype=np.float32)
    aliens[3, 0] = 0
    extra = AnnData(aliens, toy.obs, pd.DataFrame(index=["alien0", "alien1"]))
    both = anndata.concat([extra, toy], axis=1, merge="first")
    with pytest.warns(UserWarning, match=r"2 genes are not in the model's training data \(alien0"):
        out = impute(trained, name, both, interval=0.9)
    alone = impute(trained, name, toy, interval=0.9)
    for layer in (*ALL, "denoised_sd", "denoised_lower", "denoised_upper"):
        if layer == "imputed":
            assert np.array_equal(out.layers[layer][:, :2], aliens)
        else:
            assert np.isnan(out.layers[layer][:, :2]).all()
        assert np.array_equal(out.layers[layer][:, 2:], alone.layers[layer])
    with pytest.warns(UserWarning, match="2 genes are not in the model's training data"):
        trained(name).iterate_estimates(both)
    if name == "paper":
        return
    assert np.isnan(out.varm["graphsci"][:2]).all()
    assert np.isnan(out.var["graphsci_inverse_dispersion"].iloc[:2]).all()
    assert "3 outside the model" in out.uns["graphsci"]["gene_match"]


def test_genes_that_had_no_molecule_in_training_are_told(toy):
    """Markers of a type that training lacked: no model gene, and no part of any misfit."""
    before = toy.copy()
    before.X[:, :2] = 0
    model = GraphSCI(max_epochs=2, check=False, graph="none").fit(before)
    toy.X[:, :2] = 0
    toy.X[:4, 0], toy.X[:7, 1] = 5, 10
    share = 90 / toy.X.sum()
    with pytest.warns(UserWarning, match="Genes without a molecule in training") as told:
        model.impute(toy)
    [said] = [str(w.message) for w in told if "a molecule in training" in str(w.message)]
    assert f"({toy.var_names[1]}, {toy.var_names[0]}) have {share:.1%} of the counts here" in said
    assert said in toy.uns["graphsci"]["notes"]
    assert np.isnan(toy.layers["denoised"][:7, 1]).all()
    assert (toy.layers["denoised"][7:, 1] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.impute(toy, genes=toy.var_names[2:].tolist())
        model.impute(before)


@pytest.mark.filterwarnings("ignore:.*fit the model worse")  # their state is harder to read
@pytest.mark.parametrize("name", ["nb", "paper"])
def test_missing_genes_do_not_make_cells_look_shallow(trained, toy, name):
    """A third of the genes was not measured: the others' means stay near what they were."""
    kept = np.setdiff1d(np.arange(60), np.arange(0, 60, 3))
    few = toy[:, kept].copy()
    with pytest.warns(UserWarning, match="20 genes of the model were not measured here"):
        out = impute(trained, name, few)
    full = impute(trained, name, toy)
    assert out.shape == few.shape
    ratio = out.layers["mean"].sum() / full.layers["mean"][:, kept].sum()
    assert 0.85 < ratio < 1.15
    assert "not measured here (gene0, " in out.uns["graphsci"]["gene_match"]


def test_too_few_genes_in_common_are_refused(trained, toy):
    with pytest.raises(ValueError, match="10 of 59 genes of the model are in the data, expected"):
        trained("nb").impute(toy[:, 10:20].copy())
    toy.var_names = toy.var_names.str.upper()
    with pytest.raises(ValueError, match="Ignoring case 59 would match"):
        trained("nb").impute(toy)


# --- some genes only ------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_chosen_genes_equal_the_columns_of_the_full_result(trained, toy, name):
    genes = ["gene40", f"gene{UNDETECTED_GENE}", "gene2"]
    full = impute(trained, name, toy, interval=0.9, depth="common")
    part = impute(trained, name, toy, interval=0.9, depth="common", genes=genes)
    assert set(part.layers) == {"rate"}
    for layer in set(full.layers) - {"rate"}:
        table = part.obsm[f"graphsci_{layer}"]
        assert list(table.columns) == genes
        assert table.index.equals(toy.obs_names)
        # vectorised exponentials differ in the last digit with an entry's place in memory
        np.testing.assert_allclose(table, full[:, genes].layers[layer], rtol=1e-5)


def test_one_gene_may_be_a_string_and_prefix_and_key_apply(trained, toy):
    trained("nb").impute(toy, genes="gene3", key_added="run", prefix="p_")
    assert list(toy.obsm["run_p_denoised"].columns) == ["gene3"]


def test_unknown_chosen_genes_are_refused(trained, toy):
    message = r"genes: 2 of 3 are not in var_names: x, y\. Check spelling and case"
    with pytest.raises(ValueError, match=message):
        trained("nb").impute(toy, genes=["x", "gene1", "y"])
    assert set(toy.layers) == {"rate"}


@pytest.mark.parametrize(
    ("genes", "message"),
    [
        (
            ["gene2", "gene1", "gene3", "gene1"],
            "genes: got 'gene1' more than once, expected one or",
        ),
        ([], "genes: got no gene, expected one or more different genes"),
        (np.array([], dtype=str), "genes: got no gene, expected one or more different genes"),
    ],
)
def test_repeated_genes_and_none_are_refused(trained, toy, genes, message):
    """A table with two columns of one name, or with none, cannot be written to a file."""
    with pytest.raises(ValueError, match=message):
        trained("nb").impute(toy, genes=genes)
    with pytest.raises(ValueError, match=message):
        trained("nb").iterate_estimates(toy, genes=genes)
    assert not toy.obsm


@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        list,
        lambda mask: pd.Series(mask, index=[f"gene{i}" for i in range(60)]),
        lambda mask: pd.Series(mask, index=[f"gene{i}" for i in range(60)])[::-1],
        lambda mask: pd.array(mask, dtype="boolean"),
    ],
    ids=["array", "list", "column of var", "reordered", "nullable"],
)
def test_genes_may_be_a_mask_of_var(trained, toy, kind):
    mask = np.isin(np.arange(60), [3, 7])
    trained("nb").impute(toy, genes=kind(mask))
    assert list(toy.obsm["graphsci_denoised"].columns) == ["gene3", "gene7"]


@pytest.mark.parametrize(
    ("genes", "got"),
    [([1, 2], "1"), (7, "7"), (["gene1", 3], "3"), (["gene1", np.nan], "nan")],
)
def test_genes_that_are_no_names_are_refused(trained, toy, genes, got):
    with pytest.raises(TypeError, match=f"genes: got {got}, expected names of genes, or a bool"):
        trained("nb").impute(toy, genes=genes)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones(3, dtype=bool), "genes: got a boolean mask of 3, expected names of genes or a m"),
        (np.zeros(60, dtype=bool), "genes: got no gene, expected one or more different genes"),
        (pd.Series(np.ones(60, dtype=bool)), "genes: got a mask of 60 genes whose index is not th"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(trained, toy, mask, message):
    with pytest.raises(ValueError, match=message):
        trained("nb").impute(toy, genes=mask)


@pytest.mark.parametrize("kind", [tuple, np.array, pd.Index, pd.Series])
def test_genes_may_come_in_any_sequence(trained, toy, kind):
    trained("nb").impute(toy, genes=kind(["gene7", "gene3"]))
    assert list(toy.obsm["graphsci_denoised"].columns) == ["gene7", "gene3"]


@pytest.mark.parametrize("genes", [None, ["gene2"]])
def test_repeated_gene_names_of_the_data_are_refused(trained, toy, genes):
    toy.var_names = ["gene1", *toy.var_names[1:]]
    message = r"gene names occur more than once \(1: gene1\), expected unique names"
    with pytest.raises(ValueError, match=message):
        trained("nb").impute(toy, genes=genes)


# --- depth and scale ------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_depth_and_scale_are_transforms_of_the_counts(trained, toy, name):
    own = impute(trained, name, toy, interval=0.9)
    library = toy.X[CELLS][:, GENES].sum(1, keepdims=True)
    factor = library / np.median(library)
    common = impute(trained, name, toy, interval=0.9, depth="common")
    for layer in set(own.layers) - {"rate"}:
        np.testing.assert_allclose(
            common.layers[layer][CELLS], own.layers[layer][CELLS] / factor, rtol=1e-4, atol=1e-7
        )
        assert not common.layers[layer][EMPTY_CELL].any()
    log = impute(trained, name, toy, interval=0.9, depth="common", scale="log1p")
    for layer in set(own.layers) - {"rate", "denoised_sd"}:
        truth = np.log1p(common.layers[layer])
        np.testing.assert_allclose(log.layers[layer], truth, rtol=1e-4, atol=1e-6)
    by_derivative = common.layers["denoised_sd"] / (1 + common.layers["denoised"])
    np.testing.assert_allclose(log.layers["denoised_sd"], by_derivative, rtol=1e-4)


def test_mean_sums_to_the_library_without_dropout(trained, toy):
    out = impute(trained, "nb", toy)
    np.testing.assert_allclose(out.layers["mean"].sum(1), toy.X.sum(1), rtol=1e-4)


def test_common_depth_is_the_median_library_of_the_cells(trained, toy):
    out = impute(trained, "nb", toy, depth="common")
    median = np.median(toy.X[CELLS].sum(1))
    np.testing.assert_allclose(out.layers["mean"][CELLS].sum(1), median, rtol=1e-3)


def log_mean_variance(model, adata):
    """How uncertain the model's network says it is of log mu in the cells and genes."""
    states = model.fitted.network.uncertainty.states
    z = states.to_z(torch.from_numpy(model.latent(adata)[CELLS]))
    molecules = torch.from_numpy(adata.X[CELLS].sum(1))
    nothing, batch = torch.zeros(0), torch.zeros(len(z)).long()
    cells = CellBlock(nothing, nothing, nothing, molecules, batch)
    found = model.fitted.network.log_mean_variance(z, cells)
    assert model.fitted.spec.gene_names.tolist() == adata.var_names[GENES].tolist()
    return found.numpy(force=True)


def theta_at(model, adata, **options):
    """Theta of the model's cells and genes: that of the gene times kappa of the cell, weighed."""
    kappa = model.certainty(adata, **options)[CELLS, None]
    return kappa ** model.state_weights().to_numpy() * model.inverse_dispersion().to_numpy()


def test_certainty_can_be_told_from_what_was_written(trained, toy):
    model = trained("nb")
    model.impute(toy)
    weights = np.asarray(toy.uns["graphsci"]["certainty_weights"])
    kappa = np.exp(np.clip(toy.obsm["X_graphsci"] @ weights, -3, 3))
    np.testing.assert_allclose(kappa, model.certainty(toy), rtol=1e-5)
    np.testing.assert_array_equal(toy.obs["graphsci_certainty"], model.certainty(toy))
    assert np.ptp(kappa) > 0.01
    followed = toy.var["graphsci_state_weight"].to_numpy()[GENES]
    np.testing.assert_array_equal(followed, model.state_weights())


def test_certainty_of_an_earlier_run_does_not_outlive_it(trained, toy):
    trained("nb").impute(toy)
    assert "graphsci_certainty" in toy.obs
    trained("paper").impute(toy)
    assert "graphsci_certainty" not in toy.obs


def test_interval_is_the_gamma_posterior(trained, toy):
    """Without dropout: Gamma(x + theta, rate 1 + theta / mu), widened by what is open of log mu."""
    out = impute(trained, "nb", toy, interval=0.8)
    at = np.ix_(CELLS, GENES)
    x, mu = toy.X[at].astype(float), out.layers["mean"][at].astype(float)
    theta = theta_at(trained("nb"), toy).astype(float)
    known = stats.gamma(x + theta, scale=mu / (mu + theta))
    slope = known.mean() * theta / (mu + theta)
    variance = known.var() + log_mean_variance(trained("nb"), toy) * slope**2
    posterior = stats.gamma(known.mean() ** 2 / variance, scale=variance / known.mean())
    assert (variance > known.var() * (1 + 1e-4)).all()
    tolerance = {"rtol": 1e-3, "atol": 1e-6}
    np.testing.assert_allclose(out.layers["denoised"][at], posterior.mean(), **tolerance)
    np.testing.assert_allclose(out.layers["denoised_sd"][at], posterior.std(), **tolerance)
    np.testing.assert_allclose(out.layers["denoised_lower"][at], posterior.ppf(0.1), **tolerance)
    np.testing.assert_allclose(out.layers["denoised_upper"][at], posterior.ppf(0.9), **tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_interval_widens_with_its_level(trained, toy, name):
    narrow, wide = (impute(trained, name, toy, interval=level) for level in (0.3, 0.95))
    for side, sign in (("denoised_lower", -1), ("denoised_upper", 1)):
        gap = sign * (wide.layers[side] - narrow.layers[side])
        assert (gap[np.ix_(CELLS, GENES)] >= 0).all()
    assert (wide.layers["denoised_lower"] <= wide.layers["denoised_upper"]).all()


# --- new cells ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_model_imputes_cells_it_never_saw(draw, name):
    """Trained on 80 % and applied to 20 %: nearer to their rates than their counts are."""
    data = draw(400)
    train, new = data[:320].copy(), data[320:].copy()
    model = GraphSCI(preset=name, max_epochs=40, likelihood="nb", check=False).fit(train)
    model.impute(new)
    error = lambda x: np.abs(np.log1p(x) - np.log1p(new.layers["rate"]))[:, GENES].mean()  # noqa: E731
    assert error(new.layers["denoised"]) < 0.9 * error(new.X)
    assert new.obsm["X_graphsci"].shape == (80, 32)
    together = data.copy()
    model.impute(together)
    np.testing.assert_allclose(
        together.layers["denoised"][320:], new.layers["denoised"], rtol=1e-3, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:Genes without a molecule in training")
@pytest.mark.parametrize("name", MODELS)
def test_new_cells_may_have_genes_that_training_never_saw_expressed(trained, toy, name):
    """Unexpressed here too: 0. Expressed here: unknown, but for what was measured."""
    alone = impute(trained, name, toy, interval=0.9)
    toy.X[::2, UNDETECTED_GENE] = 3
    out = impute(trained, name, toy, interval=0.9)
    for layer in set(out.layers) - {"rate"}:
        column = out.layers[layer][:, UNDETECTED_GENE]
        assert (column[1::2] == 0).all()
        assert (column[::2] == 3).all() if layer == "imputed" else np.isnan(column[::2]).all()
        assert np.array_equal(out.layers[layer][:, GENES], alone.layers[layer][:, GENES])
    if name == "nb":
        mean = out.layers["mean"][:, GENES]
        np.testing.assert_allclose(mean.sum(1), toy.X[:, GENES].sum(1), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:Genes without a molecule in training")
def test_imputed_keeps_measured_values_of_genes_unseen_in_training(trained, toy):
    toy.X[:, UNDETECTED_GENE] = 3
    out = impute(trained, "nb", toy)
    assert (out.layers["imputed"][:, UNDETECTED_GENE] == 3).all()
    factor = toy.X[:, GENES].sum(1) / trained("nb").fitted.spec.common_depth
    common = impute(trained, "nb", toy, depth="common", scale="log1p").layers["imputed"]
    truth = np.log1p(3 / factor[CELLS])
    np.testing.assert_allclose(common[CELLS, UNDETECTED_GENE], truth, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_single_new_cell_can_be_imputed(trained, toy, name):
    """With the numbers it has among others, up to the order of summation."""
    one, all_cells = impute(trained, name, toy[:1].copy()), impute(trained, name, toy)
    for layer in (*ALL, "denoised_sd"):
        assert one.layers[layer].shape == (1, 60)
        truth = all_cells.layers[layer][:1]
        np.testing.assert_allclose(one.layers[layer], truth, rtol=1e-3, atol=1e-6)
    latent = trained(name).latent(toy[:1].copy(), batch_key=key_of(name))
    np.testing.assert_allclose(latent, all_cells.obsm["X_graphsci"][:1], rtol=1e-3, atol=1e-5)


def test_no_cell_is_refused_and_one_cannot_be_trained_on(trained, toy):
    with pytest.raises(ValueError, match=r"adata\.X is 0 cells x 60 genes, expected at least 1 "):
        trained("nb").impute(toy[:0].copy())
    with pytest.raises(ValueError, match=r"adata\.X is 1 cells x 60 genes, expected at least 2 "):
        GraphSCI().fit(toy[:1].copy())


def test_latent_is_what_impute_writes(trained, toy):
    out = impute(trained, "batches", toy)
    latent = trained("batches").latent(toy, batch_key="batch")
    assert np.array_equal(out.obsm["X_graphsci"], latent)
    table = trained("batches").gene_embedding()
    assert np.array_equal(out.varm["graphsci"][GENES], table.to_numpy())
    assert list(table.index) == [f"gene{i}" for i in GENES]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("genes", [None, ["gene9", "gene1"]])
def test_iterating_gives_what_impute_writes(trained, toy, monkeypatch, name, genes):
    from graphsci.nn import cell_blocks

    monkeypatch.setattr(cell_blocks, "EVALUATION_CELLS", 50)
    options = {"estimates": ALL, "depth": "common", "scale": "log1p", "interval": 0.9}
    out = impute(trained, name, toy, genes=genes, **options)
    blocks = list(
        trained(name).iterate_estimates(toy, batch_key=key_of(name), genes=genes, **options)
    )
    assert [block.start for block in blocks] == [0, 50, 100]
    for layer in blocks[0].values:
        values = np.concatenate([block.values[layer] for block in blocks])
        written = out.layers[layer] if genes is None else out.obsm[f"graphsci_{layer}"].to_numpy()
        assert np.array_equal(values, written)


# --- forms of input -------------------------------------------------------------------

FORMS = {
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "int": lambda x: x.astype(np.int32),
    "uint8 csr": lambda x: sparse.csr_matrix(x.astype(np.uint8)),
    "float64": lambda x: x.astype(np.float64),
    "fortran": np.asfortranarray,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_x_gives_the_same_bits(trained, toy, form):
    other = toy.copy()
    other.X = FORMS[form](toy.X)
    one, two = (impute(trained, "nb", data) for data in (toy, other))
    for layer in (*ALL, "denoised_sd"):
        assert np.array_equal(one.layers[layer], two.layers[layer])
    fits = [
        GraphSCI(max_epochs=2, seed=4).fit(data).gene_embedding().to_numpy()
        for data in (toy, other)
    ]
    assert np.array_equal(*fits)


def test_counts_in_a_layer(trained, toy):
    plain = impute(trained, "nb", toy)
    toy.layers["counts"] = toy.X.copy()
    toy.X = np.log1p(toy.X)
    out = impute(trained, "nb", toy, layer="counts")
    assert np.array_equal(out.layers["denoised"], plain.layers["denoised"])
    with pytest.raises(ValueError, match="layer='counts'"):
        trained("nb").impute(toy)


def test_fractional_counts_are_refused_unless_allowed(trained, toy):
    toy.X = toy.X * 0.5
    with pytest.raises(ValueError, match="allow_fractional"):
        trained("nb").impute(toy)
    trained("nb").impute(toy, allow_fractional=True)
    at = np.ix_(CELLS, GENES)
    theta = theta_at(trained("nb"), toy, allow_fractional=True)
    trained("nb").impute(toy, allow_fractional=True, estimates=["mean", "denoised"])
    mu = toy.layers["mean"][at]
    truth = (toy.X[at] + theta) * mu / (mu + theta)
    np.testing.assert_allclose(toy.layers["denoised"][at], truth, rtol=1e-4)


# --- the short way --------------------------------------------------------------------


def test_tl_impute_is_fit_and_impute(toy):
    options = {"max_epochs": 3, "seed": 2}
    model = GraphSCI(**options).fit(toy, batch_key="batch")
    one = model.impute(toy, batch_key="batch", estimates=ALL, copy=True)
    assert not model.verdict.passed  # after three epochs
    heard, epochs = [], []
    told = {"log": heard.append, "progress": lambda record, n_epochs: epochs.append(record.epoch)}
    with pytest.warns(UserWarning, match="^Do not use this imputation: "):
        copied = tl.impute(toy, batch_key="batch", estimates=ALL, copy=True, **told, **options)
    assert copied is not None
    assert epochs == [1, 2, 3]
    assert "checking against held-out molecules" in heard
    assert "denoised" not in toy.layers
    with pytest.warns(UserWarning, match="Do not use"):
        assert tl.impute(toy, batch_key="batch", estimates=ALL, **options) is None
    for layer in (*ALL, "denoised_sd"):
        assert np.array_equal(one.layers[layer], toy.layers[layer])
    with pytest.warns(UserWarning, match="Do not use"):
        from_config = tl.impute(
            toy, config=Config(max_epochs=3), seed=2, batch_key="batch", copy=True
        )
    assert np.array_equal(from_config.layers["denoised"], one.layers["denoised"])


def test_layers_of_others_are_not_replaced_silently(trained, toy):
    mine = toy.copy()
    mine.layers["denoised"] = mine.X.copy()
    with pytest.warns(UserWarning, match="layers 'denoised' are replaced, which no run 'graphsci'"):
        trained("nb").impute(mine)
    trained("nb").impute(mine)  # its own: no warning


@pytest.mark.parametrize(
    ("place", "name"),
    [("obsm", "X_graphsci"), ("uns", "graphsci"), ("obs", "graphsci_library")],
)
def test_slots_of_others_are_not_replaced_silently(trained, toy, place, name):
    getattr(toy, place)[name] = {"mine": 1} if place == "uns" else np.ones(toy.n_obs)
    message = re.escape(f"{place}['{name}'] will be replaced, and no record says that a run")
    with pytest.warns(UserWarning, match=message):
        trained("nb").impute(toy)
    trained("nb").impute(toy)  # its own: no warning


def test_estimates_whose_record_concat_left_out_are_told_once(trained, toy):
    trained("nb").impute(toy)
    both = anndata.concat([toy, toy[:40]], index_unique="-")
    assert "graphsci" not in both.uns
    message = (
        r"layers\['denoised'\], layers\['denoised_sd'\], obs\['graphsci_library'\], .* be replaced"
        r".* of an earlier run 'graphsci' whose record, uns\['graphsci'\], is gone: anndata.concat"
    )
    with pytest.warns(UserWarning, match=message) as said:
        trained("nb").impute(both)
    assert len(said) == 1
    trained("nb").impute(both)  # with a record again: no warning


def test_what_a_network_wrote_of_genes_is_no_ones_else(trained, toy):
    toy.uns["graphsci_network"], toy.varm["graphsci"] = {}, np.ones((toy.n_vars, 2))
    trained("nb").impute(toy)
    toy.varm["mine"] = toy.varm["graphsci"]
    with pytest.warns(UserWarning, match=r"varm\['mine'\] will be replaced"):
        trained("nb").impute(toy, key_added="mine", prefix="mine_")


@pytest.mark.parametrize("option", ["copy", "view"])
def test_what_anndata_cannot_copy_is_refused_before_any_work(trained, toy, tmp_path, option):
    toy.write_h5ad(tmp_path / "toy.h5ad")
    backed = anndata.read_h5ad(tmp_path / "toy.h5ad", backed="r")
    data = backed[:10] if option == "view" else backed
    with pytest.raises(ValueError, match=r"backed.*Call adata\.to_memory\(\) first"):
        trained("nb").impute(data, copy=option == "copy")


def test_a_loaded_model_trains_where_it_is_now(trained, toy, tmp_path):
    """A model from a GPU must be of use without one."""
    trained("nb").save(tmp_path / "model")
    record = tmp_path / "model" / RECORD
    record.write_text(record.read_text().replace('"device": "auto"', '"device": "cuda"'))
    loaded = GraphSCI.load(tmp_path / "model", device="cpu")
    assert loaded.fitted.spec.config.device == "cuda"
    assert loaded.config.device == "cpu"
    assert train_control(loaded, toy, n_decoys=5).model.config.device == "cpu"


@pytest.mark.parametrize(
    "options",
    [
        {"estimates": "denoise"},
        {"estimates": []},
        {"genes": ["nope"]},
        {"genes": ["gene1", "gene1"]},
        {"genes": []},
        {"depth": "full"},
        {"scale": "log2"},
        {"interval": 90},
        {"interval": 0.9, "estimates": "mean"},
        {"key_added": "a/b", "genes": ["gene1"]},
        {"prefix": "a/", "genes": ["gene1"]},
    ],
)
def test_tl_impute_checks_its_arguments_before_training(toy, monkeypatch, options):
    monkeypatch.setattr(GraphSCI, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(ValueError, match=f"^{next(iter(options))}[: ]"):
        tl.impute(toy, **options)
    assert set(toy.layers) == {"rate"}


@pytest.mark.parametrize(
    "use",
    [
        lambda model, values: tl.impute(values),
        lambda model, values: model.impute(values),
        lambda model, values: model.iterate_estimates(values),
        lambda model, values: model.latent(values),
        lambda model, values: GraphSCI().fit(values),
    ],
)
def test_a_table_instead_of_an_anndata_is_refused(trained, toy, use):
    with pytest.raises(TypeError, match=r"got a DataFrame, expected an AnnData \(cells x genes\)"):
        use(trained("nb"), toy.to_df())


def test_gene_graphs_of_a_user(toy):
    names = np.asarray(toy.var_names, dtype=np.str_)
    matrix = np.zeros((60, 60), dtype=np.float32)
    matrix[0, 1] = matrix[1, 0] = 0.7
    table = pd.DataFrame({"gene_a": ["gene0"], "gene_b": ["gene1"], "weight": [0.7]})
    graphs = (
        sparse.csr_matrix(matrix),
        sparse.coo_array(matrix),
        matrix,
        table,
        GeneGraph(sparse.csr_matrix(matrix), names, "mine", {}),
    )
    for graph in graphs:
        model = GraphSCI(max_epochs=1).fit(toy, gene_graph=graph)
        assert model.gene_graph.edge_table().to_numpy().tolist() == [
            ["gene0", "gene1", pytest.approx(0.7)]
        ]


def test_wrong_gene_graphs_are_refused(toy):
    names = np.asarray(toy.var_names, dtype=np.str_)
    other = GeneGraph(sparse.csr_matrix((60, 60)), names[::-1], "mine", {})
    with pytest.raises(ValueError, match=r"its genes differ from adata\.var_names"):
        GraphSCI().fit(toy, gene_graph=other)
    with pytest.raises(TypeError, match="gene_graph: got list, expected a GeneGraph"):
        GraphSCI().fit(toy, gene_graph=[("gene0", "gene1")])
    with pytest.raises(TypeError, match=r"got ndarray, expected .*a DataFrame of edges"):
        GraphSCI().fit(toy, gene_graph=np.array([("gene0", "gene1")]))
    with pytest.raises(ValueError, match="5 x 5 matrix; expected 60 x 60"):
        GraphSCI().fit(toy, gene_graph=sparse.csr_matrix(np.eye(5)))


def test_an_edge_table_needs_its_columns(toy):
    """Columns go by name, as the docstring says."""
    table = pd.DataFrame({"source": ["gene0"], "target": ["gene1"], "w": [0.7]})
    with pytest.raises(
        ValueError, match=r"lacks \['gene_a', 'gene_b'\]; it has \['source', 'target', 'w'\]"
    ):
        GraphSCI(max_epochs=1).fit(toy, gene_graph=table)


def test_a_one_sided_gene_graph_is_made_symmetric(toy):
    names = np.asarray(toy.var_names, dtype=np.str_)
    one_sided = GeneGraph(sparse.csr_matrix(([0.7], ([0], [1])), shape=(60, 60)), names, "m", {})
    adjacency = GraphSCI(max_epochs=1).fit(toy, gene_graph=one_sided).gene_graph.adjacency
    expected = np.zeros((59, 59), dtype=np.float32)
    expected[0, 1] = expected[1, 0] = 0.7
    np.testing.assert_allclose(adjacency.toarray(), expected)
    with_loops = sparse.csr_matrix(one_sided.adjacency + sparse.eye_array(60))
    looped = one_sided._replace(adjacency=with_loops, notes=("mine",))
    model = GraphSCI(max_epochs=1).fit(toy, gene_graph=looped)
    np.testing.assert_allclose(model.gene_graph.adjacency.toarray(), expected)
    assert {"mine", "60 self-loops dropped"} <= set(model.fitted.notes)
    with pytest.raises(ValueError, match="no edge between two different genes"):
        GraphSCI().fit(toy, gene_graph=one_sided._replace(adjacency=sparse.csr_matrix(np.eye(60))))


# --- errors ---------------------------------------------------------------------------


def test_the_model_describes_itself(trained):
    assert repr(GraphSCI(seed=3)) == "GraphSCI(seed=3), not trained"
    assert "preset='paper'" in repr(GraphSCI(preset="paper"))
    said = repr(trained("nb"))
    assert "nb, trained on 59 genes, epoch" in said
    assert trained("nb").verdict.line() in said
    assert trained("nb").notes == trained("nb").fitted.notes


def test_a_dictionary_is_no_configuration():
    with pytest.raises(TypeError, match=r"config: got dict, expected a graphsci.Config; single"):
        GraphSCI({"max_epochs": 2})


@pytest.mark.parametrize(
    "use",
    [
        lambda model, adata: model.impute(adata),
        lambda model, adata: model.latent(adata),
        lambda model, adata: model.verdict,
        lambda model, adata: model.history,
        lambda model, adata: model.gene_graph,
        lambda model, adata: model.gene_embedding(),
    ],
)
def test_an_untrained_model_says_so(toy, use):
    with pytest.raises(RuntimeError, match=r"not trained: call fit\(adata\) or load\(path\) first"):
        use(GraphSCI(), toy)
    assert set(toy.layers) == {"rate"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"estimates": ["denoised", "magic"]}, "estimates: got 'magic', expected any of mean,"),
        ({"estimates": []}, "estimates: got none, expected any of mean, denoised, imputed"),
        ({"depth": "full"}, "depth: got 'full', expected 'own' or 'common'"),
        ({"scale": "log2"}, "scale: got 'log2', expected 'counts' or 'log1p'"),
        ({"interval": 1.0}, "interval: got 1.0, expected a level between 0 and 1"),
        ({"interval": 90}, "interval: got 90, expected a level between 0 and 1"),
        ({"interval": 0.9, "estimates": "mean"}, "interval: it belongs to the estimate 'denoised'"),
        ({"layer": "raw"}, "there is no layer 'raw'"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(trained, toy, options, message):
    with pytest.raises(ValueError, match=message):
        trained("nb").impute(toy, **options)
    assert set(toy.layers) == {"rate"}
    assert not toy.uns
    assert not toy.obsm


def test_batch_errors(trained, toy):
    model = trained("batches")
    with pytest.raises(ValueError, match=r"trained with batches \(b0, b1\): give batch_key"):
        model.impute(toy)
    with pytest.raises(ValueError, match=r"no batch column 'lane'.*columns present: 'group'"):
        model.impute(toy, batch_key="lane")
    toy.obs["batch"] = toy.obs["batch"].replace("b1", "b7")
    with pytest.raises(ValueError, match=r"batches b7 were not in training; .* knows b0, b1"):
        model.impute(toy, batch_key="batch")


def test_batches_are_matched_by_name_whatever_their_type(trained, toy):
    one = impute(trained, "batches", toy)
    toy.obs["batch"] = pd.Categorical(toy.obs["batch"], categories=["zz", "b1", "b0"])
    assert np.array_equal(one.layers["mean"], impute(trained, "batches", toy).layers["mean"])
    some = toy[toy.obs["batch"] == "b1"].copy()
    alone = impute(trained, "batches", some).layers["mean"]
    where = np.flatnonzero(toy.obs["batch"] == "b1")
    np.testing.assert_allclose(alone, one.layers["mean"][where], rtol=1e-4, atol=1e-6)
    toy.obs["batch"] = toy.obs["batch"].astype(str).map({"b0": "b1", "b1": "b0"})
    swapped = impute(trained, "batches", toy)
    assert not np.allclose(one.layers["mean"], swapped.layers["mean"], rtol=0.05)


def test_cells_under_the_name_of_another_batch_do_not_fit(toy):
    model = GraphSCI(likelihood="nb", max_epochs=60, seed=1).fit(toy, batch_key="batch")
    model.impute(toy, batch_key="batch")
    assert (toy.obs["graphsci_misfit"] > 1).mean() < 0.05
    toy.obs["batch"] = toy.obs["batch"].astype(str).map({"b0": "b1", "b1": "b0"})
    with pytest.warns(UserWarning, match="fit the model worse"):
        model.impute(toy, batch_key="batch")


@pytest.mark.parametrize("kind", ["float32", "datetime64[ns]", "bool", "category"])
def test_batches_of_any_type_have_one_name(toy, kind):
    """What a model was trained with is what it knows, on the same AnnData."""
    number = (toy.obs["batch"] == "b1").astype(int)
    toy.obs["batch"] = (number + 0.1).astype("float32") if kind == "float32" else number
    if kind != "float32":
        toy.obs["batch"] = toy.obs["batch"].astype(kind)
    model = GraphSCI(max_epochs=1, check=False, graph="none").fit(toy, batch_key="batch")
    assert len(model.fitted.spec.batch_names) == 2
    assert np.isfinite(model.latent(toy, batch_key="batch")).all()


def test_prepared_cells_bring_what_the_check_of_their_counts_says(trained, toy):
    (note,) = trained("nb").prepare(toy[:10].copy()).notes[:1]
    assert note.startswith("Cells without any count: 1 (cell7); they say nothing")


@pytest.mark.parametrize("name", ["nb", "batches"])
def test_a_misspelt_batch_key_is_refused(trained, toy, name):
    message = "no batch column 'bacth' in adata.obs; columns present: 'group', 'batch'"
    with pytest.raises(ValueError, match=message):
        trained(name).impute(toy, batch_key="bacth")


def test_a_fit_interrupted_in_its_first_epoch_leaves_the_model_as_it_was(toy, monkeypatch):
    from graphsci.training import objectives

    model, new = GraphSCI(max_epochs=2).fit(toy), GraphSCI(max_epochs=2)
    before = model.fitted

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(objectives.ThinningObjective, "step_loss", interrupted)
    for each in (model, new):
        with pytest.raises(KeyboardInterrupt):
            each.fit(toy)
    assert model.fitted is before
    with pytest.raises(RuntimeError, match="not trained"):
        new.impute(toy)


@pytest.mark.parametrize("whole", [False, True])
def test_where_half_a_model_is_of_no_use_nothing_is_done_with_it(toy, monkeypatch, whole):
    """The test of variation takes longer than many an epoch."""
    tested, test = [], fitting.variation_p_values

    def interrupted(record, n_epochs):
        if record.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(
        fitting, "variation_p_values", lambda *a, **k: tested.append(1) or test(*a, **k)
    )
    model = GraphSCI(max_epochs=3)
    if whole:
        with pytest.raises(KeyboardInterrupt):
            model.fit(toy, progress=interrupted, whole=True)
        with pytest.raises(RuntimeError, match="not trained"):
            model.impute(toy)
    else:
        assert not model.fit(toy, progress=interrupted).fitted.is_whole
    assert tested == ([] if whole else [1])


def test_options_and_presets():
    assert GraphSCI().config == Config()
    assert GraphSCI(preset="paper", seed=3).config.n_hidden == 16
    assert GraphSCI(Config(n_latent=5), seed=3).config == Config(n_latent=5, seed=3)
    with pytest.raises(ValueError, match=r"'max_epoch'\. Did you mean 'max_epochs'"):
        GraphSCI(max_epoch=3)
    with pytest.raises(ValueError, match=r"preset: this configuration is 'default'; start from"):
        GraphSCI(Config(seed=1), preset="paper")


def test_properties_of_a_trained_model(trained, toy):
    history = trained("nb").history
    assert list(history.columns)[:3] == ["epoch", "training_loss", "validation_loss"]
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))
    assert trained("nb").dropout_curve() is None
    assert trained("paper zinb").dropout_curve() is None
    assert set(trained("zinb").dropout_curve()) == {"intercept", "slope"}
    assert trained("paper").inverse_dispersion() is None
    assert trained("paper").certainty(toy) is None
    assert trained("paper").state_weights() is None
    assert (trained("nb").inverse_dispersion() > 0).all()
    assert (*ALL, "imputed_median") == ESTIMATES


def test_match_reports_by_name(trained, toy):
    match = trained("nb").match(toy[:, ::-1])
    assert match.n_matched == 59
    assert match.extra == (f"gene{UNDETECTED_GENE}",)


def test_layers_that_do_not_fit_in_memory_are_refused_before_they_are_made(
    trained, toy, monkeypatch
):
    monkeypatch.setattr("graphsci.io._memory.available_memory", lambda: 40_000)
    model = trained("nb")
    with pytest.raises(ValueError, match=r"more than the .* GiB of memory.*genes=.*iterate_est"):
        model.impute(toy)
    assert set(toy.layers) == {"rate"}
    model.impute(toy, genes=["gene1"])
    assert "graphsci_denoised" in toy.obsm
