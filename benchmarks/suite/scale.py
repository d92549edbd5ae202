"""Study ``scale``: cost against the number of cells and of genes, on generated counts.

Every method runs in a process of its own on Splat counts of growing size until it fails or
breaks the limit; then larger sizes are not tried. ``docs/scale.md`` has the run on disk.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import sparse

from graphsci.evaluation import study
from graphsci.simulation import PRESETS, simulate_splat
from suite import environments, tables, truth
from suite.methods import METHODS, Method, decisive
from suite.running import WORK, Cost, Failed, cost_of

STORE = WORK / "scale"
#: ``results/scale.*`` is the run on disk, of ``benchmarks/scale.py``.
TABLE = "scale_methods"
CELLS, GENES = (1_000, 3_000, 10_000, 30_000, 100_000), (500, 2_000, 8_000)
#: Genes where cells vary, and cells where genes vary.
FIXED_GENES, FIXED_CELLS = 2_000, 3_000
#: What runs: ours returns the estimate alone here, as the peers do.
RUN = {
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


SIZES = (
    *(Size("cells", n, FIXED_GENES) for n in CELLS),
    *(Size("genes", FIXED_CELLS, n) for n in GENES if n != FIXED_GENES),
)


def study_scale(request: truth.Request) -> None:
    """Run what is missing, and write the tables."""
    n_new, rows = 0, []
    too_slow: dict[tuple[str, str], str] = {}
    for size in SIZES:
        counts: sparse.csr_matrix | None = None
        for name, method in RUN.items():
            if name not in request.methods or not environments.installed(method.environment):
                continue
            path = STORE / f"{_key(method, size, request)}.json"
            if not path.is_file():
                counts = generated(size) if counts is None else counts
                skip = too_slow.get((name, size.series), "")
                found = {"failed": f"not tried: {skip}"} if skip else _run(method, counts, request)
                print(f"{size}, {name}: {found}", flush=True)
                STORE.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found))
                n_new += 1
            found = json.loads(path.read_text())
            if found.get("failed"):
                too_slow.setdefault((name, size.series), found["failed"])
            rows.append((size, name, found))
    if n_new or not tables.written(TABLE):
        write(rows, request)
    else:
        print("Nothing to do: every run is there already, and nothing changed.")


def generated(size: Size) -> sparse.csr_matrix:
    """Return counts of six groups of cells, the preset ``sim-t6-hard`` at another size."""
    base = PRESETS["sim-t6-hard"]
    params = replace(base, n_genes=size.n_genes, batch_cells=(size.n_cells,))
    counts = sparse.csr_matrix(simulate_splat(params, seed=0).X, dtype=np.float32)
    counts = counts[np.asarray(counts.sum(1)).ravel() > 0]
    return counts[:, np.flatnonzero(counts.getnnz(axis=0))]


def _run(method: Method, counts: sparse.csr_matrix, request: truth.Request) -> dict[str, Any]:
    try:
        cost = cost_of(method, counts, seed=0, source=request.source, limits=request.limits)
    except Failed as error:
        return {"failed": str(error)}
    return {"failed": "", **cost._asdict()}


def _key(method: Method, size: Size, request: truth.Request) -> str:
    return study.Store.key(
        size=size._asdict(),
        method=decisive(method, request.source),
        limit=request.limits.cpu_s,
        threads=request.limits.threads,
    )


def _tidy(rows: list[tuple[Size, str, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for size, name, found in rows:
        for score in Cost._fields:
            yield {**size._asdict(), "method": name, "score": score, "value": found.get(score)}


def write(rows: list[tuple[Size, str, dict[str, Any]]], request: truth.Request) -> None:
    """Write ``scale_methods.csv`` and ``scale_methods.md``."""
    text = [
        "# Study `scale`",
        "",
        f"Generated counts (Splat, preset `sim-t6-hard` at other sizes), one run each, limit "
        f"{request.limits.cpu_s:.0f} s of CPU, {request.limits.threads} thread(s); "
        f"{tables.machine()} graphsci at commit {truth.commit_of(request.source)}; made "
        f"{tables.records.today()} by `python benchmarks/run.py scale`. "
        f"{environments.named_versions()}. Start of the interpreter, reading and writing of files "
        "included; every method returns a dense matrix. `-`: not finished, see below.",
    ]
    table = pd.DataFrame(list(_tidy(rows)))
    for series, column in (("cells", "n_cells"), ("genes", "n_genes")):
        fixed = f"{FIXED_GENES:,} genes" if series == "cells" else f"{FIXED_CELLS:,} cells"
        for score, title in (("cpu_s", "CPU seconds"), ("peak_mib", "Peak memory, MiB")):
            here = table[table.score == score]
            in_series = (here.series == series) | (
                (here.n_cells == FIXED_CELLS) & (here.n_genes == FIXED_GENES)
            )
            text += ["", f"## {title} against {series}, {fixed}", ""]
            text += [_wide(here[in_series], column)]
    reasons = [f"- {s.n_cells:,} x {s.n_genes:,}, {n}: {f['failed']}" for s, n, f in rows]
    text += ["", "## Not finished", ""]
    text += [line for line, row in zip(reasons, rows, strict=True) if row[2].get("failed")]
    tables.write(TABLE, table, text)


def _wide(part: pd.DataFrame, column: str) -> str:
    wide = part.pivot_table(index="method", columns=column, values="value", aggfunc="first")
    wide = wide.reindex([name for name in RUN if name in set(part.method)])
    wide.columns = [f"{int(n):,}" for n in wide.columns]
    return tables.markdown(wide.reset_index().astype({"method": str}), digits=0)
