"""Cases: what one seed hides, and the task that a method is given."""

from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from graphsci._choices import DESIGNS, HELD_OUT_FRACTION, Design
from graphsci.evaluation.designs import (
    hold_out_cells,
    hold_out_entries,
    hold_out_molecules,
    thin_to_depth,
)
from graphsci.preprocessing import detected_genes

#: Share of the cells that the design ``cells`` tests on: the paper's independent test.
TEST_CELLS = 0.2


class Task(NamedTuple):
    """What a method may see, and what is asked of it."""

    training: sp.csr_matrix  #: (training cells, genes) to learn from; ``kept`` itself, or others
    kept: sp.csr_matrix  #: (cells, genes) known part of the cells that are judged
    ratio: float  #: held-out fraction / kept fraction
    seed: int
    training_batch: NDArray[np.int64] | None = None  #: (training cells,) if cells have batches
    batch: NDArray[np.int64] | None = None  #: (cells,) of the judged ones

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


def make_case(
    counts: sp.csr_matrix,
    *,
    design: Design = "molecules",
    fraction: float = HELD_OUT_FRACTION,
    depth: float | None = None,
    batch: NDArray[np.int64] | None = None,
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
    batch
        (cells,) the batch of each cell, for methods that tell batches apart.
    seed
        Fixes what is hidden.

    Raises
    ------
    ValueError
        If the design is unknown, or does not fit the counts or the batches.
    """
    if design not in DESIGNS:
        raise ValueError(f"design: got {design!r}, expected one of {', '.join(DESIGNS)}.")
    if (depth is not None) != (design == "depth"):
        raise ValueError(
            f"depth: got {depth} with the design {design!r}; the design 'depth' needs the median "
            "library size to thin to, the others take none."
        )
    hidden = _hidden(counts, design, fraction, depth, seed)
    return _with_batches(hidden, batch)


def _hidden(
    counts: sp.csr_matrix, design: Design, fraction: float, depth: float | None, seed: int
) -> Case:
    """Hide a part of the counts as a design says."""
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


def given_case(
    kept: sp.csr_matrix,
    held_out: sp.csr_matrix,
    *,
    batch: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Case:
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
    everyone = np.arange(kept.shape[0])
    return _with_batches(_case(kept, kept, held_out, ratio, seed, everyone, kept), batch)


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


def _with_batches(case: Case, batch: NDArray[np.int64] | None) -> Case:
    """Tell the batch (cells of the data,) of the judged cells and of those to learn from."""
    if batch is None:
        return case
    judged = training = batch[case.cells]
    if case.task.new_cells:
        training = np.delete(batch, case.cells)
        unknown = ~np.isin(judged, training)
        if unknown.any():
            raise ValueError(
                f"batch: {unknown.sum():,} judged cells are of batches that no cell to learn from "
                "has, expected some of every batch. Merge small batches, or use another design."
            )
    return case._replace(task=case.task._replace(training_batch=training, batch=judged))
