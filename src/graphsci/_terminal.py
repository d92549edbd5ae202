"""Who says what on the terminal: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import warnings
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from graphsci._signals import handling
from graphsci._words import duration, time_left
from graphsci.advance import Advance, heard_by, is_heard

if TYPE_CHECKING:
    from types import FrameType

    from rich.progress import Progress as Bar

    from graphsci.training.loop import EpochRecord, Progress

#: Longest silence of training, and of a pass over the data, in a log file.
_LOG_SECONDS = 60
_STDERR = 2
#: Columns of a terminal that have room for a long bar beside all that is said.
_WIDE = 120


def plain_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return a console that colours only what it is told to: names in data are no markup."""
    return Console(stderr=stderr, highlight=False, markup=False, quiet=quiet)


def tell_at_once(line: str) -> None:
    """Say one line on stderr past all buffers, for a process that a signal is about to end.

    The signal may have come while another line was written; a bar is left, and its cursor shown.
    """
    end_of_bar = "\n\x1b[?25h" if os.isatty(_STDERR) else ""
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"{end_of_bar}{line}\n".encode())


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


def n_processes() -> int:
    """Processes of the job that this one belongs to, as torchrun says; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


class Reporter:
    """Tells on stderr what happens: a line for each stage, a bar for the epochs and long passes."""

    def __init__(self, quiet: bool) -> None:
        self.console = plain_console(stderr=True, quiet=quiet)
        self.said: set[str] = set()
        self._losses: tuple[str, ...] = ()  # of the last epoch that ended
        self._told: float | None = None  # seconds of the work at its last line in a log file
        self._bar: Bar | None = None

    @property
    def has_bar(self) -> bool:
        """Whether a bar can move where this is told: on a terminal, in a notebook with widgets."""
        console = self.console
        return console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)

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
        self._losses = (f"loss {record.training_loss:.2f}",)
        if record.validation_loss == record.validation_loss:
            self._losses += (f"validation {record.validation_loss:.2f}",)
        at = Advance("training", record.epoch, n_epochs, "epochs", record.seconds)
        if self.has_bar:
            self._show(at)
        elif self._is_late(at) or at.is_over or record.epoch % max(1, n_epochs // 10) == 0:
            self._print(at, f"epoch {record.epoch} of {n_epochs}: {', '.join(self._losses)}")

    def advance(self, at: Advance) -> None:
        """Tell how far an epoch or another pass over the data got, which may be its end."""
        if not self.has_bar:
            self._advance_in_file(at)
        elif not at.is_over:
            self._show(at)
        elif at.unit != "epochs":
            self._end_bar()
        elif self._bar is not None:  # after Ctrl-C there is none
            self._show(at)

    def _advance_in_file(self, at: Advance) -> None:
        if at.is_over:
            self._told = None
        elif self._told is None:  # it began, or goes on from an earlier run
            self._told = at.seconds
        elif self._is_late(at):
            self._print(at, _in_words(at))

    def _is_late(self, at: Advance) -> bool:
        return at.seconds - (self._told or 0.0) > _LOG_SECONDS

    def _print(self, at: Advance, line: str) -> None:
        """Put a line into a log file."""
        self._told = at.seconds
        self.console.print(f"{line}; {_time_of(at)}", soft_wrap=True)

    def _show(self, at: Advance) -> None:
        """Move the bar to where the work is."""
        if self._bar is not None and self._bar.tasks[0].description != at.what:
            self._end_bar()
        if self._bar is None:
            self._bar = _bar(self.console, at)
            self._bar.add_task(at.what, words="")
        room = self.console.width - len(at.what) - _bar_width(self.console) - 2
        words = _fitting([_in_digits(at), _time_of(at), *self._losses], room)
        self._bar.update(self._bar.tasks[0].id, completed=at.done, total=at.of, words=words)
        self._bar.start()  # once: it is shown with its words from the first

    def close(self) -> None:
        """End the bar: training is over."""
        self._told, self._losses = None, ()
        self._end_bar()

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let the first Ctrl-C end training: whoever trains says what becomes of the model.

        Warnings are told like everything else, and how far the work inside gets.
        """

        def interrupt(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.close()
            raise KeyboardInterrupt

        with handling(signal.SIGINT, interrupt):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("default", UserWarning)
                    warnings.showwarning = lambda message, *_, **__: self.note(str(message))
                    with heard_by(self.advance):
                        yield
            finally:
                self.close()


@contextlib.contextmanager
def shown(progress: bool | Progress | None) -> Iterator[Progress | None]:
    """Show how far the work inside gets, to a user of Python, and yield what each epoch is told to.

    Parameters
    ----------
    progress
        None: a bar on a terminal and in a notebook, unless somebody listens already
        (:func:`graphsci.advance.heard_by`). True: in any case, in a log file as lines. False:
        nothing. A function is told of epochs, and nothing is shown.
    """
    if callable(progress):
        yield progress
    elif progress is None and is_heard():
        yield None
    elif progress is False:
        with heard_by(lambda at: None):  # nor what is called inside
            yield None
    else:
        reporter = Reporter(quiet=rank() > 0)
        if not (progress or reporter.has_bar or reporter.console.is_jupyter):
            yield None
            return
        try:
            with heard_by(reporter.advance):
                yield reporter.progress
        finally:
            reporter.close()


def _bar(console: Console, at: Advance) -> Bar:
    """Return a bar for one work; nothing is left at the end of one other than training's."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=_bar_width(console)),
        TextColumn("{task.fields[words]}"),
    )
    return Progress(*columns, console=console, transient=at.unit != "epochs")


def _bar_width(console: Console) -> int:
    return 24 if console.width >= _WIDE else 8


def _fitting(parts: Sequence[str], room: int) -> str:
    """Say as many of these as there is room for on a line, and the first in any case."""
    words = parts[0]
    for part in parts[1:]:
        if len(words) + len(part) + 2 > room:
            break
        words = f"{words}; {part}"
    return words


def _in_digits(at: Advance) -> str:
    """How far work got, beside its bar."""
    return f"{int(at.done):,} of {at.of:,} {at.unit}"


def _in_words(at: Advance) -> str:
    """How far work got, in a log file."""
    if at.unit == "epochs":
        epoch = math.ceil(at.done)
        return f"epoch {epoch} of {at.of}: {at.done - epoch + 1:.0%} of its cells"
    return f"{at.what}: {_in_digits(at)}"


def _time_of(at: Advance) -> str:
    """How long work took, and how long the rest will take at this pace."""
    took = duration(at.seconds)
    if at.is_over or not at.done:
        return took
    return f"{took}, about {time_left(at.seconds, at.done, at.of)}"  # training may stop early
