"""A study on one data set: cases of held-out counts, methods that predict them, a store of runs.

A *case* is what one seed hides. A *method* sees the case's task, never its held-out counts, and
yields what it expects there. A *run* is one method on one case: scores, and its loss in every
cell, from which any two methods are compared in pairs. A :class:`Store` keeps runs in a folder
under a key of everything that decides them, so that a study goes on where it stopped.

The modules are ``cases``, ``methods``, ``running`` (a method is scored), ``judging`` (clusters and
shuffled genes), ``comparing`` (many runs, paired errors, sentences) and ``store``.
"""

from graphsci.evaluation.study._estimates import FLAT
from graphsci.evaluation.study.cases import (
    DESIGNS,
    TEST_CELLS,
    Case,
    Design,
    Task,
    given_case,
    make_case,
)
from graphsci.evaluation.study.comparing import (
    SCORES,
    SILENT,
    Score,
    Summary,
    losses,
    paired,
    sentence,
    summarise,
    without_ceiling,
)
from graphsci.evaluation.study.judging import SD, check_shuffled, clustering_judge, shuffled_scores
from graphsci.evaluation.study.methods import (
    CEILING,
    Expected,
    Method,
    ceiling,
    control,
    estimate_at_own_depth,
)
from graphsci.evaluation.study.running import (
    COVERAGE_FROM,
    Reference,
    Run,
    judging_theta,
    predictive_coverage,
    rare_genes,
    reference_of,
    reference_sums,
    run_method,
)
from graphsci.evaluation.study.store import Store, fingerprint, tidy

__all__ = [
    "CEILING",
    "COVERAGE_FROM",
    "DESIGNS",
    "FLAT",
    "SCORES",
    "SD",
    "SILENT",
    "TEST_CELLS",
    "Case",
    "Design",
    "Expected",
    "Method",
    "Reference",
    "Run",
    "Score",
    "Store",
    "Summary",
    "Task",
    "ceiling",
    "check_shuffled",
    "clustering_judge",
    "control",
    "estimate_at_own_depth",
    "fingerprint",
    "given_case",
    "judging_theta",
    "losses",
    "make_case",
    "paired",
    "predictive_coverage",
    "rare_genes",
    "reference_of",
    "reference_sums",
    "run_method",
    "sentence",
    "shuffled_scores",
    "summarise",
    "tidy",
    "without_ceiling",
]
