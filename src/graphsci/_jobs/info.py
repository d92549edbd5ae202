"""What a count file, an output or a model folder holds: `graphsci info`, and a run's summary.

Only what is about models imports torch, which takes seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata.abc import CSCDataset
from numpy.typing import NDArray

from graphsci import io
from graphsci._keys import is_run_record
from graphsci._words import copies_in_words, epochs_in_words
from graphsci.io.files import ANNDATA_SUFFIXES, is_zarr
from graphsci.io.sources import to_csr
from graphsci.preprocessing import extract_counts, open_counts

if TYPE_CHECKING:
    from anndata import AnnData


def describe(
    path: Path, *, layer: str | None = None, genes_in: io.GenesIn | None = None
) -> dict[str, Any]:
    """Say what a count file, an output or a model folder holds, as plain values."""
    if path.is_dir() and not is_zarr(path) and _is_model(path):
        return _describe_model(path)
    adata = _open(path, genes_in)
    matrix = adata.X if layer is None else adata.layers.get(layer)
    found: dict[str, Any] = {"kind": "cells x genes", "path": str(path)}
    if matrix is not None:
        found["data"] = describe_counts(matrix)
    try:
        check = extract_counts if isinstance(matrix, CSCDataset) else open_counts
        data = check(adata, layer=layer, min_cells=1)  # as few as a model is applied to
        found["raw_counts"], found["problem"] = True, None
        found["notes"] = list(data.notes)
    except (ValueError, TypeError) as error:
        found["raw_counts"], found["problem"] = False, str(error)
    for slot in ("layers", "obsm", "varm", "varp"):
        found[slot] = list(getattr(adata, slot))
    found["obs"] = list(adata.obs.columns)
    found["runs"] = {key: value for key, value in adata.uns.items() if is_run_record(value)}
    return found


def _open(path: Path, genes_in: io.GenesIn | None) -> AnnData:
    """Read a file with its matrices left on disk where that is possible."""
    name = path.name.lower()
    on_disk = name.endswith(ANNDATA_SUFFIXES)
    return io.read_counts(path, genes_in=genes_in, backed=on_disk)


def _is_model(path: Path) -> bool:
    from graphsci._imputing.model_io import RECORD

    return (path / RECORD).is_file()


def _describe_model(path: Path) -> dict[str, Any]:
    from graphsci._imputing.annotation import run_record
    from graphsci._imputing.request import Request
    from graphsci.imputer import GraphSCI

    model = GraphSCI.load(path, device="cpu")
    spec = model.fitted.spec
    record = run_record(model, Request.plain())
    return {
        "kind": "model",
        "path": str(path),
        "genes": len(spec.gene_names),
        "first_genes": spec.gene_names[:5].tolist(),
        "batches": list(spec.batch_names),
        "gene_graph": {"source": spec.graph.source, "edges": spec.graph.n_edges},
        "runs": {"model": record},
    }


def describe_in_words(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Turn the values of :func:`describe` into lines of a table: a name, and what is said of it."""
    words = {"file": f"{found['path']} ({found['kind']})"}
    if "data" in found:
        data, depth = found["data"], found["data"]["depth"]
        words["shape"] = (
            f"{data['cells']:,} cells x {data['genes']:,} genes "
            f"({data['genes_detected']:,} detected)"
        )
        words["zeros"] = f"{data['zeros']:.1%}"
        if data["total"] is not None:
            words["depth"] = (
                f"{depth['median']:,.0f} per cell (median), {depth['lowest']:,.0f} to "
                f"{depth['highest']:,.0f}"
            )
    if "raw_counts" in found:
        words["raw counts"] = "yes" if found["raw_counts"] else f"no: {found['problem']}"
    if found["kind"] == "model":
        words["genes"] = f"{found['genes']:,} ({', '.join(found['first_genes'])}, ...)"
        graph = found["gene_graph"]
        words["gene graph"] = f"{graph['source']}, {graph['edges']:,} edges"
        words["batches"] = ", ".join(found["batches"]) or "none"
    if found.get("notes"):
        words["notes"] = " ".join(found["notes"])
    for slot in ("obs", "layers", "obsm", "varm", "varp"):
        if found.get(slot):
            words[slot] = ", ".join(found[slot])
    of_runs = (_run_in_words(key, record) for key, record in found["runs"].items())
    return [*words.items(), *(line for words in of_runs for line in words.items())]


def _run_in_words(key: str, record: dict[str, Any]) -> dict[str, str]:
    name = "trained" if key == "model" else f"run {key!r}"
    words = {
        name: f"preset {record['config']['preset']}, {record['likelihood']}, seed "
        f"{record['seed']}, {epochs_in_words(record['training'])}, graphsci "
        f"{record['versions']['graphsci']}"
    }
    if record.get("copies", 1) != 1:
        words["  copies"] = copies_in_words(record)
    if len(record.get("batches", ())):
        words["  batches"] = ", ".join(record["batches"])
    for estimate, said in record["estimates"].items():
        level = f" ({said['level']:.0%})" if "level" in said else ""
        words[f"  {estimate}"] = f"{said['meaning']}{level}; {said['unit']}"
    words["  verdict"] = (
        f"On the training data: {record['verdict']['line']}" if record["verdict"] else "not checked"
    )
    return words


def describe_counts(matrix: Any) -> dict[str, Any]:
    """Shape, zeros and depth of a (cells, genes) matrix, read in blocks of cells."""
    n_cells, n_genes = matrix.shape
    depth, detected = np.zeros(n_cells), np.zeros(n_cells)
    seen = np.zeros(n_genes, dtype=bool)
    step = max(1, 2**22 // max(1, n_genes))
    for start in range(0, n_cells, step):
        block = to_csr(matrix[start : start + step])
        depth[start : start + step] = np.asarray(block.sum(1), dtype=np.float64).ravel()
        detected[start : start + step] = np.asarray((block != 0).sum(1)).ravel()
        seen |= np.asarray((block != 0).sum(0)).ravel() > 0
    return depth_and_zeros((n_cells, n_genes), int(seen.sum()), int(detected.sum()), depth)


def depth_and_zeros(
    shape: tuple[int, int], n_detected: int, n_entries: int, depth: NDArray[np.float64]
) -> dict[str, Any]:
    """Say the same of totals: entries that are not zero, and molecules per cell (cells,).

    Totals are None if any is not finite: JSON has no NaN.
    """
    known = bool(np.isfinite(depth).all())
    levels: list[float | None] = [None, None, None]
    if known:
        levels = np.quantile(depth, [0, 0.5, 1]).tolist() if len(depth) else [0.0, 0.0, 0.0]
    return {
        "cells": shape[0],
        "genes": shape[1],
        "genes_detected": n_detected,
        "zeros": float(1 - n_entries / max(1, shape[0] * shape[1])),
        "total": float(depth.sum()) if known else None,
        "depth": dict(zip(("lowest", "median", "highest"), levels, strict=True)),
    }
