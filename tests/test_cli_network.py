"""`graphsci network`, from files to files."""

import json
import re
import sys

import anndata
import networkx as nx
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from typer.testing import CliRunner

from graphsci import cli
from graphsci.network import stored_network
from test_network import draw_modules

SHORT = ("--max-epochs", "15", "--no-check", "--likelihood", "nb", "--n-latent", "8")


def run(*args, exit_code=0):
    """Run the command line in this process; return its text on one line."""
    result = CliRunner().invoke(cli.app, ["network", *map(str, args)])
    said = " ".join((result.stdout + " " + result.stderr).split())
    assert result.exit_code == exit_code, (said, result.exception)
    return said


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("network")
    draw_modules(n_cells=200).write_h5ad(path / "counts.h5ad")
    first = "\t".join(["first", "-", *(f"g{i}" for i in range(15))])
    (path / "sets.gmt").write_text(f"{first}\nsecond\t-\tg40\tg41\tg42\n")
    (path / "prior.tsv").write_text("gene_a\tgene_b\ng0\tg1\ng2\tg50\n")
    args = ["impute", path / "counts.h5ad", "-o", path / "out.h5ad", *SHORT, "-q"]
    args += ["--save-model", path / "model"]
    result = CliRunner().invoke(cli.app, list(map(str, args)))
    assert result.exit_code == 0, result.stderr
    return path


def test_from_counts_to_every_file(folder, tmp_path):
    said = run(
        *(folder / "counts.h5ad", "-o", tmp_path / "edges.tsv", *SHORT),
        *("--graphml", tmp_path / "net.graphml", "--cyjs", tmp_path / "net.cyjs"),
        *("--sif", tmp_path / "net.sif", "--h5ad", tmp_path / "net.h5ad"),
        *("--modules", tmp_path / "modules.csv", "--gene-sets", folder / "sets.gmt"),
        *("--enrichment", tmp_path / "enriched.tsv", "--prior", folder / "prior.tsv"),
        *("--picture", tmp_path / "net.png", "--min-confidence", "0.8"),
        *("--cx2", tmp_path / "net.cx2", "--label-key", "type"),
        *("--label-edges", tmp_path / "labels.tsv"),
    )
    edges = pd.read_csv(tmp_path / "edges.tsv", sep="\t")
    assert (edges["confidence"] >= 0.8 - 1e-6).all()
    assert edges["prior_weight"].max() == 1
    assert f"{len(edges):,} edges" in said
    assert "false-discovery rate" in said
    graph = nx.read_graphml(tmp_path / "net.graphml")
    assert graph.number_of_edges() == len(edges)
    written = anndata.read_h5ad(tmp_path / "net.h5ad")
    matrix = written.varp["graphsci_network"]
    assert matrix.nnz == 2 * len(edges)
    assert abs(matrix - matrix.T).max() == 0
    assert written.varp["graphsci_graph"].nnz > 0
    assert json.loads((tmp_path / "net.cx2").read_text())[0]["CXVersion"] == "2.0"
    labels = pd.read_csv(tmp_path / "labels.tsv", sep="\t")
    assert list(labels["label"].unique()) == ["even", "odd"]
    assert (labels["confidence"] >= 0.8 - 1e-6).all()
    assert "edges by label: even " in said
    modules = pd.read_csv(tmp_path / "modules.csv")
    assert modules["hub_rank"].min() == 1
    enriched = pd.read_csv(tmp_path / "enriched.tsv", sep="\t")
    assert enriched.loc[0, "gene_set"] == "first"
    assert enriched.loc[0, "q_value"] < 0.01
    assert (tmp_path / "net.png").stat().st_size > 10_000


def test_genes_are_chosen_in_every_network_and_small_groups_are_named(folder, tmp_path):
    adata = anndata.read_h5ad(folder / "counts.h5ad")
    adata.obs["group"] = np.where(np.arange(adata.n_obs) < 40, "few", "many")
    adata.write_h5ad(tmp_path / "grouped.h5ad")
    said = run(
        *(tmp_path / "grouped.h5ad", "-o", tmp_path / "edges.tsv", *SHORT, "--no-control"),
        *("--label-key", "group", "--label-edges", tmp_path / "labels.tsv"),
        *("--genes", "g0,g20", "--max-genes", "8", "--h5ad", tmp_path / "net.h5ad"),
    )
    assert "groups of fewer than 50 cells are in no network: few (40)" in said
    labels = pd.read_csv(tmp_path / "labels.tsv", sep="\t")
    assert set(labels["label"]) == {"many"}
    assert len(set(labels["gene_a"]) | set(labels["gene_b"])) <= 8
    whole = stored_network(anndata.read_h5ad(tmp_path / "net.h5ad"), label="many")
    assert whole.n_edges > len(labels)
    assert (whole.parameters["n_cells"], whole.parameters["label"]) == (160, "many")


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (200, ("--gene-sets", "human.gmt", "--enrichment", "e.tsv"), "none of 1 gene sets holds"),
        (8, (), "control: got 8 cells, expected at least 10 .* --no-control"),
    ],
)
def test_what_would_fail_at_the_end_is_refused_before_training(
    folder, tmp_path, monkeypatch, cells, options, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "human.gmt").write_text("set\t-\tTP53\tMYC\n")
    anndata.read_h5ad(folder / "counts.h5ad")[:cells].write_h5ad("counts.h5ad")
    monkeypatch.setattr("graphsci.imputer.GraphSCI.fit", None)
    more = ("--modules", "m.tsv") if options else ()
    said = run("counts.h5ad", "-o", "x.tsv", *SHORT, *options, *more, exit_code=cli.BAD_INPUT)
    assert re.search(message, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.h5ad", "human.gmt"]


def test_from_a_model_around_genes(folder, tmp_path):
    out = tmp_path / "edges.csv"
    said = run(folder / "model", "-o", out, "--genes", "g0,g20", "--max-genes", "12")
    edges = pd.read_csv(out)
    assert re.search(rf"note: {len(edges)} of \d+ edges are around g0, g20", said)
    assert {"g0", "g20"} <= set(edges["gene_a"]) | set(edges["gene_b"])
    assert len(set(edges["gene_a"]) | set(edges["gene_b"])) <= 12
    assert edges["confidence"].isna().all()


@pytest.mark.parametrize(
    ("output", "package"), [("modules.tsv", "igraph"), ("x.graphml", "networkx")]
)
def test_a_missing_package_is_known_before_training(folder, tmp_path, monkeypatch, output, package):
    monkeypatch.setitem(sys.modules, package, None)
    flag = "--modules" if output == "modules.tsv" else "--graphml"
    args = (folder / "counts.h5ad", "-o", tmp_path / "edges.tsv", flag, tmp_path / output)
    heard = run(*args, *SHORT, exit_code=2)
    assert f"needs the package {package!r}, which could not be imported" in heard
    assert "epoch" not in heard
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("source", ["model", "counts"])
def test_ctrl_c_in_the_control_leaves_no_network(folder, tmp_path, interrupt_at, source):
    """And promises no weights, in that of a model trained here neither."""
    interrupt_at(2, training=1 if source == "model" else 2)
    counts = folder / "counts.h5ad"
    args = (folder / "model", "--data", counts) if source == "model" else (counts, *SHORT)
    said = run(*args, "-o", tmp_path / "edges.tsv", exit_code=cli.STOPPED)
    assert "control: training with" in said
    assert "stopped by Ctrl-C" in said
    assert "best weights so far" not in said
    assert not list(tmp_path.iterdir())


def test_ctrl_c_in_the_first_training_goes_on_with_half_a_model(folder, tmp_path, interrupt_at):
    interrupt_at(2)
    args = (folder / "counts.h5ad", "-o", tmp_path / "edges.tsv", *SHORT, "--no-control")
    said = run(*args)
    assert "with the best weights so far. Another one stops everything. " in said  # no check
    assert "interrupted after 2 epochs: its relations are half learned" in said


def test_twice_the_same(folder, tmp_path):
    for name in ("one", "two"):
        run(
            *(folder / "model", "--data", folder / "counts.h5ad", "--no-control"),
            *("-o", tmp_path / f"{name}.tsv", "--threads", "1", "-q"),
        )
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()


def test_seeds_give_stability(folder, tmp_path):
    out = tmp_path / "edges.tsv"
    run(folder / "counts.h5ad", "-o", out, *SHORT, "--n-models", "2", "--no-control")
    assert set(np.unique(pd.read_csv(out, sep="\t")["stability"])) <= {0.0, 0.5, 1.0}


def test_training_with_a_known_network(folder, tmp_path):
    """Beside the graph of the counts: its edges are listed, and its prior weight is reported."""
    out, prior = tmp_path / "edges.tsv", folder / "prior.tsv"
    said = run(
        *(folder / "counts.h5ad", "-o", out, *SHORT, "--no-control", "--network", prior),
        *("--network-weight", "0.5", "--prior", prior, "--n-neighbors", "2"),
    )
    edges = pd.read_csv(out, sep="\t").set_index(["gene_a", "gene_b"])
    assert edges.loc[("g2", "g50"), "prior_weight"] == 1
    assert edges.loc[("g2", "g50"), "initial_correlation"] >= 0.5
    assert len(edges) > 50
    assert "4 of 4 genes of the network (100%) and 2 of 2 edges are in the data" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("MODEL", "-o", "x.txt"), r"expected \.tsv or \.csv"),
        (("MODEL", "-o", "x.tsv", "--min-confidence", "0.9"), "needs a control"),
        (("MODEL", "-o", "x.tsv", "--n-models", "2"), "give the counts instead of a model"),
        (("MODEL", "-o", "x.tsv", "--h5ad", "y.h5ad"), "--h5ad needs counts"),
        (("MODEL", "-o", "x.tsv", "--gene-sets", "SETS"), "go together"),
        (("MODEL", "-o", "x.tsv", "--modules", "x.tsv"), "same path"),
        (("MODEL", "-o", "x.tsv", "--genes", "TP53"), "TP53 not among the 80 genes"),
        (("MODEL", "-o", "x.tsv", "--genes", "list.txt"), "There is no file list.txt either"),
        (("COUNTS", "-o", "x.tsv", "--genes", "TP53"), "TP53 not among .* genes of the network"),
        (("COUNTS", "-o", "x.tsv", "--layer", "nope"), "there is no layer 'nope'"),
        (("COUNTS", "-o", "x.tsv", "--layer", "nope", "--genes", "g3"), "there is no layer 'nope'"),
        (("SILENT", "-o", "x.tsv", "--genes", "g3"), "g3 .*not among the 79 genes .*with counts"),
        (("COUNTS", "-o", "x.tsv", "--data", "COUNTS"), "goes with a model folder"),
        (("COUNTS", "-o", "x.tsv", "--prior", "HUMAN"), "genes of the data"),
        (("COUNTS", "-o", "x.tsv", "--prior", "none.tsv"), "There is no file"),
        (("COUNTS", "-o", "x.tsv", "--network", "HUMAN"), "human.tsv: No edge of the network"),
        (("COUNTS", "-o", "x.tsv", "--network-symbols", "SETS"), "proteins of a known network"),
        (
            ("COUNTS", "-o", "x.tsv", "--prior", "HUMAN", "--network-symbols", "SETS"),
            "no network is STRING's",
        ),
        (("COUNTS", "-o", "x.tsv", "--max-genes", "10"), "--max-genes goes with --genes"),
        (("COUNTS", "-o", "x.tsv", "--key-added", "two"), "ask for one .--h5ad"),
        (
            (
                "MODEL",
                "-o",
                "x.tsv",
                "--picture",
                "y.png",
                "--genes",
                ",".join(map(str, range(81))),
            ),
            "--picture: got 81 genes .--genes., expected at most 80",
        ),
        (
            ("MODEL", "-o", "x.tsv", "--layer", "a", "--batch-key", "b"),
            "--layer, --batch-key: about",
        ),
        (("COUNTS", "-o", "x.tsv", "--ignore-case"), "no.* known network|none was given"),
        (("MODEL", "-o", "x.tsv", "--graph", "pidc", "--l2", "5", "--preset", "paper"), "--graph"),
        (("COUNTS", "-o", "x.tsv", "--label-key", "type"), "--label-edges or --h5ad"),
        (("COUNTS", "-o", "x.tsv", "--label-edges", "y.tsv"), "--label-edges goes with --label-"),
        (("COUNTS", "-o", "x.tsv", "--label-key", "cell", "--label-edges", "y.tsv"), "no column"),
        (("MODEL", "-o", "x.tsv", "--network", "HUMAN"), "give the counts instead of a model"),
        (("MODEL", "-o", "x.tsv", "--label-key", "t", "--label-edges", "y.tsv"), "needs counts"),
        (("MODEL", "-o", "x.tsv", "--no-control", "--seed", "3"), "--seed: nothing here is random"),
        (("MODEL", "-o", "x.tsv", "--seed", "3"), "--seed: nothing here is random"),
    ],
)
def test_bad_requests_are_one_line(folder, tmp_path, words, said):
    (tmp_path / "human.tsv").write_text("gene_a\tgene_b\nTP53\tMYC\n")
    names = {"MODEL": folder / "model", "COUNTS": folder / "counts.h5ad"}
    names |= {"SETS": folder / "sets.gmt", "HUMAN": tmp_path / "human.tsv"}
    if "SILENT" in words:  # g3 has no counts, so the network cannot have it
        adata = anndata.read_h5ad(folder / "counts.h5ad")
        adata.X = adata.X @ sparse.diags_array(np.float32(np.arange(80) != 3)).tocsr()
        names["SILENT"] = tmp_path / "silent.h5ad"
        adata.write_h5ad(names["SILENT"])
    before = sorted(tmp_path.iterdir())
    outputs = ("x.tsv", "x.txt", "y.h5ad", "y.tsv")
    args = [names.get(word, tmp_path / word if word in outputs else word) for word in words]
    heard = run(*args, exit_code=2)
    assert "graphsci: error:" in heard
    assert re.search(said, heard), heard
    assert sorted(tmp_path.iterdir()) == before
