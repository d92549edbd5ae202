"""Versions of what decides the numbers: they travel with every output."""

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

#: Packages whose versions decide the numbers.
_RECORDED_PACKAGES = ("graphsci", "torch", "numpy", "scipy", "anndata", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    found = {name: importlib.metadata.version(name) for name in _RECORDED_PACKAGES}
    return {**found, "python": platform.python_version()}


@functools.cache
def source_digest(folder: Path = Path(__file__).parent) -> str:
    """Digest of the package's source as it is now: a checkout changes without its version.

    Of every ``.py`` file, by its place in the folder and what it says; read once a process.
    """
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.rglob("*.py")):
        text = path.read_bytes()
        total.update(f"{path.relative_to(folder).as_posix()}\0{len(text)}\0".encode())
        total.update(text)
    return total.hexdigest()
