"""From functions to commands: groups of flags arrive as what they say, errors as one line."""

import errno
import inspect
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from typer.testing import CliRunner

from graphsci._cli.command import Flags, command, flag
from graphsci._cli.errors import BAD_INPUT, OUR_BUG

Number = Annotated[int, typer.Option(help="A number.")]


@dataclass(frozen=True)
class Pair:
    first: Number = 1
    second: Annotated[list[str], typer.Option("--other")] = ()


Total = Annotated[int, Flags([flag("a", Number, 2), flag("b", Number, 3)], lambda a, b: a + b)]


def program(heard):
    @command
    def add(name: str, *, pair: Pair, total: Total, last: Number = 0) -> None:
        """Add up."""
        if total < 0:
            raise ValueError("a sum\nbelow zero")
        heard.append((name, pair, total, last))

    app = typer.Typer()
    app.command()(add)
    return app, add


def test_groups_become_flags_in_their_place_and_come_back_whole():
    heard = []
    app, add = program(heard)
    flags = ["name", "first", "second", "a", "b", "last", "debug"]
    assert list(inspect.signature(add).parameters) == flags
    words = ["x", "--first", "5", "--other", "u", "--other", "v", "--b", "7", "--last", "9"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert CliRunner().invoke(app, ["y"]).exit_code == 0
    (name, pair, total, last), defaults = heard
    assert (name, pair.first, list(pair.second), total, last) == ("x", 5, ["u", "v"], 9, 9)
    assert defaults[1].first == 1
    assert defaults[2:] == (5, 0)


@pytest.mark.parametrize("debug", [False, True])
def test_errors_are_one_line_of_every_command(debug):
    app, _ = program([])
    result = CliRunner().invoke(app, ["x", "--a", "-9", *(["--debug"] if debug else [])])
    assert result.exit_code == BAD_INPUT
    assert "graphsci: error: a sum below zero\n" in result.stderr
    assert ("Traceback" in result.stderr) == debug


def test_what_cannot_be_built_of_flags_is_an_error_of_the_user():
    def refuse(a):
        raise ValueError(f"a: got {a}")

    @command
    def never(*, made: Annotated[int, Flags([flag("a", Number, 2)], refuse)]) -> None:
        """Never run."""

    app = typer.Typer()
    app.command()(never)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == BAD_INPUT
    assert "graphsci: error: a: got 2\n" in result.stderr


def said_of(trouble, exit_code, **flags):
    """What the program says of trouble in a command with more flags."""

    @command
    def work(*, made: Annotated[dict, Flags([flag(n, Number, 2) for n in flags], dict)]) -> None:
        """Work."""
        trouble()

    app = typer.Typer()
    app.command()(work)
    result = CliRunner().invoke(app, [])
    assert result.exit_code == exit_code
    return " ".join(result.stderr.split())


def reraise():
    try:
        refuse_input()
    except ValueError as error:
        error.add_note("on the way")
        raise


def refuse_input():
    try:
        int("many")
    except ValueError:
        raise ValueError("n: got 'many', expected a number") from None


def in_another_thread():
    with ThreadPoolExecutor(1) as pool:
        pool.submit(refuse_input).result()


@pytest.mark.parametrize("trouble", [refuse_input, reraise, in_another_thread])
def test_what_we_raise_says_something_to_the_user(trouble):
    said = said_of(trouble, BAD_INPUT)
    assert said == "graphsci: error: n: got 'many', expected a number"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (lambda: len(3), "TypeError: object of type 'int' has no len()"),
        (lambda: int("x"), "ValueError: invalid literal"),
        (lambda: np.zeros(2) + np.zeros(3), "ValueError: operands could not be broadcast"),
        (lambda: pd.DataFrame({"a": [1]}).merge(3), "TypeError: Can only merge"),
        (lambda: json.loads("{"), "JSONDecodeError: "),
    ],
)
def test_what_others_raise_is_a_bug_of_ours(trouble, said):
    told = said_of(trouble, OUR_BUG)
    assert told.startswith(f"graphsci: error: {said}")
    assert told.endswith("This looks like a bug: report it with --debug.")


def raising(error):
    def trouble():
        raise error

    return trouble


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (lambda: np.zeros((2**25, 2**25), np.float32), "out of memory, with 4.00 PiB more asked"),
        (lambda: torch.zeros(2**55), f"out of memory, with {2**57} bytes more asked for. End "),
        (raising(MemoryError()), "out of memory. End other programs that take much."),
        (raising(OSError(errno.ENOMEM, "Cannot allocate memory")), "out of memory. End"),
        (
            raising(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU")),
            "the GPU is out of memory, with 2.00 GiB more asked for. End other programs on it",
        ),
    ],
)
def test_out_of_memory_is_no_bug(trouble, said):
    told = said_of(trouble, OUR_BUG)
    assert told.startswith(f"graphsci: error: {said}")
    assert "bug" not in told


def test_what_to_do_about_memory_is_what_the_command_can_do():
    enough = said_of(raising(MemoryError()), OUR_BUG, backed=0, estimate=0, genes=0, device=0)
    assert enough.endswith(
        "leave the counts on disk (--backed); make fewer estimates (--estimate) or of fewer genes "
        "(--genes)."
    )
    less = said_of(raising(MemoryError()), OUR_BUG, genes=0, batch_size=0)
    assert less.endswith("take much; train with fewer cells a step (--batch-size).")
    gpu = said_of(raising(torch.OutOfMemoryError("CUDA out of memory")), OUR_BUG, device=0)
    assert gpu.endswith("on it that take much; compute without it (--device cpu).")
