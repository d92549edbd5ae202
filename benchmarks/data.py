"""The files that benchmarks read: development data under ``--data``, and the paper's own sets.

Nothing is downloaded. A benchmark skips, saying so, what is not there.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from graphsci import io

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

#: Sets of molecules with fewer than 200 cells: held-out molecules alone, marked in the tables. Not
#: among the others, by whose number and order ``subsets.py`` draws.
SMALL = {
    "grun2014_mes_2i": Dataset("h5ad/grun2014_mes_2i.h5ad"),
    "macosko_species": Dataset("h5ad/macosko_species_hundred.h5ad"),
}


def dataset_of(name: str) -> Dataset:
    """Return a count matrix by its name, of any size."""
    return {**DATASETS, **SMALL}[name]


def read(data: Path, path: str) -> anndata.AnnData | None:
    """Return a file under the data folder; None, with a line printed, if it is not there."""
    if not (data / path).is_file():
        print(f"skipped: no {data / path}")
        return None
    return anndata.read_h5ad(data / path)


def read_dataset(data: Path, name: str) -> anndata.AnnData | None:
    """Return the wanted cells of a count file, ``X`` as float32 CSR; None if it is not there."""
    dataset = dataset_of(name)
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
    column = dataset_of(name).labels
    return None if column is None else adata.obs[column].astype(str).to_numpy()


# --- the paper's own data sets, for users who have the files ----------------------------


class Published(NamedTuple):
    """A data set of the paper: where its files are from, and how they are read."""

    accession: str
    url: str
    files: tuple[str, ...]  #: under one folder, with or without .gz or .bz2
    format: str
    shape: tuple[int, int] | None  #: cells x genes in the paper's Table S3, if it is there
    used_for: str
    read: Callable[[list[Path]], anndata.AnnData]


def read_published(name: str, folder: Path) -> anndata.AnnData:
    """Return a data set of the paper from files that lie in ``folder``.

    ``X`` is cells x genes; ``obs["label"]`` holds what the files say about the cells, if
    anything. Cell types of the 10x sets are not in their files: they need an annotation.

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message says where it is from.
    """
    wanted = PUBLISHED[name]
    return wanted.read([_find(folder, file, wanted) for file in wanted.files])


def _find(folder: Path, file: str, wanted: Published) -> Path:
    for suffix in ("", ".gz", ".bz2"):
        if (folder / f"{file}{suffix}").is_file():
            return folder / f"{file}{suffix}"
    raise FileNotFoundError(
        f"no {folder / file}, plain, .gz or .bz2; expected the file of {wanted.accession}: get it "
        f"from {wanted.url}"
    )


def _read_klein(paths: list[Path]) -> anndata.AnnData:
    """Read one table a day, genes in rows, no header, first column the gene."""
    parts = []
    for path, day in zip(paths, ("day0", "day2", "day4", "day7"), strict=True):
        table = pd.read_csv(path, header=None, index_col=0)
        cells = [f"{day}_{i}" for i in range(table.shape[1])]
        obs = pd.DataFrame({"label": day}, index=cells)
        var = pd.DataFrame(index=table.index.astype(str))
        parts.append(anndata.AnnData(_counts(table.to_numpy().T), obs, var))
    return anndata.concat(parts)


def _read_10x(paths: list[Path]) -> anndata.AnnData:
    """Read Cell Ranger's ``.h5``; antibodies are left out."""
    return io.read_counts(paths[0], make_names_unique=True)


def _read_table(paths: list[Path]) -> anndata.AnnData:
    """Read a table with genes in rows and samples named ``GROUP_...`` in columns."""
    table = pd.read_csv(paths[0], sep=None, engine="python", index_col=0)
    groups = [str(column).replace(".", "_").split("_")[0] for column in table.columns]
    obs = pd.DataFrame({"label": groups}, index=table.columns.astype(str))
    var = pd.DataFrame(index=table.index.astype(str))
    return anndata.AnnData(_counts(table.to_numpy().T), obs, var)


def _counts(values: np.ndarray) -> sparse.csr_matrix:
    return sparse.csr_matrix(values, dtype=np.float32)


_GEO = "https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc="
_10X = "https://cf.10xgenomics.com/samples/cell-exp"
#: Data sets of the paper's Table S3 and of its Figures 7 and 8. The C. elegans time course is a
#: supplementary table of Francesconi & Lehner 2014, without an accession of its own.
PUBLISHED = {
    "mouse_es": Published(
        "GSE65525",
        f"{_GEO}GSE65525",
        tuple(
            f"GSM159949{sample}.csv"
            for sample in (
                "4_ES_d0_main",
                "7_ES_d2_LIFminus",
                "8_ES_d4_LIFminus",
                "9_ES_d7_LIFminus",
            )
        ),
        "four tables of UMI counts, genes in rows, no header",
        (2717, 24175),
        "Figure 4, Table S2",
        _read_klein,
    ),
    "pbmc_5k": Published(
        "10x 5k_pbmc_protein_v3",
        f"{_10X}/3.0.2/5k_pbmc_protein_v3/",
        ("5k_pbmc_protein_v3_filtered_feature_bc_matrix.h5",),
        "Cell Ranger 3 .h5, genes and antibodies",
        (5247, 33570),
        "Figure 5, Table S2; its 11 cell types are not in the file",
        _read_10x,
    ),
    "mouse_brain_10k": Published(
        "10x neuron_10k_v3",
        f"{_10X}/3.0.0/neuron_10k_v3/",
        ("neuron_10k_v3_filtered_feature_bc_matrix.h5",),
        "Cell Ranger 3 .h5",
        (11843, 31053),
        "Figure S3, Table S2; its 16 cell types are not in the file",
        _read_10x,
    ),
    "human_es": Published(
        "GSE75748",
        f"{_GEO}GSE75748",
        ("GSE75748_sc_cell_type_ec.csv",),
        "table of expected counts (fractional: allow_fractional), genes in rows",
        None,
        "Figure 7: take the cells labelled H1 and DEC",
        _read_table,
    ),
    "human_es_bulk": Published(
        "GSE75748",
        f"{_GEO}GSE75748",
        ("GSE75748_bulk_cell_type_ec.csv",),
        "table of expected counts, genes in rows",
        None,
        "Figure 7: the samples labelled H1 and DEC are the truth",
        _read_table,
    ),
    "human_embryo": Published(
        "GSE44183",
        f"{_GEO}GSE44183",
        ("GSE44183_human_expression_mat.txt",),
        "table of normalised expression, not counts: GraphSCI refuses it as counts",
        (30, 14766),
        "Figure 8 (Table S3 lists it as human ES cells)",
        _read_table,
    ),
    "mouse_brain_1m": Published(
        "10x 1M_neurons",
        f"{_10X}/1.3.0/1M_neurons/",
        ("1M_neurons_filtered_gene_bc_matrices_h5.h5",),
        "Cell Ranger 1 .h5",
        None,
        "Figure S8",
        _read_10x,
    ),
}
