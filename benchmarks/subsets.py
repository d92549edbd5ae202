"""Random subsets of every count data set, at full and lower depth: does ours ever lose?

    python benchmarks/subsets.py --data DIR [--seeds 0 1 2]

Each run takes 50 to 600 cells, 300 to 4,000 genes and all, half or a fifth of the molecules of a
data set, at random, and fits the default model with its check, which compares it with the simple
methods on held-out molecules. Settings never saw these sizes and depths. Writes
``results/subsets.csv``, one row a run, and ``results/subsets.md``.
"""

from __future__ import annotations

import argparse
import datetime
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from data import DATASETS, read_dataset
from graphsci import GraphSCI
from graphsci.imputer import versions
from suite import provenance, written
from suite.truth import commit_of

DEPTHS = (1.0, 0.5, 0.2)


def subset(counts: sparse.csr_matrix, rng: np.random.Generator) -> tuple[AnnData, float]:
    """Return some cells, some of the genes that they express, and the share of molecules kept."""
    most = min(counts.shape[0], int(np.exp(rng.uniform(np.log(50), np.log(600)))))
    cells = np.sort(rng.choice(counts.shape[0], most, replace=False))
    expressed = np.flatnonzero(np.asarray(counts[cells].sum(0)).ravel())
    wanted = int(np.exp(rng.uniform(np.log(300), np.log(4_000))))
    genes = np.sort(rng.choice(expressed, min(len(expressed), wanted), replace=False))
    part = sparse.csr_matrix(counts[cells][:, genes])
    depth = float(rng.choice(DEPTHS))
    part.data = rng.binomial(part.data.astype(np.int64), depth).astype(np.float32)
    part.eliminate_zeros()
    return AnnData(part), depth


def run(name: str, counts: sparse.csr_matrix, seed: int) -> dict[str, object]:
    """Fit one subset."""
    rng = np.random.default_rng([seed, sorted(DATASETS).index(name)])
    adata, depth = subset(counts, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = GraphSCI(seed=seed).fit(adata)
    row = {"dataset": name, "seed": seed, "cells": adata.n_obs, "genes": adata.n_vars}
    row |= {"depth": depth, "molecules a cell": float(np.median(np.asarray(adata.X.sum(1))))}
    assert model.verdict is not None
    ours, *simple = model.verdict.scores
    found = {"ours": ours.d2, **{score.method: score.d2 for score in simple}}
    verdict = model.verdict.headline().split(":")[0]
    return {**row, **found, "verdict": verdict}


def main() -> None:
    """Run all and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in DATASETS:
        adata = read_dataset(args.data, name)
        for seed in args.seeds if adata is not None else ():
            rows.append(run(name, adata.X, seed))
            print(rows[-1], flush=True)
    found = pd.DataFrame(rows)
    simple = found.columns[found.columns.get_loc("ours") + 1 : -1]
    best = found[simple].max(axis=1)
    seeds = " ".join(map(str, args.seeds))
    used = ", ".join(f"{package} {number}" for package, number in versions().items())
    text = [
        "# Random subsets",
        "",
        f"Made by `python benchmarks/subsets.py --data DIR --seeds {seeds}` on "
        f"{datetime.date.today()}; graphsci at commit {commit_of(Path(__file__).parents[1])}; "
        f"{provenance.machine()}, {provenance.SHARED}; {used}. D2: share of the "
        "gene means' Poisson deviance of held-out molecules that is explained.",
        "",
        f"Ours is above every simple method in {int((found['ours'] > best).sum())} of {len(found)} "
        f"subsets, above gene means in {int((found['ours'] > 0).sum())}. Verdicts: "
        f"{', '.join(f'{v!r} {n}' for v, n in found['verdict'].value_counts().items())}.",
        "",
        written.markdown(found),
    ]
    written.write("subsets", found, text)


if __name__ == "__main__":
    main()
