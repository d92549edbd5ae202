"""What goes wrong is said in one line, and the exit code says whose mistake it is."""

from __future__ import annotations

import contextlib
import dis
import errno
import os
import re
import sys
import traceback
from collections.abc import Collection, Iterator

import typer

from graphsci._terminal import plain_console, rank
from graphsci.io.files import NoRoom

#: What failing disks, diverging training and packages that are not installed raise.
_EXPECTED = (OSError, FloatingPointError, ImportError)
BAD_INPUT, OUR_BUG, STOPPED = 2, 1, 130
#: What became of the files of a command that was stopped.
UNFINISHED = "unfinished outputs were removed."

#: What needs less memory, of commands that have such a flag; of two, that have both.
_SAVING = (
    (("backed",), "leave the counts on disk (--backed)"),
    (("estimate", "genes"), "make fewer estimates (--estimate) or of fewer genes (--genes)"),
    (("batch_size",), "train with fewer cells a step (--batch-size)"),
)
#: What torch says that it could not do; on a CPU, only by a RuntimeError.
_NO_MEMORY = re.compile("out of memory|not enough memory|(can't|cannot) allocate memory", re.I)
_ASKED_FOR = re.compile(r"allocate (\d[\d.]* ?([KMGTPE]iB|bytes))")
_RAISE = dis.opmap["RAISE_VARARGS"]


@contextlib.contextmanager
def one_line_errors(
    debug: bool, *, package: str = "graphsci", flags: Collection[str] = ()
) -> Iterator[None]:
    """Say what is wrong in one line; with ``debug``, the traceback too.

    A ValueError or TypeError says something to the user if a ``raise`` of ``package`` says it;
    one that a library or the language raises was not foreseen, and is a bug. ``flags`` names the
    parameters of the command: what can be done about memory depends on them.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise failure(f"stopped by Ctrl-C; {UNFINISHED}", STOPPED, debug) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _of_memory(error):
            raise failure(_about_memory(error, flags), OUR_BUG, debug) from None
        said_by_us = isinstance(error, ValueError | TypeError) and _raised_in(package, error)
        if said_by_us or isinstance(error, _EXPECTED):
            raise failure(str(error), BAD_INPUT, debug) from None
        if _lost_another(error):
            said = "another process of this job ended, so this one had to; start the job again."
            raise failure(said, OUR_BUG, debug) from None
        said = f"{type(error).__name__}: {error}. This looks like a bug: report it with --debug."
        raise failure(said, OUR_BUG, debug) from None


def _of_memory(error: Exception) -> bool:
    """Whether there was too little memory, of the machine or of its GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    is_torchs = isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or is_torchs


def _about_memory(error: Exception, flags: Collection[str]) -> str:
    """Say how much was asked for, and what this command can do with less."""
    of_gpu = "CUDA" in str(error)
    found = _ASKED_FOR.search(str(error))
    said = "the GPU is out of memory" if of_gpu else "out of memory"
    said += f", with {found[1]} more asked for" if found else ""
    ways = [way for names, way in _SAVING if all(name in flags for name in names)]
    if of_gpu and "device" in flags:
        ways.append("compute without it (--device cpu)")
    others = "other programs on it" if of_gpu else "other programs"
    return f"{said}. {'; '.join([f'End {others} that take much', *ways])}."


def _raised_in(package: str, error: Exception) -> bool:
    """Whether a ``raise`` statement of a package raised this, not a call it made."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    module = trace.tb_frame.f_globals.get("__name__", "")
    is_raise = trace.tb_frame.f_code.co_code[trace.tb_lasti] == _RAISE
    return is_raise and module.partition(".")[0] == package


def end_without_hdf5(end: SystemExit) -> None:
    """End this process at once if there was no room for an output.

    HDF5 tries to write what it still holds, and would crash the interpreter at its end.
    """
    cause: BaseException | None = end
    while cause is not None and not isinstance(cause, NoRoom):
        cause = cause.__context__
    if cause is not None and isinstance(end.code, int):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code)


def failure(message: str, code: int, debug: bool) -> typer.Exit:
    """Say what is wrong; what ends all processes of a job is the first one's to tell."""
    process = rank()
    if debug:
        traceback.print_exc()
    if process == 0 or code not in (BAD_INPUT, STOPPED):
        who = f"process {process + 1}: " if process else ""
        said = f"graphsci: error: {who}{' '.join(message.split())}"
        plain_console(stderr=True).print(said, style="bold red", soft_wrap=True)
    return typer.Exit(code)


def _lost_another(error: Exception) -> bool:
    """Whether another process of this job is gone."""
    if "torch" not in sys.modules:
        return False
    from graphsci.training import distributed

    return distributed.lost_another(error)
