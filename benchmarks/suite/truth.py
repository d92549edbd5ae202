"""Study ``truth``: every method on every case, judged by what is known.

Reruns compute what is missing: a run whose data, method and versions are the same is kept, and a
judge whose source is the same is not asked again.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suite import cases, environments, provenance, records, tables, written
from suite.cases import Case
from suite.judges import JUDGES, Judge
from suite.methods import METHODS
from suite.records import Record
from suite.running import Failed, Limits, estimate_key, estimate_of


class Request(NamedTuple):
    """What to run."""

    data: Path
    cases: list[str]
    methods: list[str]
    seeds: list[int]
    source: Path  #: checkout of the package that runs
    limits: Limits
    retry: bool = False  #: run again what failed


def run(request: Request, *, judges: Sequence[Judge] = JUDGES) -> int:
    """Run what is missing; return how many runs were made or judged."""
    code, n_new = commit_of(request.source), 0
    missing = [name for name in request.methods if not _installed(name)]
    methods = [name for name in request.methods if name not in missing]
    for case in cases.built(request.cases, request.data, request.seeds):
        asked = [judge for judge in judges if judge.applies(case)]
        for name in methods:
            key = estimate_key(name, case.counts, seed=case.seed, source=request.source)
            record = records.find(case.name, name, case.seed)
            if record is None or record.key != key:
                record = _empty(case, name, key, code, request.limits)
            wanted = _wanted(record, case, asked, request)
            if wanted:
                _judge(record, case, wanted, request)
                n_new += 1
    return n_new


def study(request: Request) -> None:
    """Run what is missing, and write the tables."""
    n_new = run(request)
    if not tables.write_truth(records.everything()) and not n_new:
        print(written.NOTHING_TO_DO)


def commit_of(source: Path) -> str:
    """Return the commit of a checkout, with a + if its source was changed since."""
    git = ["git", "-C", str(source)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "src"], capture_output=True, text=True
    ).stdout.strip()
    return head.stdout.strip() + ("+" if changed else "")


def _installed(name: str) -> bool:
    environment = METHODS[name].environment
    found = environments.installed(environment)
    if not found:
        print(f"{name}: skipped, not installed: python benchmarks/run.py install {environment}")
    return found


def _empty(case: Case, name: str, key: str, code: str, limits: Limits) -> Record:
    shape = (int(case.counts.shape[0]), int(case.counts.shape[1]))
    return Record(
        case.kind,
        case.dataset,
        name,
        case.seed,
        shape,
        key,
        code if METHODS[name].kind != "peer" else "",
        records.today(),
        "",
        limits.cpu_s,
        {},
        {},
        environments.named_versions(METHODS[name].environment),
        provenance.machine(),
    )


def _wanted(record: Record, case: Case, judges: list[Judge], request: Request) -> list[Judge]:
    """Return the judges that have not seen this estimate yet."""
    if record.failed and not request.retry and record.limit_s >= request.limits.cpu_s:
        return []
    return [
        judge
        for judge in judges
        if record.judged.get(judge.name, {}).get("version") != judge.version(case)
    ]


def _judge(record: Record, case: Case, judges: list[Judge], request: Request) -> None:
    """Get the estimate, let the judges score it, keep the scores or the reason of a failure."""
    print(f"{case.name}, {record.method}, seed {case.seed} ...", end=" ", flush=True)
    try:
        estimate = estimate_of(
            record.method,
            case.counts,
            seed=case.seed,
            source=request.source,
            limits=request.limits,
        )
    except Failed as error:
        print(f"failed: {error}", flush=True)
        limit = request.limits.cpu_s
        records.keep(record._replace(failed=str(error), limit_s=limit), {})
        return
    judged: dict[str, dict[str, Any]] = dict(record.judged)
    losses: dict[str, np.ndarray] = {}
    for judge in judges:
        found = judge.compute(case, estimate)
        judged[judge.name] = {"version": judge.version(case), "scores": found.scores}
        if found.per_cell is not None:
            losses[judge.name] = found.per_cell
    kept = record._replace(failed="", cost=estimate.cost._asdict(), judged=judged)
    records.keep(kept, losses)
    print(", ".join(f"{k} {v:.4g}" for k, v in list(kept.scores.items())[:3]), flush=True)
