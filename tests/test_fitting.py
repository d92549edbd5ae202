"""Fitting: nothing that is held out may reach the model; every path of options trains."""

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse, stats
from sklearn import metrics

from conftest import EMPTY_CELL, UNDETECTED_GENE
from graphsci import GraphSCI
from graphsci.config import Config, preset
from graphsci.gene_graph.graph import graph_from_edges, graph_from_matrix
from graphsci.nn import cell_blocks
from graphsci.preprocessing import extract_counts
from graphsci.simulation import SplatParams, simulate_splat
from graphsci.training import blocks, checking, fitting, training_graph

CELLS = np.delete(np.arange(120), EMPTY_CELL)
GENES = np.delete(np.arange(60), UNDETECTED_GENE)


def fit(adata: AnnData, **options) -> fitting.Fitted:
    batch_key, graph = options.pop("batch_key", None), options.pop("user_graph", None)
    data = extract_counts(adata, batch_key=batch_key, allow_fractional=True)
    options = {"max_epochs": 4, **options}
    config = preset(options.pop("preset", "default"), **options)
    return fitting.fit(data, config, user_graph=graph)


def weights(fitted: fitting.Fitted) -> dict[str, torch.Tensor]:
    return fitted.network.state_dict()


def same_weights(one: fitting.Fitted, other: fitting.Fitted) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_graph_that_does_not_fit_in_training_is_refused_before_it(toy, monkeypatch):
    """44 bulk samples x 16,000 genes have 16 million edges, which took 22 GiB."""
    monkeypatch.setattr("graphsci.io._memory.available_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"edges, with which the preset 'paper' takes about"):
        fit(toy, preset="paper")
    fit(toy, preset="paper", graph="none")
    fit(toy)


# --- nothing leaks --------------------------------------------------------------------


class Split:
    """Stands for `thin_counts`: remembers its result, or gives one that is known already."""

    def __init__(self, given=None):
        self.given, self.real = given, blocks.thin_counts

    def __call__(self, counts, *, fraction, rng):
        self.kept, self.held_out = self.real(counts, fraction=fraction, rng=rng)
        if self.given is not None:
            self.kept, self.held_out = self.given
            assert (self.kept + self.held_out != counts).nnz == 0
        return self.kept, self.held_out


def fit_split(monkeypatch, adata, given=None, **options):
    """Fit with a known split; return the model, the split and what the judge was told."""
    split, heard, real_judge = Split(given), {}, checking.judge

    def judge(**arguments):
        heard.update(arguments)
        return real_judge(**arguments)

    with monkeypatch.context() as patch:
        patch.setattr(blocks, "thin_counts", split)
        patch.setattr(checking, "judge", judge)
        fitted = fit(adata, **options)
    return fitted, split, heard


def with_more_held_out(toy, split, cells, times):
    """Return data with the same kept part and ``times`` the held-out molecules of ``cells``."""
    scale = np.ones(split.kept.shape[0], dtype=np.float32)
    scale[cells] = times
    held_out = sparse.csr_matrix(sparse.diags_array(scale) @ split.held_out)
    other = toy.copy()
    other.X[np.ix_(CELLS, GENES)] = (split.kept + held_out).toarray()
    return other, (split.kept, held_out)


@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize("graph", ["pearson", "noise"])
def test_what_the_judging_cells_held_out_reaches_nothing_that_is_learned(
    monkeypatch, toy, name, graph
):
    """Two data sets with the same kept part, one with a hundred times the held-out molecules.

    What a molecule is must be known before molecules are held out: copies are given.
    """
    options = {"preset": name, "graph": graph, "likelihood": "auto", "copies": 1.0}
    plain, split, heard = fit_split(monkeypatch, toy, **options)
    assert 0 < len(heard["cells"]) < 119
    other, parts = with_more_held_out(toy, split, heard["cells"], 100)
    assert other.X.sum() > 5 * toy.X.sum()
    changed, _, _ = fit_split(monkeypatch, other, parts, **options)
    assert same_weights(plain, changed)
    one, two = plain.spec, changed.spec
    assert (one.graph.adjacency != two.graph.adjacency).nnz == 0
    assert one.median_library == two.median_library
    assert np.array_equal(one.gene_proportions, two.gene_proportions)
    learned = [note for note in changed.notes if "these look like reads" not in note]
    assert list(plain.notes) == learned, "the likelihood's evidence and the graph"
    assert plain.best_epoch == changed.best_epoch
    without_time = lambda f: [record._replace(seconds=0) for record in f.history]  # noqa: E731
    assert without_time(plain) == without_time(changed)
    assert plain.verdict != changed.verdict, "the verdict is what it is held out for"


def test_without_deciding_cells_no_held_out_molecule_is_seen(monkeypatch, toy):
    options = {"validation_fraction": 0.0}
    plain, split, heard = fit_split(monkeypatch, toy, **options)
    assert len(heard["cells"]) == 119
    other, parts = with_more_held_out(toy, split, heard["cells"], 50)
    changed, _, _ = fit_split(monkeypatch, other, parts, **options)
    assert same_weights(plain, changed)
    assert all(np.isnan(record.validation_loss) for record in plain.history)


def test_deciding_and_judging_cells_are_different_cells(monkeypatch, toy):
    """The deciding cells' held-out molecules are heard when it comes to stopping, only there."""
    plain, split, heard = fit_split(monkeypatch, toy)
    deciding = np.setdiff1d(np.arange(119), heard["cells"])
    assert len(deciding) == 20
    other, parts = with_more_held_out(toy, split, deciding, 3)
    changed, _, _ = fit_split(monkeypatch, other, parts)
    losses = [[r.training_loss for r in f.history] for f in (plain, changed)]
    assert losses[0] == losses[1]
    assert plain.history[0].validation_loss != changed.history[0].validation_loss


def test_the_verdict_predicts_from_the_kept_part_alone(monkeypatch, toy):
    _, split, heard = fit_split(monkeypatch, toy)
    assert (heard["kept"] != split.kept).nnz == 0
    assert (heard["held_out"] != split.held_out).nnz == 0
    assert heard["kept"].sum() + heard["held_out"].sum() == toy.X.sum()
    ours = np.concatenate([block for _, block in heard["ours"]()])
    assert ours.shape == (119, 59)
    assert np.isfinite(ours).all()
    assert (ours >= 0).all()
    # a ninth of the kept molecules is expected to have been held out
    assert ours.sum() == pytest.approx(split.kept.sum() / 9, rel=0.1)


@pytest.mark.parametrize("name", ["nb", "zinb"])
def test_held_out_molecules_are_predicted_by_the_formula(trained, toy, name):
    """The kept count k updates the rate; dropout acts on the count before it is split."""
    from graphsci.nn.cell_blocks import cell_block

    network, f = trained(name).fitted.network, 0.2
    kept = sparse.csr_matrix(toy.X[np.ix_(CELLS, GENES)])
    batch, device = np.zeros(119, np.int64), network.log_theta.device
    some = np.array([3, 0, 118, 50])
    ours = checking.predict_held_out(network, kept, batch, some, fraction=f, device=device)
    with torch.no_grad():
        cells = cell_block(kept, batch, np.arange(119), device)
        full = network.decode(network.encode(cells), cells.library / (1 - f), cells.batch)
    mu = (1 - f) * full.mean.double().numpy(force=True)
    theta, k = full.inverse_dispersion.double().numpy(force=True), kept.toarray()
    rate = (k + theta) * mu / (mu + theta)
    if name == "zinb":
        pi = torch.sigmoid(full.zero_inflation_logits).double().numpy(force=True)
        zero = stats.nbinom.pmf(0, theta, theta / (theta + mu))
        rate *= np.where(k == 0, (1 - pi) * zero / (pi + (1 - pi) * zero), 1)
    np.testing.assert_allclose(ours, rate[some] * f / (1 - f), rtol=1e-4, atol=1e-8)


def test_without_the_check_only_the_deciding_cells_pay(toy):
    fitted = fit(toy, check=False)
    assert fitted.verdict is None
    counts = extract_counts(toy).counts
    share = fitted.spec.gene_proportions
    assert share.sum() == pytest.approx(1, rel=1e-6)
    assert np.isfinite([record.validation_loss for record in fitted.history]).all()
    library = np.asarray(counts.sum(1)).ravel()
    full = np.median(library[library > 0])
    assert 0.9 * full < fitted.spec.median_library <= full


# --- determinism ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_seed_decides_and_global_randomness_is_left_alone(toy, name):
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    states = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    first = fit(toy, preset=name, seed=5)
    assert np.array_equal(np.random.get_state()[1], states[0])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[1])
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    assert same_weights(first, fit(toy, preset=name, seed=5))
    other = fit(toy, preset=name, seed=6)
    assert any(
        not torch.equal(value, weights(other)[key])
        for key, value in weights(first).items()
        if value.shape == weights(other)[key].shape
    )
    assert fit(toy, preset=name, seed=5).verdict == first.verdict


def test_counts_are_not_changed(toy):
    before = toy.X.copy()
    data = extract_counts(toy)
    fitting.fit(data, Config(max_epochs=1))
    assert np.array_equal(data.counts.toarray(), before)


# --- what is left out -----------------------------------------------------------------


def test_undetected_genes_and_empty_cells_are_left_out(toy):
    fitted = fit(toy)
    assert fitted.spec.undetected.tolist() == [f"gene{UNDETECTED_GENE}"]
    names = np.delete(np.asarray(toy.var_names), UNDETECTED_GENE)
    assert np.array_equal(fitted.spec.gene_names, names)
    assert fitted.spec.graph.adjacency.shape == (59, 59)
    assert np.array_equal(fitted.spec.graph.gene_names, names)
    assert (fitted.spec.gene_proportions > 0).all()
    notes = " ".join(fitted.notes)
    assert f"cell{EMPTY_CELL}" in notes
    assert f"gene{UNDETECTED_GENE}" in notes
    assert same_weights(fitted, fit(toy[CELLS].copy()))


def test_fractional_counts_are_rounded_at_random_for_training():
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(rng.gamma(1.0, 1.0, (200, 50)).astype(np.float32))
    rounded = blocks.whole_molecules(counts, rng)
    assert np.array_equal(rounded.data, np.rint(rounded.data))
    assert np.abs((rounded - counts).toarray()).max() < 1
    assert rounded.mean() == pytest.approx(counts.mean(), rel=0.02)
    whole = sparse.csr_matrix(np.eye(3, dtype=np.float32))
    assert blocks.whole_molecules(whole, rng) is whole


def test_fractional_counts_train(toy):
    toy.X = toy.X * 0.9
    fitted = fit(toy)
    assert (
        "fractional counts: training used them rounded at random to a neighbouring integer"
    ) in fitted.notes
    assert fitted.verdict is not None
    assert np.isfinite(fitted.history[-1].training_loss)


@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize(("n_cells", "n_genes"), [(20, 60), (3, 10)])
def test_tiny_data_train(draw, name, n_cells, n_genes):
    small = draw(100, n_genes)[10 : 10 + n_cells].copy()
    fitted = fit(small, preset=name, max_epochs=2)
    assert np.isfinite(fitted.history[-1].training_loss)
    if n_cells == 20:
        assert fitted.verdict.n_molecules > 0
    else:  # one cell decides; of the two that are left, one has a molecule held out
        assert fitted.verdict is None
        assert (
            "no verdict: 1 cells with held-out molecules are too few to compare methods "
            "(at least 10)"
        ) in fitted.notes
    assert (
        f"likelihood nb: {n_cells} cells are too few to tell dropout from cell types "
        "(at least 200); choose zinb yourself for reads with dropout"
    ) in fitted.notes


@pytest.mark.parametrize("likelihood", ["nb", "zinb"])
def test_cells_of_one_molecule_train(toy, likelihood):
    """Held out, the molecule leaves an empty cell, among those that decide when to stop, too."""
    counts = toy.X.copy()
    counts[::2] = 0
    counts[::2, 5] = 1
    for seed in range(3):
        fitted = fit(AnnData(counts), max_epochs=3, seed=seed, likelihood=likelihood)
        assert np.isfinite([record.training_loss for record in fitted.history]).all()
        assert np.isfinite([record.validation_loss for record in fitted.history]).all()


def test_what_was_held_out_does_not_change_the_share_dropped():
    """The curve is learned at the depth of what was kept and read at that of all molecules.

    Mean of three data sets; read at the depth of what was kept, they differ by .08.
    """
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        mean = rng.lognormal(0.7, 1.0, 80)
        counts = rng.poisson(mean * rng.gamma(8, 1 / 8, (300, 80)))
        counts[rng.random(counts.shape) < 1 / (1 + mean)] = 0
        counts[0] = np.maximum(counts[0], 1)  # every gene is detected
        adata = AnnData(counts.astype(np.float32))
        block = cell_blocks.cell_block(
            sparse.csr_matrix(adata.X), np.zeros(300, np.int64), slice(None), torch.device("cpu")
        )
        for held_out in (0.05, 0.5):
            options = {"likelihood": "zinb", "max_epochs": 60, "seed": seed, "device": "cpu"}
            fitted = fit(adata, held_out_fraction=held_out, **options)
            with torch.inference_mode():
                logits = fitted.network.expression(block).zero_inflation_logits
            found.append(float(torch.sigmoid(logits).mean()))
    little, much = np.mean(found[::2]), np.mean(found[1::2])
    assert little == pytest.approx(much, abs=0.04)


@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize("source", ["pearson", "noise", "none"])
def test_two_cells_train(draw, name, source):
    small = draw(100, 30)[10:12].copy()
    fitted = fit(small, preset=name, graph=source, max_epochs=2)
    assert np.isfinite(fitted.history[-1].training_loss)
    assert fitted.spec.graph.n_edges == 0, "any two cells correlate perfectly"
    assert fitted.verdict is None
    assert any(
        note.startswith("no verdict: 1 cells with held-out molecules are too few")
        for note in fitted.notes
    )


@pytest.mark.parametrize(("n_cells", "judged"), [(18, False), (19, True)])
def test_ten_judging_cells_are_judged(draw, n_cells, judged):
    """Half of the cells, rounded down, decide when to stop; the others judge."""
    fitted = fit(draw(100, 60)[10 : 10 + n_cells].copy(), graph="none", max_epochs=2)
    assert (fitted.verdict is not None) == judged
    assert any("no verdict" in note for note in fitted.notes) != judged
    if judged:
        assert fitted.verdict.n_cells == 10
        assert np.isfinite([score.z for score in fitted.verdict.scores]).all()


def test_a_missing_verdict_counts_the_cells_with_held_out_molecules(toy, monkeypatch):
    """So few molecules that none was held out: not 'n cells are too few'."""

    def none_held_out(counts, **options):
        return counts, sparse.csr_matrix(counts.shape, dtype=np.float32)

    monkeypatch.setattr(blocks, "thin_counts", none_held_out)
    fitted = fit(toy, max_epochs=1, validation_fraction=0.0)
    assert fitted.verdict is None
    assert any("no verdict: 0 cells with held-out molecules" in note for note in fitted.notes)


def test_an_interrupted_check_keeps_the_model(toy, monkeypatch):
    whole = fit(toy)
    assert not any("no verdict" in note for note in whole.notes)

    def judge(**arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(checking, "judge", judge)
    fitted = fit(toy)
    assert fitted.verdict is None
    assert "no verdict: the check was interrupted; the trained model is kept" in fitted.notes
    assert same_weights(fitted, whole)


def test_single_cell_batches_are_refused_by_name(toy):
    with pytest.raises(ValueError, match=r"batch_size: got 1, expected 0 .* or at least 2 cells"):
        fit(toy, batch_size=1, max_epochs=1)
    assert np.isfinite(fit(toy, batch_size=2, max_epochs=1).history[-1].training_loss)


def test_the_common_depth_counts_all_molecules(toy):
    """Whatever was held out; the network's inputs are normalised to the kept part's median."""
    truth = np.median(toy.X[CELLS].sum(1))
    for options in ({}, {"held_out_fraction": 0.4}, {"check": False}, {"preset": "paper"}):
        assert fit(toy, max_epochs=1, **options).spec.common_depth == truth
    spec = fit(toy, max_epochs=1, held_out_fraction=0.4).spec
    assert spec.median_library == pytest.approx(0.6 * truth, rel=0.1)


# --- gene graphs ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize("source", ["pearson", "coexpressed", "noise", "none"])
def test_every_graph_source_trains(toy, name, source):
    fitted = fit(toy, preset=name, graph=source, max_epochs=2)
    adjacency = fitted.spec.graph.adjacency
    assert abs(adjacency - adjacency.T).nnz == 0
    assert not adjacency.diagonal().any()
    assert (adjacency.nnz == 0) == (source == "none")
    if adjacency.nnz:
        assert abs(adjacency).data.min() > 0.3
    smoothing = "smoothing.gate" in weights(fitted)
    assert smoothing == (name == "default" and source != "none")
    assert np.isfinite(fitted.history[-1].training_loss)
    assert training_graph.describe_graph(fitted.spec.graph) in fitted.notes


def test_pearson_graph_matches_numpy(toy):
    """Edges of eq. 2 on the kept, log-normalised counts; validation off, so kept is all."""
    fitted = fit(toy, graph="pearson", graph_top_k=0, check=False, validation_fraction=0.0)
    counts = np.delete(np.delete(toy.X, EMPTY_CELL, 0), UNDETECTED_GENE, 1)
    library = counts.sum(1, keepdims=True)
    r = np.corrcoef(np.log1p(counts / library * np.median(library)).T)
    np.fill_diagonal(r, 0)
    expected = np.where(np.abs(r) > 0.3, r, 0)
    np.testing.assert_allclose(fitted.spec.graph.adjacency.toarray(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["default", "paper"])
def test_a_users_graph_is_used_as_it_is(toy, name):
    """Edges of the undetected gene go with it; the rest stays, weights and all."""
    names = np.asarray(toy.var_names, dtype=np.str_)
    ends = {"gene_a": ["gene0", "gene1", "gene5"], "gene_b": ["gene1", "gene9", "gene0"]}
    edges = pd.DataFrame({**ends, "weight": [0.5, -2.0, 1.0]})
    graph = graph_from_edges(edges, gene_names=names)
    fitted = fit(toy, preset=name, user_graph=graph)
    table = fitted.spec.graph.edge_table()
    assert table.to_numpy().tolist() == [["gene0", "gene1", 0.5], ["gene1", "gene9", -2.0]]
    if name == "paper":
        assert fitted.network.cell_graph_layer.edges.shape == (2, 59 + 4)
    matrix = graph_from_matrix(graph.adjacency, gene_names=names)
    assert same_weights(fitted, fit(toy, preset=name, user_graph=matrix))


def test_averaging_operator_by_hand():
    """Signed by the correlation, weighted by its absolute value, rows of absolute sum 1."""
    adjacency = sparse.csr_matrix(np.array([[0, 0.6, -0.2], [0.6, 0, 0], [-0.2, 0, 0]]))
    operator = torch.as_tensor(training_graph.averaging_operator(adjacency).toarray())
    truth = torch.tensor([[0, 0.75, -0.25], [1, 0, 0], [-1, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(operator, truth)
    assert training_graph.averaging_operator(sparse.csr_matrix((3, 3))) is None


def test_mask_has_both_directions_and_every_gene_itself():
    adjacency = sparse.csr_matrix(np.array([[0, -0.5, 0], [-0.5, 0, 0], [0, 0, 0]]))
    pairs = set(map(tuple, training_graph.mask_edges(adjacency).T.tolist()))
    assert pairs == {(0, 0), (1, 1), (2, 2), (0, 1), (1, 0)}


# --- likelihoods, batches, devices ----------------------------------------------------


def test_the_likelihood_is_chosen_with_its_reason(draw):
    toy = draw(400)
    fitted = fit(toy, max_epochs=1)
    assert fitted.spec.likelihood == "nb"
    assert any(note.startswith("likelihood nb: zeros match") for note in fitted.notes)
    rng = np.random.default_rng(0)
    toy.X = (toy.X + 4) * (rng.random(toy.shape) > 0.4)
    dropped = fit(toy, max_epochs=1)
    assert dropped.spec.likelihood == "zinb"
    asked = fit(toy, max_epochs=1, likelihood="nb")
    assert asked.spec.likelihood == "nb"
    assert "likelihood nb: as asked" in asked.notes


def test_batch_offsets_find_a_shifted_gene(toy):
    """Gene 0 is ten times higher in one batch, the rest is alike in both.

    Of log 10 = 2.3 the offset takes a third or so, the embedding, which has nothing else to say of
    these cells, the rest; together they are right.
    """
    in_second = (toy.obs["batch"] == "b1").to_numpy()
    rng = np.random.default_rng(0)
    toy.X = rng.poisson(np.tile(rng.gamma(2.0, 2.0, 60), (120, 1))).astype(np.float32)
    toy.X[:, 0] = rng.poisson(np.where(in_second, 20.0, 2.0))
    fitted = fit(toy, batch_key="batch", max_epochs=60)
    assert fitted.spec.batch_names == ("b0", "b1")
    offset = weights(fitted)["batch_offset"]
    shift = offset[1] - offset[0]
    assert 0.5 < shift[0] < 2.5
    assert shift[0] > 2 * shift[1:].abs().max()
    model = GraphSCI()
    model._fitted = fitted
    model.impute(toy, estimates=["mean"], batch_key="batch")
    mean = toy.layers["mean"][:, 0]
    assert mean[in_second].mean() / mean[~in_second].mean() == pytest.approx(10, rel=0.1)
    without = weights(fit(toy))["batch_offset"]
    assert not without.any()


def test_what_a_batch_lacks_is_not_invented_there(draw):
    """A tenth of the genes has no count in one of two batches, as after an outer join."""
    toy = draw(300)
    lacking, second = np.arange(0, 60, 10), (toy.obs["batch"] == "b1").to_numpy()
    toy.X[np.ix_(second, lacking)] = 0
    model = GraphSCI(check=False, likelihood="nb").fit(toy, batch_key="batch")
    mean = model.impute(toy, batch_key="batch", estimates=["mean"], copy=True).layers["mean"]
    there, here = (mean[cells][:, lacking].sum(0) for cells in (second, ~second))
    assert (there < 0.1 * here).all()


def test_one_batch_is_no_batch(toy):
    toy.obs["batch"] = "only"
    assert fit(toy, batch_key="batch").spec.batch_names == ()


def test_bfloat16_learns_what_float32_learns(toy):
    half, full = (fit(toy, precision=p, max_epochs=10) for p in ("bf16", "float32"))
    assert not same_weights(half, full)
    last = [fitted.history[-1].validation_loss for fitted in (half, full)]
    assert last[0] == pytest.approx(last[1], rel=0.02)
    assert all(value.dtype != torch.bfloat16 for value in weights(half).values())


def test_stages_are_told(toy):
    lines, epochs = [], []
    fitting.fit(
        extract_counts(toy),
        Config(max_epochs=2),
        log=lines.append,
        progress=lambda record, n: epochs.append((record.epoch, n)),
    )
    assert epochs == [(1, 2), (2, 2)]
    assert lines[0].startswith("likelihood ")
    assert lines[1].startswith("gene graph (")
    assert lines[-1] == "checking against held-out molecules"


# --- it learns ------------------------------------------------------------------------


def test_the_default_learns_the_cell_types(toy):
    """Closer to the rates that made the counts than the counts and the gene means are."""

    model = GraphSCI(max_epochs=60).fit(toy)
    out = model.impute(toy, copy=True).layers["denoised"]
    at = np.ix_(CELLS, GENES)
    error = lambda x: np.abs(np.log1p(x[at]) - np.log1p(toy.layers["rate"][at])).mean()  # noqa: E731
    library = toy.X.sum(1, keepdims=True)
    means = library * toy.X.sum(0) / toy.X.sum()
    assert error(out) < 0.8 * error(toy.X)
    assert error(out) < 0.8 * error(means)
    losses = model.history["validation_loss"]
    assert losses.min() < losses[0]


@pytest.fixture(scope="module")
def splat() -> AnnData:
    params = SplatParams(
        n_genes=100,
        batch_cells=(120,),
        group_prob=(0.5, 0.5),
        lib_loc=7.0,
        de_prob=0.3,
        de_fac_scale=0.6,
        dropout_type="experiment",
    )
    return simulate_splat(params, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_the_papers_loss_falls_over_five_seeds(splat, seed):
    fitted = fit(splat, preset="paper", likelihood="zinb", max_epochs=15, seed=seed)
    for losses in (
        [record.training_loss for record in fitted.history],
        [record.validation_loss for record in fitted.history],
    ):
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0]
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
    edges_are_recovered(fitted)


def edges_are_recovered(fitted):
    """Genes that an edge joins are nearer than others: the gene encoder lives."""
    z = fitted.network.gene_mean.numpy()
    pairs = np.triu_indices(len(z), 1)
    edges = fitted.spec.graph.adjacency.toarray()[pairs] != 0
    assert metrics.roc_auc_score(edges, (z @ z.T)[pairs]) > 0.7  # by chance 0.5


def test_gene_order_does_not_matter(toy):
    """Not to the bit: starting weights and thinning are drawn in gene order.

    The estimates agree as two seeds agree with each other.
    """

    order = np.random.default_rng(0).permutation(60)
    shuffled = toy[:, order].copy()
    estimate = lambda data, seed: (  # noqa: E731
        GraphSCI(max_epochs=40, seed=seed, likelihood="nb")
        .fit(data)
        .impute(data, copy=True)[:, toy.var_names]
        .layers["denoised"]
    )
    one, other, seed = estimate(toy, 0), estimate(shuffled, 0), estimate(toy, 1)
    distance = lambda a, b: np.abs(np.log1p(a) - np.log1p(b)).mean()  # noqa: E731
    assert distance(one, other) < 2 * distance(one, seed)
    assert np.corrcoef(np.log1p(one).ravel(), np.log1p(other).ravel())[0, 1] > 0.98
