"""Reading every format and refusing bad files; writing whole or not at all; streaming."""

import csv
import errno
import gzip
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
import zarr
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite

from graphsci import io
from graphsci.io import files
from graphsci.io.files import (
    NoRoom,
    atomic_path,
    check_folder,
    check_writable,
    write_json,
    write_text,
)
from graphsci.io.layers import stream_layers
from graphsci.io.sources import DiskCounts, is_on_disk
from graphsci.io.streams import open_store
from graphsci.preprocessing import extract_counts, open_counts

N_CELLS, N_GENES = 7, 5


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(0.8, (N_CELLS, N_GENES)).astype(np.float32)


@pytest.fixture
def adata(counts):
    obs = pd.DataFrame({"label": ["a", "b"] * 3 + ["a"]}, index=[f"c{i}" for i in range(N_CELLS)])
    var = pd.DataFrame(index=[f"g{i}" for i in range(N_GENES)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var, layers={"raw": counts.copy()})


def dense(matrix):
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)


def assert_holds(read, counts):
    """The counts came back, cells x genes, with their names in order."""
    np.testing.assert_array_equal(dense(read.X), counts)
    assert read.obs_names.tolist() == [f"c{i}" for i in range(N_CELLS)]
    assert read.var_names.tolist() == [f"g{i}" for i in range(N_GENES)]


# --- .h5ad and .zarr ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
@pytest.mark.parametrize("as_dense", [False, True])
@pytest.mark.parametrize("backed", [False, True])
def test_anndata_round_trip(tmp_path, adata, counts, name, as_dense, backed):
    if as_dense:
        adata.X = counts
    io.write_anndata(adata, tmp_path / name)
    read = io.read_counts(tmp_path / name, backed=backed)
    data = extract_counts(read)
    np.testing.assert_array_equal(data.counts.toarray(), counts)
    assert data.gene_names.tolist() == adata.var_names.tolist()
    np.testing.assert_array_equal(dense(read.layers["raw"][:]), counts)
    assert read.obs["label"].tolist() == adata.obs["label"].tolist()
    if read.isbacked:
        read.file.close()


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_backed_without_x(tmp_path, adata, counts, name):
    adata.layers["counts"] = adata.X
    del adata.X
    io.write_anndata(adata, tmp_path / name)
    read = io.read_counts(tmp_path / name, backed=True)
    assert read.X is None
    np.testing.assert_array_equal(dense(read.layers["counts"][:]), counts)


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_backed_leaves_layers_on_disk_too(tmp_path, adata, counts, name):
    adata.layers["dense"] = counts
    adata.raw = adata.copy()
    io.write_anndata(adata, tmp_path / name)
    read = io.read_counts(tmp_path / name, backed=True)
    assert all(is_on_disk(matrix) for matrix in (read.X, *read.layers.values()))
    data = open_counts(read, layer="dense")
    assert isinstance(data.counts, DiskCounts)
    np.testing.assert_array_equal(data.counts.rows(0, N_CELLS).toarray(), counts)
    for part in (read[:3].to_memory(), read.to_memory()[:3]):  # closes the file, not the layers
        np.testing.assert_array_equal(part.layers["dense"], counts[:3])
        np.testing.assert_array_equal(dense(part.layers["raw"]), counts[:3])
    np.testing.assert_array_equal(read.layers["dense"][:], counts)
    if read.isbacked:
        np.testing.assert_array_equal(dense(read.raw.X[:]), counts)


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_backed_reading_of_a_file_with_the_least(tmp_path, adata, counts, name):
    """Other programs leave out what is empty."""
    io.write_anndata(adata, tmp_path / name)
    with open_store(tmp_path / name, "r+") as root:
        for group in set(root) - {"X", "obs", "var"}:
            del root[group]
    read = io.read_counts(tmp_path / name, backed=True)
    np.testing.assert_array_equal(extract_counts(read).counts.toarray(), counts)
    assert not read.layers


def test_size_in_memory_of_a_null_element(tmp_path, adata):
    """anndata's own write_elem, unlike its write_h5ad, stores a raw that is None."""
    values = np.asarray(dense(adata.X), dtype=np.float32)
    with h5py.File(tmp_path / "a.h5ad", "w") as file:
        anndata.io.write_elem(file, "/", AnnData(values))
        assert file["raw"].shape is None
    assert io.size_in_memory(tmp_path / "a.h5ad") == values.nbytes


def test_backed_needs_anndata(tmp_path, adata):
    path = tmp_path / "a.csv"
    adata.to_df().to_csv(path)
    with pytest.raises(ValueError, match=r"cannot stay on disk: backed reading needs .h5ad"):
        io.read_counts(path, genes_in="columns", backed=True)


def test_duplicates_are_read_silently_then_refused_with_the_remedy(tmp_path, counts):
    names = ["g0", "g0", "g1", "g2", "g3"]
    with anndata.settings.override(check_uniqueness=False):
        adata = AnnData(counts, var=pd.DataFrame(index=names))
    io.write_anndata(adata, tmp_path / "a.h5ad")
    read = io.read_counts(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match="var_names_make_unique"):
        extract_counts(read)


def test_make_names_unique(tmp_path, counts, caplog):
    frame = pd.DataFrame(counts, index=["c"] * N_CELLS, columns=["x", "x", "y", "z", "z"])
    frame.to_csv(tmp_path / "a.csv")
    read = io.read_counts(tmp_path / "a.csv", genes_in="columns", make_names_unique=True)
    assert read.var_names.tolist() == ["x", "x-1", "y", "z", "z-1"]
    assert read.obs_names.is_unique
    assert "Made 2 repeated gene names unique" in caplog.text


# --- 10x ------------------------------------------------------------------------------


def write_10x_folder(folder, counts, *, version=3, prefix="", compress=True, extra=0):
    """Write as Cell Ranger does; the last ``extra`` features are antibodies."""
    folder.mkdir(exist_ok=True)
    n_genes = counts.shape[1]
    end = ".gz" if compress else ""
    opener = gzip.open if compress else open
    kinds = ["Gene Expression"] * (n_genes - extra) + ["Antibody Capture"] * extra
    tail = [f"\t{kind}" for kind in kinds] if version == 3 else [""] * n_genes
    with opener(folder / f"{prefix}barcodes.tsv{end}", "wt") as file:
        file.write("".join(f"c{i}\n" for i in range(counts.shape[0])))
    name = "features.tsv" if version == 3 else "genes.tsv"
    with opener(folder / f"{prefix}{name}{end}", "wt") as file:
        file.write("".join(f"ENSG{i}\tg{i}{tail[i]}\n" for i in range(n_genes)))
    with opener(folder / f"{prefix}matrix.mtx{end}", "wb") as file:
        mmwrite(file, sparse.coo_matrix(counts.T.astype(int)))


@pytest.mark.parametrize(
    ("version", "compress", "prefix"),
    [(2, False, ""), (3, True, ""), (3, False, ""), (3, True, "p1_"), (2, True, "p1_")],
)
def test_10x_folder(tmp_path, counts, version, compress, prefix):
    folder = tmp_path / "10x"
    write_10x_folder(folder, counts, version=version, compress=compress, prefix=prefix)
    end = ".gz" if compress else ""
    paths = [folder / f"{prefix}matrix.mtx{end}", folder / prefix if prefix else folder]
    for path in paths:
        read = io.read_counts(path)
        assert_holds(read, counts)
        assert read.var["gene_ids"].tolist() == [f"ENSG{i}" for i in range(N_GENES)]
        assert read.X.dtype == np.float32


def test_10x_folder_agrees_with_scanpy(tmp_path, counts):
    write_10x_folder(tmp_path / "10x", counts, extra=2)
    ours, theirs = io.read_counts(tmp_path / "10x"), scanpy.read_10x_mtx(tmp_path / "10x")
    np.testing.assert_array_equal(dense(ours.X), dense(theirs.X))
    assert ours.var_names.equals(theirs.var_names)
    assert ours.var["gene_ids"].tolist() == theirs.var["gene_ids"].tolist()


def test_10x_gene_called_na(tmp_path, counts):
    write_10x_folder(tmp_path / "10x", counts, compress=False)
    features = tmp_path / "10x" / "features.tsv"
    features.write_text(features.read_text().replace("g0", "NA"))
    assert io.read_counts(tmp_path / "10x").var_names[0] == "NA"


def test_10x_keeps_gene_expression_and_says_so(tmp_path, counts, caplog):
    write_10x_folder(tmp_path / "10x", counts, extra=2)
    read = io.read_counts(tmp_path / "10x")
    np.testing.assert_array_equal(dense(read.X), counts[:, :-2])
    assert "kept 3 genes, left out 2 Antibody Capture" in caplog.text


def test_10x_without_gene_expression(tmp_path, counts):
    write_10x_folder(tmp_path / "10x", counts, extra=N_GENES)
    with pytest.raises(
        ValueError, match=r"no feature of type 'Gene Expression'; it has 5 Antibody"
    ):
        io.read_counts(tmp_path / "10x")


def test_10x_folder_lacks_a_file(tmp_path, counts):
    write_10x_folder(tmp_path / "10x", counts)
    (tmp_path / "10x" / "features.tsv.gz").unlink()
    with pytest.raises(ValueError, match=r"lacks features.tsv or genes.tsv .*Copy all three"):
        io.read_counts(tmp_path / "10x")


def test_10x_folder_files_do_not_belong_together(tmp_path, counts):
    write_10x_folder(tmp_path / "10x", counts)
    with gzip.open(tmp_path / "10x" / "barcodes.tsv.gz", "at") as file:
        file.write("one more\n")
    with pytest.raises(ValueError, match=r"is 5 x 7, expected 5 features x 8 barcodes"):
        io.read_counts(tmp_path / "10x")


def write_10x_h5(path, counts, *, version=3, extra=0, genomes=("hg38",)):
    n_genes = counts.shape[1]
    stored = sparse.csr_matrix(counts.astype(np.int32))
    with h5py.File(path, "w") as file:
        for genome in ("matrix",) if version == 3 else genomes:
            group = file.create_group(genome)
            group["data"], group["indices"] = stored.data, stored.indices.astype(np.int64)
            group["indptr"], group["shape"] = stored.indptr.astype(np.int64), counts.shape[::-1]
            group["barcodes"] = np.array([f"c{i}" for i in range(len(counts))], dtype="S")
            names = np.array([f"g{i}" for i in range(n_genes)], dtype="S")
            ids = np.array([f"ENSG{i}" for i in range(n_genes)], dtype="S")
            if version == 2:
                group["genes"], group["gene_names"] = ids, names
                continue
            kinds = ["Gene Expression"] * (n_genes - extra) + ["Antibody Capture"] * extra
            group["features/id"], group["features/name"] = ids, names
            group["features/feature_type"] = np.array(kinds, dtype="S")
            group["features/genome"] = np.array(["GRCh38"] * n_genes, dtype="S")


@pytest.mark.parametrize("version", [2, 3])
def test_10x_h5(tmp_path, counts, version):
    write_10x_h5(tmp_path / "a.h5", counts, version=version)
    read = io.read_counts(tmp_path / "a.h5")
    assert_holds(read, counts)
    theirs = scanpy.read_10x_h5(tmp_path / "a.h5")
    np.testing.assert_array_equal(dense(read.X), dense(theirs.X))
    assert read.var["gene_ids"].tolist() == theirs.var["gene_ids"].tolist()


def test_10x_h5_keeps_gene_expression(tmp_path, counts, caplog):
    write_10x_h5(tmp_path / "a.h5", counts, extra=1)
    read = io.read_counts(tmp_path / "a.h5")
    np.testing.assert_array_equal(dense(read.X), counts[:, :-1])
    assert "left out 1 Antibody Capture" in caplog.text


def test_10x_h5_of_two_genomes(tmp_path, counts):
    write_10x_h5(tmp_path / "a.h5", counts, version=2, genomes=("hg19", "mm10"))
    with pytest.raises(ValueError, match=r"matrices for hg19, mm10, expected one 10x matrix"):
        io.read_counts(tmp_path / "a.h5")


def test_10x_h5_damaged_indices(tmp_path, counts):
    write_10x_h5(tmp_path / "a.h5", counts)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["matrix/indices"][0] = 99
    with pytest.raises(ValueError, match=r"could not be read as 10x .h5: .*Copy or export it"):
        io.read_counts(tmp_path / "a.h5")


def test_large_counts_keep_their_value(tmp_path, counts):
    counts = counts.astype(np.int32)
    counts[0, 0] = 2**24 + 1
    write_10x_h5(tmp_path / "a.h5", counts)
    assert io.read_counts(tmp_path / "a.h5").X[0, 0] == 2**24 + 1


# --- loom -----------------------------------------------------------------------------


def write_loom(path, counts, *, genes="Gene"):
    with h5py.File(path, "w") as file:
        file["matrix"] = counts.T
        file[f"row_attrs/{genes}"] = np.array([f"g{i}" for i in range(N_GENES)], dtype="S")
        file["col_attrs/CellID"] = np.array([f"c{i}" for i in range(N_CELLS)], dtype="S")
        file["col_attrs/cluster"] = np.arange(N_CELLS)
        file["layers/unspliced"] = counts.T + 1


def test_loom(tmp_path, counts, monkeypatch):
    monkeypatch.setattr("graphsci.io._loom.VALUES_PER_BLOCK", 2 * N_CELLS)  # several blocks
    write_loom(tmp_path / "a.loom", counts)
    read = io.read_counts(tmp_path / "a.loom")
    assert_holds(read, counts)
    np.testing.assert_array_equal(dense(read.layers["unspliced"]), counts + 1)
    assert read.obs["cluster"].tolist() == list(range(N_CELLS))


def test_loom_without_gene_names(tmp_path, counts):
    write_loom(tmp_path / "a.loom", counts, genes="something")
    with pytest.raises(ValueError, match=r"no names of genes: its attributes are something"):
        io.read_counts(tmp_path / "a.loom")


# --- tables ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.csv.gz", "a.tsv.gz"])
@pytest.mark.parametrize("genes_in", ["rows", "columns"])
def test_table(tmp_path, adata, counts, monkeypatch, name, genes_in):
    monkeypatch.setattr("graphsci.io._tables.VALUES_PER_BLOCK", 2 * N_GENES)  # several blocks
    frame = adata.to_df()
    frame = frame.T if genes_in == "rows" else frame
    frame.to_csv(tmp_path / name, sep="," if ".csv" in name else "\t")
    read = io.read_counts(tmp_path / name, genes_in=genes_in)
    assert_holds(read, counts)
    assert read.X.dtype == np.float32
    assert read.X.format == "csr"


def test_table_as_r_writes_it(tmp_path):
    """Without a corner field, quoted, and with a gene called NA."""
    (tmp_path / "a.csv").write_text('"c0","c1"\n"NA",1,2\n"MAR,CH1",3,4.5\n\n')
    read = io.read_counts(tmp_path / "a.csv", genes_in="rows")
    assert read.obs_names.tolist() == ["c0", "c1"]
    assert read.var_names.tolist() == ["NA", "MAR,CH1"]
    np.testing.assert_array_equal(dense(read.X), [[1, 3], [2, 4.5]])


def test_table_with_numbers_for_names(tmp_path, counts):
    pd.DataFrame(counts).to_csv(tmp_path / "a.csv")
    read = io.read_counts(tmp_path / "a.csv", genes_in="columns")
    assert read.obs_names.tolist() == [str(i) for i in range(N_CELLS)]
    np.testing.assert_array_equal(dense(read.X), counts)


@pytest.mark.parametrize("genes_in", ["rows", "columns"])
def test_table_without_row_names(tmp_path, adata, genes_in):
    adata.to_df().to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(
        io.FileFormatError, match=r"numbers \(.*\) under 'g0' in its first column.*index=False"
    ):
        io.read_counts(tmp_path / "a.csv", genes_in=genes_in)


def test_table_keeps_values_beyond_float32(tmp_path):
    (tmp_path / "a.csv").write_text(",g0,g1\nc0,16777217,0\nc1,0,1\n")
    read = io.read_counts(tmp_path / "a.csv", genes_in="columns")
    assert read.X[0, 0] == 16777217


def test_table_orientation_is_asked_for(tmp_path, adata):
    adata.to_df().to_csv(tmp_path / "a.csv")
    with pytest.raises(
        ValueError,
        match=r"table of 7 rows \(c0, c1, c2, c3, c4, \.\.\.\) x 5 columns \(g0, g1, g2, g3, g4\)."
        r".*genes_in='columns'.*genes_in='rows'",
    ):
        io.read_counts(tmp_path / "a.csv")


def test_orientation_unknown_word(tmp_path, adata):
    adata.to_df().to_csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"genes_in is 'cols', expected 'rows' or 'columns'"):
        io.read_counts(tmp_path / "a.csv", genes_in="cols")


def test_orientation_for_what_needs_none(tmp_path, adata):
    io.write_anndata(adata, tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"only tables .*need it.*Leave it out"):
        io.read_counts(tmp_path / "a.h5ad", genes_in="rows")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",g0,g1\nc0,1,2\nc1,NA,2\n", r"could not convert string to float: 'NA'.*missing values"),
        (",g0,g1\nc0,1,2\nc1,,2\n", r"after 0 rows: .*Expected a name and 2 numbers"),
        (",g0,g1\nc0,1,2\nc1,1\n", r"Expected a name and 2 numbers in each row"),
        (",g0,g1\nc0,1,2\nc1,1,2,3\n", r"Expected a name and 2 numbers in each row"),
        (",g0,g1,g2,g3\nc0,1,2\n", r"5 fields in its first line and 3 in its second"),
        ("\tg0\tg1\nc0\t1\t2\n", r"separated by a comma. It looks separated by tabs: .* .tsv"),
        (";g0;g1\nc0;1;2\n", r"separated by a comma. It looks separated by semicolons: export"),
        ("g0\n1\n", r"1 fields in its second line, .* Name the file .csv for commas"),
        ("", r"0 fields in its second line"),
    ],
)
def test_table_refusals(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        io.read_counts(tmp_path / "a.csv", genes_in="columns")


def test_table_with_an_endless_field(tmp_path):
    name = "x" * (csv.field_size_limit() + 1)
    (tmp_path / "a.csv").write_text(f",{name},g1\nc0,1,2\nc1,3,4\n")
    with pytest.raises(io.FileFormatError, match="could not be read as table: field larger"):
        io.read_counts(tmp_path / "a.csv", genes_in="columns")


# --- wrong paths and damaged files ----------------------------------------------------


def test_missing_file_suggests_names(tmp_path):
    (tmp_path / "pbmc3k.h5ad").touch()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*Did you mean pbmc3k.h5ad\?"):
        io.read_counts(tmp_path / "pbmc3.h5ad")
    with pytest.raises(FileNotFoundError, match=r"The folder .* does not exist either"):
        io.read_counts(tmp_path / "nowhere" / "a.h5ad")


def test_unreadable_file(tmp_path, monkeypatch):
    (tmp_path / "a.h5ad").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root
    with pytest.raises(PermissionError, match="may not be read by this user"):
        io.read_counts(tmp_path / "a.h5ad")


def test_unknown_ending_lists_those_known(tmp_path):
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(ValueError, match=r"unknown ending, expected one of: .h5ad, .zarr, 10x .h5"):
        io.read_counts(tmp_path / "a.xlsx")


def test_zarr_must_be_a_folder(tmp_path):
    (tmp_path / "a.zarr").touch()
    with pytest.raises(ValueError, match=r"is a file, expected a .zarr folder"):
        io.read_counts(tmp_path / "a.zarr")


def test_folder_that_is_neither(tmp_path):
    with pytest.raises(ValueError, match=r"folder with nothing in it, expected a .zarr store or"):
        io.read_counts(tmp_path)
    (tmp_path / "p1_matrix.mtx.gz").touch()
    with pytest.raises(
        ValueError, match=r"with a prefix, give the matrix file: .*p1_matrix.mtx.gz"
    ):
        io.read_counts(tmp_path)


def test_zarr_that_is_no_anndata(tmp_path):
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).create_group("something")
    with pytest.raises(ValueError, match=r"no AnnData: it holds something, expected obs and var"):
        io.read_counts(tmp_path / "a.zarr")
    (tmp_path / "b.zarr").mkdir()
    with pytest.raises(ValueError, match=r"could not be read as .zarr"):
        io.read_counts(tmp_path / "b.zarr")


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5", "a.loom", "a.csv.gz"])
def test_damaged_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + b"junk" * 99)
    genes_in = "rows" if "csv" in name else None
    with pytest.raises(ValueError, match=r"could not be read as .*Is the file complete"):
        io.read_counts(tmp_path / name, genes_in=genes_in)


def test_truncated_h5ad(tmp_path, adata):
    io.write_anndata(adata, tmp_path / "a.h5ad")
    whole = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "a.h5ad").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"could not be read as .h5ad"):
        io.read_counts(tmp_path / "a.h5ad")


@pytest.mark.parametrize(
    ("made", "called", "hint"),
    [
        ("a.h5ad", "b.h5", r"rename it to .h5ad"),
        ("a.h5", "b.loom", r"looks like a 10x file: rename it to .h5"),
        ("a.loom", "b.h5ad", r"looks like a loom file: rename it to .loom"),
        ("x.h5", "b.h5ad", r"it holds x, expected obs and var. Check where"),
    ],
)
def test_hdf5_of_another_kind(tmp_path, adata, counts, made, called, hint):
    io.write_anndata(adata, tmp_path / "a.h5ad")
    write_10x_h5(tmp_path / "a.h5", counts)
    write_loom(tmp_path / "a.loom", counts)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = 1
    (tmp_path / made).rename(tmp_path / called)
    with pytest.raises(ValueError, match=hint):
        io.read_counts(tmp_path / called)


# --- writing whole or not at all ------------------------------------------------------


def test_atomic_path_replaces_a_file(tmp_path):
    target = tmp_path / "a.tsv.gz"
    target.write_text("old")
    with atomic_path(target) as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith("a.tsv.gz")
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert os.listdir(tmp_path) == ["a.tsv.gz"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_takes_a_place_has_reached_the_disk(tmp_path, monkeypatch, kind):
    """Each file first, then the name: or a power failure could leave a new name without content."""
    done = []

    def fsync(descriptor):
        done.append(("flushed", os.readlink(f"/proc/self/fd/{descriptor}")))

    def replace(source, target, real=os.replace):
        done.append(("moved", str(source)))
        real(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    with atomic_path(tmp_path / "out") as temporary:
        written = temporary if kind == "file" else temporary / "part"
        written.parent.mkdir(exist_ok=True)
        written.write_text("new")
    assert done == [
        ("flushed", str(written)),
        ("moved", str(temporary)),
        ("flushed", str(tmp_path)),
    ]


def test_atomic_path_replaces_a_store(tmp_path, adata):
    target = tmp_path / "a.zarr"
    io.write_anndata(adata, target)
    io.write_anndata(adata[:3].copy(), target)
    assert io.read_counts(target).n_obs == 3
    assert os.listdir(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_atomic_path_brings_the_old_store_back(tmp_path, adata, monkeypatch, error):
    """The new one is not moved into place after the old one was moved away."""
    target, replace = tmp_path / "a.zarr", os.replace
    io.write_anndata(adata, target)

    def fail_once(source, goal):
        if Path(goal) == target and "old" not in Path(source).name:
            raise error
        replace(source, goal)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(error):
        io.write_anndata(adata[:3].copy(), target)
    assert os.listdir(tmp_path) == ["a.zarr"]
    assert io.read_counts(target).n_obs == adata.n_obs


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_atomic_path_keeps_the_old_file_on_failure(tmp_path, error):
    def write_half(path):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise error

    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error):
        write_half(target)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    "told",
    [
        OSError(errno.ENOSPC, "what a library says"),
        OSError(errno.EDQUOT, "what a library says"),
        RuntimeError("Can't decrement id ref count (unable to extend file, errno = 28, error ...)"),
    ],
)
def test_a_full_disk_is_told_with_the_remedy(tmp_path, told):
    with (
        pytest.raises(NoRoom, match=r"^no room to write .*a\.h5ad \(.+\)\. Free space"),
        atomic_path(tmp_path / "a.h5ad") as outer,
        atomic_path(outer),
    ):
        raise told
    assert not any(tmp_path.iterdir())


def test_a_full_disk_is_told_by_another_process_too(tmp_path):
    error = NoRoom(errno.ENOSPC, tmp_path / "a.zarr")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_full_folder_elsewhere_is_not_blamed_on_the_output(tmp_path):
    told = OSError(errno.ENOSPC, "what the system says", "/elsewhere/part")
    with (
        pytest.raises(NoRoom, match=r"^no room to write /elsewhere/part"),
        atomic_path(tmp_path / "a.h5ad"),
    ):
        raise told
    with (
        pytest.raises(NoRoom, match=r"^no room to write /elsewhere/part"),
        atomic_path(tmp_path / "a.h5ad") as outer,
        atomic_path(outer),
    ):
        raise told


def test_a_full_disk_is_told_by_the_name_of_the_output(tmp_path):
    """Not by that of the temporary file or a piece of it."""
    with (
        pytest.raises(NoRoom, match=r"^no room to write .*/a\.zarr \("),
        atomic_path(tmp_path / "a.zarr") as outer,
        atomic_path(outer) as temporary,
    ):
        raise OSError(errno.ENOSPC, "what the system says", str(temporary / "X"))


#: Begins to write a file, a folder and, within another, a file, and is killed.
KILLED = """
import os, signal
from graphsci.io.files import atomic_path

with atomic_path("a.h5ad") as one, atomic_path("a.zarr") as two, atomic_path(one) as three:
    one.touch(), three.touch(), two.mkdir(), (two / "chunk").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="cannot tell which processes live")
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    subprocess.run((sys.executable, "-c", KILLED), cwd=tmp_path, check=False)
    left = sorted((path.name for path in tmp_path.iterdir()), key=lambda name: name[-6:])
    assert [name.rpartition("-")[2] for name in left] == ["a.h5ad", "a.h5ad", "a.zarr"]
    of_others = [
        tmp_path / ".tmp-0badcafe-1-00000000-a.h5ad",  # of another machine
        tmp_path / left[2].replace("a.zarr", "aa.h5ad"),  # of another output
    ]
    for path in of_others:
        path.touch()
    with atomic_path(tmp_path / "a.h5ad") as living:
        living.touch()
        with atomic_path(tmp_path / "a.h5ad") as second:
            assert living.exists()
            second.touch()
    with atomic_path(tmp_path / "a.zarr") as folder:
        folder.mkdir()
    assert sorted(tmp_path.iterdir()) == sorted(
        [*of_others, tmp_path / "a.h5ad", tmp_path / "a.zarr"]
    )


@pytest.mark.skipif(sys.platform == "win32", reason="cannot tell which processes live")
def test_a_folder_whose_replacement_was_killed_comes_back(tmp_path, monkeypatch):
    """The process dies between two renames: the old folder is the only one."""
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    gone = subprocess.Popen((sys.executable, "-c", code))
    gone.wait()
    monkeypatch.setattr(os, "getpid", lambda: gone.pid)
    old = files._beside(tmp_path / "a.zarr", "old")
    monkeypatch.undo()
    old.mkdir()
    (old / "zarr.json").touch()
    with pytest.raises(ValueError, match="work fails"), atomic_path(tmp_path / "a.zarr"):
        raise ValueError("work fails")
    assert [path.name for path in tmp_path.rglob("*")] == ["a.zarr", "zarr.json"]


def test_atomic_path_follows_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_atomic_path_nothing_written(tmp_path):
    with (
        pytest.raises(FileNotFoundError, match="nothing was written to"),
        atomic_path(tmp_path / "a.txt"),
    ):
        pass


def test_check_writable(tmp_path):
    assert check_writable(str(tmp_path / "a.h5ad"), suffixes=(".h5ad",)) == tmp_path / "a.h5ad"
    with pytest.raises(ValueError, match=r"ends in '.csv', expected .h5ad or .zarr"):
        check_writable(tmp_path / "a.csv", suffixes=io.ANNDATA_SUFFIXES)
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere does not exist.*mkdir -p"):
        check_writable(tmp_path / "nowhere" / "a.h5ad")
    (tmp_path / "old.h5ad").touch()
    check_writable(tmp_path / "old.h5ad")
    with pytest.raises(FileExistsError, match=r"exists. Choose another output"):
        check_writable(tmp_path / "old.h5ad", overwrite=False)
    with pytest.raises(OSError, match=r"takes no file to become a+.h5ad \(File name too long\)"):
        check_writable(tmp_path / f"{'a' * 245}.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["old.h5ad"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("check", [check_writable, check_folder])
def test_a_place_that_takes_no_file_is_told_whatever_its_permissions(tmp_path, check):
    """Even root, who may write everywhere by the bits of permission, or by a link."""
    with pytest.raises(OSError, match=r"the folder /proc takes no file to become x \(.+\)"):
        check("/proc/x")
    (tmp_path / "link").symlink_to("/proc/x")
    with pytest.raises(OSError, match="the folder /proc takes no file"):
        check_writable(tmp_path / "link")


def test_no_room_for_a_file_is_told_before_the_work(tmp_path, monkeypatch):
    def fail(path, **_):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "touch", fail)
    with pytest.raises(NoRoom, match=r"no room to write .*a.h5ad"):
        check_writable(tmp_path / "a.h5ad")


@pytest.mark.parametrize("options", [{}, {"overwrite": False}])
def test_a_file_is_not_replaced_by_a_folder(tmp_path, options):
    (tmp_path / "model").touch()
    (tmp_path / "a.zarr").touch()
    with pytest.raises(NotADirectoryError, match=r"model is a file, and a folder will be written"):
        check_writable(tmp_path / "model", folder=True, **options)
    with pytest.raises(NotADirectoryError, match=r"a.zarr is a file, and a folder will be"):
        check_writable(tmp_path / "a.zarr", **options)


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.png").touch()
    with pytest.raises(
        IsADirectoryError, match="more than a zarr store or a model, and will not be replaced"
    ):
        check_writable(tmp_path / "photos")


def test_write_anndata_refuses_other_endings(tmp_path, adata):
    with pytest.raises(ValueError, match=r"expected .h5ad or .zarr"):
        io.write_anndata(adata, tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
def test_write_anndata_leaves_its_input_alone(tmp_path, adata, name):
    adata.obs["text"] = pd.array(["x"] * N_CELLS, dtype="string")
    before = adata.obs.copy()
    io.write_anndata(adata[:, :3], tmp_path / name)
    pd.testing.assert_frame_equal(adata.obs, before)
    assert io.read_counts(tmp_path / name).obs["text"].tolist() == ["x"] * N_CELLS


@pytest.mark.parametrize("name", ["b.h5ad", "b.zarr"])
def test_write_anndata_backed(tmp_path, adata, counts, name):
    io.write_anndata(adata, tmp_path / "a.h5ad")
    backed = io.read_counts(tmp_path / "a.h5ad", backed=True)
    io.write_anndata(backed, tmp_path / name)
    assert_holds(io.read_counts(tmp_path / name), counts)
    np.testing.assert_array_equal(dense(backed.X[:]), counts)
    assert Path(backed.filename) == tmp_path / "a.h5ad"
    backed.file.close()


class Verdict(NamedTuple):
    loss: float
    better: bool


def test_write_json(tmp_path):
    obj = {
        "verdict": Verdict(np.float32(0.5), np.bool_(True)),
        "n": np.int64(3),
        "values": np.arange(3),
        "path": Path("out") / "a.h5ad",
        "nothing": None,
        5: ("é", [1.5]),
    }
    write_json(tmp_path / "a.json", obj)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {
        "verdict": {"loss": 0.5, "better": True},
        "n": 3,
        "values": [0, 1, 2],
        "path": str(Path("out") / "a.h5ad"),
        "nothing": None,
        "5": ["é", [1.5]],
    }


@pytest.mark.parametrize("value", [float("nan"), np.float32("inf")])
def test_write_json_refuses_nan_and_says_where(tmp_path, value):
    with pytest.raises(
        ValueError, match=r"the object\['a'\]\[1\]\['loss'\] is (nan|inf), expected"
    ):
        write_json(tmp_path / "a.json", {"a": [1, {"loss": value}]})
    assert not os.listdir(tmp_path)


def test_write_json_refuses_what_it_cannot_hold(tmp_path):
    with pytest.raises(TypeError, match=r"the object\['a'\] is a set, expected what JSON can hold"):
        write_json(tmp_path / "a.json", {"a": {1}})


# --- dense layers, block by block -----------------------------------------------------


@pytest.fixture(params=["a.h5ad", "a.zarr"])
def written(request, tmp_path, adata):
    io.write_anndata(adata, tmp_path / request.param)
    return tmp_path / request.param


def read_back(path):
    return anndata.read_zarr(path) if path.suffix == ".zarr" else scanpy.read_h5ad(path)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("step", [1, 3, N_CELLS])
def test_stream_layers(written, counts, compression, step):
    rng = np.random.default_rng(1)
    layers = {name: rng.random(counts.shape, dtype=np.float32) for name in ("mean", "denoised")}
    shape = (N_CELLS, N_GENES)
    with stream_layers(written, shape, list(layers), compression=compression) as writer:
        for start in reversed(range(0, N_CELLS, step)):
            writer.write(start, {k: v[start : start + step] for k, v in layers.items()})
    read = read_back(written)
    assert_holds(read, counts)
    for name, values in layers.items():
        assert read.layers[name].dtype == np.float32
        np.testing.assert_array_equal(read.layers[name], values)
    np.testing.assert_array_equal(dense(read.layers["raw"]), counts)


def test_streamed_layers_are_encoded_as_anndata_would(written, adata, counts):
    with stream_layers(written, adata.shape, ["mean"]) as writer:
        writer.write(0, {"mean": counts})
    root = zarr.open_group(written, mode="r") if written.is_dir() else h5py.File(written)
    streamed, theirs = root["layers/mean"], root["layers/raw"]
    assert dict(streamed.attrs) == dict(theirs.attrs)
    assert streamed.dtype == theirs.dtype
    if isinstance(root, h5py.File):
        root.close()


def test_stream_into_zarr_of_format_3_with_consolidated_metadata(tmp_path, adata, counts):
    path = tmp_path / "a.zarr"
    group = zarr.open_group(path, mode="w", zarr_format=3)
    with anndata.settings.override(auto_shard_zarr_v3=False):
        anndata.io.write_elem(group, "/", adata)
    with pytest.warns(UserWarning, match="Consolidated metadata"):
        zarr.consolidate_metadata(path)
    for name, compression in (("gz", "gzip"), ("zs", "zstd"), ("no", None)):
        with stream_layers(path, adata.shape, [name], compression=compression) as writer:
            writer.write(0, {name: counts})
        np.testing.assert_array_equal(anndata.read_zarr(path).layers[name], counts)


def test_stream_replaces_no_layers(written, counts, adata):
    with (
        pytest.raises(ValueError, match=r"has layers 'raw' already.*Use another prefix, or remove"),
        stream_layers(written, adata.shape, ["raw"]),
    ):
        pass
    np.testing.assert_array_equal(dense(read_back(written).layers["raw"]), counts)


def test_stream_checks_its_blocks(written, counts, adata):
    with stream_layers(written, adata.shape, ["mean"]) as writer:
        with pytest.raises(ValueError, match=r"blocks for \['other'\], expected one for each of"):
            writer.write(0, {"other": counts})
        with pytest.raises(ValueError, match=r"shape \(7, 3\) for 'mean', expected one"):
            writer.write(0, {"mean": counts[:, :3]})
        with pytest.raises(ValueError, match=r"got rows 1 to 8, expected rows within 0 to 7"):
            writer.write(1, {"mean": counts})
        writer.write(0, {"mean": counts})
        with pytest.raises(ValueError, match="not written before"):
            writer.write(0, {"mean": counts})
    with pytest.raises(ValueError, match="the layers are closed"):
        writer.write(0, {"mean": counts})


def test_stream_notices_missing_rows(written, counts, adata):
    def write_some():
        with stream_layers(written, adata.shape, ["mean"]) as writer:
            writer.write(2, {"mean": counts[2:]})

    with pytest.raises(ValueError, match=r"2 of 7 rows of the layers .* \(first: 0\)"):
        write_some()


def test_stream_refusals(tmp_path, written, adata):
    with pytest.raises(FileNotFoundError, match="write the AnnData first"):
        stream_layers(tmp_path / "none.h5ad", adata.shape, ["mean"])
    (tmp_path / "a.csv").touch()
    with pytest.raises(ValueError, match=r"ends in '.csv', expected .h5ad or .zarr"):
        stream_layers(tmp_path / "a.csv", adata.shape, ["mean"])
    with pytest.raises(ValueError, match=r"compression is 'zip', expected one of None, 'gzip'"):
        stream_layers(written, adata.shape, ["mean"], compression="zip")
    with (
        pytest.raises(
            ValueError, match=r"layers of shape \(7, 9\) do not fit .* 7 cells x 5 genes"
        ),
        stream_layers(written, (7, 9), ["mean"]),
    ):
        pass


def test_an_interrupted_stream_leaves_no_file(tmp_path, adata, counts):
    def write_half(path):
        with atomic_path(path) as temporary:
            io.write_anndata(adata, temporary)
            with stream_layers(temporary, adata.shape, ["mean"]) as writer:
                writer.write(0, {"mean": counts[:2]})
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half(tmp_path / "a.h5ad")
    assert not os.listdir(tmp_path)


def test_two_writers_share_the_rows_of_a_store(tmp_path, monkeypatch):
    monkeypatch.setattr("graphsci.io.layers._CHUNK", (4, 3))
    values = np.arange(50, dtype=np.float32).reshape(10, 5)
    path = tmp_path / "a.zarr"
    io.write_anndata(AnnData(values), path)
    with (
        stream_layers(path, (10, 5), ["mean"], rows=slice(0, 4)) as first,
        stream_layers(path, (10, 5), ["mean"], rows=slice(4, 10), begun=True) as second,
    ):
        second.write(4, {"mean": values[4:]})
        first.write(0, {"mean": values[:4]})
        with pytest.raises(ValueError, match="rows within 0 to 10 that were not written before"):
            first.write(4, {"mean": values[4:]})
    np.testing.assert_array_equal(anndata.read_zarr(path).layers["mean"], values)
    with pytest.raises(ValueError, match="got rows from 3, expected a multiple of 4"):
        stream_layers(path, (10, 5), ["other"], rows=slice(3, 10))
    io.write_anndata(AnnData(values), tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"is one file, expected a \.zarr"):
        stream_layers(tmp_path / "a.h5ad", (10, 5), ["mean"], rows=slice(0, 4))
