"""Losses of held-out counts: all of :mod:`graphsci.count_loss`."""

from graphsci.count_loss import *  # noqa: F403 (what it has)
