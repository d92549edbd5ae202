"""What goes wrong is said in one line, and the exit code says whose mistake it is."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import typer

from graphsci._terminal import plain_console, rank
from graphsci.io.files import NoRoom

#: What bad input, bad requests, failing disks and packages that are not installed raise;
#: anything else is a bug of ours.
_EXPECTED = (ValueError, TypeError, OSError, FloatingPointError, ImportError)
BAD_INPUT, OUR_BUG, STOPPED = 2, 1, 130


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Say what is wrong in one line; with ``debug``, the traceback too."""
    try:
        yield
    except KeyboardInterrupt:
        said = "stopped by Ctrl-C; unfinished outputs were removed."
        raise failure(said, STOPPED, debug) from None
    except MemoryError:
        raise failure("out of memory.", OUR_BUG, debug) from None
    except _EXPECTED as error:
        raise failure(str(error), BAD_INPUT, debug) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if _lost_another(error):
            said = "another process of this job ended, so this one had to; start the job again."
            raise failure(said, OUR_BUG, debug) from None
        said = f"{type(error).__name__}: {error}. This looks like a bug: report it with --debug."
        raise failure(said, OUR_BUG, debug) from None


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
