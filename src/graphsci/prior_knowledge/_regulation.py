"""Regulators and their targets, with signs: TRRUST, DoRothEA, CollecTRI."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from graphsci.prior_knowledge._text import (
    Table,
    edge_table,
    first_column,
    numbers,
    read_table,
    refuse_twins,
    require,
    with_header,
)

REGULON_SOURCES = ("source", "tf")
REGULON_WEIGHTS = ("weight", "mor")
TRRUST_SIGNS = {"activation": 1.0, "repression": -1.0, "unknown": 0.0}


def read_trrust(path: Path) -> Table:
    """Read TRRUST: TF, target, mode, PubMed ids. Distributed without a header."""
    frame = read_table(path)
    if frame.shape[1] < 3:
        raise ValueError(
            f"{path.name} has {frame.shape[1]} columns; TRRUST has TF, target, mode and PubMed ids."
        )
    if str(frame.iloc[0, 2]).lower() not in TRRUST_SIGNS:
        frame = frame.iloc[1:]  # a header was added
    sign = frame[2].str.lower().map(TRRUST_SIGNS)
    if sign.isna().any():
        raise ValueError(
            f"{path.name} has modes {sorted(set(frame[2][sign.isna()]))[:3]}; TRRUST's are "
            "Activation, Repression and Unknown."
        )
    table = edge_table(frame[0], frame[1], 1.0)
    return table.assign(sign=sign.to_numpy()), []


def read_regulon(path: Path, confidence: Iterable[str] | None) -> Table:
    """Read DoRothEA or CollecTRI as decoupler writes them."""
    frame = with_header(read_table(path))
    refuse_twins(frame, (*REGULON_SOURCES, "target", "confidence", *REGULON_WEIGHTS), path)
    source = first_column(frame, REGULON_SOURCES, path)
    require(frame, ("target",), path)
    notes = []
    if confidence is not None:
        levels = sorted(set(confidence))
        require(frame, ("confidence",), path)
        before = len(frame)
        frame = frame[frame["confidence"].isin(levels)]
        notes.append(
            f"{before - len(frame)} of {before} edges of other confidence than {levels} left out"
        )
    columns = [column for column in REGULON_WEIGHTS if column in frame]
    weight = numbers(frame[columns[0]], path) if columns else np.ones(len(frame))
    table = edge_table(frame[source], frame["target"], np.abs(weight))
    return table.assign(sign=np.sign(weight)), notes
