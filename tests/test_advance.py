"""How far long work got: what is told of it to whom, and how the terminal says it."""

import io
import itertools
import re
from types import SimpleNamespace

import anndata
import numpy as np
import pytest
from rich.console import Console
from scipy import sparse

from graphsci import GraphSCI, _terminal, advance, tl
from graphsci._terminal import Reporter
from graphsci.advance import Advance, Meter, heard_by
from graphsci.nn import cell_blocks
from graphsci.preprocessing import _values, extract_counts, open_counts
from graphsci.training import blocks
from graphsci.training.holding_out import split_counts
from graphsci.training.loop import EpochRecord

CHUNK = 25


@pytest.fixture
def small_chunks(monkeypatch):
    """Make five chunks of the 120 toy cells."""
    for module in (
        "io.sources",
        "training.blocks",
        "training.holding_out",
        "preprocessing._values",
    ):
        monkeypatch.setattr(f"graphsci.{module}.CHUNK_CELLS", CHUNK)
    monkeypatch.setattr(_values, "_VALUES_PER_BLOCK", 1_000)


def clock(monkeypatch, seconds):
    """Let so many seconds pass from one look at the clock to the next."""
    ticks = itertools.count(step=seconds)
    monkeypatch.setattr(advance, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


@pytest.fixture
def slow(monkeypatch):
    """Let everything take longer than a second, so that every step is told of."""
    clock(monkeypatch, 2.0)


def told_of(work):
    """Do work and return what was told of it."""
    heard = []
    with heard_by(heard.append):
        work()
    return heard


def shares(heard):
    return [at.done / at.of for at in heard]


# --- meters -----------------------------------------------------------------------------


def reach_all(n):
    meter = Meter("counting", n)
    for done in range(1, n + 1):
        meter.reach(done)


def test_what_is_told_ascends_and_ends_with_all(slow):
    heard = told_of(lambda: reach_all(4))
    assert shares(heard) == [0.25, 0.5, 0.75, 1.0]
    assert [at.is_over for at in heard] == [False, False, False, True]
    assert np.all(np.diff([at.seconds for at in heard]) > 0)


def test_at_most_one_report_a_second(monkeypatch):
    clock(monkeypatch, 0.125)
    heard = told_of(lambda: reach_all(1_000))
    assert 100 < len(heard) < 130
    assert heard[-1].is_over


def test_of_short_work_nothing_is_told(monkeypatch):
    clock(monkeypatch, 0.0)
    assert told_of(lambda: reach_all(100)) == []


def test_work_that_nobody_listens_to(slow):
    heard = told_of(lambda: None)
    reach_all(4)  # after the listening
    assert heard == []


# --- passes over the counts -------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "unit"), [("sparse", "values"), ("dense", "cells"), ("backed", "cells")]
)
def test_the_check_of_the_counts_tells_how_far_it_got(
    tmp_path, toy, kind, unit, small_chunks, slow
):
    toy.X = toy.X if kind == "dense" else sparse.csr_matrix(toy.X)
    if kind == "backed":
        toy.write_h5ad(tmp_path / "toy.h5ad")
        toy = anndata.read_h5ad(tmp_path / "toy.h5ad", backed="r")
    heard = told_of(lambda: open_counts(toy))
    assert {(at.what, at.unit) for at in heard} == {("checking the counts", unit)}
    assert len(heard) >= 4
    assert shares(heard) == sorted(shares(heard))
    assert shares(heard)[-1] == 1


@pytest.mark.parametrize(
    ("check", "what"), [(True, "holding out molecules"), (False, "counting molecules")]
)
def test_holding_out_tells_how_far_it_got(toy, check, what, small_chunks, slow):
    config = GraphSCI(check=check, validation_fraction=0.1 if check else 0).config
    counts = blocks.MemoryBlocks(extract_counts(toy).counts)
    heard = told_of(lambda: split_counts(counts, config))
    assert heard[-1].what == what
    assert [at.done for at in heard] == [25, 50, 75, 100, 120]


def test_a_fit_tells_of_every_stage_and_computes_the_same(toy, slow):
    options = {"max_epochs": 2, "likelihood": "nb", "graph": "none", "batch_size": 32}
    silent, heard_of = (GraphSCI(**options) for _ in range(2))
    silent.fit(toy)
    heard = told_of(lambda: heard_of.fit(toy))
    for what, group in itertools.groupby(heard, key=lambda at: at.what):
        told = shares(group)
        assert told == sorted(told), what
        assert told[-1] == 1, what
    assert {"checking the counts", "holding out molecules", "training"} <= {at.what for at in heard}
    assert silent.fitted.history[-1][:4] == heard_of.fitted.history[-1][:4]
    one, other = silent.fitted.network.state_dict(), heard_of.fitted.network.state_dict()
    assert all(one[name].equal(other[name]) for name in one)


# --- a log file -------------------------------------------------------------------------


def training(done, of, seconds):
    return Advance("training", done, of, "epochs", seconds)


def test_a_log_file_tells_within_long_epochs(capsys):
    reporter = Reporter(quiet=False)
    for seconds in range(1, 601):  # two epochs of five minutes
        reporter.advance(training(seconds / 300, 2, seconds))
        if seconds % 300 == 0:
            reporter.progress(EpochRecord(seconds // 300, 12.5, 11.25, 1e-3, seconds), 2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "epoch 1 of 2: 21% of its cells; 62 s, about 9 min left"
    assert lines[4] == "epoch 1 of 2: loss 12.50, validation 11.25; 5 min, about 5 min left"
    assert lines[-1] == "epoch 2 of 2: loss 12.50, validation 11.25; 10 min"
    assert len(lines) == 10


def test_a_log_file_tells_of_long_passes_alone(capsys):
    reporter = Reporter(quiet=False)
    for what, n_seconds in (("checking the counts", 150), ("holding out molecules", 50)):
        for second in range(1, n_seconds + 1):
            reporter.advance(Advance(what, second * 2_000, n_seconds * 2_000, "cells", second))
    assert capsys.readouterr().err.splitlines() == [
        "checking the counts: 124,000 of 300,000 cells; 62 s, about 88 s left",
        "checking the counts: 246,000 of 300,000 cells; 2 min, about 27 s left",
    ]


def test_a_run_that_goes_on_is_not_late_at_once(capsys):
    reporter = Reporter(quiet=False)
    for second in range(3_000, 3_070):
        reporter.advance(training(second / 300, 40, second))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["epoch 11 of 40: 20% of its cells; 51 min, about 2 h 29 min left"]


# --- a terminal -------------------------------------------------------------------------


@pytest.fixture
def terminal():
    """Return a function that makes a reporter to a terminal of any width."""

    def open_terminal(width=120):
        reporter = Reporter(quiet=False)
        reporter.console = Console(
            file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"}
        )
        return reporter

    return open_terminal


def bar(reporter):
    """Return what the bar says: what, done, of, words."""
    task = reporter._bar.tasks[0]
    return task.description, task.completed, task.total, task.fields["words"]


def test_the_bar_moves_within_epochs(terminal):
    reporter = terminal()
    reporter.advance(training(0.5, 4, 30.0))
    assert bar(reporter) == ("training", 0.5, 4, "0 of 4 epochs; 30 s, about 4 min left")
    reporter.progress(EpochRecord(1, 12.5, 11.25, 1e-3, 60.0), 4)
    reporter.advance(training(1.5, 4, 90.0))
    words = "1 of 4 epochs; 90 s, about 2 min left; loss 12.50; validation 11.25"
    assert bar(reporter) == ("training", 1.5, 4, words)
    reporter.close()


def test_the_bar_of_a_training_that_stops_early_is_full(terminal):
    reporter = terminal()
    reporter.progress(EpochRecord(1, 12.5, float("nan"), 1e-3, 60.0), 4)
    reporter.advance(training(1, 1, 61.0))
    assert bar(reporter) == ("training", 1, 1, "1 of 1 epochs; 61 s; loss 12.50")
    reporter.log("testing")
    assert reporter._bar is None


def test_after_ctrl_c_there_is_no_new_bar(terminal):
    reporter = terminal()
    reporter.progress(EpochRecord(1, 12.5, 11.25, 1e-3, 60.0), 4)
    reporter.close()  # as at Ctrl-C
    reporter.advance(training(1, 1, 61.0))
    assert reporter._bar is None


def test_a_pass_has_a_bar_until_it_is_over(terminal):
    reporter = terminal()
    reporter.advance(Advance("checking the counts", 2_000, 8_000, "cells", 1.0))
    words = "2,000 of 8,000 cells; 1 s, about 3 s left"
    assert bar(reporter) == ("checking the counts", 2_000, 8_000, words)
    reporter.advance(Advance("checking the counts", 8_000, 8_000, "cells", 4.0))
    assert reporter._bar is None


def test_the_bar_of_a_pass_that_failed_makes_room(terminal):
    reporter = terminal()
    reporter.advance(Advance("checking the counts", 2_000, 8_000, "cells", 1.0))
    reporter.progress(EpochRecord(1, 12.5, 11.25, 1e-3, 60.0), 4)
    assert bar(reporter)[:3] == ("training", 1, 4)
    reporter.close()


@pytest.mark.parametrize(
    ("width", "words"),
    [
        (120, "1 of 40 epochs; 12 min, about 7 h 48 min left; loss 2154.09; validation 431.50"),
        (100, "1 of 40 epochs; 12 min, about 7 h 48 min left; loss 2154.09; validation 431.50"),
        (80, "1 of 40 epochs; 12 min, about 7 h 48 min left; loss 2154.09"),
        (40, "1 of 40 epochs"),
    ],
)
def test_what_is_said_beside_the_bar_stays_on_its_line(terminal, width, words):
    reporter = terminal(width)
    reporter.progress(EpochRecord(1, 2154.09, 431.5, 1e-3, 720.0), 40)
    assert bar(reporter)[3] == words
    reporter.close()
    assert f"━ {words}" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", reporter.console.file.getvalue())


# --- in Python --------------------------------------------------------------------------

QUICK = {"max_epochs": 2, "likelihood": "nb", "graph": "none", "check": False}


def test_in_a_script_nothing_is_shown_unless_asked_for(toy, capsys):
    model = GraphSCI(**QUICK).fit(toy)
    model.impute(toy)
    assert capsys.readouterr().err == ""
    GraphSCI(**QUICK).fit(toy, progress=True)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1 of 2: loss ")
    assert last.startswith("epoch 2 of 2: loss ")


def test_a_terminal_has_a_bar_unless_refused(toy, slow, capsys, monkeypatch):
    monkeypatch.setattr(
        _terminal,
        "plain_console",
        lambda *, stderr, quiet: Console(
            stderr=stderr, quiet=quiet, force_terminal=True, width=120, _environ={"TERM": "xterm"}
        ),
    )
    monkeypatch.setattr(cell_blocks, "EVALUATION_CELLS", CHUNK)
    tl.impute(toy, **QUICK)
    said = capsys.readouterr().err
    assert "2 of 2 epochs" in said
    assert "estimating" in said
    tl.impute(toy, progress=False, key_added="quiet", prefix="quiet_", **QUICK)
    assert capsys.readouterr().err == ""
    assert np.array_equal(toy.layers["denoised"], toy.layers["quiet_denoised"])


def test_who_listens_or_is_told_of_epochs_gets_no_bar(toy, slow, capsys, monkeypatch):
    monkeypatch.setattr(Reporter, "has_bar", True)
    heard = told_of(lambda: GraphSCI(**QUICK).fit(toy))
    assert "training" in {at.what for at in heard}
    epochs = []
    tl.gene_network(
        toy, control=False, modules=False, progress=lambda *told: epochs.append(told), **QUICK
    )
    assert [(record.epoch, n) for record, n in epochs] == [(1, 2), (2, 2)]
    assert told_of(lambda: GraphSCI(**QUICK).fit(toy, progress=False)) == []
    assert capsys.readouterr().err == ""
