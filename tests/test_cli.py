"""The command line, from file to report: what every run must leave, and what a bad one must not."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from scipy import sparse
from typer.testing import CliRunner

import graphsci
from graphsci import cli, demo, io
from graphsci._choices import ESTIMATES
from graphsci._cli import simulate
from graphsci._cli.config import build_config
from graphsci._cli.impute import EstimateName
from graphsci._jobs import checks
from graphsci._jobs import impute as work
from graphsci._jobs.evaluate import BUILT_IN
from graphsci._splat_params import PRESETS as SPLAT_PRESETS
from graphsci._terminal import Reporter
from graphsci._words import duration
from graphsci.config import PAPER, Config
from graphsci.evaluation import PROTOCOLS
from graphsci.training.loop import EpochRecord

SHORT = ("--max-epochs", "4", "--threads", "1")
LINUX = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")


def run(*args, exit_code=0):
    """Run the command line in this process; return the result and its text on one line."""
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    said = " ".join((result.stdout + " " + result.stderr).split())
    assert result.exit_code == exit_code, (said, result.exception)
    return result, said


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def counts(tmp_path, draw):
    """A file of counts with an old layer, alone in a folder."""
    path = tmp_path / "counts.h5ad"
    toy = draw()
    toy.X = sparse.csr_matrix(toy.X)
    toy.uns["mine"] = {"kept": 1}
    toy.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, draw):
    """One run with every output; tests look at it and do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    source = folder / "counts.h5ad"
    draw().write_h5ad(source)
    estimates = [word for name in ("mean", "denoised", "imputed") for word in ("--estimate", name)]
    _, said = run(
        *("impute", source, "-o", folder / "out.h5ad", *SHORT, *estimates, "--interval", "0.9"),
        *("--likelihood", "zinb", "--save-model", folder / "model", "--seed", "3"),
        *("--report", folder / "report.html", "--json", folder / "run.json"),
        *("--label-key", "group"),
    )
    return folder, said


# --- from file to report ----------------------------------------------------------------


def test_a_model_survives_a_full_disk(counts, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr(work, "write_estimates", full)
    options = ("-o", tmp_path / "out.h5ad", "--save-model", tmp_path / "model", *SHORT)
    run("impute", counts, *options, "--no-check", exit_code=2)
    assert graphsci.GraphSCI.load(tmp_path / "model").fitted.best_epoch
    assert not (tmp_path / "out.h5ad").exists()


def test_text_files_of_windows(counts, tmp_path):
    """Written with a mark of the byte order, as some editors do."""
    for name, text in (("genes.txt", "gene3\r\ngene10\r\n"), ("config.toml", "max_epochs = 1")):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
    out, genes = tmp_path / "out.h5ad", ("--genes", tmp_path / "genes.txt")
    run("impute", counts, "-o", out, *genes, "--config", tmp_path / "config.toml", "--no-check")
    tables = anndata.read_h5ad(out).obsm
    assert list(tables["graphsci_denoised"].columns) == ["gene3", "gene10"]


def test_a_run_keeps_its_promises(finished):
    folder, said = finished
    before = anndata.read_h5ad(folder / "counts.h5ad")
    after = anndata.read_h5ad(folder / "out.h5ad")
    assert files(folder) == ["counts.h5ad", "model", "out.h5ad", "report.html", "run.json"]
    assert list(after.obs_names) == list(before.obs_names)
    assert list(after.var_names) == list(before.var_names)
    np.testing.assert_array_equal(after.X, before.X)
    np.testing.assert_array_equal(after.layers["rate"], before.layers["rate"])
    names = ("certainty", "misfit", "size_factor")
    certainty, misfit, factors = (after.obs.pop(f"graphsci_{name}") for name in names)
    np.testing.assert_array_equal(
        after.obs.pop("graphsci_library"), np.asarray(before.X.sum(1)).ravel()
    )
    pd.testing.assert_frame_equal(after.obs, before.obs)
    depth = after.uns["graphsci"]["common_depth"]
    np.testing.assert_allclose(factors, before.X.sum(1) / depth, rtol=1e-6)
    assert certainty.between(np.exp(-3), np.exp(3)).all()
    assert misfit.isna().tolist() == (before.X.sum(1) == 0).tolist()
    assert (misfit > 1).mean() <= 0.05
    names = ("mean", "denoised", "denoised_sd", "denoised_lower", "denoised_upper", "imputed")
    for name in names:
        values = after.layers[name]
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    layers = after.layers
    assert (layers["denoised_lower"] <= layers["denoised_upper"]).all()
    measured = before.X > 0
    np.testing.assert_array_equal(layers["imputed"][measured], before.X[measured])
    graph = after.varp["graphsci_graph"]
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().max() == 0
    record = after.uns["graphsci"]
    assert set(record["estimates"]) == set(names)
    assert record["versions"]["graphsci"] == graphsci.__version__
    assert record["verdict"]["line"] in said


def test_the_report_and_the_summary_say_the_same_as_the_file(finished):
    folder, _ = finished
    summary = json.loads((folder / "run.json").read_text())
    record = anndata.read_h5ad(folder / "out.h5ad").uns["graphsci"]
    page = (folder / "report.html").read_text()
    assert summary["verdict"]["line"] == record["verdict"]["line"]
    assert record["verdict"]["line"].split(". ")[0] in page
    assert summary["data"]["cells"] == 120
    assert summary["seconds"]["total"] > 0
    assert summary["peak_memory_mib"] is None or summary["peak_memory_mib"] > 50
    assert "Genes without any count: 1 (gene5)" in page
    assert page.count("data:image/png;base64,") >= 8


@pytest.mark.parametrize(
    ("options", "where"),
    [
        (("--genes", "gene3,gene10"), "obsm[&#34;graphsci_denoised&#34;]"),
        (("--prefix", "g_", "--interval", "0.8"), "layers[&#34;g_denoised_lower&#34;]"),
    ],
)
def test_a_report_describes_estimates_wherever_they_are(finished, tmp_path, options, where):
    folder, _ = finished
    out = ("-o", tmp_path / "out.h5ad", "--report", tmp_path / "report.html")
    run("apply", folder / "model", folder / "counts.h5ad", *out, *options)
    page = (tmp_path / "report.html").read_text()
    assert where in page
    assert "posterior mean of the expression rate" in page
    _, said = run("info", tmp_path / "out.h5ad")
    assert ("(80%)" in said) == ("--interval" in options)


def test_a_saved_model_can_be_read_by_whoever_may_read_its_record(finished):
    folder, _ = finished
    modes = {
        (folder / "model" / name).stat().st_mode for name in ("model.safetensors", "model.json")
    }
    assert len(modes) == 1


def test_a_second_run_and_the_saved_model_give_the_same_bits(finished, tmp_path):
    folder, _ = finished
    first = anndata.read_h5ad(folder / "out.h5ad")
    estimates = ("--estimate", "mean", "--estimate", "denoised")
    again = ("impute", folder / "counts.h5ad", "-o", tmp_path / "again.h5ad", *estimates)
    run(*again, *SHORT, "--likelihood", "zinb", "--seed", "3", "--quiet")
    applied = ("apply", folder / "model", folder / "counts.h5ad", "-o", tmp_path / "applied.zarr")
    run(*applied, *estimates, "--threads", "1")
    for other in (
        anndata.read_h5ad(tmp_path / "again.h5ad"),
        anndata.read_zarr(tmp_path / "applied.zarr"),
    ):
        np.testing.assert_array_equal(other.layers["denoised"], first.layers["denoised"])
        np.testing.assert_array_equal(other.layers["mean"], first.layers["mean"])
        np.testing.assert_array_equal(other.obsm["X_graphsci"], first.obsm["X_graphsci"])


def test_apply_says_which_genes_it_cannot_estimate(finished, tmp_path):
    """As Python warns: printed, and among the notes of the output."""
    folder, _ = finished
    new = anndata.read_h5ad(folder / "counts.h5ad")
    new.var_names = [f"{name}.1" if i % 3 == 0 else name for i, name in enumerate(new.var_names)]
    new.write_h5ad(tmp_path / "new.h5ad")
    _, said = run("apply", folder / "model", tmp_path / "new.h5ad", "-o", tmp_path / "out.h5ad")
    notes = anndata.read_h5ad(tmp_path / "out.h5ad").uns["graphsci"]["notes"]
    for expected in (
        "20 genes of the model were not measured here",
        "20 genes are not in the model's training data",
    ):
        assert expected in said
        assert any(note.startswith(expected) for note in notes)


def test_apply_matches_genes_by_name_and_says_how(finished, tmp_path):
    folder, _ = finished
    new = anndata.read_h5ad(folder / "counts.h5ad")[:20, ::-1][:, :50].copy()
    new.var_names = ["stranger", *new.var_names[1:]]
    new.write_h5ad(tmp_path / "new.h5ad")
    _, said = run("apply", folder / "model", tmp_path / "new.h5ad", "-o", tmp_path / "out.h5ad")
    assert re.search(r"49 of 59 genes matched by name; 10 not measured.*1 outside", said)
    out = anndata.read_h5ad(tmp_path / "out.h5ad")
    assert list(out.var_names) == list(new.var_names)
    assert np.isnan(out.layers["denoised"][:, 0]).all()
    assert np.isfinite(out.layers["denoised"][:, 1:]).all()


def test_apply_says_that_the_check_was_of_other_cells(finished, tmp_path):
    folder, _ = finished
    new = anndata.read_h5ad(folder / "counts.h5ad")[:20]
    new.write_h5ad(tmp_path / "new.h5ad")
    out, page, batch = tmp_path / "out.h5ad", tmp_path / "report.html", ("--batch-key", "batch")
    _, said = run(
        "apply", folder / "model", tmp_path / "new.h5ad", "-o", out, "--report", page, *batch
    )
    assert "Checked on the model's training data: " in said
    assert "gene graph:" not in said  # that note is of the training
    assert "batch_key 'batch' has no effect: the model was trained without batches" in said
    text = page.read_text()
    assert "On the model's training data: " in text
    assert "Of the data that the model was trained on, not of these cells: " in text
    _, said = run("info", out)
    assert "verdict On the training data: " in said
    assert "On the model's training data: " not in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("estimates", "untested"),
    [
        (("mean",), "'mean'"),
        (("denoised", "imputed", "mean"), "'mean' and 'imputed'"),
        (("denoised",), None),
    ],
)
def test_the_check_is_of_denoised_and_says_so_of_others(counts, tmp_path, estimates, untested):
    out, asked = tmp_path / "out.h5ad", [w for name in estimates for w in ("--estimate", name)]
    _, said = run("impute", counts, "-o", out, *SHORT, *asked)
    note = f"The check is of the estimate 'denoised': of {untested} nothing was tested."
    assert (note in said) == (untested is not None)
    assert (note in anndata.read_h5ad(out).uns["graphsci"]["notes"]) == (untested is not None)
    assert ("nothing was tested" in said) == (untested is not None)


def test_apply_tells_what_the_new_counts_are_like(finished, tmp_path):
    """Rounded to a common depth: no raw counts, which the model's own notes cannot know."""
    folder, _ = finished
    new = anndata.read_h5ad(folder / "counts.h5ad")
    new.X = np.rint(new.X / np.maximum(new.X.sum(1, keepdims=True), 1) * 1e5)
    new.write_h5ad(tmp_path / "new.h5ad")
    _, said = run("apply", folder / "model", tmp_path / "new.h5ad", "-o", tmp_path / "out.h5ad")
    assert "note: Practically all cells have one library size" in said


def test_chosen_genes_become_tables_and_nothing_else_is_dense(counts, tmp_path):
    (tmp_path / "genes.txt").write_text("gene3\ngene10\n\n")
    out = tmp_path / "out.h5ad"
    run("impute", counts, "-o", out, *SHORT, "--genes", tmp_path / "genes.txt", "--no-check")
    after = anndata.read_h5ad(out)
    table = after.obsm["graphsci_denoised"]
    assert list(table.columns) == ["gene3", "gene10"]
    assert list(after.layers) == ["rate"]
    run("impute", counts, "-o", out, *SHORT, "--genes", "gene10,gene3", "--no-check", "--overwrite")
    other = anndata.read_h5ad(out).obsm["graphsci_denoised"]
    np.testing.assert_array_equal(other[["gene3", "gene10"]], table)


def test_names_of_the_run_and_of_layers_can_be_chosen(counts, tmp_path):
    out = tmp_path / "out.h5ad"
    names = ("--key-added", "second", "--prefix", "b_")
    scales = ("--depth", "common", "--scale", "log1p")
    batch = ("--batch-key", "batch")
    _, said = run("impute", counts, "-o", out, *SHORT, *names, *scales, *batch, "--no-check")
    after = anndata.read_h5ad(out)
    assert after.uns["second"]["batch_key"] == "batch"
    levels = sorted(after.obs["batch"].astype(str).unique())
    assert list(after.uns["second"]["batches"]) == levels
    assert f"batches {', '.join(levels)}" in said
    assert f"batches {', '.join(levels)}" in run("info", out)[1]
    assert {"b_denoised", "b_denoised_sd"} < set(after.layers)
    assert {"X_second"} == set(after.obsm)
    assert after.uns["second"]["estimates"]["b_denoised"]["unit"].startswith("log(1 + counts)")
    assert after.uns["mine"]["kept"] == 1


def test_a_table_and_a_network_as_input(draw, tmp_path):
    toy = draw()
    frame = pd.DataFrame(toy.X.T, index=toy.var_names, columns=toy.obs_names)
    frame.to_csv(tmp_path / "counts.csv")
    (tmp_path / "network.tsv").write_text("gene7\tgene8\t1\ngene8\tgene9\t0.5\n")
    out = tmp_path / "out.zarr"
    network = ("--network", tmp_path / "network.tsv")
    run("impute", tmp_path / "counts.csv", "--genes-in", "rows", "-o", out, *SHORT, *network)
    after = anndata.read_zarr(out)
    assert after.shape == toy.shape
    assert after.varp["graphsci_graph"].nnz == 4


def test_imputed_under_nb_is_said_to_be_the_counts(counts, tmp_path):
    options = ("--estimate", "imputed", "--likelihood", "nb", "--no-check")
    _, said = run("impute", counts, "-o", tmp_path / "out.h5ad", *SHORT, *options)
    assert "'imputed' equals the counts here" in said
    after = anndata.read_h5ad(tmp_path / "out.h5ad")
    np.testing.assert_array_equal(after.layers["imputed"], after.X.toarray())


def test_json_on_standard_output_is_json_alone(counts, tmp_path):
    result, _ = run("impute", counts, "-o", tmp_path / "out.h5ad", *SHORT, "--json", "-")
    summary = json.loads(result.stdout)
    assert summary["record"]["config"]["max_epochs"] == 4
    assert summary["verdict"]["line"] in result.stderr.replace("\n", " ")


def test_quiet_prints_nothing(counts, tmp_path):
    result, _ = run("impute", counts, "-o", tmp_path / "out.h5ad", *SHORT, "-q", "--no-check")
    assert result.stdout == result.stderr == ""


# --- refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--layer", "nothing"), "no layer 'nothing'; layers present: 'rate'"),
        (("--layer", "rate"), "whole numbers|integ|not raw counts|not counts"),
        (("--batch-key", "nothing"), "no batch column 'nothing'"),
        (("--genes", "gene3,GENE4"), "1 of 2 are not in var_names: GENE4 .similar: gene4"),
        (("--genes", "lists/genes"), "case. There is no file lists/genes either"),
        (("--genes", "genes.txt"), "There is no file genes.txt either"),
        (("--genes", ","), "names none"),
        (("--genes", "counts.h5ad"), "genes: counts.h5ad is no text"),
        (("--genes-in", "rows"), "only tables"),
        (("--interval", "0.9", "--estimate", "mean"), "belongs to the estimate 'denoised'"),
        (("--prefix", "", "--key-added", "mine"), 'the input has uns\\["mine"\\] already'),
        (("--network", "nowhere.tsv"), "nowhere.tsv"),
        (("--label-key", "nothing"), "none was asked for. Ask for it"),
        (("--ignore-case",), "about the genes of a known network, but none was given"),
        (("--network-weight", "0.5"), "no known network to weigh"),
        (("--label-key", "nothing", "--report", "r.html"), "obs has no column 'nothing'"),
        (("--save-model", "nowhere/model"), "nowhere does not exist"),
        (("--save-model", "counts.h5ad", "--overwrite"), "counts.h5ad is a file, and a folder"),
        (("--save-model", "counts.h5ad/model"), "counts.h5ad does not exist"),
        pytest.param(("--save-model", "/proc/x"), "/proc takes no file to become x", marks=LINUX),
        pytest.param(("--report", "/proc/x.html"), "/proc takes no file to become", marks=LINUX),
        (("--report", "report.pdf"), "report.pdf ends in '.pdf'"),
        (("--json", "nowhere/run.json"), "nowhere does not exist"),
        (("--config", "nowhere.toml"), "there is no file nowhere.toml. Check the path"),
        (("--graph", "none", "--graph-top-k", "5"), "graph_top_k: got 5 with graph 'none'"),
        (("--kept-low", "0.9", "--kept-high", "0.5"), "kept_low: got 0.9"),
        (("--device", "abacus"), "device: got 'abacus'"),
        (("--key-added", "a/b"), "key_added \\(--key-added\\): got 'a/b', expected a name without"),
        (("--prefix", "a/"), "prefix \\(--prefix\\): got 'a/', expected a name without"),
    ],
)
def test_bad_requests_are_one_line_and_leave_nothing(counts, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    result, said = run("impute", counts, "-o", "out.h5ad", *SHORT, *more, exit_code=cli.BAD_INPUT)
    errors = [line for line in result.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert re.search(message, said)
    assert "Traceback" not in said
    assert files(tmp_path) == ["counts.h5ad"]


def test_a_disk_without_room_is_told_before_training(counts, tmp_path, monkeypatch):
    """Of two float32 matrices; compressed ones may fit."""
    shape = anndata.read_h5ad(counts).shape
    room = SimpleNamespace(free=2 * 4 * shape[0] * shape[1] - 1)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: room)
    command = ("impute", counts, "-o", tmp_path / "out.h5ad", *SHORT, "--no-check")
    _, said = run(*command, exit_code=cli.BAD_INPUT)
    assert "2 matrices of all cells and genes (denoised, denoised_sd) take" in said
    assert "epoch" not in said
    assert files(tmp_path) == ["counts.h5ad"]
    run(*command, "--dtype", "float16")
    run(*command, "--compression", "gzip", "--overwrite")


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing.h5ad", "no file .*nothing.h5ad"), ("broken.h5ad", "could not be read as .h5ad")],
)
def test_bad_files(tmp_path, name, message):
    (tmp_path / "broken.h5ad").write_text("no HDF5")
    args = ("impute", tmp_path / name, "-o", tmp_path / "out.h5ad")
    _, said = run(*args, exit_code=cli.BAD_INPUT)
    assert re.search(message, said)
    assert files(tmp_path) == ["broken.h5ad"]


def test_debug_shows_the_traceback(tmp_path, capsys):
    args = ("impute", tmp_path / "nothing.h5ad", "-o", tmp_path / "out.h5ad", "--debug")
    _, said = run(*args, exit_code=cli.BAD_INPUT)
    assert "Traceback" in said


def test_an_output_is_replaced_only_on_request(counts, tmp_path):
    out = tmp_path / "out.h5ad"
    out.write_text("precious")
    _, said = run("impute", counts, "-o", out, *SHORT, exit_code=cli.BAD_INPUT)
    assert "--overwrite" in said
    assert out.read_text() == "precious"
    run("impute", counts, "-o", out, *SHORT, "--overwrite", "--no-check")
    _, said = run("impute", out, "-o", tmp_path / "b.h5ad", *SHORT, exit_code=cli.BAD_INPUT)
    assert (
        'the input has uns["graphsci"], obs["graphsci_library"], obs["graphsci_size_factor"], '
        'obs["graphsci_certainty"], obs["graphsci_misfit"], obsm["X_graphsci"], varm["graphsci"], '
        'varp["graphsci_graph"], var["graphsci_inverse_dispersion"], var["graphsci_variation_p"], '
        'var["graphsci_state_weight"], '
        'layers["denoised"], layers["denoised_sd"] already'
    ) in said
    run("impute", out, "-o", out, *SHORT, "--overwrite", "--no-check")  # in place
    assert {"rate", "denoised", "denoised_sd"} == set(anndata.read_h5ad(out).layers)


def test_what_another_program_left_is_replaced_only_on_request(counts, tmp_path):
    adata = anndata.read_h5ad(counts)
    adata.obsm["X_pca"], adata.obsm["run_denoised"] = np.ones((120, 2)), np.ones((120, 2))
    adata.write_h5ad(counts)
    for more, slot in (
        (("--key-added", "pca"), 'obsm["X_pca"]'),
        (("--key-added", "run", "--genes", "gene3"), 'obsm["run_denoised"]'),
    ):
        out = tmp_path / f"{more[1]}.h5ad"
        args = ("impute", counts, "-o", out, *SHORT, "--no-check", *more)
        _, said = run(*args, exit_code=cli.BAD_INPUT)
        assert f"the input has {slot} already" in said
        run(*args, "--overwrite", "--quiet")


def test_the_counts_are_never_overwritten(tmp_path, draw):
    toy = draw()
    toy.layers["denoised"] = toy.X
    toy.write_h5ad(tmp_path / "counts.h5ad")
    args = ("impute", tmp_path / "counts.h5ad", "-o", tmp_path / "out.h5ad", "--overwrite")
    _, said = run(*args, "--layer", "denoised", exit_code=cli.BAD_INPUT)
    assert "the counts are in layers['denoised'], where an estimate would be written" in said
    assert "--prefix" in said


def test_two_outputs_cannot_share_a_path(counts, tmp_path):
    same = ("--report", tmp_path / "a.html", "--save-model", tmp_path / "a.html")
    _, said = run("impute", counts, "-o", tmp_path / "out.h5ad", *same, exit_code=cli.BAD_INPUT)
    assert "two outputs have the same path" in said


def test_a_failure_while_writing_leaves_the_old_file(counts, tmp_path, monkeypatch):
    out = tmp_path / "out.h5ad"
    out.write_text("precious")

    def fail(fitted, cells, request, **kwargs):
        raise OSError("the disk is full")

    monkeypatch.setattr("graphsci._jobs.output.estimate_blocks", fail)
    args = ("impute", counts, "-o", out, *SHORT, "--no-check", "--overwrite")
    _, said = run(*args, exit_code=cli.BAD_INPUT)
    assert "the disk is full" in said
    assert out.read_text() == "precious"
    assert files(tmp_path) == ["counts.h5ad", "out.h5ad"]


def test_a_missing_package_is_no_bug(counts, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ImportError("this needs igraph: pip install 'graphsci[network]'")

    monkeypatch.setattr(work, "impute", fail)
    _, said = run("impute", counts, "-o", tmp_path / "out.h5ad", exit_code=cli.BAD_INPUT)
    assert "error: this needs igraph: pip install 'graphsci[network]'" in said
    assert "bug" not in said


def test_our_own_bugs_have_another_exit_code(counts, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(work, "impute", fail)
    args = ("impute", counts, "-o", tmp_path / "out.h5ad")
    _, said = run(*args, exit_code=cli.OUR_BUG)
    assert "ZeroDivisionError: division by zero. This looks like a bug" in said


def test_a_log_file_tells_how_long_training_takes(capsys):
    reporter = Reporter(quiet=False)
    for epoch in range(1, 101):
        reporter.progress(EpochRecord(epoch, 12.5, 11.25, 1e-3, 28.0 * epoch), 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == ("epoch 3 of 100: loss 12.50, validation 11.25; 84 s, about 45 min left")
    assert lines[-1] == "epoch 100 of 100: loss 12.50, validation 11.25; 47 min"
    assert len(lines) == 40  # of every ten the third, sixth and ninth, for time, and the tenth


def test_lengths_of_time():
    words = [duration(seconds) for seconds in (0.4, 99, 100, 5_900, 12_000)]
    assert words == ["0 s", "99 s", "2 min", "98 min", "3 h 20 min"]


# --- Ctrl-C -----------------------------------------------------------------------------


def test_ctrl_c_ends_training_and_keeps_what_was_learned(counts, tmp_path, interrupt_at):
    interrupt_at(3)
    handler = signal.getsignal(signal.SIGINT)
    out = tmp_path / "out.h5ad"
    _, said = run("impute", counts, "-o", out, "--max-epochs", "1000", "--threads", "1")
    assert "Ctrl-C: training ends here, with the best weights so far" in said
    assert re.search(r"interrupted after 3 epochs; the weights of epoch \d were used", said)
    assert anndata.read_h5ad(out).uns["graphsci"]["training"]["stopped"] == "interrupted"
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_second_ctrl_c_stops_everything(counts, tmp_path, interrupt_at, monkeypatch):
    interrupt_at(2)

    def press(fitted, cells, request, **kwargs):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("graphsci._jobs.output.estimate_blocks", press)
    args = ("impute", counts, "-o", tmp_path / "out.h5ad", *SHORT, "--no-check")
    _, said = run(*args, exit_code=cli.STOPPED)
    assert "stopped by Ctrl-C; unfinished outputs were removed" in said
    assert files(tmp_path) == ["counts.h5ad"]


def test_ctrl_c_before_there_is_anything_to_keep(counts, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "graphsci.training.objectives.ThinningObjective.step_loss", lambda *a: _press()
    )
    args = ("impute", counts, "-o", tmp_path / "out.h5ad", *SHORT)
    _, said = run(*args, exit_code=cli.STOPPED)
    assert "stopped by Ctrl-C; unfinished outputs were removed" in said
    assert files(tmp_path) == ["counts.h5ad"]


TERMINATED_WHILE_WRITING = """
import signal
from graphsci import cli
from graphsci._jobs import output

class Deaf:
    def __del__(self):  # what is raised here is ignored
        signal.raise_signal(signal.SIGTERM)

output.estimate_blocks = lambda *args, **kwargs: Deaf() and ()
cli.main()
"""


def test_sigterm_leaves_no_temporary_file(counts, tmp_path):
    """What a batch system sends at the end of a job's time."""
    args = ("impute", counts, "-o", tmp_path / "out.h5ad", *SHORT, "--no-check", "--quiet")
    command = (sys.executable, "-c", TERMINATED_WHILE_WRITING, *map(str, args))
    ended = subprocess.run(command, timeout=300, capture_output=True, text=True)
    assert ended.returncode == 143
    assert ended.stderr == (
        "graphsci: error: stopped by SIGTERM; unfinished outputs were removed.\n"
    )
    assert files(tmp_path) == ["counts.h5ad"]


def test_one_of_several_processes_ends_by_sigterm_without_a_word():
    """Whoever started them tells, and looks at how they ended."""
    terminated = "cli.app = lambda: signal.raise_signal(signal.SIGTERM); cli.main()"
    command = (sys.executable, "-c", f"import signal; from graphsci import cli; {terminated}")
    env = {**os.environ, "WORLD_SIZE": "2"}
    ended = subprocess.run(command, timeout=300, capture_output=True, text=True, env=env)
    assert (ended.returncode, ended.stderr) == (-signal.SIGTERM, "")


def test_main_leaves_the_handling_of_sigterm_as_it_was(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["graphsci", "--version"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        cli.main()
    assert signal.getsignal(signal.SIGTERM) is before


def _press():
    signal.raise_signal(signal.SIGINT)


# --- settings ---------------------------------------------------------------------------


def test_help_lists_every_hyper_parameter_with_its_default():
    _, said = run("impute", "--help")
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in said
        assert field.metadata["help"].split()[0] in said
    assert "L2 penalty on the encoders' weights. Only with preset 'paper'." in said
    assert "--check / --no-check" in said
    assert "(0.3); 0.0<=x<=1.0" in said
    assert "(128; paper: 16); x>=1" in said
    assert "(0; paper: 30)" in said


def test_choices_that_are_written_twice_are_the_same():
    """Typer takes no list of literals, and the program imports nothing heavy."""
    assert tuple(EstimateName) == ESTIMATES
    assert get_args(simulate.Preset) == (*SPLAT_PRESETS, "splat")
    said = run("evaluate", "--help")[1].replace("- ", "-")  # lines end at hyphens
    for name in (*BUILT_IN, *PROTOCOLS, "[default: 0.1;", "[default: 0.9;", "tsne-kmeans]"):
        assert name in said
    _, said = run("network", "--help")
    assert "With --genes: genes kept. [default: (50); x>=2]" in said
    assert "New edges per gene. [default: 20; x>=0]" in said


def test_a_flag_wins_over_the_file_and_the_file_over_the_preset(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text('preset = "paper"\nseed = 5\nn_latent = 8\n')
    chosen = build_config({"seed": 7, "n_hidden": None}, file)
    assert chosen == PAPER.replace(seed=7, n_latent=8)
    assert build_config({"preset": "default"}, file).n_hidden == Config().n_hidden
    assert build_config({}, None) == Config()
    assert build_config({"check": False}, None).check is False
    file.write_text("n_latnet = 8\n")
    with pytest.raises(ValueError, match="Did you mean 'n_latent'"):
        build_config({}, file)


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize(
    ("graph", "name", "value"),
    [
        ("none", "graph_threshold", 0.5),
        ("none", "graph_top_k", 20),
        ("pidc", "graph_threshold", 0.3),
    ],
)
def test_choices_of_edges_that_the_graph_does_not_use_are_refused(
    tmp_path, preset, graph, name, value
):
    message = f"{name}: got {value} with graph '{graph}', which does not use it. Leave it out."
    options = {"preset": preset, "graph": graph}
    with pytest.raises(ValueError, match=message):
        build_config(options | {name: value}, None)
    (tmp_path / "run.toml").write_text(f"{name} = {value}\n")
    with pytest.raises(ValueError, match=message):
        build_config(options, tmp_path / "run.toml")
    assert build_config(options, None).graph == graph


def test_values_out_of_bounds_are_refused_by_the_flag():
    _, said = run("impute", "in", "-o", "out.h5ad", "--n-latent", "0", exit_code=2)
    assert "--n-latent" in said
    _, said = run("impute", "in", "-o", "out.h5ad", "--graph", "magic", exit_code=2)
    assert "coexpressed" in said


def test_version():
    _, said = run("--version")
    assert said == f"graphsci {graphsci.__version__}"


def test_help_needs_nothing_heavy():
    code = (
        "import sys, graphsci.cli\n"
        "heavy = {'torch', 'scanpy', 'anndata', 'pandas', 'scipy', 'matplotlib', 'sklearn'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("command", "exit_code"),
    [
        (("impute", "counts.h5ad", "-o", "out.csv"), cli.BAD_INPUT),
        (("apply", "model", "counts.h5ad", "-o", "out.csv"), cli.BAD_INPUT),
        (("info", "counts.h5ad"), 0),
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(counts, command, exit_code):
    code = (
        "import sys, graphsci.cli\n"
        f"try: graphsci.cli.app({command})\n"
        "except SystemExit as ended: print('ended', ended.code, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=counts.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith(f"ended {exit_code} False\n")


def test_training_loads_no_compiler_and_draws_nothing_unasked(counts):
    heavy = {"torch._dynamo", "matplotlib", "sklearn", "graphsci.simple_methods"}
    command = ("impute", "counts.h5ad", "-o", "out.h5ad", "--no-check", "--max-epochs", "1")
    code = (
        "import sys, graphsci.cli\n"
        f"try: graphsci.cli.app({command})\n"
        f"except SystemExit as ended: print('ended', ended.code, {heavy} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=counts.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("ended 0 set()\n")


def test_python_m_graphsci_runs():
    command = [sys.executable, "-m", "graphsci", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"graphsci {graphsci.__version__}"


# --- the README -------------------------------------------------------------------------

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_readmes_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    assert "GraphSCI(seed=0)" in code
    exec(code.replace("GraphSCI(seed=0)", "GraphSCI(seed=0, max_epochs=2)"), {})
    pyplot.close("all")
    assert files(tmp_path) == ["embedding.png", "imputed.h5ad", "model"]
    assert set(anndata.read_h5ad("imputed.h5ad").layers) == {"mean", "denoised", "denoised_sd"}


def test_the_readme_names_only_flags_that_exist():
    _, impute = run("impute", "--help")
    _, apply = run("apply", "--help")
    _, evaluate = run("evaluate", "--help")
    flags = set(re.findall(r"--[a-z][a-z-]+", "".join(README.split("```")[4:])))
    assert "--report" in flags
    assert flags <= set(re.findall(r"--[a-z][a-z0-9-]+", impute + apply + evaluate))


def test_the_readme_has_the_two_commands():
    commands = "".join(blocks("bash")).splitlines()
    start = "python3 -m venv .venv && .venv/bin/pip install -q torch==2.13.0 "
    assert sum(line == start + ". && .venv/bin/graphsci demo" for line in commands) == 1
    assert sum(line.startswith(start) and line.endswith("pytest -q -n 2") for line in commands) == 1


# --- info -------------------------------------------------------------------------------


def test_info_of_counts_of_results_and_of_a_model(finished):
    folder, _ = finished
    _, said = run("info", folder / "counts.h5ad")
    assert "120 cells x 60 genes (59 detected)" in said
    assert "raw counts yes" in said
    _, said = run("info", folder / "out.h5ad")
    assert "run 'graphsci'" in said
    assert "posterior mean of the expression rate" in said
    _, said = run("info", folder / "model")
    assert "model" in said
    assert "59 (gene0, gene1" in said
    assert "Poisson deviance" in said


def test_info_tells_runs_apart(tmp_path, toy, trained):
    """Each run with its own estimates and verdict, in the order they were written."""
    trained("nb").impute(toy)
    trained("zinb").impute(toy, key_added="other", prefix="o_", depth="common", scale="log1p")
    toy.uns["other"]["verdict"] = {}
    assert toy.uns["graphsci"]["verdict"]
    toy.write_h5ad(tmp_path / "two.h5ad")
    _, said = run("info", tmp_path / "two.h5ad")
    first, second = said.split("run 'graphsci'")[1].split("run 'other'")
    assert "verdict On the training data" in first
    assert "at each cell's own library size" in first
    assert "log(1 + " not in first
    assert "verdict not checked" in second
    assert "o_denoised" in second
    assert "log(1 + " in second


def test_info_says_why_values_are_no_counts(tmp_path, draw):
    toy = draw()
    toy.X = np.log1p(toy.X)
    io.write_anndata(toy, tmp_path / "logged.zarr")
    result, _ = run("info", tmp_path / "logged.zarr", "--json")
    found = json.loads(result.stdout)
    assert found["raw_counts"] is False
    assert found["problem"]
    assert found["data"]["cells"] == 120


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_info_of_files_without_x_or_cells(tmp_path, draw, name):
    toy = draw()
    toy.layers["counts"] = toy.X
    del toy.X
    io.write_anndata(toy, tmp_path / name)
    _, said = run("info", tmp_path / name)
    assert "no: adata.X is empty (None)" in said
    _, said = run("info", tmp_path / name, "--layer", "counts")
    assert "raw counts yes" in said
    io.write_anndata(draw()[:0].copy(), tmp_path / name)
    _, said = run("info", tmp_path / name)
    assert "0 cells x 60 genes" in said
    assert "expected at least 1 cells and 2 genes" in said


def test_info_of_one_cell_and_of_notes(tmp_path, draw):
    io.write_anndata(draw()[:1].copy(), tmp_path / "one.h5ad")
    _, said = run("info", tmp_path / "one.h5ad")
    assert "raw counts yes" in said
    io.write_anndata(draw(), tmp_path / "all.h5ad")
    _, said = run("info", tmp_path / "all.h5ad")
    assert "notes Cells without any count: 1 (cell7)" in said


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_info_of_what_is_not_finite_is_json(tmp_path, draw, value):
    toy = draw()
    toy.X[3, 3] = value
    io.write_anndata(toy, tmp_path / "bad.h5ad")
    result, _ = run("info", tmp_path / "bad.h5ad", "--json")
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert found["data"]["total"] is None
    assert "NaN or infinite values (1)" in found["problem"]
    _, said = run("info", tmp_path / "bad.h5ad")
    assert "nan" not in said
    assert "NaN or infinite values (1)" in said


# --- the demo ---------------------------------------------------------------------------


def test_the_demos_counts_are_counts():
    adata = demo.load_counts()
    assert adata.shape == (700, 765)
    np.testing.assert_array_equal(adata.X.data, np.rint(adata.X.data))
    assert adata.X.data.min() >= 1
    from scanpy.datasets import pbmc68k_reduced

    shipped = pbmc68k_reduced()
    totals = shipped.obs["n_counts"].to_numpy()[:, None]
    again = np.log1p(adata.X.toarray() / totals * 1e4)
    np.testing.assert_allclose(again, shipped.raw.X.toarray(), atol=6e-4)


def test_undoing_a_normalization_notices_what_was_never_counts():
    rng = np.random.default_rng(0)
    totals = rng.integers(500, 3000, 40).astype(float)
    counts = rng.poisson(1.0, (40, 30)).astype(float)
    logged = np.round(np.log1p(1e4 * counts / totals[:, None]), 3)
    recovered, deviation = demo.undo_log_normalization(logged, totals)
    np.testing.assert_array_equal(recovered.toarray(), counts)
    assert deviation <= 1
    _, deviation = demo.undo_log_normalization(logged, 1.37 * totals)
    assert deviation > 1


def test_the_demo_fills_its_folder_twice(tmp_path):
    folder = tmp_path / "demo"
    options = ("demo", "--out-dir", folder, "--max-epochs", "2", "--threads", "1")
    _, said = run(*options)
    assert files(folder) == ["figures", "imputed.h5ad", "model", "report.html", "summary.json"]
    assert {"embedding.png", "training.png", "verdict.png"} <= set(files(folder / "figures"))
    assert "anndata.read_h5ad" in said
    after = anndata.read_h5ad(folder / "imputed.h5ad")
    assert np.isfinite(after.layers["denoised"]).all()
    assert after.obs["bulk_labels"].nunique() == 10


def test_the_demo_takes_a_file(finished, tmp_path):
    folder, _ = finished
    options = ("--data", folder / "counts.h5ad", "--out-dir", tmp_path, "--label-key", "group")
    run("demo", *options, "--max-epochs", "2", "--threads", "1", "--quiet", "--no-check")
    assert "embedding.png" in files(tmp_path / "figures")
    assert "verdict.png" not in files(tmp_path / "figures")
