"""Packages that only networks need."""

from __future__ import annotations

from typing import Any


def needed(name: str) -> Any:
    """Import an optional package, or say how to get it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ValueError(
            f"this needs the package {name}, which is not installed: "
            "pip install 'graphsci[network]'"
        ) from None
