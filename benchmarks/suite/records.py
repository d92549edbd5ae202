"""Finished runs on disk: one small file for each case, method and seed.

A record holds the key of everything that decided the estimate and, for each judge, the version
of its source beside its scores: what is still valid is not computed again. A failure is a record
too, with its reason.
"""

import datetime
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suite.running import WORK

RECORDS = WORK / "records"


class Record(NamedTuple):
    """One method on one case, with one seed."""

    kind: str
    dataset: str
    method: str
    seed: int
    shape: tuple[int, int]
    key: str  #: of the estimate
    code: str  #: commit whose source ran, for ours and the controls
    made: str  #: date
    failed: str  #: reason, or ""
    limit_s: float  #: CPU seconds that were allowed
    cost: dict[str, float]
    judged: dict[str, dict[str, Any]]  #: judge -> version and scores
    versions: str = ""  #: of the packages that decide it; "" in records of before they were kept
    machine: str = ""  #: that it ran on; the same

    @property
    def scores(self) -> dict[str, float]:
        """All scores of all judges."""
        found: dict[str, float] = {}
        for judged in self.judged.values():
            found |= judged["scores"]
        return found

    @property
    def case(self) -> str:
        """Name of the case."""
        return f"{self.kind}/{self.dataset}"


def look_in(work: Path) -> None:
    """Take the records of another folder of work from now on."""
    global RECORDS
    RECORDS = work / "records"


def path_of(case: str, method: str, seed: int) -> Path:
    """Return the file of a record."""
    return RECORDS / case.replace("/", "__") / f"{method}__{seed}.json"


def find(case: str, method: str, seed: int) -> Record | None:
    """Return a record, or None."""
    path = path_of(case, method, seed)
    return _load(path) if path.is_file() else None


def keep(record: Record, per_cell: dict[str, np.ndarray]) -> None:
    """Write a record, its losses per cell first."""
    path = path_of(record.case, record.method, record.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    for judge, values in per_cell.items():
        np.save(path.with_suffix(f".{judge}.npy"), values)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record._asdict(), indent=1))
    part.replace(path)


def per_cell(record: Record, judge: str) -> np.ndarray | None:
    """Return the losses per cell that a judge kept."""
    path = path_of(record.case, record.method, record.seed).with_suffix(f".{judge}.npy")
    return np.load(path) if path.is_file() else None


def everything() -> list[Record]:
    """Return all records, in the order of their names."""
    return [_load(path) for path in sorted(RECORDS.glob("*/*.json"))]


def today() -> str:
    """Return today's date."""
    return datetime.date.today().isoformat()


def _load(path: Path) -> Record:
    found = json.loads(path.read_text(encoding="utf-8"))
    known = {name: found[name] for name in Record._fields if name in found}
    return Record(**{**known, "shape": tuple(found["shape"])})
