"""Held-out molecules: ours beside the best peer of each data set, and the best of all others."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from graphsci.evaluation import study
from suite import records, written
from suite.methods import OURS, is_control, is_peer
from suite.records import Record

GAP_COLUMNS = ("peer", "difference", "standard_error", "z", "seeds", "code")
#: Data sets of no more cells are marked: too few for most methods.
FEW_CELLS = 200
_CONTROLS_SHOWN = ("neighbour_pooling_posterior", "gene_mean_posterior")
_HEAD = (
    *("data set", "cells", "D2 ours (seeds)", "best peer", "its D2 (seeds)", "ratio"),
    *("best of all others, controls too", "its D2 (seeds)", "ratio"),
    *("deviance per entry, ours - peer", "in SE"),
    "D2 of pooling, of gene means, both with own counts (controls)",
)
_NOTE = (
    "A peer is any method that is neither ours nor a control; the best of all others is the best "
    "of peers and controls. The difference is paired over cells, with its SE, over the seeds whose "
    "cells were at hand (their number in brackets; truth_paired.csv), and names our commit where "
    "the D2 beside it is of another; `-` where they never were: there over the seeds that both "
    f"have. †: no more than {FEW_CELLS} cells."
)


def paired_gaps(table: pd.DataFrame, found: list[Record], path: Path) -> pd.DataFrame:
    """Return how ours differs from the best peer of each data set, paired over held-out cells.

    Rows of an earlier run, in ``path``, stay where the cells of its peer are gone; one of a peer
    that is no longer the best goes.

    Parameters
    ----------
    table
        All rows, those of an earlier run too.
    found
        Records at hand, with the losses of their cells.
    path
        A CSV with the same columns, if there is one.
    """
    gaps = _earlier_gaps(path)
    runs = {
        (r.dataset, r.method, r.seed): r
        for r in found
        if r.kind == "held-out" and "held_out" in r.judged
    }
    for dataset, rows in table[table.kind == "held-out"].groupby("dataset"):
        best = best_of(rows, is_peer)
        if dataset in gaps.index and gaps.loc[dataset, "peer"] != best:
            gaps = gaps.drop(index=dataset)
        pairs = [
            [runs.get((dataset, name, seed)) for name in (OURS, best)]
            for seed in sorted(set(rows.seed))
        ]
        losses = [[_losses(run) for run in pair] for pair in pairs]
        whole = [i for i, pair in enumerate(losses) if all(cells is not None for cells in pair)]
        if whole:
            gap = study.paired(*([losses[i][side] for i in whole] for side in (0, 1)))
            code = ", ".join(sorted({pairs[i][0].code for i in whole}))
            measured = (gap.difference, gap.standard_error, gap.z, len(whole), code)
            gaps.loc[dataset] = [best, *measured]
    return gaps.sort_index()


def _earlier_gaps(path: Path) -> pd.DataFrame:
    if not path.is_file():
        return pd.DataFrame(columns=GAP_COLUMNS, index=pd.Index([], name="dataset"))
    return written.read(path).set_index("dataset")


def _losses(record: Record | None) -> np.ndarray | None:
    return None if record is None else records.per_cell(record, "held_out")


def best_of(rows: pd.DataFrame, wanted: Callable[[str], bool]) -> str | None:
    """Return the wanted method that explains most, or None if ours or all of them are missing."""
    explained = rows[rows.score == "d2"].groupby("method").value.mean()
    others = [name for name in explained.index if wanted(name)]
    if OURS not in explained or not others:
        return None
    return max(others, key=lambda name: float(explained[name]))


def against_best(table: pd.DataFrame, gaps: pd.DataFrame) -> str:
    """Return how ours compares with the best peer on held-out molecules; see ``paired_gaps``."""
    lines = [
        "## Held-out molecules: ours and the best peer of each data set",
        "",
        _NOTE,
        "",
        f"| {' | '.join(_HEAD)} |",
        "|---" * len(_HEAD) + "|",
    ]
    for dataset, rows in table[table.kind == "held-out"].groupby("dataset"):
        if row := _row(str(dataset), rows, gaps):
            lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _row(dataset: str, rows: pd.DataFrame, gaps: pd.DataFrame) -> list[str]:
    """Return one row of that table, or nothing if ours or every peer is missing."""
    best = best_of(rows, is_peer)
    if best is None:
        return []
    runs = rows[rows.score == "d2"].groupby("method").value
    explained, seeds = runs.mean(), runs.count()
    n_cells = rows.cells.max()
    other = best_of(rows, lambda name: is_peer(name) or is_control(name))
    controls = [f"{explained[n]:.4f}" if n in explained else "-" for n in _CONTROLS_SHOWN]
    return [
        f"{dataset}{' †' * bool(n_cells <= FEW_CELLS)}",
        f"{n_cells:,}",
        f"{explained[OURS]:.4f} ({seeds[OURS]})",
        *_beside(explained, seeds, best),
        *_beside(explained, seeds, other or best),
        *_difference(dataset, rows, best, gaps),
        ", ".join(controls),
    ]


def _beside(explained: pd.Series, seeds: pd.Series, other: str) -> list[str]:
    """Return a method, its D2 with the number of seeds, and ours as a multiple of it."""
    own, theirs = float(explained[OURS]), float(explained[other])
    return [other, f"{theirs:.4f} ({seeds[other]})", f"{own / theirs:.2f}" if theirs > 0 else "-"]


def _difference(dataset: str, rows: pd.DataFrame, best: str, gaps: pd.DataFrame) -> list[str]:
    """Return the difference of the deviance, and how many standard errors it is."""
    if dataset in gaps.index:
        gap = gaps.loc[dataset]
        of = f"{gap['seeds']:.0f}{_other_code(gap['code'], rows)}"
        return [
            f"{gap['difference']:+.2g} ± {gap['standard_error']:.1g} ({of})",
            f"{gap['z']:+.1f}",
        ]
    deviance = rows[rows.score == "deviance"].pivot_table(
        index="seed", columns="method", values="value"
    )
    shared = deviance[[OURS, best]].dropna()
    return [f"{(shared[OURS] - shared[best]).mean():+.2g}" if len(shared) else "-", "-"]


def _other_code(code: str, rows: pd.DataFrame) -> str:
    """Name the commit of a paired difference where the rows of ours are of others."""
    shown = set(rows[(rows.method == OURS) & (rows.score == "d2")].code)
    return "" if set(code.split(", ")) <= shown else f", at {code or 'an unknown commit'}"
