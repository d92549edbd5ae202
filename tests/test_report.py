"""The report: what it says is the summary, and it needs nothing but itself."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from graphsci import report
from graphsci._imputing.annotation import run_record
from graphsci._imputing.request import Request
from graphsci.verdict import OURS, Score, Verdict


def make_verdict(z: float, deviance: float = 0.9) -> Verdict:
    scores = (
        Score(OURS, deviance, 1 - deviance, 0.0, 0.1),
        Score("gene means", 1.0, 0.0, -9.0, 0.0),
        Score("neighbour pooling", 0.95, 0.05, z, 0.0),
    )
    return Verdict(scores, 100, 1000, 0.1)


def make_summary(model, verdict: dict, **changes) -> dict:
    record = run_record(model, Request.plain("denoised", "denoised_sd"))
    depth = {"lowest": 0.0, "median": 10.0, "highest": 20.0}
    summary = {
        "input": "counts.h5ad",
        "trained_here": True,
        "outputs": {"output": "out.zarr"},
        "data": {
            "cells": 1200,
            "genes": 60,
            "genes_detected": 59,
            "zeros": 0.5,
            "total": 9.0,
            "depth": depth,
        },
        "slots": {"denoised": 'layers["denoised"]', "denoised_sd": 'layers["denoised_sd"]'},
        "meanings": {name: said["meaning"] for name, said in record["estimates"].items()},
        "units": {name: said["unit"] for name, said in record["estimates"].items()},
        "key_added": "graphsci",
        "batch_cells": {},
        "gene_match": "59 of 59 genes matched by name.",
        "notes": ["a note"],
        "record": record,
        "verdict": verdict,
        "seconds": {"total": 1.5},
        "peak_memory_mib": None,
    }
    return summary | changes


@pytest.fixture
def render(trained):
    def rendered(verdict: dict, pictures=(), **changes) -> str:
        model = trained("nb")
        return report.render(make_summary(model, verdict, **changes), model.history, pictures)

    return rendered


@pytest.mark.parametrize(
    ("z", "deviance", "status", "headline"),
    [
        (-9.0, 0.9, "good", "Imputation helps here: better than every simple method."),
        (-1.0, 0.94, "doubtful", "Doubtful: no better than neighbour pooling"),
        (9.0, 0.99, "bad", "Do not use this imputation: neighbour pooling predicted"),
    ],
)
def test_the_verdict_comes_first_in_words(render, z, deviance, status, headline):
    page = render(make_verdict(z, deviance).to_dict())
    assert f'<section class="verdict {status}">' in page
    assert headline in page
    assert page.index(headline) < page.index("<table")


def test_without_a_check_it_says_so(render):
    page = render({})
    assert '<section class="verdict none">' in page
    assert "There was no check against held-out molecules" in page


def test_it_is_one_file(render):
    picture = report.Picture("name", "Title", "Caption.", Figure(figsize=(1, 1)))
    page = render(make_verdict(-9).to_dict(), [picture])
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert "@import" not in page
    assert "<script" not in page


def test_departures_of_groups_are_told(trained, toy):
    """Those of four standard errors; gene 5 of one group is made too high."""
    model = trained("nb")
    summary = make_summary(model, {})
    toy.obs["group"] = np.repeat(["first", "second"], 60)
    small = report.sketch(model, toy, label_key="group")
    gene = small.var_names[5]
    small.layers["denoised"][60:, 5] += 3
    table = report.group_departures(small, "group")
    assert (table.group[0], table.gene[0]) == ("second", gene)
    assert (table.z.abs() > 4).all()
    page = report.render(summary, model.history, [], departures=table)
    assert "Where groups and their counts disagree" in page
    assert f"<td>second</td><td>{gene}</td>" in page
    none = report.render(summary, model.history, [], departures=table[:0])
    assert "No gene of any group is 4 or more standard errors away" in none
    assert "disagree" not in report.render(summary, model.history, [])
    assert report.group_departures(small, None) is None


def test_names_are_escaped(render):
    page = render({}, input="<b>&.h5ad", notes=["<script>"])
    assert "&lt;b&gt;&amp;.h5ad" in page
    assert "<script>" not in page


def test_settings_that_differ_from_the_preset_stand_out(render):
    rows = re.findall(r'<tr class="(changed)?"><td><code>(\w+)</code>', render({}))
    changed = {name for mark, name in rows if mark}
    assert changed == {"max_epochs", "likelihood", "graph", "seed"}


def test_the_certainty_of_cells_is_named_where_there_is_one(trained):
    verdict = make_verdict(-3.0).to_dict()
    for preset, named in (("nb", True), ("paper", False)):
        model = trained(preset)
        page = report.render(make_summary(model, verdict), model.history, ())
        assert ('obs["graphsci_certainty"]' in page) == named


def test_every_estimate_has_its_scale_and_a_way_to_load_it(render):
    page = render({})
    assert page.count("counts, at each cell&#39;s own library size") >= 2
    assert "anndata.read_zarr(&#34;out.zarr&#34;)" in page


@pytest.mark.parametrize("name", ["nb", "zinb", "paper"])
def test_figures_of_every_model(draw, trained, name):
    model = trained(name)
    small = report.sketch(model, draw(), label_key="group")
    pictures = report.figures(model, small, label_key="group", genes=["gene3"])
    names = [picture.name for picture in pictures]
    assert {"embedding", "expression", "training", "uncertainty", "gene_graph"} <= set(names)
    assert ("dispersion" in names) == (name != "paper")
    assert all(picture.png().startswith(b"\x89PNG") for picture in pictures[:1])


def test_a_sketch_holds_the_same_numbers_for_fewer_cells_and_genes(draw, trained, monkeypatch):
    monkeypatch.setattr(report, "_SKETCH_CELLS", 50)
    monkeypatch.setattr(report, "_SKETCH_ENTRIES", 50 * 20)
    toy, model = draw(), trained("nb")
    before = toy.copy()
    small = report.sketch(model, toy, genes=["gene9"])
    assert small.shape == (50, 20)
    assert "gene9" in small.var_names
    whole = toy.copy()
    model.impute(whole)
    part = whole[small.obs_names, small.var_names]
    np.testing.assert_array_equal(small.X.toarray(), part.X)
    np.testing.assert_allclose(small.layers["denoised"], part.layers["denoised"], rtol=1e-5)
    np.testing.assert_allclose(small.obs["graphsci_library"], toy[small.obs_names].X.sum(1))
    factors = small.obs["graphsci_size_factor"]
    np.testing.assert_array_equal(factors, part.obs["graphsci_size_factor"])
    np.testing.assert_array_equal(toy.X, before.X)
    assert list(toy.layers) == list(before.layers)


def test_a_sketch_keeps_the_order_of_categories(draw, trained):
    toy = draw()
    order = ["2", "0", "1", "none of these"]
    toy.obs["group"] = pd.Categorical(toy.obs["group"], categories=order)
    toy.obs.iloc[:3, toy.obs.columns.get_loc("group")] = np.nan
    small = report.sketch(trained("nb"), toy, label_key="group")
    assert list(small.obs["group"].cat.categories) == ["2", "0", "1", "no label"]
    assert (small.obs["group"] == "no label").sum() == 3


def test_a_sketch_has_scanpys_colours_of_the_groups_that_are_left(trained, toy):
    groups = pd.Categorical(["b"] * 60 + ["c"] * 59 + [None], categories=["a", "b", "c"])
    toy.obs["group"] = groups
    toy.uns["group_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    small = report.sketch(trained("nb"), toy, label_key="group")
    colors = dict(zip(small.obs["group"].cat.categories, small.uns["group_colors"], strict=True))
    assert colors.pop("b") == "#00ff00"
    assert colors.pop("c") == "#0000ff"
    assert list(colors.values()) == ["grey"]
    del toy.uns["group_colors"]
    assert "group_colors" not in report.sketch(trained("nb"), toy, label_key="group").uns


def test_a_sketch_needs_its_labels(draw, trained):
    with pytest.raises(
        ValueError, match="obs has no column 'nothing'; columns present: 'group', 'batch'"
    ):
        report.sketch(trained("nb"), draw(), label_key="nothing")


def test_batches_and_layer_are_named_only_where_they_were_used(trained, render):
    plain = render({})
    assert "Batches: " not in plain
    assert "Counts: those of" not in plain
    model = trained("batches")
    summary = make_summary(model, {}, batch_cells={"b0": 1100, "b1": 100})
    summary["record"] |= {"batch_key": "batch", "counts": "layers/raw"}
    page = report.render(summary, model.history, ())
    assert "Counts: those of layers/raw." in page
    assert "Batches: those of obs/batch, b0 (1,100 cells), b1 (100 cells)." in page
    assert "Estimates are on the scale of each cell&#39;s own batch; --as-batch NAME" in page
    summary["record"]["as_batch"] = "b0"
    page = report.render(summary, model.history, ())
    assert "Estimates of all cells, in the figures too, are as of batch b0." in page
    assert "each cell&#39;s own batch; --as-batch" not in page


def test_of_many_batches_some_are_named(trained):
    model = trained("batches")
    summary = make_summary(model, {}, batch_cells={f"b{i}": 10 for i in range(30)})
    summary["record"]["batch_key"] = "batch"
    page = report.render(summary, model.history, ())
    assert "b19 (10 cells), and 10 more." in page
    assert "b20" not in page


@pytest.mark.parametrize("label_key", [None, "group", "batch"])
def test_cells_are_coloured_by_batch_as_well(trained, toy, monkeypatch, label_key):
    drawn = []
    monkeypatch.setattr(report.pl, "embedding", lambda *_, color, **__: drawn.append(color))
    model = trained("batches")
    small = report.sketch(model, toy, label_key=label_key, batch_key="batch")
    report.figures(model, small, label_key=label_key, batch_key="batch")
    assert drawn == [["batch"] if label_key == "batch" else [label_key, "batch"]]
    assert (small.obs["batch"] == toy.obs["batch"]).all()
    small = report.sketch(trained("nb"), toy, batch_key="batch")
    report.figures(trained("nb"), small, batch_key="batch")
    assert drawn[-1] == [None]  # the model knows of no batches


def test_a_sketch_is_as_of_the_batch_that_was_written(trained, toy):
    options, model = {"batch_key": "batch", "as_batch": "b1"}, trained("batches")
    small = report.sketch(model, toy, **options)
    with pytest.warns(UserWarning, match="still differ"):
        model.impute(toy, **options)
    there = toy[small.obs_names, small.var_names].layers["denoised"]
    np.testing.assert_allclose(small.layers["denoised"], there, rtol=1e-5)
    assert small.uns["graphsci"]["estimates"]["denoised"]["as_batch"] == "b1"
