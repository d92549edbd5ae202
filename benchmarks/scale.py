"""Time and memory from ten thousand to a million cells, from a file on disk.

    /work/venv/bin/python benchmarks/scale.py --folder /tmp/scale

Simulates counts of 2,000 genes (Splat, ten groups, median 2,000 molecules a cell) into files of
growing numbers of cells, runs the command line on each in a process of its own, on disk, with a
fixed number of epochs and estimates for 100 chosen genes, and watches that process: resident
memory and CPU seconds once a second, and at every line that it logs. Writes

- ``results/scale.csv``: one row per number of cells;
- ``results/scale_trace.csv``: the largest run's memory and CPU over time;
- ``results/scale.log``: command and log lines of the runs, with wall and CPU seconds;
- ``results/scale.md``: the table, with date, machine, versions and seed;
- ``docs/images/scale.png``: memory over time, and CPU time per cell and epoch by size.

Big files are deleted as soon as they are not needed any more, unless ``--keep``.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
RESULTS, IMAGE = HERE / "results", HERE.parent / "docs" / "images" / "scale.png"
GENES, CHOSEN, SEED = 2_000, 100, 0
TICK = os.sysconf("SC_CLK_TCK")


class Sample(NamedTuple):
    """The watched process at one moment."""

    wall: float  # seconds since it started
    cpu: float  # user and system seconds so far
    mib: float  # resident memory
    line: str = ""  # what it just logged


class Run(NamedTuple):
    """One finished process."""

    command: list[str]
    trace: list[Sample]  # once a second
    log: list[Sample]  # at every line


def simulate(path: Path, n_cells: int) -> Run:
    """Write simulated counts, a block of cells in memory at a time."""
    shares = ",".join(["0.1"] * 10)
    sizes = ["--cells", str(n_cells), "--genes", str(GENES), "--seed", str(SEED)]
    shape = ["--lib-loc", "7.6", "--group-prob", shares, "--de-prob", "0.1"]
    form = ["--no-true-counts", "--compression", "none", "--overwrite"]
    return watch(["simulate", "splat", *sizes, *shape, *form, "-o", str(path)])


def impute(path: Path, out: Path, *, epochs: int) -> Run:
    """Train from the file and write estimates for the chosen genes."""
    genes = out.with_name("genes.txt")
    genes.write_text("\n".join(f"Gene{1 + n * GENES // CHOSEN}" for n in range(CHOSEN)))
    outputs = ["-o", str(out), "--json", str(out.with_suffix(".json")), "--overwrite"]
    options = ["--backed", "--genes", str(genes), "--max-epochs", str(epochs), "--seed", str(SEED)]
    return watch(["impute", str(path), *outputs, *options, "--threads", "1"])


def watch(arguments: list[str]) -> Run:
    """Run graphsci in a process of its own and look at it once a second."""
    command = [sys.executable, "-m", "graphsci", *arguments]
    started, log = time.perf_counter(), []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        trace: list[Sample] = []
        done = threading.Event()

        def look() -> None:
            while not done.wait(1.0):
                trace.append(_sample(process.pid, started))

        watcher = threading.Thread(target=look)
        watcher.start()
        for line in process.stdout:
            log.append(_sample(process.pid, started, line.strip()))
        done.set()
        watcher.join()
    if process.returncode:
        raise SystemExit("\n".join([" ".join(command), *(entry.line for entry in log)]))
    return Run(command, trace, log)


def _sample(pid: int, started: float, line: str = "") -> Sample:
    wall = time.perf_counter() - started
    try:
        numbers = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1])
    except (OSError, IndexError):  # it has just ended
        return Sample(wall, float("nan"), float("nan"), line)
    cpu = (int(numbers[11]) + int(numbers[12])) / TICK
    return Sample(wall, cpu, pages * os.sysconf("SC_PAGE_SIZE") / 2**20, line)


def measure(n_cells: int, run: Run, summary: dict) -> dict[str, object]:
    """One row of the table."""
    epochs = [entry for entry in run.log if re.match(r"epoch \d+", entry.line)]
    between = [b.cpu - a.cpu for a, b in itertools.pairwise(epochs)]
    last = max(entry.cpu for entry in run.trace + run.log if entry.cpu == entry.cpu)
    return {
        "cells": n_cells,
        "epochs": len(epochs),
        "cpu_us_per_cell_and_epoch": 1e6 * sum(between) / len(between) / n_cells,
        "cpu_us_per_cell_in_all": 1e6 * last / n_cells,
        "cpu_s": last,
        "wall_s": run.trace[-1].wall,
        "peak_mib": summary["peak_memory_mib"],
        "zeros": summary["data"]["zeros"],
        "d2": next(iter(summary["verdict"]["scores"].values()))["d2"],
    }


def record(rows: list[dict], runs: dict[str, Run]) -> None:
    """Write table, trace, log and picture."""
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "scale.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    largest = list(runs.values())[-1]
    with (RESULTS / "scale_trace.csv").open("w", newline="") as file:
        trace = csv.writer(file)
        trace.writerow(["wall_s", "cpu_s", "resident_mib"])
        trace.writerows((f"{s.wall:.1f}", f"{s.cpu:.2f}", f"{s.mib:.0f}") for s in largest.trace)
    lines = []
    for name, run in runs.items():
        lines += [f"# {name}", "$ " + " ".join(["graphsci", *run.command[3:]])]
        lines += [f"{s.wall:8.1f} s {s.cpu:8.1f} s CPU {s.mib:6.0f} MiB  {s.line}" for s in run.log]
        lines.append("")
    (RESULTS / "scale.log").write_text("\n".join(lines))
    (RESULTS / "scale.md").write_text(_markdown(rows))
    _draw(rows, largest)


def _markdown(rows: list[dict]) -> str:
    packages = ("graphsci", "torch", "numpy", "scipy", "anndata", "h5py")
    made = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{_processor()}, one core of {os.cpu_count()} (shared with other jobs)",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {version(name)}" for name in packages),
        "seed": SEED,
    }
    head = (
        "| cells | epochs | CPU us per cell and epoch | CPU us per cell in all | CPU s | wall s | "
        "peak MiB | zeros | deviance explained |"
    )
    body = [
        f"| {row['cells']:,} | {row['epochs']} | {row['cpu_us_per_cell_and_epoch']:.0f} | "
        f"{row['cpu_us_per_cell_in_all']:.0f} | {row['cpu_s']:.0f} | {row['wall_s']:.0f} | "
        f"{row['peak_mib']:.0f} | {row['zeros']:.1%} | {row['d2']:.2%} |"
        for row in rows
    ]
    facts = [f"- {name}: {value}" for name, value in made.items()]
    title = ["# Scale", "", "Made by `benchmarks/scale.py`.", ""]
    return "\n".join([*title, *facts, "", head, "|" + "---|" * head.count(" |"), *body, ""])


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    return re.search(r"model name\s*:\s*(.*)", text)[1]  # type: ignore[index]


def _draw(rows: list[dict], largest: Run) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    memory, cost = figure.subplots(1, 2, width_ratios=[2, 1])
    minutes = [sample.wall / 60 for sample in largest.trace]
    memory.plot(minutes, [sample.mib / 1024 for sample in largest.trace], color="#1b4f72")
    stages = {
        "likelihood": "graph",
        "epoch 1": "epoch 2",
        "checking": "verdict",
        "writing": "write",
    }
    for number, (start, word) in enumerate(stages.items()):
        at = next((s.wall / 60 for s in largest.log if s.line.startswith(start)), None)
        if at is not None:
            memory.axvline(at, color="0.8", linewidth=0.8, zorder=0)
            height = 3.85 - 0.25 * (number % 2)
            memory.text(at, height, f" {word}", fontsize=8, color="0.4", va="top")
    memory.axhline(4, color="#b03a2e", linewidth=0.8, linestyle="--")
    memory.set(
        xlabel="minutes",
        ylabel="resident memory (GiB)",
        ylim=(0, 4.2),
        title=f"{rows[-1]['cells']:,} cells x {GENES:,} genes",
    )
    sizes = [row["cells"] for row in rows]
    cost.plot(sizes, [row["cpu_us_per_cell_and_epoch"] for row in rows], "o-", color="#1b4f72")
    cost.set(xscale="log", xlabel="cells", ylabel="CPU µs per cell and epoch")
    cost.set_ylim(0, 1.15 * max(row["cpu_us_per_cell_and_epoch"] for row in rows))
    for axes in (memory, cost):
        axes.spines[["top", "right"]].set_visible(False)
    IMAGE.parent.mkdir(exist_ok=True)
    figure.savefig(IMAGE, dpi=150, facecolor="white")


def main() -> None:
    """Run every size, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="for the big files")
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000, 1_300_000])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--keep", action="store_true", help="keep the big files")
    chosen = parser.parse_args()
    chosen.folder.mkdir(exist_ok=True)
    rows, runs = [], {}
    for n_cells in chosen.cells:
        source, out = chosen.folder / f"{n_cells}.h5ad", chosen.folder / f"{n_cells}_out.h5ad"
        if not source.exists():
            runs[f"simulate {n_cells:,} cells"] = simulate(source, n_cells)
        runs[f"impute {n_cells:,} cells"] = run = impute(source, out, epochs=chosen.epochs)
        rows.append(measure(n_cells, run, json.loads(out.with_suffix(".json").read_text())))
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()})
        if not chosen.keep:
            source.unlink()
            out.unlink()
        record(rows, runs)


if __name__ == "__main__":
    main()
