"""Tables of the benchmarks: what they keep, what their headings say, what makes a run stale."""

import ast
import importlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from graphsci import preset
from graphsci.evaluation import bulk as bulk_truth


def record(suite, method="graphsci", seed=0, **changes):
    """A record of a run on the data set ``a``, with a D2."""
    judged = {"held_out": {"version": "v", "scores": {"d2": 0.2, "deviance": 1.0}}}
    run = suite("records").Record(
        *("held-out", "a", method, seed, (1200, 30), "key", "abc", "2026-11-27", "", 1.0),
        {"cpu_s": 1.0},
        judged,
    )
    return run._replace(**changes)


# --- what stays -------------------------------------------------------------------------


def test_tables_catch_up_with_a_study_that_was_stopped_before_them(suite, tmp_path, capsys):
    """The record is there, nothing is left to run, and the table lacks the run."""
    truth, records, tables = suite("truth"), suite("records"), suite("tables")
    request = truth.Request(tmp_path, [], [], [0], tmp_path, suite("running").Limits())
    records.keep(record(suite), {})
    tables.write_truth(records.everything())
    records.keep(record(suite, "alra"), {})  # and then the process was killed
    truth.study(request)
    assert "Nothing to do" not in capsys.readouterr().out
    assert set(pd.read_csv(tmp_path / "results" / "truth.csv").method) == {"graphsci", "alra"}
    truth.study(request)
    assert capsys.readouterr().out == f"{suite('written').NOTHING_TO_DO}\n"


def test_the_markdown_of_truth_needs_no_records(suite, tmp_path):
    tables = suite("tables")
    tables.write_truth([record(suite), record(suite, "alra")])
    path = tmp_path / "results" / "truth.md"
    text = path.read_text()
    path.unlink()
    assert tables.write_truth([])
    assert path.read_text() == text
    assert not tables.write_truth([])


def test_a_later_run_takes_the_place_of_an_earlier_one_with_all_its_rows(suite, tmp_path):
    tables, path = suite("tables"), tmp_path / "results" / "truth.csv"
    scores = {"d2": 0.2, "deviance": 1.0, "d2@posterior": 0.3}
    judged = {"held_out": {"version": "v", "scores": scores}}
    first = record(suite, "saver", judged=judged)
    tables.write_truth([first, record(suite)])
    plain = record(suite, "saver", made="2026-11-28")
    tables.write_truth([plain])
    assert set(pd.read_csv(path).method) == {"graphsci", "saver"}  # no variant of a run that went
    tables.write_truth([first])
    assert set(pd.read_csv(path).method) == {"graphsci", "saver"}  # an earlier day's
    tables.write_truth([plain._replace(failed="out of memory", judged={}, cost={})])
    assert set(pd.read_csv(path).method) == {"graphsci"}
    assert pd.read_csv(tmp_path / "results" / "truth_failed.csv").method.tolist() == ["saver"]


def test_methods_are_compared_on_the_same_simulations(suite, tmp_path):
    """Ours on two data sets, a peer on one: the second may be the easier one."""
    tables, paper = suite("tables"), suite("paper")

    def simulated(method, seed, ari):
        judged = {"clusters": {"version": "v", "scores": {"ari": ari}}}
        name = {"kind": "simulation", "dataset": "sim_t6_hard"}
        return record(suite, method, seed, judged=judged, **name)

    runs = [simulated("graphsci", 0, 0.2), simulated("graphsci", 1, 0.8)]
    runs += [simulated("saver", 0, 0.3), *(simulated("alra", seed, 0.4) for seed in (0, 1))]
    tables.write_truth(runs)
    text = (tmp_path / "results" / "truth.md").read_text()
    assert "sim_t6_hard 0.200 / 0.400 alra" in text
    assert "| alra | sim_t6_hard 0.400 ± 0.000 (2) |" in text
    assert "| graphsci | 0.200 |" in text
    assert "| alra | **0.400** |" in text
    assert "sim_t6_hard 0.500 ± 0.424 (2)" in text
    paper.write(runs)
    text = (tmp_path / "results" / "paper.md").read_text()
    assert "| GraphSCI | graphsci | 0.818 | 0.200 | - |" in text
    assert "| 0.500 ± 0.424 (2) |" in text


def test_a_peers_posterior_is_a_rival_of_our_posterior_alone(suite, tmp_path):
    def found(method, error, of_posterior):
        scores = {"fish_cv_error": error, "fish_cv_error@posterior": of_posterior}
        judged = {"fish": {"version": "v", "scores": scores}}
        return record(suite, method, kind="smfish", dataset="grun", judged=judged)

    suite("tables").write_truth([found("graphsci", 0.3, 0.2), found("saver", 0.4, 0.1)])
    text = (tmp_path / "results" / "truth.md").read_text()
    assert "| graphsci | 1 of 1 | **grun 0.300** / 0.400 saver / - |" in text
    assert "| graphsci, posterior | 0 of 1 | grun 0.200 / 0.100 saver@posterior / - |" in text


def test_all_tables_are_written_from_the_runs_of_any_checkout(suite, tmp_path, capsys):
    run, records = importlib.import_module("run"), suite("records")
    suite("tables").write_truth([record(suite)])
    suite("scale").write([ran(suite, "alra")])
    records.look_in(tmp_path / "other")
    records.keep(record(suite, "alra"), {})
    records.look_in(tmp_path)
    (tmp_path / "results" / "scale_methods.md").unlink()
    args = run._parser().parse_args(["tables", "--work", str(tmp_path / "other")])
    args.run(args)
    assert "| alra |" in (tmp_path / "results" / "truth.md").read_text()
    assert (tmp_path / "results" / "scale_methods.md").is_file()
    capsys.readouterr()
    args.run(args)
    assert capsys.readouterr().out == "Every table is as it was.\n"
    args.work = tmp_path / "nowhere"
    with pytest.raises(SystemExit, match="is no folder of kept runs"):
        args.run(args)


def ran(suite, method, cpu_s=1.0, failed="", code="abc"):
    scale = suite("scale")
    found = {"failed": failed, "limit_s": 900, "threads": 1, "code": code, "date": "2026-11-26"}
    scores = {"wall_s": cpu_s, "cpu_s": cpu_s, "peak_mib": 10.0, "d2": 0.1234}
    return scale.Ran(scale.SIZES[0], method, found | ({} if failed else scores))


def test_a_part_of_the_costs_keeps_the_others(suite, tmp_path):
    scale = suite("scale")
    scale.write([ran(suite, "alra"), ran(suite, "saver", failed="too slow")])
    scale.write([ran(suite, "graphsci", cpu_s=7.0, code="def")])
    text = (tmp_path / "results" / "scale_methods.md").read_text()
    assert "| graphsci | 7 |" in text
    assert "| alra | 1 |" in text
    assert "| alra | 0.1234 |" in text
    assert "- 1,000 x 2,000, saver: too slow" in text
    assert "on 2026-11-26; seed 0; graphsci at commit def;" in text
    scale.write([ran(suite, "saver", cpu_s=5.0)])
    text = (tmp_path / "results" / "scale_methods.md").read_text()
    assert "| saver | 5 |" in text
    assert "too slow" not in text


def test_what_was_not_tried_keeps_the_cost_of_an_earlier_run(suite, tmp_path):
    scale = suite("scale")
    scale.write([ran(suite, "alra", cpu_s=31.0)])
    scale.write([ran(suite, "alra", failed="not tried: at 500 x 500 stopped after 900 s of CPU")])
    assert "| alra | 31 |" in (tmp_path / "results" / "scale_methods.md").read_text()


def test_a_crash_does_not_keep_larger_sizes_from_being_tried(suite, tmp_path, monkeypatch):
    scale, reasons = suite("scale"), iter(["exit code -6", "stopped after 900 s of CPU"])
    monkeypatch.setattr(scale, "STORE", tmp_path / "scale")
    monkeypatch.setattr(scale, "generated", lambda size: None)
    monkeypatch.setattr(scale, "_run", lambda *_: {"failed": next(reasons)})
    monkeypatch.setattr(scale, "SIZES", scale.SIZES[:3])
    scale.study_scale(scale_request(suite, methods=["alra"]))
    text = (tmp_path / "results" / "scale_methods.md").read_text()
    assert "- 3,000 x 2,000, alra: stopped after 900 s of CPU" in text
    assert "- 10,000 x 2,000, alra: not tried: at 3,000 x 2,000 stopped after 900 s" in text


def fitted(suite, seed, code, date):
    hyper = suite("hyper")
    scores = {"d2": 0.1, "validation_loss": 2000.0, "ari": 0.7, "edges": 5, "seconds": 3.0}
    course = {"epoch": [1, 2], "training_loss": [9.5, 7.25 + seed], "learning_rate": [0.01, 0.009]}
    return hyper.Run(hyper.BASE, seed, {**scores, "course": course, "code": code, "date": date})


def test_another_seed_of_the_hyper_parameters_keeps_the_first(suite, tmp_path):
    hyper = suite("hyper")
    hyper.write([fitted(suite, 1, "abc", "2026-11-26")])
    hyper.write([fitted(suite, 2, "def", "2026-11-27")])
    text = (tmp_path / "results" / "hyper.md").read_text()
    assert "on 2026-11-26 to 2026-11-27; seeds 1, 2; graphsci at commits abc, def;" in text
    assert "| - | preset paper | 5 | 2000.0 | 0.100 | 0.000 | 0.700 | 3 | 2 |" in text
    assert "preset paper, seed 1, graphsci at commit abc\n" in text
    assert "| 2 | 8.25000 |" in text  # of seed 1
    assert not hyper.write([])


def test_every_setting_of_the_hyper_parameters_changes_the_preset(suite):
    """Figure S9's decay among them."""
    hyper = suite("hyper")
    named = {setting.name: preset("paper", **setting.options) for setting in hyper.SETTINGS}
    assert len(named) == len(hyper.SETTINGS)
    assert named["no decay of the learning rate"].lr_decay == 1
    assert named["decay 0.8 every 50 steps"].lr_decay == 0.8
    assert named["decay 0.9 every 200 steps"].lr_decay_steps == 200
    same = [setting for setting in hyper.SETTINGS if named[setting.name] == preset("paper")]
    assert [setting.name for setting in same if not setting.prior] == ["preset paper"]


# --- headings ---------------------------------------------------------------------------


def test_the_heading_is_of_the_rows_that_are_shown(suite, tmp_path):
    """All commits of ours, and the versions of every peer with rows, kept or known."""
    runs = [
        record(suite, code="aaa", made="2026-11-25", versions="torch 9", machine="one"),
        record(suite, seed=1, code="bbb"),
        record(suite, "magic-log", code=""),
        record(suite, "dca-nb", code="", versions="dca 0.3.5, tensorflow-cpu 2.15.1"),
    ]
    suite("tables").write_truth(runs)
    text = (tmp_path / "results" / "truth.md").read_text()
    assert "on 2026-11-25 to 2026-11-27; seeds 0, 1; graphsci at commits aaa, bbb;" in text
    known = "dca 0.3.5, magic-impute 3.0.0, numpy 2.4.6, scipy 1.17.1, tensorflow-cpu 2.15.1"
    assert f"in the tables of its day): {known}, torch 2.13.0+cpu, torch 9;" in text
    assert "CPU model and memory not kept) and one; one thread a method" in text
    assert "scvi" not in text.split("## ")[0]
    assert "not installed" not in text


def test_records_of_before_a_field_was_added_are_read(suite):
    records = suite("records")
    found = record(suite)
    records.keep(found, {})
    path = records.path_of(found.case, found.method, found.seed)
    written = json.loads(path.read_text())
    path.write_text(
        json.dumps({k: written[k] for k in written if k not in ("versions", "machine")})
    )
    assert records.everything() == [found]


def test_this_machine_has_a_name(suite):
    assert " cores (" in suite("provenance").machine()
    assert " GiB, Python " in suite("provenance").machine()


def test_the_spread_over_embeddings_stands_beside_the_index(suite):
    tables = suite("tables")
    names = ["kind", "dataset", "method", "seed", "score", "value"]
    rows = [
        ("held-out", "a", "graphsci", 0, "ari", 0.9),
        ("held-out", "a", "graphsci", 0, "ari_sd", 0.02),
    ]
    table = pd.DataFrame(rows, columns=names)
    ari, sd = table[table.score == "ari"], table[table.score == "ari_sd"]
    lines = tables.pivot(ari, tables.SCORES["ari"], sd).splitlines()
    assert lines[2] == "| graphsci | **0.900** [0.020] |"
    assert tables.SCORES["ari"].spread == "ari_sd"
    assert "3 seeds of t-SNE and K-means, or 2 above 1,500 cells" in tables.EMBEDDINGS_SHOWN


def test_a_paired_difference_keeps_the_commit_of_our_run(suite, tmp_path, monkeypatch):
    held_out, tables = suite("held_out"), suite("tables")
    rng = np.random.default_rng(0)
    monkeypatch.setattr(held_out, "_losses", lambda run: run and rng.random(20))
    runs = [record(suite, code="aaa"), record(suite, "alra", code="")]
    gaps = held_out.paired_gaps(tables.tidy(runs), runs, tmp_path / "none.csv")
    assert gaps.loc["a", "code"] == "aaa"


def test_small_sets_of_molecules_are_held_out_and_marked(suite, tmp_path):
    names = suite("cases").all_names()
    assert {"held-out/grun2014_mes_2i", "held-out/macosko_species"} <= set(names)
    shape = (74, 30)
    suite("tables").write_truth([record(suite, shape=shape), record(suite, "alra", shape=shape)])
    text = (tmp_path / "results" / "truth.md").read_text()
    assert "| a † | 74 | 0.2000 (1) | alra |" in text
    assert "†: no more than 200 cells" in text


# --- what makes a run stale -------------------------------------------------------------


def imported(module, names):
    """Modules of the package that a module imports, of those that are in ``names``."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & names


def test_a_judge_depends_on_all_modules_of_evaluation_that_it_imports(suite):
    """A helper or a constant that moves a score is in one of them."""
    judges = suite("judges")
    folder = Path(judges.study.__file__).parents[1]
    names = {
        ".".join(path.relative_to(folder.parents[1]).with_suffix("").parts)
        for path in folder.rglob("*.py")
    }
    names = {name.removesuffix(".__init__") for name in names}
    names -= {"graphsci.evaluation", "graphsci.evaluation.study"}  # they import the others
    names -= {"graphsci.evaluation.count_loss"}  # a name for graphsci.count_loss
    for judge in (*judges.JUDGES, judges.PROTOCOL_JUDGE):
        used = {module.__name__ for module in judge.uses}
        for module in judge.uses:
            assert imported(module, names) <= used, (judge.name, module.__name__)


def test_whole_modules_decide_a_version(suite, tmp_path, monkeypatch):
    judges, environments = suite("judges"), suite("environments")
    path = tmp_path / "helpers.py"
    path.write_text("LIMIT = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    helpers = importlib.import_module("helpers")
    judge = judges.JUDGES[0]._replace(uses=(helpers,))
    before = judge.source()
    path.write_text("LIMIT = 2\n")
    assert judge.source() != before
    seen = []
    monkeypatch.setattr(environments, "source_of", lambda *modules: str(seen.extend(modules)))
    judge.source()
    assert seen == [helpers, judges]


def test_a_truth_that_changes_is_judged_again(suite, tmp_path):
    cases, judges = suite("cases"), suite("judges")
    path = tmp_path / "truth.csv"
    path.write_text("1\n")
    truth = {
        "labels": np.array(["a", "b"], object),
        "profiles": np.ones((2, 3)),
        "deep": sparse.csr_matrix(np.eye(2)),
        "files": [path],
        "proteins": pd.DataFrame({"CD4": [1.0, 2.0]}),
        "known_groups": None,
    }
    counts = sparse.csr_matrix(np.ones((2, 3)))

    def version(**changes):
        known = cases.fingerprint({**truth, **changes})
        return judges.JUDGES[0].version(cases.Case("bulk", "a", 0, counts, truth, known))

    before = version()
    assert version() == before
    others = [
        version(labels=np.array(["a", "c"], object)),
        version(profiles=np.full((2, 3), 2.0)),
        version(deep=sparse.csr_matrix(2 * np.eye(2))),
        version(proteins=pd.DataFrame({"CD4": [1.0, 3.0]})),
    ]
    path.write_text("2\n")
    others.append(version())
    assert len({before, *others}) == 6
    with pytest.raises(TypeError, match="a truth of type set has no fingerprint"):
        cases.fingerprint({"labels": {1}})


def test_a_protocol_that_is_installed_later_is_judged(suite, monkeypatch):
    judges = suite("judges")
    case = suite("cases").Case("simulation", "sim_t6_hard", 0, sparse.csr_matrix((1, 1)), {})
    monkeypatch.setattr(judges, "available_protocols", lambda: ["pca-kmeans"])
    before = judges.PROTOCOL_JUDGE.version(case)
    monkeypatch.setattr(judges, "available_protocols", lambda: ["pca-kmeans", "phate-kmeans"])
    assert judges.PROTOCOL_JUDGE.version(case) != before


def scale_request(suite, **changes):
    truth, methods = suite("truth"), suite("methods")
    limits = suite("running").Limits(60.0)
    base = truth.Request(Path(), [], ["alra"], [0], methods.HERE, limits)
    return base._replace(**changes)


def test_the_generator_decides_the_key_of_a_cost(suite, monkeypatch):
    scale = suite("scale")
    asked = scale_request(suite)
    key = scale._key(scale.METHODS_HERE["alra"], scale.SIZES[0], asked)
    other = scale.replace(scale.PRESETS["sim-t6-hard"], dropout_mid=0.1)
    monkeypatch.setattr(scale, "PRESETS", {"sim-t6-hard": other})
    assert scale._key(scale.METHODS_HERE["alra"], scale.SIZES[0], asked) != key


def test_the_known_network_decides_the_key_of_a_fit(suite, tmp_path):
    hyper, cases = suite("hyper"), suite("cases")
    path = tmp_path / hyper.PRIOR
    path.parent.mkdir(parents=True)
    case = cases.Case("held-out", "a", 0, sparse.csr_matrix(np.eye(3)), {})
    setting = next(setting for setting in hyper.SETTINGS if setting.prior)
    keys = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        keys.add(hyper._key(setting, case, tmp_path))
    assert len(keys) == 2
    keys |= {hyper._key(hyper.BASE, case, tmp_path)}
    changed = case._replace(truth={"labels": np.array([1, 2, 3])})
    assert hyper._key(hyper.BASE, changed, tmp_path) not in keys


def test_costs_that_failed_are_tried_again_when_asked(suite, tmp_path, monkeypatch):
    scale = suite("scale")
    monkeypatch.setattr(scale, "STORE", tmp_path / "scale")
    monkeypatch.setattr(scale, "SIZES", scale.SIZES[:1])
    monkeypatch.setattr(scale, "generated", lambda size: None)
    finished = {"failed": "", "wall_s": 1, "cpu_s": 1, "peak_mib": 1, "d2": 0.1}
    outcomes = iter([{"failed": "broken"}, finished])
    monkeypatch.setattr(scale, "_run", lambda *args: next(outcomes))
    path = tmp_path / "results" / "scale_methods.md"
    for retry, failed in ((False, True), (False, True), (True, False)):
        scale.study_scale(scale_request(suite, retry=retry))
        assert ("broken" in path.read_text()) == failed


# --- the command line -------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--methods alra", "--cpu-limit 3", "--source x", "--retry"])
def test_hyper_offers_no_option_that_it_cannot_follow(suite, capsys, option):
    run = importlib.import_module("run")
    with pytest.raises(SystemExit):
        run._parser().parse_args(["hyper", "--data", "x", *option.split()])
    assert f"unrecognized arguments: {option}" in capsys.readouterr().err
    run._parser().parse_args(["scale", "--retry"])


def test_hyper_refuses_to_train_another_package(suite, tmp_path, monkeypatch):
    hyper = suite("hyper")
    hyper.refuse_another_package()
    monkeypatch.setattr(hyper, "HERE", tmp_path)
    with pytest.raises(SystemExit, match="expected that of this checkout: set PYTHONPATH="):
        hyper.refuse_another_package()


def test_an_environment_is_refused_where_python_is_too_new_for_it(suite, tmp_path, monkeypatch):
    environments = suite("environments")
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "envs")
    monkeypatch.setattr(environments.sys, "version_info", (3, 12, 1))
    with pytest.raises(SystemExit, match=r"dca: this is Python 3\.12, .* need 3\.9 to 3\.11"):
        environments.install("dca")
    assert not (tmp_path / "envs").exists()
    environments.refuse_other_pythons("magic")


# --- the paper's tables -----------------------------------------------------------------


def test_the_bulk_judge_scores_the_genes_that_are_called_different(suite):
    """Two of four genes differ; one is called that does not, so eq. 26 is 3/4 and eq. 27 4/5."""
    judges = suite("judges")
    noise = np.tile([[0.0], [0.01]], (20, 4))
    first, second = noise + np.array([1.0, 1, 1, 0]), noise
    true = np.array([True, True, False, False])
    bulk = bulk_truth.BulkDifferential(np.ones(4), true, np.ones(4, bool))
    found = judges._flag_scores(first, second, bulk)
    assert found.accuracy == pytest.approx(3 / 4)
    assert found.f_score == pytest.approx(4 / 5)


def test_the_papers_tables_have_every_printed_row_and_say_what_is_another_method(suite, tmp_path):
    paper = suite("paper")
    rows = [record(suite, kind="simulation", dataset="sim_t2_hard")]
    rows += [record(suite, kind="simulation", dataset="sim_t6_hard")]
    rows += [record(suite, dataset=name) for name in paper.FIGURE_7]
    paper.write(rows)
    text = (tmp_path / "results" / "paper.md").read_text()
    assert "| GraphSCI | graphsci | 0.472 | - | - | 0.552 | - | 0.177 | - | - |" in text
    assert "| scRNA-seq | nothing | 0.157 | - | - | 0.268 | - | -0.170 | - | - |" in text
    assert "| SAVER-X | saver (not SAVER-X) | 0.845 |" in text
    for figure in ("Figure S1", "Figure S2", "Figure S3", "Figure S4"):
        assert figure in text.split("## What is elsewhere")[1]
    heading = text.split("## ")[0]
    assert "Bold" not in heading
    assert "±" not in heading
