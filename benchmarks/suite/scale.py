"""Study ``scale``: cost and accuracy against the number of cells and of genes.

Every method runs in a process of its own on Splat counts of growing size, a tenth of their
molecules held out, until it fails or breaks the limit; then larger sizes are not tried.
``docs/scale.md`` has the run on disk.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from graphsci import _splat_params, count_loss, simulation
from graphsci.evaluation import study
from graphsci.evaluation.study import cases as study_cases
from graphsci.simulation import PRESETS, SplatParams, simulate_splat
from suite import cases, environments, judges, provenance, records, truth, written
from suite.methods import METHODS, Method, decisive
from suite.running import WORK, Cost, Failed, fresh_estimate

STORE = WORK / "scale"
#: ``results/scale.*`` is the run on disk, of ``benchmarks/scale.py``.
TABLE, FAILED_TABLE = "scale_methods", "scale_methods_failed"
CELLS, GENES = (1_000, 3_000, 10_000, 30_000, 100_000), (500, 2_000, 8_000)
#: Genes where cells vary, and cells where genes vary.
FIXED_GENES, FIXED_CELLS = 2_000, 3_000
#: Of the generated counts, of what is held out and of the methods.
SEED = 0
#: What a run is described by: its cost, and the D2 of held-out molecules.
SCORES = (*Cost._fields, "d2")
#: Tables for each series: score, title, digits.
_TABLES = (
    ("cpu_s", "CPU seconds", 0),
    ("peak_mib", "Peak memory, MiB", 0),
    ("d2", "D2 of held-out molecules", 4),
)
#: Columns that name a run.
RUN = ("series", "n_cells", "n_genes", "method")
#: What runs: ours returns the estimate alone here, as the peers do.
METHODS_HERE = {
    "graphsci": METHODS["graphsci"]._replace(variant="default/estimate"),
    **{
        name: METHODS[name]
        for name in (
            *("neighbour_pooling_posterior", "magic-sqrt", "alra", "knn-smoothing"),
            *("deepimpute", "dca-nb", "scvi-nb", "saver", "scimpute"),
        )
    },
}


class Size(NamedTuple):
    """One size of a series."""

    series: str  #: cells or genes
    n_cells: int
    n_genes: int


class Ran(NamedTuple):
    """One run: where, what, and its cost or the reason of its failure."""

    size: Size
    method: str
    found: dict[str, Any]  #: ``failed``, ``SCORES``, how it was made


SIZES = (
    *(Size("cells", n, FIXED_GENES) for n in CELLS),
    *(Size("genes", FIXED_CELLS, n) for n in GENES if n != FIXED_GENES),
)


def study_scale(request: truth.Request) -> None:
    """Run what is missing, and write the tables."""
    n_new, runs, changed = 0, [], False
    too_slow: dict[tuple[str, str], str] = {}
    for size in SIZES:
        case: cases.Case | None = None
        for name, method in METHODS_HERE.items():
            if name not in request.methods or not environments.installed(method.environment):
                continue
            path = STORE / f"{_key(method, size, request)}.json"
            found = _kept(path, request)
            if found is None:
                case = generated(size) if case is None else case
                skip = too_slow.get((name, size.series), "")
                found = {"failed": f"not tried: {skip}"} if skip else _run(method, case, request)
                found |= _made(name, request)
                print(f"{size}, {name}: {found}", flush=True)
                STORE.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found))
                n_new += 1
            if found.get("failed", "").startswith("stopped after"):  # time or memory; no crash
                reason = f"at {size.n_cells:,} x {size.n_genes:,} {found['failed']}"
                too_slow.setdefault((name, size.series), reason)
            runs.append(Ran(size, name, found))
        changed |= write(runs)  # after every size: a study that is stopped keeps what it has
    if not changed and not n_new:
        print(written.NOTHING_TO_DO)


def _kept(path: Path, request: truth.Request) -> dict[str, Any] | None:
    """Return a kept run; none if it failed and failures are to be tried again."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return None if found.get("failed") and request.retry else found


def _made(name: str, request: truth.Request) -> dict[str, Any]:
    """Return how a run was made, for its row of the table."""
    method = METHODS_HERE[name]
    return {
        "limit_s": request.limits.cpu_s,
        "threads": request.limits.threads,
        "code": "" if method.kind == "peer" else truth.commit_of(request.source),
        "date": records.today(),
        "versions": environments.named_versions(method.environment),
        "machine": provenance.machine(),
    }


def params_of(size: Size) -> SplatParams:
    """Return six groups of cells, the preset ``sim-t6-hard`` at another size."""
    base = PRESETS["sim-t6-hard"]
    return replace(base, n_genes=size.n_genes, batch_cells=(size.n_cells,))


def generated(size: Size) -> cases.Case:
    """Return generated counts, without empty cells, with a tenth of the molecules held out."""
    counts = sparse.csr_matrix(simulate_splat(params_of(size), seed=SEED).X, dtype=np.float32)
    counts = counts[np.asarray(counts.sum(1)).ravel() > 0]
    held_out = study.make_case(counts, fraction=cases.FRACTION, seed=SEED)
    return cases.Case("scale", size.series, SEED, held_out.task.kept, {"case": held_out})


def _run(method: Method, case: cases.Case, request: truth.Request) -> dict[str, Any]:
    how = {"seed": case.seed, "source": request.source, "limits": request.limits}
    try:
        estimate = fresh_estimate(method, case.counts, **how)
    except Failed as error:
        return {"failed": str(error)}
    explained = judges.held_out(case, estimate).scores["d2"]
    return {"failed": "", **estimate.cost._asdict(), "d2": explained}


def _key(method: Method, size: Size, request: truth.Request) -> str:
    return study.Store.key(
        size=size._asdict(),
        generator=[asdict(params_of(size)), environments.source_of(simulation, _splat_params)],
        judge=[cases.FRACTION, environments.source_of(judges, study_cases, count_loss)],
        method=decisive(method, request.source),
        limit=request.limits.cpu_s,
        threads=request.limits.threads,
    )


# --- the tables -------------------------------------------------------------------------


def write(runs: list[Ran]) -> bool:
    """Write ``scale_methods.csv``, ``scale_methods_failed.csv`` and ``scale_methods.md``.

    Rows of methods and sizes that were not among the runs stay. Returns whether a file changed.
    """
    tried = pd.DataFrame([_named(run) for run in runs], columns=[*RUN])
    skipped = [run.found.get("failed", "").startswith("not tried") for run in runs]
    ran = tried[~np.array(skipped, dtype=bool)]
    how = ["limit_s", "threads", *provenance.COLUMNS]
    rows = [
        {**_named(run), "score": score, "value": run.found[score], **_of(run, how)}
        for run in runs
        for score in SCORES
        if not run.found.get("failed")
    ]
    costs = pd.DataFrame(rows, columns=[*RUN, "score", "value", *how])
    rows = [
        {**_named(run), "reason": run.found["failed"], **_of(run, how)}
        for run in runs
        if run.found.get("failed")
    ]
    failed = pd.DataFrame(rows, columns=[*RUN, "reason", *how])
    folder = written.RESULTS
    costs, failed = (
        _in_order(written.with_earlier(new, folder / f"{name}.csv", by=RUN, tried=made))
        for new, name, made in ((costs, TABLE, ran), (failed, FAILED_TABLE, tried))
    )
    changed = [
        written.put_table(folder / f"{TABLE}.csv", costs),
        written.put_table(folder / f"{FAILED_TABLE}.csv", failed),
    ]
    kept = (written.read(folder / f"{name}.csv") for name in (TABLE, FAILED_TABLE))
    return written.put_text(TABLE, _text(*kept)) or any(changed)


def _named(run: Ran) -> dict[str, Any]:
    return {**run.size._asdict(), "method": run.method}


def _of(run: Ran, fields: list[str]) -> dict[str, Any]:
    return {field: run.found.get(field, "") for field in fields}


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Put rows in the order of the series, the sizes and the methods."""
    place = {name: i for i, name in enumerate(METHODS_HERE)}
    by = pd.DataFrame(
        {
            "series": table.series,
            "size": table.n_cells.astype(int) * table.n_genes.astype(int),
            "method": table.method.map(place),
        }
    )
    return table.loc[by.sort_values(list(by), kind="stable").index].reset_index(drop=True)


def _text(costs: pd.DataFrame, failed: pd.DataFrame) -> list[str]:
    """Return the lines of the Markdown."""
    shown = pd.concat([costs, failed]).assign(seed=SEED)
    limits = provenance.joined(f"{float(limit):.0f} s" for limit in shown.limit_s if limit != "")
    threads = provenance.joined(int(n) for n in shown.threads if n != "")
    text = [
        "# Study `scale`",
        "",
        "Generated counts (Splat, preset `sim-t6-hard` at other sizes), one run each, limit "
        f"{limits} of CPU, {threads} thread(s). Made by `python benchmarks/run.py scale` on "
        f"{provenance.made_by(shown)}. Each row's own: scale_methods.csv. Start of the "
        "interpreter, reading and writing of files included; every method returns a dense matrix. "
        "D2 is that of a tenth of the molecules, held out, best of three scales as in the study "
        "`truth`. `-`: not finished, see below. †: of an earlier day, when this machine may have "
        "been faster or slower.",
    ]
    for series, column in (("cells", "n_cells"), ("genes", "n_genes")):
        fixed = f"{FIXED_GENES:,} genes" if series == "cells" else f"{FIXED_CELLS:,} cells"
        for score, title, digits in _TABLES:
            here = costs[costs.score == score]
            in_series = (here.series == series) | (
                (here.n_cells == FIXED_CELLS) & (here.n_genes == FIXED_GENES)
            )
            text += ["", f"## {title} against {series}, {fixed}", ""]
            text += [_wide(here[in_series], column, digits, days_before(costs.date))]
    text += ["", "## Not finished", ""]
    lines = [
        f"- {r.n_cells:,} x {r.n_genes:,}, {r.method}: {r.reason}" for r in failed.itertuples()
    ]
    return text + (lines or ["Every run finished."])


def days_before(dates: pd.Series) -> set[str]:
    """Return the days that are more than one before the last: of another run."""
    days = pd.to_datetime(dates)
    return set(dates[days < days.max() - pd.Timedelta(days=1)])


def _wide(part: pd.DataFrame, column: str, digits: int, earlier: set[str]) -> str:
    """Return a table of the methods against the sizes; of earlier days marked."""
    said = [
        f"{value:.{digits}f}{' †' * (day in earlier)}"
        for value, day in zip(part.value, part.date, strict=True)
    ]
    cells = part.assign(said=said)
    wide = cells.pivot_table(index="method", columns=column, values="said", aggfunc="first")
    wide = wide.reindex([name for name in METHODS_HERE if name in set(part.method)])
    wide.columns = [f"{int(n):,}" for n in wide.columns]
    return written.markdown(wide.reset_index().fillna("-"), digits=digits)
