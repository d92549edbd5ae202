"""What is refused before anything takes long: outputs, then the request."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from graphsci._imputing.request import Request
from graphsci._words import check_column
from graphsci.io.files import check_writable, is_store
from graphsci.prior_knowledge import detect_format
from graphsci.prior_knowledge.known_networks import check_symbols

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci._jobs.files import FileJob
    from graphsci._jobs.impute import Job


def check_outputs(job: FileJob, *, replaced: Sequence[Path] = ()) -> None:
    """Make sure that every output can be written; ``replaced`` are more of them, and may exist.

    Raises
    ------
    ValueError, OSError
        The ending is wrong, a folder is missing or takes no file, something exists and may not be
        replaced, or two have one path.
    """
    for name, path in job.paths.items():
        check_writable(
            path,
            suffixes=job.ENDINGS[name],
            overwrite=job.overwrite,
            folder=name == "model",
        )
    for path in replaced:
        check_writable(path, overwrite=True)
    places = [path.resolve() for path in (*job.paths.values(), *replaced)]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise ValueError(f"two outputs have the same path, {twice}; give each its own.")


def check_networks(job: FileJob, *, read: Sequence[Path]) -> None:
    """Refuse what says how known networks are ``read`` where there are none, or none such."""
    if job.network_symbols is not None and not read:
        raise ValueError(
            "network_symbols (--network-symbols): it names the proteins of a known network, but "
            "none was given. Give one, or leave it out."
        )
    if job.network_symbols is not None:
        check_symbols(job.network_symbols, [detect_format(path) for path in read])
    if job.ignore_case and not read:
        raise ValueError(
            "ignore_case (--ignore-case): it is about the genes of a known network, but none was "
            "given. Give one, or leave it out."
        )


def _check_room(job: Job, n_entries: int) -> None:
    """Refuse dense layers that the disk has no room for; how far others shrink is not known yet."""
    shrinks = job.genes is not None or job.drop_below is not None or job.compression is not None
    if shrinks or is_store(job.output):
        return
    needed = len(job.names) * n_entries * np.dtype(job.dtype).itemsize
    free = shutil.disk_usage(job.output.resolve().parent).free
    if needed > free:
        raise ValueError(
            f"output: {len(job.names)} matrices of all cells and genes ({', '.join(job.names)}) "
            f"take {needed / 2**30:,.1f} GiB, and the disk of {job.output} has "
            f"{free / 2**30:,.1f} GiB left. Free space, or write less: --dtype float16, "
            "--compression gzip, --drop-below or --genes."
        )


def check_request(job: Job, adata: AnnData) -> None:
    """Refuse what the model would only refuse after training."""
    request = Request.of(adata, **job.request)
    if job.report is None and (job.label_key is not None or job.markers):
        raise ValueError(
            "label_key (--label-key), markers: they are for the report, but none was asked for. "
            "Ask for it (--report FILE.html), or leave them out."
        )
    if job.genes is not None and job.drop_below is not None:
        raise ValueError(
            "drop_below (--drop-below): it makes sparse layers, but chosen genes (--genes) are "
            "written as tables. Leave one of the two out."
        )
    if job.drop_below is not None and job.dtype == "float16":
        raise ValueError(
            "dtype (--dtype): sparse layers (--drop-below) have no float16, which scipy could not "
            "read. Leave one of the two out."
        )
    slashed = [name for name in job.genes or () if "/" in name]
    if slashed:
        raise ValueError(
            f"genes (--genes): {slashed[0]!r} has a '/' in its name and cannot be a column of a "
            "table in a file. Rename it in the input, or write all genes."
        )
    if job.genes is None:
        request.refuse_overwriting(job.layer, job.slots)
    _check_room(job, adata.n_obs * adata.n_vars)
    if job.label_key is not None:
        check_column(adata.obs, job.label_key, option="label_key (--label-key)")
    taken = [] if job.overwrite else job.taken(adata)
    if taken:
        raise ValueError(
            f"the input has {', '.join(taken)} already. Choose another name for this run "
            "(--key-added, --prefix), or replace them: --overwrite."
        )
