"""DCA (Eraslan et al. 2019), the authors' package 0.3.4, default parameters.

The package wants TensorFlow below 2.5, which Python 3.11 does not have; it is installed without
its pins beside TensorFlow 2.15. The names that Keras has moved since are put back where it
looks for them, and its tuning module, which is not used here, is left out; nothing else changes.

``nb-conddisp`` is this version's default and what its authors advise for UMI counts;
``zinb-conddisp`` is the model of their paper. The output is the mean of the negative binomial at
the cell's own depth, the count before dropout; the expectation of a repeated measurement is that
of a ZINB times the probability that the entry was not dropped, as for scVI.
"""

import os
import sys
import types

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import anndata
import keras
import numpy as np
import tensorflow
from contract import main
from keras.layers import InputSpec, Layer


def put_names_back():
    hyper = types.ModuleType("dca.hyper")
    hyper.hyper = None
    topology, base_layer = types.ModuleType("topology"), types.ModuleType("base_layer")
    topology.Layer, base_layer.InputSpec = Layer, InputSpec
    keras.optimizers = keras.optimizers.legacy  # what graph mode can use
    sys.modules |= {
        "keras.optimizers": keras.optimizers,
        "keras.objectives": keras.losses,
        "keras.engine": types.ModuleType("engine"),
        "keras.engine.topology": topology,
        "keras.engine.base_layer": base_layer,
        "dca.hyper": hyper,
    }


def estimate(counts, variant, seed):
    put_names_back()
    # variables made in one session are not found in the new one that the package opens
    tensorflow.compat.v1.keras.backend.set_session = lambda session: None
    from dca.api import dca

    adata = anndata.AnnData(counts.toarray().astype(np.float32))
    threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
    options = {"ae_type": variant, "random_state": seed, "threads": threads}
    dca(adata, return_info=True, **options)
    found = np.asarray(adata.X)
    if variant == "nb-conddisp":
        return found
    measured = found * (1 - np.asarray(adata.obsm["X_dca_dropout"]))
    return {"estimate": measured, "before_dropout": found}


if __name__ == "__main__":
    main(estimate)
