"""A GPU against the CPU beside it: the same numbers, time, memory, how busy it is, bfloat16.

    python benchmarks/gpu.py --pbmc3k DIR/h5ad/pbmc3k.h5ad --out benchmarks/results

Needs a CUDA build of torch and ``nvidia-ml-py``. Writes ``gpu.md`` (tables, with machine, versions
and seed), ``gpu.json`` (the same numbers) and ``gpu_profile.txt`` (where the time of training
steps goes). Three parts:

- the loss and its gradients, one fused pass against the plain torch expression and against a
  CPU's float64: error, time, peak memory;
- training and estimates of pbmc3k with the defaults, in float32 and bfloat16 and on the CPU;
- 100,000 simulated cells x 2,000 genes (``--cells``), at two sizes of minibatch.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import graphsci
from graphsci import GraphSCI
from graphsci.nn import fused_likelihood, likelihood
from graphsci.training import loop as training

CUDA, SEED = torch.device("cuda"), 0
Row = dict[str, object]


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Wall seconds, peak memory of the GPU's tensors (MiB) and share of time it was busy (%)."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    found: dict[str, float] = {}
    busy, done = [], threading.Event()

    def look() -> None:
        while not done.wait(0.1):
            busy.append(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)

    gc.collect()
    torch.cuda.reset_peak_memory_stats()
    watcher = threading.Thread(target=look)
    watcher.start()
    started = time.perf_counter()
    try:
        yield found
    finally:
        torch.cuda.synchronize()
        found["seconds"] = time.perf_counter() - started
        done.set()
        watcher.join()
        found["gpu_mib"] = torch.cuda.max_memory_allocated() / 2**20
        found["busy"] = float(np.mean(busy)) if busy else float("nan")


def median_time(function: Callable[[], object], *, repeats: int = 30) -> float:
    """Milliseconds of a call on the GPU, median, after three calls to warm up."""
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return float(np.median(times))


class Block:
    """Cells of gamma-Poisson counts, 6 % of them not zero, and parameters of their means."""

    def __init__(self, n_cells: int, n_genes: int) -> None:
        rng = np.random.default_rng(SEED)
        counts = rng.poisson(rng.gamma(0.2, 0.4, (n_cells, n_genes)))
        kept = rng.binomial(counts, 0.6)
        self.at, self.kept, self.target = np.nonzero(counts), kept, counts - kept
        self.values = (
            rng.normal(size=(n_cells, 32)),
            0.3 * rng.normal(size=(n_genes, 32)),
            rng.normal(size=n_genes),
            counts.sum(1) + 1.0,
            rng.gamma(2, 2, n_genes),
            rng.gamma(4, 0.25, n_cells),
        )

    def on(self, device: torch.device, dtype: torch.dtype) -> tuple[list, likelihood.ThinnedBlock]:
        """Leaves (factors of the mean, then those of theta) and measured entries."""
        move = lambda values: torch.as_tensor(values).to(device)  # noqa: E731
        leaves = [move(value).to(dtype).requires_grad_() for value in self.values]
        entries = [move(part[self.at]).to(dtype) for part in (self.kept, self.target)]
        return leaves, likelihood.ThinnedBlock(*map(move, self.at), *entries, 0.6)

    def step(
        self, device: torch.device, dtype: torch.dtype, *, form: str, zero_inflated: bool
    ) -> Callable[[], list[torch.Tensor]]:
        """One loss with its gradients, fused (``float32``, ``bf16``) or plain."""
        leaves, thinned = self.on(device, dtype)
        z, loadings, bias, library, genes, certainty = leaves
        curve = torch.tensor([0.2, -1.1], dtype=dtype, device=device).requires_grad_()
        wanted = [*leaves, curve] if zero_inflated else leaves

        def fused() -> list[torch.Tensor]:
            mean = fused_likelihood.SoftmaxMean(z, loadings, bias, library)
            theta = fused_likelihood.RankOneTheta(genes, certainty)
            loss = fused_likelihood.softmax_loss(
                mean, theta, curve if zero_inflated else None, thinned, bfloat16=form == "bf16"
            )
            return [loss, *torch.autograd.grad(loss, wanted)]

        def plain() -> list[torch.Tensor]:
            mean = torch.softmax(z @ loadings.T + bias, 1) * library[:, None]
            theta = certainty[:, None] * genes
            if zero_inflated:
                logits = likelihood.dropout_logits(mean.clamp_min(1e-8).log(), curve)
                loss = likelihood.thinned_zinb_loss(mean, theta, logits, thinned)
            else:
                loss = likelihood.thinned_nb_loss(mean, theta, thinned)
            return [loss, *torch.autograd.grad(loss, wanted)]

        return plain if form == "plain" else fused


def loss_rows() -> list[Row]:
    """Error, time and memory of the loss with its gradients."""
    rows = []
    for n_cells, n_genes in ((128, 14_000), (1_024, 2_000)):
        block = Block(n_cells, n_genes)
        for zero_inflated in (False, True):
            kind = {"zero_inflated": zero_inflated}
            truth = block.step(torch.device("cpu"), torch.float64, form="float32", **kind)()
            for form in ("plain", "float32", "bf16"):
                step = block.step(CUDA, torch.float32, form=form, **kind)
                step()
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
                found = [value.detach() for value in step()]
                peak = torch.cuda.max_memory_allocated() - before
                errors = [
                    float((ours.double().cpu() - true.detach()).norm() / true.detach().norm())
                    for ours, true in zip(found, truth, strict=True)
                ]
                rows.append(
                    {
                        "cells": n_cells,
                        "genes": n_genes,
                        "likelihood": "zinb" if zero_inflated else "nb",
                        "form": form,
                        "error of loss": f"{errors[0]:.1e}",
                        "worst error of a gradient": f"{max(errors[1:]):.1e}",
                        "ms": round(median_time(step), 3),
                        "peak / one block": round(peak / (4 * n_cells * n_genes), 2),
                    }
                )
    return rows


def fit_row(name: str, adata: anndata.AnnData, **options: object) -> tuple[Row, np.ndarray]:
    """Train, score, estimate; return the row and 100 genes of ``denoised``."""
    with watched() as fitting:
        model = GraphSCI(seed=SEED, likelihood="nb", **options).fit(adata)
    genes = list(adata.var_names[:: max(1, adata.n_vars // 100)][:100])
    with watched() as estimating:
        blocks = model.iterate_estimates(adata, genes=genes)
        values = np.concatenate([block.values["denoised"] for block in blocks])
    history = model.history
    epochs = len(history)
    row = {
        "data": name,
        "run": ", ".join(str(value) for value in options.values()),
        "epochs": epochs,
        "s per epoch": round(float(np.diff([0.0, *history["seconds"]])[1:].mean()), 3),
        "s in all": round(fitting["seconds"], 1),
        "s estimates": round(estimating["seconds"], 1),
        "GPU MiB": round(fitting["gpu_mib"]),
        "GPU busy %": round(fitting["busy"]),
        "D2 of held-out molecules": round(100 * _d2(model), 2),
        "validation loss": round(float(history["validation_loss"].iloc[-1]), 3),
    }
    return row, values


def _d2(model: GraphSCI) -> float:
    if model.verdict is None:
        return float("nan")
    return next(iter(model.verdict.to_dict()["scores"].values()))["d2"]


def profile(adata: anndata.AnnData, path: Path, **options: object) -> None:
    """Write where the time of an epoch's steps goes, GPU and CPU."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    original, activities = training._epoch, [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    tables: list[str] = []

    def watched_epoch(objective: object, state: training.TrainingState, batch_size: int) -> float:
        if len(state.history) != 1:
            return original(objective, state, batch_size)
        with profiler(activities=activities) as seen:
            loss = original(objective, state, batch_size)
            torch.cuda.synchronize()
        steps = max(1, objective.n_cells // batch_size)
        averages = seen.key_averages()
        launches = sum(e.count for e in averages if "LaunchKernel" in e.key) / steps
        waits = sum(e.count for e in averages if "Synchronize" in e.key) / steps
        tables.append(f"{steps} steps; per step {launches:.0f} launches, {waits:.1f} waits\n")
        for key in ("self_cuda_time_total", "self_cpu_time_total"):
            tables.append(averages.table(sort_by=key, row_limit=40, max_name_column_width=60))
        return loss

    training._epoch = watched_epoch
    try:
        GraphSCI(seed=SEED, likelihood="nb", check=False, max_epochs=2, **options).fit(adata)
    finally:
        training._epoch = original
    path.write_text("\n".join(tables), encoding="utf-8")


def simulated(n_cells: int, n_genes: int = 2_000) -> anndata.AnnData:
    """Gamma-Poisson counts of ten groups, median 2,000 molecules a cell; made on the GPU."""
    draw = torch.Generator(CUDA).manual_seed(SEED)
    normal = lambda *shape: torch.randn(*shape, generator=draw, device=CUDA)  # noqa: E731
    level, differs = normal(n_genes) * 1.5, torch.rand(10, n_genes, generator=draw, device=CUDA)
    share = torch.softmax(level + (differs < 0.1) * normal(10, n_genes), 1)
    torch.manual_seed(SEED)  # for the gamma numbers
    blocks = []
    for start in range(0, n_cells, 10_000):
        size = min(10_000, n_cells - start)
        group = torch.randint(10, (size,), generator=draw, device=CUDA)
        library = 2_000 * (0.3 * normal(size, 1)).exp()
        noise = torch._standard_gamma(torch.full((size, n_genes), 10.0, device=CUDA)) / 10
        counts = torch.poisson(library * share[group] * noise, generator=draw)
        blocks.append(sparse.csr_matrix(counts.cpu().numpy()))
    counts = sparse.vstack(blocks, format="csr")
    names = [f"gene{n}" for n in range(n_genes)], [f"cell{n}" for n in range(n_cells)]
    frames = [pd.DataFrame(index=index) for index in names]
    return anndata.AnnData(counts, var=frames[0], obs=frames[1])


def table(rows: list[Row]) -> str:
    """Markdown."""
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([str(row[name]) for name in head] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pbmc3k", type=Path, required=True)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.zeros(1, device=CUDA)
    properties = torch.cuda.get_device_properties(CUDA)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "GPU": f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB",
        "CPU": f"{os.cpu_count()} cores ({platform.machine()}), {torch.get_num_threads()} threads",
        "versions": f"graphsci {graphsci.__version__}, torch {torch.__version__}, "
        f"CUDA {torch.version.cuda}, Python {platform.python_version()}",
        "seed": SEED,
    }
    parts: dict[str, list[Row]] = {}

    def record(part: str, rows: list[Row]) -> None:
        parts[part] = rows
        print(table(rows), flush=True)
        (args.out / "gpu.json").write_text(json.dumps({"facts": facts, **parts}, indent=1))
        lines = [f"- {name}: {value}" for name, value in facts.items()]
        text = ["# GPU", "", "Made by `benchmarks/gpu.py`.", "", *lines, ""]
        for title, found in parts.items():
            text += [f"## {title}", "", table(found)]
        (args.out / "gpu.md").write_text("\n".join(text))

    record("Loss and gradients", loss_rows())
    pbmc = anndata.read_h5ad(args.pbmc3k)
    GraphSCI(max_epochs=1, check=False, device="cuda").fit(pbmc[:300].copy())  # warm up
    profile(pbmc, args.out / "gpu_profile.txt", device="cuda")
    many = simulated(args.cells)
    name, gpu, cpu = f"{args.cells:,} simulated", {"device": "cuda"}, {"device": "cpu"}
    single, half = {"precision": "float32"}, {"precision": "bf16"}
    wide = {"batch_size": 1_024}
    runs = [
        ("pbmc3k", pbmc, {**gpu, **single}),
        ("pbmc3k", pbmc, {**gpu, **half}),
        (name, many, {"max_epochs": 4, "batch_size": 128, **gpu, **single}),
        (name, many, {"max_epochs": 4, **wide, **gpu, **single}),
        (name, many, {"max_epochs": 4, **wide, **gpu, **half}),
        (name, many, {"max_epochs": 2, **wide, **cpu, **single}),
        ("pbmc3k", pbmc, {**cpu, **single}),
    ]
    rows, of_first = [], {}
    for name, adata, options in runs:
        row, values = fit_row(name, adata, **options)
        first = of_first.setdefault(
            (name, row["epochs"], options.get("batch_size")), np.log1p(values)
        )
        row["r of log denoised with first"] = round(
            float(np.corrcoef(first.ravel(), np.log1p(values).ravel())[0, 1]), 5
        )
        rows.append(row)
        record("Training and estimates", rows)


if __name__ == "__main__":
    main()
