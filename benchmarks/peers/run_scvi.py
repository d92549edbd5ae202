"""scVI (Lopez et al. 2018), scvi-tools, default parameters and number of epochs.

``nb``: posterior mean of the expected frequency times the cell's library size. ``zinb``: the
mean of the negative binomial times the probability that the entry was not dropped, for that is
the expectation of a repeated measurement; without the factor it is the count before dropout.
25 posterior samples.
"""

import logging
import warnings

import anndata
import numpy as np
import scvi
from contract import library_sizes, main

N_SAMPLES = 25


def estimate(counts, variant, seed):
    warnings.simplefilter("ignore")
    logging.getLogger("scvi").setLevel(logging.ERROR)
    scvi.settings.seed = seed
    adata = anndata.AnnData(counts.astype(np.float32))
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, gene_likelihood=variant)
    model.train(accelerator="cpu", enable_progress_bar=False)
    options = {"library_size": 1, "n_samples": N_SAMPLES, "return_numpy": True}
    found = np.asarray(model.get_normalized_expression(**options)) * library_sizes(counts)
    if variant == "nb":
        return found
    parameters = model.get_likelihood_parameters(n_samples=N_SAMPLES, give_mean=True)
    measured = found * (1 - np.asarray(parameters["dropout"]))
    return {"estimate": measured, "before_dropout": found}


if __name__ == "__main__":
    main(estimate)
