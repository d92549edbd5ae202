"""One method in a process of its own, measured; estimates are kept under what decides them."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
from scipy import sparse

from graphsci.evaluation import study
from suite import environments
from suite.environments import BENCHMARKS, PEERS
from suite.methods import METHODS, Method, decisive

WORK = BENCHMARKS / ".work"
ESTIMATES = WORK / "estimates"
SAMPLE_SECONDS = 0.1
#: A process that waits more than it works is stopped after this many times its CPU limit.
WALL_FACTOR = 6


class Limits(NamedTuple):
    """What a run may cost."""

    cpu_s: float = 3600.0
    threads: int = 1


class Cost(NamedTuple):
    """What a run cost, start of the interpreter and files included."""

    wall_s: float
    cpu_s: float  #: of the process and its children
    peak_mib: float  #: highest sum of resident memory over the process tree


class Failed(RuntimeError):
    """A method did not return an estimate; the text says why."""


class Estimate(NamedTuple):
    """What a method returned."""

    key: str
    arrays: dict[str, np.ndarray]  #: see ``peers/contract.py``
    cost: Cost


def estimate_key(name: str, counts: sparse.csr_matrix, *, seed: int, source: Path) -> str:
    """Return the key of everything that decides an estimate."""
    data = study.fingerprint(counts)
    return study.Store.key(data=data, seed=seed, method=decisive(METHODS[name], source))


def estimate_of(
    name: str, counts: sparse.csr_matrix, *, seed: int, source: Path, limits: Limits
) -> Estimate:
    """Return a method's estimate of the counts it is given: a kept one, or a new one.

    Raises
    ------
    Failed
        If it failed or cost more than it may.
    """
    key = estimate_key(name, counts, seed=seed, source=source)
    kept, record = ESTIMATES / f"{key}.h5ad", ESTIMATES / f"{key}.json"
    if not record.is_file():
        ESTIMATES.mkdir(parents=True, exist_ok=True)
        cost = _run(METHODS[name], counts, kept, seed=seed, source=source, limits=limits)
        record.write_text(json.dumps({"method": name, "seed": seed, **cost._asdict()}))
    found = json.loads(record.read_text())
    return Estimate(key, read_estimate(kept), Cost(*(found[field] for field in Cost._fields)))


def read_estimate(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays that a method wrote, ``X`` as ``estimate``; see ``peers/contract.py``."""
    found = anndata.read_h5ad(path)
    return {"estimate": found.X} | dict(found.layers)


def fresh_estimate(
    method: Method, counts: sparse.csr_matrix, *, seed: int, source: Path, limits: Limits
) -> Estimate:
    """Return the estimate of a new run and its cost; neither is kept.

    Raises
    ------
    Failed
        As ``estimate_of``.
    """
    with tempfile.TemporaryDirectory(prefix="graphsci-cost-") as folder:
        target = Path(folder) / "estimate.h5ad"
        cost = _run(method, counts, target, seed=seed, source=source, limits=limits)
        return Estimate("", read_estimate(target), cost)


def _run(
    method: Method,
    counts: sparse.csr_matrix,
    target: Path,
    *,
    seed: int,
    source: Path,
    limits: Limits,
) -> Cost:
    """Run a method's script; its output lands at ``target`` complete or not at all."""
    with tempfile.TemporaryDirectory(prefix="graphsci-peer-") as folder:
        kept, log = Path(folder) / "kept.h5ad", Path(folder) / "log"
        output = target.with_suffix(f".{os.getpid()}.part.h5ad")
        anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32)).write_h5ad(kept)
        python = environments.interpreter(method.environment)
        command = [str(python), method.script, str(kept), str(output)]
        command += ["--variant", method.variant, "--seed", str(seed)]
        try:
            cost = measured(command, log=log, limits=limits, source=source)
            output.replace(target)
        finally:
            output.unlink(missing_ok=True)
    return cost


def measured(command: list[str], *, log: Path, limits: Limits, source: Path) -> Cost:
    """Run a command to its end.

    Raises
    ------
    Failed
        With the end of its log if it fails, or with the limit that it broke.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peak = time.perf_counter(), 0
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=file,
            env=_environment(limits.threads, source),
            cwd=PEERS,
            start_new_session=True,
        )
        limit = int(limits.cpu_s)
        with contextlib.suppress(ProcessLookupError):  # it may have ended already
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (limit, limit + 5))
        while process.poll() is None:
            peak = max(peak, tree_memory(process.pid))
            if time.perf_counter() - start > WALL_FACTOR * limits.cpu_s:
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(SAMPLE_SECONDS)
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        in_time = cpu < 0.95 * limits.cpu_s and wall < WALL_FACTOR * limits.cpu_s
        within = in_time and process.returncode == -signal.SIGKILL
        reason = f"the limit is {limits.cpu_s:.0f} s of CPU"
        raise Failed(
            f"stopped after {cpu:.0f} s of CPU ({wall:.0f} s), peak {peak / 2**20:,.0f} MiB: "
            + ("killed by the system, most likely out of memory" if within else reason)
        )
    if process.returncode:
        lines = log.read_text(encoding="utf-8").strip().splitlines() or ["no output"]
        raise Failed(f"exit code {process.returncode}: {lines[-1][:300]}")
    return Cost(wall, cpu, peak / 2**20)


def tree_memory(pid: int) -> int:
    """Return the resident bytes of a process and all below it; shared pages count each time."""
    total, waiting = 0, [pid]
    while waiting:
        found = waiting.pop()
        with contextlib.suppress(OSError, ValueError):  # it may end while we look
            pages = int(Path(f"/proc/{found}/statm").read_text(encoding="utf-8").split()[1])
            total += pages * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{found}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total


def _environment(threads: int, source: Path) -> dict[str, str]:
    """Return the variables of a method's process: threads, and the checkout it imports."""
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")
    limits = {f"{name}_NUM_THREADS": str(threads) for name in names}
    return {**os.environ, **limits, "PYTHONPATH": str(source / "src")}
