"""Lines that say which stage begins, and who takes them."""

from __future__ import annotations

from collections.abc import Callable

#: Called with one line before every stage.
Log = Callable[[str], None]


def say_nothing(message: str) -> None:
    """Take a line where nobody listens."""
