"""The files that benchmarks read: development data under ``--data``, and the paper's own sets.

Nothing is downloaded. A benchmark skips, saying so, what is not there.
"""

from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
from scipy import sparse

#: A cell with fewer molecules is no cell.
MIN_MOLECULES = 20


class Dataset(NamedTuple):
    """A count file under the data folder, and the cells wanted of it."""

    path: str
    keep: tuple[str, str] | None = None  #: column of obs and its value
    labels: str | None = None  #: column of obs with known groups
    honest: bool = False  #: the groups were known without the counts (clones, days, mixtures)


#: Count matrices, small ones first.
DATASETS = {
    "zeisel_saver": Dataset("h5ad/zeisel_saver_500x3529.h5ad"),
    "klein_mes": Dataset("h5ad/klein_mes_1000x900.h5ad", labels="label", honest=True),
    "pbmc_5k_protein_v3_200": Dataset("h5ad/pbmc_5k_protein_v3_200.h5ad"),
    "scmix_sc_celseq2": Dataset(
        "h5ad/scmix_sc_celseq2.h5ad", ("demuxlet_cls", "SNG"), labels="label", honest=True
    ),
    "scmix_RNAmix_celseq2": Dataset("h5ad/scmix_RNAmix_celseq2.h5ad", labels="label", honest=True),
    "pbmc_1k_v3": Dataset("h5ad/pbmc_1k_v3.h5ad"),
    "paul15": Dataset("h5ad/paul15_2660.h5ad", labels="label"),
    "soumillon_d3": Dataset("h5ad/soumillon_d3.h5ad", labels="label", honest=True),
    "e18_brain": Dataset("h5ad/e18_brain_10000x1000.h5ad"),
    "mouse_bladder": Dataset("h5ad/mouse_bladder_2100.h5ad", labels="label"),
    "pbmc3k": Dataset("h5ad/pbmc3k.h5ad", labels="label"),
}


def read(data: Path, path: str) -> anndata.AnnData | None:
    """Return a file under the data folder; None, with a line printed, if it is not there."""
    if not (data / path).is_file():
        print(f"skipped: no {data / path}")
        return None
    return anndata.read_h5ad(data / path)


def read_dataset(data: Path, name: str) -> anndata.AnnData | None:
    """Return the wanted cells of a count file, ``X`` as float32 CSR; None if it is not there."""
    dataset = DATASETS[name]
    adata = read(data, dataset.path)
    if adata is None:
        return None
    adata.X = sparse.csr_matrix(adata.X, dtype=np.float32)
    wanted = np.asarray(adata.X.sum(1)).ravel() >= MIN_MOLECULES
    if dataset.keep is not None:
        column, value = dataset.keep
        wanted &= (adata.obs[column].astype(str) == value).to_numpy()
    return adata[wanted].copy()


def labels_of(adata: anndata.AnnData, name: str) -> np.ndarray | None:
    """Return the known group of each cell, or None where there are no labels."""
    column = DATASETS[name].labels
    return None if column is None else adata.obs[column].astype(str).to_numpy()
