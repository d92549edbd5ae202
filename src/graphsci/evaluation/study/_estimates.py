"""Log estimates of all cells at one depth, gathered while a method's blocks go by."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from graphsci.evaluation.study.cases import Task
from graphsci.predictions import Floats

#: Spread, against 1 + its maximum, below which a gene's float32 log expression is constant.
FLAT = 1e-6


class Gathered:
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


def without_rounding(log_values: Floats) -> Floats:
    """Make genes constant that vary in their last digits alone, as gene means do."""
    flat = np.ptp(log_values, axis=0) <= FLAT * (1 + log_values.max(0))
    return np.where(flat, log_values[0], log_values)
