"""The benchmark suite: what is run again, what is kept, what the tables say."""

import importlib
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse


@pytest.fixture
def folder(suite, monkeypatch, tmp_path):
    """A data folder with one small count file under a known name."""
    counts = np.random.default_rng(0).poisson(2.0, (40, 30)).astype(np.float32)
    (tmp_path / "h5ad").mkdir()
    anndata.AnnData(sparse.csr_matrix(counts)).write_h5ad(tmp_path / "h5ad" / "small.h5ad")
    data = importlib.import_module("data")
    monkeypatch.setitem(data.DATASETS, "small", data.Dataset("h5ad/small.h5ad"))
    return tmp_path


def request(suite, folder, methods, **changes):
    truth, running = suite("truth"), suite("running")
    base = truth.Request(
        data=folder,
        cases=["held-out/small"],
        methods=methods,
        seeds=[0],
        source=suite("methods").HERE,
        limits=running.Limits(cpu_s=60),
    )
    return base._replace(**changes)


def test_a_study_does_nothing_twice(suite, folder, capsys):
    asked = request(suite, folder, ["nothing", "gene_mean"])
    suite("truth").study(asked)
    table = pd.read_csv(folder / "results" / "truth.csv")
    d2 = table[table.score == "d2_as_is"].set_index("method").value
    assert d2["gene_mean"] == pytest.approx(0, abs=1e-6)
    assert d2["nothing"] < 0  # Poisson noise has no structure
    capsys.readouterr()
    suite("truth").study(asked)
    assert capsys.readouterr().out == (
        "Nothing to do: every run is there already, and nothing changed.\n"
    )


def test_a_failure_is_listed_with_its_reason_and_not_tried_again(suite, folder, monkeypatch):
    methods, truth = suite("methods"), suite("truth")
    broken = methods.METHODS["alra"]._replace(variant="x", script="run_control.py")
    monkeypatch.setitem(methods.METHODS, "alra", broken)  # there is no control named x
    asked = request(suite, folder, ["alra"])
    assert truth.run(asked) == 1
    record = suite("records").find("held-out/small", "alra", 0)
    assert "exit code 1: KeyError: 'x'" in record.failed
    assert truth.run(asked) == 0
    assert truth.run(asked._replace(retry=True)) == 1
    suite("tables").write_truth(suite("records").everything())
    assert (
        "held-out/small, alra, seed 0: exit code 1" in (folder / "results" / "truth.md").read_text()
    )


def test_a_run_over_its_limit_is_stopped(suite, folder, tmp_path):
    running = suite("running")
    loop = [sys.executable, "-c", "while True: pass"]
    with pytest.raises(running.Failed, match="the limit is 1 s of CPU"):
        running.measured(
            loop, log=tmp_path / "log", limits=running.Limits(cpu_s=1), source=tmp_path
        )


def test_a_missing_file_is_skipped_and_named(suite, tmp_path, capsys):
    assert suite("cases").build("held-out/paul15", tmp_path, seed=0) is None
    assert "skipped: no" in capsys.readouterr().out


def test_peers_do_not_depend_on_our_source(suite, tmp_path):
    methods = suite("methods")
    other = tmp_path / "src" / "graphsci"
    here = methods.HERE / "src" / "graphsci"
    for path in here.rglob("*.py"):
        target = other / path.relative_to(here)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(path.read_text())
    (other / "training/loop.py").write_text("changed = True\n")

    def same(name):
        method = methods.METHODS[name]
        found = [methods.decisive(method, source) for source in (methods.HERE, tmp_path)]
        return found[0] == found[1]

    assert same("alra")
    assert same("nothing")
    assert not same("graphsci")
    (other / "training/loop.py").write_text((here / "training/loop.py").read_text())
    (other / "cli.py").write_text("changed = True\n")
    assert same("graphsci")  # the command line decides no number


def test_held_out_molecules_are_not_among_what_a_method_sees(suite, folder):
    case = suite("cases").build("held-out/small", folder, seed=3)
    known = case.truth["case"]
    whole = anndata.read_h5ad(folder / "h5ad" / "small.h5ad").X[:, known.genes]
    assert abs(case.counts + known.held_out - whole).max() == 0
    assert 0 < known.held_out.sum() / whole.sum() < 0.2


def test_chances_keep_totals_and_leave_no_zero(suite):
    kept = sparse.csr_matrix(np.array([[4.0, 0.0], [2.0, 2.0]]))
    found = suite("judges").chances(np.array([[1.0, 0.0], [1.0, 4.0]], np.float32), kept)
    np.testing.assert_allclose(found["rescaled"].sum(0), [6, 2])
    assert (found["mixed"] > 0).all()


def test_a_variant_of_a_score_has_a_row_of_its_own(suite):
    tables, records = suite("tables"), suite("records")
    scores = {"simulated": {"scores": {"mae_all": 0.3, "mae_all@imputed_median": 0.2}}}
    run = ("simulation", "small", "graphsci", 0, (2, 3), "key", "abc", "2026-11-26", "", 1.0)
    table = tables.tidy([records.Record(*run, {}, scores)])
    lines = tables.pivot(table, tables.SCORES["mae_all"]).splitlines()
    assert lines[2:] == ["| graphsci | 0.300 |", "| graphsci, imputed_median | **0.200** |"]


def test_the_summary_says_where_ours_is_first(suite):
    tables = suite("tables")
    names = ["kind", "dataset", "method", "seed", "score", "value"]
    runs = [
        ("held-out", "a", "graphsci", 0, "d2", 0.2),
        ("held-out", "a", "graphsci", 1, "d2", 0.3),
        ("held-out", "a", "alra", 0, "d2", 0.3),
        ("held-out", "a", "saver", 0, "d2", 0.1),
        ("held-out", "a", "nothing", 0, "d2", 0.9),
        ("simulation", "b", "graphsci@imputed_median", 0, "mae_all", 0.1),
        ("simulation", "b", "alra", 0, "mae_all", 0.2),
    ]
    rows = tables.summary(pd.DataFrame(runs, columns=names)).splitlines()[6:]
    assert rows[0].endswith("| graphsci | 0 of 1 | a 0.200 / 0.300 alra / 0.900 |")
    assert rows[1].endswith("| graphsci, imputed_median | 1 of 1 | **b 0.100** / 0.200 alra / - |")


def test_tables_of_the_document_are_replaced_between_their_marks(suite, tmp_path, monkeypatch):
    docs = importlib.import_module("refresh_docs")
    (tmp_path / "study.md").write_text("# Study\n\n## Some score\n\n| new |\n|---|\n\n## Other\n")
    document = tmp_path / "results.md"
    mark = "<!-- table study.md: Some -->\n"
    document.write_text(f"before\n{mark}| old |\n<!-- end -->\nafter\n")
    monkeypatch.setattr(docs, "RESULTS", tmp_path)
    monkeypatch.setattr(docs, "DOCUMENTS", [document])
    docs.main()
    assert document.read_text() == f"before\n{mark}| new |\n|---|\n<!-- end -->\nafter\n"
    document.write_text("<!-- table study.md: Missing -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match="no heading 'Missing'"):
        docs.main()


def test_a_part_of_a_study_keeps_what_others_measured(suite, tmp_path):
    written = suite("written")
    names = ["kind", "dataset", "method", "seed", "value"]
    path = tmp_path / "truth.csv"
    earlier = [("held-out", "a", "alra", 0, 0.1), ("held-out", "a", "alra", 1, 0.2)]
    pd.DataFrame(earlier, columns=names).to_csv(path, index=False)
    found = pd.DataFrame([("held-out", "a", "alra", 1, 0.5)], columns=names)
    assert written.with_earlier(found, path).value.tolist() == [0.5, 0.1]


def test_a_part_of_a_study_keeps_what_failed_before(suite, tmp_path):
    tables = suite("tables")
    path = tmp_path / "truth_failed.csv"
    names = ["case", "method", "seed", "reason"]
    earlier = [("held-out/a", "saver", 0, "too slow"), ("held-out/a", "alra", 0, "broken")]
    pd.DataFrame(earlier, columns=names).to_csv(path, index=False)
    again = SimpleNamespace(case="held-out/a", method="alra", seed=0, failed="")
    found = tables.failures([again], tmp_path)
    assert found.to_numpy().tolist() == [["held-out/a", "saver", 0, "too slow"]]


def test_ours_beside_the_best_peer_without_its_cells(suite, tmp_path):
    """Of an earlier run the numbers are left, the losses of single cells are not."""
    names = ["kind", "dataset", "cells", "method", "seed", "score", "value", "code"]
    runs = [
        ("graphsci", 0, 0.2, 1.5),
        ("graphsci", 1, 0.4, 1.0),
        ("alra", 0, 0.1, 1.75),
        ("saver", 1, 0.05, 0.5),
        ("nothing", 0, 0.9, 0.1),
    ]
    rows = [
        ("held-out", "a", 1200, method, seed, score, value, "abc")
        for method, seed, *values in runs
        for score, value in zip(("d2", "deviance"), values, strict=True)
    ]
    tables, path = suite("held_out"), tmp_path / "paired.csv"
    whole = pd.DataFrame(rows, columns=names)
    table = tables.against_best(whole, tables.paired_gaps(whole, [], path)).splitlines()
    assert table[-1] == (
        "| a | 1,200 | 0.3000 (2) | alra | 0.1000 (1) | 3.00 | nothing | 0.9000 (1) | 0.33 "
        "| -0.25 | - | -, - |"
    )
    apart = pd.DataFrame([r for r in rows if r[3:5] != ("graphsci", 0)], columns=names)
    table = tables.against_best(apart, tables.paired_gaps(apart, [], path)).splitlines()
    assert table[-1] == (
        "| a | 1,200 | 0.4000 (1) | alra | 0.1000 (1) | 4.00 | nothing | 0.9000 (1) | 0.44 | - "
        "| - | -, - |"
    )
    head = "dataset,peer,difference,standard_error,z,seeds,code\n"
    path.write_text(f"{head}a,alra,-0.2,0.05,-4,1,abc\n")
    table = tables.against_best(whole, tables.paired_gaps(whole, [], path)).splitlines()
    assert table[-1].endswith("| 0.33 | -0.2 ± 0.05 (1) | -4.0 | -, - |")
    path.write_text(f"{head}a,alra,-0.2,0.05,-4,1,def\n")  # another commit than the D2's
    table = tables.against_best(whole, tables.paired_gaps(whole, [], path)).splitlines()
    assert table[-1].endswith("| 0.33 | -0.2 ± 0.05 (1, at def) | -4.0 | -, - |")
    path.write_text(f"{head}a,saver,-0.2,0.05,-4,1,abc\n")
    assert not len(tables.paired_gaps(whole, [], path))  # it is no longer the best


def test_a_pivot_marks_the_best_of_ours_and_the_peers(suite):
    tables = suite("tables")
    part = pd.DataFrame(
        {
            "kind": "held-out",
            "dataset": "a",
            "method": ["graphsci", "graphsci", "alra", "nothing"],
            "seed": [0, 1, 0, 0],
            "value": [0.2, 0.3, 0.1, 0.9],
        }
    )
    lines = tables.pivot(part, tables.SCORES["d2"]).splitlines()
    assert lines[2:] == [
        "| graphsci | **0.250** ± 0.071 (2) |",
        "| nothing (control) | 0.900 |",
        "| alra | 0.100 |",
    ]


def test_one_row_of_the_printed_table_agrees_with_itself(suite):
    gaps = suite("paper").inconsistency().set_index("paper's name")["printed - implied"]
    assert abs(gaps["GraphSCI"]) < 0.002
    assert (gaps.drop("GraphSCI") > 0.15).all()


def test_published_data_are_read_from_local_files(suite, tmp_path):
    data = importlib.import_module("data")
    for i, file in enumerate(data.PUBLISHED["mouse_es"].files):
        pd.DataFrame([["Gm1", i, 2], ["Gm2", 0, 1]]).to_csv(
            tmp_path / f"{file}.bz2", header=False, index=False
        )
    adata = data.read_published("mouse_es", tmp_path)
    assert list(adata.obs["label"]) == ["day0"] * 2 + ["day2"] * 2 + ["day4"] * 2 + ["day7"] * 2
    np.testing.assert_array_equal(adata[:, "Gm1"].X.toarray().ravel(), [0, 2, 1, 2, 2, 2, 3, 2])
    with pytest.raises(FileNotFoundError, match="expected the file of GSE75748: get it from"):
        data.read_published("human_es", tmp_path)


def test_the_species_case_has_no_gene_of_doublets_alone(suite, tmp_path):
    """DCA refuses a gene without a molecule, and the contract promises that there is none."""
    counts = np.array([[90, 1, 0, 0], [0, 2, 80, 0], [40, 0, 45, 7]], np.float32)
    var = pd.DataFrame(index=["hg_a", "hg_b", "mm_a", "mm_b"])
    (tmp_path / "h5ad").mkdir()
    adata = anndata.AnnData(sparse.csr_matrix(counts), var=var)
    adata.write_h5ad(tmp_path / "h5ad" / "macosko_species_hundred.h5ad")
    case = suite("cases").build("species/macosko", tmp_path, seed=0)
    assert case.counts.shape == (2, 3)  # the third cell is a doublet, mm_b is its alone
    assert list(case.truth["gene_species"]) == ["hg", "hg", "mm"]
    assert list(case.truth["cell_species"]) == ["hg", "mm"]


def test_costs_go_to_a_table_of_their_own(suite, tmp_path, monkeypatch, capsys):
    """Not to that of the run on disk; a second time nothing is done."""
    scale = suite("scale")
    monkeypatch.setattr(scale, "STORE", tmp_path / "scale")
    monkeypatch.setattr(scale, "SIZES", (scale.Size("cells", 100, scale.FIXED_GENES),))
    monkeypatch.setattr(scale, "METHODS_HERE", {"alra": suite("methods").METHODS["alra"]})
    asked = request(suite, tmp_path, ["alra"])
    scale.study_scale(asked)
    assert sorted(path.name for path in (tmp_path / "results").iterdir()) == [
        "scale_methods.csv",
        "scale_methods.md",
        "scale_methods_failed.csv",
    ]
    capsys.readouterr()
    scale.study_scale(asked)
    assert "Nothing to do" in capsys.readouterr().out
