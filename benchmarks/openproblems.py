"""Open Problems' two metrics on the estimates of the study `truth`, and what its error rewards.

    python benchmarks/openproblems.py --data DIR [--dataset pbmc_1k_v3] [--source CHECKOUT]

The 1k PBMC of 10x (v3) are among the benchmark's own data. 10 % of the molecules are held out, as
there. A method's score is (loss of the kept counts - its loss) / (that loss - loss of the held-out
counts themselves), the benchmark's scaling between its controls. Run the study first.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from graphsci.evaluation import openproblems
from suite import cases, records, written
from suite.methods import HERE, METHODS, OURS
from suite.running import ESTIMATES, estimate_key, read_estimate

REWARDED = "graphsci, expected_log_estimate"


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", default="pbmc_1k_v3")
    parser.add_argument("--source", type=Path, default=HERE)
    args = parser.parse_args()
    case = cases.build(f"held-out/{args.dataset}", args.data, seed=0)
    held_out, kept = case.truth["case"].held_out.toarray(), case.counts.toarray()
    train_sum = kept.sum(dtype=float)

    def losses(values: np.ndarray) -> dict[str, float]:
        both = {"denoised": values, "held_out": held_out}
        return {
            "MSE": openproblems.openproblems_mse(**both),
            "Poisson, swapped": openproblems.openproblems_poisson_swapped(
                **both, train_sum=train_sum
            ),
            "Poisson, in order": openproblems.openproblems_poisson(**both, train_sum=train_sum),
        }

    worst, best = losses(kept), losses(held_out * (train_sum / held_out.sum()))
    rows = []
    for name, values in estimates(case, args.source):
        loss = losses(values)
        score = {f"{k}, score": (worst[k] - v) / (worst[k] - best[k]) for k, v in loss.items()}
        rows.append({"method": name, **loss, **score})
    table = pd.DataFrame(rows)
    text = [
        f"# Open Problems' metrics on {args.dataset}",
        "",
        f"`python benchmarks/openproblems.py --data DIR`, {records.today()}, seed 0, "
        f"{kept.shape[0]:,} cells x {kept.shape[1]:,} genes. Score: 0 is the kept counts, 1 the "
        "held-out counts themselves; a wrong metric goes beyond 1.",
        "",
        written.markdown(table),
    ]
    written.write("openproblems", table, text)


def estimates(case, source: Path):
    """Yield the estimates that the study has, and the one that the error rewards."""
    for name in METHODS:
        path = ESTIMATES / f"{estimate_key(name, case.counts, seed=0, source=source)}.h5ad"
        if not path.is_file():
            continue
        arrays = read_estimate(path)
        yield name, arrays["estimate"]
        if name == OURS:
            yield (
                REWARDED,
                openproblems.expected_log_estimate(
                    rate=arrays["estimate"], rate_sd=arrays["sd"], fraction=cases.FRACTION
                ),
            )


if __name__ == "__main__":
    main()
