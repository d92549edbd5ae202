"""What users say of their cells: known labels in a column of ``obs``."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def known_labels(column: pd.Series) -> NDArray[np.object_]:
    """Return labels as text, (cells,), None where missing: NaN, or what files make of it."""
    labels = column.astype(str).to_numpy(dtype=object)
    labels[(column.isna() | column.astype(str).isin(["nan", ""])).to_numpy()] = None
    return labels


def group_names(column: pd.Series, *, most: int | None = None) -> list[str]:
    """Return the groups of a column as text, NaN as ``nan``: in the order they are drawn in.

    That of the categories of a categorical column, as in scanpy; else the largest group first.
    With ``most`` the largest so many.
    """
    names = column.astype(str).value_counts().index[:most].tolist()
    if not isinstance(column.dtype, pd.CategoricalDtype):
        return names
    place = {name: n for n, name in enumerate(column.cat.categories.astype(str))}
    return sorted(names, key=lambda name: place.get(name, len(place)))
