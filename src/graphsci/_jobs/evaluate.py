"""``graphsci evaluate`` on files: read, hold out, let every method predict, compare, keep.

The model is trained on the kept molecules alone, without its own check: the held-out molecules
of a study are not seen by anything that learns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from anndata import AnnData
from scipy import sparse

from graphsci import io
from graphsci._jobs.evaluate_input import Data, as_molecules, read_counts, read_data
from graphsci._jobs.evaluate_layers import BUILT_IN, HELD_OUT_LAYER
from graphsci._jobs.evaluate_ours import OUR_MEAN, OURS, Fits, graphsci_method
from graphsci._jobs.evaluate_request import Job, check_request
from graphsci._log import Log, say_nothing
from graphsci._versions import source_digest, versions
from graphsci.config import Config, later_seed
from graphsci.evaluation import study
from graphsci.evaluation.clustering import package_versions
from graphsci.io.files import check_writable
from graphsci.io.sources import to_csr
from graphsci.preprocessing import fit_median_library_size
from graphsci.training.checkpoint import digest

if TYPE_CHECKING:
    from graphsci.training.loop import Progress


class Judged(NamedTuple):
    """A case, and how a method is judged on it."""

    case: study.Case
    reference: study.Reference
    false_signal: bool  #: whether shuffled genes can be scored: not of finished estimates


class Outcome(NamedTuple):
    """A finished study."""

    runs: list[study.Run]
    summaries: tuple[study.Summary, ...]
    ours: str  #: our estimate that the sentence is about
    sentence: str
    n_new: int  #: runs that were not in the folder before
    notes: tuple[str, ...]
    depth: float | None  #: median molecules that the design 'depth' kept
    data: str  #: fingerprint of the counts, which all designs of a study share


# --- a study ----------------------------------------------------------------------------


def evaluate(
    job: Job,
    config: Config,
    *,
    progress: Progress | None = None,
    log: Log = say_nothing,
) -> dict[str, Outcome]:
    """Run what is missing of a study, and compare; one outcome for each design.

    The seeds are ``config.seed``, ``config.seed + 1``, ...: each fixes what is hidden, the fit and
    the clustering.

    Raises
    ------
    ValueError, TypeError, OSError
        Whatever is wrong with the request or the counts, before anything is trained.
    """
    check_request(job)
    log(f"reading {job.source}")
    data = read_data(job, copies=config.copies)
    outcomes, parts = {}, _parts(job, data)
    fingerprint = study.fingerprint(data.counts)
    if data.held_out is None:  # they are molecules now, as far as they can be
        config = config.replace(copies=1.0)
    seeds = [later_seed(config.seed, n) for n in range(job.seeds)]
    config = config.replace(seed=0)  # each run adds its own
    for part in parts.values():
        _check_cases(part, data, seeds)
    for name, part in parts.items():
        log(f"design: {name}")
        outcomes[name] = _evaluate(
            part, config, data, seeds, fingerprint, progress=progress, log=log
        )
    return outcomes


def _parts(job: Job, data: Data) -> dict[str, Job]:
    """Return the job of each design that is asked for, by name.

    With all designs, labels and shuffled genes are scored with the held-out molecules alone, and
    cells are thinned to half the median depth of those that are not empty unless told otherwise.
    """
    if job.held_out is not None:
        return {"given": job}
    if job.design != "all":
        return {job.design: job}
    median = fit_median_library_size(data.counts)
    if job.depth is not None and not 0 < job.depth < median:
        raise ValueError(
            f"depth: got {job.depth}, expected a number between 0 and the present median of "
            f"{median:,.0f} molecules per cell; thinning cannot deepen."
        )
    half = float(np.floor(median / 2))
    parts: dict[str, Job] = {}
    for design in study.DESIGNS:
        first = design == "molecules"
        parts[design] = replace(
            job,
            design=design,
            depth=(job.depth or half) if design == "depth" else None,
            label_key=job.label_key if first else None,
            shuffled=job.shuffled if first else 0,
        )
    return parts


def _check_cases(job: Job, data: Data, seeds: Sequence[int]) -> None:
    """Refuse a design, or shuffled genes, that do not fit the counts."""
    labels = data.labels if job.label_key is not None else None
    chance = job.shuffled or data.batch is not None  # it may fit in one seed and not in another
    for seed in seeds if chance else seeds[:1]:
        case = _case(job, data, seed)
        if job.shuffled:
            study.check_shuffled(case, n_copies=job.shuffled, labels=labels)


def _evaluate(
    job: Job,
    config: Config,
    data: Data,
    seeds: Sequence[int],
    fingerprint: str,
    *,
    progress: Progress | None,
    log: Log,
) -> Outcome:
    """Run what is missing of one design, and compare."""
    data = data if job.label_key is not None else data._replace(labels=None)
    names = job.methods or BUILT_IN
    layers = [name for name in names if name in data.layers]
    decisive = {"data": fingerprint, **_decisive(job, data)}
    store, runs, n_new = study.Store(job.output), list[study.Run](), 0
    fits = Fits(config, progress=progress, log=log)
    for seed in seeds:
        case = reference = None
        for name in names:
            key = store.key(**decisive, method=_described(name, config, data), seed=seed)
            run = store.find(key)
            if run is None:
                case = _case(job, data, seed) if case is None else case
                reference = reference or study.reference_of(case)
                log(f"{name}, seed {seed}")
                method = _method(name, fits, data, case)
                judged = Judged(case, reference, false_signal=name not in layers)
                run = _run(job, data, name, method, judged, fits)
                store.keep(key, run, decisive=decisive, versions=versions())
                n_new += 1
            runs.append(run)
    summaries = study.summarise(runs)
    what = "hidden entries" if job.design == "entries" else "held-out molecules"
    # 'denoised' takes a zero that was put there as measured: it is not meant for hidden entries
    ours = OUR_MEAN if job.design == "entries" and OUR_MEAN in names else OURS
    said = study.sentence(summaries, ours, judged=what)
    notes = _notes(job, data)
    return Outcome(runs, summaries, ours, said, n_new, notes, job.depth, fingerprint)


def write_split(
    job: Job,
    path: Path,
    *,
    seed: int = 0,
    copies: float = 0.0,
    overwrite: bool = False,
    log: Log = say_nothing,
) -> AnnData:
    """Write the kept counts as ``X`` and the held-out ones as a layer, for others' methods.

    They are those of :func:`evaluate` with that seed, and reads become molecules as there.
    """
    check_request(job)
    check_writable(path, suffixes=io.ANNDATA_SUFFIXES, overwrite=overwrite)
    adata, data = read_counts(job)
    counts, said = as_molecules(job, data, copies)
    for line in (*data.doubts, *said):
        log(f"note: {line}")
    if job.design not in ("molecules", "depth"):
        raise ValueError(
            f"design: {job.design!r} has no one file of kept and held-out molecules; use "
            "'molecules' or 'depth'."
        )
    case = _case(job, Data(counts, None, None, None, (), {}), seed)
    adata = AnnData(
        sparse.csr_matrix(case.task.kept, dtype=np.float32),
        obs=adata.obs,
        var=adata.var.iloc[case.genes],
        layers={HELD_OUT_LAYER: sparse.csr_matrix(case.held_out, dtype=np.float32)},
    )
    io.write_anndata(adata, path)
    return adata


def _case(job: Job, data: Data, seed: int) -> study.Case:
    if data.held_out is not None:
        return study.given_case(data.counts, data.held_out, batch=data.batch, seed=seed)
    assert job.design != "all"  # divided by _parts
    return study.make_case(
        data.counts,
        design=job.design,
        fraction=job.fraction,
        depth=job.depth,
        batch=data.batch,
        seed=seed,
    )


def _method(name: str, fits: Fits, data: Data, case: study.Case) -> study.Method:
    if name in (OURS, OUR_MEAN):
        return graphsci_method(fits, estimate="denoised" if name == OURS else "mean")
    if name in data.layers:
        return study.estimate_at_own_depth(data.layers[name], case)
    return study.ceiling(case) if name == study.CEILING else study.control(name)


def _run(
    job: Job,
    data: Data,
    name: str,
    method: study.Method,
    judged: Judged,
    fits: Fits,
) -> study.Run:
    case = judged.case
    judge = None
    if data.labels is not None and name != study.CEILING:
        expressed = np.asarray(case.task.kept.sum(1)).ravel() > 0
        known = np.flatnonzero(expressed & (data.labels != None))  # noqa: E711 (each element)
        of_labels = study.clustering_judge(
            data.labels[known].astype(str),
            protocol=job.protocol,
            n_seeds=job.clustering_seeds,
            seed=case.task.seed,
        )

        def judge(values: Any) -> dict[str, float]:
            return of_labels(values[known])

    fits.saved = 0.0
    run = study.run_method(
        name, method, case, level=job.level, judge=judge, reference=judged.reference
    )
    run.scores["seconds"] += fits.saved  # a fit that another estimate shares costs both
    if job.shuffled and judged.false_signal and name != study.CEILING:
        run.scores.update(
            study.shuffled_scores(method, case, n_copies=job.shuffled, labels=data.labels)
        )
    return run


def _decisive(job: Job, data: Data) -> dict[str, Any]:
    """Return what decides every run of a study, beside the counts and the method."""
    found: dict[str, Any] = {"design": job.design, "fraction": job.fraction, "depth": job.depth}
    found |= {"level": job.level, "shuffled": job.shuffled}
    found |= {"versions": versions(), "source": source_digest()}
    if data.held_out is not None:
        found["held_out"] = study.fingerprint(data.held_out)
    if data.labels is not None:
        found["labels"] = digest([data.labels.astype(str)])
        found |= {"protocol": job.protocol, "clustering_seeds": job.clustering_seeds}
        found["protocol_versions"] = package_versions(job.protocol)
    return found


def _described(name: str, config: Config, data: Data) -> dict[str, Any]:
    """Return what decides a method's answer."""
    if name in (OURS, OUR_MEAN):
        batches = {} if data.batch is None else {"batch": digest([data.batch])}
        return {"name": name, "config": config.to_dict(), **batches}
    if name in data.layers:
        values = to_csr(data.layers[name])
        return {"name": name, "values": study.fingerprint(values)}
    return {"name": name}


def _notes(job: Job, data: Data) -> tuple[str, ...]:
    notes = list(data.notes)
    if data.labels is not None:
        n_missing = int(np.sum(data.labels == None))  # noqa: E711
        if n_missing:
            notes.append(f"{n_missing:,} cells without a label are left out of the clustering.")
        notes.append(
            "If the labels were found by clustering these counts, they favour methods that change "
            "little."
        )
    if job.design == "entries":
        notes.append(
            f"{OURS} ('denoised') takes a hidden entry's zero as measured and must lose here: this "
            f"design is for predictions that do not use the entry, {OUR_MEAN} among ours."
        )
    if job.shuffled and data.layers:
        notes.append("False signal is not scored for layers: it needs the method itself.")
    return tuple(notes)
