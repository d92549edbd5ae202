"""From checked counts to a trained model: what `GraphSCI.fit` does, on arrays.

The order matters for trust: molecules are held out first, and everything that learns (the
median library, the gene graph, the weights, when to stop) sees the rest alone.

Counts come in chunks from memory or from a file (:mod:`graphsci.blocks`). What has to look at
many cells together, the choice of the likelihood, the gene graph and the verdict, looks at a
random sample of them if there are more than fit in memory.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphsci import __version__, cell_blocks, objectives, training
from graphsci.blocks import (
    CountBlocks,
    KeptBlocks,
    MemoryBlocks,
    Thinning,
    TrainingBlocks,
    chunks_in_order,
    stack,
)
from graphsci.cell_random import RANDOM_NUMBERS
from graphsci.checkpoint import Checkpoint, digest
from graphsci.config import Config
from graphsci.devices import choose_device, repeatable
from graphsci.estimates import expected_measured, posterior
from graphsci.gene_graph import (
    GeneGraph,
    combine_graphs,
    correlation_graph,
    noise_corrected_graph,
    normalized_adjacency,
    relative_to_strongest,
)
from graphsci.io import refuse_more_than_memory
from graphsci.model import CountNetwork, Network
from graphsci.paper_model import PaperNetwork
from graphsci.pidc import pidc_graph
from graphsci.preprocessing import (
    CountData,
    detected_genes,
    fit_median_library_size,
    library_sizes,
    log_normalize,
    median_size,
    size_factors,
)
from graphsci.sources import CHUNK_CELLS, CountSource, MemoryCounts
from graphsci.variation import mean_shares, variation_p_values, weigh_evidence
from graphsci.verdict import Verdict, judge
from graphsci.zero_inflation import detect_zero_inflation

if TYPE_CHECKING:
    from graphsci.distributed import Team

#: Fewest cells whose held-out molecules say when to stop, where there are twice as many.
_FEWEST_DECIDING_CELLS = 20
#: Fewest cells whose scores can be compared. Their spread gives the standard error, which five
#: cells of pure noise underrate now and then by more than Student's t allows for.
_FEWEST_JUDGING_CELLS = 10
#: Counts per cell beyond which they are taken for reads: few cells hold as many mRNA molecules.
_MOST_MOLECULES = 300_000
#: Fewest cells for a correlation.
_FEWEST_GRAPH_CELLS = 3
#: Memory that an edge takes in training of the preset `paper`: weights, gradients and moments,
#: and products over the edges. 750,000 edges took 1.4 GiB, 1.9 million 3.1 GiB.
_BYTES_PER_EDGE = 1430
#: Added to every gene's molecules so that its starting log proportion is finite.
_PSEUDO_MOLECULES = 0.1

Log = Callable[[str], None]
T = TypeVar("T")


class ModelSpec(NamedTuple):
    """All that is needed, beside the weights, to build a network again."""

    config: Config
    likelihood: str  #: "nb" or "zinb"
    median_library: float  #: of the molecules trained on; what inputs are normalised to
    common_depth: float  #: median library size of the training cells, all molecules counted
    batch_names: tuple[str, ...]  #: empty without batches
    gene_names: NDArray[np.str_]  #: (genes,) the genes of the model, in order
    gene_proportions: NDArray[np.float32]  #: (genes,) share of all training molecules
    undetected: NDArray[np.str_]  #: genes of the training data without a molecule
    graph: GeneGraph  #: over ``gene_names``

    @property
    def n_batches(self) -> int:
        """Batches that the network tells apart; 1 for none."""
        return max(1, len(self.batch_names))


class Fitted(NamedTuple):
    """A trained model with the record of how it came about."""

    spec: ModelSpec
    network: Network
    history: list[training.EpochRecord]
    best_epoch: int
    stopped: str
    verdict: Verdict | None
    notes: tuple[str, ...]
    p_values: NDArray[np.float64] | None  #: (genes,) of predictable variation; None: not tested


class _Sample(NamedTuple):
    """Cells that are looked at together: all of them, or a random choice if there are many."""

    cells: NDArray[np.int64]  # positions among the training cells, ascending
    deciding: NDArray[np.int64]  # positions in the sample: withheld molecules say when to stop
    judging: NDArray[np.int64]  # positions in the sample: withheld molecules give the verdict


class _Split(NamedTuple):
    """Counts of the training cells and genes, divided before anything is learned."""

    kept: CountBlocks  # what is learned from
    sample: _Sample
    sample_kept: sparse.csr_matrix  # (sample, genes) the sample's part of ``kept``
    held_out: sparse.csr_matrix | None  # (sample, genes) molecules withheld
    molecules: NDArray[np.float64]  # (genes,) kept, over all training cells
    median_kept: float  # median library size of what was kept
    median_all: float  # median library size with all molecules


def fit(
    data: CountData[sparse.csr_matrix] | CountData[CountSource],
    config: Config,
    *,
    user_graph: GeneGraph | None = None,
    progress: training.Progress | None = None,
    log: Log = lambda message: None,
    checkpoint: Checkpoint | None = None,
    team: Team | None = None,
) -> Fitted:
    """Train a model on checked counts.

    Parameters
    ----------
    data
        Checked counts; empty cells and undetected genes are left out of training.
    config
        Hyper-parameters.
    user_graph
        A gene network over ``data.gene_names``, used instead of a computed one, or beside it
        with ``config.network_weight`` below 1.
    progress, log
        Called after every epoch; called with one line before every stage.
    checkpoint
        Where the state of training is kept, and taken up again.
    team
        The processes that train together; all of them call this with the same data.
    """
    if config.preset == "paper" and data.batch_names:
        raise ValueError(
            "batch_key: the preset 'paper' has no terms for batches, as published. Leave batch_key "
            "out, or use the preset 'default'."
        )
    device = choose_device(config.device) if team is None else team.device
    once = _here if team is None else team.once
    if checkpoint is not None:
        checkpoint.expect(**_run_identity(config, device))
    cells, genes = np.flatnonzero(~data.empty_cells), np.flatnonzero(~data.undetected_genes)
    source = MemoryCounts(data.counts) if sparse.issparse(data.counts) else data.counts
    counts = TrainingBlocks(source, cells, genes, seed=config.seed)
    batch = np.zeros(len(cells), np.int64) if data.batch is None else data.batch[cells]
    split = _split(counts, config)
    sample_batch = batch[split.sample.cells]
    notes = _notes_on(counts, split)

    likelihood, reason = once(lambda: _likelihood(split.sample_kept, config))
    log(reason)
    names = data.gene_names[genes]
    graph = once(lambda: _gene_graph(split.sample_kept, names, genes, config, user_graph))
    log(describe_graph(graph))
    molecules = split.molecules + _PSEUDO_MOLECULES
    spec = ModelSpec(
        config=config,
        likelihood=likelihood,
        median_library=split.median_kept,
        common_depth=split.median_all,
        batch_names=data.batch_names,
        gene_names=names,
        gene_proportions=(molecules / molecules.sum()).astype(np.float32),
        undetected=data.gene_names[data.undetected_genes],
        graph=graph,
    )
    # the sums of the default's training have one order by themselves
    ordered = repeatable(device) if config.preset == "paper" else contextlib.nullcontext()
    with ordered, torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        network = build_network(spec).to(device)
        objective = _objective(network, split, batch, spec, device)
        if team is not None:
            batch_size = training.batch_size_for(objective.n_cells, config)
            objective = team.shared(objective, batch_size)
        if checkpoint is not None:
            checkpoint.expect(**_data_identity(data, spec, batch))
            if (line := checkpoint.found()) is not None:
                log(line)
        result = training.train(objective, config, progress=progress, checkpoint=checkpoint)
    notes += (*data.notes, reason, describe_graph(graph), *graph.notes)
    p_values = None
    judged: tuple[Network, ...] = (network,)
    if isinstance(network, CountNetwork):
        log("testing which genes vary predictably")
        tested = once(lambda: _tested(network, spec, split, sample_batch))
        p_values = tested[0]
        judged, found = _weighed(network, tested, spec, split, sample_batch)
        notes += found
        if network.zero_inflated:
            for one in (network, *judged):
                one.move_dropout_curve(math.log(split.median_all / split.median_kept))
    verdict, missing = None, tuple[str, ...]()
    if config.check:
        log("checking against held-out molecules")
        verdict, missing = once(lambda: _judge(judged, spec, split, sample_batch, device))
    notes += missing
    return Fitted(
        spec,
        network.eval(),
        result.history,
        result.best_epoch,
        result.stopped,
        verdict,
        notes,
        p_values,
    )


def _tested(
    network: CountNetwork, spec: ModelSpec, split: _Split, batch: NDArray[np.int64]
) -> NDArray[np.float64]:
    """P-values of the genes' variation: all that is known, then what others than a fold know.

    ``batch`` (sample,).
    """
    return variation_p_values(
        network,
        split.sample_kept,
        split.held_out,
        batch,
        n_batches=spec.n_batches,
        seed=spec.config.seed,
        unseen=_folds(split.sample) if spec.config.check else (),
    )


def _weighed(
    network: CountNetwork,
    tested: NDArray[np.float64],
    spec: ModelSpec,
    split: _Split,
    batch: NDArray[np.int64],
) -> tuple[tuple[CountNetwork, ...], tuple[str, ...]]:
    """Weigh the evidence in ``network``; return what each fold of the cells judges, and notes.

    A fold judges a copy whose evidence does not come from the molecules that the fold withheld.
    """
    level = spec.config.variation_level
    shares = mean_shares(
        split.sample_kept,
        batch,
        spec.gene_proportions,
        n_batches=spec.n_batches,
    )
    judged = tuple(copy.deepcopy(network) for _ in tested[1:])
    for other, p_values in zip(judged, tested[1:], strict=True):
        weigh_evidence(other, p_values, shares, level=level)
    return judged, weigh_evidence(network, tested[0], shares, level=level)


def _here(function: Callable[[], T]) -> T:
    """Call a function: where there is one process, that is once."""
    return function()


def _run_identity(config: Config, device: torch.device) -> dict[str, Any]:
    """What a checkpoint has in common with the run that goes on from it, data aside."""
    settings = {name: value for name, value in config.to_dict().items() if name != "device"}
    return {
        "versions": {
            "graphsci": __version__,
            "torch": torch.__version__,
            "random_numbers": RANDOM_NUMBERS,
        },
        "settings": settings,
        "kind_of_device": device.type,
    }


def _data_identity(
    data: CountData, spec: ModelSpec, batch: NDArray[np.int64]
) -> dict[str, str | dict[str, Any]]:
    """The same for the data, as hashes that cost no pass over the counts.

    The share of every gene in the molecules changes with any count. Of the graph only the
    edges count: their weights may differ in the last bit on another machine.
    """
    graph = spec.graph.adjacency
    return {
        "cells": digest([data.cell_names, batch]),
        "genes": digest([spec.gene_names]),
        "counts": digest([spec.gene_proportions, np.array([spec.median_library])]),
        "likelihood": spec.likelihood,
        "gene_graph": digest([graph.indptr.astype(np.int64), graph.indices.astype(np.int64)]),
    }


def build_network(spec: ModelSpec) -> Network:
    """Build the untrained network of a model."""
    config, zero_inflated = spec.config, spec.likelihood == "zinb"
    if config.preset == "paper":
        return PaperNetwork(
            n_genes=len(spec.gene_names),
            n_latent=config.n_latent,
            n_hidden=config.n_hidden,
            dropout_rate=config.dropout_rate,
            edges=_mask_edges(spec.graph.adjacency),
            median_library=spec.median_library,
            zero_inflated=zero_inflated,
        )
    return CountNetwork(
        gene_proportions=torch.from_numpy(spec.gene_proportions),
        n_latent=config.n_latent,
        n_hidden=config.n_hidden,
        dropout_rate=config.dropout_rate,
        median_library=spec.median_library,
        n_batches=spec.n_batches,
        zero_inflated=zero_inflated,
        averaging=_averaging_operator(spec.graph.adjacency),
        bfloat16=config.precision == "bf16",
    )


def predict_held_out(
    network: Network,
    counts: sparse.csr_matrix,
    batch: NDArray[np.int64],
    cells: NDArray[np.int64],
    *,
    fraction: float,
    device: torch.device,
) -> NDArray[np.float64]:
    """Expected held-out molecules of some ``cells`` given their kept ``counts``, (cells, genes).

    The rate at full depth is ``counts``' library / (1 - fraction); what was kept updates it,
    and a share ``fraction`` of it was held out.
    """
    block = cell_blocks.cell_block(counts, batch, cells, device)
    with torch.inference_mode():
        predicted = network.expression(block, 1 / (1 - fraction))
        predicted = predicted._replace(mean=predicted.mean * (1 - fraction))
        dense = block.dense(block.counts, counts.shape[1])
        expected = expected_measured(posterior(predicted, dense))
    expected_counts: NDArray[np.float64] = expected.numpy(force=True).astype(np.float64)
    return expected_counts * (fraction / (1 - fraction))


def describe_graph(graph: GeneGraph) -> str:
    """One line on the gene graph."""
    degree = np.diff(graph.adjacency.indptr)
    connected = int((degree > 0).sum())
    return (
        f"gene graph ({graph.source}): {graph.n_edges:,} edges, "
        f"{connected:,} of {graph.n_genes:,} genes connected"
    )


def _notes_on(counts: TrainingBlocks, split: _Split) -> tuple[str, ...]:
    """What was done to the counts that a user should know."""
    notes = tuple[str, ...]()
    if counts.was_rounded:
        notes += (
            "fractional counts: training used them rounded at random to a neighbouring integer",
        )
    if split.median_all > _MOST_MOLECULES:
        notes += (
            f"counts: a median of {split.median_all:,.0f} per cell, more than a cell's molecules: "
            "these look like reads. Copies of one molecule tell of each other, so that held-out "
            "reads are easy to predict, and the verdict says little of molecules that were lost",
        )
    n_sample, n_cells = len(split.sample.cells), counts.shape[0]
    if n_sample < n_cells:
        notes += (
            f"many cells: likelihood, gene graph and verdict rest on {n_sample:,} of {n_cells:,} "
            "cells, chosen at random; molecules were held out of these, and pooling looks for "
            "neighbours among them; training used all cells",
        )
    return notes


def _sample(counts: CountBlocks, config: Config) -> _Sample:
    """Choose the cells to look at together, those that decide and those that judge."""
    rng = np.random.default_rng(config.seed)
    n_cells, n_sample = counts.shape[0], counts.cells_at_once
    cells = np.arange(n_cells)
    if n_sample < n_cells:
        cells = np.sort(rng.choice(n_cells, n_sample, replace=False))
    n_deciding = max(round(config.validation_fraction * n_sample), _FEWEST_DECIDING_CELLS)
    if config.validation_fraction == 0:
        n_deciding = 0
    elif n_sample < 2 * n_deciding:
        n_deciding = n_sample // 2
    shuffled = rng.permutation(n_sample)
    return _Sample(cells, np.sort(shuffled[:n_deciding]), np.sort(shuffled[n_deciding:]))


def _folds(sample: _Sample) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Halves of the judging cells: the network that one judges may learn from the other."""
    return sample.judging[::2], sample.judging[1::2]


def _thinning(sample: _Sample, n_cells: int, config: Config) -> Thinning | None:
    """Say whose molecules are held out; None if nobody's are."""
    if not config.check and (config.preset == "paper" or not len(sample.deciding)):
        return None
    paying = np.zeros(n_cells, dtype=bool)  # without the check only the deciding cells pay
    paying[sample.cells if config.check else sample.cells[sample.deciding]] = True
    return Thinning(config.held_out_fraction, paying, config.seed)


def _split(counts: CountBlocks, config: Config) -> _Split:
    """Hold out molecules, in one pass over the counts that also takes their totals."""
    n_cells, n_genes = counts.shape
    sample = _sample(counts, config)
    thinning = _thinning(sample, n_cells, config)
    library_all, library_kept = np.zeros(n_cells), np.zeros(n_cells)
    molecules = np.zeros(n_genes)
    sample_kept, held_out = [], []
    for index, whole in enumerate(chunks_in_order(counts)):
        kept, withheld = (whole, None) if thinning is None else thinning.divide(index, whole)
        rows = slice(index * CHUNK_CELLS, index * CHUNK_CELLS + whole.shape[0])
        library_all[rows], library_kept[rows] = library_sizes(whole), library_sizes(kept)
        molecules += np.bincount(kept.indices, weights=kept.data, minlength=n_genes)
        inside = sample.cells[slice(*np.searchsorted(sample.cells, [rows.start, rows.stop]))]
        sample_kept.append(kept[inside - rows.start])
        if withheld is not None:
            held_out.append(withheld[inside - rows.start])
    together = stack(sample_kept)
    if len(sample.cells) == n_cells:
        remaining: CountBlocks = MemoryBlocks(together)
    else:
        remaining = counts if thinning is None else KeptBlocks(counts, thinning)
    return _Split(
        kept=remaining,
        sample=sample,
        sample_kept=together,
        held_out=stack(held_out) if held_out else None,
        molecules=molecules,
        median_kept=median_size(library_kept),
        median_all=median_size(library_all),
    )


def _likelihood(counts: sparse.csr_matrix, config: Config) -> tuple[str, str]:
    if config.likelihood != "auto":
        return config.likelihood, f"likelihood {config.likelihood}: as asked"
    evidence = detect_zero_inflation(counts, seed=config.seed)
    return evidence.likelihood, evidence.reason()


def _gene_graph(
    counts: sparse.csr_matrix,
    names: NDArray[np.str_],
    genes: NDArray[np.int64],
    config: Config,
    user_graph: GeneGraph | None,
) -> GeneGraph:
    """The gene graph over the training genes: computed, known, or both with their weights.

    ``names`` of the training genes, ``genes`` their positions in a user's graph.
    """
    if user_graph is None:
        graph = _computed_graph(counts, names, config)
    else:
        part = sparse.csr_matrix(user_graph.adjacency[genes][:, genes])
        graph, weight = user_graph._replace(adjacency=part, gene_names=names), config.network_weight
        if weight != 1:
            both = [_computed_graph(counts, names, config), relative_to_strongest(graph)]
            graph = combine_graphs(both, weights=[1 - weight, weight])
        graph = graph._replace(parameters={**graph.parameters, "given": True})
    if config.preset == "paper":
        refuse_more_than_memory(
            _BYTES_PER_EDGE * graph.n_edges,
            what=f"graph: {graph.n_edges:,} edges, with which the preset 'paper' takes about",
            remedy="Keep fewer: a higher graph_threshold, or graph_top_k (command line: "
            "--graph-threshold, --graph-top-k).",
        )
    return graph


def _computed_graph(
    counts: sparse.csr_matrix, names: NDArray[np.str_], config: Config
) -> GeneGraph:
    """The gene graph from the kept molecules alone."""
    limits: dict[str, Any] = {"top_k": config.graph_top_k or None}
    if config.graph != "pidc":  # its confidences are no correlations, and have a threshold apart
        limits["threshold"] = config.graph_threshold
    if config.graph == "none" or int((counts.getnnz(axis=1) > 0).sum()) < _FEWEST_GRAPH_CELLS:
        empty = sparse.csr_matrix((len(names), len(names)), dtype=np.float32)
        return GeneGraph(empty, names, "none", {})
    median = fit_median_library_size(counts)
    if config.graph == "noise":
        factors = size_factors(counts, median_library_size=median)
        cells = factors > 0
        return _expand(
            counts[cells],
            names,
            lambda part, kept_names: noise_corrected_graph(
                part, size_factors=factors[cells], gene_names=kept_names, **limits
            ),
        )
    if config.graph == "pidc":
        return _expand(
            counts,
            names,
            lambda part, kept_names: pidc_graph(
                log_normalize(part, median_library_size=median), gene_names=kept_names, **limits
            ),
        )
    return correlation_graph(
        log_normalize(counts, median_library_size=median),
        gene_names=names,
        cells="coexpressed" if config.graph == "coexpressed" else "all",
        **limits,
    )


def _expand(
    counts: sparse.csr_matrix,
    names: NDArray[np.str_],
    build: Callable[[sparse.csr_matrix, NDArray[np.str_]], GeneGraph],
) -> GeneGraph:
    """Build a graph over the genes still detected; the others get no edges."""
    genes = np.flatnonzero(detected_genes(counts))
    graph = build(counts[:, genes], names[genes])
    place = sparse.csr_matrix(
        (np.ones(len(genes), np.float32), (genes, np.arange(len(genes)))),
        shape=(len(names), len(genes)),
    )
    adjacency = sparse.csr_matrix(place @ graph.adjacency @ place.T)
    return graph._replace(adjacency=adjacency, gene_names=names)


def _mask_edges(adjacency: sparse.csr_matrix) -> torch.Tensor:
    """Ordered pairs of A and of every gene with itself (its correlation with itself is 1)."""
    with_self = sparse.coo_matrix(adjacency + sparse.eye_array(adjacency.shape[0]))
    return torch.as_tensor(np.stack([with_self.row, with_self.col])).long()


def _averaging_operator(adjacency: sparse.csr_matrix) -> sparse.csr_matrix | None:
    """Signed average over neighbours, weighted by absolute correlation; None without edges."""
    if adjacency.nnz == 0:
        return None
    total = np.asarray(abs(adjacency).sum(1)).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total, dtype=float), where=total > 0)
    return sparse.csr_matrix(sparse.diags_array(scale.astype(np.float32)) @ adjacency)


def _objective(
    network: Network,
    split: _Split,
    batch: NDArray[np.int64],
    spec: ModelSpec,
    device: torch.device,
) -> training.Objective:
    config, sample = spec.config, split.sample
    if isinstance(network, PaperNetwork):  # its gene encoder sees all cells at every step
        counts = split.kept.read(np.arange(split.kept.n_chunks))
        return objectives.PaperObjective(
            network,
            counts,
            batch,
            config,
            device=device,
            log_normalized=log_normalize(counts, median_library_size=spec.median_library),
            adjacency=spec.graph.adjacency,
            normalized_adjacency=normalized_adjacency(spec.graph.adjacency),
            validation=sample.cells[sample.deciding],
        )
    held_out = None
    deciding = sample.deciding
    deciding = deciding[split.sample_kept[deciding].getnnz(axis=1) > 0]
    if split.held_out is not None and len(deciding):
        held_out = objectives.HeldOut(
            split.sample_kept[deciding],
            split.held_out[deciding],
            batch[sample.cells[deciding]],
            config.held_out_fraction,
        )
    return objectives.ThinningObjective(
        network,
        split.kept,
        batch,
        split.molecules,
        config,
        device=device,
        held_out=held_out,
    )


def _judge(
    networks: tuple[Network, ...],
    spec: ModelSpec,
    split: _Split,
    batch: NDArray[np.int64],
    device: torch.device,
) -> tuple[Verdict | None, tuple[str, ...]]:
    """The verdict, or None and a note that says why there is none.

    ``networks``: one for each of :func:`_folds`, or one for all; cells of no fold have the first.
    ``batch`` (sample,).
    """
    assert split.held_out is not None
    judging = split.sample.judging
    n_cells = int((split.held_out[judging].getnnz(axis=1) > 0).sum())
    if n_cells < _FEWEST_JUDGING_CELLS:
        return None, (
            f"no verdict: {n_cells} cells with held-out molecules are too few to compare methods "
            f"(at least {_FEWEST_JUDGING_CELLS})",
        )
    fraction, folds = spec.config.held_out_fraction, _folds(split.sample)

    network_of = np.zeros(len(batch), dtype=np.int64)
    network_of[folds[1]] = len(networks) - 1

    def ours() -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Expected molecules of every cell."""
        for start, rows in cell_blocks.row_blocks(len(batch)):
            expected = np.empty((len(rows), split.sample_kept.shape[1]))
            for index, network in enumerate(networks):
                mine = network_of[rows] == index
                arguments = network.eval(), split.sample_kept, batch, rows[mine]
                if mine.any():
                    expected[mine] = predict_held_out(*arguments, fraction=fraction, device=device)
            yield start, expected

    try:
        verdict = judge(
            kept=split.sample_kept,
            held_out=split.held_out,
            ours=ours,
            cells=judging,
            fraction=fraction,
            seed=spec.config.seed,
        )
    except KeyboardInterrupt:
        return None, ("no verdict: the check was interrupted; the trained model is kept",)
    return verdict, ()
