"""From a function to a command: flags made from dataclasses, errors in one line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_type_hints

import typer

from graphsci._cli_errors import one_line_errors


def flag(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """Return a parameter that typer turns into a flag; ``annotation`` holds its option."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


_DEBUG = flag(
    "debug", Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")], False
)


def command(*, more: Sequence[inspect.Parameter] = ()) -> Callable[..., Callable[..., None]]:
    """Make a function ready for typer.

    A parameter that is a dataclass becomes one flag for each of its fields, which are options
    themselves: what several commands have in common is declared once. ``**options`` becomes
    ``more`` flags. Every command has ``--debug``, and says its errors in one line.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        groups: dict[str, Any] = {}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function, eval_str=True).parameters.values():
            if dataclasses.is_dataclass(parameter.annotation):
                groups[parameter.name] = parameter.annotation
                parameters += _flags_of(parameter.annotation)
            elif parameter.kind is parameter.VAR_KEYWORD:
                parameters += more
            else:
                parameters.append(parameter)
        parameters.append(_DEBUG)

        @functools.wraps(function)
        def run(*, debug: bool, **given: Any) -> None:
            for name, group in groups.items():
                fields = [field.name for field in dataclasses.fields(group)]
                given[name] = group(**{field: given.pop(field) for field in fields})
            with one_line_errors(debug):
                function(**given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__  # typer shall see the signature above
        return run

    return decorate


def _flags_of(group: Any) -> list[inspect.Parameter]:
    """Return a flag for each field of a dataclass, all with defaults, annotated by options."""
    hints, defaults = get_type_hints(group, include_extras=True), group()
    names = [field.name for field in dataclasses.fields(group)]
    return [flag(name, hints[name], getattr(defaults, name)) for name in names]
