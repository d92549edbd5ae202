"""Who says what on the terminal: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import os
import signal
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from graphsci._signals import handling
from graphsci._words import duration, time_left

if TYPE_CHECKING:
    from types import FrameType

    from rich.progress import Progress, TaskID

    from graphsci.training import EpochRecord

#: Longest silence of training in a log file, unless an epoch takes longer.
_LOG_SECONDS = 60


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console that colours only what it is told to: names in data are no markup."""
    return Console(stderr=stderr, highlight=False, markup=False, quiet=quiet)


def table_of_facts(facts: Iterable[tuple[str, str]]) -> Table:
    """Return a table with a line for each name and what is said of it; names may be repeated."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, words in facts:
        table.add_row(name, words)
    return table


def rank() -> int:
    """Number of this process in its job, from 0, as torchrun says: the first one speaks."""
    return int(os.environ.get("RANK", "0"))


class Reporter:
    """Tells on stderr what happens: a line for each stage, a bar for the epochs."""

    def __init__(self, quiet: bool) -> None:
        self.console = plain_console(stderr=True, quiet=quiet)
        self.said: set[str] = set()
        self.training = False  #: there are weights worth keeping, and training goes on
        self._told = 0.0  # seconds of training at the last line in a log file
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def log(self, message: str) -> None:
        """Say one line."""
        self._say(message, message)

    def note(self, message: str) -> None:
        """Say one line, once, that a summary would repeat as a note."""
        if message not in self.said:
            self._say(message, f"note: {message}")

    def _say(self, message: str, line: str) -> None:
        self.close()
        self.said.add(message)
        self.console.print(line, style="dim", soft_wrap=True)

    def progress(self, record: EpochRecord, n_epochs: int) -> None:
        """Tell of an epoch that has ended."""
        self.training = True
        losses, took = f"loss {record.training_loss:.2f}", duration(record.seconds)
        if record.validation_loss == record.validation_loss:
            losses += f", validation {record.validation_loss:.2f}"
        if record.epoch < n_epochs:  # training may stop early
            took += f", about {time_left(record.seconds, record.epoch, n_epochs)}"
        if not self.console.is_terminal:  # a log file: a line now and then
            is_late = record.seconds - self._told > _LOG_SECONDS
            if is_late or record.epoch % max(1, n_epochs // 10) == 0:
                self._told = record.seconds
                line = f"epoch {record.epoch} of {n_epochs}: {losses}; {took}"
                self.console.print(line, soft_wrap=True)
            return
        if self._bar is None or self._task is None:
            self._bar = _training_bar(self.console)
            self._bar.start()
            self._task = self._bar.add_task("training", total=n_epochs, losses="", took="")
        self._bar.update(self._task, completed=record.epoch, losses=losses, took=took)

    def close(self) -> None:
        """End the bar: training is over."""
        self.training, self._told = False, 0.0
        if self._bar is not None:
            self._bar.stop()
            self._bar = self._task = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let the first Ctrl-C end training with the best weights so far, and say so.

        Warnings are told like everything else.
        """

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self.training:
                self.close()
                self.console.print(
                    "Ctrl-C: training ends here, with the best weights so far. Another one stops "
                    "everything; once the check against held-out molecules has begun, it skips "
                    "that.",
                    style="bold yellow",
                    soft_wrap=True,
                )
            raise KeyboardInterrupt

        with handling(signal.SIGINT, interrupt):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("default", UserWarning)
                    warnings.showwarning = lambda message, *_, **__: self.note(str(message))
                    yield
            finally:
                self.close()


def _training_bar(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(bar_width=24),
        TextColumn("epoch"),
        MofNCompleteColumn(),
        TextColumn("{task.fields[losses]}"),
        TextColumn("{task.fields[took]}"),
    )
    return Progress(*columns, console=console)
