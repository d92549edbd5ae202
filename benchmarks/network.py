"""Gene networks against known ones, and what shuffled genes get.

    python benchmarks/network.py --data DIR --work WORK --datasets paul15_2660 --out OUT.json

DIR holds ``h5ad/`` and ``genesets/``; what is missing is skipped, saying so. Per data set: the
model and its control are trained (seed 0, then 1; kept in WORK and reused), every network is
ranked, and all are compared at the number of edges that plain Pearson correlation has above 0.3
(the paper's rule), against STRING, CORUM, TRRUST. `random` is the floor. Rivals that estimate
expression (MAGIC, scVI) run in the environments of ``benchmarks/run.py install magic scvi``.

Two ways to rank, for every network alike: by size, and positive relations alone.

With ``--shuffled N`` a fifth of the genes is added as shuffled copies first, and the share of
edges that touch them is counted at each stated false-discovery rate; N times, with other copies
and seeds.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
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
from graphsci.gene_graph.expression import correlation_graph, noise_corrected_graph
from graphsci.gene_graph.graph import graph_from_edges
from graphsci.gene_graph.pidc import pidc_scores
from graphsci.network import ranking, strength
from graphsci.preprocessing import log_normalize, size_factors
from graphsci.prior_knowledge import read_network
from graphsci.prior_knowledge.gene_symbols import match_symbols
from suite.running import read_estimate

HUMAN = {"pbmc3k", "scmix_sc_celseq2", "pbmc_1k_v3"}
KNOWN = {
    "STRING": "string_top10pct.tsv.gz",
    "CORUM": "corum41_core.gmt",
    "TRRUST": "trrust.tsv.gz",
}
PAPER_THRESHOLD = 0.3
PEERS = {"magic": "sqrt", "scvi": "nb"}  #: and the variant of each
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


def pca_half(values: np.ndarray, k: int = 20) -> np.ndarray:
    """The simplest rival: correlation of PCA loadings, all directions weighted alike."""
    scaled = (values - values.mean(0)) / np.maximum(values.std(0), 1e-9)
    loadings = np.linalg.svd(scaled, full_matrices=False)[2][:k].T
    return loadings @ loadings.T


def correlation(values: np.ndarray) -> np.ndarray:
    """Pearson, 0 for a constant gene and on the diagonal; (genes, genes) float32."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = np.nan_to_num(np.corrcoef(values.T)).astype(np.float32)
    np.fill_diagonal(found, 0)
    return found


def rivals(adata: anndata.AnnData, model: GraphSCI, work: Path) -> dict[str, np.ndarray]:
    """Networks of others, over the model's genes: signed weights."""
    names = model.gene_names
    counts = sparse.csr_matrix(adata[:, names].X)
    median = model.fitted.spec.median_library
    log = log_normalize(counts, median_library_size=median)
    factors = size_factors(counts, median_library_size=median)
    rng = np.random.default_rng(SEED)
    options = {"gene_names": names, "threshold": 0.0}
    noise = noise_corrected_graph(counts, size_factors=factors, false_discovery_rate=0.2, **options)
    dense = log.toarray()
    chance = np.triu(rng.random((len(names),) * 2, np.float32), 1)
    denoised = model.impute(adata[:, names].copy(), depth="common", scale="log1p", copy=True)
    found = {
        "random": chance + chance.T,
        "raw PCC": correlation(dense),
        "coexpressed PCC": correlation_graph(
            log, cells="coexpressed", **options
        ).adjacency.toarray(),
        "noise-corrected": noise.adjacency.toarray(),
        "PCA loadings (20)": pca_half(dense),
        "denoised PCC": correlation(denoised.layers["denoised"]),
    }
    found["PIDC"] = kept_pidc(log, work / "pidc.npy")
    for peer, variant in PEERS.items():
        estimate = peer_estimate(adata, peer, variant, work)
        if estimate is not None:
            depth = np.asarray(adata.X.sum(1)).ravel()[:, None] / median
            kept = pd.Index(adata.var_names).get_indexer(pd.Index(names))
            found[f"{peer} then PCC"] = correlation(np.log1p(estimate[:, kept] / depth))
    for matrix in found.values():
        np.fill_diagonal(matrix, 0)
    return found


def peer_estimate(adata: anndata.AnnData, peer: str, variant: str, work: Path) -> np.ndarray | None:
    """Expected counts by a peer's own software, in its own environment; None without it."""
    here, target = Path(__file__).parent, work / f"{peer}.h5ad"
    python = here / ".envs" / peer / "bin" / "python"
    if not target.is_file():
        if not python.is_file():
            print(f"skipped {peer}: no {python}; benchmarks/run.py install {peer}")
            return None
        adata.write_h5ad(work / "counts.h5ad")
        script = here / "peers" / f"run_{peer}.py"
        command = [python, script, work / "counts.h5ad", target, "--variant", variant]
        subprocess.run(list(map(str, command)), check=True, cwd=here / "peers")
    return read_estimate(target)["estimate"]


def kept_pidc(log: sparse.csr_matrix, path: Path) -> np.ndarray:
    """PIDC of log-normalised counts; a quarter of an hour for 5,000 genes, so it is kept."""
    if not path.is_file():
        np.save(path, pidc_scores(log).confidence)
    found: np.ndarray = np.load(path)
    return found


def positive(matrix: np.ndarray) -> np.ndarray:
    return np.maximum(matrix, 0)


def trained(
    adata: anndata.AnnData, work: Path, *, seed: int = SEED
) -> tuple[GraphSCI, network.Control, float]:
    """The model and its control, and the seconds they took; kept in ``work``."""
    work.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    if (work / "control").is_dir():
        model, twin = GraphSCI.load(work / "model"), GraphSCI.load(work / "control")
        mixed = anndata.read_h5ad(work / "control.h5ad")
        decoys = frozenset(set(mixed.var_names) - set(model.gene_names))
        return model, network.Control(twin, mixed, decoys, None), float("nan")
    model = GraphSCI(seed=seed).fit(adata)
    control = network.train_control(model, adata)
    spent = time.perf_counter() - start
    model.save(work / "model")
    control.model.save(work / "control")
    control.adata.write_h5ad(work / "control.h5ad")
    return model, control, spent


def ours(model: GraphSCI, adata: anndata.AnnData, control: network.Control) -> dict:
    """All strengths, not only those of candidates: for the area under the curve."""
    one = network.gene_coordinates(model, adata)
    twin = network.gene_coordinates(control.model, control.adata)
    twin = ranking._of_genes(twin, control.model.gene_names, model.gene_names)
    found = {"graphsci, one model": one, "graphsci": strength.ensemble([one, twin])}
    return {name: members.vectors @ members.vectors.T for name, members in found.items()}


def ranked(name: str, matrix: np.ndarray) -> np.ndarray:
    """The weights that edges are ranked by: ours counts a negative relation half."""
    weight = strength.NEGATIVE_WEIGHT if name.startswith("graphsci") else 1.0
    return np.maximum(matrix, -weight * matrix)


def compare(name: str, adata: anndata.AnnData, folder: Path, work: Path) -> dict:
    model, control, seconds = trained(adata, work)
    networks = rivals(adata, model, work) | ours(model, adata, control)
    raw = np.abs(networks["raw PCC"])
    start = time.perf_counter()
    refined = network.refine_network(model, adata, control=control)
    spent = time.perf_counter() - start
    record = {"seconds_training": seconds, "seconds_refining": spent, "edges": refined.n_edges}
    record["edges_at_fdr"] = {q: int((refined.edges["q_value"] <= q).sum()) for q in RATES}
    record["n_edges_raw"] = int((raw > PAPER_THRESHOLD).sum() // 2)
    species = "human" if name in HUMAN else "mouse"
    for source, ending in KNOWN.items():
        path = folder / f"{species}_{ending}"
        if not path.is_file():
            print(f"skipped {source}: no {path}")
            continue
        edges = match_symbols(read_network(path), model.gene_names).edges
        known = graph_from_edges(edges, gene_names=model.gene_names)
        spoken = np.flatnonzero(np.diff(known.adjacency.indptr))
        at = np.ix_(spoken, spoken)
        part = known._replace(
            adjacency=known.adjacency[spoken][:, spoken], gene_names=known.gene_names[spoken]
        )
        taken = max(int((raw[at] > PAPER_THRESHOLD).sum() // 2), 1)
        print(f"\n{name}, {source}: {len(spoken)} genes, {known.n_edges} known edges")
        record[source] = {"genes": len(spoken), "known": known.n_edges}
        for how, weigh in (("by size", ranked), ("positive", lambda _, matrix: positive(matrix))):
            inside = {
                label: sparse.csr_matrix(weigh(label, matrix[at]))
                for label, matrix in networks.items()
            }
            table = network.compare_networks(inside, part, n_edges=taken)
            print(f"{how}\n{table.round(4).to_string()}", flush=True)
            record[source][how] = table.to_dict("index")
    return record


def shuffled(adata: anndata.AnnData, work: Path, n_draws: int) -> list[dict]:
    """Edges of genes that are independent by construction, at each stated rate; for each draw."""
    return [one_draw(adata, work.with_name(f"{work.name}_{draw}"), draw) for draw in range(n_draws)]


def one_draw(adata: anndata.AnnData, work: Path, draw: int) -> dict:
    """One draw of shuffled genes, and models of a seed of its own.

    ``implied``: the false-discovery rate if pairs of real genes were false as often as pairs
    with a shuffled gene, which is what the method assumes.
    """
    rng = np.random.default_rng(SEED + 100 + draw)
    copies = round(0.2 * adata.n_vars)
    mixed = append_shuffled_genes(adata.X, n_copies=copies, rng=rng)
    names = [*adata.var_names, *(f"shuffled{i}" for i in range(copies))]
    twin = anndata.AnnData(mixed.counts, obs=adata.obs, var=pd.DataFrame(index=names))
    model, control, _ = trained(twin, work, seed=SEED + draw)
    edges = network.refine_network(model, twin, control=control).edges
    fake = edges["gene_a"].str.startswith("shuffled") | edges["gene_b"].str.startswith("shuffled")
    real = sum(not gene.startswith("shuffled") for gene in model.gene_names)
    touching = 1 - real * (real - 1) / (len(model.gene_names) * (len(model.gene_names) - 1))
    rows = {}
    for rate in RATES:
        kept = edges["q_value"] <= rate
        share = float(fake[kept].mean()) if kept.any() else 0.0
        rows[rate] = {
            "edges": int(kept.sum()),
            "touch_shuffled": int((kept & fake).sum()),
            "share": share,
            "implied": share / touching,
        }
    print(f"draw {draw}\n{pd.DataFrame(rows).T.to_string()}", flush=True)
    mean = edges["denoised_correlation"].abs().groupby(fake).mean()
    print("mean |denoised correlation|, real and shuffled:", mean.round(3).tolist())
    return {"rates": rows, "denoised_correlation": mean.tolist()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="keeps models and estimates")
    parser.add_argument("--datasets", nargs="+", default=["paul15_2660", "klein_mes_1000x900"])
    parser.add_argument(
        "--shuffled",
        type=int,
        default=0,
        metavar="N",
        help="count edges of N draws of shuffled genes",
    )
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
        results[name] = compare(name, adata, args.data / "genesets", args.work / name)
        if args.shuffled:
            work = args.work / f"{name}_shuffled"
            results[name]["shuffled"] = shuffled(adata, work, args.shuffled)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
