"""Recover single-cell gene expression and its gene network.

>>> import graphsci
>>> graphsci.tl.impute(adata)  # adata: raw counts
>>> adata.layers["denoised"]

Heavy libraries are imported when they are first needed, so that this import is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphsci.checkpoint import Checkpoint
    from graphsci.config import Config, preset
    from graphsci.imputer import GraphSCI
    from graphsci.io import read_counts

    from . import pl, tl

__version__ = "0.1.0"
__all__ = ["Checkpoint", "Config", "GraphSCI", "__version__", "pl", "preset", "read_counts", "tl"]

_MODULES = ("demo", "evaluation", "io", "network", "pl", "tl")
_HOMES = {
    "Checkpoint": "graphsci.checkpoint",
    "Config": "graphsci.config",
    "preset": "graphsci.config",
    "GraphSCI": "graphsci.imputer",
    "read_counts": "graphsci.io",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name in _MODULES:
        return importlib.import_module(f"graphsci.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'graphsci' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
