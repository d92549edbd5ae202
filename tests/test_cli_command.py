"""From functions to commands: groups of flags arrive as what they say, errors as one line."""

import inspect
from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from graphsci._cli.command import Flags, command, flag
from graphsci._cli.errors import BAD_INPUT

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
