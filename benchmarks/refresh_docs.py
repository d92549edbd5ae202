"""Put the tables of finished studies into docs/results.md, between their marks.

    python benchmarks/refresh_docs.py

A table of the document stands between ``<!-- table NAME -->`` and ``<!-- end -->``; NAME is a file
of ``benchmarks/results`` and a heading in it, as ``truth.md: Every score``, or one of the tables
made here from ``truth.csv``. The text around the tables is written by hand: read it again when
a number has moved.
"""

import re
from collections.abc import Callable

import pandas as pd

from suite.environments import BENCHMARKS
from suite.tables import RESULTS

DOCUMENT = BENCHMARKS.parent / "docs" / "results.md"
#: Rows of the tables made here: method of the study, words of the document.
SIMULATED = {
    "graphsci": "`imputed`",
    "graphsci@imputed_median": "`imputed_median`",
    "magic-sqrt": "MAGIC, square roots",
    "scimpute": "scImpute",
    "dca-zinb": "DCA, zinb",
    "nothing": "counts",
}
SIMULATIONS = ("sim_t2", "sim_t6", "sim_t2_hard", "sim_t6_hard")
MARKED = re.compile(r"(<!-- table (?P<name>.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Replace every marked table, and say which changed."""
    before = DOCUMENT.read_text()
    after = MARKED.sub(lambda found: found[1] + table(found["name"]) + "\n" + found[3], before)
    DOCUMENT.write_text(after)
    names = [found["name"] for found in MARKED.finditer(after)]
    print(f"{DOCUMENT}: {len(names)} tables, {'changed' if after != before else 'as they were'}")


def table(name: str) -> str:
    """Return a table by the name in its mark."""
    if name in MADE:
        return MADE[name](pd.read_csv(RESULTS / "truth.csv"))
    file, _, heading = name.partition(": ")
    parts = (
        (RESULTS / file).read_text().split("\n## ") if heading else [(RESULTS / file).read_text()]
    )
    chosen = [part for part in parts if part.removeprefix("## ").startswith(heading)]
    if not chosen:
        raise SystemExit(f"{RESULTS / file} has no heading {heading!r}, which {DOCUMENT} asks for.")
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


MADE: dict[str, Callable[[pd.DataFrame], str]] = {"simulations": simulations, "cost": cost}


if __name__ == "__main__":
    main()
