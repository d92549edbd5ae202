"""Two processes against one: the same losses, the same decisions, and what is left by a death."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from scipy import sparse
from torch import nn
from typer.testing import CliRunner

import distributed_worker as worker
import graphsci
from graphsci import cli, io
from graphsci._jobs import impute as work
from graphsci.training import distributed
from graphsci.training.blocks import Minibatch

#: Two processes add up floats in another order: the losses of training agree to this share ...
TRAINING = 1e-5
#: ... and those of validation to this one. A bias before a batch norm has no effect and no
#: gradient but rounding, which Adam turns into whole steps; the running mean follows late.
VALIDATION = 5e-4

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found: their records and tensors, by rank."""
    folder = tmp_path_factory.mktemp("two")
    command = (
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *(worker.__file__, str(folder)),
    )
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    return records, [load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1)]


@pytest.mark.parametrize("name", worker.FITS)
def test_two_processes_give_the_loss_curve_of_one(two, name):
    one, (first, second) = worker.summary(worker.fit(name, None)), two[0]
    assert first["fits"][name] == second["fits"][name]
    found = first["fits"][name]
    np.testing.assert_allclose(found["training"], one["training"], rtol=TRAINING)
    np.testing.assert_allclose(found["validation"], one["validation"], rtol=VALIDATION)
    for decided in ("best_epoch", "stopped", "passed"):
        assert found[decided] == one[decided]
    assert found["deviance"] == pytest.approx(one["deviance"], rel=VALIDATION)


def test_the_early_stop_was_early(two):
    assert two[0][0]["fits"]["early stop"]["stopped"] == "no improvement"


def test_batch_norm_over_two_processes_is_batch_norm_of_all(two):
    values = torch.as_tensor(np.random.default_rng(0).normal(2, 3, (7, 3))).requires_grad_()
    norm = nn.BatchNorm1d(3).double()
    for _ in range(2):
        out = norm(values)
    out.pow(3).sum().backward()
    parts = two[1]
    torch.testing.assert_close(torch.cat([part["out"] for part in parts]), out.detach())
    torch.testing.assert_close(torch.cat([part["gradient"] for part in parts]), values.grad)
    for part in parts:
        torch.testing.assert_close(part["running"], norm.running_var)


def test_what_the_first_process_does_is_told_to_all(two):
    assert [record["once"] for record in two[0]] == [0, 0]


def test_errors_reach_all_processes(two):
    for record in two[0]:
        known, small = record["refusals"]
        assert known == "only the first process knows"
        assert small.startswith("2 processes share minibatches of 3 cells, expected at least 2")


# --- without other processes ------------------------------------------------------------


class Alone:
    """Stands for Fabric in one process of several, whose others say nothing."""

    device = torch.device("cpu")

    def __init__(self, rank, size):
        self.global_rank, self.world_size = rank, size

    def all_reduce(self, value, reduce_op):
        return value


@pytest.mark.parametrize(("n", "size"), [(10, 3), (2, 2), (7, 7), (3, 5)])
def test_shares_are_a_partition(n, size):
    shares = [distributed.Team(Alone(rank, size)).share(n) for rank in range(size)]
    assert np.concatenate([np.arange(n)[share] for share in shares]).tolist() == list(range(n))
    sizes = [share.stop - share.start for share in shares]
    assert max(sizes) - min(sizes) <= 1


def test_the_weights_of_uneven_shares_add_up():
    """Three processes share 10 cells: the mean of their losses is the loss of the minibatch."""

    class Objective:
        n_cells, scored_share = 10, 1.0

    values = torch.arange(10.0) ** 2
    cells = Minibatch(np.arange(10), sparse.csr_matrix((10, 1)))
    losses = [
        distributed.SharedObjective(
            Objective(), lambda own, step: values[own.cells].mean() + 1, team
        ).step_loss(cells, 1)
        for team in (distributed.Team(Alone(rank, 3)) for rank in range(3))
    ]
    assert torch.stack(losses).mean().item() == pytest.approx(values.mean().item() + 1)


def test_one_process_joins_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.join() is None


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda:1", r"got 'cuda:1' with 64 processes on this machine, expected auto, cpu or cuda"),
        ("cuda", r"got 'cuda' with 64 processes on this machine, which has \d+ GPUs"),
    ],
)
def test_devices_that_cannot_be_shared_are_refused(monkeypatch, device, message):
    monkeypatch.setenv("WORLD_SIZE", "64")
    with pytest.raises(ValueError, match=message):
        distributed.join(device)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    with pytest.raises(ImportError, match=r"pip install 'graphsci\[distributed\]'"):
        distributed.join("cpu")
    with pytest.raises(ImportError, match=r"pip install 'graphsci\[distributed\]'"):
        distributed.launch(2, [])


def test_devices_and_torchrun_must_agree(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    args = ["impute", str(tmp_path / "a.h5ad"), "-o", str(tmp_path / "b.h5ad"), "--devices", "2"]
    result = CliRunner().invoke(cli.app, args)
    assert result.exit_code == cli.BAD_INPUT
    assert "got 2, but torchrun started 3 processes" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("number", "how", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
@pytest.mark.parametrize("kept", [True, False])
def test_a_signal_that_ends_a_job_is_no_bug(tmp_path, monkeypatch, number, how, code, kept):
    pytest.importorskip("lightning_fabric")
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def stopped(*arguments):
        logger = logging.getLogger("torch.distributed.elastic.agent.server.api")
        logger.warning("Received %s death signal", int(number))
        raise SignalException("got a signal", number)

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", lambda *_: stopped)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    output = tmp_path / "b.h5ad"
    if kept:
        output.with_name("b.h5ad.checkpoint").touch()
    args = ["impute", str(tmp_path / "a.h5ad"), "-o", str(output), "--devices", "2"]
    result = CliRunner().invoke(cli.app, args)
    said = " ".join(result.stderr.split())
    assert result.exit_code == code
    assert f"stopped by {how}; unfinished outputs were removed" in said
    assert ("the same command goes on from" if kept else "too early for a checkpoint") in said
    assert "bug" not in said
    assert "death signal" not in said


# --- several processes fill one store ---------------------------------------------------


class Pair:
    """Two processes of a job in one: the first calls the second when its own part is done."""

    device = torch.device("cpu")
    size = 2

    def __init__(self, rank, told, then=lambda: None):
        self.rank, self._told, self._then = rank, told, then

    share = distributed.Team.share

    def agreed(self, value):
        return self._told.setdefault("value", value)

    def together(self, function):
        value = function()
        self._then()
        return value

    def mean(self, value):
        """Right for the first, who asks last."""
        values = self._told.setdefault("values", [])
        values.append(value)
        return sum(values) / 2

    def leave(self):
        pass


@pytest.mark.parametrize("backed", [True, False])
def test_a_shared_store_is_that_of_one_process(toy, tmp_path, monkeypatch, backed):
    monkeypatch.setattr(
        "graphsci._imputing.estimating.CHUNK_CELLS", 50
    )  # 120 cells: chunks of 50, 50, 20
    monkeypatch.setattr("graphsci.io.layers._CHUNK", (25, 16))
    toy.X[3, 7] = toy.X[110, 7] = 100_000  # more than float16 holds, in the part of each
    toy.X = sparse.csr_matrix(toy.X)
    io.write_anndata(toy, tmp_path / "in.zarr")
    graphsci.GraphSCI(max_epochs=2, check=False).fit(toy).save(tmp_path / "model")
    job = work.Job(tmp_path / "in.zarr", tmp_path / "one.zarr", backed=backed, dtype="float16")
    work.apply(job, tmp_path / "model")
    job = dataclasses.replace(job, output=tmp_path / "two.zarr")
    told = {}
    second = Pair(1, told)
    first = Pair(0, told, lambda: work.apply(job, tmp_path / "model", team=second))
    work.apply(job, tmp_path / "model", team=first)
    one, two = (anndata.read_zarr(tmp_path / f"{name}.zarr") for name in ("one", "two"))
    for name in ("denoised", "denoised_sd"):
        np.testing.assert_array_equal(one.layers[name], two.layers[name])
    np.testing.assert_array_equal(one.obsm["X_graphsci"], two.obsm["X_graphsci"])
    assert one.obs.equals(two.obs)
    assert "graphsci_misfit" in one.obs
    assert one.uns["graphsci"]["clipped"] == two.uns["graphsci"]["clipped"] >= 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("in.zarr", "model", "one.zarr", "two.zarr")
    ]


@pytest.mark.parametrize("more", [{"genes": ("gene1",)}, {"drop_below": 0.1}, {"ending": "h5ad"}])
def test_what_one_process_must_write_is_refused(tmp_path, more):
    output = tmp_path / f"out.{more.pop('ending', 'zarr')}"
    job = work.Job(tmp_path / "in.h5ad", output, **more)
    with pytest.raises(
        ValueError, match=r"2 processes can only share the dense layers of a \.zarr"
    ):
        work.apply(job, tmp_path / "model", team=Pair(0, {}))


# --- a process dies ---------------------------------------------------------------------


def impute(folder, *more):
    return (
        *("impute", str(folder / "counts.h5ad"), "-o", str(folder / "out.zarr")),
        *("--save-model", str(folder / "model"), "--max-epochs", "60", "--no-check"),
        *("--checkpoint-minutes", "0", "--likelihood", "nb", "--batch-size", "100", *more),
    )


def child_of(parent: int, rank: int) -> int:
    """Process id of one of the processes that a launcher started."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if ppid == parent and f"RANK={rank}".encode() in environment:
            return int(entry.name)
    raise AssertionError(f"no process of rank {rank}")


def wait_for(path: Path, running: subprocess.Popen) -> None:
    for _ in range(6000):
        if path.exists():
            return
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    raise AssertionError(f"{path} was not written")


def header_of(checkpoint: Path) -> str:
    """What a checkpoint says of itself."""
    with safe_open(checkpoint, framework="pt") as file:
        return file.metadata()["graphsci"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes in /proc")
def test_a_dead_process_ends_the_job_which_goes_on_from_its_checkpoint(toy, tmp_path):
    toy.write_h5ad(tmp_path / "counts.h5ad")
    command = (sys.executable, "-m", "graphsci", *impute(tmp_path, "--devices", "2"))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    job = subprocess.Popen(command, env=ENVIRONMENT, **pipes)
    checkpoint = tmp_path / "out.zarr.checkpoint"
    wait_for(checkpoint, job)
    os.kill(child_of(job.pid, 1), signal.SIGKILL)
    _, errors = job.communicate(timeout=120)
    said = " ".join(errors.split())
    assert job.returncode == cli.OUR_BUG
    assert "process 2 of 2 was killed by signal 9" in said
    assert f"the same command goes on from {checkpoint}" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.h5ad", checkpoint.name]

    begun = json.loads(header_of(checkpoint))["n_epochs"]
    assert 1 <= begun < 60
    done = subprocess.run(command, env=ENVIRONMENT, timeout=300, **pipes)
    assert done.returncode == 0, done.stderr
    assert f"going on after epoch {begun}, from the checkpoint {checkpoint}" in done.stderr
    assert done.stdout.count("No verdict") == 1  # the first process alone speaks
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["counts.h5ad", "model", "out.zarr"]

    apply = ("apply", tmp_path / "model", tmp_path / "counts.h5ad", "-o", tmp_path / "one.zarr")
    assert CliRunner().invoke(cli.app, [str(word) for word in apply]).exit_code == 0
    two, one = (anndata.read_zarr(tmp_path / name) for name in ("out.zarr", "one.zarr"))
    for name in ("denoised", "denoised_sd"):
        np.testing.assert_allclose(two.layers[name], one.layers[name], rtol=1e-4)
    np.testing.assert_allclose(two.obsm["X_graphsci"], one.obsm["X_graphsci"], atol=1e-4)


#: What torchrun does, in short: it starts a process of a job and waits for it.
STARTS_ONE = """
import subprocess, sys

child = "from graphsci import distributed as d; d._end_with_parent(); print(1); import time"
running = subprocess.Popen([sys.executable, "-uc", child + "; time.sleep(300)"], stdout=-1)
running.stdout.readline()
print(running.pid, flush=True)
running.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a signal")
def test_the_processes_end_with_the_one_that_started_them():
    torchrun = {**os.environ, "TORCHELASTIC_RUN_ID": "job"}  # it or --devices started it
    command = (sys.executable, "-c", STARTS_ONE)
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, env=torchrun)
    assert launcher.stdout is not None
    status = Path(f"/proc/{int(launcher.stdout.readline())}/stat")
    launcher.kill()
    launcher.communicate()
    for _ in range(500):
        try:
            state = status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("the process goes on")
