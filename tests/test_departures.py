"""Sums of estimates over groups beside those of counts."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from graphsci import tl


@pytest.fixture
def adata():
    """Three groups of 30 cells, one cell without; a gene is estimated wrongly in one of them."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(2.0, (91, 5)).astype(np.float32)
    groups = np.array([*np.repeat(["a", "b", "c"], 30), None], dtype=object)
    estimate = counts.copy()
    estimate[30:60, 2] *= 3  # of gene 2 in b
    obs = pd.DataFrame({"group": pd.Categorical(groups)}, index=[f"c{i}" for i in range(91)])
    return AnnData(sparse.csr_matrix(counts), obs=obs, layers={"denoised": estimate})


def test_the_largest_departure_comes_first(adata):
    found = tl.group_departures(adata, "group")
    assert len(found) == 15
    first = found.iloc[0]
    measured = adata.X[30:60, 2].sum()
    assert (first.group, first.gene, first.cells) == ("b", "2", 30)
    assert (first.measured, first.estimated, first.ratio) == (measured, 3 * measured, 3)
    assert first.z == pytest.approx(2 * measured / np.sqrt(3 * measured))
    assert (found.z[1:] == 0).all()


def test_every_sum_is_that_of_pandas(adata):
    rng = np.random.default_rng(1)
    adata.layers["denoised"] = adata.layers["denoised"] * rng.lognormal(0, 0.3, adata.shape)
    found = tl.group_departures(adata, "group").set_index(["group", "gene"])
    groups = adata.obs["group"].astype(object)
    for values, column in (
        (adata.X.toarray(), "measured"),
        (adata.layers["denoised"], "estimated"),
    ):
        table = pd.DataFrame(values, columns=adata.var_names, index=adata.obs_names)
        sums = table.groupby(groups).sum().stack()
        np.testing.assert_allclose(found[column].reindex(sums.index), sums, rtol=1e-6)


def test_genes_without_an_estimate_are_left_out(adata):
    adata.layers["denoised"][:, 4] = np.nan
    assert "4" not in set(tl.group_departures(adata, "group")["gene"])


def test_reads_depart_by_chance_as_far_as_copies_say(adata):
    before = tl.group_departures(adata, "group").z[0]
    adata.var["graphsci_copies"] = 9.0
    assert tl.group_departures(adata, "group").z[0] == pytest.approx(before / 3)


def test_another_scale_or_depth_is_refused(adata):
    adata.uns["graphsci"] = {"estimates": {"denoised": {"scale": "log1p", "depth": "own"}}}
    with pytest.raises(ValueError, match="on the scale 'log1p' at 'own' depth, expected counts"):
        tl.group_departures(adata, "group")
    with pytest.raises(ValueError, match=r"layers has no 'mean' \(it has denoised\)"):
        tl.group_departures(adata, "group", estimate="mean")
    with pytest.raises(ValueError, match="no column 'type'"):
        tl.group_departures(adata, "type")


def test_estimates_as_of_another_batch_are_refused(adata):
    said = {"scale": "counts", "depth": "own", "as_batch": "first"}
    adata.uns["graphsci"] = {"estimates": {"denoised": said}}
    with pytest.raises(ValueError, match="as of batch 'first', expected each cell's own batch"):
        tl.group_departures(adata, "group")
