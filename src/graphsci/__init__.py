"""Recover single-cell gene expression and its gene network.

>>> import graphsci
>>> graphsci.tl.impute(adata)  # adata: raw counts
>>> adata.layers["denoised"]

Heavy libraries are imported when they are first needed, so that this import is quick.
"""

from typing import TYPE_CHECKING

from graphsci._lazy import lazy_names

if TYPE_CHECKING:
    from graphsci.config import Config, preset
    from graphsci.imputer import GraphSCI
    from graphsci.io import read_counts
    from graphsci.training.checkpoint import Checkpoint

    from . import pl, tl

__version__ = "0.1.0"
__all__ = ["Checkpoint", "Config", "GraphSCI", "__version__", "pl", "preset", "read_counts", "tl"]

_MODULES = (
    "advance",
    "demo",
    "evaluation",
    "gene_graph",
    "io",
    "network",
    "pl",
    "prior_knowledge",
    "simulation",
    "tl",
    "verdict",
)
_HOMES = {
    "Checkpoint": "training.checkpoint",
    "Config": "config",
    "preset": "config",
    "GraphSCI": "imputer",
    "read_counts": "io",
}
__getattr__ = lazy_names(__name__, modules=_MODULES, homes=_HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
