"""Writing of a run's estimates: streamed in blocks of cells, by one process or by several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from graphsci import io
from graphsci._annotation import annotate_genes, record_of_data, without_replaced
from graphsci._estimating import ALL, Cells, cell_certainty, estimate_blocks
from graphsci._keys import Keys
from graphsci._request import Request
from graphsci.files import atomic_path, is_store
from graphsci.imputer import GraphSCI
from graphsci.layers import LayerWriter, stream_layers
from graphsci.misfit import misfit_note
from graphsci.sources import DiskCounts
from graphsci.streams import (
    SparseLayers,
    TableWriter,
    add_column,
    add_elements,
    copy_anndata,
    open_store,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci._job import Job
    from graphsci.distributed import Team

#: Where in ``obsm`` the misfit of cells is streamed to, by one process or by several, until all of
#: it is there and becomes a column of ``obs``.
_MISFIT = "graphsci misfit, being written"
#: What float16 holds at most; a larger value would be stored as infinite.
LARGEST_HALF = 65_504


def write_estimates(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, team: Team | None = None
) -> None:
    """Write ``adata`` with its estimates, whole or not at all.

    Estimates are streamed, so that no cells x genes matrix is in memory; those of chosen genes
    go to ``obsm`` as tables. ``adata`` itself gets everything else. An input that is on disk is
    copied there, and never in memory. A ``team`` shares the layers of a ``.zarr``.
    """
    slots = job.slots
    if isinstance(cells.source, DiskCounts):
        _extend_copy(model, adata, cells, job, team)
        return
    annotate_genes(model, adata, slots)
    adata.uns.update(without_replaced(adata, map(job.stored, job.names), slots))
    adata.uns[slots.uns] = _record(model, adata, cells, job)
    adata.obs = adata.obs.drop(columns=[*slots.columns_of_cells], errors="ignore")
    # replaced: the check before training allowed it
    for place, name in (("obsm", slots.latent), *((job.place, job.stored(n)) for n in job.names)):
        getattr(adata, place).pop(name, None)
    with atomic_path(job.output) as temporary:
        io.write_anndata(adata, temporary)
        _stream_all(model, adata, cells, job, temporary, team)


def _record(model: GraphSCI, adata: AnnData, cells: Cells, job: Job) -> dict[str, Any]:
    """Return the run record of a job."""
    request = Request.of(adata, **job.request)
    return record_of_data(
        model, adata, cells, request, job.slots, stored=job.stored, layer=job.layer
    )


def _extend_copy(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, team: Team | None
) -> None:
    """Copy the input's file and add the results to the copy, a block of cells at a time."""
    slots = job.slots
    record = _record(model, adata, cells, job)
    genes = anndata.AnnData(obs=adata.obs.iloc[:0].copy(), var=adata.var.copy())
    annotate_genes(model, genes, slots)
    elements: dict[str, Any] = {
        "var": genes.var,
        f"varm/{slots.gene_embedding}": genes.varm[slots.gene_embedding],
        f"varp/{slots.gene_graph}": genes.varp[slots.gene_graph],
        f"uns/{slots.uns}": record,
    }
    others = without_replaced(adata, map(job.stored, job.names), slots)
    elements |= {f"uns/{key}": other for key, other in others.items()}
    own = [*slots.columns_of_cells]
    if job.make_names_unique or adata.obs.columns.isin(own).any():
        elements["obs"] = adata.obs.drop(columns=own, errors="ignore")
    replaced = {f"{job.place}/{job.stored(name)}" for name in job.names} | {f"obsm/{slots.latent}"}
    if job.make_names_unique:
        tables = _tables(adata)
        elements = {name: tables[name] for name in tables.keys() - replaced} | elements
    with atomic_path(job.output) as temporary:
        copy_anndata(job.source, temporary, without=replaced | elements.keys())
        adata.uns[slots.uns] = record
        add_elements(temporary, elements)
        _stream_all(model, adata, cells, job, temporary, team)


def _add_columns(model: GraphSCI, cells: Cells, slots: Keys, path: Path) -> NDArray[np.float32]:
    """Write into ``obs`` what is known of cells; return their misfit, which was streamed."""
    add_column(path, "obs", slots.library, cells.totals)
    with open_store(path, "r+") as root:
        embedding, misfit = root["obsm"][slots.latent][:], root["obsm"][_MISFIT][:, 0]
        del root["obsm"][_MISFIT]
    if model.count_network is not None:
        add_column(path, "obs", slots.certainty, cell_certainty(model.count_network, embedding))
    add_column(path, "obs", slots.misfit, misfit)
    return np.asarray(misfit)


def _tables(adata: AnnData) -> dict[str, pd.DataFrame]:
    """Tables beside the matrices, by their place in a file; their index is that of adata."""
    return {
        f"{slot}/{name}": table
        for slot in ("obsm", "varm")
        for name, table in getattr(adata, slot).items()
        if isinstance(table, pd.DataFrame)
    }


def _stream_all(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, path: Path, team: Team | None
) -> None:
    """Write estimates and what is known of cells; record what was lost, and many misfits."""
    lost = _stream(model, adata, cells, job, path, team)
    note = misfit_note(_add_columns(model, cells, job.slots, path), job.slots.misfit)
    if lost or note:
        record = adata.uns[job.slots.uns]
        for name, dropped in lost.pop("dropped", {}).items():
            record["estimates"][job.stored(name)]["dropped"] = dropped
        record |= lost
        record["notes"] += [] if note is None else [note]
        add_elements(path, {f"uns/{job.slots.uns}": record})


def _stream(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, path: Path, team: Team | None
) -> dict[str, Any]:
    """Write estimates, as dense or sparse layers or as tables; return what these do not hold.

    Where a team shares the layers, this is the first process's part.
    """
    layers, dense = {name: job.slots.layer(name) for name in job.names}, _dense_layers(job)
    shared = team if is_shared(job) else None
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(_layer_writer(model, cells, job, path, shared))
        sink = None
        if not dense:
            root = stack.enter_context(open_store(path, "r+"))
            sink = _sparse_or_table(root, layers, job)
        if shared is None:
            clipped = _write_blocks(model, adata, cells, job, writer, sink)
        else:
            shared.agreed(path)  # the others may begin
            clipped = _write_own_blocks(model, adata, cells, job, writer, shared)
        dropped = sink.dropped() if isinstance(sink, SparseLayers) else {}
    lost = {"clipped": clipped, "dropped": dropped}
    return {name: found for name, found in lost.items() if found}


def _write_own_blocks(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, writer: LayerWriter, team: Team
) -> int:
    """Write this process's share of the estimates; return what all of them clipped."""
    own = team.together(lambda: _write_blocks(model, adata, cells, job, writer, team=team))
    share = team.mean(torch.tensor(own, dtype=torch.float64, device=team.device))
    return round(float(share) * team.size)


def _write_blocks(
    model: GraphSCI,
    adata: AnnData,
    cells: Cells,
    job: Job,
    writer: LayerWriter,
    sink: SparseLayers | TableWriter | None = None,
    team: Team | None = None,
) -> int:
    """Write all blocks of estimates, or this process's share; return how many values it clips."""
    layers = {name: job.slots.layer(name) for name in job.names}
    n_clipped = 0
    request, latent = Request.of(adata, **job.request), job.slots.latent
    own = ALL if team is None else team.share(len(cells.starts()))
    for block in estimate_blocks(model.fitted, cells, request, latent=latent, chunks=own):
        if job.dtype == "float16":
            n_clipped += _clip(block.values[name] for name in layers)
        values = {layers.get(name, name): part for name, part in block.values.items()}
        values[_MISFIT] = block.misfit[:, None]
        writer.write(block.start, {name: values[name] for name in writer.slots})
        if sink is not None:
            sink.append({name: values[layer] for name, layer in layers.items()})
    return n_clipped


def _clip(blocks: Iterable[NDArray[np.floating]]) -> int:
    """Cut values, in place, at the largest that float16 holds; return how many there were."""
    n_clipped = 0
    for values in blocks:
        n_clipped += int(np.count_nonzero(values > LARGEST_HALF))
        np.minimum(values, LARGEST_HALF, out=values)
    return n_clipped


def _layer_writer(
    model: GraphSCI, cells: Cells, job: Job, path: Path, team: Team | None
) -> LayerWriter:
    """Open the output for dense layers and embedding: all rows, or this process's."""
    return stream_layers(
        path,
        cells.source.shape,
        _dense_layers(job),
        dtype=job.dtype,
        compression=job.compression,
        embeddings={job.slots.latent: model.fitted.spec.config.n_latent, _MISFIT: 1},
        rows=None if team is None else _own_rows(cells, team),
        begun=team is not None and team.rank > 0,
    )


def _own_rows(cells: Cells, team: Team) -> slice:
    """Cells whose estimates this process writes: whole chunks."""
    bounds = [*cells.starts(), cells.n_cells]
    own = team.share(len(bounds) - 1)
    return slice(bounds[own.start], bounds[own.stop])


def write_share(model: GraphSCI, adata: AnnData, job: Job, team: Team) -> None:
    """Write this process's part of the layers that the first one has made."""
    cells = model.prepare(adata, **job.where)
    path = team.agreed(job.output)  # the first one says which temporary path it is
    with _layer_writer(model, cells, job, path, team) as writer:
        _write_own_blocks(model, adata, cells, job, writer, team)


def _sparse_or_table(root: Any, layers: Mapping[str, str], job: Job) -> SparseLayers | TableWriter:
    if job.genes is None:
        assert job.drop_below is not None
        return SparseLayers(root, layers, below=job.drop_below, compression=job.compression)
    tables = {name: job.slots.table(name) for name in layers}
    return TableWriter(root, tables, job.genes, dtype=job.dtype)


def is_shared(job: Job) -> bool:
    """Whether several processes can write the estimates: chunks of a ``.zarr`` are files."""
    return is_store(job.output) and bool(_dense_layers(job))


def _dense_layers(job: Job) -> list[str]:
    """Layers that are written densely: all, unless genes or large values alone were chosen."""
    if job.genes is not None or job.drop_below is not None:
        return []
    return [job.slots.layer(name) for name in job.names]
