"""The command line: its commands, each in a module of its own, and how the program starts.

What works on data is imported inside the commands: ``graphsci --help`` is quick.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from graphsci import __version__
from graphsci._cli.demo import demo
from graphsci._cli.errors import BAD_INPUT, OUR_BUG, STOPPED, UNFINISHED, end_without_hdf5
from graphsci._cli.evaluate import evaluate
from graphsci._cli.impute import apply, impute
from graphsci._cli.info import info
from graphsci._cli.network import network
from graphsci._cli.processes import OF_SIGNALS
from graphsci._cli.simulate import simulate
from graphsci._signals import handling
from graphsci._terminal import n_processes, tell_at_once
from graphsci.io.files import remove_unfinished

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["BAD_INPUT", "OUR_BUG", "STOPPED", "app", "main"]

app = typer.Typer(
    name="graphsci",
    help="Recover single-cell gene expression and its gene network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"graphsci {__version__}")
        raise typer.Exit


for _function in (impute, apply, demo, info, evaluate, network, simulate):
    app.command()(_function)


def main() -> None:
    """Run the command line.

    Threads that wait for each other sleep instead of spinning, unless the environment says
    otherwise: on a shared machine spinning made an epoch of two threads ten times slower
    (benchmarks/lab/log.md). It must be said before torch is imported.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    with _cleaning_up_at_sigterm():
        try:
            app()
        except SystemExit as end:
            end_without_hdf5(end)
            raise


@contextlib.contextmanager
def _cleaning_up_at_sigterm() -> Iterator[None]:
    """Remove temporary files before SIGTERM, of a batch system, ends this process, and say so.

    An exception would not do: raised in a callback of a library, as often as not, it is ignored.
    One of several processes ends without a word, by the signal: whoever started it speaks.
    """

    def end(number: int, frame: FrameType | None) -> None:
        remove_unfinished()
        if n_processes() > 1:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        tell_at_once(f"graphsci: error: stopped by SIGTERM; {UNFINISHED}")
        os._exit(OF_SIGNALS + number)

    with handling(signal.SIGTERM, end):
        yield
