"""Studies: cases without leaks, methods, scores against outside judges, runs on disk."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse, stats

import graphsci
from graphsci.evaluation import count_loss, evaluate_clustering, study


@pytest.fixture(scope="module")
def rates():
    """Rates of 90 cells in three groups and 40 genes; the last gene is silent."""
    rng = np.random.default_rng(0)
    profile = rng.gamma(0.6, 4.0, (3, 40)) + 0.05
    profile[:, -1] = 0
    return profile[np.arange(90) % 3] * rng.lognormal(0, 0.3, 90)[:, None]


@pytest.fixture(scope="module")
def counts(rates):
    return sparse.csr_matrix(np.random.default_rng(1).poisson(rates).astype(np.float32))


@pytest.fixture(scope="module")
def case(counts):
    return study.make_case(counts, seed=0)


def constant(value, *, sd=None):
    """A method that expects the same everywhere."""

    def predict(task):
        full = np.full(task.kept.shape, float(value))
        yield study.Expected(0, full, None if sd is None else np.full(task.kept.shape, float(sd)))

    return predict


def run_of(method, seed, per_cell, deviance=None):
    per_cell = np.asarray(per_cell, dtype=float)
    scores = {"deviance": np.nanmean(per_cell) if deviance is None else deviance, "d2": 0.5}
    return study.Run(method, seed, scores, per_cell)


def test_the_judge_does_not_load_torch():
    """Every module of the evaluation, in a fresh process."""
    code = (
        "import importlib, pkgutil, sys, graphsci.evaluation as e\n"
        "[importlib.import_module(f'graphsci.evaluation.{m.name}') for m in "
        "pkgutil.iter_modules(e.__path__)]\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_command_imports_the_judge():
    """What others need of it lies below it."""
    package = Path(graphsci.__file__).parent
    users = [
        f"{path.parent.name}/{path.name}"
        for path in package.rglob("*.py")
        if re.search(
            r"^ *(from|import) graphsci(\.| import )evaluation", path.read_text("utf-8"), re.M
        )
        and package / "evaluation" not in path.parents
    ]
    parts = ("", "_layers", "_ours", "_report", "_request")
    assert sorted(users) == [f"_jobs/evaluate{part}.py" for part in parts]


# --- cases ------------------------------------------------------------------------------


def test_the_parts_of_a_case_add_up_to_the_counts(counts, case):
    whole = (case.task.kept + case.held_out).toarray()
    np.testing.assert_array_equal(whole, counts.toarray()[:, case.genes])
    assert case.task.ratio == pytest.approx(0.1 / 0.9)
    assert 39 not in case.genes
    assert not case.task.new_cells


def test_a_seed_fixes_a_case_and_another_changes_it(counts, case):
    again, other = (study.make_case(counts, seed=seed) for seed in (0, 1))
    assert (case.held_out != again.held_out).nnz == 0
    assert case.held_out.shape != other.held_out.shape or (case.held_out != other.held_out).nnz


def test_test_cells_are_not_learnt_from(counts):
    case = study.make_case(counts, design="cells", seed=0)
    assert case.task.new_cells
    assert case.task.training.shape[0] == 72
    others = np.setdiff1d(np.arange(90), case.cells)
    np.testing.assert_array_equal(
        case.task.training.toarray(), counts[others][:, case.genes].toarray()
    )
    whole = (case.task.kept + case.held_out).toarray()
    np.testing.assert_array_equal(whole, counts[case.cells][:, case.genes].toarray())


def test_the_depth_design_keeps_the_depth(counts):
    median = float(np.median(np.asarray(counts.sum(1))))
    case = study.make_case(counts, design="depth", depth=median / 4, seed=0)
    library = np.asarray(case.task.kept.sum(1)).ravel()
    assert np.median(library) == pytest.approx(median / 4, rel=0.15)
    assert case.task.ratio == pytest.approx(3.0)


def test_hidden_entries_are_hidden_and_they_alone_are_judged(counts, rates):
    case = study.make_case(counts, design="entries", fraction=0.2, seed=0)
    assert case.hidden_entries
    assert case.task.ratio == 1
    rows, columns = case.held_out.nonzero()
    assert not np.asarray(case.task.kept[rows, columns]).any()
    whole = (case.task.kept + case.held_out).toarray()
    np.testing.assert_array_equal(whole, counts.toarray()[:, case.genes])
    run = study.run_method("flat", constant(2.0), case)
    y = case.held_out.data
    assert run.scores["deviance"] == pytest.approx(2 * np.mean(y * np.log(y / 2) - y + 2))
    assert np.mean(run.per_cell) == pytest.approx(run.scores["deviance"])
    assert run.scores["log_error"] == pytest.approx(np.abs(np.log1p(y) - np.log1p(2)).mean())
    assert run.scores["log_pearson"] == 0
    assert "nb_d2" not in run.scores
    truth = study.run_method("truth", study.estimate_at_own_depth(rates, case), case)
    means, empty = (study.run_method(n, study.control(n), case) for n in ("gene_mean", "empty"))
    assert truth.scores["log_pearson"] > means.scores["log_pearson"] > 0
    assert truth.scores["d2"] > means.scores["d2"] == 0 > empty.scores["d2"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"design": "rows"}, "got 'rows', expected one of molecules, entries, cells, depth"),
        ({"design": "depth"}, "the design 'depth' needs the median library size"),
        ({"depth": 5.0}, "the others take none"),
        ({"fraction": 1.5}, "fraction is 1.5"),
    ],
)
def test_impossible_cases_are_refused(counts, options, message):
    with pytest.raises(ValueError, match=message):
        study.make_case(counts, seed=0, **options)


def test_a_given_case_takes_its_ratio_from_the_totals(case):
    given = study.given_case(case.task.kept, case.held_out)
    assert given.task.ratio == pytest.approx(case.held_out.sum() / case.task.kept.sum())
    with pytest.raises(ValueError, match="expected the same cells and genes"):
        study.given_case(case.task.kept, case.held_out[:5])
    with pytest.raises(ValueError, match="molecules in both"):
        study.given_case(case.task.kept, case.held_out * 0)


# --- methods ----------------------------------------------------------------------------


def test_gene_means_of_new_cells_learn_from_the_training_cells(counts):
    case = study.make_case(counts, design="cells", seed=0)
    training, kept = case.task.training.toarray(), case.task.kept.toarray()
    share = (training.sum(0) + kept.sum(0)) / (training.sum() + kept.sum())
    expected = case.task.ratio * kept.sum(1, keepdims=True) * share
    said = np.concatenate([block.counts for block in study.control("gene_mean")(case.task)])
    np.testing.assert_allclose(said, expected, rtol=1e-6)


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match="got the control 'best', expected one of nothing"):
        study.control("best")


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_a_finished_estimate_is_cut_to_the_judged_cells_and_genes(counts, rates, form):
    case = study.make_case(counts, design="cells", seed=0)
    method = study.estimate_at_own_depth(form(rates), case)
    said = np.concatenate([block.counts for block in method(case.task)])
    np.testing.assert_allclose(said, case.task.ratio * rates[case.cells][:, case.genes])


# --- scores -----------------------------------------------------------------------------


def test_scores_are_those_of_the_metrics(case):
    run = study.run_method("pooling", study.control("neighbour_pooling"), case)
    blocks = list(study.control("neighbour_pooling")(case.task))
    predicted = np.concatenate([block.counts for block in blocks])
    deviance = count_loss.poisson_deviance(predicted=predicted, held_out=case.held_out)
    assert run.scores["deviance"] == pytest.approx(deviance)
    assert np.nanmean(run.per_cell) == pytest.approx(deviance)
    assert "coverage" not in run.scores


def test_the_negative_binomial_deviance_has_one_theta_for_all(case):
    theta = study.judging_theta(case)
    run = study.run_method("flat", constant(0.3), case)
    judge = count_loss.nb_deviance(
        predicted=np.full(case.held_out.shape, 0.3),
        held_out=case.held_out,
        inverse_dispersion=theta,
    )
    assert run.scores["nb_deviance"] == pytest.approx(judge)
    assert study.run_method("means", study.control("gene_mean"), case).scores["nb_d2"] == 0


def test_truth_beats_pooling_beats_means_beats_nothing_beats_empty(case, rates):
    truth = 0.9 * rates  # the rates of what was kept
    runs = [study.run_method("truth", study.estimate_at_own_depth(truth, case), case)]
    names = ("neighbour_pooling_posterior", "gene_mean", "nothing", "empty")
    runs += [study.run_method(name, study.control(name), case) for name in names]
    d2 = [run.scores["d2"] for run in runs]
    assert d2 == sorted(d2, reverse=True)
    assert d2[2] == 0
    assert runs[2].scores["d2_rare"] == 0
    found = study.summarise(runs)
    assert [summary.method for summary in found] == ["truth", *names]
    assert found[0].against["gene_mean"].z < -4


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_coverage_is_nominal_for_the_true_distribution_and_low_for_a_narrow_one(level):
    rng = np.random.default_rng(0)
    mean, sd = rng.uniform(0.5, 8, 40_000), 0.6
    rate = rng.gamma((mean / sd) ** 2, sd**2 / mean)
    y = rng.poisson(rate)
    inside = study.predictive_coverage(
        held_out=y, expected=mean, sd=np.full_like(mean, sd), level=level, rng=rng
    )
    assert inside.mean() == pytest.approx(level, abs=4 * np.sqrt(level * (1 - level) / 40_000))
    wild = rng.poisson(rng.gamma(1.0, mean))  # far wider than what is said
    inside = study.predictive_coverage(
        held_out=wild, expected=mean, sd=np.full_like(mean, sd), level=level, rng=rng
    )
    assert inside.mean() < level - 0.05


def test_coverage_is_counted_where_molecules_are_expected(case):
    few = study.run_method("few", constant(0.1, sd=0.1), case)
    many = study.run_method("many", constant(2.0, sd=0.5), case)
    assert "coverage" not in few.scores
    assert many.scores["coverage_entries"] == case.held_out.shape[0] * case.held_out.shape[1]
    assert 0 < many.scores["coverage"] < 1


def test_shuffled_genes_are_as_chance_has_it_and_say_nothing_in_gene_means(case):
    labels = np.array([None, "a", "b"], dtype=object)[np.arange(90) % 3]
    raw = study.shuffled_scores(study.control("nothing"), case, n_copies=20, labels=labels)
    assert raw["shuffled_correlation"] == pytest.approx(np.sqrt(2 / (np.pi * 90)), rel=0.35)
    assert raw["shuffled_given_depth"] == pytest.approx(np.sqrt(2 / (np.pi * 90)), rel=0.35)
    assert raw["shuffled_de"] <= 0.2  # 0.05 of 20, and chance
    flat = study.shuffled_scores(constant(1.0), case, n_copies=20, labels=labels)
    nothing = ("shuffled_correlation", "shuffled_given_depth", "shuffled_de")
    assert flat == dict.fromkeys(nothing, 0)
    means = study.shuffled_scores(study.control("gene_mean"), case, n_copies=20, labels=labels)
    assert means["shuffled_de"] == 0
    pooled = study.control("neighbour_pooling")
    assert study.shuffled_scores(pooled, case, n_copies=20, labels=labels)["shuffled_de"] > 0.3
    assert "shuffled_de" not in study.shuffled_scores(pooled, case, n_copies=20)


def case_at_median(case):
    """log1p of the kept counts at the median depth, by hand."""
    kept = case.task.kept.toarray()
    size = kept.sum(1, keepdims=True)
    return np.log1p(kept / size * np.median(size))


def test_a_judge_of_clustering_adds_its_scores(case):
    labels = (np.arange(90) % 3).astype(str)
    judge = study.clustering_judge(labels, protocol="pca-kmeans", n_seeds=2, seed=0)
    run = study.run_method("raw", study.control("nothing"), case, judge=judge)
    assert run.scores["ari"] > 0.5
    assert {"clustering_accuracy", "nmi", "silhouette_labels"} <= set(run.scores)
    found = evaluate_clustering(
        log_values=case_at_median(case), labels=labels, protocol="pca-kmeans", n_seeds=2
    )
    assert run.scores["silhouette_labels_sd"] == pytest.approx(found.silhouette_labels.sd, abs=1e-6)
    one = study.clustering_judge(labels, protocol="pca-kmeans", n_seeds=1, seed=0)
    assert not [name for name in one(case_at_median(case)) if name.endswith("_sd")]


# --- many runs --------------------------------------------------------------------------


def test_a_paired_difference_is_that_of_the_cells_means_over_seeds():
    first = [np.array([1.0, 2.0, np.nan, 4.0]), np.array([3.0, np.nan, np.nan, 2.0])]
    second = [np.array([0.0, 0.5, np.nan, 1.0]), np.array([1.0, np.nan, np.nan, 2.0])]
    gap = study.paired(first, second)
    cells = np.array([1.5, 1.5, 1.5])  # means of (1, 2), (1.5), (3, 0)
    assert gap.difference == pytest.approx(cells.mean())
    assert gap.standard_error == 0
    second[0][3] = 0.0
    cells[2] = 2.0
    gap = study.paired(first, second)
    judge = stats.ttest_1samp(cells, 0)
    assert gap.z == pytest.approx(judge.statistic)
    with pytest.raises(ValueError, match="1 cells were judged, expected at least two"):
        study.paired([np.array([1.0, np.nan])], [np.array([2.0, 2.0])])


def test_only_seeds_that_all_methods_share_count():
    runs = [run_of("a", 0, [1, 2]), run_of("a", 1, [9, 9]), run_of("b", 0, [2, 4])]
    found = study.summarise(runs)
    assert [summary.method for summary in found] == ["a", "b"]
    assert found[0].n_seeds == 1
    assert found[0].against["b"].difference == pytest.approx(-1.5)
    assert found[0].spread["deviance"] == 0
    with pytest.raises(ValueError, match="no seed was run with every method"):
        study.summarise([run_of("a", 0, [1, 2]), run_of("b", 1, [1, 2])])


def test_a_score_that_one_seed_lacks_is_left_out():
    runs = [run_of("a", 0, [1, 2]), run_of("a", 1, [1, 2])]
    runs[0].scores["coverage"] = 0.9  # the other seed expected nowhere enough molecules
    (found,) = study.summarise(runs)
    assert set(found.scores) == set(found.spread) == {"deviance", "d2"}


def test_the_sentence_does_not_flatter():
    base = np.linspace(1, 2, 50)
    wiggle = 1e-3 * np.sin(np.arange(50))
    noise = np.where(np.arange(50) % 2, 0.5, -0.5)

    def said(ours, other, name="ours"):
        runs = [run_of(name, 0, ours), run_of("pooling", 0, other)]
        return study.sentence(study.summarise(runs), "ours")

    assert "better than every other method" in said(base, base + 0.1 + wiggle)
    assert "Prefer pooling here to ours" in said(base + 0.1 + wiggle, base)
    assert "no better here than pooling, within the error" in said(base, base + noise)
    assert said(base, base + 0.1, name="x").startswith("x predicted the held-out molecules best")
    family = [run_of("ours", 0, base), run_of("ours-mean", 0, base + 0.05 + wiggle)]
    family.append(run_of("pooling", 0, base + 0.1 + wiggle))
    assert "of pooling" in study.sentence(study.summarise(family), "ours")
    family[1] = run_of("ours-mean", 0, base - 0.05 + wiggle)
    assert "Prefer ours-mean here to ours" in study.sentence(study.summarise(family), "ours")
    for name in ("ours", "ours-mean", "theirs"):
        alone = study.sentence(study.summarise([run_of(name, 0, base)]), "ours")
        assert alone.startswith(f"{name}: D2 ")
        assert alone.endswith("over the gene means; no other method was run.")


def test_the_ceiling_is_out_of_reach_and_no_rival(case):
    top = study.run_method(study.CEILING, study.ceiling(case), case)
    means = study.run_method("gene_mean", study.control("gene_mean"), case)
    assert top.scores["d2"] == pytest.approx(1, abs=1e-3)
    assert top.scores["deviance"] < 1e-4
    found = study.summarise([top, means])
    assert found[0].method == study.CEILING
    assert study.sentence(found, "x").startswith(
        "gene_mean: D2 0.000 over the gene means; no other"
    )
    kept = study.run_method("nothing", study.control("nothing"), case)
    said = study.sentence(study.summarise([top, means, kept]), "x")
    assert said.startswith("gene_mean predicted the held-out molecules best")
    assert study.losses(found, "gene_mean") == ()


def test_losses_name_the_best_rival_and_both_numbers():
    base = np.linspace(1, 2, 50) + 1e-3 * np.sin(np.arange(50))
    rivals = {"a": 0.3, "b": 0.2, "gene_mean": 0.0}
    runs = [run_of("ours", 0, base)] + [run_of(name, 0, base + 1) for name in rivals]
    runs[0].scores.update(ari=0.5, shuffled_correlation=0.4, seconds=90.0)
    for run, invented in zip(runs[1:], rivals.values(), strict=True):
        run.scores.update(ari=0.4, shuffled_correlation=invented, seconds=0.1)
    assert study.losses(study.summarise(runs), "ours") == ("|r| shuffled (b: 0.2 against 0.4)",)
    runs[1] = run_of("a", 0, base - np.linspace(0.1, 0.2, 50))
    runs[1].scores["d2"] = 0.7
    assert study.losses(study.summarise(runs), "ours")[0] == "D2 (a: 0.7 against 0.5)"
    assert study.losses(study.summarise(runs[1:]), "ours") == ()


# --- runs on disk -----------------------------------------------------------------------


def test_a_fingerprint_is_of_the_numbers_not_of_their_storage(counts):
    shuffled = counts.copy().tocoo()
    order = np.random.default_rng(0).permutation(shuffled.nnz)
    entries = (shuffled.data[order], (shuffled.row[order], shuffled.col[order]))
    same = sparse.csr_matrix(sparse.coo_matrix(entries, shape=counts.shape)).astype(np.float64)
    assert study.fingerprint(counts) == study.fingerprint(same)
    changed = counts.copy()
    changed.data[0] += 1
    found = {study.fingerprint(m) for m in (counts, changed, counts[:-1], counts[:, ::-1])}
    assert len(found) == 4


def test_a_fingerprint_leaves_unsorted_counts_as_they_are():
    values, genes = np.array([1, 2, 3], np.float32), np.array([2, 0, 1])
    counts = sparse.csr_matrix((values, genes, np.array([0, 2, 3])), shape=(2, 3))
    before = counts.toarray()
    assert study.fingerprint(counts) == study.fingerprint(sparse.csr_matrix(before))
    np.testing.assert_array_equal(counts.toarray(), before)


def test_a_store_returns_what_it_kept(tmp_path, case):
    run = study.run_method("nothing", study.control("nothing"), case)
    store = study.Store(tmp_path / "study")
    key = store.key(b=1, a="x")
    assert key == store.key(a="x", b=1) != store.key(a="x", b=2)
    assert store.find(key) is None
    store.keep(key, run, version="1")
    found = store.find(key)
    assert (found.method, found.seed, found.scores) == (run.method, run.seed, run.scores)
    np.testing.assert_array_equal(found.per_cell, run.per_cell)
    (tmp_path / "study" / "runs" / f"{key}.json").unlink()  # as if killed before the record
    assert store.find(key) is None


def test_without_a_folder_nothing_is_kept(case):
    store = study.Store(None)
    store.keep("key", run_of("a", 0, [1, 2]))
    assert store.find("key") is None


def test_the_tidy_table_has_a_row_for_each_score():
    rows = list(study.tidy([run_of("a", 3, [1, 2])]))
    row = {"method": "a", "seed": 3, "score": "deviance", "value": 1.5}
    assert rows[0] == {**row, "sd_over_clusterings": None}
    assert len(rows) == 2


def test_a_spread_over_clusterings_is_a_column_of_its_score():
    run = study.Run("a", 3, {"ari": 0.8, "ari_sd": 0.1, "d2": 0.2}, np.ones(2))
    spread = {row["score"]: row["sd_over_clusterings"] for row in study.tidy([run])}
    assert spread == {"ari": 0.1, "d2": None}
