"""Tidy CSV and Markdown of finished records."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from suite import held_out, provenance, written
from suite.judges import EMBEDDING_SEEDS, MANY_CELLS, SEEDS_OF_MANY_CELLS
from suite.methods import METHODS, OURS, OURS_MEAN, is_control, is_peer
from suite.records import Record


class Score(NamedTuple):
    """How a score is shown."""

    title: str
    direction: Literal["higher", "lower", "nominal"]
    nominal: float = np.nan
    digits: int = 3
    spread: str = ""  #: score with its standard deviation inside one run, shown in brackets


#: Scores that get a table, in order: one row a method, one column a data set.
SCORES = {
    "d2": Score("D2 of held-out molecules, best of three scales", "higher"),
    "d2_rare": Score("D2 of the half of the genes with the fewest molecules", "higher"),
    "d2_as_is": Score("D2 of held-out molecules, as returned", "higher"),
    "shuffled_correlation": Score("Mean absolute correlation of 200 shuffled genes", "lower"),
    "shuffled_given_depth": Score("The same, given the depth of the cells", "lower"),
    "mae_all": Score("Simulations: mean absolute error, all entries", "lower"),
    "mae_dropped": Score("Simulations: mean absolute error, dropped entries", "lower"),
    "ari": Score("Adjusted Rand index of K-means on t-SNE", "higher", spread="ari_sd"),
    "clustering_accuracy": Score("Clustering accuracy", "higher"),
    "silhouette_labels": Score("Silhouette of the known labels on t-SNE", "higher"),
    "deep_log_error": Score("Depth: mean absolute log error against the deep profile", "lower"),
    "deep_log_error_dropped": Score("Depth: the same where the shallow count is 0", "lower"),
    "deep_log_error_absent": Score("Depth: the same where the deep profile is 0", "lower"),
    "deep_pearson_gene": Score("Depth: median correlation per gene", "higher"),
    "deep_pearson_cell": Score("Depth: median correlation per cell", "higher"),
    "bulk_auc": Score("Bulk: AUC for genes that differ in bulk", "higher"),
    "bulk_accuracy": Score("Bulk: accuracy of the genes called different", "higher"),
    "bulk_f_score": Score("Bulk: F-score of the genes called different", "higher"),
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


# --- truth ------------------------------------------------------------------------------


def write_truth(found: list[Record]) -> bool:
    """Write ``truth.csv``, ``truth_failed.csv``, ``truth_paired.csv`` and ``truth.md``.

    Rows of an earlier ``truth.csv`` whose run is not among the records stay, with their dates;
    without records the Markdown is written again from the CSV files. Returns whether a file
    changed.
    """
    folder = written.RESULTS
    table = _in_order(with_earlier_runs(found))
    gaps = held_out.paired_gaps(table, found, folder / "truth_paired.csv")
    changed = [
        written.put_table(folder / "truth.csv", table),
        written.put_table(folder / "truth_failed.csv", failures(found, folder)),
        written.put_table(folder / "truth_paired.csv", gaps.reset_index()),
    ]
    return written.put_text("truth", _text(folder)) or any(changed)


def _text(folder: Path) -> list[str]:
    """Return the lines of ``truth.md``, from the CSV files alone."""
    table = written.read(folder / "truth.csv")
    gaps = written.read(folder / "truth_paired.csv").set_index("dataset")
    text = ["# Study `truth`", "", f"{MADE_BY} {provenance.made_by(table)}. {NOTATION}", ""]
    text += [held_out.against_best(table, gaps), "", summary(table), "", over_seeds(table), ""]
    for name, score in SCORES.items():
        part = table[table.score == name]
        if len(part):
            text += [f"## {score.title}", "", *([EMBEDDINGS_SHOWN, ""] if score.spread else [])]
            text += [pivot(part, score, table[table.score == score.spread]), ""]
    return [*text, "## Did not finish", "", *_listed(written.read(folder / "truth_failed.csv"))]


def with_earlier_runs(found: list[Record]) -> pd.DataFrame:
    """Return the rows of all runs: of the records, and of those in ``truth.csv`` that are not.

    A run takes the place of an earlier one with all its scores and estimates, even if it failed;
    of two the one of the later day counts.
    """
    path = written.RESULTS / "truth.csv"
    if path.is_file():
        earlier = written.read(path)
        days = earlier.assign(method=earlier.method.str.split("@").str[0])
        days = days.groupby(list(written.RUN)).date.max().to_dict()
        found = [r for r in found if r.made >= days.get((r.kind, r.dataset, r.method, r.seed), "")]
    made = [(r.kind, r.dataset, r.method, r.seed) for r in found]
    tried = pd.DataFrame(made, columns=[*written.RUN])
    return written.with_earlier(tidy(found), path, tried=tried)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Put rows in an order that does not depend on which run was made last."""
    place = {name: i for i, name in enumerate(METHODS)}
    by = table[["kind", "dataset", "seed", "score"]].assign(
        base=table.method.str.split("@").str[0].map(place), method=table.method
    )
    by = by[["kind", "dataset", "base", "method", "seed", "score"]]
    return table.loc[by.sort_values(list(by), kind="stable").index].reset_index(drop=True)


#: Kinds of which another seed is another data set: methods are compared on the same seeds.
DATA_BY_SEED = ("simulation", "bulk")
#: What a score on clusters is the mean of.
EMBEDDINGS = (
    f"Scores of clusters are means over {EMBEDDING_SEEDS} seeds of t-SNE and K-means, or "
    f"{SEEDS_OF_MANY_CELLS} above {MANY_CELLS:,} cells; the sd of an ARI is that over these seeds, "
    "on one estimate."
)
EMBEDDINGS_SHOWN = f"In square brackets: sd over embeddings. {EMBEDDINGS}"
MADE_BY = "Made by `python benchmarks/run.py truth --data DIR` on"
NOTATION = (
    "Every row's commit, day, versions and machine are in truth.csv. `-`: not run. Means over "
    "seeds; ± is the standard deviation over seeds, with their number, where there are several; "
    "of simulations and noisy bulk, the seeds that all methods of a column share. "
    "**Bold**: the best of ours and the peers; controls are never bold."
)


def failures(found: list[Record], folder: Path) -> pd.DataFrame:
    """Return what failed, with the rows of a written table whose runs were not tried again."""
    by = ["case", "method", "seed"]
    runs = [(r.case, r.method, r.seed, r.failed) for r in found]
    tried = pd.DataFrame(runs, columns=[*by, "reason"])
    failed = tried[tried.reason != ""]
    return written.with_earlier(failed, folder / "truth_failed.csv", by=by, tried=tried)


def _listed(failed: pd.DataFrame) -> list[str]:
    """Return a line for each failure."""
    lines = [f"- {r.case}, {r.method}, seed {r.seed}: {r.reason}" for r in failed.itertuples()]
    return lines or ["Every run that was started finished."]


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
            "versions": r.versions,
            "machine": r.machine,
        }
        for r in found
        for name, value in {**r.scores, **r.cost}.items()
    ]
    columns = ["kind", "dataset", "cells", "genes", "method", "seed", "score", "value"]
    return pd.DataFrame(rows, columns=[*columns, *provenance.COLUMNS])


def summary(table: pd.DataFrame) -> str:
    """Return ours beside the best peer and the counts: one row a score and estimate of ours."""
    lines = [
        "## Every score: ours, the best peer, the counts as they came",
        "",
        "On the seeds that peers were run with, of simulations and noisy bulk on those that all "
        "methods share: another seed is another split or another data set. **Bold**: ours is at "
        "least as good as every peer. " + EMBEDDINGS,
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
        part = shared_seeds(part[runs.isin(runs[part.method.map(is_peer).to_numpy()])])
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
        "the simulations and of the noisy bulk it is also another data set, and the methods that "
        "were run on several of these stand beside ours.",
        "",
        "| score | method | data sets |",
        "|---|---|---|",
    ]
    other = table[(table.kind != "held-out")]
    other = other[other.method.str.startswith(OURS) | other.kind.isin(DATA_BY_SEED)]
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
    variant = method.partition("@")[2]  # a peer's estimate of the same kind is a rival too
    peers = [
        name
        for name in here.index
        if is_peer(name.partition("@")[0]) and name.partition("@")[2] in ("", variant)
    ]
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


def pivot(part: pd.DataFrame, score: Score, spread: pd.DataFrame | None = None) -> str:
    """Return a Markdown table of one score: mean over seeds, and standard deviation if several.

    The best of ours and the peers is bold; controls are never. ``spread`` has the rows of the
    score's standard deviation inside a run, shown in square brackets.
    """
    part = shared_seeds(part.assign(column=_columns(part)))
    cells = part.groupby(["method", "column"]).value.agg(["mean", "std", "count"])
    columns = list(dict.fromkeys(part.column))
    methods = sorted(set(part.method), key=_place)
    best = {column: _best(cells, methods, column, score) for column in columns}
    inside = _inside(spread, part)
    lines = [f"| method | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for method in methods:
        values = [
            _cell(cells, method, column, score, best[column]) + inside.get((method, column), "")
            for column in columns
        ]
        label = f"{method} (control)" if is_control(method) else method.replace("@", ", ")
        lines.append(f"| {label} | {' | '.join(values)} |")
    return "\n".join(lines)


def shared_seeds(part: pd.DataFrame) -> pd.DataFrame:
    """Leave, where a seed is a data set, the seeds that all methods of a column were run with."""
    kept = []
    for _, rows in part.groupby("column", sort=False):
        runs = rows.groupby("seed").method.nunique()
        shared = runs.index[runs == rows.method.nunique()]
        by_seed = rows.kind.iloc[0] in DATA_BY_SEED and len(shared)
        kept.append(rows[rows.seed.isin(shared)] if by_seed else rows)
    return pd.concat(kept) if kept else part


def _inside(spread: pd.DataFrame | None, part: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Return the mean standard deviation inside the runs of each cell of a table, in brackets."""
    if spread is None or spread.empty:
        return {}
    shown = pd.MultiIndex.from_frame(part[[*written.RUN]])
    spread = spread[pd.MultiIndex.from_frame(spread[[*written.RUN]]).isin(shown)]
    means = spread.assign(column=_columns(spread)).groupby(["method", "column"]).value.mean()
    return {cell: f" [{value:.3f}]" for cell, value in means.items()}


def _place(method: str) -> tuple[int, str]:
    """Order of a row: that of :data:`METHODS`, variants below their method."""
    name = method.split("@")[0]
    return list(METHODS).index(name), method


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
        if not is_control(method) and (method, column) in cells.index
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
    if mean == best and not is_control(method):
        text = f"**{text}**"
    return f"{text} ± {sd:.{score.digits}f} ({n:.0f})" if n > 1 and score.digits else text
