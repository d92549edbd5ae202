"""Methods: what they yield, and controls, ceiling and finished estimates as methods."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from graphsci.evaluation.controls import CONTROLS, truth
from graphsci.evaluation.study.cases import Case, Task
from graphsci.predictions import Floats, Prediction

#: Name of the held-out counts themselves in a table.
CEILING = "truth"


class Expected(NamedTuple):
    """What a method expects in consecutive cells."""

    start: int  #: position of the first cell
    counts: Floats  #: (rows, genes) expected held-out counts
    sd: Floats | None = None  #: (rows, genes) standard deviation of that expectation, if known


Method = Callable[[Task], Iterable[Expected]]


def control(name: str) -> Method:
    """Return a control of :data:`graphsci.evaluation.CONTROLS` as a method.

    Where the judged cells are new, it sees the training cells beside what was kept of them.
    """
    if name not in CONTROLS:
        raise ValueError(f"got the control {name!r}, expected one of {', '.join(CONTROLS)}.")

    def predict(task: Task) -> Iterator[Expected]:
        seen = sp.csr_matrix(sp.vstack([task.training, task.kept])) if task.new_cells else task.kept
        first = seen.shape[0] - task.kept.shape[0]
        predicted = CONTROLS[name](seen, ratio=task.ratio, seed=task.seed)
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
