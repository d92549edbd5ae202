"""Where the arithmetic is done: the choice of a CPU or a GPU, and sums that repeat themselves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch


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


@contextlib.contextmanager
def repeatable(device: torch.device) -> Iterator[None]:
    """Context in which a GPU gives the same bits every time, as a CPU does anyway.

    Threads of a GPU add to a sum in whichever order they come, unless torch is told to sort them
    first. Its switches are put back afterwards; ``CUBLAS_WORKSPACE_CONFIG`` stays, as cuBLAS reads
    it once.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for that
    switches: Any = torch.utils.deterministic
    filled = switches.fill_uninitialized_memory
    asked = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    switches.fill_uninitialized_memory = False  # we read nothing before writing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(asked, warn_only=warn_only)
        switches.fill_uninitialized_memory = filled
