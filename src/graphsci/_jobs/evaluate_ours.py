"""Our model as a method of a study: fitted once to each task, whatever asks for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from graphsci import estimates as es
from graphsci._log import Log, say_nothing
from graphsci.config import Config, later_seed
from graphsci.evaluation import study
from graphsci.imputer import GraphSCI
from graphsci.io.sources import divide
from graphsci.nn import cell_blocks
from graphsci.training import fitting

if TYPE_CHECKING:
    from graphsci.training.loop import Progress

OURS = "graphsci"
#: What the network predicts, the kept count not used again: an estimate of the same model.
OUR_MEAN = "graphsci-mean"


class Fits:
    """Models of a study's tasks, each fitted once, whatever asks for it.

    Parameters
    ----------
    config
        Of every fit; the check is left out and a task's seed is added to the seed.
    progress, log
        Called during training.
    """

    def __init__(
        self,
        config: Config,
        *,
        progress: Progress | None = None,
        log: Log = say_nothing,
    ) -> None:
        self.config, self.progress, self.log = config, progress, log
        self.saved = 0.0  #: seconds that fits made before would have taken, since set to 0
        self._found: dict[tuple[str, bytes, int], tuple[fitting.Fitted, float]] = {}

    def of(self, task: study.Task) -> fitting.Fitted:
        """Return the model that learnt from the task's training counts."""
        batch = task.training_batch
        batches = b"" if batch is None else batch.tobytes()
        key = (study.fingerprint(task.training), batches, task.seed)
        if key in self._found:
            fitted, seconds = self._found[key]
            self.saved += seconds
            return fitted
        started = time.perf_counter()
        chosen = self.config.replace(check=False, seed=later_seed(self.config.seed, task.seed))
        names = pd.DataFrame(index=[str(gene) for gene in range(task.training.shape[1])])
        adata = AnnData(sparse.csr_matrix(task.training, dtype=np.float32), var=names)
        if batch is not None:
            adata.obs["batch"] = batch.astype(str)
        batch_key = None if batch is None else "batch"
        model = GraphSCI(chosen).fit(
            adata,
            batch_key=batch_key,
            progress=self.progress,
            log=self.log,
            whole=True,  # scores of half a model would stand for those of a whole one
        )
        self._found[key] = model.fitted, time.perf_counter() - started
        return model.fitted


def graphsci_method(fits: Fits, *, estimate: Literal["denoised", "mean"]) -> study.Method:
    """Return an estimate of the model as a method of a study.

    ``denoised`` updates what the network predicts by the kept count; ``mean`` does not, as is
    right where a count was taken away whole and a zero says nothing.
    """

    def predict(task: study.Task) -> Iterator[study.Expected]:
        yield from expected_counts(fits.of(task), task, estimate=estimate)

    return predict


def expected_counts(
    fitted: fitting.Fitted, task: study.Task, *, estimate: Literal["denoised", "mean"] = "denoised"
) -> Iterator[study.Expected]:
    """Yield the expected held-out counts of a model trained on the task's genes.

    ``denoised``: the posterior of the rate given the kept count, times ``ratio``. Without dropout
    the rate is Gamma, and its standard deviation comes with it. ``mean``: what the network
    predicts, times ``ratio``.
    """
    network = fitted.network
    device = next(network.parameters()).device
    copies = fitted.spec.copies
    kept = divide(sparse.csr_matrix(task.kept, dtype=np.float32), copies)
    ratio = (copies * task.ratio).astype(np.float64)
    batch = _batches_of(fitted, task)
    for start, rows in cell_blocks.row_blocks(kept.shape[0]):
        block = cell_blocks.cell_block(kept, batch, rows, device)
        empty = np.asarray(kept[rows].sum(1)).ravel() == 0
        with torch.inference_mode():
            if estimate == "mean":
                counts = network.expected_counts(block).numpy(force=True) * ratio
                counts[empty] = 0.0
                yield study.Expected(start, counts)
                continue
            rate = es.posterior_of(network, block)
            counts = es.expected_measured(rate).numpy(force=True) * ratio
            sd = es.denoised_sd(rate).numpy(force=True) * ratio
        counts[empty], sd[empty] = 0.0, 0.0
        yield study.Expected(start, counts, sd if rate.dropped is None else None)


def _batches_of(fitted: fitting.Fitted, task: study.Task) -> NDArray[np.int64]:
    """The batch of each judged cell, (cells,), as the model counts them."""
    names = fitted.spec.batch_names
    if task.batch is None or not names:
        return np.zeros(task.kept.shape[0], np.int64)
    found = pd.Index(names).get_indexer(pd.Index(task.batch.astype(str)))
    return found.astype(np.int64)
