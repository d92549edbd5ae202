"""What a run that made estimates says at its end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphsci._terminal import plain_console, table_of_facts
from graphsci._words import copies_in_words, epochs_in_words
from graphsci.io.files import json_text

if TYPE_CHECKING:
    from graphsci._jobs.impute import Outcome


def tell(
    outcome: Outcome,
    *,
    said: set[str],
    json_to_stdout: bool = False,
    quiet: bool = False,
) -> None:
    """Print notes that were not said before, a table and the verdict; JSON for machines."""
    trained_here = outcome.summary["trained_here"]
    if json_to_stdout:
        sys.stdout.write(json_text(outcome.summary))
    console = plain_console(stderr=json_to_stdout, quiet=quiet)
    verdict, record = outcome.summary["verdict"], outcome.summary["record"]
    if record["training"]["stopped"] == "interrupted":
        training = record["training"]
        console.print(
            f"Training was interrupted after {training['epochs']} epochs; the weights of epoch "
            f"{training['best_epoch']} were used.",
            style="bold yellow",
            soft_wrap=True,
        )
        if outcome.checkpoint is not None:
            console.print(
                f"The last checkpoint of training is {outcome.checkpoint}: the same command with "
                "--overwrite goes on from there; remove it if this was enough.",
                soft_wrap=True,
            )
    of_training = () if trained_here else outcome.model.fitted.notes  # they were said there
    for note in outcome.summary["notes"]:
        if note not in said and note not in of_training:
            console.print(f"note: {note}", soft_wrap=True)
    console.print(table_of_facts(_facts(outcome.summary, matched=not trained_here).items()))
    line = verdict.get("line", "No verdict: these estimates were not checked.")
    if not trained_here:
        line = f"Checked on the model's training data: {line}"
    style = "bold green" if verdict.get("passed") else "bold yellow"
    console.print(line, style=style, soft_wrap=True)


def _facts(summary: Mapping[str, Any], *, matched: bool) -> dict[str, str]:
    """What was done; ``matched`` names the genes' match, which says nothing of training data."""
    data, record = summary["data"], summary["record"]
    facts = {
        "input": str(summary["input"]),
        "counts": f"{data['cells']:,} cells x {data['genes']:,} genes, {data['zeros']:.1%} zeros, "
        f"median depth {data['depth']['median']:,.0f}",
    }
    if matched:
        facts["genes"] = summary["gene_match"]
    facts["model"] = (
        f"{record['config']['preset']}, {record['likelihood']}, "
        f"{epochs_in_words(record['training'])}, seed {record['seed']}"
    )
    if record["copies"] != 1:
        facts["copies"] = copies_in_words(record)
    if len(record["batches"]):
        facts["batches"] = ", ".join(record["batches"])
    facts |= {slot: summary["units"][name] for name, slot in summary["slots"].items()}
    outputs = summary["outputs"].items()
    facts |= {("saved model" if name == "model" else name): path for name, path in outputs}
    memory, seconds = summary["peak_memory_mib"], summary["seconds"]["total"]
    facts["took"] = f"{seconds:.1f} s" + ("" if memory is None else f", {memory:,.0f} MiB at most")
    return facts
