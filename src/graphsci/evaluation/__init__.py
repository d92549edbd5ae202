"""The judge: held-out designs, metrics, controls, clustering protocols and false signal.

Nothing here knows the model: counts and predictions go in, numbers come out. The modules are
``designs`` (what is hidden), ``controls`` (what must be beaten), ``metrics``, ``labels``,
``detection``, ``openproblems`` and ``false_signal`` (scores), ``fish``, ``proteins``, ``depth`` and
``bulk`` (truth from elsewhere: smFISH, surface proteins, deeper sequencing, bulk RNA-seq),
``clustering`` (the paper's protocols), ``study`` (many methods and seeds on one data set) and
``registry`` (what each score is). Names are imported from them when they are first needed.
"""

from typing import TYPE_CHECKING

from graphsci._lazy import lazy_names

if TYPE_CHECKING:
    from graphsci.evaluation.clustering import PROTOCOLS, evaluate_clustering
    from graphsci.evaluation.controls import CONTROLS
    from graphsci.evaluation.registry import METRICS, Metric
    from graphsci.predictions import Prediction

__all__ = [
    "CONTROLS",
    "METRICS",
    "PROTOCOLS",
    "Metric",
    "Prediction",
    "evaluate_clustering",
]

_HOMES = {
    "CONTROLS": "controls",
    "METRICS": "registry",
    "PROTOCOLS": "clustering",
    "Metric": "registry",
    "Prediction": ".predictions",
    "evaluate_clustering": "clustering",
}
_MODULES = (
    "bulk",
    "clustering",
    "controls",
    "count_loss",
    "depth",
    "designs",
    "detection",
    "false_signal",
    "fish",
    "labels",
    "metrics",
    "openproblems",
    "proteins",
    "registry",
    "study",
)
__getattr__ = lazy_names(__name__, modules=_MODULES, homes=_HOMES)


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
