"""From checked counts to a trained model: what `GraphSCI.fit` does, on arrays.

The order matters for trust: molecules are held out first, and everything that learns (the
median library, the gene graph, the weights, when to stop) sees the rest alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphsci import training
from graphsci.config import Config
from graphsci.estimates import expected_measured, posterior
from graphsci.gene_graph import (
    GeneGraph,
    correlation_graph,
    noise_corrected_graph,
    normalized_adjacency,
)
from graphsci.model import CountNetwork, Network, PaperNetwork
from graphsci.pidc import pidc_graph
from graphsci.preprocessing import (
    CountData,
    detected_genes,
    fit_median_library_size,
    log_normalize,
    size_factors,
    thin_counts,
)
from graphsci.verdict import Verdict, judge
from graphsci.zero_inflation import detect_zero_inflation

#: Fewest cells whose held-out molecules can say when to stop; below, all of them decide.
_FEWEST_DECIDING_CELLS = 20
#: Fewest cells whose scores can be compared: their spread gives the standard error.
_FEWEST_JUDGING_CELLS = 3
#: Fewest cells for a correlation.
_FEWEST_GRAPH_CELLS = 3
#: Added to every gene's molecules so that its starting log proportion is finite.
_PSEUDO_MOLECULES = 0.1

Log = Callable[[str], None]


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


class Fitted(NamedTuple):
    """A trained model with the record of how it came about."""

    spec: ModelSpec
    network: Network
    history: list[training.EpochRecord]
    best_epoch: int
    stopped: str
    verdict: Verdict | None
    notes: tuple[str, ...]


class _Split(NamedTuple):
    """Counts of the training cells and genes, divided before anything is learned."""

    kept: sparse.csr_matrix  # what is learned from
    held_out: sparse.csr_matrix | None  # (cells, genes) molecules withheld
    deciding: NDArray[np.int64]  # cells whose withheld molecules say when to stop
    judging: NDArray[np.int64]  # cells whose withheld molecules give the verdict


def choose_device(device: str) -> torch.device:
    """Return the device: a GPU for ``auto`` if there is one.

    Raises
    ------
    ValueError
        If the device does not exist here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: got {device!r}, expected auto, cpu, cuda or cuda:N.") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device: got {device!r}, expected auto, cpu, cuda or cuda:N.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: got {device!r}, but {torch.cuda.device_count()} CUDA devices are visible. "
            "Use --device cpu, or install a CUDA build of torch."
        )
    return chosen


def fit(
    data: CountData,
    config: Config,
    *,
    user_graph: GeneGraph | None = None,
    progress: training.Progress | None = None,
    log: Log = lambda message: None,
) -> Fitted:
    """Train a model on checked counts.

    Parameters
    ----------
    data
        Checked counts; empty cells and undetected genes are left out of training.
    config
        Hyper-parameters.
    user_graph
        A gene network over ``data.gene_names`` to be used instead of a computed one.
    progress, log
        Called after every epoch; called with one line before every stage.
    """
    device = choose_device(config.device)
    rng = np.random.default_rng(config.seed)
    cells, genes = np.flatnonzero(~data.empty_cells), np.flatnonzero(~data.undetected_genes)
    counts, notes = _whole_molecules(data.counts[cells][:, genes], rng)
    batch = np.zeros(len(cells), np.int64) if data.batch is None else data.batch[cells]
    split = _split(counts, config, rng)

    likelihood, reason = _likelihood(split.kept, config)
    log(reason)
    graph = _gene_graph(split.kept, data, genes, config, user_graph)
    log(describe_graph(graph))
    molecules = np.asarray(split.kept.sum(0), dtype=np.float64).ravel() + _PSEUDO_MOLECULES
    spec = ModelSpec(
        config=config,
        likelihood=likelihood,
        median_library=fit_median_library_size(split.kept),
        common_depth=fit_median_library_size(counts),
        batch_names=data.batch_names,
        gene_names=data.gene_names[genes],
        gene_proportions=(molecules / molecules.sum()).astype(np.float32),
        undetected=data.gene_names[data.undetected_genes],
        graph=graph,
    )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(config.seed)
        network = build_network(spec).to(device)
        objective = _objective(network, split, batch, spec, device)
        result = training.train(objective, config, device=device, progress=progress)
    notes += (*data.notes, reason, describe_graph(graph), *graph.notes)
    verdict, missing = None, tuple[str, ...]()
    if config.check:
        log("checking against held-out molecules")
        verdict, missing = _judge(network, spec, split, batch, device)
    notes += missing
    return Fitted(
        spec, network.eval(), result.history, result.best_epoch, result.stopped, verdict, notes
    )


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
        n_batches=max(1, len(spec.batch_names)),
        zero_inflated=zero_inflated,
        neighbours=_averaging_operator(spec.graph.adjacency),
        bfloat16=config.precision == "bf16",
    )


def predict_held_out(
    network: Network,
    counts: sparse.csr_matrix,
    batch: NDArray[np.int64],
    *,
    fraction: float,
    device: torch.device,
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield ``(row_start, block)``: expected held-out molecules given the kept ``counts``.

    The rate at full depth is ``counts``' library / (1 - fraction); what was kept updates it,
    and a share ``fraction`` of it was held out.
    """
    for start, rows in training.row_blocks(counts.shape[0]):
        cells = training.cell_block(counts, batch, rows, device)
        with torch.inference_mode():
            predicted = network.expression(cells, 1 / (1 - fraction))
            predicted = predicted._replace(mean=predicted.mean * (1 - fraction))
            dense = cells.dense(cells.counts, counts.shape[1])
            expected = expected_measured(posterior(predicted, dense))
        ratio = fraction / (1 - fraction)
        yield start, expected.numpy(force=True).astype(np.float64) * ratio


def describe_graph(graph: GeneGraph) -> str:
    """One line on the gene graph."""
    degree = np.diff(graph.adjacency.indptr)
    connected = int((degree > 0).sum())
    return (
        f"gene graph ({graph.source}): {graph.n_edges:,} edges, "
        f"{connected:,} of {graph.n_genes:,} genes connected"
    )


def _whole_molecules(
    counts: sparse.csr_matrix, rng: np.random.Generator
) -> tuple[sparse.csr_matrix, tuple[str, ...]]:
    """Round fractional counts up or down at random, keeping their expectation.

    Training splits molecules, and half a molecule cannot be split. Estimates are made from
    the counts as they came.
    """
    whole = np.floor(counts.data)
    part = counts.data - whole
    if not part.any():
        return counts, ()
    rounded = counts.copy()
    rounded.data = (whole + (rng.random(len(part)) < part)).astype(np.float32)
    rounded.eliminate_zeros()
    note = "fractional counts: training used them rounded at random to a neighbouring integer"
    return rounded, (note,)


def _split(counts: sparse.csr_matrix, config: Config, rng: np.random.Generator) -> _Split:
    """Hold out molecules, and divide the cells into those that decide and those that judge."""
    n_cells = counts.shape[0]
    n_deciding = max(round(config.validation_fraction * n_cells), _FEWEST_DECIDING_CELLS)
    shuffled = rng.permutation(n_cells)
    if config.validation_fraction == 0:
        n_deciding = 0
    elif n_cells < 2 * n_deciding:
        n_deciding = n_cells // 2
    deciding, judging = np.sort(shuffled[:n_deciding]), np.sort(shuffled[n_deciding:])
    if not config.check and (config.preset == "paper" or not n_deciding):
        return _Split(counts, None, deciding, judging)
    kept, held_out = thin_counts(counts, fraction=config.held_out_fraction, rng=rng)
    if not config.check:  # only the deciding cells pay for knowing when to stop
        chosen = sparse.diags_array(np.isin(np.arange(n_cells), deciding).astype(np.float32))
        held_out = sparse.csr_matrix(chosen @ held_out)
        kept = sparse.csr_matrix(counts - held_out)
    return _Split(kept, held_out, deciding, judging)


def _likelihood(counts: sparse.csr_matrix, config: Config) -> tuple[str, str]:
    if config.likelihood != "auto":
        return config.likelihood, f"likelihood {config.likelihood}: as asked"
    evidence = detect_zero_inflation(counts, seed=config.seed)
    return evidence.likelihood, evidence.reason()


def _gene_graph(
    counts: sparse.csr_matrix,
    data: CountData,
    genes: NDArray[np.int64],
    config: Config,
    user_graph: GeneGraph | None,
) -> GeneGraph:
    """The gene graph over the training genes, from the kept molecules alone."""
    names = data.gene_names[genes]
    if user_graph is not None:
        part = sparse.csr_matrix(user_graph.adjacency[genes][:, genes])
        return user_graph._replace(adjacency=part, gene_names=names)
    limits: dict[str, Any] = {
        "threshold": config.graph_threshold,
        "top_k": config.graph_top_k or None,
    }
    if config.graph == "none" or int((counts.getnnz(axis=1) > 0).sum()) < _FEWEST_GRAPH_CELLS:
        empty = sparse.csr_matrix((len(genes), len(genes)), dtype=np.float32)
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


def _averaging_operator(adjacency: sparse.csr_matrix) -> torch.Tensor | None:
    """Signed average over neighbours, weighted by absolute correlation; None without edges."""
    if adjacency.nnz == 0:
        return None
    total = np.asarray(abs(adjacency).sum(1)).ravel()
    scale = np.divide(1.0, total, out=np.zeros_like(total, dtype=float), where=total > 0)
    operator = sparse.diags_array(scale.astype(np.float32)) @ adjacency
    return training.sparse_tensor(operator, torch.device("cpu"))


def _objective(
    network: Network,
    split: _Split,
    batch: NDArray[np.int64],
    spec: ModelSpec,
    device: torch.device,
) -> training.Objective:
    config = spec.config
    if isinstance(network, PaperNetwork):
        return training.PaperObjective(
            network,
            split.kept,
            batch,
            config,
            device=device,
            log_normalized=log_normalize(split.kept, median_library_size=spec.median_library),
            adjacency=spec.graph.adjacency,
            normalized_adjacency=normalized_adjacency(spec.graph.adjacency),
            validation=split.deciding,
        )
    held_out = None
    if split.held_out is not None and len(split.deciding):
        withheld = split.held_out[split.deciding]
        held_out = training.HeldOut(split.deciding, withheld, config.held_out_fraction)
    return training.ThinningObjective(
        network, split.kept, batch, config, device=device, held_out=held_out
    )


def _judge(
    network: Network,
    spec: ModelSpec,
    split: _Split,
    batch: NDArray[np.int64],
    device: torch.device,
) -> tuple[Verdict | None, tuple[str, ...]]:
    """The verdict, or None and a note that says why there is none."""
    assert split.held_out is not None
    n_cells = int((split.held_out[split.judging].getnnz(axis=1) > 0).sum())
    if n_cells < _FEWEST_JUDGING_CELLS:
        return None, (
            f"no verdict: {n_cells} cells with held-out molecules are too few to compare methods "
            f"(at least {_FEWEST_JUDGING_CELLS})",
        )
    fraction = spec.config.held_out_fraction
    try:
        verdict = judge(
            kept=split.kept,
            held_out=split.held_out,
            ours=lambda: predict_held_out(
                network.eval(), split.kept, batch, fraction=fraction, device=device
            ),
            cells=split.judging,
            fraction=fraction,
            seed=spec.config.seed,
        )
    except KeyboardInterrupt:
        return None, ("no verdict: the check was interrupted; the trained model is kept",)
    return verdict, ()
