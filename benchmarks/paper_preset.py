"""Train the preset `paper` on the R-made SIM-T2 data with five seeds: does its loss fall?

python benchmarks/paper_preset.py --data ../shared/data > benchmarks/results/paper_preset.md
"""

import argparse
import datetime
import os
import platform
import sys
from pathlib import Path

import anndata as ad
import numpy as np
from scipy import sparse

import graphsci
from graphsci.imputer import versions


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    path = options.data / "sim" / "sim_t2_seed1.h5ad"
    if not path.exists():
        sys.exit(f"skipped: {path} is missing")
    adata = ad.read_h5ad(path)
    truth = np.log1p(dense(adata.layers["TrueCounts"]))
    raw = np.abs(np.log1p(dense(adata.X)) - truth).mean()
    found = " ".join(f"{name} {version}" for name, version in versions().items())
    print(f"Preset `paper` on SIM-T2 (2,000 x 2,981), {options.epochs} epochs, likelihood zinb.")
    print(f"{datetime.date.today()}, {os.cpu_count()} cores {platform.machine()}, {found}.")
    print(
        f"Mean absolute error is on log1p of counts, all entries; the raw counts have {raw:.4f}.\n"
    )
    print(
        "| seed | loss, first epoch | loss, last epoch | epochs in which it fell | "
        "error of `imputed` | seconds |"
    )
    print("|---|---|---|---|---|---|")
    for seed in range(5):
        model = graphsci.GraphSCI(
            preset="paper", likelihood="zinb", max_epochs=options.epochs, seed=seed, check=False
        ).fit(adata)
        loss = model.history.training_loss.to_numpy()
        model.impute(adata, estimates=["imputed"])
        error = np.abs(np.log1p(adata.layers["imputed"]) - truth).mean()
        fell = int((np.diff(loss) < 0).sum())
        print(
            f"| {seed} | {loss[0]:.0f} | {loss[-1]:.0f} | {fell} of {len(loss) - 1} | "
            f"{error:.4f} | {model.history.seconds.iloc[-1]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
