"""Wall time and peak memory of the initial gene graph at full size.

    PYTHONPATH=src OMP_NUM_THREADS=2 python benchmarks/gene_graph_scale.py

Simulates counts of 20,000 genes in 5,000 and 10,000 cells (negative binomial
through 20 shared latent factors, log-normal gene means and depths, 7-8 % of the
entries above zero as in 10x data), builds every kind of graph in a process
of its own and prints a Markdown table. Peak memory is the highest resident set
of that process: interpreter, libraries, input and result included. A control
row loads the input and builds nothing.
"""

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import sparse

SEED = 0
N_FACTORS = 20
METHODS = ("control", "pearson", "pearson_top20", "noise_corrected", "coexpressed_top20")
TARGETS = {5_000: "2 GiB", 10_000: "120 s, 3 GiB"}


def simulate(n_cells: int, n_genes: int, seed: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return counts (cells, genes), CSR float32, and size factors (cells,)."""
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.35, n_cells)
    factors = rng.standard_normal((n_cells, N_FACTORS))
    blocks = []
    for start in range(0, n_genes, 500):
        width = min(500, n_genes - start)
        loadings = rng.normal(0, 0.6, (N_FACTORS, width)) * (rng.random((N_FACTORS, width)) < 0.2)
        mean = rng.lognormal(-3.9, 1.6, width)
        rate = depth[:, None] * mean * np.exp(factors @ loadings) * rng.gamma(4, 0.25, width)
        blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    return sparse.hstack(blocks, format="csr"), depth / np.median(depth)


def build(method: str, path: Path) -> None:
    """Run in a child process: build one graph, print seconds, peak KiB and edges."""
    from graphsci import gene_graph

    counts = sparse.load_npz(path / "counts.npz")
    size_factors = np.load(path / "size_factors.npy")
    names = np.array([f"gene{i}" for i in range(counts.shape[1])])
    if method != "noise_corrected":  # the others take log-normalised values
        counts.data = np.log1p(counts.data / np.repeat(size_factors, np.diff(counts.indptr)))
        counts.data = counts.data.astype(np.float32)
    start, start_cpu = time.perf_counter(), time.process_time()
    if method == "control":
        n_edges = 0
    elif method == "noise_corrected":
        n_edges = gene_graph.noise_corrected_graph(
            counts, size_factors=size_factors, gene_names=names
        ).n_edges
    else:
        n_edges = gene_graph.correlation_graph(
            counts,
            gene_names=names,
            top_k=20 if method.endswith("top20") else None,
            cells="coexpressed" if method.startswith("coexpressed") else "all",
        ).n_edges
    seconds = time.perf_counter() - start
    cpu = time.process_time() - start_cpu
    print(seconds, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, n_edges)


def measure(method: str, path: Path) -> tuple[float, float, float, int]:
    """Return seconds, CPU seconds, peak GiB and edges of ``method`` in a fresh process."""
    command = [sys.executable, __file__, "--child", method, "--path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, cpu, peak, edges = done.stdout.split()
    return float(seconds), float(cpu), float(peak) / 2**20, int(edges)


def header() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy"))
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return (
        f"{datetime.date.today()}, Python {platform.python_version()}, {versions}, "
        f"{os.cpu_count()} cores, OMP_NUM_THREADS={threads}, seed {SEED}, "
        f"load average at start {os.getloadavg()[0]:.1f}\n\n"
        "| cells | genes | non-zeros | graph | seconds | CPU s | peak GiB | edges | target |\n"
        "|---|---|---|---|---|---|---|---|---|"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[5_000, 10_000])
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        build(options.child, options.path)
        return
    print(header(), flush=True)
    for n_cells in options.cells:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            counts, size_factors = simulate(n_cells, options.genes, SEED)
            density = counts.nnz / np.prod(counts.shape)
            sparse.save_npz(path / "counts.npz", counts, compressed=False)
            np.save(path / "size_factors.npy", size_factors)
            del counts
            for method in options.methods:
                seconds, cpu, peak, edges = measure(method, path)
                print(
                    f"| {n_cells:,} | {options.genes:,} | {density:.1%} | {method} | "
                    f"{seconds:.1f} | {cpu:.1f} | {peak:.2f} | {edges:,} | "
                    f"{TARGETS.get(n_cells, '')} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
