"""Plots in scanpy's manner: functions of results that return what they drew.

Each takes an optional ``ax`` or ``figure`` to draw on, and otherwise makes one with pyplot, so
that notebooks show it. None calls ``plt.show`` or changes a global setting. Colours are those
of Okabe and Ito, which most colour-blind people can tell apart; more than six groups have those
of matplotlib's tab20, and beyond these the marker changes as well.

The modules are ``_training``, ``_cells``, ``_genes`` and ``_networks``, over ``_scale`` (counts and
estimates on one scale) and ``_style``.
"""

from graphsci.pl._cells import FEWEST_MAPPED, Method, embedding, is_numeric  # noqa: F401
from graphsci.pl._genes import dispersion, dropout_curve, expression, mean_variance, uncertainty
from graphsci.pl._networks import gene_graph_degree, gene_network, module_heatmap, network_degree
from graphsci.pl._scale import Values  # noqa: F401
from graphsci.pl._style import (  # noqa: F401
    BLUE,
    GREEN,
    GREY,
    GROUP_COLORS,
    GROUP_MARKERS,
    INK,
    MANY_GROUP_COLORS,
    ORANGE,
    RED,
)
from graphsci.pl._training import training_curve, verdict

__all__ = [
    "dispersion",
    "dropout_curve",
    "embedding",
    "expression",
    "gene_graph_degree",
    "gene_network",
    "mean_variance",
    "module_heatmap",
    "network_degree",
    "training_curve",
    "uncertainty",
    "verdict",
]


def __dir__() -> list[str]:
    return __all__
