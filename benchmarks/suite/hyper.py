"""Study ``hyper``: the paper's hyper-parameters on its own preset (Figures S5, S6, S9, S10).

One parameter at a time from the preset ``paper``, a small number of epochs, scored by what the
paper used (validation loss, clustering) and by what it did not (held-out molecules). The data
are a case of the study ``truth``: 90 % of the molecules, the rest for the judge.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

import graphsci
from graphsci._jobs.evaluate_ours import expected_counts
from graphsci.evaluation import evaluate_clustering, study
from graphsci.prior_knowledge import read_network
from graphsci.prior_knowledge.gene_symbols import match_symbols
from suite import cases, environments, judges, provenance, records, truth, written
from suite.cases import Case
from suite.environments import digest
from suite.methods import HERE, METHODS, source_digest
from suite.running import WORK

STORE = WORK / "hyper"
#: The data: days of mouse ES cells, the paper's own kind, with genes that networks name.
CASE, PRIOR = "held-out/klein_mes", "genesets/mouse_string_top10pct.tsv.gz"
EPOCHS = 15
#: Clusters are scored on principal components: t-SNE would cost more than the fits.
PROTOCOL = "pca-kmeans"
_JUDGES = ("held_out", "clustering")


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
    Setting("-", "likelihood zinb", {"likelihood": "zinb"}),
    Setting("S9", "learning rate 0.003", {"learning_rate": 0.003}),
    Setting("S9", "no decay of the learning rate", {"lr_decay": 1.0}),
    Setting("S9", "decay 0.8 every 50 steps", {"lr_decay": 0.8}),
    Setting("S9", "decay 0.9 every 200 steps", {"lr_decay_steps": 200}),
)


class Run(NamedTuple):
    """One setting with one seed."""

    setting: Setting
    seed: int
    found: dict[str, Any]  #: scores, ``course``, and how it was made


def study_hyper(request: truth.Request) -> None:
    """Run what is missing, and write the tables."""
    refuse_another_package()
    torch.set_num_threads(request.limits.threads)  # more of them wait for each other
    n_new, runs = 0, []
    for seed in request.seeds:
        case = cases.build(CASE, request.data, seed=seed)
        if case is None:
            return
        for setting in SETTINGS:
            path = STORE / f"{_key(setting, case, request.data)}.json"
            if not path.is_file():
                print(f"{setting.name}, seed {seed} ...", end=" ", flush=True)
                found = fit(setting, case, request.data) | _made()
                written.put(path, json.dumps(found), quiet=True)
                n_new += 1
                print(f"D2 {found['d2']:.4f}", flush=True)
            runs.append(Run(setting, seed, json.loads(path.read_text())))
    if not write(runs) and not n_new:
        print(written.NOTHING_TO_DO)


def refuse_another_package() -> None:
    """Stop unless the package that runs, in this very process, is that of this checkout."""
    imported = Path(str(graphsci.__file__)).resolve().parent
    if imported != (HERE / "src" / "graphsci").resolve():
        sys.exit(
            f"hyper trains the imported package, which is {imported}, expected that of this "
            f"checkout: set PYTHONPATH={HERE / 'src'}."
        )


def _made() -> dict[str, str]:
    """Return how a run was made, for its rows of the table."""
    return {
        "code": truth.commit_of(HERE),
        "date": records.today(),
        "versions": environments.named_versions(""),
        "machine": provenance.machine(),
    }


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
        seed=case.seed,
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


def _key(setting: Setting, case: Case, folder: Path) -> str:
    decisive = {
        "options": setting.options,
        "prior": digest((folder / PRIOR).read_bytes()) if setting.prior else None,
        "epochs": EPOCHS,
        "data": [study.fingerprint(case.counts), cases.fingerprint(case.truth)],
        "seed": case.seed,
        "source": source_digest(METHODS["graphsci-paper"].kind, HERE),
        "versions": environments.versions(""),
        "judges": [judges.scoring_source(*_JUDGES), inspect.getsource(fit), PROTOCOL],
    }
    return study.Store.key(**decisive)


# --- the tables -------------------------------------------------------------------------

#: Columns that name a run.
RUN = ("setting", "seed")
SHOWN = ("edges", "validation_loss", "d2", "ari", "seconds")
SHOWN_EPOCHS = (1, 2, 5, 10, EPOCHS)
COURSE = ("epoch", "training_loss", "learning_rate")


def write(runs: list[Run]) -> bool:
    """Write ``hyper.csv``, ``hyper_course.csv`` and ``hyper.md``.

    Rows of settings and seeds that were not among the runs stay. Returns whether a file changed.
    """
    folder = written.RESULTS
    table = written.with_earlier(_scores(runs), folder / "hyper.csv", by=RUN)
    course = written.with_earlier(_courses(runs), folder / "hyper_course.csv", by=RUN)
    changed = [
        written.put_table(folder / "hyper.csv", table, digits=10),
        written.put_table(folder / "hyper_course.csv", course, digits=10),
    ]
    kept = (written.read(folder / f"{name}.csv") for name in ("hyper", "hyper_course"))
    return written.put_text("hyper", _text(*kept)) or any(changed)


def _scores(runs: list[Run]) -> pd.DataFrame:
    """Return one row for each score of each run."""
    rows = [
        {**_named(run), "score": score, "value": value, **_how(run)}
        for run in runs
        for score, value in run.found.items()
        if score not in ("course", *provenance.COLUMNS)
    ]
    columns = ["figure", *RUN, "score", "value", *provenance.COLUMNS]
    return pd.DataFrame(rows, columns=columns)


def _courses(runs: list[Run]) -> pd.DataFrame:
    """Return one row for each epoch of the unchanged preset."""
    rows = [
        {**_named(run), **epoch, **_how(run)}
        for run in runs
        if run.setting == BASE
        for epoch in pd.DataFrame(run.found["course"]).to_dict("records")
    ]
    return pd.DataFrame(rows, columns=["figure", *RUN, *COURSE, *provenance.COLUMNS])


def _named(run: Run) -> dict[str, Any]:
    return {"figure": run.setting.figure, "setting": run.setting.name, "seed": run.seed}


def _how(run: Run) -> dict[str, Any]:
    return {name: run.found.get(name, "") for name in provenance.COLUMNS}


def _text(table: pd.DataFrame, course: pd.DataFrame) -> list[str]:
    """Return the lines of the Markdown."""
    table = table[table.setting.isin([setting.name for setting in SETTINGS])]
    wide = table.pivot_table(index="setting", columns="score", values="value")
    shown = wide[list(SHOWN)].copy()
    shown.insert(3, "d2 sd", table[table.score == "d2"].groupby("setting").value.std())
    shown.insert(0, "figure", {setting.name: setting.figure for setting in SETTINGS})
    shown["validation_loss"] = shown.validation_loss.map("{:.1f}".format)
    shown["seeds"] = table.groupby("setting").seed.nunique()
    order = [setting.name for setting in SETTINGS if setting.name in wide.index]
    shown = shown.loc[order].reset_index()[["figure", "setting", *shown.columns[1:]]]
    first = course.seed.min()
    steps = course[(course.seed == first) & course.epoch.isin(SHOWN_EPOCHS)]
    return [
        "# Study `hyper`",
        "",
        f"Preset `paper` on {CASE}, {EPOCHS} epochs; one parameter changed at a time. Made by "
        "`python benchmarks/run.py hyper --data DIR` on "
        f"{provenance.made_by(table.assign(method='graphsci-paper'))}. Each row's own commit and "
        "day: hyper.csv. validation_loss: nats per cell, lowest epoch, the sum of expression and "
        "graph (the history of training keeps no parts, so Figure S10's two panels are one number "
        "here); d2: share of the gene means' deviance explained in held-out molecules, as "
        "returned; ari: K-means on 50 PCs of `denoised`. The preset's likelihood is `auto`, which "
        "is `nb` on these data: choosing nb changes no number and has no row.",
        "",
        written.markdown(shown.astype({"edges": int, "seeds": int, "seconds": int})),
        "",
        f"## Course of training (Figure S9), preset paper, seed {first}, {_code_of(steps)}",
        "",
        written.markdown(
            steps[list(COURSE)].astype({"epoch": int, "training_loss": float}), digits=5
        ),
    ]


def _code_of(rows: pd.DataFrame) -> str:
    return f"graphsci at commit {provenance.joined(rows.code.unique())}"
