"""graphsci itself, through the same contract as the peers.

Variants: ``default`` and ``paper``, the presets; ``default/estimate`` returns the estimate alone,
as the peers do, where costs are compared; ``default/mean`` returns the estimate ``mean``. The check
is off: held-out molecules of a study are seen by nothing that learns. Beside the expected count of
a repeated measurement it returns ``denoised`` at the common depth, ``imputed`` and
``imputed_median`` as the count before dropout and, where the rate is Gamma, its standard deviation.
"""

import numpy as np
import pandas as pd
from anndata import AnnData
from contract import main

import graphsci
from graphsci._jobs.evaluate_ours import expected_counts
from graphsci.evaluation.study import Task


def estimate(counts, variant, seed):
    names = pd.DataFrame(index=[str(gene) for gene in range(counts.shape[1])])
    adata = AnnData(counts.astype(np.float32), var=names)
    preset, _, only = variant.partition("/")
    model = graphsci.GraphSCI(preset=preset, check=False, seed=seed).fit(adata)
    if only == "mean":
        return {
            name: matrix(model, adata, "mean", depth)
            for name, depth in (("estimate", "own"), ("common", "common"))
        }
    blocks = list(expected_counts(model.fitted, Task(counts, counts, 1.0, seed)))
    found = {"estimate": np.concatenate([block.counts for block in blocks])}
    if only:
        return found
    if blocks[0].sd is not None:
        found["sd"] = np.concatenate([block.sd for block in blocks])
    for name, estimate, depth in (
        ("common", "denoised", "common"),
        ("before_dropout", "imputed", "own"),
        ("before_dropout_median", "imputed_median", "own"),
    ):
        found[name] = matrix(model, adata, estimate, depth)
    return found


def matrix(model, adata, estimate, depth):
    parts = model.iterate_estimates(adata, estimates=[estimate], depth=depth)
    return np.concatenate([block.values[estimate] for block in parts])


if __name__ == "__main__":
    main(estimate)
