"""graphsci itself and its controls, through the same contract as the peers.

Variants: ``default`` and ``paper`` (presets; check off, trained on the kept counts), and the
names of the controls. The estimate is the expected count of a repeated measurement: what
``denoised`` is without dropout.
"""

import numpy as np
from contract import main

from graphsci._evaluate import graphsci_method
from graphsci.config import preset
from graphsci.evaluation import CONTROLS
from graphsci.evaluation.study import Task, control


def estimate(counts, variant, seed):
    method = control(variant) if variant in CONTROLS else graphsci_method(preset(variant))
    task = Task(counts, counts, 1.0, seed)
    return np.concatenate([block.counts for block in method(task)])


if __name__ == "__main__":
    main(estimate)
