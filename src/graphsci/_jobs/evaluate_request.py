"""What is asked of ``graphsci evaluate``, and what is refused before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from graphsci import io
from graphsci._choices import CLUSTERING_SEEDS, HELD_OUT_FRACTION, INTERVAL_LEVEL, PROTOCOL, Designs
from graphsci.evaluation import PROTOCOLS, study
from graphsci.evaluation.clustering import require_packages


@dataclass(frozen=True)
class Job:
    """What to evaluate, on what, and where to keep the results."""

    source: Path
    layer: str | None = None
    batch_key: str | None = None
    held_out: str | None = None  #: layer of held-out molecules, if they were held out before
    label_key: str | None = None  #: column of obs; adds clustering scores
    genes_in: io.GenesIn | None = None
    make_names_unique: bool = False
    allow_fractional: bool = False  #: round counts that are not whole, at random
    methods: tuple[str, ...] = ()  #: ours, controls, layers; all but layers if empty
    design: Designs = "molecules"
    fraction: float = HELD_OUT_FRACTION
    depth: float | None = None
    seeds: int = 1
    level: float = INTERVAL_LEVEL
    protocol: str = PROTOCOL
    clustering_seeds: int = CLUSTERING_SEEDS
    shuffled: int = 0  #: shuffled genes for the score of false signal; 0: no score
    output: Path | None = None


def method_names(methods: Sequence[str]) -> tuple[str, ...]:
    """Return methods without repeats, in the order given."""
    return tuple(dict.fromkeys(methods))


def check_request(job: Job) -> None:
    """Refuse what does not go together, or is not there."""
    if job.design != "all" and job.design not in study.DESIGNS:
        raise ValueError(
            f"design: got {job.design!r}, expected 'all' or one of {', '.join(study.DESIGNS)}."
        )
    if job.seeds < 1:
        raise ValueError(f"seeds: got {job.seeds}, expected at least 1.")
    held_out_anew = _changed(job, "design", "fraction", "depth", "seeds")
    if job.held_out is not None and held_out_anew:
        raise ValueError(
            f"held_out: the molecules in layers[{job.held_out!r}] are held out already, once; "
            f"leave out {', '.join(held_out_anew)}."
        )
    if job.held_out is not None and job.allow_fractional:
        raise ValueError(
            "allow_fractional (--allow-fractional): molecules that were held out before are whole "
            "numbers, and so are those that were kept. Leave it out, or --held-out."
        )
    _check_depth(job)
    if job.label_key is not None and job.design == "cells":
        raise ValueError(
            "label_key: clustering is scored with the designs 'molecules', 'entries' and 'depth'."
        )
    if job.shuffled and job.design == "cells":
        raise ValueError(
            "shuffled: false signal needs the designs 'molecules', 'entries' or 'depth'."
        )
    if job.protocol not in PROTOCOLS:
        raise ValueError(f"protocol: got {job.protocol!r}, expected one of {', '.join(PROTOCOLS)}.")
    if job.label_key is not None:
        require_packages(job.protocol)
    of_clusters = _changed(job, "protocol", "clustering_seeds")
    if job.label_key is None and of_clusters:
        raise ValueError(
            f"{', '.join(of_clusters)}: about clusters, which are scored against labels. Name "
            "their column (--label-key), or leave this out."
        )
    if not 0 < job.level < 1:
        raise ValueError(f"level: got {job.level}, expected a number between 0 and 1.")


def _changed(job: Job, *names: str) -> list[str]:
    """Flags of the fields that have another value than their default."""
    usual = Job(job.source)
    return [
        f"--{name.replace('_', '-')}"
        for name in names
        if getattr(job, name) != getattr(usual, name)
    ]


def _check_depth(job: Job) -> None:
    """Refuse a design without the depth that it needs, and a depth that no cell is thinned to."""
    if job.design == "depth" and job.depth is None:
        raise ValueError(
            "depth: the design 'depth' thins cells to a median: give --depth N, in molecules per "
            "cell."
        )
    if job.design not in ("depth", "all") and job.depth is not None:
        raise ValueError(
            f"depth: got {job.depth} with the design {job.design!r}, which does not thin cells. "
            "Leave out --depth, or choose --design depth."
        )
    if job.design == "depth" and _changed(job, "fraction"):
        raise ValueError(
            f"fraction: got {job.fraction} with the design 'depth', whose depth says what is held "
            "out. Leave out --fraction."
        )
