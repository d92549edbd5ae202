"""Writing of a run's estimates: streamed in blocks of cells, by one process or by several."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata

from graphsci import io
from graphsci.files import atomic_path
from graphsci.imputer import ALL, Cells, GraphSCI, Request, keep_earlier_estimates
from graphsci.layers import LayerWriter, stream_layers
from graphsci.sources import DiskCounts
from graphsci.streams import (
    SparseLayers,
    TableWriter,
    add_elements,
    copy_anndata,
    open_store,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci._job import Job
    from graphsci.distributed import Team


def write_estimates(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, team: Team | None = None
) -> None:
    """Write ``adata`` with its estimates, whole or not at all.

    Layers are streamed, so that no cells x genes matrix is in memory; tables of a few genes
    go to ``obsm``. ``adata`` itself gets everything but the layers. An input that is on disk is
    copied there, and never in memory. A ``team`` shares the layers of a ``.zarr``.
    """
    request, slots = job.request, job.slots
    if isinstance(cells.source, DiskCounts):
        _extend_copy(model, adata, cells, job, team)
        return
    if job.genes is not None:
        model.impute(adata, **job.counts, **request, key_added=job.key_added, prefix=job.prefix)
        io.write_anndata(adata, job.output)
        return
    model.annotate(
        adata, cells, slots, stored=job.stored, names=job.names, layer=job.layer, **_scale(job)
    )
    for name in map(slots.layer, job.names):  # replaced: the check before training allowed it
        if name in adata.layers:
            del adata.layers[name]
    with atomic_path(job.output) as temporary:
        io.write_anndata(adata, temporary)
        dropped = _stream(model, adata, cells, job, temporary, team)
        if dropped:
            adata.uns[slots.uns]["dropped"] = dropped
            add_elements(temporary, {f"uns/{slots.uns}": adata.uns[slots.uns]})


def _scale(job: Job) -> dict[str, Any]:
    """Arguments that say what a number in the estimates means."""
    return {"depth": job.depth, "scale": job.scale, "level": job.interval}


def _extend_copy(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, team: Team | None
) -> None:
    """Copy the input's file and add the results to the copy, a block of cells at a time."""
    slots = job.slots
    record = model.record(names=job.names, stored=job.stored, layer=job.layer, **_scale(job))
    record["gene_match"] = cells.match.summary()
    keep_earlier_estimates(record, adata, slots)
    genes = anndata.AnnData(obs=adata.obs.iloc[:0].copy(), var=adata.var.copy())
    model.annotate_genes(genes, slots)
    elements: dict[str, Any] = {
        "var": genes.var,
        f"varm/{slots.gene_embedding}": genes.varm[slots.gene_embedding],
        f"varp/{slots.gene_graph}": genes.varp[slots.gene_graph],
        f"uns/{slots.uns}": record,
    }
    if job.make_names_unique:
        elements["obs"] = adata.obs
    matrices = {f"layers/{slots.layer(name)}" for name in job.names}
    with atomic_path(job.output) as temporary:
        copy_anndata(job.source, temporary, without=matrices | {f"obsm/{slots.latent}", *elements})
        add_elements(temporary, elements)
        dropped = _stream(model, adata, cells, job, temporary, team)
        if dropped:
            record["dropped"] = dropped
            add_elements(temporary, {f"uns/{slots.uns}": record})
    adata.uns[slots.uns] = record


def _stream(
    model: GraphSCI, adata: AnnData, cells: Cells, job: Job, path: Path, team: Team | None
) -> dict[str, Any]:
    """Write estimates, as dense or sparse layers or as tables; return what sparse ones drop.

    Where a team shares the layers, this is the first process's part.
    """
    layers, dense = {name: job.slots.layer(name) for name in job.names}, _dense_layers(job)
    shared = team if is_shared(job) else None
    with contextlib.ExitStack() as stack:
        writer, sink = None, None
        if dense or _streamed_latent(cells, job):
            writer = stack.enter_context(_layer_writer(model, cells, job, path, shared))
        if not dense:
            root = stack.enter_context(open_store(path, "r+"))
            sink = _sparse_or_table(root, layers, job)
        if shared is None:
            _write_blocks(model, adata, cells, job, writer, sink)
        else:
            shared.agreed(path)  # the others may begin
            shared.together(lambda: _write_blocks(model, adata, cells, job, writer, team=shared))
        return sink.dropped() if isinstance(sink, SparseLayers) else {}


def _write_blocks(
    model: GraphSCI,
    adata: AnnData,
    cells: Cells,
    job: Job,
    writer: LayerWriter | None,
    sink: SparseLayers | TableWriter | None = None,
    team: Team | None = None,
) -> None:
    """Write all blocks of estimates, or this process's share of them."""
    layers = {name: job.slots.layer(name) for name in job.names}
    request, latent = Request.of(adata, **job.request), _streamed_latent(cells, job)
    own = ALL if team is None else team.share(len(cells.starts()))
    for block in model.estimate_blocks(cells, request, latent=latent, chunks=own):
        values = {layers.get(name, name): part for name, part in block.values.items()}
        if writer is not None:
            writer.write(block.start, {name: values[name] for name in writer.slots})
        if sink is not None:
            sink.append({name: values[layer] for name, layer in layers.items()})


def _streamed_latent(cells: Cells, job: Job) -> str | None:
    """Name of the cell embedding if it is streamed too: in memory it is with the data already."""
    return job.slots.latent if isinstance(cells.source, DiskCounts) else None


def _layer_writer(
    model: GraphSCI, cells: Cells, job: Job, path: Path, team: Team | None
) -> LayerWriter:
    """Open the output for dense layers and embedding: all rows, or this process's."""
    latent = _streamed_latent(cells, job)
    return stream_layers(
        path,
        cells.source.shape,
        _dense_layers(job),
        dtype=job.dtype,
        compression=job.compression,
        embeddings={} if latent is None else {latent: model.fitted.spec.config.n_latent},
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
    cells = model.prepare(adata, **job.counts)
    path = team.agreed(job.output)  # the first one says which temporary path it is
    with _layer_writer(model, cells, job, path, team) as writer:
        team.together(lambda: _write_blocks(model, adata, cells, job, writer, team=team))


def _sparse_or_table(root: Any, layers: Mapping[str, str], job: Job) -> SparseLayers | TableWriter:
    if job.genes is None:
        assert job.drop_below is not None
        return SparseLayers(
            root, layers, below=job.drop_below, dtype=job.dtype, compression=job.compression
        )
    tables = {name: job.slots.table(name) for name in layers}
    return TableWriter(root, tables, job.genes, dtype=job.dtype)


def is_shared(job: Job) -> bool:
    """Whether several processes can write the estimates: chunks of a ``.zarr`` are files."""
    return job.output.suffix == ".zarr" and bool(_dense_layers(job))


def _dense_layers(job: Job) -> list[str]:
    """Layers that are written densely: all, unless genes or large values alone were chosen."""
    if job.genes is not None or job.drop_below is not None:
        return []
    return [job.slots.layer(name) for name in job.names]
