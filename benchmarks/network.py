"""Gene networks against known ones, and what shuffled genes get.

    python benchmarks/network.py --data DIR --datasets paul15_2660 klein_mes_1000x900 --out OUT.json

DIR holds ``h5ad/`` and ``genesets/``; what is missing is skipped, saying so. Per data set: the
model and its control are trained (seed 0, then 1), every network is ranked, and all are compared
at the number of edges that plain Pearson correlation has above 0.3 (the paper's rule), against
STRING, CORUM, TRRUST. `random` is the floor. With ``--shuffled`` a fifth of the genes is added
as shuffled copies first, and the share of edges that touch them is counted at each stated
false-discovery rate.
"""

import argparse
import datetime
import json
import os
import platform
import time
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

from graphsci import GraphSCI, network
from graphsci.evaluation.false_signal import append_shuffled_genes
from graphsci.gene_graph import correlation_graph, graph_from_edges, noise_corrected_graph
from graphsci.gene_sets import match_symbols, read_network
from graphsci.pidc import pidc_scores
from graphsci.preprocessing import log_normalize, size_factors

HUMAN = {"pbmc3k", "scmix_sc_celseq2", "pbmc_1k_v3"}
KNOWN = {
    "STRING": "string_top10pct.tsv.gz",
    "CORUM": "corum41_core.gmt",
    "TRRUST": "trrust.tsv.gz",
}
PAPER_THRESHOLD = 0.3
PIDC_GENES = 1000
RATES = (0.01, 0.05, 0.1, 0.2)
SEED = 0
MOST_GENES = 5000  #: the rivals are dense genes x genes matrices here


def read(path: Path) -> anndata.AnnData:
    raw = anndata.read_h5ad(path)
    if "demuxlet_cls" in raw.obs:
        raw = raw[raw.obs["demuxlet_cls"] == "SNG"].copy()
    counts = sparse.csr_matrix(raw.X).astype(np.float32)
    names = raw.var["gene_symbol"].astype(str) if "gene_symbol" in raw.var else raw.var_names
    kept = np.flatnonzero((counts.getnnz(0) >= 10) & ~pd.Index(names).duplicated())
    if len(kept) > MOST_GENES:  # the most expressed
        total = np.asarray(counts[:, kept].sum(0)).ravel()
        kept = np.sort(kept[np.argsort(-total, kind="stable")[:MOST_GENES]])
    var = pd.DataFrame(index=np.asarray(names)[kept])
    return anndata.AnnData(counts[:, kept], obs=raw.obs[[]], var=var)


def magnitude(matrix: np.ndarray) -> sparse.csr_matrix:
    matrix = np.abs(np.nan_to_num(matrix)).astype(np.float32)
    np.fill_diagonal(matrix, 0)
    return sparse.csr_matrix(np.maximum(matrix, matrix.T))


def pca_half(values: np.ndarray, k: int = 20) -> np.ndarray:
    """The simplest rival: correlation of PCA loadings, all directions weighted alike."""
    scaled = (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)
    loadings = np.linalg.svd(scaled, full_matrices=False)[2][:k].T
    return loadings @ loadings.T


def rivals(adata: anndata.AnnData, model: GraphSCI) -> dict[str, sparse.csr_matrix]:
    """Networks of others, over the model's genes."""
    names = model.gene_names
    counts = sparse.csr_matrix(adata[:, names].X)
    median = model.fitted.spec.median_library
    log = log_normalize(counts, median_library_size=median)
    factors = size_factors(counts, median_library_size=median)
    rng = np.random.default_rng(SEED)
    options = {"gene_names": names, "threshold": 0.0}
    noise = noise_corrected_graph(counts, size_factors=factors, false_discovery_rate=0.2, **options)
    dense = log.toarray()
    denoised = model.impute(adata[:, names].copy(), depth="common", scale="log1p", copy=True)
    found = {
        "random": magnitude(rng.random((len(names),) * 2)),
        "raw PCC": magnitude(np.corrcoef(dense.T)),
        "coexpressed PCC": abs(correlation_graph(log, cells="coexpressed", **options).adjacency),
        "noise-corrected": abs(noise.adjacency),
        "PCA loadings (20)": magnitude(pca_half(dense)),
        "denoised PCC": magnitude(np.corrcoef(denoised.layers["denoised"].T)),
    }
    if len(names) <= PIDC_GENES:
        found["PIDC"] = magnitude(pidc_scores(log).confidence)
    return found


def full(coordinates: network.Coordinates) -> sparse.csr_matrix:
    """All strengths, not only those of candidates: for the area under the curve."""
    return magnitude(coordinates.vectors @ coordinates.vectors.T)


def ours(model: GraphSCI, adata: anndata.AnnData, control: network.Control) -> dict:
    one = network.gene_coordinates(model, adata)
    twin = network.gene_coordinates(control.model, control.adata)
    twin = network._of_genes(twin, control.model.gene_names, model.gene_names)
    return {
        "graphsci, one model": full(one),
        "graphsci, model and control": full(network._ensemble([one, twin])),
    }


def compare(name: str, adata: anndata.AnnData, folder: Path) -> dict:
    start = time.perf_counter()
    model = GraphSCI(seed=SEED).fit(adata)
    control = network.train_control(model, adata)
    trained = time.perf_counter() - start
    networks = rivals(adata, model) | ours(model, adata, control)
    n_edges = int((networks["raw PCC"] > PAPER_THRESHOLD).nnz // 2)
    start = time.perf_counter()
    refined = network.refine_network(model, adata, control=control)
    spent = time.perf_counter() - start
    record = {"seconds_training": trained, "seconds_refining": spent, "edges": refined.n_edges}
    record["edges_at_fdr"] = {q: int((refined.edges["q_value"] <= q).sum()) for q in RATES}
    species = "human" if name in HUMAN else "mouse"
    for source, ending in KNOWN.items():
        path = folder / f"{species}_{ending}"
        if not path.is_file():
            print(f"skipped {source}: no {path}")
            continue
        edges = match_symbols(read_network(path), model.gene_names).edges
        known = graph_from_edges(edges, gene_names=model.gene_names)
        spoken = np.flatnonzero(np.diff(known.adjacency.indptr))
        raw = networks["raw PCC"][spoken][:, spoken]
        taken = max(int((raw > PAPER_THRESHOLD).nnz // 2), 1)
        table = network.compare_networks(networks, known, n_edges=taken)
        print(f"\n{name}, {source}: {len(spoken)} genes, {known.n_edges} known edges")
        print(table.round(4).to_string(), flush=True)
        record[source] = table.to_dict("index")
    record["n_edges_raw"] = n_edges
    return record


def shuffled(adata: anndata.AnnData) -> dict:
    """Edges of genes that are independent by construction, at each stated rate."""
    rng = np.random.default_rng(SEED + 100)
    copies = round(0.2 * adata.n_vars)
    mixed = append_shuffled_genes(adata.X, n_copies=copies, rng=rng)
    names = [*adata.var_names, *(f"shuffled{i}" for i in range(copies))]
    twin = anndata.AnnData(mixed.counts, obs=adata.obs, var=pd.DataFrame(index=names))
    model = GraphSCI(seed=SEED).fit(twin)
    edges = network.refine_network(model, twin, control=network.train_control(model, twin)).edges
    fake = edges["gene_a"].str.startswith("shuffled") | edges["gene_b"].str.startswith("shuffled")
    rows = {}
    for rate in RATES:
        kept = edges["q_value"] <= rate
        rows[rate] = {
            "edges": int(kept.sum()),
            "touch_shuffled": int((kept & fake).sum()),
            "share": float(fake[kept].mean()) if kept.any() else 0.0,
        }
    print(pd.DataFrame(rows).T.to_string(), flush=True)
    mean = edges["denoised_correlation"].abs().groupby(fake).mean()
    print("mean |denoised correlation|, real and shuffled:", mean.round(3).tolist())
    return {"rates": rows, "denoised_correlation": mean.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=["paul15_2660", "klein_mes_1000x900"])
    parser.add_argument("--shuffled", action="store_true", help="count edges of shuffled genes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results: dict = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {args.threads} used",
        "versions": {name: version(name) for name in ("graphsci", "torch", "numpy", "scipy")},
        "seed": SEED,
    }
    for name in args.datasets:
        path = args.data / "h5ad" / f"{name}.h5ad"
        if not path.is_file():
            print(f"skipped {name}: no {path}")
            continue
        adata = read(path)
        print(f"\n== {name}: {adata.n_obs} cells x {adata.n_vars} genes", flush=True)
        results[name] = compare(name, adata, args.data / "genesets")
        if args.shuffled:
            results[name]["shuffled"] = shuffled(adata)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
