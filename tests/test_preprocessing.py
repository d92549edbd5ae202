"""One test for every way the input can be wrong; laws for the transforms."""

from itertools import pairwise

import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy
from anndata import AnnData, read_h5ad, settings
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse, stats

from graphsci import GraphSCI
from graphsci import preprocessing as pp
from graphsci.io.sources import MemoryCounts
from graphsci.preprocessing import _opening, _refusals, _values, batches

COUNTS = np.array([[1, 0, 3, 0], [0, 0, 0, 0], [2, 0, 0, 5]])
CELLS, GENES = ["c0", "c1", "c2"], ["g0", "g1", "g2", "g3"]


def make_adata(values=COUNTS, **slots):
    values = values if sparse.issparse(values) else np.asarray(values)
    obs = pd.DataFrame(index=[f"c{i}" for i in range(values.shape[0])])
    var = pd.DataFrame(index=[f"g{i}" for i in range(values.shape[1])])
    return AnnData(values, obs=obs, var=var, **slots)


def poisson(shape=(30, 20), seed=0):
    return np.random.default_rng(seed).poisson(1.5, shape)


def csr(values):
    return sparse.csr_matrix(np.asarray(values, dtype=np.float32))


# --- what is accepted -----------------------------------------------------------------

FORMS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["int8", "uint16", "int64", "uint64", "float32", "float64"])
def test_every_form_and_dtype_is_accepted_and_left_alone(form, dtype):
    values = FORMS[form](COUNTS.astype(dtype))
    adata = make_adata(values)
    data = pp.extract_counts(adata)
    assert isinstance(data.counts, sparse.csr_matrix)
    assert data.counts.dtype == np.float32
    assert data.counts.has_canonical_format
    np.testing.assert_array_equal(data.counts.toarray(), COUNTS)
    assert data.cell_names.tolist() == CELLS
    assert data.gene_names.tolist() == GENES
    assert data.cell_names.dtype.kind == "U"
    assert adata.X.dtype == dtype
    after = adata.X.toarray() if sparse.issparse(adata.X) else adata.X
    np.testing.assert_array_equal(after, COUNTS)


@pytest.mark.parametrize("dtype", ["float16", ">f8", ">i4"])
def test_dtypes_that_scipy_lacks_and_views_are_accepted(dtype):
    adata = make_adata(COUNTS.astype(dtype), layers={"same": COUNTS.astype(dtype)})
    np.testing.assert_array_equal(pp.extract_counts(adata).counts.toarray(), COUNTS)
    assert _refusals._looks_like_counts(adata.layers["same"])
    np.testing.assert_array_equal(pp.extract_counts(adata[::2]).counts.toarray(), COUNTS[::2])


def test_messy_sparse_input_is_made_canonical_without_being_changed():
    """Unsorted indices, a duplicate (1 + 2) and an explicit zero."""
    parts = (np.array([1.0, 2, 0, 4]), np.array([3, 3, 1, 0]), np.array([0, 3, 4]))
    messy = sparse.csr_matrix(parts, shape=(2, 4))
    adata = make_adata(messy)
    data = pp.extract_counts(adata)
    np.testing.assert_array_equal(data.counts.toarray(), [[0, 0, 0, 3], [4, 0, 0, 0]])
    assert data.counts.nnz == 2
    np.testing.assert_array_equal(adata.X.data, parts[0])
    np.testing.assert_array_equal(adata.X.indices, parts[1])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint64"])
def test_duplicate_entries_do_not_overflow(dtype):
    """100 + 100 is 44 in uint8."""
    counts = np.array([100, 100, 100, 1], dtype)
    messy = sparse.csr_matrix((counts, [1, 1, 1, 2], [0, 3, 4]), shape=(2, 3))
    data = pp.extract_counts(make_adata(messy))
    assert data.counts.toarray().tolist() == [[0, 300, 0], [0, 0, 1]]
    assert (messy.nnz, messy.dtype) == (4, dtype)


def test_canonical_float32_is_not_copied():
    adata = make_adata(csr(COUNTS))
    assert np.shares_memory(pp.extract_counts(adata).counts.data, adata.X.data)


@pytest.mark.parametrize("form", ["dense", "csr_matrix", "csc_matrix"])
def test_blocks_do_not_change_the_result(tmp_path, monkeypatch, form):
    monkeypatch.setattr(_values, "_VALUES_PER_BLOCK", 50)  # two rows of 20 genes
    values = poisson()
    adata = make_adata(FORMS[form](values))
    adata.write_h5ad(tmp_path / "a.h5ad")
    for source in (adata, read_h5ad(tmp_path / "a.h5ad", backed="r")):
        np.testing.assert_array_equal(pp.extract_counts(source).counts.toarray(), values)
        if source.isbacked:
            source.file.close()


def test_a_wrong_value_in_the_last_block_is_found(monkeypatch):
    monkeypatch.setattr(_values, "_VALUES_PER_BLOCK", 50)
    values = poisson().astype(float)
    values[-1, -1] = 0.5
    for form in (np.asarray, sparse.csr_matrix):
        with pytest.raises(ValueError, match="holds 1 values that are not whole numbers"):
            pp.extract_counts(make_adata(form(values)))


def test_layer_is_used():
    adata = make_adata(np.log1p(COUNTS), layers={"counts": COUNTS})
    np.testing.assert_array_equal(pp.extract_counts(adata, layer="counts").counts.toarray(), COUNTS)


def test_empty_cells_and_undetected_genes_stay_and_are_reported():
    data = pp.extract_counts(make_adata())
    assert data.empty_cells.tolist() == [False, True, False]
    assert data.undetected_genes.tolist() == [False, True, False, False]
    assert data.counts.shape == COUNTS.shape
    left = "they say nothing, and stay in the output."
    assert data.notes == (
        f"Cells without any count: 1 (c1); {left}",
        f"Genes without any count: 1 (g1); {left}",
    )


def test_nothing_to_report():
    data = pp.extract_counts(make_adata(COUNTS[::2][:, [0, 2]]))
    assert data.notes == ()
    assert data.batch is None
    assert data.batch_names == ()


def rounded(values, depth):
    return np.rint(values / values.sum(1, keepdims=True) * depth)


def test_genes_in_rows_are_told():
    values = np.random.default_rng(0).poisson(3.0, (20, 8)) * np.arange(1, 21)[:, None]
    genes = ["Actb", "Gapdh", "Rpl41", "RPS4X", "Sox2", "Krt8", "Myc", "Pax6"]
    cells = [f"AAAC{number}-1" for number in range(20)]
    right = AnnData(csr(values), pd.DataFrame(index=cells), pd.DataFrame(index=genes))
    assert pp.open_counts(right).notes == ()
    (note,) = pp.open_counts(right.T).notes
    assert note.startswith("4 cells have names of genes (Actb, Gapdh, Rpl41, RPS4X)")
    assert "Transpose it" in note
    two = right[:, ["Actb", "Gapdh", "Sox2", "Krt8"]].copy()  # cells may be named by anyone
    assert pp.open_counts(two.T).notes == ()
    named_alike = AnnData(csr(values[:8]), pd.DataFrame(index=genes), pd.DataFrame(index=genes))
    assert pp.open_counts(named_alike).notes == ()


@pytest.mark.parametrize("depth", [1e4, 1e6])
@pytest.mark.parametrize("on_disk", [False, True])
def test_rounded_counts_of_one_depth_are_told(tmp_path, depth, on_disk):
    values = np.random.default_rng(0).poisson(3.0, (40, 200)) * np.arange(1, 41)[:, None]
    AnnData(csr(rounded(values, depth))).write_h5ad(tmp_path / "a.h5ad")
    adata = read_h5ad(tmp_path / "a.h5ad", backed="r" if on_disk else None)
    (note,) = pp.open_counts(adata).notes
    assert note.startswith("Practically all cells have one library size (")
    assert not pp.extract_counts(AnnData(values)).notes
    assert not pp.extract_counts(AnnData(rounded(values, depth)[:10])).notes  # few, by chance


@pytest.mark.parametrize("on_disk", [False, True])
def test_droplets_that_were_not_filtered_are_told(tmp_path, on_disk):
    rng = np.random.default_rng(0)
    values = rng.poisson(np.repeat([2.0, 0.01], [40, 400])[:, None], (440, 300))
    AnnData(csr(values)).write_h5ad(tmp_path / "a.h5ad")
    adata = read_h5ad(tmp_path / "a.h5ad", backed="r" if on_disk else None)
    data = pp.open_counts(adata)
    (doubt,) = data.doubts
    n_filled = int((values.sum(1) > 0).sum())
    assert doubt.startswith(f"{n_filled - 40} of {n_filled} barcodes have fewer than 20 molecules")
    assert not pp.extract_counts(AnnData(values[:75])).doubts  # most have a cell
    assert not pp.extract_counts(AnnData(rng.poisson(0.03, (400, 300)))).doubts  # all are shallow


def test_antibodies_among_the_genes_are_told():
    values = np.random.default_rng(0).poisson(1.0, (30, 6))
    names = ["CD3E", "CD4_TotalSeqB", "CD8a_TotalSeqB", "CD19-TotalSeq-C", "ADT_CD14", "ADTRP"]
    (doubt,) = pp.extract_counts(AnnData(values, var=pd.DataFrame(index=names))).doubts
    assert doubt.startswith("4 genes are called like antibodies (CD4_TotalSeqB, CD8a_TotalSeqB")
    assert not pp.extract_counts(AnnData(values[:, [0, 1, 5]])).doubts


def test_several_batch_columns_are_refused_by_name():
    adata = AnnData(np.random.default_rng(0).poisson(1.0, (30, 6)))
    with pytest.raises(TypeError, match=r"batch_key: got \['a', 'b'\], expected the name of one"):
        pp.extract_counts(adata, batch_key=["a", "b"])


@pytest.mark.parametrize("on_disk", [False, True])
def test_cells_that_are_there_twice_are_told(tmp_path, on_disk):
    values = np.random.default_rng(0).poisson(1.0, (60, 200)) * np.arange(1, 61)[:, None] // 10
    doubled = values[[*range(60), 50, 12, 50]]
    cells = pd.DataFrame(index=[f"cell{number}" for number in range(63)])
    AnnData(csr(doubled), cells).write_h5ad(tmp_path / "a.h5ad")
    adata = read_h5ad(tmp_path / "a.h5ad", backed="r" if on_disk else None)
    (doubt,) = pp.open_counts(adata).doubts
    assert doubt.startswith("3 of 63 cells have exactly the counts of an earlier one (cell60, ")
    assert not pp.extract_counts(AnnData(csr(values))).doubts
    few = np.zeros((60, 200))  # two genes are no fingerprint
    few[:, :2] = 1
    assert not pp.extract_counts(AnnData(csr(few * np.arange(1, 61)[:, None] // 10 + few))).doubts


def test_counts_rounded_at_the_median_depth_are_told():
    """Small values lose much to rounding, and the totals are some percent apart."""
    rng = np.random.default_rng(0)
    values = rng.poisson(2 * rng.gamma(4, 0.25, (60, 1)) * rng.gamma(1, 1, 300))
    flat = rounded(values, np.median(values.sum(1)))
    assert np.ptp(np.quantile(flat.sum(1), [0.05, 0.95])) > 0.02 * np.median(flat.sum(1))
    assert [note[:34] for note in pp.extract_counts(AnnData(flat)).notes if "depth" in note] == [
        "Practically all cells have one lib"
    ]
    assert not [n for n in pp.extract_counts(AnnData(values)).notes if "depth" in n]
    wide = rng.poisson(2 * rng.gamma(2, 0.5, (200, 1)) * rng.gamma(1, 1, 300))
    low = np.floor(wide / wide.sum(1, keepdims=True) * np.median(wide.sum(1)))
    assert np.ptp(np.quantile(low.sum(1), [0.05, 0.95])) > 0.05 * np.median(low.sum(1))
    assert [n for n in pp.extract_counts(AnnData(low)).doubts if "one library size" in n]
    assert not [n for n in pp.extract_counts(AnnData(wide)).doubts if "one library size" in n]
    alike = rng.poisson(np.tile(rng.gamma(1, 2, 300), (60, 1)))  # one depth, by Poisson
    assert not pp.extract_counts(AnnData(alike)).doubts


def test_presence_is_doubted():
    """Which genes were seen, of 390 in the mean; not that of shallow cells."""
    counts = np.random.default_rng(0).poisson(0.5, (50, 1000))
    data = pp.extract_counts(AnnData(csr(np.minimum(counts, 1))))
    (doubt,) = data.doubts
    assert "No count is larger than 1" in doubt
    assert data.altered
    assert not pp.extract_counts(AnnData(csr(counts))).doubts
    assert not pp.extract_counts(AnnData(csr(np.minimum(counts[:, :300], 1)))).doubts


def test_fractional_counts_on_request():
    data = pp.extract_counts(make_adata(COUNTS * 0.75), allow_fractional=True)
    np.testing.assert_array_equal(data.counts.toarray(), COUNTS * 0.75)
    assert data.notes[0] == "4 values are not whole numbers; allowed on request."


# --- batches --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column", [["b", "a", "b"], pd.Categorical(["b", "a", "b"], categories=["z", "a", "b"])]
)
def test_batch(column):
    adata = make_adata()
    adata.obs["batch"] = column
    data = pp.extract_counts(adata, batch_key="batch")
    assert data.batch_names == ("a", "b")
    assert data.batch.tolist() == [1, 0, 1]


def test_batch_of_numbers():
    adata = make_adata()
    adata.obs["batch"] = [2, 10, 2]
    data = pp.extract_counts(adata, batch_key="batch")
    assert data.batch_names == ("2", "10")
    assert data.batch.tolist() == [0, 1, 0]


def test_batches_of_one_name_are_one():
    adata = make_adata()
    adata.obs["batch"] = pd.Series([1, "1", 2], index=adata.obs_names, dtype=object)
    assert pp.read_batches(adata, "batch")[1] == ("1", "2")
    assert pp.read_batches(adata, "batch")[0].tolist() == [0, 0, 1]


def test_a_single_batch_is_no_batch():
    adata = make_adata()
    adata.obs["batch"] = "all"
    data = pp.extract_counts(adata, batch_key="batch")
    assert data.batch is None
    assert data.notes[0] == "Batch column 'batch' has one level (all): not used."


def test_missing_batch_column():
    adata = make_adata()
    adata.obs["donor"] = "x"
    with pytest.raises(ValueError, match=r"no batch column 'batch'.*columns present: 'donor'"):
        pp.extract_counts(adata, batch_key="batch")


def test_missing_batch_values():
    adata = make_adata()
    adata.obs["batch"] = ["a", None, "b"]
    with pytest.raises(ValueError, match=r"lacks a value for 1 cells \(c1\).*Fill them in"):
        pp.extract_counts(adata, batch_key="batch")


def test_a_batch_for_each_cell():
    adata = make_adata()
    adata.obs["n_counts"] = [0.5, 2.0, 3.0]
    with pytest.raises(ValueError, match=r"a value of its own in 3 of 3 cells"):
        pp.extract_counts(adata, batch_key="n_counts")


def test_nearly_a_batch_for_each_cell():
    adata = AnnData(poisson((300, 20)))
    adata.obs["depth"] = np.r_[np.arange(287), np.zeros(13, dtype=int)].astype(str)
    with pytest.raises(ValueError, match=r"a value of its own in 286 of 300 cells.*--batch-key"):
        pp.extract_counts(adata, batch_key="depth")


def test_small_batches_are_named():
    adata = AnnData(poisson((60, 20)))
    adata.obs["batch"] = np.repeat(["large", "tiny", "small"], [41, 9, 10])
    (note,) = pp.extract_counts(adata, batch_key="batch").notes
    assert note.startswith("Batch column 'batch': 1 of 3 batches have fewer than 10 cells (tiny)")
    adata.obs["batch"] = np.repeat(["a", "b", "c"], [40, 10, 10])
    assert not pp.extract_counts(adata, batch_key="batch").notes


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize("on_disk", [False, True])
def test_empty_cells_are_none_to_learn_from(tmp_path, on_disk):
    adata = make_adata(csr([[0, 0, 0], [1, 0, 2]]))
    if on_disk:
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"adata.X has counts in 1 of 2 cells, expected at least"):
        pp.open_counts(adata)
    assert pp.open_counts(adata, min_cells=1).empty_cells.tolist() == [True, False]


def test_not_an_anndata():
    with pytest.raises(
        TypeError, match=r"got a ndarray, expected an AnnData.*anndata.AnnData\(X\)"
    ):
        pp.extract_counts(COUNTS)


def test_missing_layer_lists_those_present():
    adata = make_adata(layers={"counts": COUNTS, "scaled": COUNTS})
    with pytest.raises(ValueError, match=r"no layer 'raw'; layers present: 'counts', 'scaled'"):
        pp.extract_counts(adata, layer="raw")
    with pytest.raises(ValueError, match=r"no layer 'raw'; adata has no layers"):
        pp.extract_counts(make_adata(), layer="raw")


def test_no_x():
    adata = AnnData(
        obs=pd.DataFrame(index=CELLS), var=pd.DataFrame(index=GENES), layers={"counts": COUNTS}
    )
    with pytest.raises(ValueError, match=r"adata.X is empty \(None\).*layers present: 'counts'"):
        pp.extract_counts(adata)


@pytest.mark.parametrize("values", [COUNTS[:1], COUNTS[:, :1], COUNTS[:0]])
def test_too_small(values):
    with pytest.raises(ValueError, match=r"expected at least 2 cells and 2 genes.*orientation"):
        pp.extract_counts(make_adata(values))


@pytest.mark.parametrize("dtype", ["complex128", "bool", "object"])
def test_not_real_numbers(dtype):
    with pytest.raises(TypeError, match=rf"dtype {dtype}, expected real numbers"):
        pp.extract_counts(make_adata(COUNTS.astype(dtype)))


def test_dask_is_refused():
    class Array:
        __module__ = "dask.array.core"

    with pytest.raises(TypeError, match=r"is a dask array.*to_memory"):
        _opening._check_dtype(Array(), "adata.X")


@pytest.mark.parametrize("form", ["dense", "csr_matrix"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(form, value):
    values = COUNTS.astype(float)
    values[2, 1] = value
    with pytest.raises(ValueError, match=r"NaN or infinite values \(1\).*Set missing entries"):
        pp.extract_counts(make_adata(FORMS[form](values)), allow_fractional=True)


def test_nothing_but_nan():
    with pytest.raises(ValueError, match=r"holds NaN or infinite values \(12\)"):
        pp.extract_counts(make_adata(np.full((3, 4), np.nan)))


@pytest.mark.parametrize("form", ["dense", "csr_matrix"])
def test_scaled_data(form):
    values = poisson().astype(float)
    values = (values - values.mean(0)) / values.std(0)
    with pytest.raises(ValueError, match=r"negative values \(.*smallest -.*looks like scaled"):
        pp.extract_counts(make_adata(FORMS[form](values)), allow_fractional=True)


@pytest.mark.parametrize("dtype", ["int64", "float32"])
def test_negative_whole_numbers(dtype):
    with pytest.raises(
        ValueError, match=r"negative values \(4, .*difference, or a code for missing"
    ):
        pp.extract_counts(make_adata((-COUNTS).astype(dtype)))


def log_normalized(values):
    return np.log1p(values / values.sum(1, keepdims=True) * 1e4)


def test_log_normalized_data_recognised_by_its_sums():
    with pytest.raises(
        ValueError, match=r"looks like log1p-normalised data \(expm1 of each cell.*allow_fractional"
    ):
        pp.extract_counts(make_adata(log_normalized(poisson())))


def test_log_normalized_data_recognised_by_uns():
    adata = make_adata(log_normalized(poisson())[:, :9], uns={"log1p": {"base": None}})
    with pytest.raises(ValueError, match=r"log1p-normalised data \(adata.uns\['log1p'\] is set\)"):
        pp.extract_counts(adata)


@pytest.mark.parametrize(
    ("values", "guess"),
    [
        (np.expm1(log_normalized(poisson())), "normalised to a common depth"),
        (log_normalized(poisson())[:, :9], "log-transformed data"),
        (poisson() * 33.3, r"normalised expression \(TPM, FPKM"),
        (poisson() + 1e-5, "counts with rounding errors; round"),
    ],
)
def test_other_fractional_data(values, guess):
    with pytest.raises(ValueError, match=rf"expected raw counts. .*{guess}.*--allow-fractional"):
        pp.extract_counts(make_adata(values))


def test_refusal_points_to_counts_elsewhere():
    values = poisson()
    adata = make_adata(values)
    adata.raw = adata
    adata.X = log_normalized(values)
    adata.layers["counts"], adata.layers["scaled"] = values, values - 1.5
    with pytest.raises(
        ValueError,
        match=r"layers present: 'counts', 'scaled'. Whole numbers are in layer='counts'. "
        r"Choose .*adata.raw looks like counts: use adata.raw.to_adata\(\); for the command line",
    ):
        pp.extract_counts(adata)
    with pytest.raises(ValueError, match=r"Whole numbers are in layer='counts'."):
        pp.extract_counts(adata, layer="scaled")


def test_refusal_of_a_layer_points_to_x():
    adata = make_adata(COUNTS, layers={"log": np.log1p(COUNTS)})
    with pytest.raises(ValueError, match=r"Whole numbers are in adata.X \(leave `layer` out\)"):
        pp.extract_counts(adata, layer="log")


def test_refusal_without_counts_elsewhere():
    adata = make_adata(np.log1p(COUNTS), layers={"text": COUNTS.astype(object)})
    with pytest.raises(ValueError, match=r"Bring the counts as they were before any normalis"):
        pp.extract_counts(adata)


@pytest.mark.parametrize("dtype", ["int64", "float64"])
def test_beyond_float32(dtype):
    values = COUNTS.astype(dtype)
    values[0, 0] = 2**24
    assert pp.extract_counts(make_adata(values)).counts[0, 0] == 2**24
    values[0, 0] = 2**24 + 1
    with pytest.raises(ValueError, match=r"value of 16,777,217, expected counts up to 16,777,216"):
        pp.extract_counts(make_adata(values))


def test_overflow_of_float32_is_too_large_not_infinite():
    values = COUNTS.astype(float)
    values[0, 0] = 1e300
    with pytest.raises(ValueError, match="expected counts up to"):
        pp.extract_counts(make_adata(values))


@pytest.mark.parametrize("form", ["dense", "csr_matrix"])
def test_no_counts_at_all(form):
    with pytest.raises(ValueError, match="holds no counts at all: every value is 0"):
        pp.extract_counts(make_adata(FORMS[form](np.zeros((3, 4)))))


def test_duplicate_names():
    with settings.override(check_uniqueness=False):
        adata = AnnData(
            COUNTS,
            obs=pd.DataFrame(index=CELLS),
            var=pd.DataFrame(index=["x", "x", "y", "y"]),
        )
    with pytest.raises(
        ValueError, match=r"gene names occur more than once \(2: x, y\).*var_names_make_unique"
    ):
        pp.extract_counts(adata)
    adata.var_names, adata.obs_names = GENES, ["c", "c", "c"]
    notes = pp.extract_counts(adata).notes
    assert any("Cell names occur more than once (1: c): no matter here" in n for n in notes)


def test_genes_are_predicted_from_each_other_so_one_is_too_few():
    alone = np.array([[1.0, 0], [2, 0], [4, 0]])
    with pytest.raises(ValueError, match="has counts of 1 of 2 genes, expected at least 2"):
        pp.extract_counts(make_adata(alone))
    pp.extract_counts(make_adata(alone), min_cells=1)  # of a trained model's genes one will do


@pytest.mark.parametrize(
    "name", ["AAACGTGAGCATCATC-1", "AATTGTGACGTTGGA", "s1_ACGTACGTACGT", "ACGTACGTACx"]
)
def test_genes_called_like_cells_are_a_matrix_on_its_side(name):
    adata = make_adata(COUNTS)
    adata.var_names = [name.replace("ACGT", "ACGT" + "A" * i, 1) for i in range(len(GENES))]
    with pytest.raises(ValueError, match=r"the genes of adata.X are called like cells \("):
        pp.extract_counts(adata)


# --- size factors and log-normalisation -----------------------------------------------


def test_size_factors_worked_case():
    counts = csr(COUNTS)
    np.testing.assert_array_equal(pp.library_sizes(counts), [4, 0, 7])
    assert pp.fit_median_library_size(counts) == 5.5
    factors = pp.size_factors(counts, median_library_size=5.5)
    np.testing.assert_allclose(factors, [4 / 5.5, 0, 7 / 5.5])
    assert factors.dtype == np.float64


def test_library_sizes_are_summed_in_float64():
    counts = csr([[2**24, 1, 1], [0, 0, 1]])
    np.testing.assert_array_equal(pp.library_sizes(counts), [2**24 + 2, 1])


def test_log_normalize_worked_case():
    counts = csr(COUNTS)
    result = pp.log_normalize(counts, median_library_size=5.5)
    expected = np.log1p(COUNTS * np.array([[5.5 / 4], [0], [5.5 / 7]]))
    np.testing.assert_allclose(result.toarray(), expected, rtol=1e-6)
    assert result.dtype == np.float32
    assert result.format == "csr"
    np.testing.assert_array_equal(counts.toarray(), COUNTS)


def test_log_normalize_agrees_with_scanpy():
    values = poisson().astype(np.float32)
    adata = make_adata(values.copy())
    scanpy.pp.normalize_total(adata)
    scanpy.pp.log1p(adata)
    counts = csr(values)
    median = pp.fit_median_library_size(counts)
    ours = pp.log_normalize(counts, median_library_size=median)
    np.testing.assert_allclose(ours.toarray(), adata.X, rtol=1e-5)


def test_held_out_cells_are_normalised_with_training_statistics():
    counts = csr(poisson())
    median = pp.fit_median_library_size(counts[:20])
    whole = pp.log_normalize(counts, median_library_size=median)
    part = pp.log_normalize(counts[20:], median_library_size=median)
    np.testing.assert_array_equal(whole[20:].toarray(), part.toarray())


def test_depth_does_not_change_log_normalised_values():
    counts = csr(poisson())
    once = pp.log_normalize(counts, median_library_size=30)
    twice = pp.log_normalize(counts * 2, median_library_size=30)
    np.testing.assert_allclose(twice.toarray(), once.toarray(), rtol=1e-6)


def test_median_of_empty_cells():
    with pytest.raises(ValueError, match="all 3 cells are empty"):
        pp.fit_median_library_size(csr(np.zeros((3, 2))))


@pytest.mark.parametrize("median", [0, -1, np.nan, np.inf])
def test_median_must_be_positive(median):
    with pytest.raises(ValueError, match=r"median_library_size is .*, expected a positive number"):
        pp.size_factors(csr(COUNTS), median_library_size=median)


def test_detected():
    counts = csr([[1, 0, 3], [0, 0, 2], [0, 0, 0]])
    assert pp.detected_genes(counts).tolist() == [True, False, True]
    assert pp.detected_genes(counts, min_cells=2).tolist() == [False, False, True]


# --- thinning -------------------------------------------------------------------------

count_arrays = arrays(
    np.int64,
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    elements=st.one_of(st.integers(0, 3), st.integers(0, 2**20)),
)


@given(values=count_arrays, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
def test_thinning_laws(values, fraction, seed):
    """Parts add up exactly, are whole and non-negative, canonical, and repeat for a seed."""
    counts = csr(values)
    kept, held_out = pp.thin_counts(counts, fraction=fraction, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal((kept + held_out).toarray(), values)
    for part in (kept, held_out):
        assert part.dtype == np.float32
        assert part.format == "csr"
        assert part.shape == values.shape
        assert part.has_canonical_format
        assert np.all(part.data > 0)
        np.testing.assert_array_equal(part.data, np.rint(part.data))
    again, _ = pp.thin_counts(counts, fraction=fraction, rng=np.random.default_rng(seed))
    np.testing.assert_array_equal(again.toarray(), kept.toarray())
    np.testing.assert_array_equal(counts.toarray(), values)


@pytest.mark.parametrize("count", [1, 2, 7, 400])
def test_thinning_is_binomial(count):
    """Against scipy's binomial distribution, by chi-square."""
    counts = csr(np.full((100, 200), count))
    _, held_out = pp.thin_counts(counts, fraction=0.2, rng=np.random.default_rng(0))
    drawn = held_out.toarray().ravel()
    edges = np.unique(stats.binom.ppf([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1], count, 0.2))
    expected = np.diff(stats.binom.cdf(edges, count, 0.2)) * len(drawn)
    found = np.array([np.sum((drawn > a) & (drawn <= b)) for a, b in pairwise(edges)])
    assert np.all(np.abs(found - expected) < 4 * np.sqrt(expected))


def test_thinning_leaves_explicit_zeros_at_zero():
    counts = sparse.csr_matrix((np.array([0.0, 4.0]), [0, 1], [0, 2]), shape=(1, 2))
    kept, held_out = pp.thin_counts(counts, fraction=0.5, rng=np.random.default_rng(0))
    np.testing.assert_array_equal((kept + held_out).toarray(), [[0, 4]])


@pytest.mark.parametrize("value", [0.5, -1, np.nan, np.inf])
def test_thinning_needs_molecules(value):
    counts = csr([[1, value]])
    with pytest.raises(ValueError, match=r"not whole numbers >= 0.*cannot be thinned"):
        pp.thin_counts(counts, fraction=0.1, rng=np.random.default_rng(0))


@pytest.mark.parametrize("fraction", [0, 1, -0.1, np.nan])
def test_thinning_fraction(fraction):
    with pytest.raises(ValueError, match=r"fraction is .*between 0 and 1"):
        pp.thin_counts(csr(COUNTS), fraction=fraction, rng=np.random.default_rng(0))


# --- matching genes -------------------------------------------------------------------


def test_match_and_align_worked_case():
    match = pp.match_genes(["a", "b", "c"], ["c", "x", "a"])
    assert match.positions.tolist() == [2, -1, 0]
    assert match.n_matched == 2
    assert match.missing == ("b",)
    assert match.extra == ("x",)
    aligned = pp.align_counts(csr([[1, 2, 3], [4, 0, 0]]), match)
    np.testing.assert_array_equal(aligned.toarray(), [[3, 0, 1], [0, 0, 4]])
    assert match.summary() == (
        "2 of 3 genes matched by name; 1 not measured here (b); 1 outside the model (x)."
    )


def test_match_of_the_same_genes():
    match = pp.match_genes(GENES, np.array(GENES))
    assert match.summary() == "4 of 4 genes matched by name."
    np.testing.assert_array_equal(pp.align_counts(csr(COUNTS), match).toarray(), COUNTS)


@given(data=st.data())
def test_align_agrees_with_pandas(data):
    """Any order, missing and extra genes, as ``DataFrame.reindex`` does it."""
    gene = st.sampled_from("abcdefghij")
    reference = data.draw(st.lists(gene, min_size=1, unique=True))
    names = data.draw(st.lists(gene, min_size=1, unique=True).filter(set(reference).intersection))
    values = data.draw(arrays(np.int64, (3, len(names)), elements=st.integers(0, 9)))
    counts = csr(values)
    aligned = pp.align_counts(counts, pp.match_genes(reference, names, min_fraction=0))
    expected = pd.DataFrame(values, columns=names).reindex(columns=reference, fill_value=0)
    np.testing.assert_array_equal(aligned.toarray(), expected.to_numpy())
    assert aligned.has_canonical_format
    assert aligned.dtype == np.float32
    np.testing.assert_array_equal(counts.toarray(), values)


ENSEMBL = [f"ENSG0000000000{i}" for i in range(4)]


@pytest.mark.parametrize(
    ("reference", "names", "message"),
    [
        (["Actb", "Gapdh"], ["ACTB", "GAPDH"], r"Ignoring case 2 would match"),
        (ENSEMBL, ["ACTB", "GAPDH"], r"model uses Ensembl ids, the data gene symbols.*gene_ids"),
        (["ACTB", "GAPDH"], ENSEMBL, r"data use Ensembl ids, the model gene symbols"),
        (ENSEMBL, [f"{name}.5" for name in ENSEMBL], r"Without the version \(ENSG....5\) more"),
        (["a", "b"], ["x", "y"], r"0 of 2 genes .*has a, b; the data have x, y.*same species"),
        (["a", "b", "c"], ["a", "y"], r"1 of 3 genes .*expected at least 50%"),
    ],
)
def test_too_few_genes_match(reference, names, message):
    with pytest.raises(ValueError, match=message):
        pp.match_genes(reference, names)


def test_min_fraction():
    assert pp.match_genes(["a", "b", "c"], ["a"], min_fraction=0.3).n_matched == 1
    with pytest.raises(ValueError, match="0 of 1 genes"):
        pp.match_genes(["a"], ["b"], min_fraction=0)


def test_match_refuses_duplicates():
    with pytest.raises(ValueError, match=r"gene names occur more than once \(1: a\)"):
        pp.match_genes(["a", "b"], ["a", "a"])
    with pytest.raises(ValueError, match=r"reference gene names occur more than once \(1: b\)"):
        pp.match_genes(["b", "b"], ["a"])


def test_align_needs_the_columns_that_were_matched():
    match = pp.match_genes(["a", "b"], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"counts have 4 genes, expected the 3 whose names were"):
        pp.align_counts(csr(COUNTS), match)


def test_counts_on_disk_are_read_from_layers_too(tmp_path):
    """A layer that is an HDF5 dataset is read block by block."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = COUNTS
        data = pp.extract_counts(make_adata(layers={"disk": file["x"]}), layer="disk")
    np.testing.assert_array_equal(data.counts.toarray(), COUNTS)


def test_antibodies_are_no_genes(toy):
    toy.var["feature_types"] = ["Gene Expression"] * 55 + ["Antibody Capture"] * (toy.n_vars - 55)
    with pytest.raises(ValueError, match=r"55 genes and 5 Antibody Capture.*Choose the genes"):
        pp.extract_counts(toy)
    genes = toy[:, toy.var["feature_types"] == "Gene Expression"].copy()
    assert pp.extract_counts(genes).counts.shape[1] == 55


@pytest.mark.parametrize(
    ("column", "values", "named"),
    [
        ("Sample", ["a", "b"], True),
        ("batch", [1, 2], True),
        ("batch", ["a"], False),
        ("leiden", ["0", "1"], False),
    ],
)
def test_columns_that_look_like_batches_are_named(toy, column, values, named):
    toy.obs = pd.DataFrame({column: np.resize(values, 120)}, index=toy.obs_names)
    said = pp.unused_batches(toy)
    assert bool(said) == named
    assert not named or f"obs had {column!r} (2 values)" in said[0]
    notes = GraphSCI(max_epochs=1, check=False, graph="none").fit(toy).fitted.notes
    assert any("No batch_key was given in training" in note for note in notes) == named


def test_a_name_for_every_cell_is_no_batch(toy):
    toy.obs["sample_id"] = toy.obs_names
    toy.obs["donor"] = ["one"] * 111 + [f"other{i}" for i in range(9)]
    del toy.obs["batch"]
    assert pp.unused_batches(toy) == []


# --- genes that a batch lacks -----------------------------------------------------------


def joined(lacking, n_cells=60, n_genes=300):
    """Two halves of one sample; the second lacks some genes, as after an outer join."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 2.0, n_genes), (n_cells, n_genes)).astype(np.float32)
    obs = pd.DataFrame({"sample": ["a", "b"] * (n_cells // 2)}, index=map(str, range(n_cells)))
    counts[1::2, :lacking] = 0
    var = pd.DataFrame(index=[f"g{i}" for i in range(n_genes)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


@pytest.mark.parametrize("chunk", [7, 2000])
def test_genes_that_a_batch_never_measured_are_told(monkeypatch, chunk):
    monkeypatch.setattr(batches, "CHUNK_CELLS", chunk)
    adata = joined(60)
    source, names = MemoryCounts(adata.X), np.asarray(adata.var_names, dtype=str)
    said = batches.genes_without_a_batch(source, names, adata.obs["sample"])
    own, other = adata.X[1::2].toarray().sum(0), adata.X[::2].toarray().sum(0)
    surely = (own == 0) & (other / other.sum() * own.sum() >= 10)
    assert said.startswith(f"{surely.sum()} genes have no count in batch 'b' of 'sample'")
    assert f"and {(other / other.sum())[surely].sum():.2g} of all counts elsewhere" in said
    adata.obs["sample"] = adata.obs["sample"].where(adata.obs["sample"] == "a")
    assert batches.genes_without_a_batch(source, names, adata.obs["sample"]) is None
    adata = joined(10)
    source = MemoryCounts(adata.X)
    assert batches.genes_without_a_batch(source, names, adata.obs["sample"]) is None


@pytest.mark.parametrize("batch_key", [None, "sample"])
def test_training_warns_of_genes_that_a_batch_lacks(batch_key):
    """By a column that looks like batches, too; copies of a molecule can be told all the same."""
    adata = joined(60)
    adata.obs["donor"] = adata.obs["sample"]
    with pytest.warns(UserWarning, match="genes have no count in batch 'b'") as told:
        model = GraphSCI(max_epochs=1, check=False).fit(adata, batch_key=batch_key)
    assert sum("have no count in batch" in str(w.message) for w in told) == 1
    assert sum("have no count in batch" in note for note in model.notes) == 1


def test_of_several_batches_that_lack_genes_the_worst_is_described(monkeypatch):
    adata = joined(60)
    adata.obs["sample"] = [f"{x}{i % 4}" for i, x in enumerate(adata.obs["sample"])]
    counts = adata.X.toarray()
    counts[3::4, 60:120] = 0
    source, names = MemoryCounts(sparse.csr_matrix(counts)), np.asarray(adata.var_names, dtype=str)
    said = batches.genes_without_a_batch(source, names, adata.obs["sample"])
    assert "in batch 'b3' of 'sample'" in said
    assert "join? Other batches lack genes too: b1. They are" in said
    monkeypatch.setattr(batches, "_MOST_BATCHES", 3)
    assert batches.genes_without_a_batch(source, names, adata.obs["sample"]) is None


def test_all_columns_that_look_like_batches_are_judged_in_one_pass(monkeypatch):
    """The first that lacks genes is told; of more batches than fit there is one pass more."""
    asked = []

    class Source(MemoryCounts):
        def rows(self, start, stop):
            asked.append((start, stop))
            return super().rows(start, stop)

    adata, n_cells = joined(60), joined(60).n_obs
    names = np.asarray(adata.var_names, dtype=str)
    in_turn = pd.Series(np.arange(n_cells) // 2 % 3, name="plate")
    some = adata.obs["sample"].where(np.arange(n_cells) > 9)  # cells without a batch
    columns = in_turn, in_turn.rename("lane"), some.rename("donor"), adata.obs["sample"]
    said = batches.genes_without_a_batch(Source(adata.X), names, *columns)
    assert said == batches.genes_without_a_batch(MemoryCounts(adata.X), names, columns[2])
    assert "of 'donor'" in said
    assert asked == [(0, n_cells)]
    monkeypatch.setattr(batches, "_MOST_BATCHES", 5)
    assert batches.genes_without_a_batch(Source(adata.X), names, *columns) == said
    assert len(asked) == 3
    assert batches.genes_without_a_batch(Source(adata.X), names) is None
    assert len(asked) == 3


def test_only_some_doubts_are_of_what_a_molecule_is():
    adata = joined(0)
    names = [f"CD{i}_TotalSeqB" for i in range(3)]
    adata.var_names = [*names, *adata.var_names[3:]]
    data = pp.extract_counts(adata)
    assert any("antibodies" in doubt for doubt in data.doubts)
    assert not data.altered
    twice = AnnData(sparse.vstack([adata.X, adata.X[:30]]).tocsr())
    assert pp.extract_counts(twice).altered
