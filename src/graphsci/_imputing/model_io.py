"""A trained model on disk: a folder with `model.safetensors` and `model.json`. No pickle."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from scipy import sparse

from graphsci.config import Config
from graphsci.gene_graph.graph import GeneGraph
from graphsci.io.files import atomic_path, write_json
from graphsci.training.fitting import Fitted, ModelSpec, build_network
from graphsci.training.loop import EpochRecord
from graphsci.verdict import Score, Verdict

#: Raised whenever the layout of the files changes.
SCHEMA_VERSION = 14
WEIGHTS, RECORD = "model.safetensors", "model.json"
_NETWORK, _GRAPH = "network.", "graph."


def save_model(fitted: Fitted, path: str | Path, *, versions: dict[str, str]) -> None:
    """Write a model folder, complete or not at all."""
    spec = fitted.spec
    tensors = {
        _NETWORK + name: tensor.detach().cpu().contiguous()
        for name, tensor in fitted.network.state_dict().items()
    }
    adjacency = spec.graph.adjacency
    tensors |= {
        _GRAPH + "indptr": torch.from_numpy(adjacency.indptr.astype(np.int64)),
        _GRAPH + "indices": torch.from_numpy(adjacency.indices.astype(np.int64)),
        _GRAPH + "data": torch.from_numpy(adjacency.data.astype(np.float32)),
        "gene_proportions": torch.from_numpy(spec.gene_proportions),
        "copies": torch.from_numpy(spec.copies),
    }
    if fitted.p_values is not None:
        tensors["p_values"] = torch.from_numpy(fitted.p_values)
    record = {
        "schema_version": SCHEMA_VERSION,
        "config": spec.config.to_dict(),
        "likelihood": spec.likelihood,
        "median_library": spec.median_library,
        "common_depth": spec.common_depth,
        "batch_names": list(spec.batch_names),
        "gene_names": spec.gene_names.tolist(),
        "undetected": spec.undetected.tolist(),
        "graph": {
            "source": spec.graph.source,
            "parameters": spec.graph.parameters,
            "notes": list(spec.graph.notes),
            "given": spec.graph_given,
        },
        "history": [_plain(record) for record in fitted.history],
        "best_epoch": fitted.best_epoch,
        "stopped": fitted.stopped,
        "verdict": None if fitted.verdict is None else _verdict_record(fitted.verdict),
        "notes": list(fitted.notes),
        "misfit_limits": [None if math.isnan(x) else x for x in fitted.misfit_limits],
        "copies_left": fitted.copies_left,
        "versions": versions,
    }
    with atomic_path(Path(path)) as folder:
        folder.mkdir()
        save_file(tensors, folder / WEIGHTS)
        write_json(folder / RECORD, record)
        shutil.copymode(folder / RECORD, folder / WEIGHTS)  # safetensors' are the owner's alone


def load_model(path: str | Path, *, device: torch.device) -> Fitted:
    """Read a model folder.

    Raises
    ------
    FileNotFoundError
        If there is no model at ``path``.
    ValueError
        If it was written by a newer version, or is damaged.
    """
    folder = Path(path)
    for name in (RECORD, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no graphsci model: {name} is missing. Give the folder that "
                "--save-model or GraphSCI.save wrote."
            )
    record = _read_record(folder / RECORD)
    try:
        tensors = load_file(folder / WEIGHTS, device="cpu")
    except SafetensorError as error:
        raise ValueError(f"{folder / WEIGHTS} is damaged: {error}.") from error
    try:
        fitted = _assemble(record, tensors)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{folder} is damaged: its two files do not describe one model ({error}). "
            "Copy the folder again, or train again."
        ) from error
    fitted.network.to(device)
    return fitted


def _assemble(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Fitted:
    spec = _spec(record, tensors)
    network = build_network(spec)
    state = {k.removeprefix(_NETWORK): v for k, v in tensors.items() if k.startswith(_NETWORK)}
    network.load_state_dict(state)
    return Fitted(
        spec=spec,
        network=network.eval(),
        history=[EpochRecord(**_numbers(entry)) for entry in record["history"]],
        best_epoch=record["best_epoch"],
        stopped=record["stopped"],
        verdict=_verdict(record["verdict"]),
        notes=tuple(record["notes"]),
        p_values=tensors["p_values"].numpy() if "p_values" in tensors else None,
        misfit_limits=tuple(
            math.nan if limit is None else float(limit) for limit in record["misfit_limits"]
        ),
        copies_left=float(record["copies_left"]),
    )


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = int(record["schema_version"])
    except (KeyError, TypeError, ValueError) as error:  # JSON and Unicode errors are ValueErrors
        raise ValueError(f"{path} is damaged: {error}.") from error
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, this graphsci reads up to {SCHEMA_VERSION}: "
            "update graphsci."
        )
    if version < SCHEMA_VERSION:
        raise ValueError(
            f"{path} has schema version {version}, written by an earlier graphsci (this "
            f"one has version {SCHEMA_VERSION}): train the model again."
        )
    return dict(record)


def _spec(record: dict[str, Any], tensors: dict[str, torch.Tensor]) -> ModelSpec:
    genes = np.asarray(record["gene_names"], dtype=np.str_)
    parts = (tensors[_GRAPH + name].numpy() for name in ("data", "indices", "indptr"))
    adjacency = sparse.csr_matrix(tuple(parts), shape=(len(genes), len(genes)))
    graph = record["graph"]
    return ModelSpec(
        config=Config(**record["config"]),
        likelihood=record["likelihood"],
        median_library=record["median_library"],
        common_depth=record["common_depth"],
        copies=tensors["copies"].numpy(),
        batch_names=tuple(record["batch_names"]),
        gene_names=genes,
        gene_proportions=tensors["gene_proportions"].numpy(),
        undetected=np.asarray(record["undetected"], dtype=np.str_),
        graph=GeneGraph(
            adjacency, genes, graph["source"], graph["parameters"], tuple(graph["notes"])
        ),
        graph_given=bool(graph["given"]),
    )


def _plain(record: EpochRecord) -> dict[str, Any]:
    """JSON has no nan: a missing validation loss is null."""
    return {k: None if v != v else v for k, v in record._asdict().items()}


def _numbers(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: float("nan") if v is None else v for k, v in entry.items()}


def _verdict_record(verdict: Verdict) -> dict[str, Any]:
    return {**verdict._asdict(), "scores": [score._asdict() for score in verdict.scores]}


def _verdict(record: dict[str, Any] | None) -> Verdict | None:
    if record is None:
        return None
    return Verdict(**{**record, "scores": tuple(Score(**score) for score in record["scores"])})
