"""Memory: what matrices would take, and what there is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import zarr

from graphsci.io.files import is_store

#: Where the system shows control groups.
_GROUPS = Path("/sys/fs/cgroup")
#: Which of them this process is in.
_OWN_GROUP = Path("/proc/self/cgroup")


def refuse_more_than_memory(n_bytes: int, *, what: str, remedy: str) -> None:
    """Refuse work that needs more bytes than are free, before it is begun.

    Parameters
    ----------
    n_bytes
        What it needs.
    what
        The work, as in "these estimates take".
    remedy
        What can be done instead: the last sentence of the message.
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
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        limits.append(int(line.split()[1]) * 1024)
    return min([*limits, *_left_in_groups()], default=None)


def _left_in_groups() -> Iterator[int]:
    """Yield what is left of the limit of each control group (cgroup 2) that this process is in.

    Copies of files that the system drops when memory is needed do not count as taken.
    """
    inner = "/"
    with suppress(OSError, StopIteration):
        lines = _OWN_GROUP.read_text(encoding="utf-8").splitlines()
        inner = next(line for line in lines if line.startswith("0::")).removeprefix("0::")
    group = _GROUPS / inner.lstrip("/")
    for folder in (group, *group.parents):
        if folder != _GROUPS and _GROUPS not in folder.parents:
            return
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            limit = int((folder / "memory.max").read_text())
            stat = dict(map(str.split, (folder / "memory.stat").read_text().splitlines()))
            taken = int((folder / "memory.current").read_text())
            yield limit - taken + int(stat.get("inactive_file", 0))


def size_in_memory(path: str | os.PathLike[str]) -> int | None:
    """Return the bytes that the matrices of an ``.h5ad`` or ``.zarr`` take when read.

    None for other formats, whose size is not known before they are read.

    Parameters
    ----------
    path
        The file or store; it need not exist.
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
