"""What a run says of itself, in plain values: data, results, notes, seconds and memory."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsci import __version__
from graphsci._jobs.info import depth_and_zeros
from graphsci._jobs.output import LARGEST_HALF

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci._imputing.estimating import Cells
    from graphsci._jobs.impute import Job
    from graphsci.imputer import GraphSCI


def summarise(
    job: Job, model: GraphSCI, adata: AnnData, cells: Cells, *, trained_here: bool
) -> dict[str, Any]:
    """Return what was read, what was made of it, and where it is.

    ``trained_here``: the model was trained on these cells, not loaded.
    """
    record = adata.uns[job.slots.uns]
    said = {name: record["estimates"][job.stored(name)] for name in job.names}
    graph = model.gene_graph
    source = cells.source
    return {
        "graphsci": __version__,
        "input": str(job.source),
        "trained_here": trained_here,
        "outputs": {name: str(path) for name, path in job.paths.items()},
        "data": depth_and_zeros(source.shape, cells.n_detected, source.n_entries, cells.totals),
        "slots": {name: job.slot(name) for name in job.names},
        "meanings": {name: estimate["meaning"] for name, estimate in said.items()},
        "units": {name: estimate["unit"] for name, estimate in said.items()},
        "key_added": job.key_added,
        "batch_cells": _batch_cells(model, cells),
        "gene_match": cells.match.summary(),
        "gene_graph": {"source": graph.source, "edges": graph.n_edges, "genes": graph.n_genes},
        "notes": list(dict.fromkeys([*record["notes"], *cells.notes, *_notes(job, record)])),
        "record": record,
        "verdict": record["verdict"],
    }


def _batch_cells(model: GraphSCI, cells: Cells) -> dict[str, int]:
    """Cells of each batch that the model knows of; empty without batches."""
    names = model.fitted.spec.batch_names
    sizes = np.bincount(cells.batch, minlength=len(names)).tolist()
    return dict(zip(names, sizes, strict=True)) if names else {}


def _notes(job: Job, record: dict[str, Any]) -> list[str]:
    """Say what a user of these estimates should know and the model's notes do not say."""
    notes = []
    filled = [name for name in job.estimates if name.startswith("imputed")]
    if filled and record["likelihood"] == "nb":
        said = f"{' and '.join(map(repr, filled))} {'equals' if len(filled) == 1 else 'equal'}"
        notes.append(
            f"{said} the counts here: the likelihood nb knows no dropout, so every zero is taken "
            "as measured. Use 'denoised', or --likelihood zinb."
        )
    notes += [
        f"{job.slot(name)} is stored without values below {lost['below']:g}: "
        f"{lost['share_of_entries']:.1%} of all entries, {lost['share_of_sum']:.2%} of their sum"
        for name in job.names
        if (lost := record["estimates"][job.stored(name)].get("dropped"))
    ]
    if record.get("clipped"):
        notes.append(
            f"{record['clipped']:,} values above {LARGEST_HALF:,} were stored as that, the largest "
            "that float16 holds. Use --dtype float32 or --scale log1p."
        )
    return notes


# --- what it cost -----------------------------------------------------------------------


class Clock:
    """Seconds spent in the stages of a run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)

    def finish(self) -> dict[str, float]:
        """Return all stages and the total."""
        return {**self.seconds, "total": round(time.perf_counter() - self._start, 3)}


def cost(clock: Clock) -> dict[str, Any]:
    """Return seconds of the stages so far, and the largest memory."""
    return {"seconds": clock.finish(), "peak_memory_mib": peak_memory_mib()}


def peak_memory_mib() -> float | None:
    """Largest resident memory of this process so far; None where it cannot be asked."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
