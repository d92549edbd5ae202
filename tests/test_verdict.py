"""The verdict's words on hand-made scores, and its numbers where the truth is known."""

import numpy as np
import pytest
from scipy import sparse
from scipy.special import xlogy

from graphsci.evaluation import controls
from graphsci.verdict import (
    GENE_MEANS,
    MEANS_POSTERIOR,
    NOTHING,
    OURS,
    POOLING,
    Score,
    Verdict,
    judge,
)


def score(method: str, deviance: float, z: float = 0.0) -> Score:
    return Score(method, deviance, 1 - deviance / 0.5, z, 0.1)


def verdict(ours: float, nothing, means, pooling) -> Verdict:
    """Each simple method is (deviance, z of ours minus it)."""
    rest = [score(m, *v) for m, v in ((NOTHING, nothing), (GENE_MEANS, means), (POOLING, pooling))]
    return Verdict((score(OURS, ours), *rest), n_cells=90, n_molecules=12_345, fraction=0.1)


BETTER = verdict(0.4, (0.9, -50.0), (0.5, -9.0), (0.42, -2.1))
DOUBTFUL = verdict(0.4, (0.9, -50.0), (0.5, -9.0), (0.41, -1.9))
WORSE = verdict(0.45, (0.9, -50.0), (0.5, -9.0), (0.40, 3.0))


def test_line_when_it_helps():
    assert BETTER.passed
    assert BETTER.beaten == (NOTHING, GENE_MEANS, POOLING)
    assert BETTER.line() == (
        "Imputation helps here: better than every simple method. Poisson deviance of 12,345 "
        "held-out molecules 0.4000 ('denoised') against 0.4200 neighbour pooling, 0.5000 gene "
        "means, 0.9000 doing nothing; 20.0% lower than gene means."
    )


def test_line_when_in_doubt():
    assert not DOUBTFUL.passed
    assert DOUBTFUL.beaten == (NOTHING, GENE_MEANS)
    assert DOUBTFUL.line().startswith(
        "Doubtful: no better than neighbour pooling, within the error. Poisson deviance"
    )
    ahead_within_the_error = verdict(0.4, (0.9, -50.0), (0.5, -9.0), (0.39, 1.9))
    assert ahead_within_the_error.line().startswith("Doubtful: no better than neighbour pooling")


def test_line_when_it_harms():
    assert not WORSE.passed
    assert WORSE.line().startswith(
        "Do not use this imputation: neighbour pooling predicted these data better. Poisson"
    )


def test_a_significant_defeat_is_not_called_doubtful():
    """The lowest deviance is noisy (z = 1), the second lowest is surely better (z = 5)."""
    lost = verdict(0.45, (0.9, -50.0), (0.43, 5.0), (0.42, 1.0))
    assert lost.line().startswith(
        "Do not use this imputation: gene means predicted these data better. Poisson deviance"
    )


def test_every_significantly_better_method_is_named_best_first():
    lost = verdict(0.55, (0.9, -50.0), (0.5, 9.0), (0.45, 12.0))
    assert lost.line() == (
        "Do not use this imputation: neighbour pooling and gene means predicted these data "
        "better. Poisson deviance of 12,345 held-out molecules 0.5500 ('denoised') against 0.4500 "
        "neighbour pooling, 0.5000 gene means, 0.9000 doing nothing; 10.0% higher than gene means."
    )


def test_a_loss_against_gene_means_reads_as_one():
    lost = verdict(0.55, (0.9, -50.0), (0.5, 9.0), (0.6, -3.0))
    assert lost.line().endswith("; 10.0% higher than gene means.")
    assert "-10.0%" not in lost.line()


def test_few_cells_need_a_larger_difference():
    """Student's t with 9 degrees of freedom: 2.3 standard errors instead of 2."""
    few = BETTER._replace(n_cells=10)
    assert few.of(POOLING).z == -2.1
    assert POOLING not in few.beaten
    assert POOLING in BETTER.beaten
    assert few.significant == pytest.approx(2.32, abs=0.01)
    assert BETTER._replace(n_cells=100_000).significant == pytest.approx(2.0, abs=1e-3)


def test_plain_values():
    plain = WORSE.to_dict()
    assert plain["passed"] is False
    assert plain["line"] == WORSE.line() == f"{plain['headline']} {plain['details']}"
    assert [v.to_dict()["status"] for v in (BETTER, DOUBTFUL, WORSE)] == ["good", "doubtful", "bad"]
    assert list(plain["scores"]) == [OURS, NOTHING, GENE_MEANS, POOLING]
    assert plain["scores"][POOLING] == pytest.approx(
        {"deviance": 0.4, "d2": 0.2, "z": 3.0, "d2_rare": 0.1}
    )
    assert WORSE.of(POOLING).z == 3.0


# --- judging where the truth is known -------------------------------------------------


def two_types(n_cells=200, n_genes=60, seed=0, fraction=0.1):
    """Poisson counts of two cell types, split; returns kept, held out, expected held out."""
    rng = np.random.default_rng(seed)
    profile = rng.gamma(1.0, 1.5, (2, n_genes)) + 0.05
    rate = profile[rng.integers(0, 2, n_cells)] * rng.lognormal(0, 0.3, (n_cells, 1))
    counts = rng.poisson(rate)
    held_out = rng.binomial(counts, fraction)
    csr = lambda values: sparse.csr_matrix(values.astype(np.float32))  # noqa: E731
    return csr(counts - held_out), csr(held_out), fraction * rate


def judged(kept, held_out, predicted, *, cells=None, block=64) -> Verdict:
    def blocks():
        starts = range(0, len(predicted), block)
        return ((start, predicted[start : start + block]) for start in starts)

    cells = np.arange(kept.shape[0]) if cells is None else cells
    return judge(kept=kept, held_out=held_out, ours=blocks, cells=cells, fraction=0.1, seed=0)


def deviance(y, mu) -> float:
    return float(np.mean(2 * (xlogy(y, y / mu) - y + mu)))


def test_truth_beats_every_simple_method():
    kept, held_out, truth = two_types()
    found = judged(kept, held_out, truth)
    assert found.passed
    assert found.of(OURS).deviance == pytest.approx(deviance(held_out.toarray(), truth), rel=1e-6)
    assert found.of(OURS).z == 0
    assert found.of(GENE_MEANS).d2 == 0
    assert 0 < found.of(OURS).d2 < 1
    assert found.of(OURS).d2_rare > found.of(NOTHING).d2_rare
    assert (found.n_cells, found.fraction) == (200, 0.1)
    assert found.n_molecules == held_out.sum()


def test_simple_methods_have_their_own_deviance():
    kept, held_out, truth = two_types()
    found = judged(kept, held_out, truth)
    x, y = kept.toarray(), held_out.toarray()
    means = x.sum(1, keepdims=True) * x.sum(0) / x.sum() / 9
    assert found.of(GENE_MEANS).deviance == pytest.approx(deviance(y, means), rel=1e-5)


def test_gene_means_as_ours_are_no_better_than_themselves():
    kept, held_out, _ = two_types()
    x = kept.toarray().astype(float)
    found = judged(kept, held_out, x.sum(1, keepdims=True) * x.sum(0) / x.sum() / 9)
    assert abs(found.of(GENE_MEANS).z) < 2
    assert found.of(OURS).d2 == pytest.approx(0, abs=1e-6)
    assert not found.passed


def test_a_harmful_model_is_called_so():
    kept, held_out, truth = two_types()
    wrong = truth[:, ::-1]
    assert judged(kept, held_out, wrong).line().startswith("Do not use this imputation")


def test_only_the_judging_cells_count():
    """The prediction is nonsense in the other cells, whatever the blocks."""
    kept, held_out, truth = two_types()
    cells = np.arange(3, 200, 3)
    nonsense = np.full_like(truth, 50.0)
    nonsense[cells] = truth[cells]
    found = judged(kept, held_out, nonsense, cells=cells, block=7)
    y = held_out[cells].toarray()
    assert found.of(OURS).deviance == pytest.approx(deviance(y, truth[cells]), rel=1e-6)
    assert (found.n_cells, found.n_molecules) == (len(cells), held_out[cells].sum())
    assert found.of(OURS).deviance == judged(kept, held_out, truth, cells=cells).of(OURS).deviance


def test_no_difference_without_a_difference():
    """Counts that are all one Poisson: nothing is there to be found, and gene means are best."""
    rng = np.random.default_rng(1)
    rate = np.tile(rng.gamma(2.0, 1.0, 40), (150, 1))
    counts = rng.poisson(rate)
    held_out = rng.binomial(counts, 0.1)
    found = judged(
        sparse.csr_matrix(counts - held_out, dtype=np.float32),
        sparse.csr_matrix(held_out, dtype=np.float32),
        0.1 * rate * rng.lognormal(0, 0.5, rate.shape),  # a model that invents variation
    )
    assert found.of(GENE_MEANS).z > 2
    assert found.line().startswith("Do not use")


def test_similar_cells_where_there_are_none():
    """Independent overdispersed genes of one type: own counts help, other cells only add noise."""
    rng = np.random.default_rng(2)
    rate = rng.gamma(2.0, 1.0, 80) * rng.gamma(5.0, 0.2, (300, 80))
    counts = rng.poisson(rate)
    held_out = rng.binomial(counts, 0.1)
    kept = sparse.csr_matrix(counts - held_out, dtype=np.float32)
    pooling = controls.neighbour_pooling_posterior(kept, ratio=1 / 9)
    ours = np.concatenate([block for _, block in pooling])
    found = judged(kept, sparse.csr_matrix(held_out, dtype=np.float32), ours)
    assert found.of(GENE_MEANS).z < -2
    assert found.of(MEANS_POSTERIOR).z > 2
    assert found.headline() == (
        "Do not use this imputation: gene means with own counts predicted these data better."
    )
    assert "lower than gene means, " in found.details()
    assert found.details().endswith("higher than gene means with own counts.")


def test_a_better_theta_alone_is_nothing_learned_of_cells():
    """Cells of one type; ours are gene means with own counts and the true theta.

    It is better than that of moments, and with it gene means with own counts are ours.
    """
    rng = np.random.default_rng(4)
    theta = np.full(80, 0.5)
    rate = rng.gamma(0.5, 0.3, 80) * rng.gamma(0.5, 2.0, (100, 80))
    counts = rng.poisson(rate)
    held_out = rng.binomial(counts, 0.1)
    kept, held_out = (sparse.csr_matrix(x, dtype=np.float32) for x in (counts - held_out, held_out))
    ours = controls.gene_mean_posterior(kept, ratio=1 / 9, theta=theta)
    options = {
        "kept": kept,
        "held_out": held_out,
        "ours": lambda: ours,
        "cells": np.arange(100),
        "fraction": 0.1,
        "seed": 0,
    }
    alone = judge(**options)
    assert alone.of(MEANS_POSTERIOR).z < -2
    told = judge(**options, theta=theta)
    assert told.of(MEANS_POSTERIOR).z == 0
    assert not told.passed
    worse = judge(**options, theta=theta * 1e-3)  # then that of moments stands
    assert worse.of(MEANS_POSTERIOR) == alone.of(MEANS_POSTERIOR)


def test_gene_means_are_those_of_a_batch_where_there_are_batches():
    """A gene is expressed in one batch alone; nothing else differs."""
    rng = np.random.default_rng(3)
    batch = np.repeat([0, 1], 100)
    rate = np.tile(rng.gamma(2.0, 1.0, 40), (200, 1))
    rate[batch == 1, :10] *= 0.01
    counts = rng.poisson(rate)
    held_out = rng.binomial(counts, 0.1)
    parts = [sparse.csr_matrix(x, dtype=np.float32) for x in (counts - held_out, held_out)]
    options = {
        **dict(zip(("kept", "held_out"), parts, strict=True)),
        "ours": lambda: [(0, 0.1 * rate)],
        "cells": np.arange(200),
        "fraction": 0.1,
        "seed": 0,
    }
    assert judge(**options).of(GENE_MEANS).z < -5  # the truth is far better than overall means
    told = judge(**options, batch=batch)
    assert abs(told.of(GENE_MEANS).z) < 2
    assert told.of(GENE_MEANS).deviance < judge(**options).of(GENE_MEANS).deviance


def test_a_verdict_shows_what_it_says():
    first, second = repr(BETTER).splitlines()
    assert first == f"Verdict over 90 cells: {BETTER.headline()}"
    assert second == BETTER.details()
