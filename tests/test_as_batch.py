"""Estimates as of a common batch: known factors, worked by hand, one's own batch, errors."""

import json
from functools import lru_cache

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from typer.testing import CliRunner

from graphsci import GraphSCI, cli, estimates, tl
from graphsci._imputing.as_batch import in_batch, log_mean_variance
from graphsci.nn.model_parts import CellBlock
from graphsci.predictions import as_csr

KEY = {"batch_key": "batch"}
BOTH = {"estimates": ("mean", "denoised"), "interval": 0.9}
MATRICES = ("mean", "denoised", "denoised_sd", "denoised_lower", "denoised_upper")


@lru_cache
def draw_factors(sd: float = 0.25) -> tuple[AnnData, np.ndarray]:
    """400 cells of two types in two batches that differ by the gene factors alone, which are 2nd.

    Every other cell is of the other batch; Poisson counts, 900 molecules in the mean.
    """
    rng = np.random.default_rng(0)
    batch, group = np.tile([0, 1], 200), rng.integers(0, 2, 400)
    profile = rng.lognormal(0, 0.5, 80) * rng.lognormal(0, 0.8, (2, 80))
    factors = np.stack([np.ones(80), rng.lognormal(0, sd, 80)])
    shares = profile[group] * factors[batch]
    shares /= shares.sum(1, keepdims=True)
    counts = rng.poisson(900 * rng.lognormal(0, 0.3, (400, 1)) * shares).astype(np.float32)
    obs = pd.DataFrame(
        {"group": group.astype(str), "batch": [f"b{code}" for code in batch]},
        index=[f"cell{i}" for i in range(400)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(80)])
    return AnnData(counts, obs=obs, var=var), factors[1]


@lru_cache
def of_factors(sd: float = 0.25) -> GraphSCI:
    options = {"likelihood": "nb", "check": False, "seed": 0}
    return GraphSCI(**options).fit(draw_factors(sd)[0], **KEY)


def impute(model: GraphSCI, adata: AnnData, **options) -> AnnData:
    return model.impute(adata, copy=True, **(KEY | BOTH | options))


def differences(adata: AnnData, layer: str, group: str) -> np.ndarray:
    """(genes,) log of the mean in a group's cells of b1 over that in those of b0."""
    ours = adata.obs["group"] == group
    first, second = (
        np.asarray(adata.layers[layer])[ours & (adata.obs["batch"] == batch)].mean(0)
        for batch in ("b0", "b1")
    )
    return np.log(second / first)


# --- what the numbers are -------------------------------------------------------------


@pytest.mark.parametrize("layer", ["mean", "denoised"])
def test_batches_that_differ_by_gene_factors_agree_as_of_one(layer):
    adata, factors = draw_factors()
    truth = np.log(factors)
    own, *named = (
        impute(of_factors(), adata, depth="common", as_batch=name) for name in (None, "b0", "b1")
    )
    for group in ("0", "1"):
        assert np.polyfit(truth, differences(own, layer, group), 1)[0] == pytest.approx(1, abs=0.1)
        for out in named:
            left = differences(out, layer, group)
            assert abs(np.polyfit(truth, left, 1)[0]) < 0.1
            assert left.std() < 0.35 * truth.std()


def test_it_is_the_network_in_the_other_batch_worked_by_hand(trained, toy):
    model = trained("batches")
    genes = list(model.gene_names)
    toy = toy[toy[:, genes].X.sum(1) > 0, genes].copy()
    own = impute(model, toy)
    with pytest.warns(UserWarning, match="still differ"):
        out = impute(model, toy, as_batch="b1")
    network = model.fitted.network
    z = network.uncertainty.states.to_z(torch.as_tensor(own.obsm["X_graphsci"]))
    parts = (z, network.gene_embedding(), network.bias, network.batch_offset[1])
    z, loadings, bias, offset = (part.detach().double().numpy() for part in parts)
    weight, share = network.state_weight.numpy(), network.mean_share[1].numpy()
    exp = weight * np.exp(z @ loadings.T + bias + offset)
    rho = (1 - weight) * share + (weight * share).sum() * exp / exp.sum(1, keepdims=True)
    counts = toy.X.astype(float)
    mean = rho * counts.sum(1, keepdims=True)
    np.testing.assert_allclose(out.layers["mean"], mean, rtol=1e-3)
    theta = network.inverse_dispersion.detach().double().numpy()
    theta = model.certainty(toy, **KEY)[:, None] ** weight * theta
    denoised = (counts + theta) * mean / (own.layers["mean"] + theta)
    np.testing.assert_allclose(out.layers["denoised"], denoised, rtol=1e-3)


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_naming_a_cells_own_batch_changes_no_bit(toy, likelihood):
    model = GraphSCI(max_epochs=5, check=False, likelihood=likelihood, seed=1).fit(toy, **KEY)
    own = impute(model, toy)
    for batch in ("b0", "b1"):
        named, cells = impute(model, toy, as_batch=batch), (toy.obs["batch"] == batch).to_numpy()
        for layer in MATRICES:
            here, there = own.layers[layer], named.layers[layer]
            assert np.isfinite(there).all()
            np.testing.assert_array_equal(there[cells], here[cells])
            assert not np.array_equal(there[~cells], here[~cells])
        assert (named.layers["denoised_lower"] <= named.layers["denoised_upper"]).all()
        for slot in ("graphsci_library", "graphsci_certainty", "graphsci_misfit"):
            np.testing.assert_array_equal(own.obs[slot], named.obs[slot])
        assert np.array_equal(own.obsm["X_graphsci"], named.obsm["X_graphsci"])


@pytest.mark.parametrize("dropped", [False, True])
def test_the_variance_is_that_of_changes_in_both_levels(dropped):
    """Law of total variance to first order, its derivatives taken by small steps."""
    rng = np.random.default_rng(0)
    x, mu, theta, p = rng.poisson(2.0, 200), *rng.gamma(2.0, 1.0, (2, 200)), rng.random(200)
    x, p = np.where(rng.random(200) < 0.5, 0, x), p * dropped
    p = np.where(x == 0, p, 0.0)
    of_own, of_named, shared = 0.1 * rng.random((3, 200)) + 0.01
    times = rng.gamma(2.0, 1.0, 200)

    def mean(own: float = 0.0, named: float = 0.0) -> np.ndarray:
        here, there = mu * np.exp(own), mu * times * np.exp(named)
        return (1 - p) * (x + theta) * there / (here + theta) + p * there

    step = 1e-6
    by_own, by_named, by_both = (
        (mean(*(step * d for d in change)) - mean(*(-step * d for d in change))) / (2 * step)
        for change in ((1, 0), (0, 1), (1, 1))
    )
    tensors = (torch.as_tensor(part, dtype=torch.float64) for part in (x, mu, theta, p))
    counts, mean_, theta_, p_ = tensors
    rate = estimates.Posterior(
        counts, mean_, theta_, p_ if dropped else None, torch.as_tensor(of_own + shared)
    )
    known = estimates.denoised_sd(rate._replace(log_mean_variance=None)).numpy()
    moved = log_mean_variance(rate, torch.as_tensor(of_own), torch.as_tensor(of_named))
    found = estimates.denoised_sd(rate._replace(log_mean_variance=moved)).numpy()
    expected = (times * known) ** 2
    for part, variance in ((by_own, of_own), (by_named, of_named), (by_both, shared)):
        expected = expected + part**2 * variance
    np.testing.assert_allclose((times * found) ** 2, expected, rtol=1e-5)


def test_means_next_to_nothing_stay_finite(trained):
    network, nothing = trained("batches").fitted.network, torch.zeros(0)
    z = torch.zeros(2, 32)
    cells = CellBlock(nothing, nothing, nothing, torch.ones(2), torch.tensor([0, 1]))
    genes = torch.arange(3)
    mean = torch.tensor([[0.0, 1e-40, 1.0]] * 2)
    counts, theta = torch.tensor([[0.0, 50.0, 0.0]] * 2), torch.full((2, 3), 1e-4)
    rate = estimates.Posterior(counts, mean, theta, None, torch.full((2, 3), 2.0))
    with torch.inference_mode():
        there, moved = in_batch(network, cells, z, 1, rate, genes)
        values = there.of(estimates.compute_estimates(moved, MATRICES, interval_level=0.9))
    for name, value in values.items():
        assert np.isfinite(value).all(), name


def test_a_gene_that_a_batch_lacks_is_next_to_nothing_there(toy):
    lacks = (toy.obs["batch"] == "b1").to_numpy()
    gene = int(np.argmax(toy.X.sum(0)))
    toy.X[lacks, gene] = 0
    model = GraphSCI(check=False, likelihood="nb", seed=1).fit(toy, **KEY)
    with pytest.warns(UserWarning, match="still differ"):
        own, with_it, without = (impute(model, toy, as_batch=b) for b in (None, "b0", "b1"))
    for out in (with_it, without):
        assert all(np.isfinite(out.layers[layer]).all() for layer in MATRICES)
    assert (with_it.layers["denoised"] > own.layers["denoised"])[lacks, gene].mean() > 0.9
    assert without.layers["mean"][~lacks, gene].mean() < own.layers["mean"][~lacks, gene].mean()


def test_reads_are_divided_in_both_batches(toy):
    """Four reads of each molecule: four times the estimates of the molecules."""
    reads = toy.copy()
    reads.X = reads.X * 4
    options = {"max_epochs": 3, "check": False, "likelihood": "nb", "seed": 1}
    ours, theirs = (
        impute(GraphSCI(copies=copies, **options).fit(data, **KEY), data, as_batch="b0")
        for data, copies in ((toy, 1), (reads, 4))
    )
    for layer in MATRICES:
        np.testing.assert_allclose(theirs.layers[layer], 4 * ours.layers[layer], rtol=1e-4)


def test_what_the_states_took_up_of_the_batches_is_told():
    adata, _ = draw_factors(1.2)
    with pytest.warns(UserWarning, match=r"As of batch 'b1' the mean profiles .* still differ"):
        out = impute(of_factors(1.2), adata, as_batch="b1")
    assert any("still differ" in note for note in out.uns["graphsci"]["notes"])
    out = impute(of_factors(), draw_factors()[0], as_batch="b1")
    assert not any("still differ" in note for note in out.uns["graphsci"]["notes"])


# --- where it is asked for, and said --------------------------------------------------


def run(*args, exit_code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    assert result.exit_code == exit_code, (result.output, result.exception)
    return " ".join((result.stdout + " " + result.stderr).split())


def test_memory_disk_and_command_line_give_the_same(tmp_path):
    adata, model = draw_factors()[0].copy(), of_factors()
    source, out = tmp_path / "counts.h5ad", tmp_path / "out.h5ad"
    adata.X = as_csr(adata.X).astype(np.float32)
    adata.write_h5ad(source)
    model.save(tmp_path / "model")
    asked = [*("--batch-key", "batch", "--as-batch", "b1", "--interval", "0.9")]
    asked += ["--estimate", "mean", "--estimate", "denoised"]
    memory = impute(model, adata, as_batch="b1")
    blocks = [*model.iterate_estimates(adata, **KEY, **BOTH, as_batch="b1")]
    for flag in ("--backed", "--no-backed"):
        said = run("apply", tmp_path / "model", source, "-o", out, flag, *asked, "--overwrite")
        assert "as of batch 'b1'" in said
        disk = anndata.read_h5ad(out)
        for layer in MATRICES:
            np.testing.assert_array_equal(disk.layers[layer], memory.layers[layer])
            there = np.concatenate([block.values[layer] for block in blocks])
            np.testing.assert_array_equal(there, memory.layers[layer])
        record = disk.uns["graphsci"]
        assert record["as_batch"] == record["estimates"]["denoised"]["as_batch"] == "b1"
        assert "as of batch 'b1'" in record["estimates"]["mean"]["unit"]
    assert "as of batch 'b1'" in run("info", out)
    run("apply", tmp_path / "model", source, "-o", out, "--batch-key", "batch", "--overwrite")
    record = anndata.read_h5ad(out).uns["graphsci"]
    assert "as_batch" not in record
    assert record["estimates"]["denoised"]["unit"].endswith("in each cell's own batch")


def test_training_and_estimates_in_one_step(toy, tmp_path):
    options = {"max_epochs": 3, "check": False, "seed": 0}
    out = tl.impute(toy, as_batch="b0", copy=True, **KEY, **options)
    model = GraphSCI(**options).fit(toy, **KEY)
    with_it = model.impute(toy, as_batch="b0", copy=True, **KEY)
    assert np.array_equal(out.layers["denoised"], with_it.layers["denoised"])
    toy.write_h5ad(tmp_path / "in.h5ad")
    asked = ("--batch-key", "batch", "--as-batch", "b0", "--max-epochs", 3, "--no-check")
    page, summary = tmp_path / "report.html", tmp_path / "run.json"
    results = ("--report", page, "--json", summary)
    run("impute", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad", *asked, *results)
    sizes = toy.obs["batch"].value_counts().to_dict()
    assert json.loads(summary.read_text())["batch_cells"] == sizes
    named = ", ".join(f"{name} ({sizes[name]} cells)" for name in ("b0", "b1"))
    assert f"Batches: those of obs/batch, {named}." in page.read_text()
    assert "Estimates of all cells, in the figures too, are as of batch b0." in page.read_text()
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert np.array_equal(out.layers["denoised"], written.layers["denoised"])


def test_numbers_name_batches_too(toy):
    toy.obs["batch"] = (toy.obs["batch"] == "b1").astype(int)
    model = GraphSCI(max_epochs=1, check=False, graph="none").fit(toy, **KEY)
    one, other = (model.impute(toy, as_batch=name, copy=True, **KEY) for name in (1, "1"))
    assert np.array_equal(one.layers["denoised"], other.layers["denoised"])


def test_the_check_is_not_of_estimates_as_of_a_batch(toy):
    model = GraphSCI(max_epochs=3, graph="none", seed=0).fit(toy, **KEY)
    said = (
        "The check is of the estimate 'denoised' in each cell's own batch: of 'mean' and "
        "'denoised' as of batch 'b1' nothing was tested."
    )
    assert said in impute(model, toy, as_batch="b1").uns["graphsci"]["notes"]


# --- errors ---------------------------------------------------------------------------


def test_an_unknown_batch_is_refused_with_the_known_ones(trained, toy):
    said = r"no batch 'B1' \(similar: b1\); the model knows b0, b1\."
    with pytest.raises(ValueError, match=said):
        trained("batches").impute(toy, as_batch="B1", **KEY)
    with pytest.raises(ValueError, match=said):
        trained("batches").iterate_estimates(toy, as_batch="B1", **KEY)


@pytest.mark.parametrize("name", ["nb", "paper"])
def test_a_model_without_batches_has_none_to_name(trained, toy, name):
    with pytest.raises(ValueError, match=r"got 'b0', but the model knows of no batches. Train"):
        trained(name).impute(toy, as_batch="b0")


@pytest.mark.parametrize("name", ["imputed", "imputed_median"])
def test_estimates_that_keep_counts_are_refused(trained, toy, name):
    with pytest.raises(ValueError, match=rf"as_batch \(--as-batch\): '{name}' keeps the measured"):
        trained("batches").impute(toy, as_batch="b0", estimates=("denoised", name), **KEY)


def test_what_is_wrong_is_said_before_training(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("graphsci.training.fitting.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(ValueError, match="no batch 'b7'"):
        tl.impute(toy, as_batch="b7", **KEY)
    with pytest.raises(ValueError, match="knows of no batches"):
        tl.impute(toy, as_batch="b0")
    toy.write_h5ad(tmp_path / "in.h5ad")
    plain = ("impute", tmp_path / "in.h5ad", "-o", tmp_path / "out.h5ad", "--as-batch", "b7")
    assert "no batch 'b7'" in run(*plain, "--batch-key", "batch", exit_code=2)
    assert "knows of no batches" in run(*plain, exit_code=2)
    kept = run(*plain, "--batch-key", "batch", "--estimate", "imputed", exit_code=2)
    assert "'imputed' keeps the measured counts" in kept
