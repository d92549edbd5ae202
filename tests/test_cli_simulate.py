"""``graphsci simulate``: flags from the dataclass, files that equal the library's result."""

import dataclasses
import functools
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from graphsci import cli
from graphsci._cli import simulate as simulate_flags
from graphsci.simulation import PRESETS, SplatParams, simulate_splat

SMALL = ("--cells", "60", "--genes", "40", "--seed", "3")


def run(*args, exit_code=0):
    result = CliRunner().invoke(cli.app, ["simulate", *map(str, args)])
    said = " ".join((result.stdout + " " + result.stderr).split())
    assert result.exit_code == exit_code, (said, result.exception)
    return said


def test_every_parameter_of_splat_is_a_flag_with_help():
    names = [field.name for field in dataclasses.fields(SplatParams)]
    assert sorted(simulate_flags.HELP) == sorted(names)
    said = run("--help")
    for name in names:
        assert "--" + name.replace("_", "-") in said


@pytest.mark.parametrize("preset", [*PRESETS, "splat"])
def test_the_file_holds_what_the_library_simulates(tmp_path, preset):
    said = run(preset, "-o", tmp_path / "sim.h5ad", *SMALL)
    found = anndata.read_h5ad(tmp_path / "sim.h5ad")
    start = SplatParams() if preset == "splat" else PRESETS[preset]
    params = dataclasses.replace(start, batch_cells=(60,), n_genes=40)
    expected = simulate_splat(params, seed=3)
    assert (found.X != expected.X).nnz == 0
    assert (found.layers["TrueCounts"] != expected.layers["TrueCounts"]).nnz == 0
    assert list(found.obs["Group"]) == list(expected.obs["Group"])
    zeros = 1 - expected.X.nnz / (60 * 40)
    assert f"60 cells x 40 genes, {zeros:.1%} zeros" in said


def test_lists_and_numbers_are_read(tmp_path):
    options = ("--batch-cells", "30,20", "--group-prob", "0.25,0.75", "--lib-loc", "8")
    run("splat", "-o", tmp_path / "sim.h5ad", "--genes", "40", *options, "--no-true-counts", "-q")
    found = anndata.read_h5ad(tmp_path / "sim.h5ad")
    assert found.obs["Batch"].value_counts().to_dict() == {"Batch1": 30, "Batch2": 20}
    assert "TrueCounts" not in found.layers
    np.testing.assert_array_equal(found.uns["sim"]["params"]["group_prob"], [0.25, 0.75])
    assert found.uns["sim"]["params"]["lib_loc"] == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--group-prob", "0.5,x"), "group_prob: got '0.5,x', expected numbers separated"),
        (("--cells", "1.5"), "batch_cells: got '1.5', expected numbers separated by commas"),
        (("--group-prob", "0.5,0.6"), r"group_prob is (0.5, 0.6), expected numbers"),
        (("--de-prob", "2"), "de_prob is 2.0, expected a number between 0 and 1"),
    ],
)
def test_bad_parameters_are_named(tmp_path, options, message):
    said = run("sim-t2", "-o", tmp_path / "sim.h5ad", *options, exit_code=cli.BAD_INPUT)
    assert message in said
    assert not list(tmp_path.iterdir())


def test_what_was_simulated_can_be_imputed(tmp_path):
    source = tmp_path / "sim.h5ad"
    run("sim-t2", "-o", source, *SMALL)
    with h5py.File(source) as file:
        assert "raw" not in file
    options = ("--max-epochs", "2", "--threads", "1", "--no-check")
    args = ["impute", str(source), "-o", str(tmp_path / "out.h5ad"), *options]
    result = CliRunner().invoke(cli.app, args)
    assert result.exit_code == 0, result.stderr
    assert anndata.read_h5ad(tmp_path / "out.h5ad").layers["denoised"].shape == (60, 40)


def test_outputs_are_checked_before_the_work(tmp_path):
    said = run("sim-t2", "-o", tmp_path / "sim.csv", exit_code=cli.BAD_INPUT)
    assert ".h5ad" in said
    Path(tmp_path / "sim.h5ad").write_text("mine", encoding="utf-8")
    run("sim-t2", "-o", tmp_path / "sim.h5ad", *SMALL, exit_code=cli.BAD_INPUT)
    assert (tmp_path / "sim.h5ad").read_text() == "mine"
    run("sim-t2", "-o", tmp_path / "sim.h5ad", *SMALL, "--overwrite")
    assert anndata.read_h5ad(tmp_path / "sim.h5ad").shape == (60, 40)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_full_disk_is_one_line_and_no_crash(tmp_path):
    """HDF5 still holds what it could not write, and must not be let at it when Python ends."""
    import resource  # not on Windows

    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (10_000, 10_000))
    command = (sys.executable, "-m", "graphsci", "simulate", "sim-t2", "-o", "a.h5ad", *SMALL)
    done = subprocess.run(
        command, cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "no room to write a.h5ad (File too large). Free space" in done.stderr
    assert not any(tmp_path.iterdir())
