"""Checkpoints: a run that was killed ends with the bits of one that was not, or is refused."""

import math
import re
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse
from typer.testing import CliRunner

import graphsci
from graphsci import cli
from graphsci._terminal import Reporter
from graphsci.nn.devices import choose_device
from graphsci.training import checkpoint as checkpoints
from graphsci.training.checkpoint import Checkpoint, digest, pack, unpack


class Killed(Exception):
    """The process dies here."""


def kill_after(epoch):
    def progress(record, n_epochs):
        if record.epoch == epoch:
            raise Killed

    return progress


def fit(adata, path=None, *, minutes=0.0, killed_after=None, log=lambda line: None, **options):
    options = {"max_epochs": 6, "likelihood": "nb", "seed": 1, **options}
    model = graphsci.GraphSCI(**options)
    progress = None if killed_after is None else kill_after(killed_after)
    checkpoint = None if path is None else Checkpoint(path, minutes=minutes)
    return model.fit(adata, progress=progress, checkpoint=checkpoint, log=log)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.checkpoint"


@pytest.fixture
def interrupted(toy, path):
    """A checkpoint after the third of six epochs."""
    with pytest.raises(Killed):
        fit(toy, path, killed_after=3)
    return path


# --- the same bits ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"likelihood": "zinb", "batch_size": 50, "graph": "pearson"},
        {"preset": "paper"},
        {"validation_fraction": 0.0, "check": False},
        {"max_epochs": 30, "patience": 2, "learning_rate": 0.2},
    ],
    ids=["default", "zinb", "paper", "no validation", "early stop"],
)
def test_a_killed_run_ends_with_the_same_bits(toy, path, options):
    whole = fit(toy, **options)
    with pytest.raises(Killed):
        fit(toy, path, killed_after=3, **options)
    said = []
    resumed = fit(toy, path, log=said.append, **options)
    assert any(re.fullmatch(f"going on after epoch 3, from the checkpoint {path}", s) for s in said)
    one, other = whole.fitted.network.state_dict(), resumed.fitted.network.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    history = [model.history.drop(columns="seconds") for model in (whole, resumed)]
    assert history[0].equals(history[1])
    assert whole.verdict == resumed.verdict
    assert whole.fitted.best_epoch == resumed.fitted.best_epoch
    assert whole.fitted.stopped == resumed.fitted.stopped


def test_killed_twice(toy, path):
    for epoch in (2, 5):
        with pytest.raises(Killed):
            fit(toy, path, killed_after=epoch)
    one, other = (model.fitted.network.state_dict() for model in (fit(toy), fit(toy, path)))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_early_stop_is_not_forgotten(toy, path):
    """The last checkpoint is of the epoch that ended the run: no further one follows."""
    options = {"max_epochs": 30, "patience": 2, "learning_rate": 0.2}
    whole = fit(toy, path, **options)
    assert whole.fitted.stopped == "no improvement"
    again = fit(toy, path, **options)
    assert again.history.equals(whole.history)
    assert again.fitted.stopped == "no improvement"


def test_seconds_go_on(interrupted, toy):
    seconds = fit(toy, interrupted).history["seconds"]
    assert seconds.is_monotonic_increasing


def test_a_checkpoint_is_written_when_it_is_time(toy, path, monkeypatch):
    now = iter(np.arange(0, 1000, 50.0))  # every epoch takes 50 seconds
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: next(now)))
    written = []
    real = Checkpoint.write
    monkeypatch.setattr(
        Checkpoint,
        "write",
        lambda self, state: (written.append(len(state.history)), real(self, state)),
    )
    fit(toy, path, minutes=1.5)
    assert written == [2, 4, 6]  # 100 s after the last, the clock also ticks at a writing
    short = path.with_name("short")
    monkeypatch.undo()
    fit(toy, short, minutes=10)
    assert not short.exists()


def test_minutes_are_not_negative(path):
    with pytest.raises(ValueError, match=r"minutes: got -1, expected 0 or more"):
        Checkpoint(path, minutes=-1)


# --- refusals ---------------------------------------------------------------------------


def test_another_setting_is_refused(interrupted, toy):
    message = r"of another run: other settings \(learning_rate was 0\.01, is 0\.02\)\. Repeat"
    with pytest.raises(ValueError, match=message):
        fit(toy, interrupted, learning_rate=0.02)


def test_where_it_ran_is_no_setting(interrupted, toy):
    same = choose_device("auto").type
    assert len(fit(toy, interrupted, device=same).history) == 6


def test_other_counts_are_refused(interrupted, toy):
    toy.X[0, 0] += 1
    with pytest.raises(ValueError, match=r"another run: other counts\."):
        fit(toy, interrupted)


def test_the_same_totals_are_other_counts(interrupted, toy):
    """A molecule moved in two cells, so that cells and genes keep their sums."""
    one, two = np.flatnonzero((toy.X[:, 0] > 0) & (toy.X[:, 1] > 0))[:2]
    toy.X[[one, two], 0] += [1, -1]
    toy.X[[one, two], 1] += [-1, 1]
    with pytest.raises(ValueError, match=r"another run: other counts\."):
        fit(toy, interrupted)


def test_other_cells_are_refused(interrupted, toy):
    toy.obs_names = [f"other{i}" for i in range(toy.n_obs)]
    with pytest.raises(ValueError, match=r"another run: other cells\."):
        fit(toy, interrupted)


def test_another_graph_is_refused(toy, path):
    """Two networks of the user's, which no setting tells apart."""
    graph = np.zeros((toy.n_vars, toy.n_vars))
    graph[0, 1] = graph[1, 0] = 1
    model = graphsci.GraphSCI(max_epochs=2, likelihood="nb")
    model.fit(toy, gene_graph=sparse.csr_matrix(graph), checkpoint=Checkpoint(path, minutes=0))
    for other in (-1, 0.5):
        weighed = sparse.csr_matrix(other * graph)
        with pytest.raises(ValueError, match="another run: other gene graph"):
            model.fit(toy, gene_graph=weighed, checkpoint=Checkpoint(path, minutes=0))
    graph[2, 3] = graph[3, 2] = 1
    with pytest.raises(ValueError, match="another run: other gene graph"):
        model.fit(toy, gene_graph=sparse.csr_matrix(graph), checkpoint=Checkpoint(path, minutes=0))


def test_another_version_is_refused(interrupted, toy, monkeypatch):
    monkeypatch.setattr("graphsci.training.fitting.__version__", "99.0")
    with pytest.raises(ValueError, match=r"other versions \(graphsci was '.*', is '99\.0'\)"):
        fit(toy, interrupted)


def test_other_random_numbers_are_refused(interrupted, toy, monkeypatch):
    monkeypatch.setattr("graphsci.training.fitting.RANDOM_NUMBERS", 99)
    with pytest.raises(ValueError, match=r"other versions \(random_numbers was \d+, is 99\)"):
        fit(toy, interrupted)


def test_another_schema_is_refused(interrupted, toy, monkeypatch):
    written = checkpoints.SCHEMA_VERSION
    monkeypatch.setattr(checkpoints, "SCHEMA_VERSION", 99)
    with pytest.raises(
        ValueError, match=f"has checkpoint schema {written}, this graphsci reads 99"
    ):
        fit(toy, interrupted)


@pytest.mark.parametrize("damage", ["cut", "text", "weights"])
def test_a_damaged_file_is_refused(interrupted, toy, damage):
    if damage == "cut":
        interrupted.write_bytes(interrupted.read_bytes()[:-100])
    elif damage == "text":
        interrupted.write_text("no checkpoint")
    else:
        with checkpoints.safe_open(interrupted, framework="pt") as file:
            metadata = file.metadata()
        tensors = load_file(interrupted)
        save_file(dict(list(tensors.items())[:2]), interrupted, metadata=metadata)
    with pytest.raises(ValueError, match=r"is no whole checkpoint \(.*Remove it to start anew"):
        fit(toy, interrupted)


def test_a_failed_writing_leaves_the_checkpoint_before(interrupted, toy, monkeypatch):
    before = interrupted.read_bytes()

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        fit(toy, interrupted)
    assert interrupted.read_bytes() == before
    assert [file.name for file in interrupted.parent.iterdir()] == [interrupted.name]


# --- the command line -------------------------------------------------------------------


def run(*args):
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args])
    return result.exit_code, " ".join((result.stdout + " " + result.stderr).split())


def command(folder):
    return (
        *("impute", folder / "counts.h5ad", "-o", folder / "out.h5ad", "--max-epochs", "4"),
        *("--threads", "1", "--checkpoint-minutes", "0", "--no-check", "--graph", "none"),
    )


def test_the_command_goes_on_and_cleans_up(toy, tmp_path, monkeypatch):
    toy.write_h5ad(tmp_path / "counts.h5ad")
    monkeypatch.setattr(Reporter, "progress", lambda self, *args: kill_after(2)(*args))
    assert run(*command(tmp_path))[0] == cli.OUR_BUG
    assert (tmp_path / "out.h5ad.checkpoint").is_file()
    monkeypatch.undo()
    code, said = run(*command(tmp_path), "--seed", "5")
    assert code == cli.BAD_INPUT
    assert "other settings (seed was 0, is 5)" in said
    code, said = run(*command(tmp_path))
    assert code == 0
    assert "going on after epoch 2, from the checkpoint" in said
    assert sorted(file.name for file in tmp_path.iterdir()) == ["counts.h5ad", "out.h5ad"]
    assert anndata.read_h5ad(tmp_path / "out.h5ad").uns["graphsci"]["training"]["epochs"] == 4


def test_the_checkpoint_outlives_a_failure_after_training(toy, tmp_path, monkeypatch):
    toy.write_h5ad(tmp_path / "counts.h5ad")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("graphsci._jobs.impute.write_estimates", fail)
    assert run(*command(tmp_path))[0] == cli.BAD_INPUT
    assert (tmp_path / "out.h5ad.checkpoint").is_file()


# --- values -----------------------------------------------------------------------------


def test_unpack_gives_back_what_was_packed():
    value = {
        "text": "a",
        3: [1, (2.5, None, True), {}],
        "not finite": [math.inf, -math.inf],
        "large": 2**127 + 1,
        "tensors": {"a": torch.arange(3), "b": torch.tensor(0.1, dtype=torch.float64)},
    }
    tensors = {}
    packed = pack(value, tensors)
    back = unpack(checkpoints.json.loads(checkpoints.json.dumps(packed)), tensors)
    assert torch.equal(back["tensors"].pop("a"), torch.arange(3))
    assert back["tensors"].pop("b").item() == 0.1
    value["tensors"] = {}
    assert back == value
    assert math.isnan(unpack(pack(math.nan, {}), {}))


def test_what_json_cannot_hold_is_refused():
    with pytest.raises(TypeError, match="a checkpoint cannot hold a set"):
        pack({"a": {1}}, {})


def test_digest_tells_names_and_arrays_apart():
    names = np.array(["a", "bc"])
    assert digest([names]) == digest([names.astype(object)]) == digest([names.astype("U9")])
    others = [np.array(["ab", "c"]), np.array(["bc", "a"]), np.zeros(2), np.zeros((2, 1))]
    assert len({digest([other]) for other in [names, *others]}) == 5
