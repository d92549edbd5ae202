"""The processes and threads that a command runs in."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from graphsci._cli.errors import BAD_INPUT, OUR_BUG, STOPPED, UNFINISHED, failure
from graphsci._signals import handling
from graphsci._terminal import n_processes

if TYPE_CHECKING:
    from types import FrameType

#: What a shell adds to the number of the signal that ended a program: Ctrl-C is 130.
OF_SIGNALS = 128


def launched(devices: int | None, checkpoint: Path | None = None) -> bool:
    """Run this command in several processes, if that was asked for; false if it is to run here.

    A job that trains and fails, or is stopped, says whether ``checkpoint`` holds something to go
    on from.
    """
    n_here = n_processes()
    if n_here > 1 and devices not in (None, n_here):
        raise ValueError(
            f"devices (--devices): got {devices}, but torchrun started {n_here} processes. "
            "Leave --devices out under torchrun."
        )
    if n_here > 1 or devices in (None, 1):
        return False
    from graphsci.training import distributed

    try:
        distributed.launch(devices, sys.argv[1:])
    except distributed.ProcessDied as error:
        if error.exit_code == BAD_INPUT:  # said already
            raise typer.Exit(BAD_INPUT) from None
        raise failure(f"{error}{_kept(checkpoint)}", OUR_BUG, debug=False) from None
    except distributed.JobStopped as error:
        how = "Ctrl-C" if error.signal == signal.SIGINT else error.signal.name
        said = f"stopped by {how}; {UNFINISHED}{_kept(checkpoint)}"
        raise failure(said, OF_SIGNALS + error.signal, debug=False) from None
    return True


def _kept(checkpoint: Path | None) -> str:
    """Say what a job that trained has left to go on from; nothing of one that did not train."""
    if checkpoint is None:
        return ""
    if not checkpoint.exists():
        return " Training: it was too early for a checkpoint (--checkpoint-minutes)."
    return f" Training: the same command goes on from {checkpoint}."


@contextlib.contextmanager
def dying_of_ctrl_c() -> Iterator[None]:
    """End this process at Ctrl-C: the processes of a job cannot stop at different places."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(STOPPED)

    with handling(signal.SIGINT, end):
        yield


def use_threads(n_threads: int | None) -> None:
    """Compute with so many threads; with all cores if None."""
    if n_threads is None:
        return
    import threadpoolctl  # type: ignore[import-untyped]
    import torch

    torch.set_num_threads(n_threads)
    threadpoolctl.threadpool_limits(n_threads)
