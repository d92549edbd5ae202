"""The hyper-parameters as flags.

They are made from the dataclass :class:`graphsci.config.Config`, so that the default, bounds and
help of each have one home.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from graphsci._cli.command import Flags, flag
from graphsci.config import (
    Config,
    default_in_words,
    option_names,
    preset,
    read_config,
    refuse_unused,
)

_FILE = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Hyper-parameters, one 'name = value' a line; flags win over it.",
    ),
]


def _hyper_parameter(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    """Turn a hyper-parameter into a flag that is None unless given."""
    name = field.name.replace("_", "-")
    low, high = field.metadata["low"], field.metadata["high"]
    bounds = {"min": low, "max": high} if kind in (int, float) else {}
    shown = (
        ("" if field.default else "no-") + name if kind is bool else default_in_words(field.name)
    )
    option = typer.Option(
        f"--{name}/--no-{name}" if kind is bool else f"--{name}",
        help=field.metadata["help"],
        show_default=shown,
        **bounds,
    )
    return flag(field.name, Annotated[kind | None, option])


def _flags() -> list[inspect.Parameter]:
    hints = get_type_hints(Config)
    own = [_hyper_parameter(field, hints[field.name]) for field in dataclasses.fields(Config)]
    return [flag("config", _FILE), *own]


def build_config(options: Mapping[str, Any], file: Path | None) -> Config:
    """Merge hyper-parameters: a flag wins over the file, the file over the preset."""
    from_file = {} if file is None else read_config(file)
    given = {name: options[name] for name in option_names() if options.get(name) is not None}
    values = from_file | given
    config = preset(values.pop("preset", "default"), **values)
    refuse_unused(config, values)
    return config


#: The hyper-parameters of a command that trains: a flag for each, and one for a file of them.
HyperParameters = Annotated[
    Config, Flags(_flags(), lambda config, **options: build_config(options, config))
]
