"""What one of several processes does in test_distributed: fits, and writes what it has seen.

Run by torchrun with a folder as its argument.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import graphsci
from conftest import draw_toy
from graphsci.training import distributed

#: Options of the fits that are compared with one process.
FITS = {
    "nb": {"likelihood": "nb", "max_epochs": 8},
    "zinb": {"likelihood": "zinb", "max_epochs": 4, "batch_size": 50, "dropout_rate": 0.5},
    "early stop": {"likelihood": "nb", "max_epochs": 40, "patience": 2, "learning_rate": 0.2},
    "batches": {"likelihood": "nb", "max_epochs": 4, "graph": "none", "check": False},
    "paper": {"preset": "paper", "likelihood": "nb", "max_epochs": 6},
}


def fit(name: str, team: distributed.Team | None) -> graphsci.GraphSCI:
    batch_key = "batch" if name == "batches" else None
    return graphsci.GraphSCI(**FITS[name], seed=1).fit(draw_toy(), batch_key=batch_key, team=team)


def summary(model: graphsci.GraphSCI) -> dict:
    return {
        "training": model.history["training_loss"].tolist(),
        "validation": model.history["validation_loss"].tolist(),
        "best_epoch": model.fitted.best_epoch,
        "stopped": model.fitted.stopped,
        "passed": None if model.verdict is None else model.verdict.passed,
        "deviance": 0.0 if model.verdict is None else model.verdict.scores[0].deviance,
    }


def batch_norm(team: distributed.Team) -> dict[str, torch.Tensor]:
    """Two steps of a shared batch norm on this process's rows; see the test."""
    values = torch.as_tensor(np.random.default_rng(0).normal(2, 3, (7, 3)), dtype=torch.float64)
    norm = distributed.SharedBatchNorm.of(torch.nn.BatchNorm1d(3).double())
    own = values[team.share(7)].clone().requires_grad_()
    for _ in range(2):
        out = norm(own)
    out.pow(3).sum().backward()
    return {"out": out.detach(), "gradient": own.grad, "running": norm.running_var}


def refusals(team: distributed.Team) -> list[str]:
    """Errors that all processes must see."""

    def fail() -> None:
        raise ValueError("only the first process knows")

    said = []
    for action in (
        lambda: team.once(fail),
        lambda: graphsci.GraphSCI(batch_size=3, max_epochs=1).fit(draw_toy(), team=team),
    ):
        try:
            action()
        except ValueError as error:
            said.append(str(error))
    return said


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    team = distributed.join("cpu")
    assert team is not None
    found = {name: summary(fit(name, team)) for name in FITS}
    record = {"fits": found, "once": team.once(lambda: team.rank), "refusals": refusals(team)}
    (folder / f"rank{team.rank}.json").write_text(json.dumps(record))
    save_file(batch_norm(team), folder / f"rank{team.rank}.safetensors")
    team.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
