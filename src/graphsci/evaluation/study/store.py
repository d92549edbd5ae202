"""Runs in a folder, under a key of everything that decides them; runs as rows of a table."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from graphsci.evaluation.study.judging import SD
from graphsci.evaluation.study.running import Run
from graphsci.io.files import atomic_path, write_json


def fingerprint(counts: sp.csr_matrix) -> str:
    """Return a digest of a matrix: the same for the same numbers in the same places."""
    matrix = sp.csr_matrix(counts, dtype=np.float64)
    if not matrix.has_canonical_format or not matrix.data.all():
        matrix = matrix.copy()  # it may share the caller's arrays
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
    digest = hashlib.sha256(repr(matrix.shape).encode())
    for part in (matrix.indptr, matrix.indices):
        digest.update(np.ascontiguousarray(part, dtype=np.int64).tobytes())
    digest.update(np.ascontiguousarray(matrix.data).tobytes())
    return digest.hexdigest()[:16]


class Store:
    """Runs in a folder, one pair of files each, under a key of all that decides them.

    Parameters
    ----------
    folder
        Made when the first run is kept; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @staticmethod
    def key(**decisive: Any) -> str:
        """Return the key of a run: a digest of everything that decides its outcome."""
        text = json.dumps(decisive, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def find(self, key: str) -> Run | None:
        """Return the run of that key, or None."""
        if self.folder is None or not self._json(key).is_file():
            return None
        record = json.loads(self._json(key).read_text(encoding="utf-8"))
        per_cell = np.load(self._cells(key))
        return Run(record["method"], record["seed"], record["scores"], per_cell)

    def keep(self, key: str, run: Run, **record: Any) -> None:
        """Write a run; the record is written last, so that a half-written run does not count."""
        if self.folder is None:
            return
        self._cells(key).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._cells(key)) as temporary:
            np.save(temporary, run.per_cell)
        known = {"method": run.method, "seed": run.seed, "scores": run.scores}
        write_json(self._json(key), {**known, **record})

    def _json(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "runs" / f"{key}.json"

    def _cells(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / "runs" / f"{key}.npy"


def tidy(runs: Iterable[Run]) -> Iterator[dict[str, Any]]:
    """Yield one row for each score of each run, for a table.

    ``sd_over_clusterings`` is None for scores that no clustering was repeated for.
    """
    for run in runs:
        for name, value in run.scores.items():
            if name.removesuffix(SD) == name:
                row = {"method": run.method, "seed": run.seed, "score": name, "value": value}
                yield {**row, "sd_over_clusterings": run.scores.get(name + SD)}
