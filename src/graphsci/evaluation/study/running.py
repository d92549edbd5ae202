"""One method on one case: its prediction scored block by block, and its loss in every cell."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphsci._choices import INTERVAL_LEVEL
from graphsci.evaluation import count_loss, metrics
from graphsci.evaluation.controls import gene_mean, theta_by_moments
from graphsci.evaluation.study._estimates import Gathered
from graphsci.evaluation.study.cases import Case
from graphsci.evaluation.study.methods import Expected, Method, control
from graphsci.predictions import Floats

#: Coverage is measured where a method expects at least this many held-out molecules. Nearly all
#: other entries are zero whatever happens, and any interval covers them.
COVERAGE_FROM = 0.5


class Reference(NamedTuple):
    """What every method on a case is measured against; see :func:`reference_of`."""

    sums: count_loss.DevianceSums  #: Poisson deviance of the gene means
    theta: Floats  #: (genes,) inverse dispersion of the NB deviance
    nb: float  #: NB deviance of the gene means, summed; 0 if entries were hidden


@dataclass(frozen=True)
class Run:
    """One method on one case."""

    method: str
    seed: int
    scores: dict[str, float]  #: by name, see :func:`run_method`
    per_cell: Floats  #: (cells of the data,) Poisson deviance per entry; NaN where not judged


def run_method(
    name: str,
    method: Method,
    case: Case,
    *,
    level: float = INTERVAL_LEVEL,
    judge: Callable[[Floats], dict[str, float]] | None = None,
    reference: Reference | None = None,
) -> Run:
    """Let a method predict a case, and score it.

    Scores: ``deviance`` (mean Poisson deviance per judged entry), ``d2`` (share of the gene
    means' deviance that is explained), ``d2_rare`` (the same over the half of the genes with the
    fewest training molecules), ``nb_deviance`` and ``nb_d2`` (negative binomial, with one theta
    for all methods, see :func:`judging_theta`), ``seconds``, and with a standard deviation
    ``coverage`` of the held-out counts by the central predictive interval of ``level``; see
    :func:`predictive_coverage`. If entries were hidden whole, only they are judged, there is no
    NB and no coverage, and ``log_error`` (mean absolute difference of log1p counts) and
    ``log_pearson`` over the hidden entries come instead. Only the method's own time counts.

    ``judge``, if given, turns log1p of the estimates at the median depth, (cells, genes), into
    more scores; they are gathered in memory for it. ``reference`` spares the work where many
    methods are run on one case.
    """
    clock, reference = _Clock(), reference or reference_of(case)
    extra: _Hidden | _Uncertain = (
        _Hidden(case) if case.hidden_entries else _Uncertain(case, level, reference)
    )
    gathered = Gathered(case.task)
    blocks = extra.watch(clock.watch(method(case.task)))
    sums = _deviances(blocks if judge is None else gathered.watch(blocks), case)
    of_means, rare = reference.sums, rare_genes(case)
    per_cell = np.full(case.n_cells, np.nan)
    per_cell[case.cells] = _per_entry(sums.per_cell, case)
    scores = {
        "deviance": float(np.nanmean(per_cell)),
        "d2": count_loss.d2(deviance=sums.total, reference_deviance=of_means.total),
        "seconds": clock.seconds,
    }
    if of_means.per_gene[rare].sum() > 0:
        own, theirs = sums.per_gene[rare].sum(), of_means.per_gene[rare].sum()
        scores["d2_rare"] = count_loss.d2(deviance=own, reference_deviance=theirs)
    scores |= extra.scores()
    if judge is not None:
        scores |= judge(gathered.values())
    return Run(name, case.task.seed, scores, per_cell)


def _deviances(blocks: Iterable[tuple[int, Floats]], case: Case) -> count_loss.DevianceSums:
    """Return the Poisson deviance of the judged entries."""
    return count_loss.poisson_deviance_sums(
        predicted=blocks, held_out=case.held_out, positive_only=case.hidden_entries
    )


def _per_entry(per_cell: Floats, case: Case) -> Floats:
    """Return sums over cells scaled so that their mean is the mean per judged entry."""
    n_entries = case.held_out.nnz if case.hidden_entries else np.prod(case.held_out.shape)
    return per_cell * (len(per_cell) / float(n_entries))


def reference_of(case: Case) -> Reference:
    """Return the gene means' deviances and the judging theta of a case."""
    theta, nb = judging_theta(case), 0.0
    if not case.hidden_entries:
        means = control("gene_mean")(case.task)
        nb = sum(_nb_sum(case, theta, start, counts) for start, counts, _ in means)
    return Reference(reference_sums(case), theta, nb)


def _nb_sum(case: Case, theta: Floats, start: int, counts: Floats) -> float:
    """Return the NB deviance of a block of consecutive cells, summed."""
    return count_loss.nb_deviance_sums(
        predicted=np.asarray(counts, dtype=float),
        held_out=case.held_out[start : start + len(counts)],
        inverse_dispersion=theta,
    ).total


def reference_sums(case: Case) -> count_loss.DevianceSums:
    """Return the deviance of the gene means, which see what every method sees."""
    return _deviances(
        ((start, counts) for start, counts, _ in control("gene_mean")(case.task)), case
    )


def judging_theta(case: Case) -> Floats:
    """Return each judged gene's inverse dispersion, (genes,), the same for every method.

    By moments around the gene means of the training counts
    (:func:`graphsci.evaluation.controls.theta_by_moments`), so it holds all variation between
    cells: the NB deviance forgives more than the Poisson deviance does. Thinning leaves it as
    it is.
    """
    training = case.task.training
    return theta_by_moments(counts=training, expected=gene_mean(training, ratio=1.0))


def rare_genes(case: Case) -> NDArray[np.int64]:
    """Return the half of the judged genes with the fewest molecules in training."""
    molecules = np.asarray(case.task.training.sum(0)).ravel()
    return np.argsort(molecules, kind="stable")[: len(molecules) // 2]


def predictive_coverage(
    *,
    held_out: Floats,
    expected: Floats,
    sd: Floats,
    level: float,
    rng: np.random.Generator,
) -> NDArray[np.bool_]:
    """Return whether each held-out count lies in its central predictive interval.

    With a rate ``~ Gamma`` of mean m and standard deviation s the count is negative binomial of
    mean m and inverse dispersion ``m^2 / s^2``. Counts are discrete, so no interval of theirs has
    exactly a wanted level; the randomised probability ``F(y - 1) + U [F(y) - F(y - 1)]`` is
    uniform if the distribution is right, and lies in the middle ``level`` with that probability.

    Parameters
    ----------
    held_out, expected, sd
        Entries (any shape): counts, their expectation, and its standard deviation (> 0).
    level
        Nominal coverage, between 0 and 1.
    rng
        Source of U.

    References
    ----------
    Czado et al. 2009, doi:10.1111/j.1541-0420.2009.01191.x (randomised PIT).
    """
    theta = (expected / sd) ** 2
    probability = theta / (theta + expected)
    from scipy import stats  # takes long to import

    below = stats.nbinom.cdf(held_out - 1, theta, probability)
    upto = stats.nbinom.cdf(held_out, theta, probability)
    pit = below + rng.random(np.shape(held_out)) * (upto - below)
    return abs(pit - 0.5) <= level / 2


class _Clock:
    """Adds up the time that a method takes to make its blocks."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def watch(self, blocks: Iterable[Expected]) -> Iterator[Expected]:
        iterator, started = iter(blocks), time.perf_counter()
        for block in iterator:
            self.seconds += time.perf_counter() - started
            yield block
            started = time.perf_counter()
        self.seconds += time.perf_counter() - started


class _Uncertain:
    """Adds up NB deviance and covered entries while a method's blocks go by."""

    def __init__(self, case: Case, level: float, reference: Reference) -> None:
        self.case, self.level, self.reference = case, level, reference
        self.rng = np.random.default_rng(case.task.seed)
        self.n_entries = self.n_covered = 0
        self.nb = 0.0

    def watch(self, blocks: Iterable[Expected]) -> Iterator[tuple[int, Floats]]:
        for start, counts, sd in blocks:
            self.nb += _nb_sum(self.case, self.reference.theta, start, counts)
            if sd is not None:
                self._add(start, counts, sd)
            yield start, counts

    def scores(self) -> dict[str, float]:
        found = {
            "nb_deviance": self.nb / float(np.prod(self.case.held_out.shape)),
            "nb_d2": count_loss.d2(deviance=self.nb, reference_deviance=self.reference.nb),
        }
        if self.n_entries:
            share = self.n_covered / self.n_entries
            found |= {"coverage": share, "coverage_entries": float(self.n_entries)}
        return found

    def _add(self, start: int, counts: Floats, sd: Floats) -> None:
        rows, columns = np.nonzero((counts >= COVERAGE_FROM) & (sd > 0))
        if not rows.size:
            return
        held_out = np.asarray(self.case.held_out[start + rows, columns], dtype=float).ravel()
        covered = predictive_coverage(
            held_out=held_out,
            expected=np.asarray(counts[rows, columns], dtype=float),
            sd=np.asarray(sd[rows, columns], dtype=float),
            level=self.level,
            rng=self.rng,
        )
        self.n_entries += covered.size
        self.n_covered += int(covered.sum())


class _Hidden:
    """Keeps a method's expectation at the hidden entries while its blocks go by."""

    def __init__(self, case: Case) -> None:
        self.held_out = case.held_out
        self.parts: list[Floats] = []

    def watch(self, blocks: Iterable[Expected]) -> Iterator[tuple[int, Floats]]:
        for start, counts, _ in blocks:
            part = self.held_out[start : start + len(counts)].tocoo()
            self.parts.append(np.log1p(np.asarray(counts, dtype=float)[part.row, part.col]))
            yield start, counts

    def scores(self) -> dict[str, float]:
        estimate = np.concatenate(self.parts)[:, None]
        truth = np.log1p(self.held_out.tocoo().data)[:, None]
        pair = {"estimate": estimate, "truth": truth}
        found = {"log_error": metrics.mean_absolute_error(**pair)}
        pearson = float(metrics.pearson_per_gene(**pair)[0]) if len(truth) > 1 else np.nan
        return found | ({"log_pearson": pearson} if np.isfinite(pearson) else {})
