"""The refined network: strengths by hand, laws, the null, modules, files and bad input."""

import copy
import json
import sys

import networkx as nx
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat, read_h5ad, read_zarr
from matplotlib import pyplot
from scipy import sparse, stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import average_precision_score

from graphsci import GraphSCI, pl, tl
from graphsci import network as nw
from graphsci._jobs import network as network_job
from graphsci.config import Config
from graphsci.evaluation.false_signal import append_shuffled_genes
from graphsci.gene_graph.expression import correlation_graph
from graphsci.gene_graph.graph import graph_from_edges
from graphsci.io import write_anndata
from graphsci.network import null as shuffling
from graphsci.network import posterior, strength, to_networkx, write_network
from graphsci.network._search import Search
from graphsci.preprocessing import fit_median_library_size, log_normalize
from graphsci.training.predictability import UNPROVEN
from graphsci.verdict import Score, Verdict

OPTIONS = {"max_epochs": 25, "likelihood": "nb", "n_latent": 8, "check": False, "seed": 3}


def draw_modules(n_cells=300, n_genes=80, seed=0, base=8.0):
    """Two programmes of 15 genes each, independent of the other genes and of each other."""
    rng = np.random.default_rng(seed)
    activity = rng.normal(size=(n_cells, 2))
    loadings = np.zeros((2, n_genes))
    loadings[0, :15], loadings[1, 15:30] = 0.8, 0.8
    loadings[1, 30:33] = -0.8
    rate = np.exp(activity @ loadings) * np.where(np.arange(n_genes) < 33, base, 40.0)
    names = [f"g{i}" for i in range(n_genes)]
    obs = pd.DataFrame(
        {"type": np.where(np.arange(n_cells) % 2 == 0, "even", "odd")},
        index=[f"c{i}" for i in range(n_cells)],
    )
    return AnnData(
        sparse.csr_matrix(rng.poisson(rate).astype(np.float32)),
        obs=obs,
        var=pd.DataFrame(index=names),
    )


@pytest.fixture(scope="module")
def data():
    return draw_modules()


@pytest.fixture(scope="module")
def model(data):
    return GraphSCI(**OPTIONS).fit(data)


@pytest.fixture(scope="module")
def control(model, data):
    return nw.train_control(model, data)


@pytest.fixture(scope="module")
def refined(model, data, control):
    prior = pd.DataFrame({"gene_a": ["g0", "g40"], "gene_b": ["g1", "g41"], "weight": [0.7, 2.0]})
    return nw.refine_network(model, data, control=control, prior=prior, n_neighbors=10)


def network_of(edges, names):
    """A network from (a, b, refined) triples."""
    table = pd.DataFrame(edges, columns=["gene_a", "gene_b", "refined"])
    table["sign"] = np.where(table["refined"] < 0, -1, 1)
    for column in nw.EDGE_COLUMNS:
        if column not in table:
            table[column] = np.nan
    return nw.GeneNetwork(table[list(nw.EDGE_COLUMNS)], np.array(names), {})


def programme(gene):
    number = int(gene[1:])
    return 0 if number < 15 else 1 if number < 33 else 2


# --- strengths --------------------------------------------------------------------------


def test_strengths_are_the_formula(model, data):
    vectors = nw.gene_coordinates(model, data).vectors
    varying = (model.fitted.network.state_weight > UNPROVEN).numpy()
    assert 30 < varying.sum() < len(varying)
    assert not vectors[~varying].any()
    v = model.gene_embedding().to_numpy(float)
    v, vectors = (v - v.mean(0))[varying], vectors[varying]
    z = model.latent(data).astype(float)
    z /= model.count_network.uncertainty.states.spread.numpy()
    depth = np.log(np.asarray(data.X.sum(1)).ravel())
    basis = np.vander((depth - depth.mean()) / depth.std(), 4)
    left_over = z - basis @ np.linalg.lstsq(basis, z, rcond=None)[0]
    given_depth = left_over.T @ left_over / (len(z) - 4)
    values, directions = np.linalg.eigh(given_depth)
    w = v @ directions @ np.diag(np.sqrt(np.maximum(values, 0)))
    left, s, _ = np.linalg.svd(w, full_matrices=False)
    balanced = left @ np.diag(s**0.25) * np.sqrt((s**2).sum() / (s**0.5).sum())
    total = np.asarray(data.X.sum(0)).ravel()
    mean = total / total.sum() * model.fitted.spec.common_depth
    own = (1 / model.inverse_dispersion().to_numpy(float) + 0.3 / mean)[varying]
    norm = np.sqrt((balanced**2).sum(1) + own)
    weight = model.state_weights().to_numpy()[varying]
    expected = balanced @ balanced.T * np.outer(weight / norm, weight / norm)
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-4)
    assert (vectors**2).sum(1).max() < 1


def test_balance_is_the_identity_at_power_1_up_to_rotation(data):
    loadings = np.random.default_rng(0).normal(size=(20, 4))
    same = strength.balance(loadings, 1.0)
    np.testing.assert_allclose(same @ same.T, loadings @ loadings.T, atol=1e-10)
    assert np.isclose((strength.balance(loadings, 0.25) ** 2).sum(), (loadings**2).sum())
    assert not strength.balance(np.zeros((5, 2))).any()


def test_equal_depths_leave_the_covariance_alone():
    z = np.random.default_rng(0).normal(size=(50, 3))
    found = strength.covariance_given_depth(z, np.full(50, 1000.0), np.zeros(50, np.int64))
    np.testing.assert_allclose(found, np.cov(z.T))


def test_nothing_is_left_of_what_follows_depth_or_batch():
    """By scikit-learn's regression on batches and a cubic of the log depth."""
    rng = np.random.default_rng(0)
    z, library = rng.normal(size=(200, 2)), rng.lognormal(7, 0.8, 200)
    batch = rng.integers(0, 3, 200)
    powers = np.log(library)[:, None] ** [1, 2, 3]
    known = np.column_stack([powers, batch[:, None] == [0, 1]])
    residuals = z - LinearRegression().fit(known, z).predict(known)
    found = strength.covariance_given_depth(z, library, batch)
    np.testing.assert_allclose(found, residuals.T @ residuals / (200 - 6), rtol=1e-6)
    follows = np.column_stack([np.log(library) ** 3, batch == 1]).astype(float)
    left = strength.covariance_given_depth(follows, library, batch)
    np.testing.assert_allclose(left / np.cov(follows.T)[0, 0], 0, atol=1e-9)


def test_paper_strength_is_eq_18(trained, toy):
    model = trained("paper")
    found = nw.refine_network(model, toy, n_neighbors=3)
    z = model.gene_embedding()
    a, b = found.edges["gene_a"], found.edges["gene_b"]
    expected = 1 / (1 + np.exp(-(z.loc[a].to_numpy() * z.loc[b].to_numpy()).sum(1)))
    np.testing.assert_allclose(found.edges["probability"], expected, rtol=1e-4)
    known = found.edges.dropna(subset="initial_correlation")
    assert (np.sign(known["initial_correlation"]) == known["sign"]).all()


@pytest.mark.parametrize("block", [4, 1024])
def test_nearest_pairs_equal_brute_force(block, monkeypatch):
    monkeypatch.setattr(strength, "GENE_BLOCK", block)
    vectors = np.random.default_rng(1).normal(size=(30, 5)).astype(np.float32)
    strengths = vectors @ vectors.T
    strengths = np.where(strengths < 0, -0.5 * strengths, strengths)
    np.fill_diagonal(strengths, -1)
    best = np.argsort(-strengths, axis=1)[:, :3]
    expected = {tuple(sorted((i, int(j)))) for i in range(30) for j in best[i]}
    rows, columns = nw.nearest_pairs(nw.Coordinates(vectors, signed=True), 3)
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == expected


def test_permuting_genes_permutes_the_network(model, data):
    order = np.random.default_rng(0).permutation(data.n_vars)
    one = nw.refine_network(model, data, n_neighbors=5).edges
    other = nw.refine_network(model, data[:, order], n_neighbors=5).edges
    pd.testing.assert_frame_equal(one, other, atol=1e-4)


def test_permuting_cells_changes_nothing(model, data):
    order = np.random.default_rng(0).permutation(data.n_obs)
    one = nw.refine_network(model, data, n_neighbors=5).edges
    other = nw.refine_network(model, data[order], n_neighbors=5).edges
    key = ["gene_a", "gene_b"]
    pd.testing.assert_frame_equal(
        one.sort_values(key, ignore_index=True),
        other.sort_values(key, ignore_index=True),
        atol=1e-3,
    )


# --- the table --------------------------------------------------------------------------


def test_finds_the_programmes_with_sign(refined):
    top = refined.edges.head(60)
    assert np.mean([programme(a) == programme(b) != 2 for a, b in _pairs(top)]) > 0.95
    second = refined.edges[[{programme(a), programme(b)} == {1} for a, b in _pairs(refined.edges)]]
    opposed = np.array([(int(a[1:]) >= 30) != (int(b[1:]) >= 30) for a, b in _pairs(second)])
    assert opposed.any()
    assert (second["sign"] == np.where(opposed, -1, 1)).mean() > 0.98


def _pairs(edges):
    return list(zip(edges["gene_a"], edges["gene_b"], strict=True))


def test_table_keeps_its_promises(refined, model):
    edges = refined.edges
    assert tuple(edges.columns) == nw.EDGE_COLUMNS
    rank = np.where(edges["refined"] < 0, -0.5 * edges["refined"], edges["refined"])
    assert (np.diff(rank) <= 1e-9).all()
    assert (edges["q_value"].diff().dropna() >= 0).all()
    pairs = {frozenset(pair) for pair in _pairs(edges)}
    assert len(pairs) == len(edges)
    assert all(len(pair) == 2 for pair in pairs)
    assert {frozenset(p) for p in _pairs(model.gene_graph.edge_table())} <= pairs
    assert edges["initial_correlation"].isna().any()  # new edges
    assert edges["stability"].between(0, 1).all()
    assert edges["denoised_correlation"].abs().max() <= 1
    known = edges.dropna(subset="initial_correlation")
    assert (np.sign(known["raw_correlation"]) == np.sign(known["initial_correlation"])).mean() > 0.9
    adjacency = refined.adjacency()
    assert abs(adjacency - adjacency.T).max() == 0
    assert not adjacency.diagonal().any()


def test_prior_is_reported(refined):
    prior = refined.edges["prior_weight"]
    weights = dict(zip(map(frozenset, _pairs(refined.edges)), prior, strict=True))
    assert weights[frozenset(("g0", "g1"))] == pytest.approx(0.7)
    assert set(np.unique(prior).round(3)) <= {0, 0.7, 2.0}


def correlate(kind, model, data, rows, columns, max_cells=2000, seed=0):
    cells = posterior.SampledCells.of(model, data, max_cells, seed, {})
    return getattr(cells, kind)(rows, columns)


def test_denoised_correlation_is_that_of_posterior_draws(model, data):
    rows, columns = np.array([0, 0, 16]), np.array([1, 20, 17])
    found = correlate("denoised_correlation", model, data, rows, columns)
    values = model.impute(data, depth="common", copy=True)
    mean, sd = values.layers["denoised"], values.layers["denoised_sd"]
    draw = np.log1p(mean) + sd / (1 + mean) * np.random.default_rng(0).normal(
        size=(200, *mean.shape)
    )
    draws = draw.reshape(-1, mean.shape[1])
    expected = np.corrcoef(draws.T)[rows, columns]
    np.testing.assert_allclose(found, expected, atol=0.01)


def rates_given_the_model(model, data, genes):
    """Denoised rates at common depth and their variance where mu is known: (cells, genes) each.

    Gamma(x + theta, rate 1 + theta / mu).
    """
    at_own, at_common = (
        model.impute(data, estimates=["mean", "denoised"], depth=depth, genes=genes, copy=True).obsm
        for depth in ("own", "common")
    )
    mu, own = (at_own[f"graphsci_{name}"].to_numpy(float) for name in ("mean", "denoised"))
    rate = at_common["graphsci_denoised"].to_numpy(float)
    kappa = model.certainty(data)[:, None]
    theta = kappa ** model.state_weights()[genes].to_numpy()
    theta = theta * model.inverse_dispersion()[genes].to_numpy()
    return rate, own * mu / (mu + theta) * (rate / own) ** 2


@pytest.mark.parametrize("scale", ["log1p", "rate"])
def test_posterior_correlation_follows_the_law_of_total_variance(model, data, scale):
    genes = ["g0", "g1", "g20", "g40"]
    found = nw.posterior_correlation(model, data, genes, scale=scale)
    rate, variance = rates_given_the_model(model, data, genes)
    sd = np.sqrt(variance)
    mean = np.log1p(rate) if scale == "log1p" else rate
    own = (sd / (1 + rate) if scale == "log1p" else sd) ** 2
    covariance = np.cov(mean.T, bias=True) + np.diag(own.mean(0))
    size = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(found, covariance / np.outer(size, size), atol=1e-5)
    assert found.loc["g0", "g1"] > 0.3 > abs(found.loc["g0", "g20"])
    if scale == "log1p":
        pair = correlate("denoised_correlation", model, data, np.array([0]), np.array([20]))
        assert pair[0] == pytest.approx(found.loc["g0", "g20"], abs=1e-5)


@pytest.mark.parametrize(
    ("genes", "options", "said"),
    [
        (["g0", "TP53"], {}, "TP53 not in model and data"),
        (["g0", "g0"], {}, "two or more different genes"),
        ("g0", {}, "two or more different genes"),
        (["g0", "g1"], {"scale": "counts"}, "expected 'log1p' or 'rate'"),
        (["g0", "g1"], {"max_cells": 2}, "at least 3 cells"),
    ],
)
def test_posterior_correlation_refuses(model, data, genes, options, said):
    with pytest.raises(ValueError, match=said):
        nw.posterior_correlation(model, data, genes, **options)


def test_posterior_variation_follows_the_law_of_total_variance(model, data):
    genes = ["g20", "g0"]
    found = nw.posterior_variation(model, data, genes)
    values = model.impute(
        data, estimates=["mean", "denoised"], depth="common", genes=genes, copy=True
    ).obsm
    mean = values["graphsci_mean"].to_numpy(float)
    rate, variance = rates_given_the_model(model, data, genes)
    np.testing.assert_allclose(found["mean"], rate.mean(0), rtol=1e-5)
    np.testing.assert_allclose(
        found["cv"], np.sqrt(rate.var(0) + variance.mean(0)) / rate.mean(0), rtol=1e-4
    )
    np.testing.assert_allclose(found["cv_state"], mean.std(0) / mean.mean(0), rtol=1e-4)
    assert found.index.tolist() == genes
    assert nw.posterior_variation(model, data).index.tolist() == list(model.gene_names)
    empty = AnnData(sparse.csr_matrix((7, data.n_vars), dtype=np.float32), var=data.var)
    more = concat([data, empty], index_unique="-")
    pd.testing.assert_frame_equal(nw.posterior_variation(model, more, genes), found, rtol=1e-5)
    with pytest.raises(ValueError, match="TP53 not in model and data; expected one or more"):
        nw.posterior_variation(model, data, ["g0", "TP53"])
    with pytest.raises(ValueError, match="2 cells with counts, expected at least 3 cells"):
        nw.posterior_variation(model, data[:2])


def test_posterior_variation_is_that_of_the_rates_that_were_drawn():
    """Gamma rates of known variation: counts vary more, the posterior mean varies less."""
    rng = np.random.default_rng(0)
    theta = np.repeat([1.0, 4.0], 60)
    rates = rng.gamma(theta, 2 / theta, size=(600, 120))
    counts = rng.poisson(rates).astype(np.float32)
    adata = AnnData(sparse.csr_matrix(counts))
    model = GraphSCI(max_epochs=30, check=False, graph="none", likelihood="nb").fit(adata)
    found = nw.posterior_variation(model, adata)
    denoised = model.impute(adata, depth="common", copy=True).layers["denoised"]
    known = rates.std(0) / rates.mean(0)
    shrunk = denoised.std(0) / denoised.mean(0)
    for part in (theta == 1, theta == 4):
        truth = np.median(known[part])
        assert np.median(found["cv"][part]) == pytest.approx(truth, rel=0.1)
        assert np.median(shrunk[part]) < 0.9 * truth
        assert np.median(counts[:, part].std(0) / counts[:, part].mean(0)) > 1.1 * truth
    assert (found["cv_state"] < found["cv"]).all()


def test_posterior_variation_is_within_batches():
    rng = np.random.default_rng(0)
    batch = np.repeat(["a", "b"], 150)
    rates = np.full((300, 40), 5.0)
    rates[:150, 0] = 20.0
    adata = AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)))
    adata.obs["batch"] = batch
    options = {"max_epochs": 30, "check": False, "graph": "none", "likelihood": "nb"}
    told = GraphSCI(**options).fit(adata, batch_key="batch")
    apart = nw.posterior_variation(told, adata, ["0"], batch_key="batch")["cv"].item()
    untold = GraphSCI(**options).fit(adata)
    together = nw.posterior_variation(untold, adata, ["0"])["cv"].item()
    assert apart < 0.3 < 0.5 < together


def test_raw_correlation_is_pearson_of_log_counts(model, data):
    rows, columns = np.array([0, 0, 16]), np.array([1, 20, 17])
    counts = data.X.toarray()
    library = counts.sum(1, keepdims=True)
    logs = np.log1p(counts / library * model.fitted.spec.common_depth)
    expected = np.corrcoef(logs.T)[rows, columns]
    np.testing.assert_allclose(
        correlate("raw_correlation", model, data, rows, columns), expected, atol=1e-5
    )
    part = data[:, data.var_names != "g20"]
    assert np.isnan(correlate("raw_correlation", model, part, rows, columns)[1])


def test_many_cells_are_sampled(model, data):
    rows, columns = np.array([0, 3]), np.array([1, 50])
    few = correlate("denoised_correlation", model, data, rows, columns, max_cells=200, seed=1)
    np.testing.assert_allclose(
        few, correlate("denoised_correlation", model, data, rows, columns, max_cells=200, seed=1)
    )
    np.testing.assert_allclose(
        few, correlate("denoised_correlation", model, data, rows, columns), atol=0.2
    )


def test_empty_cells_change_nothing(model, data):
    """Estimates of a cell without counts are 0: its genes are not off together."""
    empty = AnnData(sparse.csr_matrix((100, data.n_vars), dtype=np.float32), var=data.var)
    more = concat([data, empty], index_unique="-")
    whole, same = (nw.refine_network(model, d, n_neighbors=5).edges for d in (data, more))
    pd.testing.assert_frame_equal(same, whole, rtol=1e-4, atol=1e-5)
    genes = ["g0", "g1", "g20"]
    np.testing.assert_allclose(
        *(nw.posterior_correlation(model, d, genes) for d in (data, more)), atol=1e-6
    )


def test_without_data_there_is_less_evidence(model):
    found = nw.refine_network(model)
    assert found.edges[["denoised_correlation", "confidence", "stability"]].isna().all().all()
    assert "no control" in found.notes[0]
    with pytest.raises(ValueError, match="min_confidence needs a control"):
        found.confident(0.9)


def test_a_control_needs_the_cells_that_it_was_trained_on(model, control):
    with pytest.raises(ValueError, match="control: sizes of relations are compared"):
        nw.refine_network(model, control=control)


def test_a_control_of_other_cells_is_refused(model, data, control):
    """A mask of cells is laid on both."""
    for cells in (data[::-1].copy(), data[:200].copy()):
        with pytest.raises(ValueError, match="control: it was trained on 300 cells"):
            nw.refine_network(model, cells, control=control)


def test_an_edge_without_strength_has_the_sign_of_its_correlation(model, data):
    """It is listed because it is in the initial graph."""
    opposed = pd.DataFrame({"gene_a": ["g40"], "gene_b": ["g41"], "weight": [-0.7]})
    constant = GraphSCI(**OPTIONS | {"max_epochs": 2, "variation_level": 0.0})
    constant.fit(data, gene_graph=opposed)
    found = nw.refine_network(constant, n_neighbors=0)
    assert found.edges[["refined", "sign"]].to_numpy().tolist() == [[0.0, -1.0]]
    assert any("no relation has a strength" in note for note in found.notes)
    assert len(pl.gene_network(found).texts) == 2
    measured = nw.refine_network(constant, data, n_neighbors=0).edges.iloc[0]
    assert measured["sign"] == np.sign(measured["denoised_correlation"])
    pyplot.close("all")


def test_one_cell_correlates_nothing(model, data):
    with pytest.raises(ValueError, match="adata has 1 cells with counts, expected at least 3"):
        nw.refine_network(model, data, cells=np.arange(data.n_obs) == 0)


def test_no_partners_are_no_pairs(model, data):
    rows, columns = nw.nearest_pairs(nw.gene_coordinates(model, data), 0)
    assert len(rows) == len(columns) == 0
    found = nw.refine_network(model, data, n_neighbors=0)
    assert found.n_edges == model.gene_graph.n_edges


def test_same_model_twice_is_stable(model, data):
    one = nw.refine_network(model, data, n_neighbors=5)
    twice = nw.refine_network(model, data, n_neighbors=5, models=[model])
    np.testing.assert_allclose(one.edges["refined"], twice.edges["refined"], atol=1e-5)
    assert twice.edges["stability"].iloc[0] == 1
    assert set(twice.edges["stability"]) <= {0.0, 1.0}


def test_networks_by_label(model, data, control):
    found = nw.networks_by_label(model, data, label_key="type", control=control, n_neighbors=5)
    assert list(found) == ["even", "odd"]
    assert found["even"].parameters["n_cells"] == 150
    with pytest.raises(ValueError, match="obs has no column 'cell'"):
        nw.networks_by_label(model, data, label_key="cell")
    with pytest.raises(ValueError, match="no group in 'type' has 50 cells"):
        nw.networks_by_label(model, data[:60].copy(), label_key="type")


def test_cells_without_a_label_make_no_network(model, data):
    labelled = data.copy()
    labelled.obs["type"] = pd.Categorical(labelled.obs["type"])
    labelled.obs.iloc[:200:2, 0] = np.nan
    found = nw.networks_by_label(model, labelled, label_key="type", n_neighbors=3, denoised=False)
    assert {label: n.parameters["n_cells"] for label, n in found.items()} == {
        "even": 50,
        "odd": 150,
    }
    assert "100 cells without a label in 'type' are in no network" in found["odd"].notes
    labelled.obs["type"] = np.nan
    with pytest.raises(ValueError, match="no group in 'type' has 50 cells; the largest has 0"):
        nw.networks_by_label(model, labelled, label_key="type")


def test_a_sample_of_a_file_is_read(model, data, tmp_path):
    data.write_h5ad(tmp_path / "counts.h5ad")
    file = read_h5ad(tmp_path / "counts.h5ad", backed="r")
    rows, columns = np.array([0, 3]), np.array([1, 50])
    for kind in ("denoised_correlation", "raw_correlation"):
        expected = correlate(kind, model, data, rows, columns, max_cells=100)
        np.testing.assert_allclose(
            correlate(kind, model, file, rows, columns, max_cells=100), expected
        )
    file.file.close()


def test_a_gene_that_the_cells_do_not_show_has_no_relations(model, data):
    """g0 to g15 vary together; nine cells of these show g1, and ten g2."""
    data = data.copy()
    counts = data.X.toarray()
    for gene, n_cells in ((1, 9), (2, 10)):
        counts[np.flatnonzero(counts[:, gene])[n_cells:], gene] = 0
    data.X = counts
    vectors = nw.gene_coordinates(model, data).vectors
    assert vectors[[0, 2, 3]].any(1).all()
    assert not vectors[1].any()


def test_a_network_says_what_the_check_of_its_model_found(model, data):
    note = "the relations rest on a model whose check says"
    found = nw.refine_network(model, data, n_neighbors=3, denoised=False)
    assert not [said for said in found.notes if note in said]
    worse = copy.copy(model)
    scores = (Score("graphsci denoised", 0.5, 0.1, 0, 0), Score("gene means", 0.4, 0, 9.0, 0))
    worse._fitted = model.fitted._replace(verdict=Verdict(scores, 100, 1000, 0.1))
    said = nw.refine_network(worse, data, n_neighbors=3, denoised=False).notes
    assert [s for s in said if s.startswith(f"{note}: Do not use this imputation")]


def test_modules_are_of_positive_relations(model, data):
    """An edge of the initial graph may have no strength, or with `paper` one of another sign."""
    found = nw.refine_network(model, data, n_neighbors=3, denoised=False)
    strengths = pd.Series([0.5, 0.4, 0.3, 0.0, -0.6, 0.9])
    pairs = [("g0", "g1"), ("g1", "g2"), ("g0", "g2"), ("g3", "g4"), ("g2", "g5"), ("g6", "g7")]
    edges = found.edges.iloc[:6].assign(refined=strengths, sign=[1, 1, 1, 1, 1, -1])
    edges[["gene_a", "gene_b"]] = pairs
    network = found._replace(edges=edges)
    assert network.linked_genes.tolist() == ["g0", "g1", "g2"]
    modules = nw.find_modules(network, min_genes=2)
    assert sorted(modules["gene"]) == ["g0", "g1", "g2"]
    assert modules["strength"].sum() == pytest.approx(2 * 1.2)


def test_batches_are_looked_into_and_not_across():
    """Independent genes, all of them three times as high in one of two batches."""
    rng = np.random.default_rng(0)
    batch = np.arange(300) % 2
    factor = np.where((np.arange(60) < 30) == (batch == 1)[:, None], 3.0, 1.0)
    counts = rng.poisson(rng.gamma(4, 2.0, (300, 60)) * factor).astype(np.float32)
    obs = pd.DataFrame({"batch": batch.astype(str)}, index=[f"c{i}" for i in range(300)])
    mixed = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(60)]))
    found = {}
    for batch_key in (None, "batch"):
        model = GraphSCI(max_epochs=15, seed=0, variation_level=1.0).fit(mixed, batch_key=batch_key)
        network = nw.refine_network(model, mixed, batch_key=batch_key, n_neighbors=5)
        vectors = nw.gene_coordinates(model, mixed, batch_key=batch_key).vectors
        found[batch_key] = (
            model.gene_graph.n_edges,
            network.edges["raw_correlation"].abs().mean(),
            network.edges["denoised_correlation"].abs().mean(),
            np.abs(vectors[:30] @ vectors[30:].T).mean(),
            model.verdict.of("gene means").deviance,
        )
    assert found[None][0] > 100 > 5 > found["batch"][0]
    for number in (1, 2, 3):
        assert found["batch"][number] < 0.5 * found[None][number]
    assert found["batch"][4] < 0.9 * found[None][4]  # the means are those of a batch


# --- the null ---------------------------------------------------------------------------


def test_decoys_keep_their_place_in_a_batch(model, data):
    """Half of the cells, a batch, have none of g0."""
    data = data.copy()
    counts = data.X.toarray()
    counts[::2, 0] = 0
    data.X = counts
    data.obs["batch"] = np.where(np.arange(data.n_obs) % 2, "odd", "even")
    options = {"n_decoys": int((counts.astype(bool).sum(0) >= 10).sum())}  # of every gene
    short = copy.copy(model)
    short._fitted = model.fitted._replace(
        spec=model.fitted.spec._replace(config=model.config.replace(max_epochs=1))
    )
    for batch_key, expected in ((None, False), ("batch", True)):
        control = nw.train_control(short, data, batch_key=batch_key, **options)
        decoys = control.adata[:, sorted(control.decoys)].X.toarray()
        in_one = (decoys[::2] == 0).all(0) & (decoys[1::2].sum(0) == counts[:, 0].sum())
        assert in_one.any() == expected


def test_chance_is_counted_among_relations_alone():
    """Ten edges of strength 0 do not make the others more certain, and are certain of nothing."""
    null = shuffling.Null(np.array([0.1, 0.3]), np.linspace(0, 0.3, 50, dtype=np.float32), 50)
    sizes = np.array([0.6, 0.5, 0.2])
    alone = shuffling.q_values(sizes, null, n_pairs=50)
    padded = shuffling.q_values(np.concatenate([sizes, np.zeros(10)]), null, n_pairs=50)
    np.testing.assert_array_equal(padded[:3], alone)
    assert (padded[3:] == 1).all()


def test_control_has_decoys_among_the_same_genes(control, model, data):
    assert set(control.model.gene_names) == set(model.gene_names) | control.decoys
    assert len(control.decoys) == 50
    decoy = control.adata[:, sorted(control.decoys)].X.toarray()
    real = np.sort(data.X.toarray(), axis=0).T.tolist()
    assert all(np.sort(column).tolist() in real for column in decoy.T)


def test_q_values_by_hand():
    null = shuffling.Null(np.array([0.15, 0.35]), np.linspace(0.05, 0.35, 199), 199)
    sizes = np.array([0.2, 0.9, 0.3, 0.1])
    found = shuffling.q_values(sizes, null, n_pairs=100)
    # ranked .9 .3 .2 .1: 100 / 200 x (1, 2, 2, 3) / (1, 2, 3, 4); never above a weaker one
    np.testing.assert_allclose(found, [1 / 3, 1 / 3, 1 / 3, 3 / 8])
    given = shuffling.q_values(sizes, null, n_pairs=100, n_given=10)
    assert given[1] == pytest.approx(min(0.5 + 10 / 200, *given))
    assert (given >= found).all()
    tied = shuffling.q_values(np.array([0.5, 0.5]), null, n_pairs=100)
    np.testing.assert_allclose(tied, [1 / 4, 1 / 4])  # 100 / 200 x 1 / 2


def test_decoys_are_listed_by_the_rules_for_real_genes(control):
    found = nw.gene_coordinates(control.model, control.adata)
    decoy = np.isin(control.model.gene_names, list(control.decoys))
    size = found.size(found.vectors @ found.vectors.T)
    np.fill_diagonal(size, -1)
    real = np.flatnonzero(~decoy)
    joined = control.model.gene_graph.adjacency.toarray() != 0
    listed = []
    for d in np.flatnonzero(decoy):
        for g in real:
            rivals = size[g, real[real != g]]
            best = size[d, g] >= np.sort(rivals)[-3] or size[d, g] >= np.sort(size[d, real])[-3]
            if (best and size[d, g] > 0) or joined[d, g]:
                listed.append(size[d, g])
    null = shuffling.decoy_relations(control, found, 3)
    np.testing.assert_allclose(null.listed, np.sort(listed), atol=1e-6)
    assert null.n_pairs == decoy.sum() * (~decoy).sum() == len(null.all)
    assert (
        len(shuffling.decoy_relations(control, found, 0).listed) == joined[decoy][:, ~decoy].sum()
    )


def test_strength_at_rank_is_the_sorted_strength(monkeypatch):
    monkeypatch.setattr(strength, "GENE_BLOCK", 7)
    vectors = (np.random.default_rng(2).normal(size=(25, 3)) / 4).astype(np.float32)
    for signed in (True, False):
        coordinates = nw.Coordinates(vectors, signed=signed)
        sizes = np.sort(coordinates.size(vectors @ vectors.T)[np.triu_indices(25, 1)])[::-1]
        for rank in (1, 10, 100):
            found = strength.strength_at_rank(coordinates, rank)
            assert found <= sizes[rank - 1] <= found + 1 / 4096
    both = nw.Coordinates(vectors, signed=True).size(np.array([-0.4, 0.3]))
    np.testing.assert_allclose(both, [0.2, 0.3])


def test_shuffled_genes_get_no_more_edges_than_stated():
    """Planted among the data, unknown to the control: the share that touches them.

    A rate is an expectation: the mean of eight draws must not exceed it, one may, and one of
    these does (.14 at .05), as decoys are few: of four draws it could decide.
    """
    data, rates, shares = draw_modules(n_cells=400, n_genes=100), (0.05, 0.1, 0.2), []
    names = [*data.var_names, *(f"shuffled{i}" for i in range(60))]
    candidates = 0.0
    for seed in range(8):
        mixed = append_shuffled_genes(data.X, n_copies=60, rng=np.random.default_rng(seed))
        planted = AnnData(mixed.counts, obs=data.obs, var=pd.DataFrame(index=names))
        model = GraphSCI(**OPTIONS).fit(planted)
        control = nw.train_control(model, planted)
        found = nw.refine_network(
            model, planted, control=control, n_neighbors=20, denoised=False
        ).edges
        touched = found["gene_a"].str.startswith("shuf") | found["gene_b"].str.startswith("shuf")
        candidates += touched.mean() / 8
        kept = [found["q_value"] <= rate for rate in rates]
        assert min(chosen.sum() for chosen in kept) > 80
        shares.append([touched[chosen].mean() for chosen in kept])
    assert candidates > 0.05  # shuffled genes can be listed
    assert (np.mean(shares, axis=0) <= rates).all()


def test_the_twin_withholds_nothing(control):
    """Decoys are then fitted as closely as can be."""
    assert control.model.config.validation_fraction == 0
    assert not control.model.config.check


def test_names_are_checked_before_training(data, monkeypatch):
    monkeypatch.setattr(GraphSCI, "fit", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(ValueError, match=r"key_added .* without '/'"):
        tl.gene_network(data, key_added="a/b", modules=False)


def test_confident_edges_are_true():
    """At a false-discovery rate of .05, with as much again for chance: edges share genes.

    With few molecules the programmes hardly move the library: what does relates all shares.
    """
    data = draw_modules(base=4.0)
    model = GraphSCI(**OPTIONS).fit(data)
    control = nw.train_control(model, data)
    sure = nw.refine_network(model, data, control=control, n_neighbors=10).confident(0.95)
    assert sure.n_edges > 50
    assert np.mean([programme(a) == programme(b) != 2 for a, b in _pairs(sure.edges)]) > 0.9


# --- modules ----------------------------------------------------------------------------


def test_modules_of_two_cliques_by_hand():
    edges = [(f"a{i}", f"a{j}", 0.5) for i in range(4) for j in range(i)]
    edges += [(f"b{i}", f"b{j}", 0.5) for i in range(3) for j in range(i)]
    edges += [("a0", "hub", 0.9), ("a1", "hub", 0.9), ("b0", "c", -0.9)]
    found = nw.find_modules(network_of(edges, list("abc")))
    assert found["module"].tolist() == [0] * 5 + [1] * 3
    assert set(found.loc[found["module"] == 1, "gene"]) == {"b0", "b1", "b2"}
    first = found.iloc[0]
    assert first["gene"] in ("a0", "a1")
    assert (first["degree"], first["hub_rank"]) == (4, 1)
    assert first["strength"] == pytest.approx(3 * 0.5 + 0.9)


def test_modules_find_the_programmes(refined):
    found = nw.find_modules(refined.confident(0.9))
    module = found.set_index("gene")["module"]
    assert module[[f"g{i}" for i in range(15)]].nunique() == 1
    assert module["g0"] != module["g20"]


def test_enrichment_is_fishers_test():
    modules = pd.DataFrame({"gene": list("abcd"), "module": 0})
    background = list("abcdefghij")
    sets = {"good": ("a", "b", "c", "zz"), "bad": ("h", "i"), "tiny": ("a",)}
    found = nw.enrich_modules(modules, sets, background=background)
    expected = stats.fisher_exact([[3, 1], [0, 6]], alternative="greater").pvalue
    assert found["gene_set"].tolist() == ["good"]
    assert found.loc[0, "p_value"] == pytest.approx(expected)
    assert found.loc[0, "q_value"] == pytest.approx(2 * expected)  # two sets were tested
    assert found.loc[0, "genes"] == "a,b,c"
    with pytest.warns(UserWarning, match="no gene set holds two of the 10 genes"):
        nothing = nw.enrich_modules(modules, {"human": ("TP53", "MYC")}, background=background)
    assert list(nothing) == list(found)
    assert nothing.empty


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "leidenalg", None)
    with pytest.raises(ImportError, match=r"leidenalg.*pip install 'graphsci\[network\]'"):
        nw.find_modules(network_of([("a", "b", 0.5)], ["a", "b"]))


# --- files ------------------------------------------------------------------------------


def test_files_read_back(refined, tmp_path):
    modules = nw.find_modules(refined.confident(0.9))
    for ending in ("tsv", "csv", "graphml", "cx2", "cyjs", "sif"):
        write_network(refined, tmp_path / f"net.{ending}", modules=modules)
    table = pd.read_csv(tmp_path / "net.tsv", sep="\t")
    assert _pairs(table) == _pairs(refined.edges)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "net.csv"), table)
    graphml = nx.read_graphml(tmp_path / "net.graphml")
    cyjs = nx.cytoscape_graph(json.loads((tmp_path / "net.cyjs").read_text()))
    expected = to_networkx(refined, modules)
    for graph in (graphml, cyjs):
        assert nx.utils.edges_equal(
            [(*sorted(e[:2]), round(e[2], 6)) for e in graph.edges(data="refined")],
            [(*sorted(e[:2]), round(e[2], 6)) for e in expected.edges(data="refined")],
        )
    assert graphml.nodes["g0"]["module"] == expected.nodes["g0"]["module"]
    lines = (tmp_path / "net.sif").read_text().splitlines()
    assert len(lines) == refined.n_edges
    assert {line.split("\t")[1] for line in lines} == {"positive", "negative"}
    with pytest.raises(ValueError, match=r"got the ending '.txt', expected .tsv"):
        write_network(refined, tmp_path / "net.txt")


def test_cx2_follows_its_specification(refined, tmp_path):
    modules = nw.find_modules(refined.confident(0.9))
    write_network(refined, tmp_path / "net.cx2", modules=modules)
    document = json.loads((tmp_path / "net.cx2").read_text())
    assert document[0] == {"CXVersion": "2.0", "hasFragments": False}
    assert document[-1] == {"status": [{"success": True, "error": ""}]}
    aspects = {name: found for part in document[1:-1] for name, found in part.items()}
    counts = {entry["name"]: entry["elementCount"] for entry in aspects.pop("metaData")}
    assert counts == {name: len(found) for name, found in aspects.items()}
    kinds = {"boolean": bool, "long": int, "double": (int, float), "string": str}
    declared = aspects["attributeDeclarations"][0]
    for name in ("nodes", "edges"):
        assert len({element["id"] for element in aspects[name]}) == len(aspects[name])
        for element in aspects[name]:
            for attribute, value in element["v"].items():
                assert isinstance(value, kinds[declared[name][attribute]["d"]])
    gene = {node["id"]: node["v"]["name"] for node in aspects["nodes"]}
    ends = [(gene[edge["s"]], gene[edge["t"]]) for edge in aspects["edges"]]
    assert ends == _pairs(refined.edges)
    assert {edge["v"]["interaction"] for edge in aspects["edges"]} == {"positive", "negative"}
    facts = modules.set_index("gene").loc["g0"]
    found = next(node["v"] for node in aspects["nodes"] if node["v"]["name"] == "g0")
    assert (found["module"], found["hub_rank"]) == (facts["module"], facts["hub_rank"])


def test_annotate(refined, data, tmp_path):
    adata = data[:, ::-1].copy()
    nw.annotate_network(adata, refined, modules=nw.find_modules(refined.confident(0.9)))
    adata.write_h5ad(tmp_path / "out.h5ad")
    matrix = adata.varp["graphsci_network"]
    first = refined.edges.iloc[0]
    at = [adata.var_names.get_loc(first[name]) for name in ("gene_a", "gene_b")]
    assert matrix[at[0], at[1]] == matrix[at[1], at[0]] == np.float32(first["refined"])
    assert matrix.nnz == 2 * refined.n_edges
    assert adata.var.loc["g0", "graphsci_module"] >= 0


def test_tl(model, data):

    adata = data.copy()
    found = tl.gene_network(adata, model, n_neighbors=5, control=False)
    assert adata.uns["graphsci_network"]["edges"] is found.edges
    assert "graphsci_module" in adata.var
    assert (adata.varp["graphsci_graph"] != model.gene_graph.adjacency).nnz == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 3, "bogus": 7}, "seed, bogus: only for training"),
        ({"gene_graph": "nonsense"}, "gene_graph: only for training"),
        ({"config": Config()}, "config: only for training"),
        ({"control": False, "min_confidence": 7}, r"min_confidence must be in \[0, 1\], got 7"),
        ({"control": False, "min_confidence": 0.9}, "min_confidence needs a control"),
        ({}, "package 'leidenalg', which could not be imported"),
        ({"n_neighbors": -1}, "n_neighbors: got -1, expected a whole number"),
        ({"prior": pd.DataFrame({"gene_a": ["TP53"], "gene_b": ["MYC"]})}, "TP53"),
        ({"modules": False, "label_key": "cell"}, "label_key: obs has no column 'cell'; .* 'type'"),
        ({"modules": False, "label_key": "name"}, "no group in 'name' has 50 cells; the largest"),
    ],
)
def test_tl_refuses_before_training(model, data, monkeypatch, options, said):

    monkeypatch.setitem(sys.modules, "leidenalg", None)
    monkeypatch.setattr("graphsci.network._search.train_control", None)
    data = AnnData(data.X, obs=data.obs.assign(name=data.obs_names), var=data.var)
    with pytest.raises((ValueError, ImportError), match=said):
        tl.gene_network(data, model, **options)


@pytest.fixture
def grouped(data):
    """Two groups, one of a name that no slot of a file may have; a small one; cells of none."""
    adata = data.copy()
    adata.obs["type"] = pd.Categorical(["T/NK"] * 120 + ["B"] * 130 + ["few"] * 30 + [None] * 20)
    return adata


LEFT_OUT = (
    "groups of fewer than 50 cells are in no network: few (30)",
    "20 cells without a label in 'type' are in no network",
)


@pytest.mark.parametrize("suffix", [None, "h5ad", "zarr"])
def test_tl_by_label_is_networks_by_label(model, grouped, control, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("graphsci.network._search.train_control", lambda *_, **__: control)
    with pytest.warns(UserWarning, match="are in no network") as warned:
        whole = tl.gene_network(grouped, model, n_neighbors=5, label_key="type")
    assert tuple(str(warning.message) for warning in warned) == LEFT_OUT
    expected = nw.networks_by_label(
        model, grouped, label_key="type", n_neighbors=5, control=control, seed=model.config.seed
    )
    tables = grouped.uns["graphsci_network_by_label"]
    assert list(tables["edges"]) == ["label", *nw.EDGE_COLUMNS]
    assert set(tables["notes"]["note"]) >= set(LEFT_OUT)
    if suffix:
        write_anndata(grouped, tmp_path / f"a.{suffix}")
        grouped = {"h5ad": read_h5ad, "zarr": read_zarr}[suffix](tmp_path / f"a.{suffix}")
    assert list(expected) == ["B", "T/NK"]
    for label, network in expected.items():
        found = nw.stored_network(grouped, label=label)
        pd.testing.assert_frame_equal(
            found.edges, network.edges, check_dtype=False, check_categorical=False
        )
        assert (found.parameters, found.notes) == (network.parameters, network.notes)
        assert (found.parameters["label_key"], found.parameters["label"]) == ("type", label)
        ax = pl.gene_network(grouped, genes=["g0"], label=label)
        assert ax.get_title("left") == pl.gene_network(network, genes=["g0"]).get_title("left")
        assert ax.get_title("left").startswith(f"{label}: ")
    of_all = nw.stored_network(grouped).edges
    pd.testing.assert_frame_equal(of_all, whole.edges, check_dtype=False)
    with pytest.raises(ValueError, match=r"no network of 'few'; there are those of 'B', 'T/NK'"):
        nw.stored_network(grouped, label="few")
    pyplot.close("all")


def test_networks_by_label_that_are_empty_or_of_an_earlier_run(model, data):
    adata, empty = data.copy(), nw.refine_network(model, n_neighbors=3)
    empty = empty._replace(edges=empty.edges.head(0), notes=())
    nw.annotate_network(adata, empty, by_label={"1": empty, "2": empty})
    assert nw.stored_network(adata, label=2).n_edges == 0
    nw.annotate_network(adata, empty)
    with pytest.raises(ValueError, match="gene_network with label_key first"):
        nw.stored_network(adata, label="1")
    with pytest.raises(ValueError, match="label: chooses among networks of an AnnData"):
        pl.network_degree(empty, label="1")


def test_tl_leaves_what_impute_wrote(model, data):

    adata = model.impute(data, copy=True)
    adata.varp["graphsci_graph"] = graph = sparse.csr_matrix((80, 80), dtype=np.float32)
    tl.gene_network(adata, model, n_neighbors=5, control=False, modules=False)
    assert adata.varp["graphsci_graph"] is graph


def test_a_stored_network_is_the_one_that_was_written(refined, model, data, tmp_path):
    adata, modules = data.copy(), nw.find_modules(refined.confident(0.9))
    nw.annotate_network(adata, refined, modules=modules, model=model)
    adata.write_h5ad(tmp_path / "out.h5ad")
    adata = read_h5ad(tmp_path / "out.h5ad")
    found = nw.stored_network(adata)
    pd.testing.assert_frame_equal(found.edges, refined.edges, check_dtype=False)
    assert found.gene_names.tolist() == refined.gene_names.tolist()
    assert (found.parameters, found.notes) == (refined.parameters, refined.notes)
    written = dict(zip(modules["gene"], modules["module"], strict=True))
    stored = nw.stored_modules(adata)
    assert dict(zip(stored["gene"], stored["module"], strict=True)) == written
    nw.annotate_network(adata, refined)  # modules of another network would not be its own
    assert "graphsci_module" not in adata.var
    part = nw.stored_network(adata[:, :10])
    assert set(part.edges["gene_a"]) | set(part.edges["gene_b"]) <= set(data.var_names[:10])
    assert part.adjacency().shape == (10, 10)
    assert nw.stored_modules(data) is None
    with pytest.raises(ValueError, match=r"no network 'x_network'; it has 'graphsci_network'"):
        nw.stored_network(adata, "x")


# --- around genes, and comparison -------------------------------------------------------


def test_around_keeps_the_strongest_partners():
    edges = [("a", "b", 0.9), ("a", "c", 0.8), ("b", "c", 0.7), ("a", "d", 0.6), ("d", "e", 0.5)]
    found = network_of(edges, list("abcde")).around(["a"], max_genes=3)
    assert _pairs(found.edges) == [("a", "b"), ("a", "c"), ("b", "c")]
    with pytest.raises(ValueError, match="'x' not among the 5 genes"):
        network_of(edges, list("abcde")).around(["x"])


def test_around_gives_each_gene_its_turn():
    """A gene of weak relations keeps partners and edges beside one of strong ones."""
    names = ["weak", "w", *(f"s{i}" for i in range(10))]
    edges = [(names[i], names[j], 0.9 - 0.01 * j) for i in range(2, 12) for j in range(i + 1, 12)]
    network = network_of([*edges, ("w", "weak", 0.1)], names)
    found = network.around(["s0", "weak"], max_genes=5)
    assert set(found.gene_names) == {"s0", "s1", "s2", "weak", "w"}
    assert _pairs(found.edges.tail(1)) == [("w", "weak")]
    few = network.around(["s0", "weak"], max_genes=5, max_edges=2)
    assert _pairs(few.edges) == [("s0", "s1"), ("w", "weak")]
    ax = pl.gene_network(network, genes="weak", max_edges=1)
    assert ax.get_title("left") == "2 genes, 1 edges around weak, of 46"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["rise together"]
    pyplot.close("all")


def test_comparison_by_hand():
    names = list("abcd")
    known = graph_from_edges([("a", "b"), ("b", "c"), ("c", "d")], gene_names=names)
    weights = np.zeros((4, 4))
    for i, j, w in ((0, 1, 0.9), (0, 2, 0.8), (1, 2, -0.7)):
        weights[i, j] = weights[j, i] = w
    found = nw.compare_networks({"mine": sparse.csr_matrix(weights)}, known, n_edges=2).loc["mine"]
    assert found["precision"] == 0.5
    assert found["recall"] == pytest.approx(1 / 3)
    assert found["early_precision"] == pytest.approx(2 / 3)
    assert found["chance"] == 0.5
    # expected hits: k_a k_b / 6 + k_a k_c / 6 = 2/3 of 2 edges; half a hit is added
    assert found["odds_ratio"] == pytest.approx(1 / ((2 / 3 + 0.5) / (2 - 2 / 3 + 0.5)))
    upper = np.triu_indices(4, 1)
    truth = known.adjacency.toarray()[upper] != 0
    assert found["auprc"] == pytest.approx(average_precision_score(truth, np.abs(weights)[upper]))


def test_comparison_above_a_threshold():
    """The paper's precision at 0.5: of the edges at least so large, whatever their number."""
    known = graph_from_edges([("a", "b"), ("b", "c"), ("c", "d")], gene_names=list("abcd"))
    edges = {"gene_a": list("abac"), "gene_b": list("bccd"), "weight": [0.9, 0.5, 0.6, 0.4]}
    graph = graph_from_edges(pd.DataFrame(edges), gene_names=list("abcd"))
    found = nw.compare_networks({"mine": graph}, known).loc["mine"]
    assert (found["n_above"], found["precision_above"]) == (3, pytest.approx(2 / 3))
    strict = nw.compare_networks({"mine": graph}, known, threshold=0.95).loc["mine"]
    assert strict["n_above"] == 0
    assert np.isnan(strict["precision_above"])
    pd.testing.assert_series_equal(strict[:7], found[:7])


def test_comparison_refuses():
    known = graph_from_edges([("a", "b")], gene_names=list("ab"))
    for weights, said in (([[0, 0], [0, 0]], "no edge"), ([[0, np.nan], [np.nan, 0]], "finite")):
        with pytest.raises(ValueError, match=f"'x' has .*{said}"):
            nw.compare_networks({"x": sparse.csr_matrix(weights)}, known)
    with pytest.raises(ValueError, match="n_edges: got -2"):
        nw.compare_networks({"x": known}, known, n_edges=-2)
    with pytest.raises(ValueError, match="'x' has other genes than the known one"):
        nw.compare_networks({"x": known._replace(gene_names=np.array(["b", "a"]))}, known)
    with pytest.raises(ValueError, match="networks: got none"):
        nw.compare_networks({}, known)
    with pytest.raises(ValueError, match=r"'x' has shape \(3, 3\), expected \(2, 2\)"):
        nw.compare_networks({"x": sparse.csr_matrix((3, 3))}, known)


# --- bad requests -----------------------------------------------------------------------


def test_bad_requests(model, data, trained):
    with pytest.raises(ValueError, match="n_neighbors: got -1, expected a whole"):
        nw.refine_network(model, data, n_neighbors=-1)
    with pytest.raises(ValueError, match=r"n_neighbors: got 2\.5"):
        nw.refine_network(model, data, n_neighbors=2.5)
    with pytest.raises(TypeError, match="prior: got str, expected a GeneGraph or a table"):
        nw.refine_network(model, data, prior="string.tsv")
    with pytest.raises(ValueError, match="trained on other genes"):
        nw.refine_network(model, data, models=[trained("nb")])
    with pytest.raises(ValueError, match="one boolean for each of its cells"):
        nw.refine_network(model, data, cells=np.ones(3, bool))
    human = pd.DataFrame({"gene_a": ["TP53"], "gene_b": ["MYC"]})
    with pytest.raises(ValueError, match="genes of the data"):
        nw.refine_network(model, data, prior=human)
    with pytest.raises(ValueError, match=r"min_confidence must be in \[0, 1\]"):
        nw.refine_network(model, data).confident(2)
    with pytest.raises(ValueError, match="expected 2 to"):
        nw.train_control(model, data, n_decoys=1000)


# --- PIDC as the initial graph ----------------------------------------------------------


def test_pidc_is_a_source_of_the_initial_graph(data):
    options = OPTIONS | {"graph": "pidc", "graph_top_k": 3, "max_epochs": 2}
    graph = GraphSCI(**options).fit(data).gene_graph
    assert graph.source == "pidc"
    edges = graph.edge_table().nlargest(20, "weight")
    assert np.mean([programme(a) == programme(b) != 2 for a, b in _pairs(edges)]) > 0.8


def test_pidc_refuses_many_genes_before_training():
    rng = np.random.default_rng(0)
    wide = AnnData(sparse.csr_matrix(rng.poisson(5.0, (12, 5001)).astype(np.float32)))
    heard = []
    with pytest.raises(ValueError, match=r"5,?001 genes|at most 5,?000"):
        GraphSCI(graph="pidc", likelihood="nb").fit(wide, progress=lambda *r: heard.append(r))
    assert not heard


def short_fit(data, gene_graph=None, **options):
    return GraphSCI(**OPTIONS | {"max_epochs": 2} | options).fit(data, gene_graph=gene_graph)


@pytest.mark.parametrize("source", ["table", "pearson", "other limits"])
def test_control_keeps_a_users_network(data, source):
    """Whatever it was made by: the control of a model is trained with the same graph."""
    if source == "table":
        given = pd.DataFrame({"gene_a": ["g0", "g40"], "gene_b": ["g1", "g41"]})
        model = short_fit(data, given)
    else:
        given = correlation_graph(
            log_normalize(data.X, median_library_size=fit_median_library_size(data.X)),
            gene_names=data.var_names,
            top_k=2,
        )
        model = short_fit(data, given, graph="noise" if source == "pearson" else "pearson")
    edges = _pairs(model.gene_graph.edge_table())
    twin = nw.train_control(model, data, n_decoys=10)
    assert _pairs(twin.model.gene_graph.edge_table()) == edges
    assert len(twin.decoys) == 10
    assert model.fitted.spec.graph_given
    assert twin.model.fitted.spec.graph_given


def test_a_users_graph_is_told_from_a_computed_one(data, tmp_path):
    model = short_fit(data)
    spec = model.fitted.spec
    assert not spec.graph_given
    twin = nw.train_control(model, data, n_decoys=10)
    assert not twin.model.fitted.spec.graph_given
    model.save(tmp_path / "model")
    assert not GraphSCI.load(tmp_path / "model").fitted.spec.graph_given
    for graph in ("none", "pearson", "coexpressed", "pidc"):
        assert not short_fit(data, graph=graph).fitted.spec.graph_given


# --- pictures ---------------------------------------------------------------------------


def test_pictures(refined, model, data):
    modules = nw.find_modules(refined.confident(0.9))
    ax = pl.gene_network(refined, genes=["g0", "g31"], modules=modules, max_genes=12)
    assert {"g0", "g31"} <= {text.get_text() for text in ax.texts}
    assert len(ax.texts) <= 12
    assert "80 genes connected" in pl.network_degree(refined).get_title("left")
    adata = model.impute(data, copy=True)
    nw.annotate_network(adata, refined, modules=modules)
    assert "80 genes connected" in pl.network_degree(adata).get_title("left")
    again = pl.gene_network(adata, genes=["g0", "g31"], max_genes=12)
    assert again.get_title("left") == ax.get_title("left")
    labels = [[text.get_text() for text in a.get_legend().get_texts()] for a in (ax, again)]
    assert labels[0] == labels[1] != []
    figure = pl.module_heatmap(adata, modules)
    image = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.diag(image), 1, atol=1e-6)
    pyplot.close("all")


def test_every_module_of_a_picture_has_a_colour(refined):
    modules = pd.DataFrame({"gene": [f"g{i}" for i in range(80)], "module": np.arange(80) % 8})
    ax = pl.gene_network(refined, modules=modules, max_genes=80, max_edges=10_000)
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert [f"module {n}" for n in range(8)] == [name for name in named if "module" in name]
    pyplot.close("all")


def test_a_picture_of_many_chosen_genes(refined, tmp_path):
    """More than a picture has by default."""
    genes = tuple(f"g{i}" for i in range(60))
    network_job._draw(refined.around(genes, max_genes=60), None, genes, tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file()


def test_pictures_refuse(refined, data):
    with pytest.raises(ValueError, match="genes: got 3, expected at most max_genes, 2"):
        pl.gene_network(refined, genes=["g0", "g1", "g2"], max_genes=2)
    with pytest.raises(ValueError, match="max_genes: got 500, expected 2 to 80"):
        pl.gene_network(refined, max_genes=500)
    nothing = refined._replace(edges=refined.edges.head(0))
    for draw in (pl.gene_network, pl.network_degree):
        with pytest.raises(ValueError, match="no network 'graphsci_network'; it has nothing"):
            draw(data)
    with pytest.raises(ValueError, match="no edge to draw"):
        pl.gene_network(nothing)
    with pytest.raises(ValueError, match="no edge, so no degrees"):
        pl.network_degree(nothing)
    with pytest.raises(ValueError, match="at least two genes of adata"):
        pl.module_heatmap(data, pd.DataFrame({"gene": ["x"], "module": [0]}))


def test_a_network_shows_its_size_and_its_strongest_edges(refined):
    first, second = repr(refined).splitlines()
    edges = refined.edges
    sure = (edges["confidence"] >= 0.9).sum()
    assert first.startswith(f"GeneNetwork: {len(edges):,} edges (")
    assert f"; {sure:,} of confidence 0.9 or more) among " in first
    assert first.endswith(f"of {len(refined.gene_names):,} genes")
    assert second.startswith(f"strongest: {edges['gene_a'][0]} - {edges['gene_b'][0]} (")
    empty = repr(refined._replace(edges=edges.iloc[:0]))
    assert empty.startswith("GeneNetwork: 0 edges (0 new; confidence unknown) among 0 of ")
    assert "strongest: none;" in empty


# --- interruptions ----------------------------------------------------------------------


def interrupted_after(n_epochs):
    """A progress that presses Ctrl-C when so many epochs are done."""

    def progress(record, *_):
        if record.epoch >= n_epochs:
            raise KeyboardInterrupt

    return progress


def test_half_a_control_is_none(model, data):
    """Decoys that are hardly fitted would let three times as many edges pass."""
    with pytest.raises(KeyboardInterrupt):
        nw.train_control(model, data, progress=interrupted_after(3))


def test_a_network_of_half_a_model_says_so(data):
    half = GraphSCI(**OPTIONS).fit(data, progress=interrupted_after(3))
    assert not half.fitted.is_whole
    [note] = [n for n in nw.refine_network(half, data).notes if "interrupted" in n]
    assert note.startswith("training of the model was interrupted after 3 epochs")


def test_half_a_further_model_is_none(data, monkeypatch):
    seeds, fit = [], GraphSCI.fit

    def second_is_interrupted(self, *args, **options):
        seeds.append(self.config.seed)
        if len(seeds) == 2:
            options["progress"] = interrupted_after(1)
        return fit(self, *args, **options)

    monkeypatch.setattr(GraphSCI, "fit", second_is_interrupted)
    search = Search(
        where={},
        prior=None,
        n_neighbors=5,
        control=False,
        modules=False,
        min_confidence=None,
        n_models=3,
    )
    with pytest.raises(KeyboardInterrupt):
        search.run(data, Config(**OPTIONS), None, gene_graph=None, log=print, progress=None)
    assert len(seeds) == 2  # at once, without training the third
