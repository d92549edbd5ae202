"""A study on one data set: cases of held-out counts, methods that predict them, a store of runs.

A *case* is what one seed hides. A *method* sees the case's task, never its held-out counts, and
yields what it expects there. A *run* is one method on one case: scores, and its loss in every
cell, from which any two methods are compared in pairs. A :class:`Store` keeps runs in a folder
under a key of everything that decides them, so that a study goes on where it stopped.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy import stats

from graphsci.evaluation import metrics
from graphsci.evaluation._blocks import Floats, Prediction
from graphsci.evaluation.clustering import evaluate_clustering
from graphsci.evaluation.controls import CONTROLS, gene_mean, theta_by_moments, truth
from graphsci.evaluation.designs import (
    hold_out_cells,
    hold_out_entries,
    hold_out_molecules,
    thin_to_depth,
)
from graphsci.evaluation.false_signal import (
    append_shuffled_genes,
    false_positive_rate,
    genes_to_copy,
    mean_absolute_correlation,
)
from graphsci.files import atomic_path, write_json
from graphsci.preprocessing import detected_genes

Design = Literal["molecules", "entries", "cells", "depth"]
DESIGNS: tuple[Design, ...] = get_args(Design)

#: Share of the cells that the design ``cells`` tests on: the paper's independent test.
TEST_CELLS = 0.2
#: Coverage is measured where a method expects at least this many held-out molecules. Nearly all
#: other entries are zero whatever happens, and any interval covers them.
COVERAGE_FROM = 0.5
#: Spread, against 1 + its maximum, below which a gene's float32 log expression is constant.
FLAT = 1e-6
#: Name of the held-out counts themselves in a table.
CEILING = "truth"
#: A difference counts if it is this many standard errors (over cells) from 0.
SIGNIFICANT = 2.0


class Task(NamedTuple):
    """What a method may see, and what is asked of it."""

    training: sp.csr_matrix  #: (training cells, genes) to learn from; ``kept`` itself, or others
    kept: sp.csr_matrix  #: (cells, genes) known part of the cells that are judged
    ratio: float  #: held-out fraction / kept fraction
    seed: int

    @property
    def new_cells(self) -> bool:
        """Whether the judged cells are others than those to learn from."""
        return self.training is not self.kept


class Case(NamedTuple):
    """A task with its answer."""

    task: Task
    held_out: sp.csr_matrix  #: (cells, genes) counts to be predicted
    cells: NDArray[np.int64]  #: positions of the judged cells in the data
    genes: NDArray[np.int64]  #: positions of the judged genes: those seen in training
    n_cells: int  #: cells of the data
    hidden_entries: bool = False  #: whether only the entries in ``held_out`` are judged


class Expected(NamedTuple):
    """What a method expects in consecutive cells."""

    start: int  #: position of the first cell
    counts: Floats  #: (rows, genes) expected held-out counts
    sd: Floats | None = None  #: (rows, genes) standard deviation of that expectation, if known


class Reference(NamedTuple):
    """What every method on a case is measured against; see :func:`reference_of`."""

    sums: metrics.DevianceSums  #: Poisson deviance of the gene means
    theta: Floats  #: (genes,) inverse dispersion of the NB deviance
    nb: float  #: NB deviance of the gene means, summed; 0 if entries were hidden


Method = Callable[[Task], Iterable[Expected]]


@dataclass(frozen=True)
class Run:
    """One method on one case."""

    method: str
    seed: int
    scores: dict[str, float]  #: by name, see :func:`score`
    per_cell: Floats  #: (cells of the data,) Poisson deviance per entry; NaN where not judged


class Summary(NamedTuple):
    """One method over all seeds."""

    method: str
    scores: dict[str, float]  #: means over seeds
    spread: dict[str, float]  #: standard deviations over seeds (n - 1), 0 for one seed
    against: dict[str, metrics.PairedDifference]  #: deviance, this method - another one
    n_seeds: int


# --- cases ------------------------------------------------------------------------------


def make_case(
    counts: sp.csr_matrix,
    *,
    design: Design = "molecules",
    fraction: float = 0.1,
    depth: float | None = None,
    seed: int,
) -> Case:
    """Hide a part of the counts.

    Parameters
    ----------
    counts
        Whole numbers (cells, genes).
    design
        ``molecules``: a share of the molecules of every cell. ``entries``: a share of the
        non-zero entries, whole; only they are judged. ``cells``: molecules in a fifth of the
        cells, the others are for training. ``depth``: all molecules above a median depth.
    fraction
        Share of the molecules or entries held out; ``depth`` finds its own.
    depth
        Median library size that ``depth`` thins to.
    seed
        Fixes what is hidden.

    Raises
    ------
    ValueError
        If the design is unknown, or does not fit the counts.
    """
    if design not in DESIGNS:
        raise ValueError(f"design: got {design!r}, expected one of {', '.join(DESIGNS)}.")
    if (depth is not None) != (design == "depth"):
        raise ValueError(
            f"depth: got {depth} with the design {design!r}; the design 'depth' needs the median "
            "library size to thin to, the others take none."
        )
    rng = np.random.default_rng(seed)
    everyone = np.arange(counts.shape[0])
    if design == "cells":
        split = hold_out_cells(counts.shape[0], fraction=TEST_CELLS, rng=rng)
        part = hold_out_molecules(counts[split.test], fraction=fraction, rng=rng)
        training = sp.csr_matrix(counts[split.train])
        return _case(training, part.kept, part.held_out, part.ratio, seed, split.test, counts)
    if depth is not None:
        thinned = thin_to_depth(counts, median_library_size=depth, rng=rng)
        ratio = (1.0 - thinned.fraction) / thinned.fraction
        shallow = thinned.shallow
        return _case(shallow, shallow, thinned.rest, ratio, seed, everyone, counts)
    if design == "entries":
        hidden = hold_out_entries(counts, fraction=fraction, rng=rng)
        entries = (hidden.values, (hidden.cells, hidden.genes))
        held_out = sp.csr_matrix(entries, shape=counts.shape)
        masked = hidden.masked
        case = _case(masked, masked, held_out, 1.0, seed, everyone, counts)
        return case._replace(hidden_entries=True)
    part = hold_out_molecules(counts, fraction=fraction, rng=rng)
    return _case(part.kept, part.kept, part.held_out, part.ratio, seed, everyone, counts)


def given_case(kept: sp.csr_matrix, held_out: sp.csr_matrix, *, seed: int = 0) -> Case:
    """Use a division of the molecules that was made before; its ratio is that of the totals.

    Raises
    ------
    ValueError
        If shapes differ or one part is empty.
    """
    if kept.shape != held_out.shape or not kept.sum() > 0 or not held_out.sum() > 0:
        raise ValueError(
            f"kept counts have shape {kept.shape} and {kept.sum():,.0f} molecules, held-out ones "
            f"{held_out.shape} and {held_out.sum():,.0f}, expected the same cells and genes and "
            "molecules in both."
        )
    ratio = float(held_out.sum() / kept.sum())
    return _case(kept, kept, held_out, ratio, seed, np.arange(kept.shape[0]), kept)


def _case(
    training: sp.csr_matrix,
    kept: sp.csr_matrix,
    held_out: sp.csr_matrix,
    ratio: float,
    seed: int,
    cells: NDArray[np.int64],
    counts: sp.csr_matrix,
) -> Case:
    """Restrict a case to the genes seen in training: of the others nobody can know anything."""
    genes = np.flatnonzero(detected_genes(training))
    learnt = sp.csr_matrix(training[:, genes])
    known = learnt if training is kept else sp.csr_matrix(kept[:, genes])
    task = Task(learnt, known, ratio, seed)
    return Case(task, sp.csr_matrix(held_out[:, genes]), cells, genes, counts.shape[0])


# --- methods ----------------------------------------------------------------------------


def control(name: str) -> Method:
    """Return a control of :data:`graphsci.evaluation.CONTROLS` as a method.

    Where the judged cells are new, it sees the training cells beside what was kept of them.
    """
    if name not in CONTROLS:
        raise ValueError(f"got the control {name!r}, expected one of {', '.join(CONTROLS)}.")

    def predict(task: Task) -> Iterator[Expected]:
        seen = sp.csr_matrix(sp.vstack([task.training, task.kept])) if task.new_cells else task.kept
        first = seen.shape[0] - task.kept.shape[0]
        predicted = CONTROLS[name](seen, ratio=task.ratio, random_state=task.seed)
        judged = Prediction(
            task.kept.shape, lambda start, stop: predicted.rows(first + start, first + stop)
        )
        for start, block in judged:
            yield Expected(start, block)

    return predict


def ceiling(case: Case) -> Method:
    """Return the held-out counts themselves as a method: D2 of 1, the ceiling of every table.

    Nobody can reach it, for the counts' Poisson noise cannot be predicted. It is no rival:
    :func:`sentence` and :func:`losses` leave it out under the name :data:`CEILING`.
    """

    def predict(task: Task) -> Iterator[Expected]:
        for start, block in truth(case.held_out):
            yield Expected(start, block)

    return predict


def estimate_at_own_depth(values: Any, case: Case) -> Method:
    """Return someone's finished estimate of the kept counts' rates as a method.

    Parameters
    ----------
    values
        (cells of the data, genes of the data) expected counts at each cell's own kept depth,
        dense or sparse, made from the kept counts alone.
    case
        Says which genes are judged.
    """
    matrix: Any = sp.csr_matrix(values) if sp.issparse(values) else np.asarray(values)

    def predict(task: Task) -> Iterator[Expected]:
        def rows(start: int, stop: int) -> Floats:
            block = matrix[case.cells[start:stop]][:, case.genes]
            return task.ratio * np.asarray(block.toarray() if sp.issparse(block) else block)

        for start, block in Prediction(task.kept.shape, rows):
            yield Expected(start, block)

    return predict


# --- scores -----------------------------------------------------------------------------


def run_method(
    name: str,
    method: Method,
    case: Case,
    *,
    level: float = 0.9,
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
    gathered = _Gathered(case.task)
    blocks = extra.watch(clock.watch(method(case.task)))
    sums = _deviances(blocks if judge is None else gathered.watch(blocks), case)
    of_means, rare = reference.sums, rare_genes(case)
    per_cell = np.full(case.n_cells, np.nan)
    per_cell[case.cells] = _per_entry(sums.per_cell, case)
    scores = {
        "deviance": float(np.nanmean(per_cell)),
        "d2": metrics.d2(deviance=sums.total, reference_deviance=of_means.total),
        "seconds": clock.seconds,
    }
    if of_means.per_gene[rare].sum() > 0:
        own, theirs = sums.per_gene[rare].sum(), of_means.per_gene[rare].sum()
        scores["d2_rare"] = metrics.d2(deviance=own, reference_deviance=theirs)
    scores |= extra.scores()
    if judge is not None:
        scores |= judge(gathered.values())
    return Run(name, case.task.seed, scores, per_cell)


def _deviances(blocks: Iterable[tuple[int, Floats]], case: Case) -> metrics.DevianceSums:
    """Return the Poisson deviance of the judged entries."""
    return metrics.poisson_deviance_sums(
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
    return metrics.nb_deviance_sums(
        predicted=np.asarray(counts, dtype=float),
        held_out=case.held_out[start : start + len(counts)],
        inverse_dispersion=theta,
    ).total


def reference_sums(case: Case) -> metrics.DevianceSums:
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
    below = stats.nbinom.cdf(held_out - 1, theta, probability)
    upto = stats.nbinom.cdf(held_out, theta, probability)
    pit = below + rng.random(np.shape(held_out)) * (upto - below)
    return abs(pit - 0.5) <= level / 2


def clustering_judge(
    labels: NDArray[Any], *, protocol: str, n_seeds: int, seed: int
) -> Callable[[Floats], dict[str, float]]:
    """Return a judge for :func:`run_method`: how well clusters agree with labels (cells,)."""

    def judge(log_values: Floats) -> dict[str, float]:
        found = evaluate_clustering(
            log_values=_without_rounding(log_values),
            labels=labels,
            protocol=protocol,
            n_seeds=n_seeds,
            random_state=seed,
        )
        means = {name: scores.mean for name, scores in found._asdict().items()}
        return {
            "clustering_accuracy" if name == "accuracy" else name: means[name] for name in means
        }

    return judge


def shuffled_scores(
    method: Method, case: Case, *, n_copies: int, labels: NDArray[Any] | None = None
) -> dict[str, float]:
    """Return what a method's estimates make of shuffled copies of real genes.

    The copies are appended to what the method sees, and independent of all else; they are judged
    by log1p of the estimates at the median depth.

    Parameters
    ----------
    method, case
        As :func:`run_method`; not of new cells.
    n_copies
        Genes to copy.
    labels
        Known type of each cell (cells,), None where unknown.

    Returns
    -------
    ``shuffled_correlation``: mean |r| between copies, for independent counts of n cells about
    ``sqrt(2 / (pi n))``; with labels ``shuffled_de``: the share of copies with p < 0.05 between
    the two largest types, right at 0.05, and 0 if no copy varies.
    """
    rng = np.random.default_rng(case.task.seed)
    more = append_shuffled_genes(case.task.kept, n_copies=n_copies, rng=rng)
    task = case.task._replace(training=more.counts, kept=more.counts)
    gathered = _Gathered(task, genes=more.copies)
    for _ in gathered.watch((start, counts) for start, counts, _ in method(task)):
        pass
    values = _without_rounding(gathered.values())
    scores = {"shuffled_correlation": mean_absolute_correlation(values=values)}
    if labels is None:
        return scores
    first, second = (values[cells] for cells in _two_largest(labels))
    varies = bool(np.ptp(np.concatenate([first, second]), axis=0).any())
    rate = false_positive_rate(first=first, second=second) if varies else 0.0
    return scores | {"shuffled_de": rate}


def check_shuffled(case: Case, *, n_copies: int, labels: NDArray[Any] | None = None) -> None:
    """Refuse what :func:`shuffled_scores` cannot score, before a method has worked for it.

    Raises
    ------
    ValueError
        If too few genes are seen often enough to be copied, or the two largest types have not
        two cells each.
    """
    genes_to_copy(case.task.kept, n_copies=n_copies)
    if labels is None:
        return
    sizes = [len(cells) for cells in _two_largest(labels)]
    if min(sizes) < 2:
        raise ValueError(
            f"labels: the two largest types have {sizes[0]} and {sizes[1]} cells, expected at "
            "least two in each; shuffled genes are tested between them."
        )


def _two_largest(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the cells of the two most frequent labels; ties in the order of the names."""
    known = np.array([label for label in labels if label is not None]).astype(str)
    names, n_cells = np.unique(known, return_counts=True)
    one, two = names[np.argsort(-n_cells, kind="stable")[:2]]
    return np.flatnonzero(labels == one), np.flatnonzero(labels == two)


def _without_rounding(log_values: Floats) -> Floats:
    """Make genes constant that vary in their last digits alone, as gene means do."""
    flat = np.ptp(log_values, axis=0) <= FLAT * (1 + log_values.max(0))
    return np.where(flat, log_values[0], log_values)


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


class _Gathered:
    """Keeps log1p of the estimates at the median kept depth while a method's blocks go by."""

    def __init__(self, task: Task, genes: NDArray[np.int64] | None = None) -> None:
        library = np.asarray(task.kept.sum(1)).ravel()
        self.depth = float(np.median(library[library > 0]))
        self.genes = np.arange(task.kept.shape[1]) if genes is None else genes
        self.parts: list[NDArray[np.float32]] = []

    def watch(self, blocks: Iterable[tuple[int, Floats]]) -> Iterator[tuple[int, Floats]]:
        for start, counts in blocks:
            totals = counts.sum(1, keepdims=True)
            scale = self.depth / np.where(totals > 0, totals, 1.0)
            self.parts.append(np.log1p(counts[:, self.genes] * scale).astype(np.float32))
            yield start, counts

    def values(self) -> Floats:
        return np.concatenate(self.parts)


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
            "nb_d2": metrics.d2(deviance=self.nb, reference_deviance=self.reference.nb),
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


# --- many runs --------------------------------------------------------------------------


def summarise(runs: Sequence[Run]) -> tuple[Summary, ...]:
    """Average runs over seeds and compare methods in pairs, best deviance first.

    The cells are the sample: a cell's difference is averaged over the seeds that judged it, and
    the standard error is that of the mean over cells. Only seeds that all methods share count,
    and of a method only scores that it has on all of them.

    Raises
    ------
    ValueError
        If there is no seed that all methods were run on.
    """
    by_method: dict[str, dict[int, Run]] = {}
    for run in runs:
        by_method.setdefault(run.method, {})[run.seed] = run
    seeds = sorted(set.intersection(*(set(found) for found in by_method.values())) or set())
    if not seeds:
        raise ValueError("no seed was run with every method, expected at least one.")
    chosen = {name: [found[seed] for seed in seeds] for name, found in by_method.items()}
    losses = {name: [run.per_cell for run in found] for name, found in chosen.items()}
    found = [_summary(name, chosen[name], losses) for name in chosen]
    return tuple(sorted(found, key=lambda summary: summary.scores["deviance"]))


def _summary(name: str, runs: list[Run], losses: dict[str, list[Floats]]) -> Summary:
    common = [key for key in runs[0].scores if all(key in run.scores for run in runs)]
    values = {key: [run.scores[key] for run in runs] for key in common}
    mean = {key: float(np.mean(per_seed)) for key, per_seed in values.items()}
    spread = {
        key: float(np.std(per_seed, ddof=1)) if len(per_seed) > 1 else 0.0
        for key, per_seed in values.items()
    }
    against = {other: paired(losses[name], losses[other]) for other in losses if other != name}
    return Summary(name, mean, spread, against, len(runs))


def paired(candidate: Sequence[Floats], reference: Sequence[Floats]) -> metrics.PairedDifference:
    """Compare losses per cell, one array a seed with NaN for cells that it did not judge."""
    differences = np.stack(candidate) - np.stack(reference)  # (seeds, cells)
    judged = np.isfinite(differences)
    n = judged.sum(0)
    per_cell = np.where(judged, differences, 0.0).sum(0)[n > 0] / n[n > 0]
    if per_cell.size < 2:
        raise ValueError(
            f"{per_cell.size} cells were judged, expected at least two: their spread is the error."
        )
    return metrics.mean_difference(per_cell)


def without_ceiling(summaries: Sequence[Summary]) -> list[Summary]:
    """Return the summaries of methods; all, if there is the ceiling alone."""
    return [found for found in summaries if found.method != CEILING] or list(summaries)


def sentence(summaries: Sequence[Summary], ours: str, *, judged: str = "held-out molecules") -> str:
    """Say in one honest sentence how a method fares against all others in what was judged."""
    summaries = without_ceiling(summaries)
    best = summaries[0]
    named = {summary.method: summary for summary in summaries}
    if ours not in named:
        return (
            f"{best.method} predicted the {judged} best: "
            f"D2 {best.scores['d2']:.3f} over the gene means."
        )
    own = named[ours]
    rivals = [
        summary
        for summary in summaries
        if summary.method != ours
        # another estimate of the same model is worth a word only where it is ahead
        and not (summary.method.startswith(f"{ours}-") and own.against[summary.method].z <= 0)
    ]
    if not rivals:
        return f"{ours}: D2 {own.scores['d2']:.3f} over the gene means; no other method was run."
    rival = rivals[0]
    better = [s.method for s in rivals if own.against[s.method].z > SIGNIFICANT]
    equal = [s.method for s in rivals if abs(own.against[s.method].z) <= SIGNIFICANT]
    gap = own.against[rival.method]
    numbers = (
        f"D2 {own.scores['d2']:.3f} against {rival.scores['d2']:.3f} of {rival.method} (deviance "
        f"per entry {gap.difference:+.2g} +- {gap.standard_error:.1g}, paired over cells)"
    )
    if better:
        return f"Prefer {' or '.join(better)} here to {ours}: {numbers}."
    if equal:
        return f"{ours} is no better here than {' or '.join(equal)}, within the error: {numbers}."
    return f"{ours} predicted the {judged} better than every other method: {numbers}."


class Score(NamedTuple):
    """A score as tables, pictures and sentences name it."""

    label: str
    format: str
    meaning: str  #: ``{level}`` stands for the level of the intervals
    #: Which way is better where methods are compared in this score alone; None: they are not.
    better: Literal["higher", "lower"] | None


#: Scores of tables and pictures, in order; a run may have more. Deviance is compared as D2, in
#: pairs, and seconds are not: methods that learn nothing need next to none, and layers none.
SCORES: dict[str, Score] = {
    "deviance": Score(
        "deviance", ".5f", "mean Poisson deviance per judged entry, lower is better", None
    ),
    "d2": Score("D2", ".3f", "share of the gene means' deviance that is explained", "higher"),
    "nb_d2": Score("NB D2", ".3f", "the same, negative binomial", "higher"),
    "d2_rare": Score(
        "D2 rare genes", ".3f", "D2 of the half of the genes with the fewest molecules", "higher"
    ),
    "log_error": Score(
        "log error", ".3f", "mean |difference| of log1p counts at the hidden entries", "lower"
    ),
    "log_pearson": Score(
        "log r", ".3f", "Pearson's r of log1p counts over the hidden entries", "higher"
    ),
    "coverage": Score(
        "coverage", ".3f", "of held-out counts by {level:.0%} intervals, right if equal", None
    ),
    "ari": Score("ARI", ".3f", "clusters against the labels", "higher"),
    "nmi": Score("NMI", ".3f", "clusters against the labels", "higher"),
    "shuffled_correlation": Score(
        "|r| shuffled", ".3f", "between shuffled genes, near 0 in truth", "lower"
    ),
    "shuffled_de": Score(
        "DE shuffled", ".3f", "shuffled genes with p < .05 between types, right at .05", "lower"
    ),
    "seconds": Score("seconds", ".1f", "of the method, wall time", None),
}
#: Methods that say nothing of a cell, and so invent nothing: no rivals in false signal.
SILENT = ("gene_mean", "empty")


def losses(summaries: Sequence[Summary], ours: str) -> tuple[str, ...]:
    """Say in which scores another method is ahead of ours, the best of them with both numbers.

    D2 counts where the paired difference is beyond its error, any other score by its mean over
    seeds alone. Methods that say nothing (:data:`SILENT`) do not count in false signal.
    """
    named = {summary.method: summary for summary in without_ceiling(summaries)}
    if ours not in named:
        return ()
    own = named.pop(ours)
    found = []
    for score, (label, _, _, better) in SCORES.items():
        if better is None:
            continue
        rivals = [r for r in named.values() if score in r.scores and score in own.scores]
        if score.startswith("shuffled"):
            rivals = [rival for rival in rivals if rival.method not in SILENT]
        if score == "d2":
            rivals = [rival for rival in rivals if own.against[rival.method].z > SIGNIFICANT]
        sign = 1 if better == "higher" else -1
        ahead = [r for r in rivals if sign * (r.scores[score] - own.scores[score]) > 0]
        if ahead:
            best = max(ahead, key=lambda rival: sign * rival.scores[score])
            numbers = f"{best.scores[score]:.3g} against {own.scores[score]:.3g}"
            found.append(f"{label} ({best.method}: {numbers})")
    return tuple(found)


# --- runs on disk -----------------------------------------------------------------------


def fingerprint(counts: sp.csr_matrix) -> str:
    """Return a digest of a matrix: the same for the same numbers in the same places."""
    matrix = sp.csr_matrix(counts, dtype=np.float64)
    if not matrix.has_sorted_indices:  # on a copy: the indices are the caller's own array
        matrix = matrix.sorted_indices()
    digest = hashlib.sha256(repr(matrix.shape).encode())
    for part in (matrix.indptr, matrix.indices):
        digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(matrix.data).tobytes())
    return digest.hexdigest()[:16]


class Store:
    """Runs in a folder, one pair of files each, under a key of all that decides them.

    Parameters
    ----------
    folder
        Made when the first run is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def key(**decisive: Any) -> str:
        """Return the key of a run: a digest of everything that decides its outcome."""
        text = json.dumps(decisive, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def find(self, key: str) -> Run | None:
        """Return the run of that key, or None."""
        if self.folder is None or not self._json(key).is_file():
            return None
        record = json.loads(self._json(key).read_text(encoding="utf-8"))
        per_cell = np.load(self._cells(key))
        return Run(record["method"], record["seed"], record["scores"], per_cell)

    def keep(self, key: str, run: Run, **record: Any) -> None:
        """Write a run; the record is written last, so that a half-written run does not count."""
        if self.folder is None:
            return
        self._cells(key).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._cells(key)) as temporary:
            np.save(temporary, run.per_cell)
        known = {"method": run.method, "seed": run.seed, "scores": run.scores}
        write_json(self._json(key), {**known, **record})

    def _json(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "runs" / f"{key}.json"

    def _cells(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "runs" / f"{key}.npy"


def tidy(runs: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """Yield one row for each score of each run, for a table."""
    for run in runs:
        for name, value in run.scores.items():
            yield {"method": run.method, "seed": run.seed, "score": name, "value": value}
