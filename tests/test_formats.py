"""One model applied to every format, in memory and on disk: the same numbers, and nothing said."""

from itertools import product

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from typer.testing import CliRunner

from graphsci import cli

STORES = ("h5ad", "zarr2", "zarr3")


@pytest.fixture(scope="module")
def work(tmp_path_factory, draw, trained):
    """A model, and its counts in every format: float16, repeated names, tables beside them."""
    folder = tmp_path_factory.mktemp("formats")
    trained("nb").save(folder / "model")
    toy = draw()
    toy.X = toy.X.astype(np.float16)
    del toy.layers["rate"]
    for slot, names in (("obsm", toy.obs_names), ("varm", toy.var_names)):
        getattr(toy, slot)["table"] = pd.DataFrame({"number": range(len(names))}, index=names)
    toy.obs_names = ["cell0", *toy.obs_names[:-1]]
    toy.var_names = [*toy.var_names[:-1], "gene0"]
    toy.write_h5ad(folder / "h5ad.h5ad")
    for version in (2, 3):
        group = zarr.open_group(folder / f"zarr{version}.zarr", mode="w", zarr_format=version)
        with anndata.settings.override(auto_shard_zarr_v3=False):
            anndata.io.write_elem(group, "/", toy)
    return folder


def apply(folder, store, output, *options):
    source = folder / f"{store}.{store[:4]}"
    words = ["apply", folder / "model", source, "-o", output, "--make-names-unique", *options]
    result = CliRunner().invoke(cli.app, [str(word) for word in words])
    assert result.exit_code == 0, (result.stderr, result.exception)
    read = anndata.read_zarr if output.suffix == ".zarr" else anndata.read_h5ad
    return read(output), result


@pytest.mark.parametrize(
    ("store", "ending", "place"),
    [*product(STORES, (".h5ad", ".zarr"), ("--backed", "--no-backed"))],
)
def test_every_format_gives_the_same_numbers(work, tmp_path, store, ending, place, draw, trained):
    found, result = apply(work, store, tmp_path / f"out{ending}", place, "--dtype", "float16")
    assert result.stderr.splitlines()[1:] == [f"writing {tmp_path / f'out{ending}'}"]
    toy = draw()
    toy.var_names = [*toy.var_names[:-1], "gene0-1"]
    with pytest.warns(UserWarning, match="not in the model's training data"):
        trained("nb").impute(toy)
    expected = toy.layers["denoised"]
    np.testing.assert_allclose(found.layers["denoised"], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(found.X, toy.X)
    assert list(found.obs_names[:2]) == ["cell0", "cell0-1"]
    assert found.obsm["table"].index.equals(found.obs_names)
    assert found.varm["table"].index.equals(found.var_names)


@pytest.mark.parametrize("n_cells", [1, 2, 3])
def test_a_report_of_few_cells(work, tmp_path, n_cells):
    cells = ",".join(f"cell{i}" for i in range(1, n_cells + 1))
    report = tmp_path / "report.html"
    apply(work, "h5ad", tmp_path / "out.h5ad", "--cells", cells, "--report", report)
    said = report.read_text(encoding="utf-8")
    assert "Cells before and after" not in said  # a map needs four
    assert "Uncertainty" in said
