"""Plots: what they draw is what the data say, and nothing global changes."""

import tracemalloc

import matplotlib
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.figure import Figure
from scipy import sparse

from graphsci import GraphSCI, pl, tl
from graphsci.pl import _cells, _genes, _scale
from graphsci.pl._scale import Common


def test_only_plots_are_offered():
    """Completion in a notebook lists what pl and tl are for."""
    assert dir(tl) == ["gene_network", "group_departures", "impute"]
    assert "embedding" in dir(pl)
    assert all(getattr(pl, name).__module__.startswith("graphsci.") for name in dir(pl))


@pytest.fixture
def ax():
    return Figure(figsize=(4, 3), layout="constrained").add_subplot()


@pytest.fixture(scope="module")
def results(draw, trained):
    """The toy data with estimates of the NB model."""
    toy = draw()
    trained("nb").impute(toy)
    return toy


def test_a_plot_without_axes_makes_its_own_figure_and_leaves_the_style_alone(trained):
    from matplotlib import pyplot as plt

    before = dict(matplotlib.rcParams)
    figure = pl.training_curve(trained("nb")).figure
    assert plt.fignum_exists(figure.number)
    plt.close(figure)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.filterwarnings("ignore:.*fit the model worse")
def test_counts_are_drawn_at_the_depth_of_the_estimates(draw, trained):
    """Cells of a quarter of the depth: "common depth" is that of training for both."""
    shallow = draw()
    shallow.X = np.random.default_rng(0).binomial(shallow.X.astype(int), 0.25).astype(np.float32)
    trained("nb").impute(shallow, depth="common")
    common = Common.of(shallow, None, None, "graphsci")
    totals = [np.median(values.sum(1)) for values in (common.counts(), common.estimate("denoised"))]
    assert totals[0] == pytest.approx(totals[1], rel=0.05)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of genes that are not the model's
@pytest.mark.parametrize("depth", ["own", "common"])
@pytest.mark.parametrize("measured", [60, 30, 20])
def test_counts_and_estimates_are_at_one_depth_whatever_genes_were_measured(draw, depth, measured):
    """A model of 30 genes on data with 30 others, or without some: its genes count alone."""
    whole = draw()
    model = GraphSCI(max_epochs=5, check=False, likelihood="nb", seed=1).fit(whole[:, :30].copy())
    adata = whole[:, :measured].copy()
    model.impute(adata, depth=depth)
    genes = np.intersect1d(model.gene_names, adata.var_names)
    own = adata[:, genes].X.sum(1)
    place = np.isin(model.gene_names, genes)
    share = model.fitted.spec.gene_proportions[place].sum()
    expected = own / share / model.fitted.spec.common_depth
    np.testing.assert_allclose(adata.obs["graphsci_size_factor"], expected, rtol=1e-5)
    common = Common.of(adata, None, None, "graphsci")
    columns = adata.var_names.get_indexer(pd.Index(genes))
    counts, estimate = common.counts(columns), common.estimate("denoised", columns)
    assert counts.mean() == pytest.approx(estimate.mean(), rel=0.05)
    assert estimate[own > 0].sum(1).mean() == pytest.approx(
        share * model.fitted.spec.common_depth, rel=0.05
    )
    chosen = Common.of(adata, None, "graphsci_library", "graphsci")
    by_all = adata.X.sum(1) / adata.uns["graphsci"]["common_depth"]
    np.testing.assert_allclose(chosen.size_factors[own > 0], by_all[own > 0], rtol=1e-6)


def test_training_curve_marks_the_epoch_that_was_kept(trained, ax):
    model = trained("nb")
    pl.training_curve(model, ax=ax)
    (twin,) = [other for other in ax.figure.axes if other is not ax]
    marked = twin.get_lines()[1].get_xdata()
    assert marked == model.fitted.best_epoch
    assert "nats per cell" in ax.get_ylabel()


def test_training_curve_takes_a_history_without_validation(trained, ax):
    history = trained("nb").history.assign(validation_loss=np.nan)
    pl.training_curve(history, ax=ax)
    assert len(ax.figure.axes) == 1
    with pytest.raises(ValueError, match="no epochs"):
        pl.training_curve(history.iloc[:0], ax=ax)


def test_training_loss_of_many_epochs_is_smoothed_and_shown_as_it_was(ax):
    rng = np.random.default_rng(0)
    history = pd.DataFrame({"epoch": np.arange(1, 31), "training_loss": rng.normal(9, 1, 30)})
    pl.training_curve(history.assign(validation_loss=np.nan), ax=ax)
    faint, smooth = ax.get_lines()
    assert (faint.get_ydata() == history["training_loss"]).all()
    assert smooth.get_ydata()[10] == pytest.approx(history["training_loss"][8:13].mean())
    assert smooth.get_ydata()[0] == pytest.approx(history["training_loss"][:3].mean())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "training, mean of 5 epochs"
    ]


def test_verdict_bars_are_the_deviances_with_the_best_on_top(trained, results, ax):
    scores = results.uns["graphsci"]["verdict"]["scores"]
    pl.verdict(results, ax=ax)
    widths = [bar.get_width() for bar in ax.patches]
    assert sorted(widths) == sorted(score["deviance"] for score in scores.values())
    assert widths == sorted(widths, reverse=True)
    other = Figure().add_subplot()
    pl.verdict(trained("nb"), ax=other)
    assert [bar.get_width() for bar in other.patches] == widths


def test_verdict_needs_one(ax):
    with pytest.raises(ValueError, match="no verdict to draw"):
        pl.verdict({}, ax=ax)


@pytest.mark.parametrize("color", [None, "group", "gene3", "depth"])
def test_embedding_draws_every_cell_twice(results, color):
    adata = results.copy()
    adata.obs["depth"] = adata.X.sum(1)
    figure = pl.embedding(adata, color=color, method="tsne", figure=Figure(layout="constrained"))
    left, right = figure.axes[:2]
    for panel in (left, right):
        drawn = sum(len(points.get_offsets()) for points in panel.collections)
        assert drawn == adata.n_obs
    assert (left.get_title("left"), right.get_title("left")) == ("Counts", "Denoised")
    if color == "gene3":  # both panels share one scale
        assert left.collections[0].get_clim() == right.collections[0].get_clim()


def test_embedding_draws_a_row_of_maps_for_each_of_a_list_of_colors(results):
    figure = pl.embedding(
        results, color=["group", "gene3"], method="tsne", figure=Figure(layout="constrained")
    )
    groups, gene = figure.axes[:2], figure.axes[2:]
    assert groups[1].get_legend().get_title().get_text() == "group"
    (bar,) = gene[1].child_axes
    assert bar.get_ylabel() == "gene3, log(1 + counts at common depth)"
    for above, below in zip(groups, gene, strict=True):  # each side is mapped once
        points = [np.vstack([c.get_offsets() for c in ax.collections]) for ax in (above, below)]
        np.testing.assert_array_equal(*(p[np.lexsort(p.T)] for p in points))


def test_embedding_refuses_what_it_cannot_draw(results):
    with pytest.raises(ValueError, match="neither a column of obs"):
        pl.embedding(results, color="nonsense", figure=Figure())
    with pytest.raises(ValueError, match=r"nor a gene \(similar: gene3, "):
        pl.embedding(results, color=["group", "GENE3"], figure=Figure())
    with pytest.raises(ValueError, match="color: got an empty list"):
        pl.embedding(results, color=[], figure=Figure())
    with pytest.raises(ValueError, match="expected 'umap' or 'tsne'"):
        pl.embedding(results, method="pca", figure=Figure())
    with pytest.raises(ValueError, match=r"no layer 'mean'; layers present: 'rate', 'denoised'"):
        pl.embedding(results, layer="mean", figure=Figure())
    with pytest.raises(ValueError, match="has no run 'other'"):
        pl.embedding(results, key="other", figure=Figure())


def groups_of(number):
    """So many groups, each larger than the next."""
    return pd.Series([f"g{i:02d}" for i in range(number) for _ in range(number - i)])


@pytest.mark.parametrize("number", [6, 7, 18])
def test_groups_have_colors_of_their_own(number):
    marks = _cells._marks(groups_of(number), {})
    assert len({color for color, _ in marks.values()}) == number
    assert {marker for _, marker in marks.values()} == {"o"}


def days(numbers):
    """Ordered by time, the last day by far the largest."""
    order = [f"day{n}" for n in numbers]
    column = pd.Series([name for n, name in enumerate(order) for _ in range(n + 1)])
    return pd.Categorical(column, categories=order)


def test_groups_are_drawn_in_the_order_of_their_categories(ax):
    column = pd.Series(days([7, 0, 2, 10]))
    marks = _cells._marks(column, {})
    assert list(marks) == ["day7", "day0", "day2", "day10"]
    _cells._paint_groups(ax, np.zeros((len(column), 2)), groups=column, marks=marks)
    assert ax.get_legend_handles_labels()[1][0] == "day7 (1)"
    depths = [points.get_zorder() for points in ax.collections]
    assert depths == sorted(depths, reverse=True)  # none is hidden by a larger one
    assert next(iter(_cells._marks(column.astype(str), {}))) == "day10"  # no order but by size
    missing = column.where(column != "day0")
    assert list(_cells._marks(missing, {})) == ["day7", "day2", "day10", "nan"]


def test_of_too_many_categories_the_largest_are_drawn_in_their_order():
    marks = _cells._marks(pd.Series(days(range(80))), {})
    assert list(marks) == [*(f"day{n}" for n in range(8, 80)), "other"]


def test_expression_draws_groups_in_the_order_of_their_categories(results):
    adata = results.copy()
    adata.obs["day"] = pd.Categorical(
        np.where(np.arange(adata.n_obs) < 20, "day2", "day10"),
        categories=["day0", "day2", "day10"],
    )
    figure = pl.expression(adata, "gene1", "day", figure=Figure())
    shown = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert shown == ["day2", "day10"]
    values = np.log1p(Common.of(adata, None, None, "graphsci").counts([1])).ravel()
    medians = figure.axes[0].get_lines()[-1].get_ydata()
    np.testing.assert_allclose(medians, [np.median(values[:20]), np.median(values[20:])])


def test_groups_beyond_the_palette_change_marker_and_the_rest_are_grey():
    assert len(set(_cells._marks(groups_of(19), {}).values())) == 19
    marks = _cells._marks(groups_of(80), {})
    assert len(set(marks.values())) == len(marks) == 73
    assert marks["other"][0] == pl.GREY


def test_groups_have_the_colors_that_scanpy_left(results):
    adata = results.copy()
    adata.obs["group"] = adata.obs["group"].astype("category")
    names = list(adata.obs["group"].cat.categories)
    adata.uns["group_colors"] = np.array(["#123456", *["red"] * (len(names) - 1)])
    marks = _cells._marks(adata.obs["group"], _cells.scanpy_colors(adata, "group"))
    assert marks[names[0]] == ("#123456", "o")
    for unusable in (["red"], ["nonsense"] * len(names)):  # as scanpy does: too few, or none
        adata.uns["group_colors"] = unusable
        assert _cells.scanpy_colors(adata, "group") == {}


def test_a_group_called_other_is_drawn(ax):
    groups = pd.Series(["other", "other", "a"])
    _cells._paint_groups(ax, np.zeros((3, 2)), groups=groups, marks=_cells._marks(groups, {}))
    assert ax.get_legend_handles_labels()[1] == ["other (2)", "a (1)"]


def test_an_estimate_is_brought_to_the_counts_scale_by_its_record(draw, trained):
    """Own or common depth, counts or log1p: all are drawn at the same height."""
    model, drawn = trained("nb"), []
    for depth in ("own", "common"):
        for scale in ("counts", "log1p"):
            toy = draw()
            model.impute(toy, depth=depth, scale=scale)
            common = Common.of(toy, None, None, "graphsci")
            drawn.append(common.estimate("denoised"))
    # two medians are in play, of the training counts and of the data: equal up to a factor
    for other in drawn[1:]:
        ratio = other.sum() / drawn[0].sum()
        np.testing.assert_allclose(other, ratio * drawn[0], rtol=2e-4, atol=1e-6)


def test_counts_are_read_where_the_run_found_them(draw, trained):
    """Scanpy's habit: counts in a layer, X log-normalised."""
    toy = draw()
    toy.layers["counts"] = toy.X.copy()
    toy.X = np.log1p(toy.X)
    trained("nb").impute(toy, layer="counts")
    common = Common.of(toy, None, None, "graphsci")
    library = toy.layers["counts"].sum(1)
    full = library > 0
    factors = library[full] / np.median(library[full])
    np.testing.assert_allclose(common.size_factors[full], factors, rtol=1e-6)
    counts = toy.layers["counts"][full][:, [3]] / factors[:, None]
    np.testing.assert_allclose(common.counts([3])[full], counts, rtol=1e-6)


def test_a_layer_of_another_run_is_not_taken_for_one_of_this(draw, trained):
    toy = draw()
    trained("nb").impute(toy)
    trained("nb").impute(toy, key_added="second", prefix="b_", scale="log1p")
    common = Common.of(toy, None, None, "graphsci")
    with pytest.raises(ValueError, match="does not describe the layer 'b_denoised'"):
        common.estimate("b_denoised")


def test_library_sizes_may_come_from_obs(results):
    part = results[:, :30].copy()
    part.obs["library"] = results.X.sum(1)
    whole = Common.of(results, None, None, "graphsci").counts()
    again = Common.of(part, None, "library", "graphsci").counts()
    np.testing.assert_allclose(again, whole[:, :30])
    with pytest.raises(ValueError, match="obs has no column 'nothing'"):
        Common.of(part, None, "nothing", "graphsci")


def test_chosen_genes_are_drawn_as_in_the_whole(results):
    """The library sizes are those of all genes, which the run left in obs."""
    part, whole = results[:, :30].copy(), Common.of(results, None, None, "graphsci")
    chosen = Common.of(part, None, None, "graphsci")
    np.testing.assert_allclose(chosen.counts(), whole.counts()[:, :30])
    np.testing.assert_allclose(chosen.estimate("denoised"), whole.estimate("denoised")[:, :30])


@pytest.mark.parametrize("genes", [slice(None), slice(30)])
@pytest.mark.parametrize("logged", [False, True])
def test_counts_that_were_normalised_since_are_no_counts(results, genes, logged):
    import scanpy as sc

    adata = results[results.X.sum(1) > 0, genes].copy()
    adata = adata[adata.X.sum(1) > 0].copy()
    sc.pp.normalize_total(adata)
    if logged:
        sc.pp.log1p(adata)
    with pytest.raises(ValueError, match=r"X holds no counts any more.*counts_layer='counts'"):
        pl.expression(adata, ["gene1"], "group", figure=Figure())


@pytest.mark.parametrize("logged", [False, True])
def test_an_estimate_that_was_normalised_since_is_not_normalised_again(results, logged):
    import scanpy as sc

    adata = results[results.X.sum(1) > 0].copy()
    sc.pp.normalize_total(adata, layer="denoised")
    if logged:
        sc.pp.log1p(adata, layer="denoised")
    with pytest.raises(ValueError, match=r"layers\['denoised'\] has been normalised since"):
        pl.expression(adata, ["gene1"], "group", figure=Figure())


@pytest.mark.parametrize(
    "part", [np.s_[:, :], np.s_[:10], np.s_[:, :5]], ids=["all", "some cells", "some genes"]
)
@pytest.mark.parametrize("options", [{}, {"scale": "log1p"}, {"depth": "common"}])
@pytest.mark.parametrize("model", ["nb", "zinb"])
def test_an_estimate_that_was_logged_since_is_refused(draw, trained, model, options, part):
    import scanpy as sc

    whole = draw()
    trained(model).impute(whole, estimates=["mean", "denoised", "imputed"], **options)
    adata = whole[part].copy()
    for layer in ("mean", "denoised", "imputed"):
        pl.mean_variance(adata, layer=layer, ax=Figure().add_subplot())
        sc.pp.log1p(adata, layer=layer)
        with pytest.raises(ValueError, match=f"{layer}'] has been normalised since.*logarithms"):
            pl.mean_variance(adata, layer=layer, ax=Figure().add_subplot())
        adata.uns.pop("log1p")


@pytest.mark.parametrize("counts_too", [False, True])
def test_every_picture_refuses_an_estimate_that_was_logged(results, counts_too):
    import scanpy as sc

    adata = results[results.X.sum(1) > 0].copy()
    adata.layers["counts"] = adata.X.copy()
    sc.pp.log1p(adata, layer="denoised")
    if counts_too:  # the uncertainty needs none: library sizes tell
        sc.pp.normalize_total(adata)
    for draw_it in (
        lambda: pl.uncertainty(adata, ax=Figure().add_subplot()),
        lambda: pl.embedding(adata, counts_layer="counts", figure=Figure()),
        lambda: pl.expression(adata, "gene1", "group", counts_layer="counts", figure=Figure()),
    ):
        with pytest.raises(ValueError, match=r"layers\['denoised'\] has been .* of a copy: adata"):
            draw_it()
    adata.layers["denoised"] = results[adata.obs_names].layers["denoised"]
    pl.uncertainty(adata, ax=Figure().add_subplot())


def test_a_gene_without_an_estimate_is_not_drawn_as_silent(results):
    adata = results.copy()
    adata.layers["denoised"][:, 1] = np.nan
    for draw_it in (
        lambda: pl.expression(adata, ["gene0", "gene1"], "group", figure=Figure()),
        lambda: pl.embedding(adata, color="gene1", method="tsne", figure=Figure()),
    ):
        with pytest.raises(ValueError, match="gene1: no estimate in layers"):
            draw_it()


def test_expression_has_room_for_many_groups_and_none_for_cells_without(results):
    adata = results.copy()
    labels = pd.Series([f"a cluster with a long name {n % 25}" for n in range(adata.n_obs)])
    adata.obs["many"] = pd.Categorical(labels.where(np.arange(adata.n_obs) % 10 > 0))
    figure = pl.expression(adata, "gene1", "many")
    assert figure.get_size_inches()[0] > 17
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()].count("nan") == 0
    adata.obs["none"] = pd.Series(None, index=adata.obs_names, dtype="string")
    with pytest.raises(ValueError, match="no cell has a label in 'none'"):
        pl.expression(adata, "gene1", "none", figure=figure)


def test_expression_shows_the_median_of_each_group(results):
    figure = pl.expression(results, ["gene1", "gene2"], "group", figure=Figure())
    assert len(figure.axes) == 4
    names = results.obs["group"].value_counts().index
    common = Common.of(results, None, None, "graphsci")
    values = np.log1p(common.counts([1])).ravel()
    expected = [np.median(values[(results.obs["group"] == name).to_numpy()]) for name in names]
    medians = figure.axes[0].get_lines()[-1].get_ydata()
    np.testing.assert_allclose(medians, expected)
    with pytest.raises(ValueError, match=r"has no Gene7 \(similar: gene7, .*\), nothing\."):
        pl.expression(results, ["gene1", "Gene7", "nothing"], "group", figure=figure)
    with pytest.raises(ValueError, match="genes: got an empty list"):
        pl.expression(results, [], "group", figure=figure)
    with pytest.raises(ValueError, match="groupby: obs has no column 'x'"):
        pl.expression(results, "gene1", "x", figure=figure)


def test_mean_variance_draws_counts_estimate_and_the_poisson_line(results, ax):
    pl.mean_variance(results, ax=ax)
    counts, estimate, line = ax.get_lines()
    assert len(counts.get_xdata()) == len(estimate.get_xdata()) == results.n_vars - 1
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())


def drawn_moments(ax):
    return [np.transpose(line.get_data()) for line in ax.lines[:2]]


@pytest.mark.parametrize("entries", [1, 1000, 2**21])
@pytest.mark.parametrize("how", ["dense", "csc", "log1p common", "sparse layer", "table"])
def test_moments_are_those_of_all_cells_at_once(draw, trained, ax, monkeypatch, how, entries):
    """Whatever the counts and the estimate are stored as, and however many cells are a block."""
    monkeypatch.setattr(_scale, "_BLOCK_ENTRIES", entries)
    toy = draw()
    options = {"scale": "log1p", "depth": "common"} if how == "log1p common" else {}
    genes = [f"gene{n}" for n in (7, 3, 11)] if how == "table" else None
    trained("nb").impute(toy, genes=genes, **options)
    columns = [3, 7, 11] if how == "table" else slice(None)
    common = Common.of(toy, None, None, "graphsci")
    counts, estimate = common.counts(columns), common.estimate("denoised", columns)
    logged = np.log1p(common.counts())
    if how in ("csc", "sparse layer"):
        toy.X = sparse.csc_matrix(toy.X)
        toy.layers["denoised"] = sparse.csc_matrix(np.nan_to_num(toy.layers["denoised"]))
    pl.mean_variance(toy, ax=ax)
    for drawn, values in zip(drawn_moments(ax), (counts, estimate), strict=True):
        expected = np.stack([values.mean(0), values.var(0)], 1)
        np.testing.assert_allclose(drawn, expected[(expected > 0).all(1)], rtol=1e-6)
    chosen = np.sort(np.argsort(-logged.var(0), kind="stable")[:13])
    found = _scale.variable_genes(Common.of(toy, None, None, "graphsci"), 13)
    np.testing.assert_array_equal(found, chosen)


def test_moments_lose_no_digits_of_a_large_mean():
    values = 1e8 + np.random.default_rng(0).normal(size=(40, 3))
    blocks = [values[:7], sparse.csr_matrix(values[7:20]), values[20:]]
    found = _scale.moments(iter(blocks))
    np.testing.assert_allclose(found.variance, values.var(0), rtol=1e-6)
    np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-14)


def test_pictures_of_genes_hold_no_dense_array_of_all_cells(ax, monkeypatch):
    """At most a fifth of what cells x genes take as float64; 200 cells are looked at as a whole."""
    monkeypatch.setattr(_scale, "_BLOCK_ENTRIES", 2**16)
    shape = 12_000, 500
    counts = sparse.random(*shape, 0.03, "csr", np.float32, rng=np.random.default_rng(0))
    counts.data[:] = np.ceil(9 * counts.data)
    said = {"depth": "own", "scale": "counts"}
    record = {"estimates": {"denoised": said}, "common_depth": 150.0}
    layers = {"denoised": counts.toarray() + np.float32(0.1)}
    adata = AnnData(counts, layers=layers, uns={"graphsci": record})
    common = Common.of(adata, None, None, "graphsci")
    pl.mean_variance(adata, ax=ax)  # what is loaded once
    for use in (lambda: pl.mean_variance(adata, ax=ax), lambda: _scale.variable_genes(common, 50)):
        tracemalloc.start()
        use()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * shape[0] * shape[1] / 5, peak


def test_dispersion_is_the_inverse_of_theta(results, ax):
    pl.dispersion(results, ax=ax)
    theta = results.var["graphsci_inverse_dispersion"].dropna()
    np.testing.assert_allclose(np.sort(ax.get_lines()[0].get_ydata()), np.sort(1 / theta))
    with pytest.raises(ValueError, match="'paper' learns a dispersion for every entry"):
        pl.dispersion(AnnData(np.ones((3, 3))), ax=ax)


def test_dropout_curve_draws_the_share_of_zeros(results, ax):
    pl.dropout_curve(results, ax=ax)
    zeros = 100 * (results.X == 0).mean(0)
    drawn = ax.get_lines()[0].get_ydata()
    np.testing.assert_allclose(np.sort(drawn), np.sort(zeros[results.X.sum(0) > 0]))


@pytest.mark.parametrize("n_cells", [300, 5000])
def test_the_line_of_zeros_counts_the_depths_of_the_cells(n_cells):
    rng = np.random.default_rng(0)
    depths, means = rng.lognormal(0, 1, n_cells), np.array([0.01, 0.5, 2.0, 20.0])
    expected = [sum(np.exp(-mean * depth) for depth in depths) / n_cells for mean in means]
    np.testing.assert_allclose(_genes.poisson_zeros(means, depths), expected, atol=2e-4)


def test_cells_that_differ_in_depth_alone_are_on_the_line_of_zeros(ax):
    """Two depths, nothing else: exp(-m) would be left far behind."""
    rng = np.random.default_rng(0)
    depths, rates = np.where(np.arange(2000) % 2, 3000, 300), rng.gamma(0.5, 1, 200)
    adata = AnnData(rng.poisson(depths[:, None] * rates / rates.sum()).astype(np.float32))
    adata.uns["graphsci"] = {"estimates": {}}
    pl.dropout_curve(adata, ax=ax)
    genes, line = ax.get_lines()
    expected = np.interp(genes.get_xdata(), line.get_xdata(), line.get_ydata())
    assert np.abs(genes.get_ydata() - expected).max() < 4
    means = genes.get_xdata()
    assert (genes.get_ydata() - 100 * np.exp(-means)).max() > 10
    assert "cells of these depths" in line.get_label()


def test_dropout_curve_draws_what_a_zinb_learned(draw, trained, ax):
    toy = draw()
    trained("zinb").impute(toy)
    pl.dropout_curve(toy, ax=ax)
    assert ax.get_lines()[-1].get_label() == "learned P(dropped)"


def test_uncertainty_names_the_scale(results, ax):
    pl.uncertainty(results, ax=ax)
    assert ax.get_xlabel() == "denoised (counts)"
    assert ax.get_legend().get_texts()[0].get_text().startswith("a Poisson count")


def test_degrees_count_every_connected_gene_once(trained, results, ax):
    pl.gene_graph_degree(results, ax=ax)
    degree = np.diff(results.varp["graphsci_graph"].indptr)
    assert sum(bar.get_height() for bar in ax.patches) == (degree > 0).sum() > 0
    other = Figure().add_subplot()
    pl.gene_graph_degree(trained("zinb"), ax=other)  # a graph without edges
    assert other.get_title("left").startswith("Gene graph: 0 edges")
    with pytest.raises(ValueError, match="no gene graph 'other_graph'"):
        pl.gene_graph_degree(results, key="other", ax=ax)


@pytest.fixture(scope="module")
def chosen(draw, trained):
    """The toy data with estimates of two genes, and of them alone, in a table."""
    toy = draw()
    trained("nb").impute(toy, genes=["gene3", "gene1"])
    return toy


def test_a_table_of_chosen_genes_is_drawn_as_the_layer(results, chosen, ax):
    whole, table = (Common.of(adata, None, None, "graphsci") for adata in (results, chosen))
    np.testing.assert_array_equal(
        table.estimate("denoised", [1, 3]), whole.estimate("denoised", [1, 3])
    )
    for layer in ("denoised", "graphsci_denoised"):
        figure = pl.expression(chosen, ["gene1", "gene3"], "group", layer=layer, figure=Figure())
        expected = pl.expression(results, ["gene1", "gene3"], "group", figure=Figure())
        for one, other in zip(figure.axes, expected.axes, strict=True):
            medians = [a.get_lines()[-1].get_ydata() for a in (one, other)]
            np.testing.assert_array_equal(*medians)
    pl.mean_variance(chosen, ax=ax)
    assert [len(line.get_xdata()) for line in ax.get_lines()[:2]] == [2, 2]
    other = Figure().add_subplot()
    pl.uncertainty(chosen, ax=other)
    assert other.collections[0].get_array().sum() == 2 * (chosen.n_obs - 1)  # one cell is empty


def test_a_gene_of_a_table_is_drawn_on_the_map_of_the_counts(chosen):
    figure = pl.embedding(chosen, color="gene3", method="tsne", figure=Figure())
    left, right = figure.axes[:2]
    assert right.get_title("left") == "Denoised (map of the counts)"
    points = [np.asarray(ax.collections[0].get_offsets()) for ax in (left, right)]
    np.testing.assert_array_equal(*(p[np.lexsort(p.T)] for p in points))
    for color in ("gene2", "group", None):
        with pytest.raises(ValueError, match=r"table of 2 genes \(gene1, gene3\).* impute all"):
            pl.embedding(chosen, color=color, figure=Figure())


def test_what_a_table_lacks_is_named(chosen):
    with pytest.raises(ValueError, match=r"obsm\['graphsci_denoised'\] has no estimate of gene2"):
        pl.expression(chosen, ["gene1", "gene2"], "group", figure=Figure())
    with pytest.raises(ValueError, match=r"no layer 'mean'.*in obsm: 'graphsci_denoised', "):
        pl.expression(chosen, ["gene1"], "group", layer="mean", figure=Figure())
    with pytest.raises(ValueError, match="estimates of gene3, gene1, of none of the genes"):
        pl.mean_variance(chosen[:, 5:].copy(), ax=Figure().add_subplot())
    logged = chosen.copy()
    logged.obsm["graphsci_denoised"] = np.log1p(logged.obsm["graphsci_denoised"])
    with pytest.raises(ValueError, match=r"obsm\['graphsci_denoised'\] has been normalised"):
        pl.expression(logged, ["gene1"], "group", figure=Figure())


def test_pictures_say_what_they_take(trained, results):
    model = trained("nb")
    of_results = (
        lambda got: pl.dispersion(got),
        lambda got: pl.dropout_curve(got),
        lambda got: pl.mean_variance(got),
        lambda got: pl.uncertainty(got),
        lambda got: pl.embedding(got),
        lambda got: pl.expression(got, "gene1", "group"),
        lambda got: pl.module_heatmap(got),
    )
    for draw_it in of_results:
        with pytest.raises(TypeError, match="got a GraphSCI, expected an AnnData with results"):
            draw_it(model)
    with pytest.raises(TypeError, match=r"got a ndarray.*of graphsci.tl.impute\.$"):
        pl.dispersion(np.ones((2, 2)))
    with pytest.raises(TypeError, match="got a AnnData, expected a trained GraphSCI or its hist"):
        pl.training_curve(results)
    for draw_it in (pl.gene_network, pl.network_degree):
        with pytest.raises(TypeError, match="got a GraphSCI, expected an AnnData with a network"):
            draw_it(model)
    with pytest.raises(ValueError, match="no column 'graphsci_module', and no modules were given"):
        pl.module_heatmap(results)


def test_module_heatmap_finds_the_modules_of_the_network(results):
    adata = results.copy()
    adata.var["graphsci_module"] = np.where(np.arange(60) < 20, np.arange(60) % 2, -1)
    figure = pl.module_heatmap(adata, figure=Figure())
    image = figure.axes[0].images[0].get_array()
    genes = [*range(0, 20, 2), *range(1, 20, 2)]
    values = np.log1p(Common.of(adata, None, None, "graphsci").counts(genes))
    assert image[1, 13] == pytest.approx(np.corrcoef(values[:, 1], values[:, 13])[0, 1])
    only_network = adata.copy()  # as graphsci network --h5ad writes it
    only_network.uns["graphsci_network"] = only_network.uns.pop("graphsci")
    with pytest.raises(
        ValueError, match=r"network 'graphsci' but no estimates.*graphsci\.tl\.impute"
    ):
        pl.module_heatmap(only_network)
    again = adata[:, ::-1].copy()  # the order of the genes is that of their relations
    strengths = np.zeros((60, 60))
    strengths[2, 4] = strengths[4, 2] = 1.0
    adata.varp["graphsci_network"] = again.varp["graphsci_network"] = strengths
    again.varp["graphsci_network"] = strengths[::-1, ::-1]
    both = [pl.module_heatmap(a, figure=Figure()).axes[0].images[0] for a in (adata, again)]
    np.testing.assert_allclose(*(b.get_array()[:2, :2] for b in both), atol=1e-12)
    values = np.log1p(Common.of(adata, None, None, "graphsci").counts([2, 4]))
    assert both[0].get_array()[0, 1] == pytest.approx(np.corrcoef(values.T)[0, 1])
