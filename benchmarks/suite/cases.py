"""What the methods see: one matrix of counts each, with what its judges need to know.

A case is built without looking at any method, and holds its truth apart from ``counts``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

import data
from graphsci.evaluation import study
from graphsci.evaluation.bulk import bulk_experiment
from graphsci.evaluation.false_signal import append_shuffled_genes
from graphsci.simulation import PRESETS, simulate_splat
from suite.environments import digest

#: Share of the molecules held out.
FRACTION = 0.1
#: Shuffled copies of real genes that are added to the counts.
N_COPIES = 200
SHUFFLED_DATASETS = ("zeisel_saver", "scmix_sc_celseq2", "paul15", "pbmc_1k_v3")
#: RNA mixtures: wells that methods see, wells that are judged, wells that are the truth (pg).
SEEN_PG, JUDGED_PG, TRUE_PG = (3.75, 7.5), 3.75, 30.0
#: A cell with less of its molecules in one species' genes is a doublet.
SINGLE_SPECIES = 0.9
SPECIES = ("hg", "mm")
SIMULATIONS = {"sim_t2": "sim-t2", "sim_t6": "sim-t6"}
#: Share of zeros in the paper's bulk experiment (Figure 6).
WORM_ZEROS = {"worm_50": 0.5, "worm_60": 0.6, "worm_70": 0.7}
HARD_SIMULATIONS = {"sim_t2_hard": "sim-t2-hard", "sim_t6_hard": "sim-t6-hard"}


class Case(NamedTuple):
    """One input, and what is known about it."""

    kind: str  #: held-out, shuffled, simulation, depth, smfish, species or bulk
    dataset: str
    seed: int
    counts: sparse.csr_matrix  #: (cells, genes), all that a method sees
    truth: dict[str, Any]  #: for the judges, by kind
    known: str = ""  #: digest of ``truth`` as it was built

    @property
    def name(self) -> str:
        """Name in tables and records."""
        return f"{self.kind}/{self.dataset}"


def all_names() -> list[str]:
    """Return the names of all cases, the cheap ones of each kind first."""
    names = [f"held-out/{name}" for name in (*data.DATASETS, *data.SMALL)]
    names += [f"shuffled/{name}" for name in SHUFFLED_DATASETS]
    names += [f"simulation/{name}" for name in (*SIMULATIONS, *HARD_SIMULATIONS)]
    names += ["depth/pollen", "depth/rna_mixtures", "smfish/grun", "species/macosko"]
    return names + [f"bulk/{name}" for name in WORM_ZEROS]


def build(name: str, folder: Path, *, seed: int) -> Case | None:
    """Return a case; None, with a line printed, if its files are not there."""
    kind, dataset = name.split("/")
    found = _BUILDERS[kind](folder, dataset, seed)
    if found is None:
        return None
    counts, truth = found
    return Case(kind, dataset, seed, counts, truth, fingerprint(truth))


def fingerprint(value: object) -> str:
    """Return a digest of what is known: numbers, names, matrices, frames, the text of files.

    Raises
    ------
    TypeError
        For anything else: a new kind of truth must say what its content is.
    """
    return digest(b"\n".join(_content(value)))


def _content(value: object) -> Iterator[bytes]:
    """Yield what a value consists of, type and shape first."""
    if isinstance(value, pd.DataFrame):
        columns = {str(name): column.to_numpy() for name, column in value.items()}
        value = {"columns": columns, "index": value.index.to_numpy()}
    yield type(value).__name__.encode()
    if isinstance(value, dict):
        for name in sorted(value):
            yield str(name).encode()
            yield from _content(value[name])
    elif isinstance(value, list | tuple):
        yield str(len(value)).encode()
        for part in value:
            yield from _content(part)
    elif sparse.issparse(value):
        yield study.fingerprint(value).encode()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield repr(value.tolist()).encode() if value.dtype.hasobject else value.tobytes()
    elif isinstance(value, Path):
        yield value.read_bytes()
    elif value is None or isinstance(value, str | int | float | np.generic):
        yield repr(value).encode()
    else:
        raise TypeError(f"a truth of type {type(value).__name__} has no fingerprint; add one.")


Built = tuple[sparse.csr_matrix, dict[str, Any]] | None


def _held_out(folder: Path, dataset: str, seed: int) -> Built:
    adata = data.read_dataset(folder, dataset)
    if adata is None:
        return None
    case = study.make_case(sparse.csr_matrix(adata.X), fraction=FRACTION, seed=seed)
    groups = data.labels_of(adata, dataset)
    labels = groups if data.dataset_of(dataset).honest else None
    genes = np.asarray(adata.var_names)[case.genes]
    truth = {"case": case, "labels": labels, "known_groups": groups, "genes": genes}
    return case.task.kept, truth | _outside_truth(folder, dataset, adata, case.genes)


#: Columns of bulk counts for the two groups that are compared, by data set.
BULK_FILE = "truth/gse86337_bulk_counts.tsv.gz"
SOUMILLON_DAYS = {"D3T0": "T0", "D3T7": "T7"}


def _outside_truth(
    folder: Path, dataset: str, adata: anndata.AnnData, genes: np.ndarray
) -> dict[str, Any]:
    """Return what another instrument says of a data set, aligned with the judged genes."""
    if dataset == "pbmc_5k_protein_v3_200":
        proteins = adata.obsm["protein"]
        return {"proteins": np.asarray(proteins), "protein_names": list(proteins.columns)}
    if dataset == "soumillon_d3":
        return {"bulk": _soumillon_bulk(adata, genes)}
    if dataset == "scmix_sc_celseq2" and (folder / BULK_FILE).is_file():
        return {"bulk": _cell_line_bulk(folder / BULK_FILE, np.asarray(adata.var_names)[genes])}
    return {}


class Bulk(NamedTuple):
    """Bulk counts of the groups of cells, for the genes that both have."""

    samples: dict[str, np.ndarray]  #: group -> (samples, genes)
    genes: np.ndarray  #: their positions among the judged genes


def _soumillon_bulk(adata: anndata.AnnData, genes: np.ndarray) -> Bulk:
    """Bulk of the same experiment, sorted and unsorted cells as two samples of a day."""
    samples = {}
    for day, name in SOUMILLON_DAYS.items():
        columns = [f"bulk_D3{name}_{kind}" for kind in ("sorted", "unsorted")]
        samples[day] = adata.var[columns].to_numpy(float).T[:, genes]
    return Bulk(samples, np.arange(len(genes)))


def _cell_line_bulk(path: Path, genes: np.ndarray) -> Bulk:
    """Bulk of the three cell lines (GSE86337), two samples each."""
    table = pd.read_csv(path, sep="\t").drop_duplicates("symbol").set_index("symbol")
    place = pd.Index(genes).get_indexer(table.index)
    table, place = table[place >= 0], place[place >= 0]
    lines = ("HCC827", "H2228", "H1975")
    samples = {
        line: table[[c for c in table.columns if c.startswith(f"{line}_")]].to_numpy(float).T
        for line in lines
    }
    return Bulk(samples, place)


def _shuffled(folder: Path, dataset: str, seed: int) -> Built:
    adata = data.read_dataset(folder, dataset)
    if adata is None:
        return None
    counts = sparse.csr_matrix(adata.X)
    counts = counts[:, np.flatnonzero(counts.getnnz(axis=0))]
    more = append_shuffled_genes(counts, n_copies=N_COPIES, rng=np.random.default_rng(seed))
    groups = data.labels_of(adata, dataset)
    return more.counts, {"copies": more.copies, "known_groups": groups}


def _simulation(folder: Path, dataset: str, seed: int) -> Built:
    if dataset in HARD_SIMULATIONS:
        adata: anndata.AnnData | None = simulate_splat(
            PRESETS[HARD_SIMULATIONS[dataset]], seed=seed
        )
    else:
        adata = data.read(folder, f"sim/{dataset}_seed1.h5ad")
    if adata is None:
        return None
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    genes = np.flatnonzero(counts.getnnz(axis=0))
    before = sparse.csr_matrix(adata.layers["TrueCounts"], dtype=np.float32)
    truth: dict[str, Any] = {"before": before[:, genes]}
    if dataset in HARD_SIMULATIONS:  # in the others raw counts cluster perfectly: no comparison
        truth["labels"] = adata.obs["Group"].astype(str).to_numpy()
    return counts[:, genes], truth


def _depth(folder: Path, dataset: str, seed: int) -> Built:
    del seed
    return _pollen(folder) if dataset == "pollen" else _rna_mixtures(folder)


def _pollen(folder: Path) -> Built:
    """The same 65 libraries, sequenced shallow and deep."""
    low = data.read(folder, "h5ad/pollen2014_low.h5ad")
    high = data.read(folder, "h5ad/pollen2014_high.h5ad")
    if low is None or high is None:
        return None
    counts = sparse.csr_matrix(low.X, dtype=np.float32)
    genes = np.flatnonzero(counts.getnnz(axis=0))
    deep = sparse.csr_matrix(high.X, dtype=np.float32)
    return counts[:, genes], {"deep": deep[:, genes], "cells": np.arange(low.n_obs)}


def _rna_mixtures(folder: Path) -> Built:
    """Wells of little RNA; the truth of a well is the mean of the 30 pg wells of its mixture."""
    adata = data.read(folder, "h5ad/scmix_RNAmix_celseq2.h5ad")
    if adata is None:
        return None
    amount, mix = adata.obs["mRNA_amount"].to_numpy(float), adata.obs["mix"].astype(str).to_numpy()
    x = sparse.csr_matrix(adata.X, dtype=np.float32)
    seen = np.flatnonzero(np.isin(amount, SEEN_PG))
    judged = np.flatnonzero(amount[seen] == JUDGED_PG)
    genes = np.flatnonzero(x[seen].getnnz(axis=0))
    rich = {m: np.asarray(x[(amount == TRUE_PG) & (mix == m)].sum(0)).ravel() for m in set(mix)}
    deep = sparse.csr_matrix(np.stack([rich[m][genes] for m in mix[seen][judged]]))
    return x[seen][:, genes], {"deep": deep, "cells": judged}


def _smfish(folder: Path, dataset: str, seed: int) -> Built:
    del dataset, seed
    adata = data.read(folder, "h5ad/grun2014_mes_2i.h5ad")
    if adata is None:
        return None
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    genes = np.flatnonzero(counts.getnnz(axis=0))
    files = sorted((folder / "truth/grun2014_smfish").glob("2i__*.csv"))
    return counts[:, genes], {"genes": np.asarray(adata.var_names)[genes], "files": files}


def _species(folder: Path, dataset: str, seed: int) -> Built:
    del dataset, seed
    adata = data.read(folder, "h5ad/macosko_species_hundred.h5ad")
    if adata is None:
        return None
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    genes = np.flatnonzero(counts.getnnz(axis=0))
    species = np.array([name[:2] for name in adata.var_names[genes]])
    totals = [np.asarray(counts[:, genes[species == s]].sum(1)).ravel() for s in SPECIES]
    share = np.maximum(*totals) / np.sum(totals, axis=0)
    single = np.flatnonzero(share > SINGLE_SPECIES)  # no doublets, by the counts themselves
    cells = np.array(SPECIES)[np.argmax(totals, axis=0)][single]
    counts = counts[single][:, genes]
    left = np.flatnonzero(counts.getnnz(axis=0))  # some genes were seen in doublets alone
    return counts[:, left], {"cell_species": cells, "gene_species": species[left]}


def _bulk(folder: Path, dataset: str, seed: int) -> Built:
    """C. elegans bulk profiles with exponential noise, the paper's Figure 6."""
    adata = data.read(folder, "h5ad/worm_bulk_Cel_larv_YA.h5ad")
    if adata is None:
        return None
    made = bulk_experiment(
        bulk=adata.X,
        scale="log1p",
        zero_fraction=WORM_ZEROS[dataset],
        rng=np.random.default_rng(seed),
    )
    counts = sparse.csr_matrix(made.counts, dtype=np.float32)
    genes = np.flatnonzero(counts.getnnz(axis=0))
    return counts[:, genes], {"profiles": made.truth[:, genes], "zeros": made.zero_fraction}


_BUILDERS = {
    "held-out": _held_out,
    "shuffled": _shuffled,
    "simulation": _simulation,
    "depth": _depth,
    "smfish": _smfish,
    "species": _species,
    "bulk": _bulk,
}


def built(names: list[str], folder: Path, seeds: list[int]) -> Iterator[Case]:
    """Yield the cases whose files are there, seed by seed."""
    for seed in seeds:
        for name in names:
            case = build(name, folder, seed=seed)
            if case is not None:
                yield case
