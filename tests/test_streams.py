"""On-disk runs from end to end: the same output as in memory, whole or none."""

import json

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from typer.testing import CliRunner

from graphsci import io
from graphsci._imputing.estimating import estimate_blocks
from graphsci._jobs import impute as work
from graphsci._jobs.files import read_names
from graphsci.advance import heard_by
from graphsci.cli import app
from graphsci.imputer import GraphSCI
from graphsci.io import layers, streams
from graphsci.io.sources import CHUNK_CELLS
from graphsci.nn import cell_blocks

OPTIONS = ["--max-epochs", "2", "--quiet", "--no-check"]


@pytest.fixture
def data(toy) -> AnnData:
    """Counts with everything that a file may hold besides."""
    toy.X = sparse.csr_matrix(toy.X)
    toy.layers["dense"] = toy.X.toarray() * 2
    toy.layers["sparse"] = toy.X.copy()
    toy.obsm["X_pca"] = np.arange(240.0).reshape(120, 2)
    toy.obsp["near"] = sparse.csr_matrix(np.eye(120))
    toy.uns["about"] = {"who": "us", "n": 3}
    toy.obs["label"] = pd.Categorical(toy.obs["group"])
    return toy


def run(*arguments) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def refused(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code != 0
    return " ".join(result.output.split())


def read(path) -> AnnData:
    return anndata.read_zarr(path) if path.suffix == ".zarr" else anndata.read_h5ad(path)


def same(one, other) -> bool:
    if sparse.issparse(one):
        return sparse.issparse(other) and (one != other).nnz == 0
    if isinstance(one, pd.DataFrame):
        return one.equals(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return np.array_equal(one, other, equal_nan=np.asarray(one).dtype.kind == "f")


def assert_same(one: AnnData, other: AnnData) -> None:
    assert same(one.X, other.X)
    pd.testing.assert_frame_equal(one.obs, other.obs)
    pd.testing.assert_frame_equal(one.var, other.var)
    for slot in ("layers", "obsm", "varm", "obsp", "varp", "uns"):
        a, b = getattr(one, slot), getattr(other, slot)
        assert set(a) == set(b), slot
        for key in a:
            assert same(a[key], b[key]), (slot, key)


# --- the command line -----------------------------------------------------------------


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
@pytest.mark.parametrize("to", [".h5ad", ".zarr"])
@pytest.mark.parametrize("genes", [None, "gene7,gene2"])
def test_a_run_on_disk_writes_what_a_run_in_memory_writes(tmp_path, data, ending, to, genes):
    source = tmp_path / f"in{ending}"
    io.write_anndata(data, source)
    chosen = [] if genes is None else ["--genes", genes]
    for flag in ("backed", "no-backed"):
        out = tmp_path / f"{flag}{to}"
        run("impute", source, "-o", out, f"--{flag}", *chosen, *OPTIONS, "--estimate", "mean")
    disk, memory = read(tmp_path / f"backed{to}"), read(tmp_path / f"no-backed{to}")
    assert_same(disk, memory)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"in{ending}", f"backed{to}", f"no-backed{to}"]
    )


def test_results_in_the_input_are_replaced_on_request(tmp_path, data):
    source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    io.write_anndata(data, source)
    run("impute", source, "-o", out, *OPTIONS)
    again, elsewhere = ["impute", out, "-o", out, "--backed", *OPTIONS], tmp_path / "new.h5ad"
    for unasked in ([], ["--no-overwrite"]):
        assert "out.h5ad exists. Choose another output" in refused(*again, *unasked)
        said = refused("impute", out, "-o", elsewhere, "--backed", *OPTIONS, *unasked)
        assert 'the input has uns["graphsci"], obs[' in said
    assert not elsewhere.exists()
    first = read(out)
    run(*again, "--overwrite")
    assert_same(first, read(out))


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_chosen_cells_and_genes_are_the_block_of_the_whole(tmp_path, data, ending):
    """The virtual output: a model and the counts give any block of it."""
    source, model = tmp_path / f"in{ending}", tmp_path / "model"
    io.write_anndata(data, source)
    run("impute", source, "-o", tmp_path / "all.h5ad", "--save-model", model, *OPTIONS)
    (tmp_path / "cells.txt").write_text("cell99\ncell3\ncell50\n")
    genes = "gene30,gene1"
    options = ["--genes", genes, "--cells", tmp_path / "cells.txt", "--quiet"]
    run("apply", model, source, "-o", tmp_path / "block.h5ad", *options)
    whole, block = read(tmp_path / "all.h5ad"), read(tmp_path / "block.h5ad")
    assert block.obs_names.tolist() == ["cell99", "cell3", "cell50"]
    np.testing.assert_allclose(
        block.obsm["graphsci_denoised"].to_numpy(),
        whole[block.obs_names, genes.split(",")].layers["denoised"],
        rtol=1e-5,
    )
    assert (block.X != data[block.obs_names].X).nnz == 0
    message = refused("apply", model, source, "-o", tmp_path / "x.h5ad", "--cells", "cell3,nobody")
    assert "1 of 2 are not in obs_names: nobody" in message


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_chosen_cells_keep_their_layers_as_they_are(tmp_path, data, ending):
    data.layers["columns"] = sparse.csc_matrix(data.X)
    io.write_anndata(data, tmp_path / f"in{ending}")
    stored = io.read_counts(tmp_path / f"in{ending}", backed=True)
    some, chosen = streams.take_cells(stored, np.array([99, 3])), data[[99, 3]]
    assert set(some.layers) == set(data.layers)
    for name, layer in chosen.layers.items():
        assert sparse.issparse(layer) == sparse.issparse(some.layers[name])
        assert same(layer, some.layers[name])


@pytest.mark.parametrize("backed", ["--backed", "--no-backed"])
def test_sparse_output_says_what_it_drops(tmp_path, data, backed):
    source, out, full = (tmp_path / name for name in ("in.h5ad", "out.h5ad", "full.h5ad"))
    io.write_anndata(data, source)
    run("impute", source, "-o", full, *OPTIONS)
    run("impute", source, "-o", out, backed, "--drop-below", "0.5", "--compression", "gzip",
        *OPTIONS)  # fmt: skip
    kept, whole = read(out), read(full).layers
    layer = kept.layers["denoised"]
    assert sparse.issparse(layer)
    expected = np.where(whole["denoised"] >= 0.5, whole["denoised"], 0)
    np.testing.assert_allclose(layer.toarray(), expected, rtol=1e-6)
    sd = np.where(whole["denoised"] >= 0.5, whole["denoised_sd"], 0)
    np.testing.assert_allclose(kept.layers["denoised_sd"].toarray(), sd, rtol=1e-6)
    lost = kept.uns["graphsci"]["estimates"]["denoised"]["dropped"]
    small = whole["denoised"][whole["denoised"] < 0.5]
    assert lost["below"] == 0.5
    assert lost["share_of_entries"] == pytest.approx((small > 0).sum() / whole["denoised"].size)
    assert lost["share_of_sum"] == pytest.approx(small.sum() / whole["denoised"].sum(), rel=1e-5)
    message = refused("impute", source, "-o", tmp_path / "x.h5ad", "--drop-below", "1",
                      "--genes", "gene1", *OPTIONS)  # fmt: skip
    assert "it makes sparse layers, but chosen genes (--genes) are written as tables" in message
    message = refused("impute", source, "-o", tmp_path / "x.h5ad", "--drop-below", "1",
                      "--dtype", "float16")  # fmt: skip
    assert "sparse layers (--drop-below) have no float16" in message


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_half_precision_and_compression(tmp_path, data, ending):
    source, out = tmp_path / "in.h5ad", tmp_path / f"out{ending}"
    io.write_anndata(data, source)
    run("impute", source, "-o", tmp_path / "full.h5ad", *OPTIONS)
    form = ["--dtype", "float16", "--compression", "gzip"]
    run("impute", source, "-o", out, "--backed", *form, *OPTIONS)
    layer, full = read(out).layers["denoised"], read(tmp_path / "full.h5ad").layers["denoised"]
    assert layer.dtype == np.float16
    np.testing.assert_allclose(layer, full, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("genes", [None, "gene7,gene2"])
@pytest.mark.parametrize("backed", ["--backed", "--no-backed"])
def test_what_half_precision_cannot_hold_is_cut_and_told(tmp_path, data, genes, backed):
    source, out, full = (tmp_path / name for name in ("in.h5ad", "out.h5ad", "full.h5ad"))
    data.X = data.X.toarray()
    data.X[3, 7] = 100_000
    io.write_anndata(data, source)
    chosen = ["impute", source, *OPTIONS, *([] if genes is None else ["--genes", genes])]
    run(*chosen, "-o", full)
    run(*chosen, "-o", out, backed, "--dtype", "float16", "--json", tmp_path / "run.json")

    def values(path):
        after = read(path)
        if genes is None:
            return after.layers["denoised"], after.uns["graphsci"]
        return after.obsm["graphsci_denoised"].to_numpy(), after.uns["graphsci"]

    (half, record), (whole, plain) = values(out), values(full)
    assert half.dtype == np.float16
    assert half.max() == 65_504 < whole.max()
    np.testing.assert_allclose(half, np.minimum(whole, 65_504), rtol=1e-3, atol=1e-6)
    assert record["clipped"] == (whole > 65_504).sum()
    assert "clipped" not in plain
    notes = json.loads((tmp_path / "run.json").read_text())["notes"]
    assert f"{record['clipped']:,} values above 65,504 were stored as that" in notes[-1]


@pytest.mark.parametrize("backed", ["--backed", "--no-backed"])
def test_a_gene_that_no_table_can_have_is_refused_before_training(tmp_path, data, backed):
    source = tmp_path / "in.h5ad"
    data.var_names = ["A/B", *data.var_names[1:]]
    io.write_anndata(data, source)
    message = refused("impute", source, "-o", tmp_path / "x.h5ad", backed, "--genes", "gene1,A/B")
    assert "genes (--genes): 'A/B' has a '/' in its name" in message
    assert "epoch" not in message


@pytest.mark.parametrize("backed", ["--backed", "--no-backed"])
def test_tables_leave_the_layers_of_an_earlier_run(tmp_path, data, backed):
    source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    io.write_anndata(data, source)
    run("impute", source, "-o", out, *OPTIONS)
    run("impute", out, "-o", out, backed, "--genes", "gene1", "--overwrite", *OPTIONS)
    after = read(out)
    assert "denoised" in after.layers
    assert set(after.uns["graphsci"]["estimates"]) == {
        *("denoised", "denoised_sd", "graphsci_denoised", "graphsci_denoised_sd")
    }


@pytest.mark.parametrize("backed", ["--backed", "--no-backed"])
def test_a_store_is_known_by_its_name_in_any_case_or_by_what_is_there(tmp_path, data, backed):
    source, out = tmp_path / "in.h5ad", tmp_path / "out.ZARR"
    io.write_anndata(data, source)
    run("impute", source, "-o", out, backed, *OPTIONS)
    assert "denoised" in anndata.read_zarr(out).layers
    (tmp_path / "store").mkdir()
    out.rename(tmp_path / "store")
    again = tmp_path / "again.H5AD"
    run("impute", tmp_path / "store", "-o", again, backed, *OPTIONS, "--overwrite")
    assert_same(anndata.read_h5ad(again), anndata.read_zarr(tmp_path / "store"))


def test_writing_tells_how_far_it_got(tmp_path, data, trained, monkeypatch):
    monkeypatch.setattr("graphsci._imputing.estimating.CHUNK_CELLS", 50)
    monkeypatch.setattr("graphsci.advance._EVERY_SECONDS", 0)
    trained("nb").save(tmp_path / "model")
    data.write_h5ad(tmp_path / "in.h5ad")
    heard = []
    job = work.Job(tmp_path / "in.h5ad", tmp_path / "out.h5ad")
    with heard_by(heard.append):
        work.apply(job, tmp_path / "model")
    told = [(at.done, at.of) for at in heard if at.what == "writing estimates"]
    assert told == [(50, 120), (100, 120), (120, 120)]


def test_a_list_of_names_may_be_long(tmp_path):
    names = tuple(f"gene{number}" for number in range(5000))
    assert read_names(",".join(names), "genes") == names
    (tmp_path / "names").write_text("\n".join(names))
    assert read_names(str(tmp_path / "names"), "cells") == names


def test_a_list_of_names_may_have_comments(tmp_path):
    (tmp_path / "names").write_text("# of the paper\nTP53\n  # of ours\nMYC\n#GATA1\n")
    assert read_names(str(tmp_path / "names"), "genes") == ("TP53", "MYC")
    (tmp_path / "names").write_text("# none yet\n")
    with pytest.raises(ValueError, match="names none"):
        read_names(str(tmp_path / "names"), "genes")


# --- when it stays on disk ------------------------------------------------------------


def test_large_files_stay_on_disk_by_themselves(tmp_path, data, monkeypatch):
    source = tmp_path / "in.h5ad"
    io.write_anndata(data, source)
    job = work.Job(source=source, output=tmp_path / "out.h5ad")
    said = []
    size = io.size_in_memory(source)
    assert size > 120 * 60 * 8  # the dense layer alone
    assert not work.stays_on_disk(job, said.append)
    assert not said
    monkeypatch.setattr(io, "available_memory", lambda: 3 * size)
    assert work.stays_on_disk(job, said.append)
    assert "stays on disk: its matrices would take" in said[0]
    monkeypatch.setattr(io, "available_memory", lambda: 5 * size)
    assert not work.stays_on_disk(job, said.append)
    monkeypatch.setattr(io, "available_memory", lambda: None)
    assert not work.stays_on_disk(job, said.append)
    assert io.size_in_memory(tmp_path / "counts.csv") is None


def test_available_memory_is_told():
    found = io.available_memory()
    assert found is None or 2**20 < found < 2**50


def test_a_container_has_what_is_left_of_its_limit(tmp_path, monkeypatch):
    """3 of 16 MiB are taken; 1 of these is a copy of a file that can be dropped."""
    monkeypatch.setattr(io._memory, "_GROUPS", tmp_path)
    for name, text in (("max", 16 * 2**20), ("current", 3 * 2**20)):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {2**20}\n")
    assert io.available_memory() == 14 * 2**20
    inner = tmp_path / "job" / "step"
    inner.mkdir(parents=True)
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    monkeypatch.setattr(io._memory, "_OWN_GROUP", own)
    for name, text in (("max", "max"), ("current", 2**20), ("stat", "inactive_file 0")):
        (inner / f"memory.{name}").write_text(f"{text}\n")
    assert io.available_memory() == 14 * 2**20  # no limit of its own, but one further out
    (inner / "memory.max").write_text(f"{5 * 2**20}\n")
    assert io.available_memory() == 4 * 2**20
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert io.available_memory() != 14 * 2**20


def test_chunks_of_cells_fit_into_each_other():
    """Blocks of estimates begin where chunks of the counts and of the output do."""
    assert CHUNK_CELLS % cell_blocks.EVALUATION_CELLS == 0
    assert CHUNK_CELLS % layers._CHUNK[0] == 0


# --- pieces ---------------------------------------------------------------------------


def test_a_copy_leaves_out_what_it_is_told(tmp_path, data):
    for ending in (".h5ad", ".zarr"):
        source, target = tmp_path / f"in{ending}", tmp_path / f"copy{ending}"
        io.write_anndata(data, source)
        streams.copy_anndata(source, target, without={"layers/dense", "uns/about", "obsm/no"})
        copy = read(target)
        assert set(copy.layers) == {"rate", "sparse"}
        assert "about" not in copy.uns
        assert same(copy.X, data.X)


@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
@pytest.mark.parametrize("name", ["obs/label", "raw/X", "uns/about/who", "layers/sparse/data"])
def test_a_copy_leaves_out_no_part_of_an_element(tmp_path, data, name, ending):
    """A table without one of the columns that it lists is not read again."""
    source, target = tmp_path / "in.h5ad", tmp_path / f"copy{ending}"
    io.write_anndata(data, source)
    with pytest.raises(ValueError, match=f"without: got '{name}', a part of an element"):
        streams.copy_anndata(source, target, without={"layers/dense", name})
    assert not target.exists()


@pytest.mark.parametrize(
    ("before", "after"), [(".h5ad", ".h5ad"), (".h5ad", ".zarr"), (".zarr", ".h5ad")]
)
def test_a_run_on_disk_takes_along_raw_and_strings(tmp_path, data, before, after):
    data.obs["note"] = pd.array(["seen", *[pd.NA] * 119], dtype="string")
    data.raw = data.copy()
    data = data[:, :-3].copy()
    source, out = tmp_path / f"in{before}", tmp_path / f"out{after}"
    io.write_anndata(data, source)
    run("impute", source, "-o", out, "--backed", *OPTIONS)
    found = read(out).raw
    assert same(found.X, data.raw.X)
    assert found.var.equals(data.raw.var)
    assert read(out).obs["note"].isna().sum() == 119


def test_table_rows_are_written_in_large_pieces(tmp_path, data, monkeypatch):
    path = tmp_path / "out.h5ad"
    io.write_anndata(data, path)
    monkeypatch.setattr(streams, "_TABLE_ROWS", 50)
    values = np.random.default_rng(0).random((120, 2)).astype(np.float32)
    with streams.open_store(path, "r+") as root:
        writer = streams.TableWriter(root, {"denoised": "run_denoised"}, ["a", "b"])
        for start in range(0, 120, 7):
            writer.append({"denoised": values[start : start + 7]})
            assert sum(map(len, writer._held["denoised"])) < 50
    table = read(path).obsm["run_denoised"]
    assert table.index.equals(data.obs_names)
    assert np.array_equal(table.to_numpy(), values)
    assert table.columns.tolist() == ["a", "b"]


def test_a_table_may_have_thousands_of_columns(tmp_path, data):
    """More names than an attribute of a usual HDF5 group can hold."""
    path, columns = tmp_path / "out.h5ad", [f"gene{number}" for number in range(6_000)]
    io.write_anndata(data[:3].copy(), path)
    with streams.open_store(path, "r+") as root:
        writer = streams.TableWriter(root, {"denoised": "run_denoised"}, columns)
        writer.append({"denoised": np.ones((3, 6_000), np.float32)})
    table = read(path).obsm["run_denoised"]
    assert table.columns.tolist() == columns
    assert (table == 1).all(axis=None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("ending", [".h5ad", ".zarr"])
def test_an_interrupted_run_on_disk_leaves_no_half_file(tmp_path, data, monkeypatch, error, ending):
    source, out = tmp_path / f"in{ending}", tmp_path / f"out{ending}"
    io.write_anndata(data, source)
    before = read(source)

    def broken(*arguments, **options):
        for number, block in enumerate(estimate_blocks(*arguments, **options)):
            if number:
                raise error
            yield block

    monkeypatch.setattr("graphsci._jobs.output.estimate_blocks", broken)
    monkeypatch.setattr("graphsci.nn.cell_blocks.EVALUATION_CELLS", 40)
    result = CliRunner().invoke(app, ["impute", str(source), "-o", str(out), "--backed", *OPTIONS])
    assert result.exit_code != 0
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    assert_same(before, read(source))


@pytest.mark.parametrize("preset", ["default", "paper"])
def test_only_what_a_run_says_of_cells_is_new_in_obs(tmp_path, data, preset):
    """What an earlier run wrote of it goes; all else in obs stays as it is stored."""
    source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    data.obs["graphsci_certainty"] = pd.Categorical(["stale"] * 120)
    data.obs["depth"] = np.arange(120.0)
    data.write_h5ad(source, compression="gzip")
    run("impute", source, "-o", out, "--backed", "--overwrite", "--preset", preset, *OPTIONS)
    before, after = read(source).obs, read(out).obs
    np.testing.assert_array_equal(after.pop("graphsci_library"), np.asarray(data.X.sum(1)).ravel())
    assert after.pop("graphsci_misfit").dtype == after.pop("graphsci_size_factor").dtype == "f4"
    if preset == "default":
        certainty = after.pop("graphsci_certainty")
        assert certainty.dtype == np.float32
        assert np.ptp(certainty) > 0
    pd.testing.assert_frame_equal(after, before.drop(columns="graphsci_certainty"))


def test_obs_stays_as_it_is_stored(tmp_path, data):
    source, out = tmp_path / "in.h5ad", tmp_path / "out.h5ad"
    data.obs["depth"] = np.arange(120.0)
    data.write_h5ad(source, compression="gzip")
    run("impute", source, "-o", out, "--backed", *OPTIONS)
    with h5py.File(out) as file:
        assert file["obs/depth"].compression == "gzip"
        columns = ["library", "size_factor", "certainty", "misfit"]
        added = [f"graphsci_{name}" for name in columns]
        assert list(file["obs"].attrs["column-order"])[-5:] == ["depth", *added]
        assert list(file["obsm"]) == ["X_graphsci", "X_pca"]


def test_impute_writes_chosen_genes_into_a_backed_object(tmp_path, data):
    source = tmp_path / "in.h5ad"
    io.write_anndata(data, source)
    stored = io.read_counts(source, backed=True)
    model = GraphSCI(max_epochs=2, check=False).fit(stored)
    model.impute(stored, genes=["gene1", "gene9"])
    model.impute(data, genes=["gene1", "gene9"])
    assert same(stored.obsm["graphsci_denoised"], data.obsm["graphsci_denoised"])
    assert same(stored.obsm["X_graphsci"], data.obsm["X_graphsci"])
    with h5py.File(source) as file:
        assert "graphsci_denoised" not in file["obsm"]


def test_sparse_layers_judge_each_estimate_by_itself(tmp_path):
    """`imputed_median` is an estimate of its own; `denoised_sd` stays where `denoised` does."""
    names = ("denoised", "denoised_sd", "imputed", "imputed_median")
    values = {
        "denoised": np.array([[0.4, 2.0]]),
        "denoised_sd": np.array([[3.0, 0.1]]),
        "imputed": np.array([[0.9, 0.1]]),
        "imputed_median": np.array([[0.2, 1.0]]),
    }
    with h5py.File(tmp_path / "layers.h5", "w") as root:
        layers = streams.SparseLayers(root, {n: n for n in names}, below=0.5, compression=None)
        layers.append(values)
        kept = {n: anndata.io.read_elem(root["layers"][n]).toarray().tolist() for n in names}
    assert kept["denoised"] == [[0.0, 2.0]]
    assert kept["denoised_sd"] == [[0.0, pytest.approx(0.1)]]
    assert kept["imputed"] == [[pytest.approx(0.9), 0.0]]
    assert kept["imputed_median"] == [[0.0, 1.0]]
