"""Arrays that several modules name."""

import numpy as np
from numpy.typing import NDArray

Names = NDArray[np.str_]
Mask = NDArray[np.bool_]
