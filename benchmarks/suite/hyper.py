"""Study ``hyper``: the paper's hyper-parameters on its own preset (Figures S5, S6, S9, S10).

One parameter at a time from the preset ``paper``, a small number of epochs, scored by what the
paper used (validation loss, clustering) and by what it did not (held-out molecules). The data
are a case of the study ``truth``: 90 % of the molecules, the rest for the judge.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import graphsci
from graphsci._evaluate_ours import expected_counts
from graphsci.evaluation import evaluate_clustering, study
from graphsci.gene_symbols import match_symbols
from graphsci.prior_knowledge import read_network
from suite import cases, tables, truth
from suite.cases import Case
from suite.methods import HERE, METHODS, source_digest
from suite.running import WORK

STORE = WORK / "hyper"
#: The data: days of mouse ES cells, the paper's own kind, with genes that networks name.
CASE, PRIOR = "held-out/klein_mes", "genesets/mouse_string_top10pct.tsv.gz"
EPOCHS = 15
#: Clusters are scored on principal components: t-SNE would cost more than the fits.
PROTOCOL = "pca-kmeans"


class Setting(NamedTuple):
    """One change of the preset ``paper``."""

    figure: str
    name: str
    options: dict[str, Any]
    prior: bool = False  #: use a known network instead of one from the counts


BASE = Setting("-", "preset paper", {})
SETTINGS = (
    BASE,
    *(Setting("S5", f"PCC cut-off {t}", {"graph_threshold": t}) for t in (0.2, 0.4, 0.5)),
    Setting("S6", "graph: PCC over co-expressed cells", {"graph": "coexpressed"}),
    Setting("S6", "graph: PIDC, 50 a gene", {"graph": "pidc", "graph_top_k": 50}),
    Setting("S6", "graph: none", {"graph": "none"}),
    Setting("S6", "graph: STRING, a known network", {}, prior=True),
    *(Setting("S10", f"hidden units {n}", {"n_hidden": n}) for n in (8, 32, 64)),
    *(Setting("S10", f"dropout rate {r}", {"dropout_rate": r}) for r in (0.0, 0.1, 0.4)),
    Setting("-", "likelihood nb", {"likelihood": "nb"}),
    Setting("-", "likelihood zinb", {"likelihood": "zinb"}),
    Setting("S9", "learning rate 0.003", {"learning_rate": 0.003}),
)


def study_hyper(request: truth.Request) -> None:
    """Run what is missing, and write the tables."""
    torch.set_num_threads(request.limits.threads)  # more of them wait for each other
    n_new, rows = 0, []
    for seed in request.seeds:
        case = cases.build(CASE, request.data, seed=seed)
        if case is None:
            return
        for setting in SETTINGS:
            path = STORE / f"{_key(setting, case)}.json"
            if not path.is_file():
                print(f"{setting.name}, seed {seed} ...", end=" ", flush=True)
                STORE.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(fit(setting, case, request.data)))
                n_new += 1
                print(f"D2 {json.loads(path.read_text())['d2']:.4f}", flush=True)
            rows.append((setting, seed, json.loads(path.read_text())))
    if n_new or not tables.written("hyper"):
        write(rows, truth.commit_of(request.source))
    else:
        print("Nothing to do: every run is there already, and nothing changed.")


def fit(setting: Setting, case: Case, folder: Path) -> dict[str, Any]:
    """Train one setting; return its scores and the course of its training."""
    adata = AnnData(case.counts.astype(np.float32), var=pd.DataFrame(index=case.truth["genes"]))
    graph = known_network(folder, case.truth["genes"]) if setting.prior else None
    model = graphsci.GraphSCI(
        preset="paper", check=False, max_epochs=EPOCHS, seed=case.seed, **setting.options
    ).fit(adata, gene_graph=graph)
    known: study.Case = case.truth["case"]
    run = study.run_method(setting.name, lambda task: expected_counts(model.fitted, task), known)
    model.impute(adata, estimates=["denoised"], depth="common", scale="log1p")
    clusters = evaluate_clustering(
        log_values=adata.layers["denoised"],
        labels=case.truth["labels"],
        protocol=PROTOCOL,
        n_seeds=1,
        random_state=case.seed,
    )
    history = model.history
    return {
        "d2": run.scores["d2"],
        "validation_loss": float(history.validation_loss.min()),
        "last_training_loss": float(history.training_loss.iloc[-1]),
        "ari": clusters.ari.mean,
        "edges": int(model.gene_graph.adjacency.nnz // 2),
        "seconds": float(history.seconds.iloc[-1]),
        "course": history[["epoch", "training_loss", "learning_rate"]].to_dict("list"),
    }


def known_network(folder: Path, genes: np.ndarray) -> pd.DataFrame:
    """Return STRING's edges among the genes."""
    edges = read_network(folder / PRIOR)
    return match_symbols(edges, genes).edges


def _key(setting: Setting, case: Case) -> str:
    decisive = {
        "options": setting.options,
        "prior": PRIOR if setting.prior else None,
        "epochs": EPOCHS,
        "data": study.fingerprint(case.counts),
        "seed": case.seed,
        "source": source_digest(METHODS["graphsci-paper"].kind, HERE),
    }
    return study.Store.key(**decisive)


def _tidy(rows: list[tuple[Setting, int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for setting, seed, found in rows:
        for score, value in found.items():
            if score != "course":
                base = {"figure": setting.figure, "setting": setting.name, "seed": seed}
                yield {**base, "score": score, "value": value}


def _seeds(rows: list[tuple[Setting, int, dict[str, Any]]]) -> str:
    """Name the seeds."""
    seeds = sorted({seed for _, seed, _ in rows})
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


def write(rows: list[tuple[Setting, int, dict[str, Any]]], code: str) -> None:
    """Write ``hyper.csv`` and ``hyper.md``."""
    table = pd.DataFrame(list(_tidy(rows)))
    wide = table.pivot_table(index=["figure", "setting"], columns="score", values="value")
    spread = table[table.score == "d2"].groupby(["figure", "setting"]).value.std()
    shown = wide[["edges", "validation_loss", "d2", "ari", "seconds"]].copy()
    shown.insert(3, "d2 sd", spread)
    order = [(s.figure, s.name) for s in SETTINGS]
    shown = shown.loc[order].reset_index()
    course = pd.DataFrame(rows[0][2]["course"])
    steps = course[course.epoch.isin([1, 2, 5, 10, len(course)])]
    text = [
        "# Study `hyper`",
        "",
        f"Preset `paper` on {CASE}, {EPOCHS} epochs, {_seeds(rows)}; one "
        f"parameter changed at a time. graphsci at commit {code}; {tables.machine()} "
        f"made {tables.records.today()} by `python benchmarks/run.py hyper --data DIR`. "
        "validation_loss: nats per cell (expression and graph together), lowest epoch; d2: share "
        "of the gene means' deviance explained in held-out molecules, as returned; ari: K-means "
        "on 50 PCs of `denoised`.",
        "",
        tables.markdown(shown),
        "",
        "## Course of training (Figure S9), preset paper, seed 0",
        "",
        tables.markdown(steps.astype({"epoch": int}), digits=5),
    ]
    tables.write("hyper", table, text)
