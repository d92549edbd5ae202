"""Choices and defaults that the program and functions of Python share, each once.

Nothing heavy is imported here, so that ``graphsci --help`` is quick.
"""

from __future__ import annotations

from typing import Literal, get_args

# --- of estimates -----------------------------------------------------------------------

Estimate = Literal["mean", "denoised", "imputed", "imputed_median"]
ESTIMATES: tuple[Estimate, ...] = get_args(Estimate)
Depth = Literal["own", "common"]
Scale = Literal["counts", "log1p"]
Digits = Literal["float32", "float16"]

# --- of files ---------------------------------------------------------------------------

GenesIn = Literal["rows", "columns"]

# --- of training ------------------------------------------------------------------------

#: Minutes between two checkpoints: what is lost at most, beside the epoch under way.
CHECKPOINT_MINUTES = 10.0

# --- of networks ------------------------------------------------------------------------

#: Candidates for new edges of each gene.
N_NEIGHBORS = 20
#: Confidence of the edges that modules are made of: a tenth of them may be chance.
MODULE_CONFIDENCE = 0.9
#: Genes that chosen ones and their partners are kept down to, and that a picture has room for.
N_SHOWN_GENES = 50
#: Cells of a group with a network of its own: fewer cannot tell the covariance of their states.
FEWEST_LABEL_CELLS = 50

# --- of evaluation ----------------------------------------------------------------------

Design = Literal["molecules", "entries", "cells", "depth"]
DESIGNS: tuple[Design, ...] = get_args(Design)
Designs = Literal[Design, "all"]
#: Share of the molecules, or of the entries, that are held out.
HELD_OUT_FRACTION = 0.1
#: Level of the interval whose coverage is measured.
INTERVAL_LEVEL = 0.9
#: How cells are clustered, as the paper does, and how often.
PROTOCOL, CLUSTERING_SEEDS = "tsne-kmeans", 5
