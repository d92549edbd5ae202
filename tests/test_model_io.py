"""Models on disk: the same bits back, clear errors, nothing half-written, no pickle."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from scipy import sparse

from graphsci import GraphSCI
from graphsci._imputing import model_io
from graphsci.gene_graph.graph import GeneGraph

ESTIMATES = ("mean", "denoised", "imputed")


def saved(trained, tmp_path, name="nb"):
    trained(name).save(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, change) -> None:
    path = folder / model_io.RECORD
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def same_bits(model: GraphSCI, other: GraphSCI, adata, batch_key=None) -> None:
    one, two = (
        m.impute(adata, batch_key=batch_key, estimates=ESTIMATES, copy=True) for m in (model, other)
    )
    for name in (*ESTIMATES, "denoised_sd"):
        assert np.array_equal(one.layers[name], two.layers[name])
    assert np.array_equal(one.obsm["X_graphsci"], two.obsm["X_graphsci"])
    assert np.array_equal(one.varm["graphsci"], two.varm["graphsci"], equal_nan=True)
    assert (one.varp["graphsci_graph"] != two.varp["graphsci_graph"]).nnz == 0


@pytest.mark.parametrize("name", ["nb", "zinb", "batches", "paper", "paper zinb"])
def test_a_loaded_model_is_the_same_model(trained, toy, tmp_path, name):
    model = trained(name)
    loaded = GraphSCI.load(saved(trained, tmp_path, name))
    same_bits(model, loaded, toy, "batch" if name == "batches" else None)
    one, two = model.fitted, loaded.fitted
    assert loaded.config == model.config
    assert two.spec._replace(
        graph=None, gene_names=None, gene_proportions=None, copies=None, undetected=None
    ) == one.spec._replace(
        graph=None, gene_names=None, gene_proportions=None, copies=None, undetected=None
    )
    np.testing.assert_array_equal(two.spec.copies, one.spec.copies)
    for field in ("gene_names", "gene_proportions", "undetected"):
        assert np.array_equal(getattr(one.spec, field), getattr(two.spec, field))
    assert one.history == two.history
    assert (one.best_epoch, one.stopped, one.notes) == (two.best_epoch, two.stopped, two.notes)
    assert one.verdict == two.verdict
    assert one.verdict.line() == two.verdict.line()
    assert one.spec.graph[2:] == two.spec.graph[2:]
    assert loaded.fitted.network.training is False


def test_a_users_graph_comes_back(toy, tmp_path):
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((60, 60)) * (rng.random((60, 60)) < 0.2), 1)
    names = np.asarray(toy.var_names, dtype=np.str_)
    graph = GeneGraph(
        sparse.csr_matrix((upper + upper.T).astype(np.float32)), names, "mine", {"file": "net.tsv"}
    )
    model = GraphSCI(max_epochs=3).fit(toy, gene_graph=graph)
    model.save(tmp_path / "model")
    loaded = GraphSCI.load(tmp_path / "model")
    same_bits(model, loaded, toy)
    assert loaded.gene_graph.source == "mine"
    assert loaded.gene_graph.parameters == {"file": "net.tsv"}
    assert loaded.fitted.spec.graph_given
    assert loaded.gene_graph.edge_table().equals(model.gene_graph.edge_table())


def test_a_float64_graph_comes_back(toy, tmp_path):
    rng = np.random.default_rng(0)
    upper = np.triu(rng.random((60, 60)) * (rng.random((60, 60)) < 0.2), 1)
    names = np.asarray(toy.var_names, dtype=np.str_)
    graph = GeneGraph(sparse.csr_matrix(upper + upper.T), names, "mine", {})
    model = GraphSCI(max_epochs=3, preset="default").fit(toy, gene_graph=graph)
    model.save(tmp_path / "model")
    same_bits(model, GraphSCI.load(tmp_path / "model"), toy)


def test_without_check_and_validation(toy, tmp_path):
    """A missing validation loss is nan in memory and null in JSON."""
    model = GraphSCI(max_epochs=2, check=False, validation_fraction=0.0).fit(toy)
    model.save(tmp_path / "model")
    loaded = GraphSCI.load(tmp_path / "model")
    assert loaded.verdict is None
    assert loaded.history["validation_loss"].isna().all()
    assert json.loads((tmp_path / "model/model.json").read_text())["verdict"] is None
    same_bits(model, loaded, toy)


def test_the_file_says_what_made_it(trained, tmp_path):
    record = json.loads((saved(trained, tmp_path) / model_io.RECORD).read_text())
    assert record["schema_version"] == model_io.SCHEMA_VERSION
    assert {"graphsci", "torch", "numpy", "python"} <= set(record["versions"])
    assert record["config"] == trained("nb").config.to_dict()
    spec = trained("nb").fitted.spec
    assert record["common_depth"] == spec.common_depth
    assert record["median_library"] == spec.median_library


def test_there_is_no_pickle(trained, tmp_path):
    """The folder holds a JSON and a safetensors file: a length, a JSON header, raw numbers."""
    folder = saved(trained, tmp_path)
    assert sorted(os.listdir(folder)) == ["model.json", "model.safetensors"]
    raw = (folder / model_io.WEIGHTS).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    assert {"network.loadings", "graph.indptr"} <= set(header)
    assert len(raw) > 8 + length
    assert raw[:1] != pickle.PROTO


def test_a_model_can_be_saved_again_and_nothing_is_left_behind(trained, tmp_path):
    folder = saved(trained, tmp_path)
    first = (folder / model_io.WEIGHTS).read_bytes()
    with pytest.raises(FileExistsError, match="model exists"):
        trained("paper").save(folder)
    trained("paper").save(folder, overwrite=True)
    assert (folder / model_io.WEIGHTS).read_bytes() != first
    assert GraphSCI.load(folder).config.preset == "paper"
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("fails", ["save_file", "write_json"])
def test_nothing_is_half_written(trained, tmp_path, monkeypatch, fails):
    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(model_io, fails, broken)
    with pytest.raises(OSError, match="disk full"):
        trained("nb").save(tmp_path / "model")
    assert os.listdir(tmp_path) == []


def test_a_folder_with_other_things_is_not_replaced(trained, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").write_text("words")
    with pytest.raises(OSError, match="thesis is a folder"):
        trained("nb").save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis/chapter1.txt").read_text() == "words"


def test_an_empty_folder_is_filled(trained, tmp_path):
    (tmp_path / "model").mkdir()
    trained("nb").save(tmp_path / "model")
    assert GraphSCI.load(tmp_path / "model").verdict is not None


def test_notes_beside_a_model_are_not_lost(trained, tmp_path):
    folder = saved(trained, tmp_path)
    (folder / "notes.txt").write_text("words")
    with pytest.raises(OSError, match="model is a folder with more than a zarr store or a model"):
        trained("nb").save(folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "words"


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [model_io.RECORD, model_io.WEIGHTS])
def test_missing_files(trained, tmp_path, missing):
    folder = saved(trained, tmp_path)
    (folder / missing).unlink()
    message = rf"is no graphsci model: {missing} is missing\. Give the folder"
    with pytest.raises(FileNotFoundError, match=message):
        GraphSCI.load(folder)


def test_no_model_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no graphsci model"):
        GraphSCI.load(tmp_path / "nowhere")


def test_a_newer_schema_is_refused(trained, tmp_path):
    folder = saved(trained, tmp_path)
    newer = model_io.SCHEMA_VERSION + 1
    edit(folder, lambda record: {**record, "schema_version": newer})
    with pytest.raises(ValueError, match=rf"schema version {newer}, this graphsci reads up to"):
        GraphSCI.load(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "{}", "null"])
def test_a_damaged_record_is_refused(trained, tmp_path, text):
    folder = saved(trained, tmp_path)
    (folder / model_io.RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"model\.json is damaged"):
        GraphSCI.load(folder)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000])
def test_cut_off_weights_are_refused(trained, tmp_path, keep):
    path = saved(trained, tmp_path) / model_io.WEIGHTS
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        GraphSCI.load(path.parent)


CHANGES = {
    "a key is missing": lambda r: {k: v for k, v in r.items() if k != "graph"},
    "an unknown option": lambda r: {**r, "config": {**r["config"], "speed": 11}},
    "a size that does not fit": lambda r: {**r, "config": {**r["config"], "n_latent": 3}},
    "a gene too few": lambda r: {**r, "gene_names": r["gene_names"][:-1]},
    "a version in words": lambda r: {**r, "schema_version": "one"},
    "no common depth": lambda r: {k: v for k, v in r.items() if k != "common_depth"},
    "no epochs": lambda r: {**r, "history": None},
    "an epoch in words": lambda r: {**r, "history": ["one"]},
    "an impossible option": lambda r: {**r, "config": {**r["config"], "n_latent": 0}},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_record_that_does_not_fit_is_refused(trained, tmp_path, change):
    folder = saved(trained, tmp_path)
    edit(folder, change)
    with pytest.raises(ValueError, match=r"model(\.json)? is damaged: "):
        GraphSCI.load(folder)


def test_files_of_two_models_are_refused(trained, tmp_path):
    folder = saved(trained, tmp_path)
    trained("paper").save(tmp_path / "other")
    os.replace(tmp_path / "other" / model_io.WEIGHTS, folder / model_io.WEIGHTS)
    message = (
        "(?s)model is damaged: its two files do not describe one model .*Copy the folder again"
    )
    with pytest.raises(ValueError, match=message):
        GraphSCI.load(folder)


def test_loading_to_a_device_that_is_not_there(trained, tmp_path):
    folder = saved(trained, tmp_path)
    with pytest.raises(ValueError, match="device: got 'cuda:99'"):
        GraphSCI.load(folder, device="cuda:99")
    assert next(GraphSCI.load(folder, device="cpu").fitted.network.parameters()).device == (
        torch.device("cpu")
    )


def test_an_untrained_model_cannot_be_saved(tmp_path):
    with pytest.raises(RuntimeError, match=r"not trained: call fit\(adata\) or load\(path\)"):
        GraphSCI().save(tmp_path / "model")
    assert os.listdir(tmp_path) == []
