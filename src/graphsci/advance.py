"""How far long work over many cells got, told once a second to whoever listens.

Work that takes long (an epoch, a pass over the counts) has a :class:`Meter`, and need not know
whether anyone is told: as with warnings, the listener is said once, around all of it, by
:func:`heard_by`. Without one a meter does nothing. ``GraphSCI.fit`` and what else takes long show
a bar by themselves on terminals and in notebooks; a listener hears the same instead. ::

    from graphsci.advance import heard_by

    with heard_by(lambda at: print(f"{at.what}: {at.done / at.of:.0%}")):
        model.fit(adata)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

#: Between two reports of one work, and before its first: short work is not told of.
_EVERY_SECONDS = 1.0


class Advance(NamedTuple):
    """How far some work got."""

    what: str  #: the work, e.g. "checking the counts"
    done: float  #: 0 to ``of``; of epochs, that under way counts in part
    of: int
    unit: str  #: what is counted: "cells", "values" or "epochs"
    seconds: float  #: since it began; of training, those of earlier runs included

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do."""
        return self.done >= self.of


Listener = Callable[[Advance], None]

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


def is_heard() -> bool:
    """Whether anyone listens to the work done here."""
    return _LISTENER.get() is not None


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` how far the work inside gets; what it raises ends the work."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


class Meter:
    """Follows one work and tells the listener about once a second.

    Parameters
    ----------
    what, of, unit
        As in :class:`Advance`.
    seconds
        What the work took before, in an earlier run.
    """

    def __init__(self, what: str, of: int, unit: str = "cells", *, seconds: float = 0.0) -> None:
        self._what, self._of, self._unit = what, of, unit
        self._listener = _LISTENER.get()
        self._told = time.monotonic()
        self._began, self._is_heard_of = self._told - seconds, False

    def reach(self, done: float) -> None:
        """Note that ``done`` is done; tell if it is time, and of the end if this was told of."""
        if self._listener is None:
            return
        now = time.monotonic()
        is_end = self._is_heard_of and done >= self._of
        if is_end or now - self._told >= _EVERY_SECONDS:
            self._told, self._is_heard_of = now, True
            self._listener(Advance(self._what, done, self._of, self._unit, now - self._began))

    def end(self, done: int) -> None:
        """Tell in any case that the work is over, with ``done`` done and no more to do."""
        if self._listener is not None:
            seconds = time.monotonic() - self._began
            self._listener(Advance(self._what, done, done, self._unit, seconds))
