"""What an HDF5 file looks like."""

from __future__ import annotations

import h5py


def content_hint(file: h5py.File) -> str:
    """Say what an HDF5 file looks like."""
    if "row_attrs" in file and "col_attrs" in file:
        return " It looks like a loom file: rename it to .loom."
    if "obs" in file and "var" in file:
        return " It looks like an AnnData file: rename it to .h5ad."
    if matrix_groups(file):
        return " It looks like a 10x file: rename it to .h5."
    return " Check where the file comes from."


def matrix_groups(file: h5py.File) -> list[str]:
    """Return the groups of an HDF5 file that hold a 10x matrix."""
    return [
        name for name, item in file.items() if isinstance(item, h5py.Group) and "barcodes" in item
    ]
