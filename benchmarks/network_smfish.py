"""Correlations and variation of genes against single-molecule FISH of the same culture.

    python benchmarks/network_smfish.py --data DIR --seeds 5 --out OUT.json

74 mouse ES cells in 2i (Grün et al. 2014, doi:10.1038/nmeth.2930) and six pairs of genes counted
by smFISH in other cells of the same culture; smFISH counts are divided by the cell's area, as
sequenced counts by the library. Correlations on two scales: the rate, and log1p of it at a common
depth; coefficients of variation of the rate, their error as in ``fish.cv_error``. MAGIC runs if
its environment is there (``benchmarks/run.py install magic``).
"""

import argparse
import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from graphsci import GraphSCI, network
from graphsci.evaluation import fish
from network import peer_estimate

Tables = dict[str, pd.DataFrame]


def read(folder: Path) -> tuple[anndata.AnnData, dict[tuple[str, str], pd.DataFrame]]:
    adata = anndata.read_h5ad(folder / "h5ad" / "grun2014_mes_2i.h5ad")
    adata.X = sparse.csr_matrix(adata.X).astype(np.float32)
    tables = {}
    for path in sorted((folder / "truth" / "grun2014_smfish").glob("2i__*.csv")):
        pair = tuple(path.stem.split("__")[1].split("_"))
        tables[pair] = pd.read_csv(path)
    return adata, tables


def truth(table: pd.DataFrame, pair: tuple[str, str]) -> dict[str, float]:
    """Correlation of molecules per mean area, and its standard error on the first scale."""
    per_cell = table[list(pair)].to_numpy(float)
    rate = per_cell / table["Area"].to_numpy(float)[:, None] * table["Area"].mean()
    found = {"rate": correlation(rate), "log1p": correlation(np.log1p(rate))}
    return found | {"se": (1 - found["rate"] ** 2) / np.sqrt(len(table))}


def correlation(values: np.ndarray) -> float:
    return float(np.corrcoef(values.T)[0, 1])


def at_common_depth(values: np.ndarray, adata: anndata.AnnData) -> np.ndarray:
    library = np.asarray(adata.X.sum(1), dtype=float).reshape(-1, 1)
    return values / library * np.median(library)


def ours(
    adata: anndata.AnnData, genes: list[str], seed: int
) -> tuple[dict[str, Tables], dict[str, pd.Series]]:
    """Correlations and coefficients of variation, of `denoised` and by the posterior."""
    model = GraphSCI(seed=seed).fit(adata)
    denoised = model.impute(adata, genes=genes, depth="common", copy=True)
    rate = denoised.obsm["graphsci_denoised"][genes]
    posterior = {
        scale: network.posterior_correlation(model, adata, genes, scale=scale)
        for scale in ("rate", "log1p")
    }
    varies = network.posterior_variation(model, adata, genes)["cv"]
    cvs = {"denoised": coefficients(rate), "posterior": varies}
    return {"denoised": tables(rate), "posterior": posterior}, cvs


def coefficients(rate: pd.DataFrame) -> pd.Series:
    return rate.std(ddof=0) / rate.mean()


def tables(rate: pd.DataFrame) -> Tables:
    """Correlation of a gene that does not vary is 0: nothing is said."""
    return {"rate": rate.corr().fillna(0), "log1p": np.log1p(rate).corr().fillna(0)}


def noise_corrected(counts: pd.DataFrame, library: np.ndarray) -> tuple[Tables, pd.Series]:
    """The same of rates, the Poisson part of the variance subtracted."""
    found = fish.moments_without_counting_noise(
        counts=counts.to_numpy(float), size_factors=library / np.median(library)
    )
    table = pd.DataFrame(found.correlation, counts.columns, counts.columns)
    return {"rate": table}, pd.Series(found.cv, counts.columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps MAGIC's estimate")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    adata, fish_tables = read(args.data)
    genes = sorted({gene for pair in fish_tables for gene in pair} & set(adata.var_names))
    pairs = [pair for pair in fish_tables if set(pair) <= set(genes)]
    found: dict[str, list[Tables]] = {}
    varies: dict[str, list[pd.Series]] = {}
    counts = pd.DataFrame(adata[:, genes].X.toarray(), columns=genes)
    library = np.asarray(adata.X.sum(1), dtype=float).ravel()
    raw = pd.DataFrame(at_common_depth(counts, adata), columns=genes)
    found["raw"], varies["raw"] = [tables(raw)], [coefficients(raw)]
    subtracted = noise_corrected(counts, library)
    name = "raw, Poisson noise subtracted"
    found[name], varies[name] = [subtracted[0]], [subtracted[1]]
    kept = adata[:, np.asarray(adata.X.sum(0)).ravel() > 0].copy()
    estimate = peer_estimate(kept, "magic", "sqrt", args.work)
    if estimate is not None:
        columns = kept.var_names.get_indexer(genes)
        rate = pd.DataFrame(at_common_depth(estimate[:, columns], kept), columns=genes)
        found["magic"], varies["magic"] = [tables(rate)], [coefficients(rate)]
    for seed in range(args.seeds):
        correlations, cvs = ours(adata, genes, seed)
        for name in correlations:
            found.setdefault(f"graphsci {name}", []).append(correlations[name])
            varies.setdefault(f"graphsci {name}", []).append(cvs[name])
    known = {pair: truth(fish_tables[pair], pair) for pair in pairs}
    rows = []
    for name, runs in found.items():
        for scale in runs[0]:
            row = {"method": name, "scale": scale}
            for pair in pairs:
                row["-".join(pair)] = np.mean([run[scale].loc[pair] for run in runs])
            errors = [
                np.mean([abs(run[scale].loc[pair] - known[pair][scale]) for pair in pairs])
                for run in runs
            ]
            rows.append(row | {"error": np.mean(errors), "sd": np.std(errors)})
    for scale in ("rate", "log1p"):
        values = {"-".join(pair): known[pair][scale] for pair in pairs}
        rows.append({"method": "smFISH", "scale": scale, **values, "error": 0.0})
    errors = {"-".join(pair): known[pair]["se"] for pair in pairs}
    rows.append({"method": "smFISH, standard error", "scale": "rate", **errors})
    table = pd.DataFrame(rows).sort_values("scale", kind="stable")
    print(f"{adata.n_obs} cells, {len(pairs)} of {len(fish_tables)} pairs")
    print(table.round(3).to_string(index=False))
    variation = variation_table(varies, list(fish_tables.values()))
    print(variation.round(3).to_string(index=False))
    if args.out:
        kept_tables = {"correlation": table, "variation": variation}
        args.out.write_text(
            json.dumps({k: t.to_dict("records") for k, t in kept_tables.items()}, indent=1)
        )


def variation_table(varies: dict[str, list[pd.Series]], tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Coefficients of variation of each method, means over its runs, and their error."""
    known = fish.fish_truth(tables=tables)
    truth = pd.Series(known.cv, list(known.genes))
    rows = []
    for name, runs in varies.items():
        errors = [
            fish.cv_error(estimated=run.to_numpy(), truth=truth[run.index].to_numpy())
            for run in runs
        ]
        mean = pd.concat(runs, axis=1).mean(axis=1)
        rows.append({"method": name, **mean, "error": np.mean(errors), "sd": np.std(errors)})
    shown = varies["raw"][0].index
    return pd.DataFrame([*rows, {"method": "smFISH", **truth[shown], "error": 0.0}])


if __name__ == "__main__":
    main()
