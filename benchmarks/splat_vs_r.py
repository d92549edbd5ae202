"""Compare our Splat with splatter's own output, quantile by quantile.

    python benchmarks/splat_vs_r.py --data /work/shared/data --seeds 20

Two comparisons for each of ``sim/sim_t2_seed1.h5ad`` and ``sim/sim_t6_seed1.h5ad``:

- *free*: R's quantiles against the same quantiles of our simulations over seeds, in standard
  deviations between seeds (z). R's is one more seed, if the simulators agree.
- *given R's genes and cells*: our counts drawn from R's gene means, DE factors, groups and
  library sizes, so that only BCV, counts and dropout differ by chance.

The standard deviations are estimated from the seeds, so z of simulators that agree is Student's t
with seeds - 1 degrees of freedom: with few seeds it is often above 2. Exit status 1 if |z| exceeds
t's 5 % bound in more than a tenth of the quantiles (neighbouring quantiles err together), or its
bound of 1 % over all of them (Bonferroni) anywhere. ``--golden FILE`` writes R's quantiles as a
test's golden file.
"""

import argparse
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy import stats

from graphsci.simulation import (
    PRESETS,
    SplatCells,
    SplatGenes,
    draw_counts,
    draw_genes,
    simulate_splat,
)

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FILES = {"sim-t2": "sim_t2_seed1.h5ad", "sim-t6": "sim_t6_seed1.h5ad"}
CALL = (
    'splatter 1.29.1: splatSimulate(method = "groups", batchCells = {cells}, nGenes = {genes}, '
    'group.prob = rep(1/{groups}, {groups}), de.facScale = 0.3, dropout.type = "experiment", '
    "dropout.shape = -1, dropout.mid = 0, seed = 1), genes without reads dropped"
)


def summaries(adata: ad.AnnData) -> dict[str, np.ndarray]:
    """Return the distributions that are compared; genes without a count are left out."""
    counts, true = (
        sp.csc_matrix(m, dtype=np.float64) for m in (adata.X, adata.layers["TrueCounts"])
    )
    seen = counts.getnnz(axis=0) > 0
    counts, true, var = counts[:, seen], true[:, seen], adata.var[seen]
    factors = var.filter(regex="^DEFacGroup").to_numpy().ravel()
    outliers = var["OutlierFactor"].to_numpy()
    return {
        "BaseGeneMean": var["BaseGeneMean"].to_numpy(),
        "outlier factors": outliers[outliers != 1],
        "DE factors": factors[factors != 1],
        "ExpLibSize": adata.obs["ExpLibSize"].to_numpy(),
        **count_summaries(counts, true),
        "BCV over its trend": bcv_over_trend(
            true, adata.obs["ExpLibSize"].to_numpy(), adata.obs["Group"].to_numpy()
        ),
        "share of outliers": np.array([(outliers != 1).mean()]),
        "share of DE factors": np.array([(factors != 1).mean()]),
    }


def count_summaries(counts: sp.csc_matrix, true: sp.csc_matrix) -> dict[str, np.ndarray]:
    """Return the distributions that the counts alone decide."""
    n_cells, n_genes = counts.shape
    return {
        "library size": total(counts, 1),
        "library size before dropout": total(true, 1),
        "gene mean": total(counts, 0) / n_cells,
        "gene variance": variance(counts),
        "gene variance before dropout": variance(true),
        "zeros per gene": 1 - counts.getnnz(axis=0) / n_cells,
        "zeros per gene before dropout": 1 - true.getnnz(axis=0) / n_cells,
        "zeros per cell": 1 - counts.getnnz(axis=1) / n_genes,
        "share dropped of positive counts": np.array([1 - counts.nnz / true.nnz]),
        "share dropped of all entries": np.array([(true.nnz - counts.nnz) / (n_cells * n_genes)]),
    }


def bcv_over_trend(true: sp.csc_matrix, library: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Return f of genes with a mean of at least 1, where the variance of a count is that of Splat.

    ``lambda + f^2 (0.1 lambda + sqrt(lambda))^2``, by moments within groups: 1 in the middle if
    the common BCV is splatter's 0.1, and with the spread that its degrees of freedom give.
    """
    above = np.zeros(true.shape[1])
    trend = np.zeros(true.shape[1])
    for name in np.unique(group):
        cells = group == name
        counts, size = true[cells].toarray(), library[cells]
        rate = np.outer(size, counts.sum(0) / size.sum())
        above += ((counts - rate) ** 2 - rate).sum(0)
        trend += ((0.1 * rate + np.sqrt(rate)) ** 2).sum(0)
    seen = total(true, 0) >= true.shape[0]
    return np.sqrt(np.maximum(above[seen], 0) / trend[seen])


def as_csc(matrix: np.ndarray | sp.spmatrix) -> sp.csc_matrix:
    return sp.csc_matrix(matrix, dtype=np.float64)


def total(matrix: sp.csc_matrix, axis: int) -> np.ndarray:
    return np.asarray(matrix.sum(axis)).ravel()


def variance(matrix: sp.csc_matrix) -> np.ndarray:
    n = matrix.shape[0]
    mean = total(matrix, 0) / n
    return (total(matrix.multiply(matrix), 0) / n - mean**2) * n / (n - 1)


def quantile_table(distributions: dict[str, np.ndarray]) -> pd.Series:
    """Return the quantiles of each distribution, indexed by (name, quantile)."""
    rows = {
        (name, q): np.quantile(values, q)
        for name, values in distributions.items()
        for q in (QUANTILES if len(values) > 1 else (0.5,))
    }
    return pd.Series(rows).rename_axis(["distribution", "quantile"])


def compare_free(r: ad.AnnData, preset: str, *, seeds: int) -> pd.DataFrame:
    """Return R's quantiles, ours over seeds, and z."""
    ours = pd.DataFrame(
        [quantile_table(summaries(simulate_splat(PRESETS[preset], seed=s))) for s in range(seeds)]
    )
    return scored(quantile_table(summaries(r)), ours, preset)


def compare_given_r(r: ad.AnnData, preset: str, *, seeds: int) -> pd.DataFrame:
    """Return R's quantiles, those of our counts drawn from R's genes and cells, and z."""
    theirs = given_summaries(r, as_csc(r.X), as_csc(r.layers["TrueCounts"]))
    ours = pd.DataFrame([quantile_table(counts_given_r(r, preset, seed=s)) for s in range(seeds)])
    return scored(quantile_table(theirs), ours, preset)


def counts_given_r(r: ad.AnnData, preset: str, *, seed: int) -> dict[str, np.ndarray]:
    """Draw BCV, counts and dropout for R's gene means, DE factors, groups and library sizes."""
    params, rng = PRESETS[preset], np.random.default_rng(seed)
    genes = SplatGenes(
        base_mean=r.var["BaseGeneMean"].to_numpy(),
        outlier_factor=r.var["OutlierFactor"].to_numpy(),
        mean=r.var["GeneMean"].to_numpy(),
        batch_factors=np.ones((1, r.n_vars)),
        de_factors=r.var.filter(regex="^DEFacGroup").to_numpy().T,
        bcv_factor=draw_genes(params, rng=rng).bcv_factor[: r.n_vars],
    )
    group = np.array([int(name.removeprefix("Group")) - 1 for name in r.obs["Group"]])
    cells = SplatCells(np.zeros_like(group), group, r.obs["ExpLibSize"].to_numpy())
    block = draw_counts(genes, cells, params, rng=rng)
    return given_summaries(r, as_csc(block.counts), as_csc(block.true_counts))


def given_summaries(
    r: ad.AnnData, counts: sp.csc_matrix, true: sp.csc_matrix
) -> dict[str, np.ndarray]:
    """Return what differs only by chance where R's genes and cells are given."""
    library, group = r.obs["ExpLibSize"].to_numpy(), r.obs["Group"].to_numpy()
    return {
        **count_summaries(counts, true),
        "BCV over its trend": bcv_over_trend(true, library, group),
    }


def scored(theirs: pd.Series, ours: pd.DataFrame, preset: str) -> pd.DataFrame:
    """Put R's quantiles beside ours over seeds, with z; 0 where both never vary and agree."""
    table = pd.DataFrame({"R": theirs, "ours": ours.mean(), "sd": ours.std()})
    difference = table["R"] - table["ours"]
    table["z"] = (difference / (table["sd"] * np.sqrt(1 + 1 / len(ours)))).where(difference != 0, 0)
    return table.assign(preset=preset).set_index("preset", append=True)


def verdict(name: str, table: pd.DataFrame, *, seeds: int) -> bool:
    """Say whether the simulators agree."""
    z = table["z"].abs()
    often, ever = (stats.t.isf(p / 2, df=seeds - 1) for p in (0.05, 0.01 / len(z)))
    print(
        f"{name}: {len(z)} quantiles, {(z > often).mean():.1%} |z| > {often:.2f} (5 % by chance "
        f"with {seeds} seeds), max |z| {z.max():.2f} (1 % by chance above {ever:.2f})"
    )
    return bool((z > often).mean() <= 0.1 and z.max() <= ever)


def write_golden(path: Path, tables: list[pd.DataFrame], *, seeds: int) -> None:
    """Write R's quantiles with the calls that made them."""
    lines = [f"# made by benchmarks/splat_vs_r.py --golden from {', '.join(FILES.values())}"]
    for name, params in PRESETS.items():
        if name in FILES:
            groups = len(params.group_prob)
            call = CALL.format(cells=params.n_cells, genes=params.n_genes, groups=groups)
            lines.append(f"# {name}: {call}")
    lines.append("# sd: between seeds of graphsci's own simulator, so many as the last column says")
    values = pd.concat(tables)[["R", "sd"]].assign(seeds=seeds).reset_index()
    path.write_text(
        "\n".join(lines) + "\n" + values.to_csv(index=False, float_format="%.8g"), encoding="utf-8"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--golden", type=Path)
    args = parser.parse_args()
    if args.seeds < 5:  # of fewer, a quantile of whole numbers may have no spread at all
        parser.error(f"--seeds: got {args.seeds}, expected at least 5 to tell their spread")
    free, given = [], []
    for preset, name in FILES.items():
        path = args.data / "sim" / name
        if not path.exists():
            print(f"skipped {preset}: {path} is missing")
            continue
        r = ad.read_h5ad(path)
        free.append(compare_free(r, preset, seeds=args.seeds))
        given.append(compare_given_r(r, preset, seeds=args.seeds))
    if not free:
        return 0
    with pd.option_context("display.max_rows", None, "display.width", 120):
        print(
            pd.concat(free).round(4).to_string(), pd.concat(given).round(4).to_string(), sep="\n\n"
        )
    if args.golden:
        write_golden(args.golden, free, seeds=args.seeds)
    agree = [
        verdict(name, pd.concat(tables), seeds=args.seeds)
        for name, tables in {"free": free, "given R": given}.items()
    ]
    return 0 if all(agree) else 1


if __name__ == "__main__":
    sys.exit(main())
