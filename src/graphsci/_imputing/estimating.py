"""A trained model applied to cells: their counts are prepared, and estimated in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphsci import estimates as es
from graphsci._imputing.as_batch import in_batch
from graphsci._imputing.request import Request
from graphsci.advance import Meter
from graphsci.io.sources import CHUNK_CELLS, CountSource, divided, read_ahead
from graphsci.nn import cell_blocks
from graphsci.nn.misfit import limit_at, misfit
from graphsci.nn.model import CountNetwork, Network
from graphsci.nn.model_parts import CellBlock, CountDistribution
from graphsci.preprocessing import (
    GeneMatch,
    align_counts,
    check_is_anndata,
    library_sizes,
    match_genes,
    open_counts,
    read_batches,
)
from graphsci.training.copies import SIGN_OF_COPIES, find_copies
from graphsci.training.fitting import Fitted, ModelSpec

if TYPE_CHECKING:
    from anndata import AnnData

#: All chunks of the cells.
ALL = slice(None)
#: Cells that can be compared with those of training, and how many times fewer counts a molecule
#: they may have: divided counts have half a count of each, by zeros, and a fifth at least.
_FEWEST_COMPARED, _UNLIKE_TRAINING = 30, 8.0
#: Chunks that are read where a few of them tell enough.
_SOME_CHUNKS = 10


class Cells(NamedTuple):
    """Cells prepared for a trained model: its genes, its batches, its depth.

    The counts stay where they are, in memory or in a file, and are read in chunks. They are
    counts / copies of the model: its molecules.
    """

    source: CountSource  #: all cells and genes of the data
    gene_names: NDArray[np.str_]  #: genes of the data
    batch: NDArray[np.int64]  #: (cells,)
    totals: NDArray[np.float64]  #: (cells,) counts in all genes of the data, as they came
    n_detected: int  #: genes of the data with a count in any of the cells
    measured_share: float  #: share of the training molecules in the genes that were measured
    match: GeneMatch
    notes: tuple[str, ...]  #: what the check of the counts has to say
    batch_key: str | None  #: column of obs with the batches that the model uses

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.source.shape[0]

    @property
    def counts(self) -> sparse.csr_matrix:
        """(cells, model genes), all of them in memory: for parts of the data."""
        return align_counts(self.source.rows(0, self.n_cells), self.match)

    @property
    def library(self) -> NDArray[np.float64]:
        """(cells,) counts in the model's genes; reads all cells, in chunks."""
        parts = [library_sizes(align_counts(chunk, self.match)) for _, chunk in self.chunks()]
        return np.concatenate(parts)

    def starts(self) -> range:
        """First cells of the chunks in which the counts are read."""
        return range(0, self.n_cells, CHUNK_CELLS)

    def chunks(self, which: slice = ALL) -> Iterator[tuple[int, sparse.csr_matrix]]:
        """Yield the first cell and the counts of chunks, the next one read ahead."""
        return read_ahead(lambda at: (at, self.chunk(at)), self.starts()[which])

    def some_starts(self, of: NDArray[np.int64] | None = None) -> list[int]:
        """First cells of at most ten chunks, evenly spread over all, or those with cells ``of``."""
        starts = np.array(self.starts())
        if of is not None:
            starts = starts[np.unique(np.searchsorted(starts, of, "right") - 1)]
        return [int(start) for start in evenly(starts, _SOME_CHUNKS)]

    def chunk(self, start: int) -> sparse.csr_matrix:
        """Counts of the chunk whose first cell is ``start``."""
        return self.source.rows(start, min(start + CHUNK_CELLS, self.n_cells))

    def block(
        self, counts: sparse.csr_matrix, batch: NDArray[np.int64], device: torch.device
    ) -> CellBlock:
        """Some cells, (cells, model genes) and (cells,), as the network takes them."""
        block = cell_blocks.move_cells(counts, batch, device)
        # genes that were not measured still have a share of the cell's molecules
        return block._replace(library=block.library / self.measured_share)


def evenly(values: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """At most ``number`` of the values, evenly spread over their places."""
    places = np.linspace(0, len(values) - 1, min(number, len(values)))
    return values[places.astype(int)]


class EstimateBlock(NamedTuple):
    """Estimates of consecutive cells."""

    start: int  #: position of the first cell
    values: dict[str, NDArray[np.floating]]  #: name -> (cells, genes)
    misfit: NDArray[np.float32]  #: (cells,) 1 is what 99 of 100 known cells stay within
    size_factors: NDArray[np.float32]  #: (cells,) own depth / common depth; 0 of an empty cell


class _Rows(NamedTuple):
    """Consecutive cells, ready for the network."""

    start: int
    block: CellBlock  # the model's genes, on the device
    counts: sparse.csr_matrix  # (cells, genes of the data)
    library: NDArray[np.float64]  # (cells,) counts in the model's genes


def prepare(
    spec: ModelSpec,
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    allow_fractional: bool = False,
) -> Cells:
    """Check the counts of ``adata`` and bring them to the model's genes and batches."""
    check_is_anndata(adata)
    if spec.batch_names and batch_key is None:
        raise ValueError(
            f"The model was trained with batches ({', '.join(spec.batch_names)}): "
            "give batch_key, the column of obs that holds them."
        )
    batch = _batch_codes(adata, batch_key, spec.batch_names)
    data = open_counts(adata, layer=layer, allow_fractional=allow_fractional, min_cells=1)
    match = match_genes(spec.gene_names, data.gene_names)
    measured = match.positions >= 0
    share = 1.0 if measured.all() else float(spec.gene_proportions[measured].sum(dtype=float))
    notes = data.notes
    if batch_key is not None and not spec.batch_names:
        notes += (no_effect(batch_key),)
    used = batch_key if spec.batch_names else None
    copies = np.ones(len(data.gene_names), np.float32)
    copies[match.positions[measured]] = spec.copies[measured]
    n_detected = int(np.count_nonzero(~data.undetected_genes))
    return Cells(
        divided(data.counts, copies),
        data.gene_names,
        batch,
        data.totals,
        n_detected,
        share,
        match,
        notes,
        used,
    )


def no_effect(batch_key: str) -> str:
    """What to say of batches that a model does not know of."""
    return f"batch_key {batch_key!r} has no effect: the model was trained without batches."


def _batch_codes(
    adata: AnnData, batch_key: str | None, names: tuple[str, ...]
) -> NDArray[np.int64]:
    """Batch of each cell, (cells,); all 0 for a model without batches."""
    if batch_key is None:
        return np.zeros(adata.n_obs, np.int64)
    if not names and batch_key in adata.obs:
        return np.zeros(adata.n_obs, np.int64)
    codes, found = read_batches(adata, batch_key)
    positions = pd.Index(names).get_indexer(pd.Index(found, dtype=object))
    unknown = [name for name, position in zip(found, positions, strict=True) if position < 0]
    if unknown:
        raise ValueError(
            f"batch_key: batches {', '.join(unknown[:5])} were not in training; the model knows "
            f"{', '.join(names)}. Train with them, or map them to a known batch."
        )
    return np.asarray(positions[codes], dtype=np.int64)


def copies_note(fitted: Fitted, cells: Cells) -> str | None:
    """What to say if cells were not counted as those of training were; else None.

    Costs a read of at most 2,000 cells.
    """
    found = find_copies(cells.source)
    times = found.of_zeros / fitted.copies_left
    of_reads = fitted.spec.is_divided or fitted.copies_left > 1
    more = found.seen and times >= SIGN_OF_COPIES
    fewer = of_reads and times <= 1 / _UNLIKE_TRAINING
    if found.n_cells < _FEWEST_COMPARED or not (more or fewer):
        return None
    usual = float(np.median(fitted.spec.copies))
    here, there = usual * found.of_zeros, usual * fitted.copies_left
    return (
        f"These cells have about {here:.3g} counts for each molecule, as far as zeros tell, and "
        f"those that the model was trained on had {there:.3g}: reads are not counted as molecules "
        "are. Train on cells that were counted alike."
    )


class CellStates(NamedTuple):
    """States of cells, and what the cells show of the model's genes."""

    states: NDArray[np.float32]  #: (cells, latent) z, as the network has them
    library: NDArray[np.float64]  #: (cells,) counts in the model's genes
    n_seen: NDArray[np.int64]  #: (genes,) cells with a count of each gene
    gene_totals: NDArray[np.float64]  #: (genes,) counts of each gene


def cell_states(network: Network, cells: Cells) -> CellStates:
    """Encode all cells, in one pass over their counts."""
    n_genes = len(cells.match.positions)
    n_seen, totals = np.zeros(n_genes, np.int64), np.zeros(n_genes)
    parts = []
    with torch.inference_mode():
        for rows in _row_blocks(network, cells):
            parts.append((network.latent(rows.block).numpy(force=True), rows.library))
            genes, counts = (x.numpy(force=True) for x in (rows.block.genes, rows.block.counts))
            n_seen += np.bincount(genes, minlength=n_genes)
            totals += np.bincount(genes, counts, minlength=n_genes)
    states, library = zip(*parts, strict=True)
    return CellStates(np.concatenate(states), np.concatenate(library), n_seen, totals)


def cell_embedding(network: Network, cells: Cells) -> NDArray[np.float32]:
    """Coordinates of all cells as they are reported, (cells, latent)."""
    with torch.inference_mode():
        blocks = (rows.block for rows in _row_blocks(network, cells))
        parts = [network.cell_coordinates(network.latent(block)) for block in blocks]
        return torch.cat(parts).numpy(force=True)


def cell_certainty(network: CountNetwork, embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """Certainty of cells by their ``embedding`` (cells, latent), (cells,)."""
    with torch.inference_mode():
        coordinates = torch.from_numpy(embedding).to(network.to_certainty.device)
        z = network.uncertainty.states.to_z(coordinates)
        return network.certainty(z).numpy(force=True)


def estimate_blocks(
    fitted: Fitted,
    cells: Cells,
    request: Request,
    *,
    latent: str | None = None,
    chunks: slice = ALL,
    mean_is_known: bool = False,
) -> Iterator[EstimateBlock]:
    """Yield what is requested for prepared cells, in blocks.

    ``latent``: under this name the cell embedding (cells, latent) is added to the values.
    ``chunks``: which of the :meth:`Cells.chunks`, where processes share the work.
    ``mean_is_known``: standard deviations are those of the rates given what the model predicts.
    """
    spec, network = fitted.spec, fitted.network
    place = _Placement.of(cells.gene_names[request.columns], spec)
    divided_by = place.copies(spec)
    outside, in_data = request.columns[place.outside], cells.match.positions >= 0
    code = None if request.as_batch is None else spec.batch_names.index(request.as_batch)
    for start, block, counts, library in _row_blocks(network, cells, chunks):
        with torch.inference_mode():
            z = network.latent(block)
            predicted = network.expression(block, z=z)
            dense = block.dense(block.counts, len(spec.gene_names))
            both = predicted, dense
            misfits = misfit(*(both if in_data.all() else _chosen(*both, np.flatnonzero(in_data))))
            uncertain, genes = None, torch.as_tensor(place.model_genes, device=z.device)
            if not mean_is_known and "denoised_sd" in request.names:
                seen = block._replace(library=torch.as_tensor(library).to(z))
                uncertain = network.log_mean_variance(z, seen, genes)
            rate = es.posterior(*_chosen(*both, place.model_genes), uncertain)
            there = None
            if code is not None:
                there, rate = in_batch(network, block, z, code, rate, genes)
            values = es.compute_estimates(rate, request.names, interval_level=request.interval)
            values = values if there is None else there.of(values)
        measured, empty = counts[:, outside].toarray(), library == 0
        values = {name: place.fill(name, v, measured, empty) for name, v in values.items()}
        if divided_by is not None:
            values = {name: _multiplied(name, v, divided_by) for name, v in values.items()}
        factors = library / cells.measured_share / spec.common_depth
        values = es.rescale(values, size_factors=factors, depth=request.depth, scale=request.scale)
        if latent is not None:
            values[latent] = network.cell_coordinates(z).numpy(force=True)
        relative = misfits.numpy(force=True) / limit_at(fitted.misfit_limits, factors)
        yield EstimateBlock(start, values, *(x.astype(np.float32) for x in (relative, factors)))


def estimate_all(fitted: Fitted, cells: Cells, request: Request, *, latent: str) -> EstimateBlock:
    """Return what is requested for all cells, in memory, as one block with the embedding."""
    n_cells = cells.n_cells
    widths = dict.fromkeys(request.names, len(request.columns))
    widths[latent] = fitted.spec.config.n_latent
    values = {name: np.empty((n_cells, n), np.float32) for name, n in widths.items()}
    found = EstimateBlock(0, values, *(np.empty(n_cells, np.float32) for _ in range(2)))
    meter = Meter("estimating", n_cells)
    for block in estimate_blocks(fitted, cells, request, latent=latent):
        stop = block.start + len(block.misfit)
        for name, part in block.values.items():
            values[name][block.start : stop] = part
        found.misfit[block.start : stop] = block.misfit
        found.size_factors[block.start : stop] = block.size_factors
        meter.reach(stop)
    return found


def _row_blocks(network: Network, cells: Cells, chunks: slice = ALL) -> Iterator[_Rows]:
    device = next(network.parameters()).device
    for first, chunk in cells.chunks(chunks):
        aligned = align_counts(chunk, cells.match)
        for at, rows in cell_blocks.row_blocks(chunk.shape[0]):
            part = aligned[rows]
            block = cells.block(part, cells.batch[first + rows], device)
            yield _Rows(first + at, block, chunk[rows], library_sizes(part))


def _multiplied(
    name: str, values: NDArray[np.float32], copies: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Estimates (cells, genes) times ``copies`` (genes,); `imputed` has counts back as they were.

    A count that was divided and multiplied may be off by the last bit.
    """
    values = values * copies
    if not name.startswith("imputed"):
        return values
    whole = np.rint(values)
    return np.where(np.abs(values - whole) <= 1e-6 * whole, whole, values)


class _Placement(NamedTuple):
    """Where the model's genes stand among the columns of an output."""

    model_genes: NDArray[np.int64]  # positions in the model
    columns: NDArray[np.int64]  # their columns in the output
    outside: NDArray[np.int64]  # columns of genes that the model knows nothing of
    unexpressed: NDArray[np.bool_]  # which of those training saw, without a molecule

    @classmethod
    def of(cls, wanted: NDArray[np.str_], spec: ModelSpec) -> _Placement:
        position = pd.Index(spec.gene_names).get_indexer(pd.Index(wanted))
        known, outside = np.flatnonzero(position >= 0), np.flatnonzero(position < 0)
        return cls(position[known], known, outside, np.isin(wanted[outside], spec.undetected))

    def copies(self, spec: ModelSpec) -> NDArray[np.float32] | None:
        """What estimates of each column are multiplied by; None for nothing."""
        found = np.ones(len(self.columns) + len(self.outside), np.float32)
        found[self.columns] = spec.copies[self.model_genes]
        return found if (found != 1).any() else None

    def fill(
        self,
        name: str,
        values: NDArray[np.floating],
        measured: NDArray[np.floating],
        empty: NDArray[np.bool_],
    ) -> NDArray[np.float32]:
        """Spread ``values`` (cells, model genes) over the output's columns.

        ``measured`` (cells, outside genes) are the counts of genes that the model knows nothing
        of: `imputed` keeps them. What cannot be said is NaN: anything else about them, but for
        zeros of genes that had none in training either. Empty cells are 0.
        """
        out = np.zeros((len(values), len(self.columns) + len(self.outside)), dtype=np.float32)
        out[:, self.columns] = values
        out[empty] = 0.0
        if name.startswith("imputed"):
            out[:, self.outside] = measured
        else:
            out[:, self.outside] = np.where((measured == 0) & self.unexpressed, 0.0, np.nan)
        return out


def _chosen(
    predicted: CountDistribution, dense: torch.Tensor, genes: NDArray[np.int64]
) -> tuple[CountDistribution, torch.Tensor]:
    """Keep the columns ``genes`` of a predicted distribution and of the counts."""
    index = torch.as_tensor(genes, device=dense.device)
    mean, theta, logits = predicted
    part = CountDistribution(
        mean[:, index],
        theta[..., index],
        None if logits is None else logits[:, index],
    )
    return part, dense[:, index]
