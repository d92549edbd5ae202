"""What edges of a gene network cost in false ones, on counts whose true relations are known.

    python benchmarks/network_simulated.py [--seeds 0 1 2 3]

500 cells of three types, 600 genes: 40 markers of each type, whose total is the same in all types,
and 480 genes whose share is the same in every cell; NB counts. An edge is false if one of its genes
is none of the markers. Writes ``results/network_simulated.md`` and ``.csv``: edges at each stated
false-discovery rate, and the share of false ones among them.
"""

from __future__ import annotations

import argparse
import datetime
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

import graphsci
from suite import provenance, written
from suite.truth import commit_of

RATES = (0.01, 0.05, 0.1, 0.2)
N_CELLS, N_TYPES, N_MARKERS, N_OTHERS = 500, 3, 40, 480


class Setting(NamedTuple):
    """Counts to draw."""

    name: str
    depth: int = 2000  #: median molecules of a cell
    theta: float = 5.0
    batches: int = 1  #: each with factors of its own for every gene, sd .7 of the logarithm


SETTINGS = [
    Setting("as above"),
    Setting("shallow", depth=600),
    Setting("noisy", theta=1.0),
    Setting("Poisson", theta=1e6),
    Setting("two batches, told", batches=2),
]


def draw(setting: Setting, seed: int) -> AnnData:
    """Return counts; ``var["marker"]`` says which genes are related to any other."""
    rng = np.random.default_rng(seed)
    n_genes = N_TYPES * N_MARKERS + N_OTHERS
    marker = rng.permutation(n_genes) < N_TYPES * N_MARKERS
    rate = np.tile(np.exp(1.2 * rng.standard_normal(n_genes)), (N_TYPES, 1))
    for kind, genes in enumerate(np.split(rng.permutation(np.flatnonzero(marker)), N_TYPES)):
        rate[kind, genes] *= np.exp(1.5 * rng.choice([-1, 1], N_MARKERS))
    total = rate[:, marker].sum(1, keepdims=True)
    rate[:, marker] *= total.mean() / total
    kind, batch = rng.integers(0, N_TYPES, N_CELLS), rng.integers(0, setting.batches, N_CELLS)
    factors = np.exp(0.7 * (setting.batches > 1) * rng.standard_normal((setting.batches, n_genes)))
    mean = rate[kind] * factors[batch]
    mean *= setting.depth * rng.lognormal(0, 0.4, (N_CELLS, 1)) / mean.sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(setting.theta, 1 / setting.theta, mean.shape))
    obs = pd.DataFrame({"batch": batch.astype(str)}, index=[f"c{i}" for i in range(N_CELLS)])
    var = pd.DataFrame({"marker": marker}, index=[f"g{i}" for i in range(n_genes)])
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var)


def run(setting: Setting, seed: int) -> list[dict[str, object]]:
    """Count the edges of one data set, and the false ones, at every rate."""
    adata = draw(setting, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch_key = "batch" if setting.batches > 1 else None
        network = graphsci.tl.gene_network(adata, batch_key=batch_key, seed=seed, modules=False)
    marker, edges, rows = adata.var["marker"], network.edges, []
    false = ~(edges["gene_a"].map(marker) & edges["gene_b"].map(marker)).to_numpy(bool)
    for rate in RATES:
        chosen = (edges["q_value"] <= rate).to_numpy()
        share = false[chosen].mean() if chosen.any() else 0.0
        row = {"setting": setting.name, "seed": seed, "stated": rate}
        rows.append({**row, "edges": int(chosen.sum()), "false": share})
    return rows


def main() -> None:
    """Run all and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for setting in SETTINGS:
        for seed in args.seeds:
            rows += run(setting, seed)
            print(rows[-len(RATES) :], flush=True)
    found = pd.DataFrame(rows)
    cells = {}
    for (setting, rate), part in found.groupby(["setting", "stated"], sort=False):
        text = (
            f"{part['edges'].mean():,.0f}, {part['false'].mean():.3f} ({part['false'].max():.3f})"
        )
        cells.setdefault(setting, {})[f"stated {rate}"] = text
    table = pd.DataFrame(cells).T.rename_axis("counts").reset_index()
    seeds = " ".join(map(str, args.seeds))
    text = [
        "# False edges in simulated counts",
        "",
        f"Made by `python benchmarks/network_simulated.py --seeds {seeds}` on "
        f"{datetime.date.today()}; graphsci at commit {commit_of(Path(__file__).parents[1])}; "
        f"{provenance.machine()}, {provenance.SHARED}. Edges, the share of false ones among them, "
        "and the largest over the seeds in brackets.",
        "",
        written.markdown(table),
    ]
    written.write("network_simulated", found, text)


if __name__ == "__main__":
    main()
