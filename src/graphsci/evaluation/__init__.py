"""The judge: held-out designs, metrics, controls, clustering protocols and false signal."""

from graphsci.evaluation._blocks import Prediction

__all__ = ["Prediction"]
