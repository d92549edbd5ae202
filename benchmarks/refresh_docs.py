"""Put the tables of finished studies into docs/results.md and docs/network.md.

    python benchmarks/refresh_docs.py

A table of a document stands between ``<!-- table NAME -->`` and ``<!-- end -->``; NAME is a file
of ``benchmarks/results`` and a heading in it, as ``truth.md: Every score``, one of the tables
made here from ``truth.csv``, or ``network:`` and a data set of ``network.json`` or ``shuffled``,
which ``benchmarks/network.py --out`` writes. The text around the tables is written by hand: read
it again when a number has moved.
"""

import json
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

from suite.environments import BENCHMARKS
from suite.written import RESULTS

DOCUMENTS = [BENCHMARKS.parent / "docs" / name for name in ("results.md", "network.md")]
#: Rows of the tables made here: method of the study, words of the document.
SIMULATED = {
    "graphsci": "`imputed`",
    "graphsci@imputed_median": "`imputed_median`",
    "magic-sqrt": "MAGIC, square roots",
    "scimpute": "scImpute",
    "dca-zinb": "DCA, zinb",
    "nothing": "counts",
}
SHUFFLED = ("shuffled_correlation", "shuffled_given_depth")
SHUFFLED_NAMES = {"graphsci": "**graphsci**, `denoised`", "nothing": "counts"}
SIMULATIONS = ("sim_t2", "sim_t6", "sim_t2_hard", "sim_t6_hard")
KNOWN = ("STRING", "CORUM", "TRRUST")
MARKED = re.compile(r"(<!-- table (?P<name>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Replace every marked table, and say which changed."""
    for document in DOCUMENTS:
        before = document.read_text()
        after = MARKED.sub(lambda found: found[1] + table(found["name"]) + "\n" + found[3], before)
        document.write_text(after)
        names = [found["name"] for found in MARKED.finditer(after)]
        state = "changed" if after != before else "as they were"
        print(f"{document}: {len(names)} tables, {state}")


def table(name: str) -> str:
    """Return a table by the name in its mark."""
    if name in MADE:
        return MADE[name](pd.read_csv(RESULTS / "truth.csv"))
    file, _, heading = name.partition(": ")
    if file == "network":
        found = json.loads((RESULTS / "network.json").read_text())
        return shuffled_edges(found) if heading == "shuffled" else network(found[heading])
    parts = (
        (RESULTS / file).read_text().split("\n## ") if heading else [(RESULTS / file).read_text()]
    )
    chosen = [part for part in parts if part.removeprefix("## ").startswith(heading)]
    if not chosen:
        raise SystemExit(f"{RESULTS / file} has no heading {heading!r}, asked for by a document.")
    return "\n".join(line for line in chosen[0].split("\n") if line.startswith("|"))


def simulations(truth: pd.DataFrame) -> str:
    """Return mean absolute errors of seed 0, over all entries and over dropped ones."""
    part = truth[(truth.kind == "simulation") & (truth.seed == 0)]
    values = part.pivot_table(index="method", columns=["dataset", "score"], values="value")
    lines = []
    for method, words in SIMULATED.items():
        row = [values.loc[method, (d, s)] for d in SIMULATIONS for s in ("mae_all", "mae_dropped")]
        lines.append(f"| {words} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
    names = [f"{name.replace('_', '-')}: all | dropped" for name in SIMULATIONS]
    return "\n".join([f"| | {' | '.join(names)} |", "|---" * 9 + "|", *lines])


def cost(truth: pd.DataFrame) -> str:
    """Return time, memory and D2 on pbmc3k, seed 0."""
    part = truth[(truth.kind == "held-out") & (truth.dataset == "pbmc3k") & (truth.seed == 0)]
    values = part.pivot_table(index="method", columns="score", values="value")
    values = values.dropna(subset=["cpu_s", "d2"]).sort_values("d2", ascending=False)
    lines = ["| method | wall s | CPU s | peak MiB | D2 |", "|---|---|---|---|---|"]
    for method, row in values.iterrows():
        if row.cpu_s >= 1:  # what takes less is a control
            lines.append(
                f"| {method} | {row.wall_s:.0f} | {row.cpu_s:.0f} | {row.peak_mib:,.0f} "
                f"| {row.d2:.3f} |"
            )
    return "\n".join(lines)


def network(study: dict[str, Any]) -> str:
    """Return how every network compares with the known ones, on one data set."""
    head, rows = ["network"], {label: [label] for label in study["STRING"]["by size"]}
    for known in KNOWN:
        by_size, positive = study[known]["by size"], study[known]["positive"]
        head += [f"{known} precision at {by_size['random']['n_edges']:.0f}", "positive only"]
        head += [f"{known} {name}" for name in ("auprc", "early", "odds")]
        for label, row in by_size.items():
            rows[label] += [f"{row['precision']:.3f}", f"{positive[label]['precision']:.3f}"]
            rows[label] += [
                f"{row['auprc']:.4f}",
                f"{row['early_precision']:.3f}",
                f"{row['odds_ratio']:.1f}",
            ]
    table = [head, ["---"] * len(head), *rows.values()]
    return "\n".join(f"| {' | '.join(row)} |" for row in table)


def shuffled_edges(studies: dict[str, Any]) -> str:
    """Return what shuffled genes get at each stated rate: edges, share, implied; largest implied.

    Means over the draws.
    """
    found = {
        name: [draw["rates"] for draw in study["shuffled"]]
        for name, study in studies.items()
        if _is_set(study)
    }
    lines = [f"| stated | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for rate in next(iter(found.values()))[0]:
        cells = []
        for draws in found.values():
            rows = pd.DataFrame([draw[rate] for draw in draws])
            edges, share, implied = rows[["edges", "share", "implied"]].mean()
            most = rows["implied"].max()
            cells.append(f"{edges:,.0f}, {share:.3f}, {implied:.3f} ({most:.3f})")
        lines.append(f"| {rate} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _is_set(study: Any) -> bool:
    return isinstance(study, dict) and "shuffled" in study


def shuffled_genes(rows: pd.DataFrame) -> str:
    """Correlation of shuffled genes, as it is and given depth: methods that ran on every set."""
    rows = rows[(rows.kind == "shuffled") & rows.score.isin(SHUFFLED)]
    means = rows.groupby(["method", "dataset", "score"]).value.mean().unstack(["dataset", "score"])
    means = means.dropna().sort_index(axis=1)
    given = means.xs(SHUFFLED[1], axis=1, level=1).mean(axis=1)
    datasets = sorted(rows.dataset.unique())
    table = [["", *datasets], ["---"] * (len(datasets) + 1)]
    for method in given[given > 1e-6].sort_values().index:
        cells = [
            [f"{means.loc[method, (name, score)]:.3f}" for score in SHUFFLED] for name in datasets
        ]
        table.append([SHUFFLED_NAMES.get(method, method), *(", ".join(pair) for pair in cells)])
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


MADE: dict[str, Callable[[pd.DataFrame], str]] = {
    "simulations": simulations,
    "cost": cost,
    "shuffled genes": shuffled_genes,
}


if __name__ == "__main__":
    main()
