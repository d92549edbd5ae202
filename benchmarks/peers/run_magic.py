"""MAGIC (van Dijk et al. 2018), the authors' package, default parameters.

``sqrt``: square root of counts per median library (what its authors advise); the smoothed values
are squared. ``log``: log1p of the same, expm1 after. Both ways back under-estimate a mean, so
each cell is rescaled to its library size.
"""

import magic
import numpy as np
from contract import at_own_depth, library_sizes, main, per_cell


def estimate(counts, variant, seed):
    normalized = per_cell(counts, float(np.median(library_sizes(counts))))
    forth, back = {"sqrt": (np.sqrt, np.square), "log": (np.log1p, np.expm1)}[variant]
    operator = magic.MAGIC(random_state=seed, verbose=0, n_jobs=1)
    smooth = operator.fit_transform(forth(normalized), genes="all_genes")
    return at_own_depth(back(np.maximum(np.asarray(smooth), 0)), counts)


if __name__ == "__main__":
    main(estimate)
