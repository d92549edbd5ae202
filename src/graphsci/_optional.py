"""Packages that only some of the work needs."""

from __future__ import annotations

import importlib
import warnings
from typing import Any


def needed(module: str, what: str, package: str, instead: str = "") -> Any:
    """Import a module that only ``what`` needs, or say how to get it.

    Raises
    ------
    ImportError
        If it cannot be imported; with ``pip install package``, and what can be done ``instead``.
    """
    try:
        with warnings.catch_warnings():  # umap warns of the TensorFlow that it can do without
            warnings.simplefilter("ignore", ImportWarning)
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{what} needs the package {module!r}, which could not be imported ({error}); run "
            f"`pip install '{package}'`{instead}."
        ) from error


def networkx() -> Any:
    """Import what exports and draws networks."""
    return needed("networkx", "a network as GraphML, .cyjs or picture", "graphsci[network]")
