"""``graphsci evaluate``: from counts to table, again without work, and what it must refuse."""

import io
import json
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from scipy import sparse
from sklearn.metrics import mean_poisson_deviance
from typer.testing import CliRunner

from graphsci import GraphSCI, _versions, cli
from graphsci._jobs import evaluate as work
from graphsci._jobs import evaluate_layers, evaluate_ours, evaluate_report
from graphsci.config import Config
from graphsci.evaluation import controls, study
from graphsci.evaluation.count_loss import PairedDifference

SHORT = ("--max-epochs", "3", "--threads", "1", "--likelihood", "nb", "--graph", "none")
CHEAP = ("--method", "nothing", "--method", "gene_mean")


def run(*args, exit_code=0):
    result = CliRunner().invoke(cli.app, ["evaluate", *map(str, args)])
    said = " ".join((result.stdout + " " + result.stderr).split())
    assert result.exit_code == exit_code, (said, result.exception)
    return result, said


def state(folder):
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def source(tmp_path, draw):
    path = tmp_path / "counts.h5ad"
    adata = draw()
    adata.obs["rare"] = np.where(np.arange(adata.n_obs) == 0, "b", "a")
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, draw):
    """One study with everything in it; tests look at it and do not change it."""
    folder = tmp_path_factory.mktemp("study")
    draw().write_h5ad(folder / "counts.h5ad")
    args = (folder / "counts.h5ad", "-o", folder / "out", *SHORT, "--seeds", "2")
    args += ("--label-key", "group", "--protocol", "pca-kmeans", "--clustering-seeds", "1")
    args += (
        "--shuffled-genes",
        "10",
    )
    before = (folder / "counts.h5ad").read_bytes()
    result, said = run(*args, "--json", "-")
    assert (folder / "counts.h5ad").read_bytes() == before
    return folder, args, json.loads(result.stdout), said


# --- a study ----------------------------------------------------------------------------


def test_every_method_gets_every_score_on_every_seed(finished):
    folder, _, _, _ = finished
    table = pd.read_csv(folder / "out" / "scores.csv")
    columns = ["design", "method", "seed", "score", "value", "sd_over_clusterings"]
    assert list(table.columns) == columns
    assert set(table["design"]) == {"molecules"}
    wide = table.pivot(index=["method", "seed"], columns="score", values="value")
    assert sorted(set(wide.index)) == sorted((m, s) for m in work.BUILT_IN for s in (0, 1))
    assert (wide.loc["truth", "d2"] > 0.999).all()
    wide = wide.drop(index="truth")
    for score in (
        "deviance",
        "d2",
        "d2_rare",
        "nb_d2",
        "ari",
        "nmi",
        "shuffled_correlation",
        "shuffled_given_depth",
        "shuffled_de",
    ):
        assert np.isfinite(wide[score]).all()
    assert (wide.loc["gene_mean", "d2"] == 0).all()
    assert (wide.loc["gene_mean", "ari"] == 0).all()
    assert wide.loc["graphsci", "coverage"].between(0, 1).all()
    assert wide["coverage"].notna().sum() == 2


def test_clusters_come_with_their_spread_over_seeds(source, tmp_path):
    csv, seeds = tmp_path / "scores.csv", ("--clustering-seeds", "3")
    args = (source, *CHEAP, "--label-key", "group", "--protocol", "tsne-kmeans", *seeds)
    result, _ = run(*args, "--csv", csv, "--json", "-")
    found = json.loads(result.stdout)["designs"]["molecules"]["methods"]["nothing"]
    assert 0 < found["sd_over_clusterings"]["silhouette_labels"] < 0.1
    assert set(found["sd_over_clusterings"]) < set(found["scores"])
    assert not any(name.endswith("_sd") for name in found["scores"])
    rows = pd.read_csv(csv).set_index(["method", "score"])["sd_over_clusterings"]
    assert rows["nothing", "ari"] == found["sd_over_clusterings"]["ari"]
    assert np.isnan(rows["nothing", "d2"])
    shown = f"{found['scores']['ari']:.3f} ± {found['sd_over_clusterings']['ari']:.2f}"
    assert shown in result.stderr
    assert "± of clusters: standard deviation over 3 clusterings" in result.stderr


@pytest.mark.parametrize("width", [30, 60, 80, 100, 140])
def test_no_number_and_no_header_is_cut(width):
    """All scores there are, and the longest control; a terminal, a pipe and a narrow window."""
    scores = dict.fromkeys(study.SCORES, -12.345678) | {"ari_sd": 0.03, "nmi_sd": 0.04}
    gap = PairedDifference(0.0123, 0.0045, 3.0, 90)
    names = ("graphsci", "neighbour_pooling_posterior", "truth")
    summaries = [
        study.Summary(name, scores, {}, {other: gap for other in names if other != name}, 1)
        for name in names
    ]
    console = Console(file=io.StringIO(), width=1000)
    parts = evaluate_report.tables(summaries, width=width)
    for part in parts:
        assert console.measure(part).maximum <= width or len(part.columns) == 2
        console.print(part)
    said = console.file.getvalue()
    assert "…" not in said
    labels = [*(score.label for score in study.SCORES.values()), "above the best"]
    assert [str(c.header) for part in parts for c in part.columns[1:]] == labels
    for label in labels:
        assert label in said
    assert said.count("-12.346 ± 0.03") == 3
    assert said.count("-12.34568") == 3


def test_a_pipe_gets_whole_tables(source):
    labels = ("--label-key", "group", "--protocol", "pca-kmeans", "--clustering-seeds", "2")
    args = ("--method", "nothing", "--method", "neighbour_pooling_posterior", *labels)
    result, _ = run(source, *args, "--shuffled-genes", "10")
    assert "…" not in result.stdout
    rows = ("method  ", "nothing  ", "neighbour_pooling_posterior  ")
    table = [line for line in result.stdout.splitlines() if line.startswith(rows)]
    assert len(table) == 6  # two tables of a header and two methods
    assert max(map(len, table)) <= 120
    for label in ("deviance", "D2 rare genes", "ARI", "NMI", "|r| given depth", "above the best"):
        assert label in table[0] + table[3]


def test_the_summary_compares_in_pairs_and_ends_in_one_sentence(finished):
    folder, _, printed, said = finished
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary == printed
    summary = summary["designs"]["molecules"]
    assert summary["sentence"] in said
    assert "Where graphsci loses: " in said
    assert all(loss in said for loss in summary["losses"])
    assert (folder / "out" / "molecules.png").read_bytes().startswith(b"\x89PNG")
    ours = summary["methods"]["graphsci"]
    assert ours["n_seeds"] == 2
    gap = ours["deviance_difference"]["nothing"]
    other = summary["methods"]["nothing"]
    assert gap["difference"] == pytest.approx(
        ours["scores"]["deviance"] - other["scores"]["deviance"]
    )
    assert gap["z"] == pytest.approx(gap["difference"] / gap["standard_error"])
    assert other["deviance_difference"]["graphsci"]["difference"] == pytest.approx(
        -gap["difference"]
    )


def test_again_does_nothing_and_says_so(finished):
    folder, args, _, _ = finished
    before = state(folder / "out")
    _, said = run(*args)
    assert "Nothing to do: all 18 runs were in" in said
    assert "epoch" not in said
    assert state(folder / "out") == before


def test_only_what_changed_is_computed(finished):
    _, args, _, _ = finished
    _, said = run(*args, "--max-epochs", "2")  # another model, the same controls
    assert "Nothing to do" not in said
    assert "graphsci, seed 0" in said
    assert "gene_mean, seed 0" not in said


def test_the_seed_reaches_what_is_held_out(source, tmp_path):
    """Judged by the counts that --write-split writes with that seed; only the last seed is new."""
    out = ("-o", tmp_path / "out")
    run(source, *CHEAP, "--seed", "7", "--seeds", "2", "--csv", tmp_path / "two.csv", *out)
    table = pd.read_csv(tmp_path / "two.csv").query("score == 'deviance'")
    table = table.set_index(["method", "seed"])["value"]
    assert sorted(set(table.index.get_level_values("seed"))) == [7, 8]
    for seed in ("7", "8"):
        run(source, "--write-split", tmp_path / f"{seed}.h5ad", "--seed", seed)
        split = anndata.read_h5ad(tmp_path / f"{seed}.h5ad")
        mean = controls.gene_mean(split.X.astype(float), ratio=0.1 / 0.9).toarray()
        held_out = split.layers["held_out"].toarray().astype(float)
        judge = mean_poisson_deviance(held_out.ravel(), np.maximum(mean, 1e-6).ravel())
        assert table["gene_mean", int(seed)] == pytest.approx(judge)
    assert table["gene_mean", 7] != table["gene_mean", 8]
    _, said = run(source, *CHEAP, "--seed", "8", "--seeds", "2", *out)
    assert "seed 9" in said
    assert "gene_mean, seed 8" not in said


def test_the_seed_reaches_the_model_once(source, monkeypatch):
    """The fit of the run with seed 3 is that of a model with seed 3."""
    seeds = []
    fit = GraphSCI.fit

    def watched(self, *args, **options):
        seeds.append(self.config.seed)
        return fit(self, *args, **options)

    monkeypatch.setattr(GraphSCI, "fit", watched)
    run(source, "--method", "graphsci", *SHORT, "--seed", "3", "--seeds", "2")
    assert seeds == [3, 4]


def test_the_largest_seed_is_a_seed(source):
    labels = ("--label-key", "group", "--protocol", "pca-kmeans", "--clustering-seeds", "2")
    run(source, "--method", "nothing", *labels, "--seed", 2**32 - 1)


@pytest.mark.parametrize("changed", ["source", "numpy", "scipy", "scikit-learn", "torch"])
def test_another_program_does_not_find_old_runs(source, tmp_path, monkeypatch, changed):
    args = (source, *CHEAP, "-o", tmp_path / "out")
    run(*args)
    assert "Nothing to do" in run(*args)[1]
    if changed == "source":
        monkeypatch.setattr(work, "source_digest", lambda: "another")
    else:
        known = _versions.versions()
        assert changed in known
        monkeypatch.setattr(work, "versions", lambda: {**known, changed: "0"})
    said = run(*args)[1]
    assert "Nothing to do" not in said
    assert "gene_mean, seed 0" in said


def test_the_digest_of_the_source_is_that_of_its_files(tmp_path):
    (tmp_path / "part").mkdir()
    files = {"a.py": "one", "part/b.py": "two"}

    def digest():
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return _versions.source_digest.__wrapped__(tmp_path)

    before = digest()
    (tmp_path / "a.pyc").write_text("compiled")
    assert digest() == before
    files["part/b.py"] = "too"
    changed = digest()
    files["part/b.py"] = "two"
    assert changed != before == digest()
    files["c.py"] = ""
    assert digest() != before
    assert len(_versions.source_digest()) == 32


def test_our_method_is_the_posterior_of_a_model_of_the_kept_counts(draw):
    """Outside judge: the public interface on the same kept counts."""
    counts = sparse.csr_matrix(draw().X)
    case = study.make_case(counts, seed=2)
    config = Config(max_epochs=3, likelihood="nb", graph="none", seed=1)
    fits = evaluate_ours.Fits(config)
    blocks = list(evaluate_ours.graphsci_method(fits, estimate="denoised")(case.task))
    means = list(evaluate_ours.graphsci_method(fits, estimate="mean")(case.task))
    adata = anndata.AnnData(sparse.csr_matrix(case.task.kept, dtype=np.float32))
    GraphSCI(config.replace(check=False, seed=3)).fit(adata).impute(
        adata, estimates=["denoised", "mean"]
    )
    for name, layer in (("counts", "denoised"), ("sd", "denoised_sd")):
        said = np.concatenate([getattr(block, name) for block in blocks])
        np.testing.assert_allclose(said, case.task.ratio * adata.layers[layer], rtol=1e-4)
    said = np.concatenate([block.counts for block in means])
    np.testing.assert_allclose(said, case.task.ratio * adata.layers["mean"], rtol=1e-4)


@pytest.mark.parametrize("scale", ["as they are", "log1p", "by depth", "one off", "rounded"])
def test_whole_counts_are_known_on_any_scale(draw, scale):
    """One gene has 300,000 counts a cell, so that one count more is little beside the largest."""
    rng = np.random.default_rng(0)
    whole = draw().X.copy()
    whole[:, 0] += rng.poisson(300_000, len(whole))
    kept = rng.binomial(whole.astype(int), 0.9).astype(np.float32)
    layer = {
        "log1p": np.log1p(whole),
        "by depth": whole / whole.sum(1, keepdims=True),
        "rounded": whole.astype(np.float32) * np.float32(1 / 3),
    }.get(scale, whole.copy())
    if scale == "one off":
        layer[5, 3] += 1
    halves = sparse.csr_matrix(kept), sparse.csr_matrix(whole - kept)
    with pytest.raises(ValueError, match="it has seen the answer"):
        evaluate_layers.refuse_whole_counts({"layer": layer}, *halves)


@pytest.mark.parametrize("estimate", ["kept", "gene means", "kept and means", "constant"])
def test_estimates_of_kept_counts_are_let_through(draw, estimate):
    rng = np.random.default_rng(0)
    whole = draw().X
    kept = rng.binomial(whole.astype(int), 0.9).astype(np.float32)
    means = np.tile(kept.mean(0), (len(kept), 1))
    layer = {"kept": kept, "gene means": means, "constant": np.ones_like(kept)}
    layer = layer.get(estimate, (kept + means) / 2)
    halves = sparse.csr_matrix(kept), sparse.csr_matrix(whole - kept)
    evaluate_layers.refuse_whole_counts({"layer": layer}, *halves)


def test_half_a_model_is_not_scored(draw):
    """Its scores would be kept in the study's folder as those of a whole one."""

    def progress(*_):
        raise KeyboardInterrupt

    case = study.make_case(sparse.csr_matrix(draw().X), seed=2)
    fits = evaluate_ours.Fits(Config(max_epochs=3, graph="none"), progress=progress)
    with pytest.raises(KeyboardInterrupt):
        list(evaluate_ours.graphsci_method(fits, estimate="denoised")(case.task))


def test_ctrl_c_leaves_no_run_of_half_a_model(source, tmp_path, interrupt_at):
    """What was finished before stays; the next time the model is trained to its end."""
    interrupt_at(2)
    args = (source, "-o", tmp_path / "out", "--method", "nothing", "--method", "graphsci", *SHORT)
    _, said = run(*args, exit_code=cli.STOPPED)
    assert "stopped by Ctrl-C" in said
    assert "best weights so far" not in said
    assert len(list((tmp_path / "out" / "runs").glob("*.json"))) == 1
    _, said = run(*args)
    assert "epoch 3 of 3" in said
    assert "nothing, seed 0" not in said


def test_a_model_is_fitted_once_for_each_task(source, tmp_path):
    ours = ("--method", "graphsci", "--method", "graphsci-mean", "--seeds", "2")
    _, said = run(source, *ours, *SHORT, "--csv", tmp_path / "scores.csv")
    assert said.count("epoch 3 of 3") == 2
    table = pd.read_csv(tmp_path / "scores.csv").query("score == 'seconds'")
    seconds = table.groupby("method")["value"].mean()
    assert seconds["graphsci-mean"] == pytest.approx(seconds["graphsci"], rel=0.5)


def reads_of(path, factor):
    """Write reads, ``factor`` of each molecule, and return where."""
    adata = anndata.read_h5ad(path)
    adata.X = factor * adata.X
    target = path.with_name(f"reads{factor}.h5ad")
    adata.write_h5ad(target)
    return target


def test_of_reads_molecules_are_held_out(source, tmp_path):
    """Repeating the kept reads would explain nearly all of the others."""
    reads, scores = reads_of(source, 40), {}
    for copies in (0, 1):
        csv = tmp_path / f"{copies}.csv"
        args = ("--method", "nothing", "--method", "gene_mean", "--csv", csv, "--copies", copies)
        _, said = run(reads, *args)
        assert ("divided by" in said) == (copies == 0)
        assert ("copies of kept ones" in said) == (copies == 1)
        table = pd.read_csv(csv).set_index(["method", "score"])["value"]
        scores[copies] = table["nothing", "d2"]
    assert scores[0] < 0 < 0.8 < scores[1]
    run(reads, "--write-split", tmp_path / "split.h5ad")
    split = anndata.read_h5ad(tmp_path / "split.h5ad")
    whole = split.X.sum() + split.layers["held_out"].sum()
    assert whole == pytest.approx(anndata.read_h5ad(source).X.sum(), rel=0.4)


def test_fractional_counts_are_rounded_at_random_for_all_methods(source, tmp_path):
    """Kept and held-out molecules are whole, and sum to a neighbour of each count."""
    adata = anndata.read_h5ad(source)
    adata.X = 0.9 * adata.X  # as after a tenth was taken for ambient
    adata.write_h5ad(tmp_path / "ambient.h5ad")
    args = (tmp_path / "ambient.h5ad", "--allow-fractional")
    _, said = run(*args, "--method", "nothing", "--method", "gene_mean")
    assert said.count("were rounded at random for all methods: only whole molecules can be") == 1
    _, said = run(*args, "--write-split", tmp_path / "split.h5ad")
    assert "were rounded at random" in said
    split = anndata.read_h5ad(tmp_path / "split.h5ad")
    whole = (split.X + split.layers["held_out"]).toarray()
    counts = adata[split.obs_names, split.var_names].X
    assert (whole == np.rint(whole)).all()
    assert (np.abs(whole - counts) < 1).all()
    assert whole.sum() == pytest.approx(counts.sum(), rel=0.01)


def test_doubts_of_the_counts_are_told(source, tmp_path):
    """Cells that are there twice would know what was held out of each other."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, 1, (60, 1)) * rng.gamma(1, 1, 200)).astype(np.float32)
    doubled = anndata.AnnData(np.vstack([counts, counts[:30]]))
    doubled.write_h5ad(tmp_path / "doubled.h5ad")
    args = ("--method", "nothing", "--method", "gene_mean")
    _, said = run(tmp_path / "doubled.h5ad", *args)
    assert "29 of 90 cells" in said  # one has few genes
    assert "exactly the counts of an earlier one" in said
    _, said = run(tmp_path / "doubled.h5ad", "--write-split", tmp_path / "split.h5ad")
    assert "exactly the counts of an earlier one" in said
    _, said = run(reads_of(source, 40), "--write-split", tmp_path / "reads.h5ad")
    assert "divided by" in said


@pytest.mark.parametrize("design", [("cells",), ("depth", "--depth", "60")])
def test_other_designs(source, tmp_path, design):
    csv = tmp_path / "scores.csv"
    _, said = run(source, "--design", *design, *SHORT, "--csv", csv)
    table = pd.read_csv(csv).set_index(["method", "score"])["value"]
    assert table["gene_mean", "d2"] == 0
    assert table["empty", "d2"] < table["nothing", "d2"] < table["graphsci", "d2"]
    assert "D2" in said


def test_all_designs_one_after_the_other(source, tmp_path):
    csv = tmp_path / "scores.csv"
    args = (source, "--design", "all", *CHEAP, "--csv", csv, "-o", tmp_path / "out")
    _, said = run(*args, "--label-key", "group", "--protocol", "pca-kmeans")
    for hidden in (
        "molecules: 10% of the molecules were held out",
        "entries: 10% of the non-zero entries were set to zero; only they are judged",
        "cells: a fifth of the cells were not learnt from",
        "depth: cells were thinned to a median of",
    ):
        assert hidden in said
    assert said.count("D2: share of the gene means' deviance that is explained") == 1
    assert "log error: mean |difference|" in said
    table = pd.read_csv(csv).set_index(["design", "method", "score"])["value"]
    for design in study.DESIGNS:
        assert table[design, "gene_mean", "d2"] == pytest.approx(0, abs=1e-12)
        assert (tmp_path / "out" / f"{design}.png").exists()
    scored = pd.read_csv(csv).query("score == 'ari'")
    assert set(scored["design"]) == {"molecules"}
    assert set(pd.read_csv(csv).query("score == 'log_error'")["design"]) == {"entries"}
    _, said = run(*args[:-4], "--label-key", "group", "--protocol", "pca-kmeans", *args[-2:])
    assert "Nothing to do: all 8 runs were in" in said


def test_all_designs_where_most_cells_are_empty(source, tmp_path):
    """The median depth is that of the cells with molecules."""
    adata = anndata.read_h5ad(source)
    sizes = adata.X.sum(1)
    adata.X[sizes < np.sort(sizes)[80]] = 0
    adata.write_h5ad(source)
    said = run(source, "--design", "all", *CHEAP)[1]
    half = np.floor(np.median(sizes[sizes >= np.sort(sizes)[80]]) / 2)
    assert f"thinned to a median of {half:,.0f} molecules" in said


def test_entries_alone_with_our_method(source, tmp_path):
    csv = tmp_path / "scores.csv"
    run(source, "--design", "entries", *SHORT, "--csv", csv)
    table = pd.read_csv(csv).set_index(["method", "score"])["value"]
    assert table["graphsci", "log_pearson"] > table["empty", "log_pearson"] == 0


def test_zero_inflation_is_expected_to_drop_again(source, tmp_path):
    csv = tmp_path / "scores.csv"
    run(source, *SHORT[:-4], "--likelihood", "zinb", "--graph", "none", "--csv", csv)
    table = pd.read_csv(csv).set_index(["method", "score"])["value"]
    assert table["graphsci", "d2"] > table["nothing", "d2"]
    assert ("graphsci", "coverage") not in table


# --- estimates of other programs --------------------------------------------------------


def test_another_programs_estimate_of_the_kept_counts_is_scored(source, tmp_path):
    split = tmp_path / "split.h5ad"
    _, said = run(source, "--write-split", split)
    assert "layers['held_out'] the others" in said
    adata = anndata.read_h5ad(split)
    whole = adata.X + adata.layers["held_out"]
    original = anndata.read_h5ad(source)[:, adata.var_names]
    np.testing.assert_array_equal(whole.toarray(), original.X)
    adata.layers["theirs"] = adata.X.copy()  # as good as nothing
    adata.write_h5ad(split)
    csv = tmp_path / "scores.csv"
    given = ("--held-out", "held_out", "--method", "theirs", *CHEAP)
    run(split, *given, "--csv", csv, "-o", tmp_path / "out")
    table = pd.read_csv(csv).set_index(["method", "score"])["value"]
    assert table["theirs", "deviance"] == pytest.approx(table["nothing", "deviance"])
    _, said = run(split, *given, "-o", tmp_path / "out")
    assert "Nothing to do" in said


@pytest.mark.parametrize(
    "form",
    [
        lambda whole: whole,
        lambda whole: whole.toarray(),
        lambda whole: 0.9 * whole.toarray() + 1e-3,
        lambda whole: np.log1p(whole.toarray() / np.maximum(np.asarray(whole.sum(1)), 1) * 1e4),
    ],
)
def test_a_layer_of_the_whole_counts_is_refused_on_any_scale(source, tmp_path, form):
    split = tmp_path / "split.h5ad"
    run(source, "--write-split", split)
    adata = anndata.read_h5ad(split)
    adata.layers["whole"] = form(sparse.csr_matrix(adata.X + adata.layers["held_out"]))
    adata.write_h5ad(split)
    given = ("--held-out", "held_out", "--method", "whole", *CHEAP)
    _, said = run(split, *given, exit_code=cli.BAD_INPUT)
    assert "it has seen the answer. Run the method on X of this file" in said


@pytest.mark.parametrize(
    ("form", "told"),
    [
        (lambda kept: kept.toarray() * 0.8 + kept.toarray().mean(0) * 0.2, False),
        (lambda kept: kept.toarray() / np.maximum(kept.sum(1), 1) * 1e6, True),
        (lambda kept: np.log1p(kept.toarray()) / 9, True),
    ],
)
def test_an_estimate_on_another_scale_is_told(source, tmp_path, form, told):
    split = tmp_path / "split.h5ad"
    run(source, "--write-split", split)
    adata = anndata.read_h5ad(split)
    adata.layers["theirs"] = np.asarray(form(sparse.csr_matrix(adata.X)), dtype=np.float32)
    adata.write_h5ad(split)
    _, said = run(split, "--held-out", "held_out", "--method", "theirs", *CHEAP)
    assert ("layers['theirs'] sums to" in " ".join(said.split())) == told


def test_controls_are_not_run_again_for_batches(source, tmp_path):
    args = (source, "-o", tmp_path / "out", "--method", "graphsci", *CHEAP, *SHORT)
    run(*args)
    _, said = run(*args, "--batch-key", "batch")
    assert "graphsci, seed 0" in said
    assert "gene_mean, seed 0" not in said


@pytest.mark.parametrize("design", ["molecules", "cells"])
def test_batches_are_told_to_the_method(source, design):
    """The batches of the toy differ by a factor of two a gene: who knows them predicts better."""
    args = (source, "--method", "graphsci-mean", "--method", "gene_mean", "--design", design)
    args += ("--max-epochs", "30", "--graph", "none", "--json", "-")
    found = {}
    for name, more in {"blind": (), "told": ("--batch-key", "batch")}.items():
        result, _ = run(*args, *more)
        methods = json.loads(result.stdout)["designs"][design]["methods"]
        found[name] = {method: told["scores"]["d2"] for method, told in methods.items()}
    assert found["told"]["gene_mean"] == found["blind"]["gene_mean"]
    assert found["told"]["graphsci-mean"] > found["blind"]["graphsci-mean"]


# --- bad requests -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--method", "rate"), "has seen the answer. Write the kept counts with --write-split"),
        (
            ("--method", "magic"),
            "method: got 'magic', expected one of graphsci, graphsci-mean, nothing,",
        ),
        (("--label-key", "type"), "label_key: obs has no column 'type'; columns present: 'group'"),
        (("--batch-key", "lane"), "there is no batch column 'lane' in adata.obs; columns present"),
        (
            ("--design", "cells", "--batch-key", "rare", "--seeds", "12"),
            "of batches that no cell to learn from has",
        ),
        (
            ("--design", "depth"),
            "depth: the design 'depth' thins cells to a median: give --depth N",
        ),
        (("--depth", "60"), "depth: got 60.0 with the design 'molecules', which does not thin"),
        (
            ("--design", "depth", "--depth", "60", "--fraction", "0.2"),
            "fraction: got 0.2 with the design 'depth', whose depth says what is held out",
        ),
        (("--held-out", "rate", "--seeds", "2"), "leave out --seeds."),
        (("--held-out", "rate", "--fraction", "0.2"), "leave out --fraction."),
        (("--held-out", "rate", "--allow-fractional"), "held out before are whole numbers"),
        (("--layer", "rate"), "say so: `allow_fractional=True` (`--allow-fractional`)"),
        (
            ("--held-out", "rate", "--design", "depth", "--depth", "60"),
            "held out already, once; leave out --design, --depth.",
        ),
        (
            ("--held-out", "typo"),
            "held_out (--held-out): there is no layer 'typo'; layers present: 'rate'.",
        ),
        (("--protocol", "pca-kmeans"), "--protocol: about clusters, which are scored against"),
        (("--clustering-seeds", "2"), "--clustering-seeds: about clusters, which are scored"),
        (("--protocol", "eye"), "protocol: got 'eye', expected one of tsne-kmeans"),
        (("--design", "all", "--depth", "1e9"), "thinning cannot deepen"),
        (("--level", "1.5"), "Invalid value for '--level'"),
        (("--design", "cells", "--label-key", "group"), "clustering is scored with the designs"),
        (("--design", "cells", "--shuffled-genes", "5"), "false signal needs the designs"),
        (("--shuffled-genes", "5000"), "got n_copies=5000, expected 2 to"),
        (
            ("--shuffled-genes", "10", "--label-key", "rare"),
            "the two largest types have 119 and 1 cells, expected at least two in each",
        ),
        (
            ("--label-key", "group", "--protocol", "phate-kmeans"),
            "PHATE needs the package 'phate', which could not be imported",
        ),
        (("--design", "cells", "--write-split", "x.h5ad"), "has no one file of kept and held"),
    ],
)
def test_bad_requests_are_refused_before_training(source, tmp_path, monkeypatch, options, message):
    monkeypatch.setitem(sys.modules, "phate", None)
    _, said = run(source, "-o", tmp_path / "out", *options, *SHORT, exit_code=cli.BAD_INPUT)
    assert message in said
    assert "epoch" not in said
    assert not (tmp_path / "out").exists()


def test_a_negative_or_logged_layer_is_refused(source, tmp_path):
    split = tmp_path / "split.h5ad"
    run(source, "--write-split", split)
    adata = anndata.read_h5ad(split)
    adata.layers["theirs"] = -adata.X.toarray()
    adata.write_h5ad(split)
    _, said = run(split, "--held-out", "held_out", "--method", "theirs", exit_code=cli.BAD_INPUT)
    assert "holds negative or non-finite values, expected counts at each cell's own depth" in said


def test_outputs_are_not_replaced_unasked(source, tmp_path):
    (tmp_path / "scores.csv").write_text("mine")
    args = (source, *CHEAP, "--csv", tmp_path / "scores.csv")
    _, said = run(*args, exit_code=cli.BAD_INPUT)
    assert "exists" in said
    assert (tmp_path / "scores.csv").read_text() == "mine"
    run(*args, "--overwrite")
    assert (tmp_path / "scores.csv").read_text().startswith("design,method,seed,score,value,")


def test_a_label_column_of_one_kind_is_refused(source):
    adata = anndata.read_h5ad(source)
    adata.obs["one"] = "a"
    adata.write_h5ad(source)
    _, said = run(source, "--label-key", "one", *CHEAP, exit_code=cli.BAD_INPUT)
    assert "has 1 kinds of label, expected at least two" in said


def test_cells_without_a_label_are_left_out_of_the_clustering(source):
    adata = anndata.read_h5ad(source)
    adata.obs["group"] = adata.obs["group"].astype(object)
    adata.obs.iloc[:10, adata.obs.columns.get_loc("group")] = np.nan
    adata.write_h5ad(source)
    labels = ("--label-key", "group", "--protocol", "pca-kmeans", "--clustering-seeds", "1")
    _, said = run(source, *labels, *CHEAP)
    assert "10 cells without a label are left out of the clustering" in said


def test_a_folder_holds_one_study(source, tmp_path):
    """Designs are added to it; other settings replace it, and nothing stale stays beside them."""
    folder = tmp_path / "study"
    run(source, "-o", folder, *CHEAP, "--design", "entries")
    run(source, "-o", folder, *CHEAP, "--design", "molecules")
    both = {"entries", "molecules"}
    assert set(pd.read_csv(folder / "scores.csv")["design"]) == both
    assert set(json.loads((folder / "summary.json").read_text())["designs"]) == both
    before = state(folder)
    run(source, "-o", folder, *CHEAP, "--design", "entries")
    assert state(folder) == before
    run(source, "-o", folder, *CHEAP, "--design", "all")
    before = state(folder)
    assert "Nothing to do" in run(source, "-o", folder, *CHEAP, "--design", "all")[1]
    assert state(folder) == before
    run(source, "-o", folder, *CHEAP, "--fraction", "0.2")
    assert set(pd.read_csv(folder / "scores.csv")["design"]) == {"molecules"}
    assert [path.name for path in folder.glob("*.png")] == ["molecules.png"]
    picture = (folder / "molecules.png").read_bytes()
    run(source, "-o", folder, *CHEAP)
    assert (folder / "molecules.png").read_bytes() != picture  # though nothing was computed


def test_a_folder_holds_no_two_inputs(source, tmp_path):
    """The same path with other counts, here another layer, is another study."""
    adata = anndata.read_h5ad(source)
    adata.layers["other"] = adata.X[::-1].copy()
    adata.write_h5ad(tmp_path / "two.h5ad")
    folder = tmp_path / "study"
    run(tmp_path / "two.h5ad", "-o", folder, *CHEAP, "--design", "entries")
    run(tmp_path / "two.h5ad", "-o", folder, *CHEAP, "--layer", "other")
    assert set(pd.read_csv(folder / "scores.csv")["design"]) == {"molecules"}
    assert [path.name for path in folder.glob("*.png")] == ["molecules.png"]


def test_a_folder_that_cannot_be_filled_is_refused_first(source, tmp_path):
    (tmp_path / "file").write_text("")
    _, said = run(source, "-o", tmp_path / "file" / "study", *CHEAP, exit_code=2)
    assert "file is a file, expected a folder" in said
    assert "reading" not in said


def test_hidden_entries_are_for_the_mean(source):
    _, said = run(source, *SHORT, *CHEAP, "--method", "graphsci-mean", "--design", "entries")
    assert "takes a hidden entry's zero as measured and must lose here" in said
    assert "Where graphsci-mean loses" in said
