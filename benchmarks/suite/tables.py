"""Tidy CSV and Markdown of finished records."""

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from graphsci.evaluation import study
from suite import environments, records
from suite.environments import BENCHMARKS
from suite.methods import METHODS
from suite.records import Record

RESULTS = BENCHMARKS / "results"
OURS, OURS_MEAN = "graphsci", "graphsci-mean"
#: A difference is told from 0 at so many standard errors.
CLEAR = 2.0


class Score(NamedTuple):
    """How a score is shown."""

    title: str
    direction: Literal["higher", "lower", "nominal"]
    nominal: float = np.nan
    digits: int = 3


#: Scores that get a table, in order: one row a method, one column a data set.
SCORES = {
    "d2": Score("D2 of held-out molecules, best of three scales", "higher"),
    "d2_rare": Score("D2 of the half of the genes with the fewest molecules", "higher"),
    "d2_as_is": Score("D2 of held-out molecules, as returned", "higher"),
    "shuffled_correlation": Score("Mean absolute correlation of 200 shuffled genes", "lower"),
    "shuffled_given_depth": Score("The same, given the depth of the cells", "lower"),
    "mae_all": Score("Simulations: mean absolute error, all entries", "lower"),
    "mae_dropped": Score("Simulations: mean absolute error, dropped entries", "lower"),
    "ari": Score("Adjusted Rand index of K-means on t-SNE", "higher"),
    "clustering_accuracy": Score("Clustering accuracy", "higher"),
    "silhouette_labels": Score("Silhouette of the known labels on t-SNE", "higher"),
    "deep_log_error": Score("Depth: mean absolute log error against the deep profile", "lower"),
    "deep_log_error_dropped": Score("Depth: the same where the shallow count is 0", "lower"),
    "deep_log_error_absent": Score("Depth: the same where the deep profile is 0", "lower"),
    "deep_pearson_gene": Score("Depth: median correlation per gene", "higher"),
    "deep_pearson_cell": Score("Depth: median correlation per cell", "higher"),
    "bulk_auc": Score("Bulk: AUC for genes that differ in bulk", "higher"),
    "bulk_top_overlap": Score("Bulk: overlap of the 500 most different genes", "higher"),
    "bulk_fold_change": Score("Bulk: rank correlation of log fold changes", "higher"),
    "bulk_level": Score("Bulk: rank correlation of mean levels", "higher"),
    "recovery_per_gene": Score("Noisy bulk: median correlation per gene", "higher"),
    "recovery_per_sample": Score("Noisy bulk: median correlation per sample", "higher"),
    "fish_correlation_error": Score("smFISH: mean absolute error of gene-gene r", "lower"),
    "fish_cv_error": Score("smFISH: error of coefficients of variation", "lower"),
    "protein_rna": Score("Median rank correlation of genes with their proteins", "higher"),
    "other_species_share": Score("Share of expression in the other species' genes", "lower"),
    "shuffled_leak": Score(
        "Shuffled genes between two known groups of cells: share with p < .05", "nominal", 0.05
    ),
    "halves_mean": Score("Random halves: mean share of genes with p < .05", "nominal", 0.05),
    "halves_sd": Score("Random halves: its standard deviation over 20 divisions", "lower"),
    "coverage": Score("Coverage of 90 % predictive intervals", "nominal", 0.90),
    "cpu_s": Score("CPU seconds, on a shared machine", "lower", digits=0),
    "peak_mib": Score("Peak memory of the process tree, MiB", "lower", digits=0),
}


GAP_COLUMNS = ("peer", "difference", "standard_error", "z", "seeds")


def written(name: str) -> bool:
    """Whether a study's table is there."""
    return (RESULTS / f"{name}.csv").is_file()


# --- truth ------------------------------------------------------------------------------


def write_truth(found: list[Record]) -> None:
    """Write ``truth.csv``, ``truth_failed.csv``, ``truth_paired.csv`` and ``truth.md``.

    Rows of an earlier ``truth.csv`` whose run is not among the records stay, with their dates.
    """
    RESULTS.mkdir(exist_ok=True)
    new = tidy(found)
    table = with_earlier(new, RESULTS / "truth.csv")
    table.to_csv(RESULTS / "truth.csv", index=False, float_format="%.6g")
    failed = with_earlier_failures(found, RESULTS / "truth_failed.csv")
    failed.to_csv(RESULTS / "truth_failed.csv", index=False)
    text = ["# Study `truth`", "", heading(found, "truth") + _earlier(table[len(new) :]), ""]
    paired = RESULTS / "truth_paired.csv"
    gaps = paired_gaps(table, found, paired)
    gaps.to_csv(paired, float_format="%.6g")
    text += [against_best(table, gaps), "", summary(table), "", over_seeds(table), ""]
    for name, score in SCORES.items():
        part = table[table.score == name]
        if len(part):
            text += [f"## {score.title}", "", pivot(part, score), ""]
    text += ["## Did not finish", "", *_failures(failed), ""]
    (RESULTS / "truth.md").write_text("\n".join(text))
    print(f"written: {RESULTS / 'truth.csv'}, {RESULTS / 'truth.md'}")


def with_earlier(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Add the rows of a written table whose runs the new one lacks."""
    if not path.is_file():
        return table
    earlier = _rows_of_other_runs(path, table[["kind", "dataset", "method", "seed"]])
    earlier["value"] = pd.to_numeric(earlier.value)
    return pd.concat([table, earlier], ignore_index=True)


def with_earlier_failures(found: list[Record], path: Path) -> pd.DataFrame:
    """Return what failed, with the rows of a written table whose runs were not tried again."""
    tried = pd.DataFrame(
        [(r.case, r.method, r.seed, r.failed) for r in found],
        columns=["case", "method", "seed", "reason"],
    )
    failed = tried[tried.reason != ""]
    if not path.is_file():
        return failed
    earlier = _rows_of_other_runs(path, tried[["case", "method", "seed"]])
    return pd.concat([failed, earlier], ignore_index=True)


def _rows_of_other_runs(path: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Read a written table without the rows of ``runs``, one a row, by its columns."""
    earlier = pd.read_csv(path, keep_default_na=False)
    known = pd.MultiIndex.from_frame(runs)
    return earlier[~pd.MultiIndex.from_frame(earlier[list(runs)]).isin(known)].copy()


def _earlier(rows: pd.DataFrame) -> str:
    """Say which numbers an earlier run of the study measured."""
    if rows.empty:
        return ""
    methods = [name for name in METHODS if name in set(rows.method)]
    days = " and ".join(sorted(set(rows.date)))
    return f" Of {days}, on the same machine: some rows of {', '.join(methods)}, dated in the CSV."


def tidy(found: Iterable[Record]) -> pd.DataFrame:
    """Return one row for each score of each run; ``score@variant`` is a row of the variant."""
    rows = [
        {
            "kind": r.kind,
            "dataset": r.dataset,
            "cells": r.shape[0],
            "genes": r.shape[1],
            "method": "@".join([r.method, *name.split("@")[1:]]),
            "seed": r.seed,
            "score": name.split("@")[0],
            "value": value,
            "code": r.code,
            "date": r.made,
        }
        for r in found
        for name, value in {**r.scores, **r.cost}.items()
    ]
    columns = ["kind", "dataset", "cells", "genes", "method", "seed", "score", "value"]
    return pd.DataFrame(rows, columns=[*columns, "code", "date"])


def summary(table: pd.DataFrame) -> str:
    """Return ours beside the best peer and the counts: one row a score and estimate of ours."""
    lines = [
        "## Every score: ours, the best peer, the counts as they came",
        "",
        "On the seeds that peers were run with: another seed is another split or another simulated "
        "data set. **Bold**: ours is at least as good as every peer.",
        "",
        "| score | ours | first on | data set: ours / best peer / counts |",
        "|---|---|---|---|",
    ]
    for name, score in SCORES.items():
        part = table[table.score == name]
        if score.title.startswith(("CPU", "Peak", "Coverage")) or not len(part):
            continue
        part = part.assign(column=_columns(part))
        runs = pd.MultiIndex.from_frame(part[["column", "seed"]])
        part = part[runs.isin(runs[part.method.map(_is_peer).to_numpy()])]
        means = part.groupby(["method", "column"]).value.mean()
        ours = {m for m in part.method if m.split("@")[0] in (OURS, OURS_MEAN)}
        for method in sorted(ours, key=_place):
            places = [_beside_best(means, method, c, score) for c in dict.fromkeys(part.column)]
            places = [place for place in places if place]
            first = sum(place.startswith("**") for place in places)
            if places:
                lines.append(
                    f"| {score.title} | {method.replace('@', ', ')} "
                    f"| {first} of {len(places)} | {'; '.join(places)} |"
                )
    return "\n".join(lines)


def over_seeds(table: pd.DataFrame) -> str:
    """Return ours over its seeds on every truth but held-out molecules, one row a score."""
    lines = [
        "## Other truths: ours over its seeds",
        "",
        "Mean ± standard deviation (seeds). Another seed trains another model on the same data; of "
        "the hard simulations and of the noisy bulk it is also another data set.",
        "",
        "| score | ours | data sets |",
        "|---|---|---|",
    ]
    other = table[(table.kind != "held-out") & table.method.str.startswith(OURS)]
    for name, score in SCORES.items():
        part = other[other.score == name]
        if score.title.startswith(("CPU", "Peak")) or not len(part):
            continue
        cells = part.assign(column=_columns(part)).groupby(["method", "column"]).value
        cells = cells.agg(["mean", "std", "count"])
        for method in sorted(set(part.method), key=_place):
            here = cells.xs(method, level="method")
            said = [
                f"{column} {row['mean']:.3f} ± {row['std']:.3f} ({row['count']:.0f})"
                for column, row in here[here["count"] > 1].iterrows()
            ]
            if said:
                label = method.replace("@", ", ")
                lines.append(f"| {score.title} | {label} | {'; '.join(said)} |")
    return "\n".join(lines)


def _beside_best(means: pd.Series, method: str, column: str, score: Score) -> str:
    """Return ours, the best peer and the counts on one data set; nothing if one is missing."""
    here = means.xs(column, level="column")
    peers = [name for name in here.index if _is_peer(name)]
    if not peers or method not in here:
        return ""

    def badness(name: str) -> float:
        value = float(here[name])
        if score.direction == "nominal":
            return abs(value - score.nominal)
        return -value if score.direction == "higher" else value

    best = min(peers, key=badness)
    ours = f"{column} {here[method]:.3f}"
    if badness(method) <= badness(best):
        ours = f"**{ours}**"
    counts = f"{here['nothing']:.3f}" if "nothing" in here else "-"
    return f"{ours} / {here[best]:.3f} {best} / {counts}"


def pivot(part: pd.DataFrame, score: Score) -> str:
    """Return a Markdown table of one score: mean over seeds, and standard deviation if several.

    The best of ours and the peers is bold; controls are never.
    """
    part = part.assign(column=_columns(part))
    cells = part.groupby(["method", "column"]).value.agg(["mean", "std", "count"])
    columns = list(dict.fromkeys(part.column))
    methods = sorted(set(part.method), key=_place)
    best = {column: _best(cells, methods, column, score) for column in columns}
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method in methods:
        values = [_cell(cells, method, column, score, best[column]) for column in columns]
        label = f"{method} (control)" if _is_control(method) else method.replace("@", ", ")
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines)


def _place(method: str) -> tuple[int, str]:
    """Order of a row: that of :data:`METHODS`, variants below their method."""
    name = method.split("@")[0]
    return list(METHODS).index(name), method


def _is_control(method: str) -> bool:
    return METHODS[method.split("@")[0]].kind == "control"


def _is_peer(method: str) -> bool:
    """Whether a row is a peer's own; a variant of its estimate is none."""
    return method in METHODS and METHODS[method].kind == "peer"


def _columns(part: pd.DataFrame) -> pd.Series:
    """Return the data set of each row, with the kind where a data set has several."""
    several = part.groupby("dataset").kind.nunique()
    double = part.dataset.map(several) > 1
    return part.dataset.where(~double, part.kind + "/" + part.dataset)


def _best(cells: pd.DataFrame, methods: list[str], column: str, score: Score) -> float:
    """Return the best mean of a column among ours and the peers."""
    values = [
        cells.loc[(method, column), "mean"]
        for method in methods
        if not _is_control(method) and (method, column) in cells.index
    ]
    if not values or score.title.startswith(("CPU", "Peak")):
        return np.nan
    if score.direction == "nominal":
        return min(values, key=lambda value: abs(value - score.nominal))
    return max(values) if score.direction == "higher" else min(values)


def _cell(cells: pd.DataFrame, method: str, column: str, score: Score, best: float) -> str:
    if (method, column) not in cells.index:
        return "-"
    mean, sd, n = cells.loc[(method, column)]
    text = f"{mean:,.{score.digits}f}"
    if mean == best and not _is_control(method):
        text = f"**{text}**"
    return f"{text} ± {sd:.{score.digits}f} ({n:.0f})" if n > 1 and score.digits else text


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
    gaps = pd.DataFrame(columns=GAP_COLUMNS, index=pd.Index([], name="dataset"))
    if path.is_file():
        gaps = pd.read_csv(path, index_col="dataset")
    runs = {
        (r.dataset, r.method, r.seed): r
        for r in found
        if r.kind == "held-out" and "held_out" in r.judged
    }
    for dataset, rows in table[table.kind == "held-out"].groupby("dataset"):
        best = _best_peer(rows)
        if dataset in gaps.index and gaps.loc[dataset, "peer"] != best:
            gaps = gaps.drop(index=dataset)
        losses = [
            [_losses(runs.get((dataset, name, seed))) for name in (OURS, best)]
            for seed in sorted(set(rows.seed))
        ]
        whole = [pair for pair in losses if pair[0] is not None and pair[1] is not None]
        if whole:
            gap = study.paired(*map(list, zip(*whole, strict=True)))
            gaps.loc[dataset] = [best, gap.difference, gap.standard_error, gap.z, len(whole)]
    return gaps.sort_index()


def against_best(table: pd.DataFrame, gaps: pd.DataFrame) -> str:
    """Return how ours compares with the best peer on held-out molecules; see ``paired_gaps``."""
    lines = [
        "## Held-out molecules: ours and the best peer of each data set",
        "",
        "A peer is any method that is neither ours nor a control. The difference is paired over "
        "cells, with its SE, over the seeds whose cells were at hand (their number in brackets; "
        "truth_paired.csv); `-` where they never were: there over the seeds that both have.",
        "",
        "| data set | cells | D2 ours (seeds) | best peer | its D2 | ratio | deviance per entry, "
        "ours - peer | in SE | D2 of pooling, of gene means, both with own counts (controls) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for dataset, rows in table[table.kind == "held-out"].groupby("dataset"):
        if row := _against_best(str(dataset), rows, gaps):
            lines.append(row)
    return "\n".join(lines)


def _best_peer(rows: pd.DataFrame) -> str | None:
    """Return the peer that explains most, or None if ours or every peer is missing."""
    explained = rows[rows.score == "d2"].groupby("method").value.mean()
    peers = [name for name in explained.index if _is_peer(name)]
    if OURS not in explained or not peers:
        return None
    return max(peers, key=lambda name: float(explained[name]))


def _against_best(dataset: str, rows: pd.DataFrame, gaps: pd.DataFrame) -> str:
    """Return one row of that table, or nothing if ours or every peer is missing."""
    best = _best_peer(rows)
    if best is None:
        return ""
    explained = rows[rows.score == "d2"].groupby("method").value.mean()
    if dataset in gaps.index:
        gap = gaps.loc[dataset]
        error = f"{gap['standard_error']:.1g} ({gap['seeds']:.0f})"
        difference = f"{gap['difference']:+.2g} ± {error} | {gap['z']:+.1f}"
    else:
        deviance = rows[rows.score == "deviance"].pivot_table(
            index="seed", columns="method", values="value"
        )
        shared = deviance[[OURS, best]].dropna()
        difference = f"{(shared[OURS] - shared[best]).mean():+.2g} | -" if len(shared) else "- | -"
    own, theirs = float(explained[OURS]), float(explained[best])
    ratio = f"{own / theirs:.2f}" if theirs > 0 else "-"
    names = ("neighbour_pooling_posterior", "gene_mean_posterior")
    controls = [f"{explained[n]:.4f}" if n in explained else "-" for n in names]
    n_seeds = rows[rows.method == OURS].seed.nunique()
    return (
        f"| {dataset} | {rows.cells.max():,} | {own:.4f} ({n_seeds}) "
        f"| {best} | {theirs:.4f} | {ratio} | {difference} "
        f"| {', '.join(controls)} |"
    )


def _losses(record: Record | None) -> np.ndarray | None:
    return None if record is None else records.per_cell(record, "held_out")


def _failures(table: pd.DataFrame) -> list[str]:
    failed = [f"- {r.case}, {r.method}, seed {r.seed}: {r.reason}" for r in table.itertuples()]
    absent = [
        f"- {name}: not installed"
        for name, method in METHODS.items()
        if not environments.installed(method.environment)
    ]
    return [*failed, *absent] or ["Every run that was started finished."]


def heading(found: Iterable[Record], name: str) -> str:
    """Say when, where and how the numbers came about."""
    runs = list(found)
    codes = sorted({r.code for r in runs if METHODS[r.method].kind == "ours"})
    dates = sorted({r.made for r in runs})
    return (
        f"Made by `python benchmarks/run.py {name} --data DIR` on {' to '.join(_ends(dates))}; "
        f"graphsci at commit {', '.join(codes) or '-'}; {machine()} "
        f"{environments.named_versions()}. `-`: not run. Means over seeds; ± is the standard "
        "deviation over seeds, with their number, where there are several. **Bold**: the best of "
        "ours and the peers; controls are never bold."
    )


def _ends(values: list[str]) -> list[str]:
    return values if len(values) < 2 else [values[0], values[-1]]


def machine() -> str:
    """Name the machine."""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}), one thread a method, a machine shared "
        f"with other work; Python {platform.python_version()},"
    )


def markdown(table: pd.DataFrame, digits: int = 3) -> str:
    """Return any small table as Markdown."""

    def text(value: object) -> str:
        if isinstance(value, float):
            return "-" if np.isnan(value) else f"{value:.{digits}f}"
        return str(value)

    lines = [f"| {' | '.join(map(str, table.columns))} |", "|---" * len(table.columns) + "|"]
    lines += [f"| {' | '.join(map(text, row))} |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def write(name: str, table: pd.DataFrame, text: list[str]) -> Path:
    """Write a study's tidy CSV and its Markdown."""
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / f"{name}.csv", index=False, float_format="%.6g")
    path = RESULTS / f"{name}.md"
    path.write_text("\n".join(text) + "\n")
    print(f"written: {path.with_suffix('.csv')}, {path}")
    return path
