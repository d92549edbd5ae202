"""Versions of what decides the numbers: they travel with every output."""

import importlib.metadata
import platform

#: Packages whose versions decide the numbers.
_RECORDED_PACKAGES = ("graphsci", "torch", "numpy", "scipy", "anndata", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}
    return {**found, "python": platform.python_version()}
