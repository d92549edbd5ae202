"""Peers side by side: install them, run them on held-out molecules, write tables.

    python benchmarks/run.py install magic            # an environment of its own, from PyPI
    python benchmarks/run.py list
    python benchmarks/run.py truth --data DIR [--datasets A B] [--methods A B] [--seeds 0 1]
    python benchmarks/run.py signal --data DIR [--datasets A B] [--methods A B]

Every method is a process of its own, called through one file contract (``peers/contract.py``).
Runs are kept in ``benchmarks/.work`` under a key of everything that decides them; running again
computes what is missing and says so if nothing is. Tables go to ``benchmarks/results``.
"""

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from graphsci.evaluation import study
from graphsci.evaluation.false_signal import (
    append_shuffled_genes,
    mean_absolute_correlation,
    other_species_share,
)

HERE = Path(__file__).resolve().parent
ENVIRONMENTS, WORK, RESULTS = HERE / ".envs", HERE / ".work", HERE / "results"
#: Share of the gene means in the third way to score a peer; see ``chances``.
MIXED = 0.05
SAMPLE_SECONDS = 0.1


class Environment(NamedTuple):
    """How a peer is installed: pip's arguments, one call each, in order."""

    steps: tuple[tuple[str, ...], ...]


class Method(NamedTuple):
    """A script, the environment it runs in, and its variant."""

    script: str
    environment: str  #: "" is the one that runs this program
    variant: str = ""
    note: str = ""


#: The newest TensorFlow that still has the Keras 2 that DCA and DeepImpute are written for.
_TENSORFLOW = ("tensorflow-cpu==2.15.*", "numpy<2", "anndata<0.12", "scikit-learn", "pandas<3")
PEER_ENVIRONMENTS = {
    "magic": Environment((("magic-impute", "anndata"),)),
    "scvi": Environment((("torch==2.13.0",), ("scvi-tools",))),
    "dca": Environment(
        (
            (*_TENSORFLOW, "scanpy<1.11", "six", "setuptools<80"),
            ("--no-deps", "dca==0.3.4"),  # its pins exclude every TensorFlow for Python 3.11
        )
    ),
    "deepimpute": Environment((_TENSORFLOW, ("--no-deps", "deepimpute==1.2"))),
}
METHODS = {
    "graphsci": Method("run_graphsci.py", "", "default"),
    "graphsci-paper": Method("run_graphsci.py", "", "paper", "the published equations"),
    "nothing": Method("run_graphsci.py", "", "nothing", "control"),
    "gene_mean": Method("run_graphsci.py", "", "gene_mean", "control"),
    "neighbour_pooling": Method("run_graphsci.py", "", "neighbour_pooling", "control"),
    "neighbour_pooling_posterior": Method(
        "run_graphsci.py", "", "neighbour_pooling_posterior", "control"
    ),
    "magic-sqrt": Method("run_magic.py", "magic", "sqrt", "magic-impute"),
    "magic-log": Method("run_magic.py", "magic", "log", "magic-impute"),
    "alra": Method("run_alra.py", "", note="our implementation"),
    "knn-smoothing": Method("run_knn_smoothing.py", "", "15", "our implementation, k = 15"),
    "scvi-nb": Method("run_scvi.py", "scvi", "nb", "scvi-tools"),
    "scvi-zinb": Method("run_scvi.py", "scvi", "zinb", "scvi-tools"),
    "dca-nb": Method("run_dca.py", "dca", "nb-conddisp", "dca 0.3.4 on TensorFlow 2.15"),
    "dca-zinb": Method("run_dca.py", "dca", "zinb-conddisp", "dca 0.3.4 on TensorFlow 2.15"),
    "deepimpute": Method("run_deepimpute.py", "deepimpute", "restore", "deepimpute 1.2"),
    "deepimpute-predicted": Method(
        "run_deepimpute.py", "deepimpute", "predicted", "deepimpute 1.2, no counts restored"
    ),
}


class Dataset(NamedTuple):
    """A count file under the data folder, and the cells wanted of it."""

    path: str
    keep: tuple[str, str] | None = None  #: column of obs and its value


DATASETS = {
    "pbmc_1k_v3": Dataset("h5ad/pbmc_1k_v3.h5ad"),
    "scmix_sc_celseq2": Dataset("h5ad/scmix_sc_celseq2.h5ad", ("demuxlet_cls", "SNG")),
    "zeisel_saver": Dataset("h5ad/zeisel_saver_500x3529.h5ad"),
    "pbmc_5k_protein_v3_200": Dataset("h5ad/pbmc_5k_protein_v3_200.h5ad"),
    "paul15": Dataset("h5ad/paul15_2660.h5ad"),
    "pbmc3k": Dataset("h5ad/pbmc3k.h5ad"),
    "mouse_bladder": Dataset("h5ad/mouse_bladder_2100.h5ad"),
    "klein_mes": Dataset("h5ad/klein_mes_1000x900.h5ad"),
    "scmix_RNAmix_celseq2": Dataset("h5ad/scmix_RNAmix_celseq2.h5ad"),
    "soumillon_d3": Dataset("h5ad/soumillon_d3.h5ad"),
}


# --- environments -----------------------------------------------------------------------


def interpreter(environment: str) -> Path:
    """Return the Python of an environment; the one of this program for ""."""
    return ENVIRONMENTS / environment / "bin" / "python" if environment else Path(sys.executable)


def installed(environment: str) -> bool:
    return not environment or (ENVIRONMENTS / f"{environment}.freeze").is_file()


def install(environment: str) -> None:
    """Make an environment and fill it; its list of versions is written when all went well."""
    folder, log = ENVIRONMENTS / environment, ENVIRONMENTS / f"{environment}.log"
    ENVIRONMENTS.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    with log.open("w") as file:
        for packages in PEER_ENVIRONMENTS[environment].steps:
            command = [str(interpreter(environment)), "-m", "pip", "install", *packages]
            if subprocess.run(command, stdout=file, stderr=file).returncode:
                errors = [line for line in log.read_text().splitlines() if "rror" in line]
                sys.exit(
                    f"{environment}: {' '.join(packages)} did not install; see {log}\n"
                    + "\n".join(errors[-5:])
                )
    freeze = [str(interpreter(environment)), "-m", "pip", "freeze"]
    found = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    (ENVIRONMENTS / f"{environment}.freeze").write_text(found)
    print(f"{environment}: installed in {folder}")


def versions_of(environment: str) -> str:
    """Return a digest of what an environment holds, or of the package's own source."""
    if environment:
        return digest((ENVIRONMENTS / f"{environment}.freeze").read_bytes())
    sources = sorted((HERE.parent / "src" / "graphsci").rglob("*.py"))
    return digest(b"".join(path.read_bytes() for path in sources))


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


# --- one process, measured --------------------------------------------------------------


class Cost(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_mib: float  #: highest sum of resident memory over the process tree


def measured(command: list[str], *, log: Path, timeout: float, threads: int) -> Cost:
    """Run a command to its end; raise RuntimeError with the end of its log if it fails."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peak = time.perf_counter(), 0
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**os.environ, **limits}, cwd=HERE / "peers"
        )
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            if time.perf_counter() - start > timeout:
                process.kill()
                process.wait()
                raise RuntimeError(f"stopped after {timeout:.0f} s")
            time.sleep(SAMPLE_SECONDS)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        lines = log.read_text().strip().splitlines() or ["no output"]
        raise RuntimeError(f"exit code {process.returncode}: {lines[-1][:300]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, peak / 2**20)


def tree_memory(pid: int) -> int:
    """Return the resident bytes of a process and all below it; shared pages count each time."""
    total, waiting = 0, [pid]
    while waiting:
        found = waiting.pop()
        with contextlib.suppress(OSError, ValueError):  # it may end while we look
            pages = int(Path(f"/proc/{found}/statm").read_text().split()[1])
            total += pages * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{found}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


# --- the study of held-out molecules ----------------------------------------------------


def read_counts(data: Path, name: str) -> sparse.csr_matrix | None:
    """Return the counts of a data set; None if its file is not there."""
    dataset = DATASETS[name]
    if not (data / dataset.path).is_file():
        return None
    adata = anndata.read_h5ad(data / dataset.path)
    if dataset.keep is not None:
        column, value = dataset.keep
        adata = adata[(adata.obs[column].astype(str) == value).to_numpy()]
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    return counts[np.asarray(counts.sum(1)).ravel() >= 20]


def chances(estimate: np.ndarray, kept: sparse.csr_matrix) -> dict[str, np.ndarray]:
    """Return a peer's estimate as it came and on scales that are kinder to it.

    ``as_is``; ``rescaled``: every gene's total made that of the kept counts, for methods whose
    gene-wise scale is arbitrary; ``mixed``: the same with 5 % of the gene means, so that an
    exact zero is no infinite confidence. All use the kept counts alone.
    """
    per_gene = np.asarray(kept.sum(0), dtype=np.float64).ravel()
    totals = estimate.sum(0, dtype=np.float64)
    factor = np.divide(per_gene, totals, out=np.zeros_like(per_gene), where=totals > 0)
    rescaled = estimate * factor.astype(np.float32)
    library = np.asarray(kept.sum(1), dtype=np.float32).ravel()
    means = library[:, None] * (per_gene / per_gene.sum()).astype(np.float32)
    return {
        "as_is": estimate,
        "rescaled": rescaled,
        "mixed": (1 - MIXED) * rescaled + MIXED * means,
    }


def score(name: str, estimate: np.ndarray, case: study.Case) -> study.Run:
    """Score all chances of an estimate; the run is the best of them by deviance."""
    runs = {}
    for chance, values in chances(estimate, case.task.kept).items():

        def predict(task: study.Task, values: np.ndarray = values):
            for start in range(0, values.shape[0], 512):
                yield study.Expected(start, values[start : start + 512] * task.ratio)

        runs[chance] = study.run_method(name, predict, case)
    best = min(runs, key=lambda chance: runs[chance].scores["deviance"])
    scores = {key: value for key, value in runs[best].scores.items() if key != "seconds"}
    scores |= {f"d2_{chance}": run.scores["d2"] for chance, run in runs.items()}
    scores["best_chance"] = float(list(runs).index(best))
    return study.Run(name, case.task.seed, scores, runs[best].per_cell)


def run_one(name: str, case: study.Case, *, timeout: float, threads: int) -> study.Run:
    """Run a method on a case in a process of its own, and score it."""
    estimate, cost = estimate_of(
        name, case.task.kept, seed=case.task.seed, timeout=timeout, threads=threads
    )
    run = score(name, estimate, case)
    run.scores.update(cost._asdict())
    return run


def estimate_of(
    name: str, counts: sparse.csr_matrix, *, seed: int, timeout: float, threads: int
) -> tuple[np.ndarray, Cost]:
    """Return a method's estimate (cells, genes) of the counts it is given, and what it cost."""
    method = METHODS[name]
    with tempfile.TemporaryDirectory(prefix="graphsci-peer-") as folder:
        source, target, log = (Path(folder) / f for f in ("kept.h5ad", "estimate.npz", "log"))
        anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32)).write_h5ad(source)
        command = [str(interpreter(method.environment)), method.script, str(source), str(target)]
        command += ["--variant", method.variant, "--seed", str(seed)]
        cost = measured(command, log=log, timeout=timeout, threads=threads)
        with np.load(target) as found:
            return found["estimate"], cost


def truth(args: argparse.Namespace) -> None:
    """Run what is missing of the data sets and methods asked for, then write all tables."""
    n_new = 0
    for dataset in args.datasets:
        counts = read_counts(args.data, dataset)
        if counts is None:
            print(f"{dataset}: skipped, no {args.data / DATASETS[dataset].path}")
            continue
        fingerprint = study.fingerprint(counts)
        for seed in args.seeds:
            missing = [n for n in args.methods if not is_there(fingerprint, n, seed, args)]
            case = study.make_case(counts, fraction=args.fraction, seed=seed) if missing else None
            for name in missing:
                n_new += attempt(dataset, fingerprint, name, case, args)
    if n_new or args.table_only or not (RESULTS / "truth.csv").exists():
        write_tables(args)
    else:
        print("Nothing to do: every run is there already, and nothing changed.")


def is_there(data: str, name: str, seed: int, args: argparse.Namespace) -> bool:
    """Whether a run is done, or cannot be done here, or is not wanted now."""
    environment = METHODS[name].environment
    if args.table_only:
        return True
    if not installed(environment):
        print(f"{name}: skipped, not installed: python benchmarks/run.py install {environment}")
        return True
    return STORE.find(run_key(data, name, seed, args)) is not None


def attempt(dataset: str, data: str, name: str, case: study.Case, args: argparse.Namespace) -> bool:
    """Run a method and keep its scores, or the reason why there are none."""
    seed = case.task.seed
    key = run_key(data, name, seed, args)
    print(f"{dataset}, {name}, seed {seed} ...", end=" ", flush=True)
    try:
        run = run_one(name, case, timeout=args.timeout, threads=args.threads)
    except RuntimeError as error:
        print(f"failed: {error}", flush=True)
        failure(key).parent.mkdir(parents=True, exist_ok=True)
        failure(key).write_text(str(error))
        return True
    print(f"D2 {run.scores['d2']:.4f}, {run.scores['wall_s']:.0f} s", flush=True)
    STORE.keep(key, run, dataset=dataset)
    failure(key).unlink(missing_ok=True)
    return True


def run_key(data: str, name: str, seed: int, args: argparse.Namespace) -> str:
    """Return the key of all that decides a run."""
    method = METHODS[name]
    scripts = [HERE / "peers" / file for file in ("contract.py", method.script)]
    return STORE.key(
        data=data,
        seed=seed,
        fraction=args.fraction,
        method=method._asdict(),
        scripts=[digest(path.read_bytes()) for path in scripts],
        versions=args.pinned or versions_of(method.environment),
    )


STORE = study.Store(WORK / "truth")


def failure(key: str) -> Path:
    """Return where the reason of a run that failed is kept."""
    return WORK / "truth" / "failures" / f"{key}.txt"


def collect(args: argparse.Namespace) -> tuple[dict, list]:
    """Return all runs that are there, by data set and shape, and all failures."""
    found, failed = {}, []
    for dataset in DATASETS:
        counts = read_counts(args.data, dataset)
        if counts is None:
            continue
        data = study.fingerprint(counts)
        for name in METHODS:
            if not installed(METHODS[name].environment):
                continue
            for seed in SEEDS:
                key = run_key(data, name, seed, args)
                run = STORE.find(key)
                if run is not None:
                    found.setdefault((dataset, counts.shape), []).append(run)
                elif failure(key).is_file():
                    failed.append((dataset, name, failure(key).read_text()))
    return found, failed


#: Seeds that tables look for.
SEEDS = range(10)
CHANCES = ("as_is", "rescaled", "mixed")


def write_tables(args: argparse.Namespace) -> None:
    """Write ``truth.csv`` (tidy) and ``truth.md``."""
    found, failed = collect(args)
    RESULTS.mkdir(exist_ok=True)
    rows = [
        {"dataset": dataset, "cells": shape[0], "genes": shape[1], **row}
        for (dataset, shape), runs in found.items()
        for row in study.tidy(runs)
    ]
    pd.DataFrame(rows).to_csv(RESULTS / "truth.csv", index=False, float_format="%.6g")
    text = [heading(args)]
    for (dataset, shape), runs in found.items():
        text.append(f"\n### {dataset}: {shape[0]:,} cells x {shape[1]:,} genes\n")
        text.append(markdown(runs))
    if failed:
        text.append("\nDid not finish:\n")
        text += [f"- {dataset}, {name}: {why}" for dataset, name, why in failed]
    (RESULTS / "truth.md").write_text("\n".join(text) + "\n")
    print(f"written: {RESULTS / 'truth.csv'}, {RESULTS / 'truth.md'}")


def markdown(runs: list[study.Run]) -> str:
    """Return one data set's table, best first; differences are paired with graphsci."""
    names = list(dict.fromkeys(run.method for run in runs))
    lines = [
        "| method | D2 | D2 rare genes | deviance - graphsci's (± SE) | as returned | best scale "
        "| wall s | CPU s | peak MiB | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    by = {name: [run for run in runs if run.method == name] for name in names}
    means = {n: pd.DataFrame([r.scores for r in by[n]]).mean() for n in names}
    for name in sorted(names, key=lambda n: -means[n]["d2"]):
        mean = means[name]
        chances_used = {CHANCES[int(run.scores["best_chance"])] for run in by[name]}
        label = f"**{name}**" if name == "graphsci" else name
        note = METHODS[name].note
        lines.append(
            f"| {label}{f' ({note})' if note else ''} | {mean['d2']:.4f} "
            f"| {mean.get('d2_rare', np.nan):.4f} | {difference(by, name)} "
            f"| {mean['d2_as_is']:.4f} | {', '.join(sorted(chances_used))} "
            f"| {mean['wall_s']:.0f} | {mean['cpu_s']:.0f} | {mean['peak_mib']:,.0f} "
            f"| {len(by[name])} |"
        )
    return "\n".join(lines)


def difference(by: dict, name: str) -> str:
    """Return the paired difference of a method's deviance to ours, over the shared seeds."""
    if name == "graphsci" or "graphsci" not in by:
        return "-"
    ours = {run.seed: run.per_cell for run in by["graphsci"]}
    theirs = {run.seed: run.per_cell for run in by[name]}
    seeds = sorted(set(ours) & set(theirs))
    if not seeds:
        return "-"
    gap = study.paired([theirs[s] for s in seeds], [ours[s] for s in seeds])
    return f"{gap.difference:+.2g} ± {gap.standard_error:.1g}"


def heading(args: argparse.Namespace) -> str:
    """Say when, where and how the numbers came about."""
    commit = subprocess.run(
        ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    packages = {}
    for name in PEER_ENVIRONMENTS:
        freeze = ENVIRONMENTS / f"{name}.freeze"
        if freeze.is_file():
            lines = freeze.read_text().splitlines()
            wanted = ("magic-impute==", "scvi-tools==", "torch==", "dca==", "deepimpute==")
            packages[name] = [line for line in lines if line.lower().startswith(wanted)]
    source = f"near commit {args.pinned}" if args.pinned else f"at commit {commit}"
    return (
        f"Held-out molecules: {args.fraction:.0%} of all, Poisson; D2 is the share of the gene "
        "means' deviance that is explained (higher is better). Made by `benchmarks/run.py truth` "
        f"on {datetime.date.today()}, graphsci {source}, "
        f"{args.threads} thread(s) on {os.cpu_count()} cores "
        f"({platform.machine()}), a machine shared with other work, so times are upper bounds. "
        f"Python {platform.python_version()}; {json.dumps(packages)}. Each method is scored as "
        "returned, with its genes rescaled to the kept totals, and with 5 % of the gene means "
        "mixed in; the best of the three counts, for every method, ours included."
    )


# --- false signal -----------------------------------------------------------------------

#: Shuffled copies of real genes that are added to the counts.
N_COPIES = 50
SPECIES_FILE = "h5ad/macosko_species_hundred.h5ad"


def signal(args: argparse.Namespace) -> None:
    """Score what methods put where there is nothing: shuffled genes, the other species' genes."""
    folder, rows, n_new = WORK / "signal", [], 0
    for dataset, counts, judge in signal_cases(args):
        fingerprint = study.fingerprint(counts)
        for name in METHODS:
            path = folder / f"{run_key(fingerprint, name, 0, args)}.json"
            wanted = name in args.methods and installed(METHODS[name].environment)
            if wanted and not path.is_file():
                print(f"{dataset}, {name} ...", end=" ", flush=True)
                limits = {"timeout": args.timeout, "threads": args.threads}
                try:
                    estimate, _ = estimate_of(name, counts, seed=0, **limits)
                except RuntimeError as error:
                    print(f"failed: {error}", flush=True)
                    continue
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(judge(estimate)))
                print(path.read_text(), flush=True)
                n_new += 1
            if installed(METHODS[name].environment) and path.is_file():
                found = json.loads(path.read_text())
                rows += [{"dataset": dataset, "method": name, **found}]
    if not n_new and (RESULTS / "signal.csv").exists():
        print("Nothing to do: every run is there already, and nothing changed.")
        return
    RESULTS.mkdir(exist_ok=True)
    table = pd.DataFrame(rows).melt(["dataset", "method"], var_name="score").dropna()
    table.to_csv(RESULTS / "signal.csv", index=False, float_format="%.6g")
    print(table.pivot(index="method", columns=["score", "dataset"], values="value").round(4))


def signal_cases(args: argparse.Namespace):
    """Yield the name, the counts and the judge of each case whose data are there."""
    for dataset in args.datasets:
        counts = read_counts(args.data, dataset)
        if counts is not None:
            counts = counts[:, np.flatnonzero(counts.getnnz(axis=0))]
            more = append_shuffled_genes(counts, n_copies=N_COPIES, rng=np.random.default_rng(0))
            yield dataset, more.counts, shuffled_judge(more.copies)
    if (args.data / SPECIES_FILE).is_file():
        adata = anndata.read_h5ad(args.data / SPECIES_FILE)
        counts = sparse.csr_matrix(adata.X, dtype=np.float32)
        genes = np.flatnonzero(counts.getnnz(axis=0))
        gene_species = np.array([name[:2] for name in adata.var_names[genes]])
        totals = [np.asarray(counts[:, genes[gene_species == s]].sum(1)).ravel() for s in SPECIES]
        share = np.maximum(*totals) / np.sum(totals, axis=0)
        single = np.flatnonzero(share > 0.9)  # no doublets, by the counts themselves
        cell_species = np.array(SPECIES)[np.argmax(totals, axis=0)][single]
        judge = species_judge(cell_species, gene_species)
        yield "macosko_species", counts[single][:, genes], judge


SPECIES = ("hg", "mm")


def shuffled_judge(copies: np.ndarray):
    def judge(estimate: np.ndarray) -> dict[str, float]:
        totals = estimate.sum(1, keepdims=True)
        values = np.log1p(estimate[:, copies] * (np.median(totals) / np.maximum(totals, 1e-9)))
        # rounded: the last digits of a constant, as in gene means, correlate too
        return {"shuffled_correlation": mean_absolute_correlation(values=values.round(5))}

    return judge


def species_judge(cell_species: np.ndarray, gene_species: np.ndarray):
    def judge(estimate: np.ndarray) -> dict[str, float]:
        found = other_species_share(
            values=estimate, cell_species=cell_species, gene_species=gene_species
        )
        return {"other_species_share": found}

    return judge


# --- command line -----------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("install", help="make a peer's environment")
    make.add_argument("environments", nargs="+", choices=PEER_ENVIRONMENTS)
    commands.add_parser("list", help="methods, data sets, what is installed")
    for name, text in (("truth", "held-out molecules"), ("signal", "false signal")):
        run = commands.add_parser(name, help=text)
        run.add_argument("--data", type=Path, required=True)
        run.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
        run.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
        run.add_argument("--seeds", nargs="+", type=int, default=[0], help="of truth")
        run.add_argument("--fraction", type=float, default=0.1, help="of truth")
        run.add_argument("--timeout", type=float, default=3600)
        run.add_argument("--threads", type=int, default=1)
        run.add_argument("--table-only", action="store_true", help="truth: tables of what is there")
        run.add_argument(
            "--pinned",
            default="",
            metavar="COMMIT",
            help="let this commit stand for the version of all code, to go on while code changes",
        )
    args = parser.parse_args()
    if args.command == "install":
        for environment in args.environments:
            install(environment)
    elif args.command == "list":
        for name, method in METHODS.items():
            state = "ready" if installed(method.environment) else f"install {method.environment}"
            print(f"{name:30} {state:20} {method.note}")
        print("data sets:", ", ".join(DATASETS))
    else:
        {"truth": truth, "signal": signal}[args.command](args)


if __name__ == "__main__":
    main()
