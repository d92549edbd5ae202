"""Small data of known structure, and models trained on it once for all tests."""

import importlib
import os
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

# Before torch is imported: threads that wait sleep, or a busy machine makes the tests far slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

EMPTY_CELL, UNDETECTED_GENE = 7, 5


@pytest.fixture
def benchmarks() -> Path:
    """Return the folder of the benchmarks, which an installed package has not."""
    folder = Path(__file__).resolve().parents[1] / "benchmarks"
    if not folder.is_dir():
        pytest.skip("an installed package has no benchmarks")
    return folder


@pytest.fixture
def suite(benchmarks, monkeypatch, tmp_path):
    """Import modules of the suite, their folders of work and results in a temporary one."""
    monkeypatch.syspath_prepend(str(benchmarks))
    load = importlib.import_module
    monkeypatch.setattr(load("suite.running"), "ESTIMATES", tmp_path / "estimates")
    monkeypatch.setattr(load("suite.records"), "RECORDS", tmp_path / "records")
    monkeypatch.setattr(load("suite.written"), "RESULTS", tmp_path / "results")
    yield lambda name: load(f"suite.{name}")
    ours = ("suite", "data", "refresh_docs", "run")
    for name in [name for name in sys.modules if name.split(".")[0] in ours]:
        del sys.modules[name]


def draw_toy(n_cells: int = 120, n_genes: int = 60, seed: int = 0) -> AnnData:
    """Three cell types in two batches, Poisson counts; one empty cell, one undetected gene."""
    rng = np.random.default_rng(seed)
    group, batch = rng.integers(0, 3, n_cells), rng.integers(0, 2, n_cells)
    profile = rng.gamma(0.5, 4.0, (3, n_genes)) + 0.05
    offset = rng.lognormal(0, 0.7, (2, n_genes))
    depth = rng.lognormal(0, 0.3, n_cells)[:, None]
    rate = profile[group] * offset[batch] * depth
    counts = rng.poisson(rate).astype(np.float32)
    counts[EMPTY_CELL], counts[:, UNDETECTED_GENE] = 0, 0
    obs = pd.DataFrame(
        {"group": group.astype(str), "batch": [f"b{code}" for code in batch]},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)])
    return AnnData(counts, obs=obs, var=var, layers={"rate": rate})


@pytest.fixture
def toy() -> AnnData:
    """Return fresh toy data, 120 cells x 60 genes."""
    return draw_toy()


@pytest.fixture(scope="session")
def draw() -> Callable[..., AnnData]:
    """Return the function that draws toy data of any size and seed."""
    return draw_toy


#: Options of the models that tests share; the fit of each takes a second.
MODELS = {
    "nb": {"max_epochs": 20, "likelihood": "nb", "graph": "pearson"},
    "zinb": {"max_epochs": 20, "likelihood": "zinb", "graph": "none"},
    "batches": {"max_epochs": 20, "likelihood": "nb"},
    "paper": {"preset": "paper", "max_epochs": 10, "likelihood": "nb"},
    "paper zinb": {"preset": "paper", "max_epochs": 10, "likelihood": "zinb"},
}


@lru_cache
def _trained(name: str):
    from graphsci import GraphSCI

    batch_key = "batch" if name == "batches" else None
    return GraphSCI(**MODELS[name], seed=1).fit(draw_toy(), batch_key=batch_key)


@pytest.fixture(scope="session")
def trained():
    """Return ``trained(name)``: a model of MODELS fitted to the toy data; do not change it."""
    return _trained


@pytest.fixture
def interrupt_at(monkeypatch) -> Callable[..., None]:
    """Return a function that has Ctrl-C pressed when an epoch of a command's training has ended."""

    def interrupt(epoch: int, *, training: int = 1) -> None:
        """``training``: in which of the trainings of the command, the first is 1."""
        from graphsci._terminal import Reporter

        progress, begun = Reporter.progress, []

        def press(self, record, n_epochs):
            progress(self, record, n_epochs)
            begun.extend([n_epochs] * (record.epoch == 1))
            if record.epoch == epoch and len(begun) == training:
                signal.raise_signal(signal.SIGINT)

        monkeypatch.setattr(Reporter, "progress", press)

    return interrupt
