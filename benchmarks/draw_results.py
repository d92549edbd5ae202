"""Draw held-out molecules of every method: ``docs/images/held-out.png``, from ``truth.csv``.

python benchmarks/draw_results.py
"""

from typing import NamedTuple

import matplotlib
import numpy as np
import pandas as pd

from graphsci.pl._style import BLUE, GREEN, GREY, GROUP_COLORS, INK, ORANGE, RED, STYLE
from suite.environments import BENCHMARKS
from suite.written import RESULTS

matplotlib.use("agg")
from matplotlib import pyplot as plt

PICTURE = BENCHMARKS.parent / "docs" / "images" / "held-out.png"
OURS = "graphsci"
#: What is left of this is drawn at the edge.
LEFT = -0.1


class Look(NamedTuple):
    """How a method is drawn; of its variants the better one is."""

    variants: tuple[str, ...]
    color: str
    marker: str


LOOKS = {
    "MAGIC": Look(("magic-sqrt", "magic-log"), RED, "o"),
    "SAVER": Look(("saver",), GREEN, "s"),
    "scVI": Look(("scvi-nb", "scvi-zinb"), ORANGE, "D"),
    "DCA": Look(("dca-nb", "dca-zinb"), GROUP_COLORS[4], "^"),
    "kNN-smoothing": Look(("knn-smoothing",), GROUP_COLORS[5], "v"),
    "ALRA": Look(("alra",), GREY, "P"),
    "DeepImpute": Look(("deepimpute",), GREY, "X"),
    "scImpute": Look(("scimpute",), GREY, "*"),
    "pooling with own counts (control)": Look(("neighbour_pooling_posterior",), INK, "|"),
    "gene means with own counts (control)": Look(("gene_mean_posterior",), GREY, "|"),
}


def explained(truth: pd.DataFrame) -> pd.DataFrame:
    """Return D2 of held-out molecules, means over seeds: data sets x methods, by cells."""
    part = truth[(truth.kind == "held-out") & (truth.score == "d2")]
    table = part.pivot_table(index=["cells", "dataset"], columns="method", values="value")
    return table.sort_index().reset_index("cells")


def draw(found: pd.DataFrame) -> None:
    """Draw each method's D2 as a share of ours, one row for each data set."""
    rows = np.arange(len(found))
    figure, axes = plt.subplots(figsize=(9.2, 5.2), layout="constrained")
    axes.axvline(1, color=BLUE, linewidth=2, zorder=1)
    for label, look in LOOKS.items():
        share = found[list(look.variants)].max(axis=1) / found[OURS]
        size = 140 if look.marker == "|" else 36
        options = {"color": look.color, "marker": look.marker, "s": size, "zorder": 2}
        axes.scatter(share.clip(lower=LEFT), rows, label=label, **options)
    axes.scatter(np.ones(len(rows)), rows, color=BLUE, s=60, zorder=3, label="graphsci")
    names = [f"{name}, {cells:,} cells" for name, cells in found["cells"].items()]
    axes.set_yticks(rows, names)
    beside = axes.twinx()
    beside.set_ylim(-0.5, len(rows) - 0.5)
    beside.set_yticks(rows, [f"{value:.3f}" for value in found[OURS]])
    beside.tick_params(length=0)
    beside.set_ylabel("D2 of graphsci")
    axes.set(xlim=(LEFT - 0.03, 1.1), ylim=(-0.5, len(rows) - 0.5))
    axes.set_xlabel("D2 of held-out molecules as a share of ours (left edge: below)")
    axes.grid(axis="y", color="#EEEEEE", zorder=0)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[-1:] + handles[:-1], labels[-1:] + labels[:-1], loc="outside right")
    figure.savefig(PICTURE)
    print(f"written: {PICTURE}")


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        draw(explained(pd.read_csv(RESULTS / "truth.csv")))
