"""From a function to a command: flags made from dataclasses, errors in one line."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from graphsci._cli.errors import one_line_errors


def flag(name: str, annotation: Any, default: Any = None) -> inspect.Parameter:
    """Return a parameter that typer turns into a flag; ``annotation`` holds its option."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=annotation)


_DEBUG = flag(
    "debug", Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")], False
)


class Flags(NamedTuple):
    """Flags that together say one thing."""

    parameters: Sequence[inspect.Parameter]
    build: Callable[..., Any]  #: makes that thing of their values


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function ready for typer.

    A parameter that is annotated with :class:`Flags`, or is a dataclass whose fields are options,
    becomes all those flags: what several commands have in common is declared once. Every command
    has ``--debug``, and says its errors in one line.
    """
    groups: dict[str, Flags] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        group = _group_of(parameter.annotation)
        if group is None:
            parameters.append(parameter)
        else:
            groups[parameter.name] = group
            parameters += group.parameters
    parameters.append(_DEBUG)
    package, flags = function.__module__.partition(".")[0], {p.name for p in parameters}

    @functools.wraps(function)
    def run(*, debug: bool, **given: Any) -> None:
        with one_line_errors(debug, package=package, flags=flags):
            for name, group in groups.items():
                values = {p.name: given.pop(p.name) for p in group.parameters}
                given[name] = group.build(**values)
            function(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__  # typer shall see the signature above
    return run


def _group_of(annotation: Any) -> Flags | None:
    """Return the flags that a parameter stands for; None if it is one itself."""
    if dataclasses.is_dataclass(annotation):
        return _flags_of(annotation)
    metadata = getattr(annotation, "__metadata__", ())
    return next((said for said in metadata if isinstance(said, Flags)), None)


def _flags_of(group: Any) -> Flags:
    """Return a flag for each field of a dataclass, all with defaults, annotated by options."""
    hints, defaults = get_type_hints(group, include_extras=True), group()
    names = [field.name for field in dataclasses.fields(group)]
    return Flags([flag(name, hints[name], getattr(defaults, name)) for name in names], group)
