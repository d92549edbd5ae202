"""Writing of a run's estimates: streamed in blocks of cells, by one process or by several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from graphsci import io
from graphsci._imputing.annotation import annotate_genes, record_of_data, without_replaced
from graphsci._imputing.as_batch import left_note
from graphsci._imputing.estimating import (
    ALL,
    Cells,
    cell_certainty,
    copies_note,
    estimate_blocks,
)
from graphsci._imputing.gene_notes import gene_notes
from graphsci._imputing.misfits import misfit_note
from graphsci._imputing.request import Request
from graphsci.advance import Meter
from graphsci.imputer import GraphSCI
from graphsci.io.files import atomic_path, is_store
from graphsci.io.layers import LayerWriter, stream_layers
from graphsci.io.streams import (
    SparseLayers,
    TableWriter,
    add_column,
    add_elements,
    copy_anndata,
    open_store,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci._jobs.impute import Job
    from graphsci.training.distributed import Team

#: Where in ``obsm`` misfit and size factor of cells are streamed to, by one process or by several,
#: until all are there and become columns of ``obs``.
_OF_CELLS = "graphsci columns of cells, being written"
#: What float16 holds at most; a larger value would be stored as infinite.
LARGEST_HALF = 65_504


def write_estimates(
    model: GraphSCI,
    adata: AnnData,
    cells: Cells,
    job: Job,
    team: Team | None = None,
) -> None:
    """Write ``adata`` with its estimates, whole or not at all.

    Estimates are streamed, so that no cells x genes matrix is in memory; those of chosen genes
    go to ``obsm`` as tables. ``adata`` itself gets everything else. An input that is on disk is
    copied there, and never in memory. A ``team`` shares the layers of a ``.zarr``.
    """
    stream, slots = _Stream.of(model, adata, cells, job, team), job.slots
    others = without_replaced(adata, map(job.stored, job.names), slots)
    adata.uns[slots.uns] = record_of_data(
        model, adata, cells, stream.request, slots, stored=job.stored, layer=job.layer
    )
    on_disk = cells.source.on_disk
    if not on_disk:
        annotate_genes(model, adata, slots)
        adata.uns.update(others)
        adata.obs = adata.obs.drop(columns=[*slots.columns_of_cells], errors="ignore")
        for name in _replaced(job):  # the check before training allowed it
            place, _, key = name.partition("/")
            getattr(adata, place).pop(key, None)
    with atomic_path(job.output) as temporary:
        if on_disk:
            _copy_extended(model, adata, job, temporary, others)
        else:
            io.write_anndata(adata, temporary)
        lost, misfit, embedding = stream.write(temporary)
        said = (
            *gene_notes(model.fitted.spec, cells, stream.request.columns),
            misfit_note(model.fitted, cells, misfit, slots.misfit),
            left_note(model.fitted, cells, embedding, stream.request.as_batch),
            copies_note(model.fitted, cells),
        )
        notes = list(filter(None, said))
        if lost or notes:
            record = adata.uns[slots.uns]
            for name, dropped in lost.pop("dropped", {}).items():
                record["estimates"][job.stored(name)]["dropped"] = dropped
            record |= lost
            record["notes"] += notes
            add_elements(temporary, {f"uns/{slots.uns}": record})


def write_share(model: GraphSCI, adata: AnnData, job: Job, team: Team) -> None:
    """Write this process's part of the layers that the first one has made."""
    cells = model.prepare(adata, **job.where)
    path = team.agreed(job.output)  # the first one says which temporary path it is
    stream = _Stream.of(model, adata, cells, job, team)
    with stream.layer_writer(path) as writer:
        stream.fill(writer)


def is_shared(job: Job) -> bool:
    """Whether several processes can write the estimates: chunks of a ``.zarr`` are files."""
    return is_store(job.output) and bool(_dense_layers(job))


def _dense_layers(job: Job) -> list[str]:
    """Layers that are written densely: all, unless genes or large values alone were chosen."""
    if job.genes is not None or job.drop_below is not None:
        return []
    return [job.slots.layer(name) for name in job.names]


# --- the file that the estimates go to --------------------------------------------------


def _replaced(job: Job) -> set[str]:
    """What the input may have in places of the estimates and the embedding."""
    return {f"{job.place}/{job.stored(name)}" for name in job.names} | {f"obsm/{job.slots.latent}"}


def _copy_extended(
    model: GraphSCI, adata: AnnData, job: Job, path: Path, others: dict[str, Any]
) -> None:
    """Copy the input's file, with what was learned of genes, the record and ``others`` of runs."""
    slots = job.slots
    genes = anndata.AnnData(obs=adata.obs.iloc[:0].copy(), var=adata.var.copy())
    annotate_genes(model, genes, slots)
    elements: dict[str, Any] = {
        "var": genes.var,
        f"varm/{slots.gene_embedding}": genes.varm[slots.gene_embedding],
        f"varp/{slots.gene_graph}": genes.varp[slots.gene_graph],
        f"uns/{slots.uns}": adata.uns[slots.uns],
    }
    elements |= {f"uns/{key}": other for key, other in others.items()}
    own = [*slots.columns_of_cells]
    if job.make_names_unique or adata.obs.columns.isin(own).any():
        elements["obs"] = adata.obs.drop(columns=own, errors="ignore")
    replaced = _replaced(job)
    if job.make_names_unique:
        tables = _tables(adata)
        elements = {name: tables[name] for name in tables.keys() - replaced} | elements
    copy_anndata(job.source, path, without=replaced | elements.keys())
    add_elements(path, elements)


def _tables(adata: AnnData) -> dict[str, pd.DataFrame]:
    """Tables beside the matrices, by their place in a file; their index is that of adata."""
    return {
        f"{slot}/{name}": table
        for slot in ("obsm", "varm")
        for name, table in getattr(adata, slot).items()
        if isinstance(table, pd.DataFrame)
    }


# --- the estimates ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Stream:
    """Estimates of cells, on their way into a file that has everything else."""

    model: GraphSCI
    cells: Cells
    job: Job
    request: Request
    team: Team | None  #: who share the layers: each process writes whole chunks of cells

    @classmethod
    def of(
        cls, model: GraphSCI, adata: AnnData, cells: Cells, job: Job, team: Team | None
    ) -> _Stream:
        request = Request.of(adata, **job.request)
        return cls(model, cells, job, request, team if is_shared(job) else None)

    @property
    def layers(self) -> dict[str, str]:
        """Names of the estimates, and of their layers."""
        return {name: self.job.slots.layer(name) for name in self.job.names}

    @property
    def chunks(self) -> slice:
        """Those of the cells' chunks that this process writes."""
        return ALL if self.team is None else self.team.share(len(self.cells.starts()))

    @property
    def rows(self) -> slice:
        """The cells that this process writes."""
        if self.team is None:
            return slice(0, self.cells.n_cells)
        bounds = [*self.cells.starts(), self.cells.n_cells]
        return slice(bounds[self.chunks.start], bounds[self.chunks.stop])

    def write(self, path: Path) -> tuple[dict[str, Any], NDArray[np.float32], NDArray[np.float32]]:
        """Write estimates, as dense or sparse layers or as tables, and what is known of cells.

        Return what the estimates do not hold, the cells' misfit and their embedding. Where a team
        shares the layers, this is the first process's part.
        """
        sink = None
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(self.layer_writer(path))
            if not _dense_layers(self.job):
                sink = self._sparse_or_table(stack.enter_context(open_store(path, "r+")))
            if self.team is not None:
                self.team.agreed(path)  # the others may begin
            clipped = self.fill(writer, sink)
            dropped = sink.dropped() if isinstance(sink, SparseLayers) else {}
        lost = {"clipped": clipped, "dropped": dropped}
        return {name: found for name, found in lost.items() if found}, *self._add_columns(path)

    def layer_writer(self, path: Path) -> LayerWriter:
        """Open the output for dense layers and embedding: all rows, or this process's."""
        job = self.job
        return stream_layers(
            path,
            self.cells.source.shape,
            _dense_layers(job),
            dtype=job.dtype,
            compression=job.compression,
            embeddings={job.slots.latent: self.model.fitted.spec.config.n_latent, _OF_CELLS: 2},
            rows=None if self.team is None else self.rows,
            begun=self.team is not None and self.team.rank > 0,
        )

    def _sparse_or_table(self, root: Any) -> SparseLayers | TableWriter:
        job, layers = self.job, self.layers
        if job.genes is None:
            assert job.drop_below is not None
            return SparseLayers(root, layers, below=job.drop_below, compression=job.compression)
        tables = {name: job.slots.table(name) for name in layers}
        return TableWriter(root, tables, job.genes, dtype=job.dtype)

    def fill(self, writer: LayerWriter, sink: SparseLayers | TableWriter | None = None) -> int:
        """Write all blocks, or this process's share; return how many values all of them clip."""
        team = self.team
        if team is None:
            return self._write_blocks(writer, sink)
        own = team.together(lambda: self._write_blocks(writer, sink))
        share = team.mean(torch.tensor(own, dtype=torch.float64, device=team.device))
        return round(float(share) * team.size)

    def _write_blocks(self, writer: LayerWriter, sink: SparseLayers | TableWriter | None) -> int:
        layers, latent, n_clipped = self.layers, self.job.slots.latent, 0
        meter = Meter("writing estimates", self.rows.stop - self.rows.start)
        for block in estimate_blocks(
            self.model.fitted, self.cells, self.request, latent=latent, chunks=self.chunks
        ):
            if self.job.dtype == "float16":
                n_clipped += _clip(block.values[name] for name in layers)
            values = {layers.get(name, name): part for name, part in block.values.items()}
            values[_OF_CELLS] = np.stack([block.misfit, block.size_factors], 1)
            writer.write(block.start, {name: values[name] for name in writer.slots})
            if sink is not None:
                sink.append({name: values[layer] for name, layer in layers.items()})
            meter.reach(block.start + len(block.misfit) - self.rows.start)
        return n_clipped

    def _add_columns(self, path: Path) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Write into ``obs`` what is known of cells; return misfit and embedding, as streamed."""
        slots, network = self.job.slots, self.model.count_network
        add_column(path, "obs", slots.library, self.cells.totals)
        with open_store(path, "r+") as root:
            embedding = root["obsm"][slots.latent][:]
            misfit, size_factors = np.ascontiguousarray(root["obsm"][_OF_CELLS][:].T)
            del root["obsm"][_OF_CELLS]
        add_column(path, "obs", slots.size_factor, size_factors)
        if network is not None:
            add_column(path, "obs", slots.certainty, cell_certainty(network, embedding))
        add_column(path, "obs", slots.misfit, misfit)
        return np.asarray(misfit), np.asarray(embedding)


def _clip(blocks: Iterable[NDArray[np.floating]]) -> int:
    """Cut values, in place, at the largest that float16 holds; return how many there were."""
    n_clipped = 0
    for values in blocks:
        n_clipped += int(np.count_nonzero(values > LARGEST_HALF))
        np.minimum(values, LARGEST_HALF, out=values)
    return n_clipped
