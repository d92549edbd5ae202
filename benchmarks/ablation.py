"""What each part of the default is worth: D2 of held-out molecules without it.

    python benchmarks/ablation.py --data DIR [--seeds 0 1]

One part at a time is taken out of the preset `default`; 10 % of the molecules are held out as in
the study `truth`, the same split and seed for all. On one data set the mean absolute correlation
among 200 shuffled genes is measured too.
"""

import argparse
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import graphsci
from graphsci._jobs.evaluate_ours import expected_counts
from graphsci.evaluation import false_signal, study
from graphsci.nn import model as networks
from graphsci.nn.dispersion_prior import DispersionPrior
from graphsci.nn.loading_prior import updated_covariance
from graphsci.nn.model import CountNetwork
from graphsci.training import objectives
from suite import cases, provenance, records, truth, written
from suite.methods import HERE, source_digest
from suite.running import WORK

STORE = WORK / "ablation"
DATASETS = ("pbmc_5k_protein_v3_200", "zeisel_saver", "paul15")
SHUFFLED = ("zeisel_saver",)
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "no certainty of cells": {"certainty": False},
    "theta without a prior": {"theta_prior": False},
    "no genes hidden": {"least_scored": 0.0},
    "no gene graph": {"graph": "none"},
    "all genes vary": {"variation_level": 1.0},
    "prior of the loadings not learned": {"prior": "fixed"},
    "prior of the loadings may become narrower": {"prior": "any width"},
    "prior of 0.1 at the start, any number of cells": {"loading_scale": 0.1},
    "no prior on loadings and encoder": {"loading_scale": 100.0, "prior": "fixed"},
    "no dropout of hidden units": {"dropout_rate": 0.0},
    "thinning to a fixed 80 %": {"kept_low": 0.8, "kept_high": 0.8},
    "stop early, patience 5": {"patience": 5},
    "latent space of 8": {"n_latent": 8},
}


def main() -> None:
    """Fit all, write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        for dataset in DATASETS:
            for variant, options in VARIANTS.items():
                rows.append(kept_score(args.data, dataset, seed, options) | {"variant": variant})
                print(rows[-1], flush=True)
    write(pd.DataFrame(rows), args.seeds)


def kept_score(folder: Path, dataset: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of a variant, those of an earlier run of the same source if there are."""
    source = source_digest("ours", HERE)
    key = study.Store.key(dataset=dataset, seed=seed, options=options, source=source)
    path = STORE / f"{key}.json"
    if not path.is_file():
        found = score(folder, dataset, seed, options) | {"code": truth.commit_of(HERE)}
        written.put(path, json.dumps(found), quiet=True)
    kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return kept


def score(folder: Path, dataset: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """Fit one variant; return its scores."""
    found: dict[str, Any] = {"dataset": dataset, "seed": seed}
    case = cases.build(f"held-out/{dataset}", folder, seed=seed)
    assert case is not None, f"{dataset} is not under {folder}"
    model = fit(case, options)
    known: study.Case = case.truth["case"]
    run = study.run_method("", lambda task: expected_counts(model.fitted, task), known)
    found |= {"D2": run.scores["d2"], "D2, rare genes": run.scores["d2_rare"]}
    if dataset in SHUFFLED and options.keys() <= {
        "graph",
        "variation_level",
        "certainty",
        "theta_prior",
    }:
        case = cases.build(f"shuffled/{dataset}", folder, seed=seed)
        assert case is not None
        copies = case.truth["copies"]
        data = AnnData(case.counts)
        blocks = fit(case, options).iterate_estimates(data, depth="common", scale="log1p")
        values = np.concatenate([block.values["denoised"][:, copies] for block in blocks])
        values, library = values.round(5), np.asarray(case.counts.sum(1)).ravel()
        found |= {
            "r of shuffled genes": false_signal.mean_absolute_correlation(values=values),
            "r given depth": false_signal.correlation_given_depth(values=values, library=library),
        }
    return found


def fit(case: cases.Case, options: dict[str, Any]) -> graphsci.GraphSCI:
    """Train on a case's counts; without ``certainty``, that of all cells is 1.

    The ``prior`` of the loadings is "learned", "fixed" as it is at the start, or learned at "any
    width", narrower too. Without ``theta_prior`` that of theta is so wide that it says nothing.
    """
    options = dict(options)
    any_theta = DispersionPrior(variance=1e12)
    start, trend = DispersionPrior, objectives.updated_trend
    if not options.pop("theta_prior", True):
        start, trend = (lambda: any_theta), (lambda *_: any_theta)
    with_certainty, plain = options.pop("certainty", True), CountNetwork.certainty
    update = {
        "learned": objectives.updated_covariance,
        "fixed": lambda covariance, *_, **__: covariance,
        "any width": lambda *known, **_: updated_covariance(*known, smallest_variance=0.0),
    }[options.pop("prior", "learned")]

    def certainty(network: CountNetwork, z: torch.Tensor) -> torch.Tensor:
        return plain(network, z) if with_certainty else torch.ones_like(z[:, 0])

    with (
        mock.patch.object(CountNetwork, "certainty", certainty),
        mock.patch.object(objectives, "updated_covariance", update),
        mock.patch.object(objectives, "updated_trend", trend),
        mock.patch.object(networks, "DispersionPrior", start),
    ):
        model = graphsci.GraphSCI(check=False, seed=case.seed, **options)
        return model.fit(AnnData(case.counts))


def write(table: pd.DataFrame, seeds: list[int]) -> None:
    """Write ``ablation.csv`` and ``ablation.md``."""
    shown = pd.DataFrame({"variant": list(VARIANTS)})
    for dataset in DATASETS:
        part = table[table.dataset == dataset]
        for name in ("D2", "D2, rare genes", "r of shuffled genes", "r given depth"):
            means = part.groupby("variant")[name].mean()
            if name.startswith("D2") or means.notna().any():
                shown[f"{name}, {dataset}"] = shown.variant.map(means)
    text = [
        "# Ablation of the preset `default`",
        "",
        f"`python benchmarks/ablation.py --data DIR --seeds {' '.join(map(str, seeds))}`, "
        f"{records.today()}, graphsci at commit {provenance.joined(table.code.unique())}, "
        f"{provenance.machine()}, "
        f"{provenance.SHARED}; likelihood nb chosen by the data on all. D2 as returned; r: of 200 "
        "shuffled genes.",
        "",
        written.markdown(shown, digits=4),
    ]
    written.write("ablation", table, text)


if __name__ == "__main__":
    main()
