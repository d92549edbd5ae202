"""DeepImpute (Arisdakessian et al. 2019), the authors' package, default parameters.

It predicts log1p of the counts, so expm1 is the way back and the depth is the cell's own.
``restore``: measured non-zeros are kept, its default. ``predicted``: its predictions
everywhere, which is kinder to it here, since a measured count is no estimate of its own rate.
Genes of little variance are not imputed and come back as they were.

The package hands its learning rate, 1e-4, to Adam as ``lr``. Keras of TensorFlow 2.15 ignores that
name and would train at ten times the rate; its own legacy optimizer, put in Adam's place, knows it.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from contract import main
from deepimpute import multinet


def estimate(counts, variant, seed):
    cells, genes = ([f"{i}" for i in range(n)] for n in counts.shape)
    multinet.keras.optimizers.Adam = multinet.keras.optimizers.legacy.Adam  # heeds lr
    raw = pd.DataFrame(counts.toarray(), index=cells, columns=genes)
    model = multinet.MultiNet(
        ncores=int(os.environ.get("OMP_NUM_THREADS", "1")), seed=seed, verbose=0
    )
    model.fit(raw)
    policy = "restore" if variant == "restore" else "none"
    return np.maximum(model.predict(raw, policy=policy).to_numpy(), 0)


if __name__ == "__main__":
    main(estimate)
