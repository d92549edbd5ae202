"""The controls of ``graphsci.evaluation``, through the same contract as the peers.

The variant is the name of a control. The ratio of 1 makes it expect a repetition at the same depth.
"""

import numpy as np
from contract import main

from graphsci.evaluation import CONTROLS


def estimate(counts, variant, seed):
    predicted = CONTROLS[variant](counts, ratio=1.0, seed=seed)
    return np.concatenate([block for _, block in predicted])


if __name__ == "__main__":
    main(estimate)
