"""Memory: what matrices would take, and what there is."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import zarr

from graphsci.files import is_store


def refuse_more_than_memory(n_bytes: int, *, what: str, remedy: str) -> None:
    """Refuse work that needs more bytes than are free, before it is begun.

    ``what`` takes them, as in "these estimates take"; ``remedy`` is the last sentence.
    """
    free = available_memory()
    if free is not None and n_bytes > free:
        raise ValueError(
            f"{what} {n_bytes / 2**30:.1f} GiB, more than the {free / 2**30:.1f} GiB of memory "
            f"that are free. {remedy}"
        )


def available_memory() -> int | None:
    """Return the bytes of memory that this process may still take; None if it cannot be told.

    The least of what the system has available and what is left of a container's limit.
    """
    limits = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        limits.append(int(line.split()[1]) * 1024)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((group / "memory.max").read_text())
        limits.append(limit - int((group / "memory.current").read_text()))
    return min(limits, default=None)


def size_in_memory(path: str | os.PathLike[str]) -> int | None:
    """Return the bytes that the matrices of an ``.h5ad`` or ``.zarr`` take when read.

    None for other formats, whose size is not known before they are read.
    """
    source = Path(path)
    name = source.name.lower()
    if name.endswith(".h5ad") and source.is_file():
        with suppress(OSError), h5py.File(source, "r") as file:
            return sum(_n_bytes(file[slot]) for slot in ("X", "layers", "raw") if slot in file)
    if source.is_dir() and is_store(source):
        group = zarr.open_group(source, mode="r")
        return sum(_n_bytes(group[slot]) for slot in ("X", "layers", "raw") if slot in group)
    return None


def _n_bytes(element: Any) -> int:
    """Bytes of an array, or of all arrays in a group."""
    if not hasattr(element, "keys"):
        return int(element.nbytes)  # 0 for an element that is null, such as no raw
    return sum(_n_bytes(element[key]) for key in element)
