"""What users say of their cells: known labels in a column of ``obs``."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def known_labels(column: pd.Series) -> NDArray[np.object_]:
    """Return labels as text, (cells,), None where missing: NaN, or what files make of it."""
    labels = column.astype(str).to_numpy(dtype=object)
    labels[(column.isna() | column.astype(str).isin(["nan", ""])).to_numpy()] = None
    return labels
