"""Reads of molecules whose number is known: what is recovered of the molecules?

    python benchmarks/reads.py --data DIR [--seeds 0] [--methods magic-sqrt scvi-nb]

A fifth of the molecules of a data set is held out. Every other molecule is then read many times:
``same``: 30 times; ``geometric``: geometrically, 30 in the mean; ``skewed``: Poisson around a
log-normal of median 15 and standard deviation 1.2; the last two times a factor of the gene,
log-normal of standard deviation 0.5; ``few``: as ``geometric`` with a mean of 5. Methods see the
reads alone and are scored on the held-out molecules, by Poisson deviance after every cell and gene
was scaled to its held-out total, since reads have no scale of molecules: what remains is which gene
is high in which cell. The last line of each data set has one count a molecule.

Writes ``results/reads.csv``, one row a method, and ``results/reads.md``.
"""

from __future__ import annotations

import argparse
import datetime
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from data import read_dataset
from graphsci import GraphSCI, simple_methods
from graphsci.imputer import versions
from suite import provenance, written
from suite.methods import HERE, METHODS
from suite.running import Failed, Limits, fresh_estimate
from suite.truth import commit_of

DATASETS = ("klein_mes", "zeisel_saver", "paul15", "pbmc_1k_v3", "scmix_sc_celseq2")
READ = ("same", "geometric", "skewed", "few", "once")
#: Cells and genes (of twice as many, those with most molecules) of a data set.
CELLS, GENES = 900, 2_500
HELD_OUT = 0.2
#: Share of the gene means mixed into every estimate: a zero would cost without bound.
FLOOR = 1e-2


def molecules(counts: sparse.csr_matrix, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return some cells, and some of the genes with most molecules."""
    cells = np.sort(rng.permutation(counts.shape[0])[:CELLS])
    order = np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[: 2 * GENES]
    genes = np.sort(rng.permutation(order)[:GENES])
    return sparse.csr_matrix(counts[cells][:, genes]).astype(np.int64)


def read(counts: sparse.csr_matrix, how: str, rng: np.random.Generator) -> sparse.csr_matrix:
    """Return how often molecules were read, (cells, genes)."""
    found, n = counts.copy(), counts.data
    factor = np.exp(rng.normal(0, 0.5, counts.shape[1]))[counts.indices]
    if how == "same":
        found.data = 30 * n
    elif how in ("geometric", "few"):
        found.data = rng.negative_binomial(n, 1 / (1 + (30 if how == "geometric" else 5) * factor))
    elif how == "skewed":
        entry = np.repeat(np.arange(len(n)), n)
        times = rng.poisson(factor[entry] * np.exp(rng.normal(np.log(15), 1.2, len(entry))))
        found.data = np.bincount(entry, times, minlength=len(n)).astype(np.int64)
    found.eliminate_zeros()
    return found


def scaled(estimate: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Scale cells and genes of an estimate to the totals of what was held out."""
    found = np.maximum(estimate, 0).astype(np.float64)
    found = (1 - FLOOR) * found + FLOOR * found.mean(0)
    for _ in range(10):
        found *= (held_out.sum(1) / np.maximum(found.sum(1), 1e-12))[:, None]
        found *= held_out.sum(0) / np.maximum(found.sum(0), 1e-12)
    return found


def deviance(estimate: np.ndarray, held_out: np.ndarray) -> float:
    """Poisson deviance."""
    mean = np.maximum(scaled(estimate, held_out), 1e-12)
    logs = np.log(np.maximum(held_out, 1) / mean)
    return float(2 * (held_out * logs - held_out + mean).sum())


def estimates(
    counts: sparse.csr_matrix, seed: int, peers: list[str]
) -> Iterator[tuple[str, np.ndarray, dict[str, object]]]:
    """Yield what each method makes of the reads, and what there is to say of it."""
    for name, options in (("graphsci", {}), ("graphsci, copies=1", {"copies": 1.0})):
        adata = AnnData(counts.astype(np.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = GraphSCI(seed=seed, **options).fit(adata)
            model.impute(adata, estimates=("mean", "denoised"))
        assert model.verdict is not None
        said = {
            "divided by": float(np.median(model.fitted.spec.copies)),
            "likelihood": model.fitted.spec.likelihood,
            "verdict": model.verdict.headline().split(":")[0],
        }
        yield name, adata.layers["denoised"], said
        yield f"{name}, mean", adata.layers["mean"], said
    pools = simple_methods.pool_neighbours(counts.astype(np.float64).tocsr(), seed=seed)
    for name, blocks in (
        ("nothing", simple_methods.nothing(counts, ratio=1.0)),
        ("neighbour_pooling", simple_methods.pooled(pools, ratio=1.0)),
        ("neighbour_pooling_posterior", simple_methods.pooled_posterior(pools, ratio=1.0)),
    ):
        yield name, np.concatenate([block for _, block in blocks]), {}
    for name in peers:
        try:
            made = fresh_estimate(METHODS[name], counts, seed=seed, source=HERE, limits=Limits())
        except Failed as failed:
            print(f"{name}: {failed}", flush=True)
        else:
            yield name, np.asarray(made.arrays["estimate"]), {}


def rows(name: str, counts: sparse.csr_matrix, seed: int, peers: list[str]) -> Iterator[dict]:
    """Score all methods on all kinds of reads of one data set."""
    for index, how in enumerate(READ):
        rng = np.random.default_rng([seed, index])
        whole = molecules(counts, rng)
        held_out = whole.copy()
        held_out.data = rng.binomial(whole.data, HELD_OUT)
        found = read(sparse.csr_matrix(whole - held_out), how, rng)
        held_out.eliminate_zeros()
        cells, genes = (
            np.flatnonzero((found.getnnz(axis) > 0) & (held_out.getnnz(axis) > 0))
            for axis in (1, 0)
        )
        truth = held_out[cells][:, genes].toarray().astype(np.float64)
        reference = deviance(np.ones_like(truth), truth)
        for method, estimate, said in estimates(found[cells][:, genes], seed, peers):
            row = {"dataset": name, "read": how, "seed": seed, "method": method}
            yield {**row, "D2": 1 - deviance(estimate, truth) / reference, **said}


def main() -> None:
    """Run all and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="*", default=[], help="peers, by their rows' names")
    args = parser.parse_args()
    torch.set_num_threads(1)
    made = []
    for name in DATASETS:
        adata = read_dataset(args.data, name)
        for seed in args.seeds if adata is not None else ():
            for row in rows(name, adata.X, seed, args.methods):
                print(row, flush=True)
                made.append(row)
    found = pd.DataFrame(made)
    wide = found.pivot_table(
        index=["dataset", "read"], columns="method", values="D2", sort=False
    ).reset_index()
    ours = found[found.method == "graphsci"].groupby(["dataset", "read"], sort=False)
    wide.insert(2, "divided by", ours["divided by"].mean().to_numpy())
    seeds = " ".join(map(str, args.seeds))
    used = ", ".join(f"{package} {number}" for package, number in versions().items())
    text = [
        "# Reads of known molecules",
        "",
        f"Made by `python benchmarks/reads.py --data DIR --seeds {seeds}"
        f"{' --methods ' if args.methods else ''}{' '.join(args.methods)}` on "
        f"{datetime.date.today()}; graphsci at commit {commit_of(Path(__file__).parents[1])}; "
        f"{provenance.machine()}, {provenance.SHARED}; {used}. D2: share of the gene means' "
        "Poisson deviance of held-out molecules that an estimate from reads explains, cells and "
        "genes scaled to their totals. Higher is better, 0 is gene means.",
        "",
        written.markdown(wide),
    ]
    written.write("reads", found, text)


if __name__ == "__main__":
    main()
