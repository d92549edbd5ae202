"""The paper's measure of its gene network: precision against STRING of what exceeds 0.5.

    python benchmarks/paper_network.py --data DIR [--datasets klein_mes_1000x900 paul15_2660]

The preset `paper` is trained on all cells (seed 0). Its network are the probabilities of eq. 18.
Beside it, on the same genes and known edges: the correlations that it starts from, and the
strengths of the preset `default`. Each is judged at the paper's 0.5, and at the number of edges
that plain correlation has above 0.3.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import sparse, special

from graphsci import GraphSCI, network
from graphsci.gene_graph.graph import GeneGraph, graph_from_edges
from graphsci.preprocessing import log_normalize
from graphsci.prior_knowledge import read_network
from graphsci.prior_knowledge.gene_symbols import match_symbols
from network import HUMAN, KNOWN, PAPER_THRESHOLD, SEED, correlation, ranked, read
from suite import provenance, records, truth, written
from suite.methods import HERE

THRESHOLD = 0.5
SHOWN = ["n_above", "precision_above", "n_edges", "precision", "auprc", "chance"]


def main() -> None:
    """Train, compare, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", default=["klein_mes_1000x900", "paul15_2660"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [compared(args.data, name) for name in args.datasets]
    table = pd.concat(rows, ignore_index=True)
    text = [
        "# The network of the preset `paper` against STRING",
        "",
        f"`python benchmarks/paper_network.py --data DIR`, {records.today()}, graphsci at commit "
        f"{truth.commit_of(HERE)}, seed {SEED}, {provenance.machine()}; {provenance.SHARED}. "
        f"`n_above`, `precision_above`: pairs of at least {THRESHOLD} and the share of them that "
        f"STRING has; `n_edges`, `precision`: the strongest pairs, as many as plain correlation "
        f"has above {PAPER_THRESHOLD}; `chance`: share of all pairs that STRING has.",
        "",
        written.markdown(table, digits=3),
    ]
    written.write("paper_network", table, text)


def compared(folder: Path, name: str) -> pd.DataFrame:
    """Return the scores of all networks on one data set."""
    adata = read(folder / "h5ad" / f"{name}.h5ad")
    models = {
        preset: GraphSCI(preset=preset, seed=SEED, check=False).fit(adata)
        for preset in ("paper", "default")
    }
    genes = models["paper"].gene_names
    spec = models["paper"].fitted.spec
    vectors = {preset: _vectors(model, adata, genes) for preset, model in models.items()}
    log = log_normalize(
        sparse.csr_matrix(adata[:, genes].X), median_library_size=spec.median_library
    )
    networks = {
        "raw PCC": np.abs(correlation(log.toarray())),
        "preset `paper`, eq. 18": special.expit(vectors["paper"] @ vectors["paper"].T),
        "preset `default`": ranked("graphsci", vectors["default"] @ vectors["default"].T),
    }
    known = _known(folder, name, genes)
    spoken = np.flatnonzero(np.diff(known.adjacency.indptr))
    at = np.ix_(spoken, spoken)
    part = known._replace(adjacency=known.adjacency[spoken][:, spoken], gene_names=genes[spoken])
    raw = networks["raw PCC"][at]
    n_edges = max(int((raw > PAPER_THRESHOLD).sum() // 2), 1)
    inside = {label: sparse.csr_matrix(_pairs(matrix[at])) for label, matrix in networks.items()}
    found = network.compare_networks(inside, part, n_edges=n_edges, threshold=THRESHOLD)
    print(name, found.to_string(), sep="\n", flush=True)
    return found[SHOWN].rename_axis("network").reset_index().assign(dataset=name)


def _vectors(model: GraphSCI, adata, genes) -> np.ndarray:
    """Vectors of genes whose products are the network of a model."""
    place = pd.Index(model.gene_names).get_indexer(pd.Index(genes))
    return network.gene_coordinates(model, adata).vectors[place]


def _pairs(matrix: np.ndarray) -> np.ndarray:
    np.fill_diagonal(matrix, 0)
    return matrix


def _known(folder: Path, name: str, genes: np.ndarray) -> GeneGraph:
    species = "human" if name in HUMAN else "mouse"
    path = folder / "genesets" / f"{species}_{KNOWN['STRING']}"
    return graph_from_edges(match_symbols(read_network(path), genes).edges, gene_names=genes)


if __name__ == "__main__":
    main()
