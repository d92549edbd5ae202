"""What ``graphsci evaluate`` says and writes: tables, sentences, JSON, pictures."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from rich.cells import cell_len
from rich.table import Table

from graphsci._jobs.evaluate import Outcome
from graphsci._jobs.evaluate_ours import OUR_MEAN, OURS
from graphsci._jobs.evaluate_request import Job
from graphsci._terminal import plain_console
from graphsci.evaluation import study
from graphsci.io.files import (
    atomic_path,
    check_folder,
    check_writable,
    json_text,
    write_json,
    write_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What each design hides, for people.
_DESIGNS = {
    "molecules": "{fraction:.0%} of the molecules were held out",
    "entries": "{fraction:.0%} of the non-zero entries were set to zero; only they are judged, so "
    "over-estimation is rewarded",
    "cells": "a fifth of the cells were not learnt from; of these, {fraction:.0%} of the "
    "molecules were held out",
    "depth": "cells were thinned to a median of {depth:,.0f} molecules; the others are judged",
}
#: Characters of a line where nobody says how many there are: in a file, or a pipe.
_WIDTH = 120
#: Characters of a line that no table reaches: rather a long line than a cut number, where one
#: column alone is too wide.
_UNCUT = 10_000
#: Spaces between two columns.
_GAP = 2
#: A score drawn below this is cut off there, and its number is written instead.
_LEAST_D2 = -0.3


@dataclass(frozen=True)
class Outputs:
    """Where results go besides the screen."""

    csv: Path | None = None
    json: Path | None = None
    print_json: bool = False
    overwrite: bool = False
    quiet: bool = False

    def check(self, folder: Path | None) -> None:
        """Refuse files, and a ``folder``, that cannot be written, before long work."""
        if folder is not None:
            check_folder(folder)
        for path, suffix in ((self.csv, ".csv"), (self.json, ".json")):
            if path is not None:
                check_writable(path, suffixes=(suffix,), overwrite=self.overwrite)


def deliver(outcomes: Mapping[str, Outcome], job: Job, found: Any, outputs: Outputs) -> None:
    """Write and print a finished study.

    Parameters
    ----------
    outcomes
        By design.
    job
        What was asked for.
    found
        From :func:`summary`.
    outputs
        Where to write.
    """
    rows = table(outcomes)
    if outputs.csv is not None:
        write_text(outputs.csv, rows.to_csv(index=False))
    if outputs.json is not None:
        write_json(outputs.json, found)
    if job.output is not None:
        _fill(job, job.output, outcomes, rows, found)
    if outputs.print_json:
        sys.stdout.write(json_text(found))
    tell(outcomes, job, to_stderr=outputs.print_json, quiet=outputs.quiet)


def _fill(
    job: Job,
    folder: Path,
    outcomes: Mapping[str, Outcome],
    rows: pd.DataFrame,
    found: dict[str, Any],
) -> None:
    """Bring a study's folder up to date; what it says of other designs of this study stays.

    That of another input, or of other settings, would not belong with the new numbers: its tables
    and pictures go, its runs stay in ``runs``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores, said = folder / "scores.csv", folder / "summary.json"
    plain = json.loads(json_text(found))  # as a file would give it back
    earlier = json.loads(said.read_text("utf-8")) if said.exists() and scores.exists() else None
    drawn: dict[str, Any] = {}  # what pictures are of that may stay
    if earlier is not None:
        others = {n: kept for n, kept in earlier["designs"].items() if n not in outcomes}
        if _settings(earlier) == _settings(plain):
            drawn = earlier["designs"]
            before = pd.read_csv(scores, float_precision="round_trip")
            rows = pd.concat([before[before["design"].isin(others)], rows])
            plain["designs"] |= others
        else:
            for design in others:
                (folder / f"{design}.png").unlink(missing_ok=True)
    rows = rows.sort_values("design", kind="stable")
    plain["designs"] = dict(sorted(plain["designs"].items()))
    _update(scores, rows.to_csv(index=False))
    _update(said, json_text(plain))
    for design, outcome in outcomes.items():
        path = folder / f"{design}.png"
        if drawn.get(design) != plain["designs"][design] or not path.exists():
            with atomic_path(path) as temporary:
                title = f"{job.source.name}, {design}: {_hidden(design, job, outcome)}"
                figure = draw(outcome, level=job.level, title=title)
                figure.savefig(temporary, format="png", dpi=150)


def _update(path: Path, text: str) -> None:
    """Write a file unless it says the same already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)


def _settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary is of, without its results."""
    return {name: value for name, value in found.items() if name != "designs"}


def table(outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Return one row per design, run and score, with its sd over clusterings if it has one."""
    rows = [
        {"design": design, **row}
        for design, outcome in outcomes.items()
        for row in study.tidy(outcome.runs)
    ]
    return pd.DataFrame(rows)


def summary(
    job: Job, outcomes: Mapping[str, Outcome], *, config: Any, versions: Any
) -> dict[str, Any]:
    """Return everything as plain values, for JSON."""
    designs = {design: _summary(outcome) for design, outcome in outcomes.items()}
    asked = {"fraction": job.fraction, "seeds": job.seeds, "level": job.level}
    return {
        "input": str(job.source),
        "data": next(iter(outcomes.values())).data,
        **asked,
        "designs": designs,
        "config": config,
        "versions": versions,
    }


def _summary(outcome: Outcome) -> dict[str, Any]:
    methods = {}
    for found in outcome.summaries:
        against = {name: gap._asdict() for name, gap in found.against.items()}
        names = [name for name in found.scores if not name.endswith(study.SD)]
        methods[found.method] = {
            "scores": {name: found.scores[name] for name in names},
            "sd_over_seeds": {name: found.spread[name] for name in names},
            "sd_over_clusterings": {
                name: found.scores[name + study.SD]
                for name in names
                if name + study.SD in found.scores
            },
            "n_seeds": found.n_seeds,
            "deviance_difference": against,
        }
    return {
        "depth": outcome.depth,
        "methods": methods,
        "sentence": outcome.sentence,
        "judged": outcome.ours,
        "losses": list(study.losses(outcome.summaries, outcome.ours)),
        "notes": list(outcome.notes),
    }


# --- on the screen ----------------------------------------------------------------------


def tell(outcomes: Mapping[str, Outcome], job: Job, *, to_stderr: bool, quiet: bool) -> None:
    """Print for each design what was measured, the table, where we lose, and the sentence.

    Columns are explained once, after the first table.
    """
    console = plain_console(stderr=to_stderr, quiet=quiet)
    width = console.width if console.is_terminal else _WIDTH
    console.width = _UNCUT
    legend = _legend([s for outcome in outcomes.values() for s in outcome.summaries], job)
    for design, outcome in outcomes.items():
        hidden = _hidden(design, job, outcome)
        console.print(f"\n{design}: {hidden}.", style="bold", soft_wrap=True)
        for number, found_table in enumerate(tables(outcome.summaries, width=width)):
            if number:
                console.print()
            console.print(found_table)
        if legend:
            console.print(legend, style="dim", soft_wrap=True)
            legend = ""
        for note in outcome.notes:
            console.print(f"note: {note}", soft_wrap=True)
        if outcome.ours in [found.method for found in outcome.summaries]:
            behind = study.losses(outcome.summaries, outcome.ours)
            lost = ", ".join(behind) if behind else "in no score of this table"
            console.print(f"Where {outcome.ours} loses: {lost}.", soft_wrap=True)
        console.print(outcome.sentence, style="bold", soft_wrap=True)
    if job.output is None:
        return
    n_runs = sum(len(outcome.runs) for outcome in outcomes.values())
    if not any(outcome.n_new for outcome in outcomes.values()):
        said = (
            f"Nothing to do: all {n_runs} runs were in {job.output} already, and nothing changed."
        )
    else:
        said = f"written: {job.output} (scores.csv, summary.json, a picture for each design)"
    console.print(said, soft_wrap=True)


def _hidden(design: str, job: Job, outcome: Outcome) -> str:
    """Say what a design hid."""
    said = _DESIGNS.get(design, "the molecules in layer {held_out!r} were held out before")
    return said.format(fraction=job.fraction, depth=outcome.depth, held_out=job.held_out)


def tables(summaries: Sequence[study.Summary], *, width: int) -> list[Table]:
    """Return all scores of all methods, in as many tables side by side as fit the width."""
    methods = ["method", *(found.method for found in summaries)]
    parts: list[list[list[str]]] = [[methods]]
    for column in _columns(summaries):
        if len(parts[-1]) > 1 and _width([*parts[-1], column]) > width:
            parts.append([methods])
        parts[-1].append(column)
    return [_drawn(part) for part in parts]


def _columns(summaries: Sequence[study.Summary]) -> Iterator[list[str]]:
    """Yield each score as a column: its label, then a cell for each method."""
    for name, score in _present(summaries).items():
        yield [score.label, *(_cell(found, name, score.format) for found in summaries)]
    best = study.without_ceiling(summaries)[0]
    gaps = [found.against.get(best.method) for found in summaries]
    yield [
        "above the best",
        *(f"{g.difference:.2g} ± {g.standard_error:.1g}" if g is not None else "-" for g in gaps),
    ]


def _cell(found: study.Summary, name: str, form: str) -> str:
    """Return a method's score as a cell, with its sd over clusterings if it has one."""
    if name not in found.scores:
        return "-"
    said = format(found.scores[name], form)
    sd = found.scores.get(name + study.SD)
    return said if sd is None else f"{said} ± {sd:.2f}"


def _width(columns: Sequence[Sequence[str]]) -> int:
    """Return how wide a table is: its columns and the gaps between them."""
    return sum(max(map(cell_len, column)) for column in columns) + _GAP * (len(columns) - 1)


def _drawn(columns: Sequence[Sequence[str]]) -> Table:
    found_table = Table(box=None, pad_edge=False, padding=(0, _GAP // 2))
    for number, (label, *_) in enumerate(columns):
        found_table.add_column(label, justify="right" if number else "left", no_wrap=True)
    for row in zip(*(cells[1:] for cells in columns), strict=True):
        found_table.add_row(*row)
    return found_table


def _present(summaries: Sequence[study.Summary]) -> dict[str, study.Score]:
    """Return the scores that some method has, in the order of tables."""
    names = {name for found in summaries for name in found.scores}
    return {name: score for name, score in study.SCORES.items() if name in names}


def _legend(summaries: Sequence[study.Summary], job: Job) -> str:
    """Explain the columns that are there."""
    n_seeds = summaries[0].n_seeds
    words = [
        f"{score.label}: {score.meaning.format(level=job.level)}"
        for score in _present(summaries).values()
    ]
    if any(name.endswith(study.SD) for found in summaries for name in found.scores):
        words.append(f"± of clusters: standard deviation over {job.clustering_seeds} clusterings")
    methods = [found.method for found in summaries]
    if OUR_MEAN in methods:
        words.append(f"{OUR_MEAN}: the same model, the kept count not used again")
    if study.CEILING in methods:
        words.append(f"{study.CEILING}: what is judged itself, out of reach for its noise")
    words.append("above the best: deviance, ± standard error over cells, paired")
    words.append(f"{n_seeds} seed{'s' if n_seeds > 1 else ''}")
    return "; ".join(words) + "."


# --- pictures ---------------------------------------------------------------------------


def draw(outcome: Outcome, *, level: float, title: str) -> Figure:
    """Draw each score of each method, a panel a score; bars are sd over seeds.

    Parameters
    ----------
    outcome
        A finished study of one design.
    level
        Nominal coverage, drawn as a line.
    title
        What was judged.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from graphsci import pl
    from graphsci.pl._style import STYLE

    summaries = study.without_ceiling(outcome.summaries)
    shown = {name: score for name, score in _present(summaries).items() if name != "deviance"}
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]
        figure = Figure(figsize=(1.9 + 1.7 * len(shown), 3.1), layout="constrained")
        figure.suptitle(textwrap.fill(title, 20 * len(shown) + 20), fontsize=9)
        axes = np.atleast_1d(figure.subplots(1, len(shown), sharey=True))
        for ax, (name, score) in zip(axes, shown.items(), strict=True):
            _panel(ax, summaries, name, score.format)
            ax.set_title(score.label)
            if score.better is not None:
                ax.set_xlabel(f"{score.better} is better", fontsize=7)
            if name == "coverage":
                ax.axvline(level, color=pl.GREY, linewidth=1, linestyle="--", zorder=0)
                ax.set_xlabel(f"right at {level:g}", fontsize=7)
        axes[0].set_ylim(len(summaries) - 0.5, -0.5)  # the best on top
    return figure


def _panel(ax: Axes, summaries: Sequence[study.Summary], name: str, form: str) -> None:
    """Draw one score, a row a method; what is off the scale is written."""
    from graphsci import pl

    for row, found in enumerate(summaries):
        if name not in found.scores:
            continue
        value, color = found.scores[name], pl.BLUE if found.method.startswith(OURS) else pl.INK
        if name.endswith(("d2", "d2_rare")) and value < _LEAST_D2:
            edge = ax.get_yaxis_transform()
            ax.text(0.02, row, f"← {value:.2g}", transform=edge, va="center", fontsize=8)
            continue
        ax.errorbar(value, row, xerr=found.spread[name], fmt="o", color=color, markersize=5)
        label = format(value, form)
        ax.annotate(
            label, (value, row), (0, 6), textcoords="offset points", ha="center", fontsize=7
        )
    ax.set_yticks(range(len(summaries)), [found.method for found in summaries])
    ax.margins(x=0.25)
    ax.grid(axis="y", color="#EEEEEE")
    ax.set_axisbelow(True)
    ax.tick_params(axis="x", labelsize=7)
