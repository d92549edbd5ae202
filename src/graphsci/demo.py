"""The demo: real counts without a download, imputed, checked, drawn and saved.

scanpy ships 700 peripheral blood cells x 765 genes of the 68,000 of Zheng et al. (2017) whose
``raw`` is log1p of counts scaled to 10,000 per cell, stored with three decimals, and whose
``obs["n_counts"]`` is each cell's total. The molecules come back exactly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from graphsci import io
from graphsci._jobs import impute as work
from graphsci._log import Log, say_nothing
from graphsci.config import Config
from graphsci.io.files import atomic_path, check_folder

if TYPE_CHECKING:
    from anndata import AnnData

    from graphsci.training.loop import Progress

LABELS = "bulk_labels"
MARKERS = ("LYZ", "CD79A", "NKG7", "FCER1A")
SOURCE = "scanpy.datasets.pbmc68k_reduced"
#: log1p values with three decimals are off by up to 0.0005, counts by that share of them.
_STORED_PRECISION = 6e-4


def load_counts() -> AnnData:
    """Return the demo's counts: 700 cells x 765 genes, CSR float32, labels in ``obs``.

    Raises
    ------
    ValueError
        If the values that scanpy ships do not turn back into whole numbers.
    """
    from anndata import AnnData
    from scanpy.datasets import pbmc68k_reduced

    shipped = pbmc68k_reduced()
    counts, deviation = undo_log_normalization(
        shipped.raw.X, shipped.obs["n_counts"].to_numpy(dtype=np.float64)
    )
    if deviation > 1:
        raise ValueError(
            f"{SOURCE} gave values that are no counts ({deviation:.1f} times what rounding "
            "explains). This scanpy ships other data: use graphsci demo --data FILE."
        )
    return AnnData(
        counts,
        obs=shipped.obs[[LABELS]].copy(),
        var=pd.DataFrame(index=shipped.raw.var_names.copy()),
    )


def undo_log_normalization(logged: Any, totals: np.ndarray) -> tuple[sparse.csr_matrix, float]:
    """Recover counts x from log1p(10,000 x / total).

    Parameters
    ----------
    logged
        (cells, genes) sparse, stored with three decimals.
    totals
        (cells,) total of each cell, in all genes.

    Returns
    -------
    counts, deviation
        CSR float32 of whole numbers, and the largest distance from a whole number, in units
        of what three decimals explain: at most 1 if these were counts.
    """
    logged = sparse.csr_matrix(logged)
    values = np.expm1(logged.data.astype(np.float64))
    scale = np.repeat(totals / 1e4, np.diff(logged.indptr))
    exact = values * scale
    whole = np.rint(exact)
    explained = _STORED_PRECISION * (values + 1) * scale
    deviation = float((np.abs(exact - whole) / explained).max())
    ambiguous = float(explained.max()) > 0.5  # rounding could go either way
    counts = sparse.csr_matrix(
        (whole.astype(np.float32), logged.indices, logged.indptr), shape=logged.shape
    )
    return counts, float("inf") if ambiguous else deviation


def run(
    out_dir: Path,
    config: Config,
    *,
    data: Path | None = None,
    label_key: str | None = None,
    genes_in: io.GenesIn | None = None,
    layer: str | None = None,
    progress: Progress | None = None,
    log: Log = say_nothing,
) -> work.Outcome:
    """Impute the demo's data, or a file, and fill a folder with everything to take away.

    Parameters
    ----------
    out_dir
        Folder; made if missing. The demo's own files in it are replaced.
    config
        Hyper-parameters.
    data, genes_in, layer
        A file instead of the demo's data, and how to read it.
    label_key
        Column of ``obs`` that colours the figures.
    progress, log
        As for :func:`graphsci._jobs.impute.impute`.
    """
    figures = _figures(check_folder(out_dir))
    figures.mkdir(parents=True, exist_ok=True)
    job = work.Job(
        source=SOURCE if data is None else data,
        output=out_dir / "imputed.h5ad",
        layer=layer,
        genes_in=genes_in,
        model=out_dir / "model",
        report=out_dir / "report.html",
        json=out_dir / "summary.json",
        label_key=LABELS if data is None and label_key is None else label_key,
        markers=MARKERS,
        title="graphsci demo",
        overwrite=True,
    )
    adata = load_counts() if data is None else None
    outcome = work.impute(job, config, adata=adata, progress=progress, log=log)
    for picture in outcome.pictures:
        with atomic_path(figures / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png())
    return outcome


def contents(out_dir: Path, outcome: work.Outcome) -> dict[str, str]:
    """Say what each file of the folder is."""
    slots, written = ", ".join(outcome.summary["slots"].values()), outcome.summary["outputs"]
    return {
        written["output"]: f"the data with {slots}",
        written["report"]: "verdict, numbers, figures, settings; open in a browser",
        str(_figures(out_dir)): ", ".join(f"{p.name}.png" for p in outcome.pictures),
        written["model"]: "the trained model: graphsci apply MODEL IN -o OUT",
        written["json"]: "the same for machines",
    }


def _figures(out_dir: Path) -> Path:
    return out_dir / "figures"
