"""From checked counts to a trained model: what `GraphSCI.fit` does, on arrays.

The order matters for trust: molecules are held out first, and everything that learns (the
median library, the gene graph, the weights, when to stop) sees the rest alone.

Counts come in chunks from memory or from a file (:mod:`graphsci.training.blocks`). What has to
look at many cells together, the choice of the likelihood, the gene graph and the verdict, looks at
a random sample of them if there are more than fit in memory.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphsci import __version__
from graphsci._log import Log, say_nothing
from graphsci.config import Config
from graphsci.gene_graph.graph import GeneGraph, normalized_adjacency
from graphsci.io.sources import CountSource, MemoryCounts, divided
from graphsci.nn.cell_random import RANDOM_NUMBERS
from graphsci.nn.devices import choose_device, repeatable
from graphsci.nn.misfit import misfit_limits
from graphsci.nn.model import CountNetwork, Network
from graphsci.nn.paper_model import PaperNetwork
from graphsci.preprocessing import CountData, log_normalize
from graphsci.training import loop as training
from graphsci.training import objectives
from graphsci.training.blocks import TrainingBlocks
from graphsci.training.checking import check
from graphsci.training.checkpoint import Checkpoint, digest
from graphsci.training.copies import Copies, find_copies, in_words
from graphsci.training.holding_out import Split, split_counts
from graphsci.training.predictability import variation_p_values
from graphsci.training.training_graph import (
    averaging_operator,
    describe_graph,
    mask_edges,
    training_graph,
)
from graphsci.training.variation import learn_uncertainty, mean_shares, weigh_evidence
from graphsci.training.zero_inflation import detect_zero_inflation
from graphsci.verdict import Verdict

if TYPE_CHECKING:
    from graphsci.training.distributed import Team

#: Added to every gene's molecules so that its starting log proportion is finite.
_PSEUDO_MOLECULES = 0.1

T = TypeVar("T")


class ModelSpec(NamedTuple):
    """All that is needed, beside the weights, to build a network again."""

    config: Config
    likelihood: str  #: "nb" or "zinb"
    median_library: float  #: of the molecules trained on; what inputs are normalised to
    common_depth: float  #: median library size of the training cells, all molecules counted
    copies: NDArray[np.float32]  #: (genes,) counts per molecule: all above is of counts / copies
    batch_names: tuple[str, ...]  #: empty without batches
    gene_names: NDArray[np.str_]  #: (genes,) the genes of the model, in order
    gene_proportions: NDArray[np.float32]  #: (genes,) share of all training molecules
    undetected: NDArray[np.str_]  #: genes of the training data without a molecule
    graph: GeneGraph  #: over ``gene_names``
    graph_given: bool  #: by the user, alone or to be combined with a computed one

    @property
    def is_divided(self) -> bool:
        """Whether counts were divided by copies."""
        return bool((self.copies != 1).any())

    @property
    def common_counts(self) -> float:
        """:attr:`common_depth` in counts as they came: with copies."""
        share = self.gene_proportions.astype(np.float64)
        return self.common_depth * float(share @ self.copies / share.sum())

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
    misfit_limits: tuple[float, ...]  #: what 99 of 100 known cells stay within, by depth
    copies_left: float = 1.0  #: counts per molecule that the model takes for molecules, if many

    @property
    def is_whole(self) -> bool:
        """Whether training came to its end: half a model stands for no other."""
        return self.stopped != "interrupted"


def fit(
    data: CountData[sparse.csr_matrix] | CountData[CountSource],
    config: Config,
    *,
    user_graph: GeneGraph | None = None,
    progress: training.Progress | None = None,
    log: Log = say_nothing,
    checkpoint: Checkpoint | None = None,
    team: Team | None = None,
    whole: bool = False,
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
    whole
        Half a model is of no use: once training is interrupted nothing more is done.

    Raises
    ------
    KeyboardInterrupt
        If interrupted before the first epoch ended; later too if ``whole``.
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
    genes = np.flatnonzero(~data.undetected_genes)
    split, batch, copies, copies_left, notes = _molecules(data, config, log)
    sample_batch = batch[split.sample.cells]
    likelihood, reason = once(lambda: _likelihood(split.sample_kept, config))
    log(reason)
    names = data.gene_names[genes]
    graph = once(
        lambda: training_graph(split.sample_kept, names, genes, sample_batch, config, user_graph)
    )
    log(describe_graph(graph))
    given = user_graph is not None
    spec = _specified(data, config, split, likelihood, graph, copies=copies, given=given)
    if checkpoint is not None:
        checkpoint.expect(**_data_identity(data, spec, split, batch))
        if (line := checkpoint.found()) is not None:
            log(line)
    network, result = _trained(
        spec, split, batch, device=device, progress=progress, checkpoint=checkpoint, team=team
    )
    if result.stopped == "interrupted":
        if whole:
            raise KeyboardInterrupt
        log(_kept_at_ctrl_c(config))
    notes += (*data.notes, reason, describe_graph(graph), *graph.notes)
    p_values = None
    if isinstance(network, CountNetwork):
        log("testing which genes vary predictably")
        p_values = once(lambda: _tested(spec, split, sample_batch))
        notes += _weighed(network, p_values, spec, split, sample_batch)
    seed = config.seed
    limits = once(lambda: misfit_limits(network.eval(), split.sample_kept, sample_batch, seed=seed))
    verdict, missing = None, tuple[str, ...]()
    if config.check:
        log("checking against held-out molecules")
        verdict, missing = once(
            lambda: check(network, config, split, sample_batch, device, copies=copies_left)
        )
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
        limits,
        copies_left,
    )


class _Molecules(NamedTuple):
    """What is trained on: molecules of the cells and genes that have any."""

    split: Split
    batch: NDArray[np.int64]  # (cells,)
    copies: NDArray[np.float32]  # (genes,) counts that a molecule left, divided by
    copies_left: float  # counts that are taken for one molecule all the same
    notes: tuple[str, ...]


def _molecules(
    data: CountData[sparse.csr_matrix] | CountData[CountSource], config: Config, log: Log
) -> _Molecules:
    """Divide reads by their copies, leave out what is empty, and hold out."""
    cells, genes = np.flatnonzero(~data.empty_cells), np.flatnonzero(~data.undetected_genes)
    source = MemoryCounts(data.counts) if sparse.issparse(data.counts) else data.counts
    seen = find_copies(source, batch=data.batch, seed=config.seed)
    copies = seen.divisors(config.copies, doubted=data.altered)
    counts = TrainingBlocks(divided(source, copies), cells, genes, seed=config.seed)
    copies = copies[genes]
    if (copies != 1).any():
        log(f"counts are divided by {in_words(copies)}: so many left a molecule")
    batch = np.zeros(len(cells), np.int64) if data.batch is None else data.batch[cells]
    split = split_counts(counts, config)
    notes = _notes_on(counts, split, seen, copies)
    return _Molecules(split, batch, copies, seen.left(copies), notes)


def _kept_at_ctrl_c(config: Config) -> str:
    """What follows where training was interrupted and the work goes on with its weights."""
    said = "Ctrl-C: training ends here, with the best weights so far. Another one stops everything"
    if config.check:
        said += "; once the check against held-out molecules has begun, it skips that"
    return f"{said}."


def _specified(
    data: CountData,
    config: Config,
    split: Split,
    likelihood: str,
    graph: GeneGraph,
    *,
    copies: NDArray[np.float32],
    given: bool,
) -> ModelSpec:
    """Put together what the network is built from; ``given`` says whose the graph is."""
    molecules = split.molecules + _PSEUDO_MOLECULES
    return ModelSpec(
        config=config,
        likelihood=likelihood,
        median_library=split.median_kept,
        common_depth=split.median_all,
        copies=copies,
        batch_names=data.batch_names,
        gene_names=data.gene_names[~data.undetected_genes],
        gene_proportions=(molecules / molecules.sum()).astype(np.float32),
        undetected=data.gene_names[data.undetected_genes],
        graph=graph,
        graph_given=given,
    )


def _trained(
    spec: ModelSpec,
    split: Split,
    batch: NDArray[np.int64],
    *,
    device: torch.device,
    progress: training.Progress | None,
    checkpoint: Checkpoint | None,
    team: Team | None,
) -> tuple[Network, training.TrainingResult]:
    """Build the network and train it; ``batch`` (cells,)."""
    config = spec.config
    # the sums of the default's training have one order by themselves
    ordered = repeatable(device) if config.preset == "paper" else contextlib.nullcontext()
    # weights are drawn on the CPU, and nothing else is drawn from torch's generators
    with ordered, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)
        network = build_network(spec).to(device)
        objective = _objective(network, split, batch, spec, device)
        if team is not None:
            batch_size = training.batch_size_for(objective.n_cells, config)
            objective = team.shared(objective, batch_size)
        result = training.train(objective, config, progress=progress, checkpoint=checkpoint)
    return network, result


def _tested(spec: ModelSpec, split: Split, batch: NDArray[np.int64]) -> NDArray[np.float64]:
    """P-values of the genes' variation, (genes,); ``batch`` (sample,)."""
    return variation_p_values(
        split.sample_kept, batch, n_batches=spec.n_batches, seed=spec.config.seed
    )


def _weighed(
    network: CountNetwork,
    p_values: NDArray[np.float64],
    spec: ModelSpec,
    split: Split,
    batch: NDArray[np.int64],
) -> tuple[str, ...]:
    """Weigh the evidence in ``network``, and what the counts leave open; return notes."""
    counts, level = split.sample_kept, spec.config.variation_level
    shares = mean_shares(counts, batch, spec.gene_proportions, n_batches=spec.n_batches)
    notes = weigh_evidence(network, p_values, shares, level=level)
    learn_uncertainty(
        network,
        counts,
        batch,
        p_values,
        molecules=split.molecules,
        n_cells=split.kept.shape[0],
        level=level,
    )
    if network.zero_inflated:  # trained on the molecules kept, used on all
        network.move_dropout_curve(math.log(split.median_all / split.median_kept))
    return notes


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
    data: CountData, spec: ModelSpec, split: Split, batch: NDArray[np.int64]
) -> dict[str, str | dict[str, Any]]:
    """The same for the data, as hashes.

    Of a graph that was computed the edges and their signs count: weights may differ in the last
    bit on another machine. One that was given counts in full.
    """
    graph = spec.graph.adjacency
    given = spec.graph_given and spec.config.network_weight == 1
    weights = graph.data if given else np.sign(graph.data).astype(np.int8)
    return {
        "cells": digest([data.cell_names, batch]),
        "genes": digest([spec.gene_names]),
        "counts": digest([np.array([split.checksum])]),
        "likelihood": spec.likelihood,
        "gene_graph": digest(
            [graph.indptr.astype(np.int64), graph.indices.astype(np.int64), weights]
        ),
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
            edges=mask_edges(spec.graph.adjacency),
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
        averaging=averaging_operator(spec.graph.adjacency),
        bfloat16=config.precision == "bf16",
    )


def _notes_on(
    counts: TrainingBlocks, split: Split, seen: Copies, copies: NDArray[np.float32]
) -> tuple[str, ...]:
    """What was done to the counts that a user should know."""
    notes = _notes_on_copies(seen, copies)
    if counts.was_rounded and (copies == 1).all():
        notes += (
            "fractional counts: training used them rounded at random to a neighbouring integer",
        )
    n_sample, n_cells = len(split.sample.cells), counts.shape[0]
    if n_sample < n_cells:
        notes += (
            f"many cells: likelihood, gene graph and verdict rest on {n_sample:,} of {n_cells:,} "
            "cells, chosen at random; molecules were held out of these, and pooling looks for "
            "neighbours among them; training used all cells",
        )
    return notes


def _notes_on_copies(seen: Copies, copies: NDArray[np.float32]) -> tuple[str, ...]:
    """What the counts are taken for, where they are not simply molecules."""
    left, is_divided = seen.left(copies), (copies != 1).any()
    if not is_divided and left == 1:
        return ()
    why = f"counts: {seen}" if seen.seen else "counts: divided as asked"
    said = f"{why}. "
    if is_divided:
        said += (
            f"They were divided by {in_words(copies)} and rounded at random, and estimates are "
            "multiplied by it again"
        )
        said += "" if left > 1 else ": training and verdict are of molecules"
    else:
        said += "Each was taken for one"
    if left == 1:
        return (said,)
    said += (
        ". Held-out reads are copies of kept ones and easy to predict, so that neither estimates "
        "nor verdict say much of molecules that were lost; they say what the same library would "
        "show if it were sequenced deeper. "
    )
    if seen.unlike:
        return (said + "Train a model for those that were counted alike",)
    ask = f"For the molecules, set copies to {seen.divisor:.3g} (command line: --copies)"
    return (said + ask,)


def _likelihood(counts: sparse.csr_matrix, config: Config) -> tuple[str, str]:
    if config.likelihood != "auto":
        return config.likelihood, f"likelihood {config.likelihood}: as asked"
    evidence = detect_zero_inflation(counts, seed=config.seed)
    return evidence.likelihood, evidence.reason()


def _objective(
    network: Network,
    split: Split,
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
            math.log(split.median_all / split.median_kept),
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
