"""The check of a trained model against molecules that it never saw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from graphsci.config import Config
from graphsci.estimates import expected_measured, posterior
from graphsci.nn import cell_blocks
from graphsci.nn.model import CountNetwork, Network
from graphsci.training.holding_out import Split
from graphsci.verdict import Verdict, judge

#: Fewest cells whose scores can be compared. Their spread gives the standard error, which five
#: cells of pure noise underrate now and then by more than Student's t allows for.
_FEWEST_JUDGING_CELLS = 10
#: How the note begins that says why there is none.
NO_VERDICT = "no verdict"


def check(
    network: Network,
    config: Config,
    split: Split,
    batch: NDArray[np.int64],
    device: torch.device,
    *,
    copies: float = 1.0,
) -> tuple[Verdict | None, tuple[str, ...]]:
    """Return the verdict, or None and a note that says why there is none.

    Parameters
    ----------
    network
        Trained on what was kept.
    config
        Share held out, and seed.
    split
        Some cells' molecules were held out.
    batch
        (sample,)
    copies
        As in :class:`~graphsci.verdict.Verdict`.
    """
    assert split.held_out is not None
    judging = split.sample.judging
    n_cells = int((split.held_out[judging].getnnz(axis=1) > 0).sum())
    if n_cells < _FEWEST_JUDGING_CELLS:
        return None, (
            f"{NO_VERDICT}: {n_cells} cells with held-out molecules are too few to compare methods "
            f"(at least {_FEWEST_JUDGING_CELLS})",
        )
    fraction = config.held_out_fraction

    def ours() -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Expected molecules of every cell."""
        for start, rows in cell_blocks.row_blocks(len(batch)):
            arguments = network.eval(), split.sample_kept, batch, rows
            yield start, predict_held_out(*arguments, fraction=fraction, device=device)

    try:
        verdict = judge(
            kept=split.sample_kept,
            held_out=split.held_out,
            ours=ours,
            cells=judging,
            fraction=fraction,
            seed=config.seed,
            batch=batch if batch.any() else None,
            theta=_theta(network),
        )
    except KeyboardInterrupt:
        return None, (f"{NO_VERDICT}: the check was interrupted; the trained model is kept",)
    return verdict._replace(copies=copies), ()


def _theta(network: Network) -> NDArray[np.float64] | None:
    """Of each gene, (genes,); None for the preset `paper`, whose theta is each entry's own."""
    if not isinstance(network, CountNetwork):
        return None
    return network.inverse_dispersion.double().numpy(force=True)


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
