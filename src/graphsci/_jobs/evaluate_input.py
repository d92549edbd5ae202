"""The input of ``graphsci evaluate``: counts as whole molecules, labels, batches, layers."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from graphsci import io
from graphsci._jobs.evaluate_layers import (
    BUILT_IN,
    estimate_of_layer,
    other_scales,
    refuse_whole_counts,
)
from graphsci._jobs.evaluate_request import Job
from graphsci._labels import known_labels
from graphsci._words import check_column
from graphsci.io.sources import MemoryCounts, divide
from graphsci.preprocessing import (
    CountData,
    extract_batch,
    extract_counts,
    genes_without_a_batch,
)
from graphsci.preprocessing._opening import layers_present
from graphsci.training.blocks import whole_molecules
from graphsci.training.copies import find_copies, in_words


class Data(NamedTuple):
    """The input, checked."""

    counts: sparse.csr_matrix  #: (cells, genes) all of them, or what was kept
    held_out: sparse.csr_matrix | None
    labels: np.ndarray | None
    batch: NDArray[np.int64] | None  #: (cells,)
    notes: tuple[str, ...]  #: on the batches
    layers: dict[str, Any]  #: estimates that somebody made from the kept counts


def read_data(job: Job, *, copies: float = 0.0) -> Data:
    """Read and check the input; reads become molecules, by ``copies`` as in ``Config``.

    Raises
    ------
    ValueError, TypeError, OSError
        If counts, labels, layers or methods are not what they must be.
    """
    adata, data = read_counts(job)
    counts, said = as_molecules(job, data, copies)
    held_out = None
    if job.held_out is not None:
        _check_held_out(job.held_out, adata)
        held_out = extract_counts(adata, layer=job.held_out, min_cells=1).counts
    layers = {}
    for name in job.methods:
        if name not in BUILT_IN:
            held = job.held_out is not None
            layers[name] = estimate_of_layer(adata, name, held_out=held)
    batch, _, notes = extract_batch(adata, job.batch_key)
    if job.batch_key is not None:
        column = adata.obs[job.batch_key]
        lacking = genes_without_a_batch(MemoryCounts(data.counts), data.gene_names, column)
        notes += [] if lacking is None else [lacking]
    if held_out is not None:
        refuse_whole_counts(layers, counts, held_out)
        notes += other_scales(layers, counts)
    return Data(counts, held_out, _labels(job, adata), batch, (*data.doubts, *said, *notes), layers)


def read_counts(job: Job) -> tuple[AnnData, CountData[sparse.csr_matrix]]:
    """Read the input, and check its counts."""
    adata = io.read_counts(
        job.source, genes_in=job.genes_in, make_names_unique=job.make_names_unique
    )
    return adata, extract_counts(adata, layer=job.layer, allow_fractional=job.allow_fractional)


def as_molecules(
    job: Job, data: CountData[sparse.csr_matrix], asked: float
) -> tuple[sparse.csr_matrix, tuple[str, ...]]:
    """Divide reads by the copies of a molecule, and round, for all methods, and say so.

    Whoever repeats its kept reads would know the held-out ones. Where others held them out they
    stay, and it is only said.
    """
    seen = find_copies(MemoryCounts(data.counts))
    copies = seen.divisors(asked if job.held_out is None else 1.0, doubted=data.altered)
    left, is_divided, notes = seen.left(copies), (copies != 1).any(), list[str]()
    divided = divide(data.counts, copies) if is_divided else data.counts
    counts = whole_molecules(divided, np.random.default_rng(0))
    if is_divided:
        why = f"Counts: {seen}" if seen.seen else "Counts: divided as asked"
        notes.append(
            f"{why}. They were divided by {in_words(copies)} and rounded at random for all "
            "methods, so that molecules are held out and not their copies."
        )
    elif counts is not divided:
        notes.append(
            "Counts that are not whole numbers were rounded at random for all methods: only whole "
            "molecules can be held out."
        )
    if left > 1:
        ask = "" if seen.unlike else f" For these: --copies {seen.divisor:.3g}."
        notes.append(
            f"Counts: {seen}. Held-out reads are copies of kept ones, so that whoever repeats the "
            f"counts scores well; the scores say little of molecules.{ask}"
        )
    return counts, tuple(notes)


def _check_held_out(layer: str, adata: AnnData) -> None:
    if layer not in adata.layers:
        raise ValueError(
            f"held_out (--held-out): there is no layer {layer!r}; {layers_present(adata)} Name the "
            "one with the molecules that were held out, as --write-split writes it."
        )


def _labels(job: Job, adata: AnnData) -> np.ndarray | None:
    if job.label_key is None:
        return None
    check_column(adata.obs, job.label_key, option="label_key")
    labels = known_labels(adata.obs[job.label_key])
    known = [label for label in labels if label is not None]
    if len(set(known)) < 2:
        raise ValueError(
            f"label_key: obs[{job.label_key!r}] has {len(set(known))} kinds of label, expected at "
            "least two."
        )
    return labels
