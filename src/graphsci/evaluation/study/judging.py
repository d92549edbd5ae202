"""What else estimates are judged by: clusters against labels, and shuffled genes."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphsci.evaluation.clustering import evaluate_clustering
from graphsci.evaluation.false_signal import (
    append_shuffled_genes,
    correlation_given_depth,
    false_positive_rate,
    genes_to_copy,
    mean_absolute_correlation,
)
from graphsci.evaluation.study._estimates import Gathered, without_rounding
from graphsci.evaluation.study.cases import Case
from graphsci.evaluation.study.methods import Method
from graphsci.predictions import Floats
from graphsci.preprocessing import library_sizes

#: What the name of a score's standard deviation over the seeds of a clustering ends in.
SD = "_sd"


def clustering_judge(
    labels: NDArray[Any], *, protocol: str, n_seeds: int, seed: int
) -> Callable[[Floats], dict[str, float]]:
    """Return a judge for :func:`run_method`: how well clusters agree with labels (cells,).

    Each score is the mean over the seeds of the clustering; with more than one, their standard
    deviation comes with it, under the name of the score and ``_sd``.
    """

    def judge(log_values: Floats) -> dict[str, float]:
        found = evaluate_clustering(
            log_values=without_rounding(log_values),
            labels=labels,
            protocol=protocol,
            n_seeds=n_seeds,
            seed=seed,
        )
        by_name = found._asdict()
        by_name["clustering_accuracy"] = by_name.pop("accuracy")
        means = {name: scores.mean for name, scores in by_name.items()}
        spread = {name + SD: scores.sd for name, scores in by_name.items() if n_seeds > 1}
        return means | spread

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
    ``sqrt(2 / (pi n))``; ``shuffled_given_depth``: the same given the library; with labels
    ``shuffled_de``: the share of copies with p < 0.05 between the two largest types, right at
    0.05, and 0 if no copy varies.
    """
    rng = np.random.default_rng(case.task.seed)
    more = append_shuffled_genes(case.task.kept, n_copies=n_copies, rng=rng)
    task = case.task._replace(training=more.counts, kept=more.counts)
    gathered = Gathered(task, genes=more.copies)
    for _ in gathered.watch((start, counts) for start, counts, _ in method(task)):
        pass
    values = without_rounding(gathered.values())
    library = library_sizes(task.kept)
    scores = {
        "shuffled_correlation": mean_absolute_correlation(values=values),
        "shuffled_given_depth": correlation_given_depth(values=values, library=library),
    }
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
