"""The check on the user's own data: whether the model predicts molecules that it never saw."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import sparse

from graphsci.advance import Meter
from graphsci.count_loss import (
    DevianceSums,
    d2,
    paired_difference,
    poisson_deviance_sums,
    significant_z,
)

OURS = "graphsci denoised"
GENE_MEANS = "gene means"
MEANS_POSTERIOR = "gene means with own counts"
POOLING = "neighbour pooling"
POSTERIOR = "pooling with own counts"
NOTHING = "doing nothing"
#: What is said where there is no verdict.
NO_VERDICT = (
    "There was no check against held-out molecules (check=False or --no-check, too few cells, or "
    "interrupted), so nothing here says whether these estimates are better than the counts."
)


class Score(NamedTuple):
    """How well one method predicts the held-out molecules."""

    method: str
    deviance: float  #: Poisson deviance per entry; lower is better
    d2: float  #: share of the gene means' deviance that is explained; higher is better
    z: float  #: ours minus this method, in standard errors; negative: ours is better
    d2_rare: float  #: d2 over the half of the genes with the fewest molecules


class Verdict(NamedTuple):
    """The outcome of the check of the estimate ``denoised``, with every number it rests on."""

    scores: tuple[Score, ...]  #: ours first
    n_cells: int
    n_molecules: int  #: held out in these cells
    fraction: float  #: share of the molecules held out
    copies: float = 1.0  #: counts per molecule where they are many, as of reads; else 1

    def __repr__(self) -> str:
        return f"Verdict over {self.n_cells:,} cells: {self.headline()}\n{self.details()}"

    def of(self, method: str) -> Score:
        """The score of one method."""
        return next(score for score in self.scores if score.method == method)

    @property
    def significant(self) -> float:
        """Standard errors from 0 that count: those of :func:`.count_loss.significant_z`."""
        return significant_z(self.n_cells)

    @property
    def beaten(self) -> tuple[str, ...]:
        """Simple methods that ours beats significantly."""
        return tuple(score.method for score in self.scores[1:] if score.z < -self.significant)

    @property
    def passed(self) -> bool:
        """Whether ours beats every simple method significantly, on molecules rather than copies."""
        return self.copies == 1 and len(self.beaten) == len(self.scores) - 1

    @property
    def of_copies(self) -> bool:
        """Whether it is doubtful for no other reason than copies."""
        return self.copies > 1 and not self.better

    @property
    def better(self) -> tuple[str, ...]:
        """Simple methods that beat ours significantly."""
        return tuple(score.method for score in self.scores[1:] if score.z > self.significant)

    @property
    def status(self) -> Literal["good", "doubtful", "bad"]:
        """``good`` if :attr:`passed`, ``bad`` if a simple method is significantly better.

        Held-out copies of kept counts are easy to predict: beating others there is ``doubtful``.
        """
        return "good" if self.passed else "bad" if self.better else "doubtful"

    def headline(self) -> str:
        """What to make of it, in one sentence."""
        by_deviance = [s.method for s in sorted(self.scores[1:], key=lambda s: s.deviance)]
        if self.status == "good":
            return "Imputation helps here: better than every simple method."
        if self.status == "bad":
            better = _listed(method for method in by_deviance if method in self.better)
            return f"Do not use this imputation: {better} predicted these data better."
        if self.of_copies:
            return (
                f"Doubtful: these look like reads, about {self.copies:.0f} of each molecule, and "
                "held-out copies of kept ones say nothing of lost molecules."
            )
        unbeaten = _listed(method for method in by_deviance if method not in self.beaten)
        return f"Doubtful: no better than {unbeaten}, within the error."

    def details(self) -> str:
        """The numbers that it rests on, in one sentence."""
        ours, rest = self.scores[0], sorted(self.scores[1:], key=lambda s: s.deviance)
        against = ", ".join(f"{s.deviance:.4f} {s.method}" for s in rest)
        means = [score for score in self.scores if score.method in (GENE_MEANS, MEANS_POSTERIOR)]
        than = ", ".join(_compared(ours, score) for score in means)
        return (
            f"Poisson deviance of {self.n_molecules:,} held-out molecules {ours.deviance:.4f} "
            f"('denoised') against {against}; {than}."
        )

    def line(self) -> str:
        """The verdict in one honest line: headline and details."""
        return f"{self.headline()} {self.details()}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and ``uns``."""
        return {
            "estimate": "denoised",
            "data": "training",
            "passed": self.passed,
            "status": self.status,
            "headline": self.headline(),
            "details": self.details(),
            "line": self.line(),
            "n_cells": self.n_cells,
            "n_molecules": self.n_molecules,
            "fraction": self.fraction,
            "copies": self.copies,
            "scores": {
                s.method: {k: v for k, v in s._asdict().items() if k != "method"}
                for s in self.scores
            },
        }


def _compared(ours: Score, other: Score) -> str:
    """Say how much lower or higher our deviance is than another one."""
    share = d2(deviance=ours.deviance, reference_deviance=other.deviance)
    return f"{abs(share):.1%} {'lower' if share >= 0 else 'higher'} than {other.method}"


def _listed(names: Iterable[str]) -> str:
    """Return names as they stand in a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def judge(
    *,
    kept: sparse.csr_matrix,
    held_out: sparse.csr_matrix,
    ours: Callable[[], Any],
    cells: np.ndarray,
    fraction: float,
    seed: int,
    batch: np.ndarray | None = None,
    theta: np.ndarray | None = None,
) -> Verdict:
    """Score ours and the simple methods on the held-out molecules of some cells.

    Parameters
    ----------
    kept, held_out
        (cells, genes) the two parts of the counts. Methods see ``kept``, all of it.
    ours
        Returns an iterable of ``(row_start, block)``: expected held-out counts of all cells.
    cells
        Positions of the cells that are scored: those that did not decide when to stop.
    fraction
        Share of the molecules held out.
    seed
        Of the neighbours that pooling finds.
    batch
        (cells,) of each, where the model knows of batches: gene means are then those of a batch.
    theta
        (genes,) the model's. The methods with own counts take it or their own, by moments,
        whichever predicts better: a better theta alone says nothing of cells.
    """
    from graphsci import simple_methods  # with scikit-learn, which only this needs

    ratio = fraction / (1 - fraction)
    pools = simple_methods.pool_neighbours(kept, seed=seed)
    with_own: dict[str, Callable[..., Any]] = {
        MEANS_POSTERIOR: functools.partial(
            simple_methods.gene_mean_posterior, kept, ratio=ratio, batch=batch
        ),
        POSTERIOR: functools.partial(simple_methods.pooled_posterior, pools, ratio=ratio),
    }
    predictions: dict[str, Callable[[], Any]] = {
        OURS: ours,
        NOTHING: lambda: simple_methods.nothing(kept, ratio=ratio),
        GENE_MEANS: lambda: simple_methods.gene_mean(kept, ratio=ratio, batch=batch),
        MEANS_POSTERIOR: with_own[MEANS_POSTERIOR],
        POOLING: lambda: simple_methods.pooled(pools, ratio=ratio),
        POSTERIOR: with_own[POSTERIOR],
    }
    sums = {name: _score_cells(name, made(), held_out, cells) for name, made in predictions.items()}
    for name, made in with_own.items() if theta is not None else ():
        other = _score_cells(name, made(theta=theta), held_out, cells)
        sums[name] = min(sums[name], other, key=lambda one: one.total)
    molecules = np.asarray(kept.sum(0)).ravel()
    rare = np.argsort(molecules, kind="stable")[: len(molecules) // 2]
    scores = tuple(_score(name, sums, rare) for name in sums)
    return Verdict(scores, len(cells), int(held_out[cells].sum()), fraction)


def _score_cells(
    name: str, predicted: Any, held_out: sparse.csr_matrix, cells: np.ndarray
) -> DevianceSums:
    """Score what a method predicts of the molecules held out of some cells."""
    chosen, meter = np.zeros(held_out.shape[0], dtype=bool), Meter(f"scoring {name}", len(cells))
    chosen[cells] = True

    def only_chosen() -> Any:
        row = 0
        for start, block in predicted:
            part = block[chosen[start : start + len(block)]]
            if len(part):
                yield row, part
                row += len(part)
                meter.reach(row)

    return poisson_deviance_sums(predicted=only_chosen(), held_out=held_out[chosen])


def _score(name: str, sums: dict[str, DevianceSums], rare: np.ndarray) -> Score:
    own, ours, reference = sums[name], sums[OURS], sums[GENE_MEANS]
    rare_sum, rare_reference = own.per_gene[rare].sum(), reference.per_gene[rare].sum()
    z = 0.0 if name == OURS else paired_difference(candidate=ours, reference=own).z
    return Score(
        name,
        own.mean,
        d2(deviance=own.total, reference_deviance=reference.total),
        z,
        d2(deviance=rare_sum, reference_deviance=rare_reference) if rare_reference > 0 else 0.0,
    )
