"""Words of messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from numpy.typing import NDArray

_SHOWN = 5  # names shown in messages


def few(names: Sequence[str] | NDArray[Any] | pd.Index) -> str:
    """Return the first few names, comma-separated."""
    shown = ", ".join(str(name) for name in names[:_SHOWN])
    return shown + ", ..." if len(names) > _SHOWN else shown
