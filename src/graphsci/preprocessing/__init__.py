"""Count checks, size factors, log-normalisation, thinning and matching of genes.

Everything a user can bring wrongly is refused here, once (:func:`extract_counts`).
The rest are pure functions on sparse arrays that never change their input; what is
learned from data (the median library size) is learned by a ``fit_`` function and handed
to the transform, so that held-out cells are normalised with *training* statistics.

The modules are ``counts`` (the door: from an AnnData to checked counts), ``_opening``, ``_values``
and ``_refusals`` (its three checks: names and batches, every value, what is wrong with it),
``batches``, ``names``, ``normalization`` (eq. 1), ``thinning`` and ``matching``.
"""

from graphsci.preprocessing._opening import check_is_anndata, find_matrix
from graphsci.preprocessing._refusals import MAX_EXACT_COUNT
from graphsci.preprocessing._types import Mask, Names
from graphsci.preprocessing.batches import (
    extract_batch,
    genes_without_a_batch,
    read_batches,
    unused_batches,
    usual_batches,
)
from graphsci.preprocessing.counts import CountData, Counts, extract_counts, open_counts
from graphsci.preprocessing.matching import GeneMatch, align_counts, match_genes
from graphsci.preprocessing.names import checked_names, positions_of
from graphsci.preprocessing.normalization import (
    detected_genes,
    fit_median_library_size,
    library_sizes,
    log_normalize,
    median_size,
    size_factors,
)
from graphsci.preprocessing.thinning import thin_counts

__all__ = [
    "MAX_EXACT_COUNT",
    "CountData",
    "Counts",
    "GeneMatch",
    "Mask",
    "Names",
    "align_counts",
    "check_is_anndata",
    "checked_names",
    "detected_genes",
    "extract_batch",
    "extract_counts",
    "find_matrix",
    "fit_median_library_size",
    "genes_without_a_batch",
    "library_sizes",
    "log_normalize",
    "match_genes",
    "median_size",
    "open_counts",
    "positions_of",
    "read_batches",
    "size_factors",
    "thin_counts",
    "unused_batches",
    "usual_batches",
]
